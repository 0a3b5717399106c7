"""A program of the command line: its help, how it ends, and where it finds its packages."""

import errno
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from focus.config.command_line import run
from focus.config.options import flag
from focus.config.train import EvaluateConfig, TrainConfig

from ..launching import python
from ..launching import run as run_python

CHECKOUT = Path(__file__).parents[2]

PROGRAM = """
from pathlib import Path

from focus.config.command_line import run
from focus.config.train import TrainConfig
from focus.errors import InputError


def main(config):
    if config.name == "broken":
        raise InputError("The folder x is empty:\\n  give another.")
    if config.name == "full":
        Path("/dev/full").write_text("x")
    if config.name == "bytes":
        print(b"a\\xff.png".decode(errors="surrogateescape"))
    if config.name == "interrupted":
        raise KeyboardInterrupt
    print("ran", config.epochs)


run(main, TrainConfig, description="Train a detector.")
"""


WORKER_PROGRAM = """
from torch.utils.data import DataLoader
from focus.config.command_line import run
from focus.config.train import TrainConfig
from focus.data.dataset import FaceDataset
from focus.data.manifest import Manifest, Sample


def main(config):
    samples = Manifest([Sample(config.data[0])])
    faces = FaceDataset(samples, image_size=32, grid=(2, 2), mean=(0, 0, 0), std=(1, 1, 1))
    list(DataLoader(faces, num_workers=1))


if __name__ == "__main__":
    run(main, TrainConfig)
"""


def program(
    tmp_path: Path, *words: str, source: str = PROGRAM, **env: str
) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "program.py"
    script.write_text(source)
    clean = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK")}
    return subprocess.run(
        [sys.executable, str(script), *words],
        capture_output=True,
        text=True,
        env=clean | env,
        timeout=60,
        check=False,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    done = program(tmp_path, "--name", "full")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "program.py: error: No space left on device: free or choose another place.\n"
    )


FULL_TRACKER = """
import resource
from torch.utils.tensorboard import SummaryWriter
from focus.config.command_line import run
from focus.config.train import TrainConfig

def main(config):
    log = SummaryWriter(config.output)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
    for step in range(1000): log.add_scalar("loss", 1.0, step)

run(main, TrainConfig)
"""


@pytest.mark.slow
def test_a_full_disk_is_one_line_where_a_thread_of_a_tracker_meets_it(tmp_path: Path) -> None:
    done = program(tmp_path, "--output", str(tmp_path / "log"), source=FULL_TRACKER)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "program.py: error: File too large: free or choose another place.\n"


@pytest.mark.parametrize(
    ("path", "use", "words"),
    [
        ("a" * 300, Path.read_text, "File name too long"),
        ("file/x", Path.read_text, "Not a directory"),
        (".", Path.read_text, "Is a directory"),
        ("file", Path.readlink, "Invalid argument"),
    ],
)
def test_a_path_that_is_none_is_one_line(
    path: str,
    use: Callable[[Path], Any],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as caught:
        run(lambda _: use(tmp_path / path), TrainConfig, argv=[], prog="p")
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"p: error: {words} ({tmp_path / path}): check the path.\n"


def test_an_error_that_names_no_path_is_not_the_users() -> None:
    def main(_: TrainConfig) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    with pytest.raises(OSError, match="Invalid argument"):
        run(main, TrainConfig, argv=[], prog="p")


def test_a_current_folder_that_is_gone_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(SystemExit) as caught:
        run(lambda _: None, TrainConfig, argv=[], prog="p")
    assert caught.value.code == 2
    assert capsys.readouterr().err == (
        "p: error: The current folder cannot be found (No such file or directory): "
        "change to another one.\n"
    )


def test_the_command_line_needs_neither_torch_nor_timm() -> None:
    code = (
        "import sys; from focus.config.command_line import parse; "
        "from focus.config.train import TrainConfig, resolve; "
        "resolve(parse(TrainConfig, [])); "
        "print({'torch', 'timm', 'numpy', 'accelerate'} & set(sys.modules))"
    )
    assert python("-c", code) == "set()\n"


def test_a_program_ends_with_one_line_and_its_code(tmp_path: Path) -> None:
    done = program(tmp_path, "--epochs", "3")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran 3\n", "")
    done = program(tmp_path, "--name", "broken")
    assert done.returncode == 2
    assert done.stderr == "program.py: error: The folder x is empty: give another.\n"
    done = program(tmp_path, "--epochs", "x")
    assert done.returncode == 2
    assert done.stderr.startswith("program.py: error: The command line: Error parsing --epochs: ")
    assert done.stderr.count("\n") == 1
    done = program(tmp_path, "--name", "interrupted")
    assert (done.returncode, done.stderr) == (130, "program.py: interrupted.\n")


def test_threads_that_wait_do_not_spin_unless_the_user_has_them_do_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for given, then in (("", "PASSIVE"), ("ACTIVE", "ACTIVE")):
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
        if not given:
            monkeypatch.delenv("OMP_WAIT_POLICY")
        run(lambda _: None, TrainConfig, argv=[], prog="p")
        assert os.environ["OMP_WAIT_POLICY"] == then


def test_pillow_does_not_warn_of_large_images_without_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 63)

    def main(_: TrainConfig) -> None:
        Image.open(tmp_path / "large.png").close()
        warnings.warn("another", stacklevel=1)

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        run(main, TrainConfig, argv=[], prog="p")
    assert [str(warning.message) for warning in warned] == ["another"]


