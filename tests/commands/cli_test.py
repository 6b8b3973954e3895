"""Tests that each typo and bad file on the command line gives one line, code 2, no traceback."""

import errno
import subprocess
import sys
import threading
import types

import jax
import pytest

from experiments import gsm8k
from mapo_jax import errors
from mapo_jax.commands import cli, exits, launchers
from tests.runs import ROOT

TINY = ["--config", "experiments/arithmetic.py:tiny"]
TINY += ["--config.task.options.train_size=9", "--config.task.options.eval_size=9"]  # quick to make


@pytest.fixture(autouse=True)
def _in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def mistakes(capsys, monkeypatch, *argv: str) -> list[str]:
    """Returns the lines on stderr of a command that must end with 2."""
    monkeypatch.setattr(sys, "argv", ["launch/run.py", *argv])
    assert exits.main(launchers.run) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err.splitlines()


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("--config.bach.prompts=8", "bach.prompts=8: no such key; did you mean batch.prompts?"),
        ("--config.group=4", "group=4: no such key; did you mean batch.group?"),
        ("--config.xyz=4", "xyz=4: no such key"),
        ("--config.steps=many", "steps=many: expected an integer, as in 8"),
        ("--config.steps=2.5", "steps=2.5: expected an integer, as in 8"),
        ("--config.algorithm.beta=x", "algorithm.beta=x: expected a number, as in 0.5 or 1e-6"),
        (
            "--config.optimizer.vision_learning_rate=x",
            "optimizer.vision_learning_rate=x: expected a number, as in 0.5 or 1e-6",
        ),
        ("--config.log.tensorboard=yes", "log.tensorboard=yes: expected True or False"),
        (
            "--config.batch.microbatch=8",
            "batch.microbatch=8: expected 2 numbers like its default, as in 8,4",
        ),
        (
            "--config.batch.microbatch=8,x",
            "batch.microbatch=8,x: expected 2 numbers like its default, as in 8,4",
        ),
        ("--config.mesh=2", "mesh=2: is a group; set one of mesh.data, mesh.fsdp, mesh.tensor"),
        (
            "--config.task.options=2",
            "task.options=2: set one of its keys, as in --config.task.options.KEY=VALUE",
        ),
        ("--config.seed", "--config.seed: a value is missing; give --config.seed=VALUE"),
        ("--workdri=x", "--workdri=x: no such argument; did you mean --workdir?; see --help"),
        ("extra", "extra: no such argument; see --help"),
        (
            "--workdir=s3://bucket/run",
            "--workdir=s3://bucket/run: must be a local directory or gs://BUCKET/...",
        ),
        ("--config.batch.epochs=0", "batch.epochs=0: must be >= 1"),
    ],
)
def test_typo_is_one_line(capsys, monkeypatch, argument, line):
    assert mistakes(capsys, monkeypatch, *TINY, argument) == [line]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def get_config(presets:\n", "line 1 raises SyntaxError"),
        ("import nonexistent_module\n", "line 1 raises ModuleNotFoundError"),
        ("x = 1\n", "has no get_config(presets)"),
        ("def get_config(presets):\n    return missing\n", "line 2 raises NameError"),
        ("def get_config(presets):\n    return {}\n", "returned dict, not a ConfigDict"),
        (
            "from experiments import common\n\n\ndef get_config(presets):\n"
            "    config = common.get_config().lock()\n    config.bach.prompts = 3\n",
            "line 6 raises AttributeError",
        ),
    ],
)
def test_bad_config_file_is_one_line(capsys, monkeypatch, tmp_path, text, says):
    file = tmp_path / "mine.py"
    file.write_text(text, encoding="utf-8")
    (line,) = mistakes(capsys, monkeypatch, "--config", str(file))
    assert line.startswith(f"--config={file}: ")
    assert says in line


def test_missing_config(capsys, monkeypatch):
    assert mistakes(capsys, monkeypatch, "--config=experiments/arithmetc.py") == [
        "--config=experiments/arithmetc.py: no such file; did you mean experiments/arithmetic.py?"
    ]
    assert mistakes(capsys, monkeypatch) == [
        "--config: missing; give an experiment, as in --config arithmetic"
    ]


