"""CAM methods: one file per family, one decorated function per method."""

from . import (
    gradient,
    eigen,
    perturbation,
    masking,
    attention,
    structure,
    pixel,
    fixations,
    baseline,
)  # noqa: F401, I001 - importing registers, in the listed order
from .channels import channel_sum
from .registry import (
    INGREDIENTS,
    SMOOTHINGS,
    Components,
    Method,
    MethodInfo,
    cam_method,
    list_methods,
    resolve_methods,
)

__all__ = [
    "INGREDIENTS",
    "SMOOTHINGS",
    "Components",
    "Method",
    "MethodInfo",
    "cam_method",
    "channel_sum",
    "list_methods",
    "resolve_methods",
]
