"""Files from strangers: weights, pictures and kernels that are damaged, lie, or are no files.

Only ValueError and OSError in the library, one line and status 2 from the command; nothing in
them runs, memory and time are bounded.  Random damage is done in processes of their own, with a
gigabyte of memory and some seconds for each file: run as a script, this file is such a process.
(Hand-made hostile files are in test_nn.py and test_command.py too.)
"""

import collections
import contextlib
import io
import json
import os
import pickle
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
import warnings
import zipfile
import zlib
from pathlib import Path

import memory
import numpy as np
import pytest
from nightly import blocks

from fastcorr import _images, nn
from fastcorr.__main__ import main

FILES_PER_BLOCK = 100
MEMORY = 1 << 30
SECONDS = 30  # for one file; a hundredth is usual


def model():
    return nn.Sequential(nn.Conv2d(1, 2, 3, rng=0), nn.Linear(3, 2, rng=0))


# ---------------------------------------------------------------- damage

LIES = [0, 1, -1, 2, 127, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63 - 1]


def _flip(rng, raw, other):
    for _ in range(rng.integers(1, 9)):
        raw[rng.integers(len(raw))] ^= 1 << rng.integers(8)


def _overwrite(rng, raw, other):
    at, n = rng.integers(len(raw)), rng.integers(1, 33)
    raw[at : at + n] = rng.integers(0, 256, n, np.uint8).tobytes()


def _cut(rng, raw, other):
    del raw[rng.integers(len(raw)) :]


def _cut_out(rng, raw, other):
    at = rng.integers(len(raw))
    del raw[at : at + rng.integers(1, 65)]


def _repeat(rng, raw, other):
    a, b = sorted(rng.integers(0, len(raw), 2))
    raw[b:b] = raw[a:b] * int(rng.integers(1, 4))


def _splice(rng, raw, other):
    raw[rng.integers(len(raw)) :] = other[rng.integers(len(other)) :]


def _lie(rng, raw, other):
    """Another number of 1 to 8 bytes, mostly near the beginning or the end."""
    size = int(2 ** rng.integers(4))
    number = LIES[rng.integers(len(LIES))] % 256**size
    near = int(rng.integers(min(len(raw), 200)))
    at = [near, len(raw) - near - 1, int(rng.integers(len(raw)))][rng.integers(3)]
    raw[at : at + size] = number.to_bytes(size, ["little", "big"][rng.integers(2)])


def _lie_in_words(rng, raw, other):
    """Another number in a header of text, which keeps its length where it has room."""
    numbers = list(re.finditer(rb"-?\d+", raw[:600]))
    if numbers:
        found = numbers[rng.integers(len(numbers))]
        lie = str([*LIES, -5, 10**30][rng.integers(len(LIES) + 2)]).encode()
        raw[found.start() : found.end()] = lie
        room = bytes(raw).find(b"  ", found.start())
        if room >= 0:
            extra = len(lie) - (found.end() - found.start())
            raw[room : room + max(extra, 0)] = b" " * max(-extra, 0)


DAMAGE = [_flip, _overwrite, _cut, _cut_out, _repeat, _splice, _lie, _lie, _lie, _lie_in_words]


def damaged(rng, raw, other):
    raw = bytearray(raw)
    for _ in range(rng.integers(1, 4)):
        if raw:
            DAMAGE[rng.integers(len(DAMAGE))](rng, raw, other)
    return bytes(raw)


