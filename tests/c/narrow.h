/* The checks of kernels.c for narrow types: packing, conversion and products. */

/* x as an integer from -127 to 127, as docs/math.md has it; `inverse` is 127/(the row's largest). */
static int64_t quantized(float x, float inverse) { return inverse == 0 ? 0 : (int64_t)rintf(x * inverse); }

/* A row's scale, and in `inverse` what its values are multiplied by. */
static float row_scale(const float *x, int64_t K, float *inverse) {
    float largest = 0;
    int finite = 1;
    for (int64_t k = 0; k < K; k++) finite &= isfinite(x[k]) != 0, largest = fmaxf(largest, fabsf(x[k]));
    *inverse = finite && largest >= 0x1p-100f ? 127 / largest : 0;
    return !finite ? NAN : largest >= 0x1p-100f ? largest / 127 : 0;
}

/* A row: usual, with all values the largest, of zeros, tiny, or not finite. */
static void fill_row(float *x, int64_t K, int extreme) {
    static const double bounds[] = {1, 1e30, 1e-29, 1e-32};
    const double bound = bounds[integer(0, 3)];
    const int64_t kind = integer(0, 9);
    for (int64_t k = 0; k < K; k++) {
        x[k] = (float)uniform(-bound, bound);
        if (extreme || kind == 0) x[k] = (float)(extreme == 1 ? bound : integer(0, 1) ? bound : -bound);
        if (!extreme && kind == 1) x[k] = 0;
    }
    if (!extreme && kind == 2) x[integer(0, K - 1)] = INFINITY;
    if (!extreme && kind == 3) x[integer(0, K - 1)] = NAN;
}

/* `extreme` 1: all products of int8 are the largest and of one sign, 2: of any sign. */
static void check_narrow(const char *name, int64_t lanes, const frnn_packing_f32 *packing, int64_t rows,
                         int64_t columns, int64_t K, int variant, int extreme) {
    const int int8 = packing->bytes == 1, beta = variant % 2;
    const int64_t filled = (K + packing->together - 1) / packing->together * packing->together;
    const int64_t vectors = (columns + lanes - 1) / lanes, ldc = columns + variant % 3;
    const int64_t stride = (packing->head + filled * packing->bytes) * lanes, row = FRNN_ROW_BYTES(packing, K);
    float *x = room_f32(rows * K), *scales = numbers_f32(columns, -1, 1);
    int8_t *w8 = guarded((size_t)(columns * K), from_start);
    uint16_t *w16 = guarded((size_t)(columns * K) * 2, from_start);
    for (int64_t m = 0; m < rows; m++) fill_row(x + m * K, K, extreme);
    for (int64_t k = 0; k < columns * K; k++) {
        w8[k] = (int8_t)(extreme == 1 ? -128 : extreme == 2 ? (integer(0, 1) ? 127 : -128) : integer(-128, 127));
        w16[k] = (uint16_t)(integer(0x3c00, 0x3f80) | integer(0, 1) << 15); /* up to 1 */
    }
    for (int64_t k = 0; !int8 && k < rows * K; k++) { /* of bfloat16 already: products are exact, and only sums round */
        uint32_t word = (uint32_t)(integer(0x3c00, 0x3f80) | integer(0, 1) << 15) << 16;
        memcpy(x + k, &word, sizeof word);
    }
    char *packed = guarded((size_t)(vectors * stride), from_start);
    char *converted = guarded((size_t)(rows * row), from_start);
    memset(packed, 0x7f, (size_t)(vectors * stride)), memset(converted, 0x7f, (size_t)(rows * row));
    for (int64_t v = 0; v < vectors; v++) {
        const int64_t n = v * lanes, bytes = n * K * packing->bytes;
        packing->pack_narrow(K, FRNN_MIN(lanes, columns - n), (int8 ? (char *)w8 : (char *)w16) + bytes, scales + n,
                             packed + v * stride);
    }
    for (int64_t m = 0; m < rows; m++) packing->convert(K, x + m * K, converted + m * row);

    float *c = numbers_f32((rows - 1) * ldc + columns, -1, 1), *c0 = copied_f32(c, (rows - 1) * ldc + columns);
    for (int64_t m = 0; !beta && m < rows; m++)
        for (int64_t n = 0; n < columns; n++) c[m * ldc + n] = NAN; /* not to be read */
    const frnn_product_f32 p = {.rows = rows,
                                .columns = columns,
                                .K = K,
                                .A = (const float *)(const void *)converted,
                                .a_row = row,
                                .R = packed,
                                .stride = stride,
                                .beta = beta,
                                .C = c,
                                .ldc = ldc,
                                .descending = variant / 2 % 2};
    packing->multiply(&p);
    for (int64_t m = 0; m < rows; m++) {
        float inverse;
        const float scale = row_scale(x + m * K, K, &inverse);
        for (int64_t n = 0; n < ldc && (n < columns || m + 1 < rows); n++) {
            int64_t sum = 0;
            double real = beta ? c0[m * ldc + n] : 0;
            for (int64_t k = 0; n < columns && k < K; k++) {
                const uint32_t word = (uint32_t)w16[n * K + k] << 16;
                float weight;
                memcpy(&weight, &word, sizeof weight);
                if (int8)
                    sum += quantized(x[m * K + k], inverse) * w8[n * K + k];
                else
                    real += (double)x[m * K + k] * weight;
            }
            volatile float exact = 0; /* rounded, one operation at a time */
            if (n < columns) exact = scale * scales[n];
            exact = (float)sum * exact;
            if (beta) exact = c0[m * ldc + n] + exact;
            if (n >= columns)
                compare(name, "beside a narrow product", K, m * ldc + n, c[m * ldc + n], c0[m * ldc + n], 0);
            else if (!int8)
                compare(name, "product of bfloat16", K, m * ldc + n, c[m * ldc + n], real, (double)(50 + K) * 1.2e-7);
            else if (memcmp(&c[m * ldc + n], (float[]){exact}, sizeof(float)) != 0 && !isnan(exact + c[m * ldc + n]))
                fail(name, "product of int8", K, m * ldc + n, c[m * ldc + n], exact);
            else
                checks++;
        }
    }
    free_arrays();
}

