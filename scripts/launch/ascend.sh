# shellcheck shell=bash
# Environment presets of one Atlas node, exported: source scripts/launch/ascend.sh a2|a3
#
# One table; what the caller has exported already wins. docs/recipes.md shows it, a test holds the two equal.

fail() {
  echo "${0##*/}: $*" >&2
  exit 1
}

# variable | Atlas A2 | Atlas A3 | why
ascend_presets='
NPROC_PER_NODE | 8 | 16 | one process per device: 8 cards; 8 cards of two dies, each die a device
DEVICE | npu | npu | a recipe for these cards never trains on a CPU by mistake (--device)
PYTORCH_NPU_ALLOC_CONF | expandable_segments:True | expandable_segments:True | segments that grow leave less memory between tensors unused
HCCL_BUFFSIZE | 200 | 200 | MB, two per communicator; the default of HCCL, said here because the memory check counts with it
P2P_HCCL_BUFFSIZE | 20 | 20 | MB, two per pair of pipeline stages; the default of torch_npu, for the same reason
CPU_AFFINITY_CONF | 1 | 1 | each process keeps to its share of the cores
'

case "${1:-}" in
  a2 | a3) ;;
  *) fail "ascend.sh ${1:-}: name the machine, a2 or a3" ;;
esac
while IFS='|' read -r name a2 a3 _; do
  [[ -n "${name// /}" ]] || continue
  name="${name// /}"
  if [[ "$1" == a2 ]]; then preset="${a2// /}"; else preset="${a3// /}"; fi
  export "$name=${!name:-$preset}"
done <<<"$ascend_presets"
unset name a2 a3 preset

# The two dies of a card go to the same job, so that a job never shares a card.
if [[ "$1" == a3 && "$NPROC_PER_NODE" =~ ^[0-9]+$ ]] && ((10#$NPROC_PER_NODE % 2)); then
  fail "NPROC_PER_NODE=$NPROC_PER_NODE must be even on Atlas A3: a job takes both dies of a card"
fi
