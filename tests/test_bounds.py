"""The errors of floating-point results and gradients, each element by itself, on hard data.

What is exact is known from more digits: of single precision from double, of double from long
double.  Their own errors are at most n + 2 units of theirs, which is taken off what is allowed:
what passes has kept its bound in exact arithmetic.
"""

import dataclasses

import cases
import conv_cases
import conv_oracle
import corr_cases
import numpy as np
import oracle
import pytest
from nightly import blocks

import fastcorr
from fastcorr import _fft

WIDER = {"f": "d", "F": "D", "d": "g", "D": "G"}
needs_long_doubles = pytest.mark.skipif(
    np.finfo("g").eps == np.finfo("d").eps, reason="no more digits than double precision here"
)


def spike(x):
    x[tuple(n // 2 for n in x.shape)] = 1e12
    return x


def alternating(x):
    """Of neighbours that a smooth kernel nearly cancels."""
    return (-1.0) ** np.indices(x.shape).sum(axis=0) * (1 + x / 1e6)


def cancelling(x):
    """Every second element is the one before with the other sign, but for its last digits."""
    x[..., 1::2] = -x[..., : x.shape[-1] // 2 * 2 : 2] * (1 + 1e-6 * x[..., 1::2])
    return x


# Name -> image, kernel and gradient to the result of normally distributed numbers.
DATA = {
    "normal": lambda x, k, dy: (x, k, dy),
    "positive": lambda x, k, dy: (abs(x), abs(k), abs(dy)),
    "alternating": lambda x, k, dy: (alternating(x), 1 + k / 1e6, alternating(dy)),
    "cancelling": lambda x, k, dy: (cancelling(x), 1 + k / 1e6, cancelling(dy)),
    "spike": lambda x, k, dy: (spike(x), k, spike(dy)),
    "huge and tiny": lambda x, k, dy: (x * 1e30, k * 1e-30, dy),
    "decades": lambda x, k, dy: (x * 10.0 ** (30 * np.sin(1e4 * x)), k * 10.0 ** (5 * np.sin(k)),
                                 dy * 10.0 ** (5 * np.sin(1e4 * dy))),
    "subnormal": lambda x, k, dy: (x, k, dy),
}  # fmt: skip


def arrays(data, seed, dtype, *shapes):
    """Image, kernel and gradient of a problem."""
    rng = np.random.default_rng([seed, 8])

    def one(dtype):
        made = DATA[data](*(cases.reals(rng, shape, "d") for shape in shapes))
        if data == "subnormal":
            made = made[0] * float(np.finfo(dtype).tiny) / 64, made[1], made[2]
        return [a.astype(dtype) for a in made]

    if np.dtype(dtype).kind != "c":
        return one(dtype)
    return [
        (a + 1j * b).astype(dtype) for a, b in zip(*map(one, (dtype.lower(),) * 2), strict=True)
    ]


def parts(a):
    return (a.real, a.imag) if a.dtype.kind == "c" else (a,)


def shares(got, product, u, v, terms, added=None):
    """Of each element of a bilinear map the share of its bound that its error may be.

    `terms(c)` are the roundings less one that a real sum of c times as many products is allowed,
    2 for parts of complex results.  `added` enters the result too.
    """
    dtype = got.dtype
    wide = WIDER[dtype.char]
    right = product(u.astype(wide), v.astype(wide))
    (p, *i), (r, *j) = ([abs(t).astype(wide.lower()) for t in parts(a)] for a in (u, v))
    totals = [product(p, r)]
    if i:  # then both are complex
        totals = [totals[0] + product(*i, *j), product(p, *j) + product(*i, r)]
    if added is not None:
        right = right + added
        totals = [total + abs(part) for total, part in zip(totals, parts(added), strict=True)]
    unit, own = (np.finfo(t).eps / 2 for t in (dtype, wide))
    n = terms(len(totals))
    found = []
    for a, b, total in zip(parts(got), parts(right), totals, strict=True):
        assert a.shape == b.shape
        assert np.isfinite(b).all()
        allowed = (n + 1) * (unit - 2 * own) * total
        # What underflows on the way; the separable method scales it, by up to the sum of the taps.
        lost = np.finfo(dtype).smallest_subnormal.astype(own.dtype) * max(1, abs(v).sum())
        allowed = allowed + (n + 1) * lost
        found.append(abs(a.astype(b.dtype) - b) / allowed)
    return np.array(found)


def in_blocks(taps):
    """Terms of a chain of sums: kernels of more than 32 rows or 64 columns are cut into blocks."""
    kh, kw = taps
    return kh * kw if kh <= 32 and kw <= 64 else min(kh * kw, 2048 + -(-kh // 32) * -(-kw // 64))


# ---------------------------------------------------------------- one channel


def one_channel(seed):
    """A problem of double or single precision, without values beyond the image."""
    while True:
        case = corr_cases.real_case(seed)
        if case.types[0] in WIDER and case.method != "fft" and case.function != "corr2d":
            return dataclasses.replace(case, fill=0, layouts=("C",) * 3)
        seed += 10**5


def check_one_channel(seed, data):
    """(n + 1) u sum |x| |k| for the result and the gradients, by every method but 'fft'."""
    case = one_channel(seed)
    shapes = case.x_shape, case.k_shape, case.y_shape
    x, k, dy = arrays(data, case.seed, case.types[0], *shapes)
    if case.outer:
        k = case.kernel(np.random.default_rng(case.seed), 20)
    dy, x, k = case.laid(dy, x, k)
    got = corr_cases.forward(case, x, k), *corr_cases.backward(case, dy, x, k)
    if case.axes is not None:
        dy, x, k, *got = (np.moveaxis(a, case.axes, (-2, -1)) for a in (dy, x, k, *got))
    function, mode, rule, _ = case.args
    args = mode, rule, 0, case.window

    def forward(u, v):
        return oracle.summed(function, u, v, *args)

    def to_image(u, v):
        return oracle.summed_gradients(function, u, np.zeros(x.shape, u.dtype), v, *args)[0]

    def to_kernel(u, v):
        return oracle.summed_gradients(function, u, v, np.zeros(k.shape, u.dtype), *args)[1]

    taps = in_blocks(k.shape[-2:])
    ones = [np.ones(a.shape, int) for a in (dy, x, k)]
    # Pixels that an edge repeats have more terms than the kernel has taps.
    pixels = np.maximum(to_image(ones[0], ones[2]), int(np.prod(k.shape[-2:])))
    sums = to_kernel(*ones[:2]).max(initial=0)
    # Of products with conjugates only signs differ, and the bound takes magnitudes.
    yield "result", shares(got[0], forward, x, k, lambda c: c * taps)
    yield "gradient to the image", shares(got[1], to_image, dy, k, lambda c: c * pixels)
    yield "gradient to the kernel", shares(got[2], to_kernel, dy, x, lambda c: c * sums)


# ---------------------------------------------------------------- many channels


def many_channels(seed):
    while True:
        case = conv_cases.real_case(seed)
        if case.work < conv_cases.MOST_WORK / 4:
            return dataclasses.replace(case, layouts=("C",) * 3, method="direct")
        seed += 10**5


def layer(products):
    """Roundings, less one, of an output of so many products: in blocks of 384, and a bias."""
    return min(products, 384) + products / 192 + 2


def check_many_channels(seed, data):
    """The bound of a layer by the direct sum for results and gradients to the input; one more than
    there are terms for those to the weight; those to the bias are summed in double precision."""
    case = many_channels(seed)
    dtype = case.types[0]
    x, weight, dy = arrays(data, seed, dtype, case.x_shape, case.w_shape, case.y_shape)
    bias = dy.ravel()[: case.channels_out] if case.bias and dy.size >= case.channels_out else None
    got = conv_cases.forward(case, x, weight, bias), *conv_cases.backward(case, dy, x, weight)
    name = "conv_transpose2d" if case.transposed else "conv2d"
    function, gradients = getattr(conv_oracle, name), getattr(conv_oracle, name + "_backward")
    more = {} if case.transposed else {"mode": case.mode}

    def forward(u, v):
        return function(u, v, None, *case.args, **more)

    def to_input(u, v):
        return gradients(u, np.zeros(x.shape, u.dtype), v, *case.args, **more)[0]

    def to_weight(u, v):
        return gradients(u, v, np.zeros(weight.shape, u.dtype), *case.args, **more)[1]

    ones = [np.ones(a.shape, int) for a in (dy, x, weight)]
    added = None if bias is None else bias.astype(WIDER[dtype])[:, None, None]
    products, back = forward(*ones[1:]).max(), to_input(ones[0], ones[2])
    yield "result", shares(got[0], forward, x, weight, lambda c: layer(c * products), added)
    # Pixels that an edge repeats have the sums of several places.
    folded = lambda c: c * back + 2  # noqa: E731
    plain = lambda c: layer(c * back.max(initial=0))  # noqa: E731
    terms = plain if case.mode == "zeros" else folded
    yield "gradient to the input", shares(got[1], to_input, dy, weight, terms)
    yield (
        "gradient to the weight",
        shares(got[2], to_weight, dy, x, lambda c: c * to_weight(*ones[:2])),
    )
    single = dtype in "fF"
    count = dy[..., 0, :, :].size
    yield "gradient to the bias", shares(
        got[3], lambda u, v: (u * v).sum(axis=tuple(n for n in range(dy.ndim) if n != dy.ndim - 3)),
        dy, np.ones((), dtype), lambda _: 1 if single else count,
    )  # fmt: skip


CHECKS = [check_one_channel, check_many_channels]


@needs_long_doubles
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("block", blocks(1, 20))
@pytest.mark.parametrize("check", CHECKS)
def test_bound(check, block, data):
    for seed in range(4 * 10**6 + 20 * block, 4 * 10**6 + 20 * (block + 1)):
        for name, found in check(seed, data):
            assert (found <= 1).all(), (name, float(found.max()), seed)


# ---------------------------------------------------------------- transforms


def one_pixel(x, k, dy):
    """Hardly anything but one pixel and one tap: then errors gather instead of spreading."""
    return spike(x), spike(k), spike(dy)


def square(x, k, dy):
    bright = 1e-6 * x
    bright[5:25, 8:30] += 1
    return bright, 1 + k / 1e6, dy


SPREAD = ("normal", "positive", "cancelling")


@needs_long_doubles
@pytest.mark.parametrize("data", [*DATA, one_pixel, square])
@pytest.mark.parametrize("dtype", "fdFD")
@pytest.mark.parametrize("block", blocks(1, 20))
def test_transforms(block, dtype, data, monkeypatch):
    """What method='fft' promises beside the elements of a tile, in images of one tile."""
    if callable(data):
        monkeypatch.setitem(DATA, data, data)
    rng = np.random.default_rng([block, 9])
    outputs, taps = (tuple(int(n) for n in rng.integers(*v, 2)) for v in ((30, 60), (8, 13)))
    shape = tuple(n + m - 1 for n, m in zip(outputs, taps, strict=True))
    x, k, dy = arrays(data, block, dtype, shape, taps, outputs)
    n0, n1 = (min(size for size in _fft.SIZES if size >= n) for n in shape)
    monkeypatch.setattr(_fft, "tile", lambda *_: _fft.Tile((n0, n1), (0, 0, 0), 0.0, 0))
    y = fastcorr.correlate2d(x, k, "valid", method="fft")
    _, dk = fastcorr.correlate2d_vjp(dy, x, k, "valid", method="fft")

    wide = [a.astype(WIDER[dtype]) for a in (x, k, dy)]
    norm = [np.sqrt((abs(a) ** 2).sum()) for a in wide]
    unit = np.finfo(dtype).eps / 2
    limits = [6 * unit * norm[0] * norm[1], 12 * unit * norm[0] * norm[2]]
    if data in SPREAD:
        spectrum = abs(np.fft.fft2(k.astype("D"), (n0, n1))).max()
        limits[0] = 10 * unit * norm[0] / np.sqrt(n0 * n1) * (1.5 * norm[1] + spectrum)
    args = "valid", "fill", 0
    right = (
        oracle.summed("correlate2d", *wide[:2], *args),
        oracle.summed_gradients("correlate2d", wide[2], *wide[:2], *args)[1],
    )
    tiny = np.finfo(dtype).tiny if data == "subnormal" else 0  # squares that leave the range
    for got, exact, limit in zip((y, dk), right, limits, strict=True):
        found = max(abs(part).max() for part in parts(got - exact)) / (limit + tiny)
        assert found <= 1
        if data == "normal":
            assert found > 1e-3  # it is such errors that are compared


# ---------------------------------------------------------------- most elements


@pytest.mark.parametrize("data", ["normal", "positive", "uniform"])
def test_most_errors_of_the_direct_sum(data):
    """Of a thousand outputs in single precision at most one errs by more than 4 u sum |x| |k|, or
    sqrt(n) u sum |x| |k| where that is more and all numbers are positive."""
    for n, taps in enumerate([(1, 1), (3, 3), (5, 5), (7, 7), (9, 9), (11, 11), (15, 15), (3, 40)]):
        shape = tuple(200 + n for n in taps)
        x, k, _ = arrays("normal" if data == "uniform" else data, n, "f", shape, taps, (1, 1))
        if data == "uniform":
            x = np.random.default_rng(n).random(shape).astype("f")
        y = fastcorr.correlate2d(x, k, "valid", method="direct")
        exact, total = (
            fastcorr.correlate2d(u.astype("d"), v.astype("d"), "valid", method="direct")
            for u, v in ((x, k), (abs(x), abs(k)))
        )
        share = np.quantile(abs(y - exact) / (total * 2.0**-24), 0.999)
        assert share <= max(4, k.size**0.5 if data == "positive" else 0), taps


# ---------------------------------------------------------------- transforms that 'auto' takes


def bright(rng, name, shape):
    """Grey, with a few brighter pixels, lines or squares."""
    x, top = 1 + rng.random(shape) / 10, 10 ** rng.uniform(2.6, 3.2)
    for _ in range(6):
        i, j = (int(rng.integers(n - 20)) for n in shape)
        at = {"pixels": np.s_[i, j], "lines": np.s_[i], "squares": np.s_[i : i + 19, j : j + 19]}
        x[at[name]] = top
    return x


@needs_long_doubles
@pytest.mark.parametrize("name", ["pixels", "lines", "squares"])
@pytest.mark.parametrize("dtype", "fd")
@pytest.mark.parametrize("block", blocks(1, 20))
def test_auto_keeps_the_bound_beside_what_is_bright(block, dtype, name):
    """There the errors of transforms gather, and once they were ten times the bound."""
    rng = np.random.default_rng([block, 10])
    for one_tap in (True, True, False):
        x, k = bright(rng, name, (526, 526)).astype(dtype), rng.random((15, 15))
        if one_tap:
            k *= 10 ** rng.uniform(-5, -2)
            k[tuple(rng.integers(0, 15, 2))] = 1
        k = k.astype(dtype)
        assert fastcorr.choose_method(x, k, "valid").method == "fft"
        y = fastcorr.correlate2d(x, k, "valid")
        exact = fastcorr.correlate2d(*(a.astype(WIDER[dtype]) for a in (x, k)), "valid",
                                     method="direct")  # fmt: skip
        unit = np.finfo(dtype).eps / 2
        assert (abs(y - exact) <= (k.size + 1) * unit * exact).all()  # none is negative


@pytest.mark.parametrize(("dtype", "pixel", "tap", "method"), [
    ("f", 4093, 4091, "auto"), ("d", 2**26 - 5, 2**26 - 27, "auto"),
    ("D", 2**25 - 39, 2**26 - 27, "auto"), ("l", 2**26 - 5, 2**26 - 27, "auto"),
    ("l", 2**26 - 5, 2**26 - 27, "fft"), ("l", 2**28 - 57, 2**20 - 3, "fft"),
])  # fmt: skip
def test_large_integers_among_small_ones(dtype, pixel, tap, method, rng):
    """A product of large factors is rounded from near enough, or not by a transform: once it was
    one too large or too small."""
    for _ in range(5):
        x, k = np.zeros((300, 300), dtype), rng.integers(-1, 2, (15, 15)).astype(dtype)
        x[tuple(rng.integers(30, 270, 2))] = pixel
        k[tuple(rng.integers(0, 15, 2))] = tap
        y = fastcorr.correlate2d(x, k, "valid", method=method)
        right = fastcorr.correlate2d(x, k, "valid", method="direct")
        np.testing.assert_array_equal(y, right)
