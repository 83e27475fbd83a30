"""Winograd's algorithms: exact on integers, within a bound on floating numbers, the same bits for
any layout, batch and number of workers."""

import itertools
import os
import subprocess
import sys
from fractions import Fraction

import cases
import conv_cases
import conv_oracle
import numpy as np
import pytest
from conv_cases import Case

import fastcorr
from fastcorr import _winograd
from fastcorr.conv import conv2d, conv2d_backward

METHODS = {2: "winograd", 4: "winograd4"}
MODES = tuple(conv_oracle.MODES)
both = pytest.mark.parametrize("m", METHODS)

# One dimension of each algorithm, from the definition: y = A [(G w) * (B x)].
B = {
    2: [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
    4: [[1, -1.5, -2, 1.5, 1, 0], [0, -1, 0.5, 2.5, 1, 0], [0, 1, -2.5, 0.5, 1, 0],
        [0, -2, -1, 2, 1, 0], [0, 0.5, -1, -0.5, 1, 0], [0, 1, -1.5, -2, 1.5, 1]],
}  # fmt: skip
G = {
    2: [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]],
    4: [[1, 0, 0], [1, 1, 1], [1, -1, 1], [1, 0.5, 0.25], [1, -2, 4], [0, 0, 1]],
}
A = {
    2: [[1, 1, 1, 0], [0, 1, -1, -1]],
    4: [[15, 5, -5, -16, 1, 0], [0, 5, 5, -8, -2, 0], [0, 5, -5, -4, 4, 0],
        [0, 5, 5, -2, -8, 15]],
}  # fmt: skip
DIVISOR = {2: 1, 4: 15}


def sizes(m):
    """Sums of magnitudes of the rows of B, of G, and |A|."""
    return (
        *(np.abs(v[m]).sum(axis=1) for v in (B, G)),
        np.abs(A[m]) / DIVISOR[m],
    )


def growth(m):
    """How much larger than the products of a tile what is added up for an output may be."""
    b, g, a = sizes(m)
    return float((a @ (b * g)).max() ** 2)


# Roundings on the way of a product, beside those of its sum: at most 6 + 4 + 10 in the transforms
# of pixels, weights and products, 3 more since the pixels' partly cancel (7/5), 2 in the division,
# 1 in the product; in the gradient to the weight 6 + 6 + 8.  The whole is rounded up.
TRANSFORMS = 28
SUMMED, SUMMED_GRAD = 64, 128  # numbers in one accumulator


def roundings(terms, most):
    return min(terms, most) + terms / most + TRANSFORMS


@both
def test_matrices(m):
    """Both are the correlation, for each pixel and each tap; and what they may grow to."""
    for t, k in np.ndindex(m + 2, 3):
        every = zip(B[m], G[m], strict=True)
        products = [Fraction(b[t]) * Fraction(g[k]) for b, g in every]
        y = [
            sum(Fraction(a) * p for a, p in zip(row, products, strict=True)) / DIVISOR[m]
            for row in A[m]
        ]
        assert y == [i + k == t for i in range(m)]
    assert growth(m) == pytest.approx({2: 64, 4: 876}[m], abs=0.5)


# ---------------------------------------------------------------- integers


def reference(case, arrays):
    """The definition in double precision, which is exact for these integers."""
    wide = "D" if case.dtype.kind == "c" else "d"
    dy, x, weight, bias = (None if v is None else v.astype(wide) for v in arrays)
    y = conv_oracle.conv2d(x, weight, bias, *case.args, case.mode)
    return y, *conv_oracle.conv2d_backward(dy, x, weight, *case.args, case.mode)


def results(case, arrays, m, **more):
    dy, x, weight, bias = arrays
    more = {"method": METHODS[m], "workers": case.workers, **case.mode_argument, **more}
    y = conv2d(x, weight, bias, *case.args, **more)
    return y, *conv2d_backward(dy, x, weight, *case.args, **more)


