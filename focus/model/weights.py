"""Weights from files: read without running code, and given the names of timm's network.

Published weights of one network come under several names: timm's own, torchvision's, those of
torchvision's old files, with the prefixes of wrappers. Which tensor is which is told by its name,
never by its shape alone.
"""

import json
import pickle
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from timm.models import load_state_dict
from torch import Tensor, nn

from focus.config.typed import typed_value
from focus.data.images import text_of
from focus.errors import InputError
from focus.model.backbones import first_line

# torchvision's networks that compute what timm's do, with modules registered in the same order but
# named otherwise, by timm's name. Those of ResNets, DenseNets and Inception have the same names.
# Others of the same title differ: torchvision's MobileNetV3 and EfficientNetV2 have another epsilon
# in their norms, timm's `tf_` networks another padding.
_TORCHVISION = {
    **{f"convnext_{size}": f"convnext_{size}" for size in ("tiny", "small", "base", "large")},
    **{f"efficientnet_b{size}": f"efficientnet_b{size}" for size in range(5)},
    "mobilenetv2_100": "mobilenet_v2",
}
# torchvision's files of DenseNets are older than its code.
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
# Of torch before 0.4.1, or made again by the network.
_DISPENSABLE = (
    "num_batches_tracked",
    *("relative_position_index", "relative_coords_table", "attn_mask"),
)


_ADVICE = "give an undamaged file of safetensors, or a checkpoint that holds tensors only"
# How files of torch.save begin: those of today are archives.
_PICKLES = (b"PK\x03\x04", b"\x80")
_SAFETENSORS = ".safetensors"  # how their names end, by which timm tells them


def read_weights(path: Path, advice: str = _ADVICE) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a pickle read with ``weights_only``, by their names.

    They may lie under ``state_dict`` or ``model``, and have the prefixes ``module.`` and
    ``_orig_mod.``, which are taken off. Of a training checkpoint that has averaged weights too
    (``state_dict_ema``, ``model_ema``), these are read, as timm itself does. advice: what to do
    with a file that cannot be read.

    Raises:
        InputError: there is no such file, it is a folder, it holds no weights, holds them under
            another name or is damaged, or it is a pickle that would run code, which is not run.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a file with weights: give the file in it.")
    if not path.is_file():
        raise InputError(f"There is no file {path} with weights: check the path.")
    try:
        path.open("rb").close()  # of a file that may not be read safetensors says that it is none
        state = load_state_dict(str(path), weights_only=True)
        tensors = _tensors(state)
    except Exception as error:
        head = b"" if isinstance(error, OSError) else _head(path)
        # torch may see a pickle in a text, too.
        if _is_refused_pickle(error) and head.startswith(_PICKLES):
            raise InputError(
                f"{path} could not be read as weights: it is a pickle of more than tensors"
                f"{_what_it_would_call(path)}, which reading would run; save the network's "
                "state_dict() alone."
            ) from error
        if isinstance(error, PermissionError):
            advice = "make the file readable"
        elif rename := _misnamed(path, head):
            advice = rename
        raise InputError(
            f"{path} could not be read as weights ({_reason(path, head, error)}): {advice}."
        ) from error
    for name, inner in state.items():
        # Beside them may be a tensor or two, as of a loss.
        if isinstance(inner, Mapping) and len(_tensors(inner)) > len(tensors):
            raise InputError(f"{path} has its weights under {name!r}: save what is there alone.")
    return tensors


def refuse_other_classes(state: Mapping[str, Tensor], num_classes: int, path: Path) -> None:
    """Raise InputError if the classifier of a detector's weights has another number of classes."""
    bias = state.get("head.fc.bias")
    if bias is not None and bias.numel() != num_classes:
        raise InputError(
            f"{path} has {bias.numel()} classes but the detector {num_classes}: "
            "give a checkpoint with the same classes."
        )


