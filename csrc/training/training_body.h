/* What surrounds recurrent layers in training, for one dtype. The file that includes this one has included
 * f32.h or f64.h. */
#include <float.h>
#include <math.h>

#include "../kernels/kernels.h"
#include "../sequence/walk.h"
#include "../threads/team.h"
#include "attention.h"
#include "products.h"
#include "search.h"
#include "softmax.h"
#include "tasks.h"

#include "../sequence/common_body.h"
#include "products_body.h"
#include "softmax_body.h"
#include "attention_body.h"
#include "search_body.h"
