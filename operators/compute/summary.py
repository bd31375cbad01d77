"""What a run did, for people and for scripts."""

import dataclasses
import os

from ..runs.plain_data import PlainData
from ..text import counted


@dataclasses.dataclass
class Summary(PlainData):
    """What a run did.

    Attributes:
        cam_key: the run's key
        done: samples of this call's view whose heatmaps are stored
        failed: list of dicts ``id, filepath, reason``
        fields: the fields written, in order
        seconds: wall time of the run
        images_per_second: samples explained per second
        settings: what was used, defaults filled in
        statuses: ``{field: {status: count}}``; a map that is zero, flat or not finite is no picture
        bytes_written: bytes of heatmaps stored by this call
        error: what went wrong while storing, or None
        status: ``"finished"``, ``"interrupted"`` or ``"failed"``
        resumed: of ``done``, those that an earlier call had stored
        labels: of each label field that is explained a dict: ``field``, how many different ``labels``
            it has, how many of them are ``known`` to the model and how many ``unknown``; ``mapped``:
            dicts ``label, count, classes, how``; ``unmapped``: dicts ``label, count, near``, with
            ``several`` where classes of the model share the label
        notes: what was found out about the network's outputs, and what was asked for and not done, or
            done in another way, a sentence each
    """

    kind = "run"

    cam_key: str
    done: int
    failed: list
    fields: list
    seconds: float
    images_per_second: float
    settings: dict
    statuses: dict
    bytes_written: int
    error: str = None
    status: str = "finished"
    resumed: int = 0
    labels: list = dataclasses.field(default_factory=list)
    notes: list = dataclasses.field(default_factory=list)

    @property
    def _noun(self):
        """What was explained, as a word."""
        return "frames" if self.settings.get("source") in ("videos", "frames") else "samples"

    def __str__(self):
        """One paragraph for people."""
        text = (
            f"{self.cam_key}: {counted(self.done, self._noun)} explained in {self.seconds:.1f} s "
            f"({self.images_per_second:.1f} images/s), fields {', '.join(self.fields)}"
        )
        if self.resumed:
            text += f"; {self.resumed} of them by an earlier call"
        blank = sum(n for counts in self.statuses.values() for s, n in counts.items() if s != "ok")
        if blank:
            text += f"; {counted(blank, 'heatmaps')} empty (see the attribute 'status')"
        text += "".join(map(_labels_text, self.labels))
        text += "".join(f"; {note}" for note in self.notes)
        if self.failed:
            first = self.failed[0]
            text += f"; {len(self.failed)} failed, first: {os.path.basename(first['filepath'])}: {first['reason']}"
        if self.status != "finished":
            why = f"{self.error}; " if self.status == "failed" and self.error else ""
            text += f"; {self.status}: {why}pass resume=True to resume"
        return text


def _labels_text(labels):
    """Says how many labels of a field the model knows, and what the others may mean."""
    text = f"; {labels['known']} of {counted(labels['labels'], 'labels')} of {labels['field']!r} mapped"
    if not labels["unknown"]:
        return text
    unmapped = labels["unmapped"]
    first = next((row for row in unmapped if row.get("several")), unmapped[0])
    near = f", near: {', '.join(first['near'])}" if first["near"] else ""
    near = f" ({first['several']})" if first.get("several") else near
    more = f" and {labels['unknown'] - 1} more" if labels["unknown"] > 1 else ""
    return f"{text}, not {first['label']!r}{near}{more} (class_map= says which classes they are)"
