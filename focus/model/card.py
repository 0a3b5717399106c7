"""The model card: ``README.md`` of a saved detector, what it is, measured and not fit for."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from focus.config.train import ResolvedTrainConfig
from focus.data.faces import WHOLE
from focus.data.images import text_of
from focus.data.manifest import REAL, SYNTHETIC, Manifest
from focus.model.config import DetectorConfig
from focus.model.operating_points import OperatingPoints
from focus.runtime.files import atomic_write

CARD = "README.md"

_TEST_SETS = {
    "closed": "fakes of generators that training saw",
    "closed_balanced": "the same, with the shortcut of the training data broken",
    "open": "fakes of generators that training never saw",
}

# An underscore in a word is none.
_MARKS = re.compile(r"""[&<>"'`*$~|\\\[\]]|(?<![^\W_])_|_(?![^\W_])""")

_TEXT = """\
---
{metadata}
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


def model_card(
    config: DetectorConfig,
    points: OperatingPoints | None,
    results: Mapping[str, Any] | None = None,
    data: str = "",
    training: str = "",
) -> str:
    """The card's text, with the metadata that the Hub reads.

    results: as in ``results.json``. data, training: what it was trained on, and with which
    loss, in words. What is not known is said to be unknown.
    """
    metadata = ModelCardData(
        library_name="focus-faces",
        pipeline_tag="image-classification",
        tags=["image-classification", "synthetic-image-detection", "class-activation-map"],
    )
    return _TEXT.format(
        metadata=metadata.to_yaml(),
        data=_plain(data) or "not recorded",
        training=training or "not recorded",
        generators=_plain(", ".join(map(_with_family(config), config.training_generators)))
        or "not recorded",
        geometry=_plain("; ".join(map(_cut_out, config.geometry))) or "not recorded",
        model=config.model,
        size=config.image_size,
        mean=", ".join(f"{value:g}" for value in config.mean),
        std=", ".join(f"{value:g}" for value in config.std),
        points=_points(points),
        results=_results(results),
    )


def trained_on(manifest: Manifest, paths: Sequence[str]) -> str:
    """What a card says of training images. paths: they were read from, none for the demo set."""
    real, fake, maps = (
        sum(map(counts, manifest))
        for counts in (
            lambda sample: sample.label == REAL,
            lambda sample: sample.label == SYNTHETIC,
            lambda sample: sample.map_path is not None,
        )
    )
    # The last part of a path: where it lay on somebody's disk is nobody's business.
    names = ", ".join(path.rstrip("/").rpartition("/")[2] for path in paths)
    names = names.encode("utf-8", "replace").decode()  # file systems allow any bytes
    return (
        f"{real} real and {fake} synthetic images of "
        f"{names or 'the embedded demo set, whose faces are drawn'}, {maps} with a human map"
    )


def trained_how(config: ResolvedTrainConfig) -> str:
    """What a card says of the loss, with what weights, for how long."""
    level: str = config.focus_level
    if config.entropy_target is not None:
        level += f" at {config.entropy_target:g}"
    terms = [f"{config.classification_weight:g} x cross-entropy"]
    if config.focus_weight:
        remarks = ", ".join(filter(None, (level, _over_epochs(config.focus_schedule))))
        terms.append(f"{config.focus_weight:g} x focus term ({remarks})")
    if config.saliency_weight:
        remark = _over_epochs(config.saliency_schedule)
        terms.append(f"{config.saliency_weight:g} x saliency term" + (remark and f" ({remark})"))
    kind = config.cam_class
    on_cam = "contrast CAM" if kind == "contrast" else f"CAM of the {kind} class"
    return (
        f"`{config.loss}`, {' + '.join(terms)}{f', on the {on_cam}' * (len(terms) > 1)}; recipe "
        f"`{config.recipe}`, the best on validation of up to {config.epochs} "
        f"epoch{'s' * (config.epochs > 1)}, seed {config.seed}"
    )


def _over_epochs(schedule: str | None) -> str:
    return "" if schedule is None else f"times {schedule} over the epochs"


def write_card(folder: Path, card: str) -> None:
    """Write the card of the detector in ``folder`` again."""
    with atomic_write(folder / CARD) as aside:
        aside.write_text(card, encoding="utf-8")


def read_card(folder: Path) -> str | None:
    """The card in ``folder``; None if there is none, or none that is text."""
    try:
        return text_of(folder / CARD)
    except (OSError, ValueError):
        return None


def _cut_out(geometry: str) -> str:
    return "not cut out, whole pictures" if geometry == WHOLE else f"cut out ({geometry})"


def _with_family(config: DetectorConfig) -> Callable[[str], str]:
    def named(generator: str) -> str:
        family = config.training_families.get(generator, "")
        return f"{generator} (family {family})" if family not in ("", generator) else generator

    return named


def _plain(text: str) -> str:
    """As it reads, in Markdown and HTML, whatever names it holds: no cell or line ends in them."""
    line = "".join(c if c.isprintable() else "?" for c in text)
    return _MARKS.sub(lambda mark: f"&#{ord(mark[0])};", line)


def _points(points: OperatingPoints | None) -> str:
    if points is None:
        return "None: it was saved without validation images, so its scores lead to no decision."
    lines = [
        f"Fixed on {points.n_real} real and {points.n_fake} fake validation images, none of which "
        "is a test image; a score above says synthetic.",
        "",
        "| point | threshold |",
        "|---|---|",
    ]
    undefined = points.undefined()
    for name, value in points.thresholds.items():
        lines.append(f"| {name} | {undefined[name] if value is None else value} |")
    if warning := points.warning():
        lines += ["", warning]
    return "\n".join(lines)


def _results(results: Mapping[str, Any] | None) -> str:
    if results is None:
        return "Not measured on test images when this was written."
    lines = [
        "95 % intervals in brackets: over other images of the same generators, not over other "
        "generators.",
    ]
    for name, meaning in _TEST_SETS.items():
        if (test_set := results.get(name)) and test_set["generators"]:
            lines += ["", f"**{name.replace('_', '-')} set** ({meaning}):", ""]
            lines += _table(test_set)
    if len(lines) == 1:
        return "There were no fakes among the test images, so there are no figures."
    return "\n".join(lines)


def _table(test_set: Mapping[str, Any]) -> list[str]:
    lines = ["| generator | relation to training | real | fake | AUC | CAM entropy |"]
    lines.append("|---|---|---|---|---|---|")
    for name, row in test_set["generators"].items():
        relation = row["relation"] or "not known"
        lines.append(
            f"| {_plain(name)} | {relation} | {row['n_real']} | {row['n_fake']} | "
            f"{_figure(row, 'auc')} | {_figure(row, 'entropy')} |"
        )
    mean, pooled = test_set["mean"], test_set["pooled"]
    lines.append(f"| *mean* | | | | {_figure(mean, 'auc')} | {_figure(mean, 'entropy')} |")
    lines.append(
        f"| *pooled* | | {pooled['n_real']} | {pooled['n_fake']} | {_figure(pooled, 'auc')} | "
        f"{_figure(pooled, 'entropy')} |"
    )
    rates = dict(test_set["operating_points"])
    intervals = rates.pop("intervals", {})
    if rates:
        lines += ["", "| threshold | BPCER | APCER, mean of the generators |", "|---|---|---|"]
    for point, row in rates.items():
        row = {**row, "intervals": intervals.get(point, {})}
        lines.append(f"| {point} | {_figure(row, 'bpcer')} | {_figure(row, 'apcer_mean')} |")
    return lines


def _figure(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None:
        return "not defined"
    interval = row["intervals"].get(name)
    return f"{value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")
