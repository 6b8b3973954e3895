"""Reads picture files, whatever they hold, as RGB or not at all.

Pixels come as a person sees them: turned as the camera says, and on white where transparent, since
black ink over a transparent black is all black once the transparency is dropped. Colour profiles
are not applied. Any thread may call these functions.
"""

import base64
import contextlib
import hashlib
import io
import os
import threading
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from mapo_jax import errors

Source = str | os.PathLike[str] | bytes

# Twice what the largest budget of a policy keeps (Qwen3-VL's 16,777,216); 130 MB when decoded.
MAX_PIXELS = 2**25
# What data sets hold. Other readers of Pillow guess (TGA) or run programs (EPS runs Ghostscript).
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
_KNOWN = "PNG, JPEG, GIF, WebP, BMP, TIFF, PPM, JPEG 2000 and AVIF"
_UPRIGHT = {  # EXIF's orientation, and what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read(path_or_bytes: Source) -> np.ndarray:
    """Returns uint8[h, w, 3], the picture upright, its transparent parts white.

    Of an animation it is the first frame. Greys of 16 bits are scaled to 8. Where a file does not
    say its range (32-bit integers but in PPM, and floats), integers are of 0..255 or 0..65535 and
    floats of 0..1 or 0..255, the first that holds all values.

    Args:
        path_or_bytes: a path; the bytes of a file; or, as a str, such bytes in base64, plain or as
            a URL data:image/...;base64,...

    Raises:
        UserError: there is no such file, or no picture in it, or one that is broken, of an unknown
            range, or of more than MAX_PIXELS, which is not decoded.
    """
    with _opened(path_or_bytes) as image:
        image.load()  # PNG may have its EXIF after the pixels
        turn = _UPRIGHT.get(_orientation(image))
        image = _rgb(image)
        return np.array(image if turn is None else image.transpose(turn))


def is_animated(path_or_bytes: Source) -> bool:
    """Whether the file has more frames or pages than the first, which is what `read` returns.

    Raises:
        UserError: as `read`, but pixels are not decoded.
    """
    with _opened(path_or_bytes) as image:  # MPO's further frames are depth or the other eye
        return image.format != "MPO" and getattr(image, "is_animated", False)


def digest(path_or_bytes: Source) -> str:
    """Returns the SHA-256 of the file's bytes, in base64 or not, as hexadecimal digits.

    Raises:
        UserError: there is no such file, or it cannot be read.
    """
    with _file(path_or_bytes) as (name, file):
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:  # of the disk, or of the network behind it
            raise _unreadable(name, error) from None


@contextlib.contextmanager
def _file(source: Source) -> Iterator[tuple[str, io.BytesIO | io.BufferedReader]]:
    """Yields the name of a source for mistakes, and its bytes."""
    if isinstance(source, bytes):
        yield f"a picture of {len(source):,} bytes", io.BytesIO(source)
        return
    if not isinstance(source, str | os.PathLike):
        found = type(source).__name__
        raise errors.UserError(f"a picture of type {found}: give a path, bytes or base64 text")
    path = os.fspath(source)
    name = path if len(path) <= 200 else f"{path[:40]}..."
    if not os.path.exists(path):
        content = _from_base64(path)
        if not content:
            raise errors.UserError(f"{name}: no such file, and no base64 text; check the path")
        yield f"{name} (no such file, so read as base64)", io.BytesIO(content)
        return
    if not os.path.isfile(path):  # opening a pipe would wait for ever
        kind = "a directory" if os.path.isdir(path) else "no regular file"
        raise errors.UserError(f"{name}: is {kind}; give a picture's path")
    try:
        file = open(path, "rb")
    except OSError as error:
        raise _unreadable(name, error) from None
    with file:
        yield name, file


def _unreadable(name: str, error: OSError) -> errors.UserError:
    return errors.UserError(f"{name}: cannot be read ({error.strerror})")


def _from_base64(text: str) -> bytes | None:
    if text[:5].lower() == "data:":
        kind, _, text = text.partition(",")
        if not kind.lower().endswith(";base64"):
            return None
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        return None


class _Quiet:
    """Silences Pillow's own warnings while any thread is inside.

    Filters belong to the process: were each thread to restore those that it found, one thread could
    take the filter from another, or leave it for ever.
    """

    def __init__(self):
        self._lock, self._inside, self._before = threading.Lock(), 0, warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._before.__exit__(None, None, None)


_QUIET = _Quiet()


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[Image.Image]:
    """Yields a picture whose pixels are not decoded yet; whatever fails then is a UserError too."""
    with _file(source) as (name, file), _QUIET:
        try:
            with Image.open(file, formats=_FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                yield image
                return
        except Image.DecompressionBombError:
            what = f"has more than {MAX_PIXELS:,} pixels; make it smaller"
        except UnidentifiedImageError:
            file.seek(0)
            what = f"{_instead(file.read(512))}; give one of {_KNOWN}"
        except Exception as error:  # readers of Pillow raise anything over broken bytes
            what = f"cannot be decoded ({error or type(error).__name__}); save it again as PNG"
    raise errors.UserError(f"{name}: {what}")


def _instead(head: bytes) -> str:
    """Says what a file is, by its first bytes, that is no picture."""
    text = head.decode("latin-1").lstrip("ï»¿ \t\r\n").lower()
    if not head:
        return "is empty"
    if text.startswith("%pdf"):
        return "is a PDF"
    if "<svg" in text:
        return "is an SVG drawing"
    if text.startswith("<"):
        return "is HTML or XML"
    if min(head) >= 9:  # below are control characters that text does not have
        return "is text"
    return "is no picture, or its beginning is broken"


def _orientation(image: Image.Image) -> int:
    """Returns EXIF's orientation; 1, which is upright, where the EXIF data is broken."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # as in `_opened`
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = _grey(image, [65535])
    elif image.mode == "I":  # PPM's reader has scaled it to 16 bits
        image = _grey(image, [65535] if image.format == "PPM" else [255, 65535])
    elif image.mode == "F":
        image = _grey(image, [1, 255])
    if image.has_transparency_data:
        if image.mode == "La":
            image = image.convert("LA")  # Pillow knows no direct way from here to RGBA
        drawn = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn)
    return image.convert("RGB")


def _grey(image: Image.Image, tops: Sequence[int]) -> Image.Image:
    """Scales 0..top to 0..255, of the first top that holds all values.

    Raises:
        ValueError: none holds them.
    """
    values = np.asarray(image)
    low, high = values.min(), values.max()
    top = next((top for top in tops if low >= 0 and high <= top), None)
    if top is None:
        ranges = " or ".join(f"0..{top}" for top in tops)
        raise ValueError(f"values from {low:g} to {high:g}, not in {ranges}")
    grey = np.rint(values * (255 / top)).astype(np.uint8)
    grey[values == image.info.get("transparency", -1)] = 255
    return Image.fromarray(grey)
