"""Reads and writes preprocessor_config.json: how pictures are prepared for a tower."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mapo_jax.model import VisionConfig
from mapo_jax.pretrained.fields import entry, positive


class Preparation(NamedTuple):
    """Fields of VisionConfig that preprocessor_config.json decides."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    min_pixels: int
    max_pixels: int
    patch: int | None  # None: it does not say
    merge: int | None


FILE = "preprocessor_config.json"
_NESTED = "processor_config.json"  # of transformers 5
# Fields of it, with the value at which pictures are prepared as here.
_STEPS = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_convert_rgb": True,
    "resample": 3,  # bicubic
    "temporal_patch_size": 2,
}
CLIP = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "deviation": (0.26862954, 0.26130258, 0.27577711),
}
_SCALE = 1 / 255


def read(folder: Path, mistakes: list[str]) -> Preparation | None:
    """Reads how a folder's policy wants pictures; None if no file says so.

    An absent field has the default of transformers' class, the same one for all families.
    """
    found, mine = _processor(folder, mistakes), len(mistakes)
    if found is None:
        return None
    given = {name: value for name, value in found.items() if value is not None}
    size = entry(given, "size", mistakes)

    def pixels(name: str, edge: str, default: int) -> int:
        found = [x.get(key) for x, key in ((given, name), (size, edge), (size, name))]
        value = next((x for x in found if x is not None), default)
        return positive(name, value, int, mistakes)

    def colours(name: str, default: tuple[float, ...]) -> tuple[float, ...]:
        value = given.get(name, default)
        value = [value] * 3 if isinstance(value, int | float) else value
        if not isinstance(value, list | tuple) or len(value) != 3:
            mistakes.append(f"{name}={value} must be three numbers")
            return default
        is_zero = [isinstance(x, int | float) and x == 0 for x in value]  # as a mean may be
        return tuple(
            0.0 if zero else positive(name, x, float, mistakes)
            for x, zero in zip(value, is_zero, strict=True)
        )

    def cells(name: str) -> int | None:
        return positive(name, given[name], int, mistakes) if name in given else None

    for name, ours in _STEPS.items():
        if given.get(name, ours) != ours:
            mistakes.append(f"{name}={given[name]} is not supported; {ours} is")
    scale = given.get("rescale_factor", _SCALE)
    if not isinstance(scale, int | float) or not math.isclose(scale, _SCALE, rel_tol=1e-6):
        mistakes.append(f"rescale_factor={scale} is not supported; 1/255 is")
    low = pixels("min_pixels", "shortest_edge", 56 * 56)
    high = pixels("max_pixels", "longest_edge", 28 * 28 * 1280)
    if low > high:
        mistakes.append(f"min_pixels={low} is above max_pixels={high}")
    mean = colours("image_mean", CLIP["mean"])
    deviation = colours("image_std", CLIP["deviation"])
    if not all(deviation):
        mistakes.append("image_std has a 0; colours are divided by it")
    patch, merge = cells("patch_size"), cells("merge_size")
    mistakes[mine:] = [f"{FILE}: {line}" for line in mistakes[mine:]]
    return Preparation(mean, deviation, low, high, patch, merge)


def _processor(folder: Path, mistakes: list[str]) -> Mapping[str, Any] | None:
    """Reads preprocessor_config.json; its fields stand in another file in transformers 5."""
    for name in (_NESTED, FILE):
        try:
            fields = json.loads((folder / name).read_bytes())
            if not isinstance(fields, dict):
                raise ValueError("not a JSON object")
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            mistakes.append(f"{name}: is broken ({error}); download it again")
            return None
        fields = fields.get("image_processor") if name == _NESTED else fields
        if isinstance(fields, dict):
            return fields
    return None


def of(vision: VisionConfig) -> Preparation:
    """Returns the part of a tower's numbers that `to_fields` writes."""
    return Preparation(*(getattr(vision, name) for name in Preparation._fields))


def to_fields(processor: str, vision: VisionConfig) -> dict[str, Any]:
    """Returns preprocessor_config.json, with the size as each version of transformers reads it.

    Args:
        processor: transformers' class for text and pictures together.
        vision: the tower.
    """
    return _STEPS | {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": processor,
        "image_mean": [*vision.mean],
        "image_std": [*vision.deviation],
        "rescale_factor": _SCALE,
        "min_pixels": vision.min_pixels,
        "max_pixels": vision.max_pixels,
        "size": {"shortest_edge": vision.min_pixels, "longest_edge": vision.max_pixels},
        "patch_size": vision.patch,
        "merge_size": vision.merge,
    }
