"""Gradients: exact on integers against brute force, adjoint for every mode and boundary."""

import copy
import itertools
import warnings

import cases
import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastcorr

FUNCTIONS = ("correlate2d", "convolve2d")
RULE_PAIRS = list(itertools.product(oracle.RULES, repeat=2))

both_functions = pytest.mark.parametrize("function", FUNCTIONS)
every_mode = pytest.mark.parametrize("mode", oracle.MODES)


def forward(function, *args, **kwargs):
    return getattr(fastcorr, function)(*args, **kwargs)


def vjp(function, *args, **kwargs):
    return getattr(fastcorr, function + "_vjp")(*args, **kwargs)


def product(a, b):
    """The real inner product, exact for integers: in wrapping arithmetic or without rounding."""
    return (np.conj(a) * b).real.sum(dtype=a.real.dtype.newbyteorder("="))


def fitting(mode, x_shape, k_shape):
    """Whether 'valid' can be asked for."""
    return mode != "valid" or len({*(np.sign(np.subtract(x_shape, k_shape)))} - {0}) < 2


# ---------------------------------------------------------------- against brute force

SHAPES = [
    ((1, 1), (1, 1)), ((5, 6), (3, 3)), ((6, 5), (2, 4)), ((3, 4), (5, 6)), ((1, 7), (1, 4)),
    ((2, 3), (6, 3)), ((4, 19), (2, 3)),
]  # fmt: skip


@both_functions
@every_mode
@pytest.mark.parametrize("dtype", "lfDG")
@pytest.mark.parametrize(("x_shape", "k_shape"), SHAPES, ids=str)
def test_every_rule_against_the_definition(function, mode, dtype, x_shape, k_shape, rng):
    """Each of the five rules and each pair of different ones, swapped 'valid' too."""
    assert fitting(mode, x_shape, k_shape)
    a, b = cases.integers(rng, x_shape, dtype), cases.integers(rng, k_shape, dtype)
    dy = cases.integers(rng, oracle.shape(mode, x_shape, k_shape), dtype)
    for rules in RULE_PAIRS if mode != "valid" else [("fill", "fill"), ("wrap", "mirror")]:
        expected = oracle.gradients(function, dy, a, b, mode, rules, 2)
        got = vjp(function, dy, a, b, mode, rules, 2)
        for operand, gradient, right in zip((a, b), got, expected, strict=True):
            assert gradient.dtype == operand.dtype
            np.testing.assert_array_equal(
                gradient, oracle.as_dtype(right, dtype), strict=True, err_msg=rules
            )
            assert gradient.flags.c_contiguous
            assert gradient.flags.writeable


@both_functions
@pytest.mark.parametrize("width", [*range(1, 36), 63, 64, 65, 130])
@pytest.mark.parametrize("dtype", "lfdFg")
def test_every_width(function, width, dtype, rng):
    """The sums over rows of every length: no lane missed, none counted twice."""
    for height, taps in ((1, (1, 1)), (3, (2, 3)), (9, (4, 9))):
        a = cases.integers(rng, (height, width), dtype)
        b = cases.integers(rng, taps, dtype)
        dy = cases.integers(rng, a.shape, dtype)
        right = oracle.gradients(function, dy, a, b, "same", "symm")
        for gradient, expected in zip(vjp(function, dy, a, b, "same", "symm"), right, strict=True):
            np.testing.assert_array_equal(gradient, oracle.as_dtype(expected, dtype))


# ---------------------------------------------------------------- the adjoint identity

LARGE = [
    ((45, 83), (7, 9)), ((40, 70), (1, 30)), ((70, 33), (26, 2)), ((9, 11), (30, 40)),
    ((80, 600), (3, 3)), ((1, 1), (5, 70)), ((70, 300), (66, 260)),
]  # fmt: skip


