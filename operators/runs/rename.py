"""Giving a run another key: fields, attributes, files, colours, views, tags, results and record."""

import os
import re

import fiftyone.core.odm as fod

from . import label_attributes
from . import record as run_record
from . import results as run_results
from .artifacts import own_files, remove_if_empty, tags_of
from .keys import check_new_key
from .lease import check_unread
from .locking import schema_lock
from .run import Run

# What a record says with names of fields, views and tags.
_NAMING = (
    "fields", "heatmap_fields", "prediction_field", "label_attributes", "drafts", "saved_views", "bias", "compare",
)  # fmt: skip


def rename_run(dataset, key, new_key):
    """Gives a run another key, see :func:`rename`; what is in the way is named.

    Raises:
        ValueError: if the new key cannot be given
    """
    run_record.config_of(dataset, key)
    if new_key == key:
        raise ValueError(f"new_key: the run is called {key!r} already")
    if new_key in run_record.list_runs(dataset):
        raise ValueError(
            f"new_key: {new_key!r} is already a CAM run of this dataset ("
            f"{run_record.status_of(dataset, new_key)}); choose another key, or delete_cam_run it first"
        )
    try:
        check_new_key(dataset, new_key)
    except ValueError as error:
        raise ValueError(str(error).replace("cam_key", "new_key", 1)) from error
    return rename(dataset, key, new_key)


def rename(dataset, key, new_key):
    """Gives a run another key: its fields, attributes, files, colours, views, tags, results and record.

    Views, tags and the sidebar's groups that begin with the key are renamed, and views look at the
    fields' new names. Comparisons with it that are stored with other runs name it anew.

    Every step can be repeated: a renaming that was cut short is finished by calling it again.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
        new_key: the new key, checked with ``check_key``

    Returns:
        ``{old field: new field}``

    Raises:
        ValueError: if a field of the new name exists, or the run is at work, or compared or examined at
            this moment
    """
    config = run_record.config_of(dataset, key)
    run_record.check_idle(config, key)
    check_unread(dataset, key)
    fields = {f: new_key + f[len(key) :] if f.startswith(f"{key}_") else f for f in config.fields}
    fields.update(label_attributes.renamed(Run(dataset, key, config), new_key))
    fields.update(_agreements(dataset, key, new_key))
    moves = {old: new for old, new in fields.items() if old != new}
    status = _status_before(dataset, config, key, new_key, moves)
    run_record.claim(dataset, key, "renaming", renaming_to=new_key, renamed_from=status)
    if not getattr(config, "moved", False):
        _move(dataset, key, config, new_key, fields)
    run_record.rename(dataset, key, new_key)
    run_record.update(dataset, new_key, status=status, moved=False)
    return moves


def _status_before(dataset, config, key, new_key, moves):
    """The status to come back to; raises a ValueError if the new name cannot be given."""
    if config.status != "renaming":
        taken = [new for new in moves.values() if dataset.get_field(new) is not None]
        if taken:
            raise ValueError(f"new_key: the dataset has a field {taken[0]!r}; choose another key")
        return config.status
    if config.renaming_to != new_key:
        raise ValueError(
            f"new_key: {key!r} was being renamed to {config.renaming_to!r} when that was cut short; "
            "finish it first"
        )
    return config.renamed_from


def _move(dataset, key, config, new_key, fields):
    """Moves all but the record's key, and says in the record that it is done."""
    moves = {old: new for old, new in fields.items() if old != new}
    renamed = _Renamed(key, new_key, moves)
    settings = {**config.settings, "cam_key": new_key}
    folder = settings.get("map_dir")
    if config.own and folder:
        settings["map_dir"] = _move_files(dataset, key, config, new_key, moves)
    _rename_fields(dataset, moves, key, new_key)
    _rename_views(dataset, config.saved_views, renamed)
    _rename_tags(dataset, key, renamed)
    _describe(dataset, moves.values(), renamed)
    for other in _compared_with(dataset, key):
        _rename_comparison(dataset, other, renamed)
    _rename_results(dataset, key, renamed)
    run_record.update(
        dataset,
        key,
        moved=True,
        settings=settings,
        made_folders=[settings["map_dir"] if f == folder else f for f in config.made_folders],
        **{name: renamed.entry(name, getattr(config, name, None)) for name in _NAMING},
    )


def _compared_with(dataset, key):
    """The keys of the other runs with which a comparison is stored that a run took part in."""
    return [k for k in run_record.list_runs(dataset) if k != key and key in _compared(dataset, k)]


