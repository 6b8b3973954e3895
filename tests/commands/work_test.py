"""Tests the counts of work against sums written out and against the sampler itself."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapo_jax import model, sampling
from mapo_jax.commands import work
from mapo_jax.rollouts import Images, Prompts
from tests import small


def played(lengths_PG, lanes, width):
    """Plays the refill slot by slot, a step at a time."""
    (P, G), longest, found = lengths_PG.shape, 0, []
    width = min(width, G)
    slots = {(q, w): (q, w, 0) for q in range(lanes) for w in range(width)}  # prompt, rollout, age
    started, next_prompt = dict.fromkeys(range(lanes), width), lanes
    while slots:
        slots = {place: (p, g, age + 1) for place, (p, g, age) in slots.items()}
        longest = max([longest, *(age for *_, age in slots.values())])
        found.append(longest)
        for place, (p, g, age) in sorted(slots.items()):
            if age == lengths_PG[p, g]:
                del slots[place]
                if started[place[0]] < G:
                    slots[place] = (p, started[place[0]], 0)
                    started[place[0]] += 1
        for q in range(lanes):
            if not any(place[0] == q for place in slots) and next_prompt < P:
                slots |= {(q, w): (next_prompt, w, 0) for w in range(width)}
                started[q], next_prompt = width, next_prompt + 1
    return found


@given(st.data())
def test_decode_steps_are_those_of_the_refill(data):
    P, G = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    lengths = data.draw(st.lists(st.integers(1, 7), min_size=P * G, max_size=P * G))
    lengths_PG = np.asarray(lengths).reshape(P, G)
    lanes, width = data.draw(st.integers(1, P)), data.draw(st.integers(1, G))
    found = work.decode_steps(lengths_PG, lanes, width)
    assert found.tolist() == played(lengths_PG, lanes, width)


def test_the_sampler_takes_as_many_steps():
    """The sampler's callback comes once a step."""
    seen = []
    lengths_PG = np.asarray([[3, 1, 5], [2, 2, 2], [6, 1, 1]])
    settings = sampling.SamplingConfig(
        group_size=3, max_new_tokens=6, lanes=2, width=2, on_token=lambda token: seen.append(1)
    )
    config, params, prompts = small.CONFIG, small.params(), small.rollouts(3).prompts
    out = sampling.sample(
        params, config, prompts, jax.random.key(0), settings, max_new_tokens_PG=lengths_PG
    )
    np.testing.assert_array_equal(out.length, lengths_PG)
    jax.effects_barrier()
    assert len(seen) == len(work.decode_steps(lengths_PG, 2, 2))


def test_forward_is_the_sum_over_tokens():
    a = model.ModelConfig(
        vocab_size=11, num_layers=3, embed_dim=5, num_heads=4, num_kv_heads=2, head_dim=6, mlp_dim=7
    )
    prompts_P, lengths_PG = np.asarray([2, 4]), np.asarray([[3, 1], [2, 5]])
    weights = 5 * 4 * 6 + 2 * 5 * 2 * 6 + 4 * 6 * 5 + 3 * 5 * 7  # q, k and v, o, MLP
    tokens = pairs = 0
    for s, lengths in zip(prompts_P, lengths_PG, strict=True):
        tokens += s + lengths.sum()
        pairs += sum(range(1, s + 1)) + sum(s + i + 1 for t in lengths for i in range(t))
    layers, head = work.forward(a, prompts_P, lengths_PG)
    assert layers == 3 * (2 * weights * tokens + 4 * 4 * 6 * pairs)
    assert head == 2 * 5 * 11 * lengths_PG.sum()


def test_the_tower_computes_what_the_compiler_counts():
    """Each part of the tower between its early outputs has one layer, and so no loop."""
    vision = model.VisionConfig(
        num_layers=2,
        embed_dim=256,
        num_heads=2,
        mlp_dim=384,
        patch=8,
        merge=2,
        is_gated=True,
        activation="silu",
        window=4,
        full_layers=(1,),
        deepstack=(0,),
    )
    a = dataclasses.replace(small.CONFIG, embed_dim=128, vision=vision)
    N = 128

    def encode(params, prompts):
        features = model.encode_images(params, a, prompts)
        return features.embeddings, features.deep

    i32 = functools.partial(jax.ShapeDtypeStruct, dtype=np.int32)
    patches = jax.ShapeDtypeStruct((1, N, 3 * 8**2), np.uint8)
    images = Images(patches, i32((1, N)), i32((1, N, 2)), i32((1, N, 2)), i32((1, 40)))
    prompts = Prompts(i32((1, 40)), i32((1,)), images)
    compiled = jax.jit(encode).lower(model.abstract_params(a), prompts).compile()
    needed, masked = work.tower(a, np.asarray([N]))
    assert needed + masked == pytest.approx(compiled.cost_analysis()["flops"], rel=0.03)
    assert masked == 4 * 256 * N * (N - 16)
    plain = dataclasses.replace(a, vision=dataclasses.replace(vision, window=0))
    assert work.tower(plain, np.asarray([N])) == (needed + masked, 0)
    assert work.tower(small.CONFIG, np.asarray([N])) == (0, 0)


def test_bytes_of_decoding():
    a = model.ModelConfig(
        vocab_size=11, num_layers=3, embed_dim=5, num_heads=4, num_kv_heads=2, head_dim=6, mlp_dim=7
    )
    weights = 3 * (5 * 4 * 6 + 2 * 5 * 2 * 6 + 4 * 6 * 5 + 3 * 5 * 7) + 5 * 11
    token = 2 * 3 * 2 * 6  # keys and values
    steps = np.asarray([1, 2, 2, 3])
    cells = 2 + 2 + 2 + 9
    expected = 4 * weights + token * (2 * 3 * cells + 2 * 10 * 4)
    assert work.decode_bytes(a, steps, [2, 9], (2, 3), 10, 2) == 2 * expected


@pytest.mark.parametrize("kind", ["NVIDIA H100 80GB HBM3", "TPU v5 lite"])
def test_peaks_are_known(kind):
    assert work.find_chip(kind)
    assert work.find_chip("cpu") is None
