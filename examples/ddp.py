"""Train one accelerated PyTorch model in several processes with DistributedDataParallel.

Each process has its share of every batch; PyTorch averages the gradients as they come. With torchrun it goes beyond one
machine: `torchrun --nnodes 2 --nproc-per-node 1 --rdzv-endpoint HOST:PORT examples/ddp.py` on each. Without, it starts
two processes here. The task: the sum of the two marked numbers of a sequence, as in train.py.
"""

import os
import sys
import tempfile

try:
    import torch
except ImportError:
    sys.exit(print("PyTorch is not installed: pip install 'fastrnn[torch]'"))  # status 0: nothing is wrong

import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import fastrnn.torch

T, B, H = 10, 16, 32
STEPS = 40 if "--quick" in sys.argv else 400


class Adder(torch.nn.Module):
    """An LSTM, and a linear layer on its last output."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.linear = torch.nn.LSTM(2, H), torch.nn.Linear(H, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.lstm(x)[0][-1])


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same batch in every process."""
    generator = torch.Generator().manual_seed(step)
    x = torch.rand(T, B, 2, generator=generator)
    x[:, :, 1] = (torch.rand(T, B, generator=generator).argsort(dim=0) < 2).float()
    return x, x.prod(dim=2).sum(dim=0)[:, None]


def train() -> None:
    """What each process runs, once the group is there."""
    rank, size = dist.get_rank(), dist.get_world_size()
    torch.set_num_threads(max(1, torch.get_num_threads() // size))  # fastrnn follows
    torch.manual_seed(0)
    model = DistributedDataParallel(fastrnn.torch.accelerate(Adder()))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(1, STEPS + 1):
        x, target = (a[..., rank::size, :] for a in batch(step))
        loss = torch.nn.functional.mse_loss(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % (STEPS // 4) == 0:
            total = loss.detach().clone()
            dist.all_reduce(total)
            if rank == 0:
                print(f"step {step}: mean squared error {total.item() / size:.4f}")


def start(rank: int, size: int, file: str) -> None:
    """A process of our own."""
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=size)
    train()
    dist.destroy_process_group()


if __name__ == "__main__":
    if "RANK" in os.environ:  # torchrun
        dist.init_process_group("gloo")
        train()
        dist.destroy_process_group()
    else:
        with tempfile.TemporaryDirectory() as folder:
            torch.multiprocessing.spawn(start, (2, os.path.join(folder, "store")), nprocs=2)
