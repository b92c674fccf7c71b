"""Every item, every step: the exact softmax, the only ground truth."""

from collections.abc import Sized

import torch

from negcache.messages import Draw, Request
from negcache.validation import count_items


class FullSoftmax:
    """All items that may stand for a query, each with weight 0. Costs N encodings a step.

    Args:
        items: a corpus, a cache, anything of length N.
    """

    has_density = False
    store = None

    def __init__(self, items: Sized) -> None:
        self.num_items = count_items(items)

    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        request.over(self.num_items)
        weight = torch.zeros(
            self.num_items, dtype=request.queries.dtype, device=request.queries.device
        )
        return Draw(
            torch.arange(self.num_items, device=weight.device), None, weight, masked=request.exclude
        )
