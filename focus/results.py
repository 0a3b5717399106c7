"""From scores to results: which fakes are told from which reals, figures, files and the table.

Every metric is computed once, from the whole table of scores. ``docs/formats.md`` describes the two
files that :func:`write_results` leaves.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focus import metrics
from focus.data.generators import families, home_of, relation, warnings, with_families
from focus.data.manifest import REAL, SYNTHETIC
from focus.scores import Scores
from focus.writing import written_whole

VERSION = 1
UNNAMED = "(unnamed)"
UNTOLD = "?"
"""In the table: it cannot be told how far a generator is from training."""

_WIDTH, _SHORTEST = 80, 12  # of the table; of a generator's name in it

Results = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """The fakes of one generator and the real images that they are told from (row numbers)."""

    test_set: str
    generator: str
    real: NDArray[np.int64]
    fake: NDArray[np.int64]


def match(scores: Scores, training_generators: Iterable[str]) -> list[Comparison]:
    """Which fakes are scored against which real images: one comparison a generator and test set.

    A fake belongs to its test set; without one it is "closed" if training knew its generator, if
    by another of its names, else "open". Its real images are the first of these that there are
    any of: the generator's own in the same test set; those of the same test set that name no
    generator; those given apart, with neither test set nor generator.
    """
    known = list(training_generators)
    given = list(zip(scores.test_set, scores.generator, strict=True))
    homes = {pair: home_of(*pair, known) for pair in set(given)}
    home = np.array([homes[pair] for pair in given], dtype=np.object_)
    real, fake = scores.label == REAL, scores.label == SYNTHETIC
    nameless = real & (scores.generator == "")
    comparisons = []
    for test_set, generator in sorted(set(zip(home[fake], scores.generator[fake], strict=True))):
        candidates = (
            real & (home == test_set) & (scores.generator == generator) & (generator != ""),
            nameless & (scores.test_set == test_set),
            nameless & (scores.test_set == ""),
        )
        chosen = next((rows for rows in candidates if rows.any()), np.zeros(len(scores), bool))
        fakes = fake & (home == test_set) & (scores.generator == generator)
        comparisons.append(
            Comparison(test_set, generator, np.flatnonzero(chosen), np.flatnonzero(fakes))
        )
    return comparisons


def summarise(
    scores: Scores,
    training_generators: Iterable[str],
    training_families: Mapping[str, str] | None = None,
) -> Results:
    """``results.json`` as a dictionary: AUC and focus figures by test set and by generator.

    ``closed`` and ``open`` are always there, ``closed_balanced`` only where a fake belongs to it.
    What the data cannot give is None. training_families: of the training generators; the family of
    one that is missing is that of :mod:`focus.data.families`.
    """
    training_generators = sorted(training_generators)
    known = with_families(training_generators, training_families or {})
    comparisons = match(scores, training_generators)
    results: Results = {
        "version": VERSION,
        "training_generators": training_generators,
        "training_families": {name: family or None for name, family in known.items()},
        "n_real": int((scores.label == REAL).sum()),
        "n_fake": int((scores.label == SYNTHETIC).sum()),
        "n_unlabelled": int((scores.label < 0).sum()),
    }
    results["n_real_unused"] = results["n_real"] - len(_union(c.real for c in comparisons))
    for test_set in ("closed", "closed_balanced", "open"):
        members = [c for c in comparisons if c.test_set == test_set]
        if not members and test_set == "closed_balanced":
            continue
        pooled = _figures(scores, _union(c.real for c in members), _union(c.fake for c in members))
        generators = {
            c.generator or UNNAMED: _kinship(scores, c, known) | _figures(scores, c.real, c.fake)
            for c in members
        }
        if test_set == "open":
            aucs = [g["auc"] for g in generators.values() if g["auc"] is not None]
            head = {
                "auc_mean": metrics.mean(np.array(aucs)),
                "n_generators": len(aucs),
                "auc_pooled": pooled.pop("auc"),
            }
        else:
            head = {}
        results[test_set] = {**head, **pooled, "generators": generators}
    return results


def _kinship(scores: Scores, comparison: Comparison, known: Mapping[str, str]) -> Results:
    """The generator's family and how far it is from training, None where that is not known."""
    name, fake = comparison.generator, comparison.fake
    family = families(zip(scores.generator[fake], scores.family[fake], strict=True))[name]
    return {"family": family or None, "relation": relation(name, family, known)}


def _union(rows: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *rows]))


def _figures(scores: Scores, real: NDArray[np.int64], fake: NDArray[np.int64]) -> Results:
    """The figures of one group of images, under the same names for every group."""
    reals, fakes, both = (scores.select(r) for r in (real, fake, np.concatenate([real, fake])))
    figures: Results = {
        "auc": metrics.auc(reals.score, fakes.score),
        "n_real": len(reals),
        "n_fake": len(fakes),
        "entropy": metrics.mean(both.entropy_predicted),
        "entropy_real": metrics.mean(reals.entropy_predicted),
        "entropy_fake": metrics.mean(fakes.entropy_predicted),
        "entropy_synthetic": metrics.mean(both.entropy_synthetic),
        "entropy_sum": metrics.mean(both.entropy_sum),
        "entropy_z": metrics.mean(both.entropy_z),
        "cam_range": metrics.mean(both.cam_range),
    }
    for name in ("pointing_hit", "pointing_hit_synthetic"):
        hits = getattr(fakes, name)
        figures[name] = metrics.mean(hits[hits >= 0])
    figures["n_pointing"] = int((fakes.pointing_hit >= 0).sum())
    columns = int(both.peak_col.max(initial=0)) + 1
    figures["peak_share"] = metrics.commonest_peak_share(both.peak_row * columns + both.peak_col)
    return figures


