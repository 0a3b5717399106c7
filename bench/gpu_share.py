"""A plugin of pytest that runs a share of the tests: ``--share I/N``, every N-th from the I-th."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """The share."""
    parser.addoption("--share", default="0/1", metavar="I/N", help="every N-th test from the I-th")


@pytest.hookimpl(trylast=True)  # of what -m has left
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the others out."""
    first, step = map(int, config.getoption("--share").split("/"))
    config.hook.pytest_deselected(items=[i for n, i in enumerate(items) if n % step != first])
    items[:] = items[first::step]
