"""Keeps compiled programs on disk between starts, and tells how long each took.

Programs are kept in ~/.cache/mapo_jax, or where JAX_COMPILATION_CACHE_DIR says. With
JAX_ENABLE_COMPILATION_CACHE=false nothing is kept.
"""

import contextlib
import hashlib
import os
import platform
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

_MOST_BYTES = 4 * 2**30  # then the programs that were used longest ago go
_LONG = 1.0  # seconds from which a compilation is told


def keep() -> None:
    """Keeps compiled programs from here on, unless the user has chosen a place or has no home."""
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    place = caches / "mapo_jax" / f"programs-{_processor()}"
    try:
        place.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return
    jax.config.update("jax_compilation_cache_dir", str(place))
    jax.config.update("jax_compilation_cache_max_size", _MOST_BYTES)


def _processor() -> str:
    """A short name for what the processor can do: machines may share a home directory."""
    about = Path("/proc/cpuinfo").read_text() if os.path.exists("/proc/cpuinfo") else ""
    flags = re.search(r"^(?:flags|Features)\s*:(.*)", about, re.MULTILINE)
    text = f"{platform.machine()} {flags[1] if flags else platform.processor()}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


_say: list[Callable[[str], None]] = []  # the last one is told
_is_heard = False
_from_disk = False  # the program of the next duration was found on disk


@contextlib.contextmanager
def told(say: Callable[[str], None]) -> Iterator[None]:
    """Context manager: `say` gets a line about each program that takes a second to compile."""
    global _is_heard
    if not _is_heard:  # JAX keeps its listeners for ever
        jax.monitoring.register_event_listener(_event)
        jax.monitoring.register_event_duration_secs_listener(_duration)
        _is_heard = True
    _say.append(say)
    try:
        yield
    finally:
        _say.pop()


def _event(event: str, **_: object) -> None:
    global _from_disk
    if event == "/jax/compilation_cache/cache_hits":
        _from_disk = True


def _duration(event: str, duration_secs: float, **about: Any) -> None:
    global _from_disk
    if event != "/jax/core/compile/backend_compile_duration":
        return
    was_kept, _from_disk = _from_disk, False
    if duration_secs >= _LONG and _say:
        name = about.get("fun_name", "").removeprefix("jit(").removesuffix(")")
        _say[-1](
            f"{'read' if was_kept else 'compiled'} the program {name} in {duration_secs:.1f} s"
        )
