"""What is being computed on the dataset now, with a bar and Stop, and how the last run in the background ended."""

import fiftyone.operators.types as types

_KINDS = {"finished": types.Notice, "failed": types.Error, "interrupted": types.Warning}
_HOW = {"finished": "finished", "failed": "failed", "interrupted": "was interrupted"}


def work_on(dataset):
    """What is being computed, and what ended in the background and nobody dismissed.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`

    Returns:
        a list of dicts ``number, key, status, stopping, label, fraction, text``; ``number`` is that of a run in
        the background, ``key`` that of one that runs elsewhere
    """
    from ..runs import background, record

    own = background.list_of(dataset)
    theirs = {(row["host"], row["pid"]) for row in own}
    names = (
        "status",
        "token",
        "dataset_id",
        "host",
        "pid",
        "space",
        "heartbeat",
        "progress",
        "stop",
    )
    elsewhere = []
    for key, stored in record.read_entries(dataset, names):
        config = record.complete(stored, stored.get("dataset_id") == str(dataset._doc.id))
        if record.status_from(config) == "running" and (config.host, config.pid) not in theirs:
            elsewhere.append(_computation(key, config))
    return [*map(_background, own), *elsewhere]


def _background(row):
    stopping = row["status"] == "running" and bool(row["stop"])
    text = row["progress"]["label"] if row["status"] == "running" else row["error"] or row["said"]
    return {
        "number": str(row["_id"]), "key": None, "status": row["status"], "stopping": stopping,
        "label": row["label"], "fraction": round(row["progress"]["fraction"], 3), "text": text or "",
    }  # fmt: skip


def _computation(key, config):
    done, total = config.progress.get("done", 0), config.progress.get("total", 0)
    return {
        "number": None, "key": key, "status": "running", "stopping": bool(getattr(config, "stop", False)),
        "label": f"Computing {key}", "fraction": round(done / total, 3) if total else 0.0,
        "text": f"{done:,} of {total:,}, in process {config.pid} on {config.host}",
    }  # fmt: skip


def is_busy(work):
    """Whether something is being computed."""
    return any(row["status"] == "running" for row in work or ())


def draw(panel, handlers, work):
    """Draws it.

    Args:
        panel: where to add it
        handlers: the panel, whose methods are called on events
        work: of :func:`work_on`
    """
    for place, row in enumerate(work or ()):
        (_running if row["status"] == "running" else _ended)(panel, handlers, row, f"work_{place}")


def _running(panel, handlers, row, name):
    label = f"{row['label']}{', asked to stop' if row['stopping'] else ''}"
    panel.view(f"{name}_head", types.HeaderView(label=label))
    panel.float(name, default=row["fraction"], view=types.ProgressView(label=row["text"]))
    menu = panel.menu(f"{name}_menu", gap=2)
    params = {"number": row["number"], "key": row["key"]}
    if not row["stopping"]:
        menu.btn(
            f"{name}_stop", label="Stop", icon="stop", variant="outlined", on_click=handlers.on_work_stop,
            params=params,
        )  # fmt: skip
    if row["fraction"]:
        _show_button(menu, handlers, name, "Show its heatmaps so far")


def _ended(panel, handlers, row, name):
    kind = _KINDS[row["status"]]
    label = f"{row['label']} {_HOW[row['status']]}"
    panel.view(name, kind(label=label, description=row["text"] or "its process is gone"))
    menu = panel.menu(f"{name}_menu", gap=2)
    _show_button(menu, handlers, name, "Show it in the grid")
    menu.btn(
        f"{name}_dismiss", label="Dismiss", icon="close", on_click=handlers.on_work_dismiss,
        params={"number": row["number"]},
    )  # fmt: skip


def _show_button(menu, handlers, name, label):
    """The App learns of fields that another process added by a reload, which also closes what is open."""
    menu.btn(
        f"{name}_show", label=label, icon="refresh", variant="outlined", on_click=handlers.on_work_show,
        title="Reads the dataset again, with its new fields and views",
    )  # fmt: skip


class WorkEvents:
    """The panel's events that are about what is being computed."""

    def on_work_stop(self, ctx):
        """Asks a run to stop."""
        from bson import ObjectId

        from ..runs import background, lease

        number, key = ctx.params.get("number"), ctx.params.get("key")
        if number is not None:
            background.ask_to_stop(ctx.dataset, ObjectId(number))
        else:
            try:
                lease.ask_to_stop(ctx.dataset, key, "computation")
            except ValueError as error:  # it ended before the click arrived
                ctx.ops.notify(str(error), variant="info")
        self.show_work(ctx)

    def on_work_dismiss(self, ctx):
        """Forgets how a run in the background ended."""
        from bson import ObjectId

        from ..runs import background

        background.delete_ended(ctx.dataset, ObjectId(ctx.params["number"]))
        self.show_work(ctx)

    def on_work_show(self, ctx):
        """Lets the grid show what a run in the background stored so far."""
        from ..runs import look, record

        record.refresh(ctx.dataset)
        ctx.ops.reload_dataset()
        ctx.trigger("set_color_scheme", look.scheme_of(ctx.dataset))
        shown = ctx.dataset.app_config.active_fields
        if shown is not None:
            ctx.ops.set_active_fields(list(shown.paths))
        self.show_work(ctx)

    def show_work(self, ctx):
        """Puts what is being computed into the panel's state."""
        ctx.panel.set_state("work", work_on(ctx.dataset))
