"""Group-relative reinforcement learning of language policies; each room says what it is for."""

__version__ = "0.1.0"
