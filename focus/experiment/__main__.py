"""Train losses on many draws of a benchmark, several runs at a time; write tables and plots.

Without --data on the embedded benchmark. Resumable: give the same command again.
"""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # the current folder, in which a yaml.py is not meant for this program

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from focus.config.command_line import run, train_settings
from focus.config.experiment import ExperimentConfig
from focus.config.losses import LOSSES, SET_BY_LOSS
from focus.config.shared import SharedConfig
from focus.config.train import TrainConfig, resolve
from focus.errors import InputError
from focus.experiment import frozen
from focus.experiment.grid import Run, Setup, arms_of, check_arms, grid, read_weights, search_runs
from focus.runtime.machine import usable_cores

if TYPE_CHECKING:  # numpy and all: --help does without
    from focus.data.manifest import Manifest
    from focus.experiment.collect import Outcome
    from focus.experiment.data import Images
    from focus.experiment.photographs import Pictures

PROG = "focus experiment"
LOGS = "logs"


def experiment(config: ExperimentConfig) -> None:
    """Run the gate, the search or the grid, and report it.

    Raises:
        InputError: something that was given cannot be used.
        SystemExit: with code 1 if a run failed.
    """
    arms = config.losses.split(",") if config.losses else []
    setup = make_setup(config)
    doses_or_aims = config.range or config.place or config.scale or config.photographs
    searched = config.search and not doses_or_aims
    check_arms(arms, frozen.SEARCH if searched else (*setup.protocol.arms, *LOSSES))
    # For this process and those it starts, before any of them imports torch: a core for each run.
    os.environ.update(OMP_NUM_THREADS=str(setup.base.threads), OMP_WAIT_POLICY="PASSIVE")
    os.environ.update(OPENBLAS_NUM_THREADS="1")
    failures = (_search if searched else _grid)(setup, config, arms)
    for failure in failures:
        print(f"{PROG}: {failure}", file=sys.stderr)
    if failures:
        raise SystemExit(1)


def make_setup(config: ExperimentConfig) -> Setup:
    """Return what all runs share.

    Raises InputError if the folder cannot be written to, the weights not be read, or ``--train``
    has what is not the same in all runs.
    """
    from focus.runtime.files import check_writable

    check_writable(output := Path(config.output).absolute())
    settings = train_settings(config.train)
    given = settings.pop("recipe", "paper" if config.data else "demo")
    recipe = config.recipe or given
    if own := settings.keys() & {"loss", "name", "seed", *SET_BY_LOSS, *vars(config)}:
        raise InputError(f"--train has {min(own)}, which {PROG} itself decides: leave it out.")
    if recipe != "demo" and not config.recipes:  # another recipe has epochs of its own
        settings.setdefault("epochs", resolve(TrainConfig(recipe=recipe)).epochs)
    base = TrainConfig(
        recipe=recipe,
        max_pixels=config.max_pixels,
        threads=config.threads or 1,
        workers=settings.pop("workers", 0),
        resume=True,
        report=False,
        report_to=("none",),
        sheet_epochs=0,
        checkpoints_kept=1,
    )
    protocol = frozen.HEADROOM if config.headroom else frozen.GRID
    if config.range:
        from focus.experiment.doses import RANGE, SPARE_DOSES

        protocol = SPARE_DOSES if config.search else RANGE
    if config.place:
        from focus.experiment.place import PLACE, STRENGTH

        protocol = STRENGTH if config.search else PLACE
    if config.photographs:
        protocol = _photographs_protocol(config)
    if config.scale:
        from focus.experiment.scale import AIMS, SCALE

        protocol = AIMS if config.search else SCALE
    if config.recipes:
        from focus.experiment.baselines import protocol_of

        protocol = protocol_of(config.recipes.split(","), recipe if config.data else None)
    if config.data:
        for name in ("headroom", "place", "scale"):
            if getattr(config, name):
                raise InputError(f"--{name} is of the embedded benchmark: leave --data out.")
        units = protocol.units if config.search else frozen.SEEDS
        protocol = replace(protocol, units=units, settings={})
    elif protocol is not frozen.GRID and not config.photographs and (config.seeds or config.quick):
        raise InputError("This experiment has draws of its own: leave --seeds and --quick out.")
    chosen = read_weights(Path(config.weights), protocol) if config.weights else frozen.CHOSEN
    worlds = ("",) if config.data else protocol.worlds[: 1 if config.quick else None]
    return Setup(output / protocol.folder, base, settings, chosen, worlds, protocol)


