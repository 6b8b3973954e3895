"""Target sizes, pixels and patches, against transformers' values and rules written again."""

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from PIL import Image

from mapo_jax import images

MEAN = np.array([0.48145466, 0.4578275, 0.40821073])  # CLIP's, which Qwen2-VL uses
STD = np.array([0.26862954, 0.26130258, 0.27577711])


def processor() -> dict[str, np.ndarray]:
    if "MAPO_JAX_DATA" not in os.environ:
        pytest.skip("MAPO_JAX_DATA is not set (a directory with oracles/vl/processor.npz)")
    return dict(np.load(Path(os.environ["MAPO_JAX_DATA"]) / "oracles" / "vl" / "processor.npz"))


def picture(h: int, w: int) -> np.ndarray:
    return np.random.default_rng(h * w).integers(0, 256, (h, w, 3), dtype=np.uint8)


def test_sizes_are_those_of_transformers():
    sizes = processor()["sizes"]
    assert len(sizes) == 2000
    for factor, low, high, h, w, height, width in sizes.tolist():
        if height == -1:
            with pytest.raises(ValueError, match="more than 200 times"):
                images.target_size(h, w, factor, low, high)
        else:
            assert images.target_size(h, w, factor, low, high) == (height, width)


def test_pixels_are_those_of_transformers():
    data = processor()
    for i in range(8):
        small = images.shrink(data[f"picture_{i}"], *data[f"limits_{i}"].tolist())
        _, rows, columns = data[f"grid_{i}"]
        assert small.shape == (rows * 14, columns * 14, 3)
        found = images.patches(small).reshape(-1, 3, 1, 14 * 14)
        found = (found / 255 - MEAN[:, None, None]) / STD[:, None, None]
        both = np.repeat(found, 2, axis=2).reshape(len(found), -1)  # a still picture's two frames
        np.testing.assert_allclose(both, data[f"pixels_{i}"], rtol=0, atol=1e-6)


sides = st.integers(1, 6000)
factors = st.sampled_from([28, 32])
limits = st.tuples(st.integers(1, 10**6), st.integers(1, 16)).map(lambda x: (x[0], x[0] * x[1]))


@given(sides, sides, factors, limits)
@example(42, 70, 28, (1, 10**7))  # halves go to the even multiple
@example(1, 200, 28, (1, 28 * 28))  # no side falls below the factor
@example(4, 5, 28, (3136, 12845056))
def test_target_size(h, w, factor, limits):
    assume(max(h, w) <= 200 * min(h, w))
    low, high = limits
    height, width = images.target_size(h, w, factor, low, high)
    assert height % factor == width % factor == 0
    assert min(height, width) >= factor
    near = [round(Fraction(side, factor)) * factor for side in (h, w)]
    area = near[0] * near[1]
    if low <= area <= high:
        assert [height, width] == near
    elif area > high:
        assert height * width <= high or factor in (height, width)
        for side, found in ((h, height), (w, width)):  # the largest multiple within side / scale
            exact = Fraction(side * side * high, h * w)  # (side / scale)^2
            assert found == factor or found**2 <= exact * (1 + Fraction(1, 10**9))
            assert (found + factor) ** 2 > exact * (1 - Fraction(1, 10**9))
    else:
        assert height * width >= low
        for side, found in ((h, height), (w, width)):  # the least multiple of side * scale and more
            exact = Fraction(side * side * low, h * w)
            assert found**2 >= exact * (1 - Fraction(1, 10**9))
            assert (found - factor) ** 2 < exact * (1 + Fraction(1, 10**9))


@pytest.mark.parametrize(("h", "w"), [(1, 201), (201, 1), (4020, 20), (0, 5), (5, 0), (0, 0)])
def test_extreme_ratios_are_refused(h, w):
    with pytest.raises(ValueError, match=f"^{w} x {h} pixels: .* more than 200 times the other$"):
        images.target_size(h, w)
    if h and w:
        for resize in ("policy", "easyr1"):
            with pytest.raises(ValueError, match="more than 200 times"):
                images.shrink(picture(h, w), 28, 3136, 12845056, resize)


def test_a_ratio_of_200_is_the_last_allowed():
    assert images.target_size(20, 4000) == (28, 4004)


def easyr1(image: Image.Image, low: int, high: int) -> Image.Image:
    """What the paper's code does before the processor, written again."""
    for is_off, bound in ((lambda area: area > high, high), (lambda area: area < low, low)):
        if is_off(image.width * image.height):
            factor = (bound / (image.width * image.height)) ** 0.5
            image = image.resize((int(image.width * factor), int(image.height * factor)))
    return image


@pytest.mark.parametrize(
    ("h", "w", "policy", "twice"),
    [
        (512, 512, (532, 532), (504, 504)),  # 361 and 324 tokens
        (200, 300, (420, 644), (420, 616)),
        (700, 900, (700, 896), (700, 896)),  # within the limits and so left alone
        (3000, 2000, (2492, 1652), (2520, 1680)),  # above the limit again
    ],
)
def test_the_double_resize_of_easyr1(h, w, policy, twice):
    low, high = 512**2, 2048**2
    drawn = picture(h, w)
    assert images.shrink(drawn, 28, low, high).shape == (*policy, 3)
    image = easyr1(Image.fromarray(drawn), low, high).resize(twice[::-1], Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(images.shrink(drawn, 28, low, high, "easyr1"), np.array(image))


def test_easyr1_enlarges_again_what_cutting_the_sides_has_made_too_small():
    drawn = picture(70, 90)
    image = easyr1(Image.fromarray(drawn), 1000, 1000)
    assert image.size == (36, 27)  # by way of 35 x 27
    image = image.resize(images.target_size(27, 36)[::-1], Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(images.shrink(drawn, 28, 1000, 1000, "easyr1"), np.array(image))


def test_a_side_that_easyr1_would_cut_to_nothing_is_refused():
    with pytest.raises(ValueError, match=r"^4000 x 1 pixels: .* more than 200 times the other$"):
        images.shrink(picture(1, 4000), 28, 16, 1000, "easyr1")


def test_a_picture_of_the_target_size_is_left_alone():
    drawn = picture(56, 84)
    np.testing.assert_array_equal(images.shrink(drawn, 28, 3136, 10**6), drawn)


@pytest.mark.parametrize(("patch", "merge"), [(14, 2), (8, 2), (4, 3), (5, 1)])
def test_patches_are_in_the_order_of_tokens(patch, merge):
    step = patch * merge
    drawn = picture(2 * step, 3 * step)
    expected = [
        drawn[y : y + patch, x : x + patch, channel].ravel()
        for top in range(0, 2 * step, step)
        for left in range(0, 3 * step, step)
        for y in range(top, top + step, patch)
        for x in range(left, left + step, patch)
        for channel in range(3)
    ]
    found = images.patches(drawn, patch, merge)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.reshape(expected, (-1, 3 * patch * patch)))


@pytest.mark.parametrize("size", [(28, 42), (42, 28)])
def test_patches_want_whole_tokens(size):
    with pytest.raises(ValueError, match="multiples of 28"):
        images.patches(picture(*size))
