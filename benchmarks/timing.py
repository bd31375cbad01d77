"""Interleaved timing: every contender runs once per round, so that drift hits all alike."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch


@dataclasses.dataclass
class Timing:
    """Seconds of one contender over the rounds."""

    name: str
    seconds: list[float]

    @property
    def median(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.seconds)

    def ratio(self, base: Timing) -> tuple[float, float, float]:
        """Median, lowest and highest of the round-by-round ratios to a base."""
        ratios = sorted(a / b for a, b in zip(self.seconds, base.seconds, strict=True))
        return statistics.median(ratios), ratios[0], ratios[-1]


def interleave(
    contenders: dict[str, Callable[..., object]],
    rounds: int,
    device: str,
    around: Callable[[], Any] | None = None,
) -> dict[str, Timing]:
    """Times each contender once per round, after one warm-up each.

    Args:
        contenders: what to time, by name
        rounds: how many rounds
        device: ``"cpu"`` or ``"cuda"``, which is synchronised around every call
        around (None): makes a context, entered before each call and left after it, untimed; what it
            yields is the call's argument
    """
    timings = {name: Timing(name, []) for name in contenders}
    for number in range(rounds + 1):
        for name, run in contenders.items():
            seconds = _timed(run, device, around)
            if number:  # the first is the warm-up
                timings[name].seconds.append(seconds)
    return timings


def _timed(run: Callable[..., object], device: str, around: Callable[[], Any] | None) -> float:
    if around is None:
        return _seconds(run, device)
    with around() as given:
        return _seconds(lambda: run(given), device)


def _seconds(run: Callable[[], object], device: str) -> float:
    _synchronise(device)
    start = time.perf_counter()
    run()
    _synchronise(device)
    return time.perf_counter() - start


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def spread(values: list[float], digits: int = 2, bold: bool = False) -> str:
    """The median with the lowest and the highest, as text.

    Args:
        values: what was measured, once per round
        digits (2): after the point
        bold (False): whether the median is bold in Markdown
    """
    mark = "**" if bold else ""
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return f"{mark}{statistics.median(values):.{digits}f}{mark} ({low}-{high})"


def machine(device: str) -> str:
    """Names the machine for a table's caption."""
    if device == "cuda":
        chip = torch.cuda.get_device_name()
    else:
        chip = f"{torch.get_num_threads()} CPU threads, {platform.machine()}"
    return f"{chip}; torch {torch.__version__}, Python {platform.python_version()}"


def about(device: str = "cpu") -> dict[str, Any]:
    """The machine and the versions that numbers depend on, as JSON has them.

    Args:
        device ("cpu"): see :func:`machine`
    """
    versions = {}
    for name in ("fiftyone", "torch", "torchvision", "numpy", "grad-cam", "captum", "torchcam"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "machine": machine(device),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        # Of the last minute: what else the machine had to do.
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": versions,
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def save(name: str, title: str, rows: list[dict], text: str, out: pathlib.Path) -> None:
    """Prints a benchmark's tables and writes them as JSON and Markdown.

    Args:
        name: of the files
        title: the heading
        rows: the numbers
        text: Markdown
        out: a folder
    """
    known = about()
    versions = ", ".join(f"{k} {v}" for k, v in known["versions"].items())
    load = "" if known["load"] is None else f"; load {known['load']:.1f} at the end"
    text = f"# {title}\n\n{known['machine']}; {known['cores']} cores{load}; {versions}\n\n{text}\n"
    print(text, flush=True)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps({"about": known, "rows": rows}, indent=1))
    (out / f"{name}.md").write_text(text)


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
