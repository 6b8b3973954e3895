"""What tests of measured advantages share."""

import pytest

from mapo_jax.advantages import diagnostics
from tests import small


@pytest.fixture
def compiled(monkeypatch):
    """Takes one program for each advantage and size: by operation there are many more."""
    monkeypatch.setattr(diagnostics, "group_advantages", small.group_advantages)
