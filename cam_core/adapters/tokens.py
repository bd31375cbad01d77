"""What a network's structure says about its tokens; found by structure, as names change."""

from __future__ import annotations

import dataclasses
import math
import re

from torch import nn

# Attention itself, not the blocks around it ("ResidualAttentionBlock") nor what pools by attention.
_ATTENTION = re.compile(r"Attention|Attn|MHSA|GPSA")
_AROUND = re.compile(r"Block|Layer|Stage|Encoder|Pool|Head$")
_MERGING = re.compile(r"PatchMerg|MultiScale|^Pooling$")
# Hiera keeps its tokens in an order of its own, which no reshaping undoes.
_SHUFFLED = re.compile(r"^Hiera")
_EMBEDDING = re.compile(r"PatchEmbed")
# A convolution with a smaller stride is the stem of a CNN.
_LEAST_PATCH = 4


@dataclasses.dataclass(frozen=True)
class TokenStructure:
    """How a network cuts an image into tokens and where it attends.

    Attributes:
        embedding: the module that cuts the image into patches; None if there is none
        padded: whether images are padded to whole patches
        attention: names of the attention modules, in order
        pyramid: whether later stages merge 2 x 2 tokens into one
        shuffled: whether tokens are not in the order of the image's rows
        channels_last: whether maps are (N, h, w, C)
        tokens_first: name of the container inside which tokens are (L, N, C); None if there is none
    """

    embedding: nn.Module | None
    padded: bool
    attention: tuple[str, ...]
    pyramid: bool
    shuffled: bool
    channels_last: bool
    tokens_first: str | None

    @property
    def transformer(self) -> bool:
        """Whether patches of the image attend to each other."""
        return self.embedding is not None and bool(self.attention)

    def blocks(self) -> set[str]:
        """Names of the modules that attention modules are children of."""
        return {name.rpartition(".")[0] for name in self.attention}

    def in_attention(self, name: str) -> bool:
        """Whether a layer is an attention module or inside one."""
        name = name.partition(":")[0]
        return any(name == a or name.startswith(f"{a}.") for a in self.attention)

    def is_tokens_first(self, name: str) -> bool:
        """Whether a layer's tokens are (L, N, C)."""
        first = self.tokens_first
        name = name.partition(":")[0]
        return first is not None and (name == first or name.startswith(f"{first}."))

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int] | None:
        """Returns (rows, columns) of the patch embedding, or None if there is none.

        Args:
            image_size: (height, width) of the model's input
        """
        patch = self.embedding
        if patch is None:
            return None
        if not isinstance(patch, nn.Conv2d):
            rows, columns = patch.dynamic_feat_size(image_size)  # type: ignore[operator]
            return int(rows), int(columns)
        if self.padded:
            return (
                math.ceil(image_size[0] / patch.stride[0]),
                math.ceil(image_size[1] / patch.stride[1]),
            )
        return _conv_size(patch, image_size, 0), _conv_size(patch, image_size, 1)


def _conv_size(conv: nn.Conv2d, image_size: tuple[int, int], axis: int) -> int:
    pad = conv.padding[axis] if not isinstance(conv.padding, str) else 0
    reach = conv.dilation[axis] * (conv.kernel_size[axis] - 1) + 1
    return max(0, (image_size[axis] + 2 * int(pad) - reach) // conv.stride[axis] + 1)


def token_structure(module: nn.Module) -> TokenStructure:
    """Reads the token structure of a network off its modules.

    Args:
        module: the network
    """
    embedding, padded, embeddings = None, False, 0
    attention: list[str] = []
    pyramid = shuffled = channels_last = False
    first: str | None = None
    convolved = False
    for name, sub in module.named_modules():
        kind = type(sub).__name__
        embeddings += bool(_EMBEDDING.search(kind))
        pyramid |= bool(_MERGING.search(kind))
        shuffled |= bool(_SHUFFLED.search(kind))
        channels_last |= getattr(sub, "output_fmt", None) == "NHWC" or kind == "SwinTransformer"
        if embedding is None and not convolved:
            # A timm embedding knows its size for any image, with its padding or CNN stem.
            padded = padded or hasattr(sub, "maybe_pad")
            if callable(getattr(sub, "dynamic_feat_size", None)):
                embedding = sub
            elif isinstance(sub, nn.Conv2d):
                convolved = True
                embedding = sub if min(sub.stride) >= _LEAST_PATCH else None
        inside = bool(attention) and name.startswith(f"{attention[-1]}.")
        if _ATTENTION.search(kind) and not _AROUND.search(kind) and not inside:
            attention.append(name)
            if isinstance(sub, nn.MultiheadAttention) and not sub.batch_first and first is None:
                # "visual.transformer.resblocks.0.attn" -> "visual.transformer"
                first = ".".join(name.split(".")[:-3])
    return TokenStructure(
        embedding=embedding,
        padded=padded,
        attention=tuple(attention),
        pyramid=pyramid or embeddings > 1,
        shuffled=shuffled,
        channels_last=channels_last,
        tokens_first=first or None,
    )
