#!/usr/bin/env bash
# The miniature's table without lmms-eval's column (scripts/eval/grid.sh adds it): run the grid, then render it. Finished cells are skipped. Arguments go to the grid.
#
#   bash scripts/eval/miniature.sh
#   OUT=runs/zip bash scripts/eval/miniature.sh --method dense --method visionzip --budget 16
#
# It reads playground/data/miniature and the checkpoints named in configs/eval/miniature.yaml.
# OUT is the folder of records, report.md, table.md and accuracy.png (default: runs/miniature). --check only says what is
# missing.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

case "${1:-}" in -h | --help) usage && exit 0 ;; esac

OUT="${OUT:-runs/miniature}"
setup_environment
export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

trap 'exit 130' INT # Ctrl-C stops all of it, not only the program that runs
grid=(python -m llava.eval.grid --config configs/eval/miniature.yaml --out "$OUT" "$@")
case " $* " in *" --check "*) exec "${grid[@]}" ;; esac

failed=0
"${grid[@]}" || failed=$?
((failed != 2)) || exit 2 # a usage error: nothing ran
python -m llava.eval.report --grid configs/eval/miniature.yaml --records "$OUT" --out "$OUT" --strict || failed=1
exit "$failed"
