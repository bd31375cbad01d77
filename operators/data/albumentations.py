"""Transforms of albumentations, which take and return named arrays."""

import numpy as np


class ArrayTransforms:
    """Calls albumentations' transforms as torchvision's are called.

    Args:
        transforms: a ``Compose`` or a single transform of albumentations
    """

    def __init__(self, transforms):
        self._whole = transforms
        #: the steps, by whose types the geometry is computed
        self.transforms = list(getattr(transforms, "transforms", [transforms]))

    def __repr__(self):
        return f"{type(self).__name__}({self._whole!r})"

    def __call__(self, picture):
        """Maps a PIL image to a (C, h, w) tensor of the values that the transforms return."""
        import torch

        made = self._whole(image=np.asarray(picture.convert("RGB")))["image"]
        if isinstance(made, torch.Tensor):
            return made
        made = np.ascontiguousarray(made if made.ndim == 3 else made[..., None])
        return torch.from_numpy(made).permute(2, 0, 1)
