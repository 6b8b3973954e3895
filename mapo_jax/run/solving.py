"""Chooses the prompts of RL by how often the start policy solves them, once, before its first step.

With `data.solve_rate=0.2:0.8` that is the sanity check of arXiv 2510.26788, sec. 4: each prompt can
be learnt, and none is learnt yet, so an algorithm that works must pass a training accuracy of 95%
on them. The tries are rollouts like those of a step, by the same programs.

Differs from the paper: of the data's order only the first `data.solve_prompts` prompts are tried.
"""

import dataclasses
import json
import math
from collections.abc import Callable

import jax
import numpy as np
from etils import epath

from mapo_jax import errors, model
from mapo_jax.run import collect, processes, workdirs
from mapo_jax.run.setup import SAMPLING, Progress, Setup

TRIES = 40  # of a prompt, or a few more: whole groups are sampled
_FILE = "solved.json"


def solvable(
    setup: Setup,
    progress: Progress,
    serving: Callable[[], model.Params],
    workdir: epath.Path,
    say: Callable[[str], None],
) -> Setup:
    """Returns the setup with the prompts that RL draws from; as it is if these are all.

    The shares of solved tries go to solved.json, from which a continued run reads them.

    Args:
        setup: the fixed parts of the run.
        progress: of RL. Before its first step its policy is the start policy.
        serving: returns the parameters for sampling.
        workdir: of the run.
        say: is told how many prompts are kept.

    Raises:
        RunStopped: no prompt is solved in such a share of the tries.
        UserError: solved.json of a run that goes on is missing or broken.
    """
    asked = setup.config.data.solve_rate
    if not asked:
        return setup
    low, high = map(float, asked.split(":"))
    path = workdir / _FILE
    if progress.done:
        with processes.together():
            rates = _read(path)
    else:
        rates = _solve(setup, serving())
        if jax.process_index() == 0:
            workdirs.write_json(path, {"tries": TRIES, "rates": rates})
    kept = [i for i, rate in rates.items() if low <= rate <= high]
    said = (
        f"data.solve_rate={asked}: the start policy solves {len(kept)} of {len(rates)} prompts in "
        f"that share of {TRIES} tries"
    )
    if not kept:
        share = np.mean([*rates.values()])
        raise errors.RunStopped(
            f"{said}, and {share:.1%} of all tries; widen it, raise data.solve_prompts="
            f"{setup.config.data.solve_prompts}, or begin with a better policy"
        )
    say(f"{said}; RL sees these alone")
    return dataclasses.replace(setup, kept=np.asarray(kept))


def _solve(setup: Setup, params: model.Params) -> dict[int, float]:
    """Returns the share of tries that solve a prompt, for each that is tried."""
    P, number = setup.config.batch.prompts, setup.config.data.solve_prompts
    passes = math.ceil(TRIES / setup.config.batch.group)
    chosen = setup.draw(0, min(number, len(setup.prompts)))
    rates: list[float] = []
    for start in range(0, len(chosen), P):
        solved_P = tried_P = np.zeros(P)
        for i in range(passes):
            key = jax.random.fold_in(setup.key(0, SAMPLING), start * passes + i)
            experience, _ = collect.roll_out(setup, params, key, 0, start)
            facts = jax.device_get(setup.programs.solved(experience))
            solved_P, tried_P = solved_P + facts[0], tried_P + facts[1]
        rates += (solved_P / np.maximum(tried_P, 1)).tolist()
    return dict(zip(chosen.tolist(), rates, strict=False))  # the last batch may hold too many


def _read(path: epath.Path) -> dict[int, float]:
    try:
        return {int(i): float(x) for i, x in json.loads(path.read_text())["rates"].items()}
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise errors.UserError(
            f"{path}: is missing or broken ({type(error).__name__}), and it says which prompts "
            "this run trains on; put it back, or start a new run in another --workdir"
        ) from None
