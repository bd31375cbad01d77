"""RF-DETR as FiftyOne's zoo wraps it: the network of its own package, with random weights."""

import importlib

import numpy as np
import pytest
import torch
from operators_common import PLUGIN, operator
from PIL import Image

from benchmarks import networks

rfdetr = pytest.importorskip("rfdetr")
pytestmark = pytest.mark.usefixtures("plugin")


@pytest.fixture(scope="module")
def wrapped():
    """FiftyOne's wrapper, which is only kept from downloading weights."""
    import fiftyone.utils.rfdetr as four

    made = []

    def build():
        made.append(rfdetr.RFDETRNano(pretrain_weights=None, device="cpu"))
        return made[0].model.model

    network = networks.seeded(build)
    with torch.no_grad():  # so that some classes are found, with confidences that differ
        network.class_embed.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
        network.class_embed.bias.fill_(-3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(four, "_load_rfdetr_model", lambda *_, **__: made[0])
        config = four.RFDETRDetectionModelConfig({"model_type": "RFDETRNano"})
        yield four.RFDETRDetectionModel(config)


def test_what_is_explained_is_what_the_package_predicts(plugin, wrapped, photos, photo_dataset):
    models = importlib.import_module(f"{PLUGIN}.operators.models.load")
    loaded = models.load_model(wrapped)
    assert loaded.kind == "detector"
    with Image.open(photo_dataset(1).first().filepath) as file:
        picture = file.convert("RGB")
    with torch.no_grad():
        outputs = loaded.adapted.forward(loaded.transforms(picture)[None])
    (found,) = loaded.adapted.detections(outputs)
    own = wrapped._model.predict(picture, threshold=loaded.adapted.confidence)
    assert len(own) > 3
    sure = found.scores.numpy() >= loaded.adapted.confidence
    assert sure.sum() == len(own)
    size = np.array([*picture.size] * 2) / np.array([*outputs.input_size][::-1] * 2)
    classes = found.labels.numpy()[sure]
    # the package keeps boxes on the picture
    boxes = np.clip(found.boxes.numpy()[sure] * size, 0, [*picture.size] * 2)
    ours = np.column_stack([boxes, found.scores.numpy()[sure]])
    theirs = np.column_stack([own.xyxy, own.confidence])
    # in any order: of each pair of a query and a class, the box to a tenth of a pixel, and the confidence
    apart = np.abs(ours[:, None] - theirs)
    apart[..., 4] *= 1000
    apart = apart.max(2)
    assert max(apart.min(0).max(), apart.min(1).max()) < 0.1
    nearest = apart.argmin(1)
    assert classes.tolist() == own.class_id[nearest].tolist()
    names = [loaded.label(int(c)) for c in classes]
    assert names == list(np.asarray(own.data["class_name"])[nearest])


def test_a_run(wrapped, photo_dataset):
    dataset = photo_dataset(2)
    dataset.set_values("ground_truth.detections.label", [["cat"]] * 2)
    operator()(
        dataset, wrapped, cam_key="run", methods="layercam", progress=False, num_workers=0,
        heatmap_size=32,
    )  # fmt: skip
    assert dataset.distinct("run_layercam.status") == ["ok"]
    own = dataset.first().run_detections.detections
    assert own
    assert max(d.confidence for d in own) >= 0.25
    assert all(d.in_box + d.on_others + d.outside == pytest.approx(1) for d in own)
