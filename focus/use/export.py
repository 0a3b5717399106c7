"""``focus export``: write a detector as ONNX, checked against it by onnxruntime."""

import json
import logging
import warnings
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import focus
from focus.config.use import ExportConfig
from focus.data.demo import demo_manifest
from focus.data.images import load_image
from focus.data.readers.files import images_below
from focus.errors import InputError, first_line
from focus.kernels.reference import normalised_entropy
from focus.metrics.arrays import evenly
from focus.model.detector import Detector
from focus.model.pictures import as_seen
from focus.runtime.files import atomic_write, check_writable, sole_writer
from focus.runtime.machine import usable_cores

VERSION = 1
TOLERANCE = 1e-4
"""The largest difference between the file's outputs and the detector's, see :func:`compare`."""
INPUT = "images"
OUTPUTS = ("score", "logits", "cams", "entropy")
_CHECKED = 16  # images


class Exported(nn.Module):
    """The network in the file, in plain torch, so that it holds none of this project's operations.

    images [B,3,S,S] to score [B], logits [B,K], raw CAMs [B,K,H,W] and their entropies [B,K].
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the four outputs."""
        head = self.detector.head
        features, token = self.detector.encode(images)
        cams = torch.einsum("kc,bchw->bkhw", head.fc.weight, features)
        logits = cams.mean((2, 3)) + head.bias(token)
        entropy = normalised_entropy(cams.flatten(2), head.loss.temperature)
        return logits.softmax(1)[:, 1:].sum(1), logits, cams, entropy


def export(config: ExportConfig) -> None:
    """Write the file, if it gives what the detector gives, and print the largest differences.

    Raises InputError, and writes nothing, without model or images, if the file is there already,
    the network cannot be exported, or a difference is above ``TOLERANCE``.
    """
    try:
        onnx, runtime, _ = map(import_module, ("onnx", "onnxruntime", "onnxscript"))
    except ImportError as error:
        raise InputError(f"{error}: pip install 'focus-faces[onnx]' to export.") from error
    torch.set_num_threads(config.threads or usable_cores())
    path = Path(str(config.onnx))
    check_writable(path.parent, "--onnx")
    detector = Detector.from_pretrained(str(config.model_dir))
    images = images_to_check(detector, config.check_images)
    lock = path.with_name(f".{path.name}.lock")
    with sole_writer(path, lock, flag="--onnx"):
        if path.exists():
            raise InputError(f"--onnx {path} is there already: give another name, or remove it.")
        with atomic_write(path) as aside:
            proto = onnx_model(detector, images)
            onnx.helper.set_model_props(proto, metadata(detector))
            onnx.checker.check_model(proto)
            aside.write_bytes(proto.SerializeToString())
            differences = compare(detector, runtime, aside, images)
            in_words = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
            if not all(value <= TOLERANCE for value in differences.values()):  # NaN neither
                raise InputError(
                    f"No file is written, as the exported network differs from the detector "
                    f"({in_words}, allowed is {TOLERANCE:g}): update torch and onnxruntime."
                )
    print(f"largest differences to the detector on {len(images)} images: {in_words}")
    print(f"written: {path}")


def images_to_check(detector: Detector, source: str | None) -> Tensor:
    """Return at most 16 images [N,3,S,S], prepared for the network.

    source: An image or a folder of some; None takes demo faces.

    Raises InputError if there is none, or one cannot be decoded.
    """
    if source is None:
        paths = [sample.path for sample in demo_manifest(progress=True).split("test")]
    elif Path(source).is_dir():
        paths = [str(path) for path in images_below(Path(source))]
    else:
        paths = [source]
    if not paths:
        raise InputError(f"--check-images: there are no images in {source}: give another folder.")
    chosen = [load_image(paths[number]) for number in evenly(len(paths), _CHECKED)]
    pixels = [as_seen(image, detector.preprocessing) for image in chosen]
    return detector.normalise(torch.stack(pixels))


def onnx_model(detector: Detector, images: Tensor) -> Any:
    """Return the network, traced with images [N,3,S,S], as an ONNX model for any batch size.

    Raises InputError if torch cannot export it.
    """
    logging.disable(logging.WARNING)  # the exporter's remarks on its own insides
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                Exported(detector).eval(),
                (images[:2] if len(images) > 1 else images.repeat(2, 1, 1, 1),),
                dynamo=True,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                opset_version=18,  # that of torch's own translations
                verbose=False,
            )
    except Exception as error:  # the exporter raises anything
        raise InputError(
            f"The network {detector.config.model} cannot be exported ({first_line(error)}): update "
            "torch and onnxscript, or take another network."
        ) from error
    finally:
        logging.disable(logging.NOTSET)
    assert program is not None  # as it is without a file name
    return program.model_proto


def metadata(detector: Detector) -> dict[str, str]:
    """Return the file's ``metadata_props``, which say in JSON how to use it."""
    config = asdict(detector.config)
    points = detector.points
    calibration = points and points.calibration
    classes = ["real"]
    classes += ["synthetic"] * (config["num_classes"] - 1)
    values = {
        "focus_format": VERSION,
        "focus_preprocessing": {
            "color": "RGB in [0, 1]",
            "resize": {
                "squash": "squash to image_size x image_size, bilinear, antialiased",
                "crop": "the middle image_size x image_size pixels, continued by reflection",
            }[config["fit"]],
            **{name: config[name] for name in ("image_size", "mean", "std", "geometry")},
        },
        "focus_threshold": detector.threshold.value,
        "focus_thresholds": points and points.thresholds,
        "focus_calibration": calibration and asdict(calibration),
        "focus_classes": classes,
        "focus_training_generators": config["training_generators"],
        "focus_network": config["model"],
        "focus_temperature": config["temperature"],
        "focus_version": focus.__version__,
    }
    return {name: json.dumps(value) for name, value in values.items()}


def compare(detector: Detector, runtime: Any, file: Path, images: Tensor) -> dict[str, float]:
    """Return the largest difference of each output from the detector's own, over the images.

    As a share of the output's largest absolute value where that is above 1: logits and CAMs have
    no bound, and the rounding of float32 grows with them. The file gets one image, then the others,
    so that its batch is seen to be free.
    """
    with torch.no_grad():
        logits, cams, entropy = detector.head.activations(*detector.encode(images))
        score = detector.predict_batch(images).score
    session = runtime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    parts = [part.numpy() for part in (images[:1], images[1:]) if len(part)]
    outputs_of_parts = [session.run(list(OUTPUTS), {INPUT: part}) for part in parts]

    expected = {"score": score, "logits": logits, "cams": cams, "entropy": entropy}
    differences: dict[str, float] = {}
    for number, name in enumerate(OUTPUTS):
        output = np.concatenate([outputs[number] for outputs in outputs_of_parts])
        largest = float(np.abs(output - expected[name].numpy()).max())
        differences[name] = largest / max(1.0, float(expected[name].abs().max()))
    return differences
