"""Writes a report of one run or several: `python launch/report.py DIR [DIR ...] [--output DIR]`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # Python puts launch/ there alone

from mapo_jax.commands import exits, launchers

if __name__ == "__main__":
    sys.exit(exits.main(launchers.report))
