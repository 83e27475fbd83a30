"""Plans, lags, and the choice of methods: the same bits as a call of `correlate2d`."""

import copy
import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor

import cases
import numpy as np
import oracle
import pytest

import fastcorr

PLANS = {
    "correlate2d": (fastcorr.correlate2d, fastcorr.plan_correlate2d),
    "convolve2d": (fastcorr.convolve2d, fastcorr.plan_convolve2d),
}


def same(a, b):
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert cases.bits(a) == cases.bits(b)


# ---------------------------------------------------------------- plans


@pytest.mark.parametrize("function", PLANS)
@pytest.mark.parametrize("dtype", ["f", "d", "g", "F", "D", "G", "B", "h", "i", "Q"])
def test_a_plan_is_the_call(function, dtype):
    call, plan_of = PLANS[function]
    rng = np.random.default_rng(1)
    shapes = [((20, 30), (3, 4)), ((9, 8), (9, 1)), ((70, 90), (13, 12)), ((4, 5), (7, 9))]
    for (shape, taps), mode, edge in itertools.product(
        shapes, oracle.MODES, ("fill", "symm", ("wrap", "nearest"))
    ):
        if mode == "valid" and taps[0] > shape[0] and edge != "fill":
            continue
        x, k = (cases.reals(rng, s, dtype) if dtype in "fdgFDG" else
                cases.integers(rng, s, dtype, wide=True) for s in (shape, taps))  # fmt: skip
        plan = plan_of(k, shape=shape, mode=mode, boundary=edge, fillvalue=2)
        expected = call(x, k, mode, edge, 2)
        same(plan(x), expected)
        assert plan.shape == shape
        assert plan.out_shape == expected.shape
        assert plan.dtype == expected.dtype
        out = np.empty(expected.shape, expected.dtype)
        assert plan(x, out) is out
        same(out, expected)
        for workers in (1, 2, 3):
            same(plan(x, workers=workers), expected)


@pytest.mark.parametrize("method", ["direct", "separable", "fft", "auto"])
def test_methods(method):
    rng = np.random.default_rng(2)
    x = rng.random((150, 160))
    k = np.outer(rng.random(15), rng.random(14))
    plan = fastcorr.plan_correlate2d(k, shape=x.shape, method=method, boundary="mirror")
    assert method in ("auto", plan.method)
    same(plan(x), fastcorr.correlate2d(x, k, boundary="mirror", method=method))


def test_axes_and_dtype():
    rng = np.random.default_rng(3)
    x = rng.integers(0, 255, (3, 1, 40, 50)).astype("B")
    k = rng.random((2, 5, 4)).astype("f")
    plan = fastcorr.plan_correlate2d(k, shape=x.shape, axes=(-2, -1), dtype="f", mode="same")
    expected = fastcorr.correlate2d(x, k, "same", axes=(-2, -1), dtype="f")
    same(plan(x), expected)
    out = np.empty((40, 50, 3, 2), "f").transpose(2, 3, 0, 1)
    plan(x, out)
    np.testing.assert_array_equal(out, expected)


def test_layouts_and_overlap():
    rng = np.random.default_rng(4)
    x, k = rng.standard_normal((40, 44)), rng.standard_normal((5, 6))
    plan = fastcorr.plan_correlate2d(k, shape=x.shape, mode="same")
    expected = fastcorr.correlate2d(x, k, "same")
    for name, layout in cases.LAYOUTS.items():
        same(plan(layout(x)), expected), name
        if name != "read-only":
            out = layout(np.zeros_like(expected))
            plan(x, out)
            np.testing.assert_array_equal(out, expected)
    shared = x.copy()
    assert plan(shared, shared) is shared
    same(shared, expected)
    shared = x.copy()
    plan(shared, shared[::-1])
    np.testing.assert_array_equal(shared[::-1], expected)


def test_the_kernel_is_copied():
    x, k = np.ones((6, 7)), np.ones((2, 2))
    for plan in (
        fastcorr.plan_correlate2d(k, shape=x.shape),
        fastcorr.plan_correlate2d(k, shape=(1, 1), mode="valid"),
    ):
        expected = plan(np.ones(plan.shape))
        k[:] = 9
        same(plan(np.ones(plan.shape)), expected)
        k[:] = 1


