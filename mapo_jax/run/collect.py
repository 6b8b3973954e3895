"""The rollout phase: from a position in the data to one batch of judged rollouts.

First half of a step: prompts are sampled, their responses judged and, with dynamic sampling,
groups that teach nothing dropped and more prompts sampled. Each process samples and judges its own
prompts.
"""

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mapo_jax import errors, model, rewards, sampling, sharding, tasks
from mapo_jax.config import Config
from mapo_jax.rollouts import Experience, pad_prompts
from mapo_jax.run import evaluation, processes, programs, records
from mapo_jax.tasks import Task
from mapo_jax.text import Tokenizer


class Collector:
    """Collects the experience of a step. Pure in (params, key, step, start)."""

    def __init__(
        self,
        config: Config,
        compiled: programs.Programs,
        policy: model.ModelConfig,
        mesh: Mesh,
        task: Task,
        prompts: Sequence[tuple[int, Sequence[int]]],
        tokenizer: Tokenizer,
        reward: rewards.RewardFunction,
    ):
        self.config, self.programs, self.model, self.mesh = config, compiled, policy, mesh
        self.task, self.prompts, self.tokenizer, self.reward = task, prompts, tokenizer, reward

    def collect(
        self, params: model.Params, key: jax.Array, step: int, start: int
    ) -> tuple[Experience, np.ndarray, dict[str, float], int]:
        """A whole batch for a step; with dynamic sampling of groups between the bounds only.

        Args:
            params: of the policy, as it samples.
            key: of the step's draws.
            step: its number.
            start: position in the data of the first prompt.

        Returns:
            The experience; its draws i64[P], on every process; facts and times; how many prompts
            were drawn.

        Raises:
            RunStopped: `dynamic.max_tries` rollout batches did not fill one.
        """
        c, P = self.config, self.config.batch.prompts
        if not c.dynamic.max_tries:
            experience, times = self.roll_out(params, key, step, start)
            return experience, np.arange(P), times, P
        kept, pool, total, times = 0, None, {}, {}
        for tries in range(1, c.dynamic.max_tries + 1):
            fresh, took = self.roll_out(params, key, step, start, tries - 1)
            pool, found = self.programs.choose(pool, fresh)
            kept, draws, facts = jax.device_get(found)
            total = jax.tree.map(np.add, total, facts) if total else facts
            times = {name: times[name] + took[name] if times else took[name] for name in took}
            if kept == P:
                means = {name: float(x / max(n, 1)) for name, (x, n) in total.items()}
                return pool[1], draws, means | times | {"groups/tries": tries}, tries * P
        raise errors.RunStopped(
            f"step {step}: {c.dynamic.max_tries * P} prompts, all that dynamic.max_tries="
            f"{c.dynamic.max_tries} allows, gave {kept} of the {P} groups of a batch with a mean "
            f"accuracy above dynamic.low={c.dynamic.low:g} and below dynamic.high="
            f"{c.dynamic.high:g}; take prompts that are neither too easy nor too hard for the "
            "policy, raise batch.group or dynamic.max_tries, or set dynamic.max_tries=0 to train "
            "on all groups"
        )

    def roll_out(
        self, params: model.Params, key: jax.Array, step: int, start: int, attempt: int = 0
    ) -> tuple[Experience, dict[str, float]]:
        """Samples prompts in chunks; judges each chunk while the next one is sampled.

        Args:
            params, key, step, start: as those of `collect`.
            attempt: the prompts from position start + attempt * batch.prompts on.

        Returns:
            The experience of all these prompts, and the times.
        """
        c, began = self.config, time.perf_counter()
        P, G = c.batch.prompts, c.batch.group
        chosen = tasks.indices(len(self.prompts), c.seed, start + attempt * P, P)
        own = sharding.own_rows(self.mesh, P // c.rollout.chunks)
        pieces = []
        for first in range(0, P, P // c.rollout.chunks):
            rows = [self.prompts[i] for i in chosen[first + own]]
            padded = pad_prompts([ids for _, ids in rows], c.data.max_prompt_tokens)
            numbers = (
                np.asarray([i for i, _ in rows], np.int32),
                (attempt * P + first + own).astype(np.int32),
            )
            prompts, example_P, draw_P = sharding.put((padded, *numbers), self.mesh)
            sampled = [
                sampling.sample(
                    params,
                    self.model,
                    prompts,
                    key,
                    settings,
                    example_P=example_P,
                    prompt_index_P=draw_P,
                    mesh=self.mesh,
                )
                for settings in (self.programs.sampling, self.programs.greedy)
                if settings
            ]
            pieces.append((sampled, draw_P))
        judging, found, given_up = 0.0, [], rewards.timeouts()
        killed = rewards.failures()
        noise_PG = np.random.default_rng((c.seed, step, attempt)).random((P, G))
        for (rollouts, *greedy), draw_P in pieces:
            jax.block_until_ready((rollouts, greedy))
            judging -= time.perf_counter()
            with processes.together():
                judged = self._judge(rollouts)
                baseline = self._judge(greedy[0]).rewards if greedy else None
            if c.task.shuffle_rewards:
                judged = _shuffle(judged, noise_PG[sharding.own(draw_P) - attempt * P])
            by_group = jax.tree.map(lambda x: x.reshape(-1, G), judged)
            judging += time.perf_counter()
            found.append(
                Experience(
                    rollouts,
                    *sharding.put(tuple(by_group), self.mesh),
                    baseline=sharding.put(baseline, self.mesh),
                    draw=draw_P,
                )
            )
        times = {
            "time/sample": time.perf_counter() - began - judging,
            "time/reward": judging,
            "reward/timeouts": rewards.timeouts() - given_up,
            "reward/failures": rewards.failures() - killed,
        }
        return self.programs.join(*found), times

    def _judge(self, rollouts) -> rewards.Judged:
        """What the reward finds about this process's responses."""
        c, group = self.config, rollouts.tokens.shape[1]
        tokens, length, finished, example_P = map(
            sharding.own, (rollouts.tokens, rollouts.length, rollouts.finished, rollouts.example)
        )
        responses = evaluation.decode(self.tokenizer, tokens, length)
        examples = [self.task.train[i] for i in np.repeat(example_P, group).tolist()]
        ended = finished.reshape(-1).tolist() if c.algorithm.truncated == "fail" else None
        judged = rewards.judge(self.reward, responses, examples, ended)
        if c.algorithm.overlong_penalty:
            share = length.reshape(-1) / c.rollout.max_new_tokens
            judged = rewards.overlong(
                judged, share, c.algorithm.overlong_penalty, c.algorithm.overlong_buffer
            )
        return judged


def _shuffle(judged: rewards.Judged, noise_PG: np.ndarray) -> rewards.Judged:
    """Permutes what was found within each group: a control that must not learn."""
    order = np.argsort(noise_PG, -1)
    order = (order + np.arange(len(order))[:, None] * order.shape[1]).reshape(-1)
    return jax.tree.map(lambda x: x[order], judged)


def groups(
    compiled: programs.Programs,
    experience: Experience,
    advantages_PG: jax.Array,
    positions: Sequence[int],
    kind: str,
    task: Task,
    tokenizer: Tokenizer,
) -> list[list[dict[str, Any]]]:
    """The groups at some positions, as rows of rollouts.jsonl; the same on every process."""
    picked = compiled.pick((experience, advantages_PG), np.asarray(positions))
    e, advantages_PG = jax.device_get(picked)
    r, found = e.rollouts, []
    for p in range(len(positions)):
        example = task.train[r.example[p]]
        responses = evaluation.decode(tokenizer, r.tokens[p : p + 1], r.length[p : p + 1])
        found.append(
            [
                records.plain(
                    {
                        "kind": kind,
                        "example": r.example[p],
                        "prompt": task.prompt(example),
                        "rollout": g,
                        "response": response,
                        "reward": e.rewards[p, g],
                        "success": e.success[p, g],
                        "parts": {name: x[p, g] for name, x in e.parts.items()},
                        "advantage": advantages_PG[p, g],
                        "tokens": r.length[p, g],
                        "finished": r.finished[p, g],
                    }
                )
                for g, response in enumerate(responses)
            ]
        )
    return found
