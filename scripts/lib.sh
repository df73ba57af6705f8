#!/usr/bin/env bash
# Shared by the other scripts. Source it: it defines functions, moves to the repository root and runs nothing else.
#
#   source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
#   setup_environment                   # .venv with the locked versions and this repository installed editable
#   python -m llava.train.train --help  # from now on python is the environment's
#
# Settings read from the environment: LLAVA_VENV, another place for the environment (default: .venv in the repository; it
# serves one checkout); LLAVA_PYTHON, the Python >= 3.11 to build it from (default: the first of python3.11, 3.12, 3.13, python3, python that is new enough).
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${LLAVA_VENV:-$ROOT/.venv}"
PYTHON="$VENV/bin/python"
STAMP="$VENV/.llava-lock-hash"
OWNER="$VENV/.llava-checkout" # the folder of the checkout that is installed there
cd "$ROOT"

say() { printf '%s\n' "$*" >&2; }

# fail WHAT REMEDY...: one line on what is wrong, then what to do about it.
fail() {
  say "error: $1"
  shift
  for remedy in "$@"; do say "  -> $remedy"; done
  exit 1
}

# usage: print the comment block at the top of the calling script (without the shebang).
usage() { sed -n '2,/^[^#]/{/^#SBATCH/!{/^#/s/^# \{0,1\}//p}}' "$0"; }

# need_checkpoint SCRIPT GIVEN: the first argument has to be a checkpoint; an empty one is a variable that was not set.
need_checkpoint() {
  case "${2:-}" in "" | -*)
    say "error: CKPT is missing: bash $1 CKPT [FLAGS] wants a checkpoint first (a folder or a hub name), got '${2:-}'"
    exit 2
    ;;
  esac
}

is_python() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# find_python: the path of a Python >= 3.11, or nothing.
find_python() {
  local candidate
  for candidate in "${LLAVA_PYTHON:-}" python3.11 python3.12 python3.13 python3 python; do
    if [[ -n "$candidate" ]] && is_python "$candidate"; then
      "$candidate" -c 'import sys; print(sys.executable)'
      return
    fi
  done
}

# find_uv: a uv that runs (a version manager may leave a dead shim on PATH), or nothing.
find_uv() {
  local candidate
  for candidate in uv "$VENV/bin/uv"; do
    if "$candidate" --version >/dev/null 2>&1; then
      echo "$candidate"
      return
    fi
  done
}

# lock_hash: changes when the pins, the package's metadata or the place of the repository change.
lock_hash() {
  "$1" - "$ROOT" requirements/lock.txt requirements/overrides.txt pyproject.toml <<'PY'
import hashlib, pathlib, sys
root, *files = sys.argv[1:]
print(hashlib.sha256(root.encode() + b"".join(pathlib.Path(f).read_bytes() for f in files)).hexdigest())
PY
}

create_venv() {
  local python uv
  python="$(find_python)"
  uv="$(find_uv)"
  if [[ -n "${LLAVA_PYTHON:-}" ]] && ! is_python "$LLAVA_PYTHON"; then
    fail "LLAVA_PYTHON=$LLAVA_PYTHON is not a Python >= 3.11" "point it at one, or unset it"
  elif [[ -n "$uv" ]]; then
    "$uv" venv --quiet --allow-existing --python "${python:-3.12}" "$VENV" ||
      fail "uv could not create $VENV" "read the lines above; without any Python >= 3.11 uv has to download one"
  elif [[ -n "$python" ]]; then
    "$python" -m venv "$VENV" ||
      fail "$python cannot create a virtual environment in $VENV" \
        "on Debian or Ubuntu install its venv package: apt install python3-venv" "or install uv: https://docs.astral.sh/uv"
  else
    fail "no Python >= 3.11 found" "install Python 3.11 or newer" "or install uv (https://docs.astral.sh/uv), which brings one" \
      "or name one: LLAVA_PYTHON=/path/to/python bash $0"
  fi
}

