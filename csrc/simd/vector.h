/* A vector of REAL, VECTOR_BYTES wide, in the vector extensions of GCC and clang; one REAL where there are none.
 *
 * Included once per (instruction set, dtype); the includer defines REAL, INTEGER and UNSIGNED (as wide), REAL_BITS,
 * VECTOR_BYTES and FN(name), which adds a suffix for the dtype. VECTOR_BYTES 0 asks for the scalar form. What an
 * instruction set has beyond vector extensions is in simd/<its name>.h.
 */
#undef VL
#undef VL_MOST /* VL where the language wants a constant */
#if VECTOR_BYTES
#define VL_MOST (VECTOR_BYTES * 8 / REAL_BITS)
#define VL ((int64_t)(VECTOR_BYTES / sizeof(REAL)))
typedef REAL FN(vec) __attribute__((vector_size(VECTOR_BYTES)));
typedef INTEGER FN(ivec) __attribute__((vector_size(VECTOR_BYTES)));
typedef UNSIGNED FN(uvec) __attribute__((vector_size(VECTOR_BYTES)));
typedef REAL FN(vec_unaligned) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
#else
#define VL ((int64_t)1)
#define VL_MOST 1
typedef REAL FN(vec);
typedef INTEGER FN(ivec);
typedef UNSIGNED FN(uvec);
#endif
#define vec FN(vec)
#define ivec FN(ivec)
#define uvec FN(uvec)

/* Lanes beyond `lanes` are zero, and nothing there is read. With a constant `lanes` of VL this is one instruction. */
static ALWAYS_INLINE vec FN(load)(const REAL *p, int64_t lanes) {
#if VECTOR_BYTES
    if (lanes >= VL) return *(const FN(vec_unaligned) *)p;
#ifdef HAS_MASKS
    return (vec)FN(load_some)(p, lanes);
#endif
    vec v = {0};
    for (int64_t k = 0; k < lanes; k++) v[k] = p[k];
    return v;
#else
    (void)lanes;
    return *p;
#endif
}

static ALWAYS_INLINE void FN(store)(REAL *p, vec v, int64_t lanes) {
#if VECTOR_BYTES
    if (lanes >= VL) {
        *(FN(vec_unaligned) *)p = v;
        return;
    }
#ifdef HAS_MASKS
    FN(store_some)(p, v, lanes);
    return;
#endif
    for (int64_t k = 0; k < lanes; k++) p[k] = v[k];
#else
    (void)lanes;
    *p = v;
#endif
}

static ALWAYS_INLINE vec FN(splat)(REAL a) {
#if VECTOR_BYTES
    return a - (vec){0};
#else
    return a;
#endif
}

static ALWAYS_INLINE ivec FN(bits)(vec a) {
#if VECTOR_BYTES
    return (ivec)a;
#else
    ivec i;
    memcpy(&i, &a, sizeof i);
    return i;
#endif
}

static ALWAYS_INLINE vec FN(from_bits)(ivec i) {
#if VECTOR_BYTES
    return (vec)i;
#else
    vec a;
    memcpy(&a, &i, sizeof a);
    return a;
#endif
}

/* Transposes VL vectors of VL lanes: exchanges the off-diagonal blocks of ever larger squares. */
#if VECTOR_BYTES && FRNN_SHUFFLES
#define LOW(l, d) ((l) & (d) ? VL + (l) - (d) : (l))
#define HIGH(l, d) ((l) & (d) ? VL + (l) : (l) + (d))
#define LANES_2(F, d, l) F(l, d), F(l + 1, d)
#define LANES_4(F, d, l) LANES_2(F, d, l), LANES_2(F, d, l + 2)
#define LANES_8(F, d, l) LANES_4(F, d, l), LANES_4(F, d, l + 4)
#define LANES_16(F, d, l) LANES_8(F, d, l), LANES_8(F, d, l + 8)
#if VECTOR_BYTES * 8 / REAL_BITS == 2
#define LANES LANES_2
#elif VECTOR_BYTES * 8 / REAL_BITS == 4
#define LANES LANES_4
#elif VECTOR_BYTES * 8 / REAL_BITS == 8
#define LANES LANES_8
#else
#define LANES LANES_16
#endif
#define EXCHANGE(d)                                                                                                    \
    UNROLL_FOR(int i = 0; i < VL; i++)                                                                                 \
        if (!(i & (d))) {                                                                                              \
            const vec a = rows[i], b = rows[i + (d)];                                                                  \
            rows[i] = __builtin_shufflevector(a, b, LANES(LOW, d, 0));                                                 \
            rows[i + (d)] = __builtin_shufflevector(a, b, LANES(HIGH, d, 0));                                          \
        }
