# mypy: disable-error-code="no-untyped-def"
"""Which compiled kernel a launch takes, and with what, on a driver that compiles and runs nothing.

What Triton's own launch would have done is what the first launch of each key does.
"""

from fractions import Fraction
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from triton import knobs
from triton.runtime.driver import driver

from bench.host import StubDriver
from focus.kernels import backend, focus_head, launch, triton_cam

from .cases import Case, head_options, make_inputs

SMALL: Case = {"batch": 3, "channels": 8, "grid": (3, 3), "classes": 2, "dtype": torch.bfloat16}
SMALL |= {"focus_level": "match", "cam_class": "true", "maps": "masked maps"}


class Launched(NamedTuple):
    """What Triton's launcher of a compiled kernel is given."""

    kernel: Any
    grid: tuple[int, ...]
    metadata: Any
    arguments: tuple[Any, ...]


class Recording(StubDriver):
    """Keeps the launches."""

    launches: ClassVar[list[Launched]] = []

    @staticmethod
    def launcher_cls(source: Any, _: Any) -> Any:
        def launch(*arguments: Any) -> None:
            Recording.launches.append(Launched(source, arguments[:3], arguments[5], arguments[9:]))

        return launch


@pytest.fixture(autouse=True)
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    if knobs.runtime.interpret:
        pytest.skip("TRITON_INTERPRET is set, so nothing is compiled")
    monkeypatch.setattr(driver, "_active", Recording())
    monkeypatch.setattr(backend, "INTERPRETED", True)
    monkeypatch.setattr(backend, "_remembered", backend._resolve)
    monkeypatch.setattr(launch, "_compiled", {})
    Recording.launches.clear()


def step(case: Case = SMALL, *, backward: bool = True, **more: Any) -> list[Launched]:
    """Return the launches of a forward, and a backward."""
    inputs = make_inputs(case)
    leaves = [t.requires_grad_() for t in (inputs.features, inputs.weight, inputs.bias)]
    before = len(Recording.launches)
    loss = focus_head(*leaves, inputs.index, **head_options(case, inputs) | more).loss
    if backward:
        loss.backward()
    return Recording.launches[before:]


def comparable(launched: Launched) -> list[Any]:
    """Return a launch with tensors' types and shapes in the place of their addresses."""
    kernel, grid, metadata, arguments = launched
    like = [(x.dtype, x.shape, x.stride()) if torch.is_tensor(x) else x for x in arguments]
    return [kernel, grid, metadata, *like]


def test_a_launch_by_key_is_the_launch_that_triton_makes() -> None:
    for change in ({}, {"layout": "offset", "maps": "no maps"}, {"batch": 1}):
        first, second = step(SMALL | change), step(SMALL | change)
        assert len(first) == len(second) == 2
        for one, other in zip(first, second, strict=True):
            assert comparable(one) == comparable(other), change


def test_what_triton_specialises_on_is_in_the_key() -> None:
    def forward(case: Case = SMALL, **more: Any) -> Any:
        return [step(case, backward=False, **more)[0].kernel for _ in range(2)]

    changes: list[Any] = [
        forward(),
        forward(SMALL | {"layout": "offset"}),  # no longer aligned
        forward(SMALL | {"dtype": torch.float32}),
        forward(SMALL | {"maps": "no maps"}),
        forward(SMALL | {"channels": 16}),  # a multiple of 16
        forward(focus_weight=torch.tensor(1.0)),
        forward(reduction="sum"),
    ]
    assert all(first is second for first, second in changes)
    assert len({id(first) for first, _ in changes}) == len(changes)


def test_numbers_of_any_type_are_one_kernel() -> None:
    """numpy's and Fraction were no arguments of a kernel, and 1 and True were two more kernels."""
    numbers = [1.0, 1, True, np.float32(1), np.float64(1), np.int64(1), Fraction(1)]
    kernels = {id(step(backward=False, focus_weight=n, temperature=n)[0].kernel) for n in numbers}
    assert len(kernels) == 1


def test_a_size_of_the_batch_compiles_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_cam, "TILE", 64)  # several blocks of channels, for splits
    monkeypatch.setattr(triton_cam, "_limits", lambda _: (16, 2**30))
    triton_cam.constants.cache_clear()
    launches_by_size = [step(SMALL | {"batch": b}) for b in (1, 2, 3, 5, 8, 15, 16, 17, 20, 32, 40)]
    triton_cam.constants.cache_clear()
    assert launches_by_size[0][0].grid[0] > 1  # of one sample, so that it has splits
    forward, backward = ({id(launches[n].kernel) for launches in launches_by_size} for n in (0, 1))
    assert len(forward) == 2  # with splits and without
    assert len(backward) == 1


def test_a_batch_may_be_larger_than_the_second_axis_of_a_grid() -> None:
    case = SMALL | {"batch": 70_000, "channels": 1, "grid": (1, 1)}
    for launched in step(case):
        assert launched.grid[0] >= 70_000
        assert launched.grid[1:] == (1, 1)
