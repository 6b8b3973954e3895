"""Geometry3K with the policy and the hyper-parameters of the MAPO paper (arXiv 2509.18849).

    python launch/run.py --config experiments/geometry3k.py --config.data.path=DIR

`data.path` holds the problems as lupantech/InterGPS or hiyouga/geometry3k publishes them, see
mapo_jax/tasks/geometry3k.py. `policy.init` is a Hugging Face folder or an id on its hub. Without a
preset this is the paper's run: all of Qwen2.5-VL-7B-Instruct, its tower too, 512 prompts x 12, 80
steps. It cuts the policy over all devices, and the paper had eight. Memory (in GB, 10^9 bytes) is
that of `python launch/plan.py`, at full lengths. The seconds of a step are computed: for prompts of
512 tokens, as a diagram has 319 to 352, and responses of 40% of the full length, for half of a
device's nominal bandwidth and a third of its nominal FLOP/s. Nobody has run these here. Compiled
ahead of time, with `--topology v5e:8x8`, the second one has 11.3 GiB for sampling and 11.8 for the
update, and 526 s for a step of full lengths at 40% of the peak.

| preset | policy | memory | a step |
| --- | --- | --- | --- |
| | Qwen2.5-VL-7B-Instruct on 8 GPUs | 65 of 80, each | 610 s (A100) |
| v5e_64 | Qwen2.5-VL-7B-Instruct on 64 chips | 13 of 16, each | 180 s |
| gpu_80gb | Qwen2.5-VL-3B-Instruct, adapters of rank 32, 64 prompts x 12 | 36 of 80 | 90 s (H100) |
| tiny | a small policy with a tower, from scratch | 2 | 3 s (2 CPU cores) |

`grpo_paper` and `dapo_paper` are the other rows of the paper's tables, and `group_8` is their other
half. A preset of a machine comes last, as in `geometry3k.py:grpo_paper,group_8,v5e_64`. The paper's
other sets are evaluated with

    --config.eval.sets=mathvision=DIR,mathvista=DIR,mathverse=DIR

at temperature 0.5 and top-p 0.95, as in the paper, see mapo_jax/tasks/visual_math.py. A prompt that
is longer than `data.max_prompt_tokens` is left out and counted: evaluate with 8,192, as of
MathVision's 304 pictures in testmini 13 have more than 1,900 tokens, and one has 5,390.

`tiny` runs the same code on ten problems in about two minutes on two cores, most of it to compile.
It needs a tokenizer, --config.tokenizer.path, and learns answers by heart, not geometry.

Differs from the paper's code: the words of the instruction ("You FIRST think about the reasoning
process as an internal monologue ..."), and the grader, which is mathruler there. Its code scales a
picture to the limits of pixels and then rounds it to patches, and so does `images.resize=easyr1`;
`policy` rounds once.
"""

from ml_collections import ConfigDict

from experiments import common, gsm8k


def tiny(config: ConfigDict) -> None:
    """A small policy with a tower, from scratch, on a few problems in about two minutes."""
    gsm8k.tiny(config)
    config.data.max_prompt_tokens = 256
    config.policy.vision.num_layers = 2
    config.images.min_pixels = 64**2
    config.images.max_pixels = 128**2
    config.images.resize = "policy"
    config.warmup.steps = 40  # on right answers without a thought, which teach the form
    config.warmup.learning_rate = 1e-2
    config.warmup.batch = 8
    config.rollout.max_new_tokens = 32
    config.eval.problems = 4000


def gpu_80gb(config: ConfigDict) -> None:
    """One GPU of 80 GB: adapters of Qwen2.5-VL-3B-Instruct, 64 prompts x 12."""
    config.policy.init = "Qwen/Qwen2.5-VL-3B-Instruct"
    config.lora.rank = 32
    config.lora.alpha = 64.0
    config.optimizer.learning_rate = 2e-5  # adapters need a larger rate
    config.batch.prompts = 64
    config.batch.minibatch_prompts = 16
    config.batch.microbatch = (2, config.batch.group)
    config.rollout.lanes = 16
    config.mesh.fsdp = 1


def v5e_64(config: ConfigDict) -> None:
    """64 TPU v5e chips: the paper's run, all of Qwen2.5-VL-7B-Instruct cut over the chips."""
    config.mesh.fsdp = 16
    config.mesh.tensor = 4  # sampling holds the weights whole but for this
    config.batch.microbatch = (1, config.batch.group // 2)
    config.rollout.lanes = 4


PRESETS = {"tiny": tiny, "gpu_80gb": gpu_80gb, "v5e_64": v5e_64} | common.METHODS | common.ROWS


def get_config(presets: str = "") -> ConfigDict:
    """Returns the experiment with the comma-separated `presets` applied."""
    config = common.get_config()
    common.paper_with_pictures(config)
    config.steps = 80
    config.task.name = "geometry3k"
    config.task.options.answers = "free"  # or "choices", which the prompt lists; letter or value
    config.rollout.lanes = 8
    config.eval.problems = 4000  # all of each set
    return common.apply(config, presets, PRESETS)
