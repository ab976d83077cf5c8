/* Products with packed factors by themselves, for tests: what sequence/ calls through the selected set's table. */
#include "../hooks.h"
#include "kernels.h"

#define STORED_f32 FRNN_STORED_F32
#define STORED_f64 FRNN_STORED_F64

#define DEFINE_DIRECT(REAL, D)                                                                                         \
    static void multiply_##D(int64_t rows, int64_t columns, int64_t K, const void *A, int64_t a_row, int64_t a_vector, \
                             const void *R, int64_t stride, int beta, void *C, int64_t ldc, int descending) {          \
        const frnn_product_##D p = {                                                                                   \
            rows, columns, K, A, a_row, a_vector, R, stride, beta, C, ldc, frnn_kernels()->D.lanes, descending};       \
        frnn_kernels()->D.packings[STORED_##D].multiply(&p);                                                           \
    }                                                                                                                  \
    static void add_gradient_##D(int64_t rows, int64_t columns, int64_t K, const void *A, int64_t a_vector,            \
                                 const void *R, int64_t stride, void *C, int64_t ldc) {                                \
        const frnn_product_##D p = {                                                                                   \
            rows, columns, K, A, 0, a_vector, R, stride, 1, C, ldc, frnn_kernels()->D.lanes, 0};                       \
        frnn_kernels()->D.add_gradient(&p);                                                                            \
    }

DEFINE_DIRECT(float, f32)
DEFINE_DIRECT(double, f64)

int64_t frnn_direct_lanes(frnn_dtype dtype) {
    return dtype == FRNN_F32 ? frnn_kernels()->f32.lanes : frnn_kernels()->f64.lanes;
}

void frnn_direct_pack(frnn_dtype dtype, int transposed, int64_t K, int64_t columns, const void *weights, int64_t ld,
                      void *packed, int64_t stride) {
    if (dtype == FRNN_F32)
        frnn_kernels()->f32.packings[FRNN_STORED_F32].pack(transposed, K, columns, weights, ld, packed, stride);
    else
        frnn_kernels()->f64.packings[FRNN_STORED_F64].pack(transposed, K, columns, weights, ld, packed, stride);
}

void frnn_direct_pack_row(frnn_dtype dtype, int64_t n, const void *row, void *packed, int64_t stride, int64_t at) {
    if (dtype == FRNN_F32)
        frnn_kernels()->f32.pack_row(n, row, packed, stride, at);
    else
        frnn_kernels()->f64.pack_row(n, row, packed, stride, at);
}

void frnn_direct_multiply(frnn_dtype dtype, int64_t rows, int64_t columns, int64_t K, const void *A, int64_t a_row,
                          int64_t a_vector, const void *R, int64_t stride, int beta, void *C, int64_t ldc,
                          int descending) {
    (dtype == FRNN_F32 ? multiply_f32 : multiply_f64)(rows, columns, K, A, a_row, a_vector, R, stride, beta, C, ldc,
                                                      descending);
}

void frnn_direct_add_gradient(frnn_dtype dtype, int64_t rows, int64_t columns, int64_t K, const void *A,
                              int64_t a_vector, const void *R, int64_t stride, void *C, int64_t ldc) {
    (dtype == FRNN_F32 ? add_gradient_f32 : add_gradient_f64)(rows, columns, K, A, a_vector, R, stride, C, ldc);
}

void frnn_direct_add_columns(frnn_dtype dtype, int64_t rows, int64_t n, const void *packed, int64_t stride, void *sum) {
    if (dtype == FRNN_F32)
        frnn_kernels()->f32.add_columns(rows, n, packed, stride, sum);
    else
        frnn_kernels()->f64.add_columns(rows, n, packed, stride, sum);
}
