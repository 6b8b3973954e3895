"""Loads a user's own function from `path/to/file.py:function`, without a fork or an install.

It also checks configured options against the signature of a function, a user's own or built in.
"""

import contextlib
import hashlib
import importlib
import inspect
import os
import sys
import tempfile
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from importlib import machinery
from pathlib import Path
from typing import Any

from mapo_jax import errors


def load_function(reference: str, key: str = "function", *, kept: Path | None = None) -> Callable:
    """Runs a Python file and returns one of its functions.

    The file may import modules from its own directory, as in `python FILE`.

    Args:
        reference: "path/to/file.py:function".
        key: the configuration key that holds the reference, for the lines.
        kept: a directory for copies of the file and of those that it imports from beside it. All
            processes with one `kept` run the file as the first of them read it. They load no file
            of another directory, so its modules stay. Else modules can only be imported while the
            file runs and are forgotten then, so that modules of one name beside two files are two.

    Raises:
        UserError: there is no such file or function, or the file does not run.
    """
    path, colon, name = reference.rpartition(":")
    if not (colon and path.endswith(".py") and name.isidentifier()):
        raise errors.UserError(f"{key}={reference}: must look like path/to/file.py:function")
    try:
        source = _first_read(path, kept) if kept else Path(path).read_bytes()
    except OSError as error:
        raise errors.UserError(
            f"{key}={reference}: cannot read {path}: {error.strerror}; give the path from the "
            "current directory"
        ) from None

    module = types.ModuleType(str(Path(path).resolve()))
    module.__file__ = path
    sys.modules[module.__name__] = module  # dataclasses look up their module there
    try:
        with _neighbours(Path(path).resolve().parent, kept):
            exec(compile(source, path, "exec"), module.__dict__)  # an import leaves a __pycache__
    except SyntaxError as error:
        line = f"{error.filename or path}:{error.lineno}: {error.msg}"  # a neighbour's, maybe
        raise errors.UserError(f"{key}={reference}: syntax error in {line}; mend it") from None
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        places = [frame.lineno for frame in frames if frame.filename == path]
        line = f"{path}:{places[-1]}" if places else path  # no line if it did not compile
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise errors.UserError(f"{key}={reference}: {line} raised {what}; mend it") from error

    names = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
    if name not in vars(module):
        hint = errors.did_you_mean(name, names) or ";"
        raise errors.UserError(
            f"{key}={reference}: {path} has no function {name}{hint} its functions: "
            f"{', '.join(names) or 'none'}"
        )
    function = vars(module)[name]
    if not callable(function):
        shown = " ".join(repr(function).split())[:80]
        raise errors.UserError(
            f"{key}={reference}: {name} is {shown}, not a function; its functions: "
            f"{', '.join(names) or 'none'}"
        )
    return function


@contextlib.contextmanager
def _neighbours(directory: Path, kept: Path | None) -> Iterator[None]:
    """Context manager: modules of a directory can be imported."""
    before = set(sys.modules)
    importlib.invalidate_caches()  # the directory may be younger than the last look into it
    sys.path.insert(0, str(directory))
    if kept:
        sys.meta_path.insert(sys.meta_path.index(machinery.PathFinder), _Finder(directory, kept))
    try:
        yield
    finally:
        if not kept:
            new = [name for name in sys.modules if "." not in name and name not in before]
            own = {name for name in new if _lies_in(directory, sys.modules[name])}
            for name in [name for name in sys.modules if name.partition(".")[0] in own]:
                del sys.modules[name]
            sys.path.remove(str(directory))  # last: packages without __init__.py follow it


def _lies_in(directory: Path, module: types.ModuleType) -> bool:
    places = [*getattr(module, "__path__", []), getattr(module, "__file__", None) or "/"]
    return Path(places[0]).parent == directory


class _Finder:
    """Finds modules of a directory as they were first read."""

    def __init__(self, directory: Path, kept: Path):
        self._directory, self._kept, self._own = str(directory), kept, set()

    def find_spec(
        self, name: str, path: Any = None, target: types.ModuleType | None = None
    ) -> machinery.ModuleSpec | None:
        first, dot, _ = name.partition(".")
        if dot and first not in self._own:
            return None
        spec = machinery.PathFinder.find_spec(name, path if dot else [self._directory], target)
        if spec is not None:
            self._own.add(first)
            if isinstance(spec.loader, machinery.SourceFileLoader):
                spec.loader = _Loader(name, spec.loader.path, self._kept)
        return spec


class _Loader(machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, kept: Path):
        super().__init__(name, path)
        self._kept = kept

    def get_data(self, path: str) -> bytes:
        return _first_read(path, self._kept)

    def path_stats(self, path: str) -> Mapping[str, Any]:
        raise OSError  # no __pycache__: it is of the file as it is now


def _first_read(path: str, kept: Path) -> bytes:
    """Returns a file as the first process read it."""
    copy = kept / hashlib.sha256(os.path.abspath(path).encode()).hexdigest()
    if not copy.exists():
        with tempfile.NamedTemporaryFile(dir=kept) as file:
            file.write(Path(path).read_bytes())
            file.flush()
            with contextlib.suppress(FileExistsError):
                os.link(file.name, copy)
    return copy.read_bytes()


def option_mistakes(
    key: str,
    name: object,
    options: Mapping[str, Any],
    known: Mapping[str, inspect.Parameter],
    takes_any: bool,
) -> list[str]:
    """Returns a line for each option that a function lacks, and for each that it needs.

    Args:
        key: the configuration key that holds the options.
        name: the function's name, for the lines.
        options: the configured options.
        known: the parameters that are options.
        takes_any: whether the function has a parameter such as `**options`.
    """
    lines = [
        f"{key}.{option}={value}: {name} has no such option{errors.did_you_mean(option, known)}; "
        f"its options: {', '.join(known) or 'none'}"
        for option, value in options.items()
        if option not in known and not takes_any
    ]
    return lines + [
        f"{key}.{option}: {name} needs it; set a value"
        for option, parameter in known.items()
        if parameter.default is parameter.empty and option not in options
    ]


def type_mistakes(where: str, value: Any, parameter: inspect.Parameter) -> list[str]:
    """Returns a line if a value is not of the annotated type, one of bool, int, float and str.

    `where` is the beginning of the line, such as "key=value".
    """
    kind, default = parameter.annotation, parameter.default
    if kind not in (bool, int, float, str):
        return []
    if type(value) in ((int, float) if kind is float else (kind,)):
        return []
    such = "" if default is parameter.empty else f" such as {default}"
    return [f"{where}: is {type(value).__name__}, must be {kind.__name__}{such}"]
