"""Lets one of several processes find and join the others."""

import sys
import threading
from collections.abc import Callable
from typing import Any

from mapo_jax import errors

BY_HAND = ("--coordinator", "--num-processes", "--process-id")


def joining(flags: dict[str, str], lines: list[str]) -> Callable[[Any], None]:
    """Returns a function that joins the other processes; without such flags it does nothing."""
    given = [name for name in BY_HAND if name in flags]
    if "--distributed" in flags and given:
        lines.append(f"--distributed: finds the processes by itself; leave out {', '.join(given)}")
    elif given and len(given) < len(BY_HAND):
        missing = [name for name in BY_HAND if name not in flags]
        lines.append(f"{given[0]}={flags[given[0]]}: needs {' and '.join(missing)} as well")
    elif given:
        coordinator, number, index = (flags[name] for name in BY_HAND)
        return _by_hand(coordinator, number, index, lines)
    elif "--distributed" in flags:
        return _by_cluster
    return lambda config: None


def _by_hand(coordinator: str, number: str, index: str, lines: list[str]) -> Callable[[Any], None]:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        lines.append(f"--coordinator={coordinator}: must be HOST:PORT, as in localhost:9876")
    if not number.isdecimal() or int(number) < 1:
        lines.append(f"--num-processes={number}: must be an integer >= 1")
    elif not index.isdecimal() or int(index) >= int(number):
        lines.append(f"--process-id={index}: must be from 0 to {int(number) - 1}")

    return lambda config: _join(coordinator, int(number), int(index), config)


def _by_cluster(config: Any) -> None:
    try:
        _join(None, None, None, config)
    except ValueError:
        raise errors.UserError(
            "--distributed: neither a TPU pod nor a SLURM job was found here; start each process "
            "with --coordinator HOST:PORT --num-processes N --process-id I"
        ) from None


def _join(coordinator: str | None, number: int | None, index: int | None, config: Any) -> None:
    """Waits for the other processes; None takes the value from the cluster."""
    import jax

    most = config.processes.start
    text = f"still waits for the other processes, {most} s at most (processes.start)\n"
    patience = threading.Timer(10, sys.stderr.write, [text])
    patience.daemon = True
    patience.start()
    try:
        jax.distributed.initialize(
            coordinator,
            number,
            index,
            initialization_timeout=most,
            heartbeat_timeout_seconds=config.processes.heartbeat,
            shutdown_timeout_seconds=config.processes.shutdown,
        )
    finally:
        patience.cancel()
