"""Tables of the docs are those of the code."""

import re
import tomllib
from pathlib import Path

import numpy as np
import torch

from focus.config.losses import LOSSES, CamClass
from focus.data.perturbations import STRENGTHS
from focus.evaluation.faithfulness import PLACES
from focus.evaluation.results import RESAMPLES
from focus.kernels import focus_head
from focus.metrics import SUPPORT
from focus.model.operating_points import POINTS, TARGETS, needed
from focus.training.run_folder import _FREE

DOCS = Path(__file__).parents[1] / "docs"


def text(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def rows(document: str, first: str) -> list[list[str]]:
    """The cells of the table whose head begins with ``first``, without head and rule."""
    _, found, after = document.partition(f"\n| {first} |")
    assert found, first
    lines = after.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r" ?\| ?", line)[1:-1]] for line in lines]


def test_the_named_losses() -> None:
    documented = {}
    for name, a, b, c, level, cam in rows(text("losses.md"), "`--loss`"):
        level, _, target = level.partition(", ")
        documented[name.split("`")[1]] = (float(a), float(b), float(c), level, target, cam)
    assert documented == {
        name: (
            loss.classification_weight,
            loss.focus_weight,
            loss.saliency_weight,
            loss.level,
            "" if loss.entropy_target is None else f"{loss.entropy_target:g}",
            loss.cam_class,
        )
        for name, loss in LOSSES.items()
    }


def test_the_readmes_table_of_the_losses() -> None:
    """With a = 1, b = 0 and c = 0 where it says nothing else."""
    after = (DOCS.parent / "README.md").read_text(encoding="utf-8").partition("\n## The loss\n")[2]
    table = after.partition("\n| `--loss` |")[2].partition("\n\n")[0].splitlines()[2:]
    documented = {}
    for line in table:
        _, name, _, weights, _ = line.split("|")
        given = dict(re.findall(r"([abc]) = ([\d.]+)", weights))
        documented[name.split("`")[1]] = [float(given.get(k, k == "a")) for k in "abc"]
    assert documented == {
        name: [loss.classification_weight, loss.focus_weight, loss.saliency_weight]
        for name, loss in LOSSES.items()
    }


def test_min_max_before_softmax_leaves_little_entropy() -> None:
    """The number in losses.md; the lowest of all maps in [0, 1] has cells at its ends only."""
    lowest = []
    for bright in range(1, 49):
        z = np.repeat([0.0, 1.0], [49 - bright, bright])
        p = np.exp(z) / np.exp(z).sum()
        lowest.append(-(p * np.log(p)).sum() / np.log(49))
    assert f"{min(lowest):.3f}" == "0.968"
    assert "between 0.968\nand 1" in text("losses.md")


def test_one_vector_more_in_both_rows_changes_each_cam_but_not_the_contrast() -> None:
    """What losses.md says of two classes."""
    torch.manual_seed(0)
    features, weight, bias = torch.rand(3, 5, 4, 4), torch.randn(2, 5), torch.randn(2)
    moved, target = weight + torch.randn(5), torch.tensor([0, 1, 1])

    def head(rows: torch.Tensor, cam_class: CamClass) -> tuple[torch.Tensor, torch.Tensor]:
        out = focus_head(features, rows, bias, target, cam_class=cam_class)
        return out.classification, out.cam

    cases: list[tuple[CamClass, bool]] = [("true", False), ("contrast", True)]
    for cam_class, same in cases:
        before, after = head(weight, cam_class), head(moved, cam_class)
        torch.testing.assert_close(before[0], after[0])
        assert torch.allclose(before[1], after[1], atol=1e-5) == same


def test_operating_points() -> None:
    document = text("evaluation.md")
    names = [re.findall(r"`(\w+)`", row[0]) for row in rows(document, "point")]
    assert [name for row in names for name in row] == list(POINTS)
    wanted = ", ".join(str(needed(target)) for target in TARGETS.values())
    assert f"they need {wanted} of them" in document
    assert (SUPPORT, f"{needed(0.001):,}", needed(0.01)) == (5, "5,000", 500)
    assert "`tpr_at_fpr_0.001` needs 5,000 real\nimages, 0.01 needs 500" in document
    assert f"{RESAMPLES:,} resamples" in document
    assert sum(map(len, STRENGTHS.values())) == 20
    assert "20 times the time" in document
    assert (PLACES, PLACES + 2) == (8, 10)  # and the image itself, and its peak
    assert "eight boxes" in document
    assert "10 times the time" in document


def test_every_figure_is_explained() -> None:
    """Of those that formats.md lists, which tests/test_formats.py ties to the code."""
    formats = text("formats.md").partition("## results.json")[2].partition("## thresholds.json")[0]
    listed = set()
    for part in formats.split("\n| field |")[1:]:
        for line in part.partition("\n\n")[0].splitlines()[2:]:
            listed |= set(re.findall(r"`([a-z_]+)", line.split("|")[1]))
    suffix = r"(_real|_fake|_synthetic|_balanced|_pooled|_generator|_at_fpr_)+$"
    stems = {re.sub(suffix, "", name) for name in listed}
    assert {"auc", "cllr", "map_mass", "apcer", "apcer_max", "tpr", "pointing_hit"} <= stems
    document = text("evaluation.md")
    explained = {re.sub(suffix, "", name) for name in re.findall(r"`([a-z_]+)", document)}
    assert stems - explained == set()


def test_what_is_installed_beside_rocm_is_all_but_torch_and_triton() -> None:
    with (DOCS.parent / "pyproject.toml").open("rb") as file:
        needed = tomllib.load(file)["project"]["dependencies"]
    (line,) = re.findall(r'^pip install "(.*)"$', text("training.md"), re.MULTILINE)
    left_out = ("torch>=", "torchvision>=", "triton>=")
    assert line.split('" "') == [one for one in needed if not one.startswith(left_out)]


def test_the_flags_that_a_resumed_run_may_change() -> None:
    fields = dict(rows(text("formats.md"), "field of state.json"))
    named = set(re.findall(r"`--([a-z-]+)`", fields["`config`"]))
    assert named == {name.replace("_", "-") for name in _FREE} - {"resume"}
