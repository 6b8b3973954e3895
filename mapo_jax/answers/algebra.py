"""Compares answers by symbolic algebra (the package math-verify). Runs in a worker process."""

import logging
from typing import Any

try:
    import math_verify
except ImportError:
    raise ImportError(
        'math-verify is not installed; pip install "math-verify[antlr4_13_2]"'
    ) from None

logging.disable(logging.CRITICAL)  # it warns about every answer that it cannot read

_CONFIGS = [math_verify.LatexExtractionConfig(), math_verify.ExprExtractionConfig()]


def answer(question: list[str]) -> bool:
    """Says whether [prediction, gold] are the same. The process limits time and memory."""
    prediction, gold = (_parse(text) for text in question)
    return math_verify.verify(gold, prediction, timeout_seconds=None)


def _parse(text: str) -> list:
    shown = text if "$" in text or "\\boxed" in text else f"${text}$"
    no_limit: Any = None
    return math_verify.parse(shown, _CONFIGS, parsing_timeout=no_limit)
