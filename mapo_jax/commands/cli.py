"""Reads a command line `--config EXPERIMENT[:PRESET,...] --workdir DIR --config.a.b=value`.

`parse` collects all mistakes in the command line, in the experiment and from its check before
anything is compiled.
"""

import argparse
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from etils import epath

from mapo_jax import errors
from mapo_jax.commands import experiment, join
from mapo_jax.commands.exits import Help
from mapo_jax.config import from_config_dict

USAGE = f"""\
--config EXPERIMENT[:PRESET,...]
                                a file of yours, or the name of one that ships, as in arithmetic;
                                presets are applied in this order (required)
--workdir DIR                   where the run is kept; a run found there is continued
                                (default: runs/NAME[-PRESETS])
--config.a.b=value              sets a knob of the experiment; all of them are listed in
                                {experiment.KNOBS}"""

PROCESSES = """
--distributed                   one of several processes, found by JAX: TPU pods, SLURM
--coordinator HOST:PORT --num-processes N --process-id I
                                the same by hand; the first one, 0, listens at HOST:PORT"""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """A command line, read and checked."""

    experiment: str  # as typed, "arithmetic:tiny"
    config: Any  # the result of `read`
    workdir: epath.Path  # local, or gs://...
    overrides: tuple[str, ...]  # "a.b=value", as typed
    flags: dict[str, str]  # the launcher's own; "" for a switch; the last of several
    several: dict[str, list[str]]  # all values of each of them, in order


class Parser(argparse.ArgumentParser):
    """The parser of launchers without --config; a mistake is one line."""

    def error(self, message: str):
        raise errors.UserError(f"{message}; see --help")

    def read(self, argv: list[str]) -> argparse.Namespace:
        """Returns the values of the words after the launcher's name; none of them is empty."""
        flags = self.parse_args(list(map(_with_home, argv)))
        empty = [name for name, value in vars(flags).items() if value == ""]
        _stop_if_any([_missing(f"--{name}") for name in empty])
        return flags


def parse(
    argv: list[str],
    description: str,
    read: Callable[[Any], Any] = from_config_dict,
    check: Callable[[Any, int], list[str]] | None = None,
    several: bool = False,
    root: str = "runs",
    required: Mapping[str, str] = MappingProxyType({}),
    extra: Mapping[str, str] = MappingProxyType({}),
) -> Arguments:
    """Reads the command line, loads the experiment and checks everything.

    Args:
        argv: the words after the launcher's name.
        description: the beginning of --help.
        read: turns the experiment's tree into a config.
        check: lists the config's mistakes, given the number of devices; None checks as for a run.
        several: whether the launcher may be one of several processes.
        root: where the default work directory is.
        required: those of the launcher's own flags that must be given, with an example of each.
        extra: the launcher's own flags, as "--name VALUE" or "--switch", with their help.

    Raises:
        UserError: with a line for each mistake.
    """
    lines: list[str] = []
    own = {flag.partition(" ")[0]: flag for flag in extra}
    values = tuple(name for name, flag in own.items() if " " in flag)
    known = ("--config", "--workdir", *values, *(join.BY_HAND if several else ()))
    switches = tuple(name for name in own if name not in values)
    switches += ("--distributed",) if several else ()
    every, settings = _split(argv, known, switches, lines)
    flags = {name: values[-1] for name, values in every.items()}
    meet = join.joining(flags, lines)
    path, _, presets = flags.get("--config", "").partition(":")
    wants_help = "--help" in argv or "-h" in argv
    module = None
    if path:
        module = experiment.load(path, lines)
    elif not wants_help:
        lines.append("--config: missing; give an experiment, as in --config arithmetic")
    for flag, example in required.items():
        if flag not in flags and not wants_help:
            lines.append(f"{flag}: missing; as in {flag} {example}")
    if wants_help:
        usage = USAGE + "".join(f"\n{flag:31} {text}" for flag, text in extra.items())
        usage += PROCESSES if several else ""
        raise Help(_help(description, usage, path, module))

    before = len(lines)
    tree = experiment.get_config(path, presets, module, lines) if module else None
    presets_known = len(lines) == before
    if tree is None:
        raise errors.UserError(*lines)
    for key, text in settings:
        experiment.set_value(tree, key, text, lines)
    try:
        config = read(tree)
    except errors.UserError as error:
        raise errors.UserError(*lines, *error.lines) from None

    name = "-".join([Path(path).stem, *filter(None, presets.split(","))])
    workdir = epath.Path(flags.get("--workdir", f"{root}/{name}"))
    if not presets_known:  # a config without one of its presets is not the one that was meant
        raise errors.UserError(*lines)
    import jax  # imported late, so that the mistakes above need not wait for it

    from mapo_jax.run import checks

    check = check or checks.validate
    if not lines:
        meet(config)
        from mapo_jax.run import processes

        processes.check_same(
            f"{config} {workdir}",
            "was started with other settings than process 0; give all of them the same --config, "
            "--workdir and --config.a.b=value",
        )
        with processes.together():  # a file may be missing on one machine
            _stop_if_any(check(config, jax.device_count()))
    else:
        _stop_if_any([*lines, *check(config, jax.device_count())])
    overrides = tuple(f"{key}={text}" for key, text in dict(settings).items())  # the last counts
    every = {name: values for name, values in every.items() if name in own}
    flags = {name: flags[name] for name in every}
    return Arguments(
        ":".join(filter(None, [path, presets])), config, workdir, overrides, flags, every
    )


