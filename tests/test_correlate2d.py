"""correlate2d and convolve2d: against SciPy, against the definition, and beyond SciPy."""

import itertools
import math
import subprocess
import sys
import warnings
from fractions import Fraction

import cases
import numpy as np
import oracle
import pytest
import scipy.signal
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

import fastcorr

FUNCTIONS = ("correlate2d", "convolve2d")
SCIPY_RULES = ("fill", "wrap", "symm")
PAD = {"wrap": "wrap", "symm": "symmetric", "mirror": "reflect", "nearest": "edge"}

both_functions = pytest.mark.parametrize("function", FUNCTIONS)
every_mode = pytest.mark.parametrize("mode", oracle.MODES)


def ours(function, *args, **kwargs):
    return getattr(fastcorr, function)(*args, **kwargs)


def scipys(function, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of conversions to real and the like
        return getattr(scipy.signal, function)(*args, **kwargs)


def outcome(call, *args, **kwargs):
    """What a call returns, or the class of its exception."""
    try:
        return call(*args, **kwargs)
    except Exception as error:
        return type(error)


def assert_same(actual, expected, note=""):
    """The same exception, or the same numbers in the same dtype and shape in a fresh array."""
    if isinstance(expected, type) or isinstance(actual, type):
        assert actual is expected, note
        return
    assert type(actual) is np.ndarray, note
    assert actual.dtype == expected.dtype, note
    assert actual.dtype.isnative, note
    assert actual.shape == expected.shape, note
    np.testing.assert_array_equal(actual, expected, strict=True, err_msg=str(note))
    assert actual.flags.writeable, note
    assert actual.flags.aligned, note


def mended(expected, a, b):
    """SciPy's result of correlate2d in 'valid' mode, conjugated where it forgets to.

    See test_valid_swapped_conjugates."""
    swapped = any(m < n for m, n in zip(a.shape, b.shape, strict=True))
    return expected.conj() if swapped and not isinstance(expected, type) else expected


# ---------------------------------------------------------------- against SciPy

PAIRS = list(itertools.product(cases.DTYPES, repeat=2))


def random_sizes(rng):
    """Shapes of an image and a kernel: mostly small, some long, none too slow for SciPy."""
    while True:
        top = rng.choice([4, 12, 40, 150], p=[0.25, 0.35, 0.3, 0.1], size=4)
        h, w, kh, kw = (int(rng.integers(1, n + 1)) for n in top)
        if (h + kh) * (w + kw) * kh * kw <= 2_000_000:
            return (h, w), (kh, kw)


@pytest.mark.parametrize("block", range(50))
def test_random_problems_equal_scipy(block):
    """5000 problems, every pair of dtypes more than 20 times."""
    for seed in range(100 * block, 100 * block + 100):
        rng = np.random.default_rng(seed)
        types = PAIRS[seed % len(PAIRS)]
        a, b = cases.operands(rng, *random_sizes(rng), *types)
        if rng.random() < 0.05:
            a = np.broadcast_to(a[:1], a.shape)
        layouts = rng.choice(list(cases.LAYOUTS), 2)
        a, b = cases.LAYOUTS[layouts[0]](a), cases.LAYOUTS[layouts[1]](b)
        function = str(rng.choice(FUNCTIONS))
        mode, rule = str(rng.choice(oracle.MODES)), str(rng.choice(SCIPY_RULES))
        fill = int(rng.choice([0, 0, 3]))
        args = function, a, b, mode, rule, fill
        expected = outcome(scipys, *args)
        if function == "correlate2d" and mode == "valid":
            expected = mended(expected, a, b)
        note = (seed, function, types, a.shape, b.shape, mode, rule, fill, *layouts)
        assert_same(outcome(ours, *args), expected, note)


@both_functions
@pytest.mark.parametrize("rule", SCIPY_RULES)
@pytest.mark.parametrize("types", ["qq", "QQ", "qf", "bQ"])
def test_long_long(function, rule, types, rng):
    a, b = cases.operands(rng, (9, 11), (3, 4), *types)
    args = function, a, b, "same", rule, 1
    assert_same(ours(*args), scipys(*args))


@both_functions
@every_mode
@pytest.mark.parametrize("shapes", [((0, 0), (2, 2)), ((0, 3), (2, 2)), ((3, 0), (2, 1)),
                                    ((0, 0), (0, 0)), ((3, 3), (0, 2)), ((1, 0), (1, 1)),
                                    ((1, 1), (0, 1)), ((4, 4), (0, 0))])  # fmt: skip
def test_empty_inputs_with_fill(function, mode, shapes):
    a, b = (np.ones(s) for s in shapes)
    expected = ValueError if mode == "valid" else outcome(scipys, function, a, b, mode)
    assert_same(outcome(ours, function, a, b, mode), expected)


@both_functions
def test_lists_and_subclasses(function):
    a, b = [[1, 2], [3, 4]], ((1, 2),)
    assert_same(ours(function, a, b), scipys(function, a, b))
    single = np.ones((2, 2), "f")
    assert ours(function, single, [[1]]).dtype == np.float64  # a list is not a weak scalar
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        assert_same(ours(function, np.matrix(a), b), scipys(function, a, b))
    assert_same(ours(function, np.ma.array(a), b), scipys(function, a, b))  # nothing masked


@pytest.mark.parametrize(("alias", "name"), [("pad", "fill"), ("circular", "wrap"),
                                             ("symmetric", "symm")])  # fmt: skip
@both_functions
def test_boundary_aliases(function, alias, name, rng):
    a, b = cases.operands(rng, (5, 6), (3, 2), "l", "l")
    np.testing.assert_array_equal(
        ours(function, a, b, "full", alias, 2), ours(function, a, b, "full", name, 2)
    )


@both_functions
@pytest.mark.parametrize("args", [
    ("FULL",), (None,), (2,), ([],), ("full", "reflect"), ("full", "Fill"), ("full", None),
    ("full", 0), ("full", "constant"), ("full", {}),
])  # fmt: skip
def test_wrong_names_as_scipy(function, args):
    a = np.ones((3, 3))
    expected = outcome(scipys, function, a, a, *args)
    assert isinstance(expected, type)
    assert outcome(ours, function, a, a, *args) is expected


def test_messages_name_the_choices():
    a = np.ones((3, 3))
    with pytest.raises(ValueError, match=r"'valid', 'same', or 'full'.*'middle'"):
        fastcorr.correlate2d(a, a, "middle")
    with pytest.raises(ValueError, match=r"'fill'.*'wrap'.*'symm'.*'mirror'.*'nearest'.*'hold'"):
        fastcorr.correlate2d(a, a, "full", "hold")
    with pytest.raises(ValueError, match=r"one must be at least as large .*\(2, 3\).*\(3, 2\)"):
        fastcorr.correlate2d(np.ones((2, 3)), np.ones((3, 2)), "valid")
    with pytest.raises(ValueError, match=r"correlate2d inputs must both be 2-D arrays"):
        fastcorr.correlate2d(np.ones(3), a)
    with pytest.raises(ValueError, match=r"convolve2d inputs must both be 2-D arrays"):
        fastcorr.convolve2d(a, np.ones((1, 3, 3)))


@both_functions
@pytest.mark.parametrize("ndims", [(1, 2), (2, 1), (0, 0), (3, 2), (2, 3)])
def test_wrong_dimensions_as_scipy(function, ndims):
    a, b = (np.ones((1,) * n) for n in ndims)
    assert outcome(scipys, function, a, b) is outcome(ours, function, a, b) is ValueError


# ---------------------------------------------------------------- fill value

FILL_VALUES = [
    ("l", 2.7), ("l", -2.7), ("l", 2**62 + 1), ("l", 2**63), ("l", -(2**63)), ("l", 1e19),
    ("L", 2**64 - 1), ("B", 255), ("B", 255.9), ("B", 256), ("B", -1), ("B", -0.5), ("B", True),
    ("b", -128), ("b", -129), ("i", 2**31), ("l", math.nan), ("l", math.inf), ("l", None),
    ("l", "3"), ("l", 1j), ("l", 1 + 0j), ("d", None), ("d", "1"), ("d", "x"), ("d", 1j),
    ("d", 1 + 0j), ("d", [[5]]), ("d", [[[5]]]), ("d", []), ("d", [1, 2]), ("d", 2**70),
    ("d", math.inf), ("d", {}), ("d", object()), ("f", 1e300), ("f", 0.1), ("D", None),
    ("D", 1j), ("D", "1+2j"), ("F", 1e300), ("g", np.longdouble(1) / 3), ("h", np.float16(2.5)),
    ("d", np.array(5, ">i4")), ("l", np.array([7])),
]  # fmt: skip


@both_functions
@pytest.mark.parametrize(("dtype", "fillvalue"), FILL_VALUES, ids=str)
def test_fillvalue_as_scipy(function, dtype, fillvalue):
    a, b = np.ones((2, 2), dtype), np.ones((1, 2), dtype)
    args = function, a, b, "full", "fill", fillvalue
    assert_same(outcome(ours, *args), outcome(lambda: scipys(*args)))


@both_functions
@pytest.mark.parametrize("rule", ["wrap", "symm"])
@pytest.mark.parametrize("fillvalue", [[], [1, 2], "x", 1j, None])
def test_fillvalue_matters_only_to_fill(function, rule, fillvalue):
    a = np.arange(6).reshape(2, 3)
    args = function, a, a, "full", rule
    np.testing.assert_array_equal(ours(*args, fillvalue), ours(*args))
    assert outcome(ours, function, a, a, "full", ("fill", rule), fillvalue) is not None
    assert isinstance(outcome(ours, function, a, a, "full", ("fill", rule), []), type)


@both_functions
def test_fillvalue_is_not_conjugated(function):
    a, b = np.array([[0j]]), np.array([[1j, 0]])
    fill = 2 + 3j
    tap = b[0, 0].conj() if function == "correlate2d" else b[0, 0]
    assert fill * tap in ours(function, a, b, "full", "fill", fill)


# ---------------------------------------------------------------- where SciPy is wrong


@both_functions
@pytest.mark.parametrize("rule", ["wrap", "symm", "mirror", "nearest"])
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_empty_axis_has_nothing_to_repeat(function, rule, shape):
    """scipy.signal 1.17 ends the process here (division by zero)."""
    with pytest.raises(ValueError, match="empty axis"):
        ours(function, np.zeros(shape), np.ones((2, 2)), "full", rule)
    assert ours(function, np.zeros(shape), np.ones((2, 2)), "same", rule).shape == shape


def test_empty_axis_is_fine_where_its_own_rule_is_fill():
    y = fastcorr.correlate2d(np.zeros((0, 3)), np.ones((2, 2)), "full", ("fill", "wrap"))
    np.testing.assert_array_equal(y, np.zeros((1, 4)))


@pytest.mark.parametrize("dtype", "FDG")
def test_valid_swapped_conjugates(dtype, rng):
    """The valid part of 'full', whichever input is larger; SciPy's is not conjugated."""
    assert fastcorr.correlate2d([[1j]], [[1j, 2]], "valid").tolist() == [[2j, 1]]
    a, b = cases.operands(rng, (3, 4), (6, 9), dtype, dtype)
    y = fastcorr.correlate2d(a, b, "valid")
    assert_same(y, fastcorr.correlate2d(a, b, "full")[2:6, 3:9].copy())
    assert_same(y, oracle.as_dtype(oracle.compute("correlate2d", a, b, "valid"), dtype))
    assert (y != scipys("correlate2d", a, b, "valid")).any()  # when this fails, SciPy is mended


STRANGE = {
    "object": np.ones((2, 2), object),
    "str": np.full((2, 2), "1"),
    "bytes": np.full((2, 2), b"1"),
    "void": np.zeros((2, 2), "V4"),
    "structured": np.zeros((2, 2), [("a", "f4")]),
    "datetime": np.zeros((2, 2), "M8[s]"),
    "timedelta": np.zeros((2, 2), "m8[s]"),
    "StringDType": np.full((2, 2), "1", np.dtypes.StringDType()),
}


@both_functions
@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("place", [0, 1])
def test_strange_types_are_refused(function, kind, place):
    args = [np.ones((2, 2)), np.ones((2, 2))]
    args[place] = STRANGE[kind]
    with pytest.raises(ValueError, match="not available for this type"):
        ours(function, *args)


@both_functions
@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "int4"])
@pytest.mark.parametrize("dtype", [None, "f"])
def test_user_types_are_refused(function, name, dtype):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    a = np.ones((2, 2), getattr(ml_dtypes, name))
    with pytest.raises(ValueError, match="not available for this type"):
        ours(function, a, a, dtype=dtype)


