"""Kernels as sums of a few outer products, where they are just that.

A kernel is taken apart only where computing with its factors keeps what is promised of every
result (docs/accuracy.md): integers stay exact, and an output is off by at most
(n + 1) u sum |x| |k|, n taps.  That is a condition on every tap by itself: an image may be zero
but for one pixel.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Pair = tuple[Array, Array]

MOST_TAPS = 512  # per axis; bounds the scratch of what computes with the factors
MOST_TERMS = 3  # outer products

# Taps that a direct sum takes at once (KA, KB in direct.pyx), for the bound it is held to.
_KA, _KB = 32, 64
# Types to judge factors in: with digits to spare, where the platform has such.
_WIDER: dict[str, Any] = {
    "f": np.float64, "d": np.longdouble, "F": np.complex128, "D": np.clongdouble
}  # fmt: skip


def factors(k: Array, most: int = MOST_TERMS) -> Pair | None:
    """k (…, kh, kw) as the sum over r of u (…, r, kh) outer v (…, r, kw), `most` of them at most.

    None where that is not possible, for all kernels of the batch, within the error bound.
    A kernel of one row has u = 1, a kernel of one column v = 1.  k is C-contiguous, of the
    kernels' lanes (integers without sign) or complex pairs of them.
    """
    kh, kw = k.shape[-2:]
    if k.size == 0 or max(kh, kw) > MOST_TAPS:
        return None
    planes = k.reshape(-1, kh, kw)
    if k.dtype.kind != "u" and not np.isfinite(planes).all():
        return None
    if kh == 1:
        pair: Pair | None = np.ones((len(planes), 1, 1), k.dtype), planes
    elif kw == 1:
        pair = planes.transpose(0, 2, 1), np.ones((len(planes), 1, 1), k.dtype)
    elif k.dtype.kind == "u":
        pair = _integers(planes)
    else:
        pair = _floats(planes, most)
    if pair is None:
        return None
    u, v = (np.ascontiguousarray(f.reshape(*k.shape[:-2], *f.shape[1:])) for f in pair)
    return u, v


# A kernel is often used again: its factors are kept, if it is not large.
_KEPT_BYTES = 1 << 14


def known_factors(k: Array) -> Pair | None:
    """`factors`, remembered."""
    if k.nbytes > _KEPT_BYTES:
        return factors(k)
    return _remembered(k.tobytes(), k.dtype.str, k.shape)


@functools.lru_cache(maxsize=128)
def _remembered(data: bytes, dtype: str, shape: tuple[int, ...]) -> Pair | None:
    return factors(np.frombuffer(data, dtype).reshape(shape))


def looks_like_one(k: Array) -> bool:
    """Whether the first kernel may be a single outer product; ten times faster than `factors`."""
    a = k.reshape(-1, *k.shape[-2:])[0]
    if a.dtype.kind == "u":
        a = a.view(f"i{a.itemsize}").astype(np.float64)
    i, j = divmod(int(np.abs(a).argmax()), a.shape[1])
    rest = np.abs(a * a[i, j] - a[:, j, None] * a[i])
    return bool(rest.max() <= 1e-4 * np.abs(a[i, j]) ** 2)


def _pivots(a: Array) -> tuple[Array, Array, Array]:
    """Number, row and column of the largest element of each plane."""
    at = np.abs(a).reshape(len(a), -1).argmax(-1)
    return np.arange(len(a)), at // a.shape[-1], at % a.shape[-1]


# ---------------------------------------------------------------- integers


def _outer(k: npt.NDArray[np.int64]) -> Pair:
    """Integers u, v with k = u outer v where there are such; else any."""
    n, i, j = _pivots(k)
    v = k[n, i]
    # Without a common factor: then u is made of integers if k is an outer product.
    v = v // np.maximum(np.gcd.reduce(v, axis=-1), 1)[:, None]
    pivot = v[n, j][:, None]
    u = np.where(pivot == 0, 1, k[n, :, j] // np.where(pivot == 0, 1, pivot))
    return u[:, None, :], v[:, None, :]


def _integers(k: Array) -> Pair | None:
    """Modulo 2**n, as the lanes compute: for kernels of numbers with or without sign."""
    signed = k.view(f"i{k.itemsize}")
    for a in (signed,) if k.itemsize == 8 else (signed, k):
        u, v = (f.astype(k.dtype) for f in _outer(a.astype(np.int64)))
        if (u.transpose(0, 2, 1) * v == k).all():
            return u, v
    return None


# ---------------------------------------------------------------- floating point


def _floats(k: Array, most: int) -> Pair | None:
    n, kh, kw = k.shape
    u, v = np.ones((n, 1, kh), k.dtype), np.zeros((n, 1, kw), k.dtype)
    good = np.zeros(n, bool)
    if k.dtype.kind == "f" or not k.imag.any():
        pair = _dyadic(k.real)
        if pair is not None:
            u[...], v[...] = pair
            good = _keeps(k, u, v)
            if good.all():
                return u, v
    pair = _cross(k[~good], most)
    if pair is None or not good.any():
        return pair
    # Those that were done get terms of zeros.
    terms = pair[0].shape[1]
    u = np.concatenate([u, np.zeros((n, terms - 1, kh), k.dtype)], axis=1)
    v = np.concatenate([v, np.zeros((n, terms - 1, kw), k.dtype)], axis=1)
    u[~good], v[~good] = pair
    return u, v


def _dyadic(k: Array) -> Pair | None:
    """Factors without rounding, of kernels that are integers times a power of two."""
    peak = np.abs(k).max(axis=(-2, -1), keepdims=True)
    shift = np.finfo(k.dtype).nmant + 1 - np.frexp(peak)[1]
    scaled = np.ldexp(k.astype(np.float64), shift)
    whole = scaled.astype(np.int64)
    if not (whole == scaled).all(axis=(-2, -1)).any():
        return None
    u, v = _outer(whole)
    # Powers of two go where no sum along a row can overflow: u reaches 1.
    shift = -shift
    low = np.minimum(np.frexp(np.abs(u).max(axis=-1, keepdims=True))[1] - 1 + shift, 0)
    return np.ldexp(u.astype(np.float64), shift - low), np.ldexp(v.astype(np.float64), low)


def _cross(k: Array, most: int) -> Pair | None:
    """Rows and columns through the largest element, of the kernel, then of what is left of it."""
    left = k.astype(np.result_type(k, np.float64))
    # What is left of a kernel when it may be worth a closer look.
    small = 4 * k[0].size * np.finfo(k.dtype).eps * np.abs(k).max(axis=(-2, -1))
    us: list[Array] = []
    vs: list[Array] = []
    good = np.zeros(len(k), bool)
    for _ in range(min(most, *k.shape[1:])):
        n, i, j = _pivots(left)
        row, column, pivot = left[n, i], left[n, :, j], left[n, i, j][:, None]
        live = (pivot != 0) & ~good[:, None]
        us.append(np.where(live, column / np.where(live, pivot, 1), 0).astype(k.dtype))
        vs.append(np.where(live, row, 0).astype(k.dtype))
        left -= us[-1].astype(left.dtype)[:, :, None] * vs[-1].astype(left.dtype)[:, None, :]
        near = np.abs(left).max(axis=(-2, -1)) <= small
        if not near.any():
            continue
        u, v = np.stack(us, axis=1), np.stack(vs, axis=1)
        good[near] |= _keeps(k[near], u[near], v[near])
        if good.all():
            return u, v
    return None


def _parts(a: Array) -> tuple[Array, ...]:
    return (a.real, a.imag) if a.dtype.kind == "c" else (a,)


def _keeps(k: Array, u: Array, v: Array) -> npt.NDArray[np.bool_]:
    """Which kernels the factors stand for, within the bound that a direct sum is held to."""
    (n, kh, kw), terms = k.shape, u.shape[1]
    wide = _WIDER[k.dtype.char]
    unit = float(np.finfo(k.dtype).eps) / 2
    a, b = u.astype(wide)[..., None], v.astype(wide)[:, :, None, :]
    if k.dtype.kind == "c":
        products = [a.real * b.real, a.imag * b.imag, a.real * b.imag, a.imag * b.real]
        size = [sum(np.abs(p).sum(axis=1) for p in products[:2])]
        size += [sum(np.abs(p).sum(axis=1) for p in products[2:])]
    else:
        products = [a * b]
        size = [np.abs(products[0]).sum(axis=1)]
    error = [np.abs(part) for part in _parts(k - (a * b).sum(axis=1))]
    # Roundings that a product meets along its row and down its column, once more per axis
    # where parts of complex numbers are added, and something for products of roundings.
    roundings = kw + terms * kh + (2.5 if k.dtype.kind == "c" else 0.5)
    # And those of this test.
    roundings += 2 * (terms + 1) * float(np.finfo(wide).eps) / unit
    blocks = -(-kh // _KA) * -(-kw // _KB)
    taps = kh * kw if blocks == 1 else min(kh * kw, _KA * _KB + blocks)
    # Integers stay exact where no term has fractions and none cancels another.
    fractions = np.zeros(n, bool)
    keeps, exact = np.ones((2, n), bool)
    whole = np.logical_and.reduce([(p == np.rint(p)).all(axis=1) for p in products])
    for value, e, s in zip(_parts(k), error, size, strict=True):
        top = np.abs(value)
        fractions |= (value != np.rint(value)).any(axis=(-2, -1))
        keeps &= (e + roundings * unit * s <= (taps + 1) * unit * top).all(axis=(-2, -1))
        exact &= (whole & (e == 0) & (s <= top) | (top * unit > 1)).all(axis=(-2, -1))
    good: npt.NDArray[np.bool_] = keeps & (exact | fractions)
    return good