def test_threads_share_a_plan():
    rng = np.random.default_rng(5)
    k = rng.random((17, 17))
    plan = fastcorr.plan_correlate2d(k, shape=(120, 130), mode="same")
    images = rng.random((24, 120, 130))
    with ThreadPoolExecutor(8) as pool:
        for x, y in zip(images, pool.map(plan, images), strict=True):
            same(y, fastcorr.correlate2d(x, k, "same"))


def test_pickle_and_repr():
    plan = fastcorr.plan_convolve2d([[1, 2]], shape=(3, 4), boundary=["wrap", "fill"])
    other = pickle.loads(pickle.dumps(plan))
    same(other(np.arange(12).reshape(3, 4)), plan(np.arange(12).reshape(3, 4)))
    assert "(3, 4)" in repr(plan)
    assert "int64" in repr(plan)


def test_copies_do_not_see_what_becomes_of_the_arguments():
    boundary, fill, pair = ["fill", "wrap"], np.array([3.0]), [slice(-1, 2), slice(0, 2)]
    plan = fastcorr.plan_correlate2d(
        np.ones((2, 2)), shape=(2, 2), boundary=boundary, fillvalue=fill, axes=iter((0, 1)),
        lags=pair,
    )  # fmt: skip
    x = np.eye(2)
    right = plan(x)
    boundary[1], fill[0], pair[0] = "fill", 9, slice(0, 1)
    for other in (plan, pickle.loads(pickle.dumps(plan)), copy.copy(plan), copy.deepcopy(plan)):
        same(other(x), right)


def test_errors_of_plans():
    plan = fastcorr.plan_correlate2d(np.ones((2, 2), "f"), shape=(5, 6))
    with pytest.raises(ValueError, match="x must have the planned shape"):
        plan(np.ones((6, 5), "f"))
    with pytest.raises(TypeError, match="x is float64"):
        plan(np.ones((5, 6)))
    with pytest.raises(ValueError, match="out must have shape"):
        plan(np.ones((5, 6), "f"), np.empty((5, 6), "f"))
    with pytest.raises(TypeError, match="out has dtype"):
        plan(np.ones((5, 6), "f"), np.empty((6, 7)))
    with pytest.raises(TypeError, match="out must be a NumPy array"):
        plan(np.ones((5, 6), "f"), [1])
    with pytest.raises(TypeError, match="shape must be"):
        fastcorr.plan_correlate2d(np.ones((2, 2)), shape=5)
    with pytest.raises(ValueError, match="shape must not be negative"):
        fastcorr.plan_correlate2d(np.ones((2, 2)), shape=(5, -1))
    with pytest.raises(ValueError, match="workers"):
        fastcorr.plan_correlate2d(np.ones((2, 2)), shape=(5, 5), workers=0)
    with pytest.raises(ValueError, match="method"):
        fastcorr.plan_correlate2d(np.ones((2, 2)), shape=(5, 5), method="fast")


# ---------------------------------------------------------------- lags


WINDOWS = [slice(None), slice(2, 5), slice(-4, -1), slice(3, 3), slice(7, None), slice(-99, 99)]


@pytest.mark.parametrize("function", PLANS)
@pytest.mark.parametrize("dtype", ["f", "D", "h"])
def test_lags_are_a_window_of_the_result(function, dtype):
    call, plan_of = PLANS[function]
    rng = np.random.default_rng(6)
    x, k = cases.operands(rng, (13, 14), (4, 5), dtype, dtype)
    for mode, edge, rows, cols in itertools.product(
        oracle.MODES, ("fill", "mirror"), WINDOWS, WINDOWS
    ):
        whole = call(x, k, mode, edge)
        np.testing.assert_array_equal(call(x, k, mode, edge, lags=(rows, cols)), whole[rows, cols])
    plan = plan_of(k, shape=x.shape, lags=(slice(2, 6), slice(1, -1)))
    np.testing.assert_array_equal(plan(x), call(x, k)[2:6, 1:-1])
    swapped = call(k, x, "valid", lags=(slice(1, 3), slice(2, 9)))
    np.testing.assert_array_equal(swapped, call(k, x, "valid")[1:3, 2:9])


