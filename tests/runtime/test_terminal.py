"""Colour where a terminal shows it."""

import sys

import pytest

from focus.runtime.terminal import coloured


def test_colour_is_for_terminals_and_no_color_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert coloured("a", "red") == "a"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert coloured("a", "red") == "\033[31ma\033[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert coloured("a", "red") == "a"
