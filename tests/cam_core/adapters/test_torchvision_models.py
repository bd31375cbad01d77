"""Every classifier family of torchvision and its default layer; the probe for unknown networks."""

from __future__ import annotations

import pickle
import re

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import list_models, resnet

from cam_core import adapt, explain, list_layers
from cam_core.adapters.cnn import CnnClassifier
from cam_core.adapters.transformer import TransformerClassifier
from cam_core.layers.find import LayerInfo
from cam_core.layers.listing import LayerList

# One member per family, as small as it comes: default layer, image size, grid.
FAMILIES = {
    "alexnet": ("features.11", 96, (5, 5)),
    "convnext_tiny": ("features", 64, (2, 2)),
    "densenet121": ("features", 64, (2, 2)),
    "efficientnet_b0": ("features", 64, (2, 2)),
    "efficientnet_v2_s": ("features", 64, (2, 2)),
    "googlenet": ("inception5b", 64, (2, 2)),
    "inception_v3": ("Mixed_7c", 128, (2, 2)),
    "maxvit_t": ("blocks.3", 224, (7, 7)),
    "mnasnet0_5": ("layers", 64, (2, 2)),
    "mobilenet_v2": ("features", 64, (2, 2)),
    "mobilenet_v3_small": ("features", 64, (2, 2)),
    "regnet_y_400mf": ("trunk_output", 64, (2, 2)),
    "resnet18": ("layer4", 64, (2, 2)),
    "resnext50_32x4d": ("layer4", 64, (2, 2)),
    "wide_resnet50_2": ("layer4", 64, (2, 2)),
    "shufflenet_v2_x0_5": ("conv5", 64, (2, 2)),
    "squeezenet1_1": ("features", 64, (3, 3)),
    "vgg11": ("features.19", 64, (4, 4)),
    "vgg11_bn": ("features.27", 64, (4, 4)),
    "swin_t": ("norm", 64, (2, 2)),
    "swin_v2_t": ("norm", 64, (2, 2)),
    "vit_b_32": ("encoder.layers.encoder_layer_11.ln_1", 224, (7, 7)),
}
# Names of torchvision's builders that belong to the families above.
PREFIXES = {name.split("_")[0].rstrip("0123456789") for name in FAMILIES} | {
    "resnext",
    "wide",
    "densenet",
}


def build(name, **more):
    if name.startswith(("googlenet", "inception", "vgg")):
        more["init_weights"] = False
    return torchvision.models.get_model(name, num_classes=10, **more)


def test_every_builder_of_torchvision_belongs_to_a_family_here():
    for name in list_models(torchvision.models):
        assert name.split("_")[0].rstrip("0123456789") in PREFIXES, name


@pytest.mark.parametrize("name", FAMILIES)
def test_default_layer(toys, protect, name):
    layer, size, grid = FAMILIES[name]
    net = toys.awake(build(name), size).train()
    transformer = name.startswith(("swin", "vit"))
    assert isinstance(adapt(net), TransformerClassifier if transformer else CnnClassifier)
    check = protect(net)
    images = torch.randn(1 if size == 224 else 2, 3, size, size)
    result = explain(net, images, ["gradcam", "layercam", "eigencam", "gradcam_elementwise"])
    check()
    assert {key[1] for key in result.maps} == {layer}
    for key, maps in result.maps.items():
        assert maps.shape == (len(images), 1, *grid), key
        assert maps.isfinite().all(), key
        assert (maps.abs().amax((2, 3)) > 0).all(), key
    # Element-wise products have no negative part: the heatmap is a picture.
    assert result.heatmaps()["gradcam_elementwise", layer].amax((2, 3)).eq(1).all()


