"""Files that break readers are read right: the ink is there, upright, on white."""

import base64
import hashlib
import io
import struct
import threading
import warnings

import numpy as np
import PIL
import pytest
from PIL import Image

from mapo_jax import errors, images
from tests.images.drawn import FRAMES, GREY, READ, exif, oriented, rgb, saved


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
