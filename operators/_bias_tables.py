"""The tables of a report, for spreadsheets."""

import csv

import numpy as np

from . import _bias_rows as rows
from . import _bias_store as store


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


def cell(value):
    """A value for a spreadsheet: text that it would take for a formula begins with an apostrophe."""
    if value is None:
        return ""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value


def _value(number_):
    return float(number_) if np.isfinite(number_) else None
