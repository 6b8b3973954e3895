import dataclasses
import functools
import operator
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from mapo_jax import model, sampling, sharding, training
from mapo_jax.sampling import SamplingConfig, draw, loop
from tests import small

CONFIG = small.CONFIG
P, G, S, T = 8, 3, 5, 6
EOS = (3, 11, 20, 31)
BASE = SamplingConfig(group_size=G, max_new_tokens=T, eos_ids=EOS)
FIELDS = ("tokens", "length", "trained", "finished", "valid")
KEY = jax.random.key(5)
prompts = small.rollouts(P, G, S, T).prompts
LIMITS = np.random.default_rng(0).integers(1, T + 1, (P, G)).astype(np.int32)


def sample(settings=BASE, params=None, key=KEY, rows=slice(None), **options):
    """Samples from the shared prompts; `rows` takes some of them."""
    return jax.tree.map(
        np.asarray,
        sampling.sample(
            small.params() if params is None else params,
            CONFIG,
            jax.tree.map(lambda x: x[rows], prompts),
            key,
            settings,
            **options,
        ),
    )


@functools.cache
def limited():
    """The reference of most tests: all rollouts at once, a limit of its own for each."""
    return sample(max_new_tokens_PG=LIMITS)


def assert_same(a, b, rows=slice(None)):
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name)[rows], name)
    np.testing.assert_allclose(a.logps, b.logps[rows], atol=1e-5)


# ---- what a rollout is ----


def test_shapes_and_carried_fields():
    r = sample(max_new_tokens_PG=LIMITS, example_P=np.arange(100, 100 + P))
    assert {r.tokens.shape, r.trained.shape, r.logps.shape} == {(P, G, T)}
    assert (r.tokens.dtype, r.trained.dtype, r.logps.dtype) == (np.int32, bool, np.float32)
    np.testing.assert_array_equal(r.example, np.arange(100, 100 + P))
    jax.tree.map(np.testing.assert_array_equal, r.prompts, prompts)
    assert (r.length.shape, r.length.dtype) == ((P, G), np.int32)
    np.testing.assert_array_equal(r.trained, np.arange(T) < r.length[..., None])
    np.testing.assert_array_equal(limited().example, np.arange(P))
    assert r.valid.all()


def test_ends_with_the_first_end_of_sequence_or_at_the_limit():
    r, ends, causes = limited(), set(), set()
    for p, g in np.ndindex(P, G):
        n, tokens = r.trained[p, g].sum(), r.tokens[p, g]
        assert 1 <= n <= LIMITS[p, g]
        assert r.trained[p, g, :n].all()
        assert not np.isin(tokens[: n - 1], EOS).any()
        ended = tokens[n - 1] in EOS
        assert r.finished[p, g] == ended
        assert ended or n == LIMITS[p, g]
        assert not tokens[n:].any()
        assert not r.logps[p, g, n:].any()
        assert (r.logps[p, g, :n] < 0).all()
        causes.add((bool(ended), bool(n == LIMITS[p, g])))
        ends |= {int(tokens[n - 1])} & set(EOS)
    assert len(ends) >= 2
    assert causes == {(True, False), (True, True), (False, True)}


def test_a_limit_only_cuts():
    whole = sample()
    mask = limited().trained
    np.testing.assert_array_equal(mask, whole.trained & (np.arange(T) < LIMITS[..., None]))
    np.testing.assert_array_equal(limited().tokens, np.where(mask, whole.tokens, 0))


@pytest.mark.parametrize(
    "settings",
    [BASE, SamplingConfig(G, T, temperature=0.7, top_p=0.6, top_k=9, eos_ids=EOS)],
    ids=["plain", "truncated"],
)
def test_logps_equal_the_scorers(settings):
    """Of the scaled, untruncated distribution, for ragged prompts and responses."""
    r = sample(settings, max_new_tokens_PG=LIMITS)
    score = jax.jit(training.score, static_argnums=(1, 3))
    scoring_settings = training.ScoringConfig(temperature=settings.temperature)
    logps, _ = score(small.params(), CONFIG, r, scoring_settings)
    assert len(np.unique(r.trained.sum(-1))) > 2
    np.testing.assert_allclose(r.logps, logps, atol=1e-4)
    if settings.top_p < 1:  # and what was drawn is in the sets
        logits = np.asarray(small.plain_logits(small.params(), CONFIG, r), float) / 0.7
        for row, token in zip(logits[r.trained], r.tokens[r.trained], strict=True):
            assert truncated(np.exp(row) / np.exp(row).sum(), 0.6, 9)[token] > 0


