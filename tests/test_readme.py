"""README and docs are right: their commands, flags, links and examples work.

Bash itself takes the blocks of code apart, loops and variables included, with functions in the
place of the programs, which print what they were called with.
"""

import ast
import doctest
import inspect
import pkgutil
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from PIL import Image

import focus as package
from focus.__main__ import COMMANDS
from focus.__main__ import main as focus
from focus.config.command_line import parse
from focus.config.options import flag, flags
from focus.data.demo import render_face

CHECKOUT = Path(__file__).parents[1]
MADE_BY_MAKE = ("index.md", "contributing.md", "changelog.md")
"""Copies of other documents, which are there once ``make docs`` has run."""
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    *(f"docs/{p.name}" for p in CHECKOUT.glob("docs/*.md") if p.name not in MADE_BY_MAKE),
)
PROGRAMS = ("accelerate", "focus", "make", "pip", "pytest", "python", "torchrun")
RUN_ELSEWHERE = ("annotating", "experiment", "real-data", "reproduce")
"""In small, by tests/annotate, tests/experiment and tests/test_reproduce.py."""

Words = tuple[str, ...]


def text(document: str) -> str:
    return (CHECKOUT / document).read_text(encoding="utf-8")


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text(document), re.MULTILINE | re.DOTALL)


def commands(document: str) -> list[Words]:
    """Return a document's commands; of those that differ in their numbers alone, the first."""
    script = [
        f"{name}() {{ printf '%s\\x1f' {name} \"$@\"; printf '\\x1e'; }}" for name in PROGRAMS
    ]
    for block in blocks(document, "(?:bash|sh|text)"):
        first = block.split(maxsplit=1)[0]
        if first in (*PROGRAMS, "for") or "=" in first:  # other text is no shell
            script.append(block)
    # Without a PATH nothing else can run, and a word that is no program of the list is an error.
    done = subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", "\n".join(script)],
        env={"PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    calls = [tuple(call.split("\x1f")[:-1]) for call in done.stdout.split("\x1e")[:-1]]
    return list({re.sub(r"\d+", "0", " ".join(c)): c for c in reversed(calls)}.values())[::-1]


def as_focus(words: Words) -> list[str]:
    """Return what the command ``focus`` takes to do the same; nothing for other programs."""
    if words[0] == "focus":
        return list(words[1:])
    for position, word in enumerate(words):
        if word in ("train.py", "evaluate.py"):
            return [Path(word).stem, *words[position + 1 :]]
        if word == "-m" and words[position + 1].split(".")[0] == "focus":
            return [*words[position + 1].split(".")[1:], *words[position + 2 :]]
    return []


def read(words: Words) -> None:
    """Read a command as its program's own parser does."""
    name, *rest = words
    if name == "pip":
        extras = tomllib.loads(text("pyproject.toml"))["project"]["optional-dependencies"]
        named = re.findall(r"\.\[(.+?)\]", " ".join(rest))
        assert {extra for names in named for extra in names.split(",")} <= set(extras), words
    elif name == "make":
        targets = re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE)
        assert {word for word in rest if "=" not in word} <= set(targets), words
    elif name == "accelerate":
        from accelerate.commands.launch import launch_command_parser

        launched = launch_command_parser().parse_args(rest[1:])
        assert Path(launched.config_file or CHECKOUT).exists(), words
    elif name == "torchrun":
        from torch.distributed.run import get_args_parser

        get_args_parser().parse_args(rest)
    elif name == "python" and rest[1].startswith("bench"):
        module = CHECKOUT / rest[1].replace(".", "/")
        assert module.is_dir() or module.with_suffix(".py").exists(), words
        assert {word for word in rest[2:] if word.startswith("--")} <= flags_of_bench(), words
    if focus_words := as_focus(words):
        command: Any = COMMANDS
        while isinstance(command, Mapping):
            command = command[focus_words.pop(0)]
        parse(pkgutil.resolve_name(command.config), focus_words)


