"""``python -m focus export``: a detector as ONNX, checked against it by onnxruntime."""

import json
import logging
import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import focus
from focus.config.use import ExportConfig
from focus.data.dataset import Normalise, squashed
from focus.data.demo import demo_manifest
from focus.data.images import load_image
from focus.data.readers.files import images_below
from focus.data.videos import evenly
from focus.errors import InputError, NotFiniteError
from focus.kernels.reference import normalised_entropy
from focus.model.detector import Detector
from focus.model.modes import evaluation_mode
from focus.runtime.files import atomic_write, check_writable
from focus.runtime.launch import check_backend
from focus.runtime.machine import usable_cores

VERSION = 1
TOLERANCE = 1e-4
"""The largest difference between the file's outputs and the detector's, see :func:`compare`."""
INPUT, OUTPUTS = "images", ("score", "logits", "cams", "entropy")
_LARGEST = 2**31 - 1  # bytes of a protobuf, which holds the weights
_CHECKED = 16  # images
_OPSET = 18  # that of torch's own translations; another one is converted to, or not


class Exported(nn.Module):
    """What is exported: images [B,3,S,S] to score [B], logits [B,K], raw CAMs [B,K,H,W] and their
    entropies [B,K], in plain torch, so that no operation of this project is in the file."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four outputs."""
        features = self.detector.features(images)
        classifier = self.detector.head.fc
        cams = torch.einsum("kc,bchw->bkhw", classifier.weight, features)
        logits = cams.mean((2, 3)) + classifier.bias
        entropy = normalised_entropy(cams.flatten(2), self.detector.head.loss.temperature)
        return logits.softmax(1)[:, 1:].sum(1), logits, cams, entropy


def export(config: ExportConfig) -> None:
    """Write the file, if it gives what the detector gives, and print the largest difference.

    Raises:
        InputError: no model or no images, a file that is there already, a network that is too
            large or cannot be exported, an output that is not finite, or a difference above
            ``TOLERANCE``; then no file is written.
    """
    onnx, runtime = _package("onnx"), _package("onnxruntime")
    _package("onnxscript")  # torch's exporter needs it
    torch.set_num_threads(config.threads or usable_cores())
    check_backend("cpu")
    path = Path(str(config.onnx))
    if path.exists():
        raise InputError(f"--onnx {path} is there already: give another name, or remove it.")
    if not path.absolute().parent.is_dir():
        raise InputError(f"--onnx {path}: there is no folder {path.parent}: make it, or fix it.")
    check_writable(path.parent, "--onnx")
    detector = Detector.from_pretrained(str(config.model_dir))
    size = sum(tensor.numel() * tensor.element_size() for tensor in detector.state_dict().values())
    if size > _LARGEST:
        raise InputError(
            f"The weights of {config.model_dir} take {size / 2**30:.1f} GiB, an ONNX file holds 2 "
            "at most: take a smaller network."
        )
    paths = checked_paths(config.check_images)
    images = prepared_images(detector, paths)
    with evaluation_mode(detector), atomic_write(path) as aside:
        if (at := detector.predict_batch(images).first_not_finite()) is not None:
            raise NotFiniteError(paths[at], "try another model.")
        proto = _exported(Exported(detector), images, config)
        for key, value in metadata(detector).items():
            proto.metadata_props.add(key=key, value=value)
        onnx.checker.check_model(proto)
        aside.write_bytes(proto.SerializeToString())
        differences = compare(detector, runtime, aside, images)
        # NaN is the worst; by itself max() would pass over one that is not the first.
        name, worst = max(differences.items(), key=lambda pair: (math.isnan(pair[1]), pair[1]))
        if not worst <= TOLERANCE:
            raise InputError(
                f"The outputs of the exported network differ from the detector's by {worst:.2g} "
                f"({name}), more than {TOLERANCE:g}, so no file was written: update torch and "
                "onnxruntime."
            )
    found = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
    print(f"largest differences to the detector on {len(images)} images: {found}")
    print(f"written: {path}")


