"""The names of timm and Hugging Face lead to flags that there are, in the docs and in hints."""

from pathlib import Path

import pytest

from focus.config.command_line import parse
from focus.config.options import flag, flags
from focus.config.other_names import OTHER_NAMES, OURS
from focus.config.train import TrainConfig
from focus.errors import InputError

PAGE = Path(__file__).parents[2] / "docs/training.md"


def test_each_leads_to_a_flag_and_the_page_has_the_table() -> None:
    ours = flags(TrainConfig).keys()
    assert set(OURS.values()) <= ours
    assert not {name for name in OURS if name in ours and OURS[name] != name}
    rows = ["| here | timm | Hugging Face |", "|---|---|---|"]
    for name, others in OTHER_NAMES.items():
        cells = " | ".join(f"`{other}`" if other else "" for other in others)
        rows.append(f"| `{flag(name)}` | {cells} |")
    assert "\n".join(rows) in PAGE.read_text(encoding="utf-8")
    assert len(OTHER_NAMES) > 30


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["--heatmaps", "maps"], "--human-maps"),
        (["--optimizer=sgd"], "--opt"),
        (["--gradient_accumulation_steps", "2"], "--grad-accum-steps"),
        (["--per-device-train-batch-size", "2"], "--batch-size"),
        (["--warmup-epochs", "5"], "--warmup"),
    ],
)
def test_another_name_of_a_flag_is_answered_with_ours(words: list[str], flag: str) -> None:
    with pytest.raises(InputError, match=rf"There is no flag .* \(did you mean {flag}\?\)"):
        parse(TrainConfig, words)


def test_a_file_with_an_earlier_name_is_answered_likewise(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("optimizer: sgd\n")
    with pytest.raises(InputError, match=r"unknown key 'optimizer' \(did you mean --opt\?\)"):
        parse(TrainConfig, ["--config", str(tmp_path / "c.yaml")])
