"""How a layer's output lies on the image, and which methods a function may become."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cam_core import Grid, cam_method, explain, list_methods
from cam_core.layers.find import find_layers
from cam_core.layers.grid import infer_grid
from cam_core.methods.catalogue import resolve_methods

GRIDS = [
    ((2, 512, 7, 7), (224, 224), Grid("NCHW", 7, 7)),
    ((2, 7, 7, 768), (224, 224), Grid("NHWC", 7, 7)),
    ((2, 56, 56, 96), (224, 224), Grid("NHWC", 56, 56)),
    ((2, 96, 56, 56), (224, 224), Grid("NCHW", 56, 56)),
    ((2, 7, 7, 7), (224, 224), Grid("NCHW", 7, 7)),
    ((2, 64, 8, 12), (64, 96), Grid("NCHW", 8, 12)),
    ((2, 8, 12, 64), (64, 96), Grid("NHWC", 8, 12)),
    ((2, 197, 768), (224, 224), Grid("NLC", 14, 14, 1)),
    ((2, 198, 192), (224, 224), Grid("NLC", 14, 14, 2)),
    ((2, 196, 192), (224, 224), Grid("NLC", 14, 14, 0)),
    ((2, 201, 384), (224, 224), Grid("NLC", 14, 14, 5)),
    ((2, 512, 1, 1), (224, 224), None),
    ((2, 1000), (224, 224), None),
    ((2, 1, 768), (224, 224), None),
    ((2, 3, 8, 7, 7), (224, 224), None),
]


@pytest.mark.parametrize(("shape", "size", "grid"), GRIDS)
def test_infer_grid(shape, size, grid):
    assert infer_grid(shape, size) == grid


def test_a_known_token_grid_wins_over_the_square():
    assert infer_grid((2, 19, 64), (48, 96), (3, 6)) == Grid("NLC", 3, 6, 1)
    assert infer_grid((2, 17, 64), (48, 96), (3, 6)) is None  # fewer tokens than patches


@pytest.mark.parametrize(
    ("shape", "options", "grid"),
    [
        ((2, 384, 16), {}, Grid("NLC", 16, 24)),
        ((2, 96, 16), {}, Grid("NLC", 8, 12)),
        ((2, 25, 16), {}, Grid("NLC", 4, 6, 1)),  # a class token in a later stage
        ((2, 6, 16), {}, Grid("NLC", 2, 3)),
        ((2, 7, 16), {"pyramid": False}, None),
        ((2, 90, 16), {}, None),
        ((2, 95, 16), {}, None),
        ((2, 2, 16), {}, Grid("NLC", 1, 2)),
        ((2, 1, 16), {}, None),
    ],
)
def test_tokens_that_are_merged_from_stage_to_stage(shape, options, grid):
    """A patch of 4 on 64 x 96; odd rows are padded: 16 x 24, 8 x 12, 4 x 6, 2 x 3, 1 x 2."""
    assert infer_grid(shape, (64, 96), (16, 24), **{"pyramid": True} | options) == grid


def test_tokens_of_an_unknown_patch_follow_the_images_shape():
    assert infer_grid((2, 25, 8), (64, 96)) == Grid("NLC", 4, 6, 1)
    assert infer_grid((2, 24, 8), (96, 64)) == Grid("NLC", 6, 4)
    assert infer_grid((2, 50, 8), (224, 224)) == Grid("NLC", 7, 7, 1)


def test_tokens_in_the_first_dimension():
    shape = (25, 25, 8)
    assert infer_grid(shape, (64, 96), (4, 6)) == Grid("NLC", 4, 6, 1)
    grid = infer_grid(shape, (64, 96), (4, 6), tokens_first=True)
    assert grid == Grid("LNC", 4, 6, 1)
    assert infer_grid((3, 25, 8), (64, 96), (4, 6), tokens_first=True) == Grid("NLC", 4, 6, 1)
    tokens = torch.arange(7.0).view(7, 1, 1).expand(7, 2, 1)
    grid = Grid("LNC", 2, 3, 1)
    assert grid.to_maps(tokens).tolist() == [[[[1, 2, 3], [4, 5, 6]]]] * 2
    assert torch.equal(grid.from_maps(grid.to_maps(tokens) * 2, tokens)[1:], tokens[1:] * 2)
    assert torch.equal(grid.from_maps(grid.to_maps(tokens) * 2, tokens)[0], tokens[0])


def test_a_shape_that_could_be_either():
    shape = (2, 24, 24, 24)
    assert infer_grid(shape, (96, 96)) == Grid("NCHW", 24, 24)
    assert infer_grid(shape, (96, 96), channels_last=True) == Grid("NHWC", 24, 24)
    assert infer_grid((2, 96, 24, 24), (96, 96), channels_last=True) == Grid("NCHW", 24, 24)


def test_attention_is_no_map():
    """(N, heads, L, D): near square, but no stride makes 50 rows and 40 columns of 224 pixels."""
    assert infer_grid((1, 8, 50, 40), (224, 224)) is None
    assert infer_grid((1, 8, 50, 49), (224, 224)) == Grid("NCHW", 50, 49)
    # unpadded stems lose some cells at the borders
    assert infer_grid((1, 8, 35, 22), (299, 200)) == Grid("NCHW", 35, 22)


@pytest.mark.parametrize(("shape", "grid"), [(s, g) for s, _, g in GRIDS if g is not None])
def test_to_maps_and_back(shape, grid):
    output = torch.randn(shape)
    maps = grid.to_maps(output)
    assert maps.shape[0] == 2
    assert maps.shape[2:] == (grid.height, grid.width)
    assert torch.equal(grid.from_maps(maps, output), output)
    changed = grid.from_maps(torch.zeros_like(maps), output)
    assert changed.count_nonzero() == (
        output[:, : grid.prefix].count_nonzero() if grid.prefix else 0
    )
    assert grid.from_maps(maps.double(), output).dtype is output.dtype


def test_tokens_are_laid_out_row_by_row():
    tokens = torch.arange(7.0).view(1, 7, 1)
    assert Grid("NLC", 2, 3, 1).to_maps(tokens).tolist() == [[[[1, 2, 3], [4, 5, 6]]]]


def test_find_layers_keeps_the_order_and_says_each_once():
    net = nn.ModuleDict({"a": nn.ReLU(), "b": nn.Sequential(nn.ReLU(), nn.ReLU())})
    names = [layer.name for layer in find_layers(net, ["b.1", "a", "*", net["a"], "b.*"])]
    assert names == ["b.1", "a", "b", "b.0"]


# Registration ------------------------------------------------------------------------------------


def test_the_decorator_reads_the_signature():
    @cam_method(paper="mine", signed=False)
    def mine(gradients, activations, rng, *, power=2.0):
        """One line.

        More.
        """

    info = mine.cam_info
    assert (info.name, info.family, info.paper, info.summary) == (
        "mine",
        "custom",
        "mine",
        "One line.",
    )
    assert info.needs == ("gradients", "activations", "rng")
    assert dict(info.options) == {"power": 2.0}
    assert (info.needs_backward, info.signed, info.class_discriminative) == (True, False, True)
    assert info.cost == "1F+1B"
    assert "mine" not in [m.name for m in list_methods()]


def unknown_ingredient(activation):
    pass


def no_ingredient():
    pass


def no_default(activations, *, power):
    pass


def stars(*activations):
    pass


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (unknown_ingredient, "activation is not an ingredient; choose from activations, gradients"),
        (no_ingredient, "no argument is not an ingredient"),
        (no_default, "option 'power' needs a default"),
        (stars, "name no ingredient"),
    ],
)
def test_functions_that_are_no_method(function, message):
    with pytest.raises(TypeError, match=message):
        cam_method(function)
    with pytest.raises(TypeError, match=message):
        explain(nn.Sequential(nn.Conv2d(3, 2, 1)), torch.zeros(1, 3, 4, 4), function)


def test_keys_tell_options_apart():
    def keys(methods):
        return [m.key for m in resolve_methods(methods)]

    assert keys("gradcam") == ["gradcam"]
    assert keys(("eigencam", {"component": 2})) == ["eigencam"]
    assert keys(["eigencam", ("eigencam", {"component": 2})]) == ["eigencam", "eigencam_component2"]
    assert keys([("fem", {"k": 1.5}), ("fem", {"k": 2.5}), "cam"]) == [
        "fem_k1_5",
        "fem_k2_5",
        "cam",
    ]
    assert keys([lambda activations: activations.sum(1)]) == ["lambda"]
    assert all(key.isidentifier() for key in keys([("fem", {"k": -1.5}), ("fem", {"k": 2.5})]))


def test_two_functions_of_one_name_are_refused():
    def make():
        def mine(activations):
            return activations.sum(1)

        return mine

    with pytest.raises(ValueError, match="methods: 'mine' is given twice"):
        resolve_methods([make(), make()])
