"""Gives every test 8 simulated CPU devices and one cache of compiled programs.

Rank promotion is an error in all tests.
"""

import atexit
import gc
import importlib.metadata
import os
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"
flags = [
    "--xla_force_host_platform_device_count=8",
    # This compiles 8 times faster; compiling tiny programs takes nearly all of the tests' time.
    "--xla_backend_optimization_level=0",
]
if importlib.metadata.version("jaxlib").startswith("0.10."):  # others may lack a flag and abort
    flags.append("--xla_cpu_use_fusion_emitters=false")
    flags.append("--xla_cpu_parallel_codegen_split_count=1")
    flags.append("--xla_llvm_disable_expensive_passes=true")
os.environ["XLA_FLAGS"] = " ".join([*flags, os.environ.get("XLA_FLAGS", "")])  # the user's win

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # processes of tests inherit it
    cache = tempfile.mkdtemp(prefix="mapo_jax_tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
# Those of the smallest run too; of single operations, thousands, it takes longer to write them.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_traceback_in_locations_limit", 0)  # lowers single operations faster
hypothesis.settings.register_profile("no time", deadline=None)
hypothesis.settings.load_profile("no time")
# Traced programs fill the heap with objects that live on; looking through them all takes minutes.
gc.set_threshold(100_000, 50, 1000)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """The work directory of a finished run of `runs.micro()` with its report: one for all tests."""
    from mapo_jax.commands import train
    from tests import runs

    def make(workdir):
        with runs.traced_once():
            train.run(runs.micro(), workdir, ["a=1"])

    return runs.once(tmp_path_factory, "undisturbed", make)
