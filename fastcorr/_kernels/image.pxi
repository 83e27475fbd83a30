"""Images, read and written: included by every kernel that computes on planes.

Text to include, not a module: `T` is another type in each module that includes it.
"""
cimport numpy as cnp
from libc.stdint cimport (
    int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t,
)
from libc.string cimport memcpy, memset

from fastcorr._kernels.boundary cimport FILL, Boundary, run_at
from fastcorr._kernels.simd cimport T

cnp.import_array()

cdef struct Plane:
    char *data
    Py_ssize_t H
    Py_ssize_t W
    Py_ssize_t s0       # strides in bytes
    Py_ssize_t s1
    char kind           # of a component as it lies in memory: NumPy's kind and item size
    Py_ssize_t size
    int comps           # components of an element: 2 if complex
    bint swapped        # byte order is not ours
    bint plain          # aligned, in our byte order
    bint lanes          # moreover elements of T at unit stride: can be read in place
    Boundary bound0
    Boundary bound1
    const T *fill       # one element of the result's type


ctypedef fused item_t:
    int8_t
    int16_t
    int32_t
    int64_t
    uint8_t
    uint16_t
    uint32_t
    uint64_t
    float
    double
    (long double)


cdef inline void _convert(
    const Plane *x, const item_t *p, Py_ssize_t stride, Py_ssize_t n,
    T *dst, Py_ssize_t step, int comps,
) noexcept nogil:
    """dst[::step] = n elements from p on, in `comps` components (imaginary 0 if x is real)."""
    cdef Py_ssize_t j, _n
    cdef int c, i, size = sizeof(item_t)
    cdef item_t value
    cdef char *byte = <char *> &value
    cdef const char *src = <const char *> p
    if x.plain and x.comps == comps:
        if step == comps and stride == size * comps:
            for j in range(n * comps):
                dst[j] = <T> p[j]
            return
        if comps == 1:
            for j in range(n):
                dst[j * step] = <T> (<const item_t *> (src + j * stride))[0]
            return
    for _n in range(n):
        for c in range(x.comps):
            if x.swapped:
                for i in range(size):
                    byte[i] = src[(c + 1) * size - 1 - i]
            else:
                memcpy(byte, src + c * size, size)
            dst[c] = <T> value
        if comps > x.comps:
            dst[1] = <T> 0
        src += stride
        dst += step


cdef inline float _half(uint16_t h) noexcept nogil:
    """The value of a half float: its bits moved to a float's place, 2**112 too small there."""
    cdef uint32_t bits = (<uint32_t> h & 0x7FFF) << 13 | (<uint32_t> h & 0x8000) << 16
    cdef float value
    if h & 0x7C00 == 0x7C00:        # infinite or NaN
        bits |= 0x7F800000
        memcpy(&value, &bits, sizeof(float))
        return value
    memcpy(&value, &bits, sizeof(float))
    return value * <float> 5192296858534827628530496329220096.0     # 2**112


cdef void _read_half(
    const Plane *x, const char *p, Py_ssize_t stride, Py_ssize_t n,
    T *dst, Py_ssize_t step, int comps,
) noexcept nogil:
    cdef Py_ssize_t j
    cdef uint16_t h
    for j in range(n):
        memcpy(&h, p + j * stride, 2)
        if x.swapped:
            h = h << 8 | h >> 8
        dst[j * step] = <T> _half(h)
        if comps == 2:
            dst[j * step + 1] = <T> 0


cdef void _read(
    const Plane *x, const char *p, Py_ssize_t stride, Py_ssize_t n,
    T *dst, Py_ssize_t step, int comps,
) noexcept nogil:
    if x.kind == c"f":
        if x.size == sizeof(float):
            _convert(x, <const float *> p, stride, n, dst, step, comps)
        elif x.size == sizeof(double):
            _convert(x, <const double *> p, stride, n, dst, step, comps)
        elif x.size == 2:
            _read_half(x, p, stride, n, dst, step, comps)
        else:
            _convert(x, <const long double *> p, stride, n, dst, step, comps)
    elif x.kind == c"i":
        if x.size == 1:
            _convert(x, <const int8_t *> p, stride, n, dst, step, comps)
        elif x.size == 2:
            _convert(x, <const int16_t *> p, stride, n, dst, step, comps)
        elif x.size == 4:
            _convert(x, <const int32_t *> p, stride, n, dst, step, comps)
        else:
            _convert(x, <const int64_t *> p, stride, n, dst, step, comps)
    elif x.size == 1:
        _convert(x, <const uint8_t *> p, stride, n, dst, step, comps)
    elif x.size == 2:
        _convert(x, <const uint16_t *> p, stride, n, dst, step, comps)
    elif x.size == 4:
        _convert(x, <const uint32_t *> p, stride, n, dst, step, comps)
    else:
        _convert(x, <const uint64_t *> p, stride, n, dst, step, comps)


