"""The smallest run that uses every part, its command line, and functions that read its files."""

import json
import os
import sys
from pathlib import Path

from experiments import arithmetic
from mapo_jax.config import from_config_dict

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


def lines(workdir: Path, name: str = "metrics") -> list[dict]:
    path = workdir / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def timeless(rows: list[dict]) -> list[dict]:
    dropped = ("time/", "throughput/", "memory/")
    return [{k: v for k, v in row.items() if not k.startswith(dropped)} for row in rows]


def without(rows: list[dict], *names: str) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in names} for row in rows]


def command(workdir: Path) -> list[str]:
    settings = [
        f"--config.{key}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for key, value in MICRO.items()
    ]
    return [
        sys.executable,
        "launch/run.py",
        "--config=experiments/arithmetic.py:tiny",
        f"--workdir={workdir}",
        *settings,
    ]


def one_device(cache: Path) -> dict[str, str]:
    """Returns the environment of a run's own process, which keeps compiled programs in `cache`."""
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    return {
        **os.environ,
        "XLA_FLAGS": flags,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def readable(workdir: Path) -> list[dict]:
    """Returns the whole lines of a file that another process is writing."""
    path = workdir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]
