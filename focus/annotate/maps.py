"""Make maps of the marks, and say how well, and how far alike, people answered.

``docs/formats.md`` describes the files.
"""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from focus.annotate.answers import AnswerFolder, digest_of
from focus.config.annotate import AnnotateConfig
from focus.data.images import load_map
from focus.data.known_images import MANIFEST
from focus.data.manifest import Manifest, Sample, absolute
from focus.data.maps import Map, resized
from focus.data.overlay import strip
from focus.data.readers.human_maps import MADE_MAPS
from focus.evaluation.people import Answer, beside, by_annotator
from focus.evaluation.result_table import people_lines
from focus.evaluation.scores import Scores
from focus.metrics.annotators import MEASURES, between_annotators, overall
from focus.plotting import shortened
from focus.runtime.files import atomic_write
from focus.runtime.progress import progress_bar

PEOPLE, SHEET, VERSION = "people.json", "contact_sheet.png", 1
_GRID = (128, 128)  # on which marks are compared
_SIDE, _GAP, _COLUMNS, _MOST = 160, 12, 4, 40  # of the sheet, the first two in pixels


def write_maps(folder: AnswerFolder, faces: Sequence[Sample], config: AnnotateConfig) -> list[str]:
    """Write all that is made of the answers into their folder; return it in words, line by line."""
    place = absolute(folder.folder)
    answers = [answer for given in folder.given.values() for answer in given]
    said = defaultdict[str, list[Answer]](list)
    for answer in answers:
        if answer.round == "main":
            said[answer.image].append(answer)
    made, marks, about = dict[int, str](), list[Map](), list[tuple[int, str]]()
    names = _names(faces, config)
    for row, face in enumerate(progress_bar(faces, desc="maps", unit="face", delay=3)):
        counted = [
            answer
            for answer in said.get(digest_of(face), [])
            if answer.mark and (config.who == "all" or answer.label == face.label)
        ]
        drawn = [load_map(place / answer.mark) for answer in counted]
        marks += [resized(mark, _GRID) for mark in drawn]
        about += [(row, answer.annotator) for answer in counted]
        if len(drawn) >= config.min_annotators:
            made[row] = str(place / MADE_MAPS / names[row])
            _write_mean(drawn, Path(made[row]))
    for path in (place / MADE_MAPS).rglob("*.png"):
        if str(path) not in made.values():
            path.unlink()
    labels = [face.label for face in faces]
    owners = [row for row, _ in about]
    found = between_annotators(
        np.array(marks), owners, [name for _, name in about], [labels[row] for row in owners]
    )
    told: dict[str, Any] = {
        "version": VERSION,
        "who": config.who,
        "min_annotators": config.min_annotators,
        "n_faces": len(faces),
        "n_answered": sum(digest_of(f) in said for f in faces),
        "n_maps": len(made),
        "annotators": by_annotator(answers, {digest_of(f): f.label for f in faces}),
        "agreement": overall(found, labels),
        "people": _people(faces, answers),
    }
    with atomic_write(place / PEOPLE) as aside:
        aside.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    mapped = sorted(
        (
            _with_figures(face, made.get(row), said.get(digest_of(face), []), found.get(row))
            for row, face in enumerate(faces)
        ),
        key=_agreed,
    )
    Manifest(mapped).to_csv(place / MANIFEST)
    _draw_sheet([face for face in mapped if face.human_map], place / SHEET)
    return [*_lines(told), f"written: {folder.folder}, for --human-maps of train.py"]


def _names(faces: Sequence[Sample], config: AnnotateConfig) -> list[str]:
    """Return the map of each face below the folder of maps, where ``--human-maps`` looks for it."""
    given = [absolute(path) for path in config.data if Path(path).exists()]
    roots = [path if path.is_dir() else path.parent for path in given]
    roots = [absolute(config.data_root)] if config.data_root else roots
    names = dict[str, None]()
    for face in faces:
        path = Path(face.path)
        root = next((root for root in roots if path.is_relative_to(root)), path.parent)
        name = str(path.relative_to(root).with_suffix(""))
        # Of two with one name, only the manifest finds the second one's map.
        names[f"{name}-{digest_of(face)[:8]}.png" if f"{name}.png" in names else f"{name}.png"] = (
            None
        )
    return list(names)


def _write_mean(marks: Sequence[Map], path: Path) -> None:
    height, width = marks[0].shape
    mean = np.mean([resized(mark, (width, height)) for mark in marks], axis=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, flushed=False) as aside:
        Image.fromarray((255 * mean).round().astype(np.uint8)).save(aside, format="PNG")


def _people(faces: Sequence[Sample], answers: Sequence[Answer]) -> dict[str, Any]:
    known = [face for face in faces if face.label is not None]
    texts = ("path", "label", "generator", "family", "test_set", "group")
    columns = {name: [getattr(face, name) for face in known] for name in texts}
    scores = Scores.without_cams(**columns, score=np.full(len(known), math.nan))
    return beside(scores, [digest_of(face) for face in known], answers)


def _with_figures(face: Sample, made: str | None, given: Sequence[Answer], found: Any) -> Sample:
    """Return a face with its map, and what people said of it in more columns."""
    extra = {"answers": str(len(given)), "marks": str(sum(bool(a.mark) for a in given))}
    if given:
        extra["people_score"] = f"{np.mean([answer.score for answer in given]):.4f}"
        extra["said_synthetic"] = f"{np.mean([answer.label for answer in given]):.4f}"
    if found is not None:
        extra |= {name: f"{value:.4f}" for name, value in zip(MEASURES, found[0], strict=True)}
    return replace(face, human_map=made, extra={**face.extra, **extra})


def _agreed(face: Sample) -> tuple[bool, float, float]:
    """Return by what to sort, so that faces come first on which people disagree."""
    split = abs(float(face.extra.get("said_synthetic", 2)) - 0.5)
    return face.extra["answers"] == "0", split, float(face.extra.get(MEASURES[0], 2))


def _draw_sheet(faces: Sequence[Sample], path: Path) -> None:
    """Write a PNG of the first faces, each beside itself with its map over it; none of no faces."""
    path.unlink(missing_ok=True)
    if not (faces := faces[:_MOST]):
        return
    font, wide, high = ImageFont.load_default(13), 2 * _SIDE + _GAP, _SIDE + 2 * _GAP + 8
    columns = min(_COLUMNS, len(faces))
    size = columns * wide + _GAP, -(-len(faces) // columns) * high + _GAP
    sheet = Image.new("RGB", size, "white")
    pen, names = ImageDraw.Draw(sheet), shortened((f.generator or "real" for f in faces), 24)
    for at, face in enumerate(faces):
        left, top = _GAP + at % columns * wide, _GAP + at // columns * high
        sheet.paste(strip(face, np.zeros((0, 1, 1)), _SIDE), (left, top))
        said = round(float(face.extra["said_synthetic"]) * int(face.extra["answers"]))
        name = names[face.generator or "real"] if face.label is not None else "unlabelled"
        words = f"{name}: {said} of {face.extra['answers']} say synthetic"
        pen.text((left, top + _SIDE + 3), words, "#1a1a1a", font)
    with atomic_write(path) as aside:
        sheet.save(aside, format="PNG")


def _lines(told: Mapping[str, Any]) -> list[str]:
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
    return lines + people_lines({"people": told["people"]})
