"""Convolution layers: conv2d and its two gradients beside torch's, layer by layer.

    python benchmarks/layers.py                      # ten minutes; --quick: a few seconds
    python benchmarks/layers.py --only 'resnet|1x1' --passes forward,weight --dtype float32
    python benchmarks/layers.py --workers 2 --markdown layers.md
    python benchmarks/layers.py --step               # one step of learning a 1x2 kernel

How it is measured: README.md beside this file.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import re
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import compare
import measure
import numpy as np
import numpy.typing as npt
import peak
import peers

import fastcorr

Array = npt.NDArray[Any]
Call = Callable[[], Any]

PASSES = ("forward", "input", "weight")  # the last two are the gradients to these
DTYPES = ("float32", "float64")
# torch's time over ours: what the project asks of each layer of 16 to 512 channels.
LIMITS = {"float32": 0.7, "float64": 2.0}
# An error above these, relative to the largest element, is a wrong result.
TOLERANCES = {"float32": 1e-4, "float64": 1e-11}


@dataclass(frozen=True)
class Layer:
    """Square images and square kernels."""

    name: str
    channels: int
    filters: int
    size: int
    kernel: int
    padding: int = 0
    stride: int = 1
    dilation: int = 1
    groups: int = 1

    @property
    def out_size(self) -> int:
        reach = self.dilation * (self.kernel - 1) + 1
        return (self.size + 2 * self.padding - reach) // self.stride + 1

    @property
    def wanted(self) -> bool:
        """Whether the project's targets speak of it."""
        return 16 <= min(self.channels, self.filters) <= max(self.channels, self.filters) <= 512

    @property
    def shape(self) -> str:
        marks = [("s", self.stride), ("d", self.dilation), ("g", self.groups)]
        more = "".join(f" {mark}{n}" for mark, n in marks if n > 1)
        return f"{self.channels}->{self.filters} {self.size}² {self.kernel}x{self.kernel}{more}"


LAYERS = (
    Layer("LeNet conv1", 1, 6, 28, 5, 2),
    Layer("LeNet conv2", 6, 16, 14, 5),
    Layer("ResNet conv1", 3, 64, 224, 7, 3, stride=2),
    Layer("ResNet layer1", 64, 64, 56, 3, 1),
    Layer("ResNet layer2 first", 64, 128, 56, 3, 1, stride=2),
    Layer("ResNet layer2 shortcut", 64, 128, 56, 1, stride=2),
    Layer("ResNet layer2", 128, 128, 28, 3, 1),
    Layer("ResNet layer3", 256, 256, 14, 3, 1),
    Layer("ResNet layer4 first", 256, 512, 14, 3, 1, stride=2),
    Layer("ResNet layer4", 512, 512, 7, 3, 1),
    Layer("VGG conv1_1", 3, 64, 112, 3, 1),
    Layer("VGG conv3_1", 128, 256, 56, 3, 1),
    Layer("VGG conv4_1", 256, 512, 28, 3, 1),
    Layer("VGG conv5", 512, 512, 14, 3, 1),
    Layer("U-Net top", 16, 16, 256, 3, 1),
    Layer("U-Net up", 64, 32, 128, 3, 1),
    Layer("U-Net bottom", 256, 512, 18, 3),
    Layer("1x1 widens", 64, 256, 56, 1),
    Layer("1x1 narrows", 256, 64, 56, 1),
    Layer("1x1 small image", 512, 512, 14, 1),
    Layer("5x5 few channels", 16, 32, 64, 5, 2),
    Layer("AlexNet conv2", 64, 192, 27, 5, 2),
    Layer("dilated", 256, 256, 28, 3, 2, dilation=2),
    Layer("four groups", 128, 128, 28, 3, 1, groups=4),
    Layer("depthwise", 128, 128, 56, 3, 1, groups=128),
    Layer("depthwise first", 64, 64, 112, 3, 1, stride=2, groups=64),
)
BY_NAME = {layer.name: layer for layer in LAYERS}
QUICK = (
    "LeNet conv1",
    "ResNet layer1",
    "ResNet layer2 first",
    "ResNet layer4",
    "1x1 narrows",
    "four groups",
    "depthwise",
)


