"""Trains methods x seeds x settings of one experiment and compares them, for `mapo study`.

All runs of a seed start from one warm-up. A run is a work directory like any other, and a study is
continued by the same command. Several processes, each with a device of its own, may do one study:
each takes the next run that no other one holds.
"""

import contextlib
import dataclasses
import gc
import json
import re
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath
from rich import box
from rich.console import Console as Terminal
from rich.markup import escape
from rich.table import Table

from mapo_jax import advantages, errors
from mapo_jax.commands import cli, exits, experiment
from mapo_jax.config import Config, from_config_dict, to_dict
from mapo_jax.report import study as reports
from mapo_jax.run import checks, trainer, workdirs

_FINAL = ("done", "stopped")
_POLL = 5.0  # seconds between two looks for a run that another process holds


@dataclasses.dataclass(frozen=True)
class Job:
    """A run of the study, or the warm-up that runs of a seed share."""

    config: Config
    workdir: epath.Path
    overrides: tuple[str, ...] = ()
    setting: str = ""
    method: str = ""  # "" for a warm-up
    after: "Job | None" = None  # the warm-up that it starts from

    @property
    def name(self) -> str:
        words = (self.setting, self.method or "warm-up", f"seed {self.config.seed}")
        return ", ".join(filter(None, words))

    def outcome(self) -> tuple[str, str]:
        """Returns (status, reason): done, stopped, failed, or waiting if it has yet to be run.

        A run whose configuration has changed since, as a study that was made longer, waits again.
        """
        path = self.workdir / "outcome.json"
        try:
            found = json.loads(path.read_text())
            same = found["config"] == json.loads(json.dumps(to_dict(self.config)))
        except (OSError, ValueError, KeyError):
            return "waiting", ""
        return (found["status"], found["reason"]) if same else ("waiting", "")

    def record(self, status: str, reason: str = "") -> None:
        self.workdir.mkdir(parents=True, exist_ok=True)
        value = {"status": status, "reason": reason, "config": to_dict(self.config)}
        workdirs.write_json(self.workdir / "outcome.json", value)


@dataclasses.dataclass(frozen=True)
class Study:
    """What is asked for, in the order of the command line, and the runs that it takes."""

    directory: epath.Path
    experiment: str
    command: str
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: tuple[str, ...]  # ("",) if none is given
    baseline: str
    jobs: tuple[Job, ...]  # a warm-up comes before the runs that start from it

    def described(self) -> dict[str, Any]:
        """Returns the study for `report.study`."""
        names = ("experiment", "command", "methods", "seeds", "settings", "baseline")
        runs = []
        for job in self.jobs:
            if job.method:
                status, reason = job.outcome()
                workdir = str(job.workdir.relative_to(self.directory))
                own = {"setting": job.setting, "method": job.method, "seed": job.config.seed}
                runs.append({**own, "workdir": workdir, "status": status, "reason": reason})
        return {**{name: getattr(self, name) for name in names}, "runs": runs}


