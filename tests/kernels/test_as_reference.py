"""Every operation and option against the float64 reference, at shapes and layouts that differ."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from focus.kernels import class_activation

from . import cases
from .cases import FORMS, GPU_TILES, SHAPES, Form, assert_cam_entropy, assert_focus_head, pairwise
from .tolerances import assert_close

SMALL: cases.Case = {"batch": 5, "channels": 6, "grid": (3, 3), "classes": 3}
SMALL |= {"focus_level": "match", "cam_class": "true", "maps": "masked maps"}
LAYOUTS = ("nchw", "channels_last", "offset")
EVERY = 30
"""The quick suite takes every so many cases of a pairwise cover in the interpreter."""


def covered(
    form: Form, factors: dict[str, tuple[Any, ...]], *, rest: bool = False
) -> list[cases.Case]:
    """Return cases of a pairwise cover: all in torch calls, some or the rest in the interpreter."""
    if form.backend == "eager":
        return pairwise(factors, cases.in_pytorch)[:: 3 if form.device == "cpu" else 1]
    cover = pairwise(factors, cases.in_interpreter)
    if form.device == "cuda":
        return cover
    return [case for n, case in enumerate(cover) if (n % EVERY > 0) == rest]


@pytest.mark.parametrize("form", FORMS)
def test_focus_head(form: Form) -> None:
    for case in covered(form, cases.HEAD):
        assert_focus_head(form, case, reduction="none")


@pytest.mark.parametrize("form", FORMS)
def test_cam_entropy(form: Form) -> None:
    for case in covered(form, SHAPES):
        assert_cam_entropy(form, case)


@pytest.mark.parametrize("form", FORMS)
def test_class_activation(form: Form) -> None:
    for case in covered(form, SHAPES)[::2]:
        cases.assert_class_activation(form, case)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compare", "factors", "part"),
    [
        (assert_focus_head, cases.HEAD, 0),
        (assert_focus_head, cases.HEAD, 1),
        (assert_cam_entropy, SHAPES, 2),
        (cases.assert_class_activation, SHAPES, 3),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_quarter_of_the_cover_interpreted(
    compare: Callable[..., None], factors: dict[str, tuple[Any, ...]], part: int
) -> None:
    parts = 8 if factors is cases.HEAD else 4
    for case in covered(Form("triton"), factors, rest=True)[part::parts]:
        compare(Form("triton"), case)


CORNERS = {
    "a sample of one number": {"batch": 1, "channels": 1, "grid": (1, 1), "classes": 1},
    "prime sizes": {"batch": 3, "channels": 1021, "grid": (7, 11), "classes": 5},
    "one row": {"batch": 2, "channels": 5, "grid": (1, 37), "classes": 2},
    "one column": {"batch": 2, "channels": 5, "grid": (37, 1), "classes": 2},
}


@pytest.mark.parametrize("form", FORMS)
def test_corners(form: Form) -> None:
    for corner in CORNERS.values():
        for dtype in (torch.float32, torch.bfloat16):
            assert_cam_entropy(form, corner | {"dtype": dtype})


# More than one tile of a GPU in each direction, and the edges of vectors.
TILES: tuple[cases.Case, ...] = (
    {"batch": 5, "channels": 72, "grid": (7, 7), "classes": 2, "dtype": torch.bfloat16},
    {"batch": 3, "channels": 24, "grid": (5, 13), "classes": 4, "dtype": torch.float16},
    # More than one group of samples.
    {"batch": 17, "channels": 24, "grid": (5, 5), "classes": 16, "dtype": torch.float16},
    {"batch": 4, "channels": 40, "grid": (7, 7), "classes": 3, "dtype": torch.float32},
    {"batch": 2, "channels": 12, "grid": (10, 10), "classes": 2, "dtype": torch.bfloat16},
    {"batch": 5, "channels": 20, "grid": (3, 3), "classes": 1, "dtype": torch.float32},
    {"batch": 2, "channels": 40, "grid": (7, 7), "classes": 5, "dtype": torch.bfloat16},
    {"batch": 17, "channels": 20, "grid": (3, 3), "classes": 70, "dtype": torch.float32},
    {"batch": 5, "channels": 20, "grid": (12, 13), "classes": 2, "dtype": torch.float32},
    {"batch": 2, "channels": 19, "grid": (9, 15), "classes": 3, "dtype": torch.bfloat16},
    {"batch": 2, "channels": 72, "grid": (16, 15), "classes": 6, "dtype": torch.bfloat16},
    {"batch": 2, "channels": 20, "grid": (9, 15), "classes": 6, "dtype": torch.float32},
    # More than one block of cells, the last one cut.
    {"batch": 2, "channels": 20, "grid": (16, 17), "classes": 17, "dtype": torch.float32},
)


def test_the_tiles_of_a_gpu() -> None:
    for corner, layout in zip(TILES, LAYOUTS, strict=False):
        assert_focus_head(GPU_TILES, SMALL | corner | {"layout": layout})


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_more_tiles_of_a_gpu(layout: str) -> None:
    for corner in TILES:
        assert_focus_head(GPU_TILES, SMALL | corner | {"layout": layout})
    case = SMALL | {"batch": 2, "grid": (12, 13), "channels": 20, "layout": layout}
    for classes in (1, 3, 17):
        cases.assert_class_activation(GPU_TILES, case | {"classes": classes})


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_parts_of_the_batch_in_torch_calls(layout: str, small_parts: None) -> None:
    form, case = Form("eager"), SMALL | {"layout": layout}
    for batch, cam_class in zip((0, 1, 7), cases.CAM_CLASSES, strict=True):
        for dtype in (torch.float32, torch.bfloat16):
            assert_focus_head(form, case | {"batch": batch, "cam_class": cam_class, "dtype": dtype})
    shape = {name: value for name, value in case.items() if name in SHAPES} | {"batch": 7}
    assert_cam_entropy(form, shape)
    cases.assert_class_activation(form, shape)


OPTIONS = {
    "focus_level": cases.LEVELS,
    "cam_class": cases.CAM_CLASSES,
    "maps": cases.MAPS,
    "entropy": cases.ENTROPIES,
    "reduction": ("mean", "sum", "none"),
    "class_weight": (None, (0.5, 2.0, 0.0)),
    "label_smoothing": (0.0, 0.2),
}


@pytest.mark.parametrize("form", FORMS)
def test_options(form: Form) -> None:
    for choice in pairwise(OPTIONS, bool)[:: 2 if form == Form("triton") else 1]:
        weight = choice["class_weight"]
        more = {
            "reduction": choice["reduction"],
            "label_smoothing": choice["label_smoothing"],
            "class_weight": weight and torch.tensor(weight, device=form.device),
        }
        assert_focus_head(form, SMALL | choice, **more)


@pytest.mark.parametrize("form", FORMS)
def test_shares_of_the_classes_as_target(form: Form) -> None:
    """As mixup and distillation have; with them the CAM is that of the largest share."""
    for cam_class, classes in zip(cases.CAM_CLASSES, (3, 2, 17), strict=True):
        case = SMALL | {"cam_class": cam_class, "classes": classes}
        inputs = cases.make_inputs(case, form.device)
        shares = torch.rand(case["batch"], classes, device=form.device).softmax(1)
        assert_focus_head(form, case, inputs, target=shares, label_smoothing=0.1)


@pytest.mark.parametrize("form", FORMS)
def test_a_bias_of_each_sample(form: Form) -> None:
    """What a class token adds to the logits; 40 samples are two blocks of the kernel's."""
    for cam_class, classes in (("predicted", 2), ("contrast", 17)):
        case = SMALL | {"batch": 40, "cam_class": cam_class, "classes": classes}
        inputs = cases.make_inputs(case, form.device)
        inputs.bias = cases.random_like(inputs.bias.new_empty(case["batch"], classes), 5)
        assert_focus_head(form, case, inputs)
        arguments = inputs.features, inputs.weight, inputs.bias, range(classes)
        shared = inputs.features, inputs.weight, None, range(classes)
        with form.active():
            (logits, *cams), (plain_logits, *plain_cams) = (
                class_activation(*a) for a in (arguments, shared)
            )
        assert_close("logits", logits, plain_logits + inputs.bias, inputs.features.dtype)
        assert all(map(torch.equal, cams, plain_cams))


