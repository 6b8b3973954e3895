"""Is this answer that answer? Finds answers in responses and compares them. No JAX."""

from mapo_jax.answers.choices import is_choice as is_choice
from mapo_jax.answers.choices import is_rounded as is_rounded
from mapo_jax.answers.emotions import INFLECTIONS as INFLECTIONS
from mapo_jax.answers.emotions import is_emotion as is_emotion
from mapo_jax.answers.equality import canonical as canonical
from mapo_jax.answers.equality import is_equal as is_equal
from mapo_jax.answers.equality import unit as unit
from mapo_jax.answers.expressions import reaches as reaches
from mapo_jax.answers.extraction import STYLES as STYLES
from mapo_jax.answers.extraction import extract as extract
from mapo_jax.answers.verifier import Verifier as Verifier
