"""What the programs print for a shell: each command and flag is pasted as printed, and works.

``PRINTED`` says what is run; what that prints, and so what is pasted, is nowhere written down here.
A capital word, as NAME, PATH or FILE, stands for the user's own, and there is a file of that name.
"""

import csv
import io
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from focus.__main__ import main as focus
from focus.config.options import flag, flags
from focus.config.train import TrainConfig

from .launching import write_faces

pytestmark = pytest.mark.slow

SMALL = ["--recipe", "demo", "--model", "test_resnet", "--image-size", "64", "--batch-size", "8"]
SMALL += ["--epochs", "1", "--threads", "1", "--workers", "0", "--report-to", "none"]
DRY = f"--dry-run {shlex.join(SMALL)}"
FILE = "--initial-checkpoint FILE"
# By what is printed: the command that prints it, and that to which a printed flag is added, where
# it is another one.
PRINTED = {
    "a trained run": ("train --data faces --name trained", ""),
    "a run that exists": ("train --data faces --name run", "train"),
    "another setting of a run": ("train --resume --name run --lr 0.5", "train"),
    "a set of drawn fakes": ("data manipulate faces/gan/0_real 'made of' --image-size 64", ""),
    "maps": ("data maps faces --from pca --output 'maps of'", ""),
    "a set without leaks": ("data check leaky.csv --drop-copies --output 'checked it'", ""),
    "files that tell the classes": ("data check formats", ""),
    "files that tell the classes, in training": (f"train --data formats --name new {DRY}", ""),
    "no label": (f"train --data unlabelled.csv --name new {DRY}", ""),
    "splits that are drawn": (f"train --data unsplit.csv --name new {DRY}", ""),
    "groups in two splits": (f"train --data groups.csv --name new {DRY}", ""),
    "paths outside": (f"train --data outside.csv --data-root runs --name new {DRY}", ""),
    "a frozen network of random weights": (f"train --data faces --tune head --name new {DRY}", ""),
    "views without a frozen network": (f"train --data faces --views 3 --name new {FILE} {DRY}", ""),
    "features of images that change": (
        f"train --data faces --tune head --augment flip --name new {FILE} {DRY}",
        "",
    ),
    "a frozen network of differences": (
        f"train --data faces --tune head --input npr --name new {DRY}",
        "",
    ),
    "a class token": (
        f"train --data faces {DRY} --model test_vit --pretrained false --pool token --name new",
        "",
    ),
    "a test set without its flag": (
        f"train --name new NAME=PATH --data faces {DRY}",
        f"train --data faces --name new {DRY}",
    ),
    "fakes alone": ("evaluate --run runs/run --test-data other=other", ""),
    "log-odds without end": ("evaluate --scores far.csv --score-scale log-odds", ""),
    "a run that has not ended": ("evaluate --compare runs/run runs/unended", ""),
    "help of explain": ("explain --help", ""),
}
FROM_THE_NETWORK = ("--pretrained true",)  # which fetches weights
_WORD = r"(?:'[^']*'|[^\s`'](?:[^\s`]*[^\s`.,;:)?])?)"
_FLAG = rf"(?<!without )(?<![\w-])--[a-z][a-z-]+(?: (?!-|or\b|and\b|of\b|in\b|alone\b){_WORD})?"
_COMMAND = re.compile(rf"focus (?:data )?[a-z]+(?: [A-Z]+| (?=[a-z]+`){_WORD})?(?: {_FLAG})*")
_FLAGS = re.compile(rf"{_FLAG}(?: {_FLAG})*")


class Advice(NamedTuple):
    """Words to paste, as printed, and the whole command that a user then gives."""

    printed: str
    command: tuple[str, ...]


def ran(words: list[str]) -> tuple[int, str]:
    """Run focus; return the code that it ends with, and what it prints."""
    shown = io.StringIO()
    code: object = 0
    with redirect_stdout(shown), redirect_stderr(shown):
        try:
            focus(words)
        except SystemExit as stop:
            code = stop.code or 0
    assert isinstance(code, int)
    return code, shown.getvalue()


def advice_in(text: str, base: list[str]) -> Iterator[Advice]:
    """Read the commands in a text and, of an error, the flags that it says to give."""
    commands = [
        command for command in _COMMAND.findall(text) if " --" in command or "check " in command
    ]
    for command in commands:
        yield Advice(command, tuple(shlex.split(command)[1:]))
    for line in text.splitlines():
        said = line.removeprefix("focus ").partition("error: ")[2] or line
        if "error: " not in line and "--columns" not in line and "--test-real" not in line:
            continue
        if _COMMAND.search(said):
            continue
        advice = re.split(r"(?:: |; |\()", said, maxsplit=1)[-1]
        for words in _FLAGS.findall(advice):
            if words not in FROM_THE_NETWORK and is_whole(words):
                yield Advice(words, (*base, *shlex.split(words)))


