"""Show names in docstrings as code on the site: Markdown does not know Sphinx's roles."""

import re
from typing import Any

import griffe


class NamesAsCode(griffe.Extension):
    """Write :func:`name`, :class:`name` and the like as `name`."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of an object that griffe has read."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r":(?:attr|class|data|func|meth|mod):`", "`", obj.docstring.value
            )
