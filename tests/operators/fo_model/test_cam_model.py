"""The model of ``apply_model``: its maps are those of ``compute_cams``, and FiftyOne gets what it wants."""

import importlib
import shutil
import subprocess

import cv2
import fiftyone as fo
import numpy as np
import pytest
import torch
from detectors_common import Letterbox, detector
from operators_common import CLASSES, PLUGIN, compute, operator, small_network, transforms
from PIL import Image
from processes_common import ROOT, TESTS, run_python

ATTRIBUTES = ("method", "layer", "target", "target_index", "score", "peak", "status")


def cam_model(model=None, **arguments):
    if model is None:
        model, arguments = (
            small_network(),
            {"classes": CLASSES, "transforms": transforms(), **arguments},
        )
    return operator("cam_model")(model, **arguments)


def picture(seed, size):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


@pytest.fixture
def pictures(plugin, make_dataset, tmp_path):
    """A dataset of a wide picture, a tall one, a square one, and one that is stored turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    samples = []
    for number, size in enumerate([(60, 128), (128, 50), (64, 64), (70, 120)]):
        path = tmp_path / f"{number}.png"
        picture(number, size).save(path, **({"exif": exif} if number == 3 else {}))
        label = fo.Classification(label=CLASSES[number] if number else "no such class")
        samples.append(fo.Sample(filepath=str(path), ground_truth=label))
    return make_dataset(*samples)


def same(dataset, one, other):
    """Whether two heatmap fields have the same maps and attributes, bit for bit; nothing is hidden of them."""
    operator("set_heatmap_look")(dataset, hide_below=0)
    for a, b in zip(dataset.values(one), dataset.values(other), strict=True):
        assert [a[name] for name in ATTRIBUTES] == [b[name] for name in ATTRIBUTES]
        assert np.array_equal(a.map, b.map)
        assert a.range == b.range
    return True


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("prepare", [transforms(), Letterbox()], ids=["resize", "letterbox"])
def test_maps_are_those_of_compute_cams(pictures, prepare, workers):
    arguments = {"methods": ["gradcam", "eigencam"], "transforms": prepare, "classes": CLASSES}
    compute(pictures, model=small_network(), batch_size=3, **arguments)
    made = cam_model(small_network(), **arguments)
    pictures.apply_model(made, label_field="heat", batch_size=3, num_workers=workers)
    assert same(pictures, "heat_gradcam", "run_gradcam")
    assert same(pictures, "heat_eigencam", "run_eigencam")
    shapes = [m.shape for m in pictures.values("heat_gradcam.map")]
    assert shapes == [(90, 192), (192, 75), (192, 192), (192, 112)]  # the last one upright
    assert pictures.values("heat_gradcam.cam_key") == [None] * 4


def test_one_method_is_a_label_several_are_named(pictures):
    one = cam_model(methods="layercam")
    assert isinstance(one.predict(np.zeros((8, 9, 3), np.uint8)), fo.Heatmap)
    pictures.apply_model(one, label_field="heat")
    assert pictures.values("heat.method") == ["layercam"] * 4
    several = cam_model(methods=["gradcam"], layers=["layer3", "layer4"], store_prediction=True)
    assert several.names == ["gradcam_layer3", "gradcam_layer4", "prediction"]
    assert (several.methods, several.layers) == (["gradcam"], ["layer3", "layer4"])
    pictures.apply_model(several, label_field="all")
    assert pictures.values("all_prediction.label") == pictures.values("all_gradcam_layer4.target")


def test_labels_are_explained_of_the_samples_that_have_them(pictures, make_dataset, tmp_path):
    arguments = {"targets": "ground_truth", "methods": "gradcam"}
    with pytest.raises(
        ValueError, match=r"no class 'ground_truth'.*give samples=.*or use compute_cams"
    ):
        cam_model(**arguments)
    compute(
        pictures,
        model=small_network(),
        transforms=transforms(),
        classes=CLASSES,
        batch_size=4,
        **arguments,
    )
    made = cam_model(samples=pictures, **arguments)
    pictures.apply_model(made, label_field="heat", batch_size=4)
    assert same(pictures, "heat", "run_gradcam")
    assert pictures.values("heat.status") == ["label_unknown", "ok", "ok", "ok"]
    others = make_dataset(fo.Sample(filepath=pictures.first().filepath))
    with pytest.raises(ValueError, match=r"0\.png: is none of the samples whose labels"):
        others.apply_model(made, label_field="heat", skip_failures=False)


def test_files_are_written_where_fiftyone_wants_them(pictures, tmp_path):
    """A heatmap without a map has no file, and costs nobody else's."""
    made = cam_model(samples=pictures, targets="ground_truth")
    pictures.apply_model(made, label_field="heat", batch_size=4)
    maps = pictures.values("heat.map")
    folder = tmp_path / "heats"
    pictures.apply_model(made, label_field="file", batch_size=4, output_dir=str(folder))
    assert len(list(folder.iterdir())) == 3
    paths = pictures.values("file.map_path")
    assert paths[0] is None
    assert pictures.first().file.status == "label_unknown"
    assert "export_map" not in pictures.first().file.to_dict()
    for path, heat in list(zip(paths, maps, strict=True))[1:]:
        assert np.array_equal(cv2.imread(path, cv2.IMREAD_UNCHANGED), heat)


