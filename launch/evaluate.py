"""Evaluates a policy: `python launch/evaluate.py --config experiments/NAME.py --workdir DIR`.

The newest checkpoint in DIR, or --params, on the evaluation sets of the config: a table, every
response with its verdict in DIR/evaluation/, and DIR/evaluation.json. The same command goes on with
an evaluation that was stopped.
"""

import sys

import _cli

EXTRA = {"--params PATH": "a Hugging Face folder, hub id or work directory to evaluate instead"}


def run(argv: list[str]) -> None:
    arguments = _cli.parse(argv, __doc__ or "", check=_cli.of_a_policy, extra=EXTRA)
    from mapo_jax import evaluate  # late: a mistake in the command line need not wait for it

    evaluate.run(arguments.config, arguments.workdir, arguments.flags.get("--params", ""))


if __name__ == "__main__":
    sys.exit(_cli.main(run))
