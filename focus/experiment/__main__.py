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
from focus.config.train import TrainConfig, loss_config, resolve
from focus.data.generators import home_of
from focus.data.manifest import SYNTHETIC, Manifest
from focus.errors import InputError
from focus.experiment import frozen
from focus.experiment.grid import (
    Setup,
    check_arms,
    grid,
    maps_needed,
    read_weights,
    search_runs,
    search_space,
)
from focus.runtime.machine import usable_cores

if TYPE_CHECKING:
    from focus.experiment.run import Failure

PROG = "python -m focus.experiment"


def experiment(config: ExperimentConfig) -> None:
    """Run the search or the grid and report it.

    Raises:
        InputError: something that was given cannot be used.
        SystemExit: with code 1 if a run failed.
    """
    arms = config.losses.split(",") if config.losses else None
    setup = _setup(config)
    check_arms(arms or ())
    # For this process and those it starts, before any of them imports torch: a core for each run.
    os.environ.update(OMP_NUM_THREADS=str(setup.threads), OMP_WAIT_POLICY="PASSIVE")
    os.environ.update(OPENBLAS_NUM_THREADS="1")
    failures = (_search if config.search else _grid)(setup, config, arms)
    for failure in failures:
        print(f"{PROG}: {failure}", file=sys.stderr)
    if failures:
        raise SystemExit(1)


def _setup(config: ExperimentConfig) -> Setup:
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


def _images(setup: Setup, config: ExperimentConfig) -> Manifest:
    """All images with their splits, which are those of seed 0 for every run."""
    from focus.data.training_set import training_manifest

    train = TrainConfig(
        data=config.data,
        data_root=config.data_root,
        heatmaps=config.heatmaps,
        test_data=config.test_data,
        test_real=config.test_real,
        recipe=setup.recipe,
    )
    return training_manifest(resolve(train))


def _search(setup: Setup, config: ExperimentConfig, arms: Sequence[str] | None) -> "list[Failure]":
    """Choose the recipe for cross-entropy, then the weights of the others with that recipe."""
    from focus.experiment.data import without_tests, write_once
    from focus.experiment.run import LOGS, execute
    from focus.experiment.search import candidates, choose, recipe_line, write_search

    folder = setup.output / "search"
    manifest = _images(setup, config)
    data = write_once(without_tests(manifest), folder / "data.csv")
    wanted = _with_maps(setup, manifest, list(arms or frozen.SEARCH))
    check_arms(wanted, frozen.SEARCH)
    space, found, failures = search_space(setup), [], []
    stages = [[arm for arm in wanted if arm == frozen.BASELINE]]
    stages.append([arm for arm in wanted if arm != frozen.BASELINE])
    for stage in filter(None, stages):
        runs = search_runs(setup, stage, data)
        flat = [run for groups in runs.values() for group in groups for run in group]
        failures += execute(flat, jobs=_jobs(config), logs=folder / LOGS, say=_say)
        found += candidates(runs, space, {failure.run.name for failure in failures})
        if frozen.BASELINE in stage and (best := choose(found).get(frozen.BASELINE)):
            _say(recipe_line({frozen.BASELINE: best}))
            setup = replace(setup, recipe_settings=best.settings)
    if found:
        _say(f"\n{write_search(found, folder)}\n\nwritten: {folder / 'weights.yaml'}; commit it as "
             "RECIPE and WEIGHTS of focus/experiment/frozen.py before the grid is run, or give it "
             "as --weights.")  # fmt: skip
    return failures


def _grid(setup: Setup, config: ExperimentConfig, arms: Sequence[str] | None) -> "list[Failure]":
    """Make the runs that are missing, and report all."""
    from focus.experiment.collect import outcome
    from focus.experiment.compare import analyse
    from focus.experiment.data import write_data
    from focus.experiment.plots import DOSE, SCATTER, dose_response, scatter
    from focus.experiment.report import doses, write_report
    from focus.experiment.run import LOGS, execute, is_finished

    manifest = _images(setup, config)
    if not _has_closed(manifest):
        _say("no test image is of a known generator, so there will be no closed AUC, and only "
             "unmatched differences: give some as split test, or by --test-data")  # fmt: skip
    quick = config.quick
    chosen = list(arms or (frozen.QUICK_ARMS if quick else frozen.ARMS))
    chosen = _with_maps(setup, manifest, chosen)
    for maps in maps_needed(chosen):
        write_data(manifest, maps, setup.output / "data")
    runs = grid(
        setup,
        chosen,
        seeds=config.seeds or (frozen.QUICK_SEEDS if quick else frozen.SEEDS),
        lengths=(1,) if quick else frozen.LENGTHS,
        doses=() if quick or not {"ce", "focus"} <= set(chosen) else frozen.DOSES,
    )
    failures = []
    if not config.report:
        failures = execute(runs, jobs=_jobs(config), logs=setup.output / LOGS, say=_say)
    done = [run for run in runs if is_finished(run)]
    missing = [str(failure) for failure in failures]
    if len(done) + len(failures) < len(runs):
        missing.append(f"{len(runs) - len(done) - len(failures)} of {len(runs)} runs are not made")
    if not done:
        raise InputError(f"No run in {setup.output} is finished: there is nothing to report.")
    outcomes = [outcome(run) for run in done]
    models = list(dict.fromkeys(run.model for run in done))
    analyses = [analyse(outcomes, model, replicates=frozen.REPLICATES) for model in models]
    plots = [SCATTER]
    scatter(outcomes, setup.output / SCATTER)
    for model in models:
        if len(by_dose := doses(outcomes, model)) > 1:
            plots.append(DOSE if len(models) == 1 else f"{model}-{DOSE}")
            dose_response(by_dose, setup.output / plots[-1])
    _say("")
    _say(write_report(outcomes, analyses, setup.output, missing=missing, plots=plots))
    _say(f"written: {setup.output}")
    return failures


def _has_closed(manifest: Manifest) -> bool:
    """Whether test images are of generators that training knows."""
    known = {s.generator for s in manifest.split("train") if s.label == SYNTHETIC}
    fakes = (s for s in manifest.split("test") if s.label == SYNTHETIC)
    tested = {(s.test_set, s.generator) for s in fakes}
    return any(home_of(*each, known) == "closed" for each in tested)


def _with_maps(setup: Setup, manifest: Manifest, arms: list[str]) -> list[str]:
    """The arms that the data can train: without human maps, those that need none.

    Raises InputError if that is none of them.
    """
    if any(sample.map_path is not None for sample in manifest.split("train")):
        return arms
    left = []
    for arm in arms:
        about = frozen.ARMS[arm]
        weights = setup.weights[about.like or arm]
        loss = loss_config(TrainConfig(loss=about.loss, **about.settings, **weights))
        of_maps = loss.level in ("match", "hinge") and loss.entropy_target is None
        if not (loss.saliency_weight or of_maps or about.maps != "own"):
            left.append(arm)
    if not left:
        raise InputError(
            f"No training image has a human map, which all losses given need ({', '.join(arms)}): "
            "give other --losses, or --heatmaps."
        )
    if left != arms:
        gone = ", ".join(arm for arm in arms if arm not in left)
        _say(f"no training image has a human map (--heatmaps), so these are left out: {gone}")
    return left


def _jobs(config: ExperimentConfig) -> int:
    import torch

    if config.jobs:
        return config.jobs
    # Runs that share an accelerator gain nothing.
    return 1 if torch.accelerator.is_available() else max(1, usable_cores() // config.threads)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    run(experiment, ExperimentConfig, description=__doc__ or "", prog=PROG)
