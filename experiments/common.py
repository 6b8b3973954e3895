"""Every knob of a run, with its unit and meaning. The other experiments start from this tree.

An experiment is a file with `get_config(presets)` and `PRESETS`, a dict from a name to a function
that changes the config. It imports only ml_collections and this package, because a config is data.
The end of this file has presets that every experiment has, published methods and the evaluation of
the MAPO paper, and the rows of its tables for the experiments with its data.

An experiment of your own is such a file, in a clone or, after `pip install`, in any directory:

    from experiments import common

    def get_config(presets: str = ""):
        config = common.get_config()
        config.task.name = "jsonl"
        return common.apply(config, presets, common.METHODS)
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    """Returns the whole tree with its defaults: the paper's values if the paper gives them."""
    config = ConfigDict()
    config.seed = 0  # decides parameters, data order and draws
    config.steps = 100  # rollout batches of RL; 0: the warm-up only

    config.task = task = ConfigDict()
    task.name = "arithmetic"  # an entry of mapo_jax/tasks/registry.py
    task.reward = ""  # "": the task's own; or file.py:function
    task.reward_timeout = 10.0  # seconds for one response, after which the worker is killed
    task.reward_memory = 4.0  # GiB of address space of each worker; macOS sets no limit
    task.reward_workers = 2  # processes that run file.py:function
    task.shuffle_rewards = False  # permute rewards within each group, a control that must not learn
    task.options = ConfigDict()  # open: whatever the task takes

    config.data = data = ConfigDict()
    data.path = ""  # directory of the task's files; "": the task makes or downloads them
    data.max_prompt_tokens = 256  # tokens, with those of the chat template
    data.too_long = "drop"  # longer prompts; or "truncate", which keeps their last tokens
    # "0.2:0.8": RL sees only prompts that the start policy solves in such a share of 40 tries, a
    # check of the algorithm, which must then pass 95% on them. "": all prompts.
    data.solve_rate = ""
    data.solve_prompts = 1024  # that many prompts are tried for it

    config.tokenizer = tokenizer = ConfigDict()
    # SentencePiece model, tokenizer.json or folder; "": the tokenizer of policy.init. A path that
    # begins with mapo_jax/ may be a file of the installed package.
    tokenizer.path = ""
    tokenizer.template = ""  # "chat": a user's turn in the tokenizer's template; or FILE.jinja

    config.policy = policy = ConfigDict()
    # A work directory of a run, a Hugging Face folder or a hub id to start from; it brings its
    # architecture. "": random parameters of the architecture below.
    policy.init = ""
    policy.checkpoint = "newest"  # of that run; or "best", or a number of its checkpoints/
    policy.revision = ""  # commit, tag or branch of a hub id; "": its main branch as it is now
    policy.num_layers = 2
    policy.embed_dim = 128  # width of the residual stream
    policy.num_heads = 4  # query heads
    policy.num_kv_heads = 2  # key and value heads; divides num_heads
    policy.head_dim = 32  # even, for RoPE
    policy.mlp_dim = 384  # hidden width of the SwiGLU
    policy.rope_theta = 10_000.0  # base of the RoPE wavelengths
    policy.norm_eps = 1e-6  # of RMSNorm
    policy.tie_embeddings = True  # the LM head is the embedding
    policy.qkv_bias = False  # True in Qwen2 and Qwen2.5
    policy.qk_norm = False  # True in Qwen3

    policy.vision = vision = ConfigDict()  # a tower that turns pictures into embeddings
    vision.num_layers = 0  # 0: no tower, the policy reads text alone
    vision.embed_dim = 64
    vision.num_heads = 4
    vision.mlp_dim = 192  # hidden width of the SwiGLU
    vision.patch = 8  # pixels of a side of a patch
    vision.merge = 2  # patches of a side that become one token of the prompt
    vision.window = 0  # patches of a side that layers but the last see together; 0: all layers all

    config.images = images = ConfigDict()  # of prompts
    images.min_pixels = 0  # smaller pictures are enlarged; 0: as the policy's preprocessor has it
    images.max_pixels = 0  # larger pictures are made smaller; 0: likewise
    images.resize = "policy"  # once; or "easyr1": twice, as in the paper's code

    config.lora = lora = ConfigDict()  # train low-rank adapters beside frozen weights
    lora.rank = 0  # of the adapters; 0: all weights are trained
    lora.alpha = 32.0  # adapters are multiplied by alpha / rank
    lora.targets = "q,k,v,o,gate,up,down"  # matrices of each layer that get an adapter

    config.compute = compute = ConfigDict()
    compute.dtype = "float32"  # of activations and cast weights; or "bfloat16", "float16" (GPU)
    compute.matmul_precision = "highest"  # "default", "high" or "highest"
    compute.remat = True  # recompute each layer in the backward pass; less memory, more time
    compute.head_chunk = 1024  # tokens of a batch shard whose logits exist at once in scoring
    compute.attention_chunk = 256  # query positions whose scores exist at once in training
    compute.attention = "auto"  # by device; or "plain"; in training "splash" (TPU), "cudnn" (GPU)

    config.warmup = warmup = ConfigDict()
    warmup.steps = 0  # cross-entropy steps on demonstrations before RL; 0: none
    warmup.learning_rate = 1e-3
    warmup.batch = 128  # demonstrations per step
    warmup.schedule_steps = 0  # steps over which the learning rate rises from 0
    warmup.decay = "constant"  # after it has risen; "linear" or "cosine": falls to 0 at the end

    config.batch = batch = ConfigDict()
    batch.prompts = 512  # per rollout batch
    batch.group = 12  # rollouts per prompt
    batch.minibatch_prompts = 128  # prompts per optimizer step
    batch.microbatch = (8, 12)  # prompts, and rollouts of each, that a shard trains on at once
    batch.epochs = 1  # passes over a rollout batch

    config.rollout = rollout = ConfigDict()
    rollout.temperature = 1.0  # of sampling, and of the log-probs that are trained
    rollout.top_p = 1.0  # draw from the likeliest tokens of this mass; 1: from all
    rollout.top_k = 0  # draw from this many likeliest tokens; 0: from all
    rollout.max_new_tokens = 1024  # per response, the end-of-sequence token included
    rollout.chunks = 1  # calls of the sampler per rollout batch; rewards overlap with the next one
    rollout.lanes = 0  # prompts decoded at once per call; 0: all
    rollout.width = 0  # rollouts of a prompt decoded at once; 0: the group

    config.algorithm = algorithm = ConfigDict()
    algorithm.advantage = "mapo"  # of mapo_jax/advantages/registry.py, or file.py:function
    algorithm.advantage_options = ConfigDict()  # open: keyword arguments of the advantage
    algorithm.surrogate = "clipped"  # or "gspo", "cispo", or file.py:function
    algorithm.surrogate_options = ConfigDict()  # open: further keyword arguments of the surrogate
    algorithm.clip_low = 0.2  # the ratio is clipped below at 1 - clip_low; 1: no bound
    algorithm.clip_high = 0.3  # the ratio is clipped above at 1 + clip_high
    algorithm.clip_dual = 3.0  # bound of the ratio if the advantage is negative; 0: none
    algorithm.aggregation = "token_mean"  # or "sequence_mean", "prompt_mean", "constant"
    algorithm.beta = 0.0  # weight of the KL to the reference policy; 0: no reference is kept
    algorithm.kl = "k3"  # its estimator: "k1", "k2" or "k3"
    algorithm.entropy = 0.0  # weight of the entropy bonus
    algorithm.old_logps = "sampler"  # what the ratio divides by; or "rescored", by the trainer
    algorithm.correction = "none"  # of the gap between those two: "tis", "icepop" or "mis"
    algorithm.correction_options = ConfigDict()  # open: bounds of the correction
    algorithm.truncated = "fail"  # cut responses get no success and accuracy 0; or "mask": left out
    algorithm.overlong_penalty = 0.0  # taken off a full-length response's reward; 0: none
    algorithm.overlong_buffer = 0.2  # last share of max_new_tokens, over which the penalty rises

    config.dynamic = dynamic = ConfigDict()  # dynamic sampling: drop groups, sample more prompts
    dynamic.max_tries = 0  # at most this many rollout batches sampled to fill one; 0: off
    dynamic.low = 0.0  # a group is kept if its mean accuracy is strictly above this
    dynamic.high = 1.0  # and strictly below this

    config.optimizer = optimizer = ConfigDict()  # AdamW, the same in warm-up and RL
    optimizer.learning_rate = 1e-6  # of RL; constant after it has risen
    # Of the vision tower; 0 freezes it in RL. None: as the rest, and --config.KEY=NUMBER sets it.
    optimizer.vision_learning_rate = placeholder(float)
    optimizer.schedule_steps = 0  # optimizer steps over which it rises from 0
    optimizer.decay = "constant"  # after that; "linear" or "cosine": falls to 0 at the last step
    optimizer.b1 = 0.9
    optimizer.b2 = 0.999
    optimizer.eps = 1e-8
    optimizer.weight_decay = 0.01
    optimizer.max_grad_norm = 1.0  # a larger global norm of the gradient is scaled down to it

    config.mesh = mesh = ConfigDict()  # devices per axis; one may be -1, the rest
    mesh.data = -1  # copies of the parameters
    mesh.fsdp = 1  # shards of parameters, with a batch shard each
    mesh.tensor = 1  # shards of heads and MLP

    config.guard = guard = ConfigDict()  # ends a run that goes nowhere
    guard.max_skipped = 10  # at most this many skipped updates in a row; 0: no limit

    config.processes = processes = ConfigDict()  # if a run has several
    processes.start = 300  # seconds that a process waits for the others at its start
    processes.heartbeat = 60  # seconds of silence until a process counts as dead and the others end
    processes.shutdown = 300  # seconds that a process waits for the others at its end

    config.eval = evaluation = ConfigDict()
    evaluation.every = 10  # RL steps between evaluations; also before the first and after the last
    evaluation.problems = 512  # of each set, at most
    evaluation.batch = 512  # problems per call
    evaluation.samples = 1  # sampled answers per problem; more give pass@k, maj@k and mean@k
    evaluation.temperature = 1.0  # of the sampled answers
    evaluation.top_p = 1.0  # of the sampled answers
    evaluation.sets = ""  # further sets, out of domain: "svamp=svamp.json,multiarith=DIR"
    # Also answer each set of pictures with white ones: eval/SET/accuracy_blank.
    evaluation.blank = False

    config.checkpoint = checkpoint = ConfigDict()
    checkpoint.every = 10  # steps of either phase between two; also the last of each, and the best
    checkpoint.keep = 2  # newest checkpoints; the best is kept as well

    config.log = log = ConfigDict()
    log.rollouts_every = 10  # RL steps between entries of rollouts.jsonl; 0: none; also first, last
    log.rollouts_prompts = 2  # prompts, with their whole group, per entry
    log.tensorboard = True
    log.wandb = ""  # also write to this project of Weights & Biases (pip install wandb); "": none
    log.trackio = ""  # also write to this project of trackio (pip install trackio); "": none
    log.console = "auto"  # "rich", "plain", "quiet", "json", or "auto": rich on a terminal

    config.profile = profile = ConfigDict()
    profile.steps = ""  # "10:12": a jax.profiler trace of RL steps 10 and 11; "": none
    return config


