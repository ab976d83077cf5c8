/* A cell over a sequence, for one dtype. The file that includes this one defines REAL, its suffix as FN(name), KERNELS,
 * CELL_KERNELS and PACKING (types), KERNELS_OF (a member of a kernel set) and GEMM. */
#include "../blas/gemm.h"
#include "../kernels/kernels.h"
#include "../threads/team.h"
#include "plan.h"
#include "walk.h"

#include "common_body.h"
#include "factor_body.h"
#include "forward_body.h"
#include "backward_body.h"
