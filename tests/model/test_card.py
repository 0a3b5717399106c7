"""The model card: what it says of training, thresholds and results, and what it does not forge."""

from dataclasses import replace
from pathlib import Path

from focus.config.train import TrainConfig, resolve
from focus.data.manifest import Manifest, Sample
from focus.metrics.calibration import Calibration
from focus.model.card import CARD, model_card, trained_how, trained_on, write_card
from focus.model.config import DetectorConfig
from focus.model.operating_points import POINTS, OperatingPoints

CONFIG = DetectorConfig("focus_small", 32, training_generators=("kA",))
POINTS_FIXED = OperatingPoints(
    dict.fromkeys(POINTS, 0.9999999701976776) | {"bpcer1": None}, Calibration(1, 0, 1), 90, 80
)


def test_the_card_states_what_was_measured() -> None:
    card = model_card(CONFIG, POINTS_FIXED, "AUC 0.9 [0.8, 0.95]", "9 pictures of <b>me</b>")
    assert card.startswith("---\nlibrary_name: focus-faces\npipeline_tag: image-classification\n")
    assert "- Data: 9 pictures of &lt;b&gt;me&lt;/b&gt;\n" in card, "a name is no tag"
    assert "| eer | 0.9999999701976776 |" in card
    assert "| bpcer1 | needs >= 500 real validation images |" in card
    assert "```text\nAUC 0.9 [0.8, 0.95]\n```" in card
    for heading in ("Training", "Thresholds", "Results", "Intended use", "Limits"):
        assert f"\n## {heading}\n" in card


def test_the_card_says_what_is_not_known_and_how_faces_were_cut() -> None:
    card = model_card(replace(CONFIG, training_generators=()), None)
    for name in ("Data", "Generators of its fakes", "Faces", "Loss"):
        assert f"- {name}: not recorded" in card
    assert "Not measured on test images" in card
    assert "saved without validation images" in card
    ways = replace(
        CONFIG, geometry=("box margin 0.25", "whole"), training_families={"kA": "GAN\nx"}
    )
    card = model_card(ways, None)
    assert "- Faces: cut out (box margin 0.25); not cut out\n" in card
    assert "kA (family GAN x)\n" in card


def test_the_card_says_what_it_was_trained_on() -> None:
    samples = [Sample("a", 0), Sample("b", 1, map_path="m"), Sample("c", 1)]
    words = trained_on(Manifest(samples), ["/home/somebody/faces.csv", "more/"])
    assert words == "1 real and 2 synthetic images of faces.csv, more, 1 with a human map"
    how = trained_how(resolve(TrainConfig(loss="hinge", epochs=7)))
    assert how == (
        "`hinge`, 1 x cross-entropy + 1 x focus term (hinge at 0.6), on the CAM of the class "
        "`true`; recipe `demo`, the best on validation of up to 7 epochs, seed 0"
    )


def test_a_readme_of_something_else_stays(tmp_path: Path) -> None:
    write_card(tmp_path, model_card(CONFIG, None))
    write_card(tmp_path, card := model_card(CONFIG, POINTS_FIXED))
    assert (tmp_path / CARD).read_text() == card
    (tmp_path / CARD).write_text("of a project")
    write_card(tmp_path, card)
    assert (tmp_path / CARD).read_text() == "of a project"
