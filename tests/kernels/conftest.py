"""Shared by the tests of the kernels: uninitialised memory is NaN (an integer the largest)."""

import gc
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from focus.kernels import eager

from .background import Background, background


def asks_for(fixture: str, item: pytest.Item) -> bool:
    return fixture in getattr(item, "fixturenames", ())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Last of all tests are those of the kernels whose figures are made in the background."""

    def waits(item: pytest.Item) -> int:
        if item.path.parent != Path(__file__).parent:
            return 0
        return 2 if item.path.stem == "test_codegen" else int(asks_for("row", item))

    items.sort(key=waits)


@pytest.fixture(scope="session", autouse=True)
def quick_tables(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Background | None]:
    """Begins with the first test of the kernels, and is awaited by those of machine code."""
    if any(asks_for("compiled", item) for item in request.session.items):
        folder = tmp_path_factory.mktemp("codegen")
        with background(folder, "compile_kernels.py", "quick") as tables:
            yield tables
    else:
        yield None


@pytest.fixture(scope="session", autouse=True)
def traffic_rows(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Background | None]:
    """Likewise for the lines that the tests of the traffic ask for, and no others."""
    asking = [
        item
        for item in request.session.items
        if item.path.stem == "test_traffic" and asks_for("row", item)
    ]
    lines = dict.fromkeys(item.callspec.params["row"] for item in asking)
    if lines:
        folder = tmp_path_factory.mktemp("traffic")
        (folder / "lines.pickle").write_bytes(pickle.dumps(list(lines)))
        with background(folder, "count_traffic.py") as rows:
            yield rows
    else:
        yield None


@pytest.fixture(scope="session", autouse=True)
def frozen_imports() -> Iterator[None]:
    """What torch and others made when imported stays: no search for garbage goes through it."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def exact_products() -> None:
    """Some images of GPUs have torch round products to TF32."""
    torch.set_float32_matmul_precision("highest")


@pytest.fixture(scope="module", autouse=True)
def single_thread(one_thread: None) -> None:
    """Threads wait for each other where the cores are busy, as they are while kernels compile."""


@pytest.fixture
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


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
    assert eager._part_size(torch.empty(7, 6, 3, 3)) == 2
