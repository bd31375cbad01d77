"""Two pages of pictures: every method on one photo with EfficientNet-Lite0.

Run ``python -m examples.method_pages [photo.jpg] [--out folder]``. Page 1 has the methods that weigh a
layer's channels, page 2 the others: perturbation, structure, pixels. Attention methods need a
transformer, for which no weights install without a hub, so they are not on these pages.
"""

import argparse
import textwrap
from pathlib import Path

from examples.contact_sheet import GAP, INK, PAPER, font, overlaid
from examples.lite0 import lite0_classes, lite0_module, lite0_tensor
from examples.measure import load_image

PHOTOS = Path(__file__).parent / "photos"
CELL, TEXT, COLUMNS = 190, 44, 6
# What is not practical at its published settings on a CPU, drawn with fewer samples; the page says so.
FEWER = {
    "sscam": {"samples": 2, "top_channels": 64},
    "iscam": {"samples": 4, "top_channels": 64},
    "scorecam": {"top_channels": 256},
    "rise": {"samples": 600},
}


def pages(path):
    """Explains a photo with every method.

    Args:
        path: a photo

    Returns:
        two lists of ``(caption, (H, W) heat in [0, 1] or None)``, and the name of the explained class
    """
    from cam_core import explain, list_methods

    model, image = lite0_module(), lite0_tensor(load_image(path))[None]
    first, second, target = [], [], None
    for info in list_methods():
        if info.needs_attention:
            continue
        options = {k: v for k, v in FEWER.get(info.name, {}).items() if k in info.options}
        method = (info.name, options) if options else info.name
        result = explain(model, image, method, "predicted")
        target = lite0_classes()[int(result.targets[0, 0])]
        page = first if info.family in ("gradient", "eigen", "baseline") else second
        heats, status = result.heatmaps(), result.status()
        for key, heat in heats.items():
            told = "".join(f", {k}={v}" for k, v in options.items())
            caption = f"{key[0]}{told}: x{info.times:.0f}"
            ok = status[key][0][0] == "ok"
            page.append((caption, heat[0, 0].numpy() if ok else None))
    return first, second, target


def draw(photo, tiles, title):
    """Draws one page.

    Args:
        photo: a PIL image
        tiles: ``(caption, heat or None)``
        title: the line at the top

    Returns:
        a PIL image
    """
    from PIL import Image, ImageDraw

    photo = photo.resize((CELL, CELL))
    rows = -(-(len(tiles) + 1) // COLUMNS)
    page = Image.new("RGB", (COLUMNS * (CELL + GAP), 24 + rows * (CELL + TEXT)), PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((2, 4), title, fill=INK, font=font())
    for index, (caption, heat) in enumerate([("the photo", None), *tiles]):
        left = (index % COLUMNS) * (CELL + GAP)
        top = 24 + (index // COLUMNS) * (CELL + TEXT)
        page.paste(photo if index == 0 else overlaid(photo, heat), (left, top))
        text = "\n".join(textwrap.wrap(caption.replace("_", " "), 29)[:3])
        pen.text((left + 1, top + CELL), text, fill=INK, font=font())
    return page


def main():
    """Makes both pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photo", nargs="?", type=Path, default=PHOTOS / "dog.jpg")
    parser.add_argument("--out", type=Path, default=Path("bench_output"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    photo = load_image(args.photo)
    first, second, target = pages(args.photo)
    for number, tiles in enumerate((first, second), 1):
        title = (
            f"EfficientNet-Lite0, explained class: {target}. Cost as a multiple of a prediction."
        )
        path = args.out / f"methods_{number}.png"
        draw(photo, tiles, title).save(path)
        print(path)


if __name__ == "__main__":
    main()
