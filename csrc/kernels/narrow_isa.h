/* The kernels of narrow types of an instruction set that has instructions for them. The file that includes this one
 * defines ISA, VECTOR_BYTES and VECTOR_REGISTERS, as for kernels_isa.h. */
#include "kernels.h"
#include "names.h"

#include "float32.h"
#include "../simd/vector.h"
#include "narrow_types.h"

const frnn_narrow_set JOIN(frnn_narrow, ISA) = {
    .name = TEXT(ISA),
    .bf16 = FRNN_PACKING_BF16,
    .int8 = FRNN_PACKING_INT8,
};
