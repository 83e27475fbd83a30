"""The definition of correlation, convolution and their gradients, slow and obvious.

Plain index arithmetic over Python numbers: integers of any size, or complex numbers with
integer parts, so every result is exact.  Neither fastcorr nor SciPy is used.

A result is a list of terms: out[m, n] is the sum of X * k over its terms, where X is an
element of the image or the fill value and k an element of the kernel.  The gradients follow
from the same list, each term on its own.

`summed` and `summed_gradients` add up the same terms with NumPy, for tens of thousands of problems;
test_oracle.py holds them against the others.
"""

import functools
import itertools

import numpy as np

RULES = ("fill", "wrap", "symm", "mirror", "nearest")
MODES = ("full", "same", "valid")


def source(i, n, rule):
    """The element of an axis of n that position i of the continued axis shows; None: fill."""
    if rule == "fill":
        return i if 0 <= i < n else None
    if rule == "nearest":
        return min(max(i, 0), n - 1)
    there = list(range(n))  # 0 1 2
    back = {
        "wrap": [],  # 0 1 2 | 0 1 2 | …
        "symm": there[::-1],  # 0 1 2 | 2 1 0 | …
        "mirror": there[-2:0:-1],  # 0 1 2 | 1 | 0 1 2 | …
    }[rule]
    period = there + back
    return period[i % len(period)]


def pair(rule):
    return (rule, rule) if isinstance(rule, str) else tuple(rule)


def _positions(function, mode, size, taps):
    """Outputs of a mode along one axis, as positions in the full result."""
    if mode == "full":
        return range(size + taps - 1)
    if mode == "same":
        start = taps // 2 if function == "correlate2d" else (taps - 1) // 2
        return range(start, start + size)
    return range(min(size, taps) - 1, max(size, taps))


def shape(mode, x, k):
    return tuple(len(_positions("convolve2d", mode, n, h)) for n, h in zip(x, k, strict=True))


def _axis_terms(function, mode, size, taps, rule):
    """(output, image element or None, kernel element) of each product along one axis."""
    if mode == "valid":
        rule = "fill"  # by zeros: only where the kernel overhangs a smaller image
    for out, p in enumerate(_positions(function, mode, size, taps)):
        for a in range(taps):
            i = p - (taps - 1) + a if function == "correlate2d" else p - a
            at = source(i, size, rule)
            if mode != "valid" or at is not None:
                yield out, at, a


def terms(function, mode, x, k, rule):
    """((m, n), (i, j) or None, (a, b)) of each product; None is the fill value."""
    rows, cols = (
        list(_axis_terms(function, mode, *sizes)) for sizes in zip(x, k, pair(rule), strict=True)
    )
    for (m, i, a), (n, j, b) in itertools.product(rows, cols):
        yield (m, n), None if i is None or j is None else (i, j), (a, b)


def exact(a):
    """An array of Python numbers."""
    a = np.asarray(a)
    if a.dtype.kind == "O":
        return a
    if a.dtype.kind == "c":
        return a.astype(np.complex128).astype(object)
    if a.dtype.kind == "f":
        # Integers where they are: sums of them have no rounding.
        values = [int(v) if np.isfinite(v) and v == int(v) else float(v) for v in a.flat]
        result = np.empty(a.size, object)
        result[:] = values
        return result.reshape(a.shape)
    return a.astype(np.int8).astype(object) if a.dtype.kind == "b" else a.astype(object)


def _conj(function, k):
    """The kernel as it multiplies."""
    conjugate = function == "correlate2d" and any(isinstance(v, complex) for v in k.flat)
    return np.array([v.conjugate() for v in k.flat], object).reshape(k.shape) if conjugate else k


def compute(function, x, k, mode="full", rule="fill", fill=0):
    """`correlate2d` or `convolve2d`, exact, as an array of Python numbers."""
    x, k = exact(x), exact(k)
    factor = _conj(function, k)
    out = np.zeros(shape(mode, x.shape, k.shape), object)
    for at, pixel, tap in terms(function, mode, x.shape, k.shape, rule):
        out[at] += (fill if pixel is None else x[pixel]) * factor[tap]
    return out


