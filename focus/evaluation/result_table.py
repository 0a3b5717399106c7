"""What a reader is told of results: the table at the end of a program, and remarks beside it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from focus import metrics
from focus.data.generators import warnings
from focus.data.manifest import TEST_SETS
from focus.errors import shown
from focus.evaluation.protocol import UNNAMED, match
from focus.evaluation.results import Results
from focus.evaluation.scores import Scores
from focus.plotting import shortened

UNTOLD = "?"
"""In the table: it cannot be told how far a generator is from training."""
CHANCE = "chance level of that peak"
"""What a peak in a uniformly random cell hits, behind how often the CAM peaks in the artefact."""

_WIDTH, _SHORTEST = 80, 12  # of the table; of a generator's name in it


def remarks(scores: Scores, results: Results | None) -> list[str]:
    """What the reader of a table must know beside it: one line each, none if all is as it seems."""
    if results is None:
        return ["No image has a label: scores only, no results."]
    lines = []
    if unlabelled := int((scores.label < 0).sum()):
        lines.append(f"Images without label: {unlabelled}; they are scored and in no result.")
    for kind, other in (("fake", "real"), ("real", "fake")):
        if results[f"n_{kind}"] == 0:
            lines.append(f"There are no {kind} images, only {other} ones: no AUC is defined.")
            return lines
    for test_set in TEST_SETS:
        for name, figures in results.get(test_set, {}).get("generators", {}).items():
            if figures["auc"] is None:
                whose = f"{shown(name)} has no real images to be told from"
                lines.append(f"{whose}: its AUC is not defined.")
    lines += _generator_warnings(results)
    if results["n_real_unused"]:
        unused = results["n_real_unused"]
        lines.append(f"Real images that no fake is told from: {unused}; they are in no result.")
    return lines


def _generator_warnings(results: Results) -> list[str]:
    tests: dict[tuple[str, str], str] = {
        (test_set, "" if name == UNNAMED else name): figures["family"] or ""
        for test_set in TEST_SETS
        for name, figures in results.get(test_set, {}).get("generators", {}).items()
    }
    return warnings(tests, {name: f or "" for name, f in results["training_families"].items()})


@dataclass(frozen=True)
class Row:
    """A row of the table: what it is called, and where in results.json its figure stands.

    generator, relations: of a row of an unknown generator, whose name stands in the middle.
    """

    label: str
    keys: tuple[str, ...]
    generator: str = ""
    relations: str = ""

    def title(self, short: str = "") -> str:
        """The label with the generator's name, or with ``short`` in its stead."""
        return f"{self.label}{short or self.generator}{self.relations}"


def table_rows(everything: Sequence[Results]) -> list[Row]:
    """The rows of the table at the end of a run, for the results of one model or of several.

    A test set of which none of them has fakes is in no row, unless none has any.
    """
    there = {s for s in TEST_SETS if any(_at(r, (s, "generators")) for r in everything)}
    there = there or {"closed", "open"}
    known = [s for s in ("closed", "closed_balanced") if s in there]
    rows = [_mean_auc(everything, test_set) for test_set in known]
    for name in sorted({name for results in everything for name in results["open"]["generators"]}):
        place = ("open", "generators", name, "auc")
        rows.append(Row("open-set AUC, ", place, name, _relations(everything, name)))
    if "open" in there:
        rows.append(_mean_auc(everything, "open"))
    shares = {results["open"]["pooled"]["prevalence"] for results in everything}
    if len(shares) == 1 and (share := shares.pop()) is not None:
        keys = ("open", "pooled", "average_precision")
        rows.append(Row(f"open-set AP at {share:.0%} fakes", keys))
        if share != 0.5:
            rows.append(Row("open-set AP at 50% fakes", (*keys[:2], f"{keys[2]}_balanced")))
    for test_set in TEST_SETS:
        point = (test_set, "operating_points", "eer")
        # A set without fakes has points, too, of which nothing is defined.
        compared = (r for r in everything if _at(r, (test_set, "generators")))
        if any(_at(results, point) is not None for results in compared):
            for label, rate in (("BPCER", "bpcer"), ("APCER, mean", "apcer_mean")):
                title = f"{label}, {test_set.replace('_', '-')}, at *"
                rows.append(Row(title, (*point, rate)))
    # Pooled, where the AUCs above are means over generators.
    of_cams = {
        "entropy": "CAM entropy, all images",
        "pointing_hit": "peaks in artefact, all fakes",
    }
    chances = [(test_set, "pooled", "pointing_chance") for test_set in ("closed", "open")]
    # Files written before 0.1.0 lack it.
    if any(_at(results, keys) is not None for results in everything for keys in chances):
        of_cams["pointing_chance"] = CHANCE
    for key, label in of_cams.items():
        for test_set in (s for s in ("closed", "open") if s in there):
            rows.append(Row(f"{label}, {test_set}", (test_set, "pooled", key)))
    return rows


def _auc_of(test_set: str) -> str:
    """What the AUC of a test set is called."""
    return "closed-balanced AUC" if test_set == "closed_balanced" else f"{test_set}-set AUC"


