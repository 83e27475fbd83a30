"""Channels that do not mix: included by conv.pyx.

    y[n, c, i, j]  = sum over a, b of     X[n, c, i*s0 + oa[a], j*s1 + ob[b]] * w[c, a, b]
    dw[c, a, b]    = sum over n, i, j of  X[n, c, i*s0 + oa[a], j*s1 + ob[b]] * g[n, c, i, j]

Lanes are channels, 2 V of them at a time: so neither the stride, nor how small an image is, costs
anything, and padding is zeros between pixels.  A block of x is brought into the scratch with its
channels innermost (`_gather_channels`), outputs are summed tap by tap in registers (`_apart_tile`)
into a strip with channels innermost, and a strip goes to y by transposition.

The gradient to the input has phases: the coordinates that are congruent modulo the stride, each
with its taps.  All phases meet in the strip.

Order of summation: an output is one chain of all its taps, a row after the other.  An element of
the weight's gradient is a chain of pixels in the lanes' type, of at most a block; the chains are
added in double precision.
"""


cdef enum:
    P_APART = 7         # pixels of the tile: sizes of images are multiples of 7 so often
    STRIP = 64          # pixels of a strip, or one row


cdef struct Apart:
    Image x
    Image y                     # or the gradient to it
    Axis rows                   # of stride 1: every pixel of x between the first and the last
    Axis cols
    const cnp.intp_t *at0       # of each tap: its row of w, its column
    const cnp.intp_t *at1
    const cnp.intp_t *down      # (·, 4): taps from, to; first row of y, number of rows
    const cnp.intp_t *across
    Py_ssize_t n_down
    Py_ssize_t n_across
    Py_ssize_t stride[2]        # of x
    Py_ssize_t step[2]          # of y: from one row of a phase to the next
    const T *w
    Py_ssize_t ws[3]
    const T *bias
    bint relu
    Py_ssize_t channels
    Py_ssize_t n[2]             # rows and columns of a phase, at most
    Py_ssize_t tile[2]          # rows and columns of a block
    Py_ssize_t tiles[3]         # groups of channels, blocks down and across
    Py_ssize_t taps             # of all phases
    Py_ssize_t strip            # rows of a phase
    Py_ssize_t room_x
    Py_ssize_t room_y
    double *out                 # gradient to the weight (slabs, channels, kernel)
    Py_ssize_t slabs
    Py_ssize_t waves            # parts of slabs, of which this is the one
    Py_ssize_t wave
    Py_ssize_t kernel[2]


cdef inline void _apart_store(T *dst, vec v, const T *bias, bint relu) noexcept nogil:
    if bias != NULL:
        v = v + vload(bias)
    vstore(dst, vrelu(v) if relu else v)


