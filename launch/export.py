"""Writes a run's policy for others: `python launch/export.py --workdir DIR --output DIR2`.

The newest checkpoint, adapters merged, as a Hugging Face folder that transformers and vLLM load:
config.json, model.safetensors, generation_config.json and the tokenizer's files.
"""

import argparse
import sys

import _cli


def run(argv: list[str]) -> None:
    parser = _cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, metavar="DIR", help="work directory of a run")
    parser.add_argument("--output", required=True, metavar="DIR", help="where to; new or empty")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    flags = parser.parse_args(argv)
    from mapo_jax import policy  # late: imports jax, which a mistake need not wait for

    print(policy.export(flags.workdir, flags.output, flags.dtype))


if __name__ == "__main__":
    sys.exit(_cli.main(run))
