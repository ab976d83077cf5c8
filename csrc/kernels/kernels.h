/* Kernels: what an instruction set computes. Products with packed factors, and of each cell what remains of a step once
 * its products are done, one row at a time, for some or all of its units.
 *
 * The bodies are kernels_body.h and what it includes, compiled for each dtype and instruction set.
 */
#ifndef FRNN_KERNELS_H
#define FRNN_KERNELS_H

#include "../cells/cells.h"
#include "../compiler.h"
#include "../fastrnn.h"

/* What precedes the values of a row that a narrow type's `convert` has made; in its first four bytes is its scale. */
#define FRNN_ROW_HEAD 64
/* Bytes of such a row; what lies after the values is zero. */
#define FRNN_ROW_BYTES(packing, K) (FRNN_ROW_HEAD + ((K) + 63) / 64 * 64 * (packing)->argument)
/* So many rows are converted at a time. */
#define FRNN_ROWS_CONVERTED 48

/* Units are shared in multiples of this, which is a whole number of any instruction set's vectors. */
#define FRNN_UNITS 16

/* Values of an array that share blocks of random words (dropout_body.h). */
#define FRNN_DROPOUT_GROUP 64

/* Whose random words decide about a value of a row: those of a key, for one purpose, at one step. */
typedef struct {
    uint64_t key;
    uint32_t what, row, step;
    uint32_t threshold; /* values stay whose word is at least this */
} frnn_mask_of;

/* Stochastic gradient descent. step = scale*g + weight_decay*p; with moments b = momentum*b + step, and then step is b
 * or, with `nesterov`, step + momentum*b;   p -= lr*step. */
typedef struct {
    double scale, lr, momentum, weight_decay;
    int nesterov;
} frnn_sgd;

/* m = beta1*m + (1 - beta1)*scale*g,   v = beta2*v + (1 - beta2)*(scale*g)^2,   p = keep*p - lr*m/(sqrt(v) + eps) */
typedef struct {
    double scale, lr, beta1, beta2, eps, keep;
} frnn_adam;

/* A step of an optimiser for n values of a parameter. `rule` is a frnn_sgd or frnn_adam. Where g is null the gradient
 * is zeros; moments are SGD's momentum, or null, and Adam's m and v. */
typedef void frnn_step(const void *rule, int64_t n, void *p, const void *g, void *moment, void *other_moment);

