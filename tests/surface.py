"""Random calls of every public function, right and wrong, and what must come of them.

`check(name, pick)` makes one call and judges it.  `pick(low, high)` gives the next integer of
whoever chooses: Hypothesis (test_fuzz.py), a fuzzer (fuzz_surface.py) or a random generator
(test_leaks.py).  A call is drawn right, by a maker that also knows the answer; half of them then
get one or two arguments out of `ODD`.  A right call must give exactly what the oracles say.  A
spoiled one may be right all the same; or it raises ValueError, TypeError or MemoryError, and the
message names an argument.
"""

import contextlib
import functools
import inspect
import io
import re
import warnings

import cases
import conv_cases
import conv_oracle
import numpy as np
import oracle
import pytest

import fastcorr
from fastcorr import nn, optim

SUPPORTED = "bBhHiIlLfdgFDG"
RULES = oracle.RULES
_HUGE = (2**40, 2**60 + 1, 2**63 - 1, 2**63, 2**64, -(2**31), -(2**63))


def _masked():
    return np.ma.masked_equal(np.arange(4.0).reshape(2, 2), 2)


# Made anew for every call, since some can be changed.  Sizes between 100 and 2**40 are not among
# them: results of some gigabytes would be right, and slow.
ODD = [
    *(lambda v=v: v for v in (None, True, False, 0, -1, 1, 2, 3, 5, *_HUGE)),
    *(lambda v=v: v for v in (1.5, -0.0, float("nan"), float("inf"), 1e-320, 1j)),
    *(lambda v=v: v for v in ("", "full", "same", "valid", "wrap", "fill", "zeros", "reflect")),
    *(lambda v=v: v for v in ("auto", "direct", "fft", "winograd", "float32", "x", "mean", "\0")),
    *(lambda v=v: v for v in (b"x", (), (1,), (1, 2), (0, -1), (1, 2, 3), (2**40, 1), (-1, 1))),
    *(lambda v=v: v for v in (("wrap", "fill"), ((1, 0), (0, 2)), (1.5, 1), ("x", 1), (None,) * 2)),
    *(lambda v=v: v for v in (slice(None), (slice(1), slice(1, None)), (slice(0, 0),) * 2)),
    *(lambda v=v: v for v in (np.dtype("f8"), np.float16, int, object, "M8[s]", np.int8(1))),
    *(lambda v=v: v for v in (np.float64(2), np.bool_(True), Ellipsis, len, range(2))),
    *(lambda n=n: [1] * n for n in range(4)),
    list, dict, set, object, bytearray, lambda: [["x"]], lambda: [[1, 2], [3]],
    lambda: iter([1, 2]), lambda: np.array(1), lambda: np.array([1, 2]), lambda: np.zeros((0, 2)),
    lambda: np.zeros((2, 0)), lambda: np.ones((2, 2)), lambda: np.ones((1, 2, 2)),
    lambda: np.ones((2, 1, 3, 3)), lambda: np.full((3, 3), np.nan), lambda: np.ones((3, 3), "e"),
    lambda: np.ones((2, 2), object), lambda: np.ones((3, 3), "?"), lambda: np.ones((2, 2), "M8[s]"),
    lambda: np.ones((2, 2), "f,i"), lambda: np.array([["a", "b"]]), lambda: np.ones((3, 3), "D"),
    _masked, lambda: np.broadcast_to(np.ones(1, "B"), (2**40, 2**20)),
    lambda: np.full((2, 3), 1e308), lambda: np.ones((1,) * 32),
]  # fmt: skip


@functools.cache
def _arguments(function):
    """The names of its arguments, and of those it passes on to what it wraps."""
    signatures = inspect.signature(function, follow_wrapped=False), inspect.signature(function)
    return [
        p.name for signature in signatures for p in signature.parameters.values()
        if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]  # fmt: skip


class Call:
    """A call, and a function of its result that fails unless it is right."""

    def __init__(self, function, right, **kwargs):
        self.function, self.right, self.kwargs = function, right, kwargs
        self.names = _arguments(function)


# ---------------------------------------------------------------- drawing


def _one_of(pick, values):
    return values[pick(0, len(values) - 1)]


def _rng(pick):
    return np.random.default_rng(pick(0, 2**32 - 1))


def _workers(pick):
    """Threads rarely: they wait for each other."""
    return _one_of(pick, (None, 1) * 31 + (-1, np.int64(2)))


def _laid(pick, a, layouts):
    return layouts[_one_of(pick, list(layouts))](a) if pick(0, 2) == 0 else a


def _pair(pick, low, high):
    """An integer or a pair of them."""
    a = pick(low, high)
    return a if pick(0, 1) else (a, pick(low, high))


# ---------------------------------------------------------------- correlation


@functools.lru_cache(4096)
def _terms(function, mode, x, k, rule):
    """The oracle's list of products as arrays of flat indices; one past the image is the fill."""
    listed = list(oracle.terms(function, mode, x, k, rule))
    pixels = x[0] * x[1]
    rows = [
        (m * w + n, pixels if i is None else i[0] * x[1] + i[1], a[0] * k[1] + a[1])
        for (w,) in [(oracle.shape(mode, x, k)[1],)]
        for (m, n), i, a in listed
    ]
    return np.array(rows, int).reshape(-1, 3).T


def _wide(a):
    return a.astype(np.complex128 if a.dtype.kind == "c" else np.int64)


