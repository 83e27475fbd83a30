"""Direct 2-D cross-correlation and its kernel gradient.

    y[i, j]  = sum over a, b of  X[o0 + i + a, o1 + j + b] * k[a, b]
    dk[a, b] = sum over i, j of  conj(X[o0 + i + a, o1 + j + b]) * g[i, j]

X is the image x continued beyond its edges by a boundary rule.  `correlate` computes any
window of that plane (offset o, shape of y), so every mode, and the gradient to the image,
is one call of it.

The way of a tile of outputs: where its input lies inside an image of lanes at unit stride,
the loops read the image in place; elsewhere `_gather` brings the input into a small scratch
(boundary, strides, byte order, conversion to T).  Results go straight into y, or through a
scratch tile where y has another stride or width.  Nothing else is ever copied.

Order of summation: one accumulator per output element, a ascending, then b ascending; a
kernel of more than KA x KB taps is summed block by block, and the blocks' sums are added.  The
order depends neither on the tile nor on the layout nor on the number of workers, so neither do
the bits.

Contract: the caller has checked shapes, dtypes and the number of workers.  Here nothing is.
"""
cimport numpy as cnp

from fastcorr._kernels.boundary cimport FILL, MIRROR, NEAREST, SYMM, WRAP
from fastcorr._kernels.simd cimport (
    ACC, B_MAX, C_MAX, HAS_COMPLEX, T, V, vec, vhold, vkeep, vlane, vlast, vload, vmask, vsplat,
    vstore, vswap, vturn, vzero,
)

include "tasks.pxi"
# Plane, _gather and _scatter: how images are read and written.
include "image.pxi"

cdef enum:
    ROWS = 4            # output rows of a register tile (2 if complex)
    KA = 32             # taps summed at once: bounds the scratch and the rounding error,
    KB = 64             # whatever the size of the kernel
    GRAD_ROWS = 16      # rows and lanes of g that are summed in registers before the sum
    GRAD_LANES = 2048   # goes to the table: bounds the rounding error and the scratch
    GRAD_A = 12         # rows and columns of taps per task of the kernel gradient
    GRAD_B = 64
    L1 = 24 * 1024      # bytes of the first-level cache that a tile may count on
    LOW = 11            # rows of a kernel under which tiles are wide instead, rows of
    STREAM = 16 * 1024  # this many bytes,
    L2 = 256 * 1024     # and this many bytes of outputs
    LLC = 4 * 1024 * 1024   # bytes of an image up to which its rows are read from a cache
    STACK = 32 * 1024   # bytes of scratch that a call takes from the stack
    WIDE = 192
    BORDER = 1024       # lanes of a row that are gathered at a time

# What the Python side needs to know of the compile-time choices.
BOUNDARIES = {"fill": FILL, "wrap": WRAP, "symm": SYMM, "mirror": MIRROR, "nearest": NEAREST}
COMPLEX = bool(HAS_COMPLEX)
LANES = V


# ---------------------------------------------------------------- correlation: register tile

# Up to eight rows x four vectors of sums.  Fields, not arrays: the compiler keeps fields of
# a local struct in registers without first having to unroll a loop over them.
cdef struct Row:
    vec a0
    vec a1
    vec a2
    vec a3

cdef struct Tile:
    Row r0
    Row r1
    Row r2
    Row r3
    Row r4
    Row r5
    Row r6
    Row r7


cdef inline Row _zeros() noexcept nogil:
    cdef Row r
    r.a0 = r.a1 = r.a2 = r.a3 = vzero()
    return r


cdef inline void _tap(
    Row *r, vec x0, vec x1, vec x2, vec x3, const T *k, const int C,
) noexcept nogil:
    cdef vec w = vsplat(k)
    r.a0 = r.a0 + x0 * w
    if C > 1:
        r.a1 = r.a1 + x1 * w
    if C > 2:
        r.a2 = r.a2 + x2 * w
    if C > 3:
        r.a3 = r.a3 + x3 * w


cdef inline void _taps(
    Tile *t, const T *x, const T *k, Py_ssize_t ks, Py_ssize_t kb,
    const int lo, const int hi, const int C, const bint cplx,
) noexcept nogil:
    """One input row against the tile's rows lo <= r < hi, which meet kernel row k - r * ks.

    Each vector of x is loaded once and used by every row; lo, hi, C and cplx are literals in
    every call, so all the conditions are gone when this is compiled.  A complex row takes two
    of the tile's: they gather x * re(k) and x * im(k).
    """
    cdef Py_ssize_t b, step = 2 if cplx else 1
    cdef const T *k1 = k + 1 if cplx else k - ks
    cdef const T *k2 = k - ks if cplx else k - 2 * ks
    cdef const T *k3 = k - ks + 1 if cplx else k - 3 * ks
    cdef const T *k4 = k - 2 * ks if cplx else k - 4 * ks
    cdef const T *k5 = k - 2 * ks + 1 if cplx else k - 5 * ks
    cdef const T *k6 = k - 6 * ks
    cdef int low = 2 * lo if cplx else lo
    cdef int high = 2 * hi if cplx else hi
    cdef vec x0, x1, x2, x3
    x1 = x2 = x3 = vzero()
    for b in range(kb):
        x0 = vload(x)
        if C > 1:
            x1 = vload(x + V)
        if C > 2:
            x2 = vload(x + 2 * V)
        if C > 3:
            x3 = vload(x + 3 * V)
        x += step
        if low <= 0 < high:
            _tap(&t.r0, x0, x1, x2, x3, k + b * step, C)
        if low <= 1 < high:
            _tap(&t.r1, x0, x1, x2, x3, k1 + b * step, C)
        if low <= 2 < high:
            _tap(&t.r2, x0, x1, x2, x3, k2 + b * step, C)
        if low <= 3 < high:
            _tap(&t.r3, x0, x1, x2, x3, k3 + b * step, C)
        if low <= 4 < high:
            _tap(&t.r4, x0, x1, x2, x3, k4 + b * step, C)
        if low <= 5 < high:
            _tap(&t.r5, x0, x1, x2, x3, k5 + b * step, C)
        if low <= 6 < high:
            _tap(&t.r6, x0, x1, x2, x3, k6 + b * step, C)


