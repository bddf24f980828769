#!/usr/bin/env bash
# Start a recipe on every node of a list over ssh; when one node fails, end the others.
#
#   HOSTS="node0 node1" NPROC_PER_NODE=8 bash scripts/launch/multi_node.sh examples/pretrain_gpt.sh --bf16
#   HOSTFILE=hosts.txt bash scripts/launch/multi_node.sh examples/pretrain_gpt.sh       # a host per line, # comments
#   DRY_RUN=1 HOSTS="node0 node1" bash scripts/launch/multi_node.sh examples/pretrain_gpt.sh   # each node's command
#
# It only fills NNODES, NODE_RANK and MASTER_ADDR; the first host is node 0. This folder has to be at the same path on
# every node. The settings of the launcher, the recipe and HCCL travel along, and the variables that LAUNCH_ENV names;
# HCCL_IF_IP, which is one node's address, does not. Every line of output begins with its host; the exit status is that
# of the first node that failed, 75 only if every one blamed another. Settings: docs/environment.md.
set -euo pipefail
fail() {
  echo "multi_node.sh: $*" >&2
  exit 1
}

[[ $# -gt 0 ]] || fail "give the recipe: HOSTS=\"node0 node1\" bash scripts/launch/multi_node.sh examples/pretrain_gpt.sh"
[[ -f "$1" ]] || fail "$1 is no file in $PWD"
if [[ -n "${HOSTFILE:-}" ]]; then
  [[ -z "${HOSTS:-}" ]] || fail "HOSTS and HOSTFILE are both set: give one of them"
  [[ -r "$HOSTFILE" ]] || fail "HOSTFILE=$HOSTFILE cannot be read"
  HOSTS="$(sed 's/#.*//' "$HOSTFILE" | awk 'NF { print $1 }')"
fi
read -r -d '' -a hosts <<<"${HOSTS:-}" || true
((${#hosts[@]} > 0)) || fail "HOSTS=\"node0 node1\" or HOSTFILE must name the nodes"
twice="$(printf '%s\n' "${hosts[@]}" | sort | uniq -d)"
[[ -z "$twice" ]] || fail "the host ${twice%%$'\n'*} is named twice: one entry per node, NPROC_PER_NODE says how many processes"
[[ -z "${NNODES:-}" || "$NNODES" == "${#hosts[@]}" ]] || fail "NNODES=$NNODES, but there are ${#hosts[@]} hosts"

export NNODES="${#hosts[@]}" MASTER_ADDR="${MASTER_ADDR:-${hosts[0]##*@}}"
: "${LAUNCH_SSH:=ssh -o BatchMode=yes -o ConnectTimeout=10}" "${LAUNCH_ENV:=}"
read -r -a ssh <<<"$LAUNCH_SSH"
read -r -a more <<<"$LAUNCH_ENV"

# NAME=value, quoted, of every variable that is set here and travels.
settings=()
for name in NNODES MASTER_ADDR MASTER_PORT NPROC_PER_NODE MAX_RESTARTS RENDEZVOUS_SECONDS OMP_NUM_THREADS DEVICE \
  {,GLOO_,HCCL_,NCCL_,TP_}SOCKET_IFNAME HCCL_SOCKET_FAMILY HCCL_{CONNECT,EXEC,EVENT}_TIMEOUT ACL_DEVICE_SYNC_TIMEOUT \
  DATA_PATH TOKENIZER_PATH SAVE_DIR DEEPSPEED_CONFIG CHECK DRY_RUN {,P2P_}HCCL_BUFFSIZE PYTORCH_NPU_ALLOC_CONF \
  CPU_AFFINITY_CONF TORCH_CPP_LOG_LEVEL VIRTUAL_ENV CONDA_PREFIX ${more[@]+"${more[@]}"}; do
  if [[ -n "${!name:-}" ]]; then settings+=("$(printf '%q' "$name=${!name}")"); fi
done
recipe="$(printf '%q ' bash "$@")"

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
mkfifo "$folder/alive"
: >"$folder/ended"
exec 7<>"$folder/alive"

# What a node runs: the recipe, in a process group of its own (set -m), until it ends or standard input does, which it
# does when this script has ended. What is left of the group then would hold the output open.
node_command() {
  printf 'cd %q && exec 3<&0 && set -m && { env NODE_RANK=%d %s %s</dev/null & job=$!; ' \
    "$PWD" "$1" "${settings[*]}" "$recipe"
  # shellcheck disable=SC2016
  printf '%s' '{ cat <&3; kill -TERM -- -$job; } >/dev/null 2>&1 & watch=$!; exec 3<&- 2>/dev/null; wait $job; code=$?; ' \
    'kill -KILL -- -$job -$watch; exit $code; }'
}

for rank in "${!hosts[@]}"; do
  {
    exec 7>&-
    code=0
    "${ssh[@]}" "${hosts[rank]}" "bash -c $(printf '%q' "$(node_command "$rank")")" <"$folder/alive" 2>&1 |
      sed -u "s/^/[${hosts[rank]}] /" || code="${PIPESTATUS[0]}"
    echo "$rank $code" >>"$folder/ended"
    exit "$code"
  } &
done

end_all() { exec 7>&-; }
trap end_all INT TERM HUP

# The first failure, in the order of time; then the others have a while to say why they end, and end in any case. A node
# that ended because of another, which by_node_rank.py tells with a status of its own, comes last.
blames_another=75
first="" status=0 ended_all=""
look_for_a_failure() {
  local rank code
  while read -r rank code; do
    if ((code == 0)); then continue; fi
    if [[ -n "$first" ]] && { ((status != blames_another || code == blames_another)) || [[ -n "$ended_all" ]]; }; then
      continue
    fi
    first="$rank" status="$code"
    echo "multi_node.sh: ${hosts[rank]} (node $rank) ended with status $code: ending the job on all nodes" >&2
  done <"$folder/ended"
}
grace=150 # tenths of a second
while (($(jobs -pr | wc -l) > 0)); do
  look_for_a_failure
  if [[ -n "$first" ]] && ((grace-- == 0)); then
    end_all
    ended_all=yes # how the others end from here on says nothing
  fi
  sleep 0.1
done
look_for_a_failure
if (($(wc -l <"$folder/ended") < ${#hosts[@]})); then status=$((status ? status : 1)); fi # one ended without a word
exit "$status"
