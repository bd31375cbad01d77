"""What was found, to be handed on: one HTML page without anything outside it, tables and JSON.

This file prepares the data; ``report.html.j2`` beside it says how they look. Jinja2 escapes whatever comes
from the dataset: names, labels, paths.
"""

import os

import numpy as np

from ...cam_core.spatial.overlay import overlay, scale_bar
from ..data.drawn import data_uri
from ..data.written_paths import PYTHON, confined, whole_file
from ..runs.keys import heatmap_fields_of
from ..runs.look import look_of
from ..text import number, percent, with_interval
from .summary import region_sentence
from .tables import entries_of, write_classes, write_json, write_units
from .thumbnails import map_picture, shrunk, with_box

_TEMPLATE = "report.html.j2"
_ENDINGS = (".html", ".json", "_classes.csv", "_samples.csv", "_objects.csv")
#: of a class or of all of them: photos, composites; classes in the table; maps of each kind
_PICTURES, _COMPOSITES, _ROWS, _MAPS = 4, 2, 200, 12
# the scale of the heat: its width in pixels, and the page's colours
_SCALE, _PAPER, _INK = 420, (245, 246, 248), (80, 86, 100)


def write_report(folder, summary, found, model, dataset):
    """Writes the page ``{cam_key}_bias.html``, two tables, and everything as JSON beside it.

    Args:
        folder: an existing folder
        summary: the :class:`BiasSummary`
        found: the :class:`Findings`, whose pictures are still there
        model: the :class:`LoadedModel`
        dataset: which is asked for the heat of boxes

    Returns:
        the path of the page
    """
    stem = _stem(folder, summary.cam_key)
    name, entries = "objects" if found.of_boxes else "samples", entries_of(found, model)
    write_units(f"{stem}_{name}.csv", entries)
    write_classes(f"{stem}_classes.csv", summary)
    write_json(f"{stem}.json", summary, name, entries)
    page = template().render(_page(summary, found, _Figures(summary, found, model, dataset)))
    with whole_file(f"{stem}.html") as file:
        file.write(page)
    return f"{stem}.html"


def _stem(folder, cam_key):
    return os.path.join(folder, f"{cam_key}_bias")


def check_report(folder, cam_key, origin, replace=False):
    """Checks whether the files of a report can be written.

    Args:
        folder: of the report
        cam_key: of the run
        origin: where the call came from, see :func:`~operators.data.written_paths.allowed_folder`
        replace (False): whether files of these names may be replaced from the App; from Python they may

    Returns:
        the folder's absolute path

    Raises:
        ValueError: if the folder is not allowed or cannot be written to, or a file would be lost
    """
    path = above = confined("report", folder, origin)
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if not os.path.isdir(above) or not os.access(above, os.W_OK):
        raise ValueError(f"report: nothing can be written to {path!r}: {above!r} does not allow it")
    for ending in _ENDINGS:
        file = f"{_stem(path, cam_key)}{ending}"
        if os.path.isdir(file) and not os.path.islink(file):
            raise ValueError(f"report: {file!r} is a folder; give another report folder")
        if os.path.lexists(file) and not replace and origin not in (None, PYTHON):
            raise ValueError(
                f"report: {file!r} exists; give another report folder, or pass overwrite=True to replace it"
            )
    return path


