"""FiftyOne's model wrappers taken apart: the network, what it is fed, its classes, its adapter.

A wrapper is known by the names of its classes, so that no optional package is imported for one that
is not there. What FiftyOne's ``predict`` feeds to a network is what the transforms here return.
"""

import itertools
import re
import tempfile

from . import unwrap_detectors, zoo
from .background import resolved, with_background
from .classes import names_of
from .parts import Parts


def take_apart(model, classes=None, options=None):
    """Takes a FiftyOne model apart.

    Args:
        model: a ``fiftyone.core.models.Model``
        classes (None): class names instead of the model's; of a zero-shot model what to look for: a
            list of names, or a dict from names to prompts or lists of prompts
        options (None): of :func:`cam_core.adapt`, such as ``output``

    Returns:
        a :class:`Parts`

    Raises:
        ValueError: if there is no PyTorch module in it, or a zero-shot model has no classes
    """
    options = dict(options or {})
    module = module_of(model)
    transforms = _transforms_of(model)
    kinds = {kind.__name__ for kind in type(model).__mro__}
    if "FiftyOneZeroShotTransformerForObjectDetection" in kinds:
        prompts = prompts_of(model, classes)
        return unwrap_detectors.zero_shot(model, module, prompts, _for_detector(options))
    if kinds & {"RFDETRDetectionModel", "RFDETRSegmentationModel"}:
        return unwrap_detectors.rfdetr(model, module, names_of(classes), _for_detector(options))
    if kinds & {"FiftyOneZeroShotTransformer", "TorchCLIPModel", "TorchOpenClipModel"}:
        return _zero_shot(model, module, transforms, classes)
    if "FiftyOneTransformerForUniversalSegmentation" in kinds:
        return _universal(model, module, transforms, classes, options)
    processor = type(getattr(model, "_output_processor", None)).__name__
    names = _index_aligned(model) if classes is None else names_of(classes)
    if "SemanticSegment" in processor:
        return _segmenter(model, module, transforms, names, options)
    if _is_embedding(model, kinds):
        options.setdefault("task", "embedding")
        return _adapted(module, transforms, names if classes else None, options)
    if processor == "ClassifierOutputProcessor":
        key = getattr(model._output_processor, "logits_key", "logits")
        if key != "logits":
            options.setdefault("output", key)
    return _adapted(module, transforms, names, options)


def _for_detector(options):
    """Of the options those that the adapter of a detector takes; others are refused by ``load_model``."""
    return {name: value for name, value in options.items() if name == "threshold"}


def kind_of_adapter(adapted):
    """Returns what an adapter's model yields, one of ``zoo.KINDS``, or None."""
    family = getattr(adapted, "family", "")
    if family == zoo.ZERO_SHOT:
        return zoo.ZERO_SHOT
    words = {
        "classifier": zoo.CLASSIFIER, "segmentation": zoo.SEGMENTER, "detector": zoo.DETECTOR,
        "embedding": zoo.EMBEDDING,
    }  # fmt: skip
    return next((kind for word, kind in words.items() if word in family), None)


def module_of(model):
    """Returns the network inside a FiftyOne model.

    Args:
        model: a ``fiftyone.core.models.Model``

    Raises:
        ValueError: if there is none
    """
    import torch

    from ...cam_core.network.plain_run import unwrapped

    inner = getattr(model, "_model", None)
    if isinstance(inner, torch.nn.Module):
        inner = unwrapped(inner)
    if is_ultralytics(inner):
        inner = inner.model  # the network inside the object that predicts, trains and exports
    elif type(inner).__module__.startswith("rfdetr."):
        inner = inner.model.model  # likewise
    if isinstance(inner, torch.nn.Module):
        return inner
    raise ValueError(
        f"model: {type(model).__name__} wraps no torch.nn.Module that can be explained; "
        "pass the module itself with transforms= and classes="
    )


def is_ultralytics(model):
    """Whether this is Ultralytics' object around a network, such as ``YOLO("yolo11n.pt")``."""
    return any(
        kind.__name__ == "Model" and kind.__module__.startswith("ultralytics.")
        for kind in type(model).__mro__
    )


