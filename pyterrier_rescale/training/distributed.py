"""Collectives that gradients pass through, so that a loss over several processes is the loss over one."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist


def world() -> tuple[int, int]:
    """Rank of this process and number of processes."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class _Gather(torch.autograd.Function):
    """Concatenate the tensors of all processes; the gradient is summed over those that used them."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        ctx.rows = len(tensor)
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        start = dist.get_rank() * ctx.rows
        return gradient[start : start + ctx.rows]


class _Sum(torch.autograd.Function):
    """Sum over processes; so is the gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.contiguous().clone()
        dist.all_reduce(tensor)
        return tensor

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient


def gather(tensor: torch.Tensor) -> torch.Tensor:
    """Rows of all processes (each holds equally many), in rank order; differentiable."""
    return tensor if world()[1] == 1 else _Gather.apply(tensor)


def batch_mean(tensor: torch.Tensor) -> torch.Tensor:
    """Mean over the rows of all processes (each holds equally many), shape of one row; differentiable."""
    mean = tensor.mean(dim=0)
    size = world()[1]
    return mean if size == 1 else _Sum.apply(mean) / size


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
