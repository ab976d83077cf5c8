/* Kernels: products with packed weights, and what remains of a step once they are done, the gates, one row at a time,
 * some or all units.
 *
 * FRNN_KERNELS lists them once; the table's members and each instruction set's entries follow from it. The bodies are in
 * kernels_body.h, compiled per dtype and instruction set.
 */
#ifndef FRNN_KERNELS_H
#define FRNN_KERNELS_H

#include "../compiler.h"

/* clang-format off */
#define FRNN_KERNELS(X)                                                                                                \
    X(rnn_tanh, forward) X(rnn_relu, forward) X(lstm, forward) X(gru_after, forward)                                   \
    X(gru_before_reset, forward) X(gru_before, forward)                                                                \
    X(rnn_tanh, backward) X(rnn_relu, backward) X(lstm, backward) X(gru_after, backward)                               \
    X(gru_before, backward) X(gru_before_reset, backward)
/* clang-format on */

/* Blocks of gates are `plane` elements apart in a and bias, `H` in peephole, gates and da; a kernel touches the `n`
 * units from each pointer on. Pointers do not alias, but c_prev may be c. */
#define FRNN_DECLARE_ROWS(REAL, D)                                                                                     \
    typedef struct {                                                                                                   \
        int64_t n, H, plane;                                                                                           \
        int replace;                                                                                                   \
        const REAL *a;        /* W x + U h, G blocks; GRU after: r, z, U_n h, W_n x */                                 \
        const REAL *bias;     /* likewise: b_ih + b_hh; GRU after: r, z, b_hn, b_in */                                 \
        const REAL *peephole; /* LSTM p_i, p_f, p_o, or null */                                                        \
        const REAL *h_prev;   /* GRU */                                                                                \
        const REAL *c_prev;   /* LSTM */                                                                               \
        REAL *h, *c;          /* out: state; h of a projected LSTM is o*tanh(c) */                                     \
        REAL *y;              /* out: a second copy of h, or null */                                                   \
        REAL *rh;             /* GRU before: r*h_prev, out of the first kernel */                                      \
        REAL *r, *z;          /* GRU before: out of the first kernel, into the second */                               \
        REAL *gates, *cells;  /* out: tape, or null */                                                                 \
    } frnn_forward_row_##D;                                                                                            \
    typedef struct {                                                                                                   \
        int64_t n, H;                                                                                                  \
        int replace;                                                                                                   \
        const REAL *gates, *peephole;                                                                                  \
        const REAL *c, *c_prev;    /* LSTM */                                                                          \
        const REAL *h, *h_prev;    /* RNN h; GRU h_prev */                                                             \
        const REAL *dy;            /* added to dh, or null */                                                          \
        REAL *dh;                  /* in: gradient of h_t; out: GRU what reaches h_{t-1} around the matrices */        \
        REAL *dc;                  /* LSTM in: gradient of c_t, out: of c_{t-1} */                                     \
        const REAL *drh;           /* GRU before: gradient of r*h_prev */                                              \
        REAL *da;                  /* out: gradient of the pre-activations; GRU after: r, z, hn, then n */             \
        int64_t plane, vector;     /* of da: from block to block, from one vector of units to the next */              \
    } frnn_backward_row_##D;                                                                                           \
    /* A product with packed factors, K at least 1: product_body.h */                                                                \
    typedef struct {                                                                                                   \
        int64_t rows, columns, K;                                                                                      \
        const REAL *A;                                                                                                 \
        int64_t a_row, a_vector; /* element (m, k) is at A[m*a_row + k/lanes*a_vector + k%lanes] */                    \
        const REAL *R;                                                                                                 \
        int64_t stride; /* from one vector of columns to the next */                                                   \
        int beta;       /* 0 or 1; at 0 nothing is read from C */                                                      \
        REAL *C;                                                                                                       \
        int64_t ldc;                                                                                                   \
        int descending; /* go through the columns from the last to the first */                                        \
    } frnn_product_##D;

FRNN_DECLARE_ROWS(float, f32)
FRNN_DECLARE_ROWS(double, f64)

#define FRNN_DECLARE_TABLE(REAL, D)                                                                                    \
    typedef struct {                                                                                                   \
        FRNN_KERNELS(FRNN_MEMBER_##D)                                                                                  \
        void (*tanh)(int64_t n, const REAL *x, REAL *y);                                                               \
        void (*sigmoid)(int64_t n, const REAL *x, REAL *y);                                                            \
        void (*multiply)(const frnn_product_##D *);                                                                    \
        void (*add_gradient)(const frnn_product_##D *);                                                                \
        void (*add_columns)(int64_t rows, int64_t n, const REAL *packed, int64_t stride, REAL *sum);                   \
        void (*pack)(int transposed, int64_t K, int64_t columns, const REAL *weights, int64_t ld, REAL *packed,        \
                     int64_t stride);                                                                                  \
        void (*pack_row)(int64_t n, const REAL *row, REAL *packed, int64_t stride, int64_t at);                        \
        int64_t lanes; /* values a vector */                                                                           \
    } frnn_kernels_##D;
#define FRNN_MEMBER_f32(cell, pass) void (*cell##_##pass)(const frnn_##pass##_row_f32 *);
#define FRNN_MEMBER_f64(cell, pass) void (*cell##_##pass)(const frnn_##pass##_row_f64 *);

FRNN_DECLARE_TABLE(float, f32)
FRNN_DECLARE_TABLE(double, f64)

/* One instruction set's kernels. */
typedef struct {
    const char *name;
    frnn_kernels_f32 f32;
    frnn_kernels_f64 f64;
} frnn_kernel_set;

/* The selected set (dispatch.c). */
const frnn_kernel_set *frnn_kernels(void);

#endif
