"""What the tests of the report share: images with scores, and a page taken apart."""

import json
from collections.abc import Sequence
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from focus.data.manifest import Manifest, Sample
from focus.data.perturbations import STRENGTHS
from focus.evaluation import robustness
from focus.evaluation.results import Results, summarise, write_results
from focus.evaluation.scores import Scores
from focus.metrics import fit_calibration
from focus.model.operating_points import POINTS, OperatingPoints

KINDS = (
    ("", 0, "closed"),
    ("kA", 1, "closed"),
    ("", 0, "open"),
    ("uB", 1, "open"),
    ("<b>u&C</b>", 1, "open"),
)
"""Generator, label and test set of the groups, in the order of the rows."""


def made(
    folder: Path, each: int, *, side: int = 48, distinct: int = 10, resamples: int = 40
) -> tuple[Manifest, Scores, Results]:
    """``each`` images of each kind, with human maps for the fakes and masks of artefacts.

    distinct: pictures on the disk; the rest are links to them.
    """
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("map", "mask"):
        spot = np.zeros((8, 8), np.uint8)
        spot[2:5, 3:6] = 255
        Image.fromarray(spot).resize((side, side)).save(folder / f"{name}.png")
    samples: list[Sample] = []
    columns: dict[str, list[Any]] = {f.name: [] for f in fields(Scores)}
    for generator, label, test_set in KINDS:
        for _ in range(each):
            row = len(samples)
            path = folder / f"{row:05d}.png"
            if row < distinct:
                coarse = draw.integers(0, 256, (12, 12, 3), np.uint8)
                Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(path)
            else:
                path.hardlink_to(folder / f"{row % distinct:05d}.png")
            samples.append(
                Sample(
                    str(path),
                    label,
                    generator,
                    split="test",
                    test_set=test_set,
                    map_path=str(folder / "map.png") if label else None,
                    mask_path=str(folder / "mask.png") if label else None,
                )
            )
            known = generator == "kA" or not label
            score = float(
                np.float32(draw.beta(2, 5) if not label or not known else draw.beta(5, 2))
            )
            given = {
                "index": row,
                "path": str(path),
                "label": label,
                "generator": generator,
                "family": "",
                "split": "test",
                "test_set": test_set,
                "group": "",
                "score": score,
                "predicted": int(score > 0.5),
                "llr": score - 0.5,
            }
            for name, cells in columns.items():
                cells.append(given.get(name, int(draw.integers(0, 2)) if "hit" in name else None))
                if cells[-1] is None:
                    cells[-1] = float(draw.uniform())
    scores = Scores(**columns)
    validation = draw.beta(2, 5, 200), draw.beta(5, 2, 200)
    points = OperatingPoints(dict.fromkeys(POINTS, 0.5), fit_calibration(*validation), 200, 200)
    results = summarise(scores, ["kA"], {}, points, resamples=resamples)
    results["model"] = {"epoch": 2, "validation_auc": 0.9}
    return Manifest(samples, "made"), scores, results


def measured(folder: Path, source: Path, falls: dict[str, float], sets: Sequence[str]) -> Results:
    """The run of ``source`` in ``folder`` as well, with the robustness of some generators.

    falls: by generator, by how much of the AUC each step of strength lowers it.
    """
    results: Results = json.loads((source / "results.json").read_text())
    write_results(folder, Scores.from_csv(source / "scores.csv"), results)
    kept = []
    for test_set in sets:
        for generator, fall in falls.items():
            entry = results[test_set]["generators"].get(generator)
            kept += [
                robustness.Kept(
                    *(name, strength, test_set, generator, entry["n_real"], entry["n_fake"]),
                    auc=entry["auc"] - fall * step,
                    clean=entry["auc"],
                )
                for name, strengths in STRENGTHS.items()
                for step, strength in enumerate(strengths, start=1)
                if entry is not None
            ]
    robustness.write(kept, folder)
    return results


class Page(HTMLParser):
    """A page taken apart: figures by their place in results.json, text, addresses, data."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.figures: dict[tuple[str, ...], list[str]] = {}
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self._place: tuple[str, ...] | None = None
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        for name in ("src", "href", "xlink:href", "action", "poster", "data"):
            if given.get(name):
                self.addresses.append(str(given[name]))
        if given.get("data-figure"):
            self._place = tuple(json.loads(str(given["data-figure"])))
            self.figures.setdefault(self._place, []).append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "td":
            self._place = None

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._place is not None:
            self.figures[self._place][-1] += data

    @property
    def data(self) -> dict[str, Any]:
        """What the script is given."""
        _, _, after = self.html.partition('<script type="application/json" id="data">')
        found: dict[str, Any] = json.loads(after.partition("</script>")[0])
        return found
