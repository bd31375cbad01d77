"""Models as people bring them: compiled, parallel, checkpointed, partly without gradients, or no use."""

import warnings

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from cam_core import explain, list_layers

METHODS = ["gradcam", "layercam", "scorecam", "gradients"]


@pytest.fixture
def images():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def convolutions(depth=3, channels=6):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, channels, 3, 2, 1), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [nn.Conv2d(channels, channels, 3, 1, 1), nn.ReLU()]
    return nn.Sequential(*layers)


class Net(nn.Module):
    """A backbone and a head; ``backbone`` may be called in any way."""

    def __init__(self, call=None):
        super().__init__()
        self.backbone = convolutions()
        self.head = nn.Linear(6, 3)
        self.call = call or (lambda net, x: net.backbone(x))

    def forward(self, x):
        return self.head(self.call(self, x).mean((2, 3)))


def assert_same(found, expected):
    assert len(found.maps) == len(expected.maps)
    for (key, ours), theirs in zip(found.maps.items(), expected.maps.values(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6), key
    assert torch.allclose(found.scores, expected.scores, atol=1e-6)


# compiled and parallel -----------------------------------------------------------------------------


def _compile(module):
    return torch.compile(module, backend="eager")


def _compiled_inside(net):
    net.backbone = _compile(net.backbone)
    return net


def _compiled_in_place(net):
    net.compile(backend="eager")
    net.backbone[2].compile(backend="eager")
    return net


def _compiled_function(net):
    net.call = _compile(lambda net, x: net.backbone(x))
    return net


def _parallel_inside(net):
    net.backbone = nn.DataParallel(net.backbone)
    return net


WRAPPED = {
    "compiled": _compile,
    "a part compiled": _compiled_inside,
    "in place": _compiled_in_place,
    "a function in the forward": _compiled_function,
    "parallel": nn.DataParallel,
    "compiled and parallel": lambda net: _compile(nn.DataParallel(net)),
    "a part parallel": _parallel_inside,
    "twice": lambda net: _compile(_compiled_inside(net)),
}


@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_wrapped_models_give_the_maps_of_the_plain_one(wrap, used, images):
    names = ["backbone.3", "backbone.5"]
    plain = Net().eval()
    expected = explain(plain, images, METHODS, 1, names)
    net = wrap(Net().eval())
    if used:
        with torch.no_grad():
            net(images)
    before = [type(m).__name__ for m in net.modules()], list(net.state_dict())
    found = explain(net, images, METHODS, 1, names)
    assert found.layers == names
    assert_same(found, expected)
    default = explain(net, images, "gradcam", 1)
    assert default.layers == explain(plain, images, "gradcam", 1).layers
    rows = [(row.name, row.default) for row in list_layers(net, images)]
    assert rows == [(row.name, row.default) for row in list_layers(plain, images)]
    assert before == ([type(m).__name__ for m in net.modules()], list(net.state_dict()))
    with torch.no_grad():
        assert torch.allclose(net(images), plain(images), atol=1e-6)


@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        ("compiled", "_orig_mod.backbone.3"),
        ("a part compiled", "backbone._orig_mod.3"),
        ("a part parallel", "backbone.module.3"),
        ("parallel", "module.backbone.3"),
        ("compiled and parallel", "_orig_mod.module.backbone.3"),
        ("twice", "_orig_mod.backbone._orig_mod.3"),
        ("compiled", "backbone.3"),
    ],
)
def test_layers_are_found_by_the_names_of_the_wrapper(wrap, name, images):
    net = WRAPPED[wrap](Net().eval())
    found = explain(net, images, "gradcam", 1, name)
    assert found.layers == ["backbone.3"]
    by_module = explain(net, images, "gradcam", 1, net.get_submodule(name) if "." in name[:10] else
                        dict(net.named_modules()).get(name, "backbone.3"))  # fmt: skip
    assert_same(by_module, found)


