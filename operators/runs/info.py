"""What is known of CAM runs, for the user: lists, details, views, and what went with one that is deleted."""

import dataclasses

import fiftyone as fo
from fiftyone import ViewField as F

from ..text import counted
from . import artifacts, record, resume
from . import results as run_results
from .level import FrameLevel, level_of
from .plain_data import PlainData
from .run import Run

PARTS = ("all", "done", "missing", "failed")


@dataclasses.dataclass
class CamRun(PlainData):
    """A CAM run in short.

    Attributes:
        key: its key
        status: ``"running"``, ``"finished"``, ``"interrupted"``, ``"failed"``, ``"deleting"`` or
            ``"renaming"``
        done: samples, or of videos frames, whose heatmaps are stored
        total: those that the run covers
        failed: those that could not be explained
        model: the model's name
        methods: names of the methods, or pairs with options
        fields: the fields that it wrote
        started: when, in UTC
        ended: when the last call ended, or None
    """

    kind = "run_entry"

    key: str
    status: str
    done: int
    total: int
    failed: int
    model: str
    methods: list
    fields: list
    started: str
    ended: str

    def __str__(self):
        """One line."""
        failed = f", {self.failed:,} failed" if self.failed else ""
        names = ", ".join(m if isinstance(m, str) else m[0] for m in self.methods)
        return (
            f"{self.key}: {self.status}, {self.done:,} of {self.total:,} {_noun(self.fields)}{failed}; {names} of "
            f"{self.model}; {self.started}"
        )


def _noun(fields):
    """What has these fields, as a word."""
    return FrameLevel.noun if any(f.startswith(FrameLevel.prefix) for f in fields) else "samples"


@dataclasses.dataclass
class CamRunInfo(CamRun):
    """Everything that is known of a CAM run.

    Attributes:
        settings: what is needed to repeat it: model and its weights' fingerprint, methods with options,
            layers, target, transforms, sizes, seed, device, precision, versions
        failures: dicts ``id, filepath, reason``: all of them once a call has ended, the first hundred
            before
        sessions: one dict per call that worked on it: when, where, over how many samples, with which
            versions
        host: the machine that worked on it last
        pid: the process there
        error: what ended it, or None
        results: what it stored: ``summary``, and what other operators added
    """

    kind = "run_info"

    settings: dict = None
    failures: list = None
    sessions: list = None
    host: str = None
    pid: int = None
    error: str = None
    results: dict = None

    def values(self):
        """The attributes, with ``summary``, ``bias_analysis`` and ``comparison`` instead of ``results``.

        Each is what the ``to_dict()`` of its summary was, None where there is none.
        """
        plain = super().values()
        results = plain.pop("results") or {}
        kinds = {"summary": "summary", "bias_analysis": "bias", "comparison": "compare"}
        return {**plain, **{kind: results.get(name) for kind, name in kinds.items()}}

    def __str__(self):
        """A few lines."""
        s = self.settings
        lines = [
            super().__str__(),
            f"weights {s.get('weights')}, layers {', '.join(s.get('layers') or [])}, targets "
            f"{s.get('targets')}, {s.get('precision')} on {s.get('device')}, seed {s.get('seed')}",
            f"fields: {', '.join(self.fields)}",
        ]
        lines += [f"stopped by: {self.error}"] if self.error else []
        lines += [f"failed: {f['filepath']}: {f['reason']}" for f in self.failures[:5]]
        more = self.failed - 5
        return "\n".join(lines + ([f"... and {more:,} more"] if more > 0 else []))


@dataclasses.dataclass
class Deleted(PlainData):
    """What went with a CAM run.

    Attributes:
        cam_key: the run's key
        samples: how many samples had heatmaps of it
        fields: the fields that are gone
        attributes: the attributes that are gone of fields that stay
        views: names of the saved views that are gone
        tags: the tags that are gone from samples
        files: how many map files are gone
    """

    kind = "deletion"

    cam_key: str
    samples: int
    fields: list
    attributes: list
    views: list
    tags: list
    files: int

    def __str__(self):
        """One paragraph."""
        parts = [f"record of the run over {counted(self.samples, _noun(self.fields))}"]
        for name in ("fields", "attributes", "views", "tags"):
            values = getattr(self, name)
            if values:
                parts.append(f"{name if len(values) > 1 else name[:-1]} {', '.join(values)}")
        if self.files:
            parts.append(counted(self.files, "files"))
        return f"{self.cam_key} was deleted: {'; '.join(parts)}"


def list_runs(dataset):
    """Returns a :class:`CamRun` per CAM run of a dataset, by their own counts."""
    return [short_of(dataset, key) for key in record.list_runs(dataset)]


def short_of(dataset, key):
    """Returns the :class:`CamRun` of a run, by its own counts.

    Raises:
        ValueError: if there is no such run
    """
    return _short(dataset, key, record.config_of(dataset, key), CamRun)


