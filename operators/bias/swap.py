"""The second pass: who is tested, and what other backgrounds do to their scores."""

import collections.abc
import dataclasses
import os

import numpy as np

from ..jobs.base import CPU_BATCH, GPU_BATCH, batch_size_of
from ..jobs.inference import Predictor, Reporting, workers_of
from .pictures import Masks, Pictures

# Samples whose masks are read with one query.
_READ = 64


def choose_probe(classes, usable, count, seed):
    """Draws which samples are tested, as evenly over the classes as there are samples.

    Args:
        classes: (N,) explained classes
        usable: (N,) bool, who can be tested
        count: how many at most
        seed: of the draw

    Returns:
        (n,) sorted indices
    """
    from ...cam_core.bias.effects import choose_probe as draw

    rows = np.flatnonzero(usable)
    return rows[draw(classes[rows], count, seed)]


@dataclasses.dataclass
class Probe:
    """The units that were tested.

    Attributes:
        rows: (n,) their indices
        lenders: (m,) indices of units that only lend; their pictures and masks follow those tested
        ids: of the pictures' samples
        picture: (n,) which picture each unit is in; None where the i-th is in the i-th
        check: the :class:`~cam_core.bias.swap_test.SwapCheck`, or None where there are no objects
        heat_effect: (n,) share of the loss that the background's hottest pixels cause
        regions: ``{name: RegionCheck}`` of border and hottest place, or of what is named context
        noise: (m, 2) of :func:`~cam_core.bias.noise_sensitivity.noise_check`, of some of the samples, or None
        noise_rows: (m,) positions of these among the samples
        pictures, masks, contexts: of them, until the job ends
        removals: masks of all annotated objects, which no background is lent with
        boxes: n arrays (k, 4)
        grids: (n, 28, 28) float32 objects on the grid of the small maps
    """

    rows: np.ndarray
    ids: list = dataclasses.field(default_factory=list)
    picture: np.ndarray = None
    check: object = None
    heat_effect: object = None
    regions: dict = dataclasses.field(default_factory=dict)
    pictures: object = None
    masks: object = None
    contexts: object = None
    removals: object = None
    noise: object = None
    noise_rows: object = None
    boxes: list = dataclasses.field(default_factory=list)
    grids: object = None
    lenders: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, int))

    @property
    def all_rows(self):
        """(n + m,) indices of the samples whose pictures there are."""
        return np.concatenate([self.rows, self.lenders]).astype(int)

    def picture_of(self, place):
        """The picture of the unit at a place."""
        return place if self.picture is None else int(self.picture[place])


