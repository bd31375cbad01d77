"""What models return, what their outputs mean, and targets that are no class."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, namedtuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.deeplabv3 import DeepLabHead, DeepLabV3
from torchvision.models.segmentation.fcn import FCNHead

from cam_core import adapt, explain, list_layers
from cam_core.adapters.embedding import EmbeddingModel, component_target, similarity_target
from cam_core.adapters.outputs import find_scores, take
from cam_core.adapters.regression import Regressor
from cam_core.adapters.segmentation import SegmentationModel, mask_target
from cam_core.adapters.zero_shot import ZeroShotClassifier, encode_texts
from cam_core.layers.find import observe
from cam_core.layers.layer import Layer

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
Pair = namedtuple("Pair", ["logits", "aux"])


@dataclasses.dataclass
class Output:
    scores: Tensor
    features: Tensor


class Returns(nn.Module):
    """A small CNN that packs its scores as it is told."""

    def __init__(self, pack, classes=5):
        super().__init__()
        self.conv, self.head, self.pack = nn.Conv2d(3, 6, 3, 2, 1), nn.Linear(6, classes), pack

    def forward(self, x):
        maps = self.conv(x).relu()
        return self.pack(self.head(maps.mean((2, 3))), maps)


# Finding the scores ------------------------------------------------------------------------------

FOUND = {
    "tensor": (lambda y, f: y, None),
    "dict": (lambda y, f: {"logits": y, "features": f}, None),
    "single": (lambda y, f: {"predictions": y, "maps": f}, None),
    "named_tuple": (Pair, None),
    "tuple": (lambda y, f: (y, f), None),
    "list": (lambda y, f: [y], None),
    "nested": (lambda y, f: ({"logits": y}, f), None),
    "object": (lambda y, f: Output(y, f), None),
    "probabilities_first": (lambda y, f: (y.softmax(1), y), None),
    "probabilities_last": (lambda y, f: [y, y.softmax(1)], None),
    "teacher": (
        lambda y, f: {"cls_logits": y + 1, "distillation_logits": y - 1},
        None,
    ),
    "key": (lambda y, f: {"a": y, "b": y + 1}, "a"),
    "index": (lambda y, f: (y, y + 1), 0),
    "path": (lambda y, f: {"head": [y + 1, y]}, "head.1"),
    "sequence": (lambda y, f: {"head": [y + 1, y]}, ["head", 1]),
    "dotted_key": (lambda y, f: {"head.1": y, "x": y + 1}, "head.1"),
    "attribute": (lambda y, f: Output(y, y + 1), "scores"),
    "callable": (lambda y, f: (y, y + 1), lambda out: out[0] * 1),
    "callable_into": (lambda y, f: {"x": (y, y + 1)}, lambda out: {"logits": out["x"][0]}),
}


@pytest.mark.parametrize("name", FOUND)
def test_scores_are_found_in_what_a_model_returns(name):
    pack, output = FOUND[name]
    net, images = Returns(pack), torch.randn(3, 3, 16, 16)
    plain = Returns(lambda y, f: y)
    plain.load_state_dict(net.state_dict())
    mine = explain(adapt(net, output), images, ["gradcam", "layercam"])
    truth = explain(plain, images, ["gradcam", "layercam"])
    torch.testing.assert_close(mine.logits, truth.logits)
    assert torch.equal(mine.targets, truth.targets)
    assert mine.maps.keys() == truth.maps.keys()
    for key, maps in truth.maps.items():
        torch.testing.assert_close(mine.maps[key], maps)


@pytest.mark.parametrize(
    ("pack", "output", "message"),
    [
        (lambda y, f: (y, y + 1), None, r"a tuple of 2 \(\(2, 5\), \(2, 5\)\), not class scores"),
        (
            lambda y, f: {"a": y, "b": y[:, :3]},
            None,
            r"a dict with entries a \(2, 5\), b \(2, 3\).*output=",
        ),
        (lambda y, f: None, None, "a NoneType, not class scores"),
        (lambda y, f: {"maps": f}, "maps", "none are at output='maps'"),
        (lambda y, f: {"a": y}, "b", r"output: 'b' has no 'b'.*a dict with entries a \(2, 5\)"),
        (lambda y, f: (y, f), 2, "output: 2 has no 2 .*tuple of 2"),
        (lambda y, f: {"a": [y]}, "a.1", r"'a.1' has no '1'.*a list of 1 \(\(2, 5\)\)"),
    ],
)
def test_outputs_that_are_not_understood_say_what_came_out(pack, output, message):
    with pytest.raises(ValueError, match=message):
        explain(adapt(Returns(pack), output), torch.randn(2, 3, 16, 16), layers="conv")


def test_which_of_two_tensors_are_the_logits():
    y = torch.tensor([[1.0, 2.0, 0.0], [0.0, -1.0, 3.0]])
    assert find_scores((y.softmax(1), y)) is y
    assert find_scores((y, y.softmax(1))) is y
    assert find_scores((y, y.sigmoid())) is None
    assert find_scores((y, y, y)) is None
    assert find_scores({"a": y, "b": y[:, :2]}) is None
    assert find_scores(y[:, 0]).tolist() == [1, 0]
    assert find_scores(y[None]) is None
    assert find_scores((None, y)) is y
    assert take({"a": (1, 2)}, "a.-1") == 2


def test_a_model_that_is_adapted_takes_no_options():
    model = adapt(Returns(lambda y, f: y))
    assert adapt(model) is model
    with pytest.raises(ValueError, match="adapted already"):
        adapt(model, output=0)
    with pytest.raises(ValueError, match="task: 'detect' is unknown; choose from classification"):
        adapt(model.module, task="detect")
    with pytest.raises(ValueError, match="threshold must be a probability"):
        adapt(model.module, multi_label=True, threshold=1.5)
    with pytest.raises(ValueError, match="multi_label: is for classifiers"):
        adapt(model.module, multi_label=True, task="regression")
    with pytest.raises(ValueError, match="leave task out"):
        adapt(model.module, text_features=torch.ones(2, 6), task="classification")


# One logit, several labels, quantities -----------------------------------------------------------


@pytest.mark.parametrize("squeeze", [False, True])
def test_one_logit_is_two_classes(squeeze):
    net = Returns(lambda y, f: y[:, 0] if squeeze else y, classes=1)
    images = torch.randn(8, 3, 16, 16)
    z = net(images).detach().flatten()
    net.head.bias.data -= z.median()  # some of either class
    z = net(images).detach().flatten()
    result = explain(net, images, "gradcam")
    assert result.targets[:, 0].tolist() == (z > 0).long().tolist()
    assert set(result.targets.flatten().tolist()) == {0, 1}
    torch.testing.assert_close(result.scores[:, 0], z.abs())
    torch.testing.assert_close(result.logits, torch.stack([-z, z], 1))
    both = explain(net, images, "gradcam", targets=[0, 1]).maps["gradcam", "conv"]
    torch.testing.assert_close(both[:, 0], -both[:, 1])
    # mean pooling and one linear layer: the gradient is w_k / cells wherever ReLU is open
    maps = net.conv(images).detach()
    weight = net.head.weight.detach()[0] / maps[0, 0].numel()
    gradients = weight[:, None, None] * (maps > 0)
    expected = (gradients.mean((2, 3), keepdim=True) * maps).sum(1)
    torch.testing.assert_close(both[:, 1], expected)


def test_labels_above_the_threshold_at_most_three():
    """sigmoid(-1.386) = 0.2, sigmoid(0) = 0.5, sigmoid(1.386) = 0.8."""
    logits = torch.tensor(
        [
            [3.0, -2.0, 1.0, 2.0, 4.0],
            [-3.0, -2.0, -1.0, -4.0, -5.0],
            [-3.0, 0.1, -1.0, -4.0, 0.2],
        ]
    )
    net = Returns(lambda y, f: y)
    assert adapt(net, multi_label=True).predicted(logits).tolist() == [
        [4, 0, 3],
        [2, -1, -1],
        [4, 1, -1],
    ]
    assert adapt(net, multi_label=True, threshold=0.8).predicted(logits[1:]).tolist() == [[2], [4]]
    assert adapt(net, multi_label=True, threshold=0.2).predicted(logits[1:]).tolist() == [
        [2, -1, -1],
        [4, 1, 2],
    ]
    assert adapt(net).predicted(logits).tolist() == [[4], [2], [4]]
    # and as a target: what is not predicted has no map
    images = torch.randn(3, 3, 16, 16)
    model = adapt(net, multi_label=True, threshold=0.5)
    net.head.bias.data = torch.tensor([1.0, 0, -1, 5, -5])
    found = model.predicted(net(images))
    result = explain(model, images, targets=found)
    assert torch.equal(result.valid, found >= 0)
    assert torch.equal(result.maps["gradcam", "conv"].isnan().all((2, 3)), found < 0)


def test_regression_explains_the_quantity_itself():
    images = torch.randn(4, 3, 16, 16)
    one = Returns(lambda y, f: y, classes=1)
    result = explain(adapt(one, task="regression"), images)
    torch.testing.assert_close(result.scores, one(images).detach())
    assert result.targets.tolist() == [[0]] * 4
    three = Returns(lambda y, f: y, classes=3)
    model = adapt(three, task="regression")
    assert isinstance(model, Regressor)
    assert explain(model, images, targets=[2, 0]).scores.shape == (4, 2)
    with pytest.raises(ValueError, match="returns 3 quantities.*give the index"):
        model.predicted(three(images))
    assert adapt(one, task="regression").predicted(one(images)).tolist() == [[0]] * 4


# Taps on entries of outputs ----------------------------------------------------------------------


def outputs_of_every_kind():
    a, b = torch.ones(2), torch.zeros(2)
    yield (a, b), "1"
    yield [a, None, b], "2"
    yield Pair(a, b), "1"
    yield Pair(a, b), "aux"
    yield {"x": a, "out": b}, "out"
    yield OrderedDict(x=a, out=b), "out"
    yield Output(a, b), "features"
    transformers = pytest.importorskip("transformers")
    yield transformers.modeling_outputs.BaseModelOutput(a, (b,)), "last_hidden_state"


def test_an_entry_is_replaced_in_a_copy():
    for output, entry in outputs_of_every_kind():
        layer = Layer(f"block:{entry}", nn.Identity(), entry)
        before = layer.pick(output)
        new = torch.full((2,), 7.0)
        changed = layer.put(output, new)
        assert type(changed) is type(output)
        assert layer.pick(changed) is new
        assert layer.pick(output) is before
        if isinstance(output, tuple) or not isinstance(output, (list, dict, Output)):
            assert len(changed) == len(output)
        if hasattr(output, "last_hidden_state"):
            assert changed.last_hidden_state is new
            assert output.last_hidden_state is before
            assert changed.hidden_states is output.hidden_states


class Tuples(nn.Module):
    """Blocks return tuples, as in older releases of transformers."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, 1, 1)

        def forward(self, x):
            return x + self.conv(x).tanh(), None

    def __init__(self, tuples=True):
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 4, 3, 2, 1), self.Block(), self.Block()
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.b(self.a(self.stem(x))[0])[0].square().mean((2, 3)))