def test_greedy_takes_the_likeliest():
    r = sample(SamplingConfig(G, T, temperature=0.0, eos_ids=EOS))
    logits = np.asarray(small.plain_logits(small.params(), CONFIG, r))
    np.testing.assert_array_equal(r.tokens[r.trained], logits.argmax(-1)[r.trained])
    at_one = jax.nn.log_softmax(logits).max(-1)
    np.testing.assert_allclose(r.logps, np.where(r.trained, at_one, 0), atol=1e-4)
    np.testing.assert_array_equal(r.tokens, np.broadcast_to(r.tokens[:, :1], r.tokens.shape))


@pytest.mark.parametrize(
    "attention", ["turned", pytest.param("triton_interpreted", marks=pytest.mark.slow)]
)
def test_the_kernel_and_turned_keys_give_the_same_sample(attention):
    settings = dataclasses.replace(BASE, attention=attention, lanes=3, width=2)
    assert_same(sample(settings, max_new_tokens_PG=LIMITS), limited())


# ---- the draw is a function of (key, rollout, age) ----


def test_draws_are_keyed_by_rollout_and_age():
    """With a policy of zeros, whose logits are 0, a token is known from its key alone."""
    zeros = jax.tree.map(np.zeros_like, small.params())
    r = sample(params=zeros, max_new_tokens_PG=np.full((P, G), T, np.int32))
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    keys = jax.vmap(fold, (0, None))(fold(KEY, jnp.arange(P * G)), jnp.arange(T)).reshape(-1)
    tokens, _ = draw.draw(jnp.zeros((P * G * T, CONFIG.vocab_size)), keys, 1.0, BASE)
    np.testing.assert_array_equal(r.tokens[r.trained], tokens.reshape(P, G, T)[r.trained])
    assert len(np.unique(r.tokens[:, :, 0])) > P  # prompts and rollouts of a group differ


def test_another_key_draws_another_sample():
    other = sample(key=jax.random.key(6), max_new_tokens_PG=LIMITS)
    assert (other.tokens[..., 0] == limited().tokens[..., 0]).mean() < 0.5
    assert_same(sample(max_new_tokens_PG=LIMITS), limited())


@pytest.mark.parametrize(("lanes", "width"), [(3, 2), (1, 1), *small.slow((2, G + 5), (P + 5, 2))])
def test_refill_changes_nothing(lanes, width):
    settings = small.replace(BASE, lanes=lanes, width=width)
    assert_same(sample(settings, max_new_tokens_PG=LIMITS), limited())


@pytest.mark.slow
@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [7, 2, 5, 0]], ids=str)
def test_a_part_of_the_batch_gives_its_rollouts(rows):
    part = sample(
        rows=rows,
        max_new_tokens_PG=LIMITS[rows],
        prompt_index_P=np.array(rows, np.int32),
        example_P=np.array(rows, np.int32),
    )
    assert_same(part, limited(), rows)
    np.testing.assert_array_equal(part.example, rows)


def test_padding_rows_are_not_valid_and_disturb_nobody():
    lengths = prompts.lengths.copy()
    rows = [0, 4]
    lengths[rows] = 0
    for settings in (BASE, small.replace(BASE, lanes=3, width=2)):
        r = sampling.sample(
            small.params(),
            CONFIG,
            small.replace(prompts, lengths=lengths),
            KEY,
            settings,
            max_new_tokens_PG=LIMITS,
        )
        r = jax.tree.map(np.asarray, r)
        others = np.setdiff1d(np.arange(P), rows)
        for x in (r.valid, r.length, r.trained, r.finished, r.logps, r.tokens):
            assert not x[rows].any()
        assert (r.prompts.lengths >= 1).all()
        assert_same(jax.tree.map(operator.itemgetter(others), r), limited(), others)


