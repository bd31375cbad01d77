"""The report about a detector: one page, a table of classes and one of objects, everything as JSON."""

import csv
import dataclasses
import json
import os

import cv2
import numpy as np

from ..runs import keys
from ..runs import record as run_record
from .report import COMPOSITES, Page, figure, listed, overlay, shrunk
from .rows import attributes_of
from .tables import SCHEMA, cell, write_classes

_BOX = (255, 120, 20)


def write_objects_report(folder, summary, found, job):
    """Writes the page ``{cam_key}_bias.html``, two tables, and everything as JSON beside it.

    Args:
        folder: an existing folder
        summary: the :class:`BiasSummary`
        found: the :class:`ObjectFindings`, whose pictures are still there
        job: the :class:`BiasJob`

    Returns:
        the path of the page
    """
    stem = os.path.join(folder, f"{summary.cam_key}_bias")
    write_classes(f"{stem}_classes.csv", summary)
    objects = [_row(found, unit, home) for unit, home in enumerate(found.scan.homes.tolist())]
    with open(f"{stem}_objects.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        names = [name for name in objects[0] if name != "box"]
        table.writerow(names)
        for row in objects:
            table.writerow([cell(row[name]) for name in names])
    document = {
        "schema": SCHEMA,
        "lines": summary.lines(),
        "summary": run_record.jsonable(dataclasses.asdict(summary)),
        "objects": run_record.jsonable(objects),
    }
    with open(f"{stem}.json", "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1, ensure_ascii=False, allow_nan=False)
    with open(f"{stem}.html", "w", encoding="utf-8") as file:
        file.write(ObjectsPage(summary, found, job).text())
    return f"{stem}.html"


def _row(found, unit, home):
    scan = found.scan
    return {
        "sample": scan.ids[home],
        "filepath": scan.paths[home],
        "id": scan.label_ids[unit],
        "label": scan.names[unit],
        "box": [float(v) for v in scan.boxes[unit]],
        **attributes_of(found, unit),
    }


class ObjectsPage(Page):
    """The page about a detector, whose unit is the object.

    Args:
        summary: the :class:`BiasSummary`
        found: the :class:`ObjectFindings`
        job: the :class:`BiasJob`
    """

    def __init__(self, summary, found, job):
        super().__init__(summary, found, None, job.model)
        fields = keys.heatmap_fields_of(job.dataset, summary.cam_key)
        self._dataset, self._heat_field = job.dataset, next(iter(fields), None)
        self._named = np.array([n or "" for n in found.scan.names], dtype=object)

    def _counts(self):
        return f"{self._summary.units:,} objects, {self._summary.tested:,}"

    def _of_class(self, label):
        return lambda unit: self._named[unit] == label

    def _worst(self, wanted):
        """Tested objects, the most dependent first."""
        f = self._found
        if f.check is None:
            return []
        swapped = zip(f.units.tolist(), f.check.status, strict=True)
        units = [u for u, status in swapped if status == "ok" and wanted(u)]
        return sorted(units, key=lambda u: -np.nan_to_num(f.assessment.dependence[u], nan=-1))

    def _photo(self, unit):
        """An object in its photo, above the heat of the photo's objects where the run has it."""
        f, home = self._found, int(self._found.scan.homes[unit])
        photo = shrunk(f.tested.pictures[self._position(home)])
        heat = self._heat_of(f.scan.ids[home])
        pictures = [(self._boxed(photo, unit), "photo")]
        if heat is not None:
            heat = cv2.resize(heat, photo.shape[1::-1], interpolation=cv2.INTER_CUBIC).clip(0, 1)
            pictures.append((self._boxed(overlay(photo, heat), unit), "heat"))
        verdict = f.assessment.verdicts[unit]
        caption = (
            f"{os.path.basename(f.scan.paths[home])}: {self._named[unit]} {f.scan.score[unit]:.2f}; "
            f"{verdict.verdict}: {verdict.reason}"
        )
        return figure(pictures, caption)

    def _heat_of(self, sample_id):
        from ..data.heatmap_reader import read_maps

        if self._heat_field is None:
            return None
        return read_maps(self._dataset, [sample_id], [self._heat_field])[sample_id][0]

    def _boxed(self, picture, unit):
        height, width = picture.shape[:2]
        left, top, right, bottom = self._found.scan.boxes[unit] * np.array([width, height] * 2)
        drawn = np.array(picture, order="C")
        corners = (round(left), round(top)), (round(right) - 1, round(bottom) - 1)
        return cv2.rectangle(drawn, *corners, _BOX, 2)

    def _composites(self, unit):
        """The object in those of its other surroundings that cost most."""
        from ...cam_core.bias.composites import remove_objects, swap_background
        from ...cam_core.bias.object_swap_test import box_mask

        f, home = self._found, int(self._found.scan.homes[unit])
        feather = self._summary.settings["feather"]
        own, row = self._position(home), int(np.flatnonzero(f.units == unit)[0])
        picture = f.tested.pictures[own]
        mask = box_mask(f.scan.boxes[unit], picture.shape[:2])
        donors, scores = f.check.donors.foreign[row], f.check.table.foreign_scores[row]
        known = [k for k in range(len(donors)) if donors[k] >= 0 and np.isfinite(scores[k])]
        figures = []
        for k in sorted(known, key=lambda k: scores[k])[:COMPOSITES]:
            lent, taken = f.tested.pictures[donors[k]], f.tested.removals[donors[k]]
            below = remove_objects(lent, taken, int(np.ceil(feather))).image
            made = swap_background(picture, mask, below, 0, feather)
            winner = int(f.check.table.foreign_predictions[row, k])
            caption = (
                f"{os.path.basename(f.scan.paths[home])} in one of the worst of {len(known)} other "
                f"surroundings: its score is {scores[k]:.2f}, was {f.check.table.score[row]:.2f}; found there: "
                f"{self._model.label(winner) if winner >= 0 else 'nothing'}"
            )
            figures.append(figure([(self._boxed(shrunk(made), unit), "composite")], caption))
        return figures

    def _next_steps(self, label):
        f, s = self._found, self._summary
        mine = self._worst(self._of_class(label))
        fine = [u for u in mine if f.assessment.verdicts[u].verdict == "relies on object"]
        lost = [
            u
            for u, status in enumerate(f.status)
            if status == "not found" and self._of_class(label)(u)
        ]
        steps = [
            f"Collect more pictures of {label} in other surroundings. {len(fine)} of {len(mine)} tested objects "
            f"do not depend on theirs, in the samples {listed(self._samples(fine))}",
            "Augment: train with the objects pasted into other samples, then run this again on the same samples.",
            f"Look at them in the view “{s.cam_key}: relies on background”; if the context is legitimate, say "
            "so in the class's description.",
        ]
        if lost:
            steps.append(
                f"{len(lost)} are not found at all, in the samples {listed(self._samples(lost))}: compute_cams "
                "with targets={'missed': ...} shows what the model has there instead."
            )
        return self._steps(steps)

    def _samples(self, units):
        ids = self._found.scan.ids
        return list(dict.fromkeys(ids[i] for i in self._found.scan.homes[units].tolist()))
