"""The detector: a timm backbone and a head whose logits are the mean of its CAM.

images [B,3,S,S] -> backbone -> features F [B,C,H,W] -> :mod:`focus.model.head` -> logits, CAM, loss
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, Self

import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from focus.config.losses import LossConfig
from focus.config.recipes import SMALL_MODEL, Fit, Input
from focus.errors import ImageError, InputError
from focus.model.backbones import create_backbone, evaluation_mode, layout_of
from focus.model.config import CONFIG_FILE, LARGEST, WEIGHTS_FILE, DetectorConfig, OfTimm
from focus.model.head import DetectorOutput, FocusHead, pick
from focus.model.inputs import Normalise, neighbour_differences
from focus.model.operating_points import THRESHOLDS, OperatingPoints, Threshold, choose_threshold
from focus.model.prediction import Named, Prediction, on_cpu
from focus.runtime.files import atomic_write
from focus.runtime.json_files import read_json

# What only some methods need is imported by them: who trains, or calls the network with tensors of
# their own, opens no pictures, finds no faces, loads no weights and writes no model card.
if TYPE_CHECKING:
    from focus.data.images import Preprocessing
    from focus.model.pictures import Picture


class Detector(nn.Module):
    """A detector of synthetic faces: class 0 real, class 1 synthetic.

    Args:
        model: "focus_small" or a timm name. The features are those after the network's last norm;
            a transformer's prefix tokens are dropped and its patch tokens folded to the grid.
        image_size: The pixels a side; None takes the network's own.
        num_classes: 2, or more for several classes of fakes: 0 is real, all others are synthetic.
        pool: "mean" classifies the mean of the features' cells, or patch tokens; "both" also the
            class token, whose share of the logits the CAM does not show.
        input: "rgb", or "npr" for differences of neighbouring pixels (:mod:`focus.model.inputs`).
        fit: "squash" resamples pictures to ``image_size``, "crop" takes their middle.
        pretrained: Whether to load ImageNet's or other weights that timm names: from the package
            of :data:`focus.model.weights.PACKAGED` if it is installed, else timm's (downloads).
        initial_checkpoint: A file of safetensors, or of ``torch.save`` read with ``weights_only``:
            weights of the network by timm's names, or of a whole detector. If its config.json lies
            beside it, mean and standard deviation are taken from there.
        loss: The weights and settings of the loss, or a name in ``focus.LOSSES``; None:
            cross-entropy alone.
        training_generators: The generators to record in the config, for evaluation, beside those
            that a detector of ``initial_checkpoint`` was trained on.

    Raises:
        InputError: an unknown network or loss, a network without a spatial map at this size or
            without the class token that ``pool`` needs, weights that do not load.

    Examples:
        >>> import torch
        >>> from focus import Detector
        >>> detector = Detector(image_size=64, loss="focus")
        >>> images = torch.rand(2, 3, 64, 64)
        >>> detector(images).shape  # without a target the logits
        torch.Size([2, 2])
        >>> out = detector(images, torch.tensor([0, 1]))  # 0 is real, 1 is synthetic
        >>> out.loss.backward()
    """

    def __init__(
        self,
        model: str = SMALL_MODEL,
        *,
        image_size: int | None = None,
        num_classes: int = 2,
        pool: str = "mean",
        input: Input = "rgb",
        fit: Fit = "squash",
        pretrained: bool = False,
        initial_checkpoint: str | Path | None = None,
        loss: LossConfig | str | None = None,
        training_generators: Iterable[str] = (),
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise InputError(f"num_classes is {num_classes}: give 2, for real and synthetic.")
        if image_size is not None and image_size > LARGEST:
            raise InputError(f"image_size is {image_size}: give at most {LARGEST}.")
        packaged = packaged_file = None
        if pretrained and initial_checkpoint is None:
            from focus.model.weights import packaged_weights

            packaged = packaged_weights(model)
            packaged_file = packaged.path() if packaged else None
        self.backbone = create_backbone(model, image_size, pretrained and packaged_file is None)
        data = timm.data.resolve_model_data_config(self.backbone)
        size = int(data["input_size"][-1] if image_size is None else image_size)
        self.layout = layout_of(self.backbone, size, model)
        self.head = FocusHead(self.layout.channels, num_classes, loss, pool)
        if pool == "both" and not self.layout.has_class_token:
            raise InputError(
                f"The network {model!r} has no class token for --pool both: give --pool mean, or "
                "another --model."
            )
        self.config = DetectorConfig(
            model=model,
            image_size=size,
            num_classes=int(num_classes),
            mean=data["mean"],
            std=data["std"],
            pool=pool,
            input=input,
            fit=fit,
            temperature=self.head.loss.temperature,
            training_generators=tuple(training_generators),
        )
        self.points = None
        self.card: str | None = None
        """The model card to save; None: one is made of the config and the operating points."""
        initial_weights = "drawn at random"
        if initial_checkpoint is not None:
            self._load_initial(Path(initial_checkpoint))
            initial_weights = f"the file {Path(initial_checkpoint).name}"
        elif packaged and packaged_file:
            self._load_initial(packaged_file)
            initial_weights = packaged.source
        elif pretrained:
            pretrained_cfg = self.backbone.pretrained_cfg
            hub = pretrained_cfg.get("hf_hub_id")
            initial_weights = f"huggingface.co/{hub}" if hub else pretrained_cfg.get("url", "timm")
        self.config = replace(self.config, initial_weights=initial_weights)

    @property
    def points(self) -> OperatingPoints | None:
        """Thresholds and calibration, once they are fixed on validation; they set the threshold."""
        return self._points

    @points.setter
    def points(self, points: OperatingPoints | None) -> None:
        self._points = points
        self.set_threshold()

    def set_threshold(self, choice: str | float | None = None) -> Threshold:
        """Set the threshold that decides, also whose CAM a prediction has; return it.

        choice: The name of an operating point, or a score; None for the model's own, 0.5 where it
        has none. Raises InputError for a point that the model has no threshold for.
        """
        self.threshold: Threshold = choose_threshold(self.points, choice)
        return self.threshold

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the CAM."""
        return self.layout.grid

    @property
    def image_size(self) -> int:
        """Pixels a side of the input."""
        return self.config.image_size

    @property
    def preprocessing(self) -> "Preprocessing":
        """How pictures come to the input, and maps to the grid of the CAM."""
        from focus.data.images import Preprocessing

        return Preprocessing(self.config.image_size, self.grid, self.config.fit)

    def at_once(self, asked: int) -> int:
        """Return ``asked``, or fewer: at most the pixels of 64 images of 512 px at a time."""
        return max(1, min(asked, 2**24 // self.image_size**2))

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of the normalisation, RGB in [0, 1]."""
        return self.config.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of the normalisation, RGB in [0, 1]."""
        return self.config.std

    def normalise(
        self, pixels: Tensor, memory_format: torch.memory_format = torch.contiguous_format
    ) -> Tensor:
        """Return images ``[B,3,S,S]`` in 0..255 as the network takes them, on their device."""
        return Normalise(self.mean, self.std)(pixels, memory_format)

    def features(self, images: Tensor) -> Tensor:
        """Return features ``[B,C,H,W]`` of images ``[B,3,S,S]``, as the classifier sees them."""
        return self.encode(images)[0]

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return :meth:`features`, and the class token ``[B,C]`` if it is pooled, else None."""
        return self._split(self.backbone(self._input(images)))

    def _input(self, images: Tensor) -> Tensor:
        return neighbour_differences(images) if self.config.input == "npr" else images

    def _split(self, out: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.layout.features(out), out[:, 0] if self.config.pool == "both" else None

    @property
    def has_norms(self) -> bool:
        """Tell whether a prediction has norms of tokens."""
        return self.layout.kind == "tokens" and hasattr(self.backbone, "forward_intermediates")

    def encode_with_norms(self, images: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return what :meth:`encode` does, and the norms of a :class:`Prediction`.

        They are those of the last norm's input, as its output has one norm for all tokens.
        """
        if not self.has_norms:
            return *self.encode(images), None
        out, (tokens,) = self.backbone.forward_intermediates(self._input(images), indices=1)
        return *self._split(self.backbone.forward_head(out)), tokens.float().norm(dim=1)

    def forward(
        self,
        images: Tensor,
        target: Tensor | None = None,
        saliency: Tensor | None = None,
        saliency_mask: Tensor | None = None,
    ) -> DetectorOutput | Tensor:
        """Return logits ``[B,K]`` with gradient, as any classifier; with a target, the loss too.

        Args:
            images: Images ``[B,3,S,S]``, normalised by ``mean`` and ``std``.
            target: The classes ``[B]`` int64.
            saliency: Human maps ``[B,H,W]`` in [0, 1] on ``grid``.
            saliency_mask: Which images have a human map, ``[B]`` bool.
        """
        features, token = self.encode(images)
        if target is None:
            return self.head.logits(features, token)
        out: DetectorOutput = self.head(features, target, saliency, saliency_mask, token)
        return out

    def train(self, mode: bool = True) -> Self:
        """Set the mode; frozen modules stay in evaluation mode, so do their statistics."""
        super().train(mode)
        if mode and not all(parameter.requires_grad for parameter in self.parameters()):
            for module in self.modules():
                held = [*module.parameters(), *module.buffers()]
                if held and not any(tensor.requires_grad for tensor in held):
                    module.eval()
        return self

    @torch.no_grad()
    def predict_batch(self, images: Tensor) -> Prediction:
        """Return scores, CAMs and entropies of normalised images ``[B,3,S,S]``.

        The network runs in evaluation mode; its mode is restored afterwards.
        """
        with evaluation_mode(self):
            return self.predict_encoded(*self.encode_with_norms(images))

    @torch.no_grad()
    def predict_encoded(
        self, features: Tensor, token: Tensor | None = None, norms: Tensor | None = None
    ) -> Prediction:
        """Return what :meth:`predict_batch` does, of what :meth:`encode_with_norms` returned."""
        logits, cams, entropy = self.head.activations(features, token)
        # A float32 score is 1 from a margin of 17 logits on, a float64 one from 37. Not a sigmoid,
        # whose last bit depends on the row of the batch. The sum of several classes may round to
        # more than 1.
        # On the device where it has float64, so that the host need not wait; Apple's have none.
        has_float64 = logits.device.type in ("cpu", "cuda")
        wide = logits.double() if has_float64 else logits.cpu().double()
        score = wide.softmax(1)[:, 1:].sum(1).clamp(max=1)
        is_fake = (score > self.threshold.value).to(logits.device)
        predicted = torch.where(is_fake, 1 + logits[:, 1:].argmax(1), 0)
        return Prediction(
            score=score,
            predicted=predicted,
            cams=torch.stack((pick(cams, predicted), cams[:, 1]), 1).float(),
            entropy=torch.stack((pick(entropy, predicted), entropy[:, 1]), 1).float(),
            norms=torch.empty(len(features), 0, 0) if norms is None else norms,
        )

    def predict_pixels(self, pixels: Tensor) -> Prediction:
        """Return what :meth:`predict_batch` does, of images ``[B,3,S,S]`` in 0..255.

        They may be on another device than the detector.
        """
        like = next(self.parameters())  # the device, and the type of detector.half()
        pixels = pixels.to(like.device, non_blocking=like.is_cuda)
        return self.predict_batch(self.normalise(pixels).to(like))

    def predict_named(self, batches: Iterable[Named]) -> Iterator[tuple[Named, Prediction]]:
        """Yield batches of pictures that stand in no manifest, each with its prediction on the CPU.

        Raises ImageError with a picture's name if the output for it is not finite.
        """
        predicted = ((batch, self.predict_pixels(batch.pixels)) for batch in batches)
        for batch, prediction in on_cpu(predicted):
            row = prediction.first_not_finite()
            if row is not None:
                raise ImageError(
                    f"The model's output for {batch.names[row]} is not finite: try another model."
                )
            yield batch, prediction

    def predict(
        self,
        pictures: "Picture | Iterable[Picture]",
        *,
        batch_size: int = 64,
        faces: Literal["all", "largest", "none"] = "none",
    ) -> Prediction:
        """Return scores, classes, CAMs and entropies of pictures, prepared as in evaluation.

        Args:
            pictures: One or many, each the path of an image, a Pillow image or an array [H,W,3]
                uint8 (RGB), of any size.
            batch_size: The number of images at a time, fewer of large ones (:meth:`at_once`); the
                last bit of a score may depend on it.
            faces: "none" takes pictures whole, for faces that are cut out already. "all" and
                "largest" cut faces out as in training (``config.geometry``): a row for each, from
                left to right, or for the largest; no row for a picture without a face.

        Raises:
            ImageError: a picture that cannot be used, or an output that is not finite.
            InputError: there are no pictures or no faces, or no package that finds faces.
        """
        from focus.data.making.faces import face_finder
        from focus.model.pictures import picture_batches

        finder = face_finder(faces, self.config.geometry)
        at_once = self.at_once(batch_size)
        parts = []
        batches = picture_batches(pictures, self.preprocessing, at_once, finder)
        for batch, prediction in self.predict_named(batches):
            parts.append(prediction._replace(picture=batch.picture, box=batch.box))
        return Prediction(*(torch.cat(fields) for fields in zip(*parts, strict=True)))

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write ``config.json``, ``model.safetensors``, ``README.md`` (the model card) and, if
        there are operating points, ``thresholds.json``.

        Each file is written aside and renamed; thresholds of an earlier detector in the folder are
        removed before its weights are replaced. Other files stay, so does another README.md.
        """
        from focus.model.card import model_card, write_card

        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            name.replace("_orig_mod.", ""): value.detach().cpu().contiguous()  # torch.compile's
            for name, value in self.state_dict().items()
        }
        # Not save_file, whose error for a full disk is no OSError.
        content = safetensors.torch.save(state)
        config = replace(
            self.config,
            temperature=self.head.loss.temperature,
            weights_sha256=hashlib.sha256(content).hexdigest(),
        )
        (folder / THRESHOLDS).unlink(missing_ok=True)
        with atomic_write(folder / WEIGHTS_FILE) as aside:
            aside.write_bytes(content)
        config.write(folder / CONFIG_FILE)
        if self.points is not None:
            self.points.write(folder)
        write_card(folder, self.card or model_card(config, self.points))

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload what :meth:`save_pretrained` writes to USER/NAME; return the commit's address.

        options: private, token, commit_message, revision, create_pr and others of
        :meth:`huggingface_hub.HfApi.upload_folder`.
        """
        from focus.model.hub import upload_folder

        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return upload_folder(Path(folder), repo_id, **options)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Self:
        """Load what :meth:`save_pretrained` wrote, in evaluation mode; nothing is executed.

        The loss is not part of it: to train on, set ``head.loss`` to one of ``focus.LOSSES``, else
        it is cross-entropy.

        Args:
            pretrained_model_name_or_path: The folder, or USER/NAME on the Hub where there is no
                folder of that name.
            options: revision, cache_dir, force_download, local_files_only, token and endpoint of
                :func:`huggingface_hub.snapshot_download`.

        Raises:
            InputError: there is no detector, or weights that do not fit its config or are not
                those that it was saved with.
        """
        from focus.model.card import read_card
        from focus.model.hub import fetch_folder
        from focus.model.weights import check_weights, load_weights, read_weights

        folder = fetch_folder(pretrained_model_name_or_path, **options)
        config = DetectorConfig.read(folder / CONFIG_FILE)
        make = partial(
            cls,
            config.model,
            image_size=config.image_size,
            num_classes=config.num_classes,
            pool=config.pool,
            input=config.input,
            fit=config.fit,
            loss=LossConfig(temperature=config.temperature),
        )
        weights = folder / WEIGHTS_FILE
        state = read_weights(weights)
        try:
            with torch.device("meta"):  # a small file may name a network that fills the memory
                shapes = make()
        except InputError:
            pass  # timm makes some networks, by its version, in memory only
        else:
            check_weights(shapes, state, config.model, weights)
        detector = make()
        detector.config = config.with_weights(weights)
        load_weights(detector, state, config.model, weights)
        detector.points, detector.card = OperatingPoints.read(folder), read_card(folder)
        return detector.eval()

    def _load_initial(self, path: Path) -> None:
        """Load the weights to begin with, of the backbone or of a whole detector."""
        from focus.model.weights import load_backbone, load_weights, read_weights

        state = read_weights(path)
        model = self.config.model
        whole = "head.fc.weight" in state and any(key.startswith("backbone.") for key in state)
        if whole:
            head = {key.removeprefix("head."): value for key, value in state.items()}
            load_weights(self.head, head, f"the head of {model}", path)
            state = {
                key.removeprefix("backbone."): value
                for key, value in state.items()
                if key.startswith("backbone.")
            }
        load_backbone(self.backbone, state, model, path)

        beside = path.with_name(CONFIG_FILE)
        if not beside.exists():
            return
        if whole:
            then = DetectorConfig.read(beside).with_weights(path)
            if then.input != self.config.input:
                raise InputError(
                    f"{path} was trained on --input {then.input}, not {self.config.input}: give "
                    "that, or another --initial-checkpoint."
                )
            self.config = replace(self.config, mean=then.mean, std=then.std).after(
                then.training_generators, then.training_families, then.geometry
            )
        else:
            advice = "put back the file that belongs to the weights, or remove it"
            of_timm = read_json(beside, OfTimm, advice)
            architecture = of_timm.get("architecture", model)
            if architecture not in model:
                raise InputError(
                    f"{beside}, by which the images are normalised, is of {architecture!r}, not of "
                    f"{model!r}: {advice}."
                )
            self.config = replace(self.config, **of_timm.get("pretrained_cfg", {}))
