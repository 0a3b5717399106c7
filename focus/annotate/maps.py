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
from focus.evaluation.error_rates import annotation_lines
from focus.evaluation.people import Answer, alone, by_annotator, by_image, cannot_judge
from focus.metrics.annotators import MEASURES, between_annotators, overall
from focus.plotting import INK, shortened
from focus.runtime.files import atomic_write
from focus.runtime.progress import progress_bar

PEOPLE, SHEET, VERSION = "people.json", "contact_sheet.png", 1
_GRID = (64, 64)  # cells on which marks are compared
_MOST, _SIDE = 40, 160  # faces in the sheet, pixels of a side


def write_maps(folder: AnswerFolder, data: Manifest, config: AnnotateConfig) -> list[str]:
    """Write all that is made of the answers about the rows of ``data``; return it in words."""
    root, said, answers = absolute(folder.folder), by_image(folder.all()), folder.all()
    undecided = cannot_judge(answers)
    names = _names(folder.faces, config)
    labels = {digest_of(face): face.label for face in folder.faces}
    made, marks, owners = dict[str, str](), list[Map](), list[Answer]()
    for image, name in progress_bar(names.items(), desc="maps", unit="face", delay=3):
        right = (a for a in said.get(image, []) if a.label == labels[image] or config.who == "all")
        owners += (counted := [answer for answer in right if answer.mark])
        drawn = [load_map(root / answer.mark) for answer in counted]
        marks += [resized(mark, _GRID) for mark in drawn]
        if len(drawn) >= config.min_annotators:
            made[image] = str(root / MADE_MAPS / name)
            same = [resized(mark, (drawn[0].shape[1], drawn[0].shape[0])) for mark in drawn]
            mean = (255 * np.mean(same, axis=0)).round().astype(np.uint8)
            save_image(Image.fromarray(mean), Path(made[image]), format="PNG")
    for path in {*map(str, (root / MADE_MAPS).rglob("*.png"))} - {*made.values()}:
        Path(path).unlink()
    about = zip(*((a.image, a.annotator, labels[a.image]) for a in owners), strict=True)
    agreement = between_annotators(np.array(marks), *about) if owners else {}
    summary: dict[str, Any] = {
        "version": VERSION,
        "who": config.who,
        "min_annotators": config.min_annotators,
        "n_faces": len(labels),
        "n_answered": len(said.keys() & names),
        "n_cannot_judge": sum(undecided[image] for image in names),
        "n_maps": len(made),
        "annotators": by_annotator(answers, labels),
        "agreement": overall(agreement, labels),
        "people": alone(folder.faces, list(folder.numbers), answers),  # each once
    }
    with atomic_write(root / PEOPLE) as aside:
        aside.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    with_figures = (
        _with_figures(face, made, said, agreement, undecided[digest_of(face)]) for face in data
    )
    mapped = sorted(with_figures, key=_agreed)
    Manifest(mapped).to_csv(root / MANIFEST)
    (root / SHEET).unlink(missing_ok=True)
    faces = list({face.human_map: face for face in mapped if face.human_map}.values())[:_MOST]
    cells = [
        (strip(face, NO_CAM, _SIDE), caption, INK)
        for face, caption in zip(faces, captions(faces), strict=True)
    ]
    rows = [SheetRow("", "", cells[at : at + 4]) for at in range(0, len(cells), 4)]
    if rows:
        contact_sheet(root / SHEET, (), rows, _SIDE)
    use = "for focus train --human-maps" if made else "without a map to train with"
    return [*annotation_lines(summary), f"written: {folder.folder}, {use}"]


def _names(faces: Sequence[Sample], config: AnnotateConfig) -> dict[str, str]:
    """Return digest -> map below the folder of maps, where ``--human-maps`` looks for it."""
    given = [absolute(path) for path in config.data if Path(path).exists()]
    roots = [path if path.is_dir() else path.parent for path in given]
    names, taken = dict[str, str](), set[str]()
    shared = Counter(Path(face.path).with_suffix("") for face in faces)
    for face in faces:
        path = Path(face.path)
        folders = [absolute(config.data_root)] if config.data_root else roots
        root = next((root for root in folders if path.is_relative_to(root)), path.parent)
        below = path.relative_to(root)
        name = f"{below if shared[path.with_suffix('')] > 1 else below.with_suffix('')}.png"
        # Of two with one name, only the manifest finds the second one's map.
        names[digest_of(face)] = f"{digest_of(face)}.png" if name in taken else name
        taken.add(name)
    return names


def _with_figures(
    face: Sample, made: Mapping[str, str], said: Any, agreement: Any, n_cannot_judge: int
) -> Sample:
    """Return a face with its map, and what people said of it in more columns."""
    digest = digest_of(face)
    answers = said.get(digest, [])
    extra = {
        "answers": str(len(answers)),
        "cannot_judge": str(n_cannot_judge),
        "marks": str(sum(bool(answer.mark) for answer in answers)),
    }
    if answers:
        extra["people_score"] = f"{np.mean([answer.score for answer in answers]):.4f}"
        extra["said_synthetic"] = f"{np.mean([answer.label for answer in answers]):.4f}"
    if digest in agreement:
        alike = zip(MEASURES, agreement[digest][0], strict=True)
        extra |= {name: f"{value:.4f}" for name, value in alike if value == value}
    return replace(face, human_map=made.get(digest), extra={**face.extra, **extra})


def _agreed(face: Sample) -> tuple[bool, float, float]:
    """Return the sort key that puts faces first on which people disagree."""
    split = abs(float(face.extra.get("said_synthetic", 2)) - 0.5)
    return face.extra["answers"] == "0", split, float(face.extra.get(MEASURES[0], 2))


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
