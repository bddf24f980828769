"""Train with a Megatron-LM checkout's pretrain_gpt.py in several ways and compare the losses: run_megatron_lm.sh.

Every run starts from the same weights, drawn by the names of the parameters and cut for each rank, so that all ways to
distribute the model have the same losses.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

ATTENTION = "megatron.core.transformer.dot_product_attention:DotProductAttention.__init__"

# Goes in front of pretrain_gpt.py. The first line is what a user adds; the rest is for the comparison.
PRELUDE = """\
import ascendspeed.megatron_adaptor
def _compare(own_attention):
    import atexit, re, zlib
    import torch
    from megatron.core import parallel_state
    from megatron.core.distributed import DistributedDataParallel
    if own_attention:
        ascendspeed.megatron_adaptor.restore({attention!r})
    seen, wrapped = set(), DistributedDataParallel.__init__
    def start(self, config, ddp_config, module, *args, **kwargs):
        numbers = {{n: m.layer_number for n, m in module.named_modules() if n.rpartition('.')[0].endswith('layers')}}
        for name, parameter in module.named_parameters():
            layer = max((n for n in numbers if name.startswith(n + '.')), key=len, default=None)
            if layer:
                name = str(numbers[layer]) + name[len(layer):]
            split = getattr(parameter, 'tensor_model_parallel', False)
            ranks = parallel_state.get_tensor_model_parallel_world_size() if split else 1
            axis = parameter.partition_dim if split else 0
            shape = [size * ranks if i == axis else size for i, size in enumerate(parameter.shape)]
            name = name.rpartition('module.')[2]
            drawn = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode()))) * 0.05
            drawn = drawn + ('norm' in name and name.endswith('weight'))
            part = drawn.chunk(ranks, dim=axis)[parallel_state.get_tensor_model_parallel_rank() if split else 0]
            parameter.data.copy_(part)
        wrapped(self, config, ddp_config, module, *args, **kwargs)
    DistributedDataParallel.__init__ = start
    def saw(module, inputs, output):
        if type(module).__name__ == 'DotProductAttention':
            seen.add('DotProductAttention on ' + inputs[0].device.type)
    torch.nn.modules.module.register_module_forward_hook(saw)
    from ascendspeed.integrations.megatron.attention import AscendDotProductAttention
    attend = AscendDotProductAttention.attend
    def attends(self, query, key, value, plan, **kwargs):
        seen.add(f'AscendDotProductAttention on {{query.device.type}} in sparse_mode {{plan.sparse_mode}}')
        return attend(self, query, key, value, plan, **kwargs)
    AscendDotProductAttention.attend = attends
    atexit.register(lambda: seen and print('attention:', *sorted(seen), flush=True))
