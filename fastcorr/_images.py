"""Pictures in and out of files: PNG, JPEG, TIFF and .npy, and the levels they are stored in.

In memory a picture is an array (height, width) or (height, width, channels): grey, grey and
alpha, RGB, RGBA for 1 to 4 channels.
"""

from __future__ import annotations

import importlib
import logging
import lzma
import math
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from fastcorr import _files

Array = npt.NDArray[Any]

_FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF",
    ".npy": "npy",
}  # fmt: skip
_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"\x93NUMPY": "npy",
    b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "TIFF", b"MM\0+": "TIFF",
}  # fmt: skip

LEVELS = ("clip", "abs", "offset", "stretch")


class Failure(Exception):
    """What the user is told in one line, instead of a traceback."""


def extra(module: str) -> Any:
    """A module that only the command needs."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = (error.name or module).partition(".")[0]
        raise Failure(f'{missing} is not installed; pip install "fastcorr[cli]"') from None


def reason(error: BaseException) -> str:
    """What went wrong, in one line."""
    while error.__cause__:  # ImageIO wraps what Pillow says
        error = error.__cause__
    if isinstance(error, (struct.error, zlib.error, EOFError, IndexError)):
        return "the file is damaged or cut short"  # they speak of the decoder's own buffers
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


# ---------------------------------------------------------------- reading


def read(path: Path) -> Array:
    """The picture in a file; what the file holds decides, not its name."""
    try:
        # Decoders warn about odd metadata and large pictures; neither is the user's concern.
        with _files.open_regular(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels = _decode(file)
    except Failure as error:
        raise Failure(f"cannot read {str(path)!r}: {error}") from None
    except Exception as error:  # on a damaged file decoders raise whatever comes to their mind
        raise Failure(f"cannot read {str(path)!r}: {reason(error)}") from error
    if pixels.ndim != 2 and not (pixels.ndim == 3 and 1 <= pixels.shape[2] <= 4):
        raise Failure(
            f"{str(path)!r} is not a picture: its shape is {pixels.shape}, not (height, width) "
            "or (height, width, 1 to 4 channels)"
        )
    if pixels.size == 0:
        raise Failure(f"{str(path)!r} is not a picture: its shape is {pixels.shape}")
    if pixels.dtype.kind not in "biuf":
        raise Failure(f"{str(path)!r} holds {pixels.dtype}, not real numbers")
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def read_array(path: Path) -> Array:
    """The array in a .npy file."""
    try:
        with _files.open_regular(path) as file:
            return _load(file)
    except Exception as error:
        raise Failure(f"cannot read {str(path)!r}: {reason(error)}") from error


def _load(file: IO[bytes]) -> Array:
    shape, _, dtype = _files.npy_header(file)
    if math.prod(shape) * dtype.itemsize > _size(file) - file.tell():
        raise Failure("the file is damaged or cut short")
    file.seek(0)
    # Not np.load, which takes archives and, asked nicely, code.
    array: Array = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


# Pictures that take more memory than this, and more than their file, are bombs.  It is about what
# Pillow's own limit, of pixels, comes to.
_MAX_BYTES = 1 << 30


def _check_bytes(number: int, file: IO[bytes]) -> None:
    if number > max(_MAX_BYTES, _size(file)):
        raise Failure(f"it would take {number} bytes; compressed pictures may take {_MAX_BYTES}")


def _decode(file: IO[bytes]) -> Array:
    head = file.read(26)
    file.seek(0)
    kind = next((k for magic, k in _MAGIC.items() if head.startswith(magic)), None)
    if kind is None:
        raise Failure("it is not a PNG, JPEG, TIFF or .npy file" if head else "it is empty")
    if kind == "npy":
        return _load(file)
    if kind == "TIFF":
        pixels = _decode_tiff(file)
        if pixels is not None:
            return pixels
        file.seek(0)
    if _size(file) > 2 * _MAX_BYTES:
        raise Failure(f"its {_size(file)} bytes are more than a picture of {kind} takes")
    with extra("imageio.v3").imopen(file.read(), "r", plugin="pillow") as image:
        # Phones put previews and depth maps behind the photograph; the first one is meant.
        frames = 1 if kind == "JPEG" else image.properties(index=...).n_images
        if frames and frames > 1:
            raise Failure(f"it holds {frames} pictures; give one at a time")
        meta = image.metadata(index=0)
        if kind == "PNG" and len(head) == 26 and head[24] == 16 and head[25] != 0:
            # Pillow gives 16-bit colour as 8-bit, without a word.
            file.seek(0)
            width, height, rows, info = extra("png").Reader(file=file).read()
            planes = info["planes"]
            _check_bytes(2 * width * height * planes, file)
            return np.array([np.asarray(r) for r in rows], np.uint16).reshape(height, width, planes)
        mode = _MODES.get(meta["mode"])
        if "transparency" in meta:  # one colour, or an alpha for each colour of a palette
            mode = {"1": "LA", "L": "LA", "P": "RGBA", "RGB": "RGBA"}.get(meta["mode"], mode)
        return np.asarray(image.read(index=0, mode=mode, rotate=True))


# Pillow's modes that are not simply grey or RGB, each with the one it is converted to.
_MODES = {
    "1": "L", "P": "RGB", "PA": "RGBA", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB",
    "CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB",
}  # fmt: skip


def _decode_tiff(file: IO[bytes]) -> Array | None:
    """A TIFF of more than 8 bits; None for one of 8, which is left to Pillow.

    Pillow knows every compression and colour space, but cuts 16-bit colour down to 8.
    """
    tifffile = extra("tifffile")
    # The exception says it; without a handler the log would say it again on stderr.
    for name in ("tifffile", "PIL"):
        logging.getLogger(name).addHandler(logging.NullHandler())
    with tifffile.TiffFile(file) as tiff:
        if len(tiff.pages) != 1:
            raise Failure(f"it holds {len(tiff.pages)} pictures; give one at a time")
        page = tiff.pages[0]
        if page.dtype in (np.bool_, np.uint8):
            return None
        _check_bytes(page.nbytes, file)
        _check_segments(page, file)
        pixels: Array = page.asarray()
        axes, photometric = page.axes, page.photometric
    if axes == "SYX":
        pixels = np.moveaxis(pixels, 0, -1)
    if photometric == tifffile.PHOTOMETRIC.MINISWHITE and pixels.dtype.kind == "u":
        pixels = ~pixels
    elif photometric not in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB):
        name = getattr(photometric, "name", photometric)
        raise Failure(f"its colour space {name} with more than 8 bits is not supported")
    return pixels


def _check_segments(page: Any, file: IO[bytes]) -> None:
    """No strip or tile holds more than its part of the picture: tifffile unpacks all of it."""
    part = math.prod(page.chunks) * page.dtype.itemsize
    _check_bytes(part, file)
    unpack: Any = {8: zlib.decompressobj, 32946: zlib.decompressobj, 34925: lzma.LZMADecompressor}
    if page.compression not in unpack:
        return
    for start, length in zip(page.dataoffsets, page.databytecounts, strict=False):
        if length > _MAX_BYTES >> 13:  # to less than that none unpacks to the limit
            file.seek(start)
            packed = file.read(min(length, _size(file)))
            if len(unpack[page.compression]().decompress(packed, part + 1)) > part:
                raise Failure("the file is damaged: a part of it is larger than it should be")


def split_alpha(pixels: Array) -> tuple[Array, Array | None]:
    """Colours and alpha channel."""
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        return pixels[..., :-1], pixels[..., -1:]
    return pixels, None


# ---------------------------------------------------------------- writing


def format_of(path: Path) -> str:
    """The format that a file name asks for."""
    try:
        return _FORMATS[path.suffix.lower()]
    except KeyError:
        raise Failure(
            f"cannot write {str(path)!r}: its name must end in .png, .jpg, .tif or .npy"
        ) from None


def stored_dtype(kind: str, source: np.dtype[Any]) -> np.dtype[Any] | None:
    """The integers in which a file of this format keeps a picture; None: floats, as they are."""
    if kind == "JPEG":
        return np.dtype(np.uint8)
    if kind == "PNG":
        return np.dtype(np.uint16 if source == np.uint16 else np.uint8)
    if kind == "TIFF" and source.kind in "iu" and source.itemsize <= 4:
        return source.newbyteorder("=")
    return np.dtype(np.uint8) if kind == "TIFF" and source.kind == "b" else None


def white(dtype: np.dtype[Any]) -> int | None:
    """The value of white in pictures of this dtype, where there is a convention."""
    if dtype.kind in "bf":
        return 1
    return int(np.iinfo(dtype).max) if dtype in (np.uint8, np.uint16) else None


def to_levels(y: Array, how: str, source: np.dtype[Any], stored: np.dtype[Any]) -> Array:
    """Filtered values (floats, overwritten) of a picture of dtype `source` as integer levels."""
    info = np.iinfo(stored)
    if how == "stretch":
        finite = y[np.isfinite(y)]
        low, high = (finite.min(), finite.max()) if finite.size else (0, 0)
        with np.errstate(over="ignore", invalid="ignore"):  # inf stays inf, and is clipped
            y -= low
            y *= info.max / (high - low) if high > low else 0
    else:
        top = info.max if source == stored else white(source)
        if top is None:
            raise Failure(
                f"{source} pictures have no level that is white; choose --levels stretch, or "
                "write TIFF or .npy"
            )
        y *= info.max / top
        if how == "abs":
            np.abs(y, out=y)
        elif how == "offset":
            # Half the contrast: what lies between -white and white fits.
            y /= 2
            y += info.max / 2
    np.rint(y, out=y)
    y[np.isnan(y)] = 0
    return np.clip(y, info.min, info.max, out=y).astype(stored)


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears under its name when it is complete, or not at all."""
    try:
        with _files.new_file(path) as file:
            yield file
    except Failure:
        raise
    except Exception as error:
        raise Failure(f"cannot write {str(path)!r}: {reason(error)}") from error


def write(path: Path, pixels: Array) -> None:
    """Write a picture in the format of the file's name; its dtype must be one of that format."""
    kind = format_of(path)
    if kind != "npy" and pixels.shape[2:] == (1,):
        pixels = pixels[..., 0]
    pixels = np.ascontiguousarray(pixels)
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    alpha = channels in (2, 4)
    with new_file(path) as file:
        if kind == "npy":
            np.save(file, pixels, allow_pickle=False)
        elif kind == "TIFF":
            extra("tifffile").imwrite(
                file,
                pixels,
                photometric="rgb" if channels > 2 else "minisblack",
                planarconfig="contig" if channels > 1 else None,
                extrasamples=["unassalpha"] if alpha else None,
                metadata=None,
            )
        elif kind == "PNG" and pixels.dtype == np.uint16 and channels > 1:
            height, width = pixels.shape[:2]
            writer = extra("png").Writer(
                width, height, bitdepth=16, greyscale=channels == 2, alpha=alpha
            )
            writer.write(file, pixels.reshape(height, -1))
        else:
            options = {"quality": 95} if kind == "JPEG" else {}
            extra("imageio.v3").imwrite(
                file, pixels, plugin="pillow", extension=path.suffix.lower(), **options
            )
