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
    loss = LossConfig(
        focus_weight=0.3, saliency_weight=2.0, focus_level="match", label_smoothing=0.1
    )
    return Detector(image_size=32, loss=loss).eval()


def step(model: nn.Module, rows: slice) -> dict[str, Tensor]:
    """Return loss, terms and gradients by name; one map is in the first half, three are beyond."""
    draw = torch.Generator().manual_seed(1)
    mask = torch.tensor([False, True, False, False, True, True, False, True])
    images = torch.randn(SAMPLES, 3, 32, 32, generator=draw)
    target = torch.randint(2, (SAMPLES,), generator=draw)
    batch = images, target, torch.rand(SAMPLES, 4, 4, generator=draw), mask
    out = model(*(tensor[rows] for tensor in batch))
    out.loss.backward()
    gradients = {name.removeprefix("module."): p.grad for name, p in model.named_parameters()}
    return {"loss": out.loss.detach()} | {n: getattr(out, n) for n in TERMS} | gradients


def work(folder: Path) -> None:
    """Train on one process's half of the batch, through gloo on the CPU."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank, half = torch.distributed.get_rank(), SAMPLES // PROCESSES
    model = nn.parallel.DistributedDataParallel(detector())
    torch.save(step(model, slice(rank * half, (rank + 1) * half)), folder / f"{rank}.pt")
    # As the last owner of the group, the model's reducer would wait for gloo's thread while that
    # waits for the interpreter's lock.
    del model
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
    for name in set(whole) - {"loss"}:
        top = float(whole[name].abs().max())
        assert top > 0, name
        found = [torch.cat([part[name] for part in parts])]
        for tensor in found if name in TERMS else [part[name] for part in parts]:
            torch.testing.assert_close(tensor, whole[name], rtol=0, atol=2e-6 * top, msg=name)


if __name__ == "__main__":
    work(Path(sys.argv[1]))
