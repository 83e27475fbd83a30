"""Hostile problems, numbered, and the process that computes a batch of them.

Run as a script: ``hostile.py FAMILY START STOP STEP JOURNAL``.  Before each problem its number
goes into the journal, a file that the parent reads when the process has died or hangs.  Every
problem must have the result of its definition, or end with one of `ALLOWED`.
"""

import collections
import ctypes
import faulthandler
import functools
import json
import math
import mmap
import os
import resource
import sys
import threading
import time
import traceback

import cases
import conv_cases
import conv_oracle
import memory
import numpy as np
import oracle

import fastcorr
from fastcorr import nn

ALLOWED = (ValueError, TypeError, MemoryError)


class Raises:
    """An index, and an array, whose making fails."""

    def __index__(self):
        raise TypeError("no index")

    def __array__(self, dtype=None, copy=None):
        raise TypeError("no array")


# ---------------------------------------------------------------- one channel: a grid

SIDES = (0, 1, 2, 3, 7, 8, 9, 17)
DTYPES = "BfdD"
GRID = (*(len(SIDES),) * 4, 3, len(oracle.RULES), len(DTYPES))
METHODS = ("auto", "auto", "direct", "fft", "separable")


@functools.cache
def _shown(function, mode, n, k, rule):
    """Which elements of an axis the outputs of a mode read, first tap of the first to last of the
    last; -1 is the fill value."""
    positions = oracle._positions(function, mode, n, k)
    if not len(positions):
        return np.zeros(0, int)
    read = range(positions.start - k + 1, positions.stop)
    rule = "fill" if mode == "valid" else rule
    return np.array([-1 if (s := oracle.source(i, n, rule)) is None else s for i in read], int)


def _defined(function, x, k, mode, rule):
    """The result, exact: sums of integers, or of complex numbers with integer parts."""
    x, k = conv_oracle.lift(x), conv_oracle.lift(k)
    shape = oracle.shape(mode, x.shape, k.shape)
    if 0 in (*shape, *k.shape, *x.shape):
        return np.zeros(shape, np.result_type(x, k))
    rows, cols = (
        _shown(function, mode, *sizes, rule) for sizes in zip(x.shape, k.shape, strict=True)
    )
    inside = (rows >= 0)[:, None] & (cols >= 0)
    read = np.where(inside, x[rows[:, None], cols], 0)
    k = k.conj() if function == "correlate2d" else k[::-1, ::-1]
    windows = np.lib.stride_tricks.sliding_window_view(read, k.shape)
    return np.einsum("ijab,ab->ij", windows, k)


def _refused(x, k, mode, rule):
    """Whether the documentation says that there is no result."""
    if mode == "valid":
        fits = [a >= b for a, b in zip(x, k, strict=True)]
        return 0 in (*x, *k) or (not all(fits) and any(a > b for a, b in zip(x, k, strict=True)))
    sizes = x if mode == "same" else [a + b - 1 for a, b in zip(x, k, strict=True)]
    return min(sizes) < 0 or (rule != "fill" and 0 in x and 0 not in sizes)


def _same(got, right, most=0.0):
    """The same numbers, or up to an error."""
    if got.dtype.kind in "iu":
        right = right.astype(got.dtype)  # modulo 2**n
    assert got.shape == right.shape, (got.shape, right.shape)
    np.testing.assert_allclose(got, right, rtol=0, atol=most)


def _inner(a, b):
    """Re sum conj(a) * b, of integers modulo 2**n."""
    if a.dtype.kind in "iu":
        return np.multiply(a, b).sum(dtype=np.uint8)
    return np.vdot(a.astype("D"), b.astype("D")).real


