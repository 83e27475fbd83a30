"""asv: the gradients, alone and beside the peers."""

from __future__ import annotations

import measure
import numpy as np
import peak
import peers
from peers import Problem

import fastcorr


class Corr2dBackward:
    params = (["x", "k"], [512, 2048], [7, 31, 63], ["float32", "float64"], ["1", "all"])
    param_names = ("to", "size", "kernel", "dtype", "workers")

    def setup(self, to, size, kernel, dtype, workers):
        n = 1 if workers == "1" else measure.workers_allowed()
        self.call = peers.gradient("fastcorr", Problem(size, kernel, dtype), to, workers=n)
        self.call()

    def time_corr2d_backward(self, *_):
        self.call()


class Correlate2dVjp:
    """512² with 7x7: what the boundaries add."""

    params = (
        ["in1", "in2"],
        ["same-fill", "same-wrap", "same-symm", "full-wrap"],
        ["float32", "complex64"],
    )
    param_names = ("to", "edges", "dtype")

    def setup(self, to, edges, dtype):
        self.mode, _, boundary = edges.partition("-")
        self.boundary = boundary or "fill"
        self.x, self.k = np.ones((512, 512), dtype), np.ones((7, 7), dtype)
        self.dy = fastcorr.correlate2d(self.x, self.k, self.mode, self.boundary)
        self.time_correlate2d_vjp(to)

    def time_correlate2d_vjp(self, to, *_):
        fastcorr.correlate2d_vjp(
            self.dy, self.x, self.k, self.mode, self.boundary, needs=(to,), workers=1
        )


class Peers:
    """Everybody on one thread, with a new result each time."""

    params = (list(peers.NAMES), ["x", "k"], [512], [3, 7, 63], ["float32", "float64"])
    param_names = ("peer", "to", "size", "kernel", "dtype")

    def setup(self, peer, to, size, kernel, dtype):
        p = Problem(size, kernel, dtype)
        if peers.affordable(peer, p, 1.0) != p:
            raise NotImplementedError(f"{peer} takes seconds for it")
        self.call = peers.gradient(peer, p, to)
        self.call()

    def time_gradient(self, *_):
        self.call()


class Step:
    """One step of the first lesson: a 1x2 kernel learned from a 6x8 image."""

    x, k = np.ones((6, 8)), np.ones((1, 2))

    def time_forward_and_backward(self):
        y = fastcorr.corr2d(self.x, self.k)
        fastcorr.corr2d_backward(y, self.x, self.k)


class Tracked:
    params = (["x", "k"], [512], [3, 7, 15], ["float32", "float64"])
    param_names = ("to", "size", "kernel", "dtype")

    def track_share_of_fma_peak(self, to, size, kernel, dtype):
        p = Problem(size, kernel, dtype)
        loop = peak.fma_peak(dtype)
        calls = {"fastcorr": peers.gradient("fastcorr", p, to), "loop": loop}
        times = measure.Stopwatch(0.5).interleave(calls)
        loop.took(times["loop"].least)
        # Both gradients take as many operations as the correlation itself.
        return 100 * p.flops / times["fastcorr"].least / loop.best

    track_share_of_fma_peak.unit = "%"
