"""Convolution layers: conv2d and its two gradients beside torch's, layer by layer.

    python benchmarks/layers.py --dtype float32      # ten minutes; --quick: a few seconds
    python benchmarks/layers.py --only 'resnet|1x1' --passes forward,weight --methods auto,direct
    python benchmarks/layers.py --markdown table.md --json one.json --targets
    python benchmarks/layers.py --workers 2 --targets --against one.json
    python benchmarks/layers.py --step               # one step of learning a 1x2 kernel

How it is measured: README.md beside this file.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import inspect
import itertools
import json
import math
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import compare
import measure
import numpy as np
import numpy.typing as npt
import peak
import peers
from compare import Verdict

import fastcorr

# NumPy asks the system for huge pages for its large arrays, torch only if told to before it makes
# any.  Without them page faults take up to a third of its time for large results.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

Array = npt.NDArray[Any]
Call = Callable[[], Any]

PASSES = ("forward", "input", "weight")  # the last two are the gradients to these
DTYPES = ("float32", "float64")
METHODS = ("auto", "direct", "winograd", "winograd4")
# An error above these, relative to the largest element, is a wrong result.
TOLERANCES = {"float32": 1e-4, "float64": 1e-11}


# Of at least 32 channels on both sides.
PLAIN = "3x3, stride 1"
KINDS = (PLAIN, "1x1", "depthwise", "others")


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
    def kind(self) -> str:
        """What the summary and the targets know it as."""
        if self.apart:
            return "depthwise"
        if self.kernel == 1:
            return "1x1"
        if self.has_choice and self.groups == 1 and min(self.channels, self.filters) >= 32:
            return PLAIN
        return "others"

    @property
    def apart(self) -> bool:
        """Whether the channels do not mix."""
        return self.groups == self.channels == self.filters

    @property
    def has_choice(self) -> bool:
        """Whether there are methods other than the direct sum."""
        return (self.kernel, self.stride, self.dilation) == (3, 1, 1) and not self.apart

    @property
    def shape(self) -> str:
        marks = [("s", self.stride), ("d", self.dilation), ("g", self.groups)]
        more = "".join(f" {mark}{n}" for mark, n in marks if n > 1)
        return f"{self.channels}->{self.filters} {self.size}² {self.kernel}x{self.kernel}{more}"


def depthwise(name: str, channels: int, size: int, stride: int = 1) -> Layer:
    return Layer(name, channels, channels, size, 3, 1, stride, groups=channels)


# Those of ResNet, VGG and MobileNet have the sizes that an image of 224² gives them, and the names
# of torchvision's modules.  Each shape once: ResNet-50 has some of ResNet-18's, MobileNet one of
# ResNet-50's.
LAYERS = (
    Layer("LeNet conv1", 1, 6, 28, 5, 2),
    Layer("LeNet conv2", 6, 16, 14, 5),
    Layer("ResNet conv1", 3, 64, 224, 7, 3, stride=2),
    Layer("ResNet layer1", 64, 64, 56, 3, 1),
    Layer("ResNet layer2", 128, 128, 28, 3, 1),
    Layer("ResNet layer3", 256, 256, 14, 3, 1),
    Layer("ResNet layer4", 512, 512, 7, 3, 1),
    Layer("ResNet-18 layer2.0.conv1", 64, 128, 56, 3, 1, stride=2),
    Layer("ResNet-18 layer2.0.downsample", 64, 128, 56, 1, stride=2),
    Layer("ResNet-18 layer3.0.conv1", 128, 256, 28, 3, 1, stride=2),
    Layer("ResNet-18 layer3.0.downsample", 128, 256, 28, 1, stride=2),
    Layer("ResNet-18 layer4.0.conv1", 256, 512, 14, 3, 1, stride=2),
    Layer("ResNet-18 layer4.0.downsample", 256, 512, 14, 1, stride=2),
    Layer("ResNet-50 layer1.0.conv1", 64, 64, 56, 1),
    Layer("ResNet-50 layer1.0.conv3", 64, 256, 56, 1),
    Layer("ResNet-50 layer1.1.conv1", 256, 64, 56, 1),
    Layer("ResNet-50 layer2.0.conv1", 256, 128, 56, 1),
    Layer("ResNet-50 layer2.0.conv2", 128, 128, 56, 3, 1, stride=2),
    Layer("ResNet-50 layer2.0.conv3", 128, 512, 28, 1),
    Layer("ResNet-50 layer2.0.downsample", 256, 512, 56, 1, stride=2),
    Layer("ResNet-50 layer2.1.conv1", 512, 128, 28, 1),
    Layer("ResNet-50 layer3.0.conv1", 512, 256, 28, 1),
    Layer("ResNet-50 layer3.0.conv2", 256, 256, 28, 3, 1, stride=2),
    Layer("ResNet-50 layer3.0.conv3", 256, 1024, 14, 1),
    Layer("ResNet-50 layer3.0.downsample", 512, 1024, 28, 1, stride=2),
    Layer("ResNet-50 layer3.1.conv1", 1024, 256, 14, 1),
    Layer("ResNet-50 layer4.0.conv1", 1024, 512, 14, 1),
    Layer("ResNet-50 layer4.0.conv2", 512, 512, 14, 3, 1, stride=2),
    Layer("ResNet-50 layer4.0.conv3", 512, 2048, 7, 1),
    Layer("ResNet-50 layer4.0.downsample", 1024, 2048, 14, 1, stride=2),
    Layer("ResNet-50 layer4.1.conv1", 2048, 512, 7, 1),
    Layer("VGG-16 conv1_1", 3, 64, 224, 3, 1),
    Layer("VGG-16 conv1_2", 64, 64, 224, 3, 1),
    Layer("VGG-16 conv2_1", 64, 128, 112, 3, 1),
    Layer("VGG-16 conv2_2", 128, 128, 112, 3, 1),
    Layer("VGG-16 conv3_1", 128, 256, 56, 3, 1),
    Layer("VGG-16 conv3_2", 256, 256, 56, 3, 1),
    Layer("VGG-16 conv4_1", 256, 512, 28, 3, 1),
    Layer("VGG-16 conv4_2", 512, 512, 28, 3, 1),
    Layer("VGG-16 conv5", 512, 512, 14, 3, 1),
    Layer("MobileNet first", 3, 32, 224, 3, 1, stride=2),
    depthwise("MobileNet depthwise 1", 32, 112),
    depthwise("MobileNet depthwise 2", 64, 112, stride=2),
    depthwise("MobileNet depthwise 3", 128, 56),
    depthwise("MobileNet depthwise 4", 128, 56, stride=2),
    depthwise("MobileNet depthwise 5", 256, 28),
    depthwise("MobileNet depthwise 6", 256, 28, stride=2),
    depthwise("MobileNet depthwise 7", 512, 14),
    depthwise("MobileNet depthwise 12", 512, 14, stride=2),
    depthwise("MobileNet depthwise 13", 1024, 7),
    Layer("MobileNet pointwise 1", 32, 64, 112, 1),
    Layer("MobileNet pointwise 2", 64, 128, 56, 1),
    Layer("MobileNet pointwise 3", 128, 128, 56, 1),
    Layer("MobileNet pointwise 7", 512, 512, 14, 1),
    Layer("MobileNet pointwise 13", 1024, 1024, 7, 1),
    Layer("U-Net first", 1, 32, 256, 3, 1),
    Layer("U-Net top", 16, 16, 256, 3, 1),
    Layer("U-Net up", 64, 32, 128, 3, 1),
    Layer("U-Net last", 32, 2, 256, 1),
    Layer("U-Net unpadded first", 1, 64, 188, 3),
    Layer("U-Net unpadded down 2", 128, 128, 90, 3),
    Layer("U-Net unpadded down 4", 256, 512, 18, 3),
    Layer("U-Net unpadded up", 256, 128, 32, 3),
    Layer("5x5 few channels", 16, 32, 64, 5, 2),
    Layer("AlexNet conv2", 64, 192, 27, 5, 2),
    Layer("dilated", 256, 256, 28, 3, 2, dilation=2),
    Layer("four groups", 128, 128, 28, 3, 1, groups=4),
)
BY_NAME = {layer.name: layer for layer in LAYERS}
QUICK = (
    "LeNet conv1",
    "ResNet layer1",
    "ResNet layer4",
    "ResNet-18 layer2.0.conv1",
    "ResNet-50 layer1.1.conv1",
    "MobileNet depthwise 3",
    "four groups",
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

    def offers(self, method: str) -> bool:
        """Whether asking for the method makes another row than 'auto', or an error."""
        return method == "auto" or (self.layer.has_choice and has_methods())

    def taken(self, method: str) -> str:
        """The method that a call takes."""
        if method != "auto":
            return method
        layer = self.layer
        if not (layer.has_choice and has_methods()):
            return "direct"
        from fastcorr import _winograd

        ends = (layer.channels, layer.size), (layer.filters, layer.out_size)
        x, y = ((self.batch, channels, size, size) for channels, size in ends)
        if self.which == "input":
            x, y = y, x
        m = _winograd.choose("auto", np.dtype(self.dtype), x, y, layer.groups, None)
        return {0: "direct", **{m: name for name, m in _winograd.TILES.items()}}[m]

    def ours(self, method: str = "auto") -> Call:
        x, weight, dy = self.data()
        layer = self.layer
        how = layer.stride, layer.padding, layer.dilation, layer.groups
        more = {} if method == "auto" else {"method": method}
        if self.which == "forward":
            return lambda: fastcorr.conv2d(x, weight, None, *how, **more)
        needs, at = ("x", 0) if self.which == "input" else ("weight", 1)
        return lambda: fastcorr.conv2d_backward(dy, x, weight, *how, needs=(needs,), **more)[at]

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


def has_methods() -> bool:
    """Whether there are any but the direct sum; asv goes back to where there were none."""
    function = getattr(fastcorr, "conv2d_backward", None)
    return function is not None and "method" in inspect.signature(function).parameters


def set_threads(workers: int) -> None:
    """As many threads as either library may use: each decides how many a call deserves."""
    fastcorr.set_workers(workers)
    if peers.installed("torch"):
        import torch

        torch.set_num_threads(workers)


# ---------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Row:
    """What a case took, by one of our methods and by torch."""

    case: Case
    method: str  # asked for
    taken: str
    workers: int
    ours: float  # seconds
    torchs: float
    peak: float  # operations per second of the cores in use
    our_error: float
    torchs_error: float

    @property
    def ratio(self) -> float:
        return self.torchs / self.ours

    @property
    def key(self) -> tuple[Case, str]:
        return self.case, self.method

    @property
    def cells(self) -> list[str]:
        c = self.case
        return [
            c.layer.name,
            c.layer.shape,
            f"{c.batch}",
            f"auto: {self.taken}" if self.method == "auto" else self.method,
            f"{self.ours * 1e3:.3g}",
            f"{self.torchs * 1e3:.3g}",
            f"{self.ratio:.2f}",
            f"{c.flops / self.ours / self.peak:.0%}",
            f"{self.our_error:.1e}",
            # torch's float64 is what both are held against.
            f"{self.torchs_error:.1e}" if c.dtype == "float32" else "",
        ]

    def __str__(self) -> str:
        c = self.case
        return f"{c.layer.name}, {c.which}, batch {c.batch}, {self.method}"


COLUMNS = {
    # title: width
    "layer": -29, "shape": -24, "batch": 5, "method": -15, "ms": 6, "torch ms": 8, "x": 5,
    "of FMA peak": 11, "error": 7, "torch's error": 13,
}  # fmt: skip


def line(cells: list[str]) -> str:
    """A row of a Markdown table that reads well in a terminal too."""
    widths = COLUMNS.values()
    padded = [s.ljust(-w) if w < 0 else s.rjust(w) for s, w in zip(cells, widths, strict=True)]
    return f"| {' | '.join(padded)} |"


def head() -> list[str]:
    rule = ["-" * -w if w < 0 else "-" * (w - 1) + ":" for w in COLUMNS.values()]
    return [line(list(COLUMNS)), line(rule)]


def run(case: Case, methods: Iterable[str], workers: int, watch: measure.Stopwatch) -> list[Row]:
    """The results held against float64's, then all calls timed in turns: a row for each method."""
    methods = [method for method in methods if case.offers(method)]
    calls: dict[str, Call] = {method: case.ours(method) for method in methods}
    calls["torch"] = case.torchs()
    exact = np.asarray((case.torchs("float64") if case.dtype != "float64" else calls["torch"])())
    errors = {name: _error(np.asarray(call()), exact, case) for name, call in calls.items()}
    del exact
    loop = peak.fma_peak(case.dtype)
    times = watch.interleave({**calls, "loop": loop}, workers > 1, len(calls))
    loop.took(times["loop"].least)
    return [
        Row(
            case,
            method,
            case.taken(method),
            workers,
            times[method].least,
            times["torch"].least,
            loop.best * workers,
            errors[method],
            errors["torch"],
        )
        for method in methods
    ]


