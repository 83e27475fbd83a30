"""Pictures: what is drawn is what was given, on the Axes that were given, and nowhere else."""

import doctest
import inspect
import subprocess
import sys

import numpy as np
import pytest

from fastcorr import plot
from fastcorr.receptive import receptive_field, receptive_field_mask

matplotlib = pytest.importorskip("matplotlib")
from matplotlib.colors import to_rgba  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

TIMES = "\N{MULTIPLICATION SIGN}"
SOBEL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])


@pytest.fixture
def ax():
    figure = Figure((6, 4), layout="constrained")
    yield figure.subplots()
    figure.draw_without_rendering()


@pytest.fixture
def no_pyplot(monkeypatch):
    """Any use of pyplot is an error."""
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)


def drawn(ax, n=0):
    """The array behind a picture; gaps are NaN."""
    return np.ma.filled(ax.images[n].get_array().astype(float), np.nan)


def cells(ax, h, w):
    """The cells of a grid, from the frames drawn around them."""
    big = drawn(ax)
    (lines,) = ax.collections
    corners = [np.rint(path.vertices[0] + 0.5).astype(int) for path in lines.get_paths()]
    found = np.array([big[i : i + h, j : j + w] for j, i in corners])
    assert np.isfinite(big).sum() == np.isfinite(found).sum()
    return found, corners


def texts(ax):
    return [t.get_text().replace("\N{MINUS SIGN}", "-") for t in ax.texts]


# ---------------------------------------------------------------- all of them

CALLS = {
    "image": lambda ax: plot.image(SOBEL, ax=ax, title="t"),
    "kernels": lambda ax: plot.kernels(SOBEL, ax=ax, title="t"),
    "feature_maps": lambda ax: plot.feature_maps(SOBEL, ax=ax, title="t"),
    "history": lambda ax: plot.history([3, 2, 1], ax=ax, title="t"),
    "receptive_field": lambda ax: plot.receptive_field({"kernel_size": 3}, ax=ax, title="t"),
}


@pytest.mark.parametrize("name", CALLS)
def test_given_axes(name, ax, no_pyplot):
    assert CALLS[name](ax) is ax
    assert ax.get_title() == "t"
    assert ax.figure.axes == [ax]


@pytest.mark.parametrize("name", CALLS)
def test_current_axes(name):
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    _, (first, second) = plt.subplots(1, 2)
    try:
        plt.sca(first)
        assert CALLS[name](None) is first
        assert plt.get_fignums() == [1]
        assert not second.has_data()
    finally:
        plt.close("all")


def test_all_are_tested():
    assert sorted(CALLS) == plot.__all__
    for name in plot.__all__:
        doc = inspect.getdoc(getattr(plot, name))
        assert len(doc.splitlines()[0]) <= 88
        assert doc.splitlines()[0].endswith(".")
        assert "Examples\n-----" in doc


@pytest.mark.parametrize("name", CALLS)
def test_examples(name):
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    (example,) = doctest.DocTestFinder(recurse=False).find(getattr(plot, name), name, plot)
    runner = doctest.DocTestRunner()
    runner.run(example)
    plt.close("all")
    assert runner.summarize().failed == 0
    assert runner.tries > 1


def test_import_is_light():
    code = "import sys; import fastcorr.plot; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["kernels", "feature_maps"])
def test_inputs_stay_as_they_are(name, ax):
    x = np.arange(24.0).reshape(2, 3, 4)
    before = x.tobytes()
    getattr(plot, name)(x, ax=ax, scale="each", titles=["a", "b"])
    assert x.tobytes() == before


# ---------------------------------------------------------------- image


def test_image(ax):
    y = np.array([[0.0, 1.0, -0.0], [2.5, -3.0, 0.0]])
    plot.image(y, ax=ax, title="y", signed=True, values=True)
    assert texts(ax) == ["0", "1", "0", "2.5", "-3", "0"]
    assert ax.images[0].get_clim() == (-3, 3)
    np.testing.assert_array_equal(drawn(ax), y)
    assert plot.image(y, ax=Figure().subplots()).images[0].get_clim() == (-3, 2.5)
    assert plot.image(y * np.nan, ax=Figure().subplots()).images[0].get_clim() == (0, 1)
    assert not matplotlib.rcParams["figure.constrained_layout.use"]


# ---------------------------------------------------------------- kernels


