"""The four backbone stages of DeepLabV3 for one class, from one pass.

Run ``python -m examples.deeplab_stages [class]``; by default "person". The finest stage sees edges, the
last one objects. Where the weights cannot be downloaded the network has random ones, and says so.
"""

import sys

from examples.walkthrough import OUTPUT, compute_cams, photos_dataset, save_pages, with_weights

SIZE = 260
STAGES = [f"backbone.layer{number}" for number in (1, 2, 3, 4)]


def deeplab(pretrained):
    """Builds DeepLabV3 with a ResNet-50."""
    from torchvision.models import segmentation

    weights = segmentation.DeepLabV3_ResNet50_Weights.DEFAULT if pretrained else None
    return segmentation.deeplabv3_resnet50(weights=weights, weights_backbone=None)


def main(name="person"):
    """Explains the class and saves the picture."""
    import torchvision.transforms as T
    from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights

    model, trained = with_weights(deeplab, "DeepLabV3")
    dataset = photos_dataset(["dog.jpg", "cat.jpg", "horse.jpg"])
    summary = compute_cams()(
        dataset,
        model,
        transforms=T.Compose(
            [
                T.Resize((SIZE, SIZE)),
                T.ToTensor(),
                T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        ),
        classes=DeepLabV3_ResNet50_Weights.DEFAULT.meta["categories"],
        layers=STAGES,
        methods="layercam",
        # summed over the pixels where it is predicted; random weights predict it nowhere
        targets=name if trained else {"class": name, "over": "all"},
        cam_key="deeplab",
    )
    print(summary)
    title = f"DeepLabV3, {name!r}" + ("" if trained else ", RANDOM WEIGHTS") + ":"
    save_pages(dataset, summary.fields, STAGES, OUTPUT / "deeplab_stages.png", title)
    return summary


if __name__ == "__main__":
    main(*sys.argv[1:2])
