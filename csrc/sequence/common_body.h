/* What both passes use, for one dtype. */

/* The next `count` values of the workspace at `base`, from a 64-byte boundary on; null for none. */
static REAL *FN(take)(char *base, size_t *used, int64_t count) {
    REAL *p = base && count > 0 ? (REAL *)(base + *used) : NULL;
    *used += ((size_t)count * sizeof(REAL) + 63) / 64 * 64;
    return p;
}

static inline REAL *FN(series_at)(const frnn_series *series, int64_t t, int64_t b) {
    return (REAL *)series->data + t * series->stride_t + b * series->stride_b;
}

static void FN(copy_or_clear)(REAL *to, const REAL *from, int64_t n) {
    if (from)
        memcpy(to, from, (size_t)n * sizeof(REAL));
    else
        memset(to, 0, (size_t)n * sizeof(REAL));
}

/* For each valid (t, b) of a chunk that is this member's: at is its row in the chunk's arrays, j its row in the block. */
#define FOR_CHUNK_ROWS(chunk, steps, j0, team)                                                                         \
    for (int64_t t = (chunk)->low; t < (chunk)->high; t++)                                                             \
        for (int64_t j = ((team)->index + (team)->size - t % (team)->size) % (team)->size,                             \
                     at = (chunk)->offset[t - (chunk)->low] + j, b;                                                    \
             at < (chunk)->offset[t - (chunk)->low + 1] && (b = frnn_row(steps, (j0) + j), 1);                         \
             j += (team)->size, at += (team)->size)

/* Rows of a series into a chunk's array of `n` values a row. */
static void FN(gather)(const frnn_series *from, const frnn_steps *steps, const frnn_chunk *chunk, int64_t j0, int64_t n,
                       REAL *to, const frnn_team *team) {
    FOR_CHUNK_ROWS(chunk, steps, j0, team)
        memcpy(to + at * n, FN(series_at)(from, t, b), (size_t)n * sizeof(REAL));
}
