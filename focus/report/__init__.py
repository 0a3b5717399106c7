"""``report.html``: an evaluation, or several side by side, as a page that opens from the disk."""

from focus.report.comparison import compare
from focus.report.page import REPORT, attempt, remove, write, write_robustness

__all__ = ["REPORT", "attempt", "compare", "remove", "write", "write_robustness"]
