"""Layers that learn, at NumPy level: PyTorch's names, arrays in and arrays out, no graph.

A layer is called with an array and returns one; its ``backward`` takes the gradient to what
came out and returns the gradient to what went in, adding the gradients to its parameters on
the way.  `Sequential` chains layers, the losses return their own gradient, `fastcorr.optim`
changes the parameters, and `fit` is the loop around all of it.
"""

from __future__ import annotations

import errno
import importlib
import itertools
import math
import operator
import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, SupportsIndex, overload

import numpy as np
import numpy.typing as npt

from fastcorr._arguments import flag, listed, shown
from fastcorr._boundary import LARGEST, PADDING_MODES
from fastcorr._files import new_file, npy_header, open_regular
from fastcorr.conv import (
    check_method,
    check_rtol,
    conv2d,
    conv2d_backward,
    conv_transpose2d,
    conv_transpose2d_backward,
)
from fastcorr.correlate import _asarray as _array
from fastcorr.correlate import _dtype as _any_dtype
from fastcorr.correlate import check_size

if TYPE_CHECKING:
    from fastcorr.optim import Optimizer

__all__ = [
    "AvgPool2d",
    "Conv2d",
    "ConvTranspose2d",
    "Flatten",
    "History",
    "Linear",
    "MaxPool2d",
    "Module",
    "Parameter",
    "ReLU",
    "Sequential",
    "cross_entropy",
    "fit",
    "mse_loss",
    "no_grad",
]

Array = npt.NDArray[Any]
DType = np.dtype[Any]
Pair = tuple[int, int]
Rng = int | np.random.Generator | None
Loss = Callable[[Array, Array], tuple[float, Array]]

_DTYPES = tuple(np.dtype(t) for t in "fdFD")


# ---------------------------------------------------------------- arguments


def _integer(value: object, name: str, least: float = -math.inf) -> int:
    try:
        n = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        n = None
    if n is None or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {shown(value)}")
    if n < least:
        raise ValueError(f"{name} must be at least {least}, got {shown(n)}")
    if n > LARGEST:
        raise ValueError(f"{name} must be at most 2**60, got {shown(n)}")
    return n


