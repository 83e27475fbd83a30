"""Timing calls beside each other, and what only a fresh interpreter can tell."""

from __future__ import annotations

import functools
import math
import statistics
import subprocess
import sys
import textwrap
import time
import timeit
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Times:
    """Seconds per call: the least and the middle of so many samples."""

    least: float
    median: float
    samples: int

    def times(self, factor: float) -> Times:
        """Of work so many times as large."""
        return Times(self.least * factor, self.median * factor, self.samples)


# A sample is this long at least, many calls if need be: the clock's own cost disappears.
_SAMPLE = 1e-3
# Whoever needs most of its time for one call is still called this often.
_FEWEST = 3
# After a parallel call the threads of an OpenMP runtime spin for some milliseconds, on the
# cores that the next call needs: with more than one worker wait until they sleep, then call
# once unmeasured to wake those who are measured, and make more of the sample.
_SETTLE = 0.02
_PARALLEL_SAMPLE = 5e-3


@dataclass(frozen=True)
class Stopwatch:
    """How long to measure, and by which clock."""

    seconds: float
    # On a machine that others use as well, the processor time of this process leaves out the
    # time that it waited for a core.  It means something for one thread only.
    cpu_time: bool = False

    def interleave(
        self,
        calls: Mapping[Name, Callable[[], object]],
        parallel: bool = False,
        longer: float = 1.0,
    ) -> dict[Name, Times]:
        """Time the calls in turns, A B C A B C …, each for its part of the seconds.

        In turns, because the clock of the processor and the neighbours on the machine change
        from second to second, and what is compared must have seen the same.  The least time is
        the one to compare: whatever disturbs a call makes it longer, never shorter.  Each call
        has been made before, to see that its result is right.
        """
        clock = time.process_time if self.cpu_time and not parallel else time.perf_counter
        sample = _PARALLEL_SAMPLE if parallel else _SAMPLE
        timers = {name: timeit.Timer(call, timer=clock) for name, call in calls.items()}
        numbers: dict[Name, int] = {}
        samples: dict[Name, list[float]] = {name: [] for name in calls}
        spent = dict.fromkeys(calls, 0.0)
        for name, timer in timers.items():
            once = timer.timeit(1)
            if once < sample:
                once = min(once, timer.timeit(1), timer.timeit(1))
            else:
                samples[name].append(once)
            numbers[name] = max(1, math.ceil(sample / once))
        running = list(calls)
        while running:
            for name in running:
                if parallel:
                    time.sleep(_SETTLE)
                    calls[name]()
                t = timers[name].timeit(numbers[name])
                samples[name].append(t / numbers[name])
                spent[name] += t
            running = [
                name
                for name in running
                if spent[name] < self.seconds * longer / len(calls) or len(samples[name]) < _FEWEST
            ]
        return {
            name: Times(min(times), statistics.median(times), len(times))
            for name, times in samples.items()
        }


def in_fresh_python(code: str) -> float:
    """The number that a program of its own prints."""
    program = textwrap.dedent(code)
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    return float(output.stdout)


def import_seconds(repeats: int = 9) -> float:
    """What `import fastcorr` adds to `import numpy`; an error if it brings SciPy along."""
    code = """
        import sys, time, numpy
        start = time.perf_counter()
        import fastcorr
        print(time.perf_counter() - start)
        assert "scipy" not in sys.modules, "importing fastcorr imports SciPy"
    """
    return min(in_fresh_python(code) for _ in range(repeats))