class CausalTests:
    """Prepares pictures and masks of a probe and runs the causal checks on it.

    Args:
        model: the :class:`LoadedModel`
        settings: has ``donors, feather, batch_size, num_workers, seed``, for a swap also ``most_donors,
            control``
        folder: a temporary folder
        precision: of the forward
    """

    def __init__(self, model, settings, folder, precision="float32"):
        self._model = model
        self._settings = settings
        self._folder = folder
        self._workers = workers_of(settings)
        self._predictor = self.predictor(model, precision)

    def predictor(self, model, precision):
        """What composites are run through."""
        return Predictor(model, self._workers, precision)

    def close(self):
        """Ends the threads."""
        self._predictor.close()

    @property
    def batch_size(self):
        """Pictures per forward."""
        return batch_size_of(self._settings, self._model, 2 * CPU_BATCH, 2 * GPU_BATCH)

    def prepare(self, scan, rows, objects, names, lenders=()):
        """Decodes the pictures and draws the masks of samples; yields how many are through.

        Args:
            scan: the :class:`Scan`
            rows: (n,) indices of the samples
            objects: the :class:`AnnotatedObjects`, which may be none
            names: of each row of the scan the name of the explained class, or None
            lenders (()): (m,) indices of samples that only lend

        Returns:
            a :class:`Probe`; samples whose pictures cannot be read any more are left out
        """
        everybody = np.concatenate([rows, lenders]).astype(int)
        given = [(scan.ids[i], scan.paths[i], int(scan.side[i])) for i in everybody]
        pictures = Pictures(self._subfolder("pictures"), given)
        yield from pictures.prepare(self._workers)
        lost = sorted(pictures.failures)
        if lost:
            kept = np.setdiff1d(np.arange(len(everybody)), lost)
            raise_if_few(len(kept), pictures.failures[lost[0]])
            pictures = pictures.only(kept.tolist())
            rows, lenders = everybody[kept[kept < len(rows)]], everybody[kept[kept >= len(rows)]]
        tested = Probe(rows, pictures=pictures, lenders=np.asarray(lenders, int))
        tested.ids = [scan.ids[i] for i in tested.all_rows]
        if objects:
            self._draw(tested, scan, objects, names)
        return tested

    def _subfolder(self, name):
        path = os.path.join(self._folder, name)
        os.makedirs(path)
        return path

    def _draw(self, tested, scan, objects, names):
        """Masks on the pictures' own pixels, in batches of equal longest side."""
        from ...cam_core.spatial.masks import resize_masks
        from .scan import KEPT

        tested.masks = Masks(self._subfolder("masks"))
        tested.removals = Masks(self._subfolder("removals"))
        tested.contexts = Masks(self._subfolder("contexts")) if objects.has_context else None
        sizes = tested.pictures.sizes()
        tested.boxes = [None] * len(sizes)
        tested.grids = np.zeros((len(sizes), KEPT, KEPT), np.float32)
        order, rows = sorted(range(len(sizes)), key=lambda i: max(sizes[i])), tested.all_rows
        for start in range(0, len(order), _READ):
            for side, part in _by_side(order[start : start + _READ], sizes, rows, scan).items():
                ids = [scan.ids[rows[i]] for i in part]
                shapes = {scan.ids[rows[i]]: sizes[i] for i in part}
                wanted = {scan.ids[rows[i]]: names[rows[i]] for i in part}
                found, _ = objects.read(ids, wanted, side[0], shapes)
                for i, sample_id in zip(part, ids, strict=True):
                    own = found[sample_id]
                    tested.masks.put(i, fitted(own.object, sizes[i]))
                    everything = np.maximum(own.object, own.other)
                    tested.removals.put(i, fitted(everything, sizes[i]))
                    if tested.contexts is not None:
                        tested.contexts.put(i, fitted(own.context, sizes[i]))
                    tested.boxes[i] = own.boxes
                    tested.grids[i] = resize_masks(_tensor(own.object)[None], (KEPT, KEPT))[0]
        count = len(tested.rows)
        tested.boxes, tested.grids = tested.boxes[:count], tested.grids[:count]

    def swap(self, tested, classes, scan, groups):
        """Runs the swap; yields how many pictures went through the model.

        Args:
            tested: the :class:`Probe`
            classes: the :class:`~operators.bias.membership.ClassMembership`
            scan: the :class:`Scan`
            groups: (n + m,) scenes of the pictures, or None
        """
        from ...cam_core.bias.swap_test import swap_check

        s = self._settings

        def call(predict):
            return swap_check(
                tested.pictures, tested.masks, predict, count=s.donors, most=s.most_donors,
                control=s.control, groups=groups, removal_masks=tested.removals, feather=s.feather,
                batch_size=self.batch_size, seed=s.seed, **classes.arguments(scan, tested),
            )  # fmt: skip

        tested.check = yield from self._reported(call)

    def noise(self, tested, classes, rows, threshold=None):
        """Adds noise to objects, and to everything else; yields how many pictures are through.

        Args:
            tested: the :class:`Probe`
            classes: (m,) right classes
            rows: (m,) positions among the tested samples
            threshold (None): of classes that do not exclude each other
        """
        from ...cam_core.bias.noise_sensitivity import noise_check

        pictures, masks = _Part(tested.pictures, rows), _Part(tested.masks, rows)

        def call(predict):
            return noise_check(
                pictures, masks, predict, classes, batch_size=self.batch_size,
                seed=self._settings.seed, threshold=threshold,
            )  # fmt: skip

        tested.noise, tested.noise_rows = (yield from self._reported(call)), rows

    def region(self, pictures, regions, asked, groups):
        """Runs the region test; yields how many pictures went through, returns its result.

        Args:
            pictures: of those tested and of those that lend
            regions: their masks
            asked: of ``ClassMembership.arguments``
            groups: (n + m,) scenes of the pictures, or None
        """
        from ...cam_core.bias.swap_test import region_check

        s = self._settings

        def call(predict):
            return region_check(
                pictures, regions, predict, count=s.donors, control=regions_control(regions),
                groups=groups, feather=s.feather, batch_size=self.batch_size, seed=s.seed, **asked,
            )  # fmt: skip

        return (yield from self._reported(call))

    def _reported(self, call):
        reporting = Reporting(self._predictor)
        yield from reporting.run(call)
        return reporting.result

    def heat_effects(self, tested, scan):
        """Replaces the hottest background, and as much of the object; yields how many are through.

        Of each sample by its first donor's background; ties the heat to the cause.
        """
        from ...cam_core.bias.effects import heat_effect

        count = len(tested.rows)
        table = np.full((count, 2), np.nan)
        target = scan.explained[tested.rows]
        pending = []
        for i in range(count):
            pending += self._without_heat(tested, scan, i)
            if len(pending) >= self.batch_size or (pending and i == count - 1):
                self._score(pending, table, target)
                pending = []
                yield 2 * (i + 1)
        tested.heat_effect = heat_effect(tested.check.table.score, table[:, 0], table[:, 1])

    def _without_heat(self, tested, scan, i):
        import cv2

        from ...cam_core.bias.composites import heat_regions, remove_objects, replace_region

        donor = int(tested.check.donors.foreign[i, 0])
        status = scan.heat_status[tested.rows[i]]
        if tested.check.status[i] != "ok" or donor < 0 or status != "ok":
            return []
        picture, mask = tested.pictures[i], tested.masks[i]
        heat = scan.maps[tested.rows[i]].astype(np.float32)
        heat = cv2.resize(heat, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
        other = remove_objects(tested.pictures[donor], tested.removals[donor], self.margin).image
        pairs = enumerate(heat_regions(heat, mask))
        return [
            (i, column, replace_region(picture, region, other, self._settings.feather, True))
            for column, region in pairs
        ]

    def _score(self, pending, table, target):
        scores = self._predictor([picture for _, _, picture in pending])
        for (i, column, _), row in zip(pending, scores, strict=True):
            table[i, column] = row[target[i]]

    @property
    def feather(self):
        """Pixels over which a pasted object fades out."""
        return self._settings.feather

    @property
    def margin(self):
        """Pixels around an object that are taken away with it, as the swap does."""
        return int(np.ceil(self._settings.feather))


class _Part(collections.abc.Sequence):
    """Some items of a sequence."""

    def __init__(self, items, rows):
        self._items, self._rows = items, rows

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, index):
        return self._items[int(self._rows[index])]


def regions_control(regions):
    """What regions are compared with, as :func:`~cam_core.bias.swap_test.region_check` calls it."""
    return getattr(regions, "control", "elsewhere")


def raise_if_few(count, reason):
    """Raises a ValueError unless two pictures are left, which a swap needs."""
    if count < 2:
        raise ValueError(f"samples: the pictures to be tested cannot be read any more; {reason}")


def _by_side(indices, sizes, rows, scan):
    """Pictures of one longest side, none of a sample twice: its rows are read for other classes."""
    groups, turns = {}, {}
    for i in indices:
        sample_id = scan.ids[rows[i]]
        turns[sample_id] = turns.get(sample_id, -1) + 1
        groups.setdefault((max(sizes[i]), turns[sample_id]), []).append(i)
    return groups


def _tensor(array):
    import torch

    return torch.from_numpy(np.ascontiguousarray(array))


def fitted(mask, size):
    """A mask on exactly these pixels; rounding may have made it one pixel larger or smaller."""
    if mask.shape == tuple(size):
        return mask
    from ...cam_core.spatial.masks import resize_masks

    return resize_masks(_tensor(mask)[None], tuple(size))[0].numpy()
