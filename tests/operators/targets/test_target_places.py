"""Targets at places, in words, and like other images; images that a function of one's own reads."""

import fiftyone as fo
import models_common as nets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms as T
from operators_common import operator
from PIL import Image
from targets_common import SIDE, Mean, PerPixel, explain, picture, samples
from torch import nn

pytestmark = pytest.mark.usefixtures("plugin")
NAMES = ["background", "red", "blue", "green"]
COLOURS = torch.tensor([[0.1, 0.1, 0.1], [1, 0, 0], [0, 0, 1], [0, 1, 0]])
RED = 12 * SIDE  # pixels of a picture that is red for three quarters


def boxes(*pairs):
    return fo.Detections(detections=[fo.Detection(label=n, bounding_box=b) for n, b in pairs])


@pytest.fixture
def street(make_dataset, tmp_path):
    """Two pictures: red for three quarters, else blue; and blue alone."""
    left = boxes(("red", [0, 0, 0.5, 1]), ("blue", [0.5, 0, 0.5, 1]))
    return make_dataset(
        *samples(
            tmp_path, (0.75, {"things": left}), (0.0, {"things": boxes(("lamp", [0, 0, 1, 1]))})
        )
    )


def segment(dataset, **arguments):
    return explain(dataset, PerPixel(COLOURS), task="segmentation", classes=NAMES, **arguments)


def values(dataset, name, field="run_gradcam"):
    return dataset.values(f"{field}.{name}")