@pytest.mark.slow
@pytest.mark.parametrize(("lanes", "width"), [(1, 2), *small.nightly((None, None), (2, 1))])
def test_the_cache_may_lie_in_blocks(lanes, width, monkeypatch):
    """A step reads more blocks as rollouts get older, also where new ones take their slots.

    The short ones come first, so cells of the first blocks have been written more than once then.
    """
    limits = np.minimum(np.arange(1, P + 1)[:, None] ** 2, LIMITS.max()).repeat(G, 1)
    limits = limits.astype(np.int32)
    expected = sample(max_new_tokens_PG=limits)
    monkeypatch.setattr(loop, "rungs", lambda T: [1, 3, 4, T])
    loop.program.clear_cache()
    settings = small.replace(BASE, lanes=lanes, width=width)
    assert_same(sample(settings, max_new_tokens_PG=limits), expected)
    loop.program.clear_cache()


def test_the_blocks_of_the_cache():
    assert sampling.rungs(1) == [1]
    assert sampling.rungs(64) == [64]
    assert sampling.rungs(100) == [64, 100]
    assert sampling.rungs(512) == [128, 512]
    assert sampling.rungs(2048) == [128, 512, 2048]


def test_how_many_prompts_are_encoded_at_once():
    assert sampling.prefill_size(32, 64) == 32
    assert sampling.prefill_size(32, 1496) == 4  # of 5 that have few enough tokens
    assert sampling.prefill_size(32, 1496, 6144) == 2
    assert sampling.prefill_size(3, 10_000, 20_000) == 1


@pytest.mark.slow
def test_prompts_are_encoded_some_at_a_time(monkeypatch):
    expected = limited()
    monkeypatch.setattr(loop, "PREFILL_TOKENS", 2 * prompts.tokens.shape[1])
    monkeypatch.setattr(loop, "PREFILL_CHUNK", 2)
    loop.program.clear_cache()
    assert_same(sample(max_new_tokens_PG=LIMITS), expected)
    loop.program.clear_cache()


def test_stops_with_the_last_rollout(monkeypatch):
    """The loop takes as many steps as its lanes need and no more."""
    original, steps = draw.draw, []

    def counted(*args):
        jax.debug.callback(lambda: steps.append(1))
        return original(*args)

    monkeypatch.setattr(loop, "draw", counted)
    settings = SamplingConfig(group_size=2, max_new_tokens=T, lanes=2, width=1)  # never ends
    run = jax.jit(functools.partial(loop._sample_shard, config=CONFIG, settings=settings))
    limits = np.array([[2, 1], [1, 1], [3, 1]], np.int32)
    arguments = (jax.tree.map(lambda x: x[:3], prompts), limits, np.arange(3))
    _, length, trained, *_ = run(small.params(), arguments, KEY, 1.0)
    jax.effects_barrier()
    np.testing.assert_array_equal(length, limits)
    np.testing.assert_array_equal(trained.sum(-1), limits)
    # Lane 0: 2 + 1 steps for prompt 0. Lane 1: 1 + 1 for prompt 1, then 3 + 1 for prompt 2.
    assert len(steps) == 6


# ---- the distribution ----


def truncated(probs, top_p, top_k):
    """The sorted definition: the smallest likeliest set of that mass and number, with its ties."""
    ranked = np.sort(probs)[::-1]
    by_mass = ranked[min(np.searchsorted(np.cumsum(ranked), top_p), len(probs) - 1)]
    by_rank = ranked[min(top_k or len(probs), len(probs)) - 1]
    kept = np.where(probs >= max(by_mass, by_rank), probs, 0)
    return kept / kept.sum()


def logits_of(V, ties):
    logits = np.random.default_rng(V).normal(0, 1.5, V)
    return (np.round(logits) if ties else logits).astype(np.float32)


