"""The NCHW face: `conv2d`, `conv_transpose2d` and their gradients, as PyTorch defines them.

Every call goes one way: shapes, types and names are checked and become a plan (`_Plan`), which
is kept; then the kernels compute one of two sums (`layer`, `weight_grad`).  The gradient to
the input is the first of them again, once for each phase of the stride (`input_grad`), and a
transposed convolution is that gradient.  Large images of channels that do not mix go to the
single-channel kernels of `correlate2d`.  Behind the checks all images are (N, C, H, W); those
that come with the channels last are views.
"""

from __future__ import annotations

import functools
import itertools
import math
import numbers
import operator
from collections.abc import Iterable, Sequence
from typing import Any, SupportsIndex, overload

import numpy as np
import numpy.typing as npt

from fastcorr import _winograd
from fastcorr._arguments import listed, needed, shown
from fastcorr._boundary import CODES, LARGEST, PADDING_MODES, fold, sources
from fastcorr._channels import (
    APART,
    input_grad,
    layer,
    phases,
    readable,
    tap_phases,
    weight_grad,
)
from fastcorr._dispatch import kernels
from fastcorr._engine import image_grad, kernel_grad, run, silent
from fastcorr._plan import WAKING, choose_workers
from fastcorr.correlate import _asarray, _like, check_out, check_size, overlaps_itself, put

Array = npt.NDArray[Any]
DType = np.dtype[Any]
Pair = tuple[int, int]
IntOrPair = SupportsIndex | Sequence[SupportsIndex]
Padding = str | SupportsIndex | Sequence[SupportsIndex] | Sequence[Sequence[SupportsIndex]]

# ---------------------------------------------------------------- what shapes and types decide


METHODS = "auto", "direct", "winograd", "winograd4"

# A thread must save more than it costs to give it work: about 60 us of work.
_MACS_PER_WORKER = (1 << 22) * WAKING
# Pixels of a channel up to which short kernels have channels as lanes, not pixels.
_SHORT = 1 << 12
# The taps of an axis are kept in tables.
_LONGEST = 1 << 24


def _size(value: object, name: str, least: int) -> Pair:
    """Two integers from one or two of them."""
    items = value if isinstance(value, (tuple, list)) else (value, value)
    try:
        pair = tuple(operator.index(v) for v in items)
    except TypeError:
        pair = None
    if pair is None or any(isinstance(v, (bool, np.bool_)) for v in items):
        raise TypeError(f"{name} must be an integer or a pair of them, got {shown(value)}")
    if len(pair) != 2:
        raise ValueError(f"{name} must be an integer or a pair of them, got {shown(value)}")
    if min(pair) < least:
        raise ValueError(f"{name} must be at least {least}, got {shown(value)}")
    if max(pair) > LARGEST:
        raise ValueError(f"{name} must be at most 2**60, got {shown(value)}")
    return pair


