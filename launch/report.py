"""Writes a report of one run or several: `python launch/report.py DIR [DIR ...] [--output DIR]`.

report.html, self-contained, and figures/*.png; into DIR itself, or into report/ for several.
"""

import argparse
import sys

import _cli


def run(argv: list[str]) -> None:
    parser = _cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdirs", nargs="+", metavar="DIR", help="work directory of a run")
    parser.add_argument("--output", help="where to write; default: DIR, or report/ for several")
    flags = parser.parse_args(argv)
    from mapo_jax import report  # late: draws with matplotlib, which a mistake need not wait for

    alone = flags.workdirs[0] if len(flags.workdirs) == 1 else "report"
    print(report.write(flags.workdirs, flags.output or alone))


if __name__ == "__main__":
    sys.exit(_cli.main(run))
