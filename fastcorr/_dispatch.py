"""Which compiled kernels this processor runs.  FASTCORR_ISA overrides, for tests and timing."""

from __future__ import annotations

import functools
import importlib
import os
import platform
import re
import sys
from types import ModuleType
from typing import Any, Literal, overload

import numpy as np

from fastcorr._arguments import shown
from fastcorr._kernels import _cpu

# x86-64 levels; what is not listed runs anywhere that it was built for.
_NEEDS = {"x86_64_v3": 3, "x86_64_v4": 4}


def _choose_isa(wanted: str | None) -> str:
    runnable = [isa for isa in _cpu.ISAS if _NEEDS.get(isa, 0) <= _cpu.LEVEL]
    if not wanted:
        return runnable[-1]
    if wanted not in _cpu.ISAS:
        raise ImportError(
            f"FASTCORR_ISA={wanted!r} is not an instruction set of this build of fastcorr; "
            f"it has {', '.join(_cpu.ISAS)}"
        )
    if wanted not in runnable:
        raise RuntimeError(
            f"FASTCORR_ISA={wanted!r} asks for instructions that this processor does not "
            f"have; it runs {', '.join(runnable)}"
        )
    return wanted


ISA = _choose_isa(os.environ.get("FASTCORR_ISA"))


@functools.cache
def _module(lane: str, kind: str = "direct") -> ModuleType:
    name = f"{kind}_f80" if lane == "f80" else f"{kind}_{lane}_{ISA}"
    try:
        return importlib.import_module(f"fastcorr._kernels.{name}")
    except ImportError as error:
        # The loader's words, where there is no room for the module.
        if not re.search("failed to map|cannot (?:map|allocate|create|enlarge)", str(error)):
            raise
        raise MemoryError(f"no memory to load the kernels of fastcorr: {error}") from error


# Result type -> lane type of the kernels.  Integers are computed without sign, modulo 2**n:
# the same bits as SciPy's wrapping.  Bytes go through 16-bit lanes, as processors multiply them.
_LANES = {
    "i1": "u16", "u1": "u16", "i2": "u16", "u2": "u16", "i4": "u32", "u4": "u32",
    "i8": "u64", "u8": "u64", "f4": "f32", "f8": "f64", "c8": "f32", "c16": "f64",
}  # fmt: skip
_LANE_DTYPES = {"u16": np.uint16, "u32": np.uint32, "u64": np.uint64}


@functools.cache
def kernels(dtype: np.dtype[Any]) -> tuple[ModuleType, np.dtype[Any]]:
    """The kernels for a result of this dtype, and the dtype of their operands.

    Raises KeyError for dtypes without kernels.
    """
    if dtype.num in _LONG_DOUBLES:
        return _module("f80"), dtype
    # Strings like "i8" are of any platform's C types; "f2" and the rest are not in the table.
    lane = _LANES[f"{dtype.kind}{dtype.itemsize}"]
    return _module(lane), np.dtype(_LANE_DTYPES.get(lane, dtype))


@functools.cache
def method_kernels(method: str, lanes: np.dtype[Any]) -> ModuleType:
    """The kernels of a method other than the direct sum ('conv': of many channels), for operands
    of this dtype."""
    return _module(_LANES[f"{lanes.kind}{lanes.itemsize}"], method)


_LONG_DOUBLES = {np.dtype(np.longdouble).num, np.dtype(np.clongdouble).num}


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, Any]: ...
def show_config(mode: str = "stdout") -> dict[str, Any] | None:
    """Show the instruction set, threads and versions that fastcorr uses here.

    Parameters
    ----------
    mode : {'stdout', 'dicts'}
        Print, or return a dictionary.

    Returns
    -------
    dict or None
        With ``mode='dicts'``: ``fastcorr`` (version), ``isa`` (instruction set in use),
        ``isas`` (all in this build), ``openmp`` (date of its version, 0 without it),
        ``fork_safe``, ``workers``, ``python``, ``numpy``, ``machine``.

    Raises
    ------
    ValueError
        If `mode` is neither.

    Examples
    --------
    >>> import fastcorr
    >>> fastcorr.show_config(mode="dicts")["isa"] in (
    ...     "baseline", "x86_64_v3", "x86_64_v4", "aarch64")
    True
    """
    import fastcorr  # at call time: fastcorr itself imports this module
    from fastcorr._workers import get_workers

    if not isinstance(mode, str) or mode not in ("stdout", "dicts"):
        raise ValueError(f"mode must be 'stdout' or 'dicts', got {shown(mode)}")
    config = {
        "fastcorr": fastcorr.__version__,
        "isa": ISA,
        "isas": list(_cpu.ISAS),
        "openmp": _cpu.OPENMP,
        "fork_safe": _cpu.FORK_SAFE,
        "workers": get_workers(),
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "machine": platform.machine(),
    }
    if mode == "dicts":
        return config
    for name, value in config.items():
        print(f"{name:>10}: {', '.join(value) if isinstance(value, list) else value}")
    return None
