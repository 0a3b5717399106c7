"""Train losses on many draws of a benchmark, several runs at a time; write tables and plots.

Without --data on the embedded benchmark. Resumable: give the same command again.
"""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # the current folder, in which a yaml.py is not meant for this program

import os
from collections.abc import Iterable, Sequence
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
from focus.errors import InputError, did_you_mean
from focus.experiment import frozen
from focus.experiment.protocol import (
    IMAGES_OF_WORLD,
    PHOTOGRAPHS,
    SEEDS,
    Protocol,
    Run,
    Settings,
    Setup,
    arms_of,
    grid,
)
from focus.runtime.machine import usable_cores
from focus.runtime.yaml_files import load_yaml

if TYPE_CHECKING:  # numpy and all: --help does without
    from focus.data.manifest import Manifest
    from focus.experiment.compare import ArmTable
    from focus.experiment.data import Images
    from focus.experiment.photographs import Pictures
    from focus.experiment.records import Outcome, Records

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
    # With these, --search looks for doses or aims and not for weights: its runs are a grid's.
    has_search_of_its_own = config.range or config.place or config.scale or config.photographs
    searches_weights = config.search and not has_search_of_its_own
    check_arms(arms, frozen.SEARCH if searches_weights else (*setup.protocol.arms, *LOSSES))
    # For this process and those it starts, before any of them imports torch: a core for each run.
    os.environ.update(OMP_NUM_THREADS=str(setup.base.threads), OMP_WAIT_POLICY="PASSIVE")
    os.environ.update(OPENBLAS_NUM_THREADS="1")
    failures = (_search if searches_weights else _grid)(setup, config, arms)
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

    output = Path(config.output).absolute()
    check_writable(output)

    train = train_settings(config.train)
    train_recipe = train.pop("recipe", "paper" if config.data else "demo")
    recipe = config.recipe or train_recipe
    decided = train.keys() & {"loss", "name", "seed", *SET_BY_LOSS, *vars(config)}
    if decided:
        raise InputError(f"--train has {min(decided)}, which {PROG} itself decides: leave it out.")
    if recipe != "demo" and not config.recipes:  # another recipe has epochs of its own
        train.setdefault("epochs", resolve(TrainConfig(recipe=recipe)).epochs)
    base = TrainConfig(
        recipe=recipe,
        max_pixels=config.max_pixels,
        threads=config.threads or 1,
        workers=train.pop("workers", 0),
        resume=True,
        report=False,
        report_to=("none",),
        sheet_epochs=0,
        checkpoints_kept=1,
    )

    protocol = _protocol(config, recipe)
    chosen = read_weights(Path(config.weights), protocol) if config.weights else frozen.CHOSEN
    worlds = protocol.worlds[:1] if config.quick else protocol.worlds
    if config.data:
        worlds = ("",)
    return Setup(output / protocol.folder, base, train, chosen, worlds, protocol)


def _protocol(config: ExperimentConfig, recipe: str) -> Protocol:
    """Return what the flags ask for; raises InputError for flags that do not go together.

    recipe: That of the baseline.
    """
    protocol = _protocol_of_question(config, recipe)
    if config.data:
        for name in ("headroom", "place", "scale"):
            if getattr(config, name):
                raise InputError(f"--{name} is of the embedded benchmark: leave --data out.")
        # On one's own data seeds take the place of draws, and the recipe that of the settings.
        units = protocol.units if config.search else SEEDS
        return replace(protocol, units=units, settings={})
    # A number of draws or splits begins with the first, on which a search may not look.
    takes_a_number = protocol is frozen.GRID or (config.photographs and not config.search)
    if (config.seeds or config.quick) and not takes_a_number:
        raise InputError("This experiment has draws of its own: leave --seeds and --quick out.")
    return protocol


def _protocol_of_question(config: ExperimentConfig, recipe: str) -> Protocol:
    """Return the frozen protocol of a question, or that of its search."""
    if config.photographs:
        for name in ("headroom", "range", "recipes", "data"):
            if getattr(config, name):
                raise InputError(f"--photographs is an experiment of its own: leave --{name} out.")
    if config.recipes:
        names = config.recipes.split(",")
        return frozen.recipes_protocol(names, recipe if config.data else None)
    if config.scale:
        return frozen.AIMS if config.search else frozen.SCALE
    if config.photographs:
        from focus.experiment.photographs import FROZEN_NETWORK, LAST_STAGE, SPARE

        if config.search:
            return SPARE
        return LAST_STAGE if config.last_stage else FROZEN_NETWORK
    if config.place:
        return frozen.STRENGTH if config.search else frozen.PLACE
    if config.range:
        return frozen.SPARE_DOSES if config.search else frozen.RANGE
    return frozen.HEADROOM if config.headroom else frozen.GRID


