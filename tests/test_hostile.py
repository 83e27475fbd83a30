"""No input crashes or hangs: hostile problems in processes of their own, odd arrays, old bugs."""

import collections
import functools
import itertools
import json
import math
import mmap
import re
import subprocess
import sys
import tracemalloc
import warnings

import cases
import conv_oracle
import hostile
import numpy as np
import oracle
import pytest
from nightly import blocks

import fastcorr
from fastcorr import _workers, nn, optim

# ---------------------------------------------------------------- batches

# Against hangs; a batch takes some ten seconds.
TIMEOUT = 600


def batch(tmp_path, family, start, stop, step=1, timeout=TIMEOUT):
    """What came of the problems of a family: {'result': …, 'ValueError': …}."""
    journal = tmp_path / "journal"
    journal.write_bytes(bytes(8))
    command = [sys.executable, "-W", "error", hostile.__file__, family]
    command += [*map(str, (start, stop, step)), str(journal)]

    def told():
        number = int.from_bytes(journal.read_bytes(), "little")
        return f"{family} {number}: {hostile.describe(family, number)}"

    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        pytest.fail(f"hangs: {told()}")
    if done.returncode:
        pytest.fail(f"ends with {done.returncode}: {told()}\n{done.stderr[-4000:]}")
    report = json.loads(done.stdout)
    assert not report["failures"], "\n".join(f"{family} {n}: {t}\n{e}" for n, t, e in
                                             report["failures"])  # fmt: skip
    assert sum(report["outcomes"].values()) == len(range(start, stop, step))
    return collections.Counter(report["outcomes"])


@pytest.mark.parametrize(("number", "match"), [
    (7, "(?s)planted 7.*a wrong result"), (8, r"ends with -?\d+: .*planted 8"),
    (9, "hangs: .*planted 9"),
])  # fmt: skip
def test_a_batch_tells_what_went_wrong(number, match, tmp_path):
    with pytest.raises((pytest.fail.Exception, AssertionError), match=match):
        batch(tmp_path, "planted", number, number + 1, timeout=4 if number == 9 else TIMEOUT)


# Prime to the sides of the grid, so that a part has of everything.
PARTS = 11


@pytest.mark.parametrize("part", blocks(1, PARTS))
def test_grid_of_one_channel(part, tmp_path):
    """correlate2d, convolve2d and their gradients: results exact, errors where documented."""
    outcomes = batch(tmp_path, "correlation", part, math.prod(hostile.GRID), PARTS)
    assert set(outcomes) == {"result", "ValueError"}
    assert outcomes["result"] > 0.6 * outcomes.total()


@pytest.mark.parametrize("block", blocks(1, 40))
def test_arguments_of_many_channels(block, tmp_path):
    """conv2d, conv_transpose2d and their gradients."""
    outcomes = batch(tmp_path, "convolution", 2000 * block, 2000 * (block + 1))
    assert outcomes["result"] > 0.3 * outcomes.total()


@pytest.mark.parametrize(("family", "block"), [
    pytest.param(family, *param.values, marks=param.marks) if hasattr(param, "values")
    else (family, param)
    for family in ("other", "layer") for param in blocks(1, 20)
])  # fmt: skip
def test_arguments_of_the_rest(family, block, tmp_path):
    outcomes = batch(tmp_path, family, 2000 * block, 2000 * (block + 1))
    assert outcomes["result"] > 0.2 * outcomes.total()


def test_virtual_arrays(tmp_path):
    """Arrays of up to 2**62 elements, of which one is in memory: nothing computes with them."""
    outcomes = batch(tmp_path, "virtual", 0, hostile.VIRTUAL_PROBLEMS)
    assert outcomes.total() - outcomes["result"] > 1000


@pytest.mark.parametrize("block", blocks(1, 20))
def test_arrays_that_change_meanwhile(block, tmp_path):
    n = 2 * len(hostile.CALLS)
    assert batch(tmp_path, "race", n * block, n * (block + 1)) == {"result": n}


# ---------------------------------------------------------------- odd arrays


class Subclass(np.ndarray):
    def __array_finalize__(self, other):
        self.extra = getattr(other, "extra", 7)


class Array:
    def __init__(self, value):
        self.value = value

    def __array__(self, dtype=None, copy=None):
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value


class Interface:
    def __init__(self, a):
        self.a = a
        self.__array_interface__ = a.__array_interface__


def matrix(a):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        return np.asmatrix(a) if a.ndim == 2 else a


def user_type(name):
    return lambda a: a.astype(getattr(pytest.importorskip("ml_dtypes"), name))