@dataclass(frozen=True)
class Case:
    """One pass of a layer over a batch."""

    layer: Layer
    batch: int
    dtype: str
    which: str  # one of PASSES

    @property
    def flops(self) -> int:
        """Multiplications and additions of the definition, those with the padding too."""
        layer = self.layer
        taps = layer.channels // layer.groups * layer.kernel**2
        return 2 * self.batch * layer.filters * layer.out_size**2 * taps

    def data(self) -> tuple[Array, Array, Array]:
        """The input, the weight, and the gradient that comes back to the output."""
        n, layer = self.batch, self.layer
        size, kernel, out = ((s, s) for s in (layer.size, layer.kernel, layer.out_size))
        return (
            _normal((n, layer.channels, *size), self.dtype, 0),
            _normal((layer.filters, layer.channels // layer.groups, *kernel), self.dtype, 1),
            _normal((n, layer.filters, *out), self.dtype, 2),
        )

    def ours(self) -> Call:
        x, weight, dy = self.data()
        layer = self.layer
        how = layer.stride, layer.padding, layer.dilation, layer.groups
        if self.which == "forward":
            return lambda: fastcorr.conv2d(x, weight, None, *how)
        needs, at = ("x", 0) if self.which == "input" else ("weight", 1)
        return lambda: fastcorr.conv2d_backward(dy, x, weight, *how, needs=(needs,))[at]

    def torchs(self, dtype: str | None = None) -> Call:
        """torch's call on the same data, in memory of its own and converted beforehand."""
        import torch

        to = getattr(torch, dtype or self.dtype)
        x, weight, dy = (torch.from_numpy(a).to(to, copy=True) for a in self.data())
        layer = self.layer
        how = [(n, n) for n in (layer.stride, layer.padding, layer.dilation)]
        if self.which == "forward":
            return lambda: torch.conv2d(x, weight, None, *how, layer.groups)
        # What autograd calls, asked for one gradient at a time.
        backward = torch.ops.aten.convolution_backward.default
        mask = [self.which == "input", self.which == "weight", False]
        at = mask.index(True)
        rest = None, *how, False, (0, 0), layer.groups, mask
        return lambda: backward(dy, x, weight, *rest)[at]


@functools.lru_cache(3)  # asv calls setup() before every call
def _normal(shape: tuple[int, ...], dtype: str, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, np.dtype(dtype).type)


def set_threads(workers: int) -> None:
    """As many threads as either library may use: each decides how many a call deserves."""
    fastcorr.set_workers(workers)
    if peers.installed("torch"):
        import torch

        torch.set_num_threads(workers)


# ---------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Row:
    case: Case
    ours: float  # seconds
    torchs: float
    peak: float  # operations per second of the cores in use
    our_error: float
    torchs_error: float

    @property
    def ratio(self) -> float:
        return self.torchs / self.ours

    @property
    def cells(self) -> list[str]:
        c, flops = self.case, self.case.flops
        return [
            c.layer.name,
            c.layer.shape,
            f"{c.batch}",
            f"{self.ours * 1e3:.3g}",
            f"{self.torchs * 1e3:.3g}",
            f"{self.ratio:.2f}",
            f"{flops / self.ours / 1e9:.1f}",
            f"{flops / self.torchs / 1e9:.1f}",
            f"{flops / self.ours / self.peak:.0%}",
            f"{self.our_error:.0e}",
            f"{self.torchs_error:.0e}" if c.dtype == "float32" else "",
        ]


COLUMNS = {
    # title: width
    "layer": -22, "shape": -24, "batch": 5, "ms": 6, "torch": 6, "x": 5,
    "GFLOP/s": 7, "torch's": 7, "of peak": 7, "error": 6, "torch's error": 13,
}  # fmt: skip


def line(cells: list[str]) -> str:
    """A row of a Markdown table that reads well in a terminal too."""
    widths = COLUMNS.values()
    padded = [s.ljust(-w) if w < 0 else s.rjust(w) for s, w in zip(cells, widths, strict=True)]
    return f"| {' | '.join(padded)} |"


def head() -> list[str]:
    rule = ["-" * -w if w < 0 else "-" * (w - 1) + ":" for w in COLUMNS.values()]
    return [line(list(COLUMNS)), line(rule)]


def run(case: Case, workers: int, watch: measure.Stopwatch) -> Row:
    """Both results held against float64's, then both calls timed in turns."""
    ours, torchs = case.ours(), case.torchs()
    exact = np.asarray(case.torchs("float64")())
    errors = [_error(np.asarray(call()), exact, case) for call in (ours, torchs)]
    loop = peak.fma_peak(case.dtype)
    times = watch.interleave({"ours": ours, "torch": torchs, "loop": loop}, workers > 1)
    loop.took(times["loop"].least)
    return Row(case, times["ours"].least, times["torch"].least, loop.best * workers, *errors)


def _error(y: Array, exact: Array, case: Case) -> float:
    if y.shape != exact.shape or y.dtype != case.dtype:
        raise AssertionError(f"{case}: {y.dtype}{y.shape} instead of {exact.shape}")
    error = float(np.abs(y - exact).max() / np.abs(exact).max())
    if not error <= TOLERANCES[case.dtype]:
        raise AssertionError(f"{case}: a relative error of {error:.1e}")
    return error


def table(cases: list[Case], workers: int, watch: measure.Stopwatch) -> Iterator[str | Row]:
    """The lines of the tables, each when it is known, and the rows that they show."""
    for (dtype, which), group in itertools.groupby(cases, lambda c: (c.dtype, c.which)):
        what = "forward" if which == "forward" else f"gradient to the {which}"
        threads = "one thread" if workers == 1 else f"{workers} threads"
        yield from (f"**{dtype}, {what}, {threads}**", "", *head())
        for case in group:
            row = run(case, workers, watch)
            yield line(row.cells)
            yield row
        yield ""


def summary(rows: list[Row]) -> Iterator[str]:
    yield "| dtype | pass | channels | layers | geometric mean | least | below the limit |"
    yield "| --- | --- | --- | ---: | ---: | --- | ---: |"
    for dtype, wanted, which in itertools.product(DTYPES, (True, False), (*PASSES, "all")):
        chosen = [
            row
            for row in rows
            if row.case.dtype == dtype
            and row.case.layer.wanted == wanted
            and which in (row.case.which, "all")
        ]
        if not chosen:
            continue
        worst = min(chosen, key=lambda row: row.ratio)
        limit = LIMITS[dtype]
        mean = statistics.geometric_mean(row.ratio for row in chosen)
        below = f"{sum(row.ratio < limit for row in chosen)} below {limit}" if wanted else ""
        yield (
            f"| {dtype} | {which} | {'16-512' if wanted else 'fewer'} | {len(chosen)} | "
            f"{mean:.2f} | {worst.ratio:.2f} ({worst.case.layer.name}, {worst.case.which}, "
            f"batch {worst.case.batch}) | {below} |"
        )


NOTES = """\
Milliseconds a call, the least of many, both libraries in turns in one process, a new result each
time.  x: torch's time over ours.  GFLOP/s count what the definition asks for, the products with
the padding too.  Error: the largest difference from float64's result (torch's) over its largest
element.
"""


# ---------------------------------------------------------------- one step of learning


def our_step() -> Call:
    """A 1x2 kernel, a 6x8 image: forward, loss, backward, descent."""
    from fastcorr import nn, optim

    x, y = _lesson()
    layer = nn.Conv2d(1, 1, (1, 2), bias=False, rng=0)
    descent = optim.SGD(layer.parameters(), lr=1e-3)

    def step() -> None:
        _, dy = nn.mse_loss(layer(x), y, "sum")
        descent.zero_grad()
        layer.backward(dy)
        descent.step()

    return step


def our_step_by_functions() -> Call:
    x, y = _lesson()
    weight = _normal((1, 1, 1, 2), "float32", 1).copy()

    def step() -> None:
        nonlocal weight
        error = fastcorr.conv2d(x, weight) - y
        _loss = (error * error).sum()
        _, dweight, _ = fastcorr.conv2d_backward(2 * error, x, weight, needs=("weight",))
        weight -= np.float32(1e-3) * dweight

    return step


def torchs_step(needs_dx: bool) -> Call:
    import torch

    x, y = map(torch.from_numpy, _lesson())
    x.requires_grad_(needs_dx)
    layer = torch.nn.Conv2d(1, 1, (1, 2), bias=False)
    descent = torch.optim.SGD(layer.parameters(), lr=1e-3)

    def step() -> None:
        loss = torch.nn.functional.mse_loss(layer(x), y, reduction="sum")
        descent.zero_grad()
        if needs_dx:
            x.grad = None
        loss.backward()
        descent.step()

    return step


def _lesson() -> tuple[Array, Array]:
    """The image of the first lesson and its edges."""
    x = np.ones((1, 1, 6, 8), np.float32)
    x[..., 2:6] = 0
    return x, x[..., :-1] - x[..., 1:]


def steps(watch: measure.Stopwatch) -> Iterator[str]:
    calls = {
        "fastcorr.nn and optim, with dx": our_step(),
        "torch.nn and optim, with dx": torchs_step(True),
        "torch.nn and optim, without dx": torchs_step(False),
        "fastcorr.conv2d and conv2d_backward alone, without dx": our_step_by_functions(),
    }
    for call in calls.values():
        call()
    times = watch.interleave(calls)
    yield "| one step: 1x2 kernel, 6x8 image, float32, one thread | µs | median |"
    yield "| --- | ---: | ---: |"
    for name, t in times.items():
        yield f"| {name} | {t.least * 1e6:.1f} | {t.median * 1e6:.1f} |"


# ---------------------------------------------------------------- the command


def names(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    """The type of an option: some of these, with commas between."""

    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := set(chosen) - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not in {known}")
        return chosen

    return parse


def main() -> int:
    if "OPENBLAS_CORETYPE" in os.environ:
        # OpenBLAS reads it when NumPy is imported, and would run slower code than it could.
        del os.environ["OPENBLAS_CORETYPE"]
        os.execv(sys.executable, sys.orig_argv)
    parser = argparse.ArgumentParser(description="convolution layers beside torch's")
    parser.add_argument("--quick", action="store_true", help="some layers, batch 1, seconds")
    parser.add_argument("--only", metavar="PATTERN", help="layers whose name or shape has this")
    parser.add_argument(
        "--passes", type=names(PASSES), default=PASSES, help=f"default: {','.join(PASSES)}"
    )
    parser.add_argument(
        "--dtype", type=names(DTYPES), default=DTYPES, help=f"default: {','.join(DTYPES)}"
    )
    parser.add_argument("--batch", type=int, nargs="+", metavar="N", help="default: 1 8")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="threads (default: 1)")
    parser.add_argument("--seconds", type=float, help="time for each row (default: 1)")
    parser.add_argument(
        "--cpu-time", action="store_true", help="one thread, on a machine that is not idle"
    )
    parser.add_argument("--step", action="store_true", help="one step of learning instead")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables here too")
    args = parser.parse_args()

    if peers.installed("torch") is None:
        parser.exit(2, "layers.py measures beside torch, which is not installed\n")
    if args.workers < 1 or min(args.batch or [1]) < 1:
        parser.error("--workers and --batch take positive numbers")
    chosen = [BY_NAME[name] for name in QUICK] if args.quick and not args.only else LAYERS
    pattern = re.compile(args.only or "", re.IGNORECASE)
    chosen = [layer for layer in chosen if pattern.search(f"{layer.name} {layer.shape}")]
    if not chosen:
        parser.error(f"no layer matches {args.only!r}")
    batches = args.batch or ([1] if args.quick else [1, 8])
    watch = measure.Stopwatch(args.seconds or (0.1 if args.quick else 1.0), args.cpu_time)

    set_threads(1 if args.step else args.workers)
    lines: list[str] = []
    rows: list[Row] = []

    def show(*more: str) -> None:
        lines.extend(more)
        print(*more, sep="\n", flush=True)

    warning = compare.idle_warning()
    show(*(f"- {fact}" for fact in compare.machine()), *([f"- {warning}"] if warning else []), "")
    if args.step:
        show(*steps(watch))
    else:
        cases = [
            Case(layer, batch, dtype, which)
            for dtype, which, layer, batch in itertools.product(
                args.dtype, args.passes, chosen, batches
            )
        ]
        for item in table(cases, args.workers, watch):
            if isinstance(item, Row):
                rows.append(item)
            else:
                show(item)
        show(*summary(rows), "", NOTES)
    if args.markdown:
        args.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