_TEXTS = ("--prompt", "--answer")  # flags whose value may be anything


def _missing(flag: str) -> str:
    return f"{flag}: a value is missing; give {flag}=VALUE"


def _with_home(text: str) -> str:
    """Expands ~, which the shell leaves as it is in --workdir=~/x."""
    return re.sub(r"(^|=)~(?=/|$)", lambda match: match[1] + str(Path.home()), text)


def _stop_if_any(lines: Sequence[str]) -> None:
    if lines:
        raise errors.UserError(*lines)


def count(flags: Mapping[str, str], name: str, default: int) -> int:
    """Returns the integer >= 1 that a flag gives."""
    text = flags.get(name, str(default))
    if not text.isdecimal() or int(text) < 1:
        raise errors.UserError(f"{name}={text}: must be an integer >= 1")
    return int(text)


def fraction(flags: Mapping[str, str], name: str, default: float) -> float:
    """Returns the number above 0 and at most 1 that a flag gives."""
    text = flags.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise errors.UserError(f"{name}={text}: must be a number > 0 and <= 1")
    return value


def _split(
    argv: list[str], known: tuple[str, ...], switches: tuple[str, ...], lines: list[str]
) -> tuple[dict[str, list[str]], list[tuple[str, str]]]:
    """Splits the command line into the launcher's flags and the settings of config keys."""
    flags: dict[str, list[str]] = {}
    settings = []
    words = [word for word in argv if word not in ("--help", "-h")]
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if word in switches:
            flags[word] = [""]
            continue
        if name not in known and not name.startswith("--config."):
            hint = errors.did_you_mean(name, (*known, *switches, "--help"))
            lines.append(f"{word}: no such argument{hint}; see --help")
            if name.startswith("--") and not equals and words and not words[0].startswith("--"):
                words.pop(0)  # its value
            continue
        if not equals:
            if not words or (words[0].startswith("--") and name != "--prompt"):
                lines.append(_missing(name))
                continue
            value = words.pop(0)
        if name not in _TEXTS:
            value = _with_home(value)
        if name.startswith("--config."):
            settings.append((name.removeprefix("--config."), value))
        elif value or name in ("--config", *_TEXTS):
            flags.setdefault(name, []).append(value)
        else:  # an unset variable of the shell
            lines.append(_missing(name))
    workdir = flags.get("--workdir", [""])[-1]
    if "://" in workdir and not workdir.startswith("gs://"):
        lines.append(f"--workdir={workdir}: must be a local directory or gs://BUCKET/...")
    return flags, settings


def _help(description: str, usage: str, path: str, module: Any) -> str:
    text = f"{description.strip()}\n\n{usage}\n"
    if module is None:
        return text + "\nGive --config as well to see its presets."
    presets = getattr(module, "PRESETS", {})
    firsts = {name: next(iter((fn.__doc__ or "").splitlines()), "") for name, fn in presets.items()}
    listed = "\n".join(f"  :{name:14} {first}".rstrip() for name, first in firsts.items())
    return text + f"\nPresets of {path}:\n{listed or '  none'}"
