"""The files of a report, and their removal."""

import re
from pathlib import Path

from focus.evaluation import robustness
from focus.evaluation.results import FAITHFULNESS

REPORT, FIGURES, ROBUSTNESS = "report.html", "figures", "robustness.png"
PREFIXES = (
    "roc",
    "det",
    "scores",
    "entropy",
    "range",
    "reliability",
    "training",
    "robustness",
    "leaderboard",
)
"""The name of a figure's file is one of these, or begins with one and a dash."""
_FILE_OF_FIGURE = re.compile(rf"({'|'.join(PREFIXES)})(-[A-Za-z0-9-]+)?\.(svg|png)")


def remove_measured(folder: Path) -> None:
    """Remove what was measured of earlier scores: robustness, faithfulness."""
    for name in (robustness.FILE, ROBUSTNESS, FAITHFULNESS):
        (folder / name).unlink(missing_ok=True)


def remove_report(folder: Path) -> None:
    """Remove the page and its figures."""
    (folder / REPORT).unlink(missing_ok=True)
    figures = folder / FIGURES
    if figures.is_dir():
        for path in figures.iterdir():
            if _FILE_OF_FIGURE.fullmatch(path.name):
                path.unlink()
        if not any(figures.iterdir()):
            figures.rmdir()
