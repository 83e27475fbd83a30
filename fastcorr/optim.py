"""Optimizers: they change parameters by their gradients, step for step as PyTorch's do.

An optimizer is made with a list of parameters, ``optim.SGD(model.parameters(), lr=0.1)``;
``step()`` changes them in place, ``zero_grad()`` clears their gradients.  A schedule changes
the optimizer's learning rate from epoch to epoch.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from operator import call
from typing import Any, ClassVar

import numpy as np

from fastcorr._arguments import listed, shown
from fastcorr.nn import Array, Parameter, _check_state, _integer

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "CosineAnnealingLR",
    "Optimizer",
    "RMSprop",
    "StepLR",
    "clip_grad_norm",
    "clip_grad_value",
]

Do = Callable[..., None]


def _number(value: object, name: str) -> float | bool:
    """A float or a bool; also from an array of one, as a file gives them back."""
    if isinstance(value, int) and abs(value) >= 1 << 63:  # no number of NumPy's
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        array = np.empty(0)
    if array.ndim or array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be a number, got {shown(value)}")
    return bool(array) if array.dtype.kind == "b" else float(array)


# Parameters: more than any network has; what goes on may have no end.
_MOST = 1_000_000


def _parameters(params: object) -> tuple[Parameter, ...]:
    if not isinstance(params, Iterable) or (isinstance(params, np.ndarray) and params.ndim == 0):
        raise TypeError(f"params must be a list of Parameters, got {shown(params)}")
    if isinstance(params, np.ndarray) and len(params) > _MOST:  # not to be gone through first
        raise ValueError(f"params must be at most {_MOST} Parameters")
    try:
        found = listed(params, _MOST)
    except TypeError:
        raise TypeError(f"params must be a list of Parameters, got {shown(params)}") from None
    if len(found) > _MOST:
        raise ValueError(f"params must be at most {_MOST} Parameters")
    for p in found:
        if not isinstance(p, Parameter):
            raise TypeError(f"params must be a list of Parameters, one of them is {shown(p)}")
    return found


def _flat(a: Array) -> Array:
    """A view as one row of real numbers."""
    row = a.reshape(-1)
    return row.view(a.real.dtype) if a.dtype.kind == "c" else row


class Optimizer:
    """What all optimizers have in common.

    Not called itself: `SGD`, `Adam`, `AdamW` and `RMSprop` are optimizers.

    Parameters
    ----------
    params : list of Parameter
        What it changes.
    **options : float or bool
        Those of the kind of optimizer, ``lr`` among them: they become attributes.

    Attributes
    ----------
    params : tuple of Parameter
        What it changes; fixed.
    lr : float
        The learning rate; may be set at any time, as the other options may.
    steps : int
        How many steps it made.

    Notes
    -----
    The trajectories are PyTorch's, those of complex parameters too: real and imaginary part
    count as two numbers.  There is one group of parameters; for others options, make another
    optimizer.  A gradient that is zero is a gradient, so that momentum and weight decay go on
    moving a parameter nobody used.

    Ctrl-C finds a step done or not begun: no parameter is changed before all that is to be done
    is known, and then nothing interrupts it.

    Examples
    --------
    >>> from fastcorr import nn, optim
    >>> p = nn.Parameter([1.0, 2.0])
    >>> optimizer = optim.SGD([p], lr=1)
    >>> isinstance(optimizer, optim.Optimizer)
    True
    >>> optimizer.lr = 0.5
    >>> p.grad = [1, -1]
    >>> optimizer.step()
    >>> p.data
    array([0.5, 2.5])
    >>> optimizer.steps
    1
    """

    # Options that must not be negative, those that are fractions, and the flags.
    _POSITIVE: ClassVar = ("lr", "momentum", "weight_decay", "eps", "alpha")
    _FRACTIONS: ClassVar = ("beta1", "beta2")
    _FLAGS: ClassVar = ("nesterov", "amsgrad", "centered")

    lr: float

    def __init__(self, params: Iterable[Parameter], **options: object) -> None:
        self._params = _parameters(params)
        if not self.params:
            raise ValueError("params must not be empty")
        if len({id(p) for p in self.params}) < len(self.params):
            raise ValueError("params must not hold a Parameter twice")
        self.steps = 0
        self._names = tuple(options)
        self._state: dict[str, list[Array]] = {}
        self._fresh: dict[str, list[Array]] = {}  # not yet part of it: of a step not yet done
        vars(self).update(self._checked(options))

    @property
    def params(self) -> tuple[Parameter, ...]:
        """What it changes; fixed, as what is remembered of each is."""
        return self._params

    def _checked(self, options: Mapping[str, object]) -> dict[str, float | bool]:
        """The options as numbers, or an error that names the one that is wrong."""
        checked = {}
        for name, given in options.items():
            value = checked[name] = _number(given, name)
            if isinstance(value, bool) != (name in self._FLAGS):
                raise TypeError(f"{name} must not be {shown(given)}")
            if math.isnan(value):
                raise ValueError(f"{name} is NaN")
            if name in self._POSITIVE and value < 0:
                raise ValueError(f"{name} must not be negative, got {shown(given)}")
            if name in self._FRACTIONS and not 0 <= value < 1:
                raise ValueError(f"{name} must be at least 0 and less than 1, got {shown(given)}")
        return checked

    def zero_grad(self) -> None:
        """Set the gradients to zero."""
        for p in self.params:
            p.grad.fill(0)

    def step(self) -> None:
        """Change the parameters by their gradients, once.

        Raises
        ------
        ValueError
            If a parameter is read-only, or an option that was set is out of range.  Then nothing
            is changed.
        TypeError
            If an option that was set is no number.
        """
        # The operations are noted first and then run by one call into C.  Python looks for
        # Ctrl-C between its own instructions only: here, and when all is done.
        program: list[Callable[[], object]] = []
        options = {name: vars(self)[name] for name in self._names}
        if not {float, bool}.issuperset(map(type, options.values())):  # one was set meanwhile
            self._checked(options)
        for n, p in enumerate(self.params):
            if not p.data.flags.writeable:
                raise ValueError(f"params[{n}].data is read-only")

        def do(function: Callable[..., object], *args: object, **kwargs: object) -> None:
            program.append(partial(function, *args, **kwargs))

        self._fresh = {}
        for n, (data, grad, s, t) in enumerate(self._rows):
            self._update(do, n, data, grad, s, t)
        if self._fresh:
            do(self._state.update, self._fresh)
        do(setattr, self, "steps", self.steps + 1)
        with np.errstate(all="ignore"):  # a warning may be an exception, half way through
            deque(map(call, program), maxlen=0)

    @cached_property
    def _rows(self) -> list[tuple[Array, Array, Array, Array]]:
        """What `_update` gets of each parameter.

        All use the same memory for terms, as much as two of the largest parameter.
        """
        room = np.empty((2, max(p.data.nbytes for p in self.params) // 8 + 1))
        rows = []
        for p in self.params:
            data, grad = _flat(p.data), _flat(p.grad)
            s, t = room.view(data.dtype)[:, : data.size]
            rows.append((data, grad, s, t))
        return rows

    def __getstate__(self) -> dict[str, Any]:
        # The copy has rows of its own: those of its own parameters.
        return {name: value for name, value in vars(self).items() if name != "_rows"}

    def _update(self, do: Do, n: int, data: Array, grad: Array, s: Array, t: Array) -> None:
        """Note what is to be done to the n-th parameter; s and t are for terms."""
        raise NotImplementedError

    def _memory(self, name: str, n: int) -> Array:
        """What is remembered of the n-th parameter from step to step; zeros at first."""
        arrays = self._state.get(name) or self._fresh.get(name)
        if arrays is None:
            arrays = self._fresh[name] = [np.zeros_like(p.data) for p in self.params]
        return _flat(arrays[n])

    def state_dict(self) -> dict[str, Any]:
        """All that the next steps depend on, besides parameters and gradients.

        Returns
        -------
        dict of str to number or ndarray
            The options, ``'steps'``, and copies of the arrays remembered, one per parameter,
            named as in ``'exp_avg.0'``.  `numpy.savez` writes it, `numpy.load` reads it.
        """
        state: dict[str, Any] = {name: getattr(self, name) for name in self._names}
        state["steps"] = self.steps
        for name, arrays in self._state.items():
            state |= {f"{name}.{n}": array.copy() for n, array in enumerate(arrays)}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as the optimizer would whose `state_dict` this is.

        Parameters
        ----------
        state : dict
            What `state_dict` returned, for as many parameters of the same shapes.

        Raises
        ------
        ValueError
            If names are missing or unknown, a shape is another, or an option is out of range.
            Then the optimizer is as it was.
        TypeError
            If `state` is not a dict, or a value is of a wrong kind.
        """
        _check_state(state)
        own = {*self._names, "steps"}
        missing = sorted(own.difference(state))
        if missing:
            raise ValueError(f"the state has no {', '.join(missing)}")
        options = self._checked({name: state[name] for name in self._names})
        steps = _integer(np.asarray(state["steps"])[()], "steps", 0)
        arrays: dict[str, list[Array]] = {}
        for key in state:
            name = str(key).rpartition(".")[0]
            if key in own or name in arrays:
                continue
            if name not in self._MEMORIES:
                raise ValueError(f"the state has an entry {key!r}, which is nothing of {self}")
            arrays[name] = []
            for n, p in enumerate(self.params):
                value = np.array(state.get(f"{name}.{n}", np.nan), order="C")
                if value.shape != p.shape or value.dtype != p.dtype:
                    raise ValueError(
                        f"{name}.{n} must have the shape {p.shape} and dtype {p.dtype}, got "
                        f"{value.shape} and {value.dtype}"
                    )
                arrays[name].append(value)
        entries = len(own) + len(self.params) * len(arrays)
        if len(state) != entries:
            raise ValueError(f"the state has {len(state)} entries, not {entries}")
        vars(self).update(options, steps=steps, _state=arrays)

    _MEMORIES: ClassVar[tuple[str, ...]] = ()

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={getattr(self, name)}" for name in self._names)
        return f"<{type(self).__name__}: {len(self.params)} parameters, {options}>"


