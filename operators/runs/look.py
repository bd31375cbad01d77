"""How heatmaps of a dataset look in the App: their colours, opacity, and what of them is hidden.

The look is written into the dataset's colour scheme, where the App keeps such things, with a colour scale for
each of our fields; scales of other fields stay. What the scheme said before is kept beside it, and put back
when the last run is deleted. Hidden is what lies below a label's ``range[0]``: the App draws nothing there.

FiftyOne 1.22 computes the colours of a stored scale too late for a page that is loaded with a session, so they
are stored beside it (``rgb``); it leaves them out of what its server remembers of a scheme that the App was
sent, so they are put in again there (:func:`remember`).
"""

import dataclasses

import fiftyone as fo

from ...cam_core.spatial.overlay import FADE, Look, stops, table
from .level import level_of
from .locking import change_schema
from .record import db

#: the name of what is no look: the user's colour scheme
OWN = "own"
# of the dataset's ``info``
_ENTRY = "cam51_look"
#: the look of a first run
DEFAULT = Look()
# the App's own, where a scheme does not say
_OPACITY = 0.7
# Of the colours that are stored with a scale: as many as a stored map has levels.
_LEVELS = 64
# What a look changes of a scheme beside the entries of our fields.
_CHANGED = ("color_by", "opacity")


def look_of(dataset):
    """How heatmaps are drawn.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`

    Returns:
        a :class:`~cam_core.spatial.overlay.Look`; where the dataset has colours of the user's own, the
        nearest to them: warm colours that fade
    """
    scheme, entry = _stored(dataset)
    if entry is None or (scheme.get("color_by") != "value" and entry["ramp"] != FADE):
        opacity = scheme.get("opacity")
        return Look(FADE, _OPACITY if opacity is None else opacity, 0.0)
    return _as_look(entry)


def is_set(dataset):
    """Whether the plugin set a look, rather than the user a colour scheme."""
    return _stored(dataset)[1] is not None


def has_own(dataset):
    """Whether the user has, or had before a look was set, a colour scheme of their own."""
    scheme, entry = _stored(dataset)
    if entry is not None:
        return any(value not in (None, []) for value in entry["before"].values())
    own = {path for path in _paths(dataset, our_fields(dataset))}
    return any(
        value and not (name == "fields" and {e.get("path") for e in value} <= own)
        for name, value in scheme.items()
        if name != "_id"
    )


def hidden_of(dataset):
    """The share of the hottest below which heat is hidden; 0 to 0.95."""
    entry = _stored(dataset)[1]
    return 0 if entry is None else _as_look(entry).hidden


def range_of(top, hidden):
    """The ``range`` of a label.

    Args:
        top: the value that is drawn hottest
        hidden: the share below which nothing is drawn
    """
    return [hidden * top if hidden else 0, top]


def set_look(dataset, ramp=None, opacity=None, hide_below=None):
    """Gives all heatmaps of this plugin in a dataset a look; what is not named stays.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        ramp (None): one of :data:`~cam_core.spatial.overlay.RAMPS`
        opacity (None): 0 to 1
        hide_below (None): a share of the hottest, 0 to 0.95

    Returns:
        the :class:`~cam_core.spatial.overlay.Look`

    Raises:
        ValueError: if a value is wrong, or something is to be hidden of a ramp that fades; nothing is
            changed then
    """
    given = {"ramp": ramp, "opacity": opacity, "hide_below": hide_below}
    given = {name: value for name, value in given.items() if value is not None}

    def change():
        entry = _stored(dataset)[1]
        # as it is drawn: the user may have changed the App's colours since
        kept = dataclasses.asdict(look_of(dataset))
        if kept["ramp"] == FADE and given.get("ramp", FADE) != FADE and not kept["hide_below"]:
            # of colours that fade nothing was hidden
            kept["hide_below"] = (entry or dataclasses.asdict(DEFAULT))["hide_below"]
        look = Look(**{**kept, **given})
        if look.ramp == FADE and given.get("hide_below"):
            raise ValueError(
                "hide_below: has no effect with ramp='fade', whose colour fades to nothing; choose another "
                "ramp"
            )
        if entry is None or look != _as_look(entry) or look != look_of(dataset):
            _write(dataset, look)
        return look

    return change_schema(dataset, change)


