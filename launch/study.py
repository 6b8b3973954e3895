"""Compares methods over seeds: `python launch/study.py --config ... --methods A,B --seeds 0,1`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # Python puts launch/ there alone

from mapo_jax.commands import exits, launchers

if __name__ == "__main__":
    sys.exit(exits.main(launchers.study))
