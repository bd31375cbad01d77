"""What every adapter offers to the engine."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import torch
from torch import Tensor, nn

from ..capture.gradient_path import why_no_gradient
from ..capture.taps import Taps, exclusive, gradients_of, unchanged
from ..layers.find import LayerInfo, is_passive, observe
from ..layers.grid import Grid, infer_grid
from ..layers.layer import Layer, describe
from ..layers.listing import outermost_layers
from ..network.forward_call import check_network, run_forward
from ..network.plain_run import plain_run
from ..network.signature import ModelCache, settings_of
from ..places.layout import certain_grid, is_channels_first, is_recurrent
from ..places.place import Measurement
from .ending import Ending, ScoredOutputs, are_scored, check_ends_in, scored
from .outputs import OutputPath, find_scores, take
from .read_ending import read_ending
from .tokens import TokenStructure, token_structure


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A layer that could be explained.

    Attributes:
        name: its name
        module: its module
        shape: of its tensor
        grid: the grid that its type, its family or its shape suggests; None if they suggest none
        entry: see :class:`~cam_core.layers.layer.Layer`
    """

    name: str
    module: nn.Module
    shape: tuple[int, ...]
    grid: Grid | None
    entry: str | None = None

    @property
    def layer(self) -> Layer:
        """The layer to tap."""
        return Layer(self.name, self.module, self.entry)


# Default layers found by probing, per model and image size: a probe costs a forward and a backward.
_PROBED = ModelCache()

# Layers that are probed: enough to get past those behind a last attention; each keeps one activation.
_PROBED_LAYERS = 24

# How networks end, found with a forward of two images.
_ENDINGS = ModelCache()

# A multi-label prediction names at most this many classes.
_MOST_LABELS = 3


