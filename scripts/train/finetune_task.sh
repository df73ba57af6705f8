#!/usr/bin/env bash
# Go on training a finished LLaVA on rows of one's own (LLaVA's finetune_task).
#
#   bash scripts/train/finetune_task.sh CONFIG [flags...]
#   bash scripts/train/finetune_task.sh configs/train/finetune_task_v1_5_7b.yaml --data_path rows.json --output_dir checkpoints/my-task-7b
#
# With adapters instead of all weights: scripts/train/finetune_lora.sh with the same CONFIG.
# Processes, ports and other settings: see scripts/train/launch.sh.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

case "${1:-}" in "" | -h | --help) usage && exit 0 ;; esac

exec bash scripts/train/launch.sh "$@"
