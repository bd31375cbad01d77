"""Passes down to the pixels: against autograd, hand numbers, and the sum of all their parts."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cam_core import ExplainableModel, adapt, cam_method, explain
from cam_core.engine.input_gradients import _frozen


def close(a, b, rel=1e-5):
    torch.testing.assert_close(a, b, rtol=rel, atol=rel * float(b.abs().max()))


def passed(net, images, name, targets=0, **kwargs):
    """What an ingredient hands to a method."""
    seen = []

    def blank(images, *result):
        seen.extend(result)
        return images[:, 0]

    @cam_method(place="input")
    def plain(images, input_gradient):
        return blank(images, *input_gradient(images))

    @cam_method(place="input")
    def guided(images, guided_gradient):
        return blank(images, *guided_gradient(images))

    @cam_method(place="input")
    def full(images, full_gradient):
        return blank(images, *full_gradient)

    explain(net, images, {"input": plain, "guided": guided, "full": full}[name], targets, **kwargs)
    return seen


def only(outputs):
    """The score of a network that returns one number."""
    return outputs[:, 0]


class Through(nn.Module):
    """A network given as a function."""

    def __init__(self, function, *layers):
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, images):
        return self.function(images, *self.layers)


@pytest.fixture
def images():
    return torch.randn(3, 3, 16, 20)


# The gradient at the input ------------------------------------------------------------------------


def test_gradient_of_a_linear_network_is_its_weight(images):
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 20, 4))
    gradient, score = passed(net, images, "input", torch.tensor([2, 0, 3]))
    assert torch.equal(gradient, net[1].weight.detach()[[2, 0, 3]].view_as(images))
    close(score, net(images).detach()[[0, 1, 2], [2, 0, 3]])


@pytest.mark.parametrize("kind", ["GapNet", "DeepNet"])
def test_gradient_is_autograds_in_double(toys, images, kind):
    net = getattr(toys, kind)().eval()
    exact, leaf = copy.deepcopy(net).double(), images.double().requires_grad_()
    exact(leaf)[[0, 1, 2], [1, 4, 0]].sum().backward()
    gradient, _ = passed(net, images, "input", torch.tensor([1, 4, 0]))
    close(gradient.double(), leaf.grad)


def test_rows_say_whose_target_it_is(toys, images):
    net, found = toys.DeepNet().eval(), []

    @cam_method(place="input")
    def twice(images, input_gradient):
        found.extend(input_gradient(images[[2, 2, 0]], [2, 2, 0]))
        return images[:, 0]

    explain(net, images, twice, torch.tensor([1, 4, 3]))
    gradient, score = passed(net, images, "input", torch.tensor([1, 4, 3]))
    close(found[0], gradient[[2, 2, 0]])
    close(found[1], score[[2, 2, 0]])


def test_parameters_are_frozen_during_the_pass_only(images, protect):
    """Also when the network raises."""
    seen = []

    def forward(x, fc):
        seen.append((fc.weight.requires_grad, torch.is_grad_enabled()))
        if len(seen) == 4:
            raise KeyError("broken")
        return fc(x.flatten(1))

    net = Through(forward, nn.Linear(3 * 16 * 20, 4))
    net.layers[0].bias.requires_grad_(False)
    adapt(net).read_outputs(images)  # once per network
    seen.clear()
    check = protect(net)
    passed(net, images, "input")
    assert seen == [(True, False), (False, True)]
    check()
    with pytest.raises(KeyError):
        passed(net, images, "input")
    assert len(seen) == 4
    check()


def test_freezing_ends_with_its_block(toys):
    net = toys.GapNet()
    net.fc.bias.requires_grad_(False)
    before = [p.requires_grad for p in net.parameters()]
    with pytest.raises(KeyError), _frozen(net):
        assert not any(p.requires_grad for p in net.parameters())
        raise KeyError
    assert [p.requires_grad for p in net.parameters()] == before


@pytest.mark.parametrize("around", ["no_grad", "inference", "frozen", "leaf"])
def test_surroundings_do_not_matter(toys, images, around):
    net = toys.DeepNet().eval()
    expected = passed(net, images, "input")[0]
    if around == "frozen":
        net.requires_grad_(False)
    given = images.clone().requires_grad_(around == "leaf")
    with torch.inference_mode(around == "inference"), torch.set_grad_enabled(around == "leaf"):
        found = passed(net, given, "input")[0]
    assert not found.requires_grad
    assert given.grad is None
    close(found, expected)


def test_a_network_that_writes_into_its_input(images):
    net = Through(lambda x, fc: fc(x.mul_(2).flatten(1)), nn.Linear(3 * 16 * 20, 4))
    before = images.clone()
    gradient, _ = passed(net, images, "input")
    close(gradient, 2 * net.layers[0].weight.detach()[:1].expand(3, -1).reshape(images.shape))
    assert torch.equal(images, before)


def _without_grad(x, fc):
    with torch.no_grad():
        return fc(x.flatten(1))


@pytest.mark.parametrize("name", ["input", "full"])
@pytest.mark.parametrize(
    ("forward", "targets"),
    [
        (_without_grad, 0),
        (lambda x, fc: fc(x.detach().flatten(1)), 0),
        (lambda x, fc: fc(x.flatten(1)), lambda outputs: outputs[:, 0].detach()),
        (lambda x, fc: fc(x.flatten(1)), lambda outputs: torch.ones(3, requires_grad=True) * 2),
    ],
)
def test_no_path_to_the_images_is_an_error(images, name, forward, targets, protect):
    net = Through(forward, nn.Linear(3 * 16 * 20, 4))
    check = protect(net)
    with pytest.raises(
        ValueError, match=r"score does not depend on the images|none of this network"
    ):
        passed(net, images, name, targets)
    check()


def test_whole_numbers_cannot_be_differentiated():
    net = Through(lambda x, fc: fc(x.float().flatten(1)), nn.Linear(12, 2))
    with pytest.raises(ValueError, match=r"images: .*uint8.*floating point"):
        passed(net, torch.zeros(1, 3, 2, 2, dtype=torch.uint8), "input")


def test_bfloat16_comes_back_in_float32(toys, images, corr):
    net, seen = toys.GapNet().eval(), []
    net.conv.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    gradient, score = passed(net, images, "input", precision="bfloat16")
    assert set(seen) == {torch.bfloat16}
    assert gradient.dtype is score.dtype is torch.float32
    assert corr(gradient, passed(net, images, "input")[0]) > 0.99


@pytest.mark.parametrize("half", ["images", "autocast"])
def test_small_gradients_of_half_precision_do_not_underflow(half):
    """2^-26 is less than float16 holds; the last product runs in float16 either way."""
    factor = torch.full((1, 12), 2.0**-13)
    net = Through(lambda x: F.linear(F.linear(x.flatten(1), factor.to(x.dtype)), small.to(x.dtype)))
    small = torch.full((2, 1), 2.0**-13)
    images = torch.ones(1, 3, 2, 2)
    if half == "images":
        gradient, _ = passed(net, images.half(), "input")
    else:
        gradient, _ = passed(net, images, "input", precision="float16")
    assert torch.equal(gradient, torch.full_like(images, 2.0**-26))


# Guided backpropagation ---------------------------------------------------------------------------

SPELLINGS = {
    "F.relu": F.relu,
    "F.relu inplace": lambda x: F.relu(x, inplace=True),
    "inplace, result unused": lambda x: (F.relu(x, True), x)[1],
    "in place on views": lambda x: (x[:, :3].relu_(), x[:, 3:].relu_(), x)[2],
    "F.relu_": F.relu_,
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "Tensor.relu": lambda x: x.relu(),
    "Tensor.relu_": lambda x: x.relu_(),
    "clamp": lambda x: x.clamp(min=0),
    "clamp_": lambda x: x.clamp_(0),
    "torch.clamp": lambda x: torch.clamp(x, min=0.0),
    "clamp_min": lambda x: x.clamp_min(0),
    "F.relu6": F.relu6,
    "nn.ReLU6": nn.ReLU6(inplace=True),
    "hardtanh": lambda x: F.hardtanh(x, 0, 6),
    "nn.Hardtanh": nn.Hardtanh(0, 50, inplace=True),
}


def test_guided_hand_numbers():
    """y = 2 relu(x0) - 3 relu(x1) + relu(x2): x0 > 0 passes, x1's gradient is negative, x2 < 0."""
    weight = torch.tensor([[2.0, -3.0, 1.0]])
    net = Through(lambda x: F.linear(F.relu(x.flatten(1)), weight))
    images = torch.tensor([5.0, 1.0, -1.0]).view(1, 3, 1, 1)
    assert passed(net, images, "input", only)[0].flatten().tolist() == [2.0, -3.0, 0.0]
    gradient, score = passed(net, images, "guided", only)
    assert gradient.flatten().tolist() == [2.0, 0.0, 0.0]
    assert score.tolist() == [7.0]


