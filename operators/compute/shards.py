"""A part of a run, computed in a process of its own: the worker's side of scale-out.

A shard is some of the run's blocks, so its batches, and with them its numbers, are those of a run in one
process. The plan was made by the driver; a worker makes no decisions of its own.
"""

import contextlib
import dataclasses
import os
import socket
import time

import fiftyone as fo
import pymongo
from pymongo.errors import PyMongoError

from ..data import heatmap_writer
from ..data.loader import Block, Loader
from ..data.rows import Row
from ..jobs.pipeline import run as run_pipeline
from ..models import load
from ..runs import lease, provenance, record, resume
from ..runs.run import Run
from .step import ExplainStep

_TELL_SECONDS = 0.5
# What must be the same on every node for the numbers to be those of one process.
_SAME_VERSIONS = ("plugin", "fiftyone", "torch", "torchvision")


@dataclasses.dataclass
class Task:
    """What a worker is told once.

    Attributes:
        dataset: the dataset's name
        plan: the run's :class:`Plan`, without its trial image
        transforms: what was given beside a name, or None
        classes: what was given beside a name, or None
        weights: the fingerprint of the driver's model
        device: a torch device as the worker sees it
        threads: of torch, and for decoding and encoding
        versions: the driver's
        image: a file that the driver could see
        options: of ``load_model`` beside a name
        token: whose run it is; a worker stops when the record has another one
        stamp: what the names of the run's files end with
    """

    dataset: str
    plan: object
    transforms: object
    classes: object
    weights: str
    device: str
    threads: int
    versions: dict
    image: str
    options: dict
    token: str = None
    stamp: str = None


def open_samples(name, stages):
    """Opens a dataset, or the view of it that stages make."""
    dataset = fo.load_dataset(name)
    return dataset if stages is None else fo.DatasetView._build(dataset, stages)


class ShardWorker:
    """Computes shards of one run, one after the other.

    Args:
        task: the :class:`Task`
        model: a name, or a :class:`LoadedModel` on the CPU

    Raises:
        ValueError: if this node is not the driver's like: other versions, another model, no such files
    """

    def __init__(self, task, model):
        import torch

        torch.set_num_threads(task.threads)
        self._task = task
        _check_node(task)
        self._dataset = fo.load_dataset(task.dataset)
        self._model = _load_model(task, model)
        # For as long as this process lives: it does nothing else.
        load.on_device(self._model).__enter__()
        self._step = ExplainStep(self._model, task.plan)

    def run(self, number, blocks, batch_size):
        """Computes what a shard still lacks.

        A worker that died may have stored a part of it already: that is asked of the samples, as
        resuming does.

        Args:
            number: of the shard, under which progress is told
            blocks: list of ``(rows, wanted ids)``, rows as plain tuples
            batch_size: images per batch

        Returns:
            a dict: ``found`` samples that were stored before, ``written``, ``failed`` as ``(id, path,
            reason)``, ``vanished``, ``refused``, ``bytes``, ``batch_size`` that memory left,
            ``stopped`` and ``error``

        Raises:
            LeaseLost: if the run is no longer the driver's
        """
        task = self._task
        run = Run.open(self._dataset, task.plan.cam_key)
        # Ray unpacks them before the plugin is loaded, so they come without its types.
        blocks = [([Row(*row) for row in rows], wanted) for rows, wanted in blocks]
        wanted = [row.id for rows, w in blocks for row in rows if w is None or row.id in w]
        done = resume.done_ids(run, wanted, whole=True)
        left = [_without(Block(rows, w), done) for rows, w in blocks]
        loader = Loader(
            None,
            self._model.transforms,
            batch_size,
            task.threads,
            blocks=[block for block in left if block.wanted is None or block.wanted],
            geometry=self._model.geometry,
        )
        writer = heatmap_writer.Writer(self._dataset, task.plan.map_dir, task.threads)
        writer.stamp = task.stamp
        watch = _Watch(self._dataset, task, number)
        failures, stopped = [], False
        try:
            with writer:
                for now in run_pipeline(
                    loader, self._step, writer, len(wanted) - len(done), failures
                ):
                    watch.check(
                        done=len(done) + now.done,
                        written=len(done) + writer.samples_written,
                        failed=now.failed,
                        bytes=writer.bytes_written,
                        batch_size=loader.batch_size,
                    )
        except lease.Stopped:
            stopped = True
        return {
            "found": len(done),
            "written": writer.samples_written,
            "failed": [(f.id, f.filepath, f.reason) for f in failures],
            "vanished": writer.vanished,
            "refused": writer.refused,
            "bytes": writer.bytes_written,
            "batch_size": loader.batch_size,
            "stopped": stopped,
            "error": writer.error,
        }


def _without(block, done):
    """A block of which what is done is only computed to complete batches."""
    wanted = {row.id for row in block.rows if block.wants(row.id) and row.id not in done}
    return Block(block.rows, None if len(wanted) == len(block.rows) else wanted)


def _check_node(task):
    here = provenance.versions()
    for name in _SAME_VERSIONS:
        if here[name] != task.versions[name]:
            raise ValueError(
                f"versions: the Ray node {socket.gethostname()} has {name} {here[name]}, the driver "
                f"{task.versions[name]}; install the same on all"
            )
    if task.image is not None and not os.path.isfile(task.image):
        raise ValueError(
            f"samples: the Ray node {socket.gethostname()} does not see {task.image!r}; the images must lie "
            "on storage that all nodes have under the same path"
        )
    folder = task.plan.map_dir
    if folder is not None and not os.path.isdir(folder):
        raise ValueError(
            f"output_dir: the Ray node {socket.gethostname()} does not see {folder!r}; choose a folder on "
            "storage that all nodes have under the same path"
        )


def _load_model(task, given):
    import torch

    if not isinstance(given, str):
        return dataclasses.replace(given, device=torch.device(task.device))
    model = load.load_model(given, task.transforms, task.classes, task.device, **task.options)
    if provenance.fingerprint(model.module) != task.weights:
        raise ValueError(
            f"model: {given!r} has other weights on the Ray node {socket.gethostname()} than in the "
            "driver; use one checkpoint on all, or give the model itself"
        )
    return model


class _Watch:
    """Asks after each batch whether the run goes on, and tells how far this shard is.

    The run's one lease is the driver's; a worker keeps nothing alive.
    """

    def __init__(self, dataset, task, number):
        key = task.plan.cam_key
        self._query = {"_id": record.document_id(dataset, key), "config.token": task.token}
        self._key, self._entry = key, f"config.shards.{number}"
        self._who = {"host": socket.gethostname(), "pid": os.getpid()}
        self._told = 0.0

    def check(self, **state):
        """Called after each batch with what is to be told.

        Raises:
            Stopped: if the run is to stop
            LeaseLost: if it is no longer the driver's
        """
        wanted, runs = {"config.stop": True}, record.db().runs
        # A database that is away is no reason to stop: who writes waits for it.
        with contextlib.suppress(PyMongoError), pymongo.timeout(10):
            if time.monotonic() - self._told < _TELL_SECONDS:
                found = runs.find_one(self._query, wanted)
            else:
                entry = {"$set": {self._entry: {**self._who, **state}}}
                found = runs.find_one_and_update(self._query, entry, wanted)
                self._told = time.monotonic()
            if found is None:
                raise lease.LeaseLost(
                    f"the record of the run {self._key!r} was deleted or taken over"
                )
            if found.get("config", {}).get("stop"):
                raise lease.Stopped(f"the run {self._key!r} was asked to stop")
