#!/usr/bin/env bash
# Run the pretrain_gpt.py of a Megatron-LM checkout with the one line `import ascendspeed.megatron_adaptor` added, once
# per parallelism and precision, and compare every loss with one process that computes with Megatron's own attention.
#
#   git clone --branch core_v0.16.1 https://github.com/NVIDIA/Megatron-LM    # or core_v0.12.3
#   bash scripts/run_megatron_lm.sh Megatron-LM
#   bash scripts/run_megatron_lm.sh Megatron-LM --case tp2 --case pp2
#   bash scripts/hostcann.sh bash scripts/run_megatron_lm.sh Megatron-LM --device npu
#
# The checkout is not changed, but for the helpers_cpp that Megatron-LM itself compiles in it. What its trainer imports
# besides megatron-core goes to build/megatron_lm.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

fail() {
  echo "run_megatron_lm: $*" >&2
  exit 1
}

checkout="${1:-}"
[[ -n "$checkout" ]] || fail "give the folder of a Megatron-LM checkout"
[[ -f "$checkout/pretrain_gpt.py" && -d "$checkout/megatron/training" ]] ||
  fail "$checkout is not a checkout of Megatron-LM: it has no pretrain_gpt.py or no megatron/training"
shift
checkout="$(cd "$checkout" && pwd)"

if [[ -n "${VIRTUAL_ENV:-}" ]]; then
  python="$VIRTUAL_ENV/bin/python"
else
  python="$(bash "$root/scripts/setup.sh" train)"
fi
packages="$root/build/megatron_lm"
wanted="six einops regex pydantic triton pybind11" # imported by megatron.training 0.12 or 0.16; no extra of it has them all
if [[ "$(cat "$packages/.made" 2>/dev/null)" != "$wanted" ]]; then
  echo "run_megatron_lm: installing $wanted into build/megatron_lm" >&2
  rm -rf "$packages"
  # shellcheck disable=SC2086
  "$python" -m pip install --quiet --quiet --target "$packages" $wanted >&2 || fail "pip install failed (see above)"
  echo "$wanted" >"$packages/.made"
fi

# As its Makefile does, which asks another Python for the suffix when that of the system comes first on the PATH.
datasets="$checkout/megatron/core/datasets"
helpers="$datasets/helpers_cpp$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')"
if [[ ! -f "$helpers" ]]; then
  include="$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')"
  "${CXX:-g++}" -O3 -shared -std=c++17 -fPIC "-I$include" "-I$packages/pybind11/include" "$datasets/helpers.cpp" -o "$helpers" ||
    fail "Megatron-LM's helpers.cpp does not compile (see above)"
fi

export PYTHONPATH="$checkout:$root${PYTHONPATH:+:$PYTHONPATH}:$packages"
exec "$python" "$root/scripts/run_megatron_lm.py" "$checkout" "$@"