def hooked(net, images, index):
    """Guided backpropagation by hooks on ReLU modules, each called once."""
    handles = [
        m.register_full_backward_hook(lambda module, given, out: (F.relu(given[0]),))
        for m in net.modules()
        if isinstance(m, nn.ReLU)
    ]
    leaf = images.clone().requires_grad_()
    gradient = torch.autograd.grad(net(leaf)[:, index].sum(), leaf)[0]
    for handle in handles:
        handle.remove()
    return gradient


@pytest.mark.parametrize("kind", ["GapNet", "DeepNet"])
@pytest.mark.parametrize("inplace", [False, True])
def test_guided_is_hooks_on_modules(toys, images, kind, inplace, protect):
    net = getattr(toys, kind)().eval()
    expected = hooked(net, images, 1)
    assert not torch.allclose(expected, passed(net, images, "input", 1)[0])
    same = getattr(toys, kind)(inplace=inplace).eval()
    same.load_state_dict(net.state_dict())
    check = protect(same)
    close(passed(same, images, "guided", 1)[0], expected)
    check()
    relus = [m for m in same.modules() if isinstance(m, nn.ReLU)]
    assert all(m.inplace is inplace for m in relus)
    close(passed(same, images, "input", 1)[0], passed(net, images, "input", 1)[0])


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_relu_is_guided(toys, images, spelling):
    net, relu = toys.GapNet().eval(), SPELLINGS[spelling]
    same = Through(
        lambda x, one, two, fc: fc(relu(two(relu(one(x) * 1)) * 1).mean((2, 3))),
        net.early[0], net.conv, net.fc,
    ).eval()  # fmt: skip
    close(same(images).detach(), net(images).detach())
    close(passed(same, images, "guided", 1)[0], hooked(net, images, 1))


