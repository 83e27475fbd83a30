"""Many channels: how the kernels of conv.pyx go through taps and pixels.

Two sums: `layer`, which is the convolution, and `weight_grad`.  The gradient to the input
(`input_grad`) is the first of them again, once for each phase of the stride.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from fastcorr._boundary import CODES
from fastcorr._dispatch import method_kernels

Array = npt.NDArray[Any]
DType = np.dtype[Any]
Pair = tuple[int, int]
Phase = tuple[range, slice, slice]
Plan = TypeVar("Plan")


# ---------------------------------------------------------------- where the taps lie


class _Axis(NamedTuple):
    """One axis of a kernel call: what the kernels' `Axis` says."""

    stride: int
    taps: Array  # (taps, 2): base, number of the group within the block
    groups: Array  # (groups, 3): base, first source, slots beyond the number of outputs
    blocks: Array  # (blocks, 4): taps from, to; groups from, to


def _axis(offsets: Sequence[int], stride: int, n: int, size: int, alone: bool = False) -> _Axis:
    """Groups of the taps at these offsets, in blocks of `size` taps, for about n outputs.

    Taps whose offsets are congruent modulo the stride share a group where that makes fewer
    slots than a group for each (`alone`: always).
    """
    taps: list[Pair] = []
    groups: list[tuple[int, int, int]] = []
    blocks: list[tuple[int, int, int, int]] = []
    for start in range(0, len(offsets), size):
        part = offsets[start : start + size]
        members: dict[int, list[int]] = {}
        for offset in part:
            members.setdefault(offset % stride, []).append(offset // stride)
        spans = {r: max(q) - min(q) for r, q in members.items()}
        first, base = len(groups), 0
        if alone or len(part) * n < sum(spans.values()) + len(spans) * n:
            groups += [(0, offset, 0) for offset in part]
            taps += [(0, number) for number in range(len(part))]
        else:
            at = {}
            for number, (r, q) in enumerate(sorted(members.items())):
                at[r] = base - min(q), number
                groups.append((base, min(q) * stride + r, spans[r]))
                base += spans[r]
            for offset in part:
                shift, number = at[offset % stride]
                taps.append((shift + offset // stride, number))
        blocks.append((start, start + len(part), first, len(groups)))
    return _Axis(stride, *(np.array(v, np.intp) for v in (taps, groups, blocks)))


def _slots(axis: _Axis, n: int) -> int:
    """Slots of the first block of taps, for n outputs."""
    first, last = axis.blocks[0, 2:]
    return int(axis.groups[last - 1, 0] + axis.groups[last - 1, 2] + (last - first) * n)


def _even(n: int, most: int) -> int:
    """The size of equal parts of n, each at most so many."""
    parts = -(-n // most)
    return -(-n // parts)


def _tile(shape: tuple[int, int, int], pixels: int, lanes: int) -> tuple[int, int, int]:
    """Images, rows and columns of blocks of about so many pixels: whole rows, whole images."""
    N, H, W = shape
    if pixels < W:
        return 1, 1, min(W, -(-_even(W, pixels) // lanes) * lanes)
    if pixels < H * W:
        return 1, _even(H, pixels // W), W
    return _even(N, max(1, round(pixels / (H * W)))), H, W


# Taps summed in registers before the sum goes to memory: the input of a register tile stays in
# the first-level cache, the weights in the second.  Pixels whose input is in the scratch at a
# time: more when that leaves so many blocks.
_DEPTH = 384
_PIXELS = 384
_MOST_PIXELS = 1536
_BLOCKS = 16
# Products of all pixels with one output's weights, for which Ctrl-C waits: no more, beyond _PIXELS.
_LONG = 1 << 28
_SCRATCH = 1 << 17
# Of the gradient to the input: pixels of all channels that the phases of the stride read and write.
_BACK = 1 << 18
# Of the weight gradient: pixels summed in registers; rows and channels of a task's table and
# lanes of it at most; tasks and partial sums.
_GRAD_PIXELS = 256
_GRAD_ROWS = 256
_GRAD_CHANNELS = 256
_TABLE = 1 << 16
_TASKS = 16
_PARTIAL = 1 << 19
_MACS_PER_SLAB = 1 << 20
# Channels that do not mix and have lanes of their own, at least; then columns of a block and pixels
# of it, at most; more than so many cannot be where taps lie far apart.
APART = 4
_APART_COLS = 512
_APART_SLOTS = 1024
_APART_MOST = 1 << 14


# Taps along both axes, and blocks of channels, up to which plans are kept for the next call.
_KEPT = 512


def _planned(
    make: functools._lru_cache_wrapper[Plan], taps: Pair, channels: int, *arguments: Hashable
) -> Plan:
    """What `make` makes of the arguments.  Of large kernels it is as large as their sides, and soon
    made beside the sum itself: not kept."""
    kh, kw = taps
    large = kh + kw + kh * kw * channels // _DEPTH > _KEPT
    return (make.__wrapped__ if large else make)(*arguments)


class _Sum(NamedTuple):
    """How `conv` goes through its taps and outputs."""

    rows: _Axis
    cols: _Axis
    chunks: Array
    tile: tuple[int, int, int]
    in_place: bool


@functools.lru_cache(maxsize=1024)
def _sum(
    lanes: int,
    channels: int,
    source: Pair,
    shape: tuple[int, int, int],
    rows: range,
    cols: range,
    stride: Pair,
    readable: bool,
    scattered: bool,
) -> _Sum:
    in_place = readable and all(
        min(taps) >= 0 and max(taps) + (n - 1) * s < size
        for taps, n, s, size in zip((rows, cols), shape[1:], stride, source, strict=True)
    )
    in_place = in_place and (stride[1] == 1 or shape[2] == 1)
    if len(rows) * len(cols) <= _DEPTH:
        together = _even(channels, max(1, _DEPTH // (len(rows) * len(cols))))
        size = len(rows), len(cols)
    else:
        together = 1
        across = _even(len(cols), _DEPTH)
        size = _even(len(rows), max(1, _DEPTH // across)), across
    most = min(_MOST_PIXELS, _LONG // (channels * len(rows) * len(cols)))
    most = max(_PIXELS, 0 if scattered else most)
    for pixels in (min(most, max(_PIXELS, math.prod(shape) // _BLOCKS)), _PIXELS):
        tile = _tile(shape, pixels, 2 * lanes)
        axes = [
            _axis(taps, s, n, part, in_place)
            for taps, s, n, part in zip((rows, cols), stride, tile[1:], size, strict=True)
        ]
        if tile[0] * together * _slots(axes[0], tile[1]) * _slots(axes[1], tile[2]) <= _SCRATCH:
            break
    chunks = [
        (c, min(c + together, channels), a, b)
        for c in range(0, channels, together)
        for a in range(len(axes[0].blocks))
        for b in range(len(axes[1].blocks))
    ]
    return _Sum(axes[0], axes[1], np.array(chunks, np.intp), tile, in_place)


class _Product(NamedTuple):
    """How `conv_weight_grad` goes through its taps and pixels."""

    rows: _Axis
    cols: _Axis
    order: Array  # of the columns of taps
    runs: Array
    merged: bool
    tile: tuple[int, int, int]
    m_parts: int
    c_parts: int
    slabs: int


@functools.lru_cache(maxsize=1024)
def _product(
    lanes: int,
    size: tuple[int, int, int],
    shape: tuple[int, int, int],
    rows: range,
    cols: range,
    stride: Pair,
) -> _Product:
    groups, M, C = size
    tile = _tile(shape, _GRAD_PIXELS, 1)
    order = sorted(range(len(cols)), key=lambda b: (cols[b] % stride[1], cols[b]))
    across = _axis([cols[b] for b in order], stride[1], tile[2], len(cols))
    # Taps whose slots are neighbours make a run; their vectors may overlap.
    slots = across.taps[:, 0] + across.taps[:, 1] * tile[2]
    ends = [*(np.flatnonzero(np.diff(slots) != 1) + 1).tolist(), len(cols)]
    runs = list(zip([0, *ends[:-1]], ends, strict=True))
    m, c = min(M, _GRAD_ROWS), min(C, _GRAD_CHANNELS)
    taps = len(rows) * len(cols)
    while m * c * taps > _TABLE and max(m, c) > 16:
        if m > c:
            m = -(-m // 2)
        else:
            c = -(-c // 2)
    together = _even(len(rows), max(1, _TABLE // (m * c * len(cols))))
    down = _axis(rows, stride[0], tile[1], together)
    plane = tile[0] * _slots(down, tile[1]) * _slots(across, tile[2])
    while c * plane > _SCRATCH and c > 2 * lanes:
        c = -(-c // 2)
    m_parts = -(-M // m)
    # Channels are cut at multiples of two vectors.
    c_parts = -(-C // (-(-c // (2 * lanes)) * 2 * lanes))
    width = min(C, c)
    apart = sum(stop - start for start, stop in runs) * -(-width // lanes)
    shared = sum(-(-(stop - start) * width // lanes) for start, stop in runs)
    merged = c_parts == 1 and shared < apart
    if not merged:
        runs = [(b, b + 1) for b in range(len(cols))]
    blocks = math.prod(-(-n // t) for n, t in zip(shape, tile, strict=True))
    tasks = groups * m_parts * c_parts * len(down.blocks)
    macs = math.prod(shape) * math.prod(size) * taps
    weights = math.prod(size) * taps
    slabs = max(
        1,
        min(-(-_TASKS // tasks), blocks // 2, _PARTIAL // weights, macs // _MACS_PER_SLAB),
    )
    return _Product(
        down,
        across,
        np.array(order, np.intp),
        np.array(runs, np.intp).reshape(-1, 2),
        merged,
        tile,
        m_parts,
        c_parts,
        slabs,
    )


class _Apart(NamedTuple):
    """How `depthwise` goes through its taps and outputs."""

    rows: tuple[Array, Array, Array]  # taps, groups and blocks of an `_Axis` of stride 1
    cols: tuple[Array, Array, Array]
    down: tuple[Array, Array, int]  # rows of w, phases, rows of y between them
    across: tuple[Array, Array, int]
    stride: Pair
    tile: Pair


def _table(phases: Sequence[Phase], k: int, size: int) -> tuple[list[int], Array, Array]:
    """All phases of an axis: offsets, the taps of w that have them, and the kernels' table."""
    offsets: list[int] = []
    every: list[int] = []
    table = []
    for some, taps, at in phases:
        outputs = range(size)[at]
        table.append((len(every), len(every) + len(some), outputs.start, len(outputs)))
        offsets += some
        every += range(k)[taps]
    return offsets, np.array(every, np.intp), np.array(table, np.intp).reshape(-1, 4)


def _apart(
    kernel: Pair, shape: Pair, stride: Pair, down: list[Phase], across: list[Phase]
) -> _Apart | None:
    """None where no tap meets anything, or the taps lie too far apart for the scratch."""
    if not (down and across) or math.prod(kernel) > _APART_MOST:
        return None
    (offsets0, at0, table0), (offsets1, at1, table1) = (
        _table(*axis) for axis in zip((down, across), kernel, shape, strict=True)
    )
    steps = down[0][2].step, across[0][2].step
    n = -(-shape[0] // steps[0]), -(-shape[1] // steps[1])
    wide = _even(n[1], _APART_COLS)
    cols = _axis(offsets1, 1, (wide - 1) * stride[1] + 1, len(offsets1))
    line = _slots(cols, (wide - 1) * stride[1] + 1)
    high = _even(n[0], max(1, _APART_SLOTS // (stride[0] * line)))
    rows = _axis(offsets0, 1, (high - 1) * stride[0] + 1, len(offsets0))
    block = (_slots(rows, (high - 1) * stride[0] + 1) + len(offsets0)) * line
    if max(block, math.prod(steps) * wide) > _APART_MOST:
        return None
    return _Apart(
        rows[1:], cols[1:], (at0, table0, steps[0]), (at1, table1, steps[1]), stride, (high, wide)
    )


@functools.lru_cache(maxsize=1024)
def _apart_forward(shape: Pair, rows: range, cols: range, stride: Pair) -> _Apart | None:
    all_of_it = slice(0, None, 1)
    down, across = ([(offsets, all_of_it, all_of_it)] for offsets in (rows, cols))
    return _apart((len(rows), len(cols)), shape, stride, down, across)


@functools.lru_cache(maxsize=1024)
def _apart_back(
    kernel: Pair, shape: Pair, corner: Pair, stride: Pair, dilation: Pair, before: Pair
) -> _Apart | None:
    down, across = (
        phases(*axis) for axis in zip(corner, shape, kernel, stride, dilation, before, strict=True)
    )
    return _apart(kernel, shape, (1, 1), down, across)


# ---------------------------------------------------------------- calling the kernels


def _depthwise(
    plan: _Apart,
    x: Array,
    w: Array,
    y: Array,
    bias: Array | None,
    codes: Pair,
    workers: int,
    relu: bool = False,
) -> None:
    """The sum for channels that do not mix: w is (C, 1, 1, kh, kw)."""
    method_kernels("conv", x.dtype).depthwise(
        readable(x), w[:, 0, 0], y, bias, plan.rows, plan.cols, plan.down, plan.across,
        plan.stride, plan.tile, *codes, relu, workers,
    )  # fmt: skip


def _mixes_nothing(dtype: DType, size: tuple[int, ...]) -> bool:
    """Whether `depthwise` can take so many (groups, outputs, channels) of a group."""
    return dtype.kind == "f" and size[0] >= APART and size[1:] == (1, 1)


def embed(w: Array) -> Array:
    """Complex weights (G, M, C, a, b) as real ones between pairs of channels."""
    if w.dtype.kind != "c":
        return w
    G, M, C, a, b = w.shape
    real = np.empty((G, M, 2, C, 2, a, b), w.real.dtype)
    real[:, :, 0, :, 0] = real[:, :, 1, :, 1] = w.real
    real[:, :, 1, :, 0] = w.imag
    real[:, :, 0, :, 1] = -w.imag
    return real.reshape(G, 2 * M, 2 * C, a, b)


def unpair(dw: Array, dtype: DType) -> Array:
    """Gradients to complex weights (G, M, C, a, b) from those of real ones between pairs."""
    if dtype.kind != "c":
        return dw
    G, M, C, a, b = dw.shape
    real = dw.reshape(G, M // 2, 2, C // 2, 2, a, b)
    pairs = np.empty((G, M // 2, C // 2, a, b), dtype)
    np.add(real[:, :, 0, :, 0], real[:, :, 1, :, 1], out=pairs.real)
    np.subtract(real[:, :, 1, :, 0], real[:, :, 0, :, 1], out=pairs.imag)
    return pairs


def layer(
    x: Array,
    w: Array,
    y: Array,
    bias: Array | None,
    rows: range,
    cols: range,
    stride: Pair,
    codes: Pair,
    workers: int,
    relu: bool = False,
    own: bool = False,
) -> None:
    """y[n, m, i, j] = bias[m] + sum of X[n, c, i*s0 + rows[a], j*s1 + cols[b]] * w[g, m, c, a, b].

    x, w, y and bias are of one type; w is (groups, M, C, kh, kw).  `relu`: negative numbers and
    -0.0 become 0, NaN stays; real arrays only.  `own`: y is a phase of an array that nobody else
    reads or writes meanwhile, so what lies between its pixels may be written again as it was.
    """
    if y.size == 0:
        return
    if w.size == 0:
        if bias is not None and relu:
            bias = np.where(bias <= 0, 0, bias)
        y[...] = 0 if bias is None else bias[:, None, None]
        return
    taps = len(rows), len(cols)
    if _mixes_nothing(w.dtype, w.shape[:3]):
        apart = _planned(_apart_forward, taps, 1, (y.shape[2], y.shape[3]), rows, cols, stride)
        if apart:
            _depthwise(apart, x, w, y, bias, codes, workers, relu)
            return
    module = method_kernels("conv", x.dtype)
    x = readable(x)
    if (
        (len(rows), len(cols), rows[0], cols[0], *stride) == (1, 1, 0, 0, 1, 1)
        and x.shape[2:] == y.shape[2:]
        and all(a.strides[2] == a.shape[3] * a.strides[3] for a in (x, y))
    ):
        # Nothing but channels is mixed: an image is one long row.
        x, y = (a.reshape(*a.shape[:2], 1, -1) for a in (x, y))
    w = embed(w)
    itemsize = x.dtype.itemsize
    plain = x.dtype.kind != "c" and x.strides[3] == itemsize and min(x.strides) >= 0
    shape = (y.shape[0], y.shape[2], y.shape[3])
    # Runs of pixels shorter than a register tile, and pixels that do not lie side by side.
    scattered = y.dtype.kind == "f" and (
        y.strides[3] != itemsize
        or (y.shape[3] < 2 * module.LANES and y.strides[2] != y.shape[3] * itemsize)
    )
    plan = _planned(
        _sum, taps, w.shape[2], module.LANES, w.shape[2], (x.shape[2], x.shape[3]), shape, rows,
        cols, stride, plain, scattered,
    )  # fmt: skip
    module.conv(
        x, w, y, None if bias is None else bias.view(w.dtype), plan.rows, plan.cols,
        plan.chunks, plan.tile, *codes, plan.in_place, scattered, own, relu, workers,
    )  # fmt: skip


def weight_grad(
    x: Array,
    g: Array,
    groups: int,
    rows: range,
    cols: range,
    stride: Pair,
    codes: Pair,
    workers: int,
) -> Array:
    """dw[g, m, c, a, b] = sum of conj(X[n, c, i*s0 + rows[a], j*s1 + cols[b]]) * g[n, m, i, j]."""
    pairs = 2 if x.dtype.kind == "c" else 1
    M, C = (a.shape[1] // groups for a in (g, x))
    size = (groups, M * pairs, C * pairs)
    taps = len(rows), len(cols)
    if 0 in (*g.shape, *size, *taps):
        return np.zeros((groups, M, C, *taps), x.dtype)
    module = method_kernels("conv", x.dtype)
    x, g = readable(x), readable(g)
    if _mixes_nothing(x.dtype, size):
        apart = _planned(_apart_forward, taps, 1, (g.shape[2], g.shape[3]), rows, cols, stride)
        if apart:
            slabs = max(1, min(len(g), _TASKS // groups))
            sums = np.empty((slabs, groups, *taps))
            module.depthwise_weight_grad(
                x, g, sums, apart.rows, apart.cols, stride, apart.tile, *codes, workers
            )
            total: Array = sums.sum(axis=0).astype(x.dtype)
            return total[:, None, None]
    shape = (g.shape[0], g.shape[2], g.shape[3])
    plan = _planned(_product, taps, 1, module.LANES, size, shape, rows, cols, stride)
    partial = np.empty((plan.slabs, *size, *taps), x.real.dtype)
    module.conv_weight_grad(
        x, g, partial, plan.rows, plan.cols, plan.runs, plan.merged, plan.tile,
        plan.m_parts, plan.c_parts, *codes, workers,
    )  # fmt: skip
    dw: Array = partial[0] if plan.slabs == 1 else partial.sum(axis=0)
    dw = unpair(dw, x.dtype)
    if (plan.order[:-1] > plan.order[1:]).any():
        ordered = np.empty_like(dw)
        ordered[..., plan.order] = dw
        return ordered
    return dw


def readable(a: Array) -> Array:
    """The array itself, or a copy whose strides count whole lanes."""
    lane = a.real.itemsize
    plain = a.flags.aligned and a.dtype.isnative and all(s % lane == 0 for s in a.strides)
    return a if plain else np.array(a, a.dtype.newbyteorder("="), order="C")


def input_grad(
    g: Array,
    w: Array,
    dx: Array,
    corner: Pair,
    stride: Pair,
    dilation: Pair,
    before: Pair,
    workers: int,
) -> None:
    """dx = the rectangle from `corner` on of what the outputs g send back through w.

    That is  dx[n, c, u, v] = sum of g[n, m, i, j] * w[g, m, c, a, b]  over  i * s0 + a * d0 =
    u + before[0]  and likewise for v; nothing is conjugated.
    """
    down, across = (
        phases(*axis)
        for axis in zip(corner, dx.shape[2:], w.shape[3:], stride, dilation, before, strict=True)
    )
    zeros = CODES["fill"], CODES["fill"]
    if _mixes_nothing(w.dtype, w.shape[:3]):
        kernel, shape = (w.shape[3], w.shape[4]), (dx.shape[2], dx.shape[3])
        plan = _planned(_apart_back, kernel, 1, kernel, shape, corner, stride, dilation, before)
        if plan:
            _depthwise(plan, g, w, dx, None, zeros, workers)
            return
    if len(down) < stride[0] or len(across) < stride[1]:
        dx[...] = 0
    back = w.transpose(0, 2, 1, 3, 4)
    if len(down) * len(across) > 1 and w.dtype.kind == "f":
        first = np.empty((w.shape[0], *w.shape[3:], *w.shape[1:3]), w.dtype)
        method_kernels("conv", w.dtype).taps_first(w, first, workers)
        back = first.transpose(0, 4, 3, 1, 2)
    # As many images at a time as stay in the second-level cache, but rather more than weights.
    one = max(1, (g.size + dx.size) // len(dx))
    step = max(1, _BACK // one, 4 * w.size // one)
    for n in range(0, len(dx), step):
        some = slice(n, n + step)
        for rows, every_a, at_u in down:
            for cols, every_b, at_v in across:
                taps, phase = back[..., every_a, every_b], dx[some, :, at_u, at_v]
                layer(g[some], taps, phase, None, rows, cols, (1, 1), zeros, workers, own=True)


def phases(start: int, size: int, k: int, s: int, d: int, before: int) -> list[Phase]:
    """The coordinates start … start + size of an axis that meet taps, by phase of the stride.

    For each phase: the offsets into g of the taps that it meets, these taps, its coordinates.
    """
    return _planned(_phases, (min(k, s), 1), 0, start, size, k, s, d, before)


@functools.lru_cache(maxsize=1024)
def _phases(start: int, size: int, k: int, s: int, d: int, before: int) -> list[Phase]:
    step = s // math.gcd(s, d)  # taps so far apart meet the same phase
    found = []
    for a0 in range(min(k, step)):
        r = a0 * d % s
        first = (r - start - before) % s
        if first < size:
            q = (start + first + before - a0 * d) // s
            each, taps = step * d // s, len(range(a0, k, step))
            offsets = range(q, q - each * taps, -each)
            found.append((offsets, slice(a0, None, step), slice(first, None, s)))
    return found


def tap_phases(k: int, s: int, before: int) -> list[tuple[int, slice, int]]:
    """The taps of an axis by the phase of x that they meet, and where in it the first begins."""
    found = []
    for a in range(min(k, s)):
        q, r = divmod(a - before, s)
        found.append((r, slice(a, None, s), q))
    return found
