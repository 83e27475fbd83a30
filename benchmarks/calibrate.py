"""The cost model's constants: methods measured on this machine, how well it picks, a fit.

    python benchmarks/calibrate.py times.json              # measure what is missing, and report
    python benchmarks/calibrate.py times.json --fit        # and print constants for _costs.py
    python benchmarks/calibrate.py times.json --as-it-is   # measure nothing

`fastcorr/_plan.py` predicts the time of every method by a sum of products, each of a constant of
the machine and of a number that the shapes decide: outputs, multiply-adds, calls.  Here every
method solves problems of many sizes; the constants are those that make the relative errors of
the predictions least.  They are shipped as defaults: nothing is measured at import or in a call.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import measure
import numpy as np
import peak
import peers
from peers import Problem

import fastcorr
from fastcorr import _plan

# Seconds of each method that was tried; by the name of the problem.
Times = dict[str, float]
TimesOf = dict[str, Times]
# Constants by method and lane.
Constants = dict[str, dict[str, tuple[float, ...]]]

# A choice within this of the best is a good one; whoever is so much slower is not measured twice.
GOOD, HOPELESS = 1.15, 5.0


def problems() -> list[Problem]:
    """More than 400, on all sides of where one method becomes better than another."""
    squares = [(n, "random") for n in (2, 3, 5, 7, 9, 12, 15, 20, 24, 31, 48, 63, 96, 127)]
    thin = [(taps, "random") for taps in ((1, 2), (1, 15), (15, 1), (3, 31), (48, 4))]
    separable = [(n, "gauss") for n in (3, 5, 9, 15, 31, 63)]
    sizes = {
        "float32": (32, 64, 128, 256, 512, 1024, 2048, 4096),
        "float64": (48, 128, 512, 2048),
        "complex64": (64, 256, 1024),
        "int16->int32": (64, 512),
    }
    # Images, their size, and kernels: what a call costs and what a kernel costs cannot be told
    # apart where there is one of each.
    batches = [(64, 32, 1), (16, 64, 1), (1, 64, 16), (8, 128, 8)]
    edges = itertools.cycle([("valid", "fill"), ("same", "symm"), ("same", "fill")])
    found = []
    for dtype in sizes:
        found += [
            Problem(size, kernel, dtype, *next(edges), kind)
            for size in sizes[dtype]
            for kernel, kind in squares + thin + separable
        ]
        found += [
            Problem(size, kernel, dtype, *next(edges), kind, images, kernels)
            for images, size, kernels in batches
            for kernel, kind in ((5, "random"), (15, "random"), (31, "random"), (9, "gauss"))
        ]
    return [p for p in found if max(p.taps) <= min(p.image)]


# ---------------------------------------------------------------- measuring


def methods() -> list[str]:
    """Direct sums last: how long they take at least is known before."""
    return sorted((m for m in _plan.METHODS if m != "auto"), key="direct".__eq__)


def call_of(p: Problem, method: str) -> Callable[[], object]:
    x, k = p.data()
    y = np.zeros(p.result_shape, p.result_dtype)
    axes = (-2, -1) if p.batch else None
    return lambda: fastcorr.correlate2d(
        x, k, p.mode, p.boundary, axes=axes, method=method, out=y, workers=1
    )


def measured(p: Problem, watch: measure.Stopwatch) -> Times:
    """Seconds of each method that can solve the problem."""
    calls: dict[str, Callable[[], object]] = {}
    times: Times = {}
    bound = p.flops / peak.fma_peak("float32" if lane(p) == "f4" else "float64").best
    for method in methods():
        if method == "direct" and times and bound > HOPELESS * min(times.values()):
            continue
        calls[method] = call_of(p, method)
        try:
            calls[method]()
        except ValueError:  # the method is none for such a kernel
            del calls[method]
            continue
        start = time.perf_counter()
        calls[method]()
        times[method] = time.perf_counter() - start
    hopeful = {m: c for m, c in calls.items() if times[m] <= HOPELESS * min(times.values())}
    for method, t in watch.interleave(hopeful).items():
        times[method] = min(times[method], t.least)
    return times


def measure_missing(
    chosen: list[Problem], times: TimesOf, file: Path, watch: measure.Stopwatch
) -> None:
    """Add to the file what it does not have; it can be interrupted at any time."""
    for dtype in "float32", "float64":
        peak.measure(dtype)
    missing = [p for p in chosen if str(p) not in times]
    for n, p in enumerate(missing, 1):
        if sys.stderr.isatty():
            print(f"\r\033[K{n}/{len(missing)} {p}", end="", file=sys.stderr, flush=True)
        times[str(p)] = measured(p, watch)
        fresh = file.with_suffix(".new")
        config = fastcorr.show_config(mode="dicts")
        fresh.write_text(json.dumps({"isa": config["isa"], "times": times}, indent=1))
        fresh.replace(file)
    print("\r\033[K" if missing and sys.stderr.isatty() else "", end="", file=sys.stderr)


# ---------------------------------------------------------------- judging


def verdict(picks: dict[Problem, str], times: TimesOf) -> Iterator[str]:
    """How often a pick is good, and which ones are not, the worst first; lines."""
    losses: list[tuple[float, str]] = []
    for p, pick in picks.items():
        t = times[str(p)]
        best = min(t, key=lambda m: t[m])
        loss = t.get(pick, float("inf")) / t[best]
        if loss > GOOD:
            losses.append((loss, f"{loss:8.2f}x  {pick} instead of {best}: {p}"))
    good = len(picks) - len(losses)
    yield (
        f"within {GOOD - 1:.0%} of the best method in {good} of {len(picks)} cases, "
        f"{good / max(len(picks), 1):.1%} (wanted: 95 %)"
    )
    yield from (line for _, line in sorted(losses, reverse=True))


# ---------------------------------------------------------------- fitting


def lane(p: Problem) -> str:
    """Kind and bytes of the numbers of which the result's elements are made, as in `_plan`."""
    real = np.empty(0, p.result_dtype).real.dtype
    return f"{'f' if real.kind == 'f' else 'u'}{real.itemsize}"