def _transforms_of(model):
    if not getattr(model, "preprocess", True) or getattr(model, "transforms", None) is None:
        return None
    kinds = {kind.__name__ for kind in type(model).__mro__}
    processed = type(model.transforms).__name__ == "_HFTransformsHandler"
    if "FiftyOneYOLOModel" in kinds or processed or getattr(model, "has_collate_fn", False):
        return ModelTransforms(model)
    return model.transforms


class ModelTransforms:
    """The preprocessing of a wrapper whose transforms return more than a tensor.

    Hugging Face's processors return a dictionary, Ultralytics' letterbox one of another kind, and a
    model of one's own may have a collate function: what reaches its network is found in all of them.

    Args:
        model: a ``fiftyone.core.models.Model``
    """

    def __init__(self, model):
        self._model = model

    def __call__(self, picture):
        """Maps a PIL image to what the network sees of it.

        Args:
            picture: a PIL image

        Returns:
            a (C, h, w) float tensor

        Raises:
            ValueError: if no image is found in what the transforms return
        """
        value = self._model.transforms(picture)
        found = _image_in(value)
        if found is None and getattr(self._model, "has_collate_fn", False):
            found = _image_in(self._model.collate_fn([value]))
        if found is None:
            raise ValueError(
                f"transforms: {type(self._model).__name__} returns {type(value).__name__}, in which no "
                "image tensor was found; pass transforms=a callable that returns it"
            )
        return found


# Of what a model sees of a file, how much may change when it is written with 8 bits per channel.
_MOST_LOST = 0.1


class PathTransforms:
    """Preprocessing that reads the file itself: 16-bit, float and one-channel images as they are.

    Args:
        function: maps a path to a (C, h, w) float tensor
    """

    #: a loader that knows it hands over the path instead of a decoded picture
    takes_path = True

    def __init__(self, function):
        if not callable(function):
            raise ValueError(f"preprocess: {type(function).__name__} is not callable")
        self._function = function
        self._like = self._file_kind = None
        self._survives = False

    @property
    def window(self):
        """The function's own ``window(height, width)``, or None to have it found by a probe."""
        return getattr(self._function, "window", None)

    def __repr__(self):
        return f"{type(self).__name__}({self._function!r})"

    def from_path(self, path):
        """Maps a file to a (C, h, w) float tensor."""
        if self._like is None:
            self._like = path
        return self._function(path)

    def __call__(self, picture):
        """Maps a PIL image to a (C, h, w) float tensor, by way of a file.

        The file is of the kind of the first one that was read, 16 bits of one channel, say; before any
        was, of 8 bits per channel.
        """
        if self._like is None:
            return self.from_plain(picture)
        if not self._survives:
            self._check_survives()
        return self._by_file(picture)

    def _by_file(self, picture):
        with tempfile.TemporaryDirectory(prefix="cam51-") as folder:
            return self._function(self._kind().write_picture(picture, folder))

    def _check_survives(self):
        """Raises a ValueError where the dataset's files hold more than a picture of 8 bits can."""
        from ..data.images import decode_image

        straight = self._function(self._like).float()
        through = self._by_file(decode_image(self._like)).float()
        same = straight.shape == through.shape
        lost = float((straight - through).std() / (straight.std() + 1e-12)) if same else 1.0
        if not lost < _MOST_LOST:
            raise ValueError(
                f"preprocess: pictures that are put together have 8 bits per channel, and {self._kind().name!r} "
                f"does not survive that: {min(lost, 1):.0%} of what the model sees of it changes; so nothing can "
                "be exchanged in files of this kind. Save them with values that use 8 or 16 bits, or floats from "
                "0 to 1"
            )
        self._survives = True

    def _kind(self):
        from ..data.file_kind import FileKind

        if self._file_kind is None:
            self._file_kind = FileKind(self._like)
        return self._file_kind

    def from_plain(self, picture):
        """Maps a PIL image to a (C, h, w) float tensor, by way of a file of its 8 bits per channel."""
        with tempfile.NamedTemporaryFile(suffix=".png") as file:
            picture.save(file, format="PNG")
            file.flush()
            return self._function(file.name)


