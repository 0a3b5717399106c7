"""Say in words how often the detector, and people, are wrong."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from focus.evaluation.result_table import SET_TITLES, error_count, text_of
from focus.evaluation.results import Results, figure_at, value_at
from focus.metrics.figures import DECISION, POINTS, Keys


class ErrorRate(NamedTuple):
    """How many of 100 faces the deciding threshold, or people, are wrong about, in words.

    Attributes:
        faces: Which faces.
        number: How many of them.
        what: What is wrong about them.
        interval: The interval of the number in words.
        images: How many were wrong, of how many.
        rate: The error rate.
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
        keys: Keys = (test_set, POINTS, DECISION, "bpcer")
        alarm = _error_rate(results, f"real faces of the {title}", "are called synthetic", keys)
        if alarm is not None:
            alarms.append(alarm)
        for name in value_at(results, (test_set, "generators")) or ():
            keys = (test_set, "generators", name, POINTS, DECISION, "apcer")
            miss = _error_rate(results, f"synthetic faces of {name}", "are missed", keys)
            if miss is not None:
                missed.append(miss)
    return alarms + _highest(missed, most) + _highest(_missed_by_people(results), most)


def _highest(rates: list[ErrorRate], most: int) -> list[ErrorRate]:
    return sorted(rates, key=lambda error: -error.rate)[:most]


def _error_rate(results: Results, faces: str, what: str, keys: Keys) -> ErrorRate | None:
    """Return the error rate at these keys, None where it is not defined."""
    rate, interval = figure_at(results, keys)
    if rate is None:
        return None
    wrong, total = error_count(results, keys)
    return ErrorRate(
        faces=f"Of 100 {faces}",
        number=_of_100(rate),
        what=what,
        interval="" if interval is None else " to ".join(map(_of_100, interval)),
        images=f"{wrong} of {total}" if total else "",
        rate=rate,
    )


def _missed_by_people(results: Results) -> list[ErrorRate]:
    """Return how often people miss the fakes, and in words the detector on the same images."""
    rates = []
    for test_set in SET_TITLES:
        for name, entry in (value_at(results, ("people", test_set, "generators")) or {}).items():
            people, model = entry["people"], entry["model"]
            rates.append(
                ErrorRate(
                    faces=f"Of 100 synthetic faces of {name} that people saw",
                    number=_of_100(people["apcer"]),
                    what=f"are missed by people, {_of_100(model['apcer'])} by the detector",
                    interval=" to ".join(map(_of_100, people["intervals"]["apcer"])),
                    images=f"{entry['n_synthetic']} faces",
                    rate=people["apcer"],
                )
            )
    return rates


def _of_100(rate: float) -> str:
    count = round(100 * rate)
    if count == 0 < rate:
        return "fewer than 1"
    return "more than 99" if count == 100 and rate < 1 else str(count)


def people_lines(results: Mapping[str, Any], most: int = 4) -> list[str]:
    """Return what people and detector are wrong about on the images that people answered.

    Of the ``most`` generators of a test set that people miss most often.
    """
    people = results.get("people") or {}
    lines = []
    for test_set in SET_TITLES:
        if test_set not in people:
            continue
        entries = people[test_set]["generators"]
        missed = sorted(entries.items(), key=lambda item: -item[1]["people"]["apcer"])
        lines += [_missed_line(name, entry) for name, entry in missed[:most]]

        # Generators that share their real images have the same rates of them.
        entry_of_reals = {
            json.dumps([entry["people"]["bpcer"], entry["n_real"]]): entry
            for entry in entries.values()
        }
        for entry in entry_of_reals.values():
            if entry["n_real"]:
                lines.append(
                    _beside("real faces", "called synthetic", "bpcer", entry, entry["n_real"])
                )
    return lines


def _missed_line(generator: str, entry: Mapping[str, Any]) -> str:
    faces = f"synthetic faces of {generator}"
    line = _beside(faces, "missed", "apcer", entry, entry["n_synthetic"])
    if entry["people"]["auc"] is None:
        return line
    aucs = [text_of(entry[who], ("auc",)) for who in ("people", "model") if who in entry]
    return f"{line}, AUC {' and '.join(aucs)}"


def _beside(faces: str, wrong: str, rate: str, entry: Mapping[str, Any], count: int) -> str:
    """Return an error rate of people, and beside it that of the detector, if it scored the faces.

    wrong: What the error is called. count: How many faces the rate is of.
    """
    text = f"Of 100 {faces} people {wrong} {_with_ends(entry['people'], rate)}"
    if entry.get("model"):
        text += f", the detector {_with_ends(entry['model'], rate)}"
    return f"{text} [{count} faces]"


def _with_ends(figures: Mapping[str, Any], rate: str) -> str:
    low, high = map(_of_100, figures["intervals"][rate])
    return f"{_of_100(figures[rate])} ({low} to {high})"
