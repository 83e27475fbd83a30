"""Optimizers and schedules: PyTorch's trajectories, resumed exactly, never half a step."""

import copy
import gc
import io
import itertools
import math
import pickle
import signal
import timeit

import cases
import numpy as np
import pytest

from fastcorr import nn, optim

SHAPES = [(), (5,), (3, 4), (2, 1, 3, 3)]
SGD = [
    {"lr": 0.1, "momentum": m, "dampening": d, "weight_decay": w, "nesterov": n}
    for m, d, w, n in itertools.product((0, 0.9), (0, 0.3), (0, 0.05), (False, True))
    if not n or (m and not d)
]
ADAM = [
    {"lr": 0.1, "betas": b, "eps": e, "weight_decay": w, "amsgrad": a}
    for b, e, w, a in itertools.product(
        ((0.9, 0.999), (0.5, 0.7), (0.0, 0.0)), (1e-8, 1e-3), (0, 0.05), (False, True)
    )
]
RMSPROP = [
    {"lr": 0.02, "alpha": al, "eps": e, "weight_decay": w, "momentum": m, "centered": c}
    for al, e, w, m, c in itertools.product(
        (0.99, 0.5), (1e-8, 1e-3), (0, 0.05), (0, 0.9), (False, True)
    )
]
EVERY = [
    *(("SGD", o) for o in SGD),
    *(("Adam", o) for o in ADAM),
    *(("AdamW", o) for o in ADAM),
    *(("RMSprop", o) for o in RMSPROP),
    *((name, {}) for name in ("SGD", "Adam", "AdamW", "RMSprop")),
]
every = pytest.mark.parametrize(("name", "options"), EVERY, ids=str)
# Those with all memories in use.
RICHEST = [
    ("SGD", {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.05, "nesterov": True}),
    ("Adam", {"lr": 0.1, "weight_decay": 0.05, "amsgrad": True}),
    ("AdamW", {"lr": 0.1, "amsgrad": True}),
    ("RMSprop", {"lr": 0.02, "weight_decay": 0.05, "momentum": 0.9, "centered": True}),
]
richest = pytest.mark.parametrize(("name", "options"), RICHEST, ids=[name for name, _ in RICHEST])


@pytest.fixture(scope="module")
def torch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(threads)


def parameters(rng, dtype="d"):
    return [nn.Parameter(cases.reals(rng, shape, dtype)) for shape in SHAPES]


def make(name, params, options):
    return getattr(optim, name)(params, **options)


def pull(params, goals, noise):
    """Gradients that depend on where the parameters are: any deviation has consequences."""
    for p, goal, n in zip(params, goals, noise, strict=True):
        p.grad = p.data - goal + n


def run(optimizer, steps, seed=0):
    rng = np.random.default_rng(seed)
    goals = [cases.reals(rng, p.shape, p.dtype) for p in optimizer.params]
    for _ in range(steps):
        pull(optimizer.params, goals, [cases.reals(rng, p.shape, p.dtype) for p in goals])
        optimizer.step()


# ---------------------------------------------------------------- trajectories


def assert_torchs_trajectory(torch, name, options, dtype, rng):
    params = parameters(rng, dtype)
    theirs = [torch.from_numpy(np.array(p.data)).requires_grad_() for p in params]
    ours = make(name, params, options)
    reference = getattr(torch.optim, name)(theirs, **options, foreach=False)
    goals = [cases.reals(rng, s, dtype) for s in SHAPES]
    largest = 1.0
    for step in range(100):
        noise = [cases.reals(rng, s, dtype) for s in SHAPES]
        pull(params, goals, noise)
        for t, goal, n in zip(theirs, goals, noise, strict=True):
            t.grad = torch.from_numpy(np.asarray(t.detach().numpy() - goal + n))
        ours.step()
        reference.step()
        got = np.concatenate([p.data.ravel() for p in params])
        expected = np.concatenate([t.detach().numpy().ravel() for t in theirs])
        largest = max(largest, abs(expected).max())
        assert (abs(got - expected) <= 1e-12 * (abs(expected) + largest)).all(), step
    assert ours.steps == 100


@every
def test_trajectories_are_torchs(torch, name, options, rng):
    """Every combination of options, 100 steps in double precision."""
    assert_torchs_trajectory(torch, name, options, "d", rng)


