"""One table holds every message that a user can meet, with its whole text.

Each mistake gives one line, which names the key, the value, the allowed values and the fix. The
command ends with 2 (3 for the run's own guard), without a traceback. Add a line here for each new
message. CASES are command lines; RAISED are mistakes that show only in the middle of a run.
"""

import errno
import io
import json
import os
import re
import socket
import sys
import threading

import jax.numpy as jnp
import numpy as np
import pytest
import rich.console
import sentencepiece
from etils import epath

from experiments import arithmetic
from mapo_jax import errors, loading, rewards, tasks
from mapo_jax.commands import evaluate, exits, launchers
from mapo_jax.config import from_config_dict, to_dict
from mapo_jax.rewards import judging
from mapo_jax.run import checkpoints, contents, records, solving, sources, workdirs
from mapo_jax.text import load_tokenizer
from tests import small
from tests.runs import ROOT

# The files that the cases below read, in a directory that they call {files}.
FILES = {
    "broken.py": "def get_config(presets:\n",
    "raises.py": "import nonexistent_module\n",
    "empty_config.py": "x = 1\n",
    "dict_config.py": "def get_config(presets):\n    return {}\n",
    "reward.py": """\
import json

GOOD = {"reward": 1.0, "success": True, "parts": {}}
def good(response, example): return GOOD
def one_argument(response): return GOOD
def no_dict(response, example): return 1.0
def no_parts(response, example): return {"reward": 1.0, "success": True}
def text(response, example): return {**GOOD, "reward": "high"}
def above(response, example): return {**GOOD, "reward": 1.5}
def number(response, example): return {**GOOD, "success": 1}
def odd_parts(response, example): return {**GOOD, "parts": [1.0]}
def other_parts(response, example): return {**GOOD, "parts": {response: 1.0}}
def parses(response, example): return json.loads(response)
def range_(response, example): return GOOD
range_.range = (1, 0)
def long(response, example): return {**GOOD, "parts": {"overlong": 1.0}}
def below(response, example): return GOOD
below.range = (-1.0, 1.0)
""",
    "syntax.py": "def fn(response, example)\n    return 0\n",
    "imports.py": "import os\nimport nonexistent_module\n",
    "beside.py": "import syntax\n",
    "dies.py": "import os\nos._exit(1)\n",
    "quits.py": "raise SystemExit('bye')\n",
    "advantage.py": """\
import jax.numpy as jnp
def good(rewards_G, success_G, mask_G, *, scale=1.0): return scale * rewards_G
def branches(rewards_G, success_G, mask_G):
    return rewards_G if rewards_G.max() > 0 else 0 * rewards_G
def scalar(rewards_G, success_G, mask_G): return rewards_G.mean()
def needs(rewards_G, success_G, mask_G, *, scale): return scale * rewards_G
def two(rewards_G, success_G): return rewards_G
def remax(rewards_G, success_G, mask_G, *, baseline): return rewards_G - baseline
""",
    "surrogate.py": """\
import jax.numpy as jnp
def good(logps, old_logps, advantages, mask, *, scale: float = 1.0): return scale * logps, {}
def needs(logps, old_logps, advantages, mask, *, scale): return scale * logps, {}
def three(logps, old_logps, advantages): return logps, {}
def branches(logps, old_logps, advantages, mask):
    return (logps if logps.max() > 0 else -logps), {}
def alone(logps, old_logps, advantages, mask): return logps
def text(logps, old_logps, advantages, mask): return "logps", {}
def scalar(logps, old_logps, advantages, mask): return logps.mean(), {}
def counts(logps, old_logps, advantages, mask): return mask.astype(int), {}
def names(logps, old_logps, advantages, mask):
    mean = logps.mean()
    return logps, {"policy/entropy": logps, "loss/kl": logps, "skipped": logps, "policy/mean": mean}
""",
    "gsm8k/train.jsonl": '{"question": "q", "answer": "#### 1"}\n{"question": "q"}\n',
    "gsm8k/test.jsonl": '{"question": "q", "answer": "one"}\n{"question": 1}x\n',
    "no_rows/train.jsonl": "",
    "no_rows/test.jsonl": '{"question": "q", "answer": "#### 1"}\n',
    "rows.jsonl": '{"question": "q", "answer": "1"}\n{"question": "q"}\n\n["q"]\n',
    "few.jsonl": '{"question": "q", "answer": "1"}\n',
    "some.jsonl": '{"question": "q", "answer": "1"}\n{"question": "r", "answer": "2"}\n',
    "seen.jsonl": '{"question": "<image>?", "answer": "1", "image": "aGk="}\n' * 2
    + '{"question": "<image>!", "answer": "1", "image": "aGk="}\n',
    "places/train.jsonl": '{"question": "<image>?", "answer": "1"}\n',
    "places/test.jsonl": '{"question": "<image>!", "answer": "1"}\n',
    "rows/train.jsonl": '{"question": "2+2=", "answer": "4"}\n',
    "plain.txt": "no tokenizer",
    "foreign/metrics.jsonl": "records of something else",
    "fresh/checkpoints/": "",
    "begun/checkpoints/": "",
    "silent/metrics.jsonl": "",
    "cut/metrics.jsonl": '{"kind": "train", "phase": "rl", "step": 1}\n{"step"\n',
}

ARITHMETIC = "--config=experiments/arithmetic.py:tiny --config.task.options.train_size=9"
ARITHMETIC += " --config.task.options.eval_size=9"  # few problems are quick to make
TOKENIZER = "--config.tokenizer.path=mapo_jax/tasks/arithmetic.model"
GSM8K = f"--config=experiments/gsm8k.py:tiny {TOKENIZER} --config.batch.microbatch=8,4"
GSM8K += " --config.batch.minibatch_prompts=8"  # 8 devices
JSONL = f"--config=experiments/jsonl.py:tiny {TOKENIZER}"
SHARDS = "the 8 batch shards (mesh.data=8 x mesh.fsdp=1)"
WAYS = (
    "give a directory with train.jsonl and another file of evaluation rows, such as test.jsonl, or"
    " one .jsonl file; .parquet files do as well"
)
FUNCTIONS = (
    "good, one_argument, no_dict, no_parts, text, above, number, odd_parts, other_parts, parses, "
    "range_, long, below"
)
ADVANTAGES = "good, branches, scalar, needs, two, remax"
SURROGATES = "good, needs, three, branches, alone, text, scalar, counts, names"
SURROGATE = "algorithm.surrogate={files}/surrogate.py"
SURROGATE_FORM = (
    "make it fn(logps, old_logps, advantages, mask, **options) -> (loss, metrics) in jnp"
)
PRESETS = (
    "tiny, small, smollm2, mapo, grpo, dapo, gspo, cispo, dr_grpo, maxrl, mapo_paper, grpo_paper, "
    "dapo_paper, gspo_paper, cispo_paper, dr_grpo_paper, maxrl_paper, paper_eval"
)
NEEDS_A_MODEL = (
    "missing; give a SentencePiece model, a tokenizer.json or a folder with one, which decides the "
    "vocabulary, as in --config.tokenizer.path=tokenizer.model"
)

