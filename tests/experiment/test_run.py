"""The experiment as a program: runs that are made, found, stopped, and that fail."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from focus.config.command_line import parse
from focus.config.experiment import ExperimentConfig
from focus.config.train import resolve, write_config
from focus.data.manifest import Manifest
from focus.errors import InputError
from focus.evaluation.results import write_results
from focus.experiment import frozen, search
from focus.experiment.__main__ import experiment, make_setup
from focus.experiment.grid import grid, read_weights, search_runs
from focus.experiment.plots import DOSE, SCATTER
from focus.experiment.run import is_finished

from ..evaluation.few_scores import summarise, table
from ..launching import write_faces


def small(tree: Path, output: Path, *more: str) -> list[str]:
    return [
        *("--data", str(tree / "known"), "--test-data", f"other={tree / 'unknown'}"),
        *("--recipe", "demo", "--jobs", "1", "--output", str(output), "--quick", *more),
    ]


def main(words: list[str]) -> int:
    """Run the experiment in this process; return its exit code."""
    try:
        experiment(parse(ExperimentConfig, words))
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
    folder = tmp_path_factory.mktemp("tree")
    write_faces(folder / "known", 24)
    write_faces(folder / "unknown", 8)
    (folder / "unknown" / "gan").rename(folder / "unknown" / "other")
    return folder


def test_the_other_losses_are_searched_with_the_recipe_of_cross_entropy(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All runs are there, so that none is trained: one of another recipe would be refused."""
    words = small(tree, tmp_path, "--search", "--losses", "focus,ce", "--epochs", "1")
    setup, data = make_setup(parse(ExperimentConfig, words)), tmp_path / "search" / "data.csv"
    best = replace(setup, base=replace(setup.base, **frozen.SEARCH["ce"][2]))
    for arm, chosen in (("ce", setup), ("focus", best)):
        for number, (*_, group) in enumerate(search_runs(chosen, [arm], data)):
            for run in group:
                run.folder.mkdir(parents=True)
                write_config(resolve(run.config), run.folder / "config.yaml")
                model = {"validation_auc": 0.97 if number == 2 else 0.95}
                results = {"n_real": 0, "n_synthetic": 0, "model": model}
                (run.folder / "results.json").write_text(json.dumps(results))
    assert main(words) == 0
    said = capsys.readouterr().out
    assert said.count("8 runs, 8 of them done before") == 2
    assert "reaches 0.93 on each seed (lowest 0.9700) with the recipe lr 0.004" in said
    assert {sample.split for sample in Manifest.from_csv(data)} == {"train", "validation"}
    recipe, weights = read_weights(tmp_path / "search" / "weights.yaml")
    assert (recipe, weights["focus"]) == (frozen.SEARCH["ce"][2], frozen.SEARCH["focus"][2])
    # What is left of a candidate of which a run failed is no mean over the seeds.
    runs = search_runs(setup, ["ce"], data)
    left = search.candidates(runs, {runs[1][2][1].name})
    assert [candidate.settings for candidate in left] == [frozen.SEARCH["ce"][n] for n in (0, 2, 3)]
    # A search that scored a test image is refused.
    (runs[0][2][0].folder / "results.json").write_text(json.dumps({**results, "n_synthetic": 3}))
    with pytest.raises(InputError, match="3 test images"):
        search.candidates(runs, ())
    # One of two recipes that does not train enough, though it is the better one.
    poor = search.Candidate("ce", {"lr": 1e-3}, (0.95, 0.92))
    assert search.choose([poor, search.Candidate("ce", {}, (0.93, 0.93))])["ce"] is poor
    assert "DOES NOT REACH" in search.recipe_line(poor)


def test_a_report_of_the_runs_that_are_done_says_how_many_are_not(
    tree: Path, tmp_path: Path
) -> None:
    words = small(tree, tmp_path, "--report", "--losses", "ce,focus", "--epochs", "1")
    words.remove("--quick")
    with pytest.raises(InputError, match=r"No run in .* is finished: there is nothing to report\."):
        main(words)
    setup = make_setup(parse(ExperimentConfig, words))
    rows = [(0, "", "", 0.1), (0, "", "", 0.6), (1, "gan", "", 0.5), (1, "other", "", 0.9)]
    for entropy, run in enumerate(grid(setup, ["ce", "focus"], seeds=1, lengths=(1,)), 1):
        scores = table(rows, entropy_predicted=[entropy / 4] * 4)
        write_results(run.folder, scores, summarise(scores, ["gan"]))
        write_config(resolve(run.config), run.folder / "config.yaml")
        Manifest([]).to_csv(run.folder / "manifest.csv")
    assert main(words) == 0
    # Two losses of three seeds and two lengths, and the four doses that neither of them has.
    said = (tmp_path / "report.md").read_text()
    assert "\n- 22 of 24 runs are not made\n" in said
    for plot in (SCATTER, DOSE):
        assert f"![{plot}]({plot})" in said
        assert (tmp_path / plot).is_file()
    # What is computed is the same if it logs more or less, but not with another setting.
    config = resolve(run.config)
    write_config(replace(config, log_steps=7), run.folder / "config.yaml")
    assert is_finished(run)
    write_config(replace(config, lr=0.5), run.folder / "config.yaml")
    with pytest.raises(InputError, match=r"was made with lr 0\.5, not"):
        is_finished(run)


@pytest.mark.slow
@pytest.mark.usefixtures("own_threads")
def test_a_failed_run_is_named_and_a_finished_one_is_not_made_again(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = small(tree, tmp_path, "--losses", "ce,focus", "--seeds", "1", "--epochs", "1")
    folder = tmp_path / "runs" / "focus_small"
    folder.mkdir(parents=True)
    (folder / "ce-1ep-seed0").write_text("in the way")
    assert main(words) == 1
    said = capsys.readouterr()
    log = tmp_path / "logs" / "focus_small-ce-1ep-seed0.log"
    assert f"focus_small/ce-1ep-seed0 ended with code 2: see {log}" in said.err
    assert "train --config" in log.read_text()
    assert "| `focus` | 1 | 1 |" in said.out
    assert "- focus_small/ce-1ep-seed0 ended with code 2" in (tmp_path / "report.md").read_text()

    (folder / "ce-1ep-seed0").unlink()
    before = (folder / "focus-1ep-seed0" / "results.json").stat().st_mtime_ns
    assert main(words) == 0
    said = capsys.readouterr()
    assert "2 runs, 1 of them done before" in said.out
    assert (folder / "focus-1ep-seed0" / "results.json").stat().st_mtime_ns == before
    assert "| `ce` | 1 | 1 |" in said.out


@pytest.mark.slow
@pytest.mark.usefixtures("own_threads")
def test_a_stopped_experiment_saves_and_goes_on(tree: Path, tmp_path: Path) -> None:
    words = small(tree, tmp_path, "--losses", "ce", "--seeds", "1", "--epochs", "15")
    folder = tmp_path / "runs" / "focus_small" / "ce-15ep-seed0"
    log = tmp_path / "logs" / "focus_small-ce-15ep-seed0.log"
    command = [sys.executable, "-m", "focus.experiment", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 200
    try:
        while not list(folder.glob("checkpoints/step-*")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(100) == 130
    finally:
        process.kill()
    assert "--resume goes on" in log.read_text()
    assert not (folder / "results.json").exists()
    assert main(words) == 0
    assert "resuming" in log.read_text()
    with (folder / "summary.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 15
