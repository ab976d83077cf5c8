/* Every kernel of every instruction set that runs here, in both dtypes, against plain C in double.
 *
 * For machines that have no Python, or are emulated: .ci/neon compiles and runs it. Arrays end, or begin, at guarded
 * pages.
 */
#include "check.h"

#include "../../csrc/kernels/kernels.h"

static const char *set; /* under test */
static int from_start;  /* of their memory lie the arrays */

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

int main(void) {
    for (int k = 0; (set = frnn_isa_name(k)) != NULL; k++) {
        frnn_isa_select(set);
        checks = 0;
        for (from_start = 0; from_start < 2; from_start++) check_f32(), check_f64();
        if (report(set)) return 1;
    }
    return 0;
}
