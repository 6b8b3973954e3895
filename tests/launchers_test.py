"""Tests that pod launchers run what their dry run prints and pass arguments on as typed."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mapo_jax.commands import bench, cli
from mapo_jax.run import checks

LAUNCH = Path(__file__).parent.parent / "launch"
ROOT = str(LAUNCH.parent)
SETTINGS = ["--name=pod", "--project=proj", "--zone=us-east5-b"]
PLACE = ["--project=proj", "--zone=us-east5-b"]
TPU = ["gcloud", "compute", "tpus", "tpu-vm"]
HOSTILE = ["a b", "it's", '"q"', "$HOME", "`id`", "$(id)", "\\", "*", "", "~", "a\nb", "é;&|<>#!"]

# Replaces a program and writes down its arguments.
RECORDER = """#!{python}
import json, os, signal, sys, time
if sys.argv[-2:] == ["status", "--porcelain"]:
    sys.exit()  # a question; the answer is that nothing has changed
with open(os.environ["CALLS"], "a") as file:
    name = os.path.basename(sys.argv[0])
    ids = os.environ.get("JAX_LOCAL_DEVICE_IDS")
    file.write(json.dumps({{"argv": [name, *sys.argv[1:]], "ids": ids}}) + "\\n")
if "SIGNAL" in os.environ and name == "srun":
    # Of again.sh, whose parent is the batch script.
    with open(f"/proc/{{os.getppid()}}/stat") as file:
        os.kill(int(file.read().rpartition(")")[2].split()[1]), signal.SIGUSR1)
    time.sleep(1)
sys.exit(int(os.environ.get("EXIT", 0)))
"""


class Machine:
    """A PATH whose gcloud, git and SLURM only write down their arguments."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.programs = directory / "bin"
        self.programs.mkdir()
        (directory / "launch").symlink_to(LAUNCH)
        for name in ("gcloud", "git", "srun", "scancel", "scontrol"):
            self.program(self.programs / name)

    def program(self, path: Path) -> None:
        path.write_text(RECORDER.format(python=sys.executable))
        path.chmod(0o755)

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess:
        kept = {"PATH": f"{self.programs}:{os.environ['PATH']}", "TMPDIR": "/t m p"}
        return subprocess.run(
            words,
            capture_output=True,
            text=True,
            cwd=self.directory,
            env=kept | {"CALLS": str(self.directory / "calls")} | environment,
        )

    def calls(self) -> list[dict]:
        """Returns the calls since the last time it was asked."""
        path = self.directory / "calls"
        if not path.exists():
            return []
        calls = [json.loads(line) for line in path.read_text().splitlines()]
        path.unlink()
        return calls

    def steps(self) -> list[list[str]]:
        return [call["argv"] for call in self.calls()]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def tpu_pod(machine, *words, **environment):
    return machine.run("bash", str(LAUNCH / "tpu_pod.sh"), *words, **environment)


INSTALL = (
    "rm -rf mapo_jax && mkdir mapo_jax && tar -xzf mapo_jax.tar.gz -C mapo_jax && cd mapo_jax"
    " && python3 -m pip install --quiet --user --upgrade uv"
    " && python3 -m uv venv --quiet --python 3.12 venv"
    ' && python3 -m uv pip install --quiet --python venv -r requirements.txt "jax[tpu]" gcsfs'
)
RUN = (
    "cd mapo_jax && exec 9>run.lock"
    " && { flock --nonblock 9 || { echo a run is going on; exit 1; }; }"
    " && { nohup bash launch/again.sh venv/bin/python launch/run.py --distributed "
    "--config experiments/arithmetic.py --workdir gs://b/run >run.log 2>&1 </dev/null & }"
)
ARCHIVE = "/t m p/mapo_jax.tar.gz"
V6E = "v2-alpha-tpuv6e"
RSYNC = ["gcloud", "storage", "rsync"]
COMMANDS = {
    ("create", "--type=v6e-16", "--spot"): [
        [*TPU, "create", "pod", "--accelerator-type=v6e-16", f"--version={V6E}", "--spot", *PLACE]
    ],
    ("create", "--type", "v4-32", "--version", "special"): [
        [*TPU, "create", "pod", "--accelerator-type=v4-32", "--version=special", *PLACE]
    ],
    ("install",): [
        ["git", "-C", ROOT, "archive", "--format=tar.gz", f"--output={ARCHIVE}", "HEAD"],
        [*TPU, "scp", ARCHIVE, "pod:mapo_jax.tar.gz", "--worker=all", *PLACE],
        [*TPU, "ssh", "pod", "--worker=all", f"--command={INSTALL}", *PLACE],
    ],
    ("run", "--", "--config", "experiments/arithmetic.py", "--workdir", "gs://b/run"): [
        [*TPU, "ssh", "pod", "--worker=all", f"--command={RUN}", *PLACE]
    ],
    ("stop",): [
        [
            *[*TPU, "ssh", "pod", "--worker=all"],
            "--command=pkill -TERM -f '^(bash launch/again[.]sh|venv/bin/python launch/run[.]py)'",
            *PLACE,
        ]
    ],
    ("logs",): [
        [*TPU, "ssh", "pod", "--worker=0", "--command=tail -n 100 -F mapo_jax/run.log", *PLACE]
    ],
    ("fetch", "gs://b/run", "copy of it"): [
        ["mkdir", "-p", "copy of it"],
        [*RSYNC, "--recursive", "--exclude=checkpoints/.*", "gs://b/run", "copy of it"],
    ],
    ("delete",): [[*TPU, "delete", "pod", *PLACE]],
}


