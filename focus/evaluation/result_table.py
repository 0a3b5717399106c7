"""Put results into words: the table of a program, error rates, differences of models."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from focus.data.manifest import TEST_SETS
from focus.evaluation.protocol import Comparison, compared, match, union
from focus.evaluation.results import Results
from focus.evaluation.scores import Scores, in_common
from focus.metrics.bootstrap import units
from focus.metrics.figures import CHANCE, CONFUSION, DECISION, FIGURE, FIGURES, POINTS, WIDE, Keys
from focus.metrics.intervals import mean_auc_difference
from focus.plotting import shortened

SET_TITLES = {"closed": "closed set", "closed_balanced": "closed-balanced set", "open": "open set"}
UNRELATED = "?"
"""Marks a generator of which it is not known how far it is from training."""
SHOWN_ROWS = 14
"""On a console, where the rest is in the report."""
_PARTS = ("groups", "people")
"""Keys of results.json below which test sets lie, beside those of all images."""
_WIDTH, _SHORTEST = 80, 12  # of the table; of a generator's name in it
_NARROWEST = 7  # column of a model
_AUC = {
    "closed": "closed-set AUC",
    "closed_balanced": "closed-balanced AUC",
    "open": "open-set AUC",
}
_ON_PEOPLES = {"people": "  people, on those they saw", "model": "  detector, on the same"}
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
    """

    title: str
    keys: Keys
    generator: str = ""
    kept: bool = True


def table_rows(everything: Sequence[Results]) -> list[Row]:
    """Return the rows of the table, for the results of one model or of several.

    A test set without fakes in any of the results has no row, unless all of them lack fakes.
    """
    present = [s for s in TEST_SETS if any(at(r, (s, "generators")) for r in everything)]
    present = present or ["closed", "open"]
    rows = []
    for test_set in present:
        if test_set == "open":
            rows += _generator_rows(everything)
        counts = {r[test_set]["n_generators"] for r in everything if test_set in r}
        mean = f"mean of {counts.pop()}" if len(counts) == 1 else "mean"
        rows.append(Row(f"{_AUC[test_set]}, {mean}", (test_set, "mean", "auc")))
        for who, words in _ON_PEOPLES.items():
            keys: Keys = ("people", test_set, "mean", who, "auc")
            if any(at(r, keys) is not None for r in everything):
                rows.append(Row(words, keys))
        if any(at(r, ("groups", test_set, "generators")) for r in everything):
            rows.append(Row(f"{_AUC[test_set]} by group", ("groups", test_set, "mean", "auc")))
        if test_set == "open" and any(at(r, ("open", "generators")) for r in everything):
            for own in (FIGURE["eer"], FIGURE["tpr_at_fpr_0.01"]):
                keys = "open", "mean", own.name
                if not own.reals or any(at(r, keys) is not None for r in everything):
                    rows.append(Row(f"open-set {own.heading}, mean", keys))
    shares = {results["open"]["pooled"]["prevalence"] for results in everything}
    if len(shares) == 1 and (share := shares.pop()) is not None:
        keys = ("open", "pooled", "average_precision")
        rows.append(Row(f"open-set AP at {share:.0%} synthetic", keys, kept=False))
        if round(share, 2) != 0.5:  # else two rows of one name
            keys = ("open", "pooled", "average_precision_balanced")
            rows.append(Row("open-set AP at 50% synthetic", keys, kept=False))
    for test_set in present:
        point = (test_set, POINTS, DECISION)
        # A set without fakes has points, too, of which nothing is defined.
        if any(at(r, (test_set, "generators")) and at(r, point) for r in everything):
            for own in (FIGURE["bpcer"], FIGURE["apcer_mean"]):
                title = f"{own.heading}, {test_set.replace('_', '-')}, at *"
                rows.append(Row(title, (*point, own.name), kept=test_set == "open"))
    # Pooled, where the AUCs above are means over generators.
    pooled = [(test_set, "pooled") for test_set in present if test_set != "closed_balanced"]
    pooled = [p for p in pooled if any("entropy" in (at(r, p) or ()) for r in everything)]
    for each in (figure for figure in FIGURES if figure.row):
        chance = each.row == CHANCE
        if not chance or any(at(r, (*place, each.name)) for r in everything for place in pooled):
            rows += [
                Row(f"{each.row}, {p[0]}", (*p, each.name), kept=p[0] == "open" and not chance)
                for p in pooled
            ]
    return rows


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
            name,
            kept=False,
        )
        for name in hardest_first(everything, "open")
    ]


