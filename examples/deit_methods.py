"""Eight methods on a DeiT, smoothed over six views and most by the principal component, in one call.

Run ``python -m examples.deit_methods``. How the network's tokens lie on the image is found out.
Where the weights cannot be downloaded the network has random ones, and says so.
"""

from examples.walkthrough import OUTPUT, compute_cams, photos_dataset, save_pages, with_weights

NAME = "deit_tiny_patch16_224"
LAYER = "blocks.11.norm1"
METHODS = [
    "gradcam+aug+eigen",
    "gradcampp+aug+eigen",
    "xgradcam+aug+eigen",
    "layercam+aug+eigen",
    "ablationcam+aug+eigen",
    ("scorecam", {"top_channels": 16, "smooth": ["aug"]}),
    "eigencam+aug",
    "eigengradcam+aug",
]


def deit(pretrained):
    """Builds the network."""
    import timm

    return timm.create_model(NAME, pretrained=pretrained)


def main(photos=("dog.jpg", "cat.jpg")):
    """Explains the predicted classes and saves the picture."""
    import torchvision.transforms as T

    from examples.lite0 import lite0_classes

    model, trained = with_weights(deit, NAME)
    dataset = photos_dataset(photos)
    summary = compute_cams()(
        dataset,
        model,
        transforms=T.Compose(
            [
                T.Resize((224, 224)),
                T.ToTensor(),
                T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        ),
        classes=lite0_classes(),  # ImageNet's
        layers=LAYER,
        methods=METHODS,
        cam_key="deit",
    )
    print(summary)
    fields = summary.fields[: len(METHODS)]
    captions = [field.removeprefix("deit_") for field in fields]
    title = "DeiT-tiny" + ("" if trained else ", RANDOM WEIGHTS") + ":"
    save_pages(dataset, fields, captions, OUTPUT / "deit_methods.png", title)
    return summary


if __name__ == "__main__":
    main()
