"""One accelerated model in two processes, by PyTorch's DistributedDataParallel: the gradients are those of one."""

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastrnn.torch has nothing to accelerate")
if not torch.distributed.is_available():
    pytest.skip("this PyTorch was built without torch.distributed", allow_module_level=True)

import fastrnn.torch  # noqa: E402

T, B, I, H, STEPS, PROCESSES = 7, 6, 5, 8, 3, 2


class Model(torch.nn.Module):
    """An LSTM over a GRU in two directions."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.lstm = torch.nn.GRU(I, H, bidirectional=True), torch.nn.LSTM(2 * H, H, 2, proj_size=3)

    def forward(self, x: Any) -> Any:
        return self.lstm(self.gru(x)[0])[0]


def train(wrap: Any, rows: slice) -> list[list[Any]]:
    """The gradients of every step, of some rows of the batch."""
    torch.manual_seed(0)
    x, target = torch.randn(STEPS, T, B, I), torch.randn(STEPS, T, B, 3)
    model = Model()
    model = wrap(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    gradients = []
    for step in range(STEPS):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x[step, :, rows]), target[step, :, rows]).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
        optimizer.step()
    return gradients


def work(rank: int, folder: str) -> None:
    """One process."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES)
    wrap = torch.nn.parallel.DistributedDataParallel
    gradients = train(lambda model: wrap(fastrnn.torch.accelerate(model)), slice(rank, None, PROCESSES))
    torch.save(gradients, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_gradients_are_those_of_one_process(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work, (str(tmp_path),), nprocs=PROCESSES)
    expected = train(fastrnn.torch.accelerate, slice(None))
    plain = train(lambda model: model, slice(None))
    for rank in range(PROCESSES):
        for step, gradients in enumerate(torch.load(tmp_path / f"{rank}.pt")):
            for k, gradient in enumerate(gradients):
                for reference in (expected, plain):
                    assert (gradient - reference[step][k]).abs().max() <= 1e-5, (rank, step, k)