def check_integers(case, m):
    arrays = case.arrays()
    before = [v.tobytes() for v in arrays if v is not None]
    got, right = results(case, arrays, m), reference(case, arrays)
    assert [v.tobytes() for v in arrays if v is not None] == before
    if m == 2 or case.dtype.char in "dD":
        conv_cases.assert_exact(got, right, case)
        return
    # In single precision 1/225 is rounded, and larger numbers than 2**24 are: no magnitude is
    # above 9, so the bound below is the same for all elements.
    parts = 2 if case.dtype.kind == "c" else 1
    x_shape = case.x_shape if len(case.x_shape) == 4 else (1, *case.x_shape)
    tiles = x_shape[0] * np.prod([-(-n // m) for n in case.out])
    channels, outputs = case.w_shape[1] * parts, case.w_shape[0] // case.groups * parts
    # How many pixels of the continued image each pixel is.
    one = np.ones((1, 1, 1, 1))
    sides = conv_oracle.pads(case.padding, x_shape[2:], (3, 3), 1, 1)
    padded = np.ones((1, 1, *(sum(side) + n for side, n in zip(sides, x_shape[2:], strict=True))))
    image = np.ones((1, 1, *x_shape[2:]))
    times = conv_oracle.conv2d_backward(padded, image, one, 1, sides, mode=case.mode)[0]
    unit = growth(m) * np.finfo("f").eps / 2 * 81
    for name, a, b, most in zip(
        conv_cases.NAMES, got, right,
        (unit * channels * roundings(channels, SUMMED) + 2**-24 * abs(right[0]).max(),
         unit * outputs * roundings(outputs, SUMMED) * times.max(),
         unit * tiles * parts * roundings(tiles * parts, SUMMED_GRAD), 0),
        strict=True,
    ):  # fmt: skip
        assert a.shape == b.shape
        for part in ("real", "imag"):
            assert abs(getattr(a, part) - getattr(b, part)).max() <= most, (name, case)


def random_case(seed):
    rng = np.random.default_rng([seed, 7])
    n, c, o, g = (int(rng.integers(*v)) for v in ((1, 4), (1, 40), (1, 40), (1, 4)))
    image = [int(v) for v in rng.integers(1, 12, 2)]
    match seed % 4:
        case 1:  # several parts of the tiles
            n, c, o, image = (
                n + 1,
                c // 4 + 1,
                o // 4 + 1,
                [int(v) for v in rng.integers(18, 32, 2)],
            )
        case 2:  # several accumulators
            c, o = (int(v) for v in rng.permutation([rng.choice([63, 64, 65, 129, 140]), o]))
            g = 1
    sides = [[int(v) for v in rng.integers(0, 4, 2)] for _ in range(2)]
    sides = [
        side if sum(side) + size >= 3 else [1, 2 - size + 1]
        for side, size in zip(sides, image, strict=True)
    ]
    if rng.random() < 0.4:
        sides = [[1, 1] if size > 0 else side for side, size in zip(sides, image, strict=True)]
    layouts = rng.choice(list(conv_cases.LAYOUTS), 3) if seed % 2 else ["C"] * 3
    if c == o == 1 and g > 1:
        o = 2
    case = Case(
        seed, "winograd", (n, c * g, *image), (o * g, c, 3, 3), 1,
        tuple(tuple(side) for side in sides), 1, g, str(rng.choice(MODES)),
        layouts=tuple(str(v) for v in layouts), bias=bool(seed % 3), workers=seed % 3 + 1,
    )  # fmt: skip
    if n == 1 and seed % 2:
        case.x_shape = case.x_shape[1:]
    return case


@both
@pytest.mark.parametrize("dtype", "fdFD")
@pytest.mark.parametrize("first", [0, 12])
def test_random_problems(m, dtype, first):
    for seed in range(first, first + 12):
        case = random_case(seed + 100 * "fdFD".index(dtype))
        case.types = (dtype,) * 3
        check_integers(case, m)


@both
@pytest.mark.parametrize(("dtype", "x_shape", "outputs", "groups", "workers"), [
    # Each panel's weights by itself, with one round of parts; with two (m = 4).
    ("f", (3, 230, 9, 9), 230, 1, 2), ("d", (1, 104, 56, 57), 112, 1, 1),
    # The gradient to the weight: two passes over all tiles; slabs of them (m = 2; both).
    ("d", (1, 230, 40, 40), 230, 1, 2), ("f", (1, 64, 47, 49), 64, 1, 2),
    ("d", (1, 3, 120, 50), 5, 1, 3), ("d", (2, 9, 100, 101), 21, 3, 1),
    ("D", (2, 17, 66, 90), 9, 1, 2),
])  # fmt: skip
def test_large_problems(m, dtype, x_shape, outputs, groups, workers):
    case = Case(3, "winograd", x_shape, (outputs, x_shape[1] // groups, 3, 3), 1, 1, 1, groups,
                types=(dtype,) * 3, bias=True, workers=workers)  # fmt: skip
    check_integers(case, m)


@both
@pytest.mark.parametrize("dtype", "dD")
def test_adjoint(m, dtype):
    """<dy, y> = <dx, x> = <dweight, weight>, as PyTorch's gradients are: exact."""
    for seed in range(40, 52):
        case = random_case(seed)
        case.types, case.bias = (dtype,) * 3, False
        dy, x, weight, _ = arrays = case.arrays()
        y, dx, dweight, _ = (conv_oracle.lift(v) for v in results(case, arrays, m))
        products = {
            int((conv_oracle.lift(u).conj() * v).real.sum())
            for u, v in ((dy, y), (x, dx), (weight, dweight))
        }
        assert len(products) == 1, case


# ---------------------------------------------------------------- errors


def tiles_of(image, m, size, tile, before):
    """Largest magnitude of each channel in each of the tiles that cover `size` outputs."""
    rows, columns = (
        conv_oracle._shown(n, -(-out // m), tile, m, 1, p, "zeros")
        for n, out, p in zip(image.shape[2:], size, before, strict=True)
    )
    every = itertools.product(range(tile), repeat=2)
    return np.max(
        [conv_oracle._pick(abs(image), rows[:, a], columns[:, b]) for a, b in every], axis=0
    )


def layer_bound(x, weight, m, size, before, groups, unit):
    """growth * roundings * u * sum over channels of the largest pixel and tap, of each output."""
    tiles = conv_oracle._grouped(tiles_of(x, m, size, m + 2, before), groups, 1)
    largest = conv_oracle._grouped(abs(weight).max(axis=(2, 3)), groups, 0)
    total = np.einsum("goc,ngcij->ngoij", largest, tiles)
    total = total.reshape(len(x), -1, *total.shape[3:]).repeat(m, 2).repeat(m, 3)
    factor = growth(m) * roundings(weight.shape[1], SUMMED) * unit
    return factor * total[:, :, : size[0], : size[1]]


def shares(dy, x, weight, m, groups, wide):
    """Largest share of its bound that each error is: of the result and both gradients."""
    unit = float(np.finfo(x.dtype).eps) / 2
    args = 1, 1, 1, groups
    got = (
        conv2d(x, weight, None, *args, method=METHODS[m]),
        *conv2d_backward(dy, x, weight, *args, method=METHODS[m])[:2],
    )
    dy, x, weight = (v.astype(wide) for v in (dy, x, weight))
    right = (
        conv_oracle.conv2d(x, weight, None, *args),
        *conv_oracle.conv2d_backward(dy, x, weight, *args)[:2],
    )
    size = x.shape[2:]
    back = conv_oracle._grouped(weight, groups, 0).swapaxes(1, 2)
    back = back.reshape(-1, *back.shape[2:])
    pixels = conv_oracle._grouped(tiles_of(x, m, size, m + 2, (1, 1)), groups, 1)
    outputs = conv_oracle._grouped(tiles_of(dy, m, size, m, (0, 0)), groups, 1)
    total = np.einsum("ngoij,ngcij->goc", outputs, pixels).reshape(weight.shape[:2])
    tiles = pixels[:, 0, 0].size
    bounds = [
        layer_bound(x, weight, m, size, (1, 1), groups, unit),
        layer_bound(dy, back, m, size, (1, 1), groups, unit),
        growth(m) * roundings(tiles, SUMMED_GRAD) * unit * total[..., None, None],
    ]
    found = []
    for a, b, bound in zip(got, right, bounds, strict=True):
        assert a.shape == b.shape
        assert (b != 0).any()
        found.append(float((abs(a - b) / (bound + np.finfo(x.dtype).tiny)).max()))
    return found


def spiky(rng, shape):
    return cases.reals(rng, shape, "d") * np.where(rng.random(shape) < 0.02, 1e6, 1)


DATA = {
    "normal": lambda rng, shape: cases.reals(rng, shape, "d"),
    "positive": lambda rng, shape: abs(cases.reals(rng, shape, "d")),
    "spiky": spiky,
    # Every other pixel cancels its neighbours, to about a thousandth.
    "cancelling": lambda rng, shape: (
        (-1.0) ** np.indices(shape).sum(axis=0) + cases.reals(rng, shape, "d") / 1e3
    ),
}
# x, output channels, groups: few and many channels, one and many tiles and accumulators.
BOUNDED = [
    ((2, 5, 13, 14), 7, 1), ((3, 1, 6, 5), 2, 1), ((1, 64, 12, 12), 16, 1),
    ((1, 140, 9, 10), 20, 1), ((2, 12, 35, 34), 16, 2),
]  # fmt: skip

# The bound is the worst case; this much of it is met by errors that do not all add up.
SEEN = {2: 1 / 32, 4: 1 / 256}


@both
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("dtype", "fd")
def test_error_bound(m, data, dtype, rng):
    if dtype == "d" and np.finfo("g").eps == np.finfo("d").eps:
        pytest.skip("no more digits than double precision here")
    for x_shape, outputs, groups in BOUNDED:
        shapes = (x_shape[0], outputs, *x_shape[2:]), x_shape, (outputs, x_shape[1] // groups, 3, 3)
        arrays = [DATA[data](rng, shape).astype(dtype) for shape in shapes]
        found = shares(*arrays, m, groups, {"f": "d", "d": "g"}[dtype])
        assert max(found) <= SEEN[m], (x_shape, found)


@pytest.mark.parametrize("channels", [64, 256, 512])
@pytest.mark.parametrize(("dtype", "more", "most"), [
    ("f", {}, 1e-6), ("f", {"method": "winograd"}, 1e-6), ("f", {"method": "winograd4"}, 1e-5),
    ("d", {"method": "winograd4"}, 1e-13),
])  # fmt: skip
def test_errors_of_normal_data(channels, dtype, more, most, rng):
    """Beside the largest output, as docs/accuracy.md says."""
    shapes = (1, 16, 14, 14), (1, channels, 14, 14), (16, channels, 3, 3)
    dy, x, weight = (cases.reals(rng, shape, dtype) for shape in shapes)
    got = conv2d(x, weight, padding=1, **more), *conv2d_backward(dy, x, weight, padding=1, **more)
    dy, x, weight = (v.astype("g") for v in (dy, x, weight))
    right = (
        conv_oracle.conv2d(x, weight, padding=1),
        *conv_oracle.conv2d_backward(dy, x, weight, padding=1),
    )
    for name, a, b in zip(conv_cases.NAMES, got, right, strict=True):
        assert abs(a - b).max() <= most * abs(b).max(), name


def chosen(dtype, channels=64, side=56, rtol=None, **more):
    """What 'auto' takes for a layer from and to so many channels, told by its bits."""
    rng = np.random.default_rng(5)
    w_shape = channels, channels // more.get("groups", 1), *more.pop("kernel", (3, 3))
    x = cases.reals(rng, (1, channels, side, side), dtype)
    weight = cases.reals(rng, w_shape, dtype)
    got = conv2d(x, weight, padding=1, rtol=rtol, **more).tobytes()
    found = []
    for method in ("direct", *METHODS.values()):
        try:
            if conv2d(x, weight, padding=1, method=method, **more).tobytes() == got:
                found.append(method)
        except ValueError:
            assert method != "direct"
    assert len(found) == 1
    return found[0]


def test_choice():
    most = _winograd._RTOL
    assert chosen("f") == chosen("F", 32) == "winograd"
    assert chosen("d") == chosen("D", 32) == "winograd4"
    for rtol in (most, 2 * most, 0.5):
        assert chosen("f", rtol=rtol) == "winograd4"
    for rtol in (most * (1 - 1e-9), 1e-6, 1e-300):
        assert chosen("f", rtol=rtol) == "winograd"
    for dtype, rtol in (("f", 1.0), ("d", None)):
        assert chosen(dtype, 2, rtol=rtol) == "direct"
        assert chosen(dtype, 64, 1, rtol=rtol) == "direct"
        for more in (
            {"stride": 2}, {"stride": (1, 2)}, {"dilation": (2, 1)}, {"kernel": (3, 2)},
            {"kernel": (5, 5)}, {"groups": 64},
        ):  # fmt: skip
            # Channels apart have methods of their own, which are as exact as the direct sum.
            if "groups" in more:
                with pytest.raises(ValueError, match="winograd"):
                    conv2d(
                        np.ones((64, 9, 9)), np.ones((64, 1, 3, 3)), groups=64, method="winograd"
                    )
            else:
                assert chosen(dtype, rtol=rtol, side=28, **more) == "direct"


# ---------------------------------------------------------------- the same bits

BITS = [((3, 33, 20, 21), 18, 1), ((2, 70, 9, 10), 34, 2), ((1, 130, 7, 7), 40, 1)]


def real_arrays(rng, x_shape, outputs, groups, dtype):
    """dy, x, weight and bias over many decades: any other order of a sum shows."""
    shapes = (x_shape[0], outputs, *x_shape[2:]), x_shape, (outputs, x_shape[1] // groups, 3, 3)
    return [cases.reals(rng, shape, dtype, 4) for shape in (*shapes, outputs)]


def every_bit(arrays, groups, **more):
    dy, x, weight, bias = arrays
    args = 1, 1, 1, groups
    y = conv2d(x, weight, bias, *args, **more)
    return [cases.bits(v) for v in (y, *conv2d_backward(dy, x, weight, *args, **more))]


@both
@pytest.mark.parametrize("dtype", "fdFD")
def test_same_bits(m, dtype, rng):
    """For any number of workers, layout and, but for the gradient to the weight, batch."""
    for x_shape, outputs, groups in BITS:
        arrays = dy, x, weight, bias = real_arrays(rng, x_shape, outputs, groups, dtype)
        more = {"method": METHODS[m]}
        right = every_bit(arrays, groups, workers=1, **more)
        for workers in (2, 3, 8):
            assert every_bit(arrays, groups, workers=workers, **more) == right
        y = conv2d(x, weight, bias, 1, 1, 1, groups, **more)
        for name, layout in conv_cases.LAYOUTS.items():
            others = [*map(layout, arrays[:3]), np.repeat(bias, 2)[::2]]
            assert every_bit(others, groups, **more) == right, name
            if name != "read-only":
                blank = np.full(y.shape, 55).astype(dtype)
                out = layout(blank)
                base = out if out.base is None else out.base
                before = base.copy()
                assert conv2d(x, weight, bias, 1, 1, 1, groups, out=out, **more) is out
                assert cases.bits(out) == right[0], name
                out[...] = blank  # nothing beside it was written
                assert base.tobytes() == before.tobytes(), name
        for n, image in enumerate(x):
            alone = conv2d(image, weight, bias, 1, 1, 1, groups, **more)
            assert cases.bits(alone) == cases.bits(y[n])
            back = [
                conv2d_backward(g, v, weight, 1, 1, 1, groups, needs="x", **more)[0]
                for g, v in ((dy, x), (dy[n], image))
            ]
            assert cases.bits(back[0][n]) == cases.bits(back[1])


# ---------------------------------------------------------------- NaN, activation


@both
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", "fdF")
def test_a_value_reaches_no_further_than_its_tiles(m, value, dtype, rng):
    dy, x, weight, bias = real_arrays(rng, (2, 21, 14, 15), 19, 1, dtype)
    more = {"method": METHODS[m]}
    args = 1, 1, 1, 1
    for at in ((0, 3, 5, 6), (1, 20, 0, 14)):
        clean = (
            conv2d(x, weight, bias, *args, **more),
            *conv2d_backward(dy, x, weight, *args, **more),
        )
        mark = np.zeros((2, 1, 14, 15))
        mark[at[0], 0, at[2], at[3]] = 1
        # Outputs of windows, and of tiles, that hold the pixel.
        window = conv_oracle.conv2d(mark, np.ones((1, 1, 3, 3)), None, *args)[:, 0] > 0
        tile = tiles_of(mark, m, (14, 15), m + 2, (1, 1))[:, 0] > 0
        tile = tile.repeat(m, 1).repeat(m, 2)[:, :14, :15]
        spoilt = x.copy()
        spoilt[at] = value
        y = conv2d(spoilt, weight, bias, *args, **more).swapaxes(0, 1)
        assert not np.isfinite(y[:, window]).any()
        assert cases.bits(y[:, ~tile]) == cases.bits(clean[0].swapaxes(0, 1)[:, ~tile])
        dx, dweight, dbias = conv2d_backward(dy, spoilt, weight, *args, **more)
        others = np.arange(21) != at[1]
        assert not np.isfinite(dweight[:, ~others]).all()
        assert cases.bits(dweight[:, others]) == cases.bits(clean[2][:, others])
        assert cases.bits(dx) == cases.bits(clean[1])
        assert cases.bits(dbias) == cases.bits(clean[3])
        # And of dy.
        at = at[0], at[1] % 19, *at[2:]
        spoilt = dy.copy()
        spoilt[at] = value
        dx, dweight, dbias = conv2d_backward(spoilt, x, weight, *args, **more)
        dx = dx.swapaxes(0, 1)
        assert not np.isfinite(dx[:, window]).any()
        assert cases.bits(dx[:, ~tile]) == cases.bits(clean[1].swapaxes(0, 1)[:, ~tile])
        others = np.arange(19) != at[1]
        assert not np.isfinite(dweight[~others]).all()
        assert cases.bits(dweight[others]) == cases.bits(clean[2][others])
        np.testing.assert_array_equal(np.isfinite(dbias), others)


@both
@pytest.mark.parametrize("dtype", "fd")
def test_activation(m, dtype, rng):
    for x_shape, outputs, groups in (*BITS, ((2, 3, 1, 2), 5, 1)):
        _, x, weight, bias = real_arrays(rng, x_shape, outputs, groups, dtype)
        x[0, 0, 0, 0], bias[0] = np.nan, 0
        x[-1, :, -1, -1], weight[0] = 0, -0.0
        for b in (None, bias):
            args = b, 1, 1, 1, groups
            y = conv2d(x, weight, *args, method=METHODS[m])
            got = conv2d(x, weight, *args, method=METHODS[m], activation="relu")
            assert np.isnan(y).any()
            np.testing.assert_array_equal(np.isnan(got), np.isnan(y))
            there = ~np.isnan(y)
            right = np.where(y > 0, y, 0).astype(dtype)
            assert cases.bits(got[there]) == cases.bits(right[there])
            assert not np.signbit(got[there]).any()


# ---------------------------------------------------------------- memory

GUARD = """
import sys
import numpy as np
import conv_cases, test_winograd as t
from memory import guarded

def last(a):
    return a.transpose(0, 2, 3, 1) if a.ndim == 4 else a

def first(a):
    return a.transpose(0, 3, 1, 2) if a.ndim == 4 else a

turns = [(np.asarray, np.asarray), (np.flip, np.flip), (last, first)]
for line in sys.stdin:
    dtype, x_shape, w_shape, groups = eval(line)
    case = conv_cases.Case(1, "guard", x_shape, w_shape, 1, 1, 1, groups, types=(dtype,) * 3,
                           bias=True, workers=1)
    right = t.reference(case, case.arrays())
    for at_end in (True, False):
        for there, back in turns:
            arrays = [back(guarded(np.ascontiguousarray(there(v)), at_end)) for v in case.arrays()]
            out = back(guarded(np.ascontiguousarray(there(np.zeros(case.y_shape, dtype))), at_end))
            for m in (2, 4):
                got = t.results(case, arrays, m)
                t.conv2d(*arrays[1:], *case.args, method=t.METHODS[m], out=out)
                for a, b in zip((*got, out), (*right, right[0])):
                    assert abs(a - b).max() <= 1e-4 * abs(b).max(), case
print("fine")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mprotect as on Linux")
@pytest.mark.parametrize("dtype", "fdFD")
def test_nothing_beyond_the_operands_is_read(dtype):
    """Each operand between two pages that nobody may touch, in ascending and descending order
    and with the channels last."""
    problems = [
        (dtype, (1, channels, rows, width), (outputs, channels // groups, 3, 3), groups)
        for width in (*range(1, 20), 31, 33, 65)
        for channels, outputs, groups, rows in (
            (1, 3, 1, 1), (8, 16, 1, 2), (17, 9, 1, 3), (32, 8, 2, 4), (4, 33, 1, 5),
        )
    ]  # fmt: skip
    here = [os.path.dirname(__file__), os.path.dirname(os.path.dirname(fastcorr.__file__))]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", GUARD],
        input="\n".join(map(repr, problems)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*here, *sys.path])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == "fine", (done.returncode, done.stderr[-3000:])