def test_a_compiled_part_is_a_layer_itself(images):
    net = _compiled_inside(Net().eval())
    assert explain(net, images, "gradcam", 1, net.backbone).layers == ["backbone"]
    assert_same(
        explain(net, images, "gradcam", 1, "backbone"),
        explain(Net().eval(), images, "gradcam", 1, "backbone"),
    )


def test_a_layer_that_a_compiled_model_does_not_have(images):
    with pytest.raises(ValueError, match=r"no layer 'backbon'; did you mean backbone\b"):
        explain(_compile(Net().eval()), images, "gradcam", 1, "backbon")


def test_a_module_named_module_is_no_wrapper(images):
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = Net()

        def forward(self, x):
            return self.module(x)

    assert explain(Outer().eval(), images, "gradcam", 1, "module.backbone.3").layers == [
        "module.backbone.3"
    ]


# gradient checkpointing ----------------------------------------------------------------------------


def _checkpointed(reentrant):
    def call(net, x):
        for layer in net.backbone:
            x = checkpoint(layer, x, use_reentrant=reentrant)
        return x

    return call


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
def test_checkpointed_models_give_the_maps_of_the_plain_one(reentrant, images):
    methods = [*METHODS, "integrated_gradients", "fullgrad", "guided_backprop"]
    names = ["backbone.3", "backbone.5"]
    net = Net(_checkpointed(reentrant)).eval()
    assert_same(
        explain(net, images, methods, 1, names), explain(Net().eval(), images, methods, 1, names)
    )
    assert explain(net, images, "gradcam", 1).layers == ["backbone.5"]


def test_checkpointing_is_there_again_afterwards(images):
    net, runs = Net(_checkpointed(False)).train(), []
    net.backbone[2].register_forward_pre_hook(lambda *args: runs.append(1))
    explain(net, images, "gradcam", 1, "backbone.5")
    runs.clear()  # the first time it was also found out how the network's scores end
    explain(net, images, "gradcam", 1, "backbone.5")
    assert len(runs) == 1
    net(images).sum().backward()
    assert len(runs) == 3  # forward, and again during the backward


def test_transformers_and_timm_with_checkpointing(images):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, depth=3, num_classes=3, embed_dim=24, num_heads=2
    ).eval()
    names = ["blocks.0", "blocks.1.norm1"]
    expected = explain(net, images, ["gradcam", "gradients"], 1, names)
    net.set_grad_checkpointing(True)
    assert_same(explain(net, images, ["gradcam", "gradients"], 1, names), expected)
    assert net.grad_checkpointing


# gradients that the forward itself switches off ----------------------------------------------------


def _without_grad(mode):
    def call(net, x):
        with mode():
            return net.backbone(x)

    return call


def _decorated(net, x):
    return torch.no_grad()(net.backbone)(x)


@pytest.mark.parametrize("name", ["backbone.3", "backbone.5", "backbone"])
def test_a_backbone_under_no_grad_has_the_gradients_it_has_without(name, images):
    expected = explain(Net().eval(), images, METHODS, 1, name)
    for call in (_without_grad(torch.no_grad), _decorated):
        assert_same(explain(Net(call).eval(), images, METHODS[:3], 1, name),
                    explain(Net().eval(), images, METHODS[:3], 1, name))  # fmt: skip
    assert expected.layers == [name]


def test_the_pixels_have_no_gradient_behind_no_grad(images):
    for call in (_without_grad(torch.no_grad), _decorated):
        with pytest.raises(ValueError, match=r"images .*runs 'backbone' under torch\.no_grad\(\)"):
            explain(Net(call).eval(), images, ["gradcam", "gradients"], 1, "backbone.3")


