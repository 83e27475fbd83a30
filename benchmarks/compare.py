"""fastcorr beside its peers, in one run on this machine: a table, a picture, the targets.

    python benchmarks/compare.py                     # twenty minutes; --quick, --full
    python benchmarks/compare.py --markdown table.md --plot speed.png --json figures.json
    python benchmarks/compare.py --targets           # and what the project asks of itself

How it is measured, and what is compared with what: README.md beside this file.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import math
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import measure
import numpy as np
import peak
import peers
from measure import Stopwatch, Times
from peers import Problem

import fastcorr

# A contender is a library and where its result goes: memory of its own making, or out=.
Contender = tuple[str, bool]
US, US_OUT = ("fastcorr", False), ("fastcorr", True)
# What is timed beside them: the peak, a copy of the same bytes, our call with one thread.
FMA, COPY, ALONE = ("fma", False), ("copy", False), ("one thread", True)


@dataclass(eq=False)
class Case:
    """A problem (or a gradient of one), a number of threads, and what was measured."""

    problem: Problem
    workers: int
    gradient: str = ""  # "", "x" or "k"
    times: dict[Contender, Times] = field(default_factory=dict)
    # Who got a problem of fewer rows, and how much larger this one is; who got none.
    scaled: dict[Contender, float] = field(default_factory=dict)
    left_out: set[Contender] = field(default_factory=set)
    method: str = ""
    peak: float = 0.0  # operations per second of one core, the most seen so far

    def measure(
        self,
        watch: Stopwatch,
        names: tuple[str, ...] = peers.NAMES,
        longer: float = 1.0,
        patience: float = math.inf,
    ) -> None:
        """Time the libraries, those excepted that would take more seconds for a single call."""
        self.method = "" if self.gradient else peers.method(self.problem, self.workers)
        calls: dict[Contender, Any] = {}
        for contender in itertools.product(names, (False, True)):
            with contextlib.suppress(NotImplementedError):
                if call := self._call(contender, patience):
                    calls[contender] = call
        same = [c for c in calls if c not in self.scaled]
        peers.check_equal({_label(c): self._solution(calls[c]()) for c in same})
        calls[COPY] = peak.copy(self.problem.nbytes)
        if self.workers > 1 and not self.gradient:
            calls[ALONE] = peers.correlate("fastcorr", self.problem, out=True)
        loop = peak.fma_peak(_lanes(self.problem))
        times = watch.interleave({**calls, FMA: loop}, self.workers > 1, longer)
        loop.took(times.pop(FMA).least)
        self.peak = loop.best
        self.times = {c: t.times(self.scaled.get(c, 1.0)) for c, t in times.items()}

    def _call(self, contender: Contender, patience: float) -> Any:
        """What to time of a contender, None if that would take too long."""
        (name, out), p = contender, self.problem
        asked = peers.affordable(name, p, patience)
        if self.gradient:
            if out:
                return None
            call = peers.gradient(name, p, self.gradient, workers=self.workers)
            asked = p if asked == p else None
        else:
            call = peers.correlate(name, asked or p, out=out, workers=self.workers)
        if asked is None:
            self.left_out.add(contender)
            return None
        if asked != p:
            ours = peers.correlate("fastcorr", asked)
            peers.check_equal(
                {n: peers.solution(asked, c()) for n, c in ((name, call), ("", ours))}
            )
            self.scaled[contender] = peers.outputs(name, p) / peers.outputs(name, asked)
        return call

    def _solution(self, raw: Any) -> peers.Array:
        return peers.gradient_solution(raw) if self.gradient else peers.solution(self.problem, raw)

    @property
    def best(self) -> Contender:
        """Our call to quote: with out= where there is one."""
        return US_OUT if US_OUT in self.times else US

    @property
    def least(self) -> float:
        """Its time."""
        return self.times[self.best].least

    @property
    def rate(self) -> float:
        """Our operations per second, of those that the definition asks for."""
        return self.problem.flops / self.least

    @property
    def share(self) -> float:
        """Our part of what the cores in use could do at most."""
        return self.rate / (self.peak * self.workers)

    @property
    def share_of_copy(self) -> float:
        """The time of a copy of as many bytes, by one core, over ours."""
        return self.times[COPY].least / self.least

    def ratio(self, peer: str, out: bool = False) -> float | None:
        """How many times longer a peer takes, per element, with memory alike."""
        theirs = self.times.get((peer, out))
        if theirs is None:
            return None
        elements = 1.0
        if not self.gradient:
            elements = peers.outputs(peer, self.problem) / peers.outputs("fastcorr", self.problem)
        return theirs.least / elements / self.times["fastcorr", out].least

    def best_peer(self) -> tuple[float, str] | None:
        """The ratio to the peer that comes closest to us, and its name."""
        ratios = [
            (ratio, _label((name, out)))
            for name, out in self.times
            if name in THEIRS and (ratio := self.ratio(name, out)) is not None
        ]
        return min(ratios) if ratios else None

    def __str__(self) -> str:
        what = f", gradient to {self.gradient}" if self.gradient else ""
        return f"{self.problem}{what}, {_threads(self.workers)}"


THEIRS = tuple(name for name in peers.NAMES if name != "fastcorr")


def _label(contender: Contender) -> str:
    name, out = contender
    return name + " out=" * out


def _lanes(p: Problem) -> str:
    """The type whose multiply-adds are the peak; integers as wide go no faster."""
    return "float64" if p.result_dtype.char in "dDlq" else "float32"


def _threads(workers: int) -> str:
    return "one thread" if workers == 1 else f"{workers} threads"


def run(cases: list[Case], watch: Stopwatch, patience: float) -> None:
    """Measure the cases, telling on the terminal how far it has come."""
    clear = "\r\033[K" if sys.stderr.isatty() else ""
    for n, case in enumerate(cases, 1):
        if clear:
            print(f"{clear}{n}/{len(cases)} {case}", end="", file=sys.stderr, flush=True)
        case.measure(watch, patience=patience)
    print(clear, end="", file=sys.stderr, flush=True)


# ---------------------------------------------------------------- the grids

EDGES = [("valid", "fill"), *itertools.product(("same", "full"), ("fill", "wrap", "symm"))]


@dataclass(frozen=True)
class Grid:
    """What to measure; how long each case; and what a single call may take of a peer's time.

    Under a line "dtype mode/boundary" stand images and their kernels: `512: 3 1x15 gauss15` are
    512² with 3x3, 1x15 and a Gauss bell of 15x15; `8*64: 4*5` are eight images, four kernels.
    """

    problems: str
    gradients: str
    seconds: float
    patience: float


DEFAULT = """
float32 valid
    28: 1x2 3 5 8
    64: 3 7 15
    256: 4 9 3x31
    512: 2 3 5 7 11 15 21 31 63 127 1x15 15x1 gauss7 gauss15 gauss31 box15
    1024: 12 24
    2048: 2 3 5 7 11 15 21 31 63 127 1x15 gauss15
    4096: 3 5 7 31 15x1 box31
    256*64: 5
    1000*28: 3
    32*64: 8*5
    512: 8*7 8*31
