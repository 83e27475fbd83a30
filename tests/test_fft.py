"""method='fft': transforms of every length, exact integers, the error bound, NaN, bits."""

import itertools

import cases
import numpy as np
import oracle
import pytest

import fastcorr
from fastcorr import _engine, _fft, _plan

FLOATS = ["f4", "f8", "c8", "c16"]


def integers(rng, shape, dtype, low=-9, high=10):
    dtype = np.dtype(dtype)
    a = rng.integers(0 if dtype.kind == "u" else low, high, shape).astype(dtype)
    if dtype.kind == "c":
        a += 1j * rng.integers(low, high, shape)
    return a


def normal(rng, shape, dtype):
    a = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        a = a + 1j * rng.standard_normal(shape)
    return a.astype(dtype)


def bound(x, k):
    """The documented limits of the error of the real and the imaginary part of each output."""
    unit = np.finfo(k.dtype).eps / 2
    n = k.size if k.size <= 2048 else 2048 + k.size // 2048 + 1

    def sums(*pairs):
        return (
            (n + 1)
            * unit
            * sum(
                fastcorr.correlate2d(np.abs(a), np.abs(b), "valid", method="direct", dtype="f8")
                for a, b in pairs
            )
        )

    if k.dtype.kind != "c":
        return sums((x, k)), 0.0
    return (
        sums((x.real, k.real), (x.imag, k.imag)),
        sums((x.real, k.imag), (x.imag, k.real)),
    )


@pytest.fixture
def preferred(monkeypatch):
    """'auto' takes transforms wherever it may; counts them and what they leave to direct sums."""
    seen = {"fft": 0, "left": 0}
    monkeypatch.setattr(_engine, "_SMALL", 0)
    monkeypatch.setattr(_fft, "_FEW", 0)
    monkeypatch.setattr(_plan, "seconds", lambda *_: {"fft": 0.0, "direct": 1.0})
    monkeypatch.setattr(_plan, "transform_gradient", lambda *_: True)
    call, rectangles = _engine._Transformed.__call__, _engine._rectangles

    def counted_call(*arguments):
        seen["fft"] += 1
        return call(*arguments)

    def counted_rectangles(marked):
        parts = list(rectangles(marked))
        seen["left"] += len(parts)
        return iter(parts)

    monkeypatch.setattr(_engine._Transformed, "__call__", counted_call)
    monkeypatch.setattr(_engine, "_rectangles", counted_rectangles)
    return seen


# ---------------------------------------------------------------- exact


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n", [n for n in _fft.SIZES if n <= 512])
def test_every_length(monkeypatch, preferred, n, dtype):
    rng = np.random.default_rng(n)
    for n0, n1 in ((n, 32), (48, n)):
        monkeypatch.setattr(_fft, "tile", lambda *_, n=(n0, n1): _fft.Tile(n, (0, 0, 0), 0.0, 0))
        k = integers(rng, (7, 11), dtype)
        x = integers(rng, (n0 + 9, 2 * n1 - 5), dtype)
        expected = fastcorr.correlate2d(x, k, "valid", method="direct")
        np.testing.assert_array_equal(fastcorr.correlate2d(x, k, "valid"), expected)
    assert preferred == {"fft": 2, "left": 0}


