#!/usr/bin/env bash
# Make the miniature base model from nothing: tower, tokenizer, language model, released layout. about two hours on 2 cores.
#
#   bash scripts/miniature/train_base.sh
#   THREADS=4 bash scripts/miniature/train_base.sh       # CPU threads (default 2)
#
# The shipped weights were made by the recipe before this one (two stages of the tower, AdamW alone, no lists: LOG.md, 2026-11-25)
# and then by the last stage here, which teaches the wordings of the public question files.
#
# Safe to interrupt and run again: finished steps are kept (below checkpoints/miniature), the language model resumes.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
case "${1:-}" in -h | --help) usage; exit 0 ;; esac
setup_environment

THREADS="${THREADS:-2}"
WORK=checkpoints/miniature
TOWER=$WORK/tower

# once MARKER COMMAND...: run the command unless the file it leaves behind is there.
once() {
  local marker="$1"
  shift
  if [[ -e "$marker" ]]; then say "kept: $marker"; else "$@"; fi
}

second_stage() {
  "$PYTHON" -m llava.miniature.tower --start "$WORK/tower-stage1" --steps 2000 --horizon 2000 --learning-rate 7e-4 --seed 1 \
    --threads "$THREADS" --out "$WORK/tower-stage2"
}

third_stage() {
  "$PYTHON" -m llava.miniature.tower --start "$WORK/tower-stage2" --places --steps 1000 --horizon 1000 --learning-rate 5e-4 \
    --seed 2 --threads "$THREADS" --out "$TOWER"
}

once "$WORK/tower-stage1/model.safetensors" "$PYTHON" -m llava.miniature.tower --out "$WORK/tower-stage1" --threads "$THREADS"
once "$WORK/tower-stage2/model.safetensors" second_stage
once "$TOWER/model.safetensors" third_stage
once "$WORK/llm-start/model.safetensors" "$PYTHON" -m llava.miniature.base start --out "$WORK/llm-start"
once "$WORK/base-data/base_questions.json" "$PYTHON" -m llava.miniature.base rows --out "$WORK/base-data"

# train NAME: one stage of the language model, from the stage its YAML names: two processes of one thread each, which do half
# as much again as one process of two. accelerate compiles the layers, which needs a C++ compiler and saves a fifth of the
# time; the malloc settings keep large buffers from going back to the system each step.
train() {
  once "$WORK/$1/run.json" env OMP_NUM_THREADS=$((THREADS > 1 ? THREADS / 2 : 1)) MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=20000000000 \
    ACCELERATE_DYNAMO_BACKEND=inductor ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION=true ACCELERATE_DYNAMO_USE_DYNAMIC=true \
    "$PYTHON" -m torch.distributed.run --standalone --nproc_per_node 2 \
    -m llava.train.train --config "configs/train/base_$1_miniature.yaml" --vision_tower "$TOWER" \
    --output_dir "$WORK/$1"
}

train captions
train parts
train questions
"$PYTHON" -m llava.miniature.base release --earlier "$WORK/captions" --earlier "$WORK/parts" --trained "$WORK/questions"
cp "$TOWER"/* playground/miniature/clip-mini-patch14-168/
train forms
"$PYTHON" -m llava.miniature.base release --earlier playground/miniature/llava-mini-v1.5 --trained "$WORK/forms"
