"""``python -m bench``: which programs run, with what, and what becomes of failures."""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.entry import end_in_a_line

from ..launching import python, run

ROOT = Path(__file__).parents[2]

everything = importlib.import_module("bench.__main__")


@pytest.mark.slow
def test_a_program_that_fails_does_not_stop_the_next(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # Neither takes minutes: the one does not exist, the other says what it would need.
    monkeypatch.setattr(everything, "PROGRAMS", ("nothing", "plot"))
    monkeypatch.setattr(sys, "argv", ["bench", "--short", "--output", str(tmp_path / "a")])
    assert everything.main() == 1
    out, err = capfd.readouterr()
    assert out.splitlines() == ["bench.nothing", "bench.plot"]
    assert "No module named bench.nothing" in err
    assert f"unrecognized arguments: --short --output {tmp_path / 'a'}" in err
    assert err.endswith("error: failed: nothing, plot; see above\n")


def test_one_program_runs_alone(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(everything, "PROGRAMS", ("nothing", "tables"))
    monkeypatch.setattr(sys, "argv", ["bench", "tables"])
    assert everything.main() == 0
    assert capfd.readouterr().out == "bench.tables\n"


def test_a_program_that_is_interrupted_ends_without_a_word(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        end_in_a_line(interrupted)
    assert ended.value.code == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize("program", ["trainer", "step"])
def test_a_network_that_there_is_not_is_said_in_a_line(program: str) -> None:
    flag = {"trainer": "--model", "step": "--models"}[program]
    done = run("-m", f"bench.{program}", flag, "nope", cwd=ROOT)
    assert (done.returncode, done.stderr.splitlines()[-1:]) == (
        1,
        ["error: There is no network 'nope' in timm."],
    )


def test_a_checkout_that_is_not_installed_is_said_in_a_line(tmp_path: Path) -> None:
    for name in ("bench", "focus"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("results"))
    # Without site-packages, where an editable install names the kernels of this checkout.
    done = subprocess.run(
        [sys.executable, "-S", "-m", "bench.head", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    sentence = "error: This checkout is not the installed one: call pip install -e . in it.\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", sentence)


@pytest.mark.parametrize(
    ("program", "flag"),
    [
        ("codegen", "--classes"),
        ("codegen", "--grid"),
        ("instructions", "--classes"),
        ("instructions", "--grid"),
        ("traffic", "--batch"),
        ("data", "--rounds"),
        ("data", "--images"),
        ("trainer", "--image-size"),
        ("trainer", "--batch-size"),
        ("trainer", "--steps"),
    ],
)
def test_none_at_all_is_refused(
    program: str, flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if program in ("codegen", "instructions"):
        pytest.importorskip("triton", reason="triton is not installed")
    monkeypatch.setattr(sys, "argv", [program, flag, "0"])
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module(f"bench.{program}").main()
    assert f"argument {flag}: " in capsys.readouterr().err


# None is compiled, which takes seconds each.
LAUNCHES = """
from bench import codegen
launched = set()
def inspect(_, launch):
    launched.update(v for v in launch.source.constants.values() if v in (49, 65, 35))
    return codegen.Code(4, 32, 0, 0, 0, 0, None, 0, None)
codegen.inspect = inspect
codegen.main()
print("launched", *sorted(launched))
"""


@pytest.mark.slow
def test_other_grids_and_classes_are_those_of_the_launches() -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    words = ["--classes", "3", "--grid", "5x13", "7x5"]
    said = python("-c", LAUNCHES, *words, cwd=ROOT, TRITON_INTERPRET="0")
    assert said.splitlines()[-1] == "launched 35 65"
    assert "B 20, C 2048, K 3\n" in said
    kernels = [line.split() for line in said.splitlines() if " sm_90 " in line]
    assert {words[words.index("sm_90") + 3] for words in kernels} == {"65", "35"}
    assert any("K 3: few" in " ".join(words) for words in kernels)


@pytest.mark.slow
@pytest.mark.parametrize("program", everything.PROGRAMS)
def test_each_program_takes_what_all_are_given(program: str) -> None:
    python("-m", f"bench.{program}", "--short", "--output", "o", "--help", cwd=ROOT)


def test_help_names_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench/__main__.py", "--help"])
    with pytest.raises(SystemExit):
        everything.main()
    assert capsys.readouterr().out.startswith("usage: python -m bench [-h]")


@pytest.mark.slow
def test_the_short_growth_runs(tmp_path: Path) -> None:
    said = python("-m", "bench", "growth", "--short", "--output", tmp_path, cwd=ROOT)
    assert "bench.growth" in said
    names = {f"growth{end}" for end in (".csv", ".json", "-slopes.csv", "-slopes.json")}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_a_folder_that_cannot_be_is_refused_before_the_work(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    done = run("-m", "bench", "head", "--output", file, cwd=ROOT)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: --output {file} cannot be written to")
