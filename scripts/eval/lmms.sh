#!/usr/bin/env bash
# lmms-eval's tasks with our model, on all GPUs there are (one process on the CPU otherwise).
#
#   bash scripts/eval/lmms.sh liuhaotian/llava-v1.5-7b --dominant 54 --contextual 10
#   bash scripts/eval/lmms.sh playground/miniature/llava-mini-v1.5 --config configs/eval/lmms_miniature.yaml --limit 20
#
# First the checkpoint. The tasks are those of VisionZip's Table 1 (configs/eval/lmms_table1.yaml, which says of each how it
# differs from LLaVA's own script) or of another --config; the miniature's data come from python -m llava.miniature.lmms_sets.
#   --tasks A,B --limit N --batch-size N --processes N      part of the tasks, of their documents; how to run
#   --method --dominant --contextual --order                compression; without them as the checkpoint was saved
#   --model-base --attn --dtype                             how to load
#   --out runs/lmms                                         results and samples, read by llava.eval.lmms_results
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

case "${1:-}" in -h | --help) usage && exit 0 ;; esac
need_checkpoint scripts/eval/lmms.sh "${1:-}"

setup_environment
python -m llava.eval.lmms_run "$@"
