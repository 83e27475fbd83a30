"""The package itself: version, imports, layers, docstrings, side effects."""

import ast
import doctest
import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cases
import numpy as np
import pytest

import fastcorr
from fastcorr import _boundary, _dispatch

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "fastcorr"
KERNELS = SOURCE / "_kernels"
PUBLIC = sorted(fastcorr.__all__)


def run(script):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_version():
    said = re.search(r"^  version: '([^']+)'", (ROOT / "meson.build").read_text(), re.M)
    assert fastcorr.__version__ == said.group(1)


def test_public_names():
    assert PUBLIC == [
        "choose_method", "conv2d", "conv2d_backward",
        "conv2d_output_shape", "conv_transpose2d",
        "conv_transpose2d_backward", "convolve2d", "convolve2d_vjp", "corr2d", "corr2d_backward",
        "correlate2d", "correlate2d_vjp", "get_workers",
        "plan_convolve2d", "plan_correlate2d", "receptive_field",
        "receptive_field_mask", "set_workers", "show_config",
    ]  # fmt: skip
    assert (SOURCE / "py.typed").exists()


# ---------------------------------------------------------------- imports


def test_import_is_light():
    script = """
import sys
import numpy
before = set(sys.modules)
import fastcorr
fastcorr.correlate2d([[1.0]], [[1.0]])
fastcorr.correlate2d_vjp([[1.0]], [[1.0]], [[1.0]])
fastcorr.conv2d(numpy.ones((1, 2, 3, 3)), numpy.ones((1, 2, 2, 2)))
print(*{name.split(".")[0] for name in set(sys.modules) - before})
"""
    loaded = set(run(script).split())
    assert "fastcorr" in loaded
    heavy = {"scipy", "matplotlib", "imageio", "PIL", "dask", "torch", "jax", "tifffile",
             "autograd", "cv2", "hypothesis", "pytest", "argparse", "threadpoolctl"}  # fmt: skip
    assert not loaded & heavy


def test_import_needs_only_numpy():
    """Nothing outside the standard library, NumPy and fastcorr is imported."""
    script = """
import sys, numpy
before = set(sys.modules)
import fastcorr
fastcorr.correlate2d([[1.0]], [[1.0]])
print(*{n.split(".")[0] for n in set(sys.modules) - before} - set(sys.stdlib_module_names))
"""
    # Cython's modules share their types through modules of names like _cython_3_3_1.
    assert {n for n in run(script).split() if not n.startswith("_cython_")} <= {
        "fastcorr", "numpy", "cython_runtime",
    }  # fmt: skip


def test_first_calls_load_no_modules_but_kernels():
    """np.unique, for one, imports numpy.ma: 10 ms, and where memory is short CPython 3.11 itself
    crashes somewhere in such an import."""
    script = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
import fastcorr, memory
calls = memory.calls(64)
calls["lists"] = lambda workers: fastcorr.correlate2d([[1.0, 2.0]], [[3.0]])
before = set(sys.modules)
for call in calls.values():
    call(1)