@pytest.mark.parametrize("method", ["attention_rollout", "chefer", "legrad"])
def test_attention_under_no_grad(method, images):
    timm = pytest.importorskip("timm")

    class Frozen(nn.Module):
        def __init__(self, mode):
            super().__init__()
            torch.manual_seed(0)
            self.vit = timm.create_model(
                "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=3, num_classes=4,
                embed_dim=24, num_heads=2,
            )  # fmt: skip
            self.head, self.mode = nn.Linear(4, 3), mode

        def forward(self, x):
            with self.mode():
                found = self.vit(x)
            return self.head(found)

    expected = explain(Frozen(torch.enable_grad).eval(), images, method, 1)
    assert_same(explain(Frozen(torch.no_grad).eval(), images, method, 1), expected)
    assert expected.maps[method, "attention"].abs().sum() > 0


@pytest.mark.parametrize("method", ["gradcam+noise", "smoothgradcampp", "shapleycam", "scorecam"])
def test_methods_of_several_passes_have_the_same_gradients(method, images):
    expected = explain(Net().eval(), images, method, 1, "backbone.3")
    found = explain(Net(_without_grad(torch.no_grad)).eval(), images, method, 1, "backbone.3")
    assert_same(found, expected)


class Adapted(nn.Module):
    """A frozen backbone under no_grad, and an adapter that is added to what it finds."""

    def __init__(self, mode):
        super().__init__()
        self.backbone, self.adapter = convolutions(), nn.Sequential(*convolutions(2)[2:])
        self.beside = convolutions(2)
        self.head, self.mode = nn.Linear(6, 3), mode

    def forward(self, x):
        with self.mode():
            found = self.backbone(x)
        found = found + self.adapter(found) + self.beside(x)
        return self.head(found.mean((2, 3)))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_an_adapter_beside_it_is_right_with_several_layers(mode, images):
    import contextlib

    names = ["adapter.0", "beside.1", "beside.2", "adapter.1"]
    expected = explain(
        Adapted(contextlib.nullcontext).eval(), images, ["gradcam", "layercam"], 1, names
    )
    assert_same(explain(Adapted(mode).eval(), images, ["gradcam", "layercam"], 1, names), expected)


def test_a_backbone_layer_among_several_has_the_whole_gradient(images):
    """Not only the part that goes past the adapter."""
    import contextlib

    names = ["backbone.5", "adapter.0", "beside.2"]
    expected = explain(Adapted(contextlib.nullcontext).eval(), images, "layercam", 1, names)
    for _ in range(2):  # found out with the first call, known at the second
        assert_same(explain(Adapted(torch.no_grad).eval(), images, "layercam", 1, names), expected)


def test_a_layer_whose_gradient_ends_says_where(images):
    def call(net, x):
        early = net.backbone[:2](x)
        with torch.no_grad():
            late = net.backbone[2](early)
        return net.backbone[3:](late)

    with pytest.raises(ValueError, match=r"runs 'backbone\.2' under torch\.no_grad\(\)"):
        explain(Net(call).eval(), images, "gradcam", 1, "backbone.0")
    assert explain(Net(call).eval(), images, "gradcam", 1).layers == ["backbone.5"]


def test_inference_mode_is_named_where_it_ends_the_gradient(images):
    net = Net(_without_grad(torch.inference_mode)).eval()
    with pytest.raises(ValueError, match=r"runs 'backbone\.4' under torch\.inference_mode\(\)"):
        explain(net, images, "gradcam", 1, "backbone.3")
    with pytest.raises(ValueError, match=r"images .*'backbone' under torch\.inference_mode\(\)"):
        explain(net, images, "gradients", 1)
    assert_same(
        explain(net, images, "gradcam", 1, "backbone"),
        explain(Net().eval(), images, "gradcam", 1, "backbone"),
    )


def test_no_grad_is_not_blamed_where_it_is_not_the_cause(images):
    """A rotary embedding may look at a tensor under no_grad; here the target detaches."""

    def call(net, x):
        found = net.backbone(x)
        with torch.no_grad():
            nn.Identity()(found)
            net.backbone[1](found)
        return found

    net = Net(call).eval()
    assert explain(net, images, "gradcam", 1, "backbone.3").layers == ["backbone.3"]
    with pytest.raises(ValueError, match="score that the target makes of it has none") as error:
        explain(net, images, "gradcam", lambda outputs: outputs[:, 0].detach(), "backbone.3")
    assert "no_grad" not in str(error.value)