class ExplainableModel:
    """A model seen as: images in, one score per image out, target layers with a grid in between.

    Subclasses override what differs in their family.

    Args:
        module: the model
        output (None): where its scores are in what it returns: a key, an index, a path such as
            ``"head.0"``, or a callable of the outputs. None finds them
        multi_label (None): whether an image may have several classes, each with its own sigmoid; by
            default what is known of the network: one that ends in a sigmoid for each of several outputs
        threshold (0.5): probability in (0, 1) from which on such a class, or the class of a single
            output, is predicted
        ends_in (None): what the scores are, ``"logits"``, or the probabilities of a ``"sigmoid"`` or a
            ``"softmax"``; recognised by default, see :meth:`read_outputs`

    Attributes:
        ending: the :class:`cam_core.adapters.ending.Ending` of the network; None before
            :meth:`read_outputs`, and of a family whose outputs are no plain scores

    Raises:
        ValueError: if the threshold is no probability, or ``ends_in`` is not known
    """

    #: what a user would call the family, for tables and messages
    family = "network"
    #: the method that is right for this family unless the user chooses
    default_method = "gradcam"
    #: whether its outputs are scores as the module returns them, which may be probabilities
    plain_scores = True
    #: whether its scores are quantities, which are what they are
    quantities = False
    #: dimensions of the scores of a batch
    score_dims: tuple[int, ...] = (2,)

    def __init__(
        self,
        module: nn.Module,
        *,
        output: OutputPath = None,
        multi_label: bool | None = None,
        threshold: float = 0.5,
        ends_in: str | None = None,
    ):
        if not 0 < threshold < 1:
            raise ValueError(f"threshold must be a probability between 0 and 1, got {threshold}")
        check_ends_in(ends_in)
        self.module = module
        self.output = output
        self.threshold = threshold
        self.ends_in = ends_in
        self.ending: Ending | None = None
        self._multi_label = multi_label

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several classes: what was said, else what is known of the network."""
        if self._multi_label is not None:
            return self._multi_label
        ending = self.ending
        return ending is not None and ending.independent and (ending.width or 1) > 1

    @property
    def cut(self) -> float:
        """The logit from which on a class is predicted whose output is a probability of its own."""
        return math.log(self.threshold / (1 - self.threshold))

    def read_outputs(self, images: Tensor) -> None:
        """Finds out how the network's scores end, once per network, with a forward of two images.

        Args:
            images: (N, C, H, W) where the model is; two of them are used

        Raises:
            ValueError: if an option contradicts what was found, or the network fails for one image
        """
        check_network(self.module)
        if not self._returns_scores():
            return
        # In eval mode, as a run is: training mode is another state of the network.
        as_run = unchanged if self.module.training else plain_run
        where = self.output if isinstance(self.output, (str, int)) else repr(self.output)
        key = (type(self).__name__, self.quantities, where, self.ends_in)
        with exclusive(self.module), torch.inference_mode(False), as_run(self.module):
            known = _ENDINGS.of(self.module)
            if key not in known:
                self.ending = None
                with unchanged(self.module):
                    known[key] = read_ending(
                        functools.partial(run_forward, self), self.find, images.clone(), self.ends_in,
                        self.quantities,
                    )  # fmt: skip
        ending = known[key]
        if self._multi_label and ending.kind in ("softmax", "log_softmax"):
            raise ValueError(
                f"multi_label: {ending.told()}: its probabilities sum to 1, so its classes exclude each "
                "other; leave multi_label out"
            )
        self.ending = ending

    def _returns_scores(self) -> bool:
        """Whether what the module returns is read by this class, not by a subclass of a user's own."""
        if not self.plain_scores or type(self).forward is not ExplainableModel.forward:
            return False
        names = ("logits", "raw_scores", "candidates", "predicted", "probabilities", "probe_score")
        package = __name__.rpartition(".")[0]
        return all(getattr(type(self), n).__module__.startswith(package) for n in names)

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Whether this adapter understands the module."""
        return True

    def forward(self, images: Tensor) -> Any:
        """Runs the model on a batch (N, 3, H, W).

        Returns:
            what the module returns; of a network that ends in probabilities a
            :class:`cam_core.adapters.ending.ScoredOutputs`, with the logits beside it
        """
        ending = self.ending
        if ending is None or not self._needs_reading(ending):
            return self._returned(images)
        returned, logits = scored(ending, lambda: self._returned(images), self._own_scores)
        return ScoredOutputs(returned, logits, self.cut, self.multi_label)

    def _needs_reading(self, ending: Ending) -> bool:
        """Whether what the module returns has to be read with what is known of it."""
        return ending.kind != "logits"

    def _returned(self, images: Tensor) -> Any:
        """What the module returns, with the batch in dimension 0 also of one image."""
        returned = self.module(images)
        shape = None if self.ending is None else self.ending.row_shape
        dropped = isinstance(returned, Tensor) and tuple(returned.shape) == shape
        return returned[None] if dropped and len(images) == 1 else returned

    def find(self, outputs: Any, dims: int | None = None) -> Tensor | None:
        """Finds the scores, be they logits or probabilities, in what the module returned.

        Args:
            outputs: what the module returned
            dims (None): how many dimensions they have; by default those of scores of a batch

        Returns:
            the tensor, or None if there is none or more than one that could be meant
        """
        value = outputs if self.output is None else take(outputs, self.output)
        tried = (find_scores(value, d) for d in (self.score_dims if dims is None else (dims,)))
        return next((found for found in tried if found is not None), None)

    def _own_scores(self, outputs: Any) -> Tensor:
        """The scores, be they logits or probabilities, with the batch in dimension 0."""
        shape = None if self.ending is None else self.ending.row_shape
        value = self.find(outputs)
        if shape is not None and (value is None or value.dim() <= len(shape)):
            alone = self.find(outputs, len(shape))
            if alone is not None and tuple(alone.shape) == shape:
                return alone[None]
        if value is None:
            raise ValueError(
                f"the model returned {describe(outputs)}, not {self._wanted()}"
                + ("" if self.output is None else f", and none are at output={self.output!r}")
                + _has_pixels(outputs if self.output is None else take(outputs, self.output))
                + "; say where they are with adapt(model, output=a key, an index or a callable), or "
                "pass targets=a callable that maps the outputs to one score per image; of a detector "
                "pass read=a callable that returns boxes, scores and classes"
            )
        return value

    def _wanted(self) -> str:
        return "class scores of shape (N, classes)"

    def logits(self, outputs: Any) -> Tensor:
        """Returns the (N, classes) scores before softmax in the model's outputs.

        A model with one logit z has two classes, whose scores are -z and z: class 1 is predicted
        where z > 0, and what speaks against it is what speaks for class 0.

        Args:
            outputs: what the model returned

        Raises:
            ValueError: if there are none; the message says what came out instead
        """
        value = self.raw_scores(outputs)
        if value.dim() == 1:
            value = value[:, None]
        return torch.cat([-value, value], 1) if value.shape[1] == 1 else value

    def raw_scores(self, outputs: Any) -> Tensor:
        """Returns the (N, outputs) or (N,) tensor of scores as the model computes it, as logits.

        Args:
            outputs: what the model returned

        Raises:
            ValueError: if there is none, or more than one that could be meant
        """
        scored_already = are_scored(outputs)
        if not scored_already and self.ending is not None and self.ending.refusal is not None:
            raise ValueError(self.ending.refusal)
        value = outputs.logits if scored_already else self._own_scores(outputs)
        if not value.is_floating_point():
            kind = "complex numbers" if value.is_complex() else "integers"
            raise ValueError(
                f"the model returned {kind} ({value.dtype}) of shape {tuple(value.shape)}, not class scores: "
                "let it return the real numbers before the softmax that they were made from"
            )
        if scored_already or self.ending is None:
            return value
        return self.ending.logits_of(value)

    def probabilities(self, outputs: Any) -> Tensor:
        """Returns the (N, classes) probabilities that the class scores stand for.

        Softmax; sigmoid for a model with one logit, that ends in a sigmoid, or whose labels do not
        exclude each other.

        Args:
            outputs: what the model returned

        Raises:
            ValueError: if there are no class scores
        """
        logits = self.logits(outputs).float()
        if self.multi_label or (self.ending is not None and self.ending.independent):
            return logits.sigmoid()
        if _is_one_logit(logits):
            logits = logits / 2  # one logit z as -z and z: softmax of half of them is its sigmoid
        return logits.softmax(1)

    def is_saturated(self, outputs: Any) -> bool:
        """Whether a probability is 0 or 1 to the last digit, whose logit had to be computed back.

        Args:
            outputs: what the model returned
        """
        ending = self.ending
        if ending is None or ending.kind == "logits" or ending.back is not None:
            return False
        values = self._own_scores(getattr(outputs, "module_outputs", outputs)).detach()
        values = values.exp() if ending.kind.startswith("log_") else values
        return bool(((values <= 0) | (values >= 1)).any())

    def candidates(self, outputs: Any) -> Tensor:
        """Returns (N, classes): what "predicted" and "top_k" are read from."""
        return self.logits(outputs)

    def predicted(self, outputs: Any) -> Tensor:
        """Returns the classes that the model predicts for each image.

        Args:
            outputs: what the model returned

        Returns:
            (N, K) class indices on the CPU, the strongest first; -1 where an image has fewer. The
            top class; of a single output class 1 from the threshold on; of a multi-label model the
            classes from its threshold on, at most three, or the top one where there is none

        Raises:
            ValueError: if the model has no class scores
        """
        scores = self.candidates(outputs).detach().float()
        if not self.multi_label and _is_one_logit(scores):
            return (scores[:, 1:] > self.cut).long().cpu()
        if not self.multi_label:
            return scores.argmax(1, keepdim=True).cpu()
        values, indices = scores.topk(min(_MOST_LABELS, scores.shape[1]), dim=1)
        keep = values >= self.cut
        keep[:, 0] = True
        return _without_empty_columns(indices.masked_fill(~keep, -1)).cpu()

    @property
    def knows_places(self) -> bool:
        """Whether this class itself says where layers lie on the input; else it is measured."""
        return type(self).grid is not ExplainableModel.grid

    @functools.cached_property
    def structure(self) -> TokenStructure:
        """The tokens of the network, read off its modules."""
        return token_structure(self.module)

    def token_grid(self, image_size: tuple[int, int]) -> tuple[int, int] | None:
        """Returns (rows, columns) of the patch embedding, or None if the model has no tokens."""
        return self.structure.grid(image_size)

    def grid(self, name: str, shape: tuple[int, ...], image_size: tuple[int, int]) -> Grid:
        """Returns how the output of a layer lies on the image.

        Args:
            name: the layer
            shape: of its output
            image_size: (height, width) of the model's input

        Raises:
            ValueError: if the layer has no spatial grid
        """
        grid = self.assumed_grid(name, shape, image_size)
        if grid is None:
            raise ValueError(
                f"layer {name!r} has no spatial grid: its output has shape {tuple(shape)}; "
                "list_layers(model) shows the layers that have one"
            )
        return grid

    def assumed_grid(
        self, name: str, shape: tuple[int, ...], image_size: tuple[int, int]
    ) -> Grid | None:
        """Returns how a layer's output lies on the image by its shape and type; None if it has no grid."""
        module = self._module_of(name)
        if is_channels_first(module):
            return certain_grid(module, shape)
        tokens = self.token_grid(image_size)
        if is_recurrent(module) or (
            len(shape) == 3 and (tokens is None or self.structure.shuffled)
        ):
            return None  # how many tokens there are does not say where they are
        return infer_grid(
            shape,
            image_size,
            tokens,
            pyramid=self.structure.pyramid,
            channels_last=self.structure.channels_last,
            tokens_first=self.structure.is_tokens_first(name),
        )

    def _module_of(self, name: str) -> nn.Module | None:
        """The module of a layer, whose name may continue with an entry of what it returns."""
        try:
            return self.module.get_submodule(name.partition(":")[0])
        except AttributeError:
            return None

    def named_default(self) -> str | None:
        """Returns the family's default layer by name, or None to have it probed."""
        return None

    def default_layers(self, images: Tensor) -> list[str]:
        """Returns the names of the layers explained unless the user names some.

        Args:
            images: (N, 3, H, W), used only where the layer has to be probed for

        Raises:
            ValueError: if the network has no layer with a spatial grid and a gradient
        """
        name = self.named_default()
        if name is not None:
            return [name]
        self.read_outputs(images)
        with plain_run(self.module):
            known = _PROBED.of(self.module)
        key = (*settings_of(self, "module", "structure"), images.dtype, *images.shape[1:])
        if key not in known:
            known[key] = self._probe(images[:2])
        return [known[key]]

    def layer_candidates(self, images: Tensor) -> list[Candidate]:
        """Lists the layers that seem to have a spatial grid, in order of completion.

        Args:
            images: (N, 3, H, W)
        """
        return [row for row in self._observed(images) if row.grid is not None]

    def _observed(self, images: Tensor) -> list[Candidate]:
        """The layers that may have a grid: what they return is long enough, and of whole images."""
        size = (images.shape[-2], images.shape[-1])
        with torch.no_grad(), unchanged(self.module):
            seen = observe(self.module, lambda: run_forward(self, images))
        rows, stepwise = [], False
        for layer, shape in seen:
            stepwise |= is_recurrent(layer.module)
            if len(shape) not in (3, 4) or is_passive(layer.module):
                continue
            # Steps of a sequence are no places, nor is what is made of them.
            if stepwise and len(shape) == 3:
                continue
            grid = self.assumed_grid(layer.name, shape, size)
            first = grid is not None and grid.layout == "LNC"
            # Windows folded into the batch are no images.
            whole = images.shape[0] in (shape[:2] if grid is None else shape[first : first + 1])
            inner = layer.entry is not None and self.structure.in_attention(layer.name)
            if whole and not inner and math.prod(shape[1:]) > 1:
                rows.append(Candidate(layer.name, layer.module, shape, grid, layer.entry))
        return rows

    def probe_candidates(self, images: Tensor) -> list[Candidate]:
        """Lists the layers that may become the default, in order of completion.

        Of a transformer these are its blocks and their norms: what is inside an attention or a
        perceptron is no place that people mean, and after the last block a map can be inverted. Of
        any other network, and of one that merges tokens, all layers outside attention.

        Args:
            images: (N, 3, H, W)
        """
        rows = self.layer_candidates(images) if self.knows_places else self._observed(images)
        outside = [row for row in rows if not self.structure.in_attention(row.name)]
        if self.structure.transformer and not self.structure.pyramid:
            blocks = self.structure.blocks()
            return [row for row in outside if _is_block_or_norm(row, blocks)] or outside or rows
        # An entry of a container only where no module that returns a tensor has a gradient.
        return sorted(outside, key=lambda row: row.entry is None) or rows

    def probe_score(self, outputs: Any) -> Tensor:
        """Returns (N,) a score that depends on what the model's targets depend on.

        Args:
            outputs: what the model returned

        Raises:
            ValueError: if the model has no scores
        """
        return self.logits(outputs).amax(1)

    def _probe(self, images: Tensor) -> str:
        """The last layer with a spatial grid whose positions have a non-zero gradient."""
        return _last_layer_with_gradient(self, images)

    def list_layers(self, images: Tensor, measure: bool = True) -> list[LayerInfo]:
        """Lists the layers that can be explained.

        Args:
            images: (N, 3, H, W) a batch of the size the model is used with
            measure (True): whether to measure where the cells of the network's blocks and of the
                default layer lie; one that lies nowhere is left out
        """
        try:
            default = self.default_layers(images)
        except ValueError:
            default = []  # none is known: what this list is then asked for
        if self.knows_places:
            rows = [_info(row, row.grid, default, "known") for row in self.layer_candidates(images)]
            return [row for row in rows if row is not None]
        observed = self._observed(images)
        chosen: set[str] = set()
        if measure:
            infos = [_info(row, row.grid or Grid("", 0, 0), default, "") for row in observed]
            chosen = outermost_layers([info for info in infos if info is not None])
        layers = [row.layer for row in observed if row.name in chosen]
        measured = Measurement(self, images).calls(layers)
        rows = []
        for row in observed:
            if row.name not in measured:
                # What is inside a block is measured when it is used; only what is no riddle is listed.
                certain = row.grid is not None and (
                    len(row.shape) == 3 or certain_grid(row.module, row.shape) is not None
                )
                rows.append(_info(row, row.grid if certain else None, default, "when used"))
                continue
            places = [call.place for call in measured[row.name] if call.place is not None]
            if places:
                info = _info(row, places[-1].grid, default, places[-1].how)
                rows.append(info and dataclasses.replace(info, error=places[-1].error))
        return [row for row in rows if row is not None]


