import jax
import numpy as np

from mapo_jax.rollouts import Batch, Prompts, padded_length
from tests import small


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


def test_prompts_are_padded_to_about_the_longest():
    longest = (1, 16, 17, 100, 129, 250, 1601)
    assert [padded_length(n, 2048) for n in longest] == [16, 16, 32, 112, 160, 256, 1792]
    assert padded_length(9, 12) == 12  # never beyond the limit
