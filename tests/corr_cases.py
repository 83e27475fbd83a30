"""Random problems for the single-channel face, spread over its modes, rules, types and methods."""

import dataclasses
import math
from typing import Any

import cases
import conv_cases
import numpy as np
import oracle

import fastcorr

# Types of image, kernel and dy.
ALIKE = "bBhHiIlLfdgFDG"
MIXED = [
    "Bff", "fbf", "?ff", "eff", "hff", "fdd", "dff", "ifd", "lld", "Bdf", "fFF", "FfF", "Fff",
    "dDD", "Ddd", "fDD", "BBd", "?Bl", "bhi", "HIL", "gfd", "Bii", "hbl", "DFF", "LBd", "?FD",
]  # fmt: skip

# Integers up to which every sum is exact, in each type of results.
EXACT = {"f": 2**24, "d": 2**53, "g": 2**62, "F": 2**24, "D": 2**53, "G": 2**53}
if np.finfo("g").nmant < 63:
    EXACT["g"] = 2**53

# Family -> how often, of a hundred.
FAMILIES = {
    "small": 34, "rows": 12, "large kernels": 8, "overhanging": 12, "stacks": 14, "images": 14,
    "transforms": 6,
}  # fmt: skip
LAYOUTS = [n for n in cases.LAYOUTS if n in conv_cases.LAYOUTS]
MOST_WORK = 1_500_000  # products of one operand's elements with another's