def refuse_misfits(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], model: str, path: Path
) -> None:
    """Raise InputError if a tensor of ``own`` is missing, of another shape or kind of number, or
    holds what is no finite number."""
    for key, tensor in own.items():
        if key not in state or state[key].shape != tensor.shape:
            got = list(state[key].shape) if key in state else "missing"
            raise InputError(
                f"{path} does not fit {model}: {key} should be "
                f"{list(tensor.shape)}, got {got}; give a checkpoint of this network."
            )
        given = state[key]
        # Copied as they are, the whole numbers of a quantised network would be its weights.
        if tensor.is_floating_point() and not given.is_floating_point():
            raise InputError(
                f"{path} does not fit {model}: {key} should hold {tensor.dtype}, got "
                f"{given.dtype}; give a checkpoint that is not quantised or complex."
            )
        if given.is_meta or given.layout != torch.strided:
            kind = "no values" if given.is_meta else f"a {given.layout} tensor"
            raise InputError(
                f"{path} does not fit {model}: {key} has {kind}; save the network's state_dict() "
                "with dense tensors."
            )
        if not given.to(tensor.dtype).isfinite().all():
            raise InputError(
                f"{path} does not fit {model}: {key} has numbers that are not finite; give another "
                "checkpoint."
            )


def normalisation_beside(path: Path) -> dict[str, Any]:
    """The ``mean`` and ``std``, as far as they are given, of timm's config.json beside weights.

    A file of that name that is not timm's says nothing of them.

    Raises:
        InputError: they are no three numbers.
    """
    beside = path.with_name("config.json")
    try:
        values = json.loads(text_of(beside))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(values, dict) or not {"pretrained_cfg", "architecture"} & values.keys():
        return {}
    values = values.get("pretrained_cfg", values)  # which older files do not have
    given = {
        name: values[name]
        for name in ("mean", "std")
        if isinstance(values, dict) and values.get(name)
    }
    kind = tuple[float, float, float]
    return {name: typed_value(kind, value, f"{name} in {beside}") for name, value in given.items()}


def backbone_weights(
    state: Mapping[str, Tensor], backbone: nn.Module, model: str, path: Path
) -> dict[str, Tensor]:
    """The weights of a backbone out of a checkpoint of its network, by the backbone's own names.

    The classifier, and parts that the backbone does not have, are left out. Counts of batches that
    old files lack stay as they are; weights by position are resampled to the size of the images.

    Args:
        state: the file's tensors by their names, timm's or torchvision's.
        backbone: of timm, without its classifier.
        model: its timm name; path: of the file, for the message.

    Raises:
        InputError: a weight of the backbone is missing, or a part that it has holds more: it is
            another network's checkpoint, if a larger one of the same family.
    """
    own = backbone.state_dict()
    state = {_OLD_DENSENET.sub(r"\1\2", key): value for key, value in state.items()}
    if own.keys().isdisjoint(state):
        state = _named_as_timm(state, own, model)
    missing = [key for key in own if key not in state and not key.endswith(_DISPENSABLE)]
    parts = {_part(key) for key in own} - _classifier_parts(backbone)
    unknown = [
        key
        for key in state
        if key not in own and _part(key) in parts and not key.endswith(_DISPENSABLE)
    ]
    if missing or unknown:
        found = _counted("missing", missing) + _counted("not this network's", unknown)
        prefix = _prefix(state, own) if missing else None
        advice = (
            "give a checkpoint of this network"
            if prefix is None
            else f"all of the network's are there with {prefix!r} before their names: save them "
            "without it"
        )
        raise InputError(
            f"{path} does not hold the weights of {model}: {', and '.join(found)}; {advice}."
        )
    return resized({key: state.get(key, value) for key, value in own.items()}, backbone)