def test_what_is_detached_is_said_by_the_last_layer_that_has_a_gradient(images):
    net = Net(lambda net, x: net.backbone[:3](x).detach()).eval()
    with pytest.raises(ValueError, match=r"'backbone\.2' is the last layer whose output has one"):
        explain(net, images, "gradcam", 1, "backbone.0")


# networks that cannot be explained as they are -----------------------------------------------------


class Lonely(nn.Module):
    """A module whose forward is a function."""

    def __init__(self, function):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.head = nn.Linear(6, 3)
        self.function = function

    def forward(self, x):
        return self.function(self.head(self.conv(x).mean((2, 3))))


class TwoImages(Lonely):
    def forward(self, left, right):
        return self.head(self.conv(left).mean((2, 3)) - self.conv(right).mean((2, 3)))


class Keyword(Lonely):
    def forward(self, x, *, temperature):
        return self.head(self.conv(x).mean((2, 3))) / temperature


class WithRest(Lonely):
    def forward(self, x, scale=1.0, *more, **others):
        return self.head(self.conv(x).mean((2, 3))) * scale


@pytest.mark.parametrize(("kind", "name"), [(TwoImages, "right"), (Keyword, "temperature")])
@pytest.mark.parametrize("layers", [None, "conv"])
def test_what_a_forward_needs_beside_the_images(kind, name, layers, images):
    with pytest.raises(ValueError, match=rf"forward needs more .*'{name}'; wrap it") as error:
        explain(kind(None).eval(), images, "gradcam", 1, layers)
    assert isinstance(error.value.__cause__, TypeError)
    with pytest.raises(ValueError, match=f"'{name}'"):
        list_layers(kind(None).eval())


def test_optional_arguments_are_no_obstacle(images):
    assert explain(WithRest(None).eval(), images, "gradcam", 1, "conv").layers == ["conv"]


