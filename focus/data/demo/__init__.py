"""The embedded demo set: drawn faces, fakes with known artefacts, and simulated annotators.

The set is rendered from a seed on first use and cached; nothing of it is stored in the package.
"""

from focus.data.demo.cache import default_cache_dir, demo_manifest
from focus.data.demo.render import SPLITS, VERSION, Picture, render_face

__all__ = ["SPLITS", "VERSION", "Picture", "default_cache_dir", "demo_manifest", "render_face"]
