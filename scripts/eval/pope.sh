#!/usr/bin/env bash
# POPE.
#
#   bash scripts/eval/pope.sh liuhaotian/llava-v1.5-7b --dominant 54 --contextual 10
#
# The figure of tables is the mean F1 over random, popular and adversarial.
# Flags and environment: bash scripts/eval/benchmark.sh --help
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

case "${1:-}" in -h | --help) usage && exit 0 ;; esac
exec bash scripts/eval/benchmark.sh pope "$@"