@pytest.mark.parametrize("words", COMMANDS)
def test_the_dry_run_prints_what_runs(machine, words):
    name, *rest = words
    dry = tpu_pod(machine, name, *SETTINGS, "--dry-run", *rest)
    assert (dry.returncode, dry.stderr) == (0, "")
    assert [shlex.split(line) for line in dry.stdout.splitlines()] == COMMANDS[words]
    assert not (machine.directory / "copy of it").exists()
    assert (
        machine.steps() == [] if name == "install" else not (machine.directory / "calls").exists()
    )

    real = tpu_pod(machine, name, *SETTINGS, *rest)
    assert real.returncode == 0
    assert machine.steps() == [step for step in COMMANDS[words] if step[0] != "mkdir"]
    assert real.stderr.splitlines() == [f"+ {line}" for line in dry.stdout.splitlines()]
    assert (machine.directory / "copy of it").exists() == (name == "fetch")


@pytest.mark.parametrize(
    ("type_", "version"),
    [
        ("v6e-8", "v2-alpha-tpuv6e"),
        ("v5p-32", "v2-alpha-tpuv5"),
        ("v5litepod-16", "v2-alpha-tpuv5-lite"),
        ("v3-8", "tpu-ubuntu2204-base"),
    ],
)
def test_the_software_follows_from_the_type(machine, type_, version):
    dry = tpu_pod(machine, "create", *SETTINGS, "--type", type_, "--dry-run")
    assert f"--version={version} " in dry.stdout


def test_settings_come_from_the_environment_too(machine):
    environment = {"TPU_NAME": "pod", "PROJECT_ID": "proj", "ZONE": "us-east5-b"}
    dry = tpu_pod(machine, "delete", "--name", "other", "--dry-run", **environment)
    assert shlex.split(dry.stdout) == [*TPU, "delete", "other", *PLACE]


def test_arguments_arrive_on_a_worker_as_they_were_typed(machine):
    """Runs the command that gcloud gets in a worker's shell, as ssh would."""
    words = ["--workdir=gs://b/run", *(f"--config.data.path={text}" for text in HOSTILE), *HOSTILE]
    assert tpu_pod(machine, "run", *SETTINGS, "--", *words).returncode == 0
    (call,) = machine.steps()
    (remote,) = [word.removeprefix("--command=") for word in call if word.startswith("--command")]
    python = machine.directory / "mapo_jax" / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    machine.program(python)
    (machine.directory / "mapo_jax" / "launch").symlink_to(LAUNCH)

    # The run holds the lock while it lives, so the run is over once the lock is free.
    lock = machine.directory / "mapo_jax" / "run.lock"
    assert machine.run("sh", "-c", remote).returncode == 0
    assert machine.run("flock", str(lock), "true").returncode == 0
    expected = ["python", "launch/run.py", "--distributed", *words]
    assert [call["argv"] for call in machine.calls()] == [expected]

    held = machine.run("flock", str(lock), "sh", "-c", remote)  # as if a run were alive
    assert (held.returncode, held.stdout) == (1, "a run is going on\n")
    assert machine.calls() == []