def check_arms(arms: Iterable[str], names: Iterable[str]) -> None:
    """Raise InputError for an arm that is none of these names."""
    names = list(dict.fromkeys(names))
    for arm in arms:
        if arm not in names:
            raise InputError(
                f"--losses got {arm!r}{did_you_mean(arm, names)}: it is one of {', '.join(names)}."
            )


def read_weights(path: Path, protocol: Protocol) -> dict[str, Settings]:
    """Read settings of losses, or of arms of the protocol, from the YAML file of a search.

    What the file has not keeps the frozen ones. Raises InputError for what cannot be read, and for
    an unknown name.
    """
    try:
        chosen = load_yaml(path)
        weights = {
            name: {**frozen.CHOSEN.get(name, {}), **train_settings(settings)}
            for name, settings in chosen.items()
        }
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"--weights {path} cannot be read ({error}): give what a search wrote."
        ) from error
    check_arms(chosen, (*frozen.SEARCH, *protocol.arms))
    return {**frozen.CHOSEN, **weights}


def images(setup: Setup, config: ExperimentConfig) -> "Images":
    """Return a function that gives the images of a unit in a world, with their splits.

    One's own data are the same in each unit, whose splits are those of seed 0.
    """
    if config.data:
        from focus.data.training_set import training_manifest

        shared_names = vars(SharedConfig())
        shared = {name: value for name, value in vars(config).items() if name in shared_names}
        train_config = resolve(setup.base.changed(**{**setup.train, **shared}))
        user_images = training_manifest(train_config)
        return lambda unit, world: user_images
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
        return demo_manifest(draw=unit, **IMAGES_OF_WORLD[world])

    return drawn


def _search(setup: Setup, config: ExperimentConfig, losses: Sequence[str]) -> list[str]:
    """Make each candidate without one known generator, and choose by the AUC on that.

    Returns a sentence for each run that failed.
    """
    from focus.experiment.data import trainable_arms, write_data
    from focus.experiment.run import execute
    from focus.experiment.search import WEIGHTS_FILE, candidates, search_runs, write_search

    images_of = images(setup, config)
    first_unit, _ = frozen.FOLDS[0]
    arms = arms_of(setup.protocol, losses or frozen.SEARCH)
    arms = trainable_arms(setup, images_of(first_unit, setup.worlds[0]), arms)
    groups = search_runs(setup, arms)
    folder = setup.output / "search"
    failures = execute(
        [run for group in groups for run in group.runs],
        jobs=_jobs(config),
        logs=folder / LOGS,
        prepare=partial(write_data, images=images_of),
    )
    tried = candidates(groups, failures)
    if tried:
        print(
            f"\n{write_search(tried, folder)}\n\nwritten: {folder / WEIGHTS_FILE}; commit it as "
            "CHOSEN of focus/experiment/frozen.py before the grid is run, or give it as --weights."
        )
    return list(failures.values())


def _grid(setup: Setup, config: ExperimentConfig, names: Sequence[str]) -> list[str]:
    """Make the runs that are missing, and report the units of which none is missing.

    Returns a sentence for each run that failed.
    """
    from focus.experiment.data import check_trained_on, trainable_arms, write_data
    from focus.experiment.records import RUNS, Records, data_digest, outcome
    from focus.experiment.run import execute, is_finished

    images_of = images(setup, config)
    units = _units(setup, config)
    arms = arms_of(setup.protocol, names)
    digest = ""
    if config.data:
        user_images = images_of(0, "")
        digest = data_digest(user_images)
        arms = trainable_arms(setup, user_images, arms)
    runs = grid(setup, arms, units)
    controls = []
    if config.photographs and not config.search:
        from focus.experiment.photographs import control_outcome, control_runs

        controls = control_runs(setup, units)
    records = Records(setup.output / RUNS, digest)

    def record(finished: Run) -> None:
        if config.data:
            check_trained_on(finished, user_images)
        records.add(outcome(finished))

    for earlier in runs:
        if records.find(earlier) is None and is_finished(earlier):
            record(earlier)
    failures: list[str] = []
    if not config.report:
        failed = execute(
            runs,
            jobs=_jobs(config),
            logs=setup.output / LOGS,
            prepare=partial(write_data, images=images_of),
            finished=lambda run: records.find(run) is not None,
            ended=record,
        )
        failures = list(failed.values())
        for control in controls:
            if records.find(control) is None:
                records.add(control_outcome(control, images_of(control.unit, control.world)))

    planned = runs if config.data else grid(setup, setup.protocol.arms, units)
    outcomes, missing = _whole(setup, records, [*runs, *controls], planned, failures)
    _report(setup, outcomes, missing)
    return failures