_compare({own_attention})
"""

SETTINGS = (
    "--num-layers 2 --hidden-size 64 --num-attention-heads 4 --group-query-attention --num-query-groups 2 "
    "--seq-length 64 --max-position-embeddings 64 --micro-batch-size 2 --global-batch-size 8 --train-iters 5 "
    "--lr 1e-3 --min-lr 1e-3 --lr-decay-style constant --clip-grad 1.0 --seed 1234 --attention-dropout 0 "
    "--hidden-dropout 0 --mock-data --tokenizer-type NullTokenizer --vocab-size 8191 --make-vocab-size-divisible-by 64 "
    "--untie-embeddings-and-output-weights --transformer-impl local "
    "--no-gradient-accumulation-fusion --no-masked-softmax-fusion --use-cpu-initialization "
    "--log-interval 1 --eval-iters 0 --eval-interval 1000"
)

# Else Megatron-LM gives every layer a [B, 1, S, S] mask, which the operator has to read: memory and time of S^2.
NO_MASK = "--no-create-attention-mask-in-dataloader"


@dataclass(frozen=True)
class Case:
    """One way to train: processes, flags, and how far its losses may be from those of one process, relatively.

    dense_mask: Megatron-LM's data loader makes the mask, as it does by default.
    """

    processes: int
    flags: str
    tolerance: float
    dense_mask: bool = False

    @property
    def sparse_mode(self) -> int:
        return 1 if self.dense_mask else 2

    @property
    def precision(self) -> str:
        return "bfloat16" if "--bf16" in self.flags else "float32"


# Each loss is printed with 7 digits. In float32 the sums over ranks round differently, 2^-23 at a time, and AdamW's
# first steps, which divide a gradient by its own size, carry that into the weights. bfloat16 rounds weights,
# activations and gradients to 2^-9.
FLOAT32, BFLOAT16 = 2e-5, 2e-2
CASES = {
    "tp2": Case(2, "--tensor-model-parallel-size 2", FLOAT32),
    "tp2-dense-mask": Case(2, "--tensor-model-parallel-size 2", FLOAT32, dense_mask=True),
    "tp2-sp": Case(2, "--tensor-model-parallel-size 2 --sequence-parallel", FLOAT32),
    "pp2": Case(2, "--pipeline-model-parallel-size 2", FLOAT32),
    "distributed-optimizer": Case(2, "--use-distributed-optimizer", FLOAT32),
    "full-recompute": Case(
        2,
        "--tensor-model-parallel-size 2 --recompute-granularity full --recompute-method uniform "
        "--recompute-num-layers 1",
        FLOAT32,
    ),
    "bf16": Case(2, "--tensor-model-parallel-size 2 --sequence-parallel --bf16", BFLOAT16),
    "bf16-distributed-optimizer": Case(2, "--use-distributed-optimizer --bf16", BFLOAT16),
}
REFERENCES = {"float32": Case(1, "", 0.0), "bfloat16": Case(1, "--bf16", 0.0)}


def train(checkout: Path, case: Case, device: str, *, own_attention: bool) -> list[float]:
    """The losses of a run. It ends the program if the run fails, or computes with another attention or device."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "pretrain_gpt.py")
        prelude = PRELUDE.format(attention=ATTENTION, own_attention=own_attention)
        script.write_text(
            f"from ascendspeed import device; device.select({device!r})\n"
            + prelude
            + (checkout / "pretrain_gpt.py").read_text()
        )
        command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
        flags = f"{SETTINGS} {case.flags} {'' if case.dense_mask else NO_MASK}"
        command += [f"--nproc_per_node={case.processes}", str(script), *flags.split()]
        environment = os.environ | {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}  # Megatron asks for it
        result = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    losses = [float(loss) for loss in re.findall(r"lm loss: (\S+)", result.stdout)]
    expected = f"DotProductAttention on {device}"
    if not own_attention:
        expected = f"Ascend{expected} in sparse_mode {case.sparse_mode}"
    seen = re.findall(r"attention: (.*)", result.stdout)
    if result.returncode != 0 or len(losses) != 5 or seen != [expected] * case.processes:
        print(result.stdout[-8000:], file=sys.stderr)
        sys.exit(
            f"run_megatron_lm: {' '.join(command[4:])} failed: exit code {result.returncode}, {len(losses)} of 5 "
            f"losses, attention {seen} (expected {expected!r} of every process); its last output is above"
        )
    return losses


def largest_difference(losses: list[float], reference: list[float]) -> float:
    """The largest |a - b| / b, which is NaN if any loss is."""
    each = [abs(ours - theirs) / theirs for ours, theirs in zip(losses, reference, strict=True)]
    return torch.tensor(each, dtype=torch.float64).max().item()  # max() passes over a NaN that is not the first


def main() -> None:
    parser = argparse.ArgumentParser(prog="run_megatron_lm.sh", description=__doc__)
    parser.add_argument("checkout", type=Path, help="folder of a Megatron-LM checkout")
    parser.add_argument("--device", choices=("cpu", "npu", "cuda"), default="cpu", help="device to train on")
    parser.add_argument("--case", choices=CASES, action="append", help="a case to run; may be repeated (default: all)")
    options = parser.parse_args()
    references: dict[str, list[float]] = {}
    failed = []
    print("| case | processes | sparse_mode | losses | largest relative difference | allowed |")
    print("|---|---|---|---|---|---|")
    for name in options.case or CASES:
        case = CASES[name]
        if case.precision not in references:
            reference = REFERENCES[case.precision]
            references[case.precision] = train(options.checkout, reference, options.device, own_attention=True)
            losses = " ".join(f"{loss:.6f}" for loss in references[case.precision])
            print(f"| one process, {case.precision}, Megatron's attention | 1 | | {losses} | | |", flush=True)
        losses = train(options.checkout, case, options.device, own_attention=False)
        off = largest_difference(losses, references[case.precision])
        printed = " ".join(f"{loss:.6f}" for loss in losses)
        numbers = f"{case.processes} | {case.sparse_mode} | {printed} | {off:.1e} | {case.tolerance:.0e}"
        print(f"| {name} | {numbers} |", flush=True)
        if not off <= case.tolerance:
            failed.append(name)
    if failed:
        sys.exit(f"run_megatron_lm: losses differ by more than is allowed in {', '.join(failed)}")


if __name__ == "__main__":
    main()
