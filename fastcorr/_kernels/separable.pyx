"""Separable 2-D cross-correlation: kernels that are a sum of a few outer products.

    k[a, b]  = sum over r of  u[r, a] * v[r, b]
    y[i, j]  = sum over r, a of  u[r, a] * (sum over b of  X[o0 + i + a, o1 + j + b] * v[r, b])

X is the image x continued beyond its edges by a boundary rule, as in `direct.pyx`.

The way of a tile of outputs, a strip of some columns: four input rows at a time are correlated
with every v and laid into a ring of rows in the worker's scratch; as soon as the ring holds what
four output rows need, the sums down its columns go straight into y.  No image in between, and
every row of the image is read once per strip.  Where the input lies inside an image of lanes at
unit stride it is read in place; elsewhere `_gather` brings four rows, or only their ends, into
the scratch.

Order of summation: a row's sum has one accumulator, b ascending; an output has one, over r
ascending and then a ascending.  The order depends neither on the tile nor on the layout nor on
the number of workers, so neither do the bits.

Contract: the caller has checked shapes, dtypes and the number of workers.  Here nothing is.
"""
cimport numpy as cnp

from fastcorr._kernels.boundary cimport FILL
from fastcorr._kernels.simd cimport (
    C_MAX, HAS_COMPLEX, T, V, vec, vload, vsplat, vstore, vturn, vzero,
)

include "tasks.pxi"
# Plane, _gather and _scatter: how images are read and written.
include "image.pxi"

cdef enum:
    ROWS = 4            # rows that are taken together: of the image, of the ring, of outputs
    RING = 192 * 1024   # bytes of the second-level cache that the rings may count on
    STREAM = 16 * 1024  # bytes of a row of a strip, at most,
    NARROW = 64         # and lanes, at least

# ---------------------------------------------------------------- register tile

# ROWS rows x up to four vectors of sums.  Fields, not an array: the compiler keeps fields of
# a local struct in registers without first having to unroll a loop over them.
# A complex tile has two rows: a0, a1 gather x * re(w), x * im(w) of the first.
cdef struct Tile:
    vec a00
    vec a01
    vec a02
    vec a03
    vec a10
    vec a11
    vec a12
    vec a13
    vec a20
    vec a21
    vec a22
    vec a23
    vec a30
    vec a31
    vec a32
    vec a33


cdef inline void _clear(Tile *t) noexcept nogil:
    t.a00 = t.a01 = t.a02 = t.a03 = t.a10 = t.a11 = t.a12 = t.a13 = vzero()
    t.a20 = t.a21 = t.a22 = t.a23 = t.a30 = t.a31 = t.a32 = t.a33 = vzero()


cdef inline void _store(vec a0, vec a1, vec a2, vec a3, T *y, const int C) noexcept nogil:
    vstore(y, a0)
    if C > 1:
        vstore(y + V, a1)
    if C > 2:
        vstore(y + 2 * V, a2)
        vstore(y + 3 * V, a3)


cdef inline void _finish(
    const Tile *t, T *y, Py_ssize_t ys, const int rows, const int C, const bint cplx,
) noexcept nogil:
    if cplx:
        _store(t.a00 + vturn(t.a10), t.a01 + vturn(t.a11), t.a02 + vturn(t.a12),
               t.a03 + vturn(t.a13), y, C)
        if rows > 1:
            _store(t.a20 + vturn(t.a30), t.a21 + vturn(t.a31), t.a22 + vturn(t.a32),
                   t.a23 + vturn(t.a33), y + ys, C)
    else:
        _store(t.a00, t.a01, t.a02, t.a03, y, C)
        if rows > 1:
            _store(t.a10, t.a11, t.a12, t.a13, y + ys, C)
        if rows > 2:
            _store(t.a20, t.a21, t.a22, t.a23, y + 2 * ys, C)
            _store(t.a30, t.a31, t.a32, t.a33, y + 3 * ys, C)


# ---------------------------------------------------------------- along the rows

