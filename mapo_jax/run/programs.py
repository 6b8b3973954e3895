"""Builds the functions that the training loop calls, from the configuration of a run.

Each of them is compiled when it is first called, not before.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mapo_jax import advantages, loading, masked, model, sampling, sharding, training
from mapo_jax.config import ComputeConfig, Config
from mapo_jax.model import cudnn, decoding, splash
from mapo_jax.rollouts import Experience
from mapo_jax.run import processes


class Programs:
    """Steps and optimizers of both phases, scoring, advantages, and the sampler's settings."""

    def __init__(
        self,
        config: Config,
        architecture: model.ModelConfig,
        eos_ids: tuple[int, ...],
        mesh: Mesh,
        examples: int = 0,
    ):
        """Builds them; an advantage's memory has a place for each of the `examples` to train on."""
        c = config
        self.architecture, self._dtype = architecture, c.compute.dtype
        common: dict[str, Any] = {"mesh": mesh, "dtype": c.compute.dtype}
        microbatch = sharding.microbatch(mesh, c.batch.minibatch_prompts, c.batch.microbatch)
        memory: dict[str, Any] = {
            name: getattr(c.compute, name) for name in ("remat", "head_chunk", "attention_chunk")
        }
        lengths = c.data.max_prompt_tokens, c.rollout.max_new_tokens
        self.attention, self.attention_note = choose_attention(
            c.compute, architecture, mesh, c.batch.microbatch, lengths
        )
        memory["attention"] = self.attention
        settings = training.ScoringConfig(
            temperature=c.rollout.temperature,
            entropy_gradient=c.algorithm.entropy > 0,
            **memory,
        )
        falls = c.optimizer.decay != "constant"  # else no program depends on the length of the run
        self.txs = {
            "warmup": training.make_optimizer(
                dataclasses.replace(
                    c.optimizer,
                    learning_rate=c.warmup.learning_rate,
                    vision_learning_rate=None,
                    schedule_steps=c.warmup.schedule_steps,
                    decay=c.warmup.decay,
                ),
                c.warmup.steps,
            ),
            "rl": training.make_optimizer(c.optimizer, c.updates if falls else 0),
        }
        self._trains_vision = {"warmup": True, "rl": c.optimizer.trains_vision}
        self.warmup_step = training.TrainStep(
            architecture,
            training.ScoringConfig(**memory),
            training.cross_entropy_loss,
            self.txs["warmup"],
            aggregation="token_mean",
            minibatch_prompts=c.warmup.batch,
            microbatch=sharding.microbatch(mesh, c.warmup.batch, (_demonstrations(c, mesh), 1)),
            **common,
        )
        self.update = training.TrainStep(
            architecture,
            settings,
            training.policy_loss(
                training.make_surrogate(c.algorithm),
                beta=c.algorithm.beta,
                kl=c.algorithm.kl,
                entropy=c.algorithm.entropy,
                correction=training.make_correction(c.algorithm),
            ),
            self.txs["rl"],
            aggregation=c.algorithm.aggregation,
            minibatch_prompts=c.batch.minibatch_prompts,
            microbatch=microbatch,
            trains_vision=self._trains_vision["rl"],
            **common,
        )
        self.score = training.Score(architecture, settings, microbatch=microbatch, **common)
        decoding_attention, self.decoding_note = choose_decoding(
            c.compute, architecture, mesh, lengths
        )
        self.sampling = sampling.SamplingConfig(
            group_size=c.batch.group,
            max_new_tokens=c.rollout.max_new_tokens,
            temperature=c.rollout.temperature,
            top_p=c.rollout.top_p,
            top_k=c.rollout.top_k,
            eos_ids=eos_ids,
            lanes=c.rollout.lanes or None,
            width=c.rollout.width or None,
            attention=decoding_attention,
        )
        advantage: str | Callable = c.algorithm.advantage
        if ".py:" in c.algorithm.advantage:
            advantage = loading.load_function(c.algorithm.advantage, "algorithm.advantage")
        options = dict(c.algorithm.advantage_options)
        by_prompt, replicated = sharding.by_prompt(mesh), sharding.replicated(mesh)
        # Settings for one greedy response per prompt, if the advantage compares with its reward.
        self.greedy = None
        if advantages.takes(advantage, options, "baseline"):
            self.greedy = dataclasses.replace(self.sampling, group_size=1, temperature=0.0, width=1)
        self.advantages = jax.jit(
            functools.partial(_advantages, advantage, options, c.algorithm.truncated),
            out_shardings=(by_prompt, by_prompt, replicated, replicated),
        )
        looks_back = advantages.takes(advantage, options, "history")
        self._memory = {
            "warmup": lambda: None,
            "rl": lambda: advantages.nothing(examples) if looks_back else None,
        }
        self.join = jax.jit(_join, out_shardings=(by_prompt, replicated))
        # Copies some groups to every process.
        self.pick = jax.jit(
            lambda tree, index: jax.tree.map(lambda x: x[index], tree), out_shardings=replicated
        )
        self.solved = jax.jit(
            functools.partial(_solved, c.algorithm.truncated), out_shardings=replicated
        )
        bounds = c.dynamic.low, c.dynamic.high
        self.choose = jax.jit(
            functools.partial(_choose, *bounds, c.algorithm.truncated),
            out_shardings=(by_prompt, replicated),
        )
        # Makes the sampler's weights by the cast of the trainer and a gather over fsdp. This runs
        # once per rollout phase for trained weights. For frozen weights it runs once per run, and
        # copies nothing if the layout is the same.
        trained, frozen = (
            sharding.shardings(mesh, axes, sharding.GATHERED)
            for axes in model.partition(model.logical_axes(architecture))
        )
        self.serve = jax.jit(
            lambda params: model.cast(params, c.compute.dtype), out_shardings=trained
        )
        self.serve_frozen = lambda params: jax.device_put(
            model.cast(params, c.compute.dtype), frozen
        )
        self.shardings = {
            phase: dataclasses.replace(
                training.state_shardings(architecture, tx, mesh, self._trains_vision[phase]),
                memory=jax.tree.map(lambda _: replicated, jax.eval_shape(self._memory[phase])),
            )
            for phase, tx in self.txs.items()
        }

    def init_trained(self, key: jax.Array) -> model.Params:
        """Makes random values for the trained parameters, in their shardings."""

        def init(key):
            return model.partition(model.init_params(key, self.architecture))[0]

        return jax.jit(init, out_shardings=self.shardings["rl"].params)(key)

    def reference(self, params: model.Params) -> model.Params:
        """A copy of parameters for scoring alone, which the donated state cannot take away.

        It is in the dtype that scoring casts to anyway, so the log-probs are the same.
        """
        dtype = jnp.dtype(self._dtype)
        return jax.tree.map(lambda x: jnp.array(x, dtype, copy=True), params)

    def fresh_state(self, phase: str, params: model.Params) -> training.TrainState:
        """Makes a state with a new optimizer, in one jit, so that every array has its sharding."""
        return jax.jit(self._init(phase), out_shardings=self.shardings[phase])(params)

    def abstract_state(self, phase: str) -> training.TrainState:
        """Returns shapes, dtypes and shardings of a phase's state; a restore needs them."""
        trained = model.partition(model.abstract_params(self.architecture))[0]
        shapes = jax.eval_shape(self._init(phase), trained)
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            shapes,
            self.shardings[phase],
        )

    def _init(self, phase: str) -> Callable[[model.Params], training.TrainState]:
        rest = self.txs[phase], self._trains_vision[phase]
        return lambda params: training.init_state(params, *rest, self._memory[phase]())