float32 same/fill
    256: 6 31
    1024: 63 gauss9
float32 same/symm
    28: 5
    512: 3 7 31
    2048: 5 gauss15
    4096: 127
float64 valid
    28: 1x2 3
    64: 7
    256: 16
    512: 2 3 7 11 15 31 63 3x31 gauss15
    1024: 127
    2048: 3 7 15 31
    4096: 5
float64 same/symm
    512: 8
    2048: 5 box9
uint8->float32 valid
    28: 3
    64: 5
    512: 2 3 5 7 15 31 1x15 gauss7 gauss15
    2048: 3 7 15 box31
    4096: 5
uint8->float32 same/symm
    512: 7
int16->int32 valid
    28: 3
    64: 4
    512: 3 5 8 15 31 3x31 box15
    2048: 3 7
int16->int32 same/symm
    512: 7 gauss9
    1024: 63
complex64 valid
    28: 3
    64: 1x2 7
    512: 3 7 15 31 63 gauss15
    2048: 5 31
complex64 same/fill
    512: 7
"""
GRIDS = {
    "quick": Grid(
        """
        float32 valid
            64: 1x2 7
            512: 3 7 15 31 gauss15
            16*64: 4*5
        float32 same/symm
            512: 7
        float64 valid
            512: 3 31
        uint8->float32 valid
            512: 7
        int16->int32 valid
            512: 4
        complex64 same/fill
            64: 7
        """,
        "float32 valid\n512: 7",
        0.1,
        0.03,
    ),
    "default": Grid(
        DEFAULT,
        """
        float32 valid
            512: 3 7 63
            2048: 7 31
        float64 valid
            512: 7 63
            2048: 7
        """,
        0.6,
        0.3,
    ),
    "full": Grid(
        DEFAULT
        + "\n".join(
            f"{dtype} {mode}/{boundary}\n 64: 3 7 15\n 256: 3 5 8 15 31\n 512: 9\n 2048: 7 31"
            for dtype in peers.DTYPES
            for mode, boundary in EDGES
        ),
        "float32 valid\n64: 3 15\n512: 3 7 15 31 63 127\n2048: 3 7 15 31\n"
        "float64 valid\n64: 3 15\n512: 3 7 15 31 63 127\n2048: 3 7 15 31",
        1.0,
        0.5,
    ),
}


def problems(text: str) -> list[Problem]:
    """Those that a grid lists, in its order, each once."""
    found: dict[Problem, None] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        image, colon, kernels = line.partition(":")
        if not colon:
            dtype, _, edges = line.partition(" ")
            mode, _, boundary = edges.partition("/")
            continue
        images, _, size = _read(image)
        for kernel in kernels.split():
            number, kind, taps = _read(kernel)
            where = (dtype, mode, boundary or "fill")
            found[Problem(size, taps, *where, kind or "random", images, number)] = None
    return list(found)


def _read(word: str) -> tuple[int, str, int | tuple[int, int]]:
    """How many, of what kind, and how large: of "4*gauss5", "3x31", "512"."""
    match = re.fullmatch(r"(?:(\d+)\*)?([a-z]*)(\d+)(?:x(\d+))?", word)
    assert match, f"what is {word!r}?"
    number, kind, rows, cols = match.groups()
    return int(number or 1), kind, (int(rows), int(cols)) if cols else int(rows)


def grid_cases(grid: Grid, workers: list[int], only: str = "") -> list[Case]:
    cases = [Case(p, n) for n in workers for p in problems(grid.problems)]
    cases += [
        Case(p, n, which) for n in workers for p in problems(grid.gradients) for which in "kx"
    ]
    return [case for case in cases if re.search(only, str(case))]


# ---------------------------------------------------------------- showing them


def machine() -> Iterator[str]:
    """What a reader must know about the machine to make use of a time."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            name = next(s.partition(":")[2].strip() for s in file if s.startswith("model name"))
    except (OSError, StopIteration):
        pass
    config = fastcorr.show_config(mode="dicts")
    versions = [
        f"{p} {v}" for p in ("scipy.signal", "opencv", "torch") if (v := peers.installed(p))
    ]
    yield (
        f"{name}, {os.cpu_count()} CPUs of which {measure.workers_allowed()} may be used, "
        f"{platform.system()} {platform.machine()}"
    )
    yield (
        f"fastcorr {config['fastcorr']} ({config['isa']}), Python {config['python']}, "
        f"NumPy {config['numpy']}, {', '.join(versions).replace('scipy.signal', 'SciPy')}"
    )
    for dtype in ("float32", "float64"):
        limit = peak.measure(dtype)
        yield f"{dtype} peak of one core: {limit.best / 1e9:.0f} GFLOP/s ({limit.source})"
    yield f"copying: {peak.copy_bandwidth() / 1e9:.0f} GB/s read and written by one core"


