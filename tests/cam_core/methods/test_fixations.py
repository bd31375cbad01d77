"""CNN Fixations: networks whose answer is known, and an independent walk neuron by neuron."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as zoo
from torch import nn

from cam_core import explain
from cam_core.adapters.adapt import adapt
from cam_core.methods.fixations import method as module
from cam_core.methods.fixations.method import cnn_fixations, find_fixations


def pixels(net, images, target, **options):
    """A set of (image, row, column) of the fixations."""
    with torch.no_grad():
        found = find_fixations(adapt(net.eval()), images, torch.as_tensor(target), **options)
    return {(n, y, x) for n, _, y, x in found.tolist()}


class Wrap(nn.Module):
    """A network out of a function, so that a test reads in one place."""

    def __init__(self, function, **parts):
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        self.function = function

    def forward(self, images):
        return self.function(self.parts, images)


class Walked(nn.Module):
    """conv, batch norm, ReLU, max pool, residual conv, flatten, two linear layers."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2)
        self.bn2 = nn.BatchNorm2d(4)
        self.fc1 = nn.Linear(4 * 4 * 4, 8)
        self.fc2 = nn.Linear(8, 3)
        for bn in (self.bn1, self.bn2):
            nn.init.normal_(bn.weight)  # negative scales among them
            nn.init.normal_(bn.running_mean, std=0.3)

    def forward(self, images):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 2)
        y = self.bn2(self.conv2(x))
        y += x
        return self.fc2(F.relu_(self.fc1(torch.flatten(F.relu_(y), 1))))


