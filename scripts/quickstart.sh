#!/usr/bin/env bash
# From an empty machine to the results table, on the miniature: set up, make the data, tune, evaluate, report.
#
#   bash scripts/quickstart.sh
#   NUM_PROCESSES=2 bash scripts/quickstart.sh      tune with DeepSpeed over two CPU processes (needs a C++ compiler)
#
# Finished steps are not redone: stop it with Ctrl-C when you like and run it again. It writes to .venv,
# playground/data/miniature, checkpoints/miniature and runs/miniature, all of them ignored by git.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case "${1:-}" in -h | --help) usage && exit 0 ;; esac
(($# == 0)) || fail "unexpected argument: $1" "bash scripts/quickstart.sh takes none; see --help"

DATA=playground/data/miniature
TUNED=checkpoints/miniature/zip_tune
RESULTS=runs/miniature
STEPS=6

count=0
# step NAME COMMAND...: run one step, with its number before and its time after.
step() {
  local name="$1" begin="$SECONDS"
  shift
  count=$((count + 1))
  printf '\n[%d/%d] %s\n      %s\n' "$count" "$STEPS" "$name" "$*" >&2
  "$@" || fail "step $count ($name) did not finish" "if it was not stopped, the reason is in the lines above" \
    "run bash scripts/quickstart.sh again to go on: what is finished is kept"
  printf '[%d/%d] done in %d s, %d s since the start\n' "$count" "$STEPS" "$((SECONDS - begin))" "$SECONDS" >&2
}

# tune DOMINANT CONTEXTUAL: zip_tune.sh into a folder of its own; run.json is written last, so it marks a finished run.
tune() {
  local out="${TUNED}_$(($1 + $2))"
  if [[ -f "$out/run.json" ]]; then
    say "      kept: $out is finished (remove it to tune again)"
  else
    bash scripts/train/zip_tune.sh configs/train/zip_tune_miniature.yaml --zip_dominant "$1" --zip_contextual "$2" --output_dir "$out"
  fi
}

setup_environment
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}" TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
SECONDS=0

step "draw the miniature world" python -m llava.miniature.benchmarks --out "$DATA"
step "choose a tenth of the instruction rows" python -m llava.data.subset make \
  --data "$DATA/llava_miniature_mix.json" --out "$DATA/llava_miniature_tenth.json"
step "tune the projector under VisionZip, 48 of 144 tokens" tune 40 8
step "tune the projector under VisionZip, 32 of 144 tokens" tune 27 5
step "tune the projector under VisionZip, 16 of 144 tokens" tune 14 2
step "evaluate dense, VisionZip, tuned VisionZip and the controls; render the report" \
  env OUT="$RESULTS" bash scripts/eval/miniature.sh

cat <<END

report   $RESULTS/report.md
plot     $RESULTS/accuracy.png
records  $RESULTS/cells/*/*.json
tuned    ${TUNED}_{48,32,16}/mm_projector.bin

next
  source $VENV/bin/activate
  bash scripts/test.sh                     the tests
  python -m llava.eval.grid --help         other methods, budgets, tasks
  less docs/reproduce.md                   the same on liuhaotian/llava-v1.5-7b
END
