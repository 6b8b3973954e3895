"""Small picture files of every mode, most with the same ink on white or on nothing."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageCms

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

FRAMES = [rgb().rotate(angle) for angle in (0, 90, 180)]
