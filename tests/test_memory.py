"""Memory: nothing outside the arrays is touched, memory that runs out is an error and no more, and
the processor's floating-point state stays as it was.

What may end a process runs in one of its own: there the functions of this file are called.
"""

import contextlib
import ctypes
import itertools
import os
import shutil
import subprocess
import sys
import threading

import cases
import conv_cases
import memory
import numpy as np
import oracle
import pytest
from memory import SANITIZED, guarded
from nightly import blocks

import fastcorr
from fastcorr import _dispatch
from fastcorr._kernels import _cpu

RUNNABLE = [isa for isa in _cpu.ISAS if _dispatch._NEEDS.get(isa, 0) <= _cpu.LEVEL]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pages as on Linux")


def alone(script, **environment):
    """Run in a new process in which this file is the module t."""
    here = [os.path.dirname(__file__), os.path.dirname(os.path.dirname(fastcorr.__file__))]
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import test_memory as t; {script}"],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*here, *sys.path]),
            "PYTHONFAULTHANDLER": "1",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=600,
    )


def fine(script, **environment):
    done = alone(f"{script}; print('fine')", **environment)
    assert done.stdout.endswith("fine\n"), (done.returncode, done.stdout, done.stderr[-3000:])
    return done.stdout


# ---------------------------------------------------------------- guard pages


def _stepped(a):
    """a as every second or third element of an array that ends with its last."""
    big = np.full([max(3 * n - 2, 0) for n in a.shape], 77).astype(a.dtype)
    big[(slice(None, None, 3),) * a.ndim] = a
    return big


# How an array lies between the pages, and what is made of it again.
VIEWS = {
    "C": (np.asarray, np.asarray),
    "F": (np.transpose, np.transpose),
    "reversed": (np.flip, np.flip),
    "stepped": (_stepped, lambda a: a[(slice(None, None, 3),) * a.ndim]),
    "byteswapped": (lambda a: a.astype(a.dtype.newbyteorder()), np.asarray),
}


class Places:
    """Puts arrays close to pages that nobody may touch."""

    def __init__(self, rng):
        self.rng, self.whole = rng, []

    def __call__(self, a):
        there, back = VIEWS[str(self.rng.choice(list(VIEWS)))]
        whole = guarded(np.ascontiguousarray(there(a)), bool(self.rng.integers(2)))
        view = back(whole)
        assert view.shape == a.shape
        self.whole.append((whole, view))
        return view

    def check(self):
        """What lies between the elements of the arrays is what it was."""
        for whole, view in self.whole:
            if whole.size > view.size:
                view[...] = 77
                assert (whole == whole.dtype.type(77)).all()


def guard_planes(seed, count=250):
    """Random calls of the functions of one channel: every method, dtype and rule."""
    rng = np.random.default_rng([seed, 11])
    for n in range(count):
        x_type = cases.DTYPES[n % len(cases.DTYPES)]
        k_type = str(rng.choice([*cases.DTYPES[:-1], *"fdFD"])) if n % 3 == 0 else x_type
        if np.result_type(x_type, k_type).char in "?e":
            k_type = "f"
        dtype = np.result_type(x_type, k_type).char
        name = str(rng.choice(["correlate2d", "convolve2d"]))
        most = ((40, 9), (9, 70), (4, 4))[rng.integers(3)]
        x_shape, k_shape = (tuple(int(v) for v in rng.integers(1, m + 1, 2)) for m in most)
        if n % 40 == 0 and dtype not in "gG":  # several blocks of taps
            x_shape, k_shape = (70, 300), (35, 66)
        mode = str(rng.choice(oracle.MODES))
        if mode == "valid":  # the larger is the image, along both axes
            x_shape, k_shape = (tuple(map(f, x_shape, k_shape)) for f in (max, min))
        x, k = cases.operands(rng, x_shape, k_shape, x_type, k_type)
        method = str(rng.choice(["direct", "separable", "fft"]))
        if dtype in "gG" or (method == "fft" and dtype not in "bBhHfdFD"):
            method = "direct"
        if method == "separable" and dtype in "FD" and min(k_shape) < 4:  # too few taps for it
            method = "direct"
        if method == "separable":
            k[...] = 1
        rule = tuple(str(v) for v in rng.choice(oracle.RULES, 2))
        options = {"method": method, "workers": int(rng.choice([1, 1, 1, 2]))}
        note = name, x_type, k_type, x_shape, k_shape, mode, rule, options
        place = Places(rng)
        function = getattr(fastcorr, name)
        y = function(x, k, mode, rule, 3, **options)
        x_there, k_there, out = place(x), place(k), place(np.zeros_like(y))
        function(x_there, k_there, mode, rule, 3, out=out, **options)
        assert cases.bits(out) == cases.bits(y), note
        make = getattr(fastcorr, f"plan_{name}")
        same = {"shape": x_shape, "mode": mode, "boundary": rule, "fillvalue": 3, "dtype": dtype}
        plan = make(k_there, **same, **options)
        again = plan(x_there)
        assert cases.bits(again) == cases.bits(y), note
        if {x_type, k_type} <= set(cases.FLOATS):
            vjp = getattr(fastcorr, f"{name}_vjp")
            dy = cases.integers(rng, y.shape, dtype)
            right = vjp(dy, x, k, mode, rule, 3, **options)
            got = vjp(place(dy), x_there, k_there, mode, rule, 3, **options)
            assert list(map(cases.bits, got)) == list(map(cases.bits, right)), note
        place.check()


