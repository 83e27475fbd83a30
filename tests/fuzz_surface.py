"""A target for Atheris: calls out of the whole argument surface, see surface.py.

    python tests/fuzz_surface.py [--plant] [options of libFuzzer, such as -runs=1000000]

It ends with a report when a call crashes, hangs, raises what it must not, or is wrong.  With
--plant it runs a wrong correlation, which it must find.
"""

import functools
import random
import sys
import zlib

import atheris

with atheris.instrument_imports(include=["fastcorr"]):
    import fastcorr

import numpy as np
import surface

NAMES = list(surface.MAKERS)


def plant():
    """An error of one in the last row, for one mode, one boundary, and images 4 rows high."""
    right = fastcorr.correlate2d

    @functools.wraps(right)
    def correlate2d(in1, in2, mode="full", boundary="fill", fillvalue=0, **more):
        y = right(in1, in2, mode, boundary, fillvalue, **more)
        if isinstance(in1, np.ndarray) and in1.shape[:1] == (4,) and mode == "same":
            y[-1] += str(boundary) == "mirror"
        return y

    fastcorr.correlate2d = correlate2d


def one_input(data):
    given = atheris.FuzzedDataProvider(data)
    beyond = random.Random(zlib.crc32(data)).randint  # most inputs end before the call is drawn

    def pick(low, high):
        return given.ConsumeIntInRange(low, high) if given.remaining_bytes() else beyond(low, high)

    # The oracles take longer than the calls: one in eight is judged.
    try:
        surface.check(NAMES[pick(0, len(NAMES) - 1)], pick, judge=pick(0, 7) == 0)
    except BaseException as error:
        print(*error.__notes__, sep="\n")  # the call, which Atheris leaves out
        raise


if __name__ == "__main__":
    if "--plant" in sys.argv:
        sys.argv.remove("--plant")
        plant()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
