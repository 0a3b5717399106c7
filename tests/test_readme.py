"""README and docs say what is there: commands, flags, files and the code example."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from focus.config import EvaluateConfig, TrainConfig, flag
from focus.experiment.__main__ import make_parser
from focus.use_config import ExplainConfig, ExportConfig

CHECKOUT = Path(__file__).parents[1]
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_quick_start_is_two_commands() -> None:
    section = README.split("\n## Quick start\n")[1].split("\n## ")[0]
    assert blocks("bash", section) == [
        "pip install -e . && accelerate launch train.py\n",
        "pip install -e '.[test]' && pytest\n",
    ]
    assert section.count("```") == 4


def test_the_library_example_runs() -> None:
    (example,) = blocks("python")
    assert len(example.splitlines()) <= 14
    names: dict[str, torch.Tensor] = {}
    exec(example, names)
    assert names["out"].loss.requires_grad
    assert names["out"].cam.shape == names["cam"].shape == (4, 7, 7)
    assert names["entropy"].requires_grad


@pytest.mark.parametrize(
    "document",
    [
        *("README.md", "CONTRIBUTING.md", "docs/formats.md", "docs/kernels.md"),
        *("docs/experiment.md", "docs/reproduce.md", "docs/training.md", "docs/use.md"),
    ],
)
def test_flags_and_files_that_are_named_exist(document: str) -> None:
    text = (CHECKOUT / document).read_text(encoding="utf-8")
    configs = (TrainConfig, EvaluateConfig, ExplainConfig, ExportConfig)
    known = {flag(f.name) for config in configs for f in fields(config)}
    # Flags of the launcher, of pip and pytest, and of focus.data.
    known |= {"--config", "--help", "--run-slow", "--num-processes", "--multi-gpu"}
    known |= {"--margin", "--drop-leaks", "--expect", "--cpu", "--signal"}
    known |= {name for action in make_parser()._actions for name in action.option_strings}
    known |= {"--num_processes", "--config_file", "--nproc_per_node"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z_-]+", text)) - known == set()
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", text):
        assert (CHECKOUT / document).parent.joinpath(target).exists(), target
