#!/usr/bin/env bash
# Make the Python environment, build the extension, and print the path of the environment's python.
#
#   python="$(bash scripts/setup.sh train test)"    # the arguments are extras of pyproject.toml
#
# An active virtual or conda environment that already has torch is used as it is, and its torch is kept (on an NPU
# machine it is the one that matches CANN). Otherwise .venv is made in the repository, with the torch of
# scripts/constraints.txt. What is up to date is not touched: the second call takes a fraction of a second. Only the
# path goes to stdout; progress and errors go to stderr.
#
# Environment: PYTHON, CXX, ASCENDSPEED_TORCH_INDEX_URL, ASCENDSPEED_WERROR (docs/environment.md).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root="$PWD"
extras="$*"
export PIP_DISABLE_PIP_VERSION_CHECK=1

say() { echo "setup: $*" >&2; }
fail() {
  say "$*"
  exit 1
}

# The first argument as major.minor if it is a python that runs, else nothing.
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true; }
supported() { [[ "$1" == 3.10 || "$1" == 3.11 || "$1" == 3.12 ]]; }

# The version of a package that a python has, without importing it; fails when it has none.
version_in() { "$2" -c "from importlib.metadata import version; print(version('$1'))" 2>/dev/null; }
torch_version() { version_in torch "$1"; }

# Set `python` to the interpreter of the environment to use, which may not exist yet, and `owned` to whether it is .venv.
choose_environment() {
  local prefix version
  for prefix in "${VIRTUAL_ENV:-}" "${CONDA_PREFIX:-}"; do
    # .venv itself, activated, is ours all the same: its torch follows constraints.txt.
    if [[ "$prefix" -ef "$root/.venv" ]]; then continue; fi
    if [[ -z "$prefix" || ! -x "$prefix/bin/python" ]] || ! torch_version "$prefix/bin/python" >/dev/null; then continue; fi
    python="$prefix/bin/python" owned=false
    version="$(version_of "$python")"
    supported "$version" || fail "the active environment $prefix has Python $version; Python 3.10, 3.11 or 3.12 is needed"
    return
  done
  python="$root/.venv/bin/python" owned=true
}

# Everything that makes the extensions in this checkout out of date, as text.
wanted_build() {
  local hasher=(sha256sum)
  command -v sha256sum >/dev/null || hasher=(shasum -a 256)
  "$python" -c 'import sys; print("python", sys.version.split()[0])'
  echo "torch $(torch_version "$python")"
  echo "werror ${ASCENDSPEED_WERROR:-}"
  # Of csrc/hostcann the extensions read the headers only.
  find pyproject.toml setup.py scripts/constraints.txt csrc -type f \( -path 'csrc/hostcann/include/*' -o ! -path 'csrc/hostcann/*' \) |
    LC_ALL=C sort | xargs "${hasher[@]}"
}

# The same of an installed environment.
wanted_state() {
  echo "root $root"
  echo "environment $python"
  echo "torch_npu $(version_in torch_npu "$python")"
  wanted_build
}

# One stamp lies in the environment (what is installed there), one in build/ (what the extensions in this checkout were
# built for): environments that take turns on one checkout are served correctly, and without building again where the
# same torch serves both.
environment_stamp() { echo "$("$python" -c 'import sys; print(sys.prefix)')/.ascendspeed-setup"; }

# Whether the package is installed and its extension built, as the files now are.
built() {
  local stamp extensions
  [[ -x "$python" ]] && torch_version "$python" >/dev/null || return 1
  stamp="$(environment_stamp)"
  [[ -f "$stamp" && -f "$stamp-extras" && -f build/.setup ]] || return 1
  extensions=(ascendspeed/_C*.so)
  [[ -e "${extensions[0]}" ]] || return 1
  extensions=(ascendspeed/_npu*.so)
  [[ -e "${extensions[0]}" ]] || ! version_in torch_npu "$python" >/dev/null || return 1
  [[ "$(wanted_state)" == "$(<"$stamp")" && "$(wanted_build)" == "$(<build/.setup)" ]]
}

has_extras() {
  local extra stamp
  stamp="$(environment_stamp)"
  for extra in $extras; do grep -qx "$extra" "$stamp-extras" || return 1; done
}

require_compiler() {
  local candidate probe
  probe='#include <concepts>
#include <omp.h>
#include <span>
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 12
#error too old
#endif
static_assert(__cplusplus >= 202002L);'
  for candidate in "${CXX:-g++}" "${CXX:-clang++}"; do
    # Unquoted: CXX may be two words, such as "ccache g++".
    # shellcheck disable=SC2086
    if $candidate -std=c++20 -fopenmp -fsyntax-only -x c++ - <<<"$probe" >/dev/null 2>&1; then
      export CXX="$candidate"
      return
    fi
  done
  if [[ -n "${CXX:-}" ]]; then fail "CXX='$CXX' does not compile C++20 with OpenMP: set it to g++ >= 12 or clang++"; fi
  fail "no C++20 compiler with OpenMP: install g++ >= 12 (apt-get install g++) or clang++, or set CXX to one"
}

require_headers() {
  local include
  include="$("$1" -c 'import sysconfig; print(sysconfig.get_path("include"))')"
  [[ -f "$include/Python.h" ]] || fail "no Python headers: $include/Python.h is missing (apt-get install python3-dev)"
}