@both_functions
@every_mode
@pytest.mark.parametrize("dtype", "hldfgDFG")
@pytest.mark.parametrize(("x_shape", "k_shape"), LARGE, ids=str)
def test_adjoint(function, mode, dtype, x_shape, k_shape, rng):
    """<dy, f(x, k)> = <dx, x> = <dk, k>, exactly, at sizes that are cut into tiles."""
    work = np.prod(x_shape) * np.prod(k_shape) * (10 if dtype in "gG" else 1)
    if work > 1_000_000 and (mode == "full" or dtype not in "fF"):
        pytest.skip("slow")
    rng = copy.deepcopy(rng)  # of which threads, in some jobs, share one
    # Inner products below 2**24: exact in single precision too.
    top = 2 if dtype in "fF" else 9
    a, b = (np.clip(cases.integers(rng, s, dtype).real, -top, top) for s in (x_shape, k_shape))
    dy = np.clip(cases.integers(rng, oracle.shape(mode, x_shape, k_shape), dtype).real, -top, top)
    a, b, dy = (v.astype(dtype) for v in (a, b, dy))
    if np.dtype(dtype).kind == "c":
        a, b, dy = (v * (1 - 1j) + 1j * v[::-1, ::-1] for v in (a, b, dy))
        a, b, dy = (v.astype(dtype) for v in (a, b, dy))
    a[0, 0] = top
    rules = RULE_PAIRS if a.size < 10_000 and b.size < 100 else [(r, r) for r in oracle.RULES]
    for rule in rules if mode != "valid" else rules[:1]:
        y = forward(function, a, b, mode, rule, workers=1)
        dx, dk = vjp(function, dy, a, b, mode, rule, workers=1)
        wide = {"f": "d", "F": "D"}.get(dtype, dtype)
        dot, dot_x, dot_k = (
            product(u.astype(wide), v.astype(wide)) for u, v in ((dy, y), (dx, a), (dk, b))
        )
        assert dot == dot_x == dot_k, rule
        assert dot != 0 or y.size < 100


@both_functions
@pytest.mark.parametrize("rule", oracle.RULES)
@pytest.mark.parametrize(
    ("x_shape", "k_shape"),
    [((2, 2), (1, 40_000)), ((3, 5), (300, 200)), ((1, 1), (70, 70))],
    ids=str,
)
def test_kernels_far_larger_than_the_image(function, rule, x_shape, k_shape, rng):
    """The edge is folded over many times; once that took a call for each time, and minutes."""
    a, b, dy = (cases.integers(rng, s, "l") for s in (x_shape, k_shape, x_shape))
    y = forward(function, a, b, "same", rule)
    dx, dk = vjp(function, dy, a, b, "same", rule)
    assert (dy * y).sum() == (dx * a).sum() == (dk * b).sum()


@both_functions
@every_mode
def test_fillvalue_is_part_of_the_kernel_gradient(function, mode, rng):
    a, b = cases.integers(rng, (4, 5), "d"), cases.integers(rng, (3, 2), "d")
    y = forward(function, a, b, mode, "fill", 7)
    dy = cases.integers(rng, y.shape, "d")
    dx, dk = vjp(function, dy, a, b, mode, "fill", 7)
    assert product(dk, b) == product(dy, y)  # y is linear in the kernel, fill value and all
    plain = vjp(function, dy, a, b, mode)
    np.testing.assert_array_equal(dx, plain[0])
    assert (dk == plain[1]).all() == (mode == "valid")


# ---------------------------------------------------------------- axes

AXES_PROBLEMS = [
    ((3, 6, 7), (2, 3), (-2, -1)), ((6, 7), (4, 2, 3), (-2, -1)),
    ((3, 1, 6, 7), (4, 2, 3), (-2, -1)), ((3, 6, 7), (3, 2, 3), (-2, -1)),
    ((2, 1, 5, 6), (1, 3, 2, 2), (-2, -1)), ((6, 7, 3), (2, 3), (0, 1)),
    ((6, 7, 3), (2, 3, 5, 1), (0, 1)), ((6, 3, 7), (2, 3), (0, -1)), ((7, 6), (3, 2), (1, 0)),
    ((2, 3), (4, 6, 7), (-2, -1)), ((0, 6, 7), (2, 3), (-2, -1)), ((1, 5, 6), (2, 2), (-2, -1)),
]  # fmt: skip