def idle_warning() -> str | None:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 0.3:
        return f"The machine was not idle: load {load:.1f} when this began."
    return None


COLUMNS: list[tuple[str, list[Contender]]] = [
    ("fastcorr", [US]),
    ("out=", [US_OUT]),
    ("scipy.signal", [("scipy.signal", False)]),
    ("oaconvolve", [("scipy.oaconvolve", False)]),
    ("fftconvolve", [("scipy.fftconvolve", False)]),
    ("ndimage", [("scipy.ndimage", False), ("scipy.correlate1d", False)]),
    ("OpenCV", [("opencv", False), ("opencv.sepFilter2D", False)]),
    ("OpenCV dst=", [("opencv", True), ("opencv.sepFilter2D", True)]),
    ("torch", [("torch", False)]),
]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _head(columns: list[str], left: int) -> list[str]:
    return [_row(columns), _row(["---"] * left + ["---:"] * (len(columns) - left))]


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.3g}"


def _cell(case: Case, contenders: list[Contender]) -> str:
    """Milliseconds of the fastest of them."""
    measured = [c for c in contenders if c in case.times]
    if not measured:
        return "-" if case.left_out.intersection(contenders) else ""
    fastest = min(measured, key=lambda c: case.times[c].least)
    return "~" * (fastest in case.scaled) + f"{case.times[fastest].least * 1e3:.3g}"