@pytest.mark.parametrize(
    ("V", "ties", "temperature", "top_p", "top_k"),
    [
        (128, False, 0.7, 1.0, 0),
        (40, True, 1.0, 0.45, 0),
        (200, True, 1.0, 1.0, 7),
        (200, False, 1.3, 0.9, 20),
        *small.slow(
            (5, False, 1.0, 1.0, 0),
            (200, False, 1.0, 1.0, 0),
            (200, False, 1.0, 0.9, 0),
            (40, False, 1.0, 0.5, 0),
            (200, False, 1.0, 1.0, 7),
            (200, False, 1.3, 0.6, 50),
            (40, False, 1.0, 1.0, 1),
        ),
    ],
)
def test_marginals(V, ties, temperature, top_p, top_k):
    B = 10_000
    logits = logits_of(V, ties)
    settings = SamplingConfig(1, 1, temperature=temperature, top_p=top_p, top_k=top_k)
    keys = jax.random.split(jax.random.key(V + top_k), B)
    tokens, logps = jax.jit(draw.draw, static_argnums=3)(
        np.broadcast_to(logits, (B, V)), keys, *sampling.split(settings)
    )
    probs = np.exp(logits / np.float64(temperature))
    probs /= probs.sum()
    expected = B * truncated(probs, top_p, top_k)
    np.testing.assert_allclose(logps, np.log(probs)[tokens], atol=1e-4)
    counts = np.bincount(tokens, minlength=V)
    assert not counts[expected == 0].any()
    if (expected > 0).sum() == 1:
        return
    rare = expected < 5  # pooled, as the test needs
    pool = lambda x: np.append(x[~rare], x[rare].sum()) if expected[rare].sum() > 5 else x[~rare]  # noqa: E731
    counts, expected = pool(counts), pool(expected)
    expected *= counts.sum() / expected.sum()
    assert scipy.stats.chisquare(counts, expected).pvalue > 1e-4


@pytest.mark.parametrize(("top_p", "top_k"), [(1.0, 0), (0.99, 0), (1.0, 200)])
@pytest.mark.parametrize("impossible", [-np.inf, -1e30])
def test_impossible_tokens_are_never_drawn(impossible, top_p, top_k):
    B, V = 5_000, 300
    possible = np.array([1, 127, 130, 250])  # whole blocks before and behind have no mass
    logits = np.full((B, V), impossible, np.float32)
    logits[:, possible] = 0
    keys = jax.random.split(jax.random.key(0), B)
    tokens, logps = jax.jit(draw.draw, static_argnums=3)(
        logits, keys, 1.0, SamplingConfig(1, 1, top_p=top_p, top_k=top_k)
    )
    counts = np.bincount(tokens, minlength=V)
    assert counts[possible].min() > B / 5
    assert counts[possible].sum() == B
    np.testing.assert_allclose(logps, -np.log(4), atol=1e-5)


