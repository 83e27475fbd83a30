"""What conv2d and its relatives take beyond PyTorch's arguments: activation, channels_last, method
and rtol."""

from fractions import Fraction

import cases
import conv_cases
import conv_oracle
import numpy as np
import pytest
from conv_cases import Case
from memory import scratch

from fastcorr import (
    conv2d,
    conv2d_backward,
    conv2d_output_shape,
    conv_transpose2d,
    conv_transpose2d_backward,
    correlate2d_vjp,
)


def last(a):
    """The view of (..., C, H, W) with its channels last."""
    return np.moveaxis(a, -3, -1)


def first(a):
    return np.moveaxis(a, -1, -3)


def functions(case):
    if case.transposed:
        return conv_transpose2d, conv_transpose2d_backward
    return conv2d, conv2d_backward


# ---------------------------------------------------------------- channels last

RANDOM = pytest.mark.parametrize(
    ("make", "start"),
    [(conv_cases.conv2d_case, n) for n in range(20_000, 20_500, 100)]
    + [(conv_cases.conv_transpose2d_case, n) for n in range(20_000, 20_200, 100)],
)


@RANDOM
def test_channels_last(make, start):
    """Exact, contiguous, the operands as they were; in the order of images, or as a view of any."""
    for seed in range(start, start + 100):
        case = make(seed)
        dy, x, weight, bias = case.arrays()
        dy, x = last(dy), last(x)
        if seed % 2:
            dy, x = dy.copy(), x.copy()
        before = [v.tobytes() for v in (dy, x, weight)]
        forward, backward = functions(case)
        more = {**case.mode_argument, "workers": case.workers, "channels_last": True}
        y = forward(x, weight, bias, *case.args, **more)
        dx, dweight, dbias = backward(dy, x, weight, *case.args, **more)
        assert [v.tobytes() for v in (dy, x, weight)] == before, case
        for result in (y, dx, dweight, dbias):
            assert type(result) is np.ndarray, case
            assert result.flags.c_contiguous, case
            assert result.flags.writeable, case
            assert result.dtype.isnative, case
        assert y.dtype == case.dtype, case
        conv_cases.assert_exact(
            (first(y), first(dx), dweight, dbias), conv_cases.expected(case), case
        )


# Many channels, few, strides, kernels of one; channels that do not mix, with and without stride.
LAYERS = [
    ((2, 6, 9, 11), (13, 6, 3, 3), 1, 1, 1, 1),
    ((3, 3, 20, 21), (8, 3, 5, 5), 2, 2, 1, 1),
    ((2, 20, 9, 9), (24, 20, 1, 1), 1, 0, 1, 1),
    ((2, 8, 12, 10), (6, 4, 3, 2), 1, (2, 1), 2, 2),
    ((2, 7, 14, 15), (7, 1, 3, 3), 1, 1, 1, 7),
    ((2, 7, 14, 15), (7, 1, 3, 3), 2, 1, 1, 7),
    ((1, 1, 30, 31), (1, 1, 5, 5), 1, 2, 1, 1),
]
layers = pytest.mark.parametrize("problem", LAYERS, ids=str)


@layers
@pytest.mark.parametrize("mode", conv_oracle.MODES)
@pytest.mark.parametrize("dtype", "fdFD")
def test_bits_with_channels_last(problem, mode, dtype, rng):
    """They are those of the same layer with its channels first."""
    x_shape, w_shape, *args = problem
    dy_shape = Case(0, "bits", *problem).y_shape
    x, weight, dy = (cases.reals(rng, s, dtype) for s in (x_shape, w_shape, dy_shape))
    bias = cases.reals(rng, w_shape[0], dtype)
    more = {"padding_mode": mode}
    y = conv2d(x, weight, bias, *args, **more)
    gradients = conv2d_backward(dy, x, weight, *args, **more)
    more["channels_last"] = True
    dy, x = last(dy).copy(), last(x).copy()
    assert conv2d(x, weight, bias, *args, **more).tobytes() == last(y).tobytes()
    got = conv2d_backward(dy, x, weight, *args, **more)
    assert got[0].tobytes() == last(gradients[0]).tobytes()
    assert [v.tobytes() for v in got[1:]] == [v.tobytes() for v in gradients[1:]]
    assert conv2d(x[0], weight, bias, *args, **more).tobytes() == last(y[0]).tobytes()
    dx = conv2d_backward(dy[0], x[0], weight, *args, **more)[0]
    assert dx.tobytes() == last(gradients[0][0]).tobytes()


