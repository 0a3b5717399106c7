"""The configuration of ``focus experiment``."""

from dataclasses import dataclass

from focus.config.options import COUNT, NON_NEGATIVE, check_options, option


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """What ``focus experiment`` takes; of what train.py takes too, each run gets the same."""

    search: bool = option(False, "training", "choose the weights on validation; no test image")
    quick: bool = option(
        False, "training", "fewer losses and seeds, standard epochs, no dose-response"
    )
    report: bool = option(False, "training", "train nothing: tables of the runs that are done")
    losses: str | None = option(
        None, "loss", "names separated by commas, of docs/experiment.md (default: all)", "NAMES"
    )
    weights: str | None = option(
        None, "loss", "weights.yaml of a search (default: those frozen)", "FILE"
    )
    seeds: int | None = option(
        None, "training", "how many (default: 3, with --quick 2)", within=COUNT
    )
    epochs: int | None = option(
        None, "training", "the standard number (default: recipe)", within=COUNT
    )
    recipe: str | None = option(
        None, "training", "as train.py's (default: demo without --data, else paper)", "NAME"
    )
    model: tuple[str, ...] = option((), "model", "as train.py's; may be repeated", "NAME")
    data: tuple[str, ...] = option((), "data", "as train.py's; may be repeated", "PATH")
    data_root: str | None = option(None, "data", "as train.py's", "DIR")
    heatmaps: str | None = option(None, "data", "as train.py's", "DIR")
    test_data: dict[str, str] = option(dict, "data", "as train.py's", "NAME=PATH")
    test_real: dict[str, str] = option(dict, "data", "as train.py's", "NAME=PATH")
    output: str = option("experiment", "output", "folder of the runs and the tables", "DIR")
    jobs: int | None = option(None, "machine", "runs at a time (default: one a core)", within=COUNT)
    threads: int = option(1, "machine", "of a run", within=COUNT)
    workers: int = option(0, "machine", "that load images, of a run", within=NON_NEGATIVE)
    debug: bool = option(False, "machine", "show a traceback with an error")

    def __post_init__(self) -> None:
        check_options(self)
