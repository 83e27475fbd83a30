"""Long runs: a cut of each in every run, the whole of it with ``pytest -m nightly``."""

import pytest


def blocks(every_time, nightly):
    """Numbers to seed blocks of problems with: the first in every run, the others nightly."""
    rest = range(every_time, nightly)
    return [*range(every_time), *(pytest.param(n, marks=pytest.mark.nightly) for n in rest)]
