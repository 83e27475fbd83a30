"""Correlation by Fourier transforms of tiles, overlap-save, and its kernel gradient.

    y[i, j]  = sum over a, b of  X[o0 + i + a, o1 + j + b] * k[a, b]
    dk[a, b] = sum over i, j of  conj(X[o0 + i + a, o1 + j + b]) * g[i, j]

A tile of n0 x n1 elements of the continued image X, transformed, times the kernel's spectrum,
transformed back, holds (n0 - kh + 1) x (n1 - kw + 1) outputs that no wrapping has touched.  Two
tiles of a real image are one complex tile, its real and its imaginary part: the kernel is real,
so the parts do not mix, and no transform of real numbers is needed.

The transforms are our own, for three reasons.  The spectrum is only multiplied, so its order is
free: decimation in frequency forth and in time back need no permutation.  Vectors run across
columns, so that every butterfly is plain arithmetic on whole vectors; for the transforms along
rows V rows are turned in registers (`_turn`) into a buffer that stays in the first-level cache
from the transform forth over the product to the transform back.  And nothing but the tile is
ever touched: the image is read through its boundary rule, results go straight into y.

    _gather_tile   image -> z, rows of n1 real and n1 imaginary parts
    _columns       transforms along columns, a cache line of them at a time
    _rows          V rows: turned, transformed, times the spectrum, back, turned back
    _columns       back
    _put           z -> y

The spectrum of a kernel comes from the same steps, so it lies in the same order (`spectrum`).

The kernel gradient is the correlation of tiles of X with tiles of g.  Their products are added
as spectra, over a slab of tiles, and transformed back once.  Of two pairs of real tiles the
product has the sum of both correlations in its real part; what is in the other is not used.

What a transform rounds is spread evenly over a tile, so it is small beside the tile, not beside
each output.  With `Limits` a pair of tiles is computed only where its error stays within the
bound of the direct sum; the blocks of outputs where it may not, and pairs that hold NaN or
infinities, are marked in `failed` and left to the caller.

Bits depend on the shapes, the type and the values, never on layout or workers.

Contract: the caller has checked shapes, dtypes and the number of workers.  Here nothing is.
"""
cimport numpy as cnp
from libc.math cimport fabs, sqrt
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memset

from fastcorr._kernels.boundary cimport FILL
from fastcorr._kernels.simd cimport (
    ACC, T, V, vabs, vec, vfirst, vlane, vless, vload, vmin, vsecond, vsplat, vstore, vzero,
)

include "tasks.pxi"
include "image.pxi"

cdef enum:
    LINE = 64           # bytes of columns that are transformed at a time

# A pixel is small below this part of the root mean square of its tile.
cdef double SMALL = 0.2
cdef double SMALL_X = 0.05      # in the kernel gradient, of the image
# Sums of squares that are neither overflown nor rounded by underflow.
cdef double LEAST_SQUARES = 1e-24 if sizeof(T) == 4 else 1e-200
cdef double MOST_SQUARES = 1e24 if sizeof(T) == 4 else 1e200
# Added and taken away, it rounds to integers below MOST_INTEGER.
cdef T MAGIC = <T> (12582912.0 if sizeof(T) == 4 else 6755399441055744.0)

cdef double MOST_INTEGER = 4194304.0 if sizeof(T) == 4 else 2251799813685248.0

cdef T SQRT_HALF = <T> 0.70710678118654752440
cdef T HALF = <T> 0.5
cdef T SIN_3 = <T> 0.86602540378443864676       # sin(2 pi / 3)
cdef T COS_5 = <T> 0.30901699437494742410       # cos, sin(2 pi / 5), cos, sin(4 pi / 5)
cdef T SIN_5 = <T> 0.95105651629515357212
cdef T COS2_5 = <T> -0.80901699437494742410
cdef T SIN2_5 = <T> 0.58778525229247312917


# ---------------------------------------------------------------- butterflies

# Up to eight complex vectors.  Fields, not arrays: the compiler keeps them in registers.
cdef struct Eight:
    vec r0
    vec i0
    vec r1
    vec i1
    vec r2
    vec i2
    vec r3
    vec i3
    vec r4
    vec i4
    vec r5
    vec i5
    vec r6
    vec i6
    vec r7
    vec i7


cdef inline void _times(vec *r, vec *i, const T *w) noexcept nogil:
    """(r, i) times the complex number w."""
    cdef vec wr = vsplat(w), wi = vsplat(w + 1), t = r[0]
    r[0] = t * wr - i[0] * wi
    i[0] = t * wi + i[0] * wr


cdef inline void _twiddle(Eight *a, const T *w, const int R) noexcept nogil:
    """Elements 1, 2, … times w, w**2, …, which lie in a row."""
    _times(&a.r1, &a.i1, w)
    _times(&a.r2, &a.i2, w + 2)
    if R > 3:
        _times(&a.r3, &a.i3, w + 4)
    if R > 4:
        _times(&a.r4, &a.i4, w + 6)
    if R > 5:
        _times(&a.r5, &a.i5, w + 8)
        _times(&a.r6, &a.i6, w + 10)
        _times(&a.r7, &a.i7, w + 12)


cdef inline void _dft3(Eight *a) noexcept nogil:
    cdef vec c = vsplat(&SIN_3), h = vsplat(&HALF)
    cdef vec sr = a.r1 + a.r2, si = a.i1 + a.i2, dr = a.r1 - a.r2, di = a.i1 - a.i2
    cdef vec mr = a.r0 - h * sr, mi = a.i0 - h * si
    a.r0, a.i0 = a.r0 + sr, a.i0 + si
    a.r1, a.i1 = mr + c * di, mi - c * dr
    a.r2, a.i2 = mr - c * di, mi + c * dr


cdef inline void _dft4(Eight *a) noexcept nogil:
    cdef vec sr = a.r0 + a.r2, si = a.i0 + a.i2, dr = a.r0 - a.r2, di = a.i0 - a.i2
    cdef vec tr = a.r1 + a.r3, ti = a.i1 + a.i3, er = a.r1 - a.r3, ei = a.i1 - a.i3
    a.r0, a.i0 = sr + tr, si + ti
    a.r1, a.i1 = dr + ei, di - er
    a.r2, a.i2 = sr - tr, si - ti
    a.r3, a.i3 = dr - ei, di + er


cdef inline void _dft5(Eight *a) noexcept nogil:
    cdef vec c1 = vsplat(&COS_5), s1 = vsplat(&SIN_5)
    cdef vec c2 = vsplat(&COS2_5), s2 = vsplat(&SIN2_5)
    cdef vec sr = a.r1 + a.r4, si = a.i1 + a.i4, dr = a.r1 - a.r4, di = a.i1 - a.i4
    cdef vec tr = a.r2 + a.r3, ti = a.i2 + a.i3, er = a.r2 - a.r3, ei = a.i2 - a.i3
    cdef vec mr = a.r0 + c1 * sr + c2 * tr, mi = a.i0 + c1 * si + c2 * ti
    cdef vec nr = a.r0 + c2 * sr + c1 * tr, ni = a.i0 + c2 * si + c1 * ti
    cdef vec pr = s1 * dr + s2 * er, pi = s1 * di + s2 * ei
    cdef vec qr = s2 * dr - s1 * er, qi = s2 * di - s1 * ei
    a.r0, a.i0 = a.r0 + sr + tr, a.i0 + si + ti
    a.r1, a.i1 = mr + pi, mi - pr
    a.r2, a.i2 = nr + qi, ni - qr
    a.r3, a.i3 = nr - qi, ni + qr
    a.r4, a.i4 = mr - pi, mi + pr


