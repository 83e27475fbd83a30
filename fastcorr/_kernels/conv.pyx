"""Convolution with many channels: one register tile, and three ways to pack for it.

    y[n, m, i, j]  = sum over c, a, b of    X[n, c, i*s0 + oa[a], j*s1 + ob[b]] * w[m, c, a, b]
    dw[m, c, a, b] = sum over n, i, j of    X[n, c, i*s0 + oa[a], j*s1 + ob[b]] * g[n, m, i, j]

X is the image x continued beyond its edges; oa and ob are any offsets.  `conv` computes the
first, which is the layer (oa = a * dilation - padding) and, with x for g and the axes of w
exchanged, the gradient to its input: for stride s one call for each of the s*s phases of the
result, with the taps that meet it.  `conv_weight_grad` computes the second.

Both are products of matrices whose large factor is never formed: a tile of up to M_MAX rows m
and two vectors is summed in registers over a block of k (`_micro`), and only what one tile
needs next is packed:

    conv               lanes are pixels (i, j), k runs over (c, a, b).  The pixels that a block of
                       channels needs are brought into a scratch with unit stride (`_gather`),
                       from there into a panel of 2 V pixels for every k (`_pack_pixels`).
    conv_weight_grad   lanes are channels c (or c and neighbouring b), k runs over pixels.  The
                       scratch has the channels innermost (`_gather_channels`) and is read in
                       place; the gradient g is packed with its rows m innermost (`_pack_grad`).

Where y does not lie pixel by pixel (phases of a stride, channels innermost, rows shorter than a
tile), `conv` finishes a block's sums in the scratch and delivers them once (`_deliver`).  Channels
that do not mix are in depthwise.pxi.

A scratch holds every needed pixel once, stride by stride: see `Axis`.  Complex arrays come as
real ones: twice the channels, of which each two lie interleaved (`comps`).

Order of summation: k ascending within a block, then block by block.  Blocks depend on shapes,
type and instruction set only, and each sum has one owner, so the bits do not depend on the
number of workers.

Contract: the caller has checked shapes, dtypes and the number of workers.  Here nothing is.
"""
cimport numpy as cnp
from libc.string cimport memcpy

from fastcorr._kernels.boundary cimport FILL, Boundary, run_at
from fastcorr._kernels.simd cimport (
    M_MAX, T, V, vec, vfirst, vhold, vload, vrelu, vsecond, vsplat, vstore, vzero,
)

cnp.import_array()

cdef enum:
    M_TASK = 256        # rows of the tile's matrix that stay in L2 while pixels go by

# What the Python side needs to know of the compile-time choices.
LANES = V
ROWS = M_MAX

include "tasks.pxi"
include "channels.pxi"


# ---------------------------------------------------------------- axes of images

# Which coordinates of an axis of x the outputs [i0, i0 + n) of a block need, and where in the
# scratch they lie.  Coordinates that are congruent modulo the stride form a group, in which
# outputs are neighbours; taps that lie far apart have groups of their own.  Output i0 + i and
# tap t meet in slot  taps[t].base + taps[t].group * n + i.
cdef struct Axis:
    Py_ssize_t stride
    const cnp.intp_t *taps      # (·, 2): base, number of the group within its block
    const cnp.intp_t *groups    # (·, 3): base, source of its first slot for i0 = 0, slots beyond n
    const cnp.intp_t *blocks    # (·, 4): taps from, to; groups from, to


cdef Axis _axis(Py_ssize_t stride, cnp.ndarray taps, cnp.ndarray groups, cnp.ndarray blocks):
    cdef Axis axis
    axis.stride = stride
    axis.taps = <const cnp.intp_t *> cnp.PyArray_DATA(taps)
    axis.groups = <const cnp.intp_t *> cnp.PyArray_DATA(groups)
    axis.blocks = <const cnp.intp_t *> cnp.PyArray_DATA(blocks)
    return axis


cdef inline Py_ssize_t _slot(const Axis *axis, Py_ssize_t tap, Py_ssize_t n) noexcept nogil:
    return axis.taps[2 * tap] + axis.taps[2 * tap + 1] * n


cdef inline Py_ssize_t _slots(const Axis *axis, Py_ssize_t block, Py_ssize_t n) noexcept nogil:
    """Slots that a block of taps and n outputs fill."""
    cdef Py_ssize_t first = axis.blocks[4 * block + 2], last = axis.blocks[4 * block + 3] - 1
    return axis.groups[3 * last] + axis.groups[3 * last + 2] + (last - first + 1) * n


cdef inline void _copy(const T *src, Py_ssize_t n, T *dst) noexcept nogil:
    """Whole vectors, or what comes nearest; the last one is moved left onto its neighbour."""
    cdef Py_ssize_t j = 0
    if n >= V:
        while j + V <= n:
            vstore(dst + j, vload(src + j))
            j += V
        if j < n:
            vstore(dst + n - V, vload(src + n - V))
    elif n >= 4:
        memcpy(dst, src, 4 * sizeof(T))
        memcpy(dst + n - 4, src + n - 4, 4 * sizeof(T))
    elif n >= 2:
        memcpy(dst, src, 2 * sizeof(T))
        memcpy(dst + n - 2, src + n - 2, 2 * sizeof(T))
    elif n == 1:
        dst[0] = src[0]


cdef inline void _every_second(const T *src, Py_ssize_t n, T *dst, const T *limit) noexcept nogil:
    """dst[t] = src[2 * t]; vectors may read what lies between and beyond, but not the limit."""
    cdef Py_ssize_t t = 0
    cdef vec x, y, z
    cdef T some[64]
    while t < n:
        if V == 1 or src + 2 * (t + V) > limit:
            dst[t] = src[2 * t]
            t += 1
            continue
        x, y = vload(src + 2 * t), vload(src + 2 * t + V)
        # The steps of a transposition, from halves to single lanes.
        if V > 4:
            z = vfirst(x, y, 4)
            y = vsecond(x, y, 4)
            x = z
        if V > 2:
            z = vfirst(x, y, 2)
            y = vsecond(x, y, 2)
            x = z
        x = vfirst(x, y, 1)
        if t + V <= n:
            vstore(dst + t, x)
        else:
            vstore(some, x)
            _copy(some, n - t, dst + t)
        t += V


cdef inline void _fill(
    const Image *x, const T *row, Py_ssize_t at, Py_ssize_t step, Py_ssize_t t0, Py_ssize_t t1,
    T *dst, Py_ssize_t ld,
) noexcept nogil:
    """dst[t * ld] = column at + t * step of the continued row; all t lie beyond its ends."""
    cdef Py_ssize_t t, j, _step, _length
    if x.bound1 == FILL:
        for t in range(t0, t1):
            dst[t * ld] = <T> 0
        return
    for t in range(t0, t1):
        j = run_at(at + t * step, x.W, x.bound1, &_step, &_length)
        dst[t * ld] = row[j * x.s1]


