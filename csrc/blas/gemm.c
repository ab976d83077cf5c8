#include "gemm.h"

#include <stdatomic.h>

#include "../compiler.h"
#include "../hooks.h"
#if FRNN_POSIX
#include <pthread.h>
#endif

static struct {
    void *sgemm, *dgemm, *sgemv, *dgemv;
    int integer_bytes;
    void (*set_threads)(int);
    int (*get_threads)(void);
} blas;

/* ---- BLAS's own threads: none while any team runs ---- */

static atomic_flag lock = ATOMIC_FLAG_INIT;
static int holders; /* calls between begin and end, in all threads */
static int before;  /* BLAS's number of threads when the first of them came */
static int orphan;  /* in a child of fork(): BLAS has one thread, for calls that are not there */

static void acquire(void) {
    while (atomic_flag_test_and_set_explicit(&lock, memory_order_acquire)) {
    }
}
static void release(void) { atomic_flag_clear_explicit(&lock, memory_order_release); }

#if FRNN_POSIX
/* The thread that forks has the lock, so the child sees no half of a change. In the child no thread is between begin
 * and end. BLAS itself must not be called here: frnn_blas_after_fork gives it its threads back. */
static void in_child(void) {
    orphan |= holders > 0;
    holders = 0;
    release();
}
#endif

int frnn_gemm_begin(int threads) {
    if (!blas.set_threads) return 1;
    acquire();
    if (holders++ == 0) {
        before = blas.get_threads();
        if (before != 1) blas.set_threads(1);
    }
    release();
    return threads;
}

void frnn_gemm_end(void) {
    if (!blas.set_threads) return;
    acquire();
    /* none: in a child that a signal's handler forked in the middle of this call */
    if (holders > 0 && --holders == 0 && before != 1) blas.set_threads(before);
    release();
}

void frnn_blas_install(void *sgemm, void *dgemm, void *sgemv, void *dgemv, int integer_bytes, void *set_threads,
                       void *get_threads) {
    blas.sgemm = sgemm, blas.dgemm = dgemm, blas.sgemv = sgemv, blas.dgemv = dgemv;
    blas.integer_bytes = integer_bytes;
    blas.set_threads = (void (*)(int))set_threads, blas.get_threads = (int (*)(void))get_threads;
#if FRNN_POSIX
    if (set_threads) pthread_atfork(acquire, release, in_child);
#endif
}

void frnn_blas_after_fork(void) {
    if (orphan && before != 1) blas.set_threads(before);
    orphan = 0;
}

int64_t frnn_gemm_limit(void) { return blas.integer_bytes == 8 ? INT64_MAX / 16 : INT32_MAX; }

/* ---- Products. BLAS is column-major: a row-major (M, K) is its (K, M), and C^T = op(B)^T op(A)^T ---- */

#define DEFINE_GEMM(REAL, D, GEMM, GEMV)                                                                               \
    typedef void (*gemm32_##D)(char *, char *, int32_t *, int32_t *, int32_t *, REAL *, const REAL *, int32_t *,       \
                               const REAL *, int32_t *, REAL *, REAL *, int32_t *);                                    \
    typedef void (*gemm64_##D)(char *, char *, int64_t *, int64_t *, int64_t *, REAL *, const REAL *, int64_t *,       \
                               const REAL *, int64_t *, REAL *, REAL *, int64_t *);                                    \
    typedef void (*gemv32_##D)(char *, int32_t *, int32_t *, REAL *, const REAL *, int32_t *, const REAL *, int32_t *, \
                               REAL *, REAL *, int32_t *);                                                             \
    typedef void (*gemv64_##D)(char *, int64_t *, int64_t *, REAL *, const REAL *, int64_t *, const REAL *, int64_t *, \
                               REAL *, REAL *, int64_t *);                                                             \
                                                                                                                       \
    void frnn_gemm_##D(int ta, int tb, int64_t M, int64_t N, int64_t K, const REAL *A, int64_t lda, const REAL *B,     \
                       int64_t ldb, int beta, REAL *C, int64_t ldc) {                                                  \
        char transpose_a = ta ? 'T' : 'N', transpose_b = tb ? 'T' : 'N';                                               \
        REAL one = 1, keep = (REAL)beta;                                                                               \
        if (M == 0 || N == 0) return;                                                                                  \
        if (M == 1 || K == 0) { /* some GEMV scale by beta instead of clearing, which keeps a NaN */                   \
            if (!beta)                                                                                                 \
                for (int64_t m = 0; m < M; m++) memset(C + m * ldc, 0, (size_t)N * sizeof(REAL));                      \
            if (K == 0) return;                                                                                        \
        }                                                                                                              \
        /* a row times a matrix: GEMV reads the matrix once, GEMM would also pack it */                                \
        const int64_t rows = tb ? K : N, columns = tb ? N : K;                                                         \
        if (blas.integer_bytes == 8) {                                                                                 \
            int64_t unit = 1, step = ta ? lda : 1, r = rows, c = columns;                                              \
            if (M == 1)                                                                                                \
                ((gemv64_##D)blas.GEMV)(&transpose_b, &r, &c, &one, B, &ldb, A, &step, &one, C, &unit);                \
            else                                                                                                       \
                ((gemm64_##D)blas.GEMM)(&transpose_b, &transpose_a, &N, &M, &K, &one, B, &ldb, A, &lda, &keep, C,      \
                                        &ldc);                                                                         \
        } else {                                                                                                       \
            int32_t m = (int32_t)M, n = (int32_t)N, k = (int32_t)K, unit = 1;                                          \
            int32_t step = ta ? (int32_t)lda : 1, r = (int32_t)rows, c = (int32_t)columns;                             \
            int32_t a = (int32_t)lda, b = (int32_t)ldb, l = (int32_t)ldc;                                              \
            if (M == 1)                                                                                                \
                ((gemv32_##D)blas.GEMV)(&transpose_b, &r, &c, &one, B, &b, A, &step, &one, C, &unit);                  \
            else                                                                                                       \
                ((gemm32_##D)blas.GEMM)(&transpose_b, &transpose_a, &n, &m, &k, &one, B, &b, A, &a, &keep, C, &l);     \
        }                                                                                                              \
    }

DEFINE_GEMM(float, f32, sgemm, sgemv)
DEFINE_GEMM(double, f64, dgemm, dgemv)

void frnn_blas_gemm(frnn_dtype dtype, int ta, int tb, int64_t M, int64_t N, int64_t K, const void *A, int64_t lda,
                    const void *B, int64_t ldb, double beta, void *C, int64_t ldc) {
    if (dtype == FRNN_F32)
        frnn_gemm_f32(ta, tb, M, N, K, A, lda, B, ldb, beta != 0, C, ldc);
    else
        frnn_gemm_f64(ta, tb, M, N, K, A, lda, B, ldb, beta != 0, C, ldc);
}
