"""Networks whose outputs are quantities: a regression has no classes to choose from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .base import ExplainableModel


class Regressor(ExplainableModel):
    """A network that returns (N,) or (N, R) quantities, each explained as it is."""

    family = "regressor"
    quantities = True

    def logits(self, outputs: Any) -> Tensor:
        """Returns the (N, R) quantities; an index as a target chooses one of them.

        Args:
            outputs: what the model returned
        """
        value = self.raw_scores(outputs)
        return value[:, None] if value.dim() == 1 else value

    def predicted(self, outputs: Any) -> Tensor:
        """Returns (N, 1) zeros: the one quantity that the model predicts.

        Args:
            outputs: what the model returned

        Raises:
            ValueError: if the model has several quantities
        """
        values = self.logits(outputs)
        if values.shape[1] > 1:
            raise ValueError(
                f"targets: the model returns {values.shape[1]} quantities, of which none is predicted "
                "more than another; give the index of the one to explain"
            )
        return torch.zeros(len(values), 1, dtype=torch.long)

    def probe_score(self, outputs: Any) -> Tensor:
        """Returns (N,) the sum of the quantities.

        Args:
            outputs: what the model returned
        """
        return self.logits(outputs).sum(1)
