"""Several runs side by side, from the results and the scores that they left: no model is needed."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from focus.data.known_images import is_run
from focus.data.manifest import REAL, SYNTHETIC
from focus.data.perturbations import STRENGTHS
from focus.errors import InputError, shown
from focus.evaluation import robustness
from focus.evaluation.protocol import UNNAMED, match
from focus.evaluation.result_table import difference_lines, format_table
from focus.evaluation.results import VERSION, Results
from focus.evaluation.scores import Scores
from focus.metrics import auc
from focus.report import page, plots, tables
from focus.runtime.files import check_writable

_MOST_DRAWN, _OF_MANY = 12, 6
"""Generators of a test set whose curves are all drawn, and how many are of more than those."""


@dataclass(frozen=True)
class Scored:
    """What a run folder, or a folder of ``evaluate.py``, says of a model.

    kept: of ``robustness.csv``, empty without one.
    """

    name: str
    scores: Scores
    results: Results
    kept: list[robustness.Kept]


def compare(folders: Sequence[str], output: Path) -> None:
    """Write the report of several runs into ``output`` and print their table.

    folders: run folders, or folders that ``evaluate.py`` wrote, two at least.

    Raises:
        InputError: a folder without results, or what cannot be read; before anything is written.
    """
    check_writable(output)
    places = [Path(folder).resolve() for folder in folders]
    for place, folder in zip(places, folders, strict=True):
        if places.count(place) > 1:
            raise InputError(f"--compare has {folder} twice: give different runs.")
        if place == output.resolve():
            raise InputError(
                f"--output {output} is one of the runs, whose report it would replace: give "
                "another folder."
            )
    runs = [
        _read(name, Path(folder)) for name, folder in zip(_names(folders), folders, strict=True)
    ]
    results = {run.name: run.results for run in runs}
    kept, unmeasured = _mean_kept(runs, folders)
    curves, left_out = _hardest(_curves(runs))
    remarks = [*_differences(runs), *unmeasured, *left_out]
    print(format_table(results), end="\n\n")
    for line in remarks:
        print(line)
    names = list(results)
    drawn = plots.of_runs(curves, names)
    sections = [
        page.Section(f"{kind.upper()} by generator", [p for p in drawn if p.name.startswith(kind)])
        for kind in ("roc", "det")
    ]
    sections.append(page.Section("Robustness", plots.of_runs_robustness(kept, names)))
    path = page.render(
        output,
        title=f"Comparison of {len(runs)} runs",
        facts=[f"{run.name}: {len(run.scores):,} images" for run in runs],
        headline=tables.headline(results),
        remarks=remarks,
        tables=[],
        sections=sections,
        images=None,
    )
    print(f"written: {path}")


def _names(folders: Sequence[str]) -> list[str]:
    """As printed, the folder's name, or its run's; the whole path where two are alike."""
    paths = [Path(folder).absolute() for folder in folders]
    names = [path.parent.name if path.name == "evaluation" else path.name for path in paths]
    return [
        shown(name if names.count(name) == 1 else folder)
        for name, folder in zip(names, folders, strict=True)
    ]


def _read(name: str, folder: Path) -> Scored:
    path = folder / "results.json"
    if not path.is_file():
        if is_run(folder):
            raise InputError(
                f"--compare {folder} is a run that has not ended: wait for it, go on with it by "
                f"--resume, or evaluate the best model so far and give {folder / 'evaluation'}."
            )
        raise InputError(
            f"--compare {folder} has no results.json: give run folders, or folders of evaluate.py."
        )
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if (version := results["version"]) != VERSION:
            raise InputError(
                f"{path} has version {version}, this program reads {VERSION}: evaluate the run "
                "again."
            )
        run = Scored(name, Scores.from_csv(folder / "scores.csv"), results, [])
        # Figures that are none, or are not there, are found here, before a page is begun.
        tables.headline({name: results})
        tables.by_generator(results)
        curves = _curves([run])
        labels = Counter(run.scores.label.tolist())
        counted = {"n_real": labels[REAL], "n_fake": labels[SYNTHETIC], "n_unlabelled": labels[-1]}
        same = all(results[name] == count for name, count in counted.items())
        same &= not any(_differ(auc(c.real, c.fake), c.auc) for [c] in curves.values())
    except (
        *(OSError, ValueError, TypeError, KeyError),
        *(AttributeError, IndexError, OverflowError, RecursionError),
    ) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"--compare {folder} cannot be read ({type(error).__name__}: {error}): evaluate the "
            "run again."
        ) from error
    if not same:
        raise InputError(
            f"--compare {folder} has a scores.csv and a results.json that are not of the same "
            "scores: evaluate the run again."
        )
    return replace(run, kept=_read_kept(folder / robustness.FILES[0], results))


def _read_kept(path: Path, results: Results) -> list[robustness.Kept]:
    """What was kept, if it was measured; refuses that of other scores than the results."""
    if not path.is_file():
        return []
    kept = robustness.read(path)
    for each in kept:
        name = each.generator or UNNAMED
        entry = results.get(each.test_set, {}).get("generators", {}).get(name, {})
        counts = entry.get("n_real"), entry.get("n_fake")
        if counts != (each.n_real, each.n_fake) or _differ(entry.get("auc"), each.clean):
            raise InputError(
                f"{path} is of other scores than results.json beside it ({shown(name)}, "
                f"{each.test_set}): evaluate with --robustness again, or remove it."
            )
    return kept


def _differences(runs: Sequence[Scored]) -> list[str]:
    """Of each run against the first, by DeLong, and what to know of them."""
    first, *others = ((run.name, run.scores, run.results) for run in runs)
    lines, tested = [], 0
    for other in others:
        found = difference_lines(other, first)
        tested += bool(found)
        if not found:
            ours, theirs = other[1].in_order(), first[1].in_order()
            if ours.path.tolist() != theirs.path.tolist():
                why = (
                    "their images are not the same files; give one run's manifest.csv as --data of "
                    "the other"
                )
            elif other[2]["training_generators"] != first[2]["training_generators"]:
                why = "they know other generators, so that their test sets differ"
            elif _differ_in(ours, theirs, "label", "generator", "test_set", "group"):
                why = "their images have other labels, generators, test sets or groups"
            else:
                why = "a class has fewer than two independent images"
            found = [f"{other[0]} - {first[0]}: the difference is not tested, {why}."]
        lines += found
    if tested > 1:
        lines.append(f"The p-values are not adjusted for {tested} runs compared with one.")
    return lines


def _differ_in(one: Scores, other: Scores, *columns: str) -> bool:
    return any((getattr(one, name) != getattr(other, name)).any() for name in columns)


def _differ(found: float | None, kept: float | None) -> bool:
    """By more than the six digits of robustness.csv, or whether there is one."""
    if found is None or kept is None:
        return found is not kept
    return not abs(found - kept) < 1e-5


def _mean_kept(
    runs: Sequence[Scored], folders: Sequence[str]
) -> tuple[dict[str, plots.MeanKept], list[str]]:
    """By test set, what is kept on the generators that all measured runs have; and what is not."""
    said = []
    for run, folder in zip(runs, folders, strict=True):
        within = Path(folder) / "evaluation"
        if not run.kept and (within / robustness.FILES[0]).is_file():
            said.append(f"{run.name}: its robustness is in {within}; give that folder to see it.")
        elif not run.kept and any(other.kept for other in runs):
            said.append(f"{run.name}: robustness was not measured (evaluate.py --robustness).")
    found = {}
    for test_set, title in plots.SET_TITLES.items():
        by_run = {run.name: _by_generator(run.kept, test_set) for run in runs}
        by_run = {run: curves for run, curves in by_run.items() if curves}
        if not by_run:
            continue
        generators = [
            generator
            for generator in next(iter(by_run.values()))
            if all(generator in curves for curves in by_run.values())
        ]
        if not generators:
            said.append(f"Robustness, {title}: the runs have no generator in common.")
            continue
        aucs = {
            (run, name): np.mean([curves[g][name] for g in generators], axis=0).tolist()
            for run, curves in by_run.items()
            for name in STRENGTHS
        }
        found[test_set] = plots.MeanKept([name or UNNAMED for name in generators], aucs)
    return found, said


def _by_generator(
    kept: Sequence[robustness.Kept], test_set: str
) -> dict[str, dict[str, list[float]]]:
    """By generator and perturbation: the AUC without it, then that at each strength."""
    found: dict[str, dict[str, list[float]]] = {}
    for each in kept:
        if each.test_set == test_set and each.auc is not None and each.clean is not None:
            curves = found.setdefault(each.generator, {})
            curves.setdefault(each.perturbation, [each.clean]).append(each.auc)
    return found


def _curves(runs: Sequence[Scored]) -> dict[tuple[str, str], list[plots.Curve]]:
    """By test set and generator: a curve a run that has scored both classes there."""
    found: dict[tuple[str, str], list[plots.Curve]] = {}
    for run in runs:
        for c in match(run.scores, run.results["training_generators"]):
            if len(c.real) and len(c.fake):
                entry = run.results[c.test_set]["generators"][c.generator or UNNAMED]
                real, fake = run.scores.score[c.real], run.scores.score[c.fake]
                curve = plots.Curve(run.name, real, fake, entry["auc"])
                found.setdefault((c.test_set, c.generator), []).append(curve)
    return dict(sorted(found.items()))


def _hardest(
    curves: dict[tuple[str, str], list[plots.Curve]],
) -> tuple[dict[tuple[str, str], list[plots.Curve]], list[str]]:
    """Of each test set with many generators those with the lowest AUC, and a sentence that says so.

    Two figures of each would take a minute, and nobody looks at a hundred.
    """
    kept, said = dict(curves), []
    for test_set, title in plots.SET_TITLES.items():
        aucs = {
            key: float(np.mean([line.auc for line in lines if line.auc is not None] or [1.0]))
            for key, lines in curves.items()
            if key[0] == test_set
        }
        if len(aucs) <= _MOST_DRAWN:
            continue
        for key in sorted(aucs, key=lambda key: aucs[key])[_OF_MANY:]:
            del kept[key]
        said.append(
            f"ROC and DET, {title}: drawn are the {_OF_MANY} of {len(aucs)} generators with the "
            "lowest AUC, the mean of the runs; the table has all."
        )
    return kept, said
