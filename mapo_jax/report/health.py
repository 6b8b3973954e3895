"""Is my run healthy? A table of checks, each with its number, its healthy range and advice.

docs/healthy.md has the same numbers; a test compares them.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mapo_jax.report.runs import Run


class Check(NamedTuple):
    """A number of a run and its healthy range."""

    name: str  # also its row in docs/healthy.md
    measured: str  # describes the number
    value: Callable[[Run], float]  # NaN if the run does not have it
    low: float
    high: float
    otherwise: str  # the meaning of a number outside the range, and the fix

    @property
    def healthy(self) -> str:
        """The range in words."""
        if self.low == -math.inf:
            return f"at most {self.high:g}"
        return (
            f"at least {self.low:g}" if self.high == math.inf else f"{self.low:g} to {self.high:g}"
        )


class Finding(NamedTuple):
    """A check of one run."""

    check: Check
    value: float
    ok: bool


def examine(run: Run) -> list[Finding]:
    """Returns the findings of all checks for which the run has the numbers."""
    values = [(check, check.value(run)) for check in CHECKS]
    return [
        Finding(check, value, check.low <= value <= check.high)
        for check, value in values
        if not math.isnan(value)
    ]


def _values(run: Run, *keys: str, kind: str = "train", phase: str = "rl") -> np.ndarray:
    """Returns the finite values of a key, or of the sum of the keys that the run has."""
    keys = tuple(key for key in keys if key in run.keys(kind, phase)) or keys
    values = [run.curve(kind, phase, key).values for key in keys]
    total = np.sum(values, 0) if len({len(x) for x in values}) == 1 else values[0]
    return total[np.isfinite(total)]


def _ends(values: np.ndarray) -> tuple[float, float]:
    """Returns means of the first and the last tenth (at least 5 steps, or half of a short run)."""
    if not len(values):
        return math.nan, math.nan
    count = max(1, len(values) // 10, min(5, len(values) // 2))
    return float(values[:count].mean()), float(values[-count:].mean())


def _last(*keys: str) -> Callable[[Run], float]:
    return lambda run: _ends(_values(run, *keys))[1]


def _largest(key: str) -> Callable[[Run], float]:
    return lambda run: float(max(_values(run, key), default=math.nan))


def _rise(key: str, phase: str = "rl") -> Callable[[Run], float]:
    def value(run: Run) -> float:
        first, last = _ends(_values(run, key, phase=phase))
        return last - first

    return value


def _growth(key: str) -> Callable[[Run], float]:
    def value(run: Run) -> float:
        first, last = _ends(_values(run, key))
        return last / first if first else math.nan

    return value


def _success_of_right(run: Run) -> float:
    success, accuracy = (_ends(_values(run, f"reward/{x}"))[1] for x in ("success", "accuracy"))
    return success / accuracy if accuracy > 0 else math.nan


def _spike(run: Run) -> float:
    values = _values(run, "policy/grad_norm")
    values = values[values > 0]  # 0: all groups of the step were degenerate
    return float(values.max() / np.median(values)) if len(values) else math.nan


def _first_ratio(run: Run) -> float:
    return float(max(abs(_values(run, "policy/ratio_mean") - 1), default=math.nan))


def _finished(run: Run) -> float:
    steps = run.curve("train", "rl", "time/step").steps
    if "steps" not in run.config or not run.config["steps"]:
        return math.nan
    return float(max(steps, default=0) / run.config["steps"])


def _accuracy(run: Run) -> float:
    names = run.eval_sets()
    key = f"eval/{names[0]}/accuracy_sampled" if names else ""
    values = _values(run, key, kind="eval")
    return float(values[-1] - values[0]) if len(values) > 1 else math.nan


def _holes(run: Run) -> float:
    keys = run.keys("train")
    return float(sum(np.isnan(run.curve("train", "rl", key).values).sum() for key in keys))


_INF = math.inf
CHECKS = (
    Check("Finished", "RL steps done / steps asked for", _finished, 1, _INF,
          "the run stopped early, or still runs: the same command continues it"),
    Check("Accuracy", "sampled, first set: after - before", _accuracy, 0, _INF,
          "held-out accuracy fell: lower optimizer.learning_rate, or read the samples for a reward "
          "that is won without solving the task"),
    Check("Reward", "reward/mean: end - start", _rise("reward/mean"), 0, _INF,
          "training does not raise the reward: see degenerate groups, then the learning rate"),
    Check("Success", "reward/success / reward/accuracy: end", _success_of_right, 0.01, _INF,
          "right answers are no successes, so an advantage that counts successes, as MAPO's does, "
          "sees none: read a sample; the prompt, tokenizer.template or the reward may not allow "
          "the format"),
    Check("Invalid rewards", "reward/invalid: largest", _largest("reward/invalid"), -_INF, 0,
          "the reward function returned NaN or infinity, or did not answer in time; such rollouts "
          "are not trained on, and the first batches with some are in `skipped/`"),
    Check("Degenerate groups", "groups/degenerate: end", _last("groups/degenerate"), -_INF, 0.9,
          "nearly all groups are all right or all wrong and teach nothing: change the difficulty "
          "of the prompts, or raise batch.group"),
    Check("Truncation", "rollout/truncated: end", _last("rollout/truncated"), -_INF, 0.1,
          "answers are cut before they end: raise rollout.max_new_tokens, or see whether the "
          "policy rambles"),
    Check("Length", "rollout/length_mean: end / start", _growth("rollout/length_mean"), 0.33, 3,
          "answers became much shorter or longer: read the samples, the reward may pay for it"),
    Check("Entropy", "policy/entropy: end / start", _growth("policy/entropy"), 0.05, 2,
          "low: the policy has collapsed onto few answers (raise clip_high, or beta); high: it is "
          "coming apart (lower the learning rate)"),
    Check("Clipping", "policy/clip_fraction_low + _high: end",
          _last("policy/clip_fraction_low", "policy/clip_fraction_high"), -_INF, 0.2,
          "steps leave the trust region: lower the learning rate, or take fewer updates per batch"),
    Check("First ratio", "policy/ratio_mean: largest distance from 1", _first_ratio, -_INF, 0.01,
          "sampler and trainer disagree before any update: see the next line"),
    Check("Log-prob gap", "policy/logp_gap_mean: largest", _largest("policy/logp_gap_mean"),
          -_INF, 0.02,
          "sampler and trainer compute different log-probs: use compute.dtype=float32 (on GPUs "
          "float16), or algorithm.old_logps=rescored with algorithm.correction=tis"),
    Check("KL", "loss/kl: end", _last("loss/kl"), -_INF, 0.5,
          "the policy is far from the reference: raise algorithm.beta or lower the learning rate"),
    Check("Gradient norm", "policy/grad_norm: largest / median", _spike, -_INF, 20,
          "a step had an outlying gradient: look at its samples; lower optimizer.max_grad_norm"),
    Check("Skipped updates", "policy/skipped: largest", _largest("policy/skipped"), -_INF, 0,
          "a loss or gradient was not finite: lower the learning rate, use compute.dtype=float32"),
    Check("Holes", "null values in training lines", _holes, -_INF, 0,
          "a metric was not finite: find its key in metrics.jsonl"),
    Check("Warm-up", "loss/total of the warm-up: end - start", _rise("loss/total", "warmup"),
          -_INF, 0,
          "the warm-up did not learn: change warmup.learning_rate"),
)  # fmt: skip