def _info(row: Candidate, grid: Grid | None, default: list[str], place: str) -> LayerInfo | None:
    """A row of the list, or None of a layer without a grid."""
    if grid is None:
        return None
    first = grid.layout in ("NCHW", "NCL")
    return LayerInfo(
        name=row.name,
        type=type(row.module).__name__,
        channels=row.shape[1] if first else row.shape[-1],
        grid=(grid.height, grid.width),
        default=row.name in default,
        place=place,
    )


def _is_one_logit(scores: Tensor) -> bool:
    """Whether scores (N, 2) are those of one logit z: -z and z."""
    return scores.shape[1] == 2 and torch.equal(scores[:, 0], -scores[:, 1])


def _has_pixels(outputs: Any) -> str:
    """A hint where what came out has scores of pixels, or what looks like them, and the task is not said."""
    maps = find_scores(outputs, 4)
    if maps is None or maps.shape[-2] * maps.shape[-1] == 1:
        return ""
    return "; if these are the scores of pixels, pass task='segmentation'"


def _is_block_or_norm(row: Candidate, blocks: set[str]) -> bool:
    path = row.name.partition(":")[0]
    norm = "Norm" in type(row.module).__name__ and path.rpartition(".")[0] in blocks
    return norm or path in blocks


def _without_empty_columns(indices: Tensor) -> Tensor:
    """Drops trailing columns in which no image has a class; the first stays."""
    filled = (indices >= 0).any(0)
    filled[0] = True
    return indices[:, : int(filled.nonzero().max()) + 1]


