"""Say which runs there are: names, configurations and folders. Nothing is trained here."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from focus.config.losses import LOSSES
from focus.config.train import TrainConfig
from focus.errors import InputError, did_you_mean
from focus.experiment import frozen
from focus.experiment.frozen import (
    ARMS,
    CHOSEN,
    DOSES,
    FIXED,
    HEADROOM,
    SEARCH,
    WORLDS,
    Arm,
    Settings,
)


@dataclass(frozen=True)
class Setup:
    """Settings that all runs share.

    output: the experiment's folder. base: of every run. epochs: instead of those that are chosen.
    chosen: settings of each loss. worlds: those of the benchmark, one "" for one's own data.
    """

    output: Path
    base: TrainConfig
    epochs: int | None
    chosen: Mapping[str, Settings]
    worlds: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """One training: what focus train is told, and the images that it is told of.

    unit: the number of the draw, or the seed on one's own data; draw and seed are the same number.
    left: the generator that is left out, counted, of a run of the search.
    """

    arm: str
    world: str
    unit: int
    config: TrainConfig
    maps: str = "own"
    left: int | None = None

    @property
    def folder(self) -> Path:
        """Return the run folder of focus train."""
        return Path(self.config.output) / self.name

    @property
    def name(self) -> str:
        """Return the name of the folder."""
        return str(self.config.name)

    @property
    def data(self) -> Path:
        """Return the manifest that it trains on."""
        return Path(self.config.data[0])


def arm_of(name: str) -> Arm:
    """Return an arm of the experiment, or any other loss of focus train."""
    return ARMS.get(name) or DOSES.get(name) or HEADROOM.get(name) or Arm(name)


def grid(
    setup: Setup, arms: Sequence[str], *, units: int, doses: Iterable[str] = (), dose_units: int = 0
) -> list[Run]:
    """Return the runs of the arms in all worlds, and of the doses in the first world.

    One unit after the other, its worlds side by side, so that an experiment that is cut short has
    whole units.
    """
    return [
        _run(setup, arm, world, unit)
        for unit in range(units)
        for arm in (*arms, *(doses if unit < dose_units else ()))
        for world in (setup.worlds if arm not in DOSES else setup.worlds[:1])
    ]


def headroom_runs(setup: Setup, units: Sequence[int]) -> list[Run]:
    """Return the runs of the gate, of all arms on each spare draw."""
    return [_run(setup, arm, WORLDS[0], unit) for unit in units for arm in HEADROOM]


def search_runs(setup: Setup, losses: Sequence[str]) -> list[tuple[str, Settings, list[Run]]]:
    """Return each candidate of each loss: the loss, its settings, and a run for each fold."""
    searched = replace(setup, output=setup.output / "search")
    return [
        (
            loss,
            settings,
            [
                _run(searched, loss, setup.worlds[0], *fold, settings, number)
                for fold in frozen.FOLDS
            ],
        )
        for loss in losses
        for number, settings in enumerate(SEARCH[loss])
    ]


def _run(
    setup: Setup,
    name: str,
    world: str,
    unit: int,
    left: int | None = None,
    settings: Settings | None = None,
    candidate: int | None = None,
) -> Run:
    arm = arm_of(name)
    if settings is None:
        settings = setup.chosen.get(arm.loss, {"epochs": setup.chosen["ce"]["epochs"]})
        settings = {**settings, **FIXED.get(name, {})}
    kind = arm.maps if left is None else f"left{left}"
    where = "-".join(filter(None, (world, f"{unit:02d}")))
    config = replace(
        setup.base,
        **settings,
        data=(str(setup.output / "data" / f"{where}-{kind}.csv"),),
        loss=arm.loss,
        seed=unit,
        output=str(setup.output / "runs"),
        name=f"{name}-{where}" if candidate is None else f"{name}-{candidate}-{where}-{kind}",
    )
    if setup.epochs is not None:
        config = replace(config, epochs=setup.epochs)
    return Run(name, world, unit, config, arm.maps, left)


def check_arms(arms: Iterable[str], known: Iterable[str] = (*ARMS, *LOSSES)) -> None:
    """Raise InputError for a name that is none of ``known``."""
    names = list(dict.fromkeys(known))
    for arm in arms:
        if arm not in names:
            raise InputError(
                f"--losses got {arm!r}{did_you_mean(arm, names)}: it is one of {', '.join(names)}."
            )


def read_weights(path: Path) -> dict[str, Settings]:
    """Read the settings of each loss from the YAML file that ``--search`` writes.

    A loss that the file has not keeps the frozen ones. Raises InputError for what cannot be read,
    an unknown loss, and a setting that is unknown or no number.
    """
    try:
        # YAML takes 4e-3, which has no point, for text.
        given = {
            loss: {n: int(v) if n == "epochs" else float(v) for n, v in settings.items()}
            for loss, settings in yaml.safe_load(path.read_text(encoding="utf-8")).items()
        }
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise InputError(
            f"--weights {path} cannot be read ({error}): give what a search wrote."
        ) from error
    check_arms(given, SEARCH)
    for loss, settings in given.items():
        known = sorted(SEARCH[loss][0])
        for name in settings.keys() - known:
            raise InputError(
                f"--weights {path}: {loss} has {name!r}{did_you_mean(name, known)}, which is none "
                f"of {', '.join(known)}."
            )
    return {**CHOSEN, **given}
