"""The detector: a timm backbone and a head whose logits are the mean of its CAM.

images [B,3,S,S] -> backbone -> features F [B,C,H,W] -> :mod:`focus.model.head` -> logits, CAM, loss
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import safetensors.torch
import timm
import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from focus.config.losses import LossConfig
from focus.config.recipes import SMALL_MODEL
from focus.data.manifest import SYNTHETIC
from focus.errors import InputError
from focus.model.backbones import create_backbone, first_line
from focus.model.card import CARD, model_card, read_card
from focus.model.config import CONFIG_FILE, DetectorConfig
from focus.model.head import DetectorOutput, FocusHead, pick
from focus.model.hub import WEIGHTS_FILE, local_folder, replace_folder
from focus.model.modes import evaluation_mode
from focus.model.operating_points import THRESHOLDS, OperatingPoints
from focus.model.predict import Picture, predict
from focus.model.weights import (
    backbone_weights,
    normalisation_beside,
    read_weights,
    refuse_misfits,
    refuse_other_classes,
    resized,
)


class Prediction(NamedTuple):
    """What is reported of images: never anything that needs a label.

    Of several classes of fakes the score is the sum; class 1 is the first of them.
    """

    score: Tensor
    """``[B]`` float64, probability of synthetic; on the CPU, as not every device has the type."""
    predicted: Tensor
    """``[B]`` int64, class of the highest logit."""
    cams: Tensor
    """Raw CAMs ``[B,2,H,W]`` float32 of the predicted class and of class 1."""
    entropy: Tensor
    """``[B,2]`` in [0, 1], up to rounding, of these CAMs."""

    def first_not_finite(self) -> int | None:
        """The place in the batch of the first image whose CAM or score is not finite."""
        finite = self.cams.flatten(1).isfinite().all(1).cpu() & self.score.isfinite()
        return None if finite.all() else int(finite.int().argmin())


class Detector(nn.Module, PyTorchModelHubMixin):
    """A detector of synthetic faces: class 0 real, class 1 synthetic.

    Args:
        model: "focus_small" or a timm name. The features are those after the network's last norm;
            a transformer's prefix tokens are dropped and its patch tokens folded to the grid.
        image_size: pixels a side, from 1 on; None takes the network's own.
        num_classes: 2, or more for several classes of fakes: 0 is real, all others are synthetic.
        pretrained: load timm's weights (downloads).
        initial_checkpoint: a file with weights of the network by timm's or torchvision's names
            (safetensors, or a pickle read with ``weights_only``), or of a whole detector. Mean and
            standard deviation are those of timm's config.json beside it, if there is one.
        loss: weights and settings of the loss, or the name of one of ``focus.LOSSES``; None:
            cross-entropy alone.
        training_generators: kept in the config, for evaluation, beside those that a detector of
            ``initial_checkpoint`` was trained on, if its config.json lies beside.

    Raises:
        InputError: an unknown network or loss, a network without a spatial map at this size,
            weights that do not load.
    """

    def __init__(
        self,
        model: str = SMALL_MODEL,
        *,
        image_size: int | None = None,
        num_classes: int = 2,
        pretrained: bool = False,
        initial_checkpoint: str | Path | None = None,
        loss: LossConfig | str | None = None,
        training_generators: Iterable[str] = (),
    ) -> None:
        super().__init__()
        if not isinstance(num_classes, int | np.integer) or num_classes < 2:
            raise InputError(f"num_classes is {num_classes!r}: give 2, for real and synthetic.")
        if image_size is not None and not (
            isinstance(image_size, int | np.integer) and image_size >= 1
        ):
            raise InputError(
                f"The image_size must be at least 1, got {image_size!r}: give whole pixels a side."
            )
        if isinstance(training_generators, str):
            raise InputError(
                f"The training_generators are the text {training_generators!r}: give a tuple of "
                "names."
            )
        # JSON takes no whole numbers of numpy's.
        num_classes, image_size = int(num_classes), None if image_size is None else int(image_size)
        self.backbone = create_backbone(model, image_size, pretrained)
        data = timm.data.resolve_model_data_config(self.backbone)
        size = int(data["input_size"][-1]) if image_size is None else image_size
        self.grid, channels = self._probe(size, model)
        self.head = FocusHead(channels, num_classes, loss)
        self.config = DetectorConfig(
            model=model,
            image_size=size,
            num_classes=num_classes,
            mean=tuple(data["mean"]),
            std=tuple(data["std"]),
            temperature=self.head.loss.temperature,
            training_generators=tuple(training_generators),
        )
        self._shapes = {name: value.shape for name, value in self.state_dict().items()}
        self.points: OperatingPoints | None = None
        """Thresholds and calibration, once they are fixed on validation."""
        self.card: str | None = None
        """The model card to save; None: one is made of the config and the operating points."""
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
            out = out.reshape(out.shape[0], *self.grid, out.shape[2]).permute(0, 3, 1, 2)
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
        """Scores, CAMs and entropies of images ``[B,3,S,S]``, in evaluation mode."""
        with evaluation_mode(self):
            logits, cams, entropy = self.head.activations(self.features(images))
        predicted = logits.argmax(1)
        return Prediction(
            # In float32 all is 1 from a margin of 17 logits on, in float64 from one of 37. Not a
            # sigmoid, whose last bit depends on the place in the batch. Of several classes the sum
            # may round to more than 1.
            score=logits.cpu().double().softmax(1)[:, 1:].sum(1).clamp(max=1),
            predicted=predicted,
            cams=torch.stack((pick(cams, predicted), cams[:, SYNTHETIC]), 1).float(),
            entropy=torch.stack((pick(entropy, predicted), entropy[:, SYNTHETIC]), 1).float(),
        )

    def predict(
        self,
        pictures: Picture | Iterable[Picture],
        *,
        batch_size: int = 64,
        progress: bool = False,
    ) -> Prediction:
        """Scores, classes, CAMs and entropies of N pictures, prepared as in evaluation.

        Several threads may call it at once only in evaluation mode, in which
        :meth:`from_pretrained` gives a detector: one in training mode is switched for the time.

        Args:
            pictures: one or many, each the path of an image, a Pillow image or an array [H,W,3]
                uint8 (RGB), of any size; faces cut out as in training (``config.geometry``).
            batch_size: images at a time; the last bit of a score may depend on it.
            progress: show a bar.

        Returns:
            A :class:`Prediction` on the CPU, whatever device the detector is on.

        Raises:
            ImageError: a picture that cannot be decoded, or an output that is not finite.
            InputError: something that is no picture, or none at all.
        """
        return Prediction(*predict(self, pictures, batch_size, progress))

    def save_pretrained(  # type: ignore[override]  # the config is our own, not the mixin's
        self,
        save_directory: str | Path,
        *,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        keep_others: bool = False,
        config: None = None,
        model_card_kwargs: None = None,
        **push_options: Any,
    ) -> str | None:
        """Write ``config.json``, ``model.safetensors``, the model card and, if there are operating
        points, ``thresholds.json``; an earlier detector there is replaced.

        The folder is written aside and renamed, so that it is whole or absent.

        Args:
            save_directory: the folder, made if need be.
            repo_id: USER/NAME on the Hub, default the folder's name; push_to_hub: whether to upload
                to it; push_options: of ``push_to_hub``.
            keep_others: let other files in the folder stay, where they are refused otherwise.
            config, model_card_kwargs: what the mixin passes; not used.

        Returns:
            The address of the commit, if the folder was uploaded.

        Raises:
            InputError: the folder holds other files, which replacing it would delete, or is the
                current one; the detector has other weights than it was made with (a layer replaced,
                fused or reparametrised), which nobody could load.
        """
        folder = Path(save_directory)
        state = self._weights()
        with replace_folder(folder, keep_others=keep_others) as aside:
            # Not save_file, whose error of a full disk is none of the system's.
            (aside / WEIGHTS_FILE).write_bytes(safetensors.torch.save(state))
            about = replace(self.config, temperature=self.head.loss.temperature)
            about.write(aside / CONFIG_FILE)
            if self.points is not None:
                self.points.write(aside)
            card = self.card or model_card(about, self.points)
            (aside / CARD).write_text(card, encoding="utf-8")
        if push_to_hub:
            return self.push_to_hub(repo_id or folder.name, **push_options)
        return None

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload what :meth:`save_pretrained` writes to USER/NAME on the Hub.

        Thresholds of an earlier detector there do not stay beside weights that have none. options:
        of :class:`huggingface_hub.PyTorchModelHubMixin`.

        Returns:
            The address of the commit.
        """
        if self.points is None:
            given = options.get("delete_patterns") or []
            given = [given] if isinstance(given, str) else list(given)
            options["delete_patterns"] = [*given, THRESHOLDS]
        pushed: str = super().push_to_hub(repo_id, **options)
        return pushed

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **hub_options: Any) -> Self:
        """Load what :meth:`save_pretrained` wrote; nothing in the folder is executed.

        The loss is not part of it: to train on, set ``head.loss`` to one of ``focus.LOSSES``, else
        it is cross-entropy.

        Args:
            pretrained_model_name_or_path: the folder, or USER/NAME on the Hub where there is no
                folder of that name.
            hub_options: revision, cache_dir, force_download, local_files_only, token and endpoint,
                as of :func:`huggingface_hub.hf_hub_download`.

        Raises:
            InputError: there is no detector, weights that do not fit its config, or another option.
        """
        folder = local_folder(pretrained_model_name_or_path, **hub_options)
        config = DetectorConfig.read(folder / CONFIG_FILE)
        weights = folder / WEIGHTS_FILE
        state = read_weights(weights, "the file is damaged, copy or train the model again")
        # Together with the weights: a run that still trains may replace the folder at any time.
        points, card = OperatingPoints.read(folder), read_card(folder)
        # Before a classifier of so many is made, which may be more than the memory holds.
        refuse_other_classes(state, config.num_classes, weights)
        detector = cls(
            config.model,
            image_size=config.image_size,
            num_classes=config.num_classes,
            loss=LossConfig(temperature=config.temperature),
        )
        detector.config = config
        detector.points, detector.card = points, card
        detector._load(state, weights)
        return detector.eval()

    def _weights(self) -> dict[str, Tensor]:
        """What :meth:`from_pretrained` will ask for, on the CPU.

        Raises:
            InputError: there is something else.
        """
        state = {
            name.replace("_orig_mod.", ""): value.detach().cpu().contiguous()  # torch.compile's
            for name, value in self.state_dict().items()
        }
        shapes = {name: value.shape for name, value in state.items()}
        other = [n for n in {**self._shapes, **shapes} if self._shapes.get(n) != shapes.get(n)]
        if other:
            raise InputError(
                f"The detector cannot be saved: {other[0]} is not as it was made, so that it could "
                "not be loaded again; save it before its layers are changed."
            )
        return state

    def _probe(self, size: int, model: str) -> tuple[tuple[int, int], int]:
        """Find the layout of the backbone's output; returns the CAM's grid and the channels.

        Some networks have a layer after their ``num_features``, so the output itself is asked.
        """
        device = next((weights.device for weights in self.backbone.parameters()), None)
        with evaluation_mode(self.backbone), torch.no_grad():
            try:
                out = self.backbone(torch.zeros(1, 3, size, size, device=device))
            except (RuntimeError, AssertionError, ValueError, TypeError) as error:
                raise InputError(
                    f"The network {model!r} does not take {size} x {size} images "
                    f"({first_line(error)}): choose another --image-size."
                ) from None
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
        # Others call a part of their networks backbone, too, but end in another head.
        if "head.fc.weight" in state and any(key.startswith("backbone.") for key in state):
            own = {
                key.removeprefix("backbone."): value
                for key, value in state.items()
                if key.startswith("backbone.")
            }
            own = {f"backbone.{key}": value for key, value in resized(own, self.backbone).items()}
            self._load(state | own, path)
            self._take_over(path)
            return
        weights = backbone_weights(state, self.backbone, self.config.model, path)
        wanted = {f"backbone.{key}": value for key, value in weights.items()}
        own_head = {f"head.{k}": v for k, v in self.head.state_dict().items()}
        self._load(wanted | own_head, path)
        self._normalise_as(path, normalisation_beside(path))

    def _normalise_as(self, path: Path, given: Mapping[str, Any]) -> None:
        """Take what the weights of a file were trained with."""
        try:
            self.config = replace(self.config, **given)
        except ValueError as error:
            raise InputError(f"{path.with_name(CONFIG_FILE)} cannot be used: {error}.") from error

    def _take_over(self, path: Path) -> None:
        """What a detector was trained on, if its config lies beside its weights.

        Raises:
            InputError: it saw images normalised otherwise.
        """
        if not (beside := path.with_name(CONFIG_FILE)).exists():
            return
        then = DetectorConfig.read(beside)
        if then.model == self.config.model != SMALL_MODEL:  # maybe of weights with their own
            self._normalise_as(path, {"mean": then.mean, "std": then.std})
        for name in ("mean", "std"):
            before, now = getattr(then, name), getattr(self, name)
            if before != now:
                raise InputError(
                    f"{path} was trained on images normalised by the {name} "
                    f"{', '.join(map(str, before))}, and {self.config.model} takes "
                    f"{', '.join(map(str, now))}: give --model {then.model}."
                )
        self.config = self.config.after(
            then.training_generators, then.training_families, then.geometry
        )

    def _load(self, state: Mapping[str, Tensor], path: Path) -> None:
        own = self.state_dict()
        refuse_other_classes(state, self.config.num_classes, path)
        refuse_misfits(state, own, self.config.model, path)
        self.load_state_dict({key: state[key] for key in own})
