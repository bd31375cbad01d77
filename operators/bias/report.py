"""What was found, to be handed on: one HTML page without anything outside it, and two tables.

Whatever comes from the dataset (names, labels, paths) is escaped.
"""

import base64
import html
import os

import cv2
import numpy as np

from ..text import number, percent, with_interval
from .summary import region_sentence
from .tables import write_classes, write_json, write_samples

_THUMB = 210
_PICTURES, COMPOSITES = 4, 2
_IDS = 20

_STYLE = """
:root{--ink:#1d2330;--soft:#667085;--line:#e3e6ec;--warm:#c2410c;--paper:#fff}
*{box-sizing:border-box}
body{margin:0;background:#f5f6f8;color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1020px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:24px;margin:0 0 2px}h2{font-size:18px;margin:34px 0 10px}h3{font-size:16px;margin:0}
p{margin:6px 0}.soft{color:var(--soft);font-size:13px}
.lead p:first-child{font-size:18px}
.card{background:var(--paper);border:1px solid var(--line);border-radius:10px;padding:16px 18px;margin:14px 0}
.card.flagged{border-left:5px solid var(--warm)}
.strip{display:flex;flex-wrap:wrap;gap:10px;margin:12px 0}
figure{margin:0;max-width:210px}figure img{display:block;border-radius:6px;max-width:100%}
figure .pair{display:flex;flex-direction:column;align-items:flex-start;gap:4px}
figcaption{font-size:12px;color:var(--soft);overflow-wrap:anywhere;margin-top:3px}
table{border-collapse:collapse;background:var(--paper);font-size:13px}
th,td{border:1px solid var(--line);padding:5px 8px;text-align:right}
th:first-child,td:first-child,.settings td{text-align:left}td{white-space:nowrap}
.settings td:last-child{white-space:normal;overflow-wrap:anywhere}
th{background:#eef0f4;font-weight:600}tr.flagged td{background:#fff4ec}
code{background:#eef0f4;border-radius:4px;padding:1px 4px;font-size:12px;overflow-wrap:anywhere}
.bar{display:inline-block;height:9px;background:var(--warm);border-radius:2px;vertical-align:middle;margin-right:6px}
.scroll{overflow-x:auto}ul{margin:6px 0;padding-left:20px}
"""

_LIMITS = (
    "What these checks cannot see: cues that are everywhere in the picture at once, such as a tint, blur or "
    "compression, move with the background only in part; an object that gives away its class by its own "
    "surroundings within the box; and whatever this dataset has no example of. Pasting leaves traces: the "
    "drop on backgrounds of the same class says how much. Context can be legitimate: a snorkel belongs in "
    "water. No flag means that these checks found no evidence."
)


def write_report(folder, summary, found, plan, model):
    """Writes the page ``{cam_key}_bias.html``, two tables, and everything as JSON beside it.

    Args:
        folder: an existing folder
        summary: the :class:`BiasSummary`
        found: the :class:`Findings`, whose pictures are still there
        plan: the :class:`RecordedPlan`
        model: the :class:`LoadedModel`

    Returns:
        the path of the page
    """
    stem = os.path.join(folder, f"{summary.cam_key}_bias")
    write_samples(f"{stem}_samples.csv", found, model)
    write_classes(f"{stem}_classes.csv", summary)
    write_json(f"{stem}.json", summary, found, model)
    page = Page(summary, found, plan, model)
    path = f"{stem}.html"
    with open(path, "w", encoding="utf-8") as file:
        file.write(page.text())
    return path


