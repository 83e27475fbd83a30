"""Winograd's algorithms for 3 x 3 kernels: when they are taken, and how they are called.

F(m x m, 3 x 3) computes tiles of m x m outputs with (m + 2)^2 multiplications for each pair of
channels instead of 9 m^2: m = 2 or 4.  See winograd.pyx.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastcorr._channels import embed, readable, unpair
from fastcorr._dispatch import method_kernels

Array = npt.NDArray[Any]
Pair = tuple[int, int]

TILES = {"winograd": 2, "winograd4": 4}

# Time in multiply-adds of the direct sum, from layers of 3 to 512 channels in both types: of a
# product, of the transforms of a tile for each channel and each output channel, and of each pair
# of these; then what the direct sum spends on packing for each pixel and channel, and each pair.
_COSTS = {2: (1.0, 210, 230, 110), 4: (1.15, 450, 430, 180)}
_DIRECT = 50, 35
# Of the gradient to the weight: partial sums at most, tiles of one at least, numbers of all.
_SLABS = 16
_TILES_PER_SLAB = 128
_PARTIAL = 1 << 20
# Relative errors of float32 of at most so much allow m = 4: four times what was seen on normally
# distributed data (docs/accuracy.md).
_RTOL = 256 * 2.0**-24


def choose(
    method: str,
    dtype: np.dtype[Any],
    x: tuple[int, int, int, int],
    y: tuple[int, int, int, int],
    groups: int,
    rtol: float | None,
) -> int:
    """m of the algorithm for a layer with 3 x 3 kernels from x to y, at stride and dilation 1;
    0: direct sums.

    For the gradient to the input x and y change places; that to the weight has as many products.
    """
    if method != "auto":
        return TILES.get(method, 0)
    pairs = 2 if dtype.kind == "c" else 1
    C, M = x[1] // groups * pairs, y[1] // groups * pairs
    single = dtype.itemsize // pairs == 4
    block = 16 if single else 8
    c, m = (-(-n // block) * block for n in (C, M))
    pixels = y[0] * y[2] * y[3]
    best, cost = 0, float(pixels * C * (9 * M + _DIRECT[0]) + _DIRECT[1] * C * M)
    for size, (product, channel, output, pair) in _COSTS.items():
        if size == 4 and single and not (rtol is not None and rtol >= _RTOL):
            break
        tiles = y[0] * -(-y[2] // size) * -(-y[3] // size)
        estimate = (
            tiles * (product * (size + 2) ** 2 * c * m + channel * c + output * m) + pair * c * m
        )
        if estimate < cost:
            best, cost = size, estimate
    return best


def layer(
    x: Array,
    w: Array,
    y: Array,
    bias: Array | None,
    m: int,
    offset: Pair,
    codes: Pair,
    workers: int,
    relu: bool = False,
) -> None:
    """As `_channels.layer`: output (0, 0) and tap (0, 0) meet at pixel `offset` of x.

    x, w, y and bias are of one type; w is (groups, O, C, 3, 3).
    """
    if y.size == 0:
        return
    w = embed(w)
    method_kernels("winograd", x.dtype).winograd(
        readable(x), w, y, None if bias is None else bias.view(w.dtype), m, *offset, *codes,
        relu, workers,
    )  # fmt: skip


def input_grad(
    g: Array, w: Array, dx: Array, m: int, corner: Pair, before: Pair, workers: int
) -> None:
    """As `_channels.input_grad`: a layer with the weight turned round, its channels exchanged."""
    back = w.transpose(0, 2, 1, 3, 4)[..., ::-1, ::-1]
    offset = corner[0] + before[0] - 2, corner[1] + before[1] - 2
    layer(g, back, dx, None, m, offset, (0, 0), workers)


def weight_grad(
    x: Array, g: Array, groups: int, m: int, offset: Pair, codes: Pair, workers: int
) -> Array:
    """As `_channels.weight_grad`, (groups, O, C, 3, 3)."""
    pairs = 2 if x.dtype.kind == "c" else 1
    M, C = (a.shape[1] // groups * pairs for a in (g, x))
    tiles = g.shape[0] * -(-g.shape[2] // m) * -(-g.shape[3] // m)
    # Slabs of the tiles with sums of their own, so that workers need not wait for each other.
    slabs = min(_SLABS, tiles // _TILES_PER_SLAB, _PARTIAL // max(1, groups * M * C * 9))
    partial = np.zeros((slabs if slabs >= 4 else 1, groups, M, C, 3, 3), x.real.dtype)
    if partial.size and g.size:
        method_kernels("winograd", x.dtype).winograd_weight_grad(
            readable(x), readable(g), partial, m, *offset, *codes, workers
        )
    dw: Array = partial[0] if len(partial) == 1 else partial.sum(axis=0)
    return unpair(dw, x.dtype)
