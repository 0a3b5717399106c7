"""The model card, ``README.md`` of a saved detector: what it is, figures, thresholds, limits."""

import html
import re
from collections.abc import Sequence
from pathlib import Path

import jinja2

from focus.config.recipes import SOURCES
from focus.config.train import ResolvedTrainConfig
from focus.data.manifest import REAL, SYNTHETIC, WHOLE, Manifest
from focus.model.config import DetectorConfig
from focus.model.operating_points import OperatingPoints
from focus.runtime.files import atomic_write

CARD = "README.md"
_TEMPLATE = Path(__file__).with_name("card.md")
_MARK = "library_name: focus-faces"


def model_card(
    config: DetectorConfig,
    points: OperatingPoints | None,
    results: str = "",
    data: str = "",
    training: str = "",
    arithmetic: str = "",
) -> str:
    """Return the card's text, with the metadata that the Hub reads.

    results: A table in plain text. data, training: What :func:`trained_on` and
    :func:`trained_how` return. arithmetic: The precision in words.
    """
    families = config.training_families
    generators = [
        f"{name} (family {families[name]})" if families.get(name, name) not in ("", name) else name
        for name in config.training_generators
    ]
    ways = ["not cut out" if way == WHOLE else f"cut out ({way})" for way in config.geometry]
    template = jinja2.Template(_TEMPLATE.read_text(encoding="utf-8"), keep_trailing_newline=True)
    text: str = template.render(
        config=config,
        points=points,
        results=results,
        data=_escaped(data),
        generators=_escaped(", ".join(generators)),
        geometry=_escaped("; ".join(ways)),
        initial_weights=_escaped(config.initial_weights),
        training=training,
        arithmetic=arithmetic,
        mean=", ".join(f"{value:g}" for value in config.mean),
        std=", ".join(f"{value:g}" for value in config.std),
    )
    return text


def trained_on(manifest: Manifest, paths: Sequence[str]) -> str:
    """Return what a card says of training images read from ``paths``; none: the demo set."""
    n_real, n_synthetic = ((manifest.labels == label).sum() for label in (REAL, SYNTHETIC))
    maps = manifest.has("human_map").sum()
    # The last part of a path: where it lay on somebody's disk is nobody's business.
    names = ", ".join(Path(path).name for path in paths)
    return (
        f"{n_real} real and {n_synthetic} synthetic images of "
        f"{names or 'the embedded demo set, whose faces are drawn'}, {maps} with a human map"
    )


def trained_how(config: ResolvedTrainConfig) -> str:
    """Return what a card says of the loss, its weights, and the training's length."""
    loss = config.loss
    target = "" if loss.entropy_target is None else f" at {loss.entropy_target:g}"
    words = {
        "classification": "cross-entropy",
        "focus": f"focus term ({loss.focus_level}{target}, entropy {loss.entropy})",
    }
    source = f" (after {SOURCES[config.recipe]})" if config.recipe in SOURCES else ""
    weighted = " + ".join(
        f"{weight:g} x {words.get(term, f'{term} term')}"
        for term, weight in loss.weights._asdict().items()
        if weight
    )
    return (
        f"`{loss.name}`, {weighted}, on the CAM of the class `{loss.cam_class}`; recipe "
        f"`{config.recipe}`{source}, the best on validation of up to {config.epochs} epochs, seed "
        f"{config.seed}"
    )


def write_card(folder: Path, card: str) -> None:
    """Write the card of the detector in ``folder``; a README.md of something else stays."""
    before = read_card(folder)
    if before is None or _MARK in before:
        with atomic_write(folder / CARD) as aside:
            aside.write_text(card, encoding="utf-8", errors="replace")


def read_card(folder: Path) -> str | None:
    """Return the card in ``folder``; None if there is none."""
    path = folder / CARD
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else None


def _escaped(text: str) -> str:
    """Return names as Markdown and HTML show them: no tag, link, emphasis or line ends in them."""
    plain = html.escape(" ".join(text.split()), quote=False)
    # A colon, an at sign and "www." would begin a link by themselves.
    return re.sub(r"[\\`*_{}\[\]#!~|$:@]|(?<=www)\.", r"\\\g<0>", plain, flags=re.IGNORECASE)
