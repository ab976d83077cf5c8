#include "dropout.h"

#include "../kernels/kernels.h"
#include "../threads/team.h"

typedef struct {
    frnn_dtype dtype;
    int64_t n;
    frnn_dropout_f32 f32; /* one of the two */
    frnn_dropout_f64 f64;
} dropout_call;

static void drop_share(void *context, const frnn_team *team) {
    const dropout_call *call = context;
    const int64_t groups = (call->n + FRNN_DROPOUT_GROUP - 1) / FRNN_DROPOUT_GROUP;
    const int64_t begin = groups * team->index / team->size * FRNN_DROPOUT_GROUP;
    const int64_t end = FRNN_MIN(call->n, groups * (team->index + 1) / team->size * FRNN_DROPOUT_GROUP);
    if (call->dtype == FRNN_F32)
        frnn_kernels()->f32.dropout(&call->f32, begin, end);
    else
        frnn_kernels()->f64.dropout(&call->f64, begin, end);
}

void frnn_dropout(frnn_dtype dtype, int64_t n, const void *x, uint64_t key, uint32_t threshold, double scale,
                  int threads, void *y) {
    dropout_call call = {.dtype = dtype, .n = n};
    if (dtype == FRNN_F32)
        call.f32 = (frnn_dropout_f32){key, threshold, (float)scale, x, y};
    else
        call.f64 = (frnn_dropout_f64){key, threshold, scale, x, y};
    frnn_team_run(threads, dtype == FRNN_F32 ? n / 2 : n, drop_share, &call);
}
