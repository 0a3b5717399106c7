"""The command ``check``: its files and its exit code."""

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from focus.config.data import CheckConfig
from focus.data.check import findings, report
from focus.data.check.findings import CheckedData, is_fit, verdict
from focus.data.readers import refuse_inside
from focus.runtime.files import check_writable, sole_writer


def check(config: CheckConfig) -> None:
    """Check the data that focus train would get with these flags; with an output, write the report.

    Raises:
        InputError: the folder cannot be written.
        SystemExit: with code 1 if training would not start, or on a finding that is an error.
    """
    if config.output is None:
        checked, *_ = _print(config)
    else:
        output = Path(config.output)
        check_writable(output)
        refuse_inside(output, (*config.test_data.values(), *config.test_real.values()))
        with sole_writer(output):
            checked, content, shown = _print(config)
            report.write_contact_sheet(checked, output / "contact_sheet.png")
            report.write(checked, content, shown, output)
        print(f"report: {output}")
    if checked.obstacle or (config.strict and not is_fit(checked)):
        raise SystemExit(1)


def _print(config: CheckConfig) -> tuple[CheckedData, dict[str, Any], str]:
    """Print the findings, the verdict first and last; return them, and check.json and check.txt."""
    layouts = StringIO()
    with redirect_stdout(layouts):
        checked = findings.gather(config)
    content, first = report.content_of(checked), verdict(checked)
    shown = report.text(checked, content)
    body = layouts.getvalue() + shown
    print(*([first, body, first] if body else [first]), sep="\n\n")
    return checked, content, f"{first}\n\n{shown}"