# Each command line has its lines on stderr. ARITHMETIC goes before one without --config.
CASES = {
    # The command line
    "": ["--config: missing; give an experiment, as in --config arithmetic"],
    "--config=experiments/arithmetc.py": [
        "--config=experiments/arithmetc.py: no such file; did you mean experiments/arithmetic.py?"
    ],
    "--config={files}/plain.txt": [
        "--config={files}/plain.txt: not a Python file; give FILE.py[:PRESET,...]"
    ],
    "--config={files}/broken.py": [
        "--config={files}/broken.py: line 1 raises SyntaxError: '(' was never closed "
        "(broken.py, line 1)"
    ],
    "--config={files}/raises.py": [
        "--config={files}/raises.py: line 1 raises ModuleNotFoundError: No module named "
        "'nonexistent_module'"
    ],
    "--config={files}/empty_config.py": [
        "--config={files}/empty_config.py: has no get_config(presets); see "
        "experiments/arithmetic.py"
    ],
    "--config={files}/dict_config.py": [
        "--config={files}/dict_config.py: get_config returned dict, not a ConfigDict"
    ],
    "--config=experiments/arithmetic.py:tny": [
        "--config=experiments/arithmetic.py:tny: no preset tny; did you mean tiny?; presets: "
        f"{PRESETS}"
    ],
    "--workdri=x": ["--workdri=x: no such argument; did you mean --workdir?; see --help"],
    "--config.seed": ["--config.seed: a value is missing; give --config.seed=VALUE"],
    "--config.bach.prompts=8": ["bach.prompts=8: no such key; did you mean batch.prompts?"],
    "--config.mesh=2": ["mesh=2: is a group; set one of mesh.data, mesh.fsdp, mesh.tensor"],
    "--config.task.options=2": [
        "task.options=2: set one of its keys, as in --config.task.options.KEY=VALUE"
    ],
    "--config.steps=many": ["steps=many: expected an integer, as in 8"],
    "--config.steps=1_0": ["steps=1_0: write the number without _"],
    "--config.algorithm.beta=1_0.5": ["algorithm.beta=1_0.5: write the number without _"],
    "--config.batch.microbatch=8,1_0": ["batch.microbatch=8,1_0: write the number without _"],
    "--workdir=": ["--workdir: a value is missing; give --workdir=VALUE"],
    "--config.algorithm.beta=x": ["algorithm.beta=x: expected a number, as in 0.5 or 1e-6"],
    "--config.log.tensorboard=yes": ["log.tensorboard=yes: expected True or False"],
    "--config.batch.microbatch=8": [
        "batch.microbatch=8: expected 2 numbers like its default, as in 8,4"
    ],
    # Single values
    "--config.batch.epochs=0": ["batch.epochs=0: must be >= 1"],
    "--config.optimizer.learning_rate=nan": [
        "optimizer.learning_rate=nan: must be finite and >= 0"
    ],
    "--config.batch.group=1 --config.batch.microbatch=8,1": [
        "batch.group=1: must be >= 2: the only rollout of a group is its own mean, so every "
        "advantage would be 0"
    ],
    "--config.rollout.temperature=0": [
        "rollout.temperature=0.0: must be > 0: training needs the log-probs of what is sampled "
        "(evaluation is greedy by itself)"
    ],
    "--config.rollout.top_p=0": ["rollout.top_p=0.0: must be > 0 and <= 1"],
    "--config.policy.head_dim=3": ["policy.head_dim=3: must be >= 2 and even (RoPE turns pairs)"],
    "--config.algorithm.aggregation=token_maen": [
        "algorithm.aggregation=token_maen: must be one of token_mean, sequence_mean, prompt_mean, "
        "constant; did you mean token_mean?"
    ],
    "--config.algorithm.old_logps=x": ["algorithm.old_logps=x: must be one of sampler, rescored"],
    "--config.algorithm.correction=tsi": [
        "algorithm.correction=tsi: must be one of none, tis, icepop, mis; did you mean tis?"
    ],
    "--config.algorithm.correction=tis": [
        "algorithm.correction=tis: weighs the trainer's log-probs against the sampler's; set "
        "algorithm.old_logps=rescored, or algorithm.correction=none"
    ],
    "--config.algorithm.correction=icepop --config.algorithm.old_logps=rescored "
    "--config.algorithm.correction_options.high=0.9": [
        "algorithm.correction_options.high=0.9: must be >= 1, the ratio without a gap"
    ],
    "--config.log.console=x": ["log.console=x: must be one of auto, rich, plain, quiet, json"],
    "--config.algorithm.truncated=x": ["algorithm.truncated=x: must be one of fail, mask"],
    "--config.log.wandb=p --config.log.trackio=q": [
        "log.wandb=p: the package wandb is not installed; pip install wandb, or leave log.wandb "
        "empty",
        "log.trackio=q: the package trackio is not installed; pip install trackio, or leave "
        "log.trackio empty",
    ],
    "--config.profile.steps=12:10": [
        "profile.steps=12:10: must be A:B with 1 <= A < B, as in 10:12, which traces steps 10 and "
        "11"
    ],
    "--config.compute.dtype=float23": [
        "compute.dtype=float23: must be one of float32, bfloat16, float16; did you mean float32?"
    ],
    # Values that do not go together
    "--config.batch.minibatch_prompts=5": [
        "batch.minibatch_prompts=5: must divide batch.prompts=16; try 4",
        "batch.microbatch=(8, 4): must divide batch.minibatch_prompts=5 with its first number, "
        "prompts; try 5",
        f"batch.minibatch_prompts=5: must be a multiple of {SHARDS}; try 8",
    ],
    "--config.batch.microbatch=8,3": [
        "batch.microbatch=(8, 3): must divide batch.group=8 with its second number, rollouts per "
        "prompt; try 2"
    ],
    "--config.rollout.chunks=3": ["rollout.chunks=3: must divide batch.prompts=16; try 2"],
    "--config.rollout.width=9": ["rollout.width=9: must be at most batch.group=8, or 0 for it"],
    "--config.algorithm.clip_dual=1.1": [
        "algorithm.clip_dual=1.1: must be at least 1 + algorithm.clip_high=0.3; try 1.3"
    ],
    "--config.policy.num_kv_heads=3": [
        "policy.num_kv_heads=3: must divide policy.num_heads=4; try 2"
    ],
    # The mesh; there are 8 devices
    "--config.mesh.data=3": [
        "mesh.data=3, mesh.fsdp=1, mesh.tensor=1: must multiply to the 8 devices there are; set "
        "one of them to -1 for the rest"
    ],
    "--config.mesh.fsdp=-1": [
        "mesh.data=-1, mesh.fsdp=-1, mesh.tensor=1: at most one may be -1, the rest of the devices"
    ],
    "--config.mesh.tensor=4": [
        "mesh.tensor=4: must divide policy.num_kv_heads=2; try 2",
        "mesh.tensor=4: must divide the vocabulary of the policy, 22 tokens; try 2",
    ],
    "--config.compute.attention=splash": [
        "compute.attention=splash: is for TPUs, and the devices are of the platform cpu; take auto"
    ],
    "--config.compute.attention=cudnn": [
        "compute.attention=cudnn: does not compute compute.dtype=float32, only bfloat16 and "
        "float16; take auto",
        "compute.attention=cudnn: is for GPUs, and the devices are of the platform cpu; take auto",
    ],
    "--config.mesh.fsdp=8 --config.policy.embed_dim=36": [
        "mesh.fsdp=8: must divide policy.embed_dim=36; try 4"
    ],
    "--config.batch.prompts=12 --config.batch.minibatch_prompts=12 "
    "--config.batch.microbatch=12,4": [
        f"batch.prompts=12: must be a multiple of {SHARDS}; try 16",
        f"batch.minibatch_prompts=12: must be a multiple of {SHARDS}; try 16",
    ],
    "--config.warmup.batch=12": [f"warmup.batch=12: must be a multiple of {SHARDS}; try 16"],
    "--config.eval.batch=12": [f"eval.batch=12: must be a multiple of {SHARDS}; try 16"],
    "--config.rollout.chunks=4": [
        f"rollout.chunks=4: must leave each chunk a multiple of {SHARDS}, but batch.prompts=16 / 4 "
        "is 4; try rollout.chunks=1"
    ],
    # The task and its data
    "--config.task.name=arithmetics": [
        "task.name=arithmetics: no such task; did you mean arithmetic?"
    ],
    "--config.task.options.level=2": ["task.options.level=2: no such option; did you mean levels?"],
    "--config.task.options.levels=0": ["task.options.levels=0: must be of type tuple"],
    "--config.task.options.levels=0,1": [
        "task.options.levels=(0, 1): must be numbers of operations, each from 1 to 8"
    ],
    "--config.data.path=x": ["data.path=x: arithmetic is generated; leave data.path empty"],
    "--config.data.max_prompt_tokens=2": [
        "data.max_prompt_tokens=2: all 9 prompts of arithmetic's set train are longer; set it to 4 "
        "(the shortest) or more"
    ],
    "--config.data.max_prompt_tokens=4": [
        "data.max_prompt_tokens=4: all 9 prompts of arithmetic's set hard are longer; set it to 5 "
        "(the shortest) or more"
    ],
    "--config.rollout.max_new_tokens=2": [
        "rollout.max_new_tokens=2: all 9 demonstrations of arithmetic are longer; set it to 12 "
        "(the shortest) or more"
    ],
    f"{GSM8K} --config.data.path=nowhere": [
        "data.path=nowhere: no train.jsonl and no test.jsonl there; give the directory that holds "
        "GSM8K's train.jsonl and test.jsonl"
    ],
    f"{GSM8K} --config.data.path={{files}}/no_rows": [
        "{files}/no_rows/train.jsonl: empty; one JSON object a line is needed"
    ],
    f"{GSM8K} --config.data.path={{files}}/gsm8k": [
        '{files}/gsm8k/train.jsonl:2: not a row {"question": text, "answer": text}',
        "{files}/gsm8k/test.jsonl:2: not JSON (Extra data at column 16); one JSON object a line is "
        "needed",
        "{files}/gsm8k/test.jsonl:1: the answer does not end in '#### number'",
    ],
    GSM8K: [
        "data.path: GSM8K is missing: pass --config.data.path=DIR with train.jsonl and test.jsonl, "
        "or run where tensorflow-datasets is installed and can download or has prepared it "
        "(ModuleNotFoundError: import of tensorflow_datasets halted; None in sys.modules)"
    ],
    JSONL + " --config.warmup.steps=0": [f"data.path='': missing; {WAYS}"],
    f"{JSONL} --config.data.path=nowhere": [
        f"data.path=nowhere: no such file or directory; {WAYS}"
    ],
    f"{JSONL} --config.data.path={{files}}/rows": [
        f"data.path={{files}}/rows: no evaluation set there; {WAYS} (there: train.jsonl)"
    ],
    f"{JSONL} --config.data.path={{files}}/rows.jsonl": [
        "{files}/rows.jsonl:3: an empty line; one JSON object a line is needed",
        '{files}/rows.jsonl:4: not a JSON object, as in {"question": "2+2=", "answer": "4"}',
        "{files}/rows.jsonl:2: no field answer, which task.options names; the row has question",
    ],
    f"{JSONL} --config.data.path={{files}}/few.jsonl": [
        "task.options.held_out=10: {files}/few.jsonl has 1 different prompts, so none would be "
        "left for evaluation; lower it (2 at least) or add rows"
    ],
    f"{JSONL} --config.data.path={{files}}/few.jsonl --config.task.options.template={{qestion}}": [
        "task.options.template='{qestion}': no row has a field qestion; did you mean question?"
    ],
    f"{JSONL} --config.data.path={{files}}/some.jsonl --config.task.options.held_out=2": [
        "warmup.steps=20: task.name=jsonl has no demonstrations to warm up on; set it to 0, or "
        "give task.options.demonstration"
    ],
    f"{JSONL} --config.data.path={{files}}/seen.jsonl --config.task.options.images=image "
    "--config.task.options.demonstration={answer} --config.task.options.held_out=2 "
    "--config.data.too_long=truncate": [
        "data.too_long=truncate: would cut the pictures of jsonl's prompts; set it to drop",
        "task.name=jsonl: has pictures, and the policy sees none; give a vision policy in "
        "policy.init, or policy.vision.num_layers for a tower from scratch",
    ],
    f"{JSONL} --config.data.path={{files}}/places --config.eval.sets=jsonl={{files}}/places "
    "--config.task.options.demonstration={answer} --config.policy.vision.num_layers=1": [
        "task.name=jsonl: prompts have places for pictures, <image>, and no pictures; name their "
        "field in task.options.images, or set task.options.placeholder='' if that is text",
        "eval.sets=jsonl={files}/places: prompts have places for pictures, <image>, and no "
        "pictures; eval.sets reads none, so put the file beside data.path's train.jsonl",
    ],
    f"{JSONL} --config.data.path={{files}}/few.jsonl --config.task.options.held_out=1": [
        "task.options.held_out=1: must be 2 or more"
    ],
    # Tokenizer and policy
    "--config.optimizer.vision_learning_rate=0.1": [
        "optimizer.vision_learning_rate=0.1: there is no tower; set it to None"
    ],
    "--config.tokenizer.path=": [f"tokenizer.path='': {NEEDS_A_MODEL}"],
    "--config.tokenizer.path=x.model": [
        "tokenizer.path=x.model: cannot be read (No such file or directory); give a SentencePiece "
        "model, a tokenizer.json or a folder with one of them"
    ],
    "--config.tokenizer.path={files}": [
        "tokenizer.path={files}: holds no tokenizer.json and no tokenizer.model; give a tokenizer"
    ],
    "--config.tokenizer.template=chat": [
        "tokenizer.template=chat: the tokenizer of tokenizer.path=mapo_jax/tasks/arithmetic.model "
        "has no chat template; give a file FILE.jinja, or leave it empty for plain text"
    ],
    "--config.tokenizer.template=x.jinja": [
        "tokenizer.template=x.jinja: cannot be read (No such file or directory); give chat, a file "
        "FILE.jinja, or leave it empty"
    ],
    "--config.tokenizer.path={files}/plain.txt": [
        "tokenizer.path={files}/plain.txt: not a SentencePiece model; give a file such as "
        "tokenizer.model, or a tokenizer.json"
    ],
    "--config.tokenizer.path={files}/no_eos.model": [
        "tokenizer.path={files}/no_eos.model: the model has no end-of-sequence piece, so no "
        "response could end; train it with eos_id >= 0"
    ],
    "--config.policy.init=Qwen/Qwen2.5-0.5B": [
        "policy.init=Qwen/Qwen2.5-0.5B: no such folder, and the hub cannot give it "
        "(LocalEntryNotFoundError); give a folder with config.json and safetensors, downloaded "
        "where there is a network"
    ],
    "--config.policy.revision=main": [
        "policy.revision=main: is for a hub id, and policy.init='' is none; leave it empty"
    ],
    "--config.policy.init={files}/fresh --config.policy.revision=main": [
        "policy.revision=main: is for a hub id, and policy.init={files}/fresh is none; leave it "
        "empty"
    ],
    "--config.policy.init=nowhere": [
        "policy.init=nowhere: no such folder; give one that holds config.json and safetensors, the "
        "work directory of a run, or a hub id such as Qwen/Qwen2.5-0.5B-Instruct"
    ],
    "--config.policy.init={files}": [
        "policy.init={files}: config.json cannot be read (No such file or directory); give a "
        "Hugging Face folder or the work directory of a run"
    ],
    "--config.policy.init={files}/fresh": [
        "policy.init={files}/fresh: does not describe its policy (policy/model.json: No such file "
        "or directory); give the work directory of a run that has begun"
    ],
    "--config.policy.init={files}/begun": [
        "policy.init={files}/begun: holds no checkpoint yet; let that run save one first"
    ],
    "--config.policy.init={files}/begun --config.policy.checkpoint=bset": [
        "policy.checkpoint=bset: must be newest, best or a number, as in 60"
    ],
    "--config.policy.checkpoint=best": [
        "policy.checkpoint=best: policy.init='' is no work directory of a run; give one, or leave "
        "policy.checkpoint=newest"
    ],
    "--config.policy.init={files}/begun --config.lora.rank=2": [
        "policy.init={files}/begun: that run may go on, and adapters need weights that stay; write "
        "them with launch/export.py --workdir {files}/begun --output DIR, then policy.init=DIR"
    ],
    "--config.lora.rank=4 --config.lora.targets=q,kk": [
        "lora.targets=q,kk: no matrix kk; give some of q,k,v,o,gate,up,down",
        "lora.rank=4: adapters need a pretrained policy; give policy.init, or set it to 0",
    ],
    # Evaluation
    "--config.eval.sets=svamp": [
        "eval.sets=svamp: svamp is no NAME=PATH; give a task and its data, as in "
        "svamp=DIR/svamp.json,multiarith=DIR/multiarith.jsonl"
    ],
    "--config.eval.sets=swamp=x,svamp=x": [
        "eval.sets: swamp: no such task; did you mean svamp?",
        "data.path=x: svamp is read from a file; give it, or the directory that holds svamp.json "
        "or svamp.jsonl",
    ],
    # The work directory
    "--workdir={files}/plain.txt/run": [
        "--workdir={files}/plain.txt/run: cannot be written (Not a directory); choose another "
        "directory"
    ],
    "--workdir={files}/lr[1e-3]": [
        "--workdir={files}/lr[1e-3]: has [...] or a backslash in its path, {files}/lr[1e-3], and "
        "orbax reads these as a pattern, so no checkpoint could be read; choose another directory"
    ],
    "--workdir={files}/another": [
        "seed=0: the run in this work directory was started with 7; set it back, or start a new "
        "run in another --workdir"
    ],
    "--workdir={files}/foreign": [
        "--workdir={files}/foreign: holds files but no run (no config.json); choose an empty or a "
        "new directory"
    ],
    # One's own reward
    "--config.task.reward=my.py": ["task.reward=my.py: must look like path/to/file.py:function"],
    "--config.task.reward=my.py:fn": [
        "task.reward=my.py:fn: cannot read my.py: No such file or directory; give the path from "
        "the current directory"
    ],
    "--config.task.reward={files}/reward.py:god": [
        "task.reward={files}/reward.py:god: {files}/reward.py has no function god; did you mean "
        f"good? its functions: {FUNCTIONS}"
    ],
    "--config.task.reward={files}/reward.py:GOOD": [
        "task.reward={files}/reward.py:GOOD: GOOD is {'reward': 1.0, 'success': True, 'parts': "
        f"{{}}}}, not a function; its functions: {FUNCTIONS}"
    ],
    "--config.task.reward={files}/syntax.py:fn": [
        "task.reward={files}/syntax.py:fn: syntax error in {files}/syntax.py:1: expected ':'; mend "
        "it"
    ],
    "--config.task.reward={files}/imports.py:fn": [
        "task.reward={files}/imports.py:fn: {files}/imports.py:2 raised ModuleNotFoundError: No "
        "module named 'nonexistent_module'; mend it"
    ],
    "--config.task.reward={files}/beside.py:fn": [
        "task.reward={files}/beside.py:fn: syntax error in {files}/syntax.py:1: expected ':'; mend "
        "it"
    ],
    "--config.task.reward={files}/dies.py:fn": [
        "task.reward={files}/dies.py:fn: worker processes cannot be used: one ends or hangs as it "
        "starts; import its file by hand to see why"
    ],
    "--config.task.reward={files}/quits.py:fn": [
        "task.reward={files}/quits.py:fn: {files}/quits.py:1 raised SystemExit: bye; mend it"
    ],
    "--config.task.reward={files}/reward.py:range_": [
        "task.reward: range_.range=(1, 0): must be two finite numbers (low, high), low < high, as "
        "in (0, 1)"
    ],
    "--config.task.reward={files}/reward.py:parses": [
        "task.reward: parses raised JSONDecodeError: Expecting value: line 1 column 1 (char 0) "
        "({files}/reward.py:13) for the response ''; mend it and start the same command again: it "
        "continues from the last checkpoint"
    ],
    "--config.task.reward={files}/reward.py:below": [
        "algorithm.advantage=mapo: needs rewards >= 0, but this reward's range is (-1.0, 1.0): it "
        "divides by the group's mean reward, and a negative mean turns the ranking upside down; "
        "shift the reward to start at 0 or choose grpo or dr_grpo"
    ],
    # One's own advantage
    "--config.algorithm.advantage=maop": [
        "algorithm.advantage=maop: no such advantage; did you mean mapo? choose one of mapo, grpo, "
        "dr_grpo, gpg, tree_rpo, apd, maxrl, mapo_random, mapo_linear, rloo, reinforce_plus_plus, "
        "reinforce_plus_plus_baseline, remax, beta_norm, pkpo, passk, gdpo, opo, quantile, ngrpo, "
        "dgpo, sign_balance, rs_grpo, mgpo, a_grae, lite_ppo, jspo, ebpo, focal, signed, or your "
        "own as path/to/file.py:function"
    ],
    "--config.algorithm.advantage={files}/advantage.py:two": [
        "algorithm.advantage=two: fails on a group of 4 with TypeError: two() takes 2 positional "
        "arguments but 3 were given; make it fn(rewards_G, success_G, mask_G, **options) -> "
        "float[G] in jnp"
    ],
    "--config.algorithm.advantage={files}/advantage.py:branches": [
        "algorithm.advantage=branches: fails on a group of 4 with TracerBoolConversionError: "
        "Attempted boolean conversion of traced array with shape bool[].; make it fn(rewards_G, "
        "success_G, mask_G, **options) -> float[G] in jnp"
    ],
    "--config.algorithm.advantage={files}/advantage.py:scalar": [
        "algorithm.advantage=scalar: fails on a group of 4 with ValueError: it returned shape (), "
        "not (4,); make it fn(rewards_G, success_G, mask_G, **options) -> float[G] in jnp"
    ],
    "--config.algorithm.advantage=gdpo --config.task.reward={files}/reward.py:good": [
        "algorithm.advantage=gdpo: takes the parts of the reward, and this reward has none; return "
        'them, as in "parts": {"accuracy": 1.0, "format": 0.0}, or choose grpo'
    ],
    "--config.algorithm.overlong_penalty=0.5": [
        "algorithm.overlong_penalty=0.5: takes rewards below 0, where algorithm.advantage=mapo "
        "makes no sense: it divides by the group's mean reward, and a negative mean turns the "
        "ranking upside down; set it to 0, or choose grpo or dr_grpo"
    ],
    "--config.algorithm.advantage=passk --config.algorithm.advantage_options.k=8": [
        "algorithm.advantage_options.k=8: must be from 1 to 7"
    ],
    "--config.algorithm.advantage=grpo --config.algorithm.overlong_penalty=0.5 "
    "--config.task.reward={files}/reward.py:long": [
        "algorithm.overlong_penalty=0.5: becomes the part overlong of the reward, which has one of "
        "that name; rename that, or set the penalty to 0"
    ],
    "--config.algorithm.advantage=gdpo --config.algorithm.overlong_penalty=0.5 "
    "--config.algorithm.advantage_options.weights=1,0.5": [
        "algorithm.advantage_options.weights=(1, 0.5): 2 weights for 3 parts of the reward "
        "(accuracy, format, overlong)"
    ],
    "--config.algorithm.advantage=focal --config.algorithm.advantage_options.base=grop": [
        "algorithm.advantage_options.base=grop: no such advantage to change; did you mean grpo?; "
        "choose one of mapo, grpo, dr_grpo, gpg, tree_rpo, apd, maxrl, mapo_random, mapo_linear, "
        "rloo, reinforce_plus_plus, reinforce_plus_plus_baseline, remax, beta_norm, pkpo, passk, "
        "gdpo, opo, quantile, ngrpo, dgpo, sign_balance, rs_grpo, mgpo, a_grae, lite_ppo, jspo, "
        "ebpo"
    ],
    "--config.algorithm.advantage=pkpo --config.algorithm.advantage_options.k=9": [
        "algorithm.advantage_options.k=9: must be from 1 to 8"
    ],
    "--config.warmup.decay=cosine --config.warmup.steps=5 --config.warmup.schedule_steps=5 "
    "--config.optimizer.decay=linear --config.optimizer.schedule_steps=100": [
        "warmup.decay=cosine: nothing is left to fall over, as warmup.schedule_steps=5 takes "
        "warmup.steps, 5; lower it",
        "optimizer.decay=linear: nothing is left to fall over, as optimizer.schedule_steps=100 "
        "takes the updates of all steps, 8; lower it",
    ],
    "--config.warmup.decay=cosin": [
        "warmup.decay=cosin: must be one of constant, linear, cosine; did you mean cosine?"
    ],
    "--config.dynamic.low=0.5 --config.dynamic.high=0.5": [
        "dynamic.low=0.5: must be below dynamic.high=0.5, since groups are kept whose accuracy is "
        "between the two; try dynamic.low=0"
    ],
    "--config.algorithm.advantage={files}/advantage.py:needs": [
        "algorithm.advantage_options.scale: needs needs it; set a value"
    ],
    "--config.algorithm.advantage={files}/advantage.py:god": [
        "algorithm.advantage={files}/advantage.py:god: {files}/advantage.py has no function god; "
        f"did you mean good? its functions: {ADVANTAGES}"
    ],
    "--config.algorithm.advantage_options.epz=1": [
        "algorithm.advantage_options.epz=1: mapo has no such option; did you mean eps?; its "
        "options: eps, ddof"
    ],
    "--config.algorithm.advantage_options.eps=2": [
        "algorithm.advantage_options.eps=2: must be from 0.0 to 1.0"
    ],
    "--config.algorithm.advantage_options.eps=x": [
        "algorithm.advantage_options.eps=x: is str, must be float such as 1e-06"
    ],
    "--config.algorithm.advantage_options.key=1": [
        "algorithm.advantage_options.key=1: the name of an input, not of an option; rename it"
    ],
    # One's own surrogate
    "--config.algorithm.surrogate=cliped": [
        "algorithm.surrogate=cliped: no such surrogate; did you mean clipped? choose one of "
        "clipped, gspo, cispo, or your own as path/to/file.py:function"
    ],
    f"--config.{SURROGATE}:god": [
        f"{SURROGATE}:god: {{files}}/surrogate.py has no function god; did you mean good? its "
        f"functions: {SURROGATES}"
    ],
    "--config.algorithm.surrogate=gspo --config.algorithm.surrogate_options.eps=1 "
    "--config.algorithm.surrogate_options.clip_dual=2": [
        "algorithm.surrogate_options.clip_dual=2: the name of an input, not of an option; set "
        "algorithm.clip_dual",
        "algorithm.surrogate_options.eps=1: gspo has no such option; its options: none",
    ],
    f"--config.{SURROGATE}:good --config.algorithm.surrogate_options.scal=1": [
        "algorithm.surrogate_options.scal=1: {files}/surrogate.py:good has no such option; did you "
        "mean scale?; its options: scale"
    ],
    f"--config.{SURROGATE}:good --config.algorithm.surrogate_options.scale=x": [
        "algorithm.surrogate_options.scale=x: is str, must be float such as 1.0"
    ],
    f"--config.{SURROGATE}:needs": [
        "algorithm.surrogate_options.scale: {files}/surrogate.py:needs needs it; set a value"
    ],
    f"--config.{SURROGATE}:three": [
        f"{SURROGATE}:three: fails on rollouts of 5 tokens with TypeError: three() takes 3 "
        f"positional arguments but 4 were given; {SURROGATE_FORM}"
    ],
    f"--config.{SURROGATE}:branches": [
        f"{SURROGATE}:branches: fails on rollouts of 5 tokens with TracerBoolConversionError: "
        f"Attempted boolean conversion of traced array with shape bool[].; {SURROGATE_FORM}"
    ],
    f"--config.{SURROGATE}:alone": [
        f"{SURROGATE}:alone: returns float32[2, 3, 5]; return a pair, the loss and a dict of "
        "metrics"
    ],
    f"--config.{SURROGATE}:text": [
        f"{SURROGATE}:text: its loss is a str; return one for each token, float32[2, 3, 5]"
    ],
    f"--config.{SURROGATE}:scalar": [
        f"{SURROGATE}:scalar: its loss is float32[]; return one for each token, float32[2, 3, 5]"
    ],
    f"--config.{SURROGATE}:counts": [
        f"{SURROGATE}:counts: its loss is int32[2, 3, 5]; return one for each token, "
        "float32[2, 3, 5]"
    ],
    f"--config.{SURROGATE}:names": [
        f"{SURROGATE}:names: its metric policy/entropy is one that the run writes itself; rename "
        "it",
        f"{SURROGATE}:names: its metric loss/kl is one that the run writes itself; rename it",
        f"{SURROGATE}:names: its metric skipped is one that the run writes itself; rename it",
        f"{SURROGATE}:names: its metric policy/mean is float32[]; return a value for each token, "
        "float32[2, 3, 5]",
    ],
}

