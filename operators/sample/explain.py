"""One sample explained at once: prediction, truth and contrast, heat on the object, other backgrounds.

The model stays in memory between calls, one at a time, and is let go when it was not used for a while.
"""

import threading

import numpy as np
from bson import ObjectId

from ..compute.params import describe
from ..compute.plan import Plan
from ..compute.recorded_model import check_same, completed, is_function, unregistered
from ..compute.recorded_plan import check_kind, check_scores, plan_of_run
from ..compute.step import ExplainStep
from ..data import heatmap_writer
from ..data.images import decode_image
from ..data.loader import Batch, load_item
from ..data.samples import check_images
from ..models import load as model_load
from ..models import registered
from ..runs import provenance, record
from ..text import one_line
from .peers import candidates, labels_of
from .summary import Explained, sentence
from .swaps import SampleObjects, swaps_of

#: the fields that are written: the predicted class, the true or second class, and what tells them apart
FIELDS = {
    "prediction": "explain_prediction",
    "other": "explain_alternative",
    "for": "explain_contrast_for",
    "against": "explain_contrast_against",
}
CAM_KEY = "explain"
#: seconds after its last use at which the model is let go
KEPT_SECONDS = 600.0


class _Cache:
    """At most one model, for as long as it is used now and then."""

    def __init__(self):
        self._lock = threading.Lock()
        self._name = self._stamp = self._model = self._timer = None

    def get(self, name, load, stamp=None):
        """The model of a name, loaded unless it is the one that is held and has the same stamp."""
        with self._lock:
            if (self._name, self._stamp) != (name, stamp):
                self._model, self._name = None, None  # two would need twice the memory
                self._model, self._name, self._stamp = load(), name, stamp
            self._wind()
            return self._model

    def free(self):
        """Lets the model go; returns its name, or None if there was none."""
        with self._lock:
            name, self._name, self._model = self._name, None, None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        return name

    @property
    def name(self):
        """The name of the model that is held, or None."""
        return self._name

    def _wind(self):
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(KEPT_SECONDS, self.free)
        self._timer.daemon = True
        self._timer.start()


CACHE = _Cache()


def warm_up():
    """Imports what explaining takes, in a thread: seconds that a person spends on the form.

    Returns:
        the thread
    """
    thread = threading.Thread(target=_import, name="cam51-warm-up", daemon=True)
    thread.start()
    return thread


def _import():
    from ...cam_core.adapters import adapt  # noqa: F401 - and torch with it


def is_held(dataset, cam_key, model=None):
    """Whether the model of a run, or one that is named, is in memory, so that it answers at once."""
    name = model
    if name is None and cam_key is not None:
        name = record.config_of(dataset, cam_key).settings.get("model")
    return name is not None and CACHE.name is not None and CACHE.name.strip() == name


def usable_runs(dataset):
    """The keys of the runs whose model can be loaded by its name and is a classifier, the newest first."""
    configs = {key: record.config_of(dataset, key) for key in record.list_runs(dataset)}
    order = sorted(configs, key=lambda key: configs[key].started or "", reverse=True)
    return [key for key in order if why_not(dataset, key) is None]


def why_not(dataset, cam_key):
    """Why the model of a run cannot be asked about single images, in a few words; None if it can."""
    used = record.config_of(dataset, cam_key).settings
    if used.get("patches_field"):
        return f"the run {cam_key!r} explains crops of objects, not whole images"
    if not _classifies(dataset, cam_key):
        return f"the run {cam_key!r} is of a detector, and whole images are asked of classifiers"
    return unregistered(used)


def _classifies(dataset, cam_key):
    """Whether a run's stored predictions, where it has any, are classes of whole images."""
    import fiftyone as fo

    kind = getattr(dataset.get_field(f"{cam_key}_prediction"), "document_type", None)
    return kind in (None, fo.Classification, fo.Classifications)


def load(dataset, cam_key, given):
    """Loads the model of a run, or one that is named; by its name it is kept for the next call.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        cam_key: the key of the run, or None
        given: the ``GivenModel`` of the call

    Raises:
        ValueError: if there is none, it cannot be loaded, or it is no classifier
    """
    check_images(dataset)
    if cam_key is None and given.model is None:
        raise ValueError(
            "model: the dataset has no CAM run whose model can be loaded by its name; name a model"
        )
    used = None if cam_key is None else record.config_of(dataset, cam_key).settings
    whole = given if used is None else completed(used, cam_key, given)

    def loaded():
        found = whole.load()
        check_kind(found)
        return found

    name, functions = whole.model, (whole.transforms, whole.preprocess)
    by_name = isinstance(name, str) and functions == (None, None)
    said = describe({"classes": whole.classes, "texts": whole.texts, **whole.options})
    if by_name and not any(is_function(value) for value in said.values()):
        # what a name stands for may change: registered again, or another file at a checkpoint's path
        stamp = registered.stamp_of(name), repr(said)
        found = CACHE.get(f"{name} {whole.device or ''}", loaded, stamp)
    else:
        found = loaded()
    if used is not None:
        check_same(used, cam_key, found)
    return found


