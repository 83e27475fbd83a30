"""Threads: the same bits for any number, the settings, the GIL, many at once."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import cases
import numpy as np
import oracle
import pytest
from memory import scratch

import fastcorr
from fastcorr import _workers, nn

FUNCTIONS = ("correlate2d", "convolve2d")


def run(script, timeout=60, **environment):
    """What a script prints in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def default_setting():
    """No test leaves a setting behind."""
    assert _workers._setting is None
    yield
    fastcorr.set_workers(None)


@pytest.mark.parametrize(
    ("environment", "more"),
    [
        ({}, 1),
        ({"GOMP_SPINCOUNT": "0"}, 8),
        ({"OMP_WAIT_POLICY": "Passive"}, 8),
        ({"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "300000"}, 1),
    ],
)
def test_threads_that_sleep_need_more_work(environment, more):
    """What is worth a second thread at most so many times sooner."""
    script = """
import fastcorr
from fastcorr import conv
from fastcorr._plan import useful_workers
print(next(n for n in range(1 << 20) if useful_workers(64 * n, 9) > 1))
print(next(n for n in range(1 << 20) if useful_workers(10**9, 9, n * 1e-6) > 1))
print(conv._MACS_PER_WORKER)"""
    plain = {"GOMP_SPINCOUNT": "", "OMP_WAIT_POLICY": ""}
    least, usual = (
        np.array(run(script, **(plain | changed)).split(), int) for changed in (environment, {})
    )
    np.testing.assert_allclose(least, usual * more, rtol=0.03)


# ---------------------------------------------------------------- the same bits

SIZES = [
    ((300, 700), (3, 3)), ((300, 700), (7, 15)), ((300, 700), (31, 70)), ((130, 97), (70, 3)),
    ((700, 90), (5, 5)), ((90, 400), (66, 260)), ((1, 5000), (1, 9)), ((5000, 2), (9, 1)),
    ((17, 19), (4, 4)), ((40, 60), (60, 90)), ((512, 512), (1, 1)), ((257, 263), (16, 16)),
]  # fmt: skip


def problem(rng, shapes, dtype, mode):
    """Numbers over sixty decades: any other order of a sum shows."""
    decades = 30 if dtype in "dgDG" else 15
    return [cases.reals(rng, s, dtype, decades) for s in (*shapes, oracle.shape(mode, *shapes))]


@pytest.mark.parametrize("shapes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", "fdFD")
def test_same_bits_for_any_number_of_workers(shapes, dtype, rng):
    mode = str(rng.choice([m for m in oracle.MODES if m != "valid" or shapes[0] > shapes[1]]))
    function = str(rng.choice(FUNCTIONS))
    if shapes[1] == (66, 260):
        mode = "same"
    forward, vjp = getattr(fastcorr, function), getattr(fastcorr, function + "_vjp")
    a, b, dy = problem(rng, shapes, dtype, mode)
    for rules in ("fill", ("mirror", "wrap")):
        results = []
        for workers in (1, 2, 3, 8):
            with np.errstate(over="ignore"):
                y = forward(a, b, mode, rules, workers=workers)
                d1, d2 = vjp(dy, a, b, mode, rules, workers=workers)
            results.append([cases.bits(y), cases.bits(d1), cases.bits(d2)])
        assert results[1] == results[0]
        assert results[2] == results[0]
        assert results[3] == results[0]


@pytest.mark.parametrize("dtype", "fdFgB")
def test_same_bits_for_batches(dtype, rng):
    a, b = (
        cases.integers(rng, s, dtype, True) if dtype == "B" else cases.reals(rng, s, dtype, 9)
        for s in ((5, 1, 40, 90), (3, 4, 5))
    )
    kwargs = {"axes": (-2, -1)}
    y = fastcorr.correlate2d(a, b, "same", "symm", workers=1, **kwargs)
    dy = y[..., ::-1].copy()
    gradients = fastcorr.correlate2d_vjp(dy, a, b, "same", "symm", workers=1, **kwargs)
    for n in range(3):  # a stack is its images, one by one
        alone = fastcorr.correlate2d(a[1, 0], b[n], "same", "symm")
        assert cases.bits(alone) == cases.bits(y[1, n])
    for workers in (2, 3, 8):
        again = fastcorr.correlate2d(a, b, "same", "symm", workers=workers, **kwargs)
        assert cases.bits(again) == cases.bits(y)
        again = fastcorr.correlate2d_vjp(dy, a, b, "same", "symm", workers=workers, **kwargs)
        assert [cases.bits(v) for v in again] == [cases.bits(v) for v in gradients]


@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize("dtype", "fdFg")
@pytest.mark.parametrize(
    "shapes", [((60, 150), (5, 7)), ((5, 9), (3, 2)), ((9, 70), (66, 260))], ids=str
)
def test_same_bits_for_any_layout(layout, dtype, shapes, rng):
    if dtype == "g":
        shapes = shapes[0], tuple(min(n, 70) for n in shapes[1])
    a, b, dy = problem(rng, shapes, dtype, "same")
    odd = [cases.LAYOUTS[layout](v) for v in (a, b, dy)]
    for workers in (1, 2):
        y = fastcorr.correlate2d(a, b, "same", "symm", workers=1)
        again = fastcorr.correlate2d(*odd[:2], "same", "symm", workers=workers)
        assert cases.bits(again) == cases.bits(y)
        if layout != "read-only":
            out = cases.LAYOUTS[layout](np.zeros_like(y))
            fastcorr.correlate2d(a, b, "same", "symm", workers=workers, out=out)
            assert cases.bits(out) == cases.bits(y)
        gradients = fastcorr.correlate2d_vjp(dy, a, b, "same", "symm", workers=1)
        again = fastcorr.correlate2d_vjp(odd[2], *odd[:2], "same", "symm", workers=workers)
        for gradient, other in zip(gradients, again, strict=True):
            assert cases.bits(gradient) == cases.bits(other)


def test_integers_of_any_number_of_workers(rng):
    a, b = cases.operands(rng, (200, 300), (5, 6), "B", "B")
    for dtype in "Bi":
        results = {
            fastcorr.correlate2d(a, b, "same", "wrap", dtype=dtype, workers=workers).tobytes()
            for workers in (1, 2, 3, 8)
        }
        assert len(results) == 1


# ---------------------------------------------------------------- the setting


def test_setter_and_context():
    default = fastcorr.get_workers()
    assert default >= 1
    fastcorr.set_workers(3)
    assert fastcorr.get_workers() == 3
    with fastcorr.set_workers(5) as nothing:
        assert nothing is None
        assert fastcorr.get_workers() == 5
        with fastcorr.set_workers(None):
            assert fastcorr.get_workers() == default
        assert fastcorr.get_workers() == 5
    assert fastcorr.get_workers() == 3
    again = fastcorr.set_workers(5)
    for _ in range(2):
        with again:
            assert fastcorr.get_workers() == 5
            with again, fastcorr.set_workers(1):
                pass
            assert fastcorr.get_workers() == 5
        assert fastcorr.get_workers() == 3
    with pytest.raises(KeyError), fastcorr.set_workers(1):
        raise KeyError
    assert fastcorr.get_workers() == 3
    fastcorr.set_workers(None)
    assert fastcorr.get_workers() == default


def test_setting_is_of_the_process():
    fastcorr.set_workers(3)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(fastcorr.get_workers).result() == 3


def test_setting_and_asking_at_once():
    """A number that was set, or the default; of interest without a GIL above all."""
    found, stop = set(), threading.Event()

    def ask():
        while not stop.is_set():
            found.add(fastcorr.get_workers())

    before = sys.getswitchinterval()
    default = fastcorr.get_workers()
    try:
        sys.setswitchinterval(1e-6)
        with ThreadPoolExecutor(2) as pool:
            asking = [pool.submit(ask) for _ in range(2)]
            for _ in range(20_000):
                with fastcorr.set_workers(7):
                    pass
            stop.set()
            for each in asking:
                each.result()
    finally:
        sys.setswitchinterval(before)
    assert found <= {7, default}


def test_counting_back_from_all():
    cpus = _workers._CPUS
    for n in range(1, cpus + 1):
        with fastcorr.set_workers(-n):
            assert fastcorr.get_workers() == cpus + 1 - n


WRONG = [
    (0, ValueError), (-(10**6), ValueError), (-(2**31), ValueError), (-(2**63), ValueError),
    (True, TypeError), (False, TypeError), (1.0, TypeError), ("2", TypeError), ([1], TypeError),
    (np.True_, TypeError), (1j, TypeError),
]  # fmt: skip


@pytest.mark.parametrize(("workers", "error"), WRONG, ids=str)
def test_wrong_numbers(workers, error):
    a = np.ones((3, 3))
    for call in (
        lambda: fastcorr.set_workers(workers),
        lambda: fastcorr.correlate2d(a, a, workers=workers),
        lambda: fastcorr.convolve2d(a, a, workers=workers),
        lambda: fastcorr.corr2d(a, a, workers=workers),
        lambda: fastcorr.corr2d_backward(a[:1, :1], a, a, workers=workers),
        lambda: fastcorr.correlate2d_vjp(a, a, a, "same", workers=workers),
    ):
        with pytest.raises(error, match="workers"):
            call()
    assert _workers._setting is None


@pytest.mark.parametrize("workers", [10**6, 2**31, 2**63, 2**70])
def test_huge_numbers_are_capped(workers):
    """OpenMP would end the process when it cannot start so many threads."""
    with fastcorr.set_workers(workers):
        assert fastcorr.get_workers() == _workers._CAP
    assert fastcorr.corr2d([[1, 2]], [[3]], workers=workers).tolist() == [[3, 6]]


def test_numpy_integers():
    assert fastcorr.corr2d([[1, 2]], [[3]], workers=np.int8(2)).tolist() == [[3, 6]]
    with fastcorr.set_workers(np.uint64(2)):
        assert fastcorr.get_workers() == 2


def test_wrong_shape_is_told_whatever_the_workers():
    with pytest.raises(ValueError, match="2-D"):
        fastcorr.correlate2d([1], [1], workers=2)


# ---------------------------------------------------------------- limits of the process


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity here")
def test_affinity():
    script = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import fastcorr
print(fastcorr.get_workers())
with fastcorr.set_workers(-1):
    print(fastcorr.get_workers())
fastcorr.set_workers(3)
print(fastcorr.get_workers())
"""
    assert run(script).split() == ["1", "1", "3"]


@pytest.mark.parametrize(("quota", "cpus"), [
    ("max 100000", None), ("100000 100000", 1), ("150000 100000", 2), ("5000 100000", 1),
    ("-1 100000", None), ("nonsense", None), ("0 0", None), ("", None),
])  # fmt: skip
def test_control_group(quota, cpus, tmp_path, monkeypatch):
    import builtins

    (tmp_path / "cpu.max").write_text(quota)
    original = builtins.open

    def fake(path, *args, **kwargs):
        if path == "/sys/fs/cgroup/cpu.max":
            path = tmp_path / "cpu.max"
        elif str(path).startswith("/sys/fs/cgroup"):
            raise FileNotFoundError(path)
        return original(path, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", fake)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(7)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert _workers._allowed_cpus() == (7 if cpus is None else cpus)


def test_nothing_of_the_process_is_changed():
    """No environment variable, no thread limit, no signal handler, nothing printed."""
    script = """
import os, signal, sys
import numpy as np
before = dict(os.environ), [signal.getsignal(s) for s in signal.valid_signals()]
import fastcorr
a = np.ones((300, 300))
fastcorr.correlate2d(a, a[:5, :5], workers=2)
fastcorr.correlate2d_vjp(a, a, a[:5, :5], "same", workers=2)
assert before == (dict(os.environ), [signal.getsignal(s) for s in signal.valid_signals()])
assert np.nextafter(0.0, 1.0) * 1.0 != 0
"""
    assert run(script) == ""


# ---------------------------------------------------------------- threads and the GIL


def half_done(call, out):
    """Whether Python runs in this thread while the call has written one end of out, not the other.

    Without the GIL released that can never be seen, however slow the machine is.
    """
    out[...] = np.nan
    done = threading.Event()

    def work():
        call()
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    seen = False
    while not done.is_set() and not seen:
        first, last = out[0, 0], out[-1, -1]
        seen = bool(np.isnan(first) != np.isnan(last))
    thread.join()
    assert np.isfinite(out).all()
    return seen


@pytest.mark.skipif(cases.NO_GIL, reason="there is no GIL")
@pytest.mark.parametrize("workers", [1, 2])
def test_gil_is_released(workers):
    a, k = np.ones((1500, 1500)), np.ones((25, 25))
    out = np.empty_like(a)

    def call():
        fastcorr.correlate2d(a, k, "same", "wrap", out=out, workers=workers)

    assert any(half_done(call, out) for _ in range(50))


@pytest.mark.skipif(cases.NO_GIL, reason="there is no GIL")
@pytest.mark.parametrize("needs", ["x", "k"])
def test_gil_is_released_by_the_gradients(needs):
    """This thread wakes up again and again while another is in one long gradient.

    With the switch interval that long, only a released GIL lets it."""
    x, k, dy = np.ones((2400, 2400)), np.ones((25, 25)), np.ones((2376, 2376))
    started, done = threading.Event(), threading.Event()

    def work():
        started.set()
        fastcorr.corr2d_backward(dy, x, k, needs=needs, workers=1)
        done.set()

    before = sys.getswitchinterval()
    most = 0
    try:
        sys.setswitchinterval(1000)
        for _ in range(50):
            started.clear()
            done.clear()
            thread = threading.Thread(target=work)
            thread.start()
            started.wait()
            count = 0
            while not done.wait(0.0005):
                count += 1
            thread.join()
            most = max(most, count)
            if most > 10:
                break
    finally:
        sys.setswitchinterval(before)
    assert most > 10


def every_kernel(rng):
    """Calls that together run every kernel, forward and back, on the same read-only operands:
    functions of the number of workers, which return arrays."""
    x, k, few = (cases.reals(rng, s, "f", 3) for s in ((130, 150), (9, 11), (2, 3)))
    row = np.multiply.outer(k[:, 0], k[0])
    d, stack = x.astype("d"), cases.reals(rng, (6, 40, 50), "f", 3)
    photo, weight, taps = (
        cases.reals(rng, s, "f", 3) for s in ((2, 16, 26, 26), (16, 16, 3, 3), (16, 1, 3, 3))
    )
    bias = cases.reals(rng, (16,), "f", 3)
    image = cases.integers(rng, (40, 50), "B")
    z, zk = x[:60, :70] + 1j * x[70:130, :70], few + 1j * few[::-1]
    for v in (x, k, few, row, d, stack, photo, weight, taps, bias, image, z, zk):
        v.flags.writeable = False
    plan = fastcorr.plan_correlate2d(k, shape=x.shape, mode="same", boundary="wrap", method="fft")
    layers = nn.Sequential(
        nn.Conv2d(16, 8, 3, rng=0),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * 144, 3, rng=0),
    )

    def pair(function, *operands, **options):
        """A function and its gradients."""
        forward, vjp = getattr(fastcorr, function), getattr(fastcorr, function + "_vjp")

        def call(workers):
            y = forward(*operands, workers=workers, **options)
            return [y, *vjp(y, *operands, workers=workers, **options)]

        return call

    def conv(function, weight, needs=("x", "weight", "bias"), **options):
        forward, backward = getattr(fastcorr, function), getattr(fastcorr, function + "_backward")

        def call(workers):
            y = forward(photo, weight, bias, workers=workers, **options)
            return [y, *backward(y, photo, weight, needs=needs, workers=workers, **options)]

        return call

    def infer(workers):
        with nn.no_grad():
            return [layers(photo)]

    batch = {"axes": (-2, -1)}
    return {
        "direct": pair("correlate2d", x, k, "same", "symm", method="direct"),
        "direct, complex": pair("convolve2d", z, zk, "full", "wrap"),
        "direct, bytes": pair("correlate2d", image, image[:3, :4], "full"),
        "direct, planes": pair("correlate2d", stack, few[None], "valid", **batch),
        "separable": pair("correlate2d", x, row, "same", "mirror", method="separable"),
        "transforms": pair("convolve2d", x, k, "full", "nearest", method="fft"),
        "transforms, double": pair("correlate2d", d, k, "valid", method="fft"),
        "plan": lambda workers: [plan(x, workers=workers)],
        "choice": lambda workers: [
            np.array(list(fastcorr.choose_method(x, row, workers=workers).seconds))
        ],
        "conv": conv("conv2d", weight, padding=1, method="direct"),
        "conv, stride": conv("conv2d", weight, stride=2, padding_mode="reflect", padding=2),
        "conv, dilation": conv("conv2d", weight[:, :8], groups=2, dilation=2),
        "winograd": conv("conv2d", weight, padding=1, method="winograd"),
        "winograd4": conv("conv2d", weight, padding=1, method="winograd4"),
        "depthwise": conv("conv2d", taps, groups=16, padding=1),
        "depthwise, stride": conv("conv2d", taps, groups=16, stride=2),
        "transposed": conv("conv_transpose2d", weight, stride=2),
        "layers": infer,
        "receptive field": lambda workers: [
            fastcorr.receptive_field_mask(layers[:3], (26, 26), (3, 4))
        ],
    }


def test_many_threads_in_every_kernel(rng):
    """500 calls at once on the same read-only operands, plan and layers."""
    calls = list(every_kernel(rng).values())

    def call(n, workers):
        return [(v.shape, v.tobytes()) for v in calls[n % len(calls)](workers)]

    right = [call(n, 1) for n in range(len(calls))]
    with ThreadPoolExecutor(10) as pool:
        got = pool.map(lambda n: call(n, n % 4 + 1) == right[n % len(calls)], range(500))
        assert all(got)


# ---------------------------------------------------------------- scratch memory


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("dtype", "BfD")
@pytest.mark.parametrize(
    ("x_shape", "k_shape"),
    [((2000, 2000), (3, 3)), ((300, 20_000), (9, 9)), ((20_000, 100), (5, 5)),
     ((500, 700), (5, 300)), ((300, 300), (70, 3))],
)  # fmt: skip
def test_scratch_is_small_whatever_the_image(workers, dtype, x_shape, k_shape):
    """Less than 4 MB per worker: no padded copy, no converted copy, no im2col."""
    limit = workers << 22
    a, k, out = np.ones(x_shape, dtype), np.ones(k_shape, dtype), np.empty(x_shape, dtype)
    for image in (a, np.asfortranarray(a)):

        def forward(image=image, out=out):
            fastcorr.correlate2d(image, k, "same", "wrap", out=out, workers=workers)

        assert scratch(forward, returns=False) < limit
    if dtype == "B":
        wide = np.empty(x_shape, "f")
        assert scratch(lambda: forward(a, wide), returns=False) < limit
        return
    for needs in ("in1", "in2"):

        def backward(needs=needs):
            return fastcorr.correlate2d_vjp(out, a, k, "same", "wrap", needs=needs, workers=workers)

        assert scratch(backward) < limit
