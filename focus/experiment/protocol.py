"""What an experiment is: arms that are compared, in which worlds, by which tests, in which runs.

Nothing is trained here, and nothing slow is imported: ``--help`` and the settings of the runs do
without NumPy and torch.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from focus.config.train import TrainConfig

Settings = Mapping[str, Any]
"""Fields of :class:`focus.config.train.TrainConfig`."""

BASELINE = "ce"
"""The arm with which every other one is compared."""
SEEDS = range(10)
"""Seeds on one's own data."""
DRAWS_AT_LEAST = 5
"""Of fewer units, the report gives no verdict."""
MARGIN = 0.02
"""Differences of less are of no use to anybody: the margin of equivalence."""

WORLDS = ("90", "50")
"""Agreement of the shortcut with the label in training, in per cent; it is the background."""
CAST_WORLD = "90-cast"
"""The world whose shortcut is all over the picture, the face included."""
PHOTOGRAPHS = "photographs"
"""The world of photographs, which is none of the benchmark's."""
IMAGES_OF_WORLD: Mapping[str, Settings] = {
    "90": {"agreement": 0.9},
    "50": {"agreement": 0.5},
    CAST_WORLD: {"agreement": 0.9, "shortcut": "cast"},
}
"""What :func:`focus.data.demo.demo_manifest` is told of each world."""
_MINUS = " - "


def between(world: str, other: str) -> str:
    """Return the world of an interaction: a contrast in one world minus that in the other."""
    return f"{world}{_MINUS}{other}"


def worlds_between(world: str) -> list[str]:
    """Return the two worlds of an interaction, or the one that it is."""
    return world.split(_MINUS)


class Hold(NamedTuple):
    """What the loss of an arm holds on top of its settings; see :mod:`focus.experiment.held`.

    figure: "range" or "entropy_z" of the CAM.
    aim: The value at which it is held.
    """

    figure: str
    aim: float


@dataclass(frozen=True)
class Arm:
    """A loss, its images, and settings of its own.

    loss: The loss, as ``--loss``.
    images: The images of the draw, with their "own" human maps; with "shuffled" ones, another
        image's of the same class; with "masks", just where the artefacts are; for the "oracle",
        those and fakes of the unknown generators; "untested", without open and closed-balanced
        test images; "known", without open ones; or "left0" without the first of the known
        generators.
    settings: What differs from the settings that were chosen for the loss.
    worlds: The worlds in which the arm is run.
    hold: What its loss holds, None for one of ``focus train``.
    """

    loss: str
    images: str = "own"
    settings: Settings = field(default_factory=dict)
    worlds: tuple[str, ...] = WORLDS
    hold: Hold | None = None


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of arms, such as one arm minus another.

    name: How it is printed.
    weights: The weight of each arm; they add up to 0.
    """

    name: str
    weights: Mapping[str, float]


def minus(arm: str, other: str) -> Contrast:
    """Return the contrast of one arm minus another."""
    return Contrast(f"`{arm}` - `{other}`", {arm: 1.0, other: -1.0})


@dataclass(frozen=True)
class Test:
    """A contrast in mean open AUC that is tested.

    role: "primary" is tested at .05; all others are one family, with Holm's p-values.
    """

    contrast: Contrast
    world: str
    role: str


@dataclass(frozen=True)
class Protocol:
    """What an experiment runs and tests.

    arms: Its arms by name.
    units: Draws of the embedded benchmark, splits of photographs, or seeds on one's own data.
    tests: The contrasts that are tested, the first of which is the verdict.
    described: Other contrasts, reported in each world without a test.
    worlds: Its worlds.
    folder: The folder of its runs and tables in ``--output``.
    series: Arms in the order of a dose, by the name of their line in the picture. Those of the
        first series have simultaneous intervals against its first arm.
    settings: Settings of all runs, on top of those of the loss.
    blind: Whether a world is reported only when none of its runs is missing.
    note: What was changed after results of the benchmark had been seen, for the report.
    """

    arms: Mapping[str, Arm]
    units: Sequence[int]
    tests: tuple[Test, ...]
    described: tuple[Contrast, ...] = ()
    worlds: tuple[str, ...] = WORLDS
    folder: str = ""
    series: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    settings: Settings = field(default_factory=dict)
    blind: bool = False
    note: str = ""


@dataclass(frozen=True)
class Setup:
    """Settings that all runs of an experiment share.

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
    protocol: Protocol


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
        run_of(setup, name, arm, world, unit)
        for unit in units
        for name, arm in arms.items()
        for world in setup.worlds
        if world in (*arm.worlds, "")
    ]
    if setup.protocol.blind:
        runs.sort(key=lambda run: setup.worlds.index(run.world))
    return runs


def run_of(setup: Setup, name: str, arm: Arm, world: str, unit: int) -> Run:
    """Return the run of an arm, by its name, in a unit of a world."""
    settings = _settings(setup, name, arm)
    unit_name = f"{world}-{unit:02d}" if world else f"{unit:02d}"
    config = setup.base.changed(
        **{"mixed_precision": "no", **settings},  # on any device, unless the protocol says so
        data=(str(setup.output / "data" / f"{unit_name}-{arm.images}.csv"),),
        loss=arm.loss,
        seed=unit,
        output=str(setup.output / "runs"),
        name=f"{name}-{unit_name}",
    )
    words = [str(config.recipe), arm.loss, f"{arm.images} images"]
    words += [f"{setting} {value}" for setting, value in settings.items()]
    if arm.hold:
        words.append(f"{arm.hold.figure} held at {arm.hold.aim:g}")
    return Run(name, world, unit, arm.images, ", ".join(words), config, arm.hold)


def _settings(setup: Setup, name: str, arm: Arm) -> Settings:
    """Return the settings of an arm; what comes later in this list outranks what comes before."""
    of_loss = setup.chosen.get(arm.loss, {"epochs": setup.chosen[BASELINE]["epochs"]})
    of_arm = {} if name == arm.loss else setup.chosen.get(name, {})
    return {**of_loss, **setup.protocol.settings, **arm.settings, **of_arm, **setup.train}
