/* NEON with sums of products of int8. */
#include "../compiler.h"
#if FRNN_NEON && FRNN_NARROW_SETS
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif
#include "../simd/neon.h"
#include "../simd/neon_dot.h"
#define ISA neon_dot
#define VECTOR_BYTES 16
#define VECTOR_REGISTERS 32
#include "narrow_isa.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
