"""Where the default layer's cells lie in timm's networks, one of each family.

Run ``python -m benchmarks.places``; needs timm, no weights and no database: networks are built with random
weights. Each is asked for its default layer, the place of that is measured, and the answer is compared
with plain autograd, which knows nothing of it: of sampled cells each must have its own gradient, beside
the other cells', strongest within a cell and a half of where it is said to lie. Random weights of both signs
spread the gradient of some networks over most of the image. In these the weights are made positive, and
layer norms and attention are taken out, which moves nothing: a gradient then counts the paths from a pixel
to a cell, and the centroid of what a cell in the middle sees must be within a cell of its place.

Writes ``bench_output/places.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import re
import time
import warnings

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import timing
from cam_core import adapt
from cam_core.layers.find import find_layers
from cam_core.places.choose import place_layers
from cam_core.places.place import Place

# Networks of more parameters cost minutes each and have smaller siblings of the same code.
MOST_PARAMETERS = 90e6
SAMPLED = 9
# Share of the sampled cells that plain gradients must find where they are said to lie.
AGREED = 0.75


@dataclasses.dataclass
class Row:
    """One network."""

    family: str
    model: str
    result: str
    layer: str = ""
    grid: str = ""
    off: float | None = None
    reordered: bool = False
    moved: bool = False
    agreed: float | None = None
    paths: float | None = None
    seconds: float = 0.0
    forwards: float = 0.0
    reason: str = ""


def families(only: list[str]) -> list[tuple[str, list[str]]]:
    """The smallest of eight networks of each of timm's modules."""
    import timm

    found = []
    for family in sorted(timm.list_modules()):
        if only and family not in only:
            continue
        sized = []
        names = timm.list_models(module=family)
        for name in names[:: max(1, len(names) // 8)]:
            try:
                with torch.device("meta"):
                    net = timm.create_model(name, pretrained=False)
            except (
                Exception
            ) as error:  # some cannot be built without values; the family is listed with the rest
                print(f"{name}: not built on meta: {type(error).__name__}", flush=True)
                continue
            count = sum(p.numel() for p in net.parameters())
            if net.default_cfg.get("num_classes") and count < MOST_PARAMETERS:
                side = max(net.default_cfg["input_size"][1:])
                sized.append((count * side**2, name))
        if sized:
            sized.sort()
            found.append((family, [sized[0][1]]))
    return found


def measure(family: str, name: str) -> Row:
    """Measures one network's default layer and compares it with plain gradients."""
    import timm

    torch.manual_seed(0)
    net = timm.create_model(name, pretrained=False).eval()
    _redraw(net)
    size = net.default_cfg["input_size"]
    images = torch.randn(1, *size)
    model = adapt(net)
    with torch.no_grad():
        start = time.perf_counter()
        net(images)
        forward = time.perf_counter() - start
    start = time.perf_counter()
    try:
        name_of = model.default_layers(images)
        placed = place_layers(model, find_layers(net, name_of), images)
    except ValueError as error:
        return Row(family, name, "refused", reason=str(error)[:300])
    seconds = time.perf_counter() - start
    layer = placed.layers[0]
    place = placed.places[layer.name]
    agreed = plain_gradients(net, layer, place, images)
    paths = None
    if agreed < AGREED:
        _count_paths(net)
        paths = path_centroids(net, layer, place, images.abs())
    return Row(
        family,
        name,
        place.how if max(agreed, paths or 0) >= AGREED else "wrong?",
        layer.name,
        f"{place.grid.height} x {place.grid.width}",
        place.error,
        place.grid.order is not None,
        place.extent.cells != (0.0, 0.0, 1.0, 1.0),
        agreed,
        paths,
        seconds,
        seconds / forward,
    )


def _redraw(net: nn.Module) -> None:
    """Heads that start at zero would have no gradient anywhere."""
    for module in net.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and not bool(module.weight.any()):
            nn.init.normal_(module.weight, std=0.02)


def _count_paths(net: nn.Module) -> None:
    """Changes a network so that its gradients count paths; every cell stays where it is."""
    for module in net.modules():
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
            module.forward = lambda x: x
        for name, parameter in module.named_parameters(recurse=False):
            values = parameter.data.abs_()
            if parameter.ndim > 1:  # means, so that nothing overflows
                total = values.flatten(1).sum(1).clamp_min(1e-12)
                values /= total.view(-1, *[1] * (parameter.ndim - 1))
            elif name == "bias":
                values.zero_()
    for module in net.modules():
        if re.search("attention|attn|mla|xca", type(module).__name__.lower()):
            last = [m for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1:]
            for layer in last:
                layer.weight.data.zero_()


def _maps_of(net: nn.Module, layer, place: Place, images: torch.Tensor):
    """The images with a graph, and the layer's maps (1, C, h, w) that hang on it."""
    kept: list[torch.Tensor] = []
    x = images.clone().requires_grad_()
    handle = layer.module.register_forward_hook(lambda m, a, out: kept.append(layer.pick(out)))
    with torch.enable_grad():
        net(x)
        handle.remove()
        return x, place.grid.to_maps(kept[-1])


def _sampled(place: Place, border: int = 0) -> list[tuple[int, int, float, float]]:
    """Rows and columns of some cells, and (y, x) where these are said to lie, in shares of the image."""
    height, width = place.grid.height, place.grid.width
    left, top, right, bottom = place.extent.cells
    found = []
    for row in range(height):
        for column in range(width):
            y = top + (row + 0.5) / height * (bottom - top)
            x = left + (column + 0.5) / width * (right - left)
            away = min(row, height - 1 - row, column, width - 1 - column)
            if 0 <= y < 1 and 0 <= x < 1 and away >= border:
                found.append((row, column, y, x))
    chosen = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))
    return [found[k] for k in chosen[:SAMPLED].tolist()]