def tables(cases: list[Case]) -> Iterator[str]:
    """One Markdown table per dtype, number of threads and gradient; lines."""

    def kind(case: Case) -> tuple[str, str, int]:
        return case.problem.dtype, case.gradient, case.workers

    for (dtype, gradient, workers), group in itertools.groupby(cases, kind):
        rows = list(group)
        what = {"": "", "x": " gradient to the image,", "k": " gradient to the kernel,"}[gradient]
        columns = [c for c in COLUMNS if any(_cell(case, c[1]) for case in rows)]
        yield f"**{dtype.replace('->', ' to ')},{what} {_threads(workers)}** (milliseconds)"
        yield ""
        head = ["image", "kernel", "mode", "method", *(name for name, _ in columns)]
        head += ["of FMA peak", "of copy", "x scipy.signal", "x best peer"]
        yield from _head(head, 4)
        for case in rows:
            p, nearest = case.problem, case.best_peer()
            cells = [p.image_name, p.kernel_name, p.where, case.method]
            cells += [_cell(case, contenders) for _, contenders in columns]
            cells += [
                f"{case.share:.0%}",
                f"{case.share_of_copy:.0%}",
                _times(case.ratio("scipy.signal")),
                "" if nearest is None else f"{nearest[0]:.3g} ({nearest[1]})",
            ]
            yield _row(cells)
        yield ""


# ---------------------------------------------------------------- means


def ratios_to_best(cases: list[Case]) -> dict[Case, float]:
    """Of the cases that have a peer: its time over ours."""
    return {c: best[0] for c in cases if (best := c.best_peer())}


def ratios_to_scipy(cases: list[Case]) -> dict[Case, float]:
    return {c: ratio for c in cases if (ratio := c.ratio("scipy.signal")) is not None}


def is_large(case: Case) -> bool:
    """From 512² and 5x5 up."""
    return min(case.problem.image) >= 512 and min(case.problem.taps) >= 5


def forward(cases: list[Case], workers: int, dtype: str = "") -> list[Case]:
    """The cases that are no gradients, of a number of threads and, perhaps, of a dtype."""
    return [
        c
        for c in cases
        if c.workers == workers and not c.gradient and dtype in ("", c.problem.dtype)
    ]


def means(cases: list[Case]) -> Iterator[str]:
    """A small table of geometric means and worst cases; lines."""
    groups: dict[str, Callable[[Case], bool]] = {
        "all": lambda c: not c.gradient,
        **{
            dtype.replace("->", " to "): lambda c, d=dtype: not c.gradient and c.problem.dtype == d
            for dtype in peers.DTYPES
        },
        "separable kernels": lambda c: not c.gradient and c.problem.factors() is not None,
        "several images or kernels": lambda c: c.problem.batch is not None,
        "gradients": lambda c: bool(c.gradient),
    }
    yield from _head(
        [
            "cases", "threads", "how many", "x best peer, mean", "least", "below 1",
            "x scipy.signal, mean", "least", "below 100",
            "least from 512² and 5x5 up", "below 60",
        ],
        1,
    )  # fmt: skip
    behind = []
    for name, chosen in groups.items():
        for workers in sorted({c.workers for c in cases}):
            group = [c for c in cases if chosen(c) and c.workers == workers]
            best, scipy = ratios_to_best(group), ratios_to_scipy(group)
            if not best:
                continue
            large = [r for c, r in scipy.items() if is_large(c)]
            slower = [c for c, r in best.items() if r < 1]
            if name in ("all", "gradients"):
                behind += slower
            cells = [name, str(workers), str(len(group))]
            cells += [_mean(best.values()), _times(min(best.values())), str(len(slower))]
            cells += [_mean(scipy.values()), _times(min(scipy.values(), default=None))]
            cells += [str(sum(r < 100 for r in scipy.values()))]
            cells += [_times(min(large, default=None)), str(sum(r < 60 for r in large))]
            yield _row(cells)
    yield ""
    for case in sorted(behind, key=lambda c: c.best_peer() or (0.0, "")):
        ratio, name = case.best_peer() or (0.0, "")
        yield f"- slower than {name}: {case}, {ratio:.3g}"
    yield ""


def _mean(ratios: Iterable[float]) -> str:
    ratios = list(ratios)
    return f"{statistics.geometric_mean(ratios):.3g}" if ratios else ""


