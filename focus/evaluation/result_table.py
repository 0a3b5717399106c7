"""Show results as the table of a program: a row a figure, a column a model."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from focus.data.manifest import TEST_SETS
from focus.evaluation.protocol import Comparison, compared, match, union
from focus.evaluation.results import Results, figure_at, value_at
from focus.evaluation.scores import Scores, in_common
from focus.metrics.bootstrap import units
from focus.metrics.figures import CHANCE, CONFUSION, DECISION, FIGURE, FIGURES, POINTS, WIDE, Keys
from focus.metrics.intervals import mean_auc_difference
from focus.plotting import shortened
from focus.tables import Cell, Table, aligned

SET_TITLES = {"closed": "closed set", "closed_balanced": "closed-balanced set", "open": "open set"}
UNRELATED = "?"
"""Marks a generator of which it is not known how far it is from training."""
SHOWN_ROWS = 14
"""On a console, where the rest is in the report."""
_PARTS = ("groups", "people")
"""Keys of results.json below which test sets lie, beside those of all images."""
_WIDTH = 80  # of the table
_SHORTEST = 12  # name of a generator in it
_NARROWEST = 7  # column of a model
_AUC = {
    "closed": "closed-set AUC",
    "closed_balanced": "closed-balanced AUC",
    "open": "open-set AUC",
}
_IMAGES = "images"
"""The heading of the numbers of images that a figure is of."""
_NOTES = {
    "at *": "* the threshold that decides",
    _IMAGES: "images: how many real + how many synthetic ones the figure is of",
    "-": "- not defined: needs synthetic images, for the AUC real ones, for peaks masks",
    f"({UNRELATED}": f"{UNRELATED} near or far cannot be told: no family is known of it, or of one "
    "in training",
}


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Args:
        title: Its name.
        keys: Where its figure lies in results.json.
        generator: The unknown generator that the name mentions, if any.
        kept: Whether it is there however few rows there are.
        shown: Whether the results have what it shows.
    """

    title: str
    keys: Keys
    generator: str = ""
    kept: bool = True
    shown: bool = True


def table_rows(everything: Sequence[Results]) -> list[Row]:
    """Return the rows of the table, for the results of one model or of several.

    A test set without fakes in any of the results has no row, unless all of them lack fakes.
    """
    present = [name for name in TEST_SETS if _has(everything, (name, "generators"))]
    present = present or ["closed", "open"]
    rows = []
    for test_set in present:
        rows += _auc_rows(everything, test_set)
    rows += _precision_rows(everything)
    for test_set in present:
        rows += _error_rows(everything, test_set)
    rows += _cam_rows(everything, [name for name in present if name != "closed_balanced"])
    return [row for row in rows if row.shown]


def _has(everything: Sequence[Results], keys: Keys) -> bool:
    """Return whether there is anything at these keys of any of the results, and not zero."""
    return any(value_at(results, keys) for results in everything)


def _is_defined(everything: Sequence[Results], keys: Keys) -> bool:
    return any(value_at(results, keys) is not None for results in everything)


def _auc_rows(everything: Sequence[Results], test_set: str) -> list[Row]:
    """Return the rows of a test set that rank its images."""
    title = _AUC[test_set]
    counts = {results[test_set]["n_generators"] for results in everything if test_set in results}
    mean = f"mean of {counts.pop()}" if len(counts) == 1 else "mean"
    of_people: Keys = ("people", test_set, "mean", "people", "auc")
    of_model: Keys = ("people", test_set, "mean", "model", "auc")
    by_group = _has(everything, ("groups", test_set, "generators"))
    rows = [
        Row(f"{title}, {mean}", (test_set, "mean", "auc")),
        Row("  people, on those they saw", of_people, shown=_is_defined(everything, of_people)),
        Row("  detector, on the same", of_model, shown=_is_defined(everything, of_model)),
        Row(f"{title} by group", ("groups", test_set, "mean", "auc"), shown=by_group),
    ]
    if test_set != "open":
        return rows

    has_fakes = _has(everything, ("open", "generators"))
    eer, tpr = FIGURE["eer"], FIGURE["tpr_at_fpr_0.01"]
    keys_of_tpr: Keys = ("open", "mean", tpr.name)
    return [
        *_generator_rows(everything),
        *rows,
        Row(f"open-set {eer.heading}, mean", ("open", "mean", eer.name), shown=has_fakes),
        Row(
            f"open-set {tpr.heading}, mean",
            keys_of_tpr,
            shown=has_fakes and _is_defined(everything, keys_of_tpr),
        ),
    ]