def _correlated(function, x, k, mode, rule, fill):
    """The result for one image and one kernel, exact."""
    out, pixel, tap = _terms(function, mode, x.shape, k.shape, rule)
    factor = _wide(k).conj() if function == "correlate2d" else _wide(k)
    products = np.append(_wide(x), fill)[pixel] * factor.ravel()[tap]
    y = np.zeros(oracle.shape(mode, x.shape, k.shape), products.dtype)
    np.add.at(y.reshape(-1), out, products)
    return y


def _gradients(function, dy, x, k, mode, rule, fill):
    """The gradients of one result to its image and its kernel, exact; see oracle.gradients."""
    out, pixel, tap = _terms(function, mode, x.shape, k.shape, rule)
    dy, values = _wide(dy).ravel()[out], np.append(_wide(x), fill)[pixel]
    factor = _wide(k).ravel()[tap]
    correlate = function == "correlate2d"
    dx = np.zeros(x.size + 1, np.result_type(dy, factor))
    np.add.at(dx, pixel, dy * (factor if correlate else factor.conj()))
    products = dy.conj() * values if correlate else dy * values.conj()
    dk = np.zeros(k.size, products.dtype)
    np.add.at(dk, tap, products)
    return dx[:-1].reshape(x.shape), dk.reshape(k.shape)


