# mypy: disable-error-code="no-untyped-def, untyped-decorator, assignment"
"""Tiles as tuples of planes: a block for each element of a vector of 16 bytes.

Triton chooses which thread has which values of a block. Of a block whose axis has the elements of a
vector it gives a thread every second or fourth of them, which are read from shared memory 2 bytes
at a time, by 32 threads from a quarter of the banks. Of planes a thread has the same place in each,
so all of its vectors: they are read, and stored, 16 bytes at a time.

V is a vector's elements, whatever its sign; 0 is a single plane.
"""

import triton
import triton.language as tl


@triton.constexpr_function
def planes(vector):
    """Of how many planes a tile is made."""
    return max(abs(vector), 1)


@triton.constexpr_function
def halvings(count):
    """How often a power of 2 is halved until it is 1."""
    return count.bit_length() - 1


@triton.constexpr_function
def doubled(shape):
    """A shape whose last axis is twice as long."""
    return [*shape[:-1], 2 * shape[-1]]


@triton.constexpr_function
def vectors_of(shape, count):
    """A shape whose last axis has vectors of so many elements in place of the elements."""
    return [*shape[:-1], shape[-1] // count]


@triton.constexpr_function
def paired(shape, pairs, count):
    """A shape whose last axis has vectors, each of so many pairs."""
    return [*vectors_of(shape, count), pairs, 2]


@triton.jit
def to_planes(values, V: tl.constexpr):
    """``[..., B]`` as planes ``[..., B / planes]``: of each vector an element."""
    parts = (values,)
    for i in tl.static_range(halvings(planes(V))):
        evens = ()
        odds = ()
        for j in tl.static_range(2**i):
            pairs = tl.reshape(parts[j], paired(values.shape, planes(V) // 2 ** (i + 1), planes(V)))
            even, odd = tl.split(pairs)
            evens += (even,)
            odds += (odd,)
        # Those of 2^i elements' distance: what is halved last is in order.
        parts = evens + odds
    out = ()
    for e in tl.static_range(planes(V)):
        out += (tl.reshape(parts[e], vectors_of(values.shape, planes(V))),)
    return out


@triton.jit
def from_planes(parts, V: tl.constexpr):
    """Planes ``[..., B]`` as the ``[..., B planes]`` whose elements they are."""
    for i in tl.static_range(halvings(planes(V))):
        pairs = ()
        for j in tl.static_range(planes(V) // 2 ** (i + 1)):
            first = parts[j]
            pair = tl.join(first, parts[j + planes(V) // 2 ** (i + 1)])
            pairs += (tl.reshape(pair, doubled(first.shape)),)
        parts = pairs
    return parts[0]


@triton.jit
def as_tile(loaded, ACC: tl.constexpr, V: tl.constexpr):
    """A block of features, as it was loaded, as a tile of ACC, with an axis of length 1.

    What columns meet is to be with the threads that loaded them; so is h, of which dF is made,
    which then is stored without a move. A new axis would leave Triton free to choose others.
    """
    parts = to_planes(loaded, V)
    tile = ()
    for e in tl.static_range(planes(V)):
        if V < 0:
            part = tl.reshape(parts[e], (1, parts[e].shape[0], parts[e].shape[1]))
        else:
            part = parts[e][None]
        tile += (part.to(ACC),)
    return tile


@triton.jit
def as_stored(tile, DTYPE: tl.constexpr, V: tl.constexpr):
    """A tile, summed over its leading axis, as a block of DTYPE to be stored."""
    parts = ()
    for e in tl.static_range(planes(V)):
        parts += (tl.sum(tile[e], 0).to(DTYPE),)
    return from_planes(parts, V)


@triton.jit
def sums(a, b):
    """Of two tiles, element by element."""
    tile = ()
    for e in tl.static_range(len(a)):
        tile += (a[e] + b[e],)
    return tile


@triton.jit
def products(a, b):
    """Of two tiles, element by element."""
    tile = ()
    for e in tl.static_range(len(a)):
        tile += (a[e] * b[e],)
    return tile