@richest
def test_trajectories_of_complex_parameters_are_torchs(torch, name, options, rng):
    assert_torchs_trajectory(torch, name, options, "D", rng)


@every
def test_defaults_are_torchs(torch, name, options):
    reference = getattr(torch.optim, name)([torch.zeros(1)], **options).defaults
    ours = make(name, [nn.Parameter(0.0)], options).state_dict()
    assert ours.pop("steps") == 0
    if "beta1" in ours:
        ours["betas"] = ours.pop("beta1"), ours.pop("beta2")
    for key, value in ours.items():
        assert value == reference[key]


@richest
@pytest.mark.parametrize("dtype", "fF")
def test_single_precision_stays_single(name, options, dtype, rng):
    params = parameters(rng, dtype)
    twins = [nn.Parameter(p.data.astype(dtype.replace("f", "d").replace("F", "D"))) for p in params]
    arrays = [(p.data, p.grad) for p in params]
    run(make(name, params, options), 20)
    run(make(name, twins, options), 20)
    for p, twin, (data, grad) in zip(params, twins, arrays, strict=True):
        assert p.data is data
        assert p.grad is grad
        assert data.dtype == dtype
        np.testing.assert_allclose(data, twin.data, rtol=1e-2, atol=1e-2)


@richest
def test_parameters_of_different_types(name, options, rng):
    params = [nn.Parameter(cases.reals(rng, (3, n + 1), t)) for n, t in enumerate("fDdF")]
    alone = [nn.Parameter(p.data) for p in params]
    rows = [cases.reals(rng, p.shape, p.dtype) for p in params]
    together = make(name, params, options)
    each = [make(name, [p], options) for p in alone]
    for _ in range(5):
        for p, q, row, one in zip(params, alone, rows, each, strict=True):
            p.grad = q.grad = row
            one.step()
        together.step()
    for p, q in zip(params, alone, strict=True):
        np.testing.assert_array_equal(p.data, q.data, strict=True)


def test_first_steps_by_hand():
    p = nn.Parameter([1.0, 2.0])
    optimizer = optim.SGD([p], lr=0.5, momentum=0.5)
    for expected in ([0.5, 2.5], [-0.25, 3.25], [-1.125, 4.125]):
        p.grad = [1, -1]
        optimizer.step()
        np.testing.assert_array_equal(p.data, expected)
    optimizer.zero_grad()
    np.testing.assert_array_equal(p.grad, 0)
    optimizer.lr = 0
    optimizer.step()
    np.testing.assert_array_equal(p.data, expected)


def test_a_variance_below_zero_is_zero():
    """A constant gradient: its mean square less its squared mean is rounding, of any sign."""
    p = nn.Parameter(np.full(1000, 1.0))
    optimizer = optim.RMSprop([p], lr=1e-12, alpha=0.5, centered=True)
    p.grad = np.random.default_rng(0).random(1000)
    for _ in range(100):
        optimizer.step()
    assert np.isfinite(p.data).all()


def test_numbers_that_are_not_finite_are_silent():
    for name, _ in RICHEST:
        p = nn.Parameter([1.0, 1.0, 1.0])
        optimizer = make(name, [p], {"lr": 1e300})
        p.grad = [np.inf, np.nan, 1e300]
        optimizer.step()
        optimizer.step()
        assert np.isnan(p.data[1])


def test_minimum_of_a_bowl():
    for name, lr in (("SGD", 0.1), ("Adam", 0.1), ("AdamW", 0.1), ("RMSprop", 0.01)):
        p = nn.Parameter([4.0, -3.0])
        optimizer = make(name, [p], {"lr": lr, "weight_decay": 0})
        for _ in range(1000):
            p.grad = 2 * (p.data - [1, 2])
            optimizer.step()
        np.testing.assert_allclose(p.data, [1, 2], atol=0.02)


# ---------------------------------------------------------------- arguments


