"""The command: real pictures in and out, and one line for everything that goes wrong."""

import io
import os
import re
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

import fastcorr
from fastcorr import _demo, _filters, _images
from fastcorr.__main__ import main

iio = pytest.importorskip("imageio.v3")
tifffile = pytest.importorskip("tifffile")
pytest.importorskip("matplotlib")
from PIL import Image  # noqa: E402 - comes with imageio

SOBEL_X = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
rng = np.random.default_rng(20240607)


@pytest.fixture(autouse=True)
def in_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*words):
    return subprocess.run(
        [sys.executable, "-m", "fastcorr", *words], capture_output=True, text=True, check=False
    )


def run(*words):
    assert main(words) == 0


def fails(capsys, *words):
    """The message of a command that must fail, and must leave no file that was not there."""
    before = _files()
    assert main(words) == 2
    assert _files() == before
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("fastcorr: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def _files():
    return {path.name: path.is_file() and path.read_bytes() for path in Path().iterdir()}


def smooth(shape, dtype):
    """A picture whose neighbours are alike, as in photographs; it uses all levels."""
    axes = np.ogrid[tuple(slice(0, n) for n in shape[:2])]
    wave = np.sin(axes[0] / 5) * np.cos(axes[1] / 7)
    wave = (wave - wave.min()) / np.ptp(wave)
    if len(shape) == 3:
        wave = np.stack([np.roll(wave, 3 * c, 1) for c in range(shape[2])], axis=2)
    if np.dtype(dtype).kind == "f":
        return wave.astype(dtype)
    return np.rint(wave * np.iinfo(dtype).max).astype(dtype)


def expected(x, k, mode="same", boundary="symm"):
    """SciPy, channel by channel, in float64."""
    x, k = np.asarray(x, np.float64), np.asarray(k, np.float64)
    if x.ndim == 2:
        return scipy.signal.correlate2d(x, k, mode, boundary)
    planes = [scipy.signal.correlate2d(plane, k, mode, boundary) for plane in np.moveaxis(x, -1, 0)]
    return np.stack(planes, axis=-1)


# ---------------------------------------------------------------- kernels


def test_named_kernels():
    x = rng.standard_normal((20, 30))
    reflect = {"mode": "reflect"}
    for text, y in {
        "sobel-x": scipy.ndimage.sobel(x, axis=1, **reflect),
        "sobel-y": scipy.ndimage.sobel(x, axis=0, **reflect),
        "laplace": scipy.ndimage.laplace(x, **reflect),
        "gaussian:1.3": scipy.ndimage.gaussian_filter(x, 1.3, **reflect),
        "gaussian:0.1": x,
        "box:5": scipy.ndimage.uniform_filter(x, 5, **reflect),
        "sharpen": x - scipy.ndimage.laplace(x, **reflect),
    }.items():
        ours = fastcorr.correlate2d(x, _filters.parse(text), "same", "symm")
        np.testing.assert_allclose(ours, y, atol=1e-13, err_msg=text)


def test_signs_and_sums():
    ramp = np.tile(np.arange(8.0), (8, 1))
    assert fastcorr.corr2d(ramp, _filters.parse("sobel-x")).min() == 8
    assert fastcorr.corr2d(ramp.T, _filters.parse("sobel-y")).min() == 8
    for text in ("sharpen", "emboss", "gaussian:2", "box:4"):
        k = _filters.parse(text)
        assert k.sum() == pytest.approx(1)
        assert not _filters.is_derivative(k)
    for text in ("sobel-x", "sobel-y", "laplace", "1,-1", "0.1,0.2,-0.3"):
        assert _filters.is_derivative(_filters.parse(text))


def test_written_kernels():
    np.testing.assert_array_equal(_filters.parse("1,-1; 2.5,-2e0"), [[1, -1], [2.5, -2]])
    np.testing.assert_array_equal(_filters.parse("1 2 3"), [[1, 2, 3]])
    np.testing.assert_array_equal(_filters.parse("-1"), [[-1]])


# ---------------------------------------------------------------- arrays


@pytest.mark.parametrize("mode", ["full", "same", "valid"])
@pytest.mark.parametrize("boundary", ["symm", "wrap", "fill"])
def test_npy_is_scipy(mode, boundary):
    x = rng.integers(-1000, 1000, (13, 17))
    k = rng.integers(-9, 9, (3, 4))
    np.save("x.npy", x)
    np.save("k.npy", k)
    run("filter", "x.npy", "y.npy", "--kernel", "k.npy", "--mode", mode, "--boundary", boundary)
    y = np.load("y.npy")
    assert y.dtype == np.float64
    np.testing.assert_array_equal(y, scipy.signal.correlate2d(x, k, mode, boundary))


@pytest.mark.parametrize(
    ("dtype", "result"),
    [
        ("?", "f4"),
        ("u1", "f4"),
        (">u2", "f4"),
        ("f2", "f4"),
        (">f4", "f4"),
        ("f8", "f8"),
        ("i4", "f8"),
    ],
)
def test_npy_dtypes(dtype, result):
    x = rng.integers(0, 2, (9, 11)).astype(dtype)
    np.save("x.npy", x)
    run("filter", "x.npy", "y.npy", "--kernel", "1,2;3,-4")
    y = np.load("y.npy")
    assert y.dtype == result
    np.testing.assert_array_equal(y, expected(x, [[1, 2], [3, -4]]))


def test_defaults_and_workers():
    x = rng.standard_normal((40, 50, 3))
    np.save("x.npy", x)
    run("filter", "x.npy", "y.npy", "--kernel", "emboss")
    for workers in ("1", "3", "-1"):
        run("filter", "x.npy", "z.npy", "--kernel", "emboss", "--workers", workers)
        assert np.load("z.npy").tobytes() == np.load("y.npy").tobytes()
    np.testing.assert_allclose(np.load("y.npy"), expected(x, _filters.parse("emboss")), atol=1e-12)


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".npy"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [(), (2,), (3,), (4,)])
def test_lossless_pictures(suffix, dtype, channels):
    if suffix == ".png" and dtype == np.uint16 and channels:
        pytest.importorskip("png")
    x = rng.integers(0, np.iinfo(dtype).max, (21, 34, *channels), endpoint=True).astype(dtype)
    _images.write(Path("x" + suffix), x)
    back = _images.read(Path("x" + suffix))
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, x)

    run("filter", "x" + suffix, "y" + suffix, "--kernel", "gaussian:1")
    y = _images.read(Path("y" + suffix))
    colours = x[..., :-1] if channels in ((2,), (4,)) else x
    blurred = expected(colours, _filters.gaussian(1))
    if suffix == ".npy":
        np.testing.assert_allclose(y[..., : colours.shape[-1]], blurred, rtol=1e-5)
    else:
        assert y.dtype == dtype
        ours = y[..., :-1] if colours is not x else y
        # The rounding of float32 may tip a half to the other side.
        assert np.abs(ours - blurred).max() < 0.5 + 1e-6 * np.iinfo(dtype).max
    if colours is not x:
        np.testing.assert_array_equal(y[..., -1], x[..., -1])


