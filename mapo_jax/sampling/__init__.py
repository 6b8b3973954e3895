"""Samples a batch: takes prompts and returns rollouts, in jitted loops on the device."""

from mapo_jax.sampling.config import SamplingConfig as SamplingConfig
from mapo_jax.sampling.cores import parts as parts
from mapo_jax.sampling.loop import PREFILL_CHUNK as PREFILL_CHUNK
from mapo_jax.sampling.loop import prefill_size as prefill_size
from mapo_jax.sampling.loop import program as program
from mapo_jax.sampling.loop import rungs as rungs
from mapo_jax.sampling.loop import sample as sample
from mapo_jax.sampling.loop import split as split
