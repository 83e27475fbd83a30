"""The tour: the hand example, the picture of an edge, a photograph."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastcorr import _filters, _images, plot
from fastcorr._workers import get_workers
from fastcorr.correlate import corr2d, correlate2d

MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
PHOTOGRAPH = Path(__file__).with_name("data") / "coffee.jpg"

_STYLE = {
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.titlepad": 8,
    "figure.facecolor": "w",
    "savefig.dpi": 110,
}


def run(directory: Path) -> None:
    """Print the examples and write their pictures into a directory."""
    matplotlib = _images.extra("matplotlib")
    photograph = _images.read(PHOTOGRAPH)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"cannot make directory {str(directory)!r}: {_images.reason(error)}"
        raise _images.Failure(message) from None

    x, k = np.arange(9).reshape(3, 3), np.arange(4).reshape(2, 2)
    print(f"corr2d({x.tolist()}, {k.tolist()}) = {corr2d(x, k).tolist()}")

    with matplotlib.rc_context(_STYLE):
        path = directory / "edge.png"
        _save(path, _edge())
        print(f"wrote {path}")
        path = directory / "photograph.png"
        _save(path, _photograph(photograph))
        print(f"wrote {path}")
    _timing(photograph)


def _save(path: Path, figure: Any) -> None:
    with _images.new_file(path) as file:
        figure.savefig(file, format="png")


def _figure(rows: int, size: tuple[float, float], title: str, widths: list[int]) -> Any:
    """A figure and its axes, in columns of these widths."""
    # Not pyplot: no window system is asked for, no figure is left behind.
    figure = _images.extra("matplotlib.figure").Figure(size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    figure.suptitle(title, fontsize=16)
    return figure, figure.subplots(rows, len(widths), width_ratios=widths)


def _edge() -> Any:
    """A white picture with a black bar, and what [[1, -1]] says of it, standing and lying."""
    x, k = np.ones((6, 8)), np.array([[1.0, -1.0]])
    x[:, 2:6] = 0
    across, along = corr2d(x, k), corr2d(x.T, k)
    print(f"a row of the edge picture:       {_row(x)}")
    print(f"  of its response to [[1, -1]]:  {_row(across)}  (+1 white to black, -1 back)")
    print(f"  of the transposed one's:       {_row(along)}  (largest of all: {abs(along).max():g})")

    # Widths in pixels of the pictures: all pixels are drawn in the same size.
    figure, axes = _figure(
        1, (13, 4.9), f"The kernel [[1, {MINUS}1]] sees vertical edges", [8, 7, 6, 5]
    )
    for ax, picture, name in zip(
        axes,
        (x, across, x.T, along),
        ("picture", "its response", "picture, transposed", "its response"),
        strict=True,
    ):
        signed = picture is across or picture is along
        limits = (-1.6, 1.6) if signed else (0, 1)  # 1 in a colour that lets its digit be read
        H, W = picture.shape
        title = f"{name}\n{H} {TIMES} {W}"
        plot.image(picture, ax=ax, title=title, limits=limits, signed=signed, values=True)
    return figure


def _row(x: npt.NDArray[Any]) -> str:
    return " ".join(f"{value + 0.0:2g}" for value in x[0])


def _photograph(x: npt.NDArray[Any]) -> Any:
    """The photograph through five kernels: colours as colours, derivatives of the grey picture."""
    grey = x @ np.array([0.299, 0.587, 0.114], np.float32)

    def colours(kernel: str) -> npt.NDArray[Any]:
        k = _filters.parse(kernel)
        y = correlate2d(x, k, "same", "symm", axes=(0, 1), dtype=np.float32)
        return _images.to_levels(y, "clip", x.dtype, x.dtype)

    def slope(kernel: str) -> npt.NDArray[Any]:
        return correlate2d(grey, _filters.parse(kernel), "same", "symm", dtype=np.float32)

    dx, dy = slope("sobel-x"), slope("sobel-y")
    figure, axes = _figure(2, (13, 7), "A photograph and five kernels", [1, 1, 1])
    (photograph, blurred, sharp), (edges, horizontal, embossed) = axes
    plot.image(x, ax=photograph, title="photograph")
    plot.image(colours("gaussian:4"), ax=blurred, title="gaussian:4")
    plot.image(colours("sharpen"), ax=sharp, title="sharpen")
    plot.image(np.hypot(dx, dy), ax=edges, title="edges: sobel-x and sobel-y", limits=(0, 255))
    plot.image(
        dx,
        ax=horizontal,
        title="sobel-x: brighter to the right is red",
        signed=True,
        limits=(-255, 255),
    )
    plot.image(colours("emboss"), ax=embossed, title="emboss")
    return figure


def _timing(photograph: npt.NDArray[Any]) -> None:
    """One line: the same call here and in SciPy."""
    x = photograph.mean(axis=2, dtype=np.float32)
    k = _filters.gaussian(1).astype(np.float32)
    H, W = x.shape
    print(
        f"{k.shape[0]} x {k.shape[1]} Gaussian on the grey {H} x {W} photograph (float32, same, "
        f"symm; best of several calls):\n  fastcorr, up to {get_workers()} threads: "
        f"{_best(lambda: correlate2d(x, k, 'same', 'symm')) * 1e3:.2f} ms",
        end="",
    )
    try:
        scipy_correlate2d = importlib.import_module("scipy.signal").correlate2d
    except ImportError:
        print("; SciPy is not installed")
        return
    theirs = _best(lambda: scipy_correlate2d(x, k, "same", "symm"))
    print(f"; scipy.signal, one thread: {theirs * 1e3:.2f} ms")


def _best(call: Callable[[], object], seconds: float = 0.3) -> float:
    """The shortest of the calls that fit into some time, at least three after one to warm up."""
    call()
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)
