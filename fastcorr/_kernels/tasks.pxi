"""Scratch, and the one loop in which workers take tasks: included by every kernel.

Text to include, not a module: `T` is another type in each module that includes it.
"""
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cython.parallel cimport prange, threadid

from fastcorr._kernels._cpu cimport processors, team
from fastcorr._kernels.simd cimport T, V

cdef enum:
    ALIGN = 64

ctypedef void (*Task)(const void *job, Py_ssize_t number, T *scratch) noexcept nogil

# Multiply-adds of a worker between looks for Ctrl-C (some ms; long doubles take four times as long
# as vectors) and visits to the queue of tasks.
cdef double _MACS_PER_CHECK = 2.5e7 * V if V > 1 else 6e6
cdef double _MACS_PER_GRAB = 1e4 * V
# And of a task, where it can be made shorter without much loss: some 50 ms.
cdef double _MOST_MACS = 8 * _MACS_PER_CHECK


cdef inline Py_ssize_t _round_up(Py_ssize_t n, Py_ssize_t m) noexcept nogil:
    return (n + m - 1) // m * m


cdef void *_allocate(Py_ssize_t lanes) except NULL:
    """Room for the scratch of all workers, wherever its first aligned lane may be."""
    cdef void *base = PyMem_RawMalloc(lanes * sizeof(T) + ALIGN)
    if base == NULL:
        raise MemoryError("no memory for the scratch of fastcorr's workers")
    return base


cdef inline T *_aligned(void *base) noexcept nogil:
    return <T *> ((<size_t> base + ALIGN - 1) // ALIGN * ALIGN)


cdef int _each(
    Task task, const void *job, Py_ssize_t total, double macs, Py_ssize_t least, Py_ssize_t grab,
    T *scratch, Py_ssize_t room, int workers,
) except -1:
    """task(job, number, the worker's scratch) for all numbers below `total`, which take so many
    multiply-adds; a worker takes `grab` at a time.  Looks for Ctrl-C between, after `least` tasks
    a worker or more, unless these are long, and at the end.
    """
    cdef Py_ssize_t t, start = 0, stop, step
    cdef double tasks = _MACS_PER_CHECK / (macs + 1) * total
    cdef int cpus
    step = <Py_ssize_t> min(max(tasks, min(4 * tasks, least), 1.0), total)
    if workers > 1 and step < total:
        # More workers than processors get no more done until the next look, and have as many
        # tasks begun: of long ones no more than can go on at a time.
        cpus = processors()
        if tasks < 2:
            workers = min(workers, cpus)
        step = max(step * min(workers, cpus), workers)
    workers = team(workers)
    while start < total:
        stop = min(start + step, total)
        # Given up and taken again, not `with gil` within one `with nogil`: that asks for this
        # thread's state, which daemon threads no longer have when the interpreter has ended.
        with nogil:
            if workers == 1:    # half a microsecond less than a team of one; see `team`
                for t in range(start, stop):
                    task(job, t, scratch)
            else:
                for t in prange(start, stop, schedule="dynamic", chunksize=grab,
                                num_threads=workers):
                    task(job, t, scratch + threadid() * room)
        PyErr_CheckSignals()
        start = stop
    return 0


cdef inline Py_ssize_t _grab(double macs, Py_ssize_t total, int workers) noexcept nogil:
    """Tasks, of so many multiply-adds, that are taken at a time: some to each of the workers."""
    return <Py_ssize_t> max(min(_MACS_PER_GRAB / macs, total // (4.0 * workers)), 1.0)


cdef inline Py_ssize_t _waves(double macs, Py_ssize_t most) noexcept nogil:
    """Parts, `most` at most, in which tasks of so many multiply-adds are done one after the other,
    all tasks' first parts first, to look for Ctrl-C between: some ten ms, as workers wait there."""
    return <Py_ssize_t> max(min(macs / (4 * _MACS_PER_CHECK) + 1, most), 1.0)