@pytest.mark.parametrize(
    "name", ["resnet18", "densenet121", "vgg11", "squeezenet1_1", "shufflenet_v2_x0_5"]
)
def test_the_named_default_is_what_a_probe_would_find(toys, name):
    """Or the same place by another name: no later layer has a finer or other grid."""
    net = toys.awake(build(name))
    images = torch.randn(2, 3, 64, 64)
    model = adapt(net)
    found = model._probe(images)
    rows = {row.name: row.grid for row in model.layer_candidates(images)}
    named = model.named_default()
    assert (rows[found].height, rows[found].width) == (rows[named].height, rows[named].width)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "convnext_tiny", "swin_t"])
@pytest.mark.parametrize("size", [(64, 96), (96, 64), (70, 100)])
def test_grids_of_images_that_are_not_square(toys, name, size):
    net = toys.awake(build(name))
    rows = list_layers(net, torch.randn(1, 3, *size))
    assert sum(row.default for row in rows) == 1
    for row in rows:
        height, width = row.grid
        assert abs(height / width / (size[0] / size[1]) - 1) < 0.6, row
        assert height <= size[0]


def test_a_token_grid_of_a_vit_that_is_not_square():
    """A patch embedding of 2 x 3: 24 tokens are no square, the adapter knows the patch's size."""

    class Wide(torchvision.models.VisionTransformer):
        def _process_input(self, x):
            return self.conv_proj(x).flatten(2).transpose(1, 2)

    net = Wide(48, 16, 2, 2, 16, 32, num_classes=4).eval()
    net.encoder.pos_embedding = nn.Parameter(torch.randn(1, 7, 16))
    nn.init.normal_(net.heads.head.weight)
    result = explain(net, torch.randn(2, 3, 32, 48), ["gradcam_elementwise", "eigencam"], 0)
    assert next(iter(result.maps.values())).shape == (2, 1, 2, 3)


def test_list_layers_of_a_resnet(toys):
    rows = list_layers(toys.resnet(), torch.randn(1, 3, 64, 64))
    names = [row.name for row in rows]
    assert names[0] == "conv1"
    assert names[-1] == "layer4"
    assert "maxpool" not in names
    assert "avgpool" not in names
    assert "fc" not in names
    assert [row.name for row in rows if row.default] == ["layer4"]
    layer2 = rows[names.index("layer2")]
    assert (layer2.type, layer2.channels, layer2.grid) == ("Sequential", 128, (8, 8))


def test_list_of_layers_prints_as_a_table_of_blocks(toys):
    net = toys.resnet()
    rows = list_layers(net, torch.randn(1, 3, 64, 64))
    lines = str(rows).splitlines()
    assert lines[0].split() == ["layer", "type", "channels", "grid", "place", "inside"]
    assert len(lines) < len(rows) / 2
    marked = [line.split()[1] for line in lines[1:-1] if line.startswith("*")]
    assert marked == ["layer4"]
    block = next(line for line in lines if " layer2.0 " in line)
    inside = sum(row.name.startswith("layer2.0.") for row in rows)
    assert block.split() == [
        "layer2.0",
        type(net.layer2[0]).__name__,
        "128",
        "8",
        "x",
        "8",
        "measured",
        "±0.4",
        str(inside),
    ]
    assert not any("layer2.0.conv1" in line for line in lines)
    assert lines[-1] == f"*: default; the list has all {len(rows)} layers, also those inside"
    # as data it is the list that it was
    assert rows == list(rows)
    assert pickle.loads(pickle.dumps(rows)) == rows


def test_blocks_in_a_row_that_are_alike_are_one_line_and_a_default_is_its_own():
    def row(name, kind="Block", channels=8, default=False):
        return LayerInfo(name, kind, channels, (4, 4), default)

    blocks = [
        r for i in range(4) for r in (row(f"body.{i}.norm", "Norm", 8, i == 3), row(f"body.{i}"))
    ]
    lines = str(
        LayerList([row("stem", "Conv2d"), *blocks, row("body.4", channels=16)])
    ).splitlines()
    assert [re.split(" {2,}", line.strip("* "))[0] for line in lines[1:-1]] == [
        "stem", "body.0 ... body.2", "body.3.norm", "body.3", "body.4",
    ]  # fmt: skip
    assert "there is no default" in str(LayerList([row("stem")]))
    assert "no layer" in str(LayerList())


