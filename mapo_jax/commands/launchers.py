"""One function for each launcher, which reads the command line and calls the room that does it.

`python launch/NAME.py` in a clone is `mapo NAME` once the package is installed. Slow imports come
after the command line has been read, so that a mistake there is shown at once.
"""

import argparse
import inspect
import os
import shlex
import sys
from collections.abc import Callable
from typing import Any

from mapo_jax import errors
from mapo_jax.commands import cli, exits

_PARAMS = "a Hugging Face folder, hub id or work directory in place of --workdir's policy"
_PUSH = "upload it to the Hugging Face hub, where the repository is made if there is none"
_CHECKPOINT = "newest (default), best, or a number of checkpoints/"


def run(argv: list[str]) -> None:
    """Trains a policy: `mapo run --config EXPERIMENT[:PRESET,...] [--workdir DIR]`.

    The same command again continues from the newest checkpoint in DIR.
    """
    arguments = cli.parse(argv, _description(run), several=True)
    from mapo_jax.commands import train
    from mapo_jax.run import compilation

    compilation.keep()
    train.run(arguments.config, arguments.workdir, arguments.overrides)


def evaluate(argv: list[str]) -> None:
    """Evaluates a policy: `mapo evaluate --config EXPERIMENT [--workdir DIR]`.

    Takes the newest checkpoint in DIR, or --params, and the evaluation sets of the config. Prints a
    table, writes every response with its verdict to a folder in DIR/evaluation/ and the metrics to
    DIR/evaluation.json. The same command goes on with an evaluation that was stopped. Another
    policy, reward, row or setting has a folder of its own.
    """
    extra = {"--params PATH": _PARAMS, "--checkpoint WHICH": _CHECKPOINT}
    arguments = cli.parse(argv, _description(evaluate), check=_check_without_policy, extra=extra)
    from mapo_jax.commands import evaluate as command
    from mapo_jax.run import compilation

    compilation.keep()
    flags = arguments.flags
    policy = flags.get("--params", ""), flags.get("--checkpoint", "newest")
    command.run(arguments.config, arguments.workdir, *policy)


def sample(argv: list[str]) -> None:
    """Answers a prompt: `mapo sample --config EXPERIMENT --prompt TEXT [-n N]`.

    Prints text as it is sampled, then its reward if the answer is known. The prompt may come on
    standard input instead.
    """
    extra = {
        "--prompt TEXT": "a question of the task",
        "--image FILE": "a picture for it; may be given several times",
        "-n N": "completions (default: 1)",
        "--params PATH": _PARAMS,
        "--checkpoint WHICH": _CHECKPOINT,
        "--answer TEXT": "the right answer, to judge by; default: the task's own",
        "--raw": "take the prompt as it stands: no instruction, no chat template",
    }
    arguments = cli.parse(argv, _description(sample), check=_check_without_policy, extra=extra)
    flags = arguments.flags
    n = cli.count(flags, "-n", 1)
    prompt = flags["--prompt"] if "--prompt" in flags else sys.stdin.read().rstrip("\n")
    from mapo_jax.commands import sample as command
    from mapo_jax.run import compilation

    compilation.keep()
    command.run(
        arguments.config,
        arguments.workdir,
        prompt,
        arguments.several.get("--image", ()),
        params=flags.get("--params", ""),
        checkpoint=flags.get("--checkpoint", "newest"),
        n=n,
        answer=flags.get("--answer"),
        is_raw="--raw" in flags,
        write=lambda text: print(text, end="", flush=True),
    )


def export(argv: list[str]) -> None:
    """Writes a run's policy for others: `mapo export --workdir DIR --output DIR2`.

    Writes the newest checkpoint, or --checkpoint, adapters merged, as a Hugging Face folder that
    transformers and vLLM load: config.json, model.safetensors, generation_config.json, the
    tokenizer's files and README.md, a model card. --push uploads it.
    """
    parser = _parser(export)
    parser.add_argument("--workdir", required=True, metavar="DIR", help="work directory of a run")
    parser.add_argument("--output", required=True, metavar="DIR", help="where to; new or empty")
    parser.add_argument("--checkpoint", default="newest", metavar="WHICH", help=_CHECKPOINT)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--push", metavar="OWNER/NAME", help=_PUSH)
    flags = parser.read(argv)
    from mapo_jax.commands import export as command

    where = flags.workdir, flags.output
    print(command.run(*where, flags.dtype, flags.checkpoint, flags.push or ""))


