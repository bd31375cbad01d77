"""The tables of a report, for spreadsheets and programs."""

import csv
import dataclasses
import json

import numpy as np

from ..runs import record as run_record
from . import rows
from . import schema as store

#: of the JSON file; grows by one when a key is renamed, dropped or means something else
SCHEMA = 1


def write_samples(path, found, model):
    """Writes a line per sample: verdict, dependence and every number."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "filepath", "verdict", "dependence", *store.ATTRIBUTES])
        for i, sample_id in enumerate(found.scan.ids):
            numbers = rows.numbers_of(found, i, model)
            numbers["donors"] = " ".join(numbers["donors"] or [])
            values = [
                sample_id,
                found.scan.paths[i],
                found.assessment.verdicts[i].verdict,
                _value(found.assessment.dependence[i]),
                *numbers.values(),
            ]
            table.writerow([cell(v) for v in values])


def write_classes(path, summary):
    """Writes a line per class, intervals in columns of their own."""
    names = ("bg_gap", "bg_support")
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        plain = [k for k in (summary.classes or [{}])[0] if k not in names]
        header = [f"{name}_{part}" for name in names for part in ("mean", "low", "high")]
        table.writerow([*plain, *header])
        for row in summary.classes:
            parts = [row[name][part] for name in names for part in ("mean", "low", "high")]
            table.writerow([cell(v) for v in [*(row[k] for k in plain), *parts]])


def write_json(path, summary, found, model):
    """Writes everything that was found, for programs.

    An object with ``schema`` (an integer, see ``SCHEMA``), ``lines`` (the sentences of the summary),
    ``summary`` (every attribute of :class:`BiasSummary`, under its name) and ``samples`` (a list of
    objects: ``id, filepath, verdict, dependence`` and the attributes of the field ``{cam_key}_bias``).
    Numbers that are not defined are null.
    """
    samples = [
        {
            "id": sample_id,
            "filepath": found.scan.paths[i],
            "verdict": found.assessment.verdicts[i].verdict,
            "dependence": _value(found.assessment.dependence[i]),
            **rows.numbers_of(found, i, model),
        }
        for i, sample_id in enumerate(found.scan.ids)
    ]
    document = {
        "schema": SCHEMA,
        "lines": summary.lines(),
        "summary": run_record.jsonable(dataclasses.asdict(summary)),
        "samples": run_record.jsonable(samples),
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1, ensure_ascii=False, allow_nan=False)


def cell(value):
    """A value for a spreadsheet: text that it would take for a formula begins with an apostrophe."""
    if value is None:
        return ""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value


def _value(number_):
    return float(number_) if np.isfinite(number_) else None