def test_relu6_hands_on_nothing_where_it_is_full():
    net = Through(lambda x: F.relu6(x.flatten(1)))
    gradient, _ = passed(net, torch.tensor([7.0, 6.0, 5.0]).view(1, 3, 1, 1), "guided",
                         lambda outputs: outputs.sum(1))  # fmt: skip
    assert gradient.flatten().tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    "activation", [nn.GELU(), nn.SiLU(), nn.Hardtanh(), lambda x: x.clamp(min=0.1), torch.tanh]
)
def test_no_relu_is_an_error(images, activation, protect):
    net = Through(lambda x, fc: fc(activation(x).flatten(1)), nn.Linear(3 * 16 * 20, 4))
    check = protect(net)
    with pytest.raises(ValueError, match=r"runs none .*use 'gradients'"):
        passed(net, images, "guided")
    check()


def test_a_relu_of_the_target_is_not_the_networks(toys, images):
    net = toys.GapNet().eval()
    net.fc.bias.data -= 10  # all scores are negative, so the target's ReLU sees -y > 0
    plain = passed(net, images, "guided", lambda outputs: outputs[:, 1])[0]
    assert plain.any()
    close(passed(net, images, "guided", lambda outputs: -F.relu(-outputs[:, 1]))[0], plain)


def _checkpointed(net, check):
    blocks = nn.Sequential(net.early, net.conv, net.relu)
    return Through(
        lambda x, block, fc: fc(
            checkpoint(block, x, use_reentrant=False, determinism_check=check).mean((2, 3))
        ),
        blocks, net.fc,
    ).eval()  # fmt: skip


