"""Settings of the sampler."""

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """What is drawn and how; frozen, so that it can be a static argument."""

    group_size: int  # G, rollouts per prompt
    max_new_tokens: int  # T, tokens per response, the end-of-sequence token included
    temperature: float = 1.0  # 0: greedy
    top_p: float = 1.0  # draw from the likeliest tokens that hold this mass; 1: all
    top_k: int = 0  # draw from this many likeliest tokens; 0: all
    eos_ids: tuple[int, ...] = ()  # each of them ends a response
    lanes: int | None = None  # prompts decoded at once on each shard; None: all
    width: int | None = None  # rollouts of a prompt decoded at once; None: the group
    on_token: Callable | None = None  # told of each step's tokens i32[lanes, width]; one device
