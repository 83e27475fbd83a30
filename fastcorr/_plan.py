"""How a call is computed: which algorithm, on how many threads.  One cost model."""

from __future__ import annotations

import functools
import math
import os
from typing import Any

import numpy as np

from fastcorr import _fft, _separable
from fastcorr._arguments import shown
from fastcorr._costs import COSTS
from fastcorr._dispatch import ISA
from fastcorr._workers import check_workers, get_workers

DType = np.dtype[Any]
Pair = tuple[int, int]

METHODS = ("auto", "direct", "separable", "fft")


def _sleepy() -> bool:
    """Whether OpenMP's threads have been told to sleep as soon as a call is done."""
    passive = os.environ.get("OMP_WAIT_POLICY", "").strip().lower() == "passive"
    return (os.environ.get("GOMP_SPINCOUNT") or ("0" if passive else "")).strip() == "0"


# A thread must save more than it costs to give it work: some us while it spins, up to 100 us when
# it sleeps.  So many times more has to be saved, then.
WAKING = 8 if _sleepy() else 1
_SECONDS_PER_WORKER = 25e-6 * WAKING
# Without the cost model, for calls too small for it: multiply-adds, at about 40 per ns; a pixel
# costs at least the moving of it.
_WORK_PER_WORKER = 1_000_000 * WAKING
_WORK_PER_PIXEL = 8


def check_method(method: object) -> str:
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {shown(method)}")
    return str(method)


def useful_workers(outputs: int, taps: int, seconds: float = math.inf) -> int:
    """Threads that a direct sum with so many outputs and taps gives work to, or what takes so
    many seconds."""
    work = outputs * (taps + _WORK_PER_PIXEL) // _WORK_PER_WORKER
    return max(1, min(work, 256, int(min(seconds, 1.0) / _SECONDS_PER_WORKER)))


def choose_workers(workers: object, useful: int) -> int:
    """Threads for a call.  An explicit number wins; without one, small work stays on one."""
    if workers is not None:
        return check_workers(workers)
    return 1 if useful == 1 else min(get_workers(), useful)


# ---------------------------------------------------------------- cost model

# Long double is computed without vectors: its costs are not in the table.
_LANES = COSTS[ISA]
_OTHER = {"direct": (1500.0, 0.0, 1.0, 1.0)}


def features(
    lane: str, comps: int, planes: int, kernels: int, outputs: Pair, k: Pair, rank: int = 1
) -> dict[str, tuple[float, ...]]:
    """What each method has to do for a problem, in the units of `_costs`.

    `lane` is kind and bytes of the kernels' lanes, of `comps` in an element; `rank` that of the
    kernels, of which the separable method makes as many passes.
    """
    pixels = planes * outputs[0] * outputs[1] * comps
    thin = min(k) == 1  # what is loaded of the image serves fewer taps
    sums = pixels * k[0] * k[1] * comps * (1.3 if thin else 1)
    work: dict[str, tuple[float, ...]] = {"direct": (1, kernels, pixels, sums)}
    if lane not in _LANES:
        return work
    if max(k) <= _separable.MOST_TAPS:
        # A 1 x n kernel has one pass, and its factors need no search.
        taps = rank * sum(n for n in k if n > 1) * comps
        search = 0.5 if thin else 1.0
        work["separable"] = (search, search * kernels, pixels, pixels * taps)
    if max(k) <= _fft.LARGEST:
        tile = _fft.tile(outputs, k, comps, lane)
        work["fft"] = (1, kernels, *(planes * w for w in tile.work), kernels * tile.elements)
    return work


@functools.lru_cache(maxsize=1024)
def seconds(
    lane: str, comps: int, planes: int, kernels: int, outputs: Pair, k: Pair, rank: int = 1
) -> dict[str, float]:
    """Predicted seconds of each method that there is for a problem, on one core."""
    costs = _LANES.get(lane, _OTHER)
    work = features(lane, comps, planes, kernels, outputs, k, rank)
    return {
        method: 1e-9 * sum(a * b for a, b in zip(amounts, costs[method], strict=True))
        for method, amounts in work.items()
    }


# A pair of tiles of the kernel gradient beside one of the correlation: two transforms forth.
_GRADIENT_PAIR = 1.4


def transform_gradient(lane: str, comps: int, outputs: Pair, k: Pair, most: int) -> bool:
    """Whether transforms give the kernel gradient of a plane sooner than direct sums."""
    direct = seconds(lane, comps, 1, 1, outputs, k)["direct"]
    call, kernel = _LANES[lane]["fft"][:2]
    tiles = _fft.tile(outputs, k, comps, lane, most).seconds
    return direct > 1e-9 * (call + kernel) + _GRADIENT_PAIR * tiles
