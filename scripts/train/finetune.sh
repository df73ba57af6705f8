#!/usr/bin/env bash
# Train language model and projector on instructions (LLaVA's second stage).
#
#   bash scripts/train/finetune.sh CONFIG [flags...]
#   bash scripts/train/finetune.sh configs/train/finetune_v1_5_7b.yaml --output_dir checkpoints/llava-v1.5-7b
#
# Processes, ports and other settings: see scripts/train/launch.sh.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

case "${1:-}" in "" | -h | --help) usage && exit 0 ;; esac

exec bash scripts/train/launch.sh "$@"
