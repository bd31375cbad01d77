"""A run on several processes, GPUs or machines, by Ray: the driver's side.

The driver plans, keeps the record and deals the run's shards to workers (:mod:`operators.compute.shards`);
these write to the same MongoDB. A worker that dies is started again by Ray, and its shard goes on where it was.
"""

import collections
import contextlib
import dataclasses
import io
import math
import os
import sys
import time

import fiftyone as fo
import fiftyone.core.odm as fod
import pymongo
from fiftyone.core.collections import SampleCollection
from pymongo.errors import PyMongoError

from .. import PACKAGE, ROOT
from ..data.loader import Failure
from ..jobs.pipeline import Progress
from ..models import load
from ..runs import lease, record
from ..runs.retry import retry_on_disconnect
from ..targets.spec import texts_of
from .ray_settings import library, threads_of
from .shards import Task, open_samples

NAME = "@cam51/heatmaps"
# How often a shard is tried again after its worker died. Workers are started again without end: on
# a cluster machines come and go; but a shard that kills every worker is not dealt for ever.
_RETRIES = 3
_POLL_SECONDS = 0.5
# A cluster may have to start a machine first.
_START_SECONDS = 900.0
# Long enough for two batches.
_STOP_SECONDS = 60.0
# Shards per worker: enough that none waits long for the last one, few enough that asking costs nothing.
_SHARDS_PER_WORKER = 8
_MOST_SAMPLES_PER_SHARD = 10_000
_LOCAL = ("localhost", "127.0.0.1", "[::1]")