@both_functions
def test_masked_elements_are_not_dropped(function):
    a, b = np.ma.masked_equal([[1, 2], [3, 4]], 3), np.ones((2, 2))
    for args in ((a, b), (b, a)):
        with pytest.raises(TypeError, match=r"masked.*\.filled"):
            ours(function, *args)
    assert ours(function, a.filled(0), b).sum() == 4 * 7
    out = np.ma.array(np.zeros((3, 3)), mask=True)
    plan = getattr(fastcorr, f"plan_{function}")(b, shape=(2, 2))
    for call in (lambda: ours(function, a.data, b, out=out), lambda: plan(a.data, out)):
        with pytest.raises(TypeError, match="out is a masked array with masked elements"):
            call()


# ---------------------------------------------------------------- against the definition

SHAPES = [
    ((1, 1), (1, 1)), ((1, 1), (4, 4)), ((5, 7), (3, 3)), ((5, 7), (2, 4)), ((3, 4), (5, 2)),
    ((2, 3), (7, 9)), ((4, 3), (4, 3)), ((1, 13), (1, 6)), ((13, 1), (5, 1)), ((10, 3), (10, 10)),
    ((3, 3), (6, 6)),
]  # fmt: skip


@both_functions
@every_mode
@pytest.mark.parametrize("dtype", "BlfDG")
@pytest.mark.parametrize(("x_shape", "k_shape"), SHAPES, ids=str)
def test_definition_all_rules(function, mode, dtype, x_shape, k_shape, rng):
    """Each of the five rules and each pair of different ones."""
    a, b = cases.operands(rng, x_shape, k_shape, dtype, dtype)
    fits = [m >= n for m, n in zip(x_shape, k_shape, strict=True)]
    if mode == "valid" and any(fits) and not all(fits) and x_shape != k_shape:
        pytest.skip("not a valid problem")
    for rules in itertools.product(oracle.RULES, repeat=2):
        expected = oracle.compute(function, a, b, mode, rules, 3)
        y = ours(function, a, b, mode, rules, 3)
        assert_same(y, oracle.as_dtype(expected, dtype), rules)
        if rules[0] == rules[1]:
            assert_same(ours(function, a, b, mode, rules[0], 3), y, rules)