def guard_channels(seed, count=50):
    """Random calls of the functions of many channels."""
    rng = np.random.default_rng([seed, 12])
    for n in range(seed * count, (seed + 1) * count):
        case = (conv_cases.conv_transpose2d_case if n % 3 == 0 else conv_cases.conv2d_case)(n)
        case.layouts = ("C",) * 3
        arrays = case.arrays()
        place = Places(rng)
        there = [None if a is None else place(a) for a in arrays]
        right = conv_cases.results(case, arrays)
        got = conv_cases.results(case, there)
        assert list(map(cases.bits, got)) == list(map(cases.bits, right)), case
        if not case.transposed:
            methods = ["direct"]
            plain = case.w_shape[1] > 1 and all(
                np.all(np.asarray(v) == 1) for v in (case.stride, case.dilation)
            )
            if plain and case.w_shape[2:] == (3, 3) and case.types[0] == case.types[1] in "fdFD":
                methods += ["winograd", "winograd4"]
            for method in methods:
                more = {**case.mode_argument, "workers": case.workers, "method": method}
                y = fastcorr.conv2d(*arrays[1:], *case.args, **more)
                out = place(np.zeros_like(y))
                fastcorr.conv2d(*there[1:], *case.args, out=out, **more)
                assert cases.bits(out) == cases.bits(y), (method, case)
        place.check()


@linux
@pytest.mark.parametrize("seed", blocks(1, 40))
@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize("guard", ["guard_planes", "guard_channels"])
def test_nothing_outside_the_arrays_is_touched(guard, isa, seed):
    """Operands, gradients and results, each close to a page that nobody may touch."""
    fine(f"t.{guard}({seed})", FASTCORR_ISA=isa)


# Each is to die: the guards are there, and the compiled loops run into them.
BEYOND = {
    "a byte behind": "a = t.guarded(t.np.ones(9), True); ctypes.string_at(a.ctypes.data + 72, 1)",
    "a byte before": "a = t.guarded(t.np.ones(9), False); ctypes.string_at(a.ctypes.data - 1, 1)",
    "an image one too wide": "t.too_wide(True, False)",
    "an image that begins too early": "t.too_wide(False, False)",
    "a result one too wide": "t.too_wide(True, True)",
    "a result that begins too early": "t.too_wide(False, True)",
}


def too_wide(at_end, result):
    """A call on a lie: an array with one element more than it has, behind it or before."""
    a = guarded(np.ones((1, 40), "f"), at_end)
    lie = np.ndarray((1, 41), "f", (ctypes.c_char * 164).from_address(
        a.ctypes.data - (0 if at_end else 4)))  # fmt: skip
    x, out = (np.ones((1, 41), "f"), lie) if result else (lie, None)
    fastcorr.correlate2d(x, np.ones((1, 1), "f"), out=out)


@linux
@pytest.mark.parametrize("fault", BEYOND)
def test_the_guards_are_awake(fault):
    done = alone(f"import ctypes; print('begun', flush=True); {BEYOND[fault]}; print('survived')")
    assert done.stdout == "begun\n"
    assert "SEGV" in done.stderr if SANITIZED else done.returncode == -11, done.stderr


# ---------------------------------------------------------------- memory that runs out


def _forget():
    """Empty fastcorr's caches, but for the loaded modules."""
    for module in [m for name, m in sys.modules.items() if name.startswith("fastcorr")]:
        for value in list(vars(module).values()):
            if hasattr(value, "cache_clear") and module is not _dispatch:
                value.cache_clear()


def _bits(values):
    return [cases.bits(v) for v in values]


@contextlib.contextmanager
def _limited(more):
    """So many bytes of address space beside what the process has now."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (memory.address_space() + more, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def _fill_holes():
    """Take, for good, what malloc has free in its heap, where a result of 256 kB may find a place
    that imports left."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    with _limited(0):
        while libc.malloc(1 << 13):
            pass


def _try(call, workers, right, limit):
    """Whether a call with so many bytes beside what the process has now is right; if not, it has
    raised MemoryError."""
    _forget()
    try:
        with _limited(limit):
            values = call(workers)
    except MemoryError:
        return False
    assert _bits(values) == right
    return True


