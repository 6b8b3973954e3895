"""Lets a process on a CPU use its freed memory again, in place of new pages from the system."""

import ctypes
import importlib.util
import os
import sys

# The numbers of glibc's malloc.h, and what they are set to.
_OPTIONS = {
    -8: 1,  # M_ARENA_MAX: one heap for all threads; a further one holds nothing above 64 MiB
    -4: 0,  # M_MMAP_MAX: no block lies outside of the heap
    -1: -1,  # M_TRIM_THRESHOLD: the heap does not shrink
}


def keep() -> None:
    """Sets glibc's malloc so; call it before JAX is imported, whose threads choose their heaps.

    XLA allocates the temporaries of a program at each call. glibc returns large blocks to the
    system when they are freed, and in the next call the system clears every page of them anew. In
    an update of `bench:small` these are 400,000 pages and three tenths of the time.

    Does nothing where JAX may compute on an accelerator, without glibc, if JAX is imported already,
    or if the environment sets malloc (GLIBC_TUNABLES, MALLOC_...).
    """
    platforms = os.environ.get("JAX_PLATFORMS", "")
    has_other = any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu"))
    is_set = any(name.startswith(("GLIBC_TUNABLES", "MALLOC_")) for name in os.environ)
    if "jax" in sys.modules or is_set or (has_other and platforms != "cpu"):
        return
    if set_option := getattr(ctypes.CDLL(None), "mallopt", None):
        for option, value in _OPTIONS.items():
            set_option(option, value)
