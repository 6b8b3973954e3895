"""Microbatches hold every token once, and little else."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapo_jax import sharding
from mapo_jax.rollouts import Experience
from mapo_jax.training import pieces
from tests import rollouts_test


@st.composite
def minibatches(draw):
    """(lengths [P, G], shards, (p, g), T)."""
    shards, per, parts, g = (draw(st.integers(1, 3)) for _ in range(4))
    P, G, T = shards * per * draw(st.integers(1, 2)), parts * g, draw(st.integers(1, 9))
    some = st.lists(st.integers(0, T), min_size=P * G, max_size=P * G)
    return np.asarray(draw(some)).reshape(P, G), shards, (shards * per, g), T


@pytest.mark.parametrize("is_packed", [True, False])
@given(minibatches())
def test_every_token_is_placed_once(is_packed, drawn):
    lengths, shards, (p, g), T = drawn
    (P, G), seen = lengths.shape, set()
    fewest, shortest = pieces._FEWEST, pieces._SHORTEST
    pieces._FEWEST, pieces._SHORTEST = 1, 2
    try:
        planned = pieces.plan(lengths, shards, (p, g), T, is_packed=is_packed)
    finally:
        pieces._FEWEST, pieces._SHORTEST = fewest, shortest
    assert len(planned) == P * G // (p * g)
    for piece in planned:
        _, R, N = piece.places.shape
        assert R <= g
        assert R * N <= g * T
        assert N < 2 * T
        assert is_packed or R == g
        shard = np.repeat(np.arange(shards), p // shards) * (P // shards)
        for i, prompt in enumerate(piece.prompts + shard):
            placed = piece.places[i].reshape(-1)
            for j, rollout in enumerate(piece.rollouts[i]):
                seen.add((prompt, rollout))
                n = lengths[prompt, rollout]
                at = piece.found[i, j, :n]
                assert (placed[at] == np.arange(j * T, j * T + n)).all()
                assert len({*(at // N)}) <= 1  # one row, in order
                assert (np.diff(at) == 1).all()
            assert (placed < g * T).sum() == lengths[prompt, piece.rollouts[i]].sum()
    assert len(seen) == P * G


def test_short_responses_share_rows():
    """Eight groups of 2 x 128 tokens, one response of 128 and seven of 18: two rows, not eight."""
    lengths = np.asarray([[128] + [18] * 7] * 8)
    (piece,) = pieces.plan(lengths, 1, (8, 8), 128, is_packed=True)
    assert piece.places.shape == (8, 2, 128)
    (piece,) = pieces.plan(np.minimum(lengths, 60), 1, (8, 8), 128, is_packed=False)
    assert piece.places.shape == (8, 8, 64)


def test_alike_groups_come_together():
    lengths = np.asarray([[128] * 8, [16] * 8] * 8)
    few, many = pieces.plan(lengths, 1, (8, 8), 128, is_packed=True)
    assert (few.places.shape[1:], many.places.shape[1:]) == ((2, 64), (8, 128))
    assert {*few.prompts} == {*range(1, 16, 2)}


def test_stragglers_leave_little_padding():
    """Geometric lengths with mean T / 4, cut at T, have 0.25 of the tokens of full lengths."""
    lengths = np.minimum(np.random.default_rng(0).geometric(1 / 32, (64, 8)), 128)
    planned = pieces.plan(lengths, 1, (8, 8), 128, is_packed=True)
    assert sum(piece.places.size for piece in planned) < 0.35 * lengths.size * 128
    assert len({piece.places.shape for piece in planned}) < 8  # programs


def test_small_microbatches_keep_one_program():
    lengths = np.asarray([[1] * 4] * 2)
    (piece,) = pieces.plan(lengths, 1, (2, 4), 16, is_packed=True)
    assert piece.places.shape == (2, 4, 16)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2)])
def test_take_and_put_back(shape):
    """Prompts come with their rollouts, per field as its metadata says, and stay on their shard."""
    n = int(np.prod(shape))
    mesh = sharding.make_mesh(*shape, devices=jax.devices()[:n])
    batch, draw = rollouts_test.labelled(8, 4), np.arange(8)
    parts = {"draw": batch.advantages}  # a name says nothing
    judged = Experience(batch.rollouts, batch.advantages, batch.rollouts.valid, parts, draw, draw)
    judged = jax.device_put(judged, sharding.by_prompt(mesh))
    lengths = np.random.default_rng(0).integers(0, 3, (8, 4))
    whole = jax.device_put(np.zeros((8, 4, 3), np.float32), sharding.by_prompt(mesh))
    shards = sharding.batch_shards(mesh)
    for piece in pieces.plan(lengths, shards, (4, 2), 3, is_packed=True):
        there = pieces.put(piece, mesh)
        part = jax.jit(lambda tree, piece: pieces.take(tree, piece, mesh))(judged, there)
        prompt = piece.prompts + np.repeat(np.arange(0, 8, 8 // shards), 4 // shards)
        r = part.rollouts
        np.testing.assert_array_equal(r.example, prompt)
        np.testing.assert_array_equal(part.draw, prompt)
        np.testing.assert_array_equal(part.baseline, prompt)
        np.testing.assert_array_equal(r.prompts.tokens, np.stack([prompt] * 2, -1))
        np.testing.assert_array_equal(r.prompts.images["sizes"], np.tile(prompt[:, None], 4))
        label = 100 * prompt[:, None] + piece.rollouts
        np.testing.assert_array_equal(part.rewards, label)
        np.testing.assert_array_equal(part.parts["draw"], label)
        np.testing.assert_array_equal(r.tokens[..., 0], label)
        back = jax.jit(lambda w, x, piece: pieces.put_back(w, x, piece, mesh))
        whole = back(whole, r.tokens.astype(np.float32), there)
    np.testing.assert_array_equal(whole, batch.rollouts.tokens)
