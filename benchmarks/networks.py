"""Whole networks beside torch, with the same weights: a forward call, and one step of training.

    python benchmarks/networks.py                    # two minutes; --quick: seconds
    python benchmarks/networks.py --only resnet --size 224 --batch 1 8
    python benchmarks/networks.py --workers 2 --markdown table.md

How it is measured: README.md beside this file.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import compare
import layers
import measure
import numpy as np
import numpy.typing as npt
import peers
import threadpoolctl

from fastcorr import nn, optim

Array = npt.NDArray[Any]
Loss = tuple[float, dict[str, Array]]

CLASSES = {"LeNet": 10, "ResNet-18": 1000}
CHANNELS = {"LeNet": 1, "ResNet-18": 3}
# Weights hardly move, so that the thousandth step has the work of the first.
LEARNING_RATE = 1e-6
# Of the loss and of each gradient to its largest element; a sign that rounding turns around in
# front of a ReLU moves gradients by more than rounding itself.
TOLERANCES = {"float32": (1e-4, 1e-2), "float64": (1e-12, 1e-9)}


class Block(nn.Module):
    """Two convolutions, and what went in added to what came out."""

    def __init__(self, body: nn.Sequential, shortcut: nn.Sequential) -> None:
        self.body, self.shortcut, self.relu = body, shortcut, nn.ReLU()

    def _forward(self, x: Array, keep: bool) -> tuple[Array, Any]:
        y, body = self.body._forward(x, keep)
        around, shortcut = self.shortcut._forward(x, keep)
        y += around
        y, relu = self.relu._forward(y, keep)
        return y, (body, shortcut, relu)

    def _backward(self, dy: Array, kept: Any, needs_input_grad: bool) -> Array | None:
        body, shortcut, relu = kept
        dy = self.relu._backward(dy, relu, True)
        dx = self.body._backward(dy, body, needs_input_grad)
        around = self.shortcut._backward(dy, shortcut, needs_input_grad)
        return None if dx is None else np.add(dx, around, out=dx)


def torchs_block(body: Any, shortcut: Any) -> Any:
    import torch

    class TorchsBlock(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.shortcut = body, shortcut
            self.relu = torch.nn.ReLU(inplace=True)

        def forward(self, x: Any) -> Any:
            y = self.body(x)
            y += self.shortcut(x)
            return self.relu(y)

    return TorchsBlock()


@dataclass(frozen=True)
class Library:
    """Where layers come from: fastcorr and torch give them the same names."""

    nn: Any
    relu: Any
    block: Any
    dtype: Any

    def conv(self, channels: int, filters: int, kernel: int, stride: int = 1, padding: int = 0):
        return self.nn.Conv2d(channels, filters, kernel, stride, padding, dtype=self.dtype)

    def linear(self, inputs: int, outputs: int):
        return self.nn.Linear(inputs, outputs, dtype=self.dtype)


def ours(dtype: str) -> Library:
    return Library(nn, nn.ReLU, Block, dtype)


def torchs(dtype: str) -> Library:
    import torch

    def relu() -> Any:
        return torch.nn.ReLU(inplace=True)  # as in torchvision's networks

    return Library(torch.nn, relu, torchs_block, getattr(torch, dtype))


def lenet(lib: Library, size: int) -> Any:
    after = ((size // 2) - 4) // 2
    return lib.nn.Sequential(
        lib.conv(1, 6, 5, padding=2),
        lib.relu(),
        lib.nn.MaxPool2d(2),
        lib.conv(6, 16, 5),
        lib.relu(),
        lib.nn.MaxPool2d(2),
        lib.nn.Flatten(),
        lib.linear(16 * after**2, 120),
        lib.relu(),
        lib.linear(120, 84),
        lib.relu(),
        lib.linear(84, CLASSES["LeNet"]),
    )


def resnet18(lib: Library, size: int) -> Any:
    """Without batch norm, so convolutions have a bias."""

    def block(channels: int, filters: int, stride: int) -> Any:
        body = lib.nn.Sequential(
            lib.conv(channels, filters, 3, stride, 1),
            lib.relu(),
            lib.conv(filters, filters, 3, 1, 1),
        )
        around = [lib.conv(channels, filters, 1, stride)] if channels != filters else []
        return lib.block(body, lib.nn.Sequential(*around))

    stages = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
    return lib.nn.Sequential(
        lib.conv(3, 64, 7, 2, 3),
        lib.relu(),
        lib.nn.MaxPool2d(3, 2, 1),
        *(
            block(*widths)
            for channels, filters, stride in stages
            for widths in ((channels, filters, stride), (filters, filters, 1))
        ),
        lib.nn.AvgPool2d(math.ceil(size / 32)),
        lib.nn.Flatten(),
        lib.linear(512, CLASSES["ResNet-18"]),
    )


MAKERS = {"LeNet": lenet, "ResNet-18": resnet18}


@dataclass(frozen=True)
class Case:
    network: str
    size: int
    batch: int
    dtype: str

    def data(self) -> tuple[Array, Array]:
        """Images, and their classes."""
        rng = np.random.default_rng(0)
        shape = (self.batch, CHANNELS[self.network], self.size, self.size)
        x = rng.standard_normal(shape, np.dtype(self.dtype).type)
        return x, rng.integers(0, CLASSES[self.network], self.batch)

    def ours(self) -> Ours:
        model = MAKERS[self.network](ours(self.dtype), self.size)
        rng = np.random.default_rng(1)
        for p in model.parameters():
            # Signals keep their size from layer to layer; so do gradients on the way back.
            p.data = rng.standard_normal(p.shape) / math.sqrt(max(math.prod(p.shape[1:]), 10))
        return Ours(model, *self.data())

    def torchs(self, weights: dict[str, Array], dtype: str | None = None) -> Torchs:
        """torch's network with these weights, on the same images, all converted beforehand."""
        import torch

        lib = torchs(dtype or self.dtype)
        model = MAKERS[self.network](lib, self.size)
        model.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()})
        x, labels = self.data()
        return Torchs(model, torch.from_numpy(x).to(lib.dtype), torch.from_numpy(labels))


