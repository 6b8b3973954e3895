"""Low-rank adapters (LoRA, arXiv 2106.09685). An adapted matrix `q` has a pair `q_lora` beside it.

A run trains the adapters alone; `partition` separates them from the frozen base.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mapo_jax.model.config import ModelConfig
from mapo_jax.model.layers import Linear, init

Params = Any  # nested dict of arrays

SUFFIX = "_lora"  # q_lora is the adapter of q


class Lora(nn.Module):
    """x A B alpha / rank, the trained change to a frozen matrix. B is 0 at first."""

    config: ModelConfig
    axes: tuple[str, ...]  # logical names of the input axes, then of the output axes
    features: tuple[int, ...]  # sizes of the output axes

    @nn.compact
    def __call__(self, x):
        c, n_in = self.config, len(self.axes) - len(self.features)
        zeros = nn.initializers.zeros
        x = Linear((*self.axes[:n_in], None), (c.lora_rank,), init(1.0), name="a")(x)
        x = Linear((None, *self.axes[n_in:]), self.features, zeros, name="b")(x)
        return x * (c.lora_alpha / c.lora_rank)


def partition(params: Params) -> tuple[Params, Params]:
    """Splits the tree of a policy (or of its axes) into a trained and a frozen part.

    Returns the adapters and the rest. Without adapters it returns the whole tree and {}.
    """
    layers = params["layers"]
    adapters = {name: layers[name] for name in layers if name.endswith(SUFFIX)}
    if not adapters:
        return params, {}
    rest = {name: layers[name] for name in layers if name not in adapters}
    return {"layers": adapters}, {**params, "layers": rest}


def combine(trained: Params, frozen: Params | None) -> Params:
    """The inverse of `partition`."""
    if not frozen:
        return trained
    return {**frozen, "layers": {**frozen["layers"], **trained["layers"]}}


def merge_adapters(params: Params, config: ModelConfig) -> tuple[Params, ModelConfig]:
    """Returns an equal policy without adapters: weights W + A B alpha / rank, in W's dtype."""
    adapters, frozen = partition(params)
    if not frozen:
        return params, config
    layers = dict(frozen["layers"])
    for name, ab in adapters["layers"].items():
        name, kernel = name.removesuffix(SUFFIX), layers[name.removesuffix(SUFFIX)]["kernel"]
        a, b = (ab[x]["kernel"].astype(jnp.float32) for x in "ab")
        change = jnp.einsum("l...r,lrx->l...x", a, b.reshape(*b.shape[:2], -1))
        change = change.reshape(kernel.shape) * (config.lora_alpha / config.lora_rank)
        layers[name] = {**layers[name], "kernel": (kernel + change).astype(kernel.dtype)}
    return {**frozen, "layers": layers}, without_adapters(config)


def without_adapters(config: ModelConfig) -> ModelConfig:
    """The architecture of the frozen base."""
    return dataclasses.replace(config, lora_rank=0, lora_alpha=0.0, lora_targets=())
