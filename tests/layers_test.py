"""Tests which room may import which, and which packages and names stay in one room.

A room is a folder of `mapo_jax/`, or one of the single files beside them. Host rooms run without
JAX. The tests read the source; only host rooms are imported.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

BASE = ("errors", "loading", "config", "masked", "rollouts", "sharding", "workers")
HOST = ("text", "images", "answers", "rewards", "tasks")  # each may import the ones before it
BELOW_RUN = (*BASE, "model", "advantages", *HOST, "sampling", "training", "pretrained")
MAY_IMPORT = {
    **{name: {"errors"} for name in BASE},
    "model": {*BASE, "images"},
    "advantages": {*BASE},
    **{room: {"errors", "loading", "workers", *HOST[:i]} for i, room in enumerate(HOST)},
    "sampling": {*BASE, "model"},
    "training": {*BASE, "model", "advantages"},
    "pretrained": {*BASE, "model", "text", "images"},
    "run": {*BELOW_RUN},
    "report": {"errors"},
    "commands": {*BELOW_RUN, "run", "report"},
    "launch": {"commands"},
    "experiments": set(),
}
AT_HOME = {  # a package, and the only places that import it
    "flax": ("mapo_jax/model/",),
    "optax": ("mapo_jax/training/",),
    "orbax": ("mapo_jax/run/checkpoints.py",),
    "matplotlib": ("mapo_jax/report/",),
    "PIL": ("mapo_jax/images/", "mapo_jax/report/"),
}
MOST_LINES = 450


def sources() -> list[Path]:
    found = [ROOT.glob("mapo_jax/**/*.py"), ROOT.glob("launch/*.py"), ROOT.glob("experiments/*.py")]
    return sorted(path.relative_to(ROOT) for paths in found for path in paths)


def room(path: Path) -> str:
    """Returns the room, as tasks for mapo_jax/tasks/math.py, errors for mapo_jax/errors.py.

    For launch/run.py it is launch.
    """
    first, *rest = path.with_suffix("").parts
    return rest[0] if first == "mapo_jax" else first


def imports(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yields (module, name, bound name) of each import of a file, at its top and inside."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((a.name, "", a.asname or a.name) for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from ((node.module or "", a.name, a.asname or a.name) for a in node.names)


def imported_file(module: str, name: str) -> Path | None:
    """Returns the file that an import of this project runs; None for another package."""
    for dotted in (f"{module}.{name}", module):
        path = Path(*dotted.split("."))
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if (ROOT / file).is_file():
                return file
    return None


def wrong_imports() -> Iterator[str]:
    for path in sources():
        for module, name, _ in imports(path):
            package, to = module.split(".")[0], imported_file(module, name)
            if package in AT_HOME and not path.as_posix().startswith(AT_HOME[package]):
                yield f"{path} imports {package}"
            if package == "jax" and room(path) in HOST:
                yield f"{path} imports jax"
            if to is None or to == Path("mapo_jax/__init__.py"):
                continue
            here, there = room(path), room(to)
            if here == "__init__" or (there != here and there not in MAY_IMPORT.get(here, set())):
                yield f"{path} imports {there}"


def private_names() -> Iterator[str]:
    """Yields names with an underscore that are used outside of their room."""
    for path in sources():
        elsewhere = {}
        for module, name, bound in imports(path):
            to = imported_file(module, name)
            if to is not None and room(to) != room(path):
                elsewhere[bound] = to
                if name.startswith("_"):
                    yield f"{path} uses {name} of {room(to)}"
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                is_private = node.attr.startswith("_") and not node.attr.startswith("__")
                if is_private and node.value.id in elsewhere:
                    yield f"{path} uses {node.attr} of {room(elsewhere[node.value.id])}"


def cycles() -> Iterator[str]:
    """Yields files that import themselves through other files, at their tops or inside."""
    graph: dict[Path, set[Path]] = {}
    for path in sources():
        found = (imported_file(module, name) for module, name, _ in imports(path))
        graph[path] = {to for to in found if to is not None and to != path}

    def reachable(start: Path) -> set[Path]:
        seen: set[Path] = set()
        waiting = [start]
        while waiting:
            for to in graph.get(waiting.pop(), set()) - seen:
                seen.add(to)
                waiting.append(to)
        return seen

    yield from (
        f"{path} imports itself through others" for path in graph if path in reachable(path)
    )


def long_files() -> Iterator[str]:
    for path in sources():
        if len((ROOT / path).read_text(encoding="utf-8").splitlines()) > MOST_LINES:
            yield f"{path} has more than {MOST_LINES} lines"


def rooms_without_a_rule() -> Iterator[str]:
    yield from {room(path) for path in sources()} - {*MAY_IMPORT, "__init__"}


def test_imports_point_down():
    assert list(wrong_imports()) == []


def test_no_private_name_crosses_a_room():
    assert list(private_names()) == []


def test_no_cycle():
    assert list(cycles()) == []


def test_no_long_file():
    assert list(long_files()) == []


def test_every_room_has_a_rule():
    assert list(rooms_without_a_rule()) == []


def test_host_rooms_leave_jax_alone():
    rooms = [r for r in (*HOST, "report", "errors", "config") if imported_file(f"mapo_jax.{r}", "")]
    script = "import sys\n" + "".join(f"import mapo_jax.{name}\n" for name in rooms)
    script += "print(sorted({m.split('.')[0] for m in sys.modules} & {'jax', 'jaxlib', 'flax'}))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
