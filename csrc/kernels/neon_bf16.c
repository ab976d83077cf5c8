/* NEON with sums of products of bfloat16. */
#include "../compiler.h"
#if FRNN_NEON && FRNN_NARROW_SETS
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("bf16"))), apply_to = function)
#else
#pragma GCC target("arch=armv8.2-a+bf16")
#endif
#include "../simd/neon.h"
#include "../simd/neon_bf16.h"
#define ISA neon_bf16
#define VECTOR_BYTES 16
#define VECTOR_REGISTERS 32
#include "narrow_isa.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
