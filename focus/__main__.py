"""Use of a trained detector: ``python -m focus explain`` or ``export``."""

import sys
from collections.abc import Sequence
from itertools import takewhile

from focus.config.command_line import command, run
from focus.config.use import ExplainConfig, ExportConfig
from focus.runtime.program import leave_checkout, program

PROG = "python -m focus"

_COMMANDS = {
    "explain": "scores, decisions and CAMs of one's own pictures and videos",
    "export": "write a detector as ONNX",
}
_OTHERS = (
    "python -m focus.data and python -m focus.experiment do the rest, and, in a checkout of the "
    "repository,\npython train.py and python evaluate.py."
)


def _explain(config: ExplainConfig) -> None:
    """Score pictures and videos with a trained detector, and show where it looks.

    python -m focus explain PATH ... --model-dir runs/NAME/model --output explained/
    """
    from focus.use.explain import explain  # torch and all: --help does without

    explain(config)


def _export(config: ExportConfig) -> None:
    """Write a trained detector as ONNX, and check the file against it.

    python -m focus export --model-dir runs/NAME/model --onnx detector.onnx
    """
    from focus.use.export import export

    export(config)


def main(arguments: Sequence[str]) -> None:
    """Call the command that comes first, behind ``--debug`` if that does.

    Raises InputError for an unknown one.
    """
    before = list(takewhile("--debug".__eq__, arguments))
    rest = arguments[len(before) :]
    name = command(PROG, _COMMANDS, rest, _OTHERS)
    prog, words = f"{PROG} {name}", [*rest[1:], *before]
    if name == "explain":
        run(_explain, ExplainConfig, description=_about(_explain), argv=words, prog=prog)
    else:
        run(_export, ExportConfig, description=_about(_export), argv=words, prog=prog)


def _about(function: object) -> str:
    return (function.__doc__ or "").replace("\n    ", "\n")


if __name__ == "__main__":
    leave_checkout()
    with program(PROG, debug="--debug" in sys.argv):
        main(sys.argv[1:])