def paper_with_pictures(config: ConfigDict) -> None:
    """The MAPO paper's run with pictures: all of Qwen2.5-VL-7B-Instruct, cut over all devices."""
    ROWS["mapo_paper"](config)
    config.tokenizer.template = "chat"
    config.policy.init = "Qwen/Qwen2.5-VL-7B-Instruct"
    config.images.min_pixels = 512**2
    config.images.max_pixels = 2048**2
    config.images.resize = "easyr1"  # twice, as its code does
    config.compute.dtype = "bfloat16"
    config.compute.matmul_precision = "default"
    config.compute.head_chunk = 512
    config.mesh.data = 1
    config.mesh.fsdp = -1
    config.eval.every = 5
    config.eval.batch = 128
    config.eval.temperature = 0.5
    config.eval.top_p = 0.95
    config.checkpoint.every = 5


def apply(config: ConfigDict, presets: str, functions: Mapping[str, Callable]) -> ConfigDict:
    """Applies the comma-separated `presets` in order and locks the tree."""
    for name in filter(None, presets.split(",")):
        functions[name](config)
    return config.lock()


# Presets of published methods. NAME sets the method: every value of `algorithm` and `dynamic`, also
# those that were set before. NAME_paper also sets batch, rollout and optimizer as in its paper;
# lengths and batches of that size need many accelerators. Neither changes the policy or the task.

