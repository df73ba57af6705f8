#!/usr/bin/env bash
# MMBench-CN dev.
#
#   bash scripts/eval/mmbench_cn.sh liuhaotian/llava-v1.5-7b --dominant 54 --contextual 10
#
# Circular accuracy by exact letters; the xlsx for the server is written as well.
# Flags and environment: bash scripts/eval/benchmark.sh --help
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

case "${1:-}" in -h | --help) usage && exit 0 ;; esac
exec bash scripts/eval/benchmark.sh mmbench_cn "$@"