class Team:
    """Ray's workers for one job, used as a context; everything that can be wrong is raised on entering.

    Connects to the cluster that ``RAY_ADDRESS`` names or that is already connected, else starts Ray on
    this machine and ends it afterwards.

    Args:
        job: the :class:`CamJob`

    Raises:
        ValueError: if the cluster cannot do what is asked, or the model cannot be sent to it
    """

    def __init__(self, job):
        self._ray = library()
        self._job = job
        self._outcomes, self._live = {}, {}
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            own = self._connect(stack)
            self._needs = {"CPU": 1, **(self._job.settings.resources or {})}
            self._count = self._check_cluster(own)
            self._task = self._make_task()
            self._model = self._sendable()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self._stack.close()

    def _connect(self, stack):
        """Whether Ray was started for this run alone."""
        if self._ray.is_initialized():
            return False
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
        stack.callback(self._ray.shutdown)
        return "RAY_ADDRESS" not in os.environ

    def _check_cluster(self, own):
        """How many workers there are to be."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        uri = _database_uri()
        if len(nodes) > 1 and any(host in uri for host in _LOCAL):
            raise ValueError(
                f"backend: the database is at {uri}, which other machines of the Ray cluster cannot reach; "
                "start one that they can, and set FIFTYONE_DATABASE_URI before FiftyOne is imported"
            )
        room = sum(
            min(int(node.get(name, 0) // need) for name, need in self._needs.items())
            for node in nodes
        )
        if not room and own:
            raise ValueError(
                f"resources: no worker with {self._needs} fits on this machine, of which Ray sees "
                f"{_plain(nodes[0])}"
            )
        return self._job.settings.num_workers or max(1, room)

    def _sendable(self):
        """What a worker makes its model of: a name where there is one, else the model itself."""
        job = self._job
        self._dumps("methods, targets or transforms", self._task)
        if isinstance(job.given_model, str):
            return job.given_model
        on_cpu = dataclasses.replace(job.model, device=_cpu())
        with load.on_device(on_cpu):
            return self._ray.put(self._dumps("model", on_cpu))

    def _dumps(self, name, value):
        try:
            return _dumped(self._ray.cloudpickle, value)
        except Exception as error:
            raise ValueError(
                f"{name}: it cannot be sent to Ray's workers ({type(error).__name__}: {error}); give what can "
                "be pickled, or a model by name (register_model)"
            ) from error

    def run(self, loader, writer, token):
        """Computes the blocks of a loader on the workers.

        Closing the generator stops them after their batch.

        Args:
            loader: the job's :class:`Loader`, of which the batch size is used
            writer: a :class:`Writer` that writes nothing: what the workers wrote is added up in it
            token: whose run it is

        Yields:
            a :class:`Progress`, twice a second
        """
        self._loader, self._writer, self._token = loader, writer, token
        self._start = time.monotonic()
        blocks = [([tuple(row) for row in b.rows], b.wanted) for b in self._job.blocks]
        shards = [list(part) for part in _cut(blocks, self._count)]
        members = self._hire(min(self._count, len(shards)))
        busy = {member.ready.remote(): (member, None) for member in members}
        try:
            yield from self._deal(shards, busy)
        finally:
            self._dismiss(members, shards, busy)

    def _hire(self, count):
        from . import ray_worker

        # As code: a node has to find the plugin before it can import anything of it.
        self._ray.cloudpickle.register_pickle_by_value(ray_worker)
        needs = dict(self._needs)
        options = {
            "num_cpus": needs.pop("CPU"),
            "num_gpus": needs.pop("GPU", 0),
            "memory": needs.pop("memory", None),
            "resources": needs or None,
            "max_restarts": -1,
            "max_task_retries": _RETRIES,
        }
        actor = self._ray.remote(ray_worker.Worker).options(**options)
        plugin = {"name": NAME, "package": PACKAGE, "folder": ROOT, "path": sys.path}
        task = dataclasses.replace(self._task, token=self._token, stamp=self._writer.stamp)
        # Held for as long as the run: an actor that is started again asks for it again.
        self._sent = self._ray.put(self._dumps("task", task))
        return [actor.remote(plugin, _environment(), self._sent, self._model) for _ in range(count)]

    def _make_task(self):
        job = self._job
        named = isinstance(job.given_model, str)
        return Task(
            dataset=job.dataset.name,
            plan=dataclasses.replace(job.plan, trial_image=None, trial_item=None),
            transforms=job.given_transforms if named else None,
            classes=job.given_classes if named else None,
            weights=job.used["weights"],
            device=job.used["device"],
            threads=threads_of(job.settings),
            versions=job.used["versions"],
            options={**job.settings.model_options, "texts": texts_of(job.settings.targets)},
            image=next((r.filepath for r in job.rows if os.path.isfile(r.filepath)), None),
        )

    def _deal(self, shards, busy):
        """Gives each worker a shard whenever it is free."""
        waiting = collections.deque(range(len(shards)))
        while len(self._outcomes) < len(shards):
            finished, _ = self._ray.wait(list(busy), num_returns=1, timeout=_POLL_SECONDS)
            for answer in finished:
                member, number = busy.pop(answer)
                outcome = self._result(answer)
                if number is not None:
                    self._take(number, outcome, shards)
                if waiting:
                    number = waiting.popleft()
                    call = member.run.remote(number, shards[number], self._loader.batch_size)
                    busy[call] = member, number
            self._check_started(busy)
            yield self._progress()

    def _result(self, answer):
        exceptions = self._ray.exceptions
        try:
            return self._ray.get(answer)
        except exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from error
        except exceptions.RayActorError as error:
            raise RuntimeError(
                f"a Ray worker died {_RETRIES + 1} times over the same shard, last: {error}; what was stored "
                "stays, pass resume=True to resume it"
            ) from error

    def _take(self, number, outcome, shards):
        """Adds a shard's outcome to the run's."""
        self._outcomes[number] = outcome
        self._live.pop(number, None)
        self._loader.batch_size = min(self._loader.batch_size, outcome["batch_size"])
        writer, job = self._writer, self._job
        writer.vanished += outcome["vanished"]
        writer.refused.update(outcome["refused"])
        writer.error = writer.error or outcome["error"]
        self._add_up()
        # In the order of the samples, as one process has them.
        in_order = [self._outcomes[n]["failed"] for n in sorted(self._outcomes)]
        job.failures[:] = [Failure(*row) for rows in in_order for row in rows]
        ids = [row[0] for rows, _ in shards[number] for row in rows]
        # Samples that somebody holds here show what the worker stored.
        name = job.dataset._sample_collection_name
        retry_on_disconnect(fo.Sample._reload_docs, name, sample_ids=ids)
        if outcome["stopped"]:
            raise lease.Stopped(
                f"the run {job.plan.cam_key!r} was asked to stop; pass resume=True to resume it"
            )

    def _add_up(self):
        outcomes, live = self._outcomes.values(), self._live.values()
        self._writer.samples_written = sum(o["found"] + o["written"] for o in outcomes) + sum(
            state["written"] for state in live
        )
        self._writer.bytes_written = sum(o["bytes"] for o in [*outcomes, *live])

    def _progress(self):
        """What is done, by the workers' last word."""
        with contextlib.suppress(PyMongoError), pymongo.timeout(10):
            entry = record.db().runs.find_one(self._query(), {"config.shards": True}) or {}
            told = entry.get("config", {}).get("shards") or {}
            self._live = {int(n): s for n, s in told.items() if int(n) not in self._outcomes}
        self._add_up()
        live = self._live.values()
        failed = len(self._job.failures) + sum(state["failed"] for state in live)
        done = sum(o["found"] + o["written"] + len(o["failed"]) for o in self._outcomes.values())
        lost = sum(len(o["vanished"]) + len(o["refused"]) for o in self._outcomes.values())
        done += lost + sum(state["done"] for state in live)
        return Progress(
            done=done,
            total=self._job.total,
            failed=failed,
            seconds=time.monotonic() - self._start,
            written=self._writer.bytes_written,
            # A forecast needs more than the workers' starting up.
            batches=2 if self._outcomes else 0,
        )

    def _query(self):
        key = self._job.plan.cam_key
        return {
            "_id": record.document_id(self._job.dataset, key),
            "config.token": self._token,
        }

    def _check_started(self, busy):
        waited = time.monotonic() - self._start
        nobody = not self._outcomes and all(number is None for _, number in busy.values())
        if nobody and waited > _START_SECONDS:
            raise RuntimeError(
                f"resources: Ray could start no worker with {self._needs} within {waited / 60:.0f} minutes; "
                f"the cluster has {_plain(self._ray.cluster_resources())}"
            )

    def _dismiss(self, members, shards, busy):
        """Lets the workers end their batches, where some are still running, and ends them."""
        at_work = {answer: n for answer, (_, n) in busy.items() if n is not None}
        try:
            if at_work:
                self._halt(at_work, shards)
        finally:
            for member in members:
                self._ray.kill(member, no_restart=True)
            with contextlib.suppress(PyMongoError), pymongo.timeout(10):
                record.db().runs.update_one(self._query(), {"$unset": {"config.shards": ""}})

    def _halt(self, at_work, shards):
        with contextlib.suppress(PyMongoError), pymongo.timeout(10):
            record.db().runs.update_one(self._query(), {"$set": {"config.stop": True}})
        ended, _ = self._ray.wait(list(at_work), num_returns=len(at_work), timeout=_STOP_SECONDS)
        for answer in ended:
            try:
                self._take(at_work[answer], self._result(answer), shards)
            except lease.Stopped:
                continue  # as it should
            except Exception as error:  # another one is on its way already; this one goes beside it
                self._writer.error = self._writer.error or f"{type(error).__name__}: {error}"