# A rectangle of outputs of one image, or all outputs of several.
cdef struct Block:
    Py_ssize_t n0
    Py_ssize_t images
    Py_ssize_t i0
    Py_ssize_t ni
    Py_ssize_t j0
    Py_ssize_t nj


# Where a group of columns begins in x and in a line of the scratch, and which slots x itself fills.
cdef struct Span:
    Py_ssize_t at
    Py_ssize_t slot
    Py_ssize_t lo
    Py_ssize_t hi
    Py_ssize_t count


cdef enum:
    SPANS = 16


cdef inline Py_ssize_t _spans(
    const Image *x, const Axis *cols, Py_ssize_t block, Py_ssize_t h0, Py_ssize_t j0,
    Py_ssize_t nj, Span *span,
) noexcept nogil:
    """Some groups of a block from h0 on; their number."""
    cdef Py_ssize_t first = cols.blocks[4 * block + 2], h, stride = cols.stride
    cdef Py_ssize_t n = min(SPANS, cols.blocks[4 * block + 3] - h0)
    for h in range(n):
        span[h].count = cols.groups[3 * (h0 + h) + 2] + nj
        span[h].at = cols.groups[3 * (h0 + h) + 1] + j0 * stride
        span[h].slot = cols.groups[3 * (h0 + h)] + (h0 + h - first) * nj
        span[h].lo = _clip(_ceil(-span[h].at, stride), 0, span[h].count)
        span[h].hi = _clip(_ceil(x.W - span[h].at, stride), span[h].lo, span[h].count)
    return n


cdef inline void _gather_line(
    const Image *x, const T *row, const Span *span, Py_ssize_t stride, bint ends, T *dst,
) noexcept nogil:
    """The slots of a group that meet one row of x, or zeros for a row beyond (NULL).

    `ends`: only those beyond the ends of the row.
    """
    cdef Py_ssize_t t, n = span.hi - span.lo, step = stride * x.s1
    cdef const T *src
    if row == NULL:
        for t in range(span.count):
            dst[t] = <T> 0
        return
    src = row + span.at * x.s1 + span.lo * step
    if span.lo > 0:
        _fill(x, row, span.at, stride, 0, span.lo, dst, 1)
    if ends:
        pass
    elif step == 1:
        _copy(src, n, dst + span.lo)
    elif step == 2:
        _every_second(src, n, dst + span.lo, x.limit)
    else:
        for t in range(n):
            dst[span.lo + t] = src[t * step]
    if span.hi < span.count:
        _fill(x, row, span.at, stride, span.hi, span.count, dst, 1)


cdef void _gather(
    const Image *x, const Axis *rows, Py_ssize_t rb, const Axis *cols, Py_ssize_t cb,
    const Block *block, Py_ssize_t c0, Py_ssize_t c1, T *dst,
    Py_ssize_t image_ld, Py_ssize_t channel_ld, Py_ssize_t row_ld,
) noexcept nogil:
    """Bring the pixels that a block needs of channels [c0, c1) into dst, slot by slot."""
    cdef Py_ssize_t g, h, h0, s, n, c, i, spans, _step, _length, step = cols.stride * x.s1
    cdef bint turned = x.sc == 1 and x.comps == 1 and x.s1 != 1     # channels lie innermost
    cdef const T *row
    cdef T *line
    cdef Span span[SPANS]
    h0 = cols.blocks[4 * cb + 2]
    while h0 < cols.blocks[4 * cb + 3]:
        spans = _spans(x, cols, cb, h0, block.j0, block.nj, span)
        for g in range(rows.blocks[4 * rb + 2], rows.blocks[4 * rb + 3]):
            for s in range(rows.groups[3 * g + 2] + block.ni):
                i = rows.groups[3 * g + 1] + (block.i0 + s) * rows.stride
                i = run_at(i, x.H, x.bound0, &_step, &_length)
                line = dst + (rows.groups[3 * g]
                              + (g - rows.blocks[4 * rb + 2]) * block.ni + s) * row_ld
                for n in range(block.images):
                    if turned and i >= 0:
                        row = x.data + (block.n0 + n) * x.sn + c0 + i * x.s0
                        for h in range(spans):
                            _transpose(row + span[h].at * x.s1 + span[h].lo * step, step, 1,
                                       span[h].hi - span[h].lo, c1 - c0,
                                       line + n * image_ld + span[h].slot + span[h].lo, channel_ld)
                    for c in range(c0, c1):
                        row = NULL
                        if i >= 0:
                            row = x.data + (block.n0 + n) * x.sn + _channel(x, c) + i * x.s0
                        for h in range(spans):
                            _gather_line(x, row, span + h, cols.stride, turned,
                                         line + n * image_ld + (c - c0) * channel_ld
                                         + span[h].slot)
        h0 += spans


# ---------------------------------------------------------------- the layer

cdef struct Room:           # of a worker's scratch, in lanes
    Py_ssize_t pixels
    Py_ssize_t panel
    Py_ssize_t ld               # of a block's sums
    Py_ssize_t sums
    Py_ssize_t total


cdef struct Job:
    Image x
    Image y
    Axis rows
    Axis cols
    const cnp.intp_t *chunks    # (·, 4): channels from, to; block of rows, of columns
    Py_ssize_t n_chunks
    const T *w
    Py_ssize_t ws[5]            # strides of (group, m, c, a, b), in lanes
    const T *bias
    bint relu                   # negative outputs become 0
    T *packed
    Py_ssize_t groups
    Py_ssize_t M                # of a group
    Py_ssize_t C
    Py_ssize_t K                # with the bias
    Py_ssize_t panels           # of rows m
    bint by_chunk               # how weights are packed: in the order in which they lie
    Py_ssize_t parts            # tasks that share the panels
    Py_ssize_t tile[3]          # images, rows and columns of a block
    Py_ssize_t tiles[3]         # blocks
    bint in_place               # the image itself can be read as if it were the scratch
    Py_ssize_t depth            # most k of a chunk
    bint apart                  # results are summed in the scratch, as y holds them scattered
    bint own                    # what lies between pixels of y is nobody else's meanwhile
    Room room


cdef inline Py_ssize_t _taps(const Axis *axis, Py_ssize_t block) noexcept nogil:
    return axis.blocks[4 * block + 1] - axis.blocks[4 * block]


cdef inline Py_ssize_t _depth(const Job *job, Py_ssize_t chunk) noexcept nogil:
    """Number of k in a chunk; the bias is one more, in the last."""
    cdef const cnp.intp_t *ch = job.chunks + 4 * chunk
    return ((ch[1] - ch[0]) * _taps(&job.rows, ch[2]) * _taps(&job.cols, ch[3])
            + (job.bias != NULL and chunk == job.n_chunks - 1))


