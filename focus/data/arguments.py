"""Command lines of ``python -m focus.data``: their errors are sentences, as the programs' are."""

import argparse
from dataclasses import fields
from typing import NoReturn, get_args

from focus.config.flags import flag
from focus.config.layouts import Layout
from focus.config.train import TrainConfig
from focus.errors import InputError

_FLAGS = ("layout", "data_root", "allow_outside_root", "columns", "generator", "heatmaps")


class Arguments(argparse.ArgumentParser):
    """Argparse without abbreviated flags, which raises InputError for what it cannot read."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def add_data(self) -> None:
        """Add the paths and the flags that say how they are to be read, in train.py's words."""
        self.add_argument(
            "data", nargs="+", metavar="PATH", help="images, in any layout that train.py takes"
        )
        about = {field.name: field for field in fields(TrainConfig)}
        for name in _FLAGS:
            words = about[name].metadata
            if about[name].default is False:
                self.add_argument(flag(name), action="store_true", help=words["help"])
            else:
                self.add_argument(
                    flag(name),
                    choices=get_args(Layout) if name == "layout" else None,
                    metavar=words["metavar"] or None,
                    help=words["help"],
                )

    def error(self, message: str) -> NoReturn:
        """Raise InputError."""
        raise InputError(f"{message[:1].upper()}{message[1:]}; --help lists all flags.")


def data_config(given: argparse.Namespace) -> TrainConfig:
    """What :meth:`Arguments.add_data` added, as :func:`focus.data.readers.read_given` takes it."""
    flags = {name: getattr(given, name) for name in _FLAGS}
    return TrainConfig(data=tuple(given.data), **flags)
