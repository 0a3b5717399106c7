"""All programs as one: ``focus COMMAND``, or ``python -P -m focus COMMAND``."""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # the current folder, in which a yaml.py is not meant for this program

from collections.abc import Sequence

from focus.config.command_line import Command, Commands, run_command

DATA_COMMANDS = {
    "check": Command(
        "focus.config.data:CheckConfig",
        "focus.data.check.report:check",
        "Look at data before training: counts, sizes, unreadable files, copies, shortcuts.\n\n"
        "Nothing is written without --output, which gets check.json, check.txt, copies.csv and "
        "contact_sheet.png. The exit code is 0 if the data are fit for training, 1 if not, 2 if "
        "the command cannot be understood.",
    ),
    "crop": Command(
        "focus.config.data:CropConfig",
        "focus.data.making.crop:crop",
        "Cut the faces out of images and of their human maps alike, into a new folder with a "
        "manifest that focus train takes as --data.",
    ),
    "manipulate": Command(
        "focus.config.data:ManipulateConfig",
        "focus.data.making.manipulate:manipulate",
        "Make synthetic faces of a folder of real ones by six methods, with masks, splits by "
        "identity and a manifest that focus train takes as --data.",
    ),
    "maps": Command(
        "focus.config.data:MapsConfig",
        "focus.data.making.saliency:make_maps",
        "Write maps of where to look for faces that nobody has annotated, by PCA or LDA, or "
        "coarser ones of those that people made.",
    ),
    "demo": Command(
        "focus.config.data:DemoConfig",
        "focus.data.demo.files:write_demo",
        "Write the demo set as files: a template for your own data, in CYBORG's layout.",
    ),
}

COMMANDS: Commands = {
    "train": Command(
        "focus.config.train:TrainConfig",
        "focus.training.run:train",
        "Train a detector of synthetic faces and test it on generators it never saw.",
    ),
    "evaluate": Command(
        "focus.config.use:EvaluateConfig",
        "focus.use.evaluate:evaluate",
        "Score images with a trained detector, evaluate any detector's scores, or compare runs.",
    ),
    "explain": Command(
        "focus.config.use:ExplainConfig",
        "focus.use.explain:explain",
        "Score pictures and videos with a trained detector, and show where it looks.\n\n"
        "    focus explain PATH --model-dir runs/NAME/model --output explained/",
    ),
    "export": Command(
        "focus.config.use:ExportConfig",
        "focus.use.export:export",
        "Write a trained detector as ONNX, and check the file against it.\n\n"
        "    focus export --model-dir runs/NAME/model --onnx detector.onnx",
    ),
    "data": DATA_COMMANDS,
    "cache": Command(
        "focus.config.data:CacheConfig",
        "focus.data.cache.command:cache",
        "Show what is kept on the disk between runs, and clear it.",
    ),
    "annotate": Command(
        "focus.config.data:AnnotateConfig",
        "focus.annotate.command:annotate",
        "Show faces to people in a browser, who say which are real and mark why: human maps.\n\n"
        "    focus annotate faces/ --output human_maps/",
    ),
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
