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


def useful_workers(outputs: int, taps: int) -> int:
    """Threads that a direct sum with so many outputs and kernel taps gives work to."""
    return max(1, outputs * (taps + _WORK_PER_PIXEL) // _WORK_PER_WORKER)


def choose_workers(workers: object, useful: int) -> int:
    """Threads for a call.  An explicit number wins; without one, small work stays on one."""
    if workers is not None:
        return check_workers(workers)
    return 1 if useful == 1 else min(get_workers(), useful)