def correlation(number):
    """Number of the grid: everything else about the problem is random."""
    *sides, mode, rule, dtype = np.unravel_index(number, GRID)
    rng = np.random.default_rng(number)
    function = str(rng.choice(["correlate2d", "convolve2d"]))
    mode, rule, dtype = oracle.MODES[mode], oracle.RULES[rule], DTYPES[dtype]
    shapes = [tuple(SIDES[n] for n in pair) for pair in (sides[:2], sides[2:])]
    layouts = [str(v) for v in rng.choice(list(cases.LAYOUTS), 2)]
    x, k = (
        cases.LAYOUTS[layout](cases.integers(rng, s, dtype))
        for layout, s in zip(layouts, shapes, strict=True)
    )
    if rng.random() < 0.1:
        x = np.broadcast_to(x[:1], x.shape)
    method = METHODS[rng.integers(len(METHODS))]
    workers = 2 if rng.random() < 0.01 else 1
    yield f"{function}, {shapes}, {mode}, {rule}, {dtype}, {layouts}, {method}, {workers=}"
    before = cases.bits(x), cases.bits(k)
    arguments = {"mode": mode, "boundary": rule, "method": method, "workers": workers}
    try:
        y = getattr(fastcorr, function)(x, k, **arguments)
    except ValueError as error:
        if not _refused(*shapes, mode, rule) and "separable" not in str(error):
            raise AssertionError(arguments) from error
        raise
    assert not _refused(*shapes, mode, rule)
    by_transform = method == "fft" and dtype != "B"
    right, most = _defined(function, x, k, mode, rule), 0.0
    if by_transform and 0 not in (x.size, k.size):  # what accuracy.md says of a tile, at most
        unit, taps = np.finfo(dtype).eps / 2, np.abs(k)
        most = 10 * unit * np.abs(x).max() * (1.5 * np.linalg.norm(taps) + taps.sum())
    _same(y, right, most)
    dy = cases.integers(rng, y.shape, dtype)
    vjp = getattr(fastcorr, f"{function}_vjp")
    dx, dk = vjp(dy, x, k, **{**arguments, "method": "direct" if by_transform else method})
    assert dx.shape == x.shape
    assert dk.shape == k.shape
    product = _inner(dy, right.astype(dtype))
    assert product == _inner(dx, x) == _inner(dk, k)
    assert (cases.bits(x), cases.bits(k)) == before


# ---------------------------------------------------------------- hostile arguments

NUMBERS = [
    -(2**63), -(2**31), -1, 0, 2**31 - 1, 2**31, 2**53, 2**59, 2**60, 2**60 + 1, 2**62, 2**63 - 1,
    2**63, 2**64, 2**70, np.int64(2**62), np.uint64(2**63), True, False, np.True_, 1.0, 0.5, -0.0,
    math.nan, math.inf, 1j, np.float32(1), None, "", "1", "same", "nan", b"1", (), (1,), (1, 2, 3),
    [1, [2]], ((1, 1), (0, 0)), ((1, 2**63), 0), ((0,), (1, 1)), np.array(1), np.array([1, 2]),
    np.array([]), {"a": 1}, {1, 2}, range(2), slice(1), Ellipsis, object(), Raises(), int, len,
    (2**60, 2**60), (1, 2**60), [2**40, 1], (2**40, 0), (0, 2**50), (Raises(), 1), (None, None),
]  # fmt: skip
PADDINGS = [0, 1, 2, (0, 1), "same", "valid", ((0, 1), (2, 0)), [1, 1]]
STEPS = [1, 2, 3, (1, 2), [2, 1], np.int8(2)]
NAMES = ["zeros", "reflect", "replicate", "circular"]
WRONG_NAMES = [None, "", "fill", "ZEROS", b"zeros", 0, ("zeros",), ["zeros"], {}, Raises(), "a\0"]
WRONG_METHODS = [None, "", "fft", "winograd", "winograd4", b"direct", 1, ["direct"], Raises()]
RTOLS = [1e-300, 5e-324, 2, 1e300, 0, -1, math.nan, math.inf, "1", True, [1], Raises(), 10**400]
WORKERS = [None] * 20 + [2, -1]  # few with threads: on a busy machine they wait for each other
WRONG_WORKERS = [n for n in NUMBERS if n is not None]

