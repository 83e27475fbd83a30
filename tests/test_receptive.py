"""Receptive fields: the closed form by hand and by brute force, the mask by gradients."""

import numpy as np
import pytest

from fastcorr.conv import conv2d, conv2d_backward
from fastcorr.receptive import ReceptiveField, receptive_field, receptive_field_mask

PAIRS = ("size", "jump", "offset")


def conv(k, **words):
    return {"kernel_size": k, **words}


class ReLU:
    """Any layer without a kernel."""

    def __call__(self, x):
        return x


class Pool:
    """A layer with attributes, some of them missing or None, as poolings have them."""

    def __init__(self, kernel_size, stride=None, padding=0, ceil_mode=False):
        self.kernel_size, self.stride = kernel_size, stride
        self.padding, self.ceil_mode = padding, ceil_mode


class Sequential:
    def __init__(self, *layers):
        self.layers = layers

    def __iter__(self):
        return iter(self.layers)


# ---------------------------------------------------------------- the closed form

VGG16 = [
    layer
    for count in (2, 2, 3, 3, 3)
    for layer in [conv(3, padding=1)] * count + [conv(2, stride=2)]
]
ALEXNET = [
    conv(11, stride=4, padding=2), conv(3, stride=2), conv(5, padding=2), conv(3, stride=2),
    conv(3, padding=1), conv(3, padding=1), conv(3, padding=1), conv(3, stride=2),
]  # fmt: skip


def test_networks_of_the_literature():
    """The sizes of Araujo, Norris and Sim: AlexNet 195, VGG-16 212, both of jump 32."""
    assert receptive_field(ALEXNET)[-1] == ((195, 195), (32, 32), (-66, -66))
    assert receptive_field(VGG16)[-1] == ((212, 212), (32, 32), (-90, -90))
    assert receptive_field_mask(VGG16, (224, 224), (3, 3)).sum() == 212 * 212


def test_by_hand():
    layers = [
        conv((3, 1), padding=(1, 0)), ReLU(), conv(2, stride=(2, 3)),
        conv((1, 3), dilation=(5, 2), padding=((0, 1), (4, 0))),
    ]  # fmt: skip
    assert receptive_field(layers) == [
        ((3, 1), (1, 1), (-1, 0)),
        ((3, 1), (1, 1), (-1, 0)),
        ((4, 2), (2, 3), (-1, 0)),
        ((4, 14), (2, 3), (-1, -12)),
    ]
    first = receptive_field(layers)[0]
    assert isinstance(first, ReceptiveField)
    assert all(isinstance(n, int) for name in PAIRS for n in getattr(first, name))


def test_chains_of_all_kinds():
    """Dicts, objects and chains within chains are the same; a generator and one layer too."""
    pool, relu = Pool(2), ReLU()
    plain = [
        conv(3),
        {"kernel_size": 2, "stride": 2},
        conv(5),
        {"kernel_size": (2, 2), "stride": 2},
    ]
    chained = Sequential(conv(3), pool, Sequential(conv(5), Sequential(pool)))
    assert receptive_field(chained) == receptive_field(plain)
    assert receptive_field(layer for layer in plain) == receptive_field(plain)
    assert receptive_field(pool) == receptive_field([pool])
    assert receptive_field(conv(3)) == receptive_field([conv(3)])
    assert receptive_field([relu]) == [((1, 1), (1, 1), (0, 0))]
    assert receptive_field([]) == []
    assert receptive_field([conv(2, stride=None)]) == receptive_field([conv(2, stride=2)])
    assert receptive_field([conv(3, in_channels=1, out_channels=4, groups=1, bias=False)])
    numpy_int = conv(np.int64(3), stride=np.array([1, 2]))
    assert receptive_field(numpy_int)[0].jump == (1, 2)


def test_same():
    """'same' with stride: total padding max((ceil(n / s) - 1) s + span - n, 0), the rest after."""
    assert receptive_field([conv(4, padding="same", dilation=3)])[0].offset == (-4, -4)
    strided = [conv(3), conv(5, stride=3, padding="same")]
    # From 12 x 11 come 10 x 9, padded by 4 and 2.
    assert receptive_field(strided, (12, 11))[-1] == ((7, 7), (3, 3), (-2, -1))
    assert receptive_field(strided, (3, 1, 12, 11)) == receptive_field(strided, (12, 11))
    with pytest.raises(ValueError, match="input_shape"):
        receptive_field(strided)
    # A stride beyond the kernel: no padding, none negative.
    assert receptive_field([conv(1, stride=4, padding="same")], (6, 6))[0].offset == (0, 0)


