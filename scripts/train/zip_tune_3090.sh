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
# All cards are used, the global batch stays 128. The recipe is that of zip_tune_v1_5_7b.yaml (or 13b), and so is the folder:
# checkpoints/zip_tune_v1_5_7b_64. With another budget name another: --output_dir checkpoints/zip_tune_v1_5_7b_128
# Processes, ports and other settings: see scripts/train/launch.sh.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

case "${1:-}" in -h | --help) usage && exit 0 ;; esac

config=configs/train/zip_tune_3090_7b.yaml
if [[ "${1:-}" == *.yaml ]]; then
  config="$1"
  shift
fi
name="$(basename "$config" .yaml)"
exec bash scripts/train/zip_tune.sh "$config" --output_dir "checkpoints/${name/3090/v1_5}_64" "$@"