def _last_layer_with_gradient(model: ExplainableModel, images: Tensor) -> str:
    """The last layer with a spatial grid whose positions the prediction depends on."""
    module: nn.Module = model.module
    with torch.inference_mode(False), torch.no_grad(), unchanged(module):
        images = images.clone() if images.is_inference() else images
        rows = _last_candidates(model.probe_candidates(images))
        if not rows:
            raise ValueError(_none_found(f"no layer of it returns a spatial grid{_flat(module)}"))
        taps = Taps([row.layer for row in rows], early=module)
        with taps:
            outputs = run_forward(model, images)
        with torch.enable_grad():
            score = _probe_score(model, outputs)
        gradients: list[Tensor | None] = [None] * len(rows)
        if score.requires_grad:
            gradients = gradients_of(score, [taps.outputs[row.name] for row in rows], retain=False)
        reasons: list[str] = []
        measurement = None if model.knows_places else Measurement(model, images)
        if measurement is not None:
            measurement.watch([row.layer for row in rows])
        for row, gradient in zip(reversed(rows), reversed(gradients), strict=True):
            if gradient is None or not bool(gradient.any()):
                continue
            if row.grid is not None and not bool(row.grid.to_maps(gradient).any()):
                continue  # only the tokens beside the grid count, such as a class token
            if measurement is None:
                return row.name
            calls = measurement.calls([row.layer])[row.name]
            if not calls:
                continue
            reasons.append(f"{row.name!r}: {calls[-1].reason}")
            if any(c.place and bool(c.place.grid.to_maps(gradient).any()) for c in calls):
                return row.name
        if reasons:
            raise ValueError(
                _none_found(
                    "of none of its layers can the cells be laid on the image: " + reasons[0]
                )
            )
        if all(gradient is None for gradient in gradients):
            why = why_no_gradient(model, images, rows[-1].layer, model.probe_score)
            raise ValueError(_none_found(f"no layer of it has a gradient: {why}"))
    raise ValueError(
        _none_found("the gradient of its score is zero at every layer with a spatial grid")
    )


def _last_candidates(rows: list[Candidate]) -> list[Candidate]:
    """The last candidates: so many that seem to have a grid, and what lies between them."""
    seeming = [k for k, row in enumerate(rows) if row.grid is not None][-_PROBED_LAYERS:]
    return rows[min([*seeming[:1], max(0, len(rows) - _PROBED_LAYERS)]) :]


def _probe_score(model: ExplainableModel, outputs: Any) -> Tensor:
    try:
        return model.probe_score(outputs)
    except ValueError as error:
        raise ValueError(
            f"layers: {error}; and there is no default layer then: name one (list_layers(model) shows what there is)"
        ) from None


def _flat(module: nn.Module) -> str:
    """What is said of an exported network, whose operations are in no modules any more."""
    if not isinstance(module, torch.fx.GraphModule):
        return ""
    if not any(isinstance(node.target, torch._ops.OpOverload) for node in module.graph.nodes):
        return ""
    return ", as it is a graph of operations (torch.export) without modules: give the module it was made from"


def _none_found(reason: str) -> str:
    return (
        "layers: no layer with a spatial grid was found whose gradient is not zero: "
        f"{reason}; name one (list_layers(model) shows what there is)"
    )