def relative_error(y: Array, exact: Array) -> float:
    """The largest difference, over the largest element."""
    return float(np.abs(y - exact).max() / np.abs(exact).max())


def _error(y: Array, exact: Array, case: Case) -> float:
    if y.shape != exact.shape or y.dtype != case.dtype:
        raise AssertionError(f"{case}: {y.dtype}{y.shape} instead of {exact.shape}")
    error = relative_error(y, exact)
    if not error <= TOLERANCES[case.dtype]:
        raise AssertionError(f"{case}: a relative error of {error:.1e}")
    return error


# ---------------------------------------------------------------- showing


def threads(workers: int) -> str:
    return "one thread" if workers == 1 else f"{workers} threads"


def tables(rows: Iterable[Row]) -> Iterator[str]:
    """The lines of the tables, each when its row is known."""
    for (dtype, which, workers), group in itertools.groupby(
        rows, lambda row: (row.case.dtype, row.case.which, row.workers)
    ):
        what = "forward" if which == "forward" else f"gradient to the {which}"
        yield from (f"### {dtype}, {what}, {threads(workers)}", "", *head())
        yield from (line(row.cells) for row in group)
        yield ""


def mean(rows: Iterable[Row]) -> float:
    return statistics.geometric_mean(row.ratio for row in rows)


