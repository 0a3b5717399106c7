"""A program ends with one line and its exit code."""

from pathlib import Path

import pytest
import torch

from focus.config.command_line import run
from focus.config.train import TrainConfig
from focus.errors import ImageError, InputError
from focus.runtime.program import program
from focus.runtime.signals import Stopped

from ..launching import CHECKOUT, python
from ..launching import run as run_python


def ended(
    error: BaseException, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, list[str]]:
    """The exit code and the lines of stderr of a program that ends with this error."""

    def main(_: TrainConfig) -> None:
        raise error

    with pytest.raises(SystemExit) as stop:
        run(main, TrainConfig, argv=words, prog="p")
    assert isinstance(stop.value.code, int)
    return stop.value.code, capsys.readouterr().err.splitlines()


def test_a_name_that_is_not_utf_8_can_be_printed() -> None:
    code = (
        "from focus.runtime.program import program\n"
        "with program('p', debug=False): print(b'a\\xff.png'.decode(errors='surrogateescape'))"
    )
    assert python("-c", code) == "a\\udcff.png\n"


def test_each_kind_of_end(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), program("p", debug=False):
        raise MemoryError
    assert capsys.readouterr().err == "p: error: The memory is full: end other programs.\n"
    memory = "smaller --batch-size or --eval-batch-size or --image-size."
    gpu = "CUDA out of memory. Tried to allocate 2.25 GiB. GPU 0 has a total capacity of 14 GiB"
    for error, code, said in (
        (InputError("Give\n  more."), 2, "p: error: Give more."),
        (PermissionError(13, "Permission denied", "/x"), 2, "p: error: Permission denied (/x): "),
        (OSError(28, "No space left on device"), 2, "p: error: No space left on device: free or"),
        (MemoryError(), 2, "p: error: The memory is full: give a smaller --batch-size"),
        (torch.OutOfMemoryError(gpu), 2, "The memory is full: give a"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when"), 2, memory),
        (RuntimeError("Triton Error [CUDA]: out of memory"), 2, memory),
        (Stopped(15, "stopped after step 3."), 143, "p: stopped after step 3."),
        (KeyboardInterrupt(), 130, "p: interrupted."),
    ):
        exit_code, lines = ended(error, capsys)
        assert (exit_code, len(lines)) == (code, 1)
        assert said in lines[0]
        exit_code, lines = ended(error, capsys, "--debug")
        assert exit_code == code
        assert "Traceback (most recent call last):" in lines
        assert (lines[0].startswith("CPU time: "), said in lines[-1]) == (True, True)
    with pytest.raises(RuntimeError, match="another"):
        ended(RuntimeError("another"), capsys)


def test_of_several_processes_the_first_speaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """But for what one alone may meet: an image, a full disk, too little memory."""
    monkeypatch.setenv("RANK", "3")
    alone = (ImageError("No image."), MemoryError(), OSError(28, "No space left on device"))
    for error in (InputError("No data."), Stopped(15, "stopped."), *alone):
        _, lines = ended(error, capsys)
        assert len([line for line in lines if line]) == (error in alone)
    monkeypatch.setenv("RANK", "0")
    assert ended(InputError("No data."), capsys) == (2, ["p: error: No data."])


@pytest.mark.slow
def test_torchrun_starts_evaluate_as_its_help_says(tmp_path: Path) -> None:
    """And the error of all is said, also where the other process comes to it first."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, time\nif os.environ.get('RANK') == '0': time.sleep(2)\n"
    )
    said = python(CHECKOUT / "evaluate.py", "--help", cwd=tmp_path)
    (line,) = (line for line in said.splitlines() if line.strip().startswith("torchrun"))
    words = line.replace("evaluate.py", str(CHECKOUT / "evaluate.py")).split()[1:]
    torchrun = ("-m", "torch.distributed.run", *words, "--report=maybe")
    done = run_python(*torchrun, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "Argument --report/--no-report: " in done.stderr
