# shellcheck shell=bash disable=SC2034
# GPT-3 6.7B: sizes, rates and batch of Brown et al., 2020, table 2.1.
model=(--num-layers 32 --hidden-size 4096 --num-attention-heads 32 --ffn-hidden-size 16384
  --seq-length 2048 --max-position-embeddings 2048 --padded-vocab-size 50304
  --position-embedding-type learned_absolute --normalization LayerNorm
  --attention-dropout 0 --hidden-dropout 0 --bf16)
# Batches of 2 million tokens. The publication trains for 300 billion tokens, 143 thousand iterations.
optimizer=(--global-batch-size 1024 --train-iters 5000
  --lr 1.2e-4 --min-lr 1.2e-5 --lr-decay-style cosine --lr-warmup-fraction 0.01 --weight-decay 0.1
  --adam-beta1 0.9 --adam-beta2 0.95 --adam-eps 1e-8 --clip-grad 1.0)
