"""The rollout phase, which turns a position in the data into one batch of judged rollouts.

It is the first half of a step. It samples responses to prompts and judges them. With dynamic
sampling it also drops groups that teach nothing and samples more prompts. Each process samples and
judges its own prompts.
"""

import itertools
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mapo_jax import errors, model, rewards, sampling, sharding, tasks
from mapo_jax.rollouts import Experience, Prompts, Rollouts, pad_prompts
from mapo_jax.run import evaluation, processes, records
from mapo_jax.run.setup import Setup


def collect(
    setup: Setup, params: model.Params, key: jax.Array, step: int, start: int
) -> tuple[Experience, np.ndarray, dict[str, float], int]:
    """Collects a whole batch for a step; dynamic sampling keeps only groups between its bounds.

    Args:
        setup: the fixed parts of the run.
        params: parameters of the policy, in the sampler's dtype and layout.
        key: PRNG key of the step's draws.
        step: its number.
        start: position in the data of the first prompt.

    Returns:
        The experience; its draws i64[P], on every process; facts and times; the number of drawn
        prompts.

    Raises:
        RunStopped: `dynamic.max_tries` rollout batches did not give enough groups for a batch.
    """
    c, P = setup.config, setup.config.batch.prompts
    if not c.dynamic.max_tries:
        experience, times = roll_out(setup, params, key, step, start)
        return experience, np.arange(P), times, P
    kept, pool, total, times = 0, None, {}, {}
    for tries in range(1, c.dynamic.max_tries + 1):
        fresh, took = roll_out(setup, params, key, step, start, tries - 1)
        pool, found = setup.programs.choose(pool, fresh)
        kept, draws, facts = jax.device_get(found)
        total = jax.tree.map(np.add, total, facts) if total else facts
        times = {name: times[name] + took[name] if times else took[name] for name in took}
        if kept == P:
            means = {name: float(x / max(n, 1)) for name, (x, n) in total.items()}
            return pool[1], draws, means | times | {"groups/tries": tries}, tries * P
    raise errors.RunStopped(
        f"step {step}: {c.dynamic.max_tries * P} prompts, all that dynamic.max_tries="
        f"{c.dynamic.max_tries} allows, gave {kept} of the {P} groups of a batch with rewards that "
        f"differ and a mean accuracy above dynamic.low={c.dynamic.low:g} and below dynamic.high="
        f"{c.dynamic.high:g}; take prompts that are neither too easy nor too hard for the "
        "policy, raise batch.group or dynamic.max_tries, or set dynamic.max_tries=0 to train "
        "on all groups"
    )


