import jax
import numpy as np
import pytest

from mapo_jax.rollouts import (
    Batch,
    Experience,
    Prompts,
    from_microbatches,
    to_microbatches,
)
from tests import small


@pytest.mark.parametrize(
    ("whole", "piece"),
    [((6, 4), piece) for piece in ((6, 4), (2, 4), (6, 2), (3, 2), (3, 1), (1, 1))],
)
def test_every_rollout_is_dealt_once_with_its_prompt(whole, piece):
    (P, G), (p, g) = whole, piece
    n = P * G // (p * g)
    batch = labelled(P, G)
    cut = jax.jit(to_microbatches, static_argnums=(1, 2))
    pieces, weights = cut((batch, batch.advantages), whole, piece)
    r = pieces.rollouts
    assert r.prompts.tokens.shape == r.prompts.rope.shape == (n, p, 2)
    assert r.prompts.lengths.shape == r.example.shape == (n, p)
    assert r.tokens.shape == (n, p, g, 3)
    assert pieces.advantages.shape == weights.shape == (n, p, g)
    assert r.finished.shape == r.valid.shape == r.length.shape == (n, p, g)
    assert r.trained.shape == r.logps.shape == (n, p, g, 3)
    assert pieces.ref_logps is None
    of_prompt = np.asarray(r.example)[..., None]
    prompts = jax.tree.leaves(r.prompts)
    assert len(prompts) == 5
    assert r.prompts.images["sizes"].shape == (n, p, G)  # as large as a group, and none
    for x in prompts:
        first = np.asarray(x).reshape(n, p, -1)
        np.testing.assert_array_equal(first, np.broadcast_to(of_prompt, first.shape))
    np.testing.assert_array_equal(r.tokens[..., 0] // 100, np.broadcast_to(of_prompt, (n, p, g)))
    np.testing.assert_array_equal(r.tokens[..., 0], pieces.advantages)
    np.testing.assert_array_equal(np.sort(np.ravel(weights)), np.ravel(batch.advantages))
    # A shard's prompts stay on it, because the k-th rows of all pieces are one contiguous range.
    np.testing.assert_array_equal(of_prompt[..., 0] // (P // p), np.broadcast_to(range(p), (n, p)))
    for name in ("tokens", "length", "trained", "logps", "finished", "valid"):
        joined = from_microbatches(getattr(r, name), whole)
        np.testing.assert_array_equal(joined, getattr(batch.rollouts, name), name)
    np.testing.assert_array_equal(from_microbatches(pieces.advantages, whole), batch.advantages)


def test_what_is_per_prompt_is_said_by_every_class():
    batch, draw = labelled(6, 4), np.arange(6)
    parts = {"draw": batch.advantages}  # a name says nothing
    judged = Experience(batch.rollouts, batch.advantages, batch.rollouts.valid, parts, draw, draw)
    pieces = to_microbatches(judged, (6, 4), (3, 2))
    np.testing.assert_array_equal(pieces.draw, pieces.rollouts.example)
    np.testing.assert_array_equal(pieces.baseline, pieces.rollouts.example)
    np.testing.assert_array_equal(pieces.parts["draw"], pieces.rewards)


def labelled(P, G):
    """Makes a batch whose values are p for prompt p and 100 p + g for its rollout g."""
    r = small.rollouts(max(P, 2), G + 1, 2, 3)
    r = jax.tree.map(lambda x: x[:P, :G] if x.shape[1:2] == (G + 1,) else x[:P], r)
    prompt, label = np.arange(P), (100 * np.arange(P)[:, None] + np.arange(G)).astype(np.float32)
    twice = np.stack([prompt] * 2, -1)
    images = {
        "patches": np.broadcast_to(prompt[:, None, None], (P, 3, 2)),
        "sizes": np.broadcast_to(prompt[:, None], (P, G)),
    }
    r = small.replace(
        r,
        prompts=Prompts(twice, prompt, images, twice),
        example=prompt,
        tokens=np.stack([label] * 3, -1),
    )
    return Batch(r, label, r.logps, None)


def test_the_pytrees_are_jax_arrays_all_through():
    batch = labelled(2, 3)
    assert len(jax.tree.leaves(batch)) == 14
    moved = jax.jit(lambda b: jax.tree.map(lambda x: x, b))(batch)
    assert isinstance(moved, Batch)
    np.testing.assert_array_equal(moved.rollouts.tokens, batch.rollouts.tokens)
