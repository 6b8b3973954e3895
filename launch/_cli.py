"""The launchers' command line: `--config FILE.py[:PRESET,...] --workdir DIR --config.a.b=value`.

`parse` collects all mistakes, those of the command line, of the config file and of
`config.validate`, before anything is compiled. `main` turns them into lines and an exit code.
"""

import argparse
import ast
import dataclasses
import errno
import importlib.util
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # `python launch/NAME.py` puts launch/ there, not the root

from etils import epath  # noqa: E402
from ml_collections import ConfigDict  # noqa: E402

from mapo_jax import config as config_lib  # noqa: E402
from mapo_jax import errors, validation  # noqa: E402

USAGE = """\
--config FILE.py[:PRESET,...]   experiment, and presets applied in this order (required)
--workdir DIR                   where the run is kept; a run found there is continued
                                (default: runs/NAME[-PRESETS])
--config.a.b=value              sets a knob of the experiment; experiments/common.py lists them"""

PROCESSES = """
--distributed                   one of several processes, found by JAX: TPU pods, SLURM
--coordinator HOST:PORT --num-processes N --process-id I
                                the same by hand; the first one, 0, listens at HOST:PORT"""
_BY_HAND = ("--coordinator", "--num-processes", "--process-id")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What a command line says."""

    config: Any  # what `read` returned
    workdir: epath.Path  # local, or gs://...
    overrides: tuple[str, ...]  # "a.b=value", as typed
    flags: dict[str, str]  # the launcher's own; "" for a switch


class Parser(argparse.ArgumentParser):
    """For launchers without --config; a mistake is a line."""

    def error(self, message: str):
        raise errors.UserError(f"{message}; see --help")


class _Help(Exception):
    """Asked for; carries the text."""


def main(run: Callable[[list[str]], None]) -> int:
    """Runs a launcher on the command line and returns its exit code.

    0: done; 2: the user's mistake, one line per mistake on stderr; 3: stopped by the run's own
    guard; 130: interrupted; 143: after a SIGTERM. Anything else is a bug and propagates. Among
    several processes what only one of them meets ends it at once, so that the others need not wait
    for it; 134 where another one is gone, and all may start again.
    """
    try:
        run(sys.argv[1:])
    except _Help as message:
        print(message)
    except errors.UserError as error:
        print(*error.lines, sep="\n", file=sys.stderr)
        if "disk is full" in str(error):
            _leave_quietly()
        return 2 if error.everywhere else _leave_others(2)
    except errors.RunStopped as error:
        print(error, file=sys.stderr)
        return 3
    except errors.Preempted as error:
        print(error, file=sys.stderr)
        return 143
    except errors.StartAgain as error:
        print(error, file=sys.stderr)
        return _leave_others(134)
    except KeyboardInterrupt:
        print("interrupted; the same command continues from the last checkpoint", file=sys.stderr)
        return _leave_others(130)
    except Exception as error:
        if line := _lack(error):
            print(line, file=sys.stderr)
            return _leave_others(2)
        if not _is_one_of_several():
            raise
        traceback.print_exception(error)
        if not any(word in str(error) for word in _GONE):
            return _leave_others(1)
        print(
            "another process is gone, or far behind; start the same command on all of them again, "
            "which continues from the last checkpoint",
            file=sys.stderr,
        )
        return _leave_others(134)  # as jax ends those that do not see it by themselves
    return 0


def _lack(error: Exception) -> str:
    """A line, where there is too little of the machine."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        _leave_quietly()
        return "--workdir: its disk is full; free some or choose another one"
    if type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" in str(error):
        return (
            f"out of memory ({str(error).splitlines()[0]}); lower batch.microbatch, rollout.lanes "
            "or compute.head_chunk, or raise rollout.chunks or mesh.fsdp"
        )
    return ""


def _unraisable(found: Any, shown: Callable[[Any], Any] = sys.unraisablehook) -> None:
    """Passes over what the threads of a save that has failed say beside its own exception."""
    if str(found.exc_value) != "Event loop is closed":
        shown(found)


sys.unraisablehook = _unraisable


def _leave_quietly() -> None:
    """On a full disk: what is still to be written at the exit would say so again, at length."""
    sys.unraisablehook = threading.excepthook = lambda _: None
    warnings.simplefilter("ignore")


