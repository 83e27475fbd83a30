"""The kernels that the command knows by name, and those written out on the command line."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Kernel = npt.NDArray[np.float64]

# As correlation applies them.  Sobel: positive where the picture grows brighter to the right
# (sobel-x) or downwards (sobel-y), and not normalised, as in scipy.ndimage and OpenCV: divided
# by 4 the edges of most photographs are too dark to be seen.
_NAMED = {
    "sobel-x": [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],
    "sobel-y": [[-1, -2, -1], [0, 0, 0], [1, 2, 1]],
    "laplace": [[0, 1, 0], [1, -4, 1], [0, 1, 0]],
    "sharpen": [[0, -1, 0], [-1, 5, -1], [0, -1, 0]],
    "emboss": [[-2, -1, 0], [-1, 1, 1], [0, 1, 2]],
}
_FORMS = ", ".join((*_NAMED, "gaussian:SIGMA", "box:N", "FILE.npy", "rows such as '1,-1;2,-2'"))

# The correlation is direct: a kernel larger than this is a slip of the pen.
_MAX_SIDE = 1001


def gaussian(sigma: float) -> Kernel:
    """Gaussian weights of sum 1, cut off where scipy.ndimage cuts them: at 4 sigma."""
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma must be greater than 0 and finite, got {sigma:g}")
    radius = int(min(4 * sigma + 0.5, _MAX_SIDE))
    _check_side(2 * radius + 1)
    g = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    g /= g.sum()
    return np.outer(g, g)


def box(n: int) -> Kernel:
    """The mean of n x n pixels."""
    if n < 1:
        raise ValueError(f"N must be at least 1, got {n}")
    _check_side(n)
    return np.full((n, n), 1 / n**2)


def _check_side(n: int) -> None:
    if n > _MAX_SIDE:
        raise ValueError(f"more than {_MAX_SIDE} x {_MAX_SIDE} weights")


def parse(text: str) -> Kernel:
    """The kernel that a name, 'gaussian:SIGMA', 'box:N' or rows of numbers stand for."""
    name, colon, size = text.partition(":")
    if text in _NAMED:
        return np.array(_NAMED[text], np.float64)
    if colon and name == "gaussian":
        return gaussian(_number(size))
    if colon and name == "box":
        try:
            n = int(size)
        except ValueError:
            raise ValueError(f"{size!r} is not a whole number") from None
        return box(n)
    if not text.strip():
        raise ValueError("it is empty")
    try:
        rows = [
            [_number(cell) for cell in (row.split(",") if "," in row else row.split())]
            for row in text.split(";")
        ]
    except ValueError as error:
        raise ValueError(f"{error}; a kernel is one of {_FORMS}") from None
    if len({len(row) for row in rows}) > 1:
        lengths = ", ".join(str(len(row)) for row in rows)
        raise ValueError(f"its rows have different lengths: {lengths}")
    return check(np.array(rows))


def check(weights: npt.NDArray[np.generic]) -> Kernel:
    """Weights that came from outside: real, finite, two-dimensional."""
    if weights.dtype.kind not in "biuf":
        raise ValueError(f"its weights are not real numbers but {weights.dtype}")
    if weights.ndim != 2 or not weights.size:
        raise ValueError(f"it is not a matrix: its shape is {weights.shape}")
    _check_side(max(weights.shape))
    k = weights.astype(np.float64)
    if not np.isfinite(k).all():
        raise ValueError("a weight is infinite or not a number")
    return k


def is_derivative(weights: Kernel) -> bool:
    """Whether the weights cancel: flat parts of a picture give 0, edges both signs."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(abs(weights.sum()) <= 1e-3 * np.abs(weights).sum())


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text.strip()!r} is not a number") from None
