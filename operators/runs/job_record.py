"""The part of a CAM run's record that a job on the run has: registered first, ended last, deleted as a whole."""

import contextlib
import datetime

import fiftyone as fo
import fiftyone.core.odm as fod
from bson import ObjectId
from mongoengine.errors import DoesNotExist
from pymongo import UpdateOne, WriteConcern

from ..text import one_line
from . import artifacts, leftovers, record, results, saved_views
from .lease import JobLease, check_free
from .retry import DatabaseAway, retried
from .run import Run


class JobRecords:
    """The records of one kind of job on the runs of datasets.

    What a job writes is in its part of the record before it is written, by kinds, see
    :mod:`operators.runs.artifacts`.

    Args:
        part: the part of a run's record, ``"bias"`` or ``"compare"``
    """

    def __init__(self, part):
        self._part = part

    def record_of(self, dataset, key):
        """What a run's record says of the job: ``status, settings, views, ...``; or None."""
        run = self._run(dataset, key)
        return None if run is None else run.jobs[self._part]

    def _run(self, dataset, key):
        """The run, if there is one that has such a job or had one."""
        if key not in record.list_runs(dataset):
            return None
        run = Run.open(dataset, key)
        return run if self._part in run.jobs else None

    def check_store(self, dataset, key, fields, overwrite, taken, remedy):
        """Raises a ValueError unless a job's results may be stored; whatever is in its way is named.

        Args:
            dataset: a :class:`fiftyone.core.dataset.Dataset`
            key: the run's key
            fields: the fields that the job writes
            overwrite: whether the results of an earlier one may go
            taken: the message where there are some and they may not
            remedy: what the user may do about a field that is not the job's
        """
        stored, ours = self.record_of(dataset, key), ()
        if stored is not None:
            check_free(dataset, key, self._part)
            if stored["status"] == "finished" and not overwrite:
                raise ValueError(taken)
            ours = artifacts.paths_of("field", Run.open(dataset, key), self._part)
        for field in fields:
            if field not in ours and dataset.get_field(field) is not None:
                raise ValueError(
                    f"field {field!r} exists on the dataset and is not ours; {remedy}, or delete the field"
                )

    @retried
    def register(self, dataset, key, settings, written, cam_keys=None):
        """Notes in a run's record that a job works on it; what an earlier one wrote is deleted.

        Args:
            dataset: a :class:`fiftyone.core.dataset.Dataset`
            key: the run's key
            settings: JSON-able
            written: what it writes: ``{entry of the record: names}``, see
                :mod:`operators.runs.artifacts`
            cam_keys (None): the keys of all runs that it reads; None for that one

        Returns:
            an :class:`~operators.runs.lease.JobLease`

        Raises:
            ValueError: if one of the runs is running, or has such a job at this moment
        """
        run = Run.open(dataset, key)
        held = JobLease(dataset, key, self._part, cam_keys)
        leftovers.clear_database()
        self._take(run, held)
        self._delete_written(dataset, key)
        entries = {
            "status": "running", "started": record.now(), "settings": settings, "views": [], **written,
            **held.entries(),
        }  # fmt: skip
        run.update(
            {self._part: entries}, add=artifacts.entries_of_run(run, entries), where=held.query()
        )
        held.expect(written.get("labels", ()))
        return held

    def _take(self, run, held):
        """Gives the part of a record to a job, unless another process took it since the run was opened.

        What an earlier job wrote stays in it until that is deleted.
        """
        seen = getattr(run.record, self._part, None)
        # one without fields would be read as version 0.1.0 wrote it
        earlier = seen if isinstance(seen, dict) else {"fields": []}
        owner = {f"config.{self._part}.token": earlier.get("token")}
        mine = {**earlier, "status": "running", **held.entries()}
        if not run.update({self._part: mine}, where=owner):
            raise ValueError(
                f"cam_key: another process began a job of the same kind on the run {run.key!r} at this moment; "
                "wait for that, or stop it with stop_cam_run"
            )

    @retried
    def update(self, dataset, key, held=None, **changes):
        """Changes entries of the record, each by itself; new views are deleted with the run.

        Args:
            dataset: a :class:`fiftyone.core.dataset.Dataset`
            key: the run's key
            held (None): what :meth:`register` returned; nothing is changed if the record is another's now
            **changes: JSON-able
        """
        values = {f"{self._part}.{name}": value for name, value in changes.items()}
        views = {"saved_views": changes["views"]} if changes.get("views") else None
        record.change(dataset, key, values, add=views, where=self._query(held))

    def save_views(self, dataset, key, views, held=None):
        """Saves views, which the record has before.

        Args:
            dataset: a :class:`fiftyone.core.dataset.Dataset`
            key: the run's key
            views: ``{name: (view, description)}``
            held (None): what :meth:`register` returned

        Returns:
            their names
        """
        names = list(views)
        self.update(dataset, key, held, views=names)  # first: a rollback goes by the record
        for name, (view, description) in views.items():
            saved_views.save(dataset, name, view, description)
        return names

    @retried
    def finish(self, dataset, key, status, found=None, error=None, held=None):
        """Marks a job as ended, what it found stored in the same write, beside the run's own results.

        One that did not come to its end is rolled back, so that partial results are never mistaken for
        complete ones.

        Args:
            dataset: a :class:`fiftyone.core.dataset.Dataset`
            key: the run's key
            status: ``"finished"``, ``"interrupted"`` or ``"failed"``
            found (None): JSON-able; only of a finished one
            error (None): why it failed, one line
            held (None): what :meth:`register` returned; nothing is changed if the record is another's now
        """
        try:
            self._finish(dataset, key, status, found, error, held)
        except (ValueError, DoesNotExist):  # the run or the dataset is gone
            if key in record.list_runs(dataset):
                raise
        if held is not None:
            leftovers.clear_deleted(dataset, key)

    def _finish(self, dataset, key, status, found, error, held):
        run = self._run(dataset, key)
        if run is None or (held is not None and not held.holds()):
            return  # somebody deleted the run meanwhile, or works on it
        ended = {f"{self._part}.status": status, f"{self._part}.ended": record.now()}
        where = self._query(held)
        if status == "finished":
            results.replace_results(dataset, key, {self._part: found}, ended, where)
            artifacts.delete_unlisted_views(run)  # as of a view that was stored twice
            return
        stored = run.jobs[self._part]
        artifacts.delete_of_job(run, self._part)
        gone = {name: [] for name in ("views", "tags") if name in stored}
        values = {f"{self._part}.{name}": v for name, v in {**gone, "error": error}.items()}
        views = {"saved_views": stored.get("views") or []}
        run.update({**ended, **values}, remove=views, where=where)

    def expect_declared(self, dataset, key, held):
        """Called once a job has declared what it writes: should any of it be gone at the end, it fails.

        Args:
            dataset: a :class:`fiftyone.core.dataset.Dataset`
            key: the run's key
            held: what :meth:`register` returned
        """
        run = Run.open(dataset, key)
        kinds = ("field", "attribute")
        held.expect([path for kind in kinds for path in artifacts.paths_of(kind, run, self._part)])

    @contextlib.contextmanager
    def recorded(self, dataset, key, held):
        """Marks a job as ended, however it ends.

        Args:
            dataset: a :class:`fiftyone.core.dataset.Dataset`
            key: the run's key
            held: what :meth:`register` returned

        Yields:
            a function that takes the results of a job that has come to its end

        Raises:
            RuntimeError: if a run that it reads was deleted or renamed meanwhile
        """
        status, results_, error = "interrupted", None, None

        def done(found):
            nonlocal status, results_
            held.check("nothing more")
            status, results_ = "finished", found

        away = False
        try:
            yield done
        except DatabaseAway:  # nothing can be recorded; who looks next finds it interrupted
            away = True
            raise
        except Exception as failed:
            status, error = "failed", one_line(failed)
            if isinstance(failed, ValueError):
                held.check()  # says why, where it could not read a run that is gone
            raise
        finally:
            if not away:
                self.finish(dataset, key, status, results_, error, held)

    def clear(self, dataset, key):
        """Deletes what a job wrote, and its results. That there was none is no error.

        Args:
            dataset: a :class:`fiftyone.core.dataset.Dataset`
            key: the run's key
        """
        if self._delete_written(dataset, key):
            Run.open(dataset, key).update({self._part: None})

    def _delete_written(self, dataset, key):
        """Deletes what a job wrote, and its results; returns whether there was a job."""
        run = self._run(dataset, key)
        if run is None:
            return False
        artifacts.delete_of_job(run, self._part)
        if run.results.get(self._part) is not None:
            results.replace_results(dataset, key, {self._part: None})
        run.update(remove=artifacts.entries_of_run(run, run.jobs[self._part]))
        return True

    def _query(self, held):
        """What the record must match for a change: it is that of the job, or it is there."""
        return held.query() if held is not None else {f"config.{self._part}.status": {"$exists": 1}}


