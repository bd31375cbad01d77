"""Cost of every method as a multiple of a forward, with peak memory, beside the other libraries.

Run ``python -m benchmarks.methods``; needs torch and torchvision, not FiftyOne. The base is a forward
of the same model under ``inference_mode`` on the same batch in the same process. Methods that run
hundreds of forwards are timed with fewer of them, as the table says: their cost is proportional.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import threading
import time
import warnings
from collections.abc import Callable

import torch

from benchmarks.engine import build
from benchmarks.timing import interleave, machine
from cam_core import explain, list_methods

# With their defaults these take minutes per image on a CPU.
FEWER = {
    "scorecam": {"top_channels": 64},
    "sscam": {"top_channels": 8, "samples": 4},
    "iscam": {"top_channels": 8, "samples": 5},
    "rise": {"samples": 64},
    "smoothgrad": {"samples": 10},
    "integrated_gradients": {"steps": 10},
    "occlusion": {"window": 56, "stride": 28},
}
LAYER = "layer4"


def ours(model, images, info) -> tuple[str, Callable[[], object]]:
    """A method's label and a call of it."""
    options = {k: v for k, v in FEWER.get(info.name, {}).items() if k in info.options}
    label = info.name + "".join(f", {k}={v}" for k, v in options.items())
    method = (info.name, options)
    return label, lambda: explain(model, images, methods=[method], targets="predicted")


def others(model, images, name: str) -> dict[str, Callable[[], object]]:
    """The same method in pytorch-grad-cam and torchcam, where they have it and are installed."""
    found: dict[str, Callable[[], object]] = {}
    target = model.get_submodule(LAYER)
    fewer = FEWER.get(name, {})
    with contextlib.suppress(ImportError):
        import pytorch_grad_cam as gc

        classes = {
            "gradcam": gc.GradCAM, "gradcampp": gc.GradCAMPlusPlus, "xgradcam": gc.XGradCAM,
            "hirescam": gc.HiResCAM, "layercam": gc.LayerCAM, "eigencam": gc.EigenCAM,
            "eigengradcam": gc.EigenGradCAM, "gradcam_elementwise": gc.GradCAMElementWise,
            "fem": gc.FEM, "ablationcam": gc.AblationCAM, "randomcam": gc.RandomCAM,
            "fullgrad": gc.FullGrad, "shapleycam": gc.ShapleyCAM, "kpcacam": gc.KPCA_CAM,
            "finercam": gc.FinerCAM,
        }  # fmt: skip
        if name in classes:

            def grad_cam():
                with classes[name](model=model, target_layers=[target]) as cam:
                    return cam(input_tensor=images, targets=None)

            found["pytorch-grad-cam"] = grad_cam
    with contextlib.suppress(ImportError):
        import torchcam.methods as tc

        theirs = {
            "cam": tc.CAM, "gradcam": tc.GradCAM, "xgradcam": tc.XGradCAM, "layercam": tc.LayerCAM,
            "smoothgradcampp": tc.SmoothGradCAMpp, "finercam": tc.FinerCAM,
        }  # fmt: skip
        if name in theirs:

            def torch_cam():
                with theirs[name](model, target) as extractor:
                    scores = model(images)
                    return extractor(scores.argmax(1).tolist(), scores)

            found["torchcam"] = torch_cam
    if fewer:
        return {}  # not the same work
    return found


def score_cam(model, images) -> dict[str, Callable[[], object]]:
    """Score-CAM with all channels at equal batch size, in all libraries that have it."""
    target = model.get_submodule(LAYER)
    runs = {
        "scorecam, all channels": lambda: explain(model, images, ("scorecam", {"batch_size": 16}))
    }
    with contextlib.suppress(ImportError):
        from pytorch_grad_cam import ScoreCAM

        def theirs():
            with ScoreCAM(model=model, target_layers=[target]) as cam:
                cam.batch_size = 16
                return cam(input_tensor=images, targets=None)

        runs["scorecam, pytorch-grad-cam"] = theirs
    with contextlib.suppress(ImportError):
        from torchcam.methods import ScoreCAM as TorchScoreCAM

        def torch_cam():
            with TorchScoreCAM(model, target, batch_size=16) as extractor, torch.no_grad():
                return extractor(model(images).argmax(1).tolist())

        runs["scorecam, torchcam"] = torch_cam
    return runs


