"""A smoke test for processors under emulation: every public function, method and number type.

Needs NumPy and the files beside it, no pytest.  Numbers are integers and results exact, by the
definitions in oracle.py and conv_oracle.py.  Prints what ran; fails where a public name was not
called or a compiled module of this instruction set not loaded.  With an argument, the name of the
instruction set that must have been chosen.
"""

import importlib
import itertools
import sys
import sysconfig
from pathlib import Path

import battery
import cases
import conv_cases
import conv_oracle
import numpy as np
import oracle
from conv_cases import Case

import fastcorr
import fastcorr.nn
import fastcorr.optim


class Seen:
    """A module that remembers which of its names were asked for."""

    def __init__(self, module):
        self.module, self.names = module, set()

    def __getattr__(self, name):
        self.names.add(name)
        return getattr(self.module, name)

    def missed(self):
        return set(self.module.__all__) - self.names


fc, nn, optim = Seen(fastcorr), Seen(fastcorr.nn), Seen(fastcorr.optim)
equal, near = np.testing.assert_array_equal, np.testing.assert_allclose

TYPES = cases.DTYPES.replace("?", "").replace("e", "")
METHODS = ("auto", "direct", "separable", "fft")


def check_types(rng):
    """Both functions and their gradients, each type, mode and boundary, by the direct sum."""
    return battery.check_exact(rng)


def check_methods(rng):
    """Every method, on each type that has it, with one and with two workers."""
    count = 0
    column, row = rng.integers(-3, 4, (5, 1)), rng.integers(1, 4, (1, 9))
    units = np.array([1, 1j, -1, -1j])
    rules = itertools.cycle(itertools.permutations(oracle.RULES, 2))
    for dtype in TYPES:
        tall = units[column] if dtype in "FDG" else column
        # Lanes of integers have no sign, and factors of a negative kernel would be none of it.
        k = ((np.abs(tall) if dtype in "bBhHiIlL" else tall) * row).astype(dtype)
        x, rule = cases.integers(rng, (19, 37), dtype), next(rules)
        expected = oracle.as_dtype(oracle.compute("correlate2d", x, k, "same", rule, 1), dtype)
        # Only 'auto' promises for transforms of floating numbers what the direct sum keeps.
        error = {"f": 1e-3, "F": 1e-3, "d": 1e-11, "D": 1e-11}.get(dtype, 0)
        for method in ("auto", "direct") if dtype in "gG" else METHODS:
            atol = error if method == "fft" else 0
            for workers in (1, 2):
                more = {"method": method, "workers": workers}
                y = fc.correlate2d(x, k, "same", rule, 1, **more)
                # Turned round, the kernel is that of a convolution.
                z = fc.convolve2d(x, k[::-1, ::-1].conj(), "same", rule, 1, **more)
                for got in (y, z):
                    assert got.dtype == expected.dtype
                    near(got, expected, 0, atol, err_msg=f"{dtype} {rule} {method}")
                    count += 1
    return count


def check_rest_of_one_channel(rng):
    """Plans, gradients by transforms, batches, the functions of deep learning."""
    x, k = cases.integers(rng, (2, 29, 40), "f"), cases.integers(rng, (5, 7), "f")
    y = np.stack([oracle.compute("correlate2d", image, k, "valid") for image in x]).astype("f")
    equal(fc.correlate2d(x, k, "valid", axes=(-2, -1)), y)
    equal(fc.plan_correlate2d(k, shape=x.shape, mode="valid", axes=(-2, -1))(x), y)
    plan = fc.plan_convolve2d(
        k[::-1, ::-1], shape=x.shape, mode="valid", axes=(-2, -1), method="fft"
    )
    near(plan(x), y, 0, 1e-3)
    equal(fc.corr2d(x[0], k), y[0])
    assert fc.choose_method(x[0], k).method in ("direct", "separable", "fft")
    dy = cases.integers(rng, y[0].shape, "f")
    dx, dk = oracle.gradients("correlate2d", dy, x[0], k, "valid")
    for method, atol in (("auto", 0), ("direct", 0), ("fft", 1e-2)):
        for got, right in zip(
            fc.correlate2d_vjp(dy, x[0], k, "valid", method=method), (dx, dk), strict=True
        ):
            near(got, right.astype("f"), 0, atol)
    turned = fc.convolve2d_vjp(dy, x[0], k[::-1, ::-1], "valid")
    for got, right in zip(turned, (dx, dk[::-1, ::-1]), strict=True):
        equal(got, right.astype("f"))
    for got, right in zip(fc.corr2d_backward(dy, x[0], k), (dx, dk), strict=True):
        equal(got, right.astype("f"))
    return 12