def starve(steps, workers, dtype="f"):
    """Every call with too little memory: from none beyond what it has to all it needs."""
    errors = successes = 0
    for name, call in memory.calls(256, dtype).items():
        right = _bits(call(workers))  # modules are loaded, threads are started
        _fill_holes()
        enough = 1 << 16
        while not _try(call, workers, right, enough):
            enough *= 2
            assert enough < 1 << 32, name
        for n in range(steps + 1):
            done = _try(call, workers, right, enough * n // steps)
            errors, successes = errors + (not done), successes + done
        assert _bits(call(workers)) == right, name
    print(errors, successes)


# glibc's malloc would keep what was freed, and need nothing new.
PLAIN = {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}


@linux
@pytest.mark.skipif(SANITIZED, reason="the sanitizer needs addresses itself")
@pytest.mark.skipif(
    cases.NO_GIL,
    reason="NumPy alone (np.logical_and) crashes without memory on free-threaded Python 3.13",
)
@pytest.mark.parametrize("steps", [24, pytest.param(200, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("workers", [1, 2])
def test_too_little_memory_is_an_error_and_no_more(workers, steps):
    said = fine(f"t.starve({steps}, {workers})", **PLAIN)
    errors, successes = map(int, said.split()[:2])
    assert errors > 10 * 30
    assert successes > 30


@linux
@pytest.mark.skipif(SANITIZED, reason="the sanitizer needs addresses itself")
def test_kernels_that_find_no_room_are_an_error_and_no_more():
    """They are loaded by the first call that needs them."""
    script = """
with t._limited(int({} * 2**20)):
    try:
        y = t.fastcorr.correlate2d(x, k, method={!r})
    except MemoryError as error:
        y = print("MemoryError", error)
assert y is None or abs(y - right).max() < 1e-9
assert abs(t.fastcorr.correlate2d(x, k) - right).max() < 1e-9; print("fine")"""
    operands = "import numpy as np; x, k = np.ones((50, 50)), np.ones((15, 15)); "
    operands += "right = np.convolve(np.ones(50), np.ones(15)); right = np.outer(right, right)"
    said = [
        alone(operands + script.format(room, method))
        for room in (0, 0.2, 0.5, 1, 2, 4, 16)
        for method in ("direct", "fft")
    ]
    for done in said:
        assert done.stdout.endswith("fine\n"), (done.returncode, done.stdout, done.stderr)
    assert sum("no memory to load the kernels" in done.stdout for done in said) > 1


# Loaded before libc: one request of 1 kB or more fails, the n-th after armed(n); armed(0) tells
# how many there were.  Left out is what OpenMP asks for, which would end the process, and NumPy,
# of which 2.4 crashes in `a[::2] > b` without its buffers: what the test before this one is for.
FAILING = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
static atomic_long wanted, seen;

long armed(long n) {
    long before = seen;
    void *frames[4];
    backtrace(frames, 4);       /* which asks for memory itself, the first time */
    wanted = n;
    seen = 0;
    return before;
}
static int is_of(void *address, const char *name) {
    Dl_info from;
    return dladdr(address, &from) && strstr(from.dli_fname, name);
}
static int fails(size_t size) {
    void *caller[4];            /* this, malloc, who called it, and who called that */
    if (size < 1024 || !wanted || backtrace(caller, 4) < 4 || is_of(caller[2], "libgomp")
        || is_of(caller[2], "/numpy/") || is_of(caller[3], "/numpy/")
        || atomic_fetch_add(&seen, 1) + 1 != wanted)
        return 0;
    errno = ENOMEM;
    return 1;
}
void *malloc(size_t n) { return fails(n) ? NULL : __libc_malloc(n); }
void *calloc(size_t n, size_t m) { return fails(n * m) ? NULL : __libc_calloc(n, m); }
void *realloc(void *p, size_t n) { return fails(n) ? NULL : __libc_realloc(p, n); }
void *aligned_alloc(size_t a, size_t n) { return fails(n) ? NULL : __libc_memalign(a, n); }
void *memalign(size_t a, size_t n) { return fails(n) ? NULL : __libc_memalign(a, n); }
int posix_memalign(void **p, size_t a, size_t n) {
    if (fails(n) || !(*p = __libc_memalign(a, n))) return ENOMEM;
    return 0;
}
"""


def fail(side, dtype, workers):
    """Every call, with each of its requests for memory refused once."""
    armed = ctypes.CDLL(None).armed
    refused = survived = 0
    for name, call in memory.calls(side, dtype).items():
        right = _bits(call(workers))
        for n in range(1, 51):
            _forget()
            values = None
            armed(n)
            try:
                values = call(workers)
            except MemoryError:
                pass
            finally:
                seen = armed(0)
            assert values is None or _bits(values) == right, (name, n)
            if seen < n:
                assert values is not None, name
                break
            refused, survived = refused + 1, survived + (values is not None)
        assert _bits(call(workers)) == right, name
    print(refused, survived)


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    """The library that refuses memory."""
    if SANITIZED or not sys.platform.startswith("linux") or not shutil.which("cc"):
        pytest.skip("no compiler, another libc, or a sanitizer's malloc")
    path = tmp_path_factory.mktemp("failing")
    (path / "failing.c").write_text(FAILING)
    build = [
        "cc",
        "-shared",
        "-fPIC",
        "-O1",
        "-fno-inline",
        "-o",
        "failing.so",
        "failing.c",
        "-ldl",
    ]
    subprocess.run(build, cwd=path, check=True)
    return str(path / "failing.so")


@pytest.mark.parametrize(("side", "dtype"), [
    (64, "f"), *(pytest.param(*v, marks=pytest.mark.nightly) for v in itertools.product(
        (24, 64, 256), "BiFdDg")),
])  # fmt: skip
@pytest.mark.parametrize("workers", [1, 2])
def test_each_refusal_of_memory_is_an_error_and_no_more(failing, side, dtype, workers):
    said = fine(f"t.fail({side}, {dtype!r}, {workers})", LD_PRELOAD=failing)
    least = 50 if dtype in "fFdD" else 2 if dtype == "g" else 5  # small calls take the stack's
    assert int(said.split()[0]) > least


def test_a_refusal_that_nobody_looks_at_is_seen(failing):
    script = "import ctypes; c = ctypes.CDLL(None); c.malloc.restype = ctypes.c_void_p; c.armed(1)"
    done = alone(f"{script}; ctypes.memset(c.malloc(5000), 1, 5000)", LD_PRELOAD=failing)
    assert done.returncode == -11, done.stderr


# ---------------------------------------------------------------- floating-point state


def _state():
    """What the processor does with numbers: True if it is as C promises it."""
    libm = ctypes.CDLL("libm.so.6")
    for dtype in "fd":
        tiny = np.array([np.finfo(dtype).smallest_subnormal], dtype)
        normal = np.array([np.finfo(dtype).smallest_normal], dtype)
        if not ((tiny * tiny.dtype.type(1) != 0).all() and (normal / 2 != 0).all()):
            return False
    return libm.fegetround() == 0 and libm.fegetexcept() == 0


def fpu():
    """After every call, in this thread, in one that ran before and in new ones."""
    before, go, gone = [], threading.Event(), threading.Event()

    def old():
        before.append(_state())
        go.wait()
        before.append(_state())
        gone.set()

    thread = threading.Thread(target=old)
    thread.start()
    seen = []

    def new(call, workers):
        seen.append(_state())
        call(workers)
        seen.append(_state())

    for dtype, workers in itertools.product("Bifdg", (1, 2)):
        for call in memory.calls(24, dtype).values():
            new(call, workers)
            fresh = threading.Thread(target=new, args=(call, workers))
            fresh.start()
            fresh.join()
    go.set()
    thread.join()
    assert before == [True, True]
    assert len(seen) > 500
    assert all(seen)


def flush():
    """Ask x86 to flush subnormals: the test above is to see it."""
    memory_page = memory.mmap.mmap(-1, 4096, prot=7)
    memory_page.write(bytes.fromhex("0fae17c3"))  # ldmxcsr (%rdi); ret
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory_page))
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)(
        ctypes.addressof(ctypes.c_uint32(0x1F80 | 0x8040))
    )


@linux
def test_fpu_state_survives_import_and_calls():
    fine("t.fpu()")


@linux
@pytest.mark.skipif(_cpu.LEVEL == 0, reason="x86's instruction")
def test_a_flushing_processor_is_seen():
    done = alone("assert t._state(); t.flush(); assert not t._state(); print('seen')")
    assert done.stdout == "seen\n", done.stderr


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("dtype", "fd")
def test_fpu_subnormals_in_every_method(dtype, workers):
    """Sums of subnormals are exact, in every thread that computes."""
    tiny = np.finfo(dtype).smallest_subnormal
    ones = np.ones((3, 3), dtype)
    x = np.full((300, 300), 1024 * tiny)  # of which the separable method may take parts
    for method in ("direct", "separable"):
        y = fastcorr.correlate2d(x, ones, "valid", method=method, workers=workers)
        assert (y == 9 * x[0, 0]).all()
        dx, _ = fastcorr.correlate2d_vjp(y, x, ones, "valid", method=method, workers=workers)
        assert dx[5, 5] == 81 * x[0, 0]
    layer = np.stack([x, x])[None], np.stack([ones, ones])[None]
    for method in ("direct", "winograd"):
        y = fastcorr.conv2d(*layer, method=method, workers=workers)
        assert (y == 18 * x[0, 0]).all()