@pytest.mark.parametrize("check", ["default", "none"])
def test_checkpointed_blocks_are_guided_as_well(toys, images, check):
    """They do not run a second time during the backward, when the rule would be gone."""
    net = toys.GapNet().eval()
    expected, found = (passed(n, images, "guided") for n in (net, _checkpointed(net, check)))
    close(found[0], expected[0])


@pytest.mark.parametrize("name", ["input", "full"])
def test_checkpointed_blocks_have_gradients(toys, images, name):
    net = toys.GapNet().eval()
    expected, found = (passed(n, images, name) for n in (net, _checkpointed(net, "default")))
    close(found[0], expected[0])
    if name == "full":
        assert len(found[1]) == len(expected[1]) == 3
        for ours, theirs in zip(found[1], expected[1], strict=True):
            close(ours, theirs)


def test_the_rule_ends_with_the_pass(images):
    def forward(x, fc):
        if torch.is_grad_enabled():
            raise KeyError("broken")
        return fc(F.relu(x).flatten(1))

    with pytest.raises(KeyError):
        passed(Through(forward, nn.Linear(3 * 16 * 20, 4)), images, "guided")
    leaf = torch.ones(1, requires_grad=True)
    (-F.relu(leaf)).backward()
    assert leaf.grad.item() == -1


# Full gradients -----------------------------------------------------------------------------------


def total(images, gradient, terms):
    """(N,) the sum of all parts, in float64."""
    parts = [images * gradient, *terms]
    return sum(part.double().flatten(1).sum(1) for part in parts)


def assert_complete(net, images, targets=1):
    gradient, terms = passed(net, images, "full", targets)
    with torch.no_grad():
        score = net(images)[:, targets].double()
    found = total(images, gradient, terms)
    assert (found - score).abs().max() <= 1e-4 * score.abs().max(), (found, score)
    # the parts count: without the biases it would not add up
    assert (total(images, gradient, []) - score).abs().max() > 1e-2 * score.abs().max()
    return terms


class _NormAct(nn.BatchNorm2d):
    """A batch norm that returns more than it normalised, as timm's."""

    def forward(self, images: Tensor) -> Tensor:
        return F.relu_(super().forward(images))


def _norms(affine, track=True):
    norm = nn.BatchNorm2d(6, affine=affine, track_running_stats=track)
    if track:
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    if affine:
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.uniform_(norm.bias, -1, 1)
    return norm


