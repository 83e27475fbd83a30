"""asv: the forward calls, alone and beside the peers, their memory and their import.

setup() ends with the call that is timed afterwards: `asv run --quick` times one call only, and
that should be a warm one, whose code is loaded and whose threads run.
"""

from __future__ import annotations

import inspect

import measure
import numpy as np
import peak
import peers
from peers import Problem

import fastcorr


def problem(size: int, kernel: int, dtype: str, edges: str) -> Problem:
    """A problem from asv's parameters; edges are a mode and a boundary, "same-symm"."""
    mode, _, boundary = edges.partition("-")
    return Problem(size, kernel, dtype, mode, boundary or "fill")


def need(name: str, keyword: str = "") -> None:
    """NotImplementedError, asv's "skip", of a commit without a function or keyword of it."""
    function = getattr(fastcorr, name, None)
    if function is None or (keyword and keyword not in inspect.signature(function).parameters):
        raise NotImplementedError(f"a commit before {name} {keyword}".strip())


class Correlate2d:
    """One thread, into memory that exists."""

    params = ([64, 512, 2048], [3, 7, 15], ["float32", "float64"], ["valid", "same-symm"])
    param_names = ("size", "kernel", "dtype", "edges")

    def setup(self, size, kernel, dtype, edges):
        self.call = peers.correlate("fastcorr", problem(size, kernel, dtype, edges), out=True)
        self.call()

    def time_correlate2d(self, *_):
        self.call()


def by_name(*problems: Problem) -> dict[str, Problem]:
    """Problems by what asv shows of them."""
    return {str(p): p for p in problems}


SHAPES = by_name(
    *(Problem(512, taps) for taps in ((1, 2), (1, 15), (15, 1), (3, 31), 2, 8, 24, 31, 63, 127)),
    *(Problem(512, n, kind="gauss") for n in (5, 15, 31)),
    *(Problem(2048, n, kind=kind) for n, kind in ((31, "random"), (127, "random"), (15, "box"))),
    *(Problem(512, n, "float64", "same", "symm") for n in (31, 63)),
    *(Problem(512, n, "float64", kind="gauss") for n in (7, 15)),
    *(Problem(512, n, "int16->int32") for n in (3, 8, 31)),
    Problem(512, 15, "int16->int32", kind="box"),
    *(Problem(512, n, "complex64") for n in (3, 7, 31)),
    Problem(512, 15, "complex64", kind="gauss"),
    *(Problem(size, 7) for size in ((16, 16384), (16384, 16), 28)),
)


class Shapes:
    """Large, even, thin and separable kernels, wide and tall images, on one thread and on all."""

    params = (list(SHAPES), ["1", "all"])
    param_names = ("problem", "workers")

    def setup(self, name, workers):
        n = 1 if workers == "1" else measure.workers_allowed()
        self.call = peers.correlate("fastcorr", SHAPES[name], out=True, workers=n)
        self.call()

    def time_correlate2d(self, *_):
        self.call()


class Methods:
    """Every method beside what 'auto' makes of them: it should be the fastest, or near it."""

    params = (
        ["auto", "direct", "separable", "fft"],
        ["float32", "float64", "complex64", "int16->int32"],
        [9, 20, 31, 63],
        ["random", "gauss"],
    )
    param_names = ("method", "dtype", "kernel", "kind")

    def setup(self, method, dtype, kernel, kind):
        p = Problem(512, kernel, dtype, kind=kind)
        self.x, self.k = p.data()
        self.method, self.out = method, np.zeros(p.shape, p.result_dtype)
        try:
            self.time_correlate2d()
        except ValueError as error:
            raise NotImplementedError("no such method, or none for this kernel") from error

    def time_correlate2d(self, *_):
        fastcorr.correlate2d(self.x, self.k, "valid", out=self.out, method=self.method, workers=1)


PLANS = by_name(
    Problem((6, 8), (1, 2), "float64"),
    Problem(64, 5),
    Problem(64, 15, kind="gauss"),
    Problem(64, 31),
    Problem(512, 63),
    Problem(512, 63, "float64", "same", "symm"),
)


class Plans:
    """A kernel made ready once, for many images; into memory that exists."""

    params = (list(PLANS),)
    param_names = ("problem",)

    def setup(self, name):
        need("plan_correlate2d")
        p = PLANS[name]
        self.x, self.k = p.data()
        self.how = {"shape": p.image, "mode": p.mode, "boundary": p.boundary, "workers": 1}
        self.out = np.zeros(p.shape, p.result_dtype)
        self.plan = fastcorr.plan_correlate2d(self.k, **self.how)
        self.time_plan()

    def time_plan(self, *_):
        self.plan(self.x, out=self.out)

    def time_making_it(self, *_):
        fastcorr.plan_correlate2d(self.k, **self.how)


