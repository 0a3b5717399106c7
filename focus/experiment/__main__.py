"""Train losses by seeds by models, several runs at a time, and write one table and plots.

Without --data on the embedded demo faces. Resumable: give the same command again.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from focus.config.command_line import run
from focus.config.experiment import ExperimentConfig
from focus.config.train import TrainConfig, resolve
from focus.errors import InputError
from focus.experiment import frozen
from focus.experiment.grid import Setup, check_arms, grid, read_weights, search_runs, search_space
from focus.runtime.machine import usable_cores

if TYPE_CHECKING:
    from focus.data.manifest import Manifest
    from focus.experiment.run import Failure

PROG = "python -m focus.experiment"


def experiment(config: ExperimentConfig) -> None:
    """Run the search or the grid and report it.

    Raises:
        InputError: something that was given cannot be used.
        SystemExit: with code 1 if a run failed.
    """
    arms = config.losses.split(",") if config.losses else None
    check_arms(arms or ())
    setup = make_setup(config)
    # For this process and those it starts, before any of them imports torch: a core for each run.
    os.environ.update(OMP_NUM_THREADS=str(setup.threads), OMP_WAIT_POLICY="PASSIVE")
    os.environ.update(OPENBLAS_NUM_THREADS="1")
    failures = (_search if config.search else _grid)(setup, config, arms)
    for failure in failures:
        print(f"{PROG}: {failure}", file=sys.stderr)
    if failures:
        raise SystemExit(1)


def make_setup(config: ExperimentConfig) -> Setup:
    """Return what all runs share.

    Raises InputError if the folder cannot be written to, or the weights not be read.
    """
    from focus.runtime.files import check_writable  # numpy and all: --help does without

    recipe = config.recipe or ("paper" if config.data else "demo")
    settings = frozen.RECIPE if recipe == "demo" else {}
    weights = frozen.WEIGHTS
    if config.weights:
        chosen, weights = read_weights(Path(config.weights))
        settings = settings if chosen is None else chosen
    check_writable(output := Path(config.output).absolute())
    return Setup(
        output=output,
        recipe=recipe,
        models=config.model or (resolve(TrainConfig(recipe=recipe)).model,),
        recipe_settings=settings,
        weights=weights,
        epochs=config.epochs,
        threads=config.threads,
        workers=config.workers,
    )


def _images(setup: Setup, config: ExperimentConfig) -> "Manifest":
    """Return all images with their splits, which are those of seed 0 for every run."""
    from focus.data.training_set import training_manifest

    names = ("data", "data_root", "heatmaps", "test_data", "test_real")
    given = {name: getattr(config, name) for name in names}
    return training_manifest(resolve(TrainConfig(recipe=setup.recipe, **given)))


def _search(setup: Setup, config: ExperimentConfig, arms: Sequence[str] | None) -> "list[Failure]":
    """Choose the recipe for cross-entropy, then the weights of the others with that recipe."""
    from focus.experiment.data import without_tests, write_once
    from focus.experiment.run import LOGS, execute
    from focus.experiment.search import candidates, choose, recipe_line, write_search

    folder = setup.output / "search"
    manifest = _images(setup, config)
    data = write_once(without_tests(manifest), folder / "data.csv")
    wanted = _trainable(setup, manifest, list(arms or frozen.SEARCH))
    space, found, failures = search_space(setup), [], []
    baseline = [arm for arm in wanted if arm == frozen.BASELINE]
    for stage in filter(None, (baseline, [arm for arm in wanted if arm not in baseline])):
        runs = search_runs(setup, stage, data)
        flat = [run for groups in runs.values() for group in groups for run in group]
        failures += execute(flat, jobs=_jobs(config), logs=folder / LOGS, say=_say)
        found += candidates(runs, space, {failure.run.name for failure in failures})
        if stage is baseline and (best := choose(found).get(frozen.BASELINE)):
            _say(recipe_line(best))
            setup = replace(setup, recipe_settings=best.settings)
    if found:
        _say(
            f"\n{write_search(found, folder)}\n\nwritten: {folder / 'weights.yaml'}; commit it as "
            "RECIPE and WEIGHTS of focus/experiment/frozen.py before the grid is run, or give it "
            "as --weights."
        )
    return failures


def _grid(setup: Setup, config: ExperimentConfig, arms: Sequence[str] | None) -> "list[Failure]":
    """Make the runs that are missing, and report all."""
    from focus.experiment.collect import outcome
    from focus.experiment.compare import analyse
    from focus.experiment.data import has_closed_tests, write_data
    from focus.experiment.plots import DOSE, SCATTER, dose_response, scatter
    from focus.experiment.report import doses, write_report
    from focus.experiment.run import LOGS, execute, is_finished

    manifest, quick, output = _images(setup, config), config.quick, setup.output
    if not has_closed_tests(manifest):
        _say(
            "no test image is of a known generator, so there will be no closed AUC, and only "
            "unmatched differences: give some as split test, or by --test-data"
        )
    chosen = list(arms or (frozen.QUICK_ARMS if quick else frozen.ARMS))
    chosen = _trainable(setup, manifest, chosen)
    for maps in dict.fromkeys(frozen.ARMS[arm].maps for arm in chosen):
        write_data(manifest, maps, output / "data")
    runs = grid(
        setup,
        chosen,
        seeds=config.seeds or (frozen.QUICK_SEEDS if quick else frozen.SEEDS),
        lengths=(1,) if quick else frozen.LENGTHS,
        doses=() if quick or not {"ce", "focus"} <= set(chosen) else frozen.DOSES,
    )
    failures = []
    if not config.report:
        failures = execute(runs, jobs=_jobs(config), logs=output / LOGS, say=_say)
    done = [run for run in runs if is_finished(run)]
    if not done:
        raise InputError(f"No run in {output} is finished: there is nothing to report.")
    missing = [str(failure) for failure in failures]
    if left := len(runs) - len(done) - len(failures):
        missing.append(f"{left} of {len(runs)} runs are not made")
    outcomes = [outcome(run) for run in done]
    models = list(dict.fromkeys(run.model for run in done))
    analyses = [analyse(outcomes, model, replicates=frozen.REPLICATES) for model in models]
    plots = [SCATTER]
    scatter(outcomes, output / SCATTER)
    for model in models:
        if len(by_dose := doses(outcomes, model)) > 1:
            plots.append(DOSE if len(models) == 1 else f"{model}-{DOSE}")
            dose_response(by_dose, output / plots[-1])
    _say("\n" + write_report(outcomes, analyses, output, missing=missing, plots=plots))
    _say(f"written: {output}")
    return failures


def _trainable(setup: Setup, manifest: "Manifest", arms: list[str]) -> list[str]:
    """Return the arms that the data can train, and say which are left out."""
    from focus.experiment.data import trainable_arms

    left = trainable_arms(setup, manifest, arms)
    if gone := [arm for arm in arms if arm not in left]:
        _say(
            "no training image has a human map (--heatmaps), so these are left out: "
            f"{', '.join(gone)}"
        )
    return left


def _jobs(config: ExperimentConfig) -> int:
    import torch

    # Runs that share an accelerator gain nothing.
    default = 1 if torch.accelerator.is_available() else usable_cores() // config.threads
    return config.jobs or max(1, default)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    run(experiment, ExperimentConfig, description=__doc__ or "", prog=PROG)
