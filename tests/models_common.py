"""The small networks of ``benchmarks.networks``, saved as FiftyOne's zoo loads them."""

import pytest
import torch

from benchmarks import networks
from benchmarks.networks import NAMES, PLACES

__all__ = ["NAMES", "PLACES"]


def save(folder, module, processor):
    module.save_pretrained(str(folder))
    processor.save_pretrained(str(folder))
    return str(folder)


def vit(folder):
    import transformers as t

    return save(folder, networks.vit(), t.ViTImageProcessor(size={"height": 64, "width": 64}))


def convnext(folder):
    import transformers as t

    # The short side is resized to 64 / 0.875 and a square of 64 is cut out.
    processor = t.ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.875)
    return save(folder, networks.convnext(), processor)


def segformer(folder):
    import transformers as t

    processor = t.SegformerImageProcessor(size={"height": 64, "width": 64})
    return save(folder, networks.segformer(), processor)


def backbone(folder):
    import transformers as t

    processor = t.BitImageProcessor(
        size={"shortest_edge": 64}, crop_size={"height": 56, "width": 56}
    )
    return save(folder, networks.dinov2(), processor)


def _cropped():
    import transformers as t

    return t.CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})


def clip(folder):
    import transformers as t

    return save(folder, networks.clip(), t.CLIPProcessor(_cropped(), tokenizer()))


def siglip(folder):
    import transformers as t

    images = t.SiglipImageProcessor(size={"height": 64, "width": 64})
    return save(folder, networks.siglip(), t.SiglipProcessor(images, tokenizer()))


def group_vit(folder):
    import transformers as t

    return save(folder, networks.group_vit(), t.CLIPProcessor(_cropped(), tokenizer()))


def mask2former(folder):
    import transformers as t

    processor = t.Mask2FormerImageProcessor(size={"height": 64, "width": 64})
    return save(folder, networks.mask2former(), processor)


def detr(folder):
    import transformers as t

    processor = t.DetrImageProcessor(size={"height": 64, "width": 64})
    return save(folder, networks.detr(), processor)


def tokenizer():
    """Knows six words."""
    import transformers as t

    library = pytest.importorskip("tokenizers")  # transformers brings it
    words = ["<start>", "<end>", "a", "photo", "of", "cat", "dog", "horse"]
    own = library.Tokenizer(
        library.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<end>")
    )
    own.pre_tokenizer = library.pre_tokenizers.Whitespace()
    own.post_processor = library.processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 0), ("<end>", 1)]
    )
    ends = {"bos_token": "<start>", "eos_token": "<end>", "pad_token": "<end>"}
    return t.PreTrainedTokenizerFast(tokenizer_object=own, unk_token="<end>", **ends)


def yolo(path, name):
    """Saves an Ultralytics network with random weights, as the zoo loads it."""
    networks.offline_ultralytics()
    from ultralytics import YOLO

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        YOLO(name, verbose=False).save(str(path))
    return path
