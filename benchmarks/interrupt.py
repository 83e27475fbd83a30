"""How long a call goes on after Ctrl-C: median, 99th percentile and maximum of each sort of call.

python benchmarks/interrupt.py [--runs 50] [--workers 1 2 3 8] [--only WORDS] [--json FILE]

The calls are those of tests/long_calls.py.  Signals come at random moments of the first half
second, or of the call, if that is shorter.  On a machine that does something else as well, the
figures are those of both.
"""

import argparse
import json
import random
import signal
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import long_calls


def interrupt(*_):
    raise KeyboardInterrupt


def latency(call, workers, after):
    """Seconds from a signal, so many seconds after the start, to the exception; None if the call
    was sooner through."""
    start = time.perf_counter()
    signal.setitimer(signal.ITIMER_REAL, after)
    try:
        call(workers)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        return time.perf_counter() - start - after
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=50, help="of each call; default 50")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 3, 8])
    parser.add_argument("--only", default="", help="calls whose names hold these words")
    parser.add_argument("--json", help="file for all latencies")
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, interrupt)
    moments = random.Random(0)
    measured = {}
    print(f"{'ms after the signal':32} workers  runs   median      p99      max")
    for name, make in long_calls.CALLS.items():
        if options.only not in name:
            continue
        call = make()
        for workers in options.workers:
            start = time.perf_counter()
            latency(call, workers, 0.5)
            most = 0.9 * (time.perf_counter() - start)
            after = [moments.uniform(0.001, most) for _ in range(options.runs)]
            seen = [latency(call, workers, seconds) for seconds in after]
            seen = sorted(s for s in seen if s is not None)
            measured[f"{name}, {workers}"] = seen
            at = [seen[int(p * (len(seen) - 1))] * 1e3 for p in (0.5, 0.99, 1)] if seen else []
            figures = " ".join(f"{ms:8.1f}" for ms in at)
            print(f"{name:32} {workers:7} {len(seen):5} {figures}", flush=True)
    worst = max((s for seen in measured.values() for s in seen), default=0.0)
    print(f"worst of {sum(map(len, measured.values()))}: {worst * 1e3:.0f} ms")
    if options.json:
        Path(options.json).write_text(json.dumps(measured))


if __name__ == "__main__":
    main()