class Lags:
    """Two windows of an image sequence correlated: all lags, and the few that are possible."""

    params = ([32, 64, 128], ["all", "8 around the middle"])
    param_names = ("size", "lags")

    def setup(self, size, lags):
        need("correlate2d", "lags")
        self.x, self.k = np.random.default_rng(0).random((2, size, size), np.float32)
        self.lags = None if lags == "all" else (slice(size - 5, size + 4),) * 2
        self.time_correlate2d()

    def time_correlate2d(self, *_):
        fastcorr.correlate2d(self.x, self.k, "full", lags=self.lags, workers=1)


class Edges:
    """float32 with 7x7: the borders of a small image are half of the work."""

    params = (
        [64, 512],
        [
            "same-fill", "same-wrap", "same-symm", "same-mirror", "same-nearest",
            "full-fill", "full-wrap", "full-symm",
        ],
    )  # fmt: skip
    param_names = ("size", "edges")

    def setup(self, size, edges):
        self.call = peers.correlate("fastcorr", problem(size, 7, "float32", edges), out=True)
        self.call()

    def time_correlate2d(self, *_):
        self.call()


class Dtypes:
    """512² with 7x7, every type that a result can have, and bytes read as something wider."""

    params = (
        [
            "float32->float32", "float64->float64", "longdouble->longdouble",
            "complex64->complex64", "complex128->complex128",
            "int8->int8", "int16->int16", "int32->int32", "int64->int64",
            "uint8->float32", "uint8->float64", "uint8->int32", "uint16->float32",
        ],
    )  # fmt: skip
    param_names = ("dtype",)

    def setup(self, dtype):
        image, _, result = dtype.partition("->")
        rng = np.random.default_rng(0)
        self.x = rng.integers(0, 100, (512, 512)).astype(image)
        self.k = rng.integers(0, 10, (7, 7)).astype(result)
        self.result = result
        self.time_correlate2d()

    def time_correlate2d(self, *_):
        fastcorr.correlate2d(self.x, self.k, "same", "symm", dtype=self.result, workers=1)


class Convolve2d:
    """The kernel reversed: it should cost nothing."""

    params = ([64, 512], [3, 7], ["valid", "full-fill"])
    param_names = ("size", "kernel", "edges")

    def setup(self, size, kernel, edges):
        p = problem(size, kernel, "float32", edges)
        self.x, self.k = p.data()
        self.mode, self.out = p.mode, np.zeros(p.shape, np.float32)
        self.time_convolve2d()

    def time_convolve2d(self, *_):
        fastcorr.convolve2d(self.x, self.k, self.mode, out=self.out, workers=1)


class Workers:
    params = (["1", "all"], [512, 2048], [3, 7])
    param_names = ("workers", "size", "kernel")

    def setup(self, workers, size, kernel):
        n = 1 if workers == "1" else measure.workers_allowed()
        self.call = peers.correlate("fastcorr", Problem(size, kernel), out=True, workers=n)
        self.call()

    def time_correlate2d(self, *_):
        self.call()


# Shape of the image, of the kernel, and axes.
BATCHES = {
    "256 images 64² with one 5x5": ((256, 64, 64), (5, 5), (-2, -1)),
    "64 images 64² with one 31x31": ((64, 64, 64), (31, 31), (-2, -1)),
    "one image 512² with 8 7x7": ((512, 512), (8, 7, 7), (-2, -1)),
    "one image 512² with 8 31x31": ((512, 512), (8, 31, 31), (-2, -1)),
    "32 images 64² with 8 5x5 each": ((32, 1, 64, 64), (8, 5, 5), (-2, -1)),
    "5000 images 8² with one 3x3": ((5000, 8, 8), (3, 3), (-2, -1)),
    "512² of 3 channels with one 5x5": ((512, 512, 3), (5, 5, 1), (0, 1)),
}


class Batches:
    """Many planes in one call: stacks of images, banks of kernels, channels last."""

    params = (list(BATCHES), ["1", "all"])
    param_names = ("case", "workers")

    def setup(self, case, workers):
        x_shape, k_shape, self.axes = BATCHES[case]
        rng = np.random.default_rng(0)
        self.x = rng.random(x_shape, np.float32)
        self.k = rng.random(k_shape, np.float32)
        self.workers = 1 if workers == "1" else measure.workers_allowed()
        self.time_correlate2d()

    def time_correlate2d(self, *_):
        fastcorr.correlate2d(self.x, self.k, "same", "symm", axes=self.axes, workers=self.workers)


class Overhead:
    """What a call costs before it computes anything worth the name.

    No setup(): with one, asv would time single calls, and these are as short as its clock.
    """

    x, k = np.ones((6, 8)), np.ones((1, 2))
    y = np.ones((6, 7))

    def time_correlate2d(self):
        fastcorr.correlate2d(self.x, self.k, "valid")

    def time_correlate2d_out(self):
        fastcorr.correlate2d(self.x, self.k, "valid", out=self.y)

    def time_corr2d(self):
        fastcorr.corr2d(self.x, self.k)