def test_a_tap_on_a_tuple(protect):
    net, images = Tuples().eval(), torch.randn(2, 3, 16, 16)
    check = protect(net)
    result = explain(net, images, ["gradcam", "hirescam"], 2, ["a:0", "b:0"])
    check()
    x = net.a(net.stem(images))[0].detach().requires_grad_()
    y = net.b(x)[0]
    (g,) = torch.autograd.grad(net.head(y.square().mean((2, 3)))[:, 2].sum(), x)
    torch.testing.assert_close(result.maps["hirescam", "a:0"][:, 0], (g * x).sum(1).detach())
    y = y.detach()
    w = net.head.weight[2].detach()[:, None, None]
    torch.testing.assert_close(
        result.maps["hirescam", "b:0"][:, 0], (w * 2 * y * y).sum(1) / y[0, 0].numel()
    )
    assert [k for k in explain(net, images, layers=["?:0"], targets=1).maps] == [
        ("gradcam", "a:0"),
        ("gradcam", "b:0"),
    ]
    names = [row.name for row in list_layers(net, images)]
    assert names == ["stem", "a.conv", "a:0", "b.conv", "b:0"]
    with pytest.raises(ValueError, match=r"returns a tuple of 2 .* name an entry.*'b:0'"):
        explain(net, images, layers="b")
    with pytest.raises(ValueError, match="has no entry '3'; it is a tuple of 2"):
        explain(net, images, layers="b:3")
    with pytest.raises(ValueError, match="not a tensor"):
        explain(net, images, layers="b:1")


