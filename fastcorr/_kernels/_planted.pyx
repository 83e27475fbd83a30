"""Faults made on purpose, compiled as the kernels are: each tool that watches over the kernels has
to find its own here first.  Built with -Dplanted_faults=true only.

What is volatile and what is an argument keeps the compiler from removing a fault.
"""

from array import array

from cython.parallel cimport prange
from libc.stdlib cimport free, malloc


def overrun_read(unsigned int n=100):
    """Read one element past the end of memory from the heap."""
    cdef volatile double *p = <volatile double *>malloc(n * sizeof(double))
    cdef unsigned int i
    cdef double total = 0
    for i in range(n):
        p[i] = i
    for i in range(n + 1):
        total += p[i]
    free(<void *>p)
    return total


def overrun_write(unsigned int n=100):
    """Write one element past the end of memory from the heap."""
    cdef volatile double *p = <volatile double *>malloc(n * sizeof(double))
    cdef unsigned int i
    for i in range(n + 1):
        p[i] = i
    free(<void *>p)


def uninitialised(unsigned int n=100):
    """Go on as long as values that were never written are positive."""
    cdef volatile double *p = <volatile double *>malloc(n * sizeof(double))
    cdef unsigned int i = 0
    while i < n and p[i] > 0:
        i += 1
    free(<void *>p)
    return i


def overflow(int a=2**31 - 1):
    """Add beyond the largest int."""
    return a + 1


def shift(int n=40):
    """Shift an int by more bits than it has."""
    return 1 << n


def misaligned(unsigned int n=100):
    """Read a double at an address that is no multiple of its size."""
    cdef volatile char *p = <volatile char *>malloc(n)
    cdef unsigned int i
    for i in range(n):
        p[i] = 0
    cdef double value = (<volatile double *>(p + 1))[0]
    free(<void *>p)
    return value


def race(int n=1000):
    """Add up with two threads in one variable."""
    cdef volatile int total = 0
    cdef volatile int *p = &total
    cdef int i
    for i in prange(n, nogil=True, num_threads=2, schedule="static"):
        p[0] = p[0] + i
    return total


def bounds(unsigned int n=100):
    """Index a memoryview one element past its end."""
    cdef const double[::1] a = array("d", bytes(8 * n))
    return a[n]
