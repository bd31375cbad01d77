"""Clusters of heatmaps for the panel: pictures of each, a name, and accepted ones."""

import fiftyone.operators.types as types
import numpy as np
from bson import ObjectId

from ...cam_core.spatial.overlay import heat_picture
from ..data.drawn import data_uri, overlaid, with_scale
from ..data.thumbnails import thumbnail
from ..runs import results
from ..runs.locking import change_schema
from ..runs.look import look_of
from ..runs.run import Run
from ..text import in_markdown
from . import layout

#: clusters whose pictures are shown: decoding them takes time
CLUSTERS = 6


#: pixels of a tile, and pictures beside the mean map
TILE, PICTURES = 104, 9
_GAP = 4
_PAPER = (28, 28, 28)


def clusters_of(run):
    """The clusters of a run's heatmaps, small tight ones off the object first.

    Args:
        run: the :class:`~operators.runs.run.Run`

    Returns:
        a list of dicts ``number, label, n, share, outside, ids, mean_map, name, accepted``; empty if
        there is no bias analysis of the run, or it has no clusters
    """
    bias = run.results.get("bias") or {}
    notes = _notes(run)
    out = []
    for number, cluster in enumerate(bias.get("clusters") or []):
        note = notes.get(str(number), {})
        out.append(
            {
                **{k: cluster.get(k) for k in ("label", "n", "share", "outside", "mean_map")},
                "number": number,
                "ids": members(cluster),
                "typical": list(cluster["ids"][:PICTURES]),
                "name": note.get("name") or "",
                "accepted": bool(note.get("accepted")),
            }
        )
    return out


def members(cluster):
    """The ids of all samples of a cluster; of one stored without them, of the most typical."""
    packed = cluster.get("members")
    return results.unpack_ids(packed) if packed else list(cluster["ids"])


def _notes(run):
    return dict(run.jobs.get("bias", {}).get("clusters") or {})


def name_cluster(run, number, name):
    """Stores the user's name for a cluster in the run's record.

    Args:
        run: the :class:`~operators.runs.run.Run`
        number: of the cluster, see :func:`clusters_of`
        name: a short text; an empty one takes the name away
    """
    _change(run, number, name=tidy(name))


def tidy(name):
    """A typed name as it is stored: without spaces around it, at most 80 characters."""
    return str(name or "").strip()[:80].strip()


def accept(run, number, accepted=True):
    """Says that what a cluster looks at is fair context: its samples no longer count as suspicious.

    Stored in the run's record, so it is gone with the next analysis, whose clusters are others.

    Args:
        run: the :class:`~operators.runs.run.Run`
        number: of the cluster, see :func:`clusters_of`
        accepted (True): False takes it back
    """
    ids = clusters_of(run)[_checked(run, number)]["ids"]
    packed = results.pack_ids(ids) if accepted else ""
    _change(run, number, accepted=bool(accepted), ids=packed)


def _checked(run, number):
    count = len(clusters_of(run))
    if not isinstance(number, int) or not 0 <= number < count:
        raise ValueError(
            f"number: the run {run.key!r} has clusters 0 to {count - 1}, got {number!r}"
        )
    return number


def _change(run, number, **changes):
    _checked(run, number)

    def change():
        notes = _notes(Run.open(run.dataset, run.key))
        notes[str(number)] = {**notes.get(str(number), {}), **changes}
        run.update({"bias.clusters": notes}, where={"config.bias.status": {"$exists": True}})

    # a name and a click right after it arrive in two threads; each writes all notes
    change_schema(run.dataset, change)


def accepted_ids(run):
    """The ids, as the database has them, of the samples in clusters that were accepted."""
    notes = _notes(run)
    texts = {
        i
        for note in notes.values()
        if note.get("accepted")
        for i in results.unpack_ids(note.get("ids"))
    }
    return [ObjectId(i) for i in sorted(texts)]


