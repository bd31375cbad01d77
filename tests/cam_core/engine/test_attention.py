"""Attention methods: closed forms, other libraries, and every way attention is written."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from method_lists import ATTENTION
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

from cam_core import explain
from cam_core.methods.attention import attention_rollout, chefer, legrad


def close(a, b, rel=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=rel * float(b.abs().max()) + 1e-12)


class Written(nn.Module):
    """Attention with a softmax that stands in the code."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.qkv, self.proj = (
            heads,
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )

    def attend(self, q, k, v):
        logits = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        return logits.softmax(-1) @ v

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(self.attend(q, k, v).transpose(1, 2).flatten(2))


class Functional(Written):
    def attend(self, q, k, v):
        logits = torch.einsum("nhqd,nhkd->nhqk", q, k) / math.sqrt(q.shape[-1])
        return F.softmax(logits, dim=-1) @ v


class Fused(Written):
    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v)


class Multihead(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.inner = nn.MultiheadAttention(width, heads, batch_first=False)

    def forward(self, x):
        x = x.transpose(0, 1)
        return self.inner(x, x, x, need_weights=False)[0].transpose(0, 1)


class Block(nn.Module):
    def __init__(self, attention, width, heads):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), attention(width, heads)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())

    def forward(self, x):
        x = x + self.attention(self.norm(x))
        return x + self.mlp(x)


class TinyViT(nn.Module):
    """Patches of 8 pixels, a class token unless the mean is read."""

    def __init__(self, attention=Written, depth=3, width=16, heads=2, cls=True, side=4):
        super().__init__()
        self.patch = nn.Conv2d(3, width, 8, 8)
        self.cls = nn.Parameter(torch.randn(1, 1, width)) if cls else None
        self.position = nn.Parameter(0.5 * torch.randn(1, side * side + bool(cls), width))
        self.blocks = nn.ModuleList(Block(attention, width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, images):
        x = self.patch(images).flatten(2).transpose(1, 2)
        if self.cls is not None:
            x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1)
        x = x + self.position
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x[:, 0] if self.cls is not None else x.mean(1))


def recorded(net, images):
    """Attention and its gradients, by hand: retain_grad on the softmax's output."""
    kept = []

    def attend(self, q, k, v):
        weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
        weights.retain_grad()
        kept.append(weights)
        return weights @ v

    for block in net.blocks:
        block.attention.attend = attend.__get__(block.attention)
    logits = net(images)
    for block in net.blocks:
        del block.attention.attend
    return kept, logits


@pytest.fixture
def images():
    return torch.randn(3, 3, 32, 32)


@pytest.mark.parametrize("cls", [True, False])
def test_against_gradients_by_hand(images, cls):
    net = TinyViT(cls=cls).eval()
    kept, logits = recorded(net, images)
    logits[:, 2].sum().backward()
    length = kept[0].shape[-1]
    eye = torch.eye(length)
    relevance = rollout = eye.expand(3, -1, -1)
    for weights in kept:
        step = (weights.grad * weights).relu().mean(1).detach()
        relevance = relevance + step @ relevance
        mixed = weights.detach().mean(1) + eye
        rollout = (mixed / mixed.sum(-1, keepdim=True)) @ rollout
    rows = (relevance - eye)[:, 0, 1:] if cls else (relevance - eye).mean(1)
    rolled = rollout[:, 0, 1:] if cls else rollout.mean(1)
    maps = explain(net, images, ["chefer", "attention_rollout"], 2).maps
    close(maps["chefer", "attention"][:, 0], rows.unflatten(1, (4, 4)))
    close(maps["attention_rollout", "attention"][:, 0], rolled.unflatten(1, (4, 4)))
    net.zero_grad()


@pytest.mark.parametrize("cls", [True, False])
def test_legrad_against_its_definition(images, cls):
    net = TinyViT(cls=cls).eval()
    tokens = []
    for block in net.blocks:
        block.register_forward_hook(lambda m, a, out: tokens.append(out) or None)
    kept, _ = recorded(net, images)
    total = 0
    for weights, z in zip(kept, tokens, strict=True):
        score = net.head(net.norm(z.mean(1)))[:, 2]
        (gradient,) = torch.autograd.grad(score.sum(), weights, retain_graph=True)
        total = total + gradient.relu().mean((1, 2)) / len(kept)
    total = total[:, 1:] if cls else total
    for block in net.blocks:
        block._forward_hooks.clear()
    found = explain(net, images, "legrad", 2).maps["legrad", "attention"][:, 0]
    close(found, total.unflatten(1, (4, 4)))


@pytest.mark.parametrize("attention", [Functional, Fused, Multihead])
def test_however_attention_is_written(images, attention):
    net = TinyViT(Written).eval()
    other = TinyViT(attention).eval()
    state = net.state_dict()
    if attention is Multihead:
        names = {"qkv.weight": "inner.in_proj_weight", "qkv.bias": "inner.in_proj_bias",
                 "proj.weight": "inner.out_proj.weight", "proj.bias": "inner.out_proj.bias"}  # fmt: skip
        for old, new in names.items():
            state = {k.replace(old, new) if "attention" in k else k: v for k, v in state.items()}
    other.load_state_dict(state)
    expected = explain(net, images, ATTENTION, [0, 2]).maps
    found = explain(other, images, ATTENTION, [0, 2]).maps
    assert list(found) == [(m, "attention") for m in ATTENTION]
    for key, maps in expected.items():
        close(found[key], maps, rel=1e-4)


