"""Use of a trained detector: ``python -m focus explain`` or ``export``."""

import sys
from collections.abc import Sequence

from focus.cli import leave_checkout, run
from focus.config import TrainConfig
from focus.errors import InputError, did_you_mean
from focus.use_config import ExplainConfig, ExportConfig

PROG = "python -m focus"

_COMMANDS = {
    "explain": "scores, decisions and CAMs of one's own pictures and videos",
    "export": "write a detector as ONNX",
}


def _explain(config: ExplainConfig) -> None:
    """Score pictures and videos with a trained detector, and show where it looks.

    python -m focus explain PATH ... --model-dir runs/NAME/model --output explained/
    """
    from focus.explain import explain  # torch and all: --help does without

    explain(config)


def _export(config: ExportConfig) -> None:
    """Write a trained detector as ONNX, and check the file against it.

    python -m focus export --model-dir runs/NAME/model --onnx detector.onnx
    """
    from focus.export import export

    export(config)


def main(arguments: Sequence[str]) -> None:
    """Call the command that comes first. Raises InputError for an unknown one."""
    name, *words = arguments or ("",)
    if name in ("", "-h", "--help"):
        print(f"usage: {PROG} COMMAND [flags]\n")
        for command, about in _COMMANDS.items():
            print(f"  {command:9}{about}")
        print(f"\n{PROG} COMMAND --help lists the flags of a command.")
        print("python train.py, python evaluate.py and python -m focus.data do the rest.")
        raise SystemExit(0 if name else 2)
    prog = f"{PROG} {name}"
    if name == "explain":
        run(_explain, ExplainConfig, description=_about(_explain), argv=words, prog=prog)
    elif name == "export":
        run(_export, ExportConfig, description=_about(_export), argv=words, prog=prog)
    else:
        raise InputError(
            f"There is no command {name!r}{did_you_mean(name, _COMMANDS)}: it is one of "
            f"{', '.join(_COMMANDS)}."
        )


def _about(command: object) -> str:
    return (command.__doc__ or "").replace("\n    ", "\n")


if __name__ == "__main__":
    leave_checkout()
    words = sys.argv[1:]
    # This lends an error in the command's name the programs' way of ending.
    debug = [word for word in words if word == "--debug"]
    run(lambda _: main(words), TrainConfig, argv=debug, prog=PROG)