static ALWAYS_INLINE void FN(transpose)(vec *rows) {
    EXCHANGE(1)
#if VECTOR_BYTES * 8 / REAL_BITS > 2
    EXCHANGE(2)
#endif
#if VECTOR_BYTES * 8 / REAL_BITS > 4
    EXCHANGE(4)
#endif
#if VECTOR_BYTES * 8 / REAL_BITS > 8
    EXCHANGE(8)
#endif
}
#undef LOW
#undef HIGH
#undef LANES_2
#undef LANES_4
#undef LANES_8
#undef LANES_16
#undef LANES
#undef EXCHANGE
#elif VECTOR_BYTES
static ALWAYS_INLINE void FN(transpose)(vec *rows) {
    for (int i = 0; i < VL; i++)
        for (int k = 0; k < i; k++) {
            const REAL a = rows[i][k];
            rows[i][k] = rows[k][i], rows[k][i] = a;
        }
}
#else
static ALWAYS_INLINE void FN(transpose)(vec *rows) { (void)rows; }
#endif

/* a where x < y, else b; b where x or y is NaN. Compiles to a compare and a blend. */
static ALWAYS_INLINE vec FN(where_less)(vec x, vec y, vec a, vec b) {
#if VECTOR_BYTES
    const ivec mask = (ivec)(x < y);
    return FN(from_bits)((mask & FN(bits)(a)) | (~mask & FN(bits)(b)));
#else
    return x < y ? a : b;
#endif
}

/* a/b for 1 <= b: where the instruction set estimates 1/b, to 12 bits or more, Newton's steps and one correction of the
 * quotient take less time than a division. Where 1/b is not normal the result is 0. */
static ALWAYS_INLINE vec FN(quotient)(vec a, vec b) {
#if REAL_BITS == 32 && defined(ESTIMATE_F32)
    vec y = ESTIMATE_F32(b);
#elif REAL_BITS == 64 && defined(ESTIMATE_F64)
    vec y = ESTIMATE_F64(b);
    y += y * (1 - b * y);
#else
    return a / b;
#endif
#if defined(ESTIMATE_F32) && REAL_BITS == 32 || defined(ESTIMATE_F64) && REAL_BITS == 64
    y += y * (1 - b * y);
    const vec q = a * y;
    return q + y * (a - q * b);
#endif
}

/* a*b + c, rounded once where the instruction set can: for c that is a product itself, of which a compiler may contract
 * the one or the other, in the last vector of a row otherwise than in the rest. */
static ALWAYS_INLINE vec FN(multiply_add)(vec a, vec b, vec c) {
#if REAL_BITS == 32 && defined(FUSED_F32)
    return (vec)FUSED_F32(a, b, c);
#elif REAL_BITS == 64 && defined(FUSED_F64)
    return (vec)FUSED_F64(a, b, c);
#else
    return a * b + c;
#endif
}

/* The square root, correctly rounded as IEEE 754 wants it. */
static ALWAYS_INLINE vec FN(square_root)(vec a) {
#if REAL_BITS == 32 && defined(ROOT_F32)
    return (vec)ROOT_F32(a);
#elif REAL_BITS == 64 && defined(ROOT_F64)
    return (vec)ROOT_F64(a);
#else
    return (REAL)sqrt(a); /* of a float it rounds as sqrtf */
#endif
}

#define load FN(load)
#define store FN(store)
#define splat FN(splat)
#define bits FN(bits)
#define from_bits FN(from_bits)
#define transpose FN(transpose)
#define where_less FN(where_less)
#define quotient FN(quotient)
#define multiply_add FN(multiply_add)
#define square_root FN(square_root)
