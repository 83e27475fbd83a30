"""Calls of some hundredths of a second to some seconds, of all sorts, to be ended by Ctrl-C.

``CALLS[name]()`` makes the operands and returns the call, a function of the number of workers.
"""

import numpy as np

import fastcorr
from fastcorr import nn


def _x(*shape, dtype="f"):
    """An image that takes no memory."""
    return np.broadcast_to(np.ones((), dtype), shape)


def _k(*shape, dtype="f"):
    """A kernel of full rank."""
    return np.random.default_rng(0).integers(1, 9, shape).astype(dtype)


def _correlate(x, k, mode="same", boundary="fill", **options):
    return lambda workers: fastcorr.correlate2d(x, k, mode, boundary, workers=workers, **options)


def _gradient(x, k, name, mode="same", boundary="fill", **options):
    lengths = [
        max(a, b) if mode == "same" else a + b - 1
        for a, b in zip(x.shape[-2:], k.shape[-2:], strict=True)
    ]
    dy = _x(*x.shape[:-2], *lengths, dtype=x.dtype)
    if x.ndim > 2:
        options["axes"] = (-2, -1)
    return lambda workers: fastcorr.correlate2d_vjp(
        dy, x, k, mode, boundary, needs=name, workers=workers, **options
    )


def _planned(x, k, **options):
    plan = fastcorr.plan_convolve2d(k, shape=x.shape, mode="same", **options)
    return lambda workers: plan(x, workers=workers)


def _conv(x, weight, needs="y", **options):
    x, weight = _x(*x), _k(*weight, dtype=options.pop("dtype", "f"))
    x = x.astype(weight.dtype)
    if needs == "y":
        return lambda workers: fastcorr.conv2d(x, weight, workers=workers, **options)
    sizes = {n: v for n, v in options.items() if n in ("stride", "padding", "dilation")}
    y = fastcorr.conv2d_output_shape(x.shape, weight.shape[0], weight.shape[2:], **sizes)
    dy = _x(*y, dtype=weight.dtype)
    return lambda workers: fastcorr.conv2d_backward(
        dy, x, weight, needs=(needs,), workers=workers, **options
    )


def _transposed(x, weight, needs="y", **options):
    x, weight = _x(*x), _k(*weight)
    if needs == "y":
        return lambda workers: fastcorr.conv_transpose2d(x, weight, workers=workers, **options)
    stride = options.get("stride", 1)
    dy = _x(len(x), weight.shape[1], *((n - 1) * stride + weight.shape[2] for n in x.shape[2:]))
    return lambda workers: fastcorr.conv_transpose2d_backward(
        dy, x, weight, needs=(needs,), workers=workers, **options
    )


def _layers(layers, x, back=True):
    model = nn.Sequential(*layers)
    x = np.ones(x, "f")

    def call(workers):
        with fastcorr.set_workers(workers):
            if back:
                y = model(x)
                model.backward(y)
            else:
                with nn.no_grad():
                    model(x)

    return call


