"""Interleaved timing: every contender runs once per round, so that drift hits all alike."""

from __future__ import annotations

import dataclasses
import platform
import statistics
import time
from collections.abc import Callable

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
    contenders: dict[str, Callable[[], object]], rounds: int, device: str
) -> dict[str, Timing]:
    """Times each contender once per round, after one warm-up each.

    Args:
        contenders: what to time, by name
        rounds: how many rounds
        device: ``"cpu"`` or ``"cuda"``, which is synchronised around every call
    """
    for run in contenders.values():
        run()
    timings = {name: Timing(name, []) for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            _synchronise(device)
            start = time.perf_counter()
            run()
            _synchronise(device)
            timings[name].seconds.append(time.perf_counter() - start)
    return timings


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def machine(device: str) -> str:
    """Names the machine for a table's caption."""
    if device == "cuda":
        chip = torch.cuda.get_device_name()
    else:
        chip = f"{torch.get_num_threads()} CPU threads, {platform.machine()}"
    return f"{chip}; torch {torch.__version__}, Python {platform.python_version()}"
