#!/usr/bin/env bash
# Run a command where torch_npu finds NPUs: on host CANN, without an NPU and without CANN (docs/hostcann.md).
#
#   bash scripts/hostcann.sh python -c 'import torch; print(torch.ones(2, device="npu"))'
#   bash scripts/hostcann.sh python -m pytest tests/npu
#   DEVICE=npu bash scripts/hostcann.sh bash examples/pretrain_gpt.sh --train-iters 20
#
# The command runs where the caller is, in an environment of its own, build/hostcann/env: torch_npu laid over the
# environment of scripts/setup.sh. There `import torch` loads torch_npu. What is up to date is not made again.
#
# Environment: ASCENDSPEED_HOSTCANN_* (docs/environment.md), and what scripts/setup.sh and build_hostcann.sh read.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
out="$root/build/hostcann"
overlay="$out/env"

fail() {
  echo "hostcann: $*" >&2
  exit 1
}

[[ $# -gt 0 ]] || fail "give the command to run: bash scripts/hostcann.sh python train.py"
cards=(/dev/davinci[0-9]*)
[[ ! -e "${cards[0]}" ]] || fail "this machine has an NPU (${cards[0]}): run the command without this script"

# Within a command of this script everything is there. An overlay that is active otherwise would be laid over itself.
if [[ "${VIRTUAL_ENV:-}" -ef "$overlay" ]]; then
  if [[ ":${LD_LIBRARY_PATH:-}:" == *":$out/lib:"* ]]; then exec "$@"; fi
  unset VIRTUAL_ENV
fi

base="$(bash "$root/scripts/setup.sh" train test)"

# The name of a package as the environment has it, with its version.
version_in() { "$1" -c "from importlib.metadata import version; print(version('$2'))" 2>/dev/null || true; }

make_overlay() {
  local pinned torch site
  pinned="$(grep '^torch_npu==' "$root/scripts/constraints.txt")"
  torch="$(version_in "$base" torch)"
  # torch_npu is compiled for one release of torch.
  [[ "${torch%.*}" == "$(sed -E 's/torch_npu==([0-9]+\.[0-9]+).*/\1/' <<<"$pinned")" ]] ||
    fail "$pinned needs the torch of its own version, and the environment of $base has torch $torch"
  [[ -z "$(version_in "$base" torch_npu)" ]] || fail "the environment of $base has a torch_npu of its own"
  echo "hostcann: installing $pinned into build/hostcann/env" >&2
  rm -rf "$overlay"
  "$base" -m venv "$overlay" >&2 || fail "'$base -m venv $overlay' failed (see above)"
  site="$("$overlay/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
  "$base" -c 'import site; print("\n".join(site.getsitepackages()))' >"$site/base.pth"
  "$overlay/bin/python" -m pip install --quiet --quiet "$pinned" >&2 || fail "pip install failed (see above)"
  "$overlay/bin/python" -m pip install --quiet --quiet --no-deps --no-build-isolation \
    --editable "$root/csrc/hostcann/torch/python" >&2 || fail "pip install failed (see above)"
  cat "$wanted" >"$overlay/.made"
}

mkdir -p "$out"
wanted="$(mktemp)"
trap 'rm -f "$wanted"' EXIT
{
  "$base" -c 'import sys; print(sys.prefix, sys.version)'
  version_in "$base" torch
  cat "$root/scripts/constraints.txt" "$root/csrc/hostcann/torch/python/pyproject.toml"
} >"$wanted"
if command -v flock >/dev/null; then
  exec 8>"$out/.env-lock"
  flock 8
fi
cmp --quiet "$wanted" "$overlay/.made" || make_overlay

export PIP_DISABLE_PIP_VERSION_CHECK=1
libraries="$(PATH="$(dirname "$base"):$PATH" bash "$root/scripts/build_hostcann.sh" "$base")"
export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
# Where streams are threads, threads that spin while they wait take the cores from those that work.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
export VIRTUAL_ENV="$overlay" PATH="$overlay/bin:$PATH"
bash "$root/scripts/setup.sh" train test >/dev/null # ascendspeed._npu
rm -f "$wanted"
exec 8>&- # not the command's
exec "$@"
