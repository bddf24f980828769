#!/usr/bin/env bash
# Build the C++ tests of csrc/attention and csrc/cpu under sanitizers and run them on every instruction set of this CPU.
#
#   bash scripts/sanitize.sh                             # plain, address, undefined, thread, emulated: five minutes
#   bash scripts/sanitize.sh address --cases 2000        # a long run of one
#   bash scripts/sanitize.sh thread --fault race         # a mistake made on purpose, which must be found
#
# What is built stays in build/sanitize. Arguments after the names go to the program, tests/csrc/main.cpp. `plain` is
# built without a sanitizer and looks for wrong numbers and canaries alone. Needs g++ or clang++ and any python3, which
# reads csrc/sources.json; no torch. A CXX that compiles for another machine needs RUNNER, which runs its programs here
# (scripts/test_aarch64.sh). `emulated`, for x86-64 alone, runs amx_bf16 with the instructions on tiles in C++
# (tests/csrc/emulated), on any CPU and where address and undefined see what they do.
#
# Environment: CXX, CXXFLAGS, PYTHON, RUNNER (docs/environment.md).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

: "${CXX:=g++}" "${CXXFLAGS:=}" "${PYTHON:=python3}" "${RUNNER:=}"
jobs=2
export ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1
export UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1

fail() {
  echo "sanitize: $*" >&2
  exit 2
}

machine="$("$CXX" -dumpmachine)" || fail "CXX=$CXX does not say what machine it compiles for; set a g++ or clang++"
machine="${machine%%-*}"
read -ra runner <<<"$RUNNER"
read -ra own_flags <<<"$CXXFLAGS"

# One line for each file to compile: the file, then the flags it alone needs.
sources() {
  "$PYTHON" - "$machine" <<'PY'
import json
import sys
from pathlib import Path

shared = json.loads(Path("csrc/sources.json").read_text())
print(*shared["attention"], *shared["cpu"], sep="\n")
isa = shared["isa"].get(sys.argv[1], {})
for source, flags in isa.items():
    print(source, *flags)
print(*sorted(Path("tests/csrc").glob("*.cpp")), sep="\n")
PY
}

# Called through xargs.
# shellcheck disable=SC2329
# compile FOLDER "SOURCE FLAGS..." FLAGS...: unless the object is newer than everything it may come from.
compile() {
  local folder="$1" source="${2%% *}" words=() object changed=
  read -ra words <<<"$2"
  object="$folder/${source//\//_}.o"
  if [[ -e "$object" ]]; then
    changed="$(find "$source" scripts/sanitize.sh csrc tests/csrc \
      \( -name '*.h' -o -path "$source" -o -path csrc/sources.json -o -path scripts/sanitize.sh \) -newer "$object" -print -quit)"
    [[ -n "$changed" ]] || return 0
  fi
  "$CXX" -std=c++20 -O1 -g -ffp-contract=fast -Wall -Wextra "${@:3}" -Icsrc -Itests/csrc "${words[@]:1}" -c "$source" \
    -o "$object.new" && mv "$object.new" "$object"
}
export -f compile
export CXX

# objects FOLDER LIST FLAGS...: the objects of the sources in a list of lines as `sources` prints them.
objects() {
  mkdir -p "$1"
  # shellcheck disable=SC2016
  xargs -d '\n' -P "$jobs" -I '{}' bash -c 'compile "$0" "$@" || exit 1' "$1" '{}' "${@:3}" <<<"$2" ||
    fail "the build failed (see above)"
}

# link FOLDER FLAGS...: the program FOLDER/kernels_test, of FOLDER's objects of `own` and those of `base` of the rest.
link() {
  local line files=() from
  while read -r line; do
    line="${line%% *}" from="$base"
    [[ " $own " != *" $line "* ]] || from="$1"
    files+=("$from/${line//\//_}.o")
  done <<<"$list"
  "$CXX" "${@:2}" -pthread "${files[@]}" -o "$1/kernels_test"
}

# check FOLDER NAMES: run the program on every instruction set, then one line for each sanitizer in it.
check() {
  local folder="$1" isa isas name output report='' start
  start="$(date +%s)"
  isas="$("${runner[@]}" "$folder/kernels_test" --isas)"
  [[ "$2" != emulated ]] || isas=amx_bf16
  for isa in $isas; do
    if ! output="$(ASCENDSPEED_CPU_ISA="$isa" "${runner[@]}" "$folder/kernels_test" "${program[@]}")"; then
      echo "${2// /, }: FAILED (ASCENDSPEED_CPU_ISA=$isa ${runner[*]} $folder/kernels_test ${program[*]})"
      return 1
    fi
    report="${output#isa=* }" report="${report% seconds=*}"
  done
  for name in $2; do
    echo "$name: $report isa=${isas// /,} seconds=$(($(date +%s) - start)): clean"
  done
}

all='plain address undefined thread'
[[ "$machine" != x86_64 ]] || all+=' emulated'
wanted=()
while (($# > 0)) && [[ "$1" != -* ]]; do
  [[ " $all " == *" $1 "* ]] || fail "$1 is not one of ${all// /, }"
  wanted+=("$1")
  shift
done
((${#wanted[@]} > 0)) || read -ra wanted <<<"$all"
arguments=("$@")

# Sanitizers that one build holds; address and undefined do not disturb each other.
status=0
for group in plain 'address undefined' thread emulated; do
  names=''
  for name in $group; do
    [[ " ${wanted[*]} " != *" $name "* ]] || names+="${names:+ }$name"
  done
  [[ -n "$names" ]] || continue
  flags=() program=("${arguments[@]}")
  # Ten times as fast as the others, so ten times as many cases.
  [[ "$group" != plain || ${#arguments[@]} -gt 0 ]] || program=(--cases 400)
  case "$group" in
    plain) ;;
    emulated) flags=("-fsanitize=address,undefined" -fno-sanitize-recover=all) ;;
    *) flags=("-fsanitize=${group// /,}" -fno-sanitize-recover=all) ;;
  esac
  folder="build/sanitize/$machine/${group// /-}"
  flags+=("${own_flags[@]}") base="$folder" own=''
  list="$(sources)" || fail "cannot read csrc/sources.json"
  if [[ "$group" == emulated ]]; then
    base="build/sanitize/$machine/address-undefined"
    own='csrc/cpu/dispatch.cpp csrc/cpu/microkernel_amx.cpp' # which include what is emulated; without flags of their own
    objects "$folder" "${own// /$'\n'}" -Itests/csrc/emulated -Wno-psabi "${flags[@]}"
  fi
  objects "$base" "$list" "${flags[@]}"
  link "$folder" "${flags[@]}"
  check "$folder" "$names" || status=1
done
exit "$status"
