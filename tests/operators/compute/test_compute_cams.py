"""``compute_cams`` from Python on a real MongoDB: what it writes, and that it is right."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
import torch
import torchvision.transforms as T
from fiftyone import ViewField as F
from operators_common import CLASSES, compute, operator, small_network, transforms
from PIL import Image
from processes_common import TESTS

from cam_core import explain

pytestmark = pytest.mark.usefixtures("plugin")


def test_what_is_written(photo_dataset):
    dataset = photo_dataset(5)
    summary = compute(dataset, methods=["gradcam", "layercam"])
    assert (summary.done, summary.failed) == (5, [])
    assert summary.fields == ["run_gradcam", "run_layercam", "run_prediction"]
    assert summary.images_per_second > 0
    assert summary.settings["layers"] == ["layer4"]
    for sample in dataset:
        label = sample.run_layercam
        assert label.map.dtype == np.uint8
        assert label.range == [0.33 * 255, 255]  # a first run hides the lowest third
        assert label.map.max() == 255
        width, height = Image.open(sample.filepath).size
        assert label.map.shape[0] / label.map.shape[1] == pytest.approx(height / width, rel=0.02)
        assert max(label.map.shape) == 192
        assert (label.method, label.layer, label.status, label.cam_key) == (
            "layercam",
            "layer4",
            "ok",
            "run",
        )
        assert label.target == CLASSES[label.target_index] == sample.run_prediction.label
        assert label.peak > 0
        assert 0 < sample.run_prediction.confidence < 1


def test_stored_heatmap_is_the_engines(photo_dataset):
    dataset = photo_dataset(3)
    compute(dataset, methods="gradcam", heatmap_size=64)
    for sample in dataset:
        image = transforms()(Image.open(sample.filepath).convert("RGB"))[None]
        result = explain(small_network(), image)
        label = sample.run_gradcam
        expected = result.heatmaps(label.map.shape)["gradcam", "layer4"][0, 0].numpy()
        assert np.abs(label.map / 255 - expected).max() <= 0.5 / 63 + 0.5 / 255 + 1e-4
        assert label.score == pytest.approx(float(result.scores[0, 0]), abs=1e-4)
        assert label.peak == pytest.approx(float(result.maps["gradcam", "layer4"].max()), rel=1e-3)


def test_attributes_can_be_filtered(photo_dataset):
    dataset = photo_dataset(4)
    compute(dataset)
    schema = dataset.get_field_schema(flat=True)
    assert isinstance(schema["run_gradcam.score"], fo.FloatField)
    assert isinstance(schema["run_gradcam.target_index"], fo.IntField)
    scores = dataset.values("run_gradcam.score")
    high = dataset.match(F("run_gradcam.score") >= sorted(scores)[2])
    assert len(high) == 2
    assert len(dataset.filter_labels("run_gradcam", F("status") == "ok")) == 4


def test_only_the_views_samples_are_touched(photo_dataset):
    dataset = photo_dataset(6)
    view = dataset.sort_by("filepath", reverse=True).limit(2)
    compute(view)
    assert set(dataset.exists("run_gradcam").values("id")) == set(view.values("id"))


def test_samples_in_memory_see_the_heatmaps(photo_dataset):
    dataset = photo_dataset(2)
    sample = dataset.first()
    before = sample.last_modified_at
    compute(dataset)
    sample.reload()
    assert sample.run_gradcam.map is not None
    assert sample.last_modified_at > before


def test_crop_is_undone(make_dataset, tmp_path):
    """The network sees the middle of a wide picture: there is no heat outside of it."""
    path = tmp_path / "wide.png"
    Image.effect_noise((300, 100), 80).convert("RGB").save(path)
    dataset = make_dataset(fo.Sample(filepath=str(path)))
    cropped = T.Compose([T.Resize(64), T.CenterCrop(64), T.ToTensor()])
    compute(dataset, model=small_network(), transforms=cropped, classes=CLASSES)
    heat = dataset.first().run_gradcam.map
    assert heat.shape == (64, 192)
    assert not heat[:, :64].any()
    assert not heat[:, 128:].any()
    assert heat[:, 64:128].any()


def test_heat_lies_on_the_upright_picture(make_dataset, tmp_path):
    """EXIF: the file holds the picture turned; App and network see it upright, so does the heat."""
    upright = Image.effect_noise((60, 120), 80).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    upright.save(tmp_path / "upright.png")
    names = ("turned.png", "upright.png")
    dataset = make_dataset(*(fo.Sample(filepath=str(tmp_path / n)) for n in names))
    compute(dataset)
    turned, straight = (s.run_gradcam.map for s in dataset)
    assert turned.shape == straight.shape == (192, 96)
    assert np.abs(turned.astype(int) - straight).max() <= 5


def test_layers_targets_and_fusion_name_the_fields(photo_dataset):
    dataset = photo_dataset(2)
    summary = compute(dataset, layers=["layer3", "layer4"], targets="top_2", fuse="layercam")
    wanted = [
        f"run_gradcam_{layer}_top{k}" for layer in ("layer3", "layer4", "fused") for k in (1, 2)
    ]
    assert summary.fields == [*wanted, "run_prediction"]
    sample = dataset.first()
    first, second = sample.run_gradcam_layer4_top1, sample.run_gradcam_layer4_top2
    assert first.score > second.score
    assert first.target == sample.run_prediction.label


def test_only_the_fused_field(photo_dataset):
    summary = compute(photo_dataset(2), layers=["layer3", "layer4"], fuse="mean", keep_layers=False)
    assert summary.fields == ["run_gradcam", "run_prediction"]


def test_named_classes(photo_dataset):
    dataset = photo_dataset(2)
    summary = compute(dataset, targets=["Kind_3", 7], store_prediction=False)
    assert summary.fields == ["run_gradcam_kind_3", "run_gradcam_kind_7"]
    assert dataset.values("run_gradcam_kind_7.target_index") == [7, 7]


def test_own_method_and_options(photo_dataset):
    def my_map(activations, gradients, *, power=2):
        """Mine."""
        return (activations * gradients).sum(1) ** power

    summary = compute(photo_dataset(2), methods=[my_map, ("eigencam", {"component": 2})])
    assert summary.fields[:2] == ["run_my_map", "run_eigencam"]
    assert summary.settings["methods"] == ["my_map", ["eigencam", {"component": 2}]]


def test_blank_maps_are_findings(photo_dataset):
    def nothing(activations):
        return -activations.abs().sum(1)

    def broken(activations):
        return activations.sum(1) * torch.nan

    def level(activations):
        return torch.ones_like(activations[:, 0])

    dataset = photo_dataset(3)
    summary = compute(dataset, methods=[nothing, broken, level])
    for field, status in (("run_nothing", "zero"), ("run_broken", "nan"), ("run_level", "flat")):
        assert summary.statuses[field] == {status: 3}
        assert {(s[field].status, s[field].map) for s in dataset} == {(status, None)}
    assert "9 heatmaps empty" in str(summary)
    assert dataset.first().run_broken.peak is None


@pytest.mark.parametrize("size", [1, 3, 16])
def test_batch_size_does_not_matter(photo_dataset, size):
    dataset = photo_dataset(5)
    compute(dataset, methods=["gradcam", "randomcam"], cam_key="one", batch_size=4)
    compute(dataset, methods=["gradcam", "randomcam"], cam_key="two", batch_size=size)
    for sample in dataset:
        for method in ("gradcam", "randomcam"):
            one, two = sample[f"one_{method}"], sample[f"two_{method}"]
            assert np.abs(one.map.astype(int) - two.map).max() <= 5  # one of 64 levels


def test_files_on_disk(photo_dataset, tmp_path):
    dataset = photo_dataset(3)
    summary = compute(dataset, storage="disk", output_dir=str(tmp_path))
    for sample in dataset:
        label = sample.run_gradcam
        assert label.map is None
        assert label.range == [0.33 * 255, 255]  # a first run hides the lowest third
        assert Path(label.map_path).parent == tmp_path / "run" / "run_gradcam"
        with Image.open(label.map_path) as png:
            assert png.mode == "L"
            assert max(png.size) == 192
    assert summary.bytes_written == sum(p.stat().st_size for p in tmp_path.rglob("*.png"))
    compute(dataset, overwrite=True)
    assert not list(tmp_path.rglob("*.png"))
    assert dataset.first().run_gradcam.map is not None


def test_fields_are_shown_in_warm_colours_and_the_rest_stays(photo_dataset):
    dataset = photo_dataset(2)
    theirs = [{"path": "ground_truth", "fieldColor": "#00ff00"}]
    dataset.app_config.color_scheme = fo.ColorScheme(color_by="value", opacity=0.3, fields=theirs)
    dataset.save()
    compute(dataset, methods=["gradcam", "layercam"])
    dataset.reload()
    scheme = dataset.app_config.color_scheme
    assert (scheme.color_by, scheme.opacity) == ("value", 0.3)
    assert [e["path"] for e in scheme.fields] == ["ground_truth", "run_gradcam", "run_layercam"]
    assert scheme.fields[0] == theirs[0]
    active = dataset.app_config.active_fields.paths
    assert "ground_truth" in active
    assert "run_gradcam" in active
    assert "run_layercam" not in active
    # two heatmaps on each other would look like one that is nobody's
    compute(dataset, cam_key="second")
    dataset.reload()
    active = dataset.app_config.active_fields.paths
    assert {"ground_truth", "second_gradcam"} <= set(active)
    assert "run_gradcam" not in active


def test_model_and_shared_zoo_object_come_back_as_they_were(photo_dataset):
    model = small_network().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    compute(photo_dataset(2), model=model, transforms=transforms(), classes=CLASSES)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


def test_inside_a_running_event_loop(photo_dataset):
    dataset = photo_dataset(2)

    async def notebook_cell():
        return compute(dataset)

    assert asyncio.run(notebook_cell()).done == 2


def test_figure(photo_dataset):
    dataset = photo_dataset(3)
    compute(dataset, methods=["gradcam", "layercam"])
    figure = operator("show_heatmaps")(dataset, "run", n=2)
    titles = [axis.get_title() for axis in figure.axes]
    assert len(figure.axes) == 2 * 3 + 1, "the pictures, and the scale of the heat below them"
    assert titles[1].startswith("gradcam\nkind")
    only = operator("show_heatmaps")(dataset, "run", n=1, methods="layercam")
    assert len(only.axes) == 2 + 1
    with pytest.raises(ValueError, match="no CAM run 'other'; it has: run"):
        operator("show_heatmaps")(dataset, "other")
    with pytest.raises(ValueError, match="choose from gradcam, layercam"):
        operator("show_heatmaps")(dataset, "run", methods="fem")


def test_list_layers():
    layers = operator("list_layers")(small_network(), image_size=(96, 64))
    assert [(layer.name, layer.grid, layer.default) for layer in layers][-1] == (
        "layer4",
        (3, 2),
        True,
    )


def film_network():
    """One channel, and only films of 20 x 28."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, 2, 1), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.Linear(4 * 10 * 14, 2),
    ).eval()  # fmt: skip


