"""Layers, losses, files and training: against PyTorch, against differences, against mischief."""

import contextlib
import copy
import gc
import io
import itertools
import math
import os
import pickle
import signal
import stat
import struct
import subprocess
import sys
import threading
import tracemalloc
import warnings
import weakref
import zipfile
from functools import partial

import cases
import numpy as np
import pytest

from fastcorr import corr2d, nn, optim
from fastcorr.conv import conv2d

FLOATS = "fd"
ALL = "fdFD"


@pytest.fixture(scope="module")
def torch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums of a few numbers
    yield torch
    torch.set_num_threads(threads)


def product(a, b):
    return (np.conj(a) * b).real.sum(dtype=np.float64)


def small(rng, shape, dtype):
    """Integers whose sums of products are exact in single precision."""
    values = rng.integers(-3, 4, shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.integers(-3, 4, shape)
    return values.astype(dtype)


def fill(module, rng):
    for p in module.parameters():
        p.data = small(rng, p.shape, p.dtype)


def image_of(length):
    """A 6 x 8 image with two edges, as in the tour."""
    x = np.ones((6, length))
    x[:, 2 : length - 2] = 0
    return x


# ---------------------------------------------------------------- parameters


@pytest.mark.parametrize("dtype", ALL)
def test_parameter(dtype):
    source = np.array([[1, 2], [3, 4]], dtype)
    p = nn.Parameter(source)
    data, grad = p.data, p.grad
    assert data is not source
    assert data.dtype == grad.dtype == p.dtype == dtype
    assert data.shape == grad.shape == p.shape == (2, 2)
    np.testing.assert_array_equal(data, source)
    np.testing.assert_array_equal(grad, 0)
    p.data = [[5, 6], [7, 8]]
    p.data -= 1
    p.grad = np.ones((2, 2))
    p.grad += 1
    assert p.data is data
    assert p.grad is grad
    np.testing.assert_array_equal(data, [[4, 5], [6, 7]])
    np.testing.assert_array_equal(grad, 2)
    np.testing.assert_array_equal(np.asarray(p), data)
    assert np.array(p) is not data


def test_parameter_errors():
    p = nn.Parameter(np.ones((2, 3), "f"))
    for value, error, match in [
        (np.ones((3, 2)), ValueError, r"data has the shape \(2, 3\), got \(3, 2\)"),
        (1.0, ValueError, "shape"),  # nothing is broadcast
        (np.ones((2, 3), "D"), TypeError, "data is complex128, .*float32"),
        (np.full((2, 3), "a"), TypeError, "data is <U1"),
    ]:
        with pytest.raises(error, match=match):
            p.data = value
        with pytest.raises(error, match=match.replace("data", "grad")):
            p.grad = value
    np.testing.assert_array_equal(p.data, 1)
    for value in (np.ones(3, "e"), np.ones(3, int), np.ones(3, object), "text"):
        with pytest.raises(TypeError, match="dtype must be"):
            nn.Parameter(value)


def test_parameters_are_kept_in_the_machines_byte_order():
    p = nn.Parameter(np.array([1, 2], ">f8"))
    assert p.dtype == np.dtype("d")
    np.testing.assert_array_equal(p.data, [1, 2])


# ---------------------------------------------------------------- against PyTorch


def assert_like_torch(torch, ours, theirs, x, rng, rtol=0):
    """Output and all gradients of a layer and PyTorch's; to the bit, on integers."""
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert p.shape == tuple(q.shape)
        with torch.no_grad():
            q.copy_(torch.from_numpy(p.data))
    tx = torch.from_numpy(x.copy()).requires_grad_()
    before = x.tobytes()
    ty, y = theirs(tx), ours(x)
    assert y.dtype == x.dtype
    compare = partial(np.testing.assert_allclose, rtol=rtol, atol=rtol, strict=True)
    compare(y, ty.detach().numpy(), err_msg=repr(ours))
    dy = small(rng, y.shape, x.dtype)
    ty.backward(torch.from_numpy(dy))
    dx = ours.backward(dy)
    compare(dx, tx.grad.numpy(), err_msg=repr(ours))
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        compare(p.grad, q.grad.numpy(), err_msg=repr(ours))
    assert x.tobytes() == before


def a_pair(rng, low, high):
    a, b = (int(n) for n in rng.integers(low, high, 2))
    return a if rng.random() < 0.4 else (a, b)


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("seed", range(25))
def test_conv2d_is_torchs(torch, dtype, seed):
    rng = np.random.default_rng(seed)
    groups = int(rng.integers(1, 4))
    c, o = (int(rng.integers(1, 4)) * groups for _ in "co")
    kernel, dilation = a_pair(rng, 1, 4), a_pair(rng, 1, 3)
    stride, padding = a_pair(rng, 1, 4), a_pair(rng, 0, 3)
    mode = str(rng.choice(["zeros", "reflect", "replicate", "circular"]))
    if rng.random() < 0.2:
        padding, stride = str(rng.choice(["same", "valid"])), 1
    if padding == "same":
        kernel = 3  # otherwise PyTorch warns
    bias = bool(rng.random() < 0.6)
    arguments = (c, o, kernel, stride, padding, dilation, groups, bias, mode)
    ours = nn.Conv2d(*arguments, dtype=dtype)
    fill(ours, rng)
    theirs = torch.nn.Conv2d(*arguments, dtype=getattr(torch, ours.weight.dtype.name))
    shape = (int(rng.integers(1, 4)), c, int(rng.integers(7, 13)), int(rng.integers(7, 13)))
    shape = shape[int(rng.random() < 0.3) :]
    assert_like_torch(torch, ours, theirs, small(rng, shape, dtype), rng)
    if dtype == "f":
        assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("seed", range(25))
def test_conv_transpose2d_is_torchs(torch, dtype, seed):
    rng = np.random.default_rng(seed)
    groups = int(rng.integers(1, 4))
    c, o = (int(rng.integers(1, 4)) * groups for _ in "co")
    stride, dilation = a_pair(rng, 1, 4), a_pair(rng, 1, 4)
    most = np.maximum(*np.broadcast_arrays(stride, dilation)).min()
    more = a_pair(rng, 0, most) if most > 1 else 0
    bias = bool(rng.random() < 0.6)
    arguments = (c, o, a_pair(rng, 1, 4), stride, a_pair(rng, 0, 2), more, groups, bias, dilation)
    ours = nn.ConvTranspose2d(*arguments, dtype=dtype)
    fill(ours, rng)
    theirs = torch.nn.ConvTranspose2d(*arguments, dtype=getattr(torch, ours.weight.dtype.name))
    shape = (int(rng.integers(1, 4)), c, int(rng.integers(4, 8)), int(rng.integers(4, 8)))
    shape = shape[int(rng.random() < 0.3) :]
    assert_like_torch(torch, ours, theirs, small(rng, shape, dtype), rng)
    if dtype == "f":
        assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [(), (5,), (2, 3), (0,), (2, 1, 3)])
def test_linear_is_torchs(torch, dtype, bias, batch, rng):
    ours = nn.Linear(4, 3, bias, dtype=dtype)
    fill(ours, rng)
    theirs = torch.nn.Linear(4, 3, bias, dtype=getattr(torch, ours.weight.dtype.name))
    assert_like_torch(torch, ours, theirs, small(rng, (*batch, 4), dtype), rng)
    if dtype == "f":
        assert repr(ours) == repr(theirs)


def pool_arguments(rng):
    kernel, dilation = a_pair(rng, 1, 4), a_pair(rng, 1, 3)
    stride = None if rng.random() < 0.3 else a_pair(rng, 1, 4)
    # PyTorch's second check does without the dilation.
    padding = tuple(int(rng.integers(0, k // 2 + 1)) for k in np.broadcast_to(kernel, 2))
    return kernel, stride, padding, dilation, bool(rng.random() < 0.5)


def pool_input(rng, dtype):
    shape = tuple(int(n) for n in rng.integers((1, 1, 6, 6), (3, 3, 14, 14)))
    return small(rng, shape[int(rng.random() < 0.3) :], dtype)  # with ties


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("seed", range(60))
def test_max_pool2d_is_torchs(torch, dtype, seed):
    """Ties too: the first maximum gets the gradient."""
    rng = np.random.default_rng(seed)
    kernel, stride, padding, dilation, ceil = pool_arguments(rng)
    ours = nn.MaxPool2d(kernel, stride, padding, dilation, ceil)
    theirs = torch.nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil)
    assert_like_torch(torch, ours, theirs, pool_input(rng, dtype), rng)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("seed", range(60))
def test_avg_pool2d_is_torchs(torch, dtype, seed):
    rng = np.random.default_rng(seed)
    kernel, stride = a_pair(rng, 1, 5), None if rng.random() < 0.3 else a_pair(rng, 1, 4)
    padding = tuple(int(rng.integers(0, k // 2 + 1)) for k in np.broadcast_to(kernel, 2))
    ceil, count = (bool(rng.random() < 0.5) for _ in "cc")
    ours = nn.AvgPool2d(kernel, stride, padding, ceil, count)
    theirs = torch.nn.AvgPool2d(kernel, stride, padding, ceil, count)
    # Integers are summed exactly; what is left is the rounding of one division.
    rtol = 1e-6 if dtype == "f" else 1e-14
    assert_like_torch(torch, ours, theirs, pool_input(rng, dtype), rng, rtol)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [np.nan, -np.inf, np.inf])
def test_pools_and_relu_with_special_values_are_torchs(torch, dtype, value, rng):
    for ours, theirs in [
        (nn.MaxPool2d(2), torch.nn.MaxPool2d(2)),
        (nn.MaxPool2d(3, 1, 1), torch.nn.MaxPool2d(3, 1, 1)),
        (nn.MaxPool2d(2, 2, 1, 2, True), torch.nn.MaxPool2d(2, 2, 1, 2, ceil_mode=True)),
        (nn.ReLU(), torch.nn.ReLU()),
    ]:
        for share in (0.1, 0.5, 1.0):
            x = small(rng, (2, 3, 6, 7), dtype)
            x[rng.random(x.shape) < share] = value
            x[rng.random(x.shape) < 0.1] = 0
            assert_like_torch(torch, ours, theirs, x, rng)


@pytest.mark.parametrize(
    ("dims", "shape"),
    [((), (2, 3, 4, 5)), ((), (2, 3)), ((0, -1), (2, 3, 4)), ((1, 2), (2, 3, 4, 5)),
     ((-2, -1), (2, 3, 4)), ((0, 0), ()), ((), (0, 3, 4)), ((0, -1), (0, 3))],
)  # fmt: skip
def test_flatten_is_torchs(torch, dims, shape, rng):
    ours, theirs = nn.Flatten(*dims), torch.nn.Flatten(*dims)
    assert_like_torch(torch, ours, theirs, small(rng, shape, "d"), rng)
    assert repr(ours) == repr(theirs)


def test_relu_is_torchs(torch, rng):
    for shape in ((), (0,), (3, 4), (2, 3, 4, 5)):
        assert_like_torch(torch, nn.ReLU(), torch.nn.ReLU(), small(rng, shape, "f"), rng)


def networks(module, **kwargs):
    """The same network of our layers and of PyTorch's."""
    return module.Sequential(
        module.Conv2d(2, 4, 3, 1, 1, **kwargs),
        module.ReLU(),
        module.MaxPool2d(2),
        module.Sequential(module.Conv2d(4, 6, 3, groups=2, bias=False, **kwargs), module.ReLU()),
        module.ConvTranspose2d(6, 2, 2, 2, **kwargs),
        module.AvgPool2d(2),
        module.Flatten(),
        module.Linear(18, 5, **kwargs),
    )


def test_a_network_is_torchs(torch, rng):
    ours, theirs = networks(nn, dtype="d"), networks(torch.nn, dtype=torch.float64)
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict(state)  # tensors and all
    x = rng.standard_normal((3, 2, 10, 10))
    assert_like_torch(torch, ours, theirs, x, rng, rtol=1e-12)
    assert repr(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.ReLU()), nn.Linear(2, 3))) == (
        repr(
            torch.nn.Sequential(
                torch.nn.Conv2d(1, 2, 3),
                torch.nn.Sequential(torch.nn.ReLU()),
                torch.nn.Linear(2, 3),
            )
        )
    )
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in ours.state_dict().items()})