def template():
    """The page's ``jinja2.Template``."""
    import jinja2

    environment = jinja2.Environment(
        # beside this file, wherever FiftyOne has linked or copied the plugin
        loader=jinja2.FileSystemLoader(os.path.dirname(os.path.abspath(__file__))),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(number=number, percent=percent, with_interval=with_interval)
    environment.globals.update(number=number)
    return environment.get_template(_TEMPLATE)


def _page(summary, found, figures):
    s = summary
    return {
        "s": s,
        "of_boxes": found.of_boxes,
        "lines": s.lines(),
        "flagged": [
            {**row, **_shown(found, figures, row["label"]), **_next(found, row["label"])}
            for row in s.flagged
        ],
        "strongest": _shown(found, figures),
        "classes": s.classes[:_ROWS],
        "scale": data_uri(scale_bar(_SCALE, figures.look, paper=_PAPER, ink=_INK)),
        "portraits": [{**p, "src": figures.map(p["portrait"])} for p in s.portraits[:_MAPS]],
        "clusters": [{**c, "src": figures.map(c["mean_map"])} for c in s.clusters[:8]],
        "groups": [
            {**row, "src": figures.map(row["mean_map"])}
            for row in (s.groups or {"groups": []})["groups"][:_MAPS]
            if row["mean_map"] is not None
        ],
        "regions": [region_sentence(region) for region in s.regions],
    }


def _worst(found, label=None):
    """Units whose swap was run, the most dependent first; of one class, or of all."""
    if found.tested.check is None:
        return []
    units = [
        i
        for i in found.tested.rows.tolist()
        if found.status[i] == "ok" and label in (None, found.names[i])
    ]
    return sorted(units, key=lambda i: -np.nan_to_num(found.assessment.dependence[i], nan=-1))


def _shown(found, figures, label=None):
    """The figures of a class, or of all of them."""
    units = _worst(found, label)
    return {
        "photos": [figures.photo(i) for i in units[:_PICTURES]],
        "composites": figures.composites(units[0]) if units else [],
    }


def _next(found, label):
    """What to do next about a class: how many of which samples say so."""
    tested = _worst(found, label)
    verdicts = {i: found.verdict(i).verdict for i in tested}
    relying = [i for i in tested if verdicts[i].startswith("relies on background")]
    lost = [i for i, status in enumerate(found.status) if status == "not found"]
    units = {
        "tested": tested,
        "fine": [i for i in tested if verdicts[i] == "relies on object"],
        "wrong": [i for i in relying if found.correct[i] == 0],
        "lost": [i for i in lost if found.names[i] == label],
    }
    return {
        name: {"n": len(own), "ids": list(dict.fromkeys(found.scan.ids[i] for i in own))}
        for name, own in units.items()
    }


class _Figures:
    """Pictures of units, and what the page says below them."""

    def __init__(self, summary, found, model, dataset):
        self._found, self._model, self._dataset = found, model, dataset
        self.look = look_of(dataset)
        self._feather = summary.settings["feather"]
        self._heat_field = next(iter(heatmap_fields_of(dataset, summary.cam_key)), None)

    def map(self, values):
        """A map alone."""
        return data_uri(map_picture(values, self.look))

    def photo(self, i):
        """A photo, above its heat where there is heat."""
        f = self._found
        photo, heat = shrunk(f.tested.pictures[self._picture(i)]), self._heat(i)
        pictures = [("photo", self._source(i, photo))]
        if heat is not None:
            pictures.append(("heat", self._source(i, overlay(photo, heat, self.look))))
        explained = f.of_boxes or f.multi_label
        return {
            "pictures": pictures,
            "file": os.path.basename(f.scan.paths[i]),
            "name": f.names[i] if explained else self._model.label(int(f.scan.predicted[i])),
            "score": f.scan.score[i],
            "says": f.verdict(i),
        }

    def composites(self, i):
        """The object of a unit on those of its other backgrounds that cost most."""
        f, place = self._found, int(self._found.place[i])
        check = f.tested.check
        donors, scores = check.donors.foreign[place], check.table.foreign_scores[place]
        known = np.flatnonzero((donors >= 0) & np.isfinite(scores)).tolist()
        figures = []
        for k in sorted(known, key=lambda k: scores[k])[:_COMPOSITES]:
            winner = int(check.table.foreign_predictions[place, k])
            figures.append(
                {
                    "pictures": [("composite", self._source(i, self._composite(i, donors[k])))],
                    "file": os.path.basename(f.scan.paths[i]),
                    "of": len(known),
                    "score": scores[k],
                    "was": check.table.score[place],
                    "winner": self._model.label(winner) if winner >= 0 else "nothing",
                }
            )
        return figures

    def _composite(self, i, donor):
        from ...cam_core.bias.composites import remove_objects, swap_background
        from ...cam_core.bias.object_swap_test import box_mask

        f, tested, margin = self._found, self._found.tested, int(np.ceil(self._feather))
        picture = tested.pictures[self._picture(i)]
        mask = (
            box_mask(f.scan.boxes[i], picture.shape[:2]) if f.of_boxes else tested.masks[f.place[i]]
        )
        other = remove_objects(tested.pictures[donor], tested.removals[donor], margin).image
        return shrunk(swap_background(picture, mask, other, feather=self._feather))

    def _picture(self, i):
        return self._found.tested.picture_of(int(self._found.place[i]))

    def _source(self, i, picture):
        boxes = self._found.scan.boxes
        return data_uri(with_box(picture, None if boxes is None else boxes[i]))

    def _heat(self, i):
        """Heat over the whole image: of a unit, or of all objects of a box's photo."""
        from ..data.heatmap_reader import read_maps

        f = self._found
        if not f.of_boxes:
            return f.scan.maps[i]
        if self._heat_field is None:
            return None
        return read_maps(self._dataset, [f.scan.ids[i]], [self._heat_field])[f.scan.ids[i]][0]