def summary(rows: list[Row]) -> Iterator[str]:
    """Geometric means of torch's time over ours, by the kind of layer; lines."""
    yield "| dtype | threads | layers | method | rows | forward | input | weight | all | least |"
    yield "| --- | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | --- |"
    for workers, dtype, kind, method in itertools.product(
        sorted({row.workers for row in rows}), DTYPES, ("all", *KINDS), METHODS
    ):
        chosen = [
            row
            for row in rows
            if (row.workers, row.case.dtype, row.method) == (workers, dtype, method)
            and kind in ("all", row.case.layer.kind)
        ]
        # "all" of a method that few layers offer would be compared with "all" of the others.
        if not chosen or (kind == "all" and method != "auto"):
            continue
        passes = [[row for row in chosen if row.case.which == which] for which in PASSES]
        means = [f"{mean(group):.2f}" if group else "" for group in (*passes, chosen)]
        worst = min(chosen, key=lambda row: row.ratio)
        c = worst.case
        yield (
            f"| {dtype} | {workers} | {kind} | {method} | {len(chosen)} | {' | '.join(means)} | "
            f"{worst.ratio:.2f} ({c.layer.name}, {c.which}, batch {c.batch}) |"
        )


NOTES = """\
Milliseconds a call, the least of many, all in turns in one process, a new result each time.
x: torch's time over ours.  The share of the FMA peak counts what the definition asks for, the
products with the padding too.  Error: the largest difference from float64's result (torch's) over
its largest element.
"""


