"""Work on data: ``python -m focus.data check``, ``crop`` or ``demo``."""

import sys
from collections.abc import Sequence
from importlib import import_module

from focus.cli import leave_checkout, run
from focus.config import TrainConfig
from focus.errors import InputError, did_you_mean

PROG = "python -m focus.data"

# Each is imported when it is called: the next is not made to wait for its packages.
_COMMANDS = {
    "check": ("focus.data.check", "counts, unreadable files, leaks and shortcuts of data"),
    "crop": ("focus.data.crop", "cut the faces out of images, and out of their human maps"),
    "demo": ("focus.data.demo.files", "write the demo set as files"),
}


def main(arguments: Sequence[str]) -> None:
    """Call the command that comes first. Raises InputError for an unknown one."""
    name = arguments[0] if arguments else ""
    if name in ("", "-h", "--help"):
        print(f"usage: {PROG} COMMAND [flags]\n")
        for command, (_, about) in _COMMANDS.items():
            print(f"  {command:8}{about}")
        print(f"\n{PROG} COMMAND --help lists the flags of a command.")
        raise SystemExit(0 if name else 2)
    if name not in _COMMANDS:
        raise InputError(
            f"There is no command {name!r}{did_you_mean(name, _COMMANDS)}: it is one of "
            f"{', '.join(_COMMANDS)}."
        )
    import_module(_COMMANDS[name][0]).main(arguments[1:])


if __name__ == "__main__":
    leave_checkout()
    words = sys.argv[1:]
    # The commands read their own flags; this lends them the programs' way of ending on an error.
    debug = [word for word in words if word == "--debug"]
    run(lambda _: main(words), TrainConfig, argv=debug, prog=PROG)
