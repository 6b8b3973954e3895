"""Is this response good? Judges by the paper's reward or by a user's own function. No JAX."""

from mapo_jax.rewards.judging import Judged as Judged
from mapo_jax.rewards.judging import RewardFunction as RewardFunction
from mapo_jax.rewards.judging import judge as judge
from mapo_jax.rewards.judging import reward_range as reward_range
from mapo_jax.rewards.paper import accuracy_and_format as accuracy_and_format
from mapo_jax.rewards.paper import choice_accuracy_and_format as choice_accuracy_and_format
from mapo_jax.rewards.paper import countdown_and_format as countdown_and_format
from mapo_jax.rewards.paper import emotion_and_format as emotion_and_format
from mapo_jax.rewards.paper import in_form as in_form
from mapo_jax.rewards.paper import inflected_emotion_and_format as inflected_emotion_and_format
from mapo_jax.rewards.paper import overlong as overlong
from mapo_jax.rewards.paper import symbolic_accuracy_and_format as symbolic_accuracy_and_format
from mapo_jax.rewards.paper import timeouts as timeouts
from mapo_jax.rewards.remote import Remote as Remote
from mapo_jax.rewards.remote import failures as failures
from mapo_jax.rewards.remote import load as load
from mapo_jax.rewards.remote import log_to as log_to
