"""Runs every command of README.md, CONTRIBUTING.md and docs/*.md: `python .ci/commands.py`.

It runs in a scratch copy of the tree, in the order of the pages; beside the README and what follows
from it run the pages that are ALONE. Each distinct line runs once, and each ```bash block is one
script. A ```python block whose first line is `# file.py` is written to that file. Lines that match
SKIPPED are not run, and lines that match SHORTENED get more arguments; both are printed. With
`--whole` the README's first run is not shortened. Nothing follows on a failure.
"""

import concurrent.futures
import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

SKIPPED_PAGES = {"docs/own.md": "tests/docs_own_test.py runs this page, with a short warm-up"}
SKIPPED = {  # regular expression of a whole line: reason
    r"pip install .*": "needs the network; .ci/run has installed what the commands need",
    r"pip freeze .*": "writes down the versions of the environment it runs in",
    r"mapo .*": ".ci/package runs it, installed",
    r"python -m pytest.*": ".ci/run runs the tests before this",
    r"ruff .*|pyrefly .*": ".ci/run runs the linters before this",
    r"\.ci/run": "it is what runs this",
    r"git .*": "the scratch copy has no history",
    r"python -m mapo_jax\.pretrained\.gguf .*": "large; tests/pretrained/gguf_test.py does it",
    r"pip download .*": "large",
    r"docker .*": "needs Docker and the network; tests/package_test.py reads the Dockerfile",
    r"python launch/plan\.py .*--topology.*": "needs libtpu, 700 MB",
}
PICTURE = r"python launch/run\.py --config experiments/arithmetic\.py"  # of the README
SHORTENED = {  # regular expression of a whole line: arguments that are appended to it
    PICTURE: (
        "--config.warmup.steps=60 --config.steps=4 --config.eval.every=2 "
        "--config.checkpoint.every=2 --config.log.rollouts_every=2"
    ),
    r"python launch/run\.py --config experiments/diagrams\.py": (
        "--config.warmup.steps=20 --config.steps=1 --config.eval.problems=64 --config.eval.batch=64"
    ),
    r"python launch/study\.py .*": (
        "--config.warmup.steps=10 --config.steps=2 --config.eval.problems=32 --config.eval.batch=32"
    ),
    r"python launch/bench\.py .*:small": (
        "--config.bench.repetitions=1 --config.rollout.max_new_tokens=32"
    ),
    r"python launch/run\.py .*--workdir runs/reproduce/.*": (
        "--config.warmup.steps=5 --config.steps=2 --config.eval.problems=64 --config.eval.batch=64"
    ),
}
# Pages that read nothing which commands of other pages write.
ALONE = ("docs/method.md", "docs/recipes.md", "docs/reproduce.md", "docs/scaling.md")
STUBS = ("sbatch", "srun", "gcloud")  # these only print their arguments


def pages() -> list[str]:
    """The pages, in the order in which a reader follows them."""
    docs = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))
    return ["README.md", *docs, "CONTRIBUTING.md"]


def blocks(page: str) -> list[tuple[str, str]]:
    """Returns (language, text) of the page's blocks."""
    return BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


def lines(script: str) -> list[str]:
    """Returns the commands of a block; a line that ends in a backslash goes on in the next."""
    joined = re.sub(r"\\\n\s*", "", script).splitlines()
    return [line for line in joined if line.strip() and not line.startswith("#")]


def skipped(line: str) -> str | None:
    """Returns the reason why a line is not run, if there is one."""
    return next((why for shape, why in SKIPPED.items() if re.fullmatch(shape, line)), None)


def added(line: str) -> str:
    """Returns the arguments that are appended to a line."""
    shapes = SHORTENED.keys() - ({PICTURE} if "--whole" in sys.argv else set())
    return "".join(f" {SHORTENED[shape]}" for shape in shapes if re.fullmatch(shape, line))


