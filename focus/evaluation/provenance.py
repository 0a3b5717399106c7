"""Say where results come from: what was trained, by which versions, on which images."""

import hashlib
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import focus
from focus.config.train import TrainConfig
from focus.data.known_images import CONTENT
from focus.data.manifest import Manifest

WEIGHTS = "weights_sha256"
PRECISION = "precision"
DATA = "data_sha256"
_PACKAGES = ("torch", "timm", "numpy")


def provenance(
    network: str, manifest: Manifest, config: TrainConfig | None, initial_weights: str = ""
) -> dict[str, Any]:
    """Return what ``results.json`` says of its origin, as docs/formats.md describes it.

    network: by its timm name. initial_weights: as of the detector's config. manifest: the images,
    with their digests. config: of the training; None where it is not known.
    """
    return {
        "network": network,
        "initial_weights": initial_weights,
        "recipe": config and config.recipe,
        "loss": None if config is None else {"name": config.loss.name, **config.loss.settings},
        "seed": None if config is None else config.seed,
        DATA: data_digest(manifest),
        **this_program(),
    }


def this_program() -> dict[str, Any]:
    """Return the versions, the commit and the command that made results."""
    program = Path(sys.argv[0]).name
    if program == "__main__.py":
        program = "focus"  # of python -m focus, and of a launcher that starts it so
    return {
        "versions": {
            "focus": focus.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in _PACKAGES},
        },
        "commit": commit(),
        "command": shlex.join([program, *sys.argv[1:]]),
    }


def data_digest(manifest: Manifest) -> str:
    """Return a SHA-256 of the images' contents, labels and splits, wherever they lie."""
    lines = sorted(
        f"{sample.extra.get(CONTENT)} {sample.label} {sample.split}\n" for sample in manifest
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def commit() -> str | None:
    """Return the commit of a checkout, with ``-dirty`` if files differ; None without git."""
    folder = Path(focus.__file__).resolve().parents[1]
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
