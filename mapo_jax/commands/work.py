"""Counts the operations and bytes that a step needs, and knows the peaks of accelerators.

`plan` counts with it at full lengths, `bench` at the lengths that it measured.
"""

import math
from typing import NamedTuple

import numpy as np

from mapo_jax import model

GIB = 2**30


class Chip(NamedTuple):
    """One JAX device of an accelerator."""

    flops: float  # dense bfloat16 FLOP/s
    bandwidth: float  # of its memory, bytes/s
    memory: float  # bytes


# The numbers are from Google's pages of each generation, cloud.google.com/tpu/docs/v5e and so on.
# A chip is one device; only a chip of tpu7x is two.
TPUS = {
    "v5e": Chip(197e12, 819e9, 16 * GIB),
    "v5p": Chip(459e12, 2765e9, 95 * GIB),
    "v6e": Chip(918e12, 1640e9, 32 * GIB),
    "tpu7x": Chip(2307e12 / 2, 7380e9 / 2, 96 * GIB),
}
# By `jax.Device.device_kind`. The GPUs are NVIDIA's SXM boards, from their data sheets.
_KINDS = {
    "TPU v5 lite": TPUS["v5e"],
    "TPU v5": TPUS["v5p"],
    "TPU v6 lite": TPUS["v6e"],
    "TPU7x": TPUS["tpu7x"],
    "NVIDIA A100-SXM4-80GB": Chip(312e12, 2039e9, 80 * GIB),
    "NVIDIA H100 80GB HBM3": Chip(989e12, 3350e9, 80 * GIB),
    "NVIDIA H200": Chip(989e12, 4800e9, 141 * GIB),
}


def find_chip(device_kind: str) -> Chip | None:
    """Returns the peaks of a device; None if they are not known here."""
    return _KINDS.get(device_kind)


class Flops(NamedTuple):
    """FLOPs of a forward pass; attention takes 4 N H for each pair of query and key."""

    layers: float
    head: float  # on responses alone


def _weights(a):
    """Number of weights in the matrices of all layers."""
    return a.num_layers * (
        2 * a.embed_dim * a.head_dim * (a.num_heads + a.num_kv_heads) + 3 * a.embed_dim * a.mlp_dim
    )


def forward(a: model.ModelConfig, prompts_P: np.ndarray, lengths_PG: np.ndarray) -> Flops:
    """Returns the FLOPs of computing each prompt once and its group's responses after it.

    A matrix of n weights takes 2 n FLOPs per token.

    Args:
        a: the architecture.
        prompts_P: tokens of each prompt.
        lengths_PG: tokens of each response.
    """
    s, t = prompts_P.astype(float), lengths_PG.astype(float)
    pairs = (s * (s + 1) / 2).sum() + (t * (s[:, None] + (t + 1) / 2)).sum()
    pair = 4 * a.num_layers * a.num_heads * a.head_dim
    layers = 2 * _weights(a) * (s.sum() + t.sum()) + pair * pairs
    return Flops(layers, 2 * a.embed_dim * a.vocab_size * t.sum())


class TowerFlops(NamedTuple):
    """FLOPs of a forward pass of the tower."""

    needed: float
    masked: float  # of pairs in different windows: windows are masks, and all pairs are computed


def tower(a: model.ModelConfig, patches_P: np.ndarray) -> TowerFlops:
    """Returns the FLOPs of encoding the pictures of each prompt; 0 without a tower.

    Per patch a layer takes 2 n for its matrices of n weights, and each pair of patches 4 D. A cell
    of merge x merge patches takes 2 n for the merger, and for each layer of `deepstack` again. The
    first product has one kernel for both frames. At the edge windows are smaller, and all are
    counted as full.

    Args:
        a: the architecture.
        patches_P: patches of each prompt, of one picture.
    """
    if (v := a.vision) is None:
        return TowerFlops(0.0, 0.0)
    n, D = patches_P.astype(float), v.embed_dim
    layer = 4 * D**2 + (3 if v.is_gated else 2) * D * v.mlp_dim
    cell = v.merge**2 * D
    merger = (1 + len(v.deepstack)) * cell * (cell + a.embed_dim)
    weights = 3 * v.patch**2 * D + v.num_layers * layer + merger / v.merge**2
    pairs = v.num_layers * (n**2).sum()
    windowed = v.num_layers - len(v.full_layers) if v.window else 0
    masked = windowed * (n * np.maximum(n - v.window**2, 0)).sum()
    return TowerFlops(2 * weights * n.sum() + 4 * D * (pairs - masked), 4 * D * masked)


def cached_bytes(a: model.ModelConfig, width: int) -> int:
    """Returns the bytes of one token's keys and values, `width` bytes a number."""
    return 2 * a.num_layers * a.num_kv_heads * a.head_dim * width


def decode_steps(lengths_PG: np.ndarray, lanes: int, width: int) -> np.ndarray:
    """Plays the sampler's refill; see sampling/loop.py.

    Args:
        lengths_PG: tokens of each response.
        lanes: prompts decoded at once.
        width: rollouts of a prompt decoded at once.

    Returns:
        i32[steps], the tokens of the rollout that was the longest until each step, this step's own
        token included.
    """
    P, G = lengths_PG.shape
    waiting = list(range(lanes, P))[::-1]  # prompts without a lane
    queues = [list(lengths_PG[lane])[::-1] for lane in range(lanes)]
    left = [[queue.pop() for _ in range(min(width, G))] for queue in queues]
    age = [[0] * len(slots) for slots in left]
    longest, found = 0, []
    while any(map(any, left)):
        jump = min(n for slots in left for n in slots if n)  # no slot ends before
        for slots, ages in zip(left, age, strict=True):
            for i, n in enumerate(slots):
                if n:
                    slots[i], ages[i] = n - jump, ages[i] + jump
        now = max(map(max, age))
        found += [max(longest, now - jump + 1 + i) for i in range(jump)]
        longest = max(longest, now)
        for lane, slots in enumerate(left):
            for i, n in enumerate(slots):
                if not n:
                    age[lane][i] = 0
                    if queues[lane]:
                        slots[i] = queues[lane].pop()
            if not any(slots) and waiting:
                queues[lane] = list(lengths_PG[waiting.pop()])[::-1]
                left[lane] = [queues[lane].pop() for _ in slots]
    return np.asarray(found, np.int32)


def decode_bytes(
    a: model.ModelConfig,
    steps: np.ndarray,
    rungs: list[int],
    slots: tuple[int, int],
    prompt_tokens: int,
    width: int,
) -> float:
    """Returns the bytes that decoding reads: in each step the weights and the caches.

    Args:
        a: the architecture.
        steps: from `decode_steps`.
        rungs: numbers of cells that a step may read; see sampling/loop.py.
        slots: (lanes, width).
        prompt_tokens: to which prompts are padded.
        width: bytes of a number.
    """
    weights = _weights(a) + a.embed_dim * a.vocab_size
    cells = np.asarray(rungs)[np.searchsorted(rungs, steps)].sum()
    tokens = math.prod(slots) * cells + slots[0] * prompt_tokens * len(steps)
    return float(weights) * width * len(steps) + float(tokens) * cached_bytes(a, width)