REPORT_CASES = {
    "": ["the following arguments are required: DIR; see --help"],
    "{files}/nowhere": ["{files}/nowhere: no such directory; give the work directory of a run"],
    "{files}/fresh": ["{files}/fresh: has no metrics.jsonl; give the work directory of a run"],
    "{files}/silent": ["{files}/silent/metrics.jsonl: is empty; the run has not done a step yet"],
    "{files}/cut": [
        "{files}/cut/metrics.jsonl: line 2 is not a JSON object; mend or delete that line"
    ],
    "{files}/cut {files}/cut": ["{files}/cut: is given twice; give each run once"],
}

MAPO_CASES = {
    "evalute --config=x": ["mapo evalute: no such command; did you mean evaluate?"],
    "train": [
        "mapo train: no such command; commands: run, evaluate, sample, export, plan, bench, "
        "report, study"
    ],
}

COUNTED = [
    "train: 1 of 9 prompts are longer than data.max_prompt_tokens=6 and are left out",
    "hard: 7 of 9 prompts are longer than data.max_prompt_tokens=6 and are left out",
    "warm-up: 4 of 9 demonstrations are longer than rollout.max_new_tokens=16 and are left out",
]


def judge(name, responses=("19",)):
    """Returns a function that raises, because it calls a reward of reward.py as a run does."""

    def act(files):
        fn = loading.load_function(f"{files}/reward.py:{name}", "task.reward")
        rewards.judge(fn, responses, [{"answer": "19"}] * len(responses))

    return act


