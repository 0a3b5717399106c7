"""The command ``check``: its flags, its files and its exit code."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from focus.config.command_line import parse
from focus.config.train import TrainConfig
from focus.errors import InputError

PROG = "python -m focus.data check"
WITHOUT_LEAKS = "without_leaks.csv"

_HELP = f"""usage: {PROG} PATH [PATH ...] [flags]

Look at data before training: counts, sizes, human maps, unreadable files, leaks, shortcuts.

  PATH              as --data of train.py
  --output DIR      folder of the report, made if need be (default: check)
  --drop-leaks      also write DIR/{WITHOUT_LEAKS}, a manifest for --data of train.py in which no
                    picture is in two splits and each can be decoded; the exit code is then about
                    training on that
  --test-data, --test-real, --heatmaps, --data-root, --seed, ...
                    as train.py has them: give the flags that training will get

The folder gets check.json, check.txt, leaks.csv and contact_sheet.png.
The exit code is 0 if training would start, 1 if not, 2 if the command cannot be understood.
"""


def main(arguments: Sequence[str]) -> None:
    """Check the data that train.py would get with these arguments, and write the report.

    Raises:
        InputError: the arguments cannot be used, or the folder cannot be written.
        SystemExit: with code 1 if training would not start, with 0 after ``--help``.
    """
    if {"-h", "--help"} & set(arguments):
        print(_HELP, end="")
        raise SystemExit(0)
    config, output, drop_leaks = _parse(arguments)

    from focus.data.check import findings, report, sheet  # torch and all: --help does without
    from focus.data.readers import refuse_inside
    from focus.runtime.files import check_writable

    check_writable(output)
    refuse_inside(output, (*config.test_data.values(), *config.test_real.values()))
    logging.basicConfig(format="%(message)s")
    data = findings.read(config)
    with _errors_only():  # the report says what would be warned of
        found = findings.gather(data)
        output.mkdir(parents=True, exist_ok=True)
        if drop_leaks and found.manifest:
            found = replace(found, kept=findings.drop_leaks(found, output / WITHOUT_LEAKS))
    sheet.draw(found, output / "contact_sheet.png")
    print(report.write(found, output))
    print(f"\nreport: {output}")
    obstacle = found.kept.obstacle if found.kept else found.obstacle
    if obstacle:
        raise SystemExit(1)


def _parse(arguments: Sequence[str]) -> tuple[TrainConfig, Path, bool]:
    words = list(arguments)
    paths: list[str] = []
    while words and not words[0].startswith("-"):
        paths.append(words.pop(0))
    drop_leaks = "--drop-leaks" in words or "--drop_leaks" in words
    words = [word for word in words if word not in ("--drop-leaks", "--drop_leaks")]
    words = ["--output", "check", *(f"--data={path}" for path in paths), *words]
    config = parse(TrainConfig, words, prog=PROG)
    if not config.data:
        raise InputError(f"{PROG} needs the PATH of a CSV or a folder, before all flags.")
    return config, Path(config.output), drop_leaks


@contextmanager
def _errors_only() -> Iterator[None]:
    logger = logging.getLogger("focus")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
