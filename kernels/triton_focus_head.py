# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""``focus_head`` in Triton: forward reads F once, backward writes dF; no more of that size.

F [B,C,P] are the features (P = HW cells), W [K,C] and bias [K] the classifier.

    m[k,p]  = sum_c W[k,c] F[c,p]          class maps
    logits  = mean_p m + bias              pooling and classifier
    z[p]    = sum_k a[k] m[k,p]            the CAM; a is one-hot of y, or (contrast) 1 and -1/(K-1)
    loss    = w_ce CE(logits) + w_focus focus(h(z)) + w_sal mean_p (minmax(z) - S)^2

With g = dloss/dz [P], d = dloss/dlogits [K], s [B] the upstream gradient of the loss and e [B,K]
that of the logits, the features' gradient has rank two, and the classifier's needs two sums of F:

    dF[c,p] = s V[c] g[p] + v[c]           V = sum_k a[k] W[k],  v = sum_k (s d[k] + e[k]) W[k] / P
    dW[k,c] = sum_b s a[k] u[c] + (s d[k] + e[k]) f[c]
              u = sum_p g[p] F[c,p],  f = mean_p F[c,p]

Forward leaves f and u [B,C], so that backward never reads F: s is exact per sample, costs no pass
and is rounded once, and F may be freed. The program that has a sample's maps makes all terms and
reads the sample again, from the cache, for u. Several programs may share a sample's channels; the
last to arrive goes on (:mod:`focus.kernels.triton_cam`).

A program holds the maps of up to 16 classes.
"""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch._subclasses import FakeTensor

from focus.kernels import triton_cam as cam
from focus.kernels.launch import launch
from focus.kernels.terms import FLAT_STEPS, WEIGHTS, Terms
from focus.kernels.types import (
    HeadArguments,
    HeadForward,
    channels_last,
    empty_features,
    flat_floor,
    inverse_log,
)

FLAT = FLAT_STEPS * torch.finfo(torch.float32).eps
FLOOR = flat_floor(torch.float32)
BLOCK_W = 32
"""Channels of dW in a program."""
TOTAL = tl.constexpr(1 + len(Terms._fields))
"""The row of the loss, after those of the entropy and the terms."""


@triton.jit
def _direction(k, y, K: tl.constexpr, CONTRAST: tl.constexpr):
    """a [BLOCK_K]: the class maps that make the CAM of class y."""
    others = tl.where(k < K, -1.0 / (K - 1), 0.0) if CONTRAST else 0.0
    return tl.where(k == y, 1.0, others)


@triton.jit
def _combine(a, x):
    """sum_k a[k] x[k,:]; a class with a = 0 has no part, not even NaN."""
    return tl.sum(tl.where(a[:, None] != 0, a[:, None] * x, 0), 0)


@triton.jit
def _first_largest(x, k, real, K: tl.constexpr):
    """torch's argmax of x [BLOCK_K], to which NaN is the largest; Triton's does not look at NaN."""
    is_nan = real & (x != x)
    top = tl.max(tl.where(real & (x == x), x, -float("inf")), 0)
    largest = tl.where(tl.max(is_nan.to(tl.int32), 0) > 0, is_nan, real & (x == top))
    return tl.min(tl.where(largest, k, K - 1), 0)


@triton.jit
def _cross_entropy(logits, share, hot, real):
    """CE of logits [BLOCK_K] against shares of the classes, and d.

    d of the target is minus the sum of the others: p - 1 has no digits where p is near 1.
    """
    s = logits - tl.max(tl.where(real, logits, -float("inf")), 0)
    s = tl.where(real, s, 0)
    e = tl.where(real, tl.exp(s), 0)
    total = tl.sum(e, 0)
    # A share of 0 is no term at all, also where its log-probability is -inf.
    term = -tl.sum(tl.where(share == 0, 0, share * (s - tl.log(total))), 0)
    d = tl.where(real, e / total * tl.sum(share, 0) - share, 0)
    return term, tl.where(hot, -tl.sum(tl.where(hot, 0, d), 0), d)


@triton.jit
def _map_entropy(human, INVERSE_LOG: tl.constexpr):
    """Entropy of a human map [BLOCK_P] divided by its sum, and whether there is one."""
    mass = tl.sum(human, 0)
    q = human / tl.where(mass > 0, mass, 1)
    q_log_q = tl.where(q > 0, q * tl.log(tl.where(q > 0, q, 1)), 0)
    return -tl.sum(q_log_q, 0) * INVERSE_LOG, mass > 0


@triton.jit
def _focus(h, excess, LEVEL: tl.constexpr):
    """The focus term of an entropy that exceeds its target by ``excess``, and its derivative."""
    term, sign = tl.full((), 0, tl.float32), tl.full((), 0, tl.float32)
    if LEVEL == "minimize":
        term, sign = h, sign + 1
    elif LEVEL != "none":
        sign = tl.where(excess > 0, 1.0, 0.0)
        if LEVEL == "match":
            sign = tl.where(excess < 0, -1.0, sign)
        term = tl.where(excess == excess, sign * excess, excess)  # NaN stays visible
    return term, sign


@triton.jit
def _minmax(z, inside, FLAT: tl.constexpr, FLOOR: tl.constexpr):
    """mu = (z - low) / (high - low), and what its gradient takes."""
    half = z / 2  # the range of the halves cannot overflow
    low = tl.min(tl.where(inside, half, float("inf")), 0)
    high = tl.max(tl.where(inside, half, -float("inf")), 0)
    flat = high - low <= tl.maximum(FLAT * tl.maximum(tl.abs(low), tl.abs(high)), FLOOR / 2)
    span = tl.where(flat, 1, high - low)
    mu = tl.where(inside, tl.where(flat, tl.where(half == half, 0, half), (half - low) / span), 0)
    return mu, half, low, high, span, flat


@triton.jit
def _through_minmax(slope, mu, half, low, high, inside):
    """A gradient by mu as one by z, times high - low; ties share evenly, as torch's amin."""
    at_low = tl.where(inside & (half == low), 1.0, 0.0)
    at_high = tl.where(inside & (half == high), 1.0, 0.0)
    by_high = tl.sum(slope * mu, 0)
    by_low = tl.sum(slope, 0) - by_high
    slope -= at_low * (by_low / tl.sum(at_low, 0)) + at_high * (by_high / tl.sum(at_high, 0))
    return slope