@pytest.mark.parametrize("rules", list(itertools.product(PAD, repeat=2)), ids=str)
@pytest.mark.parametrize("dtype", "Hfd")
def test_padding_then_valid(rules, dtype, rng):
    """The rule and a padded copy say the same, at sizes with inner tiles and borders."""
    a, b = cases.operands(rng, (60, 83), (9, 22), dtype, dtype)
    padded = np.pad(a, ((8, 8), (0, 0)), PAD[rules[0]])
    padded = np.pad(padded, ((0, 0), (21, 21)), PAD[rules[1]])
    expected = fastcorr.correlate2d(padded, b, "valid")
    assert_same(fastcorr.correlate2d(a, b, "full", rules), expected)


@pytest.mark.parametrize("boundary", [("fill",), ("fill",) * 3, ("fill", "reflect"), (), (None, 1)])
def test_wrong_pairs(boundary):
    with pytest.raises(ValueError, match=r"boundary|Acceptable"):
        fastcorr.correlate2d(np.ones((2, 2)), np.ones((2, 2)), "full", boundary)


@pytest.mark.parametrize("dtype", "bHiLfdFD")
@pytest.mark.parametrize("width", [*range(1, 36), 63, 64, 65, 127, 129])
def test_every_width(dtype, width, rng):
    """Widths around multiples of a vector, with rows of 1 to 6: no scalar tail, no tail missed."""
    for height in range(1, 7):
        a, b = cases.operands(rng, (height + 1, width + 2), (2, 3), dtype, dtype)
        for mode in ("valid", "full"):
            args = "correlate2d", a, b, mode
            assert_same(ours(*args), scipys(*args), (height, mode))


@both_functions
@pytest.mark.parametrize("k_shape", [(65, 3), (64, 256), (3, 257), (66, 258), (130, 2), (1, 600)])
@pytest.mark.parametrize("dtype", "BfF")
def test_kernels_of_many_taps(function, k_shape, dtype, rng):
    """More taps than are applied at once."""
    a, b = cases.operands(rng, (5, 9), k_shape, dtype, dtype)
    problems = [*itertools.product(["same"], SCIPY_RULES), ("valid", "fill")]
    if k_shape[0] * k_shape[1] < 1000 or dtype == "f":
        problems += [("full", "fill")]
    for mode, rule in problems:
        args = function, a, b, mode, rule, 2
        expected = outcome(scipys, *args)
        if mode == "valid" and function == "correlate2d":
            expected = mended(expected, a, b)
        assert_same(outcome(ours, *args), expected, (mode, rule))


@pytest.mark.parametrize("rule", ["wrap", "symm", "mirror", "nearest"])
def test_very_long_kernel(rule):
    """scipy gh-8814: the image repeated many thousand times."""
    a = np.arange(6).reshape(2, 3)
    y = fastcorr.correlate2d(a, np.ones((1, 70_001), int), "same", rule)
    row = np.pad(a, ((0, 0), (35_000, 35_000)), PAD[rule])
    sums = np.cumsum(np.pad(row, ((0, 0), (1, 0))), axis=1)
    np.testing.assert_array_equal(y, sums[:, 70_001:] - sums[:, :-70_001])