def test_perturbing_the_tail_of_a_tuple():
    net, images = Tuples().eval(), torch.randn(2, 3, 16, 16)

    def drop(activations, tail, score):
        return (score - tail(activations * 0))[:, None, None] + 0 * activations.sum(1)

    maps = explain(net, images, drop, 2, ["a:0"]).maps["drop", "a:0"]
    with torch.no_grad():
        empty = net.b(torch.zeros_like(net.stem(images)))[0]
        expected = net(images)[:, 2] - net.head(empty.square().mean((2, 3)))[:, 2]
    torch.testing.assert_close(maps[:, 0, 0, 0], expected)


def test_what_a_submodule_returned_is_listed_once():
    net = nn.ModuleDict({"body": nn.Conv2d(3, 4, 3)})

    class Wrap(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            y = self.inner(x)
            return {"same": y, "new": y * 2}

    net["wrap"] = Wrap()
    seen = observe(net, lambda: net["wrap"](torch.randn(1, 3, 8, 8)))
    assert [(layer.name, shape) for layer, shape in seen] == [
        ("wrap.inner", (1, 4, 6, 6)),
        ("wrap:new", (1, 4, 6, 6)),
    ]


# Semantic segmentation ---------------------------------------------------------------------------


@pytest.fixture
def deeplab(toys):
    body = IntermediateLayerGetter(toys.resnet(), {"layer4": "out", "layer3": "aux"})
    return DeepLabV3(body, DeepLabHead(512, 5, (2, 3, 4)), FCNHead(256, 5)).eval()


def test_a_class_over_its_predicted_pixels(deeplab, protect):
    images = torch.randn(2, 3, 64, 96)
    model = adapt(deeplab)
    assert isinstance(model, SegmentationModel)
    assert model.default_method == "layercam"
    assert model.stages(images) == [f"backbone.layer{i}" for i in (1, 2, 3, 4)]
    check = protect(deeplab)
    result = explain(deeplab, images, ["gradcam", "layercam"], mask_target(3, None))
    check()
    assert {layer for _, layer in result.maps} == {"backbone.layer4"}
    assert result.maps["layercam", "backbone.layer4"].shape == (2, 1, 2, 3)

    x = deeplab.backbone(images)["out"].detach().requires_grad_()
    scores = F.interpolate(deeplab.classifier(x), (64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(result.scores[:, 0], scores[:, 3].sum((1, 2)).detach())
    masks = scores.argmax(1, keepdim=True) == torch.arange(5)[:, None, None]
    seen = masks.sum((2, 3))
    torch.testing.assert_close(
        result.logits, (scores * masks).sum((2, 3)).detach(), rtol=1e-4, atol=1e-2
    )
    winner = int(seen[0].argmax())
    for target, mask in (
        (mask_target(winner), masks[:, winner]),
        (winner, masks[:, winner]),
        (mask_target(winner, None), torch.ones(2, 64, 96)),
        (mask_target(winner, masks[:, winner]), masks[:, winner]),
        (mask_target(winner, masks[0, winner]), masks[0, winner].expand(2, -1, -1)),
    ):
        (g,) = torch.autograd.grad((scores[:, winner] * mask).sum(), x, retain_graph=True)
        expected = (g.relu() * x).sum(1).detach()
        maps = explain(deeplab, images, "layercam", target).maps["layercam", "backbone.layer4"]
        scale = expected.abs().max()
        torch.testing.assert_close(maps[:, 0] / scale, expected / scale, rtol=1e-4, atol=1e-5)


def test_the_four_stages_and_the_dict_of_the_backbone(deeplab):
    images = torch.randn(2, 3, 64, 64)
    result = explain(
        deeplab, images, "layercam", mask_target(2, None), ["backbone.layer?", "backbone:out"]
    )
    grids = {layer: tuple(m.shape[-2:]) for (_, layer), m in result.maps.items()}
    assert grids == {
        "backbone.layer1": (16, 16),
        "backbone.layer2": (8, 8),
        "backbone.layer3": (4, 4),
        "backbone.layer4": (2, 2),
        "backbone:out": (2, 2),
    }
    torch.testing.assert_close(
        result.maps["layercam", "backbone:out"], result.maps["layercam", "backbone.layer4"]
    )


def test_predicted_are_the_two_largest_classes_but_the_background():
    scores = torch.zeros(3, 4, 2, 4)
    scores[0, 3, 0], scores[0, 1, 1, 0], scores[0, 2, 1, 1:3] = 5.0, 6.0, 7.0  # 4, 1, 2 pixels
    scores[1, 2, :, :2] = 1.0  # 4 pixels, the rest is background
    model = SegmentationModel(nn.Conv2d(3, 4, 1), background=0)
    assert model.predicted({"out": scores}).tolist() == [[3, 2], [2, -1], [-1, -1]]
    assert model.candidates({"out": scores})[0].tolist() == [-1, 1, 2, 4]
    assert model.logits({"out": scores}).tolist() == [[0, 6, 14, 20], [0, 0, 4, 0], [0, 0, 0, 0]]
    everything = SegmentationModel(nn.Conv2d(3, 4, 1))  # no class of it is called background
    assert everything.predicted(scores).tolist() == [[3, 2], [0, 2], [0, -1]]
    assert mask_target(3)(scores).tolist() == [20, 0, 0]
    assert mask_target(3, None)(scores).tolist() == [20, 0, 0]
    assert mask_target(1, "predicted", output=1)((None, scores)).tolist() == [6, 0, 0]
    mask = torch.zeros(2, 4)
    mask[1, 0], mask[1, 2] = 1, 0.5
    assert mask_target(1, mask)(scores).tolist() == [6, 0, 0]
    assert mask_target(2, mask)(scores).tolist() == [3.5, 1, 0]


def test_a_mask_of_another_size_is_averaged_onto_the_scores():
    scores = torch.arange(1.0, 5.0).view(1, 1, 2, 2)
    fine = torch.zeros(4, 4, dtype=torch.bool)
    fine[0, 0] = fine[2:, 2:] = True  # a quarter of the first cell, all of the last
    assert mask_target(0, fine)(scores).item() == 1 * 0.25 + 4


def test_masks_of_images_follow_their_rows():
    scores = torch.ones(3, 2, 2, 2)
    masks = torch.stack([torch.zeros(2, 2), torch.ones(2, 2), torch.eye(2)])
    target = mask_target(1, masks)
    assert target.per_image
    assert target(scores).tolist() == [0, 4, 2]
    assert target(scores[:2], rows=[2, 1]).tolist() == [2, 4]
    with pytest.raises(ValueError, match="3 masks for 2 images"):
        target(scores[:2])
    assert not mask_target(1, masks[0]).per_image


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mask_target(-1), "class_index must be an integer from 0"),
        (lambda: mask_target(1, "all"), "mask: 'all' is unknown; choose 'predicted', None"),
        (lambda: mask_target(1, torch.ones(3)), r"mask must have shape \(H, W\) or \(N, H, W\)"),
        (lambda: mask_target(7)(torch.ones(1, 3, 2, 2)), "out of range; the model has 3 classes"),
        (lambda: mask_target(1)(torch.ones(2, 3)), r"a tensor of shape \(2, 3\), not class scores"),
        (
            lambda: mask_target(1, output="x")({"out": torch.ones(1, 3, 2, 2)}),
            r"output: 'x' has no 'x'.*entries out \(1, 3, 2, 2\)",
        ),
    ],
)
def test_masks_that_are_not_understood(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_segformer(protect):
    """Stages of tokens and of maps; logits at a quarter of the resolution."""
    t = pytest.importorskip("transformers")
    config = t.SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        num_labels=5,
    )
    net, images = t.SegformerForSemanticSegmentation(config).train(), torch.randn(2, 3, 64, 96)
    net(images)  # transformers registers hooks of its own at the first forward
    check = protect(net)
    model = adapt(net)
    assert isinstance(model, SegmentationModel)
    (layer,) = model.default_layers(images)
    result = explain(net, images, ["layercam", "gradcam"], mask_target(3, None))
    check()
    stages = model.stages(images)
    assert [s.split(".")[:3] for s in stages] == [["segformer", "stages", str(i)] for i in range(4)]
    assert layer == stages[-1]
    net.eval()
    kept = {}

    def keep(module, args, output):
        output.retain_grad()
        kept["out"] = output

    handle = net.get_submodule(layer).register_forward_hook(keep)
    out = net(images).logits
    handle.remove()
    assert out.shape == (2, 5, 16, 24)
    out[:, 3].sum().backward()
    torch.testing.assert_close(result.scores[:, 0], out[:, 3].sum((1, 2)).detach())
    x, g = kept["out"], kept["out"].grad
    expected = (g.relu() * x).detach()
    expected = expected.sum(1) if x.dim() == 4 else expected.sum(2).view(2, 2, 3)
    torch.testing.assert_close(
        result.maps["layercam", layer][:, 0] / expected.max(), expected / expected.max()
    )
    grids = explain(net, images, "layercam", mask_target(3, None), stages).maps.values()
    assert [tuple(m.shape[-2:]) for m in grids] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_a_network_of_ones_own_is_said_to_segment():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 3, 1))
    images = torch.randn(2, 3, 8, 8)
    result = explain(adapt(net, task="segmentation"), images, "hirescam", mask_target(2, None))
    x = net[1](net[0](images)).detach()
    assert list(result.maps) == [("hirescam", "2")]
    early = explain(net, images, "hirescam", mask_target(2, None), "1").maps["hirescam", "1"]
    w = net[2].weight.detach()[2]
    torch.testing.assert_close(early[:, 0], (w * x).sum(1))