def info_of(dataset, key):
    """Returns the :class:`CamRunInfo` of a run; what is done is asked of the samples.

    Raises:
        ValueError: if there is no such run
    """
    run = Run.open(dataset, key)
    config, results = run.record, run.results
    for name in ("ids", "segments", "videos"):
        results.pop(name, None)
    ended = config.status != "running" and results.get("summary")
    failures = results["summary"]["failed"] if ended else config.failures
    info = _short(dataset, key, config, CamRunInfo)
    done, total = resume.counts(run)
    return dataclasses.replace(
        info,
        done=done,
        total=total,
        settings=config.settings,
        failures=failures,
        sessions=config.sessions,
        host=config.host,
        pid=config.pid,
        error=config.error,
        results=results,
    )


def _short(dataset, key, config, kind):
    progress, settings = config.progress, config.settings
    return kind(
        key=key,
        status=record.status_from(config),
        done=progress.get("done", 0),
        total=progress.get("total", 0),
        failed=progress.get("failed", 0),
        model=settings.get("model"),
        methods=settings.get("methods") or [],
        fields=list(map(level_of(dataset).path, config.fields)),
        started=config.started,
        ended=config.ended,
    )


def view_of(dataset, key, part="all", only_its_fields=False):
    """Returns a view of a run's samples; of videos those with frames of the part, of ``"done"`` only these.

    The samples are known by their ids, so a random view is the same again, and no stored view is built:
    one that came from elsewhere could name any class.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
        part ("all"): ``"all"``, ``"done"``, ``"missing"`` (not done for whatever reason) or ``"failed"``
        only_its_fields (False): whether the fields of other CAM runs are left out

    Returns:
        a :class:`fiftyone.core.view.DatasetView`

    Raises:
        ValueError: if there is no such run, or no such part
    """
    if part not in PARTS:
        raise ValueError(f"part: {part!r} is unknown; choose from {', '.join(PARTS)}")
    run = Run.open(dataset, key)
    view = dataset.view()
    if dataset.media_type == "group":
        view = dataset.select_group_slices(media_type="image")
    view = _samples_of(view, run, part)
    others = {field for other in Run.all(dataset) if other.key != key for field in other.fields}
    level = level_of(dataset)
    hidden = [level.path(f) for f in others - set(run.fields) if level.field(f) is not None]
    return view.exclude_fields(hidden) if only_its_fields and hidden else view


def _samples_of(view, run, part):
    frames = isinstance(level_of(run.dataset), FrameLevel)
    if part == "done":
        for field in getattr(run.record, "heatmap_fields", []):
            if level_of(run.dataset).field(field) is None:
                return view.limit(0)
            done = F(f"{field}.cam_key") == run.key
            view = view.match_frames(done) if frames else view.match(done)
        return view
    if frames:
        return _videos_of(view, run, part)
    ids = run_results.recorded_ids(run.dataset, run.key)
    if part == "all":
        # The whole dataset needs no list of its ids.
        whole = isinstance(view, fo.DatasetView) and set(ids) == set(view.values("id"))
        return view if whole else view.select(ids, ordered=True)
    if part == "failed":
        failed = [failure["id"] for failure in info_of(run.dataset, run.key).failures]
        objects = run.settings.get("patches_field")
        if objects is not None:  # whose ids these are
            return view.match_labels(ids=failed, fields=objects)
        return view.select(failed)
    done = resume.done_ids(run)
    return view.select([i for i in ids if i not in done], ordered=True)


def _videos_of(view, run, part):
    """The videos with frames that a run covers, lacks, or that failed."""
    videos = resume.videos(run.dataset, run.key)
    if part == "failed":
        left = [failure["id"] for failure in info_of(run.dataset, run.key).failures]
    else:
        done = resume.done_ids(run) if part == "missing" else ()
        left = [i for i in videos if i not in done]
    return view.select(list(dict.fromkeys(videos[i] for i in left if i in videos)), ordered=True)


def delete(dataset, key):
    """Deletes a run with everything it wrote; see :func:`operators.runs.artifacts.clear`.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key

    Returns:
        a :class:`Deleted`

    Raises:
        ValueError: if there is no such run, or if it is running, or a job reads it at this moment
    """
    run = Run.open(dataset, key)
    dataset._reload(hard=True)  # another process may have added its fields
    samples = short_of(dataset, key).done
    tags, files = artifacts.of_jobs("tag", run), artifacts.count_files(run)
    level, views = level_of(dataset), dataset.list_saved_views()
    paths = set(level.schema(flat=True))
    artifacts.clear(dataset, key)
    gone = paths - set(level.schema(flat=True))
    return Deleted(
        cam_key=key,
        samples=samples,
        fields=sorted(level.path(path) for path in gone if "." not in path),
        # of what was inside something that is gone nothing is said
        attributes=sorted(
            level.path(p) for p in gone if "." in p and p.rpartition(".")[0] not in gone
        ),
        views=[name for name in views if not dataset.has_saved_view(name)],
        tags=tags,
        files=files,
    )