# Set `base` to the python that .venv is made from.
choose_base() {
  local candidate version seen=""
  for candidate in ${PYTHON:-python3 python3.12 python3.11 python3.10}; do
    version="$(version_of "$candidate")"
    if supported "$version"; then
      base="$candidate"
      return
    fi
    [[ -z "$version" ]] || seen+=" $candidate is $version,"
  done
  fail "Python 3.10, 3.11 or 3.12 is needed:${seen:- ${PYTHON:-python3} does not run,} install one or set PYTHON to it"
}

make_venv() {
  local version
  if [[ -x "$python" ]]; then
    version="$(version_of "$python")"
    supported "$version" || fail "$root/.venv has Python ${version:-that does not run}; remove it and start again"
    base="$python"
  else
    choose_base
  fi
  require_headers "$base"
  if "$python" -m pip --version >/dev/null 2>&1; then return; fi # made before, or by hand
  [[ "$base" != "$python" ]] || fail "$root/.venv has no pip; remove it and start again"
  "$base" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$base has no pip and venv to make an environment with (apt-get install python3-venv python3-pip)"
  say "making .venv with $base"
  "$base" -m venv .venv >&2 || fail "'$base -m venv .venv' failed (see above)"
}

# Twice quiet: errors only.
install() { "$python" -m pip install --quiet --quiet "$@" >&2 || fail "pip install failed (see above)"; }

# Write the extras that the environment has and those that are wanted, a line each.
all_extras() { LC_ALL=C sort -u "$(environment_stamp)-extras" <(for extra in $extras; do echo "$extra"; done); }

# The installed torch stays the one it is.
constrain_torch() { echo "torch==$(torch_version "$python")" >build/.setup-constraints; }

set_up() {
  require_compiler
  if [[ "$owned" == true ]]; then
    make_venv
    say "installing $(grep '^torch==' scripts/constraints.txt) into .venv"
    local index=()
    [[ -z "${ASCENDSPEED_TORCH_INDEX_URL:-}" ]] || index=(--index-url "$ASCENDSPEED_TORCH_INDEX_URL")
    install ${index[@]+"${index[@]}"} --constraint scripts/constraints.txt torch
  else
    "$python" -m pip --version >/dev/null 2>&1 || fail "the active environment ($python) has no pip"
    require_headers "$python"
    say "using the active environment of $python with its torch $(torch_version "$python")"
  fi

  local stamp all torch_npu
  stamp="$(environment_stamp)"
  touch "$stamp-extras" || fail "the environment of $python cannot be written to"
  rm -f "$stamp"
  all_extras >build/.setup-extras
  all="$(paste -sd, build/.setup-extras)"
  say "installing the packages of pyproject.toml${all:+ [$all]}"
  constrain_torch
  install --constraint build/.setup-constraints "setuptools>=77"
  ASCENDSPEED_EXTENSIONS_BUILT=1 install --constraint build/.setup-constraints --no-build-isolation --editable ".${all:+[$all]}"
  say "building the C++ extension (about two minutes)"
  # In place, against this very torch. What another environment with the same torch has built stays.
  [[ -f build/.setup && "$(wanted_build)" == "$(<build/.setup)" ]] || rm -f build/.setup ascendspeed/_C*.so ascendspeed/_npu*.so
  # torch_npu's headers are not among the files that setup.py compares.
  torch_npu="$(version_in torch_npu "$python" || true)"
  [[ -z "$torch_npu" || "$torch_npu" == "$(cat build/.setup-npu 2>/dev/null)" ]] || rm -f ascendspeed/_npu*.so
  "$python" setup.py --quiet build_ext --inplace >&2 || fail "the extension does not build (see above)"
  # Without torch_npu, which loads only where CANN is on the loader's path.
  TORCH_DEVICE_BACKEND_AUTOLOAD=0 "$python" -c 'import ascendspeed.ops' >&2 || fail "the extension was built but does not load (see above)"

  mv build/.setup-extras "$stamp-extras"
  [[ -z "$torch_npu" ]] || echo "$torch_npu" >build/.setup-npu
  wanted_build >build/.setup
  wanted_state >"$stamp"
}

# Install what further extras need, without building again.
add_extras() {
  say "installing the packages of pyproject.toml [${extras// /,}]"
  all_extras >build/.setup-extras
  constrain_torch
  # shellcheck disable=SC2086
  "$python" - $extras >build/.setup-requirements <<'EOF'
import sys
from importlib.metadata import requires

for line in requires("ascendspeed"):
    requirement, _, marker = map(str.strip, line.partition(";"))
    for extra in sys.argv[1:]:
        if marker.endswith(f'extra == "{extra}"'):
            condition = marker.removesuffix(f'extra == "{extra}"').removesuffix(" and ")
            print(f"{requirement}; {condition}" if condition else requirement)
EOF
  install --constraint build/.setup-constraints --requirement build/.setup-requirements
  mv build/.setup-extras "$(environment_stamp)-extras"
}

choose_environment
if ! built || ! has_extras; then
  mkdir -p build
  if command -v flock >/dev/null; then
    exec 9>build/.setup-lock
    flock -n 9 || { say "waiting for another set-up in $root" && flock 9; }
  fi
  # Another set-up may have done the work meanwhile.
  if ! built; then
    set_up
  elif ! has_extras; then
    add_extras
  fi
fi
echo "$python"
