"""The cases in which compiled kernels are executed without their GPU, and what is right in them.

They serve :mod:`bench.ptx` (NVIDIA) and :mod:`bench.emulated` (AMD): small, and between them every
path of the kernels. Inputs are random; the definition in float64 says what is right.
"""

import dataclasses
import hashlib
import math
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args
from unittest import mock

import torch
from torch import Tensor

from focus.kernels import cam_entropy, class_activation, focus_head, triton_cam, use_backend
from focus.kernels.terms import WEIGHTS, CamClass, Entropy, FocusLevel, Reduction

Operation = Literal["focus_head", "cam_entropy", "class_activation"]
Maps = Literal["all", "some", "none"]
Results = dict[str, Tensor]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LIMIT = 2e-6
"""The largest error as a share of a result's largest element, of a term as a share of 1 at least,
since a term may be the difference of two numbers of that size. What is rounded to 16 bits may be
off by half a unit in the last place besides."""
GRIDS = ((1, 1), (1, 5), (3, 3), (7, 7), (8, 8), (9, 9), (5, 13), (10, 10), (14, 14), (16, 16))
TEMPERATURE, SMOOTHING, ENTROPY_TARGET = 0.8, 0.1, 0.6
UPSTREAM = 3.0
"""The mean of upstream gradients: where it is 0, a sum of few of them may cancel."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """Arguments of an operation.

    gap: elements by which a sample lies further from the next than it is large; offset: elements
    by which the features begin after an alignment. soft: Shares of the classes are the target.
    absent: The second sample's target does not exist. maps: Which samples have a human map.
    aim: The target entropy is a number, or one for each sample; else it is the map's.
    frozen: What has no gradient.
    settings: Whether weights and temperature are floats, or tensors.
    """

    operation: Operation = "focus_head"
    dtype: str = "fp32"
    layout: Literal["nchw", "channels_last"] = "nchw"
    batch: int = 2
    channels: int = 64
    grid: tuple[int, int] = (7, 7)
    classes: int = 2
    splits: int = 1
    offset: int = 0
    gap: int = 0
    focus_level: FocusLevel = "match"
    cam_class: CamClass = "true"
    entropy: Entropy = "softmax"
    reduction: Reduction = "mean"
    soft: bool = False
    absent: bool = False
    maps: Maps = "all"
    aim: Literal["map", "number", "each sample"] = "map"
    bias: Literal["shared", "of each sample", "none"] = "shared"
    weighted: bool = False
    settings: Literal["floats", "tensors"] = "floats"
    frozen: Literal["", "backbone", "classifier", "both"] = ""

    def reads(self, kernel: str) -> int:
        """Return how often a kernel reads the features; see docs/kernels.md."""
        needs_weight = self.frozen not in ("classifier", "both")
        return {
            "_head": 1 + needs_weight, "_head_backward": 0, "_cams": 1,
            "_cams_backward": int(needs_weight),
        }[kernel]  # fmt: skip


def _last(**fields: Any) -> Case:
    return Case(layout="channels_last", **fields)


CASES = {
    # Types, layouts, grids, splits and numbers of classes.
    "fp32": Case(channels=200),
    "fp32 last": _last(channels=256, grid=(8, 8), classes=3),
    "fp32 8 splits": Case(batch=3, channels=1000, splits=8),
    "fp32 5 splits": _last(batch=3, channels=700, splits=5, classes=3),
    "fp32 odd": Case(batch=3, channels=37, grid=(9, 9), classes=3),
    "fp32 16 classes": _last(channels=256, classes=16, splits=2),
    "fp32 16 classes nchw": Case(channels=130, classes=16),
    "fp32 1x1": Case(channels=70, grid=(1, 1), batch=3),
    "fp32 1x5": _last(channels=33, grid=(1, 5), batch=3, classes=3),
    "fp32 5x13": Case(channels=40, grid=(5, 13)),
    "fp32 16x16": Case(channels=80, grid=(16, 16)),
    "bf16": Case(dtype="bf16", channels=200),
    "bf16 last": _last(dtype="bf16", channels=256),
    "bf16 last 3 classes": _last(dtype="bf16", channels=256, grid=(8, 8), classes=3),
    "bf16 8 splits": _last(dtype="bf16", batch=3, channels=1024, splits=8),
    "bf16 3 splits nchw": Case(dtype="bf16", batch=3, channels=500, splits=3, classes=3),
    "bf16 16 classes": _last(dtype="bf16", channels=300, classes=16, splits=2),
    "bf16 16 classes nchw": Case(dtype="bf16", channels=130, classes=16),
    "bf16 odd": _last(dtype="bf16", channels=131, classes=3),
    "bf16 odd nchw": Case(dtype="bf16", channels=37, grid=(9, 9)),
    "bf16 1x1": _last(dtype="bf16", channels=70, grid=(1, 1), batch=3),
    "bf16 3x3": _last(dtype="bf16", channels=600, grid=(3, 3), splits=2),
    "bf16 10x10": Case(dtype="bf16", channels=130, grid=(10, 10), splits=2),
    "bf16 14x14": _last(dtype="bf16", channels=96, grid=(14, 14)),
    "bf16 16x16": _last(dtype="bf16", channels=100, grid=(16, 16)),
    "bf16 16x16 nchw": Case(dtype="bf16", channels=100, grid=(16, 16)),
    "bf16 16x16 16 classes": _last(dtype="bf16", channels=80, grid=(16, 16), classes=16),
    "fp16": Case(dtype="fp16", channels=90, grid=(8, 8), splits=2),
    "fp16 last": _last(dtype="fp16", channels=256, classes=3, splits=2),
    "fp16 16 classes": _last(dtype="fp16", channels=64, classes=16),
    "batch 70": Case(batch=70, channels=20, grid=(2, 2)),
    # The features' memory.
    "offset": Case(offset=1, channels=40),
    "offset last": _last(dtype="bf16", offset=1, channels=130),
    "offset 4": _last(dtype="bf16", offset=4, channels=128, grid=(8, 8)),
    "gap": Case(gap=13, batch=3, channels=40),
    "gap last": _last(dtype="bf16", gap=64, batch=3, channels=256, splits=2),
    # Paths of the loss.
    "level none": Case(focus_level="none"),
    "level hinge": _last(dtype="bf16", focus_level="hinge", channels=128),
    "level hinge aim": Case(focus_level="hinge", aim="number"),
    "an aim each": Case(focus_level="hinge", aim="each sample", batch=3),
    "level minimize": Case(focus_level="minimize", maps="none"),
    "predicted": _last(dtype="bf16", cam_class="predicted", classes=3, channels=128),
    "contrast": Case(cam_class="contrast", classes=3),
    "contrast 16": _last(dtype="bf16", cam_class="contrast", classes=16, channels=128),
    "sum entropy": Case(entropy="sum"),
    "sum entropy last": _last(dtype="bf16", entropy="sum", channels=256, splits=2, classes=3),
    "sum": _last(dtype="bf16", reduction="sum", channels=128, batch=3),
    "no reduction": Case(reduction="none", batch=3),
    "no reduction splits": _last(reduction="none", batch=3, channels=512, splits=4),
    "soft": Case(soft=True, classes=3, weighted=True),
    "soft 16": _last(dtype="bf16", soft=True, classes=16, cam_class="predicted", channels=128),
    "weighted": Case(weighted=True, classes=3, settings="tensors"),
    "some maps": Case(maps="some", batch=4),
    "some maps last": _last(dtype="bf16", maps="some", batch=4, channels=128),
    "no maps": Case(maps="none", aim="number"),
    "no bias": Case(bias="none"),
    "bias of each sample": Case(bias="of each sample", batch=3, classes=3),
    "bias of each sample last": _last(dtype="bf16", bias="of each sample", channels=128),
    "absent target": Case(absent=True, batch=3, reduction="none"),
    "absent target splits": _last(dtype="bf16", absent=True, batch=3, channels=512, splits=4),
    "frozen classifier": _last(dtype="bf16", frozen="classifier", channels=256, splits=2),
    "frozen backbone": Case(frozen="backbone"),
    "no gradient": _last(dtype="bf16", frozen="both", channels=128),
    # The other operations.
    "cam": Case(operation="cam_entropy", batch=3, channels=300),
    "cam last": _last(operation="cam_entropy", batch=3, channels=200, classes=3),
    "cam 8 splits": _last(
        operation="cam_entropy", dtype="bf16", batch=4, channels=1024, classes=3, splits=8
    ),
    "cam 20 classes": Case(operation="cam_entropy", dtype="fp16", batch=3, classes=20),
    "cam 16x16": _last(operation="cam_entropy", dtype="bf16", channels=90, grid=(16, 16)),
    "cam batch 35": Case(operation="cam_entropy", batch=35, channels=20, grid=(2, 2)),
    "cam absent": Case(operation="cam_entropy", absent=True, batch=3, frozen="classifier"),
    "cam frozen classifier": Case(operation="cam_entropy", frozen="classifier"),
    "cam frozen backbone": Case(operation="cam_entropy", frozen="backbone"),
    "maps": Case(operation="class_activation", channels=150, classes=3),
    "maps 4 splits": Case(operation="class_activation", channels=600, classes=3, splits=4),
    "maps bf16": _last(operation="class_activation", dtype="bf16", channels=300, splits=2),
    "maps 16 classes": _last(
        operation="class_activation", dtype="bf16", classes=16, bias="of each sample"
    ),
    "maps absent": Case(operation="class_activation", absent=True, bias="none"),
}  # fmt: skip


def random_cases(count: int, seed: int) -> dict[str, Case]:
    """Return cases that a seed draws, by name."""
    draw = random.Random(seed)
    return {f"random {seed}.{number}": _random_case(draw) for number in range(count)}


def _random_case(draw: random.Random) -> Case:
    operation: Operation = "focus_head"
    if draw.random() < 0.3:
        operation = draw.choice(["cam_entropy", "class_activation"])
    grid = draw.choice(GRIDS)
    cells = max(math.prod(grid), 16)
    maps = draw.choice(get_args(Maps))
    return Case(
        operation=operation,
        dtype=draw.choice(list(DTYPES)),
        layout=draw.choice(["nchw", "channels_last"]),
        batch=draw.choice([1, 2, 3, 5]),
        channels=draw.randint(1, 40_000 // cells),
        grid=grid,
        classes=draw.choice([2, 3, 5, 16] + [20] * (operation == "cam_entropy")),
        splits=draw.choice([1, 1, 2, 3, 5, 8]),
        offset=draw.choice([0, 0, 0, 1, 4]),
        gap=draw.choice([0, 0, 8, 13]),
        focus_level=draw.choice(get_args(FocusLevel)),
        cam_class=draw.choice(get_args(CamClass)),
        entropy=draw.choice(get_args(Entropy)),
        reduction=draw.choice(get_args(Reduction)),
        soft=draw.random() < 0.25,
        maps=maps,
        aim=draw.choice(["number", "each sample"] if maps == "none" else ["map", "number"]),
        bias=draw.choice(["shared", "of each sample", "none"]),
        weighted=draw.random() < 0.3,
        settings=draw.choice(["floats", "tensors"]),
    )


@dataclass(frozen=True)
class Inputs:
    """Tensors of a case. index: the classes [B], or [B,k] of ``class_activation``."""

    features: Tensor
    weight: Tensor
    bias: Tensor | None
    index: Tensor
    options: dict[str, Any]

    def leaves(self, case: Case) -> dict[str, Tensor]:
        """Return what a case takes gradients of, by name."""
        leaves = {}
        if case.frozen not in ("backbone", "both"):
            leaves["dF"] = self.features
        if case.frozen not in ("classifier", "both"):
            leaves["dW"] = self.weight
            if self.bias is not None and case.operation == "focus_head":
                leaves["db"] = self.bias
        return {} if case.operation == "class_activation" else leaves

    def double(self) -> "Inputs":
        """Return the same numbers in float64."""
        bias = None if self.bias is None else self.bias.double()
        options = {
            name: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
            for name, value in self.options.items()
        }
        return Inputs(self.features.double(), self.weight.double(), bias, self.index, options)


def make_inputs(case: Case, seed: int = 0) -> Inputs:
    """Return random inputs of a case; features have a mean above 0, as after a ReLU."""
    draw = torch.Generator().manual_seed(seed)
    batch, classes, grid = case.batch, case.classes, case.grid
    features = torch.randn(batch, case.channels, *grid, generator=draw) + 0.5
    weight = torch.randn(classes, case.channels, generator=draw) * (1.5 / case.channels**0.5)
    of_sample = (batch,) if case.bias == "of each sample" else ()
    bias = torch.randn(*of_sample, classes, generator=draw)
    index = torch.randint(classes, (batch,), generator=draw)
    options = _options(case, draw)
    if case.operation == "class_activation":
        index = torch.stack([index, (index + 1) % classes], 1)
    return Inputs(
        _arranged(features.to(DTYPES[case.dtype]), case),
        weight,
        None if case.bias == "none" else bias,
        index,
        options,
    )


def _options(case: Case, draw: torch.Generator) -> dict[str, Any]:
    """Return the settings of a case, and the tensors of its terms."""
    settings: dict[str, Any] = {"temperature": TEMPERATURE}
    if case.operation == "focus_head":
        settings |= {weight: 0.7 + 0.3 * number for number, weight in enumerate(WEIGHTS)}
        settings["label_smoothing"] = SMOOTHING if case.weighted else 0.0
        if case.aim == "number":
            settings["entropy_target"] = ENTROPY_TARGET
    if case.settings == "tensors":
        settings = {name: torch.tensor(value) for name, value in settings.items()}
    if case.operation != "focus_head":
        return settings
    names = ("focus_level", "cam_class", "entropy", "reduction")
    options = settings | {name: getattr(case, name) for name in names}
    if case.aim == "each sample":
        options["entropy_target"] = torch.rand(case.batch, generator=draw)
    if case.maps != "none":
        options["saliency"] = torch.rand(case.batch, *case.grid, generator=draw)
    if case.maps == "some":
        options["saliency_mask"] = torch.arange(case.batch) % 2 == 0
    if case.weighted:
        options["class_weight"] = torch.rand(case.classes, generator=draw) + 0.5
    if case.soft:
        shares = torch.randn(case.batch, case.classes, generator=draw)
        options["target"] = shares.softmax(1)
    return options


def _arranged(features: Tensor, case: Case) -> Tensor:
    """Return features in the memory of a case; between them lies NaN."""
    batch, channels, height, width = features.shape
    size, stride = features[0].numel(), features[0].numel() + case.gap
    strides = (height * width, width, 1)
    if case.layout == "channels_last":
        strides = (1, width * channels, channels)
    memory = features.new_full((case.offset + (batch - 1) * stride + size,), math.nan)
    arranged = memory.as_strided(features.shape, (stride, *strides), case.offset)
    arranged.copy_(features)
    return arranged


def run(case: Case, inputs: Inputs) -> Results:
    """Return results and gradients by name, for random upstream gradients of loss and logits."""
    leaves = inputs.leaves(case)
    for tensor in (inputs.features, inputs.weight, inputs.bias):
        if tensor is not None:
            tensor.requires_grad_(any(tensor is leaf for leaf in leaves.values()))
    options = dict(inputs.options)
    if case.operation == "class_activation":
        names = ("logits", "cam", "entropy")
        maps = class_activation(
            inputs.features, inputs.weight, inputs.bias, inputs.index, **options
        )
        return dict(zip(names, maps, strict=True))
    if case.operation == "cam_entropy":
        cam, entropy = cam_entropy(inputs.features, inputs.weight, inputs.index, **options)
        results, through = {"cam": cam, "entropy": entropy}, (cam, entropy)
    else:
        target = options.pop("target", inputs.index)
        out = focus_head(inputs.features, inputs.weight, inputs.bias, target, **options)
        results = {name: getattr(out, name) for name in ("loss", "logits", "cam", "entropy")}
        results |= {f"term {name}": term for name, term in out.terms._asdict().items()}
        through = out.loss, out.logits
    if leaves:
        upstream = [_upstream(tensor, seed) for seed, tensor in enumerate(through)]
        gradients = torch.autograd.grad(through, list(leaves.values()), upstream)
        results |= dict(zip(leaves, gradients, strict=True))
    return {name: tensor.detach() for name, tensor in results.items()}


def _upstream(tensor: Tensor, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return (torch.randn(tensor.shape, generator=draw) + UPSTREAM).to(tensor)


@contextmanager
def splits_of(case: Case) -> Iterator[None]:
    """Let as many programs share a sample as a case says, or as there are blocks of channels."""
    with mock.patch.object(triton_cam, "splits_of", lambda _, blocks: min(case.splits, blocks)):
        yield


ABSENT = 1
"""The sample whose target does not exist."""


def with_absent_target(case: Case, inputs: Inputs) -> Inputs:
    """Return inputs whose target does not exist where a case says so; else the same."""
    if not case.absent:
        return inputs
    index = inputs.index.clone()
    index[ABSENT] = case.classes
    return dataclasses.replace(inputs, index=index)


def expected(case: Case, inputs: Inputs) -> Results:
    """Return what is right, in float64: NaN wherever a target that does not exist has a part."""
    with use_backend("reference"):
        results = run(case, inputs.double())
    if not case.absent:
        return results
    for name, result in results.items():
        if name in ("dW", "db") or (name == "loss" and not result.dim()):
            result.fill_(math.nan)
        elif name != "logits":
            result[ABSENT] = math.nan
    return results


def errors(results: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> dict[str, float]:
    """Return how far each result is off, as LIMIT says; infinite where only one of both is NaN."""
    assert results.keys() == right.keys(), (results.keys(), right.keys())
    least = {name: 1.0 if name.startswith("term") else 0.0 for name in results}
    return {name: _error(result, right[name], least[name]) for name, result in results.items()}


def _error(result: Tensor, right: Tensor, least: float) -> float:
    if result.shape != right.shape or not torch.equal(result.isnan(), right.isnan()):
        return math.inf
    if not right.numel():
        return 0.0
    wide, right = result.double().nan_to_num(), right.nan_to_num()
    error = (wide - right).abs()
    if result.dtype in (torch.bfloat16, torch.float16):
        info = torch.finfo(result.dtype)
        exponent = torch.frexp(torch.maximum(wide.abs(), right.abs())).exponent - 1
        power = torch.ldexp(torch.ones_like(right), exponent).clamp_min(info.smallest_normal)
        error = (error - info.eps * power / 2).clamp_min(0)
    largest = max(float(right.abs().max()), least)
    return float(error.max()) / (largest or 1.0)


def wrong(results: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> list[str]:
    """Return, in words, which results are further off than LIMIT."""
    by_name = errors(results, right)
    return [f"{name} is off by {error:.1e}" for name, error in by_name.items() if error > LIMIT]


def digest(results: Mapping[str, Tensor]) -> str:
    """Return a hash of the results' bits."""
    hashed = hashlib.sha256()
    for result in results.values():
        hashed.update(result.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()