# Zero-shot classification ------------------------------------------------------------------------


def clip():
    t = pytest.importorskip("transformers")
    text = dict(SMALL, vocab_size=50, max_position_embeddings=8, bos_token_id=1, eos_token_id=2)
    vision = dict(SMALL, image_size=(64), patch_size=16)
    return t.CLIPModel(t.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))


def siglip():
    t = pytest.importorskip("transformers")
    text = dict(SMALL, vocab_size=50, max_position_embeddings=8)
    vision = dict(SMALL, image_size=64, patch_size=16)
    net = t.SiglipModel(t.SiglipConfig(text_config=text, vision_config=vision))
    with torch.no_grad():
        net.logit_scale.fill_(1.5)
        net.logit_bias.fill_(-0.7)
    return net


def open_clip(**vision):
    vision = {
        "image_size": 64,
        "layers": 2,
        "width": 64,
        "patch_size": 16,
        "head_width": 32,
    } | vision
    text = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
    return pytest.importorskip("open_clip").CLIP(16, vision, text)


def own_logits(net, images, tokens):
    """What the network itself computes from images and texts."""
    if hasattr(net, "get_logits"):
        return net.get_logits(images, tokens)[0]
    return net(pixel_values=images, input_ids=tokens).logits_per_image


@pytest.mark.parametrize(
    ("make", "layer", "grid"),
    [
        (clip, "vision_model.encoder.layers.1.layer_norm1", (4, 4)),
        (siglip, "vision_model.encoder.layers.1", (4, 4)),
        (open_clip, "visual.transformer.resblocks.1.ln_1", (4, 4)),
        (
            lambda: open_clip(layers=[1, 1, 1, 1], width=16, patch_size=None),
            "visual.layer4",
            (2, 2),
        ),
    ],
    ids=["clip", "siglip", "open_clip", "open_clip_resnet"],
)
def test_zero_shot(protect, make, layer, grid):
    net, images = make().train(), torch.randn(2, 3, 64, 64)
    tokens = torch.randint(3, 50, (4, 8))
    tokens[:, -1] = 2
    texts = encode_texts(net.eval(), tokens)
    net.train()
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(4))
    assert not texts.requires_grad
    check = protect(net)
    model = adapt(net, text_features=texts)
    assert isinstance(model, ZeroShotClassifier)
    assert model.default_layers(images) == [layer]
    result = explain(model, images, ["gradcam", "gradcam_elementwise", "eigencam"], [0, 3])
    check()
    assert model.default_method == (
        "gradcam" if layer == "visual.layer4" else "gradcam_elementwise"
    )
    net.eval()
    kept = {}

    def keep(module, args, output):
        output.retain_grad()
        kept["out"] = output

    handle = net.get_submodule(layer).register_forward_hook(keep)
    truth = own_logits(net, images, tokens)
    handle.remove()
    torch.testing.assert_close(result.logits, truth.detach(), rtol=1e-4, atol=1e-4)
    truth[:, 3].sum().backward()
    x, g = kept["out"].detach(), kept["out"].grad
    if x.dim() == 3:
        x, g = ((t[:, -16:].transpose(1, 2).unflatten(2, grid)) for t in (x, g))
    expected = (g.mean((2, 3), keepdim=True) * x).sum(1)
    maps = result.maps["gradcam", layer]
    assert maps.shape == (2, 2, *grid)
    scale = expected.abs().max()
    assert scale > 0
    torch.testing.assert_close(maps[:, 1] / scale, expected / scale, rtol=1e-3, atol=1e-4)


