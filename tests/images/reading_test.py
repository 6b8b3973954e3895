"""Files that break readers: each is read right, with its ink, or refused in one line."""

import base64
import contextlib
import hashlib
import io
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image, ImageCms

from mapo_jax import errors, images

WHITE, BLACK = 255, 0
INK = np.zeros((30, 40), bool)  # an L, which tells all eight orientations apart
INK[4:24, 6:10] = INK[20:24, 6:30] = True
GREY = np.where(INK, np.uint8(BLACK), np.uint8(WHITE))
CLEAR = np.where(INK, np.uint8(255), np.uint8(0))  # alpha: all but the ink is transparent


def saved(image: Image.Image | np.ndarray, kind: str = "PNG", **options) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(values: np.ndarray, depth: int, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG whose rows are the bytes `values`, with chunks that Pillow does not write."""
    height, width = values.shape[:2]
    width = width if depth > 1 else width * 8
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    every = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in every
    )


def oriented(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def exif(*entries: bytes) -> bytes:
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + b"".join(entries)


def premultiplied_grey() -> bytes:
    """A TIFF whose tag 338 says that alpha is multiplied in already."""
    content = saved(Image.merge("LA", [Image.fromarray(x) for x in (GREY & CLEAR, CLEAR)]), "TIFF")
    place = content.index(struct.pack("<HHI", 338, 3, 1)) + 8
    return content[:place] + struct.pack("<H", 1) + content[place + 2 :]


def lab() -> Image.Image:
    of = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
    return ImageCms.profileToProfile(Image.fromarray(GREY).convert("RGB"), *of, outputMode="LAB")


def alpha(mode: str, kind: str, **options) -> bytes:
    """Black ink over transparent black: without the alpha all is black."""
    bands = [Image.new("L", (40, 30))] * (len(mode) - 1) + [Image.fromarray(CLEAR)]
    return saved(Image.merge(mode, bands), kind, **options)


def palette(transparency: bytes | int) -> bytes:
    image = Image.fromarray(INK.astype(np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 0, 0, 0])  # background and ink are the same black
    return saved(image, transparency=transparency)


def rgb() -> Image.Image:
    return Image.fromarray(GREY).convert("RGB")


def blank(width: int, height: int) -> bytes:
    """Returns a PNG whose header claims these sides, which its rows do not have."""
    content = bytearray(saved(rgb()))
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    return bytes(content)


READ: dict[str, Callable[[], bytes]] = {
    "RGB": lambda: saved(rgb()),
    "JPEG": lambda: saved(rgb(), "JPEG", quality=95),
    "L": lambda: saved(GREY),
    "1": lambda: saved(~INK),
    "P": lambda: saved(rgb().quantize(4)),
    "BMP": lambda: saved(rgb(), "BMP"),
    "PPM": lambda: saved(rgb(), "PPM"),
    "WebP": lambda: saved(rgb(), "WEBP", lossless=True),
    "JPEG 2000": lambda: saved(rgb(), "JPEG2000"),
    "AVIF": lambda: saved(rgb(), "AVIF", quality=95),
    "TIFF, LZW": lambda: saved(rgb(), "TIFF", compression="tiff_lzw"),
    "RGBA": lambda: alpha("RGBA", "PNG"),
    "RGBA in WebP": lambda: alpha("RGBA", "WEBP", lossless=True, exact=True),
    "RGBA in TIFF": lambda: alpha("RGBA", "TIFF"),
    "LA": lambda: alpha("LA", "PNG"),
    "La": premultiplied_grey,
    "PA": lambda: saved(Image.frombytes("PA", (40, 30), np.stack([INK, CLEAR], -1)), "TIFF"),
    "P, tRNS of an index": lambda: palette(0),
    "P, tRNS of bytes": lambda: palette(b"\0\xff"),
    "GIF, transparent": lambda: saved(
        Image.fromarray(INK.astype(np.uint8)).convert("P"), "GIF", transparency=0
    ),
    "1, tRNS": lambda: png(np.packbits(~INK, axis=1), 1, 0, (b"tRNS", b"\0\1")),
    "L, tRNS": lambda: png(np.where(INK, 0, 7).astype(np.uint8), 8, 0, (b"tRNS", b"\0\7")),
    "RGB, tRNS": lambda: png(
        np.where(INK, 0, 7).astype(np.uint8)[..., None].repeat(3, 2),
        8,
        2,
        (b"tRNS", b"\0\7\0\7\0\7"),
    ),
    "I;16, tRNS": lambda: png(np.where(INK, 0, 7).astype(">u2"), 16, 0, (b"tRNS", b"\0\7")),
    "I;16": lambda: saved(GREY.astype(np.uint16) * 257),
    "I in PPM": lambda: b"P5 40 30 65535\n" + (GREY.astype(">u2") * 257).tobytes(),
    "I of 16 bits": lambda: saved(GREY.astype(np.int32) * 257, "TIFF"),
    "I of 8 bits": lambda: saved(GREY.astype(np.int32), "TIFF"),
    "F of 1": lambda: saved(GREY.astype(np.float32) / 255, "TIFF"),
    "F of 255": lambda: saved(GREY.astype(np.float32), "TIFF"),
    "CMYK": lambda: saved(rgb().convert("CMYK"), "TIFF"),
    "CMYK, inverted by Adobe": lambda: saved(rgb().convert("CMYK"), "JPEG", quality=95),
    "YCbCr": lambda: saved(rgb().convert("YCbCr"), "JPEG", quality=95),
    "LAB": lambda: saved(lab(), "TIFF"),
    "broken EXIF": lambda: saved(rgb(), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12"),
    "EXIF of text": lambda: saved(rgb(), "JPEG", quality=95, exif=b"Exif\0\0nonsense"),
    "orientation of text": lambda: saved(
        rgb(), exif=exif(struct.pack(">HHI4s", 0x0112, 2, 4, b"six"))
    ),
    "orientation 9": lambda: saved(rgb(), exif=oriented(9)),
}


@pytest.mark.parametrize("name", READ)
def test_the_ink_is_there(name):
    if name == "La" and int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("Pillow reads premultiplied grey since 13")
    found = images.read(READ[name]())
    assert found.dtype == np.uint8
    assert found.shape == (30, 40, 3)
    np.testing.assert_allclose(found, GREY[..., None].repeat(3, 2), atol=30)  # JPEG rings


def test_inverted_cmyk_is_what_the_file_has():
    image = Image.open(io.BytesIO(READ["CMYK, inverted by Adobe"]()))
    assert image.info["adobe_transform"] is not None
    assert image.mode == "CMYK"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 128, 32768, 65407, 65535]], np.uint16), [0, 0, 128, 255, 255]),
        (np.array([[0, 128, 32768, 65407, 65535]], ">u2"), [0, 0, 128, 255, 255]),
        (np.array([[0, 1, 200, 255]], np.int32), [0, 1, 200, 255]),
        (np.array([[0, 256, 32768, 65535]], np.int32), [0, 1, 128, 255]),
        (np.array([[0, 0.25, 0.5, 1]], np.float32), [0, 64, 128, 255]),
        (np.array([[0, 0.25, 1.5, 200]], np.float32), [0, 0, 2, 200]),
    ],
)
def test_greys_are_scaled(values, expected):
    found = images.read(saved(values, "TIFF"))
    assert found[0].tolist() == [[grey] * 3 for grey in expected]


def test_a_dark_ppm_of_16_bits_stays_dark():
    assert images.read(b"P5 2 1 65535\n" + b"\0\0\0\xff")[0].tolist() == [[0] * 3, [1] * 3]


@pytest.mark.parametrize("bad", [-1.0, 255.5, np.nan, np.inf])
def test_floats_of_another_range_are_refused(bad):
    line = r"values from .* to .*, not in 0\.\.1 or 0\.\.255"
    with pytest.raises(errors.UserError, match=line):
        images.read(saved(np.array([[0, bad, 200]], np.float32), "TIFF"))


@pytest.mark.parametrize("bad", [-1, 65536])
def test_integers_of_another_range_are_refused(bad):
    with pytest.raises(errors.UserError, match=r"not in 0\.\.255 or 0\.\.65535"):
        images.read(saved(np.array([[0, bad]], np.int32), "TIFF"))


def test_half_transparent_ink_is_mixed_with_white():
    pixels = np.array([[[0, 0, 0, 128], [255, 0, 0, 64], [10, 20, 30, 255]]], np.uint8)
    found = images.read(saved(pixels))[0].astype(int)
    np.testing.assert_allclose(found, [[127] * 3, [255, 191, 191], [10, 20, 30]], atol=1)


TURNED = {  # what a camera stores, by orientation: the first row and column are said by EXIF
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.T,
    6: lambda x: np.rot90(x),
    7: lambda x: x[::-1, ::-1].T,
    8: lambda x: np.rot90(x, -1),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_pictures_are_upright(orientation, kind):
    stored = np.ascontiguousarray(TURNED[orientation](GREY))
    image = Image.fromarray(stored).convert("RGB")
    found = images.read(saved(image, kind, exif=oriented(orientation), quality=95))
    np.testing.assert_allclose(found, GREY[..., None].repeat(3, 2), atol=30)


def test_the_other_exif_data_may_be_broken():
    turned = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    outside = struct.pack(">HHII", 0x8769, 4, 1, 10**6)  # the place of a directory
    found = images.read(saved(rgb(), exif=exif(turned, outside)))
    np.testing.assert_array_equal(found[..., 0], np.rot90(GREY, -1))


FRAMES = [rgb().rotate(angle) for angle in (0, 90, 180)]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_of_an_animation_the_first_frame_is_read(kind):
    moving = saved(FRAMES[0], kind, save_all=True, append_images=FRAMES[1:])
    assert images.is_animated(moving) is True
    assert images.is_animated(saved(FRAMES[0], kind)) is False
    np.testing.assert_allclose(images.read(moving), GREY[..., None].repeat(3, 2), atol=60)


def test_a_stereo_picture_is_not_animated():
    both = saved(FRAMES[0], "MPO", save_all=True, append_images=FRAMES[2:], quality=95)
    assert images.is_animated(both) is False
    np.testing.assert_allclose(images.read(both), GREY[..., None].repeat(3, 2), atol=30)


def test_paths_bytes_and_base64_are_the_same(tmp_path):
    content = saved(rgb())
    path = tmp_path / "a picture, and so on.jpg"  # its name does not matter
    path.write_bytes(content)
    text = base64.b64encode(content).decode()
    broken = "\n".join(text[i : i + 76] for i in range(0, len(text), 76))
    urls = [f"data:image/png;base64,{text}", f"DATA:image/png;charset=utf8;BASE64,{broken}"]
    for source in (path, str(path), content, text, broken, *urls):
        np.testing.assert_array_equal(images.read(source)[..., 0], GREY)
        assert images.digest(source) == hashlib.sha256(content).hexdigest()
        assert images.is_animated(source) is False


def test_an_array_can_be_written_to():
    images.read(saved(rgb()))[0, 0] = 7


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


def test_threads_read_at_once():
    contents = [make() for name, make in READ.items() if name != "La"] * 4
    alone = [images.read(content) for content in contents]
    before, together = list(warnings.filters), [None] * len(contents)

    def work(first: int) -> None:
        for i in range(first, len(contents), 4):
            together[i] = images.read(contents[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(map(np.array_equal, alone, together))
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