def flags_of_bench() -> set[str]:
    sources = [path.read_text() for path in CHECKOUT.glob("bench/**/*.py")]
    return set(re.findall(r'"(--[a-z][a-z-]*)"', "".join(sources)))


def flags_of(command: Any) -> set[str]:
    """Return all flags of a command with its sub-commands."""
    if isinstance(command, Mapping):
        return set().union(*(flags_of(subcommand) for subcommand in command.values()))
    return set(map(flag, flags(pkgutil.resolve_name(command.config))))


def test_quick_start_is_two_commands() -> None:
    section = text("README.md").split("\n## Quick start\n")[1].split("\n## ")[0]
    assert re.findall(r"^```bash\n(.*?)\n```$", section, re.MULTILINE | re.DOTALL) == [
        "pip install -e . && accelerate launch train.py",
        "pip install -e '.[test]' && pytest",
    ]
    assert section.count("```") == 4


@pytest.mark.parametrize("document", DOCUMENTS)
def test_each_command_is_read_by_its_program(
    document: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(CHECKOUT)  # where configs/ are
    for words in commands(document):
        read(words)


def test_flags_and_files_and_sections_that_are_named_exist() -> None:
    existing_flags = flags_of(COMMANDS) | flags_of_bench() | {"--config", "--help", "--run-slow"}
    # Those of accelerate, torchrun, pip and Slurm.
    existing_flags |= {"--num-processes", "--num_processes", "--multi-gpu", "--cpu"}
    existing_flags |= {"--config_file", "--nproc_per_node", "--no-deps", "--signal", "--quiet"}
    existing_flags |= {"--nnodes", "--node_rank", "--master_addr", "--master_port"}
    existing_flags |= {"--num_machines", "--machine_rank", "--main_process_ip"}
    existing_flags |= {"--main_process_port", "--multi_gpu", "--mixed_precision"}
    for document in DOCUMENTS:
        prose = text(document)
        named_flags = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9_-]+", prose))
        assert named_flags - existing_flags == set(), document
        for link in re.findall(r"\]\((?!https?://)([^)]+)\)", prose):
            target, _, anchor = link.partition("#")
            file = (CHECKOUT / document).parent / target if target else CHECKOUT / document
            assert file.exists(), (document, link)
            if anchor:
                titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
                plain = {
                    re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles
                }
                assert anchor in plain, (document, link)


@pytest.mark.slow
def test_the_library_examples_run() -> None:
    names: dict[str, Any] = {}
    exec(blocks("README.md", "python")[0], names)
    assert names["out"].loss.requires_grad
    assert names["out"].cam.shape == (4, 7, 7)
    exec(blocks("docs/use.md", "python")[2], names)
    assert names["network"].fc.weight.grad.count_nonzero() > 0
    assert names["network"].conv1.weight.grad.count_nonzero() > 0
    assert names["out"].saliency.count_nonzero() == 4
    assert names["entropy"].requires_grad


OWN = ["--data=original.csv", "--data-root=images", "--human-maps=human_maps"]
TESTS = ["--test-data=near-1=fakes", "--test-real=FFHQ=reals"]
SMALL = ["--recipe=demo", "--threads=1", "--workers=0"]
FEWER = {"train": [*SMALL, "--dry-run"], "explain": SMALL[1:2]}
FEWER |= {"evaluate": [*SMALL[1:], "--report=false"]}
FEWER |= {"export": SMALL[1:2], "data check": [], "data crop": []}
"""What is added to a command so that it runs on a few images."""


