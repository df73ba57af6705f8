#!/usr/bin/env bash
# A grid of methods and budgets over benchmarks, then its lmms-eval part if it has one, then the table.
#
#   GRID=configs/eval/miniature.yaml OUT=runs/grid bash scripts/eval/grid.sh --method dense --method visionzip --budget 16
#
# GRID: a configs/eval/*.yaml (default: the miniature's). OUT: folder of records, tables, report.md and accuracy.png (default:
# runs/grid). Arguments go to python -m llava.eval.grid; --check only says what is missing (status 1 if anything is).
# NUM_PROCESSES: processes that share the questions (default: GPUs, or 1). Finished benchmarks are skipped; failed ones are
# shown as failed and make the exit status 1. Arguments that cannot be run stop it with status 2.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

case "${1:-}" in -h | --help) usage && exit 0 ;; esac

GRID="${GRID:-configs/eval/miniature.yaml}" OUT="${OUT:-runs/grid}"
setup_environment
export TOKENIZERS_PARALLELISM=false

trap 'exit 130' INT # Ctrl-C stops all of it, not only the program that runs
case " $* " in *" --check "*) exec python -m llava.eval.grid --config "$GRID" --out "$OUT" "$@" ;; esac

failed=0
# step COMMAND...: what comes next still runs after a failure, but not after a usage error.
step() {
  local status=0
  "$@" || status=$?
  ((status != 2)) || exit 2
  ((status == 0)) || failed=1
}
step run_ranks llava.eval.grid --config "$GRID" --out "$OUT" "$@"
step python -m llava.eval.lmms_grid --config "$GRID" --out "$OUT" ${NUM_PROCESSES:+--processes "$NUM_PROCESSES"} "$@"
python -m llava.eval.report --grid "$GRID" --records "$OUT" --out "$OUT" --strict || failed=1
exit "$failed"
