"""Turns picture files into patches: `read` decodes, `shrink` resizes, `patches` cuts. No JAX."""

from mapo_jax.images.reading import MAX_PIXELS as MAX_PIXELS
from mapo_jax.images.reading import digest as digest
from mapo_jax.images.reading import is_animated as is_animated
from mapo_jax.images.reading import read as read
from mapo_jax.images.sizing import patches as patches
from mapo_jax.images.sizing import shrink as shrink
from mapo_jax.images.sizing import target_size as target_size
