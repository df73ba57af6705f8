#!/usr/bin/env bash
# The miniature's table: its grid, MMMU's column through lmms-eval, then tables and report. Finished cells are skipped. Arguments go
# to the grid.
#
#   bash scripts/eval/miniature.sh
#   OUT=runs/zip bash scripts/eval/miniature.sh --method dense --method visionzip --budget 16
#
# It reads playground/data/miniature and the checkpoints named in configs/eval/miniature.yaml, and draws lmms-eval's data if they are
# not there. OUT is the folder of records, report.md, table.md and accuracy.png (default: runs/miniature). NUM_PROCESSES: processes that
# share the questions.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

case "${1:-}" in -h | --help) usage && exit 0 ;; esac

export GRID=configs/eval/miniature.yaml OUT="${OUT:-runs/miniature}" HF_HUB_OFFLINE=1
setup_environment
python -m llava.miniature.lmms_sets
exec bash scripts/eval/grid.sh "$@"
