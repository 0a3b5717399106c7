"""Read images, labels and human maps into a manifest, from whichever layout the data have.

A path gives a layout (:mod:`focus.data.readers.detect`), the layout a reader.
"""

from focus.data.readers.given import read_given, refuse_inside

__all__ = ["read_given", "refuse_inside"]
