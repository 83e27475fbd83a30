"""3 x 3 kernels over many channels with fewer multiplications: Winograd's algorithms.

An m x m tile of outputs depends on alpha x alpha pixels, alpha = m + 2.  With the constant
matrices below,

    y  = A [ (G w G') * (B d B') ] A'             (* element by element; ' transposes)
    dw = G' [ (A' g A) * (B d B') ] G

computes it with alpha^2 multiplications instead of 9 m^2, and summed over channels (or, for the
gradient to the weight, over tiles) that is alpha^2 products of matrices, which the register tile
of channels.pxi computes.  m = 2: F(2x2, 3x3), 16 for 36; m = 4: F(4x4, 3x3), 36 for 144.

Each transform is the same step in one dimension, along columns and then along rows, with a
vector of channels in each lane: images are turned so that channels lie innermost, a strip of
pixels at a time (`_gather`, `_scatter`), so neither narrow maps nor edges leave lanes idle.

    V[t, block, p, 2 V]      transformed pixels: position t in the tile, block of channels, tile p
    U[t, c, 2 V]             transformed weights of a panel of 2 V outputs
    P[t, p, 2 V]             products

Interpolation points of m = 2: 0, 1, -1, infinity.  Of m = 4: 0, 1, -1, 1/2, -2, infinity, whose
roundings are a third of those of 2 and -2; the denominators 15 that belong to A are left for one
division at the end, so that all that comes before is exact for small integers.

Order of summation: chunks of K_MAX channels (K_GRAD tiles), each ascending in one accumulator,
added in order.  Tiles, chunks and passes depend on shapes and type only, never on the workers.

Sources: S. Winograd, "Arithmetic Complexity of Computations", 1980; A. Lavin and S. Gray, "Fast
Algorithms for Convolutional Neural Networks", CVPR 2016; for the points B. Barabasz et al.,
"Error Analysis and Improving the Accuracy of Winograd Convolution", ACM TOMS 46, 2020.

Contract: the caller has checked shapes, dtypes and the number of workers.  Here nothing is.
"""
cimport numpy as cnp

from fastcorr._kernels.boundary cimport FILL, Boundary, run_at
from fastcorr._kernels.simd cimport (
    M_MAX, T, V, vec, vfirst, vhold, vload, vprefetch, vquotient, vrelu, vsecond, vsplat, vstore,
    vzero,
)

cnp.import_array()

cdef enum:
    TILES = 48          # tiles whose products with a panel are in the cache together
    SEGMENT = 64        # pixels of a strip, which stays in the first-level cache
    K_MAX = 64          # channels of one accumulator: bounds the rounding errors
    K_GRAD = 128        # tiles of one
    MOST = 6            # alpha
    PASS = 128          # tiles of a pass of the gradient to the weight, at least
    AHEAD = 6           # channels whose weights are asked for before they are needed
    GRAD_BLOCKS = 4     # blocks of channels of a task of the gradient to the weight

cdef Py_ssize_t LINE = 64 // sizeof(T)      # lanes of a cache line
# Lanes of a strip; its last row may be overwritten up to the next whole square.
cdef Py_ssize_t ROOM = (MOST * (SEGMENT + 2) + V) * V

# What the Python side needs to know of the compile-time choices.
LANES = V

include "tasks.pxi"
include "channels.pxi"


# ---------------------------------------------------------------- pixels, channels innermost

cdef void _gather(
    const Image *x, Py_ssize_t n, Py_ssize_t c0, Py_ssize_t channels,
    Py_ssize_t i0, Py_ssize_t rows, Py_ssize_t j0, Py_ssize_t cols, T *dst, Py_ssize_t ld,
) noexcept nogil:
    """dst[r * ld + t * V + c] = pixel (i0 + r, j0 + t) of channel c0 + c of the continued image.

    Lanes beyond `channels`, V at most, are zero.
    """
    cdef Py_ssize_t r, t, c, i, j, lo, hi, _step, _length
    cdef T *line
    cdef const T *row
    lo = _clip(-j0, 0, cols)
    hi = _clip(x.W - j0, lo, cols)
    for r in range(rows):
        line = dst + r * ld
        i = run_at(i0 + r, x.H, x.bound0, &_step, &_length)
        if i < 0:
            for t in range(cols):
                vstore(line + t * V, vzero())
            continue
        row = x.data + n * x.sn + i * x.s0
        if x.comps == 1 and channels == V and x.s1 == 1:
            row += c0 * x.sc + j0
            t = lo
            while t < hi:
                if t + V > hi and not row + t + (V - 1) * x.sc + V <= x.limit:
                    if hi - lo < V:
                        break
                    t = hi - V
                _square(row + t, x.sc, line + t * V, V)
                t += V
            while t < hi:
                for c in range(V):
                    line[t * V + c] = row[c * x.sc + t]
                t += 1
        elif x.comps == 1 and channels == V and x.sc == 1:
            row += c0 + j0 * x.s1
            for t in range(lo, hi):
                vstore(line + t * V, vload(row + t * x.s1))
        else:
            row += j0 * x.s1
            for t in range(lo, hi):
                vstore(line + t * V, vzero())
                for c in range(channels):
                    line[t * V + c] = row[_channel(x, c0 + c) + t * x.s1]
        row = x.data + n * x.sn + i * x.s0
        for t in range(cols):
            if lo <= t < hi:
                continue
            vstore(line + t * V, vzero())
            j = run_at(j0 + t, x.W, x.bound1, &_step, &_length)
            if j >= 0:
                for c in range(channels):
                    line[t * V + c] = row[_channel(x, c0 + c) + j * x.s1]


