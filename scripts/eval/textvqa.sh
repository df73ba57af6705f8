#!/usr/bin/env bash
# TextVQA val, with OCR tokens in the prompt as in LLaVA.
#
#   bash scripts/eval/textvqa.sh liuhaotian/llava-v1.5-7b --dominant 54 --contextual 10
#
# Scored here.
# Flags and environment: bash scripts/eval/benchmark.sh --help
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

case "${1:-}" in -h | --help) usage && exit 0 ;; esac
exec bash scripts/eval/benchmark.sh textvqa "$@"
