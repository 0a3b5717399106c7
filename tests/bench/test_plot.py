"""The tables of docs/benchmarks.md and docs/scale.md say what the results say."""

from bench import plot

from ..launching import CHECKOUT

RESULTS = CHECKOUT / "bench" / "results"


def test_the_document_holds_the_tables_of_the_results() -> None:
    text = (CHECKOUT / "docs" / plot.DOCUMENT).read_text(encoding="utf-8")
    assert plot.fill(text, RESULTS) == text, "run python -m bench.plot"
    assert all(f"<!-- {name} -->" in text for name in plot.TABLES)


def test_the_page_on_scale_holds_the_tables_of_the_results() -> None:
    text = (CHECKOUT / "docs" / plot.SCALE_DOCUMENT).read_text(encoding="utf-8")
    assert plot.fill_scale(text, RESULTS) == text, "run python -m bench.plot"
    assert all(f"<!-- {name} -->\n\n" in text for name in plot.SCALE_MARKS)