@both_functions
@every_mode
@pytest.mark.parametrize("dtype", "dFG")
@pytest.mark.parametrize(("x_shape", "k_shape", "axes"), AXES_PROBLEMS, ids=str)
def test_axes(function, mode, dtype, x_shape, k_shape, axes, rng):
    """Plane by plane, and summed over the axes along which an operand was broadcast."""
    a, b = cases.integers(rng, x_shape, dtype), cases.integers(rng, k_shape, dtype)
    rule = ("symm", "fill")
    dy = cases.integers(rng, forward(function, a, b, mode, rule, axes=axes).shape, dtype)
    got = vjp(function, dy, a, b, mode, rule, axes=axes)

    inner = tuple(np.moveaxis(v, axes, (-2, -1)) for v in (dy, a, b))
    batch = inner[0].shape[:-2]
    dyb, ab, bb = (np.broadcast_to(v, batch + v.shape[-2:]) for v in inner)
    sums = np.zeros(inner[1].shape, object), np.zeros(inner[2].shape, object)
    for at in np.ndindex(batch):
        planes = oracle.gradients(function, dyb[at], ab[at], bb[at], mode, rule)
        for total, plane in zip(sums, planes, strict=True):
            own = total.shape[:-2]
            there = at[len(at) - len(own) :]
            there = tuple(0 if n == 1 else i for i, n in zip(there, own, strict=True))
            total[there] += plane
    for total, gradient, operand in zip(sums, got, (a, b), strict=True):
        expected = np.moveaxis(oracle.as_dtype(total, dtype), (-2, -1), axes)
        np.testing.assert_array_equal(gradient, expected, strict=True)
        assert gradient.shape == operand.shape
        assert gradient.flags.c_contiguous


# ---------------------------------------------------------------- types, layouts, arguments


@both_functions
@every_mode
@pytest.mark.parametrize(
    ("types", "gradient_types"),
    [
        ("fdd", "fd"), ("dff", "df"), ("fff", "ff"), ("ffd", "ff"), ("dDD", "dD"), ("DdD", "Dd"),
        ("fDD", "fD"), ("Ffd", "Ff"), ("FFF", "FF"), ("DDd", "DD"), ("gfd", "gf"), ("Bff", "ff"),
        ("llf", "dd"), ("lll", "ll"), ("BBd", "dd"), ("?fd", "df"), ("??d", "dd"), ("dGd", "dG"),
        ("eff", "ef"), ("FBF", "Ff"),
    ],
)  # fmt: skip
def test_types(function, mode, types, gradient_types, rng):
    """Gradients are real for real operands, and in the operand's precision if that is floating."""
    x_type, k_type, dy_type = types
    a, b = cases.integers(rng, (5, 9), x_type), cases.integers(rng, (2, 3), k_type)
    dy = cases.integers(rng, oracle.shape(mode, a.shape, b.shape), dy_type)
    right = oracle.gradients(function, dy, a, b, mode, "symm")
    got = vjp(function, dy, a, b, mode, "symm")
    for gradient, expected, dtype, operand in zip(got, right, gradient_types, "ab", strict=True):
        assert gradient.dtype == np.dtype(dtype), operand
        if gradient.dtype.kind != "c":
            expected = np.array([v.real for v in expected.flat], object).reshape(expected.shape)
        np.testing.assert_array_equal(gradient, oracle.as_dtype(expected, dtype), strict=True)


@both_functions
@every_mode
@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize("dtype", "ldF")
def test_layouts(function, mode, layout, dtype, rng):
    a, b = cases.integers(rng, (9, 40), dtype), cases.integers(rng, (3, 4), dtype)
    dy = cases.integers(rng, oracle.shape(mode, a.shape, b.shape), dtype)
    expected = vjp(function, dy, a, b, mode, "wrap")
    odd = [cases.LAYOUTS[layout](v) for v in (dy, a, b)]
    before = [v.tobytes() for v in odd]
    for gradient, right in zip(vjp(function, *odd, mode, "wrap"), expected, strict=True):
        np.testing.assert_array_equal(gradient, right, strict=True)
    assert [v.tobytes() for v in odd] == before


def test_the_direct_sum_is_so_whichever_operand_slides(rng):
    """Where the kernel is larger than dy, dy slides over it: by the method that was named."""
    x, k = (cases.reals(rng, s, "f") for s in ((220, 220), (140, 140)))
    dy = cases.reals(rng, (81, 81), "f")
    dx, _ = fastcorr.correlate2d_vjp(dy, x, k, "valid", needs="in1", method="direct")
    slides = fastcorr.convolve2d(k, dy, "full", method="direct")
    assert cases.bits(dx) == cases.bits(slides)
    assert fastcorr.choose_method(k, dy, "full")[0] == "fft"  # or there is nothing to see


