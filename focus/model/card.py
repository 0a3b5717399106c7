"""The model card, ``README.md`` of a saved detector: what it is, figures, thresholds, limits."""

import html
from collections.abc import Sequence
from pathlib import Path

from focus.config.train import ResolvedTrainConfig
from focus.data.faces import WHOLE
from focus.data.manifest import REAL, SYNTHETIC, Manifest
from focus.model.config import DetectorConfig
from focus.model.operating_points import OperatingPoints
from focus.runtime.files import atomic_write

CARD = "README.md"
_MARK = "library_name: focus-faces"

_TEXT = """\
---
{mark}
pipeline_tag: image-classification
tags:
- image-classification
- synthetic-image-detection
- class-activation-map
---

# A detector of synthetic faces

It gives the probability that a picture of a face is synthetic, and the class activation map (CAM)
of its decision with the entropy of that map. Trained with focus-faces, an implementation of the
idea of [arXiv 2303.00818](https://arxiv.org/abs/2303.00818).

```python
from focus import Detector

detector = Detector.from_pretrained("FOLDER")  # or USER/NAME on the Hub
found = detector.predict(["face.png"])  # found.score, .predicted, .cams, .entropy
```

## Training

- Data: {data}
- Generators of its fakes: {generators}
- Faces: {geometry}
- Loss: {training}
- Network: `{model}`, pictures squashed to {size} x {size} pixels, RGB normalised with mean {mean}
  and standard deviation {std}

## Thresholds

{points}

## Results

{results}

## Intended use

Research on detectors and on what they look at, and as one of several hints to a person who looks at
a picture. Scores need a threshold that was fixed on pictures like those in question.

## Limits

- A score is no proof that a picture is forged, nor that it is genuine, and a CAM is no evidence of
  where it was forged.
- On generators that training never saw, on compressed, resized or otherwise cropped pictures and
  on whole scenes the error rates may be far higher than the ones above.
- Errors may differ between groups of people. Unless results for such groups are given above, nobody
  has measured it for this model.
- Not for decisions about a person without that person's knowledge and a human review, and not for
  pictures that may not be processed.
"""

_NO_RESULTS = "Not measured on test images when this was written."
_RESULTS = """\
95 % intervals in brackets: over other images of the same generators, not over other generators.

```text
{table}
```"""


def model_card(
    config: DetectorConfig,
    points: OperatingPoints | None,
    results: str = "",
    data: str = "",
    training: str = "",
) -> str:
    """Return the card's text, with the metadata that the Hub reads.

    results: a table in plain text. data, training: what it was trained on and how, in words, from
    :func:`trained_on` and :func:`trained_how`. What is not known is called "not recorded".
    """
    families = config.training_families
    generators = [
        f"{name} (family {families[name]})" if families.get(name, name) not in ("", name) else name
        for name in config.training_generators
    ]
    ways = ["not cut out" if way == WHOLE else f"cut out ({way})" for way in config.geometry]
    return _TEXT.format(
        mark=_MARK,
        data=_escaped(data) or "not recorded",
        generators=_escaped(", ".join(generators)) or "not recorded",
        geometry=_escaped("; ".join(ways)) or "not recorded",
        training=training or "not recorded",
        model=config.model,
        size=config.image_size,
        mean=", ".join(f"{value:g}" for value in config.mean),
        std=", ".join(f"{value:g}" for value in config.std),
        points=_points(points),
        results=_RESULTS.format(table=results) if results else _NO_RESULTS,
    )


def trained_on(manifest: Manifest, paths: Sequence[str]) -> str:
    """Return what a card says of training images read from ``paths``; none: the demo set."""
    labels = [sample.label for sample in manifest]
    maps = sum(sample.map_path is not None for sample in manifest)
    # The last part of a path: where it lay on somebody's disk is nobody's business.
    names = ", ".join(Path(path).name for path in paths)
    return (
        f"{labels.count(REAL)} real and {labels.count(SYNTHETIC)} synthetic images of "
        f"{names or 'the embedded demo set, whose faces are drawn'}, {maps} with a human map"
    )


def trained_how(config: ResolvedTrainConfig) -> str:
    """Return what a card says of the loss, its weights, and the training's length."""
    target = "" if config.entropy_target is None else f" at {config.entropy_target:g}"
    terms = {
        "cross-entropy": config.classification_weight,
        f"focus term ({config.focus_level}{target})": config.focus_weight,
        "saliency term": config.saliency_weight,
    }
    weighted = " + ".join(f"{weight:g} x {name}" for name, weight in terms.items() if weight)
    return (
        f"`{config.loss}`, {weighted}, on the CAM of the class `{config.cam_class}`; recipe "
        f"`{config.recipe}`, the best on validation of up to {config.epochs} epochs, seed "
        f"{config.seed}"
    )


def write_card(folder: Path, card: str) -> None:
    """Write the card of the detector in ``folder``; a README.md of something else stays."""
    before = read_card(folder)
    if before is None or _MARK in before:
        with atomic_write(folder / CARD) as aside:
            aside.write_text(card, encoding="utf-8", errors="replace")


def read_card(folder: Path) -> str | None:
    """Return the card in ``folder``; None if there is none."""
    path = folder / CARD
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else None


def _escaped(text: str) -> str:
    """Return names as a Markdown table and HTML show them: no tag, cell or line ends in them."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "&#124;")


def _points(points: OperatingPoints | None) -> str:
    if points is None:
        return "None: it was saved without validation images, so its scores lead to no decision."
    undefined = points.undefined()
    lines = [
        f"Fixed on {points.n_real} real and {points.n_fake} fake validation images, none of which "
        "is a test image; a score above says synthetic.\n",
        "| point | threshold |",
        "|---|---|",
    ]
    for name, value in points.thresholds.items():
        lines.append(f"| {name} | {undefined[name] if value is None else value} |")
    return "\n".join([*lines, "", points.warning()]).rstrip()
