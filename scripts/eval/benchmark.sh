#!/usr/bin/env bash
# One of LLaVA's benchmarks from question file to score: answers, the file for its server or official scorer, the record.
#
#   bash scripts/eval/benchmark.sh pope liuhaotian/llava-v1.5-7b --dominant 54 --contextual 10
#
# First the benchmark, then the checkpoint; further flags go to python -m llava.eval.run_benchmark (see its --help):
#   --dominant --contextual --method --order     compression; without them as the checkpoint was saved
#   --model-base BASE                            for a tuned projector or a LoRA
#   --batch-size --num-workers --limit --out     how to run, and where the record goes (runs/benchmarks/<checkpoint>)
#   --name NAME                                  of the answers, where two runs would share a file: it says so
#   --judge MODEL --dry-run --price-in --price-out --workers
#                                                llavabench and mmvet; they need OPENAI_API_KEY (and OPENAI_BASE_URL)
#
# Read from the environment: EVAL_DATA, the eval root (default: playground/data/eval); NUM_PROCESSES (default: GPUs, or 1);
# CUDA_VISIBLE_DEVICES. A run that was stopped goes on where it stopped.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

case "${1:-}" in -h | --help) usage && exit 0 ;; esac
benchmark="${1:-BENCHMARK}" checkpoint="${2:-}"
need_checkpoint "scripts/eval/benchmark.sh $benchmark" "$checkpoint"
shift 2

setup_environment
run_ranks llava.eval.run_benchmark "$benchmark" --model-path "$checkpoint" --root "${EVAL_DATA:-playground/data/eval}" "$@"
