"""The mistakes of demonstrations stand at an exact rate and are counted from 0."""

from hypothesis import given
from hypothesis import strategies as st

from mapo_jax.tasks import generated


@given(st.floats(0, 1), st.integers(0, 300))
def test_mistakes_are_numbered_one_after_another(rate, n):
    numbers = [generated.mistake_number(index, rate) for index in range(n)]
    assert [i for i in numbers if i is not None] == list(range(int(n * rate)))
