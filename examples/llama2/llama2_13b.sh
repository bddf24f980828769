# shellcheck shell=bash disable=SC2034
# Llama 2 13B: sizes of meta-llama/Llama-2-13b-hf, rates and batch of its paper (Touvron et al., 2023, 2.2).
model=(--num-layers 40 --hidden-size 5120 --num-attention-heads 40 --ffn-hidden-size 13824
  --seq-length 4096 --max-position-embeddings 4096 --rotary-base 10000 --norm-epsilon 1e-5 --padded-vocab-size 32000
  --position-embedding-type rope --normalization RMSNorm --swiglu --disable-bias-linear
  --untie-embeddings-and-output-weights --attention-dropout 0 --hidden-dropout 0 --bf16)
# Batches of 4 million tokens. The publication trains for 2 trillion tokens, 477 thousand iterations.
optimizer=(--global-batch-size 1024 --train-iters 5000
  --lr 3e-4 --min-lr 3e-5 --lr-decay-style cosine --lr-warmup-fraction 0.01 --weight-decay 0.1
  --adam-beta1 0.9 --adam-beta2 0.95 --adam-eps 1e-5 --clip-grad 1.0)
