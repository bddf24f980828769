#!/usr/bin/env bash
# Start this node's share of a job: NPROC_PER_NODE processes of a Python module, one per device, under torchrun.
#
#   bash scripts/launch/torchrun.sh -m ascendspeed.training.pretrain_gpt --help
#   DRY_RUN=1 bash scripts/launch/torchrun.sh -m MODULE FLAGS...     # print the command and environment, run nothing
#
# Every recipe ends here, so this is the one torchrun line. Settings: settings.sh and docs/environment.md.
set -euo pipefail
launch="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/launch/settings.sh
source "$launch/settings.sh"
[[ $# -gt 0 ]] || fail "give the program: bash scripts/launch/torchrun.sh -m MODULE FLAGS..."

if ((NNODES == 1)) && [[ -z "${MASTER_PORT:-}" ]]; then
  # torchrun takes a free port, so several jobs can share a machine.
  rendezvous=(--standalone --local-addr "$MASTER_ADDR")
else
  rendezvous=(--nnodes "$NNODES" --node-rank "$NODE_RANK" --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT")
fi
if ((MAX_RESTARTS > 0)); then rendezvous+=(--max-restarts "$MAX_RESTARTS"); fi
command=(torchrun --nproc-per-node "$NPROC_PER_NODE" "${rendezvous[@]}" "$@")

# torchrun gives every process one thread unless told otherwise; share the cores instead.
cores="$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)" # nproc counts those this process may use
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cores > NPROC_PER_NODE ? cores / NPROC_PER_NODE : 1))}"

if [[ -n "${DRY_RUN:-}" ]]; then
  printf '%q ' "${command[@]}"
  echo
  echo "OMP_NUM_THREADS=$OMP_NUM_THREADS"
  exit
fi

python="$(bash "$launch/../setup.sh" train)"
# torchrun of this environment, whatever else is on PATH. exec: Ctrl-C and the exit status are torchrun's own.
exec "$python" -m torch.distributed.run "${command[@]:1}"
