"""Put results into words: the table of a program, error rates, differences of models."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from focus.data.manifest import TEST_SETS
from focus.evaluation.estimates import DECISION
from focus.evaluation.protocol import match
from focus.evaluation.results import Results
from focus.evaluation.scores import Scores, in_common
from focus.metrics.annotators import MEASURES
from focus.metrics.bootstrap import units
from focus.metrics.figures import CHANCE, FIGURE, FIGURES, POINTS, Place
from focus.metrics.intervals import mean_auc_difference
from focus.plotting import shortened

SET_TITLES = {"closed": "closed set", "closed_balanced": "closed-balanced set", "open": "open set"}
UNRELATED = "?"
"""Marks a generator of which it is not known how far it is from training."""
SHOWN_ROWS = 14
"""On a console, where the rest is in the report."""
_WIDTH, _SHORTEST = 80, 12  # of the table; of a generator's name in it
_AUC = {
    "closed": "closed-set AUC",
    "closed_balanced": "closed-balanced AUC",
    "open": "open-set AUC",
}
_ON_PEOPLES = {"people": "  people, on those they saw", "model": "  detector, on the same"}
_NOTES = {
    "at *": "* the threshold that decides",
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
    keys: Place
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
            keys: Place = ("people", test_set, "mean", who, "auc")
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
    """Return a row for each unknown generator; models may differ in how far it is from training."""
    relations: dict[str, set[str]] = {}
    for results in everything:
        for name, entry in results["open"]["generators"].items():
            relations.setdefault(name, set()).add(entry["relation"] or UNRELATED)
    return [
        Row(
            f"open-set AUC, {name} ({'/'.join(sorted(found))})",
            ("open", "generators", name, "auc"),
            name,
            kept=False,
        )
        for name, found in sorted(relations.items())
    ]


def _fewer(rows: list[Row], first: Results, most: int) -> list[Row]:
    """Return at most ``most`` rows, of the test sets and of the hardest unknown generators."""
    if len(rows) <= most:
        return rows
    kept = [row for row in rows if row.kept]
    generators = [row for row in rows if row.generator]
    generators.sort(key=lambda row: at(first, row.keys) or 0.0)
    kept += generators[: max(0, most - len(kept))]
    return [row for row in rows if row in kept]


def format_table(results_by_name: Mapping[str, Results], *, most: int | None = None) -> str:
    """Return the table in plain text: one row a figure, one column a model.

    The figures of one or two models have their 95 % intervals; for more models there is no room.
    A table of more than ``most`` rows leaves some out, and says so.
    """
    everything = list(results_by_name.values())
    names = list(shortened(results_by_name, 20).values())
    every = table_rows(everything)
    rows = _fewer(every, everything[0], most or len(every))
    cells = [
        [text_of(results, row.keys, len(names) <= 2) for results in everything] for row in rows
    ]
    columns = zip(*cells, strict=True)
    if any("[" in cell for line in cells for cell in line):
        names = [f"{name} [95 % interval]" for name in names]
    widths = [max(7, *map(len, (n, *column))) for n, column in zip(names, columns, strict=True)]
    others = max((len(r.title) - len(r.generator) for r in rows if r.generator), default=0)
    room = max(_SHORTEST, _WIDTH - sum(2 + width for width in widths) - others)
    short = shortened((row.generator for row in rows if row.generator), room)
    labels = [row.title.replace(row.generator, short.get(row.generator, "")) for row in rows]
    first = max(map(len, labels))
    lines = [
        "  ".join([label.ljust(first), *(c.rjust(w) for c, w in zip(line, widths, strict=True))])
        for label, line in [("", names), *zip(labels, cells, strict=True)]
    ]
    lines.insert(1, "-" * len(lines[0]))
    undefined = any(cell == "-" for line in cells for cell in line)
    named, unknown = (sum(bool(row.generator) for row in each) for each in (rows, every))
    if named < unknown:
        lines.append(f"the {named} hardest of {unknown} unknown generators; results.json has all")
    return "\n".join([*lines, *footnotes(rows, undefined=undefined)])


def footnotes(rows: Iterable[Row], *, undefined: bool) -> list[str]:
    """Return what the marks in these rows mean; ``undefined`` says whether a cell has a dash."""
    text = " ".join(row.title for row in rows)
    return [note for mark, note in _NOTES.items() if (undefined if mark == "-" else mark in text)]


class ErrorRate(NamedTuple):
    """How many of 100 faces the deciding threshold is wrong about, as words around a count."""

    faces: str
    number: str
    what: str
    interval: str
    rate: float

    def __str__(self) -> str:
        """Return the sentence."""
        return f"{self.faces} {self.number} {self.what}{self.interval and f' ({self.interval})'}."


def errors_in_words(results: Results, most: int = 4) -> list[ErrorRate]:
    """Return the false alarms of each test set, then the ``most`` generators missed most often."""
    alarms, missed = list[ErrorRate](), list[ErrorRate]()

    def add(found: list[ErrorRate], faces: str, what: str, where: Place) -> None:
        value, interval = figure(results, where)
        if value is not None:
            ends = "" if interval is None else " to ".join(map(_of_100, interval))
            found.append(ErrorRate(f"Of 100 {faces}", _of_100(value), what, ends, value))

    rates = (POINTS, DECISION)
    for test_set, title in SET_TITLES.items():
        words = f"real faces of the {title}"
        add(alarms, words, "are called synthetic", (test_set, *rates, "bpcer"))
        for name in at(results, (test_set, "generators")) or ():
            words = f"synthetic faces of {name}"
            add(missed, words, "are missed", (test_set, "generators", name, *rates, "apcer"))
    return alarms + sorted(missed, key=lambda found: -found.rate)[:most] + _of_people(results, most)


def _of_people(results: Results, most: int) -> list[ErrorRate]:
    """Return the error rates of people, and in words the detector's on the same images."""
    found = list[ErrorRate]()
    for test_set in (name for name in SET_TITLES if at(results, ("people", name))):
        for name, entry in results["people"][test_set]["generators"].items():
            people, model = entry["people"], entry["model"]
            ends = " to ".join(map(_of_100, people["intervals"]["apcer"]))
            what = f"are missed by people, {_of_100(model['apcer'])} by the detector"
            faces = f"Of 100 synthetic faces of {name} that people saw"
            found.append(ErrorRate(faces, _of_100(people["apcer"]), what, ends, people["apcer"]))
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
    for name, own in told["annotators"].items():
        words = f"{name}: {own['n_answers']} faces"
        words += f", {own['seconds']:.1f} s each" if own["n_answers"] else ""
        words += "" if own["accuracy"] is None else f", {own['accuracy']:.0%} right"
        if own["n_repeats"]:
            words += f", {own['repeat_same_answer']:.0%} of {own['n_repeats']} repeats as before"
        lines.append(words)
    agreed = told["agreement"]
    for measure in (name for name in MEASURES if name in agreed):
        own, chance = agreed[measure], agreed[f"{measure}_chance"]
        ends = "[{:.2f}, {:.2f}]".format(*own["interval"]) if own["interval"] else ""
        words = f"agreement of places, {measure}: {own['value']:.2f} {ends}"
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
    if differ := scores.keys() != others.keys():
        scores, others = in_common([scores, others])
    if not len(scores) or [*scores.group] != [*others.group]:
        return [f"{untested}they scored other images, or the same in other groups."]
    sets, other_sets = _pairs(scores, results), _pairs(others, other_results)
    unit = units(scores.group, scores.images)
    lines = []
    for test_set, pairs in sets.items():
        if other_sets.get(test_set) != pairs:
            continue
        difference = mean_auc_difference(
            *(
                [(each.score[r], each.score[f], unit[r], unit[f]) for _, r, f in pairs]
                for each in (scores, others)
            )
        )
        if difference is not None:
            value, low, high, p_value = difference
            count = len({row for _, *sides in pairs for rows in sides for row in rows})
            of = f"mean of {len(pairs)}" + f", {count:,} images in common" * differ
            lines.append(
                f"{_AUC[test_set]}, {of}: {name} - {other} = {value:+.3f} "
                f"[{low:+.3f}, {high:+.3f}], p = {p_value:.2g}"
            )
    if differ and lines:
        lines.append(f"--common computes all figures of the images that {name} and {other} share.")
    few = "they know other generators, or a class has fewer than two independent images."
    return lines or [untested + few]