# Networks that nobody knows ----------------------------------------------------------------------


class Wrapper(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.backbone = net

    def forward(self, x):
        return {"logits": self.backbone(x)}


class FunctionalHead(nn.Module):
    """Pools and classifies with functions; a branch after the last layer leads nowhere."""

    def __init__(self):
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1)
        self.unused = nn.Conv2d(12, 4, 1)
        self.weight = nn.Parameter(torch.randn(10, 12))

    def forward(self, x):
        x = self.last(self.stem(x).relu())
        self.unused(x)
        return x.relu().mean((2, 3)) @ self.weight.T


class TokenNet(nn.Module):
    """A ViT of somebody's own; only the class token is read."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 16, 16)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.norm1, self.attn = nn.LayerNorm(16), nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm2, self.mlp, self.head = nn.LayerNorm(16), nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        y = self.norm1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        x = x + self.mlp(self.norm2(x))
        return self.head(x[:, 0])


@pytest.mark.parametrize(
    ("make", "layer", "shape"),
    [
        (
            lambda: Wrapper(resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=10)),
            "backbone.layer4",
            (2, 3),
        ),
        (FunctionalHead, "last", (16, 24)),
        (TokenNet, "norm1", (4, 4)),
        (
            lambda: nn.Sequential(
                nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
            ),
            "1",
            (31, 47),
        ),
    ],
    ids=["wrapper", "functional_head", "tokens", "sequential"],
)
def test_the_probe_finds_the_last_layer_with_a_gradient(protect, make, layer, shape):
    net = make()
    images = torch.randn(2, 3, 64, 64 if layer == "norm1" else 96)
    check = protect(net)
    for _ in range(2):
        result = explain(net, images, ["gradcam", "hirescam"])
        check()
        assert {key[1] for key in result.maps} == {layer}
        assert result.maps["gradcam", layer].shape == (2, 1, *shape)
        assert result.maps["hirescam", layer].any()


def test_the_probe_works_under_inference_mode():
    net = FunctionalHead()
    with torch.inference_mode():
        images = torch.randn(2, 3, 32, 32)
        assert list(explain(net, images).maps) == [("gradcam", "last")]
        assert [row.name for row in list_layers(net, images) if row.default] == ["last"]


@pytest.mark.parametrize(
    "end", [nn.MaxPool2d(2), nn.Sequential(nn.MaxPool2d(2), nn.Dropout()), nn.AvgPool2d(2)]
)
def test_the_probe_stays_before_pooling(end):
    """The grid is twice as fine there; a Sequential that ends in pooling is pooling too."""
    features = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(), end)
    net = nn.Sequential(features, nn.Flatten(), nn.Linear(64, 5))
    images = torch.randn(2, 3, 8, 8)
    assert list(explain(net, images).maps) == [("gradcam", "0.1")]
    assert [row.name for row in list_layers(net, images)] == ["0.0", "0.1"]


def test_a_network_without_a_grid_says_so():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    with pytest.raises(ValueError, match="no layer with a spatial grid was found"):
        explain(net, torch.randn(2, 3, 8, 8))


def test_a_network_without_class_scores_says_what_to_do():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU())
    images = torch.randn(2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"not class scores .*pass targets=a callable"):
        explain(net, images, layers=["1"])
    result = explain(net, images, "hirescam", lambda out: out[:, 2].mean((1, 2)), ["1"])
    assert result.maps["hirescam", "1"].any()
    with pytest.raises(ValueError, match=r"layers: .* name one \(list_layers\(model\)"):
        explain(net, images, "hirescam", lambda out: out[:, 2].mean((1, 2)))
    assert [(row.name, row.default) for row in list_layers(net, images)] == [
        ("0", False),
        ("1", False),
    ]
