"""A step as far as it stays on the device: gradients, figures, and what takes no effect.

Nothing here reads a value from the device, so that the host runs ahead of it: whether a step is
finite is a flag there, by which the optimiser passes over it, its figures are left out and the
network's running statistics are put back.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from focus.data.dataset import Batch
from focus.kernels.terms import Terms
from focus.training.batches import MicroBatch

MEANS = ("loss", *Terms._fields, "entropy", "with_map")
"""Means over images in ``summary.csv``."""

SUMS = (*MEANS, "grad_norm", "images", "updated", "skipped", "nonfinite")
"""What is added up over steps. ``nonfinite`` counts the skipped steps that are the fault of the
batch or of the network; the others are that of the scale of fp16."""


def add_gradients(
    accelerator: Accelerator,
    model: nn.Module,
    batches: Sequence[MicroBatch],
    loaded: Iterator[Batch],
    prepared: Callable[[Batch], Tensor],
) -> Tensor:
    """Add the gradients of a step's batches; return the sums of ``MEANS`` over all processes.

    loaded: yields the batches on the device. prepared: makes of each the model's input.
    """
    sums: list[Tensor] = []
    for planned in batches:
        batch = next(loaded)
        # The processes exchange gradients in the last backward only.
        with nullcontext() if planned.last else accelerator.no_sync(model):
            inputs = [prepared(batch), batch.target, batch.saliency, batch.saliency_mask]
            if batch.token.shape[1]:
                inputs.append(batch.token)
            out = model(*inputs)
            weighted = out.loss if planned.weight == 1 else out.loss * planned.weight
            accelerator.backward(weighted)
        if planned.counted:
            with torch.no_grad():
                loss = out.loss.expand(planned.counted)
                by_image = torch.stack((loss, *out.terms, out.entropy, batch.saliency_mask))
                sums.append(by_image.sum(1))
    if sums:
        of_process = sum(sums[1:], start=sums[0])
    else:
        of_process = torch.zeros(len(MEANS), device=out.loss.device)
    if accelerator.num_processes == 1:
        return of_process
    of_all: Tensor = accelerator.reduce(of_process, "sum")
    return of_all


def gradient_norm(model: nn.Module) -> Tensor:
    """Return the norm of all gradients."""
    return get_total_norm([p.grad for p in model.parameters() if p.grad is not None])


class Tally:
    """The sums of ``SUMS`` and the number of steps in a row that were not finite, on a device."""

    def __init__(self, device: torch.device) -> None:
        # Over an epoch of many steps; Apple's GPUs, for one, have no more than 32 bits.
        dtype = torch.float64 if device.type in ("cpu", "cuda") else torch.float32
        self._totals = torch.zeros(len(SUMS), device=device, dtype=dtype)
        """The sums so far."""
        self._last = torch.zeros(len(SUMS), device=device)
        """The figures of the last step."""
        self._in_a_row = torch.zeros((), device=device)
        skipped = [float(name in ("skipped", "nonfinite")) for name in SUMS]
        self._skipped = torch.tensor(skipped, device=device)
        """The figures of a step that is skipped."""
        self._done: dict[int, Tensor] = {}
        """The figures behind the norm of a step that is done, by its number of images."""

    def add(
        self, sums: Tensor, norm: Tensor, images: int, scale: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Add a step; return whether it is finite, a bool, and 1.0 if it is not, else 0.0.

        sums: Those of ``MEANS`` over the images of the step.
        norm: The norm of the gradient.
        images: The number of images of the step.
        scale: The scale of fp16's loss. Scaled gradients overflow now and then, which is a skipped
            step, but not one that counts as not finite, unless the scale is 1.
        """
        if images not in self._done:  # two sizes: of most steps, and of an epoch's last
            done = [float(images), 1.0, 0.0, 0.0]
            self._done[images] = torch.tensor(done, device=sums.device)
        figures = torch.cat([sums, norm[None], self._done[images]])

        difference = (figures - figures).sum()  # 0, or not a number
        finite = difference == 0
        skip = torch.nan_to_num(difference, nan=1.0).float()

        nonfinite = skip
        skipped = self._skipped
        if scale is not None:
            is_overflow = sums[0].isfinite() & (scale > 1)
            nonfinite = torch.where(is_overflow, 0.0, skip)
            skipped = torch.cat([skipped[:-1], nonfinite[None]])

        self._last = torch.where(finite, figures, skipped)
        self._totals.add_(self._last)
        torch.addcmul(nonfinite, self._in_a_row, skip, out=self._in_a_row)
        return finite, skip

    def last(self) -> dict[str, float]:
        """Read the figures of the last step."""
        return dict(zip(SUMS, self._last.tolist(), strict=True))

    def read(self) -> tuple[dict[str, float], int]:
        """Read the sums, and the number of steps in a row that were not finite."""
        *sums, in_a_row = torch.cat([self._totals, self._in_a_row[None]]).tolist()
        return dict(zip(SUMS, sums, strict=True)), int(in_a_row)

    def set(self, sums: dict[str, float] | None = None, in_a_row: int = 0) -> None:
        """Go on from what :meth:`read` returned, or from nothing."""
        values = [0.0] * len(SUMS) if sums is None else [sums[name] for name in SUMS]
        self._totals.copy_(torch.tensor(values, dtype=self._totals.dtype))
        self._in_a_row.fill_(in_a_row)


