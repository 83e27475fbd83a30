"""Pictures of arrays, with Matplotlib (``pip install "fastcorr[cli]"``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["image"]


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
        Write each number of a small (H, W) array into its cell.

    Returns
    -------
    matplotlib.axes.Axes
        The axes drawn on.

    Examples
    --------
    >>> import numpy as np
    >>> from fastcorr import corr2d, plot
    >>> x = np.ones((6, 8))
    >>> x[:, 2:6] = 0
    >>> ax = plot.image(corr2d(x, [[1, -1]]), signed=True, values=True)
    """
    x = np.asarray(x)
    if ax is None:
        import matplotlib.pyplot as plt

        ax = plt.gca()
    if limits is None and x.ndim == 2:
        low, high = (float(np.nanmin(x)), float(np.nanmax(x))) if x.size else (0.0, 1.0)
        if signed:
            high = max(abs(low), abs(high)) or 1.0
            low = -high
        limits = low, high
    low, high = limits or (0.0, 1.0)
    drawn = ax.imshow(
        x,
        cmap="RdBu_r" if signed else "gray",
        vmin=low,
        vmax=high,
        interpolation="nearest" if values else "antialiased",
    )
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(values)
        spine.set_color("0.6")
    if title is not None:
        ax.set_title(title)
    if values:
        H, W = x.shape
        # Lines between the cells, so that equal neighbours can be counted.
        ax.set_xticks(np.arange(1, W) - 0.5, minor=True)
        ax.set_yticks(np.arange(1, H) - 0.5, minor=True)
        ax.grid(which="minor", color="0.6", linewidth=0.6)
        ax.tick_params(which="minor", length=0)
        colours = drawn.to_rgba(x)
        for i in range(H):
            for j in range(W):
                dark = colours[i, j, :3] @ (0.299, 0.587, 0.114) < 0.5
                text = f"{x[i, j] + 0.0:.3g}".replace("-", "\N{MINUS SIGN}")
                ax.text(j, i, text, ha="center", va="center", color="w" if dark else "k")
    return ax
