"""The tables of docs/benchmarks.md say what the results say."""

from bench import plot

from ..launching import CHECKOUT


def test_the_document_holds_the_tables_of_the_results() -> None:
    text = (CHECKOUT / "docs" / plot.DOCUMENT).read_text(encoding="utf-8")
    found = plot.fill(text, CHECKOUT / "bench" / "results")
    assert found == text, "run python -m bench.plot"
    assert all(f"<!-- {name} -->" in text for name in plot.TABLES)
