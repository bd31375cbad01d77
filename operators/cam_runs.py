"""Operators on CAM runs: list, look at, show, stop, rename, delete."""

import fiftyone.operators as foo
import fiftyone.operators.types as types


def _config(name, label, description, risk, **options):
    return foo.OperatorConfig(
        name=name,
        label=label,
        description=description,
        unlisted=True,
        dynamic=True,
        risk_level=risk,
        **options,
    )


def _dataset(samples):
    """The dataset of samples, as it is now: its runs may have been made in the App."""
    from .runs import record

    dataset = samples._dataset
    record.refresh(dataset)
    return dataset


class ListCamRuns(foo.Operator):
    """Lists the CAM runs of a dataset."""

    @property
    def config(self):
        """The operator's configuration."""
        return _config(
            "list_cam_runs",
            "List CAM runs",
            "The CAM runs of this dataset, their progress and model",
            types.RiskLevel.LOW,
        )

    def __call__(self, samples):
        """Lists the CAM runs of a dataset.

        Example usage::

            for run in foo.get_operator("@cam51/heatmaps/list_cam_runs")(dataset):
                print(run)

        Args:
            samples: a dataset or view

        Returns:
            a list of ``CamRun`` with ``key``, ``status``, ``done``, ``total``, ``failed``, ``model``,
            ``methods``, ``fields``, ``started`` and ``ended``, sorted by key
        """
        from .runs import info as run_info

        return run_info.list_runs(_dataset(samples))

    def execute(self, ctx):
        """Returns the runs as rows of a table."""
        rows = [{**run.to_dict(), "what": str(run).partition(": ")[2]} for run in self(ctx.dataset)]
        return {"runs": rows}

    def resolve_output(self, ctx):
        """A table."""
        outputs, table = types.Object(), types.TableView()
        table.add_column("key", label="Run")
        table.add_column("what", label="What it is")
        row = types.Object()
        row.str("key")
        row.str("what")
        outputs.list("runs", row, label="CAM runs", view=table)
        return types.Property(outputs)


class GetCamRunInfo(foo.Operator):
    """Says everything that is known of a CAM run."""

    @property
    def config(self):
        """The operator's configuration."""
        return _config(
            "get_cam_run_info",
            "Look at a CAM run",
            "Settings, progress and failures of a CAM run",
            types.RiskLevel.LOW,
        )

    def resolve_input(self, ctx):
        """Which run."""
        from .forms import runs

        inputs = types.Object()
        runs.choose_run(inputs, ctx)
        return runs.form(inputs, self.config.label)

    def __call__(self, samples, cam_key):
        """Says everything that is known of a CAM run; what is done is asked of its samples.

        Args:
            samples: a dataset or view
            cam_key: the run's key

        Returns:
            a ``CamRunInfo``: what ``list_cam_runs`` gives, and ``settings``, ``failures``, ``sessions``,
            ``host``, ``pid``, ``error`` and ``results``

        Raises:
            ValueError: if there is no such run
        """
        from .runs import info as run_info

        return run_info.info_of(_dataset(samples), cam_key)

    def execute(self, ctx):
        """Returns it as text and as data."""
        from .runs.plain_data import answer
        from .text import lines_in_markdown

        info = self(ctx.dataset, ctx.params["cam_key"])
        return {"text": lines_in_markdown(info), "info": answer(info)}

    def resolve_output(self, ctx):
        """The text."""
        outputs = types.Object()
        outputs.str("text", view=types.MarkdownView(read_only=True))
        return types.Property(outputs)


