"""The command: ``python -m fastcorr``, with ``filter``, ``learn`` and ``demo``."""

from __future__ import annotations

import argparse
import io
import math
import os
import re
import signal
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from fastcorr import __version__, _filters, _images
from fastcorr._boundary import BOUNDARIES, MODES
from fastcorr._images import Failure
from fastcorr.correlate import correlate2d

_FILTER_EPILOG = """\
kernels (applied by correlation, not flipped):
  sobel-x            -1,0,1;-2,0,2;-1,0,1: positive where it grows brighter to the right
  sobel-y            its transpose: positive where it grows brighter downwards
  laplace            0,1,0;1,-4,1;0,1,0
  gaussian:SIGMA     Gaussian blur, weights of sum 1, cut off at 4 sigma
  box:N              mean of N x N pixels
  sharpen            0,-1,0;-1,5,-1;0,-1,0
  emboss             -2,-1,0;-1,1,1;0,1,2
  FILE.npy           a 2-D array of weights
  "1,-1;2,-2"        rows of weights

files:
  INPUT is PNG, JPEG, TIFF or .npy: grey or colour, 8 or 16 bits or floating point; shape
  (height, width[, channels]) in .npy.  Each channel is filtered, but not alpha, the last of
  2 or 4 channels.  JPEG is turned upright as its camera says; no other metadata is kept.
  Files of several pictures (animations, TIFF pages) are refused; of a phone's JPEG the
  photograph is taken.  OUTPUT's name chooses its format; it may be INPUT.  PNG keeps 8 or 16
  bits, JPEG has 8 and no alpha.  .npy, and TIFF if INPUT is floating point, keep the filtered
  values themselves, unrounded and unclipped (float32; float64 for float64 and for integers of
  32 bits and more).

levels of PNG, JPEG and integer TIFF (floating point: 0 is black, 1 is white):
  clip      the values, rounded; what is darker than black or brighter than white is clipped
  abs       without their sign: flat parts black, edges bright
  offset    mid-grey + half the value: negative dark, 0 grey, positive bright
  stretch   from the smallest value, black, to the largest, white
  Default: abs for kernels whose weights sum to 0 (sobel, laplace, "1,-1"; clip in TIFF of
  signed integers), clip for all others.
"""

_LEARN_EPILOG = """\
pictures:
  INPUT and TARGET are files as for `filter`; their values are taken as they are.  The kernel
  is learned from all channels alike if both have as many, without alpha; otherwise colours
  become grey.  TARGET has the size of INPUT, which --boundary then continues beyond its edges,
  or that of mode 'valid'.  A correlation has negative values: what `filter` is to make for
  TARGET should be .npy, not PNG, which holds none.

how it learns:
  By gradient descent on the mean square error, from a kernel of zeros, until the weights
  settle, or for --steps steps.  Both pictures are scaled to mean square 1 for it, with --bias
  after their means are taken off; of large ones, tiles from all over are used.
  sgd       momentum 0.98 (Nesterov); --lr is 1 / (2 * weights) unless given
  adam      --lr is 0.1 unless given, and falls to 0 along a cosine
  Ctrl-C ends it: what was learned so far is written, and the exit status is 130.

results:
  OUTPUT is the kernel (float64), for `filter --kernel OUTPUT`; beside it, its picture (.png)
  and the error at each step.  Printed are the kernel, unless it is large, and the error that
  is left: its root mean square, and its part of TARGET's standard deviation; 100 % is no
  better than TARGET's mean.
"""

