"""CAM methods: one file per family, one decorated function per method."""

# Importing a family registers its methods; they are listed in this order.
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
)
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