class SGD(Optimizer):
    """Gradient descent, with momentum if wanted.

    Parameters
    ----------
    params : list of Parameter
        What to change: ``model.parameters()``.
    lr : float, optional
        Learning rate: how far a step goes.  Default 0.001.
    momentum : float, optional
        Share of a step's direction that the next one keeps.  Default 0.
    dampening : float, optional
        Share of the gradient that does not enter the momentum, but for the first.  Default 0.
    weight_decay : float, optional
        Share of the parameter that is added to its gradient.  Default 0.
    nesterov : bool, optional
        Whether the step looks ahead along the momentum.  Default False.

    Raises
    ------
    ValueError
        If there are no parameters or one is there twice, for options out of range, and for
        `nesterov` without momentum or with dampening.
    TypeError
        If `params` is not a list of parameters, or an option is of a wrong kind.

    Notes
    -----
    Nesterov's momentum is that of [1]_.

    References
    ----------
    .. [1] I. Sutskever, J. Martens, G. Dahl and G. Hinton, "On the importance of
       initialization and momentum in deep learning", ICML 2013.

    Examples
    --------
    >>> from fastcorr import nn, optim
    >>> p = nn.Parameter([1.0, 2.0])
    >>> optimizer = optim.SGD([p], lr=0.1)
    >>> p.grad = [1, -1]
    >>> optimizer.step()
    >>> p.data
    array([0.9, 2.1])
    """

    _MEMORIES = ("momentum_buffer",)

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
        )

    momentum: float
    dampening: float
    weight_decay: float
    nesterov: bool

    def _checked(self, options: Mapping[str, object]) -> dict[str, float | bool]:
        checked = super()._checked(options)
        if checked["nesterov"] and (checked["momentum"] == 0 or checked["dampening"] != 0):
            raise ValueError("nesterov needs a momentum and no dampening")
        return checked

    def _update(self, do: Do, n: int, data: Array, grad: Array, s: Array, t: Array) -> None:
        if self.weight_decay:
            do(np.multiply, data, self.weight_decay, out=s)
            do(np.add, grad, s, out=s)
            grad = s
        if self.momentum:
            buffer = self._memory("momentum_buffer", n)
            if "momentum_buffer" in self._fresh:
                do(np.positive, grad, out=buffer)
            else:
                do(np.multiply, buffer, self.momentum, out=buffer)
                do(np.multiply, grad, 1 - self.dampening, out=t)
                do(np.add, buffer, t, out=buffer)
            if self.nesterov:
                do(np.multiply, buffer, self.momentum, out=t)
                do(np.add, grad, t, out=s)
                grad = s
            else:
                grad = buffer
        do(np.multiply, grad, self.lr, out=t)
        do(np.subtract, data, t, out=data)