def raises(error):
    def act(files):
        raise error

    return act


def saves_on_a_full_disk(files):
    checkpoints._save(lambda: raises(OSError(errno.ENOSPC, "No space left on device"))(files))


def restores(name, which, is_damaged=False, rows=2):
    """Returns a function that reads the policy of a run with the checkpoint 1."""

    def act(files):
        workdir = files / name
        saved = checkpoints.Checkpoints(workdir / "checkpoints", keep=1)
        state = {"params": {"embed": jnp.zeros((2, 3))}, "step": jnp.zeros(1, jnp.int32)}
        saved.save(1, state, {}, None)
        saved.close()
        if is_damaged:
            (workdir / "checkpoints" / "1" / "manifest" / "metadata").write_text("{}")
        wanted = {"embed": np.zeros((rows, 3), np.float32)}
        checkpoints.restore_params(workdir, wanted, f"policy.init={workdir}", which)

    return act


def opens_a_folder(files):
    config = from_config_dict(arithmetic.get_config("tiny"))
    sources.open(config, None, str(files), checkpoint="best")


def finds_other_rows(files):
    folder = files / "evaluation" / "x"
    folder.mkdir(parents=True)
    (folder / "test.jsonl").write_text("{}\n")
    evaluate._Files(folder, {"test": {"samples": 1}}, rich.console.Console(), 1).rows("test", "x")


