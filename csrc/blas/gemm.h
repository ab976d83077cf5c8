/* Row-major matrix products through whatever BLAS was found at import. */
#ifndef FRNN_GEMM_H
#define FRNN_GEMM_H

#include "../fastrnn.h"

/* C (M, N) = beta*C + op(A) op(B), op(A) (M, K), op(B) (K, N); op transposes where ta, tb are nonzero. beta is 0 or 1;
 * at 0 nothing is read from C. ld: elements from a row to the next as stored. Any size may be 0. */
void frnn_gemm_f32(int ta, int tb, int64_t M, int64_t N, int64_t K, const float *A, int64_t lda, const float *B,
                   int64_t ldb, int beta, float *C, int64_t ldc);
void frnn_gemm_f64(int ta, int tb, int64_t M, int64_t N, int64_t K, const double *A, int64_t lda, const double *B,
                   int64_t ldb, int beta, double *C, int64_t ldc);

/* The largest size or leading dimension that BLAS's integer holds. */
int64_t frnn_gemm_limit(void);

/* Between these BLAS runs on the calling thread alone, so that a team can call it from each of its threads. Returns the
 * number of threads that the team may have: `threads`, or 1 where BLAS cannot be held back. */
int frnn_gemm_begin(int threads);
void frnn_gemm_end(void);

#endif
