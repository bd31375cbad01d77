"""Makes this checkout's plugin visible to FiftyOne, without installing it and hiding no other."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = "@cam51/heatmaps"


def link_plugin():
    """Makes this process, and the App that it starts, load the plugin from this checkout.

    FiftyOne reads one plugins folder. Unless it already leads here, this makes a temporary one that
    links to this checkout and to every plugin that the person has, and names it in
    ``FIFTYONE_PLUGINS_DIR``, which the App's own process inherits.

    Returns:
        the plugins folder in use
    """
    import fiftyone as fo
    import fiftyone.plugins as fop

    theirs = fop.list_plugins(enabled="all", builtin=False)
    if any(Path(p.directory).resolve() == ROOT for p in theirs if p.name == NAME):
        return fo.config.plugins_dir

    folder = tempfile.mkdtemp(prefix="cam51-plugins-")
    # Only when Python ends: tracebacks read the plugin's source through the link. Follows no link:
    # what they lead to stays.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _link(ROOT, folder, "cam51-heatmaps")
    # another copy of this plugin is left out: of two with one name, FiftyOne takes either
    for number, plugin in enumerate(p for p in theirs if p.name != NAME):
        _link(plugin.directory, folder, f"{number:03d}")

    fo.config.plugins_dir = os.environ["FIFTYONE_PLUGINS_DIR"] = folder
    # the code that the App's forms show begins with this call then
    os.environ["CAM51_CHECKOUT"] = str(ROOT)
    return folder


def _link(target, folder, name):
    (Path(folder) / name).symlink_to(target, target_is_directory=True)
