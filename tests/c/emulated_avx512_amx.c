/* The set avx512_amx with tiles in plain C, for machines with AVX512-BF16 but without AMX:
 * `frnn_narrow_emulated_avx512_amx`. What a machine would refuse ends the program. */
#include "../../csrc/compiler.h"
#if FRNN_X86 && FRNN_NARROW_SETS
#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>

int emulated_tiles_configured; /* whether there is a configuration that has to be released */

static struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} configuration;
static char tiles[8][16][64];

static void expect(int condition, const char *what) {
    if (!condition) fprintf(stderr, "tiles: %s\n", what), exit(3);
}

__attribute__((noinline)) static void emulated_configure(const void *from) {
    memcpy(&configuration, from, 64);
    expect(configuration.palette == 1 && configuration.start_row == 0, "palette");
    for (int k = 0; k < 14; k++) expect(configuration.reserved[k] == 0, "reserved bytes");
    for (int k = 0; k < 16; k++) {
        expect(configuration.rows[k] <= 16 && configuration.row_bytes[k] <= 64, "too large");
        expect(k < 8 ? configuration.rows[k] > 0 && configuration.row_bytes[k] > 0
                     : configuration.rows[k] == 0 && configuration.row_bytes[k] == 0,
               "sizes");
    }
    memset(tiles, 0, sizeof tiles);
    emulated_tiles_configured = 1;
}
static void emulated_release(void) { emulated_tiles_configured = 0; }

__attribute__((noinline)) static void emulated_load(int tile, const void *base, int64_t stride) {
    expect(emulated_tiles_configured, "not configured");
    memset(tiles[tile], 0, sizeof *tiles);
    for (int row = 0; row < configuration.rows[tile]; row++)
        memcpy(tiles[tile][row], (const char *)base + row * stride, configuration.row_bytes[tile]);
}
__attribute__((noinline)) static void emulated_store(int tile, void *base, int64_t stride) {
    expect(emulated_tiles_configured, "not configured");
    for (int row = 0; row < configuration.rows[tile]; row++)
        memcpy((char *)base + row * stride, tiles[tile][row], configuration.row_bytes[tile]);
}
static void emulated_zero(int tile) {
    expect(emulated_tiles_configured, "not configured");
    memset(tiles[tile], 0, sizeof *tiles);
}

static void expect_sizes(int c, int a, int b) {
    expect(emulated_tiles_configured, "not configured");
    expect(a != b && a != c && b != c, "the same tile twice");
    expect(configuration.rows[c] == configuration.rows[a], "rows of A and C");
    expect(configuration.row_bytes[c] == configuration.row_bytes[b], "columns of B and C");
    expect(configuration.row_bytes[a] == 4 * configuration.rows[b], "columns of A and rows of B");
}

__attribute__((noinline)) static void emulated_dpbusd(int c, int a, int b) {
    expect_sizes(c, a, b);
    for (int m = 0; m < configuration.rows[c]; m++)
        for (int n = 0; n < 16; n++) {
            uint32_t sum;
            memcpy(&sum, tiles[c][m] + 4 * n, 4);
            for (int k = 0; k < configuration.row_bytes[a]; k++)
                sum += (uint32_t)((uint8_t)tiles[a][m][k] * (int8_t)tiles[b][k / 4][4 * n + k % 4]);
            memcpy(tiles[c][m] + 4 * n, &sum, 4);
        }
}

static float widened(const char *half) {
    const char bytes[4] = {0, 0, half[0], half[1]};
    float value;
    memcpy(&value, bytes, 4);
    return value;
}
__attribute__((noinline)) static void emulated_dpbf16ps(int c, int a, int b) {
    expect_sizes(c, a, b);
    for (int m = 0; m < configuration.rows[c]; m++)
        for (int n = 0; n < 16; n++) {
            float sum;
            memcpy(&sum, tiles[c][m] + 4 * n, 4);
            for (int k = 0; k < configuration.row_bytes[a] / 2; k++)
                sum += widened(tiles[a][m] + 2 * k) * widened(tiles[b][k / 2] + 4 * n + k % 2 * 2);
            memcpy(tiles[c][m] + 4 * n, &sum, 4);
        }
}

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbusd
#undef _tile_dpbf16ps
#define _tile_loadconfig emulated_configure
#define _tile_release emulated_release
#define _tile_loadd emulated_load
#define _tile_stored(tile, to, stride) emulated_store(tile, to, (int64_t)(stride))
#define _tile_zero emulated_zero
#define _tile_dpbusd emulated_dpbusd
#define _tile_dpbf16ps emulated_dpbf16ps

#define TARGET "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,avx512vnni,avx512bf16"
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target(TARGET))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,avx512vnni,avx512bf16")
#endif
#include "../../csrc/simd/avx512.h"
#include "../../csrc/simd/avx512_vnni.h"
#include "../../csrc/simd/avx512_bf16.h"
#include "../../csrc/simd/avx512_amx.h"
#define ISA emulated_avx512_amx
#define VECTOR_BYTES 64
#define VECTOR_REGISTERS 32
#include "../../csrc/kernels/narrow_isa.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
