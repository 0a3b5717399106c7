"""Arguments that do not fit are refused with the documented error, which names the argument."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from focus.kernels import cam_entropy, class_activation, focus_head

from .cases import EAGER, INTERPRETER, REFERENCE, Form

F, W, B = torch.ones(2, 3, 4, 4), torch.ones(5, 3), torch.ones(5)
T, S = torch.zeros(2, dtype=torch.int64), torch.ones(2, 4, 4)

Wrong = list[tuple[dict[str, Any], type[Exception], str]]

COMMON: Wrong = [
    ({"features": F[0]}, ValueError, r"features must be \[B,C,H,W\], got \[3, 4, 4\]"),
    ({"features": F[:, :, :0]}, ValueError, "features need channels and cells"),
    ({"features": F.long()}, TypeError, "features must be floating point, got torch.int64"),
    ({"features": [[1.0]]}, TypeError, "features must be a tensor, got list"),
    ({"weight": W[:, :2]}, ValueError, r"weight must be \[K,C\] with C = 3 .* got \[5, 2\]"),
    ({"weight": W.to("meta")}, ValueError, "features are on cpu but weight on meta"),
    ({"temperature": 0.0}, ValueError, "temperature must be above 0, got 0.0"),
    ({"temperature": torch.ones(2)}, ValueError, r"must be a number or a tensor of one, got \[2\]"),
]
OF_CAM_ENTROPY: Wrong = [
    ({"index": T[:1]}, ValueError, r"index must be \[2\], got \[1\]"),
    ({"index": T.int()}, TypeError, "index must be int64, got torch.int32"),
    ({"index": T.to("meta")}, ValueError, "index is on meta but features on cpu"),
]
OF_ACTIVATION: Wrong = [
    ({"bias": B[:2]}, ValueError, r"bias must be \[5\], got \[2\]"),
    ({"classes": T}, ValueError, r"classes must be \[B,k\] with B = 2, got \[2\]"),
    ({"classes": T[:, None].int()}, TypeError, "classes must be int64"),
    ({"classes": 1}, TypeError, "classes must be .* or class numbers, got 1"),
    ({"classes": [[0], [1]]}, TypeError, r"class numbers, got \[\[0\], \[1\]\]"),
]
OF_FOCUS_HEAD: Wrong = [
    ({"bias": B[None]}, ValueError, r"bias must be \[2, 5\], got \[1, 5\]"),
    ({"target": T[:1]}, ValueError, r"target must be \[2\], got \[1\]"),
    ({"target": T[:, None].float()}, ValueError, r"target must be \[2, 5\], got \[2, 1\]"),
    ({"target": T.float()}, TypeError, "target must be int64, got torch.float32"),
    ({"saliency": torch.ones(2, 1, 4, 4)}, ValueError, r"saliency must be \[2, 4, 4\], got"),
    ({"saliency": S.byte()}, TypeError, r"saliency must be floating point in \[0, 1\], or bool"),
    ({"saliency": S.to(torch.float8_e5m2)}, TypeError, "or bool, got torch.float8_e5m2"),
    ({"saliency": S, "saliency_mask": T[:1] > 0}, ValueError, r"saliency_mask must be \[2\]"),
    ({"saliency": S, "saliency_mask": S[:, 0, 0]}, TypeError, "saliency_mask must be bool, got"),
    ({"saliency_mask": T > 0}, ValueError, "saliency_mask .* saliency is None"),
    ({"entropy_target": torch.ones(3)}, ValueError, r"entropy_target must be \[2\], got \[3\]"),
    ({"entropy_target": 1.7}, ValueError, r"entropy_target must be in \[0, 1\], got 1.7"),
    ({"class_weight": torch.ones(2)}, ValueError, r"class_weight must be \[5\], got \[2\]"),
    ({"label_smoothing": 1.0}, ValueError, r"label_smoothing must be in \[0, 1\), got 1.0"),
    ({"focus_weight": None}, TypeError, "focus_weight must be a number or a tensor, got "),
    ({"focus_weight": B}, ValueError, r"focus_weight must be a number or a .* got \[5\]"),
    (
        {"focus_level": "min"},
        ValueError,
        "focus_level 'min' is not one of none, match, hinge, minimize",
    ),
    ({"reduction": "avg"}, ValueError, "reduction 'avg' is not one of mean, sum, none"),
    (
        {"weight": W[:1], "bias": None, "cam_class": "contrast"},
        ValueError,
        "cam_class 'contrast' needs at least 2 classes, weight has 1",
    ),
]


@pytest.mark.parametrize(
    ("operation", "right", "wrong"),
    [
        (cam_entropy, {"index": T}, COMMON + OF_CAM_ENTROPY),
        (class_activation, {"bias": B, "classes": [0]}, COMMON + OF_ACTIVATION),
        (focus_head, {"bias": B, "target": T}, COMMON + OF_FOCUS_HEAD),
    ],
    ids=["cam_entropy", "class_activation", "focus_head"],
)
def test_what_does_not_fit_is_named(operation: Any, right: dict[str, Any], wrong: Wrong) -> None:
    for change, error, message in wrong:
        with pytest.raises(error, match=message):
            operation(**{"features": F, "weight": W} | right | change)


def test_class_numbers_of_any_integer_type_are_the_same() -> None:
    weight = torch.arange(15.0).view(5, 3)
    expected = class_activation(F, weight, B, [3, 1])
    assert expected[1][0, :, 0, 0].tolist() == [30, 12]
    for classes in ((3, 1), np.array([3, 1]), range(3, 0, -2), [torch.tensor(3), np.int8(1)]):
        assert all(map(torch.equal, class_activation(F, weight, B, classes), expected))
    logits, cams, entropy = class_activation(F, W, B, [])
    assert (logits.shape, cams.shape, entropy.shape) == ((2, 5), (2, 0, 4, 4), (2, 0))


@pytest.mark.parametrize("form", [EAGER, INTERPRETER, pytest.param(REFERENCE, id="reference")])
def test_another_default_device_changes_nothing(form: Form) -> None:
    def results() -> list[Tensor]:
        numbers = {"focus_weight": 0.5, "focus_level": "match", "entropy_target": 0.4}
        head = focus_head(F, W, B, T, saliency=F[:, 0], saliency_weight=2.0, **numbers)
        head_outputs = head.loss, head.logits, head.cam, head.entropy, *head.terms
        return [*cam_entropy(F, W, T), *class_activation(F, W, B, [3, 1]), *head_outputs]

    with form.active():
        expected = results()
        with torch.device("meta"):
            actual = results()
    assert all(map(torch.equal, actual, expected))