@both_functions
@every_mode
def test_needs(function, mode, rng):
    for x_shape, k_shape in (((5, 6), (2, 3)), ((2, 3), (5, 6))):
        a, b = cases.integers(rng, x_shape, "d"), cases.integers(rng, k_shape, "d")
        dy = cases.integers(rng, oracle.shape(mode, x_shape, k_shape), "d")
        d1, d2 = vjp(function, dy, a, b, mode)
        only1, none2 = vjp(function, dy, a, b, mode, needs=("in1",))
        none1, only2 = vjp(function, dy, a, b, mode, needs=["in2"])
        np.testing.assert_array_equal(only1, d1)
        np.testing.assert_array_equal(only2, d2)
        assert none1 is none2 is None
        assert vjp(function, dy, a, b, mode, needs="in2")[0] is None
        assert vjp(function, dy, a, b, mode, needs=()) == (None, None)


@both_functions
@every_mode
@pytest.mark.parametrize("shapes", [((0, 3), (2, 2)), ((3, 0), (2, 1)), ((3, 3), (0, 2)),
                                    ((3, 3), (0, 0))])  # fmt: skip
def test_empty(function, mode, shapes):
    a, b = (np.ones(s) for s in shapes)
    if mode == "valid":
        with pytest.raises(ValueError, match="empty"):
            vjp(function, np.ones((1, 1)), a, b, mode)
        return
    dy = np.ones(forward(function, a, b, mode).shape)
    dx, dk = vjp(function, dy, a, b, mode)
    np.testing.assert_array_equal(dx, np.zeros_like(a), strict=True)
    np.testing.assert_array_equal(dk, np.zeros_like(b), strict=True)


@both_functions
def test_errors(function):
    a, b, y = np.ones((4, 5)), np.ones((2, 2)), np.ones((5, 6))
    for error, match, args, kwargs in [
        (ValueError, r"dy must have the shape .*\(5, 6\).*\(5, 5\)", (np.ones((5, 5)), a, b), {}),
        (ValueError, "dy must have the shape", (np.ones((5, 1)), a, b), {}),
        (ValueError, "dy must have the shape", (1.0, a, b), {}),
        (TypeError, "dy is complex", (y + 0j, a, b), {}),
        (ValueError, "needs", (y, a, b), {"needs": ("x",)}),
        (ValueError, "needs", (y, a, b), {"needs": "in3"}),
        (TypeError, None, (y, a, b), {"needs": None}),
        (TypeError, None, (y, a, b), {"needs": 1}),
        (ValueError, "Acceptable mode", (y, a, b, "middle"), {}),
        (ValueError, "Acceptable boundary", (y, a, b, "full", "hold"), {}),
        (ValueError, "fillvalue", (y, a, b, "full", "fill", []), {}),
        (ValueError, "2-D", (y, a[0], b), {}),
        (ValueError, "empty axis", (y, a[:0], b, "full", "wrap"), {}),
        (ValueError, "type", (y, a.astype(object), b), {}),
        (ValueError, "type", (y.astype(object), a, b), {}),
        (TypeError, "masked", (np.ma.masked_equal(y, 1), a, b), {}),
        (TypeError, "masked", (y, np.ma.masked_equal(a, 1), b), {}),
        (ValueError, "workers", (y, a, b), {"workers": 0}),
        (TypeError, "workers", (y, a, b), {"workers": 1.0}),
        (TypeError, "axes", (y, a, b), {"axes": 1}),
        (TypeError, None, (y, a, b, "full", "fill", 0, None), {}),
    ]:
        with pytest.raises(error, match=match):
            vjp(function, *args, **kwargs)


# ---------------------------------------------------------------- NaN and infinity


def assert_spread(rng, function, mode, dtype, shapes, place, rule, value):
    """One NaN or inf in dy, x or k reaches those elements that it has a term in, no other."""
    x, k = (cases.integers(rng, s, dtype) for s in shapes)
    dy = cases.integers(rng, oracle.shape(mode, *shapes), dtype)
    x, k, dy = (np.where(v == 0, 1, v).astype(dtype) for v in (x, k, dy))
    array = {"dy": dy, "x": x, "k": k}[place]
    array[tuple(rng.integers(0, n) for n in array.shape)] = value
    expected = oracle.gradients(function, dy, x, k, mode, rule, 1)
    with np.errstate(all="ignore"):
        got = vjp(function, dy, x, k, mode, rule, 1)
    for name, gradient, right in zip(("dx", "dk"), got, expected, strict=True):
        right = np.array(right.tolist(), float).astype(dtype)
        np.testing.assert_array_equal(gradient, right, err_msg=f"{name} {shapes} {rule} {value}")