_METHOD = {
    "algorithm.advantage": "grpo",
    "algorithm.advantage_options": {},
    "algorithm.surrogate": "clipped",
    "algorithm.surrogate_options": {},
    "algorithm.clip_low": 0.2,
    "algorithm.clip_high": 0.2,
    "algorithm.clip_dual": 0.0,
    "algorithm.aggregation": "token_mean",
    "algorithm.beta": 0.0,
    "algorithm.kl": "k3",
    "algorithm.entropy": 0.0,
    "algorithm.old_logps": "sampler",
    "algorithm.correction": "none",
    "algorithm.correction_options": {},
    "algorithm.truncated": "fail",
    "algorithm.overlong_penalty": 0.0,
    "algorithm.overlong_buffer": 0.2,
    "dynamic.max_tries": 0,
    "dynamic.low": 0.0,
    "dynamic.high": 1.0,
}
# Drops groups that are all right or all wrong. DAPO's penalty is 1 for rewards of -1 and 1, which
# is 0.5 for rewards of 0 and 1; its buffer is 4,096 of 20,480 tokens.
_DAPO_SAMPLING = {"algorithm.overlong_penalty": 0.5, "dynamic.max_tries": 20}

_ADAMW = {
    "optimizer.learning_rate": 1e-6,
    "optimizer.vision_learning_rate": None,
    "optimizer.schedule_steps": 0,
    "optimizer.decay": "constant",
    "optimizer.b1": 0.9,
    "optimizer.b2": 0.999,
    "optimizer.eps": 1e-8,
    "optimizer.weight_decay": 0.01,
    "optimizer.max_grad_norm": 1.0,
    "rollout.temperature": 1.0,
    "rollout.top_p": 1.0,
    "rollout.top_k": 0,
    "batch.epochs": 1,
}


