"""Where compiled programs are kept, and the lines about them."""

import jax
import pytest

from mapo_jax.run import compilation

NAMES = ("jax_compilation_cache_dir", "jax_compilation_cache_max_size")


def settings():
    return [jax.config.values[name] for name in NAMES]


@pytest.fixture(autouse=True)
def _as_a_launcher_finds_them():
    before = settings()
    jax.config.update(NAMES[0], None)
    yield
    for name, value in zip(NAMES, before, strict=True):
        jax.config.update(name, value)


def test_programs_are_kept_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compilation.keep()
    place = tmp_path / "mapo_jax" / f"programs-{compilation._processor()}"
    assert place.is_dir()
    assert settings() == [str(place), 4 * 2**30]


def test_a_place_of_the_users_own_stays():
    jax.config.update(NAMES[0], "/elsewhere")
    before = settings()
    compilation.keep()
    assert settings() == before


def test_without_a_place_nothing_is_kept(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    compilation.keep()
    assert settings()[0] is None


def test_a_long_compilation_is_told_once(monkeypatch):
    monkeypatch.setattr(compilation, "_LONG", 0.0)
    first, second = [], []
    with compilation.told(first.append), compilation.told(second.append):
        jax.jit(lambda x: x + 17)(1.5)
    jax.jit(lambda x: x + 18)(1.5)  # nobody is told
    assert first == []
    (line,) = [line for line in second if "<lambda>" in line]
    assert line.startswith(("compiled the program <lambda> in", "read the program <lambda> in"))
