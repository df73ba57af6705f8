#!/usr/bin/env bash
# Miniature tasks through lmms-eval, with our registered model. Arguments go to lmms_eval.
#
#   bash scripts/eval/lmms_miniature.sh
#   TASKS=miniature MODEL_ARGS=dominant=40,contextual=8 bash scripts/eval/lmms_miniature.sh --limit 20
#
# TASKS: miniature (all eight), or some of miniature_{gqa,pope,vqav2,textvqa,mme,mmbench,seed,sqa} (default: miniature_pope).
# CKPT: the checkpoint. MODEL_ARGS: more options of the model llava_visionzip. BATCH_SIZE: 16.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

case "${1:-}" in -h | --help) usage && exit 0 ;; esac

CKPT="${CKPT:-playground/miniature/llava-mini-v1.5}"
setup_environment
export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1

python -m lmms_eval \
  --model llava_visionzip \
  --model_args "pretrained=$CKPT${MODEL_ARGS:+,$MODEL_ARGS}" \
  --tasks "${TASKS:-miniature_pope}" \
  --include_path playground/miniature/lmms_tasks \
  --batch_size "${BATCH_SIZE:-16}" \
  --log_samples \
  --output_path runs/lmms \
  "$@"
