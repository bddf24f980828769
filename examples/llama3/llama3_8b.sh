# shellcheck shell=bash disable=SC2034
# Llama 3 8B: sizes of meta-llama/Meta-Llama-3-8B, rate of its paper (Dubey et al., 2024, table 3).
model=(--num-layers 32 --hidden-size 4096 --num-attention-heads 32 --ffn-hidden-size 14336
  --group-query-attention --num-query-groups 8
  --seq-length 8192 --max-position-embeddings 8192 --rotary-base 500000 --norm-epsilon 1e-5 --padded-vocab-size 128256
  --position-embedding-type rope --normalization RMSNorm --swiglu --disable-bias-linear
  --untie-embeddings-and-output-weights --attention-dropout 0 --hidden-dropout 0 --bf16)
# Batches of 4 million tokens. The publication trains for 15 trillion tokens.
optimizer=(--global-batch-size 512 --train-iters 5000
  --lr 3e-4 --min-lr 3e-5 --lr-decay-style cosine --lr-warmup-fraction 0.01 --weight-decay 0.1
  --adam-beta1 0.9 --adam-beta2 0.95 --adam-eps 1e-8 --clip-grad 1.0)