def resized(state: Mapping[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """A backbone's weights with those by position resampled to its size of images, as timm does.

    What timm cannot resample stays as it is.
    """
    own = backbone.state_dict()
    found = dict(state)
    other = [
        key
        for key, value in state.items()
        # Not patch_embed, which timm would resample from a network with other patches.
        if key in own and "pos" in key and value.shape != own[key].shape
    ]
    resample = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    if other and resample is not None:
        try:
            made = resample(found, backbone)
        except Exception:  # it is not made for what users may give
            return found
        found |= {key: made[key] for key in other if key in made}
    return found


def _named_as_timm(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], model: str
) -> Mapping[str, Tensor]:
    """The state with torchvision's names replaced, if they are all there; else as it is."""
    theirs = _TORCHVISION.get(model.partition(".")[0])
    if theirs is None:
        return state
    import torchvision

    with torch.device("meta"):  # for the names in their order, which a file need not keep
        names = torchvision.models.get_model(theirs).state_dict().keys()
    pairs = dict(zip(own, names, strict=False))
    if not all(name in state for key, name in pairs.items() if not key.endswith(_DISPENSABLE)):
        return state
    return {
        # A scale per channel is [C,1,1] there and [C] here.
        key: state[name].reshape(own[key].shape)
        if state[name].numel() == own[key].numel()
        else state[name]
        for key, name in pairs.items()
        if name in state
    }


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def _prefix(state: Iterable[str], own: Iterable[str]) -> str | None:
    """What stands before the names of all of a network's weights, as its wrapper's ``model.``."""
    wanted = [key for key in own if not key.endswith(_DISPENSABLE)]
    there = set(state)
    prefixes = [key.removesuffix(wanted[0]) for key in there if key.endswith(f".{wanted[0]}")]
    for prefix in sorted(prefixes):
        if all(prefix + key in there for key in wanted):
            return prefix
    return None


def _part(key: str) -> str:
    """The part of a network that a weight lies in: ``layer3`` of ``layer3.6.conv1.weight``."""
    return key.partition(".")[0]


def _classifier_parts(backbone: nn.Module) -> set[str]:
    """Whose further weights are another task's, or were taken off with the pooling."""
    config = getattr(backbone, "pretrained_cfg", None) or {}
    names = config.get("classifier") or ()
    return {_part(name) for name in ((names,) if isinstance(names, str) else names)}


def _counted(what: str, keys: Iterable[str]) -> list[str]:
    """``["2 are missing, the first is stem.0.weight"]``, empty without keys."""
    keys = list(keys)
    return [f"{len(keys)} are {what}, the first is {keys[0]}"] if keys else []


def _is_refused_pickle(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, pickle.UnpicklingError) and "weights_only" in str(error).lower():
            return True
        error = error.__cause__
    return False


def _head(path: Path) -> bytes:
    """The first 9 bytes: of safetensors the length of the JSON behind it, and how that begins."""
    with path.open("rb") as file:
        return file.read(9)


def _kind(head: bytes) -> str | None:
    """What a file that begins so holds, as far as that tells."""
    if head[8:] == b"{":
        return "safetensors"
    return "a pickle or an archive" if head.startswith(_PICKLES) else None


def _misnamed(path: Path, head: bytes) -> str:
    """What to do with a file of the kind that timm does not expect by its name, else ""."""
    named, kind = path.name.endswith(_SAFETENSORS), _kind(head)
    if kind is None or (kind == "safetensors") == named:
        return ""
    return f"rename it to a name that ends in {'.pth' if named else _SAFETENSORS}"


def _reason(path: Path, head: bytes, error: Exception) -> str:
    """Why a file could not be read. What libraries say of one that is no weights misleads."""
    if isinstance(error, OSError):
        return first_line(error)
    if not head:
        return "it is empty"
    if (kind := _kind(head)) is None:
        return "neither safetensors nor a pickle"
    if _misnamed(path, head):
        ends = "ends" if path.name.endswith(_SAFETENSORS) else "does not end"
        return f"{kind}, and the name {ends} in {_SAFETENSORS}"
    if isinstance(error, AttributeError):  # of timm, about what is no mapping from texts
        return "it holds no tensors by their names"
    # Some messages of torch go on with what may have happened.
    said = re.split(r"(?<=\S)\. ", first_line(error))[0].rstrip(".")
    other = "" if kind == "safetensors" else ", or of something else"
    return f"{kind}, cut off or damaged{other}: {said}"


def _what_it_would_call(path: Path) -> str:
    """``" (it names pathlib.Path.touch)"``, as far as torch can tell without reading it."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # of a file in the old format it cannot
        return ""
    return f" (it names {', '.join(sorted(names)[:3])})" if names else ""
