"""Random problems for the NCHW face, spread over the edges at which its kernels change.

Run as a script, in an interpreter of its own, it checks one instruction set (FASTCORR_ISA).
"""

import dataclasses
import json
import math
from typing import Any

import cases
import conv_oracle
import numpy as np

import fastcorr

FOUR = "fdFD"  # the types of results

# Types of image and weight, and of dy; mixed ones give a result of one of the four.
MIXED = [
    ("B", "f", "f"), ("f", "b", "f"), ("?", "f", "f"), ("e", "f", "f"), ("h", "f", "f"),
    ("f", "d", "d"), ("d", "f", "f"), ("i", "f", "d"), ("l", "d", "d"), ("B", "d", "f"),
    ("f", "F", "F"), ("F", "f", "F"), ("F", "f", "f"), ("d", "D", "D"), ("D", "d", "d"),
    ("f", "D", "D"), ("F", "d", "D"), ("b", "F", "F"), ("D", "F", "F"), ("F", "D", "f"),
]  # fmt: skip


def _channels_last(a):
    return np.moveaxis(np.moveaxis(a, -3, -1).copy(), -1, -3)


def _window(a, step):
    """a inside a larger array of other values, every step-th element along every axis."""
    big = np.full([step * n + 2 for n in a.shape], 77).astype(a.dtype)
    inner = big[tuple(slice(1, 1 + step * n, step) for n in a.shape)]
    inner[...] = a
    return inner


def _reversed(a):
    back = (slice(None, None, -1),) * a.ndim
    return a[back].copy()[back]


# Name -> the same values in another layout, of any number of dimensions from 3.
LAYOUTS = {
    "C": lambda a: np.array(a, order="C"),
    "F": lambda a: np.array(a, order="F"),
    "channels last": _channels_last,
    "transposed": lambda a: a.swapaxes(-1, -2).copy().swapaxes(-1, -2),
    "reversed": _reversed,
    "upside down": lambda a: a[..., ::-1, :].copy()[..., ::-1, :],
    "mirrored": lambda a: a[..., ::-1].copy()[..., ::-1],
    "window": lambda a: _window(a, 1),
    "strided": lambda a: _window(a, 2),
    "byteswapped": cases.LAYOUTS["byteswapped"],
    "unaligned": cases.LAYOUTS["unaligned"],
    "read-only": cases.LAYOUTS["read-only"],
}


