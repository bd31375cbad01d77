"""How the App shows our fields: their colours, and which of them are shown in the grid.

Heat has a colour scale by its value, see :mod:`.look`; where the user has other colours, the App colours by
field: one colour, more opaque where the value is higher. So every heatmap field has a warm colour too.
"""

import contextlib

import fiftyone as fo
import fiftyone.core.odm as fod

from . import look
from .level import level_of

# Warm, told apart on photos, hottest first; the App fades each of them with the value.
_COLOURS = (
    "#ff3d00", "#ffab00", "#ff1e78", "#ffe100", "#ff7043", "#c2185b", "#ff8f00", "#f50057",
    "#ffd54f", "#b71c1c", "#ff80ab", "#bf6d00",
)  # fmt: skip
# of a field whose values have colours
_GREY = "#9e9e9e"


def colour_fields(dataset, fields):
    """Gives our fields warm colours and the dataset's look; the user's colour scheme stays.

    Where the dataset has no scheme yet, it gets the look of a first run, see :func:`.look.begin`.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        fields: the heatmap fields in order, each with a colour of its own, or ``{field: method}``
            for one colour per method

    Returns:
        all entries of the scheme's ``fields``, theirs and ours
    """
    methods = dict(fields) if isinstance(fields, dict) else {field: field for field in fields}
    order, level = list(dict.fromkeys(methods.values())), level_of(dataset)
    ours = [
        {"path": level.path(field), "fieldColor": _COLOURS[order.index(method) % len(_COLOURS)]}
        for field, method in methods.items()
    ]
    look.begin(dataset, list(methods))
    return _write_entries(dataset, ours)


def colour_values(dataset, path, colours):
    """Gives each value of a field of texts a colour of its own.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        path: of the field
        colours: ``{value: "#rrggbb"}``

    Returns:
        all entries of the scheme's ``fields``, theirs and ours
    """
    values = [{"value": value, "color": colour} for value, colour in colours.items()]
    entry = {"path": path, "fieldColor": _GREY, "valueColors": values}
    return _write_entries(dataset, [entry])


def _write_entries(dataset, ours):
    scheme = dataset.app_config.color_scheme or fo.ColorScheme()
    scheme.fields = _with_ours(scheme, ours)
    dataset.app_config.color_scheme = scheme
    dataset.save()
    show_in_sessions(dataset)
    return scheme.fields


def _with_ours(scheme, ours):
    paths = {entry["path"] for entry in ours}
    return [entry for entry in scheme.fields or [] if entry.get("path") not in paths] + ours


def show_in_sessions(dataset):
    """Gives the colours that are stored to the sessions of this process too.

    A session keeps the scheme that it began with: the heat would have some colour of its pool,
    often a blue one, until the dataset is opened again.
    """
    running = getattr(fo.core.session.session, "_subscribed_sessions", {})
    for session in [s for group in running.values() for s in group]:
        if session.dataset is None or session.dataset.name != dataset.name:
            continue
        stored, scheme = look.scheme_of(dataset), session.color_scheme.copy()
        scheme.fields = _with_ours(scheme, stored.pop("fields"))
        for name, value in stored.items():
            setattr(scheme, name, value)
        with contextlib.suppress(RuntimeError):  # its App has gone: nobody is looking
            session.color_scheme = scheme


def activate_fields(dataset, fields, instead=()):
    """Shows fields in the grid, beside what is shown there already.

    Dense labels are not shown unless asked for.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        fields: what is shown
        instead (()): what no longer is: two heatmaps on each other look like one that is nobody's

    Returns:
        the paths that are active now
    """
    level = level_of(dataset)
    fields, instead = list(map(level.path, fields)), list(map(level.path, instead))
    active = dataset.app_config.active_fields
    if active and active.exclude:
        # the App shows whatever is not listed
        hidden = [path for path in active.paths if path not in fields]
        hidden += [path for path in instead if path not in (*fields, *hidden)]
        dataset.app_config.active_fields = fod.ActiveFields(paths=hidden, exclude=True)
        dataset.save()
        every = [*dataset.get_field_schema(), *map(level.path, level.schema())]
        return [path for path in dict.fromkeys(every) if path not in hidden]
    # An empty list is the App's word for "the defaults".
    paths = list(active.paths) if active and active.paths else _default_paths(dataset)
    paths = [path for path in paths if path not in instead]
    paths += [f for f in fields if f not in paths]
    dataset.app_config.active_fields = fod.ActiveFields(paths=paths)
    dataset.save()
    return paths


def shown_of(dataset, fields):
    """Those of some fields that the grid shows, as far as the dataset says so."""
    active = dataset.app_config.active_fields
    if not active or not active.paths:
        return []
    path = level_of(dataset).path
    return [field for field in fields if (path(field) in active.paths) != bool(active.exclude)]


def _default_paths(dataset):
    return list(fo.DatasetAppConfig.default_active_fields(dataset).paths)


def forget_fields(dataset, fields):
    """Takes fields out of the colour scheme and the active fields, as if never put there."""
    config, fields = dataset.app_config, list(map(level_of(dataset).path, fields))
    scheme, active = config.color_scheme, config.active_fields
    if scheme:
        scheme.fields = [e for e in scheme.fields or [] if e.get("path") not in fields]
        look.forget(scheme, fields)
        if look.says_nothing(scheme):
            config.color_scheme = None
    if active and active.paths:
        active.paths = [p for p in active.paths if p not in fields]
        left = [p for p in _default_paths(dataset) if p not in fields]
        if not active.exclude and set(active.paths) == set(left):
            config.active_fields = None
    dataset.save()


def rename_fields(dataset, moves):
    """Lets fields that are renamed, ``{old: new}``, keep their colours and their place in the grid."""
    config, path = dataset.app_config, level_of(dataset).path
    moves = {path(old): path(new) for old, new in moves.items()}
    scheme, active = config.color_scheme, config.active_fields
    if scheme:
        scheme.fields = scheme.fields and [
            {**e, "path": moves.get(e.get("path"), e.get("path"))} for e in scheme.fields
        ]
        look.rename(scheme, moves)
    if active and active.paths:
        paths = [moves.get(p, p) for p in active.paths]
        config.active_fields = fod.ActiveFields(paths=paths, exclude=active.exclude)
    dataset.save()
