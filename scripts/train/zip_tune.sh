#!/usr/bin/env bash
# Tune the projector under VisionZip on a tenth of the instruction data (VisionZip with a double dagger in the paper).
#
#   bash scripts/train/zip_tune.sh CONFIG [flags...]
#   bash scripts/train/zip_tune.sh configs/train/zip_tune_v1_5_7b.yaml --output_dir checkpoints/zip_tune_v1_5_7b_64
#
# The grids of configs/eval look for checkpoints/<recipe>_<tokens a picture or tile>; docs/reproduce.md has all commands.
# Processes, ports and other settings: see scripts/train/launch.sh.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

case "${1:-}" in "" | -h | --help) usage && exit 0 ;; esac

exec bash scripts/train/launch.sh "$@"