cdef inline void _dft8(Eight *a) noexcept nogil:
    cdef vec h = vsplat(&SQRT_HALF)
    cdef vec sr0 = a.r0 + a.r4, si0 = a.i0 + a.i4, dr0 = a.r0 - a.r4, di0 = a.i0 - a.i4
    cdef vec sr1 = a.r1 + a.r5, si1 = a.i1 + a.i5, dr1 = a.r1 - a.r5, di1 = a.i1 - a.i5
    cdef vec sr2 = a.r2 + a.r6, si2 = a.i2 + a.i6, dr2 = a.r2 - a.r6, di2 = a.i2 - a.i6
    cdef vec sr3 = a.r3 + a.r7, si3 = a.i3 + a.i7, dr3 = a.r3 - a.r7, di3 = a.i3 - a.i7
    # Even elements: the transform of the four sums.
    cdef vec tr0 = sr0 + sr2, ti0 = si0 + si2, tr1 = sr0 - sr2, ti1 = si0 - si2
    cdef vec tr2 = sr1 + sr3, ti2 = si1 + si3, tr3 = sr1 - sr3, ti3 = si1 - si3
    # Odd ones: of the differences, turned by an eighth each.  f1, f3 are sqrt(2) too long.
    cdef vec fr1 = dr1 + di1, fi1 = di1 - dr1, fr3 = di3 - dr3, fi3 = dr3 + di3
    cdef vec ur0 = dr0 + di2, ui0 = di0 - dr2, ur1 = dr0 - di2, ui1 = di0 + dr2
    cdef vec gr2 = fr1 + fr3, gi2 = fi1 - fi3, gr3 = fr1 - fr3, gi3 = fi1 + fi3
    a.r0, a.i0 = tr0 + tr2, ti0 + ti2
    a.r4, a.i4 = tr0 - tr2, ti0 - ti2
    a.r2, a.i2 = tr1 + ti3, ti1 - tr3
    a.r6, a.i6 = tr1 - ti3, ti1 + tr3
    a.r1, a.i1 = ur0 + h * gr2, ui0 + h * gi2
    a.r5, a.i5 = ur0 - h * gr2, ui0 - h * gi2
    a.r3, a.i3 = ur1 + h * gi3, ui1 - h * gr3
    a.r7, a.i7 = ur1 - h * gi3, ui1 + h * gr3


cdef inline void _load(
    Eight *a, const T *p, Py_ssize_t im, Py_ssize_t m, const int R,
) noexcept nogil:
    """R elements m apart, imaginary parts `im` further on."""
    a.r0, a.i0 = vload(p), vload(p + im)
    a.r1, a.i1 = vload(p + m), vload(p + m + im)
    a.r2, a.i2 = vload(p + 2 * m), vload(p + 2 * m + im)
    if R > 3:
        a.r3, a.i3 = vload(p + 3 * m), vload(p + 3 * m + im)
    if R > 4:
        a.r4, a.i4 = vload(p + 4 * m), vload(p + 4 * m + im)
    if R > 5:
        a.r5, a.i5 = vload(p + 5 * m), vload(p + 5 * m + im)
        a.r6, a.i6 = vload(p + 6 * m), vload(p + 6 * m + im)
        a.r7, a.i7 = vload(p + 7 * m), vload(p + 7 * m + im)


cdef inline void _store(
    const Eight *a, T *p, Py_ssize_t im, Py_ssize_t m, const int R,
) noexcept nogil:
    vstore(p, a.r0)
    vstore(p + im, a.i0)
    vstore(p + m, a.r1)
    vstore(p + m + im, a.i1)
    vstore(p + 2 * m, a.r2)
    vstore(p + 2 * m + im, a.i2)
    if R > 3:
        vstore(p + 3 * m, a.r3)
        vstore(p + 3 * m + im, a.i3)
    if R > 4:
        vstore(p + 4 * m, a.r4)
        vstore(p + 4 * m + im, a.i4)
    if R > 5:
        vstore(p + 5 * m, a.r5)
        vstore(p + 5 * m + im, a.i5)
        vstore(p + 6 * m, a.r6)
        vstore(p + 6 * m + im, a.i6)
        vstore(p + 7 * m, a.r7)
        vstore(p + 7 * m + im, a.i7)


cdef inline void _dft(Eight *a, const int R) noexcept nogil:
    if R == 3:
        _dft3(a)
    elif R == 4:
        _dft4(a)
    elif R == 5:
        _dft5(a)
    else:
        _dft8(a)


cdef inline void _butterfly(
    T *p, Py_ssize_t im, Py_ssize_t m, const T *w, const int R, const bint back,
    const bint twiddled,
) noexcept nogil:
    """The twiddle factors come after the transform forth, before the one back."""
    cdef Eight a
    _load(&a, p, im, m, R)
    if back and twiddled:
        _twiddle(&a, w, R)
    _dft(&a, R)
    if twiddled and not back:
        _twiddle(&a, w, R)
    _store(&a, p, im, m, R)


cdef inline void _times_vector(vec *r, vec *i, const T *w) noexcept nogil:
    cdef vec wr = vload(w), wi = vload(w + V), t = r[0]
    r[0] = t * wr - i[0] * wi
    i[0] = t * wi + i[0] * wr


cdef inline void _times_spectrum(Eight *a, const T *w, const int R) noexcept nogil:
    _times_vector(&a.r0, &a.i0, w)
    _times_vector(&a.r1, &a.i1, w + 2 * V)
    _times_vector(&a.r2, &a.i2, w + 4 * V)
    if R > 3:
        _times_vector(&a.r3, &a.i3, w + 6 * V)
    if R > 4:
        _times_vector(&a.r4, &a.i4, w + 8 * V)
    if R > 5:
        _times_vector(&a.r5, &a.i5, w + 10 * V)
        _times_vector(&a.r6, &a.i6, w + 12 * V)
        _times_vector(&a.r7, &a.i7, w + 14 * V)


cdef inline void _swap(Eight *a) noexcept nogil:
    a.r0, a.i0 = a.i0, a.r0
    a.r1, a.i1 = a.i1, a.r1
    a.r2, a.i2 = a.i2, a.r2
    a.r3, a.i3 = a.i3, a.r3
    a.r4, a.i4 = a.i4, a.r4
    a.r5, a.i5 = a.i5, a.r5
    a.r6, a.i6 = a.i6, a.r6
    a.r7, a.i7 = a.i7, a.r7


