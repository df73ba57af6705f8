#!/usr/bin/env bash
# The paper's Table 2 on LLaVA-NeXT-7B: dense, 640/320/160 tokens, training-free and tuned, and the controls.
#
#   bash scripts/eval/reproduce_table2.sh
#   OUT=runs/part bash scripts/eval/reproduce_table2.sh --method dense --method visionzip --budget 32 --limit 500
#
# It needs the data of playground/data/README.md and, for the rows of VisionZip‡, checkpoints tuned as docs/reproduce.md says.
# What is missing is listed before anything runs; --check only lists it (status 1 if anything is). --judge gpt-4-0613 adds
# LLaVA-Bench and MM-Vet (OPENAI_API_KEY), and --task vqav2 answers VQAv2's test-dev for its server; visionzip eval report
# --server dense/vqav2=78.5 enters what it says.
# Arguments choose a part of the grid (python -m llava.eval.grid --help). Finished benchmarks are skipped; one that fails is
# shown as failed and the rest goes on. OUT: folder of records, report.md, tables and plot (default: runs/table2).
# GRID: the configuration (default: configs/eval/table2_next_7b.yaml). NUM_PROCESSES: processes that share
# the questions (default: GPUs, or 1). Differences of protocol to the paper: docs/evaluation.md.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

case "${1:-}" in -h | --help) usage && exit 0 ;; esac

GRID="${GRID:-configs/eval/table2_next_7b.yaml}" OUT="${OUT:-runs/table2}"
export GRID OUT
exec bash scripts/eval/grid.sh "$@"
