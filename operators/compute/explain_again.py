"""A run's methods once more: for metrics that explain changed images, and to time what a map costs."""

import time

from ..jobs.inference import to_device
from ..text import one_line
from .recorded_plan import plan_of_run

# A method that took longer than this is not run a second time to be timed.
_LONG = 1.0


class Explainer:
    """Makes maps of columns again, with the methods of their runs.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        model: the :class:`LoadedModel`
        columns: M :class:`~operators.compare.columns.Column`

    Attributes:
        reasons: ``{cam_key: why}`` of runs that cannot be repeated from their records
        untimed: sentences about methods that could not be timed
    """

    def __init__(self, dataset, model, columns):
        from ...cam_core.methods.catalogue import resolve_methods

        self._model, self._columns = model, columns
        self._methods, self._plans, self.reasons, self.untimed = {}, {}, {}, []
        for key in dict.fromkeys(c.cam_key for c in columns):
            try:
                plan = plan_of_run(dataset, key, model)
            except ValueError as error:  # its methods were functions
                self.reasons[key] = str(error)
                continue
            self._plans[key] = plan
            found = resolve_methods(plan.methods)
            for method, given in zip(found, plan.methods, strict=True):
                self._methods[key, method.key] = given

    def plan(self, cam_key):
        """The :class:`~operators.compute.recorded_plan.RecordedPlan` of a run, or None."""
        return self._plans.get(cam_key)

    def method(self, column):
        """What the engine takes for a column's method; None if its record only has a name for it.

        A method that makes several maps is the one that their names begin with.
        """
        names = [m for key, m in self._methods if key == column.cam_key]
        fitting = [m for m in names if column.method == m or column.method.startswith(f"{m}_")]
        return self._methods[column.cam_key, max(fitting, key=len)] if fitting else None

    def missing(self):
        """The columns that cannot be made again."""
        return [c for c in self._columns if self.method(c) is None]

    def explain(self, column, images, targets):
        """Explains images for a column's method.

        Args:
            column: a :class:`~operators.compare.columns.Column`
            images: (B, C, H, W) on the model's device
            targets: (B,) class indices, -1 for none

        Returns:
            a ``cam_core.Explanation`` whose maps have the key ``(column.method, column.layer)``
        """
        from ...cam_core import explain

        plan = self._plans[column.cam_key]
        return explain(
            self._model.adapted, images, methods=[self.method(column)], targets=targets,
            layers=plan.layers, fuse=plan.fuse, precision=plan.precision, seed=plan.seed,
            measure_places=plan.measure_places,
        )  # fmt: skip

    def again(self, members, targets, heats):
        """Returns what ``faithfulness`` takes as ``explain_again``.

        Args:
            members: indices of columns; beyond the last are maps that no method made
            targets: (N,) their class
            heats: (N, len(members), H, W) their maps; what no method made stays as it is
        """
        import torch

        def explain_again(images, rows):
            size = tuple(images.shape[-2:])
            maps = []
            for place, m in enumerate(members):
                if m >= len(self._columns):
                    maps.append(heats[rows, place].to(images))
                    continue
                column = self._columns[m]
                found = self.explain(column, images, targets[list(rows)])
                maps.append(found.heatmaps(size)[column.method, column.layer][:, 0])
            return torch.stack(maps, 1)

        return explain_again

    def seconds(self, image):
        """Seconds that one map of one image takes with each column's method.

        Args:
            image: (1, C, H, W)

        Returns:
            M numbers; None for a method that is only known by name
        """
        import torch

        image = to_device(self._model, image)
        target = torch.zeros(1, dtype=torch.long)
        found, known = [], {}
        for column in self._columns:
            name = column.cam_key, column.method
            if self.method(column) is not None and name not in known:
                try:
                    known[name] = self._timed(column, image, target)
                except Exception as error:  # said in the summary; what was measured is not lost
                    known[name] = None
                    self.untimed.append(
                        f"{column.method} could not be run once more to be timed: {one_line(error)}."
                    )
            found.append(known.get(name))
        return found

    def _timed(self, column, image, target):
        seconds = None
        for _ in range(2):
            start = time.perf_counter()
            self.explain(column, image, target).scores.cpu()
            seconds = time.perf_counter() - start
            if seconds > _LONG:
                break
        return seconds
