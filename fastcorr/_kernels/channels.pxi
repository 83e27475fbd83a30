"""Images of many channels, the register tile of matrix products, and what packing for it needs:
included by conv.pyx and winograd.pyx, compiled for each lane type and instruction set as they are.
"""

# ---------------------------------------------------------------- sizes

cdef inline Py_ssize_t _ceil(Py_ssize_t i, Py_ssize_t m) noexcept nogil:
    """i / m rounded up."""
    return -(-i // m) if i < 0 else (i + m - 1) // m


cdef inline Py_ssize_t _clip(Py_ssize_t i, Py_ssize_t lo, Py_ssize_t hi) noexcept nogil:
    return min(max(i, lo), hi)


cdef inline Py_ssize_t _part(Py_ssize_t n, Py_ssize_t parts, Py_ssize_t number) noexcept nogil:
    """Where part `number` of n things begins, shared out as evenly as can be."""
    return n // parts * number + min(n % parts, number)


# ---------------------------------------------------------------- images

cdef struct Image:          # (N, channels, H, W); strides in lanes
    T *data
    Py_ssize_t N
    Py_ssize_t H
    Py_ssize_t W
    Py_ssize_t sn
    Py_ssize_t sc
    Py_ssize_t s0
    Py_ssize_t s1
    const T *limit          # the end of what may be read
    int comps               # channels c * comps … lie interleaved
    Boundary bound0
    Boundary bound1


cdef Image _image(cnp.ndarray x, int comps, int bound0, int bound1):
    cdef Image p
    cdef Py_ssize_t n, size = sizeof(T)
    p.data = <T *> cnp.PyArray_DATA(x)
    p.N, p.H, p.W = x.shape[0], x.shape[2], x.shape[3]
    p.sn, p.sc = x.strides[0] // size, x.strides[1] // size
    p.s0, p.s1 = x.strides[2] // size, x.strides[3] // size
    p.limit = p.data + comps
    for n in range(4):
        p.limit += max(x.shape[n] - 1, 0) * max(x.strides[n] // size, 0)
    p.comps = comps
    p.bound0, p.bound1 = <Boundary> bound0, <Boundary> bound1
    return p


cdef inline Py_ssize_t _channel(const Image *x, Py_ssize_t c) noexcept nogil:
    """Where channel c lies."""
    if x.comps == 1:
        return c * x.sc
    return c // x.comps * x.sc + c % x.comps


# ---------------------------------------------------------------- register tile

# Up to twelve rows x two vectors of sums: fields, which the compiler keeps in registers.
cdef struct Sums:
    vec s0
    vec t0
    vec s1
    vec t1
    vec s2
    vec t2
    vec s3
    vec t3
    vec s4
    vec t4
    vec s5
    vec t5
    vec s6
    vec t6
    vec s7
    vec t7
    vec s8
    vec t8
    vec s9
    vec t9
    vec s10
    vec t10
    vec s11
    vec t11


cdef inline void _leave(T *dst, vec v, bint add) noexcept nogil:
    vstore(dst, vload(dst) + v if add else v)


cdef inline void _micro(
    const T *a, Py_ssize_t a_row, const Py_ssize_t a_step, const Py_ssize_t a_m,
    const T *b, const Py_ssize_t *row, Py_ssize_t rows, Py_ssize_t cols, Py_ssize_t step,
    T *dst, Py_ssize_t ld, bint add, const int M, const int C,
) noexcept nogil:
    """dst[m, :] = sum over k of a[k, m] * b[k, :], or add it, for M rows x C vectors.

    k = i * cols + j is summed in its order.  a[k, m] lies at i * a_row + j * a_step + m * a_m,
    b[k, :] at row[i] + j * step.
    M, C, a_m and a_step are literals in every call, or a_step is M: the conditions are gone when
    this is compiled, and the rows of a are addressed by constants.
    """
    cdef Sums c
    cdef Py_ssize_t i, _j
    cdef const T *p
    cdef const T *q
    cdef vec x, y, w
    c.s0 = c.t0 = c.s1 = c.t1 = c.s2 = c.t2 = vzero()
    c.s3 = c.t3 = c.s4 = c.t4 = c.s5 = c.t5 = vzero()
    c.s6 = c.t6 = c.s7 = c.t7 = c.s8 = c.t8 = vzero()
    c.s9 = c.t9 = c.s10 = c.t10 = c.s11 = c.t11 = vzero()
    for i in range(rows):
        p = b + row[i]
        q = a + i * a_row
        for _j in range(cols):
            x = vload(p)
            y = vload(p + V) if C > 1 else x
            p += step
            w = vhold(vsplat(q))
            c.s0 = c.s0 + x * w
            if C > 1:
                c.t0 = c.t0 + y * w
            if M > 1:
                w = vhold(vsplat(q + a_m))
                c.s1 = c.s1 + x * w
                if C > 1:
                    c.t1 = c.t1 + y * w
            if M > 2:
                w = vhold(vsplat(q + 2 * a_m))
                c.s2 = c.s2 + x * w
                if C > 1:
                    c.t2 = c.t2 + y * w
            if M > 3:
                w = vhold(vsplat(q + 3 * a_m))
                c.s3 = c.s3 + x * w
                if C > 1:
                    c.t3 = c.t3 + y * w
            if M > 4:
                w = vhold(vsplat(q + 4 * a_m))
                c.s4 = c.s4 + x * w
                if C > 1:
                    c.t4 = c.t4 + y * w
            if M > 5:
                w = vhold(vsplat(q + 5 * a_m))
                c.s5 = c.s5 + x * w
                if C > 1:
                    c.t5 = c.t5 + y * w
            if M > 6:
                w = vhold(vsplat(q + 6 * a_m))
                c.s6 = c.s6 + x * w
                if C > 1:
                    c.t6 = c.t6 + y * w
            if M > 7:
                w = vhold(vsplat(q + 7 * a_m))
                c.s7 = c.s7 + x * w
                if C > 1:
                    c.t7 = c.t7 + y * w
            if M > 8:
                w = vhold(vsplat(q + 8 * a_m))
                c.s8 = c.s8 + x * w
                if C > 1:
                    c.t8 = c.t8 + y * w
            if M > 9:
                w = vhold(vsplat(q + 9 * a_m))
                c.s9 = c.s9 + x * w
                if C > 1:
                    c.t9 = c.t9 + y * w
            if M > 10:
                w = vhold(vsplat(q + 10 * a_m))
                c.s10 = c.s10 + x * w
                if C > 1:
                    c.t10 = c.t10 + y * w
            if M > 11:
                w = vhold(vsplat(q + 11 * a_m))
                c.s11 = c.s11 + x * w
                if C > 1:
                    c.t11 = c.t11 + y * w
            q += a_step
    _leave(dst, c.s0, add)
    if C > 1:
        _leave(dst + V, c.t0, add)
    if M > 1:
        _leave(dst + ld, c.s1, add)
        if C > 1:
            _leave(dst + ld + V, c.t1, add)
    if M > 2:
        _leave(dst + 2 * ld, c.s2, add)
        if C > 1:
            _leave(dst + 2 * ld + V, c.t2, add)
    if M > 3:
        _leave(dst + 3 * ld, c.s3, add)
        if C > 1:
            _leave(dst + 3 * ld + V, c.t3, add)
    if M > 4:
        _leave(dst + 4 * ld, c.s4, add)
        if C > 1:
            _leave(dst + 4 * ld + V, c.t4, add)
    if M > 5:
        _leave(dst + 5 * ld, c.s5, add)
        if C > 1:
            _leave(dst + 5 * ld + V, c.t5, add)
    if M > 6:
        _leave(dst + 6 * ld, c.s6, add)
        if C > 1:
            _leave(dst + 6 * ld + V, c.t6, add)
    if M > 7:
        _leave(dst + 7 * ld, c.s7, add)
        if C > 1:
            _leave(dst + 7 * ld + V, c.t7, add)
    if M > 8:
        _leave(dst + 8 * ld, c.s8, add)
        if C > 1:
            _leave(dst + 8 * ld + V, c.t8, add)
    if M > 9:
        _leave(dst + 9 * ld, c.s9, add)
        if C > 1:
            _leave(dst + 9 * ld + V, c.t9, add)
    if M > 10:
        _leave(dst + 10 * ld, c.s10, add)
        if C > 1:
            _leave(dst + 10 * ld + V, c.t10, add)
    if M > 11:
        _leave(dst + 11 * ld, c.s11, add)
        if C > 1:
            _leave(dst + 11 * ld + V, c.t11, add)


cdef inline void _micro_rows(
    const T *a, Py_ssize_t a_row, const Py_ssize_t a_step, const Py_ssize_t a_m,
    const T *b, const Py_ssize_t *row, Py_ssize_t rows, Py_ssize_t cols, Py_ssize_t step,
    T *dst, Py_ssize_t ld, bint add, int m, const int C,
) noexcept nogil:
    """`_micro` for m rows; the rows of a are packed, m to a k, if a_step is 0."""
    if m == 1:
        _micro(a, a_row, a_step if a_step else 1, a_m, b, row, rows, cols, step, dst, ld, add,
               1, C)
    elif m == 2:
        _micro(a, a_row, a_step if a_step else 2, a_m, b, row, rows, cols, step, dst, ld, add,
               2, C)
    elif m == 3:
        _micro(a, a_row, a_step if a_step else 3, a_m, b, row, rows, cols, step, dst, ld, add,
               3, C)
    elif m == 4:
        _micro(a, a_row, a_step if a_step else 4, a_m, b, row, rows, cols, step, dst, ld, add,
               4, C)
    elif m == 5:
        _micro(a, a_row, a_step if a_step else 5, a_m, b, row, rows, cols, step, dst, ld, add,
               5, C)
    elif M_MAX <= 6 or m == 6:
        _micro(a, a_row, a_step if a_step else 6, a_m, b, row, rows, cols, step, dst, ld, add,
               6, C)
    elif m == 7:
        _micro(a, a_row, a_step if a_step else 7, a_m, b, row, rows, cols, step, dst, ld, add,
               7, C)
    elif m == 8:
        _micro(a, a_row, a_step if a_step else 8, a_m, b, row, rows, cols, step, dst, ld, add,
               8, C)
    elif m == 9:
        _micro(a, a_row, a_step if a_step else 9, a_m, b, row, rows, cols, step, dst, ld, add,
               9, C)
    elif m == 10:
        _micro(a, a_row, a_step if a_step else 10, a_m, b, row, rows, cols, step, dst, ld, add,
               10, C)
    elif m == 11:
        _micro(a, a_row, a_step if a_step else 11, a_m, b, row, rows, cols, step, dst, ld, add,
               11, C)
    else:
        _micro(a, a_row, a_step if a_step else 12, a_m, b, row, rows, cols, step, dst, ld, add,
               12, C)


cdef inline void _tile(
    const T *a, const T *b, const Py_ssize_t *row, Py_ssize_t rows, Py_ssize_t cols,
    Py_ssize_t step, T *dst, Py_ssize_t ld, int m, bint narrow,
) noexcept nogil:
    """`_micro` for packed rows of a, m to a k, and one or two vectors."""
    if narrow:
        _micro_rows(a, cols * m, 0, 1, b, row, rows, cols, step, dst, ld, False, m, 1)
    else:
        _micro_rows(a, cols * m, 0, 1, b, row, rows, cols, step, dst, ld, False, m, 2)


cdef inline void _add(
    const T *src, Py_ssize_t src_ld, T *dst, Py_ssize_t ld, Py_ssize_t rows,
) noexcept nogil:
    """dst += src, for rows of two vectors."""
    cdef Py_ssize_t m
    for m in range(rows):
        vstore(dst + m * ld, vload(dst + m * ld) + vload(src + m * src_ld))
        vstore(dst + m * ld + V, vload(dst + m * ld + V) + vload(src + m * src_ld + V))


# ---------------------------------------------------------------- transposition

cdef inline void _square(const T *src, Py_ssize_t ld, T *dst, Py_ssize_t width) noexcept nogil:
    """dst[t * width + r] = src[r * ld + t] for V x V lanes."""
    cdef vec x0, x1, x2, x3, x4, x5, x6, x7, y0, y1, y2, y3, y4, y5, y6, y7
    x0 = x1 = x2 = x3 = x4 = x5 = x6 = x7 = vload(src)
    if V > 1:
        x1 = vload(src + ld)
    if V > 2:
        x2 = vload(src + 2 * ld)
        x3 = vload(src + 3 * ld)
    if V > 4:
        x4 = vload(src + 4 * ld)
        x5 = vload(src + 5 * ld)
        x6 = vload(src + 6 * ld)
        x7 = vload(src + 7 * ld)
    y0, y1 = vfirst(x0, x1, 1), vsecond(x0, x1, 1)
    y2, y3 = vfirst(x2, x3, 1), vsecond(x2, x3, 1)
    y4, y5 = vfirst(x4, x5, 1), vsecond(x4, x5, 1)
    y6, y7 = vfirst(x6, x7, 1), vsecond(x6, x7, 1)
    if V > 2:
        x0, x2 = vfirst(y0, y2, 2), vsecond(y0, y2, 2)
        x1, x3 = vfirst(y1, y3, 2), vsecond(y1, y3, 2)
        x4, x6 = vfirst(y4, y6, 2), vsecond(y4, y6, 2)
        x5, x7 = vfirst(y5, y7, 2), vsecond(y5, y7, 2)
        y0, y1, y2, y3, y4, y5, y6, y7 = x0, x1, x2, x3, x4, x5, x6, x7
    if V > 4:
        x0, x4 = vfirst(y0, y4, 4), vsecond(y0, y4, 4)
        x1, x5 = vfirst(y1, y5, 4), vsecond(y1, y5, 4)
        x2, x6 = vfirst(y2, y6, 4), vsecond(y2, y6, 4)
        x3, x7 = vfirst(y3, y7, 4), vsecond(y3, y7, 4)
        y0, y1, y2, y3, y4, y5, y6, y7 = x0, x1, x2, x3, x4, x5, x6, x7
    vstore(dst, y0)
    if V > 1:
        vstore(dst + width, y1)
    if V > 2:
        vstore(dst + 2 * width, y2)
        vstore(dst + 3 * width, y3)
    if V > 4:
        vstore(dst + 4 * width, y4)
        vstore(dst + 5 * width, y5)
        vstore(dst + 6 * width, y6)
        vstore(dst + 7 * width, y7)


cdef void _transpose(
    const T *src, Py_ssize_t ld, Py_ssize_t step, Py_ssize_t rows, Py_ssize_t n,
    T *dst, Py_ssize_t width,
) noexcept nogil:
    """dst[t * width + r] = src[r * ld + t * step] for `rows` rows of n.

    Squares that would go beyond an edge are moved back onto their neighbours, but one or two
    columns that are left over go one by one.
    """
    cdef Py_ssize_t t = 0, r
    if step == -1:
        src -= n - 1
        dst += (n - 1) * width
        step, width = 1, -width
    if step == 1 and rows >= V and n >= V:
        while n - t >= min(V, 3):
            t = min(t, n - V)
            r = 0
            while r < rows:
                r = min(r, rows - V)
                _square(src + r * ld + t, ld, dst + t * width + r, width)
                r += V
            t += V
    while t < n:
        for r in range(rows):
            dst[t * width + r] = src[r * ld + t * step]
        t += 1