def _is_0d(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 0


def _pair(value: object, name: str, least: int) -> Pair:
    """Two integers, for rows and columns, from one or two."""
    if not isinstance(value, (Sequence, np.ndarray)) or isinstance(value, str) or _is_0d(value):
        value = value, value
    try:
        pair = listed(value, 2)
    except TypeError:
        pair = ()
    if len(pair) != 2:
        raise ValueError(f"{name} must be an integer or a pair of integers, got {shown(value)}")
    return _integer(pair[0], name, least), _integer(pair[1], name, least)


def _padding(value: object) -> str | Pair | tuple[Pair, Pair]:
    if isinstance(value, str):
        if value not in ("same", "valid"):
            raise ValueError(f"padding must be 'same', 'valid' or numbers, got {shown(value)}")
        return value
    if (
        isinstance(value, (Sequence, np.ndarray))
        and not _is_0d(value)
        and not isinstance(value, memoryview)
        and len(value) == 2
        and any(isinstance(v, (Sequence, np.ndarray)) for v in value)
    ):
        return _pair(value[0], "padding", 0), _pair(value[1], "padding", 0)
    return _pair(value, "padding", 0)


def _dtype(value: npt.DTypeLike) -> DType:
    wanted = "dtype must be float32, float64, complex64 or complex128, got"
    try:
        dtype = _any_dtype("float32" if value is None else value).newbyteorder("=")
    except TypeError:
        raise TypeError(f"{wanted} {shown(value)}") from None
    if dtype not in _DTYPES:
        raise TypeError(f"{wanted} {dtype}")
    return dtype


def _generator(rng: Rng) -> np.random.Generator:
    kinds = int, np.integer, np.random.Generator, type(None)  # NumPy takes arrays too, of any size
    error: type[Exception] = TypeError
    if isinstance(rng, kinds) and not isinstance(rng, bool):
        try:
            return np.random.default_rng(rng)
        except ValueError:
            error = ValueError
    raise error(f"rng must be an integer from 0 on, a Generator or None, got {shown(rng)}")


def _check_state(state: object) -> None:
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be a dict, got {shown(state)}")


def _cast(a: Array, dtype: DType, name: str) -> Array:
    """The array in another type of numbers, unless an imaginary or fractional part were lost."""
    if not np.can_cast(a.dtype, dtype, "same_kind"):
        raise TypeError(f"{name} is {a.dtype}, which does not fit into {dtype}")
    check_size(name, a.shape)
    return a.astype(dtype)


def _reduction(value: object) -> None:
    if not isinstance(value, str) or value not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', got {shown(value)}")


def _masked(a: Array, mask: Array) -> Array:
    """a where the mask is True, elsewhere zero."""
    with np.errstate(invalid="ignore"):
        y = np.multiply(a, mask)  # several times as fast as np.where
    if y.size and np.isnan(y.min()):  # 0 * inf, and NaN anywhere
        y = np.where(mask, a, np.zeros((), a.dtype))
    return y


# ---------------------------------------------------------------- parameters and layers


class Parameter:
    """An array that is learned, and the gradient collected for it.

    Parameters
    ----------
    data : array_like
        The first values, which are copied: float32, float64, complex64 or complex128.

    Attributes
    ----------
    data : ndarray
        The values.
    grad : ndarray
        The gradient, of the same shape and dtype; zero at first.

    Raises
    ------
    TypeError
        If `data` is of another type.

    Notes
    -----
    The two arrays stay the same objects for the life of a parameter: assigning to ``data`` or
    ``grad`` writes into them.

    Examples
    --------
    >>> from fastcorr import nn
    >>> p = nn.Parameter([[1.0, -1.0]])
    >>> p.data = [[2, 3]]
    >>> p
    Parameter([[2., 3.]], dtype=float64)
    >>> p.grad
    array([[0., 0.]])
    """

    __slots__ = ("_data", "_grad")

    def __init__(self, data: npt.ArrayLike) -> None:
        array = _array(data, "data")
        self._data = np.array(array, _dtype(array.dtype), order="C")
        self._grad = np.zeros_like(self._data)

    @property
    def data(self) -> Array:
        """The values; assigning to it writes into them."""
        return self._data

    @data.setter
    def data(self, value: npt.ArrayLike) -> None:
        self._write(self._data, value, "data")

    @property
    def grad(self) -> Array:
        """The gradient; assigning to it writes into it."""
        return self._grad

    @grad.setter
    def grad(self, value: npt.ArrayLike) -> None:
        self._write(self._grad, value, "grad")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of both arrays."""
        return self._data.shape

    @property
    def dtype(self) -> DType:
        """The type of their numbers."""
        return self._data.dtype

    def _write(self, target: Array, value: npt.ArrayLike, name: str) -> None:
        if value is target:  # p.data -= …
            return
        array = _array(value, name)
        if array.shape != target.shape:
            raise ValueError(f"{name} has the shape {target.shape}, got {array.shape}")
        target[...] = _cast(array, target.dtype, name)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        return np.array(self._data, dtype, copy=copy)

    def __repr__(self) -> str:
        values = np.array2string(self._data, separator=", ", prefix="Parameter(")
        return f"Parameter({values}, dtype={self.dtype})"


# Whether layers keep what backward needs.  Of the running thread or task, as the block is.
_keep: ContextVar[bool] = ContextVar("fastcorr.nn.keep", default=True)


@contextmanager
def no_grad() -> Iterator[None]:
    """Call layers without keeping what ``backward`` needs.

    In a ``with no_grad():`` block a layer holds no reference to its input after the call, and
    what it kept of an earlier call is dropped.  Counts for the running thread (or task) only,
    and for all layers in it, also those in a `Sequential`.  Works as a decorator too.

    Yields
    ------
    None

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr import nn
    >>> layer = nn.Conv2d(1, 8, 3)
    >>> with nn.no_grad():
    ...     layer(np.ones((1, 28, 28))).shape
    (8, 26, 26)
    """
    token = _keep.set(False)
    try:
        yield
    finally:
        _keep.reset(token)


class Module:
    """What all layers have in common.

    Not called itself: `Conv2d`, `Linear`, `Sequential` and the others are modules.

    Notes
    -----
    Calling a module keeps what its ``backward`` needs, usually the input itself: do not change
    that in between, nor the parameters, which ``backward`` uses as it finds them.  ``backward``
    releases what was kept, so each needs a call of its own before it, as in PyTorch.  One model
    serves one thread at a time.

    Copies (`copy.deepcopy`) and pickles of a module are without what it kept.

    A layer of your own is a subclass with two methods, and `Parameter` objects or other
    modules as attributes:

    ``_forward(x, keep) -> (y, kept)``
        gets an array, returns the output and whatever `_backward` needs; `keep` is False under
        `no_grad`.
    ``_backward(dy, kept, needs_input_grad) -> dx``
        gets the gradient to `y`, adds to the parameters' ``grad``, and returns the gradient to
        `x`, or None if that is not needed.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr import nn
    >>> class Scale(nn.Module):
    ...     def __init__(self):
    ...         self.factor = nn.Parameter(2.0)
    ...     def _forward(self, x, keep):
    ...         return x * self.factor.data, x
    ...     def _backward(self, dy, x, needs_input_grad):
    ...         self.factor.grad += (dy * x).sum()
    ...         return dy * self.factor.data
    >>> layer = Scale()
    >>> layer([1.0, 2.0])
    array([2., 4.])
    >>> layer.backward([1.0, 1.0])
    array([2., 2.])
    >>> layer.factor.grad
    array(3.)
    """

    _kept: Any = None
    _shape: tuple[int, ...] | None = None  # of the output; None: backward has nothing to go on
    _dtype: DType

    def _forward(self, x: Array, keep: bool) -> tuple[Array, Any]:
        raise NotImplementedError(f"{type(self).__name__} has no _forward method")

    def _backward(self, dy: Array, kept: Any, needs_input_grad: bool) -> Array | None:
        raise NotImplementedError(f"{type(self).__name__} has no _backward method")

    def __call__(self, x: npt.ArrayLike) -> Array:
        """The output for an input, which is never modified."""
        keep = _keep.get()
        y, kept = self._forward(_array(x, "x"), keep)
        if keep:
            self._kept, self._shape, self._dtype = kept, y.shape, y.dtype
        else:
            self._kept = self._shape = None
        return y

    @overload
    def backward(self, dy: npt.ArrayLike) -> Array: ...
    @overload
    def backward(self, dy: npt.ArrayLike, needs_input_grad: bool) -> Array | None: ...
    def backward(self, dy: npt.ArrayLike, needs_input_grad: bool = True) -> Array | None:
        """Go back through the last call: add to the parameters' gradients, return the input's.

        Parameters
        ----------
        dy : array_like
            Gradient of some number (the loss) to the output of the last call, of the same
            shape; converted to its dtype.
        needs_input_grad : bool, optional
            False: the gradient to the input is not computed.  Nobody needs that of a network's
            first layer.

        Returns
        -------
        ndarray or None
            Gradient to the input; None if it was not needed.

        Raises
        ------
        RuntimeError
            If the layer was not called since its last ``backward``, or under `no_grad`.
        ValueError
            If `dy` has another shape than the output.
        TypeError
            If `dy` is complex and the output is not.
        """
        shape = self._shape
        if shape is None:
            raise RuntimeError(
                f"{type(self).__name__}.backward needs a call of the layer itself before it, "
                "one for each backward, not under no_grad"
            )
        dy = _array(dy, "dy")
        if dy.shape != shape:
            raise ValueError(f"dy must have the shape of the output, {shape}, got {dy.shape}")
        if dy.dtype != self._dtype:
            dy = _cast(dy, self._dtype, "dy")
        needed = flag(needs_input_grad, "needs_input_grad")
        kept = self._kept
        self._kept = self._shape = None
        return self._backward(dy, kept, needed)

    def _members(self) -> Iterable[tuple[str, object]]:
        return vars(self).items()

    def named_parameters(self) -> list[tuple[str, Parameter]]:
        """The parameters with their names, as in `state_dict`.

        Returns
        -------
        list of (str, Parameter)
            Names are the attributes', with those of the layers around: ``'weight'``, or
            ``'0.weight'`` in a `Sequential`.
        """
        found = []
        for name, member in self._members():
            if isinstance(member, Parameter):
                found.append((name, member))
            elif isinstance(member, Module):
                found += [(f"{name}.{inner}", p) for inner, p in member.named_parameters()]
        return found

    def _by_name(self) -> dict[str, Parameter]:
        named = self.named_parameters()
        own = dict(named)
        if len(own) < len(named):  # an attribute set by setattr, whose name has a dot
            names = [name for name, _ in named]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"two parameters are named {shown(twice)}")
        return own

    def parameters(self) -> list[Parameter]:
        """All parameters, each once: what an optimizer takes.

        Returns
        -------
        list of Parameter
        """
        return list(dict.fromkeys(p for _, p in self.named_parameters()))

    def zero_grad(self) -> None:
        """Set all gradients to zero."""
        for p in self.parameters():
            p.grad.fill(0)

    def state_dict(self) -> dict[str, Array]:
        """Copies of all parameters' values by name.

        Returns
        -------
        dict of str to ndarray
            Named as in PyTorch, which takes them after `torch.from_numpy`.

        Raises
        ------
        ValueError
            If two parameters have one name.
        """
        return {name: p.data.copy() for name, p in self._by_name().items()}

    def load_state_dict(self, state: Mapping[str, npt.ArrayLike]) -> None:
        """Set all parameters' values; all of them, or in case of an error none.

        Parameters
        ----------
        state : dict of str to array_like
            What `state_dict` returned, or the tensors of PyTorch's ``state_dict()`` of the same
            layers.  Numbers are converted to the parameters' dtypes.

        Raises
        ------
        ValueError
            If names are missing, or nobody's, or a shape is another, or a parameter is read-only.
        TypeError
            If `state` is not a dict, or a value is complex and its parameter is not.
        """
        _check_state(state)
        own = self._by_name()
        _check_names(own, state)
        values = {}
        for name, p in own.items():
            value = _array(state[name], name)
            if value.shape != p.shape:
                raise ValueError(f"{name} must have the shape {p.shape}, got {value.shape}")
            values[name] = _cast(value, p.dtype, name)
        _fill(own, values)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all parameters' values to a file.

        Parameters
        ----------
        path : path-like
            A name that ends in ``.npz``, which `numpy.load` reads too, or in ``.safetensors``,
            which needs the package of that name.  The file appears there when it is complete.

        Raises
        ------
        ValueError
            If the name ends otherwise, safetensors knows no such numbers (complex128), or the file
            would not be read back for the name of a parameter.
        OSError
            If the file cannot be written.
        ImportError
            If safetensors is not installed.
        """
        path = _path(path)
        kind = _kind(path)
        state = self.state_dict()
        _check_savable(kind, state)
        with new_file(path) as file:
            (_save_npz if kind == ".npz" else _save_safetensors)(file, state)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Read all parameters' values from a file that `save` wrote.

        Parameters
        ----------
        path : path-like
            A name that ends in ``.npz`` or ``.safetensors``.

        Raises
        ------
        ValueError
            If the name ends otherwise, the file is damaged, or it is not of this model: its
            names, shapes and dtypes must be the model's.  If a parameter is read-only.  Then the
            model is as it was.
        OSError
            If the file cannot be read.
        ImportError
            If safetensors is not installed.

        Notes
        -----
        Files from anywhere can be loaded: nothing in them is run, and names, shapes, dtypes and
        sizes are compared with the model's before memory is used for the contents.

        Examples
        --------
        >>> import tempfile
        >>> from fastcorr import nn
        >>> a, b = nn.Linear(3, 2, rng=1), nn.Linear(3, 2, rng=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     a.save(f"{folder}/model.npz")
        ...     b.load(f"{folder}/model.npz")
        >>> bool((a.weight.data == b.weight.data).all())
        True
        """
        path = _path(path)
        read = _load_npz if _kind(path) == ".npz" else _load_safetensors
        own = self._by_name()
        with open_regular(path) as file:
            try:
                _check_size(file, own)
                values = read(file, own)
            except ImportError:
                raise
            except Exception as error:  # on damaged files readers raise whatever comes to mind
                # An OSError too, when they go where such a file sends them: before its beginning.
                if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                    raise
                raise ValueError(f"cannot load {str(path)!r}: {error}") from error
        _fill(own, values)

    def __getstate__(self) -> dict[str, Any]:
        state = vars(self).copy()
        for name in ("_kept", "_shape", "_dtype"):
            state.pop(name, None)
        return state


class Sequential(Module):
    """Layers one after the other.

    Parameters
    ----------
    *layers : Module
        The layers, the first one first.  One may stand there twice; it shares its weights.

    Raises
    ------
    TypeError
        If one of them is not a `Module`.

    Notes
    -----
    Has a length, can be iterated over and indexed; a slice is a `Sequential` of the same
    layers.  Parameters and modules that are attributes of a subclass come after the layers'.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr import nn
    >>> model = nn.Sequential(
    ...     nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    ...     nn.Flatten(), nn.Linear(8 * 14 * 14, 10),
    ... )
    >>> model(np.ones((5, 1, 28, 28))).shape
    (5, 10)
    >>> model[:2]
    Sequential(
      (0): Conv2d(1, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
      (1): ReLU()
    )
    """

    def __init__(self, *layers: Module) -> None:
        for n, layer in enumerate(layers):
            if not isinstance(layer, Module):
                raise TypeError(f"layer {n} is not a Module: {shown(layer)}")
        self._layers = layers

    def _forward(self, x: Array, keep: bool) -> tuple[Array, Any]:
        all_kept = []
        for layer in self._layers:
            x, kept = layer._forward(x, keep)
            if keep:
                all_kept.append(kept)
        return x, all_kept

    def _backward(self, dy: Array, kept: Any, needs_input_grad: bool) -> Array | None:
        grad: Any = dy
        end = 0
        if not needs_input_grad:  # before the first that learns, which a layer may do lately, too
            learning = (n for n, layer in enumerate(self._layers) if layer.parameters())
            end = next(learning, len(self._layers))
        for n in range(len(self._layers) - 1, end - 1, -1):
            # What a layer kept is freed as soon as it has done its part.
            grad = self._layers[n]._backward(grad, kept.pop(), needs_input_grad or n > end)
        return grad if needs_input_grad else None

    def _members(self) -> Iterable[tuple[str, object]]:
        return (*((str(n), layer) for n, layer in enumerate(self._layers)), *super()._members())

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._layers)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Module:
        if isinstance(index, slice):
            return Sequential(*self._layers[index])
        return self._layers[index]

    def __repr__(self) -> str:
        if not self._layers:
            return "Sequential()"
        lines = [
            f"  ({n}): " + repr(layer).replace("\n", "\n  ") for n, layer in enumerate(self._layers)
        ]
        return "\n".join(["Sequential(", *lines, ")"])


# ---------------------------------------------------------------- layers with weights


def _uniform(
    shape: tuple[int, ...], fan_in: int, dtype: DType, generator: np.random.Generator
) -> Parameter:
    """PyTorch's start: uniform in ±1/sqrt(fan_in), of the same variance if complex."""
    bound = 1 / math.sqrt(fan_in)
    if dtype.kind == "c":
        parts = generator.uniform(-bound, bound, (*shape, 2)) / math.sqrt(2)
        return Parameter(parts.view(np.complex128)[..., 0].astype(dtype))
    return Parameter(generator.uniform(-bound, bound, shape).astype(dtype))


def _to_dtype_of(weight: Parameter, x: Array) -> Array:
    dtype = weight.dtype
    return x if x.dtype == dtype else _cast(x, dtype, "x")


_NEEDS = {
    (True, True): ("x", "weight", "bias"),
    (True, False): ("x", "weight"),
    (False, True): ("weight", "bias"),
    (False, False): ("weight",),
}


class _Conv(Module):
    """What `Conv2d` and `ConvTranspose2d` share: all but the two functions they call."""

    weight: Parameter
    bias: Parameter | None
    padding: Any  # what `_padding` or `_pair` made of it
    padding_mode = "zeros"
    output_padding = (0, 0)
    # Here for the pickles of layers that had none.
    method = "auto"
    rtol: float | None = None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair,
        dilation: int | Pair,
        groups: int,
        method: str,
        rtol: float | None,
    ) -> None:
        self.in_channels = _integer(in_channels, "in_channels", 1)
        self.out_channels = _integer(out_channels, "out_channels", 1)
        self.kernel_size = _pair(kernel_size, "kernel_size", 1)
        self.stride = _pair(stride, "stride", 1)
        self.dilation = _pair(dilation, "dilation", 1)
        self.groups = _integer(groups, "groups", 1)
        for name in ("in_channels", "out_channels"):
            channels = getattr(self, name)
            if channels % self.groups:
                raise ValueError(f"{name} must be divisible by groups: {channels} and {groups}")
        mixed = not self.in_channels == self.out_channels == self.groups
        check_method(method, self.kernel_size, self.stride, self.dilation, mixed)
        self.method, self.rtol = method, check_rtol(rtol)

    def _start(self, first: int, second: int, bias: bool, dtype: npt.DTypeLike, rng: Rng) -> None:
        """Draw the weight, of that many planes in its first two dimensions, and the bias."""
        kind, generator = _dtype(dtype), _generator(rng)
        shape = (first, second, *self.kernel_size)
        check_size("the weight, channels and kernel_size,", shape)
        fan_in = math.prod(shape[1:])
        self.weight = _uniform(shape, fan_in, kind, generator)
        self.bias = (
            _uniform((self.out_channels,), fan_in, kind, generator) if flag(bias, "bias") else None
        )

    def _convolve(self, x: Array) -> Array:
        raise NotImplementedError

    def _gradients(self, dy: Array, x: Array, needs: tuple[str, ...]) -> tuple[Any, Any, Any]:
        raise NotImplementedError

    def _forward(self, x: Array, keep: bool) -> tuple[Array, Any]:
        x = _to_dtype_of(self.weight, x)
        if x.ndim == 2 and self.in_channels == self.out_channels == 1:  # a plain image
            return self._convolve(x[None])[0], x
        return self._convolve(x), x

    def _backward(self, dy: Array, kept: Any, needs_input_grad: bool) -> Array | None:
        plain = dy.ndim == 2
        if plain:
            dy, kept = dy[None], kept[None]
        needs = _NEEDS[needs_input_grad, self.bias is not None]
        dx: Array | None
        dx, dweight, dbias = self._gradients(dy, kept, needs)
        grad = self.weight.grad
        np.add(grad, dweight, grad)
        if self.bias is not None:
            grad = self.bias.grad
            np.add(grad, dbias, grad)
        return dx[0] if plain and dx is not None else dx

    def __repr__(self) -> str:
        text = f"{type(self).__name__}({self.in_channels}, {self.out_channels}, "
        text += f"kernel_size={self.kernel_size}, stride={self.stride}"
        for name, usual in (
            ("padding", (0, 0)),
            ("dilation", (1, 1)),
            ("output_padding", (0, 0)),
            ("groups", 1),
        ):
            value = getattr(self, name)
            text += f", {name}={value}" if value != usual else ""
        text += ", bias=False" if self.bias is None else ""
        text += f", padding_mode={self.padding_mode}" if self.padding_mode != "zeros" else ""
        text += f", dtype={self.weight.dtype}" if self.weight.dtype != np.float32 else ""
        text += f", method={self.method}" if self.method != "auto" else ""
        text += f", rtol={self.rtol}" if self.rtol is not None else ""
        return text + ")"


class Conv2d(_Conv):
    """A layer that correlates images with kernels that are learned.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the input and the output.
    kernel_size : int or pair of int
        Rows and columns of a kernel.
    stride : int or pair of int, optional
        Step from one output element to the next.  Default 1.
    padding : int, pair, two pairs, 'same' or 'valid', optional
        Rows and columns put around the image, as for `fastcorr.conv2d`.  Default 0.
    dilation : int or pair of int, optional
        Step from one tap of the kernel to the next.  Default 1.
    groups : int, optional
        In how many groups, each with a share of the kernels, the channels are.  Default 1.
    bias : bool, optional
        Whether a number per output channel is added.  Default True.
    padding_mode : {'zeros', 'reflect', 'replicate', 'circular'}, optional
        What `padding` puts there.
    method : {'auto', 'direct', 'winograd', 'winograd4'}, optional
        Algorithm of the layer and its gradients, as for `fastcorr.conv2d`.  Default 'auto'.
    rtol : float, optional
        Error up to which 'auto' may take any method, as for `fastcorr.conv2d`.
    dtype : dtype, optional
        Type of the parameters, to which inputs are converted.  Default float32.
    rng : int or numpy.random.Generator, optional
        Where the first values come from.  The same integer gives the same values.

    Attributes
    ----------
    weight : Parameter, shape (out_channels, in_channels / groups, rows, columns)
    bias : Parameter, shape (out_channels,), or None

    Raises
    ------
    ValueError, TypeError
        For arguments out of range or of a wrong kind; calls as `fastcorr.conv2d`.

    See Also
    --------
    fastcorr.conv2d : the function without the state.

    Notes
    -----
    Takes (N, C, H, W) or (C, H, W) as PyTorch's, and with one channel in and out also a plain
    (H, W) image; the output has as many dimensions.  Images with the channels last go in as a
    view, ``images.transpose(0, 3, 1, 2)``, without a copy.

    Weight and bias start uniform in ±1/sqrt(n), where n is the number of inputs of an output
    element, as in PyTorch [1]_.  In a complex layer real and imaginary parts are drawn each,
    within ±1/sqrt(2 n): the mean square is the same.

    References
    ----------
    .. [1] K. He, X. Zhang, S. Ren and J. Sun, "Delving deep into rectifiers: surpassing
       human-level performance on ImageNet classification", ICCV 2015; with a = sqrt(5).

    Examples
    --------
    Learn the kernel that finds vertical edges, from one image and its edges:

    >>> import numpy as np
    >>> from fastcorr import corr2d, nn, optim
    >>> x = np.ones((6, 8))
    >>> x[:, 2:6] = 0
    >>> edges = corr2d(x, [[1, -1]])
    >>> layer = nn.Conv2d(1, 1, (1, 2), bias=False, rng=0)
    >>> optimizer = optim.SGD(layer.parameters(), lr=1e-3)
    >>> for step in range(400):
    ...     loss, dy = nn.mse_loss(layer(x), edges, reduction="sum")
    ...     optimizer.zero_grad()
    ...     dx = layer.backward(dy)
    ...     optimizer.step()
    >>> layer.weight.data.round(1)
    array([[[[ 1., -1.]]]], dtype=float32)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: str | int | Pair | tuple[Pair, Pair] = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        method: str = "auto",
        rtol: float | None = None,
        dtype: npt.DTypeLike = "float32",
        rng: Rng = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, dilation, groups, method, rtol
        )
        self.padding = _padding(padding)
        if not isinstance(padding_mode, str) or padding_mode not in PADDING_MODES:
            names = tuple(PADDING_MODES)
            raise ValueError(f"padding_mode must be one of {names}, got {shown(padding_mode)}")
        self.padding_mode = padding_mode
        self._start(out_channels, in_channels // groups, bias, dtype, rng)

    def _convolve(self, x: Array) -> Array:
        return conv2d(
            x,
            self.weight.data,
            None if self.bias is None else self.bias.data,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            padding_mode=self.padding_mode,
            method=self.method,
            rtol=self.rtol,
        )

    def _gradients(self, dy: Array, x: Array, needs: tuple[str, ...]) -> tuple[Any, Any, Any]:
        return conv2d_backward(
            dy,
            x,
            self.weight.data,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            padding_mode=self.padding_mode,
            needs=needs,
            method=self.method,
            rtol=self.rtol,
        )


class ConvTranspose2d(_Conv):
    """A layer that is a `Conv2d` backwards: each input element puts down a kernel.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the input and the output.
    kernel_size : int or pair of int
        Rows and columns of a kernel.
    stride : int or pair of int, optional
        Step in the output from one input element to the next.  Default 1.
    padding : int or pair of int, optional
        Rows and columns cut off at each edge of the output.  Default 0.
    output_padding : int or pair of int, optional
        Rows and columns added at the end of the output; less than `stride` or `dilation`.
        Default 0.
    groups : int, optional
        In how many groups, each with a share of the kernels, the channels are.  Default 1.
    bias : bool, optional
        Whether a number per output channel is added.  Default True.
    dilation : int or pair of int, optional
        Step from one tap of the kernel to the next.  Default 1.
    method : {'auto', 'direct', 'winograd', 'winograd4'}, optional
        Algorithm of the layer and its gradients, as for `fastcorr.conv2d`.  Default 'auto'.
    rtol : float, optional
        Error up to which 'auto' may take any method, as for `fastcorr.conv2d`.
    dtype : dtype, optional
        Type of the parameters, to which inputs are converted.  Default float32.
    rng : int or numpy.random.Generator, optional
        Where the first values come from.  The same integer gives the same values.

    Attributes
    ----------
    weight : Parameter, shape (in_channels, out_channels / groups, rows, columns)
    bias : Parameter, shape (out_channels,), or None

    Raises
    ------
    ValueError, TypeError
        For arguments out of range or of a wrong kind; calls as `fastcorr.conv_transpose2d`.

    See Also
    --------
    fastcorr.conv_transpose2d : the function without the state.
    Conv2d : what this is the transpose of.

    Notes
    -----
    Takes (N, C, H, W) or (C, H, W), and with one channel in and out also a plain (H, W) image.
    The parameters start as those of `Conv2d`; as in PyTorch, n is ``out_channels / groups``
    times the size of the kernel.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr import nn
    >>> layer = nn.ConvTranspose2d(8, 3, 4, stride=2, padding=1)
    >>> layer(np.ones((8, 10, 12))).shape
    (3, 20, 24)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        output_padding: int | Pair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | Pair = 1,
        *,
        method: str = "auto",
        rtol: float | None = None,
        dtype: npt.DTypeLike = "float32",
        rng: Rng = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, dilation, groups, method, rtol
        )
        self.padding = _pair(padding, "padding", 0)
        self.output_padding = _pair(output_padding, "output_padding", 0)
        for more, s, d in zip(self.output_padding, self.stride, self.dilation, strict=True):
            if more >= max(s, d):
                raise ValueError(
                    "output_padding must be smaller than stride or dilation, got "
                    f"{self.output_padding} with {self.stride} and {self.dilation}"
                )
        self._start(in_channels, out_channels // groups, bias, dtype, rng)

    def _convolve(self, x: Array) -> Array:
        return conv_transpose2d(
            x,
            self.weight.data,
            None if self.bias is None else self.bias.data,
            self.stride,
            self.padding,
            self.output_padding,
            self.groups,
            self.dilation,
            method=self.method,
            rtol=self.rtol,
        )

    def _gradients(self, dy: Array, x: Array, needs: tuple[str, ...]) -> tuple[Any, Any, Any]:
        return conv_transpose2d_backward(
            dy,
            x,
            self.weight.data,
            self.stride,
            self.padding,
            self.output_padding,
            self.groups,
            self.dilation,
            needs=needs,
            method=self.method,
            rtol=self.rtol,
        )


def _rows_times(x: Array, w: Array) -> Array:
    """Each row of x, times the matrix w."""
    # NumPy would go through stacks of empty matrices, of which there may be 2**50.
    return np.matmul(x, w) if x.size else np.zeros((*x.shape[:-1], w.shape[1]), w.dtype)


class Linear(Module):
    """A layer in which every output is a weighted sum of all inputs.

    Parameters
    ----------
    in_features, out_features : int
        Length of the last axis of the input and the output.
    bias : bool, optional
        Whether a number per output is added.  Default True.
    dtype : dtype, optional
        Type of the parameters, to which inputs are converted.  Default float32.
    rng : int or numpy.random.Generator, optional
        Where the first values come from.  The same integer gives the same values.

    Attributes
    ----------
    weight : Parameter, shape (out_features, in_features)
    bias : Parameter, shape (out_features,), or None

    Raises
    ------
    ValueError, TypeError
        For arguments out of range or of a wrong kind, and inputs whose last axis has another
        length.

    Notes
    -----
    ``y = x @ weight.T + bias`` along the last axis, whatever stands before it, by
    `numpy.matmul`.  The parameters start as those of `Conv2d`, with n = `in_features`.

    Examples
    --------
    >>> from fastcorr import nn
    >>> layer = nn.Linear(3, 2, rng=0)
    >>> layer([[1, 2, 3], [4, 5, 6]]).shape
    (2, 2)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: npt.DTypeLike = "float32",
        rng: Rng = None,
    ) -> None:
        self.in_features = fan_in = _integer(in_features, "in_features", 1)
        self.out_features = _integer(out_features, "out_features", 1)
        kind, generator = _dtype(dtype), _generator(rng)
        shape = self.out_features, fan_in
        self.weight = _uniform(shape, fan_in, kind, generator)
        self.bias = _uniform(shape[:1], fan_in, kind, generator) if flag(bias, "bias") else None

    def _forward(self, x: Array, keep: bool) -> tuple[Array, Any]:
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"the last axis of x must have the length {self.in_features}, got the shape "
                f"{x.shape}"
            )
        x = _to_dtype_of(self.weight, x)
        y = _rows_times(x, self.weight.data.T)
        if self.bias is not None:
            np.add(y, self.bias.data, y)
        return y, x

    def _backward(self, dy: Array, kept: Any, needs_input_grad: bool) -> Array | None:
        x = kept.reshape(-1, self.in_features)
        rows = dy.reshape(-1, self.out_features)
        weight, grad = self.weight.data, self.weight.grad
        if dy.dtype.kind == "c":
            x, weight = x.conj(), weight.conj()
        np.add(grad, np.matmul(rows.T, x), grad)
        if self.bias is not None:
            grad = self.bias.grad
            np.add(grad, rows.sum(axis=0), grad)
        return _rows_times(dy, weight) if needs_input_grad else None

    def __repr__(self) -> str:
        text = f"Linear(in_features={self.in_features}, out_features={self.out_features}, "
        text += f"bias={self.bias is not None}"
        text += f", dtype={self.weight.dtype}" if self.weight.dtype != np.float32 else ""
        return text + ")"


# ---------------------------------------------------------------- layers without weights


class ReLU(Module):
    """The positive part: negative numbers become zero.

    Raises
    ------
    TypeError
        When called with complex numbers, or with none.

    Notes
    -----
    NaN stays NaN.  The gradient at zero is zero, as in PyTorch.

    Examples
    --------
    >>> from fastcorr import nn
    >>> layer = nn.ReLU()
    >>> layer([-1.0, 0.0, 2.0])
    array([0., 0., 2.])
    >>> layer.backward([1.0, 1.0, 1.0])
    array([0., 0., 1.])
    """

    def _forward(self, x: Array, keep: bool) -> tuple[Array, Any]:
        if x.dtype.kind not in "iuf":
            raise TypeError(f"x must hold real numbers, got {x.dtype}")
        y = np.maximum(x, 0, out=np.empty(x.shape, x.dtype))
        # Not the output, which its owner may change; and NaN lets gradients through.
        return y, np.less_equal(y, 0) if keep else None

    def _backward(self, dy: Array, kept: Any, needs_input_grad: bool) -> Array | None:
        return _masked(dy, ~kept) if needs_input_grad else None

    def __repr__(self) -> str:
        return "ReLU()"


class Flatten(Module):
    """Several axes become one, from images to lists of numbers.

    Parameters
    ----------
    start_dim, end_dim : int, optional
        The first and the last of the axes.  Default 1 and -1: all but the batch.

    Raises
    ------
    ValueError
        When called with an array that has no such axes.
    TypeError
        If one of them is not an integer.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr import nn
    >>> nn.Flatten()(np.ones((5, 8, 3, 4))).shape
    (5, 96)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim = _integer(start_dim, "start_dim")
        self.end_dim = _integer(end_dim, "end_dim")

    def _forward(self, x: Array, keep: bool) -> tuple[Array, Any]:
        n = max(x.ndim, 1)
        start, end = (d + n if d < 0 else d for d in (self.start_dim, self.end_dim))
        if not 0 <= start <= end < n:
            raise ValueError(f"{self} needs an array that has these axes, got the shape {x.shape}")
        middle = math.prod(x.shape[start : end + 1])
        shape = (*x.shape[:start], middle, *x.shape[end + 1 :])
        return x.reshape(shape), x.shape

    def _backward(self, dy: Array, kept: Any, needs_input_grad: bool) -> Array | None:
        return dy.reshape(kept) if needs_input_grad else None

    def __repr__(self) -> str:
        return f"Flatten(start_dim={shown(self.start_dim)}, end_dim={shown(self.end_dim)})"


# The outputs of which a tap lies inside the image, and the inputs it meets there.
Tap = tuple[slice, slice]


# Elements of an image that a pooling takes at a time, over all taps.
_POOLED = 1 << 19


class _Pool(Module):
    """What the poolings share: windows over the image, tap by tap."""

    def _set(
        self,
        kernel_size: int | Pair,
        stride: int | Pair | None,
        padding: int | Pair,
        dilation: int | Pair,
        ceil_mode: bool,
    ) -> None:
        self.kernel_size = _pair(kernel_size, "kernel_size", 1)
        self.stride = self.kernel_size if stride is None else _pair(stride, "stride", 1)
        self.padding = _pair(padding, "padding", 0)
        self.dilation = _pair(dilation, "dilation", 1)
        self.ceil_mode = flag(ceil_mode, "ceil_mode")
        for k, p, d in zip(self.kernel_size, self.padding, self.dilation, strict=True):
            if p > (d * (k - 1) + 1) // 2:
                raise ValueError(
                    "padding must be at most half of the kernel's extent, got padding="
                    f"{self.padding} with kernel_size={self.kernel_size} and dilation="
                    f"{self.dilation}"
                )

    def _check(self, x: Array, kinds: str) -> None:
        # Attributes that were set since are to be right as well.
        self._set(self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)
        if x.dtype.kind not in kinds:
            raise TypeError(f"x is {x.dtype}, which {type(self).__name__} does not take")
        if x.ndim not in (3, 4):
            raise ValueError(f"x must have the shape (C, H, W) or (N, C, H, W), got {x.shape}")

    def _length(self, n: int, axis: int) -> int:
        """How many windows there are along an axis of n elements."""
        k, s, p, d = (v[axis] for v in (self.kernel_size, self.stride, self.padding, self.dilation))
        spare = n + 2 * p - d * (k - 1) - 1
        if self.ceil_mode:
            windows = -(-spare // s) + 1
            if (windows - 1) * s >= n + p:  # it would begin in the padding behind the image
                windows -= 1
        else:
            windows = spare // s + 1
        if windows < 1:
            raise ValueError(
                f"the image is too small: {n} {'columns' if axis else 'rows'} for windows of "
                f"{d * (k - 1) + 1} with padding {p}"
            )
        return windows

    def _taps(self, n: int, axis: int, windows: int) -> list[Tap]:
        """For each tap of the kernel that is ever inside, where in output and input it is."""
        k, s, p, d = (v[axis] for v in (self.kernel_size, self.stride, self.padding, self.dilation))
        taps = []
        inside = range(max(0, -(((windows - 1) * s - p) // d)), min(k, (n - 1 + p) // d + 1))
        for a in inside:
            start = a * d - p  # where it is for the first window
            first = max(0, -(start // s))
            last = min(windows - 1, (n - 1 - start) // s)
            if first > last:
                taps.append((slice(0), slice(0)))
            else:
                taps.append(
                    (slice(first, last + 1), slice(start + first * s, start + last * s + 1, s))
                )
        return taps

    def _walk(
        self, image: tuple[int, ...], windows: tuple[int, ...]
    ) -> Iterator[tuple[tuple[Any, ...], tuple[Any, ...]]]:
        """Indices of output and input for the taps, in row-major order."""
        rows, cols = (self._taps(image[n - 2], n, windows[n - 2]) for n in (0, 1))
        for rows_out, rows_in in rows:
            for cols_out, cols_in in cols:
                yield (..., rows_out, cols_out), (..., rows_in, cols_in)

    def _blocks(self, shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
        """Indices of some planes at a time: what NumPy walks over tap by tap stays in the cache,
        and Ctrl-C is seen between.
        """
        planes = max(_POOLED // max(shape[-2] * shape[-1], 1), 1)
        channels = max(min(planes, shape[-3]), 1)
        steps = (max(planes // channels, 1), channels)[4 - len(shape) :]
        starts = (range(0, n, step) for n, step in zip(shape[:-2], steps, strict=True))
        for corner in itertools.product(*starts):
            yield tuple(slice(i, i + step) for i, step in zip(corner, steps, strict=True))

    def _shape_of(self, x: Array) -> tuple[int, ...]:
        return (*x.shape[:-2], self._length(x.shape[-2], 0), self._length(x.shape[-1], 1))

    def _arguments(self, *names: str) -> str:
        texts = []
        for name in names:
            value = getattr(self, name)
            one = isinstance(value, tuple) and value[0] == value[1]
            texts.append(f"{name}={value[0] if one else value}")
        return f"{type(self).__name__}({', '.join(texts)})"


class MaxPool2d(_Pool):
    """The largest number of each window.

    Parameters
    ----------
    kernel_size : int or pair of int
        Rows and columns of a window.
    stride : int or pair of int, optional
        Step from one window to the next.  Default: `kernel_size`.
    padding : int or pair of int, optional
        How far windows reach out of the image, where nothing is; at most half their extent.
        Default 0.
    dilation : int or pair of int, optional
        Step inside a window.  Default 1.
    ceil_mode : bool, optional
        Whether windows may reach out behind the last row and column, so that none is left
        out.  Default False.

    Raises
    ------
    ValueError, TypeError
        For arguments out of range or of a wrong kind; when called, for complex numbers, for
        arrays that are not (N, C, H, W) or (C, H, W), and images smaller than a window.

    Notes
    -----
    As in PyTorch: the gradient goes to the first of equal maxima in row-major order, and a
    window with a NaN gives NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr import nn
    >>> layer = nn.MaxPool2d(2)
    >>> layer(np.arange(16.0).reshape(1, 4, 4))
    array([[[ 5.,  7.],
            [13., 15.]]])
    """

    def __init__(
        self,
        kernel_size: int | Pair,
        stride: int | Pair | None = None,
        padding: int | Pair = 0,
        dilation: int | Pair = 1,
        ceil_mode: bool = False,
    ) -> None:
        self._set(kernel_size, stride, padding, dilation, ceil_mode)

    def _forward(self, x: Array, keep: bool) -> tuple[Array, Any]:
        self._check(x, "iuf")
        least = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
        shape = self._shape_of(x)
        y = np.full(shape, least, x.dtype.newbyteorder("="))
        if not keep:
            for block in self._blocks(x.shape):
                for at, inside in self._walk(x.shape, shape):
                    best = y[block][at]
                    np.maximum(best, x[block][inside], out=best)
            return y, None

        # For each output the number of the tap that won, the first one inside to begin with:
        # it would win if all were -inf.
        taps = list(enumerate(self._walk(x.shape, shape)))
        winner = np.zeros(shape, np.min_scalar_type(len(taps)))
        for block in self._blocks(x.shape):
            some_nan = x.size > 0 and bool(np.isnan(x[block].min()))
            for n, (at, _) in reversed(taps):
                winner[block][at] = n
            for n, (at, inside) in taps:
                tap, best, won = x[block][inside], y[block][at], winner[block][at]
                better = tap > best
                if some_nan:
                    better |= np.isnan(tap)
                # Numbers of taps only grow: a maximum is several times as fast as a masked copy.
                number = np.multiply(better, n, dtype=winner.dtype, casting="unsafe")
                np.maximum(won, number, out=won)
                np.maximum(best, tap, out=best)
        return y, (winner, x.shape)

    def _backward(self, dy: Array, kept: Any, needs_input_grad: bool) -> Array | None:
        if not needs_input_grad:
            return None
        winner, shape = kept
        dx = np.zeros(shape, dy.dtype)
        for block in self._blocks(shape):
            for n, (at, inside) in enumerate(self._walk(shape, dy.shape)):
                dx[block][inside] += _masked(dy[block][at], winner[block][at] == n)
        return dx

    def __repr__(self) -> str:
        return self._arguments("kernel_size", "stride", "padding", "dilation", "ceil_mode")


class AvgPool2d(_Pool):
    """The mean of each window.

    Parameters
    ----------
    kernel_size : int or pair of int
        Rows and columns of a window.
    stride : int or pair of int, optional
        Step from one window to the next.  Default: `kernel_size`.
    padding : int or pair of int, optional
        Rows and columns of zeros around the image; at most half a window.  Default 0.
    ceil_mode : bool, optional
        Whether windows may reach out behind the padding, so that nothing is left out.
        Default False.
    count_include_pad : bool, optional
        Whether the zeros of the padding count in the mean.  What is behind them never does.
        Default True.

    Raises
    ------
    ValueError, TypeError
        For arguments out of range or of a wrong kind; when called, for integers, for arrays
        that are not (N, C, H, W) or (C, H, W), and images smaller than a window.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr import nn
    >>> layer = nn.AvgPool2d(2)
    >>> layer(np.arange(16.0).reshape(1, 4, 4))
    array([[[ 2.5,  4.5],
            [10.5, 12.5]]])
    """

    def __init__(
        self,
        kernel_size: int | Pair,
        stride: int | Pair | None = None,
        padding: int | Pair = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        self._set(kernel_size, stride, padding, 1, ceil_mode)
        self.count_include_pad = flag(count_include_pad, "count_include_pad")

    def _counts(self, image: tuple[int, ...], windows: tuple[int, ...]) -> Array | float:
        """How many numbers each window is the mean of."""
        axes = []
        for n in (0, 1):
            p, length = self.padding[n], image[n - 2]
            # A longer stride has one window.
            start = np.arange(windows[n - 2]) * min(self.stride[n], length + 2 * p) - p
            stop = np.minimum(start + self.kernel_size[n], length + p)
            if not self.count_include_pad:
                start, stop = np.maximum(start, 0), np.minimum(stop, length)
            axes.append(stop - start)
        counts = np.multiply.outer(*axes, dtype=float)  # may be too large for an integer
        first = float(counts[0, 0])
        return first if (counts == first).all() else counts

    def _divide(self, a: Array, image: tuple[int, ...]) -> Array:
        counts = self._counts(image, a.shape)
        return np.divide(a, counts, dtype=a.dtype, casting="same_kind")

    def _forward(self, x: Array, keep: bool) -> tuple[Array, Any]:
        self._check(x, "fc")
        shape = self._shape_of(x)
        native = x.dtype.newbyteorder("=")
        y = np.zeros(shape, np.result_type(native, np.float32))  # a sum of half floats is none
        for block in self._blocks(x.shape):
            for at, inside in self._walk(x.shape, shape):
                y[block][at] += x[block][inside]
        return self._divide(y, x.shape).astype(native, copy=False), x.shape

    def _backward(self, dy: Array, kept: Any, needs_input_grad: bool) -> Array | None:
        if not needs_input_grad:
            return None
        wide = np.result_type(dy.dtype, np.float32)
        dx = np.zeros(kept, wide)
        share = self._divide(dy.astype(wide, copy=False), kept)
        for block in self._blocks(kept):
            for at, inside in self._walk(kept, dy.shape):
                dx[block][inside] += share[block][at]
        return dx.astype(dy.dtype, copy=False)

    def __repr__(self) -> str:
        names = ["kernel_size", "stride", "padding"]
        names += ["ceil_mode"] if self.ceil_mode else []
        names += [] if self.count_include_pad else ["count_include_pad"]
        return self._arguments(*names)


# ---------------------------------------------------------------- losses


def _numbers(a: npt.ArrayLike, name: str, dtypes: tuple[DType, ...]) -> Array:
    """An array in one of the dtypes: as it is, or the float64 of its integers."""
    array = _array(a, name)
    if array.dtype in dtypes:
        return array
    check_size(name, array.shape)
    if array.dtype.kind in "fc" and array.dtype.newbyteorder("=") in dtypes:
        return array.astype(array.dtype.newbyteorder("="))
    if array.dtype.kind in "biu":
        return array.astype(np.float64)
    if array.dtype == np.float16:
        return array.astype(np.float32)
    raise TypeError(f"{name} is {array.dtype}, expected {' or '.join(map(str, dtypes))}")


def mse_loss(
    y: npt.ArrayLike, target: npt.ArrayLike, reduction: str = "mean"
) -> tuple[float, Array]:
    """Squared error: how far an output is from the one wanted.

    Parameters
    ----------
    y : array_like
        What came out, real or complex.
    target : array_like
        What should have, of the same shape; converted to the dtype of `y`.
    reduction : {'mean', 'sum'}, optional
        Whether the mean over all elements is taken (default) or the sum.

    Returns
    -------
    loss : float
        Mean or sum of ``abs(y - target) ** 2``.
    dy : ndarray
        Its gradient to `y`, of the shape and dtype of `y` (float64 of integers, float32 of half
        floats): what ``backward`` takes.

    Raises
    ------
    ValueError
        If the shapes differ, or for another `reduction`.
    TypeError
        If `target` is complex and `y` is not, or one of them holds no numbers.

    Notes
    -----
    For complex numbers the gradient is ``2 (y - target)``: it points where the loss grows, its
    real and imaginary parts being the partial derivatives.

    Examples
    --------
    >>> from fastcorr import nn
    >>> nn.mse_loss([1.0, 2.0], [1.0, 4.0])
    (2.0, array([ 0., -2.]))
    """
    y = _numbers(y, "y", _DTYPES)
    target = _array(target, "target")
    if y.shape != target.shape:
        raise ValueError(
            f"target must have the shape of y, {y.shape}, got {target.shape}: nothing is broadcast"
        )
    _reduction(reduction)
    if target.dtype != y.dtype:
        target = _cast(target, y.dtype, "target")
    d = np.subtract(y, target, out=np.empty(y.shape, y.dtype))
    squares = np.square(d) if y.dtype.kind != "c" else np.square(d.real) + np.square(d.imag)
    loss = float(np.add.reduce(squares, axis=None))
    scale = 2.0
    if reduction == "mean":
        loss = loss / d.size if d.size else math.nan
        scale /= max(d.size, 1)
    return loss, np.multiply(d, scale, out=d)


def cross_entropy(
    logits: npt.ArrayLike, target: npt.ArrayLike, reduction: str = "mean"
) -> tuple[float, Array]:
    """Cross entropy of the softmax: how surprised a classifier is by the right answers.

    Parameters
    ----------
    logits : array_like, shape (N, C) or (C,)
        For each sample a number per class, the larger the likelier; real.
    target : array_like of int, shape (N,) or (); or of float, shape (N, C) or (C,)
        The right class of each sample, from 0 to C - 1; or the probability of each class.
    reduction : {'mean', 'sum'}, optional
        Whether the mean over the samples is taken (default) or the sum.

    Returns
    -------
    loss : float
        Mean or sum of ``-log(softmax(logits)[target])``.
    dlogits : ndarray
        Its gradient to `logits`, of their shape and dtype: what ``backward`` takes.

    Raises
    ------
    ValueError
        If the shapes do not fit, a label is not a class, or for another `reduction`.
    TypeError
        If `logits` are complex, or labels are not integers.

    Notes
    -----
    The largest logit of a sample is subtracted before exponentials are taken, so that none
    overflows.  The layer before this one is the last: no softmax in between.

    Examples
    --------
    >>> from fastcorr import nn
    >>> loss, dlogits = nn.cross_entropy([[2.0, 0.0], [0.0, 3.0]], [0, 1])
    >>> round(loss, 4)
    0.0878
    >>> dlogits.round(2)
    array([[-0.06,  0.06],
           [ 0.02, -0.02]])
    """
    x = _numbers(logits, "logits", _DTYPES[:2])
    t = _array(target, "target")
    if x.ndim not in (1, 2) or x.shape[-1] == 0:
        raise ValueError(f"logits must have the shape (N, C) or (C,), got {x.shape}")
    _reduction(reduction)
    labels = t.dtype.kind in "iu"
    if labels and t.shape != x.shape[:-1]:
        raise ValueError(
            f"class labels must have the shape {x.shape[:-1]} for logits of shape {x.shape}, "
            f"got {t.shape}"
        )
    if not labels and t.shape != x.shape:
        if t.shape == x.shape[:-1]:
            raise TypeError(f"class labels must be integers, got {t.dtype}")
        raise ValueError(
            f"target must have the shape {x.shape[:-1]} (classes) or {x.shape} (probabilities), "
            f"got {t.shape}"
        )
    rows = x.reshape(-1, x.shape[-1])
    N, C = rows.shape
    if labels:
        wrong = np.flatnonzero((t < 0) | (t >= C))
        if wrong.size:
            n = wrong[0]
            raise ValueError(
                f"class labels must be from 0 to {C - 1}, got {t.flat[n]}"
                + (f" for sample {n}" if t.ndim else "")
            )
    log_p = rows - rows.max(axis=1, keepdims=True)
    p = np.exp(log_p)
    total = p.sum(axis=1, keepdims=True)
    p /= total
    log_p -= np.log(total)
    if labels:
        here = np.arange(N), t.reshape(-1)
        loss = -float(log_p[here].sum())
        p[here] -= 1
    else:
        wanted = _cast(t, x.dtype, "target").reshape(N, C)
        loss = -float((wanted * log_p).sum())
        p *= wanted.sum(axis=1, keepdims=True)
        p -= wanted
    if reduction == "mean":
        loss = loss / N if N else math.nan
        p /= max(N, 1)
    return loss, p.reshape(x.shape)


# ---------------------------------------------------------------- training


@dataclass
class History:
    """What happened in a call of `fit`; `fastcorr.plot.history` draws it.

    Parameters
    ----------
    loss : list of float
        Per epoch, the mean loss of its steps, weighted by their numbers of samples.
    steps : list of float
        The loss of every step.
    lr : list of float
        Per epoch, the learning rate at its beginning.
    interrupted : bool
        Whether Ctrl-C ended the training.

    Examples
    --------
    >>> from fastcorr import nn, optim
    >>> model = nn.Linear(1, 1, rng=0)
    >>> history = nn.fit(
    ...     model, [[0.0], [1.0]], [[1.0], [3.0]], optimizer=optim.SGD(model.parameters(), lr=0.1),
    ...     loss=nn.mse_loss, epochs=3, batch_size=1, rng=0, progress=False,
    ... )
    >>> len(history.loss), len(history.steps)
    (3, 6)
    >>> history.lr
    [0.1, 0.1, 0.1]
    >>> history.interrupted
    False
    """

    loss: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    interrupted: bool = False

    def __repr__(self) -> str:
        last = f", loss={self.loss[-1]:.6g}" if self.loss else ""
        stopped = ", interrupted" if self.interrupted else ""
        return f"<History: epochs={len(self.loss)}, steps={len(self.steps)}{last}{stopped}>"


def _progress_bar(steps: int) -> Any:
    if sys.stderr is None:  # pythonw has none
        return None
    try:
        return importlib.import_module("tqdm.auto").tqdm(total=steps, unit="step")
    except ImportError:
        return None


def _loss_and_gradient(result: object, output: Array) -> tuple[float, Array]:
    """What a loss returned, if a step can be made of it."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(f"loss must return a pair (loss, gradient), got {shown(result)}")
    value, gradient = (_array(r, "what loss returned") for r in result)
    if value.ndim or value.dtype.kind not in "biuf":
        raise TypeError(f"loss must return a number first, got {shown(result[0])}")
    if gradient.shape != output.shape:
        raise ValueError(
            f"loss must return a gradient of the output's shape, {output.shape}, got "
            f"{gradient.shape}"
        )
    return float(value), _cast(gradient, output.dtype, "the gradient that loss returned")


def fit(
    model: Module,
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    optimizer: Optimizer,
    loss: Loss,
    epochs: int,
    batch_size: int,
    rng: Rng = None,
    callback: Callable[[History], object] | None = None,
    progress: bool = True,
) -> History:
    """Train a model on pairs of inputs and outputs.

    Parameters
    ----------
    model : Module
        The model.
    x : array_like, shape (samples, ...)
        The inputs.
    y : array_like, shape (samples, ...)
        What should come out.
    optimizer : Optimizer
        One of `fastcorr.optim`, made with ``model.parameters()`` or some of them.
    loss : callable
        Takes the output and that part of `y`, returns the loss and its gradient to the output:
        `mse_loss`, `cross_entropy`, `functools.partial` of one of them, or your own.
    epochs : int
        How many times all samples are gone through.
    batch_size : int
        Samples per step.  The last batch of an epoch may be smaller.
    rng : int or numpy.random.Generator, optional
        Shuffles the samples before each epoch.  The same integer gives the same order.
    callback : callable, optional
        Called after each epoch with the `History`, as ``callback(history)``; if it returns
        True, the training ends.  The place to step a schedule or to measure accuracy.
    progress : bool, optional
        Whether tqdm, if installed, shows a progress bar.  Default True.

    Returns
    -------
    History
        The losses.

    Raises
    ------
    ValueError
        If `x` and `y` are not equally long, or empty, the numbers are out of range, or the
        optimizer has none of the model's parameters.
    TypeError
        For arguments of a wrong kind.

    Notes
    -----
    Ctrl-C (`KeyboardInterrupt`) ends the training and is not raised: the history tells of it,
    and model and optimizer are as after the last complete step, ready to use or to go on.

    A loss that overflows or is NaN does not end the training, as in PyTorch; a callback that
    looks at ``history.loss[-1]`` can.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr import nn, optim
    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> y = x @ [[1], [2], [-1]]
    >>> model = nn.Linear(3, 1, rng=0)
    >>> optimizer = optim.SGD(model.parameters(), lr=0.1)
    >>> history = nn.fit(
    ...     model, x, y, optimizer=optimizer, loss=nn.mse_loss, epochs=30, batch_size=10, rng=0,
    ...     progress=False,
    ... )
    >>> history.loss[-1] < 1e-6
    True
    >>> model.weight.data.round(2)
    array([[ 1.,  2., -1.]], dtype=float32)
    """
    if not isinstance(model, Module):
        raise TypeError(f"model must be a Module, got {shown(model)}")
    if not isinstance(optimizer, importlib.import_module("fastcorr.optim").Optimizer):
        raise TypeError(f"optimizer must be an Optimizer, got {shown(optimizer)}")
    if not callable(loss):
        raise TypeError(f"loss must be callable, got {shown(loss)}")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable, got {shown(callback)}")
    epochs = _integer(epochs, "epochs", 0)
    batch_size = _integer(batch_size, "batch_size", 1)
    inputs, targets = _array(x, "x"), _array(y, "y")
    if inputs.ndim == 0 or targets.ndim == 0 or len(inputs) != len(targets):
        raise ValueError(
            f"x and y must have as many samples, got the shapes {inputs.shape} and {targets.shape}"
        )
    N = len(inputs)
    if N == 0:
        raise ValueError("x and y hold no samples")
    parameters = model.parameters()
    if not any(p in parameters for p in optimizer.params):
        raise ValueError("optimizer has none of the model's parameters")
    generator = _generator(rng)
    progress = flag(progress, "progress")

    history = History()
    # Before a step: the numbers of those made and recorded, and its loss.
    before: tuple[int, int, float] | None = None
    bar = _progress_bar(epochs * -(-N // batch_size)) if progress else None
    try:
        for _ in range(epochs):
            lr, total = optimizer.lr, 0.0
            order = generator.permutation(N)
            for start in range(0, N, batch_size):
                batch = order[start : start + batch_size]
                for p in parameters:
                    p.grad.fill(0)
                output = model(inputs[batch])
                value, dy = _loss_and_gradient(loss(output, targets[batch]), output)
                model.backward(dy, needs_input_grad=False)
                before = optimizer.steps, len(history.steps), value
                optimizer.step()
                history.steps.append(value)
                total += value * len(batch)
                if bar is not None:
                    bar.set_postfix_str(f"loss {value:.4g}", refresh=False)
                    bar.update()
            history.lr.append(lr)
            history.loss.append(total / N)
            if callback is not None:
                stop = callback(history)
                if isinstance(stop, (bool, np.bool_)) and stop:
                    break
    except KeyboardInterrupt:
        history.interrupted = True
        if before and optimizer.steps > before[0] and len(history.steps) == before[1]:
            history.steps.append(before[2])  # made, but not yet recorded
        del history.lr[len(history.loss) :]
        model._kept = model._shape = None
        model.zero_grad()
    finally:
        if bar is not None:
            bar.close()
    return history


# ---------------------------------------------------------------- files


def _path(value: str | os.PathLike[str]) -> Path:
    try:
        path = Path(value)
    except TypeError:
        raise TypeError(f"path must be a file's name, got {shown(value)}") from None
    if "\0" in str(path):
        raise ValueError(f"path must be a file's name, got {shown(value)}")
    return path


def _kind(path: Path) -> str:
    kind = path.suffix.lower()
    if kind not in (".npz", ".safetensors"):
        raise ValueError(f"the file's name must end in .npz or .safetensors, got {str(path)!r}")
    return kind


def _check_names(own: Mapping[str, Parameter], given: Iterable[str]) -> None:
    given = set(given)
    for names, what in (
        ([n for n in own if n not in given], "are missing"),
        (sorted(given.difference(own), key=str), "belong to no parameter"),
    ):
        if names:
            raise ValueError(f"the names do not fit: {', '.join(map(repr, names[:8]))} {what}")


def _check_array(name: str, p: Parameter, shape: Sequence[int], dtype: object) -> None:
    if tuple(shape) != p.shape or dtype != p.dtype:
        raise ValueError(
            f"{name!r} must have the shape {p.shape} and dtype {p.dtype}, not {tuple(shape)} and "
            f"{dtype}"
        )


def _check_size(file: IO[bytes], own: Mapping[str, Parameter]) -> None:
    """No reader sees a file much larger than the model: what is in it is bounded from here on."""
    most = sum(p.data.nbytes + 2 * len(name.encode()) + 1024 for name, p in own.items()) + (1 << 20)
    size = os.fstat(file.fileno()).st_size
    if size > most:
        raise ValueError(f"its {size} bytes are more than the model's parameters fill")


def _check_savable(kind: str, names: Iterable[str]) -> None:
    """No names that the format has no room for, or another use: zip's end at a null character and
    have 65 535 bytes at most."""
    for name in names:
        if kind == ".safetensors":
            good = name != "__metadata__"
        else:
            good = "\0" not in name and len(name.encode(errors="replace")) < 65_000
        if not good:
            raise ValueError(f"a {kind} file cannot hold a parameter named {shown(name)}")


def _fill(own: Mapping[str, Parameter], values: Mapping[str, Array]) -> None:
    """Set the parameters' values, all or none."""
    for name, p in own.items():
        if not p.data.flags.writeable:
            raise ValueError(f"{name} is read-only")
    for name, p in own.items():
        p.data[...] = values[name]


def _save_npz(file: IO[bytes], state: Mapping[str, Array]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in state.items():
            # A ZipInfo of its own carries no date: the same model is the same file.
            with archive.open(zipfile.ZipInfo(name + ".npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _load_npz(file: IO[bytes], own: Mapping[str, Parameter]) -> dict[str, Array]:
    with zipfile.ZipFile(file) as archive:
        members: dict[str, zipfile.ZipInfo] = {}
        for m in archive.infolist():
            name = m.filename.removesuffix(".npy")
            if name in members:
                raise ValueError(f"it holds two arrays named {name!r}")
            members[name] = m
        _check_names(own, members)
        for name, m in members.items():
            # The other methods may make gigabytes of a block before anybody can count them.
            if m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{name!r} is compressed by a method that is not supported")
            p = own[name]
            if m.file_size > p.data.nbytes + 12_000:  # NumPy's largest header is 10 000
                raise ValueError(f"{name!r} has {m.file_size} bytes, too many for its parameter")
            with archive.open(m) as member:
                shape, _, dtype = npy_header(member)
                _check_array(name, p, shape, dtype.newbyteorder("="))
                if member.tell() + p.data.nbytes != m.file_size:
                    raise ValueError(f"{name!r} is not as long as its header says")
        values = {}
        for name, m in members.items():
            with archive.open(m) as member:
                shape, fortran, dtype = npy_header(member)
                raw = member.read()  # to the end, where the checksum is compared
            values[name] = np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")
    return values


# Their names in a safetensors file; it has none for complex128.
_SAFETENSORS = dict(zip(_DTYPES, ("F32", "F64", "C64"), strict=False))


def _save_safetensors(file: IO[bytes], state: Mapping[str, Array]) -> None:
    for name, array in state.items():
        if array.dtype not in _SAFETENSORS:
            raise ValueError(f"{name!r} is {array.dtype}, which .safetensors cannot hold; use .npz")
    # Its own writing hides an OSError.
    file.write(importlib.import_module("safetensors.numpy").save(dict(state)))


def _load_safetensors(file: IO[bytes], own: Mapping[str, Parameter]) -> dict[str, Array]:
    # Not mapped into memory, where a file that is cut short later would end the process.
    there = dict(importlib.import_module("safetensors").deserialize(file.read()))
    names = {code: dtype for dtype, code in _SAFETENSORS.items()}
    _check_names(own, there)
    values = {}
    for name, p in own.items():
        entry = there[name]
        _check_array(name, p, entry["shape"], names.get(entry["dtype"], entry["dtype"]))
        values[name] = np.frombuffer(entry["data"], p.dtype.newbyteorder("<")).reshape(p.shape)
    return values
