"""Planes in, planes out: a correlation and its gradients, once shapes and types are settled.

The faces bring operands as the kernels read them, images with the correlated axes last and
kernels as they are applied, and the window of the continued image that is wanted.  Here a
kernel becomes an operator by one of the methods (`_plan`), and an operator is applied to
images.  A gradient is the adjoint of the same steps in reverse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastcorr import _fft, _plan, _separable
from fastcorr._boundary import CODES, fold
from fastcorr._dispatch import method_kernels

Array = npt.NDArray[Any]
Pair = tuple[int, int]

# For functions: what is computed in NumPy is as silent as the kernels, whatever NumPy's error state
# says of overflow, underflow and NaN.
silent = np.errstate(all="ignore")

# ---------------------------------------------------------------- planes

_ONE_PLANE = np.zeros((1, 3), np.intp)
_FILLED = (CODES["fill"], CODES["fill"])


def _planes(batch: tuple[int, ...], *arrays: Array) -> Array:
    """Byte offsets of every plane of the batch in each array: (planes, arrays)."""
    planes = np.zeros((*batch, len(arrays)), np.intp)
    for n, a in enumerate(arrays):
        strides = np.broadcast_to(a, batch + a.shape[-2:]).strides
        for axis, size in enumerate(batch):
            steps = np.arange(size, dtype=np.intp) * strides[axis]
            planes[..., n] += steps.reshape(-1, *(1,) * (len(batch) - 1 - axis))
    return planes.reshape(-1, len(arrays))


def _parts(a: Array) -> tuple[Array, Array]:
    """Real and imaginary part; of a real array too, without allocating the zeros."""
    zeros = np.broadcast_to(np.zeros((), np.int8), a.shape)
    return (a.real, a.imag) if a.dtype.kind == "c" else (a, zeros)


# ---------------------------------------------------------------- operators


class Operator:
    """A kernel made ready by one method for one window of images of one shape.

    ``operator(x, y, fill, workers)`` computes y = the window of the continued x, correlated
    with k; batches of x and k broadcast to y's.  To be called from what is `silent`.
    """

    method = "direct"

    def __init__(self, module: ModuleType, k: Array, offset: Pair, codes: Pair) -> None:
        self.module, self.k, self.offset, self.codes = module, k, offset, codes

    def __call__(self, x: Array, y: Array, fill: Array, workers: int) -> None:
        batch = y.shape[:-2]
        planes = _planes(batch, x, self.k, y) if batch else _ONE_PLANE
        self.module.correlate(x, self.k, y, *self.offset, *self.codes, fill, planes, workers)


class _Separated(Operator):
    """By rows and columns: of kernels that are sums of a few outer products."""

    method = "separable"

    def __init__(
        self, direct: ModuleType, k: Array, factors: tuple[Array, Array], offset: Pair, codes: Pair
    ) -> None:
        super().__init__(direct, k, offset, codes)
        self.u, self.v = factors
        self.passes = method_kernels(self.method, k.dtype)
        # Sums of one real term go the way of the definition: NaN and infinities too, as long as
        # the sum of a row overflows for no finite image.  Terms of opposite signs do not, nor do
        # complex numbers: inf - inf is NaN.
        self.sure = k.dtype.kind == "u" or (k.dtype.kind == "f" and self.u.shape[-2] == 1)
        if k.dtype.kind == "f" and 1 not in k.shape[-2:]:
            _, exponent = np.frexp(np.abs(self.v).sum(axis=(-2, -1), keepdims=True))
            u, v = np.ldexp(self.u, exponent), np.ldexp(self.v, -exponent)
            if np.isfinite(u).all() and (np.ldexp(v, exponent) == self.v).all():
                self.u, self.v = u, v

    def __call__(self, x: Array, y: Array, fill: Array, workers: int) -> None:
        planes = _planes(y.shape[:-2], x, self.u, self.v, y)
        self.passes.correlate(
            x, self.u, self.v, y, *self.offset, *self.codes, fill, planes, workers
        )
        if not self.sure and not np.isfinite(y.sum()):
            super().__call__(x, y, fill, workers)


class _Transformed(Operator):
    """By Fourier transforms of tiles; what they must not touch, directly."""

    method = "fft"

    def __init__(
        self,
        direct: ModuleType,
        k: Array,
        n: Pair,
        offset: Pair,
        codes: Pair,
        checked: bool,
    ) -> None:
        super().__init__(direct, k, offset, codes)
        # Results of integers are rounded, and only allowed where that makes them exact.
        self.checked = checked or k.dtype.kind == "u"
        kernels = _as_floats(k).reshape(-1, *k.shape[-2:])
        self.transforms = module = method_kernels(self.method, kernels.dtype)
        lane, self.n = kernels.real.dtype, n
        self.axes = (*_fft.axis(n[0], lane), *_fft.axis(n[1], lane))
        self.spectra = np.empty((len(kernels), 2 * n[0] * n[1]), lane)
        peak = np.empty(len(kernels))
        module.spectrum(kernels, self.spectra, peak, *self.axes)
        self.limits, self.ramps, self.both = _fft.limits(kernels, peak)
        kh, kw = k.shape[-2:]
        self.block = module.block(kh, module.BLOCK[0]), module.block(kw, module.BLOCK[1])
        # The number of the kernel takes the place of its offset in the table of planes.
        self.numbers = np.arange(len(kernels)).reshape(k.shape[:-2])

    def __call__(self, x: Array, y: Array, fill: Array, workers: int) -> None:
        batch, (oh, ow) = y.shape[:-2], y.shape[-2:]
        kh, kw = self.k.shape[-2:]
        planes, bank = _ONE_PLANE, 1
        if batch:
            planes = _planes(batch, x, self.k, y)
            planes[:, 1] = np.broadcast_to(self.numbers, batch).ravel()
            bank = _bank(planes[:, 0])
        t0, t1 = self.n[0] - kh + 1, self.n[1] - kw + 1
        across = -(-ow // t1)
        tiles = -(-oh // t0) * across
        (ba, bb), zeros = self.block, self.codes == _FILLED and not fill.any()
        failed = np.zeros((len(planes), tiles, -(-t0 // ba), -(-t1 // bb)), np.uint8)
        self.transforms.correlate(
            x, self.spectra, self.limits, self.ramps, y, kh, kw, *self.offset, *self.codes,
            _as_floats(fill), *self.axes, planes, bank, failed, self.checked, self.both, zeros,
            workers,
        )  # fmt: skip
        if failed.any():
            self._mend(
                failed.reshape(len(planes), -1, across, *failed.shape[2:]),
                x,
                y,
                fill,
                zeros,
                workers,
            )

    def _mend(
        self, failed: Array, x: Array, y: Array, fill: Array, zeros: bool, workers: int
    ) -> None:
        """What is marked of (planes, tiles down, tiles across, blocks down, blocks across)."""
        batch, (oh, ow) = y.shape[:-2], y.shape[-2:]
        kh, kw = self.k.shape[-2:]
        t0, t1 = self.n[0] - kh + 1, self.n[1] - kw + 1
        x = np.broadcast_to(x, batch + x.shape[-2:])
        k = np.broadcast_to(self.k, (*batch, kh, kw))
        marked: Array = np.any(failed, axis=(3, 4))
        for plane in np.flatnonzero(marked.any(axis=(1, 2))):
            at = np.unravel_index(plane, batch) if batch else ()
            arguments = x[at], k[at], y[at], fill, zeros, workers
            whole = np.zeros(marked.shape[1:], bool)
            for m, n in np.argwhere(marked[plane]).tolist():
                high, wide = min(t0, oh - m * t0), min(t1, ow - n * t1)
                pieces = _pieces(failed[plane, m, n], *self.block, high, wide, kh * kw)
                whole[m, n] = not pieces
                for top, bottom, left, right in pieces:
                    rows, cols = (m * t0 + top, m * t0 + bottom), (n * t1 + left, n * t1 + right)
                    self._directly(rows, cols, *arguments)
            for top, bottom, left, right in _rectangles(whole.tolist()):
                rows = top * t0, min(bottom * t0, oh)
                cols = left * t1, min(right * t1, ow)
                self._directly(rows, cols, *arguments)

    def _directly(
        self, rows: Pair, cols: Pair, x: Array, k: Array, y: Array, fill: Array, zeros: bool,
        workers: int,
    ) -> None:  # fmt: skip
        """A part of a plane, without the taps that meet only zeros beyond the image."""
        corner = [o + part[0] for o, part in zip(self.offset, (rows, cols), strict=True)]
        if zeros:
            taps = []
            for n, (o, part) in enumerate(zip(self.offset, (rows, cols), strict=True)):
                first = min(max(1 - o - part[1], 0), k.shape[n] - 1)
                stop = max(min(x.shape[n] - o - part[0], k.shape[n]), first + 1)
                taps.append(slice(first, stop))
                corner[n] += first
            k = np.ascontiguousarray(k[tuple(taps)])
        op = Operator(self.module, k, (corner[0], corner[1]), self.codes)
        op(x, y[rows[0] : rows[1], cols[0] : cols[1]], fill, workers)


# What a call of the direct sum costs beside it, in multiply-adds.
_CALL = 500_000


def _pieces(
    marked: Array, ba: int, bb: int, high: int, wide: int, taps: int
) -> list[tuple[int, int, int, int]]:
    """The parts of a tile's high x wide outputs whose blocks are marked: (top, bottom, left,
    right).  None where it is less work to take all of it."""
    pieces = [
        (top * ba, min(bottom * ba, high), left * bb, min(right * bb, wide))
        for top, bottom, left, right in _rectangles(marked.tolist())
        if top * ba < high and left * bb < wide
    ]
    outputs = sum((bottom - top) * (right - left) for top, bottom, left, right in pieces)
    fewer = _CALL * len(pieces) + outputs * taps < high * wide * taps
    return pieces if fewer else []


def _rectangles(marked: list[list[int]]) -> Iterator[tuple[int, int, int, int]]:
    """Rectangles that the marks of a table make up: (top, bottom, left, right).

    Stretches of a row, joined where the next row has the same."""
    begun: dict[tuple[int, int], int] = {}  # a stretch, and its first row
    for row, marks in enumerate([*marked, []]):
        stretches, first = set(), None
        for col, mark in enumerate([*marks, 0]):
            if mark and first is None:
                first = col
            elif not mark and first is not None:
                stretches.add((first, col))
                first = None
        for stretch in [s for s in begun if s not in stretches]:
            yield begun.pop(stretch), row, *stretch
        for stretch in stretches:
            begun.setdefault(stretch, row)


def _as_floats(a: Array) -> Array:
    """Integer lanes as doubles, small negative numbers as such; others as they are."""
    return a.view(f"i{a.itemsize}").astype(np.float64) if a.dtype.kind == "u" else a


def _bank(offsets: Array) -> int:
    """The number of planes in a row that share an image, if it is the same all along."""
    n = int(np.argmax(offsets != offsets[0])) or len(offsets)
    if len(offsets) % n or (offsets.reshape(-1, n) != offsets[::n, None]).any():
        return 1
    return n


class _Nothing(Operator):
    """Of an empty kernel or result: sums of no terms."""

    def __call__(self, x: Array, y: Array, fill: Array, workers: int) -> None:
        y[...] = 0


class _Four(Operator):
    """Of complex numbers where the lanes hold no pairs: four real correlations."""

    def __init__(self, module: ModuleType, k: Array, offset: Pair, codes: Pair) -> None:
        super().__init__(module, k, offset, codes)
        kr, ki = (np.ascontiguousarray(part) for part in _parts(k))
        self.real, self.imag = (Operator(module, part, offset, codes) for part in (kr, ki))

    def __call__(self, x: Array, y: Array, fill: Array, workers: int) -> None:
        term = np.empty_like(y.real)
        (xr, xi), (fr, fi) = _parts(x), _parts(fill)
        self.real(xr, y.real, fr, workers)
        self.imag(xi, term, fi, workers)
        np.subtract(y.real, term, out=y.real)
        self.imag(xr, y.imag, fr, workers)
        self.real(xi, term, fi, workers)
        np.add(y.imag, term, out=y.imag)


class _InParts(Operator):
    """Part of a bank by part, where the spectra of all its kernels would fill the memory."""

    method = "fft"

    def __init__(
        self,
        module: ModuleType,
        k: Array,
        offset: Pair,
        codes: Pair,
        checked: bool,
    ) -> None:
        super().__init__(module, k, offset, codes)
        self.checked = checked

    def __call__(self, x: Array, y: Array, fill: Array, workers: int) -> None:
        batch = self.k.shape[:-2]
        axis = next(n for n, size in enumerate(batch) if size > 1) - self.k.ndim
        middle = self.k.shape[axis] // 2
        for part in (slice(None, middle), slice(middle, None)):
            at: tuple[Any, ...] = (..., part, *(slice(None),) * (-axis - 1))
            op = _transformed(
                self.module, self.k[at], y[at].shape, self.offset, self.codes, self.checked
            )
            alike = x.ndim < -axis or x.shape[axis] == 1
            op(x if alike else x[at], y[at], fill, workers)


# Bytes of spectra at a time.
_SPECTRA = 1 << 24


def _transformed(
    module: ModuleType,
    k: Array,
    y_shape: tuple[int, ...],
    offset: Pair,
    codes: Pair,
    checked: bool,
) -> Operator:
    lane, comps, _, kernels, outputs, taps = _problem(k.dtype, k.shape, y_shape)
    tile = _fft.tile(outputs, taps, comps, lane)
    if kernels > 1 and kernels * tile.elements * 16 > _SPECTRA:
        return _InParts(module, k, offset, codes, checked)
    return _Transformed(module, k, tile.n, offset, codes, checked)


# Outputs times taps below which every other method takes its time for preparations.
_SMALL = 400_000


def _small(k_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> bool:
    return math.prod(y_shape) * k_shape[-2] * k_shape[-1] < _SMALL


def direct_only(
    lanes: np.dtype[Any], k_shape: tuple[int, ...], y_shape: tuple[int, ...], method: str
) -> bool:
    """Whether this is for the direct sum, whatever the kernel holds."""
    if method == "auto":
        if _small(k_shape, y_shape):
            return True
        seconds = _plan.seconds(*_problem(lanes, k_shape, y_shape))
        return min(seconds, key=seconds.__getitem__) == "direct"
    return method == "direct"


def useful_workers(
    lanes: np.dtype[Any], k_shape: tuple[int, ...], y_shape: tuple[int, ...], method: str
) -> int:
    """Threads that a call gives work to."""
    comps = 4 if lanes.kind == "c" else 1
    outputs, taps = math.prod(y_shape), k_shape[-2] * k_shape[-1] * comps
    if direct_only(lanes, k_shape, y_shape, method) or outputs * taps == 0:
        return _plan.useful_workers(outputs, taps)
    seconds = _plan.seconds(*_problem(lanes, k_shape, y_shape))
    return _plan.useful_workers(outputs, taps, min(seconds.values()))


class Choice(NamedTuple):
    """What 'auto' does with a kernel."""

    method: str
    reason: str
    seconds: dict[str, float]  # predicted for one core, of each method that there is
    factors: tuple[Array, Array] | None


def choose(k: Array, y_shape: tuple[int, ...], thorough: bool = False) -> Choice:
    """The method predicted to be fastest of those that the kernel's values allow.

    `thorough`: with all that is possible in `seconds`, not only what could be the fastest.
    """
    problem = _problem(k.dtype, k.shape, y_shape)
    seconds = dict(_plan.seconds(*problem))
    why, factors = "", None
    if "separable" in seconds:
        factors = _factors(k, problem, seconds, thorough)
        if factors is None:
            del seconds["separable"]
        else:
            rank = factors[0].shape[-2]
            seconds["separable"] = _plan.seconds(*problem, rank)["separable"]
            why = "an outer product" if rank == 1 else f"a sum of {rank} outer products"
            why = f"the kernel is {why}"
    if "fft" in seconds and (thorough or seconds["fft"] <= min(seconds.values())):
        floats = _as_floats(k)
        refusal = _fft.refusal(floats) or _fft.unfit(floats) or _fft.doubt(k)
        if refusal:
            del seconds["fft"]
            why = why or f"no transforms: {refusal}"
    method = min(seconds, key=seconds.__getitem__)
    return Choice(method, why, seconds, factors if method == "separable" else None)


def _factors(
    k: Array, problem: tuple[str, int, int, int, Pair, Pair], seconds: dict[str, float],
    thorough: bool,
) -> tuple[Array, Array] | None:  # fmt: skip
    """The kernel's factors, where they are worth the search for them."""
    others = min(s for name, s in seconds.items() if name != "separable")
    if thorough:
        return _separable.known_factors(k)
    if seconds["separable"] > others:
        return None
    if _separable.looks_like_one(k):
        return _separable.known_factors(k)
    # A kernel of higher rank is rare, the search not for nothing.
    twice = _plan.seconds(*problem, 2)["separable"]
    return _separable.known_factors(k) if twice < 0.5 * others else None


