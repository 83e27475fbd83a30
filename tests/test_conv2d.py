"""conv2d, conv_transpose2d and their gradients: exact on integers against the definition and
PyTorch, adjoint, within a bound on floating numbers, the same bits for any number of workers."""

import collections
import itertools
import json
import os
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import cases
import conv_cases
import conv_oracle
import numpy as np
import oracle
import pytest
from conv_cases import Case
from memory import scratch

import fastcorr
from fastcorr import _channels, _dispatch, conv
from fastcorr._boundary import CODES
from fastcorr._kernels import _cpu

FUNCTIONS = ("conv2d", "conv2d_backward", "conv2d_output_shape", "conv_transpose2d",
             "conv_transpose2d_backward")  # fmt: skip
MODES = tuple(conv_oracle.MODES)

# Of an interpreter that finds what this one finds.
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(
        [os.path.dirname(__file__), os.path.dirname(os.path.dirname(fastcorr.__file__)), *sys.path]
    ),
}

# Random problems: of conv2d and of conv_transpose2d, in parametrized blocks.
COUNT, COUNT_TRANSPOSED, BLOCK = 2000, 800, 100
PROBLEMS = [
    *((conv_cases.conv2d_case, n) for n in range(0, COUNT, BLOCK)),
    *((conv_cases.conv_transpose2d_case, n) for n in range(0, COUNT_TRANSPOSED, BLOCK)),
]
random_problems = pytest.mark.parametrize(
    ("make", "first"), PROBLEMS, ids=[f"{make.__name__}-{n}" for make, n in PROBLEMS]
)


def product(u, v):
    """The real inner product Re sum conj(u) * v, exact for integer values."""
    u, v = conv_oracle.lift(u), conv_oracle.lift(v)
    return int((u.conj() * v).real.sum())


def integers(rng, *shapes, dtype="d"):
    """Integer-valued arrays of several shapes."""
    return [cases.integers(rng, shape, dtype) for shape in shapes]


def nonzero(rng, *shapes, dtype="d"):
    """The same without any zero."""
    return [np.where(a == 0, 1, a).astype(a.dtype) for a in integers(rng, *shapes, dtype=dtype)]


def test_public_functions():
    for name in FUNCTIONS:
        assert getattr(fastcorr, name) is getattr(conv, name)
        assert name in fastcorr.__all__


# ---------------------------------------------------------------- the oracle itself


def nested_loops(case):
    """y, dx, dweight, dbias of conv2d in plain loops over Python numbers; padding by numpy.pad."""
    dy, x, weight, bias = (None if v is None else conv_oracle.lift(v) for v in case.arrays())
    (sh, sw), (dh, dw) = conv_oracle.pair(case.stride), conv_oracle.pair(case.dilation)
    sides = conv_oracle.pads(
        case.padding, x.shape[2:], weight.shape[2:], case.stride, case.dilation
    )
    rule = {"zeros": "constant", "replicate": "edge", "circular": "wrap"}.get(case.mode, case.mode)
    padded = np.pad(x, ((0, 0), (0, 0), *sides), rule)
    # Which pixel each padded one shows; 0 for none.
    pixels = np.arange(1, 1 + x[0, 0].size).reshape(x.shape[2:])
    shown = np.pad(pixels, sides, rule)
    y, dx, dweight = (np.zeros(v.shape, object) for v in (dy, x, weight))
    per_group = len(weight) // int(case.groups)
    for n, o, i, j in np.ndindex(y.shape):
        for c, a, b in np.ndindex(weight.shape[1:]):
            channel = o // per_group * weight.shape[1] + c
            at = i * sh + a * dh, j * sw + b * dw
            w, g, pixel = (v.item() for v in (weight[o, c, a, b], dy[n, o, i, j], shown[at]))
            value = padded[(n, channel, *at)].item()
            y[n, o, i, j] += w * value
            dweight[o, c, a, b] += g * value.conjugate()
            if pixel:
                dx[n, channel].flat[pixel - 1] += g * w.conjugate()
    if bias is not None:
        y = y + bias.astype(object)[:, None, None]
    return y, dx, dweight, dy.astype(object).sum(axis=(0, 2, 3))


