"""How an axis goes on beyond its ends; for all kernels that read images."""

cdef enum Boundary:
    FILL, WRAP, SYMM, MIRROR, NEAREST


cdef inline Py_ssize_t run_at(
    Py_ssize_t i, Py_ssize_t n, Boundary bound, Py_ssize_t *step, Py_ssize_t *length,
) noexcept nogil:
    """Where index i of the continued axis lies in the axis of n elements; -1: the fill value.

    The next `length` indices go on from there by `step`.
    """
    cdef Py_ssize_t p
    step[0] = 1
    if 0 <= i < n:
        length[0] = n - i
        return i
    if bound == WRAP:
        p = i % n
        p = p + n if p < 0 else p
        length[0] = n - p
        return p
    if bound == SYMM:
        p = i % (2 * n)
        p = p + 2 * n if p < 0 else p
        if p < n:
            length[0] = n - p
            return p
        step[0] = -1
        length[0] = 2 * n - p
        return 2 * n - 1 - p
    if bound == MIRROR and n > 1:
        p = i % (2 * n - 2)
        p = p + 2 * n - 2 if p < 0 else p
        if p < n - 1:
            length[0] = n - p
            return p
        step[0] = -1
        length[0] = 2 * n - 2 - p
        return 2 * n - 2 - p
    step[0] = 0
    length[0] = -i if i < 0 else <Py_ssize_t> (<size_t> -1 >> 2)
    if bound == FILL:
        return -1
    return 0 if i < 0 else n - 1
