"""Choose weights, doses and aims by what validation and known generators show.

No image of an unknown generator is looked at. A search tries candidates on spare draws, or on one's
own data, and leaves a YAML file that ``--weights`` reads.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from focus.experiment.frozen import AUC_LOST, ENTROPY_SHARES, FOLDS, SEARCH
from focus.experiment.protocol import Arm, Protocol, Run, Settings, Setup, run_of
from focus.experiment.records import Outcome, read_results
from focus.metrics.arrays import Floats
from focus.runtime.csv_files import read_numbers
from focus.runtime.files import atomic_write, write_csv
from focus.training.run_folder import SUMMARY

WEIGHTS_FILE, DOSES_FILE = "weights.yaml", "doses.yaml"
_FIGURES_OF_AIMS = {
    "range": "eval_cam_range",
    "h_z": "eval_entropy_z",
    "h": "eval_entropy",
    "AUC": "eval_auc",
}
"""Columns of ``summary.csv`` by what they are called in the table of aims."""


class CandidateRuns(NamedTuple):
    """Settings of a loss that are tried, and a run for each fold."""

    loss: str
    settings: Settings
    runs: list[Run]


@dataclass(frozen=True)
class Candidate:
    """Settings of a loss, and the AUC on the generator left out of each fold."""

    loss: str
    settings: Settings
    aucs: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Return the mean AUC over the folds."""
        return float(np.mean(self.aucs))


def search_runs(setup: Setup, losses: Iterable[str]) -> list[CandidateRuns]:
    """Return the runs of each candidate of each loss: one for each fold."""
    setup = replace(setup, output=setup.output / "search")
    world = setup.worlds[0]
    groups = []
    for loss in losses:
        for number, settings in enumerate(_candidate_settings(loss, setup.train)):
            name = f"{loss}-{number}"
            runs = [
                run_of(setup, name, Arm(loss, f"left{generator}", settings), world, unit)
                for unit, generator in FOLDS
            ]
            groups.append(CandidateRuns(loss, settings, runs))
    return groups


def _candidate_settings(loss: str, train: Settings) -> list[Settings]:
    """Return the settings of a loss that are tried, each once.

    train: What is the same in all runs, and so is not searched.
    """
    candidates: list[Settings] = []
    for settings in SEARCH[loss]:
        searched = {name: value for name, value in settings.items() if name not in train}
        if searched not in candidates:
            candidates.append(searched)
    return candidates


def candidates(groups: Sequence[CandidateRuns], failed: Collection[str]) -> list[Candidate]:
    """Return the candidates of :func:`search_runs` without a failed run.

    failed: The names of runs.
    """
    whole = []
    for group in groups:
        if any(run.name in failed for run in group.runs):
            continue
        aucs = tuple(read_results(run)["open"]["mean"]["auc"] for run in group.runs)
        whole.append(Candidate(group.loss, group.settings, aucs))
    return whole


def write_search(tried: Sequence[Candidate], folder: Path) -> str:
    """Write ``search.csv`` and ``weights.yaml``; return the table as text."""
    chosen: dict[str, Candidate] = {}
    for candidate in sorted(tried, key=lambda c: -c.mean):  # of several that are best, the first
        chosen.setdefault(candidate.loss, candidate)

    lines = ["| loss | settings | AUC on the generator left out | |", "|---|---|---|---|"]
    rows = []
    for candidate in tried:
        is_chosen = candidate is chosen[candidate.loss]
        settings = ", ".join(f"{name} {value:g}" for name, value in candidate.settings.items())
        folds = " ".join(f"{auc:.4f}" for auc in candidate.aucs)
        rows.append((candidate.loss, settings, f"{candidate.mean:.4f}", int(is_chosen), folds))
        cells = f"{candidate.mean:.3f} ({folds}) | {'chosen' if is_chosen else ''}"
        lines.append(f"| `{candidate.loss}` | {settings} | {cells} |")

    header = "loss", "settings", "mean", "chosen", "auc_of_each_fold"
    write_csv(folder / "search.csv", header, rows)
    weights = {loss: candidate.settings for loss, candidate in chosen.items()}
    _write_weights(weights, folder / WEIGHTS_FILE)
    return "\n".join(lines)


def _write_weights(chosen: Mapping[str, Settings], path: Path) -> None:
    """Write the settings of losses or arms as ``--weights`` reads them."""
    with atomic_write(path) as aside:
        aside.write_text(yaml.safe_dump(dict(chosen), sort_keys=False), encoding="utf-8")


class TriedArm(NamedTuple):
    """An arm of a search for doses: its weight, and its means over the runs on validation."""

    weight: float
    entropy: float
    auc: float