def test_prompts_of_a_class_are_averaged():
    net = clip().eval()
    texts = F.normalize(torch.randn(3, 2, 16), dim=-1)
    outputs = torch.randn(2, 16)
    model = ZeroShotClassifier(net, 5 * texts, scale=2.0)
    middle = texts.sum(1) / texts.sum(1).norm(dim=1, keepdim=True)
    expected = 2 * torch.cosine_similarity(outputs[:, None], middle[None], dim=-1)
    torch.testing.assert_close(model.logits(outputs), expected)


def test_any_image_tower_can_be_given():
    net = Returns(lambda y, f: y, classes=7)
    texts, images = torch.randn(3, 7), torch.randn(2, 3, 16, 16)
    model = adapt(net, text_features=texts, encode_image=net)
    result = explain(model, images, "gradcam", 1)
    expected = torch.cosine_similarity(net(images)[:, None], texts[None], dim=-1)
    torch.testing.assert_close(result.logits, expected.detach())
    with pytest.raises(ValueError, match="encode_image: Returns has neither"):
        adapt(net, text_features=texts)
    with pytest.raises(ValueError, match=r"text_features must be .* got \(7,\)"):
        adapt(net, text_features=texts[0], encode_image=net)
    with pytest.raises(ValueError, match="text_features have 6 components, the image features 7"):
        explain(adapt(net, text_features=texts[:, :6], encode_image=net), images, layers="conv")
    with pytest.raises(ValueError, match="encode the texts yourself"):
        encode_texts(net, torch.zeros(1, 3).long())