def damaged_npz(rng, raw, other):
    """Damage to the archive, its directory, or to what is in it, with the right checksum."""
    if rng.random() < 0.3:
        return damaged(rng, raw, other)
    if rng.random() < 0.4:
        raw = bytearray(raw)
        for _ in range(rng.integers(1, 4)):
            sign = [b"PK\1\2", b"PK\3\4", b"PK\5\6"][rng.integers(3)]
            places = [m.start() for m in re.finditer(re.escape(sign), raw)]
            size = int(rng.choice([2, 4]))
            at = places[rng.integers(len(places))] + 4 + int(rng.integers(21)) * 2
            raw[at : at + size] = (LIES[rng.integers(len(LIES))] % 256**size).to_bytes(
                size, "little"
            )
        return bytes(raw)
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(file, "w") as new:
        names = old.namelist()
        warnings.filterwarnings("ignore", "Duplicate name")
        chosen = rng.integers(len(names))
        for n, name in enumerate(names):
            data = old.read(name)
            if n == chosen:
                data = damaged(rng, data, data)
                tricks = [name, name, name, "../" + name, "/" + name, name.upper(), "", names[0]]
                name = tricks[rng.integers(len(tricks))]
            method = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED][rng.integers(2)]
            new.writestr(zipfile.ZipInfo(name), data, method)
    return file.getvalue()


def damaged_safetensors(rng, raw, other):
    """Damage to anything, or to the header of text, with the right length before it."""
    if rng.random() < 0.5:
        return damaged(rng, raw, other)
    (length,) = struct.unpack_from("<Q", raw)
    header = bytearray(raw[8 : 8 + length])
    for _ in range(rng.integers(1, 4)):
        (_lie_in_words if rng.random() < 0.7 or not header else _flip)(rng, header, other)
    return struct.pack("<Q", len(header)) + bytes(header) + raw[8 + length :]


def damaged_png(rng, raw, other):
    """Damage, mostly with right checksums, so that it reaches more than the first test."""
    raw = damaged(rng, raw, other)
    if rng.random() < 0.2:
        return raw
    at, fixed = 8, bytearray(raw)
    while at + 12 <= len(fixed):
        (length,) = struct.unpack_from(">I", fixed, at)
        if at + 12 + length > len(fixed):
            break
        struct.pack_into(">I", fixed, at + 8 + length, zlib.crc32(fixed[at + 4 : at + 8 + length]))
        at += 12 + length
    return bytes(fixed)


# ---------------------------------------------------------------- good files


def _saved(save, *args, **options):
    file = io.BytesIO()
    save(file, *args, **options)
    return file.getvalue()


def pictures(kind):
    """Some good files of a kind."""
    import imageio.v3 as iio
    import tifffile

    from fastcorr import _images

    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (9, 12), np.uint8)
    colour = rng.integers(0, 256, (9, 12, 3), np.uint8)
    deep = rng.integers(0, 2**16, (9, 12, 3), np.uint16)
    if kind == "npy":
        return [_saved(np.save, a) for a in (grey, deep, colour / 255, grey > 99)]
    if kind == "png":
        path = Path("deep.png")
        _images.write(path, deep)
        plain = [iio.imwrite("<bytes>", a, extension=".png") for a in (grey, colour)]
        return [*plain, iio.imwrite("<bytes>", deep[..., 0], extension=".png"), path.read_bytes()]
    if kind == "jpg":
        return [iio.imwrite("<bytes>", a, extension=".jpg") for a in (grey, colour)]
    forms = [
        (grey, {}), (colour, {"photometric": "rgb"}), (deep, {"photometric": "rgb"}),
        (deep, {"photometric": "rgb", "compression": "zlib", "rowsperstrip": 2}),
        (deep[..., 0], {"tile": (16, 16), "compression": "lzma"}), (grey / 255, {"bigtiff": True}),
    ]  # fmt: skip
    return [_saved(tifffile.imwrite, a, **options) for a, options in forms]


def weights(suffix):
    path = Path("good" + suffix)
    model().save(path)
    return [path.read_bytes()]


# Kind -> its good files, and how they are damaged.
KINDS = {
    "npz": (lambda: weights(".npz"), damaged_npz),
    "safetensors": (lambda: weights(".safetensors"), damaged_safetensors),
    "png": (lambda: pictures("png"), damaged_png),
    "jpg": (lambda: pictures("jpg"), damaged),
    "tif": (lambda: pictures("tif"), damaged),
    "npy": (lambda: pictures("npy"), damaged),
    "kernel": (lambda: pictures("npy"), damaged),
}


