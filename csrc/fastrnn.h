/* fastrnn.h: all that Cython sees of the C code.
 *
 * Sizes: T time steps, B batch rows, I input size, H hidden units, O output size (P if projected, else H), G gates.
 * Arrays are row-major, the rightmost index changes fastest, and hold float or double as cell->dtype says. Nothing here
 * knows Python or prints, and nothing here allocates but the workers of a team, when they are hired. What is kept
 * between calls is which BLAS, which instruction set, and the workers. Callers have validated all arguments.
 */
#ifndef FASTRNN_H
#define FASTRNN_H

#include <stddef.h>
#include <stdint.h>

#undef I /* complex.h's; here it is the input size */

typedef enum { FRNN_F32, FRNN_F64 } frnn_dtype;

/* What weights are stored in. The last two are narrow: for inference in float, with packed weights. */
typedef enum { FRNN_STORED_F32, FRNN_STORED_F64, FRNN_STORED_BF16, FRNN_STORED_INT8, FRNN_STORAGES } frnn_storage;

/* The kind of the cell in csrc/cells/ that has this name; -1 if there is none. */
int frnn_kind(const char *name);

/* Layer normalisation: gains, of W x and U h apart or of their sum, and of what is shown of c; nulls where there is
 * none.
 */
typedef struct {
    const void *ih, *hh; /* (G*H) both or null */
    const void *sum;     /* (G*H) or null */
    const void *c;       /* (H) or null */
    const void *bias_c;  /* (H) or null */
    double eps;          /* added to variances */
} frnn_norm;

/* One direction of one layer. Pointers may be null where the cell has no such parameter. `packed` decides what
 * multiplies: if it is null, BLAS does; else our own kernels, with what frnn_pack made of these weights for the pass
 * that is run. */
typedef struct {
    int kind;
    frnn_dtype dtype;
    frnn_storage storage; /* of w_ih, w_hh, w_hr and packed */
    int replace;          /* GRU: h_t = z*n + (1-z)*h_{t-1} instead of (1-z)*n + z*h_{t-1} */
    int64_t I, H, O;
    const void *w_ih;     /* (G*H, I) */
    const void *w_hh;     /* (G*H, O) or null: gates do not see the state */
    const void *b_ih;     /* (G*H) or null */
    const void *b_hh;     /* (G*H) or null, null exactly if b_ih is or w_hh */
    const void *w_hr;     /* (O, H) or null: LSTM projection */
    const void *peephole; /* (the cell's peepholes, H) or null: LSTM p_i, p_f, p_o */
    const float *s_ih;    /* (G*H) scales of the rows of w_ih, if they are int8; likewise the next two */
    const float *s_hh, *s_hr;
    const void *packed; /* frnn_pack's, 64-byte aligned, or null */
    frnn_norm norm;
    double zoneout, zoneout_cell; /* with which a unit of h_t, or of c_t, keeps its value of the step before */
    int heads;   /* N > 1: w_hh is (G*H, H/N), and each head of H/N units sees its own part of h_{t-1} only; else 0 or 1
                  */
    int linear;  /* minGRU, minLSTM: the candidate is its pre-activation */
    double clip; /* activations are given nothing outside -clip..clip, as ONNX's clip; 0: whatever there is */
} frnn_cell;

/* Gradients of a cell's parameters; null where the parameter is. */
typedef struct {
    void *w_ih, *w_hh, *b_ih, *b_hh, *w_hr, *peephole;
    void *norm_ih, *norm_hh, *norm_sum, *norm_c, *bias_c;
} frnn_cell_gradient;

/* Which steps run: row b's steps 0..lengths[b]-1, forwards or reversed in time. A boundary (t, b) with resets[t*B + b]
 * != 0 separates steps t-1 and t: no state crosses it. At t = 0 it hides the initial state, if the steps run forwards.
 */
typedef struct {
    int64_t T, B;
    const int64_t *lengths; /* (B), each in 0..T; null: all T */
    const int64_t *order;   /* (B), the rows by falling length; null exactly if lengths is */
    const uint8_t *resets;  /* (T, B) or null */
    int reverse;
    const int64_t *starts; /* (T) or null; see frnn_series */
} frnn_steps;

/* A (T, B, n) array whose last axis is contiguous; strides in elements, of any sign. Where steps have starts, only the
 * valid rows are there, step after step: step t has the rows starts[t].. of the array, and stride_t is from row to row;
 * rows are then in order of falling length. The same holds for what a tape holds. */
typedef struct {
    void *data;
    int64_t stride_t, stride_b;
} frnn_series;

/* What a tape holds; zero past a row's end.
 *   gates  (T, B, K, H)  what the cell's kernels record of each unit; null where that is nothing
 *   cells  (T, B, S*H)   c_t; null unless the cell has c. S is how many states of H values that is (cells.h: has_c)
 *   norms  (T, B, N)     what layer normalisation left (sequence/norm_body.h); null without it; not zeroed
 *   fresh  (T, B, H)     what zoneout hides of a step and backward reads: c_t before zoneout or, of a cell without c
 *                        whose backward kernel reads h_t, h_t before zoneout; null unless that is zoned out */
typedef struct {
    void *gates, *cells, *norms, *fresh;
} frnn_record;

/* What is random in a run for training. The masks of a row at a step are functions of the key and of both their
 * numbers (kernels/dropout_body.h), so they do not depend on what is computed at a time, and backward draws them once
 * more. A value stays whose random word of 32 bits is at least the threshold. */
