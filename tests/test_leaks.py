"""No call leaks, right or wrong: blocks of Python's and the C library's memory, and references.

The same calls again and again, in rounds: memory that grows in most rounds is a leak.  (A round
may grow because something is kept once: a plan, a compiled pattern.)
"""

import contextlib
import copy
import ctypes
import gc
import signal
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest
import surface
from memory import SANITIZED
from nightly import blocks

import fastcorr
from fastcorr import nn, optim

ROUNDS = 5


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
            "fordblks", "keepcost",
        )
    ]  # fmt: skip


try:
    _mallinfo2 = ctypes.CDLL(None).mallinfo2  # glibc from 2.33 on
    _mallinfo2.restype = _Mallinfo2
except (AttributeError, OSError, TypeError):
    _mallinfo2 = None

needs_glibc = pytest.mark.skipif(
    _mallinfo2 is None or SANITIZED, reason="needs the counts of glibc and of CPython's malloc"
)

# Objects that live for ever, of which a reference more is seen nowhere else.
_MARK = object()  # the others may be immortal, or counted by threads
_WATCHED = [None, True, False, Ellipsis, (), 0, 1, "full", "valid", np.ndarray, np.float64, _MARK]
# Not dtypes: np.ones itself leaks a reference to its dtype (NumPy 2.4).


def held():
    """Blocks of Python's, bytes of C's, references to what lives for ever."""
    gc.collect()
    info = _mallinfo2()
    return (
        sys.getallocatedblocks(),
        info.uordblks + info.hblkhd,
        sum(sys.getrefcount(o) for o in _WATCHED),
    )


# Blocks, bytes and references that a round of 400 calls or more may add.  One block, or 16 bytes
# (glibc's least is 32), in one call of ten is twice as much.
ALLOWED = 20, 600, 20


