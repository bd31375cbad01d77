"""The form of ``compare_cams``, and its parameters on their way into a queue."""

import fiftyone.operators.types as types

from ..compare import schema as store
from ..compare.checks import check_same_model, choose_count
from ..compare.columns import Stored, check_ready, columns_of
from ..compare.params import ARGUMENTS, MODELS_PROBE, PROBE, CompareSettings, resolve_metrics
from ..compute import recorded_model
from ..data.heatmap_reader import BASELINES
from ..jobs import params as tables
from ..runs import keys as run_keys
from ..runs import record
from ..text import counted, lines_in_markdown
from .cost import add_cost, seconds_of
from .schema import add, add_plain, choose, invalid, is_wrong, mark, refuse, titled
from .snippet import add_snippet

_METHODS, _MODELS = "methods", "models"


def arguments_of(params):
    """Turns a form's parameters into the arguments of ``compare_cams`` that were given."""
    given = tables.arguments_of(ARGUMENTS, params)
    if params.get("what") == _MODELS:
        given.setdefault("models", {})  # each is loaded by its name
        given.pop("metrics", None)
    elif "models" not in given:
        given.pop("target", None)
    return given


def params_of(arguments):
    """Turns arguments of ``compare_cams`` into parameters, the way into a queue; refuses what cannot go."""
    params = tables.params_of(ARGUMENTS, arguments)
    if "models" in params:
        params["what"] = _MODELS
    return params


def compare_cams_form(ctx):
    """Builds the form, a ``types.Property``."""
    inputs = types.Object()
    record.refresh(ctx.dataset)
    runs = record.list_runs(ctx.dataset)
    if not runs:
        refuse(inputs, "problem", "This dataset has no heatmaps yet: compute them first")
    else:
        _add_all(inputs, ctx, runs)
    return titled(inputs, "Compare heatmaps", "Compare")


def _add_all(inputs, ctx, runs):
    view = ctx.target_view(require_flat=True)
    what = _add_what(inputs, ctx, runs)
    columns = _add_keys(inputs, ctx, view, runs, what)
    if what == _MODELS:
        prop = add(inputs, ctx, ARGUMENTS, "target")
        _check_target(prop, ctx, view)
    else:
        _add_metrics(inputs, ctx)
    _add_limits(inputs, ctx, what)
    add_plain(inputs, ctx, ARGUMENTS)
    overwrite = add(inputs, ctx, ARGUMENTS, "overwrite")
    if columns:
        _check_store(overwrite, ctx, columns, what)
        _notice(inputs, ctx, view, columns, what)


def _add_what(inputs, ctx, runs):
    if len(runs) < 2:
        return _METHODS
    values = {
        _METHODS: ("Methods", "Of one model: which heatmaps can be trusted"),
        _MODELS: ("Models", "Or checkpoints: where the evidence moved"),
    }
    choose(inputs, "what", values, types.TabsView(), default=_METHODS, label="Compare")
    return ctx.params.get("what") or _METHODS


def _add_keys(inputs, ctx, view, runs, what):
    """Adds the choice of runs or fields; returns the columns, None where something is wrong."""
    values = {}
    for key in runs:
        used = record.config_of(ctx.dataset, key).settings
        values[key] = (key, f"All heatmaps of {used.get('model')}")
    for key in runs:
        for field in run_keys.heatmap_fields_of(ctx.dataset, key):
            values[field] = (field, f"One method of the run {key}")
    default = _default_keys(runs, what)
    prop = add(inputs, ctx, ARGUMENTS, "cam_keys", values=values, default=default)
    names = ctx.params.get("cam_keys", default)
    try:
        if not names:
            raise ValueError("cam_keys: choose a run or a heatmap field")
        columns = columns_of(view, names)
        keys = list(dict.fromkeys(c.cam_key for c in columns))
        if what == _MODELS:
            if len(keys) < 2:
                raise ValueError("cam_keys: choose the runs of two models or more")
        else:
            check_same_model(ctx.dataset, keys)
            keys = keys[:1]
        for key in keys:
            check_ready(ctx.dataset, key)
            reason = recorded_model.unregistered(record.config_of(ctx.dataset, key).settings)
            if reason is not None:
                raise ValueError(f"model: of the run {key!r}, {reason}")
    except ValueError as error:
        invalid(prop, str(error))
        inputs.view("keys_problem", types.Warning(label=str(error)))
        return None
    return columns