def test_a_file_name_that_is_not_utf_8_is_shown_escaped(tmp_path: Path) -> None:
    done = program(tmp_path, "--name", "bytes", PYTHONIOENCODING="utf-8:strict")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == r"a\udcff.png"


@pytest.mark.slow
def test_an_error_in_a_worker_of_a_loader_is_its_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no image")
    done = program(tmp_path, "--data", str(tmp_path / "bad.png"), source=WORKER_PROGRAM)
    assert done.returncode == 2
    assert done.stderr == (
        f"program.py: error: Cannot decode '{tmp_path}/bad.png' (cannot identify image file): "
        "fix or remove the file.\n"
    )


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    for words in (["--name", "broken"], ["--epochs", "x"]):
        done = program(tmp_path, *words, "--debug")
        assert done.returncode == 2
        assert "Traceback" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("program.py: error: ")


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"RANK": "0", "LOCAL_RANK": "0"}, ["program.py: error: The folder"]),
        # Another machine: what is wrong may be there alone.
        ({"RANK": "2", "LOCAL_RANK": "0"}, ["program.py: error: Process 2: The folder"]),
        # MPI counts by a name of its own.
        (
            {"OMPI_COMM_WORLD_RANK": "2", "LOCAL_RANK": "0"},
            ["program.py: error: Process 2: The folder"],
        ),
        # What is no number silences nobody.
        ({"RANK": "", "LOCAL_RANK": ""}, ["program.py: error: The folder"]),
        ({"LOCAL_RANK": "1"}, []),
        ({"RANK": "3", "LOCAL_RANK": "1"}, []),
    ],
)
def test_of_several_processes_one_of_each_machine_speaks(
    tmp_path: Path, env: dict[str, str], said: list[str]
) -> None:
    done = program(tmp_path, "--name", "broken", **env)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert [line.partition(" x is empty")[0] for line in lines] == said


@pytest.mark.parametrize("config_class", [TrainConfig, EvaluateConfig])
def test_what_torchrun_takes_for_a_flag_of_its_own(config_class: Any) -> None:
    """--run alone, for which the help says what to do."""
    from torch.distributed.run import get_args_parser

    lost = []
    for name in (field.name for field in fields(config_class)):
        words = ["evaluate.py", flag(name), "value"]
        behind = get_args_parser().parse_args(["--nproc_per_node", "2", "--", *words])
        assert [behind.training_script, *behind.training_script_args] == words
        try:
            get_args_parser().parse_args(["--nproc_per_node", "2", *words])
        except SystemExit:
            lost.append(name)
    assert lost == (["run"] if config_class is EvaluateConfig else [])


@pytest.mark.slow
@pytest.mark.parametrize("late", ["0", "1"])
def test_torchrun_starts_evaluate_as_its_help_says(tmp_path: Path, late: str) -> None:
    """And the error of all is said, whichever process comes to it first."""
    (tmp_path / "sitecustomize.py").write_text(
        f"import os, time\nif os.environ.get('RANK') == '{late}': time.sleep(2)\n"
    )
    said = python(CHECKOUT / "evaluate.py", "--help", cwd=tmp_path)
    (line,) = (line for line in said.splitlines() if line.strip().startswith("torchrun"))
    words = line.replace("evaluate.py", str(CHECKOUT / "evaluate.py")).split()[1:]
    torchrun = ("-m", "torch.distributed.run", *words, "--report=maybe")
    done = run_python(*torchrun, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert (
        "evaluate.py: error: The command line: invalid choice 'maybe' for argument '--report'"
        in done.stderr
    )
