"""The table of figures: each declares its interval, and no two share a name."""

from typing import Any

import pytest

from focus.metrics.figures import FIGURE, FIGURES, Figure
from focus.metrics.ranking import Ranking


def test_a_figure_without_an_interval_does_not_start() -> None:
    declared: dict[str, Any] = {"name": "auc", "compute": Ranking.auc}
    with pytest.raises(TypeError, match="'interval'"):
        Figure(**declared)


def test_a_name_is_declared_once() -> None:
    assert len(FIGURE) == len(FIGURES)
