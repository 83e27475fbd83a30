"""The tour: from a correlation by hand to kernels that are learned, in text and pictures."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastcorr import _filters, _images, nn, optim, plot
from fastcorr._workers import get_workers
from fastcorr.correlate import corr2d, correlate2d
from fastcorr.receptive import receptive_field, receptive_field_mask

MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
_BLUE, _ORANGE = "#0072B2", "#D55E00"  # for the colour-blind too
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
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

    with matplotlib.rc_context(_STYLE):
        print("1. Correlation: slide the kernel over the picture, multiply, add up")
        x, k = np.arange(9).reshape(3, 3), np.arange(4).reshape(2, 2)
        print(f"   corr2d({x.tolist()}, {k.tolist()}) = {corr2d(x, k).tolist()}")
        print("2. Edges: the kernel [[1, -1]] on a 6 x 8 picture")
        _save(directory / "edge.png", _edge())
        print("3. A kernel that is learned: 400 steps of gradient descent, learning rate 0.001")
        _save(directory / "learned-kernel.png", _learned_kernel())
        print("4. Feature maps: a bank of nine kernels learns to find edges in any direction")
        _save(directory / "feature-maps.png", _feature_maps(photograph))
        print("5. Receptive fields: the input pixels that can change an output element")
        _save(directory / "receptive-field.png", _receptive_field())
        print("6. A photograph and five kernels")
        _save(directory / "photograph.png", _photograph(photograph))
        _timing(photograph)


def _save(path: Path, figure: Any) -> None:
    with _images.new_file(path) as file:
        figure.savefig(file, format="png")
    print(f"   wrote {path}")


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
    print(f"   a row of it:                {_row(x)}")
    print(f"   a row of its response:      {_row(across)}  (+1 white to black, -1 back)")
    print(f"   of the transposed one's:    {_row(along)}  (largest of all: {abs(along).max():g})")

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


def _learned_kernel() -> Any:
    """The kernel of the edges, learned from picture and response, from several starts."""
    x = np.ones((6, 8))
    x[:, 2:6] = 0
    target = corr2d(x, [[1.0, -1.0]])
    paths: list[npt.NDArray[Any]] = []
    losses: dict[str, list[float]] = {}
    for start in range(5):
        layer = nn.Conv2d(1, 1, (1, 2), bias=False, rng=start)
        optimizer = optim.SGD(layer.parameters(), lr=1e-3)
        path: list[npt.NDArray[Any]] = [layer.weight.data.ravel().copy()]
        fall: list[float] = []
        for step in range(1, 401):
            loss, dy = nn.mse_loss(layer(x), target, reduction="sum")
            optimizer.zero_grad()
            layer.backward(dy, needs_input_grad=False)
            optimizer.step()
            path.append(layer.weight.data.ravel().copy())
            fall.append(loss)
            if start == 0 and step % 100 == 0:
                print(f"   step {step}: loss {loss:8.5f}, kernel {_weights(path[-1])}")
        paths.append(np.array(path))
        losses[f"start {start + 1}"] = fall
    print("   from four other starts:".ljust(34) + f"kernel {_weights(paths[1][-1])}")
    for weights in paths[2:]:
        print(" " * 34 + f"kernel {_weights(weights[-1])}")

    figure, (left, right) = _figure(
        1, (13, 4.6), f"The kernel [[1, {MINUS}1]] learned from picture and response", [1, 1]
    )
    for wanted, colour in ((1, _BLUE), (-1, _ORANGE)):
        left.axhline(wanted, color="0.6", linestyle="--", linewidth=1)
        for weights in paths:
            left.plot(weights[:, 0 if wanted > 0 else 1], color=colour, linewidth=1.5)
    left.text(400, 0.93, "left weight", color=_BLUE, ha="right", va="top")
    left.text(400, -0.93, "right weight", color=_ORANGE, ha="right", va="bottom")
    left.set_title("both weights, from five random starts")
    left.set_xlabel("step")
    plot.history(losses, ax=right, log=True, title="the loss: sum of squared errors")
    right.get_legend().remove()
    for side in ("top", "right"):
        left.spines[side].set_visible(False)
    return figure


def _weights(k: npt.NDArray[Any]) -> str:
    return "[" + ", ".join(f"{value:6.3f}" for value in k) + "]"


def _feature_maps(photograph: npt.NDArray[Any]) -> Any:
    """Nine kernels, ReLU, and the sum of what they find: they learn to find edges."""
    grey = photograph @ _LUMA
    x = (grey - grey.mean()) / grey.std()
    # Wanted: the length of the gradient of the slightly blurred photograph.
    blurred = correlate2d(x, _filters.gaussian(1), "same", "symm")
    slopes = (_filters.parse(name) for name in ("sobel-x", "sobel-y"))
    edges = np.hypot(*(correlate2d(blurred, slope, "same", "symm") for slope in slopes))
    edges = (edges / edges.std()).astype(np.float32)

    # Patches from random places, turned by random right angles: no direction is preferred.
    rng = np.random.default_rng(0)
    inputs, targets = [], []
    for _ in range(256):
        i, j = (rng.integers(n - 38) for n in x.shape)
        turns = int(rng.integers(4))
        inputs.append(np.rot90(x[i : i + 38, j : j + 38], turns)[np.newaxis])
        targets.append(np.rot90(edges[i + 3 : i + 35, j + 3 : j + 35], turns)[np.newaxis])

    bank, add = nn.Conv2d(1, 9, 7, rng=rng), nn.Conv2d(9, 1, 1, bias=False)
    add.weight.data[...] = 1
    model = nn.Sequential(bank, nn.ReLU(), add)
    optimizer = optim.AdamW(bank.parameters(), lr=0.015, weight_decay=1)  # the sum stays a sum
    schedule = optim.CosineAnnealingLR(optimizer, 15)
    start = time.perf_counter()
    history = nn.fit(
        model, np.stack(inputs), np.stack(targets), optimizer=optimizer, loss=nn.mse_loss,
        epochs=15, batch_size=16, rng=rng, callback=lambda _: schedule.step(), progress=False,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    with nn.no_grad():
        maps = np.maximum(bank(x[np.newaxis]), 0)
        found = add(maps)[0]
    wanted = edges[3:-3, 3:-3]
    right = np.corrcoef(found.ravel(), wanted.ravel())[0, 1]
    print(f"   {len(history.steps)} steps of AdamW in {seconds:.1f} s: loss {history.loss[0]:.3f} "
          f"in the first epoch, {history.loss[-1]:.3f} in the last")  # fmt: skip
    print(f"   correlation of what it finds with the edges: {right:.3f}")

    figure, axes = _figure(2, (13, 7.2), "A bank of kernels that learned to find edges", [1, 1, 1])
    (picture, target, result), (kernels, features, losses) = axes
    limits = (0, float(np.percentile(wanted, 99.5)))
    plot.image(grey, ax=picture, title="photograph")
    plot.image(wanted, ax=target, title="wanted: edges in any direction", limits=limits)
    plot.image(found, ax=result, title="found: the sum of the feature maps", limits=limits)
    names = [f"{n}" for n in range(1, 10)]
    plot.kernels(bank.weight.data, ax=kernels, titles=names, title="the nine learned kernels")
    plot.feature_maps(maps, ax=features, titles=names, title="their feature maps, after ReLU")
    plot.history(history, ax=losses, log=True, title="the loss")
    return figure


def _receptive_field() -> Any:
    """The growing fields of a small chain, and the gradient that shows the last one."""
    chain = nn.Sequential(
        nn.Conv2d(1, 1, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(1, 1, 3, padding=1), nn.ReLU(),
        nn.Conv2d(1, 1, 3, padding=2, dilation=2),
    )  # fmt: skip
    shape = 24, 24
    for layer, field in zip(chain, receptive_field(chain), strict=True):
        size = " x ".join(map(str, field.size))
        print(f"   after {type(layer).__name__:10} {size:>7}")

    # Weights of 1: the gradient counts the ways from a pixel to the output.
    for parameter in chain.parameters():
        parameter.data[...] = parameter.data.ndim == 4
    position = 5, 6
    y = chain(np.ones((1, *shape), np.float32))
    dy = np.zeros_like(y)
    dy[0, *position] = 1
    gradient = chain.backward(dy)[0]
    mask = receptive_field_mask(chain, shape, position)
    same = np.array_equal(gradient != 0, mask)
    print(f"   output {position} depends on {mask.sum()} pixels; its gradient is not 0 at "
          f"{'exactly these' if same else 'OTHERS'}")  # fmt: skip

    figure, (middle, slope, corner) = _figure(
        1, (15, 5), "Receptive fields grow from layer to layer", [1, 1, 1]
    )
    plot.receptive_field(chain, shape, position=position, ax=middle, title=f"of output {position}")
    middle.get_legend().remove()
    title = f"gradient of output {position}:\nin how many ways a pixel reaches it"
    plot.image(gradient, ax=slope, signed=True, title=title)
    plot.receptive_field(chain, shape, position=(1, 10), ax=corner, title="of output (1, 10)")
    return figure


def _photograph(x: npt.NDArray[Any]) -> Any:
    """The photograph through five kernels: colours as colours, derivatives of the grey picture."""
    grey = x @ _LUMA

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
        f"   {k.shape[0]} x {k.shape[1]} Gaussian on the grey {H} x {W} photograph (float32, same, "
        f"symm; best of several calls):\n   fastcorr, up to {get_workers()} threads: "
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
