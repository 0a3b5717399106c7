"""The table of finished runs: it goes on from anywhere, and believes nothing that cannot be."""

import csv
import errno
import fcntl
import multiprocessing
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from PIL import Image

from focus.config.command_line import parse
from focus.config.experiment import ExperimentConfig
from focus.data.bad_files import DIGESTS
from focus.data.manifest import Manifest, Sample
from focus.errors import InputError
from focus.experiment.__main__ import experiment, images, make_setup
from focus.experiment.data import check_trained_on
from focus.experiment.frozen import GRID
from focus.experiment.protocol import Run, grid
from focus.experiment.records import FIGURES, Outcome, Records, data_digest
from focus.runtime.files import waiting_for

from ..launching import in_another_process, write_faces
from .test_report import GAINS, invented

RESULTS = Path(__file__).parents[2] / "bench" / "results"
TABLES: dict[str, dict[str, Any]] = {
    "experiment-runs.csv": {},
    "experiment-headroom.csv": {"headroom": True},
    "experiment-range.csv": {"range": True},
    "experiment-ce-24-epochs.csv": {"train": {"epochs": "24"}},
}


def test_a_run_of_the_table_is_not_made_again(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    outcomes = invented(tmp_path, GAINS, draws=2)
    records = Records(path)
    for outcome in outcomes[:5]:
        records.add(outcome)
    again = Records(path)
    in_table = [again.find(outcome.run) is not None for outcome in outcomes]
    assert in_table == [True] * 5 + [False] * 19
    recorded = again.find(outcomes[3].run)
    assert recorded is not None
    assert recorded.commit == "c0ffee"
    assert recorded.figures == pytest.approx(outcomes[3].figures, rel=1e-5)
    longer = make_setup(ExperimentConfig(output=str(tmp_path), train={"epochs": "30"}))
    (other,) = grid(longer, {"ce": GRID.arms["ce"]}, [0])[:1]
    with pytest.raises(InputError, match=r"epochs 16, not .*epochs 30: give another --output"):
        again.find(other)


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_of_this_repository_are_gone_on_from(name: str, tmp_path: Path) -> None:
    """As docs/experiment.md says: every row is one of the protocol's runs, and stays as it is."""
    (path := tmp_path / "runs.csv").write_bytes((RESULTS / name).read_bytes())
    setup = make_setup(ExperimentConfig(output=str(tmp_path / "out"), **TABLES[name]))
    runs = grid(setup, setup.protocol.arms, setup.protocol.units)
    records = Records(path)
    outcomes = [outcome for run in runs if (outcome := records.find(run))]
    with path.open(newline="") as file:
        assert len(outcomes) == len(list(csv.DictReader(file)))
    records.add(outcomes[0])
    assert sorted(path.read_text().splitlines()) == sorted(
        (RESULTS / name).read_text().splitlines()
    )


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The rows of two draws."""
    records = Records(tmp_path / "runs.csv")
    for outcome in invented(tmp_path, GAINS, draws=2):
        records.add(outcome)
    return tmp_path / "runs.csv"


def cell_replaced(table: Path, line: int, column: str, cell: str) -> None:
    with table.open(newline="") as file:
        rows = list(csv.reader(file))
    rows[line - 1][rows[0].index(column)] = cell
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def report(table: Path) -> None:
    """As ``focus experiment --report`` does, in this process."""
    experiment(parse(ExperimentConfig, ["--report", "--output", str(table.parent)]))


@pytest.mark.parametrize(
    ("column", "cell", "why"),
    [
        ("open", "5", "Expected `float` <= 1.0"),
        ("open", "inf", "Expected `float` <= 1.0"),
        ("entropy", "nan", "Expected `float` >= 0.0"),
        ("source", "abc", "Expected `float`, got `str`"),
        ("cam_range", "-1", "Expected `float` >= 0.0"),
        ("epoch", "1.5", "Expected `int`, got `str`"),
        ("draw", "", "Expected `int`, got `str`"),
        ("arm", "", "Expected `str` of length >= 1"),
    ],
)
def test_a_cell_that_cannot_be_is_named(table: Path, column: str, cell: str, why: str) -> None:
    cell_replaced(table, 3, column, cell)
    with pytest.raises(InputError) as caught:
        report(table)
    assert str(caught.value) == (
        f"{table}, line 3: {column} is {cell!r} ({why}): correct the row, or remove it, and the "
        "experiment makes the run again."
    )


def test_a_table_that_is_none_is_named(table: Path) -> None:
    text = table.read_text()
    first, second, *_ = text.splitlines()
    for content, message in (
        (text.replace("0.4", "0,4", 1), "line 2: 25 columns instead of 24: correct"),
        (text.replace(",open,", ",", 1), "its first line has no column 'open'"),
        (text.replace(",open,", ",note,open,", 1), "its first line has a column 'note'"),
        (text.replace(",open,", ",closed,", 1), "line 1: the column 'closed' is there twice"),
        (text.replace(",", ";"), "its first line has no column 'arm'"),
        (f"{first}\n{second}\n{second}\n", "line 3: the run ce 90 0 is there before: correct"),
        ("", "its first line has no column 'arm'"),
    ):
        table.write_text(content)
        with pytest.raises(InputError, match="runs.csv.* " + message):
            report(table)
    table.write_text(text, encoding="utf-16")
    with pytest.raises(InputError, match="is no table of runs: its first line has no column 'arm'"):
        report(table)


def test_a_byte_order_mark_does_no_harm(table: Path) -> None:
    table.write_text(table.read_text(), encoding="utf-8-sig")
    assert all(Records(table).find(o.run) for o in invented(table.parent, GAINS, draws=2))


def test_a_figure_out_of_its_range_is_not_recorded(tmp_path: Path) -> None:
    outcome = invented(tmp_path, GAINS, draws=1)[0]
    broken = Outcome(outcome.run, {**outcome.figures, "open": 5.0})
    with pytest.raises(InputError, match=r"runs/ce-90-00: open is '5' .*: remove the folder"):
        Records(tmp_path / "runs.csv").add(broken)
    assert not (tmp_path / "runs.csv").exists()


def test_the_table_of_the_gate_is_checked_too(table: Path) -> None:
    (table.parent / "headroom").mkdir()
    shutil.copy(table, table.parent / "headroom")
    cell_replaced(table.parent / "headroom" / "runs.csv", 2, "open", "5")
    with pytest.raises(InputError, match=r"headroom/runs.csv, line 2: open is '5'"):
        report(table)


def add(path: Path, outcomes: list[Outcome], locks: bool) -> None:
    if not locks:
        fcntl.flock = no_lock
    records = Records(path)
    for outcome in outcomes:
        records.add(outcome)


def no_lock(descriptor: int, operation: int) -> None:
    """Answer as some disks on a network do."""
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


@pytest.mark.parametrize("locks", [True, False])
def test_two_experiments_in_one_folder_lose_no_rows(tmp_path: Path, locks: bool) -> None:
    """Each read the table before the other wrote."""
    path = tmp_path / "runs.csv"
    outcomes = invented(tmp_path, GAINS, draws=10)
    fork = multiprocessing.get_context("fork")
    processes = [
        fork.Process(target=add, args=(path, outcomes[start::3], locks)) for start in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    records = Records(path)
    assert all(records.find(outcome.run) for outcome in outcomes)
    assert not (tmp_path / ".writing").exists()


def test_without_locks_a_killed_experiment_keeps_nobody_from_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But one that was killed on another machine, of which nobody can see that it has ended."""
    monkeypatch.setattr("fcntl.flock", no_lock)
    monkeypatch.setattr("focus.runtime.files._PATIENCE", 0.2)
    records, outcomes = Records(tmp_path / "runs.csv"), invented(tmp_path, GAINS, draws=1)
    with (
        in_another_process(lambda: waiting_for(tmp_path / ".lock", even_without_locks=True)),
        pytest.raises(InputError, match=r"\.writing process \d+ on .* writes there"),
    ):
        records.add(outcomes[0])
    records.add(outcomes[0])
    marker = tmp_path / ".writing"
    marker.write_text("1\nanother-machine\n")
    with pytest.raises(InputError, match=rf"if it has ended, remove {marker}\.$"):
        records.add(outcomes[1])
    marker.unlink()
    records.add(outcomes[1])
    assert all(Records(tmp_path / "runs.csv").find(outcome.run) for outcome in outcomes[:2])


def test_a_report_of_other_data_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also if one picture was replaced, and wherever the data lie."""
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    write_faces(tmp_path / "data", 24)
    words = ["--recipe", "demo", "--losses", "ce", "--seeds", "1", "--report"]
    words += ["--output", str(tmp_path / "out"), "--data"]
    config = parse(ExperimentConfig, [*words, str(tmp_path / "data")])
    setup = make_setup(config)
    manifest = images(setup, config)(0, "")
    (run,) = grid(setup, {"ce": GRID.arms["ce"]}, [0])
    figures = dict.fromkeys(FIGURES, 0.5) | {"epoch": 1}
    Records(setup.output / "runs.csv", data_digest(manifest)).add(Outcome(run, figures))

    experiment(config)
    (tmp_path / "data").rename(tmp_path / "moved")
    moved = parse(ExperimentConfig, [*words, str(tmp_path / "moved")])
    experiment(moved)
    assert capsys.readouterr().out.count("| `ce` | 1 |") == 2

    picture = min((tmp_path / "moved").rglob("*.png"))
    Image.open(picture).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(picture)
    with pytest.raises(InputError, match=r"runs.csv has ce-00 of other data than those given now"):
        experiment(moved)
    # So is a finished run that has no row yet.
    run.folder.mkdir(parents=True)
    manifest.to_csv(run.folder / "manifest.csv")
    check_trained_on(run, manifest)
    with pytest.raises(InputError, match=rf"{picture.name}' among them: give another --output"):
        check_trained_on(run, images(setup, moved)(0, ""))


def checked_faces(count: int = 8) -> list[Sample]:
    """Return a sample of each of these faces, with the digests that a check gives."""
    return [
        Sample(
            f"/{number}.png",
            label=number % 2,
            split="train" if number < 6 else "test",
            test_set="" if number < 6 else "closed",
            generator="G" if number % 2 else "",
            human_map=f"/map {number}.png",
            extra={DIGESTS["image"]: f"{number:032x}", DIGESTS["map"]: f"{number + 99:032x}"},
        )
        for number in range(count)
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"label": 0, "generator": ""},
        {"split": "validation"},
        {"generator": "H"},
        {"group": "anna"},
        {"extra": {**checked_faces()[1].extra, DIGESTS["map"]: "0" * 32}},
    ],
)
def test_a_finished_run_of_other_data_gets_no_row(tmp_path: Path, changes: dict[str, Any]) -> None:
    """The pictures are the same; the row would be of data that the run has not seen."""
    then = checked_faces()
    Manifest(then).to_csv(tmp_path / "manifest.csv")
    run = cast(Run, SimpleNamespace(folder=tmp_path, images="own"))
    now = [then[0], replace(then[1], **changes), *then[2:]]
    check_trained_on(run, Manifest(then))
    for other in (now, then[1:], [*then, *checked_faces(9)[8:]]):
        with pytest.raises(InputError, match=r"other images than those given now, '/[018].png' am"):
            check_trained_on(run, Manifest(other))


@pytest.mark.parametrize("arm", ["shuffled", "masks"])
def test_a_finished_run_with_maps_of_its_arm_gets_its_row(tmp_path: Path, arm: str) -> None:
    faces = checked_faces()
    trained = [replace(face, extra={**face.extra, DIGESTS["map"]: "0" * 32}) for face in faces]
    Manifest(trained).to_csv(tmp_path / "manifest.csv")
    check_trained_on(cast(Run, SimpleNamespace(folder=tmp_path, images=arm)), Manifest(faces))
    with pytest.raises(InputError, match="other images"):
        check_trained_on(cast(Run, SimpleNamespace(folder=tmp_path, images="own")), Manifest(faces))