def choose_doses(
    outcomes: Sequence[Outcome], folder: Path, spare: Protocol, compared: Protocol
) -> str:
    """Write ``doses.csv`` and ``doses.yaml``; return what was tried, and the weights that follow.

    spare: The protocol of the outcomes.
    compared: That of the arms whose doses are chosen.

    The AUC is that of closed-balanced images, in which the shortcut says nothing; on one's own
    data, which have none, that of validation. An entropy between those of two weights is
    interpolated, linearly in the logarithm of the weight; below the smallest weight, in the weight.
    One that none reaches takes the largest.
    """
    has_balanced = not any(math.isnan(o.figures["closed_balanced"]) for o in outcomes)
    auc = "closed_balanced" if has_balanced else "validation"
    tried = {
        name: _tried_arm(arm, [o.figures for o in outcomes if o.run.arm == name], auc)
        for name, arm in spare.arms.items()
    }
    rows = [(name, *(f"{value:.4g}" for value in row)) for name, row in tried.items()]
    header = ("arm", "focus_weight", "validation_entropy", f"{auc}_auc")
    write_csv(folder / "doses.csv", header, rows)
    lines = [
        f"| arm | weight | validation entropy | {auc.replace('_', '-')} AUC |",
        "|---|---|---|---|",
    ]
    for name, row in tried.items():
        lines.append(f"| {name} | {row.weight:g} | {row.entropy:.3f} | {row.auc:.3f} |")

    doses = _doses([row for name, row in tried.items() if name != "wide"])
    _write_weights(_settings_of_doses(compared, doses), folder / DOSES_FILE)
    return "\n".join([*lines, "", *(f"{name}: {value:g}" for name, value in doses.items())])


def _tried_arm(arm: Arm, figures_of_runs: Sequence[Mapping[str, float]], auc: str) -> TriedArm:
    """Return the means of an arm over its runs; auc: The name of the figure."""
    return TriedArm(
        weight=arm.settings.get("focus_weight", 0.0),
        entropy=float(np.mean([figures["validation_entropy"] for figures in figures_of_runs])),
        auc=float(np.mean([figures[auc] for figures in figures_of_runs])),
    )


def _doses(tried: Sequence[TriedArm]) -> dict[str, float]:
    """Return the weight of each dose, and as "wide" the entropy without the focus term.

    tried: The arms by their weight, the first of which is 0.
    """
    weights, entropies, aucs = map(np.array, zip(*tried, strict=True))
    doses = {
        dose: np.fmin(reached(weights, entropies, share), weights.max())
        for dose, share in ENTROPY_SHARES.items()
    }
    doses["aggressive"] = weights[aucs >= aucs[0] - AUC_LOST].max()
    doses["wide"] = entropies[0]
    return {dose: float(f"{value:.2g}") for dose, value in doses.items()}


def _settings_of_doses(protocol: Protocol, doses: Mapping[str, float]) -> dict[str, Settings]:
    """Return the settings of the arms that are named after a dose, such as ``saliency-strong``."""
    settings: dict[str, Settings] = {}
    for name, arm in protocol.arms.items():
        dose = name.rpartition("-")[2]
        if dose in doses:
            setting = "entropy_target" if dose == "wide" else "focus_weight"
            settings[name] = {**arm.settings, setting: doses[dose]}
    return settings


def reached(weights: Floats, entropies: Floats, share: float) -> float:
    """Return the weight at which the entropy first falls to a share of the first; NaN if never."""
    target = share * entropies[0]
    after = int(np.argmax(entropies <= target))
    if not after:
        return math.nan
    two = slice(after - 1, after + 1)
    if after == 1:
        return float(np.interp(-target, -entropies[two], weights[two]))
    return float(np.exp(np.interp(-target, -entropies[two], np.log(weights[two]))))


def write_aims(outcomes: Sequence[Outcome], folder: Path) -> str:
    """Write ``aims.csv``, what each run has on validation at its kept epoch; return the means."""
    rows = []
    figures_by_arm: dict[str, list[list[float]]] = {}
    for outcome in outcomes:
        run = outcome.run
        epochs = {row["epoch"]: row for row in read_numbers(run.folder / SUMMARY)}
        kept = epochs[outcome.figures["epoch"]]
        figures = [kept[column] for column in _FIGURES_OF_AIMS.values()]
        figures_by_arm.setdefault(run.arm, []).append(figures)
        numbers = [f"{figure:.6g}" for figure in figures]
        rows.append((run.arm, run.unit, run.settings, outcome.commit, *numbers))
    header = ("arm", "draw", "settings", "commit", *_FIGURES_OF_AIMS)
    write_csv(folder / "aims.csv", header, rows)

    lines = [f"| arm | {' | '.join(_FIGURES_OF_AIMS)} |"]
    lines.append("|---" * (1 + len(_FIGURES_OF_AIMS)) + "|")
    for arm, figures_of_runs in figures_by_arm.items():
        means = np.mean(figures_of_runs, axis=0)
        lines.append(f"| `{arm}` | {' | '.join(f'{mean:.3g}' for mean in means)} |")
    return "\n".join(lines)
