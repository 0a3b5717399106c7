"""The embedded benchmark: drawn faces, fakes with known artefacts, and simulated annotators.

A draw is rendered from its number on first use and cached; nothing of it is stored in the package.
"""

from focus.data.demo.benchmark import ORACLE, render_face
from focus.data.demo.files import demo_manifest

__all__ = ["ORACLE", "demo_manifest", "render_face"]