def _is_one_of_several() -> bool:
    if "jax" not in sys.modules:
        return False
    import jax

    return jax.distributed.is_initialized() and jax.process_count() > 1


def _leave_others(code: int) -> int:
    """Ends one of several processes without waiting for the others, which an exit does."""
    if _is_one_of_several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


# What collectives say when a peer's connection breaks: Gloo's words, and the service's.
_GONE = ("Connection reset by peer", "Connection closed", "Broken pipe", "heartbeat", "preempted")
_GONE += ("DEADLINE_EXCEEDED",)


def parse(
    argv: list[str],
    description: str,
    read: Callable[[Any], Any] = config_lib.from_config_dict,
    check: Callable[[Any, int], list[str]] = validation.validate,
    processes: bool = False,
    extra: Mapping[str, str] = MappingProxyType({}),
) -> Arguments:
    """Reads the command line, loads the experiment and checks everything.

    Args:
        argv: what follows the launcher's name.
        description: the beginning of --help.
        read: turns the experiment's tree into a config.
        check: lists the mistakes in it, given the number of devices.
        processes: whether the launcher may be one of several processes.
        extra: the launcher's own flags, as "--name VALUE" or "--switch", with their help.

    Raises:
        UserError: with a line for each mistake.
    """
    lines: list[str] = []
    own = {flag.partition(" ")[0]: flag for flag in extra}
    values = tuple(name for name, flag in own.items() if " " in flag)
    known = ("--config", "--workdir", *values, *(_BY_HAND if processes else ()))
    switches = tuple(name for name in own if name not in values)
    switches += ("--distributed",) if processes else ()
    flags, settings = _split(argv, known, switches, lines)
    join = _processes(flags, lines)
    path, _, presets = flags.get("--config", "").partition(":")
    wants_help = "--help" in argv or "-h" in argv
    module = None
    if path:
        module = _load(path, lines)
    elif not wants_help:
        lines.append(
            "--config: missing; give an experiment, as in --config experiments/arithmetic.py"
        )
    if wants_help:
        usage = USAGE + "".join(f"\n{flag:31} {text}" for flag, text in extra.items())
        usage += PROCESSES if processes else ""
        raise _Help(_help(description, usage, path, module))

    before = len(lines)
    tree = _get_config(path, presets, module, lines) if module else None
    presets_known = len(lines) == before
    if tree is None:
        raise errors.UserError(*lines)
    for key, text in settings:
        _set(tree, key, text, lines)
    try:
        config = read(tree)
    except errors.UserError as error:
        raise errors.UserError(*lines, *error.lines) from None

    name = "-".join([Path(path).stem, *filter(None, presets.split(","))])
    workdir = epath.Path(flags.get("--workdir", f"runs/{name}"))
    if not presets_known:  # without one of its presets a config is not the one that was meant
        raise errors.UserError(*lines)
    import jax  # late: the mistakes above need not wait for it

    if not lines:
        join(config)
        from mapo_jax import processes as processes_lib

        processes_lib.check_same(
            f"{config} {workdir}",
            "was started with other settings than process 0; give all of them the same --config, "
            "--workdir and --config.a.b=value",
        )
        with processes_lib.together():  # a file may be missing on one machine
            _stop_if_any(check(config, jax.device_count()))
    else:
        _stop_if_any([*lines, *check(config, jax.device_count())])
    overrides = tuple(f"{key}={text}" for key, text in settings)
    return Arguments(config, workdir, overrides, {k: v for k, v in flags.items() if k in own})


def _stop_if_any(lines: Sequence[str]) -> None:
    if lines:
        raise errors.UserError(*lines)


def count(flags: Mapping[str, str], name: str, default: int) -> int:
    """A number >= 1 that a flag gives."""
    text = flags.get(name, str(default))
    if not text.isdecimal() or int(text) < 1:
        raise errors.UserError(f"{name}={text}: must be an integer >= 1")
    return int(text)


def fraction(flags: Mapping[str, str], name: str, default: float) -> float:
    """A number above 0 and at most 1 that a flag gives."""
    text = flags.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise errors.UserError(f"{name}={text}: must be a number > 0 and <= 1")
    return value


def of_a_policy(config: Any, device_count: int) -> list[str]:
    """The mistakes of a config whose policy comes from somewhere else."""
    return validation.validate(config, device_count, needs_policy=False)