def test_an_experiment_that_ships_is_found_by_its_name_from_anywhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    arguments = cli.parse(["--config", "arithmetic:tiny", *TINY[2:]], "")
    assert arguments.config.steps == 4
    assert str(arguments.workdir) == "runs/arithmetic-tiny"
    # The path is the same as in a clone, so a work directory may move from one to the other.
    assert arguments.config.tokenizer.path == "mapo_jax/tasks/arithmetic.model"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("arithmetc", "did you mean arithmetic?"),
        ("arithmetic.py", "did you mean arithmetic?"),
        ("experiments/arithmetic.py", "did you mean arithmetic?"),  # the path in a clone
        (
            "mine.py",
            "experiments that ship: arithmetic, bench, countdown, diagrams, emoset, "
            "geometry3k, gsm8k, jsonl",
        ),
    ],
)
def test_missing_config_outside_of_a_clone(capsys, monkeypatch, tmp_path, name, hint):
    monkeypatch.chdir(tmp_path)
    assert mistakes(capsys, monkeypatch, f"--config={name}:tiny") == [
        f"--config={name}: no such file; {hint}"
    ]


def test_a_mistake_names_the_experiment_as_it_was_typed(capsys, monkeypatch):
    (line,) = mistakes(capsys, monkeypatch, "--config=gsm8k:tny")
    assert line.startswith("--config=gsm8k:tny: no preset tny; did you mean tiny?; presets: ")


def test_unknown_preset_names_those_there_are(capsys, monkeypatch):
    """A config without its preset is not the one that was meant, so it is not checked further."""
    argv = ["--config=experiments/gsm8k.py:tny", "--config.sed=1"]
    preset, key = mistakes(capsys, monkeypatch, *argv)
    start = "--config=experiments/gsm8k.py:tny: no preset tny; did you mean tiny?; presets: "
    assert preset == start + ", ".join(gsm8k.PRESETS)
    assert key == "sed=1: no such key; did you mean seed?"


def test_all_mistakes_together(capsys, monkeypatch):
    lines = mistakes(
        capsys,
        monkeypatch,
        *TINY,
        "--wrkdir",
        "x",
        "--config.bach.prompts=8",
        "--config.steps=x",
        "--config.eval.every=0",
        "--config.tokenizer.path=missing.model",
    )
    assert [line.partition(":")[0] for line in lines] == [
        "--wrkdir",
        "bach.prompts=8",
        "steps=x",
        "eval.every=0",
        "tokenizer.path=missing.model",
    ]


def test_mistakes_of_the_command_and_of_the_file_together(capsys, monkeypatch, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from experiments import common\n\n\ndef get_config(presets):\n"
        "    config = common.get_config()\n    config.bach = 3\n    return config\n",
        encoding="utf-8",
    )
    assert mistakes(capsys, monkeypatch, f"--config={file}", "--config.sed=1") == [
        "sed=1: no such key; did you mean seed?",
        "bach: no such key; did you mean batch?",
    ]


def test_gsm8k_says_what_is_missing_and_the_ways_out(capsys, monkeypatch, tmp_path):
    argv = [
        "--config=experiments/gsm8k.py",
        "--config.tokenizer.path=mapo_jax/tasks/arithmetic.model",
        f"--config.data.path={tmp_path}",
    ]
    data, init = mistakes(capsys, monkeypatch, *argv)
    assert data.startswith(f"data.path={tmp_path}: ")
    assert init.startswith("policy.init=Qwen/Qwen2.5-0.5B-Instruct: no such folder, and the hub")
    assert "give a folder" in init