def roll_out(
    setup: Setup,
    params: model.Params,
    key: jax.Array,
    step: int,
    start: int,
    attempt: int = 0,
    only: Sequence[int] = (),
) -> tuple[Experience, dict[str, float]]:
    """Samples responses in chunks; judges each chunk while the device samples the next one.

    Args:
        setup, params, key, step, start: see `collect`.
        attempt: number of the try, from 0; it begins at position start + attempt * batch.prompts.
        only: positions in the batch; the other prompts are left empty, and their rollouts are not
            valid. () samples them all.

    Returns:
        The experience of batch.prompts prompts; its times, tokens and counts of failed rewards.
    """
    c, began = setup.config, time.perf_counter()
    P, G = c.batch.prompts, c.batch.group
    chosen = setup.draw(start + attempt * P, P)
    own = sharding.own_rows(setup.mesh, P // c.rollout.chunks)
    pieces, positions_of = [], [first + own for first in range(0, P, P // c.rollout.chunks)]
    wanted_of = [  # None: left empty
        [chosen[i] if not only or i in only else None for i in positions]
        for positions in positions_of
    ]
    following = setup.draw(start + (attempt + 1) * P, P)
    goes_on = not only and (step < c.steps or c.dynamic.max_tries)
    mine = following[np.concatenate(positions_of)] if goes_on else ()
    setup.album.ahead([*itertools.chain(*wanted_of), *mine])
    N = setup.patches(chosen)
    with processes.together():  # a prompt that is encoded or read only now may be a mistake
        drawn = [[setup.prompts[i] for i in chosen[positions]] for positions in positions_of]
        padded_of = [_pad(setup, *chunk, N) for chunk in zip(drawn, wanted_of, strict=True)]
    for positions, rows, padded in zip(positions_of, drawn, padded_of, strict=True):
        numbers = (
            np.asarray([row.example for row in rows], np.int32),
            (attempt * P + positions).astype(np.int32),
        )
        prompts, example_P, draw_P = sharding.put((padded, *numbers), setup.mesh)
        sampled = [
            sampling.sample(
                params,
                setup.architecture,
                prompts,
                key,
                settings,
                example_P=example_P,
                prompt_index_P=draw_P,
                mesh=setup.mesh,
            )
            for settings in (setup.programs.sampling, setup.programs.greedy)
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
            judged = _judge(setup, rollouts)
            baseline = _judge(setup, greedy[0]).rewards if greedy else None
        if c.task.shuffle_rewards:
            judged = _shuffle(judged, noise_PG[sharding.own(draw_P) - attempt * P])
        by_group = jax.tree.map(lambda x: x.reshape(-1, G), judged)
        judging += time.perf_counter()
        found.append(
            Experience(
                rollouts,
                *sharding.put(tuple(by_group), setup.mesh),
                baseline=sharding.put(baseline, setup.mesh),
                draw=draw_P,
            )
        )
    experience, tokens = setup.programs.join(*found)
    return experience, {
        "throughput/tokens": int(tokens),
        "time/sample": time.perf_counter() - began - judging,
        "time/reward": judging,
        "reward/timeouts": rewards.timeouts() - given_up,
        "reward/failures": rewards.failures() - killed,
    }


def _pad(
    setup: Setup, rows: Sequence[tasks.Prompt], wanted: Sequence[int | None], N: int
) -> Prompts:
    """Pads prompts, with their pictures; those that are not wanted are left empty."""
    pairs = zip(wanted, rows, strict=True)
    tokens = [() if i is None else row.tokens for i, row in pairs]
    return setup.album.add(pad_prompts(tokens, setup.prompt_tokens), wanted, N)


def _judge(setup: Setup, rollouts: Rollouts) -> rewards.Judged:
    """Judges this process's responses; a rollout that is not valid gets zeros, and no question."""
    c, group = setup.config, rollouts.tokens.shape[1]
    tokens, length, finished, valid, example_P = map(
        sharding.own,
        (rollouts.tokens, rollouts.length, rollouts.finished, rollouts.valid, rollouts.example),
    )
    responses = evaluation.decode(setup.tokenizer, tokens, length)
    rows = [setup.task.train[i] for i in example_P]
    thoughts = [setup.tokenizer.open_thought(tasks.parts(setup.task, row)) for row in rows]
    # If none is valid, one is judged nevertheless: its verdict has the names of the parts.
    asked = np.flatnonzero(valid) if valid.any() else np.zeros(1, int)
    judged = rewards.judge(
        setup.reward,
        [thoughts[i // group] + responses[i] for i in asked],
        [rows[i // group] for i in asked],
        finished.reshape(-1)[asked].tolist() if c.algorithm.truncated == "fail" else None,
    )
    if c.algorithm.overlong_penalty:
        share = length.reshape(-1)[asked] / c.rollout.max_new_tokens
        judged = rewards.overlong(
            judged, share, c.algorithm.overlong_penalty, c.algorithm.overlong_buffer
        )

    def at_their_places(x):
        whole = np.zeros(len(responses), x.dtype)
        whole[asked] = x
        return whole

    return jax.tree.map(at_their_places, judged)


def _shuffle(judged: rewards.Judged, noise_PG: np.ndarray) -> rewards.Judged:
    """Permutes the verdicts within each group, for a control run that must not learn."""
    order = np.argsort(noise_PG, -1)
    order = (order + np.arange(len(order))[:, None] * order.shape[1]).reshape(-1)
    return jax.tree.map(lambda x: x[order], judged)


def groups(
    setup: Setup,
    experience: Experience,
    advantages_PG: jax.Array,
    positions: Sequence[int],
    kind: str,
) -> list[list[dict[str, Any]]]:
    """Returns the groups at `positions` as rows of rollouts.jsonl, the same on every process."""
    picked = setup.programs.pick((experience, advantages_PG), np.asarray(positions))
    e, advantages_PG = jax.device_get(picked)
    r, found = e.rollouts, []
    for p in range(len(positions)):
        example = setup.task.train[r.example[p]]
        images = setup.album.described(r.example[p])
        responses = evaluation.decode(setup.tokenizer, r.tokens[p : p + 1], r.length[p : p + 1])
        found.append(
            [
                records.plain(
                    {
                        "kind": kind,
                        "example": r.example[p],
                        "prompt": setup.task.prompt(example),
                        **({"images": images} if images else {}),
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
