"""What pyproject.toml cannot say: two links, and the README without links into the repository.

The folder of the kernels is called kernels/, the name they are imported by is focus.kernels: the
name ``kernels`` belongs to Hugging Face's package. ``src/`` holds what is importable and nothing
else, so that an editable install is a plain path, which type checkers and editors follow too.
"""

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
for link, target in (("src/focus", "../focus"), ("focus/kernels", "../kernels")):
    (ROOT / link).parent.mkdir(exist_ok=True)
    if not (ROOT / link).exists():
        (ROOT / link).symlink_to(target, target_is_directory=True)

readme = (ROOT / "README.md").read_text(encoding="utf-8")
readme = re.sub(r"^!\[.*?\]\(.*?\)\n", "", readme, flags=re.DOTALL | re.MULTILINE)
readme = re.sub(r"\[([^\]]+)\]\((?!https?:)[^)]*\)", r"\1", readme)
setup(long_description=readme, long_description_content_type="text/markdown")