@silent
def explain(
    module: ModuleType, k: Array, y_shape: tuple[int, ...], workers: int
) -> tuple[str, str, dict[str, float]]:
    """The method that 'auto' takes, why, and the predicted seconds of all that are possible."""
    if k.size == 0 or 0 in y_shape:
        return "direct", "there is nothing to compute", {"direct": 0.0}
    choice = choose(k, y_shape, thorough=True)
    seconds = {name: s / workers for name, s in choice.seconds.items()}
    if k.dtype.kind == "c" and not module.COMPLEX:
        return "direct", "the only one for this type", {"direct": 4 * seconds["direct"]}
    if _small(k.shape, y_shape):
        return "direct", "the problem is small", seconds
    method = choice.method
    why = f"{choice.reason}; " if choice.reason else ""
    others = [f"{name} {seconds[name]:.2g} s" for name in seconds if name != method]
    than = f" (predicted {seconds[method]:.2g} s, {', '.join(others)})" if others else ""
    return method, f"{why}{method} is " + (f"fastest{than}" if others else "all there is"), seconds


@silent
def operator(
    module: ModuleType,
    k: Array,
    y_shape: tuple[int, ...],
    offset: Pair,
    codes: Pair,
    method: str = "auto",
) -> Operator:
    """The operator of kernel k (…, kh, kw) for results of this shape.

    With 'auto' the fastest one that the kernel's values allow.  ValueError if a method that was
    asked for cannot do it.
    """
    if k.size == 0 or 0 in y_shape:
        return _Nothing(module, k, offset, codes)
    if k.dtype.kind == "c" and not module.COMPLEX:
        if method not in ("auto", "direct"):
            raise ValueError(f"method={method!r} is not available for {k.dtype}")
        return _Four(module, k, offset, codes)
    if direct_only(k.dtype, k.shape, y_shape, method):
        return Operator(module, k, offset, codes)
    if method == "auto":
        choice = choose(k, y_shape)
        if choice.factors is not None:
            return _Separated(module, k, choice.factors, offset, codes)
        if choice.method == "fft":
            return _transformed(module, k, y_shape, offset, codes, checked=True)
        return Operator(module, k, offset, codes)
    if method == "separable":
        factors = None if k.dtype.char in "gG" else _separable.known_factors(k)
        if factors is None:
            raise ValueError(
                "method='separable' is not available: to within its rounding the kernel is no "
                f"sum of at most {_separable.MOST_TERMS} outer products of at most "
                f"{_separable.MOST_TAPS} elements, or there are no such loops for {k.dtype}"
            )
        return _Separated(module, k, factors, offset, codes)
    floats = _as_floats(k)
    refusal = _fft.refusal(floats)
    if refusal:
        raise ValueError(f"method='fft' is not available: {refusal}")
    if _fft.unfit(floats):
        return Operator(module, k, offset, codes)
    return _transformed(module, k, y_shape, offset, codes, checked=False)


