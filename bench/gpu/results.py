"""Keep rows as they come: a line of JSON in a file, and a line of a table that can be pasted."""

import json
from collections.abc import Sequence
from pathlib import Path

from bench.gpu.timing import Row


class Results:
    """The rows of a run, appended to a file of JSON lines and printed as tables of Markdown.

    What was written before stays in the file; each run begins with a line of its settings.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.errors = 0
        path.parent.mkdir(parents=True, exist_ok=True)

    def begin(self, settings: Row) -> None:
        """Write the settings of the run."""
        self._append({"part": "settings", **settings})
        for name, value in settings.items():
            print(f"- {name}: {value}", flush=True)

    def begin_part(self, title: str, columns: Sequence[str]) -> None:
        """Print the head of a part's table."""
        self._columns = (*columns, "error")
        print(f"\n### {title}\n")
        print(_line(self._columns))
        print(_line(["---"] * len(self._columns)), flush=True)

    def add(self, part: str, row: Row) -> None:
        """Write a row, and print it if it has something for the table."""
        self.errors += "error" in row
        self._append({"part": part, **row})
        if any(name in row for name in self._columns):
            print(_line([_cell(row.get(name)) for name in self._columns]), flush=True)

    def _append(self, row: Row) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: object) -> str:
    """Return a value as text: a median with its interval, a number, or words."""
    if value is None:
        return ""
    if isinstance(value, list):
        middle, low, high = (f"{number:.4g}" for number in value)
        return f"{middle} [{low}, {high}]"
    if isinstance(value, float):
        return f"{value:.4g}"
    return " ".join(str(value).split()).replace("|", "\\|")
