"""The experiments that ship; your own file begins with `from experiments import common`."""