def test_arguments():
    p = nn.Parameter([1.0])
    layer = nn.Linear(2, 2)
    for error, match, make in [
        (ValueError, "params must not be empty", lambda: optim.SGD([])),
        (ValueError, "a Parameter twice", lambda: optim.SGD([p, nn.Parameter([1.0]), p])),
        (TypeError, "params must be a list of Parameters, got Linear", lambda: optim.SGD(layer)),
        (TypeError, "params must be a list", lambda: optim.SGD(p)),
        (TypeError, "params must be a list", lambda: optim.SGD(layer.parameters)),
        (TypeError, "one of them is array", lambda: optim.Adam([p.data])),
        (ValueError, "lr must not be negative, got -1", lambda: optim.SGD([p], -1)),
        (ValueError, "lr is NaN", lambda: optim.SGD([p], math.nan)),
        (TypeError, "lr must be a number, got '0.1'", lambda: optim.SGD([p], "0.1")),
        (TypeError, "lr must be a number, got None", lambda: optim.Adam([p], None)),
        (TypeError, "lr must not be True", lambda: optim.Adam([p], True)),
        (TypeError, r"lr must be a number, got \[", lambda: optim.RMSprop([p], [0.1, 0.1])),
        (ValueError, "momentum must not be negative", lambda: optim.SGD([p], momentum=-0.1)),
        (ValueError, "weight_decay must not be neg", lambda: optim.AdamW([p], weight_decay=-1)),
        (ValueError, "nesterov needs", lambda: optim.SGD([p], nesterov=True)),
        (ValueError, "nesterov needs", lambda: optim.SGD([p], 1, 0.9, 0.1, nesterov=True)),
        (TypeError, "nesterov must not be 1", lambda: optim.SGD([p], 1, 0.9, nesterov=1)),
        (ValueError, "beta1 must be at least 0 and less than 1, got 1.0",
         lambda: optim.Adam([p], betas=(1.0, 0.9))),
        (ValueError, "beta2 must be", lambda: optim.AdamW([p], betas=(0.9, -0.1))),
        (TypeError, "betas must be a pair", lambda: optim.Adam([p], betas=0.9)),
        (TypeError, "betas must be a pair", lambda: optim.Adam([p], betas=(0.9, 0.9, 0.9))),
        (ValueError, "eps must not be negative", lambda: optim.Adam([p], eps=-1e-8)),
        (ValueError, "alpha must not be negative", lambda: optim.RMSprop([p], alpha=-1)),
        (TypeError, "optimizer must be an Optimizer", lambda: optim.StepLR(layer, 1)),
        (ValueError, "step_size must be at least 1", lambda: optim.StepLR(optim.SGD([p]), 0)),
        (TypeError, "gamma must be a number", lambda: optim.StepLR(optim.SGD([p]), 1, "half")),
        (TypeError, "T_max must be an integer",
         lambda: optim.CosineAnnealingLR(optim.SGD([p]), 1.5)),
        (ValueError, "max_norm must not be negative", lambda: optim.clip_grad_norm([p], -1)),
        (ValueError, "norm_type must be positive", lambda: optim.clip_grad_norm([p], 1, 0)),
        (TypeError, "params must be a list", lambda: optim.clip_grad_norm(p, 1)),
        (ValueError, "clip_value must not be neg", lambda: optim.clip_grad_value([p], math.nan)),
        (TypeError, "complex gradients", lambda: optim.clip_grad_value([nn.Parameter(1j)], 1)),
        (NotImplementedError, None, lambda: optim.Optimizer([p], lr=1).step()),
    ]:  # fmt: skip
        with pytest.raises(error, match=match):
            make()


def test_params_may_be_an_iterator():
    layer = nn.Linear(2, 2)
    optimizer = optim.SGD(p for p in layer.parameters())
    assert optimizer.params == tuple(layer.parameters())
    assert repr(optimizer) == (
        "<SGD: 2 parameters, lr=0.001, momentum=0.0, dampening=0.0, weight_decay=0.0, "
        "nesterov=False>"
    )


@richest
def test_read_only_parameters_are_left_as_they_are(name, options):
    """All of them: before the first step and after it."""
    params = [nn.Parameter([1.0]), nn.Parameter([1.0])]
    optimizer = make(name, params, options)
    for steps in (0, 1):
        params[0].grad = params[1].grad = [1.0]
        params[1].data.flags.writeable = False
        before = params[0].data.copy()
        with pytest.raises(ValueError, match=r"params\[1\]\.data is read-only"):
            optimizer.step()
        np.testing.assert_array_equal(params[0].data, before)
        assert optimizer.steps == steps
        params[1].data.flags.writeable = True
        optimizer.step()


def test_params_are_fixed():
    """What is remembered is of these, and no other is moved."""
    optimizer = optim.Adam([nn.Parameter([1.0])])
    with pytest.raises(AttributeError):
        optimizer.params = [nn.Parameter([2.0])]
    with pytest.raises(AttributeError):
        optimizer.params.append(nn.Parameter([2.0]))


