"""Methods for vision transformers that follow the attention from block to block.

They return one value per token; the engine lays the patch tokens on the image. Notation: a the
attention of one block (N, heads, L, L), rows are queries; r the tokens that the head reads.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from .registry import cam_method

_attention = functools.partial(
    cam_method, family="attention", place="attention", sums_channels=False, register=True
)


@_attention(
    paper="Abnar & Zuidema, Quantifying Attention Flow in Transformers, ACL 2020",
    class_discriminative=False,
    signed=False,
    cost="2F",
    times=2.5,
    aliases=("rollout",),
)
def attention_rollout(attentions, readout, *, head_fusion="mean"):
    """The attention of all blocks multiplied through; it has no class and is the same for every target.

    ``R = prod_l row_norm((mean_heads a_l + I) / 2)``, ``M = r^T R``: how much of each token arrives at
    the tokens that the head reads, if attention alone moved information.

    Options: ``head_fusion`` ``"mean"``, ``"max"`` or ``"min"`` over the heads.
    """
    fuse = {"mean": lambda a: a.mean(1), "max": lambda a: a.amax(1), "min": lambda a: a.amin(1)}
    if head_fusion not in fuse:
        raise ValueError(f"head_fusion: {head_fusion!r} is unknown; choose 'mean', 'max' or 'min'")
    rows = readout.expand(attentions[0].shape[0], -1)
    # From the head down: a vector times a matrix per block, not a matrix times a matrix.
    for weights in reversed(attentions):
        mixed = 0.5 * fuse[head_fusion](weights) + 0.5 * _identity(weights)
        mixed = mixed / mixed.sum(-1, keepdim=True)
        rows = torch.einsum("nq,nqk->nk", rows, mixed)
    return rows


@_attention(
    paper="Chefer et al., Generic Attention-model Explainability, ICCV 2021",
    signed=False,
    cost="2F+1B",
    times=4.0,
    aliases=("transformer_attribution", "generic_attention"),
)
def chefer(attentions, attention_gradients):
    """Attention weighted by its positive gradient, added up from block to block.

    ``A_l = mean_heads relu(da_l * a_l)``, ``R <- R + A_l R`` from ``R = I``, ``M = r^T (R - I)`` with r
    the tokens that the head reads, found where the last block's attention has a gradient.
    """
    last = attention_gradients[-1].abs().amax((1, 3)) > 0  # (N, L) queries that matter
    rows = last.float() / last.sum(1, keepdim=True).clamp_min(1)
    start = rows
    for weights, gradients in zip(reversed(attentions), reversed(attention_gradients), strict=True):
        relevance = (gradients * weights).relu().mean(1)
        rows = rows + torch.einsum("nq,nqk->nk", rows, relevance)
    return rows - start


@_attention(
    paper="Bousselham et al., LeGrad, arXiv 2404.03214",
    signed=False,
    cost="3F+1B",
    times=5.0,
)
def legrad(block_gradients):
    """How sensitive every block's own score is to its attention, averaged over blocks.

    ``M = mean_l mean_{heads, queries} relu(ds_l / da_l)`` with s_l the head's score of the mean of the
    tokens after block l.
    """
    return torch.stack([g.relu().mean((1, 2)) for g in block_gradients]).mean(0)


def _identity(weights: Tensor) -> Tensor:
    return torch.eye(weights.shape[-1], device=weights.device, dtype=weights.dtype)
