"""The size at which a policy sees a picture, and the patches of a picture of that size.

Both are those of the image processors of transformers 4.57 and later with Pillow.
"""

import math

import numpy as np
from PIL import Image

MAX_RATIO = 200  # of the longer side to the shorter one


def target_size(
    h: int, w: int, factor: int = 28, min_pixels: int = 3136, max_pixels: int = 12845056
) -> tuple[int, int]:
    """Returns (height, width): multiples of `factor` near h and w, the area within limits.

    Args:
        h: the picture's height in pixels.
        w: its width.
        factor: the side of what becomes one token, in pixels; patch * merge.
        min_pixels: a smaller picture grows to at least this area.
        max_pixels: a larger picture shrinks to at most this area, but no side below `factor`.

    Raises:
        ValueError: one side is more than 200 times the other, or is 0.
    """
    short, long = sorted((h, w))
    if short < 1 or long / short > MAX_RATIO:
        raise ValueError(f"{w} x {h} pixels: one side is more than {MAX_RATIO} times the other")
    height, width = round(h / factor) * factor, round(w / factor) * factor
    if height * width > max_pixels:
        scale = math.sqrt(h * w / max_pixels)
        height = max(factor, math.floor(h / scale / factor) * factor)
        width = max(factor, math.floor(w / scale / factor) * factor)
    elif height * width < min_pixels:
        scale = math.sqrt(min_pixels / (h * w))
        height = math.ceil(h * scale / factor) * factor
        width = math.ceil(w * scale / factor) * factor
    return height, width


def shrink(
    picture: np.ndarray,
    factor: int,
    min_pixels: int,
    max_pixels: int,
    resize: str = "policy",
) -> np.ndarray:
    """Returns the picture at its target size, by Pillow's bicubic filter.

    Args:
        picture: uint8[h, w, 3].
        factor: as in `target_size`.
        min_pixels: as in `target_size`.
        max_pixels: as in `target_size`.
        resize: "policy" for one step to the target size. "easyr1" for the two steps of EasyR1 and
            of the paper's code: to an area between min_pixels and max_pixels, each side cut to an
            integer; then to the target size of that, under the limits of Qwen2.5-VL's own files,
            which are the defaults of `target_size`.

    Returns:
        uint8[height, width, 3].

    Raises:
        ValueError: as `target_size`, of the picture or of the pre-resized one.
    """
    h, w, _ = picture.shape
    height, width = target_size(h, w, factor, min_pixels, max_pixels)
    image = Image.fromarray(picture)
    if resize == "easyr1":
        if h * w > max_pixels:
            image = _to_area(image, max_pixels)
        if image.height * image.width < min_pixels:  # also where cutting the sides has led there
            image = _to_area(image, min_pixels)
        height, width = target_size(image.height, image.width, factor)
    return np.array(image.resize((width, height), Image.Resampling.BICUBIC))


def _to_area(image: Image.Image, pixels: int) -> Image.Image:
    scale = math.sqrt(pixels / (image.width * image.height))
    size = int(image.width * scale), int(image.height * scale)
    return image.resize(size, Image.Resampling.BICUBIC)


def patches(picture: np.ndarray, patch: int = 14, merge: int = 2) -> np.ndarray:
    """Cuts a picture into patches, those of one token side by side.

    Args:
        picture: uint8[h, w, 3], its sides multiples of patch * merge.
        patch: the side of a patch in pixels.
        merge: the side of a token in patches.

    Returns:
        uint8[N, 3 * patch * patch], a patch's values in the order (channel, y, x). The order of
        patches: tokens row by row, and in each token its merge * merge patches row by row.

    Raises:
        ValueError: a side is no such multiple.
    """
    h, w, channels = picture.shape
    if h % (patch * merge) or w % (patch * merge):
        raise ValueError(f"{w} x {h} pixels: the sides must be multiples of {patch * merge}")
    rows, columns = h // (patch * merge), w // (patch * merge)
    blocks = picture.reshape(rows, merge, patch, columns, merge, patch, channels)
    return blocks.transpose(0, 3, 1, 4, 6, 2, 5).reshape(-1, channels * patch * patch)
