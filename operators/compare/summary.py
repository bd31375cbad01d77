"""What ``compare_cams`` found, as plain data, in words and as a table."""

import dataclasses

from ..runs.plain_data import PlainData
from ..text import counted, duration, in_markdown, number, percent, with_interval


@dataclasses.dataclass
class CompareSummary(PlainData):
    """What a comparison found.

    Attributes:
        cam_keys: what was compared
        samples: how many samples were measured
        probe: dict ``of, n, seed, how``: how they were chosen
        metrics: ``{name: {better, label, summary, ranked}}``
        leaderboard: dicts ``field, method, layer, cam_key, class_discriminative, baseline, n, blank,
            rank, mean_rank, metrics`` (``{name: {mean, low, high, n}}``), ``wins, over_baseline,
            seconds_per_image, forwards``; best first
        agreement: dict ``fields, labels, spearman, top_iou, ssim, n, noise_floor``
        pairs: ``{"fieldA|fieldB": ids}`` of the samples on which two split most
        recommendation: dict ``field, method, sentence, evidence, within_noise``
        views: names of the saved views
        fields: the fields written
        cost: dict ``predicted_forwards, predicted_seconds, forwards, seconds``
        models: what became of models, see ``models_trend``; None for one model
        failed: list of dicts ``id, filepath, reason``
        settings: what was used
        notes: sentences that the user should read
    """

    kind = "comparison"

    cam_keys: list
    samples: int
    probe: dict
    metrics: dict
    leaderboard: list
    agreement: dict
    pairs: dict
    recommendation: dict
    views: list
    fields: list
    cost: dict
    models: dict = None
    failed: list = dataclasses.field(default_factory=list)
    settings: dict = dataclasses.field(default_factory=dict)
    notes: list = dataclasses.field(default_factory=list)

    def __str__(self):
        """A paragraph for people."""
        return "\n".join(self.lines())

    def lines(self):
        """The sentences of the summary, one topic each."""
        parts = [
            self.recommendation["sentence"],
            *self.recommendation["evidence"],
            self._disagreement(),
            *([] if self.models is None else self.models["sentences"]),
            *self.notes,
            self._cost(),
            f"Views: {', '.join(self.views)}." if self.views else None,
            self._failed(),
        ]
        return [part for part in parts if part]

    def table(self, markdown=True):
        """The leaderboard, or for models the trend, as text.

        Args:
            markdown (True): False for columns in plain text, with intervals

        Returns:
            a string of several lines
        """
        rows = self.cells(intervals=not markdown)
        if markdown:
            rule = ["---"] * len(rows[0])
            cells = [[in_markdown(c).replace("|", "\\|") for c in row] for row in rows]
            return "\n".join(f"| {' | '.join(row)} |" for row in [cells[0], rule, *cells[1:]])
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        return "\n".join(
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
        )

    def cells(self, intervals=False):
        """The table as lists of texts, its heading first."""
        return self._trend_rows() if self.models is not None else self._rows(intervals)

    def _rows(self, intervals):
        arrows = {"higher": "↑", "lower": "↓"}
        titles = [f"{m['label']} {arrows[m['better']]}" for m in self.metrics.values()]
        rows = [["", "method", "mean rank", *titles, "s/image"]]
        for row in self.leaderboard:
            seconds = row["seconds_per_image"]
            rows.append([
                "floor" if row["baseline"] else str(row["rank"]),
                row["label"],
                *(
                    with_interval(value, number) if intervals else _mean(value)
                    for value in (row["mean_rank"], *(row["metrics"][n] for n in self.metrics))
                ),
                "" if seconds is None else f"{seconds:.3g}",
            ])  # fmt: skip
        return rows

    def _trend_rows(self):
        rows = [["model", "agreement with the last", "probability", "accuracy", "heat on objects"]]
        for row in self.models["trend"]:
            rows.append([
                row["cam_key"], _mean(row["agreement"]), _mean(row["score"]),
                "" if row["accuracy"] is None else percent(row["accuracy"]["mean"]),
                "" if row["heat_on_objects"] is None else percent(row["heat_on_objects"]["mean"]),
            ])  # fmt: skip
        return rows

    def _disagreement(self):
        a = self.agreement
        pairs = [
            (a["spearman"][i][j], a["labels"][i], a["labels"][j])
            for i in range(len(a["fields"]))
            for j in range(i)
            if a["spearman"][i][j] is not None
        ]
        if not pairs or self.models is not None:
            return None
        least, most = min(pairs), max(pairs)
        floor = a["noise_floor"]["spearman"]
        text = f"Most similar: {most[1]} and {most[2]} (rank correlation {number(most[0])})"
        if len(pairs) > 1:
            text += f"; least similar: {least[1]} and {least[2]} ({number(least[0])})"
        if floor is not None:
            text += f"; the same method on two different samples: {number(floor)}"
        return f"{text}."

    def _cost(self):
        c = self.cost
        predicted = f"{c['predicted_forwards']:,} forwards"
        if c["predicted_seconds"] is not None:
            predicted += f", about {duration(c['predicted_seconds'])}"
        return (
            f"Cost: {self.samples:,} of {counted(self.probe['of'], 'samples')} ({self.probe['how']}), "
            f"{c['forwards']:,} forwards in {duration(c['seconds'])} (predicted: {predicted})."
        )

    def _failed(self):
        if not self.failed:
            return None
        first = self.failed[0]
        failed = counted(len(self.failed), "samples")
        return f"{failed} failed, first: {first['filepath']}: {first['reason']}"


def _mean(interval):
    return "" if interval is None or interval["mean"] is None else f"{interval['mean']:.3f}"
