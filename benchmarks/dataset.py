"""Images per second of ``compute_cams``, beside ``apply_model`` and beside the loop that people write.

Run ``python -m benchmarks.dataset`` from the checkout; needs FiftyOne with its MongoDB, and
pytorch-grad-cam for the loop. ResNet-50 with random weights at 224 x 224 pixels on the demo's photos, repeated;
same model, same transforms, same batch size for all. ``apply_model`` counts with the better number of its
workers. The loop is timed on fewer images, as it takes the same time for each.

Writes ``bench_output/dataset.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import pathlib
import statistics
import uuid
import warnings
from collections.abc import Callable, Iterator

import fiftyone as fo
import fiftyone.operators as foo
import fiftyone.utils.torch as fout
import numpy as np
import torch
import torchvision
from PIL import Image

from benchmarks.timing import Timing, interleave, save, spread, table
from examples.dataset import load_photos
from examples.plugin_link import link_plugin

EIGHT = [
    "gradcam", "gradcampp", "xgradcam", "hirescam", "layercam", "eigencam", "eigengradcam",
    "gradcam_elementwise",
]  # fmt: skip
# The same methods in pytorch-grad-cam.
THEIRS = [
    "GradCAM", "GradCAMPlusPlus", "XGradCAM", "HiResCAM", "LayerCAM", "EigenCAM", "EigenGradCAM",
    "GradCAMElementWise",
]  # fmt: skip
CLASSES = [f"class {i}" for i in range(1000)]
CAM_MODEL = "apply_model(cam_model), one method"
# what is to be reached, as a multiple of the loop's images per second
OF_THE_LOOP = {"x the loop, one method": 3.5, "x the loop, eight methods": 20.0}


def make_model(device: str) -> fo.Model:
    """ResNet-50 with random weights, as FiftyOne's zoo would wrap it."""
    torch.manual_seed(0)
    config = {
        "model": torchvision.models.resnet50(weights=None).eval(),
        "transforms": transforms(),
        "ragged_batches": False,  # all pictures become 224 x 224
        "classes": CLASSES,
        "output_processor_cls": "fiftyone.utils.torch.ClassifierOutputProcessor",
        "device": device,
    }
    return fout.TorchImageModel(fout.TorchImageModelConfig(config))


