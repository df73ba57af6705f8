#!/usr/bin/env bash
# VizWiz test.
#
#   bash scripts/eval/vizwiz.sh liuhaotian/llava-v1.5-7b --dominant 54 --contextual 10
#
# The score comes from the EvalAI server: the file to send is named at the end.
# Flags and environment: bash scripts/eval/benchmark.sh --help
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

case "${1:-}" in -h | --help) usage && exit 0 ;; esac
exec bash scripts/eval/benchmark.sh vizwiz "$@"
