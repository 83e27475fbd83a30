"""The command ``learn``: the kernel that makes one picture of another, by gradient descent."""

from __future__ import annotations

import importlib
import math
import os
import sys
import warnings
from argparse import Namespace
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastcorr import _images, nn, optim, plot
from fastcorr._boundary import BOUNDARIES
from fastcorr._images import Failure
from fastcorr.conv import conv2d

_TIMES = "\N{MULTIPLICATION SIGN}"

Array = npt.NDArray[np.float64]
Size = tuple[int, int]

# The boundaries in np.pad's words.
_PADS = {
    "fill": "constant", "wrap": "wrap", "symm": "symmetric", "mirror": "reflect",
    "nearest": "edge",
}  # fmt: skip

# So many pixels tell a kernel's weights; more would only make every step longer.
_MAX_PIXELS = 1 << 18
_TILE = 128

# For photographs, whose brightness varies some thousand times more strongly than their detail:
# plain descent would take thousands of steps where this takes the square root.
_MOMENTUM = 0.98

# The end: so many steps change no weight by more than this part of the largest.
_PATIENCE, _TOLERANCE = 50, 1e-6

_MAX_PRINTED, _MAX_WRITTEN = 15, 7  # rows or columns of a kernel with numbers


def run(options: Namespace) -> int:
    """Learn, write, report; the command's exit status."""
    files = _outputs(options)
    figures = _images.extra("matplotlib.figure")
    x, t = _pair(_read(options.input), _read(options.target))
    size = options.size
    x = _extended(x, t, size, options.boundary)
    sample = _sample(x, t, size)
    learner = _Learner(*sample, size, options.bias, options.optimizer, options.steps, options.lr)
    with _bar(options) as bar:
        errors, end = _descend(learner, options.steps, bar)
    if not errors:
        raise KeyboardInterrupt

    k, bias = learner.kernel, learner.bias
    error = _error(x, t, k, bias)
    start = _rms(t)  # that of the kernel of zeros, the first one
    if options.lr is not None and not error <= start:
        raise Failure(
            f"--lr {options.lr:g} is too large: the error grew from {start:.4g} to {error:.4g} in "
            f"{len(errors)} steps"
        )
    shown = f"{size[0]} x {size[1]}"
    with _images.new_file(files[0]) as file:
        np.save(file, k, allow_pickle=False)
    with _images.new_file(files[1]) as file:
        names = f"{_text(options.input.name)} to {_text(options.target.name)}"
        title = f"{shown.replace('x', _TIMES)} kernel: {names}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of letters that its font does not have
            _figure(figures.Figure, k, errors, title).savefig(file, format="png", dpi=110)

    pixels = " x ".join(map(str, sample[1].shape[2:]))
    if len(sample[1]) > 1:
        pixels = f"{len(sample[1])} times {pixels}"
    steps = f"{len(errors)} step{'s' * (len(errors) != 1)}"
    print(f"learned a {shown} kernel from {pixels} pixels in {steps}{end}")
    if max(size) <= _MAX_PRINTED:
        print(_table(k))
    if options.bias:
        print(f"bias: {bias:.6g}")
    spread = 0.0 if np.ptp(t) == 0 else _rms(t - t.mean())
    part = f", {100 * error / spread:.3g} % of TARGET's spread ({spread:.4g})" if spread else ""
    print(f"error left: {error:.3g} grey levels RMS{part}")
    print(f"wrote {_text(files[0])} and {_text(files[1])}")
    if end == _INTERRUPTED:
        print("fastcorr: interrupted; what was learned so far is written", file=sys.stderr)
        return 130
    return 0


# ---------------------------------------------------------------- files and pictures


def _outputs(options: Namespace) -> tuple[Path, Path]:
    """The files to write, after all that can be known to go wrong with them."""
    path: Path = options.output
    if path.suffix.lower() != ".npy":
        raise Failure(f"cannot write {str(path)!r}: its name must end in .npy")
    files = path, path.with_suffix(".png")
    for file in files:
        if not os.path.isdir(file.parent):
            raise Failure(f"cannot write {str(file)!r}: no directory to put it in")
        if os.path.isdir(file):
            raise Failure(f"cannot write {str(file)!r}: it is a directory")
        for name in ("input", "target"):
            given: Path = getattr(options, name)
            if file.exists() and given.exists() and file.samefile(given):
                raise Failure(
                    f"cannot write {str(file)!r}: it is {name.upper()}; choose another --output"
                )
    return files


def _read(path: Path) -> Array:
    """The channels of a picture, without alpha: (channels, height, width)."""
    pixels, _ = _images.split_alpha(_images.read(path))
    planes = pixels[np.newaxis] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    with np.errstate(over="ignore"):
        planes = planes.astype(np.float64, "C")
    if not np.isfinite(planes).all():
        raise Failure(f"{str(path)!r} holds values that are infinite or not numbers")
    return planes


