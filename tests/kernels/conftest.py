"""Uninitialised memory is NaN (the largest value, for integers) in the tests of the kernels."""

from collections.abc import Iterator

import pytest
import torch


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
