"""What a part of ``bench.gpu`` is given, in its tests."""

from pathlib import Path
from typing import Any

from bench.gpu_report import Part, Report, Run


def a_run(tmp_path: Path, **data: Any) -> Run:
    report = Report(tmp_path / "report.json", data)
    part = Part("times", 1e9, lambda: 0.0, report.save)
    return Run("cpu", ((2, 16, 9),), "", report, part, {})
