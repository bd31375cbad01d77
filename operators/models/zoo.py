"""FiftyOne's model zoo: what an entry yields, why one cannot be explained, and loading it.

Everything but loading is read off the manifest: nothing is downloaded and no network is built.
"""

import difflib
import functools
import os
import time

import eta.core.utils as etau
import fiftyone as fo
import fiftyone.zoo as foz
import fiftyone.zoo.models as fozm

from .load_errors import readable_errors

# What a model yields, as far as it can be explained.
CLASSIFIER = "classifier"
ZERO_SHOT = "zero-shot classifier"
SEGMENTER = "segmentation network"
DETECTOR = "detector"
EMBEDDING = "embedding network"
UNKNOWN = "unknown"  # a remote source's model is judged when it is loaded
KINDS = (CLASSIFIER, ZERO_SHOT, SEGMENTER, DETECTOR, EMBEDDING)

# The last word of an entry's wrapper class -> what it yields.
_WRAPPERS = {
    "FiftyOneTransformerForImageClassification": CLASSIFIER,
    "FiftyOneZeroShotTransformerForImageClassification": ZERO_SHOT,
    "FiftyOneZeroShotTransformerForSemanticSegmentation": ZERO_SHOT,
    "TorchCLIPModel": ZERO_SHOT,
    "TorchOpenClipModel": ZERO_SHOT,
    "FiftyOneTransformerForSemanticSegmentation": SEGMENTER,
    "FiftyOneTransformerForUniversalSegmentation": SEGMENTER,
    "FiftyOneTransformerForObjectDetection": DETECTOR,
    "FiftyOneZeroShotTransformerForObjectDetection": DETECTOR,
    "FiftyOneRTDETRModel": DETECTOR,
    "FiftyOneYOLOEVPModel": DETECTOR,
    "RFDETRDetectionModel": DETECTOR,
    "RFDETRSegmentationModel": DETECTOR,
    "TorchYoloNasModel": DETECTOR,
    "FiftyOneTransformer": EMBEDDING,
    "PEVisionEncoder": EMBEDDING,
}
# Wrappers for several tasks tell by their output processor what they yield.
_BY_OUTPUT = {"TorchvisionImageModel", "TorchImageModel", "FiftyOneYOLOModel"}
_OUTPUTS = {
    "ClassifierOutputProcessor": CLASSIFIER,
    "UltralyticsClassificationOutputProcessor": CLASSIFIER,
    "SemanticSegmenterOutputProcessor": SEGMENTER,
    "DetectorOutputProcessor": DETECTOR,
    "InstanceSegmenterOutputProcessor": DETECTOR,
    "KeypointDetectorOutputProcessor": DETECTOR,
    "UltralyticsDetectionOutputProcessor": DETECTOR,
    "UltralyticsSegmentationOutputProcessor": DETECTOR,
    "UltralyticsPoseOutputProcessor": DETECTOR,
    "UltralyticsOBBOutputProcessor": DETECTOR,
}
# Why a wrapper's models cannot be explained.
_REASONS = {
    "ETAModel": "it is a TensorFlow model, and gradients are taken of PyTorch models only",
    "TwelveLabsModel": "it is a video model that runs at its provider, not here",
    "SegmentAnythingModel": "it segments what a prompt points at and has no scores of classes",
    "SegmentAnything2ImageModel": "it segments what a prompt points at and has no scores of classes",
    "SegmentAnything2VideoModel": "it is a video model, and images are explained",
    "SegmentAnything3ImageModel": "its network takes prompts beside the image, for which there is no adapter",
    "SegmentAnything3VideoModel": "it is a video model, and images are explained",
    "FCCLIPModel": "its network returns finished segments, from which no gradient comes back",
    "FiftyOneTransformerForDepthEstimation": "it yields depth, not scores of classes",
    "DepthAnythingV3Model": "it yields depth, not scores of classes",
    "FiftyOneTransformerForPoseEstimation": "it yields keypoints inside boxes that it is given, not scores",
    "Qwen3VLModel": "it is a language model that writes text, not scores of classes",
    "AppleSharpModel": "it yields a 3D scene, not scores of classes",
    "PaddleOCRDetectionModel": "it reads text with a pipeline of its own that has no PyTorch module",
    "PaddleOCRModel": "it reads text with a pipeline of its own that has no PyTorch module",
}
_LISTED_SECONDS = 60

NAMES_VARIABLE = "FIFTYONE_ZOO_ALLOWED_MODEL_NAMES"
LICENSES_VARIABLE = "FIFTYONE_ZOO_ALLOWED_MODEL_LICENSES"