class Adam(Optimizer):
    """Steps scaled by running means of the gradient and of its square.

    Parameters
    ----------
    params : list of Parameter
        What to change: ``model.parameters()``.
    lr : float, optional
        Learning rate: about how far a step goes.  Default 0.001.
    betas : pair of float, optional
        How much of the two running means is kept from step to step.  Default (0.9, 0.999).
    eps : float, optional
        Added to the divisor.  Default 1e-8.
    weight_decay : float, optional
        Share of the parameter that is added to its gradient.  Default 0.
    amsgrad : bool, optional
        Whether the divisor may only grow [2]_.  Default False.

    Raises
    ------
    ValueError
        If there are no parameters or one is there twice, and for options out of range.
    TypeError
        If `params` is not a list of parameters, or an option is of a wrong kind.

    See Also
    --------
    AdamW : with weight decay apart from the gradient.

    Notes
    -----
    The algorithm of [1]_, with PyTorch's arguments.  The pair `betas` is kept as the
    attributes ``beta1`` and ``beta2``.

    References
    ----------
    .. [1] D. P. Kingma and J. Ba, "Adam: a method for stochastic optimization", ICLR 2015.
    .. [2] S. J. Reddi, S. Kale and S. Kumar, "On the convergence of Adam and beyond",
       ICLR 2018.

    Examples
    --------
    >>> from fastcorr import nn, optim
    >>> p = nn.Parameter([1.0, 2.0])
    >>> optimizer = optim.Adam([p], lr=0.1)
    >>> p.grad = [5, -0.01]
    >>> optimizer.step()
    >>> p.data.round(3)
    array([0.9, 2.1])
    """

    _MEMORIES = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    _DECOUPLED: ClassVar = False

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
    ) -> None:
        try:
            beta1, beta2 = listed(betas, 2)
        except (TypeError, ValueError):
            raise TypeError(f"betas must be a pair of numbers, got {shown(betas)}") from None
        super().__init__(
            params,
            lr=lr,
            beta1=beta1,
            beta2=beta2,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
        )

    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    amsgrad: bool

    def _update(self, do: Do, n: int, data: Array, grad: Array, s: Array, t: Array) -> None:
        step = self.steps + 1
        if self.weight_decay and self._DECOUPLED:
            do(np.multiply, data, 1 - self.lr * self.weight_decay, out=data)
        elif self.weight_decay:
            do(np.multiply, data, self.weight_decay, out=s)
            do(np.add, grad, s, out=s)
            grad = s
        mean, square = self._memory("exp_avg", n), self._memory("exp_avg_sq", n)
        _decay(do, mean, self.beta1, grad, t)
        do(np.square, grad, out=s)
        _decay(do, square, self.beta2, s, t)
        if self.amsgrad:
            largest = self._memory("max_exp_avg_sq", n)
            do(np.maximum, largest, square, out=largest)
            square = largest
        do(np.sqrt, square, out=t)
        do(np.divide, t, math.sqrt(1 - self.beta2**step), out=t)
        do(np.add, t, self.eps, out=t)
        do(np.divide, mean, t, out=t)
        do(np.multiply, t, self.lr / (1 - self.beta1**step), out=t)
        do(np.subtract, data, t, out=data)