@pytest.mark.parametrize("V", [5, 128, 129, 300])
def test_invert_is_exact(V):
    """Against one cumulative sum, with masses that float32 adds up exactly and many zeros."""
    rng = np.random.default_rng(V)
    mass = rng.integers(0, 4, (60, V)) * (rng.random((60, V)) < 0.3)
    mass[:20, : V // 2] = 0
    mass[20:40, V // 2 :] = 0
    mass[np.arange(60), rng.integers(0, V // 2, 60) + V // 2 * (np.arange(60) < 20)] = 2
    total = mass.sum(-1)
    invert = jax.jit(draw._invert)
    inside = (rng.integers(0, 1 << 20, 60) % total) / total  # on the very edges between tokens
    for u in (inside, rng.random(60), np.zeros(60)):
        u = u.astype(np.float32)
        target = (u * total.astype(np.float32)).astype(np.float32)
        expected = [
            np.searchsorted(np.cumsum(m), t, "right") for m, t in zip(mass, target, strict=True)
        ]
        np.testing.assert_array_equal(invert(mass.astype(np.float32), u), expected)
    for u in (1 - 2**-24, 1 - 2**-23, 1.0):  # u * total may round to total
        index = np.asarray(invert(mass.astype(np.float32), np.full(60, u, np.float32)))
        last = V - 1 - (mass[:, ::-1] > 0).argmax(-1)
        np.testing.assert_array_equal(index, last)


# ---- on a mesh ----


def test_prompts_must_divide_by_the_shards():
    with pytest.raises(ValueError, match="6 prompts do not divide by 8 shards"):
        sample(rows=slice(6), mesh=sharding.make_mesh(8))


COLLECTIVE = re.compile(
    r" (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast|"
    r"ragged-all-to-all|send|recv)(-start|-done)?\("
)


def computations(text):
    """Name -> lines of every computation of an HLO module."""
    found, name = {}, None
    for line in text.splitlines():
        if start := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            name = start[1]
            found[name] = []
        elif name:
            found[name].append(line)
    return found


def reachable(found, name):
    """A computation's lines with those of all that it calls."""
    seen, todo = set(), [name]
    while todo:
        if (name := todo.pop()) not in seen:
            seen.add(name)
            called = " ".join(found[name])
            todo += [c for c in re.findall(r"%([\w.\-]+)", called) if c in found]
    return [line for name in seen for line in found[name]]


def groups(line, devices):
    """The device groups of a collective, whose list is written out or an iota."""
    if listed := re.search(r"replica_groups=\{(\{[\d,{}]*\})\}", line):
        return [list(map(int, g.split(","))) for g in re.findall(r"\{([\d,]+)\}", listed[1])]
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line)
    shape, dims = (tuple(map(int, iota[i].split(","))) for i in (1, 2))
    ids = np.arange(devices).reshape(dims)
    if iota[3]:
        ids = ids.transpose(tuple(map(int, iota[3].split(","))))
    return ids.reshape(shape).tolist()


@pytest.mark.parametrize("shape", [(2, 2, 2), *small.slow([(4, 2, 1)])], ids=str)
def test_mesh_gives_the_same_sample_without_collectives_in_the_loop(shape):
    """Nothing crosses data or fsdp in a decode step, its condition included."""
    mesh = sharding.make_mesh(*shape)
    params = jax.device_put(small.params(), sharding.shardings(mesh, model.logical_axes(CONFIG)))
    index = np.arange(P, dtype=np.int32)
    arrays = (prompts, LIMITS, index, index)
    arrays = jax.device_put(arrays, sharding.by_prompt(mesh))
    key = jax.device_put(KEY, sharding.replicated(mesh))
    settings = small.replace(BASE, lanes=1, width=2)
    temperature, settings = sampling.split(settings)
    lowered = loop.program.lower(params, arrays, key, temperature, settings, CONFIG, mesh)
    compiled = lowered.compile()
    found = computations(compiled.as_text())
    size = f"[{P * G // (shape[0] * shape[1])},{T}]"  # the loop carries its shard's results
    loops = [
        (re.search(r"condition=%?([\w.\-]+)", line)[1], re.search(r"body=%?([\w.\-]+)", line)[1])
        for lines in found.values()
        for line in lines
        if " while(" in line and f"s32{size}" in line and f"f32{size}" in line
    ]
    assert len(loops) == 1
    for computation in loops[0]:
        lines = reachable(found, computation)
        collectives = [line for line in lines if COLLECTIVE.search(line)]
        if shape[2] == 1:
            assert collectives == []
        for line in collectives:
            # A permute is one operation of all devices: it would wait for those that have ended.
            assert "collective-permute" not in line
            for group in groups(line, mesh.size):
                assert len({i // shape[2] for i in group}) == 1, line
    whole = [line for lines in found.values() for line in lines if COLLECTIVE.search(line)]
    assert whole  # the weights were gathered before: the pattern does find collectives
    actual = jax.tree.map(np.asarray, compiled(params, arrays, key, temperature))
    assert_same(actual, limited())


def test_a_nucleus_of_no_mass_holds_the_likeliest_token():
    logits = jax.random.normal(jax.random.key(0), (32, 50))
    keys = jax.random.split(jax.random.key(1), 32)
    tokens, _ = jax.jit(draw.draw, static_argnums=3)(
        logits, keys, 1.0, SamplingConfig(1, 1, top_p=0.0)
    )
    np.testing.assert_array_equal(tokens, logits.argmax(-1))
