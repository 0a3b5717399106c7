"""The detector: a timm backbone and a head whose logits are the mean of its CAM.

images [B,3,S,S] -> backbone -> features F [B,C,H,W] -> FocusHead -> logits, CAM, loss
"""

import json
import math
import shutil
from argparse import ArgumentError
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

import safetensors.torch
import timm
import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from focus.backbones import create_backbone, first_line
from focus.data.manifest import SYNTHETIC
from focus.errors import InputError
from focus.kernels import class_activation, focus_head
from focus.losses import LossConfig
from focus.operating_points import THRESHOLDS, OperatingPoints
from focus.recipes import SMALL_MODEL
from focus.weights import backbone_weights, read_weights
from focus.writing import flush

CONFIG_VERSION = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

_WEIGHTS = ("classification_weight", "focus_weight", "saliency_weight")


class DetectorOutput(NamedTuple):
    """What the detector's forward returns.

    Without a target, ``loss`` and its terms are None and the CAM is the predicted class's; with
    one, it is that of the class the loss looks at. Only ``loss`` and, without a target, ``logits``
    carry gradient.
    """

    logits: Tensor
    """``[B,K]``."""
    cam: Tensor
    """Raw CAM ``[B,H,W]``."""
    entropy: Tensor
    """Of the CAM, ``[B]`` in [0, 1]."""
    loss: Tensor | None = None
    """Scalar mean over the batch."""
    classification: Tensor | None = None
    """Cross-entropy ``[B]``, unweighted."""
    focus: Tensor | None = None
    """Focus term ``[B]``, unweighted."""
    saliency: Tensor | None = None
    """Saliency term ``[B]``, unweighted."""


class Prediction(NamedTuple):
    """What is reported of images: never anything that needs a label."""

    score: Tensor
    """``[B]`` float32, probability of synthetic."""
    predicted: Tensor
    """``[B]`` int64, class of the highest logit."""
    cams: Tensor
    """Raw CAMs ``[B,2,H,W]`` float32 of the predicted and of the synthetic class."""
    entropy: Tensor
    """``[B,2]`` in [0, 1] of these CAMs."""


@dataclass(frozen=True)
class DetectorConfig:
    """What a saved detector's ``config.json`` holds beside the format's version.

    model: timm name. image_size: pixels a side; images are squashed to it. mean, std: of the
    normalisation, for RGB in [0, 1]. temperature: of the CAM's softmax. training_generators: the
    generators whose images training saw. training_families: the family of each, "" if it is not
    known. geometry: how faces were cut out of the images that training saw, each way once (see
    :mod:`focus.data.faces`); empty if it is not known.
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

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a ``config.json``.

        Raises:
            InputError: the file is missing, is not of this format, or of a newer version.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            version = values.pop("version")
            if version > CONFIG_VERSION:
                raise InputError(f"{path} has version {version}: update focus to read it.")
            parser = ArgumentParser(exit_on_error=False)
            parser.add_class_arguments(cls)
            return cls(**parser.parse_object(values).as_dict())
        except InputError:
            raise
        except OSError as error:
            raise InputError(
                f"{path.parent} holds no detector ({path.name}: {error.strerror}): give the folder "
                "that training wrote, runs/NAME/model."
            ) from None
        except (TypeError, KeyError, AttributeError, ValueError, ArgumentError) as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"{path} is not the config of a detector ({type(error).__name__}: {reason}): give "
                "the folder that training wrote, runs/NAME/model."
            ) from None

    def write(self, path: Path) -> None:
        """Write a ``config.json``."""
        text = json.dumps({"version": CONFIG_VERSION, **asdict(self)}, indent=2)
        path.write_text(text + "\n", encoding="utf-8")


class FocusHead(nn.Module):
    """Classifier on pooled features, with the CAM terms of the loss.

    ``logits = mean_p(CAM) + bias`` holds by construction: pooling, classifier and CAM share one
    weight.
    """

    def __init__(self, channels: int, num_classes: int, loss: LossConfig) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, num_classes)
        self.loss = loss
        # Three weights as a tensor, once they change: numbers would compile anew with each change.
        self.loss_weights: Tensor | None
        self.register_buffer("loss_weights", None, persistent=False)
        self.class_weight: Tensor | None
        """Factors ``[K]`` of the cross-entropy; None: all 1."""
        self.register_buffer("class_weight", None, persistent=False)

    def scale_terms(self, focus: float, saliency: float) -> None:
        """Multiply the configured weights of the focus and of the saliency term from here on."""
        if self.loss_weights is None:
            self.loss_weights = torch.empty(3, device=self.fc.weight.device)
        loss = self.loss
        values = (
            loss.classification_weight,
            loss.focus_weight * focus,
            loss.saliency_weight * saliency,
        )
        for cell, value in zip(self.loss_weights, values, strict=True):
            cell.fill_(value)  # on the device, without a copy that waits

    def forward(
        self,
        features: Tensor,
        target: Tensor | None = None,
        saliency: Tensor | None = None,
        saliency_mask: Tensor | None = None,
    ) -> DetectorOutput:
        """Features ``[B,C,H,W]`` to a :class:`DetectorOutput`."""
        weight, bias = self.fc.weight, self.fc.bias
        if target is None:
            # In the classifier's precision, as the loss and the CAM are, also under autocast.
            with torch.autocast(features.device.type, enabled=False):
                logits = self.fc(features.mean((2, 3), dtype=weight.dtype))
            _, cams, entropy = self.activations(features)
            predicted = logits.detach().argmax(1)
            return DetectorOutput(logits, _pick(cams, predicted), _pick(entropy, predicted))
        settings = asdict(self.loss)
        if self.loss_weights is not None:
            settings |= zip(_WEIGHTS, self.loss_weights.unbind(), strict=True)
        out = focus_head(
            features,
            weight,
            bias,
            target,
            saliency=saliency,
            saliency_mask=saliency_mask,
            class_weight=self.class_weight,
            **settings,
        )
        return DetectorOutput(
            out.logits,
            out.cam,
            out.entropy,
            out.loss,
            out.classification,
            out.focus,
            out.saliency,
        )

    def activations(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits ``[B,K]``, CAMs ``[B,K,H,W]`` and entropies ``[B,K]`` of every class."""
        return class_activation(
            features,
            self.fc.weight,
            self.fc.bias,
            range(self.fc.out_features),
            temperature=self.loss.temperature,
        )