def test_others_read_what_we_write():
    """Our 16-bit colour PNG, read by OpenCV; our TIFF by Pillow."""
    pytest.importorskip("png")
    x = rng.integers(0, 65536, (9, 12, 3), dtype=np.uint16)
    _images.write(Path("x.png"), x)
    cv2 = pytest.importorskip("cv2")
    np.testing.assert_array_equal(cv2.imread("x.png", cv2.IMREAD_UNCHANGED)[..., ::-1], x)
    cv2.imwrite("z.png", x[..., ::-1])
    np.testing.assert_array_equal(_images.read(Path("z.png")), x)
    rgba = rng.integers(0, 256, (9, 12, 4), dtype=np.uint8)
    _images.write(Path("x.tif"), rgba)
    with Image.open("x.tif") as image:
        assert image.mode == "RGBA"
        np.testing.assert_array_equal(np.asarray(image), rgba)


@pytest.mark.parametrize("kernel", ["box:151", "gaussian:30", "gaussian:1"])
def test_white_stays_white(kernel):
    """Large kernels are summed in float64, and still give float32."""
    np.save("x.npy", np.full((40, 50), 65535, np.uint16))
    run("filter", "x.npy", "y.npy", "--kernel", kernel)
    y = np.load("y.npy")
    assert y.dtype == np.float32
    assert np.abs(y - 65535).max() < 0.1


@pytest.mark.parametrize("x", [smooth((64, 96), np.uint8), smooth((64, 96, 3), np.uint8)])
def test_jpeg(x):
    _images.write(Path("x.jpg"), x)
    run("filter", "x.jpg", "y.jpeg", "--kernel", "box:3")
    y = iio.imread("y.jpeg")
    assert y.shape == x.shape
    assert y.dtype == np.uint8
    assert np.abs(y - expected(x, _filters.box(3))).mean() < 3


def test_16_bits_to_jpeg_and_floats_to_png():
    x = smooth((32, 48, 3), np.uint16)
    _images.write(Path("x.tif"), x)
    run("filter", "x.tif", "y.jpg", "--kernel", "1")
    assert np.abs(iio.imread("y.jpg") - x / 257).mean() < 3
    x = smooth((32, 48, 3), np.float64)
    np.save("x.npy", x)
    run("filter", "x.npy", "y.png", "--kernel", "1")
    np.testing.assert_array_equal(iio.imread("y.png"), np.rint(x * 255))


def test_float_tiff_keeps_values():
    x = rng.standard_normal((15, 16)).astype(np.float32)
    _images.write(Path("x.tif"), x)
    run("filter", "x.tif", "y.tif", "--kernel", "laplace")
    y = tifffile.imread("y.tif")
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, expected(x, _filters.parse("laplace")), atol=1e-5)
    assert y.min() < -1


@pytest.mark.parametrize(
    ("mode", "levels"),
    [("1", [0, 255]), ("P", None), ("LA", None), ("CMYK", None), ("I;16", None)],
)
def test_pillow_modes(mode, levels):
    """What is read is what the picture looks like, whatever the file stores."""
    rgb = smooth((16, 18, 3), np.uint8)
    image = Image.fromarray(rgb)
    if mode == "I;16":
        image = Image.fromarray(smooth((16, 18), np.uint16))
        image.save("x.tif", compression="tiff_deflate")
        assert _images.read(Path("x.tif")).dtype == np.uint16
        return
    image = image.convert(mode)
    image.save("x.jpg" if mode == "CMYK" else "x.png")
    x = _images.read(Path("x.jpg" if mode == "CMYK" else "x.png"))
    assert x.dtype == np.uint8
    if levels:
        assert x.ndim == 2
        assert np.unique(x).tolist() == levels
    elif mode == "LA":
        assert x.shape == (16, 18, 2)
    else:
        assert x.shape == (16, 18, 3)
        assert np.abs(x - np.asarray(image.convert("RGB")).astype(int)).mean() < 5


