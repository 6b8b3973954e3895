import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mapo_jax import model, sampling, sharding, training
from mapo_jax.config import OptimizerConfig
from mapo_jax.rollouts import Batch
from mapo_jax.training import losses, make_optimizer, pieces
from mapo_jax.training import step as step_module
from tests import oracles, small
from tests.sampling.sampling_test import COLLECTIVE, computations, reachable

CONFIG = small.replace(small.CONFIG, qkv_bias=False, qk_norm=False, tie_embeddings=True)
P, G, S, T = 8, 4, 5, 6
BETA = 0.1
CLIP = {"clip_low": 0.2, "clip_high": 0.3, "clip_dual": 3.0}
KEEP = optax.trace(decay=0.0)  # an optimizer whose state is the gradient, to the last bit
SETTINGS = training.ScoringConfig(head_chunk=8)  # one step of all rows, or two of an eighth
# Each surrogate, KL and aggregation once, with and without an entropy bonus.
OBJECTIVES = {
    "clipped": {"kl": "k3", "entropy": 0.0},
    "gspo": {"kl": "k2", "entropy": 0.05},
    "cispo": {"kl": "k1", "entropy": 0.05},
}
TRIED = [("clipped", "token_mean"), ("clipped", "sequence_mean")]
TRIED += [("gspo", "sequence_mean"), ("cispo", "constant"), ("clipped", "prompt_mean")]


@functools.cache
def batch():
    """Off policy, so that tokens are clipped on every side, with a reference."""
    rng = np.random.default_rng(1)
    r = small.rollouts(P, G, S, T)
    logps = np.asarray(small.plain_logps(small.params(CONFIG), CONFIG, r))
    moved = lambda scale: np.where(r.trained, logps + scale * rng.normal(size=logps.shape), 0)  # noqa: E731
    r = small.replace(r, logps=moved(0.1).astype(np.float32))
    return Batch(
        r,
        rng.normal(size=(P, G)).astype(np.float32),
        moved(0.7).astype(np.float32),
        moved(0.3).astype(np.float32),
    )


@functools.cache
def build(
    mesh_shape=(1, 1, 1),
    microbatch=(P, G),
    aggregation="token_mean",
    minibatch_prompts=P,
    loss="clipped",
    tx=KEEP,
    dtype="float32",
    config=CONFIG,
):
    mesh = sharding.make_mesh(*mesh_shape, devices=jax.devices()[: math.prod(mesh_shape)])
    settings, loss_fn = SETTINGS, training.cross_entropy_loss
    if loss in OBJECTIVES:
        options = OBJECTIVES[loss]
        settings = small.replace(settings, entropy_gradient=options["entropy"] > 0)
        loss_fn = training.policy_loss(small.surrogate(loss, **CLIP), beta=BETA, **options)
    step = training.TrainStep(
        config,
        settings,
        loss_fn,
        tx,
        mesh,
        aggregation=aggregation,
        minibatch_prompts=minibatch_prompts,
        microbatch=microbatch,
        dtype=dtype,
    )
    return step, mesh


def fresh_state(mesh, tx=KEEP, config=CONFIG):
    state = training.init_state(small.params(config), tx)
    return jax.device_put(state, training.state_shardings(config, tx, mesh))


def gradient(batch, index=0, **options):
    """(gradient, metrics) of one step, as NumPy."""
    step, mesh = build(**options)
    on_mesh = jax.device_put(batch, sharding.by_prompt(mesh))
    state, metrics = step(fresh_state(mesh), on_mesh, jnp.int32(index))
    assert (int(state.step), int(state.skipped)) == (1, 0)
    return jax.tree.map(np.asarray, (state.opt_state.trace, metrics))