cdef inline void _put(Row *r, T *y, bint add, const int C) noexcept nogil:
    vstore(y, r.a0 + vload(y) if add else r.a0)
    if C > 1:
        vstore(y + V, r.a1 + vload(y + V) if add else r.a1)
    if C > 2:
        vstore(y + 2 * V, r.a2 + vload(y + 2 * V) if add else r.a2)
    if C > 3:
        vstore(y + 3 * V, r.a3 + vload(y + 3 * V) if add else r.a3)


cdef inline void _put_complex(Row *re, Row *im, T *y, bint add, const int C) noexcept nogil:
    re.a0 = re.a0 + vturn(im.a0)
    if C > 1:
        re.a1 = re.a1 + vturn(im.a1)
    if C > 2:
        re.a2 = re.a2 + vturn(im.a2)
    if C > 3:
        re.a3 = re.a3 + vturn(im.a3)
    _put(re, y, add, C)


cdef inline void _roll(
    const T *x, Py_ssize_t xs, const T *k, Py_ssize_t ks, Py_ssize_t kb,
    T *y, Py_ssize_t ys, Py_ssize_t rows, bint add, const int ka, const int C, const bint cplx,
) noexcept nogil:
    """Under a kernel of few rows: down a column of C vectors, the sums of ka outputs at a time.

    Each row of x is read once.  The first ka - 1 sums are of outputs above the first.
    """
    cdef Tile t
    cdef Py_ssize_t i
    t.r0 = t.r1 = t.r2 = t.r3 = t.r4 = t.r5 = t.r6 = t.r7 = _zeros()
    k += (ka - 1) * ks
    for i in range(1 - ka, rows):
        if ka > 1 and i == -1:
            _taps(&t, x, k, ks, kb, 1, ka, C, cplx)
        elif ka > 2 and i == -2:
            _taps(&t, x, k, ks, kb, 2, ka, C, cplx)
        elif ka > 3 and i == -3:
            _taps(&t, x, k, ks, kb, 3, ka, C, cplx)
        elif ka > 4 and i == -4:
            _taps(&t, x, k, ks, kb, 4, ka, C, cplx)
        elif ka > 5 and i == -5:
            _taps(&t, x, k, ks, kb, 5, ka, C, cplx)
        elif ka > 6 and i == -6:
            _taps(&t, x, k, ks, kb, 6, ka, C, cplx)
        elif ka > 1 and i == rows - 1:
            _taps(&t, x, k, ks, kb, 0, 1, C, cplx)
        elif ka > 2 and i == rows - 2:
            _taps(&t, x, k, ks, kb, 0, 2, C, cplx)
        elif ka > 3 and i == rows - 3:
            _taps(&t, x, k, ks, kb, 0, 3, C, cplx)
        elif ka > 4 and i == rows - 4:
            _taps(&t, x, k, ks, kb, 0, 4, C, cplx)
        elif ka > 5 and i == rows - 5:
            _taps(&t, x, k, ks, kb, 0, 5, C, cplx)
        elif ka > 6 and i == rows - 6:
            _taps(&t, x, k, ks, kb, 0, 6, C, cplx)
        else:
            _taps(&t, x, k, ks, kb, 0, ka, C, cplx)
        x += xs
        if cplx:
            if i >= 0:
                _put_complex(&t.r0, &t.r1, y, add, C)
                y += ys
            t.r0, t.r1 = t.r2, t.r3
            t.r2, t.r3 = t.r4, t.r5
            t.r4, t.r5 = t.r6, t.r7
            if ka == 1:
                t.r0 = t.r1 = _zeros()
            elif ka == 2:
                t.r2 = t.r3 = _zeros()
            elif ka == 3:
                t.r4 = t.r5 = _zeros()
            else:
                t.r6 = t.r7 = _zeros()
        else:
            if i >= 0:
                _put(&t.r0, y, add, C)
                y += ys
            t.r0 = t.r1 if ka > 1 else _zeros()
            t.r1 = t.r2 if ka > 2 else _zeros()
            t.r2 = t.r3 if ka > 3 else _zeros()
            t.r3 = t.r4 if ka > 4 else _zeros()
            t.r4 = t.r5 if ka > 5 else _zeros()
            t.r5 = t.r6 if ka > 6 else _zeros()
            t.r6 = t.r7 if ka > 7 else _zeros()
            t.r7 = _zeros()


cdef inline void _rolls(
    const T *x, Py_ssize_t xs, const T *k, Py_ssize_t ks, Py_ssize_t kb,
    T *y, Py_ssize_t ys, Py_ssize_t rows, Py_ssize_t cols, bint add,
    const int ka, const int C, const bint cplx,
) noexcept nogil:
    """`_roll` over cols >= V lanes.  The last vector is moved left onto its neighbour
    where the width is no multiple of V: the same sums again, so no scalar tail."""
    cdef Py_ssize_t j = 0
    while j < cols:
        if C > 2 and cols - j >= C * V:
            _roll(x + j, xs, k, ks, kb, y + j, ys, rows, add, ka, C, cplx)
            j += C * V
        elif cols - j >= 2 * V:
            _roll(x + j, xs, k, ks, kb, y + j, ys, rows, add, ka, 2, cplx)
            j += 2 * V
        else:
            j = min(j, cols - V)
            _roll(x + j, xs, k, ks, kb, y + j, ys, rows, add, ka, 1, cplx)
            j += V


