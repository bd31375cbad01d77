"""Zero-shot detectors from tiny configs: against their own outputs, finite differences, one text pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks import networks
from cam_core import adapt, cam_method, detect, explain, explain_objects
from cam_core.adapters.zero_shot_detection import ZeroShotDetector, columns_of_tokens

pytest.importorskip("transformers")

NETWORKS = {"owlvit": 64, "grounding_dino": 128, "llmdet": 128, "omdet": 64}


@cam_method(paper="none")
def plain_gradient(gradients):
    """The gradient summed over channels."""
    return gradients.sum(1)


@pytest.fixture(scope="module", params=list(NETWORKS))
def pair(request) -> tuple[ZeroShotDetector, torch.Tensor]:
    net = getattr(networks, request.param)()
    side = NETWORKS[request.param]
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    return ZeroShotDetector(net, *networks.asked(net), confidence=0.001), images


def called(model: ZeroShotDetector, images: torch.Tensor):
    """The network itself, with the texts repeated by hand."""
    texts = {k: torch.cat([v] * len(images)) for k, v in model.texts.items()}
    with torch.no_grad():
        return model.module(pixel_values=images, **texts)


def test_candidates_are_the_networks_own(pair):
    model, images = pair
    with torch.no_grad():
        found = model.forward(images)
        again = model.forward(images[1:])
    raw = called(model, images)
    logits = getattr(raw, "logits", getattr(raw, "decoder_class_logits", None))
    columns = model.columns or [[0], [1]]
    for k, own in enumerate(columns):
        expected = logits[..., own].amax(-1)
        mine = torch.stack([c.logits[:, k] for c in found.candidates])
        torch.testing.assert_close(mine, expected, atol=1e-4, rtol=1e-4)
    # the text was encoded for two images first, and remembered for one
    torch.testing.assert_close(
        again.candidates[0].logits, found.candidates[1].logits, atol=1e-4, rtol=1e-4
    )
    boxes = found.candidates[0].boxes
    assert boxes.shape[1] == 4
    assert (boxes[:, 2:] >= boxes[:, :2]).all()


def test_the_text_tower_runs_once_and_stays_as_it_was(pair):
    model, images = pair
    model._answers.clear()
    path = {"Owl": "owlvit.text_model.encoder", "Gro": "model.text_backbone.encoder"}.get(
        type(model.module).__name__[:3].replace("MMG", "Gro")
    )
    if path is None:
        pytest.skip("it remembers its texts itself")
    tower, calls = model.module.get_submodule(path), []
    handle = tower.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        for _ in range(3):
            model.forward(images)
    handle.remove()
    assert len(calls) == 1
    assert "forward" not in model.module.get_submodule(path.rpartition(".")[0]).__dict__


def test_maps_of_both_texts_differ_and_the_network_is_restored(pair):
    model, images = pair
    called(model, images)  # transformers installs hooks of its own
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    hooks = [len(m._forward_hooks) for m in model.module.modules()]
    result = explain(model, images[:1], ["layercam", plain_gradient], [0, 1])
    assert result.valid.all()
    assert any(
        bool((m[:, 0] - m[:, 1]).abs().max() > 0)
        for (method, _), m in result.maps.items()
        if method == "plain_gradient"
    )
    assert all(torch.equal(v, before[k]) for k, v in model.module.state_dict().items())
    assert not any(p.grad is not None for p in model.module.parameters())
    assert [len(m._forward_hooks) for m in model.module.modules()] == hooks


def test_the_gradient_is_the_scores_own(pair):
    """A small step along the gradient changes the score by its squared length."""
    model, images = pair
    image = images[:1]
    layer = model.default_layers(image)[-1]
    result = explain(model, image, plain_gradient, [0], [layer])
    module = model.module.get_submodule(layer)
    assert isinstance(module, nn.Module)
    (gradient,) = result.maps.values()

    def shifted(step: float) -> float:
        def add(module, args, output):
            tokens = output[0] if isinstance(output, tuple) else output
            grid = model.grid(layer, tuple(tokens.shape), tuple(image.shape[-2:]))
            maps = grid.to_maps(tokens) + step * direction
            moved = grid.from_maps(maps, tokens)
            return (moved, *output[1:]) if isinstance(output, tuple) else moved

        handle = module.register_forward_hook(add)
        try:
            with torch.no_grad():
                return float(model.logits(model.forward(image))[0, 0])
        finally:
            handle.remove()

    # All channels alike, so that the map, their sum, is the derivative at each place.
    direction = gradient[:, 0][:, None]
    slope = (shifted(1e-3) - shifted(-1e-3)) / 2e-3
    assert slope == pytest.approx(float((gradient**2).sum()), rel=0.05, abs=1e-4)


def test_objects_are_found_and_explained(pair):
    model, images = pair
    found = detect(model, images)
    assert all(len(d.boxes) for d in found)
    result = explain_objects(model, images, most=2)
    assert result.maps[model.default_method].shape[:2] == (2, 2)
    assert (result.objects[:, 0] == 0).all()
    assert result.labels[:, 0].min() >= 0


def test_without_texts_it_says_what_to_do():
    model = adapt(networks.owlvit())
    assert isinstance(model, ZeroShotDetector)
    with pytest.raises(ValueError, match="finds what it is asked for in words"):
        model.forward(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="to tensors, and none is there"):
        ZeroShotDetector(model.module, {"words": "cat"})
    with pytest.raises(ValueError, match="each class needs at least one column"):
        ZeroShotDetector(model.module, {"input_ids": torch.ones(1, 3)}, [[0], []])


def test_columns_of_tokens():
    ids = [101, 5, 6, 1012, 5, 1012, 102]
    assert columns_of_tokens(ids, [[5, 6], [5]]) == [[1, 2], [4]]
    with pytest.raises(ValueError, match="prompt 2 is not found"):
        columns_of_tokens(ids, [[5, 6], [7]])
    with pytest.raises(ValueError, match="prompt 1 is not found"):
        columns_of_tokens(ids, [[]])
