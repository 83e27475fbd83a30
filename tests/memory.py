"""What a call holds and touches: for the tests of memory.

Run as a script, it makes every call once: for tools that watch over a process.
"""

import ctypes
import mmap
import os
import sys
import tracemalloc

import numpy as np

_PAGE = mmap.PAGESIZE
# Under the address sanitizer, which takes terabytes of addresses for itself.
SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")


def address_space():
    """Bytes of address space that this process has."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * _PAGE


def scratch(call, *, returns=True):
    """Most bytes that NumPy held at a time during a call, beyond what it returns."""
    call()  # plans are kept
    tracemalloc.start()
    try:
        kept = call()
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (kept is not None) == returns
    return peak - (now if returns else 0)


def guarded(a, at_end):
    """A copy between two pages that nobody may touch, close to the one or the other."""
    pages = -(-a.nbytes // _PAGE)
    memory = mmap.mmap(-1, (pages + 2) * _PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    for page in (address, address + (pages + 1) * _PAGE):
        assert libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(_PAGE), 0) == 0
    start = (pages + 1) * _PAGE - a.nbytes if at_end else _PAGE
    inner = np.ndarray(a.shape, a.dtype, memory, start)
    inner[...] = a
    return inner


def calls(side, dtype="f"):
    """Name -> a call of every public function that computes, by every method: of the number of
    workers, on arrays of so many rows and columns (an even number)."""
    import cases

    import fastcorr
    from fastcorr import nn, optim

    rng = np.random.default_rng(0)
    result = {}

    def draw(*shape):
        return cases.integers(rng, shape, dtype)

    def add(name, function, *args, of="", **options):
        def call(n):
            values = function(*args, workers=n, **options)
            return values if isinstance(values, tuple) else (values,)

        result[f"{name} {of}".strip()] = call

    def plan(function, x, *args, **options):
        return function(*args, **options)(x)

    x, dy = draw(side, side), draw(side, side)
    outer = np.outer([1, 2, 3, 2, 1], [2, 1, 0, 1, 2]).astype(dtype)
    methods = {"direct": draw(5, 5), "separable": outer, "fft": draw(5, 5)}
    for method, k in methods.items():
        if method != "direct" and dtype in "LlgG":
            continue
        for name in ("correlate2d", "convolve2d"):
            add(name, getattr(fastcorr, name), x, k, "same", "symm", of=method, method=method)
            make = getattr(fastcorr, f"plan_{name}")
            add(f"plan_{name}", plan, make, x, k, shape=x.shape, of=method, method=method)
            if dtype in cases.FLOATS:
                vjp = getattr(fastcorr, f"{name}_vjp")
                add(f"{name}_vjp", vjp, dy, x, k, "same", "wrap", of=method, method=method)
    add("corr2d", fastcorr.corr2d, x, outer)
    if dtype in cases.FLOATS:
        add("corr2d_backward", fastcorr.corr2d_backward, dy[4:, 4:], x, outer)
    if dtype not in "fdFD":
        return result

    few, many, half = draw(2, 4, side, side), draw(2, 6, side, side), draw(2, 6, *[side // 2] * 2)
    weight, bias, apart = draw(6, 4, 3, 3), draw(6), draw(4, 1, 3, 3)
    forward, backward = fastcorr.conv2d, fastcorr.conv2d_backward
    for method in ("direct", "winograd", "winograd4"):
        add("conv2d", forward, few, weight, bias, 1, 1, of=method, method=method)
        add("conv2d_backward", backward, many, few, weight, 1, 1, of=method, method=method)
    add("conv2d", forward, few, weight, bias, 1, 1, of="circular", padding_mode="circular")
    add("conv2d", forward, few, weight, bias, 2, 1, of="strided")
    add("conv2d_backward", backward, half, few, weight, 2, 1, of="strided")
    add("conv2d", forward, few, apart, None, 1, 1, 1, 4, of="depthwise")
    add("conv2d_backward", backward, few, few, apart, 1, 1, 1, 4, of="depthwise")
    last = few.transpose(0, 2, 3, 1)
    add("conv2d", forward, last, weight, bias, 1, 1, of="channels last", channels_last=True)
    add("conv_transpose2d", fastcorr.conv_transpose2d, half, weight, None, 2, 1, 1)
    add("conv_transpose2d_backward", fastcorr.conv_transpose2d_backward, few, half, weight, 2, 1, 1)
    if dtype not in "fd":
        return result

    def train(workers):
        with fastcorr.set_workers(workers):
            model = nn.Sequential(
                nn.Conv2d(4, 3, 3, padding=1, rng=0), nn.ReLU(), nn.MaxPool2d(2),
                nn.ConvTranspose2d(3, 2, 2, 2, rng=1), nn.AvgPool2d(2), nn.Flatten(),
                nn.Linear(side**2 // 2, 5, rng=2),
            )  # fmt: skip
            loss, gradient = nn.cross_entropy(model(few.astype("f")), np.array([1, 2]))
            optimizer = optim.Adam(model.parameters())
            model.backward(gradient)
            optimizer.step()
            return np.array(loss), *model.state_dict().values()

    add("a step of training", train)
    layers = [nn.Conv2d(1, 1, 3, rng=0), nn.MaxPool2d(2)]
    result["receptive_field_mask"] = lambda n: (
        fastcorr.receptive_field_mask(layers, (side, side), (0, 0)),
    )
    return result


if __name__ == "__main__":
    for dtype in sys.argv[1:] or "Bifdg":
        for name, call in calls(24, dtype).items():
            for workers in (1, 2):
                # A look at every number: some tools follow what was never written.
                assert all(np.isfinite(value).all() for value in call(workers)), name
