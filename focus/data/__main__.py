"""Work on data: ``python -m focus.data check``, ``crop`` or ``demo``."""

import sys
from collections.abc import Sequence
from importlib import import_module

from focus.config.command_line import command
from focus.runtime.program import leave_checkout, program

PROG = "python -m focus.data"

_COMMANDS = {
    "check": "counts, unreadable files, leaks and shortcuts of data",
    "crop": "cut the faces out of images, and out of their human maps",
    "demo": "write the demo set as files",
}
_MODULES = {"check": "focus.data.check", "crop": "focus.data.crop", "demo": "focus.data.demo.files"}


def main(arguments: Sequence[str]) -> None:
    """Call the command that comes first. Raises InputError for an unknown one."""
    name = command(PROG, _COMMANDS, arguments)
    # Imported when it is called: the next is not made to wait for its packages.
    import_module(_MODULES[name]).main(arguments[1:])


if __name__ == "__main__":
    leave_checkout()
    # Not all of the commands, which read their own flags, know this one of the programs'.
    words = [word for word in sys.argv[1:] if word != "--debug"]
    with program(PROG, debug="--debug" in sys.argv):
        main(words)
