"""Files from strangers, and files that appear whole or not at all."""

from __future__ import annotations

import errno
import io
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

Header = tuple[tuple[int, ...], bool, np.dtype[Any]]
# A dictionary of words and a tuple of integers (in Python 2 with an L).  What is nested deeper
# needs more of the stack the deeper it is, until that of a thread ends and with it the process.
_WORDS = rb"""(?:'[^'\\]*'|"[^"\\]*"|True|False|[:,\s])*"""
_HEADER = re.compile(rb"\s*\{" + _WORDS + rb"\([\dL,\s]*\)" + _WORDS + rb"\}\s*")
_LONGEST_HEADER = 10_000  # NumPy's own limit


def _regular(mode: int, path: Path) -> None:
    if not stat.S_ISREG(mode):
        raise OSError(errno.ENODEV, "it is not a regular file", str(path))


def open_regular(path: Path) -> IO[bytes]:
    """A file to read that has an end: a pipe may have to be waited for, a device may have none."""

    def at_once(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    file = open(path, "rb", opener=at_once)  # noqa: SIM115 - the caller's
    try:
        _regular(os.fstat(file.fileno()).st_mode, path)
    except OSError:
        file.close()
        raise
    return file


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears under its name when it is complete, or not at all."""
    target = Path(os.path.realpath(path))  # through a link to the file it stands for
    try:
        mode = target.stat().st_mode
        _regular(mode, path)  # one would be put into the place of a device
    except FileNotFoundError:
        mode = None
    # A short name: the target's own may be as long as the file system allows.
    temporary = target.with_name(f".fastcorr-{secrets.token_hex(6)}")
    try:
        with open(temporary, "xb") as file:
            yield file
        if mode is not None:
            temporary.chmod(stat.S_IMODE(mode))
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def npy_header(file: IO[bytes]) -> Header:
    """Shape, order and dtype from the beginning of a .npy file."""
    formats = np.lib.format
    version = formats.read_magic(file)
    readers = {(1, 0): formats.read_array_header_1_0, (2, 0): formats.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f".npy format {version} is not supported")
    size = file.read(2 * version[0])
    length = int.from_bytes(size, "little")
    if length > _LONGEST_HEADER:
        raise ValueError(f"a header of {length} bytes is too long")
    text = file.read(length)
    if not _HEADER.fullmatch(text):
        raise ValueError("its header is not that of an array of numbers")
    return readers[version](io.BytesIO(size + text))