def test_the_two_largest_predicted_classes(street):
    summary = segment(street)
    assert summary.fields == ["run_gradcam_top1", "run_gradcam_top2"]  # and no one prediction
    assert segment(street, resume=True).resumed == 2
    assert values(street, "target", "run_gradcam_top1") == ["red", "blue"]
    assert values(street, "target", "run_gradcam_top2") == ["blue", None]
    assert values(street, "status", "run_gradcam_top2") == ["ok", "target_absent"]
    assert values(street, "score", "run_gradcam_top1") == pytest.approx([RED, SIDE**2], rel=1e-5)
    assert values(street, "score", "run_gradcam_top2") == [pytest.approx(4 * SIDE, rel=1e-5), None]
    # what counts for red is red
    heat = street.first().run_gradcam_top1.map
    assert heat[:, : heat.shape[1] // 2].min() == 255
    assert heat[:, -24:].max() == 0


def test_a_class_by_name(street):
    segment(street, targets=["red", "green"])
    assert values(street, "status", "run_gradcam_red") == ["ok", "target_absent"]
    assert values(street, "status", "run_gradcam_green") == ["target_absent"] * 2
    assert values(street, "target", "run_gradcam_green") == ["green"] * 2
    segment(street, targets="warm", class_map={"warm": ["red", "green"]}, cam_key="group")
    # in every pixel where either is predicted: log(e^1 + e^0)
    expected = RED * float(torch.tensor([1.0, 0]).logsumexp(0))
    assert values(street, "score", "group_gradcam") == [pytest.approx(expected, rel=1e-5), None]
    assert values(street, "target", "group_gradcam") == ["warm", "warm"]


def test_labels_of_a_field(street):
    segment(street, targets="things")
    assert values(street, "target", "run_gradcam_label1") == ["red", "lamp"]
    assert values(street, "status", "run_gradcam_label1") == ["ok", "label_unknown"]
    assert values(street, "status", "run_gradcam_label2") == ["ok", "no_label"]


def test_over_pixels(street):
    def scores(key, **target):
        segment(street, targets=target, cam_key=key)
        return values(street, "score", f"{key}_gradcam"), values(street, "status", f"{key}_gradcam")

    found, status = scores("everywhere", **{"class": "blue", "over": "all"})
    assert found == pytest.approx([4 * SIDE, SIDE**2], rel=1e-5)
    assert status == ["ok", "flat"]  # it is blue everywhere
    found, status = scores("predicted", **{"class": "blue", "over": "predicted"})
    assert found == pytest.approx([4 * SIDE, SIDE**2], rel=1e-5)
    found, status = scores("box", box=[0.5, 0, 0.5, 1], **{"class": "red"})
    assert found == pytest.approx([4 * SIDE, 0], rel=1e-4)
    assert status == ["ok", "zero"]  # it is asked for there, seen or not
    found, status = scores("mask", mask="things", **{"class": "red"})
    assert found == [pytest.approx(8 * SIDE, rel=1e-4), None]
    assert status == ["ok", "target_absent"]
    again, _ = scores("over", **{"class": "red", "over": "things"})
    assert again == found


def test_places_go_through_the_crop(street):
    """The network sees columns and rows 4 to 12."""
    cropped = T.Compose([T.CenterCrop(8), T.ToTensor()])
    target = {"box": [0, 0, 0.5, 1], "class": "red"}
    segment(street, targets=target, transforms=cropped)
    assert values(street, "score")[0] == pytest.approx(4 * 8, rel=1e-4)
    outside = {"box": [0, 0, 0.2, 1], "class": "red"}
    segment(street, targets=outside, transforms=cropped, cam_key="outside")
    assert values(street, "status", "outside_gradcam") == ["target_absent"] * 2


def masks(dataset, name, of, mapping, path=None):
    """Stores a mask of each picture, whose red columns have ``mapping["red"]`` and so on."""
    for number, sample in enumerate(dataset):
        colours = np.asarray(Image.open(sample.filepath).convert("RGB"), int)
        mask = np.zeros((*colours.shape[:2], *np.shape(mapping["red"])), np.uint8)
        mask[colours[..., 0] > 128] = mapping["red"]
        mask[colours[..., 2] > 128] = mapping["blue"]
        if path is None:
            sample[name] = of(mask=mask)
        else:
            file = str(path / f"{name}{number}.png")
            Image.fromarray(mask).save(file)
            sample[name] = of(mask_path=file)
        sample.save()


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("shift", [0, 1])
def test_masks_by_the_models_own_indices(street, tmp_path, shift, on_disk):
    """What ``apply_model`` stores: class indices, of some wrappers plus one, and no mask targets."""
    indices = {"red": 1 + shift, "blue": 2 + shift}
    masks(street, "pred", fo.Segmentation, indices, tmp_path if on_disk else None)
    summary = segment(street, targets={"mask": "pred", "class": "red"})
    assert values(street, "score") == [pytest.approx(RED, rel=1e-4), None]
    assert values(street, "status") == ["ok", "target_absent"]
    plus = " plus 1" if shift else ""
    assert f"'pred' has no mask_targets: its values are the model's class indices{plus}" in str(
        summary
    )


def test_masks_of_one_value_mark_what_is_asked_for(street):
    masks(street, "bin", fo.Segmentation, {"red": 255, "blue": 0})
    summary = segment(street, targets={"mask": "bin", "class": "green"}, methods="hirescam")
    assert values(street, "status", "run_hirescam") == ["zero", "no_label"]
    assert "mask_targets" not in str(summary)


def test_masks_in_another_numbering_need_names(street):
    masks(street, "own", fo.Segmentation, {"red": 2, "blue": 1})
    target = {"mask": "own", "class": "red"}
    message = (
        "values 1, 2 and the dataset no mask_targets.*dataset.mask_targets = {'own': {1: 'name'"
    )
    with pytest.raises(ValueError, match=message):
        segment(street, targets=target)
    assert not operator("list_cam_runs")(street)
    street.mask_targets = {"own": {1: "blue", 2: "red"}}
    street.save()
    segment(street, targets=target)
    assert values(street, "score") == [pytest.approx(RED, rel=1e-4), None]


def test_coloured_masks_need_their_colours(street):
    masks(street, "rgb", fo.Segmentation, {"red": (255, 0, 0), "blue": (0, 0, 255)})
    target = {"mask": "rgb", "class": "red"}
    with pytest.raises(
        ValueError, match="masks of 'rgb' cannot be told apart: the mask is coloured"
    ):
        segment(street, targets=target)
    street.mask_targets = {"rgb": {"#ff0000": "red", "#0000ff": "blue"}}
    street.save()
    segment(street, targets=target)
    assert values(street, "score") == [pytest.approx(RED, rel=1e-4), None]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"mask": "things"}, "mask says where, and a class what"),
        ({"box": [0, 0, 1, 1]}, "box says where, and a class what"),
        ({"box": [0, 0, 2, 1], "class": "red"}, "box must be"),
        ({"box": [0, 0, 1], "class": "red"}, "box must be"),
        ({"mask": "thinks", "class": "red"}, "no field 'thinks'; did you mean 'things'"),
        ({"class": "rad", "over": "all"}, "no class 'rad'; near: red"),
        (("contrast", "red", "blue"), "this is a segmentation network"),
        ({"mask": "things", "class": "red", "over": "all"}, "is not understood"),
    ],
)
def test_wrong_places(street, target, message):
    with pytest.raises(ValueError, match=message):
        segment(street, targets=target)