@dataclasses.dataclass
class Case:
    """One problem: shapes and types of the operands and the arguments, and how they are given."""

    seed: int
    family: str
    function: str
    x_shape: tuple[int, ...]
    k_shape: tuple[int, ...]
    mode: str = "full"
    boundary: Any = "fill"
    fill: int = 0
    axes: tuple[int, int] | None = None
    lags: tuple[slice, slice] | None = None
    dtype: str | None = None
    method: str = "auto"
    types: str = "ddd"
    outer: bool = False  # the kernel is an outer product
    layouts: tuple[str, ...] = ("C",) * 3
    workers: int | None = None

    @property
    def description(self):
        """What makes it a problem of its own; its numbers and their layouts do not."""
        fields = dataclasses.asdict(self)
        for name in ("seed", "family", "layouts", "workers"):
            del fields[name]
        return repr(list(fields.values()))

    @property
    def planes(self):
        """The shape of the stack of results."""
        return np.broadcast_shapes(self.x_shape[:-2], self.k_shape[:-2])

    @property
    def args(self):
        """Of the oracle: its function, mode, rule and fill value."""
        if self.function == "corr2d":
            return "correlate2d", "valid", "fill", 0
        return self.function, self.mode, self.boundary, self.fill

    @property
    def window(self):
        return self.lags or oracle.ALL

    @property
    def y_shape(self):
        full = oracle.shape(self.args[1], self.x_shape[-2:], self.k_shape[-2:])
        rows, cols = (len(range(n)[lag]) for n, lag in zip(full, self.window, strict=True))
        return *self.planes, rows, cols

    @property
    def results(self):
        """The types in which the result and the gradients are summed."""
        x, k, dy = map(np.dtype, self.types)
        return np.dtype(self.dtype or np.result_type(x, k)), np.result_type(x, k, dy)

    @property
    def terms(self):
        """The most products in one element of the result or of a gradient."""
        function, mode, rule, _ = self.args
        shown = 1  # how often windows show the pixel that is shown most
        axes = self.x_shape[-2:], self.k_shape[-2:], oracle.pair(rule), self.window
        for n, taps, name, lag in zip(*axes, strict=True):
            table = oracle._shown(function, mode, n, taps, name)[lag]
            shown *= np.bincount(table[table < n], minlength=1).max()
        taps, outputs = (math.prod(shape[-2:]) for shape in (self.k_shape, self.y_shape))
        return math.prod(self.planes) * max(int(shown), taps, outputs)

    def limits(self):
        """The largest magnitudes of the elements of x, k and dy, so that every sum is exact.

        None: any that the type has, for the result wraps around.
        """
        if all(t.kind in "iu" for t in self.results):
            return None, None, None
        kinds = {t.char for t in self.results if t.kind in "fc"} | set("fF") & set(self.types)
        most = min(EXACT[c] for c in kinds) // self.terms
        if kinds & set("FDG"):
            most //= 4  # products of both parts of both operands
        if self.method == "fft":
            most //= 128  # then what it rounds is below 1/4: see `rounded`
        rng = np.random.default_rng([self.seed, 3])
        x = max(1, int(most ** rng.random()))
        other = max(1, min(most // x, math.isqrt(most)))
        return x, other, other

    def arrays(self, stream=1):
        """dy, x and k, integer-valued."""
        rng = np.random.default_rng([self.seed, stream])
        (x_top, k_top, dy_top), (x_type, _, dy_type) = self.limits(), self.types
        x = cases.integers(rng, self.x_shape, x_type, x_top is None, x_top)
        k = self.kernel(rng, k_top)
        dy = cases.integers(rng, self.y_shape, dy_type, dy_top is None, dy_top)
        return self.laid(dy, x, k)

    def kernel(self, rng, top):
        """Integers up to top."""
        dtype = self.types[1]
        if not self.outer:
            return cases.integers(rng, self.k_shape, dtype, top is None, top)
        # Of real numbers: of complex ones the separable method takes no products apart.
        real = dtype.lower() if dtype in "FDG" else dtype
        most = top or 2**62
        if np.dtype(real).kind in "iu":
            most = min(most, np.iinfo(real).max)
        k = np.ones(self.k_shape, dtype)
        for shape in ((*k.shape[:-1], 1), (*k.shape[:-2], 1, k.shape[-1])):
            k *= cases.integers(rng, shape, real, top=math.isqrt(most))
        return k

    def laid(self, *operands):
        """dy, x and k as they are passed: their layouts, and the axes where `axes` says."""
        return tuple(
            (cases if a.ndim == 2 else conv_cases).LAYOUTS[layout](
                a if self.axes is None else np.moveaxis(a, (-2, -1), self.axes)
            )
            for a, layout in zip(operands, self.layouts, strict=True)
        )


def real_case(seed):
    """A random problem of real or complex numbers, in half of them of larger images."""
    found = case(seed)
    rng = np.random.default_rng([seed, 4])
    found.types, found.dtype = 3 * str(rng.choice(list("fdFDgG"), p=[0.23] * 4 + [0.04] * 2)), None
    swapped = found.mode == "valid" and found.x_shape[-2:] < found.k_shape[-2:]
    if seed % 2 and not swapped and found.family != "transforms":
        found.x_shape = (*found.x_shape[:-2], *(3 * n for n in found.x_shape[-2:]))
    return found if _has_result(found) else real_case(seed + 10**7)


def real_arrays(case):
    """dy, x and k of real numbers; kernels that are outer products are those of integers."""
    shapes = case.x_shape, case.k_shape, case.y_shape
    x, k, dy = cases.hard_reals(np.random.default_rng([case.seed, 6]), shapes, case.types[0])
    if case.outer:
        k = case.kernel(np.random.default_rng([case.seed, 1]), 20)
    return dy, x, k


def _lag(rng, n):
    """A window of n outputs that is not empty, in one of its spellings."""
    start = int(rng.integers(0, n))
    stop = int(rng.integers(start, n)) + 1
    if rng.random() < 0.3:
        return slice(start or None, stop)
    return slice(start - n, stop - n or None)


def case(seed):
    """A random problem that has a result."""
    rng = np.random.default_rng([seed, 0])

    def draw(low, high, n=2):
        return tuple(int(v) for v in rng.integers(low, high + 1, n))

    def one_of(choices, p=None):
        return choices[rng.choice(len(choices), p=p)]

    chances = np.array(list(FAMILIES.values())) / sum(FAMILIES.values())
    while True:
        family = one_of(list(FAMILIES), chances)
        x, k = draw(1, 14), draw(1, 6)
        types = one_of(ALIKE) * 3 if rng.random() < 0.7 else one_of(MIXED)
        method = one_of(["auto", "direct", "separable", "fft"], [0.45, 0.25, 0.15, 0.15])
        stacks = (), ()
        match family:
            case "rows":
                x, k = (*draw(1, 4, 1), *draw(15, 300, 1)), draw(1, 5)
                if rng.random() < 0.2:
                    x, k = x[::-1], k[::-1]
            case "large kernels":  # of more than a block
                x, k = draw(1, 20), one_of([(33, 3), (34, 2), (2, 65), (1, 130), (65, 1), (3, 70)])
                x = x if rng.random() < 0.6 else tuple(n + m for n, m in zip(x, k, strict=True))
            case "overhanging":
                x, k = draw(1, 6), draw(1, 13)
            case "stacks":
                x, k = draw(1, 9), draw(1, 4)
                n, m = draw(1, 3)
                stacks = one_of([((n,), ()), ((), (n,)), ((n,), (n,)), ((n, 1), (m,)),
                                 ((n, 1), (1, m)), ((n, m), (m,)), ((1,), (n, m))])  # fmt: skip
            case "images":  # of several tiles of registers
                x, k = draw(20, 70), draw(1, 9)
            case "transforms":
                x, k = draw(60, 110), draw(8, 12)
                method = one_of(["auto", "fft"])
        mode = one_of(oracle.MODES)
        function = one_of(["correlate2d", "convolve2d", "corr2d"], [0.46, 0.46, 0.08])
        if function == "corr2d":
            mode, stacks, method = "valid", ((), ()), "auto"
        if mode == "valid":
            large = tuple(max(n, m) for n, m in zip(x, k, strict=True))
            small = tuple(min(n, m) for n, m in zip(x, k, strict=True))
            x, k = (small, large) if rng.random() < 0.3 and function != "corr2d" else (large, small)
        rule = one_of(oracle.RULES) if rng.random() < 0.6 else (one_of(oracle.RULES),
                                                                one_of(oracle.RULES))  # fmt: skip
        found = Case(seed, family, function, stacks[0] + x, stacks[1] + k, types=types)
        if function != "corr2d":
            found.mode, found.boundary, found.method = mode, rule, method
            unsigned = any(np.dtype(t).kind in "bu" for t in types[:2])
            found.fill = 0 if rng.random() < 0.5 else draw(0 if unsigned else -3, 3, 1)[0]
            if rng.random() < 0.2:
                found.lags = tuple(_lag(rng, n) for n in found.y_shape[-2:])
            if rng.random() < 0.15:
                found.dtype = one_of("dD")
            if stacks != ((), ()):
                found.axes = one_of([(-2, -1), (0, 1), (1, 0), (0, -1), (-1, 0)])
            found.outer = method == "separable" or bool(rng.random() < 0.15)
        found.layouts = tuple("C" if rng.random() < 0.5 else one_of(LAYOUTS) for _ in range(3))
        found.workers = one_of([None, 1, 2, 3], [0.48, 0.48, 0.02, 0.02])
        if _has_result(found):
            return found


def _has_result(case):
    """Whether there are such types, and such loops for them."""
    given = np.result_type(*case.types[:2])
    kinds = {t.kind for t in case.results}
    swapped = case.mode == "valid" and case.x_shape[-2:] < case.k_shape[-2:]
    return not (
        any(t.char in "?e" for t in case.results)
        or (case.dtype is not None and not np.can_cast(given, case.dtype, "same_kind"))
        or (np.dtype(case.types[2]).kind == "c" != given.kind)
        or (case.method in ("fft", "separable") and any(t.char in "gG" for t in case.results))
        or (case.method == "fft" and "e" in case.types)
        or (case.method == "separable" and swapped)  # then the image is the kernel
        # Of complex numbers it has more roundings than small kernels leave room for.
        or (case.method == "separable" and "c" in kinds and min(case.k_shape[-2:]) < 3)
        or math.prod(case.y_shape) * math.prod(case.k_shape[-2:]) > MOST_WORK
    )


# ---------------------------------------------------------------- results


NAMES = ("y", "gradient to the image", "gradient to the kernel", "y of a plan")


def _options(case):
    options = {"workers": case.workers}
    if case.function != "corr2d":
        options |= {"axes": case.axes, "lags": case.lags, "method": case.method}
    return options


def forward(case, x, k, fill=None):
    """What fastcorr makes of an image and a kernel."""
    function, options = getattr(fastcorr, case.function), _options(case)
    if case.function == "corr2d":
        return function(x, k, **options)
    fill = case.fill if fill is None else fill
    return function(x, k, case.mode, case.boundary, fill, dtype=case.dtype, **options)


def backward(case, dy, x, k):
    if case.function == "corr2d":
        return fastcorr.corr2d_backward(dy, x, k, **_options(case))
    vjp = getattr(fastcorr, case.function + "_vjp")
    return vjp(dy, x, k, case.mode, case.boundary, case.fill, **_options(case))


def planned(case, x, k):
    plan = getattr(fastcorr, f"plan_{case.function}")
    more = {"mode": case.mode, "boundary": case.boundary, "fillvalue": case.fill}
    dtype = case.results[0]
    return plan(k, shape=x.shape, dtype=dtype, **more, **_options(case))(x)


def results(case, arrays):
    """The result, both gradients, and of some problems the result of a plan."""
    dy, x, k = arrays
    every = forward(case, x, k), *backward(case, dy, x, k)
    plans = case.seed % 4 == 0 and case.function != "corr2d"
    return (*every, planned(case, x, k)) if plans else every


def expected(case, arrays):
    """The same by definition, in integers modulo 2**64 or complex numbers with integer parts."""
    arrays = [a if case.axes is None else np.moveaxis(a, case.axes, (-2, -1)) for a in arrays]
    dy, x, k = map(lift, arrays)
    function, mode, rule, fill = case.args
    if case.function == "corr2d":
        k = k.conj()
    args = mode, rule, fill, case.window
    y = oracle.summed(function, x, k, *args)
    dx, dk = oracle.summed_gradients(function, dy, x, k, *args)
    if case.function == "corr2d":
        dk = dk.conj()
    if case.axes is not None:
        y, dx, dk = (np.moveaxis(a, (-2, -1), case.axes) for a in (y, dx, dk))
    return y, dx, dk, y


def lift(a):
    """Integer values as int64, modulo 2**64, or as complex128."""
    return np.asarray(a).astype(np.complex128 if a.dtype.kind == "c" else np.int64)


def rounded(case, a):
    """What a transform of floating-point numbers is asked to give, as it is next to it."""
    if case.method != "fft" or a.dtype.kind not in "fc":
        return a
    return np.rint(a)


def assert_exact(got, right, case):
    """The same numbers, as the types of the results hold them."""
    operands = [None, *(np.dtype(t) for t in case.types[:2]), None]
    for name, a, b, operand in zip(NAMES, got, right, operands, strict=False):
        note = f"{name} of {case}"
        assert a.shape == b.shape, note
        if operand is None:
            assert a.dtype == case.results[0], note
        elif operand.kind != "c":
            assert a.dtype.kind != "c", note
            b = b.real
        assert a.dtype.kind == "c" or b.dtype.kind != "c", note
        with np.errstate(over="ignore"):  # of a gradient to half floats
            b = b.astype(a.dtype)
        np.testing.assert_array_equal(rounded(case, a), b, err_msg=note)