cdef inline void _tile(
    const T *x, Py_ssize_t xs, const T *k, Py_ssize_t ks, Py_ssize_t ka, Py_ssize_t kb,
    T *y, Py_ssize_t ys, bint add, const int rows, const int C, const bint cplx,
) noexcept nogil:
    """y = (y if add else 0) + x correlated with k, for `rows` <= ka rows x C vectors of outputs."""
    cdef Tile t
    cdef Py_ssize_t i
    t.r0 = t.r1 = t.r2 = t.r3 = t.r4 = t.r5 = t.r6 = t.r7 = _zeros()

    # Input row i meets output rows i - ka < r <= i.
    for i in range(ka + rows - 1):
        if i >= ka:
            if rows > 1 and i == ka:
                _taps(&t, x, k, ks, kb, 1, rows, C, cplx)
            elif rows > 2 and i == ka + 1:
                _taps(&t, x, k, ks, kb, 2, rows, C, cplx)
            elif rows > 3 and i == ka + 2:
                _taps(&t, x, k, ks, kb, 3, rows, C, cplx)
            elif rows > 4 and i == ka + 3:
                _taps(&t, x, k, ks, kb, 4, rows, C, cplx)
            elif rows > 5:
                _taps(&t, x, k, ks, kb, 5, rows, C, cplx)
        elif i >= rows - 1:
            _taps(&t, x, k, ks, kb, 0, rows, C, cplx)
        elif i == 0:
            _taps(&t, x, k, ks, kb, 0, 1, C, cplx)
        elif i == 1:
            _taps(&t, x, k, ks, kb, 0, 2, C, cplx)
        elif i == 2:
            _taps(&t, x, k, ks, kb, 0, 3, C, cplx)
        elif i == 3:
            _taps(&t, x, k, ks, kb, 0, 4, C, cplx)
        else:
            _taps(&t, x, k, ks, kb, 0, 5, C, cplx)
        x += xs
        k += ks

    if cplx:
        _put_complex(&t.r0, &t.r1, y, add, C)
        if rows > 1:
            _put_complex(&t.r2, &t.r3, y + ys, add, C)
        if rows > 2:
            _put_complex(&t.r4, &t.r5, y + 2 * ys, add, C)
    else:
        _put(&t.r0, y, add, C)
        if rows > 1:
            _put(&t.r1, y + ys, add, C)
        if rows > 2:
            _put(&t.r2, y + 2 * ys, add, C)
        if rows > 3:
            _put(&t.r3, y + 3 * ys, add, C)
        if rows > 4:
            _put(&t.r4, y + 4 * ys, add, C)
        if rows > 5:
            _put(&t.r5, y + 5 * ys, add, C)


cdef inline void _strip(
    const T *x, Py_ssize_t xs, const T *k, Py_ssize_t ks, Py_ssize_t ka, Py_ssize_t kb,
    T *y, Py_ssize_t ys, Py_ssize_t cols, bint add, const int rows, const bint cplx,
) noexcept nogil:
    """`rows` rows of cols >= V lanes, the last vector as in `_rolls`."""
    cdef Py_ssize_t j = 0
    while j < cols:
        if C_MAX > 2 and cols - j >= 4 * V:
            _tile(x + j, xs, k, ks, ka, kb, y + j, ys, add, rows, 4, cplx)
            j += 4 * V
        elif cols - j >= 2 * V:
            _tile(x + j, xs, k, ks, ka, kb, y + j, ys, add, rows, 2, cplx)
            j += 2 * V
        else:
            j = min(j, cols - V)
            _tile(x + j, xs, k, ks, ka, kb, y + j, ys, add, rows, 1, cplx)
            j += V


cdef void _block(
    const T *x, Py_ssize_t xs, const T *k, Py_ssize_t ks, Py_ssize_t ka, Py_ssize_t kb,
    T *y, Py_ssize_t ys, Py_ssize_t rows, Py_ssize_t cols, bint add, bint cplx,
) noexcept nogil:
    """rows x cols lanes of outputs, cols >= V (a multiple of V where add)."""
    cdef Py_ssize_t i = 0
    if cplx:
        if not HAS_COMPLEX:
            return
        if ka == 1:
            _rolls(x, xs, k, ks, kb, y, ys, rows, cols, add, 1, C_MAX, True)
            return
        while i < rows:
            if rows - i >= 2:
                _strip(x, xs, k, ks, ka, kb, y, ys, cols, add, 2, True)
                x += 2 * xs
                y += 2 * ys
                i += 2
            else:
                _strip(x, xs, k, ks, ka, kb, y, ys, cols, add, 1, True)
                return
    elif ka == 1:
        _rolls(x, xs, k, ks, kb, y, ys, rows, cols, add, 1, C_MAX, False)
    elif ka == 2:
        _rolls(x, xs, k, ks, kb, y, ys, rows, cols, add, 2, C_MAX, False)
    elif ka == 3:
        _rolls(x, xs, k, ks, kb, y, ys, rows, cols, add, 3, C_MAX, False)
    elif ka == 4:
        _rolls(x, xs, k, ks, kb, y, ys, rows, cols, add, 4, C_MAX, False)
    elif ka == 5 and rows > 8:
        _rolls(x, xs, k, ks, kb, y, ys, rows, cols, add, 5, C_MAX, False)
    elif ka == 6 and rows > 8:
        _rolls(x, xs, k, ks, kb, y, ys, rows, cols, add, 6, C_MAX, False)
    elif ka == 7 and C_MAX > 2 and rows > 8:
        _rolls(x, xs, k, ks, kb, y, ys, rows, cols, add, 7, 3, False)
    else:
        while i < rows:
            if rows - i >= ROWS:
                _strip(x, xs, k, ks, ka, kb, y, ys, cols, add, ROWS, False)
                x += ROWS * xs
                y += ROWS * ys
                i += ROWS
            elif rows - i >= 2:
                _strip(x, xs, k, ks, ka, kb, y, ys, cols, add, 2, False)
                x += 2 * xs
                y += 2 * ys
                i += 2
            else:
                _strip(x, xs, k, ks, ka, kb, y, ys, cols, add, 1, False)
                return