class Liar:
    """Says that it has four elements and has none."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        raise IndexError(index)


def layout(name):
    return lambda a: cases.LAYOUTS[name](a.reshape(-1, a.shape[-1])).reshape(a.shape)


def back(a):
    index = (slice(None, None, -1),) * a.ndim
    return a[index].copy()[index]


def frame(a):
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(a) if a.ndim == 2 else a


def series(a):
    pandas = pytest.importorskip("pandas")
    return pandas.Series(a) if a.ndim == 1 else a


def unaligned(a):
    raw = np.zeros(a.nbytes + 1, np.uint8)[1:]
    raw.view(a.dtype).reshape(a.shape)[...] = a
    return raw.view(a.dtype).reshape(a.shape)


def mapped(a, tmp_path, offset=0):
    """A file of the values, mapped read-only."""
    path = tmp_path / "values"
    path.write_bytes(bytes(offset) + a.tobytes())
    return np.memmap(path, a.dtype, "r", offset, a.shape)


# The same numbers, perhaps in another type.
SAME = {
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")), "unaligned": unaligned,
    "negative strides": back, "zero strides": lambda a: np.broadcast_to(a[..., :1], a.shape),
    "zero strides of rows": lambda a: np.broadcast_to(a[:1], a.shape),
    "every third": lambda a: np.repeat(a, 3, -1)[..., ::3],
    "Fortran order": np.asfortranarray, "subclass": lambda a: a.view(Subclass),
    "recarray": lambda a: a.view(np.recarray), "nothing masked": np.ma.array,
    "field of records": lambda a: np.rec.fromarrays([a, a + 1, a > 0])["f0"],
    "matrix": matrix,
    "lists": lambda a: a.tolist(), "list of arrays": list, "tuple": lambda a: (*a.tolist(),),
    "__array__": Array, "__array_interface__": Interface, "buffer": memoryview,
    "float16": lambda a: a.astype("e"), "bool": lambda a: a > 0, "int8": lambda a: a.astype("b"),
    "uint64": lambda a: abs(a).astype("Q"), "longdouble": lambda a: a.astype("g"),
    "bfloat16": user_type("bfloat16"), "float8_e4m3fn": user_type("float8_e4m3fn"),
    "int4": user_type("int4"), "DataFrame": frame, "Series": series,
}  # fmt: skip
# Types of other packages are converted by layers, and refused by all else.
USER_TYPES = {"bfloat16", "float8_e4m3fn", "int4"}
OTHER_TYPES = {"float16", "bool", "int8", "uint64", "longdouble", *USER_TYPES}


def recursive(a):
    value = []
    value.append(value)
    return value


def released(a):
    buffer = memoryview(bytearray(a.tobytes()))
    buffer.release()
    return buffer


def sparse(a):
    import scipy.sparse

    return scipy.sparse.csr_array(a.reshape(-1, a.shape[-1]))


NOT_NUMBERS = {
    "object": lambda a: a.astype(object), "structured": lambda a: a.astype([("v", "f8")]),
    "nested records": lambda a: np.zeros(a.shape, [("v", "f8", (2, 2)), ("w", "O")]),
    "datetime64": lambda a: a.astype("M8[s]"), "timedelta64": lambda a: a.astype("m8[s]"),
    "str": lambda a: a.astype(str), "bytes": lambda a: a.astype(bytes),
    "void": lambda a: np.zeros(a.shape, "V8"), "empty void": lambda a: np.zeros(a.shape, "V0"),
    "StringDType": lambda a: a.astype(int).astype(np.dtypes.StringDType()),
    "masked": lambda a: np.ma.array(a, mask=np.arange(a.size).reshape(a.shape) == 0),
    "objects masked": lambda a: np.ma.masked_greater(a, 0).astype(object),
    "ragged": lambda a: [*a.tolist(), []],
    "lists of str": lambda a: a.astype(str).tolist(), "None": lambda a: None,
    "dict": lambda a: {0: a}, "set": lambda a: {1.0, 2.0}, "generator": lambda a: (v for v in a),
    "str itself": lambda a: "1", "type": lambda a: float, "Ellipsis": lambda a: ...,
    "0-d": lambda a: np.array(1.0), "number": lambda a: 1.0, "no axis": lambda a: a[..., :0],
    "nan text": lambda a: "nan", "one axis more": lambda a: np.stack([a, a] * 7),
    "one axis less": lambda a: a[0][:1] if a.ndim > 1 else a[0], "sparse": sparse,
    "recursive": recursive, "released buffer": released, "liar": lambda a: Liar(),
    "__array__ raises TypeError": lambda a: Array(TypeError("no")),
    "__array__ raises ValueError": lambda a: Array(ValueError("no")),
    "__array__ gives a list": lambda a: Array([1.0]), "__array__ gives None": lambda a: Array(None),
    "__array__ gives objects": lambda a: Array(a.astype(object)),
    "huge integers": lambda a: [[2**70] * a.shape[-1]] * 2,
}  # fmt: skip


def every_array():
    for name, (call, arrays) in hostile.CALLS.items():
        for argument in arrays:
            yield f"{name}, {argument}", call, arrays, argument


def assert_equal(got, right, note):
    for a, b in zip(flat(got), flat(right), strict=True):
        if "float16: nn.cross_entropy" in note:  # in single precision
            np.testing.assert_allclose(a, b, rtol=1e-6)
        else:
            np.testing.assert_array_equal(a, b, note)
        assert type(a) is np.ndarray or np.ndim(a) == 0, note


def flat(value):
    return value[:1] if hasattr(value, "seconds") else value if type(value) is tuple else (value,)


@pytest.mark.parametrize("kind", SAME)
def test_odd_arrays(kind):
    """The result of the plain array, and the array as before; other types may be refused."""
    computed = 0
    for note, call, arrays, argument in every_array():
        odd = SAME[kind](arrays[argument].copy())
        plain = np.array(np.asarray(odd), arrays[argument].dtype)
        before = np.asarray(odd).tobytes()
        try:
            got = call(**{**arrays, argument: odd})
        except (ValueError, TypeError):
            assert kind in OTHER_TYPES, note
            continue
        assert_equal(got, call(**{**arrays, argument: plain}), f"{kind}: {note}")
        assert np.asarray(odd).tobytes() == before, note
        computed += 1
    assert computed > (3 if kind in USER_TYPES else 40)


@pytest.mark.parametrize("offset", [0, 1, 8])
def test_mapped_files(offset, tmp_path):
    """scikit-learn#21654: also where the numbers in a file are not aligned."""
    for note, call, arrays, argument in every_array():
        given = {**arrays, argument: mapped(arrays[argument], tmp_path, offset)}
        assert_equal(call(**given), call(**arrays), note)


@pytest.mark.parametrize("kind", NOT_NUMBERS)
def test_what_is_no_array_of_numbers(kind):
    for note, call, arrays, argument in every_array():
        odd = NOT_NUMBERS[kind](arrays[argument].copy())
        try:
            got = call(**{**arrays, argument: odd})
        except (ValueError, TypeError) as error:
            told = str(error)
        else:
            # What is an array after all: empty, of other axes.
            assert kind in FINE, f"{note}: {got}"
            continue
        if kind in NAMED:
            assert re.search(rf"\b{argument}\b", told), f"{note}: {told}"


NAMED = ("ragged", "masked")
FINE = {"None", "liar", "0-d", "number", "no axis", "one axis more", "one axis less"}


def test_exceptions_of_arrays_pass():
    """What an object raises when it is asked for an array is the caller's to see."""
    for error in (KeyError("mine"), RuntimeError("mine"), KeyboardInterrupt("mine")):
        for _, call, arrays, argument in every_array():
            with pytest.raises(type(error), match="mine"):
                call(**{**arrays, argument: Array(error)})


# ---------------------------------------------------------------- NumPy's error state

# Underflow in the powers and factors of kernels, overflow in sums, NaN from inf - inf.
BELL = np.exp(-(np.arange(-15.0, 16) ** 2) / 3)
STRONG = {
    "a bell": (np.ones((90, 90)), np.outer(BELL, BELL)),
    "tiny factors": (np.ones((90, 90)), np.outer([1, 1e-200, 1], [1, 1e-200, 1])),
    "huge": (np.full((90, 90), 1e300), np.full((9, 9), 1e300)),
    "tiny": (np.full((90, 90), 1e-300), np.full((9, 9), 1e-300)),
    "infinite": (np.where(np.eye(90) > 0, np.inf, 1), np.where(np.eye(9) > 0, -np.inf, 1.0)),
    "NaN": (np.where(np.eye(90) > 0, np.nan, 1), np.ones((9, 9))),
}


