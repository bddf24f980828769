#!/usr/bin/env bash
# Build the C++ tests of csrc/attention and csrc/cpu for aarch64, as they are shipped, and run them under qemu.
#
#   bash scripts/test_aarch64.sh                         # 40 cases on each instruction set: about ten minutes
#   bash scripts/test_aarch64.sh --cases 400             # arguments go to the program, tests/csrc/main.cpp
#
# qemu computes what the instructions say, at no speed that means anything, and orders memory as this machine does: what
# only a weaker order shows, it does not. On an aarch64 machine run scripts/sanitize.sh instead.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

compiler=aarch64-linux-gnu-g++ emulator=qemu-aarch64 libraries=/usr/aarch64-linux-gnu

fail() {
  echo "test_aarch64: $*" >&2
  exit 2
}

missing=()
command -v "$compiler" >/dev/null || missing+=(g++-aarch64-linux-gnu)
command -v "$emulator" >/dev/null || missing+=(qemu-user)
((${#missing[@]} == 0)) || fail "Debian's ${missing[*]} not installed; remedy: apt-get install ${missing[*]}"

(($# > 0)) || set -- --cases 40
# GCC 12 finds overlapping copies in its own std::string when it optimises.
CXX="$compiler" CXXFLAGS='-O3 -Wno-restrict' RUNNER="$emulator -cpu max -L $libraries" bash scripts/sanitize.sh plain "$@"

# expect CPU ISAS: what the program offers on this CPU.
expect() {
  local offered
  offered="$("$emulator" -cpu "$1" -L "$libraries" build/sanitize/aarch64/plain/kernels_test --isas)"
  [[ "$offered" == "$2" ]] || fail "on $1 there is '$offered', expected '$2'"
  echo "$1: $offered"
}
expect max 'neon_bf16 neon generic generic_bf16'
expect neoverse-n1 'neon generic generic_bf16' # has no bfmmla
