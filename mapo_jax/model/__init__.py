"""The policy as pure functions of its parameters: configuration, decoder, attention, adapters."""

from mapo_jax.model.attention import ABSENT as ABSENT
from mapo_jax.model.attention import Segment as Segment
from mapo_jax.model.attention import attend as attend
from mapo_jax.model.config import LORA_TARGETS as LORA_TARGETS
from mapo_jax.model.config import ModelConfig as ModelConfig
from mapo_jax.model.config import RopeScaling as RopeScaling
from mapo_jax.model.decoder import ACTIVATIONS as ACTIVATIONS
from mapo_jax.model.decoder import Block as Block
from mapo_jax.model.decoder import abstract_params as abstract_params
from mapo_jax.model.decoder import apply as apply
from mapo_jax.model.decoder import cast as cast
from mapo_jax.model.decoder import embed as embed
from mapo_jax.model.decoder import encode_prompts as encode_prompts
from mapo_jax.model.decoder import forward as forward
from mapo_jax.model.decoder import gather_ends as gather_ends
from mapo_jax.model.decoder import head as head
from mapo_jax.model.decoder import init_params as init_params
from mapo_jax.model.decoder import kinds as kinds
from mapo_jax.model.decoder import last_tokens as last_tokens
from mapo_jax.model.decoder import logical_axes as logical_axes
from mapo_jax.model.lora import Params as Params
from mapo_jax.model.lora import combine as combine
from mapo_jax.model.lora import merge_adapters as merge_adapters
from mapo_jax.model.lora import partition as partition
from mapo_jax.model.lora import without_adapters as without_adapters
