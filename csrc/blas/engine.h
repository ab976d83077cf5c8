/* The blas engine for one dtype. The includer defines REAL, its suffix as FN(name), KERNELS, KERNELS_OF, ROW, GEMM. */
#include "../kernels/kernels.h"
#include "../team.h"
#include "gemm.h"
#include "plan.h"
#include "walk.h"

#include "common_body.h"
#include "forward_body.h"
#include "backward_body.h"