# Statements that make x, k and the result's memory y, and the call measured.  All memory is
# there and touched before; what the process still grows by is scratch.
SCRATCH_CASES = {
    "same symm, 4096², 7x7 float32": (
        "x = ones((4096, 4096)); k = ones((7, 7)); y = ones((4096, 4096))",
        "correlate2d(x, k, 'same', 'symm', out=y, workers=n)",
    ),
    "full wrap, 4096², 7x7 float64": (
        "x = ones((4096, 4096), 'f8'); k = ones((7, 7), 'f8'); y = ones((4102, 4102), 'f8')",
        "correlate2d(x, k, 'full', 'wrap', out=y, workers=n)",
    ),
    "same symm, 4096², 7x7 uint8 to float32": (
        "x = ones((4096, 4096), 'u1'); k = ones((7, 7)); y = ones((4096, 4096))",
        "correlate2d(x, k, 'same', 'symm', out=y, workers=n)",
    ),
    "same symm, 4096², 7x7 float32, transposed": (
        "x = ones((4096, 4096)).T; k = ones((7, 7)); y = ones((4096, 4096))",
        "correlate2d(x, k, 'same', 'symm', out=y, workers=n)",
    ),
    "same symm, 1024², 127x127 float32": (
        "x = ones((1024, 1024)); k = ones((127, 127)); y = ones((1024, 1024))",
        "correlate2d(x, k, 'same', 'symm', out=y, workers=n)",
    ),
    "same symm, 4096², 31x31 float32": (
        "x = ones((4096, 4096)); k = random((31, 31)); y = ones((4096, 4096))",
        "correlate2d(x, k, 'same', 'symm', out=y, workers=n)",
    ),
    "same symm, 4096², 15x15 gauss float32": (
        "x = ones((4096, 4096)); k = np.outer(random(15), random(15)); y = ones((4096, 4096))",
        "correlate2d(x, k, 'same', 'symm', out=y, workers=n)",
    ),
    "same symm, 1024², 256x256 float64": (
        "x = ones((1024, 1024), 'f8'); k = random((256, 256), 'f8'); y = x.copy()",
        "correlate2d(x, k, 'same', 'symm', out=y, workers=n)",
    ),
    "valid, 2048x1024, 256x256 complex64": (
        "x = ones((2048, 1024), 'F'); k = random((256, 256), 'F'); y = ones((1793, 769), 'F')",
        "correlate2d(x, k, 'valid', out=y, workers=n)",
    ),
    "same fill, 2048², 63x63 int16 to int32": (
        "x = ones((2048, 2048), 'i2'); k = ones((63, 63), 'i4'); y = ones((2048, 2048), 'i4')",
        "correlate2d(x, k, 'same', out=y, workers=n)",
    ),
    "kernel gradient, same symm, 4096², 7x7 float32": (
        "x = ones((4096, 4096)); k = ones((7, 7)); y = ones((4096, 4096))",
        "correlate2d_vjp(y, x, k, 'same', 'symm', needs=('in2',), workers=n)",
    ),
    "kernel gradient, 1024², 255x255 float32": (
        "x = ones((1024, 1024)); k = ones((255, 255)); y = ones((770, 770))",
        "correlate2d_vjp(y, x, k, 'valid', needs=('in2',), workers=n)",
    ),
    "same symm, 4096², 3x3 float16 to float32": (
        "x = ones((4096, 4096), 'f2'); k = ones((3, 3)); y = ones((4096, 4096))",
        "correlate2d(x, k, 'same', 'symm', out=y, workers=n)",
    ),
    # This one has no out=: its result, 64 MiB, is taken off.
    "image gradient, same symm, 4096², 7x7 float32": (
        "x = ones((4096, 4096)); k = ones((7, 7)); y = ones((4096, 4096))",
        "result = correlate2d_vjp(y, x, k, 'same', 'symm', needs=('in1',), workers=n)[0]",
    ),
}


def scratch_bytes(case: str, workers: int) -> float:
    """Memory that a call needs beyond inputs and result, in bytes per worker."""
    prepare, call = SCRATCH_CASES[case]
    # The high-water mark of getrusage() cannot be put back: on Linux /proc can, and a mark left
    # by making the inputs would hide the scratch.
    total = in_fresh_python(f"""
        import resource, sys
        import numpy as np
        from fastcorr import correlate2d, correlate2d_vjp

        n, result = {workers}, None

        def ones(shape, dtype="f4"):
            return np.ones(shape, dtype)

        def random(shape, dtype="f4"):
            return np.random.default_rng(0).random(shape).astype(dtype)

        def peak():
            try:
                with open("/proc/self/status") as file:
                    return next(int(s.split()[1]) << 10 for s in file if s.startswith("VmHWM"))
            except FileNotFoundError:
                unit = 1 if sys.platform == "darwin" else 1024
                return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

        # Starts the threads and loads the kernels, with as little scratch as there can be.
        x, k = ones((256, 256)), ones((1, 1))
        for dtype in "u1", "f4", "f8":
            y = correlate2d(x.astype(dtype), k, "valid", dtype="f4", workers=n)
            correlate2d_vjp(y, x.astype(dtype), k, "valid", workers=n)
        for dtype in "f8", "F", "i4":
            correlate2d(x.astype(dtype), k.astype(dtype), "valid", workers=n)
        del x, y

        {prepare}
        try:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
        except OSError:
            pass
        before = peak()
        {call}
        print(peak() - before - (0 if result is None else result.nbytes))
    """)
    return max(total, 0.0) / workers


@functools.cache
def workers_allowed() -> int:
    """Threads that this process may use: `workers=-1` and as many for the peers."""
    import fastcorr

    with fastcorr.set_workers(-1):
        return fastcorr.get_workers()
