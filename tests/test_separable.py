"""Kernels of low rank: taking them apart, and computing with the factors."""

from fractions import Fraction

import numpy as np
import oracle
import pytest
from cases import LAYOUTS, bits, integers, reals
from hypothesis import given
from hypothesis import strategies as st

import fastcorr
from fastcorr import _dispatch
from fastcorr._boundary import CODES
from fastcorr._separable import MOST_TAPS, factors

DTYPES = "bBhHiIqQfdFD"
UNIT = {"f": 2.0**-24, "d": 2.0**-53, "F": 2.0**-24, "D": 2.0**-53}


def lanes(dtype):
    """Name of the lanes that compute results of this dtype, and the dtype of its factors."""
    dtype = np.dtype(dtype)
    lane = _dispatch._LANES[f"{dtype.kind}{dtype.itemsize}"]
    return lane, np.dtype(_dispatch._LANE_DTYPES.get(lane, dtype))


def offsets(batch, *arrays):
    """Byte offsets of the planes of the arrays, which broadcast to the batch."""
    rows = []
    for at in np.ndindex(batch):
        row = []
        for a in arrays:
            b = np.broadcast_to(a, batch + a.shape[-2:])
            row.append(b[at].__array_interface__["data"][0] - a.__array_interface__["data"][0])
        rows.append(row)
    return np.array(rows, np.intp)


def run(x, u, v, y, offset, rules="fill", fill=0, workers=1):
    """y = window at offset of the continued x, correlated with the sum of u outer v."""
    lane, dtype = lanes(y.dtype)
    u, v = (np.ascontiguousarray(f.astype(dtype, casting="unsafe")) for f in (u, v))
    if u.shape[-1] == 1:
        assert (u == 1).all()
    planes = offsets(y.shape[:-2], x, u, v, y)
    codes = [CODES[rule] for rule in oracle.pair(rules)]
    fill = np.array([fill], dtype)
    module = _dispatch._module(lane, "separable")
    module.correlate(x, u, v, y, *offset, *codes, fill, planes, workers)
    return y


def outer(u, v):
    """The kernel, in exact numbers."""
    return (oracle.exact(u)[:, :, None] * oracle.exact(v)[:, None, :]).sum(axis=0)


def window(x, k, shape, offset, rules="fill", fill=0):
    """What `run` must give: k, exact, over the continued x, exact."""
    x, (kh, kw) = oracle.exact(x), k.shape
    spans = [range(o, o + n + t - 1) for o, n, t in zip(offset, shape, k.shape, strict=True)]
    rows, cols = (
        [oracle.source(p, n, rule) for p in span]
        for span, n, rule in zip(spans, x.shape, oracle.pair(rules), strict=True)
    )
    plane = np.empty((len(rows), len(cols)), object)
    for m, i in enumerate(rows):
        for n, j in enumerate(cols):
            plane[m, n] = fill if i is None or j is None else x[i, j]
    out = np.zeros(shape, object)
    for a in range(kh):
        for b in range(kw):
            out += plane[a : a + shape[0], b : b + shape[1]] * k[a, b]
    return out


def small(rng, shape, dtype):
    """Small integers; of integer types any, for the results wrap around."""
    dtype = np.dtype(dtype)
    return integers(rng, shape, dtype, wide=dtype.kind in "iu")


def problem(rng, dtype, most=40, taps=9):
    """Image, factors, and the shape and offset of a window, larger than the image or smaller."""
    H, W, oh, ow = (int(n) for n in rng.integers(1, most, 4))
    kh, kw = (int(n) for n in rng.integers(1, taps, 2))
    rank = 1 if kh == 1 else int(rng.integers(1, 4))
    u, v = small(rng, (rank, kh), dtype), small(rng, (rank, kw), dtype)
    if kh == 1:
        u[...] = 1
    offset = tuple(int(n) for n in rng.integers(-10, 10, 2))
    return small(rng, (H, W), dtype), u, v, (oh, ow), offset


# ---------------------------------------------------------------- computing: exact


