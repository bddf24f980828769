#!/usr/bin/env bash
# Pretrain a small GPT. One process per device; the same script on a laptop and on every node of a cluster.
#
#   bash examples/pretrain_gpt.sh                              # this machine: sets up, then trains with 2 processes
#   DATA_PATH=book.txt bash examples/pretrain_gpt.sh --bf16    # your text, one more flag
#   DRY_RUN=1 bash examples/pretrain_gpt.sh                    # print the command, run nothing
#
# Settings: DEVICE DATA_PATH SAVE_DIR, and those of scripts/launch/settings.sh, all in docs/environment.md. Many machines:
# docs/launching.md. Further flags are appended and win over the ones below; switches (--swiglu,
# --group-query-attention, --disable-bias-linear, --use-cpu-initialization) have no opposite, so edit them here.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
: "${SAVE_DIR:=runs/gpt}" "${DATA_PATH:=}" "${DEVICE:=}"
# The settings of the job and of this node, checked.
# shellcheck source=scripts/launch/settings.sh
source "$root/scripts/launch/settings.sh"

# Two processes share the model, each pair (or single process, when they are odd) trains on samples of its own;
# unless the flags say otherwise.
processes=$((NNODES * NPROC_PER_NODE))
tensor_parallel="$(given --tensor-model-parallel-size $((processes % 2 == 0 ? 2 : 1)) "$@")"
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
train_iters="$(given --train-iters 300 "$@")"
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

exec bash "$root/scripts/launch/torchrun.sh" -m ascendspeed.training.pretrain_gpt \
  "${model[@]}" "${parallel[@]}" "${training[@]}" "${data[@]}" "${output[@]}" "$@"