ORACLE_PROBLEMS = [
    ((2, 2, 4, 5), (2, 2, 2, 3), 1, 0, 1, 1),
    ((1, 4, 5, 6), (6, 2, 3, 2), (2, 1), ((1, 2), (0, 3)), 1, 2),
    ((1, 2, 5, 4), (2, 1, 2, 2), (1, 2), (2, 1), (3, 2), 2),
    ((2, 1, 6, 7), (1, 1, 3, 3), (2, 3), "same", 1, 1),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", "dD")
@pytest.mark.parametrize("problem", ORACLE_PROBLEMS, ids=str)
def test_oracle_is_the_nested_loops(problem, dtype, mode):
    x_shape, w_shape, *args = problem
    case = Case(1, "oracle", x_shape, w_shape, *args, mode, types=(dtype,) * 3, bias=True)
    for name, right, loops in zip(
        conv_cases.NAMES, conv_cases.expected(case), nested_loops(case), strict=True
    ):
        np.testing.assert_array_equal(right, loops.astype(right.dtype), err_msg=name)


def test_oracle_by_hand():
    x, k = np.arange(9).reshape(1, 3, 3), np.arange(4).reshape(1, 1, 2, 2)
    assert conv_oracle.conv2d(x, k).tolist() == [[[19, 25], [37, 43]]]
    full = conv_oracle.conv_transpose2d(np.array([[[1, 2], [3, 4]]]), k)
    assert full.tolist() == [[[0, 1, 2], [2, 10, 10], [6, 17, 12]]]
    row, ones = np.array([[[1, 2, 3, 4, 5]]]), np.ones((1, 1, 1, 2), int)
    # ceil(5 / 2) = 3 windows of 2 at 0, 2, 4: one column too few, added after.
    assert conv_oracle.conv2d(row, ones, stride=(1, 2), padding="same").tolist() == [[[3, 7, 5]]]
    assert conv_oracle.out_size((7, 8), (3, 2), 2, ((1, 0), (0, 3)), (2, 1)) == (2, 5)
    assert conv_oracle.pads("same", (5, 6), (3, 4), (1, 2), (2, 1)) == ((2, 2), (1, 1))
    assert conv_oracle.pads("same", (6, 5), (4, 1), (1, 4), (1, 1)) == ((1, 2), (0, 0))


@pytest.mark.parametrize("mode", MODES)
def test_oracle_agrees_with_the_other_one(mode, rng):
    """One channel, the whole kernel beyond the edge: correlate2d in 'full' mode."""
    x, k = rng.integers(-9, 10, (5, 6)), rng.integers(-9, 10, (3, 4))
    y = conv_oracle.conv2d(x[None], k[None, None], padding=(2, 3), mode=mode)
    other = oracle.compute("correlate2d", x, k, "full", conv_oracle.MODES[mode])
    np.testing.assert_array_equal(y[0], other.astype(int))


# ---------------------------------------------------------------- random problems


def test_random_problems_reach_the_edges():
    """Of what the kernels divide by, none is met by chance only."""
    found = collections.Counter()
    for seed in range(COUNT):
        case = conv_cases.conv2d_case(seed)
        (kh, kw), (oh, ow) = case.w_shape[2:], case.out
        stride, dilation = conv_oracle.pair(case.stride), conv_oracle.pair(case.dilation)
        sides = conv_oracle.pads(
            case.padding, case.x_shape[-2:], (kh, kw), case.stride, case.dilation
        )
        images = case.x_shape[0] if len(case.x_shape) == 4 else 1
        groups, channels = int(case.groups), case.x_shape[-3]
        outputs = case.channels_out // groups
        x_type, w_type, _ = case.types
        edges = {
            "more than a block of taps": case.taps > 384,
            "more than two blocks of taps": case.taps > 768,
            "exactly a block of taps": case.taps in (384, 768),
            "more taps than a block for the image gradient": outputs * kh * kw > 384,
            "more than a tile of outputs": outputs > 12,
            "a whole tile of outputs": outputs == 12,
            "more than two tiles of outputs": outputs > 24,
            "more than 64 channels in": case.w_shape[1] > 64,
            "more than 64 channels out": outputs > 64,
            "rows longer than a block of pixels": ow > 384,
            "blocks across rows": oh * ow > 384 >= ow,
            "blocks across images": images * oh * ow > 384 > oh * ow,
            "everything in several blocks": case.taps > 384
            and outputs > 12
            and images * oh * ow > 384,
            "single pixels": oh == ow == 1,
            "1x1 kernels": kh == kw == 1 and case.taps > 1,
            "1x1 kernels with stride": kh == kw == 1 and max(stride) > 1,
            "one channel to one": channels == case.channels_out == 1,
            "depthwise": groups == channels > 1,
            "other groups": 1 < groups < channels,
            "stride": stride != (1, 1),
            "stride of different sizes": stride[0] != stride[1],
            "stride larger than the kernel": stride[0] > kh or stride[1] > kw,
            "dilation": max(dilation) > 1 and kh * kw > 1,
            "dilation and stride": (np.array(dilation) > 1).any() and max(stride) > 1,
            "padding beyond the kernel": max(sides[0]) > dilation[0] * (kh - 1),
            "uneven padding": any(p != q for p, q in sides),
            "same": case.padding == "same",
            "same with stride": case.padding == "same" and max(stride) > 1,
            "no padding": sides == ((0, 0), (0, 0)),
            "without batch": len(case.x_shape) == 3,
            "bias": case.bias,
            "mixed types": x_type != w_type,
            "real image, complex weight": case.dtype.kind == "c" != np.dtype(x_type).kind,
            **{f"mode {m}": case.mode == m and sides != ((0, 0), (0, 0)) for m in MODES},
            **{f"type {t}": case.dtype.char == t for t in conv_cases.FOUR},
            **{f"layout {n}": n in case.layouts for n in conv_cases.LAYOUTS},
            **{f"workers {n}": case.workers == n for n in (None, 1, 2, 3)},
        }
        for name, true in edges.items():
            found[name] += bool(true)
    rarest = {name: count for name, count in found.items() if count < 10}
    assert not rarest


@random_problems
def test_random_problems_against_the_definition(make, first):
    """Each exact, in fresh plain arrays, whatever the layout, and the operands as they were."""
    shares = np.zeros(4)  # of results that are not zero, on average
    for seed in range(first, first + BLOCK):
        case = make(seed)
        arrays = case.arrays()
        before = [v.tobytes() for v in arrays if v is not None]
        got, right = conv_cases.results(case, arrays), conv_cases.expected(case, arrays)
        conv_cases.assert_exact(got, right, case)
        assert [v.tobytes() for v in arrays if v is not None] == before, case
        for n, result in enumerate(got):
            assert type(result) is np.ndarray, case
            assert result.dtype.isnative, case
            assert result.flags.c_contiguous, case
            assert result.flags.writeable, case
            assert result.flags.aligned, case
            shares[n] += np.count_nonzero(result) / result.size / BLOCK
        assert got[0].dtype == case.dtype, case
        assert got[0].shape == case.y_shape, case
    # Zeros everywhere would agree with many a mistake.
    assert (shares > [0.7, 0.5, 0.7, 0.9]).all()


@pytest.fixture(scope="module")
def torch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # its threads wait for each other, image by image
    yield torch
    torch.set_num_threads(before)


def torchs(torch, case):
    """PyTorch's result and gradients, in double precision."""
    functional = torch.nn.functional
    wide = np.complex128 if case.dtype.kind == "c" else np.float64
    dy, *operands = (None if v is None else np.array(v, wide, order="C") for v in case.arrays())
    x, weight, bias = (
        None if v is None else torch.from_numpy(v).requires_grad_() for v in operands
    )
    stride, dilation, output_padding = (
        conv_oracle.pair(v) for v in (case.stride, case.dilation, case.output_padding)
    )
    groups = int(case.groups)
    if case.transposed:
        padding = conv_oracle.pair(case.padding)
        args = bias, stride, padding, output_padding, groups, dilation
        y = functional.conv_transpose2d(x, weight, *args)
    else:
        (top, bottom), (left, right) = conv_oracle.pads(
            case.padding, case.x_shape[-2:], case.w_shape[2:], stride, dilation
        )
        if case.mode == "zeros" and top == bottom and left == right:
            y = functional.conv2d(x, weight, bias, stride, (top, left), dilation, groups)
        else:
            mode = "constant" if case.mode == "zeros" else case.mode
            padded = functional.pad(x, (left, right, top, bottom), mode)
            y = functional.conv2d(padded, weight, bias, stride, 0, dilation, groups)
    y.backward(torch.from_numpy(dy))
    # To a real operand of a complex result: the real part.
    dx, dweight = (
        v.grad.numpy() if np.dtype(t).kind == "c" else v.grad.numpy().real
        for v, t in zip((x, weight), case.types, strict=False)
    )
    dbias = dy.sum(axis=(-2, -1)) if bias is None else bias.grad.numpy()
    dbias = dbias if dbias.ndim == 1 else dbias.sum(axis=0)
    dbias = dbias if np.dtype(case.types[2]).kind == "c" else dbias.real
    return y.detach().numpy(), dx, dweight, dbias


@random_problems
def test_random_problems_against_torch(torch, make, first):
    for seed in range(first, first + BLOCK):
        case = make(seed)
        case.workers = 1
        conv_cases.assert_exact(conv_cases.results(case), torchs(torch, case), case)


@pytest.mark.parametrize("dtype", "fdFD")
def test_same_is_torchs_at_stride_1(torch, dtype, rng):
    for kernel, dilation in itertools.product([(3, 5), (1, 3), (7, 1)], [1, 2, (3, 1)]):
        x, weight = integers(rng, (2, 3, 8, 9), (4, 3, *kernel), dtype=dtype)
        y = torch.nn.functional.conv2d(
            torch.from_numpy(x), torch.from_numpy(weight), padding="same", dilation=dilation
        )
        ours = conv.conv2d(x, weight, padding="same", dilation=dilation)
        np.testing.assert_array_equal(ours, y.numpy())


def test_same_of_even_kernels_is_torchs(torch, rng):
    x, weight = integers(rng, (1, 2, 8, 9), (3, 2, 4, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of 'same', but once in a process
        y = torch.nn.functional.conv2d(*map(torch.from_numpy, (x, weight)), padding="same")
    np.testing.assert_array_equal(conv.conv2d(x, weight, padding="same"), y.numpy())


# ---------------------------------------------------------------- sizes around the blocks

CHANNELS_IN = (1, 3, 8, 15, 16, 17, 42, 43, 64, 65, 128)
CHANNELS_OUT = (1, 5, 11, 12, 13, 24, 25, 64, 65)
WIDTHS = (1, 7, 8, 14, 15, 16, 17, 56, 400)
KERNELS = ((3, 3), (1, 1), (2, 3), (5, 1), (1, 2))


@pytest.mark.parametrize("channels", CHANNELS_IN)
@pytest.mark.parametrize("dtype", "fd")
def test_channels_and_widths(channels, dtype):
    """Every number of channels with every other, and with every width of the result."""
    first = CHANNELS_IN.index(channels)
    for n, outputs in enumerate(CHANNELS_OUT):
        width, kernel = WIDTHS[(first + n) % 9], KERNELS[(first + 2 * n) % 5]
        rows, images = (1, 1) if width > 100 else (3, 1) if width > 50 else (min(width, 9), 3)
        sizes = [m + k - 1 for m, k in zip((rows, width), kernel, strict=True)]
        padding = [k // 2 for k in kernel]
        image = tuple(max(m - 2 * p, 1) for m, p in zip(sizes, padding, strict=True))
        case = Case(
            n, "edge", (images, channels, *image), (outputs, channels, *kernel), 1, padding,
            types=(dtype,) * 3, bias=True, workers=1 + (n == first % 9),
        )  # fmt: skip
        conv_cases.assert_exact(conv_cases.results(case), conv_cases.expected(case), case)


# Image, weight, stride, padding, dilation, groups: the layers of real networks, cut down.
LAYERS = [
    ((1, 64, 28, 28), (64, 64, 3, 3), 1, 1, 1, 1),
    ((2, 3, 56, 56), (64, 3, 7, 7), 2, 3, 1, 1),
    ((8, 128, 7, 7), (32, 128, 3, 3), 1, 1, 1, 1),
    ((1, 16, 24, 200), (16, 16, 5, 5), 1, 2, 1, 1),
    ((16, 1, 28, 28), (8, 1, 5, 5), 1, 2, 1, 1),
    ((2, 256, 14, 14), (64, 256, 1, 1), 1, 0, 1, 1),
    ((2, 64, 28, 28), (65, 64, 1, 1), 2, 0, 1, 1),
    ((2, 66, 20, 20), (66, 1, 3, 3), 1, 1, 1, 66),
    ((2, 32, 21, 21), (64, 1, 3, 3), 2, 1, 1, 32),
    ((2, 64, 14, 14), (96, 32, 3, 3), 1, 1, 1, 2),
    ((100, 65, 1, 1), (66, 65, 1, 1), 1, 0, 1, 1),
    ((50, 17, 2, 2), (13, 17, 2, 2), 1, 0, 1, 1),
    ((1, 1, 120, 500), (1, 1, 7, 7), 1, 3, 1, 1),
    ((1, 1, 40, 900), (1, 1, 13, 31), 1, 0, 1, 1),
    ((2, 24, 30, 30), (24, 24, 3, 3), 1, 4, 4, 1),
    ((3, 12, 13, 401), (13, 12, 3, 3), (1, 2), 1, 1, 1),
    ((1, 43, 9, 410), (12, 43, 3, 3), 1, (1, 0), 1, 1),
    ((40, 20, 8, 8), (30, 20, 3, 3), 1, 1, 1, 1),
]


def big(problem, dtype, mode="zeros", layout="C"):
    x_shape, w_shape, *args = problem
    return Case(
        3, "layer", x_shape, w_shape, *args, mode, types=(dtype,) * 3, bias=True,
        layouts=(layout,) * 3,
    )  # fmt: skip


@pytest.mark.parametrize("problem", LAYERS, ids=str)
def test_layers(problem):
    case = big(problem, "f")
    right = conv_cases.expected(case)
    for dtype in "fd":
        case.types = (dtype,) * 3
        conv_cases.assert_exact(conv_cases.results(case), right, case)


@pytest.mark.parametrize("problem", [LAYERS[1], LAYERS[2], LAYERS[4], LAYERS[7]], ids=str)
@pytest.mark.parametrize("dtype", "FD")
def test_complex_layers(problem, dtype):
    x_shape, w_shape, *args = problem
    if args[-1] == 1:
        w_shape = (w_shape[0] // 2, *w_shape[1:])
    case = big((x_shape, w_shape, *args), dtype)
    conv_cases.assert_exact(conv_cases.results(case), conv_cases.expected(case), case)


@pytest.mark.parametrize("width", range(1, 36))
@pytest.mark.parametrize("dtype", "fdFD")
def test_every_width(width, dtype):
    """No lane missed, none counted twice, with and without stride, in one channel and in many."""
    for n, (channels, outputs, groups) in enumerate([(1, 1, 1), (3, 2, 1), (4, 4, 4), (2, 13, 1)]):
        stride, padding = ((1, 1), (1, 2), (2, 3))[width % 3], ((0, 0), (1, 1))[n % 2]
        x_shape, w_shape = (2, channels, 3, width + 2), (outputs, channels // groups, 2, 3)
        case = Case(
            n, "width", x_shape, w_shape, stride, padding, 1, groups, types=(dtype,) * 3
        )  # fmt: skip
        conv_cases.assert_exact(conv_cases.results(case), conv_cases.expected(case), case)


# ---------------------------------------------------------------- the adjoint identity


@pytest.mark.parametrize("make", [conv_cases.conv2d_case, conv_cases.conv_transpose2d_case])
@pytest.mark.parametrize("first", range(10_000, 10_300, 100))
def test_adjoint(make, first):
    """<dy, f(u, w)> = <dx, u>, <dy, f(x, v)> = <dw, v>, <dy, b> = <dbias, b>, for other u, v, b.

    Directions of their own: the gradients are those of the map, not just of this point.
    """
    name = "conv_transpose2d" if make is conv_cases.conv_transpose2d_case else "conv2d"
    forward, backward = getattr(conv, name), getattr(conv, name + "_backward")
    seen = 0
    for seed in range(first, first + 100):
        case = make(seed)
        dy, x, weight, _ = case.arrays()
        rng = np.random.default_rng(seed)
        u, v = (cases.integers(rng, a.shape, a.dtype) for a in (x, weight))
        b = cases.integers(rng, case.channels_out, case.dtype)
        more = case.mode_argument
        dx, dweight, dbias = backward(dy, x, weight, *case.args, **more)
        right = product(dy, forward(u, weight, None, *case.args, **more))
        assert product(dx, u) == right, case
        seen += right != 0
        right = product(dy, forward(x, v, None, *case.args, **more))
        assert product(dweight, v) == right, case
        seen += right != 0
        everywhere = np.broadcast_to(b[:, None, None], dy.shape)
        assert product(dbias, b) == product(dy, everywhere), case
    assert seen > 180


@pytest.mark.parametrize("problem", LAYERS, ids=str)
@pytest.mark.parametrize("dtype", "fD")
def test_adjoint_of_layers(problem, dtype):
    case = big(problem, dtype)
    dy, x, weight, _ = case.arrays()
    small = [np.sign(v.real).astype(dtype) * (1 + 1j if dtype == "D" else 1) for v in (dy, x)]
    dy, x = (v.astype(dtype) for v in small)
    y = conv.conv2d(x, weight, None, *case.args)
    dx, dweight, _ = conv.conv2d_backward(dy, x, weight, *case.args)
    assert product(dy, y) == product(dx, x) == product(dweight, weight) != 0


@pytest.mark.parametrize("first", range(0, 300, 100))
def test_transposed_is_the_adjoint_of_conv2d(first):
    """<conv_transpose2d(x, w), v> = <x, conv2d(v, conj(w))>; rows of output_padding aside."""
    seen = 0
    for seed in range(first, first + 100):
        case = conv_cases.conv_transpose2d_case(seed)
        v, x, weight, _ = case.arrays()
        y = conv.conv_transpose2d(x, weight, None, *case.args)
        stride, padding, _, groups, dilation = case.args
        back = conv.conv2d(v, weight.conj(), None, stride, padding, dilation, groups)
        back = back[..., : x.shape[-2], : x.shape[-1]]
        assert back.shape == x.shape
        assert product(y, v) == product(x, back), case
        seen += product(y, v) != 0
    assert seen > 80


def test_transposed_gradient_is_conv2d(rng):
    """And the gradient of one is the other, element by element."""
    x, weight, v = integers(rng, (2, 6, 5, 7), (6, 4, 3, 2), (2, 8, 13, 15), dtype="D")
    args = (2, 3), (0, 2), (1, 2), 2
    stride, padding, dilation, groups = args
    more = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    y = conv.conv_transpose2d(x, weight, None, stride, padding, 0, groups, dilation)
    assert y.shape == (2, 8, 11, 17)
    image = np.zeros_like(y)
    dx, _, _ = conv.conv2d_backward(x, image, weight.conj(), **more, needs=("x",))
    np.testing.assert_array_equal(dx, y)
    v = cases.integers(rng, y.shape, "D")
    dx, _, _ = conv.conv_transpose2d_backward(
        v, x, weight, stride, padding, 0, groups, dilation, needs=("x",)
    )
    np.testing.assert_array_equal(dx, conv.conv2d(v, weight.conj(), **more))


# ---------------------------------------------------------------- the shape of the result


def test_output_shape_of_random_problems():
    for seed in range(COUNT):
        case = conv_cases.conv2d_case(seed)
        args = case.stride, case.padding, case.dilation
        shape = conv.conv2d_output_shape(case.x_shape, case.w_shape[0], case.w_shape[2:], *args)
        assert shape == case.y_shape, case
        assert type(shape) is tuple
        assert {type(n) for n in shape} == {int}


def test_output_shape_by_hand():
    shape = conv.conv2d_output_shape
    assert shape((1, 6, 8), 1, (1, 2)) == (1, 6, 7)
    assert shape((16, 3, 224, 224), 64, 7, 2, 3) == (16, 64, 112, 112)
    assert shape([0, 3, 5, 5], np.int64(4), [3, 3]) == (0, 4, 3, 3)
    assert shape((2, 3, 10, 11), 4, 3, stride=(3, 4), padding="same") == (2, 4, 4, 3)
    assert shape((3, 10, 11), 4, 3, padding="valid", dilation=(2, 5)) == (4, 6, 1)
    assert shape((3, 10, 11), 4, 3, padding=((0, 2), (1, 0))) == (4, 10, 10)
    assert shape((1, 10**9, 10**9), 1, 10**6, 10**6) == (1, 1000, 1000)


@pytest.mark.parametrize(("error", "match", "arguments"), [
    (ValueError, "input_shape", {"input_shape": (5, 6)}),
    (ValueError, "input_shape", {"input_shape": (1, 2, 3, 4, 5)}),
    (ValueError, "input_shape", {"input_shape": ()}),
    (ValueError, "input_shape", {"input_shape": (3, -1, 6)}),
    (TypeError, "input_shape", {"input_shape": 5}),
    (TypeError, "input_shape", {"input_shape": (3, 5.0, 6)}),
    (ValueError, "out_channels", {"out_channels": 0}),
    (ValueError, "out_channels", {"out_channels": -2}),
    (TypeError, "out_channels", {"out_channels": 1.5}),
    (TypeError, "out_channels", {"out_channels": (4,)}),
    (ValueError, "kernel_size", {"kernel_size": 0}),
    (ValueError, "kernel_size", {"kernel_size": (3, -1)}),
    (ValueError, "kernel_size", {"kernel_size": (1, 2, 3)}),
    (TypeError, "kernel_size", {"kernel_size": 2.0}),
    (ValueError, "kernel", {"kernel_size": (6, 3)}),
    (ValueError, "kernel", {"kernel_size": 3, "dilation": 3}),
    (ValueError, "stride", {"stride": 0}),
    (ValueError, "stride", {"stride": (1, 2, 3)}),
    (TypeError, "stride", {"stride": 1.5}),
    (ValueError, "padding", {"padding": -1}),
    (ValueError, "padding", {"padding": "middle"}),
    (ValueError, "padding", {"padding": (1, 2, 3)}),
    (TypeError, "padding", {"padding": 0.5}),
    (ValueError, "dilation", {"dilation": 0}),
    (TypeError, "dilation", {"dilation": None}),
])  # fmt: skip
def test_output_shape_errors(error, match, arguments):
    right = {"input_shape": (3, 5, 6), "out_channels": 4, "kernel_size": 3}
    assert conv.conv2d_output_shape(**right) == (4, 3, 4)
    with pytest.raises(error, match=match):
        conv.conv2d_output_shape(**{**right, **arguments})


# ---------------------------------------------------------------- 'same', spellings


@pytest.mark.parametrize("size", range(1, 12))
def test_same_by_its_rule(size, rng):
    """ceil(size / stride) outputs, the odd one of the padding after: written out as numbers."""
    for k, s, d in itertools.product((1, 2, 3, 4), (1, 2, 3, 5), (1, 2)):
        x, weight = integers(rng, (1, size, 1), (1, 1, k, 1))
        y = conv.conv2d(x, weight, stride=s, padding="same", dilation=d)
        assert y.shape == (1, -(-size // s), 1)
        total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
        sides = ((total // 2, (total + 1) // 2), (0, 0))
        by_hand = conv.conv2d(np.pad(x, ((0, 0), *sides)), weight, stride=s, dilation=d)
        np.testing.assert_array_equal(y, by_hand)
        np.testing.assert_array_equal(
            y, conv.conv2d(x, weight, stride=s, padding=sides, dilation=d)
        )


@pytest.mark.parametrize("spellings", [
    [2, (2, 2), [2, 2], ((2, 2), (2, 2)), np.int64(2), (np.uint8(2), 2), [[2, 2], (2, 2)]],
    [0, "valid", (0, 0), ((0, 0), [0, 0]), np.int8(0)],
    [(2, 1), ((2, 2), (1, 1)), [2, np.int16(1)]],
    ["same", (2, 1)],
], ids=str)  # fmt: skip
def test_spellings_of_padding(spellings, rng):
    x, weight = integers(rng, (2, 3, 7, 8), (4, 3, 5, 3))
    y = conv.conv2d(x, weight, padding=spellings[0])
    gradients = conv.conv2d_backward(y, x, weight, padding=spellings[0])
    for padding in spellings[1:]:
        np.testing.assert_array_equal(conv.conv2d(x, weight, padding=padding), y)
        again = conv.conv2d_backward(y, x, weight, padding=padding)
        for a, b in zip(again, gradients, strict=True):
            np.testing.assert_array_equal(a, b)


def test_arguments_by_position(rng):
    """In PyTorch's order."""
    x, weight, bias = integers(rng, (2, 4, 9, 8), (6, 2, 3, 2), 6)
    named = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 3), "groups": 2}
    y = conv.conv2d(x, weight, bias, **named)
    np.testing.assert_array_equal(conv.conv2d(x, weight, bias, (2, 1), (1, 2), (1, 3), 2), y)
    for a, b in zip(
        conv.conv2d_backward(y, x, weight, (2, 1), (1, 2), (1, 3), 2),
        conv.conv2d_backward(y, x, weight, **named),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    x, bias = integers(rng, (2, 6, 5, 4), 4)
    named = {**named, "output_padding": (1, 0)}
    y = conv.conv_transpose2d(x, weight, bias, **named)
    args = (2, 1), (1, 2), (1, 0), 2, (1, 3)
    np.testing.assert_array_equal(conv.conv_transpose2d(x, weight, bias, *args), y)
    for a, b in zip(
        conv.conv_transpose2d_backward(y, x, weight, *args),
        conv.conv_transpose2d_backward(y, x, weight, **named),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(TypeError):
        conv.conv2d(x, weight, bias, 1, 0, 1, 1, "zeros")
    with pytest.raises(TypeError):
        conv.conv_transpose2d(x, weight, bias, 1, 0, 0, 1, 1, None)


@pytest.mark.parametrize("transposed", [False, True])
def test_needs(transposed, rng):
    x, weight = integers(rng, (2, 4, 6, 5), (4, 4, 3, 3))
    backward = conv.conv_transpose2d_backward if transposed else conv.conv2d_backward
    dy = cases.integers(rng, (2, 4, 6, 5), "d")
    every = backward(dy, x, weight, padding=1)
    names = "x", "weight", "bias"
    for count in range(4):
        for needs in itertools.combinations(names, count):
            for spelled in (needs, list(needs), needs[::-1], set(needs)):
                got = backward(dy, x, weight, padding=1, needs=spelled)
                assert type(got) is tuple
                for name, a, b in zip(names, got, every, strict=True):
                    if name in needs:
                        np.testing.assert_array_equal(a, b, strict=True)
                    else:
                        assert a is None
    for name in names:
        got = backward(dy, x, weight, padding=1, needs=name)
        assert [v is None for v in got] == [name != n for n in names]


# ---------------------------------------------------------------- floating point

FLOATING = [
    ((2, 3, 9, 17), (5, 3, 3, 3), 1, 1, 1, 1),
    ((1, 50, 6, 7), (13, 50, 3, 3), 1, 1, 1, 1),
    ((1, 1, 30, 41), (1, 1, 5, 7), 1, 2, 1, 1),
    ((4, 6, 12, 13), (8, 3, 3, 2), (2, 1), (0, 2), (1, 2), 2),
    ((8, 70, 7, 7), (12, 70, 1, 1), 1, 0, 1, 1),
    ((2, 8, 25, 26), (8, 1, 3, 3), 1, 1, 1, 8),
    ((6, 4, 40, 50), (3, 4, 2, 2), 1, 0, 1, 1),
]


def within(got, right, total, terms, dtype):
    """|error| <= (2 sqrt(n) + 4) u S for a sum of n products whose magnitudes sum to S.

    Every addition errs by at most u times a partial sum, which is at most S: n u S is the worst
    case of any order, and errors that are independent add up to about sqrt(n) u S / 4.
    """
    unit = float(np.finfo(dtype).eps) / 2
    bound = (2 * terms**0.5 + 4) * unit * total
    error = abs(np.asarray(got, right.dtype) - right)
    assert (error <= bound).all(), float((error / bound).max())
    assert (right != 0).any()


def parts(a):
    return a.real, a.imag


def check_rounding(got, compute, u, v, terms, dtype):
    """A bilinear map against itself in more digits, the real and the imaginary part."""
    wide = {"f": "d", "F": "D", "d": "g", "D": "G"}[dtype]
    right = compute(u.astype(wide), v.astype(wide))
    if np.dtype(dtype).kind != "c":
        within(got, right, compute(abs(u).astype(wide), abs(v).astype(wide)), terms, dtype)
        return
    # Each part is a real sum of twice as many products.
    real = wide.lower()
    (p, q), (r, s) = ([abs(t).astype(real) for t in parts(a)] for a in (u, v))
    for part, total in (
        ("real", compute(p, r) + compute(q, s)),
        ("imag", compute(p, s) + compute(q, r)),
    ):
        within(getattr(got, part), getattr(right, part), total, 2 * terms, dtype)


@pytest.mark.parametrize("problem", FLOATING, ids=str)
@pytest.mark.parametrize("dtype", "fdFD")
@pytest.mark.parametrize("positive", [False, True])
def test_error_bound(problem, dtype, positive, rng):
    """Positive numbers are the harder ones: their partial sums grow to S."""
    if dtype in "dD" and np.finfo("g").eps == np.finfo("d").eps:
        pytest.skip("no more digits than double precision here")
    x_shape, w_shape, *args = problem
    out = conv_oracle.out_size(x_shape[2:], w_shape[2:], *args[:3])
    shapes = x_shape, w_shape, (x_shape[0], w_shape[0], *out)
    x, weight, dy = (cases.reals(rng, s, dtype) for s in shapes)
    if positive:
        x, weight, dy = (abs(v.real) + (0 if dtype in "fd" else 1j * abs(v.imag))
                         for v in (x, weight, dy))  # fmt: skip
        x, weight, dy = (v.astype(dtype) for v in (x, weight, dy))
    got = conv.conv2d(x, weight, None, *args)
    assert got.dtype == dtype
    dx, dweight, dbias = conv.conv2d_backward(dy, x, weight, *args)

    def forward(u, v):
        return conv_oracle.conv2d(u, v, None, *args)

    def to_image(u, v):
        return conv_oracle.conv2d_backward(u, np.zeros(x_shape, u.dtype), v, *args)[0]

    def to_weight(u, v):
        return conv_oracle.conv2d_backward(u, v, np.zeros(w_shape, u.dtype), *args)[1]

    taps, pixels = np.prod(w_shape[1:]), dy[:, 0].size
    check_rounding(got, forward, x, weight, taps, dtype)
    # Of products with conjugates only the signs differ, and the bound takes magnitudes.
    check_rounding(dx, to_image, dy, weight, taps * w_shape[0] / x_shape[1], dtype)
    check_rounding(dweight, to_weight, dy, x, pixels, dtype)
    for ours, a in zip(parts(dbias), parts(dy), strict=True) if dtype in "FD" else [(dbias, dy)]:
        a = a.astype("g")
        within(ours, a.sum(axis=(0, 2, 3)), abs(a).sum(axis=(0, 2, 3)), pixels, dtype.lower())


def test_close_to_torch_in_single_precision(torch, rng):
    """Both within the bound of test_error_bound, so within twice of it of each other."""
    x, weight = cases.reals(rng, (2, 40, 12, 13), "f"), cases.reals(rng, (9, 40, 3, 3), "f")
    theirs = torch.nn.functional.conv2d(*map(torch.from_numpy, (x, weight)), padding=1).numpy()
    total = conv_oracle.conv2d(abs(x).astype("d"), abs(weight).astype("d"), padding=1)
    bound = 2 * (2 * 360**0.5 + 4) * 2.0**-24 * total
    assert (abs(conv.conv2d(x, weight, padding=1) - theirs) <= bound).all()


@pytest.mark.parametrize("dtype", "fdFD")
def test_subnormals_are_not_flushed(dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    x, weight = np.full((1, 2, 5, 40), tiny, dtype), np.ones((3, 2, 2, 2), dtype)
    y = conv.conv2d(x, weight)
    np.testing.assert_array_equal(y, np.full((1, 3, 4, 39), 8 * tiny, dtype))
    dy = np.full_like(y, tiny)
    dx, dweight, dbias = conv.conv2d_backward(dy, np.ones_like(x), weight)
    assert dx[0, 0, 2, 2] == 12 * tiny
    assert (dweight == 156 * tiny).all()
    assert (dbias == 156 * tiny).all()


@pytest.mark.parametrize("dtype", "fdFD")
def test_overflow_and_invalid_are_silent(dtype):
    big = np.full((1, 2, 4, 4), np.finfo(dtype).max, dtype)
    weight = np.full((2, 2, 2, 2), 2, dtype)
    weight[1, 1] = -2
    with np.errstate(all="raise"):
        y = conv.conv2d(big, weight)
        assert np.isinf(y[:, 0].real).all()
        again = conv.conv2d(y[:, :1], np.ones((1, 1, 2, 2), dtype))
        assert not np.isfinite(again).any()
        dy = np.ones_like(y)
        dy[0, 0, 0, 0] = np.inf
        dx, dweight, dbias = conv.conv2d_backward(dy, big, weight, padding=0)
        assert not np.isfinite(dx[0, :, 0, 0]).any()
        assert not np.isfinite(dweight[0]).any()
        assert not np.isfinite(dbias[0])
        bias = np.array([np.inf, -np.inf], dtype)
        assert not np.isfinite(conv.conv2d(y, weight, bias)).any()
        assert not np.isfinite(conv.conv_transpose2d(y, weight)).all()


def test_overflow_of_a_half_precision_gradient_is_silent():
    x, half = np.full((1, 1, 9, 9), 300, "f"), np.ones((1, 1, 9, 9), "e")
    with np.errstate(all="raise"):
        dx, dweight, _ = conv.conv2d_backward(np.full((1, 1, 1, 1), 300, "f"), x, half)
    assert (dx == 300).all()
    assert (dweight == np.inf).all()
    assert dweight.dtype == "e"


# ---------------------------------------------------------------- the same bits

BITS = [
    ((2, 16, 40, 40), (24, 16, 3, 3), 1, 1, 1, 1),
    ((8, 64, 14, 14), (64, 64, 3, 3), 1, 1, 1, 1),
    ((1, 3, 112, 112), (32, 3, 7, 7), 2, 3, 1, 1),
    ((32, 1, 28, 28), (8, 1, 5, 5), 1, 2, 1, 1),
    ((4, 32, 20, 20), (32, 1, 3, 3), 1, 1, 1, 32),
    ((4, 32, 21, 20), (64, 1, 3, 3), 2, 1, 1, 32),
    ((1, 1, 200, 500), (1, 1, 5, 5), 1, 2, 1, 1),
    ((32, 64, 7, 7), (65, 64, 1, 1), 1, 0, 1, 1),
    ((64, 130, 1, 1), (70, 130, 1, 1), 1, 0, 1, 1),
    ((3, 12, 30, 31), (26, 6, 3, 2), (1, 2), (2, 1), (2, 1), 2),
    ((130, 5, 9, 9), (7, 5, 3, 3), 1, 1, 1, 1),
]


def real_arrays(rng, case):
    """Numbers over twenty decades: any other order of a sum shows."""
    dtype = case.types[0]
    shapes = case.y_shape, case.x_shape, case.w_shape, case.channels_out
    return [cases.reals(rng, s, dtype, 10) for s in shapes]


@pytest.mark.parametrize("problem", BITS, ids=str)
@pytest.mark.parametrize("dtype", "fdFD")
def test_same_bits_for_any_number_of_workers(problem, dtype, rng):
    case = big(problem, dtype)
    dy, x, weight, bias = real_arrays(rng, case)
    results = set()
    for workers in (1, 2, 3, 8, None, 2):
        y = conv.conv2d(x, weight, bias, *case.args, workers=workers)
        gradients = conv.conv2d_backward(dy, x, weight, *case.args, workers=workers)
        results.add(tuple(cases.bits(v) for v in (y, *gradients)))
    assert len(results) == 1


@pytest.mark.parametrize("mode", MODES[1:])
@pytest.mark.parametrize("dtype", "fD")
def test_same_bits_of_every_mode(mode, dtype, rng):
    case = big(((6, 9, 33, 40), (14, 9, 5, 3), (1, 2), (3, 4), (2, 1), 1), dtype, mode)
    dy, x, weight, bias = real_arrays(rng, case)
    results = set()
    for workers in (1, 2, 3, 8):
        more = {"padding_mode": mode, "workers": workers}
        y = conv.conv2d(x, weight, bias, *case.args, **more)
        gradients = conv.conv2d_backward(dy, x, weight, *case.args, **more)
        results.add(tuple(cases.bits(v) for v in (y, *gradients)))
    assert len(results) == 1


@pytest.mark.parametrize("dtype", "fdFD")
@pytest.mark.parametrize(("x_shape", "w_shape", "args"), [
    ((4, 16, 14, 14), (16, 20, 3, 3), (2, 1, 1, 1, 1)),
    ((4, 16, 20, 20), (16, 1, 3, 3), (1, 1, 0, 16, 1)),
    ((20, 70, 3, 3), (70, 13, 2, 2), (2, 0, 0, 1, 1)),
])  # fmt: skip
def test_same_bits_of_transposed(x_shape, w_shape, args, dtype, rng):
    case = Case(0, "bits", x_shape, w_shape, args[0], args[1], args[4], args[3], "zeros", args[2],
                (dtype,) * 3, transposed=True)  # fmt: skip
    dy, x, weight, bias = real_arrays(rng, case)
    results = set()
    for workers in (1, 2, 3, 8):
        y = conv.conv_transpose2d(x, weight, bias, *args, workers=workers)
        gradients = conv.conv_transpose2d_backward(dy, x, weight, *args, workers=workers)
        results.add(tuple(cases.bits(v) for v in (y, *gradients)))
    assert len(results) == 1


@pytest.mark.parametrize("layout", conv_cases.LAYOUTS)
@pytest.mark.parametrize("dtype", "fdF")
def test_same_bits_for_any_layout(layout, dtype, rng):
    other = conv_cases.LAYOUTS[layout]
    for problem, mode in (
        (((3, 9, 13, 14), (14, 9, 3, 3), 1, 1, 1, 1), "zeros"),
        (((2, 4, 21, 23), (4, 1, 3, 5), 1, 2, 1, 4), "reflect"),
        (((5, 20, 6, 7), (13, 20, 1, 1), 1, 0, 1, 1), "zeros"),
        (((1, 1, 40, 50), (1, 1, 5, 5), (2, 1), 0, 1, 1), "zeros"),
    ):
        case = big(problem, dtype, mode)
        dy, x, weight, bias = real_arrays(rng, case)
        more = {"padding_mode": mode}
        y = conv.conv2d(x, weight, bias, *case.args, **more)
        gradients = conv.conv2d_backward(dy, x, weight, *case.args, **more)
        dy, x, weight = (other(v) for v in (dy, x, weight))
        strided = np.repeat(bias, 2)[::2]
        for workers in (1, 2):
            again = conv.conv2d(x, weight, strided, *case.args, **more, workers=workers)
            assert cases.bits(again) == cases.bits(y), case
            for n, a in enumerate(
                conv.conv2d_backward(dy, x, weight, *case.args, **more, workers=workers)
            ):
                assert cases.bits(a) == cases.bits(gradients[n]), (conv_cases.NAMES[n + 1], case)


def test_same_bits_of_broadcast_images(rng):
    """Strides of zero: one image for all of a batch, one dy for every pixel."""
    x, weight = cases.reals(rng, (1, 3, 12, 13), "f"), cases.reals(rng, (5, 3, 3, 3), "f")
    every, dy = np.broadcast_to(x, (4, 3, 12, 13)), np.broadcast_to(np.float32(1), (4, 5, 10, 11))
    y = conv.conv2d(every, weight)
    assert cases.bits(y) == cases.bits(conv.conv2d(every.copy(), weight))
    for a, b in zip(
        conv.conv2d_backward(dy, every, weight),
        conv.conv2d_backward(dy.copy(), every.copy(), weight),
        strict=True,
    ):
        assert cases.bits(a) == cases.bits(b)


# ---------------------------------------------------------------- NaN and infinity

REACH = [
    ((2, 2, 5, 7), (3, 2, 2, 3), 1, 0, 1, 1),
    ((1, 1, 6, 21), (1, 1, 3, 3), 1, 0, 1, 1),
    ((1, 1, 9, 40), (1, 1, 3, 5), 1, 2, 1, 1),
    ((3, 4, 7, 7), (26, 2, 3, 3), 1, 1, 1, 2),
    ((2, 5, 9, 18), (12, 5, 3, 2), (2, 3), (1, 0), 1, 1),
    ((2, 3, 11, 12), (4, 3, 2, 3), 1, (2, 1), (3, 2), 1),
    ((4, 7, 5, 5), (14, 7, 1, 1), 1, 0, 1, 1),
    ((3, 6, 8, 9), (6, 1, 3, 3), 1, 1, 1, 6),
    ((3, 6, 8, 9), (6, 1, 3, 3), (2, 1), 1, 1, 6),
    ((1, 50, 4, 5), (3, 50, 3, 3), 1, 1, 1, 1),
    ((1, 1, 3, 420), (2, 1, 2, 2), 1, 0, 1, 1),
]


@pytest.mark.parametrize("problem", REACH, ids=str)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", "fdF")
def test_a_pixel_reaches_what_its_windows_hold(problem, value, dtype, rng):
    """All others are to the bit what they are without it; so too the taps of the weight."""
    x_shape, w_shape, *args = problem
    for mode in MODES if problem is REACH[3] or problem is REACH[5] else ("zeros",):
        case = Case(0, "reach", x_shape, w_shape, *args, mode)
        x, weight, dy = nonzero(rng, x_shape, w_shape, case.y_shape, dtype=dtype)
        at = tuple(int(rng.integers(n)) for n in x_shape)
        more = {"padding_mode": mode}
        y = conv.conv2d(x, weight, None, *args, **more)
        clean = conv.conv2d_backward(dy, x, weight, *args, **more)
        x[at] = value
        spoilt = conv.conv2d(x, weight, None, *args, **more)
        dx, dweight, dbias = conv.conv2d_backward(dy, x, weight, *args, **more)

        mark = np.zeros(x_shape, int)
        mark[at] = 1
        ones, every = np.ones(w_shape, int), np.ones(case.y_shape, int)
        hit = conv_oracle.conv2d(mark, ones, None, *args, mode) > 0
        np.testing.assert_array_equal(~np.isfinite(spoilt), hit, err_msg=f"y of {case} {at}")
        np.testing.assert_array_equal(spoilt[~hit], y[~hit])
        hit = conv_oracle.conv2d_backward(every, mark, ones, *args, mode)[1] > 0
        np.testing.assert_array_equal(~np.isfinite(dweight), hit, err_msg=f"dw of {case} {at}")
        np.testing.assert_array_equal(dweight[~hit], clean[1][~hit])
        np.testing.assert_array_equal(dx, clean[0])
        np.testing.assert_array_equal(dbias, clean[2])


@pytest.mark.parametrize("problem", REACH, ids=str)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", "fdF")
def test_an_output_gradient_reaches_its_window(problem, value, dtype, rng):
    """A NaN in dy: the pixels of one window, the weights and the bias of one channel."""
    x_shape, w_shape, *args = problem
    case = Case(0, "reach", x_shape, w_shape, *args)
    x, weight, dy = nonzero(rng, x_shape, w_shape, case.y_shape, dtype=dtype)
    at = tuple(int(rng.integers(n)) for n in case.y_shape)
    clean = conv.conv2d_backward(dy, x, weight, *args)
    dy[at] = value
    dx, dweight, dbias = conv.conv2d_backward(dy, x, weight, *args)

    mark = np.zeros(case.y_shape, int)
    mark[at] = 1
    hits = conv_oracle.conv2d_backward(mark, np.ones(x_shape, int), np.ones(w_shape, int), *args)
    hit = hits[0] > 0
    np.testing.assert_array_equal(~np.isfinite(dx), hit, err_msg=f"dx of {case} {at}")
    np.testing.assert_array_equal(dx[~hit], clean[0][~hit])
    # A tap that showed only padding to this output may hold 0 * NaN or nothing.
    assert not np.isfinite(dweight[hits[1] > 0]).any()
    others = np.arange(w_shape[0]) != at[1]
    np.testing.assert_array_equal(dweight[others], clean[1][others])
    np.testing.assert_array_equal(np.isfinite(dbias), others)
    np.testing.assert_array_equal(dbias[others], clean[2][others])


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", "fdF")
def test_a_pixel_of_transposed_reaches_its_window(value, dtype, rng):
    for x_shape, w_shape, args in (
        ((2, 3, 5, 6), (3, 4, 3, 2), ((2, 1), (1, 0), (1, 0), 1, (1, 2))),
        ((1, 13, 7, 7), (13, 12, 2, 2), (2, 0, 0, 1, 1)),
        ((2, 4, 5, 17), (4, 1, 3, 3), (1, 1, 0, 4, 1)),
    ):
        x, weight = nonzero(rng, x_shape, w_shape, dtype=dtype)
        y = conv.conv_transpose2d(x, weight, None, *args)
        dy = nonzero(rng, y.shape, dtype=dtype)[0]
        clean = conv.conv_transpose2d_backward(dy, x, weight, *args)
        at = tuple(int(rng.integers(n)) for n in x_shape)
        x[at] = value
        spoilt = conv.conv_transpose2d(x, weight, None, *args)
        mark = np.zeros(x_shape, int)
        mark[at] = 1
        ones = np.ones(w_shape, int)
        hit = conv_oracle.conv_transpose2d(mark, ones, None, *args) > 0
        np.testing.assert_array_equal(~np.isfinite(spoilt), hit)
        np.testing.assert_array_equal(spoilt[~hit], y[~hit])
        dx, dweight, _ = conv.conv_transpose2d_backward(dy, x, weight, *args)
        np.testing.assert_array_equal(dx, clean[0])
        every = np.ones(y.shape, int)
        hit = conv_oracle.conv_transpose2d_backward(every, mark, ones, *args)[1] > 0
        # As above: where the tap fell outside the result there may be 0 * NaN.
        assert not np.isfinite(dweight[hit]).any()
        others = np.arange(w_shape[0]) != at[1]
        np.testing.assert_array_equal(dweight[others], clean[1][others])


@pytest.mark.parametrize("dtype", "fdF")
@pytest.mark.parametrize("width", range(1, 30))
def test_nothing_beside_the_operands_is_touched(dtype, width):
    """NaN all round every operand in larger arrays: none reaches a result."""

    def window(*shape):
        whole = np.full([n + 40 if n > 20 else n + 4 for n in shape], np.nan, dtype)
        inner = whole[tuple(slice(2, 2 + n) for n in shape)]
        inner[...] = 1
        return inner

    for n, (channels, outputs, kernel, groups) in enumerate(
        [(1, 1, (2, 3), 1), (3, 5, (2, 3), 1), (4, 13, (1, 1), 1), (3, 3, (3, 3), 3)]
    ):
        stride, padding = ((1, 1), (2, 1), (1, 2))[(n + width) % 3], (1, 1)
        x = window(2, channels, 4, width + 2)
        weight = window(outputs, channels // groups, *kernel)
        out = conv_oracle.out_size(x.shape[2:], kernel, stride, padding)
        args = stride, padding, 1, groups
        assert np.isfinite(conv.conv2d(x, weight, window(outputs), *args)).all()
        for gradient in conv.conv2d_backward(window(2, outputs, *out), x, weight, *args):
            assert np.isfinite(gradient).all()
        assert np.isfinite(conv.conv_transpose2d(window(2, outputs, *out), weight, None, stride,
                                                 padding, 0, groups)).all()  # fmt: skip


@pytest.mark.parametrize("dtype", "fd")
@pytest.mark.parametrize("workers", [1, 2])
def test_scratch_of_one_call_does_not_reach_the_next(dtype, workers):
    """What NaN leave behind in the kernels' scratch is multiplied by nothing."""
    for seed, problem in enumerate([*REACH, *LAYERS[:3], *LAYERS[9:12]]):
        case = big(problem, dtype)
        case.seed, case.workers = seed, workers
        right = conv_cases.expected(case)
        dy, x, weight, bias = (np.full_like(v, np.nan) for v in case.arrays())
        y = conv.conv2d(x, weight, bias, *case.args, workers=workers)
        assert np.isnan(y).all()
        conv.conv2d_backward(dy, x, weight, *case.args, workers=workers)
        conv_cases.assert_exact(conv_cases.results(case), right, case)


GUARD = """
import sys
import numpy as np
import conv_cases
from fastcorr import conv
from memory import guarded

for number, line in enumerate(sys.stdin):
    dtype, x_shape, w_shape, *args = eval(line)
    case = conv_cases.Case(number, "guard", x_shape, w_shape, *args, types=(dtype,) * 3, bias=True)
    right = conv_cases.expected(case)
    for at_end, flip in ((True, False), (False, False), (True, True), (False, True)):
        arrays = case.arrays()
        if flip:
            arrays = [np.flip(guarded(np.flip(v), at_end)) for v in arrays]
        else:
            arrays = [guarded(v, at_end) for v in arrays]
        got = conv_cases.results(case, arrays)
        conv_cases.assert_exact(got, right, case)
        dy, x, weight, bias = arrays
        out = guarded(np.zeros(case.y_shape, dtype), at_end)
        conv.conv2d(x, weight, bias, *case.args, out=out)
        assert (out == right[0]).all()
        conv.conv_transpose2d(dy, weight, None, case.stride, 0, 0, case.groups, case.dilation)
print("fine")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mprotect as on Linux")
@pytest.mark.parametrize("dtype", "fdFD")
def test_nothing_beyond_the_operands_is_read(dtype):
    """Each operand between two pages that nobody may touch, close to the one or the other, in
    ascending and descending order."""
    problems = [
        (dtype, (2, channels, rows, width), (outputs, channels // groups, *kernel), *args, groups)
        for n, width in enumerate([*range(1, 20), 31, 32, 33, 64, 65])
        for channels, outputs, groups, rows, kernel in (
            (1, 1, 1, 3, (2, 1)), (3, 5, 1, 2, (1, 1)), (4, 13, 1, 1, (1, 1)), (4, 4, 4, 3, (3, 1)),
            (18, 17, 1, 1, (1, 1)), (2, 3, 1, 4, (2, min(width, 3))), (4, 6, 2, 1, (1, width)),
        )
        for args in [((1, 0, 1), (2, 0, 1), (1, 1, 1), ((1, 2), (0, 1), 1))[n % 4]]
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", GUARD],
        input="\n".join(map(repr, problems)),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == "fine", (done.returncode, done.stderr)


# ---------------------------------------------------------------- out


@pytest.mark.parametrize("layout", [n for n in conv_cases.LAYOUTS if n != "read-only"])
@pytest.mark.parametrize("dtype", "fdFD")
def test_out(layout, dtype, rng):
    for x_shape, w_shape, args, more in (
        ((2, 3, 8, 19), (5, 3, 3, 3), (1, 1), {}),
        ((2, 3, 8, 9), (13, 3, 1, 1), (), {}),
        ((3, 9, 20), (3, 3, 2, 2), ((2, 1), "same"), {}),
        ((1, 1, 9, 30), (1, 1, 3, 3), (), {}),
        ((1, 4, 9, 20), (4, 1, 3, 3), (1, 2), {"groups": 4, "padding_mode": "circular"}),
        ((2, 60, 7, 7), (4, 60, 3, 3), (), {}),
    ):
        x, weight, bias = integers(rng, x_shape, w_shape, w_shape[0], dtype=dtype)
        expected = conv.conv2d(x, weight, bias, *args, **more)
        blank = np.full(expected.shape, 55).astype(dtype)
        out = conv_cases.LAYOUTS[layout](blank)
        base = out if out.base is None else out.base
        before = base.copy()
        for workers in (1, 2):
            out[...] = blank
            assert conv.conv2d(x, weight, bias, *args, **more, out=out, workers=workers) is out
            np.testing.assert_array_equal(out, expected)
        out[...] = blank  # nothing but out was written to
        assert base.tobytes() == before.tobytes()


def test_out_errors():
    x, weight = np.ones((2, 3, 5, 6)), np.ones((4, 3, 2, 2))
    right = np.full((2, 4, 4, 5), 7.0)
    for out, error, match in [
        (np.empty((2, 4, 4, 4)), ValueError, r"out must have shape \(2, 4, 4, 5\)"),
        (np.empty((4, 4, 5)), ValueError, "out must have shape"),
        (np.empty((1, 4, 4, 5)), ValueError, "out must have shape"),
        (np.empty((2, 4, 4, 5, 1)), ValueError, "out must have shape"),
        (np.empty((2, 4, 4, 5), int), TypeError, r"\bout\b"),
        (np.empty((2, 4, 4, 5), bool), TypeError, r"\bout\b"),
        (np.empty((2, 4, 4, 5), object), TypeError, r"\bout\b"),
        (np.empty((2, 4, 4, 5), "e"), TypeError, r"\bout\b"),
        (cases.LAYOUTS["read-only"](right), ValueError, "out is read-only"),
        (right.tolist(), TypeError, r"\bout\b.*NumPy array"),
        (5, TypeError, r"\bout\b"),
    ]:
        with pytest.raises(error, match=match):
            conv.conv2d(x, weight, out=out)
    with pytest.raises(TypeError, match=r"\bout\b"):
        conv.conv2d(x + 0j, weight, out=right)
    with pytest.raises(ValueError, match="stride"):
        conv.conv2d(x, weight, stride=0, out=right)
    assert (right == 7).all()


@pytest.mark.parametrize("dtype", "fD")
def test_out_over_an_operand(dtype, rng):
    """As if the operands had been copied first."""
    for groups, channels in ((1, 3), (3, 3), (1, 1)):
        weight = integers(rng, (channels, channels // groups, 3, 3), dtype=dtype)[0]
        whole = integers(rng, (2, channels, 20, 24), dtype=dtype)[0]
        for name, make in {
            "itself": lambda w: (w[..., :9, :10], w[..., :9, :10]),
            "one row down": lambda w: (w[..., :9, :10], w[..., 1:10, :10]),
            "one row up": lambda w: (w[..., 1:10, :10], w[..., :9, :10]),
            "one column right": lambda w: (w[..., :9, :10], w[..., :9, 1:11]),
            "upside down": lambda w: (w[..., :9, :10], w[..., 8::-1, :10]),
            "transposed": lambda w: (w[..., :9, :10], w.swapaxes(2, 3)[..., :9, :10]),
            "other images": lambda w: (w[..., :9, :10], w[::-1, ..., :9, :10]),
        }.items():
            mine = whole.copy()
            x, out = make(mine)
            expected = conv.conv2d(x.copy(), weight, None, 1, 1, 1, groups)
            conv.conv2d(x, weight, None, 1, 1, 1, groups, out=out)
            np.testing.assert_array_equal(out, expected, err_msg=name)
    weight = integers(rng, (4, 4, 3, 3), dtype=dtype)[0]
    x = integers(rng, (4, 4, 3, 3), dtype=dtype)[0]
    expected = conv.conv2d(x, weight.copy(), padding=1)
    conv.conv2d(x, weight, padding=1, out=weight)
    np.testing.assert_array_equal(weight, expected)
    for channels, groups in ((2, 1), (6, 6)):
        bias = integers(rng, (1, 6, 1, 1), dtype=dtype)[0]
        x, weight = integers(rng, (1, channels, 2, 2), (6, channels // groups, 2, 2), dtype=dtype)
        expected = conv.conv2d(x, weight, bias.ravel().copy(), groups=groups)
        conv.conv2d(x, weight, bias.reshape(6), groups=groups, out=bias)
        np.testing.assert_array_equal(bias, expected)


# ---------------------------------------------------------------- special sizes


@pytest.mark.parametrize("dtype", "fd")
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(
    ("size", "k", "stride", "padding", "mode"),
    [
        ((7, 7), 3, 1, 1, "zeros"),
        ((14, 9), 3, 2, 1, "zeros"),
        ((15, 70), 5, 2, (3, 1), "zeros"),
        ((9, 33), 3, (3, 2), 0, "zeros"),
        ((6, 20), 1, 2, 0, "zeros"),  # pixels that no output meets
        ((40, 600), 3, 2, 1, "zeros"),  # blocks of columns
        ((12, 11), 3, 1, 2, "reflect"),
        ((12, 11), 4, 2, 2, "circular"),
    ],
)
def test_channels_that_do_not_mix(size, k, stride, padding, mode, layout, dtype, rng):
    """Every number of lanes that a vector of channels may leave over."""
    for channels in (1, 3, 4, 5, 8, 15, 16, 17, 33):
        x, weight, bias = integers(
            rng, (2, channels, *size), (channels, 1, k, k), (channels,), dtype=dtype
        )
        if layout == "NHWC":
            x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        arguments = stride, padding, 1, channels
        y = conv.conv2d(x, weight, bias, *arguments, padding_mode=mode, workers=1)
        expected = conv_oracle.conv2d(x, weight, bias, *arguments, mode=mode)
        np.testing.assert_array_equal(y, expected)
        dy = integers(rng, y.shape, dtype=dtype)[0]
        if layout == "NHWC":
            dy = np.ascontiguousarray(dy.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        grads = conv.conv2d_backward(dy, x, weight, *arguments, padding_mode=mode, workers=1)
        expected = conv_oracle.conv2d_backward(dy, x, weight, *arguments, mode=mode)
        for grad, exact in zip(grads, expected, strict=True):
            np.testing.assert_array_equal(grad, exact)
        again = conv.conv2d_backward(dy, x, weight, *arguments, padding_mode=mode, workers=3)
        assert [a.tobytes() for a in again] == [a.tobytes() for a in grads]


@pytest.mark.parametrize("dtype", "fd")
@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "every second column"])
@pytest.mark.parametrize(
    ("channels", "filters", "size", "k", "groups"),
    [(5, 7, 9, 3, 1), (3, 14, 40, 1, 1), (100, 13, 6, 3, 1), (1, 2, 1, 1, 1), (4, 4, 11, 3, 4)],
)
def test_rectified_in_the_store(channels, filters, size, k, groups, layout, dtype, rng):
    x = rng.standard_normal((2, channels, size, size)).astype(dtype)
    w = rng.standard_normal((groups, filters // groups, channels // groups, k, k)).astype(dtype)
    bias = rng.standard_normal(filters).astype(dtype)
    x[0, 0, 0, 0] = np.nan
    x[1] = 0  # results of bias alone,
    bias[0], bias[-1] = -0.0, -9  # among them zeros of both signs
    codes = (CODES["fill"],) * 2
    taps = tuple(range(-(k // 2), k - k // 2))

    def result(relu):
        if layout == "NHWC":
            y = np.full((2, size, size, filters), 7, dtype).transpose(0, 3, 1, 2)
        else:
            y = np.full((2, filters, size, 2 * size), 7, dtype)[..., : size * 2 : 2]
            y = y if layout != "NCHW" else np.ascontiguousarray(y)
        _channels.layer(x, w, y, bias, taps, taps, (1, 1), codes, 1, relu=relu)
        return y

    plain, rectified = result(False), result(True)
    assert np.isnan(plain).any()
    assert (plain < 0).any()
    expected = np.where(plain <= 0, np.zeros((), dtype), plain)
    np.testing.assert_array_equal(rectified, expected)
    assert not np.signbit(rectified[~np.isnan(rectified)]).any()


@pytest.mark.parametrize("dtype", "fdFD")
def test_no_images(dtype):
    x, weight, bias = np.ones((0, 3, 5, 6), dtype), np.ones((4, 3, 2, 3), dtype), np.ones(4, dtype)
    y = conv.conv2d(x, weight, bias, padding=1)
    assert y.shape == (0, 4, 6, 6)
    assert y.dtype == dtype
    assert conv.conv2d(x, weight, padding=1, padding_mode="reflect").shape == (0, 4, 6, 6)
    dx, dweight, dbias = conv.conv2d_backward(y, x, weight, padding=1)
    assert dx.shape == x.shape
    np.testing.assert_array_equal(dweight, np.zeros_like(weight), strict=True)
    np.testing.assert_array_equal(dbias, np.zeros_like(bias), strict=True)
    for mode in ("reflect", "replicate", "circular"):
        more = {"padding": (8, 9), "padding_mode": mode}
        y = conv.conv2d(x, weight, **more)
        dx, dweight, _ = conv.conv2d_backward(y, x, weight, **more)
        assert dx.shape == x.shape
        assert not dweight.any()
    y = conv.conv_transpose2d(np.ones((0, 4, 5, 6), dtype), weight, stride=2)
    assert y.shape == (0, 3, 10, 13)
    dx, dweight, dbias = conv.conv_transpose2d_backward(
        y, np.ones((0, 4, 5, 6), dtype), weight, stride=2
    )
    assert dx.shape == (0, 4, 5, 6)
    np.testing.assert_array_equal(dweight, np.zeros_like(weight), strict=True)
    np.testing.assert_array_equal(dbias, np.zeros(3, dtype), strict=True)


@pytest.mark.parametrize("dtype", "fdFD")
def test_bias_gradient_of_unaligned_dy(dtype):
    """NumPy sums what is not aligned through a buffer, in another order."""
    dy = np.random.default_rng(0).standard_normal((2, 1, 120, 120)).astype(dtype)
    x, weight = np.zeros_like(dy), np.zeros((1, 1, 1, 1), dtype)
    unaligned = np.zeros(dy.nbytes + 1, np.uint8)[1:].view(dtype).reshape(dy.shape)
    unaligned[...] = dy
    wanted, got = (conv.conv2d_backward(g, x, weight, needs="bias")[2] for g in (dy, unaligned))
    assert wanted.tobytes() == got.tobytes()


SPECIAL = [
    # As large as the image, and as the padded image.
    ((2, 3, 5, 7), (4, 3, 5, 7), 1, 0, 1, 1),
    ((2, 3, 5, 7), (4, 3, 7, 9), 1, 1, 1, 1),
    ((1, 1, 30, 40), (1, 1, 30, 40), 1, 0, 1, 1),
    ((1, 2, 3, 4), (1, 2, 5, 9), 3, ((2, 0), (0, 5)), 1, 1),
    # The stride beyond the image.
    ((2, 3, 5, 7), (4, 3, 2, 2), 9, 0, 1, 1),
    ((2, 3, 5, 7), (4, 3, 2, 2), 10**6, 1, 1, 1),
    ((2, 3, 5, 7), (4, 1, 1, 1), (10**12, 1), 0, 1, 1),
    # Dilation of one tap is none; and far dilation.
    ((2, 3, 5, 7), (4, 3, 1, 1), 1, 0, 10**6, 1),
    ((2, 3, 5, 7), (4, 3, 1, 2), 1, 0, (10**15, 3), 1),
    ((1, 2, 3, 900), (3, 2, 2, 3), 1, 0, (1, 400), 1),
    ((1, 2, 700, 3), (3, 2, 3, 1), (3, 1), 0, (300, 1), 1),
    ((1, 2, 5, 5), (3, 2, 3, 3), 1, 300, 300, 1),
    ((1, 1, 5, 5), (1, 1, 3, 3), (2, 1), (200, 1), (200, 1), 1),
    ((1, 1, 5, 5), (1, 1, 1, 3), 1, (0, 10**5), (1, 10**5), 1),
    # More padding than the kernel reaches: windows of nothing but zeros.
    ((1, 2, 3, 3), (2, 2, 2, 2), 1, 6, 1, 1),
    ((1, 2, 3, 3), (2, 2, 1, 1), (2, 3), ((5, 0), (0, 7)), 1, 1),
    ((1, 1, 1, 1), (1, 1, 1, 1), 1, 9, 1, 1),
    # One pixel, one row, one column.
    ((1, 1, 1, 1), (1, 1, 1, 1), 1, 0, 1, 1),
    ((3, 5, 1, 1), (7, 5, 3, 3), 1, 1, 1, 1),
    ((2, 3, 1, 50), (4, 3, 1, 3), 1, 0, 1, 1),
    ((2, 3, 50, 1), (4, 3, 3, 1), 1, 0, 1, 1),
]


@pytest.mark.parametrize("problem", SPECIAL, ids=str)
@pytest.mark.parametrize("dtype", "fD")
def test_special_sizes(problem, dtype):
    x_shape, w_shape, *args = problem
    if w_shape[1] * args[-1] != x_shape[1]:
        args[-1] = x_shape[1]
        w_shape = (3, *w_shape[1:])
    case = big((x_shape, w_shape, *args), dtype)
    conv_cases.assert_exact(conv_cases.results(case), conv_cases.expected(case), case)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", "fD")
def test_modes_of_small_images(mode, dtype):
    """As far as PyTorch goes: reflect to n - 1, circular to n, replicate and zeros anywhere."""
    for h, w in itertools.product((1, 2, 3), (1, 2, 5)):
        top = {"reflect": (h - 1, w - 1), "circular": (h, w)}.get(mode, (4, 7))
        for padding in (top, ((top[0], 0), (0, top[1])), ((0, top[0]), (top[1], 0))):
            case = big(((2, 3, h, w), (4, 3, 1, 1), 1, padding, 1, 1), dtype, mode)
            conv_cases.assert_exact(conv_cases.results(case), conv_cases.expected(case), case)


@pytest.mark.parametrize(("mode", "padding"), [
    ("reflect", (3, 0)), ("reflect", (0, 11)), ("circular", (4, 0)), ("circular", (0, 14)),
])  # fmt: skip
def test_modes_beyond_the_image(mode, padding):
    """Where PyTorch gives up: a clear error, or the image continued further."""
    case = big(((1, 2, 3, 4), (2, 2, 2, 2), 1, padding, 1, 1), "d", mode)
    try:
        got = conv_cases.results(case)
    except ValueError:
        with pytest.raises(ValueError, match="padding"):
            conv_cases.results(case)
    else:
        conv_cases.assert_exact(got, conv_cases.expected(case), case)


def test_images_of_no_pixels():
    """Zeros all round are an image, or refused as in PyTorch; nothing else continues nothing."""
    x, weight, bias = np.ones((2, 3, 0, 5)), np.ones((4, 3, 2, 2)), np.arange(4.0)
    for mode in MODES[1:]:
        with pytest.raises(ValueError, match=r"\bx\b"):
            conv.conv2d(x, weight, bias, padding=1, padding_mode=mode)
    try:
        y = conv.conv2d(x, weight, bias, padding=1)
    except ValueError:
        return
    np.testing.assert_array_equal(y, np.broadcast_to(bias[:, None, None], (2, 4, 1, 6)))
    dx, dweight, dbias = conv.conv2d_backward(y, x, weight, padding=1)
    assert dx.shape == x.shape
    assert not dweight.any()
    assert dbias.tolist() == [0, 12, 24, 36]


@pytest.mark.parametrize("place", ["x", "weight", "padding", "stride", "dilation"])
def test_sizes_beyond_memory(place):
    """Results of a million billion elements, and numbers beyond 64 bits: an error, and at once."""
    x, weight, more = np.ones((1, 1, 3, 3), "f"), np.ones((1, 1, 2, 2), "f"), {}
    if place == "x":
        x = np.broadcast_to(x, (2**52, 1, 3, 3))
    elif place == "weight":
        weight = np.broadcast_to(weight, (2**52, 1, 2, 2))
    elif place == "padding":
        more = {"padding": 2**45}
    for huge in [more] if more or place in ("x", "weight") else [{place: 2**64}, {place: 2**200}]:
        try:
            y = conv.conv2d(x, weight, **huge)
        except (MemoryError, ValueError, OverflowError):
            continue
        assert place == "stride"
        assert y.tolist() == [[[[4]]]]


# ---------------------------------------------------------------- types


@pytest.mark.parametrize(("types", "results"), [
    ("ff", "ffff"), ("dd", "dddd"), ("FF", "FFFF"), ("DD", "DDDD"),
    ("fd", "dfdd"), ("df", "ddfd"), ("Bf", "ffff"), ("fb", "ffff"), ("hf", "ffff"), ("?f", "ffff"),
    ("lf", "ddfd"), ("fl", "dfdd"), ("if", "ddfd"), ("Id", "dddd"), ("ef", "feff"), ("de", "dded"),
    ("fF", "FfFF"), ("Ff", "FFfF"), ("dF", "DdFD"), ("Fd", "DFdD"), ("fD", "DfDD"), ("BF", "FfFF"),
    ("lF", "DdFD"), ("FD", "DFDD"), ("D?", "DDdD"), ("eF", "FeFF"),
])  # fmt: skip
@pytest.mark.parametrize("transposed", [False, True])
def test_types(types, results, transposed, rng):
    """Of y, dx, dweight, dbias.  The result by NumPy's rules; a gradient in its operand's type, if
    that is a floating one, as of correlate2d; real for a real operand."""
    forward = conv.conv_transpose2d if transposed else conv.conv2d
    backward = conv.conv_transpose2d_backward if transposed else conv.conv2d_backward
    x = cases.integers(rng, (2, 3, 6, 7), types[0])
    weight = cases.integers(rng, (3, 3, 2, 2), types[1])
    y = forward(x, weight)
    assert y.dtype == results[0] == np.result_type(x, weight)
    right, numbers = None, cases.integers(rng, y.shape, "b")
    for dtype in [results[0], results[0].lower(), "b", *("f" if results[0] in "dD" else "")]:
        gradients = backward(numbers.astype(dtype), x, weight)
        types = "".join(v.dtype.char for v in gradients)
        assert types[:2] == results[1:3], dtype
        assert types[2] == results[3] if dtype == results[0] else types[2] in "fdFD", dtype
        right = gradients if right is None else right
        for a, b in zip(gradients, right, strict=True):
            np.testing.assert_array_equal(a, b)
    for byteorder in "<>":
        swapped = [v.astype(v.dtype.newbyteorder(byteorder)) for v in (x, weight)]
        np.testing.assert_array_equal(forward(*swapped), y, strict=True)


def test_types_of_bias(rng):
    """It takes part in the type of the result, as any operand does."""
    x, weight = integers(rng, (1, 2, 4, 4), (3, 2, 2, 2), dtype="f")
    plain = conv.conv2d(x, weight)
    for bias_type, result in zip("fbedlF", "fffddF", strict=True):
        bias = cases.integers(rng, 3, bias_type)
        y = conv.conv2d(x, weight, bias)
        assert y.dtype == result, bias_type
        np.testing.assert_array_equal(y, plain + bias[:, None, None])
        y = conv.conv_transpose2d(x, weight.swapaxes(0, 1), bias)
        assert y.dtype == result, bias_type


def test_single_gradient_of_double_dy(rng):
    """dy in more digits than its operands: the gradients are rounded once, to the operands'."""
    x, weight = integers(rng, (1, 2, 4, 4), (3, 2, 2, 2), dtype="f")
    dy = cases.integers(rng, (1, 3, 3, 3), "d")
    gradients = conv.conv2d_backward(dy, x, weight)
    assert [v.dtype.char for v in gradients[:2]] == ["f"] * 2
    right = conv_oracle.conv2d_backward(*(conv_oracle.lift(v) for v in (dy, x, weight)))
    for a, b in zip(gradients, right, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("copied", "rows"), [(1 << 17, 1 << 22), (400, 100), (1, 1)])
def test_the_sum_for_the_bias_does_not_depend_on_the_layout(copied, rows, rng, monkeypatch):
    """However many images, channels and rows are copied at a time."""
    monkeypatch.setattr(conv, "_COPIED", copied)
    monkeypatch.setattr(conv, "_ROWS", rows)
    dy = cases.reals(rng, (3, 4, 23, 17), "f", 9)
    dy.flat[::2] = 0
    weight = np.ones((4, 1, 1, 1), "f")
    x = np.ones((3, 1, 23, 17), "f")
    last = dy.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)
    turned = dy.swapaxes(2, 3).copy().swapaxes(2, 3)
    sums = [
        conv.conv2d_backward(v, x, weight, needs=("bias",))[2]
        for v in (dy, np.asfortranarray(dy), last, turned, dy.astype(">f4"))
    ]
    assert len({s.tobytes() for s in sums}) == 1
    right = dy.astype("d").sum(axis=(0, 2, 3))
    np.testing.assert_allclose(sums[0], right, rtol=1e-6, atol=1e-9 * np.abs(dy).max())
    whole = np.arange(dy.size, dtype="f").reshape(dy.shape)
    db = conv.conv2d_backward(whole, x, weight, needs=("bias",))[2]
    np.testing.assert_array_equal(db, whole.sum(axis=(0, 2, 3), dtype="d"))


def test_lists_and_subclasses():
    y = conv.conv2d([[[0.0, 1, 2], [3, 4, 5], [6, 7, 8]]], [[[[0, 1], [2, 3]]]], [1])
    assert y.tolist() == [[[20, 26], [38, 44]]]
    assert y.dtype == np.float64
    gradients = conv.conv2d_backward([[[1.0]]], [[[1.0, 2]]], [[[[3.0, 4]]]])
    assert [v.tolist() for v in gradients] == [[[[3, 4]]], [[[[1, 2]]]], [1]]
    unmasked = np.ma.array(np.ones((1, 3, 3)))
    y = conv.conv2d(unmasked, np.ones((1, 1, 2, 2)))
    assert type(y) is np.ndarray
    assert y.tolist() == [[[4, 4], [4, 4]]]


@pytest.mark.parametrize("transposed", [False, True])
def test_results_are_fresh(transposed):
    """Even where nothing is to be done: a 1x1 kernel of one, an empty sum."""
    forward = conv.conv_transpose2d if transposed else conv.conv2d
    backward = conv.conv_transpose2d_backward if transposed else conv.conv2d_backward
    for shape in ((1, 1, 4, 5), (1, 4, 5), (1, 1, 1, 1)):
        x, weight, bias = np.ones(shape), np.ones((1, 1, 1, 1)), np.zeros(1)
        dy = np.ones(shape)
        for result in (forward(x, weight), forward(x, weight, bias), *backward(dy, x, weight)):
            assert not any(np.may_share_memory(result, v) for v in (dy, x, weight, bias))
            result[...] = 7
        assert (x == 1).all()
        assert (dy == 1).all()
        assert (weight == 1).all()


# ---------------------------------------------------------------- errors

EITHER = (TypeError, ValueError)
ONE = np.ones


def masked(*shape):
    """An array with one masked element."""
    return np.ma.masked_equal(np.arange(float(np.prod(shape))).reshape(shape), 3)


STRANGE = {
    "object": np.ones((2, 4, 6, 7)).astype(object),
    "str": np.full((2, 4, 6, 7), "1"),
    "bytes": np.full((2, 4, 6, 7), b"1"),
    "datetime": np.zeros((2, 4, 6, 7), "M8[s]"),
    "timedelta": np.zeros((2, 4, 6, 7), "m8[s]"),
    "structured": np.zeros((2, 4, 6, 7), [("a", "f4")]),
    "void": np.zeros((2, 4, 6, 7), "V4"),
}

# Of both conv2d and its gradient, or where noted of one of them: the right call is
# conv2d(ones(2, 4, 6, 7), ones(6, 2, 3, 3), groups=2).
ERRORS = [
    *((ValueError, name, {name: v}) for name in ("stride", "dilation")
      for v in (0, -1, (1, 0), (-1, 1), (1, 2, 3), (1,), (), [1, 1, 1])),
    *((TypeError, name, {name: v}) for name in ("stride", "dilation")
      for v in (1.5, 1.0, None, (1.0, 2), np.float64(1), 1j, True, (np.True_, 1))),
    *((EITHER, name, {name: v}) for name in ("stride", "dilation")
      for v in ("a", "1", "12", {}, ((1, 1), (1, 1)), np.ones((2, 2), int))),
    *((ValueError, r"\bpadding\b", {"padding": v}) for v in (
        -1, (0, -1), ((0, 0), (0, -1)), (1, 2, 3), (1,), (), "middle", "SAME", "", "full")),
    *((TypeError, r"\bpadding\b", {"padding": v}) for v in (
        1.5, 0.0, float("nan"), None, (0.0, 1), ((0, 0.5), (0, 0)), 1j, True, (False, 1))),
    *((EITHER, r"\bpadding\b", {"padding": v}) for v in (
        ((1, 1),), ((1, 1), (1, 1), (1, 1)), ((1, 1), (1,)), ((1, 1), (1, 2, 3)), ("same", "valid"),
        (((1, 1),),) * 2,
        b"same", {1, 2}, {})),
    *((ValueError, "groups", {"groups": v}) for v in (0, -1, 3, 4, 8)),
    *((TypeError, "groups", {"groups": v}) for v in (1.5, 2.0, None, (2,), "2", 2j, True)),
    *((ValueError, "padding_mode", {"padding_mode": v}) for v in (
        "constant", "Zeros", "symmetric", "")),
    *((EITHER, "padding_mode", {"padding_mode": v}) for v in (None, 0, [], ("zeros", "zeros"))),
    (ValueError, r"\bx\b", {"x": ONE(7)}),
    (ValueError, r"\bx\b", {"x": ONE((6, 7))}),
    (ValueError, r"\bx\b", {"x": ONE((1, 2, 4, 6, 7))}),
    (ValueError, r"\bx\b", {"x": 1.0}),
    (ValueError, r"\bx\b.*\(2, 0, 6, 7\)|channel", {"x": ONE((2, 0, 6, 7))}),
    (ValueError, "weight|channel", {"x": ONE((2, 0, 6, 7)), "weight": ONE((6, 0, 3, 3))}),
    (ValueError, "weight", {"x": ONE((2, 6, 6, 7))}),
    (ValueError, "weight", {"weight": ONE((6, 4, 3, 3))}),
    (ValueError, "weight", {"weight": ONE((6, 1, 3, 3))}),
    (ValueError, "weight", {"weight": ONE((6, 2, 3))}),
    (ValueError, "weight", {"weight": ONE((3, 3))}),
    (ValueError, "weight", {"weight": ONE((1, 6, 2, 3, 3))}),
    (ValueError, "weight", {"weight": 2.0}),
    (ValueError, "weight", {"weight": ONE((6, 2, 0, 3))}),
    (ValueError, "weight", {"weight": ONE((6, 2, 3, 0)), "padding": 2}),
    (ValueError, "weight", {"weight": ONE((0, 2, 3, 3))}),
    (ValueError, "kernel|weight", {"weight": ONE((6, 2, 7, 3))}),
    (ValueError, "kernel|weight", {"weight": ONE((6, 2, 3, 10)), "padding": 1}),
    (ValueError, "kernel|weight", {"dilation": 3}),
    (ValueError, "kernel|weight", {"dilation": 10**6}),
    (TypeError, r"\bx\b|weight", {"x": ONE((2, 4, 6, 7), "g")}),
    (TypeError, r"\bx\b|weight", {"weight": ONE((6, 2, 3, 3), "G")}),
    *((TypeError, r"\bx\b", {"x": v}) for v in STRANGE.values()),
    *((TypeError, "weight", {"weight": v[:, :2, :3, :3].repeat(3, 0)}) for v in STRANGE.values()),
    (TypeError, r"\bx\b.*masked", {"x": masked(2, 4, 6, 7)}),
    (TypeError, r"weight.*masked", {"weight": masked(6, 2, 3, 3)}),
    (ValueError, "workers", {"workers": 0}),
    (ValueError, "workers", {"workers": -(10**6)}),
    *((TypeError, "workers", {"workers": v}) for v in (1.5, 1.0, True, "2", (1,))),
]  # fmt: skip

FORWARD_ERRORS = [
    (TypeError, r"\bx\b|weight", {"x": ONE((2, 4, 6, 7), int), "weight": ONE((6, 2, 3, 3), int)}),
    (TypeError, r"\bx\b|weight", {"x": ONE((2, 4, 6, 7), "?"), "weight": ONE((6, 2, 3, 3), "B")}),
    (TypeError, r"\bx\b|weight", {"x": ONE((2, 4, 6, 7), "e"), "weight": ONE((6, 2, 3, 3), "e")}),
    *((ValueError, "bias", {"bias": ONE(s)}) for s in (5, 1, 0, (6, 1), (1, 6), ())),
    (TypeError, "bias", {"bias": np.ones(6).astype(object)}),
    (TypeError, "bias", {"bias": np.full(6, "1")}),
    (TypeError, "bias", {"bias": np.zeros(6, "M8[s]")}),
    (TypeError, r"bias.*masked", {"bias": masked(6)}),
    (TypeError, r"out.*masked", {"out": masked(2, 6, 4, 5)}),
    *((ValueError, "method", {"method": v}) for v in ("fast", "AUTO", None, 1)),
]  # fmt: skip

BACKWARD_ERRORS = [
    *((ValueError, r"\bdy\b", {"dy": ONE(s)}) for s in (
        (2, 6, 4, 4), (2, 6, 3, 5), (2, 5, 4, 5), (1, 6, 4, 5), (3, 6, 4, 5), (6, 4, 5),
        (2, 6, 4, 5, 1), (6,), (), (2, 6, 6, 7), (0, 6, 4, 5), (2, 1, 1, 1))),
    (ValueError, r"\bdy\b", {"x": ONE((4, 6, 7))}),
    (TypeError, r"\bdy\b", {"dy": ONE((2, 6, 4, 5)) + 0j}),
    (TypeError, r"\bdy\b", {"dy": np.ones((2, 6, 4, 5)).astype(object)}),
    (TypeError, r"\bdy\b", {"dy": np.full((2, 6, 4, 5), "1")}),
    (TypeError, r"\bdy\b", {"dy": np.zeros((2, 6, 4, 5), "M8[s]")}),
    (TypeError, r"\bdy\b.*masked", {"dy": masked(2, 6, 4, 5)}),
    *((ValueError, "needs", {"needs": v}) for v in (
        ("k",), "dx", ("x", "w"), ["bias", ""], ("X",), "xw", "")),
    *((TypeError, "needs", {"needs": v}) for v in (None, 3, True)),
    *((EITHER, "needs", {"needs": v}) for v in ([["x"]], (1,), (None,))),
]  # fmt: skip


def short(value):
    """A value as the name of a test."""
    if isinstance(value, dict):
        return ",".join(f"{k}={short(v)}" for k, v in value.items())
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}".replace(" ", "")
    return "" if isinstance(value, (type, tuple)) and value in (TypeError, EITHER) else str(value)


def check_error(function, right, error, match, wrong):
    assert function(**right) is not None  # and this is right
    with pytest.raises(error, match=match):
        function(**{**right, **wrong})


def right_call():
    return {"x": np.ones((2, 4, 6, 7)), "weight": np.ones((6, 2, 3, 3)), "groups": 2}


def ids(table):
    return [f"{n}-{short(wrong)}"[:60] for n, (_, _, wrong) in enumerate(table)]


@pytest.mark.parametrize(
    ("error", "match", "wrong"), ERRORS + FORWARD_ERRORS, ids=ids(ERRORS + FORWARD_ERRORS)
)
def test_errors(error, match, wrong):
    check_error(conv.conv2d, right_call(), error, match, wrong)


@pytest.mark.parametrize(
    ("error", "match", "wrong"), ERRORS + BACKWARD_ERRORS, ids=ids(ERRORS + BACKWARD_ERRORS)
)
def test_errors_of_the_gradient(error, match, wrong):
    right = {"dy": np.ones((2, 6, 4, 5)), **right_call()}
    check_error(conv.conv2d_backward, right, error, match, wrong)


# conv_transpose2d(ones(2, 6, 4, 5), ones(6, 2, 3, 3), stride=2, groups=2), and its gradient.
TRANSPOSED_ERRORS = [
    *((ValueError, name, {name: v}) for name in ("stride", "dilation")
      for v in (0, -1, (1, 0), (1, 2, 3), ())),
    *((TypeError, name, {name: v}) for name in ("stride", "dilation") for v in (1.5, None)),
    *((ValueError, r"\bpadding\b", {"padding": v}) for v in (-1, (0, -1), (1, 2, 3))),
    (EITHER, r"\bpadding\b", {"padding": "middle"}),
    *((TypeError, r"\bpadding\b", {"padding": v}) for v in (1.5, None, (0.0, 1))),
    (ValueError, "padding|result|output", {"padding": 5}),
    *((ValueError, "output_padding", {"output_padding": v}) for v in (
        -1, (0, -1), (1, 2, 3), 2, (0, 2), 100)),
    *((TypeError, "output_padding", {"output_padding": v}) for v in (0.5, None)),
    (EITHER, "output_padding", {"output_padding": "same"}),
    *((ValueError, "groups", {"groups": v}) for v in (0, -1, 4, 5)),
    *((TypeError, "groups", {"groups": v}) for v in (1.5, None)),
    (ValueError, r"\bx\b", {"x": ONE((4, 5))}),
    (ValueError, r"\bx\b", {"x": ONE((1, 2, 6, 4, 5))}),
    (ValueError, "weight|channel", {"x": ONE((2, 4, 4, 5))}),
    (ValueError, "weight", {"weight": ONE((4, 2, 3, 3))}),
    (ValueError, "weight", {"weight": ONE((6, 2, 3))}),
    (ValueError, "weight", {"weight": ONE((6, 2, 0, 3))}),
    (ValueError, "weight", {"weight": ONE((6, 0, 3, 3))}),
    (TypeError, r"\bx\b", {"x": np.ones((2, 6, 4, 5)).astype(object)}),
    (TypeError, "weight", {"weight": np.full((6, 2, 3, 3), "1")}),
    (TypeError, r"\bx\b.*masked", {"x": masked(2, 6, 4, 5)}),
    (ValueError, "workers", {"workers": 0}),
    (TypeError, "workers", {"workers": True}),
]  # fmt: skip
TRANSPOSED_FORWARD_ERRORS = [
    (TypeError, r"\bx\b|weight", {"x": ONE((2, 6, 4, 5), int), "weight": ONE((6, 2, 3, 3), int)}),
    *((ValueError, "bias", {"bias": ONE(s)}) for s in (6, 1, (4, 1), ())),
    (TypeError, "bias", {"bias": np.ones(4).astype(object)}),
]
TRANSPOSED_BACKWARD_ERRORS = [
    *((ValueError, r"\bdy\b", {"dy": ONE(s)}) for s in (
        (2, 4, 9, 12), (2, 4, 10, 11), (2, 6, 9, 11), (1, 4, 9, 11), (4, 9, 11), ())),
    (TypeError, r"\bdy\b", {"dy": ONE((2, 4, 9, 11)) + 0j}),
    (ValueError, "needs", {"needs": ("k",)}),
    (TypeError, "needs", {"needs": None}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "match", "wrong"),
    TRANSPOSED_ERRORS + TRANSPOSED_FORWARD_ERRORS,
    ids=ids(TRANSPOSED_ERRORS + TRANSPOSED_FORWARD_ERRORS),
)
def test_errors_of_transposed(error, match, wrong):
    right = {
        "x": np.ones((2, 6, 4, 5)), "weight": np.ones((6, 2, 3, 3)), "stride": 2, "groups": 2,
    }  # fmt: skip
    check_error(conv.conv_transpose2d, right, error, match, wrong)


@pytest.mark.parametrize(
    ("error", "match", "wrong"),
    TRANSPOSED_ERRORS + TRANSPOSED_BACKWARD_ERRORS,
    ids=ids(TRANSPOSED_ERRORS + TRANSPOSED_BACKWARD_ERRORS),
)
def test_errors_of_the_transposed_gradient(error, match, wrong):
    right = {
        "dy": np.ones((2, 4, 9, 11)), "x": np.ones((2, 6, 4, 5)),
        "weight": np.ones((6, 2, 3, 3)), "stride": 2, "groups": 2,
    }  # fmt: skip
    check_error(conv.conv_transpose2d_backward, right, error, match, wrong)


def test_messages_say_what_was_got():
    x, weight = np.ones((2, 4, 6, 7)), np.ones((6, 4, 3, 3))
    for match, more in [
        ("stride.*-3", {"stride": (1, -3)}),
        ("padding.*'middle'", {"padding": "middle"}),
        ("padding.*-2", {"padding": -2}),
        (r"dilation.*0", {"dilation": 0}),
        ("groups.*5", {"groups": 5}),
        ("padding_mode.*'zeros'.*'reflect'.*'replicate'.*'circular'.*'edge'",
         {"padding_mode": "edge"}),
        (r"bias.*\(6,\).*\(5,\)", {"bias": np.ones(5)}),
        ("method.*'magic'", {"method": "magic"}),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=match):
            conv.conv2d(x, weight, **more)
    with pytest.raises(ValueError, match=r"x.*\(6, 7\)"):
        conv.conv2d(x[0, 0], weight)
    with pytest.raises(ValueError, match=r"dy.*\(2, 6, 4, 5\).*\(2, 6, 4, 4\)"):
        conv.conv2d_backward(np.ones((2, 6, 4, 4)), x, weight)
    with pytest.raises(TypeError, match=r"stride.*1\.5"):
        conv.conv2d(x, weight, stride=1.5)
    with pytest.raises(TypeError, match="int64"):
        conv.conv2d(x.astype(int), weight.astype(int))


def test_errors_whatever_was_called_before():
    """1.0 and True equal 1, so plans kept by equal arguments must not let them in."""
    x, weight = np.ones((1, 2, 6, 7)), np.ones((2, 2, 2, 2))
    for wrong in (1.0, np.float64(1), True):
        for name in ("stride", "dilation", "padding"):
            for right, spelled in (((1, 2), (wrong, 2)), ((2, 1), [2, wrong]), (1, wrong)):
                conv.conv2d(x, weight, **{name: right})
                with pytest.raises(TypeError, match=rf"\b{name}\b"):
                    conv.conv2d(x, weight, **{name: spelled})
        conv.conv2d(x, weight, padding=((0, 1), (2, 1)))
        with pytest.raises(TypeError, match=r"\bpadding\b"):
            conv.conv2d(x, weight, padding=((0, wrong), (2, 1)))
        conv.conv2d(x, weight, groups=1)
        with pytest.raises(TypeError, match="groups"):
            conv.conv2d(x, weight, groups=wrong)


def test_integers_of_numpy_are_integers(rng):
    x, weight = integers(rng, (2, 4, 6, 7), (6, 2, 3, 3))
    for kind in (np.int8, np.uint8, np.int32, np.uint64):
        y = conv.conv2d(x, weight, None, kind(2), kind(1), kind(2), kind(2), workers=kind(2))
        np.testing.assert_array_equal(y, conv.conv2d(x, weight, None, 2, 1, 2, 2))
        shape = conv.conv2d_output_shape(x.shape, kind(6), kind(3), kind(2), kind(1), kind(2))
        assert shape == y.shape


@pytest.mark.parametrize("method", ["auto", "direct"])
def test_method(method, rng):
    x, weight = integers(rng, (2, 4, 6, 7), (6, 2, 3, 3))
    y = conv.conv2d(x, weight, groups=2, method=method)
    np.testing.assert_array_equal(y, conv_oracle.conv2d(x, weight, groups=2))


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("problem", [
    ((16, 32, 32), (32, 16, 3, 3), 1, 1, 1, 1), ((3, 64, 64), (16, 3, 5, 5), 2, 2, 1, 1),
    ((64, 20, 20), (32, 64, 1, 1), 1, 0, 1, 1), ((16, 40, 40), (16, 1, 3, 3), 1, 1, 1, 16),
    ((128, 7, 7), (64, 128, 3, 3), 1, 1, 1, 1), ((4, 30, 30), (8, 4, 3, 3), 1, 2, 2, 1),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("layout", ["C", "channels last"])
def test_scratch_does_not_grow_with_the_batch(problem, mode, layout):
    """No padded, copied or unfolded batch: of four times as many images not 2 MB more."""
    image, w_shape, *args = problem

    def most(images):
        case = big(((images, *image), w_shape, *args), "f", mode, layout)
        dy, x, weight, bias = case.arrays()
        more = {"padding_mode": mode, "workers": 1}
        return [
            scratch(lambda: conv.conv2d(x, weight, bias, *case.args, **more)),
            *(
                scratch(
                    lambda n=n: conv.conv2d_backward(dy, x, weight, *case.args, needs=n, **more)
                )
                for n in ("x", "weight", "bias")
            ),
        ]

    few, many = most(16), most(64)
    for name, a, b in zip(conv_cases.NAMES, few, many, strict=True):
        assert b < a + (2 << 20), name
        assert b < 16 << 20, name


PEAK = """
import numpy as np
from fastcorr import conv

def peak():
    with open("/proc/self/status") as file:
        return {l.split(":")[0]: l.split()[1] for l in file if l.startswith("Vm")}

def kilobytes(name):
    return int(peak()[name])

small = np.ones((1, 2, 9, 9), "f")
kernel = np.ones((2, 2, 3, 3), "f")
conv.conv2d_backward(conv.conv2d(small, kernel, padding=1), small, kernel, padding=1)
x = np.ones((8, 64, 112, 112), "f")
weight = np.ones((64, 64, 3, 3), "f")
dy = np.ones_like(x)
before = kilobytes("VmHWM")
y = conv.conv2d(x, weight, padding=1)
print(kilobytes("VmHWM") - before)
del y
before = kilobytes("VmHWM")
conv.conv2d_backward(dy, x, weight, padding=1)
print(kilobytes("VmHWM") - before)
print(x.nbytes // 1024)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no /proc here")
def test_memory_of_a_large_layer():
    """The most that a process of its own ever held: no im2col, which is nine times the input.

    Measured by the system, so also what the kernels allocate.  Threads have scratch of their
    own; 64 MB are for that and for what the allocator keeps.
    """
    done = subprocess.run([sys.executable, "-c", PEAK], env=ENVIRONMENT, capture_output=True,
                          text=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr
    forward, backward, image = (int(v) << 10 for v in done.stdout.split())
    result = image  # as many channels out as in, and dx like x
    assert forward < result + 2 * image + (64 << 20)
    # The peak of the forward pass counts for the backward pass too: only less can be seen.
    assert backward < result + 2 * image + (64 << 20)
    assert forward >= result // 2  # that it was measured at all


# ---------------------------------------------------------------- threads


def test_many_threads_at_once(rng):
    """Calls at the same time, of different shapes and workers, each right to the bit."""
    problems = [big(p, "f") for p in (*FLOATING, LAYERS[4], LAYERS[11])]
    arrays = [real_arrays(rng, case) for case in problems]
    for v in itertools.chain.from_iterable(arrays):
        v.flags.writeable = False

    def call(n, workers):
        case = problems[n]
        dy, x, weight, bias = arrays[n]
        y = conv.conv2d(x, weight, bias, *case.args, workers=workers)
        gradients = conv.conv2d_backward(dy, x, weight, *case.args, workers=workers)
        return [cases.bits(v) for v in (y, *gradients)]

    right = [call(n, 1) for n in range(len(problems))]

    def task(m):
        n = m % len(problems)
        return call(n, m % 3 + 1) == right[n]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(task, range(300)))


@pytest.mark.skipif(cases.NO_GIL, reason="there is no GIL")
@pytest.mark.parametrize("needs", ["forward", "x", "weight"])
def test_gil_is_released(needs):
    """This thread wakes up again and again while another is in one long call.

    With the switch interval that long, only a released GIL lets it."""
    x, weight = np.ones((48, 64, 56, 56), "f"), np.ones((64, 64, 3, 3), "f")
    started, done = threading.Event(), threading.Event()

    def work():
        started.set()
        if needs == "forward":
            conv.conv2d(x, weight, padding=1, workers=1)
        else:
            conv.conv2d_backward(x, x, weight, padding=1, needs=(needs,), workers=1)
        done.set()

    before = sys.getswitchinterval()
    most = 0
    try:
        sys.setswitchinterval(1000)
        for _ in range(50):
            started.clear()
            done.clear()
            thread = threading.Thread(target=work)
            thread.start()
            started.wait()
            count = 0
            while not done.wait(0.0005):
                count += 1
            thread.join()
            most = max(most, count)
            if most > 5:
                break
    finally:
        sys.setswitchinterval(before)
    assert most > 5


# ---------------------------------------------------------------- instruction sets

RUNNABLE = [
    isa
    for isa in fastcorr.show_config("dicts")["isas"]
    if _dispatch._NEEDS.get(isa, 0) <= _cpu.LEVEL
]


@pytest.mark.parametrize("isa", RUNNABLE)
def test_every_instruction_set(isa):
    """600 of the random problems, exact, in an interpreter that has only these kernels."""
    done = subprocess.run(
        [sys.executable, os.path.join(os.path.dirname(__file__), "conv_cases.py")],
        env={**ENVIRONMENT, "FASTCORR_ISA": isa},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{isa}: {done.stderr[-3000:]}"
    assert json.loads(done.stdout) == {"isa": isa, "exact": 600}


@pytest.mark.parametrize("dtype", "fd")
def test_kernels_of_many_taps(dtype, rng):
    """Tasks of few pixels and few channels, so that Ctrl-C need not wait for long."""
    x, weight = rng.integers(0, 2, (1, 8, 189, 189)), rng.integers(0, 2, (16, 8, 150, 150))
    y = fastcorr.conv2d(x.astype(dtype), weight.astype(dtype), workers=1)
    for o, i, j in [(0, 0, 0), (15, 39, 39), *rng.integers(0, y.shape[1:], (8, 3))]:
        assert y[0, o, i, j] == np.sum(x[0, :, i : i + 150, j : j + 150] & weight[o])
    again = fastcorr.conv2d(x.astype(dtype), weight.astype(dtype), workers=3)
    np.testing.assert_array_equal(again, y)
