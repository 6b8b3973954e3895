#!/usr/bin/env bash
# Measures one NVIDIA GPU: decoding, updates and whole steps at Qwen2.5's shapes, and a small run.
#
#   launch/measure_gpu.sh DIRECTORY
#
# DIRECTORY gets a file for each command. A command that takes ten minutes is stopped, and the next
# one follows. docs/performance.md says what the figures mean.
set -uo pipefail

mkdir -p "${1?usage: launch/measure_gpu.sh DIRECTORY}"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/.." || exit

measure() { # name, command
  echo "$1"
  timeout 600 "${@:2}" >"$out/$1.txt" 2>&1 || echo "  ended with code $?; see $out/$1.txt"
}

bench() { # name, preset, arguments
  measure "$1" python launch/bench.py --config "experiments/bench.py:$2" "${@:3}"
}

full=(--config.bench.mean_new_tokens=0) # every response has 512 tokens
slots_128=("${full[@]}" --config.batch.prompts=8 --config.batch.minibatch_prompts=8
  --config.rollout.width=16)
slot_1=("${full[@]}" --config.batch.prompts=1 --config.batch.minibatch_prompts=1
  --config.batch.group=2 --config.batch.microbatch=1,2 --config.rollout.width=1)

measure gpu nvidia-smi
bench qwen2_5_0_5b qwen2_5_0_5b
bench qwen2_5_1_5b qwen2_5_1_5b
bench qwen2_5_1_5b_plain qwen2_5_1_5b --config.compute.attention=plain
bench qwen2_5_1_5b_128_slots qwen2_5_1_5b "${slots_128[@]}"
bench qwen2_5_1_5b_1_slot qwen2_5_1_5b "${slot_1[@]}"
measure arithmetic python launch/run.py --config experiments/arithmetic.py \
  --config.compute.dtype=bfloat16 --workdir "$out/arithmetic"