def hardest_first(everything: Sequence[Results], test_set: str, part: Keys = ()) -> list[str]:
    """Return the generators of a test set by the lowest AUC that a model has on them.

    Those without an AUC are the last. part: Where the test sets lie, as ``("groups",)``.
    """
    lowest: dict[str, float] = {}
    for results in everything:
        for name, entry in (at(results, (*part, test_set, "generators")) or {}).items():
            auc = math.inf if entry["auc"] is None else entry["auc"]
            lowest[name] = min(auc, lowest.get(name, math.inf))
    return sorted(lowest, key=lambda name: (lowest[name], name))


def _fewer(rows: list[Row], most: int) -> list[Row]:
    """Return at most ``most`` rows, of the test sets and of the hardest unknown generators."""
    kept = [row for row in rows if row.kept]
    generators = [row for row in rows if row.generator]
    kept += generators[: max(0, most - len(kept))]
    return [row for row in rows if row in kept]


def aligned(rows: Sequence[tuple[str, Sequence[str]]], widths: Sequence[int]) -> list[str]:
    """Return the lines of a table of a label and cells a row, with a rule below its first row."""
    first = max(len(label) for label, _ in rows)
    lines = [
        "  ".join([label.ljust(first), *(c.rjust(w) for c, w in zip(cells, widths, strict=True))])
        for label, cells in rows
    ]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def format_table(results_by_name: Mapping[str, Results], *, most: int | None = None) -> str:
    """Return the table in plain text: a row a figure, its numbers of images, a column a model.

    The figures of one or two models have their 95 % intervals, and below them are the counts of
    right and wrong decisions; for more models there is no room. A table of more than ``most`` rows
    leaves some out, and says so.
    """
    everything = list(results_by_name.values())
    few_models = len(everything) <= 2
    names = list(shortened(results_by_name, 20 if len(everything) == 1 else 16).values())
    every = table_rows(everything)
    rows = every if most is None or len(every) <= most else _fewer(every, most)
    cells = [
        [counts_text(everything, row.keys)]
        + [text_of(results, row.keys, few_models) for results in everything]
        for row in rows
    ]
    if any("[" in cell for line in cells for cell in line):
        names = [f"{name} [95 % interval]" for name in names]
    heads = [_IMAGES, *names]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    widths[1:] = [max(_NARROWEST, width) for width in widths[1:]]
    others = max((len(r.title) - len(r.generator) for r in rows if r.generator), default=0)
    room = max(_SHORTEST, _WIDTH - sum(2 + width for width in widths) - others)
    short = shortened((row.generator for row in rows if row.generator), room)
    labels = [row.title.replace(row.generator, short.get(row.generator, "")) for row in rows]
    lines = aligned([("", heads), *zip(labels, cells, strict=True)], widths)
    undefined = any(cell == "-" for line in cells for cell in line)
    named, unknown = (sum(bool(row.generator) for row in part) for part in (rows, every))
    if named < unknown:
        lines.append(f"the {named} hardest of {unknown} unknown generators; results.json has all")
    if few_models:
        lines += confusion_lines(results_by_name)
        lines += wide_intervals(everything, [row.keys for row in rows])
    return "\n".join([*lines, *footnotes(rows, undefined=undefined)])


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
            at(results, (*_counted_at(results, keys), key)) if key else 0 for results in everything
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
    if keys[start] == "mean" and at(results, (*test_set, "mean", "n_defined", name)) is not None:
        # The other generators' images have no part in this mean.
        return (*test_set, "mean", "n_defined_images", name)
    return (*test_set, "pooled")


