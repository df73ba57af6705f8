#!/usr/bin/env bash
# A grid of methods and budgets over benchmarks, then its lmms-eval part if it has one, then the table.
#
#   GRID=configs/eval/miniature.yaml OUT=runs/grid bash scripts/eval/grid.sh --method dense --method visionzip --budget 16
#
# GRID: a configs/eval/*.yaml (default: the miniature's). OUT: folder of records, tables, report.md and accuracy.png (default:
# runs/grid). Arguments go to python -m llava.eval.grid. NUM_PROCESSES: processes that share the questions (default: GPUs, or
# 1). Finished benchmarks are skipped; failed ones are shown as failed and make the exit status 1.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

case "${1:-}" in -h | --help) usage && exit 0 ;; esac

GRID="${GRID:-configs/eval/miniature.yaml}" OUT="${OUT:-runs/grid}"
setup_environment
export TOKENIZERS_PARALLELISM=false

failed=0
run_ranks llava.eval.grid --config "$GRID" --out "$OUT" "$@" || failed=1
python -m llava.eval.lmms_grid --config "$GRID" --out "$OUT" ${NUM_PROCESSES:+--processes "$NUM_PROCESSES"} "$@" || failed=1
python -m llava.eval.report --grid "$GRID" --records "$OUT" --out "$OUT" --strict || failed=1
exit "$failed"
