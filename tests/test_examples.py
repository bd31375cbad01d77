"""The demo's parts: the real network, the dataset, and the measure it prints."""

import contextlib
import math
import os

import pytest
import torch

from examples import demo, measure
from examples.dataset import demo_dataset
from examples.lite0 import lite0_classes, lite0_model, lite0_module
from tools import make_pictures


def test_lite0_has_its_real_weights(photos):
    model = lite0_model()
    right = 0
    with model:
        for photo in photos:
            image = measure.load_image(photo["path"])
            right += model.predict(image).label in photo["imagenet_names"]
    # 21 of the photos have a right answer; on these, and by stretching them, two are missed
    assert right == 19


def test_untrained_lite0_is_seeded_and_leaves_the_generator_alone():
    state = torch.get_rng_state()
    one, two = (lite0_module(pretrained=False) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one._fc.weight, two._fc.weight)
    assert not torch.equal(one._fc.weight, lite0_module()._fc.weight)
    assert len(lite0_classes()) == one._fc.out_features


def test_untrained_redraws_everything_and_gives_it_back():
    module = lite0_module()
    trained = {name: value.clone() for name, value in module.state_dict().items()}
    with contextlib.suppress(KeyError), measure.untrained(module):
        for name, parameter in module.named_parameters():
            assert not torch.equal(parameter, trained[name]), name
        assert module._bn1.running_mean.count_nonzero() == 0
        raise KeyError

    for name, value in module.state_dict().items():
        assert torch.equal(value, trained[name]), name


def test_dataset_is_rebuilt_but_takes_no_one_elses_name(make_dataset):
    theirs = make_dataset()
    with pytest.raises(ValueError, match="choose another name"):
        demo_dataset(theirs.name)

    name = f"{theirs.name}-demo"
    make_dataset(name=name).delete()
    demo_dataset(name, persistent=False)
    dataset = demo_dataset(name, persistent=False)
    assert len(dataset) == 24
    assert "by hand" in dataset.get_field("ground_truth").description
    assert "by hand" in dataset.info["description"]
    assert all(dataset.values("author"))
    dataset.delete()


# the measure, by hand


def test_cover_counts_half_a_cell_as_half():
    cover = measure.box_cover([[0.25, 0, 0.5, 0.5]], (2, 2))
    assert cover.tolist() == [[0.5, 0.5], [0, 0]]


def test_cover_is_the_union_of_boxes():
    box = [0, 0, 0.5, 1]
    assert measure.uniform_share([box, box]) == 0.5


def test_gaussian_is_centred():
    whole, left = [0, 0, 1, 1], [0, 0, 0.5, 1]
    assert measure.gaussian_share([whole]) == pytest.approx(1)
    assert measure.gaussian_share([left]) == pytest.approx(0.5)
    # two sigmas to each side, cut off at the image's edge at 2.25 sigmas, in both directions
    inner = math.erf(1 / math.sqrt(2)) / math.erf(2.25 / math.sqrt(2))
    side = 2 * measure.SIGMA
    middle = [0.5 - side / 2, 0.5 - side / 2, side, side]
    assert measure.gaussian_share([middle]) == pytest.approx(inner**2, abs=0.01)


class Corner(torch.nn.Module):
    """Its score is the mean of the image's upper left quarter: all heat lies there."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 1, 1, bias=False)
        torch.nn.init.ones_(self.layer.weight)

    def forward(self, images):
        return self.layer(images)[..., :4, :4].mean((1, 2, 3))[:, None]


def test_share_of_a_network_that_looks_at_one_corner(photos):
    from torchvision.transforms import v2

    transforms = v2.Compose(
        [v2.Resize((8, 8)), v2.PILToTensor(), v2.Lambda(lambda x: torch.ones(x.shape))]
    )
    samples = [(photos[0]["path"], [box]) for box in ([0, 0, 0.5, 0.5], [0, 0, 0.25, 0.5])]
    shares = measure.heat_shares(samples, Corner(), transforms, ["hirescam"], batch_size=1)
    assert shares["hirescam"] == pytest.approx([1, 0.5])


def test_the_app_of_the_demo_may_load_its_network(monkeypatch):
    monkeypatch.setenv("CAM51_ALLOWED_MODELS", "theirs.models:best")
    monkeypatch.setenv("PYTHONPATH", "")
    for _ in range(2):  # also a second time it stands there once
        demo.let_app_load(demo.LITE0)
    assert os.environ["CAM51_ALLOWED_MODELS"] == "examples.lite0:lite0_model,theirs.models:best"
    assert os.environ["PYTHONPATH"] == str(demo.ROOT)


def test_text_says_how_many_maps_had_heat():
    assert demo.mean([0.5, 1.0]) == "0.75"
    assert demo.mean([0.5, math.nan]) == "0.50 (1)"
    assert demo.mean([math.nan]) == "no heat"
    assert demo.spread([[0.2], [0.4], [math.nan]]) == "0.30 (0.20 to 0.40; 2 draws)"
    assert demo.spread([[0.2], [0.4]]) == "0.30 (0.20 to 0.40)"


def test_pictures_leave_the_dataset_of_the_demo_alone():
    assert make_pictures.NAME not in (demo.PHOTOS_NAME, demo.ZOO_NAME)


def test_the_panel_is_open_beside_the_grid():
    grid, panel = demo.beside_the_grid().children
    assert [grid.children[0].type, panel.children[0].type] == ["Samples", demo.PANEL]
    for space in (grid, panel):  # else it is empty until its tab is clicked
        assert space.active_child == space.children[0].component_id