def make(
    arguments: cli.Arguments,
    methods: Sequence[str],
    seeds: Sequence[str],
    settings: Sequence[str],
    baseline: str,
    command: str,
) -> Study:
    """Builds and checks the configuration of every run; nothing is compiled.

    Args:
        arguments: the command line, with the experiment.
        methods: each the name of an advantage, FILE.py:FUNCTION, or a preset of the experiment. An
            advantage changes `algorithm.advantage` alone; a preset all that it sets.
        seeds: integers, as typed.
        settings: each "KEY=VALUE KEY=VALUE ...", changes of the config that all methods get.
        baseline: the method that others are compared with; "" for the first.
        command: as it was started, for the report.

    Raises:
        UserError: with a line for each mistake.
    """
    lines: list[str] = []
    lines += [f"--seeds={seed}: must be an integer >= 0" for seed in seeds if not seed.isdecimal()]
    for flag, given in (("--methods", methods), ("--seeds", seeds), ("--setting", settings)):
        twice = [x for x in dict.fromkeys(given) if list(given).count(x) > 1]
        lines += [f"{flag}: {x} is given twice; give it once" for x in twice]
    baseline = baseline or methods[0]
    if baseline not in methods:
        lines.append(f"--baseline={baseline}: must be one of --methods={','.join(methods)}")
    if lines:
        raise errors.UserError(*lines)
    settings = tuple(settings) or ("",)
    module = experiment.load(arguments.experiment.partition(":")[0], lines)
    jobs: dict[epath.Path, Job] = {}
    for seed in seeds:
        for setting in settings:
            for method in methods:
                found = _jobs(arguments, module, setting, method, seed, lines)
                jobs |= {job.workdir: job for job in found if job.workdir not in jobs}
    every = tuple(jobs.values())
    for job in every:
        if job.config.seed == every[0].config.seed:  # others differ in the seed alone
            lines += checks.validate(job.config, jax.device_count(), needs_policy=not job.after)
        if job.workdir.exists():
            errors.attempt(lines, workdirs.check, job.workdir, to_dict(job.config), False)
    if (arguments.workdir / "config.json").exists():
        lines.append(f"--workdir={arguments.workdir}: holds a run; choose another directory")
    if lines:
        raise errors.UserError(*dict.fromkeys(lines))
    return Study(
        directory=arguments.workdir,
        experiment=arguments.experiment,
        command=command,
        methods=tuple(methods),
        seeds=tuple(map(int, seeds)),
        settings=settings,
        baseline=baseline,
        jobs=every,
    )


def _jobs(
    arguments: cli.Arguments, module: Any, setting: str, method: str, seed: str, lines: list[str]
) -> list[Job]:
    """Returns a cell's run, after its warm-up if it has one; [] and lines for mistakes."""
    path, _, presets = arguments.experiment.partition(":")
    changes = _pairs(setting.split())
    wrong = [f"--setting={setting}: {key}: a value is missing" for key, text in changes if not text]
    is_advantage = method in advantages.ADVANTAGES or ":" in method
    known = getattr(module, "PRESETS", {})
    if not is_advantage and method not in known:
        names = list(dict.fromkeys([*advantages.ADVANTAGES, *known]))
        hint = errors.did_you_mean(method, names, f"there are {', '.join(names)}")
        wrong.append(f"--methods={method}: is neither an advantage nor a preset{hint}")
    if wrong:
        lines += wrong
        return []
    common = [("log.console", "quiet"), *_pairs(arguments.overrides), ("seed", seed)]
    before = [change for change in changes if not _RL_ALONE.match(change[0])]
    first = _config(path, presets, module, [*common, *before, ("steps", "0")], lines)
    after, own = None, [*common, *changes]
    if first is not None and first.warmup.steps:
        named = " ".join("=".join(change) for change in before)
        workdir = arguments.workdir / "warmup" / _file(named) / f"seed_{seed}"
        after = Job(first, workdir)
        own += [("warmup.steps", "0"), ("policy.init", str(workdir))]
    if is_advantage:
        own.append(("algorithm.advantage", method))
    else:
        presets = ",".join(filter(None, [presets, method]))
    config = _config(path, presets, module, own, lines)
    if config is None:
        return []
    workdir = arguments.workdir / _file(setting) / _file(method) / f"seed_{seed}"
    overrides = tuple("=".join(change) for change in own)
    return [*filter(None, [after]), Job(config, workdir, overrides, setting, method, after)]


# Keys that the warm-up does not read: settings that differ in nothing else share it.
_RL_ALONE = re.compile(
    r"(steps|(algorithm|dynamic|batch|eval|log|checkpoint|guard|profile)\..*"
    r"|rollout\.(?!max_new_tokens$).*"
    r"|optimizer\.(learning_rate|vision_learning_rate|schedule_steps|decay))$"
)


def _pairs(overrides: Sequence[str]) -> list[tuple[str, str]]:
    return [(key, text) for key, _, text in (change.partition("=") for change in overrides)]


