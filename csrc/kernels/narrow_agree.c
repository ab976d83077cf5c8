/* Whether products with narrow weights agree: dispatch.c tries a set in this way that it is not sure of. */
#include "kernels.h"

enum { COLUMNS = 75, MOST_K = 100, MOST_ROWS = 33, MOST_LANES = 16, VECTORS = COLUMNS / MOST_LANES + 1 };

/* Numbers that look random, from -1 to 1. */
static float number(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return (float)(int32_t)*state * 0x1p-31f;
}

static void product(const frnn_packing_f32 *packing, int64_t lanes, int64_t rows, int64_t K, float *C) {
    _Alignas(64) char packed[VECTORS * MOST_LANES * (8 + 128 * 2)];
    _Alignas(64) char converted[MOST_ROWS * (FRNN_ROW_HEAD + 128 * 2)];
    const int64_t filled = (K + packing->together - 1) / packing->together * packing->together;
    const int64_t stride = (packing->head + filled * packing->bytes) * lanes, row = FRNN_ROW_BYTES(packing, K);
    uint32_t state = 1;
    for (int64_t n = 0; n < COLUMNS; n += lanes) {
        float scales[MOST_LANES];
        uint16_t weights[MOST_LANES * MOST_K]; /* any bits are an int8; of bfloat16 small numbers */
        const int64_t columns = FRNN_MIN(lanes, COLUMNS - n);
        for (int64_t k = 0; k < columns; k++) scales[k] = number(&state);
        for (int64_t k = 0; k < columns * K; k++) {
            const float weight = number(&state);
            uint32_t word;
            memcpy(&word, &weight, sizeof word);
            if (packing->bytes == 2)
                weights[k] = (uint16_t)(word >> 16);
            else
                ((int8_t *)weights)[k] = (int8_t)(word >> 8);
        }
        packing->pack_narrow(K, columns, weights, scales, packed + n / lanes * stride);
    }
    for (int64_t m = 0; m < rows; m++) {
        float x[MOST_K];
        for (int64_t k = 0; k < K; k++) x[k] = number(&state);
        packing->convert(K, x, converted + m * row);
    }
    const frnn_product_f32 p = {.rows = rows,
                                .columns = COLUMNS,
                                .K = K,
                                .A = (const float *)(const void *)converted,
                                .a_row = row,
                                .R = packed,
                                .stride = stride,
                                .C = C,
                                .ldc = COLUMNS};
    packing->multiply(&p);
}

int frnn_packings_agree(const frnn_packing_f32 *one, const frnn_packing_f32 *other, int64_t lanes, float tolerance) {
    static const int sizes[][2] = {{1, 100}, {7, 64}, {16, 33}, {20, 70}, {MOST_ROWS, MOST_K}}; /* rows, K */
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        float C[2][MOST_ROWS * COLUMNS];
        const int64_t rows = sizes[i][0], K = sizes[i][1];
        product(one, lanes, rows, K, C[0]);
        product(other, lanes, rows, K, C[1]);
        for (int64_t k = 0; k < rows * COLUMNS; k++)
            if (!(fabsf(C[0][k] - C[1][k]) <= tolerance)) return 0;
    }
    return 1;
}
