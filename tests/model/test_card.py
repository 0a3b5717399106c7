"""The model card: what it says of thresholds and results, and what it leaves alone."""

import html
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from focus.config.options import POINTS
from focus.config.train import TrainConfig, resolve
from focus.metrics.calibration import Calibration
from focus.model.card import CARD, model_card, trained_how, write_card
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


@pytest.mark.parametrize(
    "name",
    [
        "**bold**",
        "_ a _",
        "`code`",
        "~~struck~~",
        "[here](https://a.b)",
        "![](https://a.b/c.png)",
        "<script>alert(1)</script>",
        "&lt;",
        "a|b",
        "a\\",
        "http://a.b",
        "www.a.b",
        "a@b.cd",
    ],
)
def test_a_name_is_text_in_the_card(name: str) -> None:
    """As an independent reader of Markdown shows it, which makes links of addresses too."""
    markdown = pytest.importorskip("markdown_it")
    reader = markdown.MarkdownIt("gfm-like", {"linkify": bool(find_spec("linkify_it"))})
    config = replace(CONFIG, training_generators=(name, "kB"))
    html_page = reader.render(model_card(config, None, data=f"9 pictures of {name}"))
    assert f"<li>Generators of its synthetic images: {html.escape(name)}, kB</li>" in html_page
    assert f"<li>Data: 9 pictures of {html.escape(name)}</li>" in html_page


def test_the_card_names_the_recipe_its_source_and_what_the_network_sees() -> None:
    how = trained_how(resolve(TrainConfig.of(recipe="npr", loss="ce")))
    assert "recipe `npr` (after NPR, https://github.com/chuangchuangtan/NPR-" in how
    assert "after" not in trained_how(resolve(TrainConfig.of(loss="ce")))
    config = DetectorConfig("resnet50_npr", 224, input="npr", fit="crop")
    card = model_card(config, None, training=how)
    assert "`resnet50_npr`, of pictures the middle 224 x 224 pixels, differences of neighb" in card
    assert "pictures squashed to 32 x 32 pixels, RGB normalised" in model_card(CONFIG, None)


def test_a_readme_of_something_else_stays(tmp_path: Path) -> None:
    write_card(tmp_path, model_card(CONFIG, None))
    write_card(tmp_path, card := model_card(CONFIG, POINTS_FIXED))
    assert (tmp_path / CARD).read_text() == card
    (tmp_path / CARD).write_text("of a project")
    write_card(tmp_path, card)
    assert (tmp_path / CARD).read_text() == "of a project"
