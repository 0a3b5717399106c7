"""README and docs say what is there: commands, flags, files and the code example."""

import functools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

from focus.__main__ import main as use_command
from focus.config.command_line import parse
from focus.config.command_line import run as run_program
from focus.config.data import CheckConfig, CropConfig, DemoConfig
from focus.config.experiment import ExperimentConfig
from focus.config.options import flag
from focus.config.train import EvaluateConfig, TrainConfig
from focus.config.use import ExplainConfig, ExportConfig
from focus.data.__main__ import main as data_command
from focus.errors import InputError
from focus.training.run import train
from focus.use.evaluate import evaluate

from .commands import experiment
from .documented import (
    CHECKOUT,
    DOCUMENTS,
    Command,
    commands,
    of_document,
    program,
    write_files,
    write_film,
)
from .launching import trained

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
ELSEWHERE = ("docs/reproduce.md", "docs/experiment.md")
"""Whose commands build on each other: tests/test_reproduce.py runs the first's, with stand-ins for
data that are given out on request; the second's are run below, one after the other."""


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_quick_start_is_two_commands() -> None:
    section = README.split("\n## Quick start\n")[1].split("\n## ")[0]
    assert blocks("bash", section) == [
        "pip install -e . && accelerate launch train.py\n",
        "pip install -e '.[test]' && pytest\n",
    ]
    assert section.count("```") == 4


@pytest.mark.slow
def test_the_library_examples_run() -> None:
    example, own_loop = blocks("python")
    assert len(example.splitlines()) <= 14
    names: dict[str, torch.Tensor] = {}
    exec(example, names)
    assert names["out"].loss.requires_grad
    assert names["out"].cam.shape == names["cam"].shape == (4, 7, 7)
    assert names["entropy"].requires_grad
    exec(own_loop, names)
    assert names["network"].fc.weight.grad.count_nonzero() > 0
    assert names["network"].conv1.weight.grad.count_nonzero() > 0
    assert names["out"].saliency.count_nonzero() == 4


CONFIGS: dict[str, type[Any]] = {
    "train.py": TrainConfig,
    "evaluate.py": EvaluateConfig,
    "focus explain": ExplainConfig,
    "focus export": ExportConfig,
    "focus.data check": CheckConfig,
    "focus.data crop": CropConfig,
    "focus.data demo": DemoConfig,
    "focus.experiment": ExperimentConfig,
}
"""What each program takes."""


@functools.cache
def help_of(*words: str) -> str:
    """What ``python -m MODULE [COMMAND] --help`` prints."""
    done = subprocess.run(
        [sys.executable, "-m", *words, "--help"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


def module_of(words: tuple[str, ...]) -> tuple[str, ...]:
    """Of ``-m MODULE COMMAND PATH --flag``: the module, and the command if it has commands."""
    if words[0] != "-m":
        return words[:1]
    module, *rest = words[1:]
    command = rest[:1] if module in ("focus", "focus.data") else []
    return module, *command


def read(words: tuple[str, ...]) -> None:
    """Read what the documents call a program with, by that program's own parser."""
    name, *rest = words
    if name == "pip":
        extras = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
        for named in re.findall(r"\[(.+?)\]", " ".join(rest)):
            assert set(named.split(",")) <= set(extras["optional-dependencies"]), words
    elif name == "make":
        targets = re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in rest if "=" not in word} <= set(targets), words
    elif name == "pytest":
        assert not rest, words
    elif name in ("accelerate", "torchrun"):
        parser = launch_command_parser() if name == "accelerate" else get_args_parser()
        found = parser.parse_args(rest[1:] if name == "accelerate" else rest)
        assert Path(getattr(found, "config_file", None) or CHECKOUT).exists(), words
        read(("python", found.training_script, *found.training_script_args))
    elif " ".join(place := module_of(words[1:])) in CONFIGS:
        parse(CONFIGS[" ".join(place)], rest[len(place) + (rest[0] == "-m") :])
    else:
        assert rest[0] == "-m", words
        known = re.findall(r"--[a-z][a-z-]*", help_of(*module_of(tuple(rest))))
        flags = [word.partition("=")[0] for word in rest if word.startswith("--")]
        assert set(flags) <= set(known), words


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_commands_can_be_read(document: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CHECKOUT)  # where configs/ are
    for command in of_document(document):
        read(command.words)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "accelerate launch train.py --los ce",
        "accelerate launch --config_file configs/none.yaml train.py",
        "torchrun --processes 2 train.py",
        "python train.py --loss focus --entropy-target 0.3",
        "python evaluate.py --model-dir a --run b",
        "python -m focus.data check --data-root a",
        "python -m focus.data crop a.csv --marge 0.3 --output b",
        "python -m focus.data crip a.csv",
        "python -m focus.experiment --quickly",
        "python -m bench.codegen --klasses 3",
        "make tests",
        "pip install focus-faces[hubs]",
    ],
)
def test_a_command_that_cannot_be_read_is_found(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CHECKOUT)
    with pytest.raises((AssertionError, InputError, SystemExit)):
        read(tuple(text.split()))


