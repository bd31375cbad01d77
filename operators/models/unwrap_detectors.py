"""Wrappers of detectors that take more than an image, or prepare it on their own."""

import importlib

import numpy as np

from . import zoo


class ImageProcessing:
    """A Hugging Face processor without its texts: a picture becomes what the network sees of it.

    Args:
        processor: the processor's part for images
    """

    def __init__(self, processor):
        self._processor = processor

    def __call__(self, picture):
        """Maps a PIL image to a (C, h, w) float tensor."""
        return self._processor(images=picture, return_tensors="pt")["pixel_values"][0]

    def __repr__(self):
        return f"{type(self).__name__}({self._processor!r})"


def zero_shot(model, module, prompts, options):
    """Takes FiftyOne's wrapper of a zero-shot detector apart; its texts are tokenised once, here.

    Args:
        model: the wrapper
        module: its network
        prompts: ``{class: [prompt, ...]}``
        options: of the adapter, such as ``threshold``

    Returns:
        a ``unwrap.Parts``

    Raises:
        ValueError: if the texts are more than the network takes
    """
    from PIL import Image

    from ...cam_core.adapters.zero_shot_detection import ZeroShotDetector
    from .parts import Parts

    processor = model.transforms.processor
    # Of Grounding DINO a text ends with a full stop, so none may have one of its own.
    texts = [[text.strip().rstrip(".").strip() for text in own] for own in prompts.values()]
    every = [text for own in texts for text in own]
    blank = Image.fromarray(np.zeros((64, 64, 3), np.uint8))
    encoded = processor(images=blank, text=[every], **model.transforms.kwargs)
    inputs = {k: v for k, v in encoded.items() if not k.startswith("pixel_")}
    columns = _columns(processor, encoded, every, texts)
    adapted = ZeroShotDetector(module, inputs, columns, **options)
    transforms = ImageProcessing(processor.image_processor)
    return Parts(module, transforms, list(prompts), adapted, zoo.DETECTOR)


def _columns(processor, encoded, every, texts):
    """The columns of the logits that belong to each class: of its prompts, or of their tokens."""
    from ...cam_core.adapters.zero_shot_detection import columns_of_tokens

    single = [[i] for i in range(len(every))]
    ids = encoded.get("input_ids")
    if ids is not None and len(ids) == 1 and "Grounding" in type(processor).__name__:
        alone = [
            processor.tokenizer(t.lower(), add_special_tokens=False)["input_ids"] for t in every
        ]
        single = columns_of_tokens(ids[0].tolist(), alone)
    rows = iter(single)
    return [[column for _ in own for column in next(rows)] for own in texts]


def rfdetr(model, module, classes, options):
    """Takes FiftyOne's wrapper of RF-DETR apart: its package resizes and normalises on its own.

    Args:
        model: the wrapper
        module: its network
        classes: class names in the order of the logits, or None for the model's own
        options: of the adapter, such as ``threshold``

    Returns:
        a ``unwrap.Parts``
    """
    import torchvision.transforms as T

    from ...cam_core.adapters.detectors_rfdetr import RfDetrDetector
    from .parts import Parts

    own = model._model
    side = own.model.resolution
    # without antialiasing, as the package resizes since it was trained that way
    resize = T.Resize((side, side), antialias=False)
    steps = [T.ToTensor(), resize, T.Normalize(own.means, own.stds)]
    names = _rfdetr_classes(own, module) if classes is None else [str(name) for name in classes]
    adapted = RfDetrDetector(module, **options)
    return Parts(module, T.Compose(steps), names, adapted, zoo.DETECTOR)


def _rfdetr_classes(own, module):
    """Class names by the index of the logit.

    The weights for COCO have a logit for each of its category numbers, of which some have no category.
    """
    count = module.class_embed.out_features
    names = own.class_names
    if isinstance(names, dict):
        named = {int(k): str(v) for k, v in names.items()}
    elif len(names) == 80 < count - 1:
        named = _coco_categories()
    else:
        named = dict(enumerate(map(str, names)))
    return [named.get(i, f"class {i}") for i in range(count)]


def _coco_categories():
    # Optional: it is there where one of its models is.
    known = importlib.import_module("rfdetr.assets.coco_classes").COCO_CLASSES
    return {int(k): str(v) for k, v in known.items()}
