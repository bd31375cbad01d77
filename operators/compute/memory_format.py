"""The memory format of the images that a network is given."""

#: what can be asked for; "auto" is one of the other two, chosen by the network
CHOICES = ("auto", "contiguous", "channels_last")
CONTIGUOUS = "contiguous"
CHANNELS_LAST = "channels_last"


def faster(network, device, precision):
    """Returns the memory format in which a network's forward is expected to be faster.

    ``"channels_last"`` for networks that have more convolutions than linear layers, on a CPU, where
    this was measured (``benchmarks/memory_format.py``), and on a GPU that computes in 16 bits, whose
    kernels for convolutions are written for it (not measured here).

    Args:
        network: a :class:`torch.nn.Module`
        device: a :class:`torch.device`
        precision: ``"float32"``, ``"bfloat16"`` or ``"float16"``
    """
    import torch

    kinds = [type(module) for module in network.modules()]
    convolutions = sum(issubclass(kind, torch.nn.Conv2d) for kind in kinds)
    linear = sum(issubclass(kind, torch.nn.Linear) for kind in kinds)
    helps = device.type == "cpu" or (device.type == "cuda" and precision != "float32")
    return CHANNELS_LAST if helps and convolutions > linear else CONTIGUOUS


def arranged(images, memory_format):
    """Returns images (N, C, H, W) in a memory format; the network's own weights stay as they are."""
    import torch

    if memory_format == CONTIGUOUS:
        return images
    return images.contiguous(memory_format=getattr(torch, memory_format))
