#!/usr/bin/env bash
# Everything that only a GPU machine can show, most valuable first, in at most nine minutes:
#   tests/gpu/run.sh [--tiny] [--only STEP ...]
# Writes results.json, table.md and steps.log to $OUT (default: outputs/gpu). Needs no network. Wheels
# in .whl/ are installed for this run alone, for a machine that lacks some packages: docs/gpu.md.
# PYTHON=/path/to/python chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 WANDB_MODE=disabled TOKENIZERS_PARALLELISM=false
export PYTHONPATH=$PWD
if compgen -G '.whl/*.whl' > /dev/null; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" .whl/*.whl
  export PYTHONPATH=$site:$PYTHONPATH
fi
"$python" -m tests.gpu.check --out "${OUT:-outputs/gpu}" "$@"
