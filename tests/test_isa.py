"""Every instruction set of this build that this processor runs, and the choice among them."""

import json
import os
import platform
import subprocess
import sys

import numpy as np
import pytest

import fastcorr
from fastcorr import _dispatch
from fastcorr._kernels import _cpu

CONFIG = fastcorr.show_config("dicts")
RUNNABLE = [isa for isa in CONFIG["isas"] if _dispatch._NEEDS.get(isa, 0) <= _cpu.LEVEL]
TESTS = os.path.dirname(__file__)


def run(*args, isa):
    root = os.path.dirname(os.path.dirname(fastcorr.__file__))
    return subprocess.run(
        [sys.executable, *args],
        env={
            **os.environ,
            "FASTCORR_ISA": isa,
            "PYTHONPATH": os.pathsep.join([TESTS, root, os.environ.get("PYTHONPATH", "")]),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module", params=[60, pytest.param(500, marks=pytest.mark.nightly)])
def reports(request):
    """The battery of each instruction set."""
    result = {}
    for isa in RUNNABLE:
        done = run(os.path.join(TESTS, "battery.py"), str(request.param), isa=isa)
        assert done.returncode == 0, f"{isa}: {done.stderr}"
        result[isa] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("isa", RUNNABLE)
def test_exact(isa, reports):
    assert reports[isa]["isa"] == isa
    assert reports[isa]["exact"] > 150


@pytest.mark.parametrize("isa", [isa for isa in RUNNABLE if isa != CONFIG["isa"]])
def test_methods(isa):
    """The tests of the other methods, which the battery leaves out."""
    files = [
        os.path.join(TESTS, f"test_{method}.py") for method in ("fft", "separable", "winograd")
    ]
    done = run("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files, isa=isa)
    assert done.returncode == 0, done.stdout[-2000:]


def test_same_bits_with_fma(reports):
    """Instruction sets with fused multiply-add give each other's bits."""
    both = [reports[isa] for isa in ("x86_64_v3", "x86_64_v4") if isa in reports]
    if len(both) < 2:
        pytest.skip("not two of them here")
    assert both[0]["forward"] == both[1]["forward"]
    assert both[0]["backward"] == both[1]["backward"]


# Of transforms the tiles differ, and with them 'auto' of one channel.
AGREEING = [
    *(f"corr_cases {method}" for method in ("direct", "separable")),
    *(f"conv_cases {method}" for method in ("auto", "direct", "winograd", "winograd4")),
]


def test_same_bits_of_random_problems(reports):
    """As docs/accuracy.md says, problem by problem: with FMA; of long doubles always."""
    pairs = [("x86_64_v3", "x86_64_v4", AGREEING), ("baseline", "x86_64_v3", [])]
    for *isas, kinds in pairs:
        if not set(isas) <= set(reports):
            continue
        one, other = (reports[isa]["random"] for isa in isas)
        for kind in [*kinds, "corr_cases long double"]:
            assert one[kind] == other[kind], kind
        if kinds == []:  # without FMA products are rounded
            for kind in AGREEING:
                same = [one[kind][case] == other[kind][case] for case in one[kind]]
                assert np.mean(same) < 0.5, kind


def test_the_hash_tells_instruction_sets_apart(reports):
    """Without FMA products are rounded: were the baseline's bits the same, nothing was chosen."""
    if not {"baseline", "x86_64_v3"} <= set(reports):
        pytest.skip("not two of them here")
    assert reports["baseline"]["forward"] != reports["x86_64_v3"]["forward"]


def test_best_is_the_default():
    if "FASTCORR_ISA" in os.environ:
        pytest.skip("FASTCORR_ISA is set")
    assert CONFIG["isa"] == RUNNABLE[-1]
    done = run("-c", "import fastcorr; print(fastcorr.show_config('dicts')['isa'])", isa="")
    assert done.stdout.strip() == RUNNABLE[-1]


@pytest.mark.parametrize("name", ["nonsense", "x86_64_v5", "V4", "x86_64_v3 ", "baseline,"])
def test_unknown_name(name):
    done = run("-c", "import fastcorr", isa=name)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert repr(name) in last
    assert all(isa in last for isa in CONFIG["isas"])


@pytest.mark.parametrize("isa", [isa for isa in CONFIG["isas"][1:] if isa in _dispatch._NEEDS])
def test_older_processors(isa, monkeypatch):
    monkeypatch.setattr(_cpu, "LEVEL", _dispatch._NEEDS[isa] - 1)
    with pytest.raises(RuntimeError, match=f"{isa}.*does not have"):
        _dispatch._choose_isa(isa)
    older = CONFIG["isas"][CONFIG["isas"].index(isa) - 1]
    assert _dispatch._choose_isa(None) == _dispatch._choose_isa("") == older


def test_show_config():
    assert set(CONFIG) == {"fastcorr", "isa", "isas", "openmp", "fork_safe", "workers", "python",
                           "numpy", "machine"}  # fmt: skip
    assert CONFIG["fastcorr"] == fastcorr.__version__
    assert CONFIG["isa"] in CONFIG["isas"]
    assert isinstance(CONFIG["openmp"], int)
    assert CONFIG["fork_safe"] is True
    assert CONFIG["python"] == platform.python_version()
    assert CONFIG["numpy"] == np.__version__
    assert CONFIG["machine"] == platform.machine()
    with fastcorr.set_workers(3):
        assert fastcorr.show_config("dicts")["workers"] == 3


def test_show_config_prints(capsys):
    assert fastcorr.show_config() is None
    printed = capsys.readouterr().out
    for name, value in CONFIG.items():
        assert f"{name}: {', '.join(value) if isinstance(value, list) else value}\n" in printed
    with pytest.raises(ValueError, match="'yaml'"):
        fastcorr.show_config("yaml")