@pytest.fixture
def vit():
    net = VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=4).eval()
    nn.init.normal_(net.heads.head.weight)
    return net


@pytest.mark.oracle
def test_legrad_is_that_of_torchcam(vit, images):
    from torchcam.methods import LeGrad

    with LeGrad(vit, list(vit.encoder.layers)) as method:
        theirs = method([1, 1, 1], vit(images), normalized=False)[0]
    close(explain(vit, images, "legrad", 1).maps["legrad", "attention"][:, 0], theirs)


def test_what_holds_for_every_attention_method(vit, images, protect):
    check = protect(vit)
    result = explain(vit, images, ATTENTION, [0, 2])
    check()
    for parameter in vit.parameters():
        parameter.requires_grad_(False)
    with torch.inference_mode():
        frozen = explain(vit, images, ATTENTION, [0, 2])
    alone = explain(vit, images[1:2], ATTENTION, [0, 2])
    for key, maps in result.maps.items():
        assert maps.shape == (3, 2, 4, 4)
        assert (maps >= 0).all()
        assert maps.amax() > 0
        close(frozen.maps[key], maps)
        close(alone.maps[key], maps[1:2], rel=1e-4)
    rollout = result.maps["attention_rollout", "attention"]
    assert torch.equal(rollout[:, 0], rollout[:, 1])
    for name in ("chefer", "legrad"):
        maps = result.maps[name, "attention"]
        assert not torch.allclose(maps[:, 0], maps[:, 1], rtol=1e-2)


def test_the_other_methods_are_not_touched_by_attention_methods(vit, images):
    alone = explain(vit, images, "gradcam_elementwise", [0, 2])
    beside = explain(vit, images, [*ATTENTION, "gradcam_elementwise"], [0, 2])
    key = ("gradcam_elementwise", "encoder.layers.encoder_layer_2.ln_1")
    assert torch.equal(beside.maps[key], alone.maps[key])


def test_rollout_by_hand():
    first = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]])
    second = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]])
    # (A2 + I) / 2 = [[.5, .5], [.5, .5]] and (A1 + I) / 2 = [[1, 0], [.25, .75]]
    found = attention_rollout([first, second], torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(found, torch.tensor([[0.625, 0.375]]))
    both = torch.cat([first, second], 1)
    fused = attention_rollout([both], torch.tensor([1.0, 0.0]), head_fusion="max")
    torch.testing.assert_close(fused, torch.tensor([[2 / 3, 1 / 3]]))
    with pytest.raises(ValueError, match="head_fusion: 'sum' is unknown"):
        attention_rollout([both], torch.tensor([1.0, 0.0]), head_fusion="sum")


def test_chefer_by_hand():
    weights = torch.tensor([[[[0.2, 0.8], [0.5, 0.5]]]])
    gradients = torch.tensor([[[[1.0, 2.0], [0.0, 0.0]]]])  # the head reads the first token
    found = chefer([weights, weights], [torch.ones_like(weights), gradients])
    # r (I + A2) = [1.2, 1.6]; times (I + A1) = [1.2 + .24 + .8, 1.6 + .96 + .8]; less r
    torch.testing.assert_close(found, torch.tensor([[1.24, 3.36]]))


def test_legrad_by_hand():
    first, second = torch.tensor([[[[1.0, -1.0], [3.0, 0.0]]]]), torch.full((1, 1, 2, 2), -1.0)
    torch.testing.assert_close(legrad([first, second]), torch.tensor([[1.0, 0.0]]))


def test_networks_without_attention(toys, images):
    with pytest.raises(ValueError, match="no attention blocks were found in this network"):
        explain(toys.resnet().eval(), images, "chefer", 0)


def test_windows_cannot_be_chained():
    from torchvision.models.swin_transformer import SwinTransformer

    net = SwinTransformer([4, 4], 8, [1, 1], [2, 2], [4, 4], num_classes=4).eval()
    with pytest.raises(ValueError, match=r"the attention of 'features\S+' looks at windows"):
        explain(net, torch.randn(2, 3, 64, 64), "attention_rollout", 0)


def test_a_score_that_does_not_depend_on_attention(vit, images):
    with pytest.raises(ValueError, match="the score does not depend"):
        explain(vit, images, "chefer", lambda outputs: outputs.detach()[:, 0])


def test_values_per_token_are_checked(vit, images):
    from cam_core import cam_method

    @cam_method(place="attention")
    def short(attentions):
        return attentions[0][:, 0, 0, 1:]

    with pytest.raises(ValueError, match=r"'short' must return \(3, 17\) values, one per token"):
        explain(vit, images, short, 0)


def test_half_precision(vit, images, corr):
    exact = explain(vit, images, ATTENTION, [0, 2])
    half = explain(vit, images, ATTENTION, [0, 2], precision="bfloat16")
    for key, maps in exact.maps.items():
        close(half.maps[key], maps, rel=1e-3)  # they run in the model's own precision


def test_smoothing_applies(vit, images):
    found = explain(vit, images, "chefer+aug", 1).maps["chefer_aug", "attention"]
    mirrored = explain(vit, images.flip(-1), "chefer+aug", 1).maps["chefer_aug", "attention"]
    close(mirrored.flip(-1), found, rel=1e-4)
