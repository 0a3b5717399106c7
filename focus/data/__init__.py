"""Data: one manifest, a reader per layout, the demo set."""