# ---------------------------------------------------------------- first values


@pytest.mark.parametrize("dtype", ALL)
def test_first_values_are_uniform(dtype):
    """Within PyTorch's bounds, near to them, and of their variance, complex ones too."""
    for layer, fan_in in [
        (nn.Conv2d(32, 64, (3, 5), groups=2, dtype=dtype, rng=0), 16 * 15),
        (nn.ConvTranspose2d(32, 64, (3, 5), groups=2, dtype=dtype, rng=0), 32 * 15),
        (nn.Linear(100, 3000, dtype=dtype, rng=0), 100),
    ]:
        for p in (layer.weight, layer.bias):
            assert p.dtype == dtype
            size = p.data.size
            parts = [p.data.real, p.data.imag] if p.dtype.kind == "c" else [p.data]
            bound = 1 / math.sqrt(fan_in * len(parts))
            for part in parts:
                assert bound * (1 - 10 / size) < abs(part).max() <= bound * (1 + 1e-6)
                assert abs(part.mean()) < 3 * bound / math.sqrt(size)
            variance = np.mean(abs(p.data) ** 2)
            assert abs(variance * 3 * fan_in - 1) < 6 / math.sqrt(size)


def test_first_values_have_torchs_bounds(torch):
    for name, arguments in [
        ("Conv2d", (40, 60, 3, 1, 0, 1, 4)),
        ("ConvTranspose2d", (40, 60, 3, 1, 0, 0, 4)),
        ("Linear", (40, 6000)),
    ]:
        ours, theirs = getattr(nn, name)(*arguments, rng=0), getattr(torch.nn, name)(*arguments)
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            np.testing.assert_allclose(abs(p.data).max(), abs(q.detach().numpy()).max(), rtol=0.1)


def test_rng():
    def start(rng, dtype="f"):
        return nn.Conv2d(3, 4, 3, rng=rng, dtype=dtype).weight.data

    np.testing.assert_array_equal(start(5), start(5))
    np.testing.assert_array_equal(start(5), start(np.random.default_rng(5)))
    np.testing.assert_array_equal(start(5), start(5, "d").astype("f"))
    assert (start(5) != start(6)).any()
    assert (start(None) != start(None)).any()
    generator = np.random.default_rng(5)
    assert (start(generator) != start(generator)).any()
    layer = nn.Linear(50, 50, rng=5)
    assert (layer.weight.data[0] != layer.bias.data).any()


# ---------------------------------------------------------------- shapes and types


@pytest.mark.parametrize("make", [nn.Conv2d, nn.ConvTranspose2d])
@pytest.mark.parametrize("bias", [True, False])
def test_a_plain_image(make, bias, rng):
    layer = make(1, 1, (2, 3), bias=bias, dtype="d", rng=0)
    x = cases.reals(rng, (5, 7), "d")
    y = layer(x)
    dy = cases.reals(rng, y.shape, "d")
    dx = layer.backward(dy)
    grads = [p.grad.copy() for p in layer.parameters()]
    assert y.ndim == dx.ndim == 2
    layer.zero_grad()
    np.testing.assert_array_equal(layer(x[None, None])[0, 0], y)
    np.testing.assert_array_equal(layer.backward(dy[None, None])[0, 0], dx)
    for p, grad in zip(layer.parameters(), grads, strict=True):
        np.testing.assert_array_equal(p.grad, grad)
    with pytest.raises(ValueError, match="shape"):
        make(1, 2, 3)(x)
    with pytest.raises(ValueError, match="shape"):
        make(2, 1, 3)(x)


def test_conv2d_takes_all_that_the_function_takes(rng):
    x = small(rng, (2, 3, 7, 9), "d")
    for padding, stride in [(((1, 2), (0, 3)), 1), ("same", 2), ((0, (2, 1)), (1, 2)), ([1, 2], 1)]:
        layer = nn.Conv2d(3, 2, 3, stride, padding, padding_mode="circular", dtype="d", rng=0)
        weight, bias = layer.weight.data, layer.bias.data
        expected = conv2d(x, weight, bias, stride, padding, padding_mode="circular")
        np.testing.assert_array_equal(layer(x), expected)
    assert nn.Conv2d(3, 2, 3, padding=((1, 2), (0, 3))).padding == ((1, 2), (0, 3))
    assert nn.Conv2d(3, 2, 3, padding=(0, (2, 1))).padding == ((0, 0), (2, 1))