# ---------------------------------------------------------------- correlation: cache tiles

cdef struct Job:
    Plane x
    Plane y
    const T *k
    Py_ssize_t ka
    Py_ssize_t kb
    Py_ssize_t o0
    Py_ssize_t o1
    int comps
    bint banded             # more than KA x KB taps
    const cnp.intp_t *planes    # byte offsets of x, k, y for each plane
    Py_ssize_t n_planes
    Py_ssize_t i0           # y[i0:i1, j0:j1] can be computed from x in place
    Py_ssize_t i1
    Py_ssize_t j0
    Py_ssize_t j1
    Py_ssize_t th           # a task's part of y
    Py_ssize_t tw
    Py_ssize_t across       # tasks side by side
    Py_ssize_t tiles        # per plane
    Py_ssize_t ch           # gathered at a time
    Py_ssize_t cw
    Py_ssize_t room         # scratch of a worker: lanes of input, of output
    Py_ssize_t room_out


cdef inline Py_ssize_t _ld_in(const Job *job, Py_ssize_t cols) noexcept nogil:
    """Lanes of a scratch row that feeds `cols` columns of outputs, whole vectors of them."""
    return _round_up(cols * job.comps, V) + (min(job.kb, KB) - 1) * job.comps


cdef void _layout(Job *job, int n) noexcept nogil:
    """What can be read in place; tiles that suit the caches and n workers."""
    cdef Py_ssize_t rows = job.y.H, cols = job.y.W, lane = sizeof(T)
    cdef Py_ssize_t ka = min(job.ka, KA), kb = min(job.kb, KB), macs
    cdef Py_ssize_t lanes = max(V // job.comps, 1)
    cdef double taps = <double> ROWS * job.ka * job.kb * job.comps * job.comps
    cdef bint in_place
    job.i0 = min(max(-job.o0, 0), rows)
    job.j0 = min(max(-job.o1, 0), cols)
    job.i1 = min(job.x.H - job.ka - job.o0 + 1, rows)
    job.j1 = min(job.x.W - job.kb - job.o1 + 1, cols)
    in_place = (
        job.x.lanes and not job.banded and job.i1 > job.i0
        and (job.j1 - job.j0) * job.comps >= V
    )
    if not in_place:
        job.i1 = job.i0
    # Width: the input rows of a register tile stay in L1 from one tile to the next below it.
    # Low kernels do not work long enough on a row for that to count; they want long streams.
    job.tw = L1 // lane // (ka + ROWS - 1) - kb * job.comps
    if not in_place:
        job.tw = min(job.tw, BORDER)
    elif ka <= LOW:
        job.tw = STREAM // lane
    job.tw = min(max(job.tw // (4 * V) * 4 * V, 8 * V) // job.comps, cols)
    # Of millions of taps: narrower, for Ctrl-C waits until a tile is done.
    while job.tw >= 2 * lanes and job.tw * taps > _MOST_MACS:
        job.tw = job.tw // 2 // lanes * lanes
    # The last tile of a row takes in a remainder of less than a vector.
    job.across = max((cols + job.tw - V // job.comps) // job.tw, 1)
    # Height: work enough for a task, tasks enough for the workers, scratch within L2.
    macs = job.tw * job.ka * job.kb
    job.th = max((1 << 22) // macs, ROWS)
    if in_place and ka <= LOW:
        # An image beyond the caches: few rows at a time, for the prefetcher follows few streams.
        if job.x.H * job.x.W * job.comps * lane <= LLC:
            job.th = min(job.th, max(L2 // (job.tw * job.comps * lane), ROWS))
        elif ka <= 7:
            job.th = min(job.th, 6 if ka < 5 else 8)
    if n > 1:
        job.th = min(job.th, _round_up(rows // (4 * n) + 1, ROWS))
    job.th = min(job.th, rows)
    job.tiles = job.across * ((rows + job.th - 1) // job.th)
    # What is gathered at a time.
    job.cw = min(job.tw, BORDER // job.comps)
    macs = _ld_in(job, job.cw + V // job.comps)
    job.ch = L1 // lane // macs - ka + 1
    job.ch = min(max(job.ch // ROWS * ROWS, ka // ROWS * ROWS, 32), job.th)
    job.room = (job.ch + ka - 1) * macs
    job.room_out = 0
    if job.banded or not job.y.lanes or cols * job.comps < V:
        job.room_out = job.ch * _round_up((job.cw * job.comps + V), V)
        job.room_out = max(job.room_out, job.th * _round_up((job.tw * job.comps + V), V))


cdef void _inside(
    const Job *job, const Plane *x, const Plane *y, const T *k,
    Py_ssize_t i0, Py_ssize_t i1, Py_ssize_t j0, Py_ssize_t j1, T *out,
) noexcept nogil:
    """y[i0:i1, j0:j1] from x in place."""
    cdef Py_ssize_t lane = sizeof(T), ys = y.s0 // lane, width = (j1 - j0) * job.comps
    cdef const char *src = x.data + (job.o0 + i0) * x.s0 + (job.o1 + j0) * x.s1
    if y.lanes:
        out = <T *> (y.data + i0 * y.s0 + j0 * y.s1)
    else:
        ys = _round_up(width, V)
    _block(<const T *> src, x.s0 // lane, k, job.kb * job.comps, job.ka, job.kb,
           out, ys, i1 - i0, width, False, job.comps == 2)
    if not y.lanes:
        _scatter(out, ys, y, i0, j0, i1 - i0, j1 - j0)


cdef void _gathered(
    const Job *job, const Plane *x, const Plane *y, const T *k,
    Py_ssize_t i0, Py_ssize_t i1, Py_ssize_t j0, Py_ssize_t j1, T *scratch,
) noexcept nogil:
    """y[i0:i1, j0:j1] from a scratch that x is gathered into, part by part."""
    cdef Py_ssize_t i, j, a, b, a1, b1, rows, cols, xs, ys, width, ks = job.kb * job.comps
    cdef T *out = scratch + job.room
    cdef bint direct
    j = j0
    while j < j1:
        cols = job.cw if j1 - j >= job.cw + V // job.comps else j1 - j
        width = cols * job.comps
        xs = _ld_in(job, cols)
        direct = y.lanes and not job.banded and width >= V
        ys = y.s0 // <Py_ssize_t> sizeof(T) if direct else _round_up(width, V)
        if not direct:
            width = ys      # a scratch has whole vectors
        i = i0
        while i < i1:
            rows = min(i1 - i, job.ch)
            if direct:
                out = <T *> (y.data + i * y.s0 + j * y.s1)
            a = 0
            while a < job.ka:
                a1 = min(job.ka - a, KA)
                b = 0
                while b < job.kb:
                    b1 = min(job.kb - b, KB)
                    _gather(x, job.o0 + i + a, job.o1 + j + b, rows + a1 - 1, cols + b1 - 1,
                            scratch, xs, job.comps)
                    _block(scratch, xs, k + a * ks + b * job.comps, ks, a1, b1,
                           out, ys, rows, width, a + b > 0, job.comps == 2)
                    b += KB
                a += KA
            if not direct:
                _scatter(out, ys, y, i, j, rows, cols)
            i += rows
        j += cols


cdef void _task(const void *given, Py_ssize_t number, T *scratch) noexcept nogil:
    """Compute one tile of one plane."""
    cdef const Job *job = <const Job *> given
    cdef Plane x = job.x, y = job.y
    cdef const T *k = job.k
    cdef const cnp.intp_t *offset = job.planes + number // job.tiles * 3
    cdef Py_ssize_t i0, i1, j0, j1, a0, a1, b0, b1, lanes = max(V // job.comps, 1)
    x.data += offset[0]
    k = <const T *> (<const char *> k + offset[1])
    y.data += offset[2]
    number = number % job.tiles
    i0 = number // job.across * job.th
    j0 = number % job.across * job.tw
    i1 = min(i0 + job.th, y.H)
    j1 = j0 + job.tw if number % job.across < job.across - 1 else y.W
    # Borders are whole register tiles thick.
    a0, b0 = max(i0, job.i0), max(j0, job.j0)
    a1, b1 = min(i1, job.i1), min(j1, job.j1)
    a0 = i0 + _round_up(a0 - i0, ROWS)
    b0 = j0 + _round_up(b0 - j0, lanes)
    a1 = i1 - _round_up(i1 - a1, ROWS)
    b1 = j1 - _round_up(j1 - b1, lanes)
    if a1 <= a0 or b1 - b0 < lanes or (b1 - b0 < WIDE and (b0 > j0 or b1 < j1)):
        _gathered(job, &x, &y, k, i0, i1, j0, j1, scratch)
        return
    _inside(job, &x, &y, k, a0, a1, b0, b1, scratch + job.room)
    if a0 > i0:
        _gathered(job, &x, &y, k, i0, a0, j0, j1, scratch)
    if a1 < i1:
        _gathered(job, &x, &y, k, a1, i1, j0, j1, scratch)
    if b0 > j0:
        _gathered(job, &x, &y, k, a0, a1, j0, b0, scratch)
    if b1 < j1:
        _gathered(job, &x, &y, k, a0, a1, b1, j1, scratch)


def correlate(
    cnp.ndarray x not None,         # IN   (…, H, W), any layout and dtype
    cnp.ndarray k not None,         # IN   (…, kh, kw), C-contiguous, of y's dtype; lanes for bytes
    cnp.ndarray y not None,         # OUT  (…, oh, ow), aligned, native
    Py_ssize_t o0, Py_ssize_t o1,   # y[0, 0] meets k[0, 0] at X[o0, o1]
    int bound0, int bound1,         # of BOUNDARIES, per axis
    cnp.ndarray fill not None,      # IN   one element, of k's dtype
    cnp.ndarray planes not None,    # IN   (n, 3) intp: byte offsets of each plane in x, k, y
    int workers,
):
    """y = x correlated with k, plane by plane."""
    cdef Job job
    cdef Py_ssize_t total, grab, room
    cdef double macs
    cdef T *scratch
    cdef void *base = NULL
    cdef char[STACK] stack
    job.x = _plane(x, bound0, bound1, fill)
    job.y = _plane(y, FILL, FILL, fill)
    job.k = <const T *> cnp.PyArray_DATA(k)
    job.ka = cnp.PyArray_DIM(k, cnp.PyArray_NDIM(k) - 2)
    job.kb = cnp.PyArray_DIM(k, cnp.PyArray_NDIM(k) - 1)
    job.o0, job.o1 = o0, o1
    job.comps = job.y.comps
    job.banded = job.ka > KA or job.kb > KB
    job.planes = <const cnp.intp_t *> cnp.PyArray_DATA(planes)
    job.n_planes = cnp.PyArray_DIM(planes, 0)
    if job.y.H * job.y.W * job.n_planes == 0:
        return
    _layout(&job, workers)
    total = job.tiles * job.n_planes
    macs = <double> job.y.H * job.y.W * job.ka * job.kb * job.comps * job.comps / job.tiles
    workers = min(workers, total)
    job.room = _round_up(job.room, ALIGN // sizeof(T))
    room = _round_up(job.room + job.room_out, ALIGN) + ALIGN
    scratch = <T *> stack
    if workers > 1 or room * <Py_ssize_t> sizeof(T) > STACK - ALIGN:
        base = _allocate(room * workers)
        scratch = <T *> base
    scratch = _aligned(scratch)
    if total == 1 and macs < 10000:
        _task(&job, 0, scratch)
        PyMem_RawFree(base)
        return
    grab = _grab(macs, total, workers)
    # A plane narrower than a vector costs as much as one.
    macs *= max(<double> V / (job.y.W * job.comps), 1.0)
    try:
        _each(_task, &job, total, macs * total, 1, grab, scratch, room, workers)
    finally:
        PyMem_RawFree(base)


# ---------------------------------------------------------------- kernel gradient

# Up to three rows x eight columns of taps, each a vector of partial sums.
# Complex: one row of taps, a0 gathers x * g and a1 gathers x * (g with re and im swapped).
cdef struct Dots:
    vec a00
    vec a01
    vec a02
    vec a03
    vec a04
    vec a05
    vec a06
    vec a07
    vec a10
    vec a11
    vec a12
    vec a13
    vec a14
    vec a15
    vec a16
    vec a17
    vec a20
    vec a21
    vec a22
    vec a23
    vec a24
    vec a25
    vec a26
    vec a27


cdef inline vec _dot_load(
    const T *x, vmask mask, const bint masked, const bint again,
) noexcept nogil:
    cdef vec v = vload(x)
    if masked:
        v = vkeep(v, mask)
    return vhold(v) if again else v


cdef inline void _dot(
    Dots *d, const T *x, const T *g, Py_ssize_t gs, vmask mask, const bint masked,
    const int A, const int B, const bint cplx,
) noexcept nogil:
    """One vector of g's columns against the taps: d[r][b] += x[b:] * g[-r]."""
    cdef Py_ssize_t step = 2 if cplx else 1
    cdef vec x0, g0, g1, g2
    g0 = g1 = g2 = vload(g)
    if A > 1:
        g1 = vload(g - gs)
    if A > 2:
        g2 = vload(g - 2 * gs)
    if masked:
        g0, g1, g2 = vkeep(g0, mask), vkeep(g1, mask), vkeep(g2, mask)
    if cplx:
        g1 = vswap(g0)
    x0 = _dot_load(x, mask, masked, A > 1 or cplx)
    d.a00 = d.a00 + x0 * g0
    if A > 1 or cplx:
        d.a10 = d.a10 + x0 * g1
    if A > 2:
        d.a20 = d.a20 + x0 * g2
    if B > 1:
        x0 = _dot_load(x + step, mask, masked, A > 1 or cplx)
        d.a01 = d.a01 + x0 * g0
        if A > 1 or cplx:
            d.a11 = d.a11 + x0 * g1
        if A > 2:
            d.a21 = d.a21 + x0 * g2
    if B > 2:
        x0 = _dot_load(x + 2 * step, mask, masked, A > 1 or cplx)
        d.a02 = d.a02 + x0 * g0
        if A > 1 or cplx:
            d.a12 = d.a12 + x0 * g1
        if A > 2:
            d.a22 = d.a22 + x0 * g2
    if B > 3:
        x0 = _dot_load(x + 3 * step, mask, masked, A > 1 or cplx)
        d.a03 = d.a03 + x0 * g0
        if A > 1 or cplx:
            d.a13 = d.a13 + x0 * g1
        if A > 2:
            d.a23 = d.a23 + x0 * g2
    if B > 4:
        x0 = _dot_load(x + 4 * step, mask, masked, A > 1 or cplx)
        d.a04 = d.a04 + x0 * g0
        if A > 1 or cplx:
            d.a14 = d.a14 + x0 * g1
        if A > 2:
            d.a24 = d.a24 + x0 * g2
    if B > 5:
        x0 = _dot_load(x + 5 * step, mask, masked, A > 1 or cplx)
        d.a05 = d.a05 + x0 * g0
        if A > 1 or cplx:
            d.a15 = d.a15 + x0 * g1
        if A > 2:
            d.a25 = d.a25 + x0 * g2
    if B > 6:
        x0 = _dot_load(x + 6 * step, mask, masked, A > 1 or cplx)
        d.a06 = d.a06 + x0 * g0
        if A > 1 or cplx:
            d.a16 = d.a16 + x0 * g1
        if A > 2:
            d.a26 = d.a26 + x0 * g2
    if B > 7:
        x0 = _dot_load(x + 7 * step, mask, masked, A > 1 or cplx)
        d.a07 = d.a07 + x0 * g0
        if A > 1 or cplx:
            d.a17 = d.a17 + x0 * g1
        if A > 2:
            d.a27 = d.a27 + x0 * g2


cdef inline void _sum(vec v, vec w, ACC *dst, const bint cplx) noexcept nogil:
    """Add the lanes to the table, first to last."""
    cdef Py_ssize_t i
    cdef ACC s = <ACC> 0, u = <ACC> 0
    for i in range(V):
        s += <ACC> vlane(v, i)
    dst[0] += s
    if cplx:
        for i in range(0, V, 2):
            u += <ACC> vlane(w, i)
            u -= <ACC> vlane(w, i + 1)
        dst[1] += u


cdef inline void _dots(
    const T *x, Py_ssize_t xs, const T *g, Py_ssize_t gs, Py_ssize_t rows, Py_ssize_t width,
    Py_ssize_t tail, ACC *table, Py_ssize_t ts, const int A, const int B, const bint cplx,
) noexcept nogil:
    """table[r, b] += sum of x[i, j + b] * g[i - r, j] over `rows` rows and `width` >= V lanes.

    Where `tail` > 0 lanes are left over after whole vectors, the last V lanes come with all
    but those masked."""
    cdef Dots d
    cdef Py_ssize_t _i, j, step = 2 if cplx else 1
    cdef vmask mask = vlast(tail)
    d.a00 = d.a01 = d.a02 = d.a03 = d.a04 = d.a05 = d.a06 = d.a07 = vzero()
    d.a10 = d.a11 = d.a12 = d.a13 = d.a14 = d.a15 = d.a16 = d.a17 = vzero()
    d.a20 = d.a21 = d.a22 = d.a23 = d.a24 = d.a25 = d.a26 = d.a27 = vzero()
    for _i in range(rows):
        j = 0
        while j + V <= width - tail:
            _dot(&d, x + j, g + j, gs, mask, False, A, B, cplx)
            j += V
        if tail > 0:
            _dot(&d, x + width - V, g + width - V, gs, mask, True, A, B, cplx)
        x += xs
        g += gs
    _sum(d.a00, d.a10, table, cplx)
    if A > 1:
        _sum(d.a10, d.a10, table + ts, False)
    if A > 2:
        _sum(d.a20, d.a20, table + 2 * ts, False)
    if B > 1:
        _sum(d.a01, d.a11, table + step, cplx)
        if A > 1:
            _sum(d.a11, d.a11, table + ts + step, False)
        if A > 2:
            _sum(d.a21, d.a21, table + 2 * ts + step, False)
    if B > 2:
        _sum(d.a02, d.a12, table + 2 * step, cplx)
        if A > 1:
            _sum(d.a12, d.a12, table + ts + 2 * step, False)
        if A > 2:
            _sum(d.a22, d.a22, table + 2 * ts + 2 * step, False)
    if B > 3:
        _sum(d.a03, d.a13, table + 3 * step, cplx)
        if A > 1:
            _sum(d.a13, d.a13, table + ts + 3 * step, False)
        if A > 2:
            _sum(d.a23, d.a23, table + 2 * ts + 3 * step, False)
    if B > 4:
        _sum(d.a04, d.a14, table + 4 * step, cplx)
        if A > 1:
            _sum(d.a14, d.a14, table + ts + 4 * step, False)
        if A > 2:
            _sum(d.a24, d.a24, table + 2 * ts + 4 * step, False)
    if B > 5:
        _sum(d.a05, d.a15, table + 5 * step, cplx)
        if A > 1:
            _sum(d.a15, d.a15, table + ts + 5 * step, False)
        if A > 2:
            _sum(d.a25, d.a25, table + 2 * ts + 5 * step, False)
    if B > 6:
        _sum(d.a06, d.a16, table + 6 * step, cplx)
        if A > 1:
            _sum(d.a16, d.a16, table + ts + 6 * step, False)
        if A > 2:
            _sum(d.a26, d.a26, table + 2 * ts + 6 * step, False)
    if B > 7:
        _sum(d.a07, d.a17, table + 7 * step, cplx)
        if A > 1:
            _sum(d.a17, d.a17, table + ts + 7 * step, False)
        if A > 2:
            _sum(d.a27, d.a27, table + 2 * ts + 7 * step, False)


cdef inline void _dots_a(
    const T *x, Py_ssize_t xs, const T *g, Py_ssize_t gs, Py_ssize_t rows, Py_ssize_t width,
    Py_ssize_t tail, ACC *table, Py_ssize_t ts, int nb, const int A, const bint cplx,
) noexcept nogil:
    if nb == 1:
        _dots(x, xs, g, gs, rows, width, tail, table, ts, A, 1, cplx)
    elif nb == 2:
        _dots(x, xs, g, gs, rows, width, tail, table, ts, A, 2, cplx)
    elif nb == 3:
        _dots(x, xs, g, gs, rows, width, tail, table, ts, A, 3, cplx)
    elif B_MAX <= 4 or nb == 4:
        _dots(x, xs, g, gs, rows, width, tail, table, ts, A, 4, cplx)
    elif nb == 5:
        _dots(x, xs, g, gs, rows, width, tail, table, ts, A, 5, cplx)
    elif nb == 6:
        _dots(x, xs, g, gs, rows, width, tail, table, ts, A, 6, cplx)
    elif nb == 7:
        _dots(x, xs, g, gs, rows, width, tail, table, ts, A, 7, cplx)
    else:
        _dots(x, xs, g, gs, rows, width, tail, table, ts, A, 8, cplx)


cdef void _dot_rows(
    const T *x, Py_ssize_t xs, const T *g, Py_ssize_t gs, Py_ssize_t rows, Py_ssize_t width,
    Py_ssize_t tail, ACC *table, Py_ssize_t ts, int na, int nb, bint cplx,
) noexcept nogil:
    """na rows of taps at once where all of them meet a row of g, the ends row by row."""
    cdef Py_ssize_t r, m
    if cplx:
        if HAS_COMPLEX:
            _dots_a(x, xs, g, gs, rows, width, tail, table, ts, nb, 1, True)
        return
    m = max(rows - na + 1, 0)
    if na == 1:
        _dots_a(x, xs, g, gs, m, width, tail, table, ts, nb, 1, False)
        return
    elif na == 2:
        _dots_a(x + xs, xs, g + gs, gs, m, width, tail, table, ts, nb, 2, False)
    else:
        _dots_a(x + 2 * xs, xs, g + 2 * gs, gs, m, width, tail, table, ts, nb, 3, False)
    for r in range(na):
        m = min(na - 1 - r, rows)
        _dots_a(x + r * xs, xs, g, gs, m, width, tail, table + r * ts, ts, nb, 1, False)
        m = max(rows - r, m)
        _dots_a(x + (m + r) * xs, xs, g + m * gs, gs, rows - m, width, tail,
                table + r * ts, ts, nb, 1, False)


cdef struct GradJob:
    Plane x
    Plane g
    ACC *table
    Py_ssize_t ka
    Py_ssize_t kb
    Py_ssize_t o0
    Py_ssize_t o1
    int comps
    const cnp.intp_t *planes
    Py_ssize_t slabs        # of rows of g; one partial sum each,
    Py_ssize_t waves        # taken in so many parts, of which this is the one
    Py_ssize_t wave
    Py_ssize_t na           # blocks of taps
    Py_ssize_t nb
    Py_ssize_t room_x


cdef void _grad_task(const void *given, Py_ssize_t number, T *scratch) noexcept nogil:
    """One block of taps over one slab of rows of one plane."""
    cdef const GradJob *job = <const GradJob *> given
    cdef Plane x = job.x, g = job.g
    cdef Py_ssize_t comps = job.comps, plane, slab, i, j, a0, b0, a, b, la, lb, na, nb
    cdef Py_ssize_t rows, cols, width, tail, xs, gs, i1, j0, xi, xj
    cdef const T *px
    cdef const T *pg
    cdef ACC *table
    b0 = number % job.nb * GRAD_B
    number //= job.nb
    a0 = number % job.na * GRAD_A
    number //= job.na
    slab = number % job.slabs
    plane = number // job.slabs
    x.data += job.planes[3 * plane]
    g.data += job.planes[3 * plane + 1]
    la = min(job.ka - a0, GRAD_A)
    lb = min(job.kb - b0, GRAD_B)
    table = job.table + ((number * job.ka + a0) * job.kb + b0) * comps
    i1 = g.H * (slab + 1) // job.slabs
    i = g.H * slab // job.slabs
    a = (i1 - i + GRAD_ROWS - 1) // GRAD_ROWS       # whole blocks of rows: the sums stay the same
    i1 = min(i + a * (job.wave + 1) // job.waves * GRAD_ROWS, i1)
    i += a * job.wave // job.waves * GRAD_ROWS
    while i < i1:
        rows = min(i1 - i, GRAD_ROWS)
        j0 = 0
        while j0 < g.W:
            j = j0
            cols = min(g.W - j, GRAD_LANES // comps)
            tail = cols * comps % V
            if cols * comps < V:
                # Start further left: lanes that are masked, but make a whole vector.
                j -= V // comps - cols
                cols = V // comps
            width = cols * comps
            if g.lanes and j >= 0:
                pg = <const T *> (g.data + i * g.s0 + j * g.s1)
                gs = g.s0 // <Py_ssize_t> sizeof(T)
            else:
                pg = scratch + job.room_x
                gs = width
                _gather(&g, i, j, rows, cols, scratch + job.room_x, gs, comps)
            xi, xj = job.o0 + i + a0, job.o1 + j + b0
            if (x.lanes and xi >= 0 and xi + rows + la - 1 <= x.H
                    and xj >= 0 and xj + cols + lb - 1 <= x.W):
                px = <const T *> (x.data + xi * x.s0 + xj * x.s1)
                xs = x.s0 // <Py_ssize_t> sizeof(T)
            else:
                px = scratch
                xs = width + (lb - 1) * comps
                _gather(&x, xi, xj, rows + la - 1, cols + lb - 1, scratch, xs, comps)
            a = 0
            while a < la:       # groups of equal size, give or take one
                na = 1 if comps == 2 else (la - a + (la - a + 2) // 3 - 1) // ((la - a + 2) // 3)
                b = 0
                while b < lb:
                    nb = (lb - b + B_MAX - 1) // B_MAX
                    nb = (lb - b + nb - 1) // nb
                    _dot_rows(px + a * xs + b * comps, xs, pg, gs, rows, width, tail,
                              table + (a * job.kb + b) * comps, job.kb * comps, na, nb,
                              comps == 2)
                    b += nb
                a += na
            j0 += GRAD_LANES // comps
        i += GRAD_ROWS


def correlate_kernel_grad(
    cnp.ndarray x not None,         # IN   (…, H, W), any layout and dtype
    cnp.ndarray g not None,         # IN   (…, oh, ow), likewise
    cnp.ndarray table not None,     # OUT  (n, slabs, kh, kw), zeros, C-contiguous, of ACC
    Py_ssize_t o0, Py_ssize_t o1,
    int bound0, int bound1,
    cnp.ndarray fill not None,      # IN   one element, of the lanes' dtype
    cnp.ndarray planes not None,    # IN   (n, 3) intp: byte offsets of each plane in x, g, –
    int workers,
):
    """table[p, s] = kernel gradient of plane p over slab s of the rows of g."""
    cdef GradJob job
    cdef Py_ssize_t total, room
    cdef double macs
    cdef void *base
    job.x = _plane(x, bound0, bound1, fill)
    job.g = _plane(g, FILL, FILL, fill)
    job.table = <ACC *> cnp.PyArray_DATA(table)
    job.slabs = cnp.PyArray_DIM(table, 1)
    job.ka = cnp.PyArray_DIM(table, 2)
    job.kb = cnp.PyArray_DIM(table, 3)
    job.o0, job.o1 = o0, o1
    job.comps = 2 if cnp.PyArray_ISCOMPLEX(fill) else 1
    job.planes = <const cnp.intp_t *> cnp.PyArray_DATA(planes)
    job.na = (job.ka + GRAD_A - 1) // GRAD_A
    job.nb = (job.kb + GRAD_B - 1) // GRAD_B
    total = cnp.PyArray_DIM(planes, 0) * job.slabs * job.na * job.nb
    if total == 0:
        return
    workers = min(workers, total)
    job.room_x = ((GRAD_ROWS + min(job.ka, GRAD_A) - 1)
                  * (min(g.shape[g.ndim - 1] * job.comps, GRAD_LANES) + V
                     + (min(job.kb, GRAD_B) - 1) * job.comps))
    job.room_x = _round_up(job.room_x, ALIGN)
    room = job.room_x + _round_up(GRAD_ROWS * (GRAD_LANES + V), ALIGN)
    macs = (<double> job.g.H * job.g.W * job.ka * job.kb * job.comps * job.comps
            / (job.slabs * job.na * job.nb)) * max(<double> V / (job.g.W * job.comps + 1), 1.0)
    job.waves = _waves(macs, job.g.H // job.slabs // GRAD_ROWS)
    base = _allocate(room * workers)
    try:
        for job.wave in range(job.waves):
            _each(_grad_task, &job, total, macs / job.waves * total, 1, 1, _aligned(base), room,
                  workers)
    finally:
        PyMem_RawFree(base)