def copy_tree(scratch: Path) -> None:
    """Copies the files that git knows or would add and commits them: tpu_pod.sh sends a commit."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():  # not deleted since the last commit
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, scratch / name)
    person = ["-c", "user.name=ci", "-c", "user.email=ci@localhost", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "-A"], [*person, "commit", "-qm", "copy"]):
        subprocess.run(["git", *command], cwd=scratch, check=True)


def make_stand_ins(scratch: Path, programs: Path) -> None:
    """Makes DIR, tokenizer.model, python and the stubs, which the pages name."""
    import sentencepiece

    rows = []
    for i in range(2, 18):
        question = f"Tom has {i} boxes of {i + 3} pens. How many pens is that?"
        answer = f"There are {i} * {i + 3} = {i * (i + 3)} pens.\n#### {i * (i + 3)}"
        rows.append(json.dumps({"question": question, "answer": answer}) + "\n")
    (scratch / "DIR").mkdir()
    svamp = {"Body": "Tom has 3 pens", "Question": "How many pens does Tom have?", "Answer": 3.0}
    (scratch / "DIR" / "svamp.json").write_text(json.dumps([svamp]), encoding="utf-8")
    multiarith = {"input": "Tom has 3 pens. How many pens does Tom have?", "target": 3}
    (scratch / "DIR" / "multiarith.jsonl").write_text(json.dumps(multiarith), encoding="utf-8")
    make_policy(scratch / "models" / "SmolLM2-135M-Instruct")
    for name in ("train.jsonl", "test.jsonl"):
        (scratch / "DIR" / name).write_text("".join(rows), encoding="utf-8")
    text = "First think inside <think> </think>, then put the final answer in \\boxed{}."
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text, *rows]),
        model_prefix=str(scratch / "tokenizer"),
        model_type="bpe",
        vocab_size=150,
        minloglevel=2,
    )
    stubs = {name: f'echo "{name} $*"' for name in STUBS}
    stubs["python"] = f'exec {shlex.quote(sys.executable)} "$@"'  # a link finds no packages
    for name, body in stubs.items():
        (programs / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        (programs / name).chmod(0o755)


def make_policy(folder: Path) -> None:
    """Makes a tiny Hugging Face folder in place of a real policy, with bytes as tokens."""
    import jax
    import tokenizers as huggingface

    sys.path.insert(0, str(ROOT))
    from mapo_jax import model, pretrained
    from mapo_jax.text import HuggingFaceTokenizer

    alphabet = sorted(huggingface.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<start>", "<end>", *alphabet])}
    made = huggingface.Tokenizer(huggingface.models.BPE(vocabulary, []))
    made.pre_tokenizer = huggingface.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = huggingface.decoders.ByteLevel()
    made.add_special_tokens(["<start>", "<end>"])
    config = {"eos_token": "<end>", "chat_template": "<start>{{ messages[0].content }}<end>"}
    files = {"tokenizer.json": made.to_str(), "tokenizer_config.json": json.dumps(config)}
    tokenizer = HuggingFaceTokenizer({k: v.encode() for k, v in files.items()})
    policy = model.ModelConfig(
        vocab_size=len(vocabulary),
        num_layers=2,
        embed_dim=32,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        mlp_dim=64,
    )
    params = model.init_params(jax.random.key(0), policy)
    pretrained.save(folder, policy, params, tokenizer)


@dataclasses.dataclass
class Page:
    """What is done for a page."""

    name: str
    files: dict[str, str]  # that it names in its ```python blocks, and their text
    scripts: list[tuple[str, list[str]]]  # what is printed, and the lines that are run


def plan() -> list[Page]:
    """Returns all pages; a line is run on the first page that has it."""
    seen: set[str] = set()
    planned = []
    for name in pages():
        if name in SKIPPED_PAGES:
            planned.append(Page(name, {}, [(f"   skipped: {SKIPPED_PAGES[name]}\n", [])]))
            continue
        page = Page(name, {}, [])
        for kind, text in blocks(name):
            named = re.match(r"# (\w+\.py)\n", text)
            if kind == "python" and named:
                page.files[named[1]] = text
            if kind != "bash":
                continue
            said, kept = "", []
            for line in lines(text):
                why = "run above" if line in seen else skipped(line)
                if why and line != "wait":
                    said += f"-  {line}\n   skipped: {why}\n"
                    continue
                seen.add(line)
                kept.append(line + added(line))
                said += f"$  {kept[-1]}\n"
            page.scripts.append((said, kept))
        planned.append(page)
    return planned


def run(page: Page, scratch: Path, environment: dict[str, str]) -> bool:
    """Runs a page and prints what each script said; returns whether all went well."""
    for name, text in page.files.items():
        (scratch / name).write_text(text, encoding="utf-8")
    if page.name == "docs/healthy.md":
        shutil.copytree(scratch / "runs/arithmetic", scratch / "runs/other")
    for words, kept in page.scripts:
        if not kept:
            print(f"== {page.name}\n{words}", end="", flush=True)
            continue
        start = time.monotonic()
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join(kept)],
            cwd=scratch,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        took = f"   {time.monotonic() - start:.1f} s\n"
        print(f"== {page.name}\n{words}{done.stdout}{took}", end="", flush=True)
        if done.returncode:
            print(f"{page.name}: exit code {done.returncode} of\n" + "\n".join(kept), flush=True)
            return False
    return True


def main() -> int:
    """Runs all commands and returns an exit code."""
    environment = {**os.environ, "TERM": "dumb"}
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # many runs are of one size
    with tempfile.TemporaryDirectory() as programs, tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        copy_tree(scratch)
        make_stand_ins(scratch, Path(programs))
        environment["PATH"] = f"{programs}:{os.environ['PATH']}"
        planned = plan()
        # Short runs of many sizes mostly compile; without optimization that is 8 times faster.
        quick = {**environment, "XLA_FLAGS": "--xla_backend_optimization_level=0"}
        lanes = [
            ([page for page in planned if page.name in ALONE], quick),
            ([page for page in planned if page.name not in ALONE], environment),
        ]
        with concurrent.futures.ThreadPoolExecutor(len(lanes)) as pool:
            running = [
                pool.submit(lambda lane, env: all(run(p, scratch, env) for p in lane), lane, env)
                for lane, env in lanes
            ]
            return 0 if all(lane.result() for lane in running) else 1


if __name__ == "__main__":
    sys.exit(main())