def latency(watch: Stopwatch) -> dict[str, Times]:
    """A 1x2 kernel on a 6x8 image in float64: what a call costs before it computes anything."""
    x, k = np.ones((6, 8)), np.ones((1, 2))
    y = np.ones((6, 7))
    calls: dict[str, Callable[[], object]] = {
        "fastcorr.correlate2d": lambda: fastcorr.correlate2d(x, k, "valid"),
        "fastcorr.corr2d": lambda: fastcorr.corr2d(x, k),
    }
    if hasattr(fastcorr, "plan_correlate2d"):
        plan = fastcorr.plan_correlate2d(k, shape=x.shape, mode="valid")
        calls["plan(x, out=y)"] = lambda: plan(x, out=y)
    if peers.installed("scipy.signal"):
        from scipy.signal import correlate2d

        calls["scipy.signal.correlate2d"] = lambda: correlate2d(x, k, "valid")
    if peers.installed("opencv"):
        import cv2

        cv2.setNumThreads(1)
        calls["cv2.filter2D"] = lambda: cv2.filter2D(x, cv2.CV_64F, k)
    for call in calls.values():
        call()
    return watch.interleave(calls)


def summary(cases: list[Case]) -> str:
    """One small table, of the plain call: valid, one image, full rank, a new result each time."""
    columns: list[tuple[str, list[Contender]]] = [
        ("SciPy `correlate2d`", [("scipy.signal", False)]),
        ("SciPy FFT", [("scipy.oaconvolve", False), ("scipy.fftconvolve", False)]),
        ("OpenCV `filter2D`", [("opencv", False)]),
        ("torch `conv2d`", [("torch", False)]),
    ]
    threads = max((c.workers for c in cases), default=1)
    parallel = {c.problem: c for c in forward(cases, threads)}
    ours = ["fastcorr"] + [f"fastcorr, {threads} threads"] * (threads > 1)
    lines = _head(["image", "kernel", *ours, *(title for title, _ in columns)], 2)
    for case in forward(cases, 1):
        p = case.problem
        if p != Problem(p.size, p.kernel, p.dtype) or p.kernel not in (3, 7, 15, 31, 63):
            continue
        if p.size not in (512, 2048) or p.dtype in ("int16->int32", "complex64"):
            continue
        cells = [f"{p.image_name} {p.dtype.replace('->', ' to ')}", p.kernel_name]
        cells.append(_cell(case, [US]))
        if threads > 1:
            cells.append(_cell(parallel[p], [US]))
        lines.append(_row([*cells, *(_cell(case, contenders) for _, contenders in columns)]))
    lines += [
        "",
        "Milliseconds a call, the least of many; mode 'valid', one thread"
        + ("" if threads == 1 else f" except in the column of {threads} threads")
        + ", a new array for each result.  SciPy FFT is the faster of `oaconvolve` and "
        "`fftconvolve`; ~ was measured on fewer rows, - would take too long.",
        "",
    ]
    for workers in sorted({c.workers for c in cases}):
        best = ratios_to_best(forward(cases, workers))
        if best:
            lines += [
                f"Over all {len(best)} cases of the benchmark (dtypes, modes, thin and separable "
                f"kernels, batches), {_threads(workers)}: {_mean(best.values())} times as fast as "
                f"the fastest of the others in geometric mean, {min(best.values()):.3g} at least.",
                "",
            ]
    return "\n".join(lines)


def report(cases: list[Case], calls: dict[str, Times], warning: str | None) -> str:
    spread = [c.times[c.best].median / c.least for c in cases]
    lines = [f"- {line}" for line in machine()]
    lines.append(
        "- least time of many, all libraries in turns in one process; fastcorr's medians are "
        f"{statistics.median(spread):.2f} times the least (at most {max(spread):.2f})"
    )
    if warning:
        lines.append(f"- {warning}")
    lines += ["", *means(cases), *tables(cases)]
    lines += ["**One call, 1x2 on 6x8, float64** (microseconds)", ""]
    lines += _head(list(calls), 0)
    lines += [_row([f"{t.least * 1e6:.2f}" for t in calls.values()]), ""]
    lines += [
        "`out=` and `dst=`: into memory that exists; the other columns include a new result.  "
        "Of ndimage and OpenCV the faster of the two-dimensional and, where the kernel has "
        "factors, the separable filter.  ~: measured on fewer rows and scaled; -: a single call "
        "would take too long.  Ratios compare alike with alike, fresh with fresh and existing "
        "with existing memory, and per element where ndimage and OpenCV, which know no 'valid', "
        "compute the whole image.  The shares are those of the `out=` column: of the peak of the "
        "cores in use, counting the operations of the definition, and of the speed at which one "
        "core copies as many bytes as image and result have.",
        "",
    ]
    return "\n".join(lines)


