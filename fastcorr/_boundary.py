"""Modes and boundaries: which window of the continued image a mode is, and the adjoint of
the continuation.

A boundary rule continues an axis of n elements to all integers: ``fill`` by a constant,
``wrap`` (a b c | a b c | a b c), ``symm`` (c b a | a b c | c b a), ``mirror`` (c b | a b c |
b a), ``nearest`` (a a a | a b c | c c c).  The kernels read through the rule; here is its
transpose, which folds what lies beyond the edges back onto the axis.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastcorr._arguments import shown

MODES = ("full", "same", "valid")

# Names accepted -> name used.
BOUNDARIES = {
    "fill": "fill", "pad": "fill", "wrap": "wrap", "circular": "wrap", "symm": "symm",
    "symmetric": "symm", "mirror": "mirror", "nearest": "nearest",
}  # fmt: skip
# PyTorch's names.
PADDING_MODES = {
    "zeros": "fill", "reflect": "mirror", "replicate": "nearest", "circular": "wrap",
}  # fmt: skip
# The numbers by which the kernels know them (direct.pyx, Boundary); a test compares the two.
CODES = {"fill": 0, "wrap": 1, "symm": 2, "mirror": 3, "nearest": 4}

# Coordinates are 64-bit numbers, and sums of a few such must be, too.
LARGEST = 1 << 60


def check_mode(mode: object) -> str:
    if not isinstance(mode, str) or mode not in MODES:
        raise ValueError(
            f"Acceptable mode flags are 'valid', 'same', or 'full'; got {shown(mode)}."
        )
    return str(mode)


def check_boundary(boundary: object) -> tuple[str, str]:
    """The rule of each axis, from one name or a pair of names."""
    pair = boundary if isinstance(boundary, tuple) else (boundary, boundary)
    if len(pair) != 2:
        raise ValueError(
            f"boundary must be one name or a pair, one per axis, got {shown(boundary)}"
        )
    try:
        return BOUNDARIES[pair[0]], BOUNDARIES[pair[1]]
    except KeyError:
        raise ValueError(
            "Acceptable boundary flags are 'fill' (or 'pad'), 'wrap' (or 'circular'), 'symm' "
            f"(or 'symmetric'), 'mirror' and 'nearest', or a pair of them; got {shown(boundary)}."
        ) from None


class Window(NamedTuple):
    """The outputs of a mode: the first meets the image at `offset`, there are `shape`."""

    offset: tuple[int, int]
    shape: tuple[int, int]


def window(mode: str, x: tuple[int, int], k: tuple[int, int], flipped: bool) -> Window:
    """The window of a mode, for image and kernel shapes; `flipped` for convolution.

    The kernel is given as it is applied: convolution's has been flipped, which for even
    sizes moves the centre of ``'same'`` by one.
    """
    if mode == "full":
        return Window((1 - k[0], 1 - k[1]), (x[0] + k[0] - 1, x[1] + k[1] - 1))
    if mode == "same":
        centre = [n // 2 if flipped else (n - 1) // 2 for n in k]
        return Window((-centre[0], -centre[1]), x)
    return Window((0, 0), (x[0] - k[0] + 1, x[1] - k[1] + 1))


def _runs(start: int, stop: int, n: int, bound: str) -> Iterator[tuple[int, int, int, int]]:
    """Where the indices [start, stop) of the continued axis lie in the axis of n elements.

    Yields (from, to, source, step): index `from` lies at `source`, those after it each `step`
    (1, -1 or 0) further on.  Indices that the constant fills are left out.
    """
    i = start
    while i < stop:
        if 0 <= i < n:
            source, step, length = i, 1, n - i
        elif bound in ("fill", "nearest") or n == 1:
            source, step, length = (0, 0, -i) if i < 0 else (n - 1, 0, stop - i)
        else:
            period = n - 1 if bound == "mirror" else n
            backwards = bound != "wrap" and i // period % 2
            length = period - i % period
            source, step = (n - 1 - i % period, -1) if backwards else (i % period, 1)
        to = min(i + length, stop)
        if bound != "fill" or 0 <= i < n:
            yield i, to, source, step
        i = to


def sources(i: npt.NDArray[np.intp], n: int, bound: str) -> npt.NDArray[np.intp]:
    """The elements of an axis of n that indices of the continued axis show; of PyTorch's rules."""
    if bound == "wrap":
        return i % n
    if bound == "mirror" and n > 1:
        i = i % (2 * n - 2)
        return np.minimum(i, 2 * n - 2 - i)
    return np.clip(i, 0, n - 1)