def begin(dataset, fields):
    """Gives fields that are new the dataset's look; a dataset that has none yet gets the default.

    Unless it has a colour scheme: that is the user's, and stays. Called while the schema is changed.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        fields: heatmap fields that are declared
    """
    config = dataset.app_config
    if _stored(dataset)[1] is None:
        if config.color_scheme is None or says_nothing(config.color_scheme):
            _write(dataset, DEFAULT, fields)
        return
    scheme = config.color_scheme or fo.ColorScheme()
    _add_scales(dataset, scheme, _as_look(_stored(dataset)[1]).ramp, fields)
    config.color_scheme = scheme
    dataset.save()


def put_back(dataset):
    """Takes the look away: what the scheme said before it says again, and nothing is hidden.

    What the user changed of it since then stays.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
    """

    def change():
        entry = _stored(dataset)[1]
        if entry is None:
            return
        scheme, fields = dataset.app_config.color_scheme, our_fields(dataset)
        _set_ranges(dataset, fields, 0)
        if scheme is not None:
            ours = {"color_by": _color_by(entry["ramp"]), "opacity": entry["opacity"]}
            for name, value in ours.items():
                if getattr(scheme, name) == value:
                    setattr(scheme, name, entry["before"][name])
            paths = _paths(dataset, fields)
            own = [scale for scale in entry["before"]["colorscales"] if scale.get("path") in paths]
            left = _without(scheme.colorscales, paths)
            scheme.colorscales = [*(left or []), *own] if own else left
            dataset.app_config.color_scheme = None if says_nothing(scheme) else scheme
        dataset.save()
        _keep(dataset, None)

    change_schema(dataset, change)


def scheme_of(dataset, whole=False):
    """The parameters of the App's operator ``set_color_scheme`` that show what is stored.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        whole (False): whether all that a look changes is in it although the dataset has none, as when it
            was taken away

    Returns:
        a dict; of a dataset with colours of the user's own only those of single fields
    """
    scheme, entry = _stored(dataset)
    found = {"fields": scheme.get("fields") or []}
    if entry is None and not whole:
        return found
    opacity = scheme.get("opacity")
    return {
        **found,
        "color_by": scheme.get("color_by") or fo.app_config.color_by,
        "opacity": _OPACITY if opacity is None else opacity,
        "colorscales": [
            {"name": None, **{k: v for k, v in scale.items() if k != "rgb"}}
            for scale in scheme.get("colorscales") or []
        ],
    }


def send(ctx, whole=False):
    """Sends the stored colours to the App.

    Args:
        ctx: of an operator or panel
        whole (False): see :func:`scheme_of`

    Returns:
        a list of requests, which an operator that is a generator has to yield
    """
    return [
        ctx.trigger("set_color_scheme", scheme_of(ctx.dataset, whole)),
        ctx.trigger("@cam51/heatmaps/show_heatmap_look", {"sent": True}),
    ]


def remember(dataset):
    """Lets this process's server remember the colours of our scales, as it does those of other things.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`

    Returns:
        whether it remembered them already
    """
    from fiftyone.server.events import get_state

    state, stored = get_state(), _stored(dataset)[0].get("colorscales") or []
    scheme, ours = state.color_scheme, {s["path"]: s for s in stored if s.get("rgb")}
    if not ours or state.dataset is None or state.dataset.name != dataset.name or scheme is None:
        return not ours
    known = {s.get("path"): s for s in scheme.colorscales or []}
    if all(known.get(path) == scale for path, scale in ours.items()):
        return True
    scheme.colorscales = [*({**known, **ours}).values()]
    return False


def renew_ranges(dataset, fields, hidden):
    """Gives heatmaps the dataset's hidden share, if it was changed while they were written.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        fields: the heatmap fields that were written
        hidden: what :func:`hidden_of` said when the first was
    """
    now = hidden_of(dataset)
    if now != hidden:
        _set_ranges(dataset, fields, now)


def our_fields(dataset):
    """The heatmap fields of this plugin, of runs and of single samples, by what their labels say."""
    return [
        name
        for name, field in level_of(dataset).schema().items()
        if getattr(field, "document_type", None) is fo.Heatmap
        and {"cam_key", "peak", "status"} <= {f.name for f in field.fields}
    ]


def says_nothing(scheme):
    """Whether a colour scheme says nothing."""
    values = scheme.to_dict()
    return not any(value not in (None, [], {}) for name, value in values.items() if name != "_id")