@pytest.mark.parametrize("shape", [(7, 1, 3, 2), (7, 3, 2), (3, 2), (1, 1, 1, 1), (5, 1, 40, 9)])
@pytest.mark.parametrize("titled", [False, True])
def test_every_kernel_is_in_the_grid(shape, titled, ax, rng):
    w = rng.integers(-9, 10, shape).astype(np.float32)
    flat = w.reshape(-1, *shape[-2:])
    titles = [f"kernel {n}" for n in range(len(flat))] if titled else None
    plot.kernels(w, ax=ax, titles=titles)
    found, corners = cells(ax, *shape[-2:])
    np.testing.assert_array_equal(found, flat)
    assert len({tuple(c) for c in corners}) == len(flat)
    assert texts(ax) == (titles or [])
    top = np.abs(w).max() or 1
    assert ax.images[0].get_clim() == (-top, top)
    white, blue, red = (ax.images[0].to_rgba(v) for v in (0.0, -top, top))
    assert min(white[:3]) > 0.95
    assert blue[2] > blue[0]
    assert red[0] > red[2]


@pytest.mark.parametrize(
    ("count", "columns", "grid"),
    [(7, 3, (3, 3)), (7, 1, (7, 1)), (7, 100, (1, 7)), (2, None, (1, 2)), (9, None, (3, 3))],
)
def test_columns(count, columns, grid, ax):
    plot.kernels(np.arange(count * 9).reshape(count, 3, 3), ax=ax, columns=columns)
    _, corners = cells(ax, 3, 3)
    j, i = np.transpose(corners)
    assert (len(set(i)), len(set(j))) == grid
    np.testing.assert_array_equal(np.lexsort((j, i)), np.arange(count))  # row by row


def test_rows_are_outputs_and_columns_inputs(ax, rng):
    w = rng.standard_normal((4, 3, 5, 2))
    plot.kernels(w, ax=ax)
    found, corners = cells(ax, 5, 2)
    np.testing.assert_array_equal(found.reshape(w.shape), w)
    j, i = np.transpose(corners).reshape(2, 4, 3)
    assert (j == j[0]).all()
    assert (i == i[:, :1]).all()
    assert [t.get_text() for t in ax.get_yticklabels()] == ["0", "1", "2", "3"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "1", "2"]
    np.testing.assert_array_equal(ax.get_yticks(), i[:, 0] + 2)
    np.testing.assert_array_equal(ax.get_xticks(), j[0] + 0.5)
    assert "output" in ax.get_ylabel()


def test_many_channels_have_some_labels(ax):
    plot.kernels(np.ones((50, 2, 1, 1)), ax=ax)
    labels = [t.get_text() for t in ax.get_yticklabels()]
    assert labels == [str(n) for n in range(0, 50, 3)]


def test_each_its_own_scale(ax):
    small, large = np.array([[[1.0, -2.0]], [[50.0, 100.0]]])
    plot.kernels([small, large, 0 * large], ax=ax, scale="each")
    found, _ = cells(ax, 1, 2)
    np.testing.assert_array_equal(found, [[[0.5, -1]], [[0.5, 1]], [[0, 0]]])
    assert ax.images[0].get_clim() == (-1, 1)
    plot.kernels([small, large], ax=(common := Figure().subplots()), limits=(-10, 10))
    assert common.images[0].get_clim() == (-10, 10)


def test_values(ax):
    plot.kernels([SOBEL, SOBEL.T / 8], ax=ax, values=True, titles=["x", "y"])
    assert texts(ax)[:2] == ["x", "y"]
    assert texts(ax)[2:11] == [f"{v}" for v in SOBEL.ravel()]
    assert texts(ax)[11:] == [f"{v:.3g}" for v in SOBEL.T.ravel() / 8]
    _, corners = cells(ax, 3, 3)
    first = ax.texts[11].get_position()
    assert first == tuple(corners[1])
    # Dark cells have light digits.
    colour = {t.get_text(): t.get_color() for t in ax.texts}
    assert colour["2"] == "w"
    assert colour["0"] == "k"


def test_titles_do_not_lie_on_the_kernels(ax):
    plot.kernels(np.ones((12, 3, 3)), ax=ax, titles=[f"Kernel {n}" for n in range(12)])
    ax.figure.draw_without_rendering()
    boxes = [t.get_window_extent() for t in ax.texts]
    (frames,) = ax.collections
    for box in boxes:
        for path in frames.get_paths():
            (left, low), (right, high) = sorted(
                ax.transData.transform(path.vertices[[0, 2]]).tolist()
            )
            low, high = sorted((low, high))
            apart = box.x1 <= left or box.x0 >= right or box.y1 <= low + 1 or box.y0 >= high - 1
            assert apart