class AdamW(Adam):
    """Adam with weight decay that is not part of the gradient.

    Parameters
    ----------
    params : list of Parameter
        What to change: ``model.parameters()``.
    lr : float, optional
        Learning rate: about how far a step goes.  Default 0.001.
    betas : pair of float, optional
        How much of the two running means is kept from step to step.  Default (0.9, 0.999).
    eps : float, optional
        Added to the divisor.  Default 1e-8.
    weight_decay : float, optional
        Share of the parameter, times `lr`, by which each step makes it smaller.  Default 0.01.
    amsgrad : bool, optional
        Whether the divisor may only grow.  Default False.

    Raises
    ------
    ValueError
        If there are no parameters or one is there twice, and for options out of range.
    TypeError
        If `params` is not a list of parameters, or an option is of a wrong kind.

    See Also
    --------
    Adam : with weight decay as part of the gradient.

    Notes
    -----
    The algorithm of [1]_, with PyTorch's arguments.

    References
    ----------
    .. [1] I. Loshchilov and F. Hutter, "Decoupled weight decay regularization", ICLR 2019.

    Examples
    --------
    >>> from fastcorr import nn, optim
    >>> p = nn.Parameter([1.0, 2.0])
    >>> optimizer = optim.AdamW([p], lr=0.1)
    >>> optimizer.step()
    >>> p.data
    array([0.999, 1.998])
    """

    _DECOUPLED = True

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad)