cdef inline void _along_tile(
    const T *x, Py_ssize_t xs, const T *v, Py_ssize_t kb, T *y, Py_ssize_t ys,
    const int rows, const int C, const bint cplx,
) noexcept nogil:
    """y = x correlated with the row v, for `rows` rows x C vectors."""
    cdef Tile t
    cdef Py_ssize_t b, step = 2 if cplx else 1
    cdef vec w, wi, x0, x1, x2, x3
    cdef const T *z = x + xs
    cdef const T *z2 = x + 2 * xs
    cdef const T *z3 = x + 3 * xs
    _clear(&t)
    x1 = x2 = x3 = vzero()
    for b in range(kb):
        w = vsplat(v + b * step)
        if cplx:
            wi = vsplat(v + b * step + 1)
            x0 = vload(x + b * step)
            t.a00 = t.a00 + x0 * w
            t.a10 = t.a10 + x0 * wi
            if C > 1:
                x1 = vload(x + b * step + V)
                t.a01 = t.a01 + x1 * w
                t.a11 = t.a11 + x1 * wi
            if C > 2:
                x2 = vload(x + b * step + 2 * V)
                x3 = vload(x + b * step + 3 * V)
                t.a02 = t.a02 + x2 * w
                t.a12 = t.a12 + x2 * wi
                t.a03 = t.a03 + x3 * w
                t.a13 = t.a13 + x3 * wi
            if rows > 1:
                x0 = vload(z + b * step)
                t.a20 = t.a20 + x0 * w
                t.a30 = t.a30 + x0 * wi
                if C > 1:
                    x1 = vload(z + b * step + V)
                    t.a21 = t.a21 + x1 * w
                    t.a31 = t.a31 + x1 * wi
                if C > 2:
                    x2 = vload(z + b * step + 2 * V)
                    x3 = vload(z + b * step + 3 * V)
                    t.a22 = t.a22 + x2 * w
                    t.a32 = t.a32 + x2 * wi
                    t.a23 = t.a23 + x3 * w
                    t.a33 = t.a33 + x3 * wi
        else:
            t.a00 = t.a00 + vload(x + b) * w
            if C > 1:
                t.a01 = t.a01 + vload(x + b + V) * w
            if C > 2:
                t.a02 = t.a02 + vload(x + b + 2 * V) * w
                t.a03 = t.a03 + vload(x + b + 3 * V) * w
            if rows > 1:
                t.a10 = t.a10 + vload(z + b) * w
                if C > 1:
                    t.a11 = t.a11 + vload(z + b + V) * w
                if C > 2:
                    t.a12 = t.a12 + vload(z + b + 2 * V) * w
                    t.a13 = t.a13 + vload(z + b + 3 * V) * w
            if rows > 2:
                t.a20 = t.a20 + vload(z2 + b) * w
                t.a30 = t.a30 + vload(z3 + b) * w
                if C > 1:
                    t.a21 = t.a21 + vload(z2 + b + V) * w
                    t.a31 = t.a31 + vload(z3 + b + V) * w
                if C > 2:
                    t.a22 = t.a22 + vload(z2 + b + 2 * V) * w
                    t.a23 = t.a23 + vload(z2 + b + 3 * V) * w
                    t.a32 = t.a32 + vload(z3 + b + 2 * V) * w
                    t.a33 = t.a33 + vload(z3 + b + 3 * V) * w
    _finish(&t, y, ys, rows, C, cplx)


cdef inline void _spread(
    Tile *t, const T *x, Py_ssize_t xs, const T *v, Py_ssize_t n,
    const int rows, const int lo, const int hi,
) noexcept nogil:
    """n vectors of each row against the tile's columns lo <= c < hi, which meet tap v[-c V]."""
    cdef Py_ssize_t m
    cdef vec x0, w0, w1, w2, w3
    w0 = w1 = w2 = w3 = vzero()
    for m in range(n):
        if lo <= 0 < hi:
            w0 = vsplat(v + m)
        if lo <= 1 < hi:
            w1 = vsplat(v + m - V)
        if lo <= 2 < hi:
            w2 = vsplat(v + m - 2 * V)
        if lo <= 3 < hi:
            w3 = vsplat(v + m - 3 * V)
        x0 = vload(x + m)
        if lo <= 0 < hi:
            t.a00 = t.a00 + x0 * w0
        if lo <= 1 < hi:
            t.a01 = t.a01 + x0 * w1
        if lo <= 2 < hi:
            t.a02 = t.a02 + x0 * w2
        if lo <= 3 < hi:
            t.a03 = t.a03 + x0 * w3
        if rows > 1:
            x0 = vload(x + m + xs)
            if lo <= 0 < hi:
                t.a10 = t.a10 + x0 * w0
            if lo <= 1 < hi:
                t.a11 = t.a11 + x0 * w1
            if lo <= 2 < hi:
                t.a12 = t.a12 + x0 * w2
            if lo <= 3 < hi:
                t.a13 = t.a13 + x0 * w3
        if rows > 2:
            x0 = vload(x + m + 2 * xs)
            if lo <= 0 < hi:
                t.a20 = t.a20 + x0 * w0
            if lo <= 1 < hi:
                t.a21 = t.a21 + x0 * w1
            if lo <= 2 < hi:
                t.a22 = t.a22 + x0 * w2
            if lo <= 3 < hi:
                t.a23 = t.a23 + x0 * w3
            x0 = vload(x + m + 3 * xs)
            if lo <= 0 < hi:
                t.a30 = t.a30 + x0 * w0
            if lo <= 1 < hi:
                t.a31 = t.a31 + x0 * w1
            if lo <= 2 < hi:
                t.a32 = t.a32 + x0 * w2
            if lo <= 3 < hi:
                t.a33 = t.a33 + x0 * w3