def _config(
    path: str, presets: str, module: Any, settings: Sequence[tuple[str, str]], lines: list[str]
) -> Config | None:
    """Builds a configuration as the command line of `mapo run` does; None and lines."""
    tree = experiment.get_config(path, presets, module, lines)
    if tree is None:
        return None
    for key, text in settings:
        experiment.set_value(tree, key, text, lines)
    return errors.attempt(lines, from_config_dict, tree)


def _file(name: str) -> str:
    """Returns a name as a part of a path; "" stays empty and adds none."""
    return re.sub(r"[^\w.=,+-]+", "_", name)


def run(study: Study) -> None:
    """Does what is left of a study, and writes its table and report.

    A run that the guard stops, or that fails, is in the table as such, and the others go on. The
    next start of the command tries again what failed, but not what the guard stopped.

    Raises:
        Preempted: after a SIGTERM; the same command goes on.
    """
    screen = Terminal(highlight=False)
    if not screen.is_terminal:  # a log has no width of its own
        screen = Terminal(highlight=False, width=120)
    waiting, tried = list(study.jobs), set[epath.Path]()
    try:
        while waiting:
            left = [job for job in waiting if not _is_settled(job, study, tried, screen)]
            if left and len(left) == len(waiting):  # other processes do them
                time.sleep(_POLL)
            waiting = left
    finally:
        described = study.described()
        if any(row["status"] != "waiting" for row in described["runs"]):
            _print(reports.write(study.directory, described), screen)
            screen.print(f"report: {study.directory}/report.html; every number: study.json")


def _is_settled(job: Job, study: Study, tried: set[epath.Path], screen: Terminal) -> bool:
    """Runs a job unless that is done; False if it has to wait for another process."""
    if job.outcome()[0] in _FINAL or job.workdir in tried:
        return True
    if job.after is not None:
        status, reason = job.after.outcome()
        if status != "done" and (status in _FINAL or job.after.workdir in tried):
            job.record("failed", f"its warm-up {status}: {reason}")
            return True
        if status != "done":
            return False
    place = str(job.workdir.relative_to(study.directory)).replace("/", "-")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(workdirs.lock(study.directory / "locks" / place, place, ""))
        except errors.UserError:
            return False
        if job.outcome()[0] in _FINAL:  # another process has just done it
            return True
        screen.print(f"{study.jobs.index(job) + 1} of {len(study.jobs)}: {job.name}", markup=False)
        start = time.monotonic()
        status, reason = _train(job)
        job.record(status, reason)
        tried.add(job.workdir)
        result = f": {reason}" if reason else reports.change(job.workdir)
        screen.print(f"    {status} after {time.monotonic() - start:.0f} s{result}", markup=False)
    gc.collect()  # the programs of a run hold much memory
    return True


def _train(job: Job) -> tuple[str, str]:
    """Trains; returns (status, reason)."""
    try:
        trainer.train(job.config, job.workdir, job.overrides)
    except errors.RunStopped as error:
        return "stopped", str(error)
    except errors.UserError as error:
        return "failed", "; ".join(error.lines)
    except (errors.Preempted, errors.StartAgain):
        raise
    except Exception as error:
        if line := exits.lack(error):
            return "failed", line
        traceback.print_exception(error)
        return "failed", f"{type(error).__name__}: {error}".splitlines()[0]
    return "done", ""


def _print(found: Mapping[str, Any], screen: Terminal) -> None:
    """Prints the sampled accuracy of each set: means, and differences to the baseline."""
    keys = dict.fromkeys(entry["key"] for entry in found["table"])
    header = ["", "seeds", "before", "after", f"minus {found['baseline']}", "p", "could see"]
    for setting in found["settings"]:
        for key in (key for key in keys if key.endswith("/accuracy_sampled")):
            title = " ".join(filter(None, [setting, key.removeprefix("eval/")]))
            table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
            for name in header:
                table.add_column(name, no_wrap=True)
            for entry in found["table"]:
                if (entry["setting"], entry["key"]) == (setting, key):
                    table.add_row(*map(escape, reports.comparison(entry)[: len(header)]))
            screen.print(table)
    for row in found["runs"]:
        if row["status"] in ("failed", "stopped"):
            screen.print(f"{row['workdir']}: {row['status']}: {row['reason']}", markup=False)
