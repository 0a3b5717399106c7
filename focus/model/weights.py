"""Load weights that others published or trained, without running code from their files."""

import pickle
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from timm.models import load_state_dict
from torch import Tensor, nn

from focus.errors import InputError
from focus.model.backbones import first_line
from focus.model.packaged_weights import named_in_order

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
    own = network.state_dict()
    if missing := [key for key in own if key not in state and not key.endswith(_OPTIONAL)]:
        raise InputError(
            f"{path} does not hold the weights of {name}: {len(missing)} are missing, as "
            f"{missing[0]!r}, and it has {next(iter(state), 'nothing')!r}; give a checkpoint of "
            "this network."
        )
    for key, value in own.items():
        if key in state and state[key].shape != value.shape:
            raise InputError(
                f"{path} does not fit {name}: {key} should be {list(value.shape)}, got "
                f"{list(state[key].shape)}; give a checkpoint of this network."
            )


def load_backbone(backbone: nn.Module, state: Mapping[str, Tensor], name: str, path: Path) -> None:
    """Load the weights of a timm network without its classifier.

    They may have timm's names, those of a library whose names timm translates, or those of
    :mod:`focus.model.packaged_weights`. Weights by position of another image size are resampled by
    timm.

    Raises InputError as :func:`load_weights`, or if a block holds weights that the network does not
    have, since the file is of a larger network of the family.
    """
    own = backbone.state_dict()
    state = {_OLD_DENSENET.sub(r"\1\2", key): value for key, value in state.items()}
    state = _named_as_timm(named_in_order(state, backbone), backbone)
    classifiers = (getattr(backbone, "pretrained_cfg", None) or {}).get("classifier") or ()
    classifiers = (classifiers,) if isinstance(classifiers, str) else classifiers
    blocks = {_block(key) for key in own} - {_block(key) for key in classifiers}
    for key in state:
        if key not in own and _block(key) in blocks and not key.endswith(_OPTIONAL):
            raise InputError(
                f"{path} does not hold the weights of {name}, which has no {key!r}: give a "
                "checkpoint of this network."
            )
    load_weights(backbone, state, name, path)


def _named_as_timm(state: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """Return the weights under the backbone's names, and resampled to its image size."""
    own = backbone.state_dict()
    translate = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    named = all(key in state for key in own if not key.endswith(_OPTIONAL))
    misfits = {key for key in own if key in state and state[key].shape != own[key].shape}
    if translate is None or (named and not misfits):
        return state
    try:
        found: dict[str, Tensor] = translate(dict(state), backbone)
    except Exception:  # timm knows no such file; check_weights says what it lacks
        return state
    # Names that fit are kept: timm takes some files without a classifier for older ones.
    return state | {key: found[key] for key in misfits if key in found} if named else found


def _block(key: str) -> str:
    """Return the part of a network that a weight lies in, ``layer3`` of ``layer3.6.conv1.bias``."""
    return key.partition(".")[0]