cdef void _scatter(
    const T *src, Py_ssize_t ld, const Image *y, Py_ssize_t n, Py_ssize_t c0,
    Py_ssize_t channels, Py_ssize_t i0, Py_ssize_t rows, Py_ssize_t j0, Py_ssize_t cols,
) noexcept nogil:
    """Pixels (i0 …, j0 …) of channels c0 … of y = src[r * ld + t * V + c]."""
    cdef Py_ssize_t r, t, c, i
    cdef const T *line
    cdef T *row
    for r in range(rows):
        line = src + r * ld
        row = y.data + n * y.sn + (i0 + r) * y.s0 + j0 * y.s1
        t = 0
        if y.comps == 1 and channels == V and y.s1 == 1:
            row += c0 * y.sc
            while t < cols:
                if t + V > cols:
                    if cols < V:
                        break
                    t = cols - V
                _square(line + t * V, V, row + t, y.sc)
                t += V
            for c in range(channels):
                for i in range(t, cols):
                    row[c * y.sc + i] = line[i * V + c]
        elif y.comps == 1 and channels == V and y.sc == 1:
            row += c0
            for t in range(cols):
                vstore(row + t * y.s1, vload(line + t * V))
        else:
            for c in range(channels):
                for t in range(cols):
                    row[_channel(y, c0 + c) + t * y.s1] = line[t * V + c]


# ---------------------------------------------------------------- transforms in one dimension
# Vectors at src, src + s, … -> vectors at dst, dst + d, …

cdef inline void _b(
    const int m, const T *src, Py_ssize_t s, T *dst, Py_ssize_t d,
) noexcept nogil:
    """B: pixels."""
    cdef vec x0 = vload(src), x1 = vload(src + s), x2 = vload(src + 2 * s)
    cdef vec x3 = vload(src + 3 * s), x4, x5, p, q, h, g
    if m == 2:
        vstore(dst, x0 - x2)
        vstore(dst + d, x1 + x2)
        vstore(dst + 2 * d, x2 - x1)
        vstore(dst + 3 * d, x1 - x3)
        return
    x4, x5 = vload(src + 4 * s), vload(src + 5 * s)
    p = x4 - x2
    q = x3 - x1
    h = p + x3 * <T> 1.5
    g = q + x2 * <T> 1.5
    vstore(dst, (x0 - x2) + p + q * <T> 1.5)
    vstore(dst + d, h + g)
    vstore(dst + 2 * d, h - g)
    vstore(dst + 3 * d, p + q * <T> 2)
    vstore(dst + 4 * d, p - q * <T> 0.5)
    vstore(dst + 5 * d, (x5 - x3) - q + p * <T> 1.5)


cdef inline void _g(
    const int m, const T *src, Py_ssize_t s, T *dst, Py_ssize_t d,
) noexcept nogil:
    """G: weights."""
    cdef vec w0 = vload(src), w1 = vload(src + s), w2 = vload(src + 2 * s), e, o
    vstore(dst, w0)
    if m == 2:
        e = (w0 + w2) * <T> 0.5
        o = w1 * <T> 0.5
        vstore(dst + d, e + o)
        vstore(dst + 2 * d, e - o)
        vstore(dst + 3 * d, w2)
        return
    e = w0 + w2
    vstore(dst + d, e + w1)
    vstore(dst + 2 * d, e - w1)
    vstore(dst + 3 * d, w0 + w1 * <T> 0.5 + w2 * <T> 0.25)
    vstore(dst + 4 * d, w0 - w1 * <T> 2 + w2 * <T> 4)
    vstore(dst + 5 * d, w2)


cdef inline void _a(
    const int m, const T *src, Py_ssize_t s, T *dst, Py_ssize_t d,
) noexcept nogil:
    """A: products to outputs; of m = 4 fifteen times as much."""
    cdef vec x0 = vload(src), x1 = vload(src + s), x2 = vload(src + 2 * s)
    cdef vec x3 = vload(src + 3 * s), x4, x5, e, o
    if m == 2:
        vstore(dst, x0 + x1 + x2)
        vstore(dst + d, x1 - x2 - x3)
        return
    x4, x5 = vload(src + 4 * s), vload(src + 5 * s)
    e = (x1 + x2) * <T> 5
    o = (x1 - x2) * <T> 5
    vstore(dst, x0 * <T> 15 + o - x3 * <T> 16 + x4)
    vstore(dst + d, e - x3 * <T> 8 - x4 * <T> 2)
    vstore(dst + 2 * d, o + (x4 - x3) * <T> 4)
    vstore(dst + 3 * d, e - x3 * <T> 2 - x4 * <T> 8 + x5 * <T> 15)


