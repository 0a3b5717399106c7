"""Choose weights and epochs by the AUC on a known generator that training left out."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from focus.experiment.collect import read_results
from focus.experiment.frozen import Settings
from focus.experiment.grid import Run
from focus.runtime.files import atomic_write, write_csv


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


def candidates(
    groups: Sequence[tuple[str, Settings, Sequence[Run]]], failed: Collection[str]
) -> list[Candidate]:
    """Return the candidates of :func:`focus.experiment.grid.search_runs` without a failed run."""
    return [
        Candidate(loss, settings, tuple(read_results(r)["open"]["mean"]["auc"] for r in runs))
        for loss, settings, runs in groups
        if not any(run.name in failed for run in runs)
    ]


def write_search(found: Sequence[Candidate], folder: Path) -> str:
    """Write ``search.csv`` and ``weights.yaml``; return the table as text."""
    chosen: dict[str, Candidate] = {}
    for each in sorted(found, key=lambda c: -c.mean):  # of several that are best, the first
        chosen.setdefault(each.loss, each)
    lines = ["| loss | settings | AUC on the generator left out | |", "|---|---|---|---|"]
    rows = []
    for each in found:
        best = each is chosen[each.loss]
        text = ", ".join(f"{name} {value:g}" for name, value in each.settings.items())
        folds = " ".join(f"{auc:.4f}" for auc in each.aucs)
        rows.append((each.loss, text, f"{each.mean:.4f}", int(best), folds))
        cells = f"{each.mean:.3f} ({folds}) | {'chosen' if best else ''}"
        lines.append(f"| `{each.loss}` | {text} | {cells} |")
    header = "loss", "settings", "mean", "chosen", "auc_of_each_fold"
    write_csv(folder / "search.csv", header, rows)
    write_weights({loss: c.settings for loss, c in chosen.items()}, folder / "weights.yaml")
    return "\n".join(lines)


def write_weights(chosen: Mapping[str, Settings], path: Path) -> None:
    """Write the settings of losses or arms as ``--weights`` reads them."""
    with atomic_write(path) as aside:
        aside.write_text(yaml.safe_dump(dict(chosen), sort_keys=False), encoding="utf-8")