cdef inline void _spread_tile(
    const T *x, Py_ssize_t xs, const T *v, Py_ssize_t kb, T *y, Py_ssize_t ys, const int rows,
) noexcept nogil:
    """`_along_tile` of four vectors and many taps: taps V apart meet the same vector of x, which
    is loaded once.  The order of each sum is the same."""
    cdef Tile t
    cdef Py_ssize_t m = 0, n, lo, hi
    _clear(&t)
    while m < kb + 3 * V:
        # Vector m meets the columns c with 0 <= m - c V < kb.
        lo = (m - kb) // V + 1 if m >= kb else 0
        hi = min(m // V + 1, 4)
        n = lo * V + kb - m
        if hi < 4:
            n = min(n, hi * V - m)
        if lo == 0:
            if hi == 4:
                _spread(&t, x, xs, v, n, rows, 0, 4)
            elif hi == 1:
                _spread(&t, x, xs, v, n, rows, 0, 1)
            elif hi == 2:
                _spread(&t, x, xs, v, n, rows, 0, 2)
            else:
                _spread(&t, x, xs, v, n, rows, 0, 3)
        elif lo == 1:
            if hi == 4:
                _spread(&t, x, xs, v, n, rows, 1, 4)
            else:
                _spread(&t, x, xs, v, n, rows, 1, 3)
        elif lo == 2:
            _spread(&t, x, xs, v, n, rows, 2, 4)
        else:
            _spread(&t, x, xs, v, n, rows, 3, 4)
        x += n
        v += n
        m += n
    _finish(&t, y, ys, rows, 4, False)


cdef inline void _along_tiles(
    const T *x, Py_ssize_t xs, const T *v, Py_ssize_t kb, T *y, Py_ssize_t ys,
    const int rows, const int C, const bint cplx,
) noexcept nogil:
    if not cplx and C > 2 and kb > 2 * V:       # below it does not pay, nor with less registers
        _spread_tile(x, xs, v, kb, y, ys, rows)
    else:
        _along_tile(x, xs, v, kb, y, ys, rows, C, cplx)


cdef inline void _along_rows(
    const T *x, Py_ssize_t xs, const T *v, Py_ssize_t kb, T *y, Py_ssize_t ys,
    Py_ssize_t width, const int rows, const bint cplx,
) noexcept nogil:
    """`rows` rows of width >= V lanes.  The last vector is moved left onto its neighbour
    where the width is no multiple of V: the same sums again, so no scalar tail."""
    cdef Py_ssize_t j = 0
    while j < width:
        if C_MAX > 2 and width - j >= 4 * V:
            _along_tiles(x + j, xs, v, kb, y + j, ys, rows, 4, cplx)
            j += 4 * V
        elif width - j >= 2 * V:
            _along_tiles(x + j, xs, v, kb, y + j, ys, rows, 2, cplx)
            j += 2 * V
        else:
            j = min(j, width - V)
            _along_tiles(x + j, xs, v, kb, y + j, ys, rows, 1, cplx)
            j += V


cdef void _along(
    const T *x, Py_ssize_t xs, const T *v, Py_ssize_t kb, T *y, Py_ssize_t ys,
    Py_ssize_t rows, Py_ssize_t width, bint cplx,
) noexcept nogil:
    """y = x correlated with the row v: rows <= ROWS rows of width >= V lanes."""
    cdef Py_ssize_t i = 0
    while i < rows:
        if cplx:
            if HAS_COMPLEX and rows - i >= 2:
                _along_rows(x, xs, v, kb, y, ys, width, 2, True)
            elif HAS_COMPLEX:
                _along_rows(x, xs, v, kb, y, ys, width, 1, True)
            i += 2
            x += 2 * xs
            y += 2 * ys
        elif rows - i >= ROWS:
            _along_rows(x, xs, v, kb, y, ys, width, ROWS, False)
            return
        elif rows - i >= 2:
            _along_rows(x, xs, v, kb, y, ys, width, 2, False)
            i += 2
            x += 2 * xs
            y += 2 * ys
        else:
            _along_rows(x, xs, v, kb, y, ys, width, 1, False)
            return


# ---------------------------------------------------------------- down the columns

cdef struct Ring:
    const T *base
    Py_ssize_t ld       # lanes from row to row
    Py_ssize_t slots    # rows
    Py_ssize_t first    # where the first input row of the outputs lies
    Py_ssize_t rank     # rings, one after another


cdef inline void _row(
    Tile *t, const T *x, const T *u, const int lo, const int hi, const int C, const bint cplx,
) noexcept nogil:
    """One row of the ring against the tile's rows lo <= r < hi, which meet tap u[-r].

    Each vector is loaded once and used by every row; lo, hi, C and cplx are literals in every
    call, so all the conditions are gone when this is compiled.
    """
    cdef vec x0, x1, x2, x3, w
    cdef const T *u1 = u + 1 if cplx else u - 1
    cdef const T *u3 = u - 1 if cplx else u - 3
    cdef bint on0 = lo <= 0 < hi
    cdef bint on1 = on0 if cplx else lo <= 1 < hi
    cdef bint on2 = lo <= 1 < hi if cplx else lo <= 2 < hi
    cdef bint on3 = on2 if cplx else lo <= 3 < hi
    x1 = x2 = x3 = vzero()
    x0 = vload(x)
    if C > 1:
        x1 = vload(x + V)
    if C > 2:
        x2 = vload(x + 2 * V)
        x3 = vload(x + 3 * V)
    if on0:
        w = vsplat(u)
        t.a00 = t.a00 + x0 * w
        if C > 1:
            t.a01 = t.a01 + x1 * w
        if C > 2:
            t.a02 = t.a02 + x2 * w
            t.a03 = t.a03 + x3 * w
    if on1:
        w = vsplat(u1)
        t.a10 = t.a10 + x0 * w
        if C > 1:
            t.a11 = t.a11 + x1 * w
        if C > 2:
            t.a12 = t.a12 + x2 * w
            t.a13 = t.a13 + x3 * w
    if on2:
        w = vsplat(u - 2)
        t.a20 = t.a20 + x0 * w
        if C > 1:
            t.a21 = t.a21 + x1 * w
        if C > 2:
            t.a22 = t.a22 + x2 * w
            t.a23 = t.a23 + x3 * w
    if on3:
        w = vsplat(u3)
        t.a30 = t.a30 + x0 * w
        if C > 1:
            t.a31 = t.a31 + x1 * w
        if C > 2:
            t.a32 = t.a32 + x2 * w
            t.a33 = t.a33 + x3 * w


cdef inline const T *_next(const Ring *ring, const T *x, const T *end) noexcept nogil:
    x += ring.ld
    return x - ring.slots * ring.ld if x >= end else x


cdef inline void _down_tile(
    const Ring *ring, Py_ssize_t j, const T *u, Py_ssize_t ka, T *y, Py_ssize_t ys,
    const int rows, const int C, const bint cplx,
) noexcept nogil:
    """y = the ring from lane j on, correlated with u, for `rows` <= ka + 1 rows x C vectors."""
    cdef Tile t
    cdef Py_ssize_t i, _r, step = 2 if cplx else 1
    cdef const T *x
    cdef const T *end = ring.base
    _clear(&t)
    for _r in range(ring.rank):
        x = end + ring.first * ring.ld + j
        end += ring.slots * ring.ld
        # Input row i meets output rows i - ka < r <= i.
        if rows > 1:
            _row(&t, x, u, 0, 1, C, cplx)
            x = _next(ring, x, end)
        if rows > 2:
            _row(&t, x, u + 1, 0, 2, C, cplx)
            x = _next(ring, x, end)
            _row(&t, x, u + 2, 0, 3, C, cplx)
            x = _next(ring, x, end)
        for i in range(rows - 1, ka):
            _row(&t, x, u + i * step, 0, rows, C, cplx)
            x = _next(ring, x, end)
        u += ka * step
        if rows > 1:
            _row(&t, x, u, 1, rows, C, cplx)
        if rows > 2:
            x = _next(ring, x, end)
            _row(&t, x, u + 1, 2, rows, C, cplx)
            x = _next(ring, x, end)
            _row(&t, x, u + 2, 3, rows, C, cplx)
    _finish(&t, y, ys, rows, C, cplx)


cdef inline void _down_rows(
    const Ring *ring, const T *u, Py_ssize_t ka, T *y, Py_ssize_t ys, Py_ssize_t width,
    const int rows, const bint cplx,
) noexcept nogil:
    cdef Py_ssize_t j = 0
    while j < width:
        if C_MAX > 2 and width - j >= 4 * V:
            _down_tile(ring, j, u, ka, y + j, ys, rows, 4, cplx)
            j += 4 * V
        elif width - j >= 2 * V:
            _down_tile(ring, j, u, ka, y + j, ys, rows, 2, cplx)
            j += 2 * V
        else:
            j = min(j, width - V)
            _down_tile(ring, j, u, ka, y + j, ys, rows, 1, cplx)
            j += V


cdef void _down(
    Ring *ring, const T *u, Py_ssize_t ka, T *y, Py_ssize_t ys,
    Py_ssize_t rows, Py_ssize_t width, bint cplx,
) noexcept nogil:
    """y = the ring's columns correlated with u: rows <= ROWS rows of width >= V lanes."""
    cdef Py_ssize_t i = 0, n
    while i < rows:
        n = 1
        if cplx:
            if HAS_COMPLEX and rows - i >= 2:
                n = 2
                _down_rows(ring, u, ka, y, ys, width, 2, True)
            elif HAS_COMPLEX:
                _down_rows(ring, u, ka, y, ys, width, 1, True)
        elif rows - i >= ROWS and ka >= ROWS - 1:
            n = ROWS
            _down_rows(ring, u, ka, y, ys, width, ROWS, False)
        elif rows - i >= 2:
            n = 2
            _down_rows(ring, u, ka, y, ys, width, 2, False)
        else:
            _down_rows(ring, u, ka, y, ys, width, 1, False)
        i += n
        y += n * ys
        ring.first = (ring.first + n) % ring.slots


# ---------------------------------------------------------------- tiles

cdef struct Job:
    Plane x
    Plane y
    const T *u
    const T *v
    Py_ssize_t rank
    Py_ssize_t ka
    Py_ssize_t kb
    Py_ssize_t o0
    Py_ssize_t o1
    int comps
    const cnp.intp_t *planes    # byte offsets of x, u, v, y for each plane
    Py_ssize_t n_planes
    Py_ssize_t th               # tiles of y
    Py_ssize_t tw
    Py_ssize_t across
    Py_ssize_t tiles            # per plane
    Py_ssize_t slots            # rows of a ring, and their distance in lanes
    Py_ssize_t ld
    Py_ssize_t room             # scratch of a worker, in lanes: the rings, and gathered rows
    Py_ssize_t room_in


cdef void _layout(Job *job, Py_ssize_t n) noexcept nogil:
    """Cut y into tiles that suit the caches and n workers."""
    cdef Py_ssize_t rows = job.y.H, cols = job.y.W, lanes, parts
    # No task of more than some ms, to have Ctrl-C seen: of so many outputs, in rows enough.
    cdef Py_ssize_t taps = job.rank * (job.ka + job.kb) * job.comps * job.comps
    cdef Py_ssize_t most = (1 << 25) * V // taps, least = 8 * job.ka
    job.slots = _round_up(job.ka + ROWS - 1, ROWS)
    # Width: long streams, as long as the rings stay in the second-level cache.
    lanes = RING // <Py_ssize_t> sizeof(T) // (job.slots * job.rank)
    lanes = min(lanes, most // least * job.comps)
    lanes = min(max(lanes, NARROW), STREAM // <Py_ssize_t> sizeof(T))
    job.tw = max(lanes // (4 * V), 1) * 4 * V // job.comps
    parts = (cols + job.tw - 1) // job.tw
    job.tw = min(_round_up((cols + parts - 1) // parts, 4 * V // job.comps), job.tw)
    job.tw = min(job.tw, cols)
    # The last tile of a row takes in a remainder of less than a vector.
    job.across = max((cols + job.tw - V // job.comps) // job.tw, 1)
    # Height: all of it, unless the workers would have too little to share.  Each tile begins
    # with ka - 1 rows that its neighbour has too.
    job.th = rows
    if n > 1:
        parts = (4 * n - 1) // (job.across * job.n_planes) + 1
        job.th = rows // parts + 1
        parts = (n - 1) // (job.across * job.n_planes) + 1
        job.th = max(job.th, min(4 * job.ka, rows // parts + 1))
    job.th = min(job.th, max(most // job.tw, least))
    job.th = min(_round_up(job.th, ROWS), rows)
    job.tiles = job.across * ((rows + job.th - 1) // job.th)
    # An odd number of cache lines from row to row: the ring's rows lie in different sets.
    job.ld = _round_up((job.tw + V) * job.comps + V, ALIGN // sizeof(T))
    if job.ld // (ALIGN // <Py_ssize_t> sizeof(T)) % 2 == 0:
        job.ld += ALIGN // sizeof(T)
    job.room = job.slots * job.ld * job.rank if job.ka > 1 else 0
    job.room_in = ROWS * (job.ld + _round_up((job.kb - 1) * job.comps, ALIGN // sizeof(T)))


cdef void _segment(
    const Job *job, const T *x, Py_ssize_t xs, const T *v, T *dst, Py_ssize_t ld,
    Py_ssize_t rows, Py_ssize_t width,
) noexcept nogil:
    """The rows of x correlated with each v, into each ring."""
    cdef Py_ssize_t r
    for r in range(job.rank):
        _along(x, xs, v + r * job.kb * job.comps, job.kb, dst + r * job.slots * ld, ld,
               rows, width, job.comps == 2)


cdef void _fill(
    const Job *job, const Plane *x, const T *v, Py_ssize_t i, Py_ssize_t j,
    Py_ssize_t rows, Py_ssize_t cols, T *dst, Py_ssize_t ld, T *scratch,
) noexcept nogil:
    """Rows i, … of the continued image, from column j on, correlated with each v."""
    cdef Py_ssize_t comps = job.comps, least = V // job.comps, lo, hi, n, xs
    lo = max(-j, 0)                             # outputs whose windows lie inside the image
    hi = min(x.W - job.kb + 1 - j, cols)
    if not x.lanes or i < 0 or i + rows > x.H or hi - lo < max(least, cols // 2):
        n = max(cols * comps, V)                # a scratch has whole vectors
        xs = n + (job.kb - 1) * comps
        _gather(x, i, j, rows, cols + job.kb - 1, scratch, xs, job.comps)
        _segment(job, scratch, xs, v, dst, ld, rows, n)
        return
    _segment(job, <const T *> (x.data + i * x.s0 + (j + lo) * x.s1),
             x.s0 // <Py_ssize_t> sizeof(T), v, dst + lo * comps, ld, rows, (hi - lo) * comps)
    if lo > 0:
        n = max(lo, least)
        xs = (n + job.kb - 1) * comps
        _gather(x, i, j, rows, n + job.kb - 1, scratch, xs, job.comps)
        _segment(job, scratch, xs, v, dst, ld, rows, n * comps)
    if hi < cols:
        n = max(cols - hi, least)
        xs = (n + job.kb - 1) * comps
        _gather(x, i, j + cols - n, rows, n + job.kb - 1, scratch, xs, job.comps)
        _segment(job, scratch, xs, v, dst + (cols - n) * comps, ld, rows, n * comps)


cdef void _task(const void *given, Py_ssize_t number, T *scratch) noexcept nogil:
    """Compute one tile of one plane."""
    cdef const Job *job = <const Job *> given
    cdef Plane x = job.x, y = job.y
    cdef const cnp.intp_t *offset = job.planes + number // job.tiles * 4
    cdef const T *u = <const T *> (<const char *> job.u + offset[1])
    cdef const T *v = <const T *> (<const char *> job.v + offset[2])
    cdef T *spare = scratch + job.room
    cdef T *out = spare + job.room_in
    cdef Py_ssize_t i, i0, i1, j, n, rows, cols, width, ys, filled = 0
    cdef Ring ring
    cdef bint direct
    x.data += offset[0]
    y.data += offset[3]
    number = number % job.tiles
    i = number // job.across * job.th
    j = number % job.across * job.tw
    i0 = i
    i1 = min(i + job.th, y.H)
    cols = job.tw if number % job.across < job.across - 1 else y.W - j
    width = cols * job.comps
    direct = y.lanes and width >= V
    ys = y.s0 // <Py_ssize_t> sizeof(T) if direct else job.ld
    width = max(width, V)
    ring.base = scratch
    ring.ld = job.ld
    ring.slots = job.slots
    ring.rank = job.rank
    ring.first = 0
    rows = i1 - i + job.ka - 1          # of the image, from row o0 + i0 on
    while i < i1:
        n = min(i1 - i, ROWS)
        if direct:
            out = <T *> (y.data + i * y.s0 + j * y.s1)
        if job.ka == 1:                 # u is 1
            _fill(job, &x, v, job.o0 + i, job.o1 + j, n, cols, out, ys, spare)
        else:
            while filled < i - i0 + n + job.ka - 1:
                _fill(job, &x, v, job.o0 + i0 + filled, job.o1 + j, min(rows - filled, ROWS), cols,
                      scratch + filled % job.slots * job.ld, job.ld, spare)
                filled += ROWS
            _down(&ring, u, job.ka, out, ys, n, width, job.comps == 2)
        if not direct:
            _scatter(out, ys, &y, i, j, n, cols)
        i += n


def correlate(
    cnp.ndarray x not None,         # IN   (…, H, W), any layout and dtype
    cnp.ndarray u not None,         # IN   (…, r, kh), C-contiguous, of y's dtype; lanes for bytes;
    cnp.ndarray v not None,         # IN   (…, r, kw), likewise               1 where kh is 1
    cnp.ndarray y not None,         # OUT  (…, oh, ow), aligned, native
    Py_ssize_t o0, Py_ssize_t o1,   # y[0, 0] meets u[:, 0], v[:, 0] at X[o0, o1]
    int bound0, int bound1,         # of direct.BOUNDARIES, per axis
    cnp.ndarray fill not None,      # IN   one element, of v's dtype
    cnp.ndarray planes not None,    # IN   (n, 4) intp: byte offsets of each plane in x, u, v, y
    int workers,
):
    """y = x correlated with the sum of u[r] outer v[r], plane by plane."""
    cdef Job job
    cdef Py_ssize_t total, grab, room
    cdef double macs
    cdef void *base
    job.x = _plane(x, bound0, bound1, fill)
    job.y = _plane(y, FILL, FILL, fill)
    job.u = <const T *> cnp.PyArray_DATA(u)
    job.v = <const T *> cnp.PyArray_DATA(v)
    job.rank = cnp.PyArray_DIM(u, cnp.PyArray_NDIM(u) - 2)
    job.ka = cnp.PyArray_DIM(u, cnp.PyArray_NDIM(u) - 1)
    job.kb = cnp.PyArray_DIM(v, cnp.PyArray_NDIM(v) - 1)
    job.o0, job.o1 = o0, o1
    job.comps = job.y.comps
    job.planes = <const cnp.intp_t *> cnp.PyArray_DATA(planes)
    job.n_planes = cnp.PyArray_DIM(planes, 0)
    if job.y.H * job.y.W * job.n_planes == 0:
        return
    _layout(&job, workers)
    total = job.tiles * job.n_planes
    macs = (<double> job.y.H * job.y.W * job.rank * (job.ka + job.kb) * job.comps * job.comps
            / job.tiles)
    workers = min(workers, total)
    grab = _grab(macs, total, workers)
    # A plane narrower than a vector costs as much as one.
    macs *= max(<double> V / (job.y.W * job.comps), 1.0)
    room = job.room + job.room_in + ROWS * job.ld + ALIGN
    base = _allocate(room * workers)
    try:
        _each(_task, &job, total, macs * total, 1, grab, _aligned(base), room, workers)
    finally:
        PyMem_RawFree(base)