cdef void _lines(
    const Plane *x, Py_ssize_t i0, Py_ssize_t rows, Py_ssize_t H, Py_ssize_t s0, Boundary bound0,
    Py_ssize_t j0, Py_ssize_t cols, Py_ssize_t W, Py_ssize_t s1, Boundary bound1,
    T *dst, Py_ssize_t d0, Py_ssize_t d1, int comps,
) noexcept nogil:
    """`_gather` line by line; for columns of x its axes change places."""
    cdef Py_ssize_t i, j, c, si, sj, n, step, length
    for i in range(rows):
        si = run_at(i0 + i, H, bound0, &step, &length)
        j = 0
        while j < cols:
            sj = run_at(j0 + j, W, bound1, &step, &length)
            n = min(length, cols - j)
            if si < 0 or sj < 0:
                for c in range(j, j + n):
                    dst[c * d1] = x.fill[0]
                    if comps == 2:
                        dst[c * d1 + 1] = x.fill[1]
            else:
                _read(x, x.data + si * s0 + sj * s1, step * s1, n, dst + j * d1, d1, comps)
            j += n
        dst += d0


cdef void _gather(
    const Plane *x, Py_ssize_t i0, Py_ssize_t j0, Py_ssize_t rows, Py_ssize_t cols,
    T *dst, Py_ssize_t ld, int comps,
) noexcept nogil:
    """dst = the continued image's elements [i0, i0 + rows) x [j0, j0 + cols); 0 up to ld."""
    cdef Py_ssize_t i
    if cols * comps < ld:
        for i in range(rows):
            memset(dst + i * ld + cols * comps, 0, (ld - cols * comps) * sizeof(T))
    if cols >= 16 or cols >= rows:
        _lines(x, i0, rows, x.H, x.s0, x.bound0, j0, cols, x.W, x.s1, x.bound1,
               dst, ld, comps, comps)
    else:       # a few long columns: finding one's way in x once a column, not once a row
        _lines(x, j0, cols, x.W, x.s1, x.bound1, i0, rows, x.H, x.s0, x.bound0,
               dst, comps, ld, comps)


cdef void _scatter(
    const T *src, Py_ssize_t ld, const Plane *y, Py_ssize_t i0, Py_ssize_t j0,
    Py_ssize_t rows, Py_ssize_t cols,
) noexcept nogil:
    """y[i0:i0 + rows, j0:j0 + cols] = src, narrowed to bytes where y holds bytes."""
    cdef Py_ssize_t i, j
    cdef char *p
    for i in range(rows):
        p = y.data + (i0 + i) * y.s0 + j0 * y.s1
        if y.size == 1:
            for j in range(cols):
                (<uint8_t *> (p + j * y.s1))[0] = <uint8_t> src[j]
        elif y.comps == 1:
            for j in range(cols):
                (<T *> (p + j * y.s1))[0] = src[j]
        else:
            for j in range(cols):
                (<T *> (p + j * y.s1))[0] = src[2 * j]
                (<T *> (p + j * y.s1))[1] = src[2 * j + 1]
        src += ld


cdef Plane _plane(cnp.ndarray a, int b0, int b1, cnp.ndarray fill):
    """The last two axes of an array; fill is of the type of the result."""
    cdef Plane p
    cdef int nd = cnp.PyArray_NDIM(a)
    cdef char kind = a.descr.kind
    p.comps = 2 if kind == c"c" else 1
    p.kind = c"f" if kind == c"c" else kind
    p.size = cnp.PyArray_ITEMSIZE(a) // p.comps
    p.data = cnp.PyArray_BYTES(a)
    p.H = cnp.PyArray_DIM(a, nd - 2)
    p.W = cnp.PyArray_DIM(a, nd - 1)
    p.s0 = cnp.PyArray_STRIDE(a, nd - 2)
    p.s1 = cnp.PyArray_STRIDE(a, nd - 1)
    p.swapped = not cnp.PyArray_ISNOTSWAPPED(a)
    p.plain = cnp.PyArray_ISALIGNED(a) and not p.swapped
    p.lanes = (
        p.plain
        and p.size == sizeof(T) and (p.kind == c"f") == (<T> 0.5 != <T> 0)
        and p.comps == (2 if cnp.PyArray_ISCOMPLEX(fill) else 1)
        and p.s1 == cnp.PyArray_ITEMSIZE(a) and p.s0 % <Py_ssize_t> sizeof(T) == 0
    )
    p.bound0 = <Boundary> b0
    p.bound1 = <Boundary> b1
    p.fill = <const T *> cnp.PyArray_DATA(fill)
    return p