@dataclasses.dataclass
class Case:
    """One problem: shapes, types and layouts of the operands, and the arguments as spelled."""

    seed: int
    family: str
    x_shape: tuple[int, ...]
    w_shape: tuple[int, int, int, int]
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: Any = 1
    mode: str = "zeros"
    output_padding: Any = 0
    types: tuple[str, str, str] = ("d", "d", "d")  # of x, weight and dy
    layouts: tuple[str, str, str] = ("C", "C", "C")
    bias: bool = False
    transposed: bool = False
    workers: int | None = None
    method: str = "auto"
    channels_last: bool = False
    top: int = 9  # the largest magnitude of an element, or of its parts

    @property
    def description(self):
        """What makes it a problem of its own; its numbers and their layouts do not."""
        fields = dataclasses.asdict(self)
        for name in ("seed", "family", "layouts", "workers", "top"):
            del fields[name]
        return repr(list(fields.values()))

    @property
    def out(self):
        """(rows, columns) of the result."""
        size, kernel = self.x_shape[-2:], self.w_shape[2:]
        if self.transposed:
            args = self.stride, self.padding, self.output_padding, self.dilation
            return conv_oracle.transposed_size(size, kernel, *args)
        return conv_oracle.out_size(size, kernel, self.stride, self.padding, self.dilation)

    @property
    def channels_out(self):
        return self.w_shape[1] * int(self.groups) if self.transposed else self.w_shape[0]

    @property
    def y_shape(self):
        return (*self.x_shape[:-3], self.channels_out, *self.out)

    @property
    def dtype(self):
        return np.result_type(np.dtype(self.types[0]), np.dtype(self.types[1]))

    @property
    def taps(self):
        """Products in one element of the result of conv2d."""
        return int(np.prod(self.w_shape[1:]))

    @property
    def work(self):
        """Real products in all; more than are done, where stride or edges leave some out."""
        pixels = np.prod(self.x_shape[-2:] if self.transposed else self.out)
        images = self.x_shape[0] if len(self.x_shape) == 4 else 1
        return int(images * pixels * np.prod(self.w_shape)) * (4 if self.dtype.kind == "c" else 1)

    def arrays(self, stream=1):
        """dy, x, weight and bias (or None)."""
        rng = np.random.default_rng([self.seed, stream])
        shapes = self.x_shape, self.w_shape, self.y_shape
        x, weight, dy = (
            cases.integers(rng, shape, dtype, top=self.top)
            for shape, dtype in zip(shapes, self.types, strict=True)
        )
        bias = None
        if self.bias:
            bias = cases.integers(rng, self.channels_out, self.dtype, top=self.top)
        return self.laid(dy, x, weight, bias)

    def laid(self, dy, x, weight, bias):
        """The same in their layouts."""
        x, weight, dy = (
            LAYOUTS[layout](a) for layout, a in zip(self.layouts, (x, weight, dy), strict=True)
        )
        return dy, x, weight, bias

    @property
    def args(self):
        """What follows the operands in both functions of this problem."""
        if self.transposed:
            return self.stride, self.padding, self.output_padding, self.groups, self.dilation
        return self.stride, self.padding, self.dilation, self.groups

    @property
    def mode_argument(self):
        return {} if self.transposed else {"padding_mode": self.mode}

    @property
    def terms(self):
        """At least as many as the products in one element of the result or of a gradient."""
        kernel, groups = self.w_shape[2:], int(self.groups)
        taps, shown = math.prod(kernel), 1  # how often windows show a pixel through one tap
        if not self.transposed:
            more = self.stride, self.dilation
            for before, after in conv_oracle.pads(self.padding, self.x_shape[-2:], kernel, *more):
                shown *= 1 + before + after
        images = self.x_shape[0] if len(self.x_shape) == 4 else 1
        pixels = max(math.prod(self.out), math.prod(self.x_shape[-2:]))
        most = max(self.x_shape[-3], self.channels_out) // groups * taps * shown
        return max(most, images * pixels) * (2 if "c" in self.dtype.kind else 1)


def _spell(rng, values):
    """A pair as a user may write it: an integer where both agree, Python's or NumPy's."""
    a, b = (int(v) for v in values)
    if a == b and rng.random() < 0.6:
        return a if rng.random() < 0.8 else np.int64(a)
    spellings = (a, b), [a, b], (np.int32(a), b), (np.uint8(a), np.int64(b))
    return spellings[rng.choice(4, p=[0.6, 0.2, 0.1, 0.1])]


def _spell_padding(rng, sides):
    """((top, bottom), (left, right)) in one of the spellings that say it."""
    (top, bottom), (left, right) = ((int(p), int(q)) for p, q in sides)
    if top == bottom and left == right and rng.random() < 0.8:
        if top == left == 0 and rng.random() < 0.3:
            return "valid"
        return _spell(rng, (top, left))
    if rng.random() < 0.2:
        return [[top, bottom], [left, right]]
    return ((top, bottom), (left, right))


# Family -> how often, of a hundred.
FAMILIES = {
    "small": 22, "strides": 10, "dilated": 10, "deep": 9, "outputs": 8, "wide": 6, "images": 8,
    "pointwise": 7, "depthwise": 6, "single": 7, "blocks of 64": 4, "blocks of all": 3,
}  # fmt: skip
MOST_WORK = 6_000_000


