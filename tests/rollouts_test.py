import jax
import numpy as np
import pytest

from mapo_jax.rollouts import Batch, join, split
from tests import small


@pytest.mark.parametrize(
    ("whole", "piece"),
    [((6, 4), (6, 4)), ((6, 4), (2, 4)), ((6, 4), (6, 2)), ((6, 4), (3, 2)), ((6, 4), (1, 1))],
)
def test_split_deals_every_rollout_once_with_its_prompt(whole, piece):
    (P, G), (p, g) = whole, piece
    n = P * G // (p * g)
    batch = labelled(P, G)
    pieces, weights = jax.jit(split, static_argnums=(1, 2))((batch, batch.advantages), whole, piece)
    r = pieces.rollouts
    assert r.prompt_tokens.shape == (n, p, 2)
    assert r.prompt_lengths.shape == r.example.shape == (n, p)
    assert r.tokens.shape == (n, p, g, 3)
    assert pieces.advantages.shape == weights.shape == (n, p, g)
    assert r.finished.shape == r.valid.shape == (n, p, g)
    assert r.mask.shape == r.logps.shape == (n, p, g, 3)
    assert pieces.ref_logps is None
    of_prompt = np.asarray(r.example)[..., None]
    np.testing.assert_array_equal(r.prompt_tokens, np.stack([of_prompt[..., 0]] * 2, -1))
    np.testing.assert_array_equal(r.tokens[..., 0] // 100, np.broadcast_to(of_prompt, (n, p, g)))
    np.testing.assert_array_equal(r.tokens[..., 0], pieces.advantages)
    np.testing.assert_array_equal(np.sort(np.ravel(weights)), np.ravel(batch.advantages))
    # A shard's prompts stay on it, because the k-th rows of all pieces are one contiguous range.
    np.testing.assert_array_equal(of_prompt[..., 0] // (P // p), np.broadcast_to(range(p), (n, p)))
    np.testing.assert_array_equal(join(r.tokens, whole), batch.rollouts.tokens)


def labelled(P, G):
    """Makes a batch whose values are p for prompt p and 100 p + g for its rollout g."""
    r = small.rollouts(max(P, 2), G + 1, 2, 3)
    r = jax.tree.map(lambda x: x[:P, :G] if x.shape[1:2] == (G + 1,) else x[:P], r)
    prompt, label = np.arange(P), (100 * np.arange(P)[:, None] + np.arange(G)).astype(np.float32)
    r = small.replace(
        r,
        prompt_tokens=np.stack([prompt] * 2, -1),
        example=prompt,
        tokens=np.stack([label] * 3, -1),
    )
    return Batch(r, label, r.logps, None)


def test_the_pytrees_are_jax_arrays_all_through():
    batch = labelled(2, 3)
    assert len(jax.tree.leaves(batch)) == 10
    moved = jax.jit(lambda b: jax.tree.map(lambda x: x, b))(batch)
    assert isinstance(moved, Batch)
    np.testing.assert_array_equal(moved.rollouts.tokens, batch.rollouts.tokens)
