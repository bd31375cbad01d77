"""The panel notices what other tabs, other processes and runs in the background do to the dataset."""

import contextlib
import hashlib
import json

import fiftyone.operators.types as types

from ..runs import lease, record
from .background import is_busy, work_on

# Between two looks, while nothing and while something is being computed. Each asks the database for some
# entries of the records, and draws nothing where they are the same.
_SECONDS, _BUSY_SECONDS = 8, 2
_JOBS = ("bias", "compare")
_STEPS = 20
_WHOSE = ("status", "token", "dataset_id", "host", "pid", "space", "heartbeat")
_SHOWN = ("started", "ended", "stop", "error")


def stamp(dataset):
    """A text that changes when a run, a comparison or an analysis of the dataset begins, ends, or is renamed.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`

    Returns:
        a string of 16 characters; another one does not say what changed
    """
    rows = []
    for key, config in record.read_entries(dataset, _entries()):
        jobs = {part: _job(dataset, config.get(part)) for part in _JOBS}
        own = config.get("dataset_id") == str(dataset._doc.id)
        status = record.status_from(record.complete(config, own))
        rows.append(
            [key, status, *(config.get(name) for name in _SHOWN), jobs, _steps(status, config)]
        )
    text = json.dumps(sorted(rows, key=lambda row: row[0]), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def changes(ctx):
    """What the panel has to draw again.

    Args:
        ctx: the execution context of the panel, whose state has the text of the last look, ``seen``, and what
            was being computed then, ``work``

    Returns:
        ``"all"``, ``"work"`` or None, which is also returned where it cannot be told now
    """
    # whatever is wrong here, such as a dataset that was deleted, is no reason to put an error in the panel's place
    with contextlib.suppress(Exception):
        if stamp(ctx.dataset) != ctx.panel.get_state("seen"):
            return "all"
        if work_on(ctx.dataset) != (ctx.panel.get_state("work") or []):
            return "work"
    return None


def _entries():
    own = [*_WHOSE, *_SHOWN, "same_scale", "progress"]
    return [*own, *(f"{part}.{name}" for part in _JOBS for name in (*_WHOSE, *_SHOWN, "cam_keys"))]


def _steps(status, config):
    """How much of a computation is done, coarsely: what the panel says of the run is read again at each step."""
    progress = config.get("progress") or {}
    if status != "running" or not progress.get("total"):
        return None
    return int(_STEPS * progress.get("done", 0) / progress["total"])


def _job(dataset, stored):
    if not isinstance(stored, dict):
        return None
    return [lease.job_status_of(dataset, stored), *(stored.get(name) for name in _SHOWN)]


def draw(panel, handlers, work):
    """Lets the App ask every few seconds whether something changed, more often while something is computed."""
    seconds = _BUSY_SECONDS if is_busy(work) else _SECONDS
    view = types.TimerView(interval=1000 * seconds, on_interval=handlers.on_watch)
    panel.view("watch", view)