@both_functions
@every_mode
@pytest.mark.parametrize("dtype", "fdg")
@pytest.mark.parametrize("place", ["dy", "x"])
def test_non_finite_values_reach_what_the_definition_says(function, mode, dtype, place, rng):
    for x_shape, k_shape in (((5, 9), (2, 3)), ((3, 4), (4, 6)), ((2, 19), (1, 4))):
        if mode == "valid" and place == "x" and x_shape < k_shape:
            continue  # then x is the kernel
        for rule, value in itertools.product(oracle.RULES, (np.nan, np.inf)):
            assert_spread(rng, function, mode, dtype, (x_shape, k_shape), place, rule, value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_kernels_spread_no_further_than_documented(value, rng):
    """Near the ends of dy, which is continued by zeros, 0 * inf adds NaN; nowhere else."""
    x, k = (cases.integers(rng, s, "d") for s in ((9, 12), (2, 3)))
    dy = np.ones((8, 10))
    k[1, 0] = value
    dx, dk = fastcorr.corr2d_backward(dy, x, k)
    right, right_k = oracle.gradients("correlate2d", dy, x, k, "valid", "fill", 0)
    right = np.array(right.tolist(), float)
    np.testing.assert_array_equal(dk, np.array(right_k.tolist(), float))
    np.testing.assert_array_equal(dx[1:-1, 2:-2], right[1:-1, 2:-2])
    differ = ~((dx == right) | (np.isnan(dx) & np.isnan(right)))
    assert np.isnan(dx[differ]).all()


def test_opposite_infinities_are_silent():
    """inf - inf is NaN, without a warning, where the boundary folds dy back onto the image."""
    x, k = np.ones((1, 3)), np.ones((1, 3))
    dy = np.ones((1, 5))
    dy[0, 0], dy[0, -1] = np.inf, -np.inf
    with np.errstate(all="raise"):
        for dtype in "fdgFDG":
            for rule in oracle.RULES:
                arrays = (v.astype(dtype) for v in (dy, x, k))
                dx, dk = fastcorr.correlate2d_vjp(*arrays, "full", rule, 1)
                assert np.isnan(dx.real).any() == (rule not in ("fill", "nearest"))
                assert np.isnan(dk).all()


@pytest.mark.parametrize("dtype", "fdFD")
@pytest.mark.parametrize("width", range(1, 40))
def test_nothing_beside_the_windows_is_touched(dtype, width):
    """NaN all round the image and dy in larger arrays: none reaches a gradient."""

    def window(h, w):
        big = np.full((h + 6, w + 20), np.nan, dtype)
        big[3 : 3 + h, 9 : 9 + w] = 1
        return big[3 : 3 + h, 9 : 9 + w]

    for mode, rule in itertools.product(("full", "same", "valid"), ("fill", "wrap", "symm")):
        x, k = window(7, width + 2), window(2, 3)
        dy = window(*oracle.shape(mode, x.shape, k.shape))
        for gradient in fastcorr.correlate2d_vjp(dy, x, k, mode, rule):
            assert np.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", "fd")
@pytest.mark.parametrize("width", range(3, 40))
def test_inf_beside_the_last_vector(dtype, width):
    """An infinite pixel that only the last tap sees stays with that tap."""
    x, k = np.ones((4, width), dtype), np.ones((2, 3), dtype)
    x[0, -1] = np.inf
    _, dk = fastcorr.corr2d_backward(np.ones((3, width - 2), dtype), x, k)
    assert np.isinf(dk[0, 2])
    assert np.isfinite(dk).sum() == 5


@pytest.mark.parametrize("dtype", "fd")
def test_error_of_the_kernel_gradient(dtype, rng):
    """Long sums: |error| <= (n + 1) u sum |x| |dy|, and single precision does far better."""
    x, dy = cases.reals(rng, (300, 400), dtype, 2), cases.reals(rng, (298, 398), dtype, 2)
    _, dk = fastcorr.corr2d_backward(dy, x, np.ones((3, 3), dtype))
    unit = float(np.finfo(dtype).eps) / 2
    for a, b in np.ndindex(3, 3):
        terms = x[a : a + 298, b : b + 398].astype("g") * dy.astype("g")
        bound = unit * abs(terms).sum() * (100 if dtype == "f" else dy.size + 1)
        assert abs(dk[a, b] - terms.sum()) <= bound


# ---------------------------------------------------------------- corr2d


def test_corr2d_by_hand():
    x, k = [[0, 1, 2], [3, 4, 5], [6, 7, 8]], [[0, 1], [2, 3]]
    y = fastcorr.corr2d(x, k)
    assert y.dtype == np.int64
    assert y.tolist() == [[19, 25], [37, 43]]
    dx, dk = fastcorr.corr2d_backward([[1, 0], [0, 0]], x, k)
    assert dx.tolist() == [[0, 1, 0], [2, 3, 0], [0, 0, 0]]
    assert dk.tolist() == [[0, 1], [3, 4]]
    dx, dk = fastcorr.corr2d_backward(np.ones((2, 2), int), x, k)
    assert dx.tolist() == [[0, 1, 1], [2, 6, 4], [2, 5, 3]]
    assert dk.tolist() == [[8, 12], [20, 24]]


@pytest.mark.parametrize("dtype", "BlfdgFDG")
def test_corr2d_is_valid_and_conjugates_nothing(dtype, rng):
    x, k = cases.operands(rng, (8, 21), (3, 4), dtype, dtype)
    expected = oracle.compute("correlate2d", x, k.conj(), "valid")
    y = fastcorr.corr2d(x, k)
    np.testing.assert_array_equal(y, oracle.as_dtype(expected, dtype), strict=True)
    out = np.empty_like(y)
    assert fastcorr.corr2d(x, k, out=out) is out
    np.testing.assert_array_equal(out, y)


@pytest.mark.parametrize("dtype", "lfdgFDG")
def test_corr2d_backward(dtype, rng):
    x, k = cases.integers(rng, (8, 21), dtype), cases.integers(rng, (3, 4), dtype)
    dy = cases.integers(rng, (6, 18), dtype)
    dx, dk = fastcorr.corr2d_backward(dy, x, k)
    # corr2d(x, k) is correlate2d(x, conj(k)), so the gradient to k is conjugated too.
    ex, ek = oracle.gradients("correlate2d", dy, x, k.conj(), "valid")
    np.testing.assert_array_equal(dx, oracle.as_dtype(ex, dtype), strict=True)
    np.testing.assert_array_equal(dk, oracle.as_dtype(ek, dtype).conj(), strict=True)
    only, none = fastcorr.corr2d_backward(dy, x, k, needs=("x",))
    np.testing.assert_array_equal(only, dx)
    assert none is None
    assert fastcorr.corr2d_backward(dy, x, k, needs="k")[0] is None


def test_corr2d_errors():
    one = np.ones((3, 3))
    for error, match, args in [
        (ValueError, r"k must not be larger than x.*\(3, 3\).*\(3, 4\)", (one, np.ones((3, 4)))),
        (ValueError, "empty", (one, np.ones((0, 1)))),
        (ValueError, "empty", (np.ones((0, 0)), np.ones((0, 0)))),
        (ValueError, "2-D", (one[0], one)),
        (ValueError, "type", (one.astype(object), one)),
        (ValueError, "type", (one > 0, one > 0)),
        (TypeError, "masked", (np.ma.masked_equal(one, 1), one)),
        (TypeError, None, (one, one, "valid")),
    ]:
        with pytest.raises(error, match=match):
            fastcorr.corr2d(*args)
    for error, match, args, kwargs in [
        (ValueError, r"dy must have the shape .*\(1, 1\)", (one, one, one), {}),
        (ValueError, "k must not be larger", (one, one, np.ones((3, 4))), {}),
        (TypeError, "dy is complex", (np.ones((1, 1), "D"), one, one), {}),
        (ValueError, "needs", (np.ones((1, 1)), one, one), {"needs": ("in1",)}),
    ]:
        with pytest.raises(error, match=match):
            fastcorr.corr2d_backward(*args, **kwargs)


# ---------------------------------------------------------------- PyTorch


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("fill", None), ("wrap", "circular"), ("mirror", "reflect"), ("nearest", "replicate")],
)
@pytest.mark.parametrize("dtype", "fd")
def test_gradients_are_torchs(torch, ours, theirs, dtype, rng):
    """'same' with odd kernels is a padding and conv2d; integers, so to the last bit."""
    x, k = cases.integers(rng, (3, 1, 9, 12), dtype), cases.integers(rng, (4, 3, 5), dtype)
    dy = cases.integers(rng, (3, 4, 9, 12), dtype)
    tx, tk = (torch.from_numpy(v).requires_grad_() for v in (x, k))
    pad = (2, 2, 1, 1)
    functional = torch.nn.functional
    padded = functional.pad(tx, pad) if theirs is None else functional.pad(tx, pad, theirs)
    ty = functional.conv2d(padded, tk[:, None])
    ty.backward(torch.from_numpy(dy))
    y = fastcorr.correlate2d(x, k, "same", ours, axes=(-2, -1))
    dx, dk = fastcorr.correlate2d_vjp(dy, x, k, "same", ours, axes=(-2, -1))
    np.testing.assert_array_equal(y, ty.detach().numpy())
    np.testing.assert_array_equal(dx, tx.grad.numpy())
    np.testing.assert_array_equal(dk, tk.grad.numpy())


