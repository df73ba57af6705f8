#!/usr/bin/env bash
# Pretrain the projector on image-caption pairs (LLaVA's first stage).
#
#   bash scripts/train/pretrain.sh CONFIG [flags...]
#   bash scripts/train/pretrain.sh configs/train/pretrain_v1_5_7b.yaml --output_dir checkpoints/llava-v1.5-7b-pretrain
#
# Processes, ports and other settings: see scripts/train/launch.sh.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

case "${1:-}" in "" | -h | --help) usage && exit 0 ;; esac

exec bash scripts/train/launch.sh "$@"
