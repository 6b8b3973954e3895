"""Measures sampling, scoring, update and the whole step: `python launch/bench.py --config FILE`.

Presets are after a colon, as in `experiments/bench.py:small`. A table, then JSON on the last line.
"""

import sys

import _cli


def run(argv: list[str]) -> None:
    from mapo_jax import bench  # after _cli, which puts the root on the path

    config = _cli.parse(argv, __doc__ or "", bench.from_config_dict, bench.validate).config
    bench.report(config, bench.measure(config))


if __name__ == "__main__":
    sys.exit(_cli.main(run))