def test_lags_compute_only_what_is_needed():
    # All of it would not even fit into memory.
    x = np.broadcast_to(np.uint8(1), (200_000, 200_000))
    y = fastcorr.correlate2d(x, np.ones((64, 64), "f"), lags=(slice(70, 72), slice(80, 83)))
    np.testing.assert_array_equal(y, np.full((2, 3), 4096))


@pytest.mark.parametrize("function", PLANS)
def test_gradients_of_a_window(function):
    rng = np.random.default_rng(7)
    call, vjp = PLANS[function][0], getattr(fastcorr, f"{function}_vjp")
    for mode, edge in itertools.product(oracle.MODES, ("fill", "symm")):
        x, k = cases.operands(rng, (9, 11), (3, 4), "F", "F")
        at = (slice(1, -2), slice(2, 7))
        whole = np.zeros_like(call(x, k, mode, edge))
        whole[at] = cases.integers(rng, whole[at].shape, "F")
        expected = vjp(whole, x, k, mode, edge)
        got = vjp(whole[at], x, k, mode, edge, lags=at)
        np.testing.assert_array_equal(got[0], expected[0])
        np.testing.assert_array_equal(got[1], expected[1])


@pytest.mark.parametrize(
    ("lags", "error"),
    [
        (3, TypeError),
        ((1, 2), TypeError),
        ((slice(3),), ValueError),
        ((slice(3),) * 3, ValueError),
        ((slice(0, 3, 2), slice(3)), ValueError),
        ((slice(0, 3, -1), slice(3)), ValueError),
        ((slice(0.5), slice(3)), TypeError),
    ],
)
def test_errors_of_lags(lags, error):
    with pytest.raises(error, match="lags must be"):
        fastcorr.correlate2d(np.ones((5, 5)), np.ones((2, 2)), lags=lags)


# ---------------------------------------------------------------- the choice


def test_choose_method_is_what_auto_does():
    rng = np.random.default_rng(8)
    normal = rng.standard_normal((31, 31))
    gauss = np.outer(*[np.exp(-(np.linspace(-2, 2, 31) ** 2))] * 2)
    for k, method in ((normal, "fft"), (gauss, "separable"), (normal[:3, :3], "direct")):
        x = rng.random((600, 700))
        choice = fastcorr.choose_method(x, k, "same")
        assert choice.method == method
        assert min(choice.seconds, key=choice.seconds.get) == method
        plan = fastcorr.plan_correlate2d(k, shape=x.shape, mode="same")
        assert plan.method == method
        assert method in choice.reason
        same(fastcorr.correlate2d(x, k, "same"), plan(x))
        same(fastcorr.correlate2d(x, k, "same", method=method), plan(x)) if method != "fft" else 0


def test_choose_method_of_what_transforms_cannot_do():
    x, k = np.ones((600, 600)), np.random.default_rng(9).random((31, 31))
    k[3, 4] = np.nan
    assert set(fastcorr.choose_method(x, k).seconds) == {"direct"}
    assert fastcorr.choose_method(x.astype("g"), k).method == "direct"
    k[3, 4] = 0
    x[5, 5] = np.inf
    assert "NaN" in fastcorr.choose_method(x, k).reason
    assert fastcorr.choose_method(np.ones((0, 4)), np.ones((2, 2))).method == "direct"
    assert fastcorr.choose_method([[1]], [[1]])[:2] == ("direct", "the problem is small")


@pytest.mark.parametrize("function", ["correlate2d", "convolve2d", "correlate2d_vjp"])
def test_errors_of_method(function):
    call = getattr(fastcorr, function)
    arguments = [np.ones((5, 5)), np.ones((2, 2))]
    if function.endswith("vjp"):
        arguments.insert(0, np.ones((6, 6)))
    for method in ("fast", "", None, 3):
        with pytest.raises((ValueError, TypeError), match="method must be one of"):
            call(*arguments, method=method)
    arguments[-1] = np.array([[1.0, 2.0, 0.1], [3.0, 0.7, 1.0], [0.2, 5.0, 6.0], [9.0, 1.0, 0.3]])
    with pytest.raises(ValueError, match="method='fft'"):
        fastcorr.correlate2d(np.ones((9, 9), "g"), arguments[-1], method="fft")