CONV = {  # argument: (what is right, what is hostile)
    "stride": (STEPS, NUMBERS), "padding": (PADDINGS, NUMBERS), "dilation": (STEPS, NUMBERS),
    "groups": ([1, 1, 2], NUMBERS), "padding_mode": (NAMES, WRONG_NAMES),
    "activation": ([None, "relu"], ["tanh", b"relu", 0, [], np.maximum, Raises()]),
    "channels_last": ([False], [0, 1, None, "no", np.False_, [], Raises()]),
    "method": (["auto", "direct"], WRONG_METHODS), "rtol": ([None, 1e-3], RTOLS),
    "workers": (WORKERS, WRONG_WORKERS), "output_padding": ([0, 0, 1], NUMBERS),
}  # fmt: skip


def _draw(rng, table, hostile, names=None):
    """Arguments, and whether all are right; of so many others each is as likely hostile."""
    drawn, right = {}, True
    for name in names or table:
        good, bad = table[name]
        if rng.random() < hostile:
            drawn[name], right = bad[rng.integers(len(bad))], False
        elif rng.random() < 0.6:
            drawn[name] = good[rng.integers(len(good))]
    return drawn, right


def _told(value):
    text = repr(value)
    return text if len(text) < 200 else f"{text[:200]}…"


def _modest(*values):
    """Whether the definition, which counts, can be asked."""
    flat = [v for value in values for v in np.ravel(np.array(value, object))]
    return all(not isinstance(v, (int, np.integer)) or abs(int(v)) < 100 for v in flat)