def test_conv2d_takes_a_view_of_images_with_their_channels_last(rng):
    images = small(rng, (2, 7, 9, 3), "f")
    layer = nn.Conv2d(3, 2, 3, rng=0)
    y = layer(images.transpose(0, 3, 1, 2))
    expected = conv2d(images, layer.weight.data, layer.bias.data, channels_last=True)
    np.testing.assert_array_equal(y, expected.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("kind", ["Conv2d", "ConvTranspose2d"])
def test_method_and_rtol_are_those_of_forward_and_backward(kind, monkeypatch):
    seen = []
    names = {
        "Conv2d": ("conv2d", "conv2d_backward"),
        "ConvTranspose2d": ("conv_transpose2d", "conv_transpose2d_backward"),
    }[kind]

    def spy(name, function, *args, **kwargs):
        seen.append((name, kwargs["method"], kwargs["rtol"]))
        return function(*args, **kwargs)

    for name in names:
        monkeypatch.setattr(nn, name, partial(spy, name, getattr(nn, name)))
    make = getattr(nn, kind)
    x = np.ones((3, 8, 8))
    for method, rtol in [("auto", None), ("winograd", None), ("winograd4", 1e-3), ("direct", 1)]:
        layer = make(3, 2, 3, method=method, rtol=rtol)
        layer.backward(layer(x))
        assert seen == [(name, method, rtol) for name in names]
        seen.clear()
        twin = pickle.loads(pickle.dumps(layer))
        assert (twin.method, twin.rtol) == (method, rtol)
    assert layer.state_dict().keys() == {"weight", "bias"}
    assert repr(make(3, 2, 3, method="winograd", rtol=0.5)).endswith(", method=winograd, rtol=0.5)")
    assert "method" not in repr(make(3, 2, 3))


def test_pickles_of_layers_without_a_method(rng):
    layer = nn.Conv2d(3, 2, 3, rng=0)
    x, state = small(rng, (3, 5, 5), "f"), layer.__getstate__()
    del state["method"], state["rtol"]
    twin = nn.Conv2d.__new__(nn.Conv2d)
    twin.__dict__.update(state)
    np.testing.assert_array_equal(twin(x), layer(x))
    assert repr(twin) == repr(layer)


def test_what_receptive_fields_are_computed_from():
    for layer, expected in [
        (nn.Conv2d(1, 1, (2, 3), 2, 1, (1, 2)), ((2, 3), (2, 2), (1, 1), (1, 2))),
        (nn.Conv2d(1, 1, 3, padding="same"), ((3, 3), (1, 1), "same", (1, 1))),
        (nn.MaxPool2d(3, 2, 1, 2), ((3, 3), (2, 2), (1, 1), (2, 2))),
        (nn.AvgPool2d((2, 4)), ((2, 4), (2, 4), (0, 0), (1, 1))),
    ]:
        got = tuple(getattr(layer, n) for n in ("kernel_size", "stride", "padding", "dilation"))
        assert got == expected


@pytest.mark.parametrize("dtype", ALL)
def test_inputs_are_converted_to_the_layers_type(dtype, rng):
    for layer, shape in ((nn.Conv2d(2, 3, 3, dtype=dtype), (2, 5, 6)),
                         (nn.ConvTranspose2d(2, 3, 3, dtype=dtype), (2, 5, 6)),
                         (nn.Linear(6, 3, dtype=dtype), (5, 6))):  # fmt: skip
        fill(layer, rng)
        x = small(rng, shape, "b")
        expected = layer(x.astype(dtype))
        for given in "?bBhlefd":
            if given in "?B":
                x = abs(x) % 2
                expected = layer(x.astype(dtype))
            y = layer(x.astype(given))
            assert y.dtype == dtype
            np.testing.assert_array_equal(y, expected)
        y = layer(x.astype(">f4").tolist())
        np.testing.assert_array_equal(y, expected)
        dy = small(rng, y.shape, "b")
        for given in "bdf":
            layer.zero_grad()
            layer(x)
            dx = layer.backward(dy.astype(given))
            assert dx.dtype == dtype
            assert layer.weight.grad.any()


def test_types_that_do_not_fit():
    real = nn.Conv2d(1, 1, 2)
    x = np.ones((1, 3, 3))
    with pytest.raises(TypeError, match="x is complex128, which does not fit into float32"):
        real(x + 0j)
    with pytest.raises(TypeError, match="x is object"):
        real(x.astype(object))
    real(x)
    with pytest.raises(TypeError, match="dy is complex128, which does not fit into float32"):
        real.backward(np.ones((1, 2, 2), "D"))
    assert real.backward(np.ones((1, 2, 2))) is not None  # what it kept is still there
    with pytest.raises(TypeError, match="complex"):
        nn.ReLU()(x + 0j)
    with pytest.raises(TypeError, match="x is complex128, which MaxPool2d does not take"):
        nn.MaxPool2d(2)(x + 0j)
    with pytest.raises(TypeError, match="x is int64, which AvgPool2d does not take"):
        nn.AvgPool2d(2)(x.astype(int))
    for layer in (real, nn.ReLU(), nn.Flatten(), nn.Sequential(real)):
        with pytest.raises(ValueError, match="x must be an array"):
            layer([[1, 2], [3]])
        with pytest.raises(TypeError, match="masked"):
            layer(np.ma.masked_equal(x, 1))


@pytest.mark.parametrize(("name", "value"), [
    ("stride", (0, 0)), ("kernel_size", (0, 0)), ("padding", (-1, -1)), ("padding", 9),
    ("dilation", 0), ("stride", 2**70),
])  # fmt: skip
def test_attributes_of_poolings_are_looked_at_again(name, value):
    for layer in (nn.MaxPool2d(2), nn.AvgPool2d(2)):
        if not hasattr(layer, name):
            continue
        setattr(layer, name, value)
        with pytest.raises(ValueError, match=name):
            layer(np.ones((1, 4, 4)))
        layer.kernel_size, layer.stride, layer.padding, layer.dilation = 3, None, 1, 1
        assert layer(np.ones((1, 4, 4))).shape == (1, 2, 2)


def test_integers_without_weights():
    """Pooling and ReLU of integers; but gradients to integers there are none."""
    x = np.arange(-8, 8, dtype=np.int8).reshape(1, 4, 4)
    y = nn.ReLU()(x)
    assert y.dtype == np.int8
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    layer = nn.MaxPool2d(3, 2, 1)
    y = layer(x)
    assert y.dtype == np.int8
    np.testing.assert_array_equal(y, [[[-3, -1], [5, 7]]])
    with pytest.raises(TypeError, match="dy is float64, which does not fit into int8"):
        layer.backward(np.ones((1, 2, 2)))


def test_average_of_half_floats():
    """Sums of float16 end at 2048, or at 65504."""
    assert (nn.AvgPool2d(64)(np.ones((1, 64, 64), "e")) == 1).all()
    layer = nn.AvgPool2d(2, 1)
    y = layer(np.full((1, 70, 70), 60_000, "e"))
    assert y.dtype == np.float16
    assert (y == 60_000).all()
    layer = nn.AvgPool2d(64, 1)
    layer(np.ones((1, 80, 80), "e"))
    dx = layer.backward(np.ones((1, 17, 17), "e"))
    assert dx.dtype == np.float16
    assert dx[0, 40, 40] == np.float16(17 * 17 / 64**2)


def test_a_refused_backward_keeps_what_was_kept():
    layer = nn.ReLU()
    layer(np.ones((2, 2)))
    with pytest.raises(TypeError, match="needs_input_grad"):
        layer.backward(np.ones((2, 2)), needs_input_grad=np.ones(2))
    assert (layer.backward(np.ones((2, 2))) == 1).all()


def test_complex_average(rng):
    x = small(rng, (1, 4, 6), "D")
    layer = nn.AvgPool2d(2)
    np.testing.assert_array_equal(layer(x), layer(x.real) + 1j * layer(x.imag))


def test_arguments():
    for error, match, make in [
        (ValueError, "in_channels must be at least 1, got 0", lambda: nn.Conv2d(0, 1, 2)),
        (ValueError, "out_channels must be at least 1", lambda: nn.Conv2d(1, -1, 2)),
        (TypeError, "in_channels must be an integer, got 1.0", lambda: nn.Conv2d(1.0, 1, 2)),
        (TypeError, "out_channels must be an integer, got True", lambda: nn.Conv2d(1, True, 2)),
        (ValueError, "in_channels must be divisible by groups: 3 and 2",
         lambda: nn.Conv2d(3, 4, 2, groups=2)),
        (ValueError, "out_channels must be divisible by groups",
         lambda: nn.ConvTranspose2d(4, 3, 2, groups=2)),
        (ValueError, "groups must be at least 1", lambda: nn.Conv2d(4, 3, 2, groups=0)),
        (ValueError, "kernel_size must be at least 1", lambda: nn.Conv2d(1, 1, (2, 0))),
        (ValueError, "kernel_size must be an integer or a pair",
         lambda: nn.Conv2d(1, 1, (2, 2, 2))),
        (TypeError, "kernel_size must be an integer", lambda: nn.Conv2d(1, 1, "33")),
        (TypeError, "kernel_size must be an integer", lambda: nn.Conv2d(1, 1, (3, 2.5))),
        (TypeError, "kernel_size must be an integer", lambda: nn.Conv2d(1, 1, None)),
        (ValueError, "stride must be at least 1", lambda: nn.Conv2d(1, 1, 2, 0)),
        (ValueError, "dilation must be at least 1", lambda: nn.Conv2d(1, 1, 2, dilation=0)),
        (ValueError, "padding must be at least 0, got -1", lambda: nn.Conv2d(1, 1, 2, 1, -1)),
        (ValueError, "padding must be 'same', 'valid'", lambda: nn.Conv2d(1, 1, 2, 1, "half")),
        (ValueError, "padding must be", lambda: nn.Conv2d(1, 1, 2, 1, (1, 1, 1))),
        (ValueError, "padding must be", lambda: nn.Conv2d(1, 1, 2, 1, ((1, 1), (1, 1, 1)))),
        (TypeError, "padding must be", lambda: nn.ConvTranspose2d(1, 1, 2, 1, "same")),
        (ValueError, "padding_mode must be one of",
         lambda: nn.Conv2d(1, 1, 2, padding_mode="constant")),
        (ValueError, "padding_mode must be one of",
         lambda: nn.Conv2d(1, 1, 2, padding_mode=np.array(["zeros", "zeros"]))),
        (ValueError, "output_padding must be smaller",
         lambda: nn.ConvTranspose2d(1, 1, 2, 2, output_padding=2)),
        (ValueError, "method must be one of .* got 'fast'",
         lambda: nn.Conv2d(1, 2, 3, method="fast")),
        (ValueError, "method must be one of .* got None",
         lambda: nn.ConvTranspose2d(1, 2, 3, method=None)),
        (ValueError, "method='winograd' needs a kernel of 3 x 3, .* got a kernel of 5 x 5",
         lambda: nn.Conv2d(1, 2, 5, method="winograd")),
        (ValueError, r"method='winograd4' needs .* stride \(2, 2\)",
         lambda: nn.ConvTranspose2d(1, 2, 3, 2, method="winograd4")),
        (ValueError, "method='winograd' needs .* and a group for each channel",
         lambda: nn.Conv2d(4, 4, 3, groups=4, method="winograd")),
        (ValueError, "rtol must be positive and finite, got 0", lambda: nn.Conv2d(1, 2, 3, rtol=0)),
        (TypeError, "rtol must be a number or None, got '1'",
         lambda: nn.ConvTranspose2d(1, 2, 3, rtol="1")),
        (TypeError, "dtype must be .* got float16", lambda: nn.Conv2d(1, 1, 2, dtype="e")),
        (TypeError, "dtype must be .* got int64", lambda: nn.Linear(1, 1, dtype=np.int64)),
        (TypeError, "dtype must be .* got 'hello'", lambda: nn.Linear(1, 1, dtype="hello")),
        (TypeError, "rng must be .* got 'seed'", lambda: nn.Linear(1, 1, rng="seed")),
        (TypeError, "rng must be .* got True", lambda: nn.Linear(1, 1, rng=True)),
        (TypeError, "rng must be .* got 1.5", lambda: nn.Conv2d(1, 1, 2, rng=1.5)),
        (ValueError, "rng must be .* got -1", lambda: nn.ConvTranspose2d(1, 1, 2, rng=-1)),
        (ValueError, "in_features must be at least 1", lambda: nn.Linear(0, 1)),
        (TypeError, "out_features must be", lambda: nn.Linear(1, 1.5)),
        (ValueError, "padding must be at most half", lambda: nn.MaxPool2d(3, padding=2)),
        (ValueError, "padding must be at most half", lambda: nn.AvgPool2d((4, 1), padding=(2, 1))),
        (ValueError, "stride must be at least 1", lambda: nn.MaxPool2d(2, 0)),
        (ValueError, "kernel_size must be at least 1", lambda: nn.AvgPool2d(0)),
        (ValueError, "dilation must be at least 1", lambda: nn.MaxPool2d(2, dilation=0)),
        (TypeError, "start_dim must be an integer, got 'all'", lambda: nn.Flatten("all")),
        (TypeError, "end_dim must be an integer, got 1.5", lambda: nn.Flatten(end_dim=1.5)),
        (TypeError, "layer 1 is not a Module: 'relu'", lambda: nn.Sequential(nn.ReLU(), "relu")),
        (TypeError, "layer 0 is not a Module", lambda: nn.Sequential([nn.ReLU()])),
        (TypeError, "layer 0 is not a Module", lambda: nn.Sequential(nn.ReLU)),
    ]:  # fmt: skip
        with pytest.raises(error, match=match):
            make()


def test_no_dtype_is_float32():
    """As in PyTorch, and not NumPy's float64."""
    for layer in (
        nn.Conv2d(1, 1, 2, dtype=None),
        nn.ConvTranspose2d(1, 1, 2, dtype=None),
        nn.Linear(1, 1, dtype=None),
    ):
        assert {p.dtype for p in layer.parameters()} == {np.dtype("f")}


def test_calls_that_do_not_fit():
    for match, layer, shape in [
        ("channels|shape", nn.Conv2d(2, 1, 2), (3, 4, 4)),
        ("shape", nn.Conv2d(2, 1, 2), (4,)),
        ("channels|shape", nn.ConvTranspose2d(2, 1, 2), (1, 3, 4, 4)),
        (r"length 3, got the shape \(4, 2\)", nn.Linear(3, 1), (4, 2)),
        ("length 3", nn.Linear(3, 1), ()),
        (r"\(C, H, W\) or \(N, C, H, W\), got \(4, 4\)", nn.MaxPool2d(2), (4, 4)),
        (r"\(C, H, W\)", nn.AvgPool2d(2), (1, 1, 1, 4, 4)),
        ("too small: 1 rows for windows of 2", nn.MaxPool2d(2), (1, 1, 4)),
        ("too small: 2 columns for windows of 3", nn.AvgPool2d(3), (1, 4, 2)),
        ("too small: 2 rows for windows of 5", nn.MaxPool2d(3, dilation=2), (1, 2, 9)),
        (r"Flatten\(start_dim=1, end_dim=-1\) needs .*\(3,\)", nn.Flatten(), (3,)),
        ("needs", nn.Flatten(2, 1), (3, 3, 3)),
        ("needs", nn.Flatten(-4), (3, 3, 3)),
    ]:
        with pytest.raises(ValueError, match=match):
            layer(np.ones(shape))


# ---------------------------------------------------------------- backward


def every_layer(dtype="d"):
    """Each layer with an input it takes, all numbers different and far from kinks."""
    rng = np.random.default_rng(0)
    kinds = {"dtype": dtype, "rng": 1}
    layers = [
        (nn.Conv2d(2, 4, 3, (2, 1), 1, (1, 2), 2, **kinds), (2, 2, 6, 7)),
        (nn.Conv2d(2, 3, (2, 3), padding="same", bias=False, padding_mode="reflect", **kinds),
         (2, 5, 6)),
        (nn.Conv2d(1, 1, 2, padding=((0, 1), (2, 0)), padding_mode="circular", **kinds), (4, 5)),
        (nn.ConvTranspose2d(2, 4, 3, 2, 1, 1, 2, True, (1, 2), **kinds), (2, 2, 4, 3)),
        (nn.ConvTranspose2d(1, 1, (1, 2), bias=False, **kinds), (3, 4)),
        (nn.Linear(3, 2, **kinds), (4, 3)),
        (nn.Linear(3, 2, False, **kinds), (2, 2, 3)),
        (nn.AvgPool2d(3, 2, 1, True, False), (2, 2, 6, 7)),
        (nn.AvgPool2d((2, 3), 1), (1, 4, 5)),
        (nn.Flatten(), (2, 3, 2)),
    ]  # fmt: skip
    if np.dtype(dtype).kind != "c":
        layers += [
            (nn.MaxPool2d(3, 2, 1, ceil_mode=True), (2, 2, 6, 7)),
            (nn.MaxPool2d(2, 1, dilation=2), (1, 5, 5)),
            (nn.ReLU(), (3, 4, 5)),
            (nn.Sequential(nn.Conv2d(2, 4, 3, **kinds), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                           nn.Linear(16, 3, **kinds)), (2, 2, 7, 6)),
        ]  # fmt: skip
    for layer, shape in layers:
        size = math.prod(shape)
        x = (rng.permutation(size).reshape(shape) - size // 2 + 0.5) / 10
        if np.dtype(dtype).kind == "c":
            x = x + 1j * (rng.permutation(size).reshape(shape) - size // 2 + 0.5) / 10
        yield layer, x.astype(dtype)


LAYERS = [pytest.param(*pair, id=f"{n}-{pair[0]!r}"[:40]) for n, pair in enumerate(every_layer())]
COMPLEX = [
    pytest.param(*pair, id=f"{n}-{pair[0]!r}"[:40]) for n, pair in enumerate(every_layer("D"))
]


def differences(f, a):
    """Gradient of a function to an array by central differences; a is put back."""
    h = 1e-5
    gradient = np.zeros_like(a)
    for at in np.ndindex(a.shape):
        value = a[at]
        for unit in (1, 1j) if a.dtype.kind == "c" else (1,):
            a[at] = value + h * unit
            above = f()
            a[at] = value - h * unit
            gradient[at] += unit * (above - f()) / (2 * h)
            a[at] = value
    return gradient


@pytest.mark.parametrize(("layer", "x"), LAYERS + COMPLEX)
def test_gradients_are_those_of_differences(layer, x, rng):
    layer = copy.deepcopy(layer)
    x = x.copy()
    y = layer(x)
    dy = cases.reals(rng, y.shape, y.dtype)

    def f():
        with nn.no_grad():
            return product(dy, layer(x))

    dx = layer.backward(dy)
    for got, array in [(dx, x), *((p.grad, p.data) for p in layer.parameters())]:
        expected = differences(f, array)
        assert got.shape == array.shape
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-8)
        assert expected.any()


@pytest.mark.parametrize("dtype", ALL)
def test_linear_layers_are_adjoint(dtype, rng):
    """<dy, f(x)> = <dx, x>, exactly, for the layers that are linear maps."""
    for layer, shape in [
        (nn.Conv2d(2, 3, 3, 2, 1, bias=False, dtype=dtype), (2, 2, 7, 9)),
        (nn.ConvTranspose2d(2, 3, 3, 2, 1, bias=False, dtype=dtype), (2, 2, 5, 6)),
        (nn.Linear(9, 5, False, dtype=dtype), (4, 9)),
        (nn.AvgPool2d((2, 4), 1), (2, 6, 7)),
        (nn.Flatten(), (2, 6, 7)),
    ]:
        fill(layer, rng)
        x = small(rng, shape, dtype)
        y = layer(x)
        dot = 0
        while dot == 0:  # by chance, now and then, when threads share the generator
            dy = small(rng, y.shape, dtype)
            dot = product(dy, y)
        assert product(layer.backward(dy), x) == dot
        for p in layer.parameters():
            assert product(p.grad, p.data) == dot


@pytest.mark.parametrize(("layer", "x"), LAYERS)
def test_gradients_accumulate(layer, x, rng):
    layer = copy.deepcopy(layer)
    dy = cases.reals(rng, layer(x).shape, "d")
    dx = layer.backward(dy)
    once = [p.grad.copy() for p in layer.parameters()]
    arrays = [p.grad for p in layer.parameters()]
    layer(x)
    np.testing.assert_array_equal(layer.backward(dy), dx)
    for p, grad, array in zip(layer.parameters(), once, arrays, strict=True):
        np.testing.assert_array_equal(p.grad, 2 * grad)
        assert p.grad is array
    layer.zero_grad()
    layer(x)
    assert layer.backward(dy, needs_input_grad=False) is None
    for p, grad in zip(layer.parameters(), once, strict=True):
        np.testing.assert_array_equal(p.grad, grad)


@pytest.mark.parametrize(("layer", "x"), LAYERS)
def test_backward_without_a_call(layer, x):
    layer = copy.deepcopy(layer)
    name = type(layer).__name__
    dy = np.ones(layer(x).shape)
    layer.backward(dy)
    with pytest.raises(RuntimeError, match=f"{name}.backward needs a call"):
        layer.backward(dy)
    layer(x)
    with nn.no_grad():
        layer(x)
    with pytest.raises(RuntimeError, match=f"{name}.backward needs a call"):
        layer.backward(dy)
    with pytest.raises(RuntimeError, match=f"{name}.backward needs a call"):
        copy.deepcopy(layer).backward(dy)


@pytest.mark.parametrize(("layer", "x"), LAYERS)
def test_dy_of_a_wrong_shape(layer, x):
    layer = copy.deepcopy(layer)
    y = layer(x)
    for shape in (y.shape[1:], (1, *y.shape), (*y.shape[:-1], y.shape[-1] + 1), ()):
        with pytest.raises(ValueError, match="dy must have the shape of the output, ") as error:
            layer.backward(np.ones(shape))
        assert str(y.shape) in str(error.value)
        assert str(shape) in str(error.value)
    assert layer.backward(np.ones(y.shape)) is not None  # nothing was lost


def test_not_finite_gradients_reach_only_what_they_concern():
    layer = nn.ReLU()
    layer([-1.0, 1.0, 1.0])
    np.testing.assert_array_equal(layer.backward([np.inf, np.inf, np.nan]), [0, np.inf, np.nan])
    layer = nn.MaxPool2d((1, 2))
    layer([[[1.0, 2.0, 4.0, 3.0]]])
    np.testing.assert_array_equal(layer.backward([[[np.inf, np.nan]]]), [[[0, np.inf, np.nan, 0]]])


def test_relu_keeps_nothing_of_what_it_returns():
    layer = nn.ReLU()
    y = layer([-1.0, 0.0, 2.0, np.nan])
    y -= 5
    np.testing.assert_array_equal(layer.backward([1.0, 1.0, 1.0, 1.0]), [0, 0, 1, 1])


def test_large_windows_have_large_numbers():
    """More taps than a byte can count."""
    x = np.zeros((1, 20, 20))
    x[0, 19, 18] = 1
    layer = nn.MaxPool2d(20)
    layer(x)
    np.testing.assert_array_equal(layer.backward([[[3.0]]]), 3 * x)


def test_parameters_are_freed_of_the_batch_on_the_way_back():
    """In a sequence each layer's memory is freed as soon as its part is done."""
    alive = []

    class Probe(nn.Module):
        def _forward(self, x, keep):
            y = x + 1
            return y, y

        def _backward(self, dy, kept, needs_input_grad):
            alive.append(sum(ref() is not None for ref in refs))
            return dy

    refs = []

    class Watched(Probe):
        def _forward(self, x, keep):
            y, kept = super()._forward(x, keep)
            refs.append(weakref.ref(y))
            return y, kept

    model = nn.Sequential(*(Watched() for _ in range(4)))
    model(np.zeros(3))
    model.backward(np.ones(3))
    assert alive == [4, 3, 2, 1]


# ---------------------------------------------------------------- sequences


class Spy(nn.Module):
    """Passes all on, and notes what it was asked."""

    def __init__(self):
        self.asked = []

    def _forward(self, x, keep):
        return x, None

    def _backward(self, dy, kept, needs_input_grad):
        self.asked.append(needs_input_grad)
        return dy if needs_input_grad else None


def test_sequential_computes_no_gradient_that_nobody_needs():
    spies = [Spy() for _ in range(4)]
    model = nn.Sequential(
        spies[0], nn.Sequential(spies[1]), nn.Linear(2, 2), spies[2], nn.Linear(2, 2), spies[3]
    )
    y = model(np.ones(2))
    assert model.backward(y, needs_input_grad=False) is None
    assert [spy.asked for spy in spies] == [[], [], [True], [True]]
    assert all(p.grad.any() for p in model.parameters())
    model(np.ones(2))
    assert model.backward(y).shape == (2,)
    assert [spy.asked for spy in spies] == [[True], [True], [True] * 2, [True] * 2]
    model = nn.Sequential(Spy())
    model(np.ones(2))
    assert model.backward(np.ones(2), False) is None


class Lazy(nn.Module):
    """Its parameter is made by the first call."""

    def _forward(self, x, keep):
        if not hasattr(self, "w"):
            self.w = nn.Parameter(np.ones(x.shape[-1]))
        return x * self.w.data, x

    def _backward(self, dy, x, needs_input_grad):
        self.w.grad += (dy * x).sum(0)
        return dy * self.w.data


@pytest.mark.parametrize(
    "make_copy", [lambda model: model, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
@pytest.mark.parametrize("needed", [True, False])
def test_sequential_finds_parameters_that_came_late(needed, make_copy, rng):
    x = cases.reals(rng, (2, 3), "d")
    model = make_copy(nn.Sequential(nn.ReLU(), nn.Sequential(Lazy()), nn.Linear(3, 2, rng=0)))
    model(x)
    model.backward(np.ones((2, 2)), needed)
    right = (np.ones((2, 2)) @ model[2].weight.data * np.maximum(x, 0)).sum(0)
    np.testing.assert_allclose(model[1][0].w.grad, right, rtol=1e-6)
    assert [n for n, _ in model.named_parameters()] == ["1.0.w", "2.weight", "2.bias"]


def test_attributes_of_a_sequential_are_its_parameters():
    class Scaled(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(2, 2))
            self.scale = nn.Parameter(3.0)
            self.head = nn.Linear(2, 1, bias=False)

    names = [name for name, _ in Scaled().named_parameters()]
    assert names == ["0.weight", "0.bias", "scale", "head.weight"]


def test_two_parameters_of_one_name(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    setattr(model, "0.weight", nn.Parameter(1.0))
    for call in (
        model.state_dict,
        lambda: model.load_state_dict({"0.weight": 1.0}),
        lambda: model.save(tmp_path / "m.npz"),
        lambda: model.load(tmp_path / "m.npz"),
    ):
        with pytest.raises(ValueError, match=r"two parameters are named '0\.weight'"):
            call()
    assert len(model.parameters()) == 2


def test_sequential_is_a_sequence():
    layers = nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2)
    model = nn.Sequential(*layers)
    assert len(model) == 3
    assert tuple(model) == layers
    assert model[0] is layers[0]
    assert model[-1] is layers[-1]
    assert isinstance(model[1:], nn.Sequential)
    assert tuple(model[1:]) == layers[1:]
    with pytest.raises(IndexError):
        model[3]
    empty = nn.Sequential()
    x = np.ones(3)
    np.testing.assert_array_equal(empty(x), x)
    np.testing.assert_array_equal(empty.backward(2 * x), 2 * x)
    assert repr(empty) == "Sequential()"
    assert empty.parameters() == []
    assert empty.state_dict() == {}


def test_a_layer_twice_in_a_sequence(rng):
    """Weights are shared: one parameter, the gradients of both places."""
    layer = nn.Linear(3, 3, dtype="d", rng=0)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    assert len(model.parameters()) == 2
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    twin = nn.Sequential(copy.deepcopy(layer), nn.ReLU(), copy.deepcopy(layer))
    x, dy = cases.reals(rng, (4, 3), "d"), cases.reals(rng, (4, 3), "d")
    np.testing.assert_array_equal(model(x), twin(x))
    np.testing.assert_array_equal(model.backward(dy), twin.backward(dy))
    for p, q, r in zip(layer.parameters(), twin[0].parameters(), twin[2].parameters(), strict=True):
        np.testing.assert_allclose(p.grad, q.grad + r.grad, rtol=1e-14)


def test_a_layer_of_your_own(rng):
    class Residual(nn.Module):
        def __init__(self, *layers):
            self.body = nn.Sequential(*layers)

        def _forward(self, x, keep):
            y, kept = self.body._forward(x, keep)
            return x + y, kept

        def _backward(self, dy, kept, needs_input_grad):
            dx = self.body._backward(dy, kept, needs_input_grad)
            return dy + dx if needs_input_grad else None

    model = nn.Sequential(Residual(nn.Linear(3, 3, dtype="d"), nn.ReLU()), nn.Flatten(0))
    assert [name for name, _ in model.named_parameters()] == ["0.body.0.weight", "0.body.0.bias"]
    x, dy = cases.reals(rng, (2, 3), "d"), cases.reals(rng, 6, "d")
    model(x)
    dx = model.backward(dy)
    expected = differences(lambda: product(dy, model(x)), x)
    np.testing.assert_allclose(dx, expected, rtol=1e-6)
    bare = nn.Module()
    with pytest.raises(NotImplementedError, match="Module has no _forward"):
        bare([1.0])


# ---------------------------------------------------------------- no_grad, copies


@pytest.mark.parametrize(("layer", "x"), LAYERS)
def test_no_grad_keeps_nothing(layer, x):
    layer = copy.deepcopy(layer)
    expected = layer(x)
    x = x.copy()
    ref = weakref.ref(x)
    with nn.no_grad():
        y = layer(x)
    np.testing.assert_array_equal(y, expected)
    if np.shares_memory(x, y):  # Flatten's output is a view
        del y
    del x
    gc.collect()
    assert ref() is None


def test_calls_are_kept_otherwise():
    """The test above can fail."""
    layer = nn.Conv2d(1, 1, 2)
    x = np.ones((1, 3, 3), "f")
    ref = weakref.ref(x)
    layer(x)
    del x
    gc.collect()
    assert ref() is not None
    layer.backward(np.ones((1, 2, 2)))
    gc.collect()
    assert ref() is None


def test_no_grad_ends_with_its_block():
    layer = nn.ReLU()
    with nn.no_grad(), nn.no_grad():
        pass
    layer([1.0])
    layer.backward([1.0])
    with contextlib.suppress(ZeroDivisionError), nn.no_grad():
        raise ZeroDivisionError
    layer([1.0])
    layer.backward([1.0])

    @nn.no_grad()
    def infer():
        return layer([1.0])

    for _ in range(2):
        infer()
        with pytest.raises(RuntimeError, match="no_grad"):
            layer.backward([1.0])


def test_no_grad_is_for_one_thread():
    inside, done = threading.Event(), threading.Event()

    def infer():
        with nn.no_grad():
            inside.set()
            done.wait(10)

    thread = threading.Thread(target=infer)
    thread.start()
    assert inside.wait(10)
    layer = nn.ReLU()
    layer([1.0])
    layer.backward([1.0])
    done.set()
    thread.join()


@pytest.mark.parametrize("make", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(make, rng):
    model = networks(nn, rng=0)
    x = rng.standard_normal((1, 2, 10, 10)).astype("f")
    model(x)
    model(np.zeros((200, 2, 10, 10)))
    assert len(pickle.dumps(model)) < 20_000  # no activations
    twin = make(model)
    with pytest.raises(RuntimeError, match="backward needs a call"):
        twin.backward(np.ones((200, 5)))
    assert repr(twin) == repr(model)
    np.testing.assert_array_equal(twin(x), model(x))
    for p, q in zip(twin.parameters(), model.parameters(), strict=True):
        assert not np.shares_memory(p.data, q.data)
        p.data += 1
    assert (twin(x) != model(x)).any()


def test_state_dict_is_a_copy(rng):
    model = networks(nn, rng=0)
    state = model.state_dict()
    before = [p.data.copy() for p in model.parameters()]
    for array in state.values():
        array += 1
    for p, array in zip(model.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.data, array)
    model.load_state_dict(state)
    for p, array in zip(model.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.data, array + 1)
        assert not any(np.shares_memory(p.data, a) for a in state.values())


def test_load_state_dict_is_all_or_nothing():
    model = nn.Sequential(nn.Linear(2, 3, rng=0), nn.Linear(3, 1, rng=1))
    before = model.state_dict()
    good = {name: a + 1 for name, a in before.items()}
    for change, error, match in [
        ({"1.bias": None}, ValueError, "'1.bias' are missing"),
        ({"2.bias": np.ones(1)}, ValueError, "'2.bias' belong to no parameter"),
        ({"more": 1, 3: 1}, ValueError, "3, 'more' belong to no parameter"),
        ({"1.weight": [[1, 2], [3]]}, ValueError, "1.weight must be an array"),
        ({"1.weight": np.ones((3, 1))}, ValueError, r"1.weight must .* \(1, 3\), got \(3, 1\)"),
        ({"1.weight": np.ones((1, 3), "D")}, TypeError, "1.weight is complex128"),
        ({"1.weight": np.full((1, 3), None)}, TypeError, "1.weight is object"),
    ]:
        state = {k: v for k, v in (good | change).items() if v is not None}
        with pytest.raises(error, match=match):
            model.load_state_dict(state)
        for name, array in model.state_dict().items():
            np.testing.assert_array_equal(array, before[name])
    model[1].bias.data.flags.writeable = False
    with pytest.raises(ValueError, match=r"1\.bias is read-only"):
        model.load_state_dict(good)
    model[1].bias.data.flags.writeable = True
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    for state in (None, 5, list(good)):
        with pytest.raises(TypeError, match="state must be a dict"):
            model.load_state_dict(state)
    model.load_state_dict({name: a.tolist() for name, a in good.items()})
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, good[name])


# ---------------------------------------------------------------- losses


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 4), (2, 3, 4, 5), (0, 3)])
def test_mse_loss_is_torchs(torch, dtype, reduction, shape, rng):
    y, t = small(rng, shape, dtype), small(rng, shape, dtype)
    ty = torch.from_numpy(y).requires_grad_()
    expected = torch.nn.functional.mse_loss(ty, torch.from_numpy(t), reduction=reduction)
    expected.backward()
    loss, dy = nn.mse_loss(y, t, reduction)
    assert type(loss) is float
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-6 if dtype == "f" else 1e-14)
    np.testing.assert_allclose(dy, ty.grad.numpy(), rtol=1e-6, strict=True)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shape", [(3,), (1, 3), (6, 4), (5, 1), (0, 3)])
