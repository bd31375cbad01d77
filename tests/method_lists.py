"""Which registered methods a test is about."""

from __future__ import annotations

from cam_core import list_methods

INFOS = {info.name: info for info in list_methods()}

_BARE = {"activations", "gradients", "score", "head", "tail", "layers", "rng"}
_ONE_PASS = _BARE - {"tail"}


def names(test):
    return [name for name, info in INFOS.items() if test(info)]


#: everything that runs on a convolutional network
ALL = names(lambda m: not m.needs_attention)
#: maps on a layer's grid, computed from tensors alone
ON_TENSORS = names(
    lambda m: m.place == "layer" and set(m.needs) <= _BARE and not m.target_transform
)
#: nothing but the one forward and backward; ablation has a closed form before a linear head
ONE_PASS = [*names(lambda m: set(m.needs) <= _ONE_PASS and not m.target_transform), "ablationcam"]
#: need another scalar, and so another backward
TRANSFORMED = names(lambda m: m.target_transform is not None)
ATTENTION = names(lambda m: m.needs_attention)