def test_a_network_without_texts_has_no_classes():
    net = clip()
    images = torch.randn(2, 3, 64, 64)
    with pytest.raises(ValueError, match="CLIPModel has no classes without texts"):
        explain(net, images)
    direction = torch.randn(16)
    result = explain(net, images, "gradcam", similarity_target(direction))
    features = net.get_image_features(pixel_values=images).pooler_output
    torch.testing.assert_close(
        result.scores[:, 0], torch.cosine_similarity(features, direction[None]).detach()
    )


class Sequence(nn.Module):
    """The original CLIP's order of dimensions: (L, N, C) inside the transformer."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = nn.MultiheadAttention(16, 2)
            self.ln_1 = nn.LayerNorm(16)

        def forward(self, x):
            y = self.ln_1(x)
            return x + self.attn(y, y, y, need_weights=False)[0]

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 16, 16)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.ln_pre = nn.LayerNorm(16)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.Sequential(self.Block(), self.Block())
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.conv1(x).flatten(2).transpose(1, 2)
        x = self.ln_pre(torch.cat([self.token.expand(len(x), -1, -1), x], 1))
        x = self.transformer.resblocks(x.permute(1, 0, 2)).permute(1, 0, 2)
        return self.head(x[:, 0])


@pytest.mark.parametrize("count", [2, 6, 7, 9])  # with 7 images a batch is as long as the tokens
def test_tokens_in_the_first_dimension(count):
    net, images = Sequence().eval(), torch.randn(count, 3, 32, 48)
    layer = "transformer.resblocks.1.ln_1"
    result = explain(net, images, ["gradcam", "hirescam"], 2)
    assert {key[1] for key in result.maps} == {layer}
    single = [explain(net, images[i : i + 1], "hirescam", 2, layer) for i in range(count)]
    torch.testing.assert_close(
        result.maps["hirescam", layer],
        torch.cat([one.maps["hirescam", layer] for one in single]),
    )
    kept = {}
    handle = net.get_submodule(layer).register_forward_hook(
        lambda m, a, o: (o.retain_grad(), kept.update(out=o))[0]
    )
    net(images)[:, 2].sum().backward()
    handle.remove()
    x, g = kept["out"].detach(), kept["out"].grad
    expected = (x * g).sum(2)[1:].T.reshape(count, 2, 3)
    torch.testing.assert_close(result.maps["hirescam", layer][:, 0], expected)


# Embeddings --------------------------------------------------------------------------------------


def dinov2():
    t = pytest.importorskip("transformers")
    return t.Dinov2Model(
        t.Dinov2Config(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14
        )
    )


def timm_headless():
    return pytest.importorskip("timm").create_model(
        "vit_small_patch14_reg4_dinov2",
        pretrained=False,
        img_size=(56, 84),
        depth=2,
        embed_dim=32,
        num_heads=2,
        num_classes=0,
    )


class DinoVisionTransformer(nn.Module):
    """As torch hub's: a headless network that returns its normed class token."""

    def __init__(self):
        super().__init__()
        self.body, self.head = Sequence(), nn.Identity()
        self.body.head = nn.LayerNorm(16)

    def forward(self, x):
        return self.head(self.body(x))