# ---------------------------------------------------------------- the targets


def targets(rows: list[Row]) -> Iterator[tuple[Verdict, list[str]]]:
    """What the project asks of itself, and whoever misses it, the worst first."""
    for dtype, wanted, least in (("float32", 1.3, 0.95), ("float64", 3.0, 1.0)):
        chosen = [row for row in rows if row.case.dtype == dtype]
        default = [row for row in chosen if row.method == "auto"]
        if not default:
            continue
        yield compare.at_least(f"{dtype}: all passes, mean", mean(default), wanted, "x"), []
        yield _each(f"{dtype}: each layer and pass", default, least)
        if dtype == "float64":
            continue
        for method, limit in (("auto", 1.5), ("winograd4", 2.2)):
            group = [
                row
                for row in chosen
                if row.case.layer.kind == PLAIN
                and row.case.which != "weight"
                and row.method == method
            ]
            if group:
                what = f"{dtype}: 3x3, stride 1, from 32 channels on, forward and input, {method}"
                yield compare.at_least(f"{what}, mean", mean(group), limit, "x"), []
                yield _each(f"{what}, each", group, limit)
        worse = {str(row): _over(row.our_error, row.torchs_error) for row in default}
        bad = sorted((name for name in worse if worse[name] > 1.5), key=lambda n: -worse[n])
        yield (
            compare.at_most(f"{dtype}: error over torch's, each", max(worse.values()), 1.5, "x"),
            [f"{name}: {worse[name]:.2f}" for name in bad],
        )