def features(p: Problem) -> dict[str, tuple[float, ...]]:
    """Of each method the numbers that, times its constants, are the nanoseconds it takes.

    `_plan.features` takes the arguments of `_plan.seconds`, and where that adds up constants it
    gives what each is multiplied with.  A separable method is there for every shape: it is left
    out for the kernels that it refused.
    """
    comps = 2 if p.result_dtype.kind == "c" else 1
    planes = p.images * p.kernels
    return dict(_plan.features(lane(p), comps, planes, p.kernels, p.shape, p.taps))


def fit(known: dict[Problem, dict[str, tuple[float, ...]]], times: TimesOf) -> Constants:
    """The constants, none negative, that make the sum of squares of the relative errors least."""
    from scipy.optimize import nnls

    constants: Constants = {}
    for method, kind in itertools.product(methods(), sorted({lane(p) for p in known})):
        rows = [
            1e-9 * np.array(numbers[method]) / times[str(p)][method]
            for p, numbers in known.items()
            if lane(p) == kind and method in numbers and method in times[str(p)]
        ]
        if rows:
            # Each column 1 at most: the constants differ by many powers of ten.
            a = np.array(rows)
            scale = np.maximum(a.max(axis=0), 1e-300)
            solution, _ = nnls(a / scale, np.ones(len(rows)))
            constants.setdefault(method, {})[kind] = tuple(solution / scale)
    return constants


def predictions(p: Problem, numbers: dict[str, tuple[float, ...]], constants: Constants) -> Times:
    """Seconds of each method by a model with these constants."""
    return {
        method: 1e-9 * float(np.dot(values, constants[method][lane(p)]))
        for method, values in numbers.items()
        if lane(p) in constants.get(method, {})
    }


def report_fit(chosen: list[Problem], times: TimesOf) -> Iterator[str]:
    """The constants, ready to be pasted, and what a model with them would do; lines."""
    known = {
        p: {m: v for m, v in features(p).items() if m == "direct" or m in times[str(p)]}
        for p in chosen
    }
    constants = fit(known, times)
    yield f"# {fastcorr.show_config(mode='dicts')['isa']}, nanoseconds"
    for method, by_lane in constants.items():
        yield f"_{method.upper()} = {{"
        for kind, values in by_lane.items():
            yield f'    "{kind}": ({", ".join(f"{c:.3g}" for c in values)}),'
        yield "}"
    predicted = {p: predictions(p, numbers, constants) for p, numbers in known.items()}
    for method, by_lane in constants.items():
        for kind in by_lane:
            errors = [
                t[method] / times[str(p)][method] - 1
                for p, t in predicted.items()
                if lane(p) == kind and method in t and method in times[str(p)]
            ]
            yield (
                f"{method} {kind}: half of the {len(errors)} predictions within "
                f"{np.median(np.abs(errors)):.0%}, the worst off by {max(errors, key=abs):+.0%}"
            )
    yield "with these constants:"
    yield from verdict({p: min(t, key=lambda m: t[m]) for p, t in predicted.items() if t}, times)


# ---------------------------------------------------------------- the command


def main() -> int:
    parser = argparse.ArgumentParser(description="the cost model of fastcorr, on this machine")
    parser.add_argument("file", type=Path, help="JSON with the times: read, added to")
    parser.add_argument("--only", default="", metavar="REGEX", help="problems whose name it finds")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every Nth problem")
    parser.add_argument("--seconds", type=float, default=0.1, help="time for each problem")
    parser.add_argument("--cpu-time", action="store_true", help="by processor time")
    parser.add_argument("--as-it-is", action="store_true", help="measure nothing")
    parser.add_argument("--fit", action="store_true", help="fit the constants and print them")
    args = parser.parse_args()

    chosen = [p for p in problems() if re.search(args.only, str(p))][:: args.every]
    times: TimesOf = {}
    if args.file.exists():
        times = json.loads(args.file.read_text())["times"]
    if not args.as_it_is:
        watch = measure.Stopwatch(args.seconds, args.cpu_time)
        measure_missing(chosen, times, args.file, watch)
    chosen = [p for p in chosen if times.get(str(p))]
    if hasattr(fastcorr, "choose_method"):
        print(*verdict({p: peers.method(p, 1) for p in chosen}, times), sep="\n")
    if args.fit:
        if not hasattr(_plan, "features"):
            parser.error("fastcorr._plan has no features() to fit constants to")
        print(*report_fit(chosen, times), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
