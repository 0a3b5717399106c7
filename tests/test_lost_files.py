"""Files that are lost while a run trains: it goes on without them. Real runs, slow."""

import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from focus.data.batches import BatchPlan
from focus.data.manifest import Manifest, Sample

from .launching import launch, trained, write_faces

pytestmark = pytest.mark.slow

SMALL = [
    *("--recipe", "demo", "--model", "test_resnet", "--image-size", "64", "--threads", "1"),
    *("--workers", "0", "--lr", "1e-3", "--sheet-epochs", "0", "--name", "run", "--epochs", "2"),
    *("--report", "false", "--batch-size", "4", "--report-to", "none"),
]


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    return write_faces(tmp_path / "faces", 100)


def checkpoints(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "run" / "checkpoints").glob("step-*"))


def begun(words: list[object], output: Path) -> BaseProcess:
    """A run that has just saved its first checkpoint."""
    process = launch([*words, "--checkpoint-steps", "1"], output / "log")
    deadline = time.monotonic() + 60
    while not checkpoints(output):
        assert process.is_alive(), (output / "log").read_text()
        assert time.monotonic() < deadline, "nothing is saved"
        time.sleep(0.001)
    return process


def record(output: Path) -> list[Sample]:
    return list(Manifest.from_csv(output / "run" / "manifest.csv"))


def last_of_the_epoch(rows: list[Sample]) -> str:
    """The image that a run of seed 0 trains on last in its first epoch."""
    train = [sample for sample in rows if sample.split == "train"]
    plan = BatchPlan([int(sample.label or 0) for sample in train], batch_size=4)
    return train[plan.order(0)[-1]].path


def truncate(path: str) -> None:
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2])


def test_a_run_goes_on_without_files_that_were_lost(faces: Path, tmp_path: Path) -> None:
    """One to train on is damaged, one to validate on deleted; later they are back."""
    words = [*SMALL, "--data", faces, "--output", tmp_path]
    process = begun(words, tmp_path)
    process.kill()
    process.join()
    before = record(tmp_path)
    damaged = last_of_the_epoch(before)
    deleted = next(sample.path for sample in before if sample.split == "validation")
    contents = {path: Path(path).read_bytes() for path in (damaged, deleted)}
    truncate(damaged)
    Path(deleted).unlink()

    resumed = trained(*words, "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    first = next(sample.path for sample in before if sample.path in contents)
    (said,) = [line for line in resumed.stdout.splitlines() if "began with" in line]
    assert said == (
        f"warning: 2 of the files that the run {tmp_path}/run began with cannot be read any more, "
        f"the first is {first!r}: it goes on without, and from here on its results differ from "
        "those of a run that had them"
    )
    assert checkpoints(tmp_path)[-1] == "step-00000070"  # 140 images, 4 a step
    assert record(tmp_path) == before

    for path, content in contents.items():
        Path(path).write_bytes(content)
    again = trained(*words, "--resume", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "began with" not in again.stdout
    assert record(tmp_path) == before

    truncate(damaged)
    Path(deleted).unlink()
    lost = next(sample.path for sample in before if sample.split == "test")
    Path(lost).unlink()
    refused = trained(*words, "--resume", cwd=tmp_path)
    assert refused.returncode == 2
    assert f"3 of the 200 image files that the run {tmp_path}/run began with" in refused.stderr
