"""asv: convolution layers, their gradients, their memory, and one lesson of learning."""

from __future__ import annotations

import layers
import measure
import numpy as np
import peak
import peers
from layers import BY_NAME, DTYPES, METHODS, PASSES, Case

import fastcorr

NAMES = (
    "LeNet conv1",
    "U-Net top",
    "ResNet layer1",
    "ResNet-18 layer2.0.conv1",
    "ResNet layer4",
    "ResNet-50 layer1.1.conv1",
    "MobileNet depthwise 3",
)


def setup(*_):
    if not hasattr(fastcorr, "conv2d"):
        raise NotImplementedError("a commit before conv2d")


class Conv2d:
    """A batch of eight."""

    params = (list(NAMES), list(PASSES), ["float32", "float64"], ["1", "all"])
    param_names = ("layer", "pass", "dtype", "workers")

    def setup(self, layer, which, dtype, workers):
        fastcorr.set_workers(1 if workers == "1" else -1)
        self.call = Case(BY_NAME[layer], 8, dtype, which).ours()
        self.call()

    def time_conv2d(self, *_):
        self.call()


class Methods:
    """3x3 layers by each method that they have: a batch of eight, one thread."""

    params = (
        ["U-Net top", "ResNet layer1", "VGG-16 conv4_1", "ResNet layer4"],
        list(PASSES),
        list(METHODS),
        list(DTYPES),
    )
    param_names = ("layer", "pass", "method", "dtype")

    def setup(self, layer, which, method, dtype):
        case = Case(BY_NAME[layer], 8, dtype, which)
        if not case.offers(method):
            raise NotImplementedError(f"{which} has no method {method!r}")
        fastcorr.set_workers(1)
        self.call = case.ours(method)
        self.call()

    def time_conv2d(self, *_):
        self.call()


# Shape of the input and of the weight; then stride, padding and output_padding.
TRANSPOSED = {
    "128->64 28² 2x2 s2": ((8, 128, 28, 28), (128, 64, 2, 2), (2, 0, 0)),
    "64->32 56² 3x3 s2": ((8, 64, 56, 56), (64, 32, 3, 3), (2, 1, 1)),
    "256->128 8² 4x4 s2": ((8, 256, 8, 8), (256, 128, 4, 4), (2, 1, 0)),
}


class ConvTranspose2d:
    """float32, a batch of eight, one thread: layers that double an image."""

    params = (list(TRANSPOSED), list(PASSES))
    param_names = ("layer", "pass")

    def setup(self, layer, which):
        shape, weight_shape, how = TRANSPOSED[layer]
        rng = np.random.default_rng(0)
        x = rng.standard_normal(shape, np.float32)
        weight = rng.standard_normal(weight_shape, np.float32)
        dy = fastcorr.conv_transpose2d(x, weight, None, *how, workers=1)
        if which == "forward":
            self.call = lambda: fastcorr.conv_transpose2d(x, weight, None, *how, workers=1)
        else:
            needs = ("x" if which == "input" else which,)
            self.call = lambda: fastcorr.conv_transpose2d_backward(
                dy, x, weight, *how, needs=needs, workers=1
            )
        self.call()

    def time_conv_transpose2d(self, *_):
        self.call()


class Overhead:
    """What a call costs before it computes anything worth the name."""

    x, weight = np.ones((1, 1, 6, 8), np.float32), np.ones((1, 1, 1, 2), np.float32)

    def time_hundred_calls(self):
        for _ in range(100):
            fastcorr.conv2d(self.x, self.weight)


class Lesson:
    """The first lesson: a 1x2 kernel learned from a 6x8 image in 400 steps."""

    params = (["nn and optim", "functions"],)
    param_names = ("by",)

    def setup(self, by):
        try:
            step = layers.our_step() if by == "nn and optim" else layers.our_step_by_functions()
        except ImportError:
            raise NotImplementedError("a commit before nn and optim") from None
        self.step = step
        self.step()

    def time_400_steps(self, *_):
        for _ in range(400):
            self.step()


class Memory:
    """The whole process; the difference to the reference is the result, 25 MB, and scratch."""

    def setup(self):
        self.x, self.dy = (np.ones((8, 64, 112, 112), np.float32) for _ in range(2))
        self.weight = np.ones((64, 64, 3, 3), np.float32)

    def peakmem_reference(self):
        pass

    def peakmem_forward(self):
        fastcorr.conv2d(self.x, self.weight, padding=1)

    def peakmem_input_gradient(self):
        fastcorr.conv2d_backward(self.dy, self.x, self.weight, padding=1, needs=("x",))

    def peakmem_weight_gradient(self):
        fastcorr.conv2d_backward(self.dy, self.x, self.weight, padding=1, needs=("weight",))


class MemoryOfLearning:
    """A model of two convolutions, each activation 25 MB."""

    def setup(self):
        try:
            from fastcorr import nn
        except ImportError:
            raise NotImplementedError("a commit before nn") from None
        self.nn = nn
        self.x = np.ones((8, 64, 112, 112), np.float32)
        self.model = nn.Sequential(
            nn.Conv2d(64, 64, 3, padding=1, rng=0),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, padding=1, rng=1),
        )

    def peakmem_reference(self):
        pass

    def peakmem_inference(self):
        with self.nn.no_grad():
            self.model(self.x)

    def peakmem_forward_and_backward(self):
        self.model.backward(self.model(self.x))


class Tracked:
    """One thread: ratios are less moved by the machine of the day than times."""

    params = (list(NAMES), list(PASSES), ["float32", "float64"])
    param_names = ("layer", "pass", "dtype")
    watch = measure.Stopwatch(0.5)

    def setup(self, layer, which, dtype):
        fastcorr.set_workers(1)
        self.case = Case(BY_NAME[layer], 8, dtype, which)

    def track_share_of_fma_peak(self, *_):
        loop = peak.fma_peak(self.case.dtype)
        calls = {"ours": self.case.ours(), "loop": loop}
        calls["ours"]()
        times = self.watch.interleave(calls)
        loop.took(times["loop"].least)
        return 100 * self.case.flops / times["ours"].least / loop.best

    track_share_of_fma_peak.unit = "%"


class OverTorch:
    params, param_names = Tracked.params, Tracked.param_names
    watch = measure.Stopwatch(0.2)  # for each of both

    def setup(self, *_):
        if peers.installed("torch") is None:
            raise NotImplementedError("torch is not installed")
        layers.set_threads(1)

    def track_speed(self, layer, which, dtype):
        case = Case(BY_NAME[layer], 8, dtype, which)
        return layers.run(case, METHODS[:1], 1, self.watch)[0].ratio

    track_speed.unit = "x"
