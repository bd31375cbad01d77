"""The whole way on real photos: dataset, network, heatmaps, a measure, a causal test, the App.

``make demo`` runs this file. Set ``APP=0`` to keep the App closed, ``PORT`` to move it, ``ZOO=1``
to use FiftyOne's quickstart dataset and a ResNet-50 of its model zoo (both are downloaded) instead
of the 24 photos and EfficientNet-Lite0, which come along.
"""

import argparse
import math
import os
import statistics
import sys
import textwrap
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# run as a file, Python puts examples/ on the path; the packages lie beside it
sys.path.insert(0, str(ROOT))

from examples import dataset as demo_data  # noqa: E402
from examples import lite0, measure  # noqa: E402
from examples.contact_sheet import contact_sheet  # noqa: E402
from examples.plugin_link import link_plugin  # noqa: E402

METHODS = ["gradcam", "layercam", "hirescam", "eigencam", "ablationcam"]
OUTPUT = ROOT / "demo_output"
# by this name the App's forms load it, too
LITE0 = "examples.lite0:lite0_model"
# opened beside the grid
PANEL = "cam_panel"
PHOTOS_NAME, ZOO_NAME = "cam51-demo", "cam51-demo-zoo"
# what is measured and drawn of a larger dataset
MOST = 24
# one untrained network is a lottery: what it predicts for all photos decides where its heat is
SEEDS = range(5)


def main():
    """Runs the demo."""
    options = parse_options()
    # a demo tells nobody that it ran
    os.environ.setdefault("FIFTYONE_DO_NOT_TRACK", "1")
    # the server that this plugin installs where none can be downloaded is of an older major version
    # that FiftyOne supports; its notice would come with every start
    os.environ.setdefault("FIFTYONE_DATABASE_VALIDATION", "false")
    let_app_load(LITE0)
    link_plugin()
    if options.app_only:
        reopen(options)
    else:
        run(options)


def let_app_load(name):
    """Lets this process, and the App's that it starts, load a model by the name of its function.

    Args:
        name: ``package.module:function``, seen from this checkout
    """
    for variable, value, mark in (
        ("CAM51_ALLOWED_MODELS", name, ","),
        ("PYTHONPATH", str(ROOT), os.pathsep),
    ):
        others = [v for v in os.environ.get(variable, "").split(mark) if v and v != value]
        os.environ[variable] = mark.join([value, *others])


def run(options):
    """Builds the dataset, computes, measures, draws, and opens the App on a terminal.

    Args:
        options: of :func:`parse_options`
    """
    dataset, model, name, cam_key = load_zoo() if options.zoo else load_photos()
    fields = compute(dataset, name, cam_key)
    show_measures(dataset, model)
    save_sheet(dataset, fields, f"{cam_key}_prediction")
    show_bias(dataset, model, cam_key)

    if options.app and sys.stdin.isatty():
        open_app(dataset, options.port)
    else:
        again = f"make app PORT={options.port}" + (" ZOO=1" if options.zoo else "")
        print(f"\nSee it in the App:\n    {again}")
        print(f"or in Python:\n    fo.load_dataset({dataset.name!r})")


def reopen(options):
    """Opens the App on what the last run made.

    Args:
        options: of :func:`parse_options`
    """
    import fiftyone as fo

    name = ZOO_NAME if options.zoo else PHOTOS_NAME
    if not fo.dataset_exists(name):
        sys.exit(f"There is no dataset {name!r} yet: run `make demo` first")

    open_app(fo.load_dataset(name), options.port)


