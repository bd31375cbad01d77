"""Bad input: a wrong argument stops a run before it starts, a bad sample is recorded."""

import fiftyone as fo
import pytest
import torch
import torchvision.transforms as T
from operators_common import CLASSES, compute, operator, small_network, transforms
from PIL import Image

pytestmark = pytest.mark.usefixtures("plugin")

WRONG = [
    ({"methods": "gradcamm"}, "method 'gradcamm' is unknown.*gradcam"),
    ({"methods": [("eigencam", {"n": 2})]}, "no option 'n'; it has: component"),
    ({"layers": "layr4"}, "no layer 'layr4'; did you mean layer"),
    ({"layers": "fc"}, "'fc' has no spatial grid"),
    ({"targets": "kind 33"}, "no class 'kind 33'; near: kind 3"),
    ({"targets": 10}, "index 10 is out of range; the model has 10 classes"),
    ({"targets": "top_11"}, "asks for 11 classes"),
    ({"targets": 1.5}, "targets: 1.5 is not understood"),
    ({"cam_key": "bad-key"}, "cam_key must be a name of letters"),
    ({"fuse": "max"}, "fuse: 'max' is unknown; choose from layercam, mean"),
    ({"batch_size": 0}, "batch_size must be an integer between 1 and 4096"),
    ({"heatmap_size": 3}, "heatmap_size must be an integer between 7 and 4096"),
    ({"storage": "s3"}, "storage: 's3' is unknown; choose from database, disk"),
    ({"output_dir": "x"}, "output_dir: has no effect"),
    ({"precision": "fp8"}, "precision: 'fp8' is unknown"),
    ({"device": "gpu"}, "device: 'gpu' is not a torch device"),
    (
        {"max_fields": 1, "methods": ["gradcam", "layercam"]},
        "would add 2 heatmap fields.*max_fields=2",
    ),
    ({"seed": "a"}, "seed must be an integer"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_argument_writes_nothing(photo_dataset, arguments, message):
    dataset = photo_dataset(2)
    before = dataset.get_field_schema(flat=True).keys()
    with pytest.raises(ValueError, match=message):
        compute(dataset, **arguments)
    assert dataset.get_field_schema(flat=True).keys() == before
    assert not dataset.list_runs()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (None, "model is required"),
        (
            "resnet18-imagenet",
            "the zoo has no model 'resnet18-imagenet'; did you mean resnet18-imagenet-torch",
        ),
        ("depth-anything-v2-small-torch", "cannot be explained: it yields depth"),
        (3, "model: int is not understood"),
    ],
)
def test_wrong_model(photo_dataset, model, message):
    with pytest.raises(ValueError, match=message):
        operator()(photo_dataset(1), model=model)


def test_module_needs_transforms_that_work(photo_dataset):
    dataset = photo_dataset(2)
    with pytest.raises(ValueError, match="transforms is required"):
        operator()(dataset, model=small_network())
    with pytest.raises(ValueError, match="transforms must return a float tensor"):
        compute(dataset, model=small_network(), transforms=lambda image: 3)
    with pytest.raises(ValueError, match="needs class names"):
        compute(dataset, model=small_network(), transforms=transforms(), targets="cat")


