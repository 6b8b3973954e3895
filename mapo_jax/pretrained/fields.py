"""Reads numbers and objects of JSON files, and notes those that are of another type."""

import math
from collections.abc import Mapping
from typing import Any

_KINDS = {int: "integer", float: "number"}


def positive(name: str, value: Any, kind: type, mistakes: list[str]) -> Any:
    """Returns a number as an int or a float; 1 and a mistake if it is none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and 0 < value < math.inf and kind(value) == value:
        return kind(value)
    found = "is missing" if value is None else f"is {value}"
    mistakes.append(f"{name} {found}; must be a positive {_KINDS[kind]}")
    return kind(1)


def entry(fields: Mapping[str, Any], name: str, mistakes: list[str]) -> Mapping[str, Any]:
    """Returns an object; {} if it is absent."""
    value = fields.get(name)
    if isinstance(value, dict) or value is None:
        return value or {}
    mistakes.append(f"{name}={value} must be an object")
    return {}