class JaxRuntimeError(Exception):
    """Has the name by which `exits.main` recognises JAX's error."""


def hold_twice(files):
    where = epath.Path(files / "held")
    with workdirs.hold(where), workdirs.hold(where):
        pass


def other_content(files):
    where, found = epath.Path(files / "held"), {"data.path": "1", "tokenizer.path": "1"}
    contents.keep(found | {"policy.init": "1", "architecture": "1"}, where)
    config = from_config_dict(arithmetic.get_config("tiny"))
    contents.check(
        found | {"data.path": "2", "policy.init": "2", "architecture": "2"}, config, where
    )


def other_rows(files):
    where = epath.Path(files / "held")
    contents.keep({"data.rows": "1"}, where)
    contents.check({"data.rows": "2"}, from_config_dict(arithmetic.get_config("tiny")), where)


def long_prompts(files):
    task = tasks.make("arithmetic", {"train_size": 2000, "eval_size": 1}, "", 0)
    tokenizer = load_tokenizer("mapo_jax/tasks/arithmetic.model")
    tasks.prompts_on_demand(task, tokenizer, 2, "drop", print)


def broken_contents(files):
    (files / "torn").mkdir()
    (files / "torn" / "contents.json").write_text("[]")
    contents.check({}, from_config_dict(arithmetic.get_config("tiny")), epath.Path(files / "torn"))


