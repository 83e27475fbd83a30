"""The SciPy face: `correlate2d`, `convolve2d`, the bare `corr2d`, and their gradients.

Every call goes one way: shapes, types and names are checked and become a geometry (`_Geometry`,
kept for the next call), in it the mode an output window over the continued image
(`_boundary.window`); the kernel becomes an operator of `_engine`, which is applied once for all
planes.  A plan keeps its operator, a call makes one.  A gradient is the adjoint of the same steps
in reverse.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, SupportsIndex, overload

import numpy as np
import numpy.typing as npt

from fastcorr import _engine
from fastcorr._arguments import listed, needed, shown
from fastcorr._boundary import CODES, check_boundary, check_mode, window
from fastcorr._dispatch import kernels
from fastcorr._plan import check_method, choose_workers

Array = npt.NDArray[Any]
DType = np.dtype[Any]
Lags = tuple[tuple[int | None, int | None], tuple[int | None, int | None]]

# ---------------------------------------------------------------- operands


def _masked(value: object, depth: int = 64) -> bool:
    """Whether it is an array with masked elements, or has one among its rows, or theirs."""
    ma = sys.modules.get("numpy.ma")  # what nobody has loaded has masked nothing
    if not ma:
        return False
    if isinstance(value, (list, tuple)):
        kinds = set(map(type, value))  # of numbers one, however many they are
        nested = any(issubclass(kind, (list, tuple, ma.MaskedArray)) for kind in kinds)
        return nested and depth > 0 and any(_masked(row, depth - 1) for row in value)
    return isinstance(value, ma.MaskedArray) and bool(ma.is_masked(value))


def _asarray(value: npt.ArrayLike, name: str) -> Array:
    if type(value) is np.ndarray:
        return value
    if _masked(value):
        raise TypeError(
            f"{name} is a masked array with masked elements, and its mask would be lost; pass "
            f"{name}.filled(value) to fill them, or {name}.data to use what lies under the mask"
        )
    try:
        return np.asarray(value)
    except ValueError as error:  # rows of different lengths, say
        raise ValueError(f"{name} must be an array: {error}") from None


def check_out(out: object) -> Array:
    """An array to write the result into, of whatever shape and type."""
    if type(out) is np.ndarray:
        return out
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a NumPy array, got {type(out).__name__}")
    if _masked(out):
        raise TypeError("out is a masked array with masked elements, which would hide the result")
    return out


# No machine has memory for more, so an array of more is a view that repeats a few: to go through
# it would take years.
_MOST = 1 << 48


# NumPy counts the bytes of an empty array without its empty axes, in 64 bits.
_MOST_OF_NOTHING = (2**63 - 1) // 8
# NumPy's functions that broadcast take so many axes; two more are correlated.
_MOST_AXES = 34


def check_size(name: str, shape: tuple[int, ...]) -> None:
    """Refuse an operand or a result that no memory holds."""
    if math.prod(shape) > _MOST:
        raise ValueError(f"{name} of shape {shown(shape)} is too large: more than 2**48 elements")
    if math.prod(n for n in shape if n) > _MOST_OF_NOTHING:
        raise ValueError(f"{name} of shape {shown(shape)} is too large, though it is empty")


def overlaps_itself(a: Array) -> bool:
    """Whether two elements of an array share memory."""
    if a.flags.c_contiguous:
        return False
    axes = sorted((abs(step), n) for step, n in zip(a.strides, a.shape, strict=True) if n != 1)
    reach, nested = a.itemsize, True
    for step, n in axes:
        nested = nested and step >= reach
        reach += step * (n - 1)
    if nested or a.size == 0:
        return False
    if axes[0][0] == 0 or a.nbytes > reach:
        return True
    # Axes that interleave, as only `as_strided` makes them.
    offsets = np.zeros(1, np.intp)
    for step, n in axes:
        offsets = np.add.outer(offsets, np.arange(n) * step).ravel()
    return bool((np.diff(np.sort(offsets)) < a.itemsize).any())


def _supported(dtype: DType) -> bool:
    # Numbers below 24 are NumPy's own types: others may look like them without being them.
    return dtype.num < 24 and dtype.kind in "iufc" and dtype.char != "e"


def _check_number(function: str, name: str, dtype: DType) -> None:
    if dtype.num >= 24 or dtype.kind not in "biufc":
        raise ValueError(f"{function} not available for this type: {name} is {dtype}")


def _result_dtype(function: str, dtype1: DType, dtype2: DType, asked: DType | None) -> DType:
    """SciPy's result type, or the one that dtype= or out= asks for."""
    natural = np.result_type(dtype1, dtype2)
    name1, name2 = _names(function)
    if asked is None:
        if not _supported(natural):
            raise ValueError(
                f"{function} not available for this type: {name1} of {dtype1} with {name2} of "
                f"{dtype2} gives {natural}"
                + ("; ask for another result with dtype=" if function != "corr2d" else "")
            )
        return natural
    if not _supported(asked):
        raise ValueError(
            f"{function} not available for this type: a result of dtype {asked} (of dtype= or out=)"
        )
    asked = asked.newbyteorder("=")
    if not np.can_cast(natural, asked, "same_kind"):
        raise TypeError(
            f"dtype {asked} (of dtype= or out=) cannot hold the result of {dtype1} with {dtype2}"
        )
    return asked


def _dtype(dtype: npt.DTypeLike) -> DType:
    try:
        if not isinstance(dtype, tuple):  # of which NumPy warns before it refuses them
            return np.dtype(dtype)
    except Exception:  # NumPy's message may fail, too
        pass
    raise TypeError(f"dtype must be a type of numbers, got {shown(dtype)}")


def _fill_element(fillvalue: npt.ArrayLike, dtype: DType) -> Array:
    """The fill value as an array of one element of dtype, or the error that SciPy gives."""
    value = _asarray(fillvalue, "fillvalue")
    if value.size == 0:
        raise ValueError("`fillvalue` cannot be an empty array.")
    if value.size != 1:
        raise ValueError(
            f"`fillvalue` must be scalar or an array with one element; got shape {value.shape}"
        )
    value = value.reshape(1)
    if value.dtype.kind not in "biufc":  # None, text, integers beyond 64 bits, …
        item = value[0]
        if item is None:
            value = np.array([math.nan])
        elif not isinstance(item, int) or dtype.kind not in "iu":
            try:
                value = np.array([float(item)])
            except OverflowError:
                raise ValueError(
                    "could not cast `fillvalue` directly to the output type: a number beyond all "
                    f"floats, the output {dtype}"
                ) from None
            except (TypeError, ValueError):
                try:
                    value = np.array([complex(item)])
                except (TypeError, ValueError) as error:
                    raise type(error)(
                        f"`fillvalue` must be a number, got {shown(fillvalue)}"
                    ) from None
    if dtype.kind != "c" and value.dtype.kind == "c":
        raise ValueError(
            f"could not cast `fillvalue` directly to the output type: {shown(fillvalue)} is "
            f"complex, the output {dtype}"
        )
    if dtype.kind not in "iu":
        with np.errstate(all="ignore"):
            return value.astype(dtype)
    item = value[0]
    info = np.iinfo(dtype)
    if not (isinstance(item, int) or np.isfinite(item)) or not info.min <= int(item) <= info.max:
        raise ValueError(
            f"could not cast `fillvalue` directly to the output type: {shown(fillvalue)} is not "
            f"between {info.min} and {info.max}, the limits of {dtype}"
        )
    return np.array([int(item)], dtype)


