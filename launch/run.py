"""Trains a policy: `python launch/run.py --config experiments/NAME.py[:PRESET,...] --workdir DIR`.

The same command again continues from the newest checkpoint in DIR.
"""

import sys

import _cli


def run(argv: list[str]) -> None:
    arguments = _cli.parse(argv, __doc__ or "", processes=True)
    from mapo_jax import trainer  # late: a mistake in the command line need not wait for it

    trainer.train(arguments.config, arguments.workdir, arguments.overrides)


if __name__ == "__main__":
    sys.exit(_cli.main(run))