def wide_intervals(everything: Sequence[Results], places: Iterable[Keys]) -> list[str]:
    """Return a sentence on the intervals at these places that are wide, if any is."""
    intervals = [figure(results, keys)[1] for keys in places for results in everything]
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
    confusion = at(results, (*rate[:-1], "confusion"))
    if confusion is None:
        return 0, 0
    real_right, real_wrong, fake_wrong, fake_right = (confusion[name] for name in CONFUSION)
    if rate[-1] == "bpcer":
        return real_wrong, real_wrong + real_right
    return fake_wrong, fake_wrong + fake_right


class ErrorRate(NamedTuple):
    """How many of 100 faces the deciding threshold is wrong about, as words around a count.

    ``interval`` is that of the number in words, ``images`` how many were wrong of how many.
    """

    faces: str
    number: str
    what: str
    interval: str
    images: str
    rate: float

    def __str__(self) -> str:
        """Return the sentence."""
        details = ", ".join(text for text in (self.interval, self.images) if text)
        return f"{self.faces} {self.number} {self.what}{details and f' ({details})'}."


def errors_in_words(results: Results, most: int = 4) -> list[ErrorRate]:
    """Return the false alarms of each test set, then the ``most`` generators missed most often."""
    alarms, missed = [], []
    for test_set, title in SET_TITLES.items():
        place: Keys = (test_set, POINTS, DECISION, "bpcer")
        alarm = _error_rate(results, f"real faces of the {title}", "are called synthetic", place)
        if alarm is not None:
            alarms.append(alarm)
        for name in at(results, (test_set, "generators")) or ():
            place = (test_set, "generators", name, POINTS, DECISION, "apcer")
            miss = _error_rate(results, f"synthetic faces of {name}", "are missed", place)
            if miss is not None:
                missed.append(miss)
    missed.sort(key=lambda error: -error.rate)
    return alarms + missed[:most] + _of_people(results, most)


def _error_rate(results: Results, faces: str, what: str, place: Keys) -> ErrorRate | None:
    value, interval = figure(results, place)
    if value is None:
        return None
    ends = "" if interval is None else " to ".join(map(_of_100, interval))
    wrong, total = error_count(results, place)
    count = f"{wrong} of {total}" if total else ""
    return ErrorRate(f"Of 100 {faces}", _of_100(value), what, ends, count, value)


def _of_people(results: Results, most: int) -> list[ErrorRate]:
    """Return the error rates of people, and in words the detector's on the same images."""
    found = list[ErrorRate]()
    for test_set in (name for name in SET_TITLES if at(results, ("people", name))):
        for name, entry in results["people"][test_set]["generators"].items():
            people, model = entry["people"], entry["model"]
            ends = " to ".join(map(_of_100, people["intervals"]["apcer"]))
            what = f"are missed by people, {_of_100(model['apcer'])} by the detector"
            faces = f"Of 100 synthetic faces of {name} that people saw"
            rate, count = people["apcer"], f"{entry['n_synthetic']} faces"
            found.append(ErrorRate(faces, _of_100(rate), what, ends, count, rate))
    return sorted(found, key=lambda each: -each.rate)[:most]


def _of_100(rate: float) -> str:
    count = round(100 * rate)
    if count == 0 < rate:
        return "fewer than 1"
    return "more than 99" if count == 100 and rate < 1 else str(count)


def people_lines(results: Mapping[str, Any], most: int = 4) -> list[str]:
    """Return what people and detector are wrong about on the images that people answered.

    Of the ``most`` generators of a test set that people miss most often.
    """
    people, lines = results.get("people") or {}, list[str]()
    for test_set in (name for name in SET_TITLES if name in people):
        entries = people[test_set]["generators"]
        missed = sorted(entries.items(), key=lambda item: -item[1]["people"]["apcer"])
        for name, entry in missed[:most]:
            lines.append(_beside(f"synthetic faces of {name}", "missed", "apcer", entry))
            if entry["people"]["auc"] is not None:
                aucs = [
                    text_of(entry[who], ("auc",)) for who in ("people", "model") if who in entry
                ]
                lines[-1] += f", AUC {' and '.join(aucs)}"
        reals = {json.dumps([e["people"]["bpcer"], e["n_real"]]): e for e in entries.values()}
        for entry in reals.values():
            if entry["n_real"]:
                lines.append(_beside("real faces", "called synthetic", "bpcer", entry))
    return lines


