"""What the panel says of a comparison or a bias analysis that is running, or did not come to its end."""

import datetime

import fiftyone.operators.types as types

from ..runs import lease
from ..runs import record as run_record
from ..text import duration

_FOUND = {"compare": "The leaderboard", "bias": "The findings"}
_WHY = {
    "app": "Its tab was closed or reloaded, or the App ended. ",
    "background": "It was stopped, or the App's server ended. ",
}
_BEING = {"compare": "Being compared", "bias": "Being analysed"}


def work_of(run, part):
    """How the last comparison or bias analysis of a run stands, if it did not come to its end.

    Args:
        run: the :class:`~operators.runs.run.Run`
        part: ``"compare"`` or ``"bias"``

    Returns:
        a dict ``running, stopping, label, text``; None if there was none, or the last one finished
    """
    record = _last(run, part)
    status = lease.job_status_of(run.dataset, record)
    if status in (None, "finished"):
        return None
    running, asked = status == "running", bool(record.get("stop"))
    label, text = _running(record, part) if running else _ended(record, part, status, asked)
    return {"running": running, "stopping": running and asked, "label": label, "text": text}


def _last(run, part):
    """The newest record that a run is in: one of several runs is stored with the first of them."""
    found = [record for _, record in lease.jobs_on(run.dataset, run.key, part)]
    return max(found, key=lambda record: record.get("started") or "", default=None)


def _running(record, part):
    if record.get("stop"):
        return (
            f"{_BEING[part]}, asked to stop",
            "It ends within a few seconds; nothing of it is kept.",
        )
    samples = (record.get("settings") or {}).get("samples")
    of = f"{samples:,} samples, " if samples else ""
    return (
        f"{_BEING[part]}, started {_clock(record['started'])}",
        f"{of}by process {record['pid']} on {record['host']}. {_FOUND[part]} will be here when it is done.",
    )


def _ended(record, part, status, asked):
    name = lease.NAMES[part]
    how = {"failed": "failed"}.get(status, "was stopped" if asked else "was interrupted")
    ended = record.get("ended")
    label = f"The last {name} {how}{_after(record, ended or record.get('heartbeat'))}"
    if ended is None:
        return label, "Its process is gone. The next one deletes what it may have written."
    if record.get("error"):
        return label, f"{record['error']}. Nothing of it was kept."
    origin = (record.get("settings") or {}).get("origin")
    ended_from_outside = status == "interrupted" and not asked
    why = _WHY.get(origin, "") if ended_from_outside else ""
    return label, f"{why}Nothing of it was kept."


def _after(record, end):
    """``" after 40 s"``; nothing where a moment is not known."""
    try:
        begun, ended = _moment(record["started"]), _moment(end)
    except (KeyError, TypeError, ValueError):
        return ""
    return f" after {duration(max(0.0, (ended - begun).total_seconds()))}"


def _moment(text):
    moment = datetime.datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.timezone.utc)


def _clock(started):
    """``"14:02 UTC"``, with the day where that is not today."""
    day, time = started[:10], started[11:16]
    return f"{time} UTC" if day == run_record.now()[:10] else f"{day} {time} UTC"


def draw(panel, name, work, on_stop):
    """Draws the status of the last job, with a stop button while it runs.

    Args:
        panel: where to add it
        name: of what is added
        work: of :func:`work_of`
        on_stop: called when the button is clicked

    Returns:
        whether one is running
    """
    if work is None:
        return False
    kind = types.Notice if work["running"] else types.Warning
    panel.view(name, kind(label=work["label"], description=work["text"]))
    if work["running"] and not work["stopping"]:
        menu = panel.menu(f"{name}_menu")
        menu.btn(f"{name}_stop", label="Stop", icon="stop", variant="outlined", on_click=on_stop)
    return work["running"]