@pytest.mark.parametrize("kind", ["labels", "bytes", "probabilities"])
def test_cross_entropy_is_torchs(torch, dtype, reduction, shape, kind, rng):
    x = (30 * rng.standard_normal(shape)).astype(dtype)
    tx = torch.from_numpy(x).requires_grad_()
    if kind == "probabilities":
        t = rng.random(shape).astype(dtype)
    else:
        t = np.array(rng.integers(0, shape[-1], shape[:-1]), "l" if kind == "labels" else "B")
    expected = torch.nn.functional.cross_entropy(tx, torch.from_numpy(t), reduction=reduction)
    expected.backward()
    loss, dx = nn.cross_entropy(x, t, reduction)
    assert type(loss) is float
    tight = 2e-6 if dtype == "f" else 1e-14
    np.testing.assert_allclose(loss, expected.item(), rtol=tight, atol=tight)
    np.testing.assert_allclose(dx, tx.grad.numpy(), rtol=tight, atol=tight, strict=True)


def test_cross_entropy_is_stable():
    for big in (1e4, 1e30):
        loss, dx = nn.cross_entropy(np.array([[big, 0], [0, big]], "f"), [0, 0])
        assert loss == np.float32(big) / 2
        np.testing.assert_array_equal(dx, [[0, 0], [-0.5, 0.5]])
    # A class that is impossible, rightly and wrongly.
    assert nn.cross_entropy([[0.0, -np.inf]], [0])[0] == 0
    assert nn.cross_entropy([[0.0, -np.inf]], [1])[0] == np.inf


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradients_of_losses_are_those_of_differences(reduction, rng):
    for loss, dtype, shape, target in [
        (nn.mse_loss, "d", (3, 4), cases.reals(rng, (3, 4), "d")),
        (nn.mse_loss, "D", (3, 4), cases.reals(rng, (3, 4), "D")),
        (nn.cross_entropy, "d", (3, 4), np.array([0, 3, 1])),
        (nn.cross_entropy, "d", (4,), np.array(2)),
        (nn.cross_entropy, "d", (3, 4), rng.random((3, 4))),
    ]:
        y = cases.reals(rng, shape, dtype)
        got = loss(y, target, reduction)[1]
        expected = differences(lambda: loss(y, target, reduction)[0], y)  # noqa: B023
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-9)


