"""What running a network needs of a model."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn


class RunnableModel(Protocol):
    """A module and the way it is called on a batch; every ``ExplainableModel`` is one."""

    module: nn.Module

    def forward(self, images: Tensor) -> Any:
        """Runs the model on a batch (N, C, H, W)."""
