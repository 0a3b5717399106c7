"""Reads one path as ``--data``."""

from pathlib import Path
from typing import Any

from focus.config.train import TrainConfig
from focus.data.manifest import Manifest
from focus.data.readers import read_given


def read_data(path: str | Path, *, allow_unlabelled: bool = False, **options: Any) -> Manifest:
    """Return the images of a path; options: those of the configuration."""
    config = TrainConfig(data=(str(path),), **options)
    return read_given(config, allow_unlabelled=allow_unlabelled).data