@pytest.mark.parametrize(
    ("call", "culprit"),
    [
        (lambda: plot.image(None), "x must be real numbers, got object"),
        (lambda: plot.image("text"), "x must be real numbers"),
        (lambda: plot.image([[1, 2], [3]]), "x is no array"),
        (lambda: plot.image(np.ones(3)), r"x must have shape .*\(3,\)"),
        (lambda: plot.image(np.ones((3, 3, 2))), "x must have shape"),
        (lambda: plot.image(np.ones((0, 3))), "x must have shape"),
        (lambda: plot.image(np.ones((2, 2), complex)), "x must be real numbers, got complex128;"),
        (lambda: plot.image(np.ones((3, 3, 3)), values=True), "values"),
        (lambda: plot.image(SOBEL, limits=(2, 1)), r"limits must be .*\(2, 1\)"),
        (lambda: plot.kernels(SOBEL, limits=(0, np.nan)), "limits must be finite"),
        (lambda: plot.kernels(np.ones(3)), r"weight must have shape .*\(3,\)"),
        (lambda: plot.kernels(np.ones((1,) * 5)), "weight must have shape"),
        (lambda: plot.kernels(np.ones((0, 3, 3))), "weight must have shape"),
        (lambda: plot.kernels(np.ones((3, 3), complex)), "weight must be real"),
        (lambda: plot.kernels(np.ones((2, 3, 3)), titles=["a"]), "titles must be 2"),
        (lambda: plot.kernels(np.ones((2, 3, 3)), scale="row"), "scale must be .*'row'"),
        (lambda: plot.kernels(np.ones((2, 3, 3)), columns=0), "columns must be at least 1"),
        (lambda: plot.kernels(np.ones((2, 4, 3, 3)), columns=2), "4 input channels"),
        (lambda: plot.feature_maps(np.ones((2, 4, 3, 3))), r"y\[0\]"),
        (lambda: plot.feature_maps(np.ones(4)), "y must have shape"),
        (lambda: plot.feature_maps(np.ones((4, 0, 3))), "y must have shape"),
        (lambda: plot.feature_maps(np.ones((4, 3), complex)), "y must be real"),
        (lambda: plot.history([]), "no number"),
        (lambda: plot.history({}), "no number"),
        (lambda: plot.history([[1, 2], [3, 4]]), "'loss' must be a sequence"),
        (lambda: plot.history({"a": [1j]}), "'a' must be real"),
        (lambda: plot.receptive_field([]), "layers is empty"),
        (lambda: plot.receptive_field({"kernel_size": 3}, (2, 2)), "too small"),
        (
            lambda: plot.receptive_field({"kernel_size": 3}, (9, 8), picture=np.ones((8, 8))),
            r"\(9, 8\) is not that of picture, \(8, 8\)",
        ),
        (lambda: plot.receptive_field({"kernel_size": 3}, picture=np.ones(8)), "picture"),
    ],
)
def test_errors(call, culprit, no_pyplot):
    with pytest.raises(ValueError, match=culprit):
        call()


@pytest.mark.parametrize("name", CALLS)
def test_no_axes(name, no_pyplot):
    with pytest.raises(TypeError, match=r"ax must be .* got 5"):
        CALLS[name](5)


@pytest.mark.parametrize(
    ("words", "culprit"),
    [
        ({"titles": 5}, "titles must be .* got 5"), ({"titles": "a"}, "titles must be .* got 'a'"),
        ({"columns": "a"}, "columns must be an integer, got 'a'"),
        ({"columns": 1.5}, "columns"), ({"limits": 3}, "limits must be a pair of numbers, got 3"),
        ({"limits": "12"}, "limits"), ({"limits": (1, 2, 3)}, "limits"),
    ],
)  # fmt: skip
def test_wrong_kinds(words, culprit, no_pyplot):
    for draw in (plot.kernels, plot.feature_maps, plot.image):
        if draw is not plot.image or "limits" in words:
            with pytest.raises(TypeError, match=culprit):
                draw(SOBEL, **words)