@retried
def write(dataset, rows, labels=None):
    """Writes a batch: all fields of a sample in one update, so that it has all of them or none.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        rows: ``{sample id: {path: value}}``; the path of an attribute has a dot
        labels (None): ``{sample id: LabelAttributes}`` of its objects' labels

    Returns:
        ids of samples that no longer exist, or whose labels do not: nothing is written on them
    """
    moment = datetime.datetime.now(datetime.timezone.utc)
    operations = []
    for sample_id, values in rows.items():
        document = {k: v.to_mongo() if hasattr(v, "to_mongo") else v for k, v in values.items()}
        document["last_modified_at"] = moment
        own, filters = labels[sample_id].operations() if labels else ({}, [])
        change = {"$set": {**document, **own}}
        # an attribute alone would be no label: its label may have been deleted meanwhile
        parents = {path.partition(".")[0] for path in document if "." in path}
        query = {"_id": ObjectId(sample_id), **{f"{p}._cls": {"$exists": True} for p in parents}}
        operations.append(UpdateOne(query, change, array_filters=filters or None))
    # On disk before it counts: the database may be restarted the moment after.
    samples = dataset._sample_collection.with_options(write_concern=WriteConcern(j=True))
    answers = fod.bulk_write(operations, samples, ordered=False, batcher=False)
    fo.Sample._reload_docs(dataset._sample_collection_name, sample_ids=list(rows))
    if sum(a.matched_count for a in answers) == len(operations):
        return []
    written = {"_id": {"$in": [ObjectId(i) for i in rows]}, "last_modified_at": {"$gte": moment}}
    found = {str(i) for i in dataset._sample_collection.distinct("_id", written)}
    return [i for i in rows if i not in found]