def transforms() -> Callable[[Image.Image], torch.Tensor]:
    """The whole picture at 224 x 224, normalised."""
    steps = torchvision.transforms
    return steps.Compose(
        [
            steps.Resize((224, 224)),
            steps.ToTensor(),
            steps.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )


@contextlib.contextmanager
def fresh_dataset(count: int) -> Iterator[fo.Dataset]:
    """A dataset of so many photos, deleted afterwards."""
    dataset = fo.Dataset(f"cam51-bench-{uuid.uuid4().hex[:8]}")
    try:
        paths = itertools.islice(itertools.cycle(p["path"] for p in load_photos()), count)
        dataset.add_samples([fo.Sample(filepath=path) for path in paths], progress=False)
        yield dataset
    finally:
        dataset.delete()


def ours(model: fo.Model, methods: list[str], batch: int, **arguments) -> Callable:
    """A call of the plugin, as people get it."""
    compute_cams = foo.get_operator("@cam51/heatmaps/compute_cams")

    def run(dataset: fo.Dataset) -> None:
        summary = compute_cams(
            dataset,
            model=model,
            methods=methods,
            batch_size=batch,
            cam_key="bench",
            progress=False,
            **arguments,
        )
        if summary.done != len(dataset):
            raise RuntimeError(f"not everything was explained: {summary}")

    return run


def apply_model(model: fo.Model, batch: int, workers: int) -> Callable:
    """FiftyOne's own inference: labels only."""

    def run(dataset: fo.Dataset) -> None:
        dataset.apply_model(
            model, label_field="predicted", batch_size=batch, num_workers=workers, progress=False
        )

    return run


def explaining(model: fo.Model) -> fo.Model:
    """The same model, as ``apply_model`` takes it to store heatmaps."""
    return foo.get_operator("@cam51/heatmaps/cam_model")(model, EIGHT[:1])


def the_loop(model: fo.Model, names: list[str], count: int, device: str) -> Callable:
    """What people write: per sample PIL, model, pytorch-grad-cam, float heatmaps, ``save()``."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    network, prepare = model._model, transforms()
    cams = {
        name: getattr(pytorch_grad_cam, name)(model=network, target_layers=[network.layer4])
        for name in names
    }

    def run(dataset: fo.Dataset) -> None:
        for sample in dataset.limit(count):
            with Image.open(sample.filepath) as opened:
                image = prepare(opened.convert("RGB"))[None].to(device)
            with torch.no_grad():
                scores = network(image).softmax(1)[0]
            index = int(scores.argmax())
            sample["predicted"] = fo.Classification(
                label=CLASSES[index], confidence=float(scores[index])
            )
            for name, cam in cams.items():
                heat = cam(input_tensor=image, targets=[ClassifierOutputTarget(index)])[0]
                sample[f"heat_{name}"] = fo.Heatmap(map=heat.astype(np.float32), range=[0, 1])
            sample.save()

    return run


def measure(args: argparse.Namespace) -> list[dict]:
    """Rows of the table; each contender has its images per second by round."""
    model = make_model(args.device)
    cam_model = explaining(model)
    plans = {
        "apply_model, 0 workers": (apply_model(model, args.batch, 0), args.images),
        "apply_model, 2 workers": (apply_model(model, args.batch, 2), args.images),
        "apply_model(cam_model), 0 workers": (apply_model(cam_model, args.batch, 0), args.images),
        "apply_model(cam_model), 2 workers": (apply_model(cam_model, args.batch, 2), args.images),
        "compute_cams, one method": (ours(model, EIGHT[:1], args.batch), args.images),
        "compute_cams, one method, 0 workers": (
            ours(model, EIGHT[:1], args.batch, num_workers=0),
            args.images,
        ),
        "compute_cams, eight methods": (ours(model, EIGHT, args.batch), args.images),
    }
    if args.loop_images:
        one, eight = args.loop_images, args.loop_images_eight
        plans |= {
            "the loop, one method": (the_loop(model, THEIRS[:1], one, args.device), one),
            "the loop, eight methods": (the_loop(model, THEIRS, eight, args.device), eight),
        }
    timings = interleave(
        {name: run for name, (run, _) in plans.items()},
        args.rounds,
        args.device,
        around=lambda: fresh_dataset(args.images),
    )
    return [_row(timing, plans[timing.name][1]) for timing in timings.values()]


def _target(ratio: str, what: str, images: int) -> float | None:
    """What is to be reached; of apply_model's images per second with defaults, by the size of the dataset."""
    if ratio in OF_THE_LOOP:
        return OF_THE_LOOP[ratio]
    if what == CAM_MODEL:
        return 0.9
    if what == "one method":
        return 1.2 if images >= 240 else 1.0 if images >= 48 else None
    return 1.05 if what == "eight methods" and images >= 240 else None


def _row(timing: Timing, images: int) -> dict:
    rates = [images / seconds for seconds in timing.seconds]
    return {"what": timing.name, "images": images, "images_per_second": rates}


def ratios(rows: list[dict], images: int) -> list[dict]:
    """The plugin's throughput over that of the others, round by round."""
    rates = {row["what"]: row["images_per_second"] for row in rows}
    inference = max((rates[f"apply_model, {n} workers"] for n in (0, 2)), key=statistics.median)
    within = max(
        (rates[f"apply_model(cam_model), {n} workers"] for n in (0, 2)), key=statistics.median
    )
    own = "compute_cams, one method"
    pairs = [
        ("x apply_model", "one method", rates[own], inference),
        ("x apply_model", "one method, 0 workers", rates[f"{own}, 0 workers"], inference),
        ("x apply_model", "eight methods", rates["compute_cams, eight methods"], inference),
        ("x apply_model", CAM_MODEL, within, inference),
    ]
    for what in ("one method", "eight methods"):
        loop = f"the loop, {what}"
        if loop in rates:
            pairs.append((f"x {loop}", what, rates[f"compute_cams, {what}"], rates[loop]))
    found = []
    for name, what, own, other in pairs:
        each = sorted(a / b for a, b in zip(own, other, strict=True))
        target = _target(name, what, images)
        found.append(
            {
                "ratio": name, "compute_cams": what, "median": statistics.median(each),
                "low": each[0], "high": each[-1], "target": target,
            }
        )  # fmt: skip
    return found


def report(rows: list[dict], found: list[dict], args: argparse.Namespace) -> str:
    """Both tables, the ratios first."""
    first = table(
        ["what", "ratio", "median (low-high)", "target"],
        [
            [
                r["compute_cams"],
                r["ratio"],
                f"**{r['median']:.2f}** ({r['low']:.2f}-{r['high']:.2f})",
                _judged(r),
            ]
            for r in found
        ],
    )
    second = table(
        ["what", "images/s, median (low-high)", "images"],
        [
            [
                r["what"],
                spread(r["images_per_second"], 1),
                str(r["images"]),
            ]
            for r in rows
        ],
    )
    said = f"ResNet-50 at 224 px, batches of {args.batch}, {args.device}; {args.rounds} interleaved rounds."
    return f"{said}\n\n{first}\n\n{second}"


def _judged(row: dict) -> str:
    if row["target"] is None:
        return ""
    met = "met" if row["median"] >= row["target"] else "missed"
    return f">= {row['target']:g}: {met}"


def main() -> None:
    """Measures, prints and saves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--loop-images", type=int, default=32, help="0: without the loop")
    parser.add_argument("--loop-images-eight", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="few images, two rounds")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("bench_output"))
    args = parser.parse_args()
    if args.quick:
        args.images, args.loop_images, args.loop_images_eight, args.rounds = 32, 8, 2, 2
    warnings.filterwarnings("ignore", category=UserWarning)
    link_plugin()
    rows = measure(args)
    found = ratios(rows, args.images)
    save("dataset", "Dataset", [*found, *rows], report(rows, found, args), args.out)


if __name__ == "__main__":
    main()
