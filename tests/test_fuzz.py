"""Every public function over its whole argument surface: see surface.py.

A random call is right and gives exactly what the oracles say, or it is spoiled and raises an
error that names an argument (or is right all the same).  The nightly profile makes 2 000 calls
of each function.
"""

import contextlib

import numpy as np
import pytest
import surface
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastcorr
from fastcorr import nn, optim, plot

every_function = pytest.mark.parametrize("name", surface.MAKERS)


def picker(data):
    return lambda low, high: data.draw(st.integers(low, high))


@every_function
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_call(name, data):
    surface.check(name, picker(data))


def test_nothing_public_is_left_out():
    """Of the functions; the pictures have a test of their own below."""
    names = {f"nn.{n}" for n in nn.__all__} | {f"optim.{n}" for n in optim.__all__}
    without = {"nn.Module", "nn.History", "nn.no_grad", "optim.Optimizer"}  # nothing to be called
    assert set(surface.MAKERS) == set(fastcorr.__all__) | (names - without)


@every_function
def test_most_calls_are_judged(name):
    """Of a function's random calls, some are right and some are refused."""
    rng = np.random.default_rng(0)

    def pick(low, high):
        return int(rng.integers(low, high, dtype=np.uint64 if low >= 0 else int, endpoint=True))

    outcomes = [surface.check(name, pick) for _ in range(60)]
    assert outcomes.count(None) >= 20
    assert any(outcomes)


def test_a_wrong_result_is_found(monkeypatch):
    """The suite's own test: an error of one in one number of some results."""
    right = fastcorr.conv2d

    def wrong(x, weight, *args, **more):
        y = right(x, weight, *args, **more)
        if y.shape[-1] == 3:
            y[..., -1] += 1
        return y

    monkeypatch.setattr(fastcorr, "conv2d", wrong)
    rng = np.random.default_rng(0)

    def calls():
        for _ in range(300):
            surface.check("conv2d", lambda low, high: int(rng.integers(low, high + 1)))

    with pytest.raises(AssertionError):
        calls()


PICTURES = {
    "feature_maps": {"y": np.ones((2, 3, 3))},
    "history": {"h": [1.0, 0.5]},
    "image": {"x": np.ones((3, 4))},
    "kernels": {"weight": np.ones((2, 1, 3, 3))},
    "receptive_field": {"layers": [{"kernel_size": 3}], "input_shape": (5, 5)},
}


@pytest.mark.parametrize("name", PICTURES)
@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_picture(name, data):
    """Slow to draw, so few of them: a picture, or an error."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    call = surface.Call(getattr(plot, name), None, **PICTURES[name])
    call.names = [n for n in call.names if n != "ax"]
    surface.spoil(picker(data), call)
    with contextlib.suppress(*surface.ERRORS), np.errstate(all="ignore"):
        assert call.function(**call.kwargs) is not None
    pyplot.close("all")
