#!/usr/bin/env bash
# Run a command with another release of megatron-core than the environment's.
#
#   bash scripts/megatron_core.sh 0.12.0 python -m pytest tests/megatron_adaptor
#
# The release lies in build/megatron_core/VERSION, installed once, and comes first on PYTHONPATH. ascendspeed.training
# works with the environment's own release; ascendspeed.megatron_adaptor and the integration with 0.12 to 0.16.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

fail() {
  echo "megatron_core: $*" >&2
  exit 1
}

[[ $# -ge 2 ]] || fail "give a release and a command: bash scripts/megatron_core.sh 0.12.0 python train.py"
version="$1"
shift
[[ "$version" =~ ^[0-9]+\.[0-9]+\.[0-9]+[a-z0-9.]*$ ]] || fail "'$version' is not a release of megatron-core, such as 0.12.0"

python="$(bash "$root/scripts/setup.sh" train test)"
target="$root/build/megatron_core/$version"
if [[ ! -f "$target/.made" ]]; then
  echo "megatron_core: installing megatron-core==$version into build/megatron_core" >&2
  rm -rf "$target"
  # Its requirements are the environment's: old releases name test tools and an old numpy among them.
  "$python" -m pip install --quiet --quiet --no-deps --target "$target" "megatron-core==$version" >&2 ||
    fail "pip install failed (see above)"
  touch "$target/.made"
fi
export PYTHONPATH="$target${PYTHONPATH:+:$PYTHONPATH}"
PATH="$(dirname "$python"):$PATH" exec "$@"