def _sizes(prompts: int, group: int, minibatch: int, prompt: int, response: int) -> dict[str, Any]:
    """Prompts and rollouts of a batch, prompts of an update, tokens of prompt and response."""
    return {
        "batch.prompts": prompts,
        "batch.group": group,
        "batch.minibatch_prompts": minibatch,
        "batch.microbatch": (8, group),
        "data.max_prompt_tokens": prompt,
        "rollout.max_new_tokens": response,
    }


class _Paper(NamedTuple):
    title: str
    method: dict[str, Any]  # what differs from _METHOD
    sizes: dict[str, Any]  # added to _ADAMW, or different from it


_PAPERS = {
    # Sec. 4.1, app. B.2. Clip and dual clip are those of its released configuration.
    "mapo": _Paper(
        "MAPO, arXiv 2509.18849",
        {
            "algorithm.advantage": "mapo",
            "algorithm.clip_high": 0.3,
            "algorithm.clip_dual": 3.0,
            "algorithm.beta": 0.01,
        },
        _sizes(512, 12, 128, 2048, 2048) | {"rollout.top_p": 0.99},
    ),
    # DeepSeekMath, sec. 4.2: 1,024 rollouts, one update. It gives no clip; 0.2 is the default of
    # libraries, and with one update it never acts. The length of prompts is ours.
    "grpo": _Paper(
        "GRPO, arXiv 2402.03300",
        {"algorithm.aggregation": "sequence_mean", "algorithm.beta": 0.04},
        _sizes(16, 64, 16, 1024, 1024),
    ),
    # Sec. 3, 4.1: 16 updates per batch; the rate rises over 20 batches. The dual clip is from its
    # released script. At most 20 tries, as in the MAPO paper's runs of DAPO.
    "dapo": _Paper(
        "DAPO, arXiv 2503.14476",
        {"algorithm.clip_high": 0.28, "algorithm.clip_dual": 10.0} | _DAPO_SAMPLING,
        _sizes(512, 16, 32, 2048, 20_480)
        | {"optimizer.schedule_steps": 320, "optimizer.weight_decay": 0.1},
    ),
    # Sec. 5.1: four updates per batch. All else is from verl's script for it, whose rate rises over
    # 5% of 500 batches.
    "gspo": _Paper(
        "GSPO, arXiv 2507.18071",
        {
            "algorithm.surrogate": "gspo",
            "algorithm.clip_low": 3e-4,
            "algorithm.clip_high": 4e-4,
            "algorithm.aggregation": "sequence_mean",
        },
        _sizes(512, 16, 128, 2048, 8192)
        | {"optimizer.schedule_steps": 100, "optimizer.weight_decay": 0.1},
    ),
    # MiniMax-M1, sec. 3: no lower bound, DAPO's sampling, 16 updates per batch, betas and eps. It
    # does not give its upper bound; the weight's cap of 5 is ScaleRL's, arXiv 2510.13786. It does
    # not give rate, decay, batch and group either; they are DAPO's, whose data its ablation uses.
    "cispo": _Paper(
        "CISPO, arXiv 2506.13585",
        {
            "algorithm.surrogate": "cispo",
            "algorithm.clip_low": 1.0,
            "algorithm.clip_high": 4.0,
        }
        | _DAPO_SAMPLING,
        _sizes(512, 16, 32, 2048, 20_480)
        | {"optimizer.schedule_steps": 320, "optimizer.weight_decay": 0.1}
        | {"optimizer.b2": 0.95, "optimizer.eps": 1e-15},
    ),
    # From table 6 and its released scripts.
    "dr_grpo": _Paper(
        "Dr. GRPO, arXiv 2503.20783",
        {"algorithm.advantage": "dr_grpo", "algorithm.aggregation": "constant"},
        _sizes(128, 8, 16, 1024, 3000) | {"optimizer.b2": 0.95, "optimizer.weight_decay": 0.0},
    ),
    # From its released script for 1.7 billion parameters.
    "maxrl": _Paper(
        "MaxRL, arXiv 2602.02710",
        {"algorithm.advantage": "maxrl"},
        _sizes(256, 16, 256, 1024, 4096) | {"optimizer.max_grad_norm": 0.3},
    ),
}


