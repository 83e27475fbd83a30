"""Correlation by Fourier transforms of tiles (overlap-save): sizes, spectra, error limits."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastcorr._costs import COSTS
from fastcorr._dispatch import ISA

Array = npt.NDArray[Any]
Pair = tuple[int, int]

# Lengths of transforms and their steps: multiples of 16, of which every vector length is a part.
SIZES: dict[int, tuple[int, ...]] = {
    32: (8, 4), 48: (4, 4, 3), 64: (8, 8), 80: (4, 4, 5), 96: (8, 4, 3), 128: (8, 4, 4),
    160: (8, 4, 5), 192: (8, 8, 3), 256: (8, 8, 4), 320: (8, 8, 5), 384: (8, 4, 4, 3),
    512: (8, 8, 8), 640: (8, 4, 4, 5), 768: (8, 8, 4, 3), 1024: (8, 8, 4, 4),
    1536: (8, 8, 8, 3), 2048: (8, 8, 8, 4),
}  # fmt: skip
LARGEST = max(SIZES) // 2 + 1  # rows or columns of a kernel


@functools.cache
def axis(n: int, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Steps of a transform of n elements, and their twiddle factors as the kernels read them."""
    parts, length = [], n
    for radix in SIZES[n]:
        length //= radix
        j, q = np.arange(1, length)[:, None], np.arange(1, radix)
        # Quarter turns are exact.  The rest is at most an eighth: near a whole turn the rounding of
        # the argument would be as large as the errors of all steps of a transform.
        turn = length * radix
        quarters, rest = np.divmod(8 * (j * q) + turn, 2 * turn)
        factors = np.exp(-2j * np.pi * ((rest - turn) / (8 * turn)))
        parts.append((np.array([1, -1j, -1, 1j])[quarters % 4] * factors).ravel())
    table = np.concatenate(parts).view(np.float64)
    return np.array(SIZES[n], np.intp), table.astype(dtype)


# Bytes of the second-level cache.
_L2 = 1 << 20


class Tile(NamedTuple):
    n: Pair  # lengths of the transforms
    work: tuple[float, float, float]  # for a plane, as `_costs` counts it
    seconds: float  # that takes, predicted
    elements: int


# Elements of a tile: it and a spectrum take some MB.
_MOST = {"f4": 1 << 18}
_MOST_DOUBLES = 3 << 16