CALLS = {
    "direct float32": lambda: _correlate(_x(4000, 4000), _k(30, 30), method="direct"),
    "direct float64": lambda: _correlate(_x(3000, 3000, dtype="d"), _k(30, 30), method="direct"),
    "direct large kernel": lambda: _correlate(_x(600, 600), _k(300, 300), method="direct"),
    "direct huge kernel": lambda: _correlate(_x(3, 3), _k(6000, 6000), "full"),
    "direct huge kernel, wrapped": lambda: _correlate(_x(3, 3), _k(6000, 6000), "full", "wrap"),
    "direct complex64": lambda: _correlate(_x(2000, 2000, dtype="F"), _k(40, 40), method="direct"),
    "direct uint8": lambda: _correlate(
        _x(4000, 4000, dtype="B"), _k(50, 50, dtype="B"), method="direct"
    ),
    "direct int64": lambda: _correlate(
        _x(3000, 3000, dtype="l"), _k(30, 30, dtype="l"), method="direct"
    ),
    "direct longdouble": lambda: _correlate(_x(500, 500, dtype="g"), _k(30, 30, dtype="g")),
    "direct row": lambda: _correlate(_x(1, 30_000_000), _k(1, 500), method="direct"),
    "direct column": lambda: _correlate(_x(5_000_000, 1), _k(500, 1), method="direct"),
    "separable": lambda: _correlate(_x(7000, 7000), np.ones((300, 300), "f"), method="separable"),
    "separable int": lambda: _correlate(
        _x(5000, 5000, dtype="i"), np.ones((60, 60), "i"), method="separable"
    ),
    "transforms": lambda: _correlate(_x(8000, 8000), _k(150, 150), method="fft"),
    "transforms, large": lambda: _correlate(_x(6000, 6000), _k(1000, 1000), method="fft"),
    "transforms, complex128": lambda: _correlate(
        _x(4000, 4000, dtype="D"), _k(100, 100), method="fft"
    ),
    "transforms, integers": lambda: _correlate(
        _x(5000, 5000, dtype="B"), _k(100, 100, dtype="B"), dtype="i", method="fft"
    ),
    "many planes": lambda: _correlate(
        _x(100_000, 24, 24), _k(9, 9)[None], "valid", axes=(-2, -1)
    ),
    "many planes and kernels": lambda: _correlate(
        _x(100_000, 24, 24), _x(100_000, 9, 9), "valid", axes=(-2, -1)
    ),
    "many planes, wrapped": lambda: _correlate(
        _x(300_000, 8, 8), _k(5, 5)[None], "same", "wrap", axes=(-2, -1)
    ),
    "image gradient, direct": lambda: _gradient(
        _x(4000, 4000), _k(60, 60), "in1", method="direct"
    ),
    "image gradient, symm": lambda: _gradient(_x(1500, 1500), _k(100, 100), "in1", "full", "symm"),
    "image gradient, folds": lambda: _gradient(_x(50, 50), _k(300, 300), "in1", "full", "wrap"),
    "image gradient, mirror": lambda: _gradient(
        _x(3, 2000), _k(500, 50), "in1", "full", "mirror"
    ),
    "image gradient, transforms": lambda: _gradient(
        _x(7000, 7000), _k(150, 150), "in1", method="fft"
    ),
    "kernel gradient, direct": lambda: _gradient(
        _x(3000, 3000), _k(60, 60), "in2", method="direct"
    ),
    "kernel gradient, wide": lambda: _gradient(
        _x(200, 4000), _k(200, 200), "in2", method="direct"
    ),
    "kernel gradient, longdouble": lambda: _gradient(
        _x(500, 500, dtype="g"), _k(40, 40, dtype="g"), "in2"
    ),
    "kernel gradient, transforms": lambda: _gradient(
        _x(7000, 7000), _k(150, 150), "in2", method="fft"
    ),
    "gradients, many planes": lambda: _gradient(
        _x(50_000, 24, 24), _k(1, 9, 9), ("in1", "in2"), boundary="wrap"
    ),
    "plan": lambda: _planned(_x(4000, 4000), _k(30, 30), method="direct"),
    "plan, transforms": lambda: _planned(_x(8000, 8000), _k(150, 150), method="fft"),
    "planning": lambda: lambda workers: fastcorr.plan_correlate2d(
        _k(1000, 1000), shape=(6000, 6000), method="fft", workers=workers
    ),
    "choosing": lambda: lambda workers: fastcorr.choose_method(
        _x(8000, 8000), np.ones((400, 400)), workers=workers
    ),
    "conv direct": lambda: _conv((32, 128, 56, 56), (128, 128, 3, 3), padding=1, method="direct"),
    "conv winograd": lambda: _conv(
        (64, 128, 56, 56), (128, 128, 3, 3), padding=1, method="winograd"
    ),
    "conv winograd4": lambda: _conv(
        (64, 128, 56, 56), (128, 128, 3, 3), padding=1, method="winograd4"
    ),
    "conv, few large images": lambda: _conv((1, 16, 2000, 2000), (32, 16, 7, 7), padding=3),
    "conv, 1 x 1": lambda: _conv((32, 512, 56, 56), (512, 512, 1, 1)),
    "conv, dense": lambda: _conv((4, 4096, 7, 7), (4096, 4096, 3, 3), padding=1),
    "conv, large kernels": lambda: _conv((4, 64, 112, 112), (64, 64, 50, 50), padding=25),
    "conv, stride 2": lambda: _conv((64, 64, 112, 112), (128, 64, 3, 3), stride=2, padding=1),
    "conv, dilated": lambda: _conv((16, 128, 56, 56), (128, 128, 3, 3), padding=2, dilation=2),
    "conv, groups": lambda: _conv((64, 256, 28, 28), (512, 32, 5, 5), padding=2, groups=8),
    "conv, complex128": lambda: _conv((4, 64, 56, 56), (64, 64, 3, 3), padding=1, dtype="D"),
    "conv, circular": lambda: _conv(
        (32, 64, 56, 56), (64, 64, 9, 9), padding=4, padding_mode="circular"
    ),
    "conv, one channel": lambda: _conv((1, 1, 4000, 4000), (8, 1, 31, 31)),
    "depthwise": lambda: _conv((16, 256, 112, 112), (256, 1, 15, 15), padding=7, groups=256),
    "depthwise, stride 2": lambda: _conv(
        (16, 256, 112, 112), (256, 1, 9, 9), padding=4, groups=256, stride=2
    ),
    "conv to x, direct": lambda: _conv(
        (32, 128, 56, 56), (128, 128, 3, 3), "x", padding=1, method="direct"
    ),
    "conv to x, winograd4": lambda: _conv(
        (64, 128, 56, 56), (128, 128, 3, 3), "x", padding=1, method="winograd4"
    ),
    "conv to x, stride 2": lambda: _conv(
        (64, 64, 112, 112), (128, 64, 3, 3), "x", stride=2, padding=1
    ),
    "conv to x, circular": lambda: _conv(
        (32, 64, 56, 56), (64, 64, 9, 9), "x", padding=4, padding_mode="circular"
    ),
    "conv to weight, direct": lambda: _conv(
        (32, 128, 56, 56), (128, 128, 3, 3), "weight", padding=1, method="direct"
    ),
    "conv to weight, winograd": lambda: _conv(
        (64, 128, 56, 56), (128, 128, 3, 3), "weight", padding=1, method="winograd"
    ),
    "conv to weight, stride 2": lambda: _conv(
        (64, 64, 112, 112), (128, 64, 3, 3), "weight", stride=2, padding=1
    ),
    "conv to bias": lambda: _conv((1, 1, 30_000, 30_000), (1, 1, 1, 1), "bias"),
    "depthwise to x": lambda: _conv(
        (16, 256, 112, 112), (256, 1, 9, 9), "x", padding=4, groups=256
    ),
    "depthwise to weight": lambda: _conv(
        (16, 256, 112, 112), (256, 1, 9, 9), "weight", padding=4, groups=256
    ),
    "transposed": lambda: _transposed((32, 128, 28, 28), (128, 128, 5, 5), stride=2),
    "transposed to weight": lambda: _transposed(
        (32, 128, 28, 28), (128, 128, 5, 5), "weight", stride=2
    ),
    "convolutional layers": lambda: _layers(
        [nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 16, 3, padding=1)],
        (32, 16, 112, 112),
    ),
    "pooling": lambda: _layers(
        [nn.MaxPool2d(3, 2), nn.AvgPool2d(2)], (64, 64, 112, 112)
    ),
    "pooling, no gradient": lambda: _layers([nn.MaxPool2d(5, 1)], (64, 64, 112, 112), False),
    "linear": lambda: _layers([nn.Flatten(), nn.Linear(16 * 28 * 28, 1024)], (256, 16, 28, 28)),
    "receptive field": lambda: lambda workers: fastcorr.receptive_field_mask(
        [nn.Conv2d(1, 1, 3)] * 1000, (8000, 8000), (3000, 4000)
    ),
}  # fmt: skip
