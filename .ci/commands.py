"""Runs every command of README.md, CONTRIBUTING.md and docs/*.md: `python .ci/commands.py`.

It runs in a scratch copy of the tree, in the order of the pages. Each distinct line runs once, and
each ```bash block is one script. A ```python block whose first line is `# file.py` is written to
that file. Lines that match SKIPPED are not run, and lines that match SHORTENED get more arguments;
both are printed. It stops at the first failure.
"""

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
    r"python launch/plan\.py .*--topology.*": "needs libtpu, 700 MB",
}
SHORTENED = {  # regular expression of a whole line: arguments that are appended to it
    r"python launch/run\.py .*--workdir runs/reproduce/.*": (
        "--config.warmup.steps=5 --config.steps=2 --config.eval.problems=64 --config.eval.batch=64"
    ),
}
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
    return "".join(f" {more}" for shape, more in SHORTENED.items() if re.fullmatch(shape, line))


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


def main() -> int:
    """Runs all commands and returns an exit code."""
    environment = {**os.environ, "TERM": "dumb"}
    seen: set[str] = set()
    with tempfile.TemporaryDirectory() as programs, tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        copy_tree(scratch)
        make_stand_ins(scratch, Path(programs))
        environment["PATH"] = f"{programs}:{os.environ['PATH']}"
        for page in pages():
            print(f"== {page}", flush=True)
            if page in SKIPPED_PAGES:
                print(f"   skipped: {SKIPPED_PAGES[page]}")
                continue
            found = blocks(page)
            for kind, text in found:
                named = re.match(r"# (\w+\.py)\n", text)
                if kind == "python" and named:
                    (scratch / named[1]).write_text(text, encoding="utf-8")
            for script in (text for kind, text in found if kind == "bash"):
                if page == "docs/healthy.md" and not (scratch / "runs/other").exists():
                    shutil.copytree(scratch / "runs/arithmetic", scratch / "runs/other")
                kept = []
                for line in lines(script):
                    why = "run above" if line in seen else skipped(line)
                    if why and line != "wait":
                        print(f"-  {line}\n   skipped: {why}")
                        continue
                    seen.add(line)
                    kept.append(line + added(line))
                    print(f"$  {kept[-1]}", flush=True)
                if not kept:
                    continue
                start = time.monotonic()
                command = ["bash", "-euo", "pipefail", "-c", "\n".join(kept)]
                code = subprocess.run(
                    command, cwd=scratch, env=environment, stdin=subprocess.DEVNULL
                ).returncode
                print(f"   {time.monotonic() - start:.1f} s", flush=True)
                if code:
                    print(f"{page}: exit code {code} of\n" + "\n".join(kept), file=sys.stderr)
                    return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