@pytest.fixture(scope="module")
def working_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the files that the documents name, and two runs of an epoch: NAME, OTHER."""
    folder = tmp_path_factory.mktemp("place")
    write_files(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, loss in (("NAME", "blend"), ("OTHER", "ce")):
            words = [*OWN, *TESTS, *SMALL, "--epochs", "1", "--name", name, "--loss", loss]
            # Commands that are run on these write reports of their own.
            focus(["train", *words, "--report=false"])
        for also, name in (("first", "NAME"), ("npr-ce", "OTHER"), ("npr-blend", "NAME")):
            (folder / f"runs/{also}").symlink_to(name)
        focus(["data", "manipulate", "DIR/real", "made", "--image-size=64"])
        yield folder


def write_files(folder: Path) -> None:
    """Write the data that the documents' commands name, in small: drawn faces with human maps."""

    def draw(kind: str, number: int, *names: str) -> np.ndarray[Any, Any] | None:
        picture = render_face("train" if kind == "known-1" else "open", kind, number)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.image).save(folder / name)
        return picture.human_map

    rows, table, boxes = [], ["filename,kind"], ["path,label,box"]
    (folder / "human_maps").mkdir()
    for number in range(24):
        kind, label, generic = (("real",) * 3, ("known-1", "Synthetic", "fake"))[number % 2]
        split = "train" if number < 16 else "test"
        path = f"images/{kind}/{number}.png"
        tree = f"faces/StyleGAN2/{number % 2}_{generic}/{number}.png"
        human_map = draw(kind, number, path, tree)
        draw(kind, 300 + number, f"DIR/{generic}/{number}.png")
        rows.append(f"{split},{label.title()},/{kind}/{number}.png")
        table.append(f"{path},{label}")
        if human_map is not None:
            Image.fromarray(human_map).save(folder / f"human_maps/{number}.png")
    for number in range(4):
        file = f"{number}.png"
        draw("near-1", 100 + number, f"fakes/{file}", f"unknown/StyleGAN3/{file}")
        draw("real", 200 + number, f"reals/{file}", f"pictures/{file}", f"unknown/FFHQ/{file}")
        boxes.append(f"pictures/{number}.png,real,10 10 50 54")
    for number, name in enumerate(("a.jpg", "b.png", "picture.jpg", "holiday/1.png")):
        draw("near-1", 300 + number, name)
    for name in ("theirs", "A", "B"):
        write_scores(folder / f"{name}.csv")
    wide = ["path,label,generator,npr,effort,univfd"]
    wide += [f"{n}.png,{n % 2},{'ProGAN' * (n % 2)},{n / 23},{n / 25},{n / 27}" for n in range(24)]
    tables = {"original": rows, "table": table, "pictures": boxes, "wide": wide}
    for name, lines in tables.items():
        (folder / f"{name}.csv").write_text("\n".join(lines))


def write_scores(path: Path) -> None:
    """Write the scores of 24 images, half of them fakes of ProGAN, as another detector's."""
    rows = ["path,label,score,generator"]
    for number in range(24):
        generator = "ProGAN" if number % 2 else ""
        rows.append(f"{number}.png,{number % 2},{number / 23},{generator}")
    path.write_text("\n".join(rows))


