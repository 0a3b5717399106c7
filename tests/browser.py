"""A browser for tests of pages: Debian's Chromium, headless, through Playwright."""

import shutil
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NEEDS_CHROMIUM = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium (Debian: apt-get install chromium)"
)
IN_BROWSER = [pytest.mark.slow, NEEDS_CHROMIUM]


def assert_accessible(page: Any) -> None:
    """Check what axe-core asks of a page."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed"
    )
    audit = axe.Axe().run(page)
    assert audit.violations_count == 0, audit.generate_report()