def _demonstrations(config: Config, mesh: Mesh) -> int:
    """Returns how many demonstrations a shard computes at a time: as many as rollouts, or fewer."""
    own = config.warmup.batch // sharding.batch_shards(mesh)
    most = math.prod(config.batch.microbatch)
    return max((n for n in range(1, min(own, most) + 1) if own % n == 0), default=1)


def choose_attention(
    compute: ComputeConfig,
    architecture: model.ModelConfig,
    mesh: Mesh,
    microbatch: tuple[int, int],
    lengths: tuple[int, int],
) -> tuple[str, str]:
    """Chooses `ScoringConfig.attention`, which is `compute.attention` unless that is "auto".

    With "auto" it is splash on TPUs, if splash can compute the policy's attention. On GPUs it is
    cuDNN's kernel, if every process finds that it equals the plain path in a microbatch of the run,
    and in the vision tower, if there is one. In all other cases it is "plain".

    Returns:
        The choice, and a note for the user: why it is not cuDNN's kernel on a GPU; else "".
    """
    if compute.attention != "auto":
        return compute.attention, ""
    platform = mesh.devices.flat[0].platform
    if platform == "tpu" and splash.is_supported(architecture):
        return "splash", ""
    if platform == "gpu":
        checked = {(*microbatch, *lengths): architecture}
        if architecture.vision is not None:
            shape = (microbatch[0], 1, 1, _CHECKED_PATCHES)
            checked[shape] = _tower_heads(architecture, architecture.vision)
        found = [
            cudnn.refusal(heads, shape, compute.dtype, compute.attention_chunk)
            for shape, heads in checked.items()
        ]
        refusals = [text for text in processes.everyones(max(found)) if text]
        return ("plain", f"not cuDNN's: {refusals[0]}") if refusals else ("cudnn", "")
    return "plain", ""


