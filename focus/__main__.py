"""All programs as one: ``focus COMMAND``, or ``python -m focus COMMAND``."""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # the current folder, in which a yaml.py is not meant for this program

from collections.abc import Sequence

from focus.config.command_line import Command, Commands, run_command
from focus.data.__main__ import COMMANDS as DATA_COMMANDS

COMMANDS: Commands = {
    "train": Command(
        "focus.config.train:TrainConfig",
        "focus.training.run:train",
        "Train a detector of synthetic faces and test it on generators it never saw.",
    ),
    "evaluate": Command(
        "focus.config.evaluate:EvaluateConfig",
        "focus.use.evaluate:evaluate",
        "Score images with a trained detector, evaluate any detector's scores, or compare runs.",
    ),
    "explain": Command(
        "focus.config.use:ExplainConfig",
        "focus.use.explain:explain",
        "Score pictures and videos with a trained detector, and show where it looks.\n\n"
        "    focus explain PATH ... --model-dir runs/NAME/model --output explained/",
    ),
    "export": Command(
        "focus.config.use:ExportConfig",
        "focus.use.export:export",
        "Write a trained detector as ONNX, and check the file against it.\n\n"
        "    focus export --model-dir runs/NAME/model --onnx detector.onnx",
    ),
    "data": DATA_COMMANDS,
    "experiment": Command(
        "focus.config.experiment:ExperimentConfig",
        "focus.experiment.__main__:experiment",
        "Train losses by seeds by models, and write one table and plots.",
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that the first word of the command line names."""
    run_command("focus", COMMANDS, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    main()
