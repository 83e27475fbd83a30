"""Whether threads make small inputs slower: the time of a call with all workers over that with one.

python benchmarks/small.py [--seconds 0.06] [--least 4] [--only WORDS] [--json FILE]

From images of 4 x 4 up, one pixel more in ten each time, so that no size at which a call begins to
use threads is jumped over.  `GOMP_SPINCOUNT=0` before it has OpenMP's threads sleep between calls:
to wake them takes ten times as long.  A ratio above 1.10 is measured again, for ten times as long.
Needs two free cores, or the ratios are those of the neighbours.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import numpy as np
from measure import Stopwatch

from fastcorr import conv2d, conv2d_backward, correlate2d, correlate2d_vjp


def calls(side):
    """Name -> a call of a number of workers, on images of so many rows and columns."""
    rng = np.random.default_rng(0)

    def draw(*shape, dtype="f4"):
        return rng.random(shape).astype(dtype)

    x, few = draw(side, side), draw(1, 8, side, side)
    weight, apart = draw(8, 8, 3, 3), draw(8, 1, 3, 3)
    found = {}
    for size in (3, 7, 15, 31):
        k = draw(size, size)
        found[f"correlate2d {size}x{size}"] = lambda n, k=k: correlate2d(x, k, "same", workers=n)
        found[f"correlate2d_vjp {size}x{size}"] = lambda n, k=k: correlate2d_vjp(
            x, x, k, "same", workers=n
        )
    k = np.outer(draw(9), draw(9))
    found["correlate2d 9x9 separable"] = lambda n: correlate2d(x, k, "same", workers=n)
    pixels, taps = (x * 255).astype("u1"), np.ones((3, 3), "u1")
    found["correlate2d 3x3 uint8"] = lambda n: correlate2d(pixels, taps, "same", workers=n)
    found["conv2d 8 to 8"] = lambda n: conv2d(few, weight, padding=1, workers=n)
    found["conv2d_backward 8 to 8"] = lambda n: conv2d_backward(
        few, few, weight, padding=1, workers=n
    )
    found["conv2d depthwise"] = lambda n: conv2d(few, apart, padding=1, groups=8, workers=n)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.06, help="of each pair; default 0.06")
    parser.add_argument("--least", type=int, default=4, help="rows of the first image; default 4")
    parser.add_argument("--only", default="", help="calls whose names hold these words")
    parser.add_argument("--most", type=float, default=3e-3, help="s of a call: the ladder's end")
    parser.add_argument("--json", help="file for all ratios")
    options = parser.parse_args()
    stopwatch, ratios = Stopwatch(options.seconds), {}
    for name in calls(4):
        if options.only not in name:
            continue
        side = options.least
        while True:
            call = calls(side)[name]
            call(1), call(None)
            both = {n: partial(call, n) for n in (1, None)}
            for longer in 1, 10:
                times = stopwatch.interleave(both, parallel=True, longer=longer)
                ratio = ratios[f"{name}, {side}"] = times[None].least / times[1].least
                if ratio <= 1.1:
                    break
            if times[1].least > options.most:
                break
            side += max(1, side // 10)
        own = {at: r for at, r in ratios.items() if at.startswith(name + ",")}
        at = max(own, key=own.get)
        print(f"{name:28} worst {own[at]:.2f} at {at.split(', ')[1]:>4}², of {len(own)} sizes; "
              f"at the end ({side}²) {own[f'{name}, {side}']:.2f}", flush=True)  # fmt: skip
    print(f"worst of {len(ratios)}: {max(ratios.values()):.2f}; "
          f"over 1.10: {sum(r > 1.1 for r in ratios.values())}")  # fmt: skip
    if options.json:
        Path(options.json).write_text(json.dumps(ratios))


if __name__ == "__main__":
    main()