def test_a_file_that_cannot_be_read_is_fiftyones_failure(pictures, tmp_path, caplog):
    broken = pictures.skip(1).first()
    (tmp_path / "broken.png").write_bytes(b"no picture")
    broken.filepath = str(tmp_path / "broken.png")
    broken.save()
    made = cam_model()
    pictures.apply_model(made, label_field="heat", batch_size=1)
    assert [h is None for h in pictures.values("heat.status")] == [False, True, False, False]
    assert "broken.png: cannot identify image file" in caplog.text
    with pytest.raises(ValueError, match=r"broken\.png: cannot identify"):
        pictures.apply_model(
            made, label_field="heat", batch_size=1, skip_failures=False, num_workers=0
        )


def test_a_model_that_raises_is_fiftyones_failure(pictures, caplog):
    net = small_network()
    made = cam_model(net, transforms=transforms(), classes=CLASSES)

    def fail(module, images, output):
        if len(images[0]) == 3:
            raise RuntimeError("no threes today")

    hook = net.register_forward_hook(fail)
    pictures.apply_model(made, label_field="heat", batch_size=3)
    assert pictures.values("heat.status") == [None, None, None, "ok"]
    assert "no threes today" in caplog.text
    pictures.apply_model(made, label_field="heat", batch_size=4)
    assert pictures.count("heat") == 4
    hook.remove()


def test_sizes_are_batched_and_the_network_is_left_as_it_came(pictures):
    import torchvision.transforms as T

    net = small_network().train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    as_they_are = T.Compose([T.ToTensor(), T.Normalize([0.5] * 3, [0.25] * 3)])
    made = cam_model(net, transforms=as_they_are, classes=CLASSES)
    assert made.ragged_batches is False
    with torch.inference_mode():
        pictures.apply_model(made, label_field="heat", batch_size=4)
    assert pictures.values("heat.status") == ["ok"] * 4
    assert all(module.training for module in net.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())


def test_pictures_that_are_no_files(pictures):
    made = cam_model()
    pixels = np.asarray(picture(0, (60, 128)))
    path = pictures.first().filepath
    expected = made.predict(path)
    assert made.preprocess
    assert made.media_type == "image"
    for given in (pixels, Image.fromarray(pixels), np.dstack([pixels, pixels[..., :1]])):
        found = made.predict(given)
        assert np.array_equal(found.map, expected.map)
        assert found.peak == expected.peak
    grey = made.predict_all(np.stack([pixels[..., :1]] * 2))
    assert [heat.map.shape for heat in grey] == [(90, 192)] * 2
    for wrong in (torch.zeros(3, 64, 64), pixels / 255, pixels[:, :0], None, 3):
        with pytest.raises(ValueError, match="predict: give the upright picture as a uint8 array"):
            made.predict(wrong)


def test_files_that_are_read_by_the_users_own_function(pictures):
    def read(path):
        return transforms()(Image.open(path).convert("RGB"))

    plain = pictures[:3]  # it does not turn the one that is stored turned
    with pytest.raises(ValueError, match="samples: preprocess= reads files itself"):
        cam_model(small_network(), preprocess=read, classes=CLASSES)
    made = cam_model(small_network(), preprocess=read, classes=CLASSES, samples=plain)
    plain.apply_model(made, label_field="heat", batch_size=3)
    plain.apply_model(cam_model(), label_field="own", batch_size=3)
    assert same(plain, "heat", "own")
    with pytest.raises(ValueError, match="give the path of a file instead"):
        made.predict(np.zeros((8, 8, 3), np.uint8))


def test_a_detector_explains_its_own_detections(pictures):
    arguments = {"model": detector(), "transforms": Letterbox(), "classes": ["dark", "light"]}
    compute(pictures, batch_size=4, **arguments)
    made = cam_model(**arguments, store_prediction=True)
    assert made.names == ["layercam", "detections"]
    pictures.apply_model(made, label_field="heat", batch_size=4)
    assert same(pictures, "heat_layercam", "run_layercam")
    paths = [f"{field}_detections.detections.bounding_box" for field in ("heat", "run")]
    assert pictures.values(paths[0]) == pictures.values(paths[1])
    for sample in pictures:
        sample["boxes"] = fo.Detections(
            detections=[fo.Detection(label="dark", bounding_box=[0, 0, 0.5, 0.5])]
        )
        sample.save()
    with pytest.raises(
        ValueError, match="labels, which apply_model cannot write to; use compute_cams"
    ):
        cam_model(**arguments, samples=pictures, targets="boxes")


