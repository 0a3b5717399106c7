"""The embedded demo set: drawn faces, fakes with known artefacts, and simulated annotators.

The set is rendered from a seed on first use and cached; nothing of it is stored in the package.
"""

from focus.data.demo.cache import demo_manifest
from focus.data.demo.render import SPLITS, VERSION, Picture, render_face

__all__ = ["SPLITS", "VERSION", "Picture", "demo_manifest", "render_face"]
