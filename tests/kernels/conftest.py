"""Shared by the tests of the kernels: uninitialised memory is NaN (an integer the largest)."""

from collections.abc import Iterator

import pytest
import torch

from focus.kernels import eager


@pytest.fixture(autouse=True)
def poison_uninitialised_memory() -> Iterator[None]:
    """An output, or a part of one, that an operation forgets to write is seen."""
    # torch.empty and its like fill their memory while deterministic algorithms are asked for;
    # warn_only, since the tests are not about determinism.
    torch.use_deterministic_algorithms(True, warn_only=True)
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.utils.deterministic.fill_uninitialized_memory = filled
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The eager form takes two samples of a [7,6,3,3] at a time, and products of three."""
    monkeypatch.setattr(eager, "PART_ELEMENTS", 80)
    monkeypatch.setattr(eager, "PRODUCT_SAMPLES", 3)