def is_whole(words: str) -> bool:
    """Tell whether printed flags have the values that they need; N is no number."""
    switches = {flag(name) for name, field in flags(TrainConfig).items() if field.type is bool}
    last = shlex.split(words)[-1]
    return last != "N" and (not last.startswith("--") or last in switches)


@pytest.fixture(scope="module")
def working_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, and images and tables by the names in ``PRINTED``."""
    folder = tmp_path_factory.mktemp("working_folder")
    write_faces(folder / "faces", 16)
    for number, name in enumerate(("PATH", "other"), start=1):
        write_faces(folder / "new", 6, seed=number)
        (folder / "new/gan/1_fake").rename(folder / name)
        shutil.rmtree(folder / "new")
    write_faces(folder / "formats", 32, seed=3)
    for picture in (folder / "formats/gan/0_real").glob("*.png"):
        Image.open(picture).save(picture.with_suffix(".jpg"))
        picture.unlink()
    splits = ("train", "validation", "test", "train")
    rows = [
        (
            f"faces/gan/{kind}/{number}.png",
            kind[2:].replace("fake", "synthetic"),
            splits[number % 4],
        )
        for kind in ("0_real", "1_fake")
        for number in range(16)
    ]
    leaky = [*rows, ("copy.png", "real", "test")]
    shutil.copy(folder / rows[0][0], folder / "copy.png")
    tables = {
        "leaky": ("path,label,split", leaky),
        "unlabelled": ("path,NAME,split", rows),
        "unsplit": ("path,label,NAME", rows),
        "groups": ("path,label,split,group", [(*row, "one") for row in rows]),
        "outside": ("path,label,split", [(folder / row[0], *row[1:]) for row in rows]),
        "odds": ("path,label,score", [(*row[:2], n - 16) for n, row in enumerate(rows)]),
        "far": ("path,label,score", [(*row[:2], 9 * (n - 16)) for n, row in enumerate(rows)]),
    }
    for name, (header, lines) in tables.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([header.split(","), *lines])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        code, text = ran(["train", "--data", "faces", "--name", "run", *SMALL, "--report=false"])
        assert code == 0, text
    (folder / "runs/NAME").symlink_to("run")
    torch.save(load_file(folder / "runs/run/model/model.safetensors"), folder / "FILE")
    shutil.copytree(folder / "runs/run", folder / "runs/unended")
    (folder / "runs/unended/results.json").unlink()
    return folder


@pytest.fixture(scope="module")
def printed(
    working_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, list[Advice]]]:
    """Of each case the folder in which it was run, and the advice that was printed."""
    advice_of = {}
    for number, (case, (command, base)) in enumerate(PRINTED.items()):
        folder = tmp_path_factory.mktemp("printed") / str(number)
        shutil.copytree(working_folder, folder, symlinks=True)
        words = shlex.split(command)
        more = SMALL if command == "train --data faces --name trained" else []
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            _, text = ran([*words, *more])
        advice = dict.fromkeys(advice_in(text, shlex.split(base or command)))
        advice_of[case] = folder, list(advice)
    return advice_of


def test_at_least_twenty_are_there(printed: dict[str, tuple[Path, list[Advice]]]) -> None:
    for case, (_, advice) in printed.items():
        assert advice, case
    pasted = {words for _, advice in printed.values() for words in advice}
    assert len({advice.printed for advice in pasted}) >= 20


@pytest.mark.parametrize("case", PRINTED)
def test_pasted_it_works(
    case: str,
    printed: dict[str, tuple[Path, list[Advice]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, advice = printed[case]
    for number, (words, command) in enumerate(advice):
        copy = shutil.copytree(folder, tmp_path / str(number), symlinks=True)
        monkeypatch.chdir(copy)
        smaller = []
        if command[0] in ("evaluate", "explain"):
            smaller += ["--threads", "1"]
        if command[0] == "evaluate":
            smaller += ["--report", "false"]
        if command[0] == "train" and "--resume" not in command and "--dry-run" not in command:
            smaller = ["--dry-run", *SMALL]
        code, text = ran([*command, *smaller])
        # The check ends with 1 where it has found what it looks for.
        assert code == 0 or (code == 1 and command[:2] == ("data", "check")), (words, text)