def given_transforms(transforms, preprocess):
    """Returns the one of both that was given, as transforms; None if neither was.

    Args:
        transforms: maps a PIL image to a tensor; with an attribute ``takes_path``, a path
        preprocess: maps an image's path to a float tensor (C, h, w)

    Returns:
        a callable, or None

    Raises:
        ValueError: if both were given, or if it cannot be called
    """
    if preprocess is not None and transforms is not None:
        raise ValueError("preprocess: give transforms or preprocess, not both")
    if preprocess is not None:
        return PathTransforms(preprocess)
    # it reads the file itself, and is not in our wrapper yet
    if getattr(transforms, "takes_path", False) and not hasattr(transforms, "from_path"):
        return PathTransforms(transforms)
    if transforms is not None and not callable(transforms):
        raise ValueError(f"transforms: {type(transforms).__name__} is not callable")
    if type(transforms).__module__.partition(".")[0] == "albumentations":
        from ..data.albumentations import ArrayTransforms

        return ArrayTransforms(transforms)
    return transforms


_IMAGE_NAMES = ("pixel_values", "img", "image", "images")


def _image_in(value):
    """The image tensor (C, h, w) in what a transform returned; None if there is none."""
    import torch

    if isinstance(value, torch.Tensor):
        return value[0] if value.dim() == 4 and len(value) == 1 else value
    if hasattr(value, "keys"):
        for name in _IMAGE_NAMES:
            if name in value:
                return _image_in(value[name])
    if isinstance(value, (list, tuple)) and value:
        return _image_in(value[0])
    return None


def _is_embedding(model, kinds):
    """Whether a wrapper has no scores: a backbone, or a network run as a feature extractor."""
    if getattr(model, "_output_processor", None) is not None:
        return False
    config = getattr(model, "config", None)
    return (
        "PEVisionEncoder" in kinds
        or type(model).__name__ == "FiftyOneTransformer"
        or getattr(config, "as_feature_extractor", False)
        # DINOv2: its embedding layer is a head that passes everything on
        or getattr(config, "embeddings_layer", None) == "head"
    )


def _adapted(module, transforms, classes, options):
    from ...cam_core import adapt

    adapted = with_background(lambda options: adapt(module, **options), options, classes)
    return Parts(module, transforms, classes, adapted, kind_of_adapter(adapted))


def _index_aligned(model):
    """Class names by the index of the score; FiftyOne sorts those that it takes from mask targets."""
    targets = getattr(model, "mask_targets", None)
    processor = getattr(model, "_output_processor", None)
    if targets and not getattr(processor, "no_background_cls", False):
        named = {int(index): str(name) for index, name in targets.items()}
        # Up to the first gap: 255 is what label files call "void", for which there is no score.
        return list(map(named.get, itertools.takewhile(named.__contains__, itertools.count())))
    names = getattr(model, "classes", None)
    return None if names is None else [str(name) for name in names]


def _segmenter(model, module, transforms, names, options):
    from ...cam_core.adapters.segmentation import SegmentationModel

    first = (names or [""])[0].strip("_ ").lower()
    without = getattr(model._output_processor, "no_background_cls", False)
    background = False if without and first not in ("background", "other", "unlabeled") else 0
    options = resolved({"background": background, **options}, names)
    options.pop("task", None)
    adapted = SegmentationModel(module, **options)
    return Parts(module, transforms, names, adapted, zoo.SEGMENTER)