def strip(run, cluster, pictures=PICTURES):
    """One picture of a cluster: its mean map, then typical photos under their heat; below them the scale.

    Args:
        run: the :class:`~operators.runs.run.Run`
        cluster: one of :func:`clusters_of`, or a dict ``mean_map, typical``
        pictures (9): how many photos there is room for

    Returns:
        a ``data:`` URI of a JPEG
    """
    from PIL import Image

    now = look_of(run.dataset)
    mean = np.float32(cluster["mean_map"])
    row = [Image.fromarray(heat_picture(mean, (TILE, TILE), now, _PAPER))]
    row += [tile for tile in tiles(run, cluster["typical"]).values() if tile is not None]
    width = (TILE + _GAP) * (1 + pictures) - _GAP
    sheet = Image.new("RGB", (width, TILE), _PAPER)
    for i, picture in enumerate(row):
        sheet.paste(picture, (i * (TILE + _GAP), 0))
    return data_uri(with_scale(sheet, now, _PAPER))


def tiles(run, ids):
    """Square pictures of samples, their heat of the run's first field laid over.

    Args:
        run: the :class:`~operators.runs.run.Run`
        ids: of samples of images

    Returns:
        ``{id: PIL image}`` in the order of the ids, None where the file cannot be read
    """
    fields = run.heatmap_fields[:1]
    view = run.dataset.select(list(ids), ordered=True).select_fields(fields)
    now = look_of(run.dataset)
    return {s.id: _photo(s, s[fields[0]] if fields else None, now) for s in view}


def _photo(sample, label, now):
    """One tile; None where the picture cannot be read."""
    from ..data.heatmap_reader import heat_of

    try:
        return overlaid(thumbnail(sample.filepath, TILE, square=True), heat_of(label), now)
    except OSError:
        return None  # a file is gone: the others are shown


def fill(run, chosen, analysed):
    """Reads what the tab shows: (state, data); see :func:`.frame.fill`."""
    if not analysed:
        return {}, {}
    shown = clusters_of(run)[:CLUSTERS]
    data = {f"strip_{c['number']}": strip(run, c) for c in shown}
    return {"clusters": [_row(c) for c in shown]}, data


def cluster_rows(run):
    """The clusters that are shown, as dicts ``text, number, name, accepted``."""
    return [_row(c) for c in clusters_of(run)[:CLUSTERS]]


def _row(cluster):
    names = ("number", "name", "accepted")
    return {"text": cluster_text(cluster), **{k: cluster[k] for k in names}}


def cluster_text(cluster):
    """One line about a cluster, as Markdown."""
    title = cluster["name"] or f"Cluster {cluster['number'] + 1}"
    of = f" of class {in_markdown(cluster['label'])}" if cluster["label"] else ""
    outside = cluster.get("outside")
    heat = f", {100 * outside:.0f} % of the heat off the object" if outside is not None else ""
    accepted = " · accepted as context" if cluster["accepted"] else ""
    share = f"{100 * cluster['share']:.0f} %"
    return f"**{in_markdown(title)}**: {cluster['n']:,} samples ({share}{of}){heat}{accepted}"


def draw(panel, handlers, state):
    """Draws them."""
    shown = state.get("clusters") or []
    if not shown:
        panel.md(
            "No shortcuts to show: fewer than eight tested samples have a heatmap with a place.",
            name="no_clusters",
        )
        return
    layout.heading(
        panel, "clusters_head", "Shortcuts: where heatmaps look alike",
        "Small tight groups off the object first: the mean map, then typical samples. Click a strip to "
        "see its samples. What is fair context can be accepted; its samples no longer count.",
    )  # fmt: skip
    for cluster in shown:
        number = cluster["number"]
        panel.md(cluster["text"], name=f"cluster_text_{number}")
        panel.img(
            f"strip_{number}", on_click=handlers.on_cluster, params={"number": number},
            width="100%", alt_text=f"heatmaps of cluster {number + 1}",
        )  # fmt: skip
        line = layout.row(panel, f"cluster_{number}")
        line.str(
            "name", default=cluster["name"], label="Name", on_change=handlers.on_cluster_name,
            view=types.TextFieldView(componentsProps=layout.FREE),
        )  # fmt: skip
        layout.button(
            line, "show", "Show samples", "visibility", handlers.on_cluster, variant="outlined",
            params={"number": number},
        )  # fmt: skip
        layout.button(
            line, "accept", "Undo" if cluster["accepted"] else "Accept as context",
            "undo" if cluster["accepted"] else "check", handlers.on_accept, variant="outlined",
            params={"number": number, "accepted": not cluster["accepted"]},
        )  # fmt: skip