def _folded(
    piece: npt.NDArray[Any], start: int, n: int, bound: str, axis: int
) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
    """What indices [start, start + length) of the continued axis add to which of its n elements.

    A long piece is reduced to n elements at once, a short one given run by run, so that
    neither the number of the parts nor their size grows beyond the piece's.
    """
    piece = np.moveaxis(piece, axis, 0)
    if bound in ("wrap", "symm", "mirror") and n > 1 and len(piece) > 2 * n:
        period = {"wrap": n, "symm": 2 * n, "mirror": 2 * n - 2}[bound]
        before = start % period
        padded = np.zeros(
            (-(-(before + len(piece)) // period) * period, *piece.shape[1:]), piece.dtype
        )
        padded[before : before + len(piece)] = piece
        total = padded.reshape(-1, period, *piece.shape[1:]).sum(axis=0, dtype=piece.dtype)
        once = total[:n].copy()
        back = total[n:][::-1]  # of symm all elements, of mirror all but the two ends
        if len(back):
            first = (n - len(back)) // 2
            once[first : first + len(back)] += back
        yield slice(0, n), np.moveaxis(once, 0, axis)
        return
    for i, to, source, step in _runs(start, start + len(piece), n, bound):
        part = piece[i - start : to - start]
        if step == 0:
            target = slice(source, source + 1)
            part = np.add.reduce(part, axis=0, dtype=piece.dtype, keepdims=True)
        elif step > 0:
            target = slice(source, source + to - i)
        else:
            target = slice(source - (to - i) + 1, source + 1)
            part = part[::-1]
        yield target, np.moveaxis(part, 0, axis)


def fold(
    part: Callable[[int, int, int, int, npt.NDArray[Any] | None], npt.NDArray[Any]],
    dx: npt.NDArray[Any],
    start: tuple[int, int],
    stop: tuple[int, int],
    bounds: tuple[str, str],
    chunk: int,
) -> None:
    """dx = adjoint of the continuation, applied to the plane [start, stop) of the continued image.

    dx comes as zeros.

    ``part(i0, i1, j0, j1, out)`` computes a rectangle of that plane, into `out` if given, and
    returns it.  What lies inside the image is computed straight into dx; the rest is folded
    onto it in rectangles of at most `chunk` elements, always in the same order.
    """
    H, W = dx.shape[-2:]
    # Nothing beyond an edge that a constant continues comes back.
    i0, i1 = (max(start[0], 0), min(stop[0], H)) if bounds[0] == "fill" else (start[0], stop[0])
    j0, j1 = (max(start[1], 0), min(stop[1], W)) if bounds[1] == "fill" else (start[1], stop[1])
    a0, a1 = max(i0, 0), min(i1, H)
    b0, b1 = max(j0, 0), min(j1, W)
    inside = a0 < a1 and b0 < b1
    if inside:
        part(a0, a1, b0, b1, dx[..., a0:a1, b0:b1])
        borders = [(i0, a0, j0, j1), (a1, i1, j0, j1), (a0, a1, j0, b0), (a0, a1, b1, j1)]
    else:
        borders = [(i0, i1, j0, j1)]
    for top, bottom, left, right in borders:
        if top >= bottom or left >= right:
            continue
        wide = min(right - left, max(chunk, 1))
        high = max(1, chunk // wide)
        for i, j in itertools.product(range(top, bottom, high), range(left, right, wide)):
            piece = part(i, min(i + high, bottom), j, min(j + wide, right), None)
            for rows, band in _folded(piece, i, H, bounds[0], -2):
                for cols, block in _folded(band, j, W, bounds[1], -1):
                    dx[..., rows, cols] += block