class RMSprop(Optimizer):
    """Steps scaled by a running mean of the gradient's square.

    Parameters
    ----------
    params : list of Parameter
        What to change: ``model.parameters()``.
    lr : float, optional
        Learning rate: about how far a step goes.  Default 0.01.
    alpha : float, optional
        How much of the running mean is kept from step to step.  Default 0.99.
    eps : float, optional
        Added to the divisor.  Default 1e-8.
    weight_decay : float, optional
        Share of the parameter that is added to its gradient.  Default 0.
    momentum : float, optional
        Share of a step's direction that the next one keeps.  Default 0.
    centered : bool, optional
        Whether the gradient's variance takes the place of its square [2]_.  Default False.

    Raises
    ------
    ValueError
        If there are no parameters or one is there twice, and for options out of range.
    TypeError
        If `params` is not a list of parameters, or an option is of a wrong kind.

    Notes
    -----
    The algorithm of [1]_, with PyTorch's arguments.  A variance that rounding made negative
    counts as zero, where PyTorch gives NaN.

    References
    ----------
    .. [1] G. Hinton, "Neural networks for machine learning", lecture 6, 2012.
    .. [2] A. Graves, "Generating sequences with recurrent neural networks",
       arXiv:1308.0850, 2013.

    Examples
    --------
    >>> from fastcorr import nn, optim
    >>> p = nn.Parameter([1.0, 2.0])
    >>> optimizer = optim.RMSprop([p])
    >>> p.grad = [5, -0.1]
    >>> optimizer.step()
    >>> p.data.round(3)
    array([0.9, 2.1])
    """

    _MEMORIES = ("square_avg", "grad_avg", "momentum_buffer")

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
        )

    alpha: float
    eps: float
    weight_decay: float
    momentum: float
    centered: bool

    def _update(self, do: Do, n: int, data: Array, grad: Array, s: Array, t: Array) -> None:
        if self.weight_decay:
            do(np.multiply, data, self.weight_decay, out=s)
            do(np.add, grad, s, out=s)
            grad = s
        square = self._memory("square_avg", n)
        # The gradient may lie in s, which is free only when it was used for the last time.
        do(np.multiply, square, self.alpha, out=square)
        do(np.square, grad, out=t)
        do(np.multiply, t, 1 - self.alpha, out=t)
        do(np.add, square, t, out=square)
        if self.centered:
            mean = self._memory("grad_avg", n)
            _decay(do, mean, self.alpha, grad, t)
            do(np.square, mean, out=t)
            do(np.subtract, square, t, out=t)
            do(np.maximum, t, 0.0, out=t)
            do(np.sqrt, t, out=t)
        else:
            do(np.sqrt, square, out=t)
        do(np.add, t, self.eps, out=t)
        do(np.divide, grad, t, out=t)
        if self.momentum:
            buffer = self._memory("momentum_buffer", n)
            do(np.multiply, buffer, self.momentum, out=buffer)
            do(np.add, buffer, t, out=buffer)
            do(np.multiply, buffer, self.lr, out=t)
        else:
            do(np.multiply, t, self.lr, out=t)
        do(np.subtract, data, t, out=data)