def test_losses_leave_their_inputs_and_take_lists(rng):
    y, t = cases.reals(rng, (3, 4), "d"), cases.reals(rng, (3, 4), "d")
    labels = np.array([0, 1, 3])
    before = [a.tobytes() for a in (y, t, labels)]
    for loss, target in ((nn.mse_loss, t), (nn.cross_entropy, t), (nn.cross_entropy, labels)):
        value, dy = loss(y, target)
        again, same = loss(y.tolist(), target.tolist())
        assert value == again
        np.testing.assert_array_equal(dy, same)
        assert dy.base is None or not np.shares_memory(dy, y)
    assert [a.tobytes() for a in (y, t, labels)] == before
    assert nn.mse_loss(np.array([1, 2], "b"), [1, 4])[0] == 2
    assert nn.mse_loss(np.ones(2, "f"), np.zeros(2))[1].dtype == np.float32
    assert nn.mse_loss(np.ones(2, ">f4"), np.zeros(2))[1].dtype == np.dtype("f")
    assert nn.cross_entropy(np.ones(2, "e"), 1)[1].dtype == np.float32


def test_loss_errors():
    x = np.ones((3, 4))
    for error, match, loss, args in [
        (ValueError, r"\(3, 4\), got \(4,\): nothing is broadcast", nn.mse_loss, (x, x[0])),
        (TypeError, "target is complex128", nn.mse_loss, (x, x + 0j)),
        (TypeError, "y is object", nn.mse_loss, (x.astype(object), x)),
        (TypeError, "masked", nn.mse_loss, (x, np.ma.masked_equal(x, 1))),
        (ValueError, "reduction must be 'mean' or 'sum', got 'none'", nn.mse_loss, (x, x, "none")),
        (ValueError, "reduction", nn.cross_entropy, (x, [0, 1, 2], None)),
        (ValueError, "reduction must be", nn.mse_loss, (x, x, np.array(["mean", "sum"]))),
        (ValueError, r"from 0 to 3, got 4 for sample 1", nn.cross_entropy, (x, [0, 4, 5])),
        (ValueError, r"from 0 to 3, got -1 for sample 2", nn.cross_entropy, (x, [0, 1, -1])),
        (ValueError, r"from 0 to 3, got 7$", nn.cross_entropy, (x[0], 7)),
        (ValueError, r"\(3,\) for logits of shape \(3, 4\), got \(2,\)",
         nn.cross_entropy, (x, [0, 1])),
        (ValueError, "class labels must have the shape", nn.cross_entropy, (x, x.astype(int))),
        (TypeError, "labels must be integers, got float64", nn.cross_entropy, (x, [0.0, 1, 2])),
        (TypeError, "labels must be integers, got bool", nn.cross_entropy, (x, np.ones(3, bool))),
        (ValueError, r"\(3,\) \(classes\) or \(3, 4\)", nn.cross_entropy, (x, x[:, :2])),
        (ValueError, r"\(N, C\) or \(C,\), got \(\)", nn.cross_entropy, (1.0, 0)),
        (ValueError, r"\(N, C\)", nn.cross_entropy, (x[:, :0], [0, 0, 0])),
        (ValueError, r"\(N, C\)", nn.cross_entropy, (x[None], [[0, 0, 0]])),
        (TypeError, "logits is complex128", nn.cross_entropy, (x + 0j, [0, 1, 2])),
        (TypeError, "target is complex128", nn.cross_entropy, (x, x + 0j)),
    ]:  # fmt: skip
        with pytest.raises(error, match=match):
            loss(*args)