def walk(net, image, target):
    """The published steps, one neuron after the other in Python; signs carried along."""
    relu, pool = F.relu, F.max_pool2d
    a0 = image[None]
    a1 = relu(net.bn1(net.conv1(a0)))
    a2 = pool(a1, 2)
    b = net.bn2(net.conv2(a2))
    a3 = relu(b + a2)
    a4 = relu(net.fc1(a3.flatten(1)))

    def conv(layer, source, neuron, sign):
        o, y, x = neuron
        stride, pad, dilation = layer.stride[0], layer.padding[0], layer.dilation[0]
        per, group = layer.weight.shape[1], layer.out_channels // layer.groups
        rows = {}
        for c in range(per):
            for i in range(3):
                for j in range(3):
                    p, q = y * stride - pad + i * dilation, x * stride - pad + j * dilation
                    if 0 <= p < source.shape[2] and 0 <= q < source.shape[3]:
                        k = o // group * per + c
                        w = float(layer.weight[o, c, i, j])
                        rows.setdefault(k, []).append(
                            (sign * w * float(source[0, k, p, q]), p, q, w)
                        )
        best = max(rows, key=lambda k: sum(r[0] for r in rows[k]))
        amount, p, q, w = max(rows[best])
        return {((best, p, q), sign if w > 0 else -sign)} if amount > 0 else set()

    hidden = [
        (k, 1 if w > 0 else -1)
        for k, w in enumerate(net.fc2.weight[target].tolist())
        if w * float(a4[0, k]) > 0
    ]
    ends = set()
    for k, sign in hidden:
        products = sign * net.fc1.weight[k] * a3.flatten()
        best = int(products.argmax())
        if products[best] <= 0:
            continue
        neuron = tuple(int(i) for i in torch.unravel_index(torch.tensor(best), a3.shape[1:]))
        sign = sign if net.fc1.weight[k, best] > 0 else -sign
        branch, skip = sign * float(b[0][neuron]), sign * float(a2[0][neuron])
        if max(branch, skip) <= 0:
            continue
        at = {(neuron, sign)}
        if branch > skip:
            turned = sign if net.bn2.weight[neuron[0]] > 0 else -sign
            at = conv(net.conv2, a2, neuron, turned)
        for (c, y, x), s in at:
            window = a1[0, c, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
            best = int(window.argmax())
            place = (c, 2 * y + best // 2, 2 * x + best % 2)
            s = s if net.bn1.weight[c] > 0 else -s
            ends |= {n for n, _ in conv(net.conv1, a0, place, s)}
    return ends


def test_walk_neuron_by_neuron():
    found = 0
    for seed in range(8):
        torch.manual_seed(seed)
        net, images = Walked().eval(), torch.randn(3, 3, 16, 16)
        target = torch.tensor([0, 2, 1])
        with torch.no_grad():
            ours = find_fixations(adapt(net), images, target).tolist()
            theirs = [[n, *p] for n in range(3) for p in walk(net, images[n], int(target[n]))]
        assert sorted(ours) == sorted(theirs)
        found += len(ours)
    assert found > 20


# Networks whose answer is known ------------------------------------------------------------------


def test_network_that_looks_at_one_pixel():
    net = Wrap(lambda p, x: p["fc"](x.flatten(1)), fc=nn.Linear(3 * 8 * 8, 2))
    nn.init.zeros_(net.parts["fc"].weight)
    net.parts["fc"].weight.data.view(2, 3, 8, 8)[1, 2, 5, 3] = -2.0
    images = torch.full((1, 3, 8, 8), -1.0)
    assert pixels(net, images, [1]) == {(0, 5, 3)}
    assert pixels(net, images, [0]) == set()  # no weight, no evidence
    assert pixels(net, -images, [1]) == set()  # evidence against it only


def test_linear_network_follows_the_product_of_the_weights():
    """Negative weights and negative neurons on the way turn the question around, and back."""
    first, second = nn.Conv2d(3, 5, 1, bias=False), nn.Conv2d(5, 4, 1, bias=False)
    last = nn.Linear(4 * 36, 2, bias=False)
    net = Wrap(lambda p, x: p["c"](p["b"](p["a"](x)).flatten(1)), a=first, b=second, c=last)
    images = torch.randn(6, 3, 6, 6)
    target = torch.tensor([0, 1, 1, 0, 0, 1])
    expected = []
    with torch.no_grad():
        found = find_fixations(adapt(net.eval()), images, target).tolist()
        below, above = first(images), second(first(images))
        for n, t in enumerate(target.tolist()):
            weight = last.weight[t].view(4, 36)
            best = int((weight * above[n].flatten(1)).argmax())
            o, place = best // 36, (best % 36 // 6, best % 6)
            by = weight[o, best % 36] * second.weight[o, :, 0, 0]
            k = int((by * below[n][(slice(None), *place)]).argmax())
            channel = (by[k] * first.weight[k, :, 0, 0] * images[n][(slice(None), *place)]).argmax()
            expected.append([n, int(channel), *place])
    assert found == expected


def test_flattened_map_gives_one_place_whatever_follows():
    """Places of a map are not neurons: what is done to each of them by itself changes nothing."""
    net = Wrap(lambda p, x: p["fc"](x.flatten(1).relu() * 2), fc=nn.Linear(3 * 36, 2))
    images = torch.rand(1, 3, 6, 6)
    best = int((net.parts["fc"].weight[1].detach() * images.flatten()).argmax()) % 36
    assert pixels(net, images, [1]) == {(0, best // 6, best % 6)}


@pytest.mark.parametrize("reduce", ["amax", "max_pool"])
def test_detector_of_a_bright_square(reduce):
    conv = nn.Conv2d(3, 2, 3, padding=1)
    conv.weight.data.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1).expand(2, 3, 3, 3))
    nn.init.zeros_(conv.bias)
    end = {
        "amax": lambda x: x.amax((2, 3)),
        "max_pool": lambda x: F.adaptive_max_pool2d(x, 1).flatten(1),
    }[reduce]
    net = Wrap(lambda p, x: end(p["conv"](x).relu()), conv=conv)
    images = torch.zeros(2, 3, 20, 24)
    images[0, :, 4:7, 15:18] = 1.0  # bright: class 0
    images[1, :, 11:14, 2:5] = -1.0  # dark: class 1
    assert all(4 <= y < 7 and 15 <= x < 18 for _, y, x in pixels(net, images[:1], [0]))
    assert all(11 <= y < 14 and 2 <= x < 5 for _, y, x in pixels(net, images[1:], [1]))
    assert pixels(net, images[:1], [0])
    assert pixels(net, images[1:], [1])


def test_averages_go_to_the_strongest_position_or_to_all():
    """Two channels with two bright places each; class 0 uses both."""
    net = Wrap(lambda p, x: p["fc"](F.adaptive_avg_pool2d(x, 1).flatten(1)), fc=nn.Linear(3, 2))
    net.parts["fc"].weight.data.copy_(torch.tensor([[1.0, 1.0, -1.0], [0.0, 0.0, 1.0]]))
    images = torch.zeros(1, 3, 8, 8)
    images[0, 0, 1, 1], images[0, 0, 2, 6] = 3.0, 1.0
    images[0, 1, 7, 7], images[0, 1, 5, 0] = 2.0, 1.0
    images[0, 2, 4, 4] = 9.0
    assert pixels(net, images, [0]) == {(0, 1, 1), (0, 7, 7)}
    every = {(0, 1, 1), (0, 2, 6), (0, 7, 7), (0, 5, 0)}
    assert pixels(net, images, [0], pooling="all") == every


def test_average_of_the_class_map_itself_goes_to_all_positions():
    """As in SqueezeNet: one neuron alone would end in one pixel."""
    net = Wrap(lambda p, x: F.adaptive_avg_pool2d(x, 1).flatten(1))
    images = torch.zeros(2, 3, 8, 8)
    images[:, 1, 2, 3], images[:, 1, 6, 6] = 1.0, 0.5
    assert pixels(net, images, [1, 0]) == {(0, 2, 3), (0, 6, 6)}


@pytest.mark.parametrize(
    "pool",
    [
        lambda x: F.avg_pool2d(x, 3, 2, 1),
        lambda x: F.adaptive_avg_pool2d(x, (3, 5)),
        lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
        lambda x: F.avg_pool2d(x, (2, 3), ceil_mode=True),
        lambda x: F.pad(x, (1, 2, 3, 0), mode="reflect"),
        lambda x: F.pad(x, (1, 2, 3, 0)),
        lambda x: torch.cat([x[:, 1:], x[:, :1]], 1).transpose(2, 3).flip(2),
        lambda x: F.channel_shuffle(torch.cat([x, 0 * x], 1), 2),
        lambda x: F.pixel_unshuffle(x, 2),
        lambda x: (2 * x + 1) / 4 - 0.25 * x,
    ],
)
def test_every_pixel_is_found_through_what_moves_it(pool):
    """One bright pixel: whatever lies between it and a linear layer of ones, it is found."""
    for y, x, c in ((0, 0, 0), (3, 7, 1), (7, 8, 2), (4, 5, 0)):
        images = torch.zeros(1, 3, 8, 10)
        images[0, c, y, x] = 1.0
        count = pool(images).numel()
        net = Wrap(lambda p, i: p["fc"](pool(i).flatten(1)), fc=nn.Linear(count, 2))
        nn.init.ones_(net.parts["fc"].weight)
        assert pixels(net, images, [1]) == {(0, y, x)}


def test_gates_are_not_followed():
    def squeeze_and_excite(parts, x):
        return (parts["gate"](x.mean((2, 3), keepdim=True)).sigmoid() * x).amax((2, 3))

    images = torch.rand(3, 3, 8, 8)
    plain = Wrap(lambda p, x: x.amax((2, 3)))
    gated = Wrap(squeeze_and_excite, gate=nn.Conv2d(3, 3, 1))
    assert pixels(gated, images, [0, 1, 2]) == pixels(plain, images, [0, 1, 2])


# Every network -----------------------------------------------------------------------------------

NAMES = [
    "alexnet", "vgg11_bn", "resnet18", "squeezenet1_1", "googlenet", "densenet121", "mobilenet_v2",
    "mobilenet_v3_small", "shufflenet_v2_x0_5", "efficientnet_b0", "convnext_tiny",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_torchvision_networks(name, toys, protect):
    options = {"init_weights": False} if name == "googlenet" else {}
    net = toys.awake(getattr(zoo, name)(num_classes=7, **options))
    images = torch.randn(2, 3, 64, 64)
    check = protect(net)
    found = explain(net, images, "cnn_fixations").maps["cnn_fixations", "input"]
    check()
    assert found.shape == (2, 1, 64, 64)
    assert found.isfinite().all()
    assert (found.amax((2, 3)) > 0).all()


def test_channels_last_changes_nothing(toys):
    net = toys.awake(toys.resnet()).eval()
    images = torch.randn(2, 3, 64, 64)
    last = images.contiguous(memory_format=torch.channels_last)
    assert pixels(net, last, [3, 4]) == pixels(net, images, [3, 4])
    assert len(pixels(net, images, [3, 4])) > 5


def test_networks_that_cannot_be_traced_symbolically():
    """Python decides by what it sees, as networks with static padding and flags do."""

    def forward(parts, x):
        height = x.shape[-1] + int(x.mean() > 100)
        x = F.pad(x, (0, height % 2, 0, height % 2))
        return parts["fc"](x[:, :, :8, :8].flatten(1))

    net = Wrap(forward, fc=nn.Linear(192, 2))
    images = torch.zeros(1, 3, 8, 8)
    images[0, 1, 2, 3] = 1.0
    nn.init.ones_(net.parts["fc"].weight)
    assert pixels(net, images, [1]) == {(0, 2, 3)}


# In-place operations -----------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, inplace):
        super().__init__()
        self.inplace = inplace
        self.conv = nn.ModuleList(nn.Conv2d(c, 6, 3, padding=1) for c in (3, 6, 6))
        self.fc = nn.Linear(6, 4)

    def forward(self, images):
        x = F.relu(self.conv[0](images), self.inplace)
        for conv in self.conv[1:]:
            y = conv(x)
            if self.inplace:
                y += x
                x = F.relu(y, True)
            else:
                x = F.relu(y + x)
        return self.fc(x.mean((2, 3)))


def test_in_place_operations_change_nothing():
    plain, inplace = Residual(False).eval(), Residual(True).eval()
    inplace.load_state_dict(plain.state_dict())
    images = torch.randn(3, 3, 12, 12)
    found = pixels(plain, images, [0, 1, 3])
    assert pixels(inplace, images, [0, 1, 3]) == found
    assert len(found) > 5


def test_values_are_those_of_the_moment():
    """The skip is spoiled in place after it was added: the branch was larger, and stays so."""

    def forward(parts, x):
        skip, branch = x[:, :1] * 1, x[:, 1:2] * 1
        total = skip + branch
        skip.mul_(0).add_(100)
        return total.amax((2, 3)).expand(-1, 2) + 0 * skip.mean()

    images = torch.zeros(1, 3, 6, 6)
    images[0, 0, 1, 1], images[0, 1, 1, 1], images[0, 1, 4, 4] = 1.0, 3.0, 2.0
    found = find_fixations(adapt(Wrap(forward).eval()), images, torch.tensor([1]))
    assert found.tolist() == [[0, 1, 1, 1]]


def write_into_constant(parts, x):
    board = torch.zeros(x.shape[0], 2)
    board[:, 1] = x.amax((1, 2, 3))
    return board * 1


def write_into_part(parts, x):
    whole = x * 1
    whole[:, :1].mul_(2)
    return whole.amax((2, 3))


@pytest.mark.parametrize("forward", [write_into_constant, write_into_part])
def test_writes_into_parts_are_an_error_not_a_guess(forward):
    with pytest.raises(ValueError, match="a write into part of a tensor"):
        pixels(Wrap(forward), torch.rand(1, 3, 4, 4), [1])


# Invariances -------------------------------------------------------------------------------------


@pytest.fixture
def setting(toys):
    return toys.awake(toys.resnet()).eval(), torch.randn(3, 3, 64, 64), torch.tensor([1, 4, 7])


def maps(net, images, target, **options):
    return explain(net, images, ("cnn_fixations", options), target).maps["cnn_fixations", "input"][
        :, 0
    ]


def test_the_rest_of_the_batch_does_not_matter(setting):
    net, images, target = setting
    together = maps(net, images, target, sigma=0.02)
    for n in range(3):
        torch.testing.assert_close(
            together[n], maps(net, images[n : n + 1], target[n : n + 1], sigma=0.02)[0]
        )
    torch.testing.assert_close(maps(net, images, target, sigma=0.02, batch_size=2), together)


def test_frozen_parameters_and_logit_scale(setting):
    net, images, target = setting
    before = maps(net, images, target)
    net.requires_grad_(False)
    net.fc.weight.mul_(50)
    assert torch.equal(maps(net, images, target), before)


def test_classes_differ(setting):
    net, images, _ = setting
    found = maps(net, images, torch.tensor([1, 1, 1])), maps(net, images, torch.tensor([2, 2, 2]))
    assert not torch.equal(*found)


def test_flip_equivariance():
    net = Residual(False).eval()
    with torch.no_grad():
        for conv in net.conv:
            conv.weight.add_(conv.weight.flip(-1).clone())
    images = torch.randn(2, 3, 12, 12)
    found = maps(net, images, torch.tensor([0, 2]), sigma=0)
    mirrored = maps(net, images.flip(-1), torch.tensor([0, 2]), sigma=0)
    # Positions of equal contribution are a draw; where a path goes is decided before.
    assert torch.equal(found.sum((1, 2)), mirrored.sum((1, 2)))
    agree = torch.minimum(found, mirrored.flip(-1)).sum() / found.sum()
    assert agree > 0.9


def test_half_precision(setting):
    net, images, target = setting
    exact = explain(net, images, "cnn_fixations", target).maps["cnn_fixations", "input"]
    half = explain(net, images, "cnn_fixations", target, precision="bfloat16")
    assert torch.equal(half.maps["cnn_fixations", "input"], exact)  # walks in its own precision
    own = explain(net.bfloat16(), images.bfloat16(), "cnn_fixations", target)
    assert own.maps["cnn_fixations", "input"].dtype is torch.float32
    assert (own.maps["cnn_fixations", "input"].amax((2, 3)) > 0).all()


def test_negative_score(setting):
    """What speaks for a class does so however unlikely the class is."""
    net, images, target = setting
    before = maps(net, images, target)
    net.fc.bias.data.sub_(1000)
    assert torch.equal(maps(net, images, target), before)


def test_zero_gradient_and_flat_image_give_a_map_without_heat():
    net = Residual(False).eval()
    nn.init.zeros_(net.fc.weight)
    result = explain(net, torch.rand(1, 3, 12, 12), "cnn_fixations", 1)
    assert result.status()["cnn_fixations", "input"] == [["zero"]]
    assert (
        explain(net, torch.zeros(1, 3, 12, 12), "cnn_fixations", 1)
        .maps["cnn_fixations", "input"]
        .isfinite()
        .all()
    )


def test_one_logit_is_two_classes():
    net = Wrap(lambda p, x: p["fc"](x.flatten(1)), fc=nn.Linear(3 * 36, 1))
    images = torch.randn(1, 3, 6, 6)
    weights = net.parts["fc"].weight.detach() * images.flatten(1)
    for target, best in ((0, weights.argmin()), (1, weights.argmax())):
        place = int(best) % 36
        assert pixels(net, images, [target]) == {(0, place // 6, place % 6)}


# The density -------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch):
    """A method whose fixations are given."""

    def use(counts):
        monkeypatch.setattr(module, "_count", lambda model, images, target, pooling: counts)
        images = torch.zeros(len(counts), 3, *counts.shape[1:])
        return lambda **options: cnn_fixations(
            None, images, torch.zeros(len(counts), dtype=torch.long), **options
        )

    return use


def test_density_is_a_gaussian(counted):
    counts = torch.zeros(1, 40, 60)
    counts[0, 20, 30] = 2
    found = counted(counts)(sigma=0.05, outliers=0)[0]  # 2 pixels
    torch.testing.assert_close(found.sum(), torch.tensor(2.0))
    ratio = found[20, 30] / found[20, 34]
    torch.testing.assert_close(ratio, torch.tensor(4.0**2 / (2 * 2.0**2)).exp())
    torch.testing.assert_close(found[20, 34], found[24, 30])
    assert torch.equal(counted(counts)(sigma=0, outliers=0), counts)


def test_outliers_are_dropped(counted):
    counts = torch.zeros(1, 60, 80)  # diagonal 100: neighbours within 10 pixels
    counts[0, 10:14, 10:20] = 1  # 40
    counts[0, 50, 70] = 2  # 2 of 42 are less than 5 %
    kept = counted(counts)(sigma=0)[0]
    assert kept[10:14, 10:20].sum() == 40
    assert kept.sum() == 40
    assert counted(counts)(sigma=0, outliers=0.04).sum() == 42
    assert counted(counts)(sigma=0, outliers=0).sum() == 42
    near = counts.clone()
    near[0, 20, 20] = 1  # 8.5 pixels from some of the crowd: no outlier of 10, one of 6 pixels
    assert counted(near)(sigma=0)[0, 20, 20] == 1
    assert counted(near)(sigma=0, radius=0.06)[0, 20, 20] == 0


# Errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value"),
    [("sigma", -1), ("sigma", "wide"), ("pooling", "mean"), ("outliers", 2), ("radius", -0.1),
     ("batch_size", 0), ("sigma", True)],
)  # fmt: skip
def test_bad_options(toys, option, value):
    with pytest.raises(ValueError, match=option):
        explain(toys.GapNet(), torch.rand(1, 3, 16, 16), ("cnn_fixations", {option: value}))


def test_target_that_is_no_class(toys):
    with pytest.raises(ValueError, match="this target is no class"):
        explain(toys.GapNet(), torch.rand(1, 3, 16, 16), "cnn_fixations", lambda out: out.sum(1))


def test_operation_that_is_not_understood(protect):
    class Attention(nn.Module):
        def forward(self, x):
            tokens = x.flatten(2).mT
            return (tokens @ tokens.mT).softmax(-1) @ tokens

    net = Wrap(lambda p, x: p["blend"](x).mean(1), blend=Attention())
    check = protect(net)
    with pytest.raises(ValueError, match=r"aten\.bmm.*'parts\.blend'.*use a gradient method"):
        explain(net, torch.rand(1, 3, 4, 4), "cnn_fixations", 0)
    check()


def test_operation_beside_the_path_does_not_matter():
    def forward(parts, x):
        gate = torch.fft.fft2(x).abs().mean((2, 3), keepdim=True)
        return (x * gate).amax((2, 3))

    images = torch.rand(2, 3, 6, 6)
    plain = Wrap(lambda p, x: x.amax((2, 3)))
    assert pixels(Wrap(forward), images, [0, 1]) == pixels(plain, images, [0, 1])


def test_scores_that_do_not_come_from_the_images():
    net = Wrap(lambda p, x: torch.zeros(len(x), 3))
    with pytest.raises(ValueError, match="not computed from the images"):
        pixels(net, torch.rand(1, 3, 4, 4), [0])


def test_model_is_unchanged_when_it_raises(toys, protect):
    net = toys.GapNet()
    net.relu.forward = None
    check = protect(net)
    with pytest.raises(TypeError):
        find_fixations(adapt(net), torch.rand(1, 3, 16, 16), torch.tensor([0]))
    check()


def test_batch_is_halved_when_memory_runs_out(setting, monkeypatch):
    net, images, target = setting
    expected = maps(net, images, target, batch_size=1)
    seen, plain = [], module._count

    def tight(model, images, *rest):
        seen.append(len(images))
        if len(images) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return plain(model, images, *rest)

    monkeypatch.setattr(module, "_count", tight)
    torch.testing.assert_close(maps(net, images, target), expected)
    assert seen == [3, 1, 1, 1]