def test_a_shell_takes_the_blocks_apart() -> None:
    text = """
```text
# no command
```
```bash
names=(a "b c")  # two
for n in 1 2; do
  python evaluate.py --run $n \\
      "${names[@]}" && make x
done
```
<!-- long -->
```text
python train.py ${names[0]}
```
"""
    evaluation, target = ("python", "evaluate.py", "--run"), ("make", "x")
    assert commands(text) == [
        ((*evaluation, "1", "a", "b c"), False),
        (target, False),
        ((*evaluation, "2", "a", "b c"), False),
        (target, False),
        (("python", "train.py", "a"), True),
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the files that the documents name, and two runs of an epoch: NAME, OTHER."""
    folder = tmp_path_factory.mktemp("place")
    write_files(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("FOCUS_CACHE", str(folder / "cache"))
        for name, loss in (("NAME", "blend"), ("OTHER", "ce")):
            argv = [*OWN_DATA, *TESTS, *SMALL, "--epochs", "1", "--name", name, "--loss", loss]
            run_program(train, TrainConfig, argv=argv, prog="train.py")
        yield folder


OWN_DATA = ["--data", "original.csv", "--data-root", "images", "--heatmaps", "heatmaps"]
SMALL = ["--recipe", "demo", "--threads", "1", "--workers", "0"]
TESTS = ["--test-data", "uNear=fakes", "--test-real", "FFHQ=reals"]
CHEAP = (
    *("train.py", "evaluate.py", "focus.data check", "focus.data crop"),
    *("focus explain", "focus export"),
)
LENGTHY = ("train.py", "focus.data demo", "focus.experiment")
TIMED = ("bench", "bench.plot")
"""Minutes of measuring: tests/bench runs them in short."""


def kind(command: Command) -> str:
    """``train.py``, ``focus.data crop`` and so on; "" of what is no program of this project."""
    words = program(command)
    return " ".join(module_of(words)) if words[:1] == ("-m",) else "".join(words[:1])


def shown(kinds: tuple[str, ...], *, long: bool) -> list[object]:
    """The commands to run, each once whatever document shows it."""
    found: dict[tuple[str, ...], Command] = {}
    for document in DOCUMENTS:
        if document not in ELSEWHERE:
            for command in of_document(document):
                if kind(command) in kinds and command.long == long:
                    found.setdefault(program(command), command)
    return [pytest.param(command, id=" ".join(words)[:60]) for words, command in found.items()]


@pytest.mark.slow
@pytest.mark.parametrize("command", shown(CHEAP, long=False))
def test_a_command_runs(command: Command, place: Path) -> None:
    """train.py as a dry run: steps that it really makes, and nothing written."""
    before = sorted(place.glob("runs/*"))
    name, *rest = program(command)
    if name == "train.py":
        data = [] if "--data" in rest else OWN_DATA
        argv = [*rest, *data, *SMALL, "--dry-run"]
        run_program(train, TrainConfig, argv=argv, prog=name)
        assert sorted(place.glob("runs/*")) == before
    elif name == "evaluate.py":
        argv = [*rest, "--threads", "1", "--workers", "0"]
        run_program(evaluate, EvaluateConfig, argv=argv, prog=name)
        output = Path(
            rest[rest.index("--output") + 1] if "--output" in rest else "runs/NAME/evaluation"
        )
        if "--compare" in rest:
            assert (place / "comparison" / "report.html").exists()
        else:
            assert (output / "scores.csv").exists()
    elif kind(command) == "focus explain":
        if "film.mp4" in rest:
            write_film(place / "film.mp4")
        use_command([*rest[1:], "--threads", "1"])
        assert (place / "explained" / "manifest.json").exists()
        shutil.rmtree(place / "explained")  # two documents name it
    elif kind(command) == "focus export":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package, reason=f"{package} is not installed")
        use_command([*rest[1:], "--threads", "1"])
        (place / "detector.onnx").unlink()
    else:
        data_command(rest[1:])


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name not in ELSEWHERE])
def test_each_command_is_run(document: str) -> None:
    """Quickly, or scaled down where it is marked as long; those of pip, make, pytest are read."""
    for command in of_document(document):
        run = (*LENGTHY, *TIMED) if command.long else CHEAP
        assert kind(command) in ("", *run), command


@pytest.mark.slow
def test_the_example_of_a_trained_detector_runs(place: Path) -> None:
    (example,) = blocks("python", (CHECKOUT / "docs/use.md").read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    exec(example, names)
    found, (rows, columns) = names["found"], names["detector"].grid
    told = re.findall(r"^found\.(\w+)  # \[([^\]]*)\]", example, re.MULTILINE)
    assert [name for name, _ in told] == list(found._fields)
    for name, shape in told:
        size = shape.replace("H", str(rows)).replace("W", str(columns)).split(",")
        assert list(getattr(found, name).shape) == [int(side) for side in size], name


@pytest.mark.slow
@pytest.mark.parametrize("command", shown(LENGTHY, long=True))
def test_a_long_command_runs_scaled_down(command: Command, place: Path, tmp_path: Path) -> None:
    """As a process of its own, with one epoch, one seed and two losses on a few images."""
    words = list(program(command))
    if kind(command) == "focus.experiment":
        words += [*OWN_DATA, *TESTS, "--recipe", "demo", "--epochs", "1", "--seeds", "1"]
        words += ["--losses", "ce,focus", "--jobs", "1"]
        words += [] if "--quick" in words else ["--quick"]
    elif kind(command) == "train.py":
        words = [*words[1:], *SMALL, "--epochs", "1"]
        words += [] if "--data" in words else OWN_DATA
        words += ["--output", str(tmp_path)]  # two commands may mean one run
        done = trained(*words, cwd=place, FOCUS_CACHE=str(place / "cache"))
        assert done.returncode == 0, done.stdout + done.stderr
        return
    launch(words, place)


@pytest.mark.slow
@pytest.mark.usefixtures("own_threads")
def test_the_experiments_commands_run_scaled_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In their order, with cross-entropy alone, one epoch and one seed on a few images."""
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    found = of_document("docs/experiment.md")
    assert {kind(command) for command in found} == {"focus.experiment"}
    for command in found:
        words = [*program(command)[2:], "--recipe", "demo", "--epochs", "1", "--seeds", "1"]
        words += [*("--losses", "ce"), *("--jobs", "1")]
        words += [] if "--data" in words else [*OWN_DATA, *TESTS]
        assert experiment(words) == 0, command
    for output in ("experiment", "own"):
        assert (tmp_path / output / "search" / "weights.yaml").exists()
        assert (tmp_path / output / "report.md").exists()


def launch(words: Sequence[str], place: Path) -> None:
    """Run Python with the words in a process of its own, which must end well."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=place,
        env=os.environ | {"FOCUS_CACHE": str(place / "cache")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS)
def test_flags_and_files_that_are_named_exist(document: str) -> None:
    text = (CHECKOUT / document).read_text(encoding="utf-8")
    known = {flag(f.name) for config in CONFIGS.values() for f in fields(config)}
    # Flags of the launcher, of pip and pytest.
    known |= {"--config", "--help", "--run-slow", "--num-processes", "--multi-gpu"}
    known |= {"--expect", "--cpu", "--signal", "--num_processes", "--config_file"}
    known |= {"--nproc_per_node", "--no-deps"}
    for command in of_document(document):
        if program(command)[:1] == ("-m",):
            known |= set(re.findall(r"--[a-z][a-z-]*", help_of(*module_of(program(command)))))
    for module in ("bench.codegen", "bench.gpu"):
        known |= set(re.findall(r"--[a-z][a-z-]*", help_of(module)))
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z_-]+", text)) - known == set()
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", text):
        assert (CHECKOUT / document).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_to_sections_lead_there(document: str) -> None:
    text = (CHECKOUT / document).read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#]*)#([^)]+)\)", text):
        other = (CHECKOUT / document).parent / (target or Path(document).name)
        titles = re.findall(r"^#+ (.*)$", other.read_text(encoding="utf-8"), re.MULTILINE)
        plain = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
        assert anchor in plain, (target, anchor)
