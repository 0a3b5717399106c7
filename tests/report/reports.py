"""Share images with scores, and a page taken apart, among the tests of the report."""

import json
from collections.abc import Sequence
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from focus.config.options import POINTS
from focus.data.manifest import Manifest, Sample
from focus.data.perturbations import ROBUSTNESS, STRENGTHS, UNITS
from focus.evaluation.results import Results, summarise
from focus.evaluation.robustness import PerturbedAUC
from focus.evaluation.scores import Scores
from focus.metrics.calibration import fit_calibration
from focus.model.operating_points import OperatingPoints

KINDS = (
    ("", 0, "closed"),
    ("kA", 1, "closed"),
    ("", 0, "open"),
    ("uB", 1, "open"),
    ("<b>u&C</b>", 1, "open"),
)
"""Generator, label and test set of the groups, in the order of the rows."""


def made(
    folder: Path, count: int, *, side: int = 48, distinct: int = 10, resamples: int = 40
) -> tuple[Manifest, Scores, Results]:
    """Make ``count`` images of each kind, with human maps for the fakes and masks of artefacts.

    distinct: pictures on the disk; the rest are links to them.
    """
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("human_map", "mask_path"):
        spot = np.zeros((8, 8), np.uint8)
        spot[2:5, 3:6] = 255
        Image.fromarray(spot).resize((side, side)).save(folder / f"{name}.png")
    samples: list[Sample] = []
    columns: dict[str, list[Any]] = {f.name: [] for f in fields(Scores) if f.name != "cams"}
    for generator, label, test_set in KINDS:
        for _ in range(count):
            row = len(samples)
            path = folder / f"{row:05d}.png"
            if row < distinct:
                coarse = draw.integers(0, 256, (12, 12, 3), np.uint8)
                Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(path)
            else:
                path.hardlink_to(folder / f"{row % distinct:05d}.png")
            paths = {n: str(folder / f"{n}.png") for n in ("human_map", "mask_path") if label}
            kind: dict[str, Any] = {"label": label, "generator": generator, "test_set": test_set}
            samples.append(Sample(str(path), split="test", **kind, **paths))
            is_known = generator == "kA" or not label
            score = draw.beta(2, 5) if not label or not is_known else draw.beta(5, 2)
            row_values = kind | {
                "index": row,
                "path": str(path),
                "split": "test",
                "score": float(np.float32(score)),
                "predicted": int(score > 0.5),
                "llr": float(score) - 0.5,
            }
            row_values |= dict.fromkeys(("family", "group"), "")
            for name, cells in columns.items():
                drawn = draw.integers(0, 2) if "hit" in name else draw.uniform()
                cells.append(row_values.get(name, drawn))
    scores = Scores(**columns, cams=np.random.default_rng(1).normal(size=(len(samples), 2, 2)))
    validation = draw.beta(2, 5, 200), draw.beta(5, 2, 200)
    points = OperatingPoints(dict.fromkeys(POINTS, 0.5), fit_calibration(*validation), 200, 200)
    results = summarise(scores, ["kA"], {}, points, resamples=resamples)
    results["model"] = {"epoch": 2, "validation_auc": 0.9}
    return Manifest(samples, "made"), scores, results


def perturbed(
    generator: str, test_set: str, clean: float, aucs: Sequence[float]
) -> list[PerturbedAUC]:
    """Make the same AUCs, by strength, under each perturbation."""
    return [
        PerturbedAUC(
            *(name, strength, UNITS[name], test_set, generator, 9, 9), auc=auc, auc_clean=clean
        )
        for name in ROBUSTNESS
        for strength, auc in zip(STRENGTHS[name], aucs, strict=True)
    ]


class Page(HTMLParser):
    """A page taken apart: figures by their keys in results.json, text, addresses, data."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.figures: dict[tuple[str, ...], list[str]] = {}
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self._keys: tuple[str, ...] | None = None
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append(tag)
        for name in ("src", "href", "xlink:href", "action", "poster", "data"):
            if attributes.get(name):
                self.addresses.append(str(attributes[name]))
        if attributes.get("data-figure"):
            self._keys = tuple(json.loads(str(attributes["data-figure"])))
            self.figures.setdefault(self._keys, []).append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "td":
            self._keys = None

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._keys is not None:
            self.figures[self._keys][-1] += data

    @property
    def data(self) -> dict[str, Any]:
        """What the script is given."""
        _, _, after = self.html.partition('<script type="application/json" id="data">')
        page_data: dict[str, Any] = json.loads(after.partition("</script>")[0])
        return page_data
