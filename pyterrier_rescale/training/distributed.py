"""Several processes (torchrun): collectives that gradients pass through, so that their loss is the loss of one."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

from ..encoding.text_encoder import default_device


def world() -> tuple[int, int]:
    """Rank of this process and number of processes."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def join(device: str | None) -> torch.device:
    """The device of a run with the option ``device``; processes that torchrun has announced become one group."""
    device = default_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def gather(tensor: torch.Tensor) -> torch.Tensor:
    """Rows of all processes (each holds equally many), in rank order; gradients are summed over those that use them."""
    if world()[1] == 1:
        return tensor
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(tensor))


def batch_mean(tensor: torch.Tensor) -> torch.Tensor:
    """Mean over the rows of all processes (each holds equally many), shape of one row; differentiable."""
    return gather(tensor.mean(dim=0, keepdim=True)).mean(dim=0)


def barrier() -> None:
    """Wait for all processes."""
    if world()[1] > 1:
        dist.barrier()