cdef inline T *_panel(
    const Job *job, Py_ssize_t group, Py_ssize_t k0, Py_ssize_t m0, Py_ssize_t depth,
) noexcept nogil:
    """Where the weights of a chunk lie, for the panel of rows that begins with m0."""
    return job.packed + (group * job.K + k0) * job.M + m0 * depth


cdef inline void _pack_panel(
    const Job *job, Py_ssize_t group, const cnp.intp_t *ch, Py_ssize_t c0, Py_ssize_t c1,
    Py_ssize_t m0, Py_ssize_t rows, T *dst,
) noexcept nogil:
    """For every k of channels [c0, c1) of a chunk the weights of a panel's rows."""
    cdef Py_ssize_t nc = c1 - c0, na = _taps(&job.rows, ch[2]), nb = _taps(&job.cols, ch[3])
    cdef Py_ssize_t c, a, b
    cdef const T *w = (job.w + group * job.ws[0] + m0 * job.ws[1] + c0 * job.ws[2]
                       + job.rows.blocks[4 * ch[2]] * job.ws[3]
                       + job.cols.blocks[4 * ch[3]] * job.ws[4])
    dst += (c0 - ch[0]) * na * nb * rows
    # Axes that lie one behind the other are one.
    if job.ws[3] == nb * job.ws[4] or na == 1:
        nb *= na
        na = 1
        if job.ws[2] == nb * job.ws[4]:
            nb *= nc
            nc = 1
    if job.ws[1] == 1:
        for c in range(nc):
            for a in range(na):
                for b in range(nb):
                    _copy(w + c * job.ws[2] + a * job.ws[3] + b * job.ws[4], rows, dst)
                    dst += rows
        return
    for c in range(nc):
        for a in range(na):
            _transpose(w + c * job.ws[2] + a * job.ws[3], job.ws[1], job.ws[4], rows, nb, dst, rows)
            dst += rows * nb


cdef void _pack_weights(const void *given, Py_ssize_t number, T *scratch) noexcept nogil:
    """One panel of one group; or, where rows lie closer than channels, one chunk of one group."""
    cdef const Job *job = <const Job *> given
    cdef Py_ssize_t group, n, c, p, m0, rows, depth, k0 = 0
    cdef const cnp.intp_t *ch
    if job.by_chunk:
        group = number // job.n_chunks
        number = number % job.n_chunks
        for n in range(number):
            k0 += _depth(job, n)
        ch = job.chunks + 4 * number
        depth = _depth(job, number)
        for c in range(ch[0], ch[1]):
            m0 = 0
            for p in range(job.panels):
                rows = job.M // job.panels + (p < job.M % job.panels)
                _pack_panel(job, group, ch, c, c + 1, m0, rows, _panel(job, group, k0, m0, depth))
                m0 += rows
    else:
        group = number // job.panels
        p = number % job.panels
        m0 = _part(job.M, job.panels, p)
        rows = _part(job.M, job.panels, p + 1) - m0
        for n in range(job.n_chunks):
            ch = job.chunks + 4 * n
            depth = _depth(job, n)
            _pack_panel(job, group, ch, ch[0], ch[1], m0, rows, _panel(job, group, k0, m0, depth))
            k0 += depth


cdef void _pack_bias(const Job *job) noexcept nogil:
    """The last k of all: the bias, which meets ones."""
    cdef Py_ssize_t group, p, m, m0, m1, depth = _depth(job, job.n_chunks - 1)
    cdef T *dst
    for group in range(job.groups):
        for p in range(job.panels):
            m0 = _part(job.M, job.panels, p)
            m1 = _part(job.M, job.panels, p + 1)
            dst = _panel(job, group, job.K - depth, m0, depth) + (depth - 1) * (m1 - m0)
            for m in range(m0, m1):
                dst[m - m0] = job.bias[group * job.M + m]


# Pixels of a panel that are neighbours in the scratch and in y.
cdef struct Run:
    Py_ssize_t src
    Py_ssize_t dst
    Py_ssize_t lane
    Py_ssize_t n


cdef inline void _pack_runs(
    const T *src, const Py_ssize_t *off, Py_ssize_t depth, const Run *run, const int runs, T *dst,
) noexcept nogil:
    """`_pack_pixels` for so many runs: a literal, so that they stay in registers."""
    cdef Py_ssize_t k
    cdef int r
    cdef Run here[4]
    for r in range(runs):
        here[r] = run[r]
    for k in range(depth):
        for r in range(runs):
            vstore(dst + here[r].lane, vload(src + off[k] + here[r].src))
            if here[r].n > V:
                vstore(dst + here[r].lane + V, vload(src + off[k] + here[r].src + V))
        dst += 2 * V


cdef void _pack_pixels(
    const T *src, const Py_ssize_t *off, Py_ssize_t depth, const Run *run, int runs,
    const T *limit, bint ones, T *dst,
) noexcept nogil:
    """For every k the pixels of a panel: dst[k] = src[off[k] + …].

    Whole vectors are copied, and what they bring beyond a run's end is overwritten by the next
    run or the next k; a run is copied pixel by pixel where they would go beyond `limit`.
    """
    cdef Py_ssize_t k, r, t, W = 2 * V
    cdef const T *p
    cdef T *q
    if limit == NULL and runs == 1:
        _pack_runs(src, off, depth, run, 1, dst)
    elif limit == NULL and runs == 2:
        _pack_runs(src, off, depth, run, 2, dst)
    elif limit == NULL and runs == 3:
        _pack_runs(src, off, depth, run, 3, dst)
    else:
        for k in range(depth):
            for r in range(runs):
                p = src + off[k] + run[r].src
                q = dst + k * W + run[r].lane
                if limit == NULL or p + W <= limit:
                    vstore(q, vload(p))
                    vstore(q + V, vload(p + V))
                else:
                    for t in range(run[r].n):
                        q[t] = p[t]
    if ones:
        for t in range(W):
            dst[depth * W + t] = <T> 1


cdef int _runs(
    const Job *job, const Block *block, Py_ssize_t q, Py_ssize_t image_ld, Py_ssize_t row_ld,
    Run *run,
) noexcept nogil:
    """The runs of the panel that begins with pixel q of the block; their number."""
    cdef Py_ssize_t lane = 0, i, j, n, left = block.images * block.ni * block.nj - q
    cdef int r = 0
    j = q % block.nj
    i = q // block.nj
    left = min(left, 2 * V)
    while lane < left:
        n = i // block.ni
        run[r].lane = lane
        run[r].n = min(block.nj - j, left - lane)
        run[r].src = n * image_ld + i % block.ni * row_ld + j
        run[r].dst = ((block.n0 + n) * job.y.sn + (block.i0 + i % block.ni) * job.y.s0
                      + (block.j0 + j) * job.y.s1)
        lane += run[r].n
        j = 0
        i += 1
        if (r > 0 and run[r].src == run[r - 1].src + run[r - 1].n
                and run[r].dst == run[r - 1].dst + run[r - 1].n * job.y.s1):
            run[r - 1].n += run[r].n
        else:
            r += 1
    return r