def _split(
    argv: list[str], known: tuple[str, ...], switches: tuple[str, ...], lines: list[str]
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Splits the command line into the launcher's flags and the settings of config keys."""
    flags: dict[str, str] = {}
    settings = []
    words = [word for word in argv if word not in ("--help", "-h")]
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if word in switches:
            flags[word] = ""
            continue
        if name not in known and not name.startswith("--config."):
            hint = errors.did_you_mean(name, (*known, *switches, "--help"))
            lines.append(f"{word}: no such argument{hint}; see --help")
            if name.startswith("--") and not equals and words and not words[0].startswith("--"):
                words.pop(0)  # its value
            continue
        if not equals:
            if not words or (words[0].startswith("--") and name != "--prompt"):
                lines.append(f"{name}: a value is missing; give {name}=VALUE")
                continue
            value = words.pop(0)
        if name.startswith("--config."):
            settings.append((name.removeprefix("--config."), value))
        else:
            flags[name] = value
    workdir = flags.get("--workdir", "")
    if "://" in workdir and not workdir.startswith("gs://"):
        lines.append(f"--workdir={workdir}: must be a local directory or gs://BUCKET/...")
    return flags, settings


def _processes(flags: dict[str, str], lines: list[str]) -> Callable[[Any], None]:
    """What joins the other processes, by the flags; nothing where there are none."""
    given = [name for name in _BY_HAND if name in flags]
    if "--distributed" in flags and given:
        lines.append(f"--distributed: finds the processes by itself; leave out {', '.join(given)}")
    elif given and len(given) < len(_BY_HAND):
        missing = [name for name in _BY_HAND if name not in flags]
        lines.append(f"{given[0]}={flags[given[0]]}: needs {' and '.join(missing)} as well")
    elif given:
        coordinator, number, index = (flags[name] for name in _BY_HAND)
        return _by_hand(coordinator, number, index, lines)
    elif "--distributed" in flags:
        return _by_cluster
    return lambda config: None


def _by_hand(coordinator: str, number: str, index: str, lines: list[str]) -> Callable[[Any], None]:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        lines.append(f"--coordinator={coordinator}: must be HOST:PORT, as in localhost:9876")
    if not number.isdecimal() or int(number) < 1:
        lines.append(f"--num-processes={number}: must be an integer >= 1")
    elif not index.isdecimal() or int(index) >= int(number):
        lines.append(f"--process-id={index}: must be from 0 to {int(number) - 1}")

    return lambda config: _join(coordinator, int(number), int(index), config)


def _by_cluster(config: Any) -> None:
    try:
        _join(None, None, None, config)
    except ValueError:
        raise errors.UserError(
            "--distributed: neither a TPU pod nor a SLURM job was found here; start each process "
            "with --coordinator HOST:PORT --num-processes N --process-id I"
        ) from None


def _join(coordinator: str | None, number: int | None, index: int | None, config: Any) -> None:
    """Waits for the other processes; None: a cluster says who they are."""
    import jax

    most = config.processes.start
    text = f"still waits for the other processes, {most} s at most (processes.start)\n"
    patience = threading.Timer(10, sys.stderr.write, [text])
    patience.daemon = True
    patience.start()
    try:
        jax.distributed.initialize(
            coordinator,
            number,
            index,
            initialization_timeout=most,
            heartbeat_timeout_seconds=config.processes.heartbeat,
            shutdown_timeout_seconds=config.processes.shutdown,
        )
    finally:
        patience.cancel()


def _load(path: str, lines: list[str]) -> Any:
    """Imports an experiment file; None, and a line, where that fails."""
    if not Path(path).is_file():
        near = [str(p.relative_to(ROOT)) for p in sorted((ROOT / "experiments").glob("*.py"))]
        lines.append(f"--config={path}: no such file{errors.did_you_mean(path, near)}")
        return None
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        lines.append(f"--config={path}: not a Python file; give FILE.py[:PRESET,...]")
        return None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        lines.append(_failure(path, error))
        return None
    if not hasattr(module, "get_config"):
        lines.append(f"--config={path}: has no get_config(presets); see experiments/arithmetic.py")
        return None
    return module


def _get_config(path: str, presets: str, module: Any, lines: list[str]) -> ConfigDict | None:
    known = getattr(module, "PRESETS", {})  # an experiment need not have any
    names = list(filter(None, presets.split(",")))
    for name in names:
        if name not in known:
            hint = errors.did_you_mean(name, known)
            lines.append(
                f"--config={path}:{presets}: no preset {name}{hint}; presets: "
                f"{', '.join(known) or 'none'}"
            )
    try:
        tree = module.get_config(",".join(name for name in names if name in known))
    except Exception as error:
        lines.append(_failure(path, error))
        return None
    if not isinstance(tree, ConfigDict):
        lines.append(
            f"--config={path}: get_config returned {type(tree).__name__}, not a ConfigDict"
        )
        return None
    return tree


def _failure(path: str, error: Exception) -> str:
    """An exception of a config file as one line, with the last place in that file."""
    if isinstance(error, SyntaxError):
        place = error.lineno
    else:
        frames = traceback.extract_tb(error.__traceback__)
        places = [f.lineno for f in frames if Path(f.filename).resolve() == Path(path).resolve()]
        place = places[-1] if places else 1
    message = " ".join(str(error).split())
    return f"--config={path}: line {place} raises {type(error).__name__}: {message}"


def _set(tree: ConfigDict, key: str, text: str, lines: list[str]) -> None:
    """Sets `key` to `text` in the type of its default; a mistake becomes a line."""
    parent, _, name = key.rpartition(".")
    if parent in config_lib.OPEN:
        group = _node(tree, parent)
        with group.unlocked(), group.ignore_type():  # the task says what is wrong with a type
            is_text = name in group and isinstance(group[name], str)
            group[name] = text if is_text else _literal(text)
        return
    keys = _leaves(tree)
    if key not in keys:
        inside = [known for known in keys if known.startswith(key + ".")]
        if key in config_lib.OPEN:
            lines.append(f"{key}={text}: set one of its keys, as in --config.{key}.KEY=VALUE")
        elif inside:
            lines.append(f"{key}={text}: is a group; set one of {', '.join(inside)}")
        else:
            lines.append(f"{key}={text}: no such key{_nearest(key, keys)}")
        return
    try:
        _node(tree, parent)[name] = _convert(text, keys[key])
    except ValueError as error:
        lines.append(f"{key}={config_lib.show(text)}: {error}")


def _node(tree: ConfigDict, key: str) -> Any:
    for name in filter(None, key.split(".")):
        tree = tree[name]
    return tree


def _leaves(tree: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """The values of the tree by their full names."""
    leaves = {}
    for name, value in tree.items():
        if isinstance(value, ConfigDict):
            leaves |= _leaves(value, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = value
    return leaves


def _nearest(key: str, keys: dict[str, Any]) -> str:
    """A hint by the full name or, failing that, by the last part of it."""
    last = key.rpartition(".")[2]
    same = [known for known in keys if known.rpartition(".")[2] == last]
    return f"; did you mean {same[0]}?" if same else errors.did_you_mean(key, keys)


def _literal(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _convert(text: str, default: Any) -> Any:
    """Reads `text` as the type of `default`; ValueError says what was expected."""
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError("expected True or False")
        return text.lower() == "true"
    if isinstance(default, tuple):
        value = _literal(text)
        kinds = [type(part) for part in default]
        if not isinstance(value, tuple | list) or [type(part) for part in value] != kinds:
            example = ",".join(map(str, default))
            raise ValueError(f"expected {len(default)} numbers like its default, as in {example}")
        return tuple(value)
    expected = "an integer, as in 8" if isinstance(default, int) else "a number, as in 0.5 or 1e-6"
    try:
        return type(default)(text)
    except ValueError:
        raise ValueError(f"expected {expected}") from None


def _help(description: str, usage: str, path: str, module: Any) -> str:
    text = f"{description.strip()}\n\n{usage}\n"
    if module is None:
        return text + "\nGive --config as well to see its presets."
    presets = getattr(module, "PRESETS", {})
    firsts = {name: next(iter((fn.__doc__ or "").splitlines()), "") for name, fn in presets.items()}
    listed = "\n".join(f"  :{name:14} {first}".rstrip() for name, first in firsts.items())
    return text + f"\nPresets of {path}:\n{listed or '  none'}"