def test_model_without_class_scores(photo_dataset):
    class Strange(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = torch.nn.Conv2d(3, 4, 3)

        def forward(self, images):
            return {"boxes": self.body(images)}

    with pytest.raises(ValueError, match="a dict with entries boxes.*callable"):
        compute(photo_dataset(1), model=Strange(), transforms=transforms(), layers="body")


def test_samples_that_are_none(photo_dataset, make_dataset):
    dataset = photo_dataset(2)
    with pytest.raises(ValueError, match="the view matches no sample"):
        compute(dataset.match({"subject": "unicorn"}))
    with pytest.raises(ValueError, match="must be a FiftyOne dataset or view, got list"):
        compute([1, 2])
    with pytest.raises(ValueError, match="a patches view has no lasting samples"):
        compute(dataset.to_patches("ground_truth"))
    video = make_dataset(fo.Sample(filepath="clip.mp4"))
    with pytest.raises(ValueError, match="none of the first 1 videos can be used"):
        compute(video)


def test_grouped_dataset_needs_a_slice(make_dataset, photos):
    dataset = make_dataset()
    dataset.add_group_field("group", default="left")
    group = fo.Group()
    sides = ("left", "right")
    dataset.add_samples(
        [
            fo.Sample(filepath=str(p["path"]), group=group.element(s))
            for p, s in zip(photos, sides, strict=False)
        ]
    )
    with pytest.raises(ValueError, match="use one slice"):
        compute(dataset)
    assert compute(dataset.select_group_slices("right")).done == 1


def test_bad_samples_are_recorded_and_the_rest_goes_on(photo_dataset, tmp_path):
    dataset = photo_dataset(3)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    for name in ("broken.jpg", "dot.png", "missing.jpg"):
        dataset.add_sample(fo.Sample(filepath=str(tmp_path / name)))
    summary = compute(dataset)
    reasons = {f["filepath"].rsplit("/", 1)[1]: f["reason"] for f in summary.failed}
    assert set(reasons) == {"broken.jpg", "missing.jpg"}
    assert summary.done == 4
    assert "cannot identify image" in reasons["broken.jpg"]
    assert "does not exist" in reasons["missing.jpg"]
    assert len(dataset.exists("run_gradcam")) == 4
    assert "2 failed, first: broken.jpg" in str(summary)


def test_no_readable_image_at_all(make_dataset, tmp_path):
    dataset = make_dataset(fo.Sample(filepath=str(tmp_path / "gone.jpg")))
    with pytest.raises(
        ValueError, match="none of the first 1 images can be used; .*does not exist"
    ):
        compute(dataset)


def test_network_that_raises_on_one_picture(photo_dataset):
    class Picky(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small_network()

        def forward(self, images):
            if (images.mean((1, 2, 3)) < -1.5).any():
                raise RuntimeError("too dark for me")
            return self.net(images)

    dataset = photo_dataset(4)
    dark = T.Compose([T.Resize((64, 64)), T.ToTensor(), T.Normalize([0.5] * 3, [0.25] * 3)])
    means = [float(dark(Image.open(p).convert("RGB")).mean()) for p in dataset.values("filepath")]
    threshold = sorted(means)[0] + 1e-4
    summary = compute(
        dataset,
        model=Picky(),
        transforms=T.Compose([dark, Darken(threshold)]),
        classes=CLASSES,
        layers="net.layer4",
    )
    assert [f["reason"] for f in summary.failed] == ["RuntimeError: too dark for me"]
    assert summary.done == 3


class Darken:
    """Moves the darkest picture out of the network's range; places stay, so a probe can read it."""

    def __init__(self, threshold):
        self.threshold = threshold

    def __call__(self, tensor):
        return tensor - 10 if float(tensor.mean()) < self.threshold else tensor


def test_existing_fields_are_not_ours_to_write(photo_dataset):
    dataset = photo_dataset(2)
    dataset.add_sample_field("run_gradcam", fo.StringField)
    with pytest.raises(
        ValueError, match="'run_gradcam' exists on the dataset and belongs to no CAM run"
    ):
        compute(dataset)
    with pytest.raises(ValueError, match="belongs to no CAM run"):
        compute(dataset, overwrite=True)
    assert compute(dataset, methods="layercam").done == 2


def test_unusable_folder_is_said_before_an_earlier_run_is_deleted(photo_dataset, tmp_path):
    dataset = photo_dataset(2)
    compute(dataset)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="output_dir: heatmaps cannot be written to"):
        compute(dataset, overwrite=True, storage="disk", output_dir=str(tmp_path / "file"))
    assert dataset.get_run_info("run").config.status == "finished"
    assert len(dataset.exists("run_gradcam")) == 2


def test_targets_with_one_name_keep_their_own_fields(photo_dataset):
    dataset = photo_dataset(1)
    twins = ["crane" if i in (3, 7) else c for i, c in enumerate(CLASSES)]
    given = dict(model=small_network(), transforms=transforms(), classes=twins)
    summary = compute(dataset, **given, targets=[3, 7], store_prediction=False)
    assert summary.fields == ["run_gradcam_crane_3", "run_gradcam_crane_7"]
    first, second = (lambda out: out[:, 0]), (lambda out: out[:, 1])
    summary = compute(dataset, cam_key="two", targets=[first, second], store_prediction=False)
    assert summary.fields == ["two_gradcam_lambda_1", "two_gradcam_lambda_2"]
    with pytest.raises(ValueError, match="'kind 3' is given twice"):
        compute(dataset, cam_key="three", targets=[3, "kind 3"])


@pytest.mark.parametrize(
    "random", [T.RandomCrop(48), T.RandomHorizontalFlip(0.01), T.ColorJitter(0.5)]
)
def test_random_transforms_are_refused(photo_dataset, random):
    steps = T.Compose([T.Resize((64, 64)), random, T.ToTensor()])
    given = dict(model=small_network(), classes=CLASSES)
    with pytest.raises(ValueError, match="transforms is random"):
        compute(photo_dataset(1), transforms=steps, **given)
    if not isinstance(random, T.RandomHorizontalFlip):  # hidden, it shows by what it does
        with pytest.raises(ValueError, match="transforms"):
            compute(photo_dataset(1), transforms=lambda image: steps(image), **given)


def test_wrong_number_of_class_names(photo_dataset):
    with pytest.raises(ValueError, match="classes has 2 names, the model has 10 outputs"):
        compute(
            photo_dataset(1), model=small_network(), transforms=transforms(), classes=["a", "b"]
        )


@pytest.mark.parametrize("targets", [["predicted", 3], ["top_2"]])
def test_targets_that_stand_alone(photo_dataset, targets):
    with pytest.raises(ValueError, match="stands alone; a list holds class names"):
        compute(photo_dataset(1), targets=targets)
