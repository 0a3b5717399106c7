"""``bench/timing.py``: with what settings a benchmark begins."""

import argparse

import pytest

from bench import timing


@pytest.mark.usefixtures("plain_cpu")
def test_rounds_that_are_given_win_over_the_short_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in timing.ALLOCATOR.items():
        monkeypatch.setenv(name, value)  # else the process would start again
    parser = timing.parser_of("About.", "a.csv", "fewer rounds", 9, 5)
    assert "default: 9; short: 5" in parser.format_help()
    for words, rounds in (([], 9), (["--short"], 5), (["--short", "--rounds", "2"], 2)):
        given = parser.parse_args(words)
        settings = timing.begin("bench.a", given, recipe="paper")
        assert settings["rounds"] == timing.rounds_of(given) == rounds
        assert settings["command"] == "python -m bench.a" + " --short" * given.short
        assert settings["recipe"] == "paper"


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "two"])
def test_minutes_are_a_number_above_0(text: str) -> None:
    assert timing.above_0("0.5") == 0.5
    with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' is no number above 0"):
        timing.above_0(text)
