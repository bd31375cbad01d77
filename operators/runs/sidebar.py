"""Groups of the App's sidebar: one for every run, with its heatmaps, predictions and verdicts.

A run's group is named in its record before it is made. It is open while the grid shows the run; those of the
other runs are closed then.
"""

import fiftyone as fo

from . import record
from .level import Level, level_of

# after this group of FiftyOne's, so that it is in sight
_AFTER = "labels"


def group_of(key):
    """The name of a run's group."""
    return f"{key}_heatmaps"


def new_groups(dataset, key):
    """The groups that a new run makes, for its record: none on frames, or where the name is taken.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
    """
    name = group_of(key)
    # FiftyOne keeps the fields of frames in a group of their own
    return [] if type(level_of(dataset)) is not Level or exists(dataset, name) else [name]


def group_run(dataset, key, fields):
    """Puts fields of a run into its group and opens that. Called while the schema is changed.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
        fields: names of fields

    Returns:
        whether the run has a group; without one nothing is changed
    """
    name, config = group_of(key), record.config_of(dataset, key)
    if name not in (getattr(config, "sidebar_groups", None) or []):
        return False
    there = next((g for g in dataset.app_config.sidebar_groups or [] if g.name == name), None)
    paths = dict.fromkeys([*(there.paths if there else []), *fields])
    # in the record's order, also where one that was deleted comes back
    order = {field: number for number, field in enumerate(config.fields)}
    paths = sorted(paths, key=lambda path: order.get(path, len(order)))
    group_fields(dataset, name, paths, after=_AFTER)
    open_run(dataset, key)
    return True


def open_run(dataset, key):
    """Opens a run's group and closes those of the other runs; a run without one changes nothing.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
    """
    name, others = group_of(key), set(map(group_of, record.list_runs(dataset)))
    groups = dataset.app_config.sidebar_groups or []
    if name not in {group.name for group in groups}:
        return
    for group in groups:
        if group.name == name:
            group.expanded = True
        elif group.name in others:
            group.expanded = False
    dataset.save()


def group_fields(dataset, name, paths, others=(), after=None):
    """Puts paths into a group of the sidebar of their own, collapsed.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        name: of the group; one that has it already is replaced, and stays in its place
        paths: what is in it
        others (()): new fields that stand where the App puts them by itself, and in no group yet
        after (None): the group that it stands behind; the last one where there is none
    """
    config = dataset.app_config
    default = fo.DatasetAppConfig.default_sidebar_groups(dataset)
    groups = list(config.sidebar_groups or default)
    names = [group.name for group in groups]
    place = names.index(after) + 1 if after in names else len(groups)
    if name in names:
        place = names.index(name)
        groups.pop(place)
    for group in groups:
        group.paths = [p for p in group.paths if p not in paths]
    places = {path: group.name for group in default for path in group.paths}
    listed = {path for group in groups for path in group.paths}
    by_name = {group.name: group for group in groups}
    for path in others:
        if path not in listed and places.get(path) in by_name:
            by_name[places[path]].paths.append(path)
    made = fo.SidebarGroupDocument(name=name, paths=list(paths), expanded=False)
    config.sidebar_groups = [*groups[:place], made, *groups[place:]]
    dataset.save()


def exists(dataset, name):
    """Whether the sidebar has a group."""
    return any(group.name == name for group in dataset.app_config.sidebar_groups or [])


def rename(dataset, moves):
    """Renames groups: ``{old: new}``."""
    for group in dataset.app_config.sidebar_groups:
        group.name = moves.get(group.name, group.name)
    dataset.save()


def drop(dataset, names):
    """Takes groups out of the sidebar, as if never put there.

    Where the others are those that the App makes by itself, the dataset says nothing of groups again.
    """
    config = dataset.app_config
    groups = [g for g in config.sidebar_groups if g.name not in names]
    config.sidebar_groups = None if _are_default(dataset, groups) else groups
    dataset.save()


def _are_default(dataset, groups):
    """Whether groups are the App's own, but for fields that came later and are in none of them."""
    listed = {path for group in groups for path in group.paths}
    default = fo.DatasetAppConfig.default_sidebar_groups(dataset)
    return [(g.name, g.paths, g.expanded) for g in groups] == [
        (g.name, [p for p in g.paths if p in listed], g.expanded) for g in default
    ]