class Ours:
    def __init__(self, model: Any, x: Array, labels: Array) -> None:
        self.model, self.x, self.labels = model, x, labels
        self.descent = optim.SGD(model.parameters(), lr=LEARNING_RATE)

    def forward(self) -> Array:
        with nn.no_grad():
            return self.model(self.x)

    def step(self) -> float:
        loss, dy = nn.cross_entropy(self.model(self.x), self.labels)
        self.descent.zero_grad()
        self.model.backward(dy, needs_input_grad=False)
        self.descent.step()
        return loss

    def gradients(self) -> dict[str, Array]:
        return {name: p.grad for name, p in self.model.named_parameters()}


class Torchs:
    def __init__(self, model: Any, x: Any, labels: Any) -> None:
        import torch

        self.model, self.x, self.labels = model, x, labels
        self.cross_entropy = torch.nn.functional.cross_entropy
        self.inference = torch.inference_mode
        self.descent = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)

    def forward(self) -> Any:
        with self.inference():
            return self.model(self.x)

    def step(self) -> Any:
        loss = self.cross_entropy(self.model(self.x), self.labels)
        self.descent.zero_grad()
        loss.backward()
        self.descent.step()
        return loss.detach()

    def gradients(self) -> dict[str, Array]:
        return {name: p.grad.numpy() for name, p in self.model.named_parameters()}


def errors(case: Case, us: Ours, them: Torchs, exact: Torchs) -> dict[str, list[float]]:
    """Of ours and torch's: of the forward call, and the largest of any gradient of a step.

    Relative to the largest element of what the same network gives in float64.
    """
    right = exact.forward().numpy()
    forward = [_error(np.asarray(n.forward()), right) for n in (us, them)]
    loss = float(exact.step())
    losses = [abs(float(n.step()) - loss) / loss for n in (us, them)]
    right = exact.gradients()
    steps = []
    for network in (us, them):
        found = network.gradients()
        assert found.keys() == right.keys(), f"{case}: {found.keys()}"
        steps.append(max(_error(found[name], right[name]) for name in right))
    rounding, kinks = TOLERANCES[case.dtype]
    if not (max(*forward, *losses) <= rounding and max(steps) <= kinks):
        raise AssertionError(f"{case}: errors {forward} forward, {losses} loss, {steps} gradients")
    return {"forward": forward, "training step": steps}


