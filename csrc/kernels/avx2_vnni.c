/* AVX2 with sums of products of int8 (AVX-VNNI). */
#include "../compiler.h"
#if FRNN_X86 && FRNN_NARROW_SETS
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,avxvnni"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,avxvnni")
#endif
#include "../simd/avx2.h"
#include "../simd/avx2_vnni.h"
#define ISA avx2_vnni
#define VECTOR_BYTES 32
#define VECTOR_REGISTERS 16
#include "narrow_isa.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