@RANDOM
def test_adjoint_with_channels_last(make, start):
    """<dy, f(u, w)> = <dx, u> and <dy, f(x, v)> = <dw, v> for other u and v."""

    def product(a, b):
        a, b = conv_oracle.lift(a), conv_oracle.lift(b)
        return int((a.conj() * b).real.sum())

    seen = 0
    for seed in range(start, start + 30):
        case = make(seed)
        dy, x, weight, _ = case.arrays()
        dy, x = last(dy).copy(), last(x).copy()
        rng = np.random.default_rng(seed)
        u, v = (cases.integers(rng, a.shape, a.dtype) for a in (x, weight))
        forward, backward = functions(case)
        more = {**case.mode_argument, "channels_last": True}
        dx, dweight, _ = backward(dy, x, weight, *case.args, **more)
        right = product(dy, forward(u, weight, None, *case.args, **more))
        assert product(dx, u) == right, case
        assert product(dweight, v) == product(dy, forward(x, v, None, *case.args, **more)), case
        seen += right != 0
    assert seen > 25


@layers
@pytest.mark.parametrize("layout", [n for n in conv_cases.LAYOUTS if n != "read-only"])
def test_out_with_channels_last(problem, layout, rng):
    x_shape, w_shape, *args = problem
    x, weight = (cases.integers(rng, s, "f") for s in (x_shape, w_shape))
    expected = last(conv_oracle.conv2d(x, weight, None, *args)).astype("f")
    out = conv_cases.LAYOUTS[layout](np.full(expected.shape, 55, "f"))
    assert conv2d(last(x), weight, None, *args, channels_last=True, out=out) is out
    np.testing.assert_array_equal(out, expected)


def test_out_over_the_image_with_channels_last(rng):
    x, weight = cases.integers(rng, (2, 9, 8, 5), "d"), cases.integers(rng, (5, 5, 3, 3), "d")
    expected = conv2d(x.copy(), weight, padding=1, channels_last=True)
    conv2d(x, weight, padding=1, channels_last=True, out=x)
    np.testing.assert_array_equal(x, expected)


def test_needs_and_lists_with_channels_last(rng):
    x, weight = cases.integers(rng, (6, 5, 4), "d"), cases.integers(rng, (3, 4, 2, 2), "d")
    y = conv2d(x.tolist(), weight.tolist(), channels_last=True)
    np.testing.assert_array_equal(y, conv2d(x, weight, channels_last=np.True_))
    every = conv2d_backward(y, x, weight, channels_last=True)
    for n, name in enumerate(("x", "weight", "bias")):
        got = conv2d_backward(y, x, weight, channels_last=True, needs=name)
        assert [v is None for v in got] == [m != n for m in range(3)]
        np.testing.assert_array_equal(got[n], every[n])


def test_kernels_larger_than_the_image_with_channels_last(rng):
    """Of channels that do not mix, the gradient to the image goes another way there."""
    x, weight = cases.integers(rng, (2, 3, 4, 3), "d"), cases.integers(rng, (3, 1, 5, 5), "d")
    y = conv_transpose2d(x, weight, groups=3, channels_last=True)
    right = conv_oracle.conv_transpose2d(first(x), weight, groups=3)
    np.testing.assert_array_equal(first(y), right)
    assert y.flags.c_contiguous
    dx = conv2d_backward(x, y, weight, groups=3, channels_last=True, needs="x")[0]
    np.testing.assert_array_equal(dx, y)
    assert dx.flags.c_contiguous


def test_no_images_with_channels_last():
    x, weight = np.ones((0, 5, 6, 3)), np.ones((4, 3, 2, 3))
    y = conv2d(x, weight, padding=1, channels_last=True, activation="relu")
    assert y.shape == (0, 6, 6, 4)
    dx, dweight, dbias = conv2d_backward(y, x, weight, padding=1, channels_last=True)
    assert dx.shape == x.shape
    assert not dweight.any()
    assert not dbias.any()
    y = conv_transpose2d(y, weight, stride=2, channels_last=True)
    assert y.shape == (0, 12, 13, 3)