def explain_one(dataset, sample_id, model, cam_key=None, objects="auto", donors=4, seed=51):
    """Explains one sample and stores its heatmaps in ``FIELDS``.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        sample_id: the sample
        model: the :class:`LoadedModel`
        cam_key (None): the CAM run whose method, layers and findings are used
        objects ("auto"): as in ``find_background_bias``
        donors (4): other backgrounds
        seed (51): of their choice

    Returns:
        an :class:`Explained`

    Raises:
        ValueError: if the sample cannot be read, or an argument does not fit
    """
    path = path_of(dataset, sample_id)
    notes = []
    try:
        item = load_item(sample_id, path, model.transforms, model.geometry)
    except (OSError, ValueError) as error:
        raise ValueError(f"sample: {path} cannot be explained: {one_line(error)}") from error
    _say_other_weights(dataset, cam_key, model, notes)
    with model_load.on_device(model):
        scores = check_scores(model, item.image[None])[0].numpy()
        best = int(scores.argmax())
        truth = labels_of(dataset, cam_key, model)
        label, right, other = _other(sample_id, truth, scores, notes)
        own = {}
        if truth.several:
            label, right, other, own = _several(
                sample_id, truth, scores, model, label, other, notes
            )
        step = _step(dataset, model, cam_key, best, other)
        batch = Batch([item], item.image[None])
        labels = step(batch)[sample_id]
        heat = SampleObjects(dataset, cam_key, objects, notes)
        share = heat.measure(step.result, step.primary, item, model.label(best), notes)
        swaps = swaps_of(dataset, model, cam_key, heat, item, path, best, donors, seed, notes)
    _store(dataset, sample_id, labels)
    wrong = own.get("missed") if truth.several else right is False
    name = model.label(other if wrong else best)
    found = Explained(
        id=sample_id, sentence="", prediction=model.label(best), probability=float(scores[best]),
        other=model.label(other), other_probability=float(scores[other]), label=label,
        right=right,
        heat=share[0], uniform=share[1], swaps=swaps, fields=list(labels),
        layer=step.primary[1], notes=notes,
        labels=labels, photo=_photo(path),
        no_peers=candidates(dataset, sample_id, model, cam_key, name, seed)[1], **own,
    )  # fmt: skip
    found.sentence = sentence(found)
    return found


def _say_other_weights(dataset, cam_key, model, notes):
    """Says if the model is no longer what the run's heatmaps were made with."""
    then = cam_key and record.config_of(dataset, cam_key).settings.get("weights")
    if then and then != provenance.fingerprint(model.module):
        notes.append(f"The heatmaps of {cam_key!r} were made with other weights.")


def _photo(path):
    """The picture at the size of a dialog."""
    photo = decode_image(path)
    photo.thumbnail((400, 400))
    return photo


def class_and_layer(dataset, sample_id, model, cam_key):
    """The class whose peers are looked for, and the layer whose features say what is near.

    The true class where the dataset says it, else the predicted one.
    """
    item = load_item(sample_id, path_of(dataset, sample_id), model.transforms, model.geometry)
    with model_load.on_device(model):
        best = int(check_scores(model, item.image[None])[0].argmax())
    _, indices = labels_of(dataset, cam_key, model).read([sample_id], [best])
    layers = _recipe(dataset, cam_key, model)[1]
    return model.label(int(indices[0]) if indices[0] >= 0 else best), (layers or [None])[-1]


def path_of(dataset, sample_id):
    """The file of a sample; raises a ValueError if there is no such sample."""
    known = ObjectId.is_valid(str(sample_id))
    found = dataset.select([sample_id]).values("filepath") if known else []
    if not found:
        raise ValueError(f"sample: the dataset has no sample {sample_id!r}")
    return found[0]


def _other(sample_id, labels, scores, notes):
    """The true class's name, whether it is predicted, and whom the prediction is contrasted with."""
    best = int(scores.argmax())
    if len(scores) < 2:
        raise ValueError("model: it has one class, so there is nothing to contrast with")
    names, indices = labels.read([sample_id], [best])
    if names[0] is None:
        notes.append(labels.note)
    truth = int(indices[0])
    right = truth == best if truth >= 0 else None
    return names[0], right, truth if right is False else int(np.argsort(-scores)[1])


