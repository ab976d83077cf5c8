/* Hooks for tests and benchmarks: parts of the C code by themselves. Nothing in the package itself calls them. */
#ifndef FRNN_HOOKS_H
#define FRNN_HOOKS_H

#include "fastrnn.h"

/* ---- Parts by themselves, with the selected instruction set ---- */

/* y[k] = tanh(x[k]), sigmoid(x[k]) or log(sigmoid(x[k])) for n values; y may be x. */
void frnn_tanh(frnn_dtype dtype, int64_t n, const void *x, void *y);
void frnn_sigmoid(frnn_dtype dtype, int64_t n, const void *x, void *y);
void frnn_log_sigmoid(frnn_dtype dtype, int64_t n, const void *x, void *y);

/* C (M, N) = beta*C + op(A) op(B), row-major; op transposes where ta, tb are nonzero. */
void frnn_blas_gemm(frnn_dtype dtype, int ta, int tb, int64_t M, int64_t N, int64_t K, const void *A, int64_t lda,
                    const void *B, int64_t ldb, double beta, void *C, int64_t ldc);

/* Products with packed factors. Sizes, strides and layouts are those of frnn_product_<dtype> in kernels/kernels.h;
 * weights are stored in the dtype that is computed with. */
int64_t frnn_direct_lanes(frnn_dtype dtype); /* values a vector */
void frnn_direct_pack(frnn_dtype dtype, int transposed, int64_t K, int64_t columns, const void *weights, int64_t ld,
                      void *packed, int64_t stride);
void frnn_direct_pack_row(frnn_dtype dtype, int64_t n, const void *row, void *packed, int64_t stride, int64_t at);
void frnn_direct_multiply(frnn_dtype dtype, int64_t rows, int64_t columns, int64_t K, const void *A, int64_t a_row,
                          int64_t a_vector, const void *R, int64_t stride, int beta, void *C, int64_t ldc,
                          int descending);
void frnn_direct_add_gradient(frnn_dtype dtype, int64_t rows, int64_t columns, int64_t K, const void *A,
                              int64_t a_vector, const void *R, int64_t stride, void *C, int64_t ldc);
void frnn_direct_add_columns(frnn_dtype dtype, int64_t rows, int64_t n, const void *packed, int64_t stride, void *sum);

/* C (rows, columns) = beta*C + A W^T with narrow weights W (columns, K), and `scales` of its rows if they are int8; A's
 * rows lie a_row values apart. Packs and converts into `work`, of frnn_direct_narrow_work bytes. */
int64_t frnn_direct_narrow_work(frnn_storage storage, int64_t rows, int64_t columns, int64_t K);
void frnn_direct_multiply_narrow(frnn_storage storage, int64_t rows, int64_t columns, int64_t K, const float *A,
                                 int64_t a_row, const void *weights, const float *scales, void *work, int beta,
                                 float *C, int64_t ldc, int descending);

/* ---- Teams ---- */

/* Teams share rows, or units, among as many threads as a call may use, however small the work is and however busy the
 * cores are; or FRNN_CHOOSE, as usual. */
typedef enum { FRNN_CHOOSE, FRNN_BY_ROWS, FRNN_BY_UNITS } frnn_split;
void frnn_team_insist(frnn_split split);

/* The cost model by itself: nanoseconds that it expects of a pass over one layer on at most `threads` threads with
 * vectors of `lanes` values, and what it chooses: of how many members a team is (1: alone), and what they share. */
double frnn_simulate_plan(const char *cell, frnn_dtype dtype, frnn_pass pass, int64_t T, int64_t B, int64_t I,
                          int64_t H, int directions, int lanes, int threads, int *members, frnn_split *split);

/* ---- What this machine can do at best, on the calling thread, with the selected instruction set ---- */

/* `repeats` rounds of multiply-adds in registers; returns how many operations that were. A value has 8 bytes (double),
 * 4 (float), 2 (bfloat16) or 1 (int8). */
int64_t frnn_probe_multiply_add(int bytes, int64_t repeats, double *result);
/* Read `bytes` of data, 64-byte aligned, `repeats` times; returns how many bytes that were. */
int64_t frnn_probe_read(frnn_dtype dtype, const void *data, int64_t bytes, int64_t repeats, double *result);

#endif
