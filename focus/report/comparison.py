"""Several runs side by side, from the results and the scores that they left: no model is needed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from focus.errors import InputError
from focus.report import page, plots, tables
from focus.result_table import difference_lines, format_table
from focus.results import VERSION, Results, match
from focus.runtime import check_writable
from focus.scores import Scores
from focus.test_sets import UNNAMED


@dataclass(frozen=True)
class Scored:
    """What a run folder, or a folder of ``evaluate.py``, says of a model."""

    name: str
    scores: Scores
    results: Results


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
        Scored(name, *_read(Path(folder)))
        for name, folder in zip(_names(folders), folders, strict=True)
    ]
    results = {run.name: run.results for run in runs}
    differences = _differences(runs)
    print(format_table(results), end="\n\n")
    for line in differences:
        print(line)
    drawn = plots.of_runs(_curves(runs))
    sections = [
        page.Section(f"{kind.upper()} by generator", [p for p in drawn if p.name.startswith(kind)])
        for kind in ("roc", "det")
    ]
    path = page.render(
        output,
        title=f"Comparison of {len(runs)} runs",
        facts=[f"{run.name}: {len(run.scores):,} images" for run in runs],
        headline=tables.headline(results),
        remarks=differences,
        tables=[],
        sections=sections,
        images=None,
    )
    print(f"written: {path}")


def _names(folders: Sequence[str]) -> list[str]:
    """The folder's name, or its run's; the whole path where two are alike."""
    paths = [Path(folder).absolute() for folder in folders]
    names = [path.parent.name if path.name == "evaluation" else path.name for path in paths]
    return [
        name if names.count(name) == 1 else folder
        for name, folder in zip(names, folders, strict=True)
    ]


def _read(folder: Path) -> tuple[Scores, Results]:
    path = folder / "results.json"
    if not path.is_file():
        raise InputError(
            f"--compare {folder} has no results.json: give run folders, or folders of evaluate.py."
        )
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        version = results["version"]
        scores = Scores.from_csv(folder / "scores.csv")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"--compare {folder} cannot be read ({type(error).__name__}: {error}): evaluate the "
            "run anew."
        ) from error
    if version != VERSION:
        raise InputError(
            f"{path} has version {version}, this program reads {VERSION}: evaluate the run anew."
        )
    return scores, results


def _differences(runs: Sequence[Scored]) -> list[str]:
    """Of each run against the first, by DeLong, and what to know of them."""
    first, *others = ((run.name, run.scores, run.results) for run in runs)
    lines, tested = [], 0
    for other in others:
        found = difference_lines(other, first)
        tested += bool(found)
        if not found:
            if other[1].path.tolist() != first[1].path.tolist():
                why = "their images are not the same files"
            elif (other[1].group != "").any():
                why = "images come in groups"
            elif other[2]["training_generators"] != first[2]["training_generators"]:
                why = "they know other generators, so that their test sets differ"
            else:
                why = "a class has fewer than two images"
            found = [f"{other[0]} - {first[0]}: the difference is not tested, {why}."]
        lines += found
    if tested > 1:
        lines.append(f"The p-values are not adjusted for {tested} runs compared with one.")
    return lines


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
