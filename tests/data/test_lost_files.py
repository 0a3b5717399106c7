"""Files that are lost while a run trains: it goes on without them. Real runs, slow."""

import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from focus.data.manifest import Manifest, Sample
from focus.training.batches import BatchPlan

from ..launching import free_port, launch, told, trained, write_faces

pytestmark = pytest.mark.slow

SMALL = [
    *("--recipe", "demo", "--model", "test_resnet", "--image-size", "64", "--threads", "1"),
    *("--workers", "0", "--lr", "1e-3", "--sheet-epochs", "0", "--name", "run", "--epochs", "2"),
    *("--report", "false", "--batch-size", "4", "--report-to", "none"),
]


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    return write_faces(tmp_path / "faces", 100)


def begun(words: list[object], output: Path, processes: int = 1) -> list[BaseProcess]:
    """The processes of a run that is about to train, as torchrun starts several."""
    port, started = free_port(), []
    for rank in range(processes):
        about = told(rank, processes, port, local=processes) if processes > 1 else {}
        started.append(launch(words, output / f"log{rank}", **about))
    deadline = time.monotonic() + 60
    while not (output / "run" / "manifest.csv").exists():
        assert all(process.is_alive() for process in started), (output / "log0").read_text()
        assert time.monotonic() < deadline, "nothing is trained"
        time.sleep(0.001)
    return started


def ended(started: list[BaseProcess], output: Path, code: int) -> list[str]:
    """What each process has said, when all have ended with this code."""
    for process in started:
        process.join(100)
    logs = [(output / f"log{rank}").read_text() for rank in range(len(started))]
    assert [process.exitcode for process in started] == [code] * len(started), logs
    return logs


def checkpoints(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "run" / "checkpoints").glob("step-*"))


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


@pytest.mark.slow
def test_a_run_goes_on_without_files_that_were_lost(faces: Path, tmp_path: Path) -> None:
    """One to train on is damaged, one to validate on deleted; later they are back."""
    words = [*SMALL, "--data", faces, "--output", tmp_path]
    stopped = begun(words, tmp_path)
    before = record(tmp_path)
    damaged = last_of_the_epoch(before)
    deleted = next(sample.path for sample in before if sample.split == "validation")
    contents = {path: Path(path).read_bytes() for path in (damaged, deleted)}
    truncate(damaged)
    Path(deleted).unlink()
    # The last step of 35 is that of the damaged one.
    (said,) = ended(stopped, tmp_path, 2)
    assert said.splitlines()[-1] == (
        f"train.py: error: Cannot decode {damaged!r} (image file is truncated): fix or remove the "
        f"file, then go on with --resume after step 34, saved in {tmp_path}/run/checkpoints."
    )
    assert checkpoints(tmp_path) == ["step-00000034"]

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


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_several_processes_save_before_a_file_that_one_of_them_lacks(
    faces: Path, tmp_path: Path, workers: int
) -> None:
    """None waits for another; once the file is back, the run ends as if nothing had been."""
    words: list[object] = [*SMALL, "--data", faces, "--workers", workers, "--ema-decay", "0.9"]
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    for output in (whole, torn):
        output.mkdir()
    ended(begun([*words, "--output", whole], whole, 2), whole, 0)

    started = begun([*words, "--output", torn], torn, 2)
    damaged = last_of_the_epoch(record(torn))
    content = Path(damaged).read_bytes()
    truncate(damaged)
    logs = ended(started, torn, 2)
    assert logs[0].splitlines()[-1] == (
        f"train.py: error: Cannot decode {damaged!r} (image file is truncated): fix or remove the "
        f"file, then go on with --resume after step 17, saved in {torn}/run/checkpoints."
    )
    assert "error" not in logs[1]
    assert "Traceback" not in "".join(logs)
    assert checkpoints(torn) == ["step-00000017"]

    Path(damaged).write_bytes(content)
    ended(begun([*words, "--output", torn, "--resume"], torn, 2), torn, 0)
    assert checkpoints(torn)[-1] == checkpoints(whole)[-1] == "step-00000036"
    for name in ("summary.csv", "model/model.safetensors", "scores.csv"):
        assert (torn / "run" / name).read_bytes() == (whole / "run" / name).read_bytes(), name
