"""A bright square is found where it is, in networks made at random, or the layer is refused.

The networks measure brightness, so that their heat has to lie where the picture is bright, whatever
their strides, paddings, token orders, crops and mirrors make of the picture on its way.
"""

import functools
import math
import os

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from torch import nn

from cam_core import adapt, explain, list_layers

# 500 were run when this was written: CAM51_EXAMPLES=500
EXAMPLES = int(os.environ.get("CAM51_EXAMPLES", 25))
many = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    database=None,
    suppress_health_check=list(HealthCheck),
)


class Brightness(nn.Module):
    """Convolutions that average what they see."""

    def __init__(self, steps):
        super().__init__()
        self.features = nn.Sequential()
        channels = 3
        for kernel, stride, padding in steps:
            conv = nn.Conv2d(channels, 2, kernel, stride, padding)
            nn.init.constant_(conv.weight, 1 / conv.weight[0].numel())
            nn.init.zeros_(conv.bias)
            self.features.extend([conv, nn.ReLU()])
            channels = 2
        self.head = head(2)

    def forward(self, images):
        return self.head(self.features(images).mean((2, 3)))


class Tokens(nn.Module):
    """Patches in any order, with other tokens anywhere between them."""

    def __init__(self, patch, order, places, blocks=2):
        super().__init__()
        self.patch, self.order, self.places = patch, order, places
        self.embed = nn.Linear(3 * patch[0] * patch[1], 8)
        with torch.no_grad():
            nn.init.constant_(self.embed.weight, 1 / self.embed.in_features)
            nn.init.zeros_(self.embed.bias)
        self.other = nn.Parameter(torch.randn(len(places), 8) * 0.1)
        self.blocks = nn.ModuleList(Block(8) for _ in range(blocks))
        self.head = head(8)

    def forward(self, images):
        cut = F.unfold(images, self.patch, stride=self.patch).transpose(1, 2)
        x = self.embed(cut)[:, self.order]
        for place, token in zip(self.places, self.other, strict=True):
            x = torch.cat([x[:, :place], token.expand(len(x), 1, -1), x[:, place:]], 1)
        for block in self.blocks:
            x = block(x)
        keep = torch.ones(x.shape[1], dtype=torch.bool)
        keep[list(self.places)] = False
        return self.head(x[:, keep].mean(1))


