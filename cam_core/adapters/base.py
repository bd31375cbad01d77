"""What every adapter offers to the engine."""

from __future__ import annotations

import dataclasses
import functools
import math
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from ..capture import unchanged
from ..layers import Grid, Layer, LayerInfo, describe, infer_grid, is_passive, observe
from .outputs import OutputPath, find_scores, take
from .tokens import TokenStructure, token_structure


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A layer that could be explained, in order of completion."""

    name: str
    module: nn.Module
    shape: tuple[int, ...]
    grid: Grid
    entry: str | None = None

    @property
    def layer(self) -> Layer:
        """The layer to tap."""
        return Layer(self.name, self.module, self.entry)


# Default layers found by probing, per module and image size: a probe costs a forward and a backward.
_PROBED: weakref.WeakKeyDictionary[nn.Module, dict] = weakref.WeakKeyDictionary()

# A multi-label prediction names at most this many classes.
_MOST_LABELS = 3


class ExplainableModel:
    """A model seen as: images in, one score per image out, target layers with a grid in between.

    Subclasses override what differs in their family.

    Args:
        module: the model
        output (None): where its scores are in what it returns: a key, an index, a path such as
            ``"head.0"``, or a callable of the outputs. None finds them
        multi_label (False): whether an image may have several classes, each with its own sigmoid
        threshold (0.5): probability in (0, 1) from which on such a class is predicted

    Raises:
        ValueError: if the threshold is no probability
    """

    #: what a person would call the family, for tables and messages
    family = "network"
    #: the method that is right for this family unless the user chooses
    default_method = "gradcam"

    def __init__(
        self,
        module: nn.Module,
        *,
        output: OutputPath = None,
        multi_label: bool = False,
        threshold: float = 0.5,
    ):
        if not 0 < threshold < 1:
            raise ValueError(f"threshold must be a probability between 0 and 1, got {threshold}")
        self.module = module
        self.output = output
        self.multi_label = multi_label
        self.threshold = threshold

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Whether this adapter understands the module."""
        return True

    def forward(self, images: Tensor) -> Any:
        """Runs the model on a batch (N, 3, H, W)."""
        return self.module(images)

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
        """Returns the (N, outputs) or (N,) tensor of scores as the model computes it.

        Args:
            outputs: what the model returned

        Raises:
            ValueError: if there is none, or more than one that could be meant
        """
        value = find_scores(outputs if self.output is None else take(outputs, self.output))
        if value is None:
            raise ValueError(
                f"the model returned {describe(outputs)}, not class scores of shape (N, classes)"
                + ("" if self.output is None else f", and none are at output={self.output!r}")
                + "; say where they are with adapt(model, output=a key, an index or a callable), or "
                "pass targets=a callable that maps the outputs to one score per image; of a detector "
                "pass read=a callable that returns boxes, scores and classes"
            )
        return value

    def probabilities(self, outputs: Any) -> Tensor:
        """Returns the (N, classes) probabilities that the class scores stand for.

        Softmax; sigmoid for a model with one logit, or whose labels do not exclude each other.

        Args:
            outputs: what the model returned

        Raises:
            ValueError: if there are no class scores
        """
        logits = self.logits(outputs).float()
        if self.multi_label:
            return logits.sigmoid()
        if logits.shape[1] == 2 and torch.equal(logits[:, 0], -logits[:, 1]):
            logits = logits / 2  # one logit z as -z and z: softmax of half of them is its sigmoid
        return logits.softmax(1)

    def candidates(self, outputs: Any) -> Tensor:
        """Returns (N, classes): what "predicted" and "top_k" are read from."""
        return self.logits(outputs)

    def predicted(self, outputs: Any) -> Tensor:
        """Returns the classes that the model predicts for each image.

        Args:
            outputs: what the model returned

        Returns:
            (N, K) class indices on the CPU, the strongest first; -1 where an image has fewer. The
            top class; of a multi-label model the classes from its threshold on, at most three, or
            the top one where there is none

        Raises:
            ValueError: if the model has no class scores
        """
        scores = self.candidates(outputs).detach().float()
        if not self.multi_label:
            return scores.argmax(1, keepdim=True).cpu()
        values, indices = scores.topk(min(_MOST_LABELS, scores.shape[1]), dim=1)
        keep = values >= math.log(self.threshold / (1 - self.threshold))
        keep[:, 0] = True
        return _without_empty_columns(indices.masked_fill(~keep, -1)).cpu()

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
        grid = self._find_grid(name, shape, image_size)
        if grid is None:
            raise ValueError(
                f"layer {name!r} has no spatial grid: its output has shape {tuple(shape)}; "
                "list_layers(model) shows the layers that have one"
            )
        return grid

    def _find_grid(
        self, name: str, shape: tuple[int, ...], image_size: tuple[int, int]
    ) -> Grid | None:
        if len(shape) == 3 and self.structure.shuffled:
            return None
        return infer_grid(
            shape,
            image_size,
            self.token_grid(image_size),
            pyramid=self.structure.pyramid,
            channels_last=self.structure.channels_last,
            tokens_first=self.structure.is_tokens_first(name),
        )

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
        known = _PROBED.setdefault(self.module, {})
        key = (type(self).__name__, repr(self.output), *images.shape[-2:])
        if key not in known:
            known[key] = self._probe(images[:2])
        return [known[key]]

    def layer_candidates(self, images: Tensor) -> list[Candidate]:
        """Lists the layers with a spatial grid, in order of completion."""
        size = (images.shape[-2], images.shape[-1])
        with torch.no_grad(), unchanged(self.module):
            seen = observe(self.module, lambda: self.forward(images))
        rows = []
        for layer, shape in seen:
            grid = self._find_grid(layer.name, shape, size)
            if grid is None or is_passive(layer.module):
                continue
            # Windows folded into the batch are no images.
            whole = shape[1 if grid.layout == "LNC" else 0] == images.shape[0]
            inner = layer.entry is not None and self.structure.in_attention(layer.name)
            if whole and not inner:
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
        rows = self.layer_candidates(images)
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
        from .probe import last_layer_with_gradient

        return last_layer_with_gradient(self, images)

    def list_layers(self, images: Tensor) -> list[LayerInfo]:
        """Lists the layers that can be explained.

        Args:
            images: (N, 3, H, W) a batch of the size the model is used with
        """
        try:
            default = self.default_layers(images)
        except ValueError:
            default = []  # none is known: what this list is then asked for
        return [
            LayerInfo(
                name=c.name,
                type=type(c.module).__name__,
                channels=c.shape[1] if c.grid.layout == "NCHW" else c.shape[-1],
                grid=(c.grid.height, c.grid.width),
                default=c.name in default,
            )
            for c in self.layer_candidates(images)
        ]


def _is_block_or_norm(row: Candidate, blocks: set[str]) -> bool:
    path = row.name.partition(":")[0]
    norm = "Norm" in type(row.module).__name__ and path.rpartition(".")[0] in blocks
    return norm or path in blocks


def _without_empty_columns(indices: Tensor) -> Tensor:
    """Drops trailing columns in which no image has a class; the first stays."""
    filled = (indices >= 0).any(0)
    filled[0] = True
    return indices[:, : int(filled.nonzero().max()) + 1]
