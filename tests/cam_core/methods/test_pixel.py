"""Pixel-level methods: hand numbers, references in double, identities, captum, and what holds for all."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cam_core import explain, list_methods
from cam_core.methods.catalogue import resolve_methods
from cam_core.methods.pixel import fullgrad, integrated_gradients, smoothgrad

HERE = {
    "gradients", "input_x_gradient", "guided_backprop", "guided_gradcam", "smoothgrad",
    "integrated_gradients", "fullgrad",
}  # fmt: skip
INFOS = {info.name: info for info in list_methods() if info.name in HERE}
ALL = [
    ("smoothgrad", {"samples": 3}) if name == "smoothgrad" else
    ("integrated_gradients", {"steps": 4}) if name == "integrated_gradients" else name
    for name in INFOS
]  # fmt: skip
TARGET = torch.tensor([3, 1, 0])


def close(a, b, rel=1e-5):
    b = torch.as_tensor(b)
    torch.testing.assert_close(a, b, rtol=rel, atol=rel * float(b.abs().max()))


def maps_of(net, images, methods, targets=TARGET, **kwargs):
    """(N, H, W) by method, of the first target."""
    kwargs.setdefault("layers", None)
    result = explain(net, images, methods, targets, **kwargs)
    return {key: maps[:, 0] for (key, layer), maps in result.maps.items() if layer == "input"}


def only(net, images, method, targets=TARGET, **kwargs):
    (result,) = maps_of(net, images, [method], targets, **kwargs).values()
    return result


@pytest.fixture
def net(toys):
    return toys.GapNet().eval()


@pytest.fixture
def images():
    return torch.randn(3, 3, 16, 20)


@pytest.fixture
def linear():
    """A linear network without biases: the score is the sum of weight times pixel."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 20, 5, bias=False))


def exact_gradient(net, images, targets=TARGET):
    """By autograd in double."""
    leaf = images.double().requires_grad_()
    scores = copy.deepcopy(net).double()(leaf)
    return torch.autograd.grad(scores[range(len(leaf)), targets].sum(), leaf)[0]


# The registry -------------------------------------------------------------------------------------


def test_they_are_registered():
    assert set(INFOS) == HERE
    for info in INFOS.values():
        assert (info.family, info.place) == ("pixel", "input")
        assert info.class_discriminative
        assert not info.gradient_free
        assert info.needs_layer is (info.name == "guided_gradcam")
    assert {n for n, i in INFOS.items() if i.signed} == {"input_x_gradient", "integrated_gradients"}


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("Saliency", "gradients"), ("vanilla-gradients", "gradients"), ("IG", "integrated_gradients"),
        ("Guided Backprop", "guided_backprop"), ("guided grad-cam", "guided_gradcam"),
        ("input x gradient", "input_x_gradient"), ("SmoothGrad", "smoothgrad"),
    ],
)  # fmt: skip
def test_aliases(alias, name):
    assert resolve_methods(alias)[0].info.name == name


# Each against an independent truth ------------------------------------------------------------------


def test_hand_numbers():
    """Two pixels of three colours; y_1 = w x."""
    weight = torch.tensor([[1.0, -2.0, 0.5, 3.0, 0.0, -1.0]])
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 2, bias=False))
    net[1].weight.data = torch.cat([torch.zeros_like(weight), weight])
    images = torch.tensor([2.0, 1.0, 4.0, -1.0, 5.0, 1.0]).view(1, 3, 1, 2)
    maps = maps_of(net, images, ["gradients", "input_x_gradient"], 1)
    assert maps["gradients"].tolist() == [[[1.0, 3.0]]]  # of |1, .5, 0| and |-2, 3, -1|
    assert maps["input_x_gradient"].tolist() == [[[4.0, -6.0]]]  # 2 + 2 + 0 and -2 - 3 - 1


@pytest.mark.parametrize("kind", ["GapNet", "DeepNet"])
def test_gradients_are_autograds(toys, images, kind):
    net = getattr(toys, kind)().eval()
    exact = exact_gradient(net, images)
    maps = maps_of(net, images, ["gradients", "input_x_gradient"])
    close(maps["gradients"].double(), exact.abs().amax(1))
    close(maps["input_x_gradient"].double(), (images * exact).sum(1))