def test_a_failed_step_ends_the_command(machine):
    failed = tpu_pod(machine, "install", *SETTINGS, EXIT="3")
    assert failed.returncode == 3
    assert len(machine.steps()) == 1


def test_uncommitted_changes_are_pointed_out(machine):
    git = machine.programs / "git"
    git.write_text("#!/bin/sh\necho ' M file'\n")
    dry = tpu_pod(machine, "install", *SETTINGS, "--dry-run")
    assert dry.stderr == "install: the last commit is copied, without the changes after it\n"


MISSING = [
    "--name: missing; give --name NAME or set TPU_NAME",
    "--project: missing; give --project PROJECT or set PROJECT_ID",
    "--zone: missing; give --zone ZONE or set ZONE",
]
KNOWN = "create, install, run, stop, logs, fetch or delete"
FETCH = "fetch: give the work directory and where to copy it, as in gs://BUCKET/NAME DIR"
WORKDIR = "run: give -- ... --workdir gs://BUCKET/NAME (or a directory that all workers mount)"


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        ([], [f"COMMAND: missing; {KNOWN} (see --help)"]),
        (["destroy"], [f"destroy: no such command; {KNOWN}"]),
        (["create"], [*MISSING, "--type: missing; give --type TYPE or set ACCELERATOR_TYPE"]),
        (["delete", "--name"], MISSING),
        (["delete", "pod", *SETTINGS], ["pod: what is it? delete takes settings only"]),
        (
            ["create", *SETTINGS, "--type=v9-8"],
            ["--version: missing, and type v9-8 has no default here; give --version VERSION"],
        ),
        (
            ["install", *SETTINGS, "--nane=x"],
            ["--nane: no such setting; see --help (what run.py takes comes after --)"],
        ),
        (["run", *SETTINGS[1:], "--", "--config", "x"], [MISSING[0], WORKDIR]),
        (["fetch", "gs://b/run"], [FETCH]),
        (["fetch", "/nfs/run", "here"], [FETCH]),
    ],
)
def test_all_mistakes_at_once(machine, words, lines):
    result = tpu_pod(machine, *words)
    assert result.returncode == 2
    assert result.stderr.splitlines() == lines
    assert machine.calls() == []


def test_help(machine):
    result = tpu_pod(machine, "--help")
    assert result.returncode == 0
    assert "launch/tpu_pod.sh COMMAND" in result.stdout


