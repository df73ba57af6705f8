#!/usr/bin/env bash
# LLaVA's benchmarks one after another. One that fails does not stop the others; the exit status tells whether any did.
#
#   bash scripts/eval/all.sh liuhaotian/llava-v1.5-7b --dominant 54 --contextual 10
#   BENCHMARKS="pope gqa" bash scripts/eval/all.sh checkpoints/zip_tune_v1_5_7b_64 --model-base liuhaotian/llava-v1.5-7b
#
# BENCHMARKS: which (default: the ten that need no judge; all twelve: add llavabench mmvet). Other settings and flags:
# bash scripts/eval/benchmark.sh --help. What is answered already is not asked again. The last lines are all figures together.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

case "${1:-}" in -h | --help) usage && exit 0 ;; esac
need_checkpoint scripts/eval/all.sh "${1:-}"

trap 'exit 130' INT # stops them all, not only the one that runs
said="$(mktemp)"
trap 'rm -f "$said"' EXIT
failed=()
for benchmark in ${BENCHMARKS:-vqav2 gqa vizwiz sqa textvqa pope mme mmbench mmbench_cn seed}; do
  say "== $benchmark"
  bash scripts/eval/benchmark.sh "$benchmark" "$@" | tee -ai "$said" || failed+=("$benchmark")
done
say "== together"
grep -E '^[^ ].*; [0-9]+ .*(tokens an image|no images)\)$' "$said" || true # the line of each benchmark's figure
grep '^table: ' "$said" | sort -u || true
((${#failed[@]} == 0)) || fail "failed: ${failed[*]}" "the messages are above, each under its '== <benchmark>' line"
