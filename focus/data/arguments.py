"""Command lines of ``python -m focus.data``: their errors are sentences, as the programs' are."""

import argparse
from typing import NoReturn

from focus.errors import InputError


class Arguments(argparse.ArgumentParser):
    """Argparse without abbreviated flags, which raises InputError for what it cannot read."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise InputError."""
        raise InputError(f"{message[:1].upper()}{message[1:]}; --help lists all flags.")