def test_programs_name_no_paths_and_no_addresses(plugin, tmp_path):
    import fiftyone.operators as foo

    for name, said in (
        ("hf:http://127.0.0.1/net", "addresses are not fetched"),
        (f"hf:{tmp_path}", "from the App only files in FiftyOne's folder of models"),
    ):
        with pytest.raises(foo.executor.ExecutionError, match=said):
            foo.execute_operator("@cam51/heatmaps/cam_model", {"params": {"model": name}})
        with pytest.raises(ValueError, match=said):
            importlib.import_module(f"{PLUGIN}.operators.forms.zoo_source").parse(
                None, {"base": name}
            )


def test_bad_input_is_refused_before_anything_is_applied(plugin, pictures):
    for arguments, message in [
        ({"methods": "gradcamm"}, "did you mean gradcam"),
        ({"layers": "layer9"}, "layers: the model has no layer 'layer9'"),
        ({"targets": "kind 77"}, "no class 'kind 77'"),
        ({"targets": "contrast"}, "give samples="),
        ({"targets": {"like": "0" * 24}}, "targets: like compares embeddings"),
        ({"heatmap_size": 3}, "heatmap_size"),
        ({"samples": "photos"}, "samples must be a FiftyOne dataset or view, got str"),
    ]:
        with pytest.raises(ValueError, match=message):
            cam_model(**arguments)
    with pytest.raises(ValueError, match="transforms is required"):
        cam_model(small_network())
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 64, 10))
    with pytest.raises(ValueError, match=r"(?i)layer"):
        cam_model(flat, transforms=transforms(), classes=CLASSES)
    with pytest.raises(ValueError, match="does not expose logits"):
        pictures.apply_model(cam_model(), label_field="heat", store_logits=True)
    with pytest.raises(ValueError, match=r"Unknown key 'colour'"):
        pictures.apply_model(cam_model(), label_field="heat", colour="red")
    assert "heat" not in pictures.get_field_schema()


def test_thresholds_and_classes_leave_heatmaps_alone(pictures):
    made = cam_model(store_prediction=True)
    pictures.apply_model(made, label_field="a", confidence_thresh=1.0, classes=["no such class"])
    assert pictures.values("a_gradcam.status") == ["ok"] * 4
    assert pictures.values("a_prediction.label") == [None] * 4


def test_the_operator_says_what_the_model_would_give(pictures):
    import fiftyone.operators as foo

    params = {"model": "tests_model", "methods": ["gradcam", "eigencam"]}
    with pytest.raises(foo.executor.ExecutionError, match="tests_model"):
        foo.execute_operator("@cam51/heatmaps/cam_model", {"dataset": pictures}, params=params)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="FiftyOne reads videos with ffmpeg")
def test_frames_of_a_video(plugin, make_dataset, tmp_path):
    for number in range(3):
        picture(number, (64, 96)).save(tmp_path / f"{number}.png")
    movie = tmp_path / "movie.mp4"
    given = ["-i", str(tmp_path / "%d.png"), "-pix_fmt", "yuv420p", str(movie)]
    subprocess.run(["ffmpeg", "-v", "error", *given], check=True)
    videos = make_dataset(fo.Sample(filepath=str(movie)))
    videos.apply_model(cam_model(), label_field="heat", batch_size=2)
    found = videos.values("frames.heat.map", unwind=True)
    assert [heat.shape for heat in found] == [(128, 192)] * 3


SPAWNED = """
import multiprocessing, sys

import fiftyone as fo
from operators_common import CLASSES, operator, small_network, transforms

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    dataset = fo.load_dataset(sys.argv[1])
    made = operator("cam_model")(small_network(), transforms=transforms(), classes=CLASSES)
    dataset.apply_model(made, label_field="heat", batch_size=3, num_workers=2, skip_failures=False)
"""


@pytest.mark.slow
def test_loaders_whose_processes_begin_empty(pictures, tmp_path):
    """On macOS and Windows workers are not forked: what reads images has to bring the plugin along."""
    script = tmp_path / "spawned.py"
    script.write_text(SPAWNED)
    runner = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    run_python(runner, str(script), pictures.name, PYTHONPATH=f"{ROOT}:{TESTS}")
    pictures.reload()
    pictures.apply_model(cam_model(), label_field="own", batch_size=3)
    assert same(pictures, "heat", "own")
