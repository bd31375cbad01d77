"""What people hand to the operator: compiled models, and what is said of what cannot be explained."""

import fiftyone as fo
import numpy as np
import pytest
import torch
import torchvision.transforms as T
from faults_common import LAYER, compute_tiny, tiny_network, write_pictures
from operators_common import compute, operator

pytestmark = pytest.mark.usefixtures("plugin")


@pytest.fixture
def dataset(make_dataset, tmp_path):
    dataset = make_dataset(
        *(
            fo.Sample(
                filepath=path,
                scene=f"scene {number % 2}",
                meta=fo.DynamicEmbeddedDocument(
                    found=fo.Classification(label=f"kind {number % 4}")
                ),
            )
            for number, path in enumerate(write_pictures(tmp_path, 4))
        )
    )
    dataset.add_dynamic_sample_fields()
    return dataset


def maps_of(dataset, field):
    return np.stack(dataset.values(f"{field}.map"))


def compiled(network):
    return torch.compile(network, backend="eager")


def partly_compiled(network):
    network[0] = compiled(network[0])
    return network


@pytest.mark.parametrize("wrap", [compiled, partly_compiled, torch.nn.DataParallel])
def test_a_wrapped_model_is_the_model(dataset, wrap):
    plain = compute_tiny(dataset, cam_key="plain")
    network = wrap(tiny_network())
    with torch.no_grad():
        network(torch.zeros(1, 3, 32, 32))
    found = compute_tiny(dataset, cam_key="wrapped", model=network)
    assert (found.status, found.done) == ("finished", 4)
    assert found.settings["weights"] == plain.settings["weights"]
    assert found.settings["model"] == plain.settings["model"]
    for method in ("gradcam", "layercam"):
        assert np.array_equal(
            maps_of(dataset, f"wrapped_{method}"), maps_of(dataset, f"plain_{method}")
        )
    # of the wrapper's names as well, and the run continues with the plain network
    given = next(n for n, m in network.named_modules() if n.rpartition(".")[2] == LAYER)
    again = compute_tiny(dataset, cam_key="wrapped", layers=given, overwrite=True, model=network)
    assert again.settings["layers"] == [LAYER]
    resumed = compute_tiny(dataset, cam_key="wrapped", resume=True)
    assert (resumed.resumed, resumed.failed) == (4, [])


def test_half_precision_weights(dataset):
    summary = compute_tiny(dataset, model=tiny_network().half(), methods=["gradcam"])
    assert (summary.done, summary.failed) == (4, [])
    assert summary.statuses["run_gradcam"] == {"ok": 4}


def test_a_network_of_pixels_is_told_what_to_say(dataset):
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 4, 4), torch.nn.ReLU(), torch.nn.Upsample(scale_factor=4),
        torch.nn.Conv2d(8, 3, 1),
    ).eval()  # fmt: skip
    options = dict(model=network, layers=None, classes=["a", "b", "c"], methods=["gradcam"])
    with pytest.raises(ValueError, match=r"\(1, 3, 32, 32\).*pass task='segmentation'"):
        compute_tiny(dataset, **options)
    assert compute_tiny(dataset, task="segmentation", **options).done == 4


def test_dynamic_groups_are_to_be_flattened(dataset):
    groups = dataset.group_by("scene")
    with pytest.raises(ValueError, match=r"dynamic groups.*samples\.flatten\(\)"):
        compute_tiny(groups)
    assert compute_tiny(groups.flatten()).done == 4


def test_a_label_field_inside_a_document(dataset):
    for targets in ("meta.found", {"field": "meta.found"}):
        with pytest.raises(ValueError, match="lies inside the field 'meta'.*clone_sample_field"):
            compute_tiny(dataset, targets=targets)
    with pytest.raises(ValueError, match="inside the label field 'top'; give 'top'"):
        dataset.clone_sample_field("meta.found", "top")
        compute_tiny(dataset, targets="top.label")
    with pytest.raises(ValueError, match="objects: 'meta.found' lies inside the field 'meta'"):
        operator("find_background_bias")(
            dataset, model=tiny_network(), transforms=T.ToTensor(), objects="meta.found"
        )
    with pytest.raises(ValueError, match="no class 'meta.none'"):
        compute_tiny(dataset, targets="meta.none")
    dataset.clone_sample_field("meta.found", "found")  # as the message says
    assert compute_tiny(dataset, targets="found").done == 4


def test_classes_of_which_no_field_can_be_named(dataset):
    classes = ["+", "-", "++", "ok"]
    with pytest.raises(ValueError, match=r"targets '\+' and '-' have the same letters.*class_map="):
        compute_tiny(dataset, classes=classes, targets=["+", "-"], methods=["gradcam"])
    summary = compute_tiny(
        dataset, classes=classes, targets=["first", "second"], methods=["gradcam"],
        class_map={"first": "+", "second": "-"},
    )  # fmt: skip
    assert summary.fields[:2] == ["run_gradcam_first", "run_gradcam_second"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_networks_that_cannot_be_explained_write_nothing(dataset):
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = tiny_network()

        def forward(self, left, right):
            return self.net(left) - self.net(right)

    lazy = torch.nn.Sequential(torch.nn.LazyConv2d(4, 3), torch.nn.Flatten())
    trials = [
        (torch.jit.script(tiny_network()), "TorchScript"),
        (torch.jit.trace(tiny_network(), torch.zeros(1, 3, 32, 32)), "TorchScript"),
        (Two(), "forward needs more than the images: 'right'"),
        (torch.ao.quantization.quantize_dynamic(tiny_network(), {torch.nn.Linear}), "'6' is quantised"),
        (lazy, "not initialised yet"),
        (tiny_network().to("meta"), "meta device"),
    ]  # fmt: skip
    for network, words in trials:
        with pytest.raises(ValueError, match=words):
            compute_tiny(dataset, model=network, layers=None)
        assert not dataset.list_runs()
    for device in ("meta",):
        network = tiny_network()
        with pytest.raises(ValueError, match="loses its weights"):
            compute_tiny(dataset, model=network, device=device)
        assert {p.device.type for p in network.parameters()} == {"cpu"}


def test_images_of_another_size_than_the_network_takes(dataset):
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 30 * 30, 2)
    ).eval()
    with pytest.raises(ValueError, match=r"images of shape \(1, 3, 40, 40\).*mat1 and mat2"):
        compute(dataset, model=network, transforms=T.Compose([T.Resize((40, 40)), T.ToTensor()]))
    rows = operator("list_layers")(network)
    assert (rows.image, [row.name for row in rows]) == ((3, 32, 32), ["0"])


def test_a_registered_models_outline_has_its_options(tmp_path):
    pytest.importorskip("timm")
    from fiftyone.plugins.orgs.cam51.heatmaps.operators.models import preview, registered

    own = registered.OwnModel(
        "features", architecture="timm:resnet10t", options={"task": "embedding"}
    )
    plain = registered.OwnModel("features", architecture="timm:resnet10t")
    for model, kind in ((plain, "classifier"), (own, "embedding"), (plain, "classifier")):
        registered.register(model, overwrite=True)
        assert kind in preview.build_without_weights("features").family
    registered.remove("features")
