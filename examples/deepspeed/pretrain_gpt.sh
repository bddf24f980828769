#!/usr/bin/env bash
# Pretrain a small GPT with DeepSpeed: ZeRO 2, and every sequence shared by two processes (Ulysses).
#
#   bash examples/deepspeed/pretrain_gpt.sh                                  # this machine: sets up, 2 processes
#   bash examples/deepspeed/pretrain_gpt.sh --zero-stage 2 --bf16            # further flags win over the ones below
#   DEEPSPEED_CONFIG=zero3.json bash examples/deepspeed/pretrain_gpt.sh      # your JSON file
#   DRY_RUN=1 bash examples/deepspeed/pretrain_gpt.sh                        # print the command, run nothing
#
# Settings: DEEPSPEED_CONFIG DEVICE DATA_PATH SAVE_DIR, and those of scripts/launch/settings.sh, all in
# docs/environment.md. The flags: docs/deepspeed.md.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
: "${SAVE_DIR:=runs/deepspeed}" "${DATA_PATH:=}" "${DEVICE:=}" "${DEEPSPEED_CONFIG:=$root/examples/deepspeed/zero2.json}"
# The settings of the job and of this node, checked.
# shellcheck source=scripts/launch/settings.sh
source "$root/scripts/launch/settings.sh"

processes=$((NNODES * NPROC_PER_NODE))
slices="$(given --ds-sequence-parallel-size $((processes % 2 == 0 ? 2 : 1)) "$@")"
[[ "$slices" =~ ^[1-9][0-9]*$ ]] || fail "--ds-sequence-parallel-size $slices must be a whole number of at least 1"
replicas=$((processes / slices))
parallel=(--deepspeed-config "$DEEPSPEED_CONFIG" --ds-sequence-parallel-size "$slices")

# The model, the data and the training of examples/pretrain_gpt.sh.
model=(--num-layers 4 --hidden-size 256 --num-attention-heads 8 --group-query-attention --num-query-groups 4
  --seq-length 256 --max-position-embeddings 256 --position-embedding-type rope --normalization RMSNorm --swiglu
  --disable-bias-linear --attention-dropout 0 --hidden-dropout 0 --use-cpu-initialization)
train_iters="$(given --train-iters 300 "$@")"
[[ "$train_iters" =~ ^[0-9]+$ ]] || train_iters=300 # the trainer's to refuse
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

if [[ -z "${DRY_RUN:-}" ]]; then bash "$root/scripts/setup.sh" train deepspeed >/dev/null; fi
exec bash "$root/scripts/launch/torchrun.sh" -m ascendspeed.training.deepspeed.pretrain_gpt \
  "${model[@]}" "${parallel[@]}" "${training[@]}" "${data[@]}" "${output[@]}" "$@"
