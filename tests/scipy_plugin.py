"""A pytest plugin that puts fastcorr's functions in the place of SciPy's before its tests load.

Used by test_scipy_suite.py; prints how often each of them was called.
"""

import functools

import scipy.signal
from scipy._lib._array_api import xp_capabilities_table

import fastcorr

calls = {"correlate2d": 0, "convolve2d": 0}


def replace(name):
    ours, theirs = getattr(fastcorr, name), getattr(scipy.signal, name)

    @functools.wraps(ours)
    def function(*args, **kwargs):
        calls[name] += 1
        return ours(*args, **kwargs)

    xp_capabilities_table[function] = xp_capabilities_table[theirs]
    setattr(scipy.signal, name, function)


for name in calls:
    replace(name)


def pytest_terminal_summary(terminalreporter):
    for name, count in calls.items():
        terminalreporter.write_line(f"fastcorr calls: {name} {count}")