def _pairs(scores: Scores, results: Results) -> dict[str, list[tuple[str, list[int], list[int]]]]:
    """Return name, rows of real images and of fakes of each generator, by test set."""
    found: dict[str, list[tuple[str, list[int], list[int]]]] = {}
    for c in match(scores, results["training_generators"]):
        if len(c.real):
            found.setdefault(c.test_set, []).append((c.generator, c.real.tolist(), c.fake.tolist()))
    return found


def text_of(results: Results, keys: Place, with_interval: bool = True) -> str:
    """Return the value, and its interval if there is one: ``0.971 [.960, .980]``."""
    value, interval = figure(results, keys)
    if value is None:
        return "-"
    if interval is None or not with_interval:
        return f"{value:.3f}"
    return f"{value:.3f} [{', '.join(f'{end:.3f}'.lstrip('0') for end in interval)}]"


def figure(results: Results, keys: Place) -> tuple[float | None, tuple[float, float] | None]:
    """Return the figure at ``keys`` of results.json and its interval, None for what is missing."""
    *path, last = keys
    # Beside the value, or beside the operating point that it is of, or beside all of these.
    places = (at(results, (*path[:n], "intervals", *path[n:], last)) for n in range(len(path) + 1))
    interval = next(filter(None, places), None)
    return at(results, keys), None if interval is None else (interval[0], interval[1])


def at(results: Any, keys: Place) -> Any:
    """Return what lies at ``keys`` of results.json, None where nothing does."""
    for key in keys:
        results = results.get(key) if isinstance(results, dict) else None
    return results
