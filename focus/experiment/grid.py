"""Say which runs there are: names, configurations and folders. Nothing is trained here."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from focus.config.command_line import train_settings
from focus.config.losses import LOSSES
from focus.config.train import TrainConfig
from focus.errors import InputError, did_you_mean
from focus.experiment.frozen import (
    CHOSEN,
    FOLDS,
    GRID,
    SEARCH,
    Arm,
    Hold,
    Protocol,
    Settings,
)
from focus.runtime.yaml_files import load_yaml


@dataclass(frozen=True)
class Setup:
    """Settings that all runs share.

    output: The experiment's folder.
    base: The configuration of every run.
    train: Settings on top of those that are chosen.
    chosen: The settings of each loss, and of arms.
    worlds: Those of the benchmark; one "" for one's own data.
    protocol: The arms, units and tests.
    """

    output: Path
    base: TrainConfig
    train: Settings
    chosen: Mapping[str, Settings]
    worlds: tuple[str, ...]
    protocol: Protocol = GRID


@dataclass(frozen=True)
class Run:
    """One training: what focus train is told, and the images that it is told of.

    unit: The number of the draw, or the seed on one's own data; draw and seed are the same number.
    images: As of its arm.
    settings: What tells the run from others of its unit, in words.
    hold: As of its arm.
    """

    arm: str
    world: str
    unit: int
    images: str
    settings: str
    config: TrainConfig
    hold: Hold | None = None

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


def arms_of(protocol: Protocol, names: Iterable[str]) -> dict[str, Arm]:
    """Return arms of the protocol by name, all of them without names; or other losses."""
    return {name: protocol.arms.get(name) or Arm(name) for name in names or protocol.arms}


def grid(setup: Setup, arms: Mapping[str, Arm], units: Iterable[int]) -> list[Run]:
    """Return the runs of the arms in their worlds.

    One unit after the other, its worlds side by side, so that an experiment that is cut short has
    whole units; a blind one has one world after the other.
    """
    runs = [
        _run(setup, name, arm, world, unit)
        for unit in units
        for name, arm in arms.items()
        for world in setup.worlds
        if world in (*arm.worlds, "")
    ]
    return sorted(runs, key=lambda r: setup.worlds.index(r.world)) if setup.protocol.blind else runs


def search_runs(setup: Setup, losses: Iterable[str]) -> list[tuple[str, Settings, list[Run]]]:
    """Return each candidate of each loss: the loss, its settings, and a run for each fold."""
    searched, world = replace(setup, output=setup.output / "search"), setup.worlds[0]
    found = list[tuple[str, Settings, list[Run]]]()
    for loss in losses:
        # What is the same in all runs is not searched.
        tried = [{n: v for n, v in each.items() if n not in setup.train} for each in SEARCH[loss]]
        for number, settings in enumerate(s for n, s in enumerate(tried) if s not in tried[:n]):
            arms = {left: Arm(loss, f"left{left}", settings) for _, left in FOLDS}
            runs = [_run(searched, f"{loss}-{number}", arms[n], world, unit) for unit, n in FOLDS]
            found.append((loss, settings, runs))
    return found


def _run(setup: Setup, name: str, arm: Arm, world: str, unit: int) -> Run:
    chosen = setup.chosen.get(arm.loss, {"epochs": setup.chosen["ce"]["epochs"]})
    own = {} if name == arm.loss else setup.chosen.get(name, {})
    settings = {**chosen, **setup.protocol.settings, **arm.settings, **own, **setup.train}
    where = "-".join(filter(None, (world, f"{unit:02d}")))
    config = setup.base.changed(
        **{"mixed_precision": "no", **settings},  # on any device, unless the protocol says so
        data=(str(setup.output / "data" / f"{where}-{arm.images}.csv"),),
        loss=arm.loss,
        seed=unit,
        output=str(setup.output / "runs"),
        name=f"{name}-{where}",
    )
    words = [str(config.recipe), arm.loss, f"{arm.images} images"]
    words += [f"{key} {value}" for key, value in settings.items()]
    if arm.hold:
        words.append(f"{arm.hold.figure} held at {arm.hold.aim:g}")
    return Run(name, world, unit, arm.images, ", ".join(words), config, arm.hold)


def check_arms(arms: Iterable[str], known: Iterable[str] = (*GRID.arms, *LOSSES)) -> None:
    """Raise InputError for a name that is none of ``known``."""
    names = list(dict.fromkeys(known))
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
            name: {**CHOSEN.get(name, {}), **train_settings(settings)}
            for name, settings in chosen.items()
        }
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"--weights {path} cannot be read ({error}): give what a search wrote."
        ) from error
    check_arms(chosen, (*SEARCH, *protocol.arms))
    return {**CHOSEN, **weights}
