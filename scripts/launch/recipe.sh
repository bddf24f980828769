# shellcheck shell=bash
# What all recipes share, sourced: source scripts/launch/recipe.sh a2|a3, then pretrain FLAGS...
#
# Settings: DATA_PATH TOKENIZER_PATH SAVE_DIR CHECK, those of ascend.sh and settings.sh; all in docs/environment.md.

launch="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=scripts/launch/ascend.sh
source "$launch/ascend.sh" "$1"

export NNODES

# Start the recipe with the given flags; with CHECK=1 only count its parameters and its memory per card.
pretrain() {
  if [[ -n "${CHECK:-}" ]]; then
    for name in NNODES NPROC_PER_NODE; do
      [[ "${!name}" =~ ^[1-9][0-9]*$ ]] || fail "$name=${!name} must be a whole number of at least 1"
    done
    python="$(bash "$launch/../setup.sh" train)"
    WORLD_SIZE=$((NNODES * NPROC_PER_NODE)) exec "$python" -m ascendspeed.training.memory "$@"
  fi
  [[ -n "${DATA_PATH:-}" && -n "${TOKENIZER_PATH:-}" ]] ||
    fail "set DATA_PATH (a text or .jsonl file, or the prefix of a .bin/.idx pair) and TOKENIZER_PATH (a tokenizer.json)"
  exec bash "$launch/torchrun.sh" -m ascendspeed.training.pretrain_gpt --device "$DEVICE" \
    --data-path "$DATA_PATH" --tokenizer-type HuggingFaceTokenizer --tokenizer-model "$TOKENIZER_PATH" \
    --save "$SAVE_DIR" --load "$SAVE_DIR" "$@"
}