@pytest.mark.parametrize("n", [n for n in _fft.SIZES if n > 512])
def test_long_ones(n):
    # Kernels of more than 257 rows need them.
    rng = np.random.default_rng(n)
    x, k = rng.standard_normal((n + 40, 48)), rng.standard_normal((n // 2 + 1, 3))
    _fft.tile.cache_clear()
    y = fastcorr.correlate2d(x, k, "valid", method="fft")
    exact = fastcorr.correlate2d(x, k, "valid", method="direct")
    assert np.abs(y - exact).max() < 1e-12 * np.abs(exact).max()


def problems(count):
    rng = np.random.default_rng(4)
    for _ in range(count):
        high = rng.choice([20, 60, 150])
        yield (
            rng,
            tuple(int(n) for n in rng.integers(1, high, 2)),
            tuple(int(n) for n in rng.integers(1, min(high, 40), 2)),
            str(rng.choice(["full", "same", "valid"])),
            tuple(str(b) for b in rng.choice(oracle.RULES, 2)),
            str(rng.choice(["correlate2d", "convolve2d"])),
        )


@pytest.mark.parametrize("dtype", [*FLOATS, "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_integers_are_exact(preferred, dtype):
    for rng, shape, taps, mode, edge, function in problems(40):
        if mode == "valid":
            shape = tuple(max(n, t) for n, t in zip(shape, taps, strict=True))
        x, k = integers(rng, shape, dtype), integers(rng, taps, dtype)
        call = getattr(fastcorr, function)
        np.testing.assert_array_equal(
            call(x, k, mode, edge, 3), call(x, k, mode, edge, 3, method="direct")
        )
    assert preferred["fft"] >= 30


def test_integers_of_other_types(preferred):
    # Wrapping results, unsigned kernels near the limit, images wider than the result.
    rng = np.random.default_rng(1)
    x = rng.integers(0, 2**32, (60, 70)).astype("u4")
    k = rng.integers(2**32 - 50, 2**32, (9, 9)).astype("u4")
    np.testing.assert_array_equal(
        fastcorr.correlate2d(x, k), fastcorr.correlate2d(x, k, method="direct")
    )
    assert preferred["fft"] == 1
    x = rng.integers(-(2**62), 2**62, (60, 70))
    np.testing.assert_array_equal(
        fastcorr.correlate2d(x, x[:9, :9]), fastcorr.correlate2d(x, x[:9, :9], method="direct")
    )
    assert preferred["left"] > 0  # too large to be exact in double precision


def test_large_integers_in_floats_are_left_to_the_direct_sum(preferred):
    # One tap: each output is a pixel, exact whatever its size.
    x = np.random.default_rng(2).integers(2**23, 2**24, (50, 60)).astype("f4")
    k = np.zeros((9, 9), "f4")
    k[3, 4] = 1
    y = fastcorr.correlate2d(x, k, "valid")
    np.testing.assert_array_equal(y, x[3:45, 4:56])


# ---------------------------------------------------------------- rounding


def images(rng, shape):
    """Name -> image, some of them hard."""
    x = rng.standard_normal(shape)
    yield "normal", x
    yield "positive", np.abs(x)
    yield "constant", np.full(shape, 0.3)
    dark = rng.random(shape)
    dark[20:70, 30:80] = 0
    yield "dark", dark
    spike = rng.random(shape)
    spike[40, 50] = 1e12
    yield "spike", spike
    yield "steep", np.exp(np.linspace(-40, 40, shape[1]))[None] * (1 + rng.random(shape))
    sparse = np.zeros(shape)
    sparse[::17, ::13] = rng.standard_normal(sparse[::17, ::13].shape)
    yield "sparse", sparse
    yield "huge", 1e30 * x
    yield "tiny", 1e-36 * x
    yield "zero", np.zeros(shape)


def kernels(rng, shape):
    k = rng.standard_normal(shape)
    yield "normal", k
    yield "positive", rng.random(shape)
    a, b = (np.exp(-(np.linspace(-3, 3, n) ** 2)) for n in shape)
    yield "gaussian", np.outer(a, b)
    holes = rng.random(shape)
    holes[2:-2, 2:-2] = 0
    yield "ring", holes


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("taps", [(9, 9), (15, 16), (31, 29)])
def test_error_is_within_the_bound_everywhere(preferred, dtype, taps):
    rng = np.random.default_rng(taps[0])
    wide = {"f4": "f8", "c8": "c16", "f8": "g", "c16": "G"}[dtype]
    for (_, x), (_, k) in itertools.product(images(rng, (150, 170)), kernels(rng, taps)):
        if np.dtype(dtype).kind == "c":
            x, k = x + 1j * x[::-1], k - 0.5j * k[::-1]
        x, k = x.astype(dtype), k.astype(dtype)
        y = fastcorr.correlate2d(x, k, "valid")
        if wide in "gG":  # a sample of the outputs
            windows = np.lib.stride_tricks.sliding_window_view(x, taps)[::7, ::5]
            exact = np.einsum("ijab,ab->ij", windows.astype(wide), k.conj().astype(wide))
            sample = np.s_[::7, ::5]
        else:
            exact = fastcorr.correlate2d(x.astype(wide), k.astype(wide), "valid", method="direct")
            sample = np.s_[:]
        error = y[sample] - exact
        for part, limit in zip((error.real, error.imag), bound(x, k), strict=True):
            limit = np.broadcast_to(limit, y.shape)[sample]
            assert (np.abs(part) <= limit * 1.001 + np.finfo(dtype).tiny).all()
    assert preferred["fft"] >= 40
    if taps == (31, 29):  # and transforms it was, at least where nothing is hard
        before = preferred["left"]
        x = normal(rng, (150, 170), dtype)
        fastcorr.correlate2d(x, normal(rng, taps, dtype), "valid")
        assert preferred["left"] == before


@pytest.mark.parametrize("method", ["auto", "fft"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_stays_where_the_definition_puts_it(preferred, dtype, value, method):
    rng = np.random.default_rng(3)
    x, k = normal(rng, (120, 130), dtype), normal(rng, (9, 8), dtype)
    x[77, 5] = value
    with np.errstate(invalid="ignore"):
        y = fastcorr.correlate2d(x, k, "same", "symm", method=method)
        exact = fastcorr.correlate2d(x, k, "same", "symm", method="direct")
    np.testing.assert_array_equal(np.isnan(y), np.isnan(exact))
    finite = np.isfinite(exact)
    np.testing.assert_array_equal(y[~finite], exact[~finite])
    assert np.abs(y[finite] - exact[finite]).max() < 1e-4
    assert preferred["fft"] == 1


def test_zeros_are_positive(preferred):
    y = fastcorr.correlate2d(np.zeros((60, 60), "f4"), -np.ones((9, 9), "f4"))
    assert preferred["fft"] == 1
    assert not np.signbit(y).any()


# ---------------------------------------------------------------- bits


@pytest.mark.parametrize("dtype", FLOATS)
def test_bits_do_not_depend_on_workers_or_layout(dtype):
    rng = np.random.default_rng(5)
    x, k = normal(rng, (200, 220), dtype), normal(rng, (13, 12), dtype)
    expected = fastcorr.correlate2d(x, k, "same", "mirror", method="fft", workers=1)
    for workers in (2, 3, 8):
        y = fastcorr.correlate2d(x, k, "same", "mirror", method="fft", workers=workers)
        assert y.tobytes() == expected.tobytes()
    for name, layout in cases.LAYOUTS.items():
        y = fastcorr.correlate2d(layout(x), layout(k), "same", "mirror", method="fft")
        assert y.tobytes() == expected.tobytes(), name
    for make in (
        lambda: np.empty((2 * 200, 220), dtype)[::2],
        lambda: np.empty((220, 200), dtype).T,
    ):
        out = make()
        fastcorr.correlate2d(x, k, "same", "mirror", method="fft", out=out)
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_plane_has_the_bits_that_it_has_alone(dtype):
    rng = np.random.default_rng(6)
    x, k = normal(rng, (3, 1, 90, 80), dtype), normal(rng, (2, 9, 11), dtype)
    x[1, 0, 30, 30] = np.nan
    y = fastcorr.correlate2d(x, k, "same", axes=(-2, -1), method="fft")
    for i, j in np.ndindex(3, 2):
        alone = fastcorr.correlate2d(x[i, 0], k[j], "same", method="fft")
        assert y[i, j].tobytes() == alone.tobytes()
    pairs = fastcorr.correlate2d(x[:2, 0], k, "same", axes=(-2, -1), method="fft")
    for i in range(2):
        assert pairs[i].tobytes() == y[i, i].tobytes()


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("dtype", FLOATS)
def test_gradients_of_integers_are_exact(preferred, dtype):
    for rng, shape, taps, mode, edge, function in problems(25):
        if mode == "valid":
            shape = tuple(max(n, t) for n, t in zip(shape, taps, strict=True))
        x, k = integers(rng, shape, dtype), integers(rng, taps, dtype)
        vjp = getattr(fastcorr, function + "_vjp")
        dy = integers(rng, getattr(fastcorr, function)(x, k, mode, edge).shape, dtype)
        got, expected = (vjp(dy, x, k, mode, edge, method=method) for method in ("auto", "direct"))
        np.testing.assert_array_equal(got[0], expected[0])
        np.testing.assert_array_equal(got[1], expected[1])
    assert preferred["fft"] >= 25


@pytest.mark.parametrize("dtype", FLOATS)
def test_kernel_gradient(preferred, dtype):
    rng = np.random.default_rng(8)
    x, k = normal(rng, (4, 230, 250), dtype), normal(rng, (41, 37), dtype)
    dy = normal(rng, (4, 190, 214), dtype)
    arguments = dict(axes=(-2, -1), needs=("in2",))
    got = fastcorr.correlate2d_vjp(dy, x, k, "valid", **arguments)[1]
    expected = fastcorr.correlate2d_vjp(dy, x, k, "valid", **arguments, method="direct")[1]
    unit = np.finfo(dtype).eps
    assert np.abs(got - expected).max() < 20 * unit * np.abs(expected).max()
    for workers in (2, 3):
        again = fastcorr.correlate2d_vjp(dy, x, k, "valid", **arguments, workers=workers)[1]
        assert again.tobytes() == got.tobytes()
    for bad in (np.nan, np.inf):
        x[2, 5, 5] = bad
        with np.errstate(invalid="ignore"):
            got = fastcorr.correlate2d_vjp(dy, x, k, "valid", **arguments)[1]
            expected = fastcorr.correlate2d_vjp(dy, x, k, "valid", **arguments, method="direct")[1]
        np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("value", [0, np.nan, np.inf, 1e200])
def test_kernels_that_must_not_be_transformed(value):
    x, k = np.ones((40, 40)), np.full((9, 9), value)
    with np.errstate(all="ignore"):
        y = fastcorr.correlate2d(x, k, method="fft")
        np.testing.assert_array_equal(y, fastcorr.correlate2d(x, k, method="direct"))
        np.testing.assert_array_equal(y, fastcorr.correlate2d(x, k))


def test_what_there_is_not():
    x = np.ones((40, 40))
    with pytest.raises(ValueError, match=r"method='fft'.*(longdouble|float128)"):
        fastcorr.correlate2d(x.astype("g"), x[:9, :9], method="fft")
    with pytest.raises(ValueError, match=str(_fft.LARGEST)):
        fastcorr.correlate2d(np.ones((1, 3000)), np.ones((1, 2000)), method="fft")


@pytest.mark.parametrize("k", [(1, 1), (7, 300), (129, 2), (257, 257), (700, 3)])
@pytest.mark.parametrize("outputs", [(1, 1), (1, 5000), (300, 300), (4096, 4096)])
def test_tiles_hold_the_kernel(outputs, k):
    (n0, n1), _, seconds, _ = _fft.tile(outputs, k, 1, "f8")
    assert n0 >= k[0]
    assert n1 >= k[1]
    assert seconds > 0
    if max(k) <= 257:
        assert n0 * n1 <= 1 << 18
