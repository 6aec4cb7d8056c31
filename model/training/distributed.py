"""Several processes, one batch: what `torchrun` starts, seen as a group. A process alone is a group
of one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Group:
    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def wait(self) -> None:
        if self.size > 1:
            dist.barrier()

    def rows(self, count: int) -> list[int]:
        """Which rows of a batch this process encodes: every `size`-th, so that each gets its share
        of every set.
        """
        return list(range(self.rank, count, self.size))

    def gather(self, x: Tensor) -> Tensor:
        """The rows of every process [b, ...] in the order of the whole batch [b * size, ...].
        Gradients flow back to the process whose rows they are, summed over what each process made
        of them.
        """
        return x if self.size == 1 else Gather.apply(x, self)

    def total(self, x: Tensor) -> Tensor:
        """The sum over the processes, without gradient."""
        if self.size > 1:
            x = x.detach().clone()
            dist.all_reduce(x)
        return x

    def agreed(self, value: Any) -> Any:
        """The first process's value, everywhere."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values)
        return values[0]

    def sum_gradients(self, model: nn.Module) -> None:
        """Every process's gradients become their sum. One message: the network's losses have many
        entrances, which a wrapper around `forward` would not see.
        """
        if self.size == 1:
            return
        parameters = [p for p in model.parameters() if p.requires_grad]
        for p in parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        dist.all_reduce(flat)
        at = 0
        for p in parameters:
            p.grad = flat[at : at + p.numel()].view_as(p)
            at += p.numel()


class Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        parts = [torch.empty_like(x) for _ in range(group.size)]
        dist.all_gather(parts, x.contiguous())
        return torch.stack(parts, dim=1).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        whole = gradients[0].contiguous()
        dist.all_reduce(whole)
        return whole[ctx.group.rank :: ctx.group.size], None


def start_group() -> Group:
    """The group `torchrun` put this process into, or a group of one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Group()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return Group(dist.get_rank(), size)


def end_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def pick_device(name: str) -> torch.device:
    """`auto` is a GPU where there is one, each process of a machine its own."""
    if name != "auto":
        return torch.device(name)
    return torch.device(
        f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    )
