"""Train losses on many draws of a benchmark, several runs at a time; write tables and plots.

Without --data on the embedded benchmark. Resumable: give the same command again.
"""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # the current folder, in which a yaml.py is not meant for this program

import os
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from focus.config.command_line import run
from focus.config.experiment import ExperimentConfig
from focus.config.train import TrainConfig, resolve
from focus.errors import InputError
from focus.experiment import frozen
from focus.experiment.grid import Run, Setup, check_arms, grid, read_weights, search_runs
from focus.runtime.machine import usable_cores

if TYPE_CHECKING:  # numpy and all: --help does without
    from focus.data.manifest import Manifest
    from focus.experiment.data import Images

PROG = "focus experiment"
LOGS = "logs"


def experiment(config: ExperimentConfig) -> None:
    """Run the gate, the search or the grid, and report it.

    Raises:
        InputError: something that was given cannot be used.
        SystemExit: with code 1 if a run failed.
    """
    arms = config.losses.split(",") if config.losses else []
    check_arms(arms, *([frozen.SEARCH] if config.search else []))
    setup = make_setup(config)
    # For this process and those it starts, before any of them imports torch: a core for each run.
    os.environ.update(OMP_NUM_THREADS=str(config.threads), OMP_WAIT_POLICY="PASSIVE")
    os.environ.update(OPENBLAS_NUM_THREADS="1")
    if config.headroom:
        failures = _headroom(setup, config)
    else:
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

    chosen = read_weights(Path(config.weights)) if config.weights else frozen.CHOSEN
    recipe = config.recipe or ("paper" if config.data else "demo")
    if recipe != "demo" and not config.weights:  # another recipe has epochs of its own
        epochs = resolve(TrainConfig(recipe=recipe)).epochs
        chosen = {loss: {**settings, "epochs": epochs} for loss, settings in chosen.items()}
    check_writable(output := Path(config.output).absolute())
    base = TrainConfig(
        recipe=recipe,
        model=config.model,
        threads=config.threads,
        workers=config.workers,
        resume=True,
        report=False,
        report_to=("none",),
        sheet_epochs=0,
        checkpoints_kept=1,
    )
    worlds = ("",) if config.data else frozen.WORLDS[:1] if config.quick else frozen.WORLDS
    return Setup(output, base, config.epochs, chosen, worlds)


def images(config: ExperimentConfig) -> "Images":
    """Return a function that gives the images of a unit in a world, with their splits.

    One's own data are the same in each unit, whose splits are those of seed 0.
    """
    if config.data:
        from focus.data.training_set import training_manifest

        names = ("data", "data_root", "human_maps", "test_data", "test_real")
        given = {name: getattr(config, name) for name in names}
        own = training_manifest(resolve(TrainConfig(recipe=config.recipe, **given)))
        return lambda unit, world: own
    from focus.data.demo import demo_manifest

    @lru_cache(maxsize=2)
    def drawn(unit: int, world: str) -> "Manifest":
        return demo_manifest(draw=unit, agreement=int(world) / 100)

    return drawn


def _headroom(setup: Setup, config: ExperimentConfig) -> list[str]:
    """Measure what can be reached at all, on spare draws."""
    from focus.experiment.headroom import headroom

    return headroom(setup, images(config), jobs=_jobs(config), train=not config.report)


def _search(setup: Setup, config: ExperimentConfig, losses: Sequence[str]) -> list[str]:
    """Make each candidate without one known generator, and choose by the AUC on that."""
    from focus.experiment.data import trainable_arms, write_data
    from focus.experiment.run import execute
    from focus.experiment.search import candidates, write_search

    of = images(config)
    first = of(frozen.FOLDS[0][0], setup.worlds[0])
    groups = search_runs(setup, trainable_arms(setup, first, losses or list(frozen.SEARCH)))
    folder = setup.output / "search"
    failures = execute(
        [run for *_, own in groups for run in own],
        jobs=_jobs(config),
        logs=folder / LOGS,
        prepare=partial(write_data, images=of),
    )
    if found := candidates(groups, failures):
        print(
            f"\n{write_search(found, folder)}\n\nwritten: {folder / 'weights.yaml'}; commit it as "
            "CHOSEN of focus/experiment/frozen.py before the grid is run, or give it as --weights."
        )
    return list(failures.values())


def _grid(setup: Setup, config: ExperimentConfig, arms: Sequence[str]) -> list[str]:
    """Make the runs that are missing, and report the units of which none is missing."""
    from focus.experiment.data import trainable_arms, write_data
    from focus.experiment.run import execute, is_finished

    of = images(config)
    usual = frozen.SEEDS if config.data else frozen.DRAWS
    units = config.seeds or (frozen.QUICK_DRAWS if config.quick else usual)
    wanted = trainable_arms(setup, of(0, setup.worlds[0]), arms or list(frozen.ARMS))
    doses = () if arms or config.quick or config.data else tuple(frozen.DOSES)
    runs = grid(setup, wanted, units=units, doses=doses, dose_units=frozen.DOSE_DRAWS)
    failures: dict[str, str] = {}
    if not config.report:
        prepare = partial(write_data, images=of)
        failures = execute(runs, jobs=_jobs(config), logs=setup.output / LOGS, prepare=prepare)
    _report(setup, runs, [each for each in runs if is_finished(each)], list(failures.values()))
    return list(failures.values())


def _report(setup: Setup, runs: Sequence[Run], finished: Sequence[Run], missing: list[str]) -> None:
    from focus.experiment.collect import outcome, whole_units
    from focus.experiment.compare import analyse, table_of
    from focus.experiment.plots import GAIN, MAPS, gain_by_grade, how_many_maps
    from focus.experiment.report import write_report, write_tables

    output = setup.output
    units = whole_units(runs, finished)
    if not units:
        raise InputError(f"No draw or seed in {output} is whole: there is nothing to report.")
    if left := {run.unit for run in runs} - units:
        missing.append(f"{len(left)} of {len(left) + len(units)} draws or seeds are not whole")
    outcomes = [outcome(run) for run in finished if run.unit in units]
    table = table_of(outcomes)
    comparisons = analyse(table)
    write_tables(outcomes, table, comparisons, output)
    plots = [GAIN] if gain_by_grade(comparisons, output / GAIN) else []
    plots += [MAPS] if how_many_maps(table, output / MAPS) else []
    print(f"\n{write_report(table, comparisons, output, missing=missing, plots=plots)}")
    print(f"written: {output}")


def _jobs(config: ExperimentConfig) -> int:
    import torch

    # Runs that share an accelerator gain nothing.
    default = 1 if torch.accelerator.is_available() else usable_cores() // config.threads
    return config.jobs or max(1, default)


if __name__ == "__main__":
    run(experiment, ExperimentConfig, description=__doc__ or "", prog=PROG)
