"""The oracle itself, on results that anybody can check by hand, and against NumPy."""

import numpy as np
import pytest
from cases import integers
from oracle import MODES, RULES, as_dtype, compute, gradients, source, summed, summed_gradients

PAD = {"wrap": "wrap", "symm": "symmetric", "mirror": "reflect", "nearest": "edge"}


@pytest.mark.parametrize(
    ("rule", "shown"),
    [
        ("wrap", "bcabcabcab"),
        ("symm", "bcbaabccba".replace("bcba", "cba", 1)),
        ("mirror", "bcbabcbabc"),
        ("nearest", "aaaabccccc"),
    ],
)
def test_source_by_hand(rule, shown):
    start = {"wrap": -5, "symm": -3, "mirror": -3, "nearest": -3}[rule]
    assert "".join("abc"[source(start + i, 3, rule)] for i in range(len(shown))) == shown


@pytest.mark.parametrize("rule", PAD)
@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_source_is_numpy_pad(rule, n):
    padded = np.pad(np.arange(n), 20, PAD[rule])
    assert [source(i, n, rule) for i in range(-20, n + 20)] == padded.tolist()


def test_fill_has_no_source():
    assert [source(i, 2, "fill") for i in range(-1, 4)] == [None, 0, 1, None, None]


def test_compute_by_hand():
    x, k = [[0, 1, 2], [3, 4, 5], [6, 7, 8]], [[0, 1], [2, 3]]
    assert compute("correlate2d", x, k, "valid").tolist() == [[19, 25], [37, 43]]
    assert compute("convolve2d", [[1, 2, 3]], [[1, 10]]).tolist() == [[1, 12, 23, 30]]
    assert compute("correlate2d", [[1, 2, 3]], [[1, 10]]).tolist() == [[10, 21, 32, 3]]
    assert compute("correlate2d", [[1j]], [[1j, 2]], "valid").tolist() == [[2j, 1]]
    assert compute("correlate2d", [[1, 2]], [[1, 1]], fill=7).tolist() == [[8, 3, 9]]


@pytest.mark.parametrize("function", ["correlate2d", "convolve2d"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rule", RULES)
def test_gradients_by_differences(function, mode, rule, rng):
    """Both maps are real-linear: the differences along the unit vectors are the gradients."""

    def gaussian(*shape):
        parts = rng.integers(-9, 10, (2, *shape))
        return (parts[0] + 1j * parts[1]).astype(object)

    def product(a, b):
        return sum((u.conjugate() * v).real for u, v in zip(a.flat, b.flat, strict=True))

    x, k = gaussian(3, 4), gaussian(2, 3)
    dy = gaussian(*compute(function, x, k, mode, rule).shape)
    for operand, gradient in zip((x, k), gradients(function, dy, x, k, mode, rule), strict=True):
        for at in np.ndindex(operand.shape):
            slopes = []
            for unit in (1 + 0j, 1j):
                before = operand[at]
                y0 = compute(function, x, k, mode, rule)
                operand[at] = before + unit
                slopes.append(product(dy, compute(function, x, k, mode, rule) - y0))
                operand[at] = before
            assert complex(*slopes) == gradient[at]


@pytest.mark.parametrize("function", ["correlate2d", "convolve2d"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rule", [*RULES, ("mirror", "fill"), ("fill", "wrap")], ids=str)
@pytest.mark.parametrize("dtype", "lD")
def test_summed_by_numpy(function, mode, rule, dtype, rng):
    """The same numbers, of images smaller than the kernel too, of windows and of stacks."""
    for shapes in [((1, 1), (1, 1)), ((5, 7), (3, 2)), ((2, 3), (4, 6)), ((1, 6), (1, 3))]:
        dy_shape = compute(function, *map(np.zeros, shapes), mode, rule).shape
        x, k, dy = (integers(rng, shape, dtype) for shape in (*shapes, dy_shape))
        args = mode, rule, 3
        for lags in (np.s_[:, :], np.s_[1:, :-1]):
            inside = np.zeros_like(dy)
            inside[lags] = dy[lags]
            y = summed(function, x, k, *args, lags)
            right = as_dtype(compute(function, x, k, *args), dtype)
            np.testing.assert_array_equal(y, right[lags], strict=True)
            got = summed_gradients(function, dy[lags], x, k, *args, lags)
            for a, b in zip(got, gradients(function, inside, x, k, *args), strict=True):
                np.testing.assert_array_equal(a, as_dtype(b, dtype), strict=True)
    x, k = integers(rng, (3, 1, 4, 5), dtype), integers(rng, (2, 2, 3), dtype)
    y = summed(function, x, k, mode, rule, 3)
    dx, dk = (np.zeros(v.shape, object) for v in (x, k))
    for i, j in np.ndindex(y.shape[:2]):
        right = as_dtype(compute(function, x[i, 0], k[j], mode, rule, 3), dtype)
        np.testing.assert_array_equal(y[i, j], right)
        parts = gradients(function, y[i, j], x[i, 0], k[j], mode, rule, 3)
        dx[i, 0] += parts[0]
        dk[j] += parts[1]
    for a, b in zip(summed_gradients(function, y, x, k, mode, rule, 3), (dx, dk), strict=True):
        np.testing.assert_array_equal(a, as_dtype(b, dtype), strict=True)
