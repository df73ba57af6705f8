#!/usr/bin/env bash
# Start a training: DeepSpeed with one process per GPU; without a GPU one plain process, or DeepSpeed over several.
#
#   bash scripts/train/launch.sh CONFIG [flags...]
#
#   CONFIG     a file of configs/train
#   flags      any option of python -m llava.train.train; they win over CONFIG
#
# Read from the environment:
#   CUDA_VISIBLE_DEVICES  the GPUs to use, by number (default: all)
#   NUM_PROCESSES     processes on this machine (default: GPUs, or 1 without one)
#   MASTER_PORT       port the processes meet on (default: 29500); give each run on one machine its own
#   DEEPSPEED_FLAGS   more flags for the deepspeed launcher, e.g. "--hostfile hosts" (configs/deepspeed/hostfile.example)
#   ENGINE            deepspeed (default), or fsdp: accelerate with configs/accelerate/fsdp.yaml, to train whole models on GPUs
#   ACCELERATE_FLAGS  more flags for accelerate launch under ENGINE=fsdp
#   OMP_NUM_THREADS   threads per process on the CPU (default: cores / NUM_PROCESSES)
#   WANDB_MODE        for runs with --report_to wandb: online, offline, disabled (nothing is reported by default)
#
# DeepSpeed on the CPU compiles one small library at its first start (about a minute) and needs a C++ compiler for that.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

case "${1:-}" in "" | -h | --help) usage && exit 0 ;; esac
config="$1"
shift
[[ -f "$config" ]] || fail "no such config: $config" "take one of: $(echo configs/train/*.yaml)"

if [[ -x "$PYTHON" ]]; then export PATH="$VENV/bin:$PATH"; else PYTHON="$(command -v python3 || command -v python)"; fi
"$PYTHON" -c 'import llava.train' 2>/dev/null || fail "llava is not installed for $PYTHON" "bash scripts/quickstart.sh sets it up"

count_processes
if [[ "${ENGINE:-deepspeed}" == fsdp ]]; then
  ((gpus > 0)) || fail "ENGINE=fsdp needs GPUs: on the CPU accelerate would shard nothing" "leave ENGINE out: DeepSpeed runs there"
  # shellcheck disable=SC2086  # ACCELERATE_FLAGS holds several words
  exec "$PYTHON" -m accelerate.commands.launch --config_file configs/accelerate/fsdp.yaml --num_processes "$processes" \
    --main_process_port "${MASTER_PORT:-29500}" ${ACCELERATE_FLAGS:-} --module llava.train.train --config "$config" --deepspeed "" "$@"
fi
if ((gpus > 0)); then
  launcher=(-m deepspeed.launcher.runner)
  if [[ -n "${CUDA_VISIBLE_DEVICES:-}" ]]; then  # DeepSpeed takes these cards only if no number is asked for
    CUDA_VISIBLE_DEVICES="$(cut -d, -f"1-$processes" <<<"$CUDA_VISIBLE_DEVICES")"
    export CUDA_VISIBLE_DEVICES
  else
    launcher+=(--num_gpus "$processes")
  fi
else
  cores="$(getconf _NPROCESSORS_ONLN)"
  export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cores > processes ? cores / processes : 1))}"
  launcher=(-m deepspeed.launcher.runner --num_accelerators "$processes")
  if ((processes > 1)) && ! command -v "${CXX:-c++}" >/dev/null; then
    fail "DeepSpeed on the CPU needs a C++ compiler" "install one (Debian, Ubuntu: apt install g++)" "or run one process: NUM_PROCESSES=1"
  fi
fi

if ((gpus == 0 && processes == 1)) && [[ -z "${DEEPSPEED_FLAGS:-}" ]]; then
  exec "$PYTHON" -m llava.train.train --config "$config" "$@"
fi
# A signal is passed to the training processes alone, which save and leave with 75. The launcher has a process group of its
# own (set -m): a Ctrl-C would make it give them 30 s, and leave with another code.
set -m
# shellcheck disable=SC2086  # DEEPSPEED_FLAGS holds several words
"$PYTHON" "${launcher[@]}" --master_port "${MASTER_PORT:-29500}" ${DEEPSPEED_FLAGS:-} \
  --module llava.train.train --config "$config" "$@" &
runner=$!
trap 'pkill -TERM -P "$(pgrep -d, -P "$runner")" || kill -- "-$runner"' TERM INT HUP
code=0
wait "$runner" || code=$?
while kill -0 "$runner" 2>/dev/null; do # a signal ends `wait` early
  code=0
  wait "$runner" || code=$?
done
exit "$code"