def growth(call, count):
    """What a round of calls adds, `count` calls in all.

    Of blocks the least of all rounds, since Python's own caches fill ever more slowly; of bytes
    and references, which go up and down, the median.
    """
    for _ in range(count):  # plans, compiled patterns and Python's own caches are kept once
        call()
    rounds, before = [], held()
    for _ in range(ROUNDS):
        for _ in range(count // ROUNDS):
            call()
        after = held()
        rounds.append([b - a for a, b in zip(before, after, strict=True)])
        before = after
    pythons, *others = (sorted(column) for column in zip(*rounds, strict=True))
    return pythons[0], *(column[ROUNDS // 2] for column in others)


def flat(call, count):
    # Again where it grew: the interpreter's caches fill in a new process for some hundred calls,
    # in ever smaller steps.  What leaks grows each time.
    for _ in range(4):
        grown = growth(call, count)
        if all(g <= a for g, a in zip(grown, ALLOWED, strict=True)):
            return
    raise AssertionError(f"blocks, bytes and references of a round: {grown}")


def calls(name, right, wrong):
    """So many of a function's random calls that are right, and that are refused."""
    rng = np.random.default_rng(list(name.encode()))

    def pick(low, high):
        return int(rng.integers(low, high + 1, dtype=np.int64))

    found = {True: [], False: []}
    while len(found[True]) < right or len(found[False]) < wrong:
        call, _ = surface.draw(name, pick)
        kwargs = call.kwargs
        if any(hasattr(v, "__next__") for v in kwargs.values()):
            continue  # used up by the first call
        try:
            with np.errstate(all="ignore"):
                call.function(**kwargs)
        except surface.ERRORS:
            found[False].append((call.function, kwargs))
        else:
            found[True].append((call.function, kwargs))
    return found[True][:right], found[False][:wrong]


# Every time 2 000 calls of each function, 100 000 nightly.
COUNTS = [2_000, pytest.param(100_000, marks=pytest.mark.nightly)]


@needs_glibc
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", surface.MAKERS)
def test_no_call_leaks(name, count):
    right, wrong = calls(name, 5, 5)

    def both():
        for function, kwargs in right:
            function(**kwargs)
        for function, kwargs in wrong:
            with contextlib.suppress(*surface.ERRORS):
                function(**kwargs)

    with np.errstate(all="ignore"):
        flat(both, count // 10)


# ---------------------------------------------------------------- what is made and dropped


def _layer():
    x = np.ones((1, 2, 6, 6), "f")
    model = nn.Sequential(nn.Conv2d(2, 3, 3, rng=0), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    y = model(x)
    model.backward(y)
    copy.deepcopy(model)
    model(x)  # dropped with what it kept
    with nn.no_grad():
        model(x)


def _plan():
    plan = fastcorr.plan_correlate2d(np.ones((3, 3)), shape=(8, 8), method="fft")
    plan(np.ones((8, 8)))
    with contextlib.suppress(ValueError):
        plan(np.ones((7, 8)))


def _callback():
    def stop(history):
        raise LookupError("from the callback")

    layer = nn.Linear(2, 1, rng=0)
    optimizer = optim.Adam(layer.parameters())
    with contextlib.suppress(LookupError):
        nn.fit(
            layer, np.ones((3, 2)), np.ones((3, 1)), optimizer=optimizer, loss=nn.mse_loss,
            epochs=2, batch_size=2, callback=stop, progress=False,
        )  # fmt: skip


class BrokenLayer(nn.Module):
    def _forward(self, x, keep):
        raise LookupError("from a layer")


def _own_layer():
    with contextlib.suppress(LookupError):
        nn.Sequential(nn.ReLU(), BrokenLayer())(np.ones((2, 2)))


class BrokenArray:
    def __array__(self, dtype=None, copy=None):
        raise LookupError("from an operand")


def _array_protocol():
    with contextlib.suppress(LookupError):
        fastcorr.correlate2d(BrokenArray(), np.ones((2, 2)))


def _in_a_thread():
    thread = threading.Thread(target=fastcorr.correlate2d, args=(np.ones((9, 9)), np.ones((2, 2))))
    thread.start()
    thread.join()


def _without_memory():
    with contextlib.suppress(MemoryError, ValueError):
        fastcorr.correlate2d(np.broadcast_to(np.ones(1, "B"), (2**40, 2**20)), np.ones((2, 2)))


@needs_glibc
@pytest.mark.parametrize("block", blocks(1, 20))
@pytest.mark.parametrize(
    "call",
    [_layer, _plan, _callback, _own_layer, _array_protocol, _in_a_thread, _without_memory],
)
def test_nothing_made_and_dropped_leaks(call, block):
    flat(call, 500)


def test_what_is_planned_for_large_kernels_is_not_kept():
    """Their plans are as long as their sides: a thousand of them once held a gigabyte."""
    layers = {n: np.ones((1, 1, n, 1), "f") for n in range(3_000, 3_020)}

    def both(n):
        for a in (layers[n], layers[n].swapaxes(2, 3)):
            two = np.concatenate([a, a], axis=1)
            fastcorr.conv2d(a, a)
            fastcorr.conv2d_backward(np.ones((1, 1, 1, 1), "f"), two, two)
            fastcorr.conv_transpose2d(a[..., :1, :1], two)
            fastcorr.conv2d(two, two.swapaxes(0, 1), groups=2, stride=7)

    both(3_000)
    tracemalloc.start()
    try:
        for n in layers:
            both(n)
        assert tracemalloc.get_traced_memory()[0] < 1 << 20
    finally:
        tracemalloc.stop()


@needs_glibc
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_files_do_not_leak(suffix, tmp_path):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    model, path = nn.Linear(3, 2, rng=0), tmp_path / ("m" + suffix)
    bad = tmp_path / ("bad" + suffix)
    bad.write_bytes(b"PK\5\6 nothing" * 9)

    def both():
        model.save(path)
        model.load(path)
        for wrong in (bad, tmp_path, tmp_path / ("none" + suffix)):
            with contextlib.suppress(ValueError, OSError):
                model.load(wrong)

    flat(both, 250)


@needs_glibc
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
@pytest.mark.parametrize("block", blocks(1, 20))
def test_interrupted_calls_do_not_leak(block):
    """Ctrl-C in the midst of a call of some milliseconds."""
    x, k = np.ones((600, 600)), np.ones((15, 15))
    image, weight = np.ones((1, 16, 128, 128), "f"), np.ones((16, 16, 3, 3), "f")
    works = [
        lambda: fastcorr.correlate2d(x, k, method="direct", workers=2),
        lambda: fastcorr.correlate2d_vjp(x, x, k, "same", method="direct"),
        lambda: fastcorr.conv2d(image, weight, padding=1),
        lambda: fastcorr.correlate2d(x, k, method="fft"),
    ]
    rng = np.random.default_rng(block)
    interrupted = 0

    def interrupt(signum, frame):
        raise KeyboardInterrupt

    def call():
        nonlocal interrupted
        for work in works:
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-4, 3e-3))
                work()
                time.sleep(0.003)
            except KeyboardInterrupt:
                interrupted += 1

    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        flat(call, 30)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert interrupted > 60
    assert (fastcorr.correlate2d(x, k, "valid") == 225).all()


# ---------------------------------------------------------------- the tests' own test

_kept = []


def _leak_an_object():
    _kept.append(object())


def _leak_16_bytes():
    malloc = ctypes.CDLL(None).malloc
    malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    malloc(16)


def _leak_a_reference():
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(_MARK))


@needs_glibc
@pytest.mark.parametrize("leak", [_leak_an_object, _leak_16_bytes, _leak_a_reference])
def test_a_leak_of_one_call_in_ten_is_found(leak):
    x, k = np.ones((4, 4)), np.ones((2, 2))

    def call():
        for n in range(10):
            fastcorr.correlate2d(x, k)
            if n == 7:
                leak()

    grown = growth(call, 2_000 // 10)
    assert any(g > a for g, a in zip(grown, ALLOWED, strict=True)), grown
    _kept.clear()
