"""The limits of this machine, measured: multiply-adds per second and bytes per second.

A figure like "85 % of the peak" is worth what its denominator is worth, so the peak is
measured beside the calls, in the same process and minute, by a loop that does nothing but
fused multiply-adds in registers.  That loop needs a C compiler, which whoever has built
fastcorr has; without one, NumPy's matrix product stands in, and `FmaPeak.source` says so.

    python benchmarks/peak.py
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

# Twelve sums: enough to cover the latency of two units of four to five cycles, few enough for
# the sixteen registers of AVX2 with both operands beside them.
_ACCUMULATORS = 12
_SOURCE = """
#define PEAK(name, type, bytes)                                                   \\
type name(long n, type a, type b) {                                               \\
    typedef type vec __attribute__((vector_size(bytes)));                         \\
    vec va = (vec){} + a, vb = (vec){} + b, acc[ACCUMULATORS];                    \\
    for (int i = 0; i < ACCUMULATORS; i++) acc[i] = vb * (type)i;                 \\
    for (long r = 0; r < n; r++)                                                  \\
        for (int i = 0; i < ACCUMULATORS; i++) acc[i] = acc[i] * va + vb;         \\
    for (int i = 1; i < ACCUMULATORS; i++) acc[0] += acc[i];                      \\
    type sum = 0;                                                                 \\
    for (unsigned i = 0; i < bytes / sizeof(type); i++) sum += acc[0][i];         \\
    return sum;                                                                   \\
}
PEAK(float32_32, float, 32)
PEAK(float32_64, float, 64)
PEAK(float64_32, double, 32)
PEAK(float64_64, double, 64)
"""
_WIDTHS = (32, 64)  # bytes; where 64 are not native the compiler splits them
_CTYPES = {"float32": ctypes.c_float, "float64": ctypes.c_double}


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The loops above, compiled for this processor; None without a compiler."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder, "peak.c"), Path(folder, "peak.so")
        source.write_text(_SOURCE)
        flags = ["-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC", "-w"]
        define = f"-DACCUMULATORS={_ACCUMULATORS}"
        try:
            subprocess.run(
                [*compiler.split(), *flags, define, str(source), "-o", str(binary)],
                check=True,
                capture_output=True,
            )
            return ctypes.CDLL(str(binary))  # stays loaded when the file is gone
        except (OSError, subprocess.CalledProcessError):
            return None


class FmaPeak:
    """Something to time: calling it does `flops` floating-point operations on one core.

    `best` is the highest rate that this process has seen, the one to divide by.
    """

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.best = 0.0
        library = _library()
        if library is None:
            self._use_matrix_product()
        else:
            self._use_loop(library)

    def _use_loop(self, library: ctypes.CDLL) -> None:
        number = _CTYPES[self.dtype]
        best = 0.0
        for width in _WIDTHS:
            loop = library[f"{self.dtype}_{width}"]
            loop.argtypes, loop.restype = [ctypes.c_long, number, number], number
            per_turn = 2 * _ACCUMULATORS * width // np.dtype(self.dtype).itemsize
            turns = 200_000
            seconds = min(_seconds(lambda f=loop, n=turns: f(n, 0.5, 0.5)) for _ in range(7))
            rate = turns * per_turn / seconds
            if rate > best:
                best = rate
                # Two milliseconds a call: long beside the call, short beside a time slice.
                turns = max(1, int(2e-3 * rate / per_turn))
                self._call = functools.partial(loop, turns, 0.5, 0.5)
                self.flops = turns * per_turn
                self.source = f"loop of multiply-adds on {width}-byte vectors"

    def _use_matrix_product(self) -> None:
        from threadpoolctl import ThreadpoolController

        n = 512
        a = np.full((n, n), 0.5, self.dtype)
        out = np.empty_like(a)
        blas = ThreadpoolController().select(user_api="blas")

        def product() -> None:
            with blas.limit(limits=1):
                np.matmul(a, a, out=out)

        self._call = product
        self.flops = 2 * n**3
        self.source = f"{n} x {n} matrix product (no C compiler: a lower bound of the peak)"

    def __call__(self) -> None:
        self._call()

    def took(self, seconds: float) -> None:
        """Tell how long a call has taken."""
        self.best = max(self.best, self.flops / seconds)


fma_peak = functools.cache(FmaPeak)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(dtype: str, repeats: int = 50) -> FmaPeak:
    """The peak of one core, measured by itself."""
    peak = fma_peak(dtype)
    for _ in range(repeats):
        peak.took(_seconds(peak))
    return peak


def copy(nbytes: int) -> Callable[[], None]:
    """A call that reads and writes so many bytes in all, by one thread, in memory that is there."""
    source = np.ones(max(nbytes // 2, 1), np.uint8)
    target = np.ones_like(source)
    return lambda: np.copyto(target, source)


def copy_bandwidth(repeats: int = 10) -> float:
    """Bytes read and written per second by one thread copying 64 MB."""
    nbytes = 1 << 27
    call = copy(nbytes)
    return nbytes / min(_seconds(call) for _ in range(repeats))


if __name__ == "__main__":
    for name in _CTYPES:
        measured = measure(name)
        print(f"{name}: {measured.best / 1e9:.1f} GFLOP/s on one core, {measured.source}")
    print(f"copy: {copy_bandwidth() / 1e9:.1f} GB/s read and written")