@triton.jit
def _saliency(z, human, inside, P: tl.constexpr, FLAT: tl.constexpr, FLOOR: tl.constexpr):
    """mean_p (mu - S)^2, and its gradient by z; a flat z has none."""
    mu, half, low, high, span, flat = _minmax(z, inside, FLAT, FLOOR)
    error = tl.where(inside, mu - human, 0)
    slope = _through_minmax(error * (2 / P), mu, half, low, high, inside)
    return tl.sum(error * error, 0) / P, tl.where(flat, 0, slope / (2 * span))


@triton.jit
def _sum_entropy(z, inside, INVERSE_LOG: tl.constexpr, FLAT: tl.constexpr, FLOOR: tl.constexpr):
    """h of q = mu / sum mu = softmax(log mu), and dh/dz."""
    mu, half, low, high, span, flat = _minmax(z, inside, FLAT, FLOOR)
    kept = tl.where(mu < FLOOR, FLOOR, mu)  # NaN stays
    h, slope = cam.entropy_and_slope(tl.log(kept), inside, 1.0, INVERSE_LOG)
    slope = tl.where(mu < FLOOR, 0, slope / kept)
    slope = _through_minmax(slope, mu, half, low, high, inside)
    return h, tl.where(flat, 0, slope / (2 * span))


def columns(cells: int, classes: int) -> int:
    """Return the columns of g [P], d [K] and y, up to a multiple of 64 bytes, where u begins."""
    return (cells + classes + 16) // 16 * 16


_COLUMNS = triton.constexpr_function(columns)


