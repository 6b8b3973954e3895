"""The smallest run that uses every part, its command line, and functions that read its files."""

import contextlib
import dataclasses
import fcntl
import functools
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import pytest

from experiments import arithmetic
from mapo_jax import sharding, training
from mapo_jax.config import AlgorithmConfig, Config, from_config_dict
from mapo_jax.run import programs, setup, trainer

ROOT = Path(__file__).resolve().parent.parent
MICRO = {
    "policy.num_layers": 1,
    "policy.embed_dim": 16,
    "policy.num_heads": 2,
    "policy.num_kv_heads": 2,
    "policy.head_dim": 8,
    "policy.mlp_dim": 16,
    "task.options.train_size": 200,
    "task.options.eval_size": 16,
    "warmup.steps": 5,
    "warmup.batch": 16,
    "steps": 5,
    "batch.prompts": 16,
    "batch.group": 4,
    "batch.minibatch_prompts": 8,
    "batch.microbatch": (8, 2),
    "batch.epochs": 2,
    "rollout.max_new_tokens": 16,
    "data.max_prompt_tokens": 12,
    "algorithm.beta": 0.1,
    "optimizer.learning_rate": 1e-2,
    "eval.every": 2,
    "eval.problems": 16,
    "eval.batch": 16,
    "checkpoint.every": 2,
    "log.rollouts_every": 2,
    "log.console": "plain",
}


def micro(**changes):
    """Returns the smallest run that uses every part, with changed keys ("a__b" for "a.b")."""
    tree = arithmetic.get_config("tiny")
    with tree.unlocked():
        settings = MICRO | {name.replace("__", "."): value for name, value in changes.items()}
        for key, value in settings.items():
            *groups, name = key.split(".")
            node = tree
            for group in groups:
                node = node[group]
            node[name] = value
    return from_config_dict(tree)


_make_mesh = sharding.make_mesh


def make_mesh(data=-1, fsdp=1, tensor=1, devices=None):
    """`sharding.make_mesh` of two devices where none are given: each step takes time on each."""
    return _make_mesh(data, fsdp, tensor, jax.devices()[:2] if devices is None else devices)


# Groups of the configuration that no program is made from.
_OUTSIDE = ("seed", "steps", "task", "tokenizer", "policy", "lora", "guard")
_OUTSIDE += ("eval", "checkpoint", "log", "profile")
_made = functools.cache(programs.Programs)


def _programs(config: Config, *rest) -> programs.Programs:
    read = dataclasses.replace(config, **dict.fromkeys(_OUTSIDE))  # to read another one raises
    warmup = dataclasses.replace(config.warmup, steps=0)
    dynamic = dataclasses.replace(config.dynamic, max_tries=0)
    batch = dataclasses.replace(config.batch, epochs=0)
    read = dataclasses.replace(read, warmup=warmup, dynamic=dynamic, batch=batch)
    return _made(read, *rest)


_made_surrogate = functools.cache(training.make_surrogate)


def _surrogate(algorithm: AlgorithmConfig) -> Callable:
    others = {"advantage": None, "advantage_options": None, "truncated": None, "beta": None}
    return _made_surrogate(dataclasses.replace(algorithm, **others))


# Runs that differ in their advantage only have the same steps.
_PARTS = {
    name: functools.cache(getattr(training, name))
    for name in ("make_optimizer", "policy_loss", "TrainStep", "Score")
} | {"make_surrogate": _surrogate}


@contextlib.contextmanager
def traced_once() -> Iterator[None]:
    """Runs in it take the programs of an earlier one in this process that computed the same.

    To trace them again takes longer than all else that the smallest run does. They have 2 devices.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "make_mesh", make_mesh)
        patch.setattr(setup, "Programs", _programs)
        for name, make in _PARTS.items():
            patch.setattr(training, name, make)
        yield


def train(config: Config, workdir: Path) -> None:
    """`trainer.train`, traced once."""
    with traced_once():
        trainer.train(config, workdir)


def once(tmp_path_factory, name: str, make: Callable[[Path], None]) -> Path:
    """The directory that `make` fills: once, for all workers, of which the others wait.

    Tests read it and change only copies.
    """
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    directory, done = root / name, root / f"{name}.done"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            make(directory)
            done.touch()
    return directory


def lines(workdir: Path, name: str = "metrics") -> list[dict]:
    path = workdir / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def timeless(rows: list[dict]) -> list[dict]:
    dropped = ("time/", "throughput/", "memory/")
    return [{k: v for k, v in row.items() if not k.startswith(dropped)} for row in rows]


def without(rows: list[dict], *names: str) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in names} for row in rows]


def command(
    workdir: Path, experiment: str = "arithmetic", settings: Mapping[str, Any] = MICRO
) -> list[str]:
    words = [
        f"--config.{key}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for key, value in settings.items()
    ]
    return [
        sys.executable,
        "launch/run.py",
        f"--config=experiments/{experiment}.py:tiny",
        f"--workdir={workdir}",
        *words,
    ]


def one_device() -> dict[str, str]:
    """Returns the environment of a run's own process."""
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    return {**os.environ, "XLA_FLAGS": flags, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


def readable(workdir: Path) -> list[dict]:
    """Returns the whole lines of a file that another process is writing."""
    path = workdir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]