# ---------------------------------------------------------------- the process for the random ones


def _load(path):
    """What the library makes of weights: None, or the name of the exception."""
    layers = model()
    before = {name: v.tobytes() for name, v in layers.state_dict().items()}
    try:
        layers.load(path)
    except (ValueError, OSError) as error:
        assert {name: v.tobytes() for name, v in layers.state_dict().items()} == before
        return type(error).__name__
    return None


def _filter(path, kind):
    """What the command makes of a picture or a kernel: None, or "refused"."""
    np.save("x.npy", np.eye(7))
    words = ["x.npy", "out.npy", "--kernel", str(path)]
    if kind != "kernel":
        words = [str(path), "out.npy", "--kernel", "box:3"]
    with contextlib.redirect_stderr(io.StringIO()) as said:
        status = main(["filter", *words, "--workers", "1"])
    assert (status, said.getvalue().count("\n")) in ((0, 0), (2, 1)), (status, said.getvalue())
    assert said.getvalue().startswith("fastcorr: error: " if status else "")
    if status == 0:
        os.remove("out.npy")
    assert not os.path.exists("out.npy")
    return "refused" if status else None


def _peak():
    """Most memory that this process has taken, in bytes."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


def run(kind, block):
    """Damage files and read them; a line of JSON tells what came of it."""
    make, damage = KINDS[kind]
    good = make()
    for raw in good:  # imports all that is needed; without damage, all are read
        path = Path("good." + ("npy" if kind == "kernel" else kind))
        path.write_bytes(raw)
        if kind in ("npz", "safetensors"):
            assert _load(path) is None
        elif kind != "kernel" or b"'shape': (9, 12)" in raw:
            assert _filter(path, kind) is None
    virtual = memory.address_space()
    resource.setrlimit(resource.RLIMIT_AS, (virtual + MEMORY, virtual + MEMORY))
    before, outcomes, slowest = _peak(), collections.Counter(), 0.0
    rng = np.random.default_rng([block, *kind.encode()])
    path = Path("damaged." + ("npy" if kind == "kernel" else kind))
    names = set(os.listdir()) | {path.name, "x.npy"}
    for _ in range(FILES_PER_BLOCK):
        first, second = rng.integers(0, len(good), 2)
        path.write_bytes(damage(rng, good[first], good[second]))
        start = time.perf_counter()
        signal.alarm(SECONDS)  # the end of the process, and path shows why
        outcome = _load(path) if kind in ("npz", "safetensors") else _filter(path, kind)
        signal.alarm(0)
        slowest = max(slowest, time.perf_counter() - start)
        outcomes[str(outcome)] += 1
    assert set(os.listdir()) <= names  # nothing was run, nothing is left behind
    peak = (_peak() - before) >> 20
    print(json.dumps({"outcomes": outcomes, "slowest": slowest, "peak": peak}))


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits as on Linux")


def child(directory, *words, **options):
    """This file as a process, in a directory of its own."""
    command = [sys.executable, __file__, *map(str, words)]
    here = str(Path(__file__).parent)
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "MPLBACKEND": "Agg"}
    return subprocess.Popen(
        command, cwd=directory, env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, **options,
    )  # fmt: skip


@linux
@pytest.mark.parametrize("block", blocks(1, 10))
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files(kind, block, tmp_path):
    pytest.importorskip("safetensors" if kind == "safetensors" else "imageio")
    pytest.importorskip("tifffile")
    done = child(tmp_path, kind, block)
    out, err = done.communicate(timeout=600)
    assert done.returncode == 0, err[-3000:]
    assert err == "" or kind == "tif"  # libtiff says what it finds on its own
    told = json.loads(out)
    refused = FILES_PER_BLOCK - told["outcomes"].get("None", 0)
    assert refused > FILES_PER_BLOCK // 10, told


# ---------------------------------------------------------------- what is no file


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys, *words):
    """The one line of a command that must fail, and leave nothing behind."""
    before = set(os.listdir())
    assert main(words) == 2
    assert set(os.listdir()) == before
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def pipe(path):
    os.mkfifo(path)


def link_to_a_pipe(path):
    os.mkfifo("pipe")
    os.symlink("pipe", path)


def loop(path):
    os.symlink(path, path)


def directory(path):
    os.mkdir(path)


def device(path):
    os.symlink("/dev/zero", path)  # to read only!


def its_socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path)


NO_FILES = pipe, link_to_a_pipe, loop, directory, its_socket


@linux
@pytest.mark.parametrize("make", [*NO_FILES, device])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_weights_are_read_from_files_only(make, suffix, here):
    """At once, and not when somebody writes into a pipe."""
    make("m" + suffix)
    with pytest.raises(OSError, match=r"m\.") as error:
        model().load("m" + suffix)
    assert error.value.errno


@linux
@pytest.mark.parametrize("make", NO_FILES)  # never the device: a test that fails would replace it
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_weights_replace_files_only(make, suffix, here):
    make("m" + suffix)
    before = set(os.listdir()), os.lstat("m" + suffix)[:4]
    with pytest.raises(OSError, match=r"m\."):
        model().save("m" + suffix)
    assert (set(os.listdir()), os.lstat("m" + suffix)[:4]) == before


@linux
@pytest.mark.parametrize("make", [*NO_FILES, device])
def test_pictures_are_read_from_files_only(make, here, capsys):
    pytest.importorskip("matplotlib")
    make("p.npy")
    np.save("x.npy", np.eye(4))
    assert "'p.npy'" in refused(capsys, "filter", "p.npy", "out.npy", "--kernel", "box:3")
    assert "'p.npy'" in refused(capsys, "filter", "x.npy", "out.npy", "--kernel", "p.npy")
    assert "'p.npy'" in refused(capsys, "learn", "x.npy", "p.npy", "--size", "1x1")


@linux
@pytest.mark.parametrize("make", NO_FILES)
def test_pictures_replace_files_only(make, here, capsys):
    pytest.importorskip("matplotlib")
    make("p.npy")
    np.save("x.npy", np.eye(4))
    before = os.lstat("p.npy")[:4]
    assert "'p.npy'" in refused(capsys, "filter", "x.npy", "p.npy", "--kernel", "box:3")
    message = refused(capsys, "learn", "x.npy", "x.npy", "--size", "1x1", "--output", "p.npy")
    assert "'p.npy'" in message
    assert os.lstat("p.npy")[:4] == before


def test_a_link_to_nothing_makes_the_file(here):
    os.symlink("target.npz", "link.npz")
    model().save("link.npz")
    assert os.path.islink("link.npz")
    model().load("target.npz")


@linux
@pytest.mark.parametrize(
    "name",
    [
        "a$b_{c}$",
        "$\\frac$",
        "a\nb",
        "\udcff\udcfe",
        "\N{SNOWMAN}",
        "a b'\"",
        "-x",
        "%s%d",
        "\x1b[31m",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii"])
def test_odd_names(name, encoding, here, capsys):
    """One line each, and the files are there; no traceback, no mathematics."""
    pytest.importorskip("matplotlib")
    np.save("x.npy", np.eye(4))
    os.rename("x.npy", f"./{name}.npy")
    words = ["learn", f"./{name}.npy", f"./{name}.npy", "--size", "1x1", "--steps", "2", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "fastcorr", *words, "--output", f"./{name}k.npy"],
        capture_output=True, check=False, timeout=120,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert os.path.exists(f"./{name}k.npy")
    message = refused(capsys, "filter", f"./{name}none.npy", "out.npy", "--kernel", "1")
    assert message.isprintable() or message[:-1].isprintable()


TERMINATED = """
import os, runpy, signal, sys
replace = os.replace
def terminated(*names):
    os.kill(os.getpid(), signal.SIGTERM)
    replace(*names)
