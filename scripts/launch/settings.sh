# shellcheck shell=bash
# The place of this node in a job: its settings with their defaults, checked and exported. Sourced by torchrun.sh, and
# before it by a recipe that computes with them.
#
# Settings: NPROC_PER_NODE NNODES NODE_RANK MASTER_ADDR MASTER_PORT MAX_RESTARTS, all in docs/environment.md.

fail() {
  echo "${0##*/}: $*" >&2
  exit 1
}

: "${NPROC_PER_NODE:=2}" "${NNODES:=1}" "${MAX_RESTARTS:=0}"
for name in NPROC_PER_NODE NNODES; do
  [[ "${!name}" =~ ^[1-9][0-9]*$ ]] || fail "$name=${!name} must be a whole number of at least 1"
done
[[ "$MAX_RESTARTS" =~ ^(0|[1-9][0-9]*)$ ]] || fail "MAX_RESTARTS=$MAX_RESTARTS must be a whole number of at least 0"

if ((NNODES > 1)); then
  [[ -n "${NODE_RANK:-}" && -n "${MASTER_ADDR:-}" ]] ||
    fail "NNODES=$NNODES needs NODE_RANK (0 to $((NNODES - 1)), one per node) and MASTER_ADDR (the host of node 0)"
  : "${MASTER_PORT:=29500}"
fi
: "${NODE_RANK:=0}" "${MASTER_ADDR:=127.0.0.1}"
[[ "$NODE_RANK" =~ ^(0|[1-9][0-9]*)$ && "$NODE_RANK" -lt "$NNODES" ]] ||
  fail "NODE_RANK=$NODE_RANK must be a whole number from 0 to $((NNODES - 1)), below NNODES=$NNODES"
[[ -z "${MASTER_PORT:-}" || ("$MASTER_PORT" =~ ^[1-9][0-9]{0,4}$ && "$MASTER_PORT" -le 65535) ]] ||
  fail "MASTER_PORT=$MASTER_PORT must be a port, 1 to 65535"
export NPROC_PER_NODE NNODES NODE_RANK MASTER_ADDR MAX_RESTARTS
if [[ -n "${MASTER_PORT:-}" ]]; then export MASTER_PORT; fi

# The value of a flag in a command line, the last time it is named, or a default: given FLAG DEFAULT [WORD...]
given() {
  local flag="$1" value="$2"
  shift 2
  while (($#)); do
    case "$1" in
      "$flag="*) value="${1#*=}" ;;
      "$flag") value="${2:-}" ;;
    esac
    shift
  done
  echo "$value"
}
