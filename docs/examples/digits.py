"""A network learns to read handwritten digits:  python docs/examples/digits.py [DIRECTORY]

Needs scikit-learn, which ships the digits; with a directory for the pictures, Matplotlib too.
Exits with 1 if fewer than 98 % of the test digits are read correctly.
"""

import sys
import time
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

from fastcorr import nn, optim, plot


def digits():
    """Images (N, 1, 8, 8) from 0 to 1 and their labels, three quarters of them to learn from."""
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 1, 8, 8).astype(np.float32) / 16
    return train_test_split(images, labels, test_size=0.25, stratify=labels, random_state=0)


def network(rng):
    """LeNet's plan: convolutions, a pooling, dense layers, and a number for each class."""
    return nn.Sequential(
        nn.Conv2d(1, 12, 5, padding=2, rng=rng),
        nn.ReLU(),
        nn.Conv2d(12, 24, 3, padding=1, rng=rng),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(24 * 4 * 4, 64, rng=rng),
        nn.ReLU(),
        nn.Linear(64, 10, rng=rng),
    )


def with_shifts(images, labels):
    """The images, and all of them again, one pixel down, up, to the right and to the left."""
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    corners = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))
    shifted = [padded[:, :, i : i + 8, j : j + 8] for i, j in corners]
    return np.concatenate(shifted), np.tile(labels, len(corners))


def train(images, labels, seed=0, epochs=12):
    """The trained network and what happened on the way."""
    rng = np.random.default_rng(seed)
    model = network(rng)
    optimizer = optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = optim.CosineAnnealingLR(optimizer, epochs)
    history = nn.fit(
        model,
        *with_shifts(images, labels),
        optimizer=optimizer,
        loss=nn.cross_entropy,
        epochs=epochs,
        batch_size=32,
        rng=rng,
        callback=lambda _: schedule.step(),
        progress=sys.stderr.isatty(),
    )
    return model, history


def main():
    train_images, test_images, train_labels, test_labels = digits()
    start = time.perf_counter()
    with threadpool_limits(1):  # layers this small gain nothing from threads
        model, history = train(train_images, train_labels)
    seconds = time.perf_counter() - start
    with nn.no_grad():
        scores = model(test_images)
    wrong = np.count_nonzero(scores.argmax(axis=1) != test_labels)
    accuracy = 1 - wrong / len(test_labels)
    print(
        f"{len(train_labels)} digits learned in {seconds:.1f} s, {len(history.steps)} steps; "
        f"{wrong} of {len(test_labels)} others misread: accuracy {accuracy:.2%}"
    )
    if len(sys.argv) > 1:
        draw(Path(sys.argv[1]), model, history, test_images, test_labels, scores)
    return 0 if accuracy >= 0.98 else 1


# ---------------------------------------------------------------- pictures


def draw(directory, model, history, images, labels, scores):
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    rcParams.update({"font.size": 9, "axes.titlesize": 9})
    directory.mkdir(parents=True, exist_ok=True)

    def save(figure, name):
        path = directory / f"digits-{name}.png"
        figure.savefig(path, dpi=100)
        print(path)

    ink = 1 - images[:, 0]  # dark on white

    figure = Figure((9.6, 1.1), layout="constrained")
    plot.feature_maps(ink[:40], columns=20, ax=figure.subplots())
    save(figure, "data")

    figure = Figure((9.6, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    plot.kernels(model[0].weight.data, ax=left, columns=4, title="kernels of the first layer")
    plot.history(history, ax=right, log=True, title="mean loss of each epoch")
    save(figure, "learned")

    n = np.flatnonzero(labels == 4)[0]
    with nn.no_grad():
        first = model[:2](images[n])
        second = model[2:4](first)
    figure = Figure((9.6, 2.9), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=[3, 4, 6])
    plot.image(ink[n], ax=axes[0], title="a digit")
    plot.feature_maps(first, ax=axes[1], columns=4, title="12 maps of the first layer")
    plot.feature_maps(second, ax=axes[2], columns=6, title="24 maps of the second layer")
    save(figure, "maps")

    found = scores.argmax(axis=1)
    confusions = np.zeros((10, 10), int)
    np.add.at(confusions, (labels, found), 1)
    best, second_best = np.sort(scores, axis=1)[:, :-3:-1].T
    unsure = np.argsort(best - second_best)[:15]
    titles = [f"{labels[n]}, read as {found[n]}" for n in unsure]
    figure = Figure((9.6, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    plot.image(confusions, ax=left, signed=True, limits=(-60, 60), values=True)
    left.set(title="the test digits, counted", xlabel="read as", ylabel="digit")
    left.set(xticks=range(10), yticks=range(10))
    plot.feature_maps(ink[unsure], ax=right, columns=5, titles=titles)
    right.set_title("those it is least sure of")
    save(figure, "mistakes")


if __name__ == "__main__":
    sys.exit(main())
