#!/usr/bin/env bash
# Train LoRA adapters beside a language model in 4 bit, and the projector, on instructions.
#
#   bash scripts/train/finetune_qlora.sh CONFIG [flags...]
#   bash scripts/train/finetune_qlora.sh configs/train/finetune_v1_5_13b.yaml --output_dir checkpoints/llava-v1.5-13b-qlora
#
# CONFIG is any finetune config; configs/train/overlays/qlora.yaml is laid over it, and flags win over both.
# Processes, ports and other settings: see scripts/train/launch.sh.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

case "${1:-}" in "" | -h | --help) usage && exit 0 ;; esac

exec bash scripts/train/launch.sh "$1" --config configs/train/overlays/qlora.yaml "${@:2}"