def parse_options(argv=None):
    """Reads the command line; what it leaves open, the environment says.

    Args:
        argv (None): the arguments; those of the process by default

    Returns:
        an ``argparse.Namespace``
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    # `make` hands over empty variables where none was set
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT") or 5151))
    parser.add_argument("--no-app", dest="app", action="store_false", help="don't open the App")
    parser.add_argument("--zoo", action="store_true", help="zoo dataset and model (a download)")
    parser.add_argument("--app-only", action="store_true", help="open what the last run made")
    parser.set_defaults(app=os.environ.get("APP") != "0")
    options = parser.parse_args(argv)
    options.zoo = options.zoo or os.environ.get("ZOO", "0") not in ("", "0")
    return options


def load_photos():
    """The photos and EfficientNet-Lite0.

    Returns:
        a tuple of dataset, FiftyOne model, its name and the key to store the run under
    """
    return demo_data.demo_dataset(PHOTOS_NAME), lite0.lite0_model(), LITE0, "lite0"


def load_zoo():
    """FiftyOne's quickstart dataset and a ResNet-50 of its model zoo.

    Returns:
        a tuple of dataset, FiftyOne model, its name and the key to store the run under
    """
    import fiftyone.zoo as foz

    name = "resnet50-imagenet-torch"

    try:
        dataset = foz.load_zoo_dataset("quickstart", dataset_name=ZOO_NAME, persistent=True)
        model = foz.load_zoo_model(name)
    except OSError as error:  # every network error is one
        sys.exit(f"ZOO=1 downloads, and could not: {error}\n`make demo` alone needs no download.")

    return dataset, model, name, "resnet50"


def compute(dataset, model, cam_key):
    """Computes and stores the heatmaps: the one call that this plugin is about.

    Args:
        dataset: the dataset
        model: the model's name
        cam_key: the name of the run

    Returns:
        the names of the heatmap fields, one per method
    """
    import fiftyone.operators as foo

    compute_cams = foo.get_operator("@cam51/heatmaps/compute_cams")
    start = time.perf_counter()
    summary = compute_cams(dataset, model=model, methods=METHODS, cam_key=cam_key, overwrite=True)
    seconds = time.perf_counter() - start
    print(
        f"\n{summary.done} images x {len(METHODS)} methods in {seconds:.1f} s"
        f" ({summary.images_per_second:.1f} images/s), {len(summary.failed)} failed"
    )
    dataset.reload()
    return [f"{cam_key}_{method}" for method in METHODS]


def show_measures(dataset, model):
    """Prints the mean share of heat inside the boxes, beside the baselines.

    Args:
        dataset: the dataset, with boxes in ``ground_truth``
        model: the FiftyOne model
    """
    samples = boxed_samples(dataset)
    module = model._model.cpu()
    trained = measure.heat_shares(samples, module, model.transforms, METHODS)
    untrained = []
    for seed in SEEDS:
        with measure.untrained(module, seed):
            untrained.append(measure.heat_shares(samples, module, model.transforms, METHODS))

    uniform = [measure.uniform_share(boxes) for _, boxes in samples]
    gaussian = [measure.gaussian_share(boxes) for _, boxes in samples]

    count = len(samples)
    print(f"\nShare of heat inside the boxes, mean of {count} images; raw maps, predicted class.")
    print(f"Random weights: mean of {len(SEEDS)} draws, lowest to highest; draws without any heat")
    print("are left out.\n")
    print(f"  {'':<20}{'trained':>9}  {'beats the Gaussian':>20}  {'random weights':>32}")
    for method in METHODS:
        above = sum(share > base for share, base in zip(trained[method], gaussian, strict=True))
        print(
            f"  {method:<20}{mean(trained[method]):>9}  {f'on {above} of {count}':>20}"
            f"  {spread([shares[method] for shares in untrained]):>32}"
        )

    print(f"  {'uniform (box area)':<20}{mean(uniform):>9}")
    print(f"  {'centred Gaussian':<20}{mean(gaussian):>9}")
    print("\nSubjects stand in the middle of photos: compare with the Gaussian, not with zero.")


def boxed_samples(dataset):
    """The images that are measured, each with its boxes.

    Args:
        dataset: the dataset

    Returns:
        a list of ``(filepath, boxes)``
    """
    view = dataset.exists("ground_truth.detections").limit(MOST)
    paths, boxes = view.values(["filepath", "ground_truth.detections.bounding_box"])
    return list(zip(paths, boxes, strict=True))


def known_mean(shares):
    """The mean of the shares that are known.

    Args:
        shares: floats; NaN for a map without heat

    Returns:
        a float; NaN if none is known
    """
    known = [share for share in shares if not math.isnan(share)]
    return statistics.fmean(known) if known else math.nan


def mean(shares):
    """The mean as text, with how many maps it is of where some had no heat.

    Args:
        shares: floats; NaN for a map without heat

    Returns:
        a string
    """
    lost = sum(map(math.isnan, shares))
    if lost == len(shares):
        return "no heat"

    text = f"{known_mean(shares):.2f}"
    return f"{text} ({len(shares) - lost})" if lost else text


def spread(draws):
    """The mean over draws of random weights as text, with the lowest and the highest of them.

    Args:
        draws: per draw, its shares; draws without any heat are left out, and said to be

    Returns:
        a string
    """
    means = [share for share in map(known_mean, draws) if not math.isnan(share)]
    if not means:
        return "no heat"

    counted = "" if len(means) == len(draws) else f"; {len(means)} draws"
    return f"{statistics.fmean(means):.2f} ({min(means):.2f} to {max(means):.2f}{counted})"


def save_sheet(dataset, fields, prediction):
    """Saves the contact sheet.

    Args:
        dataset: the dataset
        fields: the names of the heatmap fields
        prediction: the name of the field of the model's predictions
    """
    OUTPUT.mkdir(exist_ok=True)
    path = OUTPUT / "contact_sheet.png"
    contact_sheet(dataset.limit(MOST), fields, path, prediction)
    print(f"\nAll overlays in one picture: {path.relative_to(ROOT)}")


def show_bias(dataset, model, cam_key):
    """Tests what the scores rest on, prints what was found and saves it as a page.

    Args:
        dataset: the dataset, with boxes in ``ground_truth``
        model: the FiftyOne model
        cam_key: the name of the run
    """
    import fiftyone.operators as foo

    find_background_bias = foo.get_operator("@cam51/heatmaps/find_background_bias")
    labels = "imagenet_names" if dataset.has_sample_field("imagenet_names") else "auto"
    summary = find_background_bias(
        dataset,
        cam_key,
        model,
        objects="ground_truth",
        labels=labels,
        report=OUTPUT,
        overwrite=True,
    )
    print("\nDoes the score rest on the background?\n")
    for line in summary.lines():
        print(textwrap.fill(line, 100, initial_indent="  ", subsequent_indent="    "))
    print(f"\nWith pictures: {Path(summary.report).relative_to(ROOT)}")


def beside_the_grid():
    """The App's spaces: the grid, and the plugin's panel to its right.

    Returns:
        a ``fiftyone.Space``
    """
    import fiftyone as fo

    panels = [fo.Panel(type="Samples", pinned=True), fo.Panel(type=PANEL)]
    # without an active child a space stays empty until its tab is clicked
    spaces = [fo.Space(children=[p], active_child=p.component_id) for p in panels]
    return fo.Space(children=spaces, orientation="horizontal")


def open_app(dataset, port):
    """Opens the App, the plugin's panel beside the grid, and waits until it is ended with Ctrl-C.

    Args:
        dataset: the dataset
        port: the port to serve the App on
    """
    import fiftyone as fo

    session = fo.launch_app(dataset, port=port, spaces=beside_the_grid())
    print(f"\nThe App: http://localhost:{port}/datasets/{dataset.name}\nCtrl-C ends it.")
    try:
        # without the -1 the App would end with the last closed tab
        session.wait(-1)
    except KeyboardInterrupt:
        print()


# the App's server and data loaders start processes that import this file again
if __name__ == "__main__":
    main()