def _axes_pair(axes: tuple[int, ...], ndim: int, name: str) -> tuple[int, int]:
    if len(axes) != 2:
        raise ValueError(f"axes must be a pair of integers, got {shown(axes)}")
    if ndim < 2:
        raise ValueError(f"{name} must have at least two dimensions, got {ndim}")
    for a in axes:
        if not -ndim <= a < ndim:
            raise ValueError(
                f"axes={shown(axes)}: {name} has no axis {shown(a)}, it has {ndim} dimensions"
            )
    first, second = (a % ndim for a in axes)
    if first == second:
        raise ValueError(f"axes={axes!r} are the same axis of {name}")
    return first, second


# ---------------------------------------------------------------- what shapes and types decide


class _Geometry:
    """All of a call that does not depend on the arrays' contents: made once, kept.

    The operands become an image x and a kernel k with the correlated axes last.  In 'valid'
    mode they may change places; then, for correlation, both are reversed and the result is
    conjugated, so that always  y = x correlated with k  (conjugated where `y_conj`).
    """

    def __init__(
        self,
        function: str,
        shape1: tuple[int, ...],
        dtype1: DType,
        shape2: tuple[int, ...],
        dtype2: DType,
        mode: str,
        boundary: str | tuple[str, str],
        axes: tuple[int, ...] | None,
        dtype: DType | None,
        lags: Lags | None,
        method: str,
    ) -> None:
        name1, name2 = _names(function)
        shapes = f"{name1} has shape {shape1}, {name2} has shape {shape2}"
        self.axes: tuple[tuple[int, int], ...] | None = None  # of in1, in2 and the result
        self.batch1: tuple[int, ...] = ()
        self.batch2: tuple[int, ...] = ()
        if axes is not None:
            ndim1, ndim2 = len(shape1), len(shape2)
            self.axes = (
                _axes_pair(axes, ndim1, name1),
                _axes_pair(axes, ndim2, name2),
                _axes_pair(axes, max(ndim1, ndim2), "the result"),
            )
            if max(ndim1, ndim2) > _MOST_AXES:
                raise ValueError(
                    f"{name1} and {name2} may have at most {_MOST_AXES} axes; {shapes}"
                )
            self.batch1, core1 = _split(shape1, self.axes[0])
            self.batch2, core2 = _split(shape2, self.axes[1])
        elif len(shape1) == len(shape2) == 2:
            core1, core2 = (shape1[0], shape1[1]), (shape2[0], shape2[1])
        else:
            raise ValueError(f"{function} inputs must both be 2-D arrays; {shapes}")
        check_size(name1, shape1)
        check_size(name2, shape2)
        check_mode(mode)
        self.bounds = check_boundary(boundary)
        _check_number(function, name1, dtype1)
        _check_number(function, name2, dtype2)
        self.dtype = _result_dtype(function, dtype1, dtype2, dtype)
        try:
            batch = np.broadcast_shapes(self.batch1, self.batch2)
        except ValueError:
            raise ValueError(f"axes={axes}: the other axes do not broadcast; {shapes}") from None

        swapped = False
        if mode == "valid":
            if 0 in core1 or 0 in core2:
                raise ValueError(f"For 'valid' mode, neither input may be empty; {shapes}")
            swapped = core1[0] < core2[0] or core1[1] < core2[1]
            if swapped and function == "corr2d":
                raise ValueError(f"k must not be larger than x in any dimension; {shapes}")
            if swapped and (core1[0] > core2[0] or core1[1] > core2[1]):
                raise ValueError(
                    "For 'valid' mode, one must be at least as large as the other in every "
                    f"dimension; {shapes}"
                )
        convolve = function.endswith("convolve2d")
        self.swapped = swapped
        self.x_flip = swapped and not convolve
        self.k_flip = swapped or convolve
        self.k_conj = self.dtype.kind == "c" and function.endswith("correlate2d")
        self.y_conj = self.k_conj and swapped
        x, k = (core2, core1) if swapped else (core1, core2)
        self.offset, core = window(mode, x, k, convolve)
        if core[0] < 0 or core[1] < 0:
            raise ValueError(f"negative dimensions are not allowed; {shapes}")
        if lags is not None:
            ranges = [range(n)[slice(*lag)] for n, lag in zip(core, lags, strict=True)]
            self.offset = (self.offset[0] + ranges[0].start, self.offset[1] + ranges[1].start)
            core = (len(ranges[0]), len(ranges[1]))
        self.shape = (*batch, *core)
        check_size("the result", self.shape)
        self.out_shape = self.shape if self.axes is None else _join(batch, core, self.axes[2])
        for n, bound in zip(x, self.bounds, strict=True):
            if n == 0 and bound != "fill" and 0 not in core:
                raise ValueError(f"boundary={bound!r} cannot continue an empty axis; {shapes}")
        self.codes = CODES[self.bounds[0]], CODES[self.bounds[1]]
        self.module, self.lanes = kernels(self.dtype)
        self.zero = np.zeros(1, self.lanes)
        self.k_ready = (  # in2 is the kernel as it is applied, if laid out so too
            self.axes is None and not self.k_flip and not self.k_conj and dtype2 == self.lanes
        )
        batches = (self.batch2, self.batch1) if swapped else (self.batch1, self.batch2)
        self.x_shape, self.k_shape = (*batches[0], *x), (*batches[1], *k)
        self.useful_workers = _engine.useful_workers(self.lanes, self.k_shape, self.shape, method)
        self.method = method
        self.run, self.direct = _engine.runner(
            self.module, self.lanes, self.k_shape, self.shape,
            self.offset, self.codes, method,
        )  # fmt: skip

    def operands(self, in1: Array, in2: Array) -> tuple[Array, Array]:
        """x as the kernels read it and k as they apply it."""
        if self.k_ready and in2.flags.carray:
            return in1, in2
        x, k = (in2, in1) if self.swapped else (in1, in2)
        return self.image(x), self.kernel(k)

    def image(self, x: Array) -> Array:
        """A view of the operand that is the image."""
        x = self.core(x, 1 if self.swapped else 0)
        return x[..., ::-1, ::-1] if self.x_flip else x

    def kernel(self, k: Array) -> Array:
        """A copy of the operand that is the kernel."""
        k = self.core(k, 0 if self.swapped else 1)
        if self.k_flip:
            k = k[..., ::-1, ::-1]
        if k.dtype.kind in "fc" and k.dtype != self.lanes:
            with np.errstate(all="ignore"):  # silent as the kernels are
                k = k.astype(self.lanes, "C")
        else:
            k = k.astype(self.lanes, "C")
        return np.conjugate(k, out=k) if self.k_conj else k

    def fill(self, fillvalue: npt.ArrayLike) -> Array:
        """The fill value as the kernels take it."""
        if (type(fillvalue) is int and fillvalue == 0) or "fill" not in self.bounds:
            return self.zero
        return _fill_element(fillvalue, self.dtype).astype(self.lanes)

    def core(self, a: Array, which: int) -> Array:
        """A view of in1 (0), in2 (1) or the result (2) with the correlated axes last."""
        return a if self.axes is None else np.moveaxis(a, self.axes[which], (-2, -1))

    def natural(self, a: Array, which: int) -> Array:
        """The reverse of `core`."""
        return a if self.axes is None else np.moveaxis(a, (-2, -1), self.axes[which])


