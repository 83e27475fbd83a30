"""Pictures of arrays, layers and training, with Matplotlib (``pip install "fastcorr[cli]"``).

Every function draws on one Axes, the current ones unless `ax` is given, and returns them.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastcorr import receptive
from fastcorr._arguments import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[Any]

__all__ = ["feature_maps", "history", "image", "kernels", "receptive_field"]

_MINUS, _TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
_LINE = "0.6"  # of frames and of lines between pixels

# Okabe and Ito's colours, told apart by the colour-blind too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

# Beyond this many rows or columns no lines are drawn between pixels: they would hide them.
_MAX_LINES = 64


def image(
    x: npt.ArrayLike,
    *,
    ax: Axes | None = None,
    title: str | None = None,
    limits: tuple[float, float] | None = None,
    signed: bool = False,
    values: bool = False,
) -> Axes:
    """Draw an array as a picture.

    Parameters
    ----------
    x : array_like, shape (H, W), (H, W, 3) or (H, W, 4)
        Grey levels, or colours: integers from 0 to 255 or floats from 0 to 1.
    ax : matplotlib.axes.Axes, optional
        Where to draw.  Default: the current axes.
    title : str, optional
        Title above the picture.
    limits : pair of float, optional
        The grey levels shown as black and white.  Default: the smallest and the largest.
    signed : bool, optional
        Show zero as white, negative numbers in blue, positive ones in red, instead of grey
        levels.  Then `limits` are symmetric about zero by default.
    values : bool, optional
        Write each number of a small (H, W) array into its cell, in letters that fit the cells
        as large as they are now.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.

    Raises
    ------
    ValueError
        If `x` has no such shape, is empty or not real numbers, or another argument is out of
        range.
    TypeError
        If `ax` or `limits` is of a wrong kind.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr import corr2d, plot
    >>> x = np.ones((6, 8))
    >>> x[:, 2:6] = 0
    >>> ax = plot.image(corr2d(x, [[1, -1]]), signed=True, values=True)
    """
    x = _real(x, "x")
    if not (x.ndim == 2 or (x.ndim == 3 and x.shape[2] in (3, 4))) or not x.size:
        raise ValueError(f"x must have shape (H, W), (H, W, 3) or (H, W, 4), got {x.shape}")
    if values and x.ndim != 2:
        raise ValueError(f"values can be written for x of shape (H, W) only, got {x.shape}")
    low, high = _given(limits) or (_limits(x, signed) if x.ndim == 2 else (0.0, 1.0))
    ax = _current(ax)
    drawn = ax.imshow(
        x,
        cmap="RdBu_r" if signed else "gray",
        vmin=low,
        vmax=high,
        interpolation="nearest" if values else "antialiased",
    )
    _bare(ax, frame=values)
    if title is not None:
        ax.set_title(title)
    if values:
        _lines(ax, *x.shape)
        _write(ax, x[np.newaxis], drawn.to_rgba(x), [(0, 0)])
    return ax


def kernels(
    weight: npt.ArrayLike,
    *,
    ax: Axes | None = None,
    title: str | None = None,
    titles: Sequence[str] | None = None,
    columns: int | None = None,
    limits: tuple[float, float] | None = None,
    scale: str = "common",
    values: bool = False,
) -> Axes:
    """Draw a bank of kernels as a grid: zero white, negative weights blue, positive ones red.

    Parameters
    ----------
    weight : array_like, shape (O, C, kh, kw), (O, kh, kw) or (kh, kw)
        The weights of a layer: with several input channels, C > 1, the grid has a row for each
        output channel and a column for each input channel.  Otherwise the kernels are laid out
        in `columns`.
    ax : matplotlib.axes.Axes, optional
        Where to draw.  Default: the current axes.
    title : str, optional
        Title above the grid.
    titles : sequence of str, optional
        A title for each kernel, row by row.
    columns : int, optional
        Kernels in a row of the grid.  Default: such that the grid is about as wide as high.
    limits : pair of float, optional
        The weights shown in the darkest blue and red.  Default: symmetric about zero.
    scale : {'common', 'each'}, optional
        Whether one scale of colours serves all kernels, or each kernel has its own, so that
        those of small weights are seen too; then colours are compared within a kernel only.
    values : bool, optional
        Write the weights into their cells, rounded to about a thousandth of the largest or,
        where there is little room, to two digits.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on; ``figure.colorbar(ax.images[0])`` adds the scale.

    Raises
    ------
    ValueError
        If `weight` has no such shape or is complex, the number of `titles` is not that of the
        kernels, or another argument is out of range.
    TypeError
        If `ax`, `titles`, `columns` or `limits` is of a wrong kind.

    See Also
    --------
    feature_maps : what a bank makes of an image.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr import plot
    >>> sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    >>> ax = plot.kernels([sobel, sobel.T], titles=["sobel-x", "sobel-y"], values=True)
    """
    w = _real(weight, "weight")
    if not 2 <= w.ndim <= 4 or not w.size:
        raise ValueError(
            f"weight must have shape (O, C, kh, kw), (O, kh, kw) or (kh, kw), got {w.shape}"
        )
    channels = w.shape[1] if w.ndim == 4 else 1
    if channels > 1:
        if columns not in (None, channels):
            raise ValueError(
                f"columns must not be given for {channels} input channels: each is a column"
            )
        columns = channels
    cells = w.reshape(-1, *w.shape[-2:])
    ax, drawn, origins = _grid(ax, cells, title, titles, columns, limits, scale, signed=True)
    h, wide = cells.shape[1:]
    if channels > 1:
        down, across = origins[::channels], origins[:channels]
        ax.set_yticks([i + (h - 1) / 2 for i, _ in down], [str(n) for n in range(len(down))])
        ax.set_xticks([j + (wide - 1) / 2 for _, j in across], [str(n) for n in range(channels)])
        for axis, count in ((ax.yaxis, len(down)), (ax.xaxis, channels)):
            if count > 20:  # no room for all
                axis.set_ticks(axis.get_ticklocs()[:: -(-count // 20)])
        ax.tick_params(length=0)
        ax.set_ylabel("output channel")
        ax.set_xlabel("input channel")
    if values:
        colours = drawn.to_rgba(drawn.get_array())
        top = float(np.abs(cells[np.isfinite(cells)]).max(initial=0))
        if top:  # weights that are as good as 0 are written so
            unit = 10.0 ** math.floor(math.log10(top))
            cells = np.round(cells / unit, 3) * unit
        _write(ax, cells, colours, origins)
    return ax


def feature_maps(
    y: npt.ArrayLike,
    *,
    ax: Axes | None = None,
    title: str | None = None,
    titles: Sequence[str] | None = None,
    columns: int | None = None,
    limits: tuple[float, float] | None = None,
    scale: str = "common",
    signed: bool | None = None,
) -> Axes:
    """Draw the channels of a layer's output as a grid.

    Parameters
    ----------
    y : array_like, shape (C, H, W), (1, C, H, W) or (H, W)
        What a layer made of one image.
    ax : matplotlib.axes.Axes, optional
        Where to draw.  Default: the current axes.
    title : str, optional
        Title above the grid.
    titles : sequence of str, optional
        A title for each map, row by row.
    columns : int, optional
        Maps in a row of the grid.  Default: such that the grid is about as wide as high.
    limits : pair of float, optional
        The values shown in the extreme colours.  Default: such that one value of 200 lies
        beyond, lest a few hide all others; symmetric about zero if signed.
    scale : {'common', 'each'}, optional
        Whether one scale serves all maps, or each map has its own.
    signed : bool, optional
        Show zero as white, negative numbers in blue, positive ones in red, instead of grey
        levels.  Default: if there are negative numbers.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on; ``figure.colorbar(ax.images[0])`` adds the scale.

    Raises
    ------
    ValueError
        If `y` has no such shape or is complex, the number of `titles` is not that of the maps,
        or another argument is out of range.
    TypeError
        If `ax`, `titles`, `columns` or `limits` is of a wrong kind.

    See Also
    --------
    kernels : the bank that makes them.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr import conv2d, plot
    >>> sobel = np.array([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    >>> x = np.random.default_rng(0).standard_normal((1, 20, 30))
    >>> ax = plot.feature_maps(conv2d(x, [[sobel], [sobel.T]]), titles=["right", "down"])
    """
    maps = _real(y, "y")
    if maps.ndim == 4 and len(maps) != 1:
        raise ValueError(
            f"y must be the output for one image, such as y[0]; its shape is {maps.shape}"
        )
    if not 2 <= maps.ndim <= 4 or not maps.size:
        raise ValueError(f"y must have shape (C, H, W), (1, C, H, W) or (H, W), got {maps.shape}")
    maps = maps.reshape(-1, *maps.shape[-2:])
    if signed is None:
        signed = bool((maps < 0).any())
    ax, _, _ = _grid(ax, maps, title, titles, columns, limits, scale, signed, beyond=0.5)
    return ax


def history(
    h: Any,
    *,
    ax: Axes | None = None,
    title: str | None = None,
    log: bool = False,
    xlabel: str | None = None,
) -> Axes:
    """Draw how a loss, or several, fell in training.

    Parameters
    ----------
    h : History, mapping of str to sequence, or sequence of float
        What `nn.fit` returned, of which the loss of each epoch is drawn, or of each step if
        there are no two epochs; or curves by their names; or one curve.
    ax : matplotlib.axes.Axes, optional
        Where to draw.  Default: the current axes.
    title : str, optional
        Title above the curves.
    log : bool, optional
        Logarithmic axis, on which steady progress is a straight line; numbers that are not
        positive are left out.
    xlabel : str, optional
        Name of the axis along which the numbers are counted, from 1.  Default: ``epoch`` for
        a History, ``step`` for others.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.

    Raises
    ------
    ValueError
        If there is no number to draw, or a curve is not a sequence of real numbers.
    TypeError
        If `ax` is no Axes.

    Examples
    --------
    >>> from fastcorr import plot
    >>> ax = plot.history({"one": [4, 2, 1], "other": [5, 1, 0.2]}, log=True)
    """
    curves, counted = _curves(h)
    ax = _current(ax)
    for n, (name, curve) in enumerate(curves.items()):
        ax.plot(
            np.arange(1, len(curve) + 1),
            np.where(curve > 0, curve, np.nan) if log else curve,
            color=_COLOURS[n % len(_COLOURS)],
            linestyle=("-", "--", ":", "-.")[n // len(_COLOURS) % 4],
            marker="o" if len(curve) <= 20 else None,
            markersize=4,
            label=name,
        )
    if log:
        ax.set_yscale("log")
    ax.set_xlabel(xlabel or counted)
    if len(curves) == 1:
        ax.set_ylabel(next(iter(curves)))
    else:
        ax.legend(frameon=False)
    if max(map(len, curves.values())) <= 20:
        from matplotlib.ticker import MaxNLocator

        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    if title is not None:
        ax.set_title(title)
    return ax


def receptive_field(
    layers: Iterable[object] | object,
    input_shape: Sequence[int] | None = None,
    *,
    position: Sequence[int] | None = None,
    picture: npt.ArrayLike | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw how the receptive field of an output element grows from layer to layer.

    The pixels of the input are drawn, and on them the field of one element of each layer's
    output: of the last layer's at `position`, and of each earlier layer's the middle one of
    those that it is made of.  The fields of earlier layers, inside, are darker.  What lies
    beyond the input is padding.  Layers that leave the field as it is are not drawn.  The
    legend stands to the right of the Axes: ``layout="constrained"`` makes room for it.

    Parameters
    ----------
    layers : iterable of layers
        As for `fastcorr.receptive_field`.
    input_shape : sequence of int, optional
        Shape of the input, of which the last two numbers count.  Default: that of `picture`,
        or just enough for the whole field.
    position : pair of int, optional
        Row and column of the output element.  Default: in the middle of the output.
    picture : array_like, shape (H, W), (H, W, 3) or (H, W, 4), optional
        A picture to draw below the frames; what does not reach the element is veiled.
    ax : matplotlib.axes.Axes, optional
        Where to draw.  Default: the current axes.
    title : str, optional
        Title above the picture.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.

    Raises
    ------
    ValueError, TypeError
        As `fastcorr.receptive_field_mask`; also if `input_shape` is not that of `picture`.

    See Also
    --------
    fastcorr.receptive_field : the same in numbers.
    fastcorr.receptive_field_mask : the pixels that are coloured.

    Examples
    --------
    >>> from fastcorr import plot
    >>> layers = [dict(kernel_size=3, padding=1), dict(kernel_size=2, stride=2)] * 2
    >>> ax = plot.receptive_field(layers)
    """
    shown = None if picture is None else np.asarray(picture)
    if shown is not None:
        if shown.ndim not in (2, 3):
            raise ValueError(f"picture must have shape (H, W) or (H, W, 3), got {shown.shape}")
        if input_shape is None:
            input_shape = shown.shape[:2]
        elif tuple(input_shape[-2:]) != shown.shape[:2]:
            raise ValueError(
                f"input_shape {tuple(input_shape)} is not that of picture, {shown.shape[:2]}"
            )
    (H, W), fields = receptive.nested(layers, input_shape, position)
    fields = [
        field
        for n, field in enumerate(fields)
        if n == 0 or (field.size, field.start) != (fields[n - 1].size, fields[n - 1].start)
    ]
    ax = _current(ax)
    import matplotlib
    from matplotlib.collections import LineCollection
    from matplotlib.patches import Patch, Rectangle

    # From dark, inside, to light: told apart by the colour-blind and on grey paper.
    depths = np.linspace(0.15, 0.85, len(fields)) if len(fields) > 1 else np.array([0.5])
    colours = matplotlib.colormaps["YlGnBu_r" if shown is None else "plasma"](depths)
    edges = colours * (0.6, 0.6, 0.6, 1) if shown is None else colours
    if shown is None:
        canvas = np.ones((H, W, 3))
        for field, colour in zip(reversed(fields), reversed(colours), strict=True):
            canvas[field.mask] = colour[:3]
        ax.imshow(canvas, interpolation="nearest")
    else:
        image(shown, ax=ax)
        veil = np.ones((H, W, 4))
        veil[..., 3] = np.where(fields[-1].mask, 0, 0.65)
        ax.imshow(veil, interpolation="nearest")
    _bare(ax, frame=False)
    if shown is None and max(H, W) <= _MAX_LINES:
        # Not a grid, which would go on over the padding.
        across = [((-0.5, i - 0.5), (W - 0.5, i - 0.5)) for i in range(1, H)]
        down = [((j - 0.5, -0.5), (j - 0.5, H - 0.5)) for j in range(1, W)]
        ax.add_collection(LineCollection(across + down, colors=_LINE, linewidths=0.6))
    ax.add_patch(Rectangle((-0.5, -0.5), W, H, fill=False, edgecolor="0.3", clip_on=False))

    legend = []
    for field, colour, edge in zip(fields, colours, edges, strict=True):
        (i, j), (h, w) = field.start, field.size
        width = 2 if len(fields) <= 6 else 1.2
        ax.add_patch(
            Rectangle(
                (j - 0.5, i - 0.5), w, h, fill=False, edgecolor=edge, linewidth=width, clip_on=False
            )
        )
        label = f"{h} {_TIMES} {w}  after {field.layer}"
        fill = colour if shown is None else "none"
        legend.append(Patch(facecolor=fill, edgecolor=edge, label=label))
    top, left = (min(0, *(field.start[n] for field in fields)) for n in (0, 1))
    bottom, right = (
        max(n, *(field.start[axis] + field.size[axis] for field in fields))
        for axis, n in enumerate((H, W))
    )
    if top < 0 or left < 0 or bottom > H or right > W:
        (i, j), (h, w) = fields[-1].start, fields[-1].size
        padding: dict[str, Any] = {
            "facecolor": "w",
            "edgecolor": "0.75",
            "hatch": "///",
            "linewidth": 0,
        }
        ax.add_patch(Rectangle((j - 0.5, i - 0.5), w, h, zorder=-1, **padding))
        legend.append(Patch(label="padding", **padding))
    ax.set_xlim(left - 0.5, right - 0.5)
    ax.set_ylim(bottom - 0.5, top - 0.5)
    ax.legend(
        handles=legend,
        title="receptive field",
        alignment="left",
        loc="upper left",
        bbox_to_anchor=(1.02, 1),
        borderaxespad=0,
        frameon=False,
    )
    if title is not None:
        ax.set_title(title)
    return ax


# ---------------------------------------------------------------- what they share


def _current(ax: Axes | None) -> Axes:
    if ax is not None:
        from matplotlib.axes import Axes

        if not isinstance(ax, Axes):
            raise TypeError(f"ax must be Matplotlib's Axes, got {shown(ax)}")
        return ax
    import matplotlib.pyplot as plt

    return plt.gca()


def _real(values: npt.ArrayLike, name: str) -> Array:
    try:
        x = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{name} is no array: {error}") from None
    if x.dtype.kind not in "biuf":
        hint = "; draw its parts or its size" if x.dtype.kind == "c" else ""
        raise ValueError(f"{name} must be real numbers, got {x.dtype}{hint}")
    return x


def _given(limits: tuple[float, float] | None) -> tuple[float, float] | None:
    if limits is None:
        return None
    try:
        low, high = (operator.truediv(v, 1) for v in limits)
    except (TypeError, ValueError):
        raise TypeError(f"limits must be a pair of numbers, got {shown(limits)}") from None
    if not -math.inf < low <= high < math.inf:
        raise ValueError(f"limits must be finite, the smaller one first, got {shown(limits)}")
    return float(low), float(high)


def _curves(h: Any) -> tuple[dict[str, Array], str]:
    """Curves by their names, and what their numbers are counted by."""
    counted = "step"
    if isinstance(h, Mapping):
        given = {str(name): curve for name, curve in h.items()}
    elif hasattr(h, "loss") and hasattr(h, "steps"):
        by_epoch = len(h.loss) > 1
        given = {"loss": h.loss if by_epoch else h.steps}
        counted = "epoch" if by_epoch else "step"
    else:
        given = {"loss": h}
    curves = {name: _real(curve, f"curve {name!r}") for name, curve in given.items()}
    for name, curve in curves.items():
        if curve.ndim != 1:
            raise ValueError(f"curve {name!r} must be a sequence of numbers, got {curve.shape}")
    if not any(len(curve) for curve in curves.values()):
        raise ValueError("there is no number to draw")
    return curves, counted


def _limits(x: Array, signed: bool, beyond: float = 0) -> tuple[float, float]:
    """The values of the extreme colours: all values but some percent lie between."""
    finite = x[np.isfinite(x)]
    if beyond and finite.size:
        if signed:
            high = float(np.percentile(np.abs(finite), 100 - beyond))
            low = -high
        else:
            low, high = (float(v) for v in np.percentile(finite, (beyond / 2, 100 - beyond / 2)))
        if high > low:
            return low, high
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if signed:
        high = max(abs(low), abs(high)) or 1.0
        low = -high
    return low, high


def _bare(ax: Axes, frame: bool) -> None:
    """No ticks, and a frame only if asked for."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(frame)
        spine.set_color(_LINE)


def _lines(ax: Axes, H: int, W: int) -> None:
    """Lines between the pixels, so that equal neighbours can be counted."""
    ax.set_xticks(np.arange(1, W) - 0.5, minor=True)
    ax.set_yticks(np.arange(1, H) - 0.5, minor=True)
    ax.grid(which="minor", color=_LINE, linewidth=0.6)
    ax.tick_params(which="minor", length=0)


def _write(ax: Axes, cells: Array, colours: Array, origins: Sequence[tuple[int, int]]) -> None:
    """Each number of a stack in its cell, in a colour that can be read on the cell's."""
    import matplotlib

    numbers = cells.ravel() + 0.0
    texts = [_text(v, 3) for v in numbers]
    usual = matplotlib.rcParams["font.size"]
    size = _fitting(ax, texts, *colours.shape[:2])
    if size < 0.8 * usual:
        texts = [min(_text(v, 2), text, key=len) for v, text in zip(numbers, texts, strict=True)]
        size = _fitting(ax, texts, *colours.shape[:2])
    size = min(size, usual)
    for (n, i, j), text in zip(np.ndindex(*cells.shape), texts, strict=True):
        i, j = origins[n][0] + i, origins[n][1] + j
        dark = colours[i, j, :3] @ (0.299, 0.587, 0.114) < 0.5
        colour = "w" if dark else "k"
        ax.text(j, i, text, ha="center", va="center", color=colour, fontsize=size)


def _text(number: float, digits: int) -> str:
    """A number without the zeros of its exponent, as in 1e-5."""
    text = re.sub("e([+-])0*", lambda e: "e" + e[1].strip("+"), f"{number:.{digits}g}")
    return text.replace("-", _MINUS)


def _fitting(ax: Axes, texts: Iterable[str], rows: int, columns: int) -> float:
    """The largest size of letters, in points, at which each text fits into a cell."""
    from matplotlib.textpath import TextPath

    wide, high = _extent(ax)
    cell = min(wide / columns, high / rows)
    # All digits are equally wide, or nearly so: few texts are measured.
    shapes = {re.sub("[0-9]", "0", text) for text in texts}
    widest = max(TextPath((0, 0), text, size=10).get_extents().width / 10 for text in shapes)
    return min(0.85 * cell / widest, 0.75 * cell)


def _extent(ax: Axes) -> tuple[float, float]:
    """Width and height of the axes in points, as they are now."""
    figure = ax.get_figure()
    if figure is None:
        return math.inf, math.inf
    box = ax.get_window_extent()
    return box.width * 72 / figure.dpi, box.height * 72 / figure.dpi


def _grid(
    ax: Axes | None,
    cells: Array,
    title: str | None,
    titles: Sequence[str] | None,
    columns: int | None,
    limits: tuple[float, float] | None,
    scale: str,
    signed: bool,
    beyond: float = 0,
) -> tuple[Axes, Any, list[tuple[int, int]]]:
    """Draw a stack (number, h, w) as one array with gaps.

    Returns the Axes, what was drawn, and row and column of each cell's first pixel.
    """
    count, h, w = cells.shape
    if scale not in ("common", "each"):
        raise ValueError(f"scale must be 'common' or 'each', got {shown(scale)}")
    if titles is not None:
        if isinstance(titles, str) or not hasattr(titles, "__len__"):
            raise TypeError(f"titles must be a sequence of str, got {shown(titles)}")
        if len(titles) != count:
            raise ValueError(f"titles must be {count}, one for each cell, got {len(titles)}")
    if columns is not None:
        try:
            columns = operator.index(columns)
        except TypeError:
            raise TypeError(f"columns must be an integer, got {shown(columns)}") from None
    limits = _given(limits)
    if columns is None:
        # About as wide as high, in pixels; no column stays empty.
        columns = min(count, math.ceil(math.sqrt(count * h / w)))
        columns = -(-count // -(-count // columns))
    elif columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    ax = _current(ax)
    columns = min(columns, count)
    rows = -(-count // columns)

    cells = cells.astype(np.result_type(cells, np.float32))
    if scale == "each":
        for cell in cells:
            low, high = _limits(cell, signed, beyond)
            cell -= 0 if signed else low
            cell /= (high if signed else high - low) or 1
        limits = limits or ((-1, 1) if signed else (0, 1))
    low, high = limits or _limits(cells, signed, beyond)

    gap = max(1, round(max(h, w) / 12))
    above = gap
    size = 0.0
    if titles is not None:
        from matplotlib.font_manager import FontProperties

        size = FontProperties(size="small").get_size_in_points()
        above = max(gap, _room(ax, size * 1.5, rows, columns, h, w, gap))
    first = above if titles is not None else 0
    big = np.full(
        (first + rows * (h + above) - above, columns * (w + gap) - gap), np.nan, cells.dtype
    )
    origins = []
    for n, cell in enumerate(cells):
        i, j = first + n // columns * (h + above), n % columns * (w + gap)
        big[i : i + h, j : j + w] = cell
        origins.append((i, j))
    small = max(h, w) <= _MAX_LINES / 2
    drawn = ax.imshow(
        big,
        cmap="RdBu_r" if signed else "gray",
        vmin=low,
        vmax=high,
        # Colours, not numbers, are averaged: no pixel next to a gap is lost.
        interpolation="nearest" if small else "antialiased",
        interpolation_stage="rgba",
    )
    _bare(ax, frame=False)
    from matplotlib.collections import LineCollection

    corners = np.array([(0, 0), (w, 0), (w, h), (0, h), (0, 0)]) - 0.5
    frames = [corners + np.array([j, i]) for i, j in origins]
    ax.add_collection(LineCollection(frames, colors=_LINE, linewidths=0.8, clip_on=False))
    if title is not None:
        ax.set_title(title)
    for text, (i, j) in zip(titles or (), origins, strict=False):
        ax.annotate(
            text,
            (j + (w - 1) / 2, i - 0.5),
            (0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=size,
            annotation_clip=False,
        )
    return ax, drawn, origins


def _room(ax: Axes, points: float, rows: int, columns: int, h: int, w: int, gap: int) -> int:
    """The pixels between rows of a grid that are as high as a title."""
    wide, high = _extent(ax)
    if wide == math.inf:
        return gap
    # Whichever of height and width limits the scale, which depends on the room itself.
    by_width = points * (columns * (w + gap) - gap) / wide
    by_height = points * rows * h / (high - points * rows) if high > points * rows else h
    return math.ceil(min(max(by_width, by_height), 2 * h))