@triton.jit
def _saved(saved_ptr, b, stride_saved, channels, P: tl.constexpr, K: tl.constexpr):
    """Where of sample b there are g [P], d [K], y, u [C] and f [C]."""
    g_ptr = saved_ptr + b * stride_saved
    u_ptr = g_ptr + _COLUMNS(P, K)
    return g_ptr, g_ptr + P, g_ptr + P + K, u_ptr, u_ptr + channels


@triton.jit
def _sums_over_cells(
    x_ptr, g, u_ptr, f_ptr, channels, P: tl.constexpr, LAST: tl.constexpr, PRODUCTS: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Store u [C] of a sample's F and g; where tensor cores sum, f [C] too: a row of their product.

    The product has 16 rows. A thread holds rows i and i + 8 of the result, its neighbour i + 1 and
    i + 9. Numbered in that order, rows 0 to 3 add up to u, rows 4 to 7 to P f, the others to 0.
    """
    p = tl.arange(0, BLOCK_P)
    row, quarter = tl.arange(0, 16), tl.arange(0, 4)
    number = row // 8 + row % 8 * 2
    for c0 in tl.range(0, channels, BLOCK_C, num_stages=1 if PRODUCTS is None else cam.STAGES):
        c = c0 + tl.arange(0, BLOCK_C)
        # Cells first, as the product takes them: no tile that is transposed is copied
        # asynchronously.
        pointers, mask = cam.tile_pointers(x_ptr, c[None, :], p[:, None], channels, P, LAST)
        x = tl.load(pointers, mask, 0)
        if PRODUCTS is None:
            tl.store(u_ptr + c, tl.sum(x.to(tl.float32) * g[:, None], 0), c < channels)
        else:
            # Numbers 0 to 2 are the parts of g, which add up to it; number 4 is ones; others are 0.
            rows = tl.where((number == 4)[:, None], 1.0, cam.third(g[None, :], number[:, None]))
            product = tl.dot(rows.to(PRODUCTS), x.to(PRODUCTS), input_precision="ieee")
            # Row 8 i + 2 j + k has the number 4 j + i + 2 k: quarter j sums four numbers.
            quarters = tl.sum(tl.sum(tl.reshape(product, (2, 4, 2, BLOCK_C)), 0), 1)
            is_f = (quarter == 1)[:, None]
            pointers = tl.where(is_f, f_ptr, u_ptr) + c[None, :]
            kept = (quarter < 2)[:, None] & (c < channels)[None, :]
            tl.store(pointers, tl.where(is_f, quarters / P, quarters), kept)


@triton.jit(do_not_specialize=cam.NOT_SPECIALIZED)
def _head(
    loss_ptr, logits_ptr, cam_ptr, terms_ptr, saved_ptr, x_ptr, w_ptr, bias_ptr, target_ptr,
    saliency_ptr, mask_ptr, entropy_target, class_weight_ptr, classification_weight, focus_weight,
    saliency_weight, temperature, smoothing, partial_ptr, ticket_ptr, stride_saved, stride_xb,
    stride_bias, stride_h, splits, batch, channels, K: tl.constexpr, INVERSE_LOG: tl.constexpr,
    LEVEL: tl.constexpr, CAM_CLASS: tl.constexpr, REDUCTION: tl.constexpr, SOFT: tl.constexpr,
    NEED_WEIGHT: tl.constexpr, PRODUCTS: tl.constexpr, FLAT: tl.constexpr, FLOOR: tl.constexpr,
    ENTROPY: tl.constexpr, P: tl.constexpr,
    LAST: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Program (b, split): all of a sample, but for the channels of other splits."""
    split, b = tl.program_id(0) % splits, (tl.program_id(0) // splits).to(tl.int64)
    k, p = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_P)
    real, inside = k < K, p < P
    x_ptr += b * stride_xb
    g_ptr, d_ptr, y_ptr, u_ptr, f_ptr = _saved(saved_ptr, b, stride_saved, channels, P, K)
    # F for the first time: class maps. Threads sum f beside them, with the work of all splits;
    # tensor cores beside u.
    F_BY_THREADS: tl.constexpr = NEED_WEIGHT and PRODUCTS is None
    maps, last = cam.class_maps(
        x_ptr, w_ptr, pooled_ptr=f_ptr if F_BY_THREADS else None, partial_ptr=partial_ptr,
        ticket_ptr=ticket_ptr + 1, b=b, split=split, splits=splits, channels=channels, P=P,
        LAST=LAST, ROWS=K, PRODUCTS=PRODUCTS, BLOCK_C=BLOCK_C, BLOCK_P=BLOCK_P, BLOCK_K=BLOCK_K,
    )  # fmt: skip
    if last:
        # Loaded together, first of all: one latency.
        if SOFT:
            share = tl.load(target_ptr + b * K + k, real, 0).to(tl.float32)
            t = _first_largest(share, k, real, K).to(tl.int64)
        else:
            t = tl.load(target_ptr + b)
            share = tl.where(k == t, 1.0, 0.0)
        human = tl.zeros((BLOCK_P,), tl.float32)
        present = True
        if saliency_ptr is not None:
            cells = P
            if mask_ptr is not None:
                present = tl.load(mask_ptr + b).to(tl.int32) != 0
                cells = tl.where(present, P, 0)
            human = tl.load(saliency_ptr + b * P + p, p < cells, 0).to(tl.float32)

        # Logits, and the CAM.
        logits = tl.sum(maps, 1) / P
        if bias_ptr is not None:
            logits += tl.load(bias_ptr + b * stride_bias + k, real, 0).to(tl.float32)
        exists = (t >= 0) & (t < K)
        y = t
        if CAM_CLASS == "predicted":
            y = _first_largest(logits, k, real, K).to(tl.int64)
        z = _combine(_direction(k, y, K, CAM_CLASS == "contrast"), maps)
        z = tl.where(exists, z, float("nan"))  # a target that does not exist shows

        # The terms of the loss, and their gradients by z and by the logits.
        share = (1 - cam.number(smoothing, 0)) * share + cam.number(smoothing, 0) / K
        if class_weight_ptr is not None:
            share *= tl.load(class_weight_ptr + k, real, 0).to(tl.float32)
        ce, d = _cross_entropy(logits, tl.where(real, share, 0), k == t, real)
        ce, d = tl.where(exists, ce, float("nan")), tl.where(exists, d, float("nan"))
        h, slope = cam.entropy_and_slope(z, inside, cam.number(temperature, 0), INVERSE_LOG)
        of_focus = h
        if ENTROPY == "sum":
            of_focus, slope = _sum_entropy(z, inside, INVERSE_LOG, FLAT, FLOOR)
        if entropy_target is not None:
            excess = of_focus - cam.number(entropy_target, b * stride_h)
        else:
            map_target, has_mass = _map_entropy(human, INVERSE_LOG)
            excess = tl.where(has_mass, of_focus - map_target, 0)
        focus, sign = _focus(of_focus, excess, LEVEL)
        g = cam.number(focus_weight, 0) * sign * slope
        saliency = tl.full((), 0, tl.float32)
        if saliency_ptr is not None:
            saliency, slope = _saliency(z, human, inside, P, FLAT, FLOOR)
            if mask_ptr is not None:
                saliency, slope = tl.where(present, saliency, 0), tl.where(present, slope, 0)
            g += cam.number(saliency_weight, 0) * slope
        of_one = 1.0 / batch if REDUCTION == "mean" else 1.0
        g *= of_one
        total = cam.number(classification_weight, 0) * ce + cam.number(focus_weight, 0) * focus
        total += cam.number(saliency_weight, 0) * saliency
        tl.store(logits_ptr + b * K + k, logits, real)
        tl.store(cam_ptr + b * P + p, z, inside)
        rows = (h, ce, focus, saliency, total)  # the terms in the order of Terms
        tl.static_assert(len(rows) == TOTAL + 1, "a row for the entropy, each term, and the total")
        for row in tl.static_range(len(rows)):
            tl.store(terms_ptr + row * batch + b, rows[row])
        if REDUCTION == "none":
            tl.store(loss_ptr + b, total)
        tl.store(g_ptr + p, g, inside)
        tl.store(d_ptr + k, of_one * cam.number(classification_weight, 0) * d, real)
        rest = tl.arange(0, 16)  # y, and zeros up to u
        y_and_zeros = tl.where(rest == 0, y.to(tl.float32), 0)
        tl.store(y_ptr + rest, y_and_zeros, rest < _COLUMNS(P, K) - P - K)

        # F for the second time, from the cache.
        if NEED_WEIGHT:
            _sums_over_cells(
                x_ptr, g, u_ptr, f_ptr, channels=channels, P=P, LAST=LAST, PRODUCTS=PRODUCTS,
                BLOCK_C=BLOCK_C, BLOCK_P=BLOCK_P,
            )  # fmt: skip

        # The last sample adds up the losses, in their order.
        if REDUCTION != "none":  # noqa: SIM102  # a constant decides what is compiled
            if cam.arrives_last(ticket_ptr, batch):
                sums = tl.zeros((64,), tl.float32)
                for start in range(0, batch, 64):
                    i = start + tl.arange(0, 64)
                    sums += tl.load(
                        terms_ptr + TOTAL * batch + i, i < batch, 0, cache_modifier=".cg"
                    )
                tl.store(loss_ptr, tl.sum(sums, 0) / (batch if REDUCTION == "mean" else 1))


@triton.jit
def _grad_features(
    dx_ptr, w_ptr, saved_ptr, up_ptr, up_logits_ptr, stride_saved, stride_up, stride_eb, stride_ek,
    channels, pid, K: tl.constexpr, CONTRAST: tl.constexpr, P: tl.constexpr, LAST: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """dF = s V g + v of a sample and a block of channels; the letters are the module's."""
    blocks = tl.cdiv(channels, BLOCK_C)
    block, b = pid % blocks, (pid // blocks).to(tl.int64)
    g_ptr, d_ptr, y_ptr, _, _ = _saved(saved_ptr, b, stride_saved, channels, P, K)
    c, k, p = block * BLOCK_C + tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_P)
    w_pointers = w_ptr + k[:, None] * channels + c[None, :]
    w = tl.load(w_pointers, (k < K)[:, None] & (c < channels)[None, :], 0).to(tl.float32)
    of_logits = tl.zeros((BLOCK_K,), tl.float32)  # s d + e
    dx = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    if up_ptr is not None:
        s = tl.load(up_ptr + b * stride_up).to(tl.float32)
        of_logits += s * tl.load(d_ptr + k, k < K, 0)
        s_times_a = s * _direction(k, tl.load(y_ptr), K, CONTRAST)
        g = tl.load(g_ptr + p, p < P, 0)
        dx += _combine(s_times_a, w)[:, None] * g[None, :]
    if up_logits_ptr is not None:
        of_logits += tl.load(up_logits_ptr + b * stride_eb + k * stride_ek, k < K, 0)
    dx += tl.sum(of_logits[:, None] * w, 0)[:, None] / P
    dx_ptr += b * channels * P
    pointers, mask = cam.tile_pointers(dx_ptr, c[:, None], p[None, :], channels, P, LAST)
    tl.store(pointers, dx.to(dx_ptr.dtype.element_ty), mask)


@triton.jit(do_not_specialize=cam.NOT_SPECIALIZED)
def _head_backward(
    dx_ptr, dw_ptr, db_ptr, w_ptr, saved_ptr, up_ptr, up_logits_ptr, stride_saved, stride_up,
    stride_eb, stride_ek, batch, channels, weight_programs, K: tl.constexpr,
    CONTRAST: tl.constexpr, BIAS_OF_SAMPLE: tl.constexpr, BLOCK_B: tl.constexpr,
    BLOCK_W: tl.constexpr, P: tl.constexpr, LAST: tl.constexpr, BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The first programs make dW and db, which takes them longest; the others dF."""
    pid, k = tl.program_id(0), tl.arange(0, BLOCK_K)
    if pid < weight_programs:
        # dW of a block of channels over the whole batch; with the first block, db.
        c = pid * BLOCK_W + tl.arange(0, BLOCK_W)
        sums = tl.zeros((BLOCK_K, BLOCK_W), tl.float32)
        sums_of_e = tl.zeros((BLOCK_K,), tl.float32)
        for start in range(0, batch, BLOCK_B):
            b = (start + tl.arange(0, BLOCK_B)).to(tl.int64)
            row = b < batch
            _, d_ptr, y_ptr, u_ptr, f_ptr = _saved(saved_ptr, b, stride_saved, channels, P, K)
            s = tl.zeros((BLOCK_B,), tl.float32)
            if up_ptr is not None:
                s += tl.load(up_ptr + b * stride_up, row, 0).to(tl.float32)
            y = tl.load(y_ptr, row, -1)
            u = tl.zeros((BLOCK_B, BLOCK_W), tl.float32)
            f = tl.zeros((BLOCK_B, BLOCK_W), tl.float32)
            if dw_ptr is not None:
                mask = row[:, None] & (c < channels)[None, :]
                u = tl.load(u_ptr[:, None] + c[None, :], mask, 0)
                f = tl.load(f_ptr[:, None] + c[None, :], mask, 0)
            for i in range(K):
                e = tl.zeros((BLOCK_B,), tl.float32)
                if up_ptr is not None:
                    e += s * tl.load(d_ptr + i, row, 0)
                if up_logits_ptr is not None:
                    e += tl.load(up_logits_ptr + b * stride_eb + i * stride_ek, row, 0)
                a = tl.where(y == i, s, -s / (K - 1) if CONTRAST else 0.0)[:, None]
                of_class = tl.sum(tl.where(a != 0, a * u, 0) + e[:, None] * f, 0)
                sums += tl.where((k == i)[:, None], of_class[None, :], 0)
                sums_of_e += tl.where(k == i, tl.sum(e, 0), 0)
                if db_ptr is not None and BIAS_OF_SAMPLE and pid == 0:
                    tl.store(db_ptr + b * K + i, e.to(db_ptr.dtype.element_ty), row)
        if dw_ptr is not None:
            mask = (k < K)[:, None] & (c < channels)[None, :]
            pointers = dw_ptr + k[:, None] * channels + c[None, :]
            tl.store(pointers, sums.to(dw_ptr.dtype.element_ty), mask)
        if db_ptr is not None and not BIAS_OF_SAMPLE and pid == 0:
            tl.store(db_ptr + k, sums_of_e.to(db_ptr.dtype.element_ty), k < K)
    elif dx_ptr is not None:
        _grad_features(
            dx_ptr, w_ptr, saved_ptr, up_ptr, up_logits_ptr, stride_saved=stride_saved,
            stride_up=stride_up, stride_eb=stride_eb, stride_ek=stride_ek, channels=channels,
            pid=pid - weight_programs, K=K, CONTRAST=CONTRAST, P=P, LAST=LAST, BLOCK_C=BLOCK_C,
            BLOCK_P=BLOCK_P, BLOCK_K=BLOCK_K,
        )  # fmt: skip


def focus_head_forward(
    arguments: HeadArguments, need_weight: bool, in_graph: bool = False
) -> HeadForward:
    """Return the loss, its terms, and what the backward needs, by one launch.

    need_weight: The classifier has a gradient.
    """
    dense = cam.dense
    features, weight, reduction = arguments.features, arguments.weight, arguments.reduction
    (batch, channels, height, width), classes = features.shape, len(weight)
    cells = height * width
    new = functools.partial(torch.empty, dtype=torch.float32, device=features.device)
    out = HeadForward(
        loss=new(batch if reduction == "none" else ()),
        logits=new((batch, classes)),
        cam=new((batch, height, width)),  # the kernel stores in the type that this has
        terms=new((TOTAL.value + 1, batch)),
        saved=new((batch, columns(cells, classes) + 2 * channels * need_weight)),
    )
    if isinstance(features, FakeTensor) or not batch:
        return out if reduction == "none" else out._replace(loss=out.loss.zero_())
    features = cam.dense_samples(features)
    settings, blocks = cam.constants(
        channels, cells, classes, channels_last(features), K=classes,
        INVERSE_LOG=inverse_log(cells), LEVEL=arguments.focus_level, CAM_CLASS=arguments.cam_class,
        REDUCTION=reduction, SOFT=arguments.target.dim() == 2, NEED_WEIGHT=need_weight,
        PRODUCTS=cam.products(features, _head), FLAT=FLAT, FLOOR=FLOOR,
        ENTROPY=arguments.entropy,
    )  # fmt: skip
    shares = cam.splits_of(features, blocks)
    aim, stride_h = arguments.entropy_target, 0
    if isinstance(aim, Tensor) and aim.dim():
        aim, stride_h = aim.contiguous(), 1
    launch(
        _head, batch * shares, settings, features.device,
        loss_ptr=out.loss,
        logits_ptr=out.logits,
        cam_ptr=out.cam,
        terms_ptr=out.terms,
        saved_ptr=out.saved,
        x_ptr=features,
        w_ptr=dense(weight),
        bias_ptr=dense(arguments.bias),
        target_ptr=dense(arguments.target),
        saliency_ptr=dense(arguments.saliency),
        mask_ptr=dense(arguments.saliency_mask),
        entropy_target=aim,
        class_weight_ptr=dense(arguments.class_weight),
        **dict(zip(WEIGHTS, arguments.weights, strict=True)),
        temperature=arguments.temperature,
        smoothing=arguments.label_smoothing,
        partial_ptr=new((batch, shares, classes, cells)) if shares > 1 else None,
        ticket_ptr=cam.tickets(features, 1 + batch, in_graph),
        stride_saved=out.saved.stride(0),
        stride_xb=features.stride(0),
        stride_bias=cam.bias_stride(arguments.bias),
        stride_h=stride_h,
        splits=shares,
        batch=batch,
        channels=channels,
    )  # fmt: skip
    return out


def focus_head_backward(
    saved: Tensor, weight: Tensor, upstream: Tensor | None, upstream_logits: Tensor | None,
    contrast: bool, bias_of_sample: bool, shape: list[int], dtype: torch.dtype, last: bool,
    need_features: bool, need_weight: bool, need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return gradients of features, weight and bias, by one launch; what nobody needs is empty.

    upstream: scalar or ``[B]``, of the loss; upstream_logits ``[B,K]``; bias_of_sample: the bias is
    ``[B,K]``; shape, dtype, last: of the features.
    """
    (batch, channels, height, width), count, device = shape, len(weight), weight.device
    cells = height * width
    grad_features = empty_features(shape if need_features else [0] * 4, dtype, last, device)
    grad_weight = weight.new_empty(weight.shape if need_weight else 0)
    of_bias = (batch, count) if bias_of_sample else count
    grad_bias = saved.new_empty(of_bias if need_bias else 0)
    if isinstance(weight, FakeTensor) or not batch:
        return grad_features, grad_weight.zero_(), grad_bias.zero_()
    settings, blocks = cam.constants(
        channels, cells, count, last, K=count, CONTRAST=contrast, BIAS_OF_SAMPLE=bias_of_sample,
        BLOCK_B=cam.BLOCK_B, BLOCK_W=BLOCK_W,
    )  # fmt: skip
    weight_programs = -(-channels // BLOCK_W) if need_weight else int(need_bias)
    stride_eb, stride_ek = (0, 0) if upstream_logits is None else upstream_logits.stride()
    programs = weight_programs + batch * blocks * need_features
    launch(
        _head_backward, programs, settings, device,
        dx_ptr=grad_features if need_features else None,
        dw_ptr=grad_weight if need_weight else None,
        db_ptr=grad_bias if need_bias else None,
        w_ptr=cam.dense(weight),
        saved_ptr=saved,
        up_ptr=upstream,
        up_logits_ptr=upstream_logits,
        stride_saved=saved.stride(0),
        stride_up=upstream.stride(0) if upstream is not None and upstream.dim() else 0,
        stride_eb=stride_eb,
        stride_ek=stride_ek,
        batch=batch,
        channels=channels,
        weight_programs=weight_programs,
    )  # fmt: skip
    return grad_features, grad_weight, grad_bias