def _compared(dataset, key):
    """The keys of the runs in the comparison that is stored with one.

    Of its record and of its results: of a renaming that was cut short one may be done.
    """
    record = getattr(run_record.config_of(dataset, key), "compare", None) or {}
    results = run_results.load_results(dataset, key).get("compare") or {}
    return {*record.get("cam_keys", []), *results.get("cam_keys", [])}


def _agreements(dataset, key, new_key):
    """``{old: new}`` of the fields of other runs that are named after a pair with this run."""
    moves = {}
    for other in _compared_with(dataset, key):
        field = f"{other}_{key}_agreement"
        if field in run_record.config_of(dataset, other).fields:
            moves[field] = f"{other}_{new_key}_agreement"
    return moves


def _rename_comparison(dataset, key, renamed):
    """Gives a comparison that is stored with another run the new names, and its views."""
    config = run_record.config_of(dataset, key)
    _rename_views(dataset, config.saved_views, renamed)
    _rename_results(dataset, key, renamed, ["compare"])
    known = {n: getattr(config, n, None) for n in ("fields", "saved_views", "compare")}
    run_record.update(dataset, key, **{n: renamed.entry(n, value) for n, value in known.items()})


class _Renamed:
    """Plain data with every name of a run replaced: its key, its fields, and what begins with the key."""

    def __init__(self, key, new_key, moves):
        self._key, self._new_key, self._moves = key, new_key, moves
        # Longest first: run_gradcam would be found in run_gradcam_layer4.
        names = sorted(map(re.escape, moves), key=len, reverse=True)
        self._fields = re.compile(rf"(?<!\w)({'|'.join(names)})(?!\w)") if names else None
        # where a comparison of models says the key: anywhere else it may be a word like any other
        self._said = re.compile(
            rf"(?<=what ){key}(?= predicts)|(?<=maps of ){key}(?=:| and )|(?<=[:,] ){key}(?= [-−\d])|"
            rf"(?<= and ){key}(?= for the same class)|(?<= under ){key}(?=,|$)"
        )

    def __call__(self, value):
        """Returns a copy of JSON-able data with the new names."""
        if isinstance(value, dict):
            return {self(k): self.entry(k, v) for k, v in value.items()}
        if isinstance(value, list):
            return [self(v) for v in value]
        return self.text(value) if isinstance(value, str) else value

    def entry(self, name, value):
        """The key itself is only replaced where a key stands: a class may have the same name."""
        if name == "cam_key":
            return self.key(value)
        if name == "cam_keys" and isinstance(value, list):
            return [self.key(self(v)) for v in value]
        if name == "compare" and isinstance(value, dict):
            return self._comparison(self(value))
        return self(value)

    def key(self, value):
        """Returns the new key for the old one, and anything else as it is."""
        return self._new_key if value == self._key else value

    def _comparison(self, found):
        """The record or the results of ``compare_cams``, the new fields in it: keys have more places there."""
        used = found.get("settings") or {}
        if isinstance(used.get("models"), dict):
            used["models"] = {self.key(k): name for k, name in used["models"].items()}
        if found.get("models"):
            self._rename_models(found)
        elif found.get("agreement"):
            self._rename_labels(found)
        return found

    def _rename_models(self, found):
        """Of a comparison of models, which are called by their keys."""
        models = found["models"]
        models["keys"] = [self.key(k) for k in models["keys"]]
        for step in models["successive"]:
            step["from"], step["to"] = self.key(step["from"]), self.key(step["to"])
        models["target"] = self.sentence(models["target"])
        models["sentences"] = [self.sentence(text) for text in models["sentences"]]
        found["notes"] = [self.sentence(text) for text in found["notes"]]
        found["agreement"]["labels"] = [self.key(v) for v in found["agreement"]["labels"]]

    def sentence(self, text):
        """Returns what is said of a comparison of models with the new key."""
        return self._said.sub(self._new_key, text)

    def _rename_labels(self, found):
        """Of a comparison of methods, which are called by key and method where two runs have one."""
        table, fields = found["agreement"], set(self._moves.values())
        labels = {
            label: self._new_key + label[len(self._key) :]
            for label, field in zip(table["labels"], table["fields"], strict=True)
            if field in fields and label.startswith(f"{self._key} ")
        }
        if not labels:
            return
        table["labels"] = [labels.get(label, label) for label in table["labels"]]
        for row in found["leaderboard"]:
            row["label"] = labels.get(row["label"], row["label"])
        said = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, labels))})(?!\w)")
        advice = found["recommendation"]
        advice["sentence"] = said.sub(lambda match: labels[match[1]], advice["sentence"])
        advice["evidence"] = [
            said.sub(lambda match: labels[match[1]], v) if isinstance(v, str) else v
            for v in advice["evidence"]
        ]

    def text(self, value):
        """Returns a text with the new names of fields and the new key at its beginning."""
        if value.startswith(f"{self._key}: "):
            value = self._new_key + value[len(self._key) :]
        pair = re.match(r"(\w+) vs (\w+)(?=: )", value)
        if pair:
            value = f"{self.key(pair[1])} vs {self.key(pair[2])}{value[pair.end() :]}"
        return self.fields(value)

    def fields(self, value):
        """Returns a text with the new names of fields."""
        if self._fields is None:
            return value
        return self._fields.sub(lambda match: self._moves[match[1]], value)


