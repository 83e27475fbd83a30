"""One problem, and how each library is asked for its solution.

Everybody gets the same: the same data, the same number of threads, memory for the result that
exists already or memory that does not (`out`), and everything that is not the work itself done
before.  What a library cannot do raises NotImplementedError, which asv takes as "skip".
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import fastcorr

Array = npt.NDArray[Any]
Call = Callable[[], Any]

# Name -> the distribution that has it.
PEERS = {
    "fastcorr": "fastcorr",
    "scipy.signal": "scipy",
    "scipy.fftconvolve": "scipy",
    "scipy.ndimage": "scipy",
    "opencv": "opencv-python-headless",
    "torch": "torch",
}
NAMES = tuple(PEERS)
DTYPES = ("float32", "float64", "uint8->float32")


@dataclass(frozen=True)
class Problem:
    """A square image and a square kernel of odd size.

    "uint8->float32" is an image of bytes, a float32 kernel and a float32 result.
    """

    size: int
    kernel: int
    dtype: str = "float32"
    mode: str = "valid"
    boundary: str = "fill"

    @property
    def result_dtype(self) -> np.dtype[Any]:
        return np.dtype(self.dtype.rpartition(">")[2])

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the result."""
        n = self.size + {"valid": 1 - self.kernel, "same": 0, "full": self.kernel - 1}[self.mode]
        return n, n

    @property
    def flops(self) -> int:
        """Multiplications and additions that the definition asks for, per solution."""
        rows, cols = self.shape
        return 2 * rows * cols * self.kernel**2

    def data(self) -> tuple[Array, Array]:
        """The image and the kernel."""
        rng = np.random.default_rng(self.size * 1000 + self.kernel)
        shape, dtype = (self.size, self.size), self.result_dtype
        k = rng.uniform(-1, 1, (self.kernel, self.kernel)).astype(dtype)
        if self.dtype.startswith("uint8"):
            return rng.integers(0, 256, shape, np.uint8), k
        return rng.uniform(-1, 1, shape).astype(dtype), k

    def __str__(self) -> str:
        where = self.mode if self.mode == "valid" else f"{self.mode}/{self.boundary}"
        return f"{self.dtype} {self.size}² {self.kernel}x{self.kernel} {where}"


def installed(peer: str) -> str | None:
    """The version of a library, None if it is not there."""
    try:
        return importlib.metadata.version(PEERS[peer])
    except importlib.metadata.PackageNotFoundError:
        # OpenCV comes in four distributions, and from elsewhere.
        if peer == "opencv" and importlib.util.find_spec("cv2"):
            import cv2

            return str(cv2.__version__)
        return None


def _need(peer: str) -> None:
    if installed(peer) is None:
        raise NotImplementedError(f"{peer} is not installed")


def _cannot(peer: str, what: object) -> NotImplementedError:
    return NotImplementedError(f"{peer} has no {what}")


# ---------------------------------------------------------------- the operation


def correlate(peer: str, problem: Problem, *, out: bool = False, workers: int = 1) -> Call:
    """A call that solves the problem with a library; `solution` reads what it returns."""
    _need(peer)
    if out and peer not in ("fastcorr", "opencv"):
        raise _cannot(peer, "out= here")
    if workers > 1 and peer in ("scipy.signal", "scipy.ndimage"):
        raise _cannot(peer, "threads")
    x, k = problem.data()
    return _CORRELATE[peer](problem, x, k, out, workers)


def _our_workers(workers: int) -> int | None:
    """The argument: with several threads allowed it is left to the call, as the peers do."""
    if workers == 1:
        return 1
    fastcorr.set_workers(workers)
    return None


def _fastcorr(p: Problem, x: Array, k: Array, out: bool, workers: int) -> Call:
    memory = np.zeros(p.shape, p.result_dtype) if out else None
    dtype = p.result_dtype
    threads = _our_workers(workers)
    return lambda: fastcorr.correlate2d(
        x, k, p.mode, p.boundary, out=memory, dtype=dtype, workers=threads
    )


def _scipy_signal(p: Problem, x: Array, k: Array, out: bool, workers: int) -> Call:
    from scipy.signal import correlate2d

    if p.boundary not in ("fill", "wrap", "symm"):
        raise _cannot("scipy.signal", p.boundary)
    return lambda: correlate2d(x, k, p.mode, p.boundary)


def _scipy_fftconvolve(p: Problem, x: Array, k: Array, out: bool, workers: int) -> Call:
    from scipy.fft import set_workers
    from scipy.signal import fftconvolve

    if p.mode != "valid" and p.boundary != "fill":
        raise _cannot("scipy.fftconvolve", p.boundary)
    reverse = k[::-1, ::-1].copy()

    def call() -> Array:
        with set_workers(workers):
            # Bytes would be transformed, and returned, in double precision.
            return fftconvolve(x.astype(k.dtype, copy=False), reverse, p.mode)

    return call


def _scipy_ndimage(p: Problem, x: Array, k: Array, out: bool, workers: int) -> Call:
    from scipy.ndimage import correlate

    if p.mode == "full":
        raise _cannot("scipy.ndimage", "mode 'full'")
    boundaries = {"fill": "constant", "wrap": "wrap", "symm": "reflect"}
    boundary = boundaries.get(p.boundary, p.boundary)
    return lambda: correlate(x, k, output=p.result_dtype, mode=boundary)


