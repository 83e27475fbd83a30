"""Channels that do not mix: included by conv.pyx.

    y[n, c, i, j] = sum over a, b of  X[n, c, i*s0 + oa[a], j*s1 + ob[b]] * w[c, a, b]

The planes of some channels are brought into the scratch as for many channels (`_gather`), where
outputs that are neighbours meet neighbours at every tap, whatever the stride; then rows of
vectors are summed from there in registers (`_apart_tile`), one chain of all taps for each output.
The gradient to the input has phases: of the coordinates that are congruent modulo the stride,
each with its taps.  All phases of a row are summed before it is written.

The gradient to the weight keeps a vector of sums for each tap (`_apart_dots`).  After some
hundred products these go to sums in double precision.
"""


cdef enum:
    R_APART = 7         # rows of the tile: image sizes are multiples of 7 so often
    A_DOTS = 3          # rows of taps at most, and columns of them, that are summed at a time
    B_DOTS = 5
    CHAIN = 256         # vectors added in the lanes' type


cdef inline void _apart_store(T *dst, vec v, const T *bias, bint relu) noexcept nogil:
    if bias != NULL:
        v = v + vsplat(bias)
    vstore(dst, _relu(v) if relu else v)


cdef inline void _apart_tile(
    const T *src, Py_ssize_t row_ld, Py_ssize_t gap, const Py_ssize_t *off, const T *w,
    Py_ssize_t taps, const T *bias, bint relu, T *dst, Py_ssize_t ld, const int R, const int C,
) noexcept nogil:
    """R rows of C vectors, the second one `gap` lanes beyond the first: R and C are literals."""
    cdef Sums c
    cdef Py_ssize_t k
    cdef const T *p
    cdef vec v
    c.s0 = c.s1 = c.s2 = c.s3 = c.s4 = c.s5 = c.s6 = vzero()
    c.t0 = c.t1 = c.t2 = c.t3 = c.t4 = c.t5 = c.t6 = vzero()
    for k in range(taps):
        p = src + off[k]
        v = vhold(vsplat(w + k))
        c.s0 = c.s0 + vload(p) * v
        if R > 1:
            c.s1 = c.s1 + vload(p + row_ld) * v
        if R > 2:
            c.s2 = c.s2 + vload(p + 2 * row_ld) * v
        if R > 3:
            c.s3 = c.s3 + vload(p + 3 * row_ld) * v
        if R > 4:
            c.s4 = c.s4 + vload(p + 4 * row_ld) * v
        if R > 5:
            c.s5 = c.s5 + vload(p + 5 * row_ld) * v
        if R > 6:
            c.s6 = c.s6 + vload(p + 6 * row_ld) * v
        if C > 1:
            p += gap
            c.t0 = c.t0 + vload(p) * v
            if R > 1:
                c.t1 = c.t1 + vload(p + row_ld) * v
            if R > 2:
                c.t2 = c.t2 + vload(p + 2 * row_ld) * v
            if R > 3:
                c.t3 = c.t3 + vload(p + 3 * row_ld) * v
            if R > 4:
                c.t4 = c.t4 + vload(p + 4 * row_ld) * v
            if R > 5:
                c.t5 = c.t5 + vload(p + 5 * row_ld) * v
            if R > 6:
                c.t6 = c.t6 + vload(p + 6 * row_ld) * v
    _apart_store(dst, c.s0, bias, relu)
    if R > 1:
        _apart_store(dst + ld, c.s1, bias, relu)
    if R > 2:
        _apart_store(dst + 2 * ld, c.s2, bias, relu)
    if R > 3:
        _apart_store(dst + 3 * ld, c.s3, bias, relu)
    if R > 4:
        _apart_store(dst + 4 * ld, c.s4, bias, relu)
    if R > 5:
        _apart_store(dst + 5 * ld, c.s5, bias, relu)
    if R > 6:
        _apart_store(dst + 6 * ld, c.s6, bias, relu)
    if C > 1:
        dst += gap
        _apart_store(dst, c.t0, bias, relu)
        if R > 1:
            _apart_store(dst + ld, c.t1, bias, relu)
        if R > 2:
            _apart_store(dst + 2 * ld, c.t2, bias, relu)
        if R > 3:
            _apart_store(dst + 3 * ld, c.t3, bias, relu)
        if R > 4:
            _apart_store(dst + 4 * ld, c.t4, bias, relu)
        if R > 5:
            _apart_store(dst + 5 * ld, c.t5, bias, relu)
        if R > 6:
            _apart_store(dst + 6 * ld, c.t6, bias, relu)


