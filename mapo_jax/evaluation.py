"""Evaluation during training: greedy and sampled accuracy on held-out sets, with 95% intervals.

Two compiled programs serve all sets, greedy and sampled, because every call has one shape. All
evaluations of a run draw with the same keys, so that the curve compares policies and not draws.
"""

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from mapo_jax import data, model, rewards, sampling, sharding
from mapo_jax.tokenizers import Tokenizer

_Z = 1.959964  # 95%, two-sided


@dataclasses.dataclass(frozen=True)
class EvalSet:
    """A held-out set, ready to be sampled."""

    examples: Sequence[dict]
    prompts: Sequence[Sequence[int]]  # their tokens


def wilson_interval(successes: float, n: int) -> tuple[float, float]:
    """The 95% score interval of a share (Wilson 1927)."""
    share, z2 = successes / n, _Z**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n**2))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """The 95% interval of a mean by the normal approximation."""
    half = _Z * float(values.std()) / math.sqrt(len(values))
    return float(values.mean()) - half, float(values.mean()) + half


def evaluate(
    params: model.Params,
    config: model.ModelConfig,
    tokenizer: Tokenizer,
    reward: rewards.RewardFunction,
    sets: Mapping[str, EvalSet],
    key: jax.Array,
    mesh: Mesh,
    *,
    batch: int,
    max_prompt_tokens: int,
    max_new_tokens: int,
) -> dict[str, float]:
    """Answers every problem once greedily and once at temperature 1, and judges the answers.

    Returns:
      {"eval/SET/accuracy": greedy, "eval/SET/accuracy_sampled": ..., "eval/SET/reward_mean": mean
      reward of the sampled answers}, each with `_low` and `_high`. Accuracy is the mean of the
      reward's part of that name; where it has none, the share of successes. An answer that was cut
      is judged as it stands. Further "eval/SET/truncated" and "eval/SET/length_mean" (tokens) of
      the sampled answers, and "time/eval" (seconds).
    """
    start_time = time.perf_counter()
    values: dict[str, float] = {}
    own = sharding.own_rows(mesh, batch)
    for number, (name, problems) in enumerate(sets.items()):
        n = len(problems.prompts)
        for temperature, metric in ((0.0, "accuracy"), (1.0, "accuracy_sampled")):
            settings = sampling.SamplingConfig(
                group_size=1,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                eos_ids=tokenizer.eos_ids,
            )
            found = []  # a row for each problem: accuracy, reward, cut, tokens
            for start in range(0, n, batch):
                index = start + own  # rows beyond the last problem are padding
                rows = [problems.prompts[i] if i < n else () for i in index]
                prompts = (*data.pad_prompts(rows, max_prompt_tokens), index.astype(np.int32))
                tokens, lengths, index_P = sharding.put(prompts, mesh)
                rollouts = sampling.sample(
                    params,
                    config,
                    tokens,
                    lengths,
                    jax.random.fold_in(key, number),
                    settings,
                    prompt_index_P=index_P,
                    mesh=mesh,
                )
                examples = [problems.examples[i] for i in index if i < n]
                judged = _judge(reward, tokenizer, rollouts, examples)
                here = np.zeros((len(index), judged.shape[1]), np.float32)
                here[: len(judged)] = judged
                found.append(sharding.everyones(here, mesh))
            accuracy, reward_, cut, tokens = np.concatenate(found)[:n].T.astype(np.float64)
            count = float(accuracy.sum())
            values |= _with_interval(f"eval/{name}/{metric}", count / n, wilson_interval(count, n))
            if temperature:
                finite = reward_[np.isfinite(reward_)]
                values |= _with_interval(
                    f"eval/{name}/reward_mean", float(finite.mean()), mean_interval(finite)
                )
                values[f"eval/{name}/truncated"] = float(cut.mean())
                values[f"eval/{name}/length_mean"] = float(tokens.mean())
    return values | {"time/eval": time.perf_counter() - start_time}


def _judge(reward, tokenizer, rollouts, examples) -> np.ndarray:
    """f32[rows, 4] of this process's problems: accuracy, reward, cut, tokens."""
    n = len(examples)
    tokens, mask, finished = (
        sharding.own(x)[:n] for x in (rollouts.tokens, rollouts.mask, rollouts.finished)
    )
    responses = decode(tokenizer, tokens, mask)
    judged = rewards.judge(reward, responses, examples)
    right = judged.parts["accuracy"] if "accuracy" in judged.parts else judged.success
    return np.stack(
        [right, judged.rewards, ~finished[:, 0], mask.sum((1, 2))],
        1,
        dtype=np.float32,
        casting="unsafe",
    )


def _with_interval(name, value, interval):
    return {name: value, f"{name}_low": interval[0], f"{name}_high": interval[1]}


def decode(tokenizer: Tokenizer, tokens_PGT: np.ndarray, mask_PGT: np.ndarray) -> list[str]:
    """The texts of P * G responses, in order."""
    rows = zip(
        tokens_PGT.reshape(-1, tokens_PGT.shape[-1]),
        mask_PGT.reshape(-1, mask_PGT.shape[-1]),
        strict=True,
    )
    return [tokenizer.decode(tokens[mask].tolist()) for tokens, mask in rows]
