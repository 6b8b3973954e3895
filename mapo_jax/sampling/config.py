"""The settings of the sampler."""

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """Says how many tokens are drawn and how; frozen, so that it can be a static argument."""

    group_size: int  # G, rollouts per prompt
    max_new_tokens: int  # T, tokens per response, the end-of-sequence token included
    temperature: float = 1.0  # 0 means greedy
    top_p: float = 1.0  # draw from the likeliest tokens with this mass; 1 means all
    top_k: int = 0  # draw from this many likeliest tokens; 0 means all
    eos_ids: tuple[int, ...] = ()  # each of them ends a response
    lanes: int | None = None  # prompts that each shard decodes at once; None means all
    width: int | None = None  # rollouts of a prompt that are decoded at once; None means all
    # Of a decoding step: "plain"; "turned", the same for CPUs, with other places for the keys; or
    # "triton", the kernel of one GPU per shard.
    attention: str = "plain"
    on_token: Callable | None = None  # gets each step's tokens i32[lanes, width]; one device
