#!/usr/bin/env bash
# VisionZip's efficient tuning on one or several cards of 24 GB (RTX 3090, 4090): 7B in bf16, 13B in 4 bit.
#
#   python -m llava.data.subset make --data playground/data/llava_v1_5_mix665k.json --fraction 0.1 --seed 0 \
#     --out playground/data/mix665k_tenth.json
#   bash scripts/train/zip_tune_3090.sh [CONFIG] [flags...]
#   bash scripts/train/zip_tune_3090.sh configs/train/zip_tune_3090_13b.yaml
#
#   CONFIG     configs/train/zip_tune_3090_7b.yaml (default) or zip_tune_3090_13b.yaml
#   flags      any option of python -m llava.train.train
#
# All cards are used, the global batch stays 128; into checkpoints/ under the config's name.
# Processes, ports and other settings: see scripts/train/launch.sh.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

case "${1:-}" in -h | --help) usage && exit 0 ;; esac

config=configs/train/zip_tune_3090_7b.yaml
if [[ "${1:-}" == *.yaml ]]; then
  config="$1"
  shift
fi
exec bash scripts/train/zip_tune.sh "$config" --output_dir "checkpoints/$(basename "$config" .yaml)" "$@"
