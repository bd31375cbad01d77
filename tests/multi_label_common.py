"""What the tests of multi-label networks share: films with a tag, and a network whose cues are known.

A film is 64 x 64 and dark. Its lower left is bright if it shows *left*, its lower right if it shows
*right*, a small tag in the upper right if it is of the class *tag*: any of the three, or none. The
network's logit of a class is 12 times the mean grey of its own place less 5, so its sigmoid is .99
where the place is bright and .02 where it is dark, whatever else the film shows.
"""

import fiftyone as fo
import numpy as np
import torch
from PIL import Image

SIDE, CLASSES = 64, ["left", "tag", "right"]
#: of the tag, as shares of the film
TAG = [48 / SIDE, 4 / SIDE, 12 / SIDE, 8 / SIDE]
_PLACES = {
    "left": np.s_[24:, :32], "tag": np.s_[4:12, 48:60], "right": np.s_[24:, 32:],
}  # fmt: skip


class Films(torch.nn.Module):
    """One logit for each class, of the class's own place alone.

    Args:
        blind (()): classes whose logit is far below 0 whatever the film shows
        kind ("tensor"): ``"tensor"``; ``"dict"``: the logits in a dict, as Hugging Face returns them;
            ``"binary"``: the logit of the tag alone; ``"two"``: no tag, tag, for a softmax
    """

    def __init__(self, blind=(), kind="tensor"):
        super().__init__()
        self.features = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1, bias=False), torch.nn.ReLU())
        torch.nn.init.ones_(self.features[0].weight)
        places = torch.zeros(3, SIDE, SIDE)
        for number, name in enumerate(CLASSES):
            places[number][_PLACES[name]] = 1
        self.register_buffer("places", places / places.sum((1, 2), keepdim=True))
        self.blind, self.kind = tuple(CLASSES.index(name) for name in blind), kind

    def forward(self, images):
        """Logits of a batch (N, 1, 64, 64)."""
        logits = 12 * torch.einsum("nhw,chw->nc", self.features(images)[:, 0], self.places) - 5
        logits = logits - 100 * torch.tensor([i in self.blind for i in range(3)]).float()
        if self.kind == "dict":
            return {"logits": logits, "hidden": logits * 0}
        if self.kind == "binary":
            return logits[:, 1:2]
        if self.kind == "two":
            return torch.stack([torch.zeros(len(logits)), logits[:, 1]], 1)
        return logits


def see(picture):
    """The grey of a picture in 0 to 1, (1, h, w)."""
    return torch.from_numpy(np.asarray(picture.convert("L"), np.float32) / 255)[None]


def films(folder, count=72, seed=0, labels=True):
    """Samples of films, their classes drawn; ``truth`` names them, ``body`` boxes all but the tag."""
    rng, samples = np.random.default_rng(seed), []
    for i in range(count):
        shown = [name for name in CLASSES if rng.random() < 0.5]
        grey = rng.normal(0.1, 0.02, (SIDE, SIDE))
        for name in shown:
            grey[_PLACES[name]] += 0.7
        path = folder / f"film{i}.png"
        Image.fromarray((grey.clip(0, 1) * 255).astype(np.uint8)).save(path)
        sample = fo.Sample(filepath=str(path), shown=shown)
        sample["body"] = fo.Detections(
            detections=[fo.Detection(label="body", bounding_box=[0, 0.35, 1, 0.65])]
        )
        if labels:
            rows = [fo.Classification(label=name) for name in shown]
            sample["truth"] = fo.Classifications(classifications=rows)
        samples.append(sample)
    return samples


def network():
    """What ``register_model`` is told: module, transforms, classes."""
    return Films().eval(), see, CLASSES