def test_complex_gradients_are_torchs(torch, rng):
    """The convention for complex numbers, on corr2d."""
    x, k = cases.integers(rng, (6, 7), "D"), cases.integers(rng, (3, 2), "D")
    dy = cases.integers(rng, (4, 6), "D")
    tx, tk = (torch.from_numpy(v).requires_grad_() for v in (x, k))
    ty = torch.nn.functional.conv2d(tx[None, None], tk[None, None])[0, 0]
    ty.backward(torch.from_numpy(dy))
    np.testing.assert_array_equal(fastcorr.corr2d(x, k), ty.detach().numpy())
    dx, dk = fastcorr.corr2d_backward(dy, x, k)
    np.testing.assert_array_equal(dx, tx.grad.numpy())
    np.testing.assert_array_equal(dk, tk.grad.numpy())


def test_even_kernels_are_torchs_same_padding(torch, rng):
    x, k = cases.integers(rng, (8, 9), "d"), cases.integers(rng, (4, 2), "d")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of 'same', but once in a process
        y = torch.nn.functional.conv2d(
            torch.from_numpy(x)[None, None], torch.from_numpy(k)[None, None], padding="same"
        )[0, 0]
    np.testing.assert_array_equal(fastcorr.correlate2d(x, k, "same"), y.numpy())