class Statistics:
    """The running statistics of a network, which a forward that is not finite has spoilt."""

    def __init__(self, model: nn.Module) -> None:
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for buffer in model.buffers():
            by_type.setdefault(buffer.dtype, []).append(buffer)
        self._groups = [_Group(buffers) for buffers in by_type.values()]

    def keep(self) -> None:
        """Take them as they are for those of the last step."""
        for group in self._groups:
            group.keep()

    def settle(self, finite: Tensor) -> None:
        """Keep them if the step was finite, else put back those of the step before."""
        for group in self._groups:
            group.settle(finite)

    def restore(self) -> None:
        """Put back those of the last step, without the forwards since."""
        for group in self._groups:
            group.restore()


class _Group:
    """Buffers of one type, copied at once to and from one piece of memory."""

    def __init__(self, buffers: list[Tensor]) -> None:
        total = sum(buffer.numel() for buffer in buffers)
        self._buffers = buffers
        """The network's own."""
        self._now = buffers[0].new_empty(total)
        """What they are after a step."""
        self._last = buffers[0].new_empty(total)
        """What they were after the last step that was finite."""
        self._parts_now = _parts(self._now, buffers)
        self._parts_last = _parts(self._last, buffers)
        self.keep()

    def keep(self) -> None:
        torch._foreach_copy_(self._parts_last, self._buffers)

    def settle(self, finite: Tensor) -> None:
        if not self._now.is_floating_point():  # counts of batches, which need not be put back
            self.keep()
            return
        torch._foreach_copy_(self._parts_now, self._buffers)
        torch.where(finite, self._now, self._last, out=self._last)
        self.restore()

    def restore(self) -> None:
        torch._foreach_copy_(self._buffers, self._parts_last)


def _parts(memory: Tensor, buffers: list[Tensor]) -> list[Tensor]:
    """Return a view of ``memory`` for each buffer, one after another, of its shape."""
    views = memory.split([buffer.numel() for buffer in buffers])
    return [view.view(buffer.shape) for view, buffer in zip(views, buffers, strict=True)]


def update(
    optimizer: torch.optim.Optimizer, norm: Tensor, skip: Tensor, limit: float | None
) -> None:
    """Step the optimiser, gradients clipped to the norm ``limit``, unless ``skip`` is 1.

    A fused one decides on the device; one that is not (:mod:`focus.training.optimizer`) makes the
    host wait for ``skip``.
    """
    divisor = None
    if limit is not None:
        divisor = (norm / limit).clamp(min=1).float()

    if optimizer.defaults["fused"]:
        # torch declares neither, but a fused step reads both, as GradScaler sets them.
        fused: Any = optimizer
        fused.grad_scale = divisor
        fused.found_inf = skip
        optimizer.step()
        return

    if skip.item():
        return
    if divisor is not None:
        gradients = []
        for group in optimizer.param_groups:
            gradients += [weight.grad for weight in group["params"] if weight.grad is not None]
        torch._foreach_div_(gradients, divisor)
    optimizer.step()