def _pair(x: Array, t: Array) -> tuple[Array, Array]:
    """Two pictures of as many channels, all of them examples for one kernel; or both grey."""
    if len(x) == len(t):
        return x, t
    luma = np.array([0.299, 0.587, 0.114])
    grey = [np.tensordot(luma, p, 1)[np.newaxis] if len(p) == 3 else p for p in (x, t)]
    return grey[0], grey[1]


def _extended(x: Array, t: Array, size: Size, boundary: str) -> Array:
    """The input such that its valid correlation is as large as the target."""
    (H, W), (kh, kw) = x.shape[1:], size
    if kh > H or kw > W:
        raise Failure(f"--size {kh}x{kw}: the kernel is larger than INPUT ({H} x {W})")
    if t.shape[1:] == (H, W):
        pads = (0, 0), ((kh - 1) // 2, kh // 2), ((kw - 1) // 2, kw // 2)
        extended: Array = np.pad(x, pads, _PADS[BOUNDARIES[boundary]])  # type: ignore[call-overload]
        return extended
    if t.shape[1:] != (H - kh + 1, W - kw + 1):
        raise Failure(
            f"TARGET is {t.shape[1]} x {t.shape[2]}; what a {kh} x {kw} kernel makes of INPUT is "
            f"{H} x {W} ('same') or {H - kh + 1} x {W - kw + 1} ('valid')"
        )
    return x


def _sample(x: Array, t: Array, size: Size) -> tuple[Array, Array]:
    """A batch (N, 1, H, W) of both: the channels, or tiles from all over them if they are large."""
    C, H, W = t.shape
    if t.size <= _MAX_PIXELS:
        return x[:, np.newaxis], t[:, np.newaxis]
    h, w = min(_TILE, H), min(_TILE, W)
    number = max(1, _MAX_PIXELS // (C * h * w))
    down = max(1, min(H // h, number, round(math.sqrt(number * H / W))))
    across = max(1, min(W // w, number // down))
    corners = [(i, j) for i in _spread(H - h, down) for j in _spread(W - w, across)]
    xh, xw = h + size[0] - 1, w + size[1] - 1
    return (
        np.concatenate([x[:, np.newaxis, i : i + xh, j : j + xw] for i, j in corners]),
        np.concatenate([t[:, np.newaxis, i : i + h, j : j + w] for i, j in corners]),
    )


def _spread(last: int, count: int) -> list[int]:
    """Evenly from 0 to the last; one alone in the middle."""
    return [i * last // (count - 1) for i in range(count)] if count > 1 else [last // 2]


def _error(x: Array, t: Array, k: Array, bias: float) -> float:
    """RMS of what is left, over all of the pictures."""
    with np.errstate(over="ignore", invalid="ignore"):
        parts = [
            _rms(conv2d(plane[np.newaxis], k[np.newaxis, np.newaxis])[0] + bias - wanted)
            for plane, wanted in zip(x, t, strict=True)
        ]
    return math.hypot(*parts) / math.sqrt(len(parts))


def _rms(x: Array) -> float:
    """Root mean square, also of numbers whose squares are too small or too large."""
    top = _largest(x)
    return top * math.sqrt(np.square(x / top).mean()) if 0 < top < math.inf else top


def _largest(x: Array) -> float:
    return float(np.abs(x).max())


# ---------------------------------------------------------------- learning


class _Learner:
    """A layer that learns, on pictures scaled such that one step length suits all.

    It learns to make of x / scale what t / t_scale is, with a bias each less its mean; `kernel`
    and `bias` are those for x and t.
    """

    def __init__(
        self, x: Array, t: Array, size: Size, bias: bool, optimizer: str, steps: int,
        lr: float | None,
    ) -> None:  # fmt: skip
        self.layer = nn.Conv2d(1, 1, size, bias=bias, dtype="float64", rng=0)
        for parameter in self.layer.parameters():
            parameter.data[...] = 0  # what the pictures do not tell stays 0
        # No square may become 0 or infinite.
        x_unit, t_unit = _largest(x) or 1.0, _largest(t) or 1.0
        x, t = x / x_unit, t / t_unit
        x_mean, t_mean = (float(x.mean()), float(t.mean())) if bias else (0.0, 0.0)
        x, t = x - x_mean, t - t_mean
        self.x_mean, self.t_mean = x_mean * x_unit, t_mean * t_unit
        taps = math.prod(size)
        # The mean square of what the taps read: not that of x, of which the middle is read more
        # often than the edges.
        read = math.sqrt(float(conv2d(np.square(x), np.ones((1, 1, *size))).mean()) / taps)
        wanted = math.sqrt(float(np.square(t).mean())) or 1.0
        if read == 0:
            what = "the same everywhere" if bias else "0 everywhere"
            raise Failure(f"INPUT is {what}: nothing can be learned from it")
        self.x, self.t = x / read, t / wanted
        self.t_scale = wanted * t_unit
        self.ratio = self.t_scale / (read * x_unit)
        if not 0 < self.ratio < math.inf:
            raise Failure("the values are too large, or too different, to learn from")

        parameters = self.layer.parameters()
        self.optimizer: optim.Optimizer
        self.schedule = None
        if optimizer == "sgd":
            # The second derivatives of the mean square error are those of a matrix of trace
            # 2 * taps, 2 more with a bias: no step of the inverse overshoots.  For photographs,
            # of which one eigenvalue is nearly all of the trace, a longer one would.
            if lr is None:
                lr = 1 / (2 * (taps + bias))
            self.optimizer = optim.SGD(parameters, lr, _MOMENTUM, nesterov=True)
        else:
            self.optimizer = optim.Adam(parameters, 0.1 if lr is None else lr)
            self.schedule = optim.CosineAnnealingLR(self.optimizer, steps)
        self._last = self.layer.weight.data.copy()

    def step(self) -> float:
        """One step; the error before it, RMS in grey levels."""
        self.optimizer.zero_grad()
        loss, dy = nn.mse_loss(self.layer(self.x), self.t)
        self.layer.backward(dy, needs_input_grad=False)
        self.optimizer.step()
        if self.schedule:
            self.schedule.step()
        return math.sqrt(loss) * self.t_scale

    def settled(self) -> bool:
        """Whether hardly any weight has changed since this was asked last."""
        w = self.layer.weight.data
        change = np.abs(w - self._last).max()
        self._last = w.copy()
        return bool(change <= _TOLERANCE * np.abs(w).max())

    @property
    def kernel(self) -> Array:
        w: Array = self.layer.weight.data[0, 0] * self.ratio
        return w

    @property
    def bias(self) -> float:
        if self.layer.bias is None:
            return 0.0
        own = float(self.layer.bias.data[0]) * self.t_scale
        return own + self.t_mean - self.x_mean * float(self.kernel.sum())


_INTERRUPTED = ", interrupted"


def _descend(learner: _Learner, steps: int, bar: Any) -> tuple[list[float], str]:
    """The error before each step, and how it ended."""
    errors: list[float] = []
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            for n in range(1, steps + 1):
                errors.append(learner.step())
                if not math.isfinite(errors[-1]):
                    break
                if bar is not None:
                    bar.set_postfix_str(f"error {errors[-1]:.4g}", refresh=False)
                    bar.update()
                if n % _PATIENCE == 0 and learner.settled():
                    return errors, ""
    except KeyboardInterrupt:
        return errors, _INTERRUPTED
    return errors, "; more --steps may bring it nearer"


def _bar(options: Namespace) -> Any:
    """A progress bar on a terminal, as the target of ``with``; None where there is none."""
    if options.quiet:
        return nullcontext()
    try:
        tqdm = importlib.import_module("tqdm").tqdm
    except ImportError:
        return nullcontext()
    return closing(tqdm(total=options.steps, unit="step", disable=None, leave=False))


# ---------------------------------------------------------------- reporting


def _text(name: object) -> str:
    """A name as it can be shown; what cannot be printed is escaped, as in messages."""
    text = str(name)
    return text if text.isprintable() else repr(text)


def _table(k: Array) -> str:
    """The weights in aligned columns, the largest with five digits."""
    top = _largest(k)
    if top and not 1e-4 <= top < 1e6:
        cells = [[f"{value + 0.0:.4e}" for value in row] for row in k]
    else:
        decimals = max(0, 4 - math.floor(math.log10(top))) if top else 0
        cells = [[f"{value + 0.0:.{decimals}f}" for value in row] for row in k.round(decimals)]
    width = max(len(cell) for row in cells for cell in row)
    return "\n".join("  " + "  ".join(cell.rjust(width) for cell in row) for row in cells)


def _figure(make: Any, k: Array, errors: list[float], title: str) -> Any:
    """The kernel, and how the error fell."""
    figure = make((9, 4.2), layout="constrained")
    figure.suptitle(title, parse_math=False)
    left, right = figure.subplots(1, 2)
    values = max(k.shape) <= _MAX_WRITTEN
    plot.kernels(k, ax=left, values=values)
    if not values:
        figure.colorbar(left.images[0], ax=left, shrink=0.8)
    plot.history({"error, RMS in grey levels": errors}, ax=right, log=True)
    return figure