def test_integers_wrap_exactly():
    """scipy gh-8757, gh-10390, gh-6076."""
    assert fastcorr.correlate2d(np.full((1, 2), 200, "B"), [[1]]).dtype == np.int64
    y = fastcorr.correlate2d(np.full((1, 2), 200, "B"), np.full((1, 2), 2, "B"), "valid")
    assert_same(y, np.array([[800 % 256]], "B"))
    y = fastcorr.correlate2d(np.array([[2**62 + 1]]), [[1]])
    assert y.tolist() == [[2**62 + 1]]
    least = np.array([[-128]], "b")
    assert fastcorr.correlate2d(least, least).tolist() == [[0]]


# ---------------------------------------------------------------- floating point

EPS = {"f": Fraction(1, 2**24), "d": Fraction(1, 2**53), "g": None}


@both_functions
@pytest.mark.parametrize("dtype", "fd")
@pytest.mark.parametrize("decades", [0, 8])
@pytest.mark.parametrize("k_shape", [(1, 1), (3, 3), (7, 5), (2, 40)])
def test_error_bound(function, dtype, decades, k_shape, rng):
    """|error| <= (n + 1) u sum |x| |k|, for each element, in exact arithmetic."""
    scale = 2**300
    a = cases.reals(rng, (12, 19), dtype, decades)
    b = cases.reals(rng, k_shape, dtype, decades)

    def as_integers(v):
        return np.array([int(Fraction(float(e)) * scale) for e in v.flat], object).reshape(v.shape)

    x, k = as_integers(a), as_integers(b)
    taps = k_shape[0] * k_shape[1]
    for rule in ("fill", "mirror"):
        y = ours(function, a, b, "same", rule)
        expected = oracle.compute(function, x, k, "same", rule)
        total = oracle.compute(function, abs(x), abs(k), "same", rule)
        for at in np.ndindex(y.shape):
            error = abs(int(Fraction(float(y[at])) * scale**2) - expected[at])
            assert error <= (taps + 1) * EPS[dtype] * total[at]


@pytest.mark.parametrize("dtype", "FD")
def test_error_bound_complex(dtype, rng):
    """Each part of a complex result is a real sum of twice as many products."""
    a, b = cases.reals(rng, (12, 19), dtype, 5), cases.reals(rng, (5, 4), dtype, 5)
    y = fastcorr.convolve2d(a, b)
    wide = scipys("convolve2d", a.astype("G"), b.astype("G"))
    p, q = abs(a.real), abs(a.imag)
    r, s = abs(b.real), abs(b.imag)

    def total(u, v):
        return scipys("convolve2d", u.astype("g"), v.astype("g"))

    bound = (2 * 20 + 1) * float(EPS[dtype.lower()]) * 1.001
    assert (abs(y.real - wide.real) <= bound * (total(p, r) + total(q, s))).all()
    assert (abs(y.imag - wide.imag) <= bound * (total(p, s) + total(q, r))).all()


def test_longdouble_keeps_its_bits():
    if np.finfo("g").eps == np.finfo("d").eps:
        pytest.skip("long double is double here")
    tiny = np.finfo("g").eps
    y = fastcorr.correlate2d(np.array([[1, tiny]], "g"), np.ones((1, 2), "g"), "valid")
    assert y[0, 0] == 1 + tiny != 1


def spoil(rng, array):
    """Put NaN and infinities somewhere."""
    real = array.view(array.real.dtype)
    for value in (np.nan, np.inf, -np.inf):
        if rng.random() < 0.5:
            real[tuple(rng.integers(0, n) for n in real.shape)] = value


@both_functions
@every_mode
@pytest.mark.parametrize("rule", SCIPY_RULES)
@pytest.mark.parametrize("dtype", "fdgFDG")
def test_nan_and_inf_stay_where_the_definition_puts_them(function, mode, rule, dtype, rng):
    for shapes in (((9, 37), (3, 4)), ((40, 70), (5, 9)), ((3, 5), (6, 7))):
        for _ in range(4):
            a, b = (cases.integers(rng, s, dtype) for s in shapes)
            spoil(rng, a)
            spoil(rng, b)
            y = ours(function, a, b, mode, rule)
            if np.iscomplexobj(y):
                # Part by part: SciPy's own products turn some NaN into inf (C99, annex G).
                sign = -1 if function == "correlate2d" else 1
                p, q, r, s = (
                    scipys(function, u, sign**n * v, mode, rule)
                    for u in (a.real, a.imag)
                    for n, v in enumerate((b.real, b.imag))
                )
                with np.errstate(invalid="ignore"):
                    np.testing.assert_array_equal(y.real, p - s)
                    np.testing.assert_array_equal(y.imag, q + r)
            else:
                np.testing.assert_array_equal(y, scipys(function, a, b, mode, rule))


@pytest.mark.parametrize("dtype", "fd")
@pytest.mark.parametrize("width", range(3, 40))
def test_nan_beside_the_window_is_not_touched(dtype, width):
    """NaN all round a window of a larger array: none reaches the result."""
    big = np.full((9, width + 9), np.nan, dtype)
    big[2:7, 3 : width + 3] = 1
    a, b = big[2:7, 3 : width + 3], big[2:4, 3:6]
    for mode, rule in itertools.product(oracle.MODES, oracle.RULES):
        assert np.isfinite(fastcorr.correlate2d(a, b, mode, rule)).all()


def test_one_nan_makes_nine():
    a = np.ones((5, 5), "f")
    a[2, 2] = np.nan
    assert np.isnan(fastcorr.correlate2d(a, np.ones((3, 3), "f"), "same")).sum() == 9


