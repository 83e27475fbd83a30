"""Receptive fields: which input pixels can change an output element of a chain of layers.

Every layer here reads a rectangle, with gaps if dilated, and what it reads along one axis does
not depend on the other.  So a field is always rows x columns, and each axis goes its own way.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastcorr._arguments import flag, listed, shown
from fastcorr._boundary import LARGEST, PADDING_MODES, sources
from fastcorr.correlate import check_size

__all__ = ["ReceptiveField", "receptive_field", "receptive_field_mask"]

# Words of a layer that do not change what it reads.
_OTHER_KEYS = {"in_channels", "out_channels", "groups", "bias", "count_include_pad"}
_KEYS = {"kernel_size", "stride", "padding", "dilation", "padding_mode", "ceil_mode"}

# The beginnings of the names of layers that read otherwise, or everything.
_REFUSED = (
    "ConvTranspose", "Flatten", "Linear", "Adaptive", "Upsample", "Unflatten", "MaxUnpool",
    "Fractional", "Fold", "Unfold", "PixelShuffle", "PixelUnshuffle",
)  # fmt: skip


class ReceptiveField(NamedTuple):
    """The receptive fields of one layer's outputs, each attribute a pair (rows, columns).

    What output element (i, j) depends on begins at row ``offset[0] + i * jump[0]`` of the
    input and spans ``size[0]`` rows; likewise columns.

    Parameters
    ----------
    size : pair of int
        Rows and columns that a field spans, with the gaps that dilation leaves.
    jump : pair of int
        How far the fields of neighbouring outputs lie apart: the product of the strides.
    offset : pair of int
        Where the field of output (0, 0) begins.  Negative where it begins in the padding.

    Examples
    --------
    >>> from fastcorr import receptive_field
    >>> receptive_field([dict(kernel_size=3, padding=1)])[0].offset
    (-1, -1)
    """

    size: tuple[int, int]
    jump: tuple[int, int]
    offset: tuple[int, int]


class _Axis(NamedTuple):
    """What a layer reads along one axis: output i reads i * stride - before + dilation * a."""

    taps: int
    stride: int
    padding: tuple[int, int] | str
    dilation: int
    mode: str
    ceil: bool

    @property
    def span(self) -> int:
        return self.dilation * (self.taps - 1) + 1

    def pads(self, n: int | None) -> tuple[int, int]:
        """Elements before and after an input of n."""
        if not isinstance(self.padding, str):
            return self.padding
        if self.padding == "valid":
            return 0, 0
        if self.stride == 1:
            total = self.span - 1
        elif n is None:
            raise ValueError(
                "padding='same' with stride > 1 depends on the input's size: pass input_shape"
            )
        else:
            total = max((-(-n // self.stride) - 1) * self.stride + self.span - n, 0)
        return total // 2, total - total // 2

    def outputs(self, n: int) -> int:
        before, after = self.pads(n)
        room = n + before + after - self.span
        count = room // self.stride + 1
        # One more window that hangs over the end, if it begins before the end.
        if self.ceil and room % self.stride and count * self.stride < n + before:
            count += 1
        return max(count, 0)

    def reached(self, outputs: npt.NDArray[np.bool_], n: int) -> npt.NDArray[np.bool_]:
        """Which of the n inputs the marked outputs read."""
        before, after = self.pads(n)
        bound = PADDING_MODES[self.mode]
        # What windows that hang over the end read there is nothing; nor are zeros.
        low, high = (0, n) if bound == "fill" else (-before, n + after)
        first = np.flatnonzero(outputs) * self.stride - before
        taps = np.arange(self.taps) * self.dilation
        inputs = np.zeros(n, bool)
        few, many = sorted((first, taps), key=len)
        for i in few.tolist():
            at = many[np.searchsorted(many, low - i) : np.searchsorted(many, high - i)] + i
            inputs[at if bound == "fill" else sources(at, n, bound)] = True
        return inputs


def receptive_field(
    layers: Iterable[object] | object, input_shape: Sequence[int] | None = None
) -> list[ReceptiveField]:
    """Size, step and position of the receptive fields after each layer of a chain.

    Parameters
    ----------
    layers : iterable of layers
        Layers in the order in which they are applied, for example an `nn.Sequential`; chains
        within it are opened.  A layer is an object, or a dict, with ``kernel_size`` and
        perhaps ``stride``, ``padding``, ``dilation``, ``padding_mode``, ``ceil_mode``, as
        `nn.Conv2d`, `nn.MaxPool2d` and `nn.AvgPool2d` take them.  Other layers, such as
        `nn.ReLU`, are taken to work element by element.
    input_shape : sequence of int, optional
        Shape of the input, of which the last two numbers count.  Needed only for
        ``padding='same'`` with a stride above 1, whose padding depends on it.

    Returns
    -------
    list of ReceptiveField
        One for each layer, with pairs (rows, columns) `size`, `jump` and `offset`: the field
        of output element (i, j) begins at row ``offset[0] + i * jump[0]`` of the input and has
        ``size[0]`` rows; likewise columns.  Row and column 0 are the input's first; fields may
        begin and end in the padding.

    Raises
    ------
    ValueError
        If a layer has no fields of that kind (transposed convolutions, unpooling; `nn.Flatten`
        and `nn.Linear`, which read everything) or only pads, an argument is out of range,
        `input_shape` is needed and missing, or too small for the layers.
    TypeError
        If something is no layer, or an argument is no integer.

    See Also
    --------
    receptive_field_mask : exactly which pixels, at the edges and with dilation too.

    Notes
    -----
    A layer of kernel size k, stride s, dilation d with p elements of padding before the first
    takes (size, jump, offset) to (size + d * (k - 1) * jump, s * jump, offset - p * jump) [1]_.

    References
    ----------
    .. [1] A. Araujo, W. Norris and J. Sim, "Computing Receptive Fields of Convolutional Neural
       Networks", Distill, 2019.  https://doi.org/10.23915/distill.00021

    Examples
    --------
    >>> from fastcorr import receptive_field
    >>> conv = dict(kernel_size=3, padding=1)
    >>> for field in receptive_field([conv, dict(kernel_size=2, stride=2), conv]):
    ...     print(field)
    ReceptiveField(size=(3, 3), jump=(1, 1), offset=(-1, -1))
    ReceptiveField(size=(4, 4), jump=(2, 2), offset=(-1, -1))
    ReceptiveField(size=(8, 8), jump=(2, 2), offset=(-3, -3))
    """
    chain = [_axes(layer) for layer in _layers(layers)]
    sizes: list[Any] = [None] * len(chain)
    if input_shape is not None:
        sizes = _shapes(chain, input_shape)
    size, jump, offset = [1, 1], [1, 1], [0, 0]
    fields = []
    for axes, shape in zip(chain, sizes[: len(chain)], strict=True):
        for n, axis in enumerate(axes):
            before, _ = axis.pads(None if shape is None else shape[n])
            size[n] += (axis.span - 1) * jump[n]
            offset[n] -= before * jump[n]
            jump[n] *= axis.stride
        fields.append(
            ReceptiveField((size[0], size[1]), (jump[0], jump[1]), (offset[0], offset[1]))
        )
    return fields


def receptive_field_mask(
    layers: Iterable[object] | object, input_shape: Sequence[int], position: Sequence[int]
) -> npt.NDArray[np.bool_]:
    """Exactly the input pixels that can change one output element of a chain of layers.

    Parameters
    ----------
    layers : iterable of layers
        As for `receptive_field`.
    input_shape : sequence of int
        Shape of the input, of which the last two numbers, H and W, count.
    position : pair of int
        Row and column of the output element.

    Returns
    -------
    ndarray of bool, shape (H, W)
        True where a pixel, in some channel, reaches the element: where its gradient is not 0
        for weights in general position.  Dilation leaves holes.  Padding with zeros is no
        pixel; other padding is the pixels it repeats.

    Raises
    ------
    ValueError
        If the output has no such element, or as `receptive_field`.
    TypeError
        As `receptive_field`.

    See Also
    --------
    receptive_field : the same in closed form, away from the edges.

    Examples
    --------
    >>> from fastcorr import receptive_field_mask
    >>> receptive_field_mask([dict(kernel_size=2, dilation=2)], (4, 5), (1, 0)).astype(int)
    array([[0, 0, 0, 0, 0],
           [1, 0, 1, 0, 0],
           [0, 0, 0, 0, 0],
           [1, 0, 1, 0, 0]])
    """
    chain = [_axes(layer) for layer in _layers(layers)]
    shapes = _shapes(chain, input_shape)
    i, j = _position(position, shapes[-1])
    check_size("the mask", shapes[0])
    axes = []
    for n, at in enumerate((i, j)):
        mark = np.zeros(shapes[-1][n], bool)
        mark[at] = True
        for layer, shape in zip(reversed(chain), reversed(shapes[:-1]), strict=True):
            mark = layer[n].reached(mark, shape[n])
        axes.append(mark)
    mask = np.empty(shapes[0], bool)
    step = max((1 << 24) // len(axes[1]), 1)  # rows: between them Ctrl-C is heard
    for i in range(0, len(mask), step):
        np.logical_and(axes[0][i : i + step, np.newaxis], axes[1], out=mask[i : i + step])
    return mask


class Nested(NamedTuple):
    """The field of one element of a layer's output; see `nested`."""

    layer: str
    start: tuple[int, int]
    size: tuple[int, int]
    mask: npt.NDArray[np.bool_]