def _beside(faces: str, wrong: str, rate: str, entry: Mapping[str, Any]) -> str:
    count = entry["n_synthetic" if rate == "apcer" else "n_real"]
    told = list[str]()
    for who, own in (("people", entry["people"]), ("the detector", entry.get("model"))):
        if own:
            low, high = map(_of_100, own["intervals"][rate])
            told.append(f"{who} {wrong * (not told)} {_of_100(own[rate])} ({low} to {high})")
    return f"Of 100 {faces} {', '.join(' '.join(part.split()) for part in told)} [{count} faces]"


def annotation_lines(told: Mapping[str, Any]) -> list[str]:
    """Return what people.json of ``focus annotate`` says: answers, annotators, agreement."""
    lines = [
        f"{told['n_answered']} of {told['n_faces']} faces answered, {told['n_maps']} have a map "
        f"(--who {told['who']}, --min-annotators {told['min_annotators']})"
    ]
    if told["n_cannot_judge"]:
        lines.append(
            f"{told['n_cannot_judge']} answers say that the face cannot be judged: left out"
        )
    for name, own in told["annotators"].items():
        words = f"{name}: {own['n_answers']} faces"
        words += f", {own['seconds']:.1f} s each" if own["n_answers"] else ""
        words += "" if own["accuracy"] is None else f", {own['accuracy']:.0%} right"
        if own["n_repeats"]:
            words += f", {own['repeat_same_answer']:.0%} of {own['n_repeats']} repeats as before"
        lines.append(words)
    agreed = told["agreement"]
    for measure, of_face in agreed.items():
        if f"{measure}_chance" not in agreed:
            continue
        chance = agreed[f"{measure}_chance"]
        ends = "[{:.2f}, {:.2f}]".format(*of_face["interval"]) if of_face["interval"] else ""
        words = f"agreement of places, {measure}: {of_face['value']:.2f} {ends}"
        words += f", with other faces of the class {chance['value']:.2f}"
        lines.append(f"{words} ({agreed['n_images']} faces that several marked)")
    return lines + people_lines(told)


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
    # A table may have been sorted again.
    scores, others = scores.in_order(), others.in_order()
    untested = f"{name} - {other}: the difference is not tested, "
    if differ := not scores.has_images_of(others):
        scores, others = in_common([scores, others])
    if not len(scores) or not np.array_equal(scores.group, others.group):
        return [f"{untested}they scored other images, or the same in other groups."]
    sets, other_sets = _pairs(scores, results), _pairs(others, other_results)
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
    value, interval = figure(results, keys)
    if value is None:
        return "-"
    if interval is None or not with_interval:
        return f"{value:.3f}"
    return f"{value:.3f} [{', '.join(f'{end:.3f}'.lstrip('0') for end in interval)}]"


def figure(results: Results, keys: Keys) -> tuple[float | None, tuple[float, float] | None]:
    """Return the figure at ``keys`` of results.json and its interval, None for what is missing."""
    *path, last = keys
    # Beside the value, or beside the operating point that it is of, or beside all of these.
    places = (at(results, (*path[:n], "intervals", *path[n:], last)) for n in range(len(path) + 1))
    interval = next(filter(None, places), None)
    return at(results, keys), None if interval is None else (interval[0], interval[1])


def at(results: Any, keys: Keys) -> Any:
    """Return what lies at ``keys`` of results.json, None where nothing does."""
    for key in keys:
        results = results.get(key) if isinstance(results, dict) else None
    return results
