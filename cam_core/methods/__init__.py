"""CAM methods: one file per family, one decorated function per method.

What people call, such as :func:`resolve_methods`, is imported from :mod:`cam_core.methods.catalogue` when it
is first asked for: the catalogue imports the families, which are in this package.
"""

import importlib
from typing import Any

_OF_THE_CATALOGUE = ("Components", "MethodInfo", "cam_method", "list_methods", "resolve_methods")


def __getattr__(name: str) -> Any:
    """Imports a public name of the catalogue (PEP 562)."""
    if name in _OF_THE_CATALOGUE:
        return getattr(importlib.import_module(".catalogue", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
