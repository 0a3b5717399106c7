"""Tables and figures of the docs are those of the code."""

import re
import tomllib
from pathlib import Path

import focus
from focus.config.losses import LOSSES
from focus.config.options import POINTS
from focus.data.perturbations import ROBUSTNESS, STRENGTHS
from focus.evaluation.faithfulness import PLACES
from focus.kernels.terms import Terms
from focus.metrics.bootstrap import RESAMPLES
from focus.metrics.ranking import SUPPORT, needed
from focus.model.operating_points import TARGETS
from focus.report.page import GLOSSARY
from focus.training.run_folder import _FREE

DOCS = Path(__file__).parents[1] / "docs"


def text(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def rows(document: str, first: str) -> list[list[str]]:
    """Return the cells of the table whose head begins with ``first``, without head and rule."""
    _, head, after = document.partition(f"\n| {first} |")
    assert head, first
    lines = after.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r" ?\| ?", line)[1:-1]] for line in lines]


def test_the_named_losses() -> None:
    documented = {}
    for name, *weights, level, cam in rows(text("losses.md"), "`--loss`"):
        level, _, target = level.partition(", ")
        of_terms = Terms(*(float(weight) for weight in weights))
        documented[name.split("`")[1]] = (of_terms, level, target, cam)
    assert documented == {
        name: (
            loss.weights,
            loss.focus_level,
            "" if loss.entropy_target is None else f"{loss.entropy_target:g}",
            loss.cam_class,
        )
        for name, loss in LOSSES.items()
    }


def test_operating_points() -> None:
    document = text("evaluation.md") + text("intervals.md") + text("robustness.md")
    names = [re.findall(r"`(\w+)`", row[0]) for row in rows(document, "point")]
    assert [name for row in names for name in row] == list(POINTS)
    wanted = ", ".join(str(needed(target)) for target in TARGETS.values())
    assert f"they need {wanted} of them" in document
    assert (SUPPORT, f"{needed(0.001):,}", needed(0.01)) == (5, "5,000", 500)
    assert "`tpr_at_fpr_0.001` needs 5,000 real\nimages, 0.01 needs 500" in document
    assert f"{RESAMPLES:,} resamples" in document
    assert sum(len(STRENGTHS[name]) for name in ROBUSTNESS) == 25
    assert "25 times the time" in document
    assert (PLACES, PLACES + 2) == (8, 10)  # and the image itself, and its peak
    assert "eight boxes" in document
    assert "10 times the time" in document


def test_every_figure_is_explained() -> None:
    """evaluation.md explains those that formats.md lists, which test_formats ties to the code."""
    formats = text("formats.md").partition("## results.json")[2].partition("## thresholds.json")[0]
    listed = set()
    for part in formats.split("\n| field |")[1:]:
        for line in part.partition("\n\n")[0].splitlines()[2:]:
            listed |= set(re.findall(r"`([a-z_]+)", line.split("|")[1]))
    suffix = r"(_on_real|_on_synthetic|_synthetic|_balanced|_pooled|_generator|_at_fpr_)+$"
    stems = {re.sub(suffix, "", name) for name in listed}
    assert {"auc", "cllr", "map_mass", "apcer", "apcer_max", "tpr", "pointing_hit"} <= stems
    document = text("evaluation.md") + text("intervals.md")
    explained = {re.sub(suffix, "", name) for name in re.findall(r"`([a-z_]+)", document)}
    assert stems - explained == set()


def test_what_is_installed_beside_rocm_is_all_but_torch_and_triton() -> None:
    with (DOCS.parent / "pyproject.toml").open("rb") as file:
        needed = tomllib.load(file)["project"]["dependencies"]
    (line,) = re.findall(r'^pip install "(.*)"$', text("launching.md"), re.MULTILINE)
    left_out = ("torch>=", "torchvision>=", "triton>=")
    assert line.split('" "') == [one for one in needed if not one.startswith(left_out)]


def test_the_flags_that_a_resumed_run_may_change() -> None:
    fields = dict(rows(text("formats.md"), "field of state.json"))
    named = set(re.findall(r"`--([a-z0-9-]+)`", fields["`config`"]))
    assert named == {name.replace("_", "-") for name in _FREE} - {"resume"}


def test_the_page_on_the_architecture_names_each_module_and_only_what_is_there() -> None:
    page, root = text("architecture.md"), DOCS.parent
    modules = [path for name in ("focus", "kernels") for path in root.glob(f"{name}/**/*.py")]
    for module in modules:
        package, name = module.parent.relative_to(root), module.stem.split("_")[0] + "_"
        row = "".join(re.findall(rf"^\| .*`{package}[`/].*$", page, re.MULTILINE))
        named = (f"`{module.stem}`", f"`{name}*`", f"/{module.name}`")
        assert module.stem.startswith("__") or any(spelling in row for spelling in named), module
    sources = "".join(path.read_text(encoding="utf-8") for path in modules)
    for name in re.findall(r"`([A-Za-z][\w./]*)`", page):
        if name.endswith(".py"):
            assert any((root / folder / name).exists() for folder in ("", "focus")), name
        elif "/" not in name:
            assert re.search(rf"\b{name.split('.')[-1]}\b", sources), name


def test_the_site_has_each_page_once() -> None:
    (menu,) = re.findall(r"^nav:\n(.*)", text("../mkdocs.yml"), re.MULTILINE | re.DOTALL)
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    made_by_make = {"index.md", "contributing.md", "changelog.md"}
    assert sorted(re.findall(r"[\w./-]+\.md", menu)) == sorted(pages | made_by_make)


def test_the_reference_has_a_page_for_each_public_name() -> None:
    names = [f"focus.{name}" for name in focus.__all__ if not name.startswith("__")]
    assert "focus.train" in names
    for name in names:
        page = f"reference/{name}.md"
        assert text(page).startswith(f"::: {name}\n"), name
        assert f"- {name}: {page}\n" in text("../mkdocs.yml"), name
        assert f"| [`{name}`]({page}) |" in text("reference.md"), name


def test_the_glossary_is_that_of_the_reports() -> None:
    assert dict(rows(text("glossary.md"), "word")) == GLOSSARY
