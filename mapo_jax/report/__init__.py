"""The report of one or more runs: `write([workdir, ...], output)` makes report.html and figures/.

After the life of a batch: reads work directories (`runs`), judges them (`health`), draws
(`figures`) and writes one self-contained page (`page`). No JAX.
"""

from mapo_jax.report.page import write as write
