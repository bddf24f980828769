#!/usr/bin/env bash
# Llama 3 70B on 4 Atlas A3 nodes of 16 dies, 64 GB each.
#
#   CHECK=1 bash examples/llama3/pretrain_llama3_70b_a3.sh      # parameters and memory per card, on any machine
#   DATA_PATH=corpus TOKENIZER_PATH=tokenizer.json bash examples/llama3/pretrain_llama3_70b_a3.sh
#
# Many nodes, other settings, what each choice costs: docs/recipes.md. Further flags are appended and win.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
: "${NNODES:=4}" "${SAVE_DIR:=runs/llama3_70b}"
# shellcheck source=scripts/launch/recipe.sh
source "$root/scripts/launch/recipe.sh" a3
# shellcheck source=examples/llama3/llama3_70b.sh
source "$root/examples/llama3/llama3_70b.sh"

parallel=(--tensor-model-parallel-size 8 --sequence-parallel --pipeline-model-parallel-size 4
  --use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather
  --recompute-granularity full --recompute-method block --recompute-num-layers 8)
training=(--micro-batch-size 1)
output=(--save-interval 1000 --log-interval 10 --eval-interval 1000 --eval-iters 10)

pretrain "${model[@]}" "${parallel[@]}" "${training[@]}" "${optimizer[@]}" "${output[@]}" "$@"