def _generator_rows(everything: Sequence[Results]) -> list[Row]:
    """Return a row for each unknown generator, the hardest first.

    Models may differ in how far it is from training.
    """
    relations: dict[str, set[str]] = {}
    for results in everything:
        for name, entry in results["open"]["generators"].items():
            relations.setdefault(name, set()).add(entry["relation"] or UNRELATED)
    return [
        Row(
            f"open-set AUC, {name} ({'/'.join(sorted(relations[name]))})",
            ("open", "generators", name, "auc"),
            generator=name,
            kept=False,
        )
        for name in hardest_first(everything, "open")
    ]


def _precision_rows(everything: Sequence[Results]) -> list[Row]:
    """Return the rows of the average precision, if all models have the same share of fakes."""
    shares = {results["open"]["pooled"]["prevalence"] for results in everything}
    share = shares.pop() if len(shares) == 1 else None
    if share is None:
        return []
    pooled: Keys = ("open", "pooled")
    return [
        Row(f"open-set AP at {share:.0%} synthetic", (*pooled, "average_precision"), kept=False),
        Row(
            "open-set AP at 50% synthetic",
            (*pooled, "average_precision_balanced"),
            kept=False,
            shown=round(share, 2) != 0.5,  # else two rows of one name
        ),
    ]


def _error_rows(everything: Sequence[Results], test_set: str) -> list[Row]:
    """Return the rows of the error rates at the threshold that decides."""
    point: Keys = (test_set, POINTS, DECISION)
    # A set without fakes has points, too, of which nothing is defined.
    has_rates = any(
        value_at(results, (test_set, "generators")) and value_at(results, point)
        for results in everything
    )
    rates = (FIGURE["bpcer"], FIGURE["apcer_mean"])
    return [
        Row(
            f"{rate.heading}, {test_set.replace('_', '-')}, at *",
            (*point, rate.name),
            kept=test_set == "open",
            shown=has_rates,
        )
        for rate in rates
    ]


def _cam_rows(everything: Sequence[Results], test_sets: Sequence[str]) -> list[Row]:
    """Return the rows of the CAMs, pooled, where the AUCs are means over generators."""
    with_cams = [
        test_set
        for test_set in test_sets
        if any(
            "entropy" in (value_at(results, (test_set, "pooled")) or ()) for results in everything
        )
    ]
    rows = []
    for figure in FIGURES:
        if not figure.row:
            continue
        is_chance = figure.row == CHANCE
        has_any = any(_has(everything, (test_set, "pooled", figure.name)) for test_set in with_cams)
        rows += [
            Row(
                f"{figure.row}, {test_set}",
                (test_set, "pooled", figure.name),
                kept=test_set == "open" and not is_chance,
                shown=has_any or not is_chance,
            )
            for test_set in with_cams
        ]
    return rows


def hardest_first(everything: Sequence[Results], test_set: str, part: Keys = ()) -> list[str]:
    """Return the generators of a test set by the lowest AUC that a model has on them.

    Those without an AUC are the last. part: Where the test sets lie, as ``("groups",)``.
    """
    lowest: dict[str, float] = {}
    for results in everything:
        for name, entry in (value_at(results, (*part, test_set, "generators")) or {}).items():
            auc = math.inf if entry["auc"] is None else entry["auc"]
            lowest[name] = min(auc, lowest.get(name, math.inf))
    return sorted(lowest, key=lambda name: (lowest[name], name))


def _fewer(rows: list[Row], most: int) -> list[Row]:
    """Return at most ``most`` rows, of the test sets and of the hardest unknown generators."""
    kept = [row for row in rows if row.kept]
    generators = [row for row in rows if row.generator]
    kept += generators[: max(0, most - len(kept))]
    return [row for row in rows if row in kept]


