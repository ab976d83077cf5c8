/* Both dtypes of one instruction set, as the table PROBE. Included by probe.c only, which defines ISA, VECTOR_BYTES and
 * TARGET, and here they end. */
#define REAL float
#define FN(name) JOIN(name, JOIN(ISA, f32))
#include "probe_body.h"
#undef REAL
#undef FN

#define REAL double
#define FN(name) JOIN(name, JOIN(ISA, f64))
#include "probe_body.h"
#undef REAL
#undef FN

static const probe JOIN(probe, ISA) = {
    TEXT(ISA),
    VECTOR_BYTES,
    {JOIN(multiply_add, JOIN(ISA, f32)), JOIN(multiply_add, JOIN(ISA, f64))},
    {JOIN(read, JOIN(ISA, f32)), JOIN(read, JOIN(ISA, f64))},
};

#undef ISA
#undef VECTOR_BYTES
#undef TARGET