NETWORKS = {
    "GapNet": lambda toys: toys.GapNet(),
    "in place": lambda toys: toys.GapNet(inplace=True),
    "ResNet": lambda toys: toys.awake(toys.resnet()),
    "batch norm": lambda toys: nn.Sequential(
        nn.Conv2d(3, 6, 3), _norms(True), nn.ReLU(True), nn.Conv2d(6, 6, 3, bias=False),
        _norms(False), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.LazyLinear(4),
    ),
    "norm with activation": lambda toys: nn.Sequential(
        nn.Conv2d(3, 6, 3), _NormAct(6, eps=0.1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 4),
    ),
    "upwards": lambda toys: nn.Sequential(
        nn.Conv2d(3, 6, 3, 2), nn.LeakyReLU(), nn.ConvTranspose2d(6, 4, 2, 2), nn.ReLU(),
        nn.AdaptiveMaxPool2d(1), nn.Flatten(),
    ),
    "full activations": lambda toys: nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU6(inplace=True), nn.Conv2d(6, 6, 3), nn.Hardtanh(-0.1, 0.2),
        nn.Flatten(), nn.LazyLinear(4),
    ),
    "one dimension": lambda toys: Through(
        lambda x, one, fc: fc(one(x.flatten(2)).relu().amax(2)), nn.Conv1d(3, 6, 3), nn.Linear(6, 4)
    ),
    "functional": lambda toys: Through(
        lambda x, conv, fc: F.linear(
            F.conv2d(x, weight=conv.weight, bias=conv.bias).relu().mean((2, 3)), fc.weight, bias=fc.bias
        ),
        nn.Conv2d(3, 6, 3), nn.Linear(6, 4),
    ),
    "called twice": lambda toys: Through(
        lambda x, stem, conv, fc: fc(conv(conv(stem(x)).relu()).relu().mean((2, 3))),
        nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Linear(6, 4),
    ),
    "two branches, one unused": lambda toys: Through(
        lambda x, one, two, fc: (two(x), fc(one(x).relu().mean((2, 3))))[1],
        nn.Conv2d(3, 6, 3), nn.Conv2d(3, 6, 3), nn.Linear(6, 4),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", NETWORKS)
def test_full_gradients_add_up_to_the_score(toys, kind, images, protect):
    net = NETWORKS[kind](toys).eval()
    images = 10 * images if kind == "full activations" else images
    net(images)
    check = protect(net)
    assert_complete(net, images)
    check()


def test_full_gradient_hand_numbers():
    """y = relu(2 x + 1) summed over four pixels, then -3 times it + 10."""
    conv, fc = nn.Conv2d(3, 1, 1), nn.Linear(1, 1)
    conv.weight.data.fill_(2.0), conv.bias.data.fill_(1.0)
    fc.weight.data.fill_(-3.0), fc.bias.data.fill_(10.0)
    net = Through(lambda x, conv, fc: fc(conv(x).relu().sum((2, 3))), conv, fc)
    images = torch.zeros(1, 3, 2, 2)
    images[0, 0] = torch.tensor([[1.0, -1.0], [0.0, 2.0]])
    gradient, (first, second) = passed(net, images, "full", only)
    alive = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert torch.equal(gradient, (-6 * alive).expand(1, 3, 2, 2))
    assert torch.equal(first, (-3 * alive).expand(1, 1, 2, 2))
    assert torch.equal(second, torch.tensor([[10.0]]))


def test_full_gradient_shapes(toys, images):
    net = toys.awake(toys.resnet())
    _, terms = passed(net, images, "full")
    assert terms[0].shape == (3, 64, 8, 10)
    assert terms[-1].shape == (3, 10)
    # 1 stem + 4 stages x (2 batch norms) + 3 downsamplings + the linear layer: convs have no bias
    assert len(terms) == 13
    assert all(t.dtype is torch.float32 and not t.requires_grad for t in terms)


def test_batch_statistics_have_no_constant(images):
    """Without recorded statistics a batch norm is not affine: only its beta counts."""
    norm = _norms(True, track=False)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), norm, nn.Flatten(), nn.LazyLinear(2))
    net.eval()(images)
    # its scores depend on the batch, so that only a function of one's own can be explained
    gradient = passed(net, images, "full", lambda outputs: outputs[:, 0])[1][0]
    weight = net[3].weight.detach()[0].view(6, 14, 18)
    close(gradient, (weight * norm.bias.detach()[:, None, None]).expand(3, -1, -1, -1))


class _Tokens(nn.Module):
    """Patches, a class token, and layers on tokens; piecewise linear, biases everywhere."""

    def __init__(self, sequence_first=False):
        super().__init__()
        self.patches, self.mix, self.out = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 6), nn.Linear(6, 4)
        self.sequence_first = sequence_first

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
        if self.sequence_first:
            return self.out(F.relu(self.mix(tokens.transpose(0, 1))).mean(0))
        return self.out(F.relu(self.mix(tokens)).mean(1))


