"""Gradients of features and classifier from the small gradients of the maps: the backward.

With g[b,p] the gradient of sample b's CAM and d[b,k] that of its logits, both for an upstream
gradient of 1, s[b] the upstream gradient, and a[b,k] the combination of class maps that the CAM is,

    h[b,k,p]  = s[b] (a[b,k] g[b,p] + d[b,k] / HW)
    dF[b,c,p] = sum_k W[k,c] h[b,k,p]
    dW[k,c]   = sum_b sum_p h[b,k,p] F[b,c,p],      db[k] = sum_b s[b] d[b,k]

in three forms, by the number of classes.
"""

from torch import Tensor

from focus.kernels.triton_gradient_few import few_classes
from focus.kernels.triton_gradient_many import many_classes
from focus.kernels.triton_gradient_several import MAX_CLASSES, several_classes
from focus.kernels.triton_maps import MAX_CLASSES_IN_PLACE
from focus.kernels.types import MapGradients


def gradients(
    features: Tensor, weight: Tensor, maps: MapGradients, needs: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """dF, dW and db, each where ``needs`` asks for it; db in the accumulation type.

    Args:
        features: ``[B,C,H,W]``; weight ``[K,C]``.
        maps: the gradients of the class maps.
    """
    if len(weight) <= MAX_CLASSES_IN_PLACE.value:
        return few_classes(features, weight, maps, needs)
    if len(weight) <= MAX_CLASSES:
        return several_classes(features, weight, maps, needs)
    return many_classes(features, weight, maps, needs)
