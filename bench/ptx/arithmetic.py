"""Compute what PTX's arithmetic instructions compute, on arrays with an element per thread."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_COMPARED = {
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
    "lo": "<", "ls": "<=", "hi": ">", "hs": ">=",
}  # fmt: skip
_OPPOSITE = {"equ": "!=", "neu": "==", "ltu": ">=", "leu": ">", "gtu": "<=", "geu": "<"}


def comparison(relation: str, a: str, b: str, floating: bool) -> str:
    """Return Python that compares two expressions as ``setp`` does: u is true of NaN."""
    if relation in ("num", "nan"):
        both_numbers = f"(({a} == {a}) & ({b} == {b}))"
        return both_numbers if relation == "num" else f"~{both_numbers}"
    if relation in _OPPOSITE:
        return f"~({a} {_OPPOSITE[relation]} {b})"
    compared = f"({a} {_COMPARED[relation]} {b})"
    if floating and relation == "ne":
        return f"({compared} & ({a} == {a}) & ({b} == {b}))"
    return compared


def fma(a: Array, b: Array, c: Array) -> Array:
    """Return a b + c in float32, rounded once.

    The product is exact in float64. The sum is rounded to odd there, so that rounding it again, to
    float32, is as good as rounding the exact sum.
    """
    product, addend = a.astype("f8") * b, np.asarray(c, "f8")
    total = product + addend
    back = total - product
    error = (product - (total - back)) + (addend - back)
    inexact = (error != 0) & np.isfinite(total)
    towards_zero = total.view("i8") - (inexact & ((error < 0) != (total < 0)))
    rounded: Array = (towards_zero | inexact).view("f8").astype("f4")
    return rounded


def fmax(a: Array, b: Array) -> Array:
    """Return the larger number; NaN only of two NaN. +0 is above -0."""
    return np.where((a == 0) & (b == 0), a + b, np.fmax(a, b))


def fmin(a: Array, b: Array) -> Array:
    """Return the smaller number; NaN only of two NaN. -0 is below +0."""
    return np.where((a == 0) & (b == 0), -(-a - b), np.fmin(a, b))


def flush(x: Array) -> Array:
    """Return x with 0 of its sign in place of a subnormal number (``.ftz``)."""
    smallest = np.float32(np.finfo("f4").tiny)
    return np.where(np.abs(x) < smallest, np.copysign(np.float32(0), x), x)


def div_approx(a: Array, b: Array) -> Array:
    """Return a / b, which ``div.approx`` takes for 0 where b is above 2^126."""
    quotient = a / b
    huge = (np.abs(b) > np.float32(2.0**126)) & np.isfinite(b)
    of_huge = np.where(np.isinf(a), np.float32(np.nan), np.copysign(np.float32(0), quotient))
    return np.where(huge, of_huge, quotient).astype("f4")


def exp2(x: Array) -> Array:
    """Return 2^x, rounded to the nearest float32."""
    power: Array = np.exp2(np.asarray(x, "f8")).astype("f4")
    return power


def from_bf16(bits: Array) -> Array:
    """Return the float32 that bits of bfloat16 are."""
    wide: Array = np.asarray(bits).astype("u4") << np.uint32(16)
    return wide.view("f4")


def to_bf16(x: Array) -> Array:
    """Return the bits of the nearest bfloat16, of two the even one."""
    bits = x.view("u4")
    half = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    rounded = ((bits + half) >> np.uint32(16)).astype("u2")
    return np.where(np.isnan(x), np.uint16(0x7FFF), rounded)


def round_to_zero(x: Array) -> Array:
    """Return float64 cut off to float32, as float64."""
    nearest = x.astype("f4")
    beyond = np.abs(nearest.astype("f8")) > np.abs(x)
    return np.where(beyond, np.nextafter(nearest, np.float32(0)), nearest).astype("f8")


def unpack(x: Array, dtype: str, count: int) -> tuple[Array, ...]:
    """Return the parts of wide registers, the lowest bits first."""
    parts = np.ascontiguousarray(x).view(dtype).reshape(-1, count)
    return tuple(np.ascontiguousarray(parts[:, i]) for i in range(count))


def pack(threads: int, dtype: str, wide: str, *parts: Array) -> Array:
    """Return wide registers of their parts, the lowest bits first."""
    packed = np.empty((threads, len(parts)), dtype)
    for i, part in enumerate(parts):
        packed[:, i] = part
    return packed.reshape(-1).view(wide)


def widen(parts: tuple[Array, ...], dtype: str) -> tuple[Array, ...]:
    """Return bytes as registers of 16 bits, by their sign if they have one."""
    return tuple(part.view(dtype).astype(f"{dtype[0]}2").view("u2") for part in parts)


def divide(a: Array, b: Array) -> Array:
    """Return the quotient of integers, cut off towards 0."""
    floor = a // b
    above = ((a < 0) != (b < 0)) & (a != floor * b)
    quotient: Array = (floor + above).astype(floor.dtype)
    return quotient


def remainder(a: Array, b: Array) -> Array:
    """Return what :func:`divide` leaves, of the sign of a."""
    rest: Array = a - divide(a, b) * b
    return rest


def shift(name: str, x: Array, by: Array, dtype: str) -> Array:
    """Return ``shl`` or ``shr``; all bits are gone, or the sign is left, from the width on."""
    x, by, bits = np.asarray(x), np.asarray(by), np.dtype(dtype).itemsize * 8
    less = np.minimum(by, bits - 1).astype(dtype)
    if name == "shl":
        return np.where(by >= bits, np.array(0, dtype), x << less)
    shifted: Array = x >> less
    return shifted if dtype[0] == "i" else np.where(by >= bits, np.array(0, dtype), shifted)


def bit_field(x: Array, position: Array, length: Array, dtype: str) -> Array:
    """Return ``bfe``: a field of bits, by its sign if it has one; within the register."""
    bits = np.dtype(dtype).itemsize * 8
    first, count = (np.asarray(number).astype("i8") & 255 for number in (position, length))
    if ((count == 0) | (first + count > bits)).any():
        raise NotImplementedError("a bit field of no bits, or beyond the register")
    field: Array = (x << (bits - first - count).astype(dtype)) >> (bits - count).astype(dtype)
    return field


def permute(a: Array, b: Array, selector: Array) -> Array:
    """Return ``prmt``: four bytes of a and b, or copies of their signs."""
    both = (np.asarray(b, "u8") << np.uint64(32)) | np.asarray(a, "u8")
    selector = np.asarray(selector, "u8")
    result = np.zeros(np.broadcast(both, selector).shape, "u4")
    for i in range(4):
        choice = (selector >> np.uint64(4 * i)) & np.uint64(15)
        byte = (both >> ((choice & np.uint64(7)) * np.uint64(8))) & np.uint64(255)
        sign = np.where(byte & np.uint64(128), np.uint64(255), np.uint64(0))
        byte = np.where(choice & np.uint64(8), sign, byte)
        result |= (byte << np.uint64(8 * i)).astype("u4")
    return result


FUNCTIONS = {
    function.__name__: function
    for function in (
        fma, fmax, fmin, flush, div_approx, exp2, from_bf16, to_bf16, unpack, pack, widen, divide,
        remainder, shift, bit_field, permute,
    )
}  # fmt: skip
"""What translated code may call, by name."""
