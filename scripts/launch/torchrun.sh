#!/usr/bin/env bash
# Start this node's share of a job: NPROC_PER_NODE processes of a Python module, one per device, under torchrun.
#
#   bash scripts/launch/torchrun.sh -m ascendspeed.training.pretrain_gpt --help
#   DRY_RUN=1 bash scripts/launch/torchrun.sh -m MODULE FLAGS...     # print the command and environment, run nothing
#
# Every recipe ends here, so this is the one torchrun line. Settings: settings.sh, SOCKET_IFNAME and RENDEZVOUS_SECONDS,
# all in docs/environment.md. One number decides how long anything waits for the other ranks: the flag
# --distributed-timeout-minutes. docs/launching.md says what happens on many machines.
set -euo pipefail
launch="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/launch/settings.sh
source "$launch/settings.sh"
[[ $# -gt 0 ]] || fail "give the program: bash scripts/launch/torchrun.sh -m MODULE FLAGS..."

minutes="$(given --distributed-timeout-minutes 10 "$@")"
[[ "$minutes" =~ ^[1-9][0-9]{0,6}$ ]] ||
  fail "--distributed-timeout-minutes $minutes must be a whole number of minutes, at least 1"
wait_for_nodes="${RENDEZVOUS_SECONDS:-$((60 * minutes))}"
[[ "$wait_for_nodes" =~ ^[1-9][0-9]{0,8}$ ]] ||
  fail "RENDEZVOUS_SECONDS=$wait_for_nodes must be a whole number of seconds, at least 1"

# torchrun gives every process one thread unless told otherwise; share the cores instead.
cores="$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)" # nproc: those this process may use
exported=("OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > NPROC_PER_NODE ? cores / NPROC_PER_NODE : 1))}")

python=python3
if [[ -z "${DRY_RUN:-}" ]]; then python="$(bash "$launch/../setup.sh" train)"; fi

if ((NNODES == 1)) && [[ -z "${MASTER_PORT:-}" ]]; then
  # torchrun takes a free port, so several jobs can share a machine.
  rendezvous=(--standalone --local-addr "$MASTER_ADDR")
else
  host="$MASTER_ADDR" address="$MASTER_ADDR"
  if [[ "$host" == *:* ]]; then host="[$host]"; fi # IPv6
  if ((NNODES > 1)); then
    found="$("$python" "$launch/node.py" ${DRY_RUN:+--dry-run} "$((60 * minutes))")" || exit 1
    address="$(sed -n 's/^NODE_ADDR=//p' <<<"$found")"
    while read -r line; do exported+=("$line"); done < <(grep -v '^NODE_ADDR=' <<<"$found")
  fi
  # Node 0 holds the store. read_timeout: a node may come as late as the timeout allows.
  conf="node_rank=$NODE_RANK,is_host=$((NODE_RANK == 0)),join_timeout=$wait_for_nodes,read_timeout=$wait_for_nodes"
  rendezvous=(--nnodes "$NNODES" --rdzv-backend c10d --rdzv-endpoint "$host:$MASTER_PORT" --rdzv-id ascendspeed
    --rdzv-conf "$conf" ${address:+--local-addr "$address"})
fi
if ((MAX_RESTARTS > 0)); then rendezvous+=(--max-restarts "$MAX_RESTARTS"); fi
command=(torchrun --nproc-per-node "$NPROC_PER_NODE" "${rendezvous[@]}" "$@")

if [[ -n "${DRY_RUN:-}" ]]; then
  printf '%q ' "${command[@]}"
  echo
  printf '%s\n' "${exported[@]}"
  exit
fi

export "${exported[@]}"
# torchrun of this environment, whatever else is on PATH. exec: Ctrl-C and the exit status are torchrun's own.
exec "$python" "$launch/torchrun.py" "${command[@]:1}"
