"""Which runs there are: names, configurations and folders. Nothing is trained here."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from focus.config.train import TrainConfig, resolve
from focus.errors import InputError, did_you_mean
from focus.experiment import frozen
from focus.experiment.frozen import ARMS, Maps, Settings


@dataclass(frozen=True)
class Setup:
    """What all runs share.

    output: the experiment's folder. recipe: as ``--recipe``. models: as ``--model``.
    recipe_settings: on top of the recipe. weights: of each arm that has its own. epochs: the
    standard number, None for the recipe's. threads, workers: of one run.
    """

    output: Path
    recipe: str
    models: tuple[str, ...]
    recipe_settings: Settings = field(default_factory=dict)
    weights: Mapping[str, Settings] = field(default_factory=lambda: frozen.WEIGHTS)
    epochs: int | None = None
    threads: int = 1
    workers: int = 0

    @property
    def standard_epochs(self) -> int:
        """The recipe's, unless others are given."""
        return (
            self.epochs or resolve(TrainConfig(recipe=self.recipe, **self.recipe_settings)).epochs
        )


@dataclass(frozen=True)
class Run:
    """One training: where its folder is, and what train.py is told.

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
        """The run folder of train.py."""
        return Path(self.config.output) / str(self.config.name)

    @property
    def name(self) -> str:
        """Model and name of the folder."""
        return f"{self.model}/{self.config.name}"


def maps_needed(arms: Iterable[str]) -> list[Maps]:
    """The kinds of human maps that the arms train on, each once."""
    return list(dict.fromkeys(ARMS[arm].maps for arm in arms))


def grid(
    setup: Setup,
    arms: Sequence[str],
    *,
    seeds: int,
    lengths: Sequence[int],
    doses: Sequence[float] = (),
) -> list[Run]:
    """The runs of the arms, of each length and seed, and of the dose-response at standard epochs.

    A point of the dose-response that cross-entropy or ``focus`` gives already is not there twice.
    A seed after the other, so that an experiment that is cut short has whole seeds; of one seed the
    longest first, so that cores end together.

    Raises:
        InputError: an unknown arm.
    """
    check_arms(arms)
    runs = []
    for model in setup.models:
        for seed in range(seeds):
            for arm in arms:
                for length in lengths:
                    dose = _dose_of(setup, arm) if length == 1 else None
                    found = dose if dose in doses else None
                    runs.append(_run(setup, model, arm, length, seed, dose=found))
            have = {run.dose for run in runs if run.seed == seed and run.model == _folder(model)}
            runs += [
                _run(setup, model, "dose", 1, seed, dose=dose) for dose in doses if dose not in have
            ]
    return sorted(runs, key=lambda run: (run.seed, -run.length))


def search_space(setup: Setup) -> dict[str, tuple[Settings, ...]]:
    """The candidates of each arm; cross-entropy's, which are recipes, go round the recipe's own.

    The frozen ones are of the demo recipe: another's optimiser would not know their size.
    """
    space = dict(frozen.SEARCH)
    if setup.recipe != "demo":
        lr = resolve(TrainConfig(recipe=setup.recipe)).lr
        space[frozen.BASELINE] = tuple({"lr": lr * factor} for factor in frozen.LR_FACTORS)
    return space


def search_runs(setup: Setup, arms: Sequence[str], data: Path) -> dict[str, list[list[Run]]]:
    """The search: for each arm its candidates, for each candidate a run a seed.

    data: a manifest without test images.

    Raises:
        InputError: an arm without candidates.
    """
    check_arms(arms, frozen.SEARCH)
    model = setup.models[0]

    def run(arm: str, number: int, candidate: Settings, seed: int) -> Run:
        config = _config(
            setup,
            model,
            arm,
            seed,
            data=data,
            name=f"{arm}-{number}-seed{seed}",
            output=setup.output / "search",
            epochs=setup.standard_epochs,
            settings=candidate,
        )
        return Run(arm, _folder(model), 1, seed, config)

    return {
        arm: [
            [run(arm, number, candidate, seed) for seed in frozen.SEARCH_SEEDS]
            for number, candidate in enumerate(search_space(setup)[arm])
        ]
        for arm in arms
    }


def check_arms(arms: Iterable[str], known: Mapping[str, object] = ARMS) -> None:
    """Raise InputError for a name that is none of ``known``."""
    for arm in arms:
        if arm not in known:
            raise InputError(
                f"--losses got {arm!r}{did_you_mean(arm, known)}: it is one of {', '.join(known)}."
            )


def read_weights(path: Path) -> tuple[Settings | None, dict[str, Settings]]:
    """Recipe settings and weights by arm, from the YAML file that ``--search`` writes.

    They take the place of the frozen ones; an arm that the file has not keeps those. The recipe's
    settings stand under ``ce``: None where a search of some losses left it as it was.

    Raises InputError for what cannot be read, an unknown arm, a setting that the search has not or
    that is no number.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--weights {path} cannot be read ({error}): give a YAML file.") from error
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise InputError(f"--weights {path} must hold a mapping of settings for each loss.")
    check_arms(map(str, content), frozen.SEARCH)
    for arm, settings in content.items():
        known = {name for candidate in frozen.SEARCH[arm] for name in candidate}
        if unknown := sorted(set(map(str, settings)) - known):
            raise InputError(
                f"--weights {path}: {arm} has {unknown[0]!r}{did_you_mean(unknown[0], known)}, "
                f"which is none of {', '.join(sorted(known))}."
            )
        for name, value in settings.items():
            # YAML takes 4e-3, which has no point, for text.
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InputError(
                    f"--weights {path}: {arm} has {name} {value!r}, which is no number: write it "
                    "as 0.004."
                )
    return content.pop(frozen.BASELINE, None), {**frozen.WEIGHTS, **content}


def _run(setup: Setup, model: str, arm: str, length: int, seed: int, dose: float | None) -> Run:
    name, trained = (f"dose-{dose:g}", "focus") if arm == "dose" else (arm, arm)
    settings: Settings = {"focus_weight": dose}
    if arm != "dose":
        settings = setup.weights[ARMS[arm].like or arm]
    epochs = length * setup.standard_epochs
    config = _config(
        setup,
        model,
        trained,
        seed,
        data=setup.output / "data" / f"{ARMS[trained].maps}.csv",
        name=f"{name}-{epochs}ep-seed{seed}",
        output=setup.output / "runs" / _folder(model),
        epochs=epochs,
        settings=settings,
    )
    return Run(arm, _folder(model), length, seed, config, dose)


def _config(
    setup: Setup,
    model: str,
    arm: str,
    seed: int,
    *,
    data: Path,
    name: str,
    output: Path,
    epochs: int,
    settings: Settings,
) -> TrainConfig:
    # What both set, the candidate of a search decides: cross-entropy's are recipes.
    given = {**setup.recipe_settings, **ARMS[arm].settings, **settings}
    return TrainConfig(
        data=(str(data),),
        recipe=setup.recipe,
        model=model,
        loss=ARMS[arm].loss,
        epochs=epochs,
        seed=seed,
        threads=setup.threads,
        workers=setup.workers,
        output=str(output),
        name=name,
        resume=True,
        report=False,
        report_to=("none",),
        sheet_epochs=0,
        checkpoints_kept=1,
        **given,
    )


def _folder(model: str) -> str:
    """A name of timm may hold slashes."""
    return model.replace("/", "_")


def _dose_of(setup: Setup, arm: str) -> float | None:
    if arm == "ce":
        return 0.0
    if arm == "focus":
        weight = setup.weights["focus"].get("focus_weight")
        return None if weight is None else float(weight)
    return None