def write_results(folder: str | Path, scores: Scores, results: Results | None) -> list[Path]:
    """Writes ``scores.csv`` and ``results.json`` into ``folder``; returns the paths written.

    Each file is written aside and renamed, so that it is there whole or not at all. Without
    results (no image has a label) an earlier ``results.json``, which would be of other scores, is
    removed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "scores.csv"]
    with written_whole(written[0]) as aside:
        scores.to_csv(aside)
    target = folder / "results.json"
    if results is None:
        target.unlink(missing_ok=True)
        return written
    with written_whole(target) as aside:
        aside.write_text(json.dumps(results, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return [target, *written]


def remarks(scores: Scores, results: Results | None) -> list[str]:
    """What the reader of a table must know beside it: one line each, none if all is as it seems."""
    unlabelled = int((scores.label < 0).sum())
    lines = []
    if results is None:
        lines.append(f"None of the {len(scores)} images has a label: scores only, no results.")
    elif unlabelled:
        lines.append(f"Images without label: {unlabelled}; they are scored and in no result.")
    if results is None:
        return lines
    for kind, other in (("fake", "real"), ("real", "fake")):
        if results[f"n_{kind}"] == 0:
            lines.append(f"There are no {kind} images, only {other} ones: no AUC is defined.")
            return lines
    for test_set in ("closed", "closed_balanced", "open"):
        for name, figures in results.get(test_set, {}).get("generators", {}).items():
            if figures["auc"] is None:
                lines.append(f"{name} has no real images to be told from: its AUC is not defined.")
    lines += _generator_warnings(results)
    if results["n_real_unused"]:
        unused = results["n_real_unused"]
        lines.append(f"Real images that no fake is told from: {unused}; they are in no result.")
    return lines


def _generator_warnings(results: Results) -> list[str]:
    tests = {
        (test_set, "" if name == UNNAMED else name): figures["family"] or ""
        for test_set in ("closed", "closed_balanced", "open")
        for name, figures in results.get(test_set, {}).get("generators", {}).items()
    }
    return warnings(tests, {name: f or "" for name, f in results["training_families"].items()})


def format_table(results_by_name: dict[str, Results]) -> str:
    """The table at the end of a run: one row a figure, one column a model, in plain text."""
    everything = list(results_by_name.values())
    names = [_shorten(name, 20) for name in results_by_name]
    widths = [max(7, len(name)) for name in names]
    rows: list[tuple[str, list[str]]] = []

    def add(label: str, *keys: str) -> None:
        rows.append((label, [_cell(results, keys) for results in everything]))

    add("closed-set AUC", "closed", "auc")
    balanced = any("closed_balanced" in results for results in everything)
    if balanced:
        add("closed-balanced AUC", "closed_balanced", "auc")
    unknown = sorted({name for results in everything for name in results["open"]["generators"]})
    room = _WIDTH - sum(2 + width for width in widths) - len("open-set AUC, ")
    for name in unknown:
        relations = _relations(everything, name)
        label = _shorten(name, max(_SHORTEST, room - len(relations))) + relations
        add(f"open-set AUC, {label}", "open", "generators", name, "auc")
    counts = {results["open"].get("n_generators") for results in everything}
    mean = f"mean of {counts.pop()}" if len(counts) == 1 else "mean"
    add(f"open-set AUC, {mean}", "open", "auc_mean")
    for label, key in (("CAM entropy", "entropy"), ("CAM peaks in the artefact", "pointing_hit")):
        for test_set in ("closed", "open"):
            add(f"{label}, {test_set}", test_set, key)

    first = max(len(label) for label, _ in rows)
    lines = [
        "  ".join([label.ljust(first), *(c.rjust(w) for c, w in zip(cells, widths, strict=True))])
        for label, cells in [("", names), *rows]
    ]
    lines.insert(1, "-" * len(lines[1]))
    if any(cell == "-" for _, cells in rows for cell in cells):
        lines.append("- not defined: needs real and synthetic images (AUC), artefact masks (peaks)")
    if any(f"({UNTOLD}" in label for label, _ in rows):
        lines.append(
            f"{UNTOLD} near or far cannot be told: no family is known of it, or of one in training"
        )
    return "\n".join(lines)


def _relations(everything: Iterable[Results], name: str) -> str:
    """How far an unknown generator is from training; the models may differ in it."""
    figures = [results["open"]["generators"].get(name) for results in everything]
    found = {figure["relation"] or UNTOLD for figure in figures if figure is not None}
    return f" ({'/'.join(sorted(found))})"


def _cell(results: Results, keys: Sequence[str]) -> str:
    value: Any = results
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return "-" if value is None else f"{value:.3f}"


def _shorten(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 3] + "..."
