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
from focus.experiment.__main__ import _setup
from focus.experiment.grid import grid, read_weights, search_runs
from focus.experiment.plots import DOSE, SCATTER
from focus.experiment.run import execute, is_finished

from ..commands import experiment as main
from ..few_scores import summarise, table
from ..launching import write_faces


def experiment(tree: Path, output: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "focus.experiment", "--data", str(tree / "known")),
        *("--test-data", f"other={tree / 'unknown'}", "--recipe", "demo", "--jobs", "1"),
        *("--output", str(output), "--quick", *more),
    ]


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
    command = experiment(tree, tmp_path, "--search", "--losses", "focus,ce", "--epochs", "1")[3:]
    setup, data = _setup(parse(ExperimentConfig, command)), tmp_path / "search" / "data.csv"
    best = replace(setup, recipe_settings=frozen.SEARCH["ce"][2])
    for arm, chosen in (("ce", setup), ("focus", best)):
        for number, group in enumerate(search_runs(chosen, [arm], data)[arm]):
            for run in group:
                run.folder.mkdir(parents=True)
                write_config(resolve(run.config), run.folder / "config.yaml")
                model = {"validation_auc": 0.97 if number == 2 else 0.95}
                results = {"n_real": 0, "n_fake": 0, "model": model}
                (run.folder / "results.json").write_text(json.dumps(results))
    assert main(command) == 0
    said = capsys.readouterr().out
    assert said.count("8 runs, 8 of them done before") == 2
    recipe, weights = read_weights(tmp_path / "search" / "weights.yaml")
    assert (recipe, weights["focus"]) == (frozen.SEARCH["ce"][2], frozen.SEARCH["focus"][2])
    # What is left of a candidate of which a run failed is no mean over the seeds.
    runs = search_runs(setup, ["ce"], data)
    left = search.candidates(runs, frozen.SEARCH, {runs["ce"][1][1].name})
    assert [candidate.settings for candidate in left] == [frozen.SEARCH["ce"][n] for n in (0, 2, 3)]


def test_a_report_of_the_runs_that_are_done_says_how_many_are_not(
    tree: Path, tmp_path: Path
) -> None:
    command = experiment(tree, tmp_path, "--report", "--losses", "ce,focus", "--epochs", "1")[3:]
    command.remove("--quick")
    with pytest.raises(InputError, match=r"No run in .* is finished: there is nothing to report\."):
        main(command)
    setup = _setup(parse(ExperimentConfig, command))
    rows = [(0, "", "", 0.1), (0, "", "", 0.6), (1, "gan", "", 0.5), (1, "other", "", 0.9)]
    for entropy, run in enumerate(grid(setup, ["ce", "focus"], seeds=1, lengths=(1,)), 1):
        scores = table(rows, entropy_predicted=[entropy / 4] * 4)
        write_results(run.folder, scores, summarise(scores, ["gan"]))
        write_config(resolve(run.config), run.folder / "config.yaml")
        Manifest([]).to_csv(run.folder / "manifest.csv")
    assert main(command) == 0
    # Two losses of three seeds and two lengths, and the four doses that neither of them has.
    said = (tmp_path / "report.md").read_text()
    assert "\n- 22 of 24 runs are not made\n" in said
    for plot in (SCATTER, DOSE):
        assert f"![{plot}]({plot})" in said
        assert (tmp_path / plot).is_file()
    # Two seeds of one length, without doses.
    assert main([*command, "--quick"]) == 0
    said = (tmp_path / "report.md").read_text()
    assert "\n- 2 of 4 runs are not made\n" in said
    assert DOSE not in said


