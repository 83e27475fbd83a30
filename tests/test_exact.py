"""Exact on integers: tens of thousands of random problems, no tolerance, by two ways.

Integers are so large that every sum is just exact in the type and by the method.  What is wrong in
one element, by one unit in the last place or in one problem of many, fails.
"""

import conv_cases
import corr_cases
import numpy as np
import pytest
from nightly import blocks

import fastcorr

# Of each face: problems in a block, and blocks every time and nightly.
SIZES = {corr_cases: 300, conv_cases: 200}
EVERY_TIME, NIGHTLY = 4, 104
faces = pytest.mark.parametrize("face", SIZES, ids=lambda face: face.__name__)


def seeds(face, block):
    return range(SIZES[face] * block, SIZES[face] * (block + 1))


def check(face, numbers):
    """Against the definition.  Zeros everywhere would agree with many a mistake: those fail too."""
    shares = []
    for seed in numbers:
        case = face.case(seed)
        arrays = case.arrays()
        right = face.expected(case, arrays)
        face.assert_exact(face.results(case, arrays), right, case)
        shares += [np.count_nonzero(a) / a.size for a in right]
    assert np.mean(shares) > 0.3, "mistrusted: mostly zeros"


@faces
@pytest.mark.parametrize("block", blocks(EVERY_TIME, NIGHTLY))
def test_against_the_definition(face, block):
    check(face, seeds(face, block))


@pytest.mark.parametrize("count", [EVERY_TIME, pytest.param(NIGHTLY, marks=pytest.mark.nightly)])
def test_problems_are_distinct(count):
    """No two agree in their shapes, types and arguments."""
    found = {
        face.case(seed).description
        for face in SIZES
        for block in range(count)
        for seed in seeds(face, block)
    }
    assert len(found) >= {EVERY_TIME: 1_990, NIGHTLY: 50_000}[count]


# ---------------------------------------------------------------- faults that must be found


def planted(monkeypatch, name, fault):
    """fastcorr's function, with a fault."""
    function = getattr(fastcorr, name)
    monkeypatch.setattr(fastcorr, name, lambda *args, **more: fault(function, *args, **more))


def one_off(function, *args, **more):
    """The last element of a result, or of the last gradient, one unit in the last place off."""
    result = function(*args, **more)
    y = result[-1] if isinstance(result, tuple) else result
    last = y.real[(-1,) * y.ndim]
    y.real[(-1,) * y.ndim] = last + 1 if y.dtype.kind in "iu" else np.nextafter(last, np.inf)
    return result


def other_rule(function, *args, **more):
    """Mirrored at the edge instead of at the outermost pixel."""
    rule = {"mirror": "symm"}
    args = [tuple(rule.get(v, v) for v in a) if isinstance(a, tuple) else a for a in args]
    return function(*[rule.get(a, a) if isinstance(a, str) else a for a in args], **more)


@pytest.mark.parametrize(("face", "name", "fault"), [
    (corr_cases, "correlate2d", one_off), (corr_cases, "convolve2d_vjp", one_off),
    (corr_cases, "corr2d_backward", one_off), (corr_cases, "convolve2d", other_rule),
    (corr_cases, "correlate2d_vjp", other_rule), (conv_cases, "conv2d", one_off),
    (conv_cases, "conv2d_backward", one_off), (conv_cases, "conv_transpose2d", one_off),
    (conv_cases, "conv_transpose2d_backward", one_off),
])  # fmt: skip
def test_a_planted_fault_is_found(face, name, fault, monkeypatch):
    planted(monkeypatch, name, fault)
    with pytest.raises(AssertionError, match=r"(?s)not equal.*Case\("):
        check(face, seeds(face, 0))


@faces
def test_zeros_are_mistrusted(face, monkeypatch):
    monkeypatch.setattr("cases.integers", lambda _, shape, dtype, *a, **b: np.zeros(shape, dtype))
    with pytest.raises(AssertionError, match="mistrusted"):
        check(face, range(20))


# ---------------------------------------------------------------- the adjoint identity


def product(case, u, v):
    """The real inner product, in integers modulo as many bits as results have."""
    kinds = [t for t in getattr(case, "results", ()) if t.kind in "iu"]
    bits = 8 * min([8, *(t.itemsize for t in kinds)])
    return (
        sum(
            int((a.astype(np.int64) * b.astype(np.int64)).sum())
            for a, b in ((u.real, v.real), (u.imag, v.imag))
        )
        % 2**bits
    )


def check_one_channel(case):
    (dy, x, k), (_, u, v) = case.arrays(), case.arrays(2)
    dx, dk = (corr_cases.rounded(case, a) for a in corr_cases.backward(case, dy, x, k))
    # Beyond the edge it is not the image that is multiplied.
    for y, operand, direction in (
        (corr_cases.forward(case, u, k, fill=0), dx, u), (corr_cases.forward(case, x, v), dk, v),
    ):  # fmt: skip
        yield product(case, dy, corr_cases.rounded(case, y)), product(case, operand, direction)


def check_many_channels(case):
    (dy, x, weight, bias), (_, u, v, b) = case.arrays(), case.arrays(2)
    dx, dweight, dbias = conv_cases.backward(case, dy, x, weight)
    yield product(case, dy, conv_cases.forward(case, u, weight, None)), product(case, dx, u)
    yield product(case, dy, conv_cases.forward(case, x, v, None)), product(case, dweight, v)
    if bias is not None:
        yield (
            product(case, dy, np.broadcast_to(b[:, None, None], dy.shape)),
            product(case, dbias, b),
        )


CHECKS = {corr_cases: check_one_channel, conv_cases: check_many_channels}


@faces
@pytest.mark.parametrize("block", blocks(1, 10))
def test_adjoint(face, block):
    """<dy, f(u, k)> = <dx, u> and <dy, f(x, v)> = <dk, v>, for u and v of their own: the gradients
    are those of the map, not just of this point."""
    zero = 0
    for seed in range(10**6 + 100 * block, 10**6 + 100 * (block + 1)):
        case = face.case(seed)
        if "e" in case.types:
            continue  # half floats round gradients
        for one, other in CHECKS[face](case):
            assert one == other, case
            zero += one == 0
    assert zero < 30
