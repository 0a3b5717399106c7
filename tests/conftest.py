"""Set the environment of all tests, choose those that run here, and share fixtures."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from multiprocessing import active_children
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from focus.model.detector import Detector

    from .launching import Begin

# The programs of bench are not installed.
sys.path.append(str(Path(__file__).parents[1]))

LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="also run the tests marked slow")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        return  # pytest-xdist's workers inherit the environment that is set below
    # Settings of a launcher, or of the user's Accelerate, are not for the programs that tests run.
    for name in list(os.environ):
        launched = name.startswith(("ACCELERATE_", "TORCHELASTIC_")) or name in LAUNCHED
        if (launched and name != "ACCELERATE_USE_CPU") or name == "FOCUS_BACKEND":
            del os.environ[name]
    caches = TemporaryDirectory(prefix="focus-tests-", ignore_cleanup_errors=True)
    config.add_cleanup(caches.cleanup)
    os.environ["HF_HOME"] = str(Path(caches.name) / "huggingface")
    os.environ["FOCUS_CACHE"] = str(Path(caches.name) / "focus")
    # Programs that tests run take the CPU, whose bits repeat; tests of a GPU say so.
    os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    # Read when torch is first imported: threads that spin while they wait slow their neighbours.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Read when numpy is first imported: two threads take ten times as long for small matrices where
    # each core is busy.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # A shell's background jobs ignore Ctrl-C, and so would the programs that tests send it to.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--run-slow") and "slow" not in config.getoption("-m"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
    if gpu := [item for item in items if item.get_closest_marker("gpu")]:
        import torch

        if not torch.cuda.is_available():
            for item in gpu:
                item.add_marker(pytest.mark.skip(reason="no CUDA or ROCm device"))


def pytest_collection_finish() -> None:
    take_one_thread()


def take_one_thread() -> None:
    """Let torch use one thread: tensors are small here, and pytest-xdist keeps each core busy."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Take one thread again after a test that took more."""
    yield
    take_one_thread()


@pytest.fixture(scope="module")
def detector() -> "Detector":
    """An untrained detector whose classifier's weights are such that scores differ."""
    import torch

    from focus.model.detector import Detector

    torch.manual_seed(0)
    detector = Detector(image_size=32)
    detector.head.fc.weight.data.normal_(0, 1)
    return detector


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from .browser import CHROMIUM

    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (pip install playwright)"
    )
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def no_workers_left() -> Iterator[None]:
    """End the workers of loaders that an error holds, as pytest holds the error.

    Once the garbage collector finds a loader, torch asks its workers to end, often in vain as it
    may have lost their queues, and waits ten seconds for each.
    """
    yield
    if left := [child for child in active_children() if child.daemon]:
        # torch's handler would raise an error, wherever the next test is by then, for each that has
        # been killed and not yet been waited for.
        handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for child in left:
            child.kill()
        for child in left:
            child.join()
        signal.signal(signal.SIGCHLD, handler)


@pytest.fixture
def begin() -> "Iterator[Begin]":
    """Start a program as ``subprocess.Popen`` does; end it with the test, and what it started."""
    from .launching import end

    begun: list[subprocess.Popen[str]] = []

    def popen(command: Sequence[object], **options: Any) -> "subprocess.Popen[str]":
        words = [str(word) for word in command]
        begun.append(subprocess.Popen(words, text=True, start_new_session=True, **options))
        return begun[-1]

    yield popen
    for program in begun:
        end(program)


@pytest.fixture
def plain_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide accelerators, whose bits are not the CPU's."""
    import torch

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_, **__: None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    gpu = [r for r in terminalreporter.stats.get("skipped", []) if "gpu" in r.keywords]
    reason = " (no CUDA or ROCm device)" if gpu else ""
    terminalreporter.write_line(f"GPU tests skipped: {len(gpu)}{reason}")
    if not terminalreporter.config.getoption("--run-slow"):
        terminalreporter.write_line("slow tests left out: `make test-all` runs them")


@pytest.fixture
def disk_log(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The inode of each file or folder that is flushed, and "renamed", in their order."""
    log: list[Any] = []
    replace = Path.replace

    def renamed(path: Path, target: Path) -> Path:
        log.append("renamed")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", lambda descriptor: log.append(os.fstat(descriptor).st_ino))
    monkeypatch.setattr(Path, "replace", renamed)
    return log


@pytest.fixture
def pixel_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take ``--max-pixels`` of the test back after it."""
    from PIL import Image

    from focus.data import images

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    monkeypatch.setattr(images, "_most_pixels", images.MAX_PIXELS)
    monkeypatch.setenv(images._LIMIT, str(images.MAX_PIXELS))