cdef inline void _a_back(
    const int m, const T *src, Py_ssize_t s, T *dst, Py_ssize_t d,
) noexcept nogil:
    """A': gradients of outputs."""
    cdef vec x0 = vload(src), x1 = vload(src + s), x2, x3, e, o
    if m == 2:
        vstore(dst, x0)
        vstore(dst + d, x0 + x1)
        vstore(dst + 2 * d, x0 - x1)
        vstore(dst + 3 * d, vzero() - x1)
        return
    x2, x3 = vload(src + 2 * s), vload(src + 3 * s)
    e = (x0 + x2) * <T> 5
    o = (x1 + x3) * <T> 5
    vstore(dst, x0 * <T> 15)
    vstore(dst + d, e + o)
    vstore(dst + 2 * d, o - e)
    vstore(dst + 3 * d, vzero() - x0 * <T> 16 - x1 * <T> 8 - x2 * <T> 4 - x3 * <T> 2)
    vstore(dst + 4 * d, x0 - x1 * <T> 2 + x2 * <T> 4 - x3 * <T> 8)
    vstore(dst + 5 * d, x3 * <T> 15)


cdef inline void _g_back(
    const int m, const T *src, Py_ssize_t s, T *dst, Py_ssize_t d,
) noexcept nogil:
    """G': products to gradients of weights."""
    cdef vec x0 = vload(src), x1 = vload(src + s), x2 = vload(src + 2 * s)
    cdef vec x3 = vload(src + 3 * s), x4, x5, e, o
    if m == 2:
        e = (x1 + x2) * <T> 0.5
        o = (x1 - x2) * <T> 0.5
        vstore(dst, x0 + e)
        vstore(dst + d, o)
        vstore(dst + 2 * d, e + x3)
        return
    x4, x5 = vload(src + 4 * s), vload(src + 5 * s)
    e = x1 + x2
    o = x1 - x2
    vstore(dst, x0 + e + x3 + x4)
    vstore(dst + d, o + x3 * <T> 0.5 - x4 * <T> 2)
    vstore(dst + 2 * d, e + x3 * <T> 0.25 + x4 * <T> 4 + x5)


cdef inline vec _undo(const int m, vec v) noexcept nogil:
    """Divide by what the transforms of both dimensions left over.

    A quotient of doubles is exact where it can be; floats need no more than the product.
    """
    if m == 2:
        return v
    if sizeof(T) == 8:
        return vquotient(v, <T> 225)
    return v * <T> (1.0 / 225)


# ---------------------------------------------------------------- a job

cdef struct Job:
    int m
    Py_ssize_t size             # (m + 2)^2
    Image x
    Image y                     # or its gradient
    const T *w
    Py_ssize_t ws[5]            # strides of (group, m, c, a, b), in lanes
    const T *bias               # groups * panels * 2 V, or NULL
    bint relu
    Py_ssize_t i0               # the pixel that output (0, 0) and tap (0, 0) meet
    Py_ssize_t j0
    Py_ssize_t groups
    Py_ssize_t M                # of a group
    Py_ssize_t C
    Py_ssize_t c_blocks         # of 2 V channels
    Py_ssize_t panels           # of 2 V outputs
    Py_ssize_t tiles0           # rows and columns of tiles of an image, all tiles
    Py_ssize_t tiles1
    Py_ssize_t tiles
    Py_ssize_t subs             # parts of the tiles
    Py_ssize_t most             # tiles of a part
    Py_ssize_t v_ld             # from position to position of V, U and P
    Py_ssize_t g_ld             # … of the transformed gradient
    Py_ssize_t u_ld
    Py_ssize_t p_ld
    T *v
    T *g
    T *u                        # all panels, or NULL: each task transforms its own
    T *out                      # gradient to the weight (slabs, groups, M, C, 3, 3)
    Py_ssize_t slabs
    Py_ssize_t waves            # parts of their passes, of which this is the one
    Py_ssize_t wave
    Py_ssize_t together         # blocks of channels of a task of it
    # What the tasks at hand are about: a group, and so many parts of the tiles, or tiles, from
    # `first` on; whether they assign the gradient, or add to it.
    Py_ssize_t group
    Py_ssize_t first
    Py_ssize_t here
    bint fresh


cdef inline Py_ssize_t _odd(Py_ssize_t lanes) noexcept nogil:
    """Whole cache lines, an odd number: alpha^2 streams so far apart do not share its sets."""
    return (_ceil(lanes, LINE) | 1) * LINE


