"""Arrays for the tests: every number type, every layout, integer values."""

import sysconfig

import numpy as np

NO_GIL = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
# Every type that takes part in a correlation SciPy can do.
DTYPES = "?bBhHiIlLefdgFDG"
# Types that hold gradients.
FLOATS = "fdgFDG"


def integers(rng, shape, dtype, wide=False, top=9):
    """Random integers of magnitudes up to top; wide: of the whole range of the type."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(dtype)
    if wide:
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    if dtype.kind in "iu":
        top = min(top, np.iinfo(dtype).max)
    elif dtype.char == "e":
        top = min(top, 2**11)
    values = rng.integers(0 if dtype.kind == "u" else -top, top + 1, shape)
    if dtype.kind == "c":
        values = values + 1j * rng.integers(-top, top + 1, shape)
    return values.astype(dtype)


def operands(rng, x_shape, k_shape, x_type, k_type):
    """An image and a kernel: integers of the whole range where the result wraps around."""
    wide = np.result_type(np.dtype(x_type), np.dtype(k_type)).kind in "iu"
    return tuple(integers(rng, s, t, wide) for s, t in ((x_shape, x_type), (k_shape, k_type)))


def reals(rng, shape, dtype, decades=0):
    """Random normal numbers, spread over 10**-decades … 10**decades."""
    dtype = np.dtype(dtype)
    values = rng.standard_normal(shape) * 10.0 ** rng.uniform(-decades, decades, shape)
    if dtype.kind == "c":
        values = values + 1j * reals(rng, shape, "d", decades)
    return values.astype(dtype)


def hard_reals(rng, shapes, dtype):
    """Arrays of real numbers by which any other order of a sum shows: one of three kinds.

    Normal numbers; numbers over sixty decades (in all but the first array fewer, for the range of
    single precision); and subnormal numbers times normal ones.
    """
    kind = rng.integers(3)
    every = [reals(rng, shape, dtype, (0, 3, 1)[kind]) for shape in shapes]
    if kind == 1:
        every[0] = reals(rng, shapes[0], dtype, 30)
    elif kind == 2:
        every[0] *= np.finfo(dtype).tiny / 16
    return every


def bits(a):
    """The bits of the values; the padding of long doubles is left out."""
    a = np.array(a, a.dtype.newbyteorder("="), order="C")
    if a.dtype.char in "gG" and np.finfo(a.dtype).nmant == 63:
        return a.view(np.uint8).reshape(-1, a.real.dtype.itemsize)[:, :10].tobytes()
    return a.tobytes()


def _within(a, index, grow):
    """a as a part of a larger array of other values."""
    big = np.full([m * n + 2 for m, n in zip(grow, a.shape[-2:], strict=True)], 77).astype(a.dtype)
    big[index][: a.shape[0], : a.shape[1]] = a
    return big[index][: a.shape[0], : a.shape[1]]


def _unaligned(a):
    raw = np.zeros(a.nbytes + 1, np.uint8)[1:]
    b = raw.view(a.dtype).reshape(a.shape)
    b[...] = a
    return b


def _readonly(a):
    b = a.copy()
    b.flags.writeable = False
    return b


# Name -> the same values, 2-D, in another layout.
LAYOUTS = {
    "C": lambda a: np.array(a, order="C"),
    "F": lambda a: np.array(a, order="F"),
    "upside down": lambda a: a[::-1].copy()[::-1],
    "reversed": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "strided": lambda a: _within(a, np.s_[1::2, 1::3], (2, 3)),
    "window": lambda a: _within(a, np.s_[1:, 1:], (1, 1)),
    "F window": lambda a: _within(a.T, np.s_[1:, 1:], (1, 1)).T,
    "byteswapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "unaligned": _unaligned,
    "read-only": _readonly,
}
