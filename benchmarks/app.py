"""Time for a page of the App's grid to appear, with and without heatmap fields.

Run ``python -m benchmarks.app`` from the checkout; needs FiftyOne with its MongoDB, Playwright and an
installed Chromium. The demo's photos, repeated, with maps as the plugin stores them; all heatmap fields are
shown. A page has appeared when its picture stays the same for a second; the loads are interleaved, each
in a page of its own with an empty cache.

Writes ``bench_output/app.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import itertools
import pathlib
import statistics
import tempfile
import time
import uuid

import cv2
import fiftyone as fo
import fiftyone.core.odm as fod
import numpy as np
from PIL import Image

from benchmarks.plugin_module import plugin
from benchmarks.timing import save, spread, table
from examples.dataset import load_photos
from examples.plugin_link import link_plugin
from tools.app_driver import App, app_server, browser_context, find_browser

FIELDS = [0, 1, 6, 12]
_STEADY_SECONDS = 1.0
_LONGEST_SECONDS = 90.0


def writer_module():
    """``operators.data.heatmap_writer``, loaded when it is first needed."""
    return plugin("operators.data.heatmap_writer")


def heat(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """A smooth map like a network's: 7 x 7 cells, of which some are hot."""
    cells = np.clip(rng.normal(0, 0.5, (7, 7)), 0, None).astype(np.float32)
    rows, columns = writer_module().heatmap_size(width, height)
    large = np.clip(cv2.resize(cells, (columns, rows), interpolation=cv2.INTER_LINEAR), 0, None)
    return large / large.max()


def make_dataset(samples: int, fields: int) -> fo.Dataset:
    """Photos with so many heatmap fields, all of which the grid shows."""
    dataset = fo.Dataset(f"cam51-bench-app-{uuid.uuid4().hex[:8]}", persistent=True)
    paths = list(itertools.islice(itertools.cycle(p["path"] for p in load_photos()), samples))
    dataset.add_samples([fo.Sample(filepath=path) for path in paths], progress=False)
    names = [f"heat_{i}" for i in range(fields)]
    writer_module().declare_schema(dataset, names)
    rng, results = np.random.default_rng(51), {}
    for sample_id, path in zip(dataset.values("id"), paths, strict=True):
        with Image.open(path) as opened:
            size = opened.size
        results[sample_id] = {name: _label(heat(rng, *size)) for name in names}
    if names:
        with writer_module().Writer(dataset) as writer:
            writer.put(results)
    dataset.app_config.active_fields = fod.dataset.ActiveFields(paths=names)
    dataset.save()
    return dataset


def _label(values: np.ndarray) -> fo.Heatmap:
    source = dict(method="gradcam", layer="layer4", target="cat", target_index=3, cam_key="k")
    return writer_module().make_label(values, score=1.0, peak=1.0, status="ok", **source)


def load_once(context, url: str, dataset: fo.Dataset) -> dict:
    """Seconds until the first picture is there, and until the page changes no more."""
    page = context.new_page()
    try:
        page.set_default_timeout(1000 * _LONGEST_SECONDS)
        cdp = context.new_cdp_session(page)
        cdp.send("Network.setCacheDisabled", {"cacheDisabled": True})
        start = time.perf_counter()
        page.goto(f"{url}/datasets/{dataset.name}", wait_until="commit")
        App(page, url).thumbnail(0).wait_for()
        first = time.perf_counter() - start
        grid = page.locator("[data-cy=fo-grid]").first
        picture, changed = b"", time.perf_counter()
        while time.perf_counter() - changed < _STEADY_SECONDS:
            now = grid.screenshot(animations="disabled")
            if now != picture:
                picture, changed = now, time.perf_counter()
            if time.perf_counter() - start > _LONGEST_SECONDS:
                raise TimeoutError(f"{dataset.name} was still changing after {_LONGEST_SECONDS} s")
        shown = page.locator("[data-cy=fo-grid] [data-cy=looker]").count()
        return {"first": first, "seconds": changed - start, "shown": shown, "picture": picture}
    finally:
        page.close()


def measure(fields: list[int], samples: int, rounds: int, pictures: pathlib.Path) -> list[dict]:
    """Every number of fields once per round, after one warm-up each."""
    datasets = {n: make_dataset(samples, n) for n in fields}
    found: dict[int, list[dict]] = {n: [] for n in fields}
    try:
        with (
            tempfile.TemporaryDirectory(prefix="cam51-app-") as folder,
            app_server(pathlib.Path(folder) / "server.log") as url,
            browser_context(pathlib.Path(folder) / "profile") as context,
        ):
            App(context.new_page(), url).open_grid(datasets[fields[0]])  # an advertisement, once
            for number in range(rounds + 1):
                for n, dataset in datasets.items():
                    load = load_once(context, url, dataset)
                    (pictures / f"app_{n}_fields.png").write_bytes(load.pop("picture"))
                    if number:
                        found[n].append(load)
    finally:
        for dataset in datasets.values():
            dataset.delete()
    return [
        {
            "fields": n,
            "seconds": [load["seconds"] for load in loads],
            "first": [load["first"] for load in loads],
            "shown": loads[0]["shown"],
        }
        for n, loads in found.items()
    ]


def report(rows: list[dict], rounds: int) -> str:
    """One row per number of fields, the ratio to none first."""
    base, lines = rows[0]["seconds"], []
    for row in rows:
        each = [a / b for a, b in zip(row["seconds"], base, strict=True)]
        lines.append(
            [
                str(row["fields"]),
                spread(each, bold=True),
                spread(row["seconds"], 1),
                f"{statistics.median(row['first']):.1f}",
                str(row["shown"]),
            ]
        )
    header = [
        "heatmap fields shown", f"x {rows[0]['fields']} fields (low-high)", "s until the page is complete",
        "s until the first photo", "photos on the page",
    ]  # fmt: skip
    return f"{rounds} interleaved rounds, headless Chromium.\n\n{table(header, lines)}"


def main() -> None:
    """Measures, prints and saves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fields", type=int, nargs="+", default=FIELDS)
    parser.add_argument("--samples", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="two rounds")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("bench_output"))
    args = parser.parse_args()
    if find_browser() is None:
        raise SystemExit("no Chromium or Chrome is installed: the App cannot be measured")
    if args.quick:
        args.samples, args.rounds = 48, 2
    link_plugin()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = measure(args.fields, args.samples, args.rounds, args.out)
    save("app", "App", rows, report(rows, args.rounds), args.out)


if __name__ == "__main__":
    main()
