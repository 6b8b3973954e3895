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
        raise errors.UserError(f"{key}={reference}: cannot read {path}: {error.strerror}") from None

    module = types.ModuleType(str(Path(path).resolve()))
    module.__file__ = path
    sys.modules[module.__name__] = module  # dataclasses look their module up there
    try:
        exec(compile(source, path, "exec"), module.__dict__)  # not import: leaves no __pycache__
    except SyntaxError as error:
        line = f"{path}:{error.lineno}: {error.msg}"
        raise errors.UserError(f"{key}={reference}: syntax error in {line}") from None
    except Exception as error:
        line = f"{path}:{traceback.extract_tb(error.__traceback__)[-1].lineno}"
        what = f"{type(error).__name__}: {error}"
        raise errors.UserError(f"{key}={reference}: {line} raised {what}") from error

    names = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
    if name not in vars(module):
        found = ", ".join(names) or "none"
        raise errors.UserError(f"{key}={reference}: no {name} in {path}; its functions: {found}")
    function = vars(module)[name]
    if not callable(function):
        raise errors.UserError(f"{key}={reference}: {name} is no function but {function!r:.80}")
    return function
