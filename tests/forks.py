"""One way to fork after one way to compute, run by test_processes.py:

forks.py WAY PARENT: prints "right" if parent and children computed the same bits with one and
with two workers.
"""

import ctypes
import functools
import multiprocessing
import os
import sys
import threading
from concurrent.futures import ProcessPoolExecutor

import numpy as np

import fastcorr

rng = np.random.default_rng(0)
a, k = rng.random((200, 300), "f"), rng.random((5, 7), "f")
x, weight = rng.random((2, 8, 20, 20)), rng.random((12, 8, 3, 3))


def results(workers):
    y = fastcorr.correlate2d(a, k, "same", "wrap", workers=workers)
    z = fastcorr.conv2d(x, weight, padding=1, workers=workers)
    return [
        v.tobytes()
        for v in (
            y,
            z,
            *fastcorr.correlate2d_vjp(y, a, k, "same", "wrap", workers=workers),
            *fastcorr.conv2d_backward(z, x, weight, padding=1, workers=workers),
        )
    ]


right = results(1)


def check(workers):
    assert results(workers) == right
    return True


def in_child(call, fork=os.fork):
    child = fork()
    if child == 0:
        status = 1
        try:
            status = 0 if call() else 1
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    return True


def in_thread(call):
    done = []
    thread = threading.Thread(target=lambda: done.append(call()))
    thread.start()
    thread.join()
    assert done == [True]


def nested(workers):
    return check(workers) and in_child(lambda: check(workers)) and check(workers)


def while_computing(workers):
    stop = threading.Event()

    def work():
        while not stop.is_set():
            check(2)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(5):
            in_child(lambda: check(workers))
    finally:
        stop.set()
        thread.join()


def pool(workers, times=3):
    for _ in range(times):
        with multiprocessing.get_context("fork").Pool(2) as processes:
            assert processes.map(check, [workers] * 4, chunksize=1) == [True] * 4


def executor(workers):
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as processes:
        assert list(processes.map(check, [workers] * 4)) == [True] * 4


WAYS = {
    "fork": lambda workers: in_child(lambda: check(workers)),
    # Python's own handlers do not run; it holds the GIL, as a module in C may.
    "fork in C": lambda workers: in_child(lambda: check(workers), ctypes.PyDLL(None).fork),
    "nested": lambda workers: in_child(lambda: nested(workers)),
    "from a thread": lambda workers: in_thread(lambda: in_child(lambda: check(workers))),
    "from a thread that computed": lambda workers: in_thread(
        lambda: check(2) and in_child(lambda: check(workers))
    ),
    "while a thread computes": while_computing,
    "Pool": pool,
    "100 Pools": functools.partial(pool, times=100),
    "ProcessPoolExecutor": executor,
}
PARENTS = {
    "no threads": lambda: check(1),
    "threads": lambda: check(2),
    "threads of a thread": lambda: in_thread(lambda: check(2)),
}

if __name__ == "__main__":
    way, parent = sys.argv[1:]
    for workers in (2, 1, 3):
        PARENTS[parent]()
        WAYS[way](workers)
        check(2 if parent != "no threads" else 1)
    print("right")
