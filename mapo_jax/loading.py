"""Loads a user's own function from `path/to/file.py:function`, without a fork or an install."""

import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path

from mapo_jax import errors


def load_function(reference: str, key: str = "function") -> Callable:
    """Runs a Python file and returns one of its functions.

    Args:
        reference: "path/to/file.py:function".
        key: the configuration key that holds the reference, for the error's line.

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
    sys.modules[module.__name__] = module  # dataclasses look their module up there
    try:
        exec(compile(source, path, "exec"), module.__dict__)  # not import: leaves no __pycache__
    except SyntaxError as error:
        line = f"{path}:{error.lineno}: {error.msg}"
        raise errors.UserError(f"{key}={reference}: syntax error in {line}; mend it") from None
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        places = [frame.lineno for frame in frames if frame.filename == path]
        line = f"{path}:{places[-1]}" if places else path  # without: not even compiled
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