class _TokenModel(ExplainableModel):
    def token_grid(self, image_size):
        return image_size[0] // 4, image_size[1] // 4


@pytest.mark.parametrize("sequence_first", [False, True])
def test_tokens_lie_on_the_image(images, sequence_first):
    """Order: patches, tokens on the grid, the class token, the scores; none is lost."""
    net = _Tokens(sequence_first).eval()
    gradient, terms = passed(_TokenModel(net), images, "full", 1)
    assert [tuple(t.shape) for t in terms] == [(3, 8, 4, 5), (3, 6, 4, 5), (3, 6), (3, 4)]
    close(total(images, gradient, terms), net(images)[:, 1].detach().double(), rel=1e-4)
    plain = _Tokens().eval()
    plain.load_state_dict(net.state_dict())
    for a, b in zip(terms, passed(_TokenModel(plain), images, "full", 1)[1], strict=True):
        close(a, b)


def test_channels_last_and_windows(images):
    """A layer on (N, h, w, C) has a grid; on windows or their positions it has none."""

    def forward(x, conv, grid, folded, windows, fc):
        x = grid(conv(x).permute(0, 2, 3, 1)).relu()  # (3, 16, 20, 4)
        x = x.unflatten(1, (4, 4)).unflatten(3, (5, 4)).transpose(2, 3)  # 4 x 5 windows of 4 x 4
        x = folded(x.reshape(3 * 20, 16, 4)).relu()
        return fc(windows(x.reshape(3, 20, 16, 4)).relu().mean((1, 2)))

    layers = nn.Conv2d(3, 4, 1), *(nn.Linear(4, 4) for _ in range(4))
    net = Through(forward, *layers).eval()
    terms = assert_complete(net, images)
    shapes = [tuple(t.shape) for t in terms]
    assert shapes == [(3, 4, 16, 20), (3, 4, 16, 20), (3, 1280), (3, 1280), (3, 4)]


def test_layer_norms_count_their_beta(images):
    norm = nn.LayerNorm(6)
    nn.init.uniform_(norm.bias, -1, 1)
    net = Through(
        lambda x, conv, norm, fc: fc(norm(conv(x).permute(0, 2, 3, 1)).mean((1, 2))),
        nn.Conv2d(3, 6, 3, bias=False), norm, nn.Linear(6, 4, bias=False),
    )  # fmt: skip
    (term,) = passed(net, images, "full")[1]
    weight = net.layers[2].weight.detach()[0] / (14 * 18)
    close(term, (weight * norm.bias.detach())[:, None, None].expand(3, 6, 14, 18))


def test_images_that_cannot_be_told_apart(images):
    net = Through(lambda x, fc: fc(x.mean((2, 3)).T[:, :, None]).relu().sum(0), nn.Linear(1, 4))
    with pytest.raises(ValueError, match=r"2 images apart .*\(3, 2, 4\)"):
        passed(net, images[:2], "full")


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:FutureWarning")
def test_hidden_biases_are_an_error(toys, images):
    """A traced network runs where its layers cannot be observed."""
    traced = torch.jit.trace(toys.GapNet().eval(), images)
    with pytest.raises(ValueError, match=r"saw none of this network's biases"):
        passed(traced, images, "full")


def test_without_biases_there_is_only_the_input(images):
    net = nn.Sequential(nn.Flatten(), nn.Linear(960, 4, bias=False))
    gradient, terms = passed(net, images, "full")
    assert terms == []
    close(total(images, gradient, []), net(images)[:, 0].detach().double())


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["resnet10t", "repvgg_a0"])
def test_timm_networks_add_up(toys, name):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    assert_complete(toys.awake(timm.create_model(name)), torch.randn(2, 3, 64, 64))