# ---------------------------------------------------------------- going on


def assert_same_state(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert list(a) == list(b)
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


@richest
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_state_dict_resumes_exactly(name, options, steps, rng):
    """After a number of steps, by way of a file, into an optimizer of other options."""
    one = make(name, parameters(rng), options)
    run(one, steps)
    file = io.BytesIO()
    np.savez(file, **one.state_dict())
    file.seek(0)
    two = make(name, [nn.Parameter(p.data) for p in one.params], {"lr": 3.0})
    run(two, 2)
    for p, q in zip(one.params, two.params, strict=True):
        q.data = p.data
    with np.load(file, allow_pickle=False) as state:
        two.load_state_dict(state)
    assert two.steps == steps
    assert_same_state(one, two)
    run(one, 5, seed=1)
    run(two, 5, seed=1)
    assert_same_state(one, two)
    for p, q in zip(one.params, two.params, strict=True):
        np.testing.assert_array_equal(p.data, q.data)


@richest
def test_state_dict_is_a_copy(name, options, rng):
    optimizer = make(name, parameters(rng), options)
    run(optimizer, 3)
    state = optimizer.state_dict()
    arrays = [key for key, value in state.items() if isinstance(value, np.ndarray)]
    assert arrays
    assert all(state[key].shape == SHAPES[int(key[-1])] for key in arrays)
    before = copy.deepcopy(state)
    run(optimizer, 3)
    for key in arrays:
        np.testing.assert_array_equal(state[key], before[key])
    optimizer.load_state_dict(state)
    for key in arrays:
        state[key][...] = np.nan
    for key, value in optimizer.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


def test_load_state_dict_is_all_or_nothing(rng):
    name, options = RICHEST[1]
    optimizer = make(name, parameters(rng), options)
    run(optimizer, 3)
    twin = copy.deepcopy(optimizer)
    run(twin, 1)
    good = twin.state_dict()
    for error, match, change in [
        (ValueError, "has no lr", {"lr": None}),
        (ValueError, "has no steps", {"steps": None}),
        (ValueError, "lr must not be negative", {"lr": -1}),
        (TypeError, "lr must be a number", {"lr": "0.1"}),
        (TypeError, "amsgrad must not be 0.5", {"amsgrad": 0.5}),
        (ValueError, "steps must be at least 0", {"steps": -1}),
        (TypeError, "steps must be an integer", {"steps": 1.5}),
        (ValueError, "'momentum_buffer.0', which is nothing of", {"momentum_buffer.0": 1.0}),
        (ValueError, "'more', which is nothing of", {"more": 1.0}),
        (ValueError, "entry 3, which is nothing of", {3: 1}),
        (ValueError, r"exp_avg.1 must have the shape \(5,\)", {"exp_avg.1": None}),
        (ValueError, r"exp_avg.1 must .* got \(1,\)", {"exp_avg.1": np.ones(1)}),
        (ValueError, "float64, got .*float32", {"exp_avg.1": np.ones(5, "f")}),
        (ValueError, "entries", {"exp_avg.4": np.ones(5)}),
    ]:
        state = {k: v for k, v in (good | change).items() if v is not None}
        before = copy.deepcopy(optimizer)
        with pytest.raises(error, match=match):
            optimizer.load_state_dict(state)
        assert_same_state(optimizer, before)
    for state in (None, 5, [("lr", 1)]):
        with pytest.raises(TypeError, match="state must be a dict"):
            optimizer.load_state_dict(state)
    optimizer.load_state_dict(good)
    assert_same_state(optimizer, twin)


@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))])
@richest
def test_copies_go_on_by_themselves(make_copy, name, options, rng):
    optimizer = make(name, parameters(rng), options)
    run(optimizer, 3)
    layers, twin = make_copy((optimizer.params, optimizer))
    assert all(p is q for p, q in zip(layers, twin.params, strict=True))
    before = [p.data.copy() for p in twin.params]
    run(optimizer, 4)
    for p, data in zip(twin.params, before, strict=True):
        np.testing.assert_array_equal(p.data, data)
    run(twin, 4)
    assert_same_state(optimizer, twin)
    for p, q in zip(optimizer.params, twin.params, strict=True):
        np.testing.assert_array_equal(p.data, q.data)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="timers")