def _mean_auc(everything: Sequence[Results], test_set: str) -> Row:
    """The mean over the generators of a test set, whose number is said where it is one."""
    counts = {results[test_set]["n_generators"] for results in everything if test_set in results}
    mean = f"mean of {counts.pop()}" if len(counts) == 1 else "mean"
    return Row(f"{_auc_of(test_set)}, {mean}", (test_set, "mean", "auc"))


AT_POINT = "* the threshold at which both errors are equally frequent on validation images"
UNDEFINED = "- not defined: needs fakes (all), real images (AUC), artefact masks (peaks)"
NO_FAMILY = f"{UNTOLD} near or far cannot be told: no family is known of it, or of one in training"


def format_table(results_by_name: dict[str, Results]) -> str:
    """The table at the end of a run: one row a figure, one column a model, in plain text.

    Of one or two models the figures stand with their 95 % intervals; of more there is no room.
    """
    everything = list(results_by_name.values())
    names = list(shortened(results_by_name, 20).values())
    rows = table_rows(everything)
    cells = [[_cell(results, row.keys, len(names) <= 2) for results in everything] for row in rows]
    columns = zip(*cells, strict=True)
    widths = [max(7, *map(len, (n, *column))) for n, column in zip(names, columns, strict=True)]
    room = _WIDTH - sum(2 + width for width in widths) - len("open-set AUC, ")
    room = max(_SHORTEST, room - max(len(row.relations) for row in rows))
    short = shortened((row.generator for row in rows if row.generator), room)
    labels = [row.title(short.get(row.generator, "")) for row in rows]
    first = max(map(len, labels))
    lines = [
        "  ".join([label.ljust(first), *(c.rjust(w) for c, w in zip(line, widths, strict=True))])
        for label, line in [("", names), *zip(labels, cells, strict=True)]
    ]
    lines.insert(1, "-" * len(lines[1]))
    undefined = any(cell == "-" for line in cells for cell in line)
    return "\n".join([*lines, *footnotes(rows, undefined=undefined)])


def footnotes(rows: Iterable[Row], *, undefined: bool) -> list[str]:
    """What the marks in these rows mean; undefined: whether a cell is not defined."""
    titles = [row.title() for row in rows]
    lines = [AT_POINT] * any("at *" in title for title in titles)
    lines += [UNDEFINED] * undefined
    return lines + [NO_FAMILY] * any(f"({UNTOLD}" in title for title in titles)


def difference_lines(
    first: tuple[str, Scores, Results], second: tuple[str, Scores, Results]
) -> list[str]:
    """What two models differ by on the same images: a line a test set, by DeLong's test.

    Of the mean AUC over the generators, by which detectors compare. Each is a name, scores and
    results. No line where the models scored different images, or the same in other groups, or of a
    test set that is not the same for both, since they know other generators, or that has too few
    images of a generator.
    """
    (name, scores, results), (other, others, others_results) = first, second
    # A table may have been sorted again.
    scores, others = scores.in_order(), others.in_order()
    if [*scores.path, *scores.group] != [*others.path, *others.group]:
        return []
    lines = []
    for test_set in TEST_SETS:
        ours = _rows(test_set, scores, results)
        if ours != _rows(test_set, others, others_results):
            continue
        unit = metrics.units(scores.group, scores.images)
        first_scores, second_scores = (
            [(each.score[r], each.score[f], unit[r], unit[f]) for _, r, f in ours]
            for each in (scores, others)
        )
        found = metrics.mean_auc_difference(first_scores, second_scores)
        if found is not None:
            lines.append(
                f"{_auc_of(test_set)}, mean of {len(ours)}: {name} - {other} = "
                f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}], p = {found.p_value:.2g}"
            )
    return lines


def _rows(
    test_set: str, scores: Scores, results: Results
) -> list[tuple[str, list[int], list[int]]]:
    """Of each generator that has an AUC in a test set: its name, rows of its real images, fakes."""
    return [
        (c.generator, c.real.tolist(), c.fake.tolist())
        for c in match(scores, results["training_generators"])
        if c.test_set == test_set and len(c.real)
    ]


def _relations(everything: Iterable[Results], name: str) -> str:
    """How far an unknown generator is from training; the models may differ in it."""
    figures = [results["open"]["generators"].get(name) for results in everything]
    found = {figure["relation"] or UNTOLD for figure in figures if figure is not None}
    return f" ({'/'.join(sorted(found))})"


def _cell(results: Results, keys: Sequence[str], ranges: bool) -> str:
    """The value, and its interval if there is one: ``0.971 [.960, .980]``."""
    value, interval = figure(results, keys)
    if value is None:
        return "-"
    if interval is None or not ranges:
        return f"{value:.3f}"
    return f"{value:.3f} [{', '.join(f'{end:.3f}'.lstrip('0') for end in interval)}]"


def figure(
    results: Results, keys: Sequence[str]
) -> tuple[float | None, tuple[float, float] | None]:
    """A figure of results.json and its interval; None for what it has not.

    keys: from the outermost to the figure's name.
    """
    *path, last = keys
    # Beside the value, or beside the operating point that it is of.
    interval = _at(results, [*path, "intervals", last])
    interval = interval or _at(results, [*path[:-1], "intervals", path[-1], last])
    return _at(results, keys), None if interval is None else (interval[0], interval[1])


def _at(results: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        results = results.get(key) if isinstance(results, dict) else None
    return results