cdef inline Py_ssize_t _segment(const Job *job, Py_ssize_t p, Py_ssize_t stop) noexcept nogil:
    """How many tiles from p on lie in one row and one strip."""
    return min(min(stop - p, job.tiles1 - p % job.tiles1), SEGMENT // job.m)


cdef void _transform(
    const Job *job, const int m, const bint grad, Py_ssize_t start, Py_ssize_t stop,
    Py_ssize_t block, T *dst, Py_ssize_t ld, T *strip,
) noexcept nogil:
    """Tiles [start, stop) of one block of channels into dst[t * ld + …]: pixels of x, or (`grad`)
    gradients of outputs, which are zero beyond the edges."""
    cdef Py_ssize_t alpha = m + 2, size = m if grad else alpha, n, p, q, t, c0, channels, half
    cdef Py_ssize_t i, j, here, cols, width, C = job.M if grad else job.C
    cdef Py_ssize_t i0 = 0 if grad else job.i0, j0 = 0 if grad else job.j0
    cdef const Image *x = &job.y if grad else &job.x
    cdef T *to
    dst += block * (stop - start) * 2 * V
    for half in range(2):
        c0 = block * 2 * V + half * V
        channels = _clip(C - c0, 0, V)
        if channels == 0:
            for t in range(alpha * alpha):
                for p in range(stop - start):
                    vstore(dst + t * ld + p * 2 * V + half * V, vzero())
            continue
        p = start
        while p < stop:
            here = _segment(job, p, stop)
            n = p // job.tiles1
            i = i0 + n % job.tiles0 * m
            j = j0 + p % job.tiles1 * m
            n //= job.tiles0
            cols = here * m + (size - m)
            width = cols * V
            _gather(x, n, job.group * C + c0, channels, i, size, j, cols, strip, width)
            for t in range(cols):
                if grad:
                    _a_back(m, strip + t * V, width, strip + t * V, width)
                else:
                    _b(m, strip + t * V, width, strip + t * V, width)
            to = dst + (p - start) * 2 * V + half * V
            for q in range(here):
                for t in range(alpha):
                    if grad:
                        _a_back(m, strip + t * width + q * m * V, V, to + t * alpha * ld, ld)
                    else:
                        _b(m, strip + t * width + q * m * V, V, to + t * alpha * ld, ld)
                to += 2 * V
            p += here


cdef void _weights(
    const Job *job, const int m, Py_ssize_t group, Py_ssize_t panel, Py_ssize_t first,
    Py_ssize_t blocks, T *u, T *buf,
) noexcept nogil:
    """The transformed weights of a panel and some blocks of channels: u[t * u_ld + c * 2 V + …]."""
    cdef Py_ssize_t alpha = m + 2, half, rows, m0, c, c0, n, a, t, number
    cdef const T *w
    cdef T *turned = buf + MOST * 3 * V
    cdef T *to
    for number in range(blocks):
        c0 = (first + number) * 2 * V
        n = min(job.C - c0, 2 * V)
        for half in range(2):
            m0 = panel * 2 * V + half * V
            rows = _clip(job.M - m0, 0, V)
            if rows < V:
                for t in range(2 * V * 9):
                    vstore(turned + t * V, vzero())
            w = job.w + group * job.ws[0] + m0 * job.ws[1] + c0 * job.ws[2]
            if rows > 0 and job.ws[3] == 3 * job.ws[4]:
                if job.ws[2] == 9 * job.ws[4]:
                    _transpose(w, job.ws[1], job.ws[4], rows, n * 9, turned, V)
                else:
                    for c in range(n):
                        # Of a transposed weight each channel lies on another page.
                        for t in range(0 if half else _ceil(2 * 9 * V, LINE) + 1):
                            vprefetch(w + (c + AHEAD) * job.ws[2] + t * LINE)
                        _transpose(w + c * job.ws[2], job.ws[1], job.ws[4], rows, 9,
                                   turned + c * 9 * V, V)
            elif rows > 0:
                for c in range(n):
                    for a in range(3):
                        _transpose(w + c * job.ws[2] + a * job.ws[3], job.ws[1], job.ws[4], rows,
                                   3, turned + (c * 9 + a * 3) * V, V)
            to = u + number * 2 * V * 2 * V + half * V
            for c in range(2 * V):
                if c >= n:
                    for t in range(alpha * alpha):
                        vstore(to + t * job.u_ld, vzero())
                else:
                    for t in range(3):
                        _g(m, turned + (c * 9 + t) * V, 3 * V, buf + t * V, 3 * V)
                    for t in range(alpha):
                        _g(m, buf + t * 3 * V, V, to + t * alpha * job.u_ld, job.u_ld)
                to += 2 * V


cdef void _products(
    const Job *job, const T *v, Py_ssize_t tiles, Py_ssize_t first, Py_ssize_t blocks, const T *u,
    T *p,
) noexcept nogil:
    """p[t, tile, :] = sum over some channels of v[t, c, tile] * u[t, c, :]; added but the first."""
    cdef Py_ssize_t t, b, q, rows, n, parts = _ceil(tiles, M_MAX)
    cdef Py_ssize_t row[K_MAX]
    cdef const T *a
    cdef T *dst
    for b in range(blocks):
        row[b] = b * 2 * V * 2 * V
    for t in range(job.size):
        for n in range(parts):
            q = _part(tiles, parts, n)
            rows = _part(tiles, parts, n + 1) - q
            a = v + t * job.v_ld + (first * tiles + q) * 2 * V
            dst = p + t * job.p_ld + q * 2 * V
            _micro_rows(a, tiles * 2 * V, 1, 2 * V, u + t * job.u_ld, row, blocks, 2 * V, 2 * V,
                        dst, 2 * V, first > 0, rows, 2)


cdef void _outputs(
    const Job *job, const int m, Py_ssize_t start, Py_ssize_t stop, Py_ssize_t panel,
    const T *products, T *strip,
) noexcept nogil:
    """The outputs of tiles [start, stop) and a panel, from its products."""
    cdef Py_ssize_t alpha = m + 2, half, m0, rows, p, q, t, r, n, i, j, here, width
    cdef T buf[6 * 4 * 8]
    cdef const T *src
    cdef T *to
    cdef vec bias
    for half in range(2):
        m0 = panel * 2 * V + half * V
        rows = _clip(job.M - m0, 0, V)
        if rows == 0:
            return
        bias = vzero()
        if job.bias != NULL:
            bias = vload(job.bias + job.group * job.panels * 2 * V + m0)
        p = start
        while p < stop:
            here = _segment(job, p, stop)
            width = here * m * V
            for q in range(here):
                src = products + (p - start + q) * 2 * V + half * V
                for t in range(alpha):
                    _a(m, src + t * job.p_ld, alpha * job.p_ld, buf + t * V, alpha * V)
                for r in range(m):
                    to = strip + r * width + q * m * V
                    _a(m, buf + r * alpha * V, V, to, V)
                    for t in range(m):
                        if job.relu:
                            vstore(to + t * V, vrelu(_undo(m, vload(to + t * V)) + bias))
                        else:
                            vstore(to + t * V, _undo(m, vload(to + t * V)) + bias)
            n = p // job.tiles1
            i = n % job.tiles0 * m
            j = p % job.tiles1 * m
            n //= job.tiles0
            _scatter(strip, width, &job.y, n, job.group * job.M + m0, rows, i, min(m, job.y.H - i),
                     j, min(here * m, job.y.W - j))
            p += here


# ---------------------------------------------------------------- tasks
# The transforms are compiled for each m.

cdef inline void _transform_m(
    const Job *job, const bint grad, Py_ssize_t start, Py_ssize_t stop, Py_ssize_t block, T *dst,
    Py_ssize_t ld, T *strip,
) noexcept nogil:
    if job.m == 2:
        _transform(job, 2, grad, start, stop, block, dst, ld, strip)
    else:
        _transform(job, 4, grad, start, stop, block, dst, ld, strip)


cdef inline void _weights_m(
    const Job *job, Py_ssize_t group, Py_ssize_t panel, Py_ssize_t first, Py_ssize_t blocks, T *u,
    T *buf,
) noexcept nogil:
    if job.m == 2:
        _weights(job, 2, group, panel, first, blocks, u, buf)
    else:
        _weights(job, 4, group, panel, first, blocks, u, buf)


cdef inline void _outputs_m(
    const Job *job, Py_ssize_t start, Py_ssize_t stop, Py_ssize_t panel, const T *products,
    T *strip,
) noexcept nogil:
    if job.m == 2:
        _outputs(job, 2, start, stop, panel, products, strip)
    else:
        _outputs(job, 4, start, stop, panel, products, strip)


cdef inline Py_ssize_t _sub(const Job *job, Py_ssize_t number) noexcept nogil:
    """The tile that part `number`, counted from the first at hand, begins with."""
    return _part(job.tiles, job.subs, job.first + number)


cdef void _weights_task(const void *given, Py_ssize_t number, T *scratch) noexcept nogil:
    """All weights of a panel of any group."""
    cdef const Job *job = <const Job *> given
    _weights_m(job, number // job.panels, number % job.panels, 0, job.c_blocks,
               job.u + number * job.size * job.u_ld, scratch)


cdef void _input_task(const void *given, Py_ssize_t number, T *scratch) noexcept nogil:
    """A part of the tiles, a block of channels."""
    cdef const Job *job = <const Job *> given
    cdef Py_ssize_t sub = number // job.c_blocks
    _transform_m(job, False, _sub(job, sub), _sub(job, sub + 1), number % job.c_blocks,
                 job.v + sub * job.size * job.v_ld, job.v_ld, scratch)


cdef void _panel(
    const Job *job, Py_ssize_t panel, Py_ssize_t start, Py_ssize_t stop, T *scratch,
) noexcept nogil:
    """A panel of the outputs of parts [start, stop), whose pixels are transformed."""
    cdef Py_ssize_t sub, b, here, deep = K_MAX // (2 * V)
    cdef T *strip = scratch
    cdef T *own = strip + ROOM
    cdef T *products = own + (job.size * job.u_ld if job.u == NULL else 0)
    cdef const T *u = own
    b = 0
    while b < job.c_blocks:
        here = min(deep, job.c_blocks - b)
        if job.u == NULL:
            _weights_m(job, job.group, panel, b, here, own, strip)
        else:
            u = (job.u + (job.group * job.panels + panel) * job.size * job.u_ld
                 + b * 2 * V * 2 * V)
        for sub in range(start, stop):
            _products(job, job.v + sub * job.size * job.v_ld, _sub(job, sub + 1) - _sub(job, sub),
                      b, here, u, products + (sub - start) * job.size * job.p_ld)
        b += here
    for sub in range(start, stop):
        _outputs_m(job, _sub(job, sub), _sub(job, sub + 1), panel,
                   products + (sub - start) * job.size * job.p_ld, strip)


cdef void _output_task(const void *given, Py_ssize_t number, T *scratch) noexcept nogil:
    """A panel of all parts at hand, which shares its weights, or of one of them."""
    cdef const Job *job = <const Job *> given
    cdef Py_ssize_t sub = number // job.panels
    if job.u == NULL:
        _panel(job, number, 0, job.here, scratch)
    else:
        _panel(job, number % job.panels, sub, sub + 1, scratch)


cdef void _whole_task(const void *given, Py_ssize_t number, T *scratch) noexcept nogil:
    """A part of the tiles from pixels to outputs."""
    cdef Job own = (<const Job *> given)[0]
    cdef Py_ssize_t n
    own.first = number
    own.v = scratch
    scratch += own.size * own.v_ld
    for n in range(own.c_blocks):
        _input_task(&own, n, scratch)
    for n in range(own.panels):
        _output_task(&own, n, scratch)


# Bytes of transformed weights from which on each task transforms its own, and of transformed
# pixels that all workers then share; of what workers share, or one has for itself, at most; of
# what the second-level cache holds.
cdef Py_ssize_t _MANY = 3 << 20
cdef Py_ssize_t _SHARED = 6 << 20
cdef Py_ssize_t _MOST = 12 << 20
cdef Py_ssize_t _L2 = 1 << 20


cdef int _run(
    Job *job, Py_ssize_t width, bint whole, T *scratch, Py_ssize_t room, int workers,
) except -1:
    """All of a layer.  `whole`: each task takes a part of the tiles from pixels to outputs;
    otherwise the pixels of `width` parts are transformed, then panels computed."""
    cdef Py_ssize_t n
    cdef double macs = <double> job.most * job.C * job.panels * 2 * V * job.size    # of a part
    if job.u != NULL:
        n = job.groups * job.panels
        _each(_weights_task, job, n, <double> n * job.C * 2 * V * job.size, 4, 1, scratch, room,
              workers)
    for job.group in range(job.groups):
        job.first = 0
        if whole:
            _each(_whole_task, job, job.subs, macs * job.subs, 1, 1, scratch, room, workers)
            continue
        while job.first < job.subs:
            job.here = min(width, job.subs - job.first)
            _each(_input_task, job, job.here * job.c_blocks, macs * job.here, 4, 1, scratch, room,
                  workers)
            n = job.panels if job.u == NULL else job.panels * job.here
            _each(_output_task, job, n, macs * job.here, 4, 1, scratch, room, workers)
            job.first += job.here
    return 0


cdef void _tiles(Job *job, int m):
    """How many tiles and blocks there are."""
    job.m, job.size = m, (m + 2) * (m + 2)
    job.tiles0, job.tiles1 = _ceil(job.y.H, m), _ceil(job.y.W, m)
    job.tiles = job.y.N * job.tiles0 * job.tiles1
    job.c_blocks = _ceil(job.C, 2 * V)
    job.panels = _ceil(job.M, 2 * V)


def winograd(
    cnp.ndarray x not None,         # IN   (N, groups * C, H, W), of T (pairs of T), any strides
    cnp.ndarray w not None,         # IN   (groups, M, C, 3, 3), of T, any strides
    cnp.ndarray y not None,         # OUT  (N, groups * M, oh, ow), of x's dtype, any strides
    cnp.ndarray bias,               # IN   (groups * M), of T, or None
    int m,                          # 2 or 4
    Py_ssize_t i0, Py_ssize_t j0,   # the pixel that output (0, 0) and tap (0, 0) meet
    int bound0, int bound1,         # Boundary of each axis
    bint relu,                      # y = max(y, 0)
    int workers,
):
    """y = x correlated with w.  Complex: channels, rows of w and bias count re and im."""
    cdef Job job
    cdef Py_ssize_t n, k, room, width, deep, size
    cdef int comps = cnp.PyArray_ITEMSIZE(x) // <Py_ssize_t> sizeof(T)
    cdef void *base = NULL
    cdef T *at
    cdef T *padded = NULL
    cdef bint alone, whole
    job.x = _image(x, comps, bound0, bound1)
    job.y = _image(y, comps, FILL, FILL)
    job.w = <const T *> cnp.PyArray_DATA(w)
    for n in range(5):
        job.ws[n] = w.strides[n] // <Py_ssize_t> sizeof(T)
    job.relu, job.i0, job.j0 = relu, i0, j0
    job.groups, job.M, job.C = w.shape[0], w.shape[1], w.shape[2]
    _tiles(&job, m)
    size = job.size
    n = size * job.c_blocks * 2 * V * <Py_ssize_t> sizeof(T)       # bytes of a tile's pixels
    job.subs = _ceil(job.tiles, _clip(_MOST // n, 4, TILES))
    if job.subs == 0:
        return
    job.most = _ceil(job.tiles, job.subs)
    job.v_ld = _odd(job.c_blocks * job.most * 2 * V)
    job.p_ld = _odd(job.most * 2 * V)
    # Many weights and few tiles: each panel's weights are transformed where they are used.
    alone = job.panels * n * 2 * V > _MANY
    deep = min(job.c_blocks, K_MAX // (2 * V)) if alone else job.c_blocks
    job.u_ld = _odd(deep * 2 * V * 2 * V)
    whole = not alone and job.subs >= 4 * workers
    width = (_SHARED if alone else _MOST) // (n * job.most)
    width = min(job.subs, max(workers, width))
    room = ROOM + size * (job.u_ld + width * job.p_ld if alone else job.p_ld)
    room = _round_up(room + (size * job.v_ld if whole else 0), ALIGN)
    n = 0 if whole else width * size * job.v_ld
    k = 0 if alone else job.groups * job.panels * size * job.u_ld
    try:
        base = _allocate(n + k + room * workers + job.groups * job.panels * 2 * V)
        at = _aligned(base)
        job.v = at
        job.u = NULL if alone else at + n
        job.bias = NULL
        at += n + k
        if bias is not None:
            padded = at + room * workers
            for n in range(job.groups):
                for k in range(job.panels * 2 * V):
                    padded[n * job.panels * 2 * V + k] = (
                        (<T *> cnp.PyArray_DATA(bias))[n * job.M + k] if k < job.M else <T> 0)
            job.bias = padded
        _run(&job, width, whole, at, room, workers)
    finally:
        PyMem_RawFree(base)


# ---------------------------------------------------------------- gradient to the weight

cdef void _grad_input_task(const void *given, Py_ssize_t number, T *scratch) noexcept nogil:
    """The tiles at hand of one block of channels of x, or of one panel of the outputs' gradient."""
    cdef const Job *job = <const Job *> given
    if number < job.c_blocks:
        _transform_m(job, False, job.first, job.first + job.here, number, job.v, job.v_ld, scratch)
    else:
        _transform_m(job, True, job.first, job.first + job.here, number - job.c_blocks, job.g,
                     job.g_ld, scratch)


cdef inline void _grad_products(
    const Job *job, const int m, Py_ssize_t panel, Py_ssize_t first, T *scratch,
) noexcept nogil:
    """The gradient of a panel of outputs and some blocks of channels from the tiles at hand."""
    cdef Py_ssize_t alpha = m + 2, t, b, k, n, r, c0, channels, half, rows, parts, here, m0
    cdef Py_ssize_t blocks = min(job.together, job.c_blocks - first), ld = blocks * 2 * V, p_ld
    cdef Py_ssize_t tiles = job.here
    cdef Py_ssize_t zero = 0
    cdef T *products = scratch
    cdef T tile[12 * 2 * 8]
    cdef T buf[6 * 3 * 8]
    cdef T sums[9 * 8]
    cdef const T *a
    cdef T *dst
    p_ld = _odd(2 * V * ld)
    m0 = panel * 2 * V
    rows = min(2 * V, job.M - m0)
    parts = _ceil(rows, min(8, M_MAX))
    for t in range(alpha * alpha):
        k = 0
        while k < tiles:
            here = min(tiles - k, K_GRAD)
            for b in range(blocks):
                for n in range(parts):
                    r = _part(rows, parts, n)
                    a = job.g + t * job.g_ld + (panel * tiles + k) * 2 * V + r
                    dst = products + t * p_ld + r * ld + b * 2 * V
                    _micro_rows(a, 0, 2 * V, 1,
                                job.v + t * job.v_ld + ((first + b) * tiles + k) * 2 * V, &zero,
                                1, here, 2 * V, dst if k == 0 else tile, ld if k == 0 else 2 * V,
                                False, _part(rows, parts, n + 1) - r, 2)
                    if k > 0:
                        _add(tile, 2 * V, dst, ld, _part(rows, parts, n + 1) - r)
            k += here
    for r in range(rows):
        for half in range(2 * blocks):
            c0 = first * 2 * V + half * V
            channels = _clip(job.C - c0, 0, V)
            if channels == 0:
                break
            a = products + r * ld + half * V
            for t in range(alpha):
                _g_back(m, a + t * p_ld, alpha * p_ld, buf + t * V, alpha * V)
            for t in range(3):
                _g_back(m, buf + t * alpha * V, V, sums + t * 3 * V, V)
            for t in range(9):
                vstore(sums + t * V, _undo(m, vload(sums + t * V)))
            dst = job.out + ((job.group * job.M + m0 + r) * job.C + c0) * 9
            # From taps by channels to channels by taps.
            if job.fresh and channels == V:
                _transpose(sums, V, 1, 9, V, dst, 9)
                continue
            _transpose(sums, V, 1, 9, V, buf, 9)
            for t in range(channels * 9):
                dst[t] = buf[t] if job.fresh else dst[t] + buf[t]


cdef inline Py_ssize_t _grad_blocks(const Job *job) noexcept nogil:
    return _ceil(job.c_blocks, job.together)


cdef void _grad_task(const void *given, Py_ssize_t number, T *scratch) noexcept nogil:
    cdef const Job *job = <const Job *> given
    cdef Py_ssize_t blocks = _grad_blocks(job)
    if job.m == 2:
        _grad_products(job, 2, number // blocks, number % blocks * job.together, scratch)
    else:
        _grad_products(job, 4, number // blocks, number % blocks * job.together, scratch)


cdef void _slab_task(const void *given, Py_ssize_t number, T *scratch) noexcept nogil:
    """The gradient from a slab of the tiles of a group, some at a time, all by one worker."""
    cdef Job own = (<const Job *> given)[0]
    cdef Py_ssize_t slab = number % own.slabs, start, stop, n, t, passes
    own.group = number // own.slabs
    own.out += slab * own.groups * own.M * own.C * 9
    own.v = scratch
    own.g = own.v + own.size * own.v_ld
    scratch = own.g + own.size * own.g_ld
    start = _part(own.tiles, own.slabs, slab)
    stop = _part(own.tiles, own.slabs, slab + 1)
    passes = _ceil(stop - start, own.most)
    for n in range(_part(passes, own.waves, own.wave), _part(passes, own.waves, own.wave + 1)):
        own.first = start + _part(stop - start, passes, n)
        own.here = start + _part(stop - start, passes, n + 1) - own.first
        own.fresh = n == 0
        for t in range(own.c_blocks + own.panels):
            _grad_input_task(&own, t, scratch)
        for t in range(own.panels * _grad_blocks(&own)):
            _grad_task(&own, t, scratch)


cdef int _run_grad(Job *job, T *scratch, Py_ssize_t room, int workers) except -1:
    """Slabs of the tiles, each by one worker; or, if there is only one, pass by pass by all."""
    cdef Py_ssize_t n, passes = _ceil(job.tiles, job.most)
    # Of a group and all its tiles.
    cdef double macs = <double> job.size * job.tiles * job.c_blocks * job.panels * 2 * V * 2 * V
    if job.slabs > 1:
        job.waves = _waves(macs / job.slabs, passes)
        for job.wave in range(job.waves):
            _each(_slab_task, job, job.slabs * job.groups, macs * job.groups / job.waves, 1, 1,
                  scratch, room, workers)
        return 0
    for job.group in range(job.groups):
        for n in range(passes):
            job.first = _part(job.tiles, passes, n)
            job.here = _part(job.tiles, passes, n + 1) - job.first
            job.fresh = n == 0
            _each(_grad_input_task, job, job.c_blocks + job.panels, macs / passes, 4, 1, scratch,
                  room, workers)
            _each(_grad_task, job, job.panels * _grad_blocks(job), macs / passes, 4, 1, scratch,
                  room, workers)
    return 0


def winograd_weight_grad(
    cnp.ndarray x not None,         # IN   (N, groups * C, H, W), of T (pairs of T), any strides
    cnp.ndarray g not None,         # IN   (N, groups * M, oh, ow), likewise
    cnp.ndarray out not None,       # OUT  (slabs, groups, M, C, 3, 3), of T, C-contiguous
    int m,                          # 2 or 4
    Py_ssize_t i0, Py_ssize_t j0,   # the pixel that output (0, 0) and tap (0, 0) meet
    int bound0, int bound1,
    int workers,
):
    """out[s] = gradient to the weight from slab s of the tiles."""
    cdef Job job
    cdef Py_ssize_t n, room, slabs = out.shape[0], size
    cdef int comps = cnp.PyArray_ITEMSIZE(x) // <Py_ssize_t> sizeof(T)
    cdef void *base = NULL
    cdef T *at
    job.x = _image(x, comps, bound0, bound1)
    job.y = _image(g, comps, FILL, FILL)
    job.i0, job.j0 = i0, j0
    job.out = <T *> cnp.PyArray_DATA(out)
    job.slabs, job.groups, job.M, job.C = slabs, out.shape[1], out.shape[2], out.shape[3]
    _tiles(&job, m)
    size = job.size
    # A worker alone: as many tiles at a time as the second-level cache holds, or as hide what a
    # pass costs.  All together: as many as they may share, so that they seldom wait.
    n = size * (job.c_blocks + job.panels) * 2 * V * <Py_ssize_t> sizeof(T)
    n = max(min(max(_L2 // n, PASS) if slabs > 1 else job.tiles, _MOST // n), 1)
    n = _ceil(_ceil(job.tiles, slabs), n)
    job.most = _ceil(_ceil(job.tiles, slabs), n)
    job.v_ld = _odd(job.c_blocks * job.most * 2 * V)
    job.g_ld = _odd(job.panels * job.most * 2 * V)
    n = size * (job.v_ld + job.g_ld)
    job.together = min(GRAD_BLOCKS, job.c_blocks)
    if slabs == 1 and workers > 1 and job.panels * _ceil(job.c_blocks, GRAD_BLOCKS) < 4 * workers:
        job.together = 1
    room = max(size * _odd(2 * V * 2 * V * job.together), ROOM)
    room = _round_up(room + (n if slabs > 1 else 0), ALIGN)
    try:
        base = _allocate((n if slabs == 1 else 0) + room * workers)
        at = _aligned(base)
        if slabs == 1:
            job.v = at
            job.g = at + size * job.v_ld
            at += n
        _run_grad(&job, at, room, workers)
    finally:
        PyMem_RawFree(base)
