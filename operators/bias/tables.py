"""The tables of a report, for spreadsheets and programs."""

import csv
import json

from ..data.written_paths import whole_file
from ..runs import record as run_record
from . import rows
from .findings import known

#: of the JSON file; grows by one when a key is renamed, dropped or means something else
SCHEMA = 2


def write_units(path, entries):
    """Writes a line per unit: verdict and every number.

    Args:
        path: of the file
        entries: of :func:`entries_of`
    """
    with whole_file(path, newline="") as file:
        table = csv.writer(file)
        names = [name for name in entries[0] if name != "box"]
        table.writerow(names)
        for entry in entries:
            table.writerow([cell(entry[name]) for name in names])


def entries_of(found, model):
    """A dict per unit: of which sample it is, and what is stored of it."""
    scan = found.scan
    if found.of_boxes:
        return [
            {
                "sample": scan.ids[i],
                "filepath": scan.paths[i],
                "id": scan.label_ids[i],
                "label": scan.names[i],
                "box": scan.boxes[i].tolist(),
                **rows.attributes_of(found, i),
            }
            for i in range(len(scan.ids))
        ]
    return [
        {
            "id": scan.ids[i],
            "filepath": scan.paths[i],
            "verdict": found.verdict(i).verdict,
            "dependence": known(found.assessment.dependence[i]),
            **rows.numbers_of(found, i, model),
        }
        for i in range(len(scan.ids))
    ]


def write_classes(path, summary):
    """Writes a line per class, intervals in columns of their own."""
    names = ("bg_gap", "bg_support")
    with whole_file(path, newline="") as file:
        table = csv.writer(file)
        plain = [k for k in (summary.classes or [{}])[0] if k not in names]
        header = [f"{name}_{part}" for name in names for part in ("mean", "low", "high")]
        table.writerow([*plain, *header])
        for row in summary.classes:
            parts = [row[name][part] for name in names for part in ("mean", "low", "high")]
            table.writerow([cell(v) for v in [*(row[k] for k in plain), *parts]])


def write_json(path, summary, name, entries):
    """Writes everything that was found, for programs.

    An object with ``schema`` (an integer, see ``SCHEMA``), ``lines`` (the sentences of the summary),
    ``summary`` (every attribute of :class:`BiasSummary`, under its name) and ``samples``, a list of
    objects: ``id, filepath, verdict, dependence`` and the attributes of the field ``{cam_key}_bias``; of a
    detector ``objects`` instead: ``sample, filepath, id, label, box`` and the attributes of the labels.
    Numbers that are not defined are null.

    Args:
        path: of the file
        summary: the :class:`BiasSummary`
        name: ``"samples"`` or ``"objects"``
        entries: of :func:`entries_of`
    """
    document = {
        "schema": SCHEMA,
        "lines": summary.lines(),
        "summary": summary.to_dict(),
        name: run_record.jsonable(entries),
    }
    with whole_file(path) as file:
        json.dump(document, file, indent=1, ensure_ascii=False, allow_nan=False)


def cell(value):
    """A value for a spreadsheet: text that it would take for a formula begins with an apostrophe."""
    if value is None:
        return ""
    if isinstance(value, list):
        return " ".join(value)
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value
