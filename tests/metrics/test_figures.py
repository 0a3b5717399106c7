"""The table of figures: no two share a name."""

from focus.metrics.figures import FIGURE, FIGURES


def test_a_name_is_declared_once() -> None:
    assert len(FIGURE) == len(FIGURES)