def checked_paths(place: str | None) -> list[str]:
    """At most 16 images to check the file with: of ``place``, else demo faces.

    Raises:
        InputError: there is no image.
    """
    if place is None:
        paths = [sample.path for sample in demo_manifest(progress=True).split("test")]
    elif Path(place).is_dir():
        paths = [str(path) for path in images_below(Path(place))]
    elif Path(place).exists():
        paths = [place]
    else:
        raise InputError(f"--check-images: there is no file or folder {place}: check the path.")
    if not paths:
        raise InputError(f"--check-images: there are no images in {place}: give another folder.")
    return [paths[number] for number in evenly(len(paths), _CHECKED)]


def prepared_images(detector: Detector, paths: Iterable[str]) -> Tensor:
    """The images [N,3,S,S], prepared for the network.

    Raises:
        InputError: one cannot be decoded.
    """
    pixels = [squashed(load_image(path), detector.image_size) for path in paths]
    return Normalise(detector.mean, detector.std)(torch.stack(pixels))


def metadata(detector: Detector) -> dict[str, str]:
    """The file's ``metadata_props``: what one must know to use it, as JSON but for the version."""
    config, points = asdict(detector.config), detector.points
    preprocessing = {
        "color": "RGB in [0, 1]",
        "resize": "squash to image_size x image_size, bilinear, antialiased",
        **{name: config[name] for name in ("image_size", "mean", "std", "geometry")},
    }
    values = {
        "preprocessing": preprocessing,
        "thresholds": None if points is None else dict(points.thresholds),
        "calibration": None
        if points is None or points.calibration is None
        else asdict(points.calibration),
        "classes": ["real", *["synthetic"] * (config["num_classes"] - 1)],
        "training_generators": config["training_generators"],
        "network": config["model"],
        "temperature": config["temperature"],
        "focus_version": focus.__version__,
    }
    return {"focus_format": str(VERSION)} | {
        f"focus_{name}" if not name.startswith("focus_") else name: json.dumps(value)
        for name, value in values.items()
    }


def compare(detector: Detector, runtime: Any, file: Path, images: Tensor) -> dict[str, float]:
    """The largest difference of each output from the detector's own, over the images.

    As a share of the output's largest absolute value where that is above 1: logits and CAMs have
    no bound, and the rounding of float32 grows with them.

    The detector runs as in evaluation, with its own operation for CAM and entropy; the file gets
    one image, then the others, so that its batch is seen to be free.
    """
    with torch.no_grad():
        logits, cams, entropy = detector.head.activations(detector.features(images))
        score = detector.predict_batch(images).score
    expected = dict(zip(OUTPUTS, (score, logits, cams, entropy), strict=True))
    session = runtime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    parts = [part.numpy() for part in (images[:1], images[1:]) if len(part)]
    found = [session.run(list(OUTPUTS), {INPUT: part}) for part in parts]
    differences: dict[str, float] = {}
    for name, values in zip(OUTPUTS, zip(*found, strict=True), strict=True):
        wanted = expected[name].numpy()
        largest = float(np.abs(np.concatenate(values) - wanted).max())
        differences[name] = largest / max(1.0, float(np.abs(wanted).max()))
    return differences


def _exported(network: nn.Module, images: Tensor, config: ExportConfig) -> Any:
    """The network as an ONNX model, with a batch of any size."""
    batch = torch.export.Dim("batch", min=1)
    try:
        with _quiet():
            program = torch.onnx.export(
                network,
                (images[:2] if len(images) > 1 else images.repeat(2, 1, 1, 1),),
                dynamo=True,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                dynamic_shapes=({0: batch},),
                opset_version=_OPSET,
                verbose=False,
            )
    except Exception as error:  # the exporter raises anything
        raise InputError(
            f"The network {config.model_dir} cannot be exported ({type(error).__name__}: "
            f"{str(error).strip().partition(chr(10))[0]}): update torch and onnxscript, or take "
            "another network."
        ) from error
    assert program is not None  # as it is without a file name
    return program.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on its own insides."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(
            f"Export needs the package {name}: pip install 'focus-faces[onnx]'."
        ) from error