class Detector(nn.Module):
    """A detector of synthetic faces: class 0 real, class 1 synthetic.

    Args:
        model: "focus_small" or a timm name. The features are those after the network's last norm;
            a transformer's prefix tokens are dropped and its patch tokens folded to the grid.
        image_size: pixels a side; None takes the network's own.
        num_classes: 2, unless real is not the only class beside synthetic.
        pretrained: load timm's weights (downloads).
        initial_checkpoint: a file with weights of the network by timm's or torchvision's names
            (safetensors, or a pickle read with ``weights_only``), or of a whole detector.
        loss: weights and settings of the loss.
        training_generators: kept in the config, for evaluation.

    Raises:
        InputError: an unknown network, one without a spatial map at this size, weights that do
            not load.
    """

    def __init__(
        self,
        model: str = SMALL_MODEL,
        *,
        image_size: int | None = None,
        num_classes: int = 2,
        pretrained: bool = False,
        initial_checkpoint: str | Path | None = None,
        loss: LossConfig | None = None,
        training_generators: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise InputError(f"num_classes is {num_classes}: give 2, for real and synthetic.")
        self.backbone = create_backbone(model, image_size, pretrained)
        data = timm.data.resolve_model_data_config(self.backbone)
        size = image_size or int(data["input_size"][-1])
        self.grid, channels = self._probe(size, model)
        loss = loss or LossConfig()
        self.head = FocusHead(channels, num_classes, loss)
        self.config = DetectorConfig(
            model=model,
            image_size=size,
            num_classes=num_classes,
            mean=tuple(data["mean"]),
            std=tuple(data["std"]),
            temperature=loss.temperature,
            training_generators=training_generators,
        )
        self.points: OperatingPoints | None = None
        """Thresholds and calibration, once they are fixed on validation."""
        if initial_checkpoint is not None:
            self._load_initial(Path(initial_checkpoint))

    @property
    def image_size(self) -> int:
        """Pixels a side of the input."""
        return self.config.image_size

    @property
    def mean(self) -> tuple[float, float, float]:
        """Of the normalisation, RGB in [0, 1]."""
        return self.config.mean

    @property
    def std(self) -> tuple[float, float, float]:
        """Of the normalisation, RGB in [0, 1]."""
        return self.config.std

    def features(self, images: Tensor) -> Tensor:
        """Images ``[B,3,S,S]`` to features ``[B,C,H,W]`` as the classifier sees them."""
        out: Tensor = self.backbone(images)
        if self._layout == "NHWC":
            return out.permute(0, 3, 1, 2)
        if self._layout == "tokens":
            out = out[:, getattr(self.backbone, "num_prefix_tokens", 0) :]
            out = out.reshape(len(out), *self.grid, out.shape[2]).permute(0, 3, 1, 2)
        return out

    def forward(
        self,
        images: Tensor,
        target: Tensor | None = None,
        saliency: Tensor | None = None,
        saliency_mask: Tensor | None = None,
    ) -> DetectorOutput:
        """Logits and CAM, and the loss when there is a target.

        Args:
            images: ``[B,3,S,S]``, normalised by ``mean`` and ``std``.
            target: ``[B]`` int64.
            saliency: human maps ``[B,H,W]`` in [0, 1] on ``grid``; saliency_mask: ``[B]`` bool.
        """
        out: DetectorOutput = self.head(self.features(images), target, saliency, saliency_mask)
        return out

    @torch.no_grad()
    def predict_batch(self, images: Tensor) -> Prediction:
        """Scores, CAMs and entropies of images ``[B,3,S,S]``; call ``eval()`` before."""
        logits, cams, entropy = self.head.activations(self.features(images))
        predicted = logits.argmax(1)
        return Prediction(
            # Not 1 minus that of real, which rounds all below 6e-8 to 0.
            score=logits.float().softmax(1)[:, 1:].sum(1),
            predicted=predicted,
            cams=torch.stack((_pick(cams, predicted), cams[:, SYNTHETIC]), 1).float(),
            entropy=torch.stack((_pick(entropy, predicted), entropy[:, SYNTHETIC]), 1).float(),
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json``, ``model.safetensors`` and, if there are operating points,
        ``thresholds.json``; an earlier detector there is replaced.

        The folder is written aside and renamed, so that it is whole or absent.

        Raises:
            InputError: the folder holds other files, which replacing it would delete.
        """
        folder = Path(folder)
        present = {path.name for path in folder.iterdir()} if folder.exists() else set()
        if others := sorted(present - {CONFIG_FILE, WEIGHTS_FILE, THRESHOLDS}):
            raise InputError(
                f"{folder} holds more than a detector ({others[0]}): give a folder of its own."
            )
        aside = folder.with_name(f".{folder.name}.writing")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        state = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
        # Not save_file, whose error of a full disk is none of the system's.
        (aside / WEIGHTS_FILE).write_bytes(safetensors.torch.save(state))
        self.config.write(aside / CONFIG_FILE)
        if self.points is not None:
            self.points.write(aside)
        for name in (WEIGHTS_FILE, CONFIG_FILE, ""):
            flush(aside / name)
        if folder.exists():
            old = folder.with_name(f".{folder.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            folder.replace(old)
            aside.replace(folder)
            shutil.rmtree(old)
        else:
            aside.replace(folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Load what :meth:`save_pretrained` wrote; nothing in the folder is executed.

        Raises:
            InputError: the folder holds no detector, or weights that do not fit its config.
        """
        folder = Path(folder)
        config = DetectorConfig.read(folder / CONFIG_FILE)
        detector = cls(
            config.model,
            image_size=config.image_size,
            num_classes=config.num_classes,
            loss=LossConfig(temperature=config.temperature),
            training_generators=config.training_generators,
        )
        detector.config = config
        detector.points = OperatingPoints.read(folder)
        detector._load(read_weights(folder / WEIGHTS_FILE), folder / WEIGHTS_FILE)
        return detector.eval()

    def _probe(self, size: int, model: str) -> tuple[tuple[int, int], int]:
        """Find the layout of the backbone's output; returns the CAM's grid and the channels.

        Some networks have a layer after their ``num_features``, so the output itself is asked.
        """
        training = self.backbone.training
        self.backbone.eval()
        with torch.no_grad():
            try:
                out = self.backbone(torch.zeros(1, 3, size, size))
            except (RuntimeError, AssertionError, ValueError) as error:
                raise InputError(
                    f"The network {model!r} does not take {size} x {size} images "
                    f"({first_line(error)}): choose another --image-size."
                ) from None
        self.backbone.train(training)
        shape = list(out.shape[1:]) if isinstance(out, Tensor) else []
        grid, channels = (1, 1), 0
        if len(shape) == 3:
            self._layout = getattr(self.backbone, "output_fmt", "NCHW")
            height, width, channels = shape if self._layout == "NHWC" else (*shape[1:], shape[0])
            grid = (height, width)
        elif len(shape) == 2:
            self._layout = "tokens"
            tokens, channels = shape
            tokens -= getattr(self.backbone, "num_prefix_tokens", 0)
            side = math.isqrt(tokens)
            if side**2 == tokens:
                grid = (side, side)
        if math.prod(grid) < 2:
            raise InputError(
                f"The network {model!r} has no spatial map of features at {size} x {size} pixels "
                f"(its output is {shape or type(out).__name__}), so there is no CAM: choose "
                "another --model or a larger --image-size."
            )
        return grid, channels

    def _load_initial(self, path: Path) -> None:
        state = read_weights(path)
        if any(key.startswith("backbone.") for key in state):
            self._load(state, path)
            return
        weights = backbone_weights(state, self.backbone, self.config.model, path)
        wanted = {f"backbone.{key}": value for key, value in weights.items()}
        own_head = {f"head.{k}": v for k, v in self.head.state_dict().items()}
        self._load(wanted | own_head, path)

    def _load(self, state: Mapping[str, Tensor], path: Path) -> None:
        own = self.state_dict()
        bias = state.get("head.fc.bias")
        if bias is not None and bias.numel() != self.config.num_classes:
            raise InputError(
                f"{path} has {bias.numel()} classes but the detector {self.config.num_classes}: "
                "give a checkpoint with the same classes."
            )
        for key, tensor in own.items():
            if key not in state or state[key].shape != tensor.shape:
                got = list(state[key].shape) if key in state else "missing"
                raise InputError(
                    f"{path} does not fit {self.config.model}: {key} should be "
                    f"{list(tensor.shape)}, got {got}; give a checkpoint of this network."
                )
        self.load_state_dict({key: state[key] for key in own})


def _pick(per_class: Tensor, index: Tensor) -> Tensor:
    """``[B,K,...]`` to ``[B,...]``: each sample's class."""
    return per_class[torch.arange(len(index), device=index.device), index]