# install_locked: lock.txt and this repository into VENV; by uv (fetched into VENV when there is none), else by pip.
install_locked() {
  local uv
  uv="$(find_uv)"
  if [[ -z "$uv" ]] && "$PYTHON" -m pip install --quiet --disable-pip-version-check uv; then
    uv="$(find_uv)"
  fi
  if [[ -n "$uv" ]]; then
    say "installing requirements/lock.txt into $VENV with $("$uv" --version) (about 6 GB on Linux, most of it torch)"
    "$uv" pip install --python "$PYTHON" -r requirements/lock.txt && "$uv" pip install --quiet --python "$PYTHON" --no-deps -e .
  else
    say "installing requirements/lock.txt into $VENV with pip (uv would be faster)"
    "$PYTHON" -m pip --version >/dev/null 2>&1 || "$PYTHON" -m ensurepip >/dev/null
    "$PYTHON" -m pip install --disable-pip-version-check -r requirements/lock.txt &&
      "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps -e .
  fi
}

# refuse_foreign: an environment holds one checkout, installed editable; setting up a second one would take it from the first.
refuse_foreign() {
  local owner
  [[ -f "$OWNER" ]] || return 0
  owner="$(<"$OWNER")"
  [[ ! -f "$owner/scripts/lib.sh" || "$owner" -ef "$ROOT" ]] ||
    fail "the environment $VENV belongs to the checkout $owner, and this one is $ROOT" \
      "unset LLAVA_VENV: this checkout then has its own, $ROOT/.venv" "or name another place: LLAVA_VENV=/path/to/venv bash $0"
}

# setup_environment: make VENV hold exactly what the lock says and put it first on PATH.
# Safe to interrupt and to run again; a finished set-up is left alone.
setup_environment() {
  local wanted
  refuse_foreign
  is_python "$PYTHON" || create_venv
  { printf '%s\n' "$ROOT" >"$OWNER"; } 2>/dev/null || true # one that cannot be written to cannot be taken either
  wanted="$(lock_hash "$PYTHON")"
  if [[ -f "$STAMP" && "$(<"$STAMP")" == "$wanted" ]]; then
    say "environment: $VENV is up to date"
  else
    rm -f "$STAMP"
    install_locked ||
      fail "the installation did not finish" "read the lines above; a network failure is cured by running the same command again" \
        "behind a mirror: uv reads UV_DEFAULT_INDEX, not pip's configuration" \
        "disk full: about 10 GB are needed in $VENV and in the installer's cache" \
        "environment damaged: remove $VENV and run again"
    printf '%s\n' "$wanted" >"$STAMP"
    say "environment: $VENV is ready"
  fi
  export VIRTUAL_ENV="$VENV" PATH="$VENV/bin:$PATH"
}

# count_processes: sets gpus, the cards there are, and processes: NUM_PROCESSES, else one a card, else 1.
count_processes() {
  # Ctrl-C while torch is imported: no traceback
  gpus="$("$PYTHON" -c 'import signal; signal.signal(signal.SIGINT, signal.SIG_DFL); import torch; print(torch.cuda.device_count())')"
  processes="${NUM_PROCESSES:-$((gpus > 0 ? gpus : 1))}"
  ((gpus == 0 || processes <= gpus)) || fail "NUM_PROCESSES=$processes, but there are $gpus GPUs" "set it to $gpus or less"
}

# run_ranks MODULE ARGUMENTS...: a Python module once, or as several ranks that share its questions (see count_processes).
run_ranks() {
  local gpus processes
  count_processes
  if ((processes > 1)); then
    trap 'say "stopped; the same command goes on"; exit 130' INT # torchrun has its own status, and a traceback
    python -m torch.distributed.run --standalone --nproc_per_node "$processes" --module "$@"
  else
    python -m "$@"
  fi
}