@pytest.mark.parametrize("dtype", "fdFD")
@pytest.mark.parametrize("data", STRONG)
def test_error_states_change_nothing(data, dtype):
    """No FloatingPointError and no warning, with the bits that there are without."""
    with np.errstate(all="ignore"):
        x, k = (a.astype(dtype) for a in STRONG[data])
    layer = np.stack([x[:20, :20]] * 6)[None], np.stack([k[:3, :3]] * 6)[:, None]
    mixed = layer[0], np.repeat(layer[1], 6, axis=1)
    calls = [
        lambda: fastcorr.convolve2d(x, k, "full", "wrap"), lambda: fastcorr.choose_method(x, k),
        lambda: fastcorr.plan_correlate2d(k, shape=x.shape, mode="same")(x),
        lambda: fastcorr.correlate2d_vjp(x, x, k, "same", "symm"),
        lambda: fastcorr.correlate2d(x, k, fillvalue=1e300),
        lambda: fastcorr.correlate2d(x, k.astype("D"), dtype="F"),
    ]  # fmt: skip
    for method in ("direct", "separable", "fft"):
        calls += [
            functools.partial(fastcorr.correlate2d, x, k, "same", method=method),
            functools.partial(fastcorr.correlate2d_vjp, x, x, k, "same", method=method),
        ]
    for a, w in (layer, mixed):
        groups = 6 // w.shape[1]
        calls += [
            functools.partial(fastcorr.conv2d, a, w, a[0, :, 0, 0], 1, 1, groups=groups),
            functools.partial(fastcorr.conv2d_backward, a, a, w, 1, 1, groups=groups),
            functools.partial(fastcorr.conv_transpose2d, a, w, a[0, :, 0, 0], groups=groups),
        ]
    done = 0
    for call in calls:
        try:
            with np.errstate(all="ignore"):
                right = call()
        except ValueError:  # there is no such method for these
            continue
        for state in ("raise", "warn"):
            with np.errstate(all=state):
                got = call()
            assert_same_bits(got, right)
        done += 1
    assert done > 10


def assert_same_bits(got, right):
    for a, b in zip(flat(got), flat(right), strict=True):
        assert a == b if isinstance(a, str) else cases.bits(a) == cases.bits(b)


# ---------------------------------------------------------------- results that overlap themselves


def overlap(shape, steps):
    """Whether two numbers of 8 bytes share memory, by looking at all."""
    first = [sum(i * s for i, s in zip(index, steps, strict=True)) for index in np.ndindex(shape)]
    return any(q - p < 8 for p, q in itertools.pairwise(sorted(first)))


def strided(shape, steps):
    return np.lib.stride_tricks.as_strided(np.zeros(4000)[2000:], shape, steps)


def overlapping(shape):
    """Arrays of a shape of which two elements share memory."""
    last = [[0, 0], [8, 8], [16, 8], [8, 16], [40, 0], [0, 8], [4, 8], [24, 16], [-8, 8], [1, 400]]
    for steps in (*((4000,) * (len(shape) - 2) + tuple(two) for two in last), (8,) * len(shape)):
        if overlap(shape, steps):
            yield strided(shape, steps)


def faces_with_out():
    x, k = np.arange(30.0).reshape(5, 6), np.ones((2, 3))
    yield (5, 6), lambda out: fastcorr.correlate2d(x, k, "same", out=out)
    yield (5, 6), lambda out: fastcorr.convolve2d(x, k, "same", out=out)
    yield (4, 4), lambda out: fastcorr.corr2d(x, k, out=out)
    yield (3, 5, 6), lambda out: fastcorr.correlate2d(
        np.stack([x] * 3), k, "same", axes=(-2, -1), out=out)  # fmt: skip
    plan = fastcorr.plan_correlate2d(k, shape=(5, 6), mode="same")
    yield (5, 6), lambda out: plan(x, out=out)
    x4, w4 = np.ones((1, 2, 5, 6)), np.ones((2, 2, 3, 3))
    for method in ("direct", "winograd"):
        yield (
            (1, 2, 5, 6),
            lambda out, m=method: fastcorr.conv2d(x4, w4, padding=1, out=out, method=m),
        )
    yield (1, 5, 6, 2), lambda out: fastcorr.conv2d(
        x4.transpose(0, 2, 3, 1), w4, padding=1, channels_last=True, out=out)  # fmt: skip


