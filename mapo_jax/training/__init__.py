"""Learns from a batch: takes rollouts and advantages and returns a new state."""

from mapo_jax.training.corrections import CORRECTIONS as CORRECTIONS
from mapo_jax.training.corrections import check_correction as check_correction
from mapo_jax.training.corrections import make_correction as make_correction
from mapo_jax.training.losses import AGGREGATIONS as AGGREGATIONS
from mapo_jax.training.losses import KLS as KLS
from mapo_jax.training.losses import SURROGATES as SURROGATES
from mapo_jax.training.objective import Metrics as Metrics
from mapo_jax.training.objective import cross_entropy_loss as cross_entropy_loss
from mapo_jax.training.objective import policy_loss as policy_loss
from mapo_jax.training.optimizer import make_optimizer as make_optimizer
from mapo_jax.training.scoring import ScoringConfig as ScoringConfig
from mapo_jax.training.scoring import score as score
from mapo_jax.training.step import Score as Score
from mapo_jax.training.step import TrainState as TrainState
from mapo_jax.training.step import TrainStep as TrainStep
from mapo_jax.training.step import init_state as init_state
from mapo_jax.training.step import moving_params as moving_params
from mapo_jax.training.step import state_shardings as state_shardings
from mapo_jax.training.surrogates import check_surrogate as check_surrogate
from mapo_jax.training.surrogates import make_surrogate as make_surrogate
