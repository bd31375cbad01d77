"""What is tested: units, each an image for one of its classes, or a box."""

import numpy as np

#: measures that are kept of the map that heat is judged by
MEASURES = (
    "obj_energy", "bg_energy", "other_energy", "lift", "log2_lift", "density_share",
    "obj_energy_tol", "density_share_tol", "pix_auc", "pointing", "rank_acc", "iou", "border_ratio",
    "centre_ratio", "entropy", "gini", "area50",
)  # fmt: skip


class Units:
    """R units of N samples: an image for one of its classes, or a box; NaN, -1 or "" where unknown.

    Args:
        samples: list of N ``(id, filepath)``
        image_index: (R,) index of each unit's sample

    Attributes:
        samples, image_index: as given
        ids, paths: R, of the units' samples
        explained: (R,) index of the class whose score is tested
        predicted: (R,) predicted classes, where the unit is an image
        score: (R,) of the explained class
        boxes: (R, 4) left, top, right, bottom, as shares of the image; None where the unit is an image
        label_ids: R ids of the boxes' labels, or None
        area: (R,) the object's share of the image
        reliable: (R,) bool, whether the measures say much
        values: (R, F) of ``MEASURES``
        heat_status, object_status, object_source, object_scope: R strings
        slots: most units of a sample, where they are its classes
    """

    boxes = label_ids = None
    slots = 1

    def __init__(self, samples, image_index):
        self.samples, self.image_index = samples, np.asarray(image_index, int)
        count = len(self.image_index)
        self.ids = [samples[i][0] for i in self.image_index]
        self.paths = [samples[i][1] for i in self.image_index]
        self.explained = np.full(count, -1)
        self.predicted = np.full(count, -1)
        self.score = np.full(count, np.nan)
        self.area = np.full(count, np.nan)
        self.reliable = np.zeros(count, bool)
        self.values = np.full((count, len(MEASURES)), np.nan, np.float32)
        self.heat_status = np.full(count, "", dtype="<U16")
        self.object_status = np.full(count, "", dtype="<U16")
        self.object_source = np.full(count, "", dtype="<U24")
        self.object_scope = np.full(count, "", dtype="<U16")

    def units_of_images(self):
        """N lists of the units of each sample."""
        units = [[] for _ in self.samples]
        for unit, sample in enumerate(self.image_index.tolist()):
            units[sample].append(unit)
        return units

    def spread(self, values):
        """One value for each unit of one for each sample; None for None."""
        return None if values is None else [values[i] for i in self.image_index]

    def column(self, name):
        """(R,) float64 values of a measure."""
        return self.values[:, MEASURES.index(name)].astype(float)

    def column_at(self, name, index):
        """A measure of one unit."""
        return float(self.values[index, MEASURES.index(name)])
