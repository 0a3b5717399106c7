"""``bench/timing.py``: with what settings a benchmark begins."""

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