# ---------------------------------------------------------------- files

SUFFIXES = [".npz", ".safetensors"]


@pytest.fixture(params=SUFFIXES)
def suffix(request):
    if request.param == ".safetensors":
        pytest.importorskip("safetensors", reason="safetensors is not installed")
    return request.param


def model_of(rng=0, dtype="f"):
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, dtype=dtype, rng=rng), nn.ReLU(), nn.Linear(4, 5, dtype=dtype, rng=rng)
    )


def assert_same(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert list(a) == list(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], strict=True)


@pytest.mark.parametrize("dtype", ALL)
def test_save_and_load(suffix, dtype, tmp_path):
    path = tmp_path / f"model.of.mine{suffix}"
    a, b = model_of(0, dtype), model_of(1, dtype)
    if suffix == ".safetensors" and dtype == "D":
        with pytest.raises(ValueError, match=r"'0\.weight' is complex128"):
            a.save(path)
        assert os.listdir(tmp_path) == []
        return
    arrays = [p.data for p in b.parameters()]
    a.save(path)
    b.load(str(path))
    assert_same(a, b)
    assert all(p.data is q for p, q in zip(b.parameters(), arrays, strict=True))
    assert os.listdir(tmp_path) == [path.name]
    first = path.read_bytes()
    a.save(path)
    assert path.read_bytes() == first


def test_files_are_what_others_read_and_write(suffix, tmp_path):
    a, b = model_of(0), model_of(1)
    state = a.state_dict()
    path = tmp_path / f"model{suffix}"
    a.save(path)
    if suffix == ".npz":
        with np.load(path) as there:
            assert list(there) == list(state)
            for name in state:
                np.testing.assert_array_equal(there[name], state[name], strict=True)
        for write, change in itertools.product(
            (np.savez, np.savez_compressed),
            (np.asarray, np.asfortranarray, lambda v: v.astype(v.dtype.newbyteorder(">"))),
        ):
            write(path, **{name: change(v) for name, v in state.items()})
            b = model_of(1)
            b.load(path)
            assert_same(a, b)
    else:
        torch_files = pytest.importorskip("safetensors.torch", reason="PyTorch is not installed")
        there = torch_files.load_file(path)
        for name in state:
            np.testing.assert_array_equal(there[name].numpy(), state[name], strict=True)
        torch_files.save_file(there, path)
        b.load(path)
        assert_same(a, b)


def test_names_of_files(tmp_path):
    model = model_of()
    for name in ("model", "model.npy", "model.npz.gz", "model.pt", "npz"):
        for method in (model.save, model.load):
            with pytest.raises(ValueError, match=r"must end in \.npz or \.safetensors"):
                method(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        model.load(tmp_path / "model.npz")
    with pytest.raises(FileNotFoundError):
        model.save(tmp_path / "none" / "model.npz")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(OSError, match="folder"):
        model.load(tmp_path / "folder.npz")
    model.save(tmp_path / "MODEL.NPZ")
    model.load(tmp_path / "MODEL.NPZ")


@pytest.mark.parametrize(("suffix", "name"), [
    (".npz", "a\0b"), (".npz", "x" * 70_000), (".safetensors", "__metadata__"),
])  # fmt: skip
def test_names_that_a_file_cannot_hold(suffix, name, tmp_path):
    """Are refused when it is written, not when it is read."""
    model, path = nn.Sequential(), tmp_path / f"m{suffix}"
    setattr(model, name, nn.Parameter([1.0]))
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=f"a {suffix} file cannot hold a parameter named"):
        model.save(path)
    assert path.read_bytes() == b"old"
    for call in (model.save, model.load):
        with pytest.raises(ValueError, match=r"path must be a file's name, got 'm\\x00"):
            call(f"m\0{suffix}")


