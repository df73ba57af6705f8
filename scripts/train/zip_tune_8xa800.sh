#!/usr/bin/env bash
# VisionZip's efficient tuning of LLaVA-1.5-7B on 8 cards of 80 GB: the paper's setting, about 30 minutes there.
#
#   python -m llava.data.subset make --data playground/data/llava_v1_5_mix665k.json --fraction 0.1 --seed 0 \
#     --out playground/data/mix665k_tenth.json
#   bash scripts/train/zip_tune_8xa800.sh [flags...]
#
# 16 rows per card and step, 128 over all; into checkpoints/zip_tune_v1_5_7b_64. Flags are those of python -m llava.train.train.
# Processes, ports and other settings: see scripts/train/launch.sh (NUM_PROCESSES is 8 here).
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

case "${1:-}" in -h | --help) usage && exit 0 ;; esac

export NUM_PROCESSES="${NUM_PROCESSES:-8}"
exec bash scripts/train/zip_tune.sh configs/train/zip_tune_v1_5_7b.yaml --per_device_train_batch_size 16 \
  --output_dir checkpoints/zip_tune_v1_5_7b_64 "$@"
