#!/usr/bin/env bash
# LLaVA-Bench (in the wild).
#
#   bash scripts/eval/llavabench.sh liuhaotian/llava-v1.5-7b --dominant 54 --contextual 10
#
# Judged by a language model: set OPENAI_API_KEY (and OPENAI_BASE_URL), choose with --judge. --dry-run answers, prints what
# judging would take and stops; --price-in and --price-out (a million tokens) name a price; --workers: calls at a time.
# Flags and environment: bash scripts/eval/benchmark.sh --help
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

case "${1:-}" in -h | --help) usage && exit 0 ;; esac
exec bash scripts/eval/benchmark.sh llavabench "$@"
