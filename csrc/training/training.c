/* Entry points: choose the dtype. */
#include "attention.h"
#include "products.h"
#include "search.h"
#include "softmax.h"

#define DECLARE(REAL, D)                                                                                               \
    int64_t frnn_linear_workspace_##D(int64_t, int threads);                                                           \
    void frnn_linear_##D(int64_t, int64_t, int64_t, const REAL *, const REAL *, const REAL *, REAL *, int, void *);    \
    int64_t frnn_linear_pack_bytes_##D(frnn_storage, int64_t, int64_t);                                                \
    void frnn_linear_pack_##D(frnn_storage, int64_t, int64_t, const void *, const float *, int, void *);               \
    int64_t frnn_linear_packed_workspace_##D(frnn_storage, int64_t, int64_t);                                          \
    void frnn_linear_packed_##D(frnn_storage, int64_t, int64_t, int64_t, const REAL *, const void *, const REAL *,     \
                                REAL *, int, void *);                                                                  \
    int64_t frnn_linear_backward_workspace_##D(int64_t, int64_t, int64_t, int);                                        \
    void frnn_linear_backward_##D(int64_t, int64_t, int64_t, const REAL *, const REAL *, const REAL *, REAL *, REAL *, \
                                  REAL *, int, void *);                                                                \
    int64_t frnn_cross_entropy_workspace_##D(const frnn_cross_entropy_args *, int);                                    \
    void frnn_cross_entropy_##D(const frnn_cross_entropy_args *, int, void *);                                         \
    void frnn_attend_##D(const frnn_attention_args *, int);                                                            \
    int64_t frnn_attend_backward_workspace_##D(const frnn_attention_args *, int);                                      \
    void frnn_attend_backward_##D(const frnn_attention_args *, int, void *);                                           \
    int64_t frnn_search_workspace_##D(const frnn_logits *, int);                                                       \
    void frnn_greedy_##D(const frnn_logits *, int64_t *, int);                                                         \
    void frnn_draw_##D(const frnn_logits *, double, const double *, int64_t *, int, void *);                           \
    void frnn_beam_##D(const frnn_beam_args *, int, void *);
DECLARE(float, f32)
DECLARE(double, f64)

int64_t frnn_linear_workspace(frnn_dtype dtype, int64_t N, int64_t I, int64_t O, int threads) {
    (void)N, (void)O;
    return (dtype == FRNN_F32 ? frnn_linear_workspace_f32 : frnn_linear_workspace_f64)(I, threads);
}

void frnn_linear(frnn_dtype dtype, int64_t N, int64_t I, int64_t O, const void *x, const void *weight, const void *bias,
                 void *y, int threads, void *workspace) {
    if (dtype == FRNN_F32)
        frnn_linear_f32(N, I, O, x, weight, bias, y, threads, workspace);
    else
        frnn_linear_f64(N, I, O, x, weight, bias, y, threads, workspace);
}

int64_t frnn_linear_pack_bytes(frnn_storage storage, int64_t I, int64_t O) {
    return (storage == FRNN_STORED_F64 ? frnn_linear_pack_bytes_f64 : frnn_linear_pack_bytes_f32)(storage, I, O);
}

void frnn_linear_pack(frnn_storage storage, int64_t I, int64_t O, const void *weight, const float *scales, int threads,
                      void *packed) {
    (storage == FRNN_STORED_F64 ? frnn_linear_pack_f64 : frnn_linear_pack_f32)(storage, I, O, weight, scales, threads,
                                                                               packed);
}

int64_t frnn_linear_packed_workspace(frnn_storage storage, int64_t N, int64_t I) {
    return (storage == FRNN_STORED_F64 ? frnn_linear_packed_workspace_f64 : frnn_linear_packed_workspace_f32)(storage,
                                                                                                              N, I);
}

void frnn_linear_packed(frnn_storage storage, int64_t N, int64_t I, int64_t O, const void *x, const void *packed,
                        const void *bias, void *y, int threads, void *workspace) {
    if (storage == FRNN_STORED_F64)
        frnn_linear_packed_f64(storage, N, I, O, x, packed, bias, y, threads, workspace);
    else
        frnn_linear_packed_f32(storage, N, I, O, x, packed, bias, y, threads, workspace);
}

int64_t frnn_linear_backward_workspace(frnn_dtype dtype, int64_t N, int64_t I, int64_t O, int threads) {
    return (dtype == FRNN_F32 ? frnn_linear_backward_workspace_f32 : frnn_linear_backward_workspace_f64)(N, I, O,
                                                                                                         threads);
}

void frnn_linear_backward(frnn_dtype dtype, int64_t N, int64_t I, int64_t O, const void *x, const void *weight,
                          const void *dy, void *dx, void *dweight, void *dbias, int threads, void *workspace) {
    if (dtype == FRNN_F32)
        frnn_linear_backward_f32(N, I, O, x, weight, dy, dx, dweight, dbias, threads, workspace);
    else
        frnn_linear_backward_f64(N, I, O, x, weight, dy, dx, dweight, dbias, threads, workspace);
}

int64_t frnn_cross_entropy_workspace(const frnn_cross_entropy_args *args, int threads) {
    return (args->dtype == FRNN_F32 ? frnn_cross_entropy_workspace_f32 : frnn_cross_entropy_workspace_f64)(args,
                                                                                                           threads);
}

void frnn_cross_entropy(const frnn_cross_entropy_args *args, int threads, void *workspace) {
    (args->dtype == FRNN_F32 ? frnn_cross_entropy_f32 : frnn_cross_entropy_f64)(args, threads, workspace);
}

void frnn_attend(const frnn_attention_args *args, int threads) {
    (args->dtype == FRNN_F32 ? frnn_attend_f32 : frnn_attend_f64)(args, threads);
}

int64_t frnn_attend_backward_workspace(const frnn_attention_args *args, int threads) {
    return (args->dtype == FRNN_F32 ? frnn_attend_backward_workspace_f32 : frnn_attend_backward_workspace_f64)(args,
                                                                                                               threads);
}

void frnn_attend_backward(const frnn_attention_args *args, int threads, void *workspace) {
    (args->dtype == FRNN_F32 ? frnn_attend_backward_f32 : frnn_attend_backward_f64)(args, threads, workspace);
}

int64_t frnn_search_workspace(const frnn_logits *logits, int threads) {
    return (logits->dtype == FRNN_F32 ? frnn_search_workspace_f32 : frnn_search_workspace_f64)(logits, threads);
}

void frnn_greedy(const frnn_logits *logits, int64_t *ids, int threads) {
    (logits->dtype == FRNN_F32 ? frnn_greedy_f32 : frnn_greedy_f64)(logits, ids, threads);
}

void frnn_draw(const frnn_logits *logits, double temperature, const double *uniforms, int64_t *ids, int threads,
               void *workspace) {
    (logits->dtype == FRNN_F32 ? frnn_draw_f32 : frnn_draw_f64)(logits, temperature, uniforms, ids, threads, workspace);
}

void frnn_beam(const frnn_beam_args *args, int threads, void *workspace) {
    (args->logits.dtype == FRNN_F32 ? frnn_beam_f32 : frnn_beam_f64)(args, threads, workspace);
}
