"""Every knob of a run, with its unit and meaning. The other experiments start from this tree.

An experiment is a file with `get_config(presets)` and `PRESETS`: name -> function that changes the
config. It imports ml_collections and this file only: a config is data.
"""

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the whole tree with its defaults: the paper's where it names them."""
    config = ConfigDict()
    config.seed = 0  # of parameters, data order and draws
    config.steps = 100  # rollout batches of RL; 0: the warm-up only

    config.task = task = ConfigDict()
    task.name = "arithmetic"  # an entry of mapo_jax/tasks/registry.py
    task.reward = ""  # the task's own, or file.py:function
    task.shuffle_rewards = False  # permute rewards within each group: a control that must not learn
    task.options = ConfigDict()  # open: whatever the task takes

    config.data = data = ConfigDict()
    data.path = ""  # directory of the task's files; "": made or downloaded by the task
    data.max_prompt_tokens = 256  # tokens; examples with longer prompts are dropped

    config.tokenizer = tokenizer = ConfigDict()
    tokenizer.path = ""  # SentencePiece model file; it decides the vocabulary size

    config.policy = policy = ConfigDict()
    policy.init = ""  # work directory whose newest parameters to start from; "": random
    policy.num_layers = 2
    policy.embed_dim = 128  # width of the residual stream
    policy.num_heads = 4  # query heads
    policy.num_kv_heads = 2  # key and value heads; divides num_heads
    policy.head_dim = 32  # even, for RoPE
    policy.mlp_dim = 384  # hidden width of the SwiGLU
    policy.rope_theta = 10_000.0  # base of the RoPE wavelengths
    policy.norm_eps = 1e-6  # of RMSNorm
    policy.tie_embeddings = True  # the LM head is the embedding
    policy.qkv_bias = False  # as Qwen2 and Qwen2.5
    policy.qk_norm = False  # as Qwen3

    config.compute = compute = ConfigDict()
    compute.dtype = "float32"  # of activations and cast weights: "float32" or "bfloat16"
    compute.matmul_precision = "highest"  # "default", "high" or "highest"
    compute.remat = True  # recompute each layer in the backward pass: less memory, more time
    compute.head_chunk = 1024  # tokens whose logits exist at once in scoring
    compute.attention_chunk = 256  # query positions whose scores exist at once in training

    config.warmup = warmup = ConfigDict()
    warmup.steps = 0  # cross-entropy steps on demonstrations before RL; 0: none
    warmup.learning_rate = 1e-3
    warmup.batch = 128  # demonstrations per step
    warmup.schedule_steps = 0  # steps over which the learning rate rises from 0

    config.batch = batch = ConfigDict()
    batch.prompts = 512  # per rollout batch
    batch.group = 12  # rollouts per prompt
    batch.minibatch_prompts = 128  # prompts per optimizer step
    batch.microbatch = (8, 12)  # prompts, rollouts per prompt whose gradient is taken at once
    batch.epochs = 1  # passes over a rollout batch

    config.rollout = rollout = ConfigDict()
    rollout.temperature = 1.0  # of sampling, and of the log-probs that are trained
    rollout.top_p = 1.0  # mass of the nucleus drawn from; 1: everything
    rollout.top_k = 0  # likeliest tokens drawn from; 0: all
    rollout.max_new_tokens = 1024  # per response, the end-of-sequence token included
    rollout.chunks = 1  # calls of the sampler per rollout batch; rewards overlap with the next one
    rollout.lanes = 0  # prompts decoded at once per call; 0: all
    rollout.width = 0  # rollouts of a prompt decoded at once; 0: the group

    config.algorithm = algorithm = ConfigDict()
    algorithm.advantage = "mapo"  # an entry of mapo_jax/advantages.py, or file.py:function
    algorithm.advantage_options = ConfigDict()  # open: keyword arguments of the advantage
    algorithm.beta = 0.0  # weight of the KL to the reference policy; 0: no reference is kept
    algorithm.clip_low = 0.2  # the ratio is clipped below at 1 - clip_low
    algorithm.clip_high = 0.3  # and above at 1 + clip_high
    algorithm.clip_dual = 3.0  # bound of the ratio where the advantage is negative
    algorithm.aggregation = "token_mean"  # or "sequence_mean"
    algorithm.old_logps = "sampler"  # what the ratio divides by; or "rescored", by the trainer
    algorithm.truncated = "fail"  # cut responses: no success, accuracy 0; or "mask": left out

    config.optimizer = optimizer = ConfigDict()  # AdamW, the same in warm-up and RL
    optimizer.learning_rate = 1e-6  # of RL, constant after its rise
    optimizer.schedule_steps = 0  # optimizer steps over which it rises from 0
    optimizer.b1 = 0.9
    optimizer.b2 = 0.999
    optimizer.eps = 1e-8
    optimizer.weight_decay = 0.01
    optimizer.max_grad_norm = 1.0  # gradients of larger global norm are scaled down to it

    config.mesh = mesh = ConfigDict()  # devices per axis; one may be -1: the rest
    mesh.data = -1  # copies of the parameters
    mesh.fsdp = 1  # shards of parameters, with a batch shard each
    mesh.tensor = 1  # shards of heads and MLP

    config.eval = evaluation = ConfigDict()
    evaluation.every = 10  # RL steps; also before the first and after the last
    evaluation.problems = 512  # at most, of each set
    evaluation.batch = 512  # rows per call

    config.checkpoint = checkpoint = ConfigDict()
    checkpoint.every = 10  # steps of either phase; also after the last of each
    checkpoint.keep = 2  # newest; the best is kept as well

    config.log = log = ConfigDict()
    log.rollouts_every = 10  # RL steps between entries of rollouts.jsonl; 0: none; also first, last
    log.rollouts_prompts = 2  # prompts, with their whole group, per entry
    log.tensorboard = True
    log.wandb = ""  # project of Weights & Biases to write to as well (pip install wandb); "": none
    log.console = "auto"  # "rich", "plain", "quiet", "json", or "auto": rich on a terminal

    config.profile = profile = ConfigDict()
    profile.steps = ""  # "10:12": a jax.profiler trace of RL steps 10 and 11; "": none
    return config


def apply(config: ConfigDict, presets: str, functions: Mapping[str, Callable]) -> ConfigDict:
    """Applies the comma-separated `presets` in order and locks the tree."""
    for name in filter(None, presets.split(",")):
        functions[name](config)
    return config.lock()