def format_table(results_by_name: Mapping[str, Results], *, most: int | None = None) -> str:
    """Return the table in plain text: a row a figure, its numbers of images, a column a model.

    The figures of one or two models have their 95 % intervals, and below them are the counts of
    right and wrong decisions; for more models there is no room. A table of more than ``most`` rows
    leaves some out, and says so.
    """
    everything = list(results_by_name.values())
    few_models = len(everything) <= 2
    all_rows = table_rows(everything)
    is_cut = most is not None and len(all_rows) > most
    rows = _fewer(all_rows, most) if most is not None and is_cut else all_rows
    cells = [
        [
            Cell(counts_text(everything, row.keys)),
            *(Cell(text_of(results, row.keys, few_models)) for results in everything),
        ]
        for row in rows
    ]

    names = list(shortened(results_by_name, 20 if len(everything) == 1 else 16).values())
    if any("[" in cell.text for cells_of_row in cells for cell in cells_of_row):
        names = [f"{name} [95 % interval]" for name in names]
    columns = [_IMAGES, *(name.rjust(_NARROWEST) for name in names)]
    titles = _fitting(rows, columns, cells)

    notes = []
    n_named = sum(bool(row.generator) for row in rows)
    n_unknown = sum(bool(row.generator) for row in all_rows)
    if n_named < n_unknown:
        notes.append(
            f"the {n_named} hardest of {n_unknown} unknown generators; results.json has all"
        )
    if few_models:
        notes += confusion_lines(results_by_name)
        notes += wide_intervals(everything, [row.keys for row in rows])
    undefined = any(cell.text == "-" for cells_of_row in cells for cell in cells_of_row)
    notes += footnotes(rows, undefined=undefined)
    table = Table("", columns, list(zip(titles, cells, strict=True)), notes)
    return "\n".join(table.lines())


def _fitting(
    rows: Sequence[Row], columns: Sequence[str], cells: Sequence[Sequence[Cell]]
) -> list[str]:
    """Return the titles of the rows, with names of generators short enough for a console."""
    texts = [columns, *([cell.text for cell in cells_of_row] for cells_of_row in cells)]
    width = len(aligned(texts, ">" * len(columns))[0])
    of_generators = [row for row in rows if row.generator]
    longest = max((len(row.title) - len(row.generator) for row in of_generators), default=0)
    room = max(_SHORTEST, _WIDTH - 2 - width - longest)
    short = shortened((row.generator for row in of_generators), room)
    return [
        row.title.replace(row.generator, short[row.generator]) if row.generator else row.title
        for row in rows
    ]


def footnotes(rows: Iterable[Row], *, undefined: bool) -> list[str]:
    """Return what the marks in these rows mean; ``undefined`` says whether a cell has a dash."""
    text = " ".join([_IMAGES, *(row.title for row in rows)])
    return [note for mark, note in _NOTES.items() if (undefined if mark == "-" else mark in text)]


def counts_text(everything: Sequence[Results], keys: Keys) -> str:
    """Return how many real images + how many fakes the figure at ``keys`` is of, as ``40+6``.

    A number is a range where models scored other images, and 0 of a class that the figure is not
    of. It is "" where no results have the numbers. Of figures by group it is ``40+6 groups``.
    """
    texts = []
    for key in FIGURE[keys[-1]].counts:
        counts = [
            value_at(results, (*_counted_at(results, keys), key)) if key else 0
            for results in everything
        ]
        defined = sorted({count for count in counts if count is not None})
        if not defined:
            return ""
        texts.append("-".join(map(str, dict.fromkeys((defined[0], defined[-1])))))
    unit = " groups" if keys[0] == "groups" else ""
    return "+".join(texts) + unit


def _counted_at(results: Results, keys: Keys) -> Keys:
    """Return where in results.json the numbers of images are that the figure at ``keys`` is of."""
    start = 2 if keys[0] in _PARTS else 1
    if keys[start] == "generators":
        return keys[: start + 2]
    test_set, name = keys[:start], keys[-1]
    if (
        keys[start] == "mean"
        and value_at(results, (*test_set, "mean", "n_defined", name)) is not None
    ):
        # The other generators' images have no part in this mean.
        return (*test_set, "mean", "n_defined_images", name)
    return (*test_set, "pooled")


def wide_intervals(everything: Sequence[Results], places: Iterable[Keys]) -> list[str]:
    """Return a sentence on the intervals at these places that are wide, if any is."""
    intervals = [figure_at(results, keys)[1] for keys in places for results in everything]
    defined = [interval for interval in intervals if interval is not None]
    wide = sum(high - low > WIDE for low, high in defined)
    if not wide:
        return []
    which = f"{wide} of {len(defined)} intervals" if len(defined) > 1 else "the interval"
    verb = "are" if wide > 1 else "is"
    return [
        f"Few images, or few groups of images, are the reason why {which} {verb} wider than "
        f"{WIDE:g}."
    ]


