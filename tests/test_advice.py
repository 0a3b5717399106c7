"""Advice that messages give: each way is followed as a user would, and has to work."""

import shutil
import subprocess
from pathlib import Path

import pytest

from focus.__main__ import COMMANDS
from focus.config.command_line import run_command

from .launching import write_faces

FEWER = {
    "train": "--recipe demo --model test_resnet --image-size 64 --batch-size 8 --epochs 1 "
    "--threads 1 --workers 0 --report-to none --report false",
    "evaluate": "--threads 1 --report false",
}
"""What is added to a command so that it is done on a few images, and leaves no report."""
WEIGHTS = "--initial-checkpoint runs/run/model/model.safetensors"
FACE = "faces/gan/1_fake/3.png"
RESUME = "train --data faces --name run --resume"
# What happens, a command that is then refused, the advice it gets, and each way to follow that.
# What does not begin with the name of a program is for the shell.
CASES = {
    "a run folder that exists": (
        "",
        "train --data faces --name run",
        "The run folder runs/run exists already: give another --name, or go on with it by --resume "
        "--name run.",
        ["train --data faces --name new", "train --resume --name run"],
    ),
    "a run that is not there": (
        "",
        "train --resume --name rum",
        "(did you mean run?): give the --name of one (runs holds run), or begin one without",
        ["train --resume --name run", "train --data faces --name new"],
    ),
    "all checkpoints are damaged": (
        "echo x | tee -a runs/run/checkpoints/*/state.json",
        RESUME,
        "and there is no whole one before it: give another --name, or move runs/run away.",
        [
            "train --data faces --name new",
            "mv runs/run old; train --data faces --name run",
            f"mv runs/run old; {RESUME}",
        ],
    ),
    "no checkpoint": (
        "rm -r runs/run/checkpoints",
        RESUME,
        "a model and no checkpoint to go on from: give another --name, or move the folder away.",
        ["train --data faces --name new", f"mv runs/run old; {RESUME}"],
    ),
    "other flags": (
        "",
        f"{RESUME} --lr 0.5",
        "resume it by --resume --name run alone, or give another --name.",
        [RESUME, "train --resume --name run", "train --data faces --name new --lr 0.5"],
    ),
    "a manifest that is lost": (
        "mv runs/run/manifest.csv .",
        RESUME,
        "The run runs/run lacks manifest.csv: put it back, or give another --name.",
        [f"mv manifest.csv runs/run; {RESUME}", "train --data faces --name new"],
    ),
    "a picture that has changed": (
        f"cp {FACE} face; cp faces/gan/1_fake/4.png {FACE}",
        RESUME,
        "has changed): bring them back, or give another --name.",
        [f"mv face {FACE}; {RESUME}", "train --data faces --name new"],
    ),
    "a loss that is not finite": (
        "",
        "train --data faces --name new --lr 1e30 --max-nonfinite 2",
        "lower --lr or give --clip-grad, under another --name.",
        ["train --data faces --name newer --lr 1e-3"],
    ),
    "too many unreadable files": (
        f"cp {FACE} face; echo > {FACE}",
        "train --data faces --name new --dry-run",
        "more than --max-bad 0.01 allows: fix or leave them out,",
        [
            f"mv face {FACE}; train --data faces --name new --dry-run",
            f"rm {FACE}; train --data faces --name new --dry-run",
            "train --data faces --name new --dry-run --max-bad 0.1",
        ],
    ),
    "a row whose file is not there": (
        f"mv {FACE} face",
        "train --data table.csv --name new --dry-run",
        "fix or remove the rows, or give another --data-root.",
        [
            f"mv face {FACE}; train --data table.csv --name new --dry-run",
            f"sed -i '\\:{FACE}:d' table.csv; train --data table.csv --name new --dry-run",
        ],
    ),
    "a row of a run that goes on, whose file is not there": (
        f"train --data table.csv --name table; mv {FACE} face",
        "train --data table.csv --name table --resume",
        "3.png': bring back what the run runs/table began with, or give another --name.",
        [
            f"mv face {FACE}; train --data table.csv --name table --resume",
            f"sed -i '\\:{FACE}:d' table.csv; train --data table.csv --name new",
        ],
    ),
    "a label column by another name": (
        "sed -i s/label/what/ table.csv",
        "train --data table.csv --name new --dry-run",
        "have no label (layout csv), the first is",
        ["train --data table.csv --columns label=what --name new --dry-run"],
    ),
    "paths that leave the root": (
        'sed -i "s:^faces:$PWD/faces:" table.csv',
        "train --data table.csv --data-root runs --name new --dry-run",
        "write it relative to that, without a slash at its beginning, or give --allow-outside-root",
        [
            'sed -i "s:^$PWD/::" table.csv; train --data table.csv --name new --dry-run',
            "train --data table.csv --data-root runs --allow-outside-root --name new --dry-run",
        ],
    ),
    "groups of a manifest in two splits": (
        "",
        "train --data groups.csv --name new --dry-run",
        "rename one, or give --columns group=.",
        ["train --data groups.csv --columns group= --name new --dry-run"],
    ),
    "images that the initial weights know": (
        "",
        f"train --data faces --seed 5 --name new --dry-run {WEIGHTS}",
        "give its run's manifest.csv or --seed, or other images.",
        [
            f"train --data runs/run/manifest.csv --seed 5 --name new --dry-run {WEIGHTS}",
            f"train --data faces --seed 0 --name new --dry-run {WEIGHTS}",
        ],
    ),
    "no maps to aim at": (
        "",
        "train --data faces --loss match --target-from-maps --name new --dry-run",
        "give --human-maps, or --entropy-target in its place.",
        ["train --data faces --loss match --entropy-target 0.5 --name new --dry-run"],
    ),
    "weights that have changed": (
        "cp runs/run/model/model.safetensors .; "
        "echo x | dd of=runs/run/model/model.safetensors bs=1 seek=9999 conv=notrunc status=none",
        "evaluate --run runs/run",
        'put it back, or set weights_sha256 to "" in the config to accept it.',
        [
            "mv model.safetensors runs/run/model; evaluate --run runs/run",
            """sed -i '/weights_sha256/s/: ".*"/: ""/' runs/run/model/config.json; """
            "evaluate --run runs/run",
        ],
    ),
    "thresholds that cannot be read": (
        "echo > runs/run/model/thresholds.json",
        "evaluate --run runs/run",
        "remove it, or train the model again.",
        [
            "rm runs/run/model/thresholds.json; evaluate --run runs/run",
            "train --data faces --name new; evaluate --run runs/new",
            f"{RESUME}; evaluate --run runs/run --threshold eer",
        ],
    ),
    "a threshold that is not there": (
        "rm runs/run/model/thresholds.json",
        f"explain {FACE} --model-dir runs/run/model --threshold eer",
        "no such threshold (there is none at all); give a score, or drop the flag.",
        [f"explain {FACE} --model-dir runs/run/model{flag}" for flag in (" --threshold .5", "")],
    ),
    "a folder with files in it": (
        f"explain {FACE} --model-dir runs/run/model",
        f"explain {FACE} --model-dir runs/run/model",
        "holds files already: give another one, or remove it.",
        [
            f"explain {FACE} --model-dir runs/run/model --output other",
            f"rm -r explained; explain {FACE} --model-dir runs/run/model",
        ],
    ),
    "an evaluation over a run": (
        "",
        "evaluate --run runs/run --output runs/run",
        "give another one, as runs/run/evaluation.",
        ["evaluate --run runs/run --output runs/run/evaluation"],
    ),
    "a model in place of a run": (
        "",
        "evaluate --run runs/run/model --data faces",
        "is a model's folder, not a run's: give it by --model-dir.",
        ["evaluate --model-dir runs/run/model --data faces"],
    ),
    "a run that has not ended": (
        "cp -r runs/run runs/whole; rm runs/run/results.json",
        "evaluate --compare runs/whole runs/run",
        "--resume --name run, or evaluate the best model so far and give runs/run/evaluation.",
        [
            f"{RESUME}; evaluate --compare runs/whole runs/run",
            "evaluate --run runs/run; evaluate --compare runs/whole runs/run/evaluation",
        ],
    ),
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Faces, a table and a manifest of them, and a run on them."""
    folder = tmp_path_factory.mktemp("trained")
    write_faces(folder / "faces", 16)
    kinds = {"0_real": "real", "1_fake": "synthetic"}
    rows = [(f"faces/gan/{k}/{n}.png", name) for k, name in kinds.items() for n in range(16)]
    with (folder / "table.csv").open("w") as table, (folder / "groups.csv").open("w") as groups:
        table.write("path,label\n")
        groups.write("path,label,split,group\n")
        for number, (path, label) in enumerate(rows):
            table.write(f"{path},{label}\n")
            groups.write(f"{path},{label},{'validation' if number % 4 else 'train'},one\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        follow("train --data faces --name run")
    return folder


def follow(lines: str) -> None:
    """Do what the lines say, which are separated by semicolons; the programs have to succeed."""
    for line in filter(None, lines.split("; ")):
        program, *words = line.split()
        if program in COMMANDS:
            run_command("focus", COMMANDS, [program, *words, *FEWER.get(program, "").split()])
        else:
            subprocess.run(["bash", "-c", line], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("case", CASES)
def test_what_a_message_advises_works(
    case: str,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, refused, advice, ways = CASES[case]
    for number, way in enumerate(ways):
        folder = shutil.copytree(trained, tmp_path / str(number))
        monkeypatch.chdir(folder)
        follow(before)
        with pytest.raises(SystemExit, match=r"^2$"):
            follow(refused)
        assert advice in capsys.readouterr().err
        follow(way)