def _problem(
    lanes: np.dtype[Any], k_shape: tuple[int, ...], y_shape: tuple[int, ...]
) -> tuple[str, int, int, int, Pair, Pair]:
    """What the cost model wants to know."""
    comps = 2 if lanes.kind == "c" else 1
    return (
        f"{lanes.kind if comps == 1 else 'f'}{lanes.itemsize // comps}",
        comps,
        math.prod(y_shape[:-2]),
        math.prod(k_shape[:-2]),
        (y_shape[-2], y_shape[-1]),
        (k_shape[-2], k_shape[-1]),
    )


# Computes y = the window of the continued x, correlated with k: (x, k, y, fill, workers).
Run = Callable[[Array, Array, Array, Array, int], None]


def runner(
    module: ModuleType,
    lanes: np.dtype[Any],
    k_shape: tuple[int, ...],
    y_shape: tuple[int, ...],
    offset: Pair,
    codes: Pair,
    method: str,
) -> tuple[Run, bool]:
    """`run` with all that shapes and types decide, for many calls; and whether it is the direct
    sum whatever k holds, which then goes without an operator."""
    (o0, o1), (b0, b1) = offset, codes
    correlate, planes = module.correlate, _ONE_PLANE

    def direct(x: Array, k: Array, y: Array, fill: Array, workers: int) -> None:
        correlate(x, k, y, o0, o1, b0, b1, fill, planes, workers)

    def general(x: Array, k: Array, y: Array, fill: Array, workers: int) -> None:
        run(module, x, k, y, offset, codes, fill, workers, method)

    plain = len(y_shape) == 2 and 0 not in (*k_shape, *y_shape)
    plain = plain and (lanes.kind != "c" or module.COMPLEX)
    if plain and direct_only(lanes, k_shape, y_shape, method):
        return direct, True
    return general, False