# words and likeness -------------------------------------------------------------------------------------


def test_text(street, tmp_path):
    pytest.importorskip("transformers")
    import importlib

    from operators_common import PLUGIN

    zoo = importlib.import_module(f"{PLUGIN}.operators.models.zoo")
    folder = nets.clip(tmp_path / "clip")
    model = zoo.load("zero-shot-classification-transformer-torch", name_or_path=folder)
    prompts = ["a photo of cat", "a photo of dog"]
    given = dict(progress=False, batch_size=2, store_prediction=False)
    summary = operator()(street, model, targets={"text": prompts}, cam_key="run", **given)
    fields = summary.fields
    assert [street.first()[f].target for f in fields] == prompts
    with torch.no_grad():
        tokens = model.transforms.processor(text=prompts, padding=True, return_tensors="pt")
        texts = F.normalize(model._model.get_text_features(**tokens).pooler_output, dim=1)
        for sample in street:
            found = [sample[f].score for f in fields]
            path = sample.filepath
            pixels = model.transforms.processor(images=Image.open(path), return_tensors="pt")
            image = F.normalize(model._model.get_image_features(**pixels).pooler_output, dim=1)
            expected = (model._model.logit_scale.exp() * image @ texts.T)[0].tolist()
            assert found == pytest.approx(expected, rel=1e-3)
    # beside classes of its own, and "like this image" for the same network
    both = ["cat", {"text": "a photo of dog"}]
    named = operator()(
        street, model, classes=["cat", "horse"], targets=both, cam_key="two", **given
    )
    assert len(named.fields) == 2
    one = street.first()
    operator()(street, model, classes=["cat"], targets={"like": one.id}, cam_key="like", **given)
    like = [f for f in street.get_field_schema() if f.startswith("like_")]
    assert street.first()[like[0]].score == pytest.approx(1, abs=1e-4)


def test_like_another_image(street, tmp_path):
    pytest.importorskip("transformers")
    name = f"hf:{nets.backbone(tmp_path / 'backbone')}"
    given = dict(progress=False, store_prediction=False)
    operator()(street, name, targets={"like": street.last().id}, cam_key="run", **given)
    (field,) = (f for f in street.get_field_schema() if f.startswith("run_"))
    found = values(street, "score", field)
    assert found[1] == pytest.approx(1, abs=1e-4)
    assert found[0] < found[1]
    vector = torch.arange(32.0)
    operator()(street, name, targets={"like": vector}, cam_key="vector", **given)
    used = street.get_run_info("vector").config.settings
    assert used["targets"] == {"like": list(map(float, range(32)))}
    for wrong, message in (
        ({"like": "0" * 24}, "the dataset has no sample"),
        ({"like": [1.0, 2.0]}, "embedding has 32 components"),
        ({"like": None}, "id of a sample or an embedding"),
        ("predicted", "predicts no class"),
    ):
        with pytest.raises(ValueError, match=message):
            operator()(street, name, targets=wrong, cam_key="wrong", **given)


# reading the file oneself --------------------------------------------------------------------------------


class Grey(nn.Module):
    """One channel in, two classes out."""

    def __init__(self):
        super().__init__()
        self.pixels = nn.Conv2d(1, 1, 1, bias=False)
        self.head = nn.Linear(1, 2, bias=False)
        self.pixels.weight.data.fill_(1)
        self.head.weight.data = torch.tensor([[1.0], [-1.0]])

    def forward(self, images):
        return self.head(self.pixels(images).mean((2, 3)))


