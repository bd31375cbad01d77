"""Time until the panel beside a sample shows its maps, until the next sample's are there, and until an answer.

Run ``python -m benchmarks.sample_panel`` from the checkout; needs FiftyOne with its MongoDB, Playwright and
an installed Chromium. A thousand samples hold a finished run of three methods whose stored maps are as large
as a network's; the demo's photos come in turn. Timed in a page that was quiet before: from the click on the
panel's tab until its last picture is there, from the arrow key until the next sample's pictures are, from *Ask*
until the answer is (ResNet-18 with random weights, loaded before, eight forwards). Of a next sample the App's
own part is told apart: what it takes from the key until it asks the panel.

Writes ``bench_output/sample_panel.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import sys
import tempfile
import time

import fiftyone.operators as foo

from benchmarks.panel import make_dataset, when_quiet
from benchmarks.timing import save, spread, table
from examples.plugin_link import link_plugin
from tools.app_driver import (
    App,
    app_server,
    browser_context,
    find_browser,
    plant_resnet18,
    wait_for,
)

SAMPLES = 1000
# Seconds: the panel from the click, the next sample from the key.
OPEN_TARGET, NEXT_TARGET = 1.2, 0.4
_STEPS = 5


def open_once(context, url: str, dataset) -> dict[str, list[float]]:
    """Seconds of one opening, of the samples after it, and of answers."""
    page = context.new_page()
    try:
        page.set_viewport_size({"width": 1500, "height": 1000})
        app, quiet = App(page, url), when_quiet(page)
        asked: list[float] = []
        page.on(
            "request",
            lambda r: (
                asked.append(time.perf_counter())
                if "on_change_current_sample" in (r.post_data or "")
                else None
            ),
        )
        app.open_grid(dataset)
        app.thumbnail(0).click()
        tab = page.locator("[data-cy=panel-tab-cam_sample_panel]").first
        tab.wait_for()
        quiet()
        start = time.perf_counter()
        tab.click()
        panel = page.locator("[data-cy=panel-content-cam_sample_panel]")
        large = panel.locator("img[alt^='the heat that is kept']")
        large.wait_for()
        found = {"open": [time.perf_counter() - start], "next": [], "panel": [], "ask": []}
        panel.get_by_text("agreement is with this one").wait_for()
        first = panel.locator("img[alt^='gradcam']")
        for _ in range(_STEPS):
            quiet()
            source, start = first.get_attribute("src"), time.perf_counter()
            page.keyboard.press("ArrowRight")
            wait_for(
                lambda source=source: first.get_attribute("src") != source, 60, "the next", 0.005
            )
            found["next"].append(time.perf_counter() - start)
            found["panel"].append(time.perf_counter() - asked[-1])
        panel.get_by_role("button", name="What if", exact=True).click()
        answers = panel.get_by_text("control, ")
        for number in range(_STEPS + 1):
            quiet()
            start = time.perf_counter()
            panel.get_by_role("button", name="Ask", exact=True).click()
            answers.nth(number).wait_for(timeout=120_000)
            if number:  # the first loads the model
                found["ask"].append(time.perf_counter() - start)
        # the App's server remembers an open sample for the next page
        page.keyboard.press("Escape")
        page.locator("[data-cy=modal]").wait_for(state="detached")
        return found
    finally:
        page.close()


def measure(samples: int, rounds: int) -> list[dict]:
    """Every round in a page of its own, after one that is told apart."""
    dataset = make_dataset(samples)
    found = []
    try:
        with tempfile.TemporaryDirectory(prefix="cam51-sample-panel-") as name:
            folder = pathlib.Path(name)
            weights = plant_resnet18(folder)
            with (
                app_server(folder / "server.log", weights) as url,
                browser_context(folder / "profile") as context,
            ):
                for number in range(rounds + 1):
                    found.append({"warm": number > 0, **open_once(context, url, dataset)})
                    print(found[-1], file=sys.stderr, flush=True)
    finally:
        dataset.delete()
    return found


def report(rounds: list[dict]) -> str:
    """One row per thing that is waited for."""
    rows = []
    for key, what, target in (
        ("open", "the panel, from the click on its tab", OPEN_TARGET),
        ("next", "the next sample, from the key", None),
        ("panel", "of that the panel, from when the App asks it", NEXT_TARGET),
        ("ask", "an answer of *What if*", 1.0),
    ):
        each = [value for one in rounds if one["warm"] for value in one[key]]
        met = "" if target is None else "met" if statistics.median(each) <= target else "missed"
        rows.append([what, spread(each), "" if target is None else f"{target:g}", met])
    rows.append(
        [
            "the first opening of a server, which imports torch",
            f"{rounds[0]['open'][0]:.2f}",
            "",
            "",
        ]
    )
    return table(["until there is", "s (low-high)", "target", ""], rows)


def main() -> None:
    """Measures, prints and saves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two rounds")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("bench_output"))
    args = parser.parse_args()
    if find_browser() is None:
        raise SystemExit("no Chromium or Chrome is installed: the App cannot be measured")
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
    link_plugin()
    foo.get_operator("@cam51/heatmaps/compute_cams")  # loads the plugin, whose rooms write the run
    args.out.mkdir(parents=True, exist_ok=True)
    rounds = measure(args.samples, 2 if args.quick else args.rounds)
    save("sample_panel", "Panel beside a sample", rounds, report(rounds), args.out)


if __name__ == "__main__":
    main()
