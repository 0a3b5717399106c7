"""The configuration of ``evaluate.py``."""

from dataclasses import dataclass

from focus.config.options import COUNT, flag, in_machine, in_model, in_output, in_threshold
from focus.config.shared import SharedConfig
from focus.errors import InputError

EVALUATION_BATCH = 64
"""Images at a time in both programs, as the last digits of a score may differ with the number."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(SharedConfig):
    """Settings of evaluate.py: exactly one of ``run``, ``model_dir`` and ``compare``."""

    run: str | None = in_model("a run folder of train.py, whose best model is taken", metavar="DIR")
    model_dir: str | None = in_model("a folder with a saved model", metavar="DIR")
    threshold: str | None = in_threshold()
    output: str | None = in_output(
        "folder for all files (default: evaluation in the folder of --run, else "
        "evaluation, or comparison, here)",
        metavar="DIR",
    )
    compare: tuple[str, ...] = in_output(
        "only write a report of two or more run folders, or folders of evaluate.py, side by "
        "side; differences are those to the first",
        (),
        metavar="RUN",
    )
    robustness: bool = in_output(
        "also score the images under JPEG, blur, resizing, noise and sharing (25 times the time)",
        False,
    )
    equalise: bool = in_output(
        "also score the images stored alike: one size, one JPEG quality, one colour space", False
    )
    faithfulness: bool = in_output(
        "also blur the place where each CAM peaks, and others (10 times the time)", False
    )
    batch_size: int = in_machine("images at a time in one process", EVALUATION_BATCH, within=COUNT)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compare:
            given = [flag(name) for name in ("run", "model_dir", "data") if getattr(self, name)]
            if given:
                raise InputError(f"--compare scores nothing: give it without {given[0]}.")
            if len(self.compare) < 2:
                raise InputError(f"--compare needs two runs at least, got {self.compare[0]} alone.")
        elif (self.run is None) == (self.model_dir is None):
            got = "neither" if self.run is None else "both"
            raise InputError(f"Give one of --run and --model-dir, got {got}.")