@pytest.mark.slow
@pytest.mark.usefixtures("own_threads")
def test_a_failed_run_is_named_and_a_finished_one_is_not_made_again(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    command = experiment(tree, output, "--losses", "ce,focus", "--seeds", "1", "--epochs", "1")
    folder = output / "runs" / "focus_small"
    folder.mkdir(parents=True)
    (folder / "ce-1ep-seed0").write_text("in the way")
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    log = output / "logs" / "focus_small-ce-1ep-seed0.log"
    assert f"focus_small/ce-1ep-seed0 ended with code 2: see {log}" in done.stderr
    assert "is a file" in log.read_text()
    assert "| `focus` | 1 | 1 |" in done.stdout
    assert "- focus_small/ce-1ep-seed0 ended with code 2" in (output / "report.md").read_text()

    (folder / "ce-1ep-seed0").unlink()
    before = (folder / "focus-1ep-seed0" / "results.json").stat().st_mtime_ns
    assert main(command[3:]) == 0
    said = capsys.readouterr().out
    assert "2 runs, 1 of them done before" in said
    assert (folder / "focus-1ep-seed0" / "results.json").stat().st_mtime_ns == before
    assert "| `ce` | 1 | 1 |" in said
    assert "ended with" not in (output / "report.md").read_text()

    setup = _setup(parse(ExperimentConfig, command[3:]))
    run = grid(setup, ["focus"], seeds=1, lengths=(1,))[0]
    assert is_finished(run)
    with pytest.raises(InputError, match="was made with epochs 1, not 20"):
        is_finished(replace(run, config=replace(run.config, epochs=20)))


@pytest.mark.slow
@pytest.mark.usefixtures("own_threads")
@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGKILL])
def test_told_to_stop_it_saves_and_goes_on(
    told: signal.Signals, tree: Path, tmp_path: Path
) -> None:
    """SIGKILL ends all but the run, as a terminal that is closed does: that saves alone.

    Not SIGHUP, which nohup has everything below it ignore.
    """
    output = tmp_path / "out"
    command = experiment(tree, output, "--losses", "ce", "--seeds", "1", "--epochs", "60")
    folder = output / "runs" / "focus_small" / "ce-60ep-seed0"
    log = output / "logs" / "focus_small-ce-60ep-seed0.log"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 300
    try:
        while not list(folder.glob("checkpoints/step-*")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        if told == signal.SIGTERM:
            process.terminate()
            assert process.wait(120) == 130
        else:
            os.killpg(process.pid, told)
            assert process.wait(120) == -told
            while "--resume goes on" not in log.read_text() and time.monotonic() < deadline:
                time.sleep(0.05)
            assert "the launcher has ended" in log.read_text()
    finally:
        process.kill()
    assert "--resume goes on" in log.read_text()
    assert not (folder / "results.json").exists()
    assert main(command[3:]) == 0
    assert "resuming" in log.read_text()
    with (folder / "summary.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 60


@pytest.mark.slow
@pytest.mark.usefixtures("own_threads")
def test_an_error_of_its_own_stops_the_runs(tree: Path, tmp_path: Path) -> None:
    """As where what it says goes nowhere: the reader of its pipe has ended."""
    command = experiment(tree, tmp_path, "--losses", "ce", "--epochs", "60")[3:]
    setup = _setup(parse(ExperimentConfig, command))
    (run,) = grid(setup, ["ce"], seeds=1, lengths=(1,))
    run = replace(run, config=replace(run.config, data=(str(tree / "known"),)))
    failing = replace(run, config=replace(run.config, name="failing", data=(str(tmp_path / "no"),)))
    deadline = time.monotonic() + 300

    def say(line: str) -> None:
        if "ended with code" in line:
            while not list(run.folder.glob("checkpoints/step-*")) and time.monotonic() < deadline:
                time.sleep(0.05)
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        execute([run, failing], jobs=2, logs=tmp_path / "logs", say=say)
    log = tmp_path / "logs" / f"{run.name.replace('/', '-')}.log"
    assert "--resume goes on" in log.read_text()
    assert not is_finished(run)


@pytest.mark.slow
@pytest.mark.usefixtures("own_threads")
def test_the_search_of_a_tiny_tree(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    command = experiment(tree, output, "--search", "--losses", "ce", "--epochs", "1")
    assert main(command[3:]) == 0
    assert "8 runs" in capsys.readouterr().out
    recipe, _ = read_weights(output / "search" / "weights.yaml")
    assert recipe in frozen.SEARCH["ce"]
    for path in (output / "search").glob("*/manifest.csv"):
        assert not Manifest.from_csv(path).split("test")
