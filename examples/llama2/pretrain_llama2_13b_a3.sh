#!/usr/bin/env bash
# Llama 2 13B on 1 Atlas A3 node of 16 dies, 64 GB each.
#
#   CHECK=1 bash examples/llama2/pretrain_llama2_13b_a3.sh      # parameters and memory per card, on any machine
#   DATA_PATH=corpus TOKENIZER_PATH=tokenizer.json bash examples/llama2/pretrain_llama2_13b_a3.sh
#
# Many nodes, other settings, what each choice costs: docs/recipes.md. Further flags are appended and win.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
: "${NNODES:=1}" "${SAVE_DIR:=runs/llama2_13b}"
# shellcheck source=scripts/launch/recipe.sh
source "$root/scripts/launch/recipe.sh" a3
# shellcheck source=examples/llama2/llama2_13b.sh
source "$root/examples/llama2/llama2_13b.sh"

parallel=(--tensor-model-parallel-size 4 --sequence-parallel --pipeline-model-parallel-size 1
  --use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather)
training=(--micro-batch-size 1)
output=(--save-interval 1000 --log-interval 10 --eval-interval 1000 --eval-iters 10)

pretrain "${model[@]}" "${parallel[@]}" "${training[@]}" "${optimizer[@]}" "${output[@]}" "$@"