def gradients(function, dy, x, k, mode="full", rule="fill", fill=0):
    """Gradients to x and k of the number whose gradient to the result is dy.

    For the real inner product Re sum conj(a) * b, to which the adjoint of  z -> z * w  is
    v -> v * conj(w)  and the adjoint of  z -> conj(z) * w  is  v -> conj(v) * w.
    """
    dy, x, k = exact(dy), exact(x), exact(k)
    factor = _conj(function, k)
    dx, dk = np.zeros(x.shape, object), np.zeros(k.shape, object)
    for at, pixel, tap in terms(function, mode, x.shape, k.shape, rule):
        if pixel is not None:
            dx[pixel] += dy[at] * _c(factor[tap])
        value = fill if pixel is None else x[pixel]
        dk[tap] += _c(dy[at]) * value if function == "correlate2d" else dy[at] * _c(value)
    return dx, dk


def _c(value):
    return value.conjugate()


@functools.cache
def _shown(function, mode, size, taps, rule):
    """Table [output, tap]: the element of an axis that the tap meets; size: the fill value."""
    table = np.full((len(_positions(function, mode, size, taps)), taps), size)
    for out, at, a in _axis_terms(function, mode, size, taps, rule):
        table[out, a] = size if at is None else at
    return table


def _gathered(function, x, k, mode, rule, fill, lags):
    """Tables of both axes, and [..., m, a, n, b]: what tap (a, b) of output (m, n) meets."""
    sizes, taps = x.shape[-2:], k.shape[-2:]
    rows, cols = (
        _shown(function, mode, *axis)[lag]
        for *axis, lag in zip(sizes, taps, pair(rule), lags, strict=True)
    )
    # One row and one column more, for all that lies outside; in 'valid' mode that adds nothing.
    x = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, 1)] * 2)
    x[..., -1, :] = x[..., -1] = 0 if mode == "valid" else fill
    return rows, cols, x[..., rows[:, :, None, None], cols]


ALL = slice(None), slice(None)


def summed(function, x, k, mode="full", rule="fill", fill=0, lags=ALL):
    """`compute` in the arithmetic of the arrays; leading axes are stacks, which broadcast."""
    _, _, there = _gathered(function, x, k, mode, rule, fill, lags)
    factor = k.conj() if function == "correlate2d" else k
    return np.einsum("...manb,...ab->...mn", there, factor)


def summed_gradients(function, dy, x, k, mode="full", rule="fill", fill=0, lags=ALL):
    """`gradients` in the arithmetic of the arrays, of the shapes of x and k."""
    rows, cols, there = _gathered(function, x, k, mode, rule, fill, lags)
    if function == "correlate2d":
        dk = np.einsum("...mn,...manb->...ab", dy.conj(), there)
        factor = k
    else:
        dk = np.einsum("...mn,...manb->...ab", dy, there.conj())
        factor = k.conj()
    terms = np.einsum("...mn,...ab->...manb", dy, factor)
    height, width = (n + 1 for n in x.shape[-2:])
    at = (rows[:, :, None, None] * width + cols).ravel()
    dx = np.zeros((*dy.shape[:-2], height * width), terms.dtype)
    for plane in np.ndindex(dy.shape[:-2]):
        np.add.at(dx[plane], at, terms[plane].ravel())
    dx = dx.reshape(*dy.shape[:-2], height, width)[..., :-1, :-1]
    return _sum_to(dx, x.shape), _sum_to(dk, k.shape)


def _sum_to(a, shape):
    """Summed over the axes along which shape was broadcast."""
    a = a.sum(axis=tuple(range(a.ndim - len(shape))), dtype=a.dtype)
    return a.sum(
        axis=tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True, dtype=a.dtype
    )  # fmt: skip


def as_dtype(values, dtype):
    """Exact values as an array of dtype; integers wrap around as processors do."""
    dtype = np.dtype(dtype)
    if dtype.kind in "iu":
        bits = 8 * dtype.itemsize
        wrapped = [int(v) % 2**bits for v in values.flat]
        return np.array(wrapped, f"u{dtype.itemsize}").reshape(values.shape).view(dtype)
    return np.array(values.tolist(), dtype).reshape(values.shape)
