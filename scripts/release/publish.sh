#!/usr/bin/env bash
# Release a tuned projector or LoRA run: merge it into its base, write card and manifest, check both, and publish.
#
#   bash scripts/release/publish.sh TUNED BASE OUT REPO [flags of publish...]
#   LICENSE=apache-2.0 BASE_MODEL=me/llava-mini-v1.5 TOWER=me/clip-mini-patch14-168 \
#     bash scripts/release/publish.sh checkpoints/mini-zip playground/miniature/llava-mini-v1.5 checkpoints/mini-release me/mini
#   LICENSE=llama2 RESULTS=results/7b bash scripts/release/publish.sh checkpoints/zip_tune_v1_5_7b_64 liuhaotian/llava-v1.5-7b checkpoints/zip-7b me/zip-7b --upload
#
# Without --upload nothing is sent (a dry run). OUT must be a new folder.
#
# Read from the environment:
#   HF_TOKEN     token with write access to REPO; needed with --upload, and never shown
#   LICENSE      licence of the base as the hub names it (default: from the README.md of a local base)
#   BASE_MODEL   hub id of the base for card and manifest (default: as the run recorded it; needed where that is a folder)
#   RESULTS      folder of evaluation records; those of these weights make the results table (default: none)
#   TOWER        mm_vision_tower to write into config.json, e.g. openai/clip-vit-large-patch14-336 (default: as in the run;
#                needed where that is a folder). A tower that is not on the hub yet must lie beside OUT under its name.
#   SHARD_GB     size of a weight file in 10^9 bytes (default: 4)
#   DTYPE, DEVICE  precision and place of the recorded logits (default: float32, cpu)
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

case "${1:-}" in "" | -h | --help) usage && exit 0 ;; esac
(($# >= 4)) || fail "expected TUNED BASE OUT REPO, got $# arguments" "bash scripts/release/publish.sh --help"
tuned="$1" base="$2" out="$3" repo="$4"
shift 4
setup_environment
export TOKENIZERS_PARALLELISM=false

python -m llava.release merge "$tuned" --base "$base" --out "$out" --shard-gb "${SHARD_GB:-4}" ${TOWER:+--tower "$TOWER"}
python -m llava.release card "$out" --repo "$repo" ${LICENSE:+--license "$LICENSE"} \
  ${BASE_MODEL:+--base-model "$BASE_MODEL"} ${RESULTS:+--results "$RESULTS"}
python -m llava.release manifest "$out" --dtype "${DTYPE:-float32}" --device "${DEVICE:-cpu}" \
  ${BASE_MODEL:+--base-model "$BASE_MODEL"} ${RESULTS:+--results "$RESULTS"}
python -m llava.release verify "$out" --device "${DEVICE:-cpu}"
python -m llava.release publish "$out" --repo "$repo" --device "${DEVICE:-cpu}" "$@"