def _sizes(rng, family):
    """batch, channels and outputs per group, groups, image, kernel, stride, dilation."""

    def draw(low, high, n=None):
        return rng.integers(low, high + 1, n)

    n, c, o, g = draw(1, 3), draw(1, 5), draw(1, 6), rng.choice([1, 1, 1, 2, 3])
    image, kernel = draw(1, 12, 2), draw(1, 4, 2)
    stride = rng.choice([1, 1, 1, 2, 3], 2)
    dilation = rng.choice([1, 1, 1, 2, 3], 2)
    match family:
        case "strides":  # phases of the stride, also larger than the kernel and the image
            image, kernel, stride = draw(1, 30, 2), draw(1, 5, 2), draw(1, 6, 2)
        case "dilated":
            image, kernel, dilation = draw(2, 20, 2), draw(1, 4, 2), draw(1, 9, 2)
        case "deep":  # more than one block of taps
            kernel, image, g = draw(1, 5, 2), draw(1, 9, 2), rng.choice([1, 1, 2])
            c = -(-int(rng.choice([370, 384, 385, 400, 768, 769, 900])) // int(np.prod(kernel)))
            c, o = max(c + draw(-1, 1), 1), draw(1, 14)
            if rng.random() < 0.3:  # so many that the gradient to the image sums
                c, o = o, c
        case "outputs":  # more rows than one tile has
            o, image, n = rng.choice([11, 12, 13, 16, 24, 25, 36, 37, 50]), draw(1, 20, 2), 1
        case "wide":  # rows of more than one block of pixels
            image = np.array([draw(1, 4), draw(380, 460)])
            kernel, stride = draw(1, 3, 2), rng.choice([1, 1, 1, 2], 2)
            if rng.random() < 0.3:
                image[1] *= 2
            n, c, o = draw(1, 2), draw(1, 3), draw(1, 4)
        case "images":  # blocks of pixels that cross from image to image
            side = rng.choice([1, 2, 3, 5, 7, 7, 14, 14])
            image, kernel = np.array([side, side]) + draw(0, 1), draw(1, 3, 2)
            n, c, o = draw(5, 14) if side < 14 else draw(2, 5), draw(1, 5), draw(1, 14)
            n *= 8 if side < 5 else 1
        case "pointwise":
            kernel, image = np.array([1, 1]), draw(1, 22, 2)
            c, o = draw(1, 40), draw(1, 20)
            stride = rng.choice([1, 1, 1, 2, 3], 2)
        case "depthwise":
            g, c, o = draw(2, 20), 1, rng.choice([1, 1, 1, 2, 3])
            image, kernel = draw(3, 20, 2), rng.choice([1, 3, 3, 5], 2)
        case "single":
            g, c, o, image, kernel = 1, 1, 1, draw(1, 40, 2), draw(1, 9, 2)
        case "blocks of 64":
            many, few = rng.choice([62, 63, 64, 65, 66, 127, 128, 129]), draw(1, 9)
            c, o = (many, few) if rng.random() < 0.5 else (few, many)
            image, kernel, g = draw(1, 8, 2), draw(1, 2, 2), rng.choice([1, 1, 2])
        case "blocks of all":  # of taps, outputs and pixels, and those across images, at once
            n, c, o, g = draw(2, 3), draw(43, 45), draw(13, 14), 1
            image, kernel, stride = draw(13, 15, 2), np.array([3, 3]), np.array([1, 1])
            dilation = rng.choice([1, 1, 2], 2)
    sizes = n, c, o, g, *image, *kernel, *stride, *dilation
    n, c, o, g, h, w, kh, kw, sh, sw, dh, dw = (int(v) for v in sizes)
    return n, c, o, g, (h, w), (kh, kw), (sh, sw), (dh, dw)


def _common(rng):
    """Types, layouts, bias and workers of a problem."""
    dtype = str(rng.choice(list(FOUR), p=[0.4, 0.3, 0.15, 0.15]))
    types = (dtype,) * 3 if rng.random() < 0.7 else MIXED[rng.integers(len(MIXED))]
    plain = 0.6 if rng.random() < 0.5 else 0.0
    names = list(LAYOUTS)
    chance = [plain + (1 - plain) / len(names)] + [(1 - plain) / len(names)] * (len(names) - 1)
    return {
        "types": types,
        "layouts": tuple(str(v) for v in rng.choice(names, 3, p=chance)),
        "bias": bool(rng.random() < 0.5),
        # Few with threads: on a busy machine they wait for each other.
        "workers": [None, 1, 2, 3][rng.choice(4, p=[0.3, 0.66, 0.02, 0.02])],
    }


def _family(rng):
    weights = np.array(list(FAMILIES.values()), float)
    return str(rng.choice(list(FAMILIES), p=weights / weights.sum()))


def conv2d_case(seed, three=False):
    """A random problem of conv2d that has a result; three: one that Winograd's algorithms fit."""
    rng = np.random.default_rng([seed, 0])
    while True:
        family = _family(rng)
        n, c, o, g, image, kernel, stride, dilation = _sizes(rng, family)
        if three:
            c, kernel, stride, dilation = max(c, 2), (3, 3), (1, 1), (1, 1)
        mode = str(rng.choice(list(conv_oracle.MODES), p=[0.64, 0.12, 0.12, 0.12]))
        spread = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        padding: Any = "same"
        if rng.random() < 0.8:
            # Up to a little beyond the kernel's reach: then whole windows lie in the padding.
            top = [s // 2 if rng.random() < 0.4 else rng.integers(0, s + 3) for s in spread]
            sides = [[t, t] for t in top]
            if rng.random() < 0.3:
                sides = [[rng.integers(0, s + 2), rng.integers(0, s + 2)] for s in spread]
            if rng.random() < 0.25:
                sides = [[0, 0], [0, 0]]
            padding = _spell_padding(rng, sides)
        if rng.random() < 0.03:  # one output
            image, padding = tuple(s + 1 for s in spread), "valid"
        # As far as PyTorch continues an image.
        most = {"reflect": -1, "circular": 0}.get(mode)
        sides = conv_oracle.pads(padding, image, kernel, stride, dilation)
        if most is not None and any(
            max(both) > n + most for both, n in zip(sides, image, strict=True)
        ):
            continue
        case = Case(
            seed, family, (n, c * g, *image), (o * g, c, *kernel), _spell(rng, stride), padding,
            _spell(rng, dilation), g if rng.random() < 0.9 else np.int16(g), mode, **_common(rng),
        )  # fmt: skip
        if 0 not in case.out and case.work <= MOST_WORK:
            break
    if n == 1 and rng.random() < 0.5:
        case.x_shape = case.x_shape[1:]
    return case


def conv_transpose2d_case(seed):
    """A random problem of conv_transpose2d that has a result."""
    rng = np.random.default_rng([seed, 2])
    while True:
        family = _family(rng)
        n, c, o, g, image, kernel, stride, dilation = _sizes(rng, family)
        if family == "deep":
            c, o = o, min(c, 70)
        stride = tuple(int(v) for v in rng.choice([1, 1, 2, 2, 3, 4], 2))
        spread = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        padding = [0 if rng.random() < 0.4 else rng.integers(0, s + 2) for s in spread]
        extra = [
            rng.integers(0, max(s, d)) if rng.random() < 0.4 else 0
            for s, d in zip(stride, dilation, strict=True)
        ]
        case = Case(
            seed, family, (n, c * g, *image), (c * g, o, *kernel), _spell(rng, stride),
            _spell(rng, padding), _spell(rng, dilation), g, "zeros", _spell(rng, extra),
            **_common(rng), transposed=True,
        )  # fmt: skip
        if min(case.out) > 0 and case.work <= MOST_WORK:
            break
    if n == 1 and rng.random() < 0.5:
        case.x_shape = case.x_shape[1:]
    return case


# Integers up to which sums are exact, in float32 and float64; 'auto' takes the first of Winograd's
# algorithms in the one and the second in the other.
EXACT = {
    "direct": (2**24, 2**53), "winograd": (2**17, 2**46), "winograd4": (0, 2**25),
    "auto": (2**17, 2**25),
}  # fmt: skip


def case(seed):
    """A random problem of either function, by any method, of integers as large as stay exact."""
    rng = np.random.default_rng([seed, 5])
    three = rng.random() < 0.3
    if rng.random() < 0.25:
        case = conv_transpose2d_case(seed)
    else:
        case = conv2d_case(seed, three)
        if three:
            case.method = str(rng.choice(["direct", "winograd", "winograd4"]))
    if case.method == "auto" and rng.random() < 0.3:
        case.method = "direct"
    single = any(t in "efF" for t in case.types)
    if case.method == "winograd4" and single:
        case.method = "winograd"
    case.channels_last = bool(rng.random() < 0.25)
    if case.method == "auto" and case.w_shape[2:] != (3, 3):
        most = EXACT["direct"][not single]
    else:
        most = EXACT[case.method][not single]
    if "e" in case.types:
        most = 2**15  # half floats hold the gradients
    most = math.isqrt(most // case.terms)
    case.top = max(1, int(most ** rng.random()))
    return case


def real_case(seed):
    """A random problem of real or complex numbers."""
    found = case(seed)
    dtype = FOUR[np.random.default_rng([seed, 4]).integers(4)]
    return dataclasses.replace(found, types=(dtype,) * 3)


def real_arrays(case):
    """dy, x, weight and bias (or None) of real numbers."""
    rng = np.random.default_rng([case.seed, 6])
    shapes = case.x_shape, case.w_shape, case.y_shape, (case.channels_out,)
    x, weight, dy, bias = cases.hard_reals(rng, shapes, case.types[0])
    return dy, x, weight, bias if case.bias else None


def _turned(case, a, *axes):
    return np.moveaxis(a, *axes) if case.channels_last else a


def _functions(case):
    name = "conv_transpose2d" if case.transposed else "conv2d"
    more = {**case.mode_argument, "workers": case.workers, "method": case.method}
    more["channels_last"] = case.channels_last
    return getattr(fastcorr, name), getattr(fastcorr, name + "_backward"), more


def forward(case, x, weight, bias):
    """What fastcorr makes of an image, with the channels first again."""
    function, _, more = _functions(case)
    y = function(_turned(case, x, -3, -1), weight, bias, *case.args, **more)
    return _turned(case, y, -1, -3)


def backward(case, dy, x, weight):
    _, function, more = _functions(case)
    dy, x = (_turned(case, a, -3, -1) for a in (dy, x))
    dx, dweight, dbias = function(dy, x, weight, *case.args, **more)
    return _turned(case, dx, -1, -3), dweight, dbias


def results(case, arrays=None):
    """What fastcorr makes of a problem: the result and the three gradients."""
    dy, x, weight, bias = case.arrays() if arrays is None else arrays
    return forward(case, x, weight, bias), *backward(case, dy, x, weight)


def expected(case, arrays=None):
    """The same by definition, exact."""
    arrays = case.arrays() if arrays is None else arrays
    dy, x, weight, bias = (None if v is None else conv_oracle.lift(v) for v in arrays)
    mode = {} if case.transposed else {"mode": case.mode}
    forward, backward = (
        (conv_oracle.conv_transpose2d, conv_oracle.conv_transpose2d_backward)
        if case.transposed
        else (conv_oracle.conv2d, conv_oracle.conv2d_backward)
    )
    y = forward(x, weight, bias, *case.args, **mode)
    return y, *backward(dy, x, weight, *case.args, **mode)


NAMES = ("y", "dx", "dweight", "dbias")


def assert_exact(got, right, note=""):
    """The same numbers, whichever floating type they are in."""
    for name, a, b in zip(NAMES, got, right, strict=True):
        assert a.shape == b.shape, (name, note)
        assert a.dtype.char in "efdFD", (name, note)
        assert a.dtype.kind == "c" or b.dtype.kind != "c", (name, note)
        # Or the sums need not be exact.
        assert abs(b).max(initial=0) < (2**53 if a.dtype.char in "dD" else 2**24), (name, note)
        with np.errstate(over="ignore"):  # of a gradient to half floats
            b = b.astype(a.dtype)
        np.testing.assert_array_equal(a, b, err_msg=f"{name} of {note}")


if __name__ == "__main__":
    count = 0
    for make in (conv2d_case, conv_transpose2d_case):
        for seed in range(300):
            case = make(seed)
            case.workers = 1
            assert_exact(results(case), expected(case), case)
            count += 1
    print(json.dumps({"isa": fastcorr.show_config("dicts")["isa"], "exact": count}))
