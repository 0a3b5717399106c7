"""The site that ``make docs`` builds starts with the README and shows what one imports."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import focus

CHECKOUT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_site_starts_with_the_readme_and_has_a_page_for_each_public_name(
    tmp_path: Path,
) -> None:
    for package in ("zensical", "mkdocstrings"):
        pytest.importorskip(package, reason="the extra docs is not installed")
    for folder in ("docs", "focus", "kernels", "src"):
        shutil.copytree(CHECKOUT / folder, tmp_path / folder, symlinks=True)
    for file in ("Makefile", "mkdocs.yml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        shutil.copy(CHECKOUT / file, tmp_path)
    command = ["make", "docs", f"PYTHON={sys.executable}"]
    made = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert made.returncode == 0, made.stdout + made.stderr

    site = tmp_path / "site"
    start = (site / "index.html").read_text(encoding="utf-8")
    sections = re.findall(r"^## (.*)$", (CHECKOUT / "README.md").read_text(), re.MULTILINE)
    assert re.findall(r"<h2[^>]*>(.*?)<", start) == sections
    for link in re.findall(r'(?:href|src)="([^":#]+)["#]', start):
        in_site = not link.startswith("../")  # else a file of the checkout, as a table of bench/
        assert not in_site or (site / link).exists(), link

    for name in focus.__all__:
        if name.startswith("__"):
            continue
        page = (site / f"reference/focus.{name}/index.html").read_text(encoding="utf-8")
        assert f'<h1 id="focus.{name}"' in page, name
        assert f"<title>focus.{name} " in page, name
        assert "Examples" in page, name
        assert not re.search(r":[a-z]+:<code>", page), f"a role of Sphinx on the page of {name}"