def check_channels(rng):
    """Random problems of many channels, and Winograd's algorithms."""
    count = 0
    for make in (conv_cases.conv2d_case, conv_cases.conv_transpose2d_case):
        for seed in range(40):
            case = make(seed)
            if case.work < 300_000:
                conv_cases.assert_exact(conv_cases.results(case), conv_cases.expected(case), case)
                count += 1
    for method, dtype, workers in itertools.product(
        ("auto", "direct", "winograd", "winograd4"), conv_cases.FOUR, (1, 2)
    ):
        case = Case(1, "", (2, 5, 13, 11), (6, 5, 3, 3), padding=1, types=(dtype,) * 3)
        units = (1, 1j) if dtype in "FD" else (1,)
        dy, x, w = (  # so small that Winograd's algorithms are exact
            sum(unit * rng.integers(-1, 2, shape) for unit in units).astype(dtype)
            for shape in (case.y_shape, case.x_shape, case.w_shape)
        )
        more = {"padding": 1, "method": method, "rtol": 1e-3, "workers": workers}
        got = fc.conv2d(x, w, **more), *fc.conv2d_backward(dy, x, w, **more)
        conv_cases.assert_exact(got, conv_cases.expected(case, (dy, x, w, None)), method)
        assert fc.conv2d_output_shape(x.shape, 6, 3, padding=1) == got[0].shape
        # The gradient to the image is the transpose of the layer, of a complex one the conjugate.
        equal(fc.conv_transpose2d(dy, w.conj(), padding=1, method=method, rtol=1e-3), got[1])
        count += 5
    case = conv_cases.conv_transpose2d_case(0)
    dy, x, w, _ = case.arrays()
    got = fc.conv_transpose2d_backward(dy, x, w, *case.args)
    for a, b in zip(got, conv_cases.expected(case)[1:], strict=True):
        equal(a, b)
    return count


