"""Choose weights by the validation AUC, without any test image there to look at."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from focus.errors import InputError
from focus.experiment import frozen
from focus.experiment.collect import read_json
from focus.experiment.grid import Run
from focus.experiment.statistics import t_interval
from focus.runtime.files import atomic_write


@dataclass(frozen=True)
class Candidate:
    """Settings of an arm, and the best validation AUC of each seed."""

    arm: str
    settings: frozen.Settings
    aucs: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return sum(self.aucs) / len(self.aucs)


def validation_auc(run: Run) -> float:
    """Return that of the epoch that was kept.

    Raises InputError if the run scored test images: it must not have had any.
    """
    results = read_json(run.folder / "results.json")
    if tests := results["n_real"] + results["n_fake"]:
        raise InputError(
            f"The search run {run.folder} scored {tests} test images: a search must not see any; "
            "give another --output."
        )
    return float(results["model"]["validation_auc"])


def candidates(
    runs: Mapping[str, Sequence[Sequence[Run]]],
    space: Mapping[str, Sequence[frozen.Settings]],
    failed: set[str],
) -> list[Candidate]:
    """Return all candidates of which no run failed, in the order of the search space."""
    return [
        Candidate(arm, settings, tuple(validation_auc(run) for run in group))
        for arm, groups in runs.items()
        for settings, group in zip(space[arm], groups, strict=True)
        if not failed & {run.name for run in group}
    ]


def choose(found: Sequence[Candidate]) -> dict[str, Candidate]:
    """Return the candidate of each arm with the best mean, the first of several."""
    chosen: dict[str, Candidate] = {}
    for candidate in found:
        if candidate.mean > chosen.setdefault(candidate.arm, candidate).mean:
            chosen[candidate.arm] = candidate
    return chosen


def write_search(found: Sequence[Candidate], folder: Path) -> str:
    """Write ``search.csv`` and ``weights.yaml``; return the table as text."""
    chosen = choose(found)
    lines = ["| loss | settings | validation AUC | lowest | |", "|---|---|---|---|---|"]
    with atomic_write(folder / "search.csv") as aside, aside.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("loss", "settings", "mean", "sd", "lowest", "n", "chosen"))
        for each in found:
            seeds, lowest, best = t_interval(each.aucs), min(each.aucs), chosen[each.arm] is each
            text = settings_text(each.settings)
            rows.writerow((each.arm, text, seeds.mean, seeds.sd, lowest, seeds.n, int(best)))
            lines.append(
                f"| `{each.arm}` | {text} | {seeds.mean:.4f} ± {seeds.sd:.4f} | {lowest:.4f} "
                f"| {'chosen' if best else ''} |"
            )
    weights = {arm: dict(c.settings) for arm, c in chosen.items()}
    with atomic_write(folder / "weights.yaml") as aside:
        aside.write_text(yaml.safe_dump(weights, sort_keys=False), encoding="utf-8")
    if frozen.BASELINE in chosen:
        lines += ["", recipe_line(chosen[frozen.BASELINE])]
    return "\n".join(lines)


def recipe_line(recipe: Candidate) -> str:
    """Say whether cross-entropy is trained well enough by its recipe for a fair comparison."""
    lowest, least = min(recipe.aucs), frozen.CLOSED_AUC_AT_LEAST
    verdict = "reaches" if lowest >= least else "DOES NOT REACH"
    return (
        f"Cross-entropy {verdict} {least} on each seed (lowest {lowest:.4f}) with the recipe "
        f"{settings_text(recipe.settings)}."
    )


def settings_text(settings: frozen.Settings) -> str:
    """Return ``focus_weight 0.1, saliency_weight 5``; "-" where there are none."""
    return ", ".join(f"{name} {value:g}" for name, value in settings.items()) or "-"
