"""What is no picture, or a broken or too large one, is refused in one line, and nothing leaks."""

import contextlib
import io
import os
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mapo_jax import errors, images
from tests.images.drawn import FRAMES, READ, blank, png, rgb, saved


def outcome(source) -> np.ndarray | errors.UserError:
    try:
        return images.read(source)
    except errors.UserError as error:
        return error


def refused(source) -> str:
    """Returns the line with which a picture is refused."""
    error = outcome(source)
    assert isinstance(error, errors.UserError)
    (line,) = error.lines
    return line


KNOWN = "give one of PNG, JPEG, GIF, WebP, BMP, TIFF, PPM, JPEG 2000 and AVIF"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><html>404</html>", "is HTML or XML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12", "is text"),
        ("Größe\n".encode(), "is text"),
        (b"<?xml version='1.0'?><SVG width='9'/>", "is an SVG drawing"),
        (b"%PDF-1.7\n\0\1", "is a PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is text"),  # Ghostscript stays out
        (bytes(range(256)), "is no picture, or its beginning is broken"),
        (saved(rgb(), "GIF")[:9], "is no picture, or its beginning is broken"),
        (blank(0, 5), "is no picture, or its beginning is broken"),
    ],
)
def test_what_is_no_picture_says_what_it_is(tmp_path, content, what):
    path = tmp_path / "404.jpg"
    path.write_bytes(content)
    assert refused(path) == f"{path}: {what}; {KNOWN}"
    assert refused(content) == f"a picture of {len(content)} bytes: {what}; {KNOWN}"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "PPM", "WEBP", "AVIF"])
def test_truncated_files_are_refused(kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = saved(noise, kind)
    for part in (0.3, 0.6, 0.9):
        line = refused(content[: int(part * len(content))])
        assert ": cannot be decoded (" in line or ": is no picture" in line


@pytest.mark.parametrize("lost", [1, 2, 12, 20])
def test_a_lost_tail_is_refused_or_lost_nothing(lost):
    for content in (saved(rgb()), saved(rgb(), "JPEG")):
        found = outcome(content[:-lost])
        if isinstance(found, np.ndarray):
            np.testing.assert_array_equal(found, images.read(content))
        else:
            assert ": cannot be decoded (" in found.lines[0]


def test_flipped_bytes_end_in_a_picture_or_in_one_line():
    random = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "GIF", "BMP", "PPM", "WEBP", "JPEG2000", "AVIF"):
        content = np.frombuffer(saved(FRAMES[0], kind), np.uint8)
        for _ in range(25):
            flipped = content.copy()
            flipped[random.integers(len(content), size=3)] = random.integers(256, size=3)
            found = outcome(flipped.tobytes())
            assert (found.ndim if isinstance(found, np.ndarray) else 3 * len(found.lines)) == 3


@pytest.mark.parametrize(
    "name", ["no/such/file.png", "", "file\0name", "a" * 300 + ".png", "data:image/svg,abcd"]
)
def test_a_missing_file_is_missing(name):
    lines = errors.UserError(name if len(name) <= 200 else f"{name[:40]}...").lines
    expected = f"{lines[0]}: no such file, and no base64 text; check the path"
    assert refused(name) == expected
    with pytest.raises(errors.UserError, match="no such file"):
        images.digest(name)


def test_a_missing_file_that_could_be_base64():
    line = refused("pictures/one")
    assert line == f"pictures/one (no such file, so read as base64): is text; {KNOWN}"


def test_what_is_no_file(tmp_path):
    assert refused(tmp_path) == f"{tmp_path}: is a directory; give a picture's path"
    assert refused(os.devnull) == f"{os.devnull}: is no regular file; give a picture's path"
    os.mkfifo(tmp_path / "pipe")  # to open it would wait for ever
    assert refused(tmp_path / "pipe").endswith("pipe: is no regular file; give a picture's path")
    for row in ({"bytes": b""}, None, 3):
        kind = type(row).__name__
        assert refused(row) == f"a picture of type {kind}: give a path, bytes or base64 text"