def write_film(path: Path) -> None:
    """Write a second of drawn faces as MPEG-4."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 64
        for number in range(5):
            pixels = render_face("open", "near-1", 200 + number).image
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.slow
@pytest.mark.parametrize("name", FEWER)
def test_commands_run_on_a_few_images(name: str, working_folder: Path) -> None:
    """Those of training as dry runs, which make steps and write nothing."""
    shown = [
        as_focus(w) for d in DOCUMENTS if Path(d).stem not in RUN_ELSEWHERE for w in commands(d)
    ]
    distinct_commands = {
        " ".join(words): words for words in shown if f"{' '.join(words)} ".startswith(f"{name} ")
    }
    assert distinct_commands
    if name == "explain":
        write_film(working_folder / "film.mp4")
    before = sorted(working_folder.rglob("*"))
    for words in distinct_commands.values():
        data = OWN if name == "train" and "--data" not in words else []
        if "--tune" in words and "--initial-checkpoint" not in words:
            data = [*data, "--initial-checkpoint", "runs/NAME/model/model.safetensors"]
        focus([*words, *data, *FEWER[name]])
        AcceleratorState._reset_state(reset_partial_state=True)  # another may be in bf16
        for option in {"--output", "--onnx"}.intersection(words):
            made = Path(words[words.index(option) + 1])
            assert made.is_file() or any(made.iterdir()), words
            made.unlink() if made.is_file() else shutil.rmtree(made)  # two documents name it
    assert name != "train" or sorted(working_folder.rglob("*")) == before


@pytest.mark.slow
def test_the_commands_are_functions(working_folder: Path) -> None:
    example = blocks("docs/use.md", "python")[0].replace("first", "python")
    names: dict[str, Any] = {}
    exec(example.replace("TrainConfig(", 'TrainConfig(recipe="demo", epochs=1, workers=0, '), names)
    assert names["again"].results["open"]["generators"].keys() == {"SG3"}
    assert (working_folder / "elsewhere/scores.csv").is_file()
    assert names["face"].cams.shape[1] == 2


@pytest.mark.slow
def test_the_example_of_a_trained_detector_runs(working_folder: Path) -> None:
    example = blocks("docs/use.md", "python")[1]
    names: dict[str, Any] = {}
    exec(example, names)
    prediction, (rows, columns) = names["prediction"], names["detector"].grid
    shapes = re.findall(r"^prediction\.(\w+)  # \[([^\]]*)\]", example, re.MULTILINE)
    assert [name for name, _ in shapes] == list(prediction._fields)
    for name, shape in shapes:
        size = shape.replace("H", str(rows)).replace("W", str(columns)).split(",")
        assert list(getattr(prediction, name).shape) == [int(side) for side in size], name


PUBLIC = {name: package._HOME[name] for name in package.__all__ if not name.startswith("__")}
PUBLIC |= dict.fromkeys(
    ("cam_entropy", "class_activation", "focus_head"), "focus.kernels.operations"
)
PUBLIC |= dict.fromkeys(("DetectionMetrics", "detection_metrics"), "focus.metrics.detection")
RETURNED = {
    "FocusHeadOutput": "focus.kernels.types",
    "Prediction": "focus.model.prediction",
    "Evaluation": "focus.report.evaluation",
    "Trained": "focus.training.run",
    "Explanation": "focus.use.explanations",
    "Explanations": "focus.use.explanations",
}
"""What the public names return."""
WITH_EXAMPLES = PUBLIC | RETURNED
NEED_A_RUN = ("train", "evaluate", "explain", "Trained", "Explanation", "Explanations")


def docstring(name: str) -> str:
    """Return the docstring of a public name; that of a value is the string below it."""
    source = inspect.getsource(pkgutil.resolve_name(WITH_EXAMPLES[name]))
    statements = ast.parse(source).body
    for statement, next_statement in pairwise([*statements, ast.Pass()]):
        match statement:
            case ast.FunctionDef(name=defined) | ast.ClassDef(name=defined) if defined == name:
                return ast.get_docstring(statement) or ""
            case ast.Assign(targets=[ast.Name(id=defined)]) if defined == name:
                pass
            case ast.AnnAssign(target=ast.Name(id=defined)) if defined == name:
                pass
            case _:
                continue
        match next_statement:
            case ast.Expr(value=ast.Constant(value=str(documentation))):
                return inspect.cleandoc(documentation)
    return ""


class ShownOutput(doctest.OutputChecker):
    """Compare the output of those lines of an example below which an output is shown."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return not want or super().check_output(want, got, optionflags)


def run_example(name: str) -> None:
    example = doctest.DocTestParser().get_doctest(docstring(name), {}, name, None, None)
    assert example.examples, f"the docstring of {name} has no example"
    failures: list[str] = []
    doctest.DocTestRunner(checker=ShownOutput()).run(example, out=failures.append)
    assert not failures, "".join(failures)


@pytest.mark.parametrize("name", [name for name in WITH_EXAMPLES if name not in NEED_A_RUN])
def test_the_example_of_a_public_name_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scores(tmp_path / "theirs.csv")
    monkeypatch.chdir(tmp_path)
    run_example(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", NEED_A_RUN)
@pytest.mark.usefixtures("working_folder")
def test_the_example_of_a_function_runs(name: str) -> None:
    run_example(name)