@richest
def test_no_half_steps(name, options, rng):
    """Exceptions out of signals, as Ctrl-C's: they find each step done, or not begun."""

    class Alarm(Exception):
        pass

    def alarm(*_):
        raise Alarm

    def states(optimizer):
        return {k: np.copy(v) for k, v in optimizer.state_dict().items()} | {
            n: p.data.copy() for n, p in enumerate(optimizer.params)
        }

    params = [nn.Parameter(cases.reals(rng, 3, "d")) for _ in range(30)]
    for p in params:
        p.grad = cases.reals(rng, 3, "d")
    optimizer, twin = make(name, params, options), None
    previous = signal.signal(signal.SIGALRM, alarm)
    gc.disable()  # what a signal raises in a callback of the collector is lost
    inside = 0
    try:
        takes = min(timeit.repeat(optimizer.step, number=1))  # 0.2 ms, under a sanitizer 2
        for delay in rng.uniform(0.05 * takes, 5 * takes, 100):
            twin = copy.deepcopy(optimizer)
            try:
                signal.setitimer(signal.ITIMER_REAL, delay)
                for _ in range(1000):
                    optimizer.step()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Alarm as error:
                inside += error.__traceback__.tb_next is not None
            while twin.steps < optimizer.steps:
                twin.step()
            expected = states(twin)
            for key, value in states(optimizer).items():
                np.testing.assert_array_equal(value, expected[key])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        gc.enable()
    assert inside > 10
    assert optimizer.steps > 10


# ---------------------------------------------------------------- schedules


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("StepLR", (1,)), ("StepLR", (3, 0.5)), ("StepLR", (7, 1.1)), ("CosineAnnealingLR", (10,)),
     ("CosineAnnealingLR", (7, 0.01)), ("CosineAnnealingLR", (1,))],
)  # fmt: skip
def test_schedules_are_torchs(torch, name, arguments):
    ours = optim.SGD([nn.Parameter(0.0)], lr=0.3)
    theirs = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    schedule = getattr(optim, name)(ours, *arguments)
    reference = getattr(torch.optim.lr_scheduler, name)(theirs, *arguments)
    for _ in range(35):
        expected = theirs.param_groups[0]["lr"]
        np.testing.assert_allclose(ours.lr, expected, rtol=1e-12, atol=1e-15)
        theirs.step()
        reference.step()
        ours.step()
        schedule.step()


@pytest.mark.parametrize(
    "make", [lambda o: optim.StepLR(o, 3), lambda o: optim.CosineAnnealingLR(o, 10)]
)
def test_schedules_resume(make):
    def start():
        optimizer = optim.SGD([nn.Parameter(0.0)], lr=0.3)
        return optimizer, make(optimizer)

    one, schedule = start()
    for _ in range(4):
        schedule.step()
    file = io.BytesIO()
    np.savez(file, **schedule.state_dict())
    file.seek(0)
    two, other = start()
    other.step()
    with np.load(file, allow_pickle=False) as state:
        other.load_state_dict(state)
    two.load_state_dict(one.state_dict())
    assert other.state_dict() == schedule.state_dict()
    assert [type(v) for v in other.state_dict().values()] == (
        [type(v) for v in schedule.state_dict().values()]
    )
    for _ in range(10):
        assert one.lr == two.lr
        schedule.step()
        other.step()
    for state in ({}, schedule.state_dict() | {"more": 1}):
        with pytest.raises(ValueError, match="entries"):
            other.load_state_dict(state)
    with pytest.raises(TypeError, match="base_lr must be a number"):
        other.load_state_dict(schedule.state_dict() | {"base_lr": "1"})
    epochs = "step_size" if isinstance(other, optim.StepLR) else "T_max"
    before = other.state_dict()
    for error, match, change in [
        (ValueError, f"{epochs} must be at least 1, got 0", {epochs: 0}),
        (TypeError, f"{epochs} must be an integer, got 2.7", {"base_lr": 7.0, epochs: 2.7}),
        (TypeError, "last_epoch must be an integer", {"last_epoch": 1.5}),
        (ValueError, "last_epoch must be at least 0, got -5", {"last_epoch": -5}),
        (ValueError, "entries", {3: 1}),
    ]:
        with pytest.raises(error, match=match):
            other.load_state_dict(before | change)
        assert other.state_dict() == before
    for state in (None, 5):
        with pytest.raises(TypeError, match="state must be a dict"):
            other.load_state_dict(state)