cdef inline void _apart_tile(
    const T *src, Py_ssize_t ld, const Py_ssize_t *off, const T *w, Py_ssize_t taps,
    const T *bias, bint relu, T *dst, Py_ssize_t dst_ld, const int P,
) noexcept nogil:
    """P pixels of two vectors of channels: P is a literal."""
    cdef Sums c
    cdef Py_ssize_t k
    cdef const T *p
    cdef const T *q
    cdef vec v, u
    c.s0 = c.s1 = c.s2 = c.s3 = c.s4 = c.s5 = c.s6 = vzero()
    c.t0 = c.t1 = c.t2 = c.t3 = c.t4 = c.t5 = c.t6 = vzero()
    for k in range(taps):
        p = src + off[k]
        v, u = vload(w), vload(w + V)
        w += 2 * V
        c.s0 = c.s0 + vload(p) * v
        c.t0 = c.t0 + vload(p + V) * u
        if P > 1:
            c.s1 = c.s1 + vload(p + ld) * v
            c.t1 = c.t1 + vload(p + ld + V) * u
        if P > 2:
            c.s2 = c.s2 + vload(p + 2 * ld) * v
            c.t2 = c.t2 + vload(p + 2 * ld + V) * u
        if P > 3:
            q = p + 3 * ld
            c.s3 = c.s3 + vload(q) * v
            c.t3 = c.t3 + vload(q + V) * u
        if P > 4:
            c.s4 = c.s4 + vload(q + ld) * v
            c.t4 = c.t4 + vload(q + ld + V) * u
        if P > 5:
            c.s5 = c.s5 + vload(q + 2 * ld) * v
            c.t5 = c.t5 + vload(q + 2 * ld + V) * u
        if P > 6:
            q = p + 6 * ld
            c.s6 = c.s6 + vload(q) * v
            c.t6 = c.t6 + vload(q + V) * u
    _apart_store(dst, c.s0, bias, relu)
    if P > 1:
        _apart_store(dst + dst_ld, c.s1, bias, relu)
    if P > 2:
        _apart_store(dst + 2 * dst_ld, c.s2, bias, relu)
    if P > 3:
        _apart_store(dst + 3 * dst_ld, c.s3, bias, relu)
    if P > 4:
        _apart_store(dst + 4 * dst_ld, c.s4, bias, relu)
    if P > 5:
        _apart_store(dst + 5 * dst_ld, c.s5, bias, relu)
    if P > 6:
        _apart_store(dst + 6 * dst_ld, c.s6, bias, relu)
    dst += V
    if bias != NULL:
        bias += V
    _apart_store(dst, c.t0, bias, relu)
    if P > 1:
        _apart_store(dst + dst_ld, c.t1, bias, relu)
    if P > 2:
        _apart_store(dst + 2 * dst_ld, c.t2, bias, relu)
    if P > 3:
        _apart_store(dst + 3 * dst_ld, c.t3, bias, relu)
    if P > 4:
        _apart_store(dst + 4 * dst_ld, c.t4, bias, relu)
    if P > 5:
        _apart_store(dst + 5 * dst_ld, c.t5, bias, relu)
    if P > 6:
        _apart_store(dst + 6 * dst_ld, c.t6, bias, relu)


cdef inline void _apart_row(
    const T *src, Py_ssize_t ld, const Py_ssize_t *off, const T *w, Py_ssize_t taps,
    const T *bias, bint relu, Py_ssize_t n, T *dst, Py_ssize_t dst_ld,
) noexcept nogil:
    """A row of n pixels; a tile that would go beyond its end begins with pixels done before."""
    cdef Py_ssize_t j = 0
    while j < n:
        if n - j > 4 and n >= P_APART:
            j = min(j, n - P_APART)
            _apart_tile(src + j * ld, ld, off, w, taps, bias, relu, dst + j * dst_ld, dst_ld,
                        P_APART)
            j += P_APART
        elif n >= 4:
            j = min(j, n - 4)
            _apart_tile(src + j * ld, ld, off, w, taps, bias, relu, dst + j * dst_ld, dst_ld, 4)
            j += 4
        else:
            _apart_tile(src + j * ld, ld, off, w, taps, bias, relu, dst + j * dst_ld, dst_ld, 1)
            j += 1


cdef void _apart_write(
    const Image *y, const T *strip, Py_ssize_t c0, Py_ssize_t channels, Py_ssize_t n0,
    Py_ssize_t i0, Py_ssize_t rows, Py_ssize_t j0, Py_ssize_t cols,
) noexcept nogil:
    """A strip of so many rows and columns to its place in y."""
    cdef Py_ssize_t i, j, c
    cdef const T *p
    cdef T *dst = y.data + n0 * y.sn + c0 * y.sc + i0 * y.s0 + j0 * y.s1
    if y.s1 == 1 and (y.s0 == cols or rows == 1):
        _transpose(strip, 2 * V, 1, rows * cols, channels, dst, y.sc)
        return
    for i in range(rows):
        if y.s1 == 1:
            _transpose(strip, 2 * V, 1, cols, channels, dst, y.sc)
        elif y.sc == 1:
            for j in range(cols):
                _copy(strip + j * 2 * V, channels, dst + j * y.s1)
        else:
            for c in range(channels):
                for j in range(cols):
                    dst[c * y.sc + j * y.s1] = strip[j * 2 * V + c]
        strip += cols * 2 * V
        dst += y.s0


