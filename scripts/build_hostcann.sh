#!/usr/bin/env bash
# Build CANN's libraries for the host into build/hostcann/lib, and print that folder. What is up to date is not built.
#
#   export LD_LIBRARY_PATH="$(bash scripts/build_hostcann.sh)"
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

mkdir -p "$out"
if command -v flock >/dev/null; then
  exec 9>"$out/.lock"
  flock -n 9 || { echo "build_hostcann: waiting for another build in $out" >&2 && flock 9; }
fi
log="$out/build.log"
if ! {
  cmake -S csrc/hostcann -B "$out" -G "Unix Makefiles" &&
    cmake --build "$out" --parallel 2
} >"$log" 2>&1; then
  cat "$log" >&2
  fail "the build failed (see above)"
fi
echo "$out/lib"
