"""One instruction set against the definition: run in an interpreter of its own by test_isa.py.

Prints, as JSON, what ran and hashes of results on real numbers, where every bit counts: a few large
problems of one channel, and as many random ones of both faces as the argument says.
"""

import hashlib
import itertools
import json
import sys

import cases
import conv_cases
import corr_cases
import numpy as np
import oracle

import fastcorr


def check_exact(rng):
    """Every type, rule and function on integers; raises where a number is wrong."""
    count = 0
    for dtype in cases.DTYPES.replace("?", "").replace("e", ""):
        for mode, rule in itertools.product(oracle.MODES, oracle.RULES):
            function = ("correlate2d", "convolve2d")[count % 2]
            x_shape = int(rng.integers(4, 7)), int(rng.integers(5, 36))
            k_shape = int(rng.integers(1, 5)), int(rng.integers(1, 6))
            a, b = cases.operands(rng, x_shape, k_shape, dtype, dtype)
            y = getattr(fastcorr, function)(a, b, mode, rule, 2)
            expected = oracle.as_dtype(oracle.compute(function, a, b, mode, rule, 2), dtype)
            np.testing.assert_array_equal(y, expected, strict=True)
            dy = cases.integers(rng, y.shape, dtype)
            got = getattr(fastcorr, function + "_vjp")(dy, a, b, mode, rule, 2)
            for gradient, right in zip(
                got, oracle.gradients(function, dy, a, b, mode, rule, 2), strict=True
            ):
                np.testing.assert_array_equal(gradient, oracle.as_dtype(right, dtype), strict=True)
            count += 1
    return count


def hashes(rng):
    """Forward results and gradients of random normal numbers."""
    forward, backward = hashlib.sha256(), hashlib.sha256()
    for dtype, mode, rule in itertools.product("fdFD", oracle.MODES, ("fill", "symm")):
        for shapes in (((40, 61), (3, 5)), ((131, 230), (9, 24)), ((9, 80), (66, 260)),
                       ((150, 700), (7, 7)), ((5, 3), (2, 2))):  # fmt: skip
            if shapes[1] == (66, 260) and mode != "same":
                continue
            a, b = (cases.reals(rng, s, dtype, 6) for s in shapes)
            y = fastcorr.correlate2d(a, b, mode, rule)
            forward.update(y.tobytes())
            for gradient in fastcorr.correlate2d_vjp(y, a, b, mode, rule):
                backward.update(gradient.tobytes())
    return forward.hexdigest(), backward.hexdigest()


def random_hashes(count):
    """Method -> problem -> hashes of the result and the gradients."""
    every = {}
    for face in (corr_cases, conv_cases):
        for seed in range(3 * 10**6, 3 * 10**6 + count):
            case = face.real_case(seed)
            case.workers = 1
            with np.errstate(all="ignore"):
                got = face.results(case, case.laid(*face.real_arrays(case)))
            found = [hashlib.sha256(cases.bits(a)).hexdigest() for a in got]
            kind = "long double" if case.types[0] in "gG" else case.method
            every.setdefault(f"{face.__name__} {kind}", {})[repr(case)] = found
    return every


if __name__ == "__main__":
    fastcorr.set_workers(1)
    count = check_exact(np.random.default_rng(1))
    forward, backward = hashes(np.random.default_rng(2))
    isa = fastcorr.show_config("dicts")["isa"]
    found = {"isa": isa, "exact": count, "forward": forward, "backward": backward}
    print(json.dumps({**found, "random": random_hashes(int(sys.argv[1]))}))
