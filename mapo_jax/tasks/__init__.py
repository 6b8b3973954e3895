"""A batch is born here, from rows with prompts, rewards and demonstrations. No JAX."""

from mapo_jax.tasks.base import Task as Task
from mapo_jax.tasks.examples import Look as Look
from mapo_jax.tasks.examples import OnDemand as OnDemand
from mapo_jax.tasks.examples import Picture as Picture
from mapo_jax.tasks.examples import Prompt as Prompt
from mapo_jax.tasks.examples import check_too_long as check_too_long
from mapo_jax.tasks.examples import digest as digest
from mapo_jax.tasks.examples import encode_demonstration as encode_demonstration
from mapo_jax.tasks.examples import encode_demonstrations as encode_demonstrations
from mapo_jax.tasks.examples import encode_prompts as encode_prompts
from mapo_jax.tasks.examples import indices as indices
from mapo_jax.tasks.examples import is_large as is_large
from mapo_jax.tasks.examples import prompts_on_demand as prompts_on_demand
from mapo_jax.tasks.examples import spread as spread
from mapo_jax.tasks.places import identity as identity
from mapo_jax.tasks.places import parts as parts
from mapo_jax.tasks.places import pictures as pictures
from mapo_jax.tasks.registry import TASKS as TASKS
from mapo_jax.tasks.registry import make as make