def _move_files(dataset, key, config, new_key, moves):
    """Moves a run's files into the new key's folder; returns it."""
    folder = config.settings["map_dir"]
    target = os.path.join(os.path.dirname(folder), new_key)
    for field_folder, name in list(own_files(Run(dataset, key, config))):
        field = os.path.basename(field_folder)
        new_folder = os.path.join(target, moves.get(field, field))
        os.makedirs(new_folder, exist_ok=True)
        os.replace(os.path.join(field_folder, name), os.path.join(new_folder, name))
    for old in config.fields:
        old_folder = os.path.join(folder, old) + os.sep
        new_folder = os.path.join(target, moves.get(old, old)) + os.sep
        for field in {old, moves.get(old, old)}:  # renamed already, if this is the second attempt
            _point_elsewhere(dataset, field, old_folder, new_folder)
        remove_if_empty(old_folder)
    remove_if_empty(folder)
    return target


def _point_elsewhere(dataset, field, old_folder, new_folder):
    path = f"{field}.map_path"
    moved = {"$replaceOne": {"input": f"${path}", "find": old_folder, "replacement": new_folder}}
    begins = {path: {"$regex": f"^{re.escape(old_folder)}"}}
    dataset._sample_collection.update_many(begins, [{"$set": {path: moved}}])


def _rename_fields(dataset, moves, key, new_key):
    dataset._reload(hard=True)
    with schema_lock(dataset):
        left = {old: new for old, new in moves.items() if dataset.get_field(old) is not None}
        _rename_in_app(dataset, moves)
        if left:
            dataset.rename_sample_fields(left)
    for field in moves.values():
        path = f"{field}.cam_key"
        dataset._sample_collection.update_many({path: key}, {"$set": {path: new_key}})
    dataset.reload()


def _rename_in_app(dataset, moves):
    """Lets the fields keep their colours, their place in the grid and their group of the sidebar."""
    config = dataset.app_config
    scheme, active = config.color_scheme, config.active_fields
    if scheme and scheme.fields:
        scheme.fields = [
            {**e, "path": moves.get(e.get("path"), e.get("path"))} for e in scheme.fields
        ]
    if active and active.paths:
        paths = [moves.get(p, p) for p in active.paths]
        config.active_fields = fod.ActiveFields(paths=paths, exclude=active.exclude)
    for group in config.sidebar_groups or []:
        group.name = moves.get(group.name, group.name)
    dataset.save()


def _rename_views(dataset, names, renamed):
    """Renames a run's saved views, and lets them look at the fields' new names."""
    dataset._doc.reload("saved_views")
    for name in names:
        new = renamed.text(name)
        known = next((n for n in (name, new) if dataset.has_saved_view(n)), None)
        if known is None:
            continue  # somebody deleted it
        view = dataset._get_saved_view_doc(known)
        view.view_stages = [renamed.fields(stage) for stage in view.view_stages]
        view.description = renamed.sentence(view.description or "") or None
        view.save()
        dataset.update_saved_view_info(known, {"name": new})


def _describe(dataset, fields, renamed):
    """Lets the fields of comparisons of models say the new key in their descriptions."""
    for name in fields:
        field = dataset.get_field(name) if name.endswith("_agreement") else None
        if field is not None and field.description:
            field.description = renamed.sentence(field.description)
            field.save()


def _rename_tags(dataset, key, renamed):
    """Renames the tags that a run's jobs gave."""
    for tag in tags_of(Run.open(dataset, key)):
        new = renamed.text(tag)
        if new != tag:
            tagged = dataset.match_tags(tag)
            tagged.tag_samples(new)
            tagged.untag_samples(tag)


def _rename_results(dataset, key, renamed, names=None):
    """Renames in the results that are stored with a run: in all of them, or in those of some names."""
    results = run_results.load_results(dataset, key)
    names = [name for name in results if name != "ids"] if names is None else names
    changed = {name: renamed.entry(name, results[name]) for name in names if name in results}
    if changed:
        run_results.save_results(dataset, key, **changed)