def broken_config(files):
    (files / "halved" / "checkpoints").mkdir(parents=True)
    (files / "halved" / "config.json").write_text("[")
    workdirs.check(epath.Path(files / "halved"), {}, writes=True)


def broken_records(files):
    (files / "spoilt").mkdir()
    (files / "spoilt" / "metrics.jsonl").write_text("5\n")
    mirror = workdirs.Mirror(epath.Path(files / "spoilt"), records.RECORDS)
    records.Records(mirror, ("rl", 1))


def lost_choice(files):
    solving._read(epath.Path(files / "solved.json"))


RAISED = {
    "a choice of prompts that was deleted": (
        lost_choice,
        "{files}/solved.json: is missing or broken (FileNotFoundError), and it says which prompts "
        "this run trains on; put it back, or start a new run in another --workdir",
    ),
    "contents that were cut": (
        broken_contents,
        "{files}/torn/contents.json: is broken (not a JSON object); delete it, and the run trusts "
        "what it reads now",
    ),
    "a configuration that was cut": (
        broken_config,
        "{files}/halved/config.json: is broken (Expecting value: line 1 column 2 (char 1)); delete "
        "it, and the run trusts the configuration that it is given now",
    ),
    "a record that is none": (
        broken_records,
        "{files}/spoilt/metrics.jsonl: line 1 is no record (TypeError: 'int' object is not "
        "subscriptable); mend or delete that line",
    ),
    "two runs in a directory": (
        hold_twice,
        f"--workdir={{files}}/held: process {os.getpid()} on {socket.gethostname()} is training "
        "there; wait until it ends, or choose another directory",
    ),
    "other content": (
        other_content,
        "data.path='': its training rows and prompts are not what this run began with; give the "
        "same content, or start a new run in another --workdir",
        "policy.init='': its architecture is not what this run began with; give the same content, "
        "or start a new run in another --workdir",
        "policy.init='': its weights under the adapters are not what this run began with; give the "
        "same content, or start a new run in another --workdir",
    ),
    "other rows of a large set": (
        other_rows,
        "data.path='': its training rows are not what this run began with; give the same content, "
        "or start a new run in another --workdir",
    ),
    "a large set of long prompts": (
        long_prompts,
        "data.max_prompt_tokens=2: all 1000 that were looked at of 2000 prompts of arithmetic's "
        "set train are longer; set it to 6 (the shortest) or more",
    ),
    "a reward that raises": (
        judge("parses", ["\n{19"]),
        "task.reward: parses raised JSONDecodeError: Expecting property name enclosed in double "
        "quotes: line 2 column 2 (char 2) ({files}/reward.py:13) for the response '\\n{19'; mend "
        "it and start the same command again: it continues from the last checkpoint",
    ),
    "a reward of one argument": (
        judge("one_argument"),
        "task.reward: one_argument raised TypeError: one_argument() takes 1 positional argument "
        "but 2 were given ({rewards}) for the response '19'; mend it and start the same command "
        "again: it continues from the last checkpoint",
    ),
    "a reward that is no dict": (
        judge("no_dict"),
        "task.reward: no_dict returned 1.0: must be a dict with the keys reward, success and "
        'parts, as in {"reward": 1.0, "success": True, "parts": {}}',
    ),
    "a reward without parts": (
        judge("no_parts"),
        "task.reward: no_parts returned {'reward': 1.0, 'success': True}: must be a dict with the "
        'keys reward, success and parts, as in {"reward": 1.0, "success": True, "parts": {}}',
    ),
    "a reward that is text": (
        judge("text"),
        "task.reward: text returned {'reward': 'high', 'success': True, 'parts': {}}: the reward "
        "must be a number",
    ),
    "a reward out of its range": (
        judge("above"),
        "task.reward: above returned {'reward': 1.5, 'success': True, 'parts': {}}: the reward is "
        "outside [0, 1]; set above.range = (low, high)",
    ),
    "a success that is a number": (
        judge("number"),
        "task.reward: number returned {'reward': 1.0, 'success': 1, 'parts': {}}: success must be "
        "True or False",
    ),
    "parts that are a list": (
        judge("odd_parts"),
        "task.reward: odd_parts returned {'reward': 1.0, 'success': True, 'parts': [1.0]}: parts "
        "must be a dict of numbers by their names, {} for none",
    ),
    "parts that change": (
        judge("other_parts", ["a", "b"]),
        "task.reward: other_parts returned {'reward': 1.0, 'success': True, 'parts': {'b': 1.0}}: "
        "every response must have the parts of the first: a",
    ),
    "another policy's checkpoint": (
        restores("other_policy", "newest", rows=4),
        "policy.init={files}/other_policy: its checkpoint is not of the policy that "
        "{files}/other_policy/policy describes (1 of 1 arrays; first params.embed is float32[2, 3] "
        "there and float32[4, 3] by that); give a work directory that nobody has changed",
    ),
    "a checkpoint that is not there": (
        restores("no_such", "7"),
        "policy.init={files}/no_such: has no checkpoint 7; give newest, best or one of 1",
    ),
    "the best of none": (
        restores("unmeasured", "best"),
        "policy.init={files}/unmeasured: none of its checkpoints was evaluated, so none is the "
        "best; give newest or one of 1",
    ),
    "the best of a damaged one": (
        restores("damaged", "best", is_damaged=True),
        "policy.init={files}/damaged: its checkpoint 1 is damaged (its manifest is not what was "
        "saved) and may be the best; give newest or one of 1",
    ),
    "a checkpoint of a folder": (
        opens_a_folder,
        "--checkpoint=best: --params={files} is no work directory of a run; leave it out",
    ),
    "rows with another header": (
        finds_other_rows,
        "{files}/evaluation/x/test.jsonl: its first line is not that of this evaluation; move the "
        "file away",
    ),
    "out of memory": (
        raises(JaxRuntimeError("RESOURCE_EXHAUSTED: 9 GiB are missing\nand more")),
        "out of memory (RESOURCE_EXHAUSTED: 9 GiB are missing); lower batch.microbatch or "
        "rollout.lanes",
    ),
    "a full disk": (
        raises(OSError(errno.ENOSPC, "No space left on device")),
        "--workdir: its disk is full; free some or choose another one",
    ),
    "a checkpoint on a full disk": (
        saves_on_a_full_disk,
        "checkpoint: the disk is full; free some, lower checkpoint.keep or choose another "
        "--workdir, then the same command continues",
    ),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("files")
    for name, text in FILES.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.write_text(text, encoding="utf-8")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["0123456789"]),
        model_writer=model,
        model_type="char",
        hard_vocab_limit=False,
        eos_id=-1,
        minloglevel=2,
    )
    (directory / "no_eos.model").write_bytes(model.getvalue())
    arithmetic_tokenizer = load_tokenizer("mapo_jax/tasks/arithmetic.model")
    sources.save_description(epath.Path(directory / "begun"), small.CONFIG, arithmetic_tokenizer)
    tree = arithmetic.get_config("tiny")
    tree.seed = 7
    tree.task.options.train_size = tree.task.options.eval_size = 9
    (directory / "another").mkdir()
    text = json.dumps(to_dict(from_config_dict(tree)))
    (directory / "another" / "config.json").write_text(text, encoding="utf-8")
    return directory