class Block(nn.Module):
    """What a transformer's block does, mostly passing on what came in."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x):
        y = self.norm(x)
        return x + 0.05 * self.attn(y, y, y, need_weights=False)[0]


class Wrapped(nn.Module):
    """Another network behind a pipeline of its own."""

    def __init__(self, inner, change):
        super().__init__()
        self.inner, self.change = inner, change

    def forward(self, images):
        return self.inner(self.change(images))


class Reference(nn.Module):
    """Compares the image with a fixed picture, which has a bright square of its own."""

    def __init__(self, inner, size, first):
        super().__init__()
        self.inner, self.first = inner, first
        self.register_buffer("picture", square(size, (0.8, 0.2)))

    def forward(self, images):
        other = self.picture.expand_as(images)
        pair = (images, other) if self.first else (other, images)
        one, two = (self.inner(x) for x in pair)
        return one + two


class Copies(nn.Module):
    """Test-time augmentation: the mean over an image and a changed copy."""

    def __init__(self, inner, change):
        super().__init__()
        self.inner, self.change = inner, change

    def forward(self, images):
        return (self.inner(images) + self.inner(self.change(images))) / 2


def head(width):
    layer = nn.Linear(width, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0], [-1.0]]).expand(2, width))
        layer.bias.zero_()
    return layer


def square(size, centre, side=0.16):
    """A dark picture (1, 3, H, W) with a bright square around (x, y), in shares of its sides."""
    picture = torch.full((1, 3, *size), 0.02)
    (height, width), (x, y) = size, centre
    top, bottom = round((y - side / 2) * height), round((y + side / 2) * height)
    left, right = round((x - side / 2) * width), round((x + side / 2) * width)
    picture[..., max(0, top) : max(1, bottom), max(0, left) : max(1, right)] = 1.0
    return picture


def centre_of(picture):
    """(x, y) of the bright pixels, in pixels."""
    rows, columns = torch.nonzero(picture[0, 0] > 0.5, as_tuple=True)
    return float(columns.float().mean()) + 0.5, float(rows.float().mean()) + 0.5


def found_at(heat):
    """(x, y) of the middle of what is nearly as hot as the hottest pixel, in pixels; bicubic steps overshoot."""
    rows, columns = torch.nonzero(heat >= 0.8 * heat.max(), as_tuple=True)
    return float(columns.float().mean()) + 0.5, float(rows.float().mean()) + 0.5


def check(net, size, centre, layer, method="hirescam", seen=None, reach=(0, 0)):
    """Explains the square; it has to be found, unless the layer is refused, which is returned.

    With ``seen``, (H, W) bool, only what the network sees of the square counts. Cells that see more than
    the square are all as hot, as far away as their ``reach`` (x, y).
    """
    picture = square(size, centre)
    try:
        result = explain(net.eval(), picture, method, targets=0, layers=layer)
    except ValueError as error:
        return str(error)
    (key,) = result.maps
    place = result.places[key[1]]
    left, top, right, bottom = place.extent.cells
    cell = (
        (right - left) * size[1] / result.maps[key].shape[-1],
        (bottom - top) * size[0] / result.maps[key].shape[-2],
    )
    heat = result.heatmaps()[key][0, 0]
    # Around the cells the heat of the outermost ones goes on; it would move the middle of what is hot.
    rows, columns = (torch.arange(n) + 0.5 for n in size)
    here = (rows >= top * size[0]) & (rows <= bottom * size[0])
    beside = (columns >= left * size[1]) & (columns <= right * size[1])
    heat = heat.where(here[:, None] & beside, torch.zeros(()))
    if seen is not None:
        picture = picture * seen
    (x, y), (wanted_x, wanted_y) = found_at(heat), centre_of(picture)
    # Half a cell that an assumed place may be off, and what a cell's grid makes of a square's centre.
    assert abs(x - wanted_x) <= max(cell[0], 2, reach[0]), (x, wanted_x, cell, place)
    assert abs(y - wanted_y) <= max(cell[1], 2, reach[1]), (y, wanted_y, cell, place)
    return None


steps = st.lists(
    st.tuples(
        st.tuples(st.sampled_from([1, 2, 3, 5]), st.sampled_from([1, 2, 3, 5])),
        st.tuples(st.sampled_from([1, 2]), st.sampled_from([1, 2])),
        st.sampled_from([0, 1, 2]),
    ).filter(lambda s: s[2] <= min(s[0]) // 2),
    min_size=1,
    max_size=4,
)
sizes = st.tuples(st.sampled_from([48, 64, 75]), st.sampled_from([48, 64, 90]))
centres = st.tuples(st.floats(0.25, 0.75), st.floats(0.25, 0.75))


@many
@given(steps, sizes, centres)
def test_convolutions_of_any_stride_and_padding(steps, size, centre):
    assume(fits(steps, size))
    net = Brightness(steps).eval()
    fields = [receptive_field(steps, axis) for axis in (0, 1)]
    reach = [width / 2 for _, _, width in reversed(fields)]
    assert check(net, size, centre, "features", reach=reach) is None
    result = explain(net, square(size, centre), "hirescam", targets=0, layers="features")
    left, top, right, bottom = result.places["features"].extent.cells
    shape = result.maps["hirescam", "features"].shape[-2:]
    for (first, step, _), low, high, count, extent in zip(
        fields, (top, left), (bottom, right), shape, size, strict=True
    ):
        for cell in (0, count - 1):
            place = (low + (cell + 0.5) * (high - low) / count) * extent
            # a grid that tiles the input as everybody draws it may be up to half a cell off
            assert abs(place - (first + cell * step)) <= 0.56 * (high - low) / count * extent + 0.5


def receptive_field(steps, axis):
    """The middle of the first cell, the distance of two, and the width of what one sees, in pixels."""
    first, step, width = 0.5, 1, 1
    for kernel, stride, padding in steps:
        first += ((kernel[axis] - 1) / 2 - padding) * step
        width += (kernel[axis] - 1) * step
        step *= stride[axis]
    return first, step, width


def fits(steps, size):
    """Whether a picture is large enough for all kernels, and for more than one cell after them."""
    for kernel, stride, padding in steps:
        size = [
            (n + 2 * padding - k) // s + 1 for n, k, s in zip(size, kernel, stride, strict=True)
        ]
    return min(size) > 2


def crop(share, images):
    h, w = images.shape[-2:]
    top, left = round(h * share), round(w * share)
    return images[..., top : h - top, left : w - left]


def mask(images):
    keep = torch.ones_like(images)
    keep[..., : images.shape[-1] // 5] = 0
    return images * keep


CHANGES = {
    "crop": functools.partial(crop, 0.125),
    "mirror": lambda x: x.flip(-1),
    "upside down": lambda x: x.flip(-2),
    "quarter turn": lambda x: x.rot90(1, (-2, -1)),
    "half turn": lambda x: x.rot90(2, (-2, -1)),
    "transpose": lambda x: x.transpose(-2, -1),
    "pad": lambda x: F.pad(x, (16, 0, 0, 24)),
    "mirror pad": lambda x: F.pad(x, (8, 8, 8, 8), mode="reflect"),
    "smaller": lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear"),
    "larger": lambda x: F.interpolate(x, size=(96, 128), mode="bicubic"),
    "normalise": lambda x: (x - x.mean((1, 2, 3), keepdim=True)) / x.std() + 1,
    "mask": mask,
}


@many
@given(steps, centres, st.lists(st.sampled_from(sorted(CHANGES)), min_size=1, max_size=3))
def test_a_pipeline_inside_the_network(steps, centre, names):
    def change(images):
        for name in names:
            images = CHANGES[name](images)
        return images

    size = (64, 80)
    assume(fits(steps[:2], change(square(size, centre)).shape[-2:]))
    net = Wrapped(Brightness(steps[:2]), change)
    shown = square(size, centre).requires_grad_()
    (passed,) = torch.autograd.grad(change(shown).pow(2).sum(), shown)
    seen = passed[0, 0] != 0
    assume(bool((seen & (shown[0, 0] > 0.5)).any()))
    refused = check(net, size, centre, "inner.features", "gradcam", seen)
    # A mirrored border is seen twice, a mean over the image sees all of it, and in a small picture that is
    # enlarged cells may be finer than its pixels.
    cannot = {"mirror pad", "normalise"} & set(names) or {"smaller", "larger"} <= set(names)
    assert refused is None or cannot


@many
@given(
    st.sampled_from([(8, 8), (16, 8), (8, 16)]),
    st.sampled_from(["rows", "columns", "windows", "backwards", "shuffled"]),
    st.lists(st.integers(0, 20), max_size=3),
    centres,
)
def test_tokens_in_any_order(patch, kind, others, centre):
    size = (64, 96)
    rows, columns = size[0] // patch[0], size[1] // patch[1]
    index = torch.arange(rows * columns).view(rows, columns)
    order = {
        "rows": lambda: index,
        "columns": lambda: index.T,
        "windows": lambda: index.view(rows // 2, 2, columns // 2, 2).permute(0, 2, 1, 3),
        "backwards": lambda: index.flip(0, 1),
        "shuffled": lambda: index.flatten()[torch.randperm(index.numel(), generator=SEED())],
    }[kind]().flatten()
    places, total = [], index.numel()
    for place in others:
        places = [p + (p >= place) for p in places] + [min(place, total)]
        total += 1
    torch.manual_seed(0)
    net = Tokens(patch, order, sorted(set(places)))
    for layer in (None, "blocks.0"):
        assert check(net, size, centre, layer) is None


def SEED():
    return torch.Generator().manual_seed(5)


@pytest.mark.parametrize("first", [True, False])
def test_a_fixed_reference_is_not_the_image(first):
    size = (64, 64)
    net = Reference(Brightness([((4, 4), (4, 4), 0)]), size, first)
    assert check(net, size, (0.3, 0.7), "inner.features") is None
    number = 1 if first else 0
    assert "no gradient leads from its cells to the image" in check(
        net, size, (0.3, 0.7), f"inner.features.0:{number}"
    )
    assert check(net, size, (0.3, 0.7), f"inner.features.0:{1 - number}") is None


@pytest.mark.parametrize("name", ["mirror", "upside down", "half turn", "crop", "smaller"])
def test_copies_of_the_image_are_added_where_they_belong(name):
    size = (64, 64)
    net = Copies(Brightness([((4, 4), (4, 4), 0)]), CHANGES[name])
    result = explain(
        net.eval(), square(size, (0.3, 0.7)), "gradcam", targets=0, layers="inner.features"
    )
    assert result.layers == ["inner.features"]
    assert list(result.maps) == [("gradcam", "inner.features")]
    assert check(net, size, (0.3, 0.7), "inner.features", "gradcam") is None
    if name == "mirror":
        single = explain(
            net, square(size, (0.3, 0.7)), "gradcam", targets=0, layers="inner.features:0"
        )
        both = result.maps["gradcam", "inner.features"]
        assert torch.allclose(both, 2 * single.maps["gradcam", "inner.features:0"], atol=1e-6)


def test_what_mixes_places_is_refused():
    class Mixed(nn.Module):
        def __init__(self, change):
            super().__init__()
            self.conv, self.change, self.head = nn.Conv2d(3, 4, 4, 4), change, nn.Linear(4, 2)
            self.last = nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return self.head(self.last(self.change(self.conv(x))).mean((2, 3)))

    torch.manual_seed(0)
    everywhere = nn.Linear(256, 256)
    trials = {
        "mirrored sum": lambda a: a + a.flip(-1),
        "all to all": lambda a: everywhere(a.flatten(2)).view_as(a),
        "shuffled by chance": lambda a: a.flatten(2)[
            ..., torch.randperm(256, generator=SEED())
        ].view_as(a),
        "constant": lambda a: torch.ones_like(a) * a.mean((2, 3), keepdim=True),
    }
    for name, change in trials.items():
        net = Mixed(change).eval()
        images = torch.rand(2, 3, 64, 64)
        with pytest.raises(ValueError, match="'last' cannot be laid on the image"):
            explain(net, images, "gradcam", targets=0, layers="last")
        assert "last" not in [row.name for row in list_layers(net, images)], name
        # the first layer that can be is the default
        assert explain(net, images, "gradcam", targets=0).layers == ["conv"], name
        # asked not to measure, the shape is believed
        assert explain(net, images, "gradcam", 0, "last", measure_places=False).places == {}


def test_what_depends_on_the_image_is_refused():
    class Moving(Brightness):
        def forward(self, x):
            starts = (x.flatten(1).sum(1) * 7919).long() % 32
            cut = [image[..., n : n + 32] for image, n in zip(x, starts.tolist(), strict=True)]
            return super().forward(torch.stack(cut))

    torch.manual_seed(0)
    message = check(Moving([((4, 4), (4, 4), 0)]), (64, 64), (0.3, 0.5), "features")
    assert "where its cells look depends on the image" in message


def test_steps_of_a_sequence_are_no_places():
    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.after = nn.LSTM(28 * 3, 16, batch_first=True), nn.Linear(16, 16)
            self.head = nn.Linear(16, 4)

        def forward(self, x):
            steps, _ = self.rnn(x.permute(0, 2, 1, 3).flatten(2))
            return self.head(self.after(steps)[:, -1])

    net, images = Rows().eval(), torch.rand(2, 3, 28, 28)
    assert list_layers(net, images) == []
    for layer in (None, "rnn:0"):
        with pytest.raises(ValueError, match="layers"):
            explain(net, images, targets=0, layers=layer)


def test_maps_one_cell_high():
    torch.manual_seed(0)
    strip = nn.Sequential(
        nn.Conv2d(1, 8, (32, 3), (1, 2), (0, 1)), nn.ReLU(), nn.Conv2d(8, 8, (1, 3), (1, 2), (0, 1)),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    ).eval()  # fmt: skip
    found = explain(strip, torch.rand(2, 1, 32, 100), targets=1)
    assert found.layers == ["2"]
    assert found.maps["gradcam", "2"].shape[-2:] == (1, 25)
    series = nn.Sequential(
        nn.Conv2d(3, 8, (5, 1), (2, 1), (2, 0)), nn.ReLU(), nn.Flatten(2), nn.Conv1d(8, 8, 3, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3),
    ).eval()  # fmt: skip
    found = explain(series, torch.rand(2, 3, 60, 1), targets=1)
    assert found.maps["gradcam", found.layers[0]].shape[-2:] == (30, 1)
    kept = {}
    handle = series[3].register_forward_hook(lambda m, a, out: kept.update(a=out))
    images = torch.rand(2, 3, 60, 1)
    score = series(images)[:, 1].sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(score, kept["a"])
    wanted = (gradient.mean(2, keepdim=True) * kept["a"]).sum(1).detach()
    got = explain(series, images, targets=1, layers="3").maps["gradcam", "3"]
    assert torch.allclose(got[:, 0, :, 0], wanted, atol=1e-6)


def test_the_list_says_how_it_knows():
    net = Brightness([((3, 3), (2, 2), 1), ((3, 3), (2, 2), 1)]).eval()
    rows = {row.name: row for row in list_layers(net, torch.rand(1, 3, 64, 64))}
    last = rows["features"]
    assert last.default
    assert last.place == "measured"
    assert last.error == pytest.approx(0.375, abs=0.02)  # the middle of a 3 x 3 kernel of stride 4
    assert "measured ±0.4" in repr(list_layers(net, torch.rand(1, 3, 64, 64)))


def test_measured_once_per_size_and_again_for_an_edited_model(monkeypatch):
    from cam_core.places import place

    counted = []
    trace = place.Trace
    monkeypatch.setattr(place, "Trace", lambda *a: counted.append(1) or trace(*a))
    net = Brightness([((4, 4), (4, 4), 0)]).eval()
    for _ in range(3):
        explain(net, torch.rand(2, 3, 64, 64), targets=0, layers="features")
    assert len(counted) == 2  # two images of noise
    explain(net, torch.rand(2, 3, 32, 64), targets=0, layers="features")
    assert len(counted) == 4
    net.features[0] = nn.Conv2d(3, 2, 8, 8)
    explain(net, torch.rand(2, 3, 64, 64), targets=0, layers="features")
    assert len(counted) == 6


def test_measuring_leaves_the_model_as_it_was():
    net = Brightness([((3, 3), (2, 2), 1)]).train()
    net.features[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    explain(net, torch.rand(2, 3, 64, 64), targets=0)
    assert net.training
    assert not net.features[0].weight.requires_grad
    assert net.features[0].bias.requires_grad
    assert net.features[0].bias.grad is None
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert not net.features[0]._forward_hooks
    assert torch.is_grad_enabled()


def test_a_frozen_backbone_under_no_grad_is_measured():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Conv2d(3, 8, 4, 4)
            self.adapter = nn.Conv2d(8, 8, 3, padding=1)
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            with torch.no_grad():
                kept = self.backbone(x).detach()
            return self.head(self.adapter(kept).relu().mean((2, 3)))

    torch.manual_seed(0)
    result = explain(Frozen().eval(), torch.rand(2, 3, 64, 64), targets=1)
    assert result.layers == ["adapter"]
    assert result.places["adapter"].how == "measured"
    assert result.places["adapter"].error < 0.01


def test_raw_maps_stay_as_the_layer_has_them():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 5), nn.ReLU(), nn.Conv2d(8, 8, 5), nn.ReLU(), nn.Conv2d(8, 8, 5),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    ).eval()  # fmt: skip
    images = torch.rand(1, 3, 24, 24)
    result = explain(net, images, "gradcam", targets=1, layers="4")
    maps = result.maps["gradcam", "4"]
    assert maps.shape[-2:] == (12, 12)
    # Three unpadded 5 x 5 kernels lose six pixels on each side; the border is seen all the same.
    assert result.places["4"].extent.cells == pytest.approx((0.25, 0.25, 0.75, 0.75), abs=1e-3)
    assert result.places["4"].extent.seen == (0, 0, 1, 1)
    result.maps["gradcam", "4"] = torch.zeros_like(maps)
    result.maps["gradcam", "4"][..., 3, 8] = 1
    heat = result.heatmaps()["gradcam", "4"][0, 0]
    assert divmod(int(heat.argmax()), 24) == (9, 14)


def test_perturbation_methods_follow_a_reordered_grid():
    torch.manual_seed(0)
    index = torch.arange(96).view(8, 12)
    order = index.view(4, 2, 6, 2).permute(0, 2, 1, 3).flatten()
    net = Tokens((8, 8), order, [3]).eval()
    picture = square((64, 96), (0.3, 0.6))
    for method in ("ablationcam", "scorecam", "eigencam", "gradcam"):
        result = explain(net, picture, method, targets=0, layers="blocks.1")
        assert result.maps[method, "blocks.1"].shape[-2:] == (8, 12)
        assert math.isfinite(float(result.maps[method, "blocks.1"].sum()))
    plain = adapt(net).grid if hasattr(adapt(net), "grid") else None
    assert plain is not None


@pytest.mark.parametrize("share", [0.1, 0.6, 0.8, 1.0, 1.5])
def test_a_mean_of_two_places_is_no_place(share):
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.other = nn.Conv2d(3, 4, 4, 4), nn.Conv2d(3, 4, 4, 4)
            self.last, self.head = nn.Conv2d(4, 4, 1), nn.Linear(4, 2)

        def forward(self, x):
            both = self.conv(x) + share * self.other(x.flip(-1))
            return self.head(self.last(both).mean((2, 3)))

    torch.manual_seed(0)
    net = Mixed().eval()
    images = torch.rand(1, 3, 64, 64)
    if share > 0.1:
        with pytest.raises(ValueError, match="cannot be laid on the image"):
            explain(net, images, targets=0, layers="last")
    else:  # the other place has a hundredth of the energy
        found = explain(net, images, targets=0, layers="last").places["last"]
        assert found.extent.cells == pytest.approx((0, 0, 1, 1), abs=0.05)


def test_one_row_of_cells_lies_on_what_it_sees():
    class Top(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, (16, 8), (16, 8)), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.conv(x[..., :16, :]).mean((2, 3)))

    place = explain(Top().eval(), torch.rand(1, 3, 64, 64), targets=0, layers="conv").places["conv"]
    assert place.extent.cells == pytest.approx((0, 0, 1, 0.25), abs=0.02)


def test_a_coarse_grid_on_a_part_of_the_image_is_not_all_of_it():
    class Middle(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 16, 16), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.conv(x[..., 16:48, 16:48]).mean((2, 3)))

    net = Middle().eval()
    place = explain(net, torch.rand(1, 3, 64, 64), targets=0, layers="conv").places["conv"]
    assert place.extent.cells == pytest.approx((0.25, 0.25, 0.75, 0.75), abs=0.02)
    with pytest.raises(ValueError, match="do not lie evenly"):
        explain(Off().eval(), torch.rand(1, 3, 64, 64), "gradcam+aug", 0, "conv")


class Off(nn.Module):
    """Looks at the left half."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 8, 8), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.conv(x[..., :32]).mean((2, 3)))


