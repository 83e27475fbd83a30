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
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from fastcorr import (
    conv2d,
    conv2d_backward,
    corr2d,
    correlate2d,
    nn,
    optim,
    plot,
    receptive_field_mask,
)

SOBEL = np.array([[-0.25, 0, 0.25], [-0.5, 0, 0.5], [-0.25, 0, 0.25]])
BLUE, ORANGE = "#0072B2", "#D55E00"  # told apart by the colour-blind too
TIMES = "\N{MULTIPLICATION SIGN}"


def main() -> None:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("_static")
    directory.mkdir(parents=True, exist_ok=True)
    photograph = iio.imread(resources.files("fastcorr") / "data" / "coffee.jpg")
    rcParams.update({"font.size": 9, "axes.titlesize": 9})
    save(edges(photograph), directory / "edges.png")
    save(boundaries(photograph), directory / "boundaries.png")
    for picture in (by_hand, arguments, bar, gradients, learned, fields):
        save(picture(), directory / f"learning-{picture.__name__.replace('_', '-')}.png")
    save(maps(photograph), directory / "learning-maps.png")


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
        frame(ax, 60, 60, *x.shape[:2], color="w", linewidth=1)
    return figure


# ---------------------------------------------------------------- of the page learning.md


def by_hand() -> Figure:
    """The example by hand, as correlation and as convolution."""
    x, k = np.arange(9).reshape(3, 3), np.arange(4).reshape(2, 2)
    flipped = k[::-1, ::-1]
    figure, axes = row(
        {"x": x, "k": k, "correlation": corr2d(x, k), "k, flipped": flipped,
         "convolution": corr2d(x, flipped)},
        cell=0.5,
    )  # fmt: skip
    frame(axes[0], 0, 1, 2, 2)
    frame(axes[2], 0, 1, 1, 1)
    return figure


def arguments() -> Figure:
    """What two neighbouring outputs read: the pixels, as layers of one channel see them."""
    figure = Figure((9.6, 2.1), layout="constrained")
    axes = figure.subplots(1, 5)
    for ax, title, layer in zip(
        axes,
        ("kernel 3", "stride 2", "padding 1", "dilation 2"),
        (
            {"kernel_size": 3},
            {"kernel_size": 3, "stride": 2},
            {"kernel_size": 3, "padding": 1},
            {"kernel_size": 3, "dilation": 2},
        ),
        strict=False,
    ):
        p, s = layer.get("padding", 0), layer.get("stride", 1)
        extent = 2 * layer.get("dilation", 1) + 1
        reached = receptive_field_mask([layer], (7, 7), (0, 0))
        ax.imshow(np.where(reached, 0.5, 0), cmap="Blues", vmin=0, vmax=1)
        for i in range(8):
            ax.plot([i - 0.5, i - 0.5], [-0.5, 6.5], color="0.7", linewidth=0.6)
            ax.plot([-0.5, 6.5], [i - 0.5, i - 0.5], color="0.7", linewidth=0.6)
        if p:
            frame(ax, -p, -p, 7 + 2 * p, 7 + 2 * p, color="0.6", linewidth=1, linestyle=":")
        frame(ax, -p, -p, extent, extent, color=BLUE)
        frame(ax, -p, s - p, extent, extent, color=ORANGE, linestyle="--")
        ax.set(title=title, xlim=(-1.8, 6.8), ylim=(6.8, -1.8))
        ax.axis("off")
    grouped(axes[4])
    return figure


def grouped(ax: Axes) -> None:
    """Which input channels each output channel sees, in two groups."""
    for c in range(4):
        for o in range(4):
            if c // 2 == o // 2:
                ax.plot([0, 1], [c, o], color=BLUE if c < 2 else ORANGE, linewidth=1.2, zorder=1)
    for side in (0, 1):
        colours = [BLUE, BLUE, ORANGE, ORANGE]
        ax.scatter([side] * 4, range(4), s=70, color=colours, zorder=2)
    ax.text(0, 4, "x", ha="center")
    ax.text(1, 4, "y", ha="center")
    ax.set(title="groups 2", xlim=(-0.5, 1.5), ylim=(4.2, -1))
    ax.axis("off")


def bar() -> Figure:
    """A white picture with a black bar, and what [[1, -1]] answers, standing and lying."""
    x, k = black_bar(), [[1, -1]]
    shown = {"x": x, "y": corr2d(x, k), "x, transposed": x.T, "y of it": corr2d(x.T, k)}
    return row(shown, cell=0.3, limits={name: (-1.6, 1.6) if "y" in name else (0, 1)
                                        for name in shown})[0]  # fmt: skip


def black_bar() -> np.ndarray:
    x = np.ones((6, 8))
    x[:, 2:6] = 0
    return x


def gradients() -> Figure:
    """Both gradients of the example by hand, as correlations."""
    x, k, dy = np.arange(9.0).reshape(3, 3), np.arange(4.0).reshape(2, 2), np.diag([1.0, 2.0])
    dx, dk, _ = conv2d_backward(dy[np.newaxis], x[np.newaxis], k[np.newaxis, np.newaxis])
    figure, axes = row(
        {"x": x, "dy": dy, "dk": dk[0, 0], "dy, padded": np.pad(dy, 1),
         "k, flipped": k[::-1, ::-1], "dx": dx[0]},
        cell=0.42,
    )  # fmt: skip
    frame(axes[0], 0, 1, 2, 2)
    frame(axes[2], 0, 1, 1, 1)
    frame(axes[3], 0, 1, 2, 2)
    frame(axes[5], 0, 1, 1, 1)
    return figure