@pytest.mark.parametrize(
    ("make", "size", "layer", "grid", "embed"),
    [
        (
            dinov2,
            (56, 84),
            "encoder.layer.1.norm1",
            (4, 6),
            lambda out: out.last_hidden_state[:, 0],
        ),
        (timm_headless, (56, 84), "blocks.1.norm1", (4, 6), lambda out: out),
        (
            DinoVisionTransformer,
            (32, 48),
            "body.transformer.resblocks.1.ln_1",
            (2, 3),
            lambda out: out,
        ),
    ],
    ids=["dinov2", "timm", "torch_hub"],
)
def test_similar_to_this_image(protect, make, size, layer, grid, embed):
    net, images = make().train(), torch.randn(3, 3, *size)
    check = protect(net)
    assert isinstance(adapt(net), EmbeddingModel)
    assert adapt(net).default_method in ("gradcam", "gradcam_elementwise")
    with pytest.raises(ValueError, match="predicts no class; pass targets=similarity_target"):
        explain(net, images)
    net.eval()
    with torch.no_grad():
        vectors = embed(net(images))
    net.train()
    direction, mean = torch.randn(vectors.shape[1]), vectors.mean(0)
    targets = [similarity_target(vectors[0]), component_target(direction, mean)]
    result = explain(net, images, ["gradcam_elementwise", "eigencam"], targets)
    check()
    assert {key[1] for key in result.maps} == {layer}
    assert result.maps["gradcam_elementwise", layer].shape == (3, 2, *grid)
    assert (result.maps["gradcam_elementwise", layer][1:].abs().amax((2, 3)) > 0).all()
    assert result.logits is None
    similar = (vectors @ vectors[0]) / vectors.norm(dim=1) / vectors[0].norm()
    torch.testing.assert_close(result.scores[:, 0], similar)
    assert result.scores[0, 0] == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(
        result.scores[:, 1], (vectors - mean) @ direction / direction.norm(), rtol=1e-4, atol=1e-5
    )


