"""Answers a prompt: `python launch/sample.py --config FILE --workdir DIR --prompt TEXT [-n N]`.

As it is sampled, then its reward where the answer is known; --prompt may come on stdin instead.
"""

import sys

import _cli

EXTRA = {
    "--prompt TEXT": "a question of the task",
    "-n N": "completions (default: 1)",
    "--params PATH": "a Hugging Face folder, hub id or work directory to sample instead",
    "--answer TEXT": "the right answer, to judge by; default: the task's own",
    "--raw": "take the prompt as it stands: no instruction, no chat template",
}


def run(argv: list[str]) -> None:
    arguments = _cli.parse(argv, __doc__ or "", check=_cli.of_a_policy, extra=EXTRA)
    flags = arguments.flags
    n = _cli.count(flags, "-n", 1)
    prompt = flags["--prompt"] if "--prompt" in flags else sys.stdin.read().rstrip("\n")
    from mapo_jax import prompting  # late: a mistake need not wait

    prompting.run(
        arguments.config,
        arguments.workdir,
        prompt,
        params=flags.get("--params", ""),
        n=n,
        answer=flags.get("--answer"),
        is_raw="--raw" in flags,
        write=lambda text: print(text, end="", flush=True),
    )


if __name__ == "__main__":
    sys.exit(_cli.main(run))