def test_settings_take_the_type_of_their_default():
    arguments = cli.parse(
        [
            *TINY,
            "--config.steps=7",
            "--config.algorithm.beta",
            "1",
            "--config.optimizer.learning_rate=3e-4",
            "--config.log.tensorboard=false",
            "--config.batch.microbatch=(8,2)",
            "--config.mesh.data",
            "-1",
            "--config.task.options.levels=2,3",
            "--config.algorithm.advantage_options.ddof=1",
        ],
        "",
    )
    config = arguments.config
    assert config.steps == 7
    assert config.algorithm.beta == 1.0
    assert config.optimizer.learning_rate == 3e-4
    assert config.log.tensorboard is False
    assert config.batch.microbatch == (8, 2)
    assert ("levels", (2, 3)) in config.task.options
    assert config.algorithm.advantage_options == (("ddof", 1),)
    assert "batch.microbatch=(8,2)" in arguments.overrides
    assert "algorithm.beta=1" in arguments.overrides


def test_of_a_key_that_is_given_twice_the_last_counts():
    arguments = cli.parse([*TINY, "--config.steps=3", "--config.seed=1", "--config.steps=7"], "")
    assert arguments.config.steps == 7
    assert [x for x in arguments.overrides if x[:2] in ("st", "se")] == ["steps=7", "seed=1"]


def test_workdir_follows_the_experiment():
    """The name has no time stamp, so the same command continues the same run."""
    assert str(cli.parse(TINY, "").workdir) == "runs/arithmetic-tiny"
    assert str(cli.parse([*TINY, "--workdir", "here"], "").workdir) == "here"
    assert str(cli.parse([*TINY, "--workdir=gs://b/run"], "").workdir) == "gs://b/run"


@pytest.mark.parametrize("flag", ["--workdir", "--params", "--output"])
def test_an_unset_variable_is_no_directory(flag):
    extra = {"--params PATH": "", "--output DIR": "", "--answer TEXT": ""}
    for words in ([f"{flag}="], [flag, ""]):
        with pytest.raises(errors.UserError, match=f"^{flag}: a value is missing"):
            cli.parse([*TINY, *words], "", extra=extra)
    assert cli.parse([*TINY, "--answer="], "", extra=extra).flags == {"--answer": ""}


def test_a_flag_may_be_given_several_times():
    argv = [*TINY, "--image=a", "--answer=1", "--image", "b c"]
    arguments = cli.parse(argv, "", extra={"--image FILE": "", "--answer TEXT": "", "-n N": ""})
    assert arguments.several == {"--image": ["a", "b c"], "--answer": ["1"]}
    assert arguments.flags == {"--image": "b c", "--answer": "1"}


def test_the_home_directory_is_found_behind_an_equals_sign(monkeypatch):
    """The shell expands ~ at the beginning of a word only."""
    monkeypatch.setenv("HOME", "/home/me")
    extra = {"--params PATH": "", "--prompt TEXT": ""}
    argv = ["--workdir=~/x", "--params=~", "--prompt=~/x", "--config.eval.sets=svamp=~/svamp.json"]
    with pytest.raises(errors.UserError, match=r"svamp=/home/me/svamp\.json|/home/me/svamp\.json:"):
        cli.parse([*TINY, *argv], "", extra=extra)
    arguments = cli.parse([*TINY, *argv[:-1]], "", extra=extra)
    assert str(arguments.workdir) == "/home/me/x"
    assert arguments.flags == {"--params": "/home/me", "--prompt": "~/x"}
    text = "--config.tokenizer.template=a~/b"
    assert cli.parse([*TINY, text], "", check=lambda *_: []).config.tokenizer.template == "a~/b"