def test_list_layers_of_one_channel_by_size_image_or_file(tmp_path):
    from PIL import Image

    def preprocess(path):
        return torch.from_numpy(np.array(Image.open(path), np.float32) / 65535)[None]

    path = tmp_path / "film.png"
    Image.fromarray(np.full((20, 28), 30000, np.uint16)).save(path)
    network = film_network()
    list_layers = operator("list_layers")
    wanted = [("0", (10, 14), False), ("1", (10, 14), True)]
    for options in (
        {"image_size": (20, 28)},
        {"image_size": (20, 28), "channels": 1},
        {"image": torch.zeros(1, 20, 28)},
        {"image": torch.zeros(2, 1, 20, 28)},
        {"image": path, "preprocess": preprocess},
        {"image": str(path), "preprocess": preprocess},
    ):
        rows = list_layers(network, **options)
        assert [(row.name, row.grid, row.default) for row in rows] == wanted, options
    for options, words in (
        ({}, r"does not run on a random image of 1 x 224 x 224 .*nor on others.*image_size="),
        ({"image_size": 30}, "does not run on a random image of 1 x 30 x 30"),
        ({"image_size": (20, 28), "channels": 2}, r"2 x 20 x 28 \(RuntimeError: Given groups=1"),
        ({"image": path}, "transforms is required"),
        ({"image": "nowhere.png", "preprocess": preprocess}, "no file 'nowhere.png'"),
        ({"image": 3, "preprocess": preprocess}, "give a tensor .*got int"),
        ({"image": torch.zeros(1, 20, 28), "channels": 1}, "the images have theirs"),
        ({"channels": 0}, "channels must be a whole number"),
        ({"image_size": (20, 28, 3)}, "image_size must be"),
    ):
        with pytest.raises(ValueError, match=words):
            list_layers(network, **options)


SPAWNED = """
import sys; sys.path[:0] = [{tests!r}, {root!r}]
import torch.multiprocessing as mp
from operators_common import compute
import fiftyone as fo
if __name__ == "__main__":
    mp.set_start_method("spawn", force=True)
    dataset = fo.Dataset({name!r})
    dataset.add_samples([fo.Sample(filepath=p) for p in {paths!r}], progress=False)
    print("done", compute(dataset, num_workers=2).done)
    fo.delete_dataset({name!r})
"""


@pytest.mark.slow
def test_workers_where_processes_are_spawned(plugin, photos, tmp_path):
    """Nothing of ours is pickled, so the start method of macOS and Windows is no matter."""
    tests = TESTS
    script = tmp_path / "spawned.py"
    paths = [p["path"] for p in photos[:3]]
    text = SPAWNED.format(
        tests=str(tests),
        root=str(tests.parent),
        name="cam51-spawned",
        paths=[str(p) for p in paths],
    )
    script.write_text(text)
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env=os.environ, timeout=300
    )
    assert "done 3" in done.stdout, done.stderr[-2000:]