def nested(
    layers: Iterable[object] | object,
    input_shape: Sequence[int] | None,
    position: Sequence[int] | None,
) -> tuple[tuple[int, int], list[Nested]]:
    """Fields within fields, for the picture: an output element, one it reads, one that reads, …

    The element of each layer is the middle one of those that the next layer's reads, so that
    its field lies within that one's.  By default the input is just large enough for the field
    of an element away from the edges, or the element is the middle of the output.
    """
    opened = _layers(layers)
    if not opened:
        raise ValueError("layers is empty")
    chain = [_axes(layer) for layer in opened]
    if input_shape is None:
        field = receptive_field(opened)[-1]
        first = [-(-(1 - o) // j) for o, j in zip(field.offset, field.jump, strict=True)]
        if position is not None:
            first = [max(i, n) for i, n in zip(first, _pair(position, "position", 0), strict=True)]
        # The same margin on both sides.
        input_shape = [
            2 * (o + i * j) + n
            for o, i, j, n in zip(field.offset, first, field.jump, field.size, strict=True)
        ]
        position = first if position is None else position
    shapes = _shapes(chain, input_shape)
    if position is None:
        position = [(n - 1) // 2 for n in shapes[-1]]
    element = _position(position, shapes[-1])
    fields: list[Nested] = []
    for count in range(len(chain), 0, -1):
        field = receptive_field(opened[:count], shapes[0])[-1]
        start = [o + i * j for o, i, j in zip(field.offset, element, field.jump, strict=True)]
        mask = receptive_field_mask(opened[:count], shapes[0], element)
        words = _words(opened[count - 1], chain[count - 1])
        fields.insert(0, Nested(words, (start[0], start[1]), field.size, mask))
        read = receptive_field_mask(opened[count - 1], shapes[count - 1], element)
        if not read.any():  # nothing but padding
            break
        rows, columns = np.flatnonzero(read.any(axis=1)), np.flatnonzero(read.any(axis=0))
        element = int(rows[len(rows) // 2]), int(columns[len(columns) // 2])
    return shapes[0], fields


def _words(layer: object, axes: tuple[_Axis, _Axis]) -> str:
    """What a layer is, in a few words."""
    rows, columns = axes
    words = [f"{_name(layer)} {rows.taps} \N{MULTIPLICATION SIGN} {columns.taps}"]
    pool = "Pool" in _name(layer)  # its stride is its size, unless said
    for name, plain in (
        ("stride", (rows.taps, columns.taps) if pool else (1, 1)),
        ("dilation", (1, 1)),
    ):
        a, b = getattr(rows, name), getattr(columns, name)
        if (a, b) != plain:
            words.append(f"{name} {a}" if a == b else f"{name} {a}, {b}")
    return ", ".join(words)


def _shapes(chain: list[tuple[_Axis, _Axis]], input_shape: Sequence[int]) -> list[tuple[int, int]]:
    """Rows and columns of the input and of each layer's output."""
    try:
        shape = tuple(operator.index(n) for n in listed(input_shape, 64))
    except TypeError:
        raise TypeError(f"input_shape must be integers, got {shown(input_shape)}") from None
    if len(shape) < 2 or min(shape[-2:]) < 1 or max(shape[-2:]) > LARGEST:
        raise ValueError(
            "input_shape must end with rows and columns, each from 1 to 2**60, got "
            f"{shown(input_shape)}"
        )
    shapes = [(shape[-2], shape[-1])]
    for number, axes in enumerate(chain):
        H, W = shapes[-1]
        shapes.append((axes[0].outputs(H), axes[1].outputs(W)))
        if 0 in shapes[-1]:
            raise ValueError(
                f"input_shape {tuple(shape)} is too small: layer {number} gets {H} x {W} and "
                "has no output"
            )
    return shapes


def _position(position: Sequence[int], shape: tuple[int, int]) -> tuple[int, int]:
    try:
        i, j = (operator.index(n) for n in listed(position, 2))
    except (TypeError, ValueError):
        raise TypeError(f"position must be two integers, got {shown(position)}") from None
    if not (0 <= i < shape[0] and 0 <= j < shape[1]):
        raise ValueError(f"position {(i, j)} is not in the output, {shape[0]} x {shape[1]}")
    return i, j


# ---------------------------------------------------------------- what a layer is


# Chains within chains, so deep at most: one that holds itself has no end.
_DEEPEST = 100
_NO_CHAINS = str, bytes, memoryview, np.ndarray
# More layers than any network has; what goes on may have no end.
_MOST_LAYERS = 100_000


def _layers(layers: Iterable[object] | object) -> tuple[object, ...]:
    opened = listed(_opened(layers), _MOST_LAYERS)
    if len(opened) > _MOST_LAYERS:
        raise ValueError(f"layers must be at most {_MOST_LAYERS}")
    return opened


def _opened(layers: Iterable[object] | object, depth: int = 0) -> Iterator[object]:
    """The layers of chains within chains, in order."""
    if depth > _DEEPEST:
        raise ValueError(f"layers must not be nested more than {_DEEPEST} deep, or hold itself")
    if isinstance(layers, Mapping) or hasattr(layers, "kernel_size"):
        yield layers
    elif isinstance(layers, Iterable) and not isinstance(layers, _NO_CHAINS):
        for layer in layers:
            yield from _opened(layer, depth + 1)
    elif callable(layers):
        yield layers
    else:
        raise TypeError(f"layers must hold layers or dicts, got {shown(layers)}")


def _name(layer: object) -> str:
    return "layer" if isinstance(layer, Mapping) else type(layer).__name__


def _axes(layer: object) -> tuple[_Axis, _Axis]:
    """What a layer reads along rows and along columns."""
    for kind in type(layer).__mro__:
        if kind.__name__.startswith(_REFUSED):
            raise ValueError(
                f"{_name(layer)} has no receptive field of this kind; give the layers before it"
            )
    if isinstance(layer, Mapping):
        unknown = sorted(str(key) for key in set(layer) - _KEYS - _OTHER_KEYS)
        if unknown or "kernel_size" not in layer:
            what = f"has no use for {', '.join(unknown)}" if unknown else "needs a kernel_size"
            raise ValueError(f"a layer given as a dict {what}: {shown(dict(layer))}")
        given = dict(layer)
    else:
        given = {key: getattr(layer, key) for key in _KEYS if hasattr(layer, key)}
        if "kernel_size" not in given and "padding" in given:
            raise ValueError(
                f"{_name(layer)} pads and does nothing else; give the padding to the layer after it"
            )
        if "kernel_size" not in given:
            return (_Axis(1, 1, (0, 0), 1, "zeros", False),) * 2
    mode = given.get("padding_mode", "zeros")
    if not isinstance(mode, str) or mode not in PADDING_MODES:
        raise ValueError(
            f"padding_mode must be one of {', '.join(PADDING_MODES)}, got {shown(mode)}"
        )
    k = _pair(given["kernel_size"], "kernel_size", 1)
    # As poolings take it: None is the kernel's size.
    stride = given.get("stride", 1)
    s = k if stride is None else _pair(stride, "stride", 1)
    d = _pair(given.get("dilation", 1), "dilation", 1)
    padding = given.get("padding", 0)
    pads: tuple[tuple[int, int] | str, tuple[int, int] | str]
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ValueError(f"padding must be 'same', 'valid' or integers, got {shown(padding)}")
        pads = padding, padding
    elif (
        _several(padding)
        and not isinstance(padding, memoryview)
        and all(_several(p) for p in listed(padding, 2))
    ):
        both = tuple(_pair(p, "padding", 0) for p in listed(padding, 2))
        if len(both) != 2:
            raise ValueError(
                f"padding must be one pair for rows, one for columns, got {shown(padding)}"
            )
        pads = both[0], both[1]
    else:
        ph, pw = _pair(padding, "padding", 0)
        pads = (ph, ph), (pw, pw)
    ceil = flag(given.get("ceil_mode", False), "ceil_mode")
    return (
        _Axis(k[0], s[0], pads[0], d[0], mode, ceil),
        _Axis(k[1], s[1], pads[1], d[1], mode, ceil),
    )


def _several(value: object) -> bool:
    """Whether it is no number and no name; arrays without axes are numbers."""
    return (
        isinstance(value, Iterable)
        and not isinstance(value, str)
        and not (isinstance(value, np.ndarray) and value.ndim == 0)
    )


def _pair(value: Any, name: str, least: int) -> tuple[int, int]:
    try:
        numbers = listed(value, 2) if _several(value) else None
        both = tuple(operator.index(n) for n in (numbers or (value, value)))
    except TypeError:
        raise TypeError(f"{name} must be an integer or a pair, got {shown(value)}") from None
    if len(both) != 2 or min(both) < least:
        raise ValueError(
            f"{name} must be a pair of integers of at least {least}, got {shown(value)}"
        )
    if max(both) > LARGEST:
        raise ValueError(f"{name} must be at most 2**60, got {shown(value)}")
    return both[0], both[1]