def test_exit_codes(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x"])

    class JaxRuntimeError(Exception):
        pass

    def raises(error):
        def fn(argv):
            raise error

        return exits.main(fn), capsys.readouterr().err

    assert exits.main(lambda argv: None) == 0
    assert raises(errors.UserError("a=1: no", "b=2: no")) == (2, "a=1: no\nb=2: no\n")
    assert raises(errors.RunStopped("loss is nan")) == (3, "loss is nan\n")
    assert raises(errors.Preempted("SIGTERM: saved")) == (143, "SIGTERM: saved\n")
    assert raises(KeyboardInterrupt())[0] == 130
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # a full disk changes it
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    assert raises(OSError(28, "No space left on device")) == (
        2,
        "--workdir: its disk is full; free some or choose another one\n",
    )
    code, text = raises(JaxRuntimeError("RESOURCE_EXHAUSTED: 9 GiB\nmore"))
    assert (code, len(text.splitlines())) == (2, 1)
    assert "batch.microbatch" in text
    with pytest.raises(ZeroDivisionError):
        raises(ZeroDivisionError())
    with pytest.raises(FileNotFoundError):
        raises(FileNotFoundError(2, "x"))


def test_what_threads_of_a_failed_save_say_is_passed_over():
    shown = []
    for text in ("Event loop is closed", "something else"):
        found = types.SimpleNamespace(exc_value=RuntimeError(text))
        exits._unraisable(found, shown.append)
    assert shown == [found]


def test_help_lists_presets(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["launch/run.py", "--help", *TINY])
    assert exits.main(launchers.run) == 0
    out = capsys.readouterr().out
    assert "--workdir DIR" in out
    assert ":tiny" in out
    assert "python launch/run.py --config EXPERIMENT" in out


def mapo(capsys, monkeypatch, *argv: str) -> tuple[int, str, str]:
    """Returns exit code, stdout and stderr of the installed program."""
    monkeypatch.setattr(sys, "argv", ["/usr/bin/mapo", *argv])
    code = launchers.mapo()
    return (code, *capsys.readouterr())


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("export --workdir x --output y", ("--workdir", "--output", "--checkpoint", "--push")),
        ("report x", ("--output",)),
        ("run --config arithmetic:tiny", ("--workdir", "--coordinator", "--process-id")),
        ("evaluate --config arithmetic:tiny", ("--workdir", "--params", "--checkpoint")),
        ("sample --config arithmetic:tiny", ("--workdir", "--params", "--checkpoint", "-n")),
        ("plan --config arithmetic:tiny", ("--workdir", "--topology", "--efficiency")),
        ("bench --config bench:small", ("--workdir",)),
    ],
)
def test_an_empty_flag_is_one_line(capsys, monkeypatch, command, flags):
    """As a variable of the shell leaves it that is not set."""
    empty = [f"{flag}=" for flag in flags]
    code, out, err = mapo(capsys, monkeypatch, *command.split(), *empty)
    assert (code, out) == (2, "")
    assert err.splitlines() == [f"{flag}: a value is missing; give {flag}=VALUE" for flag in flags]


def test_an_empty_work_directory_of_a_report_is_not_the_current_one(capsys, monkeypatch):
    for words in ([""], ["x", ""]):
        code, _, err = mapo(capsys, monkeypatch, "report", *words)
        assert (code, err) == (2, "a DIR is empty; see --help\n")