def _several(sample_id, labels, scores, model, label, other, notes):
    """Of a multi-label network: the labels, whether all predictions are right, a class that it misses.

    Returns:
        the labelled classes' names; whether these are what is predicted; the class that the strongest
        one is shown beside: the labelled class with the highest score below the threshold, else the
        second strongest; and what an :class:`Explained` says of them
    """
    given = {int(i) for i in np.flatnonzero(scores >= model.adapted.threshold)}
    names = ", ".join(
        f"{model.label(i)} {scores[i]:.2f}" for i in sorted(given, key=lambda i: -scores[i])
    )
    least = f"{model.adapted.threshold:g}"
    notes.append(f"Predicted ({least} or more): {names or 'no class'}.")
    shown = labels.members([sample_id])[0] if labels.field is not None else None
    if shown is None:
        return None, None, other, {"several": True}
    best, own = int(scores.argmax()), None
    missed = sorted(shown - given, key=lambda i: -scores[i])
    if missed:
        listed = ", ".join(f"{model.label(i)} {scores[i]:.2f}" for i in missed)
        notes.append(f"Labelled and missed: {listed}.")
        own = next((i for i in missed if i != best), None)
        other = other if own is None else own
    label = ", ".join(model.label(i) for i in sorted(shown)) or label
    said = {"several": True, "missed": own is not None, "labelled": best in shown}
    return label, shown == given, other, said


class _OneStep(ExplainStep):
    """The step of a run, which keeps what the engine returned."""

    result = None
    primary = None

    def explain(self, images, *args, **kwargs):
        self.result = super().explain(images, *args, **kwargs)
        return self.result


def _step(dataset, model, cam_key, best, other):
    """The step for four targets: two classes and their contrast both ways."""
    methods, layers, fuse, primary, precision, seed, measure = _recipe(dataset, cam_key, model)
    logits = model.adapted.logits

    def contrast_for(outputs):
        values = logits(outputs)
        return values[:, best] - values[:, other]

    def contrast_against(outputs):
        return -contrast_for(outputs)

    contrast_for.reads_scores = contrast_against.reads_scores = True  # logits beside probabilities

    tags = _tags(model, best, other)
    plan = Plan(
        cam_key=CAM_KEY, methods=methods, targets=[best, other, contrast_for, contrast_against],
        tags=tags, layers=layers, fuse=fuse,
        fields=_Fields(zip(tags, FIELDS.values(), strict=True), primary), prediction_field=None,
        precision=precision, heatmap_size=heatmap_writer.LONGEST_SIDE, seed=seed, measure_places=measure,
    )  # fmt: skip
    step = _OneStep(model, plan)
    step.primary = primary
    return step


def _tags(model, best, other):
    """Names of the four targets; classes that share a name, as ImageNet's two cranes do, get their index."""
    names = [model.label(best), model.label(other)]
    if names[0] == names[1]:
        names = [f"{name} ({index})" for name, index in zip(names, (best, other), strict=True)]
    return [*names, f"{names[0]} rather than {names[1]}", f"{names[1]} rather than {names[0]}"]


class _Fields(dict):
    """``{(method, layer, tag): field}`` of one map alone, whatever else the run computes.

    Args:
        names: pairs (tag, field)
        primary: (method, layer) of the map; the layer is None where it is not known yet
    """

    def __init__(self, names, primary):
        super().__init__()
        self._names, self._primary = dict(names), primary

    def get(self, key, default=None):
        method, layer, tag = key
        wanted = method == self._primary[0] and self._primary[1] in (None, layer)
        return self._names.get(tag, default) if wanted else default


def _recipe(dataset, cam_key, model):
    """Method, layers and precision: of the run's first class-discriminative map, else the default."""
    if cam_key is not None:
        plan = plan_of_run(dataset, cam_key, model, own_target=False)
        if plan.primary is not None:
            chosen = [m for m in plan.methods if _made_by(m, plan.primary[0])] or plan.methods
            same = plan.precision, plan.seed, plan.measure_places
            return chosen, plan.layers, plan.fuse, plan.primary, *same
    method = model.adapted.default_method
    return [method], None, None, (method, None), "float32", 51, True


def _made_by(method, key):
    """Whether a pair (function, options) makes the maps of a key."""
    return key.partition("_")[0] == method[0].cam_info.name.partition("_")[0]


def _store(dataset, sample_id, labels):
    """Writes the heatmaps, and lets the App show them in warm colours."""
    heatmap_writer.declare_schema(dataset, list(labels))
    with heatmap_writer.Writer(dataset, threads=1) as writer:
        writer.put({sample_id: labels})
    heatmap_writer.colour_fields(dataset, list(FIELDS.values()))