class Peak:
    """Peak memory while something runs: the device's, or the resident set's growth on a CPU."""

    def __init__(self, device: str):
        self.device = device
        self.megabytes = 0.0

    def __enter__(self) -> Peak:
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self._base = torch.cuda.memory_allocated()
        else:
            self._base = self._highest = _resident()
            self._stop = threading.Event()
            self._thread = threading.Thread(target=self._watch)
            self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.device == "cuda":
            self.megabytes = (torch.cuda.max_memory_allocated() - self._base) / 2**20
        else:
            self._stop.set()
            self._thread.join()
            self.megabytes = (self._highest - self._base) / 2**20

    def _watch(self) -> None:
        while not self._stop.is_set():
            self._highest = max(self._highest, _resident())
            time.sleep(0.002)


def _resident() -> int:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def measure(
    network: str, device: str, batch: int, rounds: int, slow_rounds: int, quick: bool = False
) -> list[dict]:
    """Rows of one network: CNN methods, or attention methods on a transformer."""
    model = build(network, device, False)
    images = torch.randn(batch, 3, 224, 224, device=device)
    attention = network.startswith("vit")

    def forward():
        with torch.inference_mode():
            return model(images)

    rows = []
    for info in list_methods():
        if info.needs_attention is not attention:
            continue
        label, run = ours(model, images, info)
        runs = {"forward": forward, label: run}
        if not attention and not (quick and info.name == "ablationcam"):
            theirs = others(model, images, info.name)
            runs.update({f"{info.name}, {k}": v for k, v in theirs.items()})
        rows += _rows(network, batch, runs, slow_rounds if info.times > 5 else rounds, device)
        print("\n".join(table(rows[1 - len(runs) :]).splitlines()[2:]), flush=True)
    return rows


def _rows(network: str, batch: int, runs: dict, rounds: int, device: str) -> list[dict]:
    timings = interleave(runs, rounds, device)
    base = timings["forward"]
    rows = []
    for name, timing in timings.items():
        if name == "forward":
            continue
        with Peak(device) as peak:
            runs[name]()
        middle, low, high = timing.ratio(base)
        rows.append(
            {
                "network": network, "batch": batch, "method": name, "ratio": middle, "low": low,
                "high": high, "rounds": rounds, "megabytes": peak.megabytes,
            }
        )  # fmt: skip
    return rows


def table(rows: list[dict]) -> str:
    """A Markdown table, ratios first."""
    lines = ["| network, batch | method | x forward (low-high) | peak MB |", "|---|---|---|---|"]
    for r in rows:
        lines.append(
            f"| {r['network']}, {r['batch']} | {r['method']} | **{r['ratio']:.2f}** "
            f"({r['low']:.2f}-{r['high']:.2f}) | {r['megabytes']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Runs on the GPU where there is one, else on the CPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--slow-rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="without what takes minutes")
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("bench_output/methods.json")
    )
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = measure(args.network, device, args.batch, args.rounds, args.slow_rounds, args.quick)
    rows += measure("vit_b_16", device, args.batch, args.rounds, args.slow_rounds)
    model = build(args.network, device, False)
    one = torch.randn(1, 3, 224, 224, device=device)

    def forward():
        with torch.inference_mode():
            return model(one)

    if not args.quick:
        rows += _rows(args.network, 1, {"forward": forward, **score_cam(model, one)}, 2, device)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"machine": machine(device), "rows": rows}, indent=1))
    print(f"\n{machine(device)}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
