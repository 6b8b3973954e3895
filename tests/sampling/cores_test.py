import dataclasses
import functools
import threading

import jax
import numpy as np
import pytest

from mapo_jax import sampling, sharding
from mapo_jax.sampling import SamplingConfig, cores, loop
from tests import small

P, G, T = 8, 3, 6
SETTINGS = SamplingConfig(group_size=G, max_new_tokens=T, eos_ids=(3, 11, 20, 31))
KEY = jax.random.key(5)
made = small.rollouts(P, G, 5, T)
LIMITS = np.random.default_rng(0).integers(1, T + 1, (P, G)).astype(np.int32)
GROUP_OF_8 = SamplingConfig(group_size=8, max_new_tokens=T)


def shapes(size):
    return {"w": jax.ShapeDtypeStruct((size // 4,), np.float32)}


@pytest.mark.parametrize(
    ("number", "prompts", "changes", "expected"),
    [
        (2, 8, {}, 2),  # 64 slots
        (8, 8, {}, 2),  # a part has 32 at least
        (8, 64, {}, 8),
        (1, 64, {}, 1),
        (4, 9, {}, 1),  # 72 slots; 2 does not divide 9
        (4, 18, {}, 3),  # 144 slots; 4 does not divide 18
        (8, 64, {"lanes": 8}, 2),
        (8, 64, {"lanes": 9}, 1),  # 72 slots; 2 does not divide the lanes
        (8, 64, {"width": 2}, 4),
        (8, 64, {"lanes": 3}, 1),
        (8, 64, {"on_token": print}, 1),
    ],
)
def test_parts_fill_the_cores_with_enough_slots(number, prompts, changes, expected, monkeypatch):
    monkeypatch.setattr(cores, "CORES", number)
    settings = dataclasses.replace(GROUP_OF_8, **changes)
    assert sampling.parts(shapes(1000), prompts, settings) == expected


def test_parts_are_for_small_policies_on_one_cpu(monkeypatch):
    monkeypatch.setattr(cores, "CORES", 4)
    parts = functools.partial(sampling.parts, P=64, settings=GROUP_OF_8)
    assert parts(shapes(cores.MOST_BYTES)) == 4
    assert parts(shapes(cores.MOST_BYTES + 4)) == 1
    one, many = sharding.make_mesh(devices=jax.devices()[:1]), sharding.make_mesh()
    assert parts(shapes(1000), mesh=one) == 4
    assert parts(shapes(1000), mesh=many) == 1

    class Device:
        platform = "gpu"

    monkeypatch.setattr(jax, "devices", lambda: [Device()])
    assert parts(shapes(1000)) == 1


@pytest.mark.parametrize(
    ("number", "changes"),
    [
        (2, {"lanes": 4, "width": 2}),
        *small.slow((2, {}), (4, {}), (4, {"lanes": 8, "width": 2})),
    ],
)
def test_parts_give_the_same_sample(number, changes, monkeypatch):
    settings = dataclasses.replace(SETTINGS, **changes)
    lanes = changes.get("lanes", P)
    inputs = {
        "max_new_tokens_PG": LIMITS,
        "example_P": np.arange(100, 100 + P, dtype=np.int32),
        "prompt_index_P": np.arange(P, dtype=np.int32)[::-1],
    }
    calls, program = [], loop.program

    def recorded(params, inputs, key, temperature, settings, *rest):
        rows = len(inputs[0].tokens)
        calls.append((threading.current_thread().name, rows, settings.lanes or rows))
        return program(params, inputs, key, temperature, settings, *rest)

    monkeypatch.setattr(loop, "program", recorded)
    monkeypatch.setattr(cores, "FEWEST_SLOTS", 1)

    def sample(number, **options):
        calls.clear()
        monkeypatch.setattr(cores, "CORES", number)
        arguments = (small.params(), small.CONFIG, made.prompts, KEY, settings)
        return jax.tree.map(np.asarray, sampling.sample(*arguments, **options))

    for options in (inputs, {}):
        whole = sample(1, **options)
        assert [rows for _, rows, _ in calls] == [P]
        found = sample(number, **options)
        assert [call[1:] for call in calls] == [(P // number, lanes // number)] * number
        assert len({thread for thread, *_ in calls}) > 1
        np.testing.assert_allclose(found.logps, whole.logps, atol=1e-5)
        others = (dataclasses.replace(x, logps=None) for x in (found, whole))
        jax.tree.map(np.testing.assert_array_equal, *others)
