#!/usr/bin/env bash
# Speed and memory on a GPU: random weights of LLaVA-1.5 and LLaVA-NeXT, 7B and 13B. Meant for nine
# minutes on one H100 or H200; on an H200 it was seen to take seven up to the 8-bit model, never yet as a whole.
#
#   bash scripts/bench/gpu.sh
#
# Needs no network and installs nothing: BENCH_PYTHON (default: .venv's python if it is there, else python3) must have torch
# 2.11 and transformers 5.17 or newer; bitsandbytes for the two quantised models, which fail alone without it.
# OUT: folder of the records (default: results/gpu). CONFIG: another suite (default: configs/bench/gpu.yaml). DEVICE: default
# cuda. LLAVA_COMMIT: the commit of a copy that has no .git, for the stamp. What this commit has measured on this device
# already is not measured again, so a run that was cut off goes on. Arguments go to visionzip bench all.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

case "${1:-}" in -h | --help) usage && exit 0 ;; esac

if [[ -z "${BENCH_PYTHON:-}" ]]; then
  [[ -x "$PYTHON" ]] && BENCH_PYTHON="$PYTHON" || BENCH_PYTHON=python3
fi
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
exec "$BENCH_PYTHON" -m llava.bench.command all --config "${CONFIG:-configs/bench/gpu.yaml}" --out "${OUT:-results/gpu}" \
  --device "${DEVICE:-cuda}" "$@"
