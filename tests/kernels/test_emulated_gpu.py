"""What Triton's compiler makes of the kernels, run on emulated GPUs.

The interpreter runs the kernels' Python, and knows no threads. What runs here are the instructions
of PTX, of which a GPU's own assembler makes the rest: shuffles between threads, asynchronous copies
into shared memory, barriers, vectors of 16 bytes.
"""

import re
from collections import Counter
from contextlib import nullcontext

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

import triton
import triton.language as tl

from bench.emulated_gpu import EmulatedGPU, emulated_gpu
from bench.ptx import Fault
from focus.kernels import focus_head

from . import test_focus_head
from .as_reference import assert_cam_entropy, assert_class_activation, assert_focus_head
from .cases import (
    HEAD,
    SHAPES,
    Case,
    Form,
    elements,
    head_options,
    in_pytorch,
    make_inputs,
    name_of,
    pairwise,
    with_oldest_triton,
)

OPTIONS: Case = {"level": "match", "cam_class": "true", "maps": "masked maps"}
# Each kernel in each arrangement of a tile, vectors across the end of a channel, blocks cut short.
CORNERS: tuple[Case, ...] = (
    {"batch": 5, "channels": 72, "grid": (7, 7), "classes": 2, "dtype": torch.bfloat16},
    {"batch": 3, "channels": 80, "grid": (10, 10), "classes": 2, "dtype": torch.float32},
    {"batch": 3, "channels": 24, "grid": (5, 13), "classes": 4, "dtype": torch.float16},
    {"batch": 17, "channels": 48, "grid": (7, 7), "classes": 16, "dtype": torch.bfloat16},
    {"batch": 2, "channels": 20, "grid": (9, 15), "classes": 6, "dtype": torch.float32},
    {"batch": 3, "channels": 24, "grid": (5, 5), "classes": 17, "dtype": torch.float64},
    # Where products are fused into a sum over cells, threads disagree on it.
    {"batch": 2, "channels": 17, "grid": (5, 13), "classes": 17, "dtype": torch.bfloat16},
    # Vectors of two channels and of one, whose cells are read in their order.
    {"batch": 3, "channels": 24, "grid": (6, 6), "classes": 2, "dtype": torch.bfloat16},
    {"batch": 3, "channels": 24, "grid": (10, 10), "classes": 6, "dtype": torch.bfloat16},
    {"batch": 2, "channels": 20, "grid": (6, 6), "classes": 17, "dtype": torch.float32},
    # Fewer channels than a vector has.
    {"batch": 3, "channels": 3, "grid": (5, 5), "classes": 2, "dtype": torch.bfloat16},
)


WIDE = ("_maps_kernel", "_few_kernel")


def cheap(case: Case) -> bool:
    """A program takes some ten milliseconds."""
    rows = case.get("batch", 0) * case.get("classes", 1)
    small = elements(case) <= 2**16 and case.get("batch", 0) <= 20 and rows <= 400
    return small and in_pytorch(case)


def assert_head(case: Case, target: str) -> None:
    inputs = make_inputs(case)
    options = head_options(case, inputs) | {"reduction": "none"}
    assert_focus_head(Form("triton", emulated=target), inputs, options)


# The compiler takes up to ten seconds for a kernel whose rows are not aligned.
@pytest.mark.parametrize("layout", [pytest.param("nchw", marks=pytest.mark.slow), "channels_last"])
@pytest.mark.parametrize("corner", CORNERS, ids=name_of)
def test_head_as_reference(corner: Case, layout: str) -> None:
    assert_head(OPTIONS | corner | {"layout": layout}, "sm_90")


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("corner", CORNERS[1:3], ids=name_of)
@pytest.mark.parametrize("target", ["sm_80", "sm_100"])
def test_head_as_reference_on_other_gpus(target: str, corner: Case, layout: str) -> None:
    assert_head(OPTIONS | corner | {"layout": layout}, target)


@pytest.mark.slow
@pytest.mark.parametrize("case", pairwise(HEAD, cheap)[::5], ids=name_of)
def test_head_as_reference_in_many_forms(case: Case) -> None:
    assert_head(case, "sm_90")


