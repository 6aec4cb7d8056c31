"""Several processes that train on one batch, as `torchrun` starts them.

A process on its own is a group of one, so nobody else asks how many there are. b rows of one
process, B rows of the whole batch.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class ProcessGroup:
    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def wait(self) -> None:
        """Until every process has come to this point."""
        if self.size > 1:
            dist.barrier()

    def rows(self, count: int) -> list[int]:
        """The rows of a batch of `count` that this process encodes.

        It is every `size`-th row, so that each process gets its share of every data set.

        >>> ProcessGroup(rank=1, size=2).rows(6)
        [1, 3, 5]
        """
        return list(range(self.rank, count, self.size))

    def gather(self, x: Tensor) -> Tensor:
        """The rows of every process, [b, ...], in the order of the whole batch, [B, ...].

        A gradient flows back to the process whose row it is, summed over all processes.
        """
        return x if self.size == 1 else GatherRows.apply(x, self)

    def sum(self, x: Tensor) -> Tensor:
        """The sum over the processes, without gradient."""
        if self.size > 1:
            x = x.detach().clone()
            dist.all_reduce(x)
        return x

    def mean(self, x: Tensor) -> Tensor:
        """The mean over the processes, without gradient."""
        return self.sum(x) / self.size

    def broadcast(self, value: Any) -> Any:
        """The main process's value, in every process."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values)
        return values[0]

    def sum_gradients(self, model: nn.Module) -> None:
        """All-reduce the gradients, in one message.

        A parameter that no process has a gradient of stays without: the optimiser leaves it as it
        is. This is done by hand because DistributedDataParallel hooks only `forward`, and the
        losses call other methods of the network.
        """
        if self.size == 1:
            return
        every = [p for p in model.parameters() if p.requires_grad]
        has = torch.tensor([float(p.grad is not None) for p in every], device=every[0].device)
        parameters = [p for p, count in zip(every, self.sum(has).tolist(), strict=True) if count]
        if not parameters:
            return
        for p in parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        dist.all_reduce(flat)
        start = 0
        for p in parameters:
            p.grad = flat[start : start + p.numel()].view_as(p)
            start += p.numel()


class GatherRows(torch.autograd.Function):
    """[b, ...] -> [B, ...]: row i of process r becomes row i * size + r, as `rows` has it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, processes: ProcessGroup) -> Tensor:
        ctx.processes = processes
        parts = [torch.empty_like(x) for _ in range(processes.size)]
        dist.all_gather(parts, x.contiguous())
        return torch.stack(parts, dim=1).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        summed = gradients[0].contiguous()
        dist.all_reduce(summed)
        return summed[ctx.processes.rank :: ctx.processes.size], None


def join_process_group() -> ProcessGroup:
    """The group that `torchrun` put this process into, or a group of one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ProcessGroup()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return ProcessGroup(dist.get_rank(), size)


def leave_process_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def pick_device(name: str) -> torch.device:
    """A device by name. `auto` is this process's own GPU where there is one, or else the CPU."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    return torch.device("cpu")
