"""What :mod:`bench.gpu` writes, how its parts share the time, and what they are given."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tqdm.auto import tqdm

from bench.head_table import Shape
from focus.errors import InputError

Row = dict[str, Any]
Item = TypeVar("Item")


@dataclass
class Report:
    """A JSON file that holds at any time what is known by then."""

    path: Path
    data: dict[str, Any]
    problems: list[str] = field(default_factory=list)

    def save(self) -> None:
        """Replace the file as a whole; raises InputError where it cannot be written."""
        self.data["problems"] = self.problems
        text = json.dumps(self.data, indent=1, allow_nan=False) + "\n"
        fresh = self.path.with_name(self.path.name + ".new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_text(text, "utf-8")
            fresh.replace(self.path)
        except OSError as error:
            raise InputError(f"{self.path} cannot be written: {error.strerror}.") from error


@dataclass
class Part:
    """One part's time: what it may still begin, and what it left out."""

    name: str
    deadline: float
    clock: Callable[[], float]
    save: Callable[[], None]
    skipped: list[str] = field(default_factory=list)

    def left(self) -> float:
        """Seconds until the part's share is used up."""
        return self.deadline - self.clock()

    def over(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items for which there is time, with a progress bar; saves after each.

        An item is left out if one as long as the last would not end in time.
        """
        last = 0.0
        for item in tqdm(list(items), self.name, unit="case"):
            if self.left() <= last:
                self.skipped.append(str(item))
                continue
            start = self.clock()
            yield item
            last = self.clock() - start
            self.save()


class Budget:
    """Seconds for all parts, divided by shares; what a part leaves goes to the later ones."""

    def __init__(
        self, seconds: float, shares: dict[str, float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.clock = clock
        self.end = clock() + seconds
        self.shares = dict(shares)

    def begin(self, name: str, save: Callable[[], None]) -> Part:
        """The next part; each name once."""
        now = self.clock()
        of_all = self.shares[name] / sum(self.shares.values())
        del self.shares[name]
        return Part(name, now + max(self.end - now, 0) * of_all, self.clock, save)


class Run(NamedTuple):
    """What the parts are given."""

    device: str
    shapes: tuple[Shape, ...]
    tests: str
    report: Report
    part: Part
    out: Row

    def problem(self, text: str) -> None:
        """Something that makes the exit code 1."""
        self.report.problems.append(f"{self.part.name}: {text}")

    def add(self, row: Row) -> None:
        """A row of this part; its ``problem``, if it has one, is the report's, too."""
        self.out.setdefault("rows", []).append(row)
        if "problem" in row:
            words = [str(value) for name, value in row.items() if name not in ("problem", "error")]
            self.problem(f"{' '.join(words)}: {row['problem']}")
