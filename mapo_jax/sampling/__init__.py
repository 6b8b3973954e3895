"""Where a batch is sampled: prompts in, rollouts out, in one jitted loop on the device."""

from mapo_jax.sampling.config import SamplingConfig as SamplingConfig
from mapo_jax.sampling.loop import program as program
from mapo_jax.sampling.loop import sample as sample
