"""CAM methods: one file per family, one decorated function per method."""

from . import gradient, eigen, perturbation, baseline  # noqa: F401, I001 - importing registers, in the listed order
from .registry import INGREDIENTS, Method, MethodInfo, cam_method, list_methods, resolve_methods

__all__ = ["INGREDIENTS", "Method", "MethodInfo", "cam_method", "list_methods", "resolve_methods"]