@pytest.mark.parametrize("dtype", "fdgFDG")
def test_zeros_are_positive(dtype):
    """As in SciPy, where every sum starts at +0."""
    a = np.full((3, 40), -0.0, dtype)
    y = fastcorr.correlate2d(a, np.ones((2, 2), dtype))
    assert not np.signbit(y.real).any()
    assert not np.signbit(y.imag).any()


@pytest.mark.parametrize("dtype", "fdg")
def test_subnormals_are_not_flushed(dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    a = np.full((5, 40), tiny, dtype)
    y = fastcorr.correlate2d(a, np.ones((2, 2), dtype), "valid")
    np.testing.assert_array_equal(y, np.full((4, 39), 4 * tiny, dtype))
    assert (y > 0).all()


@pytest.mark.parametrize("dtype", "fdgFDG")
def test_overflow_and_invalid_are_silent(dtype):
    """As in SciPy: inf and NaN appear without a warning, whatever NumPy's error state."""
    big = np.full((2, 2), np.finfo(dtype).max, dtype)
    opposite = np.array([[1, -1], [1, -1]], dtype)
    with np.errstate(all="raise"):
        y = fastcorr.correlate2d(big, big)
        assert np.isinf(y.real).all()
        y = fastcorr.correlate2d(y, opposite, "valid")
        assert np.isnan(y.real).any()


def test_overflow_of_a_chosen_dtype_is_silent():
    big, one = np.full((2, 2), 1e300), np.ones((1, 1))
    with np.errstate(all="raise"):
        assert np.isinf(fastcorr.correlate2d(big, one, dtype="f")).all()
        assert np.isinf(fastcorr.correlate2d(one, big, "valid", dtype="f")).all()
        fringe = fastcorr.correlate2d(one, np.ones((1, 2)), dtype="f", fillvalue=1e300)
        assert np.isinf(fringe).all()


# ---------------------------------------------------------------- axes


def by_planes(function, a, b, axes, mode, rule):
    """axes= from 2-D calls of the oracle, plane by plane."""
    a, b = np.moveaxis(a, axes, (-2, -1)), np.moveaxis(b, axes, (-2, -1))
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a = np.broadcast_to(a, batch + a.shape[-2:])
    b = np.broadcast_to(b, batch + b.shape[-2:])
    shape = oracle.shape(mode, a.shape[-2:], b.shape[-2:])
    y = np.empty(batch + shape, object)
    for at in np.ndindex(batch):
        y[at] = oracle.compute(function, a[at], b[at], mode, rule)
    return np.moveaxis(y, (-2, -1), axes)


AXES_PROBLEMS = [
    ((3, 6, 7), (2, 3), (-2, -1)),  # a stack of images
    ((6, 7), (4, 2, 3), (-2, -1)),  # a bank of kernels
    ((3, 1, 6, 7), (4, 2, 3), (-2, -1)),  # both
    ((3, 6, 7), (3, 2, 3), (-2, -1)),  # pair by pair
    ((2, 1, 5, 6), (1, 3, 2, 2), (-2, -1)),
    ((6, 7, 3), (2, 3), (0, 1)),  # channels last
    ((6, 7, 3), (2, 3, 1), (0, 1)),
    ((6, 7, 3), (2, 3, 5, 1), (0, 1)),
    ((6, 3, 7), (2, 3), (0, -1)),
    ((6, 3, 7), (2, 1, 3), (0, 2)),
    ((3, 7, 6), (3, 2), (-1, -2)),  # transposed
    ((7, 6), (3, 2), (1, 0)),
    ((6, 7), (2, 3), (0, 1)),
    ((2, 3), (4, 6, 7), (-2, -1)),  # swapped in 'valid'
]


@both_functions
@every_mode
@pytest.mark.parametrize(("x_shape", "k_shape", "axes"), AXES_PROBLEMS, ids=str)
@pytest.mark.parametrize("dtype", "hdF")
def test_axes(function, mode, x_shape, k_shape, axes, dtype, rng):
    a = cases.integers(rng, x_shape, dtype)
    b = cases.integers(rng, k_shape, dtype)
    for rule in ("fill", ("symm", "wrap")):
        expected = by_planes(function, a, b, axes, mode, rule)
        y = ours(function, a, b, mode, rule, axes=axes)
        assert_same(y, oracle.as_dtype(expected, dtype), rule)
        out = np.empty(y.shape, y.dtype)
        assert ours(function, a, b, mode, rule, axes=axes, out=out) is out
        np.testing.assert_array_equal(out, y)


def test_axes_of_the_issue(rng):
    images, kernels = rng.integers(0, 9, (5, 1, 8, 9)), rng.integers(0, 9, (4, 3, 3))
    y = fastcorr.correlate2d(images, kernels, "same", axes=(-2, -1))
    assert y.shape == (5, 4, 8, 9)
    np.testing.assert_array_equal(y[3, 2], fastcorr.correlate2d(images[3, 0], kernels[2], "same"))


def test_axes_in_any_layout(rng):
    a, b = rng.integers(0, 9, (2, 3, 11, 12)).astype("f"), rng.integers(0, 9, (3, 3, 2)).astype("f")
    expected = fastcorr.correlate2d(a, b, "same", "symm", axes=(-2, -1))
    for axis in range(4):
        flipped = np.flip(np.flip(a, axis).copy(), axis)
        y = fastcorr.correlate2d(flipped, b, "same", "symm", axes=(-2, -1))
        np.testing.assert_array_equal(y, expected)
    for order in itertools.permutations(range(4)):
        turned = a.transpose(order).copy().transpose(np.argsort(order))
        y = fastcorr.correlate2d(turned, b, "same", "symm", axes=(-2, -1))
        np.testing.assert_array_equal(y, expected)
    shared = np.broadcast_to(a[:1, :1], a.shape)
    y = fastcorr.correlate2d(shared, b, "same", "symm", axes=(-2, -1))
    np.testing.assert_array_equal(y[1], y[0])
    np.testing.assert_array_equal(y[0, 2], fastcorr.correlate2d(a[0, 0], b[2], "same", "symm"))


def test_empty_batch():
    y = fastcorr.correlate2d(np.ones((0, 4, 5)), np.ones((2, 2)), axes=(-2, -1))
    assert y.shape == (0, 5, 6)
    y = fastcorr.correlate2d(np.ones((0, 1, 4, 5)), np.ones((3, 2, 2)), axes=(-2, -1), dtype="f")
    assert y.shape == (0, 3, 5, 6)


@both_functions
@pytest.mark.parametrize(("x_shape", "k_shape", "axes", "error", "match"), [
    ((3, 4, 5), (2, 2), (0, 0), ValueError, "same axis"),
    ((3, 4, 5), (2, 2), (1, -2), ValueError, "same axis"),
    ((3, 4, 5), (2, 2), (0, 3), ValueError, "no axis 3"),
    ((3, 4, 5), (2, 2), (1, 2), ValueError, "in2 has no axis 2"),
    ((3, 4, 5), (2, 2), (0,), ValueError, "pair"),
    ((3, 4, 5), (2, 2), (0, 1, 2), ValueError, "pair"),
    ((3, 4, 5), (2, 2), 1, TypeError, "pair"),
    ((3, 4, 5), (2, 2), (0.0, 1), TypeError, "pair"),
    ((3, 4, 5), (2, 2), "xy", TypeError, "pair"),
    ((5,), (2, 2), (-2, -1), ValueError, "two dimensions"),
    ((3, 4, 5), (), (-2, -1), ValueError, "two dimensions"),
    ((3, 4, 5), (2, 2, 2), (-2, -1), ValueError, "broadcast"),
])  # fmt: skip
def test_axes_errors(function, x_shape, k_shape, axes, error, match):
    with pytest.raises(error, match=match):
        ours(function, np.ones(x_shape), np.ones(k_shape), axes=axes)


# ---------------------------------------------------------------- out


@both_functions
@every_mode
@pytest.mark.parametrize("dtype", "BhfdgFG")
@pytest.mark.parametrize("layout", [n for n in cases.LAYOUTS if n != "read-only"])
def test_out(function, mode, dtype, layout, rng):
    for shapes in (((14, 45), (3, 4)), ((4, 6), (9, 7)), ((3, 3), (2, 2))):
        a, b = cases.operands(rng, *shapes, dtype, dtype)
        expected = ours(function, a, b, mode, "symm")
        blank = np.full(expected.shape, 55).astype(dtype)
        out = cases.LAYOUTS[layout](blank)
        base = out if out.base is None else out.base
        before = base.copy()
        y = ours(function, a, b, mode, "symm", out=out)
        assert y is out
        np.testing.assert_array_equal(out, expected)
        out[...] = blank  # nothing but out was written to
        assert base.tobytes() == before.tobytes()


def test_out_errors():
    a = np.ones((4, 4))
    for out, error, match in [
        (np.empty((4, 4)), ValueError, r"out must have shape \(7, 7\)"),
        (np.empty((1, 7, 7)), ValueError, "out must have shape"),
        (np.empty(49), ValueError, "out must have shape"),
        (np.empty((7, 7), int), TypeError, "dtype int64 .*out=.* cannot hold"),
        (np.empty((7, 7), bool), ValueError, "not available"),
        (np.empty((7, 7), object), ValueError, "not available"),
        (cases.LAYOUTS["read-only"](np.empty((7, 7))), ValueError, "read-only"),
        (np.empty((7, 7)).tolist(), TypeError, "NumPy array"),
    ]:
        with pytest.raises(error, match=match):
            fastcorr.correlate2d(a, a, out=out)
    with pytest.raises(TypeError, match="dtype=float32"):
        fastcorr.correlate2d(a, a, out=np.empty((7, 7)), dtype="f")


def test_out_is_untouched_by_errors():
    out = np.full((2, 2), 5.0)
    with pytest.raises(ValueError, match="fillvalue"):
        fastcorr.correlate2d(np.ones((2, 2)), [[1.0]], out=out, fillvalue=[])
    assert (out == 5).all()


def test_out_chooses_the_type():
    a, b = np.full((2, 2), 200, "B"), np.full((2, 2), 2, "B")
    out = np.empty((1, 1), "i")
    assert fastcorr.correlate2d(a, b, "valid", out=out)[0, 0] == 1600
    out = np.empty((1, 1), ">f4")
    assert fastcorr.correlate2d(a, b, "valid", out=out)[0, 0] == 1600
    assert fastcorr.correlate2d(a, b, "valid", out=out, dtype=">f4") is out


def overlaps(whole):
    """Views of a square array over each other: an input and an output of 20 x 30."""
    yield "itself", whole[:20, :30], whole[:20, :30]
    yield "one row down", whole[:20, :30], whole[1:21, :30]
    yield "one row up", whole[1:21, :30], whole[:20, :30]
    yield "one column right", whole[:20, :30], whole[:20, 1:31]
    yield "upside down", whole[:20, :30], whole[19::-1, :30]
    yield "reversed", whole[:20, :30], whole[19::-1, 29::-1]
    yield "transposed", whole[:20, :30], whole.T[:20, :30]
    yield "every second row", whole[:20, :30], whole[:40:2, :30]
    flat = whole.reshape(-1)
    skewed = as_strided(flat[5:], (20, 30), (31 * flat.itemsize, flat.itemsize))
    yield "skewed", whole[:20, :30], skewed


@both_functions
@pytest.mark.parametrize("case", range(9))
@pytest.mark.parametrize("dtype", "BfD")
def test_out_over_an_input(function, case, dtype, rng):
    k = cases.integers(rng, (3, 5), dtype)
    whole = cases.integers(rng, (40, 40), dtype)
    name, a, out = list(overlaps(whole))[case]
    expected = ours(function, a.copy(), k, "same", "wrap")
    ours(function, a, k, "same", "wrap", out=out)
    np.testing.assert_array_equal(out, expected, err_msg=name)


@both_functions
def test_out_over_the_kernel(function, rng):
    a, b = cases.operands(rng, (6, 7), (6, 7), "d", "d")
    expected = ours(function, a, b, "same")
    ours(function, a, b, "same", out=b)
    np.testing.assert_array_equal(b, expected)


def test_out_over_a_swapped_input(rng):
    a, b = cases.operands(rng, (1, 1), (6, 7), "d", "d")
    expected = fastcorr.correlate2d(a, b, "valid")
    fastcorr.correlate2d(a, b, "valid", out=b)
    np.testing.assert_array_equal(b, expected)


# ---------------------------------------------------------------- dtype


@both_functions
@pytest.mark.parametrize(("x_type", "k_type", "dtype"), [
    ("B", "B", "f"), ("B", "B", "i"), ("B", "b", "l"), ("H", "H", "d"), ("B", "f", "f"),
    ("B", "d", "f"), ("d", "d", "f"), ("l", "l", "f"), ("l", "l", "i"), ("l", "l", "b"),
    ("L", "L", "f"), ("l", "L", "f"), ("?", "?", "B"), ("?", "?", "f"), ("?", "?", "D"),
    ("e", "e", "f"), ("e", "e", "d"), ("e", "?", "F"), ("f", "f", "D"), ("D", "D", "F"),
    ("d", "D", "F"), ("g", "g", "f"), ("G", "G", "F"), ("f", "f", "g"), ("B", "B", "G"),
    ("B", "B", "b"), ("q", "q", "l"), ("B", "B", ">f4"),
])  # fmt: skip
def test_dtype(function, x_type, k_type, dtype, rng):
    """The result, and the sums, are of the type that was asked for."""
    a = cases.integers(rng, (9, 38), x_type)
    b = cases.integers(rng, (3, 4), k_type)
    expected = oracle.compute(function, a, b, "same", "symm")
    native = np.dtype(dtype).newbyteorder("=")
    for layout in ("C", "strided", "byteswapped", "unaligned"):
        y = ours(function, cases.LAYOUTS[layout](a), b, "same", "symm", dtype=dtype)
        assert_same(y, oracle.as_dtype(expected, native), layout)


@both_functions
@pytest.mark.parametrize(("x_type", "k_type", "dtype", "error"), [
    ("d", "d", "i", TypeError), ("f", "B", "l", TypeError), ("D", "d", "d", TypeError),
    ("d", "F", "f", TypeError), ("l", "l", "L", TypeError), ("b", "B", "B", TypeError),
    ("B", "B", "?", ValueError), ("B", "B", "e", ValueError), ("B", "B", "O", ValueError),
    ("B", "B", "U", ValueError), ("B", "B", "nonsense", TypeError), ("O", "d", "d", ValueError),
    ("e", "e", None, ValueError), ("?", "?", None, ValueError),
])  # fmt: skip
def test_refused_dtypes(function, x_type, k_type, dtype, error):
    a, b = np.ones((3, 3), x_type), np.ones((2, 2), k_type)
    with pytest.raises(error):
        ours(function, a, b, dtype=dtype)


def test_dtype_is_the_type_of_the_sums():
    """Products beyond the inputs' type do not wrap around before they are widened."""
    a = np.full((4, 4), 255, "B")
    assert fastcorr.correlate2d(a, a, "valid", dtype="i")[0, 0] == 16 * 255**2
    assert fastcorr.correlate2d(a, a, "valid", dtype="f")[0, 0] == 16 * 255**2
    ones = np.ones((1, 3))
    near = np.array([[2.0**24, 1, 1]])
    assert fastcorr.correlate2d(near, ones, "valid")[0, 0] == 2**24 + 2
    assert fastcorr.correlate2d(near, ones, "valid", dtype="f")[0, 0] == 2**24


def test_fillvalue_is_of_the_chosen_dtype():
    a = np.zeros((1, 1), "B")
    y = fastcorr.correlate2d(a, np.ones((1, 2), "B"), fillvalue=0.5, dtype="f")
    np.testing.assert_array_equal(y, np.full((1, 2), 0.5, "f"))
    with pytest.raises(ValueError, match="fillvalue"):
        fastcorr.correlate2d(a, np.ones((1, 2), "B"), fillvalue=300)
    assert fastcorr.correlate2d(a, np.ones((1, 2), "B"), fillvalue=300, dtype="i")[0, 0] == 300


# ---------------------------------------------------------------- other arguments


@both_functions
def test_method(function):
    a = np.ones((3, 3))
    np.testing.assert_array_equal(ours(function, a, a, method="direct"), ours(function, a, a))
    for method in ("fast", None, 1):
        with pytest.raises(ValueError, match="method"):
            ours(function, a, a, method=method)


@both_functions
def test_keywords_only(function):
    a = np.ones((3, 3))
    with pytest.raises(TypeError):
        ours(function, a, a, "full", "fill", 0, None)
    with pytest.raises(TypeError):
        ours(function, a, a, origin=0)


@both_functions
@pytest.mark.parametrize("place", [0, 1])
def test_sizes_beyond_memory(function, place):
    """Virtual arrays of a million billion elements: an error, and at once."""
    args = [np.ones((2, 2)), np.ones((2, 2))]
    args[place] = np.broadcast_to(np.ones(1, "B"), (2**40, 2**20))
    with pytest.raises((MemoryError, ValueError)):
        ours(function, *args)


def test_workers_are_accepted_by_every_function():
    a = np.ones((3, 3))
    for function in FUNCTIONS:
        np.testing.assert_array_equal(ours(function, a, a, workers=2), ours(function, a, a))


# ---------------------------------------------------------------- hypothesis

sides = st.integers(1, 17)
wide_sides = st.one_of(sides, st.integers(30, 70))


@st.composite
def problems(draw):
    function = draw(st.sampled_from(FUNCTIONS))
    x_type, k_type = draw(st.sampled_from(PAIRS))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x_shape, k_shape = (draw(wide_sides), draw(wide_sides)), (draw(sides), draw(sides))
    a, b = cases.operands(rng, x_shape, k_shape, x_type, k_type)
    a = cases.LAYOUTS[draw(st.sampled_from(list(cases.LAYOUTS)))](a)
    b = cases.LAYOUTS[draw(st.sampled_from(list(cases.LAYOUTS)))](b)
    mode = draw(st.sampled_from(oracle.MODES))
    rules = draw(st.tuples(st.sampled_from(oracle.RULES), st.sampled_from(oracle.RULES)))
    return function, a, b, mode, rules


@given(problems())
def test_any_problem_against_padding(problem):
    """Whatever the layout: the same as a plain, contiguous, padded copy in 'valid' mode.

    SciPy computes that, on data for which every order of the sum is exact."""
    function, a, b, mode, rules = problem
    y = outcome(ours, function, a, b, mode, rules)
    x = np.asarray(a, a.dtype.newbyteorder("="), order="C")
    if mode != "valid":
        (h, w), (kh, kw) = x.shape, b.shape
        for axis, (rule, size) in enumerate(zip(rules, (kh, kw), strict=True)):
            pads = [(0, 0), (0, 0)]
            pads[axis] = (size - 1, size - 1)
            x = np.pad(x, pads, PAD.get(rule, "constant"))
        full = outcome(scipys, function, x, b, "valid")
        if not isinstance(full, type) and mode == "same":
            i, j = ((n // 2 if function == "correlate2d" else (n - 1) // 2) for n in (kh, kw))
            full = full[i : i + h, j : j + w].copy()
        expected = full
    else:
        expected = outcome(scipys, function, x, b, "valid")
        if function == "correlate2d":
            expected = mended(expected, a, b)
    assert_same(y, expected)


def test_masks_in_a_list_of_rows_are_not_dropped():
    row = np.ma.array([1.0, 2.0], mask=[0, 1])
    with pytest.raises(TypeError, match=r"in1 is a masked array"):
        fastcorr.correlate2d([row, row], [[1.0]])
    plain = np.ma.array([1.0, 2.0])
    assert fastcorr.correlate2d([plain, plain], [[1.0]]).tolist() == [[1, 2], [1, 2]]


@pytest.mark.parametrize("boundary", [{"wrap"}, np.array(["wrap", "fill"]), [["wrap"], "fill"]])
def test_boundaries_of_a_wrong_kind_are_named(boundary):
    with pytest.raises(TypeError, match="boundary must be"):
        fastcorr.correlate2d(np.ones((3, 3)), np.ones((2, 2)), boundary=boundary)


@pytest.mark.parametrize(("name", "value", "error"), [
    ("mode", ["full"], TypeError), ("mode", np.ones((3, 3)), TypeError),
    ("fillvalue", "M8[s]", ValueError), ("fillvalue", b"x", TypeError),
    ("fillvalue", [[1, 2], [3]], ValueError), ("dtype", 1e-320, TypeError),
    ("dtype", "zeros", TypeError), ("dtype", (1, 2, 3), TypeError), ("dtype", "f4,,", TypeError),
    ("method", np.ones((2, 2)), ValueError), ("method", [], ValueError),
], ids=str)  # fmt: skip
def test_arguments_of_a_wrong_kind_are_named(name, value, error):
    for call in (
        lambda **more: fastcorr.correlate2d(np.ones((3, 3)), np.ones((2, 2)), **more),
        lambda **more: fastcorr.plan_convolve2d(np.ones((2, 2)), shape=(3, 3), **more),
    ):
        with pytest.raises(error, match=f"{name}`? must be"):
            call(**{name: value})


def test_splitting_a_kernel_near_the_largest_number_is_silent():
    with np.errstate(all="raise"):
        y = fastcorr.correlate2d(np.ones((4, 5)), np.full((2, 3), 1e308), method="separable")
    assert np.isinf(y).any()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mprotect as on Linux")
@pytest.mark.parametrize("dtype", "fdFDBil")
def test_nothing_beyond_the_image_is_read(dtype):
    """Into every second column of `out`: where the image ends, an unreadable page begins."""
    script = f"""
import ctypes, mmap
import numpy as np
from fastcorr import correlate2d

page = mmap.PAGESIZE
memory = mmap.mmap(-1, 2 * page)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
libc = ctypes.CDLL(None)
assert libc.mprotect(ctypes.c_void_p(address + page), ctypes.c_size_t(page), 0) == 0
for W in range(1, 40):
    image = np.arange(3 * W).reshape(3, W).astype({dtype!r})
    x = np.ndarray(image.shape, image.dtype, memory, page - image.nbytes)
    x[...] = image
    for kernel in (np.ones((2, 1)), np.ones((1, min(W, 3)))):
        k = kernel.astype({dtype!r})
        for mode in ("valid", "same", "full"):
            wanted = correlate2d(image, k, mode)
            out = np.empty((len(wanted), 2 * wanted.shape[1]), wanted.dtype)[:, ::2]
            assert (correlate2d(x, k, mode, out=out) == wanted).all()
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "fine", (done.returncode, done.stderr)


# ---------------------------------------------------------------- millions of taps


@pytest.mark.parametrize(("dtype", "side"), [("f", 3000), ("d", 3000), ("g", 1500)])
def test_kernels_of_millions_of_taps(dtype, side, rng):
    """Whose tiles are narrow, so that Ctrl-C need not wait for long."""
    x, k = rng.integers(0, 2, (side + 4, side + 140)), rng.integers(0, 2, (side, side))
    x = x[:, : side + 20] if dtype == "g" else x
    y = fastcorr.correlate2d(x.astype(dtype), k.astype(dtype), "valid", workers=1)
    for i, j in [(0, 0), (4, -1), *rng.integers(0, y.shape, (6, 2))]:
        i, j = i % y.shape[0], j % y.shape[1]
        assert y[i, j] == np.sum(x[i : i + side, j : j + side] & k)
    again = fastcorr.correlate2d(x.astype(dtype), k.astype(dtype), "valid", workers=3)
    np.testing.assert_array_equal(again, y)