@pytest.fixture(autouse=True)
def _in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def check(capsys, monkeypatch, files, launcher, argv, expected, code=2):
    """Runs a launcher and compares its lines; {files} stands for a directory."""
    monkeypatch.setattr(sys, "argv", ["x", *argv])
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # a full disk changes it
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    assert exits.main(launcher) == code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert said.replace(str(files), "{files}").splitlines() == expected


@pytest.mark.parametrize("command", CASES)
def test_a_command(capsys, monkeypatch, tmp_path, files, command):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)  # as if it were not installed
    for package in ("wandb", "trackio"):
        monkeypatch.setitem(sys.modules, package, None)
    argv = command.replace("{files}", str(files)).split()
    if "--config=" not in command and command:
        argv = ARITHMETIC.split() + argv
    if "--workdir" not in command:
        argv += [f"--workdir={tmp_path / 'run'}"]
    check(capsys, monkeypatch, files, launchers.run, argv, CASES[command])


@pytest.mark.parametrize("command", MAPO_CASES)
def test_the_installed_program(capsys, monkeypatch, files, command):
    check(capsys, monkeypatch, files, launchers.dispatch, command.split(), MAPO_CASES[command])


@pytest.mark.parametrize("command", REPORT_CASES)
def test_a_report(capsys, monkeypatch, tmp_path, files, command):
    argv = [*command.replace("{files}", str(files)).split(), f"--output={tmp_path}"]
    check(capsys, monkeypatch, files, launchers.report, argv, REPORT_CASES[command])


