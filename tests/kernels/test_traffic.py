# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The bytes that kernels and torch calls move, counted in the interpreter; order and range of
their addresses."""

import functools
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="triton is not installed")

import triton
import triton.language as tl

from bench import traffic
from bench.interpreter_counter import BadAccess, Extent, measure
from focus.kernels import class_activation, focus_head

from .background import Background
from .cases import (
    REFERENCE,
    Case,
    Form,
    Inputs,
    arrange,
    head_options,
    make_inputs,
    run_cam_entropy,
    run_focus_head,
)
from .far import FarGradients, spread
from .interpreter import interpreter, shuffled_programs
from .tolerances import assert_close

# As chosen without being told: Triton's kernels, where there are some.
IN_INTERPRETER = Form("auto")


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    with interpreter(sys.modules[__name__]):
        yield


@triton.jit
def copy_kernel(source_ptr, out_ptr, count, shift, BLOCK: tl.constexpr):
    where = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(source_ptr + where + shift, mask=where < count)
    tl.store(out_ptr + where, value, mask=where < count)


@triton.jit
def atomic_kernel(out_ptr, BLOCK: tl.constexpr):
    tl.atomic_add(out_ptr + tl.arange(0, BLOCK), 1.0, mask=tl.arange(0, BLOCK) < 5)


@triton.jit
def last_program_kernel(out_ptr):
    tl.store(out_ptr, tl.program_id(0) * 100 + tl.program_id(1))


@triton.jit
def narrow_offset_kernel(source_ptr, out_ptr, stride, place):
    tl.store(out_ptr, tl.load(source_ptr + place * stride))


def copied(source: Tensor, count: int, shift: int = 0, block: int = 256) -> Callable[[], None]:
    def step() -> None:
        out = torch.empty(count, dtype=source.dtype)
        copy_kernel[(triton.cdiv(count, block),)](source, out, count, shift, BLOCK=block)

    return step


# What the counter sees.


def test_a_copy_of_1000_numbers_is_4000_bytes_each_way() -> None:
    source = torch.randn(1000)
    counted = measure(copied(source, 1000), source)
    (launch,) = counted.launches
    assert (launch.name, launch.is_kernel) == ("copy_kernel", True)
    assert dict(launch.moved) == {("F", "read"): 4000, ("other", "write"): 4000}
    assert dict(launch.by_argument) == {("source_ptr", "read"): 4000, ("out_ptr", "write"): 4000}
    # Aligned to 64 bytes by torch: 125 sectors each way.
    assert launch.sectors == 8000
    assert (counted.wide_launches, counted.small_launches) == (1, 0)


def test_a_shifted_load_touches_one_sector_more() -> None:
    source = torch.randn(1000)
    (launch,) = measure(copied(source, 256, shift=1), source).launches
    assert launch.sectors == (33 + 32) * 32


def test_an_atomic_reads_and_writes() -> None:
    out = torch.zeros(8)
    counted = measure(lambda: atomic_kernel[(3,)](out, BLOCK=8), out)
    assert counted.moved("F", "read") == counted.moved("F", "write") == 3 * 5 * 4


@pytest.mark.parametrize(("shift", "place"), [(1, 4000), (-1, -4)])
def test_a_load_out_of_bounds_is_refused(shift: int, place: int) -> None:
    source = torch.randn(1000)
    fault = f"copy_kernel: 1 lanes read out of bounds, the first at byte {place} of source_ptr"
    with pytest.raises(BadAccess, match=f"^{fault}, which spans 4000$"):
        measure(copied(source, 1000, shift), source)


def test_a_load_in_the_gap_of_a_view_is_refused() -> None:
    view = torch.randn(20, 10)[:, :8]
    measure(copied(view, 8), view)
    with pytest.raises(BadAccess, match="2 lanes read out of bounds, the first at byte 32 of sou"):
        measure(copied(view, 10), view)


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "sliced", "expanded", "offset"])
def test_the_elements_of_a_view_are_in_bounds(layout: str) -> None:
    """And nothing else is."""
    view = arrange(torch.randn(2, 3, 4, 5), layout)
    starts = {
        view.data_ptr()
        + 4 * sum(i * stride for i, stride in zip(place, view.stride(), strict=True))
        for place in np.ndindex(view.shape)
    }
    span = np.arange(min(starts) - 64, max(starts) + 64)
    held = span[Extent("view", view).holds(span)]
    assert set(held.tolist()) == {start + byte for start in starts for byte in range(4)}


def test_torch_calls_are_counted() -> None:
    source = torch.randn(30, 20)

    def step() -> None:
        turned = source.T.unsqueeze(0)  # views
        turned.contiguous()
        source.sum()
        source.mul_(2)
        torch.empty_like(source).copy_(source)

    counted = measure(step, source)
    names = [launch.name for launch in counted.launches]
    assert names == ["clone", "sum", "mul_", "copy_"]
    assert counted.moved("F", "read") == 4 * 2400
    assert counted.moved("F", "write") == 2400
    assert counted.moved("other", "write") == 2400 + 4 + 2400
    assert counted.moved("other", "read") == 0
    assert counted.wide_launches == 4


def test_torch_calls_within_registered_operators_are_counted() -> None:
    inputs = traffic.make_inputs(traffic.Case(2, 8, 2, "fp32", "NCHW"))
    with Form("eager").active():
        counted = measure(traffic.head_step(inputs), inputs.features)
    names = [launch.name for launch in counted.launches]
    assert "bmm" in names
    assert not any("focus" in name for name in names)


# What the operations are held to.

STEP = traffic.Case(20, 1024, 2, "bf16", "channels_last")
SMALL = STEP._replace(batch=3)
Line = tuple[str, traffic.Case, int]
"""A usage, its case, and how many times those of a GPU the tiles are."""


def line(name: str, case: traffic.Case) -> Line:
    return name, case, 1


def of_larger_tiles(name: str, case: traffic.Case) -> Line:
    """Quicker where tiles are of vectors: of more channels, which moves the same bytes."""
    of_vectors = case.layout == "NCHW" and case.grid[0] * case.grid[1] % 16
    return name, case, 4 if of_vectors else 1


def usual(name: str) -> Line:
    """The limits on the other bytes are for a batch that is worth a GPU."""
    usage = traffic.USAGES[name]
    return line(name, STEP if usage.other or usage.sectors else SMALL)


def described(line: Line) -> str:
    name, (*case, grid), _ = line
    return "-".join(map(str, (name, *case, "{}x{}".format(*grid))))


@functools.cache
def rows(folder: Path) -> dict[Line, traffic.Row | str]:
    return pickle.loads((folder / "rows.pickle").read_bytes())


@pytest.fixture
def row(request: pytest.FixtureRequest, traffic_rows: Background) -> traffic.Row:
    """Of the line that is the parameter: a process of its own counts it meanwhile."""
    found = rows(traffic_rows.wait())[request.param]
    assert isinstance(found, traffic.Row), found
    return found


def of_lines(*lines: Any) -> pytest.MarkDecorator:
    """What a test says of each of the lines."""
    return pytest.mark.parametrize("row", lines, ids=described, indirect=True)


IN_NCHW = STEP._replace(layout="NCHW")


@of_lines(
    line("focus_head step", IN_NCHW),
    pytest.param(line("focus_head step", IN_NCHW._replace(dtype="fp32")), marks=pytest.mark.slow),
)
def test_a_training_step_meets_the_limits(row: traffic.Row) -> None:
    assert row.faults == ()


@of_lines(
    *(
        of_larger_tiles("focus_head step", traffic.Case(8, 1024, 2, dtype, layout, (side, side)))
        for layout in traffic.LAYOUTS
        for side, dtype in ((7, "fp32"), (8, "bf16"), (10, "bf16"), (10, "fp32"))
    )
)
def test_a_training_step_moves_whole_sectors(row: traffic.Row) -> None:
    """Of a smaller batch than the limits are for, since the sectors of F do not depend on it."""
    assert row.faults == ()
    assert row.sectors <= traffic.MAX_SECTORS[row.case.dtype]


@of_lines(*map(usual, traffic.USAGES))
def test_every_usage_meets_its_limits(row: traffic.Row) -> None:
    assert row.faults == ()


@of_lines(
    *(
        of_larger_tiles(name, SMALL._replace(dtype="fp32", layout=layout))
        for layout in traffic.LAYOUTS
        for name in ("cam_entropy forward", "cam_entropy backward", "class_activation")
    )
)
def test_float32_features_are_read_and_written_once(row: traffic.Row) -> None:
    assert row.faults == ()


@of_lines(
    *(line("focus_head step", SMALL._replace(classes=classes)) for classes in (4, 5, 16, 17, 1000))
)
def test_many_classes_read_the_features_no_more_often(row: traffic.Row) -> None:
    assert row.faults == ()


# Launches that a GPU sees: those that touch F, others, and those that touch a few numbers only.
LAUNCHES = {
    ("focus_head step", 2): (2, 3, 3),
    # In a batch of 3 the mean of the losses, too, is of a few numbers.
    ("focus_head step", 4): (2, 2, 4),
    ("focus_head step", 5): (2, 3, 4),
    ("focus_head step", 16): (2, 3, 4),
    ("focus_head step", 17): (2, 5, 4),
    ("focus_head frozen backbone", 2): (2, 3, 3),
    ("focus_head frozen head", 2): (2, 2, 3),
    ("focus_head no gradient", 2): (1, 2, 2),
    ("cam_entropy forward", 2): (1, 1, 1),
    ("cam_entropy backward", 2): (1, 2, 1),
    ("class_activation", 2): (1, 2, 3),
}


@of_lines(
    *(
        line(name, SMALL._replace(classes=classes)) if classes > 2 else usual(name)
        for name, classes in LAUNCHES
    )
)
def test_launches(row: traffic.Row) -> None:
    found = row.wide_launches, row.small_launches, row.number_launches
    assert found == LAUNCHES[row.path, row.case.classes], row.launches_on_gpu


def names_of_forward(settings: dict[str, Any]) -> list[str]:
    """The launches of a forward without gradient."""
    inputs = traffic.make_inputs(SMALL, "meta")
    leaves = [t.detach() for t in (inputs.features, inputs.weight, inputs.bias)]

    def step() -> None:
        focus_head(*leaves, inputs.target, **settings)

    return [launch.name for launch in measure(step, inputs.features).launches]


def test_settings_given_as_tensors_take_one_launch() -> None:
    value = torch.empty((), device="meta")
    weights = "classification_weight", "focus_weight", "saliency_weight"
    settings = dict.fromkeys((*weights, "temperature", "label_smoothing"), value)
    names = names_of_forward(settings)
    assert names == ["stack", "_maps_kernel", "_terms_kernel", "mean"]


def test_entropy_target_given_as_a_float_takes_no_launch() -> None:
    names = names_of_forward({"level": "hinge", "entropy_target": 0.6, "focus_weight": 1.0})
    assert names == ["zeros", "_foreach_add_", "_maps_kernel", "_terms_kernel", "mean"]


def planted(extra: Callable[[traffic.Inputs], object]) -> tuple[str, ...]:
    """Faults of a step that also does ``extra``, by the check that the operations pass."""
    inputs = traffic.make_inputs(SMALL)
    usage = traffic.Usage(traffic.entropy_forward, 1, 0, wide=1)
    step = usage.step(inputs)

    def more() -> None:
        step()
        extra(inputs)

    return traffic.faults(measure(more, inputs.features), usage, SMALL, inputs.features)


def test_a_second_read_of_the_features_is_found() -> None:
    assert planted(lambda inputs: None) == ()
    read = planted(
        lambda inputs: copied(inputs.features.detach(), inputs.features.numel(), block=8192)()
    )
    assert read == ("F read x 2, not 1", "2 launches touch F, not 1")
    assert planted(lambda inputs: inputs.features.sum()) == read
    assert planted(lambda inputs: inputs.features.detach().clone()) == read


def test_hidden_traffic_is_over_the_limits() -> None:
    """A step whose scratch is as large as a fifth of F."""
    features = torch.zeros(20, 16, 7, 7, dtype=torch.bfloat16)
    case = traffic.Case(20, 16, 2, "bf16", "NCHW")
    usage = traffic.Usage(traffic.head_step, 2, 1, wide=3, other=True, sectors=True)
    size = 2 * features.numel()

    def found(scratch: int) -> tuple[str, ...]:
        def step() -> Tensor:
            features.sum()
            features.amax()
            torch.zeros(scratch, dtype=torch.uint8)
            return torch.zeros_like(features)

        return traffic.faults(measure(step, features), usage, case, features)

    assert found(size // 20) == ()
    assert found(size // 5) == ("other over 0.12", "sectors over 1.06")


# The order of the programs.


def results(case: Case) -> dict[str, Tensor]:
    inputs = make_inputs(case)
    head = run_focus_head(IN_INTERPRETER, inputs, **head_options(case, inputs))
    entropy = run_cam_entropy(IN_INTERPRETER, inputs)
    return head | {f"cam_entropy {name}": tensor for name, tensor in entropy.items()}


def bits(tensor: Tensor) -> Tensor:
    """As bytes, so that NaN is equal to itself and -0 is not 0."""
    return tensor.detach().reshape(-1).view(torch.uint8)


HEAD: Case = {"grid": (3, 3), "level": "match", "cam_class": "true", "maps": "masked maps"}


@pytest.mark.parametrize(
    ("batch", "channels", "classes"),
    [(1, 256, 2), (5, 100, 3), (9, 48, 2), (17, 24, 5), (3, 40, 17)],
)
# Sums are in 32 bits whichever the type is.
@pytest.mark.parametrize(
    "dtype", [pytest.param(torch.bfloat16, marks=pytest.mark.slow), torch.float32], ids=str
)
def test_any_order_of_programs_gives_the_same_bits(
    batch: int, channels: int, classes: int, dtype: torch.dtype
) -> None:
    case = HEAD | {"batch": batch, "channels": channels, "classes": classes, "dtype": dtype}
    expected = results(case)
    for seed in range(2):
        with shuffled_programs(seed):
            actual = results(case)
        for name, tensor in actual.items():
            assert torch.equal(bits(tensor), bits(expected[name])), name


def test_the_order_is_shuffled() -> None:
    last = set()
    for seed in range(4):
        out = torch.zeros(1, dtype=torch.int32)
        with shuffled_programs(seed):
            last_program_kernel[(5, 7)](out)
        last.add(int(out))
    assert len(last) > 1
    assert last <= {100 * x + y for x in range(5) for y in range(7)}


# Addresses beyond 2^31 elements.


def head_and_entropy(inputs: Inputs, form: Form) -> dict[str, Tensor]:
    case = HEAD | {"batch": 3, "channels": 3, "classes": len(inputs.weight)}
    out = run_focus_head(form, inputs, **head_options(case, inputs))
    entropy = run_cam_entropy(form, inputs)
    out |= {f"cam_entropy {name}": tensor for name, tensor in entropy.items()}
    with form.active():
        names = ("activation logits", "activation cams", "activation entropy")
        activation = class_activation(inputs.features, inputs.weight, inputs.bias, [0, 2])
    return out | dict(zip(names, activation, strict=True))


@pytest.mark.parametrize(
    ("where", "axis"),
    [(where, axis) for where in ("features", "gradient") for axis in range(4)]
    + [("weight", 0), ("weight", 1)],
)
@pytest.mark.parametrize(
    ("dtype", "classes"),
    [(torch.bfloat16, 3), (torch.float32, 3), (torch.float32, 5), (torch.bfloat16, 17)],
    ids=str,
)
def test_addresses_beyond_int32(where: str, axis: int, dtype: torch.dtype, classes: int) -> None:
    case = {"batch": 3, "channels": 3, "grid": (3, 3), "classes": classes, "dtype": dtype}
    inputs = make_inputs(case)
    expected = head_and_entropy(inputs.double(), REFERENCE)
    actual: dict[str, Tensor] = {}
    if where == "features":
        inputs.features = spread(inputs.features, axis)
    if where == "weight":
        inputs.weight = spread(inputs.weight, axis)
    # Counted: an address that wrapped around is refused before it is used.
    far = FarGradients(inputs.features, axis)
    with (
        far if where == "gradient" else nullcontext(),
        interpreter(tile_scale=1, check_overflow=True),
    ):
        counted = measure(
            lambda: actual.update(head_and_entropy(inputs, IN_INTERPRETER)), inputs.features
        )
    assert any(launch.is_kernel for launch in counted.launches)
    assert far.given == (2 if where == "gradient" else 0)
    for name, tensor in actual.items():
        assert_close(name, tensor, expected[name], dtype)


def activation(inputs: Inputs, classes: Tensor) -> tuple[Tensor, ...]:
    return class_activation(inputs.features, inputs.weight, inputs.bias, classes)


def focus_terms(inputs: Inputs, target: Tensor) -> tuple[Tensor, ...]:
    options = {"entropy_target": target, "level": "match"}
    return focus_head(inputs.features, inputs.weight, inputs.bias, inputs.index, **options)


CLASSES = torch.tensor([[0, 1, 2], [3, 2, 1], [2, 0, 3]])


@pytest.mark.parametrize(
    ("call", "values", "axis"),
    [(activation, CLASSES, 0), (activation, CLASSES, 1), (focus_terms, torch.rand(3), 0)],
    ids=["samples", "classes", "target"],
)
def test_small_tensors_beyond_int32(
    call: Callable[..., tuple[Tensor, ...]], values: Tensor, axis: int
) -> None:
    inputs = make_inputs({"batch": 3, "channels": 3, "grid": (3, 3), "classes": 4})
    arranged, found = (values, spread(values, axis)), list[tuple[Tensor, ...]]()
    measure(lambda: found.extend(call(inputs, tensor) for tensor in arranged), inputs.features)
    assert all(map(torch.equal, *found))


def test_an_offset_of_32_bits_is_refused() -> None:
    far = spread(torch.tensor([1.0, 2.0, 3.0]), 0)
    out = torch.zeros(1)
    measure(lambda: narrow_offset_kernel[(1,)](far, out, far.stride(0), 1), far)
    assert out == 2
    with pytest.raises(BadAccess, match="narrow_offset_kernel: 1 lanes read out of bounds"):
        measure(lambda: narrow_offset_kernel[(1,)](far, out, far.stride(0), 2), far)