def depth(path):
    """Reads 16 bits as they are; the right half of the picture."""
    values = np.asarray(Image.open(path)).astype(np.float32)
    values = values[..., 0] * 257 if values.ndim == 3 else values
    return torch.from_numpy(values[:, values.shape[1] // 2 :] / 65535)[None]


@pytest.fixture
def depths(make_dataset, tmp_path):
    """A picture of 16 bits: its value is 1000 but 30000 in its last quarter."""
    values = np.full((8, 16), 1000, np.uint16)
    values[:, 12:] = 30000
    Image.fromarray(values).save(tmp_path / "depth.png")
    return make_dataset(fo.Sample(filepath=str(tmp_path / "depth.png")))


def test_preprocess_reads_the_file(depths):
    summary = explain(depths, Grey(), preprocess=depth, classes=["near", "far"], targets=0)
    label = depths.first().run_gradcam
    assert label.score == pytest.approx((1000 + 30000) / 2 / 65535, rel=1e-5)
    # the half that the network did not see has no heat, and the last quarter is the hottest
    width = label.map.shape[1]
    assert label.map[:, : width // 2 - 1].max() == 0
    assert label.map[:, -width // 8 :].min() == 255
    assert "PathTransforms(<function depth" in summary.settings["transforms"]
    depth.takes_path = True
    try:  # the same as transforms, known by its attribute
        explain(depths, Grey(), transforms=depth, classes=["near", "far"], targets=0, cam_key="two")
    finally:
        del depth.takes_path
    assert np.array_equal(depths.first().two_gradcam.map, label.map)


def test_a_run_with_preprocess_is_done_again_with_it(depths):
    given = dict(classes=["near", "far"], targets=0)
    explain(depths, Grey(), preprocess=depth, **given)
    again = operator("rerun_cams")
    with pytest.raises(ValueError, match="give model= again, with preprocess="):
        again(depths, "run", "none")
    with pytest.raises(ValueError, match="give transforms or preprocess, not both"):
        again(depths, "run", "both", model=Grey(), preprocess=depth, transforms=T.ToTensor())
    again(depths, "run", "again", model=Grey(), preprocess=depth, classes=given["classes"])
    assert np.array_equal(depths.values("again_gradcam.map"), depths.values("run_gradcam.map"))


def test_preprocess_that_reads_no_png_says_what_it_sees(depths):
    def picky(path):
        if "cam51" in path or not path.endswith("depth.png"):
            raise OSError("not one of ours")
        return depth(path)

    given = dict(classes=["near", "far"], targets=0)
    with pytest.raises(ValueError, match="cannot read a file like 'depth.png' with a test pattern"):
        explain(depths, Grey(), preprocess=picky, **given)
    picky.window = lambda height, width: (width / 2, 0, width, height)
    explain(depths, Grey(), preprocess=picky, **given)
    explain(depths, Grey(), preprocess=depth, cam_key="probed", **given)
    one = depths.first()
    assert np.abs(one.run_gradcam.map.astype(int) - one.probed_gradcam.map).max() <= 5
    picky.window = lambda height, width: (width, 0, 0, height)
    with pytest.raises(ValueError, match="which has no area"):
        explain(depths, Grey(), preprocess=picky, cam_key="third", **given)


def test_turned_pictures_are_refused_where_preprocess_does_not_turn_them(make_dataset, tmp_path):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = 6
    straight = picture(tmp_path / "straight.png", 0.25, (16, 32))
    with Image.open(straight) as image:
        image.rotate(90, expand=True).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    dataset = make_dataset(
        *(fo.Sample(filepath=str(tmp_path / n)) for n in ("straight.png", "turned.jpg"))
    )

    def blind(path):
        return T.ToTensor()(Image.open(path).resize((16, 16)))

    def upright(path):
        return T.ToTensor()(ImageOps.exif_transpose(Image.open(path)).resize((16, 16)))

    summary = explain(dataset, Mean(), preprocess=blind)
    assert [f["reason"].split(",")[0] for f in summary.failed] == [
        "ValueError: the image is stored turned (EXIF orientation 6)"
    ]
    explain(dataset, Mean(), preprocess=upright, cam_key="right")
    maps = [sample.right_gradcam.map for sample in dataset]
    assert maps[0].shape == maps[1].shape == (192, 96)
    assert np.abs(maps[0].astype(int) - maps[1]).mean() < 20


def test_either_transforms_or_preprocess(depths):
    with pytest.raises(ValueError, match="give transforms or preprocess, not both"):
        operator()(depths, Grey(), preprocess=depth, transforms=T.ToTensor(), cam_key="run")
    with pytest.raises(ValueError, match="preprocess: int is not callable"):
        operator()(depths, Grey(), preprocess=3, cam_key="run")
