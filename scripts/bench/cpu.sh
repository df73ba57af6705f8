#!/usr/bin/env bash
# Speed and memory in ratios on a machine without a GPU: less than five minutes on two cores with nothing else running.
#
#   bash scripts/bench/cpu.sh
#   CONFIG=configs/bench/cpu_tiles.yaml bash scripts/bench/cpu.sh
#   CONFIG=configs/bench/cpu_quantised.yaml bash scripts/bench/cpu.sh
#
# The second line adds the encoder over five tiles, about five minutes more: every way to encode them takes a quarter of a minute
# a pass, so they would double the first one's time. The third adds the miniature in 8 and 4 bits, half a minute.
# OUT: folder of the records (default: results/cpu). CONFIG: another suite (default: configs/bench/cpu.yaml). What
# this commit has measured on this machine already is not measured again. Arguments go to visionzip bench all, e.g. --only latency.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

case "${1:-}" in -h | --help) usage && exit 0 ;; esac

setup_environment
python -m llava.bench.command all --config "${CONFIG:-configs/bench/cpu.yaml}" --out "${OUT:-results/cpu}" --device cpu "$@"