static void check_narrow_types(const char *name, int64_t lanes, const frnn_packing_f32 *bf16,
                               const frnn_packing_f32 *int8) {
    const frnn_packing_f32 *packings[] = {bf16, int8};
    for (int i = 0; i < 2; i++) {
        if (!packings[i]->multiply) continue;           /* a set of its own has int8 alone */
        for (int variant = 0; variant < 120; variant++) /* every height of a tile, alone and followed by others */
            check_narrow(name, lanes, packings[i], variant % 60 + 1, integer(1, 140), integer(1, 90), variant, 0);
        for (int extreme = 1; extreme <= 2; extreme++)
            for (int64_t rows = 1; rows < 8; rows++) check_narrow(name, lanes, packings[i], rows, 18, 300, 0, extreme);
        check_narrow(name, lanes, packings[i], 1, 3, 700, 1, 0);
    }
    check_narrow(name, lanes, int8, 2, 2, (int64_t)1 << 17, 0, 1); /* the largest sum there is */
    check_narrow(name, lanes, int8, 5, 2, (int64_t)1 << 17, 0, 1);
}

#if FRNN_X86 && FRNN_NARROW_SETS
extern const frnn_narrow_set frnn_narrow_avx512_vnni, frnn_narrow_avx512_bf16, frnn_narrow_emulated_avx512_amx,
    frnn_narrow_emulated_avx2_vnni;
extern int emulated_tiles_configured;

/* Almost the right product. */
static void multiply_wrongly(const frnn_product_f32 *p) {
    frnn_narrow_avx512_vnni.int8.multiply(p);
    p->C[p->rows * p->ldc - 1] += 1e-6f;
}

/* Sets that this machine cannot run, with their instructions in plain C. */
static void check_emulated(void) {
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        const frnn_narrow_set *vnni = &frnn_narrow_emulated_avx2_vnni;
        check_narrow_types(vnni->name, 8, &vnni->bf16, &vnni->int8);
    }
    if (__builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni")) {
        const frnn_narrow_set *amx = &frnn_narrow_emulated_avx512_amx;
        check_narrow_types(amx->name, 16, &amx->bf16, &amx->int8);
        compare(amx->name, "tiles are released", 0, 0, emulated_tiles_configured, 0, 0);
        const frnn_packing_f32 *vnni = &frnn_narrow_avx512_vnni.int8, *bf16 = &frnn_narrow_avx512_bf16.bf16;
        frnn_packing_f32 wrong = *vnni;
        wrong.multiply = multiply_wrongly;
        compare(amx->name, "int8 agrees", 0, 0, frnn_packings_agree(&amx->int8, vnni, 16, 0), 1, 0);
        compare(amx->name, "bfloat16 agrees", 0, 0, frnn_packings_agree(&amx->bf16, bf16, 16, 1e-3f), 1, 0);
        compare(amx->name, "does not agree", 0, 0, frnn_packings_agree(&amx->int8, &wrong, 16, 0), 0, 0);
    }
}
#else
static void check_emulated(void) {}
#endif