def learned() -> Figure:
    """The weights of [[1, -1]] as they are learned, from five starts, and the losses."""
    x = black_bar()
    target = corr2d(x, [[1.0, -1.0]])
    figure = Figure((9.6, 2.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    losses: dict[str, list[float]] = {}
    for start in range(5):
        layer = nn.Conv2d(1, 1, (1, 2), bias=False, rng=start)
        optimizer = optim.SGD(layer.parameters(), lr=1e-3)
        path, fall = [layer.weight.data.ravel().copy()], []
        for _ in range(400):
            loss, dy = nn.mse_loss(layer(x), target, reduction="sum")
            optimizer.zero_grad()
            layer.backward(dy)
            optimizer.step()
            path.append(layer.weight.data.ravel().copy())
            fall.append(loss)
        losses[f"start {start + 1}"] = fall
        for n, colour in enumerate((BLUE, ORANGE)):
            left.plot([weights[n] for weights in path], color=colour, linewidth=1.2)
    left.axhline(1, color="0.6", linestyle="--", linewidth=0.8)
    left.axhline(-1, color="0.6", linestyle="--", linewidth=0.8)
    left.text(400, 0.9, "left weight", color=BLUE, ha="right", va="top")
    left.text(400, -0.9, "right weight", color=ORANGE, ha="right", va="bottom")
    left.set(xlabel="step", title="both weights, from five starts")
    plot.history(losses, ax=right, log=True, title="the loss: sum of squared errors")
    return figure


def maps(photograph: np.ndarray) -> Figure:
    """Six kernels, each the derivative of a Gaussian in a direction, and what they find."""
    x = (photograph @ np.float32([0.299, 0.587, 0.114]))[::2, ::2]
    i, j = np.mgrid[-3:4, -3:4]
    angles = np.arange(6) * np.pi / 3
    slopes = np.cos(angles)[:, None, None] * j - np.sin(angles)[:, None, None] * i
    bank = (slopes * np.exp(-(i**2 + j**2) / 4)).astype(np.float32)[:, np.newaxis]
    y = np.maximum(conv2d(x[np.newaxis], bank), 0)
    figure = Figure((9.6, 2.2), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=[5, 4, 8])
    plot.image(x, ax=axes[0], title="x")
    plot.kernels(bank, ax=axes[1], columns=3, title="six kernels")
    limits = (0, float(np.percentile(y, 99)))
    plot.feature_maps(y, ax=axes[2], columns=3, limits=limits, title="six maps, after ReLU")
    return figure


CHAIN = nn.Sequential(
    nn.Conv2d(1, 1, 3, padding=1),
    nn.ReLU(),
    nn.AvgPool2d(2),
    nn.Conv2d(1, 1, 3, padding=1),
    nn.ReLU(),
    nn.Conv2d(1, 1, 3, padding=2, dilation=2),
)


def fields() -> Figure:
    """The growing fields of a chain of layers, and in how many ways a pixel reaches an output."""
    for parameter in CHAIN.parameters():
        parameter.data[...] = parameter.data.ndim == 4
    y = CHAIN(np.ones((1, 24, 24), np.float32))
    dy = np.zeros_like(y)
    dy[0, 5, 6] = 1
    figure = Figure((9.6, 2.6), layout="constrained")
    axes = figure.subplots(1, 3)
    plot.receptive_field(CHAIN, (24, 24), position=(5, 6), ax=axes[0], title="of output (5, 6)")
    axes[0].get_legend().remove()
    plot.image(CHAIN.backward(dy)[0], ax=axes[1], signed=True, title="its gradient, weights of 1")
    frame(axes[1], 0, 0, 24, 24, color="0.6", linewidth=0.8)
    plot.receptive_field(CHAIN, (24, 24), position=(1, 10), ax=axes[2], title="of output (1, 10)")
    return figure


def row(
    arrays: dict[str, np.ndarray],
    cell: float,
    limits: dict[str, tuple[float, float]] | None = None,
) -> tuple[Figure, list[Axes]]:
    """Arrays side by side with their numbers, in cells of so many inches; white without limits."""
    gap, above, width = 0.5, 0.42, 9.6
    height = above + cell * max(len(x) for x in arrays.values()) + 0.05
    figure = Figure((width, height))
    left = (width - cell * sum(x.shape[1] for x in arrays.values()) - gap * (len(arrays) - 1)) / 2
    axes = []
    for name, x in arrays.items():
        H, W = x.shape
        bottom = height - above - cell * H
        place = left / width, bottom / height, cell * W / width, cell * H / height
        axes.append(figure.add_axes(place))
        low, high = limits[name] if limits else (-1e9, 0)
        plot.image(x, ax=axes[-1], limits=(low, high), signed=low == -high, values=True)
        axes[-1].set_title(f"{name}\n{H} {TIMES} {W}")
        left += cell * W + gap
    return figure, axes


def frame(
    ax: Axes,
    i: float,
    j: float,
    height: int,
    width: int,
    color: str = ORANGE,
    linewidth: float = 2,
    linestyle: str = "-",
) -> None:
    ax.add_patch(
        Rectangle((j - 0.5, i - 0.5), width, height, fill=False, edgecolor=color, zorder=3,
                  linewidth=linewidth, linestyle=linestyle, clip_on=False)
    )  # fmt: skip


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