def test_output_shape_with_channels_last():
    for seed in range(300):
        case = conv_cases.conv2d_case(seed)
        args = case.stride, case.padding, case.dilation
        kernel, (*images, channels, rows, cols) = case.w_shape[2:], case.x_shape
        shape = (*images, rows, cols, channels)
        got = conv2d_output_shape(shape, case.channels_out, kernel, *args, channels_last=True)
        assert got == (*case.y_shape[:-3], *case.y_shape[-2:], case.y_shape[-3])
        assert all(type(n) is int for n in got)


@layers
def test_channels_last_are_not_copied(problem):
    """What is allocated beside the results does not grow with the batch."""
    (_, *image), w_shape, *args = problem
    case = Case(0, "memory", (1, *image), w_shape, *args)
    size = 1 << 20  # elements of x

    def most(images):
        x = np.ones((images, *image[1:], image[0]), np.float32)
        dy = np.ones((images, *case.out, w_shape[0]), np.float32)
        weight = np.ones(w_shape, np.float32)
        more = {"channels_last": True, "workers": 1}
        return [
            scratch(call)
            for call in (
                lambda: conv2d(x, weight, None, *args, **more),
                lambda: conv2d_backward(dy, x, weight, *args, needs="x", **more),
                lambda: conv2d_backward(dy, x, weight, *args, needs="weight", **more),
            )
        ]

    images = size // int(np.prod(image))
    for few, many in zip(most(images // 4), most(images), strict=True):
        assert many < few + size  # a quarter of x, which has four bytes an element


# ---------------------------------------------------------------- activation


@pytest.mark.parametrize("start", range(30_000, 30_400, 100))
def test_relu(start):
    """max(y, 0) of what is exact, with channels first and last."""
    cut = 0
    for seed in range(start, start + 100):
        case = conv_cases.conv2d_case(seed)
        _, x, weight, bias = case.arrays()
        if case.dtype.kind == "c":
            continue
        right = conv_oracle.lift(conv_cases.expected(case)[0])
        more = {**case.mode_argument, "workers": case.workers, "activation": "relu"}
        y = conv2d(x, weight, bias, *case.args, **more)
        np.testing.assert_array_equal(y, np.maximum(right, 0), err_msg=str(case))
        assert y.dtype == case.dtype
        assert not np.signbit(y).any()
        y = conv2d(last(x), weight, bias, *case.args, **more, channels_last=True)
        np.testing.assert_array_equal(first(y), np.maximum(right, 0), err_msg=str(case))
        cut += (right < 0).any()
    assert cut > 40


@layers
@pytest.mark.parametrize("dtype", "fd")
def test_relu_changes_no_other_bit(problem, dtype, rng):
    x_shape, w_shape, *args = problem
    x, weight, bias = (cases.reals(rng, s, dtype) for s in (x_shape, w_shape, w_shape[0]))
    for b in (None, bias):
        y = conv2d(x, weight, b, *args)
        assert (y > 0).any()
        assert (y < 0).any()
        expected = np.where(y > 0, y, np.zeros_like(y))
        for workers in (1, 2):
            got = conv2d(x, weight, b, *args, activation="relu", workers=workers)
            assert got.tobytes() == expected.tobytes()
        out = np.full(y.shape, 55, dtype)
        assert conv2d(x, weight, b, *args, activation="relu", out=out) is out
        assert out.tobytes() == expected.tobytes()
        out = np.full((*y.shape[:-1], 2 * y.shape[-1]), 55, dtype)[..., ::2]
        conv2d(x, weight, b, *args, activation="relu", out=out)
        assert out.tobytes() == expected.tobytes()
        assert (out.base[..., 1::2] == 55).all()
        swapped = np.empty(y.shape, np.dtype(dtype).newbyteorder())
        conv2d(x, weight, b, *args, activation="relu", out=swapped)
        np.testing.assert_array_equal(swapped, expected)


@layers
@pytest.mark.parametrize("dtype", "fd")
def test_relu_of_numbers_that_are_not_finite(problem, dtype, rng):
    """NaN stays, as in PyTorch; an infinity does or becomes zero."""
    x_shape, w_shape, *args = problem
    x, weight = (cases.integers(rng, s, dtype) for s in (x_shape, w_shape))
    weight = np.where(weight == 0, 1, weight).astype(dtype)
    for value in (np.nan, np.inf):
        x[tuple(n // 2 for n in x_shape)] = value
        y = conv2d(x, weight, None, *args)
        assert (~np.isfinite(y)).any()
        got = conv2d(x, weight, None, *args, activation="relu")
        np.testing.assert_array_equal(got, np.where(y <= 0, np.zeros_like(y), y))
    assert (y == -np.inf).any()
    if x_shape[1] == 1:
        torch = pytest.importorskip("torch", reason="PyTorch is not installed")
        x[..., 0, 0] = np.nan
        theirs = torch.relu(torch.from_numpy(conv2d(x, weight, None, *args))).numpy()
        np.testing.assert_array_equal(conv2d(x, weight, None, *args, activation="relu"), theirs)


@pytest.mark.parametrize("dtype", "fd")
def test_zeros_of_relu_are_positive(dtype):
    """Also where a product rounds to -0, and where the bias is -0."""
    tiny = np.finfo(dtype).smallest_normal
    for x_shape, w_shape, *args in LAYERS:
        x, weight = np.full(x_shape, tiny), np.full(w_shape, -tiny)
        for bias in (None, np.full(w_shape[0], -0.0, dtype)):
            y = conv2d(x, weight, bias, *args, activation="relu")
            assert y.tobytes() == bytes(y.nbytes)


# ---------------------------------------------------------------- methods

FITTING = [
    ((2, 6, 9, 11), (13, 6, 3, 3), 1, 1, 1, 1),
    ((1, 3, 16, 17), (4, 3, 3, 3), 1, 0, 1, 1),
    ((2, 8, 8, 8), (6, 4, 3, 3), 1, (2, 1), 1, 2),
    ((1, 1, 7, 7), (5, 1, 3, 3), 1, "same", 1, 1),
    ((5, 4, 12), (4, 5, 3, 3), 1, ((0, 2), (1, 3)), 1, 1),
]
METHODS = "auto", "direct", "winograd", "winograd4"
# Errors beside the largest element, in units of rounding: F(4 x 4, 3 x 3) has large numbers on its
# way, the others keep these integers exact.
ERROR = {"auto": 0, "direct": 0, "winograd": 0, "winograd4": 64}


def assert_near(got, right, most, note):
    """Largest error relative to the largest element."""
    for name, a, b in zip(conv_cases.NAMES, got, right, strict=True):
        if most == 0:
            np.testing.assert_array_equal(a, b, err_msg=f"{name} of {note}")
        assert a.shape == b.shape
        assert abs(a - b).max() <= most * abs(b).max(), (name, note)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("problem", FITTING, ids=str)
@pytest.mark.parametrize("dtype", "fdFD")
def test_every_method(method, problem, dtype):
    """Of the layer and its gradients, with channels first and last, and of the transposed."""
    most = ERROR[method] * float(np.finfo(dtype).eps)
    for mode in conv_oracle.MODES:
        case = Case(1, "method", *problem, mode, types=(dtype,) * 3, bias=True)
        dy, x, weight, bias = case.arrays()
        right = conv_cases.expected(case)
        more = {"padding_mode": mode, "method": method}
        for there, back in ((np.asarray, np.asarray), (last, first)):
            more["channels_last"] = there is last
            got = (
                conv2d(there(x), weight, bias, *case.args, **more),
                *conv2d_backward(there(dy), there(x), weight, *case.args, **more),
            )
            assert_near((*map(back, got[:2]), *got[2:]), right, most, case)
    case = Case(
        1, "method", (2, len(weight), 7, 8), problem[1], padding=1, groups=problem[-1],
        types=(dtype,) * 3, transposed=True, bias=True,
    )  # fmt: skip
    dy, x, weight, bias = case.arrays()
    got = (
        conv_transpose2d(x, weight, bias, *case.args, method=method),
        *conv_transpose2d_backward(dy, x, weight, *case.args, method=method),
    )
    assert_near(got, conv_cases.expected(case), most, case)


@pytest.mark.parametrize("rtol", [1e-12, 1e-5, 1e-3, 10, np.float32(1e-4), Fraction(1, 1000)])
@pytest.mark.parametrize("dtype", "fdF")
def test_rtol_is_kept(rtol, dtype, rng):
    """As far as the type can keep it: the direct sum has errors too."""
    shapes = (2, 16, 14, 15), (24, 16, 3, 3), (2, 24, 14, 15)
    x, weight, dy = (cases.reals(rng, shape, dtype) for shape in shapes)
    wide = [v.astype("D" if dtype in "FD" else "d") for v in (x, weight, dy)]
    right = (
        conv_oracle.conv2d(*wide[:2], padding=1),
        *conv_oracle.conv2d_backward(wide[2], *wide[:2], padding=1),
    )
    got = (
        conv2d(x, weight, padding=1, rtol=rtol),
        *conv2d_backward(dy, x, weight, padding=1, rtol=rtol),
    )
    most = max(float(rtol), 16 * float(np.finfo(dtype).eps))
    assert_near(got, right, most, rtol)


@pytest.mark.parametrize("dtype", "fd")
def test_direct_gradients_of_one_channel(dtype, rng):
    """method='direct' keeps from transforms, as in correlate2d."""
    x, k, dy = (rng.random(shape).astype(dtype) for shape in ((96, 100), (31, 33), (66, 68)))
    dx, dk = correlate2d_vjp(dy, x, k, "valid", method="direct")
    got = conv2d_backward(dy[None], x[None], k[None, None], method="direct")
    assert got[0].tobytes() == dx.tobytes()
    assert got[1].tobytes() == dk.tobytes()
    y = conv_transpose2d(dy[None], k[None, None], method="direct")
    assert y.tobytes() == dx.tobytes()


# ---------------------------------------------------------------- errors

X, W = np.ones((2, 4, 6, 7)), np.ones((6, 4, 3, 3))
DEPTHWISE = {"weight": np.ones((4, 1, 3, 3)), "groups": 4}

# Of all four functions.
ERRORS = [
    *((ValueError, "method must be one of .*'winograd4'.* got", {"method": v})
      for v in ("fast", "AUTO", "Winograd", "", None, 1, ("auto",), np.array(["auto", "auto"]))),
    *((TypeError, "rtol must be a number or None, got", {"rtol": v})
      for v in ("1e-3", True, np.True_, 1j, (1e-3,), [], np.ones(1))),
    *((ValueError, "rtol must be positive and finite, got", {"rtol": v})
      for v in (0, 0.0, -1e-3, np.nan, np.inf, -np.inf, 10**400, Fraction(-1, 3))),
    *((TypeError, "channels_last must be True or False, got", {"channels_last": v})
      for v in (1, 0, None, "yes", np.array([True, False]))),
    (ValueError, r"weight", {"channels_last": True}),
    (ValueError, r"\(N, C, H, W\) or \(C, H, W\), got shape \(6, 7\)", {"x": X[0, 0]}),
    (ValueError, r"\(N, H, W, C\) or \(H, W, C\), got shape \(6, 7\)",
     {"x": X[0, 0], "channels_last": True}),
]  # fmt: skip


def ids(table):
    names = (", ".join(f"{k}={np.shape(v) or v}" for k, v in e[-1].items()) for e in table)
    return [f"{n}-{name}"[:60] for n, name in enumerate(names)]


RIGHT = {
    conv2d: {"x": X, "weight": W},
    conv2d_backward: {"dy": np.ones((2, 6, 4, 5)), "x": X, "weight": W},
    conv_transpose2d: {"x": X, "weight": W.swapaxes(0, 1)},
    conv_transpose2d_backward: {
        "dy": np.ones((2, 6, 8, 9)), "x": X, "weight": W.swapaxes(0, 1),
    },
}  # fmt: skip


@pytest.mark.parametrize("function", RIGHT, ids=lambda f: f.__name__)
@pytest.mark.parametrize(("error", "match", "wrong"), ERRORS, ids=ids(ERRORS))
def test_errors(function, error, match, wrong):
    assert function(**RIGHT[function]) is not None
    with pytest.raises(error, match=match):
        function(**{**RIGHT[function], **wrong})


MISFITS = [
    ({"weight": np.ones((6, 4, 3, 5))}, r"got a kernel of 3 x 5, stride \(1, 1\)"),
    ({"weight": np.ones((6, 4, 1, 1))}, "got a kernel of 1 x 1"),
    ({"stride": 2}, r"got a kernel of 3 x 3, stride \(2, 2\)"),
    ({"stride": (1, 2)}, r"stride \(1, 2\)"),
    ({"dilation": (2, 1)}, r"dilation \(2, 1\)"),
    (DEPTHWISE, "dilation .* and a group for each channel"),
    ({"x": X[:, :1], "weight": W[:1, :1]}, "and a group for each channel"),
]


@pytest.mark.parametrize("method", ["winograd", "winograd4"])
@pytest.mark.parametrize(("change", "match"), MISFITS, ids=[str(m) for _, m in MISFITS])
def test_layers_that_winograd_does_not_fit(method, change, match):
    right = {**RIGHT[conv2d], **change}
    y = conv2d(**right)
    match = f"method='{method}' needs a kernel of 3 x 3, stride 1, dilation 1 .* mix, .*{match}"
    with pytest.raises(ValueError, match=match):
        conv2d(**right, method=method)
    with pytest.raises(ValueError, match=match):
        conv2d_backward(y, **right, method=method)
    right["x"] = y
    back = conv_transpose2d(**right)
    with pytest.raises(ValueError, match=match):
        conv_transpose2d(**right, method=method)
    with pytest.raises(ValueError, match=match):
        conv_transpose2d_backward(back, **right, method=method)


@pytest.mark.parametrize(
    "activation", ["RELU", "tanh", "", 0, 1, True, np.maximum, ("relu",), np.array(["relu"] * 2)],
    ids=str,
)  # fmt: skip
def test_unknown_activations(activation):
    with pytest.raises(ValueError, match=r"activation must be None or 'relu', got"):
        conv2d(X, W, activation=activation)


def test_activation_of_complex_numbers():
    for x, weight, dtype in (
        (X + 0j, W, "complex128"),
        (X.astype("f"), W.astype("F"), "complex64"),
    ):
        with pytest.raises(ValueError, match=f"activation='relu' .* order, not {dtype}"):
            conv2d(x, weight, activation="relu")


def test_only_conv2d_has_an_activation():
    for function, right in RIGHT.items():
        if function is not conv2d:
            with pytest.raises(TypeError, match="activation"):
                function(**right, activation="relu")


def test_errors_whatever_was_called_before():
    """True and 1 are equal, and so are plans kept by them."""
    conv2d(X.transpose(0, 2, 3, 1), W, channels_last=True, rtol=1)
    with pytest.raises(TypeError, match="channels_last"):
        conv2d(X.transpose(0, 2, 3, 1), W, channels_last=1, rtol=1)
    with pytest.raises(TypeError, match="rtol"):
        conv2d(X.transpose(0, 2, 3, 1), W, channels_last=True, rtol=True)
    shape = conv2d(X, W, channels_last=False).shape
    assert conv2d(X, W, channels_last=np.False_).shape == shape
    with pytest.raises(TypeError, match="channels_last"):
        conv2d(X, W, channels_last=0)


def test_errors_of_output_shape():
    for error, match, shape, channels_last in [
        (TypeError, "channels_last must be .* got 1", (3, 8, 8), 1),
        (ValueError, r"input_shape must be \(N, H, W, C\) or .* got \(8, 8\)", (8, 8), True),
        (ValueError, "kernel", (3, 8, 8), True),
    ]:
        with pytest.raises(error, match=match):
            conv2d_output_shape(shape, 4, 5, channels_last=channels_last)
    with pytest.raises(TypeError, match="positional"):
        conv2d_output_shape((8, 8, 3), 4, 5, 1, 0, 1, True)


def test_out_errors_with_channels_last():
    out = np.empty((2, 6, 4, 5))
    with pytest.raises(ValueError, match=r"out must have shape \(2, 4, 5, 6\), got \(2, 6, 4, 5\)"):
        conv2d(last(X), W, channels_last=True, out=out)
    with pytest.raises(ValueError, match=r"dy must have the shape .*\(2, 4, 5, 6\), got \(2, 6"):
        conv2d_backward(out, last(X), W, channels_last=True)
