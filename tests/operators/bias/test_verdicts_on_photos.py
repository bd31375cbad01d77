"""A verdict never contradicts its own evidence: real photos, a real network, the swap as it is."""

import numpy as np
import pytest
import torch
from PIL import Image

from cam_core.bias import assessment, swap_test, verdicts
from examples.lite0 import lite0_model
from examples.measure import load_image

SIDE = 320


@pytest.fixture(scope="module")
def swapped():
    """What other photos' backgrounds do to the 24 photos."""
    from examples.dataset import load_photos

    model = lite0_model()
    module = model._model.cpu().eval()
    images, masks = [], []
    for photo in load_photos():
        image = Image.fromarray(np.asarray(load_image(photo["path"])))
        image.thumbnail((SIDE, SIDE))
        images.append(np.asarray(image))
        height, width = images[-1].shape[:2]
        mask = np.zeros((height, width), bool)
        for left, top, right, bottom in photo["boxes_xyxy"]:
            rows = slice(int(top * height), int(np.ceil(bottom * height)))
            mask[rows, int(left * width) : int(np.ceil(right * width))] = True
        masks.append(mask)

    def predict(batch):
        pictures = torch.stack([model.transforms(Image.fromarray(image)) for image in batch])
        with torch.inference_mode():
            return module(pictures).softmax(1)

    return swap_test.swap_check(images, masks, predict, count=4, batch_size=16)


def test_no_photo_is_said_to_rely_on_its_object_whose_prediction_changes(swapped):
    effects, count = swapped.effects, len(swapped.status)
    found = assessment.assess(swapped.targets, np.arange(count), swapped.status, effects)
    words = np.array([v.verdict for v in found.verdicts])
    cleared = np.isin(words, (verdicts.OBJECT, verdicts.HARMLESS))
    assert cleared.sum() >= 8
    assert (effects.swap_flip[cleared] < 0.5).all()
    assert (effects.swap_drop[cleared] < 0.25 * effects.score[cleared]).all()
    # the network names some photos wrongly and hardly believes it: most of that is lost at once
    low = effects.score < 0.25
    assert (effects.swap_flip[low] >= 0.5).sum() >= 3
    assert {found.verdicts[i].why for i in np.flatnonzero(low)} == {"unsure"}
    assert not cleared[low].any()
