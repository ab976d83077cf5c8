/* Which kernel sets and cells there are, which sets this machine runs, and which one is used. */
#include "../hooks.h"
#include "kernels.h"

#if FRNN_X86
extern const frnn_kernel_set frnn_kernels_avx512, frnn_kernels_avx2, frnn_kernels_sse2;
extern const frnn_narrow_set frnn_narrow_avx512_bf16, frnn_narrow_avx512_vnni;
#elif FRNN_NEON
extern const frnn_kernel_set frnn_kernels_neon;
#endif
extern const frnn_kernel_set frnn_kernels_scalar;

/* An instruction set; one with instructions for narrow types takes all other kernels from one without. */
typedef struct {
    const frnn_kernel_set *kernels;
    const frnn_narrow_set *narrow; /* or null */
} instruction_set;

/* Best first. */
static const instruction_set compiled[] = {
#if FRNN_X86
    {&frnn_kernels_avx512, &frnn_narrow_avx512_bf16},
    {&frnn_kernels_avx512, &frnn_narrow_avx512_vnni},
    {&frnn_kernels_avx512, NULL},
    {&frnn_kernels_avx2, NULL},
    {&frnn_kernels_sse2, NULL},
#elif FRNN_NEON
    {&frnn_kernels_neon, NULL},
#endif
    {&frnn_kernels_scalar, NULL},
};

static frnn_kernel_set selected;

static const char *name_of(const instruction_set *set) { return set->narrow ? set->narrow->name : set->kernels->name; }

static int runs_here(const instruction_set *set) {
#if FRNN_X86
    __builtin_cpu_init();
    if (set->kernels == &frnn_kernels_avx512 &&
        !(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
          __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma")))
        return 0;
    if (set->kernels == &frnn_kernels_avx2 && !(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")))
        return 0;
    if (set->narrow == &frnn_narrow_avx512_vnni) return __builtin_cpu_supports("avx512vnni") != 0;
    if (set->narrow == &frnn_narrow_avx512_bf16)
        return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
#endif
    (void)set;
    return 1;
}

static const instruction_set *nth(int index) {
    for (size_t k = 0; k < sizeof compiled / sizeof *compiled; k++)
        if (runs_here(&compiled[k]) && index-- == 0) return &compiled[k];
    return NULL;
}

const char *frnn_isa_name(int index) {
    const instruction_set *set = nth(index);
    return set ? name_of(set) : NULL;
}

int frnn_isa_select(const char *name) {
    const instruction_set *set;
    for (int k = 0; (set = nth(k)) != NULL; k++)
        if (strcmp(name_of(set), name) == 0) {
            selected = *set->kernels;
            selected.name = name_of(set);
            if (set->narrow) {
                selected.f32.packings[FRNN_STORED_BF16] = set->narrow->bf16;
                selected.f32.packings[FRNN_STORED_INT8] = set->narrow->int8;
            }
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
