"""fastcorr beside its peers, in one run on this machine: a table, a picture, the targets.

    python benchmarks/compare.py                     # some minutes; --quick, --full
    python benchmarks/compare.py --markdown table.md --plot speed.png --json figures.json
    python benchmarks/compare.py --targets           # what the project asks of itself

How it is measured, and what is compared with what: README.md beside this file.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import measure
import peak
import peers
from measure import Stopwatch, Times
from peers import Problem

import fastcorr

# A contender is a library and where its result goes: memory of its own making, or out=.
Contender = tuple[str, bool]
US, US_OUT = ("fastcorr", False), ("fastcorr", True)
FMA = ("fma", False)


@dataclass
class Case:
    """A problem (or a gradient of one), a number of threads, and what was measured."""

    problem: Problem
    workers: int
    gradient: str = ""  # "", "x" or "k"
    times: dict[Contender, Times] = field(default_factory=dict)
    peak: float = 0.0  # operations per second of one core, the most seen so far

    def measure(
        self, watch: Stopwatch, names: tuple[str, ...] = peers.NAMES, longer: float = 1.0
    ) -> None:
        calls: dict[Contender, Any] = {}
        for contender in itertools.product(names, (False, True)):
            name, out = contender
            try:
                if not self.gradient:
                    calls[contender] = peers.correlate(
                        name, self.problem, out=out, workers=self.workers
                    )
                elif not out:
                    calls[contender] = peers.gradient(
                        name, self.problem, self.gradient, workers=self.workers
                    )
            except NotImplementedError:
                continue
        peers.check_equal({f"{n}{' out=' * o}": self._solution(calls[n, o]()) for n, o in calls})
        loop = peak.fma_peak(self.problem.result_dtype.name)
        times = watch.interleave({**calls, FMA: loop}, self.workers > 1, longer)
        loop.took(times.pop(FMA).least)
        self.peak = loop.best
        self.times = times

    def _solution(self, raw: Any) -> peers.Array:
        return peers.gradient_solution(raw) if self.gradient else peers.solution(self.problem, raw)

    @property
    def best(self) -> Contender:
        """Our call to quote: with out= where there is one."""
        return US_OUT if US_OUT in self.times else US

    @property
    def rate(self) -> float:
        """Our operations per second, of those that the definition asks for."""
        return self.problem.flops / self.times[self.best].least

    @property
    def share(self) -> float:
        """Our part of what the cores in use could do at most."""
        return self.rate / (self.peak * self.workers)

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
            (ratio, name + " out=" * out)
            for name, out in self.times
            if name != "fastcorr" and (ratio := self.ratio(name, out)) is not None
        ]
        return min(ratios) if ratios else None


def run(cases: list[Case], watch: Stopwatch) -> None:
    """Measure the cases, telling on the terminal how far it has come."""
    clear = "\r\033[K" if sys.stderr.isatty() else ""
    for n, case in enumerate(cases, 1):
        if clear:
            print(f"{clear}{n}/{len(cases)} {case.problem}", end="", file=sys.stderr, flush=True)
        case.measure(watch)
    print(clear, end="", file=sys.stderr, flush=True)


# ---------------------------------------------------------------- the grids

EDGES = [("valid", "fill"), *itertools.product(("same", "full"), ("fill", "wrap", "symm"))]


@dataclass(frozen=True)
class Grid:
    sizes: tuple[int, ...]
    kernels: tuple[int, ...]
    # (dtype, mode, boundary)
    kinds: tuple[tuple[str, str, str], ...]
    gradient_dtypes: tuple[str, ...]
    gradient_sizes: tuple[int, ...]
    gradient_kernels: tuple[int, ...]
    seconds: float  # per case


GRIDS = {
    "quick": Grid(
        (64, 512),
        (3, 7),
        (("float32", "valid", "fill"), ("float32", "same", "symm")),
        ("float32",),
        (512,),
        (7,),
        0.2,
    ),
    "default": Grid(
        (64, 512, 2048),
        (3, 7, 15),
        (
            ("float32", "valid", "fill"),
            ("float32", "same", "symm"),
            ("float64", "valid", "fill"),
            ("uint8->float32", "valid", "fill"),
        ),
        ("float32", "float64"),
        (512, 2048),
        (7,),
        1.0,
    ),
    "full": Grid(
        (64, 256, 512, 2048),
        (3, 5, 7, 11, 15),
        tuple((dtype, *edge) for dtype in peers.DTYPES for edge in EDGES),
        ("float32", "float64"),
        (64, 512, 2048),
        (3, 7, 15),
        1.5,
    ),
}


def grid_cases(grid: Grid, workers: list[int]) -> list[Case]:
    cases = [
        Case(Problem(size, kernel, *kind), n)
        for n in workers
        for kind in grid.kinds
        for size in grid.sizes
        for kernel in grid.kernels
    ]
    cases += [
        Case(Problem(size, kernel, dtype), n, which)
        for n in workers
        for dtype in grid.gradient_dtypes
        for which in "kx"
        for size in grid.gradient_sizes
        for kernel in grid.gradient_kernels
    ]
    return cases


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


COLUMNS = [
    ("fastcorr", US),
    ("out=", US_OUT),
    ("scipy.signal", ("scipy.signal", False)),
    ("fftconvolve", ("scipy.fftconvolve", False)),
    ("ndimage", ("scipy.ndimage", False)),
    ("OpenCV", ("opencv", False)),
    ("OpenCV dst=", ("opencv", True)),
    ("torch", ("torch", False)),
]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.3g}"


def tables(cases: list[Case]) -> Iterator[str]:
    """One Markdown table per kind of problem; lines."""

    def kind(case: Case) -> tuple[str, str, str, str, int]:
        p = case.problem
        return p.dtype, p.mode, p.boundary, case.gradient, case.workers

    for (dtype, mode, boundary, gradient, workers), group in itertools.groupby(cases, kind):
        rows = list(group)
        what = {
            "": mode if mode == "valid" else f"{mode}, {boundary}",
            "x": "gradient to the image",
            "k": "gradient to the kernel",
        }[gradient]
        threads = "one thread" if workers == 1 else f"{workers} threads"
        columns = [c for c in COLUMNS if any(c[1] in case.times for case in rows)]
        yield f"**{dtype.replace('->', ' to ')}, {what}, {threads}** (milliseconds)"
        yield ""
        head = ["image", "kernel", *(name for name, _ in columns)]
        head += ["GFLOP/s", "of peak", "x scipy.signal", "x best peer"]
        yield _row(head)
        yield _row(["---"] * 2 + ["---:"] * (len(head) - 2))
        for case in rows:
            cells = [f"{case.problem.size}²", f"{case.problem.kernel}x{case.problem.kernel}"]
            for _, contender in columns:
                t = case.times.get(contender)
                cells.append("" if t is None else f"{t.least * 1e3:.3g}")
            nearest = case.best_peer()
            cells += [
                f"{case.rate / 1e9:.1f}",
                f"{case.share:.0%}",
                _times(case.ratio("scipy.signal")),
                "" if nearest is None else f"{nearest[0]:.3g} ({nearest[1]})",
            ]
            yield _row(cells)
        yield ""


def summary(cases: list[Case]) -> str:
    """One small table, of the plain call: valid, a new result each time."""
    peer_columns = [
        ("SciPy `correlate2d`", "scipy.signal"),
        ("SciPy `ndimage`", "scipy.ndimage"),
        ("OpenCV `filter2D`", "opencv"),
        ("torch `conv2d`", "torch"),
    ]
    plain = [c for c in cases if c.problem.mode == "valid" and not c.gradient]
    threads = max((c.workers for c in plain), default=1)
    parallel = {c.problem: c for c in plain if c.workers == threads}
    head = ["image", "kernel", "fastcorr", f"fastcorr, {threads} threads"]
    if threads == 1:
        del head[-1]
    lines = [_row([*head, *(title for title, _ in peer_columns)])]
    lines.append(_row(["---"] * 2 + ["---:"] * (len(head) - 2 + len(peer_columns))))
    for case in plain:
        if case.workers != 1:
            continue
        p = case.problem
        contenders = [(case, "fastcorr"), *((case, name) for _, name in peer_columns)]
        if threads > 1:
            contenders.insert(1, (parallel[p], "fastcorr"))
        cells = [f"{p.size}² {p.dtype.replace('->', ' to ')}", f"{p.kernel}x{p.kernel}"]
        for measured, name in contenders:
            t = measured.times.get((name, False))
            cells.append("" if t is None else f"{t.least * 1e3:.3g}")
        lines.append(_row(cells))
    lines += [
        "",
        "Milliseconds a call, the least of many; mode 'valid', one thread"
        + ("" if threads == 1 else f" except in the column of {threads} threads")
        + ", a new array for each result.",
        "",
    ]
    return "\n".join(lines)


def report(cases: list[Case], warning: str | None) -> str:
    spread = [c.times[c.best].median / c.times[c.best].least for c in cases]
    lines = [f"- {line}" for line in machine()]
    lines.append(
        "- least time of many, all libraries in turns in one process; fastcorr's medians are "
        f"{statistics.median(spread):.2f} times the least (at most {max(spread):.2f})"
    )
    if warning:
        lines.append(f"- {warning}")
    lines += ["", *tables(cases)]
    lines += [
        "`out=` and `dst=`: into memory that exists; the other columns include a new result.  "
        "Ratios compare alike with alike, fresh with fresh and existing with existing memory, "
        "and per element where ndimage and OpenCV, which know no 'valid', compute the whole "
        "image.  GFLOP/s and the share of the peak are those of the `out=` column.",
        "",
    ]
    return "\n".join(lines)


def as_json(cases: list[Case], warning: str | None) -> str:
    rows = [
        {
            "problem": str(c.problem),
            "gradient": c.gradient,
            "workers": c.workers,
            "peak": c.peak,
            "times": {
                name + " out=" * out: {"least": t.least, "median": t.median, "samples": t.samples}
                for (name, out), t in c.times.items()
            },
        }
        for c in cases
    ]
    head = {"machine": list(machine()), "warning": warning, "date": time.strftime("%F")}
    return json.dumps({**head, "cases": rows}, indent=1)


def plot(cases: list[Case], file: Path) -> None:
    """Speed over the size of the kernel, a panel per image size: float32, valid, one thread."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    chosen = [
        c
        for c in cases
        if c.problem.dtype == "float32"
        and c.problem.mode == "valid"
        and not c.gradient
        and c.workers == 1
    ]
    sizes = sorted({c.problem.size for c in chosen})
    figure, panels = plt.subplots(
        1,
        len(sizes),
        figsize=(max(3.6 * len(sizes), 7), 4.2),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    drawn = [c for c in COLUMNS if c[1] != US and c[1] != ("opencv", False)]
    for panel, size in zip(panels[0], sizes, strict=True):
        rows = [c for c in chosen if c.problem.size == size]
        kernels = [c.problem.kernel for c in rows]
        for label, contender in drawn:
            rates = [
                2e-9
                * peers.outputs(contender[0], c.problem)
                * c.problem.kernel**2
                / c.times[contender].least
                if contender in c.times
                else float("nan")
                for c in rows
            ]
            ours = contender == US_OUT
            label = "fastcorr" if ours else label.removesuffix(" dst=")
            panel.plot(kernels, rates, "o-", label=label, lw=2.5 if ours else 1.2, ms=4)
        panel.plot(kernels, [c.peak / 1e9 for c in rows], "k:", label="peak of the core")
        panel.set(
            title=f"{size} x {size} float32 image",
            xlabel="kernel",
            yscale="log",
            xticks=kernels,
            xticklabels=[f"{k}x{k}" for k in kernels],
        )
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("GFLOP/s, one thread")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
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


def opencv_targets(watch: Stopwatch) -> Iterator[Verdict]:
    if peers.installed("opencv") is None:
        yield Verdict("OpenCV is not installed", "?", "", False)
        return
    for dtype, gain in (("float32", 1.3), ("float64", 2.0)):
        for size, kernel in itertools.product((512, 2048), (3, 5, 7, 9, 11, 13, 15)):
            case = Case(Problem(size, kernel, dtype), 1)
            case.measure(watch, ("fastcorr", "opencv"))
            for out in (True, False):
                ratio = case.ratio("opencv", out)
                assert ratio is not None
                memory = "out= and dst=" if out else "both fresh"
                yield at_least(
                    f"OpenCV's time over ours, {case.problem}, {memory}",
                    ratio,
                    gain if kernel >= 5 else 1.0,
                    "x",
                )
            if kernel >= 11:
                detail = f" ({case.rate / 1e9:.0f} of {case.peak / 1e9:.0f})"
                yield at_least(
                    f"of the FMA peak, {case.problem}", 100 * case.share, 80, "%", detail
                )


def scipy_targets(watch: Stopwatch) -> Iterator[Verdict]:
    if peers.installed("scipy.signal") is None:
        yield Verdict("SciPy is not installed", "?", "", False)
        return
    # The larger images with fewer kernels: one call of SciPy's takes seconds there.
    grids = ((64, (3, 5, 7, 9, 15)), (256, (3, 5, 7, 9, 15)), (512, (3, 7, 15)), (2048, (3, 7)))
    for dtype, (mode, boundary), (size, kernels) in itertools.product(
        ("float32", "float64"), EDGES, grids
    ):
        ratios = {}
        for kernel in kernels:
            case = Case(Problem(size, kernel, dtype, mode, boundary), 1)
            case.measure(watch, ("fastcorr", "scipy.signal"))
            ratios[kernel] = case.ratio("scipy.signal") or 0.0
        worst = min(ratios, key=lambda k: ratios[k])
        where = mode if mode == "valid" else f"{mode}/{boundary}"
        yield at_least(
            f"scipy.signal's time over ours, {dtype} {size}² {where}, kernels "
            f"{', '.join(map(str, kernels))}: the least",
            ratios[worst],
            12 if size < 256 else 40,
            "x",
            f" ({worst}x{worst})",
        )


def own_targets(watch: Stopwatch) -> Iterator[Verdict]:
    """Those that compare us with ourselves and with the machine."""
    for size, kernel, edge in itertools.product(
        (512, 2048), (3, 7, 15), (("valid", "fill"), ("same", "symm"))
    ):
        floats, small = (
            peers.correlate("fastcorr", Problem(size, kernel, dtype, *edge), out=True)
            for dtype in ("float32", "uint8->float32")
        )
        t = watch.interleave({"float32": floats, "uint8": small})
        yield at_most(
            f"time over float32's, {Problem(size, kernel, 'uint8->float32', *edge)}",
            t["uint8"].least / t["float32"].least,
            1.3,
            "x",
        )
    if measure.workers_allowed() < 2:
        yield Verdict("one CPU: two workers cannot be tried", "?", "", False)
    else:
        p = Problem(2048, 7)
        calls = {n: peers.correlate("fastcorr", p, out=True, workers=n) for n in (1, 2)}
        # Both with the same pauses, so that both find the processor in the same state.
        t = watch.interleave(calls, parallel=True, longer=4)
        yield at_least(f"two workers over one, {p}", t[1].least / t[2].least, 1.8, "x")
    for dtype in ("float32", "float64"):
        case = Case(Problem(2048, 7, dtype), 1, "k")
        case.measure(watch, ("fastcorr",), longer=2)
        detail = f" ({case.rate / 1e9:.0f} of {case.peak / 1e9:.0f})"
        yield at_least(
            f"of the FMA peak, kernel gradient, {case.problem}", 100 * case.share, 50, "%", detail
        )


def process_targets() -> Iterator[Verdict]:
    """Those that need processes of their own."""
    ms = 1e3 * measure.import_seconds()
    yield at_most("import fastcorr after numpy, and no SciPy with it", ms, 20, " ms")
    for case, workers in itertools.product(
        measure.SCRATCH_CASES, sorted({1, measure.workers_allowed()})
    ):
        mib = measure.scratch_bytes(case, workers) / 2**20
        yield at_most(f"scratch per worker of {workers}, {case}", mib, 4, " MiB")


def targets(watch: Stopwatch) -> int:
    failed = total = 0
    for group in (
        process_targets(),
        own_targets(watch),
        opencv_targets(watch),
        scipy_targets(watch),
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
    grid.add_argument("--full", action="store_true", help="every mode and boundary; an hour")
    grid.add_argument("--targets", action="store_true", help="check the project's targets")
    parser.add_argument(
        "--workers",
        type=int,
        nargs="+",
        metavar="N",
        help="numbers of threads to measure with (default: 1, and all)",
    )
    parser.add_argument("--seconds", type=float, help="time for each case")
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
    if args.targets:
        print(*machine(), *([warning] if warning else []), "", sep="\n")
        return targets(Stopwatch(args.seconds or 0.3, args.cpu_time))
    chosen = GRIDS["quick" if args.quick else "full" if args.full else "default"]
    everybody = measure.workers_allowed()
    workers = args.workers or sorted({1, everybody})
    if min(workers) < 1:
        parser.error("--workers takes positive numbers")
    cases = grid_cases(chosen, workers)
    run(cases, Stopwatch(args.seconds or chosen.seconds, args.cpu_time))
    text = report(cases, warning)
    if args.markdown:
        args.markdown.write_text(text, encoding="utf-8")
    if args.summary:
        write_between_marks(args.summary, summary(cases))
    if args.json:
        args.json.write_text(as_json(cases, warning), encoding="utf-8")
    if args.plot:
        plot(cases, args.plot)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