def _error(y: Array, right: Array) -> float:
    if y.shape != right.shape:
        raise AssertionError(f"{y.shape} instead of {right.shape}")
    return layers.relative_error(y, right)


HEAD = (
    "| network | images | dtype | threads | what | ms | torch ms | x | error | torch's error |",
    "| --- | --- | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
)


def lines(cases: Sequence[Case], workers: int, watch: measure.Stopwatch) -> Iterator[str]:
    """The rows of the table, each when it is known."""
    for case in cases:
        us = case.ours()
        weights = us.model.state_dict()
        them = case.torchs(weights)
        found = errors(case, us, them, case.torchs(weights, "float64"))
        for what, calls in (
            ("forward", {"ours": us.forward, "torch": them.forward}),
            ("training step", {"ours": us.step, "torch": them.step}),
        ):
            times = watch.interleave(calls, workers > 1)
            mine, other = times["ours"].least, times["torch"].least
            error, torchs_error = found[what]
            last = f"{torchs_error:.0e}" if case.dtype == "float32" else ""
            yield (
                f"| {case.network} | {case.batch} x {CHANNELS[case.network]} x {case.size}² | "
                f"{case.dtype} | {workers} | {what} | {mine * 1e3:.3g} | {other * 1e3:.3g} | "
                f"{other / mine:.2f} | {error:.0e} | {last} |"
            )


NOTES = """\
Milliseconds, the least of many, both networks in turns.  x: torch's time over ours.  Error: the
largest difference from the same network in float64 (torch's) over its largest element; of a
training step the largest of all parameters' gradients.
"""


def main() -> int:
    layers.free_openblas()
    parser = argparse.ArgumentParser(description="whole networks beside torch")
    parser.add_argument("--quick", action="store_true", help="one image each, float32, seconds")
    parser.add_argument("--only", default="", metavar="PATTERN", help="networks with such a name")
    parser.add_argument(
        "--dtype", type=layers.names(layers.DTYPES), help="default: float32,float64"
    )
    parser.add_argument(
        "--size", type=int, nargs="+", metavar="N", help="ResNet's images, N² (default: 64 112)"
    )
    parser.add_argument("--batch", type=int, nargs="+", metavar="N", help="default: 1 8 64; 1 8")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="threads (default: 1)")
    parser.add_argument("--seconds", type=float, help="time for each row (default: 3)")
    parser.add_argument(
        "--cpu-time", action="store_true", help="one thread, on a machine that is not idle"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table here too")
    args = parser.parse_args()

    if peers.installed("torch") is None:
        parser.exit(2, "networks.py measures beside torch, which is not installed\n")
    if min([args.workers, *(args.batch or []), *(args.size or [])]) < 1:
        parser.error("--workers, --batch and --size take positive numbers")
    layers.set_threads(args.workers)
    # Dense layers are NumPy's products of matrices, whose threads are another library's.
    threadpoolctl.threadpool_limits(args.workers, user_api="blas")

    def few(values: Sequence[Any]) -> Sequence[Any]:
        return values[:1] if args.quick else values

    cases = [
        Case(network, size, batch, dtype)
        for dtype in args.dtype or few(layers.DTYPES)
        for network, sizes, batches in (
            ("LeNet", [28], few([1, 8, 64])),
            ("ResNet-18", args.size or few([64, 112]), few([1, 8])),
        )
        if re.search(args.only, network, re.IGNORECASE)
        for size in sizes
        for batch in args.batch or batches
    ]
    if not cases:
        parser.error(f"--only {args.only!r} finds no network")
    watch = measure.Stopwatch(args.seconds or (0.2 if args.quick else 3.0), args.cpu_time)
    shown: list[str] = []

    def show(*more: str) -> None:
        shown.extend(more)
        print(*more, sep="\n", flush=True)

    warning = compare.idle_warning()
    show(*(f"- {fact}" for fact in compare.machine()), *([f"- {warning}"] if warning else []), "")
    show(*HEAD)
    for row in lines(cases, args.workers, watch):
        show(row)
    show("", NOTES)
    if args.markdown:
        args.markdown.write_text("\n".join(shown).rstrip() + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