# ---------------------------------------------------------------- clipping


@pytest.mark.parametrize("dtype", "dD")
@pytest.mark.parametrize("norm_type", [1, 2, 3.5, math.inf])
@pytest.mark.parametrize("max_norm", [0, 0.5, 1e6])
def test_clip_grad_norm_is_torchs(torch, dtype, norm_type, max_norm, rng):
    params = parameters(rng, dtype)
    theirs = []
    for p in params:
        p.grad = cases.reals(rng, p.shape, dtype)
        theirs.append(torch.from_numpy(np.array(p.data)))
        theirs[-1].grad = torch.from_numpy(np.array(p.grad))
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type)
    norm = optim.clip_grad_norm(params, max_norm, norm_type)
    assert type(norm) is float
    np.testing.assert_allclose(norm, expected.item(), rtol=1e-14)
    for p, t in zip(params, theirs, strict=True):
        np.testing.assert_allclose(p.grad, t.grad.numpy(), rtol=1e-13, strict=True)


def test_clip_grad_norm_of_powers_beyond_double_precision():
    for grad, p, norm in [
        ([3.0, 4.0], 1000, 4.0), ([0.3, 0.4], 1000, 0.4), ([3e200, 4e200], 2, 5e200),
        ([3e-200, 4e-200], 2, 5e-200), ([0.0, 0.0], 1000, 0.0),
    ]:  # fmt: skip
        params = [nn.Parameter([0.0]), nn.Parameter([0.0])]
        for parameter, value in zip(params, grad, strict=True):
            parameter.grad = [value]
        assert math.isclose(optim.clip_grad_norm(params, 1.0, p), norm, rel_tol=1e-12)
        scale = min(1, 1 / (norm + 1e-6))
        np.testing.assert_allclose([q.grad[0] for q in params], np.multiply(grad, scale))


def test_clip_grad_norm_beyond_single_precision():
    """The sum of squares does not fit into float32; the norm does."""
    p = nn.Parameter(np.zeros(2, "f"))
    p.grad = [3e30, 4e30]
    assert math.isclose(optim.clip_grad_norm([p], 1), 5e30, rel_tol=1e-6)
    np.testing.assert_allclose(p.grad, [0.6, 0.8], rtol=1e-6)
    p.grad = [np.inf, 1]
    assert optim.clip_grad_norm([p], 1) == math.inf
    assert np.isnan(p.grad[0])
    assert p.grad[1] == 0
    assert optim.clip_grad_norm([], 1) == 0


def test_clip_grad_value(torch, rng):
    params = parameters(rng)
    for p in params:
        p.grad = cases.reals(rng, p.shape, "d")
    theirs = [torch.from_numpy(np.array(p.data)) for p in params]
    for p, t in zip(params, theirs, strict=True):
        t.grad = torch.from_numpy(np.array(p.grad))
    assert optim.clip_grad_value(params, 0.5) is None
    torch.nn.utils.clip_grad_value_(theirs, 0.5)
    for p, t in zip(params, theirs, strict=True):
        np.testing.assert_array_equal(p.grad, t.grad.numpy())
    whole = nn.Parameter(np.ones(3))
    whole.grad = [3, -3, np.nan]
    with pytest.raises(TypeError, match="complex"):
        optim.clip_grad_value([whole, nn.Parameter(1j)], 1)
    np.testing.assert_array_equal(whole.grad, [3, -3, np.nan])  # none was changed


@pytest.mark.filterwarnings("error")
def test_a_learning_rate_that_grows_without_end_becomes_infinite():
    optimizer = optim.SGD([nn.Parameter(np.ones(2))], lr=0.1)
    schedule = optim.StepLR(optimizer, 1, 1e200)
    for _ in range(3):
        schedule.step()
    assert optimizer.lr == np.inf


@pytest.mark.parametrize(("name", "value"), [("lr", "x"), ("momentum", None), ("lr", -1)])
def test_options_that_are_set_later_are_looked_at(name, value):
    p = nn.Parameter([1.0])
    p.grad[...] = 1
    optimizer = optim.SGD([p], lr=0.5)
    optimizer.lr = 1  # an int
    optimizer.step()
    assert p.data == 0
    setattr(optimizer, name, value)
    with pytest.raises((TypeError, ValueError), match=name):
        optimizer.step()
    assert p.data == 0