def _decay(do: Do, mean: Array, kept: float, value: Array, t: Array) -> None:
    """mean = kept * mean + (1 - kept) * value, with t for the term."""
    do(np.multiply, mean, kept, out=mean)
    do(np.multiply, value, 1 - kept, out=t)
    do(np.add, mean, t, out=mean)


# ---------------------------------------------------------------- schedules


class _Schedule:
    """A learning rate that depends on the number of epochs alone."""

    # The entries of the state that are integers.
    _LEAST: ClassVar = {"last_epoch": 0, "step_size": 1, "T_max": 1}

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be an Optimizer, got {shown(optimizer)}")
        self.optimizer = optimizer
        self.base_lr = optimizer.lr
        self.last_epoch = 0

    def _lr(self) -> float:
        raise NotImplementedError

    def step(self) -> None:
        """Set the learning rate for the next epoch: to be called at the end of each."""
        self.last_epoch += 1
        self.optimizer.lr = self._lr()

    def state_dict(self) -> dict[str, float]:
        """What the next steps depend on, besides the optimizer.

        Returns
        -------
        dict of str to number
        """
        return {name: value for name, value in vars(self).items() if name != "optimizer"}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as the schedule would whose `state_dict` this is.

        Parameters
        ----------
        state : dict
            What `state_dict` returned.  The optimizer's learning rate is in the optimizer's.

        Raises
        ------
        ValueError, TypeError
            If names are missing or unknown, or a value is out of range or of a wrong kind.
            Then the schedule is as it was.
        """
        _check_state(state)
        own = self.state_dict()
        if set(state) != set(own):
            raise ValueError(
                f"the state must have the entries {sorted(own)}, got {sorted(state, key=str)}"
            )
        new: dict[str, float] = {}
        for name, value in state.items():
            if name in self._LEAST:
                new[name] = _integer(np.asarray(value).tolist(), name, self._LEAST[name])
            else:
                new[name] = float(_number(value, name))
        vars(self).update(new)


class StepLR(_Schedule):
    """A learning rate that drops every few epochs.

    Parameters
    ----------
    optimizer : Optimizer
        Whose learning rate it is.
    step_size : int
        Epochs from one drop to the next.
    gamma : float, optional
        What is left of the learning rate after a drop.  Default 0.1.

    Raises
    ------
    ValueError, TypeError
        For arguments out of range or of a wrong kind.

    Notes
    -----
    ``lr = base_lr * gamma ** (epochs // step_size)``, where ``base_lr`` is the optimizer's when
    the schedule is made.  A learning rate set by hand lasts until the next ``step()``.

    Examples
    --------
    >>> from fastcorr import nn, optim
    >>> optimizer = optim.SGD([nn.Parameter(1.0)], lr=0.5)
    >>> schedule = optim.StepLR(optimizer, step_size=2)
    >>> for epoch in range(4):
    ...     print(optimizer.lr)
    ...     schedule.step()
    0.5
    0.5
    0.05
    0.05
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        super().__init__(optimizer)
        self.step_size = _integer(step_size, "step_size", 1)
        self.gamma = float(_number(gamma, "gamma"))

    def _lr(self) -> float:
        with np.errstate(all="ignore"):  # Python's own floats do not overflow to infinity
            factor = np.float64(self.gamma) ** (self.last_epoch // self.step_size)
            return float(self.base_lr * factor)


class CosineAnnealingLR(_Schedule):
    """A learning rate that falls along half a period of the cosine.

    Parameters
    ----------
    optimizer : Optimizer
        Whose learning rate it is.
    T_max : int
        Epochs until the lowest learning rate is reached; then it rises again.
    eta_min : float, optional
        The lowest learning rate.  Default 0.

    Raises
    ------
    ValueError, TypeError
        For arguments out of range or of a wrong kind.

    Notes
    -----
    The schedule of [1]_ without restarts.  A learning rate set by hand lasts until the next
    ``step()``.

    References
    ----------
    .. [1] I. Loshchilov and F. Hutter, "SGDR: stochastic gradient descent with warm restarts",
       ICLR 2017.

    Examples
    --------
    >>> from fastcorr import nn, optim
    >>> optimizer = optim.SGD([nn.Parameter(1.0)], lr=0.5)
    >>> schedule = optim.CosineAnnealingLR(optimizer, T_max=4)
    >>> for epoch in range(5):
    ...     print(round(optimizer.lr, 3))
    ...     schedule.step()
    0.5
    0.427
    0.25
    0.073
    0.0
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        super().__init__(optimizer)
        self.T_max = _integer(T_max, "T_max", 1)
        self.eta_min = float(_number(eta_min, "eta_min"))

    def _lr(self) -> float:
        height = (1 + math.cos(math.pi * self.last_epoch / self.T_max)) / 2
        return self.eta_min + (self.base_lr - self.eta_min) * height


# ---------------------------------------------------------------- clipping


def _limit(value: object, name: str) -> float:
    limit = float(_number(value, name))
    if not limit >= 0:
        raise ValueError(f"{name} must not be negative, got {shown(value)}")
    return limit


def _norm(rows: list[Array], p: float) -> float:
    return float(np.linalg.norm([np.linalg.norm(row, p) for row in rows], p)) if rows else 0.0


def clip_grad_norm(params: Iterable[Parameter], max_norm: float, norm_type: float = 2.0) -> float:
    """Make the gradients shorter if, all together, they are too long.

    Parameters
    ----------
    params : list of Parameter
        Whose gradients.  They are changed in place, all by the same factor.
    max_norm : float
        The norm not to be exceeded.
    norm_type : float, optional
        Which norm: 2 (default), 1, `math.inf` for the largest magnitude, or any other p > 0.

    Returns
    -------
    float
        The norm before, of all gradients as one vector.

    Raises
    ------
    ValueError
        If `max_norm` is negative or `norm_type` not positive.
    TypeError
        If `params` is not a list of parameters.

    Notes
    -----
    As in PyTorch the factor is ``max_norm / (norm + 1e-6)``, if that is below 1.  A norm that
    is infinite or NaN gives gradients that are zero or NaN.

    Examples
    --------
    >>> from fastcorr import nn, optim
    >>> p = nn.Parameter([0.0, 0.0])
    >>> p.grad = [3.0, 4.0]
    >>> optim.clip_grad_norm([p], 1.0)
    5.0
    >>> p.grad.round(3)
    array([0.6, 0.8])
    """
    grads = [p.grad for p in _parameters(params)]
    max_norm = _limit(max_norm, "max_norm")
    p = float(_number(norm_type, "norm_type"))
    if not p > 0:
        raise ValueError(f"norm_type must be positive, got {shown(norm_type)}")
    with np.errstate(all="ignore"):
        # In double precision, in which no sum of squares of single precision overflows.
        rows = [np.abs(g).reshape(-1).astype(np.float64) for g in grads if g.size]
        norm = _norm(rows, p)
        top = max((float(row.max()) for row in rows), default=0.0)
        if norm in (0, math.inf) and 0 < top < math.inf:  # other powers leave the range
            norm = top * _norm([row / top for row in rows], p)
        factor = max_norm / (norm + 1e-6)
        if not factor >= 1:
            for g in grads:
                np.multiply(g, factor, g)
    return norm


def clip_grad_value(params: Iterable[Parameter], clip_value: float) -> None:
    """Make every element of the gradients that is too large smaller.

    Parameters
    ----------
    params : list of Parameter
        Whose gradients.  They are changed in place.
    clip_value : float
        The magnitude not to be exceeded.

    Raises
    ------
    ValueError
        If `clip_value` is negative.
    TypeError
        If `params` is not a list of parameters, or one of them is complex.

    Examples
    --------
    >>> from fastcorr import nn, optim
    >>> p = nn.Parameter([0.0, 0.0])
    >>> p.grad = [3.0, -0.4]
    >>> optim.clip_grad_value([p], 1.0)
    >>> p.grad
    array([ 1. , -0.4])
    """
    grads = [p.grad for p in _parameters(params)]
    limit = _limit(clip_value, "clip_value")
    for g in grads:
        if g.dtype.kind == "c":
            raise TypeError(f"complex gradients have no order to clip by, got {g.dtype}")
    for g in grads:
        np.clip(g, -limit, limit, out=g)
