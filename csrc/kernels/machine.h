/* Which instructions this machine has. Included by dispatch.c. */
#if FRNN_X86
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* Registers of CPUID's leaves, in the order that it returns them. The compilers' __builtin_cpu_supports does not know
 * all instructions, and clang on Windows does not link the library that it needs. */
enum { EAX, EBX, ECX, EDX };

static int has_bits(unsigned leaf, unsigned subleaf, int of, unsigned bits) {
    unsigned registers[4] = {0};
    return __get_cpuid_count(leaf, subleaf, &registers[0], &registers[1], &registers[2], &registers[3]) &&
           (registers[of] & bits) == bits;
}

/* Whether the system saves these registers (bits of XCR0) when it switches threads. */
static int saves(unsigned state) {
    const unsigned osxsave = 1u << 27;
    unsigned low, high;
    if (!has_bits(1, 0, ECX, osxsave)) return 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & state) == state;
}

static int has_avx2(void) {
    enum { FMA = 1 << 12, AVX = 1 << 28, AVX2 = 1 << 5, YMM = 6 };
    return has_bits(1, 0, ECX, FMA | AVX) && has_bits(7, 0, EBX, AVX2) && saves(YMM);
}

static int has_avx512(void) {
    const unsigned f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31;
#if defined(__APPLE__)
    const unsigned zmm = 6; /* macOS begins to save the rest when a thread first uses it */
#else
    const unsigned zmm = 0xe6;
#endif
    return has_avx2() && has_bits(7, 0, EBX, f | dq | bw | vl) && saves(zmm);
}

static int has_avx512_vnni(void) { return has_avx512() && has_bits(7, 0, ECX, 1 << 11); }
static int has_avx512_bf16(void) { return has_avx512_vnni() && has_bits(7, 1, EAX, 1 << 5); }
static int has_avx2_vnni(void) { return has_avx2() && has_bits(7, 1, EAX, 1 << 4); }

/* Linux wants to be asked before a process uses tiles: threads need more room for their registers then. */
static int has_amx(void) {
#if defined(__linux__) && defined(SYS_arch_prctl)
    enum { ASK_FOR = 0x1023, TILE_DATA = 18, BF16 = 1 << 22, TILES = 1 << 24, INT8 = 1 << 25 };
    return has_avx512_bf16() && has_bits(7, 0, EDX, BF16 | TILES | INT8) &&
           syscall(SYS_arch_prctl, ASK_FOR, TILE_DATA) == 0;
#else
    return 0;
#endif
}

#elif FRNN_NEON
#if defined(__linux__)
#include <sys/auxv.h>
static int has_neon_dot(void) { return getauxval(AT_HWCAP) >> 20 & 1; }
static int has_neon_bf16(void) { return has_neon_dot() && (getauxval(AT_HWCAP2) >> 14 & 1); }
#elif defined(__APPLE__)
#include <sys/sysctl.h>
static int has(const char *feature) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(feature, &value, &size, NULL, 0) == 0 && value;
}
static int has_neon_dot(void) { return has("hw.optional.arm.FEAT_DotProd"); }
static int has_neon_bf16(void) { return has_neon_dot() && has("hw.optional.arm.FEAT_BF16"); }
#else
static int has_neon_dot(void) { return 0; }
static int has_neon_bf16(void) { return 0; }
#endif
#endif

static int has_all(void) { return 1; }
