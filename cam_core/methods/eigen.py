"""Methods that read structure from the activations by a principal component or by their statistics.

Eigen-CAM and FEM have no class: they show what dominates the layer, the same for every target.
"""

from __future__ import annotations

import functools

from .channels import channel_sum, principal_map
from .registry import cam_method

_eigen = functools.partial(cam_method, family="eigen", register=True)


@_eigen(
    paper="Muhammad & Yeasin, Eigen-CAM, IJCNN 2020",
    class_discriminative=False,
    cost="1F",
)
def eigencam(activations, *, component=1, center=False):
    """The activations' n-th principal component; it has no class and is the same for every target.

    ``M = A v_n`` with v_n the n-th right singular vector of the (hw x C) matrix of activations, not
    centred, as in the paper. The sign is the one that agrees with where the activations are strong.
    The n-th component is no class.

    Options: ``component`` 1 for the first; ``center`` subtracts each channel's mean first (PCA).
    """
    return principal_map(activations, component, center, activations.abs().sum(1))


@_eigen(paper="EigenGradCAM of pytorch-grad-cam (Gildenblat 2021)")
def eigengradcam(activations, gradients, *, component=1, center=True):
    """The first principal component of gradient times activation.

    ``M = PCA_1(g * A)``, centred as by its authors. The sign is that of the sum over channels of
    g * A (HiResCAM), so that positive means evidence for the target.

    Options: ``component`` 1 for the first; ``center`` whether to subtract each channel's mean.
    """
    product = gradients * activations
    return principal_map(product, component, center, product.sum(1))


@_eigen(
    paper="Fuad et al., Features Understanding in 3D CNNs (FEM), IPTA 2020",
    class_discriminative=False,
    cost="1F",
)
def fem(activations, *, k=2.0):
    """Channels weighted by how much of them stands out; it has no class.

    ``w_k`` is the share of positions with ``A_k > mean + k std`` (population), ``M = sum_k w_k A_k``.

    Options: ``k`` how many standard deviations count as standing out.
    """
    mean = activations.mean((2, 3), keepdim=True)
    deviation = activations.std((2, 3), keepdim=True, unbiased=False)
    weights = (activations > mean + k * deviation).float().mean((2, 3))
    return channel_sum(weights, activations)