def _photographs_protocol(config: ExperimentConfig) -> frozen.Protocol:
    """Return the protocol of ``--photographs``; raises InputError for what does not go with it."""
    from focus.experiment.photographs import FROZEN_NETWORK, LAST_STAGE, SPARE

    for name in ("headroom", "range", "recipes", "data"):
        if getattr(config, name):
            raise InputError(f"--photographs is an experiment of its own: leave --{name} out.")
    if config.search:
        return SPARE
    return LAST_STAGE if config.last_stage else FROZEN_NETWORK


def images(setup: Setup, config: ExperimentConfig) -> "Images":
    """Return a function that gives the images of a unit in a world, with their splits.

    One's own data are the same in each unit, whose splits are those of seed 0.
    """
    if config.data:
        from focus.data.training_set import training_manifest

        given = {n: v for n, v in vars(config).items() if n in vars(SharedConfig())}
        own = training_manifest(resolve(setup.base.changed(**{**setup.train, **given})))
        return lambda unit, world: own
    if config.photographs:
        from focus.experiment.photographs import make_pictures

        @lru_cache
        def pictures() -> "Pictures":
            archive = Path(config.archive) if config.archive else None
            folder = Path(config.output).absolute() / "pictures"
            return make_pictures(folder, archive, config.max_images)

        return lambda unit, world: pictures().of_split(unit)
    from focus.data.demo import demo_manifest

    @lru_cache(maxsize=2)
    def drawn(unit: int, world: str) -> "Manifest":
        return demo_manifest(draw=unit, **frozen.IMAGES_OF_WORLD[world])

    return drawn


def _search(setup: Setup, config: ExperimentConfig, losses: Sequence[str]) -> list[str]:
    """Make each candidate without one known generator, and choose by the AUC on that."""
    from focus.experiment.data import trainable_arms, write_data
    from focus.experiment.run import execute
    from focus.experiment.search import candidates, write_search

    of = images(setup, config)
    first = of(frozen.FOLDS[0][0], setup.worlds[0])
    arms = arms_of(setup.protocol, losses or frozen.SEARCH)
    groups = search_runs(setup, trainable_arms(setup, first, arms))
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