def _each(what: str, rows: list[Row], limit: float) -> tuple[Verdict, list[str]]:
    below = sorted((row for row in rows if row.ratio < limit), key=lambda row: row.ratio)
    least = min(row.ratio for row in rows)
    misses = [f"{row}: {row.ratio:.2f}" for row in below]
    return compare.at_least(
        f"{what} ({len(below)} of {len(rows)} below)", least, limit, "x"
    ), misses


def _over(error: float, other: float) -> float:
    return error / other if other else math.inf if error else 0.0


def threads_target(rows: list[Row], alone: list[Row]) -> tuple[Verdict, list[str]]:
    """That more threads keep the ratio that one thread has."""
    before = {row.key: row.ratio for row in alone if row.workers == 1}
    kept = {
        str(row): (row.ratio / before[row.key], row)
        for row in rows
        if row.workers > 1 and row.key in before
    }
    if not kept:
        return Verdict("no row with one thread and with more", "?", "", False), []
    bad = sorted((ratio, name) for name, (ratio, _) in kept.items() if ratio < 0.95)
    least = min(ratio for ratio, _ in kept.values())
    what = f"x with threads over x with one ({len(bad)} of {len(kept)} below)"
    misses = [f"{name}: {ratio:.2f}, now {kept[name][1].ratio:.2f}" for ratio, name in bad]
    return compare.at_least(what, least, 0.95, ""), misses


def report(verdicts: Iterable[tuple[Verdict, list[str]]]) -> Iterator[str]:
    """Met or missed, and by whom; lines of Markdown."""
    found = list(verdicts)
    reached = sum(verdict.passed for verdict, _ in found)
    yield from ("```text", *(str(verdict) for verdict, _ in found), "```", "")
    yield from (f"{reached} of {len(found)} reached", "")
    for verdict, misses in found:
        if misses:
            yield from (f"Misses {verdict.wanted}: {verdict.what}", "")
            yield from (*(f"- {miss}" for miss in misses), "")


# ---------------------------------------------------------------- files