def _pads(padding: object, x: Pair, k: Pair, stride: Pair, dilation: Pair) -> tuple[Pair, Pair]:
    """Rows before and after, columns before and after."""
    if isinstance(padding, str):
        if padding == "valid":
            return (0, 0), (0, 0)
        if padding != "same":
            raise ValueError(f"padding must be integers, 'same' or 'valid', got {shown(padding)}")
        # So that ceil(n / s) outputs fit; what is odd goes after, as in PyTorch.
        total = [
            max((-(-n // s) - 1) * s + d * (t - 1) + 1 - n, 0)
            for n, t, s, d in zip(x, k, stride, dilation, strict=True)
        ]
        return (total[0] // 2, -(-total[0] // 2)), (total[1] // 2, -(-total[1] // 2))
    if isinstance(padding, (tuple, list)) and len(padding) == 2:
        first, second = padding
        if isinstance(first, (tuple, list)) or isinstance(second, (tuple, list)):
            return _size(first, "padding", 0), _size(second, "padding", 0)
    p0, p1 = _size(padding, "padding", 0)
    return (p0, p0), (p1, p1)


def _fit(
    x: Pair, k: Pair, stride: Pair, pads: tuple[Pair, Pair], dilation: Pair, padding: object
) -> Pair:
    """Rows and columns of the result."""
    rows, cols = (
        (n + p[0] + p[1] - d * (t - 1) - 1) // s + 1
        for n, t, s, p, d in zip(x, k, stride, pads, dilation, strict=True)
    )
    if min(rows, cols) < 1:
        raise ValueError(
            f"the kernel, {k[0]} x {k[1]} with dilation {dilation}, is larger than the image, "
            f"{x[0]} x {x[1]} with padding={shown(padding)}"
        )
    return rows, cols


def check_method(method: str, kernel: Pair, stride: Pair, dilation: Pair, mixed: bool) -> bool:
    """Whether Winograd's algorithm fits a layer, whose channels are mixed or not.

    Raises ValueError where it does not and is asked for.
    """
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {shown(method)}")
    fits = mixed and kernel == (3, 3) and stride == dilation == (1, 1)
    if not fits and method.startswith("winograd"):
        what = f"a kernel of {kernel[0]} x {kernel[1]}, stride {stride}, dilation {dilation}"
        raise ValueError(
            f"method={method!r} needs a kernel of 3 x 3, stride 1, dilation 1 and channels that "
            f"mix, got {what}" + ("" if mixed else " and a group for each channel")
        )
    return fits


def check_rtol(rtol: object) -> float | None:
    """A relative tolerance as Python's float, or None."""
    if rtol is None:
        return None
    if not isinstance(rtol, numbers.Real) or isinstance(rtol, bool):
        raise TypeError(f"rtol must be a number or None, got {shown(rtol)}")
    try:
        value = float(rtol)
    except OverflowError:  # of a long integer
        value = math.inf
    if not 0 < value < math.inf:
        raise ValueError(f"rtol must be positive and finite, got {shown(rtol)}")
    return value


def _channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(..., H, W, C) -> (..., C, H, W)."""
    return (*shape[:-3], shape[-1], *shape[-3:-1])


def _channels_last(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(..., C, H, W) -> (..., H, W, C)."""
    return (*shape[:-3], *shape[-2:], shape[-3])


def _layout(channels_last: object) -> tuple[bool, str]:
    """Whether the channels come last, and what shapes of images then are."""
    if not isinstance(channels_last, (bool, np.bool_)):
        raise TypeError(f"channels_last must be True or False, got {shown(channels_last)}")
    names = "(N, H, W, C) or (H, W, C)" if channels_last else "(N, C, H, W) or (C, H, W)"
    return bool(channels_last), names


_DTYPES = {"f": (4, 8), "c": (8, 16)}


def _result_dtype(function: str, **dtypes: DType) -> DType:
    for name, dtype in dtypes.items():
        if dtype.num >= 24 or dtype.kind not in "biufc":
            raise TypeError(f"{function} is not available for this type: {name} is {dtype}")
    dtype = np.result_type(*dtypes.values())
    if dtype.itemsize not in _DTYPES.get(dtype.kind, ()):
        told = ", ".join(f"{name} is {dtype}" for name, dtype in dtypes.items())
        raise TypeError(
            f"{function} computes in float32, float64, complex64 or complex128: {told}, which "
            f"gives {dtype}"
        )
    return dtype


class _Plan:
    """All of a call that does not depend on the arrays' contents: made once, kept.

    Of a transposed convolution, seen as the gradient of a convolution to its input, `x` is the
    shape of the result and `y` that of the operand.
    """

    def __init__(
        self,
        function: str,
        x: tuple[int, ...],
        w: tuple[int, ...],
        bias: tuple[int, ...] | None,
        dtypes: tuple[tuple[str, DType], ...],
        stride: object,
        padding: object,
        dilation: object,
        groups: object,
        padding_mode: object,
        output_padding: object,
        activation: object,
        method: str,
        rtol: float | None,
        channels_last: object,
    ) -> None:
        transposed = function.startswith("conv_transpose2d")
        self.dtype = _result_dtype(function, **dict(dtypes))
        self.channels_last, names = _layout(channels_last)
        if len(x) not in (3, 4):
            raise ValueError(f"x must be {names}, got shape {x}")
        if len(w) != 4:
            names = "(C, O / groups, kh, kw)" if transposed else "(O, C / groups, kh, kw)"
            raise ValueError(f"weight must be {names}, got shape {w}")
        check_size("x", x)
        check_size("weight", w)
        self.batched = len(x) == 4
        C, H, W = _channels_first(x)[-3:] if self.channels_last else x[-3:]
        N = x[0] if self.batched else 1
        self.stride = _size(stride, "stride", 1)
        self.dilation = _size(dilation, "dilation", 1)
        try:
            G = operator.index(groups)  # type: ignore[arg-type]
        except TypeError:
            G = 0
            message = f"groups must be an integer, got {shown(groups)}"
            raise TypeError(message) from None
        if isinstance(groups, (bool, np.bool_)):
            raise TypeError(f"groups must be an integer, got {shown(groups)}")
        if not 1 <= G <= 1 << 48:
            raise ValueError(
                f"groups must be at least 1 and divide the channels, got {shown(groups)}"
            )
        self.groups = G
        if not isinstance(padding_mode, str) or padding_mode not in PADDING_MODES:
            raise ValueError(
                f"padding_mode must be one of {tuple(PADDING_MODES)}, got {shown(padding_mode)}"
            )
        bound = PADDING_MODES[padding_mode]
        self.relu = activation is not None
        if self.relu and (not isinstance(activation, str) or activation != "relu"):
            raise ValueError(f"activation must be None or 'relu', got {shown(activation)}")
        if self.relu and self.dtype.kind == "c":
            raise ValueError(f"activation='relu' needs numbers with an order, not {self.dtype}")
        self.bounds = (bound, bound)
        self.codes = CODES[bound], CODES[bound]
        self.kernel = w[2], w[3]
        if 0 in w or C == 0:
            raise ValueError(f"channels and kernel must not be empty: x {x}, weight {w}")
        if max(self.kernel) > _LONGEST:
            raise ValueError(f"weight {w} has kernels of more than 2**24 rows or columns")
        if transposed:
            O = w[1] * G
            if w[0] != C:
                raise ValueError(f"weight {w} takes {w[0]} channels, but x {x} has {C}")
            if C % G:
                raise ValueError(f"groups={G} must divide the {C} channels of x")
        else:
            O = w[0]
            if w[1] * G != C:
                raise ValueError(
                    f"weight {w} with groups={G} takes {w[1] * G} channels, but x {x} has {C}"
                )
            if O % G:
                raise ValueError(f"groups={G} must divide the {O} rows of weight")
        if bias is not None and bias != (O,):
            raise ValueError(f"bias must have shape {(O,)}, got {bias}")
        if transposed:
            p0, p1 = _size(padding, "padding", 0)
            self.pads = (p0, p0), (p1, p1)
            extra = _size(output_padding, "output_padding", 0)
            for e, s, d in zip(extra, self.stride, self.dilation, strict=True):
                if e >= max(s, d):
                    raise ValueError(
                        "output_padding must be smaller than stride or dilation, got "
                        f"{shown(output_padding)} with stride {shown(stride)} and dilation "
                        f"{shown(dilation)}"
                    )
            rows, cols = (
                (n - 1) * s - 2 * p[0] + d * (k - 1) + e + 1
                for n, s, p, d, k, e in zip(
                    (H, W), self.stride, self.pads, self.dilation, self.kernel, extra, strict=True
                )
            )
            if min(rows, cols) < 1 or 0 in (H, W):
                raise ValueError(
                    f"padding={shown(padding)} leaves nothing of x, {x}: the result would have "
                    f"{rows} x {cols} pixels"
                )
            out = rows, cols
        else:
            self.pads = _pads(padding, (H, W), self.kernel, self.stride, self.dilation)
            out = _fit((H, W), self.kernel, self.stride, self.pads, self.dilation, padding)
            if bound != "fill" and 0 in (H, W):
                raise ValueError(f"padding_mode={padding_mode!r} cannot continue an empty x, {x}")
        self.x, self.y = (N, C, H, W), (N, O, out[0], out[1])
        check_size(f"with padding={shown(padding)} and stride={shown(stride)}, the result", self.y)
        shape: tuple[int, ...] = self.y if self.batched else self.y[1:]
        self.shape = _channels_last(shape) if self.channels_last else shape
        if transposed:
            self.x, self.y = self.y, self.x
        self.before = self.pads[0][0], self.pads[1][0]
        self.corner = -self.before[0], -self.before[1]  # where in x output 0 and tap 0 meet
        self.rows, self.cols = (
            range(-p, k * d - p, d)
            for k, d, p in zip(self.kernel, self.dilation, self.before, strict=True)
        )
        # Channels that do not mix are so many correlations; with a stride so are the gradients,
        # phase by phase.  Kernels whose lanes are channels do better where rows are short.
        taps, pixels = math.prod(self.kernel), self.y[2] * self.y[3]
        short = taps <= 81 and pixels <= (_SHORT if taps <= 25 else _SHORT // 4)
        lanes = G >= APART and taps <= 81 and (self.stride != (1, 1) or (G >= 8 and short))
        mixed = not self.x[1] == self.y[1] == G
        apart = not mixed and self.dilation == (1, 1)
        apart = apart and not (lanes and self.dtype.kind == "f")
        self.single = apart and self.stride == (1, 1)
        self.single_back = self.single or (apart and bound == "fill")
        # Forward, x to y; and back.
        self.winograd = self.winograd_back = 0
        if check_method(method, self.kernel, self.stride, self.dilation, mixed):
            choose = functools.partial(_winograd.choose, method, self.dtype)
            self.winograd = choose(self.x, self.y, G, rtol)
            self.winograd_back = choose(self.y, self.x, G, rtol)
        self.method = method
        macs = math.prod(self.y) * math.prod(w[1:]) * (4 if self.dtype.kind == "c" else 1)
        self.useful_workers = max(1, macs // _MACS_PER_WORKER)
        self.module, lane = kernels(self.dtype)
        self.zero = np.zeros(1, lane)

    def weight(self, weight: Array) -> Array:
        """The weight as (groups, O, C, kh, kw) of the convolution, in the type of the result."""
        G = self.groups
        w = readable(weight.astype(self.dtype, copy=False))
        return w.reshape(G, w.shape[0] // G, *w.shape[1:])

    def nchw(self, a: Array) -> Array:
        """The view of images with a batch axis and with the channels before the rows."""
        a = a if self.batched else a[None]
        return a.transpose(0, 3, 1, 2) if self.channels_last else a

    def given(self, a: Array) -> Array:
        """The view of (N, C, H, W) as the caller's images are."""
        a = a.transpose(0, 2, 3, 1) if self.channels_last else a
        return a if self.batched else a[0]

    def empty(self, shape: tuple[int, ...]) -> Array:
        """New images (N, C, H, W), of which the caller's view is contiguous."""
        if self.channels_last:
            return np.empty(_channels_last(shape), self.dtype).transpose(0, 3, 1, 2)
        return np.empty(shape, self.dtype)

    def planes(self, a: Array) -> Array:
        """Images of one channel without the axes that kernels of one channel need not see."""
        return a[0, 0] if a.shape[:2] == (1, 1) else a


_make_plan = functools.lru_cache(maxsize=1024)(_Plan)


def _plain(value: Any) -> bool:
    """Whether it is a number of Python's, a name, or a tuple of such; True, 1.0 and others are
    equal to numbers, and so would find their plans."""
    kind = type(value)
    if kind is tuple:
        return all(map(_plain, value))
    return kind is int or kind is str or value is None


def _plan(
    function: str,
    x: Array,
    weight: Array,
    bias: tuple[int, ...] | None,
    dtypes: tuple[tuple[str, DType], ...],
    stride: object,
    padding: object,
    dilation: object,
    groups: object,
    padding_mode: object,
    output_padding: object = None,
    *,
    activation: object = None,
    method: str,
    rtol: object,
    channels_last: object,
) -> _Plan:
    arguments = (
        stride, padding, dilation, groups, padding_mode, output_padding, activation, method,
    )  # fmt: skip
    make = _make_plan if _plain(arguments) and type(channels_last) is bool else _Plan
    return make(
        function, x.shape, weight.shape, bias, dtypes, *arguments, check_rtol(rtol), channels_last
    )


def _operand(value: npt.ArrayLike, name: str) -> Array:
    return value if type(value) is np.ndarray else _asarray(value, name)


def _nchw(a: Array, plan: _Plan) -> Array:
    """As the kernels take images, in the type of the result."""
    if a.dtype is not plan.dtype:
        a = a.astype(plan.dtype, copy=False)
    return plan.nchw(a)


def _relu(y: Array) -> None:
    """max(y, 0); NaN stays, and what is not positive becomes +0."""
    np.maximum(y, 0, out=y)
    np.add(y, 0, out=y)  # of +0 and -0 either may be NumPy's maximum


def _forward(plan: _Plan, x: Array, weight: Array, bias: Array | None, y: Array, n: int) -> None:
    if plan.single:
        k = plan.planes(weight.astype(plan.dtype, "C").reshape(plan.groups, 1, *plan.kernel))
        k = k if k.ndim == 2 else k[:, 0]
        xs, ys = plan.planes(x), plan.planes(y)
        run(plan.module, xs, k, ys, plan.corner, plan.codes, plan.zero, n, plan.method)
        if bias is not None:
            np.add(y, bias[:, None, None], out=y)
        if plan.relu:
            _relu(y)
    elif plan.winograd:
        w = plan.weight(weight)
        _winograd.layer(x, w, y, bias, plan.winograd, plan.corner, plan.codes, n, plan.relu)
    else:
        w = plan.weight(weight)
        layer(x, w, y, bias, plan.rows, plan.cols, plan.stride, plan.codes, n, plan.relu)


def _to_input(plan: _Plan, g: Array, weight: Array, n: int) -> Array:
    """What g sends back through the weight, (N, C, H, W); nothing is conjugated."""
    if g.size == 0:
        return np.zeros(plan.x, plan.dtype)
    if plan.single_back:
        gs = plan.planes(g)
        k = readable(weight.astype(plan.dtype, copy=False))
        k = k[0, 0] if gs.ndim == 2 else k[:, 0]
        small = plan.y[2] < plan.kernel[0] or plan.y[3] < plan.kernel[1]
        if plan.bounds[0] != "fill" or (plan.single and small):
            dx = image_grad(
                plan.module, gs, np.conjugate(k), plan.x[2:], plan.corner, plan.bounds,
                plan.zero, n, plan.method,
            )  # fmt: skip
            return dx.reshape(plan.x)
        # The same without what that does for boundaries and large kernels.
        dx = plan.empty(plan.x)
        down, across = (
            phases(0, *axis)
            for axis in zip(
                plan.x[2:], plan.kernel, plan.stride, plan.dilation, plan.before, strict=True
            )
        )
        if len(down) < plan.stride[0] or len(across) < plan.stride[1]:
            dx[...] = 0
        for rows, every_a, at_u in down:
            for cols, every_b, at_v in across:
                taps = np.ascontiguousarray(k[..., every_a, every_b][..., ::-1, ::-1])
                phase = plan.planes(dx)[..., at_u, at_v]
                corner = rows[-1], cols[-1]
                run(plan.module, gs, taps, phase, corner, plan.codes, plan.zero, n, plan.method)
        return dx
    w = plan.weight(weight)
    dx = plan.empty(plan.x)

    def part(i0: int, i1: int, j0: int, j1: int, out: Array | None) -> Array:
        if out is None:
            out = np.empty((*plan.x[:2], i1 - i0, j1 - j0), plan.dtype)
        elif plan.winograd_back:
            # The image itself; not the strips beyond its edges, which few tiles would cover.
            _winograd.input_grad(g, w, out, plan.winograd_back, (i0, j0), plan.before, n)
            return out
        input_grad(g, w, out, (i0, j0), plan.stride, plan.dilation, plan.before, n)
        return out

    if plan.bounds[0] == "fill":
        part(0, plan.x[2], 0, plan.x[3], dx)
        return dx
    dx[...] = 0
    stop = (
        plan.rows[-1] + (plan.y[2] - 1) * plan.stride[0] + 1,
        plan.cols[-1] + (plan.y[3] - 1) * plan.stride[1] + 1,
    )
    plane = math.prod(b - a for a, b in zip(plan.corner, stop, strict=True))
    if plane > _SPARSE * math.prod(plan.kernel) * plan.y[2] * plan.y[3]:
        _scatter(plan, g, w, dx, n)
        return dx
    chunk = _FOLDED // max(1, plan.x[0] * plan.x[1])
    fold(part, dx, plan.corner, stop, plan.bounds, chunk)
    return dx


def _scatter(plan: _Plan, g: Array, w: Array, dx: Array, n: int) -> None:
    """dx += what g sends back, tap by tap: where few pixels of the padded image meet a tap."""
    C, (oh, ow) = plan.x[1], plan.y[2:]
    step = max(1, _FOLDED // (C * oh * ow))
    down, across = (
        [sources(t + s * np.arange(size), length, bound) for t in taps]
        for taps, s, size, length, bound in zip(
            (plan.rows, plan.cols), plan.stride, (oh, ow), plan.x[2:], plan.bounds, strict=True
        )
    )
    back, zeros = w.transpose(0, 2, 1, 3, 4), (CODES["fill"], CODES["fill"])
    for first in range(0, len(g), step):
        some = slice(first, first + step)
        sent = np.empty((len(g[some]), C, oh, ow), plan.dtype)
        for (a, rows), (b, cols) in itertools.product(enumerate(down), enumerate(across)):
            tap = back[..., a : a + 1, b : b + 1]
            layer(g[some], tap, sent, None, range(1), range(1), (1, 1), zeros, n)
            at_rows, part = _sum_by(rows, sent, -2)
            at_cols, part = _sum_by(cols, part, -1)
            dx[some][..., at_rows[:, None], at_cols] += part


def _sum_by(at: Array, a: Array, axis: int) -> tuple[Array, Array]:
    """The different numbers of `at`, and the sums of the parts of an axis that have each."""
    order = np.argsort(at, kind="stable")
    at = at[order]
    starts = np.flatnonzero(np.diff(at, prepend=-1))
    return at[starts], np.add.reduceat(a.take(order, axis), starts, axis)


# Elements beyond the edges of all planes that are computed at a time before they are folded.
_FOLDED = 1 << 18
# Pixels of the padded image for each that meets a tap, from which on the taps are gone through.
_SPARSE = 16
# Elements copied at a time, and of one channel, of which parts are summed by themselves then.
_COPIED = 1 << 17
_ROWS = 1 << 22


def _out(given: object, shape: tuple[int, ...], dtype: DType, *operands: Array) -> Array | None:
    """Where the result can be written at once: out, or None if that must come later."""
    out = check_out(given)
    if out.shape != shape:
        raise ValueError(f"out must have shape {shape}, got {out.shape}")
    if not np.can_cast(out.dtype, dtype, "equiv"):
        raise TypeError(f"out must have dtype {dtype}, got {out.dtype}")
    if not out.flags.writeable:
        raise ValueError("out is read-only")
    if overlaps_itself(out):
        raise ValueError(f"out must not overlap itself, got strides {out.strides}")
    lane = out.real.itemsize
    plain = out.flags.aligned and out.dtype.isnative and all(s % lane == 0 for s in out.strides)
    return out if plain and not any(np.may_share_memory(out, a) for a in operands) else None


def _dtypes(**operands: Array | None) -> tuple[tuple[str, DType], ...]:
    return tuple((name, a.dtype) for name, a in operands.items() if a is not None)


def _bias_grad(g: Array) -> Array:
    """The sum of the gradients of every channel; of 32-bit numbers in 64 bits."""
    sums = {"f": np.dtype("f8"), "F": np.dtype("c16")}.get(g.dtype.char, g.dtype)
    N, C, H, W = g.shape
    if g.size == 0:
        return np.zeros(C, sums)
    # Some images, channels or rows at a time: the order of a sum must not depend on the layout, so
    # they may have to be copied.
    some = max(1, _COPIED // (C * H * W)), max(1, _COPIED // (H * W)), max(1, _ROWS // W)
    parts = np.empty((N, C, -(-H // some[2])), sums)
    for n in range(0, N, some[0]):
        for c in range(0, C, some[1]):
            for p, i in enumerate(range(0, H, some[2])):
                part = g[n : n + some[0], c : c + some[1], i : i + some[2]]
                part = np.require(part, requirements=["C", "A"])
                into = parts[n : n + some[0], c : c + some[1], p]
                part.reshape(*part.shape[:2], -1).sum(axis=2, dtype=sums, out=into)
    total: Array = parts.sum(axis=2).sum(axis=0)
    return total


@silent
def conv2d(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    groups: SupportsIndex = 1,
    *,
    padding_mode: str = "zeros",
    activation: str | None = None,
    channels_last: bool = False,
    out: Array | None = None,
    method: str = "auto",
    rtol: float | None = None,
    workers: SupportsIndex | None = None,
) -> Array:
    """Convolution layer: every output channel is a sum of correlations of the input channels.

    What deep learning calls a convolution: kernels are not flipped.  The arguments are those
    of `torch.nn.functional.conv2d`.

    Parameters
    ----------
    x : array_like, shape (N, C, H, W) or (C, H, W)
        Images, with or without the batch axis.  Any strides and byte order; never modified.
    weight : array_like, shape (O, C / groups, kh, kw)
        The kernels.
    bias : array_like, shape (O,), optional
        Added to each output channel.
    stride : int or pair of int, optional
        Distance between outputs, in pixels of `x`.  Default 1.
    padding : int, pair, pair of pairs, 'same' or 'valid', optional
        Pixels added beyond the edges: a number for all four, ``(rows, columns)``, or
        ``((top, bottom), (left, right))``.  ``'valid'`` is 0.  ``'same'`` gives ceil(H / stride)
        rows: it adds ``max((ceil(H / stride) - 1) * stride + dilation * (kh - 1) + 1 - H, 0)``
        in all, half before and half after, the odd one after; columns likewise.  Default 0.
    dilation : int or pair of int, optional
        Distance between the taps of a kernel, in pixels of `x`.  Default 1.
    groups : int, optional
        Divides the channels: output group g sees input group g alone.  Default 1.
    padding_mode : {'zeros', 'reflect', 'replicate', 'circular'}, optional
        What the added pixels hold: zeros, ``c b | a b c | b a``, ``a a | a b c | c c`` or
        ``b c | a b c | a b``.  Any amount may be added.
    activation : {None, 'relu'}, optional
        What is made of the sums: ``max(y, 0)`` by 'relu', in which NaN stays; for real numbers.
        Default None: nothing.
    channels_last : bool, optional
        Whether the channels of `x`, `out` and the result come last, (N, H, W, C) or (H, W, C), as
        in images from files.  `x` is not copied, and `weight` is the same.  Default False.
    out : ndarray, optional
        Array for the result, of its shape and dtype; no two of its elements may share memory.
    method : {'auto', 'direct', 'winograd', 'winograd4'}, optional
        Algorithm.  'direct' sums all products.  'winograd' and 'winograd4' are Winograd's
        F(2 x 2, 3 x 3) and F(4 x 4, 3 x 3) [2]_: 2.25 and 4 times fewer products, but larger
        errors; for kernels of 3 x 3, stride 1, dilation 1 and channels that mix.  Default
        'auto': the one that is predicted to be fastest, 'winograd4' in float64 only or as `rtol`
        allows.
    rtol : float, optional
        Error, relative to the largest element of the exact result, up to which 'auto' may take
        any method; any positive number, and from 1 on nothing is asked.  Without influence where
        `method` names another.  Default None.
    workers : int, optional
        Number of threads; negative numbers count back from the CPUs.  Default: see
        `get_workers`, fewer for small work.  The result's bits do not depend on it.

    Returns
    -------
    ndarray, shape (N, O, oh, ow) or (O, oh, ow); with channels last (N, oh, ow, O) or (oh, ow, O)
        ``y[n, o, i, j] = bias[o] + sum over c, a, b of x[n, c, i * stride + a * dilation - top,
        j * stride + b * dilation - left] * weight[o, c, a, b]``; nothing is conjugated.
        float32, float64, complex64 or complex128: NumPy's promotion of the operands.

    Raises
    ------
    ValueError
        If shapes do not fit each other, the padded image is smaller than the kernel, an argument
        is out of range, an operand or the result would have more than 2**48 elements or a kernel
        more than 2**24 rows or columns, `out` overlaps itself, `method` does not fit the layer, or
        `activation` the dtype.
    MemoryError
        If the result does not fit into memory.
    TypeError
        If an argument is of the wrong type, or the operands promote to another dtype (integers
        alone do).

    See Also
    --------
    conv2d_backward : its gradients.
    conv2d_output_shape : its shape.
    correlate2d : without channels, with SciPy's arguments.

    Notes
    -----
    The sum is a product of two matrices, of which the one made of the image's windows is never
    formed: tiles of it are packed as they are needed [1]_, at most a megabyte a thread; packed
    weights take the room of the weights.  Winograd's algorithms take up to 12 MB for a thread, or
    for all together, and 3 MB for weights.  Channels that do not mix (``groups``
    = C = O) have a kernel whose lanes are channels; large images at stride and dilation 1 are
    correlated one by one, as by `correlate2d`, which has methods of its own for large kernels;
    ``method='direct'`` keeps from those too.  Operands of another type or byte order than the
    result, or misaligned, are converted first, as a whole; `correlate2d` converts as it reads.

    For the gradients of a layer with ``activation='relu'`` give `conv2d_backward` the gradient
    ``dy * (y > 0)``.

    Summed directly, a result y has an error of at most about ``eps * K * sum |x| |weight|`` with K
    the smaller of 384 and the number of terms, plus one rounding for every 192 terms.

    References
    ----------
    .. [1] K. Goto and R. A. van de Geijn, "Anatomy of high-performance matrix multiplication",
       ACM Trans. Math. Softw. 34 (3), 2008.  :doi:`10.1145/1356052.1356053`
    .. [2] A. Lavin and S. Gray, "Fast algorithms for convolutional neural networks", 2015.
       :arxiv:`1509.09308`

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr import conv2d
    >>> x = np.arange(18.0).reshape(1, 2, 3, 3)  # one image of two channels
    >>> weight = np.ones((4, 2, 2, 2))  # four kernels
    >>> y = conv2d(x, weight, bias=[0, 1, 2, 3])
    >>> y.shape
    (1, 4, 2, 2)
    >>> y[0, 1]
    array([[53., 61.],
           [77., 85.]])

    A photograph has its channels last.  Its horizontal slopes, where they rise:

    >>> photo = np.zeros((4, 5, 3), np.uint8)
    >>> photo[:, 3:] = 10, 20, 30  # dark, then a colour
    >>> slope = np.tile(np.float32([[-1, 0, 1]]), (1, 3, 1, 1))
    >>> conv2d(photo, slope, activation="relu", channels_last=True).shape
    (4, 3, 1)
    >>> conv2d(photo, slope, activation="relu", channels_last=True)[0, :, 0]
    array([ 0., 60., 60.], dtype=float32)
    """
    a, w = _operand(x, "x"), _operand(weight, "weight")
    b = None if bias is None else _operand(bias, "bias")
    dtypes = _dtypes(x=a, weight=w, bias=b)
    plan = _plan(
        "conv2d", a, w, None if b is None else b.shape, dtypes, stride, padding, dilation, groups,
        padding_mode, activation=activation, method=method, rtol=rtol, channels_last=channels_last,
    )  # fmt: skip
    n = choose_workers(workers, plan.useful_workers)
    target = None
    if out is not None:
        target = _out(out, plan.shape, plan.dtype, *(v for v in (a, w, b) if v is not None))
    y = np.empty(plan.shape, plan.dtype) if target is None else target
    if b is not None:
        b = np.require(b, plan.dtype, ["C", "A"])
    _forward(plan, _nchw(a, plan), w, b, plan.nchw(y), n)
    if out is None:
        return y
    if target is None:
        put(out, y)
    return out


@overload
def conv2d_backward(
    dy: npt.ArrayLike,
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    stride: IntOrPair = ...,
    padding: Padding = ...,
    dilation: IntOrPair = ...,
    groups: SupportsIndex = ...,
    *,
    padding_mode: str = ...,
    channels_last: bool = ...,
    method: str = ...,
    rtol: float | None = ...,
    workers: SupportsIndex | None = ...,
) -> tuple[Array, Array, Array]: ...
@overload
def conv2d_backward(
    dy: npt.ArrayLike,
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    stride: IntOrPair = ...,
    padding: Padding = ...,
    dilation: IntOrPair = ...,
    groups: SupportsIndex = ...,
    *,
    padding_mode: str = ...,
    channels_last: bool = ...,
    needs: Iterable[str],
    method: str = ...,
    rtol: float | None = ...,
    workers: SupportsIndex | None = ...,
) -> tuple[Array | None, Array | None, Array | None]: ...
@silent
def conv2d_backward(
    dy: npt.ArrayLike,
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    groups: SupportsIndex = 1,
    *,
    padding_mode: str = "zeros",
    channels_last: bool = False,
    needs: Iterable[str] = ("x", "weight", "bias"),
    method: str = "auto",
    rtol: float | None = None,
    workers: SupportsIndex | None = None,
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of `conv2d`: the vector-Jacobian product.

    Parameters
    ----------
    dy : array_like, shape (N, O, oh, ow) or (O, oh, ow)
        Gradient of some number to the result, in its shape: with `channels_last`
        (N, oh, ow, O) or (oh, ow, O).
    x, weight, stride, padding, dilation, groups, padding_mode, channels_last
        As they were given to `conv2d`.
    needs : sequence of {'x', 'weight', 'bias'}, optional
        The gradients wanted.  Default all.
    method : {'auto', 'direct', 'winograd', 'winograd4'}, optional
        Algorithm, as for `conv2d`.
    rtol : float, optional
        Error up to which 'auto' may take any method, for each gradient by itself.
    workers : int, optional
        Number of threads, as for `conv2d`.

    Returns
    -------
    dx : ndarray or None
        Gradient to `x`, in its shape; None if not needed.
    dweight : ndarray or None
        Gradient to `weight`, in its shape; None if not needed.
    dbias : ndarray, shape (O,), or None
        Gradient to the bias: the sum of `dy` over images, rows and columns; None if not needed.
        Each gradient has its operand's dtype (`dy`'s for the bias) if that is of floating point,
        and is real for a real operand.

    Raises
    ------
    ValueError, TypeError
        As `conv2d`; also if `dy` has another shape than the result or is complex where that is
        real, or if `needs` names something else.

    See Also
    --------
    conv2d : the function itself, without its activation.

    Notes
    -----
    The products are the adjoints of ``x -> y`` and ``weight -> y`` for the real inner product
    ``<u, v> = Re sum conj(u) * v``, as in PyTorch.  The gradient to `x` is `conv_transpose2d`
    of `dy`, the gradient to `weight` a correlation of `x` with `dy` whose dilation is the
    stride; both are computed without zeros between the pixels of `dy`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr import conv2d_backward
    >>> x, weight = np.arange(9.0).reshape(1, 3, 3), np.ones((2, 1, 2, 2))
    >>> dx, dweight, dbias = conv2d_backward(np.ones((2, 2, 2)), x, weight)
    >>> dweight[0, 0]
    array([[ 8., 12.],
           [20., 24.]])
    >>> dbias
    array([4., 4.])
    """
    g, a, w = _operand(dy, "dy"), _operand(x, "x"), _operand(weight, "weight")
    plan = _plan(
        "conv2d_backward", a, w, None, _dtypes(x=a, weight=w, dy=g), stride, padding, dilation,
        groups, padding_mode, method=method, rtol=rtol, channels_last=channels_last,
    )  # fmt: skip
    _check_grad(g, plan, a, w)
    need_x, need_w, need_b = needed(needs, ("x", "weight", "bias"))
    n = choose_workers(workers, plan.useful_workers)
    g4 = _nchw(g, plan)
    dx = dw = db = None
    if need_x:
        dx = _like(plan.given(_to_input(plan, g4, _conj(w), n)), a.dtype)
    if need_w:
        x4 = _nchw(a, plan)
        dw = _like(_to_weight(plan, x4, g4, n).reshape(w.shape), w.dtype)
    if need_b:
        db = _like(_bias_grad(g4), g.dtype)
    return dx, dw, db


def _conj(w: Array) -> Array:
    return np.conjugate(w) if w.dtype.kind == "c" else w


def _check_grad(g: Array, plan: _Plan, x: Array, w: Array) -> None:
    if g.shape != plan.shape:
        raise ValueError(f"dy must have the shape of the result, {plan.shape}, got {g.shape}")
    if g.dtype.kind == "c" and "c" not in (x.dtype.kind, w.dtype.kind):
        raise TypeError(f"dy is complex ({g.dtype}), but the result that it belongs to is real")


def _to_weight(plan: _Plan, x: Array, g: Array, n: int) -> Array:
    """Gradient to the weight, (groups, O, C, kh, kw)."""
    if plan.single_back:
        xs, gs = plan.planes(x), plan.planes(g)
        if plan.single:
            dw = kernel_grad(
                plan.module, xs, gs, plan.kernel, plan.corner, plan.codes, plan.zero, n, plan.method
            )
        else:
            dw = np.zeros((*gs.shape[:-2], *plan.kernel), plan.dtype)
            down, across = (
                tap_phases(*axis)
                for axis in zip(plan.kernel, plan.stride, plan.before, strict=True)
            )
            for i, every_a, at_a in down:
                for j, every_b, at_b in across:
                    part = xs[..., i :: plan.stride[0], j :: plan.stride[1]]
                    taps = dw[..., every_a, every_b]
                    taps[...] = kernel_grad(
                        plan.module, part, gs, taps.shape[-2:], (at_a, at_b), plan.codes,
                        plan.zero, n, plan.method,
                    )  # fmt: skip
        return dw if dw.ndim == 2 else dw.sum(axis=0, dtype=dw.dtype)
    if plan.winograd:
        return _winograd.weight_grad(x, g, plan.groups, plan.winograd, plan.corner, plan.codes, n)
    return weight_grad(x, g, plan.groups, plan.rows, plan.cols, plan.stride, plan.codes, n)


@silent
def conv_transpose2d(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    output_padding: IntOrPair = 0,
    groups: SupportsIndex = 1,
    dilation: IntOrPair = 1,
    *,
    channels_last: bool = False,
    method: str = "auto",
    rtol: float | None = None,
    workers: SupportsIndex | None = None,
) -> Array:
    """Transposed convolution: what `conv2d` with this weight sends back to its input.

    The arguments are those of `torch.nn.functional.conv_transpose2d`.  Every pixel of `x` adds
    a kernel to the result, `stride` pixels from its neighbour's.

    Parameters
    ----------
    x : array_like, shape (N, C, H, W) or (C, H, W)
        Images, with or without the batch axis.
    weight : array_like, shape (C, O / groups, kh, kw)
        The kernels.
    bias : array_like, shape (O,), optional
        Added to each output channel.
    stride : int or pair of int, optional
        Distance between the kernels in the result.  Default 1.
    padding : int or pair of int, optional
        Rows and columns cut off the result at each edge.  Default 0.
    output_padding : int or pair of int, optional
        Rows and columns added below and to the right; smaller than stride or dilation: among
        the sizes that `conv2d` makes equal, it chooses one.  Default 0.
    groups : int, optional
        Divides the channels, as for `conv2d`.  Default 1.
    dilation : int or pair of int, optional
        Distance between the taps of a kernel.  Default 1.
    channels_last : bool, optional
        Whether the channels of `x` and the result come last, as for `conv2d`.  Default False.
    method : {'auto', 'direct', 'winograd', 'winograd4'}, optional
        Algorithm, as for `conv2d`.
    rtol : float, optional
        Error up to which 'auto' may take any method, as for `conv2d`.
    workers : int, optional
        Number of threads, as for `conv2d`.

    Returns
    -------
    ndarray, shape (N, O, oh, ow) or (O, oh, ow); with channels last (N, oh, ow, O) or (oh, ow, O)
        With ``oh = (H - 1) * stride - 2 * padding + dilation * (kh - 1) + output_padding + 1``;
        in the promoted dtype.  Nothing is conjugated.

    Raises
    ------
    ValueError, TypeError
        As `conv2d`.

    See Also
    --------
    conv_transpose2d_backward : its gradients.
    conv2d_backward : the adjoint of `conv2d`, the same but for complex weights.

    Notes
    -----
    Each of the ``stride**2`` phases of the result is a convolution of its own at stride 1, with
    the taps that meet it [1]_.

    There is no `activation`: `numpy.maximum` makes one of the result.

    References
    ----------
    .. [1] W. Shi et al., "Is the deconvolution layer the same as a convolutional layer?", 2016.
       :arxiv:`1609.07009`

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr import conv_transpose2d
    >>> x = np.array([[[1.0, 2.0]]])
    >>> conv_transpose2d(x, np.ones((1, 1, 2, 2)), stride=2)
    array([[[1., 1., 2., 2.],
            [1., 1., 2., 2.]]])
    """
    a, w = _operand(x, "x"), _operand(weight, "weight")
    b = None if bias is None else _operand(bias, "bias")
    plan = _plan(
        "conv_transpose2d", a, w, None if b is None else b.shape, _dtypes(x=a, weight=w, bias=b),
        stride, padding, dilation, groups, "zeros", output_padding, method=method, rtol=rtol,
        channels_last=channels_last,
    )  # fmt: skip
    n = choose_workers(workers, plan.useful_workers)
    y = _to_input(plan, _nchw(a, plan), w, n)
    if b is not None:
        np.add(y, b.astype(plan.dtype, copy=False)[:, None, None], out=y)
    return np.ascontiguousarray(plan.given(y))


@overload
def conv_transpose2d_backward(
    dy: npt.ArrayLike,
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    stride: IntOrPair = ...,
    padding: IntOrPair = ...,
    output_padding: IntOrPair = ...,
    groups: SupportsIndex = ...,
    dilation: IntOrPair = ...,
    *,
    channels_last: bool = ...,
    method: str = ...,
    rtol: float | None = ...,
    workers: SupportsIndex | None = ...,
) -> tuple[Array, Array, Array]: ...
@overload
def conv_transpose2d_backward(
    dy: npt.ArrayLike,
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    stride: IntOrPair = ...,
    padding: IntOrPair = ...,
    output_padding: IntOrPair = ...,
    groups: SupportsIndex = ...,
    dilation: IntOrPair = ...,
    *,
    channels_last: bool = ...,
    needs: Iterable[str],
    method: str = ...,
    rtol: float | None = ...,
    workers: SupportsIndex | None = ...,
) -> tuple[Array | None, Array | None, Array | None]: ...
@silent
def conv_transpose2d_backward(
    dy: npt.ArrayLike,
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    output_padding: IntOrPair = 0,
    groups: SupportsIndex = 1,
    dilation: IntOrPair = 1,
    *,
    channels_last: bool = False,
    needs: Iterable[str] = ("x", "weight", "bias"),
    method: str = "auto",
    rtol: float | None = None,
    workers: SupportsIndex | None = None,
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of `conv_transpose2d`: the vector-Jacobian product.

    Parameters
    ----------
    dy : array_like, shape (N, O, oh, ow) or (O, oh, ow)
        Gradient of some number to the result, in its shape.
    x, weight, stride, padding, output_padding, groups, dilation, channels_last
        As they were given to `conv_transpose2d`.
    needs : sequence of {'x', 'weight', 'bias'}, optional
        The gradients wanted.  Default all.
    method : {'auto', 'direct', 'winograd', 'winograd4'}, optional
        Algorithm, as for `conv2d`.
    rtol : float, optional
        Error up to which 'auto' may take any method, for each gradient by itself.
    workers : int, optional
        Number of threads, as for `conv2d`.

    Returns
    -------
    dx : ndarray or None
        Gradient to `x`: `conv2d` of `dy`; None if not needed.
    dweight : ndarray or None
        Gradient to `weight`; None if not needed.
    dbias : ndarray, shape (O,), or None
        Gradient to the bias; None if not needed.  Dtypes are chosen as by `conv2d_backward`.

    Raises
    ------
    ValueError, TypeError
        As `conv_transpose2d`; also if `dy` has another shape than the result or is complex
        where that is real, or if `needs` names something else.

    See Also
    --------
    conv_transpose2d : the function itself.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr import conv_transpose2d_backward
    >>> x = np.array([[[1.0, 2.0]]])
    >>> dx, dweight, dbias = conv_transpose2d_backward(
    ...     np.ones((1, 2, 4)), x, np.ones((1, 1, 2, 2)), stride=2)
    >>> dx
    array([[[4., 4.]]])
    """
    g, a, w = _operand(dy, "dy"), _operand(x, "x"), _operand(weight, "weight")
    plan = _plan(
        "conv_transpose2d_backward", a, w, None, _dtypes(x=a, weight=w, dy=g), stride, padding,
        dilation, groups, "zeros", output_padding, method=method, rtol=rtol,
        channels_last=channels_last,
    )  # fmt: skip
    _check_grad(g, plan, a, w)
    need_x, need_w, need_b = needed(needs, ("x", "weight", "bias"))
    n = choose_workers(workers, plan.useful_workers)
    g4 = _nchw(g, plan)
    dx = dw = db = None
    if need_x:
        dx = plan.empty(plan.y)
        _forward(plan, g4, _conj(w), None, dx, n)
        dx = _like(plan.given(dx), a.dtype)
    if need_w:
        # The roles of x and dy are exchanged, so the other one would be conjugated.
        dw = _conj(_to_weight(plan, g4, _nchw(a, plan), n)).reshape(w.shape)
        dw = _like(dw, w.dtype)
    if need_b:
        db = _like(_bias_grad(g4), g.dtype)
    return dx, dw, db


def conv2d_output_shape(
    input_shape: Sequence[SupportsIndex],
    out_channels: SupportsIndex,
    kernel_size: IntOrPair,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    *,
    channels_last: bool = False,
) -> tuple[int, ...]:
    """Shape of the result of `conv2d`.

    Parameters
    ----------
    input_shape : sequence of int
        Shape of `x`: (N, C, H, W) or (C, H, W); with `channels_last` (N, H, W, C) or (H, W, C).
    out_channels : int
        Output channels O.
    kernel_size : int or pair of int
        Rows and columns of the kernels.
    stride, padding, dilation, channels_last
        As for `conv2d`.

    Returns
    -------
    tuple of int
        (N, O, oh, ow) or (O, oh, ow), or that with O last, with
        ``oh = (H + top + bottom - dilation * (kh - 1) - 1) // stride + 1``.

    Raises
    ------
    ValueError, TypeError
        As `conv2d`.

    See Also
    --------
    conv2d : the function itself.
    receptive_field : what an output sees.

    Examples
    --------
    >>> from fastcorr import conv2d_output_shape
    >>> conv2d_output_shape((8, 3, 224, 224), 64, 7, stride=2, padding=3)
    (8, 64, 112, 112)
    >>> conv2d_output_shape((224, 224, 3), 64, 7, stride=2, padding=3, channels_last=True)
    (112, 112, 64)
    """
    try:
        shape = tuple(operator.index(n) for n in listed(input_shape, 4))
    except TypeError:
        raise TypeError(
            f"input_shape must be a tuple of integers, got {shown(input_shape)}"
        ) from None
    last, names = _layout(channels_last)
    if len(shape) not in (3, 4) or min(shape) < 0:
        raise ValueError(f"input_shape must be {names}, got {shown(input_shape)}")
    if max(shape) > LARGEST:
        raise ValueError(f"input_shape must be at most 2**60, got {shown(input_shape)}")
    if last:
        shape = _channels_first(shape)
    try:
        channels = operator.index(out_channels)
    except TypeError:
        raise TypeError(f"out_channels must be an integer, got {shown(out_channels)}") from None
    if not 1 <= channels <= LARGEST:
        raise ValueError(f"out_channels must be from 1 to 2**60, got {shown(out_channels)}")
    k = _size(kernel_size, "kernel_size", 1)
    s, d = _size(stride, "stride", 1), _size(dilation, "dilation", 1)
    pads = _pads(padding, (shape[-2], shape[-1]), k, s, d)
    out = _fit((shape[-2], shape[-1]), k, s, pads, d, padding)
    y = (*shape[:-3], channels, *out)
    return _channels_last(y) if last else y
