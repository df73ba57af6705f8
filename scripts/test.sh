#!/usr/bin/env bash
# Set up the environment and run the tests.
#
#   bash scripts/test.sh [pytest arguments]
#
#   bash scripts/test.sh                          everything that runs on this machine (GPU tests skip without a GPU)
#   bash scripts/test.sh -m "not slow"            the fast ones
#   bash scripts/test.sh tests/visionzip -x       one folder, stop at the first failure
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case "${1:-}" in -h | --help) usage && exit 0 ;; esac

setup_environment
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # tiny tensors: more threads only get in each other's way
exec "$PYTHON" -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@" # in the order of tests/conftest.py