def write_json(path: Path, facts: list[str], rows: list[Row]) -> None:
    content = {
        "machine": facts,
        "date": time.strftime("%F"),
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def read_json(path: Path) -> tuple[list[str], list[Row]]:
    """What `write_json` wrote: facts about the machine, and the rows."""
    content = json.loads(path.read_text(encoding="utf-8"))
    rows = []
    for row in content["rows"]:
        case = row.pop("case")
        case = Case(Layer(**case.pop("layer")), **case)
        rows.append(Row(case, **row))
    return content["machine"], rows


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


def free_openblas() -> None:
    """Start the program again if OpenBLAS is held to slower code than it could run: it reads that
    when NumPy is imported."""
    if os.environ.pop("OPENBLAS_CORETYPE", None) is not None:
        os.execv(sys.executable, sys.orig_argv)


def main() -> int:
    free_openblas()
    parser = argparse.ArgumentParser(description="convolution layers beside torch's")
    parser.add_argument("--quick", action="store_true", help="some layers, batch 1, seconds")
    parser.add_argument("--only", metavar="PATTERN", help="layers whose name or shape has this")
    for option, known, default in (
        ("--passes", PASSES, PASSES),
        ("--dtype", DTYPES, DTYPES),
        ("--methods", METHODS, METHODS[:1]),
    ):
        text = f"of {','.join(known)}; default: {','.join(default)}"
        parser.add_argument(option, type=names(known), default=default, help=text)
    parser.add_argument("--batch", type=int, nargs="+", metavar="N", help="default: 1 8")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="threads (default: 1)")
    parser.add_argument(
        "--seconds", type=float, help="for torch and each method, a row (default: 0.2)"
    )
    parser.add_argument(
        "--cpu-time", action="store_true", help="one thread, on a machine that is not idle"
    )
    parser.add_argument("--step", action="store_true", help="one step of learning instead")
    parser.add_argument(
        "--read", type=Path, nargs="+", metavar="FILE", help="measure nothing: rows of --json"
    )
    parser.add_argument("--summary", action="store_true", help="show no tables, only their means")
    parser.add_argument(
        "--targets", action="store_true", help="check the project's targets; 1 if one is missed"
    )
    parser.add_argument(
        "--against", type=Path, metavar="FILE", help="with --targets: --json's of one thread"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables here too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure here")
    args = parser.parse_args()

    if not args.read and peers.installed("torch") is None:
        parser.exit(2, "layers.py measures beside torch, which is not installed\n")
    if args.workers < 1 or min(args.batch or [1]) < 1:
        parser.error("--workers and --batch take positive numbers")
    if args.against and not args.targets:
        parser.error("--against goes with --targets")
    chosen = [BY_NAME[name] for name in QUICK] if args.quick and not args.only else LAYERS
    pattern = re.compile(args.only or "", re.IGNORECASE)
    chosen = [layer for layer in chosen if pattern.search(f"{layer.name} {layer.shape}")]
    if not chosen:
        parser.error(f"no layer matches {args.only!r}")
    batches = args.batch or ([1] if args.quick else [1, 8])
    watch = measure.Stopwatch(args.seconds or (0.03 if args.quick else 0.2), args.cpu_time)

    set_threads(1 if args.step else args.workers)
    lines: list[str] = []
    rows: list[Row] = []

    def show(*more: str) -> None:
        lines.extend(more)
        print(*more, sep="\n", flush=True)

    def measured() -> Iterator[Row]:
        for dtype, which, layer, batch in itertools.product(
            args.dtype, args.passes, chosen, batches
        ):
            case = Case(layer, batch, dtype, which)
            for row in run(case, args.methods, args.workers, watch):
                rows.append(row)
                yield row

    if args.read:
        read = [read_json(path) for path in args.read]
        facts = list(dict.fromkeys(fact for facts, _ in read for fact in facts))
        rows += (row for _, group in read for row in group)
    else:
        warning = compare.idle_warning()
        facts = [*compare.machine(), *([warning] if warning else [])]
        if args.cpu_time:
            facts.append("Times are the processor's.")
    show(*(f"- {fact}" for fact in facts), "")
    missed = False
    if args.step:
        show(*steps(watch))
    else:
        # The means come first on a page, and the rows first in a terminal, where one waits.
        found = []
        for text in tables(iter(rows) if args.read else measured()):
            found.append(text)
            if not args.summary:
                print(text, flush=True)
        show(*summary(rows), "", NOTES)
        if args.targets:
            verdicts = list(targets(rows))
            if args.against:
                verdicts.append(threads_target(rows, read_json(args.against)[1]))
            missed = not all(verdict.passed for verdict, _ in verdicts)
            show(*report(verdicts))
        if not args.summary:
            lines += found
        if args.json:
            write_json(args.json, facts, rows)
    if args.markdown:
        args.markdown.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