def _universal(model, module, transforms, classes, options):
    """Mask2Former and its relatives; OneFormer is told the task in words, once."""
    import numpy as np
    import torch
    from PIL import Image

    from ...cam_core.adapters.universal import UniversalSegmentationModel

    inputs = {}
    if getattr(model.transforms, "task_inputs", None) is not None:
        given = model.transforms(Image.fromarray(np.zeros((64, 64, 3), np.uint8)))
        inputs = {k: v for k, v in given.items() if k == "task_inputs"}
        if not all(isinstance(v, torch.Tensor) for v in inputs.values()):
            raise ValueError(f"model: {type(module).__name__}'s processor encodes no task")
    names = _index_aligned(model) if classes is None else names_of(classes)
    said = {k: v for k, v in resolved(options, names).items() if k == "background"}
    adapted = UniversalSegmentationModel(module, inputs, **said)
    return Parts(module, transforms, names, adapted, zoo.SEGMENTER)


def _names(classes):
    return [str(name) for name in classes]


# What a configuration calls its classes when it has none.
_PLACEHOLDER = re.compile(r"LABEL_\d+")


def _zero_shot(model, module, transforms, classes):
    """A zero-shot model: its texts are encoded once, here."""
    import torch

    from ...cam_core.adapters.zero_shot import ZeroShotClassifier

    prompts = prompts_of(model, classes)
    like = next(module.parameters())
    every = [text for texts in prompts.values() for text in texts]
    features = encode(model, module, every, like.device)
    with torch.no_grad():
        rows = features.split([len(texts) for texts in prompts.values()])
        texts = torch.stack([_mean_direction(f) for f in rows])
        scale, bias = (getattr(module, name, None) for name in ("logit_scale", "logit_bias"))
        adapted = ZeroShotClassifier(
            module,
            texts,
            scale=1.0 if scale is None else scale.exp().item(),
            bias=0.0 if bias is None else bias.item(),
        )
    return Parts(module, transforms, list(prompts), adapted, zoo.ZERO_SHOT)


def _mean_direction(features):
    import torch.nn.functional as F

    return F.normalize(F.normalize(features, dim=1).mean(0), dim=0)


def has_names(model):
    """Whether FiftyOne's wrapper of a model has class names that mean something.

    Args:
        model: a ``fiftyone.core.models.Model``
    """
    names = _names(getattr(model, "classes", None) or [])
    return bool(names) and not all(_PLACEHOLDER.fullmatch(name) for name in names)


def prompts_of(model, classes=None):
    """Returns the texts that a zero-shot model is asked for, by class.

    Args:
        model: FiftyOne's wrapper of a zero-shot model
        classes (None): names, which the model's own prompt goes before; or a dict from names to
            prompts or lists of prompts, which are taken as they are. The model's own by default

    Returns:
        ``{class: [prompt, ...]}``

    Raises:
        ValueError: if there are none
    """
    if isinstance(classes, dict) and classes:
        return {
            str(name): [texts] if isinstance(texts, str) else [str(t) for t in texts]
            for name, texts in classes.items()
        }
    own = getattr(model, "classes", None) or []
    names = _names(own if classes is None else classes)
    if (classes is None and not has_names(model)) or not names:
        raise ValueError(
            "classes: this model finds what it is asked for in words; pass classes=['cat', 'dog', ...], or a "
            "dict from names to prompts"
        )
    before = getattr(model.config, "text_prompt", None)
    special = getattr(model.config, "class_prompts", None) or {}
    texts = {name: special.get(name, name) for name in names}
    return {name: [f"{before} {text}" if before else text] for name, text in texts.items()}


def encode(model, module, prompts, device):
    """Encodes texts with a zero-shot model's own tokeniser, as its ``predict`` does.

    Args:
        model: FiftyOne's wrapper
        module: its network
        prompts: a list of T texts
        device: where the network is

    Returns:
        (T, D) features
    """
    import torch

    from ...cam_core import encode_texts

    if hasattr(model.transforms, "processor"):
        tokens = model.transforms.processor(text=list(prompts), **model.transforms.kwargs)
        tokens = {k: v.to(device) for k, v in tokens.items() if isinstance(v, torch.Tensor)}
        return encode_texts(module, tokens)
    if type(model).__name__ == "TorchOpenClipModel":
        return encode_texts(module, model._tokenizer(list(prompts)).to(device))
    with torch.no_grad():
        return model._embed_prompts(list(prompts))