def test_signed_methods_add_up_on_a_linear_network(linear, images):
    scores = linear(images).detach()[range(3), TARGET]
    for method in ["input_x_gradient", ("integrated_gradients", {"steps": 1})]:
        close(only(linear, images, method).sum((1, 2)), scores, rel=1e-4)


def test_guided_gradcam_is_the_product(net, images):
    maps = explain(
        net, images, ["gradcam", "guided_backprop", "guided_gradcam"], TARGET, ["early", "relu"]
    ).maps
    cam = F.interpolate(maps["gradcam", "relu"].relu(), size=(16, 20), mode="bilinear")
    close(maps["guided_gradcam", "input"], maps["guided_backprop", "input"] * cam)
    backwards = explain(net, images, "guided_gradcam", TARGET, ["relu", "early"]).maps
    close(backwards["guided_gradcam", "input"], maps["guided_gradcam", "input"])


def test_smoothgrad_is_the_mean_gradient_of_its_noise(toys, images):
    """The same draws, in double."""
    net, sigma = toys.DeepNet().eval(), 0.2
    images[1] *= 10
    rng = torch.Generator().manual_seed(7)
    draws = [torch.randn(3, 16, 20, generator=rng) for _ in range(5)]
    span = (images.amax((1, 2, 3)) - images.amin((1, 2, 3)))[:, None, None, None]
    exact = sum(exact_gradient(net, images + sigma * span * e) for e in draws) / 5
    ours = only(net, images, ("smoothgrad", {"samples": 5, "sigma": sigma}), seed=7)
    close(ours.double(), exact.abs().amax(1), rel=1e-4)


def test_smoothgrad_without_noise_is_the_gradient(net, images):
    expected = only(net, images, "gradients")
    close(only(net, images, ("smoothgrad", {"sigma": 0, "samples": 3})), expected)
    flat = torch.full_like(images, 0.3)
    close(only(net, flat, ("smoothgrad", {"samples": 3})), only(net, flat, "gradients"))


def test_smoothgrad_is_seeded(net, images):
    first, again = (only(net, images, ("smoothgrad", {"samples": 3})) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, only(net, images, ("smoothgrad", {"samples": 3}), seed=1))


@pytest.mark.parametrize("rule", ["gausslegendre", "riemann_right", "riemann_middle"])
def test_integrated_gradients_are_complete(toys, images, rule):
    """The sum is y(x) - y(x'); its error falls as the rule says."""
    net = toys.DeepNet().eval().double()
    base = torch.rand(1, 3, 16, 20).double()
    images = images.double()
    with torch.no_grad():
        wanted = (net(images) - net(base))[range(3), TARGET]
    errors = []
    for steps in (20, 320):
        options = {"steps": steps, "rule": rule, "baseline": base, "batch_size": 200}
        found = only(net, images, ("integrated_gradients", options)).double().sum((1, 2))
        errors.append(float((found - wanted).abs().max() / wanted.abs().max()))
    assert errors[1] < 1e-2
    assert errors[1] < errors[0] / 4


def test_integrated_gradients_of_a_square_by_hand():
    """y = x^2 from 1 to 3: the integral of 2 (1 + 2 a) is 4, times 2 is 8; the right sum is 6 * 2."""
    images = torch.full((1, 3, 1, 1), 3.0)

    def differentiate(batch, rows):
        return 2 * batch, batch.square().sum((1, 2, 3))

    for rule, each in {"gausslegendre": 8.0, "riemann_middle": 8.0, "riemann_right": 12.0}.items():
        found = integrated_gradients(images, differentiate, steps=1, baseline=1, rule=rule)
        assert found.tolist() == [[[pytest.approx(3 * each)]]]