_CHECKED_PATCHES = 1024  # of a prompt


def _tower_heads(architecture: model.ModelConfig, vision: model.VisionConfig) -> model.ModelConfig:
    """The policy with the heads of its tower, whose attention has no soft caps."""
    return dataclasses.replace(
        architecture,
        num_heads=vision.num_heads,
        num_kv_heads=vision.num_heads,
        head_dim=vision.embed_dim // vision.num_heads,
        attention_softcap=0.0,
    )


def choose_decoding(
    compute: ComputeConfig,
    architecture: model.ModelConfig,
    mesh: Mesh,
    lengths: tuple[int, int],
) -> tuple[str, str]:
    """Chooses `SamplingConfig.attention`.

    On GPUs it is "triton", if a shard of the batch is one device and every process finds that the
    kernel equals the plain path; not with `compute.attention` "plain". On CPUs it is "turned".
    Otherwise it is "plain".

    Args:
        lengths: tokens of the prompts and of the responses.

    Returns:
        The choice, and a note for the user: why a GPU does not take the kernel, what "turned"
        means; else "".
    """
    platform = mesh.devices.flat[0].platform
    if platform == "cpu":
        return "turned", "in decoding: the plain path, with keys as a CPU reads them"
    if compute.attention == "plain" or platform != "gpu":
        return "plain", ""
    if mesh.shape["tensor"] > 1:
        return "plain", "not the kernel: mesh.tensor splits its heads"
    S, T = lengths
    cells = np.diff([0, *sampling.rungs(T)]).tolist()
    refusal = decoding.refusal(architecture, (S, cells), compute.dtype)
    refusals = [text for text in processes.everyones(refusal) if text]
    return ("plain", f"not the kernel: {refusals[0]}") if refusals else ("triton", "")


def _join(*chunks):
    """Returns the chunks of a rollout batch as one Experience, and the number of its tokens."""
    whole = jax.tree.map(lambda *x: jnp.concatenate(x), *chunks)
    return whole, whole.rollouts.length.sum()


def _valid(truncated: str, experience: Experience) -> jax.Array:
    """bool[P, G], true for rollouts that count."""
    rollouts = experience.rollouts
    valid_PG = advantages.valid_rewards(experience.rewards, rollouts.valid)
    return valid_PG & rollouts.finished if truncated == "mask" else valid_PG


