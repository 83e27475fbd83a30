"""What a call holds and touches: for the tests of memory."""

import ctypes
import mmap
import tracemalloc

import numpy as np

_PAGE = mmap.PAGESIZE
_kept = []


def scratch(call, *, returns=True):
    """Most bytes that NumPy held at a time during a call, beyond what it returns."""
    call()  # plans are kept
    tracemalloc.start()
    try:
        kept = call()
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (kept is not None) == returns
    return peak - (now if returns else 0)


def guarded(a, at_end):
    """A copy between two pages that nobody may touch, close to the one or the other."""
    pages = -(-a.nbytes // _PAGE)
    memory = mmap.mmap(-1, (pages + 2) * _PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    for page in (address, address + (pages + 1) * _PAGE):
        assert libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(_PAGE), 0) == 0
    start = (pages + 1) * _PAGE - a.nbytes if at_end else _PAGE
    inner = np.ndarray(a.shape, a.dtype, memory, start)
    inner[...] = a
    _kept.append(memory)
    return inner