os.replace = terminated
runpy.run_module("fastcorr", run_name="__main__")
"""


@linux
def test_terminated_while_writing(here):
    """Neither half a file nor what was to become one."""
    pytest.importorskip("imageio")
    np.save("x.npy", np.eye(4))
    command = [sys.executable, "-c", TERMINATED, "filter", "x.npy", "y.npy", "--kernel", "1"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGTERM, b"", b"")
    assert os.listdir() == ["x.npy"]


# ---------------------------------------------------------------- bombs and code


class Payload:
    def __reduce__(self):
        return os.mkdir, ("owned",)


def test_pickles_do_not_run(here, capsys):
    pytest.importorskip("imageio")
    np.save("x.npy", np.eye(4))
    np.save("objects.npy", np.array([[Payload()]], object), allow_pickle=True)
    Path("bare.npy").write_bytes(pickle.dumps(Payload()))
    with zipfile.ZipFile("zip.npy", "w") as archive:
        archive.write("objects.npy")
    for name in ("objects.npy", "bare.npy", "zip.npy"):
        refused(capsys, "filter", name, "out.npy", "--kernel", "1")
        refused(capsys, "filter", "x.npy", "out.npy", "--kernel", name)
    assert not os.path.exists("owned")
    pickle.loads(Path("bare.npy").read_bytes())  # it does run
    assert os.path.exists("owned")


@pytest.mark.parametrize("compression", ["zlib", "lzma"])
def test_bombs_in_strips(compression, here, capsys, monkeypatch):
    """A strip of 64 MB of zeros in a picture of 100 KB, at a thousandth of the true limit."""
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("imageio")
    monkeypatch.setattr(_images, "_MAX_BYTES", 1 << 20)
    options = {"compression": compression, "rowsperstrip": 100}
    tifffile.imwrite("bomb.tif", np.zeros((100, 16_000_000 // 100), np.float32), **options)
    with tifffile.TiffFile("bomb.tif") as tiff:
        width = tiff.pages[0].tags["ImageWidth"]
        assert len(tiff.pages[0].dataoffsets) == 1
    honest = refused(capsys, "filter", "bomb.tif", "out.npy", "--kernel", "1")
    assert "64000000 bytes" in honest
    raw = bytearray(Path("bomb.tif").read_bytes())
    struct.pack_into("<I", raw, width.valueoffset, 250)
    Path("bomb.tif").write_bytes(raw)
    assert "larger than it should be" in refused(
        capsys, "filter", "bomb.tif", "out.npy", "--kernel", "1"
    )
    tifffile.imwrite("good.tif", np.ones((100, 2500), np.float32), **options)
    assert main(["filter", "good.tif", "out.npy", "--kernel", "1"]) == 0


@linux
def test_sparse_files(here, capsys):
    """Terabytes that take no room on the disk."""
    pytest.importorskip("imageio")
    heads = {
        "png": b"\x89PNG\r\n\x1a\n",
        "jpg": b"\xff\xd8\xff\xe0",
        "tif": b"II*\0\xff\xff\xff\x7f",
    }
    for name, head in heads.items():
        with open(name, "wb") as file:
            file.write(head)
            file.truncate(1 << 40)
        refused(capsys, "filter", name, "out.npy", "--kernel", "1")
    for name in ("m.npz", "m.safetensors"):
        with open(name, "wb") as file:
            file.truncate(1 << 40)
        with pytest.raises(ValueError, match="bytes are more"):
            model().load(name)


@pytest.mark.parametrize(
    "shape", ["(1000000, 1000000)", "(0, 99999999999999)", "(-1, 3)", "(2, -2)"]
)
def test_npy_that_lies(shape, here, capsys):
    np.save("x.npy", np.eye(4))
    raw = Path("x.npy").read_bytes()
    field = b"'shape': (4, 4), }"
    lie = f"'shape': {shape}, }}".encode()
    Path("x.npy").write_bytes(raw.replace(field.ljust(len(lie)), lie))
    assert raw != Path("x.npy").read_bytes()
    refused(capsys, "filter", "x.npy", "out.npy", "--kernel", "1")
    refused(capsys, "filter", "x.npy", "out.npy", "--kernel", "x.npy")


# ---------------------------------------------------------------- whole or not at all


DEEP = {
    "minus": "-" * 9_000 + "1",
    "shape": "{'descr': '<f4', 'fortran_order': False, 'shape': (1," + "-" * 8_000 + "1)}",
    "brackets": "(" * 9_000,
    "dictionaries": "{'descr':" * 900 + "1" + "}" * 900,
    "not": "{'descr': " + "not " * 2_000 + "1}",
}


@linux
@pytest.mark.parametrize("name", DEEP)
def test_headers_that_are_nested_deep(name, tmp_path):
    """In a thread whose stack is small, their depth would end the process."""
    header = DEEP[name].encode().ljust(9_990) + b"\n"
    raw = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + bytes(100)
    with zipfile.ZipFile(tmp_path / "deep.npz", "w") as archive:
        archive.writestr("weight.npy", raw)
    script = """