@pytest.mark.parametrize("rule", oracle.RULES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_exact(rng, dtype, rule):
    for _ in range(6):
        x, u, v, shape, offset = problem(rng, dtype)
        fill = int(rng.integers(0, 5))
        k = outer(u, v)
        want = oracle.as_dtype(window(x, k, shape, offset, rule, fill), dtype)
        got = run(x, u, v, np.full(shape, 77, dtype), offset, rule, fill)
        np.testing.assert_array_equal(got, want, f"{x.shape} {k.shape} {shape} {offset}")


@pytest.mark.parametrize("rules", [("wrap", "fill"), ("mirror", "nearest")])
def test_axes_of_unlike_rules(rng, rules):
    x, u, v, _, _ = problem(rng, "d")
    want = window(x, outer(u, v), (50, 60), (-9, -13), rules, 3)
    got = run(x, u, v, np.empty((50, 60)), (-9, -13), rules, 3)
    np.testing.assert_array_equal(got, oracle.as_dtype(want, "d"))


@pytest.mark.parametrize("kh", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("kw", [1, 2, 7, 16])
def test_shapes(rng, kh, kw):
    """Every height of window and every width around the sizes of register tiles."""
    u, v = small(rng, (1, kh), "f"), small(rng, (1, kw), "f")
    if kh == 1:
        u[...] = 1
    x = small(rng, (20, 90), "f")
    want = oracle.as_dtype(window(x, outer(u, v), (14, 75), (-2, -3)), "f")
    for rows, cols in [(n, 75) for n in range(1, 14)] + [(5, n) for n in range(1, 75)]:
        y = np.full((rows + 1, cols + 1), 77, "f")
        run(x, u, v, y[:-1, :-1], (-2, -3))
        np.testing.assert_array_equal(y[:-1, :-1], want[:rows, :cols], f"{rows} x {cols}")
        assert (y[-1] == 77).all()
        assert (y[:, -1] == 77).all()


@pytest.mark.parametrize("x_type", "?bBhHiIqQefdg")
@pytest.mark.parametrize("dtype", "fD")
def test_converts(rng, x_type, dtype):
    """Images of another type are converted as they are read."""
    x = integers(rng, (23, 31), x_type)
    u, v = small(rng, (2, 5), dtype), small(rng, (2, 4), dtype)
    want = window(x, outer(u, v), (25, 30), (-3, -2), "symm")
    got = run(x, u, v, np.empty((25, 30), dtype), (-3, -2), "symm")
    np.testing.assert_array_equal(got, oracle.as_dtype(want, dtype))


def two_passes(x, u, v):
    """Valid part of x correlated with u outer v, of integers that float64 holds."""
    x = np.apply_along_axis(np.correlate, 1, x.astype("d"), v)
    return np.apply_along_axis(np.correlate, 0, x, u)


@pytest.mark.parametrize("taps", [(300, 2), (2, 300), (129, 257), (MOST_TAPS, MOST_TAPS)])
def test_large_kernels(rng, taps):
    u, v = rng.integers(-2, 3, taps[0]), rng.integers(-2, 3, taps[1])
    x = rng.integers(-2, 3, (700, 1000)).astype("d")
    want = two_passes(x, u, v)
    got = run(x, u[None], v[None], np.empty(want.shape), (0, 0), workers=2)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("shape", [(3, 9000), (9000, 3), (600, 5000)])
def test_large_images(rng, shape):
    """Several strips, several tiles below each other."""
    u, v = rng.integers(-4, 5, 3), rng.integers(-4, 5, 3)
    x = rng.integers(-9, 10, shape).astype("f")
    want = two_passes(np.pad(x, 1), u, v)
    for workers in (1, 3):
        got = run(x, u[None], v[None], np.empty(shape, "f"), (-1, -1), workers=workers)
        np.testing.assert_array_equal(got, want)


# ---------------------------------------------------------------- computing: same bits


def random(rng, dtype, shape=(61, 83), taps=(9, 7), rank=2):
    """x, u, v of real numbers; of integers where dtype is of such."""
    make = small if np.dtype(dtype).kind in "iu" else reals
    return tuple(make(rng, s, dtype) for s in (shape, (rank, taps[0]), (rank, taps[1])))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", "bHifdFD")
def test_layouts(rng, dtype, layout):
    x, u, v = random(rng, dtype)
    want = run(x, u, v, np.empty(x.shape, dtype), (-4, -3), "mirror")
    got = run(LAYOUTS[layout](x), u, v, np.empty(x.shape, dtype), (-4, -3), "mirror")
    assert bits(got) == bits(want)
    if layout in ("byteswapped", "unaligned", "read-only"):
        return
    y = LAYOUTS[layout](np.zeros(x.shape, dtype))
    assert bits(run(x, u, v, y, (-4, -3), "mirror")) == bits(want)


@pytest.mark.parametrize("dtype", "bifdFD")
def test_workers(rng, dtype):
    for shape, taps in [((61, 83), (9, 7)), ((500, 40), (15, 3)), ((40, 3000), (1, 5))]:
        x, u, v = random(rng, dtype, shape, taps, 1)
        if taps[0] == 1:
            u[...] = 1
        results = [
            bits(run(x, u, v, np.empty(shape, dtype), (-1, -2), "wrap", workers=n))
            for n in (1, 2, 3, 1)
        ]
        assert len(set(results)) == 1


@pytest.mark.parametrize("dtype", "fdF")
def test_windows(rng, dtype):
    """Any part of a result has the bits that it has in the whole."""
    x, u, v = random(rng, dtype, (97, 150), (8, 11), 3)
    whole = run(x, u, v, np.empty((110, 170), dtype), (-9, -10))
    for _ in range(30):
        i, j = int(rng.integers(0, 109)), int(rng.integers(0, 169))
        rows, cols = int(rng.integers(1, 111 - i)), int(rng.integers(1, 171 - j))
        part = run(x, u, v, np.empty((rows, cols), dtype), (i - 9, j - 10))
        assert bits(part) == bits(whole[i : i + rows, j : j + cols])


@pytest.mark.parametrize("workers", [1, 2])
def test_batch(rng, workers):
    """Images and kernels broadcast; each plane has the bits that it has alone."""
    x, u, v = (
        reals(rng, (4, 1, 30, 40), "f"),
        reals(rng, (3, 2, 5), "f"),
        reals(rng, (3, 2, 7), "f"),
    )
    y = run(x, u, v, np.empty((4, 3, 31, 42), "f"), (-3, -4), workers=workers)
    for i in range(4):
        for j in range(3):
            alone = run(x[i, 0], u[j], v[j], np.empty((31, 42), "f"), (-3, -4))
            assert bits(y[i, j]) == bits(alone)


def test_empty():
    run(np.ones((3, 3), "f"), np.ones((1, 2)), np.ones((1, 2)), np.empty((0, 4), "f"), (0, 0))
    run(np.ones((3, 3), "f"), np.ones((1, 2)), np.ones((1, 2)), np.empty((0, 2, 2), "f"), (0, 0))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", "fdF")
def test_not_finite(rng, dtype, value):
    """A pixel that is not finite spoils the outputs whose windows touch it, zero taps too."""
    x, u, v = random(rng, dtype, (40, 70), (6, 9), 1)
    u[0, 2] = v[0, 4] = 0
    for i, j in [(0, 0), (39, 69), (17, 33), (20, 7)]:
        z = x.copy()
        z[i, j] = value
        clean = run(x, u, v, np.empty((45, 78), dtype), (-5, -8))
        got = run(z, u, v, np.empty((45, 78), dtype), (-5, -8))
        touched = np.zeros(got.shape, bool)
        touched[i : i + 6, j : j + 9] = True  # output p has the rows p - 5 … p
        np.testing.assert_array_equal(~np.isfinite(got), touched)
        assert bits(got[~touched]) == bits(clean[~touched])


def test_infinities_keep_their_sign(rng):
    """With one outer product inf stays what the definition makes of it."""
    x = np.zeros((20, 40), "f")
    x[5, 7], x[15, 30] = np.inf, -np.inf
    u, v = np.array([[1, -2, 3]], "f"), np.array([[-1, 2]], "f")
    k = u.T * v
    got = run(x, u, v, np.empty((18, 39), "f"), (0, 0))
    for a in range(3):
        for b in range(2):
            assert got[5 - a, 7 - b] == np.inf * k[a, b]
            assert got[15 - a, 30 - b] == -np.inf * k[a, b]


# ---------------------------------------------------------------- taking apart


def rebuilt(u, v):
    """The kernel that the factors stand for, exact, and the sum of its terms' magnitudes."""
    u, v = (np.vectorize(Fraction, otypes=[object])(f.astype(float)) for f in (u, v))
    terms = u[:, :, None] * v[:, None, :]
    return terms.sum(axis=0), np.abs(terms).sum(axis=0)


def holds(k, u, v):
    """Whether every tap keeps within the bound, in exact arithmetic."""
    unit = Fraction(UNIT[k.dtype.char])
    got, size = rebuilt(u, v)
    want = np.vectorize(Fraction, otypes=[object])(k.astype(float))
    (rank, kh), kw = u.shape, v.shape[1]
    roundings = kw * (kw > 1) + rank * kh * (kh > 1)
    return (
        np.abs(got - want) + roundings * unit * size <= (k.size + 1) * unit * np.abs(want)
    ).all()


@pytest.mark.parametrize("dtype", "fd")
@pytest.mark.parametrize("taps", [(5, 5), (4, 9), (15, 15), (31, 7), (40, 80)])
def test_rank_one(rng, dtype, taps):
    """Whatever the factors were: the kernel is their product, rounded."""
    for _ in range(20):
        k = np.outer(rng.standard_normal(taps[0]), rng.standard_normal(taps[1])).astype(dtype)
        u, v = factors(k)
        assert (u.shape, v.shape) == ((1, taps[0]), (1, taps[1]))
        assert u.dtype == v.dtype == k.dtype
        assert holds(k, u, v)


@pytest.mark.parametrize("dtype", "fd")
@pytest.mark.parametrize("rank", [2, 3])
def test_ranks(rng, dtype, rank):
    """A sum of blocks beside each other: no cancellation, so its rank is found."""
    k = np.zeros((15, 15))
    for n in range(rank):
        k[5 * n : 5 * n + 5, 5 * n : 5 * n + 5] = np.outer(rng.random(5) + 1, rng.random(5) + 1)
    k = k.astype(dtype)
    u, v = factors(k)
    assert len(u) == rank
    assert holds(k, u, v)
    assert factors(k, rank - 1) is None
    assert factors(k + np.eye(15, dtype=dtype)) is None


@given(
    st.integers(0, 2**32),
    st.sampled_from("fd"),
    st.integers(2, 9),
    st.integers(2, 9),
    st.integers(1, 4),
    st.sampled_from([0, 1, 8]),
)
def test_accepts_only_within_the_bound(seed, dtype, kh, kw, rank, decades):
    rng = np.random.default_rng(seed)
    u, v = reals(rng, (rank, kh), dtype, decades), reals(rng, (rank, kw), dtype, decades)
    if rank > 1:
        u, v = np.abs(u), np.abs(v)  # or too much cancels
    k = (u[:, :, None] * v[:, None, :]).sum(axis=0)
    pair = factors(k)
    assert pair is None or holds(k, *pair)


@pytest.mark.parametrize("dtype", "fd")
def test_near_misses(rng, dtype):
    k = np.outer(rng.random(15) + 1, rng.random(15) + 1).astype(dtype)
    assert factors(k) is not None
    for at in [(0, 0), (7, 3), (14, 14)]:
        other = k.copy()
        other[at] *= 1 + 1000 * UNIT[dtype]
        pair = factors(other)
        assert pair is None or len(pair[0]) > 1
        assert factors(other, 1) is None
        other[at] = 0
        assert factors(other, 1) is None


def test_low_taps_count(rng):
    """What is small beside the largest tap, but not beside itself, is no rounding."""
    k = np.outer([1, 1e-6, 1e-12], [1, 1e-6, 1e-12])
    k = np.kron(k, np.ones((5, 5)))
    assert factors(k) is not None
    k[-1, -1] *= 1.001
    assert factors(k, 1) is None


@pytest.mark.parametrize(
    ("column", "row"),
    [
        ([1, 1, 1], [1, 1, 1]),
        ([1, 2, 1], [-1, 0, 1]),
        ([1, 3, 3, 1], [1, 3, 3, 1]),
        ([5, 0, 0], [3, 7, 2]),
    ],
)
@pytest.mark.parametrize("dtype", "fdFDHIQ")
def test_integers(column, row, dtype):
    """Integer kernels have integer factors; an odd one is found by no division."""
    k = np.outer(column, row).astype("q").astype(dtype)
    u, v = factors(k)
    for f in (u, v):
        assert (f.real == np.rint(f.real)).all()
    assert ((u[0, :, None] * v[0]).astype(dtype) == k).all()


@pytest.mark.parametrize("dtype", "fd")
def test_fractions_of_two(dtype):
    """Integers over a power of two come apart without rounding."""
    row = np.array([1, 4, 6, 4, 1])
    k = (np.outer(row, row) / 256).astype(dtype)
    u, v = factors(k)
    np.testing.assert_array_equal(u[0, :, None] * v[0], k)
    assert np.abs(u).max() >= 1


@pytest.mark.parametrize("dtype", "fd")
def test_integers_stay_exact(rng, dtype):
    """An integer kernel is refused where its factors would bring fractions or cancel."""
    for _ in range(50):
        u, v = rng.integers(1, 30, (2, 2, 9))
        k = (u[:, :, None] * v[:, None, :]).sum(axis=0).astype(dtype)
        pair = factors(k)
        if pair is not None:
            got, size = rebuilt(*pair)
            assert (got == k).all()
            assert (size == np.abs(k)).all()
    assert factors(np.array([[2, 1], [1, 1]], dtype)) is None


@pytest.mark.parametrize("dtype", "HIQ")
def test_unsigned_lanes(rng, dtype):
    info = np.iinfo(dtype)
    for _ in range(20):
        u, v = rng.integers(-5, 6, 6), rng.integers(-5, 6, 4)
        k = np.outer(u, v).astype(dtype)
        a, b = factors(k)
        np.testing.assert_array_equal(a[0, :, None] * b[0], k)
    assert factors(rng.integers(0, info.max, (5, 5), dtype)) is None
    assert factors(np.full((3, 4), info.max // 2 + 1, dtype)) is not None or dtype == "Q"
    other = np.outer([1, 2, 3], [1, 2, 3]).astype(dtype)
    other[2, 2] += 1
    assert factors(other) is None


@pytest.mark.parametrize("dtype", "fdFDHIQ")
def test_trivial(dtype):
    k = np.zeros((4, 5), dtype)
    u, v = factors(k)
    assert not (u[0, :, None] * v[0]).any()
    row = np.arange(1, 8).astype(dtype)
    for k, one in ((row[None, :], 0), (row[:, None], 1)):
        pair = factors(np.ascontiguousarray(k))
        assert pair[one].tolist() == [[1]]
        np.testing.assert_array_equal(pair[1 - one][0], row)
    assert factors(np.zeros((0, 3), dtype)) is None
    assert factors(np.zeros((0, 3, 3), dtype)) is None
    assert factors(np.ones((2, MOST_TAPS + 1), dtype)) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", "fdFD")
def test_kernels_not_finite(dtype, value):
    for shape in [(5, 5), (1, 5), (5, 1)]:
        k = np.ones(shape, dtype)
        k[-1, 0] = value
        assert factors(k) is None


@pytest.mark.parametrize(
    ("dtype", "exponents"), [("f", [100, -100, -120]), ("d", [1000, -900, -1000])]
)
def test_scales(rng, dtype, exponents):
    """Rows of factors are no larger than rows of the kernel: no sum overflows that need not."""
    row = np.exp(-(np.linspace(-1, 1, 9) ** 2))
    k = np.outer(row, row).astype(dtype)
    x = rng.random((20, 20)).astype(dtype)
    want = run(x, *factors(k), np.empty((12, 12), dtype), (0, 0))
    for e in exponents:
        scaled = np.ldexp(k, e)
        u, v = factors(scaled)
        assert np.abs(v).max() <= np.abs(scaled).max()
        got = run(x, u, v, np.empty((12, 12), dtype), (0, 0))
        assert bits(np.ldexp(got, -e)) == bits(want)


@pytest.mark.parametrize("dtype", "fd")
def test_subnormal_kernels(dtype):
    """Of so few digits that a product cannot be told: refused unless exact."""
    tiny = np.finfo(dtype).smallest_subnormal
    k = (np.outer([1, 2, 3, 5, 7], [1, 2, 3, 5, 9]) * tiny).astype(dtype)
    pair = factors(k)
    assert pair is None or holds(k, *pair)


def test_batches(rng):
    """One number of terms for all; what needs fewer has terms of zeros."""
    one = np.outer(np.arange(1, 9), np.arange(1, 9)).astype("f")
    two = np.zeros((8, 8), "f")
    two[:4, :4] = np.outer(rng.random(4) + 1, rng.random(4) + 1)
    two[4:, 4:] = np.outer(rng.random(4) + 1, rng.random(4) + 1)
    u, v = factors(np.stack([one, two, one / 3]).reshape(3, 1, 8, 8))
    assert u.shape == v.shape == (3, 1, 2, 8)
    assert u.flags.c_contiguous
    assert v.flags.c_contiguous
    for k, a, b in zip([one, two, one / 3], u, v, strict=True):
        np.testing.assert_allclose((a[0, :, :, None] * b[0, :, None, :]).sum(axis=0), k, rtol=1e-6)
    assert not u[0, 0, 1].any()
    assert not v[2, 0, 1].any()
    assert factors(np.stack([one, rng.standard_normal((8, 8)).astype("f")])) is None


def test_complex(rng):
    """Of complex kernels those that keep the bound of each part: here, real ones."""
    g = rng.random(9) + 1
    for k in (np.outer(g, g), np.outer(g, g[::-1])):
        u, v = factors(k.astype("F"))
        assert u.dtype == v.dtype == np.complex64
        np.testing.assert_allclose(u[0, :, None] * v[0], k, rtol=1e-6)
    w = rng.standard_normal((2, 9)) + 1j * rng.standard_normal((2, 9))
    assert factors(np.outer(w[0], w[1]).astype("F")) is None


# ---------------------------------------------------------------- both: the error bound


@pytest.mark.parametrize("decades", [0, 3, 12])
@pytest.mark.parametrize("taps", [(5, 5), (15, 9), (31, 31)])
@pytest.mark.parametrize("dtype", "fF")
def test_error(rng, dtype, taps, decades):
    """|error| <= (n + 1) u sum |x| |k| at every output, of single precision and any range."""
    column, row = (np.exp(-(np.linspace(-2, 2, n) ** 2)) for n in taps)
    k = np.outer(column, row).astype("f")
    x = reals(rng, (40, 50), dtype, decades)
    x[::3] = 0
    shape = (41 - taps[0], 51 - taps[1])
    got = run(x, *factors(k.astype(dtype)), np.empty(shape, dtype), (0, 0))
    for part in ("real", "imag") if dtype == "F" else ("real",):
        pixels = np.lib.stride_tricks.sliding_window_view(getattr(x, part).astype("d"), taps)
        want = np.einsum("ijab,ab->ij", pixels, k.astype("d"))
        size = np.einsum("ijab,ab->ij", np.abs(pixels), k.astype("d"))
        bound = (k.size + 1) * (UNIT["f"] + 2.0**-52) * size
        assert (np.abs(getattr(got, part) - want) <= bound).all()


@pytest.mark.parametrize("dtype", "fd")
def test_one_pixel(dtype):
    """An image of one pixel shows the kernel: each tap within the bound by itself."""
    row = np.exp(-(np.linspace(-3, 3, 15) ** 2))
    k = np.outer(row, row).astype(dtype)
    u, v = factors(k)
    x = np.zeros((29, 29), dtype)
    x[14, 14] = 1
    got = run(x, u, v, np.empty((15, 15), dtype), (0, 0))[::-1, ::-1]
    assert (np.abs(got - k) <= (k.size + 1) * UNIT[dtype] * np.abs(k)).all()


# ---------------------------------------------------------------- the largest numbers


def _sums(rng, rank, dtype):
    """A kernel that is a sum of so many outer products, and is taken for one."""
    t = np.linspace(-1, 1, 15)
    k = np.outer(rng.random(15), rng.random(15)) if rank == 1 else 1 + t[:, None] ** 2 + t**2
    return k.astype(dtype)


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("dtype", ["f4", "f8", "c8"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, "large"])
def test_large_and_infinite_pixels_are_as_in_the_direct_sum(rank, dtype, value):
    rng = np.random.default_rng(12)
    k = _sums(rng, rank, dtype)
    x = rng.standard_normal((80, 90)).astype(dtype)
    if value == "large":
        x *= np.finfo(dtype).max / 400
        x[40, 30:60] = np.finfo(dtype).max / 300
    else:
        x[40, 50] = value
    with np.errstate(all="ignore"):
        y = fastcorr.correlate2d(x, k, "same", method="separable")
        expected = fastcorr.correlate2d(x, k, "same", method="direct")
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(np.isfinite(y), finite)
    np.testing.assert_array_equal(y[~finite], expected[~finite])
    with np.errstate(all="ignore"):
        scale = np.abs(expected[finite] / 2**20).max() * np.finfo(dtype).eps * 2**28
        assert np.abs(y[finite] / 2**20 - expected[finite] / 2**20).max() <= scale


def test_rows_do_not_overflow_where_the_result_does_not():
    # The largest row of the kernel never meets the large pixels.
    k = np.outer(10.0 ** np.linspace(6, -6, 16), np.ones(16)).astype("f4")
    x = np.zeros((100, 100), "f4")
    x[-1] = 1e33
    for mode in ("valid", "same"):
        y = fastcorr.correlate2d(x, k, mode, method="separable")
        expected = fastcorr.correlate2d(x, k, mode, method="direct")
        np.testing.assert_allclose(y, expected, rtol=1e-5)


def test_complex_infinities():
    x, k = np.ones((50, 60), "f4"), np.full((9, 9), 1 + 1j, "c8")
    x[20, 30] = np.inf
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(
            fastcorr.correlate2d(x, k, "same", method="separable"),
            fastcorr.correlate2d(x, k, "same", method="direct"),
        )