/* clang-format off */
#define FRNN_DECLARE_KERNELS(REAL, D)                                                                                  \
    /* Arguments of a cell's forward kernels. Blocks of gates lie `plane` values apart in a and bias, and H in peephole, */ \
    /* gates and early. A kernel touches the `n` units from each pointer on. Pointers do not alias, but c_prev may be c. */ \
    typedef struct {                                                                                                   \
        int64_t n, H, plane;                                                                                           \
        int replace;          /* as frnn_cell.replace */                                                               \
        const REAL *a;        /* in   pre-activations without the bias */                                              \
        const REAL *bias;     /* in   likewise */                                                                      \
        const REAL *peephole; /* in   or null */                                                                       \
        const REAL *h_prev;   /* in */                                                                                 \
        const REAL *c_prev;   /* in   null unless the cell has c */                                                    \
        REAL *h, *c;          /* out  state; h of a projected cell is what is to be projected; c null as c_prev */     \
        REAL *y;              /* out  a second copy of h, or null */                                                   \
        REAL *rh;             /* out  of reset_forward: r*h_prev */                                                    \
        REAL *early;          /* out  of reset_forward, in of forward: the gates that it computes */                   \
        REAL *gates, *cells;  /* out  tape, or null */                                                                 \
        int shows_o;          /* h is to be o alone: c is normalised before its tanh, which norm_output does */        \
        const REAL *mask;     /* in   what the candidate is multiplied by, or null */                                  \
        REAL clip;            /* 0, or activations are given nothing outside -clip..clip */                            \
        int linear;           /* as frnn_cell.linear */                                                                \
    } frnn_forward_row_##D;                                                                                            \
                                                                                                                       \
    /* Arguments of a cell's backward kernels. Blocks of gates lie H values apart in gates and peephole. */            \
    typedef struct {                                                                                                   \
        int64_t n, H;                                                                                                  \
        int replace;                                                                                                   \
        const REAL *gates;      /* in   tape; null where the cell records none */                                      \
        const REAL *peephole;   /* in   or null */                                                                     \
        const REAL *c, *c_prev; /* in   null unless the cell has c */                                                  \
        const REAL *h, *h_prev; /* in   null unless the cell's description says that it reads them */                  \
        const REAL *dy;         /* in   added to dh; or null */                                                        \
        REAL *dh;               /* in   gradient of h_t; out: what reaches h_{t-1} around the matrices, if the cell has that */ \
        REAL *dc;               /* in   gradient of c_t; out: of c_{t-1}; null unless the cell has c */                \
        const REAL *drh;        /* in   of reset_backward: gradient of r*h_prev */                                     \
        REAL *da;               /* out  gradient of the pre-activations */                                             \
        int64_t plane, vector;  /* of da: from block to block, from one vector of units to the next */                 \
        int shows_o;            /* as forwards: dh is the gradient of o, and dc is that of c as a whole */             \
        const REAL *mask;       /* in   as forwards */                                                                 \
        REAL clip;              /* as in forward_row; and then how far from that of 0 an activation can be whose argument */\
        REAL most_sigmoid, most_tanh, most_relu; /* was not clipped; else 0 */                                         \
        int linear;           /* as frnn_cell.linear */                                                                \
    } frnn_backward_row_##D;                                                                                           \
                                                                                                                       \
    /* A cell: its description and its kernels. The last two are of cells that reset before a product: reset_forward */ \
    /* makes r*h_{t-1}, and reset_backward takes the gradient of that. */                                              \
    typedef struct {                                                                                                   \
        frnn_description description;                                                                                  \
        void (*forward)(const frnn_forward_row_##D *);                                                                 \
        void (*backward)(const frnn_backward_row_##D *);                                                               \
        void (*reset_forward)(const frnn_forward_row_##D *);                                                           \
        void (*reset_backward)(const frnn_backward_row_##D *);                                                         \
    } frnn_cell_kernels_##D;                                                                                           \
                                                                                                                       \
    /* Layer normalisation: norm_body.h. Block k of pre-activations is that of gate k, from gate `joint` on block */   \
    /* k + apart. Blocks lie `plane` values apart, and H in gain and normal. */                                        \
    typedef struct {                                                                                                   \
        int64_t n, H, plane;                                                                                           \
        int gates, joint, apart;                                                                                       \
        int adds;             /* is y added to? */                                                                     \
        REAL mean, inverse;   /* of the row: one over its deviation */                                                 \
        const REAL *x;        /* in   what is normalised */                                                            \
        const REAL *gain;     /* in */                                                                                 \
        const REAL *bias;     /* in   of norm_output; or null */                                                       \
        REAL *y;              /* out  of norm_output also in: o */                                                     \
        REAL *copy;           /* out  of norm_output: a second copy of y, or null */                                   \
        REAL *normal;         /* out  or null */                                                                       \
    } frnn_norm_row_##D;                                                                                               \
                                                                                                                       \
    /* The same backwards; a vector of units lies `vector` values, in dx `dx_vector`, from the next. */                \
    typedef struct {                                                                                                   \
        int64_t n, H, plane, vector, dx_vector;                                                                        \
        int gates, joint, apart;                                                                                       \
        int adds;                 /* is dx added to? */                                                                \
        REAL mean, inverse;       /* as they were forwards */                                                          \
        REAL first, second;       /* means of the row's dnormal and dnormal*normal */                                  \
        const REAL *gain, *bias;  /* in   bias: of norm_output_backward, or null */                                    \
        const REAL *c, *o, *dy;   /* in   of norm_output_backward; dy or null */                                       \
        REAL *dh;                 /* in   of norm_output_backward: gradient of h_t; out: of o */                       \
        REAL *normal;             /* in   of norm_output_backward: out */                                              \
        REAL *da;                 /* in   gradient of gain*normal; of norm_output_backward: out */                     \
        REAL *dx;                 /* out */                                                                            \
    } frnn_norm_backward_row_##D;                                                                                      \
    /* A product with packed factors, K at least 1. */                                                                 \
    typedef struct {                                                                                                   \
        int64_t rows, columns, K;                                                                                      \
        const REAL *A;                                                                                                 \
        int64_t a_row, a_vector; /* element (m, k) is at A[m*a_row + k/lanes*a_vector + k%lanes] */                    \
        const void *R;           /* packed: of a packing's stored type for `multiply`, REAL for `add_gradient` */      \
        int64_t stride;          /* from one vector of columns of R to the next, in values; narrow: a_row and this in bytes */ \
        int beta;                /* 0 or 1; at 0 nothing is read from C */                                             \
        REAL *C;                                                                                                       \
        int64_t ldc, c_vector;   /* from row to row of C, and from vector to vector of its columns: the lanes, if C is */ \
                                 /* row-major; if it is packed, its columns are whole vectors. add_gradient: row-major */ \
        int descending;          /* go through the columns from the last to the first */                               \
    } frnn_product_##D;                                                                                                \
                                                                                                                       \
    /* A way to store packed weights, and a product with them: C = beta*C + A R. Of the dtype itself (packed_body.h) `pack` */\
    /* packs R (K, columns), the weights or, if `transposed`, their transpose. Of narrow types (narrow_body.h) the weights */\
    /* are always the transpose, (columns, K); `pack_narrow` packs at most a vector of columns, and `convert` makes of a */\
    /* row of A what `multiply` reads. */                                                                              \
    typedef struct {                                                                                                   \
        int64_t bytes;    /* of a stored value */                                                                      \
        int64_t head;     /* bytes a lane that a vector of columns has besides its values */                           \
        int64_t together; /* K is filled up with zeros to a multiple of this */                                        \
        int64_t argument; /* bytes of a value of A, as `convert` leaves it */                                          \
        double rate;      /* of `multiply`, compared with that of the dtype itself */                                  \
        void (*pack)(int transposed, int64_t K, int64_t columns, const REAL *weights, int64_t ld, void *packed,        \
                     int64_t stride);                                                                                  \
        void (*pack_narrow)(int64_t K, int64_t columns, const void *weights, const float *scales, void *packed);       \
        void (*convert)(int64_t K, const REAL *row, void *converted);                                                  \
        void (*multiply)(const frnn_product_##D *);                                                                    \
    } frnn_packing_##D;                                                                                                \
                                                                                                                       \
    /* A product whose factors are row-major and read in place. `weigh`: element (m, k) of A is at A[m*a_row + k*a_k], */\
    /* and B has K rows. `dots`: A has rows of K values, and so has B, whose rows are the columns of C. */             \
    typedef struct {                                                                                                   \
        int64_t rows, columns, K;                                                                                      \
        const REAL *A;                                                                                                 \
        int64_t a_row, a_k; /* a_k: `weigh` only */                                                                    \
        const REAL *B;                                                                                                 \
        int64_t b_row;                                                                                                 \
        int beta; /* 0 or 1, `weigh` only; at 0 nothing is read from C */                                              \
        REAL *C;                                                                                                       \
        int64_t c_row;                                                                                                 \
    } frnn_rows_product_##D;                                                                                           \
                                                                                                                       \
    /* Dropout of an array: dropout_body.h. */                                                                         \
    typedef struct {                                                                                                   \
        uint64_t key;                                                                                                  \
        uint32_t threshold; /* values whose random word is less become 0 */                                            \
        REAL scale;         /* of the others */                                                                        \
        const REAL *x;      /* in */                                                                                   \
        REAL *y;            /* out  may be x */                                                                        \
    } frnn_dropout_##D;                                                                                                \
                                                                                                                       \
    /* All kernels for one dtype. Activations and gradients are packed as they are computed: gradient_body.h. */       \
    typedef struct {                                                                                                   \
        int64_t lanes; /* values a vector */                                                                           \
        const frnn_cell_kernels_##D *cells[FRNN_CELL_COUNT];                                                           \
        frnn_packing_##D packings[FRNN_STORAGES]; /* zeros where the dtype is not stored so */                         \
        void (*add_gradient)(const frnn_product_##D *);                                                                \
        void (*add_columns)(int64_t rows, int64_t n, const REAL *packed, int64_t stride, REAL *sum);                   \
        void (*pack_row)(int64_t n, const REAL *row, REAL *packed, int64_t stride, int64_t at);                        \
        /* softmax_body.h */                                                                                           \
        void (*softmax_exp)(int64_t classes, const REAL *bias, REAL *e, REAL *top, REAL *sum);                         \
        void (*softmax_scale)(int64_t classes, const REAL *part, const REAL *top, const REAL *ratio,                   \
                              const REAL *silent, REAL *e);                                                            \
        void (*softmax_add)(int64_t classes, int64_t vectors, const REAL *e, int64_t stride, REAL *sum);               \
        /* attention_body.h */                                                                                         \
        void (*dots)(const frnn_rows_product_##D *);  /* C = A B^T */                                                  \
        void (*weigh)(const frnn_rows_product_##D *); /* C = beta*C + A B */                                           \
        void (*softmax)(int64_t n, REAL *x);                                                                           \
        void (*softmax_backward)(int64_t n, const REAL *w, REAL *d);                                                   \
        REAL (*largest)(int64_t n, const REAL *x);                                                                     \
        /* search_body.h */                                                                                            \
        REAL (*exponentials)(int64_t n, const REAL *x, REAL top, REAL scale, REAL *y);                                 \
        void (*widen)(int64_t n, const REAL *x, double *y);                                                            \
        void (*tanh)(int64_t n, const REAL *x, REAL *y);                                                               \
        void (*sigmoid)(int64_t n, const REAL *x, REAL *y);                                                            \
        void (*log_sigmoid)(int64_t n, const REAL *x, REAL *y);                                                        \
        /* Of the elements begin..end-1; begin is a multiple of FRNN_DROPOUT_GROUP. */                                 \
        void (*dropout)(const frnn_dropout_##D *, int64_t begin, int64_t end);                                         \
        /* norm_body.h */                                                                                              \
        void (*norm_moments)(const frnn_norm_row_##D *, REAL *means, REAL *squares);                                   \
        void (*normalize)(const frnn_norm_row_##D *);                                                                  \
        void (*norm_output)(const frnn_norm_row_##D *);                                                                \
        void (*norm_output_backward)(const frnn_norm_backward_row_##D *);                                              \
        void (*norm_sums)(const frnn_norm_backward_row_##D *, REAL *first, REAL *second);                              \
        void (*norm_backward)(const frnn_norm_backward_row_##D *);                                                     \
        void (*norm_add_gain)(const frnn_norm_backward_row_##D *, REAL *dgain);                                        \
        void (*draw_mask)(const frnn_mask_of *, double scale, int64_t u0, int64_t u1, REAL *mask);                        \
        frnn_step *sgd, *adam; /* optimizers_body.h */                                                                 \
        double (*squares)(int64_t n, const void *x); /* their sum */                                                   \
    } frnn_kernels_##D;
/* clang-format on */

FRNN_DECLARE_KERNELS(float, f32)
FRNN_DECLARE_KERNELS(double, f64)

/* Packings of narrow types, one or both, of a set that has instructions for them; the other is zeros. */
typedef struct {
    const char *name;
    frnn_packing_f32 bf16, int8;
} frnn_narrow_set;

/* Whether two packings of one narrow type, of sets whose vectors have `lanes` values, multiply alike. */
int frnn_packings_agree(const frnn_packing_f32 *one, const frnn_packing_f32 *other, int64_t lanes, float tolerance);

/* One instruction set's kernels. */
typedef struct {
    const char *name;
    frnn_kernels_f32 f32;
    frnn_kernels_f64 f64;
} frnn_kernel_set;

/* The selected set (dispatch.c). */
const frnn_kernel_set *frnn_kernels(void);

#endif