typedef struct {
    uint64_t key;
    uint32_t zoneout, zoneout_cell; /* thresholds of new values of h_t and c_t; 0: there is no zoneout */
    uint32_t candidate;             /* threshold of the candidate, g or n; 0: it is not dropped */
    double candidate_scale;         /* of what stays of it */
    const void *state;              /* (B, O) what h_{t-1} is multiplied by where it meets U, or null */
    int64_t first_step;             /* the number of step 0 */
    const int64_t *rows;            /* (B) the numbers of the rows, or null: 0..B-1 */
} frnn_noise;

typedef struct {
    frnn_steps steps;
    frnn_series x;           /* in   (T, B, I) */
    const void *h0, *c0;     /* in   (B, O), (B, S*H); c0 null unless the cell has c */
    frnn_series y;           /* out  (T, B, O), zero past a row's end */
    void *h_n, *c_n;         /* out  (B, O), (B, S*H); may be h0 and c0 */
    frnn_record record;      /* out  or nulls: nothing is recorded */
    const int64_t *rows;     /* in   (B), distinct, or null: row b's state is row rows[b] of h0, c0, h_n and c_n */
    const frnn_noise *noise; /* in   or null: nothing is random, and zoneout is its expectation */
} frnn_forward_args;

typedef struct {
    frnn_steps steps;
    frnn_series x, y;        /* in   as given to and left by the forward run */
    const void *h0, *c0;     /* in */
    frnn_record record;      /* in */
    frnn_series dy;          /* in   (T, B, O); data null: zeros */
    const void *dh_n, *dc_n; /* in   (B, O), (B, S*H) */
    frnn_series dx;          /* out  (T, B, I), zero past a row's end; or added to; data null: not wanted */
    int adds_to_dx;
    void *dh0, *dc0;          /* out  (B, O), (B, S*H) */
    frnn_cell_gradient dcell; /* out; or added to */
    const frnn_noise *noise;  /* in   as given to the forward run; not null if the cell has zoneout */
    int adds_to_dcell;
} frnn_backward_args;

/* ---- A cell over a sequence ---- */

/* Workspace in bytes for at most `threads` threads, of forward for each cell, of backward for all `count` cells; -1 if
 * a size does not fit BLAS's integer or an address. */
int64_t frnn_forward_workspace(const frnn_cell *cell, const frnn_forward_args *args, int threads);
int64_t frnn_backward_workspace(int count, const frnn_cell *const *cells, const frnn_backward_args *args, int threads);

/* Run with at most `threads` threads; `workspace` is 64-byte aligned and as large as the functions above say. Two cells
 * are the directions of a layer, of one dtype; they run at once if each is better off with half the threads. Backwards
 * both have the same dx, and the second adds to it. */
void frnn_forward(int count, const frnn_cell *const *cells, const frnn_forward_args *args, int threads,
                  void *workspace);
void frnn_backward(int count, const frnn_cell *const *cells, const frnn_backward_args *args, int threads,
                   void *workspace);

/* A backward run of B rows sums the gradients of weights over chunks of so many steps, a power of two, from the step
 * that ran last on. A run that is cut at a multiple of that many steps, the later part first, gives the same bits, if
 * the earlier part adds to what the later one has written. */
int64_t frnn_backward_steps(const frnn_cell *cell, int64_t B);

/* ---- Packed weights, for the instruction set selected now ---- */

typedef enum { FRNN_FORWARD, FRNN_BACKWARD } frnn_pass;

/* Bytes that the weights of a cell take when packed for a pass. */
int64_t frnn_pack_bytes(const frnn_cell *cell, frnn_pass pass);
/* Pack the cell's weights into `packed`, 64-byte aligned, with at most `threads` threads. */
void frnn_pack(const frnn_cell *cell, frnn_pass pass, int threads, void *packed);

/* ---- BLAS ---- */

/* BLAS as found at import: Fortran routines with 32-bit or 64-bit integers. void set_threads(int) and
 * int get_threads(void) may be null: then BLAS may run threads of its own, and the engine runs on one. */
void frnn_blas_install(void *sgemm, void *dgemm, void *sgemv, void *dgemv, int integer_bytes, void *set_threads,
                       void *get_threads);
/* To be called in a child of fork(): restores BLAS's number of threads if threads of the parent were computing. */
void frnn_blas_after_fork(void);

/* ---- Stopping a long call ---- */

/* Whether a call that runs is to stop; called on the thread that made the call, about every tenth of a second. If the
 * process was forked meanwhile, a child gets FRNN_ORPHANED: it has none of the threads that share the call's work. What
 * a call writes that was stopped is incomplete. */
typedef enum { FRNN_GO_ON, FRNN_STOP, FRNN_ORPHANED } frnn_verdict;
void frnn_stop_install(frnn_verdict (*hook)(void));

/* ---- Instruction sets and threads ---- */

/* Names of the instruction sets that are compiled in and run on this machine, best first; null beyond the last. */
const char *frnn_isa_name(int index);
/* Choose one by name; 0 if it is not there. Not to be called while another call runs. */
int frnn_isa_select(const char *name);
const char *frnn_isa_selected(void);

/* Can a team have more than one thread? */
int frnn_has_threads(void);

/* Providers of threads: "workers" and, where the compiler has it, "openmp". Their names, the default first, null beyond
 * the last; choosing one by name, 0 if it is not there; the name of the one in use. Calls that run keep theirs. */
const char *frnn_threading_name(int index);
int frnn_threading_select(const char *name);
const char *frnn_threading_selected(void);

/* The most threads that a team may have. It is far beyond what helps, and small enough that a team's bookkeeping fits
 * on the stack and that sizes multiplied by it do not overflow. */
#define FRNN_MOST_THREADS 1024

#endif
