"""Findings: what a reader must know before the figures, each with its severity."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

Severity = Literal["error", "warning", "note"]
_ORDER = get_args(Severity)


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding, in one or two sentences.

    severity: ``error`` where figures say something else than they seem to, or training would learn
    something else than faces; ``warning`` where they may; ``note`` for what is good to know.
    """

    severity: Severity
    text: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.text}"


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Return each finding once, errors first, else in the order in which they were made."""
    return sorted(dict.fromkeys(findings), key=lambda found: _ORDER.index(found.severity))
