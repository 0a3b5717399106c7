"""Choose weights by the validation AUC, without any test image there to look at."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from focus.errors import InputError
from focus.experiment import frozen
from focus.experiment.grid import Run
from focus.runtime.files import atomic_csv_writer, atomic_write


@dataclass(frozen=True)
class Candidate:
    """Settings of an arm, and the best validation AUC of each seed."""

    arm: str
    settings: frozen.Settings
    aucs: tuple[float, ...]


def validation_auc(run: Run) -> float:
    """Return that of the epoch that was kept.

    Raises InputError if the run scored test images: it must not have had any.
    """
    results = json.loads((run.folder / "results.json").read_text(encoding="utf-8"))
    if tests := results["n_real"] + results["n_synthetic"]:
        raise InputError(
            f"The search run {run.folder} scored {tests} test images: a search must not see any; "
            "give another --output."
        )
    return float(results["model"]["validation_auc"])


def candidates(
    groups: Sequence[tuple[str, frozen.Settings, Sequence[Run]]], failed: Collection[str]
) -> list[Candidate]:
    """Return the candidates of :func:`focus.experiment.grid.search_runs` without a failed run."""
    return [
        Candidate(arm, settings, tuple(map(validation_auc, runs)))
        for arm, settings, runs in groups
        if not any(run.name in failed for run in runs)
    ]


def choose(found: Sequence[Candidate]) -> dict[str, Candidate]:
    """Return the candidate of each arm with the best mean AUC, the first of several."""
    arms = dict.fromkeys(candidate.arm for candidate in found)
    return {
        arm: max((c for c in found if c.arm == arm), key=lambda c: sum(c.aucs) / len(c.aucs))
        for arm in arms
    }


def write_search(found: Sequence[Candidate], folder: Path) -> str:
    """Write ``search.csv`` and ``weights.yaml``; return the table as text."""
    chosen = choose(found)
    lines = ["| loss | settings | validation AUC | lowest | |", "|---|---|---|---|---|"]
    with atomic_csv_writer(folder / "search.csv") as rows:
        rows.writerow(("loss", "settings", "mean", "sd", "lowest", "n", "chosen"))
        for each in found:
            mean, sd, lowest = np.mean(each.aucs), np.std(each.aucs, ddof=1), min(each.aucs)
            text, best = settings_text(each.settings), each is chosen[each.arm]
            rows.writerow((each.arm, text, mean, sd, lowest, len(each.aucs), int(best)))
            cells = f"{mean:.4f} ± {sd:.4f} | {lowest:.4f} | {'chosen' if best else ''}"
            lines.append(f"| `{each.arm}` | {text} | {cells} |")
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
