# shellcheck shell=bash disable=SC2034
# Qwen2.5 72B: sizes of Qwen/Qwen2.5-72B. Its report gives no rates; these are those of Llama models of the size.
model=(--num-layers 80 --hidden-size 8192 --num-attention-heads 64 --ffn-hidden-size 29568
  --group-query-attention --num-query-groups 8 --add-qkv-bias
  --rotary-base 1000000 --norm-epsilon 1e-6 --padded-vocab-size 152064
  --position-embedding-type rope --normalization RMSNorm --swiglu --disable-bias-linear
  --untie-embeddings-and-output-weights --attention-dropout 0 --hidden-dropout 0 --bf16)
# Batch and sequence length are the recipe's.
optimizer=(--lr 1.5e-4 --min-lr 1.5e-5 --lr-decay-style cosine --lr-warmup-fraction 0.01 --weight-decay 0.1
  --adam-beta1 0.9 --adam-beta2 0.95 --adam-eps 1e-8 --clip-grad 1.0)