def test_the_commands_of_the_docs(machine):
    page = (LAUNCH.parent / "docs" / "scaling.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    (submit,) = [block for block in blocks if block.startswith("sbatch")]
    (pod,) = [block for block in blocks if "tpu_pod.sh" in block]
    machine.program(machine.programs / "sbatch")
    for block in submit, pod:
        script = f"set -e; cd {shlex.quote(ROOT)}; {block}"
        assert machine.run("bash", "-c", script).returncode == 0
    script = [word for word in shlex.split(submit) if not word.startswith("--nodes")]
    assert (LAUNCH.parent / script[2]).is_file()
    assert [step[0] for step in machine.steps()] == ["sbatch"]  # the rest are dry runs


def slurm(machine, *words, **environment):
    return machine.run("bash", str(LAUNCH / "slurm.sbatch"), *words, **environment)


@pytest.mark.parametrize(
    ("environment", "ids"),
    [
        ({"SLURM_GPUS_ON_NODE": "4", "SLURM_NTASKS_PER_NODE": "1"}, "0,1,2,3"),
        ({"SLURM_GPUS_ON_NODE": "1"}, "0"),
        ({"SLURM_GPUS_ON_NODE": "4", "SLURM_NTASKS_PER_NODE": "4"}, None),  # one GPU each
        ({}, None),  # CPU nodes
    ],
)
def test_slurm_runs_the_command_on_all_gpus_of_a_node(machine, environment, ids):
    words = ["--config", "experiments/arithmetic.py", *HOSTILE]
    assert slurm(machine, *words, **environment).returncode == 0
    command = [
        "srun",
        "--kill-on-bad-exit=0",
        "--wait=0",
        "python",
        "launch/run.py",
        "--distributed",
    ]
    assert machine.calls() == [{"argv": command + words, "ids": ids}]


def test_slurm_passes_the_exit_code_on(machine):
    assert slurm(machine, EXIT="2").returncode == 2


def test_slurm_goes_back_into_the_queue_when_its_time_is_up(machine):
    slurm(machine, SIGNAL="yes", SLURM_JOB_ID="42")
    assert machine.steps()[1:] == [
        ["scancel", "--signal=TERM", "42"],
        ["scontrol", "requeue", "42"],
    ]


@pytest.mark.parametrize(
    ("type_", "accelerator"),
    [("v5litepod-64", "v5e"), ("v6e-64", "v6e"), ("v5p-128", "v5p"), ("v4-128", "v4")],
)
def test_a_slice_of_64_chips(machine, type_, accelerator):
    """A type counts chips of v5e and v6e, but cores of v4 and v5p, two a chip, as Google's do."""
    dry = tpu_pod(machine, "create", *SETTINGS, f"--type={type_}", "--dry-run")
    version = {
        "v5e": "v2-alpha-tpuv5-lite",
        "v6e": "v2-alpha-tpuv6e",
        "v5p": "v2-alpha-tpuv5",
        "v4": "tpu-ubuntu2204-base",
    }[accelerator]
    assert shlex.split(dry.stdout) == [
        *[*TPU, "create", "pod", f"--accelerator-type={type_}", f"--version={version}"],
        *PLACE,
    ]


# launch/again.sh


def again(machine, codes, **environment):
    """Runs a command that ends with the next code at each start, and repeats the last one."""
    (machine.directory / "codes").write_text("\n".join(map(str, codes)))
    (machine.directory / "command").write_text(
        "#!/usr/bin/env bash\n"
        'echo "$@" >> said\n'
        'code=$(head -n 1 codes); sed -i "1{\\$!d}" codes\n'
        'if [[ $code == TERM ]]; then kill -TERM $PPID; exit 134; fi; exit "$code"\n'
    )
    done = machine.run(
        *["bash", str(LAUNCH / "again.sh"), "bash", "command", *HOSTILE],
        **({"PAUSE": "0"} | environment),
    )
    said = (machine.directory / "said").read_text()
    return done, said.count(" ".join(HOSTILE) + "\n")


@pytest.mark.parametrize("code", [0, 2, 3, 130, 143])
def test_what_ended_by_itself_is_not_repeated(machine, code):
    done, times = again(machine, [code])
    assert (done.returncode, times, done.stderr) == (code, 1, "")


def test_what_died_is_started_again(machine):
    done, times = again(machine, [134, 137, 139, 1, 0])
    assert (done.returncode, times) == (0, 5)
    assert "ended by exit code 137; starts again in 0 s (2 of 10)" in done.stderr


def test_it_is_not_started_again_for_ever(machine):
    done, times = again(machine, [134], RESTARTS="3")
    assert (done.returncode, times) == (134, 4)


def test_it_is_not_started_again_once_it_is_told_to_end(machine):
    done, times = again(machine, ["TERM"])
    assert (done.returncode, times) == (134, 1)


def test_it_can_be_told_while_it_pauses(machine):
    """It leaves no process behind that would hold the lock of `tpu_pod.sh run`."""
    script = f"""
exec 9>lock
flock 9
bash {shlex.quote(str(LAUNCH / "again.sh"))} sh -c 'exit 134' 2>>said &
exec 9>&-
until grep -q 'starts again' said; do sleep 0.01; done
kill -TERM $!
wait $!
echo $?
flock --timeout 60 lock echo free
"""
    done = machine.run("bash", "-c", script, PAUSE="9999")
    assert done.stdout == "134\nfree\n"


def test_every_command_that_measures_a_gpu_is_accepted_and_leaves_a_file(machine):
    for name in ("python", "nvidia-smi"):
        machine.program(machine.programs / name)
    done = machine.run("bash", str(LAUNCH / "measure_gpu.sh"), "figures of a gpu", EXIT="3")
    assert done.stdout.count("ended with code 3") == 7  # the others follow on a failure
    names = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    found = [path.name for path in (machine.directory / "figures of a gpu").iterdir()]
    assert sorted(found) == sorted(f"{name}.txt" for name in names)
    (asked, *benches, run) = machine.steps()
    assert asked == ["nvidia-smi"]
    for program, path, *arguments in benches:
        assert (program, path) == ("python", "launch/bench.py")
        cli.parse(arguments, "", bench.read, lambda config, _: bench.validate(config, 1))
    assert run[:2] == ["python", "launch/run.py"]
    cli.parse(run[2:], "", check=lambda config, _: checks.validate(config, 1))
