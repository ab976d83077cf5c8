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

/* Bytes of a packed vector of columns. */
static int64_t narrow_stride(const frnn_packing_f32 *packing, int64_t K) {
    const int64_t filled = (K + packing->together - 1) / packing->together * packing->together;
    return (packing->head + filled * packing->bytes) * frnn_kernels()->f32.lanes;
}

int64_t frnn_direct_narrow_work(frnn_storage storage, int64_t rows, int64_t columns, int64_t K) {
    const frnn_packing_f32 *packing = &frnn_kernels()->f32.packings[storage];
    const int64_t lanes = frnn_kernels()->f32.lanes, vectors = (columns + lanes - 1) / lanes;
    return vectors * narrow_stride(packing, K) + rows * FRNN_ROW_BYTES(packing, K);
}

void frnn_direct_multiply_narrow(frnn_storage storage, int64_t rows, int64_t columns, int64_t K, const float *A,
                                 int64_t a_row, const void *weights, const float *scales, void *work, int beta,
                                 float *C, int64_t ldc, int descending) {
    const frnn_packing_f32 *packing = &frnn_kernels()->f32.packings[storage];
    const int64_t lanes = frnn_kernels()->f32.lanes, stride = narrow_stride(packing, K);
    const int64_t row = FRNN_ROW_BYTES(packing, K);
    char *to = work;
    for (int64_t n = 0; n < columns; n += lanes, to += stride)
        packing->pack_narrow(K, FRNN_MIN(lanes, columns - n), (const char *)weights + n * K * packing->bytes,
                             scales ? scales + n : NULL, to);
    for (int64_t m = 0; m < rows; m++) packing->convert(K, A + m * a_row, to + m * row);
    const frnn_product_f32 p = {.rows = rows,
                                .columns = columns,
                                .K = K,
                                .A = (const float *)(const void *)to,
                                .a_row = row,
                                .R = work,
                                .stride = stride,
                                .beta = beta,
                                .C = C,
                                .ldc = ldc,
                                .descending = descending};
    packing->multiply(&p);
}
