"""Progress bars on a terminal and in a log file; how times are told."""

import sys
from types import ModuleType

import pytest

from focus.runtime.progress import format_duration, progress_bar


@pytest.mark.parametrize(
    ("terminal", "notebook", "seconds"),
    [(True, False, 0.5), (False, True, 0.5), (False, False, 10)],
)
def test_a_log_file_gets_a_line_now_and_then(
    terminal: bool, notebook: bool, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    if notebook:
        monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    with progress_bar(total=3, desc="faces") as bar:
        assert (bar.mininterval, bar.total, bar.desc) == (seconds, 3, "faces")


def test_times_are_told_in_the_unit_that_is_read() -> None:
    times = (44.6, 89, 91, 5340, 5400, 9000)
    assert [*map(format_duration, times)] == ["45 s", "89 s", "2 min", "89 min", "1.5 h", "2.5 h"]
