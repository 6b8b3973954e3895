"""Plans a run without its hardware: `python launch/plan.py --config FILE [--topology v5e:8x8]`.

Memory per device and the cost of a step; with --topology, also what the TPU's compiler says.
"""

import os
import sys

import _cli

EXTRA = {
    "--topology NAME": "TPU slice to compile for, as in v5e:8x8, v5p:4x4x4, v6e:16x16",
    "--efficiency F": "share of the peak that a chip reaches (default: 0.4)",
}


def run(argv: list[str]) -> None:
    os.environ["JAX_PLATFORMS"] = "cpu"  # nothing is to look for an accelerator
    arguments = _cli.parse(argv, __doc__ or "", check=lambda *_: [], extra=EXTRA)
    from mapo_jax import plan  # late: a mistake in the command line need not wait for it

    share = _cli.fraction(arguments.flags, "--efficiency", 0.4)
    plan.run(arguments.config, arguments.flags.get("--topology", ""), share)


if __name__ == "__main__":
    sys.exit(_cli.main(run))