def _add_metrics(inputs, ctx):
    from ...cam_core.metrics.catalogue import DEFAULT_METRICS, METRICS
    from ..compare.ranking import ranked_metrics

    values = {}
    for info in METRICS.values():
        arrow = "higher is better" if info.better == "higher" else "lower is better"
        values[info.name] = (info.label, f"{info.summary} {arrow}")
    prop = add(inputs, ctx, ARGUMENTS, "metrics", values=values, default=list(DEFAULT_METRICS))
    if not prop.invalid:
        mark(prop, ranked_metrics, resolve_metrics(ctx.params.get("metrics") or None))


def _check_target(prop, ctx, view):
    from ..compare.models_trend import check_target

    runs = record.list_runs(ctx.dataset)
    several = any(record.config_of(ctx.dataset, k).settings.get("multi_label") for k in runs)
    mark(prop, check_target, view, ctx.params.get("target") or "auto", several)


def _add_limits(inputs, ctx, what):
    most = MODELS_PROBE if what == _MODELS else PROBE
    add(
        inputs, ctx, ARGUMENTS, "probe",
        description=f"Drawn at random, spread over the classes. 0: up to {most:,}",
    )  # fmt: skip
    if what != _MODELS:
        add(inputs, ctx, ARGUMENTS, "budget")


def _check_store(prop, ctx, columns, what):
    keys = list(dict.fromkeys(c.cam_key for c in columns))
    field = store.disagreement_field(keys[0])
    if what == _MODELS:
        field = store.agreement_field(keys[0], keys[-1])
    mark(prop, store.check_store, ctx.dataset, keys[0], field, bool(ctx.params.get("overwrite")))


def _notice(inputs, ctx, view, columns, what):
    """What it will cost, once everything is valid."""
    if is_wrong(inputs):
        return
    given = arguments_of(ctx.params)
    given.setdefault("cam_keys", _default_keys(record.list_runs(ctx.dataset), what))
    models = given.pop("models", None)
    settings = CompareSettings(
        **{k: v for k, v in given.items() if k not in ("model", "classes", "cam_keys")}
    )
    keys = list(dict.fromkeys(c.cam_key for c in columns))
    names = [record.config_of(ctx.dataset, key).settings.get("model") for key in keys]
    if what == _MODELS:
        usable, most = len(view), MODELS_PROBE if settings.probe == "auto" else settings.probe
        count = min(usable, most)
        label = f"Compares {len(keys)} models on {count:,} of {counted(usable, 'samples')}"
        each = [seconds_of(2 * count, name) for name in names]
        seconds = None if None in each else sum(each)
    else:
        usable = int(Stored(view, columns).shown.any(1).sum())
        maps = len(columns)
        maps += 0 if any(c.baseline for c in columns) else len(BASELINES)
        each = _forwards(settings.metrics, maps)
        one = seconds_of(each, names[0])
        # of an unknown speed, the job finds out how many samples the time allows
        chosen = mark(inputs.properties["budget"], choose_count, settings, usable, each, one or 0.0)
        if chosen is None:
            return
        count, _ = chosen
        label = f"Compares {maps} maps on {count:,} of {counted(usable, 'samples')}"
        seconds = None if one is None else one * count
    otherwise = "Takes about ten minutes at most: slow models are compared on fewer samples."
    otherwise = None if what == _MODELS or settings.probe != "auto" else otherwise
    add_cost(inputs, ctx, label, seconds, "Fewer samples or metrics take less.", otherwise)
    arguments = {**given, **({} if models is None else {"models": models})}
    add_snippet(inputs, ctx, "compare_cams", arguments, view, names)


def _default_keys(runs, what):
    """The runs that stand in the form until others are chosen."""
    return runs if what == _MODELS else runs[-1:]


def _forwards(metrics, maps):
    from ...cam_core.metrics.catalogue import planned_forwards

    return sum(planned_forwards(metrics, 1, maps).values())


def output_of(summary):
    """Returns the form that the App shows of a ``CompareSummary``, and its values."""
    outputs, table = types.Object(), types.TableView()
    heading, *rows = summary.cells()
    names = [f"column_{i}" for i in range(len(heading))]
    row = types.Object()
    for name, title in zip(names, heading, strict=True):
        table.add_column(name, label=title or "#")
        row.str(name)
    outputs.str("text", view=types.MarkdownView(read_only=True))
    outputs.list("rows", row, label="Leaderboard", view=table)
    values = [dict(zip(names, cells, strict=True)) for cells in rows]
    found = types.Property(outputs, view=types.View(label="Compare heatmaps"))
    return found.to_json(), {"text": lines_in_markdown(summary), "rows": values}