cdef inline Py_ssize_t _apart_block(
    const Apart *job, Py_ssize_t number, Block *block, Block *source,
) noexcept nogil:
    """A block of outputs (of each phase) and what it needs of x; the group of channels."""
    block.j0 = number % job.tiles[2] * job.tile[1]
    number //= job.tiles[2]
    block.i0 = number % job.tiles[1] * job.tile[0]
    number //= job.tiles[1]
    block.n0 = number // job.tiles[0]
    block.images = source.images = 1
    block.ni = min(job.tile[0], job.n[0] - block.i0)
    block.nj = min(job.tile[1], job.n[1] - block.j0)
    source.n0 = block.n0
    source.i0, source.ni = block.i0 * job.stride[0], (block.ni - 1) * job.stride[0] + 1
    source.j0, source.nj = block.j0 * job.stride[1], (block.nj - 1) * job.stride[1] + 1
    return number % job.tiles[0] * 2 * V


cdef void _apart_task(const void *given, Py_ssize_t number, T *scratch) noexcept nogil:
    """A block of rows and columns of an image, for some of its channels."""
    cdef const Apart *job = <const Apart *> given
    cdef Py_ssize_t c, c0, channels, d, e, a, b, i, j, k, n, ld, row_slots, col_slots, first, last
    cdef Py_ssize_t width = 2 * V, wide, v0, i0, taps
    cdef Block block, source
    cdef const cnp.intp_t *down
    cdef const cnp.intp_t *across
    cdef T *strip = scratch + job.room_x
    cdef T *w = strip + job.room_y
    cdef T *bias = w + job.taps * width
    cdef Py_ssize_t *off = <Py_ssize_t *> (bias + width)
    cdef T *to
    c0 = _apart_block(job, number, &block, &source)
    channels = min(job.channels - c0, width)
    row_slots = _slots(&job.rows, 0, source.ni)
    col_slots = _slots(&job.cols, 0, source.nj)
    _gather_channels(&job.x, &job.rows, 0, &job.cols, &source, c0, channels, scratch,
                     row_slots, col_slots, width)
    k = 0
    for d in range(job.n_down):
        for e in range(job.n_across):
            for a in range(job.down[4 * d], job.down[4 * d + 1]):
                for b in range(job.across[4 * e], job.across[4 * e + 1]):
                    off[k] = (_slot(&job.rows, a, source.ni) * col_slots
                              + _slot(&job.cols, b, source.nj)) * width
                    for c in range(channels):
                        w[k * width + c] = job.w[(c0 + c) * job.ws[0] + job.at0[a] * job.ws[1]
                                                 + job.at1[b] * job.ws[2]]
                    k += 1
    if job.bias != NULL:
        for c in range(channels):
            bias[c] = job.bias[c0 + c]
    else:
        bias = NULL
    # The columns of y that the phases of the block make up.
    v0 = block.j0 * job.step[1]
    wide = min(block.nj * job.step[1], job.y.W - v0)
    ld = job.stride[0] * col_slots * width
    i0 = 0
    while i0 < block.ni:
        first = (block.i0 + i0) * job.step[0]
        last = min((block.i0 + min(i0 + job.strip, block.ni)) * job.step[0], job.y.H)
        if job.n_down < job.step[0] or job.n_across < job.step[1]:
            for k in range((last - first) * wide * width):
                strip[k] = 0
        k = 0
        for d in range(job.n_down):
            down = job.down + 4 * d
            for e in range(job.n_across):
                across = job.across + 4 * e
                taps = (down[1] - down[0]) * (across[1] - across[0])
                n = min(block.nj, across[3] - block.j0)
                for i in range(i0, min(i0 + job.strip, block.ni)):
                    j = down[2] + (block.i0 + i) * job.step[0] - first
                    if block.i0 + i < down[3]:
                        to = strip + (j * wide + across[2]) * width
                        _apart_row(scratch + i * ld, job.stride[1] * width, off + k, w + k * width,
                                   taps, bias, job.relu, n, to, job.step[1] * width)
                k += taps
        _apart_write(&job.y, strip, c0, channels, block.n0, first, last - first, v0, wide)
        i0 += job.strip


