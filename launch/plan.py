"""Plans a run without its hardware: `python launch/plan.py --config FILE [--topology v5e:8x8]`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # Python puts launch/ there alone

from mapo_jax.commands import exits, launchers

if __name__ == "__main__":
    sys.exit(exits.main(launchers.plan))