LORA = small.replace(CONFIG, lora_rank=3, lora_alpha=6.0, lora_targets=("q", "o", "down"))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1, 1), *small.nightly([(2, 2, 2)])], ids=str)
def test_adapters_have_the_gradient_of_the_weights_they_add_to(shape):
    """dL/dA = dL/dW B^T alpha / rank and dL/dB = A^T dL/dW alpha / rank, at the merged W."""
    step, mesh = build(shape, config=LORA)
    trained, frozen = model.partition(small.params(LORA))
    shardings = training.state_shardings(LORA, KEEP, mesh)
    state = jax.device_put(training.init_state(trained, KEEP), shardings)
    on_mesh = jax.device_put(batch(), sharding.by_prompt(mesh))
    state, metrics = step(state, on_mesh, jnp.int32(0), frozen)
    found = jax.tree.map(np.asarray, state.opt_state.trace)["layers"]
    assert {*found} == {"q_lora", "o_lora", "down_lora"}

    merged = jax.jit(lambda params: model.merge_adapters(params, LORA)[0])(small.params(LORA))
    plain, one = build()
    state = jax.device_put(
        training.init_state(merged, KEEP), training.state_shardings(CONFIG, KEEP, one)
    )
    state, expected = plain(state, batch(), jnp.int32(0))
    for name, n_in in (("q", 1), ("o", 2), ("down", 1)):
        weight = np.asarray(state.opt_state.trace["layers"][name]["kernel"])
        ins, outs = weight.shape[1 : 1 + n_in], weight.shape[1 + n_in :]
        weight = weight.reshape(len(weight), math.prod(ins), math.prod(outs))
        ab = {x: trained["layers"][f"{name}_lora"][x]["kernel"] for x in "ab"}
        a = ab["a"].reshape(len(weight), -1, 3)
        b = ab["b"].reshape(len(weight), 3, -1)
        lora = {
            "a": {"kernel": (2 * weight @ b.swapaxes(1, 2)).reshape(ab["a"].shape)},
            "b": {"kernel": (2 * a.swapaxes(1, 2) @ weight).reshape(ab["b"].shape)},
        }
        small.assert_trees_close(found[f"{name}_lora"], lora, 2e-5)
    np.testing.assert_allclose(
        metrics.losses["loss/total"], expected.losses["loss/total"], rtol=1e-4
    )


@functools.cache
def whole(loss="clipped", aggregation="token_mean"):
    """The reference of most tests: one device, one microbatch."""
    return gradient(batch(), loss=loss, aggregation=aggregation)


def assert_same(actual, expected):
    """Gradients to 1e-5 of each array's largest entry; losses, sums, counts and maxima."""
    small.assert_trees_close(actual[0], expected[0], 1e-5)
    a, e = actual[1], expected[1]
    assert a.means.keys() == e.means.keys()
    assert a.losses.keys() == e.losses.keys()
    for name, (total, count) in e.means.items():
        np.testing.assert_allclose(a.means[name][0], total, rtol=1e-5, atol=1e-5, err_msg=name)
        assert a.means[name][1] == count, name
    for name, value in e.losses.items():
        np.testing.assert_allclose(a.losses[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(
        a.maxima["policy/logp_gap_max"], e.maxima["policy/logp_gap_max"], rtol=1e-4
    )


# ---- the gradient is one, however it is computed ----


# `test_meshes`, `test_packed_rows` and `test_cross_entropy` split their batches too.
SPLITS = [(*TRIED[0], size) for size in ((2, G), (P, 1))]
SPLITS += small.nightly((*TRIED[0], (2, 1)), *((*tried, (2, 2)) for tried in TRIED[1:]))


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "aggregation", "microbatch"), SPLITS, ids=str)
def test_splits_into_microbatches(loss, aggregation, microbatch):
    actual = gradient(batch(), microbatch=microbatch, loss=loss, aggregation=aggregation)
    assert_same(actual, whole(loss, aggregation))


@jax.jit
def take(x, piece):
    return pieces.take(x, piece, sharding.make_mesh(devices=jax.devices()[:1]))