def confusion_lines(results_by_name: Mapping[str, Results]) -> list[str]:
    """Return, by test set and model, how many images the deciding threshold is wrong about."""
    names, lines = shortened(results_by_name), []
    for test_set, title in SET_TITLES.items():
        for name, results in results_by_name.items():
            wrong = wrong_decisions(results, (test_set, POINTS, DECISION))
            if wrong:
                whose = f"{names[name]}, " if len(results_by_name) > 1 else ""
                lines.append(f"{whose}{title}, at *: {wrong}")
    return lines


def wrong_decisions(results: Results, point: Keys) -> str:
    """Return how many real images are called synthetic and how many fakes real, "" if unknown."""
    alarms, real = error_count(results, (*point, "bpcer"))
    missed, fakes = error_count(results, (*point, "apcer"))
    if not fakes:
        return ""
    return f"wrong about {alarms} of {real} real, {missed} of {fakes} synthetic"


def error_count(results: Results, rate: Keys) -> tuple[int, int]:
    """Return how many images the error rate at this place is wrong about, and of how many.

    It is (0, 0) in results that an earlier version wrote, which had no counts.
    """
    confusion = value_at(results, (*rate[:-1], "confusion"))
    if confusion is None:
        return 0, 0
    real_right, real_wrong, fake_wrong, fake_right = (confusion[name] for name in CONFUSION)
    if rate[-1] == "bpcer":
        return real_wrong, real_wrong + real_right
    return fake_wrong, fake_wrong + fake_right


Model = tuple[str, Scores, Results]
"""Name of a model, its scores and its results."""


def difference_lines(first: Model, second: Model) -> list[str]:
    """Return a line for each test set: the difference of two models' mean AUC, by DeLong's test.

    For models that scored different images the lines are about the images in common, and say so.
    One line says why a difference is not tested: no image is in common, an image is in different
    groups, the models know different generators, so that their test sets differ, or a class has
    too few images.
    """
    (name, scores, results), (other, others, other_results) = first, second
    untested = f"{name} - {other}: the difference is not tested, "
    if not scores.has_images_of(others):  # a table may have been sorted again
        scores, others = scores.in_order(), others.in_order()
    if differ := not scores.has_images_of(others):
        scores, others = in_common([scores, others])
    if not len(scores) or not np.array_equal(scores.group, others.group):
        return [f"{untested}they scored other images, or the same in other groups."]
    sets = other_sets = _pairs(scores, results)
    if differ or results["training_generators"] != other_results["training_generators"]:
        other_sets = _pairs(others, other_results)
    unit = units(scores.group, scores.images)
    lines = []
    for test_set, pairs in sets.items():
        if not _same_rows(pairs, other_sets.get(test_set, [])):
            continue
        difference = mean_auc_difference(
            compared(pairs, scores.score, unit), compared(pairs, others.score, unit)
        )
        if difference is not None:
            value, low, high, p_value = difference
            count = len(union(rows for c in pairs for rows in (c.real, c.fake)))
            of = f"mean of {len(pairs)}" + f", {count:,} images in common" * differ
            lines.append(
                f"{_AUC[test_set]}, {of}: {name} - {other} = {value:+.3f} "
                f"[{low:+.3f}, {high:+.3f}], p = {p_value:.2g}"
            )
    if differ and lines:
        lines.append(f"--common computes all figures of the images that {name} and {other} share.")
    few = "they know other generators, or a class has fewer than two independent images."
    return lines or [untested + few]


def _pairs(scores: Scores, results: Results) -> dict[str, list[Comparison]]:
    """Return the comparisons with real images, by test set."""
    comparisons: dict[str, list[Comparison]] = {}
    for comparison in match(scores, results["training_generators"]):
        if len(comparison.real):
            comparisons.setdefault(comparison.test_set, []).append(comparison)
    return comparisons


def _same_rows(pairs: Sequence[Comparison], others: Sequence[Comparison]) -> bool:
    """Return whether the comparisons are of the same generators and rows."""
    return len(pairs) == len(others) and all(
        c.generator == other.generator
        and np.array_equal(c.real, other.real)
        and np.array_equal(c.fake, other.fake)
        for c, other in zip(pairs, others, strict=True)
    )


def text_of(results: Results, keys: Keys, with_interval: bool = True) -> str:
    """Return the value, and its interval if there is one: ``0.971 [.960, .980]``."""
    value, interval = figure_at(results, keys)
    if value is None:
        return "-"
    if interval is None or not with_interval:
        return f"{value:.3f}"
    return f"{value:.3f} [{', '.join(f'{end:.3f}'.lstrip('0') for end in interval)}]"
