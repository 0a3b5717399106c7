"""Small Triton kernels whose PTX is interpreted: the driver, and what Triton's code relies on."""

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="triton is not installed")

import triton
import triton.language as tl

from bench.ptx.driver import TARGETS, WHOLE, Gpu
from bench.ptx.errors import Fault
from bench.ptx.machine import ORDERS

OUTPUTS = {
    "add_kernel": {"out_ptr": WHOLE},
    "sums_kernel": {"out_ptr": WHOLE},
    "product_kernel": {"out_ptr": WHOLE},
}


@triton.jit
def add_kernel(out_ptr, x_ptr, y_ptr, scale, size, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, i < size, 0).to(tl.float32)
    tl.store(out_ptr + i, x + scale * tl.load(y_ptr + i, i < size, 0), i < size)


@triton.jit
def sums_kernel(out_ptr, x_ptr, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, columns, BLOCK):
        i = start + tl.arange(0, BLOCK)
        total += tl.exp(tl.load(x_ptr + row * columns + i, i < columns, -float("inf")))
    tl.store(out_ptr + row, tl.log(tl.sum(total, 0)))


@triton.jit
def product_kernel(out_ptr, x_ptr, y_ptr, inner, N: tl.constexpr, BLOCK: tl.constexpr):
    i, j, k = tl.arange(0, N), tl.arange(0, N), tl.arange(0, BLOCK)
    total = tl.zeros((N, N), tl.float32)
    for start in tl.range(0, inner, BLOCK, num_stages=3):
        x = tl.load(x_ptr + i[:, None] * inner + start + k[None, :])
        y = tl.load(y_ptr + (start + k[:, None]) * N + j[None, :])
        total = tl.dot(x, y, total)
    tl.store(out_ptr + i[:, None] * N + j[None, :], total)


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_masked_elements_are_added(dtype: torch.dtype) -> None:
    x, y, out = drawn(300, dtype=dtype), drawn(300), torch.empty(300)
    gpu = Gpu("sm_90", "warps", outputs=OUTPUTS)
    with gpu.active():
        add_kernel[(3,)](out, x, y, 0.5, 300, BLOCK=128, enable_fp_fusion=False)
    assert torch.equal(out, x.float() + 0.5 * y)
    (machine,) = gpu.launches
    assert not machine.faults
    assert machine.moved["load", "x_ptr"] == x.nbytes
    assert machine.moved["store", "out_ptr"] == out.nbytes


def test_an_output_that_is_not_written_and_an_access_outside_are_seen() -> None:
    x, out = drawn(300), torch.empty(300)
    gpu = Gpu("sm_90", outputs=OUTPUTS)
    with gpu.active():
        add_kernel[(3,)](out, x, x, 0.5, 299, BLOCK=128, enable_fp_fusion=False)
        assert "not all of out_ptr is written" in str(gpu.launches[0].faults)
        with pytest.raises(Fault, match="outside of x_ptr"):
            add_kernel[(3,)](out, x, x, 0.5, 301, BLOCK=128, enable_fp_fusion=False)


@pytest.mark.parametrize("order", ORDERS)
def test_rows_are_reduced_alike_in_every_order(order: str) -> None:
    x, out = drawn(5, 700), torch.empty(5)
    gpu = Gpu("sm_90", order, outputs=OUTPUTS)
    with gpu.active():
        sums_kernel[(5,)](out, x, 700, BLOCK=256, enable_fp_fusion=False)
    assert not gpu.launches[0].faults
    torch.testing.assert_close(out, x.double().logsumexp(1).float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("target", TARGETS)
def test_tiles_are_copied_asynchronously_and_multiplied(target: str) -> None:
    x, y = drawn(32, 128, dtype=torch.bfloat16), drawn(128, 32, dtype=torch.bfloat16)
    out = torch.empty(32, 32)
    gpu = Gpu(target, "warps", outputs=OUTPUTS)
    with gpu.active():
        product_kernel[(1,)](out, x, y, 128, N=32, BLOCK=32, enable_fp_fusion=False)
    (machine,) = gpu.launches
    assert not machine.faults
    assert any(opcode.startswith("cp.async") for opcode in machine.instructions())
    exact = x.double() @ y.double()
    assert (out - exact).abs().max() <= 2e-6 * exact.abs().max()