cdef inline void _apart_row(
    const T *src, Py_ssize_t row_ld, const Py_ssize_t *off, const T *w, Py_ssize_t taps,
    const T *bias, bint relu, Py_ssize_t n, T *dst, Py_ssize_t ld, const int R,
) noexcept nogil:
    """R rows of n outputs; the last vector is moved left onto its neighbour.

    Of rows shorter than a vector a whole one is written.
    """
    cdef Py_ssize_t j = 0, at
    while n - j > V:
        at = max(min(j, n - 2 * V), 0)
        _apart_tile(src + at, row_ld, min(V, n - V), off, w, taps, bias, relu, dst + at, ld, R, 2)
        j = at + 2 * V
    if j < n:
        at = max(n - V, 0)
        _apart_tile(src + at, row_ld, 0, off, w, taps, bias, relu, dst + at, ld, R, 1)


cdef inline Py_ssize_t _apart_rows(Py_ssize_t left, Py_ssize_t n) noexcept nogil:
    """Rows to sum next, of n of which so many are left; they may begin with some done already."""
    if left > 4 and n >= R_APART:
        return R_APART
    return 4 if n >= 4 else 1


# Lines of the phases of a row, one behind the other, and the row that they make up.
cdef void _interleave(const T *line, Py_ssize_t ld, Py_ssize_t n, T *dst) noexcept nogil:
    """dst[2 * j + e] = line[e * ld + j] for n lanes in all."""
    cdef Py_ssize_t j = 0
    cdef vec x, y, z
    while 2 * (j + V) <= n:
        x, y = vload(line + j), vload(line + ld + j)
        # The steps of a transposition, from single lanes to halves.
        z, y = vfirst(x, y, 1), vsecond(x, y, 1)
        if V > 2:
            x, y = vfirst(z, y, 2), vsecond(z, y, 2)
            z = x
        if V > 4:
            x, y = vfirst(z, y, 4), vsecond(z, y, 4)
            z = x
        vstore(dst + 2 * j, z)
        vstore(dst + 2 * j + V, y)
        j += V
    for j in range(2 * j, n):
        dst[j] = line[j % 2 * ld + j // 2]


cdef struct Apart:
    Image x
    Image y
    Axis rows
    Axis cols
    const cnp.intp_t *at0       # of each tap: its row of w, its column
    const cnp.intp_t *at1
    const cnp.intp_t *down      # (·, 4): taps from, to; first row of y, number of rows
    const cnp.intp_t *across
    Py_ssize_t n_down
    Py_ssize_t n_across
    Py_ssize_t step0            # from one row of a phase to the next
    Py_ssize_t step1
    const T *w
    Py_ssize_t ws[3]
    const T *bias
    bint relu
    Py_ssize_t channels
    Py_ssize_t n[2]             # rows and columns of the largest phase
    Py_ssize_t tile[3]          # channels, rows and columns of a block
    Py_ssize_t tiles[3]
    Py_ssize_t taps             # of all phases
    Py_ssize_t room_x
    Py_ssize_t line


cdef void _apart_write(
    const Apart *job, const T *line, Py_ssize_t j0, Py_ssize_t nj, T *dst,
) noexcept nogil:
    """One row of y, or columns [j0, j0 + nj) of its phases, from their lines."""
    cdef Py_ssize_t e, j, n
    cdef const cnp.intp_t *across
    cdef Py_ssize_t ld = job.line
    cdef T *q
    if job.step1 == 2 and job.n_across == 2 and job.y.s1 == 1:
        e = 0 if job.across[2] == 0 else 1
        n = min(2 * nj, job.y.W - 2 * j0)
        _interleave(line + e * ld, ld if e == 0 else -ld, n, dst + 2 * j0)
        return
    for e in range(job.n_across):
        across = job.across + 4 * e
        n = min(nj, across[3] - j0)
        q = dst + (across[2] + j0 * job.step1) * job.y.s1
        if job.step1 * job.y.s1 == 1:
            _copy(line, n, q)
        else:
            for j in range(n):
                q[j * job.step1 * job.y.s1] = line[j]
        line += ld


cdef void _apart_task(const Apart *job, Py_ssize_t number, T *scratch) noexcept nogil:
    """A block of rows and columns of an image, for some of its channels."""
    cdef Py_ssize_t c, c0, c1, d, e, a, b, i, k, r, rows, ni, nj, row_ld, channel_ld, n, left
    cdef Block block
    cdef const cnp.intp_t *down
    cdef const cnp.intp_t *across
    cdef T *lines = scratch + job.room_x
    cdef T *w = lines + job.n_across * R_APART * job.line
    cdef Py_ssize_t *off = <Py_ssize_t *> (w + _round_up(job.taps, ALIGN))
    cdef const Py_ssize_t *o
    cdef const T *v
    cdef const T *src
    cdef const T *bias
    cdef T *dst
    cdef T *to
    cdef Py_ssize_t ld
    cdef bint straight
    block.j0 = number % job.tiles[2] * job.tile[2]
    number //= job.tiles[2]
    block.i0 = number % job.tiles[1] * job.tile[1]
    number //= job.tiles[1]
    c0 = number % job.tiles[0] * job.tile[0]
    c1 = min(c0 + job.tile[0], job.channels)
    block.n0 = number // job.tiles[0]
    block.images = 1
    block.ni = min(job.tile[1], job.n[0] - block.i0)
    block.nj = min(job.tile[2], job.n[1] - block.j0)
    row_ld = _slots(&job.cols, 0, block.nj)
    channel_ld = row_ld * _slots(&job.rows, 0, block.ni)
    _gather(&job.x, &job.rows, 0, &job.cols, 0, &block, c0, c1, scratch, 0, channel_ld, row_ld)
    k = 0
    for d in range(job.n_down):
        for e in range(job.n_across):
            for a in range(job.down[4 * d], job.down[4 * d + 1]):
                for b in range(job.across[4 * e], job.across[4 * e + 1]):
                    off[k] = (_slot(&job.rows, a, block.ni) * row_ld
                              + _slot(&job.cols, b, block.nj))
                    k += 1
    straight = job.step1 * job.y.s1 == 1 and block.nj >= V
    for c in range(c0, c1):
        src = scratch + (c - c0) * channel_ld
        bias = NULL if job.bias == NULL else job.bias + c
        k = 0
        for d in range(job.n_down):
            for e in range(job.n_across):
                for a in range(job.down[4 * d], job.down[4 * d + 1]):
                    for b in range(job.across[4 * e], job.across[4 * e + 1]):
                        w[k] = job.w[c * job.ws[0] + job.at0[a] * job.ws[1]
                                     + job.at1[b] * job.ws[2]]
                        k += 1
        o, v = off, w
        for d in range(job.n_down):
            down = job.down + 4 * d
            ni = min(block.ni, down[3] - block.i0)
            dst = (job.y.data + block.n0 * job.y.sn + c * job.y.sc + down[2] * job.y.s0
                   + block.i0 * job.step0 * job.y.s0)
            ld = job.step0 * job.y.s0
            i = 0
            while i < ni:
                rows = _apart_rows(ni - i, ni)
                i = min(i, ni - rows)
                n = 0
                for e in range(job.n_across):
                    across = job.across + 4 * e
                    nj = min(block.nj, across[3] - block.j0)
                    k = (down[1] - down[0]) * (across[1] - across[0])
                    to = lines + e * job.line
                    left = job.n_across * job.line
                    if straight:
                        to = dst + i * ld + block.j0
                        left = ld
                    if rows == R_APART:
                        _apart_row(src + i * row_ld, row_ld, o + n, v + n, k, bias, job.relu, nj,
                                   to, left, R_APART)
                    elif rows == 4:
                        _apart_row(src + i * row_ld, row_ld, o + n, v + n, k, bias, job.relu, nj,
                                   to, left, 4)
                    else:
                        _apart_row(src + i * row_ld, row_ld, o + n, v + n, k, bias, job.relu, nj,
                                   to, left, 1)
                    n += k
                if not straight:
                    for r in range(rows):
                        _apart_write(job, lines + r * job.n_across * job.line, block.j0, block.nj,
                                     dst + (i + r) * ld)
                i += rows
            for e in range(job.n_across):
                k = (down[1] - down[0]) * (job.across[4 * e + 1] - job.across[4 * e])
                o += k
                v += k


def depthwise(
    cnp.ndarray x not None,         # IN   (N, C, H, W), of T, any strides
    cnp.ndarray w not None,         # IN   (C, kh, kw), of T, any strides
    cnp.ndarray y not None,         # OUT  (N, C, oh, ow), of T, any strides
    cnp.ndarray bias,               # IN   (C), of T, or None
    rows,                           # stride, taps, groups, blocks: see Axis; one block
    cols,
    down,                           # taps' rows of w, phases: see Apart; rows between them
    across,
    tile,                           # channels, rows and columns of a block
    int bound0, int bound1,         # Boundary of each axis
    bint relu,                      # max(…, 0) of all
    int workers,
):
    """y = each channel of x correlated with its kernel, plus the bias."""
    cdef Apart job
    cdef Py_ssize_t n, t, room, total, start, stop, step, size = sizeof(T)
    cdef double macs
    cdef T *scratch
    cdef void *base
    job.x = _image(x, 1, bound0, bound1)
    job.y = _image(y, 1, FILL, FILL)
    job.rows = _axis(rows[0], rows[1], rows[2], rows[3])
    job.cols = _axis(cols[0], cols[1], cols[2], cols[3])
    cdef cnp.ndarray at0 = down[0], at1 = across[0], table0 = down[1], table1 = across[1]
    job.at0, job.at1 = <const cnp.intp_t *> at0.data, <const cnp.intp_t *> at1.data
    job.down, job.across = <const cnp.intp_t *> table0.data, <const cnp.intp_t *> table1.data
    job.n_down, job.n_across = table0.shape[0], table1.shape[0]
    job.step0, job.step1 = down[2], across[2]
    job.w = <const T *> cnp.PyArray_DATA(w)
    for n in range(3):
        job.ws[n] = w.strides[n] // size
    job.bias = NULL if bias is None else <T *> cnp.PyArray_DATA(bias)
    job.relu = relu
    job.channels = w.shape[0]
    job.n[0] = job.n[1] = 0
    for n in range(job.n_down):
        job.n[0] = max(job.n[0], job.down[4 * n + 3])
    for n in range(job.n_across):
        job.n[1] = max(job.n[1], job.across[4 * n + 3])
    for n in range(3):
        job.tile[n] = tile[n]
    job.tiles[0] = (job.channels + job.tile[0] - 1) // job.tile[0]
    job.tiles[1] = (job.n[0] + job.tile[1] - 1) // job.tile[1]
    job.tiles[2] = (job.n[1] + job.tile[2] - 1) // job.tile[2]
    total = job.y.N * job.tiles[0] * job.tiles[1] * job.tiles[2]
    if total == 0:
        return
    job.taps = at0.shape[0] * at1.shape[0]
    job.room_x = _round_up(
        job.tile[0] * _slots(&job.rows, 0, job.tile[1]) * _slots(&job.cols, 0, job.tile[2])
        + 2 * V, ALIGN)
    job.line = _round_up(job.tile[2], V) + V
    room = (job.room_x + job.n_across * R_APART * job.line + _round_up(job.taps, ALIGN)
            + _round_up(job.taps * sizeof(Py_ssize_t) // size + 1, ALIGN))
    room = _round_up(room, ALIGN)
    macs = <double> job.y.N * job.channels * job.n[0] * job.n[1] * job.taps / total
    step = <Py_ssize_t> max(min(_MACS_PER_CHECK / (macs + 1) * workers, total), 4 * workers)
    base = _allocate(room * workers)
    scratch = _aligned(base)
    try:
        with nogil:
            start = 0
            while start < total:
                stop = min(start + step, total)
                for t in prange(start, stop, schedule="dynamic", num_threads=workers,
                                use_threads_if=workers > 1):
                    _apart_task(&job, t, scratch + threadid() * room)
                if stop < total:
                    with gil:
                        PyErr_CheckSignals()
                start = stop
    finally:
        PyMem_RawFree(base)


# ---------------------------------------------------------------- gradient to the weight

cdef struct ApartGrad:
    Image x
    Image g
    Axis rows
    Axis cols
    ACC *out                    # (slabs, C, kh, kw)
    Py_ssize_t channels
    Py_ssize_t kh
    Py_ssize_t kw
    Py_ssize_t slabs            # of images: sums of their own
    Py_ssize_t tile[3]
    Py_ssize_t tiles[3]
    Py_ssize_t room_x
    Py_ssize_t room_g
    Py_ssize_t room


cdef inline void _apart_dots(
    const T *src, Py_ssize_t row_ld, const Py_ssize_t *off0, const Py_ssize_t *off1,
    const T *g, Py_ssize_t rows, Py_ssize_t n, T *sums, Py_ssize_t sums_ld,
    const int A, const int B,
) noexcept nogil:
    """sums[a, b] += src shifted by off0[a] + off1[b], times g: A x B vectors, both literals.

    Rows of g are whole vectors; the last one holds what is left of n at its end, behind zeros,
    where pixels of x count as zeros, too: they need not be finite.
    """
    cdef vec s00, s01, s02, s03, s04, s10, s11, s12, s13, s14, s20, s21, s22, v, x
    cdef Py_ssize_t i, j, last = (n + V - 1) // V
    cdef vmask mask = vlast(n - (last - 1) * V)
    cdef const T *p
    cdef const T *q
    cdef const T *r
    s01 = s02 = s03 = s04 = s10 = s11 = s12 = s13 = s14 = s20 = s21 = s22 = vzero()
    s00 = vload(sums)
    if B > 1:
        s01 = vload(sums + V)
    if B > 2:
        s02 = vload(sums + 2 * V)
    if B > 3:
        s03 = vload(sums + 3 * V)
    if B > 4:
        s04 = vload(sums + 4 * V)
    if A > 1:
        s10 = vload(sums + sums_ld)
        if B > 1:
            s11 = vload(sums + sums_ld + V)
        if B > 2:
            s12 = vload(sums + sums_ld + 2 * V)
        if B > 3:
            s13 = vload(sums + sums_ld + 3 * V)
        if B > 4:
            s14 = vload(sums + sums_ld + 4 * V)
    if A > 2:
        s20 = vload(sums + 2 * sums_ld)
        if B > 1:
            s21 = vload(sums + 2 * sums_ld + V)
        if B > 2:
            s22 = vload(sums + 2 * sums_ld + 2 * V)
    for i in range(rows):
        p = src + off0[0]
        q = src + off0[A > 1]
        r = src + off0[2 if A > 2 else 0]
        for j in range(last):
            v = vload(g)
            g += V
            if j < last - 1:
                s00 = s00 + vload(p + off1[0]) * v
                if B > 1:
                    s01 = s01 + vload(p + off1[1]) * v
                if B > 2:
                    s02 = s02 + vload(p + off1[2]) * v
                if B > 3:
                    s03 = s03 + vload(p + off1[3]) * v
                if B > 4:
                    s04 = s04 + vload(p + off1[4]) * v
                if A > 1:
                    s10 = s10 + vload(q + off1[0]) * v
                    if B > 1:
                        s11 = s11 + vload(q + off1[1]) * v
                    if B > 2:
                        s12 = s12 + vload(q + off1[2]) * v
                    if B > 3:
                        s13 = s13 + vload(q + off1[3]) * v
                    if B > 4:
                        s14 = s14 + vload(q + off1[4]) * v
                if A > 2:
                    s20 = s20 + vload(r + off1[0]) * v
                    if B > 1:
                        s21 = s21 + vload(r + off1[1]) * v
                    if B > 2:
                        s22 = s22 + vload(r + off1[2]) * v
                p += V
                q += V
                r += V
            else:
                p += n - last * V
                q += n - last * V
                r += n - last * V
                s00 = s00 + vkeep(vload(p + off1[0]), mask) * v
                if B > 1:
                    s01 = s01 + vkeep(vload(p + off1[1]), mask) * v
                if B > 2:
                    s02 = s02 + vkeep(vload(p + off1[2]), mask) * v
                if B > 3:
                    s03 = s03 + vkeep(vload(p + off1[3]), mask) * v
                if B > 4:
                    s04 = s04 + vkeep(vload(p + off1[4]), mask) * v
                if A > 1:
                    s10 = s10 + vkeep(vload(q + off1[0]), mask) * v
                    if B > 1:
                        s11 = s11 + vkeep(vload(q + off1[1]), mask) * v
                    if B > 2:
                        s12 = s12 + vkeep(vload(q + off1[2]), mask) * v
                    if B > 3:
                        s13 = s13 + vkeep(vload(q + off1[3]), mask) * v
                    if B > 4:
                        s14 = s14 + vkeep(vload(q + off1[4]), mask) * v
                if A > 2:
                    s20 = s20 + vkeep(vload(r + off1[0]), mask) * v
                    if B > 1:
                        s21 = s21 + vkeep(vload(r + off1[1]), mask) * v
                    if B > 2:
                        s22 = s22 + vkeep(vload(r + off1[2]), mask) * v
        src += row_ld
    vstore(sums, s00)
    if B > 1:
        vstore(sums + V, s01)
    if B > 2:
        vstore(sums + 2 * V, s02)
    if B > 3:
        vstore(sums + 3 * V, s03)
    if B > 4:
        vstore(sums + 4 * V, s04)
    if A > 1:
        vstore(sums + sums_ld, s10)
        if B > 1:
            vstore(sums + sums_ld + V, s11)
        if B > 2:
            vstore(sums + sums_ld + 2 * V, s12)
        if B > 3:
            vstore(sums + sums_ld + 3 * V, s13)
        if B > 4:
            vstore(sums + sums_ld + 4 * V, s14)
    if A > 2:
        vstore(sums + 2 * sums_ld, s20)
        if B > 1:
            vstore(sums + 2 * sums_ld + V, s21)
        if B > 2:
            vstore(sums + 2 * sums_ld + 2 * V, s22)


cdef inline void _apart_dots_of(
    const T *src, Py_ssize_t row_ld, const Py_ssize_t *off0, const Py_ssize_t *off1,
    const T *g, Py_ssize_t rows, Py_ssize_t n, T *sums, Py_ssize_t ld, int b, const int A,
) noexcept nogil:
    if b == 1:
        _apart_dots(src, row_ld, off0, off1, g, rows, n, sums, ld, A, 1)
    elif b == 2:
        _apart_dots(src, row_ld, off0, off1, g, rows, n, sums, ld, A, 2)
    elif A > 2 or b == 3:
        _apart_dots(src, row_ld, off0, off1, g, rows, n, sums, ld, A, 3)
    elif b == 4:
        _apart_dots(src, row_ld, off0, off1, g, rows, n, sums, ld, A, 4)
    else:
        _apart_dots(src, row_ld, off0, off1, g, rows, n, sums, ld, A, 5)


cdef void _apart_pack(
    const Image *g, Py_ssize_t c, const Block *block, T *dst,
) noexcept nogil:
    """The rows of a block of g as `_apart_dots` wants them."""
    cdef Py_ssize_t i, j, whole = (block.nj - 1) // V * V, rest = block.nj - whole
    cdef const T *src
    for i in range(block.ni):
        src = (g.data + block.n0 * g.sn + c * g.sc + (block.i0 + i) * g.s0 + block.j0 * g.s1)
        if g.s1 == 1:
            _copy(src, whole, dst)
            vstore(dst + whole, vzero())
            _copy(src + whole, rest, dst + whole + V - rest)
        else:
            for j in range(whole):
                dst[j] = src[j * g.s1]
            vstore(dst + whole, vzero())
            for j in range(rest):
                dst[whole + V - rest + j] = src[(whole + j) * g.s1]
        dst += whole + V


cdef void _apart_grad_task(const ApartGrad *job, Py_ssize_t number, T *scratch) noexcept nogil:
    """The gradient of some channels, from one slab of the images."""
    cdef Py_ssize_t c, c0, c1, a, b, k, n, slab, row_ld, channel_ld, blocks, high, wide
    cdef Py_ssize_t chain = 0, more
    cdef Py_ssize_t taps = job.kh * job.kw
    cdef Block block
    cdef T *xs = scratch + V
    cdef T *gs = scratch + job.room_x
    cdef T *sums = gs + job.room_g
    cdef Py_ssize_t *off0 = <Py_ssize_t *> (sums + job.tile[0] * taps * V)
    cdef Py_ssize_t *off1 = off0 + job.kh
    cdef ACC *out
    slab = number % job.slabs
    c0 = number // job.slabs * job.tile[0]
    c1 = min(c0 + job.tile[0], job.channels)
    out = job.out + (slab * job.channels + c0) * taps
    for k in range((c1 - c0) * taps):
        out[k] = 0
    for k in range((c1 - c0) * taps * V):
        sums[k] = 0
    blocks = job.tiles[1] * job.tiles[2]
    block.images = 1
    for n in range(_part(job.g.N, job.slabs, slab) * blocks,
                   _part(job.g.N, job.slabs, slab + 1) * blocks):
        block.j0 = n % job.tiles[2] * job.tile[2]
        block.i0 = n // job.tiles[2] % job.tiles[1] * job.tile[1]
        block.n0 = n // blocks
        block.ni = min(job.tile[1], job.g.H - block.i0)
        block.nj = min(job.tile[2], job.g.W - block.j0)
        row_ld = _slots(&job.cols, 0, block.nj)
        channel_ld = row_ld * _slots(&job.rows, 0, block.ni)
        more = block.ni * _ceil(block.nj, V)
        if chain + more > CHAIN:
            _apart_add(sums, (c1 - c0) * taps, out)
            chain = 0
        chain += more
        for a in range(job.kh):
            off0[a] = _slot(&job.rows, a, block.ni) * row_ld
        for b in range(job.kw):
            off1[b] = _slot(&job.cols, b, block.nj)
        _gather(&job.x, &job.rows, 0, &job.cols, 0, &block, c0, c1, xs, 0, channel_ld, row_ld)
        for c in range(c1 - c0):
            _apart_pack(&job.g, c0 + c, &block, gs)
            b = 0
            while b < job.kw:
                wide = _ceil(job.kw - b, _ceil(job.kw - b, B_DOTS))
                a = 0
                while a < job.kh:
                    high = min(job.kh - a, A_DOTS if wide <= 3 else 2)
                    k = (c * job.kh + a) * job.kw + b
                    if high == 1:
                        _apart_dots_of(xs + c * channel_ld, row_ld, off0 + a, off1 + b, gs,
                                       block.ni, block.nj, sums + k * V, job.kw * V, wide, 1)
                    elif high == 2:
                        _apart_dots_of(xs + c * channel_ld, row_ld, off0 + a, off1 + b, gs,
                                       block.ni, block.nj, sums + k * V, job.kw * V, wide, 2)
                    else:
                        _apart_dots_of(xs + c * channel_ld, row_ld, off0 + a, off1 + b, gs,
                                       block.ni, block.nj, sums + k * V, job.kw * V, wide, 3)
                    a += high
                b += wide
    _apart_add(sums, (c1 - c0) * taps, out)


cdef void _apart_add(T *sums, Py_ssize_t n, ACC *out) noexcept nogil:
    """out += the lanes of the sums, which become zero."""
    cdef Py_ssize_t k, t
    cdef ACC total
    for k in range(n):
        total = 0
        for t in range(V):
            total += sums[k * V + t]
        out[k] += total
        vstore(sums + k * V, vzero())


def depthwise_weight_grad(
    cnp.ndarray x not None,         # IN   (N, C, H, W), of T, any strides
    cnp.ndarray g not None,         # IN   (N, C, oh, ow), of T, any strides
    cnp.ndarray out not None,       # OUT  (slabs, C, kh, kw), of ACC, C-contiguous
    rows,                           # stride, taps, groups, blocks: see Axis; one block
    cols,
    tile,                           # channels, rows and columns of a block
    int bound0, int bound1,         # Boundary of each axis
    int workers,
):
    """out[s] = gradient to the weight from slab s of the images."""
    cdef ApartGrad job
    cdef Py_ssize_t n, t, total, start, stop, step, size = sizeof(T)
    cdef double macs
    cdef T *scratch
    cdef void *base
    job.x = _image(x, 1, bound0, bound1)
    job.g = _image(g, 1, FILL, FILL)
    job.rows = _axis(rows[0], rows[1], rows[2], rows[3])
    job.cols = _axis(cols[0], cols[1], cols[2], cols[3])
    job.out = <ACC *> cnp.PyArray_DATA(out)
    job.slabs, job.channels, job.kh, job.kw = (
        out.shape[0], out.shape[1], out.shape[2], out.shape[3])
    for n in range(3):
        job.tile[n] = tile[n]
    job.tiles[0] = (job.channels + job.tile[0] - 1) // job.tile[0]
    job.tiles[1] = (job.g.H + job.tile[1] - 1) // job.tile[1]
    job.tiles[2] = (job.g.W + job.tile[2] - 1) // job.tile[2]
    total = job.tiles[0] * job.slabs
    job.room_x = _round_up(
        job.tile[0] * _slots(&job.rows, 0, job.tile[1]) * _slots(&job.cols, 0, job.tile[2])
        + 3 * V, ALIGN)
    job.room_g = _round_up(job.tile[1] * _round_up(job.tile[2], V), ALIGN)
    job.room = _round_up(
        job.room_x + job.room_g + job.tile[0] * job.kh * job.kw * V
        + (job.kh + job.kw) * <Py_ssize_t> (sizeof(Py_ssize_t)) // size + 1, ALIGN)
    macs = (<double> job.g.N * job.channels * job.g.H * job.g.W * job.kh * job.kw) / total
    step = <Py_ssize_t> max(min(_MACS_PER_CHECK / (macs + 1) * workers, total), workers)
    base = _allocate(job.room * workers)
    scratch = _aligned(base)
    try:
        with nogil:
            start = 0
            while start < total:
                stop = min(start + step, total)
                for t in prange(start, stop, schedule="dynamic", num_threads=workers,
                                use_threads_if=workers > 1):
                    _apart_grad_task(&job, t, scratch + threadid() * job.room)
                if stop < total:
                    with gil:
                        PyErr_CheckSignals()
                start = stop
    finally:
        PyMem_RawFree(base)
