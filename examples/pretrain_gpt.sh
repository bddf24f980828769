#!/usr/bin/env bash
# Pretrain a small GPT. One process per device; the same script on a laptop and on every node of a cluster.
#
#   bash examples/pretrain_gpt.sh                              # this machine: sets up, then trains with 2 processes
#   DATA_PATH=book.txt bash examples/pretrain_gpt.sh --bf16    # your text, one more flag
#   DRY_RUN=1 bash examples/pretrain_gpt.sh                    # print the command, run nothing
#
# Settings: NPROC_PER_NODE NNODES NODE_RANK MASTER_ADDR MASTER_PORT DEVICE DATA_PATH SAVE_DIR, all in
# docs/environment.md. Further flags are appended and win over the ones below; switches (--swiglu,
# --group-query-attention, --disable-bias-linear, --use-cpu-initialization) have no opposite, so edit them here.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
fail() {
  echo "pretrain_gpt.sh: $*" >&2
  exit 1
}

: "${NPROC_PER_NODE:=2}" "${NNODES:=1}" "${SAVE_DIR:=runs/gpt}" "${DATA_PATH:=}" "${DEVICE:=}"
for name in NPROC_PER_NODE NNODES; do
  [[ "${!name}" =~ ^[1-9][0-9]*$ ]] || fail "$name=${!name} must be a whole number of at least 1"
done

if ((NNODES > 1)); then
  [[ -n "${NODE_RANK:-}" && -n "${MASTER_ADDR:-}" ]] ||
    fail "NNODES=$NNODES needs NODE_RANK (0 to $((NNODES - 1)), one per node) and MASTER_ADDR (the host of node 0)"
fi
: "${NODE_RANK:=0}" "${MASTER_ADDR:=127.0.0.1}"
[[ "$NODE_RANK" =~ ^(0|[1-9][0-9]*)$ && "$NODE_RANK" -lt "$NNODES" ]] ||
  fail "NODE_RANK=$NODE_RANK must be a whole number from 0 to $((NNODES - 1)), below NNODES=$NNODES"

if ((NNODES == 1)) && [[ -z "${MASTER_PORT:-}" ]]; then
  # torchrun takes a free port, so several jobs can share a machine.
  rendezvous=(--standalone --local-addr "$MASTER_ADDR")
else
  : "${MASTER_PORT:=29500}"
  rendezvous=(--nnodes "$NNODES" --node-rank "$NODE_RANK" --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT")
fi

flags=("$@")
# What the caller's flags say of one flag, the last time they name it, or a default: given FLAG DEFAULT
given() {
  local value="$2" i
  for ((i = 0; i < ${#flags[@]}; i++)); do
    case "${flags[i]}" in
      "$1="*) value="${flags[i]#*=}" ;;
      "$1") value="${flags[i + 1]:-}" ;;
    esac
  done
  echo "$value"
}

# Two processes share the model, each pair (or single process, when they are odd) trains on samples of its own;
# unless the flags say otherwise.
processes=$((NNODES * NPROC_PER_NODE))
tensor_parallel="$(given --tensor-model-parallel-size $((processes % 2 == 0 ? 2 : 1)))"
[[ "$tensor_parallel" =~ ^[1-9][0-9]*$ ]] ||
  fail "--tensor-model-parallel-size $tensor_parallel must be a whole number of at least 1"
replicas=$((processes / tensor_parallel))
parallel=(--tensor-model-parallel-size "$tensor_parallel")
if ((tensor_parallel > 1)); then parallel+=(--sequence-parallel); fi

# 3.3 million parameters; on 2 CPU cores 300 iterations take about 4 minutes.
model=(--num-layers 4 --hidden-size 256 --num-attention-heads 8 --group-query-attention --num-query-groups 4
  --seq-length 256 --max-position-embeddings 256 --position-embedding-type rope --normalization RMSNorm --swiglu
  --disable-bias-linear --attention-dropout 0 --hidden-dropout 0 --use-cpu-initialization)
# A warm-up of 20 iterations, and of fewer for a short run. A number of iterations that is none is the trainer's to refuse.
train_iters="$(given --train-iters 300)"
[[ "$train_iters" =~ ^[0-9]+$ ]] || train_iters=300
# 2 micro batches per iteration; with more than 2 replicas one each.
training=(--micro-batch-size 4 --global-batch-size $((replicas > 2 ? 4 * replicas : 8)) --train-iters 300
  --lr 3e-3 --min-lr 3e-4 --lr-decay-style cosine --lr-warmup-iters $((10#$train_iters < 300 ? 10#$train_iters / 15 : 20))
  --weight-decay 0.1 --adam-beta2 0.95)
data=(--split "90,10,0" --num-workers 0)
# A tokenizer of this size is trained on the text, unless the flags bring one.
if [[ " $* " != *" --tokenizer-model"* ]]; then data+=(--vocab-size 2048); fi
if [[ -n "$DATA_PATH" ]]; then data+=(--data-path "$DATA_PATH"); fi
# The same folder twice: a second start continues where the first one ended.
output=(--save "$SAVE_DIR" --load "$SAVE_DIR" --save-interval 100 --log-interval 10 --full-validation)
if [[ -n "$DEVICE" ]]; then output+=(--device "$DEVICE"); fi

command=(torchrun --nproc-per-node "$NPROC_PER_NODE" "${rendezvous[@]}" -m ascendspeed.training.pretrain_gpt
  "${model[@]}" "${parallel[@]}" "${training[@]}" "${data[@]}" "${output[@]}" "$@")

if [[ -n "${DRY_RUN:-}" ]]; then
  printf '%q ' "${command[@]}"
  echo
  exit
fi

python="$(bash "$root/scripts/setup.sh" train)"
# torchrun gives every process one thread unless told otherwise; share the cores instead.
cores="$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)" # nproc counts those this process may use
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cores > NPROC_PER_NODE ? cores / NPROC_PER_NODE : 1))}"
# torchrun of this environment, whatever else is on PATH. exec: Ctrl-C and the exit status are torchrun's own.
exec "$python" -m torch.distributed.run "${command[@]:1}"
