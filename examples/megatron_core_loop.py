"""A plain megatron-core training loop, written for CUDA. The import on top is all that AscendSpeed needs.

    torchrun --nproc_per_node 2 examples/megatron_core_loop.py

It trains a small GPT to count, with tensor parallelism over all processes, on the device at hand: npu, cuda or cpu.
"""

import os

import ascendspeed.megatron_adaptor  # noqa: F401  # isort: skip
import torch
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
from megatron.core.transformer.transformer_config import TransformerConfig

LENGTH, VOCAB, BATCH, STEPS = 64, 128, 4, 20


def build_model() -> torch.nn.Module:
    config = TransformerConfig(
        num_layers=2,
        hidden_size=128,
        num_attention_heads=4,
        tensor_model_parallel_size=parallel_state.get_tensor_model_parallel_world_size(),
        pipeline_dtype=torch.float32,
    )
    model = GPTModel(config, get_gpt_layer_local_spec(), vocab_size=VOCAB, max_sequence_length=LENGTH)
    return model.to(torch.device("cuda"))


def batches():
    """Every sample counts up from a number of its own, modulo the vocabulary."""
    generator = torch.Generator().manual_seed(1)
    while True:
        first = torch.randint(VOCAB, (BATCH, 1), generator=generator)
        yield (first + torch.arange(LENGTH + 1)) % VOCAB


def forward_step(data_iterator, model):
    tokens = next(data_iterator).cuda(non_blocking=True)
    positions = torch.arange(LENGTH, device="cuda").expand(BATCH, -1)
    losses = model(tokens[:, :-1].contiguous(), positions, None, labels=tokens[:, 1:].contiguous())
    return losses, lambda output: (output.mean(), {"loss": output.detach().mean()})


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("this script needs CUDA")
    rank = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(rank)
    torch.distributed.init_process_group("nccl")
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=torch.distributed.get_world_size())
    model_parallel_cuda_manual_seed(1234)
    model = build_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    forward_backward, data = get_forward_backward_func(), batches()
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        losses = forward_backward(
            forward_step_func=forward_step,
            data_iterator=data,
            model=model,
            num_microbatches=1,
            seq_length=LENGTH,
            micro_batch_size=BATCH,
            forward_only=False,
        )
        optimizer.step()
        if rank == 0 and step % 5 == 0:
            print(f"step {step:3d}  loss {losses[0]['loss'].item():.4f}", flush=True)
    torch.cuda.synchronize()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
