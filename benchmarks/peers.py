"""One problem, and how each library is asked for its solution.

Everybody gets the same: the same data, the same number of threads, memory for the result that
exists already or memory that does not (`out`), and everything that is not the work itself done
before.  What a library cannot do raises NotImplementedError, which asv takes as "skip".
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import fastcorr

Array = npt.NDArray[Any]
Call = Callable[[], Any]
Pair = tuple[int, int]

# Name -> the distribution that has it.
PEERS = {
    "fastcorr": "fastcorr",
    "scipy.signal": "scipy",
    "scipy.oaconvolve": "scipy",
    "scipy.fftconvolve": "scipy",
    "scipy.ndimage": "scipy",
    "scipy.correlate1d": "scipy",
    "opencv": "opencv-python-headless",
    "opencv.sepFilter2D": "opencv-python-headless",
    "torch": "torch",
}
NAMES = tuple(PEERS)
DTYPES = ("float32", "float64", "uint8->float32", "int16->int32", "complex64")

# ---------------------------------------------------------------- the problem

# Bytes, samples of twelve bits and small weights: no sum leaves 32 bits.
_LIMITS = {"uint8": (0, 255), "int16": (-2048, 2047), "int32": (-8, 8)}


def _numbers(rng: np.random.Generator, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    if dtype.kind in "iu":
        low, high = _LIMITS[dtype.name]
        return rng.integers(low, high, shape, dtype, endpoint=True)
    part = np.empty(0, dtype).real.dtype
    if dtype.kind == "c":
        return _numbers(rng, part, shape) + dtype.type(1j) * _numbers(rng, part, shape)
    x = rng.random(shape, part)
    x *= 2  # in place: some images take a good part of the memory
    x -= 1
    return x


@dataclass(frozen=True)
class Problem:
    """An image and a kernel, square where their size is one number.

    "uint8->float32" is an image of bytes, a float32 kernel and a float32 result.  A kernel of
    the kind "random" has full rank; "gauss" and "box" are a column times a row.  Of several
    images and kernels every image meets every kernel.
    """

    size: int | Pair
    kernel: int | Pair
    dtype: str = "float32"
    mode: str = "valid"
    boundary: str = "fill"
    kind: str = "random"
    images: int = 1
    kernels: int = 1

    @property
    def image(self) -> Pair:
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def taps(self) -> Pair:
        return (self.kernel, self.kernel) if isinstance(self.kernel, int) else self.kernel

    @property
    def image_dtype(self) -> np.dtype[Any]:
        return np.dtype(self.dtype.partition("->")[0])

    @property
    def result_dtype(self) -> np.dtype[Any]:
        return np.dtype(self.dtype.rpartition(">")[2])

    @property
    def float_dtype(self) -> np.dtype[Any]:
        """For those who have no integers: the shortest type that holds every sum exactly."""
        if self.result_dtype.kind != "i":
            return self.result_dtype
        largest = math.prod(max(map(abs, _LIMITS[t.name])) for t in self._dtypes)
        return np.dtype("f4" if largest * math.prod(self.taps) < 2**24 else "f8")

    @property
    def _dtypes(self) -> tuple[np.dtype[Any], np.dtype[Any]]:
        return self.image_dtype, self.result_dtype

    @property
    def batch(self) -> Pair | None:
        """Numbers of images and kernels, where they are not one."""
        several = (self.images, self.kernels)
        return None if several == (1, 1) else several

    @property
    def shape(self) -> Pair:
        """Shape of the result of one image and one kernel."""
        (h, w), (kh, kw) = self.image, self.taps
        grows = {"valid": -1, "same": 0, "full": 1}[self.mode]
        return h + grows * (kh - 1), w + grows * (kw - 1)

    @property
    def result_shape(self) -> tuple[int, ...]:
        return (*(self.batch or ()), *self.shape)

    @property
    def products(self) -> int:
        """Multiply-adds that the definition asks for."""
        return math.prod(self.result_shape) * math.prod(self.taps)

    @property
    def flops(self) -> int:
        """Multiplications and additions that the definition asks for, of real numbers."""
        return self.products * (8 if self.result_dtype.kind == "c" else 2)

    @property
    def nbytes(self) -> int:
        """Bytes of images and results."""
        pixels = self.images * math.prod(self.image) * self.image_dtype.itemsize
        return pixels + math.prod(self.result_shape) * self.result_dtype.itemsize

    def factors(self) -> tuple[Array, Array] | None:
        """The column and the row of which the kernel is the product, if it is one."""
        if self.kind == "random":
            if 1 not in self.taps:
                return None
            k, one = self.data()[1], np.ones(1, self.result_dtype)
            return (one, k.ravel()) if self.taps[0] == 1 else (k.ravel(), one)
        column, row = (_factor(self.kind, n, self.result_dtype) for n in self.taps)
        return column, row

    def data(self) -> tuple[Array, Array]:
        """The images and the kernels, with axes to broadcast along where there are several."""
        return _data(self)

    @property
    def where(self) -> str:
        return self.mode if self.mode == "valid" else f"{self.mode}/{self.boundary}"

    @property
    def image_name(self) -> str:
        h, w = self.image
        return f"{self.images} of " * (self.images > 1) + (f"{h}²" if h == w else f"{h}x{w}")

    @property
    def kernel_name(self) -> str:
        name = f"{self.kernels} of " * (self.kernels > 1) + "{}x{}".format(*self.taps)
        return name if self.kind == "random" else f"{name} {self.kind}"

    def __str__(self) -> str:
        return f"{self.dtype} {self.image_name} {self.kernel_name} {self.where}"


@functools.lru_cache(maxsize=2)  # for all the libraries: large images take a while
def _data(p: Problem) -> tuple[Array, Array]:
    rng = np.random.default_rng([*p.image, *p.taps])
    n, m = p.batch or (1, 1)
    x = _numbers(rng, p.image_dtype, (n, 1, *p.image) if p.batch else p.image)
    k_shape = (m, *p.taps) if p.batch else p.taps
    factors = None if p.kind == "random" else p.factors()
    if factors is None:
        return x, _numbers(rng, p.result_dtype, k_shape)
    return x, np.broadcast_to(np.outer(*factors), k_shape).copy()


def _factor(kind: str, n: int, dtype: np.dtype[Any]) -> Array:
    """One axis of a separable kernel; among complex numbers a Gauss bell becomes a wavelet."""
    t = np.arange(n) - (n - 1) / 2
    bell = np.ones(n) if kind == "box" else np.exp(-0.5 * (t / (n / 6)) ** 2)
    if dtype.kind == "i":
        return np.rint((1 if kind == "box" else 7) * bell).astype(dtype)
    bell /= bell.sum()
    return (bell * np.exp(1j * t) if dtype.kind == "c" else bell).astype(dtype)


# ---------------------------------------------------------------- libraries


def installed(peer: str) -> str | None:
    """The version of a library, None if it is not there."""
    try:
        return importlib.metadata.version(PEERS[peer])
    except importlib.metadata.PackageNotFoundError:
        # OpenCV comes in four distributions, and from elsewhere.
        if peer.startswith("opencv") and importlib.util.find_spec("cv2"):
            import cv2

            return str(cv2.__version__)
        return None


def _need(peer: str) -> None:
    if installed(peer) is None:
        raise NotImplementedError(f"{peer} is not installed")


def _cannot(peer: str, what: object) -> NotImplementedError:
    return NotImplementedError(f"{peer} has no {what}")


def seconds_expected(peer: str, problem: Problem) -> float:
    """Roughly, for those who take very long for some problems; 0 for the others."""
    single = problem.float_dtype.char in "fF"
    per_flop = {
        "scipy.signal": 1e-9,
        "scipy.ndimage": 6e-10,
        "torch": 3e-10 if single else 5e-9,
    }
    return problem.flops * per_flop.get(peer, 0.0)


def affordable(peer: str, problem: Problem, seconds: float) -> Problem | None:
    """The problem to time a peer with: this one, if that takes no longer than so many seconds.

    scipy.signal.correlate2d, which every table needs, gets one of fewer rows otherwise: its time
    is proportional to the elements of the result.  The others get none.
    """
    if seconds_expected(peer, problem) <= seconds:
        return problem
    if peer != "scipy.signal":
        return None
    one = dataclasses.replace(problem, images=1, kernels=1)
    rows, (h, w) = one.shape[0], one.image
    fewer = max(1, int(rows * seconds / seconds_expected(peer, one)))
    return one if fewer >= rows else dataclasses.replace(one, size=(h - rows + fewer, w))


def method(problem: Problem, workers: int) -> str:
    """The algorithm that fastcorr chooses, "" before it could tell."""
    choose = getattr(fastcorr, "choose_method", None)
    if choose is None:
        return ""
    x, k = problem.data()
    axes = (-2, -1) if problem.batch else None
    choice = choose(
        x, k, problem.mode, problem.boundary, axes=axes, dtype=problem.result_dtype, workers=workers
    )
    return str(choice.method)


# ---------------------------------------------------------------- the operation


def correlate(peer: str, problem: Problem, *, out: bool = False, workers: int = 1) -> Call:
    """A call that solves the problem with a library; `solution` reads what it returns."""
    _need(peer)
    if out and not peer.startswith(("fastcorr", "opencv")):
        raise _cannot(peer, "out= here")
    x, k = problem.data()
    ask = _CORRELATE[peer]
    if problem.batch is None or peer in _TAKE_BATCHES:
        return ask(problem, x, k, out, workers)
    one = dataclasses.replace(problem, images=1, kernels=1)
    calls = [ask(one, image, kernel, out, workers) for image in x[:, 0] for kernel in k]
    return lambda: [call() for call in calls]


def _our_workers(workers: int) -> int | None:
    """The argument: with several threads allowed it is left to the call, as the peers do."""
    if workers == 1:
        return 1
    fastcorr.set_workers(workers)
    return None


def _fastcorr(p: Problem, x: Array, k: Array, out: bool, workers: int) -> Call:
    memory = np.zeros(p.result_shape, p.result_dtype) if out else None
    dtype, axes = p.result_dtype, (-2, -1) if p.batch else None
    threads = _our_workers(workers)
    return lambda: fastcorr.correlate2d(
        x, k, p.mode, p.boundary, axes=axes, out=memory, dtype=dtype, workers=threads
    )


def _scipy_signal(p: Problem, x: Array, k: Array, out: bool, workers: int) -> Call:
    from scipy.signal import correlate2d

    # It has no threads: where the others use several it goes on using one.
    if p.boundary not in ("fill", "wrap", "symm"):
        raise _cannot("scipy.signal", p.boundary)
    return lambda: correlate2d(x, k, p.mode, p.boundary)


_PAD = {"wrap": "wrap", "symm": "symmetric", "mirror": "reflect", "nearest": "edge"}


def _scipy_fft(
    p: Problem, x: Array, k: Array, workers: int, convolve: Callable[..., Array]
) -> Call:
    from scipy.fft import set_workers

    reverse = k[..., ::-1, ::-1].conj()
    if p.batch:
        reverse = reverse[None]
    dtype = k.dtype if k.dtype.kind != "i" else np.dtype("f8")
    pad = None
    if p.mode != "valid" and p.boundary != "fill":
        pad = (*((0, 0),) * (x.ndim - 2), *_widths(p))
    # Its 'same' computes the whole too, and lies elsewhere where the kernel is even.
    mode = "valid" if pad or p.mode == "valid" else "full"

    def call() -> Array:
        # Bytes would be transformed, and returned, in double precision.
        image = x.astype(dtype, copy=False)
        if pad:
            image = np.pad(image, pad, mode=_PAD[p.boundary])
        with set_workers(workers):
            return convolve(image, reverse, mode, axes=(-2, -1))

    return call


def _widths(p: Problem) -> tuple[Pair, Pair]:
    """How far the window of a mode reaches beyond the image, before and after, on each axis."""
    if p.mode == "valid":
        return (0, 0), (0, 0)
    kh, kw = p.taps
    if p.mode == "full":
        return (kh - 1, kh - 1), (kw - 1, kw - 1)
    return ((kh - 1) // 2, kh // 2), ((kw - 1) // 2, kw // 2)


def _scipy_oaconvolve(p: Problem, x: Array, k: Array, out: bool, workers: int) -> Call:
    from scipy.signal import oaconvolve

    return _scipy_fft(p, x, k, workers, oaconvolve)


def _scipy_fftconvolve(p: Problem, x: Array, k: Array, out: bool, workers: int) -> Call:
    from scipy.signal import fftconvolve

    return _scipy_fft(p, x, k, workers, fftconvolve)


def _ndimage_mode(p: Problem, workers: int) -> str:
    if p.mode == "full":
        raise _cannot("scipy.ndimage", "mode 'full'")
    if workers > 1:
        raise _cannot("scipy.ndimage", "threads")
    return {"fill": "constant", "symm": "reflect"}.get(p.boundary, p.boundary)


def _scipy_ndimage(p: Problem, x: Array, k: Array, out: bool, workers: int) -> Call:
    from scipy.ndimage import correlate

    boundary, origin = _ndimage_mode(p, workers), [n % 2 - 1 for n in p.taps]
    return lambda: correlate(x, k, output=p.result_dtype, mode=boundary, origin=origin)


def _scipy_correlate1d(p: Problem, x: Array, k: Array, out: bool, workers: int) -> Call:
    from scipy.ndimage import correlate1d

    boundary, dtype, factors = _ndimage_mode(p, workers), p.result_dtype, p.factors()
    if factors is None:
        raise _cannot("scipy.correlate1d", "kernels of full rank")
    passes = [(axis, f) for axis, f in enumerate(factors) if f.size > 1]

    def call() -> Array:
        y = x
        for axis, f in passes:
            y = correlate1d(y, f, axis, output=dtype, mode=boundary, origin=f.size % 2 - 1)
        return y

    return call


def _opencv_edges(p: Problem) -> dict[str, Any]:
    """Arguments: how the image goes on, and which element of the kernel lies on the pixel."""
    import cv2

    boundaries = {
        "fill": cv2.BORDER_CONSTANT,
        "symm": cv2.BORDER_REFLECT,
        "mirror": cv2.BORDER_REFLECT_101,
        "nearest": cv2.BORDER_REPLICATE,
    }
    if p.mode == "full" or p.boundary not in boundaries:
        raise _cannot("opencv", f"{p.mode} {p.boundary}")
    (top, _), (left, _) = _widths(dataclasses.replace(p, mode="same"))
    border = cv2.BORDER_DEFAULT if p.mode == "valid" else boundaries[p.boundary]
    return {"anchor": (left, top), "borderType": border}


def _opencv_depth(p: Problem) -> int:
    import cv2

    return int({"f": cv2.CV_32F, "d": cv2.CV_64F}[p.float_dtype.char])


def _opencv(p: Problem, x: Array, k: Array, out: bool, workers: int) -> Call:
    import cv2

    edges = _opencv_edges(p)
    cv2.setNumThreads(workers)
    if k.dtype.kind == "c":
        return _opencv_complex(x, k, out, edges)
    depth, k = _opencv_depth(p), k.astype(p.float_dtype)
    memory = np.zeros(x.shape, p.float_dtype) if out else None
    return lambda: cv2.filter2D(x, depth, k, dst=memory, **edges)


def _opencv_complex(x: Array, k: Array, out: bool, edges: dict[str, Any]) -> Call:
    """It knows no complex numbers: two channels, filtered by both parts of the kernel."""
    import cv2

    channels = x.view(x.real.dtype).reshape(*x.shape, 2)
    memory = (np.zeros_like(channels), np.zeros_like(channels)) if out else (None, None)
    parts = [np.ascontiguousarray(part) for part in (k.real, k.imag)]

    def call() -> Array:
        a, b = (
            cv2.filter2D(channels, -1, part, dst=m, **edges)
            for part, m in zip(parts, memory, strict=True)
        )
        a[..., 0] += b[..., 1]
        a[..., 1] -= b[..., 0]
        return a.view(x.dtype)[..., 0]

    return call


def _opencv_separable(p: Problem, x: Array, k: Array, out: bool, workers: int) -> Call:
    import cv2

    edges, factors = _opencv_edges(p), p.factors()
    if factors is None or k.dtype.kind == "c":
        raise _cannot("opencv.sepFilter2D", "complex numbers, no kernels of full rank")
    depth, (column, row) = _opencv_depth(p), (f.astype(p.float_dtype) for f in factors)
    memory = np.zeros(x.shape, p.float_dtype) if out else None
    cv2.setNumThreads(workers)
    return lambda: cv2.sepFilter2D(x, depth, row, column, dst=memory, **edges)


def _torch(p: Problem, x: Array, k: Array, out: bool, workers: int) -> Call:
    import torch
    from torch.nn import functional

    torch.set_num_threads(workers)
    images = torch.from_numpy(x.reshape(-1, 1, *p.image))
    weight = torch.from_numpy(k.conj().astype(p.float_dtype).reshape(-1, 1, *p.taps))
    dtype = weight.dtype  # images.to() is nothing where it is that already
    (top, bottom), (left, right) = _widths(p)
    if p.mode == "valid" or p.boundary == "fill":
        # A row and column too many before an even kernel: `solution` leaves them out.
        return lambda: functional.conv2d(images.to(dtype), weight, padding=(bottom, right))
    pads = {"wrap": "circular", "mirror": "reflect", "nearest": "replicate"}
    if p.boundary not in pads:
        raise _cannot("torch", p.boundary)
    pad = pads[p.boundary]
    return lambda: functional.conv2d(
        functional.pad(images.to(dtype), (left, right, top, bottom), mode=pad), weight
    )


_CORRELATE = {
    "fastcorr": _fastcorr,
    "scipy.signal": _scipy_signal,
    "scipy.oaconvolve": _scipy_oaconvolve,
    "scipy.fftconvolve": _scipy_fftconvolve,
    "scipy.ndimage": _scipy_ndimage,
    "scipy.correlate1d": _scipy_correlate1d,
    "opencv": _opencv,
    "opencv.sepFilter2D": _opencv_separable,
    "torch": _torch,
}
# The others are called for each image and kernel.
_TAKE_BATCHES = ("fastcorr", "scipy.oaconvolve", "scipy.fftconvolve", "torch")
# They know no 'valid': they give the whole image, a little more work, and are compared by time
# per element.
_WHOLE_IMAGE = ("scipy.ndimage", "scipy.correlate1d", "opencv", "opencv.sepFilter2D")


def outputs(peer: str, problem: Problem) -> int:
    """Elements that a library computes for the problem."""
    whole = problem.mode == "valid" and peer in _WHOLE_IMAGE
    return math.prod(
        (problem.images, problem.kernels, *(problem.image if whole else problem.shape))
    )


def solution(problem: Problem, raw: Any) -> Array:
    """The array of the problem's shape in what a call of `correlate` returned."""
    y = np.asarray(raw)
    y = y.reshape(-1, *y.shape[-2:])  # torch's has two axes more, a list of results one
    # Around 'valid' lies the whole image, around 'same' what 'full' gives, or one line before.
    (rows, cols), half = problem.shape, int(problem.mode == "same")
    top, left = (y.shape[-2] - rows + half) // 2, (y.shape[-1] - cols + half) // 2
    return y[:, top : top + rows, left : left + cols].reshape(problem.result_shape)


