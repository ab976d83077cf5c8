/* What differs between compilers and machines, in one place. */
#ifndef FRNN_COMPILER_H
#define FRNN_COMPILER_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#define UNROLL_4 _Pragma("clang loop unroll_count(4)")
#elif defined(__GNUC__)
#define UNROLL _Pragma("GCC unroll 16")
#define UNROLL_4 _Pragma("GCC unroll 4")
#else
#define UNROLL
#define UNROLL_4
#endif

#if defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 12)
#define FRNN_SHUFFLES 1 /* __builtin_shufflevector */
#endif

#if defined(_MSC_VER)
#define FRNN_THREAD_LOCAL __declspec(thread)
#else
#define FRNN_THREAD_LOCAL _Thread_local
#endif

/* Loops whose iterations are written out, all of them or four at a time. */
#define UNROLL_FOR(...) UNROLL for (__VA_ARGS__)
#define UNROLL_FOR_4(...) UNROLL_4 for (__VA_ARGS__)

#if defined(__GNUC__) || defined(__clang__)
#define ALWAYS_INLINE inline __attribute__((always_inline))
#define NEVER_INLINE __attribute__((noinline)) /* what is long and called from several places */
#define PREFETCH(p) __builtin_prefetch(p, 1)
#define PREFETCH_NEAR(p) __builtin_prefetch(p, 0, 2)
#define FRNN_VECTORS 1 /* vector extensions */
#elif defined(_MSC_VER)
#define ALWAYS_INLINE __forceinline
#define NEVER_INLINE __declspec(noinline)
#define PREFETCH(p) (void)(p)
#define PREFETCH_NEAR(p) (void)(p)
#define FRNN_VECTORS 0
#else
#define ALWAYS_INLINE inline
#define NEVER_INLINE
#define PREFETCH(p) (void)(p)
#define PREFETCH_NEAR(p) (void)(p)
#define FRNN_VECTORS 0
#endif

#if FRNN_VECTORS && defined(__x86_64__)
#define FRNN_X86 1
#elif FRNN_VECTORS && defined(__aarch64__)
#define FRNN_NEON 1
#endif

/* Whether the compiler knows the instructions for narrow types: GCC 11, clang 12, on ARM 16 (Apple's 15). Sets that
 * need them are left out where it does not. */
#if FRNN_X86
#if __has_include(<avxvnniintrin.h>)
#define FRNN_NARROW_SETS 1
#endif
#elif FRNN_NEON
#if !defined(__clang__) || __clang_major__ >= (defined(__apple_build_version__) ? 15 : 16)
#if __has_include(<arm_bf16.h>)
#define FRNN_NARROW_SETS 1
#endif
#endif
#endif

#if !defined(FRNN_NO_THREADS)
#if defined(__unix__) || defined(__APPLE__)
#define FRNN_THREADS 1
#define FRNN_POSIX 1 /* its threads, and fork */
#elif defined(_WIN32)
#define FRNN_THREADS 1
#endif
#endif

/* From here on the variable, a float or a vector of them, is a rounded value: a compiler may not contract the operation
 * that made it with one that uses it. */
#if FRNN_X86
#define ROUNDED(v) __asm__("" : "+v"(v))
#elif FRNN_NEON
#define ROUNDED(v) __asm__("" : "+w"(v))
#elif FRNN_VECTORS
#define ROUNDED(v) __asm__("" : "+m"(v))
#else
#define ROUNDED(v) (void)(v)
#endif

#define FRNN_MIN(a, b) ((a) < (b) ? (a) : (b))
#define FRNN_MAX(a, b) ((a) > (b) ? (a) : (b))

#endif
