"""One sample's object, and what a model says of it on other samples' backgrounds."""

import numpy as np

from ..bias.pictures import working_side
from ..bias.scan import measured_heat
from ..bias.schema import RECORDS
from ..bias.swap import fitted
from ..data.heatmap_reader import GAUSSIAN, RANDOM_MAP, baseline_maps
from ..data.images import decode_image
from ..data.objects import AnnotatedObjects
from ..jobs.inference import Predictor
from ..runs.predictions import predicts

#: samples asked whether they lend a background: most are of another class, so that enough of them fit
_CANDIDATES = 8
#: as many for each background wanted where no prediction is stored that tells their class
_UNKNOWN_CANDIDATES = 4
# Taken away around an object before another is pasted: as far as the paste fades.
MARGIN = 2


class SampleObjects:
    """The object of samples: as the run was analysed, else the one field that can be meant."""

    def __init__(self, dataset, cam_key, objects, notes):
        used = (RECORDS.record_of(dataset, cam_key) or {}).get("settings") if cam_key else None
        described = (used or {}).get("objects") or {}
        classes = "auto"
        if objects == "auto" and described.get("fields"):
            objects, classes = described["fields"], described.get("classes") or "auto"
        try:
            self._objects = AnnotatedObjects(dataset, objects, classes)
        except ValueError as error:
            if objects != "auto":
                raise
            notes.append(f"No objects: {error}")  # several could be meant: the rest is said without
            self._objects = AnnotatedObjects(dataset, None)

    def __bool__(self):
        return bool(self._objects)

    def measure(self, result, primary, item, name, notes):
        """Share of the heat on the object, and of a uniform map; Nones where there is none."""
        if not self:
            return None, None
        found, _ = self._objects.read([item.id], {item.id: name})
        if found[item.id].status != "ok":
            notes.append(f"No object to measure: {found[item.id].status.replace('_', ' ')}.")
            return None, None
        key = next(k for k in result.maps if k[0] == primary[0] and primary[1] in (None, k[1]))
        measured = measured_heat(
            result.maps[key][:, 0].cpu(),
            {item.id: (found[item.id], "auto")},
            [result.window(key[1], item.window)],
        )
        energy, area = float(measured.obj_energy[0]), float(measured.area[0])
        return (energy, area) if np.isfinite(energy) else (None, area)

    def measure_stored(self, sample_id, name, heat):
        """What of a stored map lies on the object, beside what maps would have that know nothing.

        Args:
            sample_id: the sample
            name: of the explained class
            heat: (h, w) in [0, 1] over the whole image

        Returns:
            a dict ``heat, uniform, centred, random``, each 0 to 1 or None; and the status of the
            object, ``"ok"`` where it could be measured
        """
        import torch

        if not self:
            return {}, "no_object"
        found, _ = self._objects.read([sample_id], {sample_id: name})
        if found[sample_id].status != "ok":
            return {}, found[sample_id].status
        size = found[sample_id].object.shape
        floors = baseline_maps([GAUSSIAN, RANDOM_MAP], [sample_id], size, 51)[0]
        own = torch.from_numpy(np.ascontiguousarray(heat)).float()[None]
        shares = [
            measured_heat(maps, {0: (found[sample_id], "auto")}, None)
            for maps in (own, floors[:1], floors[1:])
        ]
        names = ("heat", "centred", "random")
        values = {n: float(s.obj_energy[0]) for n, s in zip(names, shares, strict=True)}
        values["uniform"] = float(shares[0].area[0])
        return {n: v if np.isfinite(v) else None for n, v in values.items()}, "ok"

    def masks(self, ids, names, sizes):
        """``{id: (h, w) mask or None}`` on pictures of these sizes."""
        out = {}
        for i in ids:
            found, _ = self._objects.read([i], names, max(sizes[i]), {i: sizes[i]})
            ok = found[i].status == "ok"
            out[i] = fitted(found[i].object, sizes[i]) if ok else None
        return out


def swaps_of(dataset, model, cam_key, objects, item, path, best, donors, seed, notes):
    """Puts the object on other samples' backgrounds; returns what the model says of each."""
    from ...cam_core.bias.composites import remove_objects, swap_background
    from ...cam_core.bias.swap_test import swap_check

    if not objects or not donors:
        return []
    name = model.label(best)
    rows = [(item.id, path), *_candidates(dataset, cam_key, item.id, name, donors, seed)]
    pictures = pictures_of(rows, working_side(item.window, tuple(item.image.shape[1:])))
    ids = list(pictures)
    sizes = {i: p.shape[:2] for i, p in pictures.items()}
    names = {i: name if i == item.id else None for i in ids}
    masks = objects.masks(ids, names, sizes)
    ids = [i for i in ids if masks[i] is not None and masks[i].any()]
    if item.id not in ids or len(ids) < 2:
        notes.append("Not tested on other backgrounds: this sample or the others have no object.")
        return []
    images, inside = [pictures[i] for i in ids], [masks[i] for i in ids]
    predict = Predictor(model, 0)
    threshold = model.adapted.threshold if getattr(model.adapted, "multi_label", False) else None
    check = swap_check(
        images, inside, predict, samples=[ids.index(item.id)], classes=[best], count=donors,
        control=False, seed=seed, threshold=threshold,
    )  # fmt: skip
    if check.status[0] != "ok":
        notes.append(f"Not tested on other backgrounds: {check.status[0]}.")
        return []
    lent = [donor for donor in check.donors.foreign[0].tolist() if donor >= 0]
    first = ids.index(item.id)

    def pasted(donor):
        bare = remove_objects(images[donor], inside[donor], MARGIN).image
        return swap_background(images[first], inside[first], bare)

    composites = [pasted(donor) for donor in lent]
    out = []
    for donor, picture, scores in zip(lent, composites, predict(composites), strict=True):
        guess, kept = int(scores.argmax()), threshold is None or scores[best] >= threshold
        row = {"prediction": model.label(guess), "probability": float(scores[guess])}
        if threshold is not None:  # other classes do not take its place: it is there or it is not
            said = name if kept else f"not {name}"
            row = {"prediction": said, "probability": float(scores[best])}
        out.append({"id": ids[donor], "picture": picture, "own_score": float(scores[best]), **row})
    return out


def _candidates(dataset, cam_key, sample_id, name, donors, seed):
    """(id, filepath) of samples that may lend a background: those of the analysis first."""
    view = dataset.exclude([sample_id])
    chosen, wanted = [], max(_CANDIDATES, _UNKNOWN_CANDIDATES * donors)
    if cam_key is not None and dataset.get_field(f"{cam_key}_bias.donors") is not None:
        chosen = (dataset.select([sample_id]).values(f"{cam_key}_bias.donors") or [None])[0] or []
    field = f"{cam_key}_prediction"
    if cam_key is not None and dataset.get_field(field) is not None:
        view = view.match(~predicts(dataset, field, name))
        wanted = max(_CANDIDATES, 2 * donors)
    rows = list(zip(*dataset.select(chosen).values(["id", "filepath"]), strict=True))
    more = view.exclude(chosen) if chosen else view
    more = more.take(max(0, wanted - len(rows)), seed=seed)
    return rows + list(zip(*more.values(["id", "filepath"]), strict=True))


def pictures_of(rows, side):
    """``{id: (h, w, 3) array}`` at a longest side; what cannot be read is left out."""
    out = {}
    for sample_id, path in rows:
        try:
            picture = decode_image(path)
        except Exception:  # too large for Pillow, broken, gone: another sample lends its background
            continue
        picture.thumbnail((side, side))
        out[sample_id] = np.asarray(picture)
    return out