print(len(calls), *set(sys.modules) - before)
"""
    number, *loaded = run(script).split()
    assert int(number) > 30
    assert all(re.match(r"fastcorr\._kernels\.|_cython_", name) for name in loaded), loaded


# Imports point inwards: to a lower layer, or within a layer.
LAYERS = {
    "_kernels": 0, "_costs": 0, "_arguments": 0, "_dispatch": 1, "_workers": 1, "_boundary": 1,
    "_fft": 2, "_separable": 2, "_channels": 2, "_winograd": 3, "_plan": 3, "_engine": 4,
}  # fmt: skip
FACE, USER = 5, 6
USERS = {"__init__", "__main__", "_demo", "_images", "_learn", "nn", "optim", "plot", "interop"}
MODULES = sorted(
    path.relative_to(SOURCE).with_suffix("").as_posix().replace("/", ".")
    for path in SOURCE.rglob("*.py")
    if "_kernels" not in path.parts
)


def layer(module):
    top = module.split(".")[0]
    return USER if top in USERS or top == "" else LAYERS.get(top, FACE)


def imports(tree):
    """Modules of fastcorr that the nodes import; "" is the package itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they point"
            names = [node.module]
            if node.module == "fastcorr":
                names = [f"fastcorr.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "fastcorr":
                yield name.partition(".")[2]


def module_level(tree):
    """The tree without the bodies of its functions, which run later."""

    class Outside(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            return None

        visit_AsyncFunctionDef = visit_FunctionDef

    return Outside().visit(tree)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_inwards(module):
    tree = ast.parse((SOURCE / f"{module.replace('.', '/')}.py").read_text())
    own = layer(module)
    if own >= FACE and module != "__init__":
        assert not any(name.startswith("_kernels") for name in imports(tree))
    if module == "__init__":
        return
    for name in set(imports(module_level(tree))):
        assert name != "" or own == USER, "the package is complete only after its parts"
        assert layer(name) <= own, f"{module} imports {name}"


def test_the_layers_are_all_seen():
    assert {"correlate", "_boundary", "_plan", "_dispatch", "_workers", "__init__"} <= set(MODULES)
    tree = ast.parse((SOURCE / "correlate.py").read_text())
    assert {"_boundary", "_dispatch", "_engine", "_plan"} <= set(imports(tree))


# ---------------------------------------------------------------- kernels


@pytest.mark.parametrize("path", sorted(KERNELS.glob("*.p[yx]*")), ids=lambda p: p.name)
def test_no_directive_in_the_sources(path):
    """A directive in a header would win over the debug build's checks."""
    text = path.read_text()
    assert not re.search(r"^\s*#\s*cython\s*:", text, re.M)
    assert not re.search(r"@cython\.(boundscheck|wraparound|cdivision|initializedcheck)", text)


@pytest.mark.parametrize("dtype", "fdgFDGbBhHiIlL")
def test_boundaries_have_the_kernels_numbers(dtype):
    module, _ = _dispatch.kernels(np.dtype(dtype))
    assert module.BOUNDARIES == _boundary.CODES
    assert set(_boundary.CODES) == set(_boundary.BOUNDARIES.values())


def libraries():
    return sorted(
        path
        for folder in importlib.import_module("fastcorr._kernels").__path__
        for path in Path(folder).glob("*.so")
    )


@pytest.mark.skipif(not shutil.which("objdump"), reason="no objdump")
def test_no_instruction_touches_the_fpu_state():
    """-ffast-math would link code that flushes subnormals in the whole process."""
    assert len(libraries()) > 3
    for path in libraries():
        assembly = subprocess.run(["objdump", "-d", path], capture_output=True, text=True).stdout
        assert "ret" in assembly
        assert "ldmxcsr" not in assembly, path.name


def test_subnormals_survive():
    script = """
import threading
import numpy as np
import fastcorr
tiny = np.array([5e-324])
def check():
    assert (tiny * 1.0 != 0).all() and np.finfo(float).smallest_subnormal > 0
    fastcorr.correlate2d(np.ones((300, 300)), np.ones((9, 9)), workers=2)
    assert (tiny * 1.0 != 0).all()
    assert fastcorr.correlate2d(tiny[:, None], [[1.0]])[0, 0] == 5e-324
check()
thread = threading.Thread(target=check)
thread.start()
thread.join()
print("fine")
"""
    assert run(script) == "fine"


# ---------------------------------------------------------------- docstrings


@pytest.mark.parametrize("name", PUBLIC)
def test_docstrings(name):
    function = getattr(fastcorr, name)
    doc = inspect.getdoc(function)
    sections = re.findall(r"^([A-Z][A-Za-z ]+)\n-{3,}$", doc, re.M)
    assert len(doc.splitlines()[0]) <= 88
    assert doc.splitlines()[0].endswith(".")
    assert "Examples" in sections
    assert "import" in doc.split("Examples\n")[1]
    if name != "get_workers":
        assert "Parameters" in sections
        assert "Raises" in sections
    if not inspect.isclass(function):
        assert "Returns" in sections
    described = re.search(r"Parameters\n-+\n(.*?)\n\n[A-Z]\w+( \w+)?\n---", doc + "\n\n", re.S)
    if described:
        names = re.findall(r"^(\w[\w, ]*)(?: :|$)", described.group(1), re.M)
        told = [n.strip() for line in names for n in line.split(",")]
        assert told == list(inspect.signature(function).parameters)


@pytest.mark.parametrize(
    "module",
    ["_dispatch", "_workers", "conv", "correlate", "nn", "optim", "receptive"],
)
def test_examples(module):
    result = doctest.testmod(importlib.import_module(f"fastcorr.{module}"))
    assert result.failed == 0
    assert result.attempted > 0


def test_public_functions_are_annotated():
    for name in PUBLIC:
        function = getattr(fastcorr, name)
        signature = inspect.signature(function)
        for parameter in signature.parameters.values():
            assert parameter.annotation is not parameter.empty, (name, parameter)


# ---------------------------------------------------------------- side effects


@pytest.mark.parametrize("dtype", "BldDg")
@pytest.mark.parametrize("mode", ["full", "same", "valid"])
def test_inputs_are_never_modified(dtype, mode, rng):
    a, b = cases.integers(rng, (9, 23), dtype), cases.integers(rng, (3, 4), dtype)
    for x, k in ((a, b), (b, a)):
        before = x.tobytes(), k.tobytes()
        for function in ("correlate2d", "convolve2d"):
            y = getattr(fastcorr, function)(x, k, mode, "symm")
            dy = y.tobytes()
            getattr(fastcorr, function + "_vjp")(y, x, k, mode, "symm")
            assert y.tobytes() == dy
        assert (x.tobytes(), k.tobytes()) == before


def test_results_are_fresh():
    a = np.ones((4, 4))
    for mode, k in (("same", [[1.0]]), ("valid", [[1.0]]), ("full", [[1.0]])):
        y = fastcorr.correlate2d(a, k, mode)
        assert not np.may_share_memory(y, a)
        y[...] = 5
        assert (a == 1).all()
        np.testing.assert_array_equal(fastcorr.correlate2d(a, k, mode), a)
    dx, dk = fastcorr.correlate2d_vjp(a, a, [[1.0]], "same")
    assert not np.may_share_memory(dx, a)
    assert not np.may_share_memory(dk, a)


def test_no_reference_is_kept():
    a, k, out = np.ones((40, 40)), np.ones((3, 3)), np.empty((42, 42))
    before = [sys.getrefcount(v) for v in (a, k, out)]
    for _ in range(10):
        fastcorr.correlate2d(a, k, out=out)
        fastcorr.correlate2d_vjp(out, a, k)
        with pytest.raises(ValueError, match="mode"):
            fastcorr.correlate2d(a, k, "middle", out=out)
    assert [sys.getrefcount(v) for v in (a, k, out)] == before


def test_environment_is_not_written():
    assert "FASTCORR_ISA" not in os.environ or os.environ["FASTCORR_ISA"]
    script = """
import os
before = dict(os.environ)
import fastcorr
fastcorr.show_config("dicts")
print(before == dict(os.environ))
"""
    assert run(script) == "True"
