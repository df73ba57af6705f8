#!/usr/bin/env bash
# Train LoRA adapters on the language model, and the projector, on instructions (LLaVA's finetune_lora).
#
#   bash scripts/train/finetune_lora.sh CONFIG [flags...]
#   bash scripts/train/finetune_lora.sh configs/train/finetune_v1_5_7b.yaml --output_dir checkpoints/llava-v1.5-7b-lora
#   bash scripts/train/finetune_lora.sh configs/train/finetune_task_v1_5_7b.yaml --output_dir checkpoints/my-task-7b-lora
#
# CONFIG is any finetune config; configs/train/overlays/lora.yaml is laid over it, and flags win over both.
# Processes, ports and other settings: see scripts/train/launch.sh.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

case "${1:-}" in "" | -h | --help) usage && exit 0 ;; esac

exec bash scripts/train/launch.sh "$1" --config configs/train/overlays/lora.yaml "${@:2}"