# Geometries by what they are made of.  More than this and the memory is worth more than the time.
_KEPT = 1024
_geometries: dict[tuple[object, ...], _Geometry] = {}


def _geometry(
    function: str,
    shape1: tuple[int, ...],
    dtype1: DType,
    shape2: tuple[int, ...],
    dtype2: DType,
    mode: object,
    boundary: object,
    axes: object,
    dtype: DType | None,
    lags: object,
    method: object,
) -> _Geometry:
    if axes is not None:
        axes = _integers(axes)
    if lags is not None:
        lags = _ranges(lags)
    if type(mode) is not str:
        _hashable(mode, "mode must be 'full', 'same' or 'valid'")
    if type(boundary) is not str:
        boundary = tuple(boundary) if type(boundary) is list else boundary
        _hashable(boundary, "boundary must be a name or a pair of names")
    if type(method) is not str:
        method = check_method(method)
    key = (function, shape1, dtype1, shape2, dtype2, mode, boundary, axes, dtype, lags, method)
    try:
        return _geometries[key]
    except KeyError:
        pass
    check_method(method)
    made = _Geometry(*key)  # type: ignore[arg-type]
    if len(_geometries) >= _KEPT:
        _geometries.clear()
    _geometries[key] = made
    return made


def _integers(axes: object) -> tuple[int, ...]:
    try:
        return tuple(operator.index(a) for a in listed(axes, 2))
    except TypeError:
        raise TypeError(f"axes must be a pair of integers or None, got {shown(axes)}") from None


def _hashable(value: object, must_be: str) -> None:
    """Refuse what can be no name: TypeError, as in SciPy."""
    try:
        hash(value)
    except (TypeError, ValueError):
        raise TypeError(f"{must_be}, got {shown(value)}") from None


def _ranges(lags: object) -> Lags:
    """The bounds of a pair of slices."""
    if not isinstance(lags, (tuple, list)) or not all(isinstance(lag, slice) for lag in lags):
        raise TypeError(f"lags must be a pair of slices or None, got {shown(lags)}")
    if len(lags) != 2:
        raise ValueError(f"lags must be a pair of slices, got {shown(lags)}")
    bounds = []
    for lag in lags:
        try:
            start, stop, step = (
                None if n is None else operator.index(n) for n in (lag.start, lag.stop, lag.step)
            )
        except TypeError:
            raise TypeError(f"lags must be slices of integers, got {shown(lag)}") from None
        if step not in (None, 1):
            raise ValueError(f"lags must be slices of step 1, got {shown(lag)}")
        bounds.append((start, stop))
    return bounds[0], bounds[1]


def _names(function: str) -> tuple[str, str]:
    return ("in1", "in2") if function in ("correlate2d", "convolve2d") else ("x", "k")


def _split(
    shape: tuple[int, ...], axes: tuple[int, int]
) -> tuple[tuple[int, ...], tuple[int, int]]:
    """A shape without two axes, and those two."""
    rest = tuple(n for axis, n in enumerate(shape) if axis not in axes)
    return rest, (shape[axes[0]], shape[axes[1]])


def _join(rest: tuple[int, ...], core: tuple[int, int], axes: tuple[int, int]) -> tuple[int, ...]:
    """The shape of which `_split` gives these parts."""
    shape = list(rest)
    for axis, n in sorted(zip(axes, core, strict=True)):
        shape.insert(axis, n)
    return tuple(shape)


# ---------------------------------------------------------------- calls


def _call(
    function: str,
    in1: npt.ArrayLike,
    in2: npt.ArrayLike,
    mode: object,
    boundary: object,
    fillvalue: npt.ArrayLike,
    axes: object,
    out: Array | None,
    dtype: npt.DTypeLike | None,
    lags: object,
    method: object,
    workers: object,
) -> Array:
    a = in1 if type(in1) is np.ndarray else _asarray(in1, _names(function)[0])
    b = in2 if type(in2) is np.ndarray else _asarray(in2, _names(function)[1])
    asked = None if out is None and dtype is None else _asked(dtype, out)
    geometry = _geometry(
        function, a.shape, a.dtype, b.shape, b.dtype, mode, boundary, axes, asked, lags, method
    )
    n = choose_workers(workers, geometry.useful_workers)
    fill = geometry.fill(fillvalue)
    x, k = geometry.operands(a, b)
    if out is None:
        return _result(geometry, geometry.run, x, k, fill, n)
    return _result_into(out, geometry, geometry.run, x, k, fill, n)


def _asked(dtype: npt.DTypeLike | None, out: object) -> DType | None:
    """The result type that dtype= and out= ask for."""
    asked: DType | None = None if dtype is None else _dtype(dtype)
    if out is None:
        return asked
    result: DType = check_out(out).dtype
    if asked is not None and not np.can_cast(result, asked, "equiv"):
        raise TypeError(f"out has dtype {result}, but dtype={asked} was asked for")
    return result


def _result(
    geometry: _Geometry, run: _engine.Run, x: Array, k: Array, fill: Array, workers: int
) -> Array:
    y = np.empty(geometry.shape, geometry.dtype)
    run(x, k, y, fill, workers)
    if geometry.y_conj:
        np.conjugate(y, out=y)
    return y if geometry.axes is None else geometry.natural(y, 2)


# Elements that are copied between looks for Ctrl-C.
_COPIED = 1 << 22