@pytest.mark.parametrize(
    ("weight", "width"),
    [
        (np.linspace(-1, 1, 105).reshape(7, 5, 3), 6), (np.full((5, 5), -1.2345e-05), 2),
        (np.full((1, 9), -123456.0), 6), (np.full((9, 1), 0.125), 4), (SOBEL * 1e-310, 4),
    ],
)  # fmt: skip
@pytest.mark.parametrize("draw", [plot.kernels, plot.image])
def test_values_fit_their_cells(draw, weight, width):
    """No text is wider or higher than its cell, on small axes too."""
    figure = Figure((width, 3), layout="constrained")
    axes = figure.subplots(1, 2)
    x = weight.reshape(-1, weight.shape[-1]) if draw is plot.image else weight
    draw(x, ax=axes[0], values=True, title="title")
    figure.draw_without_rendering()
    (left, low), (right, high) = axes[0].transData.transform([(0, 1), (1, 0)])
    for text in axes[0].texts:
        box = text.get_window_extent()
        assert box.width <= right - left + 1, text  # glyphs of whole pixels
        assert box.height * 0.75 <= high - low, text  # without what the line leaves free
    assert len(axes[0].texts) == weight.size
    assert not any(text == "nan" for text in texts(axes[0]))


def test_short_numbers(ax):
    plot.image([[1e-5, 1.26e10, 100.0, 1e-300]], ax=ax, values=True)
    assert texts(ax) == ["1e-5", "1.26e10", "100", "1e-300"]
    plot.image(np.full((1, 40), 123.4), ax=(crowded := Figure().subplots()), values=True)
    assert texts(crowded)[0] == "123"
    plot.image(np.full((1, 40), 0.1234), ax=(crowded := Figure().subplots()), values=True)
    assert texts(crowded)[0] == "0.12"


# ---------------------------------------------------------------- feature maps


def test_feature_maps(ax, rng):
    y = rng.standard_normal((5, 30, 40))
    plot.feature_maps(y[np.newaxis], ax=ax, titles=list("abcde"))
    found, _ = cells(ax, 30, 40)
    np.testing.assert_array_equal(found, y)
    low, high = ax.images[0].get_clim()
    assert low == -high
    assert np.mean(np.abs(y) > high) == pytest.approx(0.005, abs=0.001)
    assert ax.images[0].get_cmap().name == "RdBu_r"
    assert texts(ax) == list("abcde")


def test_grey_feature_maps(ax):
    y = np.arange(10.0 * 12).reshape(2, 5, 12)
    plot.feature_maps(y, ax=ax, scale="each")
    found, _ = cells(ax, 5, 12)
    assert ax.images[0].get_cmap().name == "gray"
    assert ax.images[0].get_clim() == (0, 1)
    np.testing.assert_allclose(found[0], found[1])
    assert plot.feature_maps(y, ax=Figure().subplots(), signed=True).images[0].get_clim()[0] < 0
    ones = plot.feature_maps(np.eye(30), ax=Figure().subplots())
    assert ones.images[0].get_clim() == (0, 1)


# ---------------------------------------------------------------- history


def curves(ax):
    return {line.get_label(): line.get_ydata().tolist() for line in ax.lines}


def test_history_of_numbers(ax):
    plot.history((3, 2.5, 1), ax=ax)
    assert [*curves(ax).values()] == [[3, 2.5, 1]]
    assert ax.lines[0].get_xdata().tolist() == [1, 2, 3]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()) == ("step", "loss", "linear")


def test_history_of_several(ax):
    names = [f"run {n}" for n in range(9)]
    plot.history({name: np.arange(n, 40.0) for n, name in enumerate(names)}, ax=ax, log=True,
                 xlabel="epoch")  # fmt: skip
    assert [*curves(ax)] == names
    assert ax.get_yscale() == "log"
    assert ax.get_xlabel() == "epoch"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == names
    looks = {(line.get_color(), line.get_linestyle()) for line in ax.lines}
    assert len(looks) == 9
    assert np.isnan(curves(ax)["run 0"][0])  # 0 has no logarithm


