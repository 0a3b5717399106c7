"""The configuration of ``focus experiment``."""

from dataclasses import dataclass
from functools import partial

from focus.config.options import COUNT, NON_NEGATIVE, check_options, option

_data = partial(option, "data")
_model = partial(option, "model")
_loss = partial(option, "loss")
_training = partial(option, "training")
_output = partial(option, "output")
_machine = partial(option, "machine")


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """What ``focus experiment`` takes; of what train.py takes too, each run gets the same."""

    search: bool = _training("choose the weights on validation; no test image", default=False)
    quick: bool = _training(
        "fewer losses and seeds, standard epochs, no dose-response", default=False
    )
    report: bool = _training("train nothing: tables of the runs that are done", default=False)
    losses: str | None = _loss(
        "names separated by commas, of docs/experiment.md (default: all)", metavar="NAMES"
    )
    weights: str | None = _loss("weights.yaml of a search (default: those frozen)", metavar="FILE")
    seeds: int | None = _training("how many (default: 3, with --quick 2)", within=COUNT)
    epochs: int | None = _training("the standard number (default: recipe)", within=COUNT)
    recipe: str | None = _training(
        "as train.py's (default: demo without --data, else paper)", metavar="NAME"
    )
    model: tuple[str, ...] = _model("as train.py's; may be repeated", default=(), metavar="NAME")
    data: tuple[str, ...] = _data("as train.py's; may be repeated", default=(), metavar="PATH")
    data_root: str | None = _data("as train.py's", metavar="DIR")
    heatmaps: str | None = _data("as train.py's", metavar="DIR")
    test_data: dict[str, str] = _data("as train.py's", default=dict, metavar="NAME=PATH")
    test_real: dict[str, str] = _data("as train.py's", default=dict, metavar="NAME=PATH")
    output: str = _output("folder of the runs and the tables", default="experiment", metavar="DIR")
    jobs: int | None = _machine("runs at a time (default: one a core)", within=COUNT)
    threads: int = _machine("of a run", default=1, within=COUNT)
    workers: int = _machine("that load images, of a run", default=0, within=NON_NEGATIVE)
    debug: bool = _machine("show a traceback with an error", default=False)

    def __post_init__(self) -> None:
        check_options(self)
