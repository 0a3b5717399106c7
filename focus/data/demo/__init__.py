"""The embedded demo set: drawn faces, fakes with known artefacts, and simulated annotators.

The set is rendered from a seed on first use and cached; nothing of it is stored in the package.
"""

from focus.data.demo.cache import demo_manifest
from focus.data.demo.render import render_face

__all__ = ["demo_manifest", "render_face"]
