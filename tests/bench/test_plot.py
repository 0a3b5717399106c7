"""The tables and the picture of docs/benchmarks.md say what the results say."""

import json
from pathlib import Path

import pytest

from bench import plot
from focus.errors import InputError

from ..launching import CHECKOUT

SETTINGS = {"command": "python -m bench.x", "commit": "abc1234", "rounds": 9, "threads": 1}
SETTINGS |= {"torch": "2.13.0", "python": "3.11.7", "cpu": "a CPU", "cores": 2, "pinned": "yes"}
WHERE = (
    "(`python -m bench.x`, 9 rounds, commit abc1234, torch 2.13.0, Python 3.11.7, a CPU, "
    "2 virtual cores, 1 thread, pinned: yes.)"
)
FILES = {
    "head": """shape,layout,dtype,classes,ratio,median,low,high,memory,note
20x16x9,nchw,fp32,2,ours / plain,1.05,1.01,1.09,1.04,
20x16x9,nchw,fp32,2,compiled / ours,,,,,no compiler
20x16x9,nchw,fp32,1000,ours / plain,9,9,9,9,
""",
    "step": """model,batch,ratio,median,low,high,seconds
resnet50,8,ours / CE,1.01,1.0,1.04,2
resnet50,8,head / step,0.0006,0.0005,0.0007,2
""",
    "loader": """files,augmentation,figure,median,low,high
A,without,"images a second: ours, warm",20000.4,19000,21000
A,with,"images a second: ours, warm",600.9,590,610
B,without,"images a second: ours, warm",19000.6,18000,20000
A,without,"time of timm / ours, warm",30,29,31
""",
}
TABLES = {
    "head": "| 20x16x9 nchw fp32 |  | 1.05 [1.01, 1.09] |  |  |  | 1.04 |",
    "step": "| resnet50, batch 8 |  | 1.01 [1.00, 1.04] |  |  |  | 0.0006 [0.0005, 0.0007] |",
    "loader": "| ours, warm | 20000 | 19001 | 601 |",
}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / f"{name}.csv").write_text(text)
        (tmp_path / f"{name}.json").write_text(json.dumps({"settings": SETTINGS}))
    return tmp_path


@pytest.mark.parametrize("name", plot.TABLES)
def test_a_table_has_a_line_a_case_and_says_where_it_was_measured(name: str, results: Path) -> None:
    text = f"before\n<!-- {name} -->\nold\n<!-- end -->\nafter"
    lines = plot.fill(text, results).splitlines()
    assert lines[:3] == ["before", f"<!-- {name} -->", ""]
    assert lines[5:] == [TABLES[name], "", WHERE, "", "<!-- end -->", "after"]
    (results / f"{name}.csv").unlink()
    with pytest.raises(InputError, match="measure with python -m bench"):
        plot.fill(text, results)


def test_the_picture_of_the_step_has_a_panel_a_ratio(results: Path) -> None:
    (panel,) = plot.step_picture(plot.read(results, "step")).axes
    assert panel.get_title() == "ours / CE"
    assert [list(line.get_xdata()) for line in panel.lines][:2] == [[1.0, 1.04], [1.01]]


def test_the_document_holds_the_tables_of_the_results() -> None:
    text = (CHECKOUT / "docs" / plot.DOCUMENT).read_text(encoding="utf-8")
    found = plot.fill(text, CHECKOUT / "bench" / "results")
    assert found == text, "run python -m bench.plot"
    assert all(f"<!-- {name} -->" in text for name in plot.TABLES)
