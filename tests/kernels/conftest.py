"""Shared by the tests of the kernels: uninitialised memory is NaN (an integer the largest)."""

from collections.abc import Iterator

import pytest
import torch

from focus.kernels import eager


@pytest.fixture(scope="session", autouse=True)
def temporary_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let what compilers keep go with the tests; of each process of pytest-xdist apart."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
            patch.setenv(name, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def exact_products() -> None:
    """Some images of GPUs have torch round products to TF32."""
    torch.set_float32_matmul_precision("highest")


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
    """The eager form takes two samples of a [7,6,3,3] at a time."""
    monkeypatch.setattr(eager, "PART_ELEMENTS", 80)
    assert [len(part) for (part,) in eager._parts(torch.empty(7, 6, 3, 3))] == [2, 2, 2, 1]
