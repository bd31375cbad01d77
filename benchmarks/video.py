"""Frames per second of ``compute_cams`` on videos, beside ``apply_model`` on the same.

Run ``python -m benchmarks.video`` from the checkout; needs FiftyOne with its MongoDB, and ffmpeg, with which
``apply_model`` reads videos. ResNet-50 with random weights at 224 x 224 pixels; a video of 60 frames of
640 x 480 pixels, a window that moves over the demo's photos; same model, transforms and batch size for both.

Writes ``bench_output/video.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import shutil
import statistics
import sys
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator

import cv2
import fiftyone as fo
import fiftyone.operators as foo
import fiftyone.utils.torch as fout
import numpy as np
import torch
from PIL import Image, ImageOps

from benchmarks.dataset import EIGHT, apply_model, make_model
from benchmarks.timing import Timing, interleave, save, spread, table
from examples.dataset import load_photos
from examples.plugin_link import link_plugin

SIZE = (640, 480)
TARGET = 0.9


def write_video(path: pathlib.Path, frames: int, rate: int = 30) -> None:
    """A window that moves over photos, one after the other for a second each."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), rate, SIZE)
    photos = [p["path"] for p in load_photos()]
    for number in range(frames):
        with Image.open(photos[number // rate % len(photos)]) as photo:
            wide = ImageOps.fit(photo.convert("RGB"), (SIZE[0] + 4 * rate, SIZE[1]))
        left = 4 * (number % rate)
        writer.write(np.asarray(wide)[:, left : left + SIZE[0], ::-1].copy())
    writer.release()


@contextlib.contextmanager
def fresh_dataset(path: pathlib.Path) -> Iterator[fo.Dataset]:
    """A dataset of the video with its metadata, deleted afterwards."""
    dataset = fo.Dataset(f"cam51-bench-{uuid.uuid4().hex[:8]}")
    try:
        dataset.add_sample(fo.Sample(filepath=str(path)))
        dataset.compute_metadata(progress=False)
        if not dataset.first().metadata.total_frame_count:
            raise RuntimeError("the video has no frames")
        yield dataset
    finally:
        dataset.delete()


def ours(model: fo.Model, methods: list[str], batch: int, frames: int) -> Callable:
    """A call of the plugin, as people get it."""
    compute_cams = foo.get_operator("@cam51/heatmaps/compute_cams")

    def run(dataset: fo.Dataset) -> None:
        summary = compute_cams(
            dataset, model=model, methods=methods, batch_size=batch, cam_key="bench", progress=False
        )
        if summary.done != frames:
            raise RuntimeError(f"not everything was explained: {summary}")

    return run


def checked(run: Callable, frames: int) -> Callable:
    """A run after which each frame has a prediction: ``apply_model`` only logs what fails."""

    def both(dataset: fo.Dataset) -> None:
        run(dataset)
        if dataset.count("frames.predicted") != frames:
            raise RuntimeError("apply_model did not predict every frame")

    return both


def measure(args: argparse.Namespace) -> list[Timing]:
    """Seconds of each contender by round."""
    model = make_model(args.device)
    # apply_model hands over frames of videos as arrays
    model._transforms.transforms.insert(0, fout.ToPILImage())
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "video.mp4"
        write_video(path, args.frames)
        contenders = {
            "apply_model": checked(apply_model(model, args.batch, 0), args.frames),
            "compute_cams, one method": ours(model, EIGHT[:1], args.batch, args.frames),
            "compute_cams, eight methods": ours(model, EIGHT, args.batch, args.frames),
        }
        timings = interleave(
            contenders, args.rounds, args.device, around=lambda: fresh_dataset(path)
        )
    return list(timings.values())


def report(timings: list[Timing], frames: int) -> str:
    """One table; ratios are of throughput, so more than 1 is faster than ``apply_model``."""
    base = timings[0]
    rows = []
    for timing in timings:
        ratios = [b / own for b, own in zip(base.seconds, timing.seconds, strict=True)]
        met = "met" if statistics.median(ratios) >= TARGET else "missed"
        target = f">= {TARGET:g}: {met}" if timing.name.endswith("one method") else ""
        rates = [frames / seconds for seconds in timing.seconds]
        rows.append([timing.name, spread(rates, 1), spread(ratios, bold=True), target])
    return table(["what", "frames/s, median (low-high)", "x apply_model", "target"], rows)


def main() -> None:
    """Measures, prints and saves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="few frames, two rounds")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("bench_output"))
    args = parser.parse_args()
    if args.quick:
        args.frames, args.rounds = 30, 2
    if shutil.which("ffmpeg") is None:
        sys.exit("ffmpeg is not installed, and apply_model reads no video without it")
    warnings.filterwarnings("ignore", category=UserWarning)
    link_plugin()
    timings = measure(args)
    rows = [{"what": t.name, "seconds": t.seconds} for t in timings]
    said = f"ResNet-50 at 224 px, batches of {args.batch}, {args.device}; {args.frames} frames; "
    text = f"{said}{args.rounds} interleaved rounds.\n\n{report(timings, args.frames)}"
    save("video", "Video", rows, text, args.out)


if __name__ == "__main__":
    main()
