#!/usr/bin/env bash
# Qwen2.5 7B with a context of 32768 tokens on 1 Atlas A3 node of 16 dies, 64 GB each.
#
#   CHECK=1 bash examples/qwen25/pretrain_qwen25_7b_32k_a3.sh      # parameters and memory per card, on any machine
#   DATA_PATH=corpus TOKENIZER_PATH=tokenizer.json bash examples/qwen25/pretrain_qwen25_7b_32k_a3.sh
#
# Many nodes, other settings, what each choice costs: docs/recipes.md. Further flags are appended and win.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
: "${NNODES:=1}" "${SAVE_DIR:=runs/qwen25_7b_32k}"
# shellcheck source=scripts/launch/recipe.sh
source "$root/scripts/launch/recipe.sh" a3
# shellcheck source=examples/qwen25/qwen25_7b.sh
source "$root/examples/qwen25/qwen25_7b.sh"

parallel=(--tensor-model-parallel-size 4 --sequence-parallel --pipeline-model-parallel-size 1
  --use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather
  --recompute-granularity full --recompute-method block --recompute-num-layers 20)
training=(--seq-length 32768 --max-position-embeddings 32768 --global-batch-size 128 --train-iters 5000
  --micro-batch-size 1)
output=(--save-interval 1000 --log-interval 10 --eval-interval 1000 --eval-iters 10)

pretrain "${model[@]}" "${parallel[@]}" "${training[@]}" "${optimizer[@]}" "${output[@]}" "$@"
