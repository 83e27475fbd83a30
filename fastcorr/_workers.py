"""How many threads a call may use: the limits of the process, the setting, the argument."""

from __future__ import annotations

import operator
import os
from types import TracebackType
from typing import SupportsIndex

from fastcorr._arguments import shown
from fastcorr._kernels import _cpu

# More threads than this help nobody.
_CAP = 256


def _cgroup_cpus() -> float:
    """CPUs that the control group of this process may use at a time."""
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:  # version 2
            quota, period = file.read().split()[:2]
    except (OSError, ValueError):
        try:
            with open("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") as file:  # version 1
                quota = file.read()
            with open("/sys/fs/cgroup/cpu/cpu.cfs_period_us") as file:
                period = file.read()
        except OSError:
            return float("inf")
    try:
        cpus = float(quota) / float(period)
    except (ValueError, ZeroDivisionError):  # "max": no limit
        return float("inf")
    return cpus if cpus > 0 else float("inf")


def _allowed_cpus() -> int:
    """CPUs that this process may run on: affinity and control group."""
    try:
        n = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        n = os.cpu_count() or 1
    # Where OpenMP binds threads (OMP_PROC_BIND) it has just left this one a single CPU.
    n = max(n, _cpu.cpus())
    limit = _cgroup_cpus()
    if limit < n:
        n = max(1, -int(-limit // 1))
    return min(n, _CAP)


_CPUS = _allowed_cpus()
_setting: int | None = None


def _one_thread() -> None:
    global _CAP
    _CAP = 1


if not _cpu.FORK_SAFE:
    # OpenMP's threads are gone in a forked child, and this OpenMP would wait for them for ever.
    os.register_at_fork(after_in_child=_one_thread)


def check_workers(workers: object) -> int:
    """A positive number of workers from an argument; negative ones count back from the CPUs."""
    try:
        n = operator.index(workers)  # type: ignore[arg-type]
    except TypeError:
        n = None
    if n is None or isinstance(workers, bool):
        raise TypeError(f"workers must be an integer or None, got {shown(workers)}")
    if n < 0:
        n += _CPUS + 1
    if n < 1:
        back = f"from -{_CPUS} to -1 to count back from the {_CPUS} CPUs"
        back = back if _CPUS > 1 else "-1 for the only CPU"
        raise ValueError(f"workers must be at least 1, or {back}, got {shown(workers)}")
    return min(n, _CAP)


def get_workers() -> int:
    """Number of threads that a call with ``workers=None`` may use.

    The number given to `set_workers`.  By default what the process is allowed: its CPU
    affinity, its control group, ``OMP_NUM_THREADS`` and the limits set by `threadpoolctl`;
    inside an OpenMP parallel region 1.

    Returns
    -------
    int

    See Also
    --------
    set_workers

    Examples
    --------
    >>> import fastcorr
    >>> with fastcorr.set_workers(2):
    ...     fastcorr.get_workers()
    2
    """
    setting = _setting  # once: another thread may be at the end of a `with`
    if setting is not None:
        return min(setting, _CAP)
    return max(1, min(_CPUS, _CAP, _cpu.max_threads()))


class set_workers:
    """Set the number of threads that calls with ``workers=None`` may use.

    Called, it sets the number for the whole process.  As a context manager it puts the
    setting it found back at the end.

    Parameters
    ----------
    workers : int or None
        At least 1.  Negative numbers count back from the CPUs that the process may use: -1
        is all of them.  None: the default again (see `get_workers`).

    Raises
    ------
    TypeError
        If `workers` is not an integer.
    ValueError
        If `workers` is 0 or too far below.

    See Also
    --------
    get_workers

    Notes
    -----
    The number of workers never changes a result, not by a bit.  A call too small to gain
    from threads uses fewer than it may.

    Examples
    --------
    >>> import fastcorr
    >>> before = fastcorr.get_workers()
    >>> with fastcorr.set_workers(1):
    ...     fastcorr.get_workers()
    1
    >>> fastcorr.get_workers() == before
    True
    """

    def __init__(self, workers: SupportsIndex | None) -> None:
        global _setting
        self._new = None if workers is None else check_workers(workers)
        self._before = [_setting]
        self._entered = False
        _setting = self._new

    def __enter__(self) -> None:
        global _setting
        if self._entered:  # not by the call itself: once more
            self._before.append(_setting)
            _setting = self._new
        self._entered = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        global _setting
        _setting = self._before.pop()

    def __repr__(self) -> str:
        return f"<fastcorr.set_workers: {get_workers()} workers>"
