"""Reports on one or more runs: `write([workdir, ...], output)` makes report.html and figures/.

This room comes after the life of a batch. It reads work directories (`runs`), judges them
(`health`), draws (`figures`) and writes one self-contained page (`page`). No JAX.
"""

from mapo_jax.report.page import write as write
