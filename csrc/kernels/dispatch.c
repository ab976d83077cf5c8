/* Which kernel sets and cells there are, which sets this machine runs, and which one is used. */
#include "../hooks.h"
#include "kernels.h"
#include "machine.h"

#if FRNN_X86
extern const frnn_kernel_set frnn_kernels_avx512, frnn_kernels_avx2, frnn_kernels_sse2;
#elif FRNN_NEON
extern const frnn_kernel_set frnn_kernels_neon;
#endif
extern const frnn_kernel_set frnn_kernels_scalar;

#if FRNN_X86 && FRNN_NARROW_SETS
extern const frnn_narrow_set frnn_narrow_avx512_amx, frnn_narrow_avx512_bf16, frnn_narrow_avx512_vnni;
extern const frnn_narrow_set frnn_narrow_avx2_vnni;

/* Asked once, and tried: this set was written without a machine to run it on. */
static int has_amx_that_works(void) {
    static int answer = -1;
    if (answer < 0)
        answer = has_amx() && frnn_packings_agree(&frnn_narrow_avx512_amx.int8, &frnn_narrow_avx512_vnni.int8, 16, 0) &&
                 frnn_packings_agree(&frnn_narrow_avx512_amx.bf16, &frnn_narrow_avx512_bf16.bf16, 16, 1e-3f);
    return answer;
}
#elif FRNN_NARROW_SETS
extern const frnn_narrow_set frnn_narrow_neon_bf16, frnn_narrow_neon_dot;
#endif

/* An instruction set. One with instructions for narrow types takes all else from one without. */
typedef struct {
    const char *name;
    int (*runs_here)(void);
    const frnn_kernel_set *kernels;
    const frnn_narrow_set *int8, *bf16; /* or null */
} instruction_set;

/* Best first. */
static const instruction_set compiled[] = {
#if FRNN_X86 && FRNN_NARROW_SETS
    {"avx512_amx", has_amx_that_works, &frnn_kernels_avx512, &frnn_narrow_avx512_amx, &frnn_narrow_avx512_amx},
    {"avx512_bf16", has_avx512_bf16, &frnn_kernels_avx512, &frnn_narrow_avx512_vnni, &frnn_narrow_avx512_bf16},
    {"avx512_vnni", has_avx512_vnni, &frnn_kernels_avx512, &frnn_narrow_avx512_vnni, NULL},
#endif
#if FRNN_X86
    {"avx512", has_avx512, &frnn_kernels_avx512, NULL, NULL},
#endif
#if FRNN_X86 && FRNN_NARROW_SETS
    {"avx2_vnni", has_avx2_vnni, &frnn_kernels_avx2, &frnn_narrow_avx2_vnni, NULL},
#endif
#if FRNN_X86
    {"avx2", has_avx2, &frnn_kernels_avx2, NULL, NULL},
    {"sse2", has_all, &frnn_kernels_sse2, NULL, NULL},
#elif FRNN_NEON
#if FRNN_NARROW_SETS
    {"neon_bf16", has_neon_bf16, &frnn_kernels_neon, &frnn_narrow_neon_dot, &frnn_narrow_neon_bf16},
    {"neon_dot", has_neon_dot, &frnn_kernels_neon, &frnn_narrow_neon_dot, NULL},
#endif
    {"neon", has_all, &frnn_kernels_neon, NULL, NULL},
#endif
    {"scalar", has_all, &frnn_kernels_scalar, NULL, NULL},
};

static frnn_kernel_set selected;

static const instruction_set *nth(int index) {
    for (size_t k = 0; k < sizeof compiled / sizeof *compiled; k++)
        if (compiled[k].runs_here() && index-- == 0) return &compiled[k];
    return NULL;
}

const char *frnn_isa_name(int index) {
    const instruction_set *set = nth(index);
    return set ? set->name : NULL;
}

int frnn_isa_select(const char *name) {
    const instruction_set *set;
    for (int k = 0; (set = nth(k)) != NULL; k++)
        if (strcmp(set->name, name) == 0) {
            selected = *set->kernels;
            selected.name = set->name;
            if (set->int8) selected.f32.packings[FRNN_STORED_INT8] = set->int8->int8;
            if (set->bf16) selected.f32.packings[FRNN_STORED_BF16] = set->bf16->bf16;
            return 1;
        }
    return 0;
}

const frnn_kernel_set *frnn_kernels(void) { return &selected; }

/* Descriptions are the same in every set, and plain C is always there. */
const frnn_description *frnn_describe(int kind) {
    return kind >= 0 && kind < FRNN_CELL_COUNT ? &frnn_kernels_scalar.f32.cells[kind]->description : NULL;
}

int frnn_kind(const char *name) {
    for (int kind = 0; kind < FRNN_CELL_COUNT; kind++)
        if (strcmp(frnn_describe(kind)->name, name) == 0) return kind;
    return -1;
}

const char *frnn_isa_selected(void) { return selected.name; }

void frnn_tanh(frnn_dtype dtype, int64_t n, const void *x, void *y) {
    if (dtype == FRNN_F32)
        selected.f32.tanh(n, x, y);
    else
        selected.f64.tanh(n, x, y);
}

void frnn_sigmoid(frnn_dtype dtype, int64_t n, const void *x, void *y) {
    if (dtype == FRNN_F32)
        selected.f32.sigmoid(n, x, y);
    else
        selected.f64.sigmoid(n, x, y);
}

void frnn_log_sigmoid(frnn_dtype dtype, int64_t n, const void *x, void *y) {
    if (dtype == FRNN_F32)
        selected.f32.log_sigmoid(n, x, y);
    else
        selected.f64.log_sigmoid(n, x, y);
}
