"""Loads a user's own function from `path/to/file.py:function`, without a fork or an install.

It also checks configured options against the signature of a function, a user's own or built in.
"""

import contextlib
import importlib
import inspect
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mapo_jax import errors


def load_function(reference: str, key: str = "function", *, alone: bool = False) -> Callable:
    """Runs a Python file and returns one of its functions.

    The file may import modules from its own directory, as in `python FILE`.

    Args:
        reference: "path/to/file.py:function".
        key: the configuration key that holds the reference, for the lines.
        alone: whether this process loads no file of another directory. If so, modules of the file's
            directory stay. Else they can only be imported while the file runs and are forgotten
            then, so that modules of one name beside two files are two.

    Raises:
        UserError: there is no such file or function, or the file does not run.
    """
    path, colon, name = reference.rpartition(":")
    if not (colon and path.endswith(".py") and name.isidentifier()):
        raise errors.UserError(f"{key}={reference}: must look like path/to/file.py:function")
    try:
        source = Path(path).read_bytes()
    except OSError as error:
        raise errors.UserError(
            f"{key}={reference}: cannot read {path}: {error.strerror}; give the path from the "
            "current directory"
        ) from None

    module = types.ModuleType(str(Path(path).resolve()))
    module.__file__ = path
    sys.modules[module.__name__] = module  # dataclasses look up their module there
    try:
        with _neighbours(Path(path).resolve().parent, keeps=alone):
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
def _neighbours(directory: Path, keeps: bool) -> Iterator[None]:
    """Context manager: modules of a directory can be imported."""
    before = set(sys.modules)
    importlib.invalidate_caches()  # the directory may be younger than the last look into it
    sys.path.insert(0, str(directory))
    try:
        yield
    finally:
        if not keeps:
            new = [name for name in sys.modules if "." not in name and name not in before]
            own = {name for name in new if _lies_in(directory, sys.modules[name])}
            for name in [name for name in sys.modules if name.partition(".")[0] in own]:
                del sys.modules[name]
            sys.path.remove(str(directory))  # last: packages without __init__.py follow it


def _lies_in(directory: Path, module: types.ModuleType) -> bool:
    places = [*getattr(module, "__path__", []), getattr(module, "__file__", None) or "/"]
    return Path(places[0]).parent == directory


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
