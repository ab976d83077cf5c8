/* Gradients of tables: the rows of equal ids, added up. */
#include "rows.h"

#include <string.h>

#include "../compiler.h"
#include "../threads/team.h"

#define DIGIT_BITS 11
#define DIGITS (1 << DIGIT_BITS)

/* A radix sort, from the lowest digit to the highest. Each pass keeps the order of what is equal. */
int64_t frnn_sort_ids(int64_t N, const int64_t *ids, int64_t largest, int64_t *places, int64_t *starts, int64_t *work) {
    int passes = 1;
    while (passes * DIGIT_BITS < 63 && largest >> (passes * DIGIT_BITS)) passes++;
    int64_t *from = passes % 2 ? work : places, *to = passes % 2 ? places : work; /* the last pass writes to places */
    for (int64_t k = 0; k < N; k++) from[k] = k;
    for (int pass = 0; pass < passes; pass++) {
        int64_t at[DIGITS] = {0}, before = 0;
        for (int64_t k = 0; k < N; k++) at[ids[k] >> (pass * DIGIT_BITS) & (DIGITS - 1)]++;
        for (int digit = 0; digit < DIGITS; digit++) {
            const int64_t these = at[digit];
            at[digit] = before, before += these;
        }
        for (int64_t k = 0; k < N; k++) to[at[ids[from[k]] >> (pass * DIGIT_BITS) & (DIGITS - 1)]++] = from[k];
        int64_t *const other = from;
        from = to, to = other;
    }
    int64_t count = 0;
    for (int64_t k = 0; k < N; k++)
        if (k == 0 || ids[places[k]] != ids[places[k - 1]]) starts[count++] = k;
    starts[count] = N;
    return count;
}

typedef struct {
    frnn_dtype dtype;
    int64_t count, columns;
    const int64_t *places, *starts;
    const void *values;
    void *sums;
} rows;

#define DEFINE_SUM(REAL, D)                                                                                            \
    static void sum_##D(const rows *r, int64_t id) {                                                                   \
        REAL *sum = (REAL *)r->sums + id * r->columns;                                                                 \
        memset(sum, 0, (size_t)r->columns * sizeof(REAL));                                                             \
        for (int64_t k = r->starts[id]; k < r->starts[id + 1]; k++) {                                                  \
            const REAL *value = (const REAL *)r->values + r->places[k] * r->columns;                                   \
            for (int64_t column = 0; column < r->columns; column++) sum[column] += value[column];                      \
        }                                                                                                              \
    }

DEFINE_SUM(float, f32)
DEFINE_SUM(double, f64)

/* A member sums the ids whose rows begin in its share of all rows. */
static void sum_share(void *context, const frnn_team *team) {
    const rows *r = context;
    const int64_t N = r->starts[r->count], first = N * team->index / team->size,
                  end = N * (team->index + 1) / team->size;
    for (int64_t id = 0; id < r->count && r->starts[id] < end; id++)
        if (r->starts[id] >= first) (r->dtype == FRNN_F32 ? sum_f32 : sum_f64)(r, id);
}

void frnn_sum_rows(frnn_dtype dtype, int64_t count, int64_t columns, const int64_t *places, const int64_t *starts,
                   const void *values, void *sums, int threads) {
    rows r = {dtype, count, columns, places, starts, values, sums};
    const int64_t bytes = (starts[count] + count) * columns * (dtype == FRNN_F32 ? 4 : 8);
    frnn_team_run(threads, bytes / 20, sum_share, &r);
}