def test_a_type_error_inside_is_not_taken_for_a_missing_argument(images):
    net = Lonely(lambda x: x + "a")
    with pytest.raises(ValueError, match=r"does not run on images of shape \(2, 3, 32, 32\)"):
        explain(net.eval(), images, "gradcam", 1, "conv")


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore::DeprecationWarning")
class TestScripted:
    @pytest.fixture(params=["script", "trace"])
    def make(self, request, images):
        def make(net):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if request.param == "script":
                    return torch.jit.script(net)
                return torch.jit.trace(net, images)

        return make

    def test_it_is_named(self, make, images):
        net = make(nn.Sequential(*convolutions(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval())
        for layers in (None, "0"):
            with pytest.raises(ValueError, match=r"TorchScript.*module that it was made from"):
                explain(net, images, "gradcam", 1, layers)
        with pytest.raises(ValueError, match="TorchScript"):
            list_layers(net, images)
        assert explain(net, images, "gradients", 1).maps["gradients", "input"].isfinite().all()

    def test_a_part_of_a_model(self, make, images):
        net = nn.Sequential(make(convolutions()), nn.Conv2d(6, 6, 1), nn.AdaptiveAvgPool2d(1),
                            nn.Flatten())  # fmt: skip
        found = explain(net.eval(), images, ["gradcam", "scorecam", "fullgrad"], 1)
        assert found.layers == ["1"]
        assert [row.name for row in list_layers(net, images)] == ["1"]
        with pytest.raises(ValueError, match=r"'0' is TorchScript.*layer around it"):
            explain(net, images, "gradcam", 1, "0")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
class TestQuantised:
    def test_dynamically(self, images):
        net = nn.Sequential(*convolutions(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
        net = torch.ao.quantization.quantize_dynamic(net.eval(), {nn.Linear}, torch.qint8)
        for layers in (None, "3"):
            with pytest.raises(ValueError, match=r"'8' is quantised \(Linear\).*before it was"):
                explain(net, images, "gradcam", 1, layers)
        with pytest.raises(ValueError, match=r"'8' is quantised"):
            explain(net, images, "gradients", 1)
        found = explain(net, images, ["scorecam", "eigencam"], 1, "3")
        assert found.maps["scorecam", "3"].isfinite().all()

    def test_all_of_it(self, images):
        import torchvision

        net = torchvision.models.quantization.resnet18(weights=None, quantize=True).eval()
        for layers in (None, "layer3"):
            with pytest.raises(ValueError, match="quantised numbers"):
                explain(net, images, "gradcam", 1, layers)
        with pytest.raises(ValueError, match="quantised"):
            explain(net, images, "gradients", 1)


def test_lazy_layers_are_left_alone(images):
    net = nn.Sequential(
        nn.LazyConv2d(4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(3)
    )
    for call in (lambda: explain(net, images, "gradcam", 1), lambda: list_layers(net)):
        with pytest.raises(ValueError, match=r"'0.weight' of a LazyConv2d is not initialised"):
            call()
    assert nn.parameter.is_lazy(net[0].weight)
    net.eval()(images)
    assert explain(net, images, "gradcam", 1).layers == ["0"]


def test_a_model_on_the_meta_device(images):
    net = Net().to("meta")
    for call in (lambda: explain(net, images, "gradcam", 1), lambda: list_layers(net)):
        with pytest.raises(ValueError, match=r"is on the meta device.*assign=True"):
            call()


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: None, "returned a NoneType, not class scores"),
        (lambda x: torch.complex(x, x), r"complex numbers \(torch.complex64\)"),
        (lambda x: x.argmax(1), r"integers \(torch.int64\)"),
        (lambda x: x > 0, r"integers \(torch.bool\)"),
        (lambda x: {"a": x, "b": x[:, :1]}, "entries|dict"),
        (lambda x: "cat", "returned a str"),
    ],
)
@pytest.mark.parametrize("layers", [None, "conv"])
def test_what_a_model_returns_that_is_no_score(function, words, layers, images):
    with pytest.raises(ValueError, match=words):
        explain(Lonely(function).eval(), images, "gradcam", 1, layers)


def test_half_precision_weights_and_other_images(images):
    net = Net().eval().half()
    with pytest.raises(
        ValueError, match=r"weights are torch.float16: give images.to\(torch.float16\)"
    ):
        explain(net, images, "gradcam", 1)
    assert explain(net, images.half(), "gradcam", 1).maps["gradcam", "backbone"].isfinite().all()


def test_a_layer_of_complex_numbers(images):
    net = Net(lambda net, x: net.spectrum(net.backbone(x)).abs())
    net.spectrum = Spectrum()
    with pytest.raises(ValueError, match=r"'spectrum' returns complex numbers"):
        explain(net.eval(), images, "gradcam", 1, "spectrum")
    assert explain(net, images, "gradcam", 1).layers == ["backbone"]


class Spectrum(nn.Module):
    def forward(self, x):
        return torch.fft.fft2(x)


def test_an_error_of_the_forwards_own_keeps_its_type(images):
    class Stop(Exception):
        pass

    def stop(x):
        raise Stop("enough")

    with pytest.raises(Stop, match="enough"):
        explain(Lonely(stop).eval(), images, "gradcam", 1, "conv")


def test_an_operation_that_fails_says_on_what(images):
    for layers in (None, "conv"):
        with pytest.raises(
            ValueError, match=r"\(2, 1, 32, 32\).*RuntimeError: Given groups"
        ) as error:
            explain(Lonely(None).eval(), images[:, :1], "gradcam", 1, layers)
        assert isinstance(error.value.__cause__, RuntimeError)


def test_an_exported_network_has_no_layers(images):
    net = torch.export.export(Net().eval(), (images,)).module()
    with pytest.raises(ValueError, match=r"torch\.export.*module it was made from"):
        explain(net, images, "gradcam", 1)


def test_a_compiled_forward(images):
    net = Net().eval()
    expected = explain(Net().eval(), images, METHODS, 1, "backbone.3")
    net.forward = torch.compile(net.forward, backend="eager")
    net(images)
    assert_same(explain(net, images, METHODS, 1, "backbone.3"), expected)


# list_layers without images ------------------------------------------------------------------------


def _of(channels, *layers):
    return nn.Sequential(nn.Conv2d(channels, 4, 3, 2, 1), nn.ReLU(), *layers).eval()


@pytest.mark.parametrize(
    ("net", "image"),
    [
        (_of(3), (3, 224, 224)),
        (_of(1), (1, 224, 224)),
        (_of(11), (11, 224, 224)),
        (_of(1, nn.Flatten(), nn.Linear(4 * 14 * 14, 2)), (1, 28, 28)),
        (_of(4, nn.Flatten(), nn.Linear(4 * 16 * 16, 2)), (4, 32, 32)),
        (nn.Sequential(nn.Conv2d(6, 6, 3, groups=3), nn.ReLU()), (6, 224, 224)),
        (nn.Sequential(nn.BatchNorm2d(5), nn.Conv2d(5, 4, 3)), (5, 224, 224)),
    ],
)
def test_the_random_image_is_one_that_the_network_takes(net, image):
    state = torch.get_rng_state()
    rows = list_layers(net)
    assert torch.equal(state, torch.get_rng_state())
    assert rows.image == image
    assert [row.name for row in rows] == ["0", "1"]
    assert str(rows).endswith(f"; grids for {' x '.join(map(str, image))}")
    with torch.no_grad():
        net(torch.zeros(1, *image))


def test_sizes_that_networks_say_themselves():
    timm = pytest.importorskip("timm")
    net = timm.create_model("vit_tiny_patch16_384", depth=1, embed_dim=24, num_heads=2).eval()
    assert list_layers(net).image == (3, 384, 384)
    net = timm.create_model("resnet10t.c3_in1k", in_chans=5).eval()
    assert list_layers(net).image[0] == 5


def test_a_random_image_of_a_given_size_and_an_image_without_a_batch():
    net = _of(2, nn.Flatten(), nn.Linear(4 * 10 * 20, 2))
    assert [row.grid for row in list_layers(net, image_size=(20, 40))] == [(10, 20)] * 2
    assert [row.grid for row in list_layers(net, torch.zeros(2, 20, 40))] == [(10, 20)] * 2
    with pytest.raises(ValueError, match=r"2 x 40 x 40 .*image_size=\(height, width\)"):
        list_layers(net, image_size=40)


# A model that was edited is another one -------------------------------------------------------------


def test_the_default_layer_is_that_of_the_model_as_it_is_now(images):
    net = Net().eval()
    assert explain(net, images, "gradcam", 1).layers == ["backbone"]
    net.call = lambda net, x: net.backbone[:4](x)
    assert explain(net, images, "gradcam", 1).layers == ["backbone.3"]
    net.backbone[2] = nn.Identity()
    net.call = lambda net, x: net.backbone[2](net.backbone[:2](x))
    assert explain(net, images, "gradcam", 1).layers == ["backbone.1"]


def test_a_layer_that_was_alive_and_is_not_any_more_is_an_error(images):
    net = Net().eval()
    explain(net, images, "gradcam", 1, "backbone.5")
    with torch.no_grad():
        net.head.weight.zero_()
    with pytest.raises(ValueError, match=r"zero at every position.*'head' are all zero"):
        explain(net, images, "gradcam", 1, "backbone.5")


def test_another_output_has_another_default(images):
    from cam_core import adapt

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return {"a": self.a(x).mean((2, 3)), "b": self.b(x).mean((2, 3))}

    net = Two().eval()
    for name in ("a", "b", "a"):
        # each function is gone before the next is made, which may lie at its address
        model = adapt(net, output=lambda outputs, name=name: outputs[name])
        assert explain(model, images, "gradcam", 1).layers == [name]
        del model
