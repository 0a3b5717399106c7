"""Tables of figures, which a console shows as text and a report as HTML, with a link to a CSV."""

import base64
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

from focus.errors import shown


def aligned(rows: Sequence[Sequence[str]], alignment: str) -> list[str]:
    """Return a line for each row of texts, whose columns are as wide as their longest text.

    alignment: ``<`` for each column that begins at the left, ``>`` for one that ends at the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    pattern = "  ".join(
        f"{{:{side}{width}}}" for side, width in zip(alignment, widths, strict=True)
    )
    return [pattern.format(*row).rstrip() for row in rows]


@dataclass(frozen=True)
class Cell:
    """A figure as text, its interval as text, and where results.json has it; "" without these."""

    text: str
    interval: str = ""
    where: str = ""

    def __str__(self) -> str:
        return f"{self.text} {self.interval}".rstrip()


@dataclass(frozen=True)
class Table:
    """A heading, the names of the columns, rows of a name and cells, and notes below.

    The first ``main`` columns show at once in a report; a switch shows the others.
    """

    title: str
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    notes: list[str] = field(default_factory=list)
    main: int = 99

    def lines(self) -> list[str]:
        """Return the columns and the rows as text, with a rule between them, and the notes."""
        texts = [["", *self.columns]]
        texts += [[shown(name), *map(str, cells)] for name, cells in self.rows]
        head, *rows = aligned(texts, "<" + ">" * len(self.columns))
        return [head, "-" * len(head), *rows, *self.notes]

    def as_data_uri(self) -> str:
        """Return it as CSV in a data URI; an interval is a column of its own, ``[low, high]``."""
        file = io.StringIO()
        writer = csv.writer(file)
        heads = [""]
        for column in self.columns:
            heads += [column, f"{column}, interval"]
        writer.writerow(heads)
        for name, cells in self.rows:
            values = [name]
            for cell in cells:
                values += [cell.text, cell.interval]
            writer.writerow(values)
        content = base64.b64encode(file.getvalue().encode("utf-8", "replace")).decode("ascii")
        return f"data:text/csv;charset=utf-8;base64,{content}"