def test_dilated_pooling_and_attention_without_a_way_around_it():
    pooled = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.MaxPool2d(3, 1, dilation=4), nn.Conv2d(4, 4, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2),
    ).eval()  # fmt: skip
    place = explain(pooled, torch.rand(1, 3, 32, 32), targets=0, layers="2").places["2"]
    assert place.extent.cells == pytest.approx((1 / 8, 1 / 8, 7 / 8, 7 / 8), abs=0.02)

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 2)
            self.attn, self.last = nn.MultiheadAttention(8, 2, batch_first=True), nn.LayerNorm(8)

        def forward(self, x):
            tokens = self.embed(x).flatten(2).transpose(1, 2)
            return self.head(self.last(self.attn(tokens, tokens, tokens)[0]).mean(1))

    with pytest.raises(ValueError, match="no gradient leads from its cells"):
        explain(Bare().eval(), torch.rand(1, 3, 64, 64), targets=0, layers="last")


def test_models_are_measured_in_threads_of_their_own():
    import threading

    enter = torch.inference_mode.__enter__
    nets = [Brightness([((4, 4), (4, 4), 0)] + [((3, 3), (1, 1), 1)] * 4).eval() for _ in range(4)]
    errors = []

    def run(net):
        try:
            explain(net, torch.rand(1, 3, 64, 64), targets=0, layers="features")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(net,)) for net in nets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert torch.inference_mode.__enter__ is enter
    assert torch.backends.mha.get_fastpath_enabled()
    with torch.inference_mode():
        assert torch.is_inference_mode_enabled()
