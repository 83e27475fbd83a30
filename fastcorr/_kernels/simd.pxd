"""The vector type: the only C text that the loops need.

`T` is a lane and `vec` a vector of `V` lanes; meson compiles the sources once per lane
type (-DFC_F32 …) and instruction set.  Cython takes both names for floats and writes
plain C operators, which GCC and Clang apply lane by lane.  Compilers without vector
types, and types that fit no vector (long double), get V = 1 from the same source.
"""

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    #if defined(FC_F32)
    typedef float fc_T;        typedef double fc_ACC;       typedef int32_t fc_bits;
    #elif defined(FC_F64)
    typedef double fc_T;       typedef double fc_ACC;       typedef int64_t fc_bits;
    #elif defined(FC_U16)
    typedef uint16_t fc_T;     typedef uint16_t fc_ACC;     typedef int16_t fc_bits;
    #elif defined(FC_U32)
    typedef uint32_t fc_T;     typedef uint32_t fc_ACC;     typedef int32_t fc_bits;
    #elif defined(FC_U64)
    typedef uint64_t fc_T;     typedef uint64_t fc_ACC;     typedef int64_t fc_bits;
    #else
    #define FC_SCALAR
    typedef long double fc_T;  typedef long double fc_ACC;
    #endif

    #if defined(__GNUC__) && !defined(FC_SCALAR)
    #define FC_INLINE static inline __attribute__((always_inline))
    /* 32 bytes also with AVX-512: every unaligned 64-byte load would cross a cache line. */
    #ifdef __AVX__
    #define FC_VBYTES 32
    #else
    #define FC_VBYTES 16
    #endif
    #define FC_V ((Py_ssize_t)(FC_VBYTES / sizeof(fc_T)))
    typedef fc_T fc_vec __attribute__((vector_size(FC_VBYTES)));
    typedef fc_T fc_loose
        __attribute__((vector_size(FC_VBYTES), aligned(__alignof__(fc_T)), may_alias));
    typedef fc_bits fc_mask __attribute__((vector_size(FC_VBYTES)));
    FC_INLINE fc_vec vload(const fc_T *p) { return *(const fc_loose *)p; }
    FC_INLINE void vstore(fc_T *p, fc_vec v) { *(fc_loose *)p = v; }
    FC_INLINE fc_vec vzero(void) { return (fc_vec){0}; }
    FC_INLINE fc_vec vsplat(const fc_T *p) { return *p - (fc_vec){0}; }
    FC_INLINE fc_vec vkeep(fc_vec v, fc_mask m) { return (fc_vec)((fc_mask)v & m); }
    FC_INLINE fc_mask vlast(Py_ssize_t n) {
        fc_mask m;
        for (Py_ssize_t i = 0; i < FC_V; i++) m[i] = i >= FC_V - n ? -1 : 0;
        return m;
    }
    FC_INLINE fc_T vlane(fc_vec v, Py_ssize_t i) { return v[i]; }
    #if defined(FC_F32) || defined(FC_F64)
    FC_INLINE fc_vec vabs(fc_vec v) { return (fc_vec)((fc_mask)v & ~(fc_mask)(-vzero())); }
    FC_INLINE fc_vec vmin(fc_vec a, fc_vec b) {
        fc_mask m = a < b;
        return (fc_vec)(((fc_mask)a & m) | ((fc_mask)b & ~m));
    }
    FC_INLINE fc_vec vquotient(fc_vec v, fc_T d) { return v / d; }
    /* max(v, 0): NaN stays, -0 does not. */
    FC_INLINE fc_vec vrelu(fc_vec v) { return vkeep(v, ~(v <= 0)); }
    /* 1 in lanes where a < b, else 0. */
    FC_INLINE fc_vec vless(fc_vec a, fc_vec b) { return vkeep(vzero() + 1, a < b); }
    #endif
    /* One of the log V steps of a transposition: runs of n lanes of a, of b, of a, … */
    #ifdef __clang__
    #define FC_MIX(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
    #else
    #define FC_MIX(a, b, ...) __builtin_shuffle(a, b, (fc_mask){__VA_ARGS__})
    #endif
    #if FC_VBYTES == 32 && defined(FC_F32)
    FC_INLINE fc_vec vfirst(fc_vec a, fc_vec b, int n) {
        return n == 1 ? FC_MIX(a, b, 0, 8, 2, 10, 4, 12, 6, 14)
             : n == 2 ? FC_MIX(a, b, 0, 1, 8, 9, 4, 5, 12, 13)
                      : FC_MIX(a, b, 0, 1, 2, 3, 8, 9, 10, 11);
    }
    FC_INLINE fc_vec vsecond(fc_vec a, fc_vec b, int n) {
        return n == 1 ? FC_MIX(a, b, 1, 9, 3, 11, 5, 13, 7, 15)
             : n == 2 ? FC_MIX(a, b, 2, 3, 10, 11, 6, 7, 14, 15)
                      : FC_MIX(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
    }
    #elif FC_VBYTES == 32 && defined(FC_F64) || FC_VBYTES == 16 && defined(FC_F32)
    FC_INLINE fc_vec vfirst(fc_vec a, fc_vec b, int n) {
        return n == 1 ? FC_MIX(a, b, 0, 4, 2, 6) : FC_MIX(a, b, 0, 1, 4, 5);
    }
    FC_INLINE fc_vec vsecond(fc_vec a, fc_vec b, int n) {
        return n == 1 ? FC_MIX(a, b, 1, 5, 3, 7) : FC_MIX(a, b, 2, 3, 6, 7);
    }
    #elif defined(FC_F64)
    FC_INLINE fc_vec vfirst(fc_vec a, fc_vec b, int n) { (void)n; return FC_MIX(a, b, 0, 2); }
    FC_INLINE fc_vec vsecond(fc_vec a, fc_vec b, int n) { (void)n; return FC_MIX(a, b, 1, 3); }
    #endif
    /* Keep a value in its register: GCC would load it anew for its second use. */
    #if defined(__x86_64__) || defined(__i386__)
    FC_INLINE fc_vec vhold(fc_vec v) { __asm__("" : "+x"(v)); return v; }
    #else
    FC_INLINE fc_vec vhold(fc_vec v) { return v; }
    #endif
    /* Neighbouring lanes as complex numbers: vswap (a, b) -> (b, a), vturn (a, b) -> (-b, a). */
    #ifdef __clang__
    #define FC_SHUFFLE(v, ...) __builtin_shufflevector(v, v, __VA_ARGS__)
    #else
    #define FC_SHUFFLE(v, ...) __builtin_shuffle(v, (fc_mask){__VA_ARGS__})
    #endif
    #if defined(FC_F32) && FC_VBYTES == 32
    FC_INLINE fc_vec vswap(fc_vec v) { return FC_SHUFFLE(v, 1, 0, 3, 2, 5, 4, 7, 6); }
    FC_INLINE fc_vec vturn(fc_vec v) { return vswap(v) * (fc_vec){-1, 1, -1, 1, -1, 1, -1, 1}; }
    #elif defined(FC_F32) || (defined(FC_F64) && FC_VBYTES == 32)
    FC_INLINE fc_vec vswap(fc_vec v) { return FC_SHUFFLE(v, 1, 0, 3, 2); }
    FC_INLINE fc_vec vturn(fc_vec v) { return vswap(v) * (fc_vec){-1, 1, -1, 1}; }
    #elif defined(FC_F64)
    FC_INLINE fc_vec vswap(fc_vec v) { return FC_SHUFFLE(v, 1, 0); }
    FC_INLINE fc_vec vturn(fc_vec v) { return vswap(v) * (fc_vec){-1, 1}; }
    #endif
    #else
    #define FC_INLINE static inline
    #define FC_V ((Py_ssize_t)1)
    typedef fc_T fc_vec;
    typedef int fc_mask;
    FC_INLINE fc_vec vload(const fc_T *p) { return *p; }
    FC_INLINE void vstore(fc_T *p, fc_vec v) { *p = v; }
    FC_INLINE fc_vec vzero(void) { return 0; }
    FC_INLINE fc_vec vsplat(const fc_T *p) { return *p; }
    FC_INLINE fc_vec vkeep(fc_vec v, fc_mask m) { return m ? v : 0; }
    FC_INLINE fc_mask vlast(Py_ssize_t n) { return n > 0; }
    FC_INLINE fc_T vlane(fc_vec v, Py_ssize_t i) { (void)i; return v; }
    FC_INLINE fc_vec vhold(fc_vec v) { return v; }
    FC_INLINE fc_vec vabs(fc_vec v) { return v < 0 ? -v : v; }
    FC_INLINE fc_vec vmin(fc_vec a, fc_vec b) { return a < b ? a : b; }
    FC_INLINE fc_vec vless(fc_vec a, fc_vec b) { return a < b; }
    FC_INLINE fc_vec vquotient(fc_vec v, fc_T d) { return v / d; }
    FC_INLINE fc_vec vrelu(fc_vec v) { return v <= 0 ? 0 : v; }
    FC_INLINE fc_vec vfirst(fc_vec a, fc_vec b, int n) { (void)b; (void)n; return a; }
    FC_INLINE fc_vec vsecond(fc_vec a, fc_vec b, int n) { (void)a; (void)n; return b; }
    #endif
    #if defined(FC_SCALAR) || !defined(__GNUC__) || !(defined(FC_F32) || defined(FC_F64))
    /* No complex lanes here: integers have none, and single lanes are split by the caller. */
    FC_INLINE fc_vec vswap(fc_vec v) { return v; }
    FC_INLINE fc_vec vturn(fc_vec v) { return v; }
    #define FC_COMPLEX 0
    #else
    #define FC_COMPLEX 1
    #endif

    #ifdef __GNUC__
    #define vprefetch(p) __builtin_prefetch(p)
    #else
    #define vprefetch(p) ((void)(p))
    #endif

    /* The register tiles, by the number of vector registers (32 or 16).  Correlation: rows x
       FC_C vectors of outputs; kernel gradient: rows x FC_B taps; many channels: FC_M x 2. */
    #if defined(__AVX512VL__) || defined(__aarch64__)
    #define FC_C 4
    #define FC_B 8
    #define FC_M 12
    #else
    #define FC_C 2
    #define FC_B 4
    #define FC_M 6
    #endif
    """
    ctypedef float T "fc_T"
    ctypedef float ACC "fc_ACC"
    ctypedef float vec "fc_vec"
    ctypedef int vmask "fc_mask"
    const Py_ssize_t V "FC_V"
    const int C_MAX "FC_C"
    const int B_MAX "FC_B"
    const int M_MAX "FC_M"
    const bint HAS_COMPLEX "FC_COMPLEX"
    vec vload(const T *p) noexcept nogil
    void vstore(T *p, vec v) noexcept nogil
    vec vzero() noexcept nogil
    vec vsplat(const T *p) noexcept nogil
    vec vkeep(vec v, vmask m) noexcept nogil
    vmask vlast(Py_ssize_t n) noexcept nogil
    vec vswap(vec v) noexcept nogil
    vec vturn(vec v) noexcept nogil
    T vlane(vec v, Py_ssize_t i) noexcept nogil
    vec vhold(vec v) noexcept nogil
    vec vabs(vec v) noexcept nogil
    vec vmin(vec a, vec b) noexcept nogil
    vec vless(vec a, vec b) noexcept nogil
    vec vquotient(vec v, T d) noexcept nogil
    void vprefetch(const T *p) noexcept nogil
    vec vrelu(vec v) noexcept nogil
    vec vfirst(vec a, vec b, int n) noexcept nogil
    vec vsecond(vec a, vec b, int n) noexcept nogil