class LoadCamView(foo.Operator):
    """Shows the samples of a CAM run."""

    @property
    def config(self):
        """The operator's configuration."""
        return _config(
            "load_cam_view",
            "Show the samples of a CAM run",
            "All samples of a CAM run, or those that are done, missing or failed",
            types.RiskLevel.LOW,
        )

    def resolve_input(self, ctx):
        """Which run, and which of its samples."""
        from .forms import runs
        from .runs import info as run_info

        inputs, choices = types.Object(), types.RadioGroup()
        runs.choose_run(inputs, ctx)
        for part in run_info.PARTS:
            choices.add_choice(part, label=part)
        inputs.enum("part", choices.values(), default="all", label="Samples", view=choices)
        return runs.form(inputs, self.config.label)

    def __call__(self, samples, cam_key, part="all", only_its_fields=False):
        """Returns a view of the samples of a CAM run, in its order.

        Args:
            samples: a dataset or view; the run's samples are those of the whole dataset
            cam_key: the run's key
            part ("all"): ``"all"``, ``"done"``, ``"missing"`` or ``"failed"``
            only_its_fields (False): whether the fields of other CAM runs are left out

        Returns:
            a :class:`fiftyone.core.view.DatasetView`

        Raises:
            ValueError: if there is no such run, or no such part
        """
        from .runs import info as run_info

        return run_info.view_of(_dataset(samples), cam_key, part, only_its_fields)

    def execute(self, ctx):
        """Shows the view."""
        from .runs.plain_data import MOST_ENTRIES

        view = self(ctx.dataset, ctx.params["cam_key"], ctx.params.get("part", "all"))
        ctx.ops.set_view(view=view)
        ids = view.values("id")
        return {"samples": len(ids), "ids": ids[:MOST_ENTRIES]}


class StopCamRun(foo.Operator):
    """Stops what works on a CAM run, wherever it runs."""

    @property
    def config(self):
        """The operator's configuration."""
        return _config(
            "stop_cam_run",
            "Stop a CAM run",
            "Stops a running computation, comparison or analysis after at most two batches, wherever it runs",
            types.RiskLevel.MEDIUM,
        )

    def resolve_input(self, ctx):
        """Which of the running runs, and what of it where there are several things."""
        from .forms import runs
        from .runs import lease, record

        inputs, none = types.Object(), "No CAM run is running on this dataset"
        running = {k: lease.running_on(ctx.dataset, k) for k in record.list_runs(ctx.dataset)}
        running = {k: [kind for kind, _ in found] for k, found in running.items() if found}
        key = runs.choose_run(inputs, ctx, running, none)
        if key is not None:
            choices = types.RadioGroup()
            for kind in dict.fromkeys(running[key]):
                choices.add_choice(kind, label=f"its {kind}")
            inputs.enum(
                "what", choices.values(), default=running[key][0], label="What", view=choices
            )
        return runs.form(inputs, self.config.label, "Stop")

    def __call__(self, samples, cam_key, what=None):
        """Asks a CAM run to stop: it does after two batches at most, and can be resumed.

        Likewise ``compare_cams`` and ``find_background_bias`` on it, which end within seconds: nothing
        that they wrote is kept, and who called them gets the exception ``Stopped``. All may run in another
        process or on another machine: they look into the run's record.

        Args:
            samples: a dataset or view
            cam_key: the run's key
            what (None): ``"computation"``, ``"comparison"`` or ``"analysis"``; by default whatever is
                running on it

        Raises:
            ValueError: if there is no such run, or if nothing is running on it
        """
        from .runs import lease

        lease.ask_to_stop(_dataset(samples), cam_key, what)

    def execute(self, ctx):
        """Asks it to stop."""
        key, what = ctx.params["cam_key"], ctx.params.get("what")
        self(ctx.dataset, key, what)
        name = key if what is None else f"The {what} of {key}"
        ctx.ops.notify(f"{name} was asked to stop", variant="info")
        return {"cam_key": key, "what": what}


class RenameCamRun(foo.Operator):
    """Gives a CAM run another key."""

    @property
    def config(self):
        """The operator's configuration."""
        return _config(
            "rename_cam_run",
            "Rename a CAM run",
            "Gives a CAM run, its fields and its files another key",
            types.RiskLevel.MEDIUM,
        )

    def resolve_input(self, ctx):
        """Which run, and its new key."""
        from .forms import runs

        inputs = types.Object()
        if runs.choose_run(inputs, ctx) is not None:
            runs.new_key(inputs, ctx, "new_key")
        return runs.form(inputs, self.config.label, "Rename")

    def __call__(self, samples, cam_key, new_key):
        """Renames a CAM run: its fields, the attribute ``cam_key``, its files, colours and record.

        Args:
            samples: a dataset or view
            cam_key: the run's key
            new_key: its new key

        Returns:
            ``{old field: new field}``

        Raises:
            ValueError: if there is no such run, if it is running, compared or analysed at this moment,
                or if the new key or a field of its is taken; nothing was renamed then
        """
        from .compare import renaming
        from .runs import rename

        return rename.rename_run(_dataset(samples), cam_key, new_key, {"compare": renaming})

    def execute(self, ctx):
        """Renames it and reloads the dataset; what was shown is shown under its new name."""
        from .runs import look

        shown = ctx.active_fields or []
        moves = self(ctx.dataset, ctx.params["cam_key"], ctx.params["new_key"])
        ctx.ops.reload_dataset()
        look.send(ctx)
        ctx.ops.set_active_fields([moves.get(field, field) for field in shown])
        return {"cam_key": ctx.params["new_key"], "fields": moves}


