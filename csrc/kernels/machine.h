/* Which instructions this machine has. Included by dispatch.c. */
#if FRNN_X86
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

static int has_avx2(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static int has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}

static int has_avx512_vnni(void) { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
static int has_avx512_bf16(void) { return has_avx512_vnni() && __builtin_cpu_supports("avx512bf16"); }

/* Not every compiler's __builtin_cpu_supports knows what follows. */
static int has_avx2_vnni(void) {
    unsigned a, b, c, d;
    return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

/* Linux wants to be asked before a process uses tiles: threads need more room for their registers then. */
static int has_amx(void) {
#if defined(__linux__) && defined(SYS_arch_prctl)
    enum { ASK_FOR = 0x1023, TILE_DATA = 18, BF16 = 1 << 22, TILES = 1 << 24, INT8 = 1 << 25 };
    unsigned a, b, c, d;
    return has_avx512_bf16() && __get_cpuid_count(7, 0, &a, &b, &c, &d) &&
           (d & (BF16 | TILES | INT8)) == (BF16 | TILES | INT8) && syscall(SYS_arch_prctl, ASK_FOR, TILE_DATA) == 0;
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
