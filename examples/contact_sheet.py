"""One picture of all photos and their heatmaps, to look at."""

from cam_core.spatial.overlay import overlay, scale_bar
from examples.measure import load_image

THUMB = 150
CAPTION = 18
GAP = 4
SCALE = 420
INK, RIGHT, WRONG, PAPER = (30, 30, 30), (20, 120, 50), (170, 40, 30), (255, 255, 255)


def contact_sheet(samples, fields, path, prediction, columns=2):
    """Draws the photos, each followed by its stored heatmaps, and saves them as a PNG.

    Under each photo stands what the model predicted: green where ``imagenet_names`` has it, red
    where it has not, followed by the subject; dark where the sample has no such names. At the bottom is the
    scale of the heat.

    Args:
        samples: a FiftyOne collection
        fields: the names of the heatmap fields
        path: where to save the picture
        prediction: the name of the field of the model's predictions
        columns (2): how many photos side by side
    """
    from PIL import Image, ImageDraw

    cell = THUMB + GAP
    block = cell * (len(fields) + 1) + GAP
    strips = [_strip(sample, fields, prediction, block) for sample in samples]
    rows = [strips[start : start + columns] for start in range(0, len(strips), columns)]
    heights = [max(strip.height for strip in row) for row in rows]
    scale = Image.fromarray(scale_bar(min(SCALE, block * columns), paper=PAPER, ink=INK))
    height = CAPTION + sum(heights) + scale.height
    sheet = Image.new("RGB", (block * columns, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    for column in range(columns):
        _titles(pen, column * block, cell, fields)

    top = CAPTION
    for row, height in zip(rows, heights, strict=True):
        for column, strip in enumerate(row):
            sheet.paste(strip, (column * block, top))
        top += height

    sheet.paste(scale, (0, top))
    sheet.save(path)


def _strip(sample, fields, prediction, width):
    """A photo and its heatmaps side by side, with what was predicted below."""
    from PIL import Image, ImageDraw

    photo = _thumb(sample.filepath)
    pictures = [photo, *(overlaid(photo, _stored_map(sample[field])) for field in fields)]
    strip = Image.new("RGB", (width, photo.height + CAPTION + GAP), PAPER)
    for index, picture in enumerate(pictures):
        strip.paste(picture, (index * (THUMB + GAP), 0))

    text, ink = _verdict(sample, sample[prediction])
    ImageDraw.Draw(strip).text((1, photo.height + 1), text, fill=ink, font=font())
    return strip


def _titles(pen, left, cell, fields):
    for index, field in enumerate(fields, start=1):
        pen.text((left + index * cell, 1), field, fill=INK, font=font())


def _thumb(path):
    photo = load_image(path)
    photo.thumbnail((THUMB, THUMB))
    return photo


def overlaid(photo, heat):
    """Draws heat over a photo; crossed out where there is none.

    Args:
        photo: a PIL image
        heat: (h, w) float32 array in [0, 1], or None

    Returns:
        a PIL image
    """
    import numpy as np
    from PIL import Image, ImageDraw

    if heat is None:
        crossed = photo.copy()
        ImageDraw.Draw(crossed).line((0, 0, *crossed.size), fill=WRONG, width=3)
        return crossed

    return Image.fromarray(overlay(np.asarray(photo), heat))


def _stored_map(heatmap):
    """The map as float32 in [0, 1], or None."""
    import numpy as np
    from PIL import Image

    if heatmap is None or not heatmap.has_map:
        return None

    heat = heatmap.map
    if heat is None:
        with Image.open(heatmap.map_path) as image:
            heat = np.asarray(image)

    # the lower end of a range says what the App hides
    high = heatmap.range[1] if heatmap.range else 1 if heat.dtype.kind == "f" else 255
    return (heat.astype("float32") / high).clip(0, 1)


def _verdict(sample, prediction):
    if prediction is None:
        return "no prediction", WRONG

    text = f"{prediction.label} {prediction.confidence:.2f}"
    names = sample["imagenet_names"] if sample.has_field("imagenet_names") else None
    if not names:
        return text, INK

    if prediction.label in names:
        return text, RIGHT

    return f"{text}   (it is: {sample['subject']})", WRONG


def font():
    """Returns the font of captions."""
    from PIL import ImageFont

    return ImageFont.load_default(12)
