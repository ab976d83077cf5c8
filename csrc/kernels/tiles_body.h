/* Products of narrow types by tiles (AMX). Included by narrow_types.h.
 *
 * A tile is a register of 16 rows of 64 bytes. One instruction adds the product of a tile of A, 16 rows of 16
 * arguments, and one of R, 16 words of a vector of columns, to a tile of sums. Both are in memory as tiles want them.
 *
 * MOST_TALL rows of C are three tiles high, fewer are two or one, with so many vectors of columns beside each other
 * that several sums hide the latency of one. Tiles 0 to 3 are sums, the next are of A, and what is left is of R. A
 * row's bits do not depend on how many there are: with bfloat16 every product goes this way; with int8 all ways give
 * the same bits.
 */
#define TILE_ROWS_MOST 16
#define MOST_TALL (3 * TILE_ROWS_MOST)
#define SUM_TILES 4
#define TILE_BYTES (16 * 64)
#define FEW_ROWS 4 /* of int8: plain vectors are not slower */

/* What ldtilecfg reads. */
typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_configuration;

static void configure_tiles(int64_t rows, int tiles) {
    tile_configuration c = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) {
        const int of_a = tile - SUM_TILES, row = (tile < SUM_TILES ? tile % tiles : of_a) * TILE_ROWS_MOST;
        const int all = of_a >= tiles; /* of R */
        c.rows[tile] = (uint8_t)(all ? TILE_ROWS_MOST : FRNN_MIN(TILE_ROWS_MOST, rows - row));
        c.row_bytes[tile] = 64;
    }
    __asm__ volatile("" : : "r"(&c) : "memory"); /* GCC's _tile_loadconfig does not say that it reads all of it */
    _tile_loadconfig(&c);
}

#define DOT_TILES(sum, a, r)                                                                                           \
    if (int8)                                                                                                          \
        _tile_dpbusd(sum, a, r);                                                                                       \
    else                                                                                                               \
        _tile_dpbf16ps(sum, a, r)

/* The sums of at most MOST_TALL rows and some vectors of columns: for one tile of rows up to 4, for two up to 2, for
 * three one. Sum i of vector v is tile v*tiles + i. */
static ALWAYS_INLINE void sum_tiles(const int int8, const int tiles, const int vectors, int64_t steps, const char *A,
                                    int64_t a_row, const char *R, int64_t stride,
                                    int32_t sums[MOST_TALL][SUM_TILES * VL_MOST]) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < steps; k++, A += 64, R += TILE_BYTES) {
        _tile_loadd(4, A, a_row);
        if (tiles == 1) {
            _tile_loadd(5, R, 64);
            DOT_TILES(0, 4, 5);
            if (vectors == 1) continue;
            _tile_loadd(6, R + stride, 64);
            DOT_TILES(1, 4, 6);
            if (vectors == 2) continue;
            _tile_loadd(7, R + 2 * stride, 64);
            DOT_TILES(2, 4, 7);
            if (vectors == 3) continue;
            _tile_loadd(5, R + 3 * stride, 64);
            DOT_TILES(3, 4, 5);
            continue;
        }
        _tile_loadd(5, A + TILE_ROWS_MOST * a_row, a_row);
        if (tiles == 2) {
            _tile_loadd(6, R, 64);
            DOT_TILES(0, 4, 6);
            DOT_TILES(1, 5, 6);
            if (vectors == 1) continue;
            _tile_loadd(7, R + stride, 64);
            DOT_TILES(2, 4, 7);
            DOT_TILES(3, 5, 7);
            continue;
        }
        _tile_loadd(6, A + 2 * TILE_ROWS_MOST * a_row, a_row);
        _tile_loadd(7, R, 64);
        DOT_TILES(0, 4, 7);
        DOT_TILES(1, 5, 7);
        DOT_TILES(2, 6, 7);
    }
#define STORE_TILE(tile)                                                                                               \
    if (tile < tiles * vectors)                                                                                        \
    _tile_stored(tile, &sums[tile % tiles * TILE_ROWS_MOST][tile / tiles * VL], sizeof *sums)
    STORE_TILE(0);
    STORE_TILE(1);
    STORE_TILE(2);
    STORE_TILE(3);
#undef STORE_TILE
}
#undef DOT_TILES

/* C = beta*C + A R, as NARROW(multiply). */
static ALWAYS_INLINE void multiply_tiles(const int int8, const product *p) {
    const int64_t head = (int8 ? 8 : 4) * VL, fill = int8 ? FILL_INT8 : FILL_BF16, steps = (p->K + fill - 1) / fill;
    for (int64_t m = 0; m < p->rows; m += MOST_TALL) {
        const int64_t rows = FRNN_MIN(MOST_TALL, p->rows - m);
        const int tiles = (int)((rows + TILE_ROWS_MOST - 1) / TILE_ROWS_MOST), wide = tiles == 1   ? 4
                                                                                      : tiles == 2 ? 2
                                                                                                   : 1;
        const char *A = (const char *)p->A + m * p->a_row;
        configure_tiles(rows, tiles);
        const int64_t blocks = (p->columns + wide * VL - 1) / (wide * VL);
        for (int64_t i = 0; i < blocks; i++) {
            const int64_t n = (p->descending ? blocks - 1 - i : i) * wide * VL;
            const int64_t width = FRNN_MIN(wide * VL, p->columns - n);
            const char *R = (const char *)p->R + n / VL * p->stride;
            int32_t sums[MOST_TALL][SUM_TILES * VL_MOST];
            sum_tiles(int8, tiles, (int)((width + VL - 1) / VL), steps, A + FRNN_ROW_HEAD, p->a_row, R + head,
                      p->stride, sums);
            for (int64_t row = 0; row < rows; row++)
                for (int64_t at = 0; at < width; at += VL) {
                    float *c = p->C + (m + row) * p->ldc + n + at;
                    const int64_t lanes = FRNN_MIN(VL, width - at);
                    const char *of = R + at / VL * p->stride;
                    const vec sum = load((const float *)sums[row] + at, VL);
                    const ivec wrapped = (ivec)((uvec)bits(sum) + (uvec)start_int8(of));
                    const vec result = int8 ? finish_int8(wrapped, of, A + row * p->a_row) : sum;
                    store(c, p->beta ? load(c, lanes) + result : result, lanes);
                }
        }
    }
    _tile_release();
}

extern const frnn_narrow_set frnn_narrow_avx512_vnni;

static void multiply_tiles_int8(const product *p) {
    if (p->rows < FEW_ROWS)
        frnn_narrow_avx512_vnni.int8.multiply(p);
    else
        multiply_tiles(1, p);
}

static void multiply_tiles_bf16(const product *p) { multiply_tiles(0, p); }

#define MULTIPLY_INT8 multiply_tiles_int8
#define MULTIPLY_BF16 multiply_tiles_bf16

#undef TILE_ROWS_MOST
#undef MOST_TALL
#undef SUM_TILES
#undef TILE_BYTES
#undef FEW_ROWS
