"""Arguments that do not fit are refused with the documented error, which names the argument."""

from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from focus.kernels import cam_entropy, class_activation, focus_head
from focus.kernels.checks import fill, scalar_tensor

from .cases import EAGER, INTERPRETER, REFERENCE, Form

F, W, B = torch.ones(2, 3, 4, 4), torch.ones(5, 3), torch.ones(5)
T, S = torch.zeros(2, dtype=torch.int64), torch.ones(2, 4, 4)

COMMON: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"features": F[0]}, ValueError, r"features must be \[B,C,H,W\], got \[3, 4, 4\]"),
    ({"features": F[:, :, :0]}, ValueError, "features need channels and cells"),
    ({"features": F[:, :0], "weight": W[:, :0]}, ValueError, "features need channels and cells"),
    ({"features": F.long()}, TypeError, "features must be floating point, got torch.int64"),
    ({"weight": W[:, :2]}, ValueError, r"weight must be \[K,C\] with C = 3 .* got \[5, 2\]"),
    ({"weight": W[0]}, ValueError, "weight must be"),
    ({"weight": W[:0]}, ValueError, "weight must be"),
    ({"weight": W.long()}, TypeError, "weight must be floating point"),
    ({"weight": W.to("meta")}, ValueError, "features are on cpu but weight on meta"),
    ({"features": [[1.0]]}, TypeError, "features must be a tensor, got list"),
    ({"weight": None}, TypeError, "weight must be a tensor, got NoneType"),
    ({"weight": W.to_sparse()}, TypeError, "weight must be dense, got torch.sparse_coo: call to_d"),
    ({"features": F.to_mkldnn()}, TypeError, "features must be dense, got torch._mkldnn"),
    ({"temperature": 0.0}, ValueError, "temperature must be above 0, got 0.0"),
    ({"temperature": float("nan")}, ValueError, "temperature must be above 0, got nan"),
    ({"temperature": 1e-46}, ValueError, "above 0, got 1e-46, too small for float32"),
    ({"temperature": torch.tensor(1j)}, TypeError, "temperature must be real, got torch.complex64"),
    (
        {"temperature": torch.ones(2)},
        ValueError,
        r"temperature must be a number or a tensor of one, got \[2\]",
    ),
]


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        *COMMON,
        ({"index": T[:1]}, ValueError, r"index must be \[2\], got \[1\]"),
        ({"index": T.int()}, TypeError, "index must be int64, got torch.int32"),
        ({"index": T.to("meta")}, ValueError, "index is on meta but features on cpu"),
    ],
)
def test_cam_entropy(wrong: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"features": F, "weight": W, "index": T} | wrong
    with pytest.raises(error, match=message):
        cam_entropy(**arguments)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        *COMMON,
        ({"bias": B[:2]}, ValueError, r"bias must be \[5\], got \[2\]"),
        ({"classes": T}, ValueError, r"classes must be \[B,k\] with B = 2, got \[2\]"),
        ({"classes": T[:1, None]}, ValueError, r"classes must be .* got \[1, 1\]"),
        ({"classes": T[:, None].int()}, TypeError, "classes must be int64"),
        (
            {"classes": T[:, None].to("meta")},
            ValueError,
            "classes is on meta but features on cpu",
        ),
        *(
            ({"classes": wrong}, TypeError, rf"classes must be .* or class numbers, got {words}")
            for wrong, words in (
                (1, "1"),
                (None, "None"),
                ([1.7], r"\[1\.7\]"),
                (["a"], r"\['a'\]"),
                ([[0], [1]], r"\[\[0\], \[1\]\]"),
            )
        ),
        ({"bias": [0.0] * 5}, TypeError, "bias must be a tensor, got list"),
    ],
)
def test_class_activation(wrong: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"features": F, "weight": W, "bias": B, "classes": [0]} | wrong
    with pytest.raises(error, match=message):
        class_activation(**arguments)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        *COMMON,
        ({"bias": B[None]}, ValueError, r"bias must be \[5\], got \[1, 5\]"),
        ({"target": [0, 0]}, TypeError, "target must be a tensor, got list"),
        ({"grad_scale": 2.0}, TypeError, "grad_scale must be a tensor, got float"),
        ({"target": T[:1]}, ValueError, r"target must be \[2\], got \[1\]"),
        ({"target": T.float()}, TypeError, "target must be int64, got torch.float32"),
        ({"saliency": torch.ones(2, 1, 4, 4)}, ValueError, r"saliency must be \[2, 4, 4\], got"),
        ({"saliency": torch.ones(2, 4, 5)}, ValueError, "saliency must be"),
        (
            {"saliency": torch.ones(2, 4, 4, dtype=torch.uint8)},
            TypeError,
            r"saliency must be floating point in \[0, 1\], or bool, got torch.uint8",
        ),
        ({"saliency": S.to(torch.float8_e5m2)}, TypeError, "or bool, got torch.float8_e5m2: conv"),
        *(
            ({name: tensor.to(torch.complex64)}, TypeError, f"{name} must be real, got")
            for name, tensor in (
                ("class_weight", B),
                ("entropy_target", S[:, 0, 0]),
                ("grad_scale", S[0, 0, 0]),
            )
        ),
        *(
            ({"saliency": S, "saliency_mask": mask}, error, message)
            for mask, error, message in (
                (torch.ones(3).bool(), ValueError, r"saliency_mask must be \[2\]"),
                (torch.ones(2), TypeError, "saliency_mask must be bool, got"),
            )
        ),
        ({"saliency_mask": torch.ones(2).bool()}, ValueError, "saliency_mask .* saliency is None"),
        ({"entropy_target": torch.ones(3)}, ValueError, r"entropy_target must be \[2\], got \[3\]"),
        ({"class_weight": torch.ones(2)}, ValueError, r"class_weight must be \[5\], got \[2\]"),
        ({"label_smoothing": 1.0}, ValueError, r"label_smoothing must be in \[0, 1\), got 1.0"),
        ({"label_smoothing": -0.1}, ValueError, "label_smoothing must be"),
        ({"entropy_target": 1.7}, ValueError, r"entropy_target must be in \[0, 1\], got 1.7"),
        *(
            ({name: wrong}, TypeError, f"{name} must be a number or a tensor, got ")
            for name, wrong in (
                ("entropy_target", [0.1, 0.2]),
                ("temperature", None),
                ("label_smoothing", "0.1"),
                ("focus_weight", None),
            )
        ),
        ({"focus_weight": B}, ValueError, r"focus_weight must be a number or a .* got \[5\]"),
        ({"grad_scale": T}, ValueError, r"grad_scale must be \[\], got \[2\]"),
        ({"bias": B.long()}, TypeError, "bias must be floating point, got torch.int64"),
        ({"level": "min"}, ValueError, "level 'min' is not one of none, match, hinge, minimize"),
        ({"cam_class": "top"}, ValueError, "cam_class 'top' is not one of true, predicted"),
        ({"reduction": "avg"}, ValueError, "reduction 'avg' is not one of mean, sum, none"),
        (
            {"weight": W[:1], "bias": None, "cam_class": "contrast"},
            ValueError,
            "cam_class 'contrast' needs at least 2 classes, weight has 1",
        ),
    ],
)
def test_focus_head(wrong: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"features": F, "weight": W, "bias": B, "target": T} | wrong
    with pytest.raises(error, match=message):
        focus_head(**arguments)


