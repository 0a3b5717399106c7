"""Read images, labels and human maps into a manifest, from whichever layout the data have.

:func:`read_data` reads one path, :func:`read_given` all that a configuration names. A path gives a
layout (:mod:`focus.data.readers.detect`), the layout a reader, the reader a manifest.
"""

from focus.data.readers.detect import Options, read_data
from focus.data.readers.given import read_given, refuse_inside

__all__ = ["Options", "read_data", "read_given", "refuse_inside"]
