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
        "direct": (1500, 500, 0.149, 0.0192),
        "separable": (146_000, 7_500, 0.122, 0.023),
        "fft": (91_500, 0, 0.639, 0.16, 0.392, 1.4),
    },
    "f8": {
        "direct": (1500, 500, 0.34, 0.0381),
        "separable": (159_000, 9_300, 0.248, 0.0451),
        "fft": (87_000, 0, 0.199, 0.358, 0.757, 1.3),
    },
    "u2": {
        "direct": (1500, 500, 0.1, 0.0115),
        "separable": (57_000, 3_500, 0.07, 0.0145),
        "fft": (105_000, 0, 1.85, 0.222, 1.19, 1.1),
    },
    "u4": {
        "direct": (1500, 500, 0.161, 0.0239),
        "separable": (57_000, 3_500, 0.121, 0.0274),
        "fft": (105_000, 0, 1.85, 0.222, 1.19, 1.1),
    },
    "u8": {
        "direct": (1500, 500, 0.3, 0.045),
        "separable": (57_000, 3_500, 0.2, 0.05),
        "fft": (105_000, 0, 1.85, 0.222, 1.19, 1.1),
    },
}

COSTS: dict[str, Costs] = {
    "x86_64_v4": _V4,
    "x86_64_v3": _V4,
    "baseline": _V4,
    "aarch64": _V4,
}