@pytest.mark.parametrize("form", FORMS)
def test_settings_as_tensors_and_of_each_sample(form: Form) -> None:
    target = torch.linspace(0.3, 0.9, SMALL["batch"], device=form.device)
    for maps in cases.MAPS:
        assert_focus_head(form, SMALL | {"maps": maps}, entropy_target=target)
    numbers = {name: 2 * value for name, value in cases.TERM_WEIGHTS.items()}
    numbers |= {"temperature": 2.5, "entropy_target": 0.4, "label_smoothing": 0.1}
    tensors = {name: torch.tensor(value) for name, value in numbers.items()}
    assert_focus_head(form, SMALL, **tensors)
    for temperature in (0.25, 7.0, torch.tensor(2.5)):
        row = {"batch": 2, "channels": 5, "grid": (1, 37), "classes": 2}
        assert_cam_entropy(form, row, temperature=temperature)


def strided(tensor: Tensor) -> Tensor:
    """Return the same values in every other element of a storage, NaN or nonsense between them."""
    filler = tensor.new_full(tensor.shape, float("nan") if tensor.is_floating_point() else 1)
    return torch.stack([tensor, filler], -1)[..., 0]


def expanded(tensor: Tensor) -> Tensor:
    """Return the first entry for all, with stride 0."""
    return tensor[:1].expand_as(tensor)


@pytest.mark.parametrize("arranged", [strided, expanded])
@pytest.mark.parametrize("form", FORMS)
def test_small_tensors_of_any_strides(form: Form, arranged: Callable[[Tensor], Tensor]) -> None:
    """Kernels read all but features and weight one element after the other."""
    for classes, reduction in ((2, "mean"), (17, "none")):
        case = SMALL | {"classes": classes, "weight_dtype": "float32"}
        inputs = cases.make_inputs(case, form.device)
        for name in ("bias", "index", "saliency", "mask"):
            setattr(inputs, name, arranged(getattr(inputs, name)))
        inputs.weight = inputs.weight.T.contiguous().T
        more = {
            "class_weight": arranged(torch.linspace(0.5, 2, classes, device=form.device)),
            "reduction": reduction,
        }
        assert not inputs.bias.is_contiguous()
        assert_focus_head(form, case, inputs, **more)
        target = arranged(torch.linspace(0.3, 0.9, case["batch"], device=form.device))
        assert_focus_head(form, case, inputs, **more, entropy_target=target)
