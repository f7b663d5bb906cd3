"""Collectives that gradients pass through, so that a loss over several processes is the loss over one."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist


def world() -> tuple[int, int]:
    """Rank of this process and number of processes."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather(tensor: torch.Tensor) -> torch.Tensor:
    """Rows of all processes (each holds equally many), in rank order; gradients are summed over those that use them."""
    if world()[1] == 1:
        return tensor
    from sentence_transformers.util import all_gather_with_grad

    return all_gather_with_grad(tensor)


def batch_mean(tensor: torch.Tensor) -> torch.Tensor:
    """Mean over the rows of all processes (each holds equally many), shape of one row; differentiable."""
    return gather(tensor.mean(dim=0, keepdim=True)).mean(dim=0)


def on_cpu(device: str | None) -> bool:
    """Whether a run with the option ``device`` is on the CPU."""
    return device == "cpu" or not (torch.cuda.is_available() or torch.backends.mps.is_available())


def join(cpu: bool) -> None:
    """Join the process group that torchrun has announced, if any (accelerate chooses gloo or NCCL)."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not (dist.is_available() and dist.is_initialized()):
        from accelerate import PartialState

        PartialState(cpu=cpu)


def barrier() -> None:
    """Wait for all processes."""
    if world()[1] > 1:
        dist.barrier()