def test_out_must_not_overlap_itself():
    for shape, call in faces_with_out():
        outs = list(overlapping(shape))
        assert len(outs) > 5
        for out in outs:
            with pytest.raises(ValueError, match="out must not overlap itself"):
                call(out)
        owner = np.empty(shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            owner.strides = (0,) * len(shape)
        with pytest.raises(ValueError, match="out must not overlap itself"):
            call(owner)
        # Axes that interleave, but share nothing.
        steps = {(5, 6): (56, 40), (4, 4): (40, 32)}.get(shape)
        if steps:
            np.testing.assert_array_equal(call(strided(shape, steps)), call(np.empty(shape)))


def test_interleaved_axes():
    from fastcorr.correlate import overlaps_itself

    rng, found = np.random.default_rng(0), collections.Counter()
    for _ in range(3000):
        shape = tuple(rng.integers(0, 6, rng.integers(1, 5)).tolist())
        steps = rng.integers(-30, 31, len(shape)) * rng.choice([8, 4], p=[0.9, 0.1])
        right = overlap(shape, steps)
        assert overlaps_itself(strided(shape, steps)) == right, (shape, steps)
        found[right] += 1
    assert min(found.values()) > 300


# ---------------------------------------------------------------- results over the operands

# Shapes of the operands and the result, and a call of them.
OVER = {
    **{f"correlate2d {method}": ((9, 8), (4, 3), (9, 8), functools.partial(
        lambda x, k, out, method: fastcorr.correlate2d(
            x, k, "same", "wrap", out=out, method=method), method=method))
       for method in ("direct", "fft", "auto")},
    "correlate2d separable": ((9, 8), (5, 1), (9, 8), lambda x, k, out: fastcorr.correlate2d(
        x, k, "same", "mirror", out=out, method="separable")),
    "convolve2d": ((6, 5), (3, 2), (8, 6), lambda x, k, out: fastcorr.convolve2d(x, k, out=out)),
    "convolve2d swapped": ((3, 2), (7, 6), (5, 5), lambda x, k, out: fastcorr.convolve2d(
        x, k, "valid", out=out)),
    "corr2d": ((7, 9), (3, 2), (5, 8), lambda x, k, out: fastcorr.corr2d(x, k, out=out)),
    "a stack": ((2, 5, 6), (1, 2, 3), (2, 5, 6), lambda x, k, out: fastcorr.correlate2d(
        x, k, "same", axes=(-2, -1), out=out)),
    "a plan": ((9, 8), (4, 3), (9, 8), lambda x, k, out: fastcorr.plan_correlate2d(
        k, shape=(9, 8), mode="same")(x, out)),
    **{f"conv2d {method}": ((1, 2, 5, 6), (3, 2, 3, 3), (1, 3, 5, 6), functools.partial(
        lambda x, k, out, method: fastcorr.conv2d(
            x, k, k[:, 0, 0, 0], padding=1, out=out, method=method), method=method))
       for method in ("direct", "winograd", "winograd4")},
    "conv2d of channels last": ((1, 5, 6, 2), (2, 2, 3, 3), (1, 5, 6, 2), lambda x, k, out:
        fastcorr.conv2d(x, k, padding=1, channels_last=True, out=out)),
    "conv2d depthwise": ((1, 2, 5, 6), (2, 1, 3, 3), (1, 2, 5, 6), lambda x, k, out:
        fastcorr.conv2d(x, k, padding=1, groups=2, padding_mode="circular", out=out)),
}  # fmt: skip


def anywhere(rng, raw, shape):
    """A view of doubles that begins at any byte: axes in any order and of any signs."""
    steps, extent, first = [0] * len(shape), 8, 0
    for axis in rng.permutation(len(shape)):
        step = extent + int(rng.choice([0, 0, 1, 8, 24]))
        extent = step * shape[axis]
        steps[axis] = step * int(rng.choice([1, 1, -1]))
        first -= min(steps[axis], 0) * (shape[axis] - 1)
    return np.ndarray(shape, "d", raw, first + int(rng.integers(500)), steps)


@pytest.mark.parametrize("name", OVER)
def test_out_over_any_part_of_the_operands(name, rng):
    """Rows, columns, reversed, transposed, by a byte: as if all three lay apart."""
    *shapes, call = OVER[name]
    shared = collections.Counter()
    for _ in range(200):
        raw = cases.integers(rng, 900, "d").view("u1")
        x, k, out = (anywhere(rng, raw, shape) for shape in shapes)
        with np.errstate(all="ignore"):
            right = call(x.copy(), k.copy(), np.empty(out.shape))
            assert call(x, k, out) is out
        assert cases.bits(out) == cases.bits(right), (name, x.strides, k.strides, out.strides)
        shared["x"] += np.may_share_memory(out, x)
        shared["k"] += np.may_share_memory(out, k)
    assert min(shared.values()) > 40


# ---------------------------------------------------------------- sizes


X4, W4 = np.ones((1, 1, 5, 5)), np.ones((1, 1, 3, 3))


@pytest.mark.parametrize(("error", "match", "call"), [
    (ValueError, r"padding=1099511627776 and stride=1, the result of shape .* too large",
     lambda: fastcorr.conv2d(X4, W4, padding=2**40)),
    (ValueError, "padding=0 and stride=1152921504606846976, the result of shape .* too large",
     lambda: fastcorr.conv_transpose2d(X4, W4, stride=2**60)),
    (ValueError, r"more than 2\*\*24 rows",
     lambda: fastcorr.conv2d(X4, np.broadcast_to(1.0, (1, 1, 2**25, 1)), padding=2**30)),
    (ValueError, r"input_shape must be at most 2\*\*60",
     lambda: fastcorr.conv2d_output_shape((1, 1, 2**70, 5), 1, 3)),
    (ValueError, r"out_channels must be from 1 to 2\*\*60",
     lambda: fastcorr.conv2d_output_shape((1, 1, 5, 5), 2**70, 3)),
    (ValueError, "input_shape must end with rows and columns, each from 1 to",
     lambda: fastcorr.receptive_field([{"kernel_size": 3}], (2**70, 5))),
    (ValueError, r"kernel_size must be at most 2\*\*60",
     lambda: fastcorr.receptive_field([{"kernel_size": 2**70}])),
    (ValueError, r"stride must be at most 2\*\*60", lambda: nn.AvgPool2d(2, stride=2**70)),
    (ValueError, "the mask of shape .* too large",
     lambda: fastcorr.receptive_field_mask([{"kernel_size": 1}], (2**31, 2**31), (0, 0))),
    (ValueError, "could not cast `fillvalue`.* beyond all floats",
     lambda: fastcorr.correlate2d(X4[0, 0], W4[0, 0], fillvalue=10**400)),
], ids=str)  # fmt: skip
def test_messages_name_what_is_too_large(error, match, call):
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize("cpus", [1, 4])
def test_message_of_wrong_workers(cpus, monkeypatch):
    monkeypatch.setattr(_workers, "_CPUS", cpus)
    back = "-1 for the only CPU" if cpus == 1 else "from -4 to -1 to count back from the 4 CPUs"
    with pytest.raises(ValueError, match=f"workers must be at least 1, or {back}, got 0"):
        fastcorr.correlate2d([[1]], [[1]], workers=0)


S = getattr(np.dtypes, "StringDType", lambda: np.dtype("U1"))()


@pytest.mark.parametrize(("error", "match", "call"), [
    (ValueError, "in1 and in2 may have at most 34 axes",
     lambda: fastcorr.correlate2d(np.ones((1,) * 35), X4, axes=(-2, -1))),
    (ValueError, "x and k may have at most 34 axes",
     lambda: fastcorr.plan_convolve2d(X4, shape=(1,) * 60 + (5, 5), axes=(-2, -1))),
    (ValueError, "in1 and in2 may have at most 34 axes",
     lambda: fastcorr.correlate2d_vjp(X4, X4, np.ones((1,) * 64), axes=(-2, -1))),
    (ValueError, r"in1 of shape .* too large, though it is empty",
     lambda: fastcorr.correlate2d(np.broadcast_to(np.int8(1), (2**62, 0)), W4[0, 0], "same")),
    (ValueError, r"x of shape .* too large: more than",
     lambda: nn.Conv2d(1, 1, 3)(np.broadcast_to(np.int8(1), (1, 1, 2**31, 2**31)))),
    (ValueError, "a result of dtype", lambda: fastcorr.correlate2d([[1]], [[1]], dtype=S)),
    (ValueError, "a result of dtype",
     lambda: fastcorr.correlate2d([[1]], [[1]], out=np.empty((1, 1), S))),
    (TypeError, "out has dtype",
     lambda: fastcorr.correlate2d([[1]], [[1]], out=np.empty((1, 1), S), dtype="d")),
    (TypeError, "out must have dtype float64",
     lambda: fastcorr.conv2d(W4, W4, out=np.empty((1, 1, 1, 1), S))),
    (TypeError, "y is ", lambda: nn.mse_loss(np.empty((1, 1), S), np.empty((1, 1)))),
    (TypeError, "ceil_mode must be True or False",
     lambda: fastcorr.receptive_field([{"kernel_size": 2, "ceil_mode": np.array([1, 2])}])),
    (TypeError, "path must be", lambda: nn.Linear(1, 1).save(1.5)),
    (TypeError, "path must be", lambda: nn.Linear(1, 1).load(None)),
    (ValueError, "lr must", lambda: optim.Adam([nn.Parameter([1.0])], lr=-(2**70))),
    (ValueError, "lr must", lambda: optim.Adam([nn.Parameter([1.0])], lr=-(10**400))),
], ids=str)  # fmt: skip
def test_messages_name_what_is_wrong(error, match, call):
    with pytest.raises(error, match=match):
        call()


HUGE = 10**5000  # Python writes no such number


class Ambiguous:
    __hash__ = object.__hash__

    def __eq__(self, other):
        return np.ones(2)


@pytest.mark.parametrize(("match", "call"), [
    ("axes", lambda: fastcorr.correlate2d(X4[0, 0], X4[0, 0], axes=(HUGE, 1))),
    ("lags",
     lambda: fastcorr.correlate2d(X4[0, 0], X4[0, 0], lags=[slice(None, None, HUGE)] * 2)),
    ("x of shape", lambda: fastcorr.plan_correlate2d(X4[0, 0], shape=(HUGE, 5))),
    ("shape", lambda: fastcorr.plan_correlate2d(X4[0, 0], shape=(-HUGE, 5))),
    ("groups", lambda: fastcorr.conv2d(X4, W4, groups=HUGE)),
    ("padding", lambda: fastcorr.conv2d(X4, W4, padding=HUGE)),
    ("output_padding", lambda: fastcorr.conv_transpose2d(X4, W4, output_padding=Unshowable())),
    ("start_dim", lambda: nn.Flatten(-HUGE, -1)(X4)),
    ("mode", lambda: fastcorr.correlate2d(X4[0, 0], X4[0, 0], Ambiguous())),
])  # fmt: skip
def test_messages_of_what_cannot_be_written(match, call):
    with pytest.raises((ValueError, TypeError), match=match):
        call()


M = np.ma.array([[1.0, 2.0], [3.0, 1000.0]], mask=[[0, 0], [0, 1]])


@pytest.mark.parametrize(
    "value", [M, [[M]], [[M[0], M[1]]], ([M],), [[np.ma.masked, 1.0], [2.0, 3.0]], (M[0], M[1])]
)
def test_masks_are_not_lost_however_deep(value):
    with pytest.raises(TypeError, match="in1 is a masked array with masked elements"):
        fastcorr.correlate2d(value, np.ones((1, 1)), axes=(-2, -1))
    unmasked = [np.ma.array([1.0, 2.0]), [3.0, 4.0]]
    assert fastcorr.correlate2d(unmasked, [[1]]).tolist() == [[1, 2], [3, 4]]


def test_numbers_of_any_kind():
    assert optim.SGD([nn.Parameter([1.0])], lr=2**70).lr == 2.0**70
    one = np.array(1)
    assert fastcorr.receptive_field(
        [{"kernel_size": np.array(2), "stride": one, "padding": one, "dilation": one}]
    ) == fastcorr.receptive_field([{"kernel_size": 2, "padding": 1}])
    big, little = np.empty((3, 4), ">f8"), np.empty((3, 4))
    for out in (big, little):
        assert fastcorr.correlate2d(np.ones((3, 4)), [[2]], out=out, dtype="f8") is out
        assert (out == 2).all()


def test_long_kernels_are_soon_refused():
    """What a kernel of 2**24 rows is planned with is not as long as it."""
    far = np.broadcast_to(np.int8(1), (1, 1, 2**24, 1))
    tracemalloc.start()
    try:
        for name in ("conv_transpose2d_backward", "conv2d_backward"):
            with pytest.raises(ValueError, match=r"dy must have the shape|is larger than"):
                getattr(fastcorr, name)(X4, X4, far)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


SPARSE = [  # images and kernels, stride, padding, dilation: few of many padded pixels are read
    ((5, 5), (2, 3), 9, 40, 1), ((1, 4), (1, 1), (11, 7), 30, 1), ((3, 2), (3, 2), 1, (90, 20), 31),
    ((4, 6), (2, 2), (1, 60), ((3, 0), (200, 100)), 1), ((2, 2), (2, 2), (50, 50), 99, (7, 1)),
]  # fmt: skip


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("dtype", "fD")
@pytest.mark.parametrize("problem", SPARSE, ids=str)
def test_gradients_of_sparse_padding(problem, mode, dtype, rng):
    size, kernel, stride, padding, dilation = problem
    for n, groups in ((1, 1), (3, 2)):
        x = cases.integers(rng, (n, 2, *size), dtype)
        weight = cases.integers(rng, (4, 2 // groups, *kernel), dtype)
        args = stride, padding, dilation, groups
        y = fastcorr.conv2d(x, weight, None, *args, padding_mode=mode)
        lifted = conv_oracle.lift(x), conv_oracle.lift(weight)
        np.testing.assert_array_equal(y, conv_oracle.conv2d(*lifted, None, *args, mode))
        dy = cases.integers(rng, y.shape, dtype)
        right = conv_oracle.conv2d_backward(conv_oracle.lift(dy), *lifted, *args, mode)
        for workers in (1, 2):
            got = fastcorr.conv2d_backward(
                dy, x, weight, *args, padding_mode=mode, workers=workers)  # fmt: skip
            for a, b in zip(got, right, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("far", [10**6, 2**31 - 1, 2**40, 2**59])
def test_padding_and_stride_as_far(mode, far, rng):
    """The result and its gradients depend on what is read, not on how far it lies apart."""
    x, weight = cases.integers(rng, (2, 2, 5, 5), "d"), cases.integers(rng, (3, 2, 2, 2), "d")
    args = {"stride": far, "padding": far, "padding_mode": mode}
    y = fastcorr.conv2d(x, weight, **args)
    assert y.shape == (2, 3, 3, 3)
    # Of the image itself only the middle output's window is not padding.
    shown = [[oracle.source(p, 5, conv_oracle.MODES[mode]) for p in (at, at + 1)]
             for at in (-far % 40 - 40, 0, far % 40)]  # fmt: skip
    if mode in ("reflect", "circular"):  # periods 8 and 5
        for (i, rows), (j, cols) in itertools.product(enumerate(shown), repeat=2):
            part = x[:, :, np.array(rows)[:, None], cols]
            np.testing.assert_array_equal(y[:, :, i, j], np.einsum("ncab,ocab->no", part, weight))
    dy = cases.integers(rng, y.shape, "d")
    dx, dweight, _ = fastcorr.conv2d_backward(dy, x, weight, **args)
    assert (dx * x).sum() == (dweight * weight).sum() == (dy * y).sum()
    if mode == "zeros":
        back = fastcorr.conv_transpose2d(dy, weight, stride=far, padding=far, output_padding=3)
        np.testing.assert_array_equal(back, dx)


def test_receptive_fields_of_any_size():
    mask = fastcorr.receptive_field_mask
    far = {"kernel_size": 2, "stride": 2**40, "padding": 2**40}
    assert mask([far], (5, 6), (1, 1)).sum() == 4
    assert mask([far], (5, 6), (0, 1)).sum() == 0
    far["padding_mode"] = "circular"
    assert np.argwhere(mask([far], (5, 6), (0, 1))).tolist() == [
        [i, j] for i in sorted([-(2**40) % 5, (1 - 2**40) % 5]) for j in (0, 1)
    ]
    long = {"kernel_size": 10**6, "padding": 10**6 - 1, "padding_mode": "reflect"}
    assert mask([long], (5, 6), (3, 0)).all()
    long["padding_mode"] = "zeros"
    assert mask([long], (5, 6), (3, 0)).tolist() == [[i < 4 and j < 1 for j in range(6)]
                                                    for i in range(5)]  # fmt: skip


def test_a_chain_that_holds_itself():
    chain = [{"kernel_size": 3}]
    chain.append(chain)
    with pytest.raises(ValueError, match=r"layers must not be nested .* or hold itself"):
        fastcorr.receptive_field(chain)
    nested = {"kernel_size": 3}
    for _ in range(50):
        nested = [nested]
    assert fastcorr.receptive_field(nested) == fastcorr.receptive_field([{"kernel_size": 3}])


def test_pooling_of_any_size():
    """Windows far larger than the image: only taps that meet it are gone through."""
    x = np.arange(16.0).reshape(1, 4, 4)
    far = {"kernel_size": 2**40, "padding": 2**39}
    assert _pooled(nn.MaxPool2d, x, **far, stride=1).tolist() == [[[15] * 5] * 5]
    assert _pooled(nn.AvgPool2d, x, (1, 2**40), (1, 3), (0, 2**39)).shape == (1, 4, 2)
    few = {"kernel_size": 5, "padding": 2, "stride": 2}
    for kind in (nn.MaxPool2d, nn.AvgPool2d):
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(x[0], 2, constant_values=0 if kind is nn.AvgPool2d else -1), (5, 5))  # fmt: skip
        right = (windows.mean if kind is nn.AvgPool2d else windows.max)(axis=(2, 3))[::2, ::2]
        np.testing.assert_array_equal(_pooled(kind, x, **few)[0], right)


def _pooled(kind, x, *args, **more):
    pool = kind(*args, **more)
    y = pool(x)
    assert pool.backward(y).shape == x.shape
    return y


NOTHING = {  # of so many that there is nothing of: results without elements
    "rows": lambda: fastcorr.correlate2d(nothing(2**59, 0), X4[0, 0], "same", "wrap"),
    "images": lambda: fastcorr.correlate2d(nothing(2**58, 0, 3), W4[0], "same", axes=(-2, -1)),
    "gradients": lambda: fastcorr.correlate2d_vjp(
        nothing(2**59, 0), nothing(2**59, 0), W4[0, 0], "same", "symm")[0],
    "layers": lambda: fastcorr.conv2d(nothing(0, 1, 2**30, 2**20), W4),
    "layers back": lambda: fastcorr.conv2d_backward(
        *[nothing(0, 1, 2**30, 2**20)] * 2, W4, padding=1, padding_mode="circular")[0],
    "images of layers back": lambda: fastcorr.conv2d_backward(
        *[nothing(0, 2, 2**30, 2**20)] * 2, np.ones((2, 2, 1, 1)))[0],
    "rows of a linear layer": lambda: nn.Linear(3, 2, rng=0)(nothing(2**50, 0, 3).astype("f")),
    "rows of a linear layer back": lambda: _linear_back(nothing(2**50, 0, 3).astype("f")),
}  # fmt: skip


def _linear_back(x):
    layer = nn.Linear(3, 2, rng=0)
    return layer.backward(layer(x))


def nothing(*shape):
    return np.broadcast_to(np.ones([min(n, 1) for n in shape]), shape)


@pytest.mark.parametrize("what", NOTHING)
def test_nothing_of_very_much(what):
    assert NOTHING[what]().size == 0


def test_rtol_is_for_auto_alone(rng):
    """Beside a method that is named it changes no bit; a tolerance of 1 or more allows all."""
    x, weight = rng.random((1, 16, 30, 30), "f"), rng.random((16, 16, 3, 3), "f")
    for method in ("direct", "winograd"):
        plain = fastcorr.conv2d(x, weight, method=method)
        assert fastcorr.conv2d(x, weight, method=method, rtol=1e-30).tobytes() == plain.tobytes()
    loose = fastcorr.conv2d(x, weight, rtol=2)
    assert loose.tobytes() == fastcorr.conv2d(x, weight, method="winograd4").tobytes()


# ---------------------------------------------------------------- the bugs of others


def as_defined(function, x_shape, k_shape, mode, rule, dtype="d", **more):
    rng = np.random.default_rng(0)
    x, k = (cases.integers(rng, shape, dtype) for shape in (x_shape, k_shape))
    right = hostile._defined(function, x, k, mode, rule)
    y = getattr(fastcorr, function)(x, k, mode, rule, **more)
    np.testing.assert_array_equal(y, right.astype(y.dtype))
    return y


def refused(error, call, *args, **more):
    with pytest.raises(error):
        call(*args, **more)


def layer_as_defined(size, kernel, stride, padding, dilation=1, channels=2, dtype="d"):
    rng = np.random.default_rng(0)
    x = cases.integers(rng, (2, channels, *size), dtype)
    weight = cases.integers(rng, (3, channels, *kernel), dtype)
    right = conv_oracle.conv2d(
        conv_oracle.lift(x), conv_oracle.lift(weight), None, stride, padding, dilation)  # fmt: skip
    np.testing.assert_array_equal(
        fastcorr.conv2d(x, weight, None, stride, padding, dilation), right
    )


def empty_axis():
    for mode, rule in itertools.product(("full", "same"), ("wrap", "symm")):
        for shape in ((0, 3), (3, 0)):
            x = np.zeros(shape)
            if 0 in x.shape and mode == "full":
                refused(ValueError, fastcorr.convolve2d, x, np.ones((2, 2)), mode, rule)


def long_kernel():
    """Folded onto one period of the image, it has one of 600 columns."""
    x = cases.integers(np.random.default_rng(0), (3, 300), "l")
    k = cases.integers(np.random.default_rng(1), (1, 700_000), "l")
    y = fastcorr.correlate2d(x, k, "same", "symm")
    i = np.arange(700_000) - (700_000 - 1) // 2
    for column in (0, 1, 299):
        p = (i + column) % 600
        np.testing.assert_array_equal(y[:, column], x[:, np.minimum(p, 599 - p)] @ k[0])


def swapped_operands():
    """An image in 'full' and 'same' mode is the first operand, whichever is larger."""
    for function, rule in itertools.product(
        ("correlate2d", "convolve2d"), ("wrap", "symm", "fill")
    ):
        as_defined(function, (3, 4), (6, 7), "same", rule)
        as_defined(function, (3, 4), (6, 7), "valid", rule)


def overflow():
    for dtype in "BHLbhl":
        rng = np.random.default_rng(0)
        x, k = (cases.integers(rng, s, dtype, wide=True) for s in ((7, 8), (3, 3)))
        right = oracle.as_dtype(oracle.compute("convolve2d", x, k), dtype)
        np.testing.assert_array_equal(fastcorr.convolve2d(x, k), right)


def integers_by_transforms():
    for types in ("lf", "ld", "Bh", "il"):
        rng = np.random.default_rng(0)
        x, k = cases.integers(rng, (90, 95), types[0]), cases.integers(rng, (31, 33), types[1])
        direct, fast = (fastcorr.correlate2d(x, k, method=m) for m in ("direct", "fft"))
        if direct.dtype.kind == "i":
            np.testing.assert_array_equal(fast, direct)
        else:
            np.testing.assert_allclose(fast, direct, rtol=0, atol=1e-3)
    refused(ValueError, fastcorr.correlate2d, x > 0, k > 0, method="fft")


def many_bits():
    for method in ("direct", "separable", "fft"):
        y = fastcorr.correlate2d([[2**62 + 1]], [[1]], method=method)
        assert y.tolist() == [[2**62 + 1]]


def separable_filters():
    for length in (2, 4, 30, 31):
        k = np.outer([1.0, 2], np.ones(length))
        for rule in oracle.RULES:
            x = cases.integers(np.random.default_rng(0), (2, 3), "d")
            right = hostile._defined("correlate2d", x, k, "same", rule)
            y = fastcorr.correlate2d(x, k, "same", rule, method="separable")
            np.testing.assert_array_equal(y, right)


def windows_beyond():
    """There is no origin to be wrong; a window of lags is cut as a slice is."""
    x, k = np.arange(30.0).reshape(5, 6), np.ones((2, 3))
    full = fastcorr.correlate2d(x, k)
    for a, b in itertools.product([None, -(2**70), -9, -3, 0, 2, 7, 2**70], repeat=2):
        lags = slice(a, b), slice(b, a)
        np.testing.assert_array_equal(fastcorr.correlate2d(x, k, lags=lags), full[lags])


def zero_kernels():
    for shape, method in itertools.product(((1, 1), (3, 3), (31, 31)), hostile.METHODS[1:]):
        y = fastcorr.correlate2d(np.ones((40, 40)), np.zeros(shape), method=method)
        assert not y.any()
        assert not np.signbit(y).any()


def one_element_axes():
    for function, mode in itertools.product(("correlate2d", "convolve2d"), ("full", "same")):
        for shapes in (((1, 9), (5, 21)), ((7, 1), (16, 3)), ((1, 1), (9, 9))):
            as_defined(function, *shapes, mode, "mirror")


def errors_again_and_again():
    strange = np.zeros((3, 3), object), np.zeros((3, 3), "U1"), np.zeros((3, 3), "V3")
    for a in (*strange, np.zeros((0, 0)), np.zeros((0, 3))) * 50:
        refused(ValueError, fastcorr.correlate2d, a, np.ones((2, 2)), "valid")
        refused(ValueError, fastcorr.convolve2d, np.ones((2, 2)), a, "valid")


def byte_order():
    for dtype in ("f4", "f8", "c16", "i2", "u8"):
        x = np.arange(30).reshape(5, 6).astype(dtype)
        y = fastcorr.correlate2d(x.astype(f">{dtype}"), x[:2].astype(f">{dtype}"))
        assert y.dtype.isnative
        np.testing.assert_array_equal(y, fastcorr.correlate2d(x, x[:2]), strict=True)


def zeros_where_steps_belong():
    for wrong in ({"stride": 0}, {"dilation": 0}, {"groups": 0}, {"stride": (1, 0)}):
        refused(ValueError, fastcorr.conv2d, X4, W4, **wrong)
        refused(ValueError, fastcorr.conv_transpose2d, X4, W4, **wrong)
        dy = np.ones((1, 1, 3, 3))
        refused(ValueError, fastcorr.conv2d_backward, dy, X4, W4, **wrong)


def wrong_ranks():
    for weight in (W4[0], W4[0, 0], W4[None], np.ones(3), np.ones(())):
        refused(ValueError, fastcorr.conv2d, X4, weight)
    for empty in ((), [], (1,), (1, 1, 1)):
        refused(ValueError, fastcorr.conv2d, X4, W4, stride=empty)
        refused(ValueError, fastcorr.conv2d, X4, W4, dilation=empty)


def sizes_of_32_bits():
    for far in (2**31 - 1, 2**31, 2**32):
        y = fastcorr.conv2d(X4, W4[..., 1:, 1:], stride=far, padding=far)
        assert y.tolist() == [[[[0, 0, 0], [0, 4, 0], [0, 0, 0]]]]
    refused((ValueError, MemoryError), fastcorr.conv2d, X4, W4, padding=2**31 - 1)
    many = np.broadcast_to(np.float32(1), (2**31 + 2, 1, 1, 1))
    x = np.broadcast_to(np.float32(1), (1, 1, 2**31 + 2, 1))
    assert fastcorr.conv2d(x, np.ones((1, 1, 1, 1), "f"), stride=2**31 + 1).size == 2
    assert fastcorr.conv2d_output_shape(many.shape, 1, 1) == many.shape


def transposed_images():
    x = cases.integers(np.random.default_rng(0), (2, 3, 9, 8), "f")
    weight = cases.integers(np.random.default_rng(1), (4, 3, 3, 2), "f")
    y = fastcorr.conv2d(x.swapaxes(2, 3), weight)
    assert y.tobytes() == fastcorr.conv2d(x.swapaxes(2, 3).copy(), weight).tobytes()


def regions():
    """Neither read nor written beyond: NaN around the image, marks around the result."""
    k = np.ones((15, 13))
    for function in (fastcorr.correlate2d, fastcorr.convolve2d):
        around, marks = np.full((60, 70), math.nan), np.full((60, 70), 7.5)
        x, out = around[10:40, 20:50], marks[9:39, 5:35]
        x[...] = cases.integers(np.random.default_rng(0), x.shape, "d")
        right = function(x.copy(), k, "same")
        assert function(x, k, "same", out=out) is out
        np.testing.assert_array_equal(out, right)
        out[...] = 7.5
        assert (marks == 7.5).all()


def larger_templates():
    x, k = np.ones((10, 10)), np.ones((11, 9))
    refused(ValueError, fastcorr.correlate2d, x, k, "valid")
    refused(ValueError, fastcorr.corr2d, x, k)
    refused(ValueError, fastcorr.conv2d, x[None], k[None, None])


def far_rows():
    """Rows that lie 2**30 bytes apart; kernels of more taps than a byte counts."""
    as_defined("correlate2d", (3, 4), (9, 9), "same", "mirror", "B")
    memory = np.frombuffer(mmap.mmap(-1, 3 << 30), np.uint8)
    x = np.lib.stride_tricks.as_strided(memory, (3, 5), (1 << 30, 1))
    x[...] = np.arange(15).reshape(3, 5)
    np.testing.assert_array_equal(
        fastcorr.correlate2d(x, np.ones((2, 2), "B"), "valid"),
        fastcorr.correlate2d(x.copy(), np.ones((2, 2), "B"), "valid"),
    )
    y = fastcorr.correlate2d(
        np.full((40, 40), 255, "B"), np.ones((17, 17), "B"), "valid", dtype="i"
    )
    assert (y == 255 * 289).all()


BUGS = {
    "a SIGFPE of scipy 1.17.1: an empty axis": empty_axis,
    "scipy#8684": lambda: [as_defined("convolve2d", (1, 1), (4, 4), "same", rule)
                           for rule in ("symm", "wrap")],
    "scipy#8814": long_kernel,
    "scipy#12686": lambda: [as_defined("convolve2d", (10, 3), (10, 10), "same", "wrap"),
                            as_defined("convolve2d", (3, 3), (6, 6), "full", "wrap")],
    "scipy#12685": swapped_operands,
    # scipy#10761 is test_more_than_32_bits; scipy#4944 is for the sanitizers.
    "scipy#8757, scipy#6076": overflow, "scipy#7217": integers_by_transforms,
    "scipy#10390": many_bits, "scipy#12691, scipy#24681": separable_filters,
    "scipy#24204": lambda: refused(ValueError, fastcorr.convolve2d, *[np.ones((2, 2), "e")] * 2),
    "scipy#822, scipy#22533": windows_beyond, "scipy#6876, scipy#7202, scipy#5937": zero_kernels,
    "scipy#22250, scipy#22325, scipy#23075": one_element_axes,
    "scipy#25849, numpy#7625, numpy#14829": errors_again_and_again, "scipy#413": byte_order,
    "pytorch#27598, pytorch#73193, pytorch#169255": zeros_where_steps_belong,
    "pytorch#3039, pytorch#121095": wrong_ranks,
    "pytorch#84488, pytorch#56922, mlx#4258": sizes_of_32_bits,
    "pytorch#120547": transposed_images, "opencv#13179": regions, "opencv#1080": larger_templates,
    "opencv#25498, opencv#28385, opencv#26407": far_rows,
    "oneDNN 982, 1074, 796": lambda: [
        layer_as_defined((2, 3), (2, 2), (5, 4), 7), layer_as_defined((3, 2), (1, 1), 4, 0),
        layer_as_defined((6, 5), (3, 2), (1, 2), ((4, 0), (1, 5)), (2, 1)),
    ],
    # scikit-learn#21654 is test_mapped_files.
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_bugs_of_others(bug):
    BUGS[bug]()


@pytest.mark.nightly
def test_more_than_32_bits():
    """scipy#10761: an image of more than 2**31 bytes."""
    with open("/proc/meminfo") as file:
        free = next(int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    if free < 6 << 20:
        pytest.skip("needs 6 GB")
    x = np.zeros((2**15 + 1, 2**16), np.uint8)
    marks = [(0, 0), (7, 65535), (2**15, 3), (2**15, 65535), (20000, 40000)]
    for at in marks:
        x[at] = 3
    y = fastcorr.correlate2d(x, np.array([[1, 1]], np.uint8), "same")
    assert y.shape == x.shape
    assert np.count_nonzero(y) == sum(1 + (column > 0) for _, column in marks)
    assert all(y[at] == 3 for at in marks)


# ---------------------------------------------------------------- values of no end, or no repr

ENDLESS = {
    "axes": lambda v: fastcorr.correlate2d(x, k, axes=v),
    "needs": lambda v: fastcorr.correlate2d_vjp(x, x, k, "same", needs=v),
    "needs of conv2d": lambda v: fastcorr.conv2d_backward(xx, xx, kk, padding=(0, 0), needs=v),
    "shape": lambda v: fastcorr.plan_correlate2d(k, shape=v),
    "input_shape": lambda v: fastcorr.conv2d_output_shape(v, 1, 1),
    "layers": lambda v: fastcorr.receptive_field(v),
    "padding": lambda v: fastcorr.receptive_field([{"kernel_size": 3, "padding": v}]),
    "kernel_size": lambda v: fastcorr.receptive_field([{"kernel_size": v}]),
    "position": lambda v: fastcorr.receptive_field_mask([nn.ReLU()], (5, 6), v),
    "params": lambda v: optim.SGD(v, lr=0.1),
    "beta": lambda v: optim.Adam([nn.Parameter(np.ones(2))], betas=v),
    "stride": lambda v: nn.Conv2d(1, 1, 3, stride=v),
    "padding of a layer": lambda v: nn.Conv2d(1, 1, 3, padding=v),
}
x, k = np.ones((4, 5)), np.ones((2, 2))
xx, kk = np.ones((1, 1, 4, 5)), np.ones((1, 1, 1, 1))


class Unshowable:
    def __repr__(self):
        raise OSError("no repr")


def _deep():
    value = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize("name", ENDLESS)
def test_what_has_no_end_is_refused(name):
    word = name.split()[0]
    repeated = itertools.repeat("x" if word == "needs" else {"kernel_size": 1})
    for value in (itertools.count(1), range(10**10), repeated, itertools.repeat((1, 1))):
        with pytest.raises((ValueError, TypeError), match=word) as caught:
            ENDLESS[name](value)
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ENDLESS)
@pytest.mark.parametrize(
    "value", [memoryview(np.ones((2, 3))), Unshowable(), [Unshowable()] * 2, "x" * 100_000],
    ids=["memoryview", "unshowable", "unshowables", "long"],
)  # fmt: skip
def test_what_cannot_be_shown_is_refused_by_name(name, value):
    with pytest.raises((ValueError, TypeError), match=name.split()[0]) as caught:
        ENDLESS[name](value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["mode", "boundary", "axes", "lags", "method", "workers", "dtype"])
@pytest.mark.parametrize(
    "value", [_deep(), Unshowable(), "x" * 100_000, 10**5000, memoryview(bytearray(b"valid"))],
    ids=["deep", "unshowable", "long", "large", "memoryview"],
)  # fmt: skip
def test_messages_are_short_and_name_the_argument(name, value):
    if name == "workers" and isinstance(value, int):
        np.testing.assert_array_equal(
            fastcorr.correlate2d(x, k, workers=value), fastcorr.correlate2d(x, k)
        )
        return
    with pytest.raises((ValueError, TypeError), match=name) as caught:
        fastcorr.correlate2d(x, k, **{name: value})
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["epochs", "batch_size", "rng", "callback", "loss", "optimizer"])
@pytest.mark.parametrize("value", [_deep(), Unshowable(), "x" * 100_000, memoryview(b"1")])
def test_messages_of_fit_are_short_and_name_the_argument(name, value):
    model = nn.Conv2d(1, 1, 1)
    given = {"optimizer": optim.SGD(model.parameters(), lr=0.1), "loss": nn.mse_loss}
    with pytest.raises((ValueError, TypeError), match=name) as caught:
        nn.fit(model, xx, xx, **{**given, "epochs": 1, "batch_size": 2, name: value})
    assert len(str(caught.value)) < 500


def test_plans_name_the_kernel_whose_type_is_wrong():
    for make in (fastcorr.plan_correlate2d, fastcorr.plan_convolve2d):
        with pytest.raises(ValueError, match=r"not available for this type: k is object"):
            make(k.astype(object), shape=(4, 5))


def test_weights_and_logits_of_no_memory_are_refused_by_name():
    for layer in (nn.Conv2d, nn.ConvTranspose2d):
        with pytest.raises(ValueError, match="kernel_size"):
            layer(1, 1, 2**31)
    with pytest.raises(ValueError, match="logits"):
        nn.cross_entropy(np.broadcast_to(np.int8(1), (2**62, 1)), np.zeros(3, int))


@pytest.mark.filterwarnings("error")
def test_tuples_are_no_dtypes():
    for call in (
        lambda: fastcorr.correlate2d(x, k, dtype=("a", "b")),
        lambda: fastcorr.choose_method(x, k, dtype=("a", "b")),
        lambda: fastcorr.plan_correlate2d(k, shape=(4, 5), dtype=("a", "b")),
        lambda: nn.Conv2d(1, 1, 3, dtype=("a", "b")),
    ):
        with pytest.raises(TypeError, match="dtype"):
            call()