def _units(setup: Setup, config: ExperimentConfig) -> Sequence[int]:
    """Return the draws, splits or seeds of which runs are made."""
    if config.seeds:
        return range(config.seeds)
    return frozen.QUICK_DRAWS if config.quick else setup.protocol.units


def _whole(
    setup: Setup,
    records: "Records",
    runs: Sequence[Run],
    planned: Sequence[Run],
    failures: Sequence[str],
) -> "tuple[list[Outcome], list[str]]":
    """Return the outcomes of the units of which no run is missing, and what is missing in words.

    planned: All runs of the protocol, of which a blind one lacks none in a world that is reported.
    failures: What failed, in words, which is missing, too.

    Raises InputError if no unit is whole.
    """
    from focus.experiment.records import whole_units

    missing = list(failures)
    outcomes = {run.name: records.find(run) for run in runs}
    for world in setup.worlds if setup.protocol.blind else ():
        n_missing = sum(run.world == world and records.find(run) is None for run in planned)
        if n_missing:
            where = f" of the world {world}" if world else ""
            missing.append(f"{n_missing} runs{where} are missing: nothing is looked at before")
            runs = [run for run in runs if run.world != world]

    done = {name: outcome for name, outcome in outcomes.items() if outcome is not None}
    whole = whole_units(runs, done)
    cut = {run.unit for run in runs} - whole
    if cut:
        missing.append(f"{len(cut)} of {len(cut) + len(whole)} draws or seeds are not whole")
    if not whole:
        raise InputError(f"Nothing in {setup.output} can be reported: {'; '.join(missing)}.")
    return [done[run.name] for run in runs if run.unit in whole], missing


def _report(setup: Setup, outcomes: Sequence["Outcome"], missing: Sequence[str]) -> None:
    """Write what the outcomes show, and print it; missing: What is missing, in words."""
    from focus.experiment.compare import analyse, table_of, write_tables
    from focus.experiment.report import draw_pictures, write_report
    from focus.experiment.search import DOSES_FILE, choose_doses, write_aims

    output, protocol = setup.output, setup.protocol
    if protocol.folder.endswith("doses"):
        compared = frozen.RANGE
        if protocol.worlds == (PHOTOGRAPHS,):
            from focus.experiment.photographs import FROZEN_NETWORK

            compared = FROZEN_NETWORK
        doses = choose_doses(outcomes, output, protocol, compared)
        print("", *missing, doses, sep="\n")
        print(f"\nwritten: {output / DOSES_FILE}, for --weights")
        return
    if protocol.folder == "aims":
        print("", *missing, write_aims(outcomes, output), f"\nwritten: {output}", sep="\n")
        return

    table = table_of(outcomes)
    comparisons = analyse(table, protocol)
    write_tables(table, comparisons, output)
    text = write_report(
        table,
        comparisons,
        output,
        missing=missing,
        spare=_gate(setup) or table,
        note=protocol.note if setup.worlds != ("",) else "",
        plots=draw_pictures(table, comparisons, protocol, output),
    )
    print(f"\n{text}\nwritten: {output}")


def _gate(setup: Setup) -> "ArmTable":
    """Return the figures of the gate that was run in the same folder, an empty table without."""
    from focus.experiment.compare import table_of
    from focus.experiment.records import RUNS, Records

    gate = replace(setup, protocol=frozen.HEADROOM, train={}, chosen=frozen.CHOSEN)
    shared = setup.output.parent if setup.protocol.folder else setup.output
    records = Records(shared / frozen.HEADROOM.folder / RUNS)
    runs = grid(gate, frozen.HEADROOM.arms, frozen.SPARE)
    with suppress(InputError):  # a gate of other settings says nothing of these
        outcomes = [records.find(run) for run in runs]
        return table_of([outcome for outcome in outcomes if outcome is not None])
    return {}


def _jobs(config: ExperimentConfig) -> int:
    import torch

    # Runs that share an accelerator gain nothing.
    default = 1 if torch.accelerator.is_available() else usable_cores() // (config.threads or 1)
    return config.jobs or max(1, default)


if __name__ == "__main__":
    run(experiment, ExperimentConfig, description=__doc__ or "", prog=PROG)