@silent
def run(
    module: ModuleType,
    x: Array,
    k: Array,
    y: Array,
    offset: Pair,
    codes: Pair,
    fill: Array,
    workers: int,
    method: str = "auto",
) -> None:
    """y = window of the continued x, correlated with k; batches of x and k broadcast to y's."""
    operator(module, k, y.shape, offset, codes, method)(x, y, fill, workers)


# ---------------------------------------------------------------- gradients

# Partial sums of the kernel gradient: enough to share among workers, few enough to stay small.
# Functions of the shapes alone, so that the sums are the same for any number of workers.
_MAX_SLABS = 64
_ROWS_PER_SLAB = 32
_TABLE = 1 << 17
# Elements beyond the edges of all planes that are computed at a time before they are folded.
_FOLDED = 1 << 18
# By transforms: elements of a tile, in bytes; terms that a lane of the direct sum adds at a time
# (GRAD_ROWS, GRAD_LANES of direct.pyx), by its bytes; pairs of tiles worth a transform back.
_GRAD_BYTES = 1_200_000
_GRAD_TERMS = 1024
_PAIRS_PER_SLAB = 8


def kernel_grad(
    module: ModuleType,
    x: Array,
    dy: Array,
    k_shape: tuple[int, int],
    offset: tuple[int, int],
    codes: tuple[int, int],
    fill: Array,
    workers: int,
    method: str = "auto",
) -> Array:
    """Gradient to the kernel of every plane of dy, (*batch, kh, kw), in a type for summing."""
    batch = dy.shape[:-2]
    if dy.dtype.kind == "c" and not module.COMPLEX:
        (xr, xi), (gr, gi), (fr, fi) = _parts(x), _parts(dy), _parts(fill)

        def real(part: Array, g: Array, f: Array) -> Array:
            return kernel_grad(module, part, g, k_shape, offset, codes, f, workers, method)

        dk = np.empty((*batch, *k_shape), dy.dtype)
        dk.real = real(xr, gr, fr) + real(xi, gi, fi)
        dk.imag = real(xr, gi, fr) - real(xi, gr, fi)
        return dk
    # Partial sums of 32-bit floats are added in 64 bits; of other types in their own.
    sums = {"f": np.dtype("f8"), "F": np.dtype("c16")}.get(fill.dtype.char, fill.dtype)
    if dy.size == 0 or 0 in k_shape:
        return np.zeros((*batch, *k_shape), sums)
    planes = _planes(batch, x, dy, dy) if batch else _ONE_PLANE
    ways = (x, dy, planes, k_shape, offset, codes, fill, sums, workers)
    if method in ("direct", "separable"):
        total = _grad_directly(module, *ways)
    else:
        total = _grad_by_transforms(module, *ways, asked=method == "fft")
    return total.reshape(*batch, *k_shape)


