"""The configuration of ``focus annotate``."""

from dataclasses import dataclass
from typing import Literal

from focus.config.options import (
    COUNT,
    NON_NEGATIVE,
    SEED,
    Range,
    in_data,
    in_machine,
    in_model,
    in_output,
)
from focus.config.shared import DataConfig
from focus.errors import InputError

Who = Literal["right", "all"]
_PORT = Range(lambda x: 0 <= x <= 65535, "at least 0 and at most 65535")


@dataclass(frozen=True, kw_only=True)
class AnnotateConfig(DataConfig):
    """Settings of ``focus annotate``."""

    data: tuple[str, ...] = in_data(
        "faces, in any layout that focus train takes", (), metavar="PATH", positional=True
    )
    output: str = in_output(
        "folder of answers and maps; with that of an earlier call it goes on", "human_maps"
    )
    annotator: str | None = in_output("who answers (default: the page asks)")
    maps: bool = in_output("only write the maps of the answers so far, and end", False)
    who: Who = in_output(
        "whose marks a map is the mean of: those who were right about the image, or all", "right"
    )
    min_annotators: int = in_output("with marks that a map needs", 1, within=COUNT)
    practice: int = in_data(
        "labelled faces that are asked first, with the answer shown, and are not annotated; none "
        "of fewer than twice as many",
        6,
        within=NON_NEGATIVE,
    )
    repeat_every: int = in_data(
        "faces after which an earlier one is asked again; 0 for never", 20, within=NON_NEGATIVE
    )
    seed: int = in_data("of the order", 0, within=SEED)
    model_dir: str | None = in_model(
        "a saved model: first the faces on which it is wrong or unsure, then those on which "
        "annotators disagree",
        metavar="DIR",
    )
    host: str = in_machine(
        "address to serve at, by default for this machine alone; who knows the printed address "
        "gets in",
        "127.0.0.1",
    )
    port: int = in_machine("of the page, 0 for any that is free", 8765, within=_PORT)
    browser: bool = in_machine("open the page in the browser", True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise InputError("There are no faces to annotate: give the PATH of some.")
