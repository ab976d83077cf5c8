#include "dropout.h"

#include <string.h>

#include "../kernels/kernels.h"
#include "../threads/team.h"

typedef struct {
    frnn_dtype dtype;
    int64_t first, n;
    uint64_t key;
    uint32_t threshold;
    double scale;
    const char *x;
    char *y;
} dropout_call;

/* The values begin..end-1 of an array of which x and y begin at value `base`. Groups are whole at the beginning. */
static void drop(const dropout_call *call, const char *x, char *y, int64_t base, int64_t begin, int64_t end) {
    const uintptr_t size = call->dtype == FRNN_F32 ? 4 : 8, before = (uintptr_t)base * size;
    const void *from = (const void *)((uintptr_t)x - before);
    void *to = (void *)((uintptr_t)y - before);
    if (call->dtype == FRNN_F32)
        frnn_kernels()->f32.dropout(&(frnn_dropout_f32){call->key, call->threshold, (float)call->scale, from, to},
                                    begin, end);
    else
        frnn_kernels()->f64.dropout(&(frnn_dropout_f64){call->key, call->threshold, call->scale, from, to}, begin, end);
}

/* The values begin..end-1, all of one group, which may begin before them: in a copy of the group. */
static void drop_in_group(const dropout_call *call, int64_t begin, int64_t end) {
    const int64_t size = call->dtype == FRNN_F32 ? 4 : 8, base = begin / FRNN_DROPOUT_GROUP * FRNN_DROPOUT_GROUP;
    char group[FRNN_DROPOUT_GROUP * sizeof(double)] = {0}, *part = group + (begin - base) * size;
    memcpy(part, call->x + (begin - call->first) * size, (size_t)((end - begin) * size));
    drop(call, group, group, base, base, end);
    memcpy(call->y + (begin - call->first) * size, part, (size_t)((end - begin) * size));
}

static void drop_share(void *context, const frnn_team *team) {
    const dropout_call *call = context;
    const int64_t first = call->first / FRNN_DROPOUT_GROUP, all_end = call->first + call->n;
    const int64_t groups = (all_end + FRNN_DROPOUT_GROUP - 1) / FRNN_DROPOUT_GROUP - first;
    int64_t begin = FRNN_MAX(call->first, (first + groups * team->index / team->size) * FRNN_DROPOUT_GROUP);
    const int64_t end = FRNN_MIN(all_end, (first + groups * (team->index + 1) / team->size) * FRNN_DROPOUT_GROUP);
    if (begin < end && begin % FRNN_DROPOUT_GROUP) {
        const int64_t group_end = FRNN_MIN(end, (first + 1) * FRNN_DROPOUT_GROUP);
        drop_in_group(call, begin, group_end);
        begin = group_end;
    }
    if (begin < end) drop(call, call->x, call->y, call->first, begin, end);
}

void frnn_dropout(frnn_dtype dtype, int64_t first, int64_t n, const void *x, uint64_t key, uint32_t threshold,
                  double scale, int threads, void *y) {
    dropout_call call = {dtype, first, n, key, threshold, scale, x, y};
    frnn_team_run(threads, dtype == FRNN_F32 ? n / 2 : n, drop_share, &call);
}