cdef inline void _middle(
    const T *src, T *dst, const T *spectrum, Py_ssize_t n, const int R, const bint forth,
) noexcept nogil:
    """The last step forth, unless done, the product, and the first step back.

    All three work on the same R neighbours: nothing leaves the registers between them."""
    cdef Py_ssize_t _q
    cdef Eight a
    for _q in range(n // R):
        _load(&a, src, V, 2 * V, R)
        if forth:
            _dft(&a, R)
        _times_spectrum(&a, spectrum, R)
        _swap(&a)       # turns factors into their conjugates: back instead of forth
        _dft(&a, R)
        _swap(&a)
        _store(&a, dst, V, 2 * V, R)
        src += 2 * V * R
        dst += 2 * V * R
        spectrum += 2 * V * R


cdef inline void _pass(
    T *p, Py_ssize_t im, Py_ssize_t s, Py_ssize_t n, Py_ssize_t length, const T *w,
    Py_ssize_t lanes, const int R, const bint back,
) noexcept nogil:
    """One step of the transforms of n elements, s apart, of `lanes` neighbouring columns.

    Each block of `length` elements becomes R blocks, or R blocks become one."""
    cdef Py_ssize_t i, j, c, q, m = length // R
    i = 0
    while i < n:
        for q in range(lanes // V):
            c = q * V
            _butterfly(p + i * s + c, im, m * s, w, R, back, False)
        i += length
    for j in range(1, m):
        i = j
        while i < n:
            for q in range(lanes // V):
                c = q * V
                _butterfly(p + i * s + c, im, m * s, w, R, back, True)
            i += length
        w += 2 * (R - 1)


cdef struct Axis:
    Py_ssize_t n
    Py_ssize_t passes
    const cnp.intp_t *radix
    const T *table          # twiddle factors, pass by pass


cdef void _forth(
    T *p, Py_ssize_t im, Py_ssize_t s, const Axis *axis, Py_ssize_t passes, Py_ssize_t lanes,
) noexcept nogil:
    """The first `passes` steps of the transform."""
    cdef Py_ssize_t i, length = axis.n
    cdef const T *w = axis.table
    for i in range(passes):
        if axis.radix[i] == 8:
            _pass(p, im, s, axis.n, length, w, lanes, 8, False)
        elif axis.radix[i] == 4:
            _pass(p, im, s, axis.n, length, w, lanes, 4, False)
        elif axis.radix[i] == 5:
            _pass(p, im, s, axis.n, length, w, lanes, 5, False)
        else:
            _pass(p, im, s, axis.n, length, w, lanes, 3, False)
        length //= axis.radix[i]
        w += 2 * (axis.radix[i] - 1) * (length - 1)


cdef void _back(
    T *p, Py_ssize_t im, Py_ssize_t s, const Axis *axis, Py_ssize_t passes, Py_ssize_t lanes,
) noexcept nogil:
    """What takes `_forth` back, times their lengths: its steps in reverse.

    Real and imaginary parts change places, which turns each factor into its conjugate."""
    cdef Py_ssize_t i, length = axis.n
    cdef const T *w = axis.table
    for i in range(passes):
        length //= axis.radix[i]
        w += 2 * (axis.radix[i] - 1) * (length - 1)
    p += im
    im = -im
    for i in range(passes - 1, -1, -1):
        w -= 2 * (axis.radix[i] - 1) * (length - 1)
        length *= axis.radix[i]
        if axis.radix[i] == 8:
            _pass(p, im, s, axis.n, length, w, lanes, 8, True)
        elif axis.radix[i] == 4:
            _pass(p, im, s, axis.n, length, w, lanes, 4, True)
        elif axis.radix[i] == 5:
            _pass(p, im, s, axis.n, length, w, lanes, 5, True)
        else:
            _pass(p, im, s, axis.n, length, w, lanes, 3, True)


# ---------------------------------------------------------------- tiles

cdef inline void _turn(const T *src, Py_ssize_t s, T *dst, Py_ssize_t d) noexcept nogil:
    """dst = the transpose of a square of V x V elements."""
    cdef vec a0, a1, a2, a3, a4, a5, a6, a7, b0, b1, b2, b3, b4, b5, b6, b7
    if V == 1:
        dst[0] = src[0]
        return
    a0, a1 = vload(src), vload(src + s)
    b0, b1 = vfirst(a0, a1, 1), vsecond(a0, a1, 1)
    if V == 2:
        vstore(dst, b0)
        vstore(dst + d, b1)
        return
    a2, a3 = vload(src + 2 * s), vload(src + 3 * s)
    b2, b3 = vfirst(a2, a3, 1), vsecond(a2, a3, 1)
    a0, a2 = vfirst(b0, b2, 2), vsecond(b0, b2, 2)
    a1, a3 = vfirst(b1, b3, 2), vsecond(b1, b3, 2)
    if V == 4:
        vstore(dst, a0)
        vstore(dst + d, a1)
        vstore(dst + 2 * d, a2)
        vstore(dst + 3 * d, a3)
        return
    a4, a5 = vload(src + 4 * s), vload(src + 5 * s)
    a6, a7 = vload(src + 6 * s), vload(src + 7 * s)
    b4, b5 = vfirst(a4, a5, 1), vsecond(a4, a5, 1)
    b6, b7 = vfirst(a6, a7, 1), vsecond(a6, a7, 1)
    a4, a6 = vfirst(b4, b6, 2), vsecond(b4, b6, 2)
    a5, a7 = vfirst(b5, b7, 2), vsecond(b5, b7, 2)
    vstore(dst, vfirst(a0, a4, 4))
    vstore(dst + d, vfirst(a1, a5, 4))
    vstore(dst + 2 * d, vfirst(a2, a6, 4))
    vstore(dst + 3 * d, vfirst(a3, a7, 4))
    vstore(dst + 4 * d, vsecond(a0, a4, 4))
    vstore(dst + 5 * d, vsecond(a1, a5, 4))
    vstore(dst + 6 * d, vsecond(a2, a6, 4))
    vstore(dst + 7 * d, vsecond(a3, a7, 4))


# What decides whether a kernel may be applied by transforms; made by `limits` of _fft.py.
cdef struct Limits:
    double error            # largest error of an output, per root mean square of the tile
    double bright           # and per its largest element, near which errors gather
    double near             # and per the output itself, of integers
    double bound            # error allowed, per sum of |x| |k|
    double positive         # no element is negative
    double integer          # all elements are integers
    double large            # a limit above which the elements count as large


cdef struct Job:
    Plane x
    Plane y
    Axis rows               # the transform along each axis
    Axis cols
    Py_ssize_t ld           # of a tile's rows
    const T *spectrum
    Py_ssize_t spectrum_size
    Py_ssize_t ka
    Py_ssize_t kb
    Py_ssize_t o0
    Py_ssize_t o1
    int comps
    const cnp.intp_t *planes    # byte offset of x, number of the kernel, byte offset of y
    Py_ssize_t bank         # planes in a row that share x
    Py_ssize_t across       # tiles per row of tiles
    Py_ssize_t tiles        # tiles of a plane, and pairs of them
    Py_ssize_t pairs
    uint8_t *failed         # of each plane, tile and block of outputs
    const Limits *limits    # of each kernel
    const int32_t *ramps    # of each kernel: how many elements above and left of here are large
    bint checked
    bint zeros              # the image goes on with zeros
    Py_ssize_t qa           # cells of a tile in which small elements are counted
    Py_ssize_t qb
    Py_ssize_t ba           # blocks of outputs that are judged together: some cells each
    Py_ssize_t bb
    Py_ssize_t down         # blocks of a tile
    Py_ssize_t wide
    bint both               # complex elements are small where both parts are, not either
    bint positive           # some kernel has no negative element, has only integers
    bint integer


cdef inline Py_ssize_t _row_stride(Py_ssize_t n1) noexcept nogil:
    """Real and imaginary part, and a line more: rows a power of two apart share few places."""
    return 2 * n1 + LINE // <Py_ssize_t> sizeof(T)


cdef inline Py_ssize_t _buffer(Py_ssize_t n1) noexcept nogil:
    """Lanes for V rows of complex numbers, for a row of them, or for `_survey`."""
    return max(2 * V, 12) * n1


cdef void _columns(T *z, const Axis *rows, Py_ssize_t ld, Py_ssize_t n1, Py_ssize_t cols,
                   bint back) noexcept nogil:
    """The transforms along the first `cols` columns."""
    cdef Py_ssize_t j, q, line = LINE // <Py_ssize_t> sizeof(T)
    for q in range((cols + line - 1) // line):
        j = q * line
        if back:
            _back(z + j, n1, ld, rows, rows.passes, line)
        else:
            _forth(z + j, n1, ld, rows, rows.passes, line)


cdef void _rows_in(
    const T *z, Py_ssize_t ld, const Axis *cols, Py_ssize_t passes, T *buf,
) noexcept nogil:
    """V rows of the tile, turned and transformed into buf."""
    cdef Py_ssize_t j, q, n = cols.n
    for q in range(n // V):
        j = q * V
        _turn(z + j, ld, buf + 2 * V * j, 2 * V)
        _turn(z + n + j, ld, buf + 2 * V * j + V, 2 * V)
    _forth(buf, V, 2 * V, cols, passes, V)


cdef void _multiply(
    const T *src, T *buf, const T *spectrum, const Axis *cols, bint forth,
) noexcept nogil:
    """buf = src times the spectrum, with a step of the transform on either side."""
    cdef Py_ssize_t radix = cols.radix[cols.passes - 1]
    if radix == 8:
        if forth:
            _middle(src, buf, spectrum, cols.n, 8, True)
        else:
            _middle(src, buf, spectrum, cols.n, 8, False)
    elif radix == 4:
        if forth:
            _middle(src, buf, spectrum, cols.n, 4, True)
        else:
            _middle(src, buf, spectrum, cols.n, 4, False)
    elif radix == 5:
        if forth:
            _middle(src, buf, spectrum, cols.n, 5, True)
        else:
            _middle(src, buf, spectrum, cols.n, 5, False)
    elif forth:
        _middle(src, buf, spectrum, cols.n, 3, True)
    else:
        _middle(src, buf, spectrum, cols.n, 3, False)


cdef void _rows_out(
    T *z, Py_ssize_t ld, const Axis *cols, T *buf, Py_ssize_t needed,
) noexcept nogil:
    """The other steps back and the first `needed` columns into the tile."""
    cdef Py_ssize_t j, q, n = cols.n
    _back(buf, V, 2 * V, cols, cols.passes - 1, V)
    for q in range(needed // V):
        j = q * V
        _turn(buf + 2 * V * j, 2 * V, z + j, ld)
        _turn(buf + 2 * V * j + V, 2 * V, z + n + j, ld)


cdef inline void _copy(const T *src, T *dst, Py_ssize_t n) noexcept nogil:
    """A row: short, so that a call of memcpy would tell."""
    cdef Py_ssize_t q
    for q in range(n // V):
        vstore(dst + q * V, vload(src + q * V))
    for q in range(n - n % V, n):
        dst[q] = src[q]


cdef void _gather_part(
    const Plane *x, Py_ssize_t i0, Py_ssize_t j0, Py_ssize_t rows, Py_ssize_t cols,
    T *z, Py_ssize_t ld, Py_ssize_t n0, Py_ssize_t n1, int comps, T *row,
) noexcept nogil:
    """n0 x n1 elements of z: rows x cols of the continued image, 0 elsewhere.

    Both parts of a complex image, by way of a scratch row."""
    cdef Py_ssize_t i, j
    if comps == 1:
        if x.lanes and 0 <= i0 <= x.H - rows and 0 <= j0 <= x.W - cols:
            for i in range(rows):
                _copy(<const T *> (x.data + (i0 + i) * x.s0 + j0 * x.s1), z + i * ld, cols)
        elif rows > 0 and cols > 0:
            _lines(x, i0, rows, x.H, x.s0, x.bound0, j0, cols, x.W, x.s1, x.bound1, z, ld, 1, 1)
    else:
        for i in range(rows):
            _gather(x, i0 + i, j0, 1, cols, row, 2 * cols, 2)
            for j in range(cols):
                z[i * ld + j] = row[2 * j]
                z[i * ld + n1 + j] = row[2 * j + 1]
    for i in range(n0):
        j = cols if i < rows else 0
        if j < n1:
            memset(z + i * ld + j, 0, (n1 - j) * sizeof(T))
            if comps == 2:
                memset(z + i * ld + n1 + j, 0, (n1 - j) * sizeof(T))


cdef void _put(
    const Plane *y, const T *z, Py_ssize_t ld, Py_ssize_t n1, Py_ssize_t i0, Py_ssize_t j0,
    Py_ssize_t rows, Py_ssize_t cols,
) noexcept nogil:
    """y[i0:i0 + rows, j0:j0 + cols] = z."""
    cdef Py_ssize_t i, j
    cdef T *p
    cdef char *q
    cdef int64_t value
    if y.kind != c"f":          # rounded already; modulo 2**n, as integers are
        for i in range(rows):
            q = y.data + (i0 + i) * y.s0 + j0 * y.s1
            for j in range(cols):
                value = <int64_t> z[i * ld + j]
                if y.size == 8:
                    (<int64_t *> q)[0] = value
                elif y.size == 4:
                    (<uint32_t *> q)[0] = <uint32_t> value
                elif y.size == 2:
                    (<uint16_t *> q)[0] = <uint16_t> value
                else:
                    (<uint8_t *> q)[0] = <uint8_t> value
                q += y.s1
        return
    if y.comps == 1 and not y.lanes:
        _scatter(z, ld, y, i0, j0, rows, cols)
        return
    for i in range(rows):
        p = <T *> (y.data + (i0 + i) * y.s0 + j0 * y.s1)
        if y.comps == 1:
            _copy(z + i * ld, p, cols)
        else:
            for j in range(cols):
                p[0] = z[i * ld + j]
                p[1] = z[i * ld + n1 + j]
                p = <T *> (<char *> p + y.s1)


# ---------------------------------------------------------------- what may be transformed

cdef struct Census:
    double squares          # their sum
    double largest          # of their magnitudes
    bint positive           # no element is negative
    bint integer            # all elements are integers, and exact as such


cdef inline vec _rounded(vec v) noexcept nogil:
    """The nearest integers, for up to a quarter of the integers that T can hold."""
    cdef vec magic = vsplat(&MAGIC)
    return (v + magic) - magic


cdef inline void _look(
    Census *c, const T *z, Py_ssize_t ld, Py_ssize_t rows, Py_ssize_t lanes,
    const bint signs, const bint integers,
) noexcept nogil:
    """Of `rows` rows of z, 2 V lanes at a time."""
    cdef Py_ssize_t _i, j, q
    cdef vec v, w, s0 = vzero(), s1 = vzero(), least = vzero(), odd = vzero(), minus = vzero()
    for _i in range(rows):
        for q in range(lanes // (2 * V)):
            v, w = vload(z + 2 * V * q), vload(z + 2 * V * q + V)
            minus = vmin(vmin(vzero() - vabs(v), vzero() - vabs(w)), minus)
            s0 = s0 + v * v
            s1 = s1 + w * w
            if signs:
                least = vmin(vmin(v, w), least)
            if integers:
                odd = odd + (vabs(v - _rounded(v)) + vabs(w - _rounded(w)))
        z += ld
    c.largest = 0
    for j in range(V):
        c.largest = max(c.largest, <double> -vlane(minus, j))
        c.squares += <double> vlane(s0, j) + vlane(s1, j)
        c.positive = c.positive and vlane(least, j) >= 0
        c.integer = c.integer and vlane(odd, j) == 0


cdef Census _census(const Job *job, const T *z) noexcept nogil:
    """Of a tile; the zeros around an image do no harm."""
    cdef Census c
    c.squares = 0
    c.positive, c.integer = job.positive, job.integer
    if job.integer:
        _look(&c, z, job.ld, job.rows.n, 2 * job.cols.n, True, True)
    elif job.positive:
        _look(&c, z, job.ld, job.rows.n, 2 * job.cols.n, True, False)
    else:
        _look(&c, z, job.ld, job.rows.n, 2 * job.cols.n, False, False)
    return c


cdef bint _nothing(const T *z, Py_ssize_t ld, Py_ssize_t rows, Py_ssize_t lanes) noexcept nogil:
    """All elements are zero: not only their squares."""
    cdef Py_ssize_t i, j
    for i in range(rows):
        for j in range(lanes):
            if z[i * ld + j] != 0:
                return False
    return True


cdef void _count(
    const Job *job, const T *z, Py_ssize_t top, Py_ssize_t bottom, Py_ssize_t cols, T small,
    T *count,
) noexcept nogil:
    """The small elements in each column of rows top … bottom."""
    cdef Py_ssize_t q, n, n1 = job.cols.n
    cdef vec v, re, im, limit = vsplat(&small)
    for q in range((cols + V - 1) // V):
        v = vzero()
        for n in range(top, bottom):
            re = vabs(vload(z + n * job.ld + q * V))
            if job.comps == 2:
                im = vabs(vload(z + n * job.ld + n1 + q * V))
                if job.both:    # minus the least of the opposites: the larger one
                    re = vzero() - vmin(vzero() - re, vzero() - im)
                else:
                    re = vmin(re, im)
            v = v + vless(re, limit)
        vstore(count + q * V, v)


cdef Py_ssize_t _survey(
    const Job *job, const T *z, Py_ssize_t rows, Py_ssize_t cols, Py_ssize_t i0, Py_ssize_t j0,
    const int32_t *ramp, T small, double need, uint8_t *marks, T *room,
) noexcept nogil:
    """Mark the blocks of outputs that may have fewer than `need` products of large elements.

    That are the large elements of the kernel that meet the image, less the small ones of the
    image, counted in cells of about a sixth of the kernel: an output's window touches at most
    wa x wb of them.  Returns how many cells of outputs are good, less twice the others.
    """
    cdef Py_ssize_t qa = job.qa, qb = job.qb
    cdef Py_ssize_t wa = (job.ka + qa - 2) // qa + 1, wb = (job.kb + qb - 2) // qb + 1
    cdef Py_ssize_t cells = (cols + qb - 1) // qb, good = 0
    cdef Py_ssize_t t0 = rows - job.ka + 1, t1 = cols - job.kb + 1
    cdef Py_ssize_t outs = (t0 + qa - 1) // qa, across = (t1 + qb - 1) // qb
    cdef Py_ssize_t v0 = 0, v1 = rows, u0 = 0, u1 = cols
    cdef Py_ssize_t j, c, m, a0, a1, b0, b1, band, slot = 0
    cdef const int32_t *above
    cdef const int32_t *below
    cdef T *count = room                # per column of a band
    cdef T *ring = room + job.cols.n    # wa bands of cells
    cdef T *sums = ring + wa * cells    # of the last wa bands, per cell
    cdef T s, t
    if job.zeros:       # what lies beyond the image meets no element of the kernel
        v0, v1 = max(-i0, 0), min(rows, job.x.H - i0)
        u0, u1 = max(-j0, 0), min(cols, job.x.W - j0)
    memset(ring, 0, (wa + 1) * cells * sizeof(T))
    for band in range(outs + wa - 1):
        _count(job, z, max(band * qa, v0), min((band + 1) * qa, v1), cols, small, count)
        for c in range(cells):
            t = 0
            for j in range(max(c * qb, u0), min((c + 1) * qb, u1)):
                t += count[j]
            sums[c] += t - ring[slot * cells + c]
            ring[slot * cells + c] = t
        slot = slot + 1 if slot + 1 < wa else 0
        m = band - wa + 1
        if m < 0:
            continue
        # Rows of the kernel that meet the image wherever in the cell an output lies.
        a0 = min(max(v0 - m * qa, 0), job.ka)
        a1 = max(min(v1 - (m + 1) * qa + 1, job.ka), a0)
        above, below = ramp + a0 * (job.kb + 1), ramp + a1 * (job.kb + 1)
        s = 0
        for c in range(min(wb - 1, cells)):
            s += sums[c]
        for c in range(across):
            if c + wb - 1 < cells:
                s += sums[c + wb - 1]
            b0 = min(max(u0 - c * qb, 0), job.kb)
            b1 = max(min(u1 - (c + 1) * qb + 1, job.kb), b0)
            if below[b1] - below[b0] - above[b1] + above[b0] - s >= need:
                good += 1
            else:
                good -= 2
                marks[m * qa // job.ba * job.wide + c * qb // job.bb] = 1
            s -= sums[c]
    return good


cdef T _least(const T *z, Py_ssize_t ld, Py_ssize_t rows, Py_ssize_t cols) noexcept nogil:
    """The least of rows x cols elements, cols >= V: the last vector of a row overlaps."""
    cdef Py_ssize_t _i, j, q
    cdef vec v = vload(z), w = v
    cdef T least
    for _i in range(rows):
        for q in range(cols // (2 * V)):
            v = vmin(vload(z + 2 * V * q), v)
            w = vmin(vload(z + 2 * V * q + V), w)
        if cols % (2 * V) >= V:
            v = vmin(vload(z + cols // (2 * V) * (2 * V)), v)
        w = vmin(vload(z + cols - V), w)
        z += ld
    v = vmin(v, w)
    least = vlane(v, 0)
    for j in range(V):
        least = min(least, vlane(v, j))
    return least


cdef void _round(T *z, Py_ssize_t ld, Py_ssize_t rows, Py_ssize_t lanes) noexcept nogil:
    cdef Py_ssize_t i, j, q
    for i in range(rows):
        for q in range(lanes // V):
            j = q * V
            vstore(z + i * ld + j, _rounded(vload(z + i * ld + j)))


cdef double _largest(
    const T *z, Py_ssize_t ld, Py_ssize_t rows, Py_ssize_t cols, Py_ssize_t n1, int comps,
) noexcept nogil:
    """Of the magnitudes of rows x cols outputs, of their parts."""
    cdef double largest = 0
    cdef Py_ssize_t i, j, part
    for part in range(comps):
        for i in range(rows):
            for j in range(cols):
                largest = max(largest, fabs(<double> z[i * ld + part * n1 + j]))
    return largest


# ---------------------------------------------------------------- correlation

cdef enum Verdict:
    REFUSED, ALLOWED, SURVEYED, BY_RESULT, TO_INTEGERS


cdef double _error(const Limits *k, const Census *c, double rms) noexcept nogil:
    """Of an output of a pair of tiles that is dark itself."""
    return k.error * rms + k.bright * c.largest


cdef Verdict _verdict(
    const Job *job, const Limits *k, const Census *c, double rms,
) noexcept nogil:
    """How to see to it that the errors of a pair of tiles stay within the direct sum's bound."""
    cdef double error = _error(k, c, rms)
    if not job.checked:
        return ALLOWED
    if k.integer != 0 and c.integer:
        # Then the direct sum would be exact: so is this, if it is rounded from near enough.
        return TO_INTEGERS if error < 1 / 8.0 else REFUSED
    if k.integer != 0 and c.squares >= MOST_INTEGER * MOST_INTEGER:
        return REFUSED              # too large to tell
    if k.positive != 0 and c.positive:
        return BY_RESULT            # each output is its own sum of |x| |k|
    return SURVEYED


cdef bint _allows(
    const T *z, Py_ssize_t ld, Py_ssize_t rows, Py_ssize_t cols, double error, double bound,
) noexcept nogil:
    """Whether the error is within the bound for all of these outputs, sums of |x| |k|."""
    cdef Py_ssize_t i, j
    cdef T least = z[0]
    if cols >= V:
        least = _least(z, ld, rows, cols)
    else:
        for i in range(rows):
            for j in range(cols):
                least = min(least, z[i * ld + j])
    return error <= bound * (least - error)


cdef void _finish(
    const Job *job, T *z, Py_ssize_t pair, const cnp.intp_t *plane, Verdict verdict,
    double error, const Limits *limits, uint8_t *failed,
) noexcept nogil:
    """Put a pair of tiles into y, rounded if they are to be; mark what the result forbids."""
    cdef double bound = limits.bound
    cdef Plane y = job.y
    cdef Py_ssize_t n1 = job.cols.n, t0 = job.rows.n - job.ka + 1, t1 = n1 - job.kb + 1
    cdef Py_ssize_t part, tile, i, j, m, n, rows, cols
    cdef uint8_t *marks
    cdef T *p
    y.data += plane[2]
    for part in range(3 - job.comps):
        tile = pair if job.comps == 2 else 2 * pair + part
        if tile >= job.tiles:
            return
        p = z + part * n1
        i, j = tile // job.across * t0, tile % job.across * t1
        rows, cols = min(t0, y.H - i), min(t1, y.W - j)
        if verdict == TO_INTEGERS:
            if not error + limits.near * _largest(p, job.ld, rows, cols, n1, job.comps) < 1 / 8.0:
                memset(failed + tile * job.down * job.wide, 1, job.down * job.wide)
            _round(p, job.ld, rows, _round_up(cols, V))
            if job.comps == 2:
                _round(p + n1, job.ld, rows, _round_up(cols, V))
        _put(&y, p, job.ld, n1, i, j, rows, cols)
        # Mostly the least output of all is enough.
        if verdict == BY_RESULT and not _allows(p, job.ld, rows, cols, error, bound):
            marks = failed + tile * job.down * job.wide
            for m in range((rows + job.ba - 1) // job.ba):
                for n in range((cols + job.bb - 1) // job.bb):
                    if not _allows(p + m * job.ba * job.ld + n * job.bb, job.ld,
                                   min(job.ba, rows - m * job.ba),
                                   min(job.bb, cols - n * job.bb), error, bound):
                        marks[m * job.wide + n] = 1


cdef void _refuse(const Job *job, Py_ssize_t pair, uint8_t *failed) noexcept nogil:
    cdef Py_ssize_t first = pair if job.comps == 2 else 2 * pair, size = job.down * job.wide
    cdef Py_ssize_t n = min(first + 3 - job.comps, job.tiles) - first
    memset(failed + first * size, 1, n * size)


cdef void _task(const void *given, Py_ssize_t number, T *scratch) noexcept nogil:
    """A pair of tiles of one image, for every kernel of a bank."""
    cdef const Job *job = <const Job *> given
    cdef Plane x = job.x
    cdef Py_ssize_t group = number // job.pairs, pair = number % job.pairs
    cdef const cnp.intp_t *plane = job.planes + 3 * job.bank * group
    cdef Py_ssize_t n0 = job.rows.n, n1 = job.cols.n, t0 = n0 - job.ka + 1, t1 = n1 - job.kb + 1
    cdef Py_ssize_t part, tile, i, j, k, q, needed, good, balance, size = job.down * job.wide
    cdef Py_ssize_t rows[2]
    cdef Py_ssize_t cols[2]
    cdef Py_ssize_t i0[2]
    cdef Py_ssize_t j0[2]
    cdef T *z = scratch
    cdef T *buf = z + n0 * job.ld
    cdef T *kept = buf + _buffer(n1)
    cdef uint8_t *refused = <uint8_t *> (kept + (2 * n0 * n1 if job.bank > 1 else 0))
    cdef const T *factors
    cdef const Limits *limits
    cdef uint8_t *failed = job.failed + job.bank * group * job.tiles * size
    cdef Census census
    cdef double rms, need
    cdef Verdict verdict
    x.data += plane[0]
    for part in range(3 - job.comps):
        tile = pair if job.comps == 2 else 2 * pair + part
        rows[part] = cols[part] = i = j = 0
        if tile < job.tiles:
            i, j = tile // job.across * t0, tile % job.across * t1
            rows[part] = min(t0, job.y.H - i) + job.ka - 1
            cols[part] = min(t1, job.y.W - j) + job.kb - 1
        i0[part], j0[part] = job.o0 + i, job.o1 + j
        _gather_part(&x, i0[part], j0[part], rows[part], cols[part], z + part * n1, job.ld,
                     n0, n1, job.comps, buf)

    census = _census(job, z)
    rms = sqrt(census.squares / (<double> n0 * n1))
    if not LEAST_SQUARES < census.squares < MOST_SQUARES:
        for k in range(job.bank):
            if census.squares == 0 and _nothing(z, job.ld, n0, 2 * n1):
                # As it is: rounding would leave zeros of either sign.
                _finish(job, z, pair, plane + 3 * k, ALLOWED, 0, job.limits, failed)
            else:
                _refuse(job, pair, failed + k * job.tiles * size)
        return
    good = 0
    for k in range(job.bank):
        limits = &job.limits[plane[3 * k + 1]]
        verdict = _verdict(job, limits, &census, rms)
        refused[k] = verdict == REFUSED
        if verdict == SURVEYED:
            balance = 0
            # Of _error, per rms: tiny numbers do not underflow here.
            need = ((limits.error + limits.bright * (census.largest / rms))
                    / (limits.bound * limits.large * SMALL))
            for part in range(3 - job.comps):
                tile = pair if job.comps == 2 else 2 * pair + part
                if tile < job.tiles:
                    balance += _survey(
                        job, z + part * n1, rows[part], cols[part], i0[part], j0[part],
                        job.ramps + plane[3 * k + 1] * (job.ka + 1) * (job.kb + 1),
                        <T> (rms * SMALL), need, failed + (k * job.tiles + tile) * size, buf)
            # Where a third would have to be done again the transforms do not pay.
            refused[k] = balance <= 0
        if refused[k]:
            _refuse(job, pair, failed + k * job.tiles * size)
        else:
            good += 1
    if good == 0:
        return

    _columns(z, &job.rows, job.ld, n1, n1, False)
    if job.bank > 1:
        for q in range(n0 // V):
            i = q * V
            _rows_in(z + i * job.ld, job.ld, &job.cols, job.cols.passes, kept + 2 * n1 * i)
    for k in range(job.bank):
        if refused[k]:
            continue
        limits = &job.limits[plane[3 * k + 1]]
        needed = _round_up(min(t1, job.y.W), LINE // <Py_ssize_t> sizeof(T))
        for q in range(n0 // V):
            i = q * V
            factors = job.spectrum + plane[3 * k + 1] * job.spectrum_size + 2 * n1 * i
            if job.bank == 1:
                _rows_in(z + i * job.ld, job.ld, &job.cols, job.cols.passes - 1, buf)
                _multiply(buf, buf, factors, &job.cols, True)
            else:
                _multiply(kept + 2 * n1 * i, buf, factors, &job.cols, False)
            _rows_out(z + i * job.ld, job.ld, &job.cols, buf, needed)
        _columns(z, &job.rows, job.ld, n1, needed, True)
        _finish(job, z, pair, plane + 3 * k, _verdict(job, limits, &census, rms),
                _error(limits, &census, rms), limits, failed + k * job.tiles * size)


cdef Axis _axis(cnp.ndarray radices, cnp.ndarray table):
    cdef Axis a
    cdef Py_ssize_t i
    a.radix = <const cnp.intp_t *> cnp.PyArray_DATA(radices)
    a.passes = cnp.PyArray_DIM(radices, 0)
    a.table = <const T *> cnp.PyArray_DATA(table)
    a.n = 1
    for i in range(a.passes):
        a.n *= a.radix[i]
    return a


def spectrum(
    cnp.ndarray k not None,             # IN   (n, kh, kw), C-contiguous, of the lanes' dtype
    cnp.ndarray out not None,           # OUT  (n, n0 * n1 * 2) of T
    cnp.ndarray peak not None,          # OUT  (n,) float64: the largest magnitude in it
    cnp.ndarray radices0 not None, cnp.ndarray table0 not None,     # IN   of the columns' length
    cnp.ndarray radices1 not None, cnp.ndarray table1 not None,     # IN   of the rows'
):
    """The factors of each kernel, as `_rows_in` orders them, over the number of elements."""
    cdef Axis rows = _axis(radices0, table0), cols = _axis(radices1, table1)
    cdef Py_ssize_t n0 = rows.n, n1 = cols.n, ld = _row_stride(n1), n, i, j, p, q
    cdef Py_ssize_t ka = cnp.PyArray_DIM(k, 1), kb = cnp.PyArray_DIM(k, 2)
    cdef int comps = 2 if cnp.PyArray_ISCOMPLEX(k) else 1
    cdef const T *src = <const T *> cnp.PyArray_DATA(k)
    cdef T *dst = <T *> cnp.PyArray_DATA(out)
    cdef double *peaks = <double *> cnp.PyArray_DATA(peak)
    cdef T scale = <T> (1.0 / (<double> n0 * n1)), negative = -scale
    cdef void *base = _allocate(n0 * ld)
    cdef T *z = _aligned(base)
    cdef vec re, im, least, plus = vsplat(&scale), minus = vsplat(&negative)
    with nogil:
        for n in range(cnp.PyArray_DIM(k, 0)):
            memset(z, 0, n0 * ld * sizeof(T))
            for i in range(ka):
                for j in range(kb):
                    z[i * ld + j] = src[0]
                    if comps == 2:
                        z[i * ld + n1 + j] = -src[1]
                    src += comps
            # The columns beside the kernel are zeros and remain so.
            _columns(z, &rows, ld, n1, kb, False)
            least = vzero()
            for q in range(n0 // V):
                i = q * V
                _rows_in(z + i * ld, ld, &cols, cols.passes, dst)
                # Conjugated, since this is correlation.
                for p in range(n1):
                    j = 2 * V * p
                    re, im = vload(dst + j), vload(dst + j + V)
                    least = vmin(least, vzero() - (re * re + im * im))
                    vstore(dst + j, re * plus)
                    vstore(dst + j + V, im * minus)
                dst += 2 * V * n1
            peaks[n] = 0
            for j in range(V):
                peaks[n] = max(peaks[n], sqrt(<double> -vlane(least, j)))
    PyMem_RawFree(base)


cdef enum:
    BLOCK_ROWS = 8      # of outputs that are judged together, at least
    BLOCK_COLS = 16


BLOCK = (BLOCK_ROWS, BLOCK_COLS)


def cell(Py_ssize_t n):
    """Rows or columns of the cells in which small elements are counted, for so many taps."""
    return (n + 5) // 6


def block(Py_ssize_t n, Py_ssize_t least):
    """Rows or columns of the blocks of outputs that are judged together: whole cells."""
    return (least + cell(n) - 1) // cell(n) * cell(n)


# Multiply-adds that take as long as an element of a tile: 3e6 elements take some ten ms, whatever
# the length of vectors, since memory is what most of the time goes to.
cdef double _MACS = _MACS_PER_CHECK / 3e6


def correlate(
    cnp.ndarray x not None,             # IN   (…, H, W), any layout and dtype
    cnp.ndarray factors not None,       # IN   spectra of the kernels, as `spectrum` makes them
    cnp.ndarray limits not None,        # IN   (kernels, 7) float64: `Limits` of each
    cnp.ndarray ramps not None,         # IN   (kernels, kh + 1, kw + 1) int32: see `Job`
    cnp.ndarray y not None,             # OUT  (…, oh, ow), aligned, native
    Py_ssize_t ka, Py_ssize_t kb,       # the kernels' shape
    Py_ssize_t o0, Py_ssize_t o1,       # y[0, 0] meets k[0, 0] at X[o0, o1]
    int bound0, int bound1,             # of BOUNDARIES, per axis
    cnp.ndarray fill not None,          # IN   one element, of the result's dtype
    cnp.ndarray radices0 not None, cnp.ndarray table0 not None,
    cnp.ndarray radices1 not None, cnp.ndarray table1 not None,
    cnp.ndarray planes not None,        # IN   (n, 3) intp: byte offset of x, kernel, offset of y
    Py_ssize_t bank,                    # planes in a row that share x
    cnp.ndarray failed not None,        # OUT  (n, tiles, down, wide) uint8, zeros: 1 in blocks of
                                        #      outputs that y is not right in
    bint checked,                       # only where the direct sum's bound holds
    bint both,                          # the large kernel elements are large in both parts
    bint zeros,                         # the image goes on with zeros beyond its edges
    int workers,
):
    """y = x correlated with the kernels, plane by plane, but for what is marked in `failed`."""
    cdef Job job
    cdef Py_ssize_t total, room, t, n0, n1
    cdef void *base
    job.x = _plane(x, bound0, bound1, fill)
    job.y = _plane(y, FILL, FILL, fill)
    job.rows, job.cols = _axis(radices0, table0), _axis(radices1, table1)
    n0, n1 = job.rows.n, job.cols.n
    job.ld = _row_stride(n1)
    job.spectrum = <const T *> cnp.PyArray_DATA(factors)
    job.spectrum_size = 2 * n0 * n1
    job.limits = <const Limits *> cnp.PyArray_DATA(limits)
    job.ka, job.kb, job.o0, job.o1 = ka, kb, o0, o1
    job.comps = job.y.comps
    job.planes = <const cnp.intp_t *> cnp.PyArray_DATA(planes)
    job.bank = bank
    job.across = (job.y.W + n1 - kb) // (n1 - kb + 1)
    job.tiles = (job.y.H + n0 - ka) // (n0 - ka + 1) * job.across
    job.pairs = job.tiles if job.comps == 2 else (job.tiles + 1) // 2
    job.qa, job.qb = cell(ka), cell(kb)
    job.ba, job.bb = block(ka, BLOCK_ROWS), block(kb, BLOCK_COLS)
    job.down, job.wide = cnp.PyArray_DIM(failed, 2), cnp.PyArray_DIM(failed, 3)
    job.ramps = <const int32_t *> cnp.PyArray_DATA(ramps)
    job.zeros = zeros
    job.failed = <uint8_t *> cnp.PyArray_DATA(failed)
    job.checked, job.both = checked, both
    job.positive = job.integer = False
    for t in range(cnp.PyArray_DIM(limits, 0) if checked else 0):
        job.positive = job.positive or (job.comps == 1 and job.limits[t].positive != 0)
        job.integer = job.integer or job.limits[t].integer != 0
    total = cnp.PyArray_DIM(planes, 0) // bank * job.pairs
    workers = min(workers, total)
    room = n0 * job.ld + _buffer(n1) + (2 * n0 * n1 if bank > 1 else 0) + bank
    room = _round_up(room, ALIGN)
    base = _allocate(room * workers)
    try:
        _each(_task, &job, total, _MACS * n0 * n1 * bank * total, 1, 1, _aligned(base), room,
              workers)
    finally:
        PyMem_RawFree(base)


# ---------------------------------------------------------------- kernel gradient

cdef enum:
    MOST_AT_ONCE = 8 * 300_000      # elements of pairs of tiles, in a part of a slab


cdef struct GradJob:
    Plane x
    Plane g
    Axis rows
    Axis cols
    Py_ssize_t ld
    ACC *table
    Py_ssize_t ka
    Py_ssize_t kb
    Py_ssize_t o0
    Py_ssize_t o1
    int comps
    const cnp.intp_t *planes
    Py_ssize_t across
    Py_ssize_t tiles
    Py_ssize_t slabs        # of pairs of tiles; each is transformed back once
    Py_ssize_t pairs        # in a slab,
    Py_ssize_t here         # taken so many at a time: this is the part
    Py_ssize_t wave
    uint8_t *failed
    double unit             # error of a sum, per norm of x and of g
    double bound            # error allowed, per sum of |x| |g| and term


cdef Py_ssize_t _small_ones(
    const T *z, Py_ssize_t ld, Py_ssize_t n1, Py_ssize_t rows, Py_ssize_t cols, double limit,
    int comps, bint both,
) noexcept nogil:
    """Elements below the limit; complex ones in `both` parts or in either."""
    cdef Py_ssize_t i, j, n = 0
    cdef T least = <T> limit, largest = -least
    cdef bint re, im
    for i in range(rows):
        for j in range(cols):
            re = largest < z[i * ld + j] < least
            im = re if comps == 1 else largest < z[i * ld + n1 + j] < least
            n += (re & im) if both else (re | im)
    return n


cdef void _grad_task(const void *given, Py_ssize_t number, T *scratch) noexcept nogil:
    """One slab of pairs of tiles of one plane."""
    cdef const GradJob *job = <const GradJob *> given
    cdef Plane x = job.x, g = job.g
    cdef Py_ssize_t plane = number // job.slabs, slab = number % job.slabs
    cdef Py_ssize_t n0 = job.rows.n, n1 = job.cols.n, ld = job.ld
    cdef Py_ssize_t t0 = n0 - job.ka + 1, t1 = n1 - job.kb + 1, small, terms, pixels
    cdef Py_ssize_t pair, last, part, tile, i, j, q, rows, cols
    cdef T *zx = scratch
    cdef T *zg = zx + n0 * ld
    cdef T *total = zg + n0 * ld
    cdef T *bx = total + 2 * n0 * n1
    cdef T *bg = bx + _buffer(n1)
    cdef T *s
    cdef T scale = <T> (1.0 / (<double> n0 * n1))
    cdef ACC *table = job.table + number * job.ka * job.kb * job.comps
    cdef vec xr, xi, gr, gi, factor = vsplat(&scale)
    cdef Census cx, cg
    cdef double norms, error = 0, allowed = 0
    cdef bint integer = True
    x.data += job.planes[3 * plane]
    g.data += job.planes[3 * plane + 1]
    memset(total, 0, 2 * n0 * n1 * sizeof(T))
    if job.failed[number]:
        return
    pair = slab * job.pairs + job.wave * job.here
    last = min(pair + job.here, (slab + 1) * job.pairs)
    for pair in range(pair, last):
        small = terms = pixels = 0
        for part in range(3 - job.comps):
            tile = pair if job.comps == 2 else 2 * pair + part
            rows = cols = i = j = 0
            if tile < job.tiles:
                i, j = tile // job.across * t0, tile % job.across * t1
                rows, cols = min(t0, g.H - i), min(t1, g.W - j)
            _gather_part(&g, i, j, rows, cols, zg + part * n1, ld, n0, n1, job.comps, bx)
            if rows > 0:
                terms += rows * cols
                rows += job.ka - 1
                cols += job.kb - 1
                pixels += rows * cols
            _gather_part(&x, job.o0 + i, job.o1 + j, rows, cols, zx + part * n1, ld, n0, n1,
                         job.comps, bx)
        if terms == 0:
            break
        cx.squares = cg.squares = 0
        cx.positive = cg.positive = cx.integer = cg.integer = True
        _look(&cx, zx, ld, n0, 2 * n1, False, True)
        _look(&cg, zg, ld, n0, 2 * n1, False, True)
        integer = integer and cx.integer and cg.integer
        if (cg.squares == 0 and cx.squares < MOST_SQUARES and _nothing(zg, ld, n0, 2 * n1)
                or cx.squares == 0 and cg.squares < MOST_SQUARES and _nothing(zx, ld, n0, 2 * n1)):
            continue
        if not (LEAST_SQUARES < cx.squares < MOST_SQUARES
                and LEAST_SQUARES < cg.squares < MOST_SQUARES):
            job.failed[number] = 1
            return
        # Of the terms of any sum so many have two factors that are not small.
        for part in range(3 - job.comps):
            tile = pair if job.comps == 2 else 2 * pair + part
            if tile < job.tiles:
                i, j = tile // job.across * t0, tile % job.across * t1
                rows, cols = min(t0, g.H - i), min(t1, g.W - j)
                # A tap meets a window of x only, but all of that are counted: a lower limit.
                small += _small_ones(zg + part * n1, ld, n1, rows, cols,
                                     SMALL * sqrt(cg.squares / terms), job.comps, False)
                small += _small_ones(zx + part * n1, ld, n1, rows + job.ka - 1,
                                     cols + job.kb - 1, SMALL_X * sqrt(cx.squares / pixels),
                                     job.comps, True)
        norms = sqrt(cx.squares * cg.squares)
        error += job.unit * norms
        allowed += (job.bound * (SMALL * SMALL_X) * norms * max(terms - small, 0)
                    / sqrt(<double> terms * pixels))

        _columns(zx, &job.rows, ld, n1, n1, False)
        _columns(zg, &job.rows, ld, n1, n1, False)
        s = total
        for q in range(n0 // V):
            _rows_in(zx + q * V * ld, ld, &job.cols, job.cols.passes, bx)
            _rows_in(zg + q * V * ld, ld, &job.cols, job.cols.passes, bg)
            for j in range(n1):
                xr, xi = vload(bx + 2 * V * j), vload(bx + 2 * V * j + V)
                gr, gi = vload(bg + 2 * V * j), vload(bg + 2 * V * j + V)
                vstore(s, vload(s) + (xr * gr + xi * gi))
                vstore(s + V, vload(s + V) + (xi * gr - xr * gi))
                s += 2 * V
    if not (error < 1 / 8.0 if integer else error <= allowed):
        job.failed[number] = 1
        return
    s = total
    for q in range(n0 // V):
        for j in range(2 * n1):
            vstore(s + V * j, vload(s + V * j) * factor)
        _back(s, V, 2 * V, &job.cols, job.cols.passes, V)
        for j in range(n1 // V):
            _turn(s + 2 * V * V * j, 2 * V, zx + q * V * ld + j * V, ld)
            _turn(s + 2 * V * V * j + V, 2 * V, zx + q * V * ld + n1 + j * V, ld)
        s += 2 * V * n1
    _columns(zx, &job.rows, ld, n1, _round_up(job.kb, LINE // <Py_ssize_t> sizeof(T)), True)
    if integer:
        _round(zx, ld, job.ka, 2 * n1)
    for i in range(job.ka):
        for j in range(job.kb):
            if job.comps == 1:
                table[i * job.kb + j] += zx[i * ld + j]
            else:       # conjugated: this is the sum of x times conj(g)
                table[2 * (i * job.kb + j)] += zx[i * ld + j]
                table[2 * (i * job.kb + j) + 1] -= zx[i * ld + n1 + j]


def correlate_kernel_grad(
    cnp.ndarray x not None,             # IN   (…, H, W), any layout and dtype
    cnp.ndarray g not None,             # IN   (…, oh, ow), likewise
    cnp.ndarray table not None,         # OUT  (n, slabs, kh, kw), zeros, C-contiguous, of ACC
    cnp.ndarray failed not None,        # OUT  (n, slabs) uint8, zeros: 1 where table is not right
    Py_ssize_t o0, Py_ssize_t o1,
    int bound0, int bound1,
    cnp.ndarray fill not None,          # IN   one element, of the lanes' dtype
    cnp.ndarray radices0 not None, cnp.ndarray table0 not None,
    cnp.ndarray radices1 not None, cnp.ndarray table1 not None,
    cnp.ndarray planes not None,        # IN   (n, 3) intp: byte offsets of each plane in x, g, –
    Py_ssize_t pairs,                   # of tiles in a slab
    double unit, double bound,          # error, per norms of x and g; allowed, per sum and term
    int workers,
):
    """table[p, s] = kernel gradient of plane p over slab s of the tiles of g."""
    cdef GradJob job
    cdef Py_ssize_t total, room, n0, n1
    cdef void *base
    job.x = _plane(x, bound0, bound1, fill)
    job.g = _plane(g, FILL, FILL, fill)
    job.rows, job.cols = _axis(radices0, table0), _axis(radices1, table1)
    n0, n1 = job.rows.n, job.cols.n
    job.ld = _row_stride(n1)
    job.table = <ACC *> cnp.PyArray_DATA(table)
    job.slabs = cnp.PyArray_DIM(table, 1)
    job.ka = cnp.PyArray_DIM(table, 2)
    job.kb = cnp.PyArray_DIM(table, 3)
    job.o0, job.o1 = o0, o1
    job.comps = 2 if cnp.PyArray_ISCOMPLEX(fill) else 1
    job.planes = <const cnp.intp_t *> cnp.PyArray_DATA(planes)
    job.across = (job.g.W + n1 - job.kb) // (n1 - job.kb + 1)
    job.tiles = (job.g.H + n0 - job.ka) // (n0 - job.ka + 1) * job.across
    job.pairs = pairs
    job.failed = <uint8_t *> cnp.PyArray_DATA(failed)
    job.unit, job.bound = unit, bound
    total = cnp.PyArray_DIM(planes, 0) * job.slabs
    workers = min(workers, total)
    room = 2 * n0 * job.ld + 2 * n0 * n1 + 2 * _buffer(n1)
    room = _round_up(room, ALIGN)
    # Pairs enough to be worth a transform back, and some ten ms.
    job.here = min(max(MOST_AT_ONCE // (n0 * n1), 2), pairs)
    base = _allocate(room * workers)
    try:
        for job.wave in range((pairs + job.here - 1) // job.here):
            _each(_grad_task, &job, total, _MACS * n0 * n1 * job.here * total, 1, 1, _aligned(base),
                  room, workers)
    finally:
        PyMem_RawFree(base)