def plain_gradients(net: nn.Module, layer, place: Place, images: torch.Tensor) -> float:
    """Share of sampled cells whose own gradient is strongest where the place says."""
    x, maps = _maps_of(net, layer, place, images)
    height, width = maps.shape[-2:]
    cells, energies = _sampled(place), []
    for row, column, *_ in cells:
        energy = torch.zeros(images.shape[-2:])
        for _ in range(2):
            seed = torch.zeros_like(maps)
            seed[0, :, row, column] = torch.randn(maps.shape[1])
            (gradient,) = torch.autograd.grad(maps, x, seed, retain_graph=True)
            energy += gradient[0].pow(2).sum(0)
        energies.append(F.adaptive_avg_pool2d(energy[None], (4 * height, 4 * width))[0])
    stack = torch.stack(energies)
    good = 0
    for energy, (_, _, y, x_) in zip(stack / stack.mean(0).clamp_min(1e-30), cells, strict=True):
        row, column = divmod(int(energy.argmax()), 4 * width)
        reach = 6  # a cell and a half, in quarters: half for the stride's own shift
        good += (
            abs(row + 0.5 - 4 * height * y) <= reach and abs(column + 0.5 - 4 * width * x_) <= reach
        )
    return good / max(len(cells), 1)


def path_centroids(net: nn.Module, layer, place: Place, images: torch.Tensor) -> float:
    """Share of sampled cells whose paths are centred within a cell of where the place says.

    Of the cells in the middle: the paths that would leave the image are missing, there on all sides alike.
    """
    x, maps = _maps_of(net, layer, place, images)
    height, width = maps.shape[-2:]
    cells, good = _sampled(place, border=(min(height, width) - 1) // 2 - 1), 0
    for row, column, y, x_ in cells:
        seed = torch.zeros_like(maps)
        seed[0, :, row, column] = 1
        (gradient,) = torch.autograd.grad(maps, x, seed, retain_graph=True)
        energy = gradient[0].abs().sum(0)
        energy = energy / energy.sum()
        down, across = ((torch.arange(n) + 0.5) / n for n in energy.shape)
        good += bool(
            abs((energy.sum(1) * down).sum() - y) * height <= 1
            and abs((energy.sum(0) * across).sum() - x_) * width <= 1
        )
    return good / max(len(cells), 1)


def table(rows: list[Row]) -> str:
    """The Markdown table."""
    header = [
        "family",
        "network",
        "",
        "default layer",
        "grid",
        "off (cells)",
        "gradients agree",
        "paths agree",
    ]
    lines = []
    for row in rows:
        how = (
            row.result + (", reordered" if row.reordered else "") + (", moved" if row.moved else "")
        )
        off = "" if row.off is None else f"{row.off:.2f}"
        agreed, paths = (
            "" if share is None else f"{share:.0%}" for share in (row.agreed, row.paths)
        )
        what = row.layer if row.layer else row.reason.replace("|", "/")
        lines.append([row.family, row.model, how, what, row.grid, off, agreed, paths])
    return timing.table(header, lines)


def main() -> None:
    """Reads the command line, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help="timm modules; all by default")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("bench_output"))
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    rows = []
    for family, names in families(args.only):
        for name in names:
            try:
                row = measure(family, name)
            except (
                Exception
            ) as error:  # one network of a hundred; it is in the table with its error
                row = Row(family, name, "failed", reason=f"{type(error).__name__}: {error}"[:200])
            rows.append(row)
            print(row, flush=True)
    counts = {
        kind: sum(row.result == kind for row in rows) for kind in {row.result for row in rows}
    }
    text = f"{len(rows)} networks: " + ", ".join(
        f"{n} {kind}" for kind, n in sorted(counts.items())
    )
    print(text)
    text = f"{text}.\n\n{table(rows)}"
    timing.save(
        "places", "Where default layers lie", [dataclasses.asdict(r) for r in rows], text, args.out
    )


if __name__ == "__main__":
    main()