def test_embeddings_are_found_in_what_a_model_returns():
    tokens, maps = torch.randn(2, 5, 8), torch.randn(2, 8, 3, 3)
    target = component_target(torch.eye(8)[3])
    first, mean = tokens[:, 0, 3], maps[:, 3].mean((1, 2))
    for outputs, expected in (
        (tokens[:, 0], first),
        (tokens, first),
        (maps, mean),
        ({"pooler_output": tokens[:, 0], "last_hidden_state": tokens + 1}, first),
        ({"last_hidden_state": tokens}, first),
        ({"x_norm_clstoken": tokens[:, 0], "x_norm_patchtokens": tokens}, first),
        ((tokens[:, 0], maps), first),
    ):
        torch.testing.assert_close(target(outputs), expected)
    torch.testing.assert_close(
        component_target(torch.eye(8)[3], output="x.1")({"x": [0, maps]}), mean
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: similarity_target(torch.zeros(4)), "embedding must be finite and not zero"),
        (lambda: similarity_target(torch.ones(2, 4)), r"shape \(D,\), got \(2, 4\)"),
        (lambda: similarity_target([1.0]), r"shape \(D,\), got list"),
        (lambda: component_target(torch.ones(4) * torch.nan), "direction must be finite"),
        (lambda: component_target(torch.ones(4), torch.ones(3)), "mean has 3 components"),
        (
            lambda: similarity_target(torch.ones(4))(torch.ones(2, 5)),
            "embedding has 5 components, the embedding has 4; .* same model",
        ),
        (lambda: similarity_target(torch.ones(4))({"x": 3}), "a dict with entries x int"),
    ],
)
def test_directions_that_are_not_understood(call, message):
    with pytest.raises(ValueError, match=message):
        call()