@pytest.mark.parametrize("name", RAISED)
def test_in_the_middle_of_a_run(capsys, monkeypatch, files, name):
    act, *lines = RAISED[name]

    def launcher(argv):
        try:
            act(files)
        except errors.UserError as error:  # its line may name a file and line of this project
            place = re.compile(rf"{re.escape(judging.__file__)}:\d+")
            raise errors.UserError(*(place.sub("{rewards}", x) for x in error.lines)) from None

    check(capsys, monkeypatch, files, launcher, [], lines)


def test_the_runs_own_guard(capsys, monkeypatch, files):
    launcher = raises(errors.RunStopped("loss/total is nan at step 3"))
    check(capsys, monkeypatch, files, launcher, [], ["loss/total is nan at step 3"], code=3)


def test_what_is_left_out_is_counted(capsys, monkeypatch, tmp_path, files):
    """Compares the lines before the run starts; the run itself ends for another reason."""
    argv = [*ARITHMETIC.split(), f"--workdir={tmp_path}", f"--config.policy.init={files}/begun"]
    argv += ["--config.data.max_prompt_tokens=6", "--config.rollout.max_new_tokens=16"]
    monkeypatch.setattr(sys, "argv", ["x", *argv, "--config.task.options.levels=1,2"])
    assert exits.main(launchers.run) == 2
    assert capsys.readouterr().out.splitlines() == COUNTED


def test_what_a_terminal_would_obey_is_shown(capsys, monkeypatch, files):
    launcher = raises(errors.UserError("raised \x1b[2J\x1b]0;owned\x07 \u202e\ud800 é"))
    check(
        capsys, monkeypatch, files, launcher, [], [r"raised \x1b[2J\x1b]0;owned\x07 \u202e\ud800 é"]
    )


def test_there_are_forty_and_more():
    lines = {
        line
        for cases in (CASES, REPORT_CASES, MAPO_CASES)
        for lines in cases.values()
        for line in lines
    } | {line for _, *raised in RAISED.values() for line in raised}
    assert len(lines) >= 80
    assert all(len(line.splitlines()) == 1 for line in lines)
