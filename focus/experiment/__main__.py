"""Losses by seeds by models, in one table: ``python -m focus.experiment``."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from focus.config.command_line import add_named
from focus.config.flags import check_ranges
from focus.config.train import TrainConfig, loss_config, resolve
from focus.data.arguments import Arguments
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
from focus.runtime.program import leave_checkout, program

PROG = "python -m focus.experiment"


def main(arguments: Sequence[str]) -> int:
    """Run the search or the grid and report it; 1 if a run failed, else 0.

    Raises:
        InputError: something that was given cannot be used.
    """
    given = make_parser().parse_args(arguments)
    arms = given.losses.split(",") if given.losses else None
    setup = _setup(given)
    check_arms(arms or ())
    # For this process and those it starts, before any of them imports torch: a core for each run.
    os.environ.update(OMP_NUM_THREADS=str(setup.threads), OMP_WAIT_POLICY="PASSIVE")
    os.environ.update(OPENBLAS_NUM_THREADS="1")
    return _search(setup, given, arms) if given.search else _grid(setup, given, arms)


def make_parser() -> Arguments:
    """The flags."""
    parser = Arguments(
        PROG,
        "Train losses by seeds by models, several runs at a time, and write one table and plots. "
        "Without --data on the embedded demo faces. Resumable: give the same command again.",
    )
    add = parser.add_argument
    add("--search", action="store_true", help="choose the weights on validation; no test image")
    add("--quick", action="store_true", help=f"{len(frozen.QUICK_ARMS)} losses, "
        f"{frozen.QUICK_SEEDS} seeds, standard epochs, no dose-response")  # fmt: skip
    add("--report", action="store_true", help="train nothing: tables of the runs that are done")
    add("--losses", metavar="NAMES", help=f"separated by commas, of {', '.join(frozen.ARMS)}")
    add("--seeds", type=int, metavar="N", help=f"how many (default: {frozen.SEEDS})")
    add("--epochs", type=int, metavar="N", help="the standard number (default: recipe)")
    add("--weights", metavar="FILE", help="weights.yaml of a search (default: those frozen)")
    add("--recipe", metavar="NAME", help="as train.py's (default: demo without --data, else paper)")
    add("--model", action="append", metavar="NAME", help="as train.py's; may be repeated")
    add("--data", action="append", metavar="PATH", help="as train.py's; may be repeated")
    for name in ("data_root", "heatmaps"):
        add(f"--{name.replace('_', '-')}", metavar="DIR", help="as train.py's")
    for name in ("--test-data", "--test-real"):
        add(name, action="append", default=[], metavar="NAME=PATH", help="as train.py's")
    add("--output", default="experiment", metavar="DIR", help="(default: %(default)s)")
    add("--jobs", type=int, metavar="N", help="runs at a time (default: one a core)")
    add("--threads", type=int, default=1, metavar="N", help="of a run (default: %(default)s)")
    add("--workers", type=int, default=0, metavar="N", help="that load images, of a run "
        "(default: %(default)s)")  # fmt: skip
    return parser


def _setup(given: argparse.Namespace) -> Setup:
    from focus.runtime.files import check_writable  # numpy and all: --help does without

    check_ranges(given)
    for name in ("seeds", "jobs"):
        if (value := getattr(given, name)) is not None and value < 1:
            raise InputError(f"--{name} must be at least 1, got {value}.")
    recipe = given.recipe or ("paper" if given.data else "demo")
    settings = frozen.RECIPE if recipe == "demo" else {}
    weights = frozen.WEIGHTS
    if given.weights:
        chosen, weights = read_weights(Path(given.weights))
        settings = settings if chosen is None else chosen
    check_writable(output := Path(given.output).absolute())
    return Setup(
        output=output,
        recipe=recipe,
        models=tuple(given.model or [resolve(TrainConfig(recipe=recipe)).model]),
        recipe_settings=settings,
        weights=weights,
        epochs=given.epochs,
        threads=given.threads,
        workers=given.workers,
    )


def _images(setup: Setup, given: argparse.Namespace) -> Manifest:
    """All images with their splits, which are those of seed 0 for every run."""
    from focus.data.training_set import training_manifest

    config = TrainConfig(
        data=tuple(given.data or ()),
        data_root=given.data_root,
        heatmaps=given.heatmaps,
        test_data=_named("--test-data", given.test_data),
        test_real=_named("--test-real", given.test_real),
        recipe=setup.recipe,
    )
    return training_manifest(resolve(config))


def _named(flag: str, pairs: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        add_named(found, flag, pair)
    return found


def _search(setup: Setup, given: argparse.Namespace, arms: Sequence[str] | None) -> int:
    """Choose the recipe for cross-entropy, then the weights of the others with that recipe."""
    from focus.experiment.data import without_tests, write_once
    from focus.experiment.run import LOGS, execute
    from focus.experiment.search import candidates, choose, recipe_line, write_search

    folder = setup.output / "search"
    manifest = _images(setup, given)
    data = write_once(without_tests(manifest), folder / "data.csv")
    wanted = _with_maps(setup, manifest, list(arms or frozen.SEARCH))
    check_arms(wanted, frozen.SEARCH)
    space, found, failures = search_space(setup), [], []
    stages = [[arm for arm in wanted if arm == frozen.BASELINE]]
    stages.append([arm for arm in wanted if arm != frozen.BASELINE])
    for stage in filter(None, stages):
        runs = search_runs(setup, stage, data)
        flat = [run for groups in runs.values() for group in groups for run in group]
        failures += execute(flat, jobs=_jobs(given), logs=folder / LOGS, say=_say)
        found += candidates(runs, space, {failure.run.name for failure in failures})
        if frozen.BASELINE in stage and (best := choose(found).get(frozen.BASELINE)):
            _say(recipe_line({frozen.BASELINE: best}))
            setup = replace(setup, recipe_settings=best.settings)
    if found:
        _say(f"\n{write_search(found, folder)}\n\nwritten: {folder / 'weights.yaml'}; commit it as "
             "RECIPE and WEIGHTS of focus/experiment/frozen.py before the grid is run, or give it "
             "as --weights.")  # fmt: skip
    return _failed(failures)


def _grid(setup: Setup, given: argparse.Namespace, arms: Sequence[str] | None) -> int:
    """Make the runs that are missing, and report all."""
    from focus.experiment.collect import outcome
    from focus.experiment.compare import analyse
    from focus.experiment.data import write_data
    from focus.experiment.plots import DOSE, SCATTER, dose_response, scatter
    from focus.experiment.report import doses, write_report
    from focus.experiment.run import LOGS, execute, is_finished

    manifest = _images(setup, given)
    if not _has_closed(manifest):
        _say("no test image is of a known generator, so there will be no closed AUC, and only "
             "unmatched differences: give some as split test, or by --test-data")  # fmt: skip
    quick = given.quick
    chosen = list(arms or (frozen.QUICK_ARMS if quick else frozen.ARMS))
    chosen = _with_maps(setup, manifest, chosen)
    for maps in maps_needed(chosen):
        write_data(manifest, maps, setup.output / "data")
    runs = grid(
        setup,
        chosen,
        seeds=given.seeds or (frozen.QUICK_SEEDS if quick else frozen.SEEDS),
        lengths=(1,) if quick else frozen.LENGTHS,
        doses=() if quick or not {"ce", "focus"} <= set(chosen) else frozen.DOSES,
    )
    failures = []
    if not given.report:
        failures = execute(runs, jobs=_jobs(given), logs=setup.output / LOGS, say=_say)
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
    return _failed(failures)


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


def _jobs(given: argparse.Namespace) -> int:
    import torch

    if given.jobs:
        return int(given.jobs)
    # Runs that share an accelerator gain nothing.
    return 1 if torch.accelerator.is_available() else max(1, usable_cores() // given.threads)


def _failed(failures: Sequence[object]) -> int:
    for failure in failures:
        print(f"{PROG}: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    leave_checkout()
    # The parser does not know this flag of the programs'.
    words = [word for word in sys.argv[1:] if word != "--debug"]
    with program(PROG, debug="--debug" in sys.argv):
        sys.exit(main(words))
