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
        "direct": (0, 2_200, 0.139, 0.0191),
        "separable": (18_600, 4_600, 0.163, 0.0228),
        "fft": (88_900, 0, 1.52, 0.0919, 0.596, 1.76),
    },
    "f8": {
        "direct": (0, 1_900, 0.319, 0.0381),
        "separable": (17_500, 2_600, 0.326, 0.0444),
        "fft": (84_500, 0, 1.91, 0.215, 1.04, 1.5),
    },
    "u2": {
        "direct": (0, 2_200, 0.1, 0.0115),
        "separable": (17_300, 3_500, 0.07, 0.0148),
        "fft": (103_000, 0, 3.25, 0.121, 1.29, 1.24),
    },
    "u4": {
        "direct": (0, 3_100, 0.149, 0.0239),
        "separable": (17_300, 3_500, 0.15, 0.0281),
        "fft": (103_000, 0, 3.25, 0.121, 1.29, 1.24),
    },
    "u8": {
        "direct": (0, 2_200, 0.3, 0.045),
        "separable": (17_300, 3_500, 0.25, 0.051),
        "fft": (103_000, 0, 3.25, 0.121, 1.29, 1.24),
    },
}

_V3: Costs = {
    "f4": {
        "direct": (0, 2_200, 0.177, 0.022),
        "separable": (20_000, 4_000, 0.105, 0.0269),
        "fft": (89_000, 0, 1.24, 0.123, 0.654, 1.82),
    },
    "f8": {
        "direct": (0, 2_200, 0.351, 0.0441),
        "separable": (20_000, 4_000, 0.193, 0.0565),
        "fft": (83_500, 0, 1.79, 0.246, 1.15, 1.72),
    },
    "u2": {
        "direct": (0, 2_200, 0.1, 0.0125),
        "separable": (18_000, 3_500, 0.07, 0.0155),
        "fft": (101_000, 0, 4.12, 0.0726, 1.77, 0.6),
    },
    "u4": {
        "direct": (0, 2_200, 0.173, 0.0249),
        "separable": (18_000, 3_500, 0.114, 0.0299),
        "fft": (101_000, 0, 4.12, 0.0726, 1.77, 0.6),
    },
    "u8": {
        "direct": (0, 2_200, 0.3, 0.12),
        "separable": (18_000, 3_500, 0.2, 0.14),
        "fft": (101_000, 0, 4.12, 0.0726, 1.77, 0.6),
    },
}

_BASELINE: Costs = {
    "f4": {
        "direct": (0, 2_200, 0.22, 0.0582),
        "separable": (20_000, 5_000, 0.143, 0.0559),
        "fft": (88_400, 0, 0.553, 0.361, 0.768, 2.26),
    },
    "f8": {
        "direct": (0, 2_200, 0.9, 0.115),
        "separable": (20_000, 5_000, 0.16, 0.125),
        "fft": (76_400, 0, 1.09, 0.659, 1.21, 2.44),
    },
    "u2": {
        "direct": (0, 2_200, 0.1, 0.03),
        "separable": (18_000, 3_900, 0.1, 0.035),
        "fft": (93_600, 0, 3.84, 0.443, 3.13, 0.5),
    },
    "u4": {
        "direct": (0, 2_200, 0.131, 0.152),
        "separable": (18_000, 3_900, 0.147, 0.163),
        "fft": (93_600, 0, 3.84, 0.443, 3.13, 0.5),
    },
    "u8": {
        "direct": (0, 2_200, 0.3, 0.25),
        "separable": (18_000, 3_900, 0.3, 0.27),
        "fft": (93_600, 0, 3.84, 0.443, 3.13, 0.5),
    },
}

COSTS: dict[str, Costs] = {
    "x86_64_v4": _V4,
    "x86_64_v3": _V3,
    "baseline": _BASELINE,
    "aarch64": _V3,  # not measured yet
}