class Page:
    """The page's parts.

    Args:
        summary: the :class:`BiasSummary`
        found: the :class:`Findings`
        plan: the :class:`RecordedPlan`, or None
        model: the :class:`LoadedModel`
    """

    def __init__(self, summary, found, plan, model):
        self._summary, self._found, self._plan, self._model = summary, found, plan, model

    def text(self):
        """The whole page."""
        s = self._summary
        parts = [
            f"<h1>Background bias: {_safe(s.cam_key)}</h1>",
            f'<p class="soft">model {_safe(s.settings["model"])} · {s.samples:,} samples, {self._counts()} '
            f"tested · seed {s.settings['seed']}</p>",
            f'<div class="card lead">{_paragraphs(s.lines())}</div>',
            *self._class_cards(),
            self._strongest(),
            self._table(),
            self._portraits(),
            self._clusters(),
            self._groups(),
            f'<h2>Limits</h2><p class="soft">{_LIMITS}</p>',
            self._settings(),
        ]
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f"<title>Background bias: {_safe(s.cam_key)}</title><style>{_STYLE}</style></head>"
            f"<body><main>{''.join(parts)}</main></body></html>\n"
        )

    def _counts(self):
        return f"{self._summary.tested:,}"

    def _class_cards(self):
        flagged = self._summary.flagged
        if not flagged:
            return []
        cards = [self._class_card(row) for row in flagged]
        return ["<h2>Classes that depend on their background</h2>", *cards]

    def _class_card(self, row):
        places = self._worst(self._of_class(row["label"]))
        said = (
            f"The score of {row['label']} depends on the background: on backgrounds of other classes it falls "
            f"by {number(row['swap_drop'])}, on those of its own class by {number(row['same_drop'])}; the gap "
            f"is {with_interval(row['bg_gap'], number)}, q {row['q']:.2g}."
        )
        return (
            f'<section class="card flagged"><h3>{_safe(row["label"])}</h3><p>{_safe(said)}</p>'
            f"{self._strip(places)}{self._next_steps(row['label'])}</section>"
        )

    def _of_class(self, label):
        return lambda i: self._found.names[i] == label

    def _worst(self, wanted):
        """Rows of tested samples, the most dependent first; none where nothing was swapped."""
        f = self._found
        if f.tested.check is None:
            return []
        rows_ = [i for i in f.tested.rows.tolist() if f.status[i] == "ok" and wanted(i)]
        return sorted(rows_, key=lambda i: -np.nan_to_num(f.assessment.dependence[i], nan=-1))

    def _strip(self, places):
        photos = [self._photo(i) for i in places[:_PICTURES]]
        made = [figure for i in places[:1] for figure in self._composites(i)]
        rows_ = [f'<div class="strip">{"".join(figures)}</div>' for figures in (photos, made)]
        return "".join(rows_)

    def _photo(self, i):
        """A photo above its heat."""
        f = self._found
        photo = self._picture(i)
        verdict = f.assessment.verdicts[i]
        name = f.names[i] if f.units.multi_label else self._model.label(int(f.scan.predicted[i]))
        caption = (
            f"{os.path.basename(f.scan.paths[i])}: {name} {f.scan.score[i]:.2f}; {verdict.verdict}: "
            f"{verdict.reason}"
        )
        return figure([(photo, "photo"), (self._heat(i, photo), "heat")], caption)

    def _composites(self, i):
        """The object of a sample on those of its other backgrounds that cost most."""
        from ...cam_core.bias.composites import remove_objects, swap_background

        f, place = self._found, int(self._found.place[i])
        tested, check = f.tested, f.tested.check
        feather, margin = f.check.feather, f.check.margin
        figures = []
        donors = check.donors.foreign[place]
        known = [k for k in range(len(donors)) if donors[k] >= 0]
        scores = check.table.foreign_scores[place]
        for k in sorted(known, key=lambda k: scores[k])[:COMPOSITES]:
            donor = int(donors[k])
            other = remove_objects(tested.pictures[donor], tested.removals[donor], margin).image
            made = swap_background(
                tested.pictures[place], tested.masks[place], other, feather=feather
            )
            guess = self._model.label(int(check.table.foreign_predictions[place, k]))
            caption = (
                f"{os.path.basename(f.scan.paths[i])} on one of the worst of {len(known)} other backgrounds: "
                f"its score is {scores[k]:.2f}, was {check.table.score[place]:.2f}; predicted {guess}"
            )
            figures.append(figure([(shrunk(made), "composite")], caption))
        return figures

    def _picture(self, i):
        return shrunk(self._found.tested.pictures[int(self._position(i))])

    def _position(self, i):
        return np.flatnonzero(self._found.tested.rows == i)[0]

    def _heat(self, i, photo):
        heat = self._found.scan.maps[i].astype(np.float32)
        heat = cv2.resize(heat, photo.shape[1::-1], interpolation=cv2.INTER_CUBIC).clip(0, 1)
        return overlay(photo, heat)

    def _next_steps(self, label):
        f, s = self._found, self._summary
        mine = [i for i in f.tested.rows.tolist() if f.names[i] == label]
        fine = [i for i in mine if f.assessment.verdicts[i].verdict == "relies on object"]
        wrong = [
            i
            for i in mine
            if f.correct[i] == 0
            and f.assessment.verdicts[i].verdict.startswith("relies on background")
        ]
        steps = [
            f"Collect more pictures of {label} on other backgrounds. {len(fine)} of {len(mine)} tested samples "
            f"do not depend on theirs: {listed([f.scan.ids[i] for i in fine])}",
            "Augment: train with the object on other samples' backgrounds, then run this again on the same "
            "samples.",
            f"Look at them in the view “{s.cam_key}: relies on background”; if the context is legitimate, say "
            "so in the class's description.",
        ]
        if wrong:
            steps.insert(
                1,
                f"Check the labels of {len(wrong)} that are predicted wrongly and depend on the background: "
                f"{listed([f.scan.ids[i] for i in wrong])}",
            )
        return self._steps(steps)

    def _steps(self, steps):
        items = "".join(f"<li>{_with_code(step)}</li>" for step in steps)
        return f'<p class="soft">What to do next</p><ul class="soft">{items}</ul>'

    def _strongest(self):
        places = self._worst(lambda i: True)
        if not places:
            return ""
        return (
            f"<h2>{self._summary.unit.capitalize()} that depend most on their background</h2>"
            '<section class="card">'
            f"{self._strip(places)}</section>"
        )

    def _table(self):
        head = (
            "class", self._summary.unit, "tested", "gap (95 %)", "own background", "dependence", "q",
            "accuracy", "heat on object", "uniform", "maps without heat", "",
        )  # fmt: skip
        body = "".join(self._table_row(row) for row in self._summary.classes[:200])
        cells = "".join(f"<th>{h}</th>" for h in head)
        more = len(self._summary.classes) - 200
        rest = f'<p class="soft">{more} more classes are in the CSV file.</p>' if more > 0 else ""
        return (
            f'<h2>Classes</h2><div class="scroll"><table><tr>{cells}</tr>{body}</table></div>{rest}'
            '<p class="soft">gap: what other classes\' backgrounds cost beyond those of the same class. own '
            "background: its evidence for the class, beyond other classes' backgrounds. Classes with fewer than "
            f"20 tested {self._summary.unit} are shown, never flagged.</p>"
        )

    def _table_row(self, row):
        dependence = row["dependence"]
        bar = f'<span class="bar" style="width:{60 * (dependence or 0):.0f}px"></span>'
        cells = [
            _safe(row["label"]), f"{row['samples']:,}", f"{row['n']:,}", _range(row["bg_gap"]),
            _range(row["bg_support"]), f"{bar}{number(dependence)}",
            "–" if row["q"] is None else f"{row['q']:.2g}", percent(row["accuracy"]),
            percent(row["obj_energy"]), percent(row["area"]), f"{row['zero_maps']:,}",
            "flagged" if row["flagged"] else _safe(row["note"]),
        ]  # fmt: skip
        style = ' class="flagged"' if row["flagged"] else ""
        return f"<tr{style}>" + "".join(f"<td>{c}</td>" for c in cells) + "</tr>"

    def _portraits(self):
        figures = [
            _map_figure(
                p["portrait"],
                f"{p['label']}{'' if p['group'] is None else ', ' + p['group']} (n = {p['n']})",
            )
            for p in self._summary.portraits[:12]
        ]
        return _section(
            "Which part of the object", figures,
            "Mean heat within the objects' boxes: the box's left upper corner is the picture's.",
        )  # fmt: skip

    def _clusters(self):
        figures = []
        for c in self._summary.clusters[:8]:
            off = (
                ""
                if c["outside"] is None
                else f", {percent(c['outside'])} of the heat off the object"
            )
            caption = f"{c['label'] or 'all classes'}: {c['n']} samples{off}. "
            figures.append(_map_figure(c["mean_map"], caption, listed(c["ids"])))
        return _section(
            "Where heat gathers", figures,
            "Clusters of heatmaps, small tight ones off the object first: a tag or a logo has a cluster of its "
            "own. test_region says what such a place is worth to the model.",
        )  # fmt: skip

    def _groups(self):
        g = self._summary.groups
        if g is None:
            return ""
        figures = [
            _map_figure(
                row["mean_map"],
                f"{row['value']}: accuracy {with_interval(row['accuracy'])}, effect "
                f"{with_interval(row['effect'], number)}",
            )
            for row in g["groups"][:12]
            if row["mean_map"] is not None
        ]
        return _section(f"By {g['field']}", figures, "Mean heat over the image.")

    def _settings(self):
        items = "".join(
            f"<tr><td>{_safe(k)}</td><td>{_safe(v)}</td></tr>"
            for k, v in self._summary.settings.items()
        )
        regions = "".join(f"<p>{_safe(region_sentence(r))}</p>" for r in self._summary.regions)
        return f'{regions}<h2>Settings</h2><table class="settings">{items}</table>'