class DeleteCamRun(foo.Operator):
    """Deletes a CAM run with everything it wrote."""

    @property
    def config(self):
        """The operator's configuration."""
        return _config(
            "delete_cam_run",
            "Delete a CAM run",
            "Deletes a CAM run and everything that it wrote: fields, files, views, record",
            types.RiskLevel.HIGH,
        )

    def resolve_input(self, ctx):
        """Which run; what goes is said."""
        from .forms import runs

        inputs = types.Object()
        key = runs.choose_run(inputs, ctx)
        if key is not None:
            goes = "; ".join(runs.what_goes(ctx.dataset, key))
            warning = types.Warning(
                label=f"Deletes the run {key}",
                description=f"What goes: {goes}. This cannot be undone.",
            )
            inputs.view("notice", warning)
        return runs.form(inputs, self.config.label, "Delete")

    def __call__(self, samples, cam_key):
        """Deletes a CAM run and everything that it wrote, and nothing else.

        Its fields, attributes, map files and their folders, saved views, colours, active fields and
        record, and those of analyses that rest on it.

        Args:
            samples: a dataset or view
            cam_key: the run's key

        Returns:
            a ``Deleted`` with ``samples``, ``fields``, ``attributes``, ``views``, ``tags`` and
            ``files``: what went; printed, it is a paragraph

        Raises:
            ValueError: if there is no such run, or if it is running, compared or analysed at this moment
        """
        from .runs import info

        return info.delete(_dataset(samples), cam_key)

    def execute(self, ctx):
        """Deletes it, says what went, and reloads the dataset."""
        from .runs import look
        from .runs.plain_data import answer

        looked = look.is_set(ctx.dataset)
        deleted = self(ctx.dataset, ctx.params["cam_key"])
        ctx.ops.reload_dataset()
        look.send(ctx, whole=looked)
        ctx.ops.notify(str(deleted), variant="info")
        return answer(deleted)


class ClearLeftovers(foo.Operator):
    """Deletes what processes that were killed left behind."""

    @property
    def config(self):
        """The operator's configuration."""
        return _config(
            "clear_leftovers",
            "Clear what killed runs left behind",
            "Deletes locks, records, views and files of killed CAM runs that nothing uses any more",
            types.RiskLevel.MEDIUM,
        )

    def __call__(self, samples):
        """Deletes what processes that were killed left behind and nothing points to.

        In the database the locks, records of runs and files of results that are of no dataset; of this
        dataset's runs, the saved views that it does not list and the files of maps that no sample points to;
        the temporary folders of this machine. Only what says that it is this plugin's, and not what a
        process made that may be alive. Much of it is found by the next run itself.

        Example usage::

            print(foo.get_operator("@cam51/heatmaps/clear_leftovers")(dataset))

        Args:
            samples: a dataset or view

        Returns:
            a ``Leftovers`` with the numbers of ``locks``, ``records``, ``results``, ``views``, ``files`` and
            ``folders``; printed, it is a line
        """
        from .runs import leftovers

        return leftovers.clear(_dataset(samples))

    def execute(self, ctx):
        """Deletes it and says what it was."""
        from .runs.plain_data import answer

        found = self(ctx.dataset)
        ctx.ops.notify(str(found), variant="info")
        return answer(found)


OPERATORS = [
    ListCamRuns, GetCamRunInfo, LoadCamView, StopCamRun, RenameCamRun, DeleteCamRun,
    ClearLeftovers,
]  # fmt: skip
