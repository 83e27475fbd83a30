"""Planes in, planes out: a correlation and its gradients, once shapes and types are settled.

The faces bring operands as the kernels read them, images with the correlated axes last and
kernels as they are applied, and the window of the continued image that is wanted.  Here a
kernel becomes an operator by one of the methods (`_plan`), and an operator is applied to
images.  A gradient is the adjoint of the same steps in reverse.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from fastcorr._boundary import CODES, fold
from fastcorr._plan import useful_workers

Array = npt.NDArray[Any]
Pair = tuple[int, int]

# ---------------------------------------------------------------- planes

_ONE_PLANE = np.zeros((1, 3), np.intp)


def _planes(batch: tuple[int, ...], *arrays: Array) -> Array:
    """Byte offsets of every plane of the batch in each of three arrays."""
    planes = np.zeros((*batch, 3), np.intp)
    for n, a in enumerate(arrays):
        strides = np.broadcast_to(a, batch + a.shape[-2:]).strides
        for axis, size in enumerate(batch):
            steps = np.arange(size, dtype=np.intp) * strides[axis]
            planes[..., n] += steps.reshape(-1, *(1,) * (len(batch) - 1 - axis))
    return planes.reshape(-1, 3)


def _parts(a: Array) -> tuple[Array, Array]:
    """Real and imaginary part; of a real array too, without allocating the zeros."""
    zeros = np.broadcast_to(np.zeros((), np.int8), a.shape)
    return (a.real, a.imag) if a.dtype.kind == "c" else (a, zeros)


# ---------------------------------------------------------------- operators


class Operator:
    """A kernel made ready by one method for one window of images of one shape.

    ``operator(x, y, fill, workers)`` computes y = the window of the continued x, correlated
    with k; batches of x and k broadcast to y's.
    """

    method = "direct"

    def __init__(self, module: ModuleType, k: Array, offset: Pair, codes: Pair) -> None:
        self.module, self.k, self.offset, self.codes = module, k, offset, codes

    def __call__(self, x: Array, y: Array, fill: Array, workers: int) -> None:
        batch = y.shape[:-2]
        planes = _planes(batch, x, self.k, y) if batch else _ONE_PLANE
        self.module.correlate(x, self.k, y, *self.offset, *self.codes, fill, planes, workers)


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
        with np.errstate(all="ignore"):
            self.real(xr, y.real, fr, workers)
            self.imag(xi, term, fi, workers)
            np.subtract(y.real, term, out=y.real)
            self.imag(xr, y.imag, fr, workers)
            self.real(xi, term, fi, workers)
            np.add(y.imag, term, out=y.imag)


def operator(
    module: ModuleType,
    k: Array,
    x_shape: tuple[int, ...],
    y_shape: tuple[int, ...],
    offset: Pair,
    codes: Pair,
    method: str = "direct",
) -> Operator:
    """The operator of kernel k (…, kh, kw) for images and results of these shapes."""
    if k.size == 0 or 0 in y_shape:
        return _Nothing(module, k, offset, codes)
    if k.dtype.kind == "c" and not module.COMPLEX:
        return _Four(module, k, offset, codes)
    return Operator(module, k, offset, codes)


def run(
    module: ModuleType,
    x: Array,
    k: Array,
    y: Array,
    offset: Pair,
    codes: Pair,
    fill: Array,
    workers: int,
    method: str = "direct",
) -> None:
    """y = window of the continued x, correlated with k; batches of x and k broadcast to y's."""
    operator(module, k, x.shape, y.shape, offset, codes, method)(x, y, fill, workers)


# ---------------------------------------------------------------- gradients

# Partial sums of the kernel gradient: enough to share among workers, few enough to stay small.
# Functions of the shapes alone, so that the sums are the same for any number of workers.
_MAX_SLABS = 64
_ROWS_PER_SLAB = 32
_TABLE = 1 << 17
# Elements beyond the edges of all planes that are computed at a time before they are folded.
_FOLDED = 1 << 18


def kernel_grad(
    module: ModuleType,
    x: Array,
    dy: Array,
    k_shape: tuple[int, int],
    offset: tuple[int, int],
    codes: tuple[int, int],
    fill: Array,
    workers: int,
) -> Array:
    """Gradient to the kernel of every plane of dy, (*batch, kh, kw), in a type for summing."""
    batch = dy.shape[:-2]
    if dy.dtype.kind == "c" and not module.COMPLEX:
        (xr, xi), (gr, gi), (fr, fi) = _parts(x), _parts(dy), _parts(fill)

        def real(part: Array, g: Array, f: Array) -> Array:
            return kernel_grad(module, part, g, k_shape, offset, codes, f, workers)

        dk = np.empty((*batch, *k_shape), dy.dtype)
        dk.real = real(xr, gr, fr) + real(xi, gi, fi)
        dk.imag = real(xr, gi, fr) - real(xi, gr, fi)
        return dk
    # Partial sums of 32-bit floats are added in 64 bits; of other types in their own.
    sums = {"f": np.dtype("f8"), "F": np.dtype("c16")}.get(fill.dtype.char, fill.dtype)
    taps = k_shape[0] * k_shape[1]
    if dy.size == 0 or taps == 0:
        return np.zeros((*batch, *k_shape), sums)
    count = math.prod(batch)
    slabs = min(_MAX_SLABS // count, dy.shape[-2] // _ROWS_PER_SLAB, _TABLE // taps)
    table = np.zeros((count, max(slabs, 1), *k_shape), sums)
    planes = _planes(batch, x, dy, dy) if batch else _ONE_PLANE
    module.correlate_kernel_grad(x, dy, table, *offset, *codes, fill, planes, workers)
    total: Array = table.sum(axis=1, dtype=sums)
    return total.reshape(*batch, *k_shape)


def image_grad(
    module: ModuleType,
    dy: Array,
    k: Array,
    x_shape: tuple[int, ...],
    offset: tuple[int, int],
    bounds: tuple[str, str],
    zero: Array,
    workers: int,
) -> Array:
    """Gradient to the image of every plane of dy, (*batch, H, W)."""
    # A full correlation of dy with the reversed kernel; either may be what slides, and the
    # smaller one makes fewer products.  What stands still is continued by zeros, and 0 * inf
    # is NaN: a dy that is not finite must not slide.
    (o0, o1), (kh, kw), (oh, ow) = offset, k.shape[-2:], dy.shape[-2:]
    k = np.conjugate(k) if k.dtype.kind == "c" else k
    if oh * ow < kh * kw and (dy.dtype.kind in "iu" or np.isfinite(dy).all()):
        image, taps = k, dy.astype(k.dtype, copy=False)
    else:
        image, taps = dy, k
    taps = np.ascontiguousarray(taps[..., ::-1, ::-1])
    th, tw = taps.shape[-2:]
    codes = (CODES["fill"],) * 2

    def part(i0: int, i1: int, j0: int, j1: int, out: Array | None) -> Array:
        if out is None:
            out = np.empty((*dy.shape[:-2], i1 - i0, j1 - j0), dy.dtype)
        corner = (i0 - o0 - th + 1, j0 - o1 - tw + 1)
        n = min(workers, useful_workers(out.size, th * tw))
        run(module, image, taps, out, corner, codes, zero, n)
        return out

    dx = np.zeros((*dy.shape[:-2], *x_shape), dy.dtype)
    if dy.size and k.size:
        stop = (o0 + oh + kh - 1, o1 + ow + kw - 1)
        fold(part, dx, offset, stop, bounds, _FOLDED // math.prod(dy.shape[:-2]))
    return dx
