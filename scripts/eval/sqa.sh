#!/usr/bin/env bash
# ScienceQA test.
#
#   bash scripts/eval/sqa.sh liuhaotian/llava-v1.5-7b --dominant 54 --contextual 10
#
# The figure of tables is that of questions with a picture (IMG).
# Flags and environment: bash scripts/eval/benchmark.sh --help
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

case "${1:-}" in -h | --help) usage && exit 0 ;; esac
exec bash scripts/eval/benchmark.sh sqa "$@"