@pytest.mark.parametrize("shape", [(), (3, 1, 1), (16, 20), (1, 3, 16, 20), (3, 3, 16, 20)])
def test_baselines_broadcast(linear, images, shape):
    base = torch.randn(shape)
    weight = linear[1].weight.detach()[TARGET].view_as(images)
    found = only(linear, images, ("integrated_gradients", {"baseline": base, "steps": 3}))
    close(found, ((images - base) * weight).sum(1), rel=1e-4)


def test_fullgrad_by_hand():
    """y = 3 relu(x1 - x0 + 2) summed over pixels: the input's sizes and the bias's, each to [0, 1]."""
    conv = nn.Conv2d(3, 2, 1)
    conv.weight.data = torch.tensor([[-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]).view(2, 3, 1, 1)
    conv.bias.data = torch.tensor([2.0, 1.0])

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv

        def forward(self, x):
            return 3 * self.conv(x).relu().sum((2, 3))

    images = torch.zeros(1, 3, 1, 3)
    images[0, 0] = torch.tensor([0.0, 1.0, 3.0])
    images[0, 1] = torch.tensor([4.0, 0.0, 0.0])
    # alive: 1 1 0; |x R|: 0 3 0 and 12 0 0; psi divides by 12. Bias: |2 * 3| where alive, 0 elsewhere.
    assert only(Net(), images, "fullgrad", 0).tolist() == [[[1.0 + 1, 0.25 + 1, 0.0]]]


def test_fullgrad_is_its_formula_in_double(toys, images):
    """On a ResNet, with the gradients at all batch norms taken by hooks."""
    net = toys.awake(toys.resnet()).double()
    leaf, outputs = images.double().requires_grad_(), []
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    handles = [
        m.register_forward_hook(lambda m, args, out: (outputs.append((m, out)), out.clone())[1])
        for m in norms
    ]
    scores = net(leaf)[range(3), TARGET]
    for handle in handles:
        handle.remove()
    found = torch.autograd.grad(scores.sum(), [leaf, *(out for _, out in outputs)])
    terms = [leaf.detach() * found[0]]
    for (m, _), gradient in zip(outputs, found[1:], strict=True):
        constant = m.bias - m.weight * m.running_mean / (m.running_var + m.eps).sqrt()
        terms.append(gradient * constant.detach()[:, None, None])
    expected = 0
    for term in terms:
        size = term.abs().flatten(1)
        low, high = size.min(1, keepdim=True).values, size.max(1, keepdim=True).values
        unit = ((size - low) / (high - low).clamp_min(1e-300)).view_as(term)
        if unit.shape[2] * unit.shape[3] > 1:
            unit = F.interpolate(unit, (16, 20), mode="bilinear", align_corners=False)
            expected = expected + unit.sum(1)
    close(only(net.float(), images, "fullgrad").double(), expected, rel=1e-3)


def test_fullgrad_of_flat_terms_is_zero(images):
    flat = torch.ones(3, 2, 4, 5)
    assert not fullgrad(torch.zeros_like(images), (torch.ones_like(images), [flat])).any()


# captum -------------------------------------------------------------------------------------------


@pytest.fixture
def captum():
    return pytest.importorskip("captum.attr", reason="captum is not installed")


@pytest.fixture
def plain():
    """Modules only, each called once, as captum's rule needs them."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 5),
    ).eval()  # fmt: skip


@pytest.mark.oracle
@pytest.mark.parametrize("kind", ["plain", "resnet"])
def test_captum_saliency(captum, toys, plain, images, kind):
    net = plain if kind == "plain" else toys.awake(toys.resnet())
    maps = maps_of(net, images, ["gradients", "input_x_gradient"])
    leaf = images.clone().requires_grad_()
    close(maps["gradients"], captum.Saliency(net).attribute(leaf, TARGET).amax(1))
    theirs = captum.InputXGradient(net).attribute(leaf, TARGET).detach().sum(1)
    close(maps["input_x_gradient"], theirs)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU")
def test_captum_guided(captum, plain, images):
    leaf = images.clone().requires_grad_()
    maps = maps_of(plain, images, ["guided_backprop", "guided_gradcam"], layers=["4", "7"])
    theirs = captum.GuidedBackprop(plain).attribute(leaf, TARGET)
    close(maps["guided_backprop"], theirs.abs().amax(1))
    theirs = captum.GuidedGradCam(plain, plain[7]).attribute(
        leaf, TARGET, interpolate_mode="bilinear"
    )
    close(maps["guided_gradcam"], theirs.detach().abs().amax(1))


@pytest.mark.oracle
@pytest.mark.parametrize("rule", ["gausslegendre", "riemann_right", "riemann_middle"])
def test_captum_integrated_gradients(captum, plain, images, rule):
    base = torch.rand_like(images)
    options = {"steps": 10, "rule": rule, "baseline": base, "batch_size": 7}
    theirs = captum.IntegratedGradients(plain).attribute(
        images, base, TARGET, n_steps=10, method=rule
    )
    close(only(plain, images, ("integrated_gradients", options)), theirs.sum(1).float(), rel=1e-4)


@pytest.mark.oracle
def test_captum_smoothgrad(captum, plain, images, monkeypatch):
    """With our noise in the place of theirs; their sigma is one for all images."""
    image = images[:1]
    rng = torch.Generator().manual_seed(51)
    draws = torch.stack([torch.randn(3, 16, 20, generator=rng) for _ in range(6)])
    monkeypatch.setattr(torch, "normal", lambda mean, std: mean + std * draws)
    sigma = 0.1 * float(image.max() - image.min())
    theirs = captum.NoiseTunnel(captum.Saliency(plain)).attribute(
        image, nt_type="smoothgrad", nt_samples=6, stdevs=sigma, target=3, abs=False
    )
    ours = only(plain, image, ("smoothgrad", {"samples": 6, "sigma": 0.1}), 3)
    close(ours, theirs.detach().abs().amax(1))


# What holds for all -------------------------------------------------------------------------------


def test_shape_and_names(net, images):
    result = explain(net, images, ALL, [0, 2])
    assert {layer for _, layer in result.maps} == {"input"}
    for maps in result.maps.values():
        assert maps.shape == (3, 2, 16, 20)
        assert maps.dtype is torch.float32
        assert not maps.requires_grad
        assert maps.isfinite().all()
        assert not torch.allclose(maps[:, 0], maps[:, 1])
        for name, info in INFOS.items():
            if not info.signed:
                assert (result.maps[name, "input"] >= 0).all()


def test_no_grid_is_needed(linear, images):
    """A network without convolutions has no target layer, and pixels all the same."""
    methods = [m for m in ALL if "guided" not in str(m)]
    maps = maps_of(linear, images, methods)
    assert len(maps) == 5
    assert all(m.any() for m in maps.values())


@pytest.mark.parametrize("kind", ["GapNet", "DeepNet"])
def test_a_map_does_not_depend_on_its_batch(toys, images, kind):
    net = getattr(toys, kind)().eval()
    whole, turned = (maps_of(net, images.flip(0) if f else images, ALL, TARGET.flip(0) if f else TARGET)
                     for f in (False, True))  # fmt: skip
    alone = [maps_of(net, images[i : i + 1], ALL, TARGET[i : i + 1]) for i in range(3)]
    for key, maps in whole.items():
        close(torch.cat([a[key] for a in alone]), maps, rel=1e-4)
        close(turned[key].flip(0), maps, rel=1e-4)


@pytest.mark.parametrize("around", ["frozen", "no_grad", "inference", "leaf", "train", "inplace"])
def test_surroundings_do_not_matter(toys, net, images, around, protect):
    expected = maps_of(net, images, ALL)
    other = toys.GapNet(inplace=around == "inplace").train(around == "train")
    other.load_state_dict(net.state_dict())
    other.requires_grad_(around != "frozen")
    check = protect(other)
    given = images.clone().requires_grad_(around == "leaf")
    with torch.inference_mode(around == "inference"), torch.set_grad_enabled(around != "no_grad"):
        found = maps_of(other, given, ALL)
    check()
    for key, maps in expected.items():
        close(found[key], maps)


@pytest.mark.parametrize("method", ALL, ids=str)
def test_the_model_is_left_as_it_was_when_something_raises(net, images, method, protect):
    calls = []

    def target(outputs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyError("broken")
        return outputs[:, 0]

    check = protect(net)
    with pytest.raises(KeyError):
        explain(net, images, method, target, ["relu"])
    check()


def test_flip_equivariance(images):
    layers = [nn.Conv2d(3, 6, 3, 1, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, 1, 1), nn.ReLU()]
    for conv in layers[::2]:
        conv.weight.data = (conv.weight.data + conv.weight.data.flip(-1)) / 2
    net = nn.Sequential(
        nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)
    )
    # the noise is not mirrored with the image
    methods = [m for m in ALL if "smoothgrad" not in m]
    straight, mirrored = (maps_of(net.eval(), x, methods) for x in (images, images.flip(-1)))
    for key, maps in straight.items():
        close(mirrored[key].flip(-1), maps, rel=1e-4)


@pytest.mark.parametrize("factor", [1e-3, 50.0])
def test_scaled_logits(toys, images, factor):
    """All are linear in the gradient, but for the full gradient, which is rescaled, and the product."""
    net = toys.GapNet().eval()
    scaled = copy.deepcopy(net)
    scaled.fc.weight.data *= factor
    scaled.fc.bias.data *= factor
    before, after = maps_of(net, images, ALL), maps_of(scaled, images, ALL)
    powers = {"fullgrad": 0, "guided_gradcam": 2}
    for key, maps in before.items():
        close(after[key], maps * factor ** powers.get(key, 1), rel=1e-4)


def test_a_negated_score(net, images):
    """Signed maps change their sign, sizes stay."""
    maps, negated = (
        maps_of(net, images, ALL, lambda outputs, s=sign: s * outputs[:, 1]) for sign in (1, -1)
    )
    for key in ("input_x_gradient", "integrated_gradients"):
        close(negated[key], -maps[key])
    for key in ("gradients", "smoothgrad", "fullgrad"):
        close(negated[key], maps[key])
    assert not torch.allclose(negated["guided_backprop"], maps["guided_backprop"])


def test_zero_gradient_is_a_zero_map(net, images):
    """A ReLU that never opens: a finding, not NaN."""
    net.conv.weight.data.zero_()
    net.conv.bias.data.fill_(-1)
    methods = [m for m in ALL if m != "guided_gradcam"]
    result = explain(net, images, methods, 1)
    names = [m if isinstance(m, str) else m[0] for m in methods]
    for name in set(names) - {"fullgrad"}:
        assert not result.maps[name, "input"].any()
        assert result.status()[name, "input"] == [["zero"]] * 3
    assert not result.maps["fullgrad", "input"].any()  # the last bias has no place


def test_an_image_that_is_not_finite_spoils_itself_only(net, images):
    expected = maps_of(net, images, ALL)
    images[1, 0, 3, 3] = torch.nan
    found = maps_of(net, images, ALL)
    for key, maps in expected.items():
        close(found[key][[0, 2]], maps[[0, 2]], rel=1e-4)


def test_bfloat16(toys, images, corr):
    net = toys.awake(toys.resnet())
    exact = maps_of(net, images, ALL, layers="layer2")
    for key, maps in maps_of(net, images, ALL, layers="layer2", precision="bfloat16").items():
        assert maps.dtype is torch.float32
        assert maps.isfinite().all()
        assert corr(maps, exact[key]) > 0.9, key


def test_targets_that_do_not_exist_are_nan(net, images):
    result = explain(net, images, ALL, torch.tensor([[1, 2], [3, -1], [0, 4]]))
    for maps in result.maps.values():
        assert maps[1, 1].isnan().all()
        assert maps[[0, 0, 1, 2, 2], [0, 1, 0, 0, 1]].isfinite().all()


def test_smoothing_wraps_them(net, images):
    plain = maps_of(net, images, ["gradients", "gradients+aug"])
    assert plain["gradients_aug"].shape == (3, 16, 20)
    assert not torch.allclose(plain["gradients_aug"], plain["gradients"])
    assert only(net, images, "guided_gradcam+eigen").any()


@pytest.mark.parametrize("batch_size", [1, 2, 5, 7, 100])
@pytest.mark.parametrize("method", ["smoothgrad", "integrated_gradients"])
def test_batch_size_does_not_matter(net, images, method, batch_size):
    options = {"samples": 5} if method == "smoothgrad" else {"steps": 5}
    close(
        only(net, images, (method, {**options, "batch_size": batch_size})),
        only(net, images, (method, options)),
    )


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("smoothgrad", {"samples": 0}, "samples must be"),
        ("smoothgrad", {"samples": 2.5}, "samples must be"),
        ("smoothgrad", {"sigma": -0.1}, "sigma must be"),
        ("smoothgrad", {"sigma": float("nan")}, "sigma must be"),
        ("smoothgrad", {"sigma": "0.1"}, "sigma must be"),
        ("smoothgrad", {"batch_size": 0}, "batch_size must be"),
        ("smoothgrad", {"steps": 3}, "no option 'steps'"),
        ("integrated_gradients", {"steps": 0}, "steps must be"),
        ("integrated_gradients", {"steps": True}, "steps must be"),
        ("integrated_gradients", {"batch_size": -1}, "batch_size must be"),
        ("integrated_gradients", {"rule": "simpson"}, "rule: 'simpson' is unknown"),
        ("integrated_gradients", {"baseline": "black"}, "baseline must be .* got 'black'"),
        ("integrated_gradients", {"baseline": torch.zeros(4, 1, 1)}, r"baseline must be .*\(4, 1, 1\)"),
        ("integrated_gradients", {"baseline": torch.zeros(1, 3, 3, 1, 1)}, "baseline must be"),
    ],
)  # fmt: skip
def test_bad_options(net, images, method, options, message, protect):
    check = protect(net)
    with pytest.raises(ValueError, match=message):
        explain(net, images, (method, options), 1)
    check()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_maps_of_the_cpu(net, images):
    methods = [m for m in ALL if "smoothgrad" not in m]  # each device draws its own noise
    expected = maps_of(net, images, methods)
    with torch.backends.cudnn.flags(allow_tf32=False):
        found = maps_of(copy.deepcopy(net).cuda(), images.cuda(), [*methods, "smoothgrad"])
        again = maps_of(copy.deepcopy(net).cuda(), images.cuda(), ["smoothgrad"])
    assert all(maps.is_cuda for maps in found.values())
    for key, maps in expected.items():
        close(found[key].cpu(), maps, rel=1e-4)
    close(again["smoothgrad"], found["smoothgrad"])


# Memory -------------------------------------------------------------------------------------------


class Scarce:
    """An ingredient that runs out of memory for more than some images at once."""

    def __init__(self, most):
        self.most, self.sizes = most, []

    def __call__(self, batch, rows):
        self.sizes.append(len(batch))
        if len(batch) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        return batch * torch.tensor([1.0, 2.0, 3.0])[list(rows)][:, None, None, None], None


@pytest.mark.parametrize("method", ["gradients", "input_x_gradient"])
def test_single_passes_are_halved_when_memory_runs_out(images, method):
    function = resolve_methods(method)[0].function
    scarce = Scarce(1)
    assert torch.equal(function(images, scarce), function(images, Scarce(99)))
    assert scarce.sizes == [3, 1, 1, 1]


@pytest.mark.parametrize("method", ["smoothgrad", "integrated_gradients"])
def test_chunks_are_halved_when_memory_runs_out(images, method):
    def run(ingredient):
        if method == "smoothgrad":
            rng = torch.Generator().manual_seed(1)
            return smoothgrad(images, ingredient, rng, samples=5, batch_size=8)
        return integrated_gradients(images, ingredient, steps=5, batch_size=8)

    scarce = Scarce(3)
    close(run(scarce), run(Scarce(99)))
    assert scarce.sizes == [8, 4, 2, 2, 2, 2, 2, 2, 2, 1]
    with pytest.raises(torch.OutOfMemoryError):
        run(Scarce(0))
