"""How a call is computed: which algorithm, on how many threads.  One cost model."""

from __future__ import annotations

from fastcorr._workers import check_workers, get_workers

METHODS = ("auto", "direct")

# A thread must save more than it costs to wake (some 10 us when it has gone to sleep).  Work is
# counted in multiply-adds, at about 40 per ns; a pixel costs at least the moving of it.
_WORK_PER_WORKER = 1_000_000
_WORK_PER_PIXEL = 8


def check_method(method: object) -> str:
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    return str(method)


def choose_workers(workers: object, outputs: int, taps: int) -> int:
    """Threads for a call with so many outputs (of the forward call) and kernel taps.

    An explicit number wins; without one, small work stays on the calling thread.
    """
    if workers is not None:
        return check_workers(workers)
    work = outputs * (taps + _WORK_PER_PIXEL)
    if work < 2 * _WORK_PER_WORKER:
        return 1
    return min(get_workers(), work // _WORK_PER_WORKER)
