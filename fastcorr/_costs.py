"""What the methods cost, in nanoseconds on one core: numbers only, made by benchmarks/calibrate.py.

By instruction set, kind and bytes of a lane, and method; the order is that of `_plan.features`:

direct, separable
    a call, a kernel, an output, a tap of an output (of complex numbers two outputs, two taps);
fft
    a call, a kernel, an element of a complex tile (there and back), that times the logarithm of
    the tile's size, that times the doublings beyond the second-level cache, an element of a
    kernel's spectrum.
"""

from __future__ import annotations

Costs = dict[str, dict[str, tuple[float, ...]]]

_V4: Costs = {
    "f4": {
        "direct": (1500, 0, 0.15, 0.0205),
        "separable": (15_000, 4_000, 0.20, 0.022),
        "fft": (45_000, 40_000, 1.5, 0.06, 0.45, 2.0),
    },
    "f8": {
        "direct": (1500, 0, 0.30, 0.041),
        "separable": (15_000, 4_000, 0.40, 0.044),
        "fft": (45_000, 40_000, 3.4, 0.15, 0.9, 4.0),
    },
    "u2": {
        "direct": (1500, 0, 0.10, 0.0115),
        "separable": (15_000, 4_000, 0.20, 0.011),
        "fft": (45_000, 40_000, 3.4, 0.15, 0.9, 4.0),
    },
    "u4": {
        "direct": (1500, 0, 0.15, 0.023),
        "separable": (15_000, 4_000, 0.20, 0.024),
        "fft": (45_000, 40_000, 3.4, 0.15, 0.9, 4.0),
    },
    "u8": {
        "direct": (1500, 0, 0.30, 0.045),
        "separable": (15_000, 4_000, 0.40, 0.05),
        "fft": (45_000, 40_000, 3.4, 0.15, 0.9, 4.0),
    },
}

COSTS: dict[str, Costs] = {
    "x86_64_v4": _V4,
    "x86_64_v3": _V4,
    "baseline": _V4,
    "aarch64": _V4,
}
