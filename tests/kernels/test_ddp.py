"""Two processes, each with half of a batch, train as one with the whole batch does.

Run as a program, this file is what each of the two processes does:

    torchrun --nproc-per-node 2 tests/kernels/test_ddp.py FOLDER
"""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from focus import Detector, LossConfig

SAMPLES, PROCESSES = 8, 2
TERMS = ("classification", "focus", "saliency")


def detector() -> Detector:
    """In evaluation mode: statistics of a batch would be those of a process's half."""
    torch.manual_seed(0)
    loss = LossConfig(focus_weight=0.3, saliency_weight=2.0, level="match", label_smoothing=0.1)
    return Detector(image_size=32, loss=loss).eval()


def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, targets, human maps, and which samples have one: one here, three there."""
    draw = torch.Generator().manual_seed(1)
    mask = torch.tensor([False, True, False, False, True, True, False, True])
    images = torch.randn(SAMPLES, 3, 32, 32, generator=draw)
    target = torch.randint(2, (SAMPLES,), generator=draw)
    return images, target, torch.rand(SAMPLES, 4, 4, generator=draw), mask


def step(model: nn.Module, rows: slice) -> dict[str, Tensor]:
    """Loss, terms and gradients by name."""
    out = model(*(tensor[rows] for tensor in batch()))
    out.loss.backward()
    gradients = {name.removeprefix("module."): p.grad for name, p in model.named_parameters()}
    return {"loss": out.loss.detach()} | {n: getattr(out, n) for n in TERMS} | gradients


def work(folder: Path) -> None:
    """One of the processes: its half of the batch, through gloo on the CPU."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank, processes = torch.distributed.get_rank(), torch.distributed.get_world_size()
    assert processes == PROCESSES
    half = SAMPLES // processes
    found = step(
        nn.parallel.DistributedDataParallel(detector()), slice(rank * half, (rank + 1) * half)
    )
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_what_one_gives_on_the_whole_batch(
    tmp_path: Path, two_threads: None
) -> None:
    from ..launching import python  # which the processes do not find

    # Two threads here: as the processes do, a convolution then sums two halves of the batch.
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", PROCESSES)
    python(*launch, __file__, tmp_path)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(PROCESSES)]
    whole = step(detector(), slice(None))

    assert parts[0]["loss"] != parts[1]["loss"]
    mean = torch.stack([part["loss"] for part in parts]).mean()
    torch.testing.assert_close(mean, whole["loss"], rtol=1e-6, atol=0)
    for name in TERMS:
        joined = torch.cat([part[name] for part in parts])
        torch.testing.assert_close(joined, whole[name], rtol=1e-6, atol=1e-6, msg=name)
    parameters = set(whole) - {"loss", *TERMS}
    assert len(parameters) == len(list(detector().parameters()))
    for name in parameters:
        top = float(whole[name].abs().max())
        assert top > 0, name
        for part in parts:
            torch.testing.assert_close(part[name], whole[name], rtol=0, atol=1e-6 * top, msg=name)


if __name__ == "__main__":
    work(Path(sys.argv[1]))
