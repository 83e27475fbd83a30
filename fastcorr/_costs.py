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
        "direct": (0, 2_200, 0.149, 0.0192),
        "separable": (146_000, 7_500, 0.122, 0.023),
        "fft": (91_500, 0, 0.639, 0.16, 0.392, 1.4),
    },
    "f8": {
        "direct": (0, 2_200, 0.34, 0.0381),
        "separable": (159_000, 9_300, 0.248, 0.0451),
        "fft": (87_000, 0, 0.199, 0.358, 0.757, 1.3),
    },
    "u2": {
        "direct": (0, 2_200, 0.1, 0.0115),
        "separable": (57_000, 3_500, 0.07, 0.0145),
        "fft": (105_000, 0, 1.85, 0.222, 1.19, 1.1),
    },
    "u4": {
        "direct": (0, 2_200, 0.161, 0.0239),
        "separable": (57_000, 3_500, 0.121, 0.0274),
        "fft": (105_000, 0, 1.85, 0.222, 1.19, 1.1),
    },
    "u8": {
        "direct": (0, 2_200, 0.3, 0.045),
        "separable": (57_000, 3_500, 0.2, 0.05),
        "fft": (105_000, 0, 1.85, 0.222, 1.19, 1.1),
    },
}

_V3: Costs = {
    "f4": {
        "direct": (0, 2_200, 0.177, 0.022),
        "separable": (144_000, 7_200, 0.105, 0.0269),
        "fft": (89_000, 0, 1.24, 0.123, 0.654, 1.82),
    },
    "f8": {
        "direct": (0, 2_200, 0.351, 0.0441),
        "separable": (148_000, 9_000, 0.193, 0.0565),
        "fft": (83_500, 0, 1.79, 0.246, 1.15, 1.72),
    },
    "u2": {
        "direct": (0, 2_200, 0.1, 0.0125),
        "separable": (58_000, 3_200, 0.07, 0.0155),
        "fft": (101_000, 0, 4.12, 0.0726, 1.77, 0.6),
    },
    "u4": {
        "direct": (0, 2_200, 0.173, 0.0249),
        "separable": (58_000, 3_200, 0.114, 0.0299),
        "fft": (101_000, 0, 4.12, 0.0726, 1.77, 0.6),
    },
    "u8": {
        "direct": (0, 2_200, 0.3, 0.12),
        "separable": (58_000, 3_200, 0.2, 0.14),
        "fft": (101_000, 0, 4.12, 0.0726, 1.77, 0.6),
    },
}

_BASELINE: Costs = {
    "f4": {
        "direct": (0, 2_200, 0.22, 0.0582),
        "separable": (0, 147_000, 0.143, 0.0559),
        "fft": (88_400, 0, 0.553, 0.361, 0.768, 2.26),
    },
    "f8": {
        "direct": (0, 2_200, 0.9, 0.115),
        "separable": (0, 176_000, 0.16, 0.125),
        "fft": (76_400, 0, 1.09, 0.659, 1.21, 2.44),
    },
    "u2": {
        "direct": (0, 2_200, 0.1, 0.03),
        "separable": (50_000, 3_900, 0.1, 0.035),
        "fft": (93_600, 0, 3.84, 0.443, 3.13, 0.5),
    },
    "u4": {
        "direct": (0, 2_200, 0.131, 0.152),
        "separable": (50_000, 3_900, 0.147, 0.163),
        "fft": (93_600, 0, 3.84, 0.443, 3.13, 0.5),
    },
    "u8": {
        "direct": (0, 2_200, 0.3, 0.25),
        "separable": (50_000, 3_900, 0.3, 0.27),
        "fft": (93_600, 0, 3.84, 0.443, 3.13, 0.5),
    },
}

COSTS: dict[str, Costs] = {
    "x86_64_v4": _V4,
    "x86_64_v3": _V3,
    "baseline": _BASELINE,
    "aarch64": _V3,  # not measured yet
}