def plan(argv: list[str]) -> None:
    """Plans a run without its hardware: `mapo plan --config EXPERIMENT [--topology v5e:8x8]`.

    Prints memory per device and the cost of a step; with --topology, also the TPU compiler's
    figures.
    """
    extra = {
        "--topology NAME": "TPU slice to compile for, as in v5e:8x8, v5p:4x4x4, v6e:16x16",
        "--efficiency F": "share of the peak that a chip reaches (default: 0.4)",
    }
    os.environ["JAX_PLATFORMS"] = "cpu"  # a plan must not look for an accelerator
    arguments = cli.parse(argv, _description(plan), check=lambda *_: [], extra=extra)
    share = cli.fraction(arguments.flags, "--efficiency", 0.4)
    from mapo_jax.commands import plan as command

    command.run(arguments.config, arguments.flags.get("--topology", ""), share)


def bench(argv: list[str]) -> None:
    """Measures sampling, scoring, update and the whole step: `mapo bench --config bench:small`.

    Prints a table, then JSON on the last line.
    """
    from mapo_jax.commands import bench as command

    config = cli.parse(argv, _description(bench), command.read, command.validate).config
    command.report(config, command.measure(config))


def report(argv: list[str]) -> None:
    """Writes a report of one run or several: `mapo report DIR [DIR ...] [--output DIR]`.

    Writes report.html, which needs no other file, and figures/*.png. They go into DIR itself, or
    into report/ for several runs.
    """
    parser = _parser(report)
    parser.add_argument("workdirs", nargs="+", metavar="DIR", help="work directory of a run")
    parser.add_argument("--output", help="where to write; default: DIR, or report/ for several")
    flags = parser.read(argv)
    if "" in flags.workdirs:
        parser.error("a DIR is empty")
    from mapo_jax import report as room

    alone = flags.workdirs[0] if len(flags.workdirs) == 1 else "report"
    print(room.write(flags.workdirs, flags.output or alone))


def study(argv: list[str]) -> None:
    """Compares methods over seeds: `mapo study --config EXPERIMENT --methods A,B --seeds 0,1,2`.

    Trains every method with every seed from one warm-up per seed. Prints a table with paired
    differences and writes it to DIR/report.html and DIR/study.json. The same command goes on with a
    study that was stopped; started once more for another device, it does some of the runs there.
    """
    extra = {
        "--methods A,B": "advantages, FILE.py:FUNCTION, or presets of the experiment (required)",
        "--seeds 0,1,2": "of the warm-up, the order of the data and the draws (required)",
        "--baseline A": "which method the others are compared with (default: the first)",
        '--setting "KEY=VALUE ..."': "changes for all methods; may be given several times",
    }
    required = {"--methods": "mapo,grpo", "--seeds": "0,1,2"}
    options: dict = {"root": "runs/studies", "required": required, "extra": extra}
    arguments = cli.parse(argv, _description(study), **options)
    flags = arguments.flags
    from mapo_jax.commands import study as command
    from mapo_jax.run import compilation

    compilation.keep()
    settings, baseline = arguments.several.get("--setting", []), flags.get("--baseline", "")
    typed = shlex.join([*_started_as(study).split(), *argv])
    methods, seeds = (flags[name].split(",") for name in required)
    command.run(command.make(arguments, methods, seeds, settings, baseline, typed))


COMMANDS = {fn.__name__: fn for fn in (run, evaluate, sample, export, plan, bench, report, study)}


def mapo() -> int:
    """The installed program: `mapo NAME ARGUMENT ...`; returns its exit code."""
    return exits.main(dispatch)


def dispatch(argv: list[str]) -> None:
    """Calls the command that the first word names."""
    name, *rest = argv or ["--help"]
    if name in ("--help", "-h"):
        firsts = [_description(fn).splitlines()[0] for fn in COMMANDS.values()]
        raise exits.Help("\n".join([*firsts, "", "mapo NAME --help says more."]))
    if name not in COMMANDS:
        hint = errors.did_you_mean(name, COMMANDS, f"commands: {', '.join(COMMANDS)}")
        raise errors.UserError(f"mapo {name}: no such command{hint}")
    COMMANDS[name](rest)


def _check_without_policy(config: Any, device_count: int) -> list[str]:
    """Lists the mistakes in a config whose policy comes from somewhere else."""
    from mapo_jax.run import checks

    return checks.validate(config, device_count, needs_policy=False)


def _description(fn: Callable) -> str:
    """Returns the docstring, with the command as it was started."""
    return (inspect.getdoc(fn) or "").replace(f"mapo {fn.__name__}", _started_as(fn))


def _started_as(fn: Callable) -> str:
    is_launcher = sys.argv[0].endswith(f"{fn.__name__}.py")
    return f"python {sys.argv[0]}" if is_launcher else f"mapo {fn.__name__}"


def _parser(fn: Callable) -> cli.Parser:
    return cli.Parser(
        prog=_started_as(fn),
        description=_description(fn),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
