"""Train losses by seeds by models, several runs at a time, and write one table and plots.

Without --data on the embedded demo faces. Resumable: give the same command again.
"""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # the current folder, in which a yaml.py is not meant for this program

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from focus.config.command_line import run
from focus.config.experiment import ExperimentConfig
from focus.config.train import TrainConfig, resolve
from focus.errors import InputError
from focus.experiment import frozen
from focus.experiment.grid import Setup, check_arms, grid, read_weights, search_runs
from focus.runtime.machine import usable_cores

if TYPE_CHECKING:  # numpy and all: --help does without
    from focus.data.manifest import Manifest

PROG = "focus experiment"


def experiment(config: ExperimentConfig) -> None:
    """Run the search or the grid and report it.

    Raises:
        InputError: something that was given cannot be used.
        SystemExit: with code 1 if a run failed.
    """
    arms = config.losses.split(",") if config.losses else []
    check_arms(arms, frozen.SEARCH if config.search else frozen.ARMS)
    setup = make_setup(config)
    # For this process and those it starts, before any of them imports torch: a core for each run.
    os.environ.update(OMP_NUM_THREADS=str(config.threads), OMP_WAIT_POLICY="PASSIVE")
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
    from focus.runtime.files import check_writable

    recipe = config.recipe or ("paper" if config.data else "demo")
    settings = frozen.RECIPE if recipe == "demo" else {}
    weights = frozen.WEIGHTS
    if config.weights:
        chosen, weights = read_weights(Path(config.weights))
        settings = settings if chosen is None else chosen
    check_writable(output := Path(config.output).absolute())
    base = TrainConfig(
        recipe=recipe,
        threads=config.threads,
        workers=config.workers,
        resume=True,
        report=False,
        report_to=("none",),
        sheet_epochs=0,
        checkpoints_kept=1,
        **settings,
    )
    standard = resolve(base)
    models = config.model or (standard.model,)
    return Setup(output, base, config.epochs or standard.epochs, models, weights)


def _images(setup: Setup, config: ExperimentConfig) -> "Manifest":
    """Return all images with their splits, which are those of seed 0 for every run."""
    from focus.data.training_set import training_manifest

    names = ("data", "data_root", "human_maps", "test_data", "test_real")
    given = {name: getattr(config, name) for name in names}
    return training_manifest(resolve(TrainConfig(recipe=setup.base.recipe, **given)))


def _search(setup: Setup, config: ExperimentConfig, arms: Sequence[str]) -> list[str]:
    """Choose the recipe for cross-entropy, then the weights of the others with that recipe."""
    from focus.experiment.data import trainable_arms, write_data
    from focus.experiment.run import LOGS, execute
    from focus.experiment.search import candidates, choose, recipe_line, write_search

    folder = setup.output / "search"
    manifest = _images(setup, config)
    data = folder / "data.csv"
    write_data(manifest.where(lambda sample: sample.split in ("train", "validation")), data)
    wanted = trainable_arms(setup, manifest, arms or list(frozen.SEARCH))
    found, failures = [], dict[str, str]()
    baseline = [arm for arm in wanted if arm == frozen.BASELINE]
    for stage in filter(None, (baseline, [arm for arm in wanted if arm not in baseline])):
        groups = search_runs(setup, stage, data)
        runs = [run for *_, own in groups for run in own]
        failures |= execute(runs, jobs=_jobs(config), logs=folder / LOGS)
        found += candidates(groups, failures)
        if stage is baseline and found:
            best = choose(found)[frozen.BASELINE]
            print(recipe_line(best))
            setup = replace(setup, base=replace(setup.base, **best.settings))
    if found:
        print(
            f"\n{write_search(found, folder)}\n\nwritten: {folder / 'weights.yaml'}; commit it as "
            "RECIPE and WEIGHTS of focus/experiment/frozen.py before the grid is run, or give it "
            "as --weights."
        )
    return list(failures.values())


def _grid(setup: Setup, config: ExperimentConfig, arms: Sequence[str]) -> list[str]:
    """Make the runs that are missing, and report all."""
    from focus.experiment.collect import outcome
    from focus.experiment.compare import analyse
    from focus.experiment.data import has_closed_tests, trainable_arms, write_data
    from focus.experiment.plots import DOSE, SCATTER, dose_response, scatter
    from focus.experiment.report import doses, write_report
    from focus.experiment.run import LOGS, execute, is_finished

    manifest, quick, output = _images(setup, config), config.quick, setup.output
    if not has_closed_tests(manifest):
        print("no test image is of a known generator: no closed AUC, only unmatched differences")
    arms = arms or list(frozen.QUICK_ARMS if quick else frozen.ARMS)
    arms = trainable_arms(setup, manifest, arms)
    for maps in dict.fromkeys(frozen.ARMS[arm].maps for arm in arms):
        write_data(manifest, output / "data" / f"{maps}.csv", maps)
    runs = grid(
        setup,
        arms,
        seeds=config.seeds or (frozen.QUICK_SEEDS if quick else frozen.SEEDS),
        lengths=(1,) if quick else frozen.LENGTHS,
        doses=() if quick or not {"ce", "focus"} <= set(arms) else frozen.DOSES,
    )
    failures = {}
    if not config.report:
        failures = execute(runs, jobs=_jobs(config), logs=output / LOGS)
    outcomes = [outcome(run) for run in runs if is_finished(run)]
    if not outcomes:
        raise InputError(f"No run in {output} is finished: there is nothing to report.")
    missing = list(failures.values())
    if left := len(runs) - len(outcomes) - len(failures):
        missing.append(f"{left} of {len(runs)} runs are not made")
    models = list(dict.fromkeys(each.run.model for each in outcomes))
    analyses = [analyse(outcomes, model, replicates=frozen.REPLICATES) for model in models]
    plots = [SCATTER]
    scatter(outcomes, output / SCATTER)
    for model in models:
        if len(by_dose := doses(outcomes, model)) > 1:
            plots.append(DOSE if len(models) == 1 else f"{model}-{DOSE}")
            dose_response(by_dose, output / plots[-1])
    print(f"\n{write_report(outcomes, analyses, output, missing=missing, plots=plots)}")
    print(f"written: {output}")
    return list(failures.values())


def _jobs(config: ExperimentConfig) -> int:
    import torch

    # Runs that share an accelerator gain nothing.
    default = 1 if torch.accelerator.is_available() else usable_cores() // config.threads
    return config.jobs or max(1, default)


if __name__ == "__main__":
    run(experiment, ExperimentConfig, description=__doc__ or "", prog=PROG)
