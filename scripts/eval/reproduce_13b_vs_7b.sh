#!/usr/bin/env bash
# The paper's "13B faster and better than 7B" on LLaVA-NeXT, accuracy side: 7B dense beside 13B with all methods.
#
#   bash scripts/eval/reproduce_13b_vs_7b.sh
#   OUT=runs/part bash scripts/eval/reproduce_13b_vs_7b.sh --task textvqa --limit 500
#
# Two grids, configs/eval/next_7b_dense.yaml and configs/eval/table13_next_13b.yaml, into OUT/7b and OUT/13b (default:
# runs/13b_vs_7b); arguments go to both, so a method has to be in both. --check only says what is missing. OUT/report.md has
# both in one table, relative to 13B dense. Times of both models: scripts/bench, not this script.
# Settings and data: bash scripts/eval/reproduce_table1.sh --help
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

case "${1:-}" in -h | --help) usage && exit 0 ;; esac

OUT="${OUT:-runs/13b_vs_7b}"
GRID_13B="${GRID_13B:-configs/eval/table13_next_13b.yaml}"
trap 'exit 130' INT # Ctrl-C stops all of it, not only the program that runs
failed=0
GRID="${GRID_7B:-configs/eval/next_7b_dense.yaml}" OUT="$OUT/7b" bash scripts/eval/grid.sh "$@" || failed=$?
((failed != 2)) || exit 2 # a usage error: nothing ran
GRID="$GRID_13B" OUT="$OUT/13b" bash scripts/eval/grid.sh "$@" || failed=$?
((failed != 2)) || exit 2
case " $* " in *" --check "*) exit "$failed" ;; esac

setup_environment
python -m llava.eval.report --grid "$GRID_13B" --records "$OUT/13b" --other "LLaVA-NeXT-7B=$OUT/7b" --name 13b_vs_7b \
  --out "$OUT" --strict || failed=1
exit "$failed"
