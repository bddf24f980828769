"""One rank of a job of any size, in this process alone: megatron-core's groups without other processes or a device.

Models are built on the meta device, so that they can be counted and not computed. torch's fake process group answers
every collective at once, with nothing.
"""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.testing._internal.distributed.fake_pg import FakeStore

from ascendspeed.device import Device, cuda_shim
from ascendspeed.training.configs import RunConfig
from ascendspeed.training.model import transformer_config

__all__ = ["fake_world", "meta_config"]


class _Nowhere(Device):
    """The device that megatron-core is told to put its buffers on."""

    def current_device(self) -> torch.device:
        return torch.device("meta")


@contextlib.contextmanager
def fake_world(run: RunConfig, rank: int, device: Device | None = None) -> Iterator[None]:
    """Be rank `rank` of `run.world_size` processes for as long as the context lasts.

    Args:
        device: where megatron-core makes its buffers; None is the meta device.

    Raises:
        RuntimeError: this process already is a rank of some job.
    """
    if dist.is_initialized():
        raise RuntimeError("fake_world: this process has a process group already")
    cuda_shim.install(device or _Nowhere("cpu"))
    try:
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=run.world_size)
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=run.parallel.tensor_model_parallel_size,
            pipeline_model_parallel_size=run.parallel.pipeline_model_parallel_size,
            virtual_pipeline_model_parallel_size=run.virtual_stages if run.virtual_stages > 1 else None,
            create_gloo_process_groups=False,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # megatron-core's advice for CUDA
            yield
    finally:
        parallel_state.destroy_model_parallel()
        if dist.is_initialized():
            dist.destroy_process_group()
        cuda_shim.uninstall()


def meta_config(run: RunConfig) -> TransformerConfig:
    """megatron-core's configuration of a model whose weights are made on the current default device, and not drawn."""
    return dataclasses.replace(transformer_config(run), use_cpu_initialization=True, perform_initialization=False)