def _section(title, figures, note):
    if not figures:
        return ""
    return f'<h2>{_safe(title)}</h2><p class="soft">{_safe(note)}</p><div class="strip">{"".join(figures)}</div>'


def _map_figure(values, caption, ids=""):
    heat = cv2.resize(np.asarray(values, np.float32), (160, 160), interpolation=cv2.INTER_CUBIC)
    picture = _image(_colours(heat.clip(0, 1)), "heat")
    return f"<figure>{picture}<figcaption>{_safe(caption)}{_with_code(ids)}</figcaption></figure>"


def figure(pictures, caption):
    """One picture, or several below each other, as HTML.

    Args:
        pictures: list of ``(picture (h, w, 3) uint8, what it is)``
        caption: what is said below
    """
    shown = "".join(_image(*one) for one in pictures)
    if len(pictures) > 1:
        shown = f'<div class="pair">{shown}</div>'
    return f"<figure>{shown}<figcaption>{_safe(caption)}</figcaption></figure>"


def _colours(heat):
    bgr = cv2.applyColorMap(np.rint(heat * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return bgr[..., ::-1]


def overlay(photo, heat):
    """Lays heat (h, w) in [0, 1] over a photo (h, w, 3)."""
    share = (0.75 * heat)[..., None]
    return np.rint(photo * (1 - share) + _colours(heat) * share).astype(np.uint8)


def shrunk(picture):
    """A picture (h, w, 3) at the size that the page has."""
    scale = _THUMB / max(picture.shape[:2])
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(np.asarray(picture), size, interpolation=how)


def _image(picture, alternative):
    done, jpeg = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    if not done:
        raise OSError("a picture of the report could not be encoded as JPEG")
    data = base64.b64encode(jpeg.tobytes()).decode()
    return f'<img alt="{alternative}" src="data:image/jpeg;base64,{data}">'


def _range(interval):
    if interval["mean"] is None:
        return "–"
    if interval["low"] is None:
        return number(interval["mean"])
    return f"{number(interval['mean'])} ({number(interval['low'])} to {number(interval['high'])})"


def listed(ids):
    """The first ids in back quotes, which :func:`_with_code` sets as code."""
    if not ids:
        return "none"
    more = f" and {len(ids) - _IDS} more" if len(ids) > _IDS else ""
    return f"`{' '.join(ids[:_IDS])}`{more}"


def _with_code(text):
    parts = _safe(text).split("`")
    return "".join(f"<code>{p}</code>" if i % 2 else p for i, p in enumerate(parts))


def _paragraphs(lines):
    return "".join(f"<p>{_safe(line)}</p>" for line in lines)


def _safe(value):
    return html.escape(str(value))
