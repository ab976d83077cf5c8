/* For compilers without vector extensions, and other machines. */
#define ISA scalar
#define VECTOR_BYTES 0
#define VECTOR_REGISTERS 16
#include "kernels_isa.h"
