/* What this machine can do at best: multiply-adds in registers, and reading from a cache. For benchmarks.
 *
 * Each call is one thread's; callers run as many at once as they want to know of, and take the time.
 */
#include "../compiler.h"
#include "../hooks.h"

/* Sums hide the latency of two multiply-adds a cycle, and leave some of 16 registers. They have names, not indices: a
 * compiler that exchanges loops would keep an array in memory. */
#define EACH_READ(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define EACH_SUM(X) EACH_READ(X) X(8) X(9) X(10) X(11)
#define SUMS 12
#define READS 8
#define READ_BYTES (READS * 64) /* of the widest vectors */

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)

/* One instruction set's, for float and double. */
typedef struct {
    const char *isa;
    int vector_bytes;
    double (*multiply_add[2])(int64_t repeats);
    double (*read[2])(const void *data, int64_t bytes, int64_t repeats);
} probe;

/* What a set has for values of fewer bits. */
typedef struct {
    const char *isa;
    int bytes;    /* of a value: 1 is int8, 2 is bfloat16 */
    int products; /* multiply-adds of an instruction */
    double (*dot)(int64_t repeats);
} narrow_probe;

#if FRNN_X86
#include <immintrin.h>
#elif FRNN_NEON
#include <arm_neon.h>
#endif

#if FRNN_X86
#define ISA avx512
#define VECTOR_BYTES 64
#define TARGET __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")))
#include "probe_isa.h"

#define ISA avx2
#define VECTOR_BYTES 32
#define TARGET __attribute__((target("avx2,fma")))
#include "probe_isa.h"

#define ISA sse2
#define VECTOR_BYTES 16
#define TARGET
#include "probe_isa.h"
#elif FRNN_NEON
#define ISA neon
#define VECTOR_BYTES 16
#define TARGET
#include "probe_isa.h"
#endif

#define ISA scalar
#define VECTOR_BYTES 0
#define TARGET
#include "probe_isa.h"

#include "probe_narrow.h"

/* Whether the selected set is this one, or this one and more. */
static int selected_has(const char *isa) { return strncmp(isa, frnn_isa_selected(), strlen(isa)) == 0; }

static const probe *selected(void) {
    static const probe *const probes[] = {
#if FRNN_X86
        &probe_avx512,
        &probe_avx2,
        &probe_sse2,
#elif FRNN_NEON
        &probe_neon,
#endif
        &probe_scalar,
    };
    for (size_t k = 0; k + 1 < sizeof probes / sizeof *probes; k++)
        if (selected_has(probes[k]->isa)) return probes[k];
    return &probe_scalar;
}

int64_t frnn_probe_multiply_add(int bytes, int64_t repeats, double *result) {
    for (const narrow_probe *n = narrow_probes; n->isa; n++)
        if (n->bytes == bytes && selected_has(n->isa)) {
            *result = n->dot(repeats);
            return 2 * SUMS * n->products * repeats;
        }
    const probe *p = selected();
    const int64_t size = FRNN_MAX(bytes, (int)sizeof(float)); /* without instructions, values are widened */
    const int64_t lanes = p->vector_bytes ? p->vector_bytes / size : 1;
    *result = p->multiply_add[size > (int)sizeof(float)](repeats);
    return 2 * SUMS * lanes * repeats;
}

int64_t frnn_probe_read(frnn_dtype dtype, const void *data, int64_t bytes, int64_t repeats, double *result) {
    const int64_t whole = bytes / READ_BYTES * READ_BYTES;
    *result = selected()->read[dtype != FRNN_F32](data, whole, repeats);
    return whole * repeats;
}