def _advantages(advantage, options, truncated, key, experience, memory):
    """Computes the advantages of a batch.

    Returns:
        advantages f32[P, G], valid bool[P, G], facts like `advantages.group_metrics`, and the
        memory with this batch; None if there is none.
    """
    rollouts, rewards_PG, success_PG = (
        experience.rollouts,
        experience.rewards,
        experience.success,
    )
    lengths_PG = rollouts.length
    valid_PG = _valid(truncated, experience)
    parts = {name: experience.parts[name] for name in sorted(experience.parts)}
    history_P = None
    if memory is not None:
        batch = rewards_PG, success_PG, valid_PG, rollouts.example
        memory, history_P = advantages.remember(memory, *batch)
    advantages_PG = advantages.group_advantages(
        advantage,
        rewards_PG,
        success_PG,
        valid_PG,
        key=key,
        baseline_P=experience.baseline,
        lengths_PG=lengths_PG,
        components_PGC=jnp.stack([*parts.values()], -1)
        if parts
        else jnp.zeros((*rewards_PG.shape, 0)),
        history_P=history_P,
        **options,
    )

    def mean(x_PG, mask_PG):
        return masked.sum(x_PG, mask_PG), mask_PG.sum()

    facts = {
        "reward/mean": mean(rewards_PG, valid_PG),
        "reward/success": mean(success_PG, valid_PG),
        "reward/invalid": mean(~jnp.isfinite(rewards_PG), rollouts.valid),
        **{f"reward/{name}": mean(x_PG, valid_PG) for name, x_PG in parts.items()},
        "rollout/length_mean": mean(lengths_PG, rollouts.valid),
        "rollout/length_max": (lengths_PG.max(), jnp.int32(1)),
        "rollout/truncated": mean(~rollouts.finished, rollouts.valid),
        **advantages.group_metrics(rewards_PG, success_PG, valid_PG),
        **advantages.success_count_metrics(advantages_PG, success_PG, valid_PG),
    }
    return advantages_PG, valid_PG, facts, memory


def _right(experience: Experience) -> jax.Array:
    """[P, G], whether rollouts are right: their part accuracy, or success without such a part."""
    return experience.parts["accuracy"] if "accuracy" in experience.parts else experience.success


def _solved(truncated: str, experience: Experience) -> tuple[jax.Array, jax.Array]:
    """Returns how many rollouts of each prompt are right, and how many count, [P] each."""
    valid_PG = _valid(truncated, experience)
    return masked.sum(_right(experience), valid_PG, 1), valid_PG.sum(1)


def _choose(low, high, truncated, pool, fresh):
    """Moves the groups that dynamic sampling keeps to the front, in the order of their draws.

    As in DAPO (arXiv 2503.14476) sec. 3.2, a group is kept if low < its mean accuracy < high.
    Accuracy is that of `_right`. A group whose rewards are all equal teaches nothing, whatever its
    accuracy, and is not kept.

    Args:
        pool: (kept bool[P], Experience) of the tries before, or None.
        fresh: Experience of this try.

    Returns:
        The new pool of P groups; and a triple of the number of kept groups in it, the draws of all
        its groups, and facts as (sum, number) about all groups of this try.
    """
    valid_PG = _valid(truncated, fresh)
    accuracy_P = masked.mean(_right(fresh), valid_PG, 1)
    differ_P = ~jax.vmap(advantages.is_constant)(fresh.rewards, valid_PG)
    kept_P = (low < accuracy_P) & (accuracy_P < high) & differ_P
    facts = {
        "groups/kept": (kept_P.sum(), jnp.any(valid_PG, 1).sum()),
        "reward/mean_sampled": (masked.sum(fresh.rewards, valid_PG), valid_PG.sum()),
    }
    both = (kept_P, fresh)
    if pool is not None:
        both = jax.tree.map(lambda *x: jnp.concatenate(x), pool, both)
    order = jnp.argsort(~both[0], stable=True)[: len(kept_P)]
    kept_P, experience = jax.tree.map(lambda x: x[order], both)
    return (kept_P, experience), (kept_P.sum(), experience.draw, facts)
