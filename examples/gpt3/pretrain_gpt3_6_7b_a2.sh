#!/usr/bin/env bash
# GPT-3 6.7B on 1 Atlas A2 node of 8 cards, 64 GB each.
#
#   CHECK=1 bash examples/gpt3/pretrain_gpt3_6_7b_a2.sh      # parameters and memory per card, on any machine
#   DATA_PATH=corpus TOKENIZER_PATH=tokenizer.json bash examples/gpt3/pretrain_gpt3_6_7b_a2.sh
#
# Many nodes, other settings, what each choice costs: docs/recipes.md. Further flags are appended and win.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
: "${NNODES:=1}" "${SAVE_DIR:=runs/gpt3_6_7b}"
# shellcheck source=scripts/launch/recipe.sh
source "$root/scripts/launch/recipe.sh" a2
# shellcheck source=examples/gpt3/gpt3_6_7b.sh
source "$root/examples/gpt3/gpt3_6_7b.sh"

parallel=(--tensor-model-parallel-size 2 --sequence-parallel --pipeline-model-parallel-size 1
  --use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather)
training=(--micro-batch-size 2)
output=(--save-interval 1000 --log-interval 10 --eval-interval 1000 --eval-iters 10)

pretrain "${model[@]}" "${parallel[@]}" "${training[@]}" "${optimizer[@]}" "${output[@]}" "$@"