# ---------------------------------------------------------------- its gradients


def gradient(peer: str, problem: Problem, which: str, *, workers: int = 1) -> Call:
    """A call for the gradient to the image ("x") or kernel ("k") of the valid correlation."""
    _need(peer)
    if problem.mode != "valid" or problem.dtype not in ("float32", "float64") or problem.batch:
        raise _cannot(peer, f"gradient of {problem} here")
    if workers > 1 and peer in ("scipy.signal", "opencv"):
        raise _cannot(peer, "threads")
    x, k = problem.data()
    rng = np.random.default_rng(problem.image)
    dy = rng.uniform(-1, 1, problem.shape).astype(problem.result_dtype)
    if peer == "fastcorr":
        at, n = "xk".index(which), _our_workers(workers)
        return lambda: fastcorr.corr2d_backward(dy, x, k, needs=(which,), workers=n)[at]
    if peer == "scipy.signal":
        from scipy import signal

        if which == "x":
            return lambda: signal.convolve2d(dy, k)
        return lambda: signal.correlate2d(x, dy, "valid")
    if peer in ("scipy.oaconvolve", "scipy.fftconvolve"):
        from scipy import signal
        from scipy.fft import set_workers

        convolve = getattr(signal, peer.rpartition(".")[2])
        reverse = dy[::-1, ::-1].copy()

        def call() -> Array:
            with set_workers(workers):
                if which == "x":
                    return convolve(dy, k)
                return convolve(x, reverse, "valid")

        return call
    if peer == "opencv":
        import cv2

        # dy slides over x: the same sums, by Fourier transforms, in float32 only.
        if which == "x" or x.dtype != np.float32:
            raise _cannot(peer, f"gradient to {which} in {x.dtype}")
        cv2.setNumThreads(workers)
        return lambda: cv2.matchTemplate(x, dy, cv2.TM_CCORR)
    if peer == "torch":
        import torch
        from torch.nn import grad

        torch.set_num_threads(workers)
        image, weight, g = (torch.from_numpy(a)[None, None] for a in (x, k, dy))
        if which == "x":
            return lambda: grad.conv2d_input(image.shape, weight, g)
        return lambda: grad.conv2d_weight(image, weight.shape, g)
    raise _cannot(peer, "gradient")


def gradient_solution(raw: Any) -> Array:
    """The array in what a call of `gradient` returned."""
    y = np.asarray(raw)
    return y.reshape(y.shape[-2:])


# ---------------------------------------------------------------- one right answer


def check_equal(results: dict[str, Array]) -> None:
    """All answers are the first one, to rounding: nobody is timed for something else.

    Integers must be the same ones; who computes them in floating point may return that.
    """
    names = list(results)
    first = results[names[0]]
    assert first.size, "an empty problem measures nothing"
    exact = first.dtype.kind == "i"
    tolerance = 0.0
    if not exact:
        part = 1e-3 if np.finfo(first.dtype).dtype == np.float32 else 1e-9
        tolerance = part * float(np.abs(first).max())
    for name in names[1:]:
        other = results[name]
        if exact and other.dtype.kind == "f":
            other = np.rint(other).astype(first.dtype)
        if other.shape != first.shape or other.dtype != first.dtype:
            raise AssertionError(
                f"{name} gives {other.dtype}{other.shape}, {names[0]} {first.dtype}{first.shape}"
            )
        error = float(np.abs(other - first).max())
        if not error <= tolerance:
            raise AssertionError(f"{name} and {names[0]} differ by {error}")
