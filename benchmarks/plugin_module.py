"""Modules of the plugin as FiftyOne loads them: ``operators`` alone has no ``cam_core`` beside it."""

from __future__ import annotations

import functools
import importlib
import pathlib
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]


def plugin(name: str) -> Any:
    """A module of the plugin, such as ``"operators.data.heatmap_writer"``."""
    _register()
    return importlib.import_module(f"fiftyone.plugins.orgs.cam51.heatmaps.{name}")


@functools.cache
def _register() -> None:
    from fiftyone.plugins import PluginDefinition
    from fiftyone.plugins.context import PluginContext

    PluginContext(PluginDefinition.from_disk(str(ROOT / "fiftyone.yml"))).register_all()