@pytest.mark.slow
@pytest.mark.parametrize("case", pairwise(SHAPES, cheap)[::8], ids=name_of)
def test_other_operations_as_reference(case: Case) -> None:
    form = Form("triton", emulated="sm_90")
    assert_cam_entropy(form, case, temperature=0.7)
    assert_class_activation(form, case)


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 5, 17])
def test_small_tensors_of_any_strides_as_reference(classes: int) -> None:
    """To the bit also where a compiler would take strides of 1 and 2 for two kernels."""
    form = Form("triton", emulated="sm_90")
    arguments = form, test_focus_head.strided, classes
    test_focus_head.test_small_tensors_of_any_strides_as_reference(*arguments)


@pytest.mark.parametrize("layout", [pytest.param("nchw", marks=pytest.mark.slow), "channels_last"])
def test_memory_moves_the_features_twice_and_their_gradient_once(layout: str) -> None:
    """A step at the size in use, by what the threads of a warp ask for together."""
    case: Case = {"batch": 20, "channels": 1024, "grid": (7, 7), "classes": 2, "layout": layout}
    inputs = make_inputs(case | {"dtype": torch.bfloat16})
    options = head_options(OPTIONS | case, inputs)
    features = inputs.features
    size = features.numel() * features.itemsize
    leaves = [t.requires_grad_() for t in (features, inputs.weight, inputs.bias)]
    with emulated_gpu("sm_90") as gpu:
        out = focus_head(*leaves, inputs.index, **options)
        gradient, *_ = torch.autograd.grad(out.loss, leaves)
    moved = Counter[str]()
    names = {features.data_ptr(): "F", gradient.data_ptr(): "dF"}
    for launch in gpu.launches:
        for region in launch.memory.regions:
            name = names.get(region.start, "other")
            moved[f"{name} read"] += region.read
            moved[f"{name} written"] += region.written
    assert [launch.kernel for launch in gpu.launches] == [
        f"_{name}_kernel" for name in ("maps", "terms", "few", "sum_groups")
    ]
    # Triton 3.6 gives a warp vectors of several rows of NCHW at a time.
    oldest = with_oldest_triton()
    beside = 1.15 if oldest and layout == "nchw" else 1.06
    assert 2 * size <= moved["F read"] <= beside * 2 * size
    assert size <= moved["dF written"] <= beside * size
    assert moved["F written"] == moved["dF read"] == 0
    # No two threads want different words of one bank; but of triton 3.6, where sums of NCHW over
    # the channels go through shared memory, once a program.
    most = 1.2 if oldest and layout == "nchw" else 1.05
    of_features = [launch for launch in gpu.launches if launch.kernel in WIDE]
    conflicts = [launch.passes / launch.least_passes for launch in of_features]
    assert max(conflicts) <= most, conflicts


@pytest.mark.parametrize("missing", ["bar.sync", "cp.async.wait_group"])
def test_what_the_compiler_could_forget_is_found(missing: str) -> None:
    """The same kernels, of which an instruction is taken out."""
    case = OPTIONS | CORNERS[0] | {"layout": "channels_last"}
    inputs = make_inputs(case)
    options = head_options(case, inputs)
    taken = Counter[str]()

    def without(ptx: str) -> str:
        edited, count = re.subn(rf"\t{re.escape(missing)}\s[^;]*;", "", ptx)
        taken[missing] += count
        return edited

    with (
        emulated_gpu(EmulatedGPU("sm_90", without)),
        pytest.raises(Fault, match=r"barrier between|waited for"),
    ):
        focus_head(inputs.features, inputs.weight, inputs.bias, inputs.index, **options)
    assert taken[missing]


@triton.jit
def _copy_kernel(source_ptr, target_ptr, first, BLOCK: tl.constexpr):
    i = tl.max_contiguous(tl.multiple_of(first + tl.arange(0, BLOCK), BLOCK), BLOCK)
    tl.store(target_ptr + i, tl.load(source_ptr + i))


@pytest.mark.parametrize(
    ("first", "words"),
    [(512, ""), (6, "16 bytes to .* is not aligned"), (1792, "outside of every tensor")],
)
def test_a_broken_promise_of_alignment_is_found(first: int, words: str) -> None:
    """The interpreter takes no notice of it, and a GPU ends the program."""
    source, target = torch.arange(2000.0), torch.zeros(2000)
    with emulated_gpu("sm_90"), pytest.raises(Fault, match=words) if words else nullcontext():
        _copy_kernel[(1,)](source, target, first, BLOCK=512)
    assert target[512:1024].equal(source[512:1024]) == (not words)