def test_history_of_a_fit(ax):
    nn, optim = pytest.importorskip("fastcorr.nn"), pytest.importorskip("fastcorr.optim")
    layer = nn.Conv2d(1, 1, 1, rng=0, dtype="float64")
    x = np.random.default_rng(0).standard_normal((4, 1, 5, 5))
    h = nn.fit(layer, x, 2 * x, optimizer=optim.SGD(layer.parameters(), lr=0.1), loss=nn.mse_loss,
               epochs=3, batch_size=2, rng=0, progress=False)  # fmt: skip
    plot.history(h, ax=ax, log=True)
    (curve,) = curves(ax).values()
    assert len(curve) == 3
    assert curve[0] > curve[-1] > 0
    assert ax.get_xlabel() == "epoch"
    one = plot.history(nn.History(loss=[1.5], steps=[2.0, 1.0]), ax=Figure().subplots())
    assert curves(one) == {"loss": [2.0, 1.0]}
    assert one.get_xlabel() == "step"


# ---------------------------------------------------------------- receptive fields


def conv(k, **words):
    return {"kernel_size": k, **words}


class Conv2d:
    def __init__(self, **words):
        self.__dict__.update(words)


def frames(ax):
    """Rows and columns of every unfilled rectangle but the input's outline."""
    boxes = [
        (p.get_y() + 0.5, p.get_x() + 0.5, p.get_height(), p.get_width())
        for p in ax.patches
        if not p.get_fill()
    ]
    return [tuple(int(n) for n in box) for box in boxes[1:]]


def test_fields_within_fields(ax):
    layers = [conv(3), lambda x: x, conv(2, stride=2), conv(1), conv(3, dilation=2)]
    plot.receptive_field(layers, ax=ax)
    fields = receptive_field(layers)
    assert [frame[2:] for frame in frames(ax)] == [(3, 3), (4, 4), (12, 12)]
    assert fields[-1].size == (12, 12)
    # Just large enough, with the same margin on each side; each within the next.
    assert drawn(ax).shape[:2] == (16, 16)
    assert frames(ax)[-1] == (2, 2, 12, 12)
    for (i, j, h, w), (a, b, height, width) in zip(frames(ax), frames(ax)[1:], strict=False):
        assert a <= i < i + h <= a + height
        assert b <= j < j + w <= b + width
    # What is coloured is the mask, holes and all.
    coloured = (drawn(ax) != 1).any(axis=2)
    np.testing.assert_array_equal(coloured, receptive_field_mask(layers, (16, 16), (1, 1)))
    labels = [t.get_text().replace(TIMES, "x") for t in ax.get_legend().get_texts()]
    assert labels == [
        "3 x 3  after layer 3 x 3",
        "4 x 4  after layer 2 x 2, stride 2",
        "12 x 12  after layer 3 x 3, dilation 2",
    ]


def test_fields_in_the_padding(ax):
    layers = [Conv2d(kernel_size=(3, 5), padding=(1, 2))] * 2
    plot.receptive_field(layers, (6, 7), position=(0, 6), ax=ax)
    # Of rows -1, 0, 1 and columns 4 to 8 the middle one that is no padding is row 1, column 5.
    assert frames(ax) == [(0, 3, 3, 5), (-2, 2, 5, 9)]
    assert ax.get_ylim() == (5.5, -2.5)
    assert ax.get_xlim() == (-0.5, 10.5)
    assert ax.get_legend().get_texts()[-1].get_text() == "padding"
    coloured = (drawn(ax) != 1).any(axis=2)
    np.testing.assert_array_equal(coloured, receptive_field_mask(layers, (6, 7), (0, 6)))


def test_field_on_a_picture(ax):
    x = np.random.default_rng(0).random((90, 80))
    layers = [Conv2d(kernel_size=5, stride=3)] * 3
    plot.receptive_field(layers, picture=x, position=(1, 1), ax=ax)
    np.testing.assert_array_equal(drawn(ax), x)
    veil = np.asarray(ax.images[1].get_array())[..., 3]
    np.testing.assert_array_equal(veil == 0, receptive_field_mask(layers, (90, 80), (1, 1)))
    assert f"Conv2d 5 {TIMES} 5, stride 3" in ax.get_legend().get_texts()[0].get_text()


def test_fields_that_read_only_padding(ax):
    plot.receptive_field([conv(3), conv(1, padding=2)], (9, 9), position=(0, 0), ax=ax)
    assert len(frames(ax)) == 1


def test_colours_differ_in_lightness(ax):
    plot.receptive_field([conv(3)] * 5, ax=ax)
    handles = ax.get_legend().legend_handles
    grey = [np.dot(to_rgba(p.get_facecolor())[:3], (0.299, 0.587, 0.114)) for p in handles]
    assert (np.diff(grey) > 0.05).all()
