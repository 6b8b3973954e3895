"""Loads a user's own function from `path/to/file.py:function`, without a fork or an install.

It also checks configured options against the signature of a function, a user's own or built in.
"""

import inspect
import sys
import traceback
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mapo_jax import errors


def load_function(reference: str, key: str = "function") -> Callable:
    """Runs a Python file and returns one of its functions.

    Args:
        reference: "path/to/file.py:function".
        key: the configuration key that holds the reference, for the lines.

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
        exec(compile(source, path, "exec"), module.__dict__)  # an import leaves a __pycache__
    except SyntaxError as error:
        line = f"{path}:{error.lineno}: {error.msg}"
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