# ---------------------------------------------------------------- hypothesis


@st.composite
def problems(draw):
    function = draw(st.sampled_from(FUNCTIONS))
    mode = draw(st.sampled_from(oracle.MODES))
    dtype = draw(st.sampled_from("hlfdgFDG"))
    side = st.integers(1, 40)
    tap = st.integers(1, 12)
    x_shape, k_shape = (draw(side), draw(side)), (draw(tap), draw(tap))
    if mode == "valid" and not fitting(mode, x_shape, k_shape):
        x_shape = tuple(np.add(x_shape, k_shape).tolist())
    if draw(st.booleans()) and mode == "valid":
        x_shape, k_shape = k_shape, x_shape
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shapes = x_shape, k_shape, oracle.shape(mode, x_shape, k_shape)
    a, b, dy = (
        cases.LAYOUTS[draw(st.sampled_from(list(cases.LAYOUTS)))](cases.integers(rng, s, dtype))
        for s in shapes
    )
    return function, dy, a, b, mode, draw(st.sampled_from(RULE_PAIRS))


@given(problems())
def test_any_problem_is_adjoint(problem):
    """Two independent directions: the gradients are those of the map, not just of this point."""
    function, dy, a, b, mode, rules = problem
    dx, dk = vjp(function, dy, a, b, mode, rules)
    u, v = a[::-1, ::-1] + 1, b[::-1, ::-1] - 1
    right = product(dy, forward(function, u, b, mode, rules))
    assert product(dx, u) == right
    right = product(dy, forward(function, a, v, mode, rules))
    assert product(dk, v) == right


@pytest.mark.parametrize("needs", [None, 3, [["in1"]]])
def test_needs_of_a_wrong_kind_are_named(needs):
    x = np.ones((3, 3))
    with pytest.raises(TypeError, match="needs must be"):
        fastcorr.correlate2d_vjp(x, x, x, "same", needs=needs)
