#!/usr/bin/env bash
# Train with VisionZip from scratch: the stages of LLaVA with 64 tokens per picture or tile (paper, Table 11).
#
#   bash scripts/train/zip_train.sh CONFIG [flags...]
#   bash scripts/train/zip_train.sh configs/train/pretrain_v1_5_7b.yaml --output_dir checkpoints/zip-7b-pretrain
#   bash scripts/train/zip_train.sh configs/train/finetune_v1_5_7b.yaml --output_dir checkpoints/zip-7b \
#     --pretrain_mm_mlp_adapter checkpoints/zip-7b-pretrain/mm_projector.bin
#
# CONFIG is any pretrain or finetune config; configs/train/overlays/zip.yaml is laid over it, and flags win over both: other
# budgets by --zip_dominant and --zip_contextual. Whether the paper compressed the first stage as well is not known.
# Processes, ports and other settings: see scripts/train/launch.sh.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

case "${1:-}" in "" | -h | --help) usage && exit 0 ;; esac

exec bash scripts/train/launch.sh "$1" --config configs/train/overlays/zip.yaml "${@:2}"
