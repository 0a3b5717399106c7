"""How near a result must be to the float64 reference of the same (already rounded) inputs."""

import torch
from torch import Tensor

# Largest error of a result that is kept in the accumulation type, as a share of the result's
# maximum, by the features' type.
OF_MAXIMUM = {
    # Rounding of a few thousand terms in another order.
    torch.float64: 1e-13,
    # 40 roundings at 2^-23: sums over channels, exp and log of their results.
    torch.float32: 5e-6,
    # Products of 16-bit features are exact in fp32; their sum reaches further into cancellation.
    torch.bfloat16: 1e-5,
    torch.float16: 1e-5,
}
# On a GPU exp and log are approximations (2 ulp) and sums are contracted and split otherwise.
OF_MAXIMUM_GPU = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.bfloat16: 2e-5,
    torch.float16: 2e-5,
}
# A result in 16 bits is rounded once more, to the nearest, which may be the other neighbour of what
# the reference rounds to.
ULPS = 1


def ulp(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Distance between neighbours of ``dtype`` at each magnitude."""
    info = torch.finfo(dtype)
    power = torch.ldexp(torch.ones_like(values), torch.frexp(values).exponent - 1)
    return info.eps * power.clamp_min(info.smallest_normal)


def assert_close(
    name: str,
    actual: Tensor,
    expected: Tensor,
    features_dtype: torch.dtype,
    addends: tuple[Tensor, ...] | None = None,
) -> None:
    """``actual`` against the float64 ``expected``; NaN must sit in the same places.

    Args:
        features_dtype: chooses the row of the table.
        addends: for a gradient without a reduction, whose elements in 16 bits are each held to an
            ulp of the largest of its addends: what ``expected`` is the sum of.
    """
    assert actual.shape == expected.shape, name
    if not expected.numel():
        return
    rows = OF_MAXIMUM if actual.device.type == "cpu" else OF_MAXIMUM_GPU
    wide = actual.detach().cpu().double()
    assert torch.equal(wide.isnan(), expected.isnan()), f"{name}: NaN elsewhere"
    narrow = actual.dtype in (torch.bfloat16, torch.float16)
    top = expected.abs().nan_to_num().max()
    limit = torch.full_like(expected, max(rows[features_dtype], rows[actual.dtype])) * top
    if narrow:
        largest = torch.stack([expected, *(addends or ())]).abs().amax(0).nan_to_num()
        rounding = ULPS * ulp(largest, actual.dtype)
        # An ulp of what was rounded, which itself has the error of the accumulation type; and
        # what cancels to less than that error cannot be nearer than it.
        one_sum = torch.maximum(rounding + rows[torch.float32] * largest, rows[torch.float32] * top)
        limit = limit + rounding if addends is None else one_sum
    error = (wide - expected).abs().nan_to_num()
    worst = (error - limit).argmax()
    assert bool((error <= limit).all()), (
        f"{name}: {wide.flatten()[worst]:.9g} for {expected.flatten()[worst]:.9g}, "
        f"error {error.flatten()[worst]:.2g} above {limit.flatten()[worst]:.2g}"
    )