def _opencv(p: Problem, x: Array, k: Array, out: bool, workers: int) -> Call:
    import cv2

    boundaries = {
        "fill": cv2.BORDER_CONSTANT,
        "symm": cv2.BORDER_REFLECT,
        "mirror": cv2.BORDER_REFLECT_101,
        "nearest": cv2.BORDER_REPLICATE,
    }
    if p.mode == "full" or p.boundary not in boundaries:
        raise _cannot("opencv", f"{p.mode} {p.boundary}")
    depth = {"float32": cv2.CV_32F, "float64": cv2.CV_64F}[p.result_dtype.name]
    border = cv2.BORDER_DEFAULT if p.mode == "valid" else boundaries[p.boundary]
    memory = np.zeros(x.shape, p.result_dtype) if out else None
    cv2.setNumThreads(workers)
    return lambda: cv2.filter2D(x, depth, k, dst=memory, borderType=border)


def _torch(p: Problem, x: Array, k: Array, out: bool, workers: int) -> Call:
    import torch
    from torch.nn import functional

    torch.set_num_threads(workers)
    image, weight = torch.from_numpy(x)[None, None], torch.from_numpy(k)[None, None]
    dtype = weight.dtype  # image.to() is nothing where it is that already
    width = {"valid": 0, "same": p.kernel // 2, "full": p.kernel - 1}[p.mode]
    if p.mode == "valid" or p.boundary == "fill":
        return lambda: functional.conv2d(image.to(dtype), weight, padding=width)
    pads = {"wrap": "circular", "mirror": "reflect", "nearest": "replicate"}
    if p.boundary not in pads:
        raise _cannot("torch", p.boundary)
    pad = pads[p.boundary]
    return lambda: functional.conv2d(
        functional.pad(image.to(dtype), (width,) * 4, mode=pad), weight
    )


_CORRELATE = {
    "fastcorr": _fastcorr,
    "scipy.signal": _scipy_signal,
    "scipy.fftconvolve": _scipy_fftconvolve,
    "scipy.ndimage": _scipy_ndimage,
    "opencv": _opencv,
    "torch": _torch,
}


def outputs(peer: str, problem: Problem) -> int:
    """Elements that a library computes for the problem.

    ndimage and OpenCV know no 'valid': they give the whole image, a little more work, and are
    compared by time per element.
    """
    if problem.mode == "valid" and peer in ("scipy.ndimage", "opencv"):
        return problem.size**2
    return problem.shape[0] * problem.shape[1]


def solution(problem: Problem, raw: Any) -> Array:
    """The array of the problem's shape in what a call of `correlate` returned."""
    y = np.asarray(raw)
    y = y.reshape(y.shape[-2:])  # torch's has two axes more
    if y.shape != problem.shape:
        edge = problem.kernel // 2
        y = y[edge:-edge, edge:-edge]
    return y


# ---------------------------------------------------------------- its gradients


def gradient(peer: str, problem: Problem, which: str, *, workers: int = 1) -> Call:
    """A call for the gradient to the image ("x") or kernel ("k") of the valid correlation."""
    _need(peer)
    if problem.mode != "valid" or problem.dtype not in ("float32", "float64"):
        raise _cannot(peer, f"gradient of {problem} here")
    if workers > 1 and peer in ("scipy.signal", "opencv"):
        raise _cannot(peer, "threads")
    x, k = problem.data()
    rng = np.random.default_rng(problem.size)
    dy = rng.uniform(-1, 1, problem.shape).astype(problem.result_dtype)
    if peer == "fastcorr":
        at, n = "xk".index(which), _our_workers(workers)
        return lambda: fastcorr.corr2d_backward(dy, x, k, needs=(which,), workers=n)[at]
    if peer == "scipy.signal":
        from scipy import signal

        if which == "x":
            return lambda: signal.convolve2d(dy, k)
        return lambda: signal.correlate2d(x, dy, "valid")
    if peer == "scipy.fftconvolve":
        from scipy import signal
        from scipy.fft import set_workers

        reverse = dy[::-1, ::-1].copy()

        def call() -> Array:
            with set_workers(workers):
                if which == "x":
                    return signal.fftconvolve(dy, k)
                return signal.fftconvolve(x, reverse, "valid")

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
    """All answers are the first one, to rounding: nobody is timed for something else."""
    names = list(results)
    first = results[names[0]]
    assert first.size, "an empty problem measures nothing"
    scale = float(np.abs(first).max())
    tolerance = (1e-3 if first.dtype == np.float32 else 1e-9) * scale
    for name in names[1:]:
        other = results[name]
        if other.shape != first.shape or other.dtype != first.dtype:
            raise AssertionError(
                f"{name} gives {other.dtype}{other.shape}, {names[0]} {first.dtype}{first.shape}"
            )
        error = float(np.abs(other - first).max())
        if not error <= tolerance:
            raise AssertionError(f"{name} and {names[0]} differ by {error}")