@functools.lru_cache(maxsize=1024)
def tile(outputs: Pair, k: Pair, comps: int, lane: str, most: int | None = None) -> Tile:
    """The tile that takes least for so many outputs of one kernel and for its spectrum.

    A tile of n0 x n1 gives (n0 - kh + 1) x (n1 - kw + 1) outputs; real tiles go in pairs.  It has
    at most so many elements, if the kernel leaves that choice.
    """
    assert max(k) <= LARGEST
    most = most or _MOST.get(lane, _MOST_DOUBLES)
    most = max(most, 3 * max(k[0], 16) * max(k[1], 16))
    costs = COSTS[ISA][lane]["fft"][2:]
    itemsize = 4 if lane == "f4" else 8  # integers are transformed as doubles
    best: tuple[float, Tile] | None = None
    for n0 in SIZES:
        t0 = n0 - k[0] + 1
        if t0 < 1:
            continue
        down = -(-outputs[0] // t0)
        for n1 in SIZES:
            t1 = n1 - k[1] + 1
            n = n0 * n1
            if t1 < 1 or n > most:
                continue
            tiles = down * -(-outputs[1] // t1)
            elements = n * (tiles if comps == 2 else (tiles + 1) // 2)
            beyond = math.log2(max(4 * n * itemsize / _L2, 1.0))  # of the tile and the spectrum
            work = elements, elements * math.log2(n), elements * beyond
            seconds = 1e-9 * sum(a * b for a, b in zip(work, costs[:3], strict=True))
            total = seconds + 1e-9 * n * costs[3]
            if best is None or total < best[0]:
                best = total, Tile((n0, n1), work, seconds, n)
            if t1 >= outputs[1]:
                break
        if t0 >= outputs[0]:
            break
    assert best is not None
    return best[1]


# Taps of kernels of either sign below which the limits of errors seldom suffice.
_FEW = 144


def doubt(k: Array) -> str | None:
    """Why 'auto' had better not try."""
    few = k.shape[-2] * k.shape[-1] < (1.4 * _FEW if k.dtype.kind == "c" else _FEW)
    if few and (k.dtype.kind == "c" or (k.dtype.kind == "f" and k.min() < 0)):
        return "with few taps of either sign errors might exceed the direct sum's bound"
    return None


# Errors of a result, in roundings of the root mean square of the tile times the kernel's norm,
# are below 8 for any size and any noisy image and kernel that was tried: about five times their
# standard deviation.
_ERROR = 10.0
# Where little is bright, a few pixels, lines or squares, errors gather.  Beside these and 4
# roundings of the output's own sum of |x| |k| they are below 6.5 roundings of the largest pixel
# times the kernel's norm.
_BRIGHT = 8.0
_OWN = 4
# Of a kernel gradient, per norms of the image's and the gradient's tile.
GRAD_ERROR = 12.0
# Taps that the direct sum adds at a time, KA * KB of direct.pyx.
_TAPS = 32 * 64


def refusal(k: Array) -> str | None:
    """Why there is no such operator for kernels of this type and shape, if there is none."""
    if k.dtype.char not in "fdFD":
        return f"there are no transforms for {k.dtype}"
    if max(k.shape[-2:]) > LARGEST:
        return f"the kernel has more than {LARGEST} rows or columns"
    return None


def unfit(k: Array) -> str | None:
    """Why the values of a kernel must not be transformed, if they must not."""
    largest = float(np.abs(k).max())
    reach = 1e15 if k.real.dtype.itemsize == 4 else 1e150
    if not 1 / reach < largest < reach:  # not finite, all zeros, or squares may overflow
        return "the kernel is zero, not finite, or squares of its elements may overflow"
    return None


def limits(k: Array, peak: Array) -> tuple[Array, Array, bool]:
    """What the kernels need to know to stay within the direct sum's error: see fft.pyx.

    k is (n, kh, kw), `peak` the largest magnitude of each spectrum.  Of an output's sum of
    |x| |k| at least `large` times the limit of small pixels is there for every large tap that
    meets no small pixel.  The results are `Limits`; for each kernel the number of large taps
    above and left of each tap; and what large means where both are complex: the sum of a part has
    |re x| |re k| and |im x| |im k|, so if both parts of k are large it is enough that one part
    of x is not small, else neither may be.
    """
    unit = np.finfo(k.dtype).eps / 2
    n = k[0].size
    taps = n if n <= _TAPS else _TAPS + -(-k.shape[1] // 32) * -(-k.shape[2] // 64)
    wide = k.reshape(len(k), n)
    if k.dtype.kind == "c":
        re, im = np.abs(wide.real), np.abs(wide.imag)
        sizes = np.minimum(re, im)
        large, score = _large(sizes, 0.9)
        other, its_score = _large(re + im, 0.6)
        use_both = bool((score >= its_score).all())
        if not use_both:
            sizes, large = re + im, other
        positive: Array | bool = False
    else:
        sizes = np.abs(wide)
        large, _ = _large(sizes, 0.7)
        positive, use_both = wide.min(axis=1) >= 0, False
    norm = np.linalg.norm(wide, axis=1)
    rows = np.empty((len(k), 7))
    rows[:, 0] = _ERROR * unit * (1.5 * norm + peak)
    rows[:, 1] = _BRIGHT * unit * norm * (2**0.5 if k.dtype.kind == "c" else 1)
    rows[:, 2] = _OWN * unit
    rows[:, 3] = max(taps + 1 - _OWN, 0) * unit
    rows[:, 4] = positive
    rows[:, 5] = (wide == np.rint(wide)).all(axis=1)
    rows[:, 6] = large
    ramps = np.zeros((len(k), k.shape[1] + 1, k.shape[2] + 1), np.int32)
    marks = (sizes >= large[:, None]).reshape(k.shape)
    np.cumsum(np.cumsum(marks, axis=1, dtype=np.int32), axis=2, out=ramps[:, 1:, 1:])
    return rows, ramps, use_both


_QUANTILES = 0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5


def _large(magnitudes: Array, share: float) -> tuple[Array, Array]:
    """For each row a limit, and its score: times the elements that reach it, less a share."""
    n = magnitudes.shape[1]
    at = np.array(sorted({int(n * q) for q in _QUANTILES}))  # np.unique would import numpy.ma
    ordered = np.sort(magnitudes, axis=1)[:, at]
    score = ordered * (share - at / n)
    best = score.argmax(axis=1)
    rows = np.arange(len(magnitudes))
    return np.maximum(ordered[rows, best], np.finfo(magnitudes.dtype).tiny), score[rows, best]