def convolution(number):
    """conv2d and conv_transpose2d with arguments of which some are hostile."""
    rng = np.random.default_rng([number, 1])
    transposed = bool(rng.random() < 0.4)
    skipped = {"padding_mode", "activation"} if transposed else {"output_padding"}
    names = [name for name in CONV if name not in skipped]
    arguments, right = _draw(rng, CONV, 0.15 if rng.random() < 0.4 else 0, names)
    groups = arguments.get("groups", 1)
    groups = groups if isinstance(groups, int) and groups in (1, 2) else 1
    n, c, o = (int(v) for v in rng.choice([0, 1, 2, 3], 3, p=[0.04, 0.4, 0.36, 0.2]))
    c, o = c * groups, o * groups
    size = [int(v) for v in rng.choice(SIDES, 2, p=[0.02, 0.08, 0.1, *[0.16] * 5])]
    kernel = [int(v) for v in rng.choice([0, 1, 2, 3, 7], 2, p=[0.02, 0.3, 0.3, 0.3, 0.08])]
    dtype, layouts = "fdFD"[rng.integers(4)], rng.choice(list(conv_cases.LAYOUTS), 2)
    shapes = (n, c, *size), (c, o // groups, *kernel) if transposed else (o, c // groups, *kernel)
    empty = 0 in (*size, *kernel, c, o)
    yield f"{transposed=}, {shapes}, {dtype}, {layouts}, {_told(arguments)}"
    x, weight = (
        conv_cases.LAYOUTS[layout](cases.integers(rng, shape, dtype))
        for layout, shape in zip(layouts, shapes, strict=True)
    )
    before = cases.bits(x), cases.bits(weight)
    name = "conv_transpose2d" if transposed else "conv2d"
    relu = arguments.get("activation") == "relu"
    ours = {"activation", "method", "rtol", "workers", "channels_last"}
    spelled = {k: v for k, v in arguments.items() if k not in ours}
    if "padding_mode" in spelled:
        spelled["mode"] = spelled.pop("padding_mode")
    modest = right and not empty and _modest(*spelled.values())
    try:
        y = getattr(fastcorr, name)(x, weight, **arguments)
    except ALLOWED as error:
        told = str(error)
        # Of right arguments only these: sizes, types that are not to be rectified, strings where
        # numbers alone are allowed.
        known = (
            "larger than", "leaves nothing", "an order", "must be integers", "output_padding must",
            "must be an integer or a pair",
        )  # fmt: skip
        if modest and not any(why in told for why in known):
            raise AssertionError(told) from error
        raise
    assert y.size < 2**24
    exact = arguments.get("method", "auto") == "direct"
    if modest:
        lifted = conv_oracle.lift(x), conv_oracle.lift(weight)
        theirs = getattr(conv_oracle, name)(*lifted, **spelled)
        taps = math.prod(weight.shape) // (1 if transposed else len(weight))
        most = 0.0 if exact else 64 * np.finfo(dtype).eps * 9 * 9 * 2 * taps
        _same(y, np.maximum(theirs, 0) if relu else theirs, most)
    arguments.pop("activation", None)
    dy = cases.integers(rng, y.shape, dtype)
    dx, dweight, dbias = getattr(fastcorr, f"{name}_backward")(dy, x, weight, **arguments)
    assert (dx.shape, dweight.shape) == (x.shape, weight.shape)
    if not relu:
        product, scale = _inner(dy, y), 1 + np.vdot(abs(dy), abs(y))
        for a, b in ((dx, x), (dweight, weight)):
            other = _inner(a, b)
            assert product == other or (not exact and abs(product - other) < 1e-4 * scale)
    _same(dbias, dy.sum(axis=(0, 2, 3), dtype="D" if dtype in "FD" else "d"))
    assert (cases.bits(x), cases.bits(weight)) == before


# ---------------------------------------------------------------- everything else

X, K, X4, W4 = np.ones((5, 6)), np.ones((3, 2)), np.ones((1, 2, 5, 6)), np.ones((2, 2, 3, 3))
SLICES = [None, (slice(1, 3), slice(-2, None)), (slice(None), slice(0, 0))]
WRONG_SLICES = [
    (), 1, "ab", slice(1), (slice(1),), (slice(1),) * 3, (slice(0, 4, 2), slice(None)),
    (slice(2**70), slice(-(2**70), None)), (slice(2**63, 2**64), slice(None)),
    (slice(1.0), slice(1)), (slice("a"), slice(b"b")), (slice(True), slice(None)),
    (slice(None, None, -1),) * 2, (slice(None, None, 0),) * 2, (slice(Raises()),) * 2, Raises(),
    (1, 2), np.array([1, 2]), (slice([1]), slice({})), (slice(None, None, 2**64),) * 2,
]  # fmt: skip
AXES = [None, (-2, -1), (0, 1), [1, 0]]
WRONG_AXES = [*NUMBERS, (0, 0), (0, -2), (0, 5), (-3, 1), (2**63, 0), (1.0, 0), "ab"]
SHAPES = [(5, 6), [5, 6], np.array([5, 6]), (3, 2)]
WRONG_SHAPES = [
    *NUMBERS, (0, 3), (-1, 4), (2**40, 2**20), (2**31, 2**31), (2**62, 1), (2**64, 1), (2**70,) * 2,
    (5.0, 6), "56", [[5, 6]], (Raises(), 1), (5,), (5, 6, 7), (True, True), (2**24, 2**23),
]  # fmt: skip
OUTS = [
    None, 1, [], "out", (), np.zeros((7, 7), "f"), np.zeros((7, 8)), np.zeros((7, 7), object),
    np.broadcast_to(np.zeros(7), (7, 7)), np.zeros((7, 7), "M8[s]"), np.ma.zeros((7, 7)), Raises(),
    np.lib.stride_tricks.as_strided(np.zeros(13), (7, 7), (8, 8)), np.zeros(0), np.zeros(()),
]  # fmt: skip
PLAIN = {
    "mode": (list(oracle.MODES), [None, "", 1, b"full", ["full"], Raises(), "FULL"]),
    "boundary": ([*oracle.RULES, ("fill", "wrap"), ["symm", "mirror"]],
                 [None, "", 1, "reflect", ("fill",), ("fill",) * 3, {"fill"}, [[]], Raises()]),
    "fillvalue": ([0, 1, 0.5, [2]],
                  [None, "x", "1", [], [1, 2], 1j, math.nan, 10**400, {}, Raises(), b"1",
                   np.array([[3.0]]), np.datetime64(1, "s")]),
    "axes": (AXES, WRONG_AXES), "lags": (SLICES, WRONG_SLICES), "workers": (WORKERS, WRONG_WORKERS),
    "dtype": ([None, "d", "g", float], ["f", "x", "O", "M8[s]", "e", int, 1, [], "V3", Raises(), {},
                                        [("a", "f")], "b", "?"]),
    "method": (["auto", "direct", "fft"], ["", None, "separable", 1, ["fft"], b"fft", Raises()]),
    "needs": ([("in1", "in2"), ["in2"], "in1"],
              [None, 1, ("x",), [[]], {"in1": 1}, "in", Raises()]),
    "shape": (SHAPES, WRONG_SHAPES), "out": ([None], OUTS),
}  # fmt: skip
LAYER = {
    "kernel_size": ([1, 2, 3, (3, 1)], NUMBERS), "stride": (STEPS, NUMBERS),
    "padding": (PADDINGS, NUMBERS), "dilation": (STEPS, NUMBERS),
    "padding_mode": (NAMES, WRONG_NAMES), "ceil_mode": ([False, True], [None, 2]),
}  # fmt: skip


def _layers(rng):
    layers, right = [], True
    for _ in range(rng.integers(1, 4)):
        layer, fine = _draw(rng, LAYER, 0.1)
        layers.append({"kernel_size": 2, **layer} if rng.random() < 0.95 else layer)
        right = right and fine
    wrong = [None, 1, "conv", [[None]], {"kernel": 3}, Raises(), nn.Flatten(), [nn.ReLU], object]
    if rng.random() < 0.05:
        layers, right = wrong[rng.integers(len(wrong))], False
    return layers, right


def _others(rng):
    """A call, what it says, and whether it must succeed."""
    kind = rng.integers(9)
    hostile = 0.15
    if kind < 4:
        function, names = [
            (fastcorr.correlate2d, "mode boundary fillvalue axes lags dtype method out workers"),
            (fastcorr.convolve2d, "mode boundary fillvalue axes lags dtype method out workers"),
            (fastcorr.choose_method, "mode boundary axes lags dtype workers"),
            (fastcorr.correlate2d_vjp, "mode boundary fillvalue axes lags method needs workers"),
        ][kind]
        given, _ = _draw(rng, PLAIN, hostile, names.split())
        operands = [X, K]
        if function is fastcorr.correlate2d_vjp:
            forward = {k: v for k, v in given.items() if k != "needs"}
            operands.insert(0, np.ones(fastcorr.correlate2d(X, K, **forward).shape))
        return functools.partial(function, *operands, **given), given, False
    if kind < 6:
        plan = fastcorr.plan_correlate2d if kind == 4 else fastcorr.plan_convolve2d
        names = "shape mode boundary fillvalue axes lags dtype method workers"
        given, _ = _draw(rng, PLAIN, hostile, names.split())
        more, _ = _draw(rng, PLAIN, hostile, ["out", "workers"])

        def call():
            made = plan(K, **{"shape": (5, 6), **given})
            assert made.out_shape == made(X[: made.shape[0], : made.shape[1]], **more).shape

        return call, (given, more), False
    if kind == 6:
        given, right = _draw(rng, CONV, hostile, ["stride", "padding", "dilation", "channels_last"])
        shapes = [(1, 2, 30, 40), [3, 30, 41], *WRONG_SHAPES, (2**63, 1, 1, 1), (1, 2**70, 9, 9)]
        n = rng.integers(len(shapes)) if rng.random() < 0.3 else 0
        sizes, bad = ([3, (2, 3), 1], NUMBERS) if rng.random() < 0.8 else (NUMBERS, NUMBERS)
        kernel = sizes[rng.integers(len(sizes))]
        channels = 4 if rng.random() < 0.8 else bad[rng.integers(len(bad))]
        call = functools.partial(fastcorr.conv2d_output_shape, shapes[n], channels, kernel, **given)
        right = right and n < 2 and sizes is not bad and channels == 4
        return call, (shapes[n], channels, kernel, given), right
    layers, right = _layers(rng)
    shapes = [(40, 50), [1, 3, 40, 50], *WRONG_SHAPES]
    shape = shapes[rng.integers(len(shapes)) if rng.random() < 0.3 else 0]
    if kind == 7:
        return functools.partial(fastcorr.receptive_field, layers, shape), (layers, shape), False
    at = [(0, 0), [1, 1], (10**6, 0), *NUMBERS][rng.integers(2) if rng.random() < 0.8 else -1]
    call = functools.partial(fastcorr.receptive_field_mask, layers, shape, at)
    return call, (layers, shape, at), False


def other(number):
    """The functions of one channel with hostile arguments, plans, shapes, receptive fields."""
    rng = np.random.default_rng([number, 2])
    try:
        call, told, right = _others(rng)
    except ALLOWED as error:
        yield f"forward {error}"
        raise
    yield f"{getattr(call, 'func', call)}, {_told(told)}"
    try:
        call()
    except ALLOWED as error:
        if right:
            raise AssertionError(told) from error
        raise


def layer(number):
    """Layers of fastcorr.nn: hostile arguments, then images both ways."""
    rng = np.random.default_rng([number, 3])
    kind = [nn.Conv2d, nn.ConvTranspose2d, nn.MaxPool2d, nn.AvgPool2d, nn.Linear][rng.integers(5)]
    names = {
        nn.Conv2d: "stride padding dilation groups padding_mode method rtol",
        nn.ConvTranspose2d: "stride padding output_padding groups dilation method rtol",
        nn.MaxPool2d: "stride padding dilation", nn.AvgPool2d: "stride padding", nn.Linear: "",
    }[kind].split()  # fmt: skip
    given, _ = _draw(rng, CONV, 0.1, names) if names else ({}, True)
    first = [2, 2, 3] if kind in (nn.Conv2d, nn.ConvTranspose2d) else [6, 2] if not names else [2]
    first = [v if rng.random() < 0.93 else NUMBERS[rng.integers(len(NUMBERS))] for v in first]
    yield f"{kind.__name__}({_told(first)}, {_told(given)})"
    made = kind(*first, **given)
    assert repr(made)
    y = made(X4.astype("f"))
    assert made.backward(y).shape == X4.shape


# ---------------------------------------------------------------- every function, every array

IMAGE, TAPS = np.arange(20.0).reshape(4, 5) % 7, np.array([[1.0, -2, 3], [0, 4, -1]])
IMAGES = np.arange(40.0).reshape(1, 2, 4, 5) % 11
WEIGHT = np.arange(36.0).reshape(2, 2, 3, 3) % 5 - 2
BIAS, LABELS = np.array([1.0, -2]), np.zeros(4, int)


def _plan(make, k, x):
    """A plan for images of the shape of x, called with x."""
    return make(k, shape=x.shape if type(x) is np.ndarray else IMAGE.shape, mode="same")(x)


def _through(kind, x, *args, **kwargs):
    made = kind(*args, **kwargs)
    y = made(x)
    return y, made.backward(y)


# Name: a call, and its arrays.  Gradients have the shape of their image.
CALLS = {
    **{f"{f.__name__} {mode}": (functools.partial(f, mode=mode), {"in1": IMAGE, "in2": TAPS})
       for f in (fastcorr.correlate2d, fastcorr.convolve2d) for mode in oracle.MODES},
    **{f"{f.__name__} {wanted}": (functools.partial(f, mode="same", needs=wanted),
                                  {"dy": IMAGE, "in1": IMAGE, "in2": TAPS})
       for f in (fastcorr.correlate2d_vjp, fastcorr.convolve2d_vjp) for wanted in ("in1", "in2")},
    "corr2d": (fastcorr.corr2d, {"x": IMAGE, "k": TAPS}),
    **{f"corr2d_backward {wanted}": (functools.partial(fastcorr.corr2d_backward, needs=wanted),
                                     {"dy": IMAGE, "x": IMAGE, "k": TAPS[:1, :1]})
       for wanted in "xk"},
    "choose_method": (fastcorr.choose_method, {"in1": IMAGE, "in2": TAPS}),
    **{f.__name__: (functools.partial(_plan, f), {"k": TAPS, "x": IMAGE})
       for f in (fastcorr.plan_correlate2d, fastcorr.plan_convolve2d)},
    **{f"{f.__name__} {method}": (functools.partial(f, padding=1, method=method),
                                  {"x": IMAGES, "weight": WEIGHT, "bias": BIAS})
       for f in (fastcorr.conv2d, fastcorr.conv_transpose2d) for method in ("direct", "winograd")},
    **{f"{f.__name__} {wanted}": (functools.partial(f, padding=1, needs=wanted),
                                  {"dy": IMAGES, "x": IMAGES, "weight": WEIGHT})
       for f in (fastcorr.conv2d_backward, fastcorr.conv_transpose2d_backward)
       for wanted in ("x", "weight", "bias")},
    "conv2d reflect": (functools.partial(fastcorr.conv2d, padding=1, padding_mode="reflect"),
                       {"x": IMAGES, "weight": WEIGHT}),
    "conv2d of one channel": (functools.partial(fastcorr.conv2d, padding="same"),
                              {"x": IMAGES[:, :1], "weight": WEIGHT[:1, :1]}),
    "nn.Conv2d": (lambda x: _through(nn.Conv2d, x, 2, 2, 3, padding=1, dtype="d", rng=0),
                  {"x": IMAGES}),
    "nn.ConvTranspose2d": (
        lambda x: _through(nn.ConvTranspose2d, x, 2, 2, 3, padding=1, dtype="d", rng=0),
        {"x": IMAGES}),
    "nn.Linear": (lambda x: _through(nn.Linear, x, 5, 3, dtype="d", rng=0), {"x": IMAGES}),
    "nn.MaxPool2d": (lambda x: _through(nn.MaxPool2d, x, 2), {"x": IMAGES}),
    "nn.AvgPool2d": (lambda x: _through(nn.AvgPool2d, x, 2), {"x": IMAGES}),
    "nn.ReLU": (lambda x: _through(nn.ReLU, x), {"x": IMAGES}),
    "nn.Parameter": (lambda data: nn.Parameter(data).data, {"data": IMAGE}),
    "nn.mse_loss": (nn.mse_loss, {"y": IMAGE, "target": IMAGE}),
    "nn.cross_entropy": (nn.cross_entropy, {"logits": IMAGE, "target": LABELS}),
    "nn.cross_entropy probabilities": (nn.cross_entropy, {"logits": IMAGE, "target": IMAGE}),
}  # fmt: skip

# Sides of images that need no memory: `np.broadcast_to`.
VIRTUAL = [(2**40, 2**20), (2**31, 2**31), (2**62, 1), (1, 2**62), (2**48, 2)]


def _virtual(a, sides, leading):
    """An array of such sides, one element in memory."""
    sides = sides[: a.ndim]
    rest = a.shape[len(sides) :] if leading else a.shape[: a.ndim - len(sides)]
    for dtype in "fB" if a.dtype.kind == "f" else "B":
        try:
            shape = sides + rest if leading else rest + sides
            return np.broadcast_to(np.ones((), dtype), shape)
        except ValueError:  # NumPy counts bytes in 64 bits
            pass
    return None


def virtual(number):
    """Every call with one, several or all of its arrays beyond any memory."""
    name = list(CALLS)[number % len(CALLS)]
    number //= len(CALLS)
    sides = VIRTUAL[number % len(VIRTUAL)]
    number //= len(VIRTUAL)
    leading, chosen = number % 2, number // 2
    call, arrays = CALLS[name]
    given = dict(arrays)
    for n, (argument, a) in enumerate(arrays.items()):
        if chosen >> n & 1:
            given[argument] = _virtual(a, sides, leading)
    yield f"{name} of {[np.shape(a) for a in given.values()]}"
    if chosen % 2 ** len(arrays) == 0 or any(a is None for a in given.values()):
        return
    start = time.perf_counter()
    try:
        call(**given)
    finally:
        slowest[0] = max(slowest[0], (time.perf_counter() - start, name))
    raise AssertionError("computed")


slowest = [(0.0, "")]
VIRTUAL_PROBLEMS = len(CALLS) * len(VIRTUAL) * 2 * 8


def race(number):
    """A call whose arrays, between guard pages, another thread fills with any bits meanwhile.

    The bits decide nothing about addresses.  Shapes, strides and pointers are read once, when a
    kernel is entered and holds the GIL, and it holds references to the arrays; so the memory
    stays, whatever values come and go in it.  (`resize(refcheck=False)` frees memory that others
    use; that crashes any reader, NumPy's own too, and is not tried.)
    """
    name = list(CALLS)[number % len(CALLS)]
    rng = np.random.default_rng([number, 4])
    yield f"{name}, arrays changed meanwhile"
    call, arrays = CALLS[name]
    scale = 1 if name.startswith(("nn.Linear", "nn.cross")) else int(rng.choice([1, 5, 30]))
    given, floats = {}, []
    for n, (argument, a) in enumerate(arrays.items()):
        if a.ndim > 1 and a.shape[-2:] == IMAGE.shape:
            a = np.tile(a, (scale, scale))
        given[argument] = memory.guarded(a, n % 2)
        if a.dtype.kind == "f":
            floats.append(given[argument])
    done = threading.Event()

    def disturb():
        noise = np.random.default_rng(number)
        while not done.is_set():
            for a in floats:
                a.view("u8")[...] = noise.integers(0, 2**64, a.shape, "u8", endpoint=False)
                a[...] = noise.choice([0.0, 1.0, math.nan, math.inf, 1e300, 5e-324], a.shape)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        stop = time.perf_counter() + 0.05
        while time.perf_counter() < stop:
            call(**given)
    finally:
        done.set()
        thread.join()


# ---------------------------------------------------------------- the process


def planted(number):
    """What the parent must see."""
    yield f"planted {number}"
    if number == 7:
        raise AssertionError("a wrong result")
    if number == 8:
        ctypes.string_at(0)
    while number == 9:
        time.sleep(1)
    raise ValueError


FAMILIES = {
    "correlation": correlation, "convolution": convolution, "other": other, "layer": layer,
    "virtual": virtual, "race": race, "planted": planted,
}  # fmt: skip
MEMORY = 6 << 30


def describe(family, number):
    return next(FAMILIES[family](number))


def main(family, start, stop, step, journal):
    faulthandler.enable()
    if "san" not in os.environ.get("LD_PRELOAD", ""):  # sanitizers map terabytes
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    np.seterr(all="ignore")
    outcomes, failures = collections.Counter(), []
    with open(journal, "r+b") as file, mmap.mmap(file.fileno(), 8) as page:
        for number in range(start, stop, step):
            page[:] = number.to_bytes(8, "little")
            told = ""
            try:
                problem = FAMILIES[family](number)
                told = next(problem)
                for _ in problem:
                    pass
                outcomes["result"] += 1
            except ALLOWED as error:
                outcomes[type(error).__name__] += 1
            except BaseException:
                failures.append((number, told, traceback.format_exc(limit=-3)))
                if len(failures) == 5:
                    break
    report = {"outcomes": outcomes, "failures": failures, "slowest": slowest[0]}
    print(json.dumps(report))


if __name__ == "__main__":
    family, start, stop, step, journal = sys.argv[1:]
    main(family, int(start), int(stop), int(step), journal)