import threading
from fastcorr import nn

def work():
    try:
        nn.Conv2d(1, 1, 3, bias=False).load("deep.npz")
    except ValueError as error:
        print(error)

threading.stack_size(1 << 16)
thread = threading.Thread(target=work)
thread.start()
thread.join()"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "its header is not that of an array of numbers" in done.stdout


def save_for_ever(path):
    """Save one of two models, again and again."""
    models = [nn.Linear(300, 300, rng=n) for n in range(2)]
    models[0].save(path)
    print("ready", flush=True)
    while True:
        for each in models:
            each.save(path)


@linux
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL], ids=["SIGINT", "SIGKILL"])
@pytest.mark.parametrize("block", blocks(2, 25))
def test_a_file_is_whole_whenever_saving_ends(signum, block, tmp_path):
    rng = np.random.default_rng(block)
    for suffix in (".npz", ".safetensors"):
        if suffix == ".safetensors":
            pytest.importorskip("safetensors")
        path = tmp_path / ("m" + suffix)
        saving = child(tmp_path, "save", path)
        assert saving.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0, 0.02))
        saving.send_signal(signum)
        try:
            saving.communicate(timeout=60)
        finally:
            saving.kill()
        there = nn.Linear(300, 300)
        there.load(path)
        assert any(
            (there.weight.data == nn.Linear(300, 300, rng=n).weight.data).all() for n in range(2)
        )
        if signum == signal.SIGINT:
            assert os.listdir(tmp_path) == [path.name]
        path.unlink()


@linux
@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".npy", ".png", ".tif"])
def test_a_full_disk(suffix, here, capsys):
    """No file may be longer than 20 KB: what was there stays."""
    pytest.importorskip("imageio")
    name = "m" + suffix
    weights = suffix in (".npz", ".safetensors")
    large = nn.Linear(100, 100, rng=0)
    np.save("x.npy", np.random.default_rng(0).random((200, 200)))
    if weights:
        pytest.importorskip("safetensors")
        nn.Linear(2, 2, rng=0).save(name)
    else:
        Path(name).write_bytes(b"what was there")
    before = Path(name).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        if weights:
            with pytest.raises(OSError, match="too large"):
                large.save(name)
        else:
            assert f"cannot write {name!r}" in refused(
                capsys, "filter", "x.npy", name, "--kernel", "1"
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert Path(name).read_bytes() == before
    assert set(os.listdir()) == {"x.npy", name}


if __name__ == "__main__":
    if sys.argv[1] == "save":
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored under nohup
        with contextlib.suppress(KeyboardInterrupt):
            save_for_ever(Path(sys.argv[2]))
    else:
        run(sys.argv[1], int(sys.argv[2]))
