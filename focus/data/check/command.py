"""The command ``check``: its files and its exit code."""

from pathlib import Path

from focus.config.data import CheckConfig
from focus.data.check import contact_sheet, findings, report
from focus.data.readers import refuse_inside
from focus.runtime.files import check_writable, sole_writer


def check(config: CheckConfig) -> None:
    """Check the data that train.py would get with these flags, and write the report.

    Raises:
        InputError: the folder cannot be written.
        SystemExit: with code 1 if training would not start.
    """
    output = Path(config.output)
    check_writable(output)
    refuse_inside(output, (*config.test_data.values(), *config.test_real.values()))
    with sole_writer(output):
        found = findings.gather(config)
        contact_sheet.draw(found, output / "contact_sheet.png")
        print(report.write(found, output))
    print(f"\nreport: {output}")
    if (found.without_leaks or found.training).obstacle:
        raise SystemExit(1)