# ---------------------------------------------------------------- the mask, by gradients


def pads(layer, shape):
    """The padding of a layer, as conv2d takes it; with ceil_mode the zeros that make up for it."""
    if not layer.get("ceil_mode"):
        return layer.get("padding", 0)
    both = []
    for n, taps, s, p in zip(shape, layer["kernel_size"], layer["stride"], layer["padding"],
                             strict=True):  # fmt: skip
        count = -(-(n + 2 * p - taps) // s) + 1
        if (count - 1) * s >= n + p:  # PyTorch: no window begins behind the end
            count -= 1
        both.append((p, max((count - 1) * s + taps - n - p, 0)))
    return tuple(both)


def passes(layers, shape, rng):
    """The input and the arguments of every convolution of a chain, and the output's shape."""
    x, calls = np.ones((1, 2, *shape)), []
    for layer in layers:
        weight = rng.integers(1, 4, (2, 2, *layer["kernel_size"])).astype(float)
        words = {key: layer[key] for key in ("stride", "dilation", "padding_mode") if key in layer}
        words["padding"] = pads(layer, x.shape[2:])
        calls.append((x, weight, words))
        x = np.minimum(conv2d(x, weight, **words), 1)
    return calls, x.shape


def gradient_mask(calls, shape, position):
    """Where the gradient of an output element is not 0: all weights are positive."""
    dy = np.zeros(shape)
    dy[0, 1, *position] = 1
    for x, weight, words in reversed(calls):
        dy = np.sign(conv2d_backward(dy, x, weight, **words, needs=("x",))[0])
    return dy[0].any(axis=0)


def random_layer(rng, shape):
    """A convolution or a pooling that the shape allows, or None."""
    k, s = (tuple(int(n) for n in rng.integers(1, top, 2)) for top in (5, 4))
    layer = {"kernel_size": k, "stride": s}
    if rng.random() < 0.3:  # a pooling: padded by half its window at most
        layer["padding"] = tuple(int(rng.integers(0, n // 2 + 1)) for n in k)
        layer["ceil_mode"] = bool(rng.integers(2))
        spans = k
    else:
        layer["dilation"] = tuple(int(n) for n in rng.integers(1, 4, 2))
        layer["padding_mode"] = str(rng.choice(["zeros", "reflect", "replicate", "circular"]))
        top = min(4, min(shape))
        both = rng.integers(0, top, (2, 2)).tolist()
        layer["padding"] = [
            tuple(map(tuple, both)), tuple(both[0]), both[0][0], "valid", "same",
        ][rng.integers(5)]  # fmt: skip
        spans = [d * (n - 1) + 1 for n, d in zip(k, layer["dilation"], strict=True)]
        if layer["padding"] == "same" and layer["padding_mode"] != "zeros" and max(spans) > top:
            layer["padding_mode"] = "zeros"
    return layer if min(np.subtract(shape, spans)) >= 0 else None


def test_mask_is_where_gradients_are(rng):
    """Random chains of stride, dilation, uneven and repeating padding, 'same', ceil_mode."""
    told, deep, holes, modes = 0, 0, 0, set()
    for _ in range(400):
        shape = tuple(int(n) for n in rng.integers(4, 20, 2))
        layers, inner = [], shape
        for _ in range(rng.integers(1, 5)):
            layer = random_layer(rng, inner)
            if layer is not None:
                layers.append(layer)
                calls, out = passes(layers, shape, np.random.default_rng(0))
                inner = out[2:]
        if not layers:
            continue
        position = tuple(int(rng.integers(n)) for n in inner)
        mask = receptive_field_mask(layers, shape, position)
        assert mask.shape == shape
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, gradient_mask(calls, out, position), err_msg=layers)

        # The closed form encloses the mask; it is the mask where nothing is padded or left out.
        field = receptive_field(layers, shape)[-1]
        start = np.add(field.offset, np.multiply(position, field.jump))
        rows, columns = (np.arange(n) - at for n, at in zip(shape, start, strict=True))
        inside = ((rows >= 0) & (rows < field.size[0]))[:, None] & (
            (columns >= 0) & (columns < field.size[1])
        )
        if all(layer.get("padding_mode", "zeros") == "zeros" for layer in layers):
            assert not (mask & ~inside).any()
            told += 1
        deep += len(layers) > 2
        holes += mask.any() and mask.any(1).sum() <= np.ptp(np.flatnonzero(mask.any(1)))
        modes |= {layer.get("padding_mode") for layer in layers}
    assert min(told, deep, holes) > 40, (told, deep, holes)
    assert modes == {None, "zeros", "reflect", "replicate", "circular"}


def test_closed_form_is_the_mask_in_the_middle(rng):
    """Where a field lies inside the input, its first and last rows and columns are reached."""
    seen = 0
    for _ in range(200):
        layers = []
        for _ in range(rng.integers(1, 4)):
            k, s = rng.integers(1, 5, 2).tolist(), rng.integers(1, 3, 2).tolist()
            dilation, padding = (int(rng.integers(n, n + 2)) for n in (1, 0))
            layers.append(conv(k, stride=s, dilation=dilation, padding=padding))
        field = receptive_field(layers)[-1]
        position = tuple(-(-(1 - o) // j) for o, j in zip(field.offset, field.jump, strict=True))
        start = np.add(field.offset, np.multiply(position, field.jump))
        stop = start + field.size
        mask = receptive_field_mask(layers, tuple((stop + 1).tolist()), position)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert (rows[0], rows[-1] + 1) == (start[0], stop[0])
        assert (columns[0], columns[-1] + 1) == (start[1], stop[1])
        seen += mask.sum() < np.prod(field.size)
    assert seen > 20  # holes, of dilation and of strides beyond the kernel


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_padding_wider_than_the_image(mode, n):
    """The image goes on, as in conv2d: every output is the one pixel that it shows."""
    layer = conv(1, padding=(0, 4 * n), padding_mode=mode)
    y = conv2d(np.arange(float(n)).reshape(1, 1, n), np.ones((1, 1, 1, 1)),
               padding=(0, 4 * n), padding_mode=mode)[0, 0]  # fmt: skip
    for j, pixel in enumerate(y):
        mask = receptive_field_mask(layer, (1, n), (0, j))
        np.testing.assert_array_equal(mask[0], np.arange(n) == pixel)


def test_windows_larger_than_the_image(rng):
    """ceil_mode: a window may hang over the end of an image smaller than it, as in `nn`."""
    nn = pytest.importorskip("fastcorr.nn")
    layer = nn.AvgPool2d(3, stride=2, ceil_mode=True)
    expected = np.zeros((2, 8))
    expected[:, 6:] = 1
    np.testing.assert_array_equal(receptive_field_mask(layer, (2, 8), (0, 3)), expected)
    seen = set()
    for _ in range(100):
        k, s, p = int(rng.integers(1, 6)), int(rng.integers(1, 6)), int(rng.integers(0, 3))
        shape = tuple(rng.integers(1, 6, 2).tolist())
        layer = nn.AvgPool2d(k, stride=s, padding=min(p, k // 2), ceil_mode=True)
        try:
            outputs = layer(np.ones((1, *shape))).shape[1:]
        except ValueError:
            outputs = ()
            with pytest.raises(ValueError, match="too small"):
                receptive_field_mask(layer, shape, (0, 0))
        else:
            receptive_field_mask(layer, shape, np.subtract(outputs, 1))
            with pytest.raises(ValueError, match="position"):
                receptive_field_mask(layer, shape, outputs)
        seen.add(outputs)
    assert len(seen) > 5
    assert () in seen


def test_mask_by_hand():
    """A corner: what is padded is no pixel, and a reflection is the pixels that it shows."""
    np.testing.assert_array_equal(
        receptive_field_mask(conv(3, padding=1), (3, 4), (0, 3)),
        [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]],
    )
    circular = conv((1, 3), padding=1, padding_mode="circular")
    np.testing.assert_array_equal(receptive_field_mask(circular, (1, 5), (1, 0)), [[1, 1, 0, 0, 1]])
    reflect = conv((1, 2), dilation=3, padding=(0, 2), padding_mode="reflect")
    np.testing.assert_array_equal(receptive_field_mask(reflect, (1, 5), (0, 0)), [[0, 1, 1, 0, 0]])
    np.testing.assert_array_equal(receptive_field_mask([], (2, 2), (1, 0)), [[0, 0], [1, 0]])
    # All of the window lies in the padding.
    far = conv(1, padding=2)
    assert not receptive_field_mask(far, (3, 3), (0, 0)).any()


def test_layers_of_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    nn = torch.nn
    chain = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding="same", dilation=2), nn.ReLU(),
        nn.Sequential(nn.AvgPool2d(3, 2, ceil_mode=True), nn.Dropout()),
        nn.Conv2d(2, 1, (2, 3), padding=(1, 0), padding_mode="circular"),
    )  # fmt: skip
    with torch.no_grad():
        for parameter in chain.parameters():
            parameter.fill_(1)
    x = torch.ones(1, 1, 14, 13, requires_grad=True)
    y = chain.eval()(x)
    y[0, 0, 7, 1].backward()
    np.testing.assert_array_equal(receptive_field_mask(chain, x.shape, (7, 1)), x.grad[0, 0] != 0)
    assert len(receptive_field(chain)) == 5
    for layer in (nn.ConvTranspose2d(1, 1, 3), nn.Flatten(), nn.Linear(3, 3), nn.Upsample(2),
                  nn.AdaptiveAvgPool2d(1), nn.ZeroPad2d(1), nn.ReflectionPad2d(1),
                  nn.MaxUnpool2d(2), nn.Fold(4, 2), nn.Unfold(2), nn.FractionalMaxPool2d(2, 3),
                  nn.PixelShuffle(2)):  # fmt: skip
        with pytest.raises(ValueError, match=type(layer).__name__):
            receptive_field(nn.Sequential(nn.ReLU(), layer))


def test_layers_of_ours():
    nn = pytest.importorskip("fastcorr.nn")
    chain = nn.Sequential(
        nn.Conv2d(1, 2, 5, stride=2, padding="same"), nn.ReLU(), nn.MaxPool2d(2),
        nn.Sequential(nn.AvgPool2d(3, stride=1, padding=1)),
    )  # fmt: skip
    plain = [conv(5, stride=2, padding="same"), conv(1), conv(2, stride=2), conv(3, padding=1)]
    assert receptive_field(chain, (17, 20)) == receptive_field(plain, (17, 20))
    for layer in (nn.ConvTranspose2d(1, 1, 3), nn.Flatten(), nn.Linear(3, 3)):
        with pytest.raises(ValueError, match=type(layer).__name__):
            receptive_field(nn.Sequential(nn.ReLU(), layer))


def test_large_chains_are_quick():
    """Rows and columns apart: a few thousand operations, not one for each pixel and layer."""
    layers = [conv(3, padding=1)] * 50
    assert receptive_field_mask(layers, (10_000, 10_000), (5000, 0)).sum() == 101 * 51


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("layers", "error", "culprit"),
    [
        ([3], TypeError, "3"), ("conv", TypeError, "'conv'"), (7, TypeError, "7"),
        ([{}], ValueError, "kernel_size"), ([conv(3, strides=2)], ValueError, "strides"),
        ([conv(0)], ValueError, "kernel_size"), ([conv(2.0)], TypeError, "kernel_size"),
        ([conv((3, 3, 3))], ValueError, "kernel_size"), ([conv("3")], TypeError, "kernel_size"),
        ([conv(())], TypeError, "kernel_size"), ([conv(3, stride=0)], ValueError, "stride"),
        ([conv(3, dilation=0)], ValueError, "dilation"),
        ([conv(3, padding=-1)], ValueError, "padding"),
        ([conv(3, padding="half")], ValueError, "'half'"),
        ([conv(3, padding=((1, 1), (1,)))], ValueError, "padding"),
        ([conv(3, padding=((1, 1),) * 3)], ValueError, "padding"),
        ([conv(3, padding_mode="symm")], ValueError, "'symm'"),
    ],
)  # fmt: skip
def test_bad_layers(layers, error, culprit):
    with pytest.raises(error, match=culprit):
        receptive_field(layers)
    with pytest.raises(error, match=culprit):
        receptive_field_mask(layers, (9, 9), (0, 0))


@pytest.mark.parametrize(
    ("shape", "position", "error", "culprit"),
    [
        ((9,), (0, 0), ValueError, "input_shape"), (9, (0, 0), TypeError, "input_shape"),
        ((9, 0), (0, 0), ValueError, "input_shape"), ((9.0, 9), (0, 0), TypeError, "input_shape"),
        ((9, 4), (0, 0), ValueError, "layer 1 gets 7 x 2"), ((9, 9), 3, TypeError, "position"),
        ((9, 9), (0, 0, 0), TypeError, "position"), ((9, 9), (5, 0), ValueError, "5 x 5"),
        ((9, 9), (-1, 0), ValueError, "position"), ((9, 9), (0, 1.0), TypeError, "position"),
    ],
)  # fmt: skip
def test_bad_shapes_and_positions(shape, position, error, culprit):
    with pytest.raises(error, match=culprit):
        receptive_field_mask([conv(3), conv(3)], shape, position)
