"""The same bits for any number of workers and any layout: random problems of both faces, by every
method.  What the instruction sets owe each other, test_isa.py asks."""

import dataclasses

import cases
import conv_cases
import corr_cases
import numpy as np
import pytest
from nightly import blocks

import fastcorr

WORKERS = (1, 2, 3, 5, 8, 16)
BLOCK = 25
faces = pytest.mark.parametrize("face", [corr_cases, conv_cases], ids=lambda f: f.__name__)


def every_bit(face, case, arrays, workers):
    case = dataclasses.replace(case, workers=workers)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return [cases.bits(a) for a in face.results(case, arrays)]


def check(face, seeds):
    """The result and all gradients."""
    zero = 0
    for seed in seeds:
        case = face.real_case(seed)
        arrays = face.real_arrays(case)
        right = every_bit(
            face, case, dataclasses.replace(case, layouts=("C",) * 3).laid(*arrays), 1
        )
        for workers in WORKERS:
            got = every_bit(face, case, case.laid(*arrays), workers)
            assert got == right, f"bits of {case}, {workers} workers"
        if face is corr_cases:  # and of a plan
            assert right[3:] in ([], right[:1]), case
        zero += not any(right[0])
    assert zero < BLOCK / 5


@faces
@pytest.mark.parametrize("block", blocks(1, 20))
def test_same_bits(face, block):
    check(face, range(2 * 10**6 + BLOCK * block, 2 * 10**6 + BLOCK * (block + 1)))


@pytest.mark.parametrize(("face", "name"), [
    (corr_cases, "convolve2d"), (corr_cases, "correlate2d_vjp"), (conv_cases, "conv2d_backward"),
])  # fmt: skip
def test_a_planted_fault_is_found(face, name, monkeypatch):
    """One element differs by its last bit, with five workers."""
    function = getattr(fastcorr, name)

    def fault(*args, **more):
        result = function(*args, **more)
        y = result[0] if isinstance(result, tuple) else result
        if more["workers"] == 5:
            y.real[(-1,) * y.ndim] = np.nextafter(y.real[(-1,) * y.ndim], 1)
        return result

    monkeypatch.setattr(fastcorr, name, fault)
    with pytest.raises(AssertionError, match=r"bits of .* 5 workers"):
        check(face, range(20))