def _dumped(cloudpickle, value):
    """A value as bytes; a dataset or view in it is opened again by name, not copied."""

    class Pickler(cloudpickle.CloudPickler):
        def reducer_override(self, obj):
            if isinstance(obj, SampleCollection):
                stages = obj._serialize() if isinstance(obj, fo.DatasetView) else None
                return open_samples, (obj._dataset.name, stages)
            return super().reducer_override(obj)

    file = io.BytesIO()
    Pickler(file).dump(value)
    return file.getvalue()


def _cut(blocks, workers):
    """Shards: lists of neighbouring blocks."""
    largest = max((len(rows) for rows, _ in blocks), default=1)
    size = math.ceil(len(blocks) / (workers * _SHARDS_PER_WORKER))
    size = max(1, min(size, _MOST_SAMPLES_PER_SHARD // largest))
    for start in range(0, len(blocks), size):
        yield blocks[start : start + size]


def _cpu():
    import torch

    return torch.device("cpu")


def _database_uri():
    """Where the workers find the database; FiftyOne's own server has a port of its choice."""
    if fo.config.database_uri:
        return fo.config.database_uri
    host, port = fod.get_db_conn().client.address
    return f"mongodb://{host}:{port}"


def _environment():
    """The variables of FiftyOne and of this plugin, as the workers are to have them."""
    own = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("FIFTYONE_", "CAM51_")) and "PRIVATE" not in name
    }
    return {
        **own,
        "FIFTYONE_DATABASE_URI": _database_uri(),
        "FIFTYONE_DATABASE_NAME": fo.config.database_name,
    }


def _plain(resources):
    """Resources as people write them, without those that stand for nodes."""
    return {k: v for k, v in resources.items() if not k.startswith(("node:", "accelerator"))}
