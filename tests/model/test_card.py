"""The model card: what it says of thresholds and results, and what it leaves alone."""

from pathlib import Path

from focus.config.options import POINTS
from focus.metrics.calibration import Calibration
from focus.model.card import CARD, model_card, write_card
from focus.model.config import DetectorConfig
from focus.model.operating_points import OperatingPoints

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


def test_a_readme_of_something_else_stays(tmp_path: Path) -> None:
    write_card(tmp_path, model_card(CONFIG, None))
    write_card(tmp_path, card := model_card(CONFIG, POINTS_FIXED))
    assert (tmp_path / CARD).read_text() == card
    (tmp_path / CARD).write_text("of a project")
    write_card(tmp_path, card)
    assert (tmp_path / CARD).read_text() == "of a project"
