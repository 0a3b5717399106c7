"""The embedded benchmark: drawn faces, fakes with known artefacts, and simulated annotators.

A draw is rendered from its number on first use and cached; nothing of it is stored in the package.
"""

from focus.data.demo.cache import demo_manifest
from focus.data.demo.render import ORACLE, render_face

__all__ = ["ORACLE", "demo_manifest", "render_face"]
