/* Which instructions this machine has. Included by dispatch.c. */
#if FRNN_X86
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* The processor is asked itself. __builtin_cpu_supports needs the compiler's own library, which clang does not link on
 * Windows, and which in zig knows no instruction set. */
enum { EAX, EBX, ECX, EDX };
static int has(unsigned leaf, unsigned subleaf, int place, unsigned bits) {
    unsigned word[4];
    return __get_cpuid_count(leaf, subleaf, &word[EAX], &word[EBX], &word[ECX], &word[EDX]) &&
           (word[place] & bits) == bits;
}

/* Whether the system saves these registers when it switches threads. */
static int saves(unsigned registers) {
    enum { OSXSAVE = 1 << 27 };
    unsigned low, high;
    if (!has(1, 0, ECX, OSXSAVE)) return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & registers) == registers;
}

static int has_avx2(void) {
    enum { FMA = 1 << 12, AVX = 1 << 28, AVX2 = 1 << 5, YMM = 6 };
    return has(1, 0, ECX, FMA | AVX) && has(7, 0, EBX, AVX2) && saves(YMM);
}

static int has_avx512(void) {
    enum { F = 1 << 16, DQ = 1 << 17, BW = 1 << 30, ZMM = 0xe6 };
    const unsigned VL = 1u << 31;
#if defined(__APPLE__)
    const int saved = 1; /* from their first use on: macOS does not say so before */
#else
    const int saved = saves(ZMM);
#endif
    return has_avx2() && has(7, 0, EBX, F | DQ | BW | VL) && saved;
}

static int has_avx512_vnni(void) { return has_avx512() && has(7, 0, ECX, 1 << 11); }
static int has_avx512_bf16(void) { return has_avx512_vnni() && has(7, 1, EAX, 1 << 5); }
static int has_avx2_vnni(void) { return has_avx2() && has(7, 1, EAX, 1 << 4); }

/* Linux wants to be asked before a process uses tiles: threads need more room for their registers then. */
static int has_amx(void) {
#if defined(__linux__) && defined(SYS_arch_prctl)
    enum { ASK_FOR = 0x1023, TILE_DATA = 18, BF16 = 1 << 22, TILES = 1 << 24, INT8 = 1 << 25 };
    return has_avx512_bf16() && has(7, 0, EDX, BF16 | TILES | INT8) && syscall(SYS_arch_prctl, ASK_FOR, TILE_DATA) == 0;
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