def check_learning(rng):
    """Layers by hand, the optimizers' first steps, a network that learns a kernel."""
    x = cases.integers(rng, (3, 2, 8, 8), "f")
    blocks = x.reshape(3, 2, 4, 2, 4, 2)
    equal(nn.MaxPool2d(2)(x), blocks.max(axis=(3, 5)))
    equal(nn.AvgPool2d(2)(x), blocks.mean(axis=(3, 5)))
    equal(nn.ReLU()(x), np.maximum(x, 0))
    equal(nn.Flatten()(x), x.reshape(3, -1))
    for layer, right in (
        (nn.Conv2d(2, 3, 3, padding=1, rng=1), lambda w, b: conv_oracle.conv2d(x, w, b, 1, 1)),
        (nn.ConvTranspose2d(2, 3, 2, rng=1), lambda w, b: conv_oracle.conv_transpose2d(x, w, b)),
        (nn.Linear(8, 3, rng=1), lambda w, b: x @ w.T + b),
    ):
        weight, bias = layer.parameters()
        for p in (weight, bias):
            p.data[...] = cases.integers(rng, p.data.shape, "f")
        with nn.no_grad():
            equal(layer(x), right(weight.data, bias.data))
    loss, gradient = nn.mse_loss([[1.0, 3.0]], [[0.0, 1.0]])
    assert loss == 2.5
    equal(gradient, [[1.0, 2.0]])
    loss, gradient = nn.cross_entropy([[0.0, 0.0]], [1])
    assert abs(loss - np.log(2)) < 1e-7
    equal(gradient, [[0.5, -0.5]])
    for name, step in (("SGD", 0.5), ("Adam", 0.5), ("AdamW", 0.5), ("RMSprop", 5.0)):
        parameter = nn.Parameter(np.zeros(2))
        optimizer = getattr(optim, name)([parameter], lr=0.5)
        assert isinstance(optimizer, optim.Optimizer)
        parameter.grad[...] = 1, -1
        optimizer.step()
        np.testing.assert_allclose(parameter.data, [-step, step], rtol=1e-6, err_msg=name)
    parameter.grad[...] = 3, -4
    assert abs(optim.clip_grad_norm([parameter], 1.0) - 5) < 1e-6
    optim.clip_grad_value([parameter], 0.7)
    np.testing.assert_allclose(parameter.grad, [0.6, -0.7], rtol=1e-5)
    for schedule in (optim.StepLR(optimizer, 1, 0.5), optim.CosineAnnealingLR(optimizer, 4)):
        schedule.step()
    right = rng.standard_normal((1, 1, 3, 3)).astype("f")
    images = rng.standard_normal((16, 1, 8, 8)).astype("f")
    model = nn.Sequential(nn.Conv2d(1, 1, 3, rng=2))
    assert isinstance(model, nn.Module)
    history = nn.fit(
        model, images, fc.conv2d(images, right), optimizer=optim.Adam(model.parameters(), lr=0.05),
        loss=nn.mse_loss, epochs=80, batch_size=8, rng=3, progress=False,
    )  # fmt: skip
    assert isinstance(history, nn.History)
    np.testing.assert_allclose(model.parameters()[0].data, right, atol=1e-2)
    return 18


def check_settings(_rng):
    with fc.set_workers(2):
        assert fc.get_workers() == 2
    field = fc.receptive_field([{"kernel_size": 3}, {"kernel_size": 3, "stride": 2}], (9, 9))
    assert field[-1].size == (5, 5)
    mask = fc.receptive_field_mask([{"kernel_size": 3}], (5, 5), (0, 0))
    assert mask.sum() == 9
    return 3


def check_modules(isa):
    """Every compiled module of this instruction set has been loaded."""
    there = {
        path.name.partition(".")[0]
        for folder in importlib.import_module("fastcorr._kernels").__path__
        for path in Path(folder).glob("*.so")
    }
    wanted = {name for name in there if name.endswith((isa, "_f80"))}
    assert len(wanted) == 17, sorted(there)
    missing = {name for name in wanted if f"fastcorr._kernels.{name}" not in sys.modules}
    assert not missing, f"not loaded: {missing}"
    return len(wanted)


def check_gil():
    """A free-threaded Python turns the GIL on when a module is loaded that does not do without."""
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        assert not sys._is_gil_enabled(), "the GIL is on"
        return "off"
    return "on"


if __name__ == "__main__":
    fc.show_config()
    isa = fastcorr.show_config("dicts")["isa"]
    assert isa in (sys.argv[1:] or [isa]), f"{isa} was chosen, not {sys.argv[1]}"
    for n, check in enumerate((check_types, check_methods, check_rest_of_one_channel,
                               check_channels, check_learning, check_settings)):  # fmt: skip
        print(f"{check.__name__[6:]:>25}: {check(np.random.default_rng(n))} exact", flush=True)
    print(f"{'modules':>25}: {check_modules(isa)} loaded")
    print(f"{'GIL':>25}: {check_gil()}")
    for module in (fc, nn, optim):
        assert not module.missed(), f"{module.module.__name__}: never called: {module.missed()}"
        print(f"{module.module.__name__:>25}: {len(module.module.__all__)} public names")