def put(out: Array, y: Array) -> None:
    """out[...] = y, in parts: Python looks for Ctrl-C between them."""
    if out.size <= _COPIED:
        out[...] = y
        return
    axis = out.shape.index(max(out.shape))
    to, of = np.moveaxis(out, axis, 0), np.moveaxis(y, axis, 0)
    step = max(1, _COPIED * len(to) // out.size)
    for i in range(0, len(to), step):
        to[i : i + step] = of[i : i + step]


def _result_into(
    out: Array, geometry: _Geometry, run: _engine.Run, x: Array, k: Array, fill: Array, workers: int
) -> Array:
    if out.shape != geometry.out_shape:
        raise ValueError(f"out must have shape {geometry.out_shape}, got {out.shape}")
    flags = out.flags
    if not flags.writeable:
        raise ValueError("out is read-only")
    if not flags.c_contiguous and overlaps_itself(out):
        raise ValueError(f"out must not overlap itself, got strides {out.strides}")
    # What an array owns it shares with its views alone; asking NumPy takes ten times longer.
    if flags.owndata and x.flags.owndata and k.flags.owndata:
        shared = out is x or out is k
    else:
        shared = np.may_share_memory(out, x) or np.may_share_memory(out, k)
    if shared or not flags.aligned or not out.dtype.isnative:
        put(out, _result(geometry, run, x, k, fill, workers))
        return out
    y = out if geometry.axes is None else geometry.core(out, 2)
    run(x, k, y, fill, workers)
    if geometry.y_conj:
        np.conjugate(y, out=y)
    return out


# ---------------------------------------------------------------- plans


class CorrelationPlan:
    """A correlation or convolution with one kernel, made ready for images of one shape.

    Made by `plan_correlate2d` and `plan_convolve2d`; they describe it.

    Attributes
    ----------
    shape, out_shape : tuple of int
        Of the images, and of the results.
    dtype : dtype
        Of the results.
    method : str
        The method that was chosen for the kernel.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr import plan_correlate2d
    >>> plan = plan_correlate2d(np.ones((3, 3)), shape=(6, 8), mode="valid")
    >>> plan.out_shape, plan.method
    ((4, 6), 'direct')
    """

    __slots__ = (
        "_arguments", "_dtypes", "_fill", "_function", "_geometry", "_k", "_k_dtype", "_run",
        "_workers", "_x", "dtype", "method", "out_shape", "shape",
    )  # fmt: skip

    def __init__(
        self,
        function: str,
        k: npt.ArrayLike,
        shape: Sequence[int],
        mode: str,
        boundary: str | Sequence[str],
        fillvalue: npt.ArrayLike,
        axes: Sequence[int] | None,
        dtype: npt.DTypeLike | None,
        lags: Sequence[slice] | None,
        method: str,
        workers: SupportsIndex | None,
    ) -> None:
        kernel = _asarray(k, "k").copy()
        _check_number(function, "k", kernel.dtype)
        try:
            self.shape = tuple(operator.index(n) for n in listed(shape, 64))
        except TypeError:
            raise TypeError(f"shape must be a sequence of integers, got {shown(shape)}") from None
        if any(n < 0 for n in self.shape):
            raise ValueError(f"shape must not be negative, got {shown(self.shape)}")
        check_size("x", self.shape)
        asked = None if dtype is None else _dtype(dtype)
        # Kept for copies, whatever becomes of the caller's lists and arrays.
        axes = None if axes is None else _integers(axes)
        boundary = tuple(boundary) if type(boundary) is list else boundary
        if not isinstance(fillvalue, (int, float, complex)):
            fillvalue = _asarray(fillvalue, "fillvalue").copy()
        self._k_dtype = kernel.dtype
        self._geometry = geometry = _geometry(
            function, self.shape, kernel.dtype, kernel.shape, kernel.dtype, mode, boundary, axes,
            asked, lags, method,
        )  # fmt: skip
        choose_workers(workers, 1)
        self.out_shape = geometry.out_shape
        self.dtype = geometry.dtype
        self._function, self._workers = function, workers
        self._arguments = (
            function, kernel, self.shape, mode, boundary, fillvalue, axes, asked,
            None if lags is None else tuple(lags), method, workers,
        )  # fmt: skip
        self._dtypes = {kernel.dtype} if asked is None else {asked, kernel.dtype}
        self._fill = geometry.fill(fillvalue)
        self._x: Array | None = None
        self._k: Array | None = None
        self._run = geometry.run
        self.method = "direct" if geometry.direct else method
        if geometry.swapped:
            self._x = geometry.image(kernel)
            return
        self._k = geometry.kernel(kernel)
        if not geometry.direct:
            op = _engine.operator(
                geometry.module, self._k, geometry.shape, geometry.offset, geometry.codes, method
            )
            self._run = _engine.silent(lambda x, k, y, fill, workers: op(x, y, fill, workers))
            self.method = op.method

    def __call__(
        self, x: npt.ArrayLike, out: Array | None = None, workers: SupportsIndex | None = None
    ) -> Array:
        """Apply the plan to an image.

        Parameters
        ----------
        x : array_like
            The image, of the planned shape.
        out : ndarray, optional
            Array for the result, of the plan's `out_shape` and `dtype`.
        workers : int, optional
            Number of threads.  By default the plan's.

        Returns
        -------
        ndarray
            The result; `out` if that was given.
        """
        a = x if type(x) is np.ndarray else _asarray(x, "x")
        if a.shape != self.shape:
            raise ValueError(f"x must have the planned shape {self.shape}, got {a.shape}")
        if a.dtype not in self._dtypes:
            self._accept(a.dtype)
        geometry, image, k = self._geometry, self._x, self._k
        n = choose_workers(self._workers if workers is None else workers, geometry.useful_workers)
        if k is None:
            k = geometry.kernel(a)
        if image is None:
            image = a if geometry.k_ready else geometry.image(a)
        if out is None:
            return _result(geometry, self._run, image, k, self._fill, n)
        if type(out) is not np.ndarray or out.dtype is not self.dtype:
            self._check_type(out)
        elif geometry.k_ready and out.shape == self.out_shape:
            flags = out.flags
            if flags.carray and flags.owndata and image.flags.owndata and out is not image:
                # `_result_into` would come to this, a quarter of a microsecond later.
                self._run(image, k, out, self._fill, n)
                return out
        return _result_into(out, geometry, self._run, image, k, self._fill, n)

    def _check_type(self, out: object) -> None:
        dtype = check_out(out).dtype
        if not np.can_cast(dtype, self.dtype, "equiv"):
            raise TypeError(f"out has dtype {dtype}, but the plan computes {self.dtype}")

    def _accept(self, dtype: DType) -> None:
        """Take images of another type, or say why not."""
        asked: DType | None = self._arguments[7]
        _check_number(self._function, "x", dtype)
        result = _result_dtype(self._function, dtype, self._k_dtype, asked)
        if result != self.dtype:
            raise TypeError(
                f"x is {dtype}, and with a kernel of {self._k_dtype} gives {result}, but the "
                f"plan computes {self.dtype}; make it with dtype={result.name!r}, or "
                f"{self.dtype.name!r} if x is to be converted"
            )
        self._dtypes.add(dtype)

    def __repr__(self) -> str:
        return (
            f"<fastcorr.{self._function}: images {self.shape}, kernel {self._arguments[1].shape}, "
            f"result {self.out_shape} {self.dtype}, method {self.method!r}>"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return CorrelationPlan, self._arguments


# ---------------------------------------------------------------- gradients


def _like(grad: Array, dtype: DType) -> Array:
    """A gradient as its operand's type takes it: real for a real one, in its precision."""
    if dtype.kind != "c" and grad.dtype.kind == "c":
        grad = grad.real
    if dtype.kind in "fc":
        with np.errstate(all="ignore"):  # silent as the kernels are
            return grad.astype(dtype.newbyteorder("="), order="C", copy=False)
    return np.ascontiguousarray(grad)


def _sum_to(grad: Array, shape: tuple[int, ...]) -> Array:
    """Sum out the axes along which an operand of this shape was broadcast."""
    extra = grad.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(
        extra + n for n, size in enumerate(shape) if size == 1 and grad.shape[extra + n] != 1
    )
    return grad.sum(axis=axes, dtype=grad.dtype).reshape(shape) if axes else grad.reshape(shape)


@_engine.silent
def _vjp(
    function: str,
    dy: npt.ArrayLike,
    in1: npt.ArrayLike,
    in2: npt.ArrayLike,
    mode: object,
    boundary: object,
    fillvalue: npt.ArrayLike,
    axes: object,
    needs: object,
    lags: object,
    method: object,
    workers: object,
) -> tuple[Array | None, Array | None]:
    names = _names(function)
    a, b, g = _asarray(in1, names[0]), _asarray(in2, names[1]), _asarray(dy, "dy")
    for name, operand in zip((*names, "dy"), (a, b, g), strict=True):
        _check_number(function, name, operand.dtype)
    if g.dtype.kind == "c" and "c" not in (a.dtype.kind, b.dtype.kind):
        raise TypeError(f"dy is complex ({g.dtype}), but the result that it belongs to is real")
    need1, need2 = needed(needs, names)
    dtype = np.result_type(a.dtype, b.dtype, g.dtype)
    geometry = _geometry(
        function, a.shape, a.dtype, b.shape, b.dtype, mode, boundary, axes, dtype, lags, method
    )
    if g.shape != geometry.out_shape:
        raise ValueError(
            f"dy must have the shape of the result, {geometry.out_shape}, got {g.shape}"
        )
    n = choose_workers(workers, geometry.useful_workers)
    forward = np.result_type(a.dtype, b.dtype)
    if "fill" in geometry.bounds and _supported(forward):
        fillvalue = _fill_element(fillvalue, forward)  # as the result itself saw it
    fill = geometry.fill(fillvalue)
    g = geometry.core(g, 2).astype(dtype, copy=False)
    if geometry.y_conj:
        g = np.conjugate(g)
    x, k = geometry.operands(a, b)
    need_x, need_k = (need2, need1) if geometry.swapped else (need1, need2)
    dx = dk = None
    if need_x:
        dx = _engine.image_grad(
            geometry.module, g, k, x.shape[-2:], geometry.offset, geometry.bounds,
            geometry.zero, n, geometry.method,
        )  # fmt: skip
        dx = _sum_to(dx, geometry.x_shape)
        if geometry.x_flip:
            dx = dx[..., ::-1, ::-1]
    if need_k:
        dk = _engine.kernel_grad(
            geometry.module, x, g, k.shape[-2:], geometry.offset, geometry.codes, fill, n,
            geometry.method,
        )  # fmt: skip
        dk = _sum_to(dk, geometry.k_shape).astype(dtype, copy=False)
        if geometry.k_conj:
            dk = np.conjugate(dk)
        if geometry.k_flip:
            dk = dk[..., ::-1, ::-1]
    d1, d2 = (dk, dx) if geometry.swapped else (dx, dk)
    return (
        None if d1 is None else _like(geometry.natural(d1, 0), a.dtype),
        None if d2 is None else _like(geometry.natural(d2, 1), b.dtype),
    )


# ---------------------------------------------------------------- public


def correlate2d(
    in1: npt.ArrayLike,
    in2: npt.ArrayLike,
    mode: str = "full",
    boundary: str | Sequence[str] = "fill",
    fillvalue: npt.ArrayLike = 0,
    *,
    axes: Sequence[int] | None = None,
    out: Array | None = None,
    dtype: npt.DTypeLike | None = None,
    lags: Sequence[slice] | None = None,
    method: str = "auto",
    workers: SupportsIndex | None = None,
) -> Array:
    """Cross-correlate two 2-dimensional arrays.

    SciPy's `scipy.signal.correlate2d`, value for value and error for error, and keywords for
    stacks of arrays, for the result's memory and type, and for threads.

    Parameters
    ----------
    in1 : array_like, shape (H, W)
        The image.  Any layout, byte order and number type; never modified.
    in2 : array_like, shape (h, w)
        The kernel; complex ones are conjugated.  May be larger than the image.
    mode : {'full', 'same', 'valid'}, optional
        Which part of the correlation:

        ``full``
            all of it, shape (H + h - 1, W + w - 1) (default);
        ``same``
            the middle, in the shape of `in1`;
        ``valid``
            what needs no boundary, shape (\\|H - h\\| + 1, \\|W - w\\| + 1).  One input must be
            at least as large as the other in both dimensions.
    boundary : str or pair of str, optional
        How the image goes on beyond its edges, one rule or one per axis:

        ``fill`` or ``pad``
            with `fillvalue` (default);
        ``wrap`` or ``circular``
            periodically, ``a b c | a b c | a b c``;
        ``symm`` or ``symmetric``
            reflected at the edge, ``c b a | a b c | c b a``;
        ``mirror``
            reflected at the outermost pixel, ``c b | a b c | b a``;
        ``nearest``
            with the outermost pixel, ``a a | a b c | c c``.
    fillvalue : scalar, optional
        Value outside the image for ``boundary='fill'``.  Default 0.
    axes : pair of int, optional
        The axes of both inputs to correlate along; they count in each input separately, so
        that ``(-2, -1)`` suits stacks and kernels of up to 34 axes.  The other axes broadcast:
        a stack of images, a bank of kernels, or both.  By default both inputs must have two
        dimensions.
    out : ndarray, optional
        Array for the result, of the result's shape.  Its dtype chooses the result's unless
        `dtype` is given.  It may overlap the inputs, but then, as where it is byte-swapped or
        misaligned, the result is computed elsewhere first and copied.  No two of its elements
        may share memory.
    dtype : dtype, optional
        Type of the result, in which sums are accumulated.  By default the inputs' promoted
        type, in which integers wrap around as in SciPy.  ``dtype='float32'`` or ``'int32'``
        with an image of bytes converts it as it is read, without a converted copy.
    lags : pair of slice, optional
        Compute only ``result[lags[0], lags[1]]``, a window of what the mode gives: slices of
        step 1, whose bounds may be negative or missing as in any indexing.
    method : {'auto', 'direct', 'separable', 'fft'}, optional
        Algorithm:

        ``auto``
            the one that is predicted to be fastest and keeps the error bound of the direct sum
            (default; `choose_method` tells which);
        ``direct``
            the sum of the definition;
        ``separable``
            rows, then columns, for kernels that are sums of up to three outer products;
        ``fft``
            Fourier transforms of tiles.  Errors are small beside the largest values of a tile,
            not beside each output.  Results of integers are exact: where that is not certain,
            and where image or kernel are not finite, the direct sum is taken.
    workers : int, optional
        Number of threads; -1 is all CPUs.  By default `get_workers`, and one where the work is
        too small to gain.  It never changes a bit of the result.

    Returns
    -------
    ndarray
        The cross-correlation; `out` if that was given.  With `axes`, the correlated axes stay
        where `axes` says.

    Raises
    ------
    ValueError
        For inputs that are not 2-D (without `axes`), a number type without kernels (bool with
        bool, float16, objects, …), an unknown name, a `method` that cannot compute this, a
        `fillvalue` that the result's type cannot hold, in ``'valid'`` mode an empty input or
        two that do not fit into each other, an empty image with a boundary other than ``fill``,
        an operand or a result of more than 2**48 elements, or an `out` of another shape or that
        overlaps itself.
    TypeError
        For masked arrays with masked elements, a `dtype` or `out` that cannot hold the result,
        or arguments of a wrong kind.

    See Also
    --------
    convolve2d : the same with the kernel reversed.
    correlate2d_vjp : its gradients.
    plan_correlate2d : the same kernel for many images.
    choose_method : what ``method='auto'`` does.
    corr2d : the bare valid correlation.

    Notes
    -----
    With `X` the continued image and ``o = -(h - 1)`` in ``full``, ``-((h - 1) // 2)`` in
    ``same`` and 0 in ``valid`` mode (alike for columns)::

        out[m, n] = sum over a, b of X[m + o + a, n + o' + b] * conj(in2[a, b])

    Where SciPy is wrong or stops the interpreter, fastcorr is right or raises: see "Coming
    from SciPy" in the documentation.  The direct sum is taken with a register tile over rows
    and columns of the output as in [1]_; the transforms are overlap-save [2]_ by radix 3, 4, 5
    and 8 without reordering; the separable method finds its factors by cross approximation [3]_.

    References
    ----------
    .. [1] K. Goto and R. A. van de Geijn, "Anatomy of high-performance matrix
       multiplication", ACM Transactions on Mathematical Software 34 (3), 2008.
    .. [2] A. V. Oppenheim and R. W. Schafer, "Discrete-Time Signal Processing", section 8.7.
    .. [3] M. Bebendorf, "Approximation of boundary element matrices", Numerische Mathematik
       86, 2000.

    Examples
    --------
    An edge from white to black and back, in a 3 x 8 image:

    >>> import numpy as np
    >>> from fastcorr import correlate2d
    >>> x = np.ones((3, 8))
    >>> x[:, 2:6] = 0
    >>> correlate2d(x, [[1, -1]], mode="valid")
    array([[ 0.,  1.,  0.,  0.,  0., -1.,  0.],
           [ 0.,  1.,  0.,  0.,  0., -1.,  0.],
           [ 0.,  1.,  0.,  0.,  0., -1.,  0.]])

    A stack of five images with a bank of four kernels:

    >>> images, kernels = np.ones((5, 1, 32, 32)), np.ones((4, 3, 3))
    >>> correlate2d(images, kernels, "same", "symm", axes=(-2, -1)).shape
    (5, 4, 32, 32)

    Only a window of the result, here of the lags from -1 to 1 of a 32 x 32 image with itself:

    >>> image = np.ones((32, 32))
    >>> correlate2d(image, image, lags=(slice(30, 33), slice(30, 33)))
    array([[ 961.,  992.,  961.],
           [ 992., 1024.,  992.],
           [ 961.,  992.,  961.]])
    """
    return _call(
        "correlate2d", in1, in2, mode, boundary, fillvalue, axes, out, dtype, lags, method, workers
    )


def convolve2d(
    in1: npt.ArrayLike,
    in2: npt.ArrayLike,
    mode: str = "full",
    boundary: str | Sequence[str] = "fill",
    fillvalue: npt.ArrayLike = 0,
    *,
    axes: Sequence[int] | None = None,
    out: Array | None = None,
    dtype: npt.DTypeLike | None = None,
    lags: Sequence[slice] | None = None,
    method: str = "auto",
    workers: SupportsIndex | None = None,
) -> Array:
    """Convolve two 2-dimensional arrays.

    SciPy's `scipy.signal.convolve2d`: `correlate2d` with the kernel reversed along both axes
    and not conjugated.  In ``same`` mode even kernels are centred one element earlier.

    Parameters
    ----------
    in1 : array_like, shape (H, W)
        The image.
    in2 : array_like, shape (h, w)
        The kernel.
    mode : {'full', 'same', 'valid'}, optional
        Which part of the convolution, as for `correlate2d`.
    boundary : str or pair of str, optional
        ``fill``, ``wrap``, ``symm``, ``mirror`` or ``nearest``, as for `correlate2d`.
    fillvalue : scalar, optional
        Value outside the image for ``boundary='fill'``.  Default 0.
    axes : pair of int, optional
        Axes to convolve along; the others broadcast.
    out : ndarray, optional
        Array for the result.
    dtype : dtype, optional
        Type of the result, in which sums are accumulated.
    lags : pair of slice, optional
        Compute only this window of the result.
    method : {'auto', 'direct', 'separable', 'fft'}, optional
        Algorithm, as for `correlate2d`.
    workers : int, optional
        Number of threads.

    Returns
    -------
    ndarray
        The convolution; `out` if that was given.

    Raises
    ------
    ValueError, TypeError
        As `correlate2d`.

    See Also
    --------
    correlate2d : the same with the kernel as it is; its page describes each parameter.
    convolve2d_vjp : the gradients.

    Notes
    -----
    With `X` the continued image and ``o = 0`` in ``full``, ``(h - 1) // 2`` in ``same`` and
    ``h - 1`` in ``valid`` mode (alike for columns)::

        out[m, n] = sum over a, b of X[m + o - a, n + o' - b] * in2[a, b]

    Examples
    --------
    >>> from fastcorr import convolve2d
    >>> convolve2d([[1, 2, 3]], [[1, 10]])
    array([[ 1, 12, 23, 30]])
    """
    return _call(
        "convolve2d", in1, in2, mode, boundary, fillvalue, axes, out, dtype, lags, method, workers
    )


@overload
def correlate2d_vjp(
    dy: npt.ArrayLike,
    in1: npt.ArrayLike,
    in2: npt.ArrayLike,
    mode: str = ...,
    boundary: str | Sequence[str] = ...,
    fillvalue: npt.ArrayLike = ...,
    *,
    axes: Sequence[int] | None = ...,
    lags: Sequence[slice] | None = ...,
    method: str = ...,
    workers: SupportsIndex | None = ...,
) -> tuple[Array, Array]: ...
@overload
def correlate2d_vjp(
    dy: npt.ArrayLike,
    in1: npt.ArrayLike,
    in2: npt.ArrayLike,
    mode: str = ...,
    boundary: str | Sequence[str] = ...,
    fillvalue: npt.ArrayLike = ...,
    *,
    axes: Sequence[int] | None = ...,
    lags: Sequence[slice] | None = ...,
    method: str = ...,
    needs: Iterable[str],
    workers: SupportsIndex | None = ...,
) -> tuple[Array | None, Array | None]: ...
def correlate2d_vjp(
    dy: npt.ArrayLike,
    in1: npt.ArrayLike,
    in2: npt.ArrayLike,
    mode: str = "full",
    boundary: str | Sequence[str] = "fill",
    fillvalue: npt.ArrayLike = 0,
    *,
    axes: Sequence[int] | None = None,
    lags: Sequence[slice] | None = None,
    method: str = "auto",
    needs: Iterable[str] = ("in1", "in2"),
    workers: SupportsIndex | None = None,
) -> tuple[Array | None, Array | None]:
    """Gradients of `correlate2d`: the vector-Jacobian product.

    If a number L depends on ``y = correlate2d(in1, in2, …)`` and `dy` is its gradient dL/dy,
    the result is dL/din1 and dL/din2.

    Parameters
    ----------
    dy : array_like
        Gradient to the result, in the result's shape.
    in1, in2, mode, boundary, fillvalue, axes, lags
        As they were given to `correlate2d`.
    method : {'auto', 'direct', 'separable', 'fft'}, optional
        Algorithm, as for `correlate2d`.  The gradient to the kernel is summed directly where
        there is no such algorithm: it has no separable one, nor transforms of integers.
    needs : sequence of {'in1', 'in2'}, optional
        The gradients wanted.  Default both.
    workers : int, optional
        Number of threads, as for `correlate2d`; it never changes a bit of the result.

    Returns
    -------
    d_in1 : ndarray or None
        Gradient to `in1`, in its shape; None if not needed.  In its dtype if that is floating
        or complex, else in the promoted dtype of `dy` and both inputs (without an imaginary
        part), in which integers wrap around.
    d_in2 : ndarray or None
        Likewise for `in2`.

    Raises
    ------
    ValueError, TypeError
        As `correlate2d`; also if `dy` has another shape than the result or is complex where
        that is real, or if `needs` names something else.

    See Also
    --------
    correlate2d : the function itself.
    convolve2d_vjp : the same for convolution.

    Notes
    -----
    The products are the adjoints of ``in1 -> y`` (with fill value 0) and ``in2 -> y`` for the
    real inner product ``<u, v> = Re sum conj(u) * v``, so that complex arrays count as pairs
    of real ones, as in PyTorch [1]_.  Operands that were broadcast get the sum of their
    gradients.  The gradient to the image is a correlation of `dy` with the reversed kernel,
    folded back where the boundary had continued the image; the gradient to the kernel a
    correlation of the image with `dy`.

    References
    ----------
    .. [1] A. Griewank and A. Walther, "Evaluating Derivatives", 2nd ed., SIAM, 2008, chapter 3.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr import correlate2d, correlate2d_vjp
    >>> x, k = np.arange(12.0).reshape(3, 4), np.array([[1.0, -1.0]])
    >>> y = correlate2d(x, k, "same", "symm")
    >>> dx, dk = correlate2d_vjp(np.ones_like(y), x, k, "same", "symm")
    >>> dx
    array([[ 1.,  0.,  0., -1.],
           [ 1.,  0.,  0., -1.],
           [ 1.,  0.,  0., -1.]])
    """
    return _vjp(
        "correlate2d", dy, in1, in2, mode, boundary, fillvalue, axes, needs, lags, method, workers
    )


@overload
def convolve2d_vjp(
    dy: npt.ArrayLike,
    in1: npt.ArrayLike,
    in2: npt.ArrayLike,
    mode: str = ...,
    boundary: str | Sequence[str] = ...,
    fillvalue: npt.ArrayLike = ...,
    *,
    axes: Sequence[int] | None = ...,
    lags: Sequence[slice] | None = ...,
    method: str = ...,
    workers: SupportsIndex | None = ...,
) -> tuple[Array, Array]: ...
@overload
def convolve2d_vjp(
    dy: npt.ArrayLike,
    in1: npt.ArrayLike,
    in2: npt.ArrayLike,
    mode: str = ...,
    boundary: str | Sequence[str] = ...,
    fillvalue: npt.ArrayLike = ...,
    *,
    axes: Sequence[int] | None = ...,
    lags: Sequence[slice] | None = ...,
    method: str = ...,
    needs: Iterable[str],
    workers: SupportsIndex | None = ...,
) -> tuple[Array | None, Array | None]: ...
def convolve2d_vjp(
    dy: npt.ArrayLike,
    in1: npt.ArrayLike,
    in2: npt.ArrayLike,
    mode: str = "full",
    boundary: str | Sequence[str] = "fill",
    fillvalue: npt.ArrayLike = 0,
    *,
    axes: Sequence[int] | None = None,
    lags: Sequence[slice] | None = None,
    method: str = "auto",
    needs: Iterable[str] = ("in1", "in2"),
    workers: SupportsIndex | None = None,
) -> tuple[Array | None, Array | None]:
    """Gradients of `convolve2d`: the vector-Jacobian product.

    Parameters
    ----------
    dy : array_like
        Gradient to the result, in the result's shape.
    in1, in2, mode, boundary, fillvalue, axes, lags
        As they were given to `convolve2d`.
    method : {'auto', 'direct', 'separable', 'fft'}, optional
        Algorithm, as for `correlate2d_vjp`.
    needs : sequence of {'in1', 'in2'}, optional
        The gradients wanted.  Default both.
    workers : int, optional
        Number of threads.

    Returns
    -------
    d_in1 : ndarray or None
        Gradient to `in1`; None if not needed.  Its dtype is chosen as by `correlate2d_vjp`.
    d_in2 : ndarray or None
        Gradient to `in2`; None if not needed.

    Raises
    ------
    ValueError, TypeError
        As `correlate2d_vjp`.

    See Also
    --------
    convolve2d : the function itself.
    correlate2d_vjp : the same for correlation, with notes on complex numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr import convolve2d_vjp
    >>> x, k = np.array([[1.0, 2.0, 3.0]]), np.array([[1.0, 10.0]])
    >>> convolve2d_vjp(np.array([[1.0, 0.0, 0.0, 0.0]]), x, k)
    (array([[1., 0., 0.]]), array([[1., 0.]]))
    """
    return _vjp(
        "convolve2d", dy, in1, in2, mode, boundary, fillvalue, axes, needs, lags, method, workers
    )


def corr2d(
    x: npt.ArrayLike,
    k: npt.ArrayLike,
    *,
    out: Array | None = None,
    workers: SupportsIndex | None = None,
) -> Array:
    """Cross-correlation as deep learning defines it: valid, and nothing is conjugated.

    Parameters
    ----------
    x : array_like, shape (H, W)
        The image.
    k : array_like, shape (h, w)
        The kernel, not larger than the image.
    out : ndarray, shape (H - h + 1, W - w + 1), optional
        Array for the result.
    workers : int, optional
        Number of threads, as for `correlate2d`.

    Returns
    -------
    ndarray, shape (H - h + 1, W - w + 1)
        ``y[i, j] = sum over a, b of x[i + a, j + b] * k[a, b]``, in the promoted dtype.

    Raises
    ------
    ValueError
        If an input is not 2-D or empty, or the kernel is larger than the image.
    TypeError
        As `correlate2d`.

    See Also
    --------
    corr2d_backward : its gradients.
    correlate2d : with modes, boundaries, stacks and types.

    Examples
    --------
    >>> from fastcorr import corr2d
    >>> corr2d([[0, 1, 2], [3, 4, 5], [6, 7, 8]], [[0, 1], [2, 3]])
    array([[19, 25],
           [37, 43]])
    """
    return _call("corr2d", x, k, "valid", "fill", 0, None, out, None, None, "auto", workers)


@overload
def corr2d_backward(
    dy: npt.ArrayLike,
    x: npt.ArrayLike,
    k: npt.ArrayLike,
    *,
    workers: SupportsIndex | None = ...,
) -> tuple[Array, Array]: ...
@overload
def corr2d_backward(
    dy: npt.ArrayLike,
    x: npt.ArrayLike,
    k: npt.ArrayLike,
    *,
    needs: Iterable[str],
    workers: SupportsIndex | None = ...,
) -> tuple[Array | None, Array | None]: ...
def corr2d_backward(
    dy: npt.ArrayLike,
    x: npt.ArrayLike,
    k: npt.ArrayLike,
    *,
    needs: Iterable[str] = ("x", "k"),
    workers: SupportsIndex | None = None,
) -> tuple[Array | None, Array | None]:
    """Gradients of `corr2d`.

    Parameters
    ----------
    dy : array_like, shape (H - h + 1, W - w + 1)
        Gradient of some number to ``corr2d(x, k)``.
    x : array_like, shape (H, W)
        The image.
    k : array_like, shape (h, w)
        The kernel.
    needs : sequence of {'x', 'k'}, optional
        The gradients wanted.  Default both.
    workers : int, optional
        Number of threads, as for `correlate2d`.

    Returns
    -------
    dx : ndarray, shape (H, W), or None
        Gradient to `x`: `dy` with the reversed kernel, in ``full`` mode; None if not needed.
    dk : ndarray, shape (h, w), or None
        Gradient to `k`: `x` correlated with `dy`; None if not needed.  The dtype of each is
        chosen as by `correlate2d_vjp`.

    Raises
    ------
    ValueError, TypeError
        As `corr2d`; also if `dy` has another shape than the result, or `needs` names something
        else.

    See Also
    --------
    corr2d : the function itself.
    correlate2d_vjp : the same for every mode and boundary.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr import corr2d_backward
    >>> x = np.arange(9.0).reshape(3, 3)
    >>> dx, dk = corr2d_backward(np.ones((2, 2)), x, np.ones((2, 2)))
    >>> dk
    array([[ 8., 12.],
           [20., 24.]])
    """
    return _vjp("corr2d", dy, x, k, "valid", "fill", 0, None, needs, None, "auto", workers)


# ---------------------------------------------------------------- plans and methods


def plan_correlate2d(
    k: npt.ArrayLike,
    *,
    shape: Sequence[int],
    mode: str = "full",
    boundary: str | Sequence[str] = "fill",
    fillvalue: npt.ArrayLike = 0,
    axes: Sequence[int] | None = None,
    dtype: npt.DTypeLike | None = None,
    lags: Sequence[slice] | None = None,
    method: str = "auto",
    workers: SupportsIndex | None = None,
) -> CorrelationPlan:
    """Make a correlation with one kernel ready for many images.

    ``plan(x)`` is ``correlate2d(x, k, mode, boundary, …)`` to the bit, without what that does
    anew for each image: checking, choosing a method, packing or transforming the kernel.

    Parameters
    ----------
    k : array_like
        The kernel.  It is copied.
    shape : sequence of int
        Shape of the images.
    mode, boundary, fillvalue, axes
        As for `correlate2d`, with images of `shape` as `in1` and `k` as `in2`.
    dtype : dtype, optional
        Type of the results.  By default that of `k`.
    lags, method, workers
        As for `correlate2d`.

    Returns
    -------
    CorrelationPlan
        Call it as ``plan(x, out=None, workers=None)``.  It has the attributes `shape`,
        `out_shape`, `dtype` and `method`, may be used by several threads at once, and can be
        pickled.

    Raises
    ------
    ValueError, TypeError
        As `correlate2d`.  Calls raise a ValueError for images or an `out` of another shape, and
        a TypeError for images that would give another type of result.

    See Also
    --------
    plan_convolve2d : the same for convolution.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr import plan_correlate2d
    >>> plan = plan_correlate2d(np.ones((3, 3)), shape=(4, 5), mode="valid")
    >>> y = np.empty(plan.out_shape)
    >>> for frame in np.arange(40.0).reshape(2, 4, 5):
    ...     print(plan(frame, out=y)[0])
    [54. 63. 72.]
    [234. 243. 252.]
    """
    return CorrelationPlan(
        "plan_correlate2d", k, shape, mode, boundary, fillvalue, axes, dtype, lags, method, workers
    )


def plan_convolve2d(
    k: npt.ArrayLike,
    *,
    shape: Sequence[int],
    mode: str = "full",
    boundary: str | Sequence[str] = "fill",
    fillvalue: npt.ArrayLike = 0,
    axes: Sequence[int] | None = None,
    dtype: npt.DTypeLike | None = None,
    lags: Sequence[slice] | None = None,
    method: str = "auto",
    workers: SupportsIndex | None = None,
) -> CorrelationPlan:
    """Make a convolution with one kernel ready for many images.

    Parameters
    ----------
    k : array_like
        The kernel.  It is copied.
    shape : sequence of int
        Shape of the images.
    mode, boundary, fillvalue, axes, dtype, lags, method, workers
        As for `plan_correlate2d`.

    Returns
    -------
    CorrelationPlan
        ``plan(x)`` is ``convolve2d(x, k, mode, boundary, …)``.

    Raises
    ------
    ValueError, TypeError
        As `plan_correlate2d`.

    See Also
    --------
    plan_correlate2d : with a description of the result.

    Examples
    --------
    >>> from fastcorr import plan_convolve2d
    >>> plan_convolve2d([[1, 10]], shape=(1, 3))([[1, 2, 3]])
    array([[ 1, 12, 23, 30]])
    """
    return CorrelationPlan(
        "plan_convolve2d", k, shape, mode, boundary, fillvalue, axes, dtype, lags, method, workers
    )


class MethodChoice(NamedTuple):
    """What `choose_method` found: a method, the reason, the predicted times.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr import choose_method
    >>> method, reason, seconds = choose_method(np.ones((8, 8)), np.ones((3, 3)))
    >>> reason
    'the problem is small'
    """

    method: str
    reason: str
    seconds: dict[str, float]


def choose_method(
    in1: npt.ArrayLike,
    in2: npt.ArrayLike,
    mode: str = "full",
    boundary: str | Sequence[str] = "fill",
    *,
    axes: Sequence[int] | None = None,
    dtype: npt.DTypeLike | None = None,
    lags: Sequence[slice] | None = None,
    workers: SupportsIndex | None = None,
) -> MethodChoice:
    """Tell what `correlate2d` with ``method='auto'`` does, and why.

    Parameters
    ----------
    in1, in2, mode, boundary, axes, dtype, lags, workers
        As for `correlate2d`.

    Returns
    -------
    method : {'direct', 'separable', 'fft'}
        The method that is chosen.
    reason : str
        Why, in words.
    seconds : dict of str to float
        The time predicted for each method that can compute this, with that many workers.

    Raises
    ------
    ValueError, TypeError
        As `correlate2d`.

    Notes
    -----
    The prediction is a sum of a few products of sizes and constants that were measured once for
    each instruction set: nothing is timed here.  Of an image that is not finite, or whose values
    are so different that a transform would break the error bound of the direct sum, the tiles
    concerned are summed directly all the same; `choose_method` does not look at them, except to
    say so where `in1` has such elements.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr import choose_method
    >>> choose_method(np.ones((8, 8)), np.ones((3, 3))).method
    'direct'
    >>> rng = np.random.default_rng(0)
    >>> choose_method(np.ones((512, 512)), rng.random((31, 31))).method
    'fft'
    """
    a, b = _asarray(in1, "in1"), _asarray(in2, "in2")
    asked = None if dtype is None else _dtype(dtype)
    geometry = _geometry(
        "correlate2d", a.shape, a.dtype, b.shape, b.dtype, mode, boundary, axes, asked, lags, "auto"
    )
    n = choose_workers(workers, geometry.useful_workers)
    x, k = geometry.operands(a, b)
    method, reason, seconds = _engine.explain(geometry.module, k, geometry.shape, n)
    if method == "fft" and not np.isfinite(x).all():
        reason += "; tiles that hold NaN or infinities are summed directly"
    return MethodChoice(method, reason, seconds)
