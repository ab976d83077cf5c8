/* For compilers without vector extensions, and other machines. */
#if defined(__GNUC__) && !defined(__clang__) && (defined(__x86_64__) || defined(__aarch64__))
#pragma GCC optimize("O2", "no-tree-vectorize") /* not used here unless somebody asks for it: as small as it can be */
#endif
#define ISA scalar
#define VECTOR_BYTES 0
#define VECTOR_REGISTERS 16
#include "kernels_isa.h"
