"""The commands of the programs, called with the words of a command line."""

from collections.abc import Sequence

from focus.config.command_line import parse
from focus.config.data import CheckConfig, CropConfig, DemoConfig
from focus.config.experiment import ExperimentConfig


def check(words: Sequence[str]) -> None:
    """``focus data check``; raises SystemExit with code 1 if training would not start."""
    from focus.data.check.command import check

    check(parse(CheckConfig, words))


def crop(words: Sequence[str]) -> None:
    """``focus data crop``."""
    from focus.data.crop import crop

    crop(parse(CropConfig, words))


def demo(words: Sequence[str]) -> None:
    """``focus data demo``."""
    from focus.data.demo.files import write_demo

    write_demo(parse(DemoConfig, words))


def experiment(words: Sequence[str]) -> int:
    """``focus experiment``; returns its exit code."""
    from focus.experiment.__main__ import experiment

    try:
        experiment(parse(ExperimentConfig, words))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0
