"""What a saved detector's ``config.json`` holds: its network and how images come to it."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self, get_type_hints

from focus.config.typed import typed_value
from focus.data.images import text_of
from focus.errors import InputError, did_you_mean

CONFIG_VERSION = 1
CONFIG_FILE = "config.json"
_REQUIRED = ("version", "model", "image_size")


@dataclass(frozen=True)
class DetectorConfig:
    """What a saved detector's ``config.json`` holds beside the format's version.

    model: timm name. image_size: pixels a side; images are squashed to it. mean, std: of the
    normalisation, for RGB in [0, 1]. temperature: of the CAM's softmax. training_generators: the
    generators whose images training saw, also that of the weights it began with. training_families:
    the family of each, "" if it is not known. geometry: how faces were cut out of the images that
    training saw, each way once (see :mod:`focus.data.faces`); empty if it is not known.
    """

    model: str
    image_size: int
    num_classes: int = 2
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    temperature: float = 1.0
    training_generators: tuple[str, ...] = ()
    training_families: dict[str, str] = field(default_factory=dict)
    geometry: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, values in (
            ("image_size", (self.image_size,)),
            ("temperature", (self.temperature,)),
            ("std", self.std),
        ):
            if not all(0 < value < math.inf for value in values):
                raise ValueError(f"{name} is {getattr(self, name)}, it has to be above 0")
        if not all(map(math.isfinite, self.mean)):
            raise ValueError(f"mean is {self.mean}, it has to be finite")

    def seen(self) -> dict[str, Any]:
        """What training saw and how, as JSON: the fields that a run keeps, since it may have to
        resume without the config of the weights that it began with."""
        return {
            "mean": list(self.mean),
            "std": list(self.std),
            "training_generators": list(self.training_generators),
            "training_families": self.training_families,
            "geometry": list(self.geometry),
        }

    def after(
        self, generators: Iterable[str], families: Mapping[str, str], geometry: Iterable[str]
    ) -> Self:
        """Of the same network after a training on these: what it saw before stays seen."""
        before = self.training_families
        return replace(
            self,
            training_generators=tuple(sorted({*self.training_generators, *generators})),
            training_families={
                name: families.get(name) or before.get(name, "")
                for name in sorted({*before, *families})
            },
            geometry=tuple(sorted({*self.geometry, *geometry})),
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a ``config.json``.

        Raises:
            InputError: the file is missing, is not of this format, or of a newer version.
        """
        try:
            values = json.loads(text_of(path))
            if lacking := [name for name in _REQUIRED if name not in values]:
                raise ValueError(f"it has no {lacking[0]!r}")
            version = typed_value(int, values.pop("version"), "version")
            if version <= CONFIG_VERSION:
                types = get_type_hints(cls)
                if unknown := [name for name in values if name not in types]:
                    meant = did_you_mean(unknown[0], types)
                    raise ValueError(f"it has an unknown key {unknown[0]!r}{meant}")
                return cls(**{k: typed_value(types[k], v, k) for k, v in values.items()})
        except OSError as error:
            raise InputError(
                f"{path.parent} holds no detector ({path.name}: {error.strerror}): give the folder "
                "that training wrote, runs/NAME/model."
            ) from None
        except (TypeError, AttributeError, ValueError, RecursionError) as error:
            # Errors of this package say what is wrong, those of others with their names only.
            kind = "" if type(error) in (ValueError, InputError) else f"{type(error).__name__}: "
            reason = " ".join(str(error).split()).removesuffix(".")
            raise InputError(
                f"{path} is not the config of a detector ({kind}{reason}): give the folder that "
                "training wrote, runs/NAME/model."
            ) from None
        raise InputError(f"{path} has version {version}: update focus to read it.")

    def write(self, path: Path) -> None:
        """Write a ``config.json``."""
        text = json.dumps({"version": CONFIG_VERSION, **asdict(self)}, indent=2)
        path.write_text(text + "\n", encoding="utf-8")
