"""SciPy's own tests of the two functions, as SciPy ships them, run against ours."""

import os
import re
import subprocess
import sys

import pytest

import fastcorr

TESTS = os.path.dirname(__file__)
MODULE = "scipy.signal.tests.test_signaltools"


def test_scipys_own_tests(tmp_path):
    scipy = pytest.importorskip("scipy")
    array_api = pytest.importorskip("scipy._lib._array_api")
    if not hasattr(array_api, "xp_capabilities_table"):
        pytest.skip("the plugin is written for SciPy 1.16 and newer")
    root = os.path.dirname(os.path.dirname(fastcorr.__file__))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "scipy_plugin", "--pyargs", MODULE, "-q",
         "-p", "no:cacheprovider", "--rootdir", os.path.dirname(scipy.__file__), "-k",
         "(TestConvolve2d or TestCorrelate2d) and not test_large_array"],
        cwd=tmp_path,  # away from our own configuration
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([TESTS, root, os.environ.get("PYTHONPATH", "")]),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    passed = int(re.search(r"(\d+) passed", done.stdout).group(1))
    assert passed > 20
    assert "failed" not in done.stdout
    for name, least in (("correlate2d", 10), ("convolve2d", 20)):
        assert int(re.search(rf"fastcorr calls: {name} (\d+)", done.stdout).group(1)) >= least
