"""The definitions of conv2d, conv_transpose2d and their gradients, slow and obvious.

Neither fastcorr nor PyTorch is used.  Along each axis a table says which pixel tap a of output i
shows, or which pixel it adds to; the sums then run tap by tap over those tables, each as it is
written in the comment beside it.  Numbers are int64, or complex128 of integer parts: sums of
either are exact here, since they stay below 2**53.  (Floating numbers are taken too, for the
tests of rounding.)
"""

import numpy as np
from oracle import source

# PyTorch's names for what lies beyond the edge, and those of oracle.source.
MODES = {"zeros": "fill", "reflect": "mirror", "replicate": "nearest", "circular": "wrap"}


def pair(value):
    """An int or a pair as a pair."""
    return (int(value),) * 2 if np.ndim(value) == 0 else tuple(int(v) for v in value)


def pads(padding, size, kernel, stride, dilation):
    """((top, bottom), (left, right)) of any spelling of a padding."""
    if padding == "valid":
        padding = 0
    if padding == "same":
        sides = []
        for n, k, s, d in zip(size, kernel, pair(stride), pair(dilation), strict=True):
            outputs = (n + s - 1) // s
            total = max((outputs - 1) * s + d * (k - 1) + 1 - n, 0)
            sides.append((total // 2, total - total // 2))
        return tuple(sides)
    return tuple(pair(p) for p in (padding if np.ndim(padding) else pair(padding)))


def out_size(size, kernel, stride=1, padding=0, dilation=1):
    """(rows, columns) of the output: how often the spread kernel fits onto the padded image."""
    sizes = []
    for n, k, s, d, (before, after) in zip(
        size, kernel, pair(stride), pair(dilation),
        pads(padding, size, kernel, stride, dilation), strict=True,
    ):  # fmt: skip
        fits = 0
        while fits * s + d * (k - 1) < before + n + after:
            fits += 1
        sizes.append(fits)
    return tuple(sizes)


def _shown(n, out, k, s, d, before, mode):
    """Table [output i, tap a]: the pixel of an axis of n that the tap shows, -1 for a zero."""
    positions = [[i * s + a * d - before for a in range(k)] for i in range(out)]
    known = {p: source(p, n, MODES[mode]) for row in positions for p in row}
    table = [[-1 if known[p] is None else known[p] for p in row] for row in positions]
    return np.array(table, int).reshape(out, k)


def _tables(size, kernel, stride, padding, dilation, mode):
    sides = pads(padding, size, kernel, stride, dilation)
    return [
        _shown(n, out, k, s, d, before, mode)
        for n, out, k, s, d, (before, _) in zip(
            size, out_size(size, kernel, stride, padding, dilation), kernel, pair(stride),
            pair(dilation), sides, strict=True,
        )
    ]  # fmt: skip


def _pick(x, rows, columns):
    """x[..., rows, columns] for every row with every column; zero where either is -1."""
    inside = (rows >= 0)[:, None] & (columns >= 0)
    return np.where(inside, x[..., rows[:, None], columns], x.dtype.type(0))


def _add(x, rows, columns, values):
    """The adjoint of `_pick`: add values where they were picked from."""
    r, c = np.flatnonzero(rows >= 0), np.flatnonzero(columns >= 0)
    values = values[..., r[:, None], c]
    rows, columns = rows[r], columns[c]
    if len(set(rows)) == len(rows) and len(set(columns)) == len(columns):
        x[..., rows[:, None], columns] += values
    else:
        np.add.at(x, (..., rows[:, None], columns), values)


def _grouped(v, groups, axis):
    """The channels of an axis split into (groups, channels of each)."""
    return v.reshape(*v.shape[:axis], groups, v.shape[axis] // groups, *v.shape[axis + 1 :])


def _flat(planes):
    return planes.reshape(*planes.shape[:3], -1)


# einsum, since matrix products of complex numbers would start the threads of a BLAS.


def _product(weights, planes):
    """out[n, g, o, i, j] = sum over c of weights[g, o, c] * planes[n, g, c, i, j]."""
    out = np.einsum("goc,ngcp->ngop", weights, _flat(planes))
    return out.reshape(*out.shape[:3], *planes.shape[3:])


def _outer(left, right):
    """out[g, o, c] = sum over n, i, j of left[n, g, o, i, j] * right[n, g, c, i, j]."""
    return np.einsum("ngop,ngcp->goc", _flat(left), _flat(right))


def conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, mode="zeros"):
    if x.ndim == 3:
        return conv2d(x[None], weight, bias, stride, padding, dilation, groups, mode)[0]
    rows, columns = _tables(x.shape[2:], weight.shape[2:], stride, padding, dilation, mode)
    out = len(rows), len(columns)
    y = np.zeros((len(x), len(weight), *out), np.result_type(x, weight))
    x, w, per_group = _grouped(x, groups, 1), _grouped(weight, groups, 0), _grouped(y, groups, 1)
    for a, b in np.ndindex(weight.shape[2:]):
        # y[n, o, i, j] += weight[o, c, a, b] * x[n, c, pixel that tap (a, b) of (i, j) shows]
        per_group += _product(w[..., a, b], _pick(x, rows[:, a], columns[:, b]))
    return y if bias is None else y + bias[:, None, None]


def conv2d_backward(dy, x, weight, stride=1, padding=0, dilation=1, groups=1, mode="zeros"):
    """Gradients to x, weight and bias of the number whose gradient to the result is dy.

    For the inner product Re sum conj(u) * v: of  z -> z * w  it gives  v -> v * conj(w), and to a
    real operand the real part.
    """
    if x.ndim == 3:
        args = stride, padding, dilation, groups, mode
        dx, dweight, dbias = conv2d_backward(dy[None], x[None], weight, *args)
        return dx[0], dweight, dbias
    rows, columns = _tables(x.shape[2:], weight.shape[2:], stride, padding, dilation, mode)
    dx = np.zeros(x.shape, np.result_type(dy, weight))
    dweight = np.zeros(weight.shape, np.result_type(dy, x))
    xg, dyg, dxg = (_grouped(v, groups, 1) for v in (x, dy, dx))
    w, dwg = _grouped(weight, groups, 0), _grouped(dweight, groups, 0)
    for a, b in np.ndindex(weight.shape[2:]):
        at = rows[:, a], columns[:, b]
        # dx[n, c, that pixel] += dy[n, o, i, j] * conj(weight[o, c, a, b])
        _add(dxg, *at, _product(w[..., a, b].conj().swapaxes(-1, -2), dyg))
        # dweight[o, c, a, b] = sum of dy[n, o, i, j] * conj(x[n, c, that pixel])
        dwg[..., a, b] = _outer(dyg, _pick(xg, *at).conj())
    return _real(dx, x), _real(dweight, weight), dy.sum(axis=(0, 2, 3))


def _real(gradient, operand):
    return gradient if operand.dtype.kind == "c" else gradient.real


def transposed_size(size, kernel, stride=1, padding=0, output_padding=0, dilation=1):
    """(rows, columns) of conv_transpose2d: from the first pixel's first tap to the last's last."""
    return tuple(
        (n - 1) * s + d * (k - 1) + 1 - 2 * p + extra
        for n, k, s, p, extra, d in zip(
            size, kernel, *map(pair, (stride, padding, output_padding, dilation)), strict=True
        )
    )


def _targets(n, out, k, s, d, p):
    """Table [pixel i, tap a]: the element of an output axis that the tap adds to; -1: outside."""
    table = np.array([[i * s + a * d - p for a in range(k)] for i in range(n)], int).reshape(n, k)
    return np.where((table >= 0) & (table < out), table, -1)


def _transposed_tables(x, weight, stride, padding, output_padding, dilation):
    size, kernel = x.shape[2:], weight.shape[2:]
    out = transposed_size(size, kernel, stride, padding, output_padding, dilation)
    every = zip(size, out, kernel, *map(pair, (stride, dilation, padding)), strict=True)
    return out, [_targets(*axis) for axis in every]


def conv_transpose2d(
    x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1
):
    if x.ndim == 3:
        args = bias, stride, padding, output_padding, groups, dilation
        return conv_transpose2d(x[None], weight, *args)[0]
    out, (rows, columns) = _transposed_tables(x, weight, stride, padding, output_padding, dilation)
    y = np.zeros((len(x), groups * weight.shape[1], *out), np.result_type(x, weight))
    x, w, per_group = _grouped(x, groups, 1), _grouped(weight, groups, 0), _grouped(y, groups, 1)
    for a, b in np.ndindex(weight.shape[2:]):
        # y[n, o, element that tap (a, b) of (i, j) adds to] += x[n, c, i, j] * weight[c, o, a, b]
        part = _product(w[..., a, b].swapaxes(-1, -2), x)
        _add(per_group, rows[:, a], columns[:, b], part)
    return y if bias is None else y + bias[:, None, None]


def conv_transpose2d_backward(
    dy, x, weight, stride=1, padding=0, output_padding=0, groups=1, dilation=1
):
    if x.ndim == 3:
        args = stride, padding, output_padding, groups, dilation
        dx, dweight, dbias = conv_transpose2d_backward(dy[None], x[None], weight, *args)
        return dx[0], dweight, dbias
    _, (rows, columns) = _transposed_tables(x, weight, stride, padding, output_padding, dilation)
    dx = np.zeros(x.shape, np.result_type(dy, weight))
    dweight = np.zeros(weight.shape, np.result_type(dy, x))
    xg, dyg, dxg = (_grouped(v, groups, 1) for v in (x, dy, dx))
    w, dwg = _grouped(weight, groups, 0), _grouped(dweight, groups, 0)
    for a, b in np.ndindex(weight.shape[2:]):
        there = _pick(dyg, rows[:, a], columns[:, b])
        # dx[n, c, i, j] += dy[n, o, that element] * conj(weight[c, o, a, b])
        dxg += _product(w[..., a, b].conj(), there)
        # dweight[c, o, a, b] = sum of conj(x[n, c, i, j]) * dy[n, o, that element]
        dwg[..., a, b] = _outer(xg.conj(), there)
    return _real(dx, x), _real(dweight, weight), dy.sum(axis=(0, 2, 3))


def lift(a):
    """Integer values of any type as int64, or as complex128 with integer parts."""
    a = np.asarray(a)
    lifted = a.astype(np.complex128 if a.dtype.kind == "c" else np.int64)
    assert (lifted == a).all()
    return lifted