cdef inline bint _contiguous(const Image *y, const Run *run, int runs) noexcept nogil:
    """Whether a panel lies in y as it lies in the tile."""
    cdef int r
    if y.s1 != 1 or y.comps != 1:
        return False
    for r in range(1, runs):
        if run[r].dst != run[0].dst + run[r].lane:
            return False
    return True


cdef void _rectify(T *dst, Py_ssize_t ld, Py_ssize_t rows) noexcept nogil:
    """Negative numbers and -0.0 become 0, NaN stays: for rows of two vectors."""
    cdef Py_ssize_t m
    for m in range(rows):
        vstore(dst + m * ld, vrelu(vload(dst + m * ld)))
        vstore(dst + m * ld + V, vrelu(vload(dst + m * ld + V)))


cdef void _scatter(
    const Image *y, T *tile, Py_ssize_t channel, Py_ssize_t rows, const Run *run, int runs,
    bint add, bint relu,
) noexcept nogil:
    """Write a tile to y run by run; what y holds is added to it first, if so wanted."""
    cdef Py_ssize_t m, t
    cdef int r
    cdef T *dst
    cdef T *p
    for m in range(rows):
        for r in range(runs):
            dst = y.data + _channel(y, channel + m) + run[r].dst
            p = tile + m * 2 * V + run[r].lane
            if add:
                for t in range(run[r].n):
                    p[t] += dst[t * y.s1]
            if relu:
                # Lanes beyond a run belong to the next one, or to nobody.
                for t in range(run[r].n):
                    p[t] = <T> 0 if p[t] <= 0 else p[t]
            for t in range(run[r].n):
                dst[t * y.s1] = p[t]


cdef inline void _spread(const T *src, Py_ssize_t n, T *dst) noexcept nogil:
    """dst[2 * t] = src[t]; what lies between is written again as it was, beyond is untouched."""
    cdef Py_ssize_t t = 0
    cdef vec x, y, z
    while V > 1 and t + V < n:
        x = y = vload(src + t)
        # The steps of a transposition, from single lanes to halves: each lane twice.
        x, y = vfirst(x, x, 1), vsecond(y, y, 1)
        if V > 2:
            z = vfirst(x, y, 2)
            y = vsecond(x, y, 2)
            x = z
        if V > 4:
            z = vfirst(x, y, 4)
            y = vsecond(x, y, 4)
            x = z
        vstore(dst + 2 * t, vsecond(x, vload(dst + 2 * t), 1))
        vstore(dst + 2 * t + V, vsecond(y, vload(dst + 2 * t + V), 1))
        t += V
    while t < n:
        dst[2 * t] = src[t]
        t += 1


cdef void _deliver(
    const Job *job, const Block *block, const T *sums, Py_ssize_t ld, Py_ssize_t channel,
    Py_ssize_t rows,
) noexcept nogil:
    """Write a block's sums, one row of pixels for each row m, to their places in y."""
    cdef const Image *y = &job.y
    cdef Py_ssize_t m, n, i, t, high = block.ni, wide = block.nj
    cdef T *dst
    cdef const T *src
    if y.s0 == wide * y.s1:         # rows lie one behind the other
        high, wide = 1, high * wide
    for n in range(block.images):
        for i in range(high):
            src = sums + (n * high + i) * wide
            dst = (y.data + (block.n0 + n) * y.sn + (block.i0 + i) * y.s0 + block.j0 * y.s1)
            if y.comps == 1 and y.sc == 1:
                _transpose(src, ld, 1, rows, wide, dst + channel, y.s1)
                continue
            for m in range(rows):
                if y.s1 == 1:
                    _copy(src + m * ld, wide, dst + _channel(y, channel + m))
                elif y.s1 == 2 and job.own:
                    _spread(src + m * ld, wide, dst + _channel(y, channel + m))
                else:
                    for t in range(wide):
                        dst[_channel(y, channel + m) + t * y.s1] = src[m * ld + t]


cdef inline Py_ssize_t _source(const Axis *axis, Py_ssize_t tap) noexcept nogil:
    """The coordinate of x at which output 0 meets a tap, where each tap is its own group."""
    return axis.groups[3 * tap + 1]