def forget(scheme, paths):
    """Takes the scales of fields that are deleted out of a scheme; ``paths`` are seen from a sample."""
    scheme.colorscales = _without(scheme.colorscales, paths)


def rename(scheme, moves):
    """Lets fields that are renamed keep their scales; ``moves`` are ``{old path: new path}``."""
    scheme.colorscales = scheme.colorscales and [
        {**scale, "path": moves.get(scale.get("path"), scale.get("path"))}
        for scale in scheme.colorscales
    ]


def _write(dataset, look, new=()):
    """Writes a look into scheme, info and labels."""
    scheme = dataset.app_config.color_scheme or fo.ColorScheme()
    entry = _stored(dataset)[1]
    fields = list(dict.fromkeys([*our_fields(dataset), *new]))
    before = entry["before"] if entry else _before(scheme, _paths(dataset, fields))
    scheme.color_by, scheme.opacity = _color_by(look.ramp), look.opacity
    _add_scales(dataset, scheme, look.ramp, fields)
    dataset.app_config.color_scheme = scheme
    dataset.save()
    _keep(dataset, {**dataclasses.asdict(look), "before": before})
    if (0 if entry is None else _as_look(entry).hidden) != look.hidden:
        _set_ranges(dataset, fields, look.hidden)


def _before(scheme, paths):
    """What is kept of a scheme that a look changes: also scales that the user gave to our fields."""
    own = [scale for scale in scheme.colorscales or [] if scale.get("path") in paths]
    return {**{name: getattr(scheme, name) for name in _CHANGED}, "colorscales": own}


def _add_scales(dataset, scheme, ramp, fields):
    paths = _paths(dataset, fields)
    scheme.colorscales = _without(scheme.colorscales, paths)
    if ramp == FADE:
        return
    scale = {
        "list": [
            {"value": value, "color": "rgb({}, {}, {})".format(*rgb)} for value, rgb in stops(ramp)
        ],
        "rgb": table(ramp, _LEVELS),
    }
    scheme.colorscales = [*(scheme.colorscales or []), *({"path": path, **scale} for path in paths)]


def _set_ranges(dataset, fields, hidden):
    """Moves the lower end of every label's ``range``; the upper one, its scale, stays."""
    level = level_of(dataset)
    for field in fields:
        top = {"$arrayElemAt": [f"${field}.range", 1]}
        low = {"$multiply": [hidden, top]} if hidden else {"$literal": 0}
        there = {f"{field}.range.1": {"$exists": True}}
        other = {"$expr": {"$ne": [{"$arrayElemAt": [f"${field}.range", 0]}, low]}}
        change = {"$set": {f"{field}.range": [low, top], "last_modified_at": "$$NOW"}}
        level.collection.update_many({**there, **other}, [change])
    level.reload()


def _keep(dataset, entry):
    """Keeps what is known of the look, or nothing; what else is in the dataset's ``info`` is not written."""
    kept = {"$mergeObjects": ["$info", {_ENTRY: {"$literal": entry}}]}
    change = [{"$set": {"info": kept}}] if entry else {"$unset": {f"info.{_ENTRY}": ""}}
    db().datasets.update_one({"_id": dataset._doc.id}, change)
    dataset._doc.reload("info")


def _stored(dataset):
    """(the dataset's colour scheme as a dict, what is kept of its look or None), as they are stored."""
    wanted = {"app_config.color_scheme": True, f"info.{_ENTRY}": True}
    stored = db().datasets.find_one({"_id": dataset._doc.id}, wanted) or {}
    scheme = (stored.get("app_config") or {}).get("color_scheme") or {}
    entry = (stored.get("info") or {}).get(_ENTRY)
    return scheme, _checked(entry)


def _checked(entry):
    """What is kept of a look; None of something that came from elsewhere and is none."""
    try:
        _as_look(entry)
        before = {name: entry["before"][name] for name in _CHANGED}
        scales = entry["before"].get("colorscales")
        before["colorscales"] = scales if isinstance(scales, list) else []
    except (KeyError, TypeError, ValueError):
        return None
    return {**entry, "before": before}


def _as_look(entry):
    return Look(**{field.name: entry[field.name] for field in dataclasses.fields(Look)})


def _color_by(ramp):
    return "field" if ramp == FADE else "value"


def _paths(dataset, fields):
    return list(map(level_of(dataset).path, fields))


def _without(entries, paths):
    return entries and [entry for entry in entries if entry.get("path") not in paths]
