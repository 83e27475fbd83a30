"""Modes and boundaries: which window of the continued image a mode is, and the adjoint of
the continuation.

A boundary rule continues an axis of n elements to all integers: ``fill`` by a constant,
``wrap`` (a b c | a b c | a b c), ``symm`` (c b a | a b c | c b a), ``mirror`` (c b | a b c |
b a), ``nearest`` (a a a | a b c | c c c).  The kernels read through the rule; here is its
transpose, which folds what lies beyond the edges back onto the axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

MODES = ("full", "same", "valid")

# Names accepted -> name used.
_BOUNDARIES = {
    "fill": "fill", "pad": "fill", "wrap": "wrap", "circular": "wrap", "symm": "symm",
    "symmetric": "symm", "mirror": "mirror", "nearest": "nearest",
}  # fmt: skip
# The numbers by which the kernels know them (direct.pyx, Boundary); a test compares the two.
CODES = {"fill": 0, "wrap": 1, "symm": 2, "mirror": 3, "nearest": 4}


def check_mode(mode: object) -> str:
    hash(mode)  # a list is a TypeError, as in SciPy
    if mode not in MODES:
        raise ValueError(f"Acceptable mode flags are 'valid', 'same', or 'full'; got {mode!r}.")
    return str(mode)


def check_boundary(boundary: object) -> tuple[str, str]:
    """The rule of each axis, from one name or a pair of names."""
    pair = boundary if isinstance(boundary, (tuple, list)) else (boundary, boundary)
    if len(pair) != 2:
        raise ValueError(f"boundary must be one name or a pair, one per axis, got {boundary!r}")
    try:
        return _BOUNDARIES[pair[0]], _BOUNDARIES[pair[1]]
    except KeyError:
        raise ValueError(
            "Acceptable boundary flags are 'fill' (or 'pad'), 'wrap' (or 'circular'), 'symm' "
            f"(or 'symmetric'), 'mirror' and 'nearest', or a pair of them; got {boundary!r}."
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


def _target(source: int, step: int, i: int, j: int) -> slice:
    """The elements that positions [i, j) of a run add to, in ascending order."""
    if step == 0:
        return slice(source, source + 1)
    return slice(source + i, source + j) if step > 0 else slice(source - j + 1, source - i + 1)


def _collapse(piece: npt.NDArray[Any], axis: int, step: int) -> npt.NDArray[Any]:
    """A piece of a run as its target takes it: summed, reversed or as it is."""
    if step == 0:
        return np.add.reduce(piece, axis=axis, dtype=piece.dtype, keepdims=True)
    return piece if step > 0 else np.flip(piece, axis)


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
    onto it in rectangles of at most `chunk` elements (or one row), always in the same order.
    """
    H, W = dx.shape[-2:]
    i0, i1 = max(start[0], 0), min(stop[0], H)
    j0, j1 = max(start[1], 0), min(stop[1], W)
    if i0 < i1 and j0 < j1:
        part(i0, i1, j0, j1, dx[..., i0:i1, j0:j1])
    columns = list(_runs(start[1], stop[1], W, bounds[1]))
    for r0, r1, row, down in _runs(start[0], stop[0], H, bounds[0]):
        for c0, c1, col, right in columns:
            if 0 <= r0 < H and 0 <= c0 < W:
                continue
            high = max(1, chunk // (c1 - c0))
            for i in range(r0, r1, high):
                j = min(i + high, r1)
                piece = _collapse(_collapse(part(i, j, c0, c1, None), -1, right), -2, down)
                rows = _target(row, down, i - r0, j - r0)
                dx[..., rows, _target(col, right, 0, c1 - c0)] += piece
