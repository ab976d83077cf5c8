/* Every kernel of every instruction set that runs here, in both dtypes, against plain C in double.
 *
 * For machines that have no Python, or are emulated: .ci/ctests compiles and runs it. Arrays end, or begin, at guarded
 * pages.
 */
#include "check.h"

#include "../../csrc/kernels/kernels.h"

static const char *set; /* under test */
static int from_start;  /* of their memory lie the arrays */

/* Philox4x32-10, word by word. */
static void philox(uint32_t x[4], uint32_t k0, uint32_t k1) {
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        const uint64_t a = (uint64_t)0xD2511F53u * x[0], b = (uint64_t)0xCD9E8D57u * x[2];
        const uint32_t next[4] = {(uint32_t)(b >> 32) ^ x[1] ^ k0, (uint32_t)b, (uint32_t)(a >> 32) ^ x[3] ^ k1,
                                  (uint32_t)a};
        memcpy(x, next, sizeof next);
    }
}

/* Answers that its authors publish, in Random123's kat_vectors. */
static void check_philox(void) {
    uint32_t zeros[4] = {0}, ones[4] = {~0u, ~0u, ~0u, ~0u};
    philox(zeros, 0, 0);
    philox(ones, ~0u, ~0u);
    const uint32_t answers[8] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8,
                                 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd};
    for (int k = 0; k < 8; k++) compare(set, "philox", 8, k, k < 4 ? zeros[k] : ones[k - 4], answers[k], 0);
}

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

#define REAL float
#define REAL_EPS 1.1920929e-07
#define TINY 1.17549435e-38
#define OF f32
#define STORED FRNN_STORED_F32
#define FN(name) name##_f32
#include "kernels_body.h"
#undef REAL
#undef REAL_EPS
#undef TINY
#undef OF
#undef STORED
#undef FN

#define REAL double
#define REAL_EPS 2.220446049250313e-16
#define TINY 2.2250738585072014e-308
#define OF f64
#define STORED FRNN_STORED_F64
#define FN(name) name##_f64
#include "kernels_body.h"

#include "narrow.h"

int main(void) {
    for (int k = 0; (set = frnn_isa_name(k)) != NULL; k++) {
        frnn_isa_select(set);
        checks = 0;
        check_philox();
        const frnn_kernels_f32 *f32 = &frnn_kernels()->f32;
        for (from_start = 0; from_start < 2; from_start++) {
            check_f32(), check_f64();
            check_narrow_types(set, f32->lanes, &f32->packings[FRNN_STORED_BF16], &f32->packings[FRNN_STORED_INT8]);
        }
        if (report(set)) return 1;
    }
    checks = 0;
    for (from_start = 0; from_start < 2; from_start++) check_emulated();
    return report("sets without a machine");
}
