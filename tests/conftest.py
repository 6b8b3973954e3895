"""What holds for every test: 8 simulated CPU devices, one cache of compiled programs, and rank
promotion is an error."""

import atexit
import importlib.metadata
import os
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"
flags = [
    "--xla_force_host_platform_device_count=8",
    # Compile 5 times faster: nearly all of the tests' time is compilation of tiny programs.
    "--xla_backend_optimization_level=0",
]
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones abort: no such flag
    flags.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([*flags, os.environ.get("XLA_FLAGS", "")])  # the last word

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # inherited by the processes that tests start
    cache = tempfile.mkdtemp(prefix="mapo_jax_tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
    atexit.register(shutil.rmtree, cache, ignore_errors=True)

import jax  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