def _grad_directly(
    module: ModuleType,
    x: Array,
    dy: Array,
    planes: Array,
    k_shape: Pair,
    offset: Pair,
    codes: Pair,
    fill: Array,
    sums: np.dtype[Any],
    workers: int,
) -> Array:
    taps = k_shape[0] * k_shape[1]
    slabs = min(_MAX_SLABS // len(planes), dy.shape[-2] // _ROWS_PER_SLAB, _TABLE // taps)
    table = np.zeros((len(planes), max(slabs, 1), *k_shape), sums)
    module.correlate_kernel_grad(x, dy, table, *offset, *codes, fill, planes, workers)
    total: Array = table.sum(axis=1, dtype=sums)
    return total


def _grad_by_transforms(
    module: ModuleType,
    x: Array,
    dy: Array,
    planes: Array,
    k_shape: Pair,
    offset: Pair,
    codes: Pair,
    fill: Array,
    sums: np.dtype[Any],
    workers: int,
    asked: bool,
) -> Array:
    """Where it is faster, or asked for; the planes that it must not touch directly."""
    dtype = fill.real.dtype
    lane, comps, _, _, outputs, _ = _problem(fill.dtype, k_shape, dy.shape)
    most = _GRAD_BYTES // dtype.itemsize  # three tiles at a time: smaller than for correlation
    able = fill.dtype.char in "fdFD" and max(k_shape) <= _fft.LARGEST
    if asked and not able and fill.dtype.kind != "u":
        raise ValueError(f"method='fft' is not available for a {k_shape} kernel of {fill.dtype}")
    if not able or not (asked or _plan.transform_gradient(lane, comps, outputs, k_shape, most)):
        return _grad_directly(module, x, dy, planes, k_shape, offset, codes, fill, sums, workers)
    n0, n1 = _fft.tile(outputs, k_shape, comps, lane, most).n
    tiles = -(-outputs[0] // (n0 - k_shape[0] + 1)) * -(-outputs[1] // (n1 - k_shape[1] + 1))
    pairs = tiles if comps == 2 else (tiles + 1) // 2
    slabs = max(min(_MAX_SLABS // len(planes), 2 * _TABLE // (k_shape[0] * k_shape[1])), 1)
    per_slab = max(-(-pairs // slabs), min(_PAIRS_PER_SLAB, pairs))
    table = np.zeros((len(planes), -(-pairs // per_slab), *k_shape), sums)
    failed = np.zeros(table.shape[:2], np.uint8)
    unit = float(np.finfo(dtype).eps) / 2
    allowed = min(math.prod(outputs), _GRAD_TERMS * dtype.itemsize) * unit
    method_kernels("fft", fill.dtype).correlate_kernel_grad(
        x, dy, table, failed, *offset, *codes, fill, *_fft.axis(n0, dtype), *_fft.axis(n1, dtype),
        planes, per_slab, _fft.GRAD_ERROR * unit, math.inf if asked else allowed, workers,
    )  # fmt: skip
    total: Array = table.sum(axis=1, dtype=sums)
    again = failed.any(axis=1)
    if again.any():
        total[again] = _grad_directly(
            module, x, dy, planes[again], k_shape, offset, codes, fill, sums, workers
        )
    return total


def image_grad(
    module: ModuleType,
    dy: Array,
    k: Array,
    x_shape: tuple[int, ...],
    offset: tuple[int, int],
    bounds: tuple[str, str],
    zero: Array,
    workers: int,
    method: str = "auto",
) -> Array:
    """Gradient to the image of every plane of dy, (*batch, H, W)."""
    # A full correlation of dy with the reversed kernel; either may be what slides, and the
    # smaller one makes fewer products.  What stands still is continued by zeros, and 0 * inf
    # is NaN: a dy that is not finite must not slide.
    (o0, o1), (kh, kw), (oh, ow) = offset, k.shape[-2:], dy.shape[-2:]
    k = np.conjugate(k) if k.dtype.kind == "c" else k
    if oh * ow < kh * kw and (dy.dtype.kind in "iu" or np.isfinite(dy).all()):
        image, taps = k, dy.astype(k.dtype, copy=False)
        method = method if method == "direct" else "auto"  # which were chosen for the kernel
    else:
        image, taps = dy, k
    taps = np.require(taps[..., ::-1, ::-1], requirements=["C", "A"])
    th, tw = taps.shape[-2:]
    codes = (CODES["fill"],) * 2

    def part(i0: int, i1: int, j0: int, j1: int, out: Array | None) -> Array:
        if out is None:
            out = np.empty((*dy.shape[:-2], i1 - i0, j1 - j0), dy.dtype)
        corner = (i0 - o0 - th + 1, j0 - o1 - tw + 1)
        n = min(workers, _plan.useful_workers(out.size, th * tw))
        run(module, image, taps, out, corner, codes, zero, n, method)
        return out

    dx = np.zeros((*dy.shape[:-2], *x_shape), dy.dtype)
    if dy.size and k.size:
        stop = (o0 + oh + kh - 1, o1 + ow + kw - 1)
        fold(part, dx, offset, stop, bounds, _FOLDED // math.prod(dy.shape[:-2]))
    return dx
