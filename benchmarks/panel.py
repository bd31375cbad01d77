"""Time until the panel shows something, on a thousand samples and on a hundred thousand.

Run ``python -m benchmarks.panel`` from the checkout; needs FiftyOne with its MongoDB, Playwright and an
installed Chromium. The datasets hold a finished, analysed and compared run whose numbers are drawn (the
tests' own, see ``tests/panel_common.py``); the maps are as large as a network's, the demo's photos come
in turn. Timed from the click, in a page that was quiet before, until the last thing is drawn; each
opening has a page of its own, the sizes are interleaved. The first opening of a server is told apart.

Writes ``bench_output/panel.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable

import fiftyone as fo
import fiftyone.operators as foo
import numpy as np

from benchmarks.app import heat
from benchmarks.timing import save, spread, table
from examples.dataset import load_photos
from examples.plugin_link import link_plugin
from tools.app_driver import app_server, browser_context, find_browser

SIZES = [1000, 100_000]
# Seconds from the click to the drawn panel, at the largest size.
TARGET = 2.0
_QUIET_SECONDS = 2.0
_LONGEST_SECONDS = 60.0
# tab, a text of it, and how many charts it has
TABS = [
    ("Test", "Score lost on other backgrounds, per class", 1),
    ("Compare", "Faithfulness", 1),
    ("Samples", "What to look at first", 0),
]


def make_dataset(samples: int) -> fo.Dataset:
    """A dataset with a finished run, written straight into the database."""
    from panel_common import CLASSES, FIELDS, make_run

    dataset = fo.Dataset(f"cam51-bench-panel-{uuid.uuid4().hex[:8]}", persistent=True)
    make_run(dataset, [photo["path"] for photo in load_photos()], samples)
    # a query pays for all that a document holds: the maps take their usual room
    rng = np.random.default_rng(51)
    for label in CLASSES:
        maps = {f"{field}.map": stored_map(rng) for field in FIELDS}
        dataset._sample_collection.update_many({"label.label": label}, {"$set": maps})
    return dataset


def stored_map(rng: np.random.Generator) -> bytes:
    """A map as the plugin stores those of photos: some 4 kB."""
    levels = np.rint(63 * heat(rng, 1024, 768)) * (255 / 63)
    return fo.Heatmap(map=levels.astype(np.uint8)).to_mongo()["map"]


def open_once(context, url: str, dataset: fo.Dataset) -> dict:
    """Seconds from the click on the button, and on every tab, until it is drawn."""
    from panel_app import PanelApp

    page = context.new_page()
    try:
        page.set_viewport_size({"width": 1700, "height": 1300})
        app, seconds = PanelApp(page, url), {}
        quiet = when_quiet(page)
        app.open_grid(dataset)
        quiet()
        start = time.perf_counter()
        app.open_panel("The run")
        seconds["facts"] = time.perf_counter() - start
        page.get_by_role("button", name="Details of the run").wait_for()  # the last thing drawn
        seconds["open"] = time.perf_counter() - start
        for name, text, charts in TABS:
            quiet()
            start = time.perf_counter()
            app.tab(name, text)
            if charts:
                page.locator(".js-plotly-plot .main-svg").nth(charts - 1).wait_for()
            seconds[name] = time.perf_counter() - start
        quiet()
        # the App's server remembers it for the next page
        page.get_by_test_id("CloseIcon").last.click()
        page.locator("[data-cy=panel-content-cam_panel]").wait_for(state="detached")
        return seconds
    finally:
        page.close()


def when_quiet(page) -> Callable[[], None]:
    """A function that waits until the page has asked the server for nothing for a while."""
    open_requests, last = set(), [time.perf_counter()]

    def changed(request, change):
        if request.method == "POST" and "/events" not in request.url:
            change(request)
            last[0] = time.perf_counter()

    page.on("request", lambda request: changed(request, open_requests.add))
    for end in ("requestfinished", "requestfailed"):
        page.on(end, lambda request: changed(request, open_requests.discard))

    def wait():
        end = time.perf_counter() + _LONGEST_SECONDS
        while open_requests or time.perf_counter() - last[0] < _QUIET_SECONDS:
            page.wait_for_timeout(100)
            if time.perf_counter() > end:
                raise TimeoutError(f"the page still asks after {_LONGEST_SECONDS} s")

    return wait


def measure(sizes: list[int], rounds: int) -> list[dict]:
    """Every size once per round, after one opening each that is told apart."""
    datasets = {n: make_dataset(n) for n in sizes}
    found: dict[int, list[dict]] = {n: [] for n in sizes}
    try:
        with (
            tempfile.TemporaryDirectory(prefix="cam51-panel-") as folder,
            app_server(pathlib.Path(folder) / "server.log") as url,
            browser_context(pathlib.Path(folder) / "profile") as context,
        ):
            for number in range(rounds + 1):
                for n, dataset in datasets.items():
                    seconds = open_once(context, url, dataset)
                    found[n].append({"warm": number > 0, **seconds})
                    print(n, found[n][-1], file=sys.stderr, flush=True)
    finally:
        for dataset in datasets.values():
            dataset.delete()
    return [{"samples": n, "openings": openings} for n, openings in found.items()]


def report(rows: list[dict], rounds: int) -> str:
    """One row per size."""
    lines, opened = [], {}
    for row in rows:
        warm = [o for o in row["openings"] if o["warm"]]
        texts = [f"{row['samples']:,}"]
        for name in ("facts", "open", *(tab[0] for tab in TABS)):
            each = [o[name] for o in warm]
            opened.setdefault(name, {})[row["samples"]] = statistics.median(each)
            texts.append(spread(each))
        texts.append(f"{row['openings'][0]['open']:.2f}")
        lines.append(texts)
    sizes = [row["samples"] for row in rows]
    largest = opened["open"][sizes[-1]]
    said = (
        f"{rounds} interleaved rounds, headless Chromium without a GPU; target: open in {TARGET:.0f} s at "
        f"{sizes[-1]:,} samples: {'met' if largest <= TARGET else 'missed'}; "
        f"x{largest / opened['open'][sizes[0]]:.2f} of {sizes[0]:,} samples"
    )
    header = [
        "samples", "s until it says something", "s until all is there (low-high)",
        *(f"tab {name}" for name, _, _ in TABS), "first opening of a server",
    ]  # fmt: skip
    return f"{said}\n\n{table(header, lines)}"


def main() -> None:
    """Measures, prints and saves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="two rounds, up to 20,000 samples")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("bench_output"))
    args = parser.parse_args()
    if find_browser() is None:
        raise SystemExit("no Chromium or Chrome is installed: the App cannot be measured")
    if args.quick:
        args.sizes, args.rounds = [min(n, 20_000) for n in args.sizes], 2
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
    link_plugin()
    foo.get_operator("@cam51/heatmaps/compute_cams")  # loads the plugin, whose rooms write the run
    args.out.mkdir(parents=True, exist_ok=True)
    rows = measure(args.sizes, args.rounds)
    save("panel", "Panel", rows, report(rows, args.rounds), args.out)


if __name__ == "__main__":
    main()