cdef Room _room(const Job *job) noexcept nogil:
    cdef Room room
    cdef Py_ssize_t n, size
    cdef const cnp.intp_t *ch
    room.pixels = 0
    if not job.in_place:
        for n in range(job.n_chunks):
            ch = job.chunks + 4 * n
            size = (job.tile[0] * (ch[1] - ch[0]) * _slots(&job.rows, ch[2], job.tile[1])
                    * _slots(&job.cols, ch[3], job.tile[2]))
            room.pixels = max(room.pixels, size)
    room.pixels = _round_up(room.pixels + 2 * V, ALIGN)
    room.panel = _round_up((job.depth + 1) * 2 * V, ALIGN)
    room.ld = room.sums = 0
    if job.apart:
        room.ld = _round_up(job.tile[0] * job.tile[1] * job.tile[2], 2 * V)
        room.sums = _ceil(job.panels, job.parts) * M_MAX * room.ld
    room.total = (room.pixels + room.panel + room.sums + M_MAX * 2 * V
                  + _round_up(job.depth * sizeof(Py_ssize_t) // sizeof(T) + 1, ALIGN))
    return room


cdef void _task(const void *given, Py_ssize_t number, T *scratch) noexcept nogil:
    """One block of pixels of one group, for some of the panels of rows."""
    cdef const Job *job = <const Job *> given
    cdef const Room *room = &job.room
    cdef Py_ssize_t part, group, n, c, a, b, k, k0, p, q, p0, p1, m0, m1, depth, pixels, far
    cdef Py_ssize_t image_ld, channel_ld, row_ld, ld, rows, cols, zero = 0
    cdef Block block
    cdef Run run[64]
    cdef int runs
    cdef bint whole, relu, bare
    cdef const cnp.intp_t *ch
    cdef T *panel = scratch + room.pixels
    cdef T *sums = panel + room.panel
    cdef T *tile = sums + room.sums
    cdef Py_ssize_t *off = <Py_ssize_t *> (tile + M_MAX * 2 * V)
    cdef const T *src
    cdef const T *at
    cdef const T *limit
    cdef const T *w
    cdef const Py_ssize_t *row
    cdef T *y
    part = number % job.parts
    number //= job.parts
    block.j0 = number % job.tiles[2]
    number //= job.tiles[2]
    block.i0 = number % job.tiles[1]
    number //= job.tiles[1]
    block.n0 = number % job.tiles[0]
    group = number // job.tiles[0]
    block.n0 *= job.tile[0]
    block.i0 *= job.tile[1]
    block.j0 *= job.tile[2]
    block.images = min(job.tile[0], job.y.N - block.n0)
    block.ni = min(job.tile[1], job.y.H - block.i0)
    block.nj = min(job.tile[2], job.y.W - block.j0)
    pixels = block.images * block.ni * block.nj
    p0 = _part(job.panels, job.parts, part)
    p1 = _part(job.panels, job.parts, part + 1)
    k0 = 0
    for n in range(job.n_chunks):
        ch = job.chunks + 4 * n
        depth = _depth(job, n)
        if job.in_place:
            src = (job.x.data + block.n0 * job.x.sn + (group * job.C + ch[0]) * job.x.sc
                   + block.i0 * job.rows.stride * job.x.s0 + block.j0)
            image_ld, channel_ld = job.x.sn, job.x.sc
            row_ld = job.rows.stride * job.x.s0
        else:
            src = scratch
            row_ld = _slots(&job.cols, ch[3], block.nj)
            channel_ld = row_ld * _slots(&job.rows, ch[2], block.ni)
            image_ld = channel_ld * (ch[1] - ch[0])
            _gather(&job.x, &job.rows, ch[2], &job.cols, ch[3], &block, group * job.C + ch[0],
                    group * job.C + ch[1], scratch, image_ld, channel_ld, row_ld)
        relu = job.relu and n == job.n_chunks - 1
        k = far = 0
        for c in range(ch[1] - ch[0]):
            for a in range(job.rows.blocks[4 * ch[2]], job.rows.blocks[4 * ch[2] + 1]):
                for b in range(job.cols.blocks[4 * ch[3]], job.cols.blocks[4 * ch[3] + 1]):
                    if job.in_place:
                        off[k] = (c * channel_ld + _source(&job.rows, a) * job.x.s0
                                  + _source(&job.cols, b))
                    else:
                        off[k] = (c * channel_ld + _slot(&job.rows, a, block.ni) * row_ld
                                  + _slot(&job.cols, b, block.nj))
                    far = max(far, off[k])
                    k += 1
        # Vectors may reach beyond the last pixel's last tap: of the scratch they may, not of x.
        far += (block.images - 1) * image_ld + (block.ni - 1) * row_ld + block.nj - 1 + 2 * V
        limit = job.x.limit if job.in_place and src + far > job.x.limit else NULL
        w = _panel(job, group, k0, 0, depth)
        q = 0
        while q < pixels:
            runs = _runs(job, &block, q, image_ld, row_ld, run)
            # One panel of rows and pixels side by side: packing them would be read once.
            bare = p1 - p0 == 1 and runs == 1 and limit == NULL and depth == k
            if bare:
                at, row, rows, cols = src + run[0].src, off, depth, 1
            else:
                at, row, rows, cols = panel, &zero, 1, depth
                _pack_pixels(src, off, k, run, runs, limit, depth > k, panel)
            whole = job.apart or pixels - q >= 2 * V and _contiguous(&job.y, run, runs)
            for p in range(p0, p1):
                m0 = _part(job.M, job.panels, p)
                m1 = _part(job.M, job.panels, p + 1)
                ld = room.ld if job.apart else job.y.sc
                if job.apart:
                    y = sums + (m0 - _part(job.M, job.panels, p0)) * ld + q
                else:
                    y = job.y.data + (group * job.M + m0) * ld + run[0].dst
                if whole and n == 0:
                    _tile(w + m0 * depth, at, row, rows, cols, 2 * V, y, ld, m1 - m0, False)
                    if relu:
                        _rectify(y, ld, m1 - m0)
                    continue
                _tile(w + m0 * depth, at, row, rows, cols, 2 * V, tile, 2 * V, m1 - m0,
                      pixels - q <= V)
                if whole:
                    _add(tile, 2 * V, y, ld, m1 - m0)
                    if relu:
                        _rectify(y, ld, m1 - m0)
                else:
                    _scatter(&job.y, tile, group * job.M + m0, m1 - m0, run, runs, n > 0, relu)
            q += 2 * V
        k0 += depth
    if job.apart:
        m0 = _part(job.M, job.panels, p0)
        _deliver(job, &block, sums, room.ld, group * job.M + m0,
                 _part(job.M, job.panels, p1) - m0)


def conv(
    cnp.ndarray x not None,         # IN   (N, groups * C, H, W), of T (pairs of T), any strides
    cnp.ndarray w not None,         # IN   (groups, M, C, kh, kw), of T, any strides
    cnp.ndarray y not None,         # OUT  (N, groups * M, oh, ow), of x's dtype, any strides
    cnp.ndarray bias,               # IN   (groups * M), of T, or None
    rows,                           # stride, taps, groups, blocks: see Axis
    cols,
    cnp.ndarray chunks not None,    # IN   (n, 4) intp: channels from, to; blocks of rows, columns
    tile,                           # images, rows and columns of a block of outputs
    int bound0, int bound1,         # Boundary of each axis
    bint in_place,                  # x itself can be read: no boundary met, taps of one group each
    bint apart,                     # sums are finished in the scratch: y holds them scattered
    bint own,                       # what lies between y's pixels may be written as it was
    bint relu,                      # max(…, 0) of all: of real arrays
    int workers,
):
    """y = x correlated with w, plus bias.  Complex: channels, rows of w, bias count re and im."""
    cdef Job job
    cdef Py_ssize_t n, total, size = sizeof(T)
    cdef int comps = cnp.PyArray_ITEMSIZE(x) // size
    cdef double macs
    cdef void *base = NULL
    cdef void *packed = NULL
    job.x = _image(x, comps, bound0, bound1)
    job.y = _image(y, comps, FILL, FILL)
    job.rows = _axis(rows[0], rows[1], rows[2], rows[3])
    job.cols = _axis(cols[0], cols[1], cols[2], cols[3])
    job.chunks = <const cnp.intp_t *> cnp.PyArray_DATA(chunks)
    job.n_chunks = chunks.shape[0]
    job.w = <const T *> cnp.PyArray_DATA(w)
    for n in range(5):
        job.ws[n] = w.strides[n] // size
    job.apart, job.own, job.relu = apart, own, relu
    job.bias = NULL if bias is None else <T *> cnp.PyArray_DATA(bias)
    job.groups, job.M, job.C = w.shape[0], w.shape[1], w.shape[2]
    job.in_place = in_place
    job.K = job.depth = 0
    for n in range(job.n_chunks):
        job.K += _depth(&job, n)
        job.depth = max(job.depth, _depth(&job, n))
    total = job.groups
    for n in range(3):
        job.tile[n] = tile[n]
        job.tiles[n] = (y.shape[(0, 2, 3)[n]] + job.tile[n] - 1) // job.tile[n]
        total *= job.tiles[n]
    job.panels = (job.M + M_MAX - 1) // M_MAX
    job.by_chunk = job.ws[1] < job.ws[2]
    job.parts = (job.M + M_TASK - 1) // M_TASK
    if total * job.parts < 4 * workers and workers > 1:
        job.parts = min(job.panels, _ceil(4 * workers, total))
    macs = <double> job.y.N * job.y.H * job.y.W * job.groups * job.M * job.K
    if macs > _MOST_MACS * total * job.parts:
        job.parts = min(job.panels, <Py_ssize_t> (macs / (_MOST_MACS * total)) + 1)
    total *= job.parts
    if total == 0:
        return
    job.room = _room(&job)
    try:
        packed = _allocate(job.groups * job.K * job.M)
        base = _allocate(job.room.total * workers)
        job.packed = _aligned(packed)
        _each(_pack_weights, &job, job.groups * (job.n_chunks if job.by_chunk else job.panels),
              8.0 * job.groups * job.K * job.M, 4, 1, NULL, 0, workers)
        if job.bias != NULL:
            _pack_bias(&job)
        _each(_task, &job, total, macs, 4, 1, _aligned(base), job.room.total, workers)
    finally:
        PyMem_RawFree(base)
        PyMem_RawFree(packed)


cdef struct TurnJob:
    const T *src                # (·, M, C, kh, kw)
    T *dst                      # (·, kh, kw, M, C)
    Py_ssize_t ws[5]
    Py_ssize_t M
    Py_ssize_t C
    Py_ssize_t kh
    Py_ssize_t kw


cdef void _turn_task(const void *given, Py_ssize_t number, T *scratch) noexcept nogil:
    cdef const TurnJob *job = <const TurnJob *> given
    cdef Py_ssize_t a, group = number // job.M, m = number % job.M, width = job.M * job.C
    cdef const T *src = job.src + group * job.ws[0] + m * job.ws[1]
    cdef T *dst = job.dst + (group * job.kh * job.kw * job.M + m) * job.C
    if job.ws[3] == job.kw * job.ws[4]:
        _transpose(src, job.ws[2], job.ws[4], job.C, job.kh * job.kw, dst, width)
        return
    for a in range(job.kh):
        _transpose(src + a * job.ws[3], job.ws[2], job.ws[4], job.C, job.kw,
                   dst + a * job.kw * width, width)


def taps_first(
    cnp.ndarray w not None,         # IN   (groups, M, C, kh, kw), of T, any strides
    cnp.ndarray out not None,       # OUT  (groups, kh, kw, M, C), of T, C-contiguous
    int workers,
):
    """The same weights with the taps outermost: phases of the stride read them several times."""
    cdef TurnJob job
    cdef Py_ssize_t n, size = sizeof(T)
    job.M, job.C, job.kh, job.kw = w.shape[1], w.shape[2], w.shape[3], w.shape[4]
    job.src = <const T *> cnp.PyArray_DATA(w)
    job.dst = <T *> cnp.PyArray_DATA(out)
    for n in range(5):
        job.ws[n] = w.strides[n] // size
    _each(_turn_task, &job, w.shape[0] * job.M, 8.0 * w.size, 4, 1, NULL, 0, workers)


# ---------------------------------------------------------------- gradient to the weight

cdef struct GradJob:
    Image x
    Image g
    Axis rows
    Axis cols
    const cnp.intp_t *runs      # (·, 2): taps from, to, whose slots are neighbours
    Py_ssize_t n_runs
    Py_ssize_t groups
    Py_ssize_t M                # of a group
    Py_ssize_t C
    Py_ssize_t m_parts          # tasks that share the rows m, the channels, the rows of taps
    Py_ssize_t c_parts
    Py_ssize_t a_parts
    Py_ssize_t slabs            # of blocks of pixels: one partial sum each,
    Py_ssize_t waves            # taken in so many parts, of which this is the one
    Py_ssize_t wave
    Py_ssize_t tile[3]
    Py_ssize_t tiles[3]
    Py_ssize_t ka
    Py_ssize_t kb
    bint merged                 # neighbouring taps b share vectors
    T *out                      # (slabs, groups * M, C, ka, kb)
    Py_ssize_t room_x           # of the scratch, in lanes
    Py_ssize_t room_g
    Py_ssize_t room_table
    Py_ssize_t room


cdef inline void _bring(
    const T *src, Py_ssize_t ld, Py_ssize_t step, Py_ssize_t rows, Py_ssize_t n,
    T *dst, Py_ssize_t width, const T *limit,
) noexcept nogil:
    """As `_transpose`, but columns up to the next whole vector of them are overwritten, too,
    where x can be read so far."""
    cdef Py_ssize_t t = 0, r, far = max(ld, 0) * (rows - 1) + V
    if ld == 1:
        for t in range(n):
            _copy(src + t * step, rows, dst + t * width)
        return
    if step == 1 and rows >= V:
        while n - t >= min(V, 3) and (t + V <= n or src + t + far <= limit):
            r = 0
            while r < rows:
                r = min(r, rows - V)
                _square(src + r * ld + t, ld, dst + t * width + r, width)
                r += V
            t += V
    if t < n:
        _transpose(src + t * step, ld, step, rows, n - t, dst + t * width, width)


cdef void _gather_channels(
    const Image *x, const Axis *rows, Py_ssize_t rb, const Axis *cols, const Block *block,
    Py_ssize_t c0, Py_ssize_t channels, T *dst, Py_ssize_t row_slots, Py_ssize_t col_slots,
    Py_ssize_t width,
) noexcept nogil:
    """As `_gather`, with the channels innermost: dst[image, row, column, channel].

    Slots are filled in ascending order; up to V of them beyond the last one are overwritten.
    """
    cdef Py_ssize_t g, h, h0, s, t, n, i, _step, _length
    cdef const T *row
    cdef T *line
    cdef Span span[SPANS]
    _spans(x, cols, 0, 0, block.j0, block.nj, span)
    for n in range(block.images):
        for g in range(rows.blocks[4 * rb + 2], rows.blocks[4 * rb + 3]):
            for s in range(rows.groups[3 * g + 2] + block.ni):
                i = rows.groups[3 * g + 1] + (block.i0 + s) * rows.stride
                i = run_at(i, x.H, x.bound0, &_step, &_length)
                t = (n * row_slots + rows.groups[3 * g]
                     + (g - rows.blocks[4 * rb + 2]) * block.ni + s)
                line = dst + t * col_slots * width
                row = x.data + (block.n0 + n) * x.sn + i * x.s0
                for h in range(cols.blocks[3]):
                    h0 = h // SPANS * SPANS
                    if cols.blocks[3] > SPANS and h == h0:
                        _spans(x, cols, 0, h0, block.j0, block.nj, span)
                    _gather_columns(x, row if i >= 0 else NULL, span + h - h0, cols.stride, c0,
                                    channels, line, width)


cdef inline void _gather_columns(
    const Image *x, const T *row, const Span *span, Py_ssize_t stride, Py_ssize_t c0,
    Py_ssize_t channels, T *dst, Py_ssize_t width,
) noexcept nogil:
    """As `_gather_line`, with the channels innermost."""
    cdef Py_ssize_t c, n = span.hi - span.lo, step = stride * x.s1
    cdef const T *here
    cdef T *middle
    dst += span.slot * width
    if row == NULL:
        _zeros(dst, 0, span.count, channels, width)
        return
    if x.bound1 == FILL:
        _zeros(dst, 0, span.lo, channels, width)
    middle = dst + span.lo * width
    if x.comps == 1:
        _bring(row + c0 * x.sc + span.at * x.s1 + span.lo * step, x.sc, step, channels, n, middle,
               width, x.limit)
    else:
        for c in range(channels):
            here = row + _channel(x, c0 + c) + span.at * x.s1 + span.lo * step
            _transpose(here, 0, step, 1, n, middle + c, width)
    if x.bound1 == FILL:
        _zeros(dst, span.hi, span.count, channels, width)
        return
    for c in range(channels):
        here = row + _channel(x, c0 + c)
        _fill(x, here, span.at, stride, 0, span.lo, dst + c, width)
        _fill(x, here, span.at, stride, span.hi, span.count, dst + c, width)


cdef inline void _zeros(
    T *dst, Py_ssize_t t0, Py_ssize_t t1, Py_ssize_t channels, Py_ssize_t width,
) noexcept nogil:
    cdef Py_ssize_t t, c
    for t in range(t0, t1):
        if channels == 2 * V:
            vstore(dst + t * width, vzero())
            vstore(dst + t * width + V, vzero())
        else:
            for c in range(channels):
                dst[t * width + c] = <T> 0


cdef void _bring_block(
    const Image *g, const Block *block, Py_ssize_t c0, Py_ssize_t channels, T *dst,
    Py_ssize_t width,
) noexcept nogil:
    """For every pixel of a block some of its channels; up to V pixels beyond are overwritten."""
    cdef Py_ssize_t n, i, rows = block.ni, cols = block.nj
    cdef const T *src
    if g.s0 == cols * g.s1:         # rows lie one behind the other
        rows, cols = 1, rows * cols
    for n in range(block.images):
        for i in range(rows):
            src = (g.data + (block.n0 + n) * g.sn + c0 * g.sc + (block.i0 + i) * g.s0
                   + block.j0 * g.s1)
            _bring(src, g.sc, g.s1, channels, cols, dst, width, g.limit)
            dst += cols * width


cdef void _pack_grad(
    const Image *g, const Block *block, Py_ssize_t m0, Py_ssize_t m1, T *dst,
) noexcept nogil:
    """For every pixel of a block its rows [m0, m1)."""
    cdef Py_ssize_t n, i, m, M = m1 - m0
    cdef const T *src
    if g.comps == 1:
        _bring_block(g, block, m0, M, dst, M)
        return
    for n in range(block.images):
        for i in range(block.ni):
            src = g.data + (block.n0 + n) * g.sn + (block.i0 + i) * g.s0 + block.j0 * g.s1
            for m in range(M):
                _transpose(src + _channel(g, m0 + m), 0, g.s1, 1, block.nj, dst + m, M)
            dst += block.nj * M


cdef inline Py_ssize_t _lanes(
    const GradJob *job, Py_ssize_t run, Py_ssize_t channels,
) noexcept nogil:
    """Lanes of the table for one run of taps, whole vectors pairs."""
    cdef Py_ssize_t n = job.runs[2 * run + 1] - job.runs[2 * run]
    if job.merged:
        return _round_up(n * channels, 2 * V)
    return n * _round_up(channels, 2 * V)


cdef void _grad_task(const void *given, Py_ssize_t number, T *scratch) noexcept nogil:
    """One block of the gradient, summed over one slab of the pixels."""
    cdef const GradJob *job = <const GradJob *> given
    cdef Py_ssize_t group, slab, ap, n, r, a, b, c, m, p, t, m0, m1, c0, c1, mi, panels, blocks
    cdef Py_ssize_t rows, row_slots, col_slots, plane, width, width_all, table_ld, lane, at
    cdef Py_ssize_t first, last, done, here, pixels, n0, n1
    cdef Block block
    cdef T *xs = scratch
    cdef T *gs = xs + job.room_x
    cdef T *table = gs + job.room_g
    cdef T *tile = table + job.room_table
    cdef Py_ssize_t *row = <Py_ssize_t *> (tile + M_MAX * 2 * V)
    cdef const T *src
    cdef T *dst
    slab = number % job.slabs
    number //= job.slabs
    ap = number % job.a_parts
    number //= job.a_parts
    c = number % job.c_parts
    number //= job.c_parts
    m = number % job.m_parts
    group = number // job.m_parts
    c0 = _cut(job.C, job.c_parts, c)
    c1 = _cut(job.C, job.c_parts, c + 1)
    m0 = _part(job.M, job.m_parts, m)
    m1 = _part(job.M, job.m_parts, m + 1)
    panels = (m1 - m0 + M_MAX - 1) // M_MAX
    width = c1 - c0 if job.merged else 2 * V
    width_all = 0       # lanes of the table for one row of taps
    for r in range(job.n_runs):
        width_all += _lanes(job, r, c1 - c0)
    table_ld = width_all * _taps(&job.rows, ap)

    blocks = job.tiles[0] * job.tiles[1] * job.tiles[2]
    n0 = _part(blocks, job.slabs, slab)
    n = _part(blocks, job.slabs, slab + 1) - n0
    n1 = n0 + _part(n, job.waves, job.wave + 1)
    n0 += _part(n, job.waves, job.wave)
    for n in range(n0, n1):
        block.j0 = n % job.tiles[2] * job.tile[2]
        block.i0 = n // job.tiles[2] % job.tiles[1] * job.tile[1]
        block.n0 = n // (job.tiles[2] * job.tiles[1]) * job.tile[0]
        block.images = min(job.tile[0], job.g.N - block.n0)
        block.ni = min(job.tile[1], job.g.H - block.i0)
        block.nj = min(job.tile[2], job.g.W - block.j0)
        pixels = block.images * block.ni * block.nj
        row_slots = _slots(&job.rows, ap, block.ni)
        col_slots = _slots(&job.cols, 0, block.nj)
        plane = block.images * row_slots * col_slots
        c = c0
        while c < c1:
            here = c1 - c if job.merged else min(c1 - c, 2 * V)
            _gather_channels(&job.x, &job.rows, ap, &job.cols, &block, group * job.C + c, here,
                             xs + (c - c0) * plane, row_slots, col_slots, width)
            c += here
        for p in range(panels):
            mi = _part(m1 - m0, panels, p)
            _pack_grad(&job.g, &block, group * job.M + m0 + mi,
                       group * job.M + m0 + _part(m1 - m0, panels, p + 1), gs + mi * pixels)
        rows = 0
        for t in range(block.images):
            for r in range(block.ni):
                row[rows] = (t * row_slots + r) * col_slots * width
                rows += 1
        for a in range(_taps(&job.rows, ap)):
            lane = a * width_all
            at = _slot(&job.rows, job.rows.blocks[4 * ap] + a, block.ni) * col_slots
            for r in range(job.n_runs):
                first, last = job.runs[2 * r], job.runs[2 * r + 1]
                b = first
                while b < last:
                    # All taps of the run at once, or one tap.
                    done = 0
                    here = (last - first) * width if job.merged else c1 - c0
                    while done < here:
                        src = xs + (at + _slot(&job.cols, b, block.nj)) * width
                        src += done if job.merged else done * plane
                        for p in range(panels):
                            mi = _part(m1 - m0, panels, p)
                            t = _part(m1 - m0, panels, p + 1) - mi
                            dst = table + mi * table_ld + lane
                            if n == n0:
                                _tile(gs + mi * pixels, src, row, rows, block.nj, width,
                                      dst, table_ld, t, here - done <= V)
                                continue
                            _tile(gs + mi * pixels, src, row, rows, block.nj, width,
                                  tile, 2 * V, t, here - done <= V)
                            if here - done <= V:
                                for m in range(t):
                                    vstore(dst + m * table_ld,
                                           vload(dst + m * table_ld) + vload(tile + m * 2 * V))
                            else:
                                _add(tile, 2 * V, dst, table_ld, t)
                        done += 2 * V
                        lane += 2 * V
                    b = last if job.merged else b + 1

    # From the table's order (m, a, run, lane) to that of the weight.
    for m in range(m1 - m0):
        dst = job.out + ((slab * job.groups + group) * job.M + m0 + m) * job.C * job.ka * job.kb
        for a in range(_taps(&job.rows, ap)):
            lane = m * table_ld + a * width_all
            for r in range(job.n_runs):
                for b in range(job.runs[2 * r], job.runs[2 * r + 1]):
                    at = (b - job.runs[2 * r]) * (width if job.merged
                                                  else _round_up(c1 - c0, 2 * V))
                    if job.ka * job.kb == 1 and job.wave == 0:
                        _copy(table + lane + at, c1 - c0, dst + c0)
                        continue
                    src = table + lane + at
                    t = (c0 * job.ka + job.rows.blocks[4 * ap] + a) * job.kb + b
                    if job.wave == 0:
                        for c in range(c1 - c0):
                            dst[t + c * job.ka * job.kb] = src[c]
                    else:
                        for c in range(c1 - c0):
                            dst[t + c * job.ka * job.kb] += src[c]
                lane += _lanes(job, r, c1 - c0)


cdef inline Py_ssize_t _cut(Py_ssize_t n, Py_ssize_t parts, Py_ssize_t number) noexcept nogil:
    """As `_part`, in whole pairs of vectors."""
    return min(_part(_ceil(n, 2 * V), parts, number) * 2 * V, n)


def conv_weight_grad(
    cnp.ndarray x not None,         # IN   (N, groups * C, H, W), of T (pairs of T), any strides
    cnp.ndarray g not None,         # IN   (N, groups * M, oh, ow), likewise
    cnp.ndarray out not None,       # OUT  (slabs, groups, M, C, kh, kw), of T, C-contiguous
    rows,                           # see conv; a row block per part, one column block,
    cols,            # its taps in ascending slots
    cnp.ndarray runs not None,      # IN   (n, 2) intp: columns of taps from, to, neighbours
    bint merged,                    # … that share vectors
    tile,                           # images, rows and columns of a block of pixels
    Py_ssize_t m_parts, Py_ssize_t c_parts,
    int bound0, int bound1,
    int workers,
):
    """out[s] = gradient to the weight from slab s of the pixels; b in the order of cols' taps."""
    cdef GradJob job
    cdef Py_ssize_t n, total, size = sizeof(T), channels, ms, plane, lanes = 0
    cdef int comps = cnp.PyArray_ITEMSIZE(x) // size
    cdef double macs
    cdef void *base
    job.x = _image(x, comps, bound0, bound1)
    job.g = _image(g, comps, FILL, FILL)
    job.rows = _axis(rows[0], rows[1], rows[2], rows[3])
    job.cols = _axis(cols[0], cols[1], cols[2], cols[3])
    job.runs = <const cnp.intp_t *> cnp.PyArray_DATA(runs)
    job.n_runs = runs.shape[0]
    job.merged = merged
    job.out = <T *> cnp.PyArray_DATA(out)
    job.slabs, job.groups, job.M, job.C = out.shape[0], out.shape[1], out.shape[2], out.shape[3]
    job.ka, job.kb = out.shape[4], out.shape[5]
    job.m_parts, job.c_parts, job.a_parts = m_parts, c_parts, rows[3].shape[0]
    for n in range(3):
        job.tile[n] = tile[n]
        job.tiles[n] = (g.shape[(0, 2, 3)[n]] + job.tile[n] - 1) // job.tile[n]
    total = job.groups * job.m_parts * job.c_parts * job.a_parts * job.slabs
    if total == 0:
        return
    channels = 0
    for n in range(job.c_parts):
        channels = max(channels, _cut(job.C, job.c_parts, n + 1) - _cut(job.C, job.c_parts, n))
    ms = _ceil(job.M, job.m_parts)
    for n in range(job.n_runs):
        lanes += _lanes(&job, n, channels)
    job.room_x = job.room_table = 0
    for n in range(job.a_parts):
        plane = (job.tile[0] * _slots(&job.rows, n, job.tile[1])
                 * _slots(&job.cols, 0, job.tile[2]))
        job.room_x = max(job.room_x, plane)
        job.room_table = max(job.room_table, ms * lanes * _taps(&job.rows, n))
    job.room_x *= channels if merged else _round_up(channels, 2 * V)
    # Vectors reach beyond the last pixel, and squares beyond the last row of pixels.
    job.room_x += V * (channels if merged else 2 * V)
    job.room_x = _round_up(job.room_x + 2 * V, ALIGN)
    job.room_table = _round_up(job.room_table, ALIGN)
    job.room_g = ms * job.tile[0] * job.tile[1] * job.tile[2] + V * M_MAX
    job.room_g = _round_up(job.room_g, ALIGN)
    job.room = (job.room_x + job.room_g + job.room_table + M_MAX * 2 * V
                + _round_up(job.tile[0] * job.tile[1] * sizeof(Py_ssize_t) // sizeof(T) + 1, ALIGN))
    macs = <double> job.g.N * job.g.H * job.g.W * job.groups * job.M * job.C * job.ka * job.kb
    base = _allocate(job.room * workers)
    n = job.tiles[0] * job.tiles[1] * job.tiles[2] // job.slabs
    job.waves = _waves(macs / total, n)
    try:
        for job.wave in range(job.waves):
            _each(_grad_task, &job, total, macs / job.waves, 1, 1, _aligned(base), job.room,
                  workers)
    finally:
        PyMem_RawFree(base)


# ---------------------------------------------------------------- channels that do not mix

include "depthwise.pxi"
