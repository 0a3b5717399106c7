"""``python -m bench.pointing``: by hand on two images, and what docs say of its file."""

import csv

import numpy as np

from bench.pointing import peak_rows

from ..launching import CHECKOUT


def rows() -> list[dict[str, str]]:
    file = CHECKOUT / "bench" / "results" / "pointing.csv"
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def of(figure: str, images: str, peak: str, column: str = "hit") -> str:
    """As the documents write it: ``.47``."""
    (row,) = (r for r in rows() if (r["figure"], r["images"], r["peak"]) == (figure, images, peak))
    return f"{float(row[column]):.2f}".removeprefix("0")


def test_peaks_that_look_at_no_image() -> None:
    """Cells of 4 x 4: training hits the first one most, where one of two images is hit."""
    hits, trained = np.zeros((2, 4, 4), bool), np.zeros((1, 4, 4), bool)
    hits[0, 0, 0] = hits[0, 1, 2] = hits[1, 1, 2] = trained[0, 0, 0] = True
    n_and_hit = {
        row["peak"]: (row["n"], row["hit"])
        for row in peak_rows("pointing_hit", "open", hits, trained)
    }
    assert n_and_hit == {
        "any cell": (2, round(3 / 32, 4)),
        "middle cells": (2, 0.25),
        "fixed cell": (2, 0.5),
        "best cell": (2, 1.0),
    }


def test_the_documents_say_what_the_file_says() -> None:
    text = " ".join((CHECKOUT / "docs/intervals.md").read_text(encoding="utf-8").split())
    even, middle, fixed = (
        [of("pointing_hit", name, peak) for name in ("closed", "open")]
        for peak in ("any cell", "middle cells", "fixed cell")
    )
    assert f"a uniformly random cell hits {even[0]} (closed) and {even[1]} (open)" in text
    assert f"four middle cells {middle[0]} and {middle[1]}" in text
    assert f"training artefacts, {fixed[0]} and {fixed[1]};" in text
    assert f"the fixed cell hits {of('map_hit', 'validation', 'fixed cell')}" in text
    cosine = of("map_hit", "validation", "other's map", "cosine")
    assert f"has a `map_cosine` of {cosine}" in text