def entries():
    """Returns ``{name: zoo model}`` of everything in the zoo, registered remote sources included."""
    return _entries(fo.config.model_zoo_dir, int(time.monotonic() // _LISTED_SECONDS))


@functools.lru_cache(maxsize=1)
def _entries(folder, minute):
    # Read at once: foz.get_zoo_model() reads the whole manifest again for every name.
    return {m.name: m for m in sorted(fozm._list_zoo_models(), key=lambda m: m.name)}


def entry(name):
    """Returns the zoo model of a name, with or without its version; None if there is none."""
    known = entries()
    if name in known:
        return known[name]
    return next((m for m in known.values() if m.base_name == name), None)


def kind_of(model):
    """Returns what an entry of the zoo yields.

    Args:
        model: a ``fiftyone.zoo.models.ZooModel``

    Returns:
        one of :data:`KINDS`, :data:`UNKNOWN` for a remote source's, or None if it cannot be explained
    """
    wrapper, output = wrapper_of(model)
    if not wrapper:
        return UNKNOWN if isinstance(model, fozm.RemoteZooModel) else None
    if wrapper in _BY_OUTPUT:
        if output is None and model.has_tag("embeddings"):
            return EMBEDDING
        return _OUTPUTS.get(output)
    return _WRAPPERS.get(wrapper)


def wrapper_of(model):
    """Returns (wrapper class, output processor class) of an entry, without their modules."""
    config = model.default_deployment_config_dict or {}
    output = (config.get("config") or {}).get("output_processor_cls")
    last = [(value or "").rpartition(".")[2] for value in (config.get("type"), output)]
    return last[0], last[1] or None


def refusal(model, here=True):
    """Says in one sentence why an entry of the zoo cannot be explained, without loading it.

    Args:
        model: a ``fiftyone.zoo.models.ZooModel``
        here (True): whether what this machine allows and has installed counts too

    Returns:
        a string, or None if it can
    """
    reason = _reason(model)
    if reason is None and here:
        reason = forbidden({model.name, model.base_name}, model.license) or _not_installed(model)
    return reason


def _reason(model):
    kind = kind_of(model)
    if kind is None:
        wrapper, output = wrapper_of(model)
        own = _REASONS.get(wrapper)
        return (
            own
            or f"it yields what {output or wrapper or 'no wrapper'} makes of it, not scores of classes"
        )
    return _no_detector(model) if kind == DETECTOR else None


#: The wrapper of a detector -> the adapter that explains it. Names, as importing one imports torch: a form
#: that lists the models would stay empty for seconds.
DETECTORS = {
    "TorchvisionImageModel": "TorchvisionDetector",
    "FiftyOneTransformerForObjectDetection": "TransformersDetector",
    "FiftyOneYOLOModel": "UltralyticsDetector",
    "FiftyOneYOLOEVPModel": "UltralyticsDetector",
    "FiftyOneRTDETRModel": "UltralyticsDetector",
    "FiftyOneZeroShotTransformerForObjectDetection": "ZeroShotDetector",
    "RFDETRDetectionModel": "RfDetrDetector",
    "RFDETRSegmentationModel": "RfDetrDetector",
}


def _no_detector(model):
    """Why the boxes of a detector cannot be explained; None if an adapter is there."""
    if wrapper_of(model)[0] in DETECTORS:
        return None
    return "it yields boxes, and for the network of its own package there is no adapter"


def forbidden(names, license):
    """Says why this machine's owner does not allow a model: FiftyOne's own lists for its zoo.

    They hold for names of every scheme, or ``timm:`` would be a way around them.

    Args:
        names: what it is called, a set
        license: its licenses with commas between, or None where they are not known

    Returns:
        a string, or None if it is allowed
    """
    named, licenses = listed_names(), _listed(LICENSES_VARIABLE)
    if named is not None and not names & named:
        return f"this server only allows the models that its {NAMES_VARIABLE} lists; add it there"
    if licenses is not None and not licenses & _split(license or ""):
        return (
            f"its license {license or 'is not known and'} is not among those that this server's "
            f"{LICENSES_VARIABLE} lists; add it there"
        )
    return None


def listed_names():
    """The names of models that this machine's owner allows; None where all are."""
    return _listed(NAMES_VARIABLE)


def _listed(variable):
    value = os.environ.get(variable)
    return None if value is None else _split(value)


def _split(text):
    return {part.strip() for part in text.split(",") if part.strip()}


def _not_installed(model):
    missing = missing_packages(model)
    if not missing:
        return None
    named = " ".join(f"'{m}'" if set(m) & set(" <>=@") else m for m in missing)
    return f"it needs packages that are not installed here: pip install {named}"


def missing_packages(model):
    """Lists the packages that a zoo model needs and this machine lacks, as pip takes them."""
    packages = getattr(model.requirements, "packages", None) or []
    return [package for package in packages if not _installed(package)]


@functools.lru_cache(maxsize=256)
def _installed(package):
    """Whether a package is there, by FiftyOne's own rule for its zoo."""
    return etau.ensure_package(package, error_level=2)


def supported():
    """Lists the names of the zoo models that can be explained here."""
    return list(_supported(_key()))


def _key():
    values = tuple(os.environ.get(v) for v in (NAMES_VARIABLE, LICENSES_VARIABLE))
    return fo.config.model_zoo_dir, int(time.monotonic() // _LISTED_SECONDS), values


@functools.lru_cache(maxsize=1)
def _supported(key):
    return tuple(name for name, model in entries().items() if refusal(model) is None)


def check(name):
    """Raises a ValueError unless a name is that of a zoo model that can be explained here."""
    model = entry(name)
    if model is None:
        names = supported()
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else f"choose from {', '.join(names)}"
        raise ValueError(f"model: the zoo has no model {name!r}; {hint}")
    reason = refusal(model)
    if reason is not None:
        raise ValueError(f"model: {name!r} cannot be explained: {reason}")


def load(name, device=None, **options):
    """Loads a model of the zoo.

    Args:
        name: its name
        device (None): a torch device; FiftyOne's choice by default
        **options: of the model's configuration, such as ``name_or_path``

    Returns:
        a ``fiftyone.core.models.Model``; the zoo shares one object among all who ask for it

    Raises:
        ValueError: if it cannot be downloaded or built; the message says what to do
    """
    if device is not None:
        options["device"] = str(device)
    with readable_errors(name):
        return foz.load_zoo_model(name, **options)