class Peers:
    """Everybody on one thread, with a new result each time.  compare.py has the larger grid."""

    params = (
        list(peers.NAMES),
        [64, 512],
        [3, 7],
        ["float32", "float64"],
        ["valid", "same-symm"],
    )
    param_names = ("peer", "size", "kernel", "dtype", "edges")

    def setup(self, peer, size, kernel, dtype, edges):
        self.call = peers.correlate(peer, problem(size, kernel, dtype, edges))
        self.call()

    def time_correlate2d(self, *_):
        self.call()


class PeersBytes:
    """An image of bytes and a float32 result: who converts it on the way, and who before."""

    params = (list(peers.NAMES), [3, 7])
    param_names = ("peer", "kernel")

    def setup(self, peer, kernel):
        self.call = peers.correlate(peer, Problem(512, kernel, "uint8->float32"))
        self.call()

    def time_correlate2d(self, *_):
        self.call()


PEERS = SHAPES | by_name(
    Problem(64, 5, images=256),
    Problem(64, 5, images=32, kernels=8),
    Problem(512, 7, kernels=8),
    Problem(512, 31, kernels=8),
)


class PeersShapes:
    """The same kernels, and batches: who has no call for them is called for each image."""

    params = (list(peers.NAMES[1:]), list(PEERS))
    param_names = ("peer", "problem")

    def setup(self, peer, name):
        p = PEERS[name]
        if peers.affordable(peer, p, 1.0) != p:
            raise NotImplementedError(f"{peer} takes seconds for it")
        self.call = peers.correlate(peer, p)
        self.call()

    def time_correlate2d(self, *_):
        self.call()


class Memory:
    """The whole process; the difference to the reference is the scratch of a call."""

    def setup(self):
        self.x = np.ones((4096, 4096), np.float32)
        self.k = np.ones((7, 7), np.float32)
        self.out = np.ones((4096, 4096), np.float32)

    def peakmem_reference(self):
        pass

    def peakmem_correlate2d(self):
        fastcorr.correlate2d(self.x, self.k, "same", "symm", out=self.out)

    def peakmem_correlate2d_uint8(self):
        # A view: an image of bytes in setup() would count in the other three.
        fastcorr.correlate2d(
            self.x.view(np.uint8)[:, ::4], self.k, "same", "symm", dtype="float32", out=self.out
        )

    def peakmem_kernel_gradient(self):
        fastcorr.correlate2d_vjp(self.out, self.x, self.k, "same", "symm", needs=("in2",))


class Import:
    def timeraw_import(self):
        return "import fastcorr", "import numpy"


class Tracked:
    """512²: ratios are less moved by the machine of the day than times."""

    params = ([3, 7, 15, 31, 63], ["float32", "float64"])
    param_names = ("kernel", "dtype")

    def setup(self, kernel, dtype):
        self.problem = Problem(512, kernel, dtype)
        self.watch = measure.Stopwatch(0.5)

    def track_share_of_fma_peak(self, *_):
        p = self.problem
        loop = peak.fma_peak(p.dtype)
        ours = peers.correlate("fastcorr", p, out=True)
        times = self.watch.interleave({"fastcorr": ours, "loop": loop})
        loop.took(times["loop"].least)
        return 100 * p.flops / times["fastcorr"].least / loop.best

    track_share_of_fma_peak.unit = "%"

    def track_speed_over_fft(self, *_):
        return self._speed_over("scipy.oaconvolve", out=False)

    track_speed_over_fft.unit = "x"

    def track_speed_over_opencv(self, *_):
        return self._speed_over("opencv", out=True)

    track_speed_over_opencv.unit = "x"

    def track_speed_over_scipy(self, *_):
        return self._speed_over("scipy.signal", out=False)

    track_speed_over_scipy.unit = "x"

    def _speed_over(self, peer, out):
        p = self.problem
        if peers.affordable(peer, p, 1.0) != p:
            raise NotImplementedError(f"{peer} takes seconds for it")
        calls = {name: peers.correlate(name, p, out=out) for name in ("fastcorr", peer)}
        peers.check_equal({name: peers.solution(p, call()) for name, call in calls.items()})
        times = self.watch.interleave(calls)
        per_element = {name: t.least / peers.outputs(name, p) for name, t in times.items()}
        return per_element[peer] / per_element["fastcorr"]


class Process:
    """What only a process of its own can tell."""

    def track_import_over_numpy(self):
        return 1e3 * measure.import_seconds(3)

    track_import_over_numpy.unit = "ms"

    def track_scratch_per_worker(self, case):
        return measure.scratch_bytes(case, measure.workers_allowed())

    track_scratch_per_worker.unit = "bytes"
    track_scratch_per_worker.params = (list(measure.SCRATCH_CASES),)
    track_scratch_per_worker.param_names = ("case",)
