#!/usr/bin/env bash
# Build CANN's libraries for the host into build/hostcann/lib, and print that folder. What is up to date is not built.
#
#   export LD_LIBRARY_PATH="$(bash scripts/build_hostcann.sh)"
#   bash scripts/build_hostcann.sh PYTHON    also what torch_npu needs, against the torch of that Python
#
# Only the folder goes to stdout; progress and errors go to stderr. Environment: CXX (docs/environment.md).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out="$PWD/build/hostcann"

fail() {
  echo "build_hostcann: $*" >&2
  exit 1
}

command -v cmake >/dev/null || fail "cmake is not there: apt-get install cmake, or pip install cmake (3.19 or newer)"
export CXX="${CXX:-g++}" # CMake reads it; it may be two words, such as "ccache g++"
command -v "${CXX%% *}" >/dev/null || fail "the compiler $CXX is not there: apt-get install g++ (12 or newer)"
command -v make >/dev/null || fail "make is not there: apt-get install make"

[ $# -le 1 ] || fail "one argument at most, the Python whose torch to build against; got $*"
torch=""
if [ $# -eq 1 ]; then
  find_torch='import importlib.util as util; spec = util.find_spec("torch"); print(spec.submodule_search_locations[0] if spec else "")'
  torch="$("$1" -c "$find_torch")" || fail "$1 does not run"
  [ -n "$torch" ] || fail "$1 has no torch"
fi

mkdir -p "$out"
if command -v flock >/dev/null; then
  exec 9>"$out/.lock"
  flock -n 9 || { echo "build_hostcann: waiting for another build in $out" >&2 && flock 9; }
fi
log="$out/build.log"
build() { # build SOURCE FOLDER [DEFINITION...]
  cmake -S "$1" -B "$2" -G "Unix Makefiles" "${@:3}" && cmake --build "$2" --parallel 2
}
if ! {
  build csrc/hostcann "$out" &&
    { [ -z "$torch" ] || build csrc/hostcann/torch "$out/torch" -DTORCH_DIR="$torch" -DHOSTCANN_LIBRARIES="$out/lib"; }
} >"$log" 2>&1; then
  cat "$log" >&2
  fail "the build failed (see above)"
fi
echo "$out/lib"
