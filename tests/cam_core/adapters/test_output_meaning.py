"""What an output means: probabilities are known as such, and what is explained is the logit before.

The truth is the same network without its last activation, explained as it always was.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cam_core import adapt, explain, list_layers, mask_target
from cam_core.adapters import ending as endings

METHODS = ["gradcam", "layercam", "gradcampp", "ablationcam"]


class Ending(nn.Module):
    """A small network whose last step is a function."""

    def __init__(self, last, outputs=4, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, outputs)
        )  # fmt: skip
        self.last = last
        self.eval()

    def forward(self, x):
        return self.last(self.body(x))


def images(count=3, size=32, seed=1):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def same(net, outputs, of=None, **options):
    """The explanation of a network, checked against that of its logits."""
    plain = Ending(lambda z: z, outputs)
    found = explain(adapt(net, **options), images(), METHODS, targets=0, layers="body.1")
    true = explain(plain, images(), METHODS, targets=0, layers="body.1")
    for key, maps in true.maps.items():
        torch.testing.assert_close(found.maps[key], maps, rtol=2e-3, atol=1e-5)
    if of is not None:
        torch.testing.assert_close(found.probabilities, of, rtol=1e-4, atol=1e-6)
    return found, true


SIGMOIDS = {
    "module": nn.Sigmoid(),
    "function": torch.sigmoid,
    "F.sigmoid": F.sigmoid,
    "method": lambda z: z.sigmoid(),
    "in place": lambda z: z.sigmoid_(),
    "special": torch.special.expit,
    "cast": lambda z: torch.sigmoid(z).double(),
    "clamped": lambda z: torch.sigmoid(z).clamp(1e-6, 1 - 1e-6),
    "reshaped": lambda z: torch.sigmoid(z[:, :, None]).flatten(1),
    "in a dict": lambda z: {"probs": torch.sigmoid(z)},
    "beside features": lambda z: (torch.sigmoid(z), z.new_zeros(len(z), 2, 2)),
    "a gate after it": lambda z: (torch.sigmoid(z), torch.sigmoid(z.new_zeros(len(z), 1, 1)))[0],
}


@pytest.mark.parametrize("last", SIGMOIDS.values(), ids=SIGMOIDS)
def test_a_sigmoid_for_each_label(last):
    net = Ending(last)
    z = net.body(images()).detach()
    model = adapt(net)
    found, true = same(net, 4, z.sigmoid())
    torch.testing.assert_close(found.scores, true.scores)
    torch.testing.assert_close(found.logits, true.logits)
    assert explain(model, images()).targets.shape[0] == 3
    assert model.multi_label
    # labels of their own: all whose probability is half or more
    wanted = [sorted((row > 0).nonzero()[:, 0].tolist())[:3] or [int(row.argmax())] for row in z]
    predicted = explain(model, images()).targets.tolist()
    assert [sorted(i for i in row if i >= 0) for row in predicted] == wanted


@pytest.mark.parametrize("last", SIGMOIDS.values(), ids=SIGMOIDS)
def test_one_sigmoid_is_the_probability_of_class_1(last):
    net = Ending(last, outputs=1)
    p = net.body(images()).sigmoid().detach()
    found, _ = same(net, 1, torch.cat([1 - p, p], 1))
    assert explain(net, images()).targets[:, 0].tolist() == (p[:, 0] > 0.5).int().tolist()
    threshold = float(p.min()) - 0.01
    every = explain(adapt(net, threshold=threshold), images())
    assert every.targets[:, 0].tolist() == [1, 1, 1]
    assert not adapt(net).multi_label
    assert found.logits.shape == (3, 2)


SOFTMAXES = {
    "module": nn.Softmax(1),
    "function": lambda z: torch.softmax(z, dim=-1),
    "F.softmax": lambda z: F.softmax(z, dim=1),
    "method": lambda z: z.softmax(1),
    "log module": nn.LogSoftmax(1),
    "F.log_softmax": lambda z: F.log_softmax(z, 1),
    "in a list": lambda z: [z.softmax(1)],
}


@pytest.mark.parametrize("last", SOFTMAXES.values(), ids=SOFTMAXES)
def test_a_softmax(last):
    net = Ending(last)
    z = net.body(images()).detach()
    found, true = same(net, 4, z.softmax(1))
    torch.testing.assert_close(found.scores, true.scores)
    result = explain(net, images())
    assert result.targets[:, 0].tolist() == z.argmax(1).tolist()
    with pytest.raises(ValueError, match="multi_label: the network ends in a .*softmax"):
        explain(adapt(net, multi_label=True), images())


def test_log_sigmoids_are_labels_of_their_own():
    net = Ending(nn.LogSigmoid())
    model = adapt(net)
    found, _ = same(net, 4, net.body(images()).sigmoid().detach())
    explain(model, images())
    assert model.multi_label
    assert found.targets.tolist() == [[0]] * 3


# the logit cannot be had, and is computed back


COMPUTED_BACK = {
    "one class of a softmax of two": (2, lambda z: z.softmax(1)[:, 1], lambda z: z[:, 1] - z[:, 0]),
    "both sides of a sigmoid": (
        1,
        lambda z: torch.cat([1 - z.sigmoid(), z.sigmoid()], 1),
        lambda z: F.logsigmoid(z)[:, 0],
    ),
    "scripted": (1, torch.jit.script(nn.Sigmoid()), lambda z: z[:, 0]),
    "mean of two": (1, lambda z: torch.stack([z, z]).sigmoid().mean(0), lambda z: z[:, 0]),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize(("outputs", "last", "logit"), COMPUTED_BACK.values(), ids=COMPUTED_BACK)
def test_a_logit_computed_back(outputs, last, logit):
    net = Ending(last, outputs)
    model = adapt(net)
    found = explain(model, images(), targets=1, layers="body.1")
    true = explain(
        Ending(lambda z: z, outputs), images(), targets=lambda o: logit(o), layers="body.1"
    )
    torch.testing.assert_close(found.scores, true.scores, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        found.maps["gradcam", "body.1"], true.maps["gradcam", "body.1"], rtol=2e-3, atol=1e-5
    )
    assert "computed back" in model.ending.told()


def test_a_saturated_probability_keeps_its_gradient_where_the_logit_is_there():
    net = Ending(torch.sigmoid, 1)
    with torch.no_grad():
        net.body[4].bias.fill_(40.0)  # 1 in float32
    assert (net(images()) == 1).all()
    found = explain(net, images(), targets=1, layers="body.1")
    assert found.scores.min() > 35
    assert found.status()["gradcam", "body.1"] != [["zero"]] * 3
    lost = Ending(lambda z: torch.stack([z, z]).sigmoid().mean(0), 1)
    lost.load_state_dict(net.state_dict())
    model = adapt(lost)
    found = explain(model, images(), targets=1, layers="body.1")
    assert found.scores.isfinite().all()
    assert found.status()["gradcam", "body.1"] == [["zero"]] * 3  # a finding, told
    assert "exactly 0 or 1" in model.ending.told()


# values alone prove nothing


class Formula(nn.Module):
    def forward(self, z):
        return 1 / (1 + (-z).exp())


def test_probabilities_that_nothing_tells_are_asked_for():
    net = Ending(Formula())
    with pytest.raises(ValueError, match="may be probabilities.*ends_in='sigmoid'"):
        explain(net, images())
    # a function of the outputs needs no answer
    own = explain(net, images(), targets=lambda p: p[:, 1], layers="body.1")
    assert own.logits is None
    torch.testing.assert_close(own.scores[:, 0], net(images())[:, 1].detach())
    found, _ = same(net, 4, net.body(images()).sigmoid().detach(), ends_in="sigmoid")
    taken = explain(adapt(net, ends_in="logits"), images(), targets=0)
    torch.testing.assert_close(taken.logits, net(images()).detach())
    assert found.targets.shape == (3, 1)


def test_scaled_probabilities_are_asked_for():
    net = Ending(lambda z: 100 * torch.sigmoid(z), 1)
    with pytest.raises(ValueError, match="made of the result of a sigmoid.*task='regression'"):
        explain(net, images())
    found = explain(adapt(net, task="regression"), images())
    torch.testing.assert_close(found.scores, net(images()).detach())
    taken = explain(adapt(net, ends_in="logits"), images(), targets=1)
    torch.testing.assert_close(taken.scores, net(images()).detach())


@pytest.mark.parametrize("last", [lambda z: z.sigmoid().log(), lambda z: z.softmax(1).log()])
def test_logarithms_of_probabilities(last):
    net = Ending(last)
    z = net.body(images()).detach()
    p = last(z).exp()
    same(net, 4, p) if not p.sum(1).allclose(torch.ones(3)) else None
    torch.testing.assert_close(explain(net, images()).probabilities, p)


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_numbers_of_classes_are_no_scores(task):
    net = Lesions(lambda z: (z[:, 0] > 0).long(), bias=(-0.5,))
    if task == "classification":
        net = Ending(lambda z: (z > 0).long())
    given = scans() if task == "segmentation" else images()
    with pytest.raises(ValueError, match=r"integers \(torch.int64\).*not class scores"):
        explain(adapt(net, task=task), given)


def test_rows_that_sum_to_one_are_measured():
    net = Ending(lambda z: z.exp() / z.exp().sum(1, keepdim=True))
    z = net.body(images()).detach()
    model = adapt(net)
    found = explain(model, images())
    torch.testing.assert_close(found.probabilities, z.softmax(1), rtol=1e-4, atol=1e-6)
    assert found.targets[:, 0].tolist() == z.argmax(1).tolist()
    assert "sum to 1" in model.ending.told()


@pytest.mark.parametrize("last", [lambda z: z, lambda z: z * 0.1 + 0.5, lambda z: z.relu()])
def test_values_between_0_and_1_are_no_probabilities_by_themselves(last):
    net = Ending(last)
    with torch.no_grad():
        net.body[4].weight.mul_(0.01)
        net.body[4].bias.fill_(0.4)
    scores = net(images()).detach()
    assert ((scores >= 0) & (scores <= 1)).all()
    found = explain(net, images(), targets=0)
    torch.testing.assert_close(found.logits, scores)
    torch.testing.assert_close(found.probabilities, scores.softmax(1))


def test_a_regression_is_what_it_is():
    net = Ending(torch.sigmoid, 1)
    found = explain(adapt(net, task="regression"), images())
    torch.testing.assert_close(found.scores, net(images()).detach())
    with pytest.raises(ValueError, match="ends_in: is for class scores"):
        adapt(net, task="regression", ends_in="sigmoid")


def test_what_is_said_must_not_contradict_what_is_known():
    with pytest.raises(ValueError, match="last operation of this network is a sigmoid"):
        explain(adapt(Ending(nn.Sigmoid()), ends_in="softmax"), images())
    with pytest.raises(ValueError, match="ends_in: 'sigmoid' was given.*no probabilities"):
        explain(adapt(Ending(lambda z: 9 * z), ends_in="sigmoid"), images())
    with pytest.raises(ValueError, match="do not sum to 1"):
        explain(adapt(Ending(Formula()), ends_in="softmax"), images())
    with pytest.raises(ValueError, match="ends_in: 'probs' is unknown"):
        adapt(Ending(nn.Sigmoid()), ends_in="probs")
    # one label per image, of a network whose outputs are probabilities of their own
    net = Ending(nn.Sigmoid())
    found = explain(adapt(net, multi_label=False), images())
    assert found.targets.shape == (3, 1)
    torch.testing.assert_close(found.probabilities, net(images()).detach())


def test_logits_beside_their_probabilities_stay_logits():
    net = Ending(lambda z: {"logits": z, "probs": z.sigmoid()})
    model = adapt(net)
    found, _ = same(net, 4)
    explain(model, images())
    assert model.ending.kind == "logits"
    assert not model.multi_label
    by_name = adapt(net, output="probs")
    explain(by_name, images())
    assert by_name.ending.kind == "sigmoid"
    assert found.logits.shape == (3, 4)


def test_a_function_gets_what_the_network_returned():
    net = Ending(torch.sigmoid)
    found = explain(net, images(), targets=lambda p: p[:, 2], layers="body.1")
    torch.testing.assert_close(found.scores[:, 0], net(images())[:, 2].detach())
    z = Ending(lambda z: z)
    true = explain(z, images(), targets=lambda o: o[:, 2].sigmoid(), layers="body.1")
    torch.testing.assert_close(found.maps["gradcam", "body.1"], true.maps["gradcam", "body.1"])


def test_a_network_that_was_edited_is_read_again():
    net = Ending(nn.Sigmoid())
    assert explain(net, images(), targets=0).probabilities.sum(1).sub(1).abs().max() > 1e-3
    net.last = nn.Identity()
    torch.testing.assert_close(
        explain(net, images(), targets=0).probabilities, net(images()).softmax(1).detach()
    )


def test_without_a_graph_the_last_call_tells():
    class Frozen(Ending):
        def forward(self, x):
            with torch.no_grad():
                return self.last(self.body(x))

    model = adapt(Frozen(nn.Sigmoid()))
    model.read_outputs(images())
    assert model.ending.kind == "sigmoid"


def test_one_small_forward_and_no_other():
    net = Ending(nn.Sigmoid())
    seen = []
    net.body[0].register_forward_hook(lambda m, args, out: seen.append(len(args[0])))
    explain(net, images(8), targets=0, layers="body.1", measure_places=False)
    assert seen == [2, 8]
    explain(net, images(8), targets=0, layers="body.1", measure_places=False)
    assert seen == [2, 8, 8]


# the batch


@pytest.mark.parametrize("last", [lambda z: z, torch.sigmoid, lambda z: z.softmax(-1)])
@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_squeezed_scores_of_one_image_are_those_of_the_same_image_in_a_batch(last, outputs):
    def squeezed(z):
        return last(z.squeeze()) if outputs > 1 else last(z).squeeze()

    if outputs == 1 and last(torch.zeros(1, 1)).item() == 1:
        pytest.skip("a softmax of one output is 1")
    net = Ending(squeezed, outputs)
    two = explain(net, images(2), METHODS, targets=1, layers="body.1")
    one = explain(net, images(2)[:1], METHODS, targets=1, layers="body.1")
    for key, maps in two.maps.items():
        torch.testing.assert_close(one.maps[key], maps[:1], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(one.probabilities, two.probabilities[:1])
    fresh = Ending(squeezed, outputs)  # first seen with a single image
    torch.testing.assert_close(explain(fresh, images(2)[:1], targets=1).scores, two.scores[:1])


def test_a_squeeze_in_the_middle():
    class Middle(Ending):
        def forward(self, x):
            return self.body[4](self.body[:3](x).squeeze()).sigmoid()

    found = [explain(Middle(None), images(2)[:n], METHODS, 2, "body.1") for n in (2, 1)]
    for key, maps in found[1].maps.items():
        torch.testing.assert_close(maps, found[0].maps[key][:1], rtol=1e-3, atol=1e-6)


def test_a_function_of_a_squeezed_output_gets_a_row():
    net = Ending(lambda z: z.squeeze())
    found = explain(net, images(1), targets=lambda o: o[:, 2], layers="body.1")
    torch.testing.assert_close(found.scores[0, 0], net.body(images(1))[0, 2].detach())


NO_BATCH = {
    "mean over the batch": lambda z: z.mean(0),
    "classes first": lambda z: z.T,
    "softmax over the batch": lambda z: torch.softmax(z[:, 0], 0),
    "all in one row": lambda z: z.flatten()[None],
}


@pytest.mark.parametrize("outputs", [2, 4])
@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("last", NO_BATCH.values(), ids=NO_BATCH)
def test_scores_without_the_batch_in_front_are_refused(last, count, outputs):
    with pytest.raises(ValueError, match=r"the batch|batch is not in dimension 0"):
        explain(Ending(last, outputs), images(count), targets=0)


def test_a_forward_that_fails_for_one_image_is_refused_before_it_does():
    net = Ending(lambda z: z.squeeze()[:, :2].contiguous(), 4)
    with pytest.raises(ValueError, match=r"fails for one image and works for two.*squeeze\(-1\)"):
        explain(net, images(3), targets=0)


def test_a_network_for_one_image_at_a_time_works():
    net = Ending(lambda z: z.reshape(1, 4))
    found = explain(net, images(1), targets=2, layers="body.1", measure_places=False)
    torch.testing.assert_close(found.scores[0, 0], net.body(images(1))[0, 2].detach())


# segmentation


class Lesions(nn.Module):
    """Bright pixels are the class: one channel, (N, h, w), or several."""

    def __init__(self, last=lambda z: z, bias=(-0.5,)):
        super().__init__()
        self.enc = nn.Conv2d(3, 1, 1)
        self.mid = nn.ReLU()
        self.out = nn.Conv2d(1, len(bias), 1)
        self.last = last
        with torch.no_grad():
            self.enc.weight.fill_(1 / 3)
            self.enc.bias.zero_()
            self.out.weight.fill_(1.0)
            self.out.bias.copy_(torch.tensor(bias))
        self.eval()

    def forward(self, x):
        return self.last(self.out(self.mid(self.enc(x))))


def scans():
    found = torch.full((2, 3, 8, 8), 0.1)
    found[0, :, 2:4, 2:6] = 0.9  # 8 pixels
    found[1, :, 0, 0] = 0.7
    return found


ONE_CHANNEL = {
    "logits": lambda z: z,
    "sigmoid": torch.sigmoid,
    "module": nn.Sigmoid(),
    "(N, h, w)": lambda z: z[:, 0],
    "squeezed sigmoid": lambda z: z.sigmoid().squeeze(),
    "a dict": lambda z: {"out": z.sigmoid()},
}


@pytest.mark.parametrize("last", ONE_CHANNEL.values(), ids=ONE_CHANNEL)
def test_one_channel_is_there_where_it_is_predicted(last):
    net = Lesions(last)
    model = adapt(net, task="segmentation")
    found = explain(model, scans(), layers="mid")
    assert found.targets.tolist() == [[0], [0]]
    torch.testing.assert_close(found.scores[:, 0], torch.tensor([8 * 0.4, 0.2]))
    assert found.valid.all()
    outputs = model.forward(scans())
    assert model.candidates(outputs).tolist() == [[8], [1]]
    torch.testing.assert_close(
        model.probabilities(outputs)[:, 0], torch.tensor([0.4, 0.2]).sigmoid()
    )
    one = explain(model, scans()[:1], layers="mid")
    torch.testing.assert_close(one.maps["gradcam", "mid"], found.maps["gradcam", "mid"][:1])
    by_mask = explain(model, scans(), targets=mask_target(0), layers="mid")
    torch.testing.assert_close(by_mask.scores, found.scores)


def test_the_threshold_of_a_mask_is_obeyed():
    sure = float(torch.tensor(0.3).sigmoid())
    for last in (lambda z: z, torch.sigmoid):
        model = adapt(Lesions(last), task="segmentation", threshold=sure)
        found = explain(model, scans(), layers="mid")
        assert found.targets.tolist() == [[0], [-1]]  # .9 - .5 is above .3, .7 - .5 is not
        by_mask = explain(model, scans(), targets=mask_target(0), layers="mid")
        torch.testing.assert_close(by_mask.scores[:, 0], torch.tensor([8 * 0.4, 0.0]))


def test_channels_with_sigmoids_of_their_own_may_share_pixels():
    net = Lesions(torch.sigmoid, bias=(-0.5, -0.8))
    model = adapt(net, task="segmentation")
    explain(model, scans(), layers="mid")
    outputs = model.forward(scans())
    assert model.multi_label
    assert model.candidates(outputs).tolist() == [[8, 8], [1, 0]]
    said = adapt(Lesions(bias=(-0.5, -0.8)), task="segmentation", multi_label=True)
    found = explain(said, scans(), layers="mid")
    assert found.targets.tolist() == [[0, 1], [0, -1]]


def test_several_classes_need_no_background():
    last = {"logits": lambda z: z, "softmax": lambda z: z.softmax(1)}
    for name, function in last.items():
        net = Lesions(function, bias=(0.0, 0.1))
        model = adapt(net, task="segmentation")
        found = explain(model, scans(), layers="mid")
        assert found.targets.tolist() == [[1], [1]], name
        none = adapt(net, task="segmentation", background=1)
        assert explain(none, scans(), layers="mid").targets.tolist() == [[-1], [-1]], name
        torch.testing.assert_close(found.scores[0, 0], torch.tensor(8 * 1.0 + 56 * 0.2))


def test_background_is_checked():
    with pytest.raises(ValueError, match="background: is for segmentation networks"):
        adapt(Ending(lambda z: z), background=0)
    with pytest.raises(ValueError, match="background: 'sky' is no class index"):
        adapt(Lesions(), task="segmentation", background="sky")
    with pytest.raises(ValueError, match="background: class index 3 is out of range"):
        explain(adapt(Lesions(), task="segmentation", background=3), scans(), layers="mid")


def test_names_that_say_background():
    from cam_core.adapters.segmentation import background_index

    assert background_index(["__background__", "cat"]) == 0
    assert background_index(["cat", "_Background_"]) == 1
    assert background_index(["wall", "sky"]) is None
    with pytest.raises(
        ValueError, match=r"several classes are called so, 'bg' \(0\), 'void' \(2\)"
    ):
        background_index(["bg", "cat", "void"])


# what it is said to be


def test_in_words():
    said = endings.Ending("sigmoid", back=0, row_shape=(4,)).told(multi_label=True)
    assert said == (
        "the network ends in a sigmoid for each output, so that an image may have several labels; "
        "what is explained is the logit before it"
    )
    assert endings.Ending().told() is None


def test_list_layers_of_a_network_that_ends_in_probabilities():
    names = [row.name for row in list_layers(Ending(torch.sigmoid), images(1)) if row.default]
    assert names == ["body.1"]