def _preset(doc: str, values: Mapping[str, Any]) -> Callable[[ConfigDict], None]:
    def change(config: ConfigDict) -> None:
        for key, value in values.items():
            group, name = key.split(".")
            config[group][name] = ConfigDict(value) if isinstance(value, dict) else value

    change.__doc__ = doc
    return change


METHODS: dict[str, Callable[[ConfigDict], None]] = {
    name: _preset(paper.title, _METHOD | paper.method) for name, paper in _PAPERS.items()
} | {
    f"{name}_paper": _preset(
        f"{paper.title}, with its batch, lengths and optimizer",
        _METHOD | paper.method | _ADAMW | paper.sizes,
    )
    for name, paper in _PAPERS.items()
}

# For any of them: eval/SET/accuracy_sampled and overall/A_S_sampled are then what its tables have.
METHODS["paper_eval"] = _preset(
    "Evaluation as in the MAPO paper: one answer at temperature 0.5 and top-p 0.95",
    {"eval.samples": 1, "eval.temperature": 0.5, "eval.top_p": 0.95},
)

# The rows of the MAPO paper's tables, for the experiments with its data: all share its batch,
# lengths, clipping and optimizer (app. B.2 and its released configuration). Its DAPO drops groups
# whose mean accuracy is not between .01 and .99, clips at 1.28 and has no KL. The microbatch, which
# changes no result, is small, as prompts with pictures are long.
_ROW = _METHOD | _PAPERS["mapo"].method | _ADAMW | _PAPERS["mapo"].sizes
_ROW |= {"batch.microbatch": (1, 12)}
_ITS_DAPO = {
    "algorithm.advantage": "grpo",
    "algorithm.clip_high": 0.28,
    "algorithm.beta": 0.0,
    "dynamic.max_tries": 20,
    "dynamic.low": 0.01,
    "dynamic.high": 0.99,
}

ROWS: dict[str, Callable[[ConfigDict], None]] = {
    "mapo_paper": _preset("MAPO as in its paper", _ROW),
    "grpo_paper": _preset("GRPO as the MAPO paper ran it", _ROW | {"algorithm.advantage": "grpo"}),
    "dapo_paper": _preset("DAPO as the MAPO paper ran it", _ROW | _ITS_DAPO),
    "group_8": _preset(
        "Groups of 8, the other half of its tables",
        {"batch.group": 8, "batch.microbatch": (1, 8)},
    ),
}