def test_palette_with_transparency():
    image = Image.fromarray((np.arange(64).reshape(8, 8) // 32).astype(np.uint8), "L").convert("P")
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.save("x.png", transparency=bytes([0, 200]))
    x = _images.read(Path("x.png"))
    assert x[0, 0].tolist() == [255, 0, 0, 0]
    assert x[-1, 0].tolist() == [0, 0, 255, 200]
    run("filter", "x.png", "y.png", "--kernel", "gaussian:2")
    np.testing.assert_array_equal(iio.imread("y.png")[..., 3], x[..., 3])


def test_compressed_tiff():
    x = smooth((16, 18, 3), np.uint8)
    Image.fromarray(x).save("x.tif", compression="tiff_lzw")
    np.testing.assert_array_equal(_images.read(Path("x.tif")), x)


def test_tiff_planes_and_inverted_grey():
    x = rng.integers(0, 65536, (9, 12, 3), dtype=np.uint16)
    tifffile.imwrite("x.tif", np.moveaxis(x, -1, 0), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(_images.read(Path("x.tif")), x)
    tifffile.imwrite("x.tif", x[..., 0], photometric="miniswhite")
    np.testing.assert_array_equal(_images.read(Path("x.tif")), 65535 - x[..., 0])


def test_jpeg_is_turned_upright():
    x = smooth((16, 48), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees
    Image.fromarray(x).save("x.jpg", exif=exif, quality=100)
    y = _images.read(Path("x.jpg"))
    assert y.shape == (48, 16)
    assert np.abs(y - np.rot90(x, -1).astype(int)).max() < 4


def test_contents_decide_not_the_name():
    x = smooth((8, 9), np.uint8)
    _images.write(Path("x.png"), x)
    os.rename("x.png", "x.jpg")
    np.testing.assert_array_equal(_images.read(Path("x.jpg")), x)


@pytest.mark.parametrize("mode", ["full", "valid"])
def test_alpha_of_other_modes(mode):
    """Alpha follows the pixel under the kernel's centre."""
    x = rng.integers(0, 256, (12, 14, 4), dtype=np.uint8)
    _images.write(Path("x.png"), x)
    run("filter", "x.png", "y.png", "--kernel", "box:4", "--mode", mode)
    alpha = iio.imread("y.png")[..., 3]
    if mode == "valid":
        np.testing.assert_array_equal(alpha, x[1:-2, 1:-2, 3])
    else:
        np.testing.assert_array_equal(alpha, np.pad(x[..., 3], ((2, 1), (2, 1)), "symmetric"))


# ---------------------------------------------------------------- levels


@pytest.mark.parametrize(
    ("levels", "level"),
    [
        ("clip", lambda y: y.clip(0, 255)),
        ("abs", lambda y: abs(y).clip(0, 255)),
        ("offset", lambda y: (127.5 + y / 2).clip(0, 255)),
        ("stretch", lambda y: (y - y.min()) * 255 / np.ptp(y)),
        (None, lambda y: abs(y).clip(0, 255)),
    ],
)
def test_levels(levels, level):
    x = rng.integers(0, 256, (20, 21), dtype=np.uint8)
    _images.write(Path("x.png"), x)
    run(
        "filter", "x.png", "y.png", "--kernel", "sobel-x", *(["--levels", levels] if levels else [])
    )
    assert np.abs(iio.imread("y.png") - level(expected(x, SOBEL_X))).max() <= 0.501


def test_default_levels_of_sharpening_clip():
    x = rng.integers(0, 256, (20, 21), dtype=np.uint8)
    _images.write(Path("x.png"), x)
    run("filter", "x.png", "y.png", "--kernel", "sharpen")
    y = expected(x, _filters.parse("sharpen"))
    assert y.min() < 0
    assert y.max() > 255
    np.testing.assert_array_equal(iio.imread("y.png"), y.clip(0, 255))


def test_signed_tiff_keeps_signs():
    x = rng.integers(-(2**15), 2**15, (20, 21)).astype(np.int16)
    tifffile.imwrite("x.tif", x)
    run("filter", "x.tif", "y.tif", "--kernel=-1,1", "--mode", "valid")
    y = np.diff(x.astype(int)).clip(-(2**15), 2**15 - 1)
    assert y.min() < 0
    np.testing.assert_array_equal(tifffile.imread("y.tif"), y)


def test_levels_of_odd_values():
    np.save("x.npy", np.array([[np.nan, -np.inf, np.inf, 0.5, 2.0, -1.0]]))
    run("filter", "x.npy", "y.png", "--kernel", "1")
    assert iio.imread("y.png").tolist() == [[0, 0, 255, 128, 255, 0]]
    run("filter", "x.npy", "y.png", "--kernel", "1", "--levels", "stretch")
    assert iio.imread("y.png").tolist() == [[0, 0, 255, 128, 255, 0]]
    np.save("x.npy", np.full((3, 3), 7))
    run("filter", "x.npy", "y.png", "--kernel", "1", "--levels", "stretch")
    assert iio.imread("y.png").tolist() == [[0] * 3] * 3


# ---------------------------------------------------------------- files


def test_output_may_be_the_input():
    x = smooth((10, 11), np.uint8)
    _images.write(Path("x.png"), x)
    os.chmod("x.png", 0o640)
    os.symlink("x.png", "link.png")
    run("filter", "x.png", "link.png", "--kernel", "-1")
    assert os.path.islink("link.png")
    assert not iio.imread("x.png").any()
    assert os.stat("x.png").st_mode & 0o777 == 0o640
    assert sorted(os.listdir()) == ["link.png", "x.png"]


@pytest.mark.parametrize("kernel", ["-1,1", "-1, 1", "-1,1;-2,2", "-1"])
def test_kernels_that_look_like_options(kernel):
    np.save("x.npy", np.eye(4))
    run("filter", "x.npy", "y.npy", "--kernel", kernel)
    np.testing.assert_array_equal(np.load("y.npy"), expected(np.eye(4), _filters.parse(kernel)))


def _chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _bomb(depth, colour):
    header = struct.pack(">IIBBBBB", 30_000, 30_000, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(bytes(99)))
        + _chunk(b"IEND", b"")
    )


def _saved(save, *args, **options):
    file = io.BytesIO()
    save(file, *args, **options)
    return file.getvalue()


def _npy(array):
    return _saved(np.save, array)


def _frames(form):
    first, *others = (Image.fromarray(np.full((8, 9), 50 * i, np.uint8)) for i in range(3))
    return _saved(first.save, form, save_all=True, append_images=others)


def _bad_files():
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    png, jpeg = (_saved(Image.fromarray(noise).save, form) for form in ("PNG", "JPEG"))
    tiff = _saved(tifffile.imwrite, noise[..., 0].astype(np.float32))
    npy = _npy(np.arange(12.0).reshape(3, 4))
    return {
        "empty": (b"", "empty"),
        "text": (b"not a picture", "not a PNG, JPEG, TIFF or .npy"),
        "gif": (_saved(Image.fromarray(noise).save, "GIF"), "not a PNG, JPEG, TIFF or .npy"),
        "png cut in its header": (png[:30], ""),
        "png cut": (png[: len(png) // 2], "the file is damaged or cut short"),
        "png with noise": (png[:200] + bytes(200) + png[400:], ""),
        "jpeg cut in its header": (jpeg[:100], ""),
        "jpeg cut": (jpeg[: len(jpeg) // 2], "truncated"),
        "tiff cut": (tiff[: len(tiff) // 2], ""),
        "tiff without pages": (b"II*\0" + bytes(4), ""),
        "tiff with noise": (b"MM\0*\0\0\0\x08" + b"\xff" * 40, ""),
        "npy cut": (npy[:-5], ""),
        "npy cut in its header": (npy[:20], ""),
        "npy larger than memory": (
            npy.replace(b"(3, 4), }" + b" " * 20, b"(%d, %d), }" % (10**9, 10**9)), ""
        ),
        "objects": (_saved(np.save, np.array([[None]]), allow_pickle=True), "pickle"),
        "complex": (_npy(np.zeros((3, 3), complex)), "complex128"),
        "text array": (_npy(np.array([["a"]])), "<U1"),
        "no axes": (_npy(np.float64(3)), "()"),
        "one axis": (_npy(np.zeros(3)), "(3,)"),
        "a stack": (_npy(np.zeros((4, 5, 7))), "(4, 5, 7)"),
        "five axes": (_npy(np.zeros((2,) * 5)), "(2, 2, 2, 2, 2)"),
        "no pixels": (_npy(np.zeros((0, 3))), "(0, 3)"),
        "animation": (_frames("PNG"), "3 pictures"),
        "pages": (_frames("TIFF"), "3 pictures"),
        "bomb": (_bomb(8, 0), "exceeds limit"),
        "16-bit bomb": (_bomb(16, 2), "exceeds limit"),
    }  # fmt: skip


BAD_FILES = _bad_files()


@pytest.mark.parametrize("name", BAD_FILES)
def test_unreadable_input(name, capsys):
    data, words = BAD_FILES[name]
    Path("bad-file").write_bytes(data)
    message = fails(capsys, "filter", "bad-file", "out.png", "--kernel", "sharpen")
    assert "'bad-file'" in message
    assert words in message
    assert "<_io" not in message


def test_phone_jpeg_is_its_first_picture():
    first, second = (Image.fromarray(np.full((8, 8), v, np.uint8)) for v in (10, 200))
    first.save("x.jpg", "MPO", save_all=True, append_images=[second])
    assert abs(int(_images.read(Path("x.jpg"))[0, 0]) - 10) < 3


@pytest.mark.parametrize(
    ("kernel", "culprit"),
    [
        ("", "empty"), (" ", "empty"), (";", "(2, 0)"), ("1,2;3", "different lengths: 2, 1"),
        ("1,2;", "different lengths"), ("1,,2", "'' is not a number"), ("1,x", "'x'"),
        ("1,nan", "not a number"), ("1,inf", "infinite"), ("sobel", "sobel-x, sobel-y"),
        ("gaussian", "gaussian:SIGMA"), ("gaussian:", "''"), ("gaussian:0", "sigma"),
        ("gaussian:-2", "sigma"), ("gaussian:nan", "sigma"), ("gaussian:inf", "sigma"),
        ("gaussian:1e9", "1001"), ("box:0", "N must"), ("box:-3", "N must"),
        ("box:2.5", "'2.5'"), ("box:100000000000", "1001"), ("none.npy", "No such file"),
        ("one-axis.npy", "(3,)"), ("object.npy", "pickle"), ("complex.npy", "complex128"),
        ("nan.npy", "not a number"), ("empty.npy", "(0, 2)"), ("x.png.npy", "magic"),
    ],
)  # fmt: skip
def test_bad_kernels(kernel, culprit, capsys):
    _images.write(Path("x.png"), smooth((8, 9), np.uint8))
    os.link("x.png", "x.png.npy")
    np.save("one-axis.npy", np.ones(3))
    np.save("object.npy", np.array([[None]]), allow_pickle=True)
    np.save("complex.npy", np.ones((2, 2), complex))
    np.save("nan.npy", np.array([[1, np.nan]]))
    np.save("empty.npy", np.ones((0, 2)))
    message = fails(capsys, "filter", "x.png", "out.png", "--kernel", kernel)
    assert f"--kernel {kernel!r}: " in message
    assert culprit in message


@pytest.mark.parametrize(
    ("words", "culprit"),
    [
        ("", "COMMAND"), ("sharpen", "'sharpen'"), ("filter x.png", "OUTPUT, --kernel"),
        ("filter x.png out.png", "--kernel"), ("filter x.png out.png --kernel", "--kernel"),
        ("filter x.png out.png --kernel 1 more", "more"),
        ("filter x.png out.png --kernel 1 --mode foo", "--mode"),
        ("filter x.png out.png --kernel 1 --boundary foo", "--boundary"),
        ("filter x.png out.png --kernel 1 --levels foo", "--levels"),
        ("filter x.png out.png --kernel 1 --work 1", "--work"),
        ("filter x.png out.png --kernel 1 --workers 0", "workers must be at least 1"),
        ("filter x.png out.png --kernel 1 --workers 1.5", "--workers"),
        ("filter x.png out.png --kernel 1 --workers -9999", "workers"),
        ("filter x.png out.gif --kernel 1", "'out.gif'"), ("filter x.png out --kernel 1", "'out'"),
        ("filter x.png none/out.png --kernel 1", "'none/out.png'"),
        ("filter x.png x.png/out.png --kernel 1", "'x.png/out.png'"),
        ("filter x.png folder.png --kernel 1", "'folder.png'"),
        ("filter none.png out.png --kernel 1", "'none.png'"),
        ("filter . out.png --kernel 1", "'.'"),
        ("filter x.png out.png --kernel box:10 --mode valid", "10 x 10"),
        ("filter x.png out.npy --kernel 1 --levels abs", "--levels"),
        ("filter int64.npy out.png --kernel 1", "int64"),
        ("filter alpha.png out.jpg --kernel 1", "alpha"),
        ("demo x.png", "'x.png'"), ("demo x.png/demo", "'x.png/demo'"),
        ("learn x.png", "TARGET, --size"), ("learn x.png x.png", "--size"),
        ("learn x.png x.png --size 3", "'3' is not ROWSxCOLUMNS"),
        ("learn x.png x.png --size 0x3", "'0x3' is not between 1x1 and 1001x1001"),
        ("learn x.png x.png --size 1x1002", "1001"), ("learn x.png x.png --size 3x-1", "'3x-1'"),
        ("learn x.png x.png --size 9x3", "the kernel is larger than INPUT (8 x 9)"),
        ("learn x.png int64.npy --size 3x3",
         "TARGET is 3 x 4; what a 3 x 3 kernel makes of INPUT is 8 x 9 ('same') or 6 x 7 ("),
        ("learn none.png x.png --size 3x3", "'none.png'"),
        ("learn x.png none.png --size 3x3", "'none.png'"),
        ("learn x.png x.png --size 3x3 --output k", "'k'"),
        ("learn x.png x.png --size 3x3 --output k.png", "must end in .npy"),
        ("learn x.png x.png --size 3x3 --output none/k.npy", "'none/k.npy'"),
        ("learn x.png x.png --size 3x3 --output x.npy", "'x.png': it is INPUT"),
        ("learn int64.npy x.png --size 3x3 --output int64.npy", "'int64.npy': it is INPUT"),
        ("learn x.png int64.npy --size 3x3 --output int64.npy", "'int64.npy': it is TARGET"),
        ("learn x.png x.png --size 3x3 --output folder.npy", "'folder.png': it is a directory"),
        ("learn x.png x.png --size 3x3 --steps 0", "'0' is not a number of steps"),
        ("learn x.png x.png --size 3x3 --steps 1e3", "--steps"),
        ("learn x.png x.png --size 3x3 --lr 0", "'0' is not a number greater"),
        ("learn x.png x.png --size 3x3 --lr nan", "--lr"),
        ("learn x.png x.png --size 3x3 --lr inf", "--lr"),
        ("learn x.png x.png --size 3x3 --lr 9", "--lr 9 is too large: the error grew from"),
        ("learn x.png x.png --size 3x3 --optimizer lbfgs", "--optimizer"),
        ("learn x.png x.png --size 3x3 --boundary foo", "--boundary"),
        ("learn nan.npy x.png --size 3x3", "'nan.npy' holds values that are infinite or not"),
        ("learn x.png nan.npy --size 3x3", "'nan.npy' holds"),
        ("learn zero.npy x.png --size 3x3", "INPUT is 0 everywhere"),
        ("learn one.npy x.png --size 3x3 --bias", "INPUT is the same everywhere"),
        ("learn tiny.npy huge.npy --size 3x3", "too different"),
        ("learn huge.npy tiny.npy --size 3x3", "too different"),
    ],
)  # fmt: skip
def test_bad_arguments(words, culprit, capsys):
    _images.write(Path("x.png"), smooth((8, 9), np.uint8))
    _images.write(Path("alpha.png"), smooth((8, 9, 4), np.uint8))
    np.save("int64.npy", np.arange(12).reshape(3, 4))
    for name, value in {"zero": 0, "one": 1, "nan": np.nan, "huge": 1e200, "tiny": 1e-200}.items():
        np.save(f"{name}.npy", np.full((8, 9), value))
    os.mkdir("folder.png")
    assert culprit in fails(capsys, *words.split())
    assert os.listdir("folder.png") == []


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_unwritable_directory(capsys):
    _images.write(Path("x.png"), smooth((8, 9), np.uint8))
    os.mkdir("locked", 0o555)
    message = fails(capsys, "filter", "x.png", "locked/out.png", "--kernel", "1")
    assert "'locked/out.png': Permission denied" in message


@pytest.mark.parametrize("suffix", ["npy", "png", "tif", "jpg"])
@pytest.mark.parametrize(
    ("error", "status"), [(OSError(28, "No space left on device"), 2), (KeyboardInterrupt(), 130)]
)
def test_interrupted_while_writing(suffix, error, status, capsys, monkeypatch):
    """The file that was there stays, whole; nothing else is left behind."""
    x = smooth((8, 9), np.uint8)
    _images.write(Path("x." + suffix), x)
    before = Path("x." + suffix).read_bytes()

    def fail(file, *args, **options):
        file.write(b"half")
        raise error

    monkeypatch.setattr(np, "save", fail)
    monkeypatch.setattr(iio, "imwrite", fail)
    monkeypatch.setattr(tifffile, "imwrite", fail)
    name = "x." + suffix
    assert main(["filter", name, name, "--kernel", "1"]) == status
    assert Path(name).read_bytes() == before
    assert os.listdir() == [name]
    message = capsys.readouterr().err
    expected = "interrupted" if status == 130 else f"error: cannot write {name!r}: No space left"
    assert message.startswith(f"fastcorr: {expected}")


def test_out_of_memory(capsys, monkeypatch):
    def fail(*args, **options):
        raise MemoryError

    np.save("x.npy", np.eye(3))
    monkeypatch.setattr("fastcorr.__main__.correlate2d", fail)
    assert "memory" in fails(capsys, "filter", "x.npy", "y.npy", "--kernel", "1")


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("imageio", "filter x.png out.png --kernel 1"),
        ("tifffile", "filter x.npy out.tif --kernel 1"),
        ("matplotlib", "demo new"),
        ("matplotlib", "learn x.npy x.npy --size 1x1"),
        ("png", "filter colour16.npy out.png --kernel 1"),
    ],
)
def test_missing_extras(module, words, capsys, monkeypatch):
    _images.write(Path("x.png"), smooth((8, 9), np.uint8))
    np.save("x.npy", np.eye(3))
    np.save("colour16.npy", smooth((8, 9, 3), np.uint16))
    for name in [module, *(n for n in sys.modules if n.startswith(module + "."))]:
        monkeypatch.setitem(sys.modules, name, None)
    message = fails(capsys, *words.split())
    assert f'{module} is not installed; pip install "fastcorr[cli]"' in message
    assert not os.path.exists("new")


# ---------------------------------------------------------------- learning


def learn(capsys, *words):
    """What the command prints; the kernel."""
    run("learn", *words)
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out, np.load("kernel.npy")


def left(printed):
    """The error left: in grey levels, and in percent of the spread."""
    return [float(v) for v in re.search(
        r"^error left: (\S+) grey levels RMS, (\S+) % of TARGET's spread", printed, re.M
    ).groups()]  # fmt: skip


@pytest.mark.parametrize("boundary", ["symm", "fill", "wrap", "mirror", "nearest", "valid"])
@pytest.mark.parametrize("size", [(3, 5), (4, 2), (1, 1)])
def test_the_kernel_is_found(boundary, size, capsys):
    """What was made by `filter` with a kernel is made by the kernel that is learned."""
    x, k = rng.integers(0, 256, (20, 22)), rng.integers(-9, 10, size) + 0.5
    np.save("x.npy", x)
    np.save("k.npy", k)
    where = ["--mode", "valid"] if boundary == "valid" else ["--boundary", boundary]
    run("filter", "x.npy", "t.npy", "--kernel", "k.npy", *where)
    words = where if boundary not in ("symm", "valid") else []  # symm is the default
    printed, learned = learn(capsys, "x.npy", "t.npy", "--size", f"{size[0]}x{size[1]}", *words)
    assert learned.dtype == np.float64
    np.testing.assert_allclose(learned, k, atol=1e-3)
    assert f"learned a {size[0]} x {size[1]} kernel from " in printed
    error, percent = left(printed)
    t = np.load("t.npy")
    assert error < 1e-4 * t.std()
    assert percent == pytest.approx(100 * error / t.std(), rel=0.02)
    assert printed.endswith("wrote kernel.npy and kernel.png\n")
    picture = iio.imread("kernel.png")
    assert picture.shape[1] > 500
    assert len(np.unique(picture)) > 50
    run("filter", "x.npy", "y.npy", "--kernel", "kernel.npy", *where)
    np.testing.assert_allclose(np.load("y.npy"), t, atol=0.1)


def test_sobel_of_the_photograph(capsys):
    """From a photograph, whose neighbours are alike, with the defaults, in few steps."""
    run("filter", str(_demo.PHOTOGRAPH), "t.npy", "--kernel", "sobel-x")
    for words in ([], ["--optimizer", "adam"]):
        printed, k = learn(capsys, str(_demo.PHOTOGRAPH), "t.npy", "--size", "3x3", *words)
        np.testing.assert_allclose(k, SOBEL_X, atol=1e-3)
        assert re.search(r"from 12 times 128 x 128 pixels in 1\d\d\d steps\n", printed)
        assert "  -2.0000   0.0000   2.0000\n" in printed
        assert left(printed)[1] < 0.01


@pytest.mark.parametrize(
    ("x_channels", "t_channels"), [((3,), (3,)), ((4,), (3,)), ((2,), ()), ((1,), (2,))]
)
def test_channels_share_the_kernel(x_channels, t_channels, capsys):
    x = rng.integers(0, 256, (20, 22, *x_channels), dtype=np.uint8)
    _images.write(Path("x.tif"), x)
    planes = x[..., :-1] if x_channels in ((2,), (4,)) else x
    t = expected(planes, [[1, 0], [0, -2]])
    t = t.reshape(20, 22, *t_channels) if t_channels != (2,) else np.dstack([t, 9 + 0 * t])
    np.save("t.npy", t)
    _, k = learn(capsys, "x.tif", "t.npy", "--size", "2x2")
    np.testing.assert_allclose(k, [[1, 0], [0, -2]], atol=1e-3)


def test_colours_become_grey(capsys):
    x = rng.integers(0, 256, (20, 22, 3), dtype=np.uint8)
    _images.write(Path("x.png"), x)
    np.save("t.npy", expected(x @ [0.299, 0.587, 0.114], [[1, -1]]))
    _, k = learn(capsys, "x.png", "t.npy", "--size", "1x2")
    np.testing.assert_allclose(k, [[1, -1]], atol=1e-3)
    np.save("grey.npy", np.load("t.npy")[..., np.newaxis] + np.zeros(3))
    np.save("x.npy", x @ [0.299, 0.587, 0.114])
    _, k = learn(capsys, "x.npy", "grey.npy", "--size", "1x2")
    np.testing.assert_allclose(k, [[1, -1]], atol=1e-3)


def test_bias(capsys):
    x = 100 + rng.standard_normal((30, 33))  # little contrast: hard without the bias
    np.save("x.npy", x)
    np.save("t.npy", expected(x, SOBEL_X / 8 + 1) - 77)
    printed, k = learn(capsys, "x.npy", "t.npy", "--size", "3x3", "--bias")
    np.testing.assert_allclose(k, SOBEL_X / 8 + 1, atol=1e-3)
    assert float(re.search(r"^bias: (\S+)$", printed, re.M).group(1)) == pytest.approx(
        -77, rel=1e-2
    )
    assert left(printed)[1] < 0.1
    assert "bias" not in learn(capsys, "x.npy", "t.npy", "--size", "3x3")[0]


def test_what_cannot_be_learned_is_told(capsys):
    """The least squares kernel, and the error that it leaves."""
    x = rng.integers(0, 256, (30, 33), dtype=np.uint8)
    _images.write(Path("x.png"), x)
    run("filter", "x.png", "t.png", "--kernel", "sobel-x")  # abs, clipped
    printed, k = learn(capsys, "x.png", "t.png", "--size", "1x3", "--boundary", "fill")
    padded = np.pad(x.astype(float), ((0, 0), (1, 1)))
    columns = np.stack([padded[:, b : b + 33].ravel() for b in range(3)], axis=1)
    t = iio.imread("t.png").ravel().astype(float)
    best, *_ = np.linalg.lstsq(columns, t)
    np.testing.assert_allclose(k[0], best, atol=1e-4)
    assert left(printed)[0] == pytest.approx(np.sqrt(np.mean((columns @ best - t) ** 2)), rel=0.01)


def test_tiles_of_large_pictures(capsys, monkeypatch):
    from fastcorr import _learn

    monkeypatch.setattr(_learn, "_MAX_PIXELS", 5000)
    monkeypatch.setattr(_learn, "_TILE", 20)
    x = rng.standard_normal((90, 200))
    t = expected(x, SOBEL_X, "valid")
    t[30, 5] += 50  # between the tiles: not learned from, but part of the error
    np.save("x.npy", x)
    np.save("t.npy", t)
    printed, k = learn(capsys, "x.npy", "t.npy", "--size", "3x3")
    assert "from 12 times 20 x 20 pixels" in printed
    np.testing.assert_allclose(k, SOBEL_X, atol=1e-4)
    assert left(printed)[0] == pytest.approx(50 / np.sqrt(t.size), rel=0.01)


def test_tiles_of_odd_shapes():
    from fastcorr import _learn

    for shape in ((1, 1, 10**6), (3, 10**6, 1), (4, 700, 700), (1, 130, 3000)):
        x = np.arange(np.prod(shape), dtype=float).reshape(shape)
        xs, ts = _learn._sample(x, x, (1, 1))
        np.testing.assert_array_equal(xs, ts)
        assert 2**16 < ts.size <= 2**18
        assert len(np.unique(ts)) == ts.size
        assert ts.max() > 0.95 * x.max()
        assert ts.min() < 0.05 * x.max()


@pytest.mark.parametrize("shape", [(2, 2), (15, 3), (3, 16)])
def test_the_kernel_is_printed_unless_large(shape, capsys):
    x = rng.standard_normal((30, 30))
    np.save("x.npy", x)
    np.save("t.npy", 1000 * expected(x, np.eye(*shape)))
    size = f"{shape[0]}x{shape[1]}"
    printed, k = learn(capsys, "x.npy", "t.npy", "--size", size, "--steps", "5")
    assert "in 5 steps; more --steps may bring it nearer" in printed
    rows = [line.split() for line in printed.splitlines() if line.startswith("  ")]
    if max(shape) > 15:
        assert rows == []
    else:
        np.testing.assert_allclose(np.array(rows, float), k, rtol=1e-3, atol=0.1)


def test_a_target_of_nothing(capsys):
    np.save("x.npy", rng.standard_normal((8, 9)))
    np.save("t.npy", np.zeros((8, 9)))
    printed, k = learn(capsys, "x.npy", "t.npy", "--size", "2x2")
    assert not k.any()
    assert "error left: 0 grey levels RMS\n" in printed


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("x_unit", "t_unit"), [(1, 1e-200), (1e-200, 1), (1e-200, 1e-200), (1e200, 1), (1e300, 1e300)]
)
def test_numbers_of_any_size(x_unit, t_unit, bias, capsys):
    """Their squares would be 0 or infinite."""
    x = rng.standard_normal((20, 21))
    np.save("x.npy", x * x_unit)
    np.save("t.npy", expected(x, SOBEL_X) * t_unit)
    printed, k = learn(capsys, "x.npy", "t.npy", "--size", "3x3", *["--bias"] * bias)
    np.testing.assert_allclose(k / (t_unit / x_unit), SOBEL_X, atol=1e-3)
    assert max(map(len, printed.splitlines())) < 100
    rows = [line.split() for line in printed.splitlines() if line.startswith("  ")]
    np.testing.assert_allclose(np.array(rows, float), k, rtol=1e-3, atol=1e-3 * t_unit / x_unit)
    assert left(printed)[1] < 0.1


@pytest.mark.parametrize("largest", [99e-6, 1e-4, 999_999.0, 1e6])
def test_scientific_notation(largest):
    from fastcorr import _learn

    (row,) = _learn._table(np.array([[largest, -largest / 10]])).splitlines()
    np.testing.assert_allclose([float(v) for v in row.split()], [largest, -largest / 10], rtol=1e-2)
    assert ("e" in row) == (largest in (99e-6, 1e6))


def _interrupting(monkeypatch, step):
    """A real Ctrl-C in the midst of a step."""
    from fastcorr import _learn

    class Layer(_learn.nn.Conv2d):
        calls = 0

        def backward(self, *args, **options):
            Layer.calls += 1
            if Layer.calls == step:
                signal.raise_signal(signal.SIGINT)
            return super().backward(*args, **options)

    monkeypatch.setattr(_learn.nn, "Conv2d", Layer)


def test_interrupted(capsys, monkeypatch):
    """What was learned so far is written, whole, and told."""
    x = rng.standard_normal((40, 41))
    np.save("x.npy", x)
    np.save("t.npy", expected(x, [[1, -1]]))
    _interrupting(monkeypatch, 30)
    assert main(["learn", "x.npy", "t.npy", "--size", "1x2", "--output", "k.npy"]) == 130
    captured = capsys.readouterr()
    assert "in 29 steps, interrupted\n" in captured.out
    assert "wrote k.npy and k.png\n" in captured.out
    assert captured.err == "fastcorr: interrupted; what was learned so far is written\n"
    np.testing.assert_allclose(np.load("k.npy"), [[1, -1]], atol=0.5)
    assert iio.imread("k.png").ndim == 3
    assert sorted(os.listdir()) == ["k.npy", "k.png", "t.npy", "x.npy"]


def test_interrupted_too_early_or_while_writing(capsys, monkeypatch):
    x = rng.standard_normal((8, 9))
    np.save("x.npy", x)
    words = ["learn", "x.npy", "x.npy", "--size", "1x1", "--steps", "3"]
    with monkeypatch.context() as patch:
        _interrupting(patch, 1)
        assert main(words) == 130
    assert os.listdir() == ["x.npy"]
    assert main(words) == 0
    before = Path("kernel.npy").read_bytes()
    save = np.save

    def fail(file, *args, **options):
        save(file, *args, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", fail)
    assert main([*words, "--lr", "0.001"]) == 130
    assert Path("kernel.npy").read_bytes() == before
    assert sorted(os.listdir()) == ["kernel.npy", "kernel.png", "x.npy"]
    assert capsys.readouterr().err == "fastcorr: interrupted\n" * 2


class Bar:
    """What the command uses of tqdm."""

    made = ()

    def __init__(self, **options):
        self.options, self.steps, self.said, self.closed = options, 0, [], False
        Bar.made += (self,)

    def set_postfix_str(self, text, refresh):
        self.said.append(text)

    def update(self):
        self.steps += 1

    def close(self):
        self.closed = True


def test_progress(capsys, monkeypatch):
    np.save("x.npy", rng.standard_normal((8, 9)))
    words = ["x.npy", "x.npy", "--size", "1x1", "--steps", "7"]
    monkeypatch.setitem(sys.modules, "tqdm", type(sys)("tqdm"))
    monkeypatch.setattr(sys.modules["tqdm"], "tqdm", Bar, raising=False)
    monkeypatch.setattr(Bar, "made", ())
    learn(capsys, *words)
    (bar,) = Bar.made
    assert bar.options["total"] == 7
    assert bar.options["disable"] is None  # on terminals only
    assert bar.steps == 7
    assert bar.closed
    assert bar.said[0].startswith("error ")
    learn(capsys, *words, "--quiet")
    assert len(Bar.made) == 1
    monkeypatch.setitem(sys.modules, "tqdm", None)  # not installed
    learn(capsys, *words)


# ---------------------------------------------------------------- the command itself


def test_subprocess():
    x = rng.integers(0, 256, (8, 9), dtype=np.uint8)
    _images.write(Path("x.png"), x)
    done = command("filter", "x.png", "y.png", "--kernel", "-1,1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    np.testing.assert_array_equal(iio.imread("y.png"), abs(expected(x, [[-1, 1]])))
    done = command("filter", "x.png", "z.png", "--kernel", "nothing")
    assert done.returncode == 2
    assert done.stderr.startswith("fastcorr: error: --kernel 'nothing'")
    assert sorted(os.listdir()) == ["x.png", "y.png"]


def test_readers_may_leave():
    """As `head` does: no traceback, and the files are there."""
    np.save("x.npy", np.eye(5))
    words = [sys.executable, "-m", "fastcorr", "learn", "x.npy", "x.npy", "--size", "1x1"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")
    assert sorted(os.listdir()) == ["kernel.npy", "kernel.png", "x.npy"]


def _shell(redirection, *words):
    """A command with its streams redirected, as the shell does it."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "fastcorr", *words],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONUNBUFFERED": ""},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_closed_streams(closed, quiet):
    """What they would say is lost, nothing else."""
    np.save("x.npy", np.eye(5))
    status, out, err = _shell(closed, "learn", "x.npy", "x.npy", "--size", "1x1", *quiet)
    assert (status, err) == (0, "")
    assert out.startswith("" if ">&-" in closed.split() else "learned a 1 x 1 kernel")
    assert sorted(os.listdir()) == ["kernel.npy", "kernel.png", "x.npy"]
    np.testing.assert_allclose(np.load("kernel.npy"), 1, atol=1e-3)
    assert iio.imread("kernel.png").ndim == 3
    status, out, err = _shell(closed, "learn", "x.npy", "none.npy", "--size", "1x1", *quiet)
    assert (status, out) == (2, "")
    assert ("none.npy" in err) == ("2>&-" not in closed)


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
def test_demo_without_streams():
    assert _shell(">&- 2>&-", "demo", "new") == (0, "", "")
    assert len(os.listdir("new")) == 5


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize(
    "words", ["learn x.npy x.npy --size 1x1", "--help", "learn --help", "--version"]
)
def test_a_full_disk_behind_stdout(words):
    np.save("x.npy", np.eye(5))
    message = "fastcorr: error: standard output: No space left on device\n"
    assert _shell("> /dev/full", *words.split()) == (2, "", message)


@pytest.mark.parametrize(("name", "word"), [("filter", "sobel-x"), ("learn", "momentum")])
def test_help_is_quick(name, word):
    code = (
        "import sys; from fastcorr.__main__ import main\n"
        f"try: main(['{name}', '--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "print(*sorted({'imageio', 'matplotlib', 'PIL', 'scipy', 'tifffile'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *text, modules = done.stdout.splitlines()
    assert any(word in line for line in text)
    assert modules == ""


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"fastcorr {fastcorr.__version__}\n"


def test_demo(capsys):
    run("demo", "a/demo")
    printed = capsys.readouterr().out
    assert "[[0, 1], [2, 3]]) = [[19, 25], [37, 43]]" in printed
    assert " 0  1  0  0  0 -1  0  " in printed
    assert "largest of all: 0)" in printed
    steps = re.findall(r"step (\d+): loss +([\d.]+), kernel", printed)
    assert [step for step, _ in steps] == ["100", "200", "300", "400"]
    losses = [float(loss) for _, loss in steps]
    assert 3 > losses[0] > 10 * losses[-1] > 0
    kernels = re.findall(r"kernel \[ *([-\d.]+), *([-\d.]+)\]", printed)[3:]
    assert len(kernels) == 5
    for kernel in kernels:
        np.testing.assert_allclose([float(v) for v in kernel], [0.992, -0.992], atol=0.003)
    first, last = re.search(r"loss ([\d.]+) in the first epoch, ([\d.]+) in", printed).groups()
    assert float(last) < 0.1 * float(first)
    assert float(re.search(r"with the edges: ([\d.]+)", printed).group(1)) > 0.95
    fields = re.findall(r"after (\w+) +(\d+) x (\d+)\n", printed)
    assert [name for name, _, _ in fields] == [
        "Conv2d",
        "ReLU",
        "AvgPool2d",
        *["Conv2d", "ReLU"],
        "Conv2d",
    ]
    assert [int(h) for _, h, _ in fields] == [3, 3, 4, 8, 8, 16]
    assert "depends on 256 pixels; its gradient is not 0 at exactly these" in printed
    assert "scipy.signal, one thread: " in printed
    assert max(map(len, printed.splitlines())) < 100
    names = ["edge", "feature-maps", "learned-kernel", "photograph", "receptive-field"]
    assert sorted(os.listdir("a/demo")) == [f"{name}.png" for name in names]
    for name in os.listdir("a/demo"):
        assert f"   wrote a/demo/{name}\n" in printed
        picture = iio.imread(f"a/demo/{name}")
        assert picture.shape[1] > 1000
        assert len(np.unique(picture)) > 50


def test_sample_photograph():
    x = _images.read(_demo.PHOTOGRAPH)
    assert x.shape == (400, 600, 3)
    assert x.std() > 30
    assert "CC0" in _demo.PHOTOGRAPH.with_name("README.md").read_text()


def test_names_as_long_as_the_file_system_allows(capsys):
    _images.write(Path("x.png"), np.zeros((3, 4), np.uint8))
    run("filter", "x.png", "a" * 251 + ".png", "--kernel", "box:3")
    assert Path("a" * 251 + ".png").exists()
    fails(capsys, "filter", "x.png", "a" * 252 + ".png", "--kernel", "box:3")


def test_weights_that_overflow_are_silent(capsys):
    _images.write(Path("x.png"), np.ones((3, 4), np.uint8))
    run("filter", "x.png", "out.png", "--kernel", "1e308,1e308")
    assert capsys.readouterr().err == ""


def test_boundary_aliases():
    np.save("x.npy", np.arange(12.0).reshape(3, 4))
    for alias, name in (("circular", "wrap"), ("symmetric", "symm"), ("pad", "fill")):
        run("filter", "x.npy", "a.npy", "--kernel", "box:3", "--boundary", alias)
        run("filter", "x.npy", "b.npy", "--kernel", "box:3", "--boundary", name)
        assert np.array_equal(np.load("a.npy"), np.load("b.npy"))