@pytest.mark.parametrize("target", [0, 1, 0.0, 1.0])
def test_an_entropy_target_may_be_either_end(target: float) -> None:
    """Of equal features the CAM is flat, and its entropy 1."""
    options = {"level": "match", "entropy_target": target, "label_smoothing": 0}
    out = focus_head(torch.ones_like(F), W, B, T, **options)
    torch.testing.assert_close(out.focus, torch.full_like(out.focus, 1 - target))


def test_numbers_are_not_copied_to_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.empty(1, 2, 2, 2, device="meta")
    monkeypatch.setattr(torch, "tensor", None)  # on a GPU, its copy waits for the device
    numbers = {"a": 0.5, "b": 2.0}
    assert scalar_tensor(numbers | {"c": torch.ones(())}, features).shape == (3,)
    assert scalar_tensor(numbers, features).device.type == "meta"


def test_class_numbers_of_any_integer_type_are_the_same() -> None:
    weight = torch.arange(15.0).view(5, 3)
    expected = class_activation(F, weight, B, [3, 1])
    assert expected[1][0, :, 0, 0].tolist() == [30, 12]
    for classes in ((3, 1), np.array([3, 1]), range(3, 0, -2), [torch.tensor(3), np.int8(1)]):
        assert all(map(torch.equal, class_activation(F, weight, B, classes), expected))


@pytest.mark.parametrize("classes", [[], range(0), range(2, 0)], ids=str)
def test_no_class_numbers_are_no_cams(classes: list[int] | range) -> None:
    logits, cams, entropy = class_activation(F, W, B, classes)
    assert logits.shape == (len(F), len(W))
    assert cams.shape == (len(F), 0, *F.shape[2:])
    assert entropy.shape == (len(F), 0)


@pytest.mark.parametrize("form", [EAGER, INTERPRETER, pytest.param(REFERENCE, id="reference")])
def test_another_default_device_changes_nothing(form: Form) -> None:
    def results() -> list[torch.Tensor]:
        numbers = {"focus_weight": 0.5, "level": "match", "entropy_target": 0.4}
        head = focus_head(F, W, B, T, saliency=F[:, 0], saliency_weight=2.0, **numbers)
        return [*cam_entropy(F, W, T), *class_activation(F, W, B, [3, 1]), *head]

    with form.active():
        expected = results()
        with torch.device("meta"):
            found = results()
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64], ids=str)
@pytest.mark.parametrize("numbers", [(), (3,), (2, 0, 7), (0.1, 1.0, 5.0, 0.7, 0.0)], ids=str)
def test_numbers_are_filled_in_exactly(numbers: tuple[float, ...], dtype: torch.dtype) -> None:
    if not dtype.is_floating_point:
        numbers = tuple(map(int, numbers))
    filled = fill(numbers, dtype, torch.device("cpu"))
    assert filled.dtype == dtype
    assert torch.equal(filled, torch.tensor(numbers, dtype=dtype))


def test_classes_in_a_tensor_without_values_are_not_looked_at() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        classes = mode.from_tensor(T[:, None])
        logits, cams, entropy = class_activation(F, W, B, classes)
    assert (logits.shape, cams.shape, entropy.shape) == ((2, 5), (2, 1, 4, 4), (2, 1))