@pytest.mark.parametrize("surrogate", training.SURROGATES)
@pytest.mark.parametrize("aggregation", training.AGGREGATIONS)
@pytest.mark.parametrize("entropy", [0.0, 0.05])
def test_every_loss_splits(surrogate, aggregation, entropy):
    """Its gradient by log-probs and entropies, from which that of the parameters follows.

    The pieces have NaN behind the mask, which has no effect.
    """
    b, mask = batch(), batch().rollouts.trained
    options = {"beta": BETA, "kl": "k3", "entropy": entropy}
    loss_fn = training.policy_loss(small.surrogate(surrogate, **CLIP), **options)
    total = jax.jit(jax.value_and_grad(lambda x, *rest: loss_fn(*x, *rest)[0]))
    values = b.rollouts.logps, np.where(mask, -b.rollouts.logps, 0)
    args = values, b, training.AGGREGATIONS[aggregation](mask)
    value, expected = total(*args)
    junk = tuple(np.where(mask, x, np.nan) for x in values)
    planned = pieces.plan(b.rollouts.length, 1, (2, 2), T, is_packed=True)
    parts = []
    for piece in planned:
        part, actual = total(*take((junk, *args[1:]), piece))
        parts.append(part)
        for a, e in zip(actual, take(expected, piece), strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(np.sum(parts), value, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(expected[1] != 0, mask & (entropy > 0))


PACKED = [("plain", (3, 0), 2, (1, 1, 1)), ("cudnn_imitated", (3, 0), 0, (1, 1, 1))]
PACKED += small.nightly(("plain", (), 0, (2, 2, 2)), ("splash_interpreted", (), 0, (1, 1, 1)))


@pytest.mark.slow
@pytest.mark.parametrize(("attention", "windows", "chunk", "shape"), PACKED, ids=str)
def test_packed_rows(attention, windows, chunk, shape, monkeypatch):
    """Several responses share a row, and microbatches have unequal numbers of rows."""
    monkeypatch.setattr(pieces, "_FEWEST", 1)
    monkeypatch.setattr(pieces, "_SHORTEST", 3)
    config = small.replace(CONFIG, windows=windows)
    settings = small.replace(SETTINGS, attention=attention, attention_chunk=chunk)
    loss_fn = training.policy_loss(
        small.surrogate("clipped", **CLIP), beta=BETA, kl="k3", entropy=0
    )
    lengths = np.asarray([[1, 2, 2, 1], [6, 5, 4, 6]] * (P // 2), np.int32)
    b, trained = batch(), np.arange(T) < lengths[..., None]
    b = small.replace(b, rollouts=small.replace(b.rollouts, length=lengths, trained=trained))
    found = []
    for is_packed in (True, False):
        mesh = sharding.make_mesh(*shape, devices=jax.devices()[: math.prod(shape)])
        step = training.TrainStep(
            config,
            settings if is_packed else SETTINGS,
            loss_fn,
            KEEP,
            mesh,
            aggregation="token_mean",
            minibatch_prompts=P,
            microbatch=(4, G) if is_packed else (P, G),
            dtype="float32",
        )
        if not is_packed:
            monkeypatch.setattr(pieces, "_FEWEST", 1 << 20)
        state = jax.device_put(
            training.init_state(small.params(config), KEEP),
            training.state_shardings(config, KEEP, mesh),
        )
        state, metrics = step(
            state, jax.device_put(b, sharding.by_prompt(mesh)), jnp.int32(0), None
        )
        found.append(jax.tree.map(np.asarray, (state.opt_state.trace, metrics)))
        assert step.add._cache_size() == 1 + is_packed
    assert_same(*found)


@pytest.mark.slow
def test_padding():
    """More columns of prompts and responses, filled with junk."""

    def pad(x):
        if x.shape == (P, S):
            return np.pad(x, [(0, 0), (0, 3)], constant_values=7)
        if x.shape == (P, G, T):
            return np.pad(x, [(0, 0), (0, 0), (0, 2)], constant_values=0 if x.dtype == bool else 9)
        return x

    assert_same(gradient(jax.tree.map(pad, batch())), whole())


def test_order_of_groups_and_of_rollouts():
    rng = np.random.default_rng(2)
    prompts, group = rng.permutation(P), rng.permutation(G)
    shuffled = jax.tree.map(
        lambda x: x[prompts][:, group] if x.shape[:2] == (P, G) else x[prompts], batch()
    )
    assert not np.array_equal(shuffled.advantages, batch().advantages)
    assert_same(gradient(shuffled), whole())


@pytest.fixture
def compiled(capfd, _compiled={}):  # noqa: B006  # kept: several tests read the same program
    """The gradient's program on a mesh; without the partitioner's last resort, which it tells."""

    def compiled(shape, **options):
        if (key := (shape, *options.items())) not in _compiled:
            step, mesh = build(shape, **options)
            state = fresh_state(mesh, config=options.get("config", CONFIG))
            b = jax.device_put(batch(), sharding.by_prompt(mesh))
            _compiled[key] = step.lower(state, b)["gradient"].compile()
            assert "rematerialization" not in capfd.readouterr().err
        return _compiled[key]

    return compiled


MICROBATCH = {(8, 1, 1): (8, 2), (1, 8, 1): (8, 2), (1, 4, 2): (4, 2), (2, 2, 2): (8, 2)}
ON_MESHES = [((2, 2, 2), *TRIED[0])]
ON_MESHES += small.slow(((1, 8, 1), *TRIED[0]))
ON_MESHES += small.nightly(
    *(((8, 1, 1), *tried) for tried in (TRIED[0], TRIED[3])),
    *(((1, 4, 2), *tried) for tried in (TRIED[0], TRIED[2])),
)


@pytest.mark.parametrize(("shape", "loss", "aggregation"), ON_MESHES, ids=str)
def test_meshes(shape, loss, aggregation, compiled):
    options = {} if (loss, aggregation) == TRIED[0] else {"loss": loss, "aggregation": aggregation}
    program = compiled(shape, microbatch=MICROBATCH[shape], **options)
    step, mesh = build(shape, microbatch=MICROBATCH[shape], **options)
    b = jax.device_put(batch(), sharding.by_prompt(mesh))
    state, metrics = step(fresh_state(mesh), b, jnp.int32(0))
    actual = jax.tree.map(np.asarray, (state.opt_state.trace, metrics))
    assert_same(actual, whole(loss, aggregation))
    text = program.as_text()
    assert (" all-gather(" in text) == (shape[1] > 1)  # stored split, used whole
    assert " all-reduce(" in text


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_move_and_activations_do_not(dtype, compiled):
    """The compiled step gathers each weight, sums each gradient, and communicates nothing else."""
    options = {} if dtype == "float32" else {"dtype": dtype}
    text = compiled((1, 8, 1), microbatch=(8, 2), **options).as_text()
    params = small.params(CONFIG)
    weights = {x.shape for x in jax.tree.leaves(params["ends"])}
    weights |= {x.shape[1:] for x in jax.tree.leaves(params["layers"])}
    sizes = {tuple(sorted(n for n in shape if n > 1)) for shape in weights}
    moved = {kind: [] for kind in ("all-gather", "all-reduce", "reduce-scatter")}
    lines = re.findall(r"= (.*?) (all-\w+|reduce-scatter|collective-\w+)(?:-start)?\(", text)
    for shapes, kind in lines:
        for dims in re.findall(r"\w+\[([\d,]*)\]", shapes):
            moved[kind].append(tuple(sorted(int(n) for n in dims.split(",") if n not in ("", "1"))))
    gathered = set(moved["all-gather"])
    assert {shape for shape in sizes if CONFIG.embed_dim in shape} <= gathered
    # Beside weights: token numbers and masks of prompts, which a minibatch takes from all devices.
    assert not any(CONFIG.embed_dim in shape for shape in gathered - sizes)
    assert not any(CONFIG.embed_dim in shape for shape in set(moved["all-reduce"]) - sizes)
    assert "all-to-all(" not in text
    assert "collective-permute(" not in text


@pytest.mark.parametrize("tied", [True, *small.nightly([False])])
@pytest.mark.parametrize("shape", [(1, 8, 1), (2, 2, 2)], ids=str)
def test_the_head_communicates_once_for_all_of_its_pieces(shape, tied, compiled):
    """Nothing of the vocabulary's size crosses devices in the loop over the head's pieces."""
    options = {} if tied else {"config": small.replace(CONFIG, tie_embeddings=False)}
    text = compiled(shape, microbatch=(8, 2), **options).as_text()
    found = computations(text)
    bodies = re.findall(r" while\(.*body=%?([\w.\-]+)", text)
    within = {name: "\n".join(reachable(found, name)) for name in bodies}
    pieces = [a for a in bodies if f"{CONFIG.vocab_size // shape[2]}]" in within[a]]
    assert len(pieces) >= 2  # forward and backward
    of_vocabulary = re.compile(rf"\[[\d,]*\b({CONFIG.vocab_size}|{CONFIG.vocab_size // 2})\b")
    for name in pieces:
        lines = [line for line in within[name].splitlines() if COLLECTIVE.search(line)]
        wide = [line for line in lines if of_vocabulary.search(line.partition("(")[0])]
        assert wide == []
    outside = [line for line in text.splitlines() if COLLECTIVE.search(line)]
    assert any(of_vocabulary.search(line.partition("(")[0]) for line in outside)


@pytest.mark.slow
def test_minibatch_takes_its_prompts():
    """The index-th four prompts: the same as all eight of which the others are not valid."""
    for index in (0, 1):
        kept = np.zeros((P, G), bool)
        kept[4 * index : 4 * index + 4] = True
        others_out = small.replace(batch(), rollouts=small.replace(batch().rollouts, valid=kept))
        actual = gradient(batch(), index, minibatch_prompts=4, microbatch=(4, G))
        assert_same(actual, gradient(others_out))


def test_what_is_not_valid_counts_in_nothing():
    r = batch().rollouts
    valid = np.random.default_rng(3).random((P, G)) < 0.6
    out = valid[..., None]
    junk = small.replace(
        batch(),
        rollouts=small.replace(
            r,
            valid=valid,
            tokens=np.where(out, r.tokens, 1),
            logps=np.where(out, r.logps, 50).astype(np.float32),
        ),
        advantages=np.where(valid, batch().advantages, 1e6).astype(np.float32),
        old_logps=np.where(out, batch().old_logps, -1e4).astype(np.float32),
    )
    masked = small.replace(batch(), rollouts=small.replace(r, trained=r.trained & out))
    actual = gradient(junk)
    assert_same(actual, gradient(masked))
    assert actual[1].means["policy/entropy"][1] == (r.trained & out).sum()


@pytest.mark.slow
@pytest.mark.parametrize(
    "aggregation", ["token_mean", *small.nightly(["sequence_mean"], ["constant"], ["prompt_mean"])]
)
def test_tokens_that_are_not_trained_count_in_nothing(aggregation):
    """A stretch inside a response, as a tool's output would be; on policy, so that ratios are 1."""
    b, r = on_policy(), on_policy().rollouts
    hole = (np.arange(T) // 2 == 1) & (r.length[..., None] > 2)  # tokens 2 and 3, if not at the end
    trained = r.trained & ~hole
    assert 10 < (r.trained & hole).sum() < r.length.sum() / 2
    assert (np.where(trained, np.arange(T), 0).max(-1) > 3).any()  # it goes on after them
    logps = np.where(trained, r.logps, 0)
    holed = small.replace(b, rollouts=small.replace(r, trained=trained, logps=logps))
    holed = small.replace(holed, old_logps=logps)
    junk = np.where(hole, -7, logps).astype(np.float32)
    junk = small.replace(
        holed, rollouts=small.replace(holed.rollouts, logps=junk), old_logps=2 * junk - logps
    )
    actual, metrics = gradient(holed, aggregation=aggregation)
    assert_same((actual, metrics), gradient(junk, aggregation=aggregation))
    assert {int(count) for _, count in metrics.means.values()} == {trained.sum()}
    weights = {
        "token_mean": trained / trained.sum(),
        "sequence_mean": trained / trained.sum(-1, keepdims=True) / (P * G),
        "constant": trained / (T * P * G),
        "prompt_mean": trained / trained.sum((-2, -1), keepdims=True) / P,
    }[aggregation]
    weights = (weights * b.advantages[..., None]).astype(np.float32)
    small.assert_trees_close(actual, plain_gradient(small.params(CONFIG), weights), 2e-5)
    np.testing.assert_allclose(metrics.losses["loss/surrogate"], -weights.sum(), atol=1e-5)


# ---- and it is the right one ----


@pytest.mark.parametrize(
    ("loss", "aggregation"), [TRIED[0], TRIED[2], *small.slow(TRIED[1], *TRIED[3:])]
)
def test_values_equal_the_oracle(loss, aggregation):
    """Loss and metrics a token at a time, from `model.apply` on whole rows."""
    b, r = batch(), batch().rollouts
    logits = np.asarray(small.plain_logits(small.params(CONFIG), CONFIG, r), float)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    logps = np.take_along_axis(log_probs, r.tokens[..., None], -1)[..., 0]
    surrogate, kl, ratio = np.zeros((3, *r.trained.shape))
    for p, g in np.ndindex(P, G):
        kept = r.trained[p, g]
        new, old = logps[p, g, kept], b.old_logps[p, g, kept]
        ratio[p, g, kept] = np.exp((new - old).mean() if loss == "gspo" else new - old)
        clip = b.advantages[p, g], 0.2, 0.3, 3.0
        if loss == "gspo":
            surrogate[p, g, kept] = oracles.gspo(new, old, *clip)
        else:
            token = oracles.surrogate if loss == "clipped" else oracles.cispo
            surrogate[p, g, kept] = [token(*x, *clip) for x in zip(new, old, strict=True)]
        k = getattr(oracles, OBJECTIVES[loss]["kl"])
        kl[p, g, kept] = [k(*x) for x in zip(new, b.ref_logps[p, g, kept], strict=True)]
    entropy = -(np.exp(log_probs) * log_probs).sum(-1)
    gap = np.abs(logps - r.logps)[r.trained]
    rows = (P, G, T) if aggregation == "prompt_mean" else (-1, T)
    mean = lambda x: getattr(oracles, aggregation)(x.reshape(rows), r.trained.reshape(rows))  # noqa: E731
    trace, metrics = whole(loss, aggregation)
    bonus = OBJECTIVES[loss]["entropy"]
    expected = {
        "loss/surrogate": mean(surrogate),
        "loss/kl": mean(kl),
        "loss/total": mean(surrogate) + BETA * mean(kl) - bonus * mean(entropy),
    }
    expected |= {"loss/entropy": -mean(entropy)} if bonus else {}
    squares = sum((x.astype(float) ** 2).sum() for x in jax.tree.leaves(trace))
    expected["policy/grad_norm"] = squares**0.5
    assert metrics.losses.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(metrics.losses[name], value, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(metrics.losses["policy/grad_norm"], squares**0.5, rtol=1e-5)
    means = {k: total / count for k, (total, count) in metrics.means.items()}
    np.testing.assert_allclose(means["policy/ratio_mean"], ratio[r.trained].mean(), rtol=1e-4)
    np.testing.assert_allclose(means["policy/logp_gap_mean"], gap.mean(), rtol=1e-3)
    np.testing.assert_allclose(means["policy/entropy"], entropy[r.trained].mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics.maxima["policy/logp_gap_max"], gap.max(), rtol=1e-3)
    for side in ("low", "high", "dual"):
        clipped = means[f"policy/clip_fraction_{side}"]
        assert 0 < clipped < 0.5 or (loss, side, clipped) == ("cispo", "dual", 0)
    assert {int(count) for _, count in metrics.means.values()} == {r.trained.sum()}


@functools.cache
def on_policy():
    """The sampler's own rollouts and log-probs, no reference."""
    settings = sampling.SamplingConfig(G, T, eos_ids=(3, 11, 20))
    r = small.rollouts(P, G, S, T)
    r = sampling.sample(small.params(CONFIG), CONFIG, r.prompts, jax.random.key(0), settings)
    return Batch(*jax.tree.map(np.asarray, (r, batch().advantages, r.logps)), None)


@jax.jit
@jax.grad
def plain_gradient(params, weights_PGT):
    """Gradient of minus the weighted log-probs, those of `model.apply` on whole rows."""
    return -(weights_PGT * small.plain_logps(params, CONFIG, on_policy().rollouts)).sum()


def test_on_policy_it_is_reinforce():
    b = on_policy()
    actual, metrics = gradient(b)
    n = b.rollouts.trained.sum()
    weights = np.where(b.rollouts.trained, b.advantages[..., None] / n, 0).astype(np.float32)
    expected = plain_gradient(small.params(CONFIG), weights)
    small.assert_trees_close(actual, expected, 2e-5)  # the ratio is 1 to 1e-6 only
    means = {k: total / count for k, (total, count) in metrics.means.items()}
    np.testing.assert_allclose(means["policy/ratio_mean"], 1, atol=1e-4)
    np.testing.assert_allclose(metrics.maxima["policy/logp_gap_max"], 0, atol=1e-4)
    assert all(means[f"policy/clip_fraction_{side}"] == 0 for side in ("low", "high", "dual"))
    assert "loss/kl" not in metrics.losses
    np.testing.assert_allclose(metrics.losses["loss/surrogate"], -weights.sum(), atol=1e-5)
    assert metrics.losses["loss/total"] == metrics.losses["loss/surrogate"]


@pytest.mark.slow
def test_entropy_bonus():
    """Without advantages it is all there is: the entropies' gradient, from whole rows' logits."""
    b = small.replace(on_policy(), advantages=np.zeros((P, G), np.float32))
    actual, metrics = gradient(b, loss="gspo", aggregation="sequence_mean")
    r = b.rollouts
    weights = (r.trained / r.trained.sum(-1, keepdims=True) / (P * G)).astype(np.float32)

    def expected(params):
        logps = jax.nn.log_softmax(small.plain_logits(params, CONFIG, r))
        return 0.05 * (weights * (jnp.exp(logps) * logps).sum(-1)).sum()

    value, slopes = jax.jit(jax.value_and_grad(expected))(small.params(CONFIG))
    small.assert_trees_close(actual, slopes, 1e-5)
    np.testing.assert_allclose(metrics.losses["loss/total"], value, rtol=1e-5)


# One prompt, 12 rollouts, k of them right: each k of arXiv 2509.18849's certainty p = k / 12.


@functools.cache
def gradient_of_advantages():
    """grad of the policy loss at the tiny policy, a function of the advantages [1, 12]."""
    r = jax.tree.map(lambda x: x[:1], small.rollouts(2, 12, S, T))
    params = small.params(CONFIG)
    old = np.asarray(small.plain_logps(params, CONFIG, r))
    old = old + 0.3 * np.random.default_rng(5).normal(size=old.shape).astype(np.float32)
    loss_fn = training.policy_loss(
        small.surrogate("clipped", **CLIP), beta=0.0, **OBJECTIVES["clipped"]
    )

    def loss(params, advantages_PG):
        logps, entropies = training.score(params, CONFIG, r, SETTINGS)
        weights = losses.token_mean(r.trained)
        return loss_fn(logps, entropies, Batch(r, advantages_PG, old, None), weights)[0]

    return functools.partial(jax.jit(jax.grad(loss)), params)


@pytest.mark.parametrize("k", range(1, 12))
def test_mapo_scales_the_gradient_of_grpo(k):
    """By rho(p) = (1 - lambda) + lambda sqrt((1 - p) / p), eq. 7-8, lambda = 1 - 4 p (1 - p)."""
    success = np.random.default_rng(k).permutation(12)[None] < k
    mapo, grpo = (
        gradient_of_advantages()(
            small.group_advantages(name, success.astype(np.float32), success, eps=0.0)
        )
        for name in ("mapo", "grpo")
    )
    p = k / 12
    certainty = 1 - 4 * p * (1 - p)
    rho = (1 - certainty) + certainty * math.sqrt((1 - p) / p)
    small.assert_trees_close(mapo, jax.tree.map(lambda x: rho * np.asarray(x), grpo), 1e-4)
    assert gradient_of_advantages().func._cache_size() == 1


def test_cross_entropy():
    """The warm-up's gradient, with sequence-mean weights, on a split batch."""
    b = on_policy()
    actual, metrics = gradient(
        b, loss="cross_entropy", aggregation="sequence_mean", microbatch=(4, 2)
    )
    mask = b.rollouts.trained
    weights = (mask / mask.sum(-1, keepdims=True) / (P * G)).astype(np.float32)
    expected = plain_gradient(small.params(CONFIG), weights)
    small.assert_trees_close(actual, expected, 1e-5)
    value = -(weights * b.rollouts.logps).sum()
    np.testing.assert_allclose(metrics.losses["loss/total"], value, rtol=1e-5)


def distance(actual, expected):
    """The norm of the difference of two gradients by the norm of the second."""
    assert {x.dtype for x in jax.tree.leaves(actual)} == {np.dtype("float32")}
    a, e = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (actual, expected))
    return np.linalg.norm(a - e) / np.linalg.norm(e)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "least", "most"),
    [("bfloat16", 1e-3, 0.1), *small.nightly(("float16", 1e-4, 0.01))],
)
def test_16_bits_compute_near_float32(dtype, least, most):
    (actual, metrics), (single, expected) = (
        gradient(on_policy(), dtype=x) for x in (dtype, "float32")
    )
    assert least < distance(actual, single) < most
    for name, value in expected.losses.items():  # the scale of the loss is not in them
        np.testing.assert_allclose(metrics.losses[name], value, rtol=0.1, atol=1e-3, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("light", [1e-9, *small.nightly([1.0])])
def test_float16_holds_the_gradient_of_light_tokens(light, monkeypatch):
    """As in a minibatch of millions of tokens, each of which weighs less than float16's least."""
    single, _ = gradient(on_policy())
    monkeypatch.setitem(losses.AGGREGATIONS, "light", lambda mask: light * losses.token_mean(mask))
    actual, _ = gradient(on_policy(), dtype="float16", aggregation="light", microbatch=(2, G))
    assert distance(jax.tree.map(lambda x: x / np.float32(light), actual), single) < 0.01
    build.cache_clear()  # of this `light`


def test_the_scale_of_the_loss_is_a_power_of_two():
    for largest in (0.75, 0.5, 1 / 3, 1e-6, 2.0**-30):
        weights = jnp.asarray([0, largest / 7, largest], jnp.float32)
        scale = float(step_module._loss_scale(weights, "float16"))
        assert math.frexp(scale)[0] == 0.5
        assert step_module._WEIGHT / 2 <= scale * largest < step_module._WEIGHT
        assert step_module._loss_scale(weights, "bfloat16") == 1
    assert np.isfinite(step_module._loss_scale(jnp.zeros(3), "float16"))


@pytest.mark.slow
def test_what_float16_cannot_hold_is_skipped():
    huge = small.replace(on_policy(), advantages=np.full((P, G), 1e6, np.float32))
    step, mesh = build(dtype="float16")
    state, metrics = step(fresh_state(mesh), huge, jnp.int32(0))
    assert (int(state.step), int(state.skipped)) == (1, 1)
    assert np.isfinite(metrics.losses["loss/total"])
    assert not np.isfinite(metrics.losses["policy/grad_norm"])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))


# ---- the step ----

ADAM = make_optimizer(OptimizerConfig(1e-2, None, 2, "constant", 0.9, 0.99, 1e-8, 0.01, 1.0))


def test_compiles_once_donates_keeps_layouts_and_learns():
    step, mesh = build((2, 2, 2), tx=ADAM)
    shardings = training.state_shardings(CONFIG, ADAM, mesh)
    state, b = fresh_state(mesh, ADAM), jax.device_put(batch(), sharding.by_prompt(mesh))
    totals = []
    for _ in range(3):
        old = state
        state, metrics = step(state, b, jnp.int32(0))
        totals.append(float(metrics.losses["loss/total"]))
        assert all(x.is_deleted() for x in jax.tree.leaves((old.params, old.opt_state)))
    assert [f._cache_size() for f in (step.begin, step.add, step.finish)] == [1, 1, 1]
    assert int(state.step) == 3
    assert totals[2] < totals[1] < totals[0]
    for x, s in zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True):
        assert x.sharding.is_equivalent_to(s, x.ndim)
    adam = state.opt_state[1][0]
    for moment in (adam.mu, adam.nu):
        for m, p in zip(jax.tree.leaves(moment), jax.tree.leaves(state.params), strict=True):
            assert m.sharding == p.sharding


def test_nothing_moves_where_something_is_not_finite():
    step, mesh = build()
    good = jax.device_put(batch(), sharding.by_prompt(mesh))
    state, _ = step(fresh_state(mesh), good, jnp.int32(0))
    before = jax.tree.map(np.array, state)
    skipped = 0
    for bad in (np.nan, np.inf):
        advantages = batch().advantages.copy()
        advantages[3, 1] = bad
        advantages = jax.device_put(advantages, sharding.by_prompt(mesh))
        state, metrics = step(state, small.replace(good, advantages=advantages), jnp.int32(0))
        skipped += 1
        assert not np.isfinite(metrics.losses["loss/total"])
        assert (int(state.step), int(state.skipped)) == (1 + skipped, skipped)
        assert int(state.in_a_row) == skipped
        for part in ("params", "opt_state"):
            for a, e in zip(
                *(jax.tree.leaves(getattr(s, part)) for s in (state, before)), strict=True
            ):
                np.testing.assert_array_equal(a, e)
    state, metrics = step(state, good, jnp.int32(0))
    assert (int(state.step), int(state.skipped), int(state.in_a_row)) == (4, 2, 0)
    assert np.isfinite(metrics.losses["loss/total"])
    kernel = lambda s: s.params["layers"]["up"]["kernel"]  # noqa: E731
    assert np.isfinite(kernel(state)).all()
    assert not np.array_equal(kernel(state), kernel(before))


@pytest.mark.parametrize(("shape", "microbatch"), [((1, 1, 1), (2, 2)), ((2, 2, 2), (4, G))])
def test_make_score_equals_score(shape, microbatch):
    mesh = sharding.make_mesh(*shape, devices=jax.devices()[: math.prod(shape)])
    score = training.Score(CONFIG, SETTINGS, mesh, microbatch=microbatch, dtype="float32")
    params = fresh_state(mesh).params
    r = batch().rollouts
    actual = score(params, jax.device_put(r, sharding.by_prompt(mesh)))
    expected = small.plain_logps(small.params(CONFIG), CONFIG, r)
    np.testing.assert_allclose(actual, np.where(r.trained, expected, 0), atol=2e-5)


def test_metrics_merge():
    one = training.Metrics({"l": jnp.float32(1)}, {"m": (2.0, 3.0)}, {"x": jnp.float32(4)})
    two = training.Metrics({"l": jnp.float32(5)}, {"m": (6.0, 7.0)}, {"x": jnp.float32(-8)})
    both = one.merge(two)
    assert (both.losses, both.means, both.maxima) == ({"l": 6}, {"m": (8, 10)}, {"x": 4})


def test_everything_is_tested():
    assert training.AGGREGATIONS.keys() == {aggregation for _, aggregation in TRIED}
    assert {loss for loss, _ in TRIED} == OBJECTIVES.keys() == training.SURROGATES.keys()
    assert training.KLS.keys() == {options["kl"] for options in OBJECTIVES.values()}
