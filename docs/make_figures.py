"""Make the pictures of the README and of these pages:  python docs/make_figures.py [DIRECTORY]

The pictures are kept in git, so that neither page needs a build to show them.
"""

import io
import sys
from importlib import resources
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from matplotlib import rcParams
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from fastcorr import correlate2d, plot

SOBEL = np.array([[-0.25, 0, 0.25], [-0.5, 0, 0.5], [-0.25, 0, 0.25]])


def main() -> None:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("_static")
    directory.mkdir(parents=True, exist_ok=True)
    photograph = iio.imread(resources.files("fastcorr") / "data" / "coffee.jpg")
    rcParams.update({"font.size": 9, "axes.titlesize": 9})
    save(edges(photograph), directory / "edges.png")
    save(boundaries(photograph), directory / "boundaries.png")


def edges(photograph: np.ndarray) -> Figure:
    """The photograph, its horizontal derivative, and the size of its gradient."""
    grey = photograph @ np.float32([0.299, 0.587, 0.114])
    dx = correlate2d(grey, SOBEL, "same", "symm", dtype="float32")
    dy = correlate2d(grey, SOBEL.T, "same", "symm", dtype="float32")
    figure = Figure((9.6, 2.5), layout="constrained")
    axes = figure.subplots(1, 3)
    plot.image(photograph, ax=axes[0], title="a photograph")
    plot.image(dx, ax=axes[1], title="brighter (red), darker (blue)", limits=(-80, 80),
               signed=True)  # fmt: skip
    plot.image(np.hypot(dx, dy), ax=axes[2], title="edges in any direction", limits=(0, 85))
    return figure


def boundaries(photograph: np.ndarray) -> Figure:
    """A corner of the photograph as each boundary continues it: a kernel of a single one."""
    x = photograph[150:250, 180:320]
    one = np.pad(np.ones((1, 1), np.uint8), 60)
    figure = Figure((9.6, 2.1), layout="constrained")
    axes = figure.subplots(1, 5)
    for ax, boundary in zip(axes, ("fill", "wrap", "symm", "mirror", "nearest"), strict=True):
        y = correlate2d(x, one[:, :, np.newaxis], "full", boundary, axes=(0, 1))
        plot.image(y, ax=ax, title=boundary)
        ax.add_patch(_frame(x))
    return figure


def _frame(x: np.ndarray) -> Rectangle:
    return Rectangle((59.5, 59.5), x.shape[1], x.shape[0], fill=False, color="w", linewidth=1)


def save(figure: Figure, path: Path) -> None:
    """Write a figure with a palette, a third of the size."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100)
    Image.open(buffer).convert("RGB").quantize(
        224, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE
    ).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()