def test_load_leaves_a_model_that_is_partly_read_only(tmp_path):
    model = nn.Linear(2, 3, rng=0)
    nn.Linear(2, 3, rng=1).save(tmp_path / "m.npz")
    before = model.state_dict()
    model.bias.data.flags.writeable = False
    with pytest.raises(ValueError, match="bias is read-only"):
        model.load(tmp_path / "m.npz")
    np.testing.assert_array_equal(model.weight.data, before["weight"])


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    model = model_of()
    model.save(path)
    path.chmod(0o640)
    before = path.read_bytes()
    write = np.lib.format.write_array
    calls = []

    def fail(file, array, **kwargs):
        calls.append(array)
        if len(calls) == 3:
            raise OSError("disk full")
        write(file, array, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(np.lib.format, "write_array", fail)
        with pytest.raises(OSError, match="disk full"):
            model.save(path)
    assert os.listdir(tmp_path) == ["model.npz"]
    assert path.read_bytes() == before
    link = tmp_path / "link.npz"
    link.symlink_to(path)
    model_of(1).save(link)
    assert link.is_symlink()
    assert path.read_bytes() != before
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_files_that_cannot_be_written_or_read(suffix, tmp_path):
    with pytest.raises(FileNotFoundError):
        one().save(tmp_path / "nowhere" / f"model{suffix}")
    with pytest.raises(FileNotFoundError):
        one().load(tmp_path / f"model{suffix}")
    path = tmp_path / f"folder{suffix}"
    path.mkdir()
    with pytest.raises(OSError, match="folder"):
        one().load(path)
    with pytest.raises(OSError, match="folder"):
        one().save(path)
    assert os.listdir(tmp_path) == [path.name]


def test_without_safetensors(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    path = tmp_path / "model.safetensors"
    with pytest.raises(ImportError):
        model_of().save(path)
    path.write_bytes(b"")
    with pytest.raises(ImportError):
        model_of().load(path)
    assert os.listdir(tmp_path) == ["model.safetensors"]


class Payload:
    def __reduce__(self):
        return os.mkdir, ("owned",)


def npy(descr="'<f4'", order="False", shape="(3,)", data=12 * b"x", version=(1, 0), length=None):
    """A .npy file with any header."""
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    size = struct.pack("<H" if version == (1, 0) else "<I", length or len(header))
    return b"\x93NUMPY" + bytes(version) + size + header + data


def zipped(members, method=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", method) as archive:
        warnings.filterwarnings("ignore", "Duplicate name")
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


def an_npz(**changes):
    """The file of `one()`, with other members."""
    members = {"weight": npy(shape="(1, 3)"), "bias": npy(shape="(1,)", data=4 * b"x")} | changes
    return [(name + ".npy", data) for name, data in members.items() if data is not None]


def one():
    return nn.Linear(3, 1, rng=0)


def pickled():
    file = io.BytesIO()
    np.save(file, np.array([[Payload()] * 3], object), allow_pickle=True)
    return file.getvalue()


def patched(raw, offset, value, where=b"PK\1\2"):
    """A zip file with some bytes of a member's entry in the directory changed."""
    raw = bytearray(raw)
    at = raw.index(where) + offset
    raw[at : at + len(value)] = value
    return bytes(raw)


W = {"shape": "(1, 3)"}
HOSTILE = {
    "pickle": (zipped(an_npz(weight=pickled())), "dtype"),
    "bare pickle": (zipped(an_npz(weight=pickle.dumps(Payload()))), "magic"),
    "objects": (zipped(an_npz(weight=npy("'|O'", **W))), "object"),
    "code in the header": (
        zipped(an_npz(weight=npy("__import__('os').mkdir('owned')"))), "its header"),
    "subarray": (zipped(an_npz(weight=npy("('<f4', (3,))", shape="(1,)"))), None),
    "records": (zipped(an_npz(weight=npy("[('a', '<f4')]", **W))), "its header"),
    "twice": (zipped([*an_npz(), an_npz()[0]]), "two arrays"),
    "twice, once without .npy": (zipped([*an_npz(), ("weight", npy(**W))]), "two arrays"),
    "missing": (zipped(an_npz(bias=None)), "'bias' are missing"),
    "more": (zipped(an_npz(other=npy())), "'other' belong"),
    "folder": (zipped(an_npz(**{"../weight": npy()})), "belong"),
    "other shape": (zipped(an_npz(weight=npy(shape="(3, 1)"))), r"\(1, 3\) .* not \(3, 1\)"),
    "other dtype": (zipped(an_npz(weight=npy("'<f8'", data=24 * b"x", **W))), "float32, not .*64"),
    "short": (zipped(an_npz(weight=npy(data=11 * b"x", **W))), "as long as"),
    "long": (zipped(an_npz(weight=npy(data=13 * b"x", **W))), "as long as"),
    "much longer": (zipped(an_npz(weight=npy(data=100_000 * b"x", **W))), "too many"),
    "huge shape": (zipped(an_npz(weight=npy(shape="(1 << 60, 3)"))), None),
    "huge number": (zipped(an_npz(weight=npy(shape=f"({10**4000}, 3)"))), None),
    "negative shape": (zipped(an_npz(weight=npy(shape="(-1, -3)"))), "its header"),
    "deep header": (zipped(an_npz(weight=npy("(" * 5000, **W))), None),
    "long header": (zipped(an_npz(weight=npy("'<f4'" + " " * 30_000, **W))), "too many"),
    "header longer than the file": (
        zipped(an_npz(weight=npy(version=(2, 0), length=2**32 - 1, **W))), None),
    "version": (zipped(an_npz(weight=npy(version=(3, 0), **W))), r"\(3, 0\) is not supported"),
    "version 9": (zipped(an_npz(weight=npy(version=(9, 9), **W))), None),
    "bzip2": (zipped(an_npz(), zipfile.ZIP_BZIP2), "method"),
    "lzma": (zipped(an_npz(), zipfile.ZIP_LZMA), "method"),
    "unknown method": (patched(zipped(an_npz()), 10, b"\x63\0"), "method"),
    "encrypted": (patched(zipped(an_npz()), 8, b"\1\0"), None),
    "size of 0": (patched(zipped(an_npz()), 24, bytes(4)), None),
    "size of 4 GB": (patched(zipped(an_npz()), 24, b"\xfe" * 4), "too many"),
    "before the beginning": (
        patched(zipped(an_npz()), 16, b"\xff\xff\0\0", b"PK\5\6"), "Invalid|negative"),
    "checksum": (patched(zipped(an_npz()), 16, bytes(4)), "CRC"),
    "somewhere else": (patched(zipped(an_npz()), 42, b"\0\1\0\0"), None),
    "garbage deflated": (
        patched(zipped(an_npz(), zipfile.ZIP_DEFLATED), 41, 20 * b"\xff", b"PK\3\4"), None),
    "empty": (b"", "zip"),
    "empty zip": (zipped([]), "missing"),
    "text": (b"weight = 1\n" * 20, "zip"),
    ".npy": (npy(), "zip"),
    "too large": (zipped([*an_npz(), ("other.npy", bytes(3 << 20))]), "bytes are more"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_npz(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw, match = HOSTILE[name]
    path = tmp_path / "model.npz"
    path.write_bytes(raw)
    model = one()
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match=match) as error:
        model.load(path)
    assert str(path) in str(error.value)
    assert_same(model, before)
    assert os.listdir(tmp_path) == ["model.npz"]  # nothing ran


def test_the_hostile_files_are_bad_for_one_reason(tmp_path):
    path = tmp_path / "model.npz"
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path.write_bytes(zipped(an_npz(), method))
        model = one()
        model.load(path)
        assert model.weight.data.tobytes() == 12 * b"x"
    assert pickle.loads(pickled()[128:]) is not None  # it does run
    os.rmdir("owned")


def test_a_zip_bomb_takes_no_memory(tmp_path):
    """A gigabyte of zeros in a megabyte, with an honest size and with one that fits."""
    zeros = bytes(1 << 24)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in an_npz():
            with archive.open(name, "w") as member:
                member.write(data)
                for _ in range(16 if name == "weight.npy" else 0):
                    member.write(zeros)
    bomb = file.getvalue()
    path = tmp_path / "model.npz"
    length = len(npy(shape="(1, 3)"))
    for raw in (bomb, patched(bomb, 24, struct.pack("<I", length))):
        path.write_bytes(raw)
        model = one()
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match=r"too many|CRC"):
                model.load(path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 2_000_000


def test_truncated_files(suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    model = one()
    before = copy.deepcopy(model)
    model.save(path)
    raw = path.read_bytes()
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        with pytest.raises(ValueError, match="cannot load"):
            model.load(path)
    assert_same(model, before)


def test_mutated_files(suffix, tmp_path, rng):
    """Random damage: an error and a model that is as it was, or a file that fits."""
    path = tmp_path / f"model{suffix}"
    one().save(path)
    raw = path.read_bytes()
    model = one()
    model.weight.data = [[1, 2, 3]]
    before = copy.deepcopy(model)
    errors = 0
    for _ in range(600):
        damaged = bytearray(raw)
        for at in rng.integers(0, len(raw), rng.integers(1, 5)):
            damaged[at] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            model.load(path)
        except ValueError:
            errors += 1
            assert_same(model, before)
        model.load_state_dict(before.state_dict())
    assert errors > 100


def test_hostile_safetensors(tmp_path):
    files = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    path = tmp_path / "model.safetensors"
    weight, bias = np.ones((1, 3), "f"), np.ones(1, "f")
    header = b'{"weight":{"dtype":"F32","shape":[1,3],"data_offsets":[0,12]},%s}'
    good = b'"bias":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}'

    def file(more, data=16 * b"\0", length=None):
        text = header % more
        return struct.pack("<Q", length or len(text)) + text + data

    model = one()
    before = copy.deepcopy(model)
    path.write_bytes(file(good))
    model.load(path)
    assert not model.weight.data.any()
    model = one()
    for raw, match in [
        (files.save({"weight": weight}), "'bias' are missing"),
        (files.save({"weight": weight, "bias": bias, "x": bias}), "'x' belong"),
        (files.save({"weight": weight.T.copy(), "bias": bias}), r"not \(3, 1\)"),
        (files.save({"weight": weight.astype("d"), "bias": bias}), "float32, not .*float64"),
        (files.save({"weight": weight.astype("i"), "bias": bias}), "float32, not .*I32"),
        (file(good, length=2**63), None),
        (file(good, length=2**30), None),
        (file(good, data=b""), None),
        (file(good, data=17 * b"\0"), None),
        (file(good.replace(b"[12,16]", b"[0,4]")), None),
        (file(good.replace(b"[12,16]", b"[16,12]")), None),
        (file(good.replace(b"[1]", b"[4294967296,4294967296,4294967296]")), None),
        (file(good.replace(b"[1]", b"[-1]")), None),
        (file(good.replace(b"[1]", b"[" * 5000)), None),
        (file(good.replace(b"F32", b"BF16")), None),
        (b"", None),
        (bytes(3 << 20), "bytes are more"),
    ]:
        path.write_bytes(raw)
        with pytest.raises(ValueError, match=match):
            model.load(path)
        assert_same(model, before)


# ---------------------------------------------------------------- training


def test_the_kernel_of_the_tour_is_learned(rng):
    """400 steps on the sum of squares find the edge kernel, from any start."""
    x = image_of(8)
    target = corr2d(x, [[1, -1]])
    for seed in range(5):
        layer = nn.Conv2d(1, 1, (1, 2), bias=False, rng=seed)
        optimizer = optim.SGD(layer.parameters(), lr=1e-3)
        losses = []
        for _ in range(400):
            loss, dy = nn.mse_loss(layer(x), target, reduction="sum")
            optimizer.zero_grad()
            layer.backward(dy)
            optimizer.step()
            losses.append(loss)
        left, right = layer.weight.data.ravel()
        assert 0.98 < left < 1.0
        assert -1.0 < right < -0.98
        assert losses[399] < 0.01 < 0.1 < losses[99]

        again = nn.Conv2d(1, 1, (1, 2), bias=False, rng=seed)
        history = nn.fit(
            again, x[None, None], target[None, None],
            optimizer=optim.SGD(again.parameters(), lr=1e-3),
            loss=partial(nn.mse_loss, reduction="sum"), epochs=400, batch_size=1, rng=None,
            progress=False,
        )  # fmt: skip
        np.testing.assert_array_equal(again.weight.data, layer.weight.data)
        assert history.loss == history.steps == losses
        assert history.lr == [1e-3] * 400
        assert not history.interrupted


def bars(rng, samples):
    """Small pictures of a bar, upright or lying, in noise."""
    x = 0.3 * rng.standard_normal((samples, 1, 8, 8))
    labels = rng.integers(0, 2, samples)
    for picture, label, at in zip(x[:, 0], labels, rng.integers(0, 8, samples), strict=True):
        picture[(slice(None), at) if label else at] += 1
    return x, labels


def classifier(rng=0):
    rng = np.random.default_rng(rng)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, rng=rng), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(64, 2, rng=rng),
    )  # fmt: skip


def train(model, x, y, **kwargs):
    if "optimizer" not in kwargs:
        kwargs["optimizer"] = optim.Adam(model.parameters(), 0.01)
    usual = {"loss": nn.cross_entropy, "epochs": 10, "batch_size": 32, "rng": 0, "progress": False}
    return nn.fit(model, x, y, **usual | kwargs)


def test_a_small_network_learns(rng):
    x, y = bars(rng, 500)
    unseen, labels = bars(rng, 200)
    model = classifier()
    history = train(model, x, y)
    with nn.no_grad():
        right = np.mean(model(unseen).argmax(axis=1) == labels)
    assert right >= 0.98
    assert len(history.loss) == len(history.lr) == 10
    assert len(history.steps) == 160
    assert history.loss[-1] < 0.1 < history.loss[0]
    # 15 batches of 32 and one of 20.
    weights = [32] * 15 + [20]
    np.testing.assert_allclose(history.loss[3], np.average(history.steps[48:64], weights=weights))
    assert repr(history) == f"<History: epochs=10, steps=160, loss={history.loss[-1]:.6g}>"
    assert repr(nn.History()) == "<History: epochs=0, steps=0>"


def test_fit_is_determined_by_rng(rng):
    x, y = bars(rng, 100)
    models = [classifier() for _ in range(4)]
    for model, seed in zip(models, (5, 5, np.random.default_rng(5), 6), strict=True):
        train(model, x, y, epochs=2, rng=seed)
    assert_same(models[0], models[1])
    assert_same(models[0], models[2])
    assert (models[0][0].weight.data != models[3][0].weight.data).any()


def test_every_sample_once_an_epoch(rng):
    model = nn.Linear(1, 1)
    x = np.arange(10.0)[:, None]
    seen = []

    def loss(y, target):
        seen.append(target[:, 0].tolist())
        return nn.mse_loss(y, target)

    train(model, x, x, loss=loss, epochs=2, batch_size=4, optimizer=optim.SGD(model.parameters()))
    assert [len(batch) for batch in seen] == [4, 4, 2] * 2
    first, second = (list(itertools.chain(*epoch)) for epoch in (seen[:3], seen[3:]))
    assert sorted(first) == sorted(second) == x[:, 0].tolist()
    assert first != second


def test_fit_is_the_loop_by_hand(rng):
    x, y = bars(rng, 70)
    model, twin = classifier(), classifier()
    train(model, x, y, epochs=2, batch_size=16, rng=3)
    optimizer, shuffle = optim.Adam(twin.parameters(), 0.01), np.random.default_rng(3)
    for _ in range(2):
        order = shuffle.permutation(70)
        for start in range(0, 70, 16):
            batch = order[start : start + 16]
            optimizer.zero_grad()
            _, dy = nn.cross_entropy(twin(x[batch]), y[batch])
            twin.backward(dy)
            optimizer.step()
    assert_same(model, twin)


def test_callback(rng):
    x, y = bars(rng, 40)
    model = classifier()
    optimizer = optim.SGD(model.parameters(), 0.5)
    schedule = optim.StepLR(optimizer, 2)
    calls = []

    def callback(history):
        calls.append((len(history.loss), len(history.steps), history.lr[-1]))
        schedule.step()
        return len(calls) == 5

    history = train(model, x, y, optimizer=optimizer, callback=callback)
    expected = [(1, 2, 0.5), (2, 4, 0.5), (3, 6, 0.05), (4, 8, 0.05), (5, 10, 0.005)]
    np.testing.assert_allclose(calls, expected)
    assert len(history.loss) == 5
    assert not history.interrupted
    # Only True ends it: not the value that some callback happens to return.
    for result, epochs in ((np.True_, 1), (1.0, 3), ([1], 3), (None, 3), (False, 3)):
        history = train(model, x, y, callback=lambda _, r=result: r, epochs=3)
        assert len(history.loss) == epochs


@pytest.mark.parametrize("place", ["loss", "callback", "layer"])
def test_an_interrupted_fit(place, rng):
    x, y = bars(rng, 100)
    done = classifier()
    train(done, x, y, epochs=3, batch_size=25)  # 12 steps

    class Stop(nn.ReLU):
        calls = 0

        def _forward(self, x, keep):
            self.calls += 1
            if place == "layer" and self.calls == 13:
                raise KeyboardInterrupt
            return super()._forward(x, keep)

    model = nn.Sequential(*(Stop() if isinstance(m, nn.ReLU) else m for m in classifier()))

    def loss(logits, target):
        if place == "loss" and model[1].calls == 13:
            raise KeyboardInterrupt
        return nn.cross_entropy(logits, target)

    def callback(history):
        if place == "callback" and len(history.loss) == 3:
            raise KeyboardInterrupt

    optimizer = optim.Adam(model.parameters(), 0.01)
    history = train(
        model, x, y, epochs=50, batch_size=25, loss=loss, callback=callback, optimizer=optimizer
    )
    assert history.interrupted
    assert repr(history).endswith("interrupted>")
    assert len(history.loss) == len(history.lr) == 3
    assert len(history.steps) == optimizer.steps == 12
    assert_same(model, done)
    assert not any(p.grad.any() for p in model.parameters())
    with pytest.raises(RuntimeError, match="backward needs a call"):
        model.backward(np.ones((25, 2)))
    assert not train(model, x, y, epochs=1).interrupted  # it goes on


def test_a_step_that_is_made_is_recorded(rng):
    class Stop(optim.SGD):
        def step(self):
            super().step()
            if self.steps == 3:
                raise KeyboardInterrupt

    x, y = bars(rng, 40)
    model = classifier()
    kwargs = {"epochs": 2, "batch_size": 10}
    history = train(model, x, y, optimizer=Stop(model.parameters(), 0.1), **kwargs)
    model = classifier()
    all_of_it = train(model, x, y, optimizer=optim.SGD(model.parameters(), 0.1), **kwargs)
    assert history.interrupted
    assert history.steps == all_of_it.steps[:3]
    assert history.loss == history.lr == []


@pytest.mark.parametrize(("name", "epochs"), [("steps", 0), ("lr", 0), ("loss", 1)])
def test_a_record_is_of_whole_epochs(name, epochs, rng, monkeypatch):
    class Stop(list):
        def append(self, value):
            super().append(value)
            raise KeyboardInterrupt

    x, y = bars(rng, 10)
    empty = nn.History(**{name: Stop()})
    monkeypatch.setattr(nn, "History", lambda: empty)
    history = train(classifier(), x, y)
    assert history.interrupted
    assert len(history.steps) == 1
    assert len(history.loss) == len(history.lr) == epochs


def test_other_errors_are_raised(rng):
    x, y = bars(rng, 10)

    def loss(logits, target):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(classifier(), x, y, loss=loss)


def test_losses_that_return_something_else(rng):
    """They are blamed, and before they have changed anything."""
    x, y = bars(rng, 10)
    for error, match, result in [
        (TypeError, r"loss must return a pair \(loss, gradient\), got 1.0", 1.0),
        (TypeError, "loss must return a number first, got 'small'", ("small", np.ones((10, 2)))),
        (TypeError, "loss must return a number first, got None", (None, np.ones((10, 2)))),
        (TypeError, "loss must return a number first, got array", (np.ones(1), np.ones((10, 2)))),
        (TypeError, "loss must return a number first, got 1j", (1j, np.ones((10, 2)))),
        (ValueError, r"loss must return a gradient .*\(10, 2\), got \(10,\)", (1.0, np.ones(10))),
        (ValueError, r"loss must return a gradient .*, got \(\)", (1.0, None)),
        (ValueError, "what loss returned must be an array", (1.0, [[1], [1, 2]])),
        (TypeError, "loss returned is complex128", (1.0, np.ones((10, 2), "D"))),
    ]:
        model = classifier()
        before = copy.deepcopy(model)
        with pytest.raises(error, match=match):
            train(model, x, y, loss=lambda *_, r=result: r)
        assert_same(model, before)


SIGINT = """
import numpy as np
from functools import partial
from fastcorr import nn, optim

def start():
    rng = np.random.default_rng(0)
    model = nn.Sequential(*(nn.Linear(20, 20, rng=rng) for _ in range(8)))
    return model, optim.Adam(model.parameters())

x = np.random.default_rng(1).normal(size=(64, 20))
model, optimizer = start()

def run(model, optimizer, loss):
    return nn.fit(model, x, x, optimizer=optimizer, loss=loss, epochs=10**6, batch_size=8, rng=2,
                  progress=False)

def first(y, target):
    if optimizer.steps == 20:
        print("go", flush=True)
    return nn.mse_loss(y, target)

history = run(model, optimizer, first)
steps = optimizer.steps
assert history.interrupted and steps >= 20
assert len(history.steps) == steps, (len(history.steps), steps)
assert len(history.loss) == len(history.lr)

twin, other = start()
def until(y, target):
    if other.steps == steps:
        raise KeyboardInterrupt
    return nn.mse_loss(y, target)
run(twin, other, until)
for p, q in zip(model.parameters(), twin.parameters(), strict=True):
    assert (p.data == q.data).all()
for name, value in optimizer.state_dict().items():
    assert np.array_equal(value, other.state_dict()[name]), name
print("same")
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("delay", [0.0, 0.0613, 0.1417])
def test_control_c(delay):
    """After Ctrl-C, wherever it hits, model and optimizer are those after a number of steps."""
    with subprocess.Popen(
        [sys.executable, "-c", SIGINT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "go\n"
            threading.Event().wait(delay)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (out, err) == ("same\n", "")


def test_progress(rng, capfd, monkeypatch):
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    x, y = bars(rng, 40)
    train(classifier(), x, y, progress=True, epochs=3)
    out, err = capfd.readouterr()
    assert out == ""
    assert "6/6" in err
    assert "loss" in err
    train(classifier(), x, y, progress=False)
    assert capfd.readouterr() == ("", "")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", None)
        assert len(train(classifier(), x, y, progress=True, epochs=3).loss) == 3
    assert capfd.readouterr() == ("", "")
    for name in ("tqdm", "tqdm.auto"):
        monkeypatch.setitem(sys.modules, name, None)
    assert len(train(classifier(), x, y, progress=True, epochs=3).loss) == 3
    assert capfd.readouterr() == ("", "")


def test_a_loss_that_is_not_finite_goes_on(rng):
    x = np.array([[1.0], [np.nan]])
    model = nn.Linear(1, 1)
    optimizer = optim.SGD(model.parameters())
    history = train(model, x, x, optimizer=optimizer, loss=nn.mse_loss, epochs=3, batch_size=2)
    assert len(history.loss) == 3
    assert np.isnan(history.loss).all()


def test_frozen_parameters(rng):
    """The optimizer's are changed, the others not, nor do their gradients grow."""
    x, y = bars(rng, 40)
    model = classifier()
    before = model[0].weight.data.copy()
    optimizer = optim.SGD(model[-1].parameters(), 0.1)
    train(model, x, y, epochs=1, batch_size=40, optimizer=optimizer)
    once = model[0].weight.grad.copy()
    assert once.any()
    train(model, x, y, epochs=5, batch_size=40, optimizer=optim.SGD(model[-1].parameters(), 0))
    np.testing.assert_array_equal(model[0].weight.data, before)
    assert abs(model[0].weight.grad).max() < 2 * abs(once).max()


def test_fit_errors(rng):
    x, y = bars(rng, 10)
    model = classifier()
    for error, match, args, kwargs in [
        (ValueError, r"\(10, 1, 8, 8\) and \(9,\)", (model, x, y[:9]), {}),
        (ValueError, "as many samples", (model, 1.0, 1.0), {}),
        (ValueError, "no samples", (model, x[:0], y[:0]), {}),
        (ValueError, "batch_size must be at least 1, got 0", (model, x, y), {"batch_size": 0}),
        (TypeError, "batch_size must be an integer", (model, x, y), {"batch_size": 2.0}),
        (ValueError, "epochs must be at least 0, got -1", (model, x, y), {"epochs": -1}),
        (TypeError, "epochs must be an integer", (model, x, y), {"epochs": None}),
        (TypeError, "loss must be callable, got 'mse'", (model, x, y), {"loss": "mse"}),
        (TypeError, "callback must be callable", (model, x, y), {"callback": 1}),
        (TypeError, "model must be a Module", (lambda x: x, x, y), {"optimizer": None}),
        (ValueError, "none of the model's parameters", (model, x, y),
         {"optimizer": optim.SGD(classifier().parameters())}),
        (TypeError, "optimizer must be an Optimizer, got None", (model, x, y),
         {"optimizer": None}),
        (TypeError, "optimizer must be an Optimizer, got 'a'", (model, x, y), {"optimizer": "a"}),
        (TypeError, "optimizer must be an Optimizer", (model, x, y), {"optimizer": optim.SGD}),
        (TypeError, "rng must be .* got 'seed'", (model, x, y), {"rng": "seed"}),
        (TypeError, "rng must be .* got True", (model, x, y), {"rng": True}),
        (ValueError, "rng must be .* got -1", (model, x, y), {"rng": -1}),
        (ValueError, "x must be an array", (model, [[1, 2], [3]], y), {}),
        (TypeError, "masked", (model, np.ma.masked_less(x, 0), y), {}),
    ]:  # fmt: skip
        with pytest.raises(error, match=match):
            train(*args, **kwargs)
    before = copy.deepcopy(model)
    history = train(model, x, y, epochs=0)
    assert history == nn.History()
    assert_same(model, before)


def test_nothing_is_imported_before_it_is_used():
    code = (
        "import sys; from fastcorr import nn, optim; "
        "print(*sorted({'tqdm', 'safetensors', 'matplotlib', 'torch', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


@pytest.mark.parametrize("shape", [(3, 4, 9, 11), (5, 9, 11), (0, 4, 9, 11)])
@pytest.mark.parametrize("at_once", [1, 250, 1000, 10**9])
def test_poolings_take_some_planes_at_a_time(monkeypatch, shape, at_once):
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 4, shape).astype("f")
    x[..., 2, 3:5] = np.nan
    for layer in (nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2)):
        monkeypatch.setattr(nn, "_POOLED", 10**9)
        alone = layer(x.reshape(-1, 1, 9, 11))
        dy = rng.integers(-5, 6, alone.shape).astype("f")
        dx = layer.backward(dy)
        monkeypatch.setattr(nn, "_POOLED", at_once)
        y = layer(x)
        np.testing.assert_array_equal(y.reshape(alone.shape), alone)
        np.testing.assert_array_equal(layer.backward(dy.reshape(y.shape)).reshape(dx.shape), dx)
        with nn.no_grad():
            np.testing.assert_array_equal(layer(x), y)