_MAX_FLOAT32_SUM = 256


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Failure(message)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        sys.stdout.flush()  # here, where it is told if that fails
        super().exit(status, message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fastcorr", description="2-D cross-correlation, fast.")
    parser.add_argument("--version", action="version", version=f"fastcorr {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    filter_ = commands.add_parser(
        "filter",
        help="filter a picture",
        description="Filter a picture with a kernel.",
        epilog=_FILTER_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    filter_.add_argument("input", metavar="INPUT", type=Path, help="picture to read")
    filter_.add_argument("output", metavar="OUTPUT", type=Path, help="picture to write")
    filter_.add_argument("--kernel", required=True, help="a name or weights: see below")
    filter_.add_argument(
        "--boundary",
        default="symm",
        choices=BOUNDARIES,
        help="how the picture goes on beyond its edges (default: %(default)s)",
    )
    filter_.add_argument(
        "--mode", default="same", choices=MODES, help="size of the result (default: %(default)s)"
    )
    filter_.add_argument(
        "--levels", choices=_images.LEVELS, help="how values become levels: see below"
    )
    filter_.add_argument("--workers", metavar="N", type=int, help="threads (default: all CPUs)")

    learn = commands.add_parser(
        "learn",
        help="learn the kernel between two pictures",
        description="Learn the kernel that makes one picture of another, by gradient descent.",
        epilog=_LEARN_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    learn.add_argument("input", metavar="INPUT", type=Path, help="picture to start from")
    learn.add_argument("target", metavar="TARGET", type=Path, help="what shall become of it")
    learn.add_argument(
        "--size", required=True, type=_size, help="rows and columns of the kernel, such as 3x5"
    )
    learn.add_argument(
        "--output",
        type=Path,
        default=Path("kernel.npy"),
        help="where to write the kernel (default: %(default)s)",
    )
    learn.add_argument(
        "--boundary",
        default="symm",
        choices=BOUNDARIES,
        help="how INPUT goes on beyond its edges (default: %(default)s)",
    )
    learn.add_argument("--bias", action="store_true", help="learn a number to add, too")
    learn.add_argument(
        "--steps",
        metavar="N",
        type=_count,
        default=2000,
        help="steps at most (default: %(default)s)",
    )
    learn.add_argument(
        "--optimizer",
        default="sgd",
        choices=("sgd", "adam"),
        help="how to step (default: %(default)s)",
    )
    learn.add_argument("--lr", metavar="RATE", type=_rate, help="length of the steps: see below")
    learn.add_argument("--quiet", action="store_true", help="no progress bar")

    demo = commands.add_parser(
        "demo",
        help="a tour that writes pictures",
        description="The tour: from a correlation by hand to kernels that are learned.",
    )
    demo.add_argument(
        "directory",
        metavar="DIR",
        nargs="?",
        type=Path,
        default=Path("fastcorr-demo"),
        help="where to write (default: %(default)s)",
    )
    return parser


def _size(text: str) -> tuple[int, int]:
    sides = re.fullmatch("([0-9]+)[xX]([0-9]+)", text)
    if not sides:
        raise argparse.ArgumentTypeError(f"{text!r} is not ROWSxCOLUMNS, such as 3x5")
    rows, columns = int(sides[1]), int(sides[2])
    if not (1 <= rows <= _filters._MAX_SIDE and 1 <= columns <= _filters._MAX_SIDE):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not between 1x1 and {_filters._MAX_SIDE}x{_filters._MAX_SIDE}"
        )
    return rows, columns


def _count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of steps")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number greater than 0")
    return rate


def _kernel(text: str) -> _filters.Kernel:
    try:
        if text.lower().endswith(".npy"):
            return _filters.check(_images.read_array(Path(text)))
        return _filters.parse(text)
    except (ValueError, Failure) as error:
        raise Failure(f"--kernel {text!r}: {error}") from None


def _filter(options: argparse.Namespace) -> None:
    kind = _images.format_of(options.output)
    if not os.path.isdir(options.output.parent):
        raise Failure(f"cannot write {str(options.output)!r}: no directory to put it in")
    if os.path.isdir(options.output):
        raise Failure(f"cannot write {str(options.output)!r}: it is a directory")
    k = _kernel(options.kernel)
    pixels = _images.read(options.input)
    source = pixels.dtype
    stored = _images.stored_dtype(kind, source)
    x, alpha = _images.split_alpha(pixels)
    if alpha is not None and kind == "JPEG":
        raise Failure(
            f"cannot write {str(options.output)!r}: JPEG has no alpha; choose PNG or TIFF"
        )
    if options.levels and stored is None:
        raise Failure("--levels is for integer pictures; this output keeps the values themselves")
    if options.mode == "valid" and (k.shape[0] > x.shape[0] or k.shape[1] > x.shape[1]):
        # correlate2d would exchange the two, as SciPy does.
        raise Failure(
            f"--mode valid: the kernel ({k.shape[0]} x {k.shape[1]}) is larger than the picture "
            f"({x.shape[0]} x {x.shape[1]})"
        )

    def correlate(a: npt.NDArray[Any], b: npt.NDArray[Any], dtype: npt.DTypeLike) -> Any:
        return correlate2d(
            a,
            b,
            options.mode,
            options.boundary,
            axes=(0, 1),
            dtype=dtype,
            workers=options.workers,
        )

    # float32 holds what bytes, 16-bit integers and float32 hold; all others need float64, and so
    # do sums of many terms, lest they round to the neighbour of one of 16 bits' levels.
    result = np.float32 if np.can_cast(source, np.float32) else np.float64
    dtype = result if k.size <= _MAX_FLOAT32_SUM else np.float64
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            y = correlate(x, k, dtype)
            if stored is None:
                y = y.astype(result, copy=False)
    except ValueError as error:
        raise Failure(str(error)) from None
    if alpha is not None and options.mode != "same":
        # The alpha of the pixel under the centre of the kernel.
        centre = np.zeros(k.shape, np.int8)
        centre[(k.shape[0] - 1) // 2, (k.shape[1] - 1) // 2] = 1
        alpha = correlate(alpha, centre, dtype)
    if stored is not None:
        derivative = _filters.is_derivative(k) and stored.kind == "u"
        y = _images.to_levels(
            y, options.levels or ("abs" if derivative else "clip"), source, stored
        )
        if alpha is not None:
            alpha = _images.to_levels(alpha.astype(np.float64), "clip", source, stored)
    if alpha is not None:
        y = np.concatenate([y, alpha.astype(y.dtype)], axis=2)
    _images.write(options.output, y)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 2 after a message on stderr, or 130 after Ctrl-C.

    1 if what it prints is read no further.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if "--kernel" in words[:-1]:
        # argparse would take the weights -1,1 for an option.
        at = words.index("--kernel")
        words[at : at + 2] = [f"--kernel={words[at + 1]}"]
    # A stream that is closed, as by `>&-`, is None: what goes there is heard by nobody.
    with (
        open(os.devnull, "w") as nowhere,
        redirect_stdout(sys.stdout or nowhere),
        redirect_stderr(sys.stderr or nowhere),
    ):
        return _run(words)


def _run(words: Sequence[str]) -> int:
    try:
        options = _parser().parse_args(words)
        status = 0
        if options.command == "filter":
            _filter(options)
        elif options.command == "learn":
            from fastcorr import _learn

            status = _learn.run(options)
        else:
            from fastcorr import _demo

            _demo.run(options.directory)
        sys.stdout.flush()
        return status
    except Failure as error:
        return _fail(f"error: {error}")
    except MemoryError:
        return _fail("error: not enough memory")
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        _print_no_more()
        return 1
    except OSError as error:
        # Of files the name is known; what remains is what was printed.
        where = repr(error.filename) if error.filename else "standard output"
        _print_no_more()
        return _fail(f"error: {where}: {_images.reason(error)}")


def _fail(message: str, status: int = 2) -> int:
    with suppress(OSError):
        print(f"fastcorr: {message}", file=sys.stderr)
    return status


def _print_no_more() -> None:
    """Python flushes once more at its end, and would complain."""
    with suppress(OSError):  # not a file, if main was called by a program
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end(*_: object) -> NoReturn:
    """SIGTERM ends the command as an exception does: no half a file is left."""
    raise SystemExit(128 + signal.SIGTERM)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    # Of a name that the terminal's encoding has not something is shown, rather than an error.
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main())