def as_json(cases: list[Case], calls: dict[str, Times], warning: str | None) -> str:
    def figures(times: dict[Contender, Times]) -> dict[str, dict[str, float]]:
        return {_label(contender): dataclasses.asdict(t) for contender, t in times.items()}

    rows = [
        {
            "case": str(c),
            "problem": dataclasses.asdict(c.problem),
            "gradient": c.gradient,
            "workers": c.workers,
            "method": c.method,
            "peak": c.peak,
            "scaled": {_label(contender): factor for contender, factor in c.scaled.items()},
            "times": figures(c.times),
        }
        for c in cases
    ]
    head = {"machine": list(machine()), "warning": warning, "date": time.strftime("%F")}
    overhead = {name: dataclasses.asdict(t) for name, t in calls.items()}
    return json.dumps({**head, "latency": overhead, "cases": rows}, indent=1)


def plot(cases: list[Case], file: Path) -> None:
    """Speed over the size of the kernel for the three images with most: float32, one thread."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels: dict[int, list[Case]] = {}
    for c in forward(cases, 1, "float32"):
        p = c.problem
        if p == Problem(p.size, p.kernel) and p.image[0] == p.size and p.taps[0] == p.kernel:
            panels.setdefault(p.image[0], []).append(c)
    most = sorted(panels, key=lambda size: len(panels[size]))[-3:]
    panels = {size: panels[size] for size in sorted(most)}
    figure, axes = plt.subplots(
        1,
        max(len(panels), 1),
        figsize=(max(3.6 * len(panels), 7), 4.4),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    drawn = [c for c in COLUMNS if c[0] not in ("fastcorr", "OpenCV", "fftconvolve")]
    for panel, (size, rows) in zip(axes[0], panels.items(), strict=False):
        kernels = [c.problem.taps[0] for c in rows]
        for label, (contender, *_) in drawn:
            ours = contender == US_OUT
            rates = [
                2e-9
                * peers.outputs(contender[0], c.problem)
                * c.problem.taps[0] ** 2
                / c.times[contender].least
                if contender in c.times
                else math.nan
                for c in rows
            ]
            panel.plot(
                kernels,
                rates,
                "o-",
                label="fastcorr" if ours else label.removesuffix(" dst="),
                lw=2.5 if ours else 1.2,
                ms=4,
                zorder=3 if ours else 2,
            )
        panel.plot(kernels, [c.peak / 1e9 for c in rows], "k:", label="FMA peak of the core")
        panel.set(
            title=f"{size} x {size} float32 image",
            xlabel="kernel",
            xscale="log",
            yscale="log",
        )
        panel.set_xticks(kernels, [f"{k}²" for k in kernels])
        panel.tick_params(labelsize=8)
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    axes[0][0].set_ylabel("GFLOP/s of the definition, one thread")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(file, dpi=120)
    plt.close(figure)


# ---------------------------------------------------------------- the targets


@dataclass(frozen=True)
class Verdict:
    what: str
    measured: str
    wanted: str
    passed: bool

    def __str__(self) -> str:
        verdict = "pass" if self.passed else "FAIL"
        return f"{verdict}  {self.measured:>18}  {self.wanted:9}  {self.what}"


def at_least(what: str, value: float, limit: float, unit: str, detail: str = "") -> Verdict:
    return Verdict(what, f"{value:.3g}{unit}{detail}", f">= {limit:g}{unit}", value >= limit)


def at_most(what: str, value: float, limit: float, unit: str, detail: str = "") -> Verdict:
    return Verdict(what, f"{value:.3g}{unit}{detail}", f"<= {limit:g}{unit}", value <= limit)


def grid_targets(cases: list[Case]) -> Iterator[Verdict]:
    """Those that speak of every case of the grid."""
    for workers in sorted({c.workers for c in cases}):
        chosen = forward(cases, workers)
        best, scipy = ratios_to_best(chosen), ratios_to_scipy(chosen)
        with_threads = f"of {len(chosen)} cases, {_threads(workers)}"
        if not best or not scipy:
            yield Verdict(f"no peer to compare with {with_threads}", "?", "", False)
            continue
        yield _least(f"the best peer's time over ours, the least {with_threads}", best, 1)
        yield _geometric(f"the best peer's time over ours, mean {with_threads}", best, 2)
        doubles = ratios_to_best(forward(cases, workers, "float64"))
        yield _geometric(f"the same of float64, {_threads(workers)}", doubles, 3)
        gradients = ratios_to_best([c for c in cases if c.gradient and c.workers == workers])
        if gradients:
            yield _least(f"the same of gradients, the least, {_threads(workers)}", gradients, 1)
        if workers > 1:
            large = {c: r for c, r in scipy.items() if is_large(c)}
            yield _geometric(f"scipy.signal's time over ours, mean {with_threads}", scipy, 100)
            yield _least("the same from 512² and 5x5 up, the least", large, 60)
            slower = {c: c.least / c.times[ALONE].least for c in chosen}
            worst = max(slower, key=lambda c: slower[c])
            detail = f" ({worst.problem})"
            yield at_most("time with threads over time with one", slower[worst], 1.1, "x", detail)


def _least(what: str, ratios: dict[Case, float], limit: float) -> Verdict:
    worst = min(ratios, key=lambda c: ratios[c])
    below = sum(r < limit for r in ratios.values())
    detail = f" ({below} below; {worst.problem}{worst.gradient and ' to ' + worst.gradient})"
    return at_least(what, ratios[worst], limit, "x", detail)


def _geometric(what: str, ratios: dict[Case, float], limit: float) -> Verdict:
    return at_least(what, statistics.geometric_mean(ratios.values()), limit, "x")


def latency_targets(calls: dict[str, Times]) -> Iterator[Verdict]:
    us = {name: 1e6 * t.least for name, t in calls.items()}
    ours = us["fastcorr.correlate2d"]
    if "scipy.signal.correlate2d" in us:
        ratio = us["scipy.signal.correlate2d"] / ours
        yield at_least("scipy.signal's time over ours, 1x2 on 6x8", ratio, 1, "x")
    yield at_most("correlate2d, 1x2 on 6x8", ours, 1.5, " us")
    if "plan(x, out=y)" in us:
        yield at_most("plan(x, out=y), 1x2 on 6x8", us["plan(x, out=y)"], 1, " us")
    else:
        yield Verdict("there are no plans yet", "?", "", False)


def roofline_targets(watch: Stopwatch) -> Iterator[Verdict]:
    """Those that compare us with the machine."""
    for dtype, kernel in itertools.product(("float32", "float64"), (5, 7, 9, 11, 13, 15, 17)):
        case = Case(Problem(256, kernel, dtype), 1)
        case.measure(watch, ("fastcorr",))
        detail = f" ({case.rate / 1e9:.0f} of {case.peak / 1e9:.0f})"
        limit = 75 if kernel == 5 else 85
        yield at_least(f"of the FMA peak, {case.problem}", 100 * case.share, limit, "%", detail)
    case = Case(Problem(4096, 3), 1)
    case.measure(watch, ("fastcorr",), longer=2)
    ratio = 1 / case.share_of_copy
    yield at_most(f"time over that of a copy, {case.problem}, out=", ratio, 1.25, "x")
    for dtype in ("float32", "float64"):
        case = Case(Problem(2048, 7, dtype), 1, "k")
        case.measure(watch, ("fastcorr",), longer=2)
        detail = f" ({case.rate / 1e9:.0f} of {case.peak / 1e9:.0f})"
        yield at_least(
            f"of the FMA peak, kernel gradient, {case.problem}", 100 * case.share, 50, "%", detail
        )


def own_targets(watch: Stopwatch) -> Iterator[Verdict]:
    """Those that compare us with ourselves."""
    for size, kernel, edge in itertools.product(
        (512, 2048), (3, 7, 15), (("valid", "fill"), ("same", "symm"))
    ):
        small = Problem(size, kernel, "uint8->float32", *edge)
        t = _ours(watch, [dataclasses.replace(small, dtype="float32"), small])
        yield at_most(f"time over float32's, {small}", t[1] / t[0], 1.3, "x")
    for kernel in (7, 15):
        sizes = [n for n in (512, 1024, 2048, 4096, 8192, 16384) if _fits(Problem(n, kernel))]
        many = [Problem(n, kernel) for n in sizes]
        pixels = [math.prod(p.shape) for p in many]
        each = [t / n for t, n in zip(_ours(watch, many), pixels, strict=True)]
        slowest = sizes[each.index(max(each))]
        yield at_most(
            f"longest time per pixel over the shortest, float32 {kernel}x{kernel}, "
            f"{sizes[0]}² to {sizes[-1]}²",
            max(each) / min(each),
            1.25,
            "x",
            f" ({slowest}² the longest)",
        )
    kernels = (31, 63, 127, 255)
    t = _ours(watch, [Problem(2048, n, mode="same") for n in kernels])
    for n, seconds in zip(kernels[1:], t[1:], strict=True):
        limit = math.log(n) / math.log(kernels[0])
        yield at_most(
            f"time of {n}x{n} over that of {kernels[0]}x{kernels[0]}, 2048² float32",
            seconds / t[0],
            round(limit, 2),
            "x",
        )
    if measure.workers_allowed() < 2:
        yield Verdict("one CPU: two workers cannot be tried", "?", "", False)
    else:
        p = Problem(2048, 7)
        calls = {n: peers.correlate("fastcorr", p, out=True, workers=n) for n in (1, 2)}
        # Both with the same pauses, so that both find the processor in the same state.
        both = watch.interleave(calls, parallel=True, longer=4)
        yield at_least(f"two workers over one, {p}", both[1].least / both[2].least, 1.8, "x")


def _ours(watch: Stopwatch, problems: list[Problem]) -> list[float]:
    """Seconds of our calls, with one thread and out=, in turns."""
    calls = {n: peers.correlate("fastcorr", p, out=True) for n, p in enumerate(problems)}
    for call in calls.values():
        call()
    return [t.least for t in watch.interleave(calls).values()]


def _fits(p: Problem) -> bool:
    """Whether a problem takes less than a quarter of the memory that is free."""
    return p.nbytes < os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 4


def process_targets() -> Iterator[Verdict]:
    """Those that need processes of their own."""
    ms = 1e3 * measure.import_seconds()
    yield at_most("import fastcorr after numpy, and no SciPy with it", ms, 20, " ms")
    for case, workers in itertools.product(
        measure.SCRATCH_CASES, sorted({1, measure.workers_allowed()})
    ):
        mb = 1e-6 * measure.scratch_bytes(case, workers)
        yield at_most(f"scratch per worker of {workers}, {case}", mb, 8, " MB")


def targets(cases: list[Case], calls: dict[str, Times], watch: Stopwatch) -> int:
    failed = total = 0
    for group in (
        grid_targets(cases),
        latency_targets(calls),
        roofline_targets(watch),
        own_targets(watch),
        process_targets(),
    ):
        for verdict in group:
            print(verdict, flush=True)
            total += 1
            failed += not verdict.passed
        print()
    print(f"{total - failed} of {total} reached")
    return 1 if failed else 0


# ---------------------------------------------------------------- the command


def write_between_marks(path: Path, table: str) -> None:
    """Put a table between the marks of a page such as README.md, or make a page of it."""
    begin, end = "<!-- begin table", "<!-- end table -->"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if begin in text and end in text:
        head = text[: text.index("-->", text.index(begin)) + 3]
        table = f"{head}\n\n{table.strip()}\n\n{text[text.index(end) :]}"
    path.write_text(table, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description="fastcorr beside its peers, on this machine")
    grid = parser.add_mutually_exclusive_group()
    grid.add_argument("--quick", action="store_true", help="a small grid, under a minute")
    grid.add_argument("--full", action="store_true", help="every mode and boundary; an hour or two")
    parser.add_argument("--only", default="", metavar="REGEX", help="cases whose name it finds")
    parser.add_argument(
        "--targets", action="store_true", help="check the project's targets when the grid is done"
    )
    parser.add_argument(
        "--workers",
        type=int,
        nargs="+",
        metavar="N",
        help="numbers of threads to measure with (default: 1, and all)",
    )
    parser.add_argument("--seconds", type=float, help="time for each case")
    parser.add_argument(
        "--patience", type=float, help="seconds that one call of a slow peer may take"
    )
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="one thread: processor time instead of the wall clock, on a machine that is not idle",
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables here too")
    parser.add_argument(
        "--summary",
        type=Path,
        metavar="FILE",
        help="put one small table here: README.md, between its marks",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure here")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw float32 'valid'")
    args = parser.parse_args()

    warning = idle_warning()
    if args.cpu_time:
        warning = f"{warning or ''}  Single threads by processor time.".strip()
    chosen = GRIDS["quick" if args.quick else "full" if args.full else "default"]
    everybody = measure.workers_allowed()
    workers = args.workers or sorted({1, everybody})
    if min(workers) < 1:
        parser.error("--workers takes positive numbers")
    cases = grid_cases(chosen, workers, args.only)
    if not cases:
        parser.error(f"--only {args.only!r} finds no case")
    watch = Stopwatch(args.seconds or chosen.seconds, args.cpu_time)
    run(cases, watch, args.patience or chosen.patience)
    calls = latency(watch)
    text = report(cases, calls, warning)
    if args.markdown:
        args.markdown.write_text(text, encoding="utf-8")
    if args.summary:
        write_between_marks(args.summary, summary(cases))
    if args.json:
        args.json.write_text(as_json(cases, calls, warning), encoding="utf-8")
    if args.plot:
        plot(cases, args.plot)
    print(text)
    return targets(cases, calls, watch) if args.targets else 0


if __name__ == "__main__":
    sys.exit(main())
