"""Make maps of the marks, and say how well, and how far alike, people answered."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from focus.annotate.answers import AnswerFolder
from focus.config.data import AnnotateConfig
from focus.data.images import load_map, save_image
from focus.data.known_images import MANIFEST, digest_of
from focus.data.manifest import LABEL_NAMES, Manifest, Sample, absolute
from focus.data.maps import Map, resized
from focus.data.overlay import NO_CAM, SheetRow, contact_sheet, strip
from focus.data.readers.human_maps import MADE_MAPS
from focus.evaluation.error_rates import people_lines
from focus.evaluation.people import Answer, alone, by_annotator, by_image, cannot_judge
from focus.metrics.annotators import MEASURES, between_annotators, overall
from focus.metrics.arrays import Floats
from focus.plotting import INK, shortened
from focus.runtime.files import atomic_write
from focus.runtime.progress import progress_bar

PEOPLE, SHEET, VERSION = "people.json", "contact_sheet.png", 1
_GRID = (64, 64)  # cells on which marks are compared
_MOST, _SIDE = 40, 160  # faces in the sheet, pixels of a side


def write_maps(folder: AnswerFolder, data: Manifest, config: AnnotateConfig) -> list[str]:
    """Write all that is made of the answers about the rows of ``data``; return it in words."""
    root = absolute(folder.folder)
    answers = folder.all()
    answers_by_image = by_image(answers)
    undecided = cannot_judge(answers)
    labels = {digest_of(face): face.label for face in folder.faces}
    names = _names(folder.faces, config)

    maps: dict[str, str] = {}
    marked: list[Answer] = []
    marks_on_grid: list[Map] = []
    for image, name in progress_bar(names.items(), desc="maps", unit="face", delay=3):
        counted = [
            answer
            for answer in answers_by_image.get(image, [])
            if answer.mark and (config.who == "all" or answer.label == labels[image])
        ]
        marks = [load_map(root / answer.mark) for answer in counted]
        marked += counted
        marks_on_grid += [resized(mark, _GRID) for mark in marks]
        if len(marks) >= config.min_annotators:
            path = root / MADE_MAPS / name
            _save_mean(marks, path)
            maps[image] = str(path)
    _remove_other_maps(root / MADE_MAPS, set(maps.values()))

    agreement: dict[str, Floats] = {}
    if marked:
        agreement = between_annotators(
            np.array(marks_on_grid),
            faces=[answer.image for answer in marked],
            annotators=[answer.annotator for answer in marked],
            classes=[labels[answer.image] for answer in marked],
        )
    summary: dict[str, Any] = {
        "version": VERSION,
        "who": config.who,
        "min_annotators": config.min_annotators,
        "n_faces": len(labels),
        "n_answered": len(answers_by_image.keys() & names),
        "n_cannot_judge": sum(undecided[image] for image in names),
        "n_maps": len(maps),
        "annotators": by_annotator(answers, labels),
        "agreement": overall(agreement, labels),
        "people": alone(folder.faces, list(folder.numbers), answers),  # each once
    }
    with atomic_write(root / PEOPLE) as aside:
        aside.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")

    rows = []
    for face in data:
        image = digest_of(face)
        row = _with_figures(
            face, answers_by_image.get(image, []), undecided[image], agreement.get(image)
        )
        rows.append(replace(row, human_map=maps.get(image)))
    rows.sort(key=_disagreed_first)
    Manifest(rows).to_csv(root / MANIFEST)
    _write_sheet(rows, root / SHEET)
    use = "for focus train --human-maps" if maps else "without a map to train with"
    return [*annotation_lines(summary), f"written: {folder.folder}, {use}"]


def _save_mean(marks: Sequence[Map], path: Path) -> None:
    """Write the mean of the marks of a face as 8-bit grey, at the size of the first one."""
    height, width = marks[0].shape
    alike = [resized(mark, (width, height)) for mark in marks]
    mean = (255 * np.mean(alike, axis=0)).round().astype(np.uint8)
    save_image(Image.fromarray(mean), path, format="PNG")


def _remove_other_maps(folder: Path, maps: set[str]) -> None:
    """Remove the maps of an earlier start that are not made of the answers of this one."""
    for path in list(folder.rglob("*.png")):
        if str(path) not in maps:
            path.unlink()


def _write_sheet(rows: Sequence[Sample], path: Path) -> None:
    """Draw the first faces that have a map, each map once; without any there is no sheet."""
    path.unlink(missing_ok=True)
    faces = list({face.human_map: face for face in rows if face.human_map}.values())[:_MOST]
    if not faces:
        return
    cells = [
        (strip(face, NO_CAM, _SIDE), caption, INK)
        for face, caption in zip(faces, captions(faces), strict=True)
    ]
    sheet = [SheetRow("", "", cells[first : first + 4]) for first in range(0, len(cells), 4)]
    contact_sheet(path, (), sheet, _SIDE)


def _names(faces: Sequence[Sample], config: AnnotateConfig) -> dict[str, str]:
    """Return digest -> map below the folder of maps, where ``--human-maps`` looks for it."""
    if config.data_root:
        roots = [absolute(config.data_root)]
    else:
        paths = [absolute(path) for path in config.data if Path(path).exists()]
        roots = [path if path.is_dir() else path.parent for path in paths]
    names: dict[str, str] = {}
    taken: set[str] = set()
    n_of_stem = Counter(Path(face.path).with_suffix("") for face in faces)
    for face in faces:
        path = Path(face.path)
        root = next((root for root in roots if path.is_relative_to(root)), path.parent)
        below = path.relative_to(root)
        # Of pictures whose names differ in their endings alone, the ending stays.
        is_shared = n_of_stem[path.with_suffix("")] > 1
        name = f"{below if is_shared else below.with_suffix('')}.png"
        # Of two with one name, only the manifest finds the second one's map.
        names[digest_of(face)] = f"{digest_of(face)}.png" if name in taken else name
        taken.add(name)
    return names


def _with_figures(
    face: Sample, answers: Sequence[Answer], n_cannot_judge: int, agreement: Floats | None
) -> Sample:
    """Return a face with what people said of it in more columns.

    agreement: [2, 2] of the face, as of :func:`focus.metrics.annotators.between_annotators`; None
        where fewer than two marked it.
    """
    extra = {
        "answers": str(len(answers)),
        "cannot_judge": str(n_cannot_judge),
        "marks": str(sum(bool(answer.mark) for answer in answers)),
    }
    if answers:
        extra["people_score"] = f"{np.mean([answer.score for answer in answers]):.4f}"
        extra["said_synthetic"] = f"{np.mean([answer.label for answer in answers]):.4f}"
    if agreement is not None:
        for name, value in zip(MEASURES, agreement[0], strict=True):
            if not np.isnan(value):
                extra[name] = f"{value:.4f}"
    return replace(face, extra={**face.extra, **extra})


def _disagreed_first(face: Sample) -> tuple[bool, float, float]:
    """Return the sort key that puts faces first on which people disagree."""
    split = abs(float(face.extra.get("said_synthetic", 2)) - 0.5)
    return face.extra["answers"] == "0", split, float(face.extra.get(MEASURES[0], 2))


def annotation_lines(content: Mapping[str, Any]) -> list[str]:
    """Return what ``people.json`` says in words: answers, annotators, agreement."""
    lines = [
        f"{content['n_answered']} of {content['n_faces']} faces answered, {content['n_maps']} have "
        f"a map (--who {content['who']}, --min-annotators {content['min_annotators']})"
    ]
    if content["n_cannot_judge"]:
        lines.append(
            f"{content['n_cannot_judge']} answers say that the face cannot be judged: left out"
        )
    for name, figures in content["annotators"].items():
        lines.append(_annotator_line(name, figures))

    agreement = content["agreement"]
    for measure, of_face in agreement.items():
        if f"{measure}_chance" not in agreement:
            continue
        by_chance = agreement[f"{measure}_chance"]["value"]
        ends = ""
        if of_face["interval"]:
            low, high = of_face["interval"]
            ends = f"[{low:.2f}, {high:.2f}]"
        lines.append(
            f"agreement of places, {measure}: {of_face['value']:.2f} {ends}, with other faces of "
            f"the class {by_chance:.2f} ({agreement['n_images']} faces that several marked)"
        )
    return lines + people_lines(content)


def _annotator_line(name: str, figures: Mapping[str, Any]) -> str:
    line = f"{name}: {figures['n_answers']} faces"
    if figures["n_answers"]:
        line += f", {figures['seconds']:.1f} s each"
    if figures["accuracy"] is not None:
        line += f", {figures['accuracy']:.0%} right"
    if figures["n_repeats"]:
        share = figures["repeat_same_answer"]
        line += f", {share:.0%} of {figures['n_repeats']} repeats as before"
    return line


def captions(faces: Sequence[Sample]) -> list[str]:
    """Return what the contact sheet says below each face: its label, and how many call it fake.

    faces: With the figures of people in ``extra``. Long names of generators are shortened.
    """
    names = shortened(face.generator for face in faces)
    texts = []
    for face in faces:
        count = int(face.extra["answers"])
        said = round(float(face.extra["said_synthetic"]) * count)
        kind = "unlabelled" if face.label is None else LABEL_NAMES[face.label]
        name = f"{kind} {names[face.generator]}" if face.generator else kind
        texts.append(f"{name}: {said} of {count} say synthetic")
    return texts
