"""A CAM run of a dataset: its record, and what is stored with it."""

from . import record as run_record
from . import results as run_results
from .lease import NAMES


class Run:
    """A CAM run of a dataset, with its record as it was when the run was opened.

    Attributes:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
        record: what :func:`operators.runs.record.config_of` returns
    """

    def __init__(self, dataset, key, record):
        self.dataset, self.key, self.record = dataset, key, record

    @classmethod
    def open(cls, dataset, key):
        """Reads a run.

        Raises:
            ValueError: if there is no such run; the message lists those there are
        """
        return cls(dataset, key, run_record.config_of(dataset, key))

    @classmethod
    def all(cls, dataset):
        """Every run of a dataset, by their keys."""
        return [cls.open(dataset, key) for key in run_record.list_runs(dataset)]

    @property
    def settings(self):
        """What was computed, with everything needed to repeat it."""
        return self.record.settings

    @property
    def status(self):
        """How it stands, see :func:`operators.runs.record.status_of`."""
        return run_record.status_from(self.record)

    @property
    def fields(self):
        """The fields that were written for it."""
        return list(self.record.fields)

    @property
    def heatmap_fields(self):
        """Those of its fields that hold heatmaps and still exist."""
        return [f for f in self.fields if run_record.is_heatmap(self.dataset, f)]

    @property
    def jobs(self):
        """The records of the jobs on it, also of those that ended: ``{part of the record: dict}``.

        A part that does not say how its job stands was written by nobody, and is none.
        """
        parts = {part: getattr(self.record, part, None) for part in NAMES}
        return {
            part: stored
            for part, stored in parts.items()
            if isinstance(stored, dict) and isinstance(stored.get("status"), str)
        }

    @property
    def results(self):
        """What is stored with it now, as plain data."""
        return run_results.load_results(self.dataset, self.key)

    def update(self, values=None, add=None, remove=None, where=None):
        """Changes single paths of the stored record, see :func:`operators.runs.record.change`."""
        return run_record.change(self.dataset, self.key, values, add, remove, where)