def _as(value, dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # to a real operand, the real part
        return value.astype(dtype)


ROUNDING = "fft", "separable"  # methods that round, and that some data refuse


def _equal(got, right, dtype=None, method="direct"):
    """The same values of the same shape, in that dtype or that of the right ones."""
    assert type(got) is np.ndarray
    assert got.dtype == (right.dtype if dtype is None else dtype), (got.dtype, dtype)
    assert got.shape == right.shape, (got.shape, right.shape)
    right = _as(right, got.dtype)
    if method in ROUNDING and got.dtype.kind in "fc":
        atol = 1e5 * np.finfo(got.dtype).eps  # no sum here is above some thousands
        np.testing.assert_allclose(got, right, 0, atol)
    else:
        assert (got == right).all(), (got - right, got, right)


def _problem(pick, types=SUPPORTED, vjp=False):
    """Operands and the arguments that `correlate2d` and its like have in common."""
    rng = _rng(pick)
    mode = _one_of(pick, oracle.MODES)
    x_shape, k_shape = [pick(1, 5), pick(1, 5)], [pick(1, 3), pick(1, 3)]
    if mode == "valid":
        x_shape = [max(p) for p in zip(x_shape, k_shape, strict=True)]
        if pick(0, 2) == 0:
            x_shape, k_shape = k_shape, x_shape
    types = _one_of(pick, types), _one_of(pick, types)
    axes, batch = None, ((), ())
    if pick(0, 3) == 0:
        axes = _one_of(pick, ((0, 1), (-2, -1), (1, 0)))
        if axes == (-2, -1):
            batch = _one_of(
                pick, (((), ()), ((2,), ()), ((), (2,)), ((2,), (1,)), ((1, 2), (2, 1)))
            )
    a, b = (
        _laid(pick, cases.integers(rng, s, t), cases.LAYOUTS) if not n
        else cases.integers(rng, (*n, *s), t)
        for s, t, n in zip((x_shape, k_shape), types, batch, strict=True)
    )  # fmt: skip
    if axes == (1, 0):  # correlated are the transposes
        a, b = a.T, b.T
    rule = _one_of(pick, RULES)
    rule = rule if pick(0, 2) else (rule, _one_of(pick, RULES))
    more = {
        "mode": mode,
        "boundary": rule,
        "fillvalue": _one_of(pick, (0, 1, 3, np.int8(2), [[4]])),
    }
    if axes is not None:
        more["axes"] = axes
    if pick(0, 3) == 0:
        more["lags"] = tuple(slice(*sorted((pick(-2, 6), pick(0, 6)))) for _ in range(2))
    more["method"] = _one_of(pick, ("auto", "auto", "direct", "fft", "separable"))
    more["workers"] = _workers(pick)
    return rng, a, b, more


def _shape(a, b, more):
    """The shape of the result of operands that are no batches, or whose first axes are."""
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    core = oracle.shape(more["mode"], a.shape[-2:], b.shape[-2:])
    if "lags" in more:
        order = (1, 0) if more.get("axes") == (1, 0) else (0, 1)
        lags = [more["lags"][n] for n in order]
        core = tuple(len(range(n)[lag]) for n, lag in zip(core, lags, strict=True))
    return (*batch, *core)


def _each(function, a, b, more):
    """The results for all pairs of image and kernel of a batch, exact, correlated axes last."""
    transposed = more.get("axes") == (1, 0)
    if transposed:
        a, b = a.T, b.T
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = (np.broadcast_to(v, batch + v.shape[-2:]) for v in (a, b))
    shape = oracle.shape(more["mode"], a.shape[-2:], b.shape[-2:])
    y = np.zeros(batch + shape, np.result_type(_wide(a), _wide(b)))
    fill = int(np.ravel(more["fillvalue"])[0])
    for at in np.ndindex(batch):
        y[at] = _correlated(
            function, a[at], b[at], more["mode"], oracle.pair(more["boundary"]), fill
        )
    y = y[(..., *more.get("lags", ()))] if "lags" in more else y
    return y.T if transposed else y


def _forward(function):
    def maker(pick):
        _, a, b, more = _problem(pick)
        shape = _shape(a, b, more)
        dtype = np.result_type(a.dtype, b.dtype).newbyteorder("=")
        if pick(0, 3) == 0:
            dtype = more["dtype"] = np.promote_types(dtype, _one_of(pick, "ldD"))
        if pick(0, 3) == 0:
            more["out"] = np.zeros(shape[::-1], dtype).T if pick(0, 1) else np.empty(shape, dtype)

        def judge(y):
            assert y is more.get("out", y)
            _equal(y, _each(function, a, b, more), dtype, more["method"])

        return Call(getattr(fastcorr, function), judge, in1=a, in2=b, **more)

    return maker


def _backward(function):
    def maker(pick):
        rng, a, b, more = _problem(pick, types="hlfdgFDG")
        more.pop("axes", None)
        more.pop("lags", None)
        if a.ndim > 2 or b.ndim > 2:
            a, b = a.reshape(-1, *a.shape[-2:])[0], b.reshape(-1, *b.shape[-2:])[0]
        if more["mode"] == "valid":
            fits = all(m >= n for m, n in zip(a.shape, b.shape, strict=True))
            if not fits and not all(m <= n for m, n in zip(a.shape, b.shape, strict=True)):
                a, b = a.T, b
        shape = oracle.shape(more["mode"], a.shape, b.shape)
        kind = np.result_type(a.dtype, b.dtype).kind
        dy = cases.integers(rng, shape, _one_of(pick, "hfdD" if kind == "c" else "hfdg"))
        fill = int(np.ravel(more["fillvalue"])[0])
        needs = _one_of(pick, (("in1", "in2"), ["in1"], "in2", ()))

        def judge(got):
            rules = more["mode"], oracle.pair(more["boundary"]), fill
            right = _gradients(function, dy, a, b, *rules)
            _some(got, right, (a, b), needs, ("in1", "in2"), more["method"])

        vjp = getattr(fastcorr, function + "_vjp")
        return Call(vjp, judge, dy=dy, in1=a, in2=b, needs=needs, **more)

    return maker


def _some(got, right, operands, needs, names, method="direct"):
    """The gradients that are needed, like their operands; None for the others."""
    assert len(got) == len(names)
    for g, r, operand, name in zip(got, right, operands, names, strict=True):
        if name in needs or name == needs:
            dtype = operand.dtype.newbyteorder("=") if operand.dtype.kind in "fc" else g.dtype
            _equal(g, r, dtype, method)
        else:
            assert g is None


def _corr2d(pick):
    rng, a, b, more = _problem(pick)
    a, b = a.reshape(-1, *a.shape[-2:])[0], b.reshape(-1, *b.shape[-2:])[0]
    if a.shape[0] < b.shape[0] or a.shape[1] < b.shape[1]:
        a = cases.integers(rng, np.maximum(a.shape, b.shape), a.dtype)
    dtype = np.result_type(a.dtype, b.dtype).newbyteorder("=")
    shape = oracle.shape("valid", a.shape, b.shape)
    out = {"out": np.empty(shape, dtype)} if pick(0, 2) == 0 else {}

    def judge(y):
        # It is correlation without the conjugate: convolution with the kernel reversed.
        right = _correlated("convolve2d", a, b[::-1, ::-1], "valid", ("fill", "fill"), 0)
        _equal(y, right, dtype)

    return Call(fastcorr.corr2d, judge, x=a, k=b, workers=more["workers"], **out)


def _corr2d_backward(pick):
    rng = _rng(pick)
    k_shape = pick(1, 3), pick(1, 3)
    x_shape = k_shape[0] + pick(0, 3), k_shape[1] + pick(0, 3)
    a, b = (cases.integers(rng, s, _one_of(pick, "lfdF")) for s in (x_shape, k_shape))
    dy = cases.integers(rng, oracle.shape("valid", x_shape, k_shape), "d")
    needs = _one_of(pick, (("x", "k"), ["x"], "k"))

    def judge(got):
        rules = "valid", ("fill", "fill"), 0
        dx, dk = _gradients("convolve2d", dy, a, b[::-1, ::-1], *rules)
        _some(got, (dx, dk[::-1, ::-1]), (a, b), needs, ("x", "k"))

    more = {"needs": needs, "workers": _workers(pick)}
    return Call(fastcorr.corr2d_backward, judge, dy=dy, x=a, k=b, **more)


def _plan(function):
    make = getattr(fastcorr, "plan_" + function)

    @functools.wraps(make)
    def run(k, *, shape, x=None, **more):
        plan = make(k, shape=shape, **more)
        return plan(np.zeros(plan.shape, plan._k_dtype) if x is None else x)

    def maker(pick):
        _, a, b, more = _problem(pick)
        dtype = np.result_type(a.dtype, b.dtype).newbyteorder("=")

        def judge(y):
            _equal(y, _each(function, a, b, more), dtype, more["method"])

        return Call(run, judge, k=b, shape=a.shape, x=a, dtype=dtype, **more)

    return maker


def _choice(pick):
    _, a, b, more = _problem(pick)
    for name in ("fillvalue", "method"):
        more.pop(name)

    def judge(choice):
        assert choice.method in ("direct", "fft", "separable")
        assert choice.reason

    return Call(fastcorr.choose_method, judge, in1=a, in2=b, **more)


# ---------------------------------------------------------------- many channels


def _layer_sizes(pick):
    """Shapes and arguments of a small convolution that has a result."""
    groups, c, o = pick(1, 2), pick(1, 2), pick(1, 2)
    image, kernel = (pick(1, 5), pick(1, 5)), (pick(1, 3), pick(1, 3))
    args = {"stride": _pair(pick, 1, 3), "padding": _pair(pick, 0, 2)}
    args["dilation"] = _pair(pick, 1, 2)
    args["groups"] = groups
    batch = _one_of(pick, ((), (1,), (2,)))
    return batch, groups * c, groups * o, image, kernel, args


def _conv2d_problem(pick):
    """Operands and arguments of conv2d, and what follows it: dy."""
    rng = _rng(pick)
    batch, C, O, image, kernel, args = _layer_sizes(pick)
    if pick(0, 4) == 0:
        args["padding"] = _one_of(pick, ("same", "valid", ((1, 0), (0, 2)), [1, 1]))
    if pick(0, 4) == 0:  # what Winograd's algorithm is for
        kernel, args["stride"], args["dilation"] = (3, 3), 1, 1
    mode = _one_of(pick, ("zeros", "zeros", "reflect", "replicate", "circular"))
    sizes = args["stride"], args["dilation"]
    sides = conv_oracle.pads(args["padding"], image, kernel, *sizes)
    image = tuple(  # large enough for one output, and to be continued so far
        max(n, (k - 1) * d + 1, *side if mode == "circular" else (s + 1 for s in side))
        for n, k, d, side in zip(image, kernel, conv_oracle.pair(sizes[1]), sides, strict=True)
    )
    types = [_one_of(pick, "fdFD")] * 3
    if pick(0, 3) == 0:
        types = _one_of(pick, conv_cases.MIXED)
    x, w = (
        _laid(pick, cases.integers(rng, s, t), conv_cases.LAYOUTS)
        for s, t in (((*batch, C, *image), types[0]), ((O, C // args["groups"], *kernel), types[1]))
    )
    dtype = np.result_type(x.dtype, w.dtype).newbyteorder("=")
    size = conv_oracle.out_size(image, kernel, sizes[0], args["padding"], sizes[1])
    dy = cases.integers(rng, (*batch, O, *size), types[2])
    bias = cases.integers(rng, O, dtype) if pick(0, 1) else None
    return dy, x, w, bias, args, mode, dtype


def _lifted(*arrays):
    return [None if a is None else conv_oracle.lift(a) for a in arrays]


def _last(a):
    return np.ascontiguousarray(np.moveaxis(a, -3, -1))


def _conv2d(pick):
    dy, x, w, bias, args, mode, dtype = _conv2d_problem(pick)
    more = {"padding_mode": mode, "workers": _workers(pick), "method": "direct"}
    if bias is not None:
        more["bias"] = bias
    if dtype.kind == "f" and pick(0, 2) == 0:
        more["activation"] = "relu"
    last = more["channels_last"] = pick(0, 3) == 0
    if pick(0, 3) == 0:
        more["out"] = np.empty(dy.shape, dtype)
        if last:
            more["out"] = _last(more["out"])
    if pick(0, 2) == 0:
        more["method"], more["rtol"] = "auto", _one_of(pick, (None, 1e-3, 1.0))

    def judge(y):
        right = conv_oracle.conv2d(*_lifted(x, w, bias), **args, mode=mode)
        if "activation" in more:
            right = np.maximum(right, 0)
        right = _last(right) if last else right
        if more["method"] == "direct":
            _equal(y, right, dtype)
        else:  # Winograd's algorithm rounds
            assert (y.shape, y.dtype) == (right.shape, dtype)
            np.testing.assert_allclose(y, right, rtol=1e-3, atol=0.01)

    return Call(fastcorr.conv2d, judge, x=_last(x) if last else x, weight=w, **args, **more)


NEEDS = (("x", "weight", "bias"), ["x"], "weight", {"bias", "x"}, ())


def _conv2d_backward(pick):
    dy, x, w, _, args, mode, _ = _conv2d_problem(pick)
    if dy.dtype.kind == "c" and "c" not in (x.dtype.kind, w.dtype.kind):
        dy = dy.real
    needs = _one_of(pick, NEEDS)

    def judge(got):
        right = conv_oracle.conv2d_backward(*_lifted(dy, x, w), **args, mode=mode)
        _layer_gradients(got, right, needs)

    return Call(
        fastcorr.conv2d_backward, judge, dy=dy, x=x, weight=w, **args, padding_mode=mode,
        needs=needs, method="direct", workers=_workers(pick),
    )  # fmt: skip


def _layer_gradients(got, right, needs):
    assert len(got) == 3
    for g, r, name in zip(got, right, ("x", "weight", "bias"), strict=True):
        if name in needs or name == needs:
            assert g.shape == r.shape
            assert (g == _as(r, g.dtype)).all(), name
        else:
            assert g is None


def _transposed_problem(pick):
    rng = _rng(pick)
    batch, C, O, image, kernel, args = _layer_sizes(pick)
    both = list(
        zip(conv_oracle.pair(args["stride"]), conv_oracle.pair(args["dilation"]), strict=True)
    )
    args["output_padding"] = tuple(pick(0, max(p) - 1) for p in both)
    sides = conv_oracle.pair(args["padding"])
    image = tuple(  # large enough for one output
        max(n, -(-(2 * p - d * (k - 1)) // s) + 1)
        for n, p, (s, d), k in zip(image, sides, both, kernel, strict=True)
    )
    types = [_one_of(pick, "fdFD")] * 2
    x = _laid(pick, cases.integers(rng, (*batch, C, *image), types[0]), conv_cases.LAYOUTS)
    w = cases.integers(rng, (C, O // args["groups"], *kernel), types[1])
    sizes = (args[n] for n in ("stride", "padding", "output_padding", "dilation"))
    size = conv_oracle.transposed_size(image, kernel, *sizes)
    dy = cases.integers(rng, (*batch, O, *size), types[0])
    return dy, x, w, cases.integers(rng, O, types[0]) if pick(0, 1) else None, args


def _conv_transpose2d(pick):
    _, x, w, bias, args = _transposed_problem(pick)
    dtype = np.result_type(x.dtype, w.dtype).newbyteorder("=")
    last = pick(0, 3) == 0

    def judge(y):
        right = conv_oracle.conv_transpose2d(*_lifted(x, w, bias), **args)
        _equal(y, _last(right) if last else right, dtype)

    more = {"workers": _workers(pick), "channels_last": last, "bias": bias}
    return Call(
        fastcorr.conv_transpose2d, judge, x=_last(x) if last else x, weight=w, **args, **more
    )


def _conv_transpose2d_backward(pick):
    dy, x, w, _, args = _transposed_problem(pick)
    needs = _one_of(pick, NEEDS)

    def judge(got):
        right = conv_oracle.conv_transpose2d_backward(*_lifted(dy, x, w), **args)
        _layer_gradients(got, right, needs)

    more = {"needs": needs, "workers": _workers(pick)}
    return Call(fastcorr.conv_transpose2d_backward, judge, dy=dy, x=x, weight=w, **args, **more)


def _output_shape(pick):
    _, x, w, _, args, _, _ = _conv2d_problem(pick)
    args.pop("groups")
    sizes = args["stride"], args["padding"], args["dilation"]
    size = conv_oracle.out_size(x.shape[-2:], w.shape[2:], *sizes)

    def judge(shape):
        assert shape == (*x.shape[:-3], len(w), *size)

    arguments = {"input_shape": x.shape, "out_channels": len(w), "kernel_size": w.shape[2:]}
    return Call(fastcorr.conv2d_output_shape, judge, **arguments, **args)


# ---------------------------------------------------------------- receptive fields and settings


def _chain(pick):
    """Layers as dicts that have an output for an image of 20 x 20."""
    layers = [
        {"kernel_size": _pair(pick, 1, 3), "stride": _pair(pick, 1, 2), "padding": pick(0, 1),
         "dilation": _pair(pick, 1, 2)}
        for _ in range(pick(1, 2))
    ]  # fmt: skip
    return layers, (20, 20)


def _receptive_field(pick):
    layers, shape = _chain(pick)

    def judge(fields):
        assert len(fields) == len(layers)
        rows = 1, 1
        jump = 1, 1
        for layer, field in zip(layers, fields, strict=True):
            k, s, d = (conv_oracle.pair(layer[n]) for n in ("kernel_size", "stride", "dilation"))
            rows = tuple(n + (t - 1) * e * j for n, t, e, j in zip(rows, k, d, jump, strict=True))
            jump = tuple(j * t for j, t in zip(jump, s, strict=True))
            assert field.size == rows
            assert field.jump == jump

    more = {"input_shape": shape} if pick(0, 1) else {}
    return Call(fastcorr.receptive_field, judge, layers=layers, **more)


def _receptive_field_mask(pick):
    layers, shape = _chain(pick)

    def judge(mask):
        """Exactly the pixels to which the gradient of that output is not 0."""
        x, ys = np.ones((1, *shape)), []
        for layer in layers:
            ys.append(x)
            w = np.ones((1, 1, *conv_oracle.pair(layer["kernel_size"])))
            x = fastcorr.conv2d(x, w, None, layer["stride"], layer["padding"], layer["dilation"])
        dy = np.zeros_like(x)
        dy[0, 0, 0] = 1
        for layer, y in zip(reversed(layers), reversed(ys), strict=True):
            w = np.ones((1, 1, *conv_oracle.pair(layer["kernel_size"])))
            args = layer["stride"], layer["padding"], layer["dilation"]
            dy, _, _ = fastcorr.conv2d_backward(dy, y, w, *args, needs="x")
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, dy[0] != 0)

    arguments = {"layers": layers, "input_shape": shape, "position": (0, 0)}
    return Call(fastcorr.receptive_field_mask, judge, **arguments)


def set_and_get_workers(workers):
    with fastcorr.set_workers(workers):
        return fastcorr.get_workers()


def _setting(pick):
    workers = pick(1, 4)

    def judge(got):
        assert got == workers

    return Call(set_and_get_workers, judge, workers=workers)


def show_config(mode):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        return fastcorr.show_config(mode), said.getvalue()


def _config(pick):
    mode = _one_of(pick, ("stdout", "dicts"))

    def judge(got):
        assert (got[0] is None) == (mode == "stdout")
        assert bool(got[1]) == (mode == "stdout")

    return Call(show_config, judge, mode=mode)


# ---------------------------------------------------------------- layers


@functools.cache
def _trained(kind):
    """Make a layer, give it small integers for weights, call it, go back."""

    @functools.wraps(kind)
    def run(x, dy=None, needs_input_grad=True, **options):
        layer = kind(**options)
        rng = np.random.default_rng(5)
        for p in layer.parameters():
            p.data = cases.integers(rng, p.shape, p.dtype)
        y = layer(x)
        dx = layer.backward(np.ones_like(y) if dy is None else dy, needs_input_grad)
        return [y, dx, *(p.grad for p in layer.parameters())]

    return run


def _weights(dtype, *shapes):
    rng = np.random.default_rng(5)
    return [cases.integers(rng, shape, dtype) for shape in shapes]


def _all_equal(got, right):
    assert len(got) == len(right)
    for g, r in zip(got, right, strict=True):
        assert g.shape == r.shape
        assert (g == _as(r, g.dtype)).all()


def _conv_layer(pick):
    dy, x, w, bias, args, mode, dtype = _conv2d_problem(pick)
    x, dy = (_as(a, dtype) for a in (x, dy))

    def judge(got):
        weights = _weights(dtype, w.shape, *[(len(w),)] * (bias is not None))
        y = conv_oracle.conv2d(*_lifted(x, *weights), **args, mode=mode)
        gradients = conv_oracle.conv2d_backward(*_lifted(dy, x, weights[0]), **args, mode=mode)
        _all_equal(got, [y, *gradients][: 2 + len(weights)])

    return Call(
        _trained(nn.Conv2d), judge, in_channels=x.shape[-3], out_channels=len(w),
        kernel_size=w.shape[2:], bias=bias is not None, padding_mode=mode, method="direct",
        dtype=dtype, rng=1, **args, x=x, dy=dy,
    )  # fmt: skip


def _transposed_layer(pick):
    dy, x, w, bias, args = _transposed_problem(pick)
    dtype = np.result_type(x.dtype, w.dtype).newbyteorder("=")
    x, dy = (_as(a, dtype) for a in (x, dy))
    O = w.shape[1] * args["groups"]

    def judge(got):
        weights = _weights(dtype, w.shape, *[(O,)] * (bias is not None))
        y = conv_oracle.conv_transpose2d(*_lifted(x, *weights), **args)
        gradients = conv_oracle.conv_transpose2d_backward(*_lifted(dy, x, weights[0]), **args)
        _all_equal(got, [y, *gradients][: 2 + len(weights)])

    return Call(
        _trained(nn.ConvTranspose2d), judge, in_channels=x.shape[-3], out_channels=O,
        kernel_size=w.shape[2:], bias=bias is not None, dtype=dtype, rng=1, **args, x=x, dy=dy,
    )  # fmt: skip


def _linear(pick):
    rng = _rng(pick)
    n, m, dtype = pick(1, 4), pick(1, 4), np.dtype(_one_of(pick, "fdFD"))
    shape = _one_of(pick, ((), (2,), (0,), (2, 3)))
    x, dy = cases.integers(rng, (*shape, n), dtype), cases.integers(rng, (*shape, m), dtype)
    (w,) = _weights(dtype, (m, n))
    rows, grads = x.reshape(-1, n), dy.reshape(-1, m)
    judge = lambda got: _all_equal(got, [x @ w.T, dy @ w.conj(), grads.T @ rows.conj()])  # noqa: E731
    return Call(
        _trained(nn.Linear), judge, in_features=n, out_features=m, bias=False,
        dtype=dtype, rng=0, x=x, dy=dy,
    )  # fmt: skip


def _pool(kind):
    def maker(pick):
        rng = _rng(pick)
        kernel = pick(1, 3), pick(1, 3)
        stride = pick(1, 3), pick(1, 3)
        padding = tuple(pick(0, k // 2) for k in kernel)
        x = cases.integers(rng, (2, pick(3, 6), pick(3, 6)), _one_of(pick, "fd"))

        def judge(got):
            y, dx, *none = got
            assert not none
            pads = (0, 0), *((p, p) for p in padding)
            largest = kind is nn.MaxPool2d
            padded = np.pad(x, pads, constant_values=-np.inf if largest else 0)
            windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, (1, 2))
            windows = windows[:, :: stride[0], :: stride[1]]
            expected = windows.max((3, 4)) if largest else windows.mean((3, 4))
            np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)
            assert dx.shape == x.shape
            if largest:
                assert dx.sum() == y.size
            elif padding == (0, 0):
                np.testing.assert_allclose(dx.sum(), y.size, rtol=1e-5)

        arguments = {"kernel_size": kernel, "stride": stride, "padding": padding, "x": x}
        return Call(_trained(kind), judge, **arguments)

    return maker


def _relu(pick):
    x = cases.integers(_rng(pick), (pick(0, 3), pick(1, 3)), _one_of(pick, "fd"))
    judge = lambda got: _all_equal(got, [np.maximum(x, 0), (x > 0) * 1])  # noqa: E731
    return Call(_trained(nn.ReLU), judge, x=x)


def _flatten(pick):
    x = cases.integers(_rng(pick), (2, pick(1, 3), 3), _one_of(pick, "fdl"))
    judge = lambda got: _all_equal(got, [x.reshape(2, -1), np.ones_like(x)])  # noqa: E731
    return Call(_trained(nn.Flatten), judge, x=x)


def sequential(layers, x):
    model = nn.Sequential(*(layers if isinstance(layers, list) else [layers]))
    y = model(x)
    return [y, model.backward(np.ones_like(y))]


def _sequential(pick):
    x = cases.integers(_rng(pick), (2, 3, 3), "d")
    layers = [_one_of(pick, (nn.ReLU, nn.Flatten))() for _ in range(pick(0, 3))]
    y = x
    for layer in layers:
        y = layer(y)
    judge = lambda got: _equal(got[0], y)  # noqa: E731
    return Call(sequential, judge, layers=layers, x=x)


def _parameter(pick):
    data = cases.integers(_rng(pick), (pick(0, 3),), _one_of(pick, "fdFD"))

    def judge(p):
        _equal(p.data, data)
        assert not p.grad.any()

    return Call(nn.Parameter, judge, data=data)


def _mse(pick):
    rng = _rng(pick)
    y, t = (cases.integers(rng, (2, 3), _one_of(pick, "fd")) for _ in range(2))
    how = _one_of(pick, ("mean", "sum"))

    def judge(got):
        difference = (y - t).astype("d")
        np.testing.assert_allclose(got[0], getattr(np, how)(difference**2), rtol=1e-6)
        assert got[1].shape == y.shape
        assert got[1].dtype == y.dtype

    return Call(nn.mse_loss, judge, y=y, target=t, reduction=how)


def _cross_entropy(pick):
    rng = _rng(pick)
    x = cases.integers(rng, (3, 4), _one_of(pick, "fd"))
    t = rng.integers(0, 4, 3)

    def judge(got):
        p = np.exp(x.astype("d"))
        p /= p.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(got[0], -np.log(p[range(3), t]).mean(), rtol=1e-5)
        np.testing.assert_allclose(got[1].sum(axis=1), 0, atol=1e-6)

    return Call(nn.cross_entropy, judge, logits=x, target=t, reduction="mean")


def print_nothing(history):
    assert isinstance(history, nn.History)


def fit(x, y, epochs, batch_size, rng, callback, progress, loss, lr):
    model = nn.Linear(2, 1, rng=0)
    optimizer = optim.SGD(model.parameters(), lr)
    if isinstance(epochs, int) and epochs > 3:
        epochs = 3
    if callable(callback):  # whose own errors are not fit's
        callback = print_nothing
    if callable(loss):
        loss = nn.mse_loss
    return nn.fit(
        model, x, y, optimizer=optimizer, loss=loss, epochs=epochs, batch_size=batch_size, rng=rng,
        callback=callback, progress=progress,
    )  # fmt: skip


def _fit(pick):
    rng, epochs, size = _rng(pick), pick(0, 3), pick(1, 4)
    x, y = rng.standard_normal((3, 2)), rng.standard_normal((3, 1))

    def judge(history):
        assert len(history.loss) == epochs
        assert len(history.steps) == epochs * -(-3 // size)
        assert np.isfinite(history.steps).all()

    return Call(
        fit, judge, x=x, y=y, epochs=epochs, batch_size=size, rng=1, callback=None, progress=False,
        loss=nn.mse_loss, lr=0.01,
    )  # fmt: skip


# ---------------------------------------------------------------- optimizers


@functools.cache
def _stepped(kind):
    """Three steps of an optimizer; the values after them."""

    @functools.wraps(kind)
    def run(params=None, **options):
        p = nn.Parameter([1.0, -2.0, 3.0])
        optimizer = kind([p] if params is None else params, **options)
        for _ in range(3):
            p.grad = p.data
            optimizer.step()
        return p.data

    return run


_OPTIONS = {
    optim.SGD: {
        "lr": (0.1, 0, 1e-3), "momentum": (0, 0.9), "dampening": (0,), "weight_decay": (0, 0.1),
        "nesterov": (False,),
    },
    optim.Adam: {
        "lr": (0.1, 1e-3), "betas": ((0.9, 0.999), (0, 0)), "eps": (1e-8, 1e-3),
        "weight_decay": (0, 0.1), "amsgrad": (False, True),
    },
    optim.RMSprop: {
        "lr": (0.1, 1e-3), "alpha": (0.9, 0), "eps": (1e-8,), "weight_decay": (0, 0.1),
        "momentum": (0, 0.9), "centered": (False,),
    },
}  # fmt: skip
_OPTIONS[optim.AdamW] = _OPTIONS[optim.Adam]


def _optimizer(kind):
    def maker(pick):
        options = {name: _one_of(pick, values) for name, values in _OPTIONS[kind].items()}

        def judge(data):
            assert np.isfinite(data).all()
            assert (np.abs(data) <= [1, 2, 3]).all()  # down the slope of the sum of squares
            assert options["lr"] == 0 or (data != [1, -2, 3]).all()

        return Call(_stepped(kind), judge, **options)

    return maker


@functools.cache
def _scheduled(kind):
    @functools.wraps(kind)
    def run(optimizer=None, **options):
        optimizer = optim.SGD([nn.Parameter([1.0])], 1.0) if optimizer is None else optimizer
        schedule = kind(optimizer, **options)
        rates = []
        for _ in range(4):
            schedule.step()
            rates.append(optimizer.lr)
        return rates

    return run


def _step_lr(pick):
    size, gamma = pick(1, 4), _one_of(pick, (0.1, 0.5, 1))
    judge = lambda r: np.testing.assert_allclose(  # noqa: E731
        r, [gamma ** (n // size) for n in range(1, 5)]
    )
    return Call(_scheduled(optim.StepLR), judge, step_size=size, gamma=gamma)


def _cosine(pick):
    T, least = pick(4, 6), _one_of(pick, (0, 0.1))

    def judge(r):
        wanted = [least + (1 - least) * (1 + np.cos(np.pi * n / T)) / 2 for n in range(1, 5)]
        np.testing.assert_allclose(r, wanted, rtol=1e-9, atol=1e-12)

    return Call(_scheduled(optim.CosineAnnealingLR), judge, T_max=T, eta_min=least)


def _clip(kind):
    def maker(pick):
        p = nn.Parameter(np.zeros(3))
        p.grad = grad = cases.integers(_rng(pick), 3, "d") + 0.5
        limit = _one_of(pick, (0.5, 1, 1e3))

        def judge(got):
            if kind is optim.clip_grad_norm:
                np.testing.assert_allclose(got, np.linalg.norm(grad))
                factor = min(1, limit / np.linalg.norm(grad))
                np.testing.assert_allclose(p.grad, grad * factor, rtol=1e-5)
            else:
                np.testing.assert_array_equal(p.grad, grad.clip(-limit, limit))

        more = {"max_norm": limit} if kind is optim.clip_grad_norm else {"clip_value": limit}
        return Call(kind, judge, params=[p], **more)

    return maker


MAKERS = {
    **{f: _forward(f) for f in ("correlate2d", "convolve2d")},
    **{f + "_vjp": _backward(f) for f in ("correlate2d", "convolve2d")},
    **{"plan_" + f: _plan(f) for f in ("correlate2d", "convolve2d")},
    "choose_method": _choice,
    "corr2d": _corr2d,
    "corr2d_backward": _corr2d_backward,
    "conv2d": _conv2d,
    "conv2d_backward": _conv2d_backward,
    "conv_transpose2d": _conv_transpose2d,
    "conv_transpose2d_backward": _conv_transpose2d_backward,
    "conv2d_output_shape": _output_shape,
    "receptive_field": _receptive_field,
    "receptive_field_mask": _receptive_field_mask,
    "set_workers": _setting,
    "get_workers": _setting,
    "show_config": _config,
    "nn.Conv2d": _conv_layer,
    "nn.ConvTranspose2d": _transposed_layer,
    "nn.Linear": _linear,
    "nn.MaxPool2d": _pool(nn.MaxPool2d),
    "nn.AvgPool2d": _pool(nn.AvgPool2d),
    "nn.ReLU": _relu,
    "nn.Flatten": _flatten,
    "nn.Sequential": _sequential,
    "nn.Parameter": _parameter,
    "nn.mse_loss": _mse,
    "nn.cross_entropy": _cross_entropy,
    "nn.fit": _fit,
    **{f"optim.{kind.__name__}": _optimizer(kind) for kind in _OPTIONS},
    "optim.StepLR": _step_lr,
    "optim.CosineAnnealingLR": _cosine,
    "optim.clip_grad_norm": _clip(optim.clip_grad_norm),
    "optim.clip_grad_value": _clip(optim.clip_grad_value),
}


# ---------------------------------------------------------------- judging


def spoil(pick, call):
    """Put one or two arguments that may be wrong into a call; their names."""
    if not call.names:
        return []
    names = [_one_of(pick, call.names) for _ in range(1 + (pick(0, 3) == 0))]
    for name in names:
        call.kwargs[name] = ODD[pick(0, len(ODD) - 1)]()
    return names


def _state(value):
    """What must not change during a call."""
    if isinstance(value, np.ndarray) and value.size < 10_000:
        return value.shape, value.dtype, repr(value) if value.dtype.hasobject else value.tobytes()
    return None


ERRORS = ValueError, TypeError, MemoryError
# Of sizes that no array can have NumPy says so, as of those that find no memory.
TOO_LARGE = "Maximum allowed dimension exceeded|array is too big"
# Arguments by other names: those of their parts.
PARTS = {
    "betas": {"beta1", "beta2"}, "target": {"labels"}, "layers": {"layer", "Flatten", "ReLU"},
    "data": {"dtype"}, "kernel_size": {"windows"},
}  # fmt: skip


def draw(name, pick):
    """A call of a function, and the names of its arguments that may be wrong."""
    call = MAKERS[name](pick)
    return call, spoil(pick, call) if pick(0, 1) else []


def check(name, pick, judge=True):
    """Make a call and judge it; the class of the exception, if it raised one."""
    call, spoiled = draw(name, pick)
    try:
        return _judged(name, call, spoiled, judge)
    except BaseException as error:
        error.add_note(f"{name}, spoiled {spoiled}: {call.kwargs}")
        raise


def _judged(name, call, spoiled, judge):
    refusable = spoiled or str(call.kwargs.get("method")) in ROUNDING
    written = call.kwargs.get("out"), call.kwargs.get("params")
    before = {n: _state(v) for n, v in call.kwargs.items()}
    try:
        # Losses and steps may overflow, with NumPy's warning; correlations are silent.
        with np.errstate(all="ignore") if "." in name else contextlib.nullcontext():
            result = call.function(**call.kwargs)
    except ERRORS as error:
        assert refusable
        if not isinstance(error, MemoryError):
            words = set(re.findall(r"\w+", str(error)))
            known = set(call.names).union(*(PARTS.get(n, ()) for n in call.names))
            if not words & known and not re.search(TOO_LARGE, str(error)):
                pytest.fail(f"no argument is named: {error!r}")
        outcome = type(error)
    else:
        outcome = None
        if judge and not spoiled:
            call.right(result)
    for n, v in call.kwargs.items():
        assert any(v is w for w in written) or _state(v) == before[n], f"{n} is changed"
    return outcome
