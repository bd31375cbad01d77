"""The planted demo: what is planted is what the network does and what the test finds."""

import fiftyone as fo
import numpy as np
import pytest
import torch
from operators_common import operator

from examples import planted


def test_the_network_follows_the_tag():
    labels, tagged = planted.planted_marks()
    assert (len(labels), int(tagged.sum())) == (200, 40)
    pictures, masks = planted.draw(labels, tagged, np.random.default_rng(planted.SEED))
    module = planted.planted_module()
    with torch.inference_mode():
        found = module(planted.to_input(pictures)).argmax(1).numpy()
        # the same stars, their tags painted over
        stars = pictures[labels == planted.STAR].copy()
        stars[:, -24:, -42:] = stars[:, :1, :1]
        bare = module(planted.to_input(stars)).argmax(1).numpy()
    star = labels == planted.STAR
    assert (found[star & tagged] == planted.STAR).all()
    assert not (found[star & ~tagged] == planted.STAR).any()
    assert not (bare == planted.STAR).any()
    assert (found[~tagged & ~star] == labels[~tagged & ~star]).mean() > 0.99
    assert not (masks & (np.mgrid[:96, :96].min(0) > 75)).any()


@pytest.mark.usefixtures("plugin")
def test_the_demo_finds_what_is_planted(make_dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("CAM51_ALLOWED_MODELS", planted.MODEL)
    name = make_dataset().name
    with pytest.raises(ValueError, match="choose another name"):
        planted.planted_dataset(name, tmp_path)
    fo.delete_dataset(name)
    dataset = planted.planted_dataset(name, tmp_path, persistent=False)
    try:
        summary = planted.compute(dataset)
        flagged = [row["label"] for row in summary.classes if row["flagged"]]
        assert flagged == ["star"]
        view = dataset.load_saved_view(f"{planted.CAM_KEY}: relies on background")
        tagged = planted.planted_marks()[1]
        found = {int(path[-7:-4]) for path in view.values("filepath")}
        wanted = set(np.flatnonzero(tagged))
        assert len(found & wanted) >= 36
        assert len(found - wanted) <= 4
    finally:
        operator("delete_cam_run")(dataset, planted.CAM_KEY)
        dataset.delete()
