"""Say which runs there are: names, configurations and folders. Nothing is trained here."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from focus.config.train import TrainConfig, resolve
from focus.errors import InputError, did_you_mean
from focus.experiment import frozen
from focus.experiment.frozen import ARMS, Settings


@dataclass(frozen=True)
class Setup:
    """Settings that all runs share.

    output: the experiment's folder. base: of every run. epochs: the standard number. models:
    as ``--model``. weights: of each arm that has its own.
    """

    output: Path
    base: TrainConfig
    epochs: int
    models: tuple[str, ...]
    weights: Mapping[str, Settings]

    def weights_of(self, arm: str) -> Settings:
        """Return the weights of an arm; a control has those of its loss."""
        return self.weights.get(arm, self.weights[ARMS[arm].loss])


@dataclass(frozen=True)
class Run:
    """One training: what train.py is told, and the folder that it makes.

    arm: a name of ``ARMS``, or ``dose`` for a focus weight of the dose-response that no arm has.
    length: multiple of the standard epochs. dose: the focus weight, if the run is a point of the
    dose-response.
    """

    arm: str
    model: str
    length: int
    seed: int
    config: TrainConfig
    dose: float | None = None

    @property
    def folder(self) -> Path:
        """Return the run folder of train.py."""
        return Path(self.config.output) / str(self.config.name)

    @property
    def name(self) -> str:
        """Model and name of the folder."""
        return f"{self.model}/{self.config.name}"


def grid(
    setup: Setup,
    arms: Sequence[str],
    *,
    seeds: int,
    lengths: Sequence[int],
    doses: Sequence[float] = (),
) -> list[Run]:
    """Return the runs of the arms, of each length and seed, and of the dose-response.

    A point of the dose-response that cross-entropy or ``focus`` gives already is not there twice.
    One seed after the other, so that an experiment that is cut short has whole seeds; of one seed
    the longest first, so that cores end together.
    """
    # The points of the dose-response that arms are, at the standard epochs.
    points = {"ce": 0.0, "focus": setup.weights["focus"].get("focus_weight")}
    points = {arm: dose for arm, dose in points.items() if arm in arms and dose in doses}
    cells: list[tuple[str, str, Settings, int, float | None]] = [
        (arm, arm, setup.weights_of(arm), length, points.get(arm) if length == 1 else None)
        for arm in arms
        for length in lengths
    ]
    for weight in doses:
        if weight not in points.values():
            cells.append(("dose", f"dose-{weight:g}", {"focus_weight": weight}, 1, weight))
    runs = []
    for model in setup.models:
        folder = setup.output / "runs" / _plain(model)
        for seed in range(seeds):
            for arm, name, settings, length, dose in cells:
                run = _run(
                    *(setup, model, arm, seed, settings),
                    data=setup.output / "data" / f"{_loss_of(arm).maps}.csv",
                    folder=folder / f"{name}-{length * setup.epochs}ep-seed{seed}",
                    length=length,
                    dose=dose,
                )
                runs.append(run)
    return sorted(runs, key=lambda run: (run.seed, -run.length))


def search_runs(
    setup: Setup, arms: Sequence[str], data: Path
) -> list[tuple[str, Settings, list[Run]]]:
    """Return each candidate of each arm: the arm, its settings, a run for each seed of the search.

    Candidates of cross-entropy are recipes. The frozen ones are of the demo recipe; of another, its
    learning rate is varied. data: a manifest without test images.
    """
    space = dict(frozen.SEARCH)
    if setup.base.recipe != "demo":
        lr = resolve(TrainConfig(recipe=setup.base.recipe)).lr
        space[frozen.BASELINE] = tuple({"lr": lr * factor} for factor in frozen.LR_FACTORS)
    found = []
    for arm in arms:
        for number, settings in enumerate(space[arm]):
            name = setup.output / "search" / f"{arm}-{number}"
            runs = [
                _run(
                    *(setup, setup.models[0], arm, seed, settings),
                    data=data,
                    folder=Path(f"{name}-seed{seed}"),
                )
                for seed in frozen.SEARCH_SEEDS
            ]
            found.append((arm, settings, runs))
    return found


def _run(
    setup: Setup,
    model: str,
    arm: str,
    seed: int,
    settings: Settings,
    *,
    data: Path,
    folder: Path,
    length: int = 1,
    dose: float | None = None,
) -> Run:
    loss = _loss_of(arm)
    config = replace(
        setup.base,
        data=(str(data),),
        model=model,
        loss=loss.loss,
        epochs=length * setup.epochs,
        seed=seed,
        output=str(folder.parent),
        name=folder.name,
        # What both set, the candidate of a search decides: cross-entropy's are recipes.
        **{**loss.settings, **settings},
    )
    return Run(arm, _plain(model), length, seed, config, dose)


def _loss_of(arm: str) -> frozen.Arm:
    return ARMS["focus" if arm == "dose" else arm]


def _plain(model: str) -> str:
    """Return a name for a folder; one of timm may hold slashes."""
    return model.replace("/", "_")


def check_arms(arms: Iterable[str], known: Mapping[str, object]) -> None:
    """Raise InputError for a name that is none of ``known``."""
    for arm in arms:
        if arm not in known:
            raise InputError(
                f"--losses got {arm!r}{did_you_mean(arm, known)}: it is one of {', '.join(known)}."
            )


def read_weights(path: Path) -> tuple[Settings | None, dict[str, Settings]]:
    """Read recipe settings and weights by arm from the YAML file that ``--search`` writes.

    An arm that the file has not keeps the frozen ones. The recipe's settings stand under ``ce``:
    None where a search of some losses left it as it was. Raises InputError for what cannot be read,
    an unknown arm, and a setting that is unknown or no number.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        # YAML takes 4e-3, which has no point, for text.
        given = {
            arm: {name: float(value) for name, value in settings.items()}
            for arm, settings in content.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise InputError(
            f"--weights {path} cannot be read ({error}): give what a search wrote."
        ) from error
    check_arms(given, frozen.SEARCH)
    for arm, settings in given.items():
        known = sorted(frozen.SEARCH[arm][0])
        for name in settings.keys() - known:
            raise InputError(
                f"--weights {path}: {arm} has {name!r}{did_you_mean(name, known)}, which is none "
                f"of {', '.join(known)}."
            )
    return given.pop(frozen.BASELINE, None), {**frozen.WEIGHTS, **given}
