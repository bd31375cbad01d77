"""What a wrapper of a model is made of."""

import dataclasses


@dataclasses.dataclass
class Parts:
    """A model taken apart.

    Attributes:
        module: the ``torch.nn.Module``
        transforms: maps a PIL image to a (C, h, w) float tensor; None if there are none
        classes: class names in the order of the scores, or None
        adapted: the ``cam_core`` adapter, with its options
        kind: one of ``zoo.KINDS``, or None where it is not known
    """

    module: object
    transforms: object
    classes: list
    adapted: object
    kind: str = None