def test_exports_and_reports_go_home_too(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for words in (("export", "--workdir=~/x", "--output=y"), ("report", "~/x")):
        code, out, err = mapo(capsys, monkeypatch, *words)
        assert (code, out) == (2, "")
        assert f"{tmp_path}/x" in err


def test_mapo_lists_its_commands(capsys, monkeypatch):
    code, out, err = mapo(capsys, monkeypatch, "--help")
    assert (code, err) == (0, "")
    assert mapo(capsys, monkeypatch) == (0, out, "")
    listed = out.splitlines()[: len(launchers.COMMANDS)]
    for name, line in zip(launchers.COMMANDS, listed, strict=True):
        assert f"`mapo {name} " in line


@pytest.mark.parametrize("name", launchers.COMMANDS)
def test_every_command_says_more(capsys, monkeypatch, name):
    try:
        code, out, err = mapo(capsys, monkeypatch, name, "--help")
    except SystemExit as end:  # raised by argparse
        code, (out, err) = end.code, capsys.readouterr()
    assert (code, err) == (0, "")
    assert f"`mapo {name} " in out
    assert "launch/" not in out


def test_mapo_runs_a_command(capsys, monkeypatch):
    argv = ["run", *TINY, "--config.bach.prompts=8"]
    line = "bach.prompts=8: no such key; did you mean batch.prompts?\n"
    assert mapo(capsys, monkeypatch, *argv) == (2, "", line)


def test_from_another_process(tmp_path):
    """The real command ends with 2, prints only the lines to stderr and writes no file."""
    done = subprocess.run(
        [
            sys.executable,
            "launch/run.py",
            *TINY,
            "--config.bach.prompts=8",
            "--config.eval.every=0",
            f"--workdir={tmp_path / 'run'}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "bach.prompts=8: no such key; did you mean batch.prompts?",
        "eval.every=0: must be >= 1",
    ]
    assert not (tmp_path / "run").exists()


HAND = ["--coordinator=localhost:1234", "--num-processes=2", "--process-id=1"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--distributed", HAND[0]],
            "--distributed: finds the processes by itself; leave out --coordinator",
        ),
        (
            [HAND[0]],
            "--coordinator=localhost:1234: needs --num-processes and --process-id as well",
        ),
        (
            ["--coordinator=localhost", *HAND[1:]],
            "--coordinator=localhost: must be HOST:PORT, as in localhost:9876",
        ),
        ([HAND[0], "--num-processes=0", HAND[2]], "--num-processes=0: must be an integer >= 1"),
        ([*HAND[:2], "--process-id=2"], "--process-id=2: must be from 0 to 1"),
        ([*HAND[:2], "--process-id=x"], "--process-id=x: must be from 0 to 1"),
    ],
)
def test_processes_by_hand_are_checked_before_they_meet(capsys, monkeypatch, arguments, line):
    assert mistakes(capsys, monkeypatch, *TINY, *arguments) == [line]


def test_distributed_outside_of_a_cluster(capsys, monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", _no_cluster)
    (line,) = mistakes(capsys, monkeypatch, *TINY, "--distributed")
    assert line.startswith("--distributed: neither a TPU pod nor a SLURM job was found here")


def _no_cluster(*_, **__):
    raise ValueError("coordinator_address should be defined.")


def test_processes_join_before_devices_are_counted(monkeypatch):
    joined = []
    monkeypatch.setattr(
        jax.distributed, "initialize", lambda *flags, **waits: joined.append((flags, waits))
    )
    settings = [f"--config.processes.{name}" for name in ("start=5", "heartbeat=7", "shutdown=9")]
    waits = {"initialization_timeout": 5}
    waits |= {"heartbeat_timeout_seconds": 7, "shutdown_timeout_seconds": 9}
    cli.parse([*TINY, *HAND, *settings], "", several=True)
    assert joined == [(("localhost:1234", 2, 1), waits)]
    cli.parse([*TINY, "--distributed", *settings], "", several=True)
    assert joined[1:] == [((None, None, None), waits)]


def test_other_launchers_are_one_process(capsys, monkeypatch):
    with pytest.raises(errors.UserError, match=r"--distributed: no such argument"):
        cli.parse([*TINY, "--distributed"], "")


def test_one_of_several_processes_leaves_the_others_at_once(capsys, monkeypatch):
    """Its exit does not wait for them; the code is 134 after a broken connection, 1 for a bug."""
    monkeypatch.setattr(sys, "argv", ["x"])
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    left = []

    def leave(code):
        left.append(code)
        raise SystemExit

    monkeypatch.setattr(exits.os, "_exit", leave)
    for error in (
        RuntimeError("Gloo AllGather failed: Connection reset by peer"),
        ValueError("b"),
        errors.UserError("only here"),
        errors.StartAgain("checkpoint 2 is damaged"),
        OSError(errno.ENOSPC, "No space left on device"),
    ):

        def fn(argv, error=error):
            raise error

        with pytest.raises(SystemExit):
            exits.main(fn)
    assert left == [134, 1, 2, 134, 2]

    def everywhere(argv):
        raise errors.UserError("a mistake of all", everywhere=True)

    assert exits.main(everywhere) == 2
    said = capsys.readouterr().err
    assert said.count("another process is gone, or far behind; start the same command on all") == 1
    assert "ValueError: b" in said