def _grid(setup: Setup, config: ExperimentConfig, names: Sequence[str]) -> list[str]:
    """Make the runs that are missing, and report the units of which none is missing."""
    from focus.experiment.collect import outcome, whole_units
    from focus.experiment.data import check_trained_on, trainable_arms, write_data
    from focus.experiment.records import RUNS, Records, data_digest
    from focus.experiment.run import execute, is_finished

    of = images(setup, config)
    units = frozen.QUICK_DRAWS if config.quick else setup.protocol.units
    units = range(config.seeds) if config.seeds else units
    arms = arms_of(setup.protocol, names)
    data = ""
    if config.data:
        user_images = of(0, "")
        data = data_digest(user_images)
        arms = trainable_arms(setup, user_images, arms)
    runs = grid(setup, arms, units)
    controls = []
    if config.photographs and not config.search:
        from focus.experiment.controls import control_outcome, control_runs

        controls = control_runs(setup, units)
    records = Records(setup.output / RUNS, data)

    def record(finished: Run) -> None:
        if config.data:
            check_trained_on(finished, user_images)
        records.add(outcome(finished))

    for each in runs:
        if records.find(each) is None and is_finished(each):
            record(each)
    failures: list[str] = []
    if not config.report:
        failed = execute(
            runs,
            jobs=_jobs(config),
            logs=setup.output / LOGS,
            prepare=partial(write_data, images=of),
            finished=lambda run: records.find(run) is not None,
            ended=record,
        )
        failures = list(failed.values())
        for control in controls:
            if records.find(control) is None:
                records.add(control_outcome(control, of(control.unit, control.world)))
    runs += controls
    missing = list(failures)
    done = {run.name: found for run in runs if (found := records.find(run))}
    every = runs if config.data else grid(setup, setup.protocol.arms, units)
    for world in setup.worlds if setup.protocol.blind else ():
        if left := sum(run.world == world and records.find(run) is None for run in every):
            where = f" of the world {world}" if world else ""
            missing.append(f"{left} runs{where} are missing: nothing is looked at before")
            runs = [run for run in runs if run.world != world]
    whole = whole_units(runs, done)
    if cut := {run.unit for run in runs} - whole:
        missing.append(f"{len(cut)} of {len(cut) + len(whole)} draws or seeds are not whole")
    if not whole:
        raise InputError(f"Nothing in {setup.output} can be reported: {'; '.join(missing)}.")
    _report(setup, [done[run.name] for run in runs if run.unit in whole], missing)
    return failures


def _report(setup: Setup, outcomes: Sequence["Outcome"], missing: Sequence[str]) -> None:
    from focus.experiment.compare import analyse, table_of
    from focus.experiment.plots import GAIN, RANGE, gain_by_grade, open_auc_by_entropy
    from focus.experiment.records import RUNS, Records
    from focus.experiment.report import write_report, write_tables

    output, protocol = setup.output, setup.protocol
    if protocol.folder.endswith("doses"):
        from focus.experiment.doses import choose_doses

        if protocol.worlds == (frozen.PHOTOGRAPHS,):
            from focus.experiment.photographs import FROZEN_NETWORK, SPARE

            doses = choose_doses(outcomes, output, SPARE, FROZEN_NETWORK)
        else:
            doses = choose_doses(outcomes, output)
        print("", *missing, doses, sep="\n")
        print(f"\nwritten: {output / 'doses.yaml'}, for --weights")
        return
    if protocol.folder == "aims":
        from focus.experiment.scale import table_of_aims

        print("", *missing, table_of_aims(outcomes, output), f"\nwritten: {output}", sep="\n")
        return
    table = table_of(outcomes)
    comparisons = analyse(table, protocol)
    write_tables(table, comparisons, output)
    plots = [GAIN] if gain_by_grade(comparisons, output / GAIN) else []
    plots += [RANGE] if open_auc_by_entropy(table, protocol.series, output / RANGE) else []
    gate = replace(setup, protocol=frozen.HEADROOM, train={}, chosen=frozen.CHOSEN)
    shared = output.parent if protocol.folder else output
    records = Records(shared / frozen.HEADROOM.folder / RUNS)
    runs = grid(gate, frozen.HEADROOM.arms, frozen.SPARE)
    spare = table
    with suppress(InputError):  # a gate of other settings says nothing of these
        spare = table_of([found for run in runs if (found := records.find(run))]) or table
    text = write_report(
        table,
        comparisons,
        output,
        missing=missing,
        spare=spare,
        note=protocol.note if setup.worlds != ("",) else "",
        plots=plots,
    )
    print(f"\n{text}\nwritten: {output}")


def _jobs(config: ExperimentConfig) -> int:
    import torch

    # Runs that share an accelerator gain nothing.
    default = 1 if torch.accelerator.is_available() else usable_cores() // (config.threads or 1)
    return config.jobs or max(1, default)


if __name__ == "__main__":
    run(experiment, ExperimentConfig, description=__doc__ or "", prog=PROG)
