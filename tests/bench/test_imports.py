"""How long imports take, and that ``python -m bench.imports`` would see it if they took longer."""

from pathlib import Path

import pytest

from bench import imports

from ..launching import python

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_kernels_and_help_are_there_in_no_time(tmp_path: Path) -> None:
    """The bars hold in the tests too: they are several times what it takes."""
    said = python("-m", "bench.imports", "--rounds", 3, "--output", tmp_path, cwd=ROOT)
    kernels, help_ = said.splitlines()
    assert kernels.startswith("import focus.kernels after torch")
    assert kernels.endswith("bar <= 0.3 met")
    assert help_.endswith("bar <= 1.0 met")
    lines = (tmp_path / "imports.csv").read_text().splitlines()
    assert lines[0] == "what,median,low,high,bar,met"
    assert len(lines) == 3


@pytest.mark.slow
def test_slow_imports_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a tree whose kernels burn 0.4 s and whose help 1.2 s, after a sleep, which is none."""
    burn = "import time; time.sleep(0.5); end = {} + time.process_time()\n"
    burn += "while time.process_time() < end: pass\n"
    (tmp_path / "focus" / "kernels").mkdir(parents=True)
    (tmp_path / "focus" / "kernels" / "__init__.py").write_text(burn.format(0.4) + "focus_head = 0")
    monkeypatch.setattr(imports, "ROOT", tmp_path)
    (tmp_path / "train.py").write_text("print('--loss')")
    bare = max(imports.help_of_train() for _ in range(3))  # what Python takes to start here
    (tmp_path / "train.py").write_text(burn.format(1.2) + "print('--loss')")
    kernels, help_ = imports.measure(1)
    assert 0.4 <= kernels.median < 0.5
    assert 1.2 <= help_.median < 1.3 + 2 * bare
    assert (kernels.met, help_.met) == (False, False)

    (tmp_path / "train.py").write_text("print('no flags')")
    with pytest.raises(SystemExit, match=r"names no --loss, its output is 'no flags\\n'"):
        imports.help_of_train()