cdef int _apart_job(
    Apart *job, cnp.ndarray x, cnp.ndarray y, rows, cols, stride, tile, int bound0, int bound1,
) except -1:
    """What both calls have in common."""
    cdef Py_ssize_t n
    job.x = _image(x, 1, bound0, bound1)
    job.y = _image(y, 1, FILL, FILL)
    job.rows = _axis(1, rows[0], rows[1], rows[2])
    job.cols = _axis(1, cols[0], cols[1], cols[2])
    job.channels = x.shape[1]
    job.tiles[0] = _ceil(job.channels, 2 * V)
    for n in range(2):
        job.stride[n], job.tile[n] = stride[n], tile[n]
        job.tiles[1 + n] = _ceil(job.n[n], job.tile[n])
    n = _slots(&job.rows, 0, (job.tile[0] - 1) * job.stride[0] + 1)
    n *= _slots(&job.cols, 0, (job.tile[1] - 1) * job.stride[1] + 1)
    job.room_x = _round_up((n + V) * 2 * V, ALIGN)
    return 0


def depthwise(
    cnp.ndarray x not None,         # IN   (N, C, H, W), of T, any strides
    cnp.ndarray w not None,         # IN   (C, kh, kw), of T, any strides
    cnp.ndarray y not None,         # OUT  (N, C, oh, ow), of T, any strides
    cnp.ndarray bias,               # IN   (C), of T, or None
    rows,                           # taps, groups, blocks: see Axis; stride 1, one block
    cols,
    down,                           # taps' rows of w, phases, rows of y between them: see Apart
    across,
    stride, tile,                   # rows and columns of a block
    int bound0, int bound1,         # Boundary of each axis
    bint relu,                      # max(…, 0) of all
    int workers,
):
    """y = each channel of x correlated with its kernel, plus the bias."""
    cdef Apart job
    cdef cnp.ndarray at0 = down[0], at1 = across[0], table0 = down[1], table1 = across[1]
    cdef Py_ssize_t n, room, total, size = sizeof(T)
    cdef double macs
    cdef void *base
    job.at0, job.at1 = <const cnp.intp_t *> at0.data, <const cnp.intp_t *> at1.data
    job.down, job.across = <const cnp.intp_t *> table0.data, <const cnp.intp_t *> table1.data
    job.n_down, job.n_across = table0.shape[0], table1.shape[0]
    job.step[0], job.step[1] = down[2], across[2]
    job.n[0] = _ceil(y.shape[2], job.step[0])
    job.n[1] = _ceil(y.shape[3], job.step[1])
    job.w = <const T *> cnp.PyArray_DATA(w)
    for n in range(3):
        job.ws[n] = w.strides[n] // size
    job.bias = NULL if bias is None else <T *> cnp.PyArray_DATA(bias)
    job.relu = relu
    _apart_job(&job, x, y, rows, cols, stride, tile, bound0, bound1)
    total = job.y.N * job.tiles[0] * job.tiles[1] * job.tiles[2]
    if total == 0:
        return
    job.taps = at0.shape[0] * at1.shape[0]
    n = job.tile[1] * job.step[1]
    job.strip = max(1, STRIP // (n * job.step[0]))
    job.room_y = _round_up(job.strip * job.step[0] * n * 2 * V, ALIGN)
    room = (job.room_x + job.room_y + (job.taps + 1) * 2 * V
            + _round_up(job.taps * <Py_ssize_t> sizeof(Py_ssize_t) // size + 1, ALIGN))
    room = _round_up(room, ALIGN)
    macs = <double> job.y.N * job.channels * job.n[0] * job.n[1] * job.taps
    base = _allocate(room * workers)
    try:
        _each(_apart_task, &job, total, macs, 4, 1, _aligned(base), room, workers)
    finally:
        PyMem_RawFree(base)


# ---------------------------------------------------------------- gradient to the weight

cdef inline void _apart_dots(
    const T *src, Py_ssize_t row_ld, Py_ssize_t ld, const Py_ssize_t *off0, const Py_ssize_t *off1,
    const T *g, Py_ssize_t rows, Py_ssize_t cols, double *sums, Py_ssize_t sums_ld,
    const int A, const int B,
) noexcept nogil:
    """sums[a, b] += x shifted by off0[a] + off1[b], times g: A x B vectors, both literals."""
    cdef vec s00, s01, s02, s10, s11, s12, s20, s21, s22, v
    cdef Py_ssize_t i, _j, o0 = off1[0], o1 = off1[B > 1], o2 = off1[2 if B > 2 else 0]
    cdef const T *p
    cdef const T *q
    cdef const T *r
    s00 = s01 = s02 = s10 = s11 = s12 = s20 = s21 = s22 = vzero()
    for i in range(rows):
        p = src + i * row_ld + off0[0]
        q = src + i * row_ld + off0[A > 1]
        r = src + i * row_ld + off0[2 if A > 2 else 0]
        for _j in range(cols):
            v = vload(g)
            g += 2 * V
            s00 = s00 + vload(p + o0) * v
            if B > 1:
                s01 = s01 + vload(p + o1) * v
            if B > 2:
                s02 = s02 + vload(p + o2) * v
            if A > 1:
                s10 = s10 + vload(q + o0) * v
                if B > 1:
                    s11 = s11 + vload(q + o1) * v
                if B > 2:
                    s12 = s12 + vload(q + o2) * v
            if A > 2:
                s20 = s20 + vload(r + o0) * v
                if B > 1:
                    s21 = s21 + vload(r + o1) * v
                if B > 2:
                    s22 = s22 + vload(r + o2) * v
            p += ld
            q += ld
            r += ld
    _accumulate(sums, s00)
    if B > 1:
        _accumulate(sums + 2 * V, s01)
    if B > 2:
        _accumulate(sums + 4 * V, s02)
    if A > 1:
        _accumulate(sums + sums_ld, s10)
        if B > 1:
            _accumulate(sums + sums_ld + 2 * V, s11)
        if B > 2:
            _accumulate(sums + sums_ld + 4 * V, s12)
    if A > 2:
        _accumulate(sums + 2 * sums_ld, s20)
        if B > 1:
            _accumulate(sums + 2 * sums_ld + 2 * V, s21)
        if B > 2:
            _accumulate(sums + 2 * sums_ld + 4 * V, s22)


cdef inline void _accumulate(double *sums, vec v) noexcept nogil:
    cdef T lanes[64]
    cdef Py_ssize_t t
    vstore(lanes, v)
    for t in range(V):
        sums[t] += lanes[t]


cdef inline void _apart_dots_of(
    const T *src, Py_ssize_t row_ld, Py_ssize_t ld, const Py_ssize_t *off0, const Py_ssize_t *off1,
    const T *g, Py_ssize_t rows, Py_ssize_t cols, double *sums, Py_ssize_t sums_ld,
    Py_ssize_t b, const int A,
) noexcept nogil:
    if b == 1:
        _apart_dots(src, row_ld, ld, off0, off1, g, rows, cols, sums, sums_ld, A, 1)
    elif b == 2:
        _apart_dots(src, row_ld, ld, off0, off1, g, rows, cols, sums, sums_ld, A, 2)
    else:
        _apart_dots(src, row_ld, ld, off0, off1, g, rows, cols, sums, sums_ld, A, 3)


cdef void _apart_products(
    const T *src, Py_ssize_t row_ld, Py_ssize_t ld, const Py_ssize_t *off0, const Py_ssize_t *off1,
    const T *g, Py_ssize_t rows, Py_ssize_t cols, double *sums, Py_ssize_t kh, Py_ssize_t kw,
) noexcept nogil:
    """All taps for a vector of channels, three rows and three columns of them at a time."""
    cdef Py_ssize_t a = 0, b, high, wide
    while a < kh:
        high = min(kh - a, 3)
        b = 0
        while b < kw:
            wide = min(kw - b, 3)
            if high == 1:
                _apart_dots_of(src, row_ld, ld, off0 + a, off1 + b, g, rows, cols,
                               sums + (a * kw + b) * 2 * V, kw * 2 * V, wide, 1)
            elif high == 2:
                _apart_dots_of(src, row_ld, ld, off0 + a, off1 + b, g, rows, cols,
                               sums + (a * kw + b) * 2 * V, kw * 2 * V, wide, 2)
            else:
                _apart_dots_of(src, row_ld, ld, off0 + a, off1 + b, g, rows, cols,
                               sums + (a * kw + b) * 2 * V, kw * 2 * V, wide, 3)
            b += wide
        a += high


cdef void _apart_grad_task(const void *given, Py_ssize_t number, T *scratch) noexcept nogil:
    """The gradient of some channels, from one slab of the images."""
    cdef const Apart *job = <const Apart *> given
    cdef Py_ssize_t c, c0, channels, a, b, k, n, row_slots, col_slots, blocks, width = 2 * V
    cdef Py_ssize_t kh = job.kernel[0], kw = job.kernel[1], slabs = job.slabs
    cdef Py_ssize_t slab = number % slabs, group = number // slabs, first, last
    cdef double *out
    cdef Block block, source
    cdef T *gs = scratch + job.room_x
    cdef Py_ssize_t *off0 = <Py_ssize_t *> (gs + job.room_y)
    cdef Py_ssize_t *off1 = off0 + kh
    cdef double *sums = <double *> (off1 + kw)
    c0 = group * width
    channels = min(job.channels - c0, width)
    out = job.out + (slab * job.channels + c0) * kh * kw
    for c in range(width):
        for k in range(kh * kw):
            sums[k * width + c] = out[c * kh * kw + k] if job.wave and c < channels else 0
    blocks = job.tiles[1] * job.tiles[2]
    first = _part(job.y.N, slabs, slab) * blocks
    n = _part(job.y.N, slabs, slab + 1) * blocks - first
    last = first + _part(n, job.waves, job.wave + 1)
    first += _part(n, job.waves, job.wave)
    for n in range(first, last):
        k = (n // blocks * job.tiles[0] + group) * blocks + n % blocks
        _apart_block(job, k, &block, &source)
        row_slots = _slots(&job.rows, 0, source.ni)
        col_slots = _slots(&job.cols, 0, source.nj)
        for a in range(kh):
            off0[a] = _slot(&job.rows, a, source.ni) * col_slots * width
        for b in range(kw):
            off1[b] = _slot(&job.cols, b, source.nj) * width
        _gather_channels(&job.x, &job.rows, 0, &job.cols, &source, c0, channels, scratch,
                         row_slots, col_slots, width)
        _bring_block(&job.y, &block, c0, channels, gs, width)
        k = 0
        while k < channels:
            _apart_products(scratch + k, job.stride[0] * col_slots * width, job.stride[1] * width,
                            off0, off1, gs + k, block.ni, block.nj, sums + k, kh, kw)
            k += V
    for c in range(channels):
        for k in range(kh * kw):
            out[c * kh * kw + k] = sums[k * width + c]


def depthwise_weight_grad(
    cnp.ndarray x not None,         # IN   (N, C, H, W), of T, any strides
    cnp.ndarray g not None,         # IN   (N, C, oh, ow), of T, any strides
    cnp.ndarray out not None,       # OUT  (slabs, C, kh, kw), of double, C-contiguous
    rows,                           # taps, groups, blocks: see Axis; stride 1, one block
    cols,
    stride, tile,                   # rows and columns of a block
    int bound0, int bound1,         # Boundary of each axis
    int workers,
):
    """out[s] = gradient to the weight from slab s of the images."""
    cdef Apart job
    cdef Py_ssize_t kh = out.shape[2], kw = out.shape[3], room, total, size = sizeof(T)
    cdef double macs
    cdef void *base
    job.n[0], job.n[1] = g.shape[2], g.shape[3]
    _apart_job(&job, x, g, rows, cols, stride, tile, bound0, bound1)
    job.out = <double *> cnp.PyArray_DATA(out)
    job.slabs, job.kernel[0], job.kernel[1] = out.shape[0], kh, kw
    total = job.tiles[0] * job.slabs
    job.room_y = _round_up((job.tile[0] * job.tile[1] + V) * 2 * V, ALIGN)
    room = kh + kw + kh * kw * 2 * V        # addresses and doubles
    room = _round_up(job.room_x + job.room_y + room * 8 // size, ALIGN)
    macs = <double> job.y.N * job.channels * job.y.H * job.y.W * kh * kw
    base = _allocate(room * workers)
    job.waves = _waves(macs / total, job.y.N // job.slabs * job.tiles[1] * job.tiles[2])
    try:
        for job.wave in range(job.waves):
            _each(_apart_grad_task, &job, total, macs / job.waves, 1, 1, _aligned(base), room,
                  workers)
    finally:
        PyMem_RawFree(base)
