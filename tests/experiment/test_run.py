"""The experiment as a program: runs that are made, found, stopped, and that fail."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from focus.config.command_line import parse
from focus.config.experiment import ExperimentConfig
from focus.config.train import resolve, write_config
from focus.errors import InputError
from focus.experiment.__main__ import experiment, make_setup
from focus.experiment.frozen import GRID
from focus.experiment.protocol import Run, grid
from focus.experiment.records import Outcome, Records
from focus.experiment.run import is_finished

from ..launching import write_faces
from .test_report import GAINS, invented


def words(tree: Path, output: Path, *more: str, epochs: int = 1) -> list[str]:
    return [
        "--data",
        str(tree / "known"),
        "--test-data",
        f"other={tree / 'unknown'}",
        "--recipe",
        "demo",
        "--train",
        f"epochs={epochs}",
        "--jobs",
        "1",
        "--output",
        str(output),
        *more,
    ]


def main(arguments: list[str]) -> int:
    """Run the experiment in this process; return its exit code."""
    try:
        experiment(parse(ExperimentConfig, arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def own_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what the experiment sets in this process's environment for the runs that it starts."""
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two known generators, and an unknown one."""
    folder = tmp_path_factory.mktemp("tree")
    write_faces(folder / "known", 24)
    write_faces(folder / "known2", 24, seed=1)
    (folder / "known2" / "gan").rename(folder / "known" / "second")
    write_faces(folder / "unknown", 8, seed=2)
    (folder / "unknown" / "gan").rename(folder / "unknown" / "other")
    return folder


def as_if_done(run: Run, auc: float) -> None:
    """Leave what the search reads of a run that was trained."""
    run.folder.mkdir(parents=True, exist_ok=True)
    write_config(resolve(run.config), run.folder / "config.yaml")
    (run.folder / "results.json").write_text(json.dumps({"open": {"mean": {"auc": auc}}}))


def test_a_run_of_other_settings_does_not_stand_for_one(tmp_path: Path) -> None:
    setup = make_setup(ExperimentConfig(output=str(tmp_path)))
    (run,) = grid(setup, {"ce": GRID.arms["ce"]}, [0])[:1]
    assert not is_finished(run)
    as_if_done(run, 0.7)
    config = resolve(run.config)
    # What is computed is the same if it logs more or less, but not with another setting.
    write_config(replace(config, log_steps=7), run.folder / "config.yaml")
    assert is_finished(run)
    write_config(replace(config, lr=0.5), run.folder / "config.yaml")
    with pytest.raises(InputError, match=r"was made with lr 0\.5, not"):
        is_finished(run)


def test_nothing_to_report(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="10 of 10 draws or seeds are not whole"):
        main(words(tree, tmp_path, "--report", "--losses", "ce"))


def write_rows(outcomes: Iterable[Outcome], path: Path) -> None:
    records = Records(path)
    for outcome in outcomes:
        records.add(outcome)


@pytest.mark.usefixtures("own_threads")
def test_a_world_of_the_range_is_looked_at_only_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not by naming the arms that are there, either."""
    outcomes = invented(tmp_path, GAINS, draws=16, range=True)
    here = [o for o in outcomes if o.run.world == "90"]
    table = tmp_path / "range" / "runs.csv"
    table.parent.mkdir(exist_ok=True)
    write_rows((o for o in here if o.run.arm in ("ce", "faint")), table)
    arguments = ["--range", "--report", "--output", str(tmp_path)]
    for more in ([], ["--losses", "ce,faint"]):
        with pytest.raises(InputError, match="128 runs of the world 90 are missing: nothing is"):
            main([*arguments, *more])
    write_rows(here, table)
    (tmp_path / "report.md").write_text("of the losses")
    for more in ([], ["--losses", "ce,faint"]):
        main([*arguments, *more])
        said = capsys.readouterr().out
        assert "- 144 runs of the world 50 are missing: nothing is looked at before\n" in said
        assert "| `faint` | 16 |" in said
    assert (tmp_path / "report.md").read_text() == "of the losses"


@pytest.mark.usefixtures("own_threads")
def test_a_gate_of_other_settings_says_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(invented(tmp_path, GAINS, draws=2), tmp_path / "runs.csv")
    gate = invented(tmp_path, {"oracle": 0.1}, draws=3, headroom=True, train={"epochs": "1"})
    (tmp_path / "headroom").mkdir(exist_ok=True)
    write_rows(gate, tmp_path / "headroom" / "runs.csv")
    main(["--report", "--output", str(tmp_path)])
    said = capsys.readouterr().out
    assert "| `blend` | 2 |" in said
    assert "Room" not in said


@pytest.mark.slow
@pytest.mark.usefixtures("own_threads")
def test_a_failed_run_is_named_and_whole_seeds_are_reported(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = words(tree, tmp_path, "--losses", "ce", "--seeds", "2")
    folder = tmp_path / "runs"
    folder.mkdir()
    (folder / "ce-01").write_text("in the way")
    assert main(arguments) == 1
    said = capsys.readouterr()
    log = tmp_path / "logs" / "ce-01.log"
    assert f"ce-01 ended with code 2: see {log}" in said.err
    assert "train --config" in log.read_text()
    assert "- 1 of 2 draws or seeds are not whole\n" in said.out
    assert "| `ce` | 1 |" in said.out

    (folder / "ce-01").unlink()
    before = (folder / "ce-00" / "results.json").stat().st_mtime_ns
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "2 runs, 1 of them done before" in said.out
    assert (folder / "ce-00" / "results.json").stat().st_mtime_ns == before
    # The table is enough to go on from, and says what it was made with.
    shutil.rmtree(folder)
    assert main([*arguments, "--report"]) == 0
    assert "| `ce` | 2 |" in capsys.readouterr().out
    (tmp_path / "report.md").unlink()
    assert main(arguments) == 0
    assert not folder.exists()
    assert "| `ce` | 2 |" in (tmp_path / "report.md").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("own_threads")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_or_killed_experiment_saves_and_goes_on(
    signum: signal.Signals, tree: Path, tmp_path: Path
) -> None:
    arguments = words(tree, tmp_path, "--losses", "ce", "--seeds", "1", epochs=15)
    folder, log = tmp_path / "runs" / "ce-00", tmp_path / "logs" / "ce-00.log"
    command = [sys.executable, "-P", "-m", "focus.experiment", *arguments]
    (tmp_path / "focus.py").write_text("raise SystemExit('not this one')")
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, start_new_session=True, cwd=tmp_path
    )
    deadline = time.monotonic() + 200
    try:
        while not list(folder.glob("checkpoints/step-*")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signum)
        assert process.wait(100) == (130 if signum == signal.SIGTERM else -signum)
    finally:
        process.kill()
    assert not (folder / "results.json").exists()
    assert main(arguments) == 0
    assert re.search(r"saved in .*; to go on: .*--resume --name \S+ --output \S+", log.read_text())
    assert "resuming" in log.read_text()
    with (folder / "summary.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 15