def test_an_unreadable_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"")

    def fail(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", fail)  # root may read all files
    assert refused(path) == f"{path}: cannot be read (Permission denied)"


def test_a_disk_that_fails(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"")

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("hashlib.file_digest", fail)
    with pytest.raises(errors.UserError, match=r"a\.png: cannot be read \(Input/output error\)"):
        images.digest(path)


TOO_MANY = f"has more than {images.MAX_PIXELS:,} pixels; make it smaller"
BOMB = """
import pathlib, resource, sys
from mapo_jax import errors, images
pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])  # of address space, in use
most = pages * resource.getpagesize() + 200_000_000
resource.setrlimit(resource.RLIMIT_AS, (most, most))
for source in sys.argv[1:]:
    try:
        images.read(source)
    except errors.UserError as error:
        print(error)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc, which Linux has")
def test_a_bomb_is_not_decoded(tmp_path):
    bombs = [tmp_path / "bomb.png"]
    bombs[0].write_bytes(png(np.zeros((30_000, 30_000 // 8), np.uint8), 1, 0))
    if "MAPO_JAX_DATA" in os.environ:
        hostile = Path(os.environ["MAPO_JAX_DATA"]) / "vision" / "hostile"
        bombs.append(hostile / "bomb_30000x30000.png")
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", BOMB, *bombs], capture_output=True, text=True
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [f"{bomb}: {TOO_MANY}" for bomb in bombs]


@pytest.mark.parametrize("sides", [(2**13, 2**12 + 1), (10_000, 9_000), (65_000, 65_000)])
def test_too_many_pixels(sides):
    line = f"a picture of {len(blank(*sides))} bytes: {TOO_MANY}"
    assert refused(blank(*sides)) == line
    with pytest.raises(errors.UserError, match=f"^{line}$"):
        images.is_animated(blank(*sides))


def test_too_many_pixels_of_webp():
    content = bytearray(saved(Image.new("RGB", (2, 2)), "WEBP", lossless=True))
    content[21:25] = struct.pack("<I", 16_382 | 16_382 << 14)  # its sides less 1, 14 bits each
    assert refused(bytes(content)).endswith(TOO_MANY)


def test_the_most_pixels_are_few_enough():
    assert images.is_animated(blank(2**13, 2**12)) is False
    assert Image.MAX_IMAGE_PIXELS is not None
    assert 2 * images.MAX_PIXELS < Image.MAX_IMAGE_PIXELS  # from where Pillow warns


def test_pillows_warnings_stay_inside():
    noisy = [blank(10_000, 9_000), READ["broken EXIF"]()]
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        for content in noisy:
            with Image.open(io.BytesIO(content)) as image, contextlib.suppress(OSError):
                image.getexif()
        assert len(heard) >= len(noisy)  # so Pillow does warn
        heard.clear()
        for content in noisy:
            outcome(content)
        assert heard == []
        assert warnings.filters == before


REFUSED = {
    "bomb_30000x30000.png": "more than",
    "empty.png": "is empty",
    "html_404.jpg": "is HTML",
    "text.png": "is text",
    "truncated.jpg": "cannot be decoded",
    "truncated.png": "cannot be decoded",
}
UPRIGHT = {
    "exif_orientation_2.jpg": lambda x: x[:, ::-1],
    "exif_orientation_4.jpg": lambda x: x[::-1],
    "exif_orientation_6.jpg": lambda x: np.rot90(x, -1),
    "exif_orientation_8.jpg": lambda x: np.rot90(x),
}


def test_the_hostile_folder():
    if "MAPO_JAX_DATA" not in os.environ:
        pytest.skip("MAPO_JAX_DATA is not set (a directory with vision/hostile/)")
    files = sorted((Path(os.environ["MAPO_JAX_DATA"]) / "vision" / "hostile").iterdir())
    assert len(files) >= 27
    drawn = images.read(files[0].parent / "rgb.png").astype(int)
    moving = set()
    for path in files:
        if path.name in REFUSED:
            assert REFUSED[path.name] in refused(path)
            continue
        found = images.read(path).astype(int)
        if images.is_animated(path):
            moving.add(path.name)
        if path.name == "rgba_black_under_transparent.png":
            assert (found.min(), found.max()) == (0, 255)
            assert 200 < found.mean() < 250
        elif path.name == "rgba_half.png":
            assert (found == 127).all()
        elif found.shape[:2] in ((80, 120), (120, 80)):
            same = UPRIGHT.get(path.name, lambda x: x)(drawn)
            if "grey" in path.name or path.name in ("float.tif", "one_bit.png"):
                same = same @ [[0.299], [0.587], [0.114]]
            assert abs(found - same).mean() < 4, path.name
    assert moving == {"animated.gif", "animated.png"}
