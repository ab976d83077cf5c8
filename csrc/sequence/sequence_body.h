/* A cell over a sequence, for one dtype. The file that includes this one has included f32.h or f64.h. */
#include <math.h>

#include "../blas/gemm.h"
#include "../kernels/kernels.h"
#include "../threads/team.h"
#include "plan.h"
#include "walk.h"

#include "common_body.h"
#include "factor_body.h"
#include "heads_body.h"
#include "norm_body.h"
#include "noise_body.h"
#include "forward_body.h"
#include "backward_body.h"
